//! The texts that `robust`, `modes` and `retoken` judge: generated once, kept under `target/`.
//!
//! Three sets. *Modules*: documents of four function bodies, each continuing the first lines of a function
//! that a human wrote; *prose*: one continuation of the beginning of a human text; *single*: one
//! continuation of the first lines of a function. A key of its own for each document of a set. Every arm (a
//! recipe) continues the same prompts with the same keys and the same uniforms, so that arms differ by the
//! mark alone and are to be compared text by text. The token that ends a text does end it here.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dandyroll_generator::onnx::OnnxSequence;
use dandyroll_generator::{Decoder, Lexicon, LogitSource, Request, Row, Sampling};
use dandyroll_scheme::schemes::green_list;
use dandyroll_scheme::{MasterKey, Nats, Profile, Recipe, Seeding, Sha256Digest, Step, TokenId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::common::{Model, failed, hash, key, mark, parameter};
use crate::{Failure, Progress, corpus};

/// Tokens of a human text that prose goes on from.
const PROSE_PROMPT: usize = 48;
/// Functions in a module.
const PARTS: usize = 4;
/// Texts that are generated side by side; each comes out as it would alone.
const TOGETHER: usize = 16;
/// The context widths that are compared.
pub(crate) const WIDTHS: [u8; 5] = [0, 1, 2, 3, 4];

/// Generate the texts that the experiments robust, modes and retoken judge.
#[derive(Debug, Args)]
pub(crate) struct PoolCommand {
    #[command(flatten)]
    pool: PoolArgs,
    /// One set only: single, prose or modules.
    #[arg(long, value_name = "SET")]
    only: Option<String>,
    /// Context widths.
    #[arg(long, value_delimiter = ',', default_values_t = WIDTHS)]
    widths: Vec<u8>,
}

#[derive(Debug, Args)]
pub(crate) struct PoolArgs {
    #[arg(long, default_value = "fixtures/model")]
    pub(crate) model: PathBuf,
    /// The first lines of functions.
    #[arg(long, default_value = "fixtures/corpora/prompts.jsonl")]
    pub(crate) prompts: PathBuf,
    /// Human texts whose beginnings prose goes on from.
    #[arg(long, default_value = "fixtures/corpora/prose_heldout.jsonl")]
    pub(crate) prose: PathBuf,
    #[arg(long, default_value_t = 20_261_125)]
    pub(crate) seed: u64,
    /// Where the texts are kept; those that fit what is asked for are not made again.
    #[arg(long, default_value = "target/evidence/pool")]
    pub(crate) pool: PathBuf,
}

/// A set of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Modules,
    Prose,
    Single,
}

impl Set {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Prose => "prose",
            Self::Single => "single",
        }
    }

    fn tokens(self) -> usize {
        match self {
            Self::Modules => 80,
            Self::Prose => 205,
            Self::Single => 210,
        }
    }

    pub(crate) fn temperature(self) -> f64 {
        match self {
            Self::Modules | Self::Single => 0.8,
            Self::Prose => 1.0,
        }
    }
}

pub(crate) const TOP_P: f64 = 0.95;

/// A set of documents under one recipe.
#[derive(Clone, Debug)]
pub(crate) struct Arm {
    pub(crate) set: Set,
    pub(crate) name: String,
    /// `None`: not marked.
    pub(crate) recipe: Option<Recipe>,
    /// Leave tokens without δ that the tokenizer would not have made ([`Request::only_usual`]).
    pub(crate) only_usual: bool,
}

/// One continuation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Completion {
    /// Which document of the set it belongs to, and which part of it.
    pub(crate) document: u32,
    pub(crate) part: u32,
    pub(crate) prompt: String,
    pub(crate) text: String,
    /// The tokens as they were generated.
    pub(crate) ids: Vec<u32>,
    /// −Σ ln p of the tokens under the unmarked model at temperature 1.
    pub(crate) loss: f64,
    /// Tokens whose logits were biased.
    pub(crate) biased: u32,
}

impl Completion {
    pub(crate) fn tokens(&self) -> Vec<TokenId> {
        self.ids.iter().copied().map(TokenId).collect()
    }
}

