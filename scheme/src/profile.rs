//! The profile: what generation and detection must agree on, content-addressed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::str::FromStr;

use sha2::{Digest, Sha256};

use crate::{
    ContextWidth, FunctionVersion, Member, MemberError, MemberReader, Members, Nats, OutOfRange, Recipe,
    Seeding, Sha256Digest, WordFamily, schemes,
};

/// A recipe that cannot become a profile.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindError {
    /// A parameter that is none, or not with the others.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is nothing to choose from.
    #[error("seeding min chooses one of the context's tokens: give a context width of 1 or more")]
    SeedingWithoutContext,
    /// The entropies that τ cuts belong to one model.
    #[error("a profile with an entropy threshold names a model: give the model's SHA-256")]
    ThresholdWithoutModel,
}

impl Recipe {
    /// The built-in recipe of that name, if there is one ([`built_in_names`] lists them).
    pub fn built_in(name: &str) -> Option<Self> {
        schemes::built_in().find(|built_in| built_in.name == name).map(|built_in| (built_in.recipe)())
    }

    /// Binds the recipe to what it is used with. The model is kept only when τ needs it, so that ungated
    /// profiles are the same for every model that shares a tokenizer.
    pub fn bind(self, tokenizer: Sha256Digest, model: Option<Sha256Digest>) -> Result<Profile, BindError> {
        let model = match (self.threshold(), model) {
            (None, _) => None,
            (Some(_), Some(model)) => Some(model),
            (Some(_), None) => return Err(BindError::ThresholdWithoutModel),
        };
        self.bind_unread(tokenizer, model)
    }

    /// The profile without its model, for detection that reads no entropies: τ and model decide no word, only which
    /// positions were marked. Its id is not one that generation names.
    pub fn bind_unread(
        self,
        tokenizer: Sha256Digest,
        model: Option<Sha256Digest>,
    ) -> Result<Profile, BindError> {
        if let Some(threshold) = self.threshold() {
            Nats::threshold(threshold.get())?;
        }
        if self.seeding() == Seeding::Min && self.width().is_empty() {
            return Err(BindError::SeedingWithoutContext);
        }
        (self.scheme().kind().fits)(&self)?;
        Ok(Profile::of(self, tokenizer, model, None))
    }
}

/// Names of the built-in recipes.
pub fn built_in_names() -> Vec<&'static str> {
    schemes::built_in().map(|built_in| built_in.name).collect()
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

/// A recipe bound to a tokenizer and, when τ is set, a model. Immutable, and equal if its content is.
#[derive(Clone, Debug)]
pub struct Profile {
    recipe: Recipe,
    tokenizer: Sha256Digest,
    model: Option<Sha256Digest>,
    background: Option<Sha256Digest>,
    id: ProfileId,
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Profile {}

impl Profile {
    fn of(
        recipe: Recipe,
        tokenizer: Sha256Digest,
        model: Option<Sha256Digest>,
        background: Option<Sha256Digest>,
    ) -> Self {
        let mut profile = Self { recipe, tokenizer, model, background, id: ProfileId(String::new()) };
        let digest = Sha256::digest(profile.canonical_json().as_bytes());
        profile.id =
            ProfileId(format!("wp_{}", data_encoding::BASE32_NOPAD.encode(&digest).to_ascii_lowercase()));
        profile
    }

    /// The same profile with a background list: the windows on it are not scored by detection. Marking goes on
    /// there, so texts marked under either profile are found under both.
    pub fn with_background(self, list: Option<Sha256Digest>) -> Self {
        Self::of(self.recipe, self.tokenizer, self.model, list)
    }

