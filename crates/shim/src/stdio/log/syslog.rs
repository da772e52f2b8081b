//! Syslog messages: RFC 3164 with and without a host's name, and RFC 5424.

use std::fmt::Write;

use sampan_base::Timestamp;
use sampan_rpc::log::SyslogFormat;

use super::lines::{Line, Stream};

/// Severities of RFC 5424 6.2.1: what Docker gives to standard error and to standard output.
const ERROR: u8 = 3;
const INFORMATIONAL: u8 = 6;

/// Who speaks.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    pub(super) facility: u8,
    pub(super) tag: &'a str,
    pub(super) hostname: &'a str,
}

/// `line` as a message. In a stream it is `framed` by a newline.
pub(super) fn message(format: SyslogFormat, origin: &Origin<'_>, line: &Line<'_>, framed: bool) -> Vec<u8> {
    let severity = if line.stream == Stream::Stderr { ERROR } else { INFORMATIONAL };
    let priority = u32::from(origin.facility) * 8 + u32::from(severity);
    let (tag, host, pid) = (origin.tag, origin.hostname, std::process::id());
    let mut head = String::new();
    // Writing to a String can't fail.
    let _ = match format {
        SyslogFormat::Unix => write!(head, "<{priority}>{} {tag}[{pid}]: ", stamp(line.time)),
        SyslogFormat::Rfc3164 => write!(head, "<{priority}>{} {host} {tag}[{pid}]: ", stamp(line.time)),
        SyslogFormat::Rfc5424 => {
            write!(head, "<{priority}>1 {:.0} {host} {tag} {pid} {tag} - ", line.time.0)
        }
        SyslogFormat::Rfc5424Micro => {
            write!(head, "<{priority}>1 {:.6} {host} {tag} {pid} {tag} - ", line.time.0)
        }
    };
    let mut message = head.into_bytes();
    message.extend(line.parts.concat());
    if framed {
        message.push(b'\n');
    }
    message
}

/// `Nov  1 09:00:00` in the host's time zone, which is what RFC 3164 4.1.2 asks for.
fn stamp(time: Timestamp) -> String {
    let offset = sampan_kernel::clock::utc_offset_seconds(time.unix_seconds());
    let offset = jiff::tz::Offset::from_seconds(offset).unwrap_or(jiff::tz::Offset::UTC);
    let local = offset.to_datetime(time.0);
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS[usize::try_from(local.month() - 1).unwrap_or(0) % 12];
    format!("{month} {:2} {:02}:{:02}:{:02}", local.day(), local.hour(), local.minute(), local.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_its_parts_in_its_order() {
        let line = Line {
            stream: Stream::Stderr,
            time: Timestamp::from_unix(1_700_000_000, 123_456_789).unwrap(),
            parts: [b"he", b"llo"],
            ends: true,
            piece: None,
        };
        let origin = Origin { facility: 3, tag: "web", hostname: "h" };
        let pid = std::process::id();
        let text = |format, framed| String::from_utf8(message(format, &origin, &line, framed)).unwrap();
        let stamp = stamp(line.time);
        assert_eq!(stamp.len(), 15);
        assert_eq!(text(SyslogFormat::Unix, false), format!("<27>{stamp} web[{pid}]: hello"));
        assert_eq!(text(SyslogFormat::Rfc3164, true), format!("<27>{stamp} h web[{pid}]: hello\n"));
        assert_eq!(
            text(SyslogFormat::Rfc5424, false),
            format!("<27>1 2023-11-14T22:13:20Z h web {pid} web - hello")
        );
        assert_eq!(
            text(SyslogFormat::Rfc5424Micro, false),
            format!("<27>1 2023-11-14T22:13:20.123456Z h web {pid} web - hello")
        );
    }
}
