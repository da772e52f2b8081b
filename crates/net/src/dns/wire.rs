//! DNS messages: the little of them that a server for a handful of names needs. What is forwarded stays as it came, so
//! that types and options which nobody has heard of here pass through.
//!
//! Nothing in a query is trusted: lengths are checked where they are read, names do not point anywhere (in a question
//! there is nothing yet that they could point to), and every loop ends with the message.

use std::net::IpAddr;

/// The type of an IPv4 address.
pub(crate) const A: u16 = 1;
/// The type of a name that an address has.
pub(crate) const PTR: u16 = 12;
/// The type of an IPv6 address.
pub(crate) const AAAA: u16 = 28;
const OPT: u16 = 41;
const INTERNET: u16 = 1;
const ANY_CLASS: u16 = 255;

const HEADER: usize = 12;
const MAX_NAME_BYTES: usize = 255;
const MAX_LABEL_BYTES: usize = 63;
/// What every client can take over UDP.
const LEAST_PAYLOAD: u16 = 512;
/// What we tell that we can take, and send at most over UDP: more would be cut to fragments on most ways.
const PAYLOAD: u16 = 1232;

const RESPONSE: u16 = 1 << 15;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const OPCODE: u16 = 0xf << 11;

/// How an answer ends, RFC 1035.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// There are answers, or none of the type.
    Good = 0,
    /// The query makes no sense.
    Malformed = 1,
    /// No server could be asked.
    Failed = 2,
    /// There is no such name.
    NoName = 3,
    /// Such a thing is not done here.
    NotDone = 4,
}

/// A question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Query {
    pub(crate) id: u16,
    flags: u16,
    /// In lower case, without the dot at the end.
    pub(crate) name: String,
    pub(crate) kind: u16,
    /// About the Internet; other classes are none of our business.
    pub(crate) internet: bool,
    /// Where the question ends in the message.
    end: usize,
    /// How much the client takes over UDP, if it says so (EDNS).
    payload: Option<u16>,
}

/// What is no question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoQuery {
    /// Too short, or itself an answer: to answer could begin a loop.
    Ignore,
    /// To be answered with this.
    Answer(Vec<u8>),
}

/// A piece of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    /// An address.
    Address(IpAddr),
    /// The name of the address that was asked for.
    Name(String),
}

/// Reads a question.
pub(crate) fn parse(bytes: &[u8]) -> Result<Query, NoQuery> {
    let (Some(id), Some(flags)) = (number(bytes, 0), number(bytes, 2)) else { return Err(NoQuery::Ignore) };
    if bytes.len() < HEADER || flags & RESPONSE != 0 {
        return Err(NoQuery::Ignore);
    }
    let refuse = |code| NoQuery::Answer(header(id, flags, code, 0, 0, 0));
    if flags & OPCODE != 0 {
        return Err(refuse(Code::NotDone));
    }
    let count = |n: usize| number(bytes, 4 + 2 * n).unwrap_or(0);
    if count(0) != 1 {
        return Err(refuse(Code::Malformed));
    }
    let malformed = || refuse(Code::Malformed);
    let (name, at) = question_name(bytes).ok_or_else(malformed)?;
    let kind = number(bytes, at).ok_or_else(malformed)?;
    let class = number(bytes, at + 2).ok_or_else(malformed)?;
    let end = at + 4;
    let others = u32::from(count(1)) + u32::from(count(2)) + u32::from(count(3));
    let payload = find_payload(bytes, end, others).ok_or_else(malformed)?;
    let internet = matches!(class, INTERNET | ANY_CLASS);
    Ok(Query { id, flags, name, kind, internet, end, payload })
}

fn question_name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > MAX_LABEL_BYTES || at + length - HEADER > MAX_NAME_BYTES {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        // A dot within a label, and what is no ASCII, is in no name of ours: it must not look as if it were.
        let label = bytes.get(at..at + length)?;
        name.extend(label.iter().map(|b| match b {
            b'!'..=b'~' if *b != b'.' => char::from(b.to_ascii_lowercase()),
            _ => '\u{fffd}',
        }));
        at += length;
    }
}

