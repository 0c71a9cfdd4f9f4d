//! One key, many texts: how far a single key's false-positive rate strays on texts that share phrases, and what
//! cures it.
//!
//! A corpus is split by package or file into three parts that share none: from the *build* parts of all corpora
//! together one background list is made for each size, on the *calibrate* part keys are refused, and the *test* part
//! is what is reported. The same 100 keys judge every text of a test part, so the rate of a key is a mean over texts
//! that share windows, and the keys' rates spread more than texts apart would make them. `alone` is the
//! worst of 100 keys to be expected if texts shared nothing (median; Poisson with the exact sizes of the tests):
//! what no cure can beat.
//!
//! Arms: *none*; *list n*: the n windows of the build parts that occur in the most documents are not scored;
//! *list n, own*: the same from the build part of the same corpus; *once*: a window is scored in the first text of the
//! batch that has it and nowhere else, which makes texts independent under every key; *4 texts*: windows that four
//! or more texts of the batch share are not scored; *refuse*: keys whose rate on the calibrate part has an interval above
//! α at any α are replaced by others (`dandyroll calibrate`), without and with the list.
//!
//! What a list costs is measured on the marked texts of the experiment `power`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dandyroll_detector::{
    BackgroundTally, Calibration, CalibrationText, Log10P, Policy, Windows, upper_tail,
};
use dandyroll_scheme::schemes::green_list::{self, Gamma};
use dandyroll_scheme::{Background, ContextWidth, Mark, Pairs, Profile, Recipe, TokenId, WordKey};
use dandyroll_vocab::Vocabulary;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::common::{Head, count, failed, gamma_of, key, parameter};
use crate::corpus::{self, Corpus};
use crate::null::{Tails, attained};
use crate::{Failure, Progress, power};

/// The keys' rates are reported at these.
const ALPHAS: [f64; 2] = [1e-2, 1e-3];
const SIZES: [usize; 5] = [1024, 4096, 16_384, 65_536, 262_144];
/// The size that `dandyroll background build` takes: the least at which no key of a hundred errs on more than twice the
/// nominal share of any large corpus of code. Refusal is tried with it.
const CHOSEN: usize = 16_384;
/// A window of fewer documents is nobody's phrase.
const LEAST: u32 = 3;
/// Keys that are drawn; the first so many that calibration does not refuse are reported.
const DRAWN: u32 = 300;

/// Measure how far single keys stray on texts that share phrases, and the cures.
#[derive(Debug, Args)]
pub(crate) struct BackgroundArgs {
    /// Corpora that are split into build, calibrate and test parts; folders of .jsonl files.
    #[arg(long, default_values_os_t = [PathBuf::from("target/evidence/human")])]
    corpora: Vec<PathBuf>,
    /// Corpora that are test parts as a whole.
    #[arg(long, default_values_os_t = corpus::held_out())]
    corpus: Vec<PathBuf>,
    #[arg(long, default_value = "fixtures/model/tokenizer.json")]
    tokenizer: PathBuf,
    /// Keys that judge every text.
    #[arg(long, default_value_t = 100)]
    keys: u32,
    /// Longer documents are cut to so many tokens.
    #[arg(long, default_value_t = 500)]
    tokens: usize,
    /// Context widths.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    widths: Vec<u8>,
    /// Marked texts of the experiment power; of each width the first file that has it is taken.
    #[arg(long, default_values_os_t = ["power-1", "power"].map(|name| PathBuf::from(format!("target/evidence/{name}.jsonl"))))]
    marked: Vec<PathBuf>,
    #[arg(long, default_value_t = 20_261_127)]
    seed: u64,
    #[arg(long, default_value = "docs/evidence/background.json")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    head: Head,
    keys: u32,
    tokens_at_most: usize,
    gamma: f64,
    least_documents: u32,
    calibration_confidence: f64,
    lists: Vec<List>,
    corpora: Vec<Measured>,
    marked: Vec<Marked>,
}

#[derive(Serialize)]
struct List {
    context_width: u8,
    from: String,
    most: usize,
    windows: usize,
    /// The least number of documents a window on it occurs in.
    documents: u32,
    bytes: usize,
    background_sha256: String,
}

#[derive(Serialize)]
struct Measured {
    corpus: String,
    corpus_sha256: String,
    context_width: u8,
    documents: usize,
    calibrate_documents: usize,
    /// The largest α at which no key has a rate above 2·10⁻² on the test part, without a cure.
    level_for_twice: f64,
    arms: Vec<Arm>,
}

