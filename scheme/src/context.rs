//! Contexts: which of the last h tokens decide the words, and which occurrence of one counts.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::{ContextWidth, TokenId};

/// Which of the context's tokens decide the words after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seeding {
    /// All `h` previous generated tokens (the left-hash of Kirchenbauer et al. 2023).
    Left,
    /// One of them, chosen by the key: the one of the least rank (after the anchored min-hash of Kirchenbauer
    /// et al. 2024, "On the Reliability of Watermarks for Large Language Models"). A pair then outlives edits of
    /// the other h − 1; `fixtures/prf/README.md` says what that costs.
    Min,
}

impl Seeding {
    /// The name that enters labels and profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Min => "min",
        }
    }

    /// The seeding of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Left, Self::Min].into_iter().find(|seeding| seeding.name() == name)
    }
}

/// What of a text counts once. Either is a function of the token ids alone (and of the key's choice of context
/// tokens under [`Seeding::Min`]), never of the words: that keeps every null exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Each distinct (effective context, token) pair, at its first eligible occurrence.
    Pairs,
    /// Only the first occurrence of each distinct effective context, with the token that follows it there. For
    /// schemes that let a context decide a token once: later tokens after it are the sampler's own.
    Contexts,
}

/// An effective context as it is remembered: up to eight tokens.
type Remembered = [Option<TokenId>; ContextWidth::MAX_LEN];

/// The generated tokens of one text and the contexts they used up: a function of the tokens alone.
///
/// `truncate` takes tokens back, as a speculating decoder does.
#[derive(Clone, Debug, Default)]
pub struct History {
    tokens: Vec<TokenId>,
    /// By the number of tokens that stood before the token that used the context first.
    used: BTreeMap<Remembered, usize>,
}

impl History {
    /// Nothing generated yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tokens, oldest first, without the prompt.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Adds a token and uses up the effective context that stood before it, if it is given: that of a mark which
    /// admits contexts once.
    pub(crate) fn push(&mut self, token: TokenId, context: Option<&[TokenId]>) {
        if let Some(context) = context {
            self.used.entry(remembered(context)).or_insert(self.tokens.len());
        }
        self.tokens.push(token);
    }

    /// Whether an effective context was used up.
    pub(crate) fn has_used(&self, context: &[TokenId]) -> bool {
        self.used.contains_key(&remembered(context))
    }

    /// Keeps the first `length` tokens: everything is as it was when there were so many.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.used.retain(|_, first| *first < length);
    }
}

fn remembered(context: &[TokenId]) -> Remembered {
    core::array::from_fn(|i| context.get(i).copied())
}
