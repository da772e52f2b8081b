//! ttrpc, containerd's small RPC over unix sockets: frames to bytes and back, without I/O.
//!
//! ```text
//! 0        4         8      9      10                  10 + length
//! | length | stream  | kind | flags | payload ...      |       numbers are big-endian
//! ```
//! A caller numbers its calls with odd streams, rising. It sends one [`Kind::Request`] frame whose payload is a
//! [`Request`]; the one [`Kind::Response`] frame with the same stream number carries the [`Response`]. Answers
//! come in any order. [`Kind::Data`] frames belong to streaming calls, which no service of ours has.
//!
//! A caller: [`Streams::next`] and [`request`] to send; [`Decoder`] and [`answer`] to receive. A server:
//! [`Decoder`] and [`call`] to receive; [`response`] or [`failure`] to send.

use prost::Message;

pub use crate::generated::ttrpc::{KeyValue, Request, Response, Status};

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 10;
/// The longest payload that is sent or taken: the protocol's own limit, 4 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A call.
    Request,
    /// A call's answer.
    Response,
    /// A part of a streaming call.
    Data,
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Which call it belongs to.
    pub stream: u32,
    /// What it is for.
    pub kind: Kind,
    /// Flags of streaming calls; 0 here.
    pub flags: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// How a call failed: gRPC's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    /// The code of a number that is not 0; an unknown number is [`Code::Unknown`].
    pub fn of(number: i32) -> Code {
        use Code::*;
        let all = [
            Cancelled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
        ];
        all.into_iter().find(|code| *code as i32 == number).unwrap_or(Unknown)
    }
}

/// A call that the other end refused or could not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind of failure.
    pub code: Code,
    /// The other end's words.
    pub message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Bytes that are no frame, or a frame that can't be taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// A payload over [`MAX_PAYLOAD_BYTES`]. The decoder drops its bytes as they come and then goes on, so a
    /// server may answer the call with [`Code::ResourceExhausted`].
    TooLong {
        /// Which call it belongs to.
        stream: u32,
        /// How long the payload claims to be.
        length: u32,
    },
    /// A kind of frame that does not exist. The connection is of no more use.
    UnknownKind {
        /// The number in its place.
        kind: u8,
    },
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::TooLong { stream, length } => {
                write!(f, "ttrpc payload of {length} bytes in stream {stream} is over {MAX_PAYLOAD_BYTES}")
            }
            FrameError::UnknownKind { kind } => write!(f, "ttrpc frame of unknown kind {kind}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Bytes in, frames out.
#[derive(Default, Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// How many bytes of `buffer` are used up.
    taken: usize,
    /// How many bytes of a payload that was too long are still to be dropped.
    skip: usize,
}

impl Decoder {
    /// Adds what was read from the connection.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h, kind, flags] = *header;
        let (length, stream) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            kind => return Err(FrameError::UnknownKind { kind }),
        };
        let bytes = length as usize;
        if bytes > MAX_PAYLOAD_BYTES {
            let here = bytes.min(body.len());
            self.taken += HEADER_BYTES + here;
            self.skip = bytes - here;
            return Err(FrameError::TooLong { stream, length });
        }
        let Some(payload) = body.get(..bytes) else { return Ok(None) };
        let frame = Frame { stream, kind, flags, payload: payload.to_vec() };
        self.taken += HEADER_BYTES + bytes;
        if self.taken == self.buffer.len() {
            // A connection is idle most of its life; it shall not keep its largest message's memory.
            self.buffer = Vec::new();
            self.taken = 0;
        }
        Ok(Some(frame))
    }
}

/// Hands out stream numbers to a caller: 1, 3, 5, ….
#[derive(Default, Debug)]
pub struct Streams(u32);

impl Streams {
    /// A number that no call of the last two thousand million has had.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u32 {
        let stream = self.0 | 1;
        self.0 = stream.wrapping_add(2);
        stream
    }
}

/// The frame that calls `method` of `service`. `timeout_nanos` 0 is no limit.
///
/// # Errors
/// If the message is longer than a frame may be.
pub fn request(
    stream: u32,
    service: &str,
    method: &str,
    message: &impl Message,
    timeout_nanos: i64,
) -> Result<Vec<u8>, FrameError> {
    let body = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: message.encode_to_vec(),
        timeout_nano: timeout_nanos,
        metadata: Vec::new(),
    };
    frame(stream, Kind::Request, &body)
}

/// The frame that answers a call with `message`.
///
/// # Errors
/// If the message is longer than a frame may be.
pub fn response(stream: u32, message: &impl Message) -> Result<Vec<u8>, FrameError> {
    // An absent status is success in Go and Rust; containerd's own servers send an explicit one.
    let status = Status { code: 0, message: String::new(), details: Vec::new() };
    frame(stream, Kind::Response, &Response { status: Some(status), payload: message.encode_to_vec() })
}

