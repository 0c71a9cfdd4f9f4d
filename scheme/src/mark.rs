//! One mark: a key's words, the scheme that reads them, and the windows it leaves unscored. Made in one place, from
//! key and profile; generation puts it in and detection looks for it.

use alloc::sync::Arc;
use core::fmt;

use sha2::{Digest, Sha256};

use crate::scheme::{Embedder, Scheme};
use crate::{
    Admission, Background, Candidates, ContextWidth, History, KeyId, MasterKey, Nats, Null, Profile,
    Sha256Digest, Step, TokenId, WordKey,
};

/// A mark that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// Another background list than the profile names.
    #[error("the profile names the background list {named}, and {given} is given")]
    OtherBackground {
        /// Its digest in the profile.
        named: Sha256Digest,
        /// The digest of the one given.
        given: Sha256Digest,
    },
    /// The profile names none.
    #[error("the background list {0} is given, and the profile names none")]
    NoBackground(Sha256Digest),
    /// A list of another context width or tokenizer.
    #[error("the background list is for another {0} than the profile")]
    Background(&'static str),
    /// Words of another family.
    #[error("the words are not those of the profile")]
    OtherWords,
}

/// Says which test a mark is: equal for marks that score every text alike. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TestId([u8; 32]);

/// A mark under one key version.
pub struct Mark {
    words: Arc<WordKey>,
    scheme: Arc<dyn Scheme>,
    background: Option<Arc<Background>>,
    lacking: bool,
    test: TestId,
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mark")
            .field("words", &self.words)
            .field("scheme", &self.scheme)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

impl Mark {
    /// The mark of a profile under a key. Detection also needs the background list that the profile names; generation
    /// does without.
    pub fn new(
        master: &MasterKey,
        profile: &Profile,
        background: Option<Arc<Background>>,
    ) -> Result<Self, MarkError> {
        Self::of_words(Arc::new(master.words(&profile.family())), &master.id(), profile, background)
    }

    /// [`Mark::new`] with words that were derived before: marks that share them are read together.
    pub fn of_words(
        words: Arc<WordKey>,
        key: &KeyId,
        profile: &Profile,
        background: Option<Arc<Background>>,
    ) -> Result<Self, MarkError> {
        if *words.family() != profile.family() {
            return Err(MarkError::OtherWords);
        }
        match (profile.background(), &background) {
            (None, Some(list)) => return Err(MarkError::NoBackground(list.digest())),
            (Some(named), Some(list)) if named != list.digest() => {
                return Err(MarkError::OtherBackground { named, given: list.digest() });
            }
            (_, Some(list)) if list.width() != words.width() => {
                return Err(MarkError::Background("context width"));
            }
            (_, Some(list)) if list.tokenizer() != profile.tokenizer() => {
                return Err(MarkError::Background("tokenizer"));
            }
            _ => {}
        }
        let scheme = Arc::clone(profile.recipe().scheme());
        let mut digest = Sha256::new();
        digest.update(words.family().label(words.family().purpose));
        digest.update(key.as_str());
        digest.update(scheme.reads());
        digest.update(background.as_ref().map_or([0; 32], |list| list.digest().0));
        let test = TestId(digest.finalize().into());
        let lacking = background.is_none() && profile.background().is_some();
        Ok(Self { words, scheme, background, lacking, test })
    }

    /// The keyed function's words.
    pub fn words(&self) -> &WordKey {
        &self.words
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.words.width()
    }

    /// How words become scores, and a mark.
    pub fn scheme(&self) -> &dyn Scheme {
        &*self.scheme
    }

    /// What counts once.
    pub fn admission(&self) -> Admission {
        self.scheme.kind().admission
    }

    /// The law of a score without the mark.
    pub fn null(&self) -> &Null {
        self.scheme.null()
    }

    /// The windows that are not scored.
    pub fn background(&self) -> Option<&Background> {
        self.background.as_deref()
    }

    /// Whether the profile names a background list and it is not here: then detection would score too much.
    pub fn lacks_background(&self) -> bool {
        self.lacking
    }

    /// Which test it is: two marks with one id score every text alike, whatever their profiles are called.
    pub fn test(&self) -> TestId {
        self.test
    }

    /// Whether it acts on raw logits, before the sampler; else it chooses among what the sampler left.
    pub fn is_raw(&self) -> bool {
        matches!(self.scheme.embedder(), Embedder::Raw(_))
    }

    /// The effective context of the next token, or why it is not marked.
    fn context<'h>(&self, history: &'h History) -> Result<&'h [TokenId], Step> {
        let context = self.words.context(history.tokens()).ok_or(Step::ShortContext)?;
        if self.admission() == Admission::Contexts {
            let effective = self.words.effective(context).ok_or(Step::ShortContext)?;
            if history.has_used(effective) {
                return Err(Step::RepeatedContext);
            }
        }
        Ok(context)
    }

    /// Marks one step on raw logits in place; `None`, with nothing done, for a mark that acts elsewhere.
    ///
    /// `logits` are the model's raw outputs for the next token, one per vocabulary entry, before repetition penalty,
    /// temperature, top-k and top-p; `entropy` is theirs ([`crate::Softmax::of`]).
    pub fn raw(&self, history: &History, entropy: Nats, logits: &mut [f32]) -> Option<Step> {
        let Embedder::Raw(scheme) = self.scheme.embedder() else { return None };
        Some(match self.context(history) {
            Ok(context) => scheme.raw(&self.words, context, entropy, logits),
            Err(step) => step,
        })
    }

    /// Chooses among the candidates: the place of one, if the mark decides. With a step other than [`Step::Marked`] and
    /// no place the sampler draws as it would without a mark.
    pub fn choose(&self, history: &History, candidates: &Candidates<'_>) -> Option<(Option<usize>, Step)> {
        let Embedder::Final(scheme) = self.scheme.embedder() else { return None };
        let context = match self.context(history) {
            Ok(context) => context,
            Err(step) => return Some((None, step)),
        };
        if let Some(only) = candidates.certain() {
            return Some((Some(only), Step::Certain));
        }
        let place = scheme.choose(&self.words, context, candidates);
        Some((place, if place.is_some() { Step::Marked } else { Step::Certain }))
    }

    /// Adds a generated token to the history of a text that this mark is put in.
    pub fn push(&self, history: &mut History, token: TokenId) {
        let context = match self.admission() {
            Admission::Contexts => self.words.context(history.tokens()).and_then(|context| {
                // Copied: the history it lies in is about to grow.
                let effective = self.words.effective(context)?;
                let mut copy = [TokenId(0); ContextWidth::MAX_LEN];
                copy[..effective.len()].copy_from_slice(effective);
                Some((copy, effective.len()))
            }),
            Admission::Pairs => None,
        };
        history.push(token, context.as_ref().map(|(copy, length)| &copy[..*length]));
    }
}

impl History {
    /// The history of tokens that were generated under a mark, or under none.
    pub fn of(tokens: &[TokenId], mark: Option<&Mark>) -> Self {
        let mut history = Self::new();
        tokens.iter().for_each(|token| history.add(*token, mark));
        history
    }

    /// Adds a token that was generated under a mark, or under none.
    pub fn add(&mut self, token: TokenId, mark: Option<&Mark>) {
        match mark {
            Some(mark) => mark.push(self, token),
            None => self.push(token, None),
        }
    }
}
