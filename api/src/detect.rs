//! Detection: texts in, verdicts out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;

/// What to look for. A token with `detect:public` alone may set `profiles` only: everything else would let it
/// find out what it may not see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Whose keys: ring aliases (every version that detects), `alias@version`, key ids, or `all`. Default: `all`,
    /// that is every ring that the token may use.
    #[serde(default)]
    #[schema(max_items = 64, min_items = 1, value_type = Option<Vec<KeyName>>)]
    pub keys: Option<Vec<String>>,
    /// Which profiles: names or ids. Default: the server's setting.
    #[serde(default)]
    #[schema(max_items = 16, min_items = 1, value_type = Option<Vec<ProfileName>>)]
    pub profiles: Option<Vec<String>>,
    /// Which positions count. Each mode is a hypothesis of its own. Default: `auto`.
    #[serde(default)]
    #[schema(max_items = 4, min_items = 1)]
    pub modes: Option<Vec<ModeName>>,
    /// α, the chance of a false detection per text, whatever was tried on it: above 0, up to 0.05. Default: 1e-5.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 0.05)]
    pub alpha: Option<f64>,
    /// Also search for the passages that carry a mark. Half of α goes to the search.
    #[serde(default)]
    pub spans: bool,
    /// Also give the colour of every token under the strongest hypothesis (`detect:tokens`).
    #[serde(default)]
    pub tokens: bool,
    /// Also look for versions that are marked as compromised. A mark of theirs proves nothing about its author.
    #[serde(default)]
    pub include_compromised: bool,
}

/// Keys to look for: a ring's alias, `alias@version`, a key id, or `all`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(pattern = "^(all|[a-z0-9][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?)$")]
pub struct KeyName(pub String);

/// A profile, by id or name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(pattern = "^(wp_[a-z2-7]{52}|[a-z0-9][a-z0-9._-]{0,63})$")]
pub struct ProfileName(pub String);

/// Which positions of a text are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModeName {
    /// `entropy-gated` for a profile with an entropy threshold whose model is loaded, else `model-free`.
    Auto,
    /// Every position counts; no model is needed.
    ModelFree,
    /// Positions above the profile's entropy threshold count, as they were marked.
    EntropyGated,
    /// Positions count by their entropy.
    EntropyWeighted,
}

impl ModeName {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ModelFree => "model-free",
            Self::EntropyGated => "entropy-gated",
            Self::EntropyWeighted => "entropy-weighted",
        }
    }
}

/// One text to look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectRequest {
    /// The text, as it was found.
    pub text: String,
    /// The prompt it answered, if it is known. It is never scored; it makes the entropy modes more exact.
    #[serde(default)]
    pub prompt: Option<String>,
    /// As `keys` of `Look`.
    #[serde(default)]
    #[schema(max_items = 64, min_items = 1, value_type = Option<Vec<KeyName>>)]
    pub keys: Option<Vec<String>>,
    /// As `profiles` of `Look`.
    #[serde(default)]
    #[schema(max_items = 16, min_items = 1, value_type = Option<Vec<ProfileName>>)]
    pub profiles: Option<Vec<String>>,
    /// As `modes` of `Look`.
    #[serde(default)]
    #[schema(max_items = 4, min_items = 1)]
    pub modes: Option<Vec<ModeName>>,
    /// As `alpha` of `Look`.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 0.05)]
    pub alpha: Option<f64>,
    /// As `spans` of `Look`.
    #[serde(default)]
    pub spans: bool,
    /// As `tokens` of `Look`.
    #[serde(default)]
    pub tokens: bool,
    /// As `include_compromised` of `Look`.
    #[serde(default)]
    pub include_compromised: bool,
}

impl DetectRequest {
    /// The text and its prompt apart from what to look for.
    pub fn split(self) -> (String, Option<String>, Look) {
        let Self { text, prompt, keys, profiles, modes, alpha, spans, tokens, include_compromised } = self;
        (text, prompt, Look { keys, profiles, modes, alpha, spans, tokens, include_compromised })
    }
}