/// What the texts of an arm depend on. Kept as the first line of its file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Header {
    set: String,
    arm: String,
    profile: Option<String>,
    only_usual: bool,
    seed: u64,
    tokens: usize,
    temperature: f64,
    top_p: f64,
    model_sha256: String,
    tokenizer_sha256: String,
    prompts_sha256: String,
}

struct Prompt {
    document: u32,
    part: u32,
    ids: Vec<TokenId>,
    text: String,
}

/// Makes arms, or reads those that were made.
pub(crate) struct Pool {
    pub(crate) model: Model,
    lexicon: Lexicon,
    seed: u64,
    folder: PathBuf,
    prompts: PathBuf,
    prose: PathBuf,
}

/// A number from [`hash`].
pub(crate) fn number(seed: u64, purpose: &str, of: u32) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash("pool", seed, purpose, of);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// The key of a document of a set.
pub(crate) fn key_of(seed: u64, set: Set, document: u32) -> MasterKey {
    key("pool", seed, &format!("key {}", set.name()), document)
}

impl Pool {
    pub(crate) fn open(arguments: &PoolArgs) -> Result<Self, Failure> {
        let model = Model::open(&arguments.model, NonZeroUsize::MIN)?;
        let directory = model.onnx.directory();
        let lexicon = Lexicon::new(Arc::clone(&model.vocabulary), directory.bos(), directory.eos());
        Ok(Self {
            model,
            lexicon,
            seed: arguments.seed,
            folder: arguments.pool.clone(),
            prompts: arguments.prompts.clone(),
            prose: arguments.prose.clone(),
        })
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The recipe bound to the fixture model.
    pub(crate) fn bind(&self, recipe: &Recipe) -> Result<Profile, Failure> {
        recipe.clone().bind(self.model.vocabulary.digest(), Some(self.model.sha256)).map_err(failed)
    }

    fn file(&self, arm: &Arm) -> PathBuf {
        self.folder.join(format!("{}-{}.jsonl", arm.set.name(), arm.name))
    }

    fn prompt_file(&self, set: Set) -> &Path {
        match set {
            Set::Modules | Set::Single => &self.prompts,
            Set::Prose => &self.prose,
        }
    }

    /// The prompts of a set: for modules the order in which functions meet is drawn
    /// among those that stand equally deep.
    fn set(&self, set: Set) -> Result<Vec<Prompt>, Failure> {
        let texts = corpus::prompts(self.prompt_file(set))?;
        let mut all = Vec::new();
        let encode = |text: &str| self.model.vocabulary.encode_prompt(text).map_err(failed);
        match set {
            Set::Single => {
                for (document, text) in (0..).zip(texts) {
                    all.push(Prompt { document, part: 0, ids: encode(&text)?, text });
                }
            }
            Set::Prose => {
                // Every fifth, so that neighbours of one topic do not crowd.
                for (document, text) in (0..).zip(texts.into_iter().step_by(5)) {
                    let mut ids = encode(&text)?;
                    ids.truncate(PROSE_PROMPT);
                    let text = self.model.vocabulary.decode(&ids).map_err(failed)?;
                    all.push(Prompt { document, part: 0, ids, text });
                }
            }
            Set::Modules => {
                let mut order: Vec<(usize, u64, &String)> = (0..)
                    .zip(&texts)
                    .map(|(i, text)| {
                        let depth = text.len() - text.trim_start_matches(' ').len();
                        (depth, number(self.seed, "order", i), text)
                    })
                    .collect();
                order.sort_unstable();
                let modules = order.chunk_by(|a, b| a.0 == b.0).flat_map(|alike| alike.chunks_exact(PARTS));
                for (document, module) in (0..).zip(modules) {
                    for (part, (_, _, text)) in (0..).zip(module) {
                        all.push(Prompt { document, part, ids: encode(text)?, text: (*text).clone() });
                    }
                }
            }
        }
        Ok(all)
    }

    /// The texts of an arm.
    pub(crate) fn get(&mut self, arm: &Arm) -> Result<Vec<Completion>, Failure> {
        let path = self.file(arm);
        let profile = arm.recipe.as_ref().map(|recipe| self.bind(recipe)).transpose()?;
        let prompts = std::fs::read(self.prompt_file(arm.set)).map_err(failed)?;
        let header = Header {
            set: arm.set.name().to_owned(),
            arm: arm.name.clone(),
            profile: profile.as_ref().map(Profile::canonical_json),
            only_usual: arm.only_usual,
            seed: self.seed,
            tokens: arm.set.tokens(),
            temperature: arm.set.temperature(),
            top_p: TOP_P,
            model_sha256: self.model.sha256.to_string(),
            tokenizer_sha256: self.model.vocabulary.digest().to_string(),
            prompts_sha256: Sha256Digest(Sha256::digest(&prompts).into()).to_string(),
        };
        if let Some(kept) = read(&path, &header) {
            return Ok(kept);
        }
        let all = self.make(arm, profile.as_ref())?;
        let mut text = serde_json::to_string(&header).map_err(failed)?;
        for completion in &all {
            text.push('\n');
            text.push_str(&serde_json::to_string(completion).map_err(failed)?);
        }
        text.push('\n');
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        // Renamed into place whole, so that an interrupted run leaves nothing that looks finished.
        let partial = path.with_extension("partial");
        std::fs::write(&partial, text).map_err(failed)?;
        std::fs::rename(&partial, &path).map_err(failed)?;
        Ok(all)
    }

    fn make(&mut self, arm: &Arm, profile: Option<&Profile>) -> Result<Vec<Completion>, Failure> {
        let prompts = self.set(arm.set)?;
        let mut progress = Progress::new(&format!("{} {}", arm.set.name(), arm.name), prompts.len());
        let mut all = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(TOGETHER) {
            let mut writing = Vec::with_capacity(prompts.len());
            for prompt in prompts {
                writing.push(self.start(arm, profile, prompt)?);
            }
            while writing.iter().any(|one| !one.decoder.is_finished()) {
                let mut rows: Vec<Row<'_, OnnxSequence>> = writing
                    .iter_mut()
                    .filter(|one| !one.decoder.is_finished())
                    .filter_map(|Writing { decoder, sequence, logits }| {
                        decoder.last().map(|token| Row { sequence, token, logits })
                    })
                    .collect();
                self.model.onnx.step(&mut rows).map_err(failed)?;
                for Writing { decoder, logits, .. } in &mut writing {
                    if !decoder.is_finished() {
                        decoder.accept(logits).map_err(failed)?;
                    }
                }
            }
            for (prompt, one) in prompts.iter().zip(writing) {
                let made = one.decoder.into_generation();
                let biased = made.steps.iter().filter(|step| step.marked == Some(Step::Marked)).count();
                all.push(Completion {
                    document: prompt.document,
                    part: prompt.part,
                    prompt: prompt.text.clone(),
                    loss: made.steps.iter().take(made.tokens.len()).map(|step| -step.logprob).sum(),
                    ids: made.tokens.iter().map(|id| id.0).collect(),
                    biased: u32::try_from(biased).map_err(failed)?,
                    text: made.text,
                });
                progress.step();
            }
        }
        Ok(all)
    }

    /// Prefills a prompt and chooses the first token.
    fn start(&mut self, arm: &Arm, profile: Option<&Profile>, prompt: &Prompt) -> Result<Writing, Failure> {
        let Prompt { document, part, ids, .. } = prompt;
        let key = key_of(self.seed, arm.set, *document);
        let mark = profile.map(|profile| mark(&key, profile).map(Arc::new)).transpose()?;
        let purpose = format!("sampling {} {part}", arm.set.name());
        let seed = number(self.seed, &purpose, *document);
        let sampling = Sampling::new(arm.set.temperature(), None, Some(TOP_P), None, seed);
        let plain = Request::new(ids.clone(), sampling.map_err(failed)?, arm.set.tokens());
        let request = Request { mark, only_usual: arm.only_usual, ..plain };
        let mut decoder = Decoder::new(request, &self.lexicon, self.model.onnx.limits()).map_err(failed)?;
        let (mut sequence, mut logits) = (self.model.onnx.begin().map_err(failed)?, Vec::new());
        self.model.onnx.prefill(&mut sequence, decoder.prompt(), &mut logits).map_err(failed)?;
        decoder.accept(&logits).map_err(failed)?;
        Ok(Writing { decoder, sequence, logits })
    }
}

/// A text in the making.
struct Writing {
    decoder: Decoder,
    sequence: OnnxSequence,
    logits: Vec<f32>,
}

/// The texts kept in a file, if they are the ones asked for.
fn read(path: &Path, header: &Header) -> Option<Vec<Completion>> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let kept: Header = serde_json::from_str(lines.next()?).ok()?;
    let all = lines.map(|line| serde_json::from_str(line).ok()).collect::<Option<Vec<_>>>()?;
    (kept == *header).then_some(all)
}

