//! What is asked of the service: parts of a mix, each with requests made beforehand.

use std::str::FromStr;

use bytes::Bytes;
use dandyroll_api::detect::{BatchRequest, BatchText, DetectRequest, Look, TextItem};
use dandyroll_vocab::Vocabulary;
use serde::Serialize;
use serde_json::json;

use crate::arrivals::Draws;
use crate::{Failure, texts};

/// Requests of a part that differ in their texts.
pub const VARIANTS: usize = 64;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// One text of so many tokens.
    Detect {
        /// Tokens of a text.
        tokens: usize,
    },
    /// Texts of so many tokens in one request.
    Batch {
        /// Texts of a request.
        texts: usize,
        /// Tokens of a text.
        tokens: usize,
    },
    /// The same, line by line.
    Stream {
        /// Lines of a request.
        texts: usize,
        /// Tokens of a text.
        tokens: usize,
    },
    /// A streamed generation of so many tokens.
    Generate {
        /// The most tokens.
        tokens: usize,
    },
}

impl Kind {
    /// Where it is sent.
    pub fn path(self) -> &'static str {
        match self {
            Self::Detect { .. } => "/v1/detect",
            Self::Batch { .. } => "/v1/detect/batch",
            Self::Stream { .. } => "/v1/detect/stream",
            Self::Generate { .. } => "/v1/completions",
        }
    }

    /// The body's type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Stream { .. } => "application/x-ndjson",
            _ => "application/json",
        }
    }

    /// Texts of a request of detection.
    pub fn texts(self) -> usize {
        match self {
            Self::Detect { .. } => 1,
            Self::Batch { texts, .. } | Self::Stream { texts, .. } => texts,
            Self::Generate { .. } => 0,
        }
    }
}

/// A kind and how often it comes: `detect:300=8`, `batch:16x300=1`, `stream:16x300`, `generate:48`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// As it was typed.
    pub name: String,
    /// The kind of request.
    #[serde(flatten)]
    pub kind: Kind,
    /// Its share is its weight over the sum of all.
    pub weight: u32,
}

/// A part of a mix that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no part of a mix: write detect:TOKENS, batch:TEXTSxTOKENS, stream:TEXTSxTOKENS or generate:TOKENS, with =WEIGHT if you like"
)]
pub struct NoPart(String);

impl FromStr for Part {
    type Err = NoPart;

    fn from_str(text: &str) -> Result<Self, NoPart> {
        let fault = || NoPart(text.to_owned());
        let positive = |text: &str| text.parse::<usize>().ok().filter(|value| *value > 0).ok_or_else(fault);
        let pair = |text: &str| {
            let (texts, tokens) = text.split_once('x').ok_or_else(fault)?;
            Ok((positive(texts)?, positive(tokens)?))
        };
        let (what, weight) = text.split_once('=').unwrap_or((text, "1"));
        let weight = weight.parse().ok().filter(|weight| *weight > 0).ok_or_else(fault)?;
        let (name, size) = what.split_once(':').ok_or_else(fault)?;
        let kind = match name {
            "detect" => Kind::Detect { tokens: positive(size)? },
            "batch" => pair(size).map(|(texts, tokens)| Kind::Batch { texts, tokens })?,
            "stream" => pair(size).map(|(texts, tokens)| Kind::Stream { texts, tokens })?,
            "generate" => Kind::Generate { tokens: positive(size)? },
            _ => return Err(fault()),
        };
        Ok(Self { name: what.to_owned(), kind, weight })
    }
}

/// What the requests are made of.
#[derive(Debug)]
pub struct Material<'a> {
    /// Human texts.
    pub documents: &'a [String],
    /// What generations go on from.
    pub prompts: &'a [String],
    /// What counts tokens.
    pub vocabulary: &'a Vocabulary,
    /// The model's name in requests of generation.
    pub model: &'a str,
}

/// Parts with their bodies.
#[derive(Debug)]
pub struct Mix {
    parts: Vec<(Part, Vec<Bytes>)>,
    weights: u32,
}

fn body(value: &impl Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Bytes::from).map_err(Failure::new)
}

fn detection(text: String) -> DetectRequest {
    DetectRequest {
        text,
        prompt: None,
        keys: None,
        profiles: None,
        modes: None,
        alpha: None,
        spans: false,
        tokens: false,
        include_compromised: false,
    }
}

