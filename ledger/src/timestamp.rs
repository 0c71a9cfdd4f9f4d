//! Points in time as both stores keep them: whole microseconds since 1970, UTC.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text or number that is no time this program can name (years 1970 to 9999).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no RFC 3339 time from 1970 to 9999")]
pub struct BadTime(String);

/// 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// Checks 1970 ≤ year ≤ 9999.
    pub fn from_micros(micros: i64) -> Result<Self, BadTime> {
        if (0..=LAST).contains(&micros) { Ok(Self(micros)) } else { Err(BadTime(micros.to_string())) }
    }

    /// This machine's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(LAST).min(LAST))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// This time and a while, or the last time there is.
    pub fn plus(self, while_: Duration) -> Self {
        let micros = i64::try_from(while_.as_micros()).unwrap_or(LAST);
        Self(self.0.saturating_add(micros).min(LAST))
    }

    /// This time less a while, or 1970.
    pub fn minus(self, while_: Duration) -> Self {
        let micros = i64::try_from(while_.as_micros()).unwrap_or(LAST);
        Self(self.0.saturating_sub(micros).max(0))
    }

    /// Reads an RFC 3339 time.
    pub fn parse(text: &str) -> Result<Self, BadTime> {
        let bad = || BadTime(text.chars().take(64).collect());
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
        let micros = i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).map_err(|_| bad())?;
        Self::from_micros(micros).map_err(|_| bad())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok());
        f.write_str(text.as_deref().unwrap_or("1970-01-01T00:00:00Z"))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree_to_the_microsecond() {
        let time = Timestamp::parse("2026-11-23T23:59:59.123456789+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T22:59:59.123456Z");
        assert_eq!(Timestamp::parse(&time.to_string()).unwrap(), time);
        assert_eq!(Timestamp::from_micros(LAST).unwrap().to_string(), "9999-12-31T23:59:59.999999Z");
        for bad in ["1969-12-31T23:59:59Z", "yesterday", "", "2026-11-23"] {
            assert!(Timestamp::parse(bad).is_err(), "{bad}");
        }
        assert!(Timestamp::from_micros(-1).is_err() && Timestamp::from_micros(LAST + 1).is_err());
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let time = Timestamp::from_micros(5).unwrap();
        assert_eq!(time.minus(Duration::from_secs(1)).micros(), 0);
        assert_eq!(time.plus(Duration::MAX).micros(), LAST);
    }
}
