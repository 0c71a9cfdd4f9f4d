//! What edits leave of a mark, at every context width and seeding.
//!
//! The texts are the pool's ([`crate::pool`]), edited by `evidence/edits.py`; edits that need the tokenizer
//! (tokens, fragments, dilution) are made here. Each edited text is tokenised again and judged as a user's
//! would be. Arms are edited with the same draws. A *pair kept* is a distinct (context, token) pair of the
//! unedited text that the edited one still holds: all that an edit leaves to find.
//!
//! Control: each edited text is judged under keys that had no part in it, too.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use dandyroll_detector::{Correction, Detector, Evidence, Hypothesis, Mode, Policy, Text, clopper_pearson};
use dandyroll_generator::{Scored, score};
use dandyroll_scheme::{Nats, Profile, Recipe, TokenId, WordKey};
use serde::{Deserialize, Serialize};

use crate::common::{self, Rate, count, failed, float, judge, key, mark, parameter};
use crate::pool::{self, Arm, Completion, Pool, PoolArgs, Set, key_of, number};
use crate::{Failure, Progress, corpus};

const ALPHAS: [f64; 2] = [1e-3, 1e-5];
const CONTROL_ALPHAS: [f64; 2] = [1e-2, 1e-3];
const CONFIDENCE: f64 = 0.95;
/// Keys that had no part in a text, for each edited text.
const WRONG_KEYS: u32 = 4;
const TOKEN_SHARES: [f64; 4] = [0.05, 0.1, 0.2, 0.4];
const FRAGMENTS: [usize; 4] = [25, 50, 100, 200];
/// Share of a diluted text's tokens that the marked document makes up.
const DILUTED: [f64; 6] = [0.9, 0.7, 0.5, 0.3, 0.2, 0.1];

/// Measure what edits leave of a mark.
#[derive(Debug, Args)]
pub(crate) struct RobustArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// What `evidence/edits.py` made of the pool.
    #[arg(long, default_value = "target/evidence/edited")]
    edited: PathBuf,
    /// Human text around diluted modules, and prose.
    #[arg(long, default_value = "fixtures/corpora/python_heldout.jsonl")]
    human_code: PathBuf,
    #[arg(long, default_value = "fixtures/corpora/prose_heldout.jsonl")]
    human_prose: PathBuf,
    /// One set only: prose or modules.
    #[arg(long, value_name = "SET")]
    only: Option<String>,
    /// Context widths.
    #[arg(long, value_delimiter = ',', default_values_t = pool::WIDTHS)]
    widths: Vec<u8>,
    #[arg(long, default_value = "docs/evidence/robust.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Head {
    #[serde(flatten)]
    head: common::Head,
    top_p: f64,
    confidence: f64,
    wrong_keys: u32,
}

/// One arm: the quality of its texts, beside the same prompts continued without a mark.
#[derive(Serialize)]
struct ArmRow {
    set: &'static str,
    arm: String,
    width: Option<u8>,
    seeding: Option<&'static str>,
    delta: Option<f64>,
    tau: Option<f64>,
    temperature: f64,
    /// Documents that are judged, of those that were made.
    documents: usize,
    made: usize,
    /// Tokens of a document as it is judged, mean.
    tokens: f64,
    /// Share of generated tokens whose logits were biased.
    biased: f64,
    /// −ln p per generated token under the unmarked model, mean over documents.
    loss: f64,
    /// Its difference to the unmarked text of the same prompts, and the standard error of that mean.
    loss_difference: f64,
    loss_difference_se: f64,
    /// Distinct 4-grams among all 4-grams of a document's generated tokens, mean.
    distinct_4: f64,
    distinct_4_difference: f64,
    distinct_4_difference_se: f64,
    /// Share of generated lines in the longest beginning that parses, mean (modules).
    lines: Option<f64>,
}

/// One edit at one strength.
#[derive(Serialize)]
struct Row {
    set: &'static str,
    arm: String,
    edit: String,
    strength: Option<f64>,
    mode: &'static str,
    texts: u32,
    /// Pairs scored, mean.
    scored: f64,
    /// Share of the unedited text's distinct pairs that are left, mean.
    kept: f64,
    mean_log10_p: f64,
    rates: Vec<Rate>,
}

