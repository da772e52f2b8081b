//! Messages of D-Bus, as far as systemd's manager is asked and answers: little-endian, without descriptors.
//!
//! A message is a header of fixed fields, an array of further fields (path, interface, member …), and a body, whose
//! values stand one after the other, each at a multiple of its own alignment.

use std::io;

/// The longest message that is read. systemd's answers are short; what is longer is not one of them.
const MAX_MESSAGE: usize = 1 << 20;
/// The fixed fields and the length of the array behind them.
pub(super) const FIXED: usize = 16;

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Bool(bool),
    Byte(u8),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    /// Values of one type, whose signature comes first: an array may be empty.
    Array(&'static str, Vec<Value>),
}

impl Value {
    /// Its type.
    fn signature(&self) -> String {
        match self {
            Value::Bool(_) => "b".to_owned(),
            Value::Byte(_) => "y".to_owned(),
            Value::I32(_) => "i".to_owned(),
            Value::U32(_) => "u".to_owned(),
            Value::I64(_) => "x".to_owned(),
            Value::U64(_) => "t".to_owned(),
            Value::F64(_) => "d".to_owned(),
            Value::Text(_) => "s".to_owned(),
            Value::Array(element, _) => format!("a{element}"),
        }
    }
}

/// Bytes of a message in the making. Alignment counts from their beginning.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        // Longer than 4 GiB it would be refused by whoever reads it.
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// An array; `alignment` is that of its elements.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        elements(self);
        let length = (self.0.len() - begin) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => self.u32(u32::from(*value)),
            Value::Byte(value) => self.0.push(*value),
            Value::I32(value) => self.u32(value.cast_unsigned()),
            Value::U32(value) => self.u32(*value),
            Value::I64(value) => self.u64(value.cast_unsigned()),
            Value::U64(value) => self.u64(*value),
            Value::F64(value) => self.u64(value.to_bits()),
            Value::Text(text) => self.text(text),
            Value::Array(element, values) => {
                let alignment = match *element {
                    "x" | "t" | "d" => 8,
                    "y" => 1,
                    _ => 4,
                };
                self.array(alignment, |writer| values.iter().for_each(|value| writer.value(value)));
            }
        }
    }

    /// Names with values, `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[(String, Value)]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.signature(&value.signature());
                writer.value(value);
            }
        });
    }
}

/// What is called.
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) signature: &'a str,
}

impl Call<'_> {
    /// The call as a message, with this serial number and the body that `body` writes.
    pub(super) fn encode(&self, serial: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        const METHOD_CALL: u8 = 1;
        const PROTOCOL: u8 = 1;
        let mut content = Writer::default();
        body(&mut content);
        let mut message = Writer(vec![b'l', METHOD_CALL, 0, PROTOCOL]);
        message.u32(content.0.len() as u32);
        message.u32(serial);
        let texts = [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.member),
            (6, "s", self.destination),
        ];
        message.array(8, |writer| {
            for (code, kind, text) in texts {
                // systemd's own socket, without a bus, knows no destination.
                if !text.is_empty() {
                    writer.align(8);
                    writer.0.push(code);
                    writer.signature(kind);
                    writer.text(text);
                }
            }
            if !self.signature.is_empty() {
                writer.align(8);
                writer.0.push(8);
                writer.signature("g");
                writer.signature(self.signature);
            }
        });
        message.align(8);
        message.0.extend(content.0);
        message.0
    }
}

/// What a received message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Return,
    Error,
    Signal,
    /// A call to us, which nobody has a reason for.
    Other,
}

/// A received message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The call that it answers.
    pub(super) answers: u32,
    /// A signal's name.
    pub(super) member: String,
    /// An error's name.
    pub(super) error: String,
    /// The types in the body.
    pub(super) signature: String,
    body: Vec<u8>,
}

