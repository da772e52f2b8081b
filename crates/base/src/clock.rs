//! Points in time as the wire formats write them: RFC 3339, UTC, nanoseconds.

use std::str::FromStr;

/// A point in time. Its text is RFC 3339 with as many digits of the second as needed, as Go's RFC3339Nano.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub jiff::Timestamp);

impl Timestamp {
    /// Now, by the host's clock.
    pub fn now() -> Timestamp {
        Timestamp(jiff::Timestamp::now())
    }

    /// The time `seconds` and `nanoseconds` after 1970.
    ///
    /// # Errors
    /// If that is out of range (years -9999 to 9999).
    pub fn from_unix(seconds: i64, nanoseconds: i32) -> Result<Timestamp, jiff::Error> {
        jiff::Timestamp::new(seconds, nanoseconds).map(Timestamp)
    }

    /// Whole seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.0.as_second()
    }

    /// Nanoseconds since 1970.
    pub fn unix_nanos(self) -> i128 {
        self.0.as_nanosecond()
    }

    /// Always nine digits of the second, as log lines have them.
    pub fn fixed_width(self) -> String {
        format!("{:.9}", self.0)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse().map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc3339() {
        let t: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-21T10:00:00.5Z");
        assert_eq!(t.fixed_width(), "2026-11-21T10:00:00.500000000Z");
        assert_eq!(t, "2026-11-21T12:00:00.5+02:00".parse().unwrap());
    }
}