/// Edited texts under keys that had no part in them.
#[derive(Serialize)]
struct Control {
    set: &'static str,
    arm: String,
    alpha: f64,
    tests: u32,
    positives: u32,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct EditedHead {
    made_from: serde_json::Value,
    lines: Option<f64>,
}

#[derive(Deserialize)]
struct EditedText {
    document: u32,
    edit: String,
    strength: Option<f64>,
    text: String,
}

/// A row in the making.
struct Sum {
    edit: String,
    strength: Option<f64>,
    mode: &'static str,
    log10_p: Vec<f64>,
    scored: f64,
    kept: f64,
}

/// Draws that depend on nothing but what they are for: SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; the bias of the remainder is below 2⁻⁴⁰ for anything counted here.
    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn happens(&mut self, share: f64) -> bool {
        let high = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(high) < share * 4_294_967_296.0
    }
}

/// Mean and standard error of the mean.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = float(values.len());
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// The tokens after an edit by single tokens; new ones are drawn from a human text.
fn edit_tokens(ids: &[TokenId], edit: &str, share: f64, human: &[TokenId], draw: &mut Draw) -> Vec<TokenId> {
    let mut edited = Vec::with_capacity(ids.len() * 3 / 2);
    for id in ids {
        if !draw.happens(share) {
            edited.push(*id);
            continue;
        }
        let new = human.get(draw.below(human.len())).copied();
        match edit {
            "tokens substituted" => edited.extend(new),
            "tokens inserted" => edited.extend(new.into_iter().chain([*id])),
            _ => {}
        }
    }
    edited
}

struct Bench<'a> {
    pool: &'a mut Pool,
    human: Vec<TokenId>,
    set: Set,
    arm: String,
    profile: Profile,
    /// Judge by the gate, too.
    gated: bool,
    sums: Vec<Sum>,
    control: [u32; 2],
    controls: u32,
}