impl Message {
    /// How long the message is that begins with these bytes.
    ///
    /// # Errors
    /// If none does.
    pub(super) fn length(fixed: &[u8; FIXED]) -> io::Result<usize> {
        if fixed[0] != b'l' {
            return Err(malformed("a message that is not little-endian"));
        }
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        let sum = fields.checked_add(FIXED).and_then(|n| n.next_multiple_of(8).checked_add(body));
        sum.filter(|sum| *sum <= MAX_MESSAGE).ok_or_else(|| malformed("a message that is too long"))
    }

    /// Decodes a whole message.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Message> {
        let mut reader = Reader { bytes, at: 1 };
        let kind = match reader.byte()? {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        reader.at = 12;
        let end = reader.u32()? as usize + FIXED;
        let mut message = Message {
            kind,
            answers: 0,
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            body: bytes.get(end.next_multiple_of(8)..).ok_or_else(truncated)?.to_vec(),
        };
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            match reader.signature()?.as_str() {
                "u" => {
                    let number = reader.u32()?;
                    if code == 5 {
                        message.answers = number;
                    }
                }
                "s" | "o" => {
                    let text = reader.text()?;
                    match code {
                        3 => message.member = text,
                        4 => message.error = text,
                        _ => {}
                    }
                }
                "g" => message.signature = reader.signature()?,
                _ => return Err(malformed("a header field of an unknown type")),
            }
        }
        Ok(message)
    }

    /// To read the values of the body.
    pub(super) fn body(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

/// Reads values one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(length).ok_or_else(truncated)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(truncated)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A text or a path.
    pub(super) fn text(&mut self) -> io::Result<String> {
        let length = self.u32()? as usize;
        self.ended_text(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.byte()?);
        self.ended_text(length)
    }

    fn ended_text(&mut self, length: usize) -> io::Result<String> {
        let bytes = self.take(length.checked_add(1).ok_or_else(truncated)?)?;
        String::from_utf8(bytes[..length].to_vec()).map_err(|_| malformed("a text that is not UTF-8"))
    }

    /// A text in a variant.
    pub(super) fn variant_text(&mut self) -> io::Result<String> {
        match self.signature()?.as_str() {
            "s" | "o" => self.text(),
            _ => Err(malformed("a value of another type than was asked for")),
        }
    }
}

fn truncated() -> io::Error {
    malformed("a message that ends too early")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the bus sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'_> =
        Call { destination: "o.d", path: "/o", interface: "o.i", member: "M", signature: "su" };

    #[test]
    fn what_is_written_is_read() {
        let bytes = CALL.encode(7, |body| {
            body.text("täxt");
            body.u32(9);
        });
        let fixed: &[u8; FIXED] = bytes.first_chunk().unwrap();
        assert_eq!(Message::length(fixed).unwrap(), bytes.len());
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Kind::Other, "M"));
        assert_eq!(message.signature, "su");
        let mut body = message.body();
        assert_eq!((body.text().unwrap().as_str(), body.u32().unwrap()), ("täxt", 9));
        assert!(body.u32().is_err());
    }

    /// By the specification's own rules of alignment, counted by hand.
    #[test]
    fn values_are_aligned() {
        let mut writer = Writer::default();
        writer.properties(&[
            ("A".into(), Value::U64(1)),
            ("B".into(), Value::Array("y", vec![Value::Byte(3)])),
        ]);
        let expected: Vec<u8> = [
            &[41, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, b'A', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, b'B', 0, 2, b'a', b'y', 0, 0, 0, 1, 0, 0, 0, 3],
        ]
        .concat();
        assert_eq!(writer.0, expected);
    }

    #[test]
    fn whatever_arrives_is_an_error_at_worst() {
        let whole = CALL.encode(1, |body| body.text("x"));
        for length in 0..whole.len() {
            let _ = Message::decode(&whole[..length]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(message) = Message::decode(&bytes) {
                    let _ = message.body().text();
                    let _ = message.body().variant_text();
                }
            }
        }
        assert!(Message::length(&[b'l', 1, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Message::length(&[b'B'; FIXED]).is_err());
    }
}
