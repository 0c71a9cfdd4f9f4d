//! What a scheme is: how words of the keyed function become a mark and, later, evidence.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::{
    Admission, ContextWidth, Member, MemberError, MemberReader, Members, Nats, Null, OutOfRange, Purpose,
    Seeding, Strength, TokenId, WordKey,
};

/// The parameters of a mark before they are bound to a tokenizer and a model.
#[derive(Clone, Debug)]
pub struct Recipe {
    scheme: Arc<dyn Scheme>,
    width: ContextWidth,
    seeding: Seeding,
}

impl Recipe {
    /// A recipe of this scheme. Seeding is `left`; see [`Recipe::seeded`].
    pub fn new(scheme: Arc<dyn Scheme>, width: ContextWidth) -> Self {
        Self { scheme, width, seeding: Seeding::Left }
    }

    /// The same with another seeding.
    pub fn seeded(self, seeding: Seeding) -> Self {
        Self { seeding, ..self }
    }

    /// The same with another τ; `None` if the scheme has none.
    pub fn gated(&self, threshold: Option<Nats>) -> Option<Self> {
        let scheme = self.scheme.gated(threshold)?;
        Some(Self { scheme, ..self.clone() })
    }

    /// The same with another context width.
    pub fn widened(self, width: ContextWidth) -> Self {
        Self { width, ..self }
    }

    /// The scheme with its parameters.
    pub fn scheme(&self) -> &Arc<dyn Scheme> {
        &self.scheme
    }

    /// h.
    pub fn width(&self) -> ContextWidth {
        self.width
    }

    /// Which of the context's tokens decide.
    pub fn seeding(&self) -> Seeding {
        self.seeding
    }

    /// τ.
    pub fn threshold(&self) -> Option<Nats> {
        self.scheme.threshold()
    }

    /// The parameters by name, for people: those of every profile and the scheme's own, τ and model among them.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, Member)> {
        let mut members = Members::new();
        self.scheme.members(&mut members);
        members.insert("context_width", Member::Number(f64::from(self.width.byte())));
        members.insert("seeding", Member::Text(self.seeding.name().into()));
        members.into_iter().filter(|(name, _)| *name != "model_sha256")
    }
}

/// A row of the table: what is the same for all profiles of a scheme.
#[derive(Debug)]
pub struct Kind {
    /// The name in profiles.
    pub algorithm: &'static str,
    /// One sentence for people: what it does to a text.
    pub summary: &'static str,
    /// Where it is defined: paper, equation.
    pub source: &'static str,
    /// What its words are for: a purpose of its own, unless it shares lists.
    pub purpose: Purpose,
    /// What counts once.
    pub admission: Admission,
    /// Its own members of a profile, beside those that every profile has.
    pub parameters: &'static [Parameter],
    /// The recipes that have a name.
    pub built_in: &'static [BuiltIn],
    /// Reads its own members of a profile.
    pub read: fn(&mut MemberReader) -> Result<Arc<dyn Scheme>, MemberError>,
    /// What it asks of width and seeding.
    pub fits: fn(&Recipe) -> Result<(), OutOfRange>,
}

/// A recipe with a name.
#[derive(Debug)]
pub struct BuiltIn {
    /// The name.
    pub name: &'static str,
    /// Makes it.
    pub recipe: fn() -> Recipe,
}

/// A member of a profile that one scheme has.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name in the canonical JSON.
    pub name: &'static str,
    /// What it is, with symbol, range and unit.
    pub help: &'static str,
    /// What it may be.
    pub form: Form,
}

/// What a member may be.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A number within bounds.
    Number {
        /// The least.
        least: f64,
        /// The greatest.
        greatest: f64,
        /// Whether it may be null.
        nullable: bool,
    },
    /// One of these words.
    Words(&'static [&'static str]),
    /// A SHA-256, or null.
    Digest,
}

/// One scheme with its parameters: how words of the keyed function become a mark and, later, evidence.
///
/// Calls are coarse, one a step and one a text and key; the loops are inside. Detection is a function of the words
/// alone: which positions are scored is decided before, by [`Admission`] and by what a model says of the text.
pub trait Scheme: fmt::Debug + Send + Sync {
    /// Its row of the table.
    fn kind(&self) -> &'static Kind;

    /// Its own members of the profile's canonical JSON.
    fn members(&self, profile: &mut Members);

