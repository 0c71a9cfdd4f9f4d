//! The profile: what generation and detection must agree on, content-addressed.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};

use crate::{
    ContextWidth, Delta, FunctionVersion, Gamma, ListFamily, Nats, OutOfRange, Seeding, Sha256Digest,
};

/// Where in the sampling chain the bias acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BiasSite {
    /// On raw `f32` logits, before repetition penalty, temperature, top-k and top-p.
    RawLogits,
}

impl BiasSite {
    /// The name that enters the profile.
    pub fn name(self) -> &'static str {
        match self {
            Self::RawLogits => "raw-logits",
        }
    }
}

/// The parameters of a mark before they are bound to a tokenizer and a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// γ, the green share.
    pub gamma: Gamma,
    /// δ, in logits.
    pub delta: Delta,
    /// h.
    pub width: ContextWidth,
    /// How the context decides the list.
    pub seeding: Seeding,
    /// τ in nats: only positions with entropy strictly above it are biased. `None` marks everywhere.
    pub threshold: Option<Nats>,
}

/// Names of the built-in recipes: see [`Recipe::built_in`].
pub const BUILT_IN: [&str; 2] = ["prose-v1", "code-v1"];

/// A recipe that cannot become a profile.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindError {
    /// τ is an entropy, but none that a threshold can be.
    #[error(transparent)]
    Threshold(#[from] OutOfRange),
    /// There is nothing to choose from.
    #[error("seeding min chooses one of the context's tokens: give a context width of 1 or more")]
    SeedingWithoutContext,
    /// The entropies that τ cuts belong to one model.
    #[error("a profile with an entropy threshold names a model: give the model's SHA-256")]
    ThresholdWithoutModel,
}

impl Recipe {
    /// Checks raw numbers, naming the first that is out of range. Seeding is `left`; see [`Recipe::seeded`].
    pub fn new(gamma: f64, delta: f64, width: u8, threshold: Option<f64>) -> Result<Self, OutOfRange> {
        Ok(Self {
            gamma: Gamma::new(gamma)?,
            delta: Delta::new(delta)?,
            width: ContextWidth::new(width)?,
            seeding: Seeding::Left,
            threshold: threshold.map(Nats::threshold).transpose()?,
        })
    }

    /// The same with another seeding.
    pub fn seeded(self, seeding: Seeding) -> Self {
        Self { seeding, ..self }
    }

    /// The built-in recipe of that name, if there is one ([`BUILT_IN`] lists them).
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "prose-v1" => Some(Self::prose_v1()),
            "code-v1" => Some(Self::code_v1()),
            _ => None,
        }
    }

    /// `prose-v1`: γ .25, δ 2 (Kirchenbauer et al. 2023), h 2, no τ.
    pub fn prose_v1() -> Self {
        Self::constant(0.25, 2.0, 2, None)
    }

    /// `code-v1`: γ .25, δ 3, h 1, τ .9 nats (Lee et al. 2023, SWEET).
    pub fn code_v1() -> Self {
        Self::constant(0.25, 3.0, 1, Some(0.9))
    }

    #[expect(clippy::expect_used, reason = "constants in range; a unit test makes every one of them")]
    fn constant(gamma: f64, delta: f64, width: u8, threshold: Option<f64>) -> Self {
        Self::new(gamma, delta, width, threshold).expect("built-in recipes are in range")
    }

    /// Binds the recipe to what it is used with. The model is kept only when τ needs it, so that ungated
    /// profiles are the same for every model that shares a tokenizer.
    pub fn bind(self, tokenizer: Sha256Digest, model: Option<Sha256Digest>) -> Result<Profile, BindError> {
        if let Some(threshold) = self.threshold {
            Nats::threshold(threshold.get())?;
        }
        if self.seeding == Seeding::Min && self.width.is_empty() {
            return Err(BindError::SeedingWithoutContext);
        }
        let model = match (self.threshold, model) {
            (None, _) => None,
            (Some(_), Some(model)) => Some(model),
            (Some(_), None) => return Err(BindError::ThresholdWithoutModel),
        };
        Ok(Profile { recipe: self, tokenizer, model, background: None })
    }
}

/// A profile's content address: `wp_` and 52 base-32 characters of the SHA-256 of its canonical JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(String);

impl ProfileId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProfileId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("wp_").unwrap_or_default();
        if body.len() == 52 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(text.into()))
        } else {
            Err("a profile id is wp_ followed by 52 characters of a-z and 2-7")
        }
    }
}

/// A recipe bound to a tokenizer and, when τ is set, a model. Immutable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    recipe: Recipe,
    tokenizer: Sha256Digest,
    model: Option<Sha256Digest>,
    background: Option<Sha256Digest>,
}

impl Profile {
    /// The same profile with a background list: the windows on it are not scored by detection. Marking goes on
    /// there, so texts marked under either profile are found under both.
    pub fn with_background(self, list: Option<Sha256Digest>) -> Self {
        Self { background: list, ..self }
    }

    /// The unbound parameters.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// γ.
    pub fn gamma(&self) -> Gamma {
        self.recipe.gamma
    }

    /// δ.
    pub fn delta(&self) -> Delta {
        self.recipe.delta
    }