#[derive(Serialize)]
struct Arm {
    arm: String,
    /// Share of the distinct pairs of each text that is scored.
    kept: f64,
    /// Keys that calibration refused before 100 were found; `None` where there was none.
    refused: Option<u32>,
    keys: usize,
    rates: Vec<Rate>,
}

#[derive(Serialize)]
struct Rate {
    alpha: f64,
    mean: f64,
    sd: f64,
    worst: f64,
    /// Standard deviation and worst key to be expected of texts that share nothing.
    alone_sd: f64,
    alone_worst: f64,
}

/// What a list costs in marked texts.
#[derive(Serialize)]
struct Marked {
    context_width: u8,
    delta: f64,
    texts: usize,
    tokens: usize,
    arm: String,
    kept: f64,
    mean_log10_p: f64,
    /// Texts with p ≤ 10⁻³ and p ≤ 10⁻⁵.
    detected: [u32; 2],
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Which part a group belongs to, in tenths.
fn tenth(group: &str) -> u8 {
    Sha256::digest(group).first().copied().unwrap_or(0) % 10
}

/// Documents as numbers of windows of one table.
struct Part {
    documents: Vec<Vec<u32>>,
    /// Tokens of each.
    tokens: Vec<usize>,
}

/// The distinct windows of a corpus.
struct Table {
    width: ContextWidth,
    windows: Vec<TokenId>,
    pairs: Pairs,
    numbers: HashMap<Box<[TokenId]>, u32>,
}

impl Table {
    fn new(width: ContextWidth) -> Self {
        let mut pairs = Pairs::new();
        pairs.clear(width.len(), 0);
        Self { width, windows: Vec::new(), pairs, numbers: HashMap::new() }
    }

    fn part(&mut self, documents: &[&Vec<TokenId>]) -> Result<Part, Failure> {
        let mut windows = Windows::new();
        let tokens = documents.iter().map(|ids| ids.len()).collect();
        let mut part = Part { documents: Vec::with_capacity(documents.len()), tokens };
        for ids in documents {
            windows.read(ids, self.width).map_err(failed)?;
            let mut numbers = Vec::with_capacity(windows.distinct());
            for window in windows.of_text(ids) {
                let next = count(self.numbers.len());
                let number = match self.numbers.get(window) {
                    Some(number) => *number,
                    None => {
                        self.numbers.insert(window.into(), next);
                        self.windows.extend_from_slice(window);
                        self.pairs.push(window);
                        next
                    }
                };
                numbers.push(number);
            }
            part.documents.push(numbers);
        }
        Ok(part)
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    /// 1 where a window is green.
    fn greens(&self, key: &WordKey, gamma: Gamma, words: &mut Vec<u32>) -> Vec<u8> {
        words.clear();
        words.resize(self.len(), 0);
        key.words(&self.pairs, words);
        words.iter().map(|word| u8::from(gamma.is_green(*word))).collect()
    }

    /// Which windows a list holds.
    fn listed(&self, list: &Background) -> Vec<bool> {
        self.windows.chunks_exact(self.width.len() + 1).map(|window| list.contains(window)).collect()
    }
}

impl Part {
    fn without(&self, listed: &[bool]) -> Self {
        let keep = |numbers: &Vec<u32>| numbers.iter().copied().filter(|n| !listed[place(*n)]).collect();
        Self { documents: self.documents.iter().map(keep).collect(), tokens: self.tokens.clone() }
    }

    /// In how many documents each window stands.
    fn frequencies(&self, windows: usize) -> Vec<u32> {
        let mut frequencies = vec![0; windows];
        for number in self.documents.iter().flatten() {
            frequencies[place(*number)] += 1;
        }
        frequencies
    }

    /// Every window in the first document that has it only.
    fn once(&self, windows: usize) -> Self {
        let mut seen = vec![false; windows];
        let mut fresh = |number: &u32| !std::mem::replace(&mut seen[place(*number)], true);
        let documents = self
            .documents
            .iter()
            .map(|numbers| numbers.iter().copied().filter(|n| fresh(n)).collect())
            .collect();
        Self { documents, tokens: self.tokens.clone() }
    }

    fn pairs(&self) -> usize {
        self.documents.iter().map(Vec::len).sum()
    }

    /// log₁₀ p of every document.
    fn p_values(&self, greens: &[u8], tails: &mut Tails) -> Vec<f64> {
        let of = |numbers: &Vec<u32>, tails: &mut Tails| {
            let green: u32 = numbers.iter().map(|number| u32::from(greens[place(*number)])).sum();
            tails.of(count(numbers.len())).get(place(green)).copied().unwrap_or(0.0)
        };
        self.documents.iter().map(|numbers| of(numbers, tails)).collect()
    }

