//! Docker's json-file log: one line of JSON for each line of output.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-11-21T10:00:00.123456789Z"}
//! {"log":"hello\n","stream":"stdout","attrs":{"tag":"x"},"time":"2026-11-21T10:00:00.123456789Z"}
//! ```
//! A line in several pieces has a `\n` only in the last. The file has no other structure: its format is Docker's and
//! has no version. A reader must take a last line without end as unfinished.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::lines::Line;

/// Writes lines as JSON, each with the same attributes.
#[derive(Debug)]
pub(super) struct Encoder {
    /// `"attrs":{…},`, or nothing.
    attributes: Vec<u8>,
}

impl Encoder {
    /// # Errors
    /// If the attributes can't be written as JSON.
    pub(super) fn new(attributes: &BTreeMap<String, String>) -> io::Result<Encoder> {
        let mut text = Vec::new();
        if !attributes.is_empty() {
            text.extend_from_slice(br#""attrs":"#);
            serde_json::to_writer(&mut text, attributes)?;
            text.push(b',');
        }
        Ok(Encoder { attributes: text })
    }

    /// Appends `line` to `out`.
    pub(super) fn push(&self, out: &mut Vec<u8>, line: &Line<'_>) {
        out.extend_from_slice(br#"{"log":""#);
        match line.parts {
            [[], one] | [one, []] => push_escaped(out, one),
            // A character may be in both.
            parts => push_escaped(out, &parts.concat()),
        }
        if line.ends {
            out.extend_from_slice(b"\\n");
        }
        // Neither name needs escaping, and a Vec takes all.
        let _ = write!(out, "\",\"stream\":\"{}\",", line.stream.name());
        out.extend_from_slice(&self.attributes);
        let _ = writeln!(out, "\"time\":\"{}\"}}", line.time);
    }
}

/// As Go's encoder writes a string, and so Docker: `<`, `>`, `&` and the line separators escaped, bytes that are
/// no UTF-8 replaced.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let mut clean = 0;
        for (at, c) in valid.char_indices() {
            let named: &[u8] = match c {
                '"' => b"\\\"",
                '\\' => b"\\\\",
                '\n' => b"\\n",
                '\r' => b"\\r",
                '\t' => b"\\t",
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => b"",
                _ => continue,
            };
            out.extend_from_slice(&valid.as_bytes()[clean..at]);
            clean = at + c.len_utf8();
            if named.is_empty() {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // a Vec takes all
            } else {
                out.extend_from_slice(named);
            }
        }
        out.extend_from_slice(&valid.as_bytes()[clean..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Stream;
    use super::*;

    fn encode(parts: [&[u8]; 2], ends: bool, attributes: &[(&str, &str)]) -> String {
        let own = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut out = Vec::new();
        let time = sampan_base::Timestamp::from_unix(1, 5).unwrap();
        let line = Line { stream: Stream::Stderr, time, parts, ends, piece: None };
        Encoder::new(&own).unwrap().push(&mut out, &line);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_its_end_only_if_it_came_and_its_attributes_if_there_are_some() {
        assert_eq!(
            encode([b"a\xc3", b"\xa9"], true, &[]),
            "{\"log\":\"aé\\n\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:01.000000005Z\"}\n"
        );
        assert_eq!(
            encode([b"a", b""], false, &[("k", "\"v\"")]),
            "{\"log\":\"a\",\"stream\":\"stderr\",\"attrs\":{\"k\":\"\\\"v\\\"\"},\
             \"time\":\"1970-01-01T00:00:01.000000005Z\"}\n"
        );
    }

    #[test]
    fn escapes_as_docker_does() {
        let mut out = Vec::new();
        push_escaped(&mut out, "a\"\\\n\r\t<>&\u{1}é\u{2028}".as_bytes());
        push_escaped(&mut out, b"\xff\xfe!");
        let expected = r#"a\"\\\n\r\t\u003c\u003e\u0026\u0001é\u2028\ufffd\ufffd!"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
