//! `profiles propose-threshold`: τ from how a model predicts human texts. No key takes part.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write;

use dandyroll_generator::{LogitSource, NoDistribution, Prediction};
use dandyroll_scheme::schemes::{Effect, Spread};
use dandyroll_scheme::softmax::{exp, maximum};
use dandyroll_scheme::{Member, Nats, OutOfRange, Recipe, Seeding, TokenId};
use serde_json::json;

use crate::args::{RuleArg, RuntimeArgs, ThresholdArgs};
use crate::corpus::each_text;
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::profile::Named;
use crate::terminal::Progress;

/// Thresholds are proposed in steps of 0.05 nats up to this many of them: expected power is flat around its
/// peak, and a short number is easier to compare.
const STEPS: u32 = 80;
const STEP: f64 = 0.05;
/// Tokens whose colours are taken in all combinations; the rest together count by their mean and variance.
const EXACT: usize = 8;
/// A likeliest token of at least this probability is forced.
const FORCED: f64 = 0.9;

/// What marking does to the position that these logits are of.
fn effect(recipe: &Recipe, logits: &[f32], prediction: &Prediction) -> Option<Effect> {
    let max = maximum(logits)?;
    let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
    for x in logits {
        let e = f64::from(exp(x - max));
        sum += e;
        squares += e * e;
    }
    let top: Vec<f64> = prediction.top(logits, EXACT).into_iter().map(|(_, logprob)| logprob.exp()).collect();
    let rest = (1.0 - top.iter().sum::<f64>()).max(0.0);
    let squares = (squares / (sum * sum) - top.iter().map(|p| p * p).sum::<f64>()).max(0.0);
    recipe.scheme().effect(&Spread { top: &top, rest, squares })
}

/// One token of a human text.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// Which (context, token) pair it is, by number within its document; `None` with too short a context.
    pair: Option<u32>,
    entropy: f64,
    effect: Effect,
    forced: bool,
}

/// The positions of each document.
#[derive(Debug)]
struct Reading {
    documents: Vec<Vec<Position>>,
}

/// What a threshold would do.
#[derive(Clone, Copy, Debug)]
struct Row {
    tau: f64,
    /// Share of positions above τ.
    kept: f64,
    /// Distinct pairs above τ that a detector scores, for 1000 positions.
    scored: f64,
    /// Mean lift of the scored pairs.
    lift: f64,
    /// The expected z of the score on 1000 positions.
    z: f64,
    /// Divergence from the unmarked text, nats for 100 positions.
    damage: f64,
    /// Biased positions that were forced, for 100 positions.
    forced: f64,
}

fn float(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

impl Row {
    /// Each distinct pair counts once, at its first occurrence above τ, as in detection.
    fn of<'a>(tau: f64, documents: impl Iterator<Item = &'a Vec<Position>>, variance: f64) -> Self {
        let (mut all, mut kept, mut scored, mut forced) = (0_usize, 0_usize, 0_usize, 0_usize);
        let (mut lift, mut damage) = (0.0, 0.0);
        let mut seen = HashSet::new();
        for document in documents {
            seen.clear();
            all += document.len();
            for Position { pair, effect, forced: is_forced, .. } in
                document.iter().filter(|position| position.entropy > tau)
            {
                let Some(pair) = pair else { continue };
                kept += 1;
                damage += effect.damage;
                forced += usize::from(*is_forced);
                if seen.insert(*pair) {
                    scored += 1;
                    lift += effect.lift;
                }
            }
        }
        let n = float(all).max(1.0);
        let scored_f = float(scored);
        let spread = (scored_f * variance).sqrt();
        Self {
            tau,
            kept: float(kept) / n,
            scored: 1000.0 * scored_f / n,
            lift: if scored > 0 { lift / scored_f } else { 0.0 },
            // z grows with the root of the length.
            z: if scored > 0 { lift / spread * (1000.0 / n).sqrt() } else { 0.0 },
            damage: 100.0 * damage / n,
            forced: 100.0 * float(forced) / n,
        }
    }
}

