//! Names of fields: a column, or a path into JSON objects and Parquet groups.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::fault::{Fault, FaultKind};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key(String),
    Index(usize),
}

/// Where a field lies: `text`, `meta.title`, `messages[0].content`, `["a.b"].c`; a leading `$.` is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    given: String,
    parts: Vec<Part>,
}

/// A path that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} names no field: {what} (allowed: a.b, a[0], [\"a.b\"])")]
pub struct FieldError {
    path: String,
    what: &'static str,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for Field {
    type Err = FieldError;

    fn from_str(given: &str) -> Result<Self, FieldError> {
        let bad = |what| FieldError { path: given.to_owned(), what };
        let mut parts = Vec::new();
        // `$` is the root only before a step; a name may begin with it.
        let mut rest = match given.strip_prefix('$') {
            Some("") => return Err(bad("it is the whole document")),
            Some(after) if after.starts_with(['.', '[']) => after,
            _ if given.starts_with('[') => given,
            _ => {
                let (key, after) = given.split_at(given.find(['.', '[']).unwrap_or(given.len()));
                if key.is_empty() {
                    return Err(bad("a name is empty"));
                }
                parts.push(Part::Key(key.to_owned()));
                after
            }
        };
        while !rest.is_empty() {
            if let Some(quoted) = rest.strip_prefix("[\"") {
                let (key, after) = quoted.split_once('"').ok_or_else(|| bad("a quote is open"))?;
                rest = after.strip_prefix(']').ok_or_else(|| bad("a bracket is open"))?;
                if key.is_empty() {
                    return Err(bad("a name is empty"));
                }
                parts.push(Part::Key(key.to_owned()));
            } else if let Some(inner) = rest.strip_prefix('[') {
                let (digits, after) = inner.split_once(']').ok_or_else(|| bad("a bracket is open"))?;
                let digital = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
                let index = digits.parse().ok().filter(|_| digital);
                parts.push(Part::Index(index.ok_or_else(|| bad("an index is no number of 1 to 9 digits"))?));
                rest = after;
            } else {
                let after = rest.strip_prefix('.').ok_or_else(|| bad("a dot is missing after a bracket"))?;
                let (key, after) = after.split_at(after.find(['.', '[']).unwrap_or(after.len()));
                if key.is_empty() {
                    return Err(bad("a name is empty"));
                }
                parts.push(Part::Key(key.to_owned()));
                rest = after;
            }
        }
        Ok(Self { given: given.to_owned(), parts })
    }
}

impl Field {
    /// The path as names joined by dots, as Parquet names columns; indices are no columns.
    pub(crate) fn dotted(&self) -> Option<String> {
        let keys: Option<Vec<&str>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Key(key) => Some(key.as_str()),
                Part::Index(_) => None,
            })
            .collect();
        keys.map(|keys| keys.join("."))
    }

    /// The name as it was given: of a CSV column or a WARC header.
    pub(crate) fn given(&self) -> &str {
        &self.given
    }
}

/// The id of a document as its record gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentId {
    /// A string.
    Text(String),
    /// A number, as JSON writes it.
    Number(String),
}

impl DocumentId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) => text,
        }
    }
}

/// What stands where a path leads.
#[derive(Clone, Debug, Default, PartialEq)]
enum Value<'de> {
    #[default]
    Missing,
    Null,
    Text(Cow<'de, str>),
    Number(String),
    Other(&'static str),
}

/// What a line holds.
struct Wanted<'de> {
    text: Value<'de>,
    id: Value<'de>,
}

