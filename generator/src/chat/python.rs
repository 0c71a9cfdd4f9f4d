//! Values as Python writes them: `str`, `repr`, `json.dumps`, `strftime`.

use std::fmt::Write as _;
use std::time::SystemTime;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use time::OffsetDateTime;
use time::format_description::parse_strftime_owned;

/// What `{{ value }}` writes: `str(value)`.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => {
            let mut out = String::new();
            repr(value, &mut out);
            out
        }
    }
}

fn repr(value: &Value, out: &mut String) {
    // Writing to a `String` cannot fail.
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => listed(value, out, '[', ']', |item, out| repr(&item, out)),
        ValueKind::Map => listed(value, out, '{', '}', |key, out| {
            repr(&key, out);
            out.push_str(": ");
            repr(&value.get_item(&key).unwrap_or_default(), out);
        }),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn listed(value: &Value, out: &mut String, open: char, close: char, each: impl Fn(Value, &mut String)) {
    out.push(open);
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        each(item, out);
    }
    out.push(close);
}

/// A Python string literal.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `json.dumps(value, ensure_ascii=False, …)`, as `transformers` gives it to templates: no HTML escapes.
pub(super) fn to_json(state: &State<'_, '_>, value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) {
        None => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(indent)?.min(64))),
        },
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two")),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = Json { state, indent, separators, sorted, ascii, out: String::new() };
    json.write(&value, 0)?;
    Ok(json.out)
}

struct Json<'a, 'b> {
    state: &'a State<'b, 'b>,
    indent: Option<String>,
    separators: (String, String),
    sorted: bool,
    ascii: bool,
    out: String,
}

impl Json<'_, '_> {
    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if depth > 64 {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson of a value nested more than 64 deep",
            ));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Number => {
                let _ = write!(self.out, "{value}");
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.many('[', ']', items, depth, |json, item| json.write(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.many('{', '}', keys, depth, |json, key| {
                    json.string(&text(&key));
                    let colon = json.separators.1.clone();
                    json.out.push_str(&colon);
                    json.write(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => {
                let message = format!("tojson of a value that is {kind}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn many(
        &mut self,
        open: char,
        close: char,
        items: Vec<Value>,
        depth: usize,
        mut each: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let some = !items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                let comma = self.separators.0.clone();
                self.out.push_str(&comma);
            }
            self.line(depth + 1);
            each(self, item)?;
        }
        if some {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }
}

/// `datetime.now().strftime(format)`, in UTC.
pub(super) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let failed = |reason: String| {
        let format: String = format.chars().take(60).collect();
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {reason}"))
    };
    let items = parse_strftime_owned(format).map_err(|error| failed(error.to_string()))?;
    OffsetDateTime::from(now).format(&items).map_err(|error| failed(error.to_string()))
}
