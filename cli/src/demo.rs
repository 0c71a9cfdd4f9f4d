//! `demo`: the main job on the fixture model, as one table.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use dandyroll_detector::{Detector, Finding, Hypothesis, Mode, Policy, Text, Verdict};
use dandyroll_generator::{Generation, Lexicon, Request, Sampling, generate};
use dandyroll_scheme::{Mark, MasterKey, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};
use serde::Deserialize;

use crate::args::{DemoArgs, RuntimeArgs};
use crate::coloured::{self, Section};
use crate::detect::{colour_text, facts};
use crate::failure::{Failure, Outcome};
use crate::profile::Named;
use crate::{keyfile, model};

/// Seeds tried for one prompt until the model does not end its text early.
const TRIES: u64 = 20;
/// A text counts from this length on.
const LEAST: usize = 200;

#[derive(Deserialize)]
struct Prompt {
    id: String,
    text: String,
    continuation: String,
}

fn prompts(path: &Path, count: usize) -> Result<Vec<Prompt>, Failure> {
    let text = crate::input::Source::of(path).read()?;
    let lines = text.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .map_err(|error| Failure::Usage(format!("{}, line {}: {error}", path.display(), number + 1)))
    });
    let all = lines.collect::<Result<Vec<Prompt>, _>>()?;
    if count == 0 || count > all.len() {
        return Err(Failure::Usage(format!("--prompts {count}: {} has 1 to {}", path.display(), all.len())));
    }
    // Spread over the file, so that neighbours of one source file don't crowd the table.
    let stride = all.len() / count;
    Ok(all.into_iter().step_by(stride).take(count).collect())
}

fn random_key() -> Result<MasterKey, Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(keyfile::KeyFileError::Random)?;
    Ok(MasterKey::take(&mut bytes))
}

struct Stage {
    model: model::Scorer,
    vocabulary: Arc<Vocabulary>,
    lexicon: Lexicon,
    mode: Mode,
}

impl Stage {
    fn write(
        &mut self,
        prompt: &[TokenId],
        tokens: usize,
        mark: Option<&Arc<Mark>>,
    ) -> Result<Generation, Failure> {
        let mut longest: Option<Generation> = None;
        for seed in 0..TRIES {
            let sampling = Sampling::new(1.0, None, Some(0.95), None, seed)?;
            let request = Request { mark: mark.cloned(), ..Request::new(prompt.to_vec(), sampling, tokens) };
            let run = generate(self.model.inner(), &self.lexicon, request)?;
            let generation = run.complete()?;
            if longest.as_ref().is_none_or(|best| best.tokens.len() < generation.tokens.len()) {
                longest = Some(generation);
            }
            if longest.as_ref().is_some_and(|best| best.tokens.len() >= LEAST.min(tokens)) {
                break;
            }
        }
        longest.filter(|best| best.tokens.len() >= LEAST.min(tokens)).ok_or_else(|| {
            Failure::Usage(format!("the model ends its text early with each of {TRIES} seeds"))
        })
    }

    fn judge(&mut self, prompt: &[TokenId], text: &str, mark: &Mark) -> Result<Finding, Failure> {
        let ids = self.vocabulary.encode_ids(normalise(text).text())?;
        let entropies = match self.mode.needs_entropies() {
            true => Some(self.model.entropies(prompt, &ids)?),
            false => None,
        };
        let text = Text { ids: &ids, prompt: 0, entropies: entropies.as_deref() };
        let hypothesis = Hypothesis { mark, mode: self.mode };
        let report = Detector::new().detect(&text, &[hypothesis], &Policy::STANDARD)?;
        report.findings.first().copied().ok_or_else(|| Failure::Usage("nothing was judged".into()))
    }
}

/// One column of the table: how often it was detected.
#[derive(Default)]
struct Tally {
    texts: usize,
    detected: usize,
}

impl Tally {
    fn cell(&mut self, finding: &Finding) -> String {
        self.texts += 1;
        self.detected += usize::from(finding.verdict == Verdict::Detected);
        format!("{:>7} {}", finding.evidence.log10_p.to_string(), finding.verdict.name())
    }
}