impl Reading {
    /// One row for each threshold, of all documents or of every second from `half` on.
    fn rows(&self, variance: f64, half: Option<usize>) -> Vec<Row> {
        let (skip, step) = half.map_or((0, 1), |half| (half, 2));
        (0..=STEPS)
            .map(|step_of| (f64::from(step_of) * STEP * 100.0).round() / 100.0)
            .map(|tau| Row::of(tau, self.documents.iter().skip(skip).step_by(step), variance))
            .collect()
    }
}

/// The proposed row: its place among `rows`.
fn propose(rows: &[Row], rule: RuleArg, keep: Option<f64>) -> Option<usize> {
    if let Some(keep) = keep {
        return rows.iter().position(|row| row.kept <= keep);
    }
    match rule {
        RuleArg::Power => (0..rows.len()).max_by(|a, b| rows[*a].z.total_cmp(&rows[*b].z).then(b.cmp(a))),
        RuleArg::Free => rows.iter().rposition(|row| row.z >= rows[0].z),
    }
}

/// Reads the corpora with the model until `args.tokens` tokens were read.
fn read(
    args: &ThresholdArgs,
    recipe: &Recipe,
    vocabulary: &dandyroll_vocab::Vocabulary,
    model: &mut dandyroll_generator::onnx::OnnxModel,
) -> Result<Reading, Failure> {
    let bos = model.directory().bos();
    let context = model.limits().context.max(2);
    let width = recipe.width().len();
    let (mut texts, mut left) = (Vec::new(), args.tokens);
    each_text(&args.corpus, vocabulary, |ids| -> Result<(), Failure> {
        let ids = &ids[..ids.len().min(left)];
        left -= ids.len();
        if !ids.is_empty() {
            texts.push(ids.to_vec());
        }
        Ok(())
    })?;
    let mut documents = Vec::with_capacity(texts.len());
    let mut progress = Progress::new("reading with the model", texts.iter().map(Vec::len).sum());
    for ids in &texts {
        let mut numbers: HashMap<&[TokenId], u32> = HashMap::new();
        let mut document = Vec::with_capacity(ids.len());
        // A document longer than the context is read in pieces; where nothing stands before a piece,
        // its first token is not predicted.
        let piece = context - usize::from(bos.is_some());
        for (number, chunk) in ids.chunks(piece).enumerate() {
            let fed: Vec<TokenId> = bos.into_iter().chain(chunk.iter().copied()).collect();
            let lead = usize::from(bos.is_some());
            let mut undefined = false;
            let mut sequence = model.begin().map_err(dandyroll_generator::ScoreError::from)?;
            let last = fed.len().saturating_sub(1);
            model
                .each_position(&mut sequence, &fed[..last], &mut |i, logits| {
                    // These logits predict fed[i + 1].
                    let at = number * piece + i + 1 - lead;
                    let Ok(prediction) = Prediction::of(logits) else {
                        undefined = true;
                        return;
                    };
                    let Some(effect) = effect(recipe, logits, &prediction) else {
                        undefined = true;
                        return;
                    };
                    let window = at.checked_sub(width).and_then(|from| ids.get(from..=at));
                    let pair = window.map(|window| {
                        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                        *numbers.entry(window).or_insert(next)
                    });
                    let likeliest = prediction.top(logits, 1).first().map_or(0.0, |(_, ln)| ln.exp());
                    document.push(Position {
                        pair,
                        entropy: prediction.entropy().get(),
                        effect,
                        forced: likeliest >= FORCED,
                    });
                    progress.step();
                })
                .map_err(dandyroll_generator::ScoreError::from)?;
            if undefined {
                return Err(dandyroll_generator::ScoreError::from(NoDistribution).into());
            }
        }
        documents.push(document);
    }
    Ok(Reading { documents })
}