impl Bench<'_> {
    fn add(
        &mut self,
        edit: &str,
        strength: Option<f64>,
        mode: &'static str,
        evidence: (f64, u32),
        kept: f64,
    ) {
        let same = |sum: &Sum| sum.edit == edit && sum.strength == strength && sum.mode == mode;
        let place = self.sums.iter().position(same).unwrap_or_else(|| {
            self.sums.push(Sum {
                edit: edit.to_owned(),
                strength,
                mode,
                log10_p: Vec::new(),
                scored: 0.0,
                kept: 0.0,
            });
            self.sums.len() - 1
        });
        if let Some(sum) = self.sums.get_mut(place) {
            sum.log10_p.push(evidence.0);
            sum.scored += f64::from(evidence.1);
            sum.kept += kept;
        }
    }

    /// Judges one edited text.
    fn add_edited(
        &mut self,
        original: &[TokenId],
        document: u32,
        edited: &EditedText,
    ) -> Result<(), Failure> {
        let EditedText { edit, strength, text, .. } = edited;
        let ids = self.pool.model.encode(text)?;
        let own = mark(&key_of(self.pool.seed(), self.set, document), &self.profile)?;
        let (before, after) = (pairs(original, own.words()), pairs(&ids, own.words()));
        let kept = float(before.intersection(&after).count()) / float(before.len().max(1));
        let found = judge(&own, Mode::ModelFree, &ids, None)?;
        let flat = |found: &Evidence| (found.log10_p.get(), found.scored);
        self.add(edit, *strength, Mode::ModelFree.name(), flat(&found), kept);
        if let (true, Some(tau)) = (self.gated, self.profile.threshold()) {
            let all: Vec<TokenId> =
                self.pool.model.onnx.directory().bos().into_iter().chain(ids.clone()).collect();
            let scored = score(&mut self.pool.model.onnx, &all, all.len() - ids.len()).map_err(failed)?;
            let entropies: Vec<Option<Nats>> =
                scored.into_iter().map(|one| one.map(|Scored { entropy, .. }| entropy)).collect();
            let found = judge(&own, Mode::Gated(tau), &ids, Some(&entropies))?;
            self.add(edit, *strength, "entropy-gated", flat(&found), kept);
        }
        for _ in 0..WRONG_KEYS {
            let purpose = format!("wrong key {} {}", self.set.name(), self.arm);
            let wrong = mark(&key("pool", self.pool.seed(), &purpose, self.controls), &self.profile)?;
            let p = judge(&wrong, Mode::ModelFree, &ids, None)?.log10_p;
            for (positives, alpha) in self.control.iter_mut().zip(CONTROL_ALPHAS) {
                *positives += u32::from(p.get() <= alpha.log10());
            }
            self.controls += 1;
        }
        Ok(())
    }

    /// The edits that need the tokenizer, of one unedited document.
    fn add_by_tokens(&mut self, document: u32, ids: &[TokenId]) -> Result<(), Failure> {
        let draw = |edit: &str, strength: f64, seed: u64| {
            Draw(number(seed, &format!("{edit} {strength}"), document))
        };
        let seed = self.pool.seed();
        let mut edited = Vec::new();
        for edit in ["tokens substituted", "tokens deleted", "tokens inserted"] {
            for share in TOKEN_SHARES {
                let ids = edit_tokens(ids, edit, share, &self.human, &mut draw(edit, share, seed));
                edited.push((edit, share, ids));
            }
        }
        for length in FRAGMENTS {
            let length_f = float(length);
            let Some(room) = ids.len().checked_sub(length) else { continue };
            let at = draw("fragment", length_f, seed).below(room + 1);
            edited.push(("fragment of so many tokens", length_f, ids[at..at + length].to_vec()));
        }
        for (edit, strength, edited) in edited {
            let text = self.pool.model.vocabulary.decode(&edited).map_err(failed)?;
            let edit = EditedText { document, edit: edit.to_owned(), strength: Some(strength), text };
            self.add_edited(ids, document, &edit)?;
        }
        let own = mark(&key_of(seed, self.set, document), &self.profile)?;
        // α decides nothing here but which spans are listed.
        let policy = Policy::new(1e-5, 1e-3, 16, Correction::Bonferroni).map_err(failed)?;
        for share in DILUTED {
            let mut draw = draw("diluted", share, seed);
            let (mut human, mut all) =
                (self.human.iter().cycle().skip(draw.below(self.human.len())), 0_usize);
            while float(all + ids.len()) * share < float(ids.len()) {
                all += 1;
            }
            let before = draw.below(all + 1);
            let text: Vec<TokenId> = human
                .by_ref()
                .take(before)
                .copied()
                .chain(ids.iter().copied())
                .chain(
                    self.human.iter().cycle().skip(draw.below(self.human.len())).take(all - before).copied(),
                )
                .collect();
            let whole = judge(&own, Mode::ModelFree, &text, None)?;
            let hypothesis = Hypothesis { mark: &own, mode: Mode::ModelFree };
            let spans =
                Detector::new().detect_spans(&Text::new(&text), &[hypothesis], &policy).map_err(failed)?;
            let scored = whole.scored;
            let edit = "diluted to this share";
            self.add(edit, Some(share), "model-free", (whole.log10_p.get(), scored), 1.0);
            self.add(edit, Some(share), "with span search", (spans.adjusted().get(), scored), 1.0);
        }
        Ok(())
    }

    fn rows(self) -> Result<(Vec<Row>, Vec<Control>), Failure> {
        let set = self.set.name();
        let rows = self.sums.iter().map(|sum| {
            let texts = count(sum.log10_p.len());
            Ok(Row {
                set,
                arm: self.arm.clone(),
                edit: sum.edit.clone(),
                strength: sum.strength,
                mode: sum.mode,
                texts,
                scored: sum.scored / f64::from(texts),
                kept: sum.kept / f64::from(texts),
                mean_log10_p: sum.log10_p.iter().sum::<f64>() / f64::from(texts),
                rates: Rate::of(&ALPHAS, &sum.log10_p, CONFIDENCE)?,
            })
        });
        let control = CONTROL_ALPHAS.iter().zip(self.control).map(|(alpha, positives)| {
            let interval = clopper_pearson(positives, self.controls, 0.99).map_err(failed)?;
            Ok(Control {
                set,
                arm: self.arm.clone(),
                alpha: *alpha,
                tests: self.controls,
                positives,
                low: interval.low,
                high: interval.high,
            })
        });
        Ok((rows.collect::<Result<_, Failure>>()?, control.collect::<Result<_, Failure>>()?))
    }
}