/// Many texts to look at in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// The texts; each succeeds or fails alone.
    #[schema(max_items = 10_000, min_items = 1)]
    pub texts: Vec<BatchText>,
    /// What to look for in each of them.
    #[serde(default, deserialize_with = "crate::object")]
    pub look: Look,
}

/// One text of a batch: itself, or with an id and a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text of a batch is a string, or an object with text, id and prompt")]
pub enum BatchText {
    /// The text.
    Text(String),
    /// The text with more.
    Item(#[serde(deserialize_with = "crate::object")] TextItem),
}

impl From<BatchText> for TextItem {
    fn from(text: BatchText) -> Self {
        match text {
            BatchText::Text(text) => Self { id: None, text, prompt: None },
            BatchText::Item(item) => item,
        }
    }
}

/// A text of a batch, or a line of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextItem {
    /// The caller's name for it, given back with the result.
    #[serde(default)]
    #[schema(max_length = 256)]
    pub id: Option<String>,
    /// The text, as it was found.
    pub text: String,
    /// The prompt it answered, if it is known.
    #[serde(default)]
    pub prompt: Option<String>,
}

/// What was found in one text. All but `verdict` and `band` is for `detect:full` and left out without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Detection {
    /// `detected`, `inconclusive`, `not_detected` or `too_short`. None of them says who wrote the text.
    pub verdict: String,
    /// How strong the evidence is, coarsely: `none`, `some` (adjusted p up to 10⁻³), `strong` (10⁻⁵),
    /// `very_strong` (10⁻¹⁰).
    pub band: String,
    /// The operation in the audit; a batch or stream has one for all its texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// α.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Hypotheses tried on the text: keys × profiles × modes, those that are one and the same test counted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypotheses: Option<u32>,
    /// How p was adjusted for them: `bonferroni`, or `holm` for several keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// log₁₀ of the least adjusted p, all hypotheses and windows considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log10_p_adjusted: Option<f64>,
    /// Whether a key marked as compromised was detected: others may have made the mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compromised: Option<bool>,
    /// What normalisation removed or changed before scoring; left out if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalised: Option<Normalised>,
    /// One finding for each hypothesis, strongest evidence first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    /// Windows tried by the search for passages; left out without a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u64>,
    /// Passages that carry a mark, in the order of the text; left out without a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spans: Option<Vec<Span>>,
    /// The text's tokens under the strongest hypothesis; left out unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<Token>>,
}

impl Detection {
    /// What `detect:public` sees.
    pub fn public(verdict: &str, band: &str) -> Self {
        Self {
            verdict: verdict.into(),
            band: band.into(),
            receipt: None,
            alpha: None,
            hypotheses: None,
            correction: None,
            log10_p_adjusted: None,
            compromised: None,
            normalised: None,
            findings: None,
            windows: None,
            spans: None,
            tokens: None,
        }
    }
}

/// What normalisation did, in characters unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Normalised {
    /// Byte-order marks removed.
    pub bom: u64,
    /// Zero-width characters removed.
    pub zero_width: u64,
    /// Variation selectors removed.
    pub variation_selectors: u64,
    /// Soft hyphens removed.
    pub soft_hyphens: u64,
    /// Directional controls removed.
    pub directional: u64,
    /// Tag characters removed.
    pub tags: u64,
    /// CR LF pairs made LF.
    pub crlf: u64,
    /// CRs made LF.
    pub lone_cr: u64,
    /// Stretches that NFC changed.
    pub recomposed: u64,
}

/// A profile by id, and by the names it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProfileRef {
    /// Its content address.
    pub id: String,
    /// Its names in this service.
    pub names: Vec<String>,
}

/// A key version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRef {
    /// Its ring.
    pub alias: String,
    /// Its number in the ring.
    pub version: u32,
    /// Its public id.
    pub key_id: String,
    /// Its state: `pending`, `active`, `verify_only` or `compromised`.
    pub state: String,
}

