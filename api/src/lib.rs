//! What goes over the wire: request and response types, shared by the server, the load generator and clients.
//!
//! Requests refuse fields they do not know. Every type also describes itself for OpenAPI; the limits in those
//! descriptions are the ones that the server enforces.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

pub mod admin;
pub mod audit;
pub mod calibration;
pub mod detect;
pub mod health;
pub mod jobs;
pub mod openai;
pub mod problem;

/// Writes a number that may be whole as a whole number where it is one: for `#[serde(serialize_with)]`.
pub(crate) fn number<S: serde::Serializer>(number: &f64, out: S) -> Result<S::Ok, S::Error> {
    // Below 2⁵³ `{:.0}` has all digits of a whole number.
    let whole = if number.fract() == 0.0 && number.abs() < 9e15 {
        format!("{number:.0}").parse::<i64>().ok()
    } else {
        None
    };
    match whole {
        Some(whole) => whole.serialize(out),
        None => number.serialize(out),
    }
}

/// A JSON object. serde also reads a struct from a list of its fields in their order; requests must not be read so,
/// for then adding a field would change what a request means.
#[derive(Clone, Copy, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        object(input).map(Self)
    }
}

/// Reads a struct from a JSON object and from nothing else: for `#[serde(deserialize_with)]` on fields.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    input.deserialize_map(Fields(PhantomData))
}

/// [`object`] for every element of a list.
pub fn objects<'de, T, D>(input: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Vec::<Object<T>>::deserialize(input)?.into_iter().map(|object| object.0).collect())
}

/// [`object`] for a field that may be null.
pub fn object_or_null<'de, T, D>(input: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<Object<T>>::deserialize(input)?.map(|object| object.0))
}
