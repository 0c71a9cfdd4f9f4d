//! From a request on the wire to what is generated: every number checked, everything unsupported refused by name.

use dandyroll_api::openai::{ChatRequest, CompletionRequest, Message, Prompt, Stop, WatermarkRequest};
use dandyroll_generator::Sampling;
use dandyroll_scheme::OutOfRange;

use super::GenerationSettings;
use super::error::GenerationError;
use super::model::Turn;

/// Which of OpenAI's two forms a request has, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What to go on from, as it was sent.
#[derive(Clone, Debug)]
pub(crate) enum Prompts {
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
    Chat(Vec<Turn>),
}

impl Prompts {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Ids(many) => many.len(),
            Self::Chat(_) => 1,
        }
    }
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct Order {
    pub(crate) form: Form,
    pub(crate) model: String,
    pub(crate) prompts: Prompts,
    /// Texts for each prompt.
    pub(crate) each: usize,
    pub(crate) max_tokens: Option<usize>,
    /// With seed 0: the seed is set for each text.
    pub(crate) sampling: Sampling,
    pub(crate) seed: Option<u64>,
    pub(crate) stop: Vec<String>,
    pub(crate) logprobs: bool,
    pub(crate) watermark: WatermarkRequest,
    /// Whether events are wanted, and whether the last of them counts tokens.
    pub(crate) stream: Option<Usage>,
}

/// Whether a stream counts tokens at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage(pub bool);

fn value(field: &'static str, fault: impl Into<String>) -> GenerationError {
    GenerationError::Value { field, fault: fault.into() }
}

/// The field that an error of the sampler speaks of.
fn sampling_error(bad: &OutOfRange) -> GenerationError {
    let field = match bad.name {
        "top_k" => "top_k",
        "top_p" => "top_p",
        "repetition_penalty" => "repetition_penalty",
        _ => "temperature",
    };
    value(field, format!("it must be {}", bad.allowed))
}

struct Common {
    model: String,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    repetition_penalty: Option<f64>,
    n: Option<u32>,
    stop: Option<Stop>,
    stream: Option<bool>,
    options: Option<dandyroll_api::openai::StreamOptions>,
    seed: Option<i64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    watermark: Option<WatermarkRequest>,
}

/// The most messages of a chat.
const MESSAGES: usize = 1024;
/// The most stop strings, and the bytes that each may have.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;

impl Order {
    /// Checks a completion.
    pub fn completion(
        request: CompletionRequest,
        settings: &GenerationSettings,
    ) -> Result<Self, GenerationError> {
        let CompletionRequest {
            model,
            prompt,
            max_tokens,
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            n,
            best_of,
            echo,
            stop,
            stream,
            stream_options: options,
            seed,
            logprobs,
            presence_penalty,
            frequency_penalty,
            user: _,
            watermark,
        } = request;
        if best_of.is_some_and(|best| best != 1) {
            return Err(value("best_of", "texts are not ranked: leave it out, or give 1"));
        }
        if echo == Some(true) {
            return Err(value("echo", "the prompt is not repeated: leave it out, or give false"));
        }
        if logprobs.is_some_and(|top| top > 0) {
            return Err(value("logprobs", "only the tokens of the text have their ln p given: give 0"));
        }
        let prompts = match prompt {
            None => Prompts::Texts(vec![String::new()]),
            Some(Prompt::Text(text)) => Prompts::Texts(vec![text]),
            Some(Prompt::Texts(texts)) => Prompts::Texts(texts),
            // Of what, nobody can tell.
            Some(Prompt::Ids(ids)) if ids.is_empty() => {
                return Err(value("prompt", "the array is empty: leave it out for the beginning of a text"));
            }
            Some(Prompt::Ids(ids)) => Prompts::Ids(vec![ids]),
            Some(Prompt::ManyIds(many)) => Prompts::Ids(many),
        };
        let common = Common {
            model,
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            n,
            stop,
            stream,
            options,
            seed,
            presence_penalty,
            frequency_penalty,
            watermark,
        };
        // As in OpenAI's API.
        let max_tokens = max_tokens.unwrap_or(16);
        Self::new(
            Form::Completion,
            prompts,
            Some(("max_tokens", max_tokens)),
            logprobs.is_some(),
            common,
            settings,
        )
    }

    /// Checks a chat completion.
    pub fn chat(request: ChatRequest, settings: &GenerationSettings) -> Result<Self, GenerationError> {
        let ChatRequest {
            model,
            messages,
            max_tokens,
            max_completion_tokens,
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            n,
            stop,
            stream,
            stream_options: options,
            seed,
            logprobs,
            top_logprobs,
            presence_penalty,
            frequency_penalty,
            response_format: _,
            user: _,
            metadata: _,
            store,
            watermark,
        } = request;
        if store == Some(true) {
            return Err(value("store", "no text is stored: leave it out, or give false"));
        }
        let logprobs = logprobs == Some(true);
        match top_logprobs {
            Some(top) if top > 0 => {
                return Err(value(
                    "top_logprobs",
                    "only the tokens of the text have their ln p given: give 0",
                ));
            }
            _ => {}
        }
        if !(1..=MESSAGES).contains(&messages.len()) {
            return Err(value("messages", format!("give 1 to {MESSAGES}")));
        }
        let max_tokens = match (max_tokens, max_completion_tokens) {
            (Some(old), Some(new)) if old != new => {
                return Err(value("max_tokens", "it differs from max_completion_tokens: give one of them"));
            }
            (_, Some(new)) => Some(("max_completion_tokens", new)),
            (Some(old), None) => Some(("max_tokens", old)),
            (None, None) => None,
        };
        let turn =
            |Message { role, content, name: _ }| Turn { role: role.name(), content: content.into_text() };
        let prompts = Prompts::Chat(messages.into_iter().map(turn).collect());
        let common = Common {
            model,
            temperature,
            top_p,
            top_k,
            repetition_penalty,
            n,
            stop,
            stream,
            options,
            seed,
            presence_penalty,
            frequency_penalty,
            watermark,
        };
        Self::new(Form::Chat, prompts, max_tokens, logprobs, common, settings)
    }