    /// τ.
    pub fn threshold(&self) -> Option<Nats> {
        self.recipe.threshold
    }

    /// SHA-256 of `tokenizer.json`.
    pub fn tokenizer(&self) -> Sha256Digest {
        self.tokenizer
    }

    /// SHA-256 of the model; present iff τ is.
    pub fn model(&self) -> Option<Sha256Digest> {
        self.model
    }

    /// The content address of the background list, if there is one.
    pub fn background(&self) -> Option<Sha256Digest> {
        self.background
    }

    /// The lists this profile uses; γ, δ, τ and the background do not enter.
    pub fn family(&self) -> ListFamily {
        ListFamily {
            function: FunctionVersion::V1,
            tokenizer: self.tokenizer,
            width: self.recipe.width,
            seeding: self.recipe.seeding,
        }
    }

    /// The canonical JSON (RFC 8785: sorted keys, no white space, shortest numbers) that the id addresses.
    ///
    /// A profile without a background list has no member for it, so that its id is what it was before there were
    /// any. Ranges keep every number where Rust's shortest form is ECMAScript's too: 0, or 10⁻⁶ to 100.
    pub fn canonical_json(&self) -> String {
        let Recipe { gamma, delta, width, seeding, threshold } = self.recipe;
        let threshold = threshold.map_or_else(|| String::from("null"), |tau| format!("{}", tau.get()));
        let model = self.model.map_or_else(|| String::from("null"), |model| format!("\"{model}\""));
        let background =
            self.background.map_or_else(String::new, |list| format!("\"background_sha256\":\"{list}\","));
        format!(
            "{{\"algorithm\":\"green-list\",{background}\"bias_site\":\"{}\",\"context_width\":{},\"delta\":{},\
             \"entropy_threshold\":{threshold},\"function_version\":{},\"gamma\":{},\
             \"model_sha256\":{model},\"seeding\":\"{}\",\"tokenizer_sha256\":\"{}\"}}",
            BiasSite::RawLogits.name(),
            width.byte(),
            delta.get(),
            FunctionVersion::V1.number(),
            gamma.get(),
            seeding.name(),
            self.tokenizer,
        )
    }

    /// The content address.
    pub fn id(&self) -> ProfileId {
        let digest = Sha256::digest(self.canonical_json().as_bytes());
        ProfileId(format!("wp_{}", data_encoding::BASE32_NOPAD.encode(&digest).to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn built_in_recipes_are_in_range() {
        for name in BUILT_IN {
            let recipe = Recipe::built_in(name).unwrap();
            let profile = recipe.bind(Sha256Digest([0; 32]), Some(Sha256Digest([1; 32]))).unwrap();
            assert_eq!(profile.id().as_str().parse(), Ok(profile.id()), "{name}");
        }
    }

    #[test]
    fn the_model_enters_only_with_a_threshold() {
        let (tokenizer, model) = (Sha256Digest([3; 32]), Sha256Digest([4; 32]));
        let bind = |recipe: Recipe, model| recipe.bind(tokenizer, model);
        assert_eq!(bind(Recipe::prose_v1(), Some(model)), bind(Recipe::prose_v1(), None));
        assert_eq!(bind(Recipe::code_v1(), None), Err(BindError::ThresholdWithoutModel));
        let odd = Recipe { threshold: Some(Nats::new(1e-7).unwrap()), ..Recipe::code_v1() };
        assert!(matches!(bind(odd, Some(model)), Err(BindError::Threshold(_))));
        let nothing = Recipe::new(0.25, 2.0, 0, None).unwrap().seeded(Seeding::Min);
        assert_eq!(bind(nothing, None), Err(BindError::SeedingWithoutContext));
        let other = bind(Recipe::code_v1(), Some(tokenizer)).unwrap();
        assert_ne!(bind(Recipe::code_v1(), Some(model)).unwrap().id(), other.id());
    }

    proptest! {
        #[test]
        fn canonical_json_is_canonical(
            gamma in 1e-6..0.999_999,
            delta in 1e-6..100.0,
            width in 0_u8..=8,
            tau in proptest::option::of(1e-6..100.0),
            background in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let background = background.map(Sha256Digest);
            let profile = Recipe::new(gamma, delta, width, tau)
                .unwrap()
                .bind(Sha256Digest([9; 32]), Some(Sha256Digest([8; 32])))
                .unwrap()
                .with_background(background);
            let text = profile.canonical_json();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            // Keys come out sorted and numbers unchanged.
            prop_assert_eq!(value["gamma"].as_f64(), Some(gamma));
            prop_assert_eq!(value["delta"].as_f64(), Some(delta));
            prop_assert_eq!(value["entropy_threshold"].as_f64(), tau);
            let object = value.as_object().unwrap();
            let named = background.map(|list| format!("{list}"));
            prop_assert_eq!(object.get("background_sha256").and_then(|v| v.as_str()), named.as_deref());
            prop_assert_eq!(object.len(), if named.is_some() { 11 } else { 10 });
            let in_order = object.keys().map(|key| text.find(&format!("\"{key}\":")).unwrap());
            prop_assert!(in_order.clone().is_sorted());
            prop_assert!(!text.contains(' '));
        }
    }
}