/// Runs the demonstration. Ends with code 1 if any text is judged other than it should be.
pub(crate) fn run(args: &DemoArgs, runtime: &RuntimeArgs, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let directory = args.fixtures.join("model");
    let prompts = prompts(&args.fixtures.join("corpora").join("prompts.jsonl"), args.prompts)?;
    let named = Named::find(&args.profile)?;
    let directory = model::Directory::open(&directory)?;
    let profile = directory.bind(&named)?;
    let (vocabulary, lexicon) = (Arc::clone(&directory.vocabulary), directory.lexicon());
    let mode = profile.threshold().map_or(Mode::ModelFree, Mode::Gated);
    let model = model::Scorer::new(directory.load(runtime, None)?);
    let mut stage = Stage { model, vocabulary, lexicon, mode };

    let (key, other) = (random_key()?, random_key()?);
    let mark = Arc::new(Mark::new(&key, &profile, None)?);
    let other_mark = Mark::new(&other, &profile, None)?;
    let parameters: Vec<String> =
        profile.recipe().parameters().map(|(name, member)| format!("{name} {member}")).collect();
    writeln!(
        out,
        "A {}-token Python model writes {} texts marked under a fresh key {}, profile {} ({}; {}).",
        stage.vocabulary.size(),
        prompts.len(),
        key.id(),
        args.profile,
        mode.name(),
        parameters.join(", "),
    )?;
    writeln!(out, "Each cell: exact p, verdict at alpha = {}.\n", Policy::STANDARD.alpha())?;
    let columns = ["marked", "marked, wrong key", "unmarked", "human (held out)"];
    write!(out, "{:<30} {:>6}", "prompt", "tokens")?;
    for column in columns {
        write!(out, "  {column:<20}")?;
    }
    writeln!(out)?;

    let mut tallies: [Tally; 4] = Default::default();
    let mut sections = Vec::new();
    let mut sample = String::new();
    for prompt in &prompts {
        let ids = stage.vocabulary.encode_prompt(&prompt.text)?;
        let marked = stage.write(&ids, args.tokens, Some(&mark))?;
        let unmarked = stage.write(&ids, args.tokens, None)?;
        let found = stage.judge(&ids, &marked.text, &mark)?;
        let cells = [
            tallies[0].cell(&found),
            tallies[1].cell(&stage.judge(&ids, &marked.text, &other_mark)?),
            tallies[2].cell(&stage.judge(&ids, &unmarked.text, &mark)?),
            tallies[3].cell(&stage.judge(&ids, &prompt.continuation, &mark)?),
        ];
        write!(out, "{:<30} {:>6}", prompt.id.chars().take(30).collect::<String>(), marked.tokens.len())?;
        for cell in cells {
            write!(out, "  {cell:<20}")?;
        }
        writeln!(out)?;
        out.flush()?;
        if sample.is_empty() {
            sample = format!("{}{}", prompt.text, marked.text);
        }
        if args.html.is_some() {
            let hypothesis = Hypothesis { mark: &mark, mode };
            let entropies = |stage: &mut Stage, prompt: &[TokenId], ids: &[TokenId]| {
                mode.needs_entropies().then(|| stage.model.entropies(prompt, ids)).transpose()
            };
            for (what, text) in [("marked", &marked.text), ("human", &prompt.continuation)] {
                let finding = stage.judge(&ids, text, &mark)?;
                let normal = normalise(text);
                let encoding = stage.vocabulary.encode(normal.text())?;
                let entropies = entropies(&mut stage, &ids, encoding.ids())?;
                let pieces = colour_text(&normal, &encoding, entropies.as_deref(), &hypothesis, &[])?;
                sections.push(Section {
                    heading: format!("{} ({what})", prompt.id),
                    facts: facts(&finding, &key.id(), &mark, &Policy::STANDARD),
                    pieces,
                });
            }
        }
    }

    let [marked, others @ ..] = &tallies;
    let false_alarms: usize = others.iter().map(|tally| tally.detected).sum();
    let others: usize = others.iter().map(|tally| tally.texts).sum();
    writeln!(
        out,
        "\n{} of {} marked texts detected; {false_alarms} of {others} others.",
        marked.detected, marked.texts
    )?;
    writeln!(out, "\nThe first marked text, after its prompt:\n")?;
    for line in sample.lines().take(24) {
        writeln!(out, "    {line}")?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, coloured::page("Dandyroll: demonstration", &sections))
            .map_err(|source| Failure::File { path: path.clone(), source })?;
        writeln!(out, "\nThe texts in colour: {}", path.display())?;
    }
    let as_expected = marked.detected == marked.texts && false_alarms == 0;
    Ok(if as_expected { Outcome::Done } else { Outcome::SomeFailed })
}