/// The table, with the proposed row marked.
fn write_table(out: &mut dyn Write, rows: &[Row], chosen: usize) -> std::io::Result<()> {
    writeln!(
        out,
        "{:>6} {:>7} {:>12} {:>6} {:>11} {:>14} {:>14}",
        "tau", "kept", "pairs/1000", "lift", "z on 1000", "damage/100", "forced/100"
    )?;
    for (place, row) in rows.iter().enumerate() {
        // Every fifth of a nat, and the one proposed.
        if place % 4 != 0 && place != chosen {
            continue;
        }
        let Row { tau, kept, scored, lift, z, damage, forced } = row;
        writeln!(
            out,
            "{tau:>6.2} {:>6.1}% {scored:>12.0} {lift:>6.3} {z:>11.2} {damage:>14.2} {forced:>14.2}{}",
            100.0 * kept,
            if place == chosen { "  <- proposed" } else { "" }
        )?;
    }
    Ok(())
}

/// The picture: entropies as bars; expected z and damage by τ, each as a share of its value without a gate.
fn svg(reading: &Reading, rows: &[Row], chosen: usize) -> String {
    const LEFT: f64 = 60.0;
    const TOP: f64 = 40.0;
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 300.0;
    /// The largest share of the upper curves that is shown.
    const MOST: f64 = 1.25;
    let most_nats = f64::from(STEPS) * STEP;
    let x = |nats: f64| LEFT + WIDTH * nats / most_nats;
    let y = |share: f64| TOP + HEIGHT * (1.0 - share.clamp(0.0, MOST) / MOST);
    let bins = usize::try_from(STEPS / 2).unwrap_or(1);
    let mut counts = vec![0_usize; bins];
    let (mut all, mut inside) = (0_usize, 0_usize);
    for position in reading.documents.iter().flatten() {
        all += 1;
        let bin = (1..=bins).find(|bin| position.entropy < 2.0 * STEP * float(*bin));
        if let Some(count) = bin.and_then(|bin| counts.get_mut(bin - 1)) {
            *count += 1;
            inside += 1;
        }
    }
    let highest = float(counts.iter().copied().max().unwrap_or(1).max(1));
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 420\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"680\" height=\"420\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Entropies of human text, and what a threshold would keep</text>"
    );
    for (bin, count) in counts.iter().enumerate() {
        let (from, to) = (x(2.0 * STEP * float(bin)), x(2.0 * STEP * float(bin + 1)));
        let top = y(0.9 * float(*count) / highest);
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#d0d7de\"/>",
            to - from - 0.5,
            TOP + HEIGHT - top
        );
    }
    for share in [0.0, 0.25, 0.5, 0.75, 1.0, 1.25] {
        let at = y(share);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#999\" stroke-width=\"0.4\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{share}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for nats in 0..=4_u8 {
        let nats = f64::from(nats);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{nats}</text>",
            x(nats),
            TOP + HEIGHT + 18.0
        );
    }
    let first = rows.first().copied();
    let colours = ["#0969da", "#cf222e", "#1a7f37"];
    let values: [fn(&Row) -> f64; 3] = [|row| row.z, |row| row.damage, |row| row.kept];
    for (colour, of) in colours.into_iter().zip(values) {
        let whole = first.as_ref().map_or(1.0, of).max(1e-9);
        let points: Vec<String> =
            rows.iter().map(|row| format!("{:.1},{:.1}", x(row.tau), y(of(row) / whole))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/>",
            points.join(" ")
        );
    }
    if let Some(row) = rows.get(chosen) {
        let at = x(row.tau);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\" stroke=\"black\" stroke-dasharray=\"4 3\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">proposed: {}</text>",
            TOP + HEIGHT,
            at + 5.0,
            TOP + 12.0,
            row.tau
        );
    }
    for (place, (colour, what)) in [
        ("#0969da", "expected z, share of its value without a gate"),
        ("#cf222e", "damage (divergence from unmarked text), likewise"),
        ("#1a7f37", "positions kept, likewise"),
        ("#d0d7de", "entropies (bars, to no scale)"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 200.0 + 16.0 * float(place);
        let _ = writeln!(
            svg,
            "<rect x=\"330\" y=\"{:.1}\" width=\"12\" height=\"8\" fill=\"{colour}\"/>\
             <text x=\"348\" y=\"{at:.1}\">{what}</text>",
            at - 8.0
        );
    }
    let beyond = 100.0 * float(all - inside) / float(all.max(1));
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">threshold, entropy (nats); {beyond:.0} % of positions lie beyond the right edge</text>\n</svg>",
        TOP + HEIGHT + 40.0
    );
    svg
}