    fn new(
        form: Form,
        prompts: Prompts,
        max_tokens: Option<(&'static str, u32)>,
        logprobs: bool,
        common: Common,
        settings: &GenerationSettings,
    ) -> Result<Self, GenerationError> {
        for (field, penalty) in
            [("presence_penalty", common.presence_penalty), ("frequency_penalty", common.frequency_penalty)]
        {
            if penalty.is_some_and(|penalty| penalty != 0.0) {
                return Err(value(
                    field,
                    "it is not supported: leave it out, give 0, or use repetition_penalty",
                ));
            }
        }
        if let Some((field, tokens)) = max_tokens {
            let most = settings.max_tokens;
            if !(1..=most).contains(&usize::try_from(tokens).unwrap_or(usize::MAX)) {
                return Err(value(field, format!("it must be 1 to {most}")));
            }
        }
        let each = usize::try_from(common.n.unwrap_or(1)).unwrap_or(usize::MAX);
        let (texts, most) = (each.saturating_mul(prompts.len()), settings.max_texts);
        if each == 0 || texts == 0 {
            let field = if each == 0 { "n" } else { "prompt" };
            return Err(value(field, "give at least one"));
        }
        if texts > most {
            return Err(value("n", format!("{texts} texts are too many at once: at most {most}")));
        }
        let sampling = Sampling::new(
            common.temperature.unwrap_or(1.0),
            common.top_k,
            common.top_p,
            common.repetition_penalty,
            0,
        )
        .map_err(|bad| sampling_error(&bad))?;
        let stop = match common.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        if stop.len() > STOPS || stop.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES) {
            return Err(value("stop", format!("up to {STOPS} strings of 1 to {STOP_BYTES} bytes")));
        }
        let usage = Usage(common.options.is_some_and(|options| options.include_usage));
        Ok(Self {
            form,
            model: common.model,
            prompts,
            each,
            max_tokens: max_tokens.and_then(|(_, tokens)| usize::try_from(tokens).ok()),
            sampling,
            seed: common.seed.map(i64::cast_unsigned),
            stop,
            logprobs,
            watermark: common.watermark.unwrap_or_default(),
            stream: (common.stream == Some(true)).then_some(usage),
        })
    }

    /// Whether events are wanted.
    pub fn streams(&self) -> bool {
        self.stream.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(rest: &str) -> Result<Order, String> {
        let json = format!(r#"{{"model":"m","messages":[{{"role":"developer","content":"a"}}]{rest}}}"#);
        let request = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        Order::chat(request, &GenerationSettings::standard()).map_err(|error| error.to_string())
    }

    fn completion(rest: &str) -> Result<Order, String> {
        let json = format!(r#"{{"model":"m"{rest}}}"#);
        let request = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        Order::completion(request, &GenerationSettings::standard()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_clients_send_is_taken() {
        let order = chat(
            r#","n":2,"temperature":0,"top_p":1,"seed":-1,"stop":["a","b"],"max_completion_tokens":7,"logprobs":true,
               "top_logprobs":0,"presence_penalty":0,"frequency_penalty":0.0,"user":"u","metadata":{"a":"b"},
               "store":false,"response_format":{"type":"text"},"stream":true,"stream_options":{"include_usage":true}"#,
        )
        .unwrap();
        assert_eq!((order.each, order.max_tokens, order.seed), (2, Some(7), Some(u64::MAX)));
        assert_eq!((order.stream, order.logprobs), (Some(Usage(true)), true));
        assert!(matches!(order.prompts, Prompts::Chat(turns) if turns[0].role == "system"));
        let order =
            completion(r#","prompt":["a","b"],"n":2,"best_of":1,"echo":false,"logprobs":0,"stop":null"#);
        let order = order.unwrap();
        assert_eq!((order.prompts.len(), order.each, order.max_tokens), (2, 2, Some(16)));
        assert_eq!(completion("").unwrap().prompts.len(), 1);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (rest, expected) in [
            (r#","presence_penalty":0.5"#, "presence_penalty"),
            (r#","frequency_penalty":-1"#, "frequency_penalty"),
            (r#","top_logprobs":2,"logprobs":true"#, "top_logprobs"),
            (r#","store":true"#, "store"),
            (r#","n":0"#, "n: "),
            (r#","n":1000"#, "n: "),
            (r#","max_tokens":0"#, "max_tokens"),
            (r#","max_tokens":1,"max_completion_tokens":2"#, "max_tokens"),
            (r#","temperature":-1"#, "temperature"),
            (r#","top_p":1.5"#, "top_p"),
            (r#","stop":[""]"#, "stop"),
            (r#","functions":[]"#, "functions"),
        ] {
            let error = chat(rest).unwrap_err();
            assert!(error.contains(expected), "{rest}: {error}");
        }
        for (rest, expected) in [
            (r#","best_of":2"#, "best_of"),
            (r#","echo":true"#, "echo"),
            (r#","logprobs":3"#, "logprobs"),
            (r#","prompt":[["a"]]"#, "prompt"),
            (r#","suffix":"a""#, "suffix"),
        ] {
            let error = completion(rest).unwrap_err();
            assert!(error.contains(expected), "{rest}: {error}");
        }
    }
}
