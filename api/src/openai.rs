//! Generation as the OpenAI API has it, with a `watermark` object in requests and answers.
//!
//! Parameters that are not here are refused by name, not ignored: a caller that sends `tools` expects tools.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the caller wants of the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WatermarkRequest {
    /// The ring whose active version marks. Default: the server's setting.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub alias: Option<String>,
    /// The profile, by name or id. Default: the server's setting.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub profile: Option<String>,
    /// Rather no text than an unmarked one: whatever stands in the way is an error, and nothing is generated.
    #[serde(default)]
    pub require: bool,
    /// Whether to mark. Default: what the token's policy says. `false` is refused where the policy is `enforced`.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// What was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Watermark {
    /// Whether the text was generated under a key.
    pub applied: bool,
    /// Why, or why not: `enforced`, `default_on`, `requested`; `off`, `opted_out`, `unknown_alias`, `no_active_key`,
    /// `unknown_profile`, `other_model`, `too_short`, `not_markable`.
    pub reason: String,
    /// The ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The profile's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The key's public id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The key's version in the ring: the one that was active when the generation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Tokens generated, the one that ended the text included.
    pub generated: u64,
    /// Those of them with enough generated tokens before them to be marked.
    pub eligible: u64,
    /// Those of them in whose choice the mark took part.
    pub marked: u64,
    /// Those after a context that had decided a token before, which the sampler drew by itself.
    pub repeated_contexts: u64,
    /// Those whose entropy was not above the profile's threshold.
    pub low_entropy: u64,
    /// Those that were the only ones left to choose from.
    pub certain: u64,
    /// Positions that a detector scores in the text; 0 without a mark. Left out if the profile names a background list
    /// that is not loaded here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorable_pairs: Option<u64>,
    /// The operation in the audit. Each text has its own; in the summary of several texts it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
}

/// What to go on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "prompt is a string, an array of strings, an array of token ids, or an array of arrays of token ids"
)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// One text as token ids.
    Ids(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several texts as token ids.
    ManyIds(Vec<Vec<u32>>),
}

/// Where to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "stop is a string or an array of strings")]
pub enum Stop {
    /// Before this string.
    One(String),
    /// Before the first of these that is complete.
    Many(Vec<String>),
}

/// Always false: what it would ask for is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct False;

/// Always 0: what it would ask for is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zero;

mod constants {
    use serde_json::json;
    use utoipa::openapi::{RefOr, Schema};
    use utoipa::{PartialSchema, ToSchema};

    use super::{False, Part, Prompt, ResponseFormat, Stop, Zero};

    /// Constants that a unit test reads.
    fn schema(value: serde_json::Value) -> RefOr<Schema> {
        serde_json::from_value(value).map_or_else(|_| RefOr::T(Schema::default()), RefOr::T)
    }

    impl PartialSchema for False {
        fn schema() -> RefOr<Schema> {
            schema(json!({ "type": "boolean", "enum": [false], "description": "Not supported." }))
        }
    }

    impl ToSchema for False {}

    impl PartialSchema for Zero {
        fn schema() -> RefOr<Schema> {
            schema(json!({ "type": "number", "minimum": 0, "maximum": 0, "description": "Not supported." }))
        }
    }

    impl ToSchema for Zero {}

    impl PartialSchema for Stop {
        fn schema() -> RefOr<Schema> {
            let text = json!({ "type": "string", "minLength": 1, "maxLength": 256 });
            schema(json!({
                "description": "Where to stop.",
                "oneOf": [
                    { "type": "string", "minLength": 1, "maxLength": 256, "description": "Before this string." },
                    { "type": "array", "items": text, "maxItems": 16,
                        "description": "Before the first of these that is complete." },
                ],
            }))
        }
    }

    impl ToSchema for Stop {}

    impl PartialSchema for Part {
        fn schema() -> RefOr<Schema> {
            schema(json!({
                "type": "object",
                "description": "One part of what is said: text only.",
                "additionalProperties": false,
                "required": ["type", "text"],
                "properties": {
                    "type": { "type": "string", "enum": ["text"] },
                    "text": { "type": "string", "description": "The text." },
                },
            }))
        }
    }