    /// Σ and Σ q(1 − q) of the exact sizes q of the documents' tests.
    fn sizes(&self, alpha: f64, tails: &mut Tails) -> (f64, f64) {
        self.documents.iter().fold((0.0, 0.0), |(sum, variance), numbers| {
            let size = attained(tails.of(count(numbers.len())), alpha.log10());
            (sum + size, variance + size * (1.0 - size))
        })
    }
}

/// Documents with p ≤ α, for each α.
fn positives(p_values: &[f64]) -> [u32; ALPHAS.len()] {
    ALPHAS.map(|alpha| count(p_values.iter().filter(|p| **p <= alpha.log10()).count()))
}

/// The median of the largest of `keys` Poisson counts.
fn expected_worst(mean: f64, keys: f64) -> f64 {
    let (mut term, mut below, mut k) = ((-mean).exp(), 0.0, 0.0);
    loop {
        below += term;
        if below.powf(keys) >= 0.5 || k > 1e7 {
            return k;
        }
        k += 1.0;
        term *= mean / k;
    }
}

/// Whether calibration refuses a key with these p on a part.
fn refused(part: &Part, p_values: &[f64]) -> Result<bool, Failure> {
    let mut calibration = Calibration::new();
    for ((numbers, tokens), p) in part.documents.iter().zip(&part.tokens).zip(p_values) {
        let log10_p = Log10P::new(*p).map_err(failed)?;
        let text = CalibrationText { tokens: *tokens, scored: count(numbers.len()), log10_p };
        calibration.add(&text, Policy::STANDARD.min_scored());
    }
    calibration.is_nominal().map(|nominal| !nominal).map_err(failed)
}

fn summary(
    arm: String,
    part: &Part,
    all_pairs: usize,
    counts: &[[u32; ALPHAS.len()]],
    refused: Option<u32>,
    tails: &mut Tails,
) -> Arm {
    let documents = f64::from(count(part.documents.len()).max(1));
    let keys = f64::from(count(counts.len()).max(1));
    let rates = ALPHAS
        .into_iter()
        .enumerate()
        .map(|(i, alpha)| {
            let rates: Vec<f64> = counts.iter().map(|counts| f64::from(counts[i]) / documents).collect();
            let mean = rates.iter().sum::<f64>() / keys;
            let variance =
                rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / (keys - 1.0).max(1.0);
            let (sum, alone) = part.sizes(alpha, tails);
            Rate {
                alpha,
                mean,
                sd: variance.sqrt(),
                worst: rates.iter().copied().fold(0.0, f64::max),
                alone_sd: alone.sqrt() / documents,
                alone_worst: expected_worst(sum, keys) / documents,
            }
        })
        .collect();
    let kept = f64::from(count(part.pairs())) / f64::from(count(all_pairs).max(1));
    Arm { arm, kept, refused, keys: counts.len(), rates }
}

/// One corpus at one width.
struct Bench<'a> {
    arguments: &'a BackgroundArgs,
    gamma: Gamma,
    width: ContextWidth,
    /// `prose-v1` at this width.
    profile: Profile,
    delta: f64,
}

impl Bench<'_> {
    fn words(&self, number: u32) -> WordKey {
        key("background", self.arguments.seed, "", number).words(&self.profile.family())
    }

