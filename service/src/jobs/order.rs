//! What a job is asked to do, checked, as it is stored.

use std::num::NonZeroUsize;

use dandyroll_api::detect::{Look, ModeName};
use dandyroll_api::jobs as wire;
use dandyroll_dumps::{Existing, Field, Format, Options, ResultFormat};
use serde::{Deserialize, Serialize};

use super::JobError;
use crate::detection::Plan;

/// What a job does, checked; as stored. Once [`Order::resolved`], it names keys and profiles by id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    path: Option<String>,
    upload: Option<String>,
    input_format: Option<wire::InputFormat>,
    text_field: String,
    id_field: Option<String>,
    format: wire::ResultFormat,
    only_detected: bool,
    strict: bool,
    false_discovery_rate: f64,
    keys: Option<Vec<String>>,
    profiles: Option<Vec<String>>,
    alpha: f64,
    spans: bool,
    include_compromised: bool,
}

/// The name of Dolma attributes.
const ATTRIBUTE: &str = "dandyroll";

fn input_format(format: wire::InputFormat) -> Format {
    match format {
        wire::InputFormat::Jsonl => Format::Jsonl,
        wire::InputFormat::Csv => Format::Csv,
        wire::InputFormat::Tsv => Format::Tsv,
        wire::InputFormat::Parquet => Format::Parquet,
        wire::InputFormat::Warc => Format::Warc,
        wire::InputFormat::Text => Format::Text,
    }
}

/// A file's name that is no path and hides nothing.
fn is_file_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && name.len() <= 128 && name.bytes().all(plain)
}

impl Order {
    /// Checks what can be checked without looking at files and keys.
    pub(super) fn new(wanted: wire::JobCreate) -> Result<Self, JobError> {
        let wire::JobCreate {
            path,
            upload,
            input_format: given,
            text_field,
            id_field,
            format,
            only_detected,
            strict,
            false_discovery_rate,
            look,
        } = wanted;
        match (&path, &upload) {
            (Some(_), Some(_)) => return Err(JobError::value("path", "give path or upload, not both")),
            (None, None) => return Err(JobError::value("path", "give path or upload")),
            (Some(path), None) if path.is_empty() || path.chars().count() > 1024 || path.contains('\0') => {
                return Err(JobError::value("path", "it has 1 to 1024 characters, none of them zero"));
            }
            (None, Some(name)) if !is_file_name(name) => {
                let what =
                    "it is a file's name: 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', the first no '.' or '-'";
                return Err(JobError::value("upload", what));
            }
            (None, Some(name)) if given.is_none() && Format::of_name(name).is_none() => {
                return Err(JobError::value("upload", "its ending names no known format: give input_format"));
            }
            _ => {}
        }
        let text_field = text_field.unwrap_or_else(|| "text".into());
        for (name, field) in [("text_field", Some(&text_field)), ("id_field", id_field.as_ref())] {
            let Some(field) = field else { continue };
            if field.chars().count() > 256 {
                return Err(JobError::value(name, "it has 256 characters at most"));
            }
            field.parse::<Field>().map_err(|error| JobError::value(name, error.to_string()))?;
        }
        if only_detected && format == wire::ResultFormat::Dolma {
            let why = "not with dolma, which joins attributes to documents line by line";
            return Err(JobError::value("only_detected", why));
        }
        let rate = false_discovery_rate.unwrap_or(0.01);
        if !(rate > 0.0 && rate <= 0.5) {
            return Err(JobError::value("false_discovery_rate", "it is above 0, up to 0.5"));
        }
        let wire::JobLook { keys, profiles, alpha, spans, include_compromised } = look;
        Ok(Self {
            path,
            upload,
            input_format: given,
            text_field,
            id_field,
            format,
            only_detected,
            strict,
            false_discovery_rate: rate,
            keys,
            profiles,
            alpha: alpha.unwrap_or(1e-5),
            spans,
            include_compromised,
        })
    }

    /// The same, with the keys and profiles that a plan found.
    pub(super) fn resolved(self, plan: &Plan) -> Result<Self, JobError> {
        let (keys, profiles) = plan.names();
        Ok(Self { keys: Some(keys), profiles: Some(profiles), ..self })
    }