    impl ToSchema for Part {}

    impl PartialSchema for ResponseFormat {
        fn schema() -> RefOr<Schema> {
            schema(json!({
                "type": "object",
                "description": "The form of the text: any, the only one there is.",
                "additionalProperties": false,
                "required": ["type"],
                "properties": { "type": { "type": "string", "enum": ["text"] } },
            }))
        }
    }

    impl ToSchema for ResponseFormat {}

    impl PartialSchema for Prompt {
        fn schema() -> RefOr<Schema> {
            let id = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
            let ids = json!({ "type": "array", "items": id, "minItems": 1 });
            let text = json!({ "type": "string" });
            schema(json!({
                "description": "What to go on from.",
                "oneOf": [
                    { "type": "string", "description": "One text." },
                    { "type": "array", "items": text, "minItems": 1, "maxItems": 16, "description": "Several texts." },
                    { "type": "array", "items": id, "minItems": 1, "description": "One text as token ids." },
                    { "type": "array", "items": ids, "minItems": 1, "maxItems": 16,
                        "description": "Several texts as token ids." },
                ],
            }))
        }
    }

    impl ToSchema for Prompt {}

    #[cfg(test)]
    #[test]
    fn they_are_schemas() {
        for (value, part) in
            [(False::schema(), "enum"), (Zero::schema(), "maximum"), (Prompt::schema(), "oneOf")]
        {
            let value = serde_json::to_value(value).unwrap();
            assert!(value.get(part).is_some(), "{value}");
        }
    }
}

/// How a stream is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send one more event, without choices, with the counts of tokens.
    #[serde(default)]
    pub include_usage: bool,
    /// Taken and without effect: no padding is sent.
    #[serde(default)]
    pub include_obfuscation: Option<bool>,
}

/// A completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// The model, as `/v1/models` names it.
    pub model: String,
    /// What to go on from. Default: the beginning of a text.
    #[serde(default)]
    pub prompt: Option<Prompt>,
    /// The most tokens generated, up to 4096 unless the operator sets another limit. Default: 16.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4096)]
    pub max_tokens: Option<u32>,
    /// What logits are divided by: 0 for the likeliest token, or 0.0001 to 100. Default: 1.
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub temperature: Option<f64>,
    /// The mass of the likeliest tokens that may be drawn. Default: 1.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub top_p: Option<f64>,
    /// How many of the likeliest tokens may be drawn. Not in OpenAI's API.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub top_k: Option<u32>,
    /// What logits of tokens that occurred are divided by. Not in OpenAI's API.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 100.0)]
    pub repetition_penalty: Option<f64>,
    /// Texts for each prompt. Default: 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
    /// Must be 1 or left out: nothing is ranked.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1)]
    pub best_of: Option<u32>,
    /// Must be false or left out: the prompt is not repeated.
    #[serde(default)]
    #[schema(value_type = Option<False>)]
    pub echo: Option<bool>,
    /// Where to stop: up to 16 strings.
    #[serde(default)]
    pub stop: Option<Stop>,
    /// Send events as the text grows.
    #[serde(default)]
    pub stream: Option<bool>,
    /// How.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub stream_options: Option<StreamOptions>,
    /// The same seed, model and prompt give the same text. The i-th text of several has the seed plus i.
    #[serde(default)]
    pub seed: Option<i64>,
    /// 0: give ln p of each token under the unmarked model. No others are given beside it.
    #[serde(default)]
    #[schema(maximum = 0)]
    pub logprobs: Option<u32>,
    /// Must be 0 or left out: not supported.
    #[serde(default)]
    #[schema(value_type = Option<Zero>)]
    pub presence_penalty: Option<f64>,
    /// Must be 0 or left out: not supported.
    #[serde(default)]
    #[schema(value_type = Option<Zero>)]
    pub frequency_penalty: Option<f64>,
    /// Taken and without effect.
    #[serde(default)]
    pub user: Option<String>,
    /// What is wanted of the mark.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub watermark: Option<WatermarkRequest>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the frame.
    System,
    /// The same; the model's template sees `system`.
    Developer,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// As chat templates name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "content is a string or an array of text parts")]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts of a text.
    Parts(#[serde(deserialize_with = "crate::objects")] Vec<Part>),
}

