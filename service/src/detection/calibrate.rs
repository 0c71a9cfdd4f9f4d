//! Calibration by the service: human texts, a line each, judged under one key as bulk work and counted.
//!
//! Texts are judged as detection judges them: the same tokenizer, background list, mode and model.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use dandyroll_api::Object;
use dandyroll_api::calibration::{CalibrationCorpus, HumanText};
use dandyroll_api::detect::ModeName;
use dandyroll_detector::{Calibration, Detector, Hypothesis, Mode, Policy, Text};
use dandyroll_ledger::calibration::count_text;
use dandyroll_scheme::{Background, Mark, MarkError, MasterKey, Nats, Profile, Sha256Digest, TokenId};
use dandyroll_vocab::{Vocabulary, normalise};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use sha2::{Digest, Sha256};

use super::lines::{Line, LineReader};
use super::plan::{Reader, mode_of, profile_of};
use super::pool::Ticket;
use super::{Detecting, DetectionError, chunk_lines, line_fault};

/// By what texts are judged, but for the key.
#[derive(Clone, Debug)]
pub struct Trial {
    profile: Profile,
    vocabulary: Arc<Vocabulary>,
    background: Option<Arc<Background>>,
    mode: Mode,
    /// Set if the mode reads entropies.
    reader: Option<Arc<dyn Reader>>,
}

impl Trial {
    /// The profile.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// How positions are counted.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The mark that is looked for under a key.
    pub fn mark(&self, master: &MasterKey) -> Result<Mark, MarkError> {
        Mark::new(master, &self.profile, self.background.clone())
    }
}

struct Run {
    service: Detecting,
    trial: Trial,
    mark: Mark,
    policy: Policy,
    line_limit: usize,
}

/// What was counted in lines that shared a job, and how many texts they were.
type Counted = Result<(Calibration, u32), DetectionError>;

/// A calibration under way. Dropped, it ends, and nothing has happened.
pub struct Calibrating {
    run: Arc<Run>,
    reader: LineReader,
    digest: Sha256,
    taken: usize,
    body_limit: usize,
    waiting: VecDeque<Vec<Line>>,
    running: FuturesOrdered<BoxFuture<'static, Counted>>,
    found: Calibration,
    documents: u32,
    _place: Ticket,
}

impl fmt::Debug for Calibrating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calibrating")
            .field("trial", &self.run.trial)
            .field("documents", &self.documents)
            .finish_non_exhaustive()
    }
}

impl Detecting {
    /// By what texts are judged under a profile (its id or name) in a mode, as detection would judge them here.
    pub fn trial(&self, profile: &str, mode: ModeName) -> Result<Trial, DetectionError> {
        let snapshot = self.inner.node.snapshot();
        let (shown, profile, (_, tokenizer)) = profile_of(profile, &snapshot, &self.inner.tokenizers)?;
        let reader = tokenizer.reader.as_ref();
        let mode = mode_of(mode, &shown, &profile, reader.map(|reader| reader.model()))?;
        // A profile whose list is not there was refused.
        let background = tokenizer.background(&profile).ok().flatten();
        Ok(Trial {
            profile,
            vocabulary: Arc::clone(&tokenizer.vocabulary),
            background,
            mode,
            reader: reader.filter(|_| mode.needs_entropies()).map(Arc::clone),
        })
    }

    /// Begins a calibration, if there is room for one batch more. `mark` is the trial's under the key ([`Trial::mark`]).
    ///
    /// A line has at most `line_limit` bytes, all of them together `body_limit`.
    pub fn calibrate(
        &self,
        trial: Trial,
        mark: Mark,
        line_limit: usize,
        body_limit: usize,
    ) -> Result<Calibrating, DetectionError> {
        let place = self.inner.pool.admit_bulk()?;
        let policy = Policy::STANDARD;
        Ok(Calibrating {
            run: Arc::new(Run { service: self.clone(), trial, mark, policy, line_limit }),
            reader: LineReader::new(line_limit),
            digest: Sha256::new(),
            taken: 0,
            body_limit,
            waiting: VecDeque::new(),
            running: FuturesOrdered::new(),
            found: Calibration::new(),
            documents: 0,
            _place: place,
        })
    }
}

impl Calibrating {
    /// Takes bytes as they come, and returns when more can be taken: at most two jobs a thread are under way.
    pub async fn take(&mut self, bytes: &[u8]) -> Result<(), DetectionError> {
        self.taken = self.taken.saturating_add(bytes.len());
        if self.taken > self.body_limit {
            return Err(DetectionError::BodyTooLarge { most: self.body_limit });
        }
        self.digest.update(bytes);
        let mut lines = Vec::new();
        self.reader.push(bytes, &mut lines);
        chunk_lines(lines, &mut self.waiting);
        self.work(false).await
    }