/// A profile's member as JSON.
fn value_of(member: &Member) -> serde_json::Value {
    match member {
        Member::Null => serde_json::Value::Null,
        Member::Number(number) => json!(number),
        Member::Text(text) => json!(text),
    }
}

/// Proposes τ, prints the table, writes picture and profile.
pub(crate) fn run(
    args: &ThresholdArgs,
    runtime: &RuntimeArgs,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let named = Named::find(&args.profile)?;
    if let Some(keep) = args.keep.filter(|keep| !(*keep > 0.0 && *keep < 1.0)) {
        let (name, allowed) = ("keep", "above 0, below 1");
        return Err(OutOfRange { name, value: keep, allowed }.into());
    }
    let directory = model::Directory::open(&args.model)?;
    let (vocabulary, digest) = (directory.vocabulary.clone(), directory.files.model_sha256()?);
    let recipe = named.recipe().gated(None).ok_or_else(|| {
        Failure::Usage(format!("--profile {}: its algorithm has no entropy threshold", args.profile))
    })?;
    if recipe.seeding() != Seeding::Left {
        let what = "pairs are counted by whole windows, as seeding left does; this profile's is another";
        return Err(Failure::Usage(format!("--profile {}: {what}", args.profile)));
    }
    let mut model = directory.load(runtime, args.threads)?;
    let reading = read(args, &recipe, &vocabulary, &mut model)?;
    let positions: usize = reading.documents.iter().map(Vec::len).sum();
    let variance = recipe.scheme().null().variance();
    let rows = reading.rows(variance, None);
    if positions == 0 {
        return Err(Failure::Usage("the corpora hold no text to propose from".into()));
    }
    let chosen = propose(&rows, args.rule, args.keep).ok_or_else(|| {
        let most = f64::from(STEPS) * STEP;
        Failure::Usage(format!("--keep: no threshold up to {most} nats keeps so few positions"))
    })?;
    // How much the proposal hangs on the texts at hand: the same rule on either half of them.
    let halves: Vec<f64> = [0, 1]
        .into_iter()
        .filter_map(|half| {
            let rows = reading.rows(variance, Some(half));
            propose(&rows, args.rule, args.keep).map(|place| rows[place].tau)
        })
        .collect();
    let tau = rows[chosen].tau;
    // A threshold of 0 lets everything through that is not certain.
    let threshold = Some(tau).filter(|tau| *tau > 0.0).map(Nats::threshold).transpose()?;
    let gated = recipe.gated(threshold).unwrap_or_else(|| recipe.clone());
    let profile = gated.bind(vocabulary.digest(), Some(digest));
    let parameters: Vec<(&str, Member)> = recipe.parameters().collect();
    let background = match &named {
        Named::BuiltIn(..) => None,
        Named::Bound(profile) => profile.background(),
    };
    let profile = profile.map_err(|error| Failure::Usage(error.to_string()))?.with_background(background);
    let rule = match (args.keep, args.rule) {
        (Some(keep), _) => format!("at most {:.0} % of positions kept", 100.0 * keep),
        (None, RuleArg::Power) => "greatest expected z of the score".to_owned(),
        (None, RuleArg::Free) => "the largest whose expected z is no less than without a gate".to_owned(),
    };
    if args.json {
        let row = |row: &Row| {
            json!({"tau": row.tau, "kept": row.kept, "scored_per_1000": row.scored, "lift": row.lift,
                   "z_on_1000": row.z, "damage_nats_per_100": row.damage, "forced_per_100": row.forced})
        };
        let value = json!({
            "tau": tau, "rule": rule, "halves": halves, "documents": reading.documents.len(),
            "positions": positions,
            "parameters": parameters.iter().map(|(name, member)| (*name, value_of(member))).collect::<BTreeMap<_, _>>(),
            "model_sha256": digest.to_string(),
            "profile_id": profile.id().to_string(), "profile": profile.canonical_json(),
            "rows": rows.iter().map(row).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", serde_json::to_string(&value).map_err(std::io::Error::from)?)?;
    } else {
        writeln!(
            out,
            "{positions} positions of {} documents; {}, temperature 1",
            reading.documents.len(),
            parameters.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        )?;
        write_table(out, &rows, chosen)?;
        writeln!(out, "rule       {rule}")?;
        let halves: Vec<String> = halves.iter().map(|tau| format!("{tau:.2}")).collect();
        writeln!(out, "proposed   tau {tau} nats; on either half of the documents {}", halves.join(", "))?;
        writeln!(out, "profile    {}", profile.id())?;
    }
    for (path, text) in
        [(&args.svg, svg(&reading, &rows, chosen)), (&args.out, format!("{}\n", profile.canonical_json()))]
    {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(|source| Failure::File { path: path.clone(), source })?;
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(pair: u32, entropy: f64, lift: f64) -> Position {
        Position {
            pair: Some(pair),
            entropy,
            effect: Effect { lift, damage: lift / 2.0 },
            forced: entropy < 0.2,
        }
    }

    #[test]
    fn each_pair_counts_once_and_only_above_the_threshold() {
        let document = vec![
            position(0, 0.1, 0.0),
            position(1, 2.0, 0.4),
            // The same pair where the model was surer: it is scored at the other place.
            position(2, 0.1, 0.0),
            position(2, 1.0, 0.2),
            position(1, 2.0, 0.4),
        ];
        let row = |tau| Row::of(tau, std::iter::once(&document), 3.0 / 16.0);
        let (all, above) = (row(0.0), row(0.5));
        assert!((all.kept - 1.0).abs() < 1e-12 && (above.kept - 0.6).abs() < 1e-12);
        assert!((all.scored - 600.0).abs() < 1e-9 && (above.scored - 400.0).abs() < 1e-9);
        assert!((above.lift - 0.3).abs() < 1e-12, "{}", above.lift);
        // 0.6 / √(2 · 3/16) on five positions, √200 times as much on a thousand.
        assert!((above.z - 0.6 / 0.375_f64.sqrt() * 200_f64.sqrt()).abs() < 1e-9, "{}", above.z);
        assert!((all.forced - 40.0).abs() < 1e-9 && above.forced.abs() < 1e-12);
        assert!(above.damage <= all.damage);
    }

    #[test]
    fn the_rules_choose_what_they_say() {
        let row = |tau, kept, z| Row { tau, kept, z, scored: 0.0, lift: 0.0, damage: 0.0, forced: 0.0 };
        let rows = [row(0.0, 1.0, 5.0), row(0.5, 0.8, 6.0), row(1.0, 0.6, 6.0), row(1.5, 0.4, 4.0)];
        assert_eq!(propose(&rows, RuleArg::Power, None), Some(1));
        assert_eq!(propose(&rows, RuleArg::Free, None), Some(2));
        assert_eq!(propose(&rows, RuleArg::Power, Some(0.7)), Some(2));
        assert_eq!(propose(&rows, RuleArg::Power, Some(0.1)), None);
    }

    /// What the rule of the greatest z means: at its peak a position adds nothing if its lift is half the mean
    /// lift of those above.
    #[test]
    fn at_the_peak_the_lift_is_half_the_mean_above() {
        let document: Vec<Position> = (0..4000_u32)
            .map(|i| {
                let entropy = f64::from(i) / 1000.0;
                position(i, entropy, 0.5 * (entropy / 4.0).powi(2))
            })
            .collect();
        let reading = Reading { documents: vec![document] };
        let rows = reading.rows(3.0 / 16.0, None);
        let peak = rows[propose(&rows, RuleArg::Power, None).unwrap()];
        let at = 0.5 * (peak.tau / 4.0).powi(2);
        assert!((at / peak.lift - 0.5).abs() < 0.05, "{} {}", at, peak.lift);
    }
}
