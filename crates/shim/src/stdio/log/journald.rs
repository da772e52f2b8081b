//! Entries for systemd's journal in its native protocol: a datagram of fields, `NAME=value` and a newline; a value with
//! a newline in it as `NAME`, newline, its length in 8 bytes, little-endian, the value, newline.

use std::collections::BTreeMap;

use super::lines::{Line, Stream};

/// `line` as an entry with `fields` beside it.
pub(super) fn message(fields: &BTreeMap<String, String>, line: &Line<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out, "MESSAGE", &line.parts.concat());
    push(&mut out, "PRIORITY", if line.stream == Stream::Stderr { b"3" } else { b"6" });
    for (name, value) in fields {
        push(&mut out, name, value.as_bytes());
    }
    if let Some(piece) = &line.piece {
        if !piece.last {
            push(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        push(&mut out, "CONTAINER_PARTIAL_ID", piece.id.as_bytes());
        push(&mut out, "CONTAINER_PARTIAL_ORDINAL", piece.ordinal.to_string().as_bytes());
        push(&mut out, "CONTAINER_PARTIAL_LAST", piece.last.to_string().as_bytes());
    }
    out
}

fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::lines::PieceOf;
    use super::*;

    #[test]
    fn fields_are_lines_and_values_with_newlines_have_their_length() {
        let fields = BTreeMap::from([("A".to_owned(), "1\n2".to_owned())]);
        let line = Line {
            stream: Stream::Stdout,
            time: sampan_base::Timestamp::from_unix(0, 0).unwrap(),
            parts: [b"hello", b""],
            ends: false,
            piece: Some(PieceOf { id: "x".to_owned(), ordinal: 1, last: false }),
        };
        let expected = [
            &b"MESSAGE=hello\nPRIORITY=6\nA\n\x03\0\0\0\0\0\0\x001\n2\n"[..],
            b"CONTAINER_PARTIAL_MESSAGE=true\nCONTAINER_PARTIAL_ID=x\nCONTAINER_PARTIAL_ORDINAL=1\n",
            b"CONTAINER_PARTIAL_LAST=false\n",
        ]
        .concat();
        assert_eq!(message(&fields, &line), expected);
    }
}
