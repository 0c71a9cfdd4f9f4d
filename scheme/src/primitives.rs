//! Numbers with a meaning, each with a checked constructor.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// A token's number in its vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A parameter outside the range in which the mark is defined.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} = {value} is out of range: {allowed}")]
pub struct OutOfRange {
    /// The parameter's name in the field's terms.
    pub name: &'static str,
    /// The value that was refused.
    pub value: f64,
    /// The range that is allowed, in words.
    pub allowed: &'static str,
}

/// An entropy, or an entropy threshold τ, in nats. Finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Nats(f64);

impl Nats {
    /// Checks that the value is finite and ≥ 0.
    pub fn new(value: f64) -> Result<Self, OutOfRange> {
        // Not negative zero: it would print, and so hash, as another value than zero.
        if value.is_finite() && value >= 0.0 {
            Ok(Self(value + 0.0))
        } else {
            Err(OutOfRange { name: "entropy", value, allowed: "a finite number of nats, 0 or more" })
        }
    }

    /// Checks an entropy threshold τ: 0, or from 10⁻⁶ to 100 nats.
    pub fn threshold(value: f64) -> Result<Self, OutOfRange> {
        if value == 0.0 || (1e-6..=100.0).contains(&value) {
            Self::new(value)
        } else {
            Err(OutOfRange { name: "entropy threshold", value, allowed: "0, or nats from 1e-6 to 100" })
        }
    }

    /// The entropy in nats.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// h, how many previous generated tokens decide the words: 0 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextWidth(u8);

impl ContextWidth {
    /// The tokens of the widest context.
    pub const MAX_LEN: usize = 8;

    /// The widest context.
    pub const MAX: Self = Self(8);

    /// Two tokens.
    pub const TWO: Self = Self(2);

    /// Checks h ≤ 8.
    pub fn new(value: u8) -> Result<Self, OutOfRange> {
        if value <= Self::MAX.0 {
            Ok(Self(value))
        } else {
            Err(OutOfRange { name: "context width", value: f64::from(value), allowed: "0 to 8 tokens" })
        }
    }

    /// Checks a number from outside: whole, and h ≤ 8.
    pub(crate) fn of_number(value: f64) -> Result<Self, OutOfRange> {
        let whole = (0..=Self::MAX.0).find(|h| f64::from(*h).total_cmp(&value).is_eq());
        whole.map(Self).ok_or(OutOfRange { name: "context width", value, allowed: "0 to 8 tokens" })
    }

    /// h as the byte that enters the label and the profile.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// h as a length.
    pub fn len(self) -> usize {
        usize::from(self.0)
    }

    /// Whether words do not depend on the context at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A SHA-256 that names a file: a tokenizer or a model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256: 64 lower-case hexadecimal digits are expected")]
pub struct ParseDigestError(pub String);

impl FromStr for Sha256Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseDigestError(text.chars().take(80).collect());
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
        bytes.try_into().map(Self).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn ranges_are_refused_by_name() {
        for bad in [-0.1, f64::NAN, f64::INFINITY, 1e-9] {
            assert_eq!(Nats::threshold(bad).unwrap_err().name, "entropy threshold");
        }
        assert!(ContextWidth::new(8).is_ok());
        assert_eq!(ContextWidth::new(9).unwrap_err().name, "context width");
        assert_eq!(format!("{}", Nats::new(-0.0).unwrap().get()), "0");
    }

    #[test]
    fn digests_round_trip_as_lower_case_hexadecimal() {
        let digest = Sha256Digest(core::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap()));
        assert_eq!(format!("{digest}").parse(), Ok(digest));
        for bad in ["", "00", &"A".repeat(64), &"0".repeat(63), &"g".repeat(64)] {
            assert!(bad.parse::<Sha256Digest>().is_err(), "{bad}");
        }
    }
}
