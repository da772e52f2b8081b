//! The host's time zone.

/// How far the host's clock on the wall was from UTC at `unix_seconds`, in seconds, east positive; 0 if the host has no
/// time zone.
pub fn utc_offset_seconds(unix_seconds: i64) -> i32 {
    // SAFETY: all-zero bytes are a valid tm: numbers, and a null pointer that is only written.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types; localtime_r writes nothing else that we share:
    // its own state is behind the C library's lock.
    let done = unsafe { libc::localtime_r(&raw const unix_seconds, &raw mut broken_down) };
    if done.is_null() { 0 } else { i32::try_from(broken_down.tm_gmtoff).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn offsets_are_those_of_a_day() {
        let offset = super::utc_offset_seconds(1_700_000_000);
        assert!(offset.abs() <= 14 * 3600, "{offset}");
    }
}