/// What the client takes over UDP, which stands in a record of its own among the last; `Some(None)`: it does not say.
fn find_payload(bytes: &[u8], mut at: usize, records: u32) -> Option<Option<u16>> {
    let mut payload = None;
    for _ in 0..records {
        at = skip_name(bytes, at)?;
        let (kind, class) = (number(bytes, at)?, number(bytes, at + 2)?);
        let length = usize::from(number(bytes, at + 8)?);
        at = at.checked_add(10 + length).filter(|end| *end <= bytes.len())?;
        if kind == OPT {
            payload = Some(class);
        }
    }
    Some(payload)
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length if usize::from(length) <= MAX_LABEL_BYTES => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

impl Query {
    /// How long an answer over UDP may be.
    pub(crate) fn limit(&self) -> usize {
        usize::from(self.payload.unwrap_or(0).clamp(LEAST_PAYLOAD, PAYLOAD))
    }

    /// The answer to this question, which came in `bytes`. If it is longer than `limit`, the client is told to ask over
    /// TCP.
    pub(crate) fn answer(
        &self,
        bytes: &[u8],
        code: Code,
        data: &[Data],
        seconds: u32,
        limit: usize,
    ) -> Vec<u8> {
        let records: Vec<Vec<u8>> = data.iter().filter_map(|d| record(d, seconds)).collect();
        let size: usize = records.iter().map(Vec::len).sum();
        let options = if self.payload.is_some() { 11 } else { 0 };
        let whole = self.end + size + options <= limit;
        let count = if whole { u16::try_from(records.len()).unwrap_or(u16::MAX) } else { 0 };
        let flags = if whole { self.flags } else { self.flags | TRUNCATED };
        let mut message = header(self.id, flags, code, 1, count, u16::from(options > 0));
        message.extend_from_slice(&bytes[HEADER..self.end]);
        if whole {
            message.extend(records.into_iter().take(usize::from(count)).flatten());
        }
        if options > 0 {
            message.push(0);
            for field in [OPT, PAYLOAD, 0, 0, 0] {
                message.extend(field.to_be_bytes());
            }
        }
        message
    }
}

/// Whether `answer` is one to the question in `query`, but for the id.
pub(crate) fn answers(answer: &[u8], query: &[u8], end: usize) -> bool {
    let response = number(answer, 2).is_some_and(|flags| flags & RESPONSE != 0);
    let question = |bytes: &[u8]| bytes.get(HEADER..end).map(<[u8]>::to_ascii_lowercase);
    // Some servers leave the question out of a refusal.
    let asked = number(answer, 4) == Some(0) || question(answer) == question(query);
    response && asked && answer.len() >= HEADER
}

impl Query {
    /// Where the question ends in its message.
    pub(crate) fn end(&self) -> usize {
        self.end
    }
}

fn header(id: u16, flags: u16, code: Code, questions: u16, answers: u16, options: u16) -> Vec<u8> {
    let kept = flags & (OPCODE | RECURSION_DESIRED | TRUNCATED);
    let flags = RESPONSE | RECURSION_AVAILABLE | kept | code as u16;
    [id, flags, questions, answers, 0, options].iter().flat_map(|field| field.to_be_bytes()).collect()
}

/// A record about the name in the question.
fn record(data: &Data, seconds: u32) -> Option<Vec<u8>> {
    let (kind, content) = match data {
        Data::Address(IpAddr::V4(ip)) => (A, ip.octets().to_vec()),
        Data::Address(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec()),
        Data::Name(name) => (PTR, encode(name)?),
    };
    // The name: a pointer to the question's.
    let mut record = vec![0xc0, HEADER as u8];
    record.extend(kind.to_be_bytes());
    record.extend(INTERNET.to_be_bytes());
    record.extend(seconds.to_be_bytes());
    record.extend(u16::try_from(content.len()).ok()?.to_be_bytes());
    record.extend(content);
    Some(record)
}

/// A name as messages have it; none if it can't be one.
fn encode(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=MAX_LABEL_BYTES as u8).contains(n))?;
        bytes.push(length);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    (bytes.len() <= MAX_NAME_BYTES).then_some(bytes)
}

