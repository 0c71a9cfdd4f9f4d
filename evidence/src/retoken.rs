//! Tokens as they were generated against tokens of the text they spell: how many pairs differ, and what that
//! costs.
//!
//! A tokenizer reads a text in one way of the many that spell it. Where the model drew another (a token and a
//! next one that the tokenizer would have merged), the detector sees other tokens and other contexts than the
//! marker did. By a theorem on byte-pair encodings (Vieira et al. 2025) a sequence is the tokenizer's own
//! iff each pair of neighbours is, up to the splitting into words, so `unusual` counts neighbours that are not.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dandyroll_detector::{Mode, clopper_pearson};
use dandyroll_scheme::TokenId;
use dandyroll_scheme::schemes::green_list;
use dandyroll_vocab::Vocabulary;
use serde::Serialize;

use crate::common::{Head, count, failed, float, judge, mark};
use crate::pool::{self, Arm, Pool, PoolArgs, Set, key_of};
use crate::{Failure, corpus};

const ALPHA: f64 = 1e-5;
/// Both sides are judged on so many tokens, where a cut costs nothing: texts are short enough.
const FIRST: usize = 100;

/// Measure what tokenising a text again costs.
#[derive(Debug, Args)]
pub(crate) struct RetokenArgs {
    #[command(flatten)]
    pool: PoolArgs,
    #[arg(long, default_value = "docs/evidence/retoken.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    first_tokens: usize,
    rows: Vec<Row>,
    /// Time to see whether one token after another is what the tokenizer would have made, microseconds: the mean
    /// of a text, of the text that was least disturbed.
    check_us: f64,
}

#[derive(Serialize)]
struct Row {
    set: &'static str,
    arm: String,
    /// Whether likely tokens that the tokenizer would not have made were left without δ.
    only_usual: bool,
    width: u8,
    temperature: f64,
    texts: u32,
    tokens: usize,
    /// Texts whose tokens are not all as they were generated.
    changed_texts: u32,
    /// Neighbours among the generated tokens that the tokenizer would not have made, and their share.
    unusual: usize,
    unusual_share: f64,
    /// Share of those that are green in a marked text; γ' of them are without a mark.
    unusual_green: Option<f64>,
    /// Share of distinct generated pairs that the text's tokens do not hold.
    lost: f64,
    lost_low: f64,
    lost_high: f64,
    /// log₁₀ p from the generated tokens and from the text's, means over texts.
    generated_log10_p: Option<f64>,
    text_log10_p: Option<f64>,
    /// The same of the texts' first tokens alone, where power is not yet 1, and texts detected at 10⁻⁵.
    generated_first_log10_p: Option<f64>,
    text_first_log10_p: Option<f64>,
    generated_detected: Option<u32>,
    text_detected: Option<u32>,
}

/// Whether the tokenizer makes these two of the bytes they spell.
fn usual(vocabulary: &Vocabulary, pair: [TokenId; 2]) -> bool {
    let mut bytes = Vec::new();
    for id in pair {
        bytes.extend_from_slice(vocabulary.token_bytes(id).unwrap_or_default());
    }
    // Parts of a character cannot be asked about alone; they count as usual.
    let Ok(text) = String::from_utf8(bytes) else { return true };
    vocabulary.encode_ids(&text).is_ok_and(|ids| ids == pair)
}

