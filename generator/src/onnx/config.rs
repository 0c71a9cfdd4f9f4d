//! `config.json` and `generation_config.json`, read into checked fields.

use std::path::Path;

use dandyroll_scheme::TokenId;
use serde_json::{Map, Value};

use super::LoadError;

/// What `config.json` says of a decoder, under the names its family uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `model_type`: `llama`, `gpt2`, …
    pub model_type: Option<String>,
    /// `vocab_size`: rows of the embedding, and so logits of a position.
    pub vocabulary: Option<usize>,
    /// `num_hidden_layers`, `n_layer`, `num_layers`.
    pub layers: Option<usize>,
    /// `num_attention_heads`, `n_head`, `num_heads`.
    pub heads: Option<usize>,
    /// `num_key_value_heads`, `num_kv_heads`, else the attention heads.
    pub kv_heads: Option<usize>,
    /// `head_dim`, else the hidden size divided by the heads.
    pub head_dim: Option<usize>,
    /// The most tokens of a sequence: `max_position_embeddings`, `n_positions`, `n_ctx`,
    /// `max_seq_len`, `max_sequence_length`, `seq_length`.
    pub context: usize,
    /// `bos_token_id`.
    pub bos: Option<TokenId>,
    /// `eos_token_id`, one or several.
    pub eos: Vec<TokenId>,
    /// Whether every token sees all before it, unchanged: no setting speaks of windows, local or chunked
    /// attention, biases by distance or capped scores.
    pub full_attention: bool,
}

/// What `generation_config.json` says of tokens. Its sampling settings are not read: sampling is the caller's to choose.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationTokens {
    /// `bos_token_id`.
    pub bos: Option<TokenId>,
    /// `eos_token_id`, one or several.
    pub eos: Vec<TokenId>,
}

/// A JSON object and the file it stands in.
struct Fields<'a> {
    object: Map<String, Value>,
    file: &'a Path,
}