/// The address that a name like `2.0.17.172.in-addr.arpa` asks for the name of.
pub(crate) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<u8> = digits.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        parts.reverse();
        return <[u8; 4]>::try_from(parts).ok().map(IpAddr::from);
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Option<Vec<u8>> = digits
        .split('.')
        .map(|d| u8::from_str_radix(d, 16).ok().filter(|n| d.len() == 1 && *n < 16))
        .collect();
    let nibbles = nibbles.filter(|n| n.len() == 32)?;
    let value = nibbles.iter().rev().fold(0u128, |all, n| all << 4 | u128::from(*n));
    Some(IpAddr::from(value.to_be_bytes()))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A question, for tests and for those who ask.
#[cfg(test)]
pub(crate) fn question(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut message: Vec<u8> = [id, RECURSION_DESIRED, 1, 0, 0, u16::from(payload.is_some())]
        .iter()
        .flat_map(|f| f.to_be_bytes())
        .collect();
    message.extend(encode(name).unwrap());
    message.extend(kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    if let Some(payload) = payload {
        message.push(0);
        for field in [OPT, payload, 0, 0, 0] {
            message.extend(field.to_be_bytes());
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_and_answered() {
        let bytes = question(7, "Web.Example", A, Some(4096));
        let query = parse(&bytes).unwrap();
        assert_eq!((query.name.as_str(), query.kind, query.limit()), ("web.example", A, 1232));
        let data = [Data::Address("10.0.0.2".parse().unwrap()), Data::Address("::7".parse().unwrap())];
        let answer = query.answer(&bytes, Code::Good, &data, 600, query.limit());
        assert_eq!(&answer[..12], [0, 7, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 1]);
        assert!(answers(&answer, &bytes, query.end()));
        assert_eq!(parse(&answer), Err(NoQuery::Ignore));
        // Too long for a client that takes no more than all can: ask again over TCP.
        let bytes = question(7, "web", A, None);
        let query = parse(&bytes).unwrap();
        let many = vec![data[0].clone(); 100];
        let answer = query.answer(&bytes, Code::Good, &many, 600, query.limit());
        assert!(answer.len() <= 512 && answer[2] & 2 != 0);
        assert_eq!(number(&query.answer(&bytes, Code::Good, &many, 600, 65535), 6), Some(100));
    }

    #[test]
    fn addresses_are_read_backwards() {
        assert_eq!(reverse("2.0.17.172.in-addr.arpa"), Some("172.17.0.2".parse().unwrap()));
        let long = format!("{}d.f.ip6.arpa", "2.".to_owned() + &"0.".repeat(29));
        assert_eq!(reverse(&long), Some("fd00::2".parse().unwrap()));
        for no in [
            "in-addr.arpa",
            "1.2.3.in-addr.arpa",
            "x.0.0.1.in-addr.arpa",
            "1.ip6.arpa",
            "256.0.0.1.in-addr.arpa",
        ] {
            assert_eq!(reverse(no), None, "{no}");
        }
    }

    #[test]
    fn what_is_broken_is_refused_or_ignored_and_never_read_beyond() {
        let good = question(1, "a.b", PTR, Some(1400));
        for length in 0..good.len() {
            match parse(&good[..length]) {
                Err(NoQuery::Ignore) => assert!(length < 12),
                Err(NoQuery::Answer(bytes)) => assert_eq!(bytes[3] & 15, Code::Malformed as u8),
                Ok(query) => panic!("{query:?}"),
            }
        }
        let mut pointer = good.clone();
        pointer[12] = 0xc0;
        assert!(matches!(parse(&pointer), Err(NoQuery::Answer(_))));
        let mut dotted = good.clone();
        dotted[13] = b'.';
        assert!(!parse(&dotted).unwrap().name.starts_with('.'));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            if let Ok(query) = parse(&bytes) {
                let answer = query.answer(&bytes, Code::NoName, &[], 0, query.limit());
                proptest::prop_assert!(answer.len() <= bytes.len() + 11);
            }
            let _ = answers(&bytes, &bytes, bytes.len());
        }

        #[test]
        fn a_question_with_some_bytes_changed_does_no_harm(
            changes in proptest::collection::vec((0usize..60, proptest::num::u8::ANY), 1..6)
        ) {
            let mut bytes = question(9, "some-name.in.a-network", AAAA, Some(1232));
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(query) = parse(&bytes) {
                query.answer(&bytes, Code::Good, &[Data::Address("::1".parse().unwrap())], 1, query.limit());
            }
        }
    }
}