    /// The unbound parameters.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// τ.
    pub fn threshold(&self) -> Option<Nats> {
        self.recipe.threshold()
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

    /// The words this profile uses: of its scheme's parameters none enters, nor τ or the background.
    pub fn family(&self) -> WordFamily {
        WordFamily {
            purpose: self.recipe.scheme().kind().purpose,
            function: FunctionVersion::V1,
            tokenizer: self.tokenizer,
            width: self.recipe.width(),
            seeding: self.recipe.seeding(),
        }
    }

    /// The members of the canonical JSON.
    pub fn members(&self) -> Members {
        let digest = |digest: Sha256Digest| Member::Text(digest.to_string());
        let mut members = Members::new();
        members.insert("algorithm", Member::Text(self.recipe.scheme().kind().algorithm.into()));
        members.insert("context_width", Member::Number(f64::from(self.recipe.width().byte())));
        members.insert("function_version", Member::Number(f64::from(FunctionVersion::V1.number())));
        members.insert("seeding", Member::Text(self.recipe.seeding().name().into()));
        members.insert("tokenizer_sha256", digest(self.tokenizer));
        if let Some(list) = self.background {
            members.insert("background_sha256", digest(list));
        }
        if let Some(model) = self.model {
            members.insert("model_sha256", digest(model));
        }
        self.recipe.scheme().members(&mut members);
        members
    }

    /// The canonical JSON (RFC 8785: sorted keys, no white space, shortest numbers) that the id addresses.
    ///
    /// A profile without a background list has no member for it, so that its id is what it was before there were any.
    pub fn canonical_json(&self) -> String {
        let mut json = String::from("{");
        for (name, member) in self.members() {
            let comma = if json.len() > 1 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(json, "{comma}\"{name}\":{member}");
        }
        json.push('}');
        json
    }

    /// Reads the members of a profile, as outside bytes gave them: each is used, and none is left over.
    pub fn read(members: BTreeMap<String, Member>) -> Result<Self, FormError> {
        let mut members = MemberReader::from(members);
        let algorithm = members.text("algorithm")?;
        let kind = schemes::named(&algorithm).ok_or_else(|| {
            MemberError::unsupported(
                "algorithm",
                &algorithm,
                &join(schemes::SCHEMES.iter().map(|kind| kind.algorithm)),
            )
        })?;
        let version = members.number("function_version")?;
        if version.total_cmp(&f64::from(FunctionVersion::V1.number())).is_ne() {
            return Err(MemberError::unsupported("function_version", &version.to_string(), "1").into());
        }
        let seeding = members.text("seeding")?;
        let seeding = Seeding::named(&seeding)
            .ok_or_else(|| MemberError::unsupported("seeding", &seeding, "left or min"))?;
        let width = members.number("context_width")?;
        let width = ContextWidth::of_number(width).map_err(MemberError::from)?;
        let tokenizer = members.digest("tokenizer_sha256")?;
        let background = members.optional_digest("background_sha256")?;
        let scheme = (kind.read)(&mut members)?;
        let names_model = kind.parameters.iter().any(|parameter| parameter.name == "model_sha256");
        let model = if names_model { members.required_null_or_digest("model_sha256")? } else { None };
        members.end()?;
        if model.is_some() && scheme.threshold().is_none() {
            return Err(FormError::ModelWithoutThreshold);
        }
        let recipe = Recipe::new(scheme, width).seeded(seeding);
        Ok(recipe.bind(tokenizer, model)?.with_background(background))
    }

    /// The content address.
    pub fn id(&self) -> ProfileId {
        self.id.clone()
    }
}

/// Names in one line.
fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(" or ")
}

/// Members that are no profile of this version.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormError {
    /// One of them.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// Together: τ without its model, or a width that the scheme does not take.
    #[error("the profile: {0}")]
    Bind(#[from] BindError),
    /// A model without τ.
    #[error("the profile has a model_sha256 but no entropy_threshold; its model would have no meaning")]
    ModelWithoutThreshold,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemes::green_list;
    use proptest::prelude::*;

    #[test]
    fn built_in_recipes_are_in_range_and_have_names_of_their_own() {
        let names = built_in_names();
        for name in &names {
            let recipe = Recipe::built_in(name).unwrap();
            let profile = recipe.bind(Sha256Digest([0; 32]), Some(Sha256Digest([1; 32]))).unwrap();
            assert_eq!(profile.id().as_str().parse(), Ok(profile.id()), "{name}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn the_model_enters_only_with_a_threshold() {
        let (tokenizer, model) = (Sha256Digest([3; 32]), Sha256Digest([4; 32]));
        let bind = |recipe: Recipe, model| recipe.bind(tokenizer, model);
        let [prose, code] = ["prose-v1", "code-v1"].map(|name| Recipe::built_in(name).unwrap());
        assert_eq!(bind(prose.clone(), Some(model)), bind(prose, None));
        assert_eq!(bind(code.clone(), None), Err(BindError::ThresholdWithoutModel));
        assert!(green_list::recipe(0.25, 3.0, 1, Some(1e-7)).is_err());
        let nothing = green_list::recipe(0.25, 2.0, 0, None).unwrap().seeded(Seeding::Min);
        assert_eq!(bind(nothing, None), Err(BindError::SeedingWithoutContext));
        let other = bind(code.clone(), Some(tokenizer)).unwrap();
        assert_ne!(bind(code, Some(model)).unwrap().id(), other.id());
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
            let profile = green_list::recipe(gamma, delta, width, tau)
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
