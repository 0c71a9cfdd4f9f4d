//! Profiles by name or from a file: what is read is checked by making the profile and comparing the whole.

use dandyroll_scheme::{BUILT_IN, BindError, Profile, Recipe, Sha256Digest};
use serde_json::Value;

/// A profile has about 400 bytes; more is something else given by mistake.
const MAX_BYTES: u64 = 64 * 1024;

/// What was named.
pub(crate) enum Named {
    /// A built-in recipe, to be bound to what is used.
    BuiltIn(Recipe),
    /// A profile that names what it is for.
    Bound(Profile),
}

impl Named {
    /// Looks a name up: built in first, then a file.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        if let Some(recipe) = Recipe::built_in(name) {
            return Ok(Self::BuiltIn(recipe));
        }
        let fault = |what: &dyn std::fmt::Display| format!("profile {name}: {what}");
        let metadata = std::fs::metadata(name)
            .map_err(|error| format!("profile {name:?} is neither built in ({}) nor a file: {error}", BUILT_IN.join(", ")))?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(fault(&"not a profile's file"));
        }
        let text = std::fs::read_to_string(name).map_err(|error| fault(&error))?;
        parse(&text).map(Self::Bound).map_err(|why| fault(&why))
    }

    /// The recipe.
    pub(crate) fn recipe(&self) -> Recipe {
        match self {
            Self::BuiltIn(recipe) => *recipe,
            Self::Bound(profile) => *profile.recipe(),
        }
    }

    /// Bound to the tokenizer in use. Of a profile with τ the model is taken on trust; a built-in one has none.
    pub(crate) fn bind(&self, tokenizer: Sha256Digest) -> Result<Profile, String> {
        match self {
            Self::BuiltIn(recipe) => recipe.bind(tokenizer, None).map_err(|error| match error {
                BindError::ThresholdWithoutModel => "a profile with an entropy threshold depends on the model: give \
                     the file that `dandyroll profiles show NAME --model DIR` prints"
                    .to_owned(),
                other => other.to_string(),
            }),
            Self::Bound(profile) if profile.tokenizer() == tokenizer => Ok(*profile),
            Self::Bound(profile) => Err(format!(
                "profile {} is for another tokenizer: it names {}, the one given has {tokenizer}",
                profile.id(),
                profile.tokenizer()
            )),
        }
    }
}

fn parse(text: &str) -> Result<Profile, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let number = |name: &str| value[name].as_f64().ok_or_else(|| format!("{name} is no number"));
    let digest = |name: &str| -> Result<Option<Sha256Digest>, String> {
        let text = value[name].as_str();
        text.map(|text| text.parse().map_err(|error| format!("{name}: {error}"))).transpose()
    };
    let width = value["context_width"].as_u64().and_then(|width| u8::try_from(width).ok());
    let width = width.ok_or("context_width is no small whole number")?;
    let recipe = Recipe::new(number("gamma")?, number("delta")?, width, value["entropy_threshold"].as_f64());
    let tokenizer = digest("tokenizer_sha256")?.ok_or("tokenizer_sha256 is missing")?;
    let profile = recipe.map_err(|error| error.to_string())?.bind(tokenizer, digest("model_sha256")?);
    let profile = profile.map_err(|error| error.to_string())?;
    // Anything that this version does not know, or would leave out, makes the two differ.
    let canonical: Value = serde_json::from_str(&profile.canonical_json()).map_err(|error| error.to_string())?;
    if same(&canonical, &value) { Ok(profile) } else { Err(format!("this version reads it as {canonical}, which is another")) }
}

/// Equal but for how numbers are written: 2 and 2.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}
