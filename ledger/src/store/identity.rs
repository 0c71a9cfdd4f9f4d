//! Which store this is: a name made once, that the audit's chain and its signed checkpoints carry.

use std::fmt;
use std::str::FromStr;

use super::StoreError;
use super::db::{Tx, args};
use crate::codec::fresh_name;

/// The name of a store: `st_` and 26 base-32 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(String);

impl StoreId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StoreId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.strip_prefix("st_").unwrap_or_default();
        if body.len() == 26 && body.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')) {
            Ok(Self(text.into()))
        } else {
            Err("a store's id is st_ followed by 26 characters of a-z and 2-7")
        }
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tx {
    /// Names the store, unless it has a name.
    pub(super) async fn name_store(&mut self) -> Result<(), StoreError> {
        let name = fresh_name("st_").map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let sql = "INSERT INTO store_identity (id, store_id) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";
        self.execute(sql, args![name]).await.map(drop)
    }

    /// The store's name.
    pub(crate) async fn store_id(&mut self) -> Result<StoreId, StoreError> {
        self.single("SELECT store_id FROM store_identity WHERE id = 1", args![]).await?.parse("store_id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_stores_are_read() {
        let good = fresh_name("st_").unwrap();
        assert_eq!(good.parse::<StoreId>().unwrap().as_str(), good);
        for bad in
            ["", "st_", &good[..28], &good.to_uppercase(), &good.replace("st_", "sv_"), &format!("{good}a")]
        {
            assert!(bad.parse::<StoreId>().is_err(), "{bad}");
        }
    }
}