fn row(pool: &mut Pool, arm: &Arm, check_us: &mut f64) -> Result<Row, Failure> {
    let texts = pool.get(arm)?;
    let recipe = arm.recipe.clone().unwrap_or_else(green_list::prose_v1);
    let profile = pool.bind(&recipe)?;
    let h = recipe.width().len();
    let (mut tokens, mut changed, mut unusual, mut green) = (0, 0, 0, 0);
    let (mut lost, mut pairs) = (0, 0);
    let mut sums = [0.0; 4];
    let mut detected = [0; 2];
    for text in &texts {
        let generated: Vec<TokenId> =
            text.tokens().into_iter().filter(|id| !pool.model.vocabulary.special(*id)).collect();
        let again = pool.model.encode(&text.text)?;
        tokens += generated.len();
        changed += u32::from(generated != again);
        let before: HashSet<&[TokenId]> = generated.windows(h + 1).collect();
        let after: HashSet<&[TokenId]> = again.windows(h + 1).collect();
        pairs += before.len();
        lost += before.difference(&after).count();
        let mark = mark(&key_of(pool.seed(), arm.set, text.document), &profile)?;
        let start = Instant::now();
        let strange: Vec<bool> = generated
            .windows(2)
            .map(|pair| matches!(pair, [a, b] if !usual(&pool.model.vocabulary, [*a, *b])))
            .collect();
        let each = 1e6 * start.elapsed().as_secs_f64() / float(strange.len().max(1));
        *check_us = check_us.min(each);
        for (i, _) in strange.iter().enumerate().filter(|(_, strange)| **strange) {
            unusual += 1;
            let at = i + 1;
            if let Some(from) = at.checked_sub(h) {
                let word = mark.words().word(&generated[from..at], generated[at]);
                green += usize::from(word.is_some_and(|word| mark.scheme().favours(word)));
            }
        }
        for (place, ids) in [&generated, &again].into_iter().enumerate() {
            let log10_p = |ids| judge(&mark, Mode::ModelFree, ids, None).map(|found| found.log10_p.get());
            let (whole, first) = (log10_p(ids)?, log10_p(&ids[..ids.len().min(FIRST)])?);
            sums[place] += whole;
            sums[2 + place] += first;
            detected[place] += u32::from(first <= ALPHA.log10());
        }
    }
    let n = float(texts.len());
    let interval = clopper_pearson(count(lost), count(pairs), 0.95).map_err(failed)?;
    let marked = arm.recipe.is_some();
    Ok(Row {
        set: arm.set.name(),
        arm: arm.name.clone(),
        only_usual: arm.only_usual,
        width: recipe.width().byte(),
        temperature: arm.set.temperature(),
        texts: count(texts.len()),
        tokens,
        changed_texts: changed,
        unusual,
        unusual_share: float(unusual) / float(tokens - texts.len()),
        unusual_green: (marked && unusual > 0).then(|| float(green) / float(unusual)),
        lost: float(lost) / float(pairs),
        lost_low: interval.low,
        lost_high: interval.high,
        generated_log10_p: marked.then_some(sums[0] / n),
        text_log10_p: marked.then_some(sums[1] / n),
        generated_first_log10_p: marked.then_some(sums[2] / n),
        text_first_log10_p: marked.then_some(sums[3] / n),
        generated_detected: marked.then_some(detected[0]),
        text_detected: marked.then_some(detected[1]),
    })
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &RetokenArgs) -> Result<(), Failure> {
    let mut pool = Pool::open(&arguments.pool)?;
    let mut check_us = f64::INFINITY;
    let mut arms = pool::mode_arms()?;
    arms.extend(pool::width_arms(Set::Prose, &[0, 1, 2])?);
    let marked: Vec<Arm> = arms.iter().filter(|arm| arm.recipe.is_some()).cloned().collect();
    arms.extend(marked.iter().map(pool::of_any_tokens));
    arms.sort_by(|a, b| (a.set.name(), &a.name).cmp(&(b.set.name(), &b.name)));
    let rows = arms.iter().map(|arm| row(&mut pool, arm, &mut check_us)).collect::<Result<Vec<_>, _>>()?;
    for row in &rows {
        println!(
            "{} {}: {} of {} texts changed, {} unusual of {}, {:.2}% pairs lost, log10 p {:?} -> {:?}",
            row.set,
            row.arm,
            row.changed_texts,
            row.texts,
            row.unusual,
            row.tokens,
            100.0 * row.lost,
            row.generated_log10_p,
            row.text_log10_p
        );
    }
    corpus::write(
        &arguments.out,
        &Report { head: pool.model.head("retoken", pool.seed()), first_tokens: FIRST, rows, check_us },
    )
}
