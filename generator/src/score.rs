//! The teacher-forced pass: what the model thought of each token of a given text.

use dandyroll_scheme::{Nats, TokenId};

use crate::{Limits, LogitSource, NoDistribution, Prediction, SourceError};

/// The most tokens that are read in one go. A model's context may be far longer, and its cache gigabytes; what
/// stands thousands of tokens before hardly moves an entropy.
pub const WINDOW: usize = 4096;

/// What the model predicted at one position of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// H of the softmax of the raw logits before the token, in nats.
    pub entropy: Nats,
    /// ln p of the token under that softmax.
    pub logprob: f64,
}

/// A text that cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The model failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model's logits are no distribution.
    #[error(transparent)]
    Logits(#[from] NoDistribution),
    /// `from` lies beyond the text.
    #[error("scores were asked for from token {from} of a text of {tokens}")]
    From {
        /// The first token to score.
        from: usize,
        /// Tokens there are.
        tokens: usize,
    },
}

/// Scores `ids[from..]`, each token given all before it (the prompt first, if it is known).
///
/// `None` stands for a token with nothing before it, which no model predicts: only the very first of
/// `ids`. Put the prompt, or the token that begins a text, before it and set `from` accordingly.
///
/// Texts longer than C = min(the model's context, [`WINDOW`]) tokens are read in windows of C tokens that begin C/2 apart (rounded
/// up), counted from the first of `ids`: each token after the first window is predicted from at least C/2
/// tokens before it. So the cache holds C tokens at most, whatever the text; logits are held for a chunk of
/// the source's, or for all of C where the model keeps no past.
///
/// Entropies agree with those at generation ([`crate::StepRecord::entropy`]) up to what the engine makes
/// of several positions at once; a text that was generated whole fits one window.
pub fn score<S: LogitSource>(
    source: &mut S,
    ids: &[TokenId],
    from: usize,
) -> Result<Vec<Option<Scored>>, ScoreError> {
    let mut scoring = Scoring::new(ids.to_vec(), from, source.limits())?;
    while !scoring.is_finished() {
        scoring.advance(source)?;
    }
    Ok(scoring.into_scores())
}

/// [`score`] a piece at a time, for owners of a source who have other work, too.
pub struct Scoring<T> {
    ids: Vec<TokenId>,
    from: usize,
    window: usize,
    /// Tokens that are fed: the last one is predicted, and predicts nothing that is asked for.
    fed: usize,
    /// Where the present window begins and, of `ids`, what is read and what is predicted.
    start: usize,
    read: usize,
    done: usize,
    sequence: Option<T>,
    scores: Vec<Option<Scored>>,
}

impl<T> std::fmt::Debug for Scoring<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scoring")
            .field("tokens", &self.ids.len())
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl<T> Scoring<T> {
    /// Begins; nothing is computed yet.
    pub fn new(ids: Vec<TokenId>, from: usize, limits: Limits) -> Result<Self, ScoreError> {
        if from > ids.len() {
            return Err(ScoreError::From { from, tokens: ids.len() });
        }
        let scores = vec![None; ids.len() - from];
        let window = limits.context.clamp(1, WINDOW);
        let fed = if from < ids.len() { ids.len() - 1 } else { 0 };
        let mut scoring = Self { ids, from, window, fed, start: 0, read: 0, done: 0, sequence: None, scores };
        scoring.skip();
        Ok(scoring)
    }

    fn end(&self) -> usize {
        self.start.saturating_add(self.window).min(self.fed)
    }

    /// Passes over windows of which nothing is asked for.
    fn skip(&mut self) {
        while self.done < self.fed && self.end() < self.from {
            self.next_window();
        }
    }

    fn next_window(&mut self) {
        self.done = self.end();
        self.start = (self.start + self.window.div_ceil(2)).min(self.done);
        self.read = self.start;
        self.sequence = None;
    }

    /// Whether every score is there.
    pub fn is_finished(&self) -> bool {
        self.done >= self.fed
    }

    /// Tokens that the next [`Scoring::advance`] holds in the cache at most.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Reads one more chunk of the source's ([`LogitSource::chunk`]).
    pub fn advance<S: LogitSource<Sequence = T>>(&mut self, source: &mut S) -> Result<(), ScoreError> {
        if self.is_finished() {
            return Ok(());
        }
        let mut sequence = match self.sequence.take() {
            Some(sequence) => sequence,
            None => source.begin()?,
        };
        let end = self.end();
        let next = self.read.saturating_add(source.chunk().get()).min(end);
        // Tokens start+1 ..= end are predicted; those up to `done` were before.
        let Self { ids, from, read, done, scores, .. } = self;
        let mut undefined = false;
        source.each_position(&mut sequence, &ids[*read..next], &mut |i, logits| {
            let place = *read + i + 1;
            let Some(slot) = place.checked_sub(*from).filter(|_| place > *done) else { return };
            let scored = ids.get(place).and_then(|token| scored(logits, *token));
            undefined |= scored.is_none();
            if let Some(slot) = scores.get_mut(slot) {
                *slot = scored;
            }
        })?;
        if undefined {
            return Err(NoDistribution.into());
        }
        self.read = next;
        if next == end {
            self.next_window();
        } else {
            self.sequence = Some(sequence);
        }
        Ok(())
    }

    /// What there is: all of it once [`Scoring::is_finished`].
    pub fn into_scores(self) -> Vec<Option<Scored>> {
        self.scores
    }
}

fn scored(logits: &[f32], token: TokenId) -> Option<Scored> {
    let prediction = Prediction::of(logits).ok()?;
    Some(Scored { entropy: prediction.entropy(), logprob: prediction.logprob(logits, token)? })
}
