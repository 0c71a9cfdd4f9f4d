//! The teacher-forced pass: what the model thought of each token of a given text.

use dandyroll_scheme::{Nats, TokenId};

use crate::{LogitSource, NoDistribution, Prediction, SourceError};

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
    if from > ids.len() {
        return Err(ScoreError::From { from, tokens: ids.len() });
    }
    let mut scores = vec![None; ids.len() - from];
    let context = source.limits().context.clamp(1, WINDOW);
    // The last token is predicted, and predicts nothing that is asked for.
    let fed = ids.len().saturating_sub(1);
    let (mut start, mut done) = (0_usize, 0_usize);
    while done < fed && from < ids.len() {
        let end = start.saturating_add(context).min(fed);
        // Tokens start+1 ..= end are predicted; those up to `done` were before.
        if end >= from {
            let mut sequence = source.begin()?;
            let mut undefined = false;
            source.each_position(&mut sequence, &ids[start..end], &mut |i, logits| {
                let place = start + i + 1;
                let Some(slot) = place.checked_sub(from).filter(|_| place > done) else { return };
                let scored = ids.get(place).and_then(|token| scored(logits, *token));
                undefined |= scored.is_none();
                if let Some(slot) = scores.get_mut(slot) {
                    *slot = scored;
                }
            })?;
            if undefined {
                return Err(NoDistribution.into());
            }
        }
        done = end;
        start = (start + context.div_ceil(2)).min(done);
    }
    Ok(scores)
}

fn scored(logits: &[f32], token: TokenId) -> Option<Scored> {
    let prediction = Prediction::of(logits).ok()?;
    Some(Scored { entropy: prediction.entropy(), logprob: prediction.logprob(logits, token)? })
}