/// Id and text of one line.
pub(crate) fn read<'de>(
    line: &'de [u8],
    text: &Field,
    id: Option<&Field>,
) -> (Option<DocumentId>, Result<Cow<'de, str>, Fault>) {
    let line = match std::str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => return (None, Err(Fault::not_utf8(&error))),
    };
    let mut found = Wanted { text: Value::Missing, id: Value::Missing };
    let mut reader = serde_json::Deserializer::from_str(line);
    let top = Walk { text: Some(&text.parts), id: id.map(|id| &*id.parts), found: &mut found };
    let result = top.deserialize(&mut reader).and_then(|object| {
        reader.end()?;
        Ok(object)
    });
    let malformed = |what: String| Fault::new(FaultKind::MalformedJson, what);
    match result {
        Err(error) => {
            // serde_json may quote the document; the category and the column do not.
            let what = match error.classify() {
                serde_json::error::Category::Eof => "the JSON ends too early",
                _ => "no valid JSON",
            };
            return (None, Err(malformed(format!("{what}, at column {}", error.column()))));
        }
        Ok(false) => return (None, Err(malformed("the line is JSON, but no object".into()))),
        Ok(true) => {}
    }
    let id = match found.id {
        Value::Text(text) => Some(DocumentId::Text(text.into_owned())),
        Value::Number(number) => Some(DocumentId::Number(number)),
        Value::Missing | Value::Null | Value::Other(_) => None,
    };
    let no_text = |what: &str| Fault::new(FaultKind::NoText, format!("{text} {what}"));
    let wrong = |what: &str| Fault::new(FaultKind::WrongType, format!("{text} is {what}, not a string"));
    let text = match found.text {
        Value::Text(text) => Ok(text),
        Value::Missing => Err(no_text("is missing")),
        Value::Null => Err(no_text("is null")),
        Value::Number(_) => Err(wrong("a number")),
        Value::Other(what) => Err(wrong(what)),
    };
    (id, text)
}

/// Walks one value, with what is left of the two paths. Gives whether it is an object.
struct Walk<'p, 'f, 'de> {
    text: Option<&'p [Part]>,
    id: Option<&'p [Part]>,
    found: &'f mut Wanted<'de>,
}

impl<'de> Walk<'_, '_, 'de> {
    /// A value stands here: a path that ends here takes it, one that leads on finds nothing.
    fn set(&mut self, value: &Value<'de>) {
        if self.text.is_some_and(<[Part]>::is_empty) {
            self.found.text = value.clone();
        }
        if self.id.is_some_and(<[Part]>::is_empty) {
            self.found.id = value.clone();
        }
    }
}

