//! Profiles by name: a built-in recipe, or a file with a profile's JSON; and that JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use dandyroll_scheme::{BindError, Member, Nats, Profile, ProfileId, Recipe, Sha256Digest, built_in_names};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::read_bounded;

/// A profile has about 400 bytes; more is something else given by mistake.
const MAX_BYTES: usize = 64 * 1024;

/// Why a named profile could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No recipe and no file has this name.
    #[error("profile {0:?} is neither built in ({list}) nor a file", list = built_in_names().join(", "))]
    Unknown(String),
    /// The system refused, or the file is not text.
    #[error("profile {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What the file holds.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormError,
    },
    /// More than a profile has.
    #[error("profile {path}: it has more than {MAX_BYTES} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// A recipe that needs more than it is bound to.
    #[error("profile {profile}: {source}")]
    Bind {
        /// The recipe's name.
        profile: String,
        /// What is missing.
        source: BindError,
    },
    /// A profile for something else than what is in use.
    #[error("profile {profile} is for another {what}: it names {expected}, the one given has {found}")]
    Other {
        /// The profile.
        profile: ProfileId,
        /// Tokenizer or model.
        what: &'static str,
        /// Its digest in the profile.
        expected: Sha256Digest,
        /// The digest of the one in use.
        found: Sha256Digest,
    },
}

/// JSON that is no profile of this version.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// Its form.
    #[error("the profile's JSON: {0}")]
    Json(String),
    /// What it says.
    #[error(transparent)]
    Form(#[from] dandyroll_scheme::FormError),
}

/// What a profile's name means, before anything is known of the tokenizer and model in use.
#[derive(Debug)]
pub enum Named {
    /// A built-in recipe, to be bound to what is used.
    BuiltIn(String, Recipe),
    /// A profile that names what it is for.
    Bound(Profile),
}

impl Named {
    /// Looks a name up: built in first, then a file.
    pub fn find(name: &str) -> Result<Self, ProfileError> {
        if let Some(recipe) = Recipe::built_in(name) {
            return Ok(Self::BuiltIn(name.to_owned(), recipe));
        }
        let path = Path::new(name);
        let file = match std::fs::File::open(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(ProfileError::Unknown(name.to_owned()));
            }
            opened => opened.and_then(|file| read_bounded(file, MAX_BYTES)),
        };
        let text = file.map_err(|source| ProfileError::Io { path: path.into(), source })?;
        let text = text.ok_or_else(|| ProfileError::TooLarge { path: path.into() })?;
        read(path, &text).map(Self::Bound)
    }

    /// τ; the model is needed to see which positions it lets through.
    pub fn threshold(&self) -> Option<Nats> {
        self.recipe().threshold()
    }

    /// The parameters, whatever they are bound to.
    pub fn recipe(&self) -> &Recipe {
        match self {
            Self::BuiltIn(_, recipe) => recipe,
            Self::Bound(profile) => profile.recipe(),
        }
    }

    /// Binds a recipe to what is in use, or checks that a profile is for it. Without a model at hand a
    /// profile's own model is taken on trust: it decides no list, only which positions were biased.
    pub fn bind(
        &self,
        tokenizer: Sha256Digest,
        model: Option<Sha256Digest>,
    ) -> Result<Profile, ProfileError> {
        let profile = match self {
            Self::BuiltIn(name, recipe) => {
                return recipe
                    .clone()
                    .bind(tokenizer, model)
                    .map_err(|source| ProfileError::Bind { profile: name.clone(), source });
            }
            Self::Bound(profile) => profile.clone(),
        };
        let differs =
            |what, expected, found| ProfileError::Other { profile: profile.id(), what, expected, found };
        if profile.tokenizer() != tokenizer {
            return Err(differs("tokenizer", profile.tokenizer(), tokenizer));
        }
        match (profile.model(), model) {
            (Some(expected), Some(found)) if expected != found => Err(differs("model", expected, found)),
            _ => Ok(profile),
        }
    }

    /// What detection without a model needs: the words are known all the same.
    pub fn model_free(&self, tokenizer: Sha256Digest) -> Result<ModelFree, ProfileError> {
        match self {
            Self::BuiltIn(name, recipe) if recipe.threshold().is_some() => {
                let profile = recipe
                    .clone()
                    .bind_unread(tokenizer, None)
                    .map_err(|source| ProfileError::Bind { profile: name.clone(), source })?;
                Ok(ModelFree { profile, label: format!("{name} (its id depends on the model)") })
            }
            _ => {
                let profile = self.bind(tokenizer, None)?;
                Ok(ModelFree { label: profile.id().to_string(), profile })
            }
        }
    }
}

