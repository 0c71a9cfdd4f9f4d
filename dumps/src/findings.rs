//! What results say of a finding and of a passage: the one list from which JSON, Parquet and Arrow columns are made.

#[cfg(feature = "pipeline")]
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::judge::{Judge, Judged, Passage};

/// The mode of every hypothesis on a dump.
pub const MODE: &str = "model-free";

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// A whole number of 64 bits.
    Whole,
    /// A number.
    Number,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Of [`Kind::Text`].
    Text(&'a str),
    /// Of [`Kind::Whole`].
    Whole(i64),
    /// Of [`Kind::Number`].
    Number(f64),
    /// Of [`Kind::Number`], too; in JSON a whole number where it is one, as scores of lists are.
    Score(f64),
    /// None, where the column is optional.
    Null,
}

/// A column of items `T`.
#[derive(Debug)]
pub struct Column<T> {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether there may be none.
    pub optional: bool,
    /// An item's value.
    pub get: for<'a> fn(&'a Judge, &'a T) -> Cell<'a>,
}

const fn column<T>(
    name: &'static str,
    kind: Kind,
    get: for<'a> fn(&'a Judge, &'a T) -> Cell<'a>,
) -> Column<T> {
    Column { name, kind, optional: false, get }
}

fn whole(value: impl TryInto<i64>) -> Cell<'static> {
    Cell::Whole(value.try_into().unwrap_or(i64::MAX))
}

fn key(judge: &Judge, wanted: usize) -> Cell<'_> {
    Cell::Text(judge.wanted().get(wanted).map_or("", |wanted| wanted.key.as_str()))
}

fn profile(judge: &Judge, wanted: usize) -> Cell<'_> {
    Cell::Text(judge.wanted().get(wanted).map_or("", |wanted| &wanted.profile))
}

/// Of a finding.
pub static FINDING: [Column<Judged>; 11] = [
    column("key_id", Kind::Text, |judge, found| key(judge, found.wanted)),
    column("profile", Kind::Text, |judge, found| profile(judge, found.wanted)),
    column("mode", Kind::Text, |_, _| Cell::Text(MODE)),
    column("verdict", Kind::Text, |_, found| Cell::Text(found.verdict.name())),
    column("scored", Kind::Whole, |_, found| whole(found.scored)),
    column("score", Kind::Number, |_, found| Cell::Score(found.score)),
    column("expected", Kind::Number, |_, found| Cell::Score(found.expected)),
    Column {
        optional: true,
        ..column("z", Kind::Number, |_, found| found.z.map_or(Cell::Null, Cell::Number))
    },
    column("log10_p", Kind::Number, |_, found| Cell::Number(found.log10_p.get())),
    column("hypotheses", Kind::Whole, |_, found| whole(found.hypotheses)),
    column("log10_p_adjusted", Kind::Number, |_, found| Cell::Number(found.adjusted.get())),
];

/// Of a passage.
pub static PASSAGE: [Column<Passage>; 7] = [
    column("start_char", Kind::Whole, |_, found| whole(found.start)),
    column("end_char", Kind::Whole, |_, found| whole(found.end)),
    column("scored", Kind::Whole, |_, found| whole(found.scored)),
    column("score", Kind::Number, |_, found| Cell::Score(found.score)),
    column("log10_p", Kind::Number, |_, found| Cell::Number(found.log10_p.get())),
    column("log10_p_adjusted", Kind::Number, |_, found| Cell::Number(found.adjusted.get())),
    column("key_id", Kind::Text, |judge, found| key(judge, found.wanted)),
];

/// The columns of the strongest finding, which stand beside a row's own: its verdict and adjusted p are the row's.
pub fn strongest() -> impl Iterator<Item = &'static Column<Judged>> {
    FINDING.iter().filter(|column| !matches!(column.name, "verdict" | "log10_p_adjusted"))
}

#[cfg(feature = "pipeline")]
impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Whole(number) => serializer.serialize_i64(number),
            Self::Number(number) => serializer.serialize_f64(number),
            Self::Score(number) => match exact(number) {
                Some(whole) => serializer.serialize_i64(whole),
                None => serializer.serialize_f64(number),
            },
            Self::Null => serializer.serialize_none(),
        }
    }
}

#[cfg(feature = "pipeline")]
/// A score that is whole, as whole number: lists count.
fn exact(number: f64) -> Option<i64> {
    #[expect(clippy::as_conversions, reason = "compared with what it came from")]
    let whole = number as i64;
    #[expect(clippy::as_conversions, reason = "whole numbers below 2^53 come back as they were")]
    let back = whole as f64;
    (back.to_bits() == number.to_bits() && number.abs() < 9e15).then_some(whole)
}

#[cfg(feature = "pipeline")]
/// An item as a JSON object of its columns.
pub(crate) struct Object<'a, T: 'static> {
    pub(crate) judge: &'a Judge,
    pub(crate) columns: &'static [Column<T>],
    pub(crate) item: &'a T,
}

#[cfg(feature = "pipeline")]
impl<T> Serialize for Object<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for column in self.columns {
            map.serialize_entry(column.name, &(column.get)(self.judge, self.item))?;
        }
        map.end()
    }
}

#[cfg(all(test, feature = "pipeline"))]
mod tests {
    use super::*;

    #[test]
    fn whole_scores_are_written_as_whole_numbers() {
        let written = |number: f64| serde_json::to_string(&Cell::Score(number)).unwrap();
        assert_eq!([90.0, 0.0, -3.0].map(written), ["90", "0", "-3"]);
        assert_eq!([0.5, -9.184_353, 1e300].map(written), ["0.5", "-9.184353", "1e+300"]);
        assert_eq!(serde_json::to_string(&Cell::Number(0.0)).unwrap(), "0.0");
    }
}