fn follow(path: Option<&[Part]>, step: impl Fn(&Part) -> bool) -> Option<&[Part]> {
    let (first, rest) = path?.split_first()?;
    step(first).then_some(rest)
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(mut self, _: bool) -> Result<bool, E> {
        self.set(&Value::Other("a boolean"));
        Ok(false)
    }

    fn visit_i64<E>(mut self, number: i64) -> Result<bool, E> {
        self.set(&Value::Number(number.to_string()));
        Ok(false)
    }

    fn visit_u64<E>(mut self, number: u64) -> Result<bool, E> {
        self.set(&Value::Number(number.to_string()));
        Ok(false)
    }

    fn visit_f64<E>(mut self, number: f64) -> Result<bool, E> {
        self.set(&Value::Number(number.to_string()));
        Ok(false)
    }

    fn visit_unit<E>(mut self) -> Result<bool, E> {
        self.set(&Value::Null);
        Ok(false)
    }

    fn visit_borrowed_str<E>(mut self, text: &'de str) -> Result<bool, E> {
        self.set(&Value::Text(Cow::Borrowed(text)));
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        // One of both at most is as long as a document.
        if self.text.is_some_and(<[Part]>::is_empty) {
            self.found.text = Value::Text(Cow::Owned(text.to_owned()));
        }
        if self.id.is_some_and(<[Part]>::is_empty) {
            self.found.id = Value::Text(Cow::Owned(text.to_owned()));
        }
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        self.set(&Value::Other("an object"));
        while let Some(key) = map.next_key_seed(Key)? {
            let step = |part: &Part| matches!(part, Part::Key(wanted) if *wanted == key);
            let (text, id) = (follow(self.text, step), follow(self.id, step));
            if text.is_none() && id.is_none() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Walk { text, id, found: self.found })?;
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<bool, A::Error> {
        self.set(&Value::Other("an array"));
        for at in 0.. {
            let step = |part: &Part| matches!(part, Part::Index(wanted) if *wanted == at);
            let (text, id) = (follow(self.text, step), follow(self.id, step));
            let more = if text.is_none() && id.is_none() {
                items.next_element::<IgnoredAny>()?.is_some()
            } else {
                items.next_element_seed(Walk { text, id, found: self.found })?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(false)
    }
}

/// An object's key, borrowed where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(path: &str) -> Field {
        path.parse().unwrap()
    }

    fn get(line: &str, path: &str) -> Result<String, FaultKind> {
        read(line.as_bytes(), &field(path), None).1.map(Cow::into_owned).map_err(|fault| fault.kind)
    }

    #[test]
    fn paths_lead_into_objects_and_arrays() {
        let line = r#"{"a":{"b.c":"x","d":["y",{"e":"z\n"}]},"text":"t"}"#;
        for (path, expected) in
            [("text", "t"), ("$.text", "t"), ("a[\"b.c\"]", "x"), ("a.d[0]", "y"), ("$.a.d[1].e", "z\n")]
        {
            assert_eq!(get(line, path).unwrap(), expected, "{path}");
        }
        assert_eq!(get(line, "a.d[2]"), Err(FaultKind::NoText));
        assert_eq!(get(line, "text.more"), Err(FaultKind::NoText));
        assert_eq!(get(line, "a"), Err(FaultKind::WrongType));
        for bad in [
            "", "$", "$.", "a..b", "a.", ".a", "a.[0]", "a[0]b", "a[x]", "a[+1]", "a[]", "a[", "[\"a",
            "[\"a\"", "[\"\"]",
        ] {
            assert!(bad.parse::<Field>().is_err(), "{bad}");
        }
        assert_eq!(get("{\"$a\":\"t\"}", "$a").unwrap(), "t");
        assert_eq!(get("{\"a\":[\"t\"]}", "$.a[0]").unwrap(), "t");
        assert_eq!(get("[\"t\"]", "$[0]"), Err(FaultKind::MalformedJson));
        assert_eq!(field("a.b").dotted().as_deref(), Some("a.b"));
        assert_eq!(field("a[0]").dotted(), None);
    }

    #[test]
    fn each_fault_has_its_kind_and_quotes_nothing() {
        for (line, kind) in [
            (&b"{\"text\":null}"[..], FaultKind::NoText),
            (b"{\"id\":1}", FaultKind::NoText),
            (b"{\"text\":17}", FaultKind::WrongType),
            (b"{\"text\":[\"secret\"]}", FaultKind::WrongType),
            (b"{\"text\":\"secret", FaultKind::MalformedJson),
            (b"{\"text\":\"secret\"} x", FaultKind::MalformedJson),
            (b"{\"text\":\"secret\",}", FaultKind::MalformedJson),
            (b"[\"secret\"]", FaultKind::MalformedJson),
            (b"\"secret\"", FaultKind::MalformedJson),
            (b"{\"text\":\"\\ud800\"}", FaultKind::MalformedJson),
            (b"{\"text\":\"secret\xff\"}", FaultKind::NotUtf8),
        ] {
            let fault = read(line, &field("text"), Some(&field("id"))).1.unwrap_err();
            assert_eq!(fault.kind, kind, "{}", String::from_utf8_lossy(line));
            assert!(!fault.reason.contains("secret"), "{}", fault.reason);
        }
        let deep = format!("{{\"text\":\"t\",\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(get(&deep, "text").unwrap(), "t");
        assert_eq!(get(&deep, "x[0][0]"), Err(FaultKind::WrongType));
    }

    #[test]
    fn ids_keep_their_type() {
        let id = |line: &str| read(line.as_bytes(), &field("text"), Some(&field("id"))).0;
        assert_eq!(id(r#"{"id":"a","text":"t"}"#), Some(DocumentId::Text("a".into())));
        assert_eq!(
            id(r#"{"text":1,"id":18446744073709551615}"#),
            Some(DocumentId::Number(u64::MAX.to_string()))
        );
        assert_eq!(id(r#"{"id":[1],"text":"t"}"#), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_whole_parse(text in any::<String>(), key in "[a-z]{1,3}", more in any::<String>()) {
            let line = serde_json::json!({ key.clone(): { "x": more, "y": text } }).to_string();
            prop_assert_eq!(get(&line, &format!("{key}.y")).unwrap(), text);
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..100), path in ".{0,20}") {
            let path = path.parse().unwrap_or_else(|_| field("text"));
            let _ = read(&bytes, &path, Some(&field("id")));
        }
    }
}