/// The distinct pairs of effective context and token that have words of their own.
fn pairs<'a>(ids: &'a [TokenId], words: &WordKey) -> HashSet<(&'a [TokenId], TokenId)> {
    ids.windows(words.width().len() + 1)
        .filter_map(|window| {
            let (token, context) = window.split_last()?;
            Some((words.effective(context)?, *token))
        })
        .collect()
}

/// −ln p per token and distinct 4-grams of each document, in the order of documents.
fn quality(texts: &[Completion]) -> Vec<(u32, f64, f64)> {
    texts
        .chunk_by(|a, b| a.document == b.document)
        .map(|parts| {
            let tokens: usize = parts.iter().map(|part| part.ids.len()).sum();
            let loss = parts.iter().map(|part| part.loss).sum::<f64>() / float(tokens.max(1));
            let all: usize = parts.iter().map(|part| part.ids.windows(4).count()).sum();
            let distinct: HashSet<&[u32]> = parts.iter().flat_map(|part| part.ids.windows(4)).collect();
            (parts.first().map_or(0, |part| part.document), loss, float(distinct.len()) / float(all.max(1)))
        })
        .collect()
}

/// The edited texts of an arm: the share of lines that parse, and the texts. Refused if the pool has changed.
fn edited(arguments: &RobustArgs, arm: &Arm) -> Result<(Option<f64>, Vec<EditedText>), Failure> {
    let name = format!("{}-{}.jsonl", arm.set.name(), arm.name);
    let read = |folder: &PathBuf| {
        let path = folder.join(&name);
        std::fs::read_to_string(&path).map_err(|error| Failure(format!("{}: {error}", path.display())))
    };
    let (pool, text) = (read(&arguments.pool.pool)?, read(&arguments.edited)?);
    let mut lines = text.lines();
    let head: EditedHead = serde_json::from_str(lines.next().unwrap_or_default()).map_err(failed)?;
    let made: serde_json::Value =
        serde_json::from_str(pool.lines().next().unwrap_or_default()).map_err(failed)?;
    if head.made_from != made {
        return Err(Failure(format!("{name}: edited from other texts; run `python3 x.py evidence robust`")));
    }
    let texts = lines.map(|line| serde_json::from_str(line).map_err(failed)).collect::<Result<_, _>>()?;
    Ok((head.lines, texts))
}

