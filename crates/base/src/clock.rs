//! Points in time: as the wire formats write them (RFC 3339, UTC, nanoseconds), and by a clock that nobody sets.

use std::str::FromStr;
use std::time::Duration;

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

/// A point in time since the host was booted, by a clock that nobody sets: how long something took must not depend on
/// the time of day, which may be set forwards and backwards meanwhile. Means nothing after a reboot. Its text is nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Uptime(Duration);

impl Uptime {
    /// Now.
    pub fn now() -> Uptime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Neither is negative since boot.
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        Uptime(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    /// How long ago it is.
    pub fn elapsed(self) -> Duration {
        Uptime::now().0.saturating_sub(self.0)
    }
}

impl std::fmt::Display for Uptime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_nanos().fmt(f)
    }
}

impl FromStr for Uptime {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|nanos| Uptime(Duration::from_nanos(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_goes_on_and_is_read_again() {
        let before = Uptime::now();
        assert_eq!(before.to_string().parse(), Ok(before));
        assert!(Uptime::now() >= before && before.elapsed() < Duration::from_secs(1000));
        assert!("x".parse::<Uptime>().is_err());
    }

    #[test]
    fn reads_and_writes_rfc3339() {
        let t: Timestamp = "2026-11-21T10:00:00.5Z".parse().unwrap();
        assert_eq!(t.to_string(), "2026-11-21T10:00:00.5Z");
        assert_eq!(t.fixed_width(), "2026-11-21T10:00:00.500000000Z");
        assert_eq!(t, "2026-11-21T12:00:00.5+02:00".parse().unwrap());
    }
}