impl Content {
    /// The whole text.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().map(|Part::Text { text }| text).collect(),
        }
    }
}

/// One part of what is said: text only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// Taken and without effect.
    #[serde(default)]
    pub name: Option<String>,
}

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ResponseFormat {
    /// Any text: the only form there is.
    Text,
}

/// A chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// The model, as `/v1/models` names it.
    pub model: String,
    /// The chat so far.
    #[serde(deserialize_with = "crate::objects")]
    #[schema(min_items = 1, max_items = 1024)]
    pub messages: Vec<Message>,
    /// The most tokens generated; the older name of `max_completion_tokens`. Default: what the model's context and
    /// the server's setting leave.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4096)]
    pub max_tokens: Option<u32>,
    /// The most tokens generated.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4096)]
    pub max_completion_tokens: Option<u32>,
    /// As `temperature` of `CompletionRequest`.
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 100.0)]
    pub temperature: Option<f64>,
    /// As `top_p` of `CompletionRequest`.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    pub top_p: Option<f64>,
    /// As `top_k` of `CompletionRequest`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub top_k: Option<u32>,
    /// As `repetition_penalty` of `CompletionRequest`.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 100.0)]
    pub repetition_penalty: Option<f64>,
    /// Texts. Default: 1.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 16)]
    pub n: Option<u32>,
    /// As `stop` of `CompletionRequest`.
    #[serde(default)]
    pub stop: Option<Stop>,
    /// Send events as the text grows.
    #[serde(default)]
    pub stream: Option<bool>,
    /// How.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub stream_options: Option<StreamOptions>,
    /// As `seed` of `CompletionRequest`.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Give ln p of each token under the unmarked model.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// Must be 0 or left out: no others are given beside it.
    #[serde(default)]
    #[schema(maximum = 0)]
    pub top_logprobs: Option<u32>,
    /// Must be 0 or left out: not supported.
    #[serde(default)]
    #[schema(value_type = Option<Zero>)]
    pub presence_penalty: Option<f64>,
    /// Must be 0 or left out: not supported.
    #[serde(default)]
    #[schema(value_type = Option<Zero>)]
    pub frequency_penalty: Option<f64>,
    /// Must be `text` or left out.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub response_format: Option<ResponseFormat>,
    /// Taken and without effect.
    #[serde(default)]
    pub user: Option<String>,
    /// Taken and without effect: it is not stored.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Must be false or left out: no text is stored.
    #[serde(default)]
    #[schema(value_type = Option<False>)]
    pub store: Option<bool>,
    /// What is wanted of the mark.
    #[serde(default, deserialize_with = "crate::object_or_null")]
    pub watermark: Option<WatermarkRequest>,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Of all prompts.
    pub prompt_tokens: u64,
    /// Of all texts, the tokens that ended them included.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

/// ln p of each token of a completion, under the unmarked model at temperature 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// ln p of each.
    pub token_logprobs: Vec<f64>,
    /// ln p of the likeliest at each place; null unless asked for.
    pub top_logprobs: Option<Vec<BTreeMap<String, f64>>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<u64>,
}

/// One text of a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// The text, or in a stream what was added to it.
    pub text: String,
    /// Which text: prompt i of several has the texts i·n to i·n + n − 1.
    pub index: u32,
    /// ln p of its tokens; null unless asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null in a stream while the text grows.
    pub finish_reason: Option<String>,
    /// What was applied to this text; in a stream with its `finish_reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
}

/// A completion, or one event of its stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Its name.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// When it began, in seconds since 1970.
    pub created: i64,
    /// The model.
    pub model: String,
    /// The beginning of the model's SHA-256.
    pub system_fingerprint: String,
    /// The texts.
    pub choices: Vec<CompletionChoice>,
    /// Counts of tokens; in a stream in the last event, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What was applied, over all texts; in a stream in the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
}