fn bodies(kind: Kind, material: &Material<'_>) -> Result<Vec<Bytes>, Failure> {
    let cut = |tokens, count| texts::of_length(material.documents, material.vocabulary, tokens, count);
    let chunks = |texts: usize, tokens| -> Result<Vec<Vec<String>>, Failure> {
        // Variants share their texts, shifted by one: large batches would else hold the whole corpus many times.
        let all = cut(tokens, VARIANTS.max(texts))?;
        Ok((0..VARIANTS).map(|first| all.iter().cycle().skip(first).take(texts).cloned().collect()).collect())
    };
    match kind {
        Kind::Detect { tokens } => {
            cut(tokens, VARIANTS)?.into_iter().map(|text| body(&detection(text))).collect()
        }
        Kind::Batch { texts, tokens } => chunks(texts, tokens)?
            .into_iter()
            .map(|texts| {
                let texts = texts.into_iter().map(BatchText::Text).collect();
                body(&BatchRequest { texts, look: Look::default() })
            })
            .collect(),
        Kind::Stream { texts, tokens } => chunks(texts, tokens)?
            .into_iter()
            .map(|texts| {
                let mut lines = Vec::new();
                for text in texts {
                    lines.extend_from_slice(&body(&TextItem { id: None, text, prompt: None })?);
                    lines.push(b'\n');
                }
                Ok(Bytes::from(lines))
            })
            .collect(),
        Kind::Generate { tokens } => material
            .prompts
            .iter()
            .zip(0_u32..64)
            .map(|(prompt, seed)| {
                body(&json!({
                    "model": material.model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0,
                    "seed": seed, "stream": true,
                }))
            })
            .collect(),
    }
}

impl Mix {
    /// Makes the bodies.
    pub fn prepare(parts: Vec<Part>, material: &Material<'_>) -> Result<Self, Failure> {
        let weights = parts.iter().map(|part| part.weight).sum();
        let parts = parts
            .into_iter()
            .map(|part| {
                let bodies = bodies(part.kind, material)?;
                if bodies.is_empty() {
                    return Err(Failure::new(format!("there are no texts for {}", part.name)));
                }
                Ok((part, bodies))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        if parts.is_empty() {
            return Err(Failure::new("the mix is empty"));
        }
        Ok(Self { parts, weights })
    }

    /// The parts, in order.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &Part> {
        self.parts.iter().map(|(part, _)| part)
    }

    /// A part's number, its kind and a body.
    pub fn draw(&self, draws: &mut Draws) -> (usize, Kind, Bytes) {
        let weights = usize::try_from(self.weights).unwrap_or(usize::MAX);
        let mut left = draws.below(weights);
        let mut chosen = 0;
        for (number, (part, _)) in self.parts.iter().enumerate() {
            let weight = usize::try_from(part.weight).unwrap_or(usize::MAX);
            chosen = number;
            if left < weight {
                break;
            }
            left -= weight;
        }
        let (part, bodies) = &self.parts[chosen];
        (chosen, part.kind, bodies[draws.below(bodies.len())].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn parts_are_read() {
        let part: Part = "batch:16x300=3".parse().unwrap();
        assert_eq!(part.kind, Kind::Batch { texts: 16, tokens: 300 });
        assert_eq!((part.name.as_str(), part.weight), ("batch:16x300", 3));
        assert_eq!("generate:48".parse::<Part>().unwrap().weight, 1);
        for wrong in ["", "detect", "detect:0", "detect:3=0", "batch:3", "batch:0x3", "other:3", "stream:2x"]
        {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let vocabulary = Vocabulary::open(root.join("model/tokenizer.json")).unwrap();
        let documents = texts::read(&root.join("corpora/prose_heldout.jsonl")).unwrap();
        let material =
            Material { documents: &documents, prompts: &documents, vocabulary: &vocabulary, model: "model" };
        let parts = ["detect:50=3", "stream:2x50=1"].map(|part| part.parse().unwrap());
        let mix = Mix::prepare(parts.to_vec(), &material).unwrap();
        let mut draws = Draws::new(5, 0);
        let mut counts = [0_u32; 2];
        for _ in 0..4000 {
            let (part, kind, body) = mix.draw(&mut draws);
            counts[part] += 1;
            let lines = body.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, if part == 1 { kind.texts() } else { 0 });
        }
        // Binomial(4000, 1/4), seed 5: σ = 27; 5σ.
        assert!(counts[1].abs_diff(1000) < 137, "{counts:?}");
        assert!(Mix::prepare(Vec::new(), &material).is_err());
    }
}
