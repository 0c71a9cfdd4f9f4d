//! Generation of one text, a step at a time.

use crate::{Decoder, GenerateError, Generation, Lexicon, LogitSource, Progress, Request, RequestError, Row};

/// One generation under way: an iterator over its tokens.
///
/// Dropping it, or asking no more of it, cancels; nothing is computed ahead of what is asked for.
pub struct Run<'a, S: LogitSource> {
    source: &'a mut S,
    sequence: Option<S::Sequence>,
    decoder: Decoder,
    logits: Vec<f32>,
    failed: bool,
}

impl<S: LogitSource> std::fmt::Debug for Run<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

/// Checks `request` and starts it. The prompt is computed at the first token.
pub fn generate<'a, S: LogitSource>(
    source: &'a mut S,
    lexicon: &Lexicon,
    request: Request,
) -> Result<Run<'a, S>, RequestError> {
    let decoder = Decoder::new(request, lexicon, source.limits())?;
    Ok(Run { source, sequence: None, decoder, logits: Vec::new(), failed: false })
}

impl<S: LogitSource> Run<'_, S> {
    /// The raw logits that the last token was chosen from, before the mark; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Runs to the end.
    pub fn complete(mut self) -> Result<Generation, GenerateError> {
        self.by_ref().try_for_each(|progress| progress.map(|_| ()))?;
        Ok(self.decoder.into_generation())
    }

    /// Stops here and gives what there is.
    pub fn stop(self) -> Generation {
        self.decoder.into_generation()
    }

    fn advance(&mut self, last: Option<dandyroll_scheme::TokenId>) -> Result<Progress, GenerateError> {
        match (&mut self.sequence, last) {
            (Some(sequence), Some(token)) => {
                self.source.step(&mut [Row { sequence, token, logits: &mut self.logits }])?;
            }
            _ => {
                let mut sequence = self.source.begin()?;
                self.source.prefill(&mut sequence, self.decoder.prompt(), &mut self.logits)?;
                self.sequence = Some(sequence);
            }
        }
        self.decoder.accept(&self.logits)
    }
}

impl<S: LogitSource> Iterator for Run<'_, S> {
    type Item = Result<Progress, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.decoder.is_finished() {
            return None;
        }
        let progress = self.advance(self.decoder.last());
        self.failed = progress.is_err();
        Some(progress)
    }
}