    /// The arms of one corpus. `lists` are the pooled ones by size, `own` the corpus's own.
    fn measure(
        &self,
        corpus: &Corpus,
        split: bool,
        lists: &[(usize, Arc<Background>)],
        own: Option<&Background>,
    ) -> Result<Measured, Failure> {
        let part = |from: u8, to: u8| -> Vec<&Vec<TokenId>> {
            let of = corpus.documents.iter().zip(&corpus.groups);
            of.filter(|(_, group)| !split || (from..to).contains(&tenth(group))).map(|(ids, _)| ids).collect()
        };
        let mut table = Table::new(self.width);
        let test = table.part(&part(6, 10))?;
        let calibrate =
            if split { table.part(&part(4, 6))? } else { Part { documents: Vec::new(), tokens: Vec::new() } };
        let frequencies = test.frequencies(table.len());
        let masks: Vec<(String, Vec<bool>)> = lists
            .iter()
            .map(|(size, list)| (format!("list {size}"), table.listed(list)))
            .chain(own.map(|list| (format!("list {}, own", list.len()), table.listed(list))))
            .collect();
        let shared: Vec<bool> = frequencies.iter().map(|documents| *documents >= 4).collect();
        let mut arms: Vec<(String, Part)> = vec![("none".into(), test.without(&vec![false; table.len()]))];
        arms.extend(masks.iter().map(|(name, mask)| (name.clone(), test.without(mask))));
        arms.push(("once".into(), test.once(table.len())));
        arms.push(("4 texts".into(), test.without(&shared)));
        let chosen = lists.iter().position(|(size, _)| *size == CHOSEN);
        let calibrated: Vec<(usize, Part)> = if split {
            let plain = (0, calibrate.without(&vec![false; table.len()]));
            let listed = chosen
                .and_then(|place| masks.get(place).map(|(_, mask)| (place + 1, calibrate.without(mask))));
            std::iter::once(plain).chain(listed).collect()
        } else {
            Vec::new()
        };

        let mut tails = Tails::new(self.gamma);
        let keys = place(self.arguments.keys);
        let mut counts: Vec<Vec<[u32; ALPHAS.len()]>> = vec![Vec::new(); arms.len()];
        let mut accepted: Vec<(Vec<[u32; ALPHAS.len()]>, u32)> = vec![(Vec::new(), 0); calibrated.len()];
        let mut level = 0.0_f64;
        let mut words = Vec::new();
        let name = format!("background {} h {}", corpus.name, self.width.byte());
        let mut progress = Progress::new(&name, keys);
        for number in 0..DRAWN {
            let reported = number < self.arguments.keys;
            if !reported && accepted.iter().all(|(accepted, _)| accepted.len() >= keys) {
                break;
            }
            let greens = table.greens(&self.words(number), self.gamma, &mut words);
            if reported {
                progress.step();
                for ((_, part), counts) in arms.iter().zip(&mut counts) {
                    counts.push(positives(&part.p_values(&greens, &mut tails)));
                }
                let mut p_values = test.p_values(&greens, &mut tails);
                p_values.sort_unstable_by(f64::total_cmp);
                // The rate stays at 2·10⁻² or below up to just under this p.
                let at = p_values.len() / 50;
                level = p_values.get(at).copied().unwrap_or(0.0).min(level);
            }
            for ((arm, part), (accepted, refusals)) in calibrated.iter().zip(&mut accepted) {
                if accepted.len() >= keys {
                    continue;
                }
                if refused(part, &part.p_values(&greens, &mut tails))? {
                    *refusals += 1;
                } else {
                    accepted.push(positives(&arms[*arm].1.p_values(&greens, &mut tails)));
                }
            }
        }
        let pairs = test.pairs();
        let mut measured: Vec<Arm> = arms
            .iter()
            .zip(&counts)
            .map(|((name, part), counts)| summary(name.clone(), part, pairs, counts, None, &mut tails))
            .collect();
        for ((arm, _), (accepted, refusals)) in calibrated.iter().zip(&accepted) {
            let (name, part) = &arms[*arm];
            let name = if *arm == 0 { "refuse".to_owned() } else { format!("{name}, refuse") };
            measured.push(summary(name, part, pairs, accepted, Some(*refusals), &mut tails));
        }
        for arm in &measured {
            println!(
                "{:<18} h {} {:<22} kept {:.3} at 1e-2: mean {:.2e} sd {:.2e} worst {:.2e} (alone {:.2e}), at 1e-3 worst {:.2e} (alone {:.2e}) {}",
                corpus.name,
                self.width.byte(),
                arm.arm,
                arm.kept,
                arm.rates[0].mean,
                arm.rates[0].sd,
                arm.rates[0].worst,
                arm.rates[0].alone_worst,
                arm.rates[1].worst,
                arm.rates[1].alone_worst,
                arm.refused.map_or_else(String::new, |refused| format!("{refused} refused")),
            );
        }
        Ok(Measured {
            corpus: corpus.name.clone(),
            corpus_sha256: corpus.digest.to_string(),
            context_width: self.width.byte(),
            documents: test.documents.len(),
            calibrate_documents: calibrate.documents.len(),
            level_for_twice: 10_f64.powf(level),
            arms: measured,
        })
    }