/// γ ¼ everywhere: what is compared is where and how strongly the mark acts.
pub(crate) fn arm(set: Set, name: &str, delta: f64, width: u8, tau: Option<f64>) -> Result<Arm, Failure> {
    let recipe = green_list::recipe(0.25, delta, width, tau).map_err(failed)?;
    Ok(Arm { set, name: name.to_owned(), recipe: Some(recipe), only_usual: true })
}

/// An arm without a mark.
pub(crate) fn unmarked(set: Set) -> Arm {
    Arm { set, name: "unmarked".to_owned(), recipe: None, only_usual: true }
}

/// The built-in profiles' δ and τ at other context widths and seedings, and no mark. Seeding `min` differs from
/// `left` from a width of 2 on. Code at a width of 2 also with less δ: at an equal δ its loss is not that of width 1.
pub(crate) fn width_arms(set: Set, widths: &[u8]) -> Result<Vec<Arm>, Failure> {
    let built_in = if set == Set::Prose { green_list::prose_v1() } else { green_list::code_v1() };
    let tau = built_in.threshold().map(Nats::get);
    let delta = parameter(&built_in, "delta").ok_or_else(|| failed("the built-in recipe has a delta"))?;
    let mut arms = vec![unmarked(set)];
    for width in widths {
        arms.push(arm(set, &format!("left-{width}"), delta, *width, tau)?);
    }
    for width in widths.iter().filter(|width| **width > 1) {
        let mut arm = arm(set, &format!("min-{width}"), delta, *width, tau)?;
        arm.recipe = arm.recipe.map(|recipe| recipe.seeded(Seeding::Min));
        arms.push(arm);
    }
    if set == Set::Modules && widths.contains(&2) {
        for delta in [2.0, 2.5] {
            arms.push(arm(set, &format!("left-2-d{delta}"), delta, 2, tau)?);
        }
    }
    Ok(arms)
}