impl<'a> Fields<'a> {
    fn parse(text: &str, file: &'a Path) -> Result<Self, LoadError> {
        let bad = |reason: String| LoadError::Json { file: file.to_owned(), reason };
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Self { object, file }),
            Ok(_) => Err(bad("a JSON object is expected".to_owned())),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// The first of `names` that is there and not null.
    fn get(&self, names: &[&'static str]) -> Option<(&'static str, &Value)> {
        names
            .iter()
            .find_map(|name| self.object.get(*name).filter(|value| !value.is_null()).map(|v| (*name, v)))
    }

    /// Reads the first of `names` with `read`, or says what it should have been.
    fn read<T>(
        &self,
        names: &[&'static str],
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        self.get(names)
            .map(|(name, value)| read(value).ok_or_else(|| self.wrong(name, expected, Some(value))))
            .transpose()
    }

    fn wrong(&self, field: &str, expected: &'static str, found: Option<&Value>) -> LoadError {
        let found = found.map_or_else(|| "missing".to_owned(), |v| v.to_string().chars().take(60).collect());
        LoadError::Setting { file: self.file.to_owned(), field: field.to_owned(), expected, found }
    }

    fn count(&self, names: &[&'static str]) -> Result<Option<usize>, LoadError> {
        self.read(names, "a whole number above 0", |value| {
            value.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
        })
    }

    /// Whether no setting speaks of anything but plain attention to all tokens. Errs on the side of caution.
    fn full_attention(&self) -> bool {
        const SPEAK: [&str; 7] =
            ["window", "sliding", "local", "chunk", "alibi", "softcap", "attention_types"];
        let says = |name: &str| self.object.get(name);
        // Qwen2 names a window and says beside it that there is none.
        let unused = says("use_sliding_window") == Some(&Value::Bool(false));
        let plain = |kind: &Value| kind.as_str() == Some("full_attention");
        let layers = match says("layer_types") {
            Some(Value::Array(layers)) => layers.iter().all(plain),
            other => other.is_none_or(Value::is_null),
        };
        let said = |(name, value): (&String, &Value)| {
            let about = SPEAK.iter().any(|word| name.contains(word));
            let window = unused && matches!(name.as_str(), "sliding_window" | "max_window_layers");
            about && !window && !matches!(value, Value::Null | Value::Bool(false))
        };
        layers && !self.object.iter().any(said)
    }

    fn bos(&self) -> Result<Option<TokenId>, LoadError> {
        self.read(&["bos_token_id"], "a token number", token)
    }

    fn eos(&self) -> Result<Vec<TokenId>, LoadError> {
        self.read(&["eos_token_id"], "a token number or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(token).collect(),
            value => token(value).map(|one| vec![one]),
        })
        .map(Option::unwrap_or_default)
    }
}

fn token(value: &Value) -> Option<TokenId> {
    value.as_u64().and_then(|n| u32::try_from(n).ok()).map(TokenId)
}

impl Config {
    /// Reads the text of a `config.json`; `file` is named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, LoadError> {
        const CONTEXT: [&str; 6] = [
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_seq_len",
            "max_sequence_length",
            "seq_length",
        ];
        let fields = Fields::parse(text, file)?;
        let heads = fields.count(&["num_attention_heads", "n_head", "num_heads"])?;
        let hidden = fields.count(&["hidden_size", "n_embd", "d_model"])?;
        let head_dim = fields.count(&["head_dim"])?;
        Ok(Self {
            model_type: fields.read(&["model_type"], "a name", |v| v.as_str().map(str::to_owned))?,
            vocabulary: fields.count(&["vocab_size"])?,
            layers: fields.count(&["num_hidden_layers", "n_layer", "num_layers"])?,
            heads,
            kv_heads: fields.count(&["num_key_value_heads", "num_kv_heads"])?.or(heads),
            head_dim: head_dim.or_else(|| hidden.zip(heads).map(|(hidden, heads)| hidden / heads)),
            context: fields
                .count(&CONTEXT)?
                .ok_or_else(|| fields.wrong(CONTEXT[0], "the context length in tokens", None))?,
            bos: fields.bos()?,
            eos: fields.eos()?,
            full_attention: fields.full_attention(),
        })
    }
}

impl GenerationTokens {
    /// Reads the text of a `generation_config.json`; `file` is named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, LoadError> {
        let fields = Fields::parse(text, file)?;
        Ok(Self { bos: fields.bos()?, eos: fields.eos()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Config, LoadError> {
        Config::parse(text, Path::new("config.json"))
    }

    #[test]
    fn both_families_of_names() {
        let gpt2 = parse(
            r#"{"model_type":"gpt2","n_layer":2,"n_head":4,"n_embd":32,"n_positions":128,"vocab_size":300,
                "bos_token_id":null,"eos_token_id":7}"#,
        )
        .unwrap();
        assert_eq!((gpt2.layers, gpt2.kv_heads, gpt2.head_dim), (Some(2), Some(4), Some(8)));
        assert_eq!((gpt2.context, gpt2.bos, gpt2.eos), (128, None, vec![TokenId(7)]));
        let llama = parse(
            r#"{"num_hidden_layers":3,"num_attention_heads":8,"num_key_value_heads":2,"head_dim":64,
                "max_position_embeddings":4096,"eos_token_id":[1,2]}"#,
        )
        .unwrap();
        assert_eq!((llama.kv_heads, llama.head_dim), (Some(2), Some(64)));
        assert_eq!(llama.eos, [TokenId(1), TokenId(2)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(message("{").contains("config.json is not valid"));
        assert!(message("[1]").contains("a JSON object is expected"));
        assert!(message("{}").contains("max_position_embeddings should be the context length"));
        assert!(message(r#"{"n_ctx":-4}"#).contains("n_ctx should be a whole number above 0, and is -4"));
        assert!(message(r#"{"n_ctx":8,"eos_token_id":["x"]}"#).contains("eos_token_id"));
        assert!(message(r#"{"n_ctx":8,"vocab_size":1.5}"#).contains("vocab_size"));
    }

    #[test]
    fn windows_and_their_like_are_noticed() {
        let full = |more: &str| parse(&format!(r#"{{"n_ctx":8,{more}}}"#)).unwrap().full_attention;
        for plain in [
            r#""sliding_window":null"#,
            r#""use_sliding_window":false,"sliding_window":4096,"max_window_layers":21"#,
            r#""layer_types":["full_attention","full_attention"]"#,
            r#""alibi":false"#,
        ] {
            assert!(full(plain), "{plain}");
        }
        for other in [
            r#""sliding_window":4096"#,
            r#""use_sliding_window":true,"sliding_window":4096"#,
            r#""layer_types":["full_attention","sliding_attention"]"#,
            r#""attn_logit_softcapping":50.0"#,
            r#""attention_types":[[["global","local"],12]]"#,
            r#""attention_chunk_size":8192"#,
            r#""alibi":true"#,
        ] {
            assert!(!full(other), "{other}");
        }
    }

    #[test]
    fn only_tokens_are_read_of_generation_settings() {
        let text = r#"{"do_sample":true,"temperature":0.7,"top_k":-1,"top_p":null,"eos_token_id":[3,4]}"#;
        let defaults = GenerationTokens::parse(text, Path::new("generation_config.json")).unwrap();
        assert_eq!(defaults.eos, [TokenId(3), TokenId(4)]);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(".{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Any JSON under the names that are read, and any text at all: an answer, never a panic.
        #[test]
        fn nothing_panics(
            values in proptest::collection::vec(json(), 12),
            kept in proptest::collection::vec(any::<bool>(), 12),
            text in ".{0,200}",
        ) {
            const NAMES: [&str; 12] = [
                "model_type", "vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size", "head_dim",
                "num_key_value_heads", "n_positions", "bos_token_id", "eos_token_id", "top_k", "chat_template",
            ];
            let object: Map<String, Value> = NAMES
                .iter()
                .zip(values)
                .zip(kept)
                .filter(|(_, kept)| *kept)
                .map(|((name, value), _)| ((*name).to_owned(), value))
                .collect();
            let file = Path::new("x.json");
            for text in [Value::Object(object).to_string(), text] {
                if let Ok(config) = Config::parse(&text, file) {
                    prop_assert_ne!(config.context, 0);
                }
                let _ = GenerationTokens::parse(&text, file);
            }
        }
    }
}