/// The frame that answers a call with a failure. A message that would not fit is cut.
pub fn failure(stream: u32, failure: &Failure) -> Vec<u8> {
    let mut end = failure.message.len().min(64 << 10);
    while !failure.message.is_char_boundary(end) {
        end -= 1;
    }
    let message = failure.message[..end].to_owned();
    let status = Status { code: failure.code as i32, message, details: Vec::new() };
    encode(stream, Kind::Response, &Response { status: Some(status), payload: Vec::new() })
}

/// A server's view of a frame: the call in it.
///
/// # Errors
/// If the frame's payload is not a [`Request`]; to be answered with the error given.
pub fn call(frame: &Frame) -> Result<Request, Failure> {
    Request::decode(frame.payload.as_slice()).map_err(|error| Failure {
        code: Code::InvalidArgument,
        message: format!("malformed ttrpc request: {error}"),
    })
}

/// A caller's view of a frame: its call's answer.
///
/// # Errors
/// What the other end answered if that was a failure, or that the answer is malformed.
pub fn answer<M: Message + Default>(frame: &Frame) -> Result<M, Failure> {
    let malformed =
        |error| Failure { code: Code::Internal, message: format!("malformed ttrpc response: {error}") };
    let response = Response::decode(frame.payload.as_slice()).map_err(malformed)?;
    match response.status {
        Some(status) if status.code != 0 => {
            Err(Failure { code: Code::of(status.code), message: status.message })
        }
        _ => M::decode(response.payload.as_slice()).map_err(malformed),
    }
}

fn frame(stream: u32, kind: Kind, body: &impl Message) -> Result<Vec<u8>, FrameError> {
    let length = body.encoded_len();
    if length > MAX_PAYLOAD_BYTES {
        return Err(FrameError::TooLong { stream, length: u32::try_from(length).unwrap_or(u32::MAX) });
    }
    Ok(encode(stream, kind, body))
}

/// Encodes a body that is known to be below the limit.
fn encode(stream: u32, kind: Kind, body: &impl Message) -> Vec<u8> {
    let length = body.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.push(match kind {
        Kind::Request => 1,
        Kind::Response => 2,
        Kind::Data => 3,
    });
    bytes.push(0);
    bytes.extend_from_slice(&body.encode_to_vec());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{StateRequest, StateResponse};

    fn frames(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Vec<Result<Frame, FrameError>> {
        let mut out = Vec::new();
        for part in bytes.chunks(step) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().transpose() {
                out.push(frame);
            }
        }
        out
    }

    #[test]
    fn a_call_and_its_answer_survive_any_cut_of_the_bytes() {
        let ask = StateRequest { id: "a".into(), exec_id: "e".into() };
        let tell = StateResponse { pid: 7, ..Default::default() };
        let refuse = Failure { code: Code::NotFound, message: "no such task".into() };
        let mut bytes = request(1, "s", "State", &ask, 5).unwrap();
        bytes.extend(response(1, &tell).unwrap());
        bytes.extend(failure(3, &refuse));
        for step in 1..=bytes.len() {
            let got = frames(&mut Decoder::default(), &bytes, step);
            let [Ok(a), Ok(b), Ok(c)] = &got[..] else { panic!("{got:?}") };
            let request = call(a).unwrap();
            assert_eq!(
                (request.service.as_str(), request.method.as_str(), request.timeout_nano),
                ("s", "State", 5)
            );
            assert_eq!(StateRequest::decode(request.payload.as_slice()).unwrap(), ask);
            assert_eq!(answer::<StateResponse>(b).unwrap(), tell);
            assert_eq!(answer::<StateResponse>(c).unwrap_err(), refuse);
            assert_eq!((a.stream, c.stream), (1, 3));
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_dropped_and_the_next_one_read() {
        let long = MAX_PAYLOAD_BYTES + 1;
        let mut bytes = u32::try_from(long).unwrap().to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 9, 1, 0]);
        bytes.resize(HEADER_BYTES + long, 0xff);
        bytes.extend(request(11, "s", "m", &StateRequest::default(), 0).unwrap());
        let got = frames(&mut Decoder::default(), &bytes, 64 << 10);
        assert_eq!(got[0], Err(FrameError::TooLong { stream: 9, length: u32::try_from(long).unwrap() }));
        assert_eq!(got[1].as_ref().unwrap().stream, 11);
        assert_eq!(got.len(), 2);
        let body = StateRequest { id: "x".repeat(long), exec_id: String::new() };
        assert!(request(1, "s", "m", &body, 0).is_err());
    }

    #[test]
    fn streams_are_odd_and_rise() {
        let mut streams = Streams::default();
        assert_eq!([streams.next(), streams.next(), streams.next()], [1, 3, 5]);
        assert_eq!(Streams(u32::MAX).next(), u32::MAX);
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 0, 0, 0, 0, 1, 9, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind { kind: 9 }));
    }
}