/// Runs the experiment and writes its JSON: one line for each arm, row and control.
pub(crate) fn run(arguments: &RobustArgs) -> Result<(), Failure> {
    let mut pool = Pool::open(&arguments.pool)?;
    let (mut arms, mut rows, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    for (set, path) in [(Set::Prose, &arguments.human_prose), (Set::Modules, &arguments.human_code)] {
        if arguments.only.as_ref().is_some_and(|only| only != set.name()) {
            continue;
        }
        let human = corpus::read(path, &pool.model.vocabulary, usize::MAX)?.documents.concat();
        let mut unmarked: Vec<(u32, f64, f64)> = Vec::new();
        for arm in pool::width_arms(set, &arguments.widths)? {
            let texts = pool.get(&arm)?;
            let quality = quality(&texts);
            if arm.recipe.is_none() {
                unmarked.clone_from(&quality);
            }
            let differences = |of: fn(&(u32, f64, f64)) -> f64| -> Vec<f64> {
                let same = |one: &(u32, f64, f64)| unmarked.iter().find(|other| other.0 == one.0).copied();
                quality.iter().filter_map(|one| same(one).map(|other| of(one) - of(&other))).collect()
            };
            let (loss_difference, loss_difference_se) = mean(&differences(|one| one.1));
            let (distinct_4_difference, distinct_4_difference_se) = mean(&differences(|one| one.2));
            let (lines, edited) = edited(arguments, &arm)?;
            let generated: usize = texts.iter().map(|text| text.ids.len()).sum();
            let biased: u32 = texts.iter().map(|text| text.biased).sum();
            let originals: Vec<&EditedText> = edited.iter().filter(|text| text.edit == "none").collect();
            let originals: Vec<(u32, Vec<TokenId>)> = originals
                .iter()
                .map(|one| Ok((one.document, pool.model.encode(&one.text)?)))
                .collect::<Result<_, Failure>>()?;
            let tokens: usize = originals.iter().map(|(_, ids)| ids.len()).sum();
            let recipe = arm.recipe.as_ref();
            arms.push(ArmRow {
                set: set.name(),
                arm: arm.name.clone(),
                width: recipe.map(|recipe| recipe.width().byte()),
                seeding: recipe.map(|recipe| recipe.seeding().name()),
                delta: recipe.and_then(|recipe| parameter(recipe, "delta")),
                tau: recipe.and_then(Recipe::threshold).map(Nats::get),
                temperature: set.temperature(),
                documents: originals.len(),
                made: quality.len(),
                tokens: float(tokens) / float(originals.len()),
                biased: f64::from(biased) / float(generated),
                loss: mean(&quality.iter().map(|one| one.1).collect::<Vec<_>>()).0,
                loss_difference,
                loss_difference_se,
                distinct_4: mean(&quality.iter().map(|one| one.2).collect::<Vec<_>>()).0,
                distinct_4_difference,
                distinct_4_difference_se,
                lines,
            });
            let Some(recipe) = recipe else { continue };
            let profile = pool.bind(recipe)?;
            let gated = set == Set::Modules && arm.name == "left-1";
            let mut bench = Bench {
                pool: &mut pool,
                human: human.clone(),
                set,
                arm: arm.name.clone(),
                profile,
                gated,
                sums: Vec::new(),
                control: [0; 2],
                controls: 0,
            };
            let mut progress = Progress::new(&format!("robust {} {}", set.name(), arm.name), originals.len());
            for (document, ids) in &originals {
                for text in edited.iter().filter(|text| text.document == *document) {
                    bench.add_edited(ids, *document, text)?;
                }
                bench.add_by_tokens(*document, ids)?;
                progress.step();
            }
            let (more, control) = bench.rows()?;
            rows.extend(more);
            controls.extend(control);
        }
    }
    let head = Head {
        head: pool.model.head("robust", pool.seed()),
        top_p: pool::TOP_P,
        confidence: CONFIDENCE,
        wrong_keys: WRONG_KEYS,
    };
    write(&arguments.out, &head, &arms, &rows, &controls)
}

/// One record a line, so that a change of the file is a change of lines.
fn write(
    path: &PathBuf,
    head: &Head,
    arms: &[ArmRow],
    rows: &[Row],
    controls: &[Control],
) -> Result<(), Failure> {
    let list = |name: &str, records: Vec<String>| format!("\"{name}\": [\n{}\n]", records.join(",\n"));
    fn lines<T: Serialize>(records: &[T]) -> Result<Vec<String>, Failure> {
        records.iter().map(|record| serde_json::to_string(record).map_err(failed)).collect()
    }
    let parts = [
        format!("\"head\": {}", serde_json::to_string(head).map_err(failed)?),
        list("arms", lines(arms)?),
        list("rows", lines(rows)?),
        list("control", lines(controls)?),
    ];
    let at = |error: std::io::Error| Failure(format!("{}: {error}", path.display()));
    let mut file = std::fs::File::create(path).map_err(at)?;
    writeln!(file, "{{\n{}\n}}", parts.join(",\n")).map_err(at)
}