/// One hypothesis judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What is said under this hypothesis.
    pub verdict: String,
    /// Whose mark.
    pub key: KeyRef,
    /// Under which profiles: several if they differ only in what this test does not read.
    pub profiles: Vec<ProfileRef>,
    /// `model-free`, `entropy-gated` or `entropy-weighted`.
    pub mode: String,
    /// Tokens of the text under the profiles' tokenizer.
    pub tokens: u64,
    /// n, the positions scored: each distinct (context, token) pair or context once.
    pub scored: u32,
    /// What they score together: whole for lists, where it is the number of them on the list (with weights, their sum).
    #[serde(serialize_with = "crate::number")]
    pub score: f64,
    /// What they score on average without a mark.
    #[serde(serialize_with = "crate::number")]
    pub expected: f64,
    /// Standard deviations above what is expected without a mark, for people; null if nothing was scored.
    pub z: Option<f64>,
    /// log₁₀ P[a text without the mark scores as much], exact, before correction.
    pub log10_p: f64,
    /// m, how many hypotheses p was adjusted for (twice their number beside a search for passages).
    pub hypotheses: u32,
    /// The same, adjusted. The verdict reads this alone.
    pub log10_p_adjusted: f64,
}

/// A passage that carries a mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    /// Its first character (Unicode scalar value) in the text as it was sent, from 0.
    pub start_char: u64,
    /// The character after its last.
    pub end_char: u64,
    /// The line of its first character, from 1.
    pub start_line: u64,
    /// The line of its last character.
    pub end_line: u64,
    /// Whose mark.
    pub key: KeyRef,
    /// Under which profiles.
    pub profiles: Vec<ProfileRef>,
    /// How positions were counted.
    pub mode: String,
    /// Its tokens.
    pub tokens: u64,
    /// Positions scored in it.
    pub scored: u32,
    /// What they score together.
    #[serde(serialize_with = "crate::number")]
    pub score: f64,
    /// log₁₀ p of the strongest window that found it, exact, before correction.
    pub log10_p: f64,
    /// The same, adjusted for every window tried.
    pub log10_p_adjusted: f64,
}

/// One token of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its first character in the text as it was sent, from 0. Tokens that share a character both have it.
    pub start_char: u64,
    /// The character after its last.
    pub end_char: u64,
    /// What it is under the strongest hypothesis.
    pub colour: Colour,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Scored, and for the mark.
    Favoured,
    /// Scored, and not for the mark.
    Unfavoured,
    /// The same context and token were scored before.
    Repeat,
    /// Too few tokens stand before it.
    ShortContext,
    /// The mode gives its entropy no weight.
    LowEntropy,
    /// The mode needs its entropy, and there is none.
    UnknownEntropy,
    /// Its window is on the profile's background list.
    Background,
}

/// What was found in one text of a batch, or why it could not be judged: one of `result` and `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchResult {
    /// The text's place in the request, from 0.
    pub index: u64,
    /// The caller's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Detection>,
    /// Why nothing can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// What was found in each text of a batch, in the order of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchResponse {
    /// One for each text.
    pub results: Vec<BatchResult>,
    /// The operation in the audit.
    pub receipt: String,
}

/// One line of a stream's answer: one of `result` and `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamLine {
    /// The line of the request that it answers, from 1; 0 for the stream as a whole, as its last line.
    pub line: u64,
    /// The caller's name for the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Detection>,
    /// Why nothing can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_refuse_what_they_do_not_know_by_name() {
        let read = |json: &str| serde_json::from_str::<DetectRequest>(json);
        assert!(read(r#"{"text":"a"}"#).is_ok());
        let error = read(r#"{"text":"a","key":["x"]}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `key`"), "{error}");
        let batch = |json: &str| serde_json::from_str::<BatchRequest>(json);
        let good = batch(r#"{"texts":["a",{"id":"1","text":"b"}],"look":{"modes":["model-free"]}}"#).unwrap();
        assert_eq!(good.look.modes, Some(vec![ModeName::ModelFree]));
        let error = batch(r#"{"texts":[{"txt":"b"}]}"#).unwrap_err().to_string();
        assert!(error.contains("is a string, or an object"), "{error}");
    }

    #[test]
    fn the_public_form_has_two_fields() {
        let detection = Detection::public("detected", "strong");
        let json = serde_json::to_string(&detection).unwrap();
        assert_eq!(json, r#"{"verdict":"detected","band":"strong"}"#);
        assert_eq!(serde_json::from_str::<Detection>(&json).unwrap(), detection);
    }
}