/// A profile, and how results name it, where no model is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFree {
    /// The profile. A built-in one with a threshold lacks its model, which decides no word.
    pub profile: Profile,
    /// The profile's id; the recipe's name where the id depends on a model.
    pub label: String,
}

/// Reads a profile's file.
fn read(path: &Path, bytes: &[u8]) -> Result<Profile, ProfileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        ProfileError::Io { path: path.into(), source }
    })?;
    parse(text).map_err(|source| ProfileError::File { path: path.into(), source })
}

/// A profile's JSON object, each member once.
struct Object(BTreeMap<String, Member>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a profile: an object of numbers, texts and null")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, OneMember(member))) = map.next_entry::<String, OneMember>()? {
                    if members.insert(name.clone(), member).is_some() {
                        let shown: String = name.chars().take(64).collect();
                        return Err(A::Error::custom(format_args!("member {shown:?} is given twice")));
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// One value of it.
struct OneMember(Member);

impl<'de> Deserialize<'de> for OneMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = OneMember;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text or null")
            }

            fn visit_unit<E>(self) -> Result<OneMember, E> {
                Ok(OneMember(Member::Null))
            }

            fn visit_f64<E>(self, number: f64) -> Result<OneMember, E> {
                Ok(OneMember(Member::Number(number)))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<OneMember, E> {
                let small = u32::try_from(number).map_err(|_| E::custom("a whole number beyond 32 bits"))?;
                self.visit_f64(f64::from(small))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<OneMember, E> {
                let small = i32::try_from(number).map_err(|_| E::custom("a whole number beyond 32 bits"))?;
                self.visit_f64(f64::from(small))
            }

            fn visit_str<E>(self, text: &str) -> Result<OneMember, E> {
                Ok(OneMember(Member::Text(text.to_owned())))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// Reads a profile's JSON.
pub fn parse(text: &str) -> Result<Profile, FormError> {
    let Object(members) = serde_json::from_str(text).map_err(|error| FormError::Json(error.to_string()))?;
    Ok(Profile::read(members)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::Seeding;
    use dandyroll_scheme::schemes::green_list::{self, code_v1};
    use proptest::prelude::*;

    const TOKENIZER: Sha256Digest = Sha256Digest([1; 32]);
    const MODEL: Sha256Digest = Sha256Digest([2; 32]);

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.json");
        std::fs::write(&path, text).unwrap();
        let name = path.to_str().unwrap().to_owned();
        (folder, name)
    }

    #[test]
    fn a_written_profile_reads_back_and_is_checked_against_what_is_in_use() {
        let code = code_v1().bind(TOKENIZER, Some(MODEL)).unwrap();
        let (_folder, name) = file(&code.canonical_json());
        let named = Named::find(&name).unwrap();
        assert_eq!(named.threshold(), code.threshold());
        assert_eq!(named.bind(TOKENIZER, Some(MODEL)).unwrap(), code);
        assert_eq!(named.bind(TOKENIZER, None).unwrap().id(), code.id());
        assert!(named.bind(MODEL, Some(MODEL)).unwrap_err().to_string().contains("another tokenizer"));
        assert!(named.bind(TOKENIZER, Some(TOKENIZER)).unwrap_err().to_string().contains("another model"));
    }

    #[test]
    fn every_built_in_reads_back_under_both_seedings() {
        for name in built_in_names() {
            let recipe = Recipe::built_in(name).unwrap();
            for seeding in [Seeding::Left, Seeding::Min] {
                let profile = recipe.clone().seeded(seeding).bind(TOKENIZER, Some(MODEL)).unwrap();
                assert_eq!(parse(&profile.canonical_json()).unwrap(), profile);
            }
        }
    }

    #[test]
    fn each_fault_has_a_message_of_its_own() {
        let good = code_v1().bind(TOKENIZER, Some(MODEL)).unwrap().canonical_json();
        let cases = [
            (
                good.replace("green-list", "red-list"),
                "algorithm is \"red-list\"; this version knows only \"green-list or gumbel\"",
            ),
            (good.replace("\"function_version\":1", "\"function_version\":2"), "function_version is \"2\""),
            (
                good.replace("\"left\"", "\"max\""),
                "seeding is \"max\"; this version knows only \"left or min\"",
            ),
            (
                good.replace("\"left\"", "\"min\"").replace("\"context_width\":1", "\"context_width\":0"),
                "a context width of 1 or more",
            ),
            (good.replace("raw-logits", "after-top-p"), "bias_site is"),
            (good.replace("\"gamma\":0.25", "\"gamma\":1.25"), "gamma = 1.25 is out of range"),
            (good.replace("\"delta\":3", "\"delta\":-3"), "delta = -3"),
            (good.replace("\"context_width\":1", "\"context_width\":9"), "context width = 9"),
            (good.replace("\"context_width\":1", "\"context_width\":999"), "context width = 999"),
            (good.replace("\"context_width\":1", "\"context_width\":1.5"), "context width = 1.5"),
            (good.replace("\"context_width\":1", "\"context_width\":[1]"), "line 1 column"),
            (good.replace("\"context_width\":1", "\"context_width\":1,\"context_width\":1"), "given twice"),
            (good.replace("\"context_width\":1", "\"context_width\":1,\"depth\":1"), "member \"depth\""),
            (good.replace("\"entropy_threshold\":0.9", "\"entropy_threshold\":null"), "no entropy_threshold"),
            (good.replace(&TOKENIZER.to_string(), "abc"), "tokenizer_sha256: \"abc\" is not a SHA-256"),
            (good.replace(&format!("\"{MODEL}\""), "null"), "give the model's SHA-256"),
            (good.replace("\"gamma\"", "\"gama\""), "has no gamma"),
            (good[..40].to_owned(), "EOF"),
        ];
        for (text, expected) in cases {
            let (_folder, name) = file(&text);
            let message = Named::find(&name).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(&name), "{expected:?} not in {message:?}");
        }
        let message = Named::find("prose-v2").unwrap_err().to_string();
        assert!(message.contains("prose-v1, code-v1"), "{message}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_without_a_panic(text in ".{0,300}") {
            prop_assert!(read(Path::new("p"), text.as_bytes()).is_err());
        }

        #[test]
        fn every_profile_reads_back(
            gamma in 1e-6..0.999_999,
            delta in 1e-6..100.0,
            width in 0_u8..=8,
            min in any::<bool>(),
            tau in proptest::option::of(1e-6..100.0),
            background in proptest::option::of(Just(MODEL)),
        ) {
            let seeding = if min && width > 0 { Seeding::Min } else { Seeding::Left };
            let recipe = green_list::recipe(gamma, delta, width, tau).unwrap().seeded(seeding);
            let profile = recipe.bind(TOKENIZER, Some(MODEL)).unwrap();
            let profile = profile.with_background(background);
            let read = read(Path::new("p"), profile.canonical_json().as_bytes()).unwrap();
            prop_assert_eq!(read.id(), profile.id());
        }
    }
}
