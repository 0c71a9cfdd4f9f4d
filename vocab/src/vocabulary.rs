//! A tokenizer pinned by the SHA-256 of its file.

use std::collections::HashMap;

use dandyroll_scheme::{Sha256Digest, TokenId};
use tokenizers::pipeline::PipelineTokenizer;

use crate::encoding::Encoding;
use crate::error::VocabError;
use crate::pairs::Rules;
use crate::spelling::{Opening, Spelling, Surfaces};

/// An added token: taken out of the text as a whole before the model sees the rest.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    /// What is looked for.
    pub(crate) form: String,
    /// Looked for in the text as given, not as the tokenizer's normalizer leaves it.
    pub(crate) raw: bool,
    /// Takes white space before it along.
    pub(crate) takes_left: bool,
    /// Takes white space behind it along.
    pub(crate) takes_right: bool,
    pub(crate) special: bool,
}

/// A tokenizer: text to ids with offsets, and back. Shared by reference between threads.
///
/// ```
/// use dandyroll_vocab::Vocabulary;
///
/// let vocabulary = Vocabulary::open("../fixtures/model/tokenizer.json")?;
/// let text = "import os\n";
/// let encoding = vocabulary.encode(text)?;
/// let pieces: Vec<&str> = encoding.byte_ranges().map(|range| &text[range]).collect();
/// assert_eq!(pieces, ["import", " os", "\n"]);
/// assert_eq!(vocabulary.decode(encoding.ids())?, text);
/// # Ok::<(), dandyroll_vocab::VocabError>(())
/// ```
pub struct Vocabulary {
    pub(crate) digest: Sha256Digest,
    pub(crate) tokenizer: PipelineTokenizer,
    pub(crate) spelling: Spelling,
    pub(crate) surfaces: Surfaces,
    pub(crate) added: HashMap<TokenId, Added>,
    pub(crate) ids: HashMap<String, TokenId>,
    /// Whether tokens spell a text iff they are as long: nothing changes the text, nothing takes white
    /// space along.
    pub(crate) faithful: bool,
    /// Special tokens before a single text.
    pub(crate) before: Vec<TokenId>,
    /// Words and merges, if they are of a kind that is known here.
    pub(crate) rules: Option<Rules>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("digest", &self.digest)
            .field("size", &self.size())
            .field("spelling", &self.spelling)
            .finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// SHA-256 of the file, byte for byte.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// One more than the largest id, added tokens included. A model may give more logits than this.
    pub fn size(&self) -> usize {
        self.surfaces.size()
    }

    /// The bytes a token stands for, `None` if no token has this id. They need not be UTF-8: a character
    /// may be spread over tokens.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.surfaces.get(id)
    }

    /// Whether the file calls this token special: end of text, end of turn and the like.
    pub fn special(&self, id: TokenId) -> bool {
        self.added.get(&id).is_some_and(|added| added.special)
    }

    /// The special tokens, ascending.
    pub fn special_ids(&self) -> Vec<TokenId> {
        let special = self.added.iter().filter(|(_, added)| added.special);
        let mut ids: Vec<_> = special.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// The id of a token as the file spells it: `Ġthe`, `<|endoftext|>`.
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.ids.get(token).copied()
    }

    /// The ids of `text` and where each lies. No special tokens are put around it; added tokens that occur
    /// in it are found as the tokenizer finds them.
    ///
    /// `text` should be in normal form ([`crate::normalise`]). Safe to call from many threads at once.
    pub fn encode(&self, text: &str) -> Result<Encoding, VocabError> {
        let ids = self.tokens(text, false)?;
        let ends = self.ends(text, &ids)?;
        Ok(Encoding::new(ids, ends))
    }

    /// The ids of `text` alone, with the same check that they spell it.
    pub fn encode_ids(&self, text: &str) -> Result<Vec<TokenId>, VocabError> {
        self.encode(text).map(Encoding::into_ids)
    }

    /// The ids of a prompt, as the model was trained to read it: the text as it is, with the special tokens
    /// before it that the file's template asks for (`<s>` for Llama; most byte-level vocabularies have none)
    /// unless it begins with them already. An empty prompt has none.
    ///
    /// The one door for prompts, so that generation and detection show the model the same. Prompts are not
    /// scored, so nothing is normalised away from what the caller wants the model to read.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, VocabError> {
        let mut ids = self.tokens(text, false)?;
        if !ids.is_empty() && !ids.starts_with(&self.before) {
            ids.splice(0..0, self.before.iter().copied());
        }
        Ok(ids)
    }

    fn ends(&self, text: &str, ids: &[TokenId]) -> Result<Vec<u32>, VocabError> {
        if self.faithful
            && let Some(ends) = self.add_up(text, ids)
        {
            return Ok(ends);
        }
        self.align(text, ids).map_err(|stuck| VocabError::OffsetsUnavailable {
            byte: stuck.byte,
            length: text.len(),
            index: stuck.index,
        })
    }

    pub(crate) fn is_byte_level(&self) -> bool {
        self.spelling == Spelling::ByteLevel
    }

    pub(crate) fn opening(&self) -> Opening {
        match self.spelling {
            Spelling::ByteLevel => Opening::Never,
            Spelling::Pieces { opening, .. } => opening,
        }
    }
}