    pub(super) fn to_json(&self) -> Result<String, JobError> {
        serde_json::to_string(self).map_err(|_| JobError::Died)
    }

    pub(super) fn from_json(text: &str) -> Result<Self, JobError> {
        serde_json::from_str(text)
            .map_err(|error| JobError::Run(format!("the job's record cannot be read: {error}")))
    }

    /// What to look for.
    pub(super) fn look(&self) -> Look {
        Look {
            keys: self.keys.clone(),
            profiles: self.profiles.clone(),
            modes: Some(vec![ModeName::ModelFree]),
            alpha: Some(self.alpha),
            spans: self.spans,
            tokens: false,
            include_compromised: self.include_compromised,
        }
    }

    pub(super) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    pub(super) fn upload(&self) -> Option<&str> {
        self.upload.as_deref()
    }

    /// As the caller named it.
    pub(super) fn input(&self) -> &str {
        self.path.as_deref().or(self.upload.as_deref()).unwrap_or_default()
    }

    pub(super) fn input_format(&self) -> Option<Format> {
        self.input_format.map(input_format)
    }

    fn result_format(&self) -> ResultFormat {
        match self.format {
            wire::ResultFormat::Jsonl => ResultFormat::Jsonl,
            wire::ResultFormat::Parquet => ResultFormat::Parquet,
            wire::ResultFormat::Dolma => ResultFormat::Dolma,
        }
    }

    pub(super) fn format_name(&self) -> &'static str {
        self.result_format().name()
    }

    pub(super) fn keys(&self) -> &[String] {
        self.keys.as_deref().unwrap_or_default()
    }

    pub(super) fn profiles(&self) -> &[String] {
        self.profiles.as_deref().unwrap_or_default()
    }

    pub(super) fn alpha(&self) -> f64 {
        self.alpha
    }

    pub(super) fn false_discovery_rate(&self) -> f64 {
        self.false_discovery_rate
    }

    /// How the dump is read and its results are written.
    pub(super) fn options(
        &self,
        max_document: usize,
        memory: usize,
        threads: NonZeroUsize,
    ) -> Result<Options, JobError> {
        let field = |name: &String| {
            name.parse::<Field>().map_err(|error| JobError::value("text_field", error.to_string()))
        };
        Ok(Options {
            text: field(&self.text_field)?,
            id: self.id_field.as_ref().map(field).transpose()?,
            format: self.result_format(),
            attribute: ATTRIBUTE.into(),
            only_detected: self.only_detected,
            strict: self.strict,
            existing: Existing::Resume,
            max_document,
            memory,
            threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(json: &str) -> wire::JobCreate {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn orders_are_checked_and_read_back() {
        for (json, fault) in [
            (r#"{}"#, "path: give path or upload"),
            (r#"{"path":"a","upload":"b.jsonl"}"#, "not both"),
            (r#"{"path":""}"#, "1 to 1024"),
            (r#"{"upload":"../b.jsonl"}"#, "a file's name"),
            (r#"{"upload":".b.jsonl"}"#, "a file's name"),
            (r#"{"upload":"b.bin"}"#, "give input_format"),
            (r#"{"path":"a","text_field":"a..b"}"#, "text_field: "),
            (r#"{"path":"a","id_field":"["}"#, "id_field: "),
            (r#"{"path":"a","format":"dolma","only_detected":true}"#, "line by line"),
            (r#"{"path":"a","false_discovery_rate":0.6}"#, "up to 0.5"),
        ] {
            let error = Order::new(wanted(json)).unwrap_err().to_string();
            assert!(error.contains(fault), "{json}: {error}");
        }
        let order = Order::new(wanted(r#"{"upload":"b.bin","input_format":"jsonl","look":{"keys":["a"]}}"#));
        let order = order.unwrap();
        assert_eq!(Order::from_json(&order.to_json().unwrap()).unwrap(), order);
        assert!(Order::from_json("{}").is_err());
    }
}
