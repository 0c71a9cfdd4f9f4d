//! Names that people give to rings and profiles, and numbers of versions.

use std::fmt;
use std::str::FromStr;

/// A name: 1 to 64 of a-z, 0-9, `-`, `_`, `.`, beginning with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alias(String);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 64 of a-z, 0-9, '-', '_', '.', and begins with a letter or digit")]
pub struct BadAlias;

impl Alias {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = BadAlias;

    fn from_str(text: &str) -> Result<Self, BadAlias> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let begins = text.bytes().next().is_some_and(plain);
        let all = text.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'));
        if begins && all && text.len() <= 64 { Ok(Self(text.into())) } else { Err(BadAlias) }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a key version in its ring: 1, 2, 3, … A number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32);

impl Version {
    /// Checks that it is not 0.
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Version {
    type Error = ();

    fn try_from(number: i64) -> Result<Self, ()> {
        u32::try_from(number).ok().and_then(Self::new).ok_or(())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_their_edges() {
        for good in ["a", "prose-v1", "0", "team.b_2", &"x".repeat(64)] {
            assert_eq!(good.parse::<Alias>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "-a", ".a", "a b", "a/b", "ä", "a\0", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Alias>(), Err(BadAlias), "{bad:?}");
        }
    }
}