/// ln p of one token of a chat completion, under the unmarked model at temperature 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLogprob {
    /// The token as text.
    pub token: String,
    /// ln p.
    pub logprob: f64,
    /// Its bytes: a character may be spread over tokens.
    pub bytes: Vec<u8>,
    /// The likeliest at its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens at a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// The token as text.
    pub token: String,
    /// ln p.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// ln p of each token of a chat completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Vec<TokenLogprob>,
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// What it says.
    pub content: String,
    /// Null: the model is not asked to refuse.
    pub refusal: Option<String>,
}

/// One text of a chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Which text.
    pub index: u32,
    /// The text.
    pub message: AssistantMessage,
    /// ln p of its tokens; null unless asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: String,
    /// What was applied to this text.
    pub watermark: Watermark,
}

/// A chat completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// Its name.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it began, in seconds since 1970.
    pub created: i64,
    /// The model.
    pub model: String,
    /// The beginning of the model's SHA-256.
    pub system_fingerprint: String,
    /// The texts.
    pub choices: Vec<ChatChoice>,
    /// Counts of tokens.
    pub usage: Usage,
    /// What was applied, over all texts.
    pub watermark: Watermark,
}

/// What an event adds to an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in a text's first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// What an event says of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChunkChoice {
    /// Which text.
    pub index: u32,
    /// What follows.
    pub delta: Delta,
    /// ln p of the tokens that follow; null unless asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`, in a text's last event.
    pub finish_reason: Option<String>,
    /// What was applied to this text, in its last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
}

/// One event of a chat completion's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatChunk {
    /// The completion's name.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// When it began, in seconds since 1970.
    pub created: i64,
    /// The model.
    pub model: String,
    /// The beginning of the model's SHA-256.
    pub system_fingerprint: String,
    /// What follows.
    pub choices: Vec<ChunkChoice>,
    /// Counts of tokens, in the last event if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What was applied, over all texts, in the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
}

/// A model that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: i64,
    /// `dandyroll`.
    pub owned_by: String,
    /// The most tokens of prompt and text together.
    pub context: u64,
    /// SHA-256 of the model.
    pub model_sha256: String,
    /// SHA-256 of its `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// Whether it takes chats.
    pub chat: bool,
}

/// The models that are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_prompt_is_read() {
        let read = |json: &str| serde_json::from_str::<Prompt>(json);
        assert_eq!(read(r#""a""#).unwrap(), Prompt::Text("a".into()));
        assert_eq!(read(r#"["a","b"]"#).unwrap(), Prompt::Texts(vec!["a".into(), "b".into()]));
        assert_eq!(read("[1,2]").unwrap(), Prompt::Ids(vec![1, 2]));
        assert_eq!(read("[[1],[2,3]]").unwrap(), Prompt::ManyIds(vec![vec![1], vec![2, 3]]));
        for bad in ["1", "[1,\"a\"]", "[-1]", "[[1],2]", "{}", "[4294967296]"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("prompt is a string"), "{bad}: {error}");
        }
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let chat = |rest: &str| {
            let json = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"a"}}]{rest}}}"#);
            serde_json::from_str::<ChatRequest>(&json).map_err(|error| error.to_string())
        };
        assert!(chat("").is_ok());
        assert!(
            chat(r#","stream_options":{"include_usage":true},"response_format":{"type":"text"}"#).is_ok()
        );
        for (rest, expected) in [
            (r#","tools":[]"#, "unknown field `tools`"),
            (r#","logit_bias":{}"#, "unknown field `logit_bias`"),
            (r#","watermark":{"key":"x"}"#, "unknown field `key`"),
            (r#","response_format":{"type":"json_object"}"#, "unknown variant `json_object`"),
        ] {
            let error = chat(rest).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn content_is_text_or_parts_of_text() {
        let read = |json: &str| serde_json::from_str::<Content>(json);
        assert_eq!(read(r#""a""#).unwrap().into_text(), "a");
        let parts = r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#;
        assert_eq!(read(parts).unwrap().into_text(), "ab");
        assert!(read(r#"[{"type":"image_url","image_url":{"url":"x"}}]"#).is_err());
    }
}