    /// No more bytes come: what was counted, and what was read, under the name that its sender gave it.
    pub async fn finish(mut self, name: &str) -> Result<(Calibration, CalibrationCorpus), DetectionError> {
        let mut lines = Vec::new();
        self.reader.finish(&mut lines);
        chunk_lines(lines, &mut self.waiting);
        self.work(true).await?;
        let sha256 = Sha256Digest(self.digest.finalize().into()).to_string();
        let corpus = CalibrationCorpus { name: name.to_owned(), sha256, documents: self.documents };
        Ok((self.found, corpus))
    }

    /// The smallest number of scored pairs at which a text is judged.
    pub fn min_scored(&self) -> u32 {
        self.run.policy.min_scored()
    }

    /// Hands waiting lines to the threads, and counts what comes back until nothing waits; `to_the_end`, until
    /// nothing is under way either. The first line with a fault ends it.
    async fn work(&mut self, to_the_end: bool) -> Result<(), DetectionError> {
        let at_once = self.run.service.pool().threads() * 2;
        loop {
            while self.running.len() < at_once
                && let Some(lines) = self.waiting.pop_front()
            {
                self.running.push_back(Box::pin(Arc::clone(&self.run).count(lines)));
            }
            if self.waiting.is_empty() && !to_the_end {
                return Ok(());
            }
            let Some(counted) = self.running.next().await else { return Ok(()) };
            let (found, documents) = counted?;
            self.found.merge(&found);
            self.documents = self.documents.saturating_add(documents);
        }
    }
}

impl Run {
    /// Lines that share a job.
    async fn count(self: Arc<Self>, lines: Vec<Line>) -> Counted {
        let mut found = Calibration::new();
        let documents = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let Some(reader) = &self.trial.reader else {
            let run = Arc::clone(&self);
            let work = move |detector: &mut Detector| {
                for line in lines {
                    let number = line.number;
                    let ids = run.read(line).map_err(|fault| fault.in_line(number))?;
                    run.judge(&ids, None, detector, &mut found).map_err(|fault| fault.in_line(number))?;
                }
                Ok(found)
            };
            return self.service.in_bulk(work).await?.map(|found| (found, documents));
        };
        for line in lines {
            let number = line.number;
            let counted = self.count_with_model(reader, line).await.map_err(|fault| fault.in_line(number))?;
            found.merge(&counted);
        }
        Ok((found, documents))
    }

    /// One line in two jobs, with the model between them.
    async fn count_with_model(
        self: &Arc<Self>,
        reader: &Arc<dyn Reader>,
        line: Line,
    ) -> Result<Calibration, DetectionError> {
        let run = Arc::clone(self);
        let prepare = move |_: &mut Detector| {
            let ids = run.read(line)?;
            // As detection reads a text whose prompt is not known.
            Ok::<_, DetectionError>((run.trial.vocabulary.encode_prompt("")?, ids))
        };
        let (prompt, ids) = self.service.in_bulk(prepare).await??;
        self.service.check_tokens(prompt.len() + ids.len())?;
        let entropies = {
            let _turn = self.service.inner.turns.acquire().await;
            reader.entropies(prompt, ids.clone()).await?
        };
        let run = Arc::clone(self);
        let judge = move |detector: &mut Detector| {
            let mut found = Calibration::new();
            run.judge(&ids, Some(&entropies), detector, &mut found).map(|()| found)
        };
        self.service.in_bulk(judge).await?
    }

    /// A line's text as tokens.
    fn read(&self, line: Line) -> Result<Vec<TokenId>, DetectionError> {
        let most = self.line_limit;
        let bytes = line.bytes.ok_or(DetectionError::TooLarge {
            what: "line",
            bytes: most.saturating_add(1),
            most,
        })?;
        let Object(HumanText { text }) = serde_json::from_slice(&bytes).map_err(|error| {
            let fault = line_fault(&error);
            if error.is_data() { DetectionError::Form(fault) } else { DetectionError::Malformed(fault) }
        })?;
        self.service.check("text", &text)?;
        Ok(self.trial.vocabulary.encode_ids(normalise(&text).text())?)
    }

    fn judge(
        &self,
        ids: &[TokenId],
        entropies: Option<&[Option<Nats>]>,
        detector: &mut Detector,
        found: &mut Calibration,
    ) -> Result<(), DetectionError> {
        let hypothesis = Hypothesis { mark: &self.mark, mode: self.trial.mode };
        let text = Text { ids, prompt: 0, entropies };
        Ok(count_text(detector, &text, &[hypothesis], &self.policy, std::slice::from_mut(found))?)
    }
}