    /// How words are scored, in bytes: the name of the score and the parameters that detection reads. Equal bytes are the
    /// same score, whatever the schemes are called.
    fn reads(&self) -> Vec<u8>;

    /// τ: only positions with entropy strictly above it are marked. `None` marks everywhere.
    fn threshold(&self) -> Option<Nats> {
        None
    }

    /// The same with another τ; `None` if the scheme has none.
    fn gated(&self, _threshold: Option<Nats>) -> Option<Arc<dyn Scheme>> {
        None
    }

    /// The law of one position's score without the mark.
    fn null(&self) -> &Null;

    /// The score of one word.
    fn score(&self, word: u32) -> f64;

    /// Σ of the scores.
    fn total(&self, words: &[u32]) -> f64;

    /// Whether a word speaks for the mark: scores more than its mean without one.
    fn favours(&self, word: u32) -> bool;

    /// What a scored position gives in text that carries a mark of ordinary strength.
    fn strength(&self) -> Strength;

    /// Where it acts.
    fn embedder(&self) -> Embedder<'_>;

    /// What marking does on average to a position with these probabilities, for choosing τ; `None` where there is
    /// nothing to choose.
    fn effect(&self, _of: &Spread<'_>) -> Option<Effect> {
        None
    }
}

/// Where a scheme acts in the sampling chain.
#[derive(Clone, Copy)]
pub enum Embedder<'a> {
    /// On raw logits, before penalty, temperature, top-k and top-p.
    Raw(&'a dyn RawLogits),
    /// On what those leave.
    Final(&'a dyn FinalDistribution),
}

impl fmt::Debug for Embedder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.site())
    }
}

impl Embedder<'_> {
    /// The name that enters the profile.
    pub fn site(&self) -> &'static str {
        match self {
            Self::Raw(_) => "raw-logits",
            Self::Final(_) => "final-distribution",
        }
    }
}

/// A scheme that changes raw logits.
pub trait RawLogits {
    /// Marks one step in place; `context` are the last h generated tokens.
    fn raw(&self, words: &WordKey, context: &[TokenId], entropy: Nats, logits: &mut [f32]) -> Step;
}

/// A scheme that chooses from the final distribution.
pub trait FinalDistribution {
    /// The place of the candidate that the words of `context` choose; `None` if none weighs anything.
    fn choose(&self, words: &WordKey, context: &[TokenId], candidates: &Candidates<'_>) -> Option<usize>;
}

/// The probabilities of one position, in three parts.
#[derive(Clone, Copy, Debug)]
pub struct Spread<'a> {
    /// The largest ones.
    pub top: &'a [f64],
    /// Σ p of the others.
    pub rest: f64,
    /// Σ p² of the others.
    pub squares: f64,
}

/// What marking does to one position, averaged over keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// By how much the expected score rises.
    pub lift: f64,
    /// Kullback–Leibler divergence of the marked distribution from the unmarked one, in nats.
    pub damage: f64,
}

/// What the mark did to one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The mark took part in the choice of the token.
    Marked,
    /// The entropy was not above τ: the logits are untouched (Lee et al. 2023, SWEET, §4).
    LowEntropy,
    /// Fewer than `h` tokens were generated yet.
    ShortContext,
    /// The context had decided a token before, so the sampler drew this one by itself.
    RepeatedContext,
    /// The sampler takes the likeliest token: there was nothing to choose from.
    Greedy,
    /// One token was left after top-k and top-p.
    Certain,
}

impl Step {
    /// Whether enough tokens stood before it that a detector may score it.
    pub fn is_eligible(self) -> bool {
        self != Self::ShortContext
    }
}

/// The tokens that are left after penalty, temperature, top-k and top-p, in ascending order of number.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// Their numbers; `None`: all tokens, from 0.
    pub ids: Option<&'a [u32]>,
    /// What each weighs, in proportion to its probability; 0 for one that may not be drawn.
    pub weights: &'a [f32],
}

impl Candidates<'_> {
    /// The place of the only candidate, if there is only one.
    pub fn certain(&self) -> Option<usize> {
        let mut weighing = (0..).zip(self.weights).filter(|(_, weight)| **weight > 0.0);
        weighing.next().filter(|_| weighing.next().is_none()).map(|(place, _)| place)
    }
}
