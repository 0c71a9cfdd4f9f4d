//! Token ids given as JSON.

use std::fmt;

use dandyroll_scheme::TokenId;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::VocabError;
use crate::vocabulary::Vocabulary;

impl Vocabulary {
    /// Reads a flat JSON array of token ids, each below [`Vocabulary::size`] and in use.
    ///
    /// The error names the first item that is no id.
    pub fn ids_from_json(&self, json: &str) -> Result<Vec<TokenId>, VocabError> {
        let mut input = serde_json::Deserializer::from_str(json);
        let found = input
            .deserialize_seq(Ids(self))
            .and_then(|ids| input.end().map(|()| ids))
            .map_err(|error| VocabError::IdsJson(error.to_string()))?;
        found.map_err(|(index, found)| VocabError::IdsItem { index, found, size: self.size() })
    }
}

/// Reads the array; the first bad item, if any, with its index and a description.
struct Ids<'v>(&'v Vocabulary);

impl<'de> Visitor<'de> for Ids<'_> {
    type Value = Result<Vec<TokenId>, (usize, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of token ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut ids = Vec::new();
        while let Some(item) = items.next_element::<Item>()? {
            let known = match item {
                Item::Number(number) => u32::try_from(number)
                    .ok()
                    .map(TokenId)
                    .filter(|id| self.0.token_bytes(*id).is_some())
                    .ok_or_else(|| number.to_string()),
                Item::Other(what) => Err(what),
            };
            match known {
                Ok(id) => ids.push(id),
                Err(found) => {
                    while items.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(Err((ids.len(), found)));
                }
            }
        }
        Ok(Ok(ids))
    }
}

enum Item {
    Number(u64),
    Other(String),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Item, E> {
        Ok(Item::Number(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Item, E> {
        Ok(Item::Other(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Item, E> {
        Ok(Item::Other(format!("{value:?}")))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Item, E> {
        Ok(Item::Other(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Item, E> {
        Ok(Item::Other("null".into()))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Item, E> {
        Ok(Item::Other("a string".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::Other("an array".into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Item::Other("an object".into()))
    }
}
