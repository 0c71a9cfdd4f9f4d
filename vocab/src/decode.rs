//! Ids to text, whole or token by token.

use dandyroll_scheme::TokenId;

use crate::error::VocabError;
use crate::spelling::Opening;
use crate::vocabulary::Vocabulary;

/// Turns tokens into text as they come, holding back bytes that do not yet make a character.
///
/// What comes out, with [`StreamDecoder::finish`] at the end, is what [`Vocabulary::decode`] makes of all
/// tokens at once. Bytes that can never become a character come out as U+FFFD, one for each maximal
/// invalid stretch, as in [`String::from_utf8_lossy`].
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    /// The start of a character: at most three bytes between calls.
    pending: Vec<u8>,
    /// Whether a blank at the very start is one that the tokenizer put there.
    opening: bool,
}

impl StreamDecoder {
    /// Starts a text. The same vocabulary goes with every [`StreamDecoder::push`].
    pub fn new(vocabulary: &Vocabulary) -> Self {
        Self { pending: Vec::new(), opening: vocabulary.opening() != Opening::Never }
    }

    /// Continues a text: a leading space is kept even where the tokenizer puts one before each text.
    pub fn continuing() -> Self {
        Self { pending: Vec::new(), opening: false }
    }

    /// Takes one token and returns the text it completes, which may be empty.
    pub fn push(&mut self, vocabulary: &Vocabulary, token: TokenId) -> Result<String, VocabError> {
        let mut text = String::new();
        self.push_into(vocabulary, token, &mut text)?;
        Ok(text)
    }

    /// [`StreamDecoder::push`] onto the end of `text`. An unknown id leaves everything as it was.
    pub fn push_into(
        &mut self,
        vocabulary: &Vocabulary,
        token: TokenId,
        text: &mut String,
    ) -> Result<(), VocabError> {
        let bytes = vocabulary
            .token_bytes(token)
            .ok_or_else(|| VocabError::UnknownId { id: token, size: vocabulary.size() })?;
        let bytes = if self.opening && !bytes.is_empty() {
            self.opening = false;
            bytes.strip_prefix(b" ").unwrap_or(bytes)
        } else {
            bytes
        };
        if self.pending.is_empty()
            && let Ok(whole) = str::from_utf8(bytes)
        {
            text.push_str(whole);
            return Ok(());
        }
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.pending.len();
            if invalid.is_empty() || (at_end && may_go_on(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
        Ok(())
    }

    /// Whether bytes are held back.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Ends the text: what was held back can become no character any more.
    #[must_use]
    pub fn finish(self) -> &'static str {
        if self.pending.is_empty() { "" } else { "\u{FFFD}" }
    }
}

/// Whether more bytes could make a character of an invalid stretch at the end.
fn may_go_on(invalid: &[u8]) -> bool {
    str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

impl Vocabulary {
    /// The text of `ids`, added and special tokens spelled out.
    ///
    /// A tokenizer that puts a space in front of every text (Llama 2) has it taken off again. Bytes that
    /// are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, VocabError> {
        let mut text = String::with_capacity(ids.len().saturating_mul(4));
        let mut stream = StreamDecoder::new(self);
        for id in ids {
            stream.push_into(self, *id, &mut text)?;
        }
        text.push_str(stream.finish());
        Ok(text)
    }
}
