//! One row of a result, as JSON and as Dolma attributes.

use std::sync::Arc;

use dandyroll_detector::Verdict;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::fault::{Fault, Place};
use crate::field::DocumentId;
use crate::findings::{FINDING, Object, PASSAGE};
use crate::judge::{Judge, Judged, Judgement, Passage};

/// One record of the input and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) id: Option<DocumentId>,
    pub(crate) outcome: Result<Arc<Judgement>, Fault>,
}

#[derive(Serialize)]
struct WireError<'a> {
    kind: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte: Option<u64>,
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    row: Option<u64>,
    id: WireId<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log10_p_adjusted: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<Object<'a, Judged>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spans: Option<Vec<Object<'a, Passage>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError<'a>>,
}

struct WireId<'a>(Option<&'a DocumentId>);

impl Serialize for WireId<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_none(),
            Some(DocumentId::Text(text)) => serializer.serialize_str(text),
            // Whole numbers keep their type; what JSON itself may round is text.
            Some(DocumentId::Number(number)) => match (number.parse::<i64>(), number.parse::<u64>()) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_str(number),
            },
        }
    }
}

impl Row {
    /// Whether `--only detected` keeps it: what was detected, and what could not be judged.
    pub(crate) fn matters(&self) -> bool {
        self.outcome.as_ref().map_or(true, |judgement| judgement.verdict == Verdict::Detected)
    }

    fn error(&self) -> Option<WireError<'_>> {
        self.outcome.as_ref().err().map(|fault| WireError {
            kind: fault.kind.name(),
            reason: &fault.reason,
            line: self.place.line,
            byte: self.place.byte,
        })
    }

    /// Appends a line of JSON.
    pub(crate) fn write_json(
        &self,
        judge: &Judge,
        file: Option<&str>,
        out: &mut Vec<u8>,
    ) -> serde_json::Result<()> {
        let judged = self.outcome.as_ref().ok();
        let wire = Wire {
            file,
            row: self.place.row,
            id: WireId(self.id.as_ref()),
            verdict: judged.map(|judged| judged.verdict.name()),
            tokens: judged.map(|judged| judged.tokens),
            log10_p_adjusted: judged.map(|judged| judged.adjusted.get()),
            findings: judged.map(|judged| {
                judged.findings.iter().map(|item| Object { judge, columns: &FINDING, item }).collect()
            }),
            spans: judged.and_then(|judged| {
                let passages = judged.passages.as_ref()?.iter();
                Some(passages.map(|item| Object { judge, columns: &PASSAGE, item }).collect())
            }),
            error: self.error(),
        };
        serde_json::to_writer(&mut *out, &wire)?;
        out.push(b'\n');
        Ok(())
    }

    /// Appends a line of Dolma attributes: `[start, end, score]`, characters and −log₁₀ of the adjusted p.
    pub(crate) fn write_dolma(&self, name: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let wire = Dolma { row: self, name };
        serde_json::to_writer(&mut *out, &wire)?;
        out.push(b'\n');
        Ok(())
    }
}

struct Dolma<'a> {
    row: &'a Row,
    name: &'a str,
}

type DolmaSpan = (usize, usize, f64);

impl Serialize for Dolma<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // −0 would be written where nothing speaks for a mark.
        let strength = |log10_p: f64| (-log10_p).max(0.0);
        let (mut document, mut detected): (Vec<DolmaSpan>, Vec<DolmaSpan>) = (Vec::new(), Vec::new());
        if let Ok(judged) = &self.row.outcome {
            let whole = (0, judged.characters, strength(judged.adjusted.get()));
            document.push(whole);
            match &judged.passages {
                Some(passages) => detected.extend(
                    passages.iter().map(|found| (found.start, found.end, strength(found.adjusted.get()))),
                ),
                None if judged.verdict == Verdict::Detected => detected.push(whole),
                None => {}
            }
        }
        let attributes = std::collections::BTreeMap::from([
            (format!("{}__detected", self.name), detected),
            (format!("{}__document", self.name), document),
        ]);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &WireId(self.row.id.as_ref()))?;
        map.serialize_entry("attributes", &attributes)?;
        if let Some(error) = self.row.error() {
            map.serialize_entry("error", &error)?;
        }
        map.end()
    }
}