/// δ 2 and 3 without a gate, and δ 3 with that of code-v1.
pub(crate) fn mode_arms() -> Result<Vec<Arm>, Failure> {
    let mut arms = vec![unmarked(Set::Single)];
    for (name, delta, tau) in [("d2", 2.0, None), ("d3", 3.0, None), ("d3-gated", 3.0, Some(0.9))] {
        arms.push(arm(Set::Single, name, delta, 1, tau)?);
    }
    Ok(arms)
}

/// The same arm with δ on all green tokens, however the text will be read.
pub(crate) fn of_any_tokens(arm: &Arm) -> Arm {
    Arm { name: format!("{}-any", arm.name), only_usual: false, ..arm.clone() }
}

/// Makes every arm.
pub(crate) fn run(arguments: &PoolCommand) -> Result<(), Failure> {
    let mut pool = Pool::open(&arguments.pool)?;
    let mut arms = mode_arms()?;
    arms.extend(width_arms(Set::Prose, &arguments.widths)?);
    arms.extend(width_arms(Set::Modules, &arguments.widths)?);
    arms.retain(|arm| arguments.only.as_ref().is_none_or(|only| only == arm.set.name()));
    for arm in arms {
        let texts = pool.get(&arm)?;
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        println!("{} {}: {} texts, {tokens} tokens", arm.set.name(), arm.name, texts.len());
    }
    Ok(())
}
