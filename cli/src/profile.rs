//! Profiles named on the command line: a built-in recipe, or a file with a profile's JSON.

use std::path::{Path, PathBuf};

use dandyroll_scheme::{BUILT_IN, BindError, Gamma, Nats, Profile, ProfileId, Recipe, Sha256Digest};

use crate::input::read_bounded;

/// A profile has about 400 bytes; more is something else given by mistake.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    #[error("profile {0:?} is neither built in ({list}) nor a file", list = BUILT_IN.join(", "))]
    Unknown(String),
    #[error("profile {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: dandyroll_server::profiles::ProfileError },
    #[error("profile {path}: it has more than {MAX_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("profile {profile}: {source}")]
    Bind { profile: String, source: BindError },
    #[error("profile {profile} is for another {what}: it names {expected}, the one given has {found}")]
    Other { profile: ProfileId, what: &'static str, expected: Sha256Digest, found: Sha256Digest },
}

/// What `--profile` named, before anything is known of the tokenizer and model in use.
#[derive(Debug)]
pub(crate) enum Named {
    /// A built-in recipe, to be bound to what is used.
    BuiltIn(String, Recipe),
    /// A profile that names what it is for.
    Bound(Profile),
}

impl Named {
    /// Looks a name up: built in first, then a file.
    pub(crate) fn find(name: &str) -> Result<Self, ProfileError> {
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
        parse(path, &text).map(Self::Bound)
    }

    /// τ; the model is needed to see which positions it lets through.
    pub(crate) fn threshold(&self) -> Option<Nats> {
        match self {
            Self::BuiltIn(_, recipe) => recipe.threshold,
            Self::Bound(profile) => profile.threshold(),
        }
    }

    /// γ.
    pub(crate) fn gamma(&self) -> Gamma {
        match self {
            Self::BuiltIn(_, recipe) => recipe.gamma,
            Self::Bound(profile) => profile.gamma(),
        }
    }

    /// The parameters, whatever they are bound to.
    pub(crate) fn recipe(&self) -> Recipe {
        match self {
            Self::BuiltIn(_, recipe) => *recipe,
            Self::Bound(profile) => *profile.recipe(),
        }
    }

    /// Binds a recipe to what is in use, or checks that a profile is for it. Without a model at hand a
    /// profile's own model is taken on trust: it decides no list, only which positions were biased.
    pub(crate) fn bind(
        &self,
        tokenizer: Sha256Digest,
        model: Option<Sha256Digest>,
    ) -> Result<Profile, ProfileError> {
        let profile = match self {
            Self::BuiltIn(name, recipe) => {
                return recipe
                    .bind(tokenizer, model)
                    .map_err(|source| ProfileError::Bind { profile: name.clone(), source });
            }
            Self::Bound(profile) => *profile,
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
}

/// Reads a profile's JSON as the service does.
fn parse(path: &Path, text: &[u8]) -> Result<Profile, ProfileError> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        ProfileError::Io { path: path.into(), source }
    })?;
    dandyroll_server::profiles::parse(text).map_err(|source| ProfileError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dandyroll_scheme::Seeding;
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
        let code = Recipe::code_v1().bind(TOKENIZER, Some(MODEL)).unwrap();
        let (_folder, name) = file(&code.canonical_json());
        let named = Named::find(&name).unwrap();
        assert_eq!(named.threshold(), code.threshold());
        assert_eq!(named.bind(TOKENIZER, Some(MODEL)).unwrap(), code);
        assert_eq!(named.bind(TOKENIZER, None).unwrap().id(), code.id());
        assert!(named.bind(MODEL, Some(MODEL)).unwrap_err().to_string().contains("another tokenizer"));
        assert!(named.bind(TOKENIZER, Some(TOKENIZER)).unwrap_err().to_string().contains("another model"));
    }

    #[test]
    fn each_fault_has_a_message_of_its_own() {
        let good = Recipe::code_v1().bind(TOKENIZER, Some(MODEL)).unwrap().canonical_json();
        let cases = [
            (good.replace("green-list", "red-list"), "algorithm is \"red-list\""),
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
            (good.replace("\"context_width\":1", "\"context_width\":999"), "line 1 column"),
            (good.replace("\"entropy_threshold\":0.9", "\"entropy_threshold\":null"), "no entropy_threshold"),
            (good.replace(&TOKENIZER.to_string(), "abc"), "tokenizer_sha256: \"abc\" is not a SHA-256"),
            (good.replace(&format!("\"{MODEL}\""), "null"), "give the model's SHA-256"),
            (good.replace("\"gamma\"", "\"gama\""), "gama"),
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
            prop_assert!(parse(Path::new("p"), text.as_bytes()).is_err());
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
            let recipe = Recipe::new(gamma, delta, width, tau).unwrap().seeded(seeding);
            let profile = recipe.bind(TOKENIZER, Some(MODEL)).unwrap();
            let profile = profile.with_background(background);
            let read = parse(Path::new("p"), profile.canonical_json().as_bytes()).unwrap();
            prop_assert_eq!(read.id(), profile.id());
        }
    }
}