    /// What the lists cost in marked texts of 150 tokens.
    fn marked(&self, lists: &[(usize, Arc<Background>)]) -> Result<Vec<Marked>, Failure> {
        const TOKENS: usize = 150;
        for path in &self.arguments.marked {
            let Ok((header, texts)) = power::read_texts(path) else { continue };
            if header.profile != self.profile.id().as_str() {
                continue;
            }
            let arms = std::iter::once(("none".to_owned(), None))
                .chain(lists.iter().map(|(size, list)| (format!("list {size}"), Some(list))));
            let mut rows = Vec::new();
            let mut all = 0.0;
            for (arm, list) in arms {
                let (mut scored, mut log10_p, mut detected) = (0.0, 0.0, [0_u32; 2]);
                let profile = self.profile.clone().with_background(list.map(|list| list.digest()));
                let (mut windows, mut words) = (Windows::new(), Vec::new());
                for text in &texts {
                    let mut ids = text.tokens();
                    ids.truncate(TOKENS);
                    let key = power::key_of(header.seed, text.number);
                    let mark = Mark::new(&key, &profile, list.cloned()).map_err(failed)?;
                    windows.read_for(&ids, &mark).map_err(failed)?;
                    windows.words(mark.words(), &mut words).map_err(failed)?;
                    let green = words.iter().filter(|word| self.gamma.is_green(**word)).count();
                    let p = upper_tail(count(words.len()), count(green), self.gamma.effective());
                    let p = p.map_err(failed)?.get();
                    scored += f64::from(count(words.len()));
                    log10_p += p;
                    for (detected, log) in detected.iter_mut().zip([-3.0, -5.0]) {
                        *detected += u32::from(p <= log);
                    }
                }
                if list.is_none() {
                    all = scored;
                }
                rows.push(Marked {
                    context_width: self.width.byte(),
                    delta: self.delta,
                    texts: texts.len(),
                    tokens: TOKENS,
                    arm,
                    kept: scored / all,
                    mean_log10_p: log10_p / f64::from(count(texts.len()).max(1)),
                    detected,
                });
            }
            return Ok(rows);
        }
        Ok(Vec::new())
    }
}

/// Runs the experiment and writes its JSON.
pub(crate) fn run(arguments: &BackgroundArgs) -> Result<(), Failure> {
    let vocabulary = Vocabulary::open(&arguments.tokenizer).map_err(failed)?;
    let read = |paths: Vec<PathBuf>| {
        paths
            .iter()
            .map(|path| corpus::read(path, &vocabulary, arguments.tokens))
            .collect::<Result<Vec<_>, _>>()
    };
    let split = read(corpus::paths(&[], &arguments.corpora)?)?;
    let whole = read(arguments.corpus.clone())?;
    let prose = green_list::prose_v1();
    let gamma = gamma_of(&prose)?;
    let delta = parameter(&prose, "delta").ok_or_else(|| failed("prose-v1 has a delta"))?;
    let (mut lists, mut corpora, mut marked) = (Vec::new(), Vec::new(), Vec::new());
    for width in &arguments.widths {
        let width = ContextWidth::new(*width).map_err(failed)?;
        let recipe = Recipe::new(Arc::clone(prose.scheme()), width);
        let profile = recipe.bind(vocabulary.digest(), None).map_err(failed)?;
        let bench = Bench { arguments, gamma, width, profile, delta };
        let mut pooled = BackgroundTally::new(width);
        let mut own = Vec::new();
        for corpus in &split {
            let mut tally = BackgroundTally::new(width);
            for (ids, group) in corpus.documents.iter().zip(&corpus.groups) {
                if tenth(group) < 4 {
                    pooled.add(ids).map_err(failed)?;
                    tally.add(ids).map_err(failed)?;
                }
            }
            own.push(tally.list(vocabulary.digest(), LEAST, CHOSEN).map_err(failed)?);
        }
        let mut of_size = Vec::new();
        for most in SIZES {
            let list = pooled.list(vocabulary.digest(), LEAST, most).map_err(failed)?;
            lists.push(List {
                context_width: width.byte(),
                from: format!("{} documents of all build parts", pooled.documents()),
                most,
                windows: list.len(),
                documents: pooled.documents_at(most).max(LEAST),
                bytes: list.to_bytes().len(),
                background_sha256: list.digest().to_string(),
            });
            of_size.push((most, Arc::new(list)));
        }
        drop(pooled);
        for (corpus, own) in split.iter().zip(&own) {
            corpora.push(bench.measure(corpus, true, &of_size, Some(own))?);
        }
        for corpus in &whole {
            corpora.push(bench.measure(corpus, false, &of_size, None)?);
        }
        marked.append(&mut bench.marked(&of_size)?);
    }
    corpus::write(
        &arguments.out,
        &Report {
            head: Head::of("background", &vocabulary, arguments.seed),
            keys: arguments.keys,
            tokens_at_most: arguments.tokens,
            gamma: gamma.get(),
            least_documents: LEAST,
            calibration_confidence: Calibration::confidence(),
            lists,
            corpora,
            marked,
        },
    )
}
