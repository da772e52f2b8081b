//! Messages of protocol buffers, as far as CRIU's service uses them: numbers, texts, messages in messages.

use std::io;

const NUMBER: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// A message in the making.
#[derive(Clone, Default, Debug)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3 | NUMBER);
        self.varint(value);
    }

    /// A switch that is off if it is not there.
    pub(super) fn flag(&mut self, field: u32, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, message: &Fields) {
        self.bytes(field, &message.0);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that no field of interest has.
    Other,
}

impl Field<'_> {
    pub(super) fn number(self) -> u64 {
        if let Field::Number(number) = self { number } else { 0 }
    }

    pub(super) fn text(self) -> String {
        if let Field::Bytes(bytes) = self {
            String::from_utf8_lossy(bytes).into_owned()
        } else {
            String::new()
        }
    }
}

/// Goes through the fields of a message.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field and its number, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            NUMBER => Field::Number(self.varint()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).map_err(|_| malformed())?;
                Field::Bytes(self.take(length)?)
            }
            EIGHT_BYTES => self.take(8).map(|_| Field::Other)?,
            FOUR_BYTES => self.take(4).map(|_| Field::Other)?,
            _ => return Err(malformed()),
        };
        Ok(Some((key >> 3, field)))
    }

    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed())
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "CRIU sent a message that can't be understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Fields::default();
        inner.text(2, "ä");
        let mut fields = Fields::default();
        fields.number(1, 300);
        fields.flag(3, true);
        fields.flag(4, false);
        fields.message(37, &inner);
        // 300 and field 37 take two bytes each, by the format's own examples.
        assert_eq!(fields.0, [8, 0xac, 2, 24, 1, 0xaa, 2, 4, 18, 2, 0xc3, 0xa4]);
        let mut reader = Reader(&fields.0);
        assert_eq!(reader.next().unwrap(), Some((1, Field::Number(300))));
        assert_eq!(reader.next().unwrap(), Some((3, Field::Number(1))));
        assert!(matches!(reader.next().unwrap(), Some((37, Field::Bytes(&[18, 2, 0xc3, 0xa4])))));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn whatever_arrives_is_an_error_at_worst() {
        for bytes in [&[8][..], &[8, 0x80], &[18, 5, 1], &[0xff; 12], &[11], &[9, 1, 2]] {
            assert!(Reader(bytes).next().is_err(), "{bytes:?}");
        }
    }
}
