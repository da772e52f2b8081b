//! One request and its answer: redirects, limits on bodies, and which headers may go where.

use std::io::{self, Read};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use ureq::{Agent, SendBody};

use crate::error::{Cause, Refusal, clean};
use crate::limits::{ANSWER_TIMEOUT, MAX_ERROR_BYTES, MAX_REDIRECTS};

/// What goes with a request.
pub(crate) enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// As many bytes of a reader.
    Reader(&'a mut (dyn Read + 'a), u64),
}

/// A request, without its credentials.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) payload: Payload<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, uri: Uri) -> Request<'a> {
        Request { method, uri, headers: Vec::new(), payload: Payload::None }
    }

    /// With a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: ureq::Body,
}

impl Answer {
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What `Content-Length` says.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The body, to be read as it comes.
    pub(crate) fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.body.into_reader())
    }

    /// The whole body, if it is not longer than `limit`.
    pub(crate) fn bytes(mut self, limit: u64) -> Result<Vec<u8>, Cause> {
        let mut bytes = Vec::new();
        let read = self.body.as_reader().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|source| Cause::Connection { source })?;
        if bytes.len() as u64 > limit { Err(Cause::TooLong { limit }) } else { Ok(bytes) }
    }

    /// Reads what is left of a body that nobody needs, so that the connection can serve another request.
    pub(crate) fn drop_body(mut self) {
        // What is longer is cut off with its connection.
        let _ = io::copy(&mut self.body.as_reader().take(MAX_ERROR_BYTES), &mut io::sink());
    }

    /// The answer as a refusal.
    pub(crate) fn refusal(mut self, authenticated: bool) -> Refusal {
        let mut body = Vec::new();
        // What could be read of an error's words will do.
        let _ = self.body.as_reader().take(MAX_ERROR_BYTES).read_to_end(&mut body);
        Refusal::read(self.status.as_u16(), &body, authenticated)
    }
}

/// Sends a request and follows redirects of reading ones. `authorization` goes to the request's own origin only, never
/// to where it is sent on; and never from TLS to where everybody on the way can read.
pub(crate) fn send(
    agent: &Agent,
    request: &mut Request<'_>,
    authorization: Option<&HeaderValue>,
) -> Result<Answer, Cause> {
    let origin = request.uri.clone();
    let mut uri = origin.clone();
    for _ in 0..=MAX_REDIRECTS {
        let authorization = authorization.filter(|_| same_origin(&origin, &uri));
        let answer = send_once(agent, request, &uri, authorization)?;
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let moved = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        if !(reads && moved) {
            return Ok(answer);
        }
        let to = answer.header(header::LOCATION).unwrap_or_default().to_owned();
        answer.drop_body();
        uri = follow(&uri, &to)?;
    }
    Err(Cause::Nonsense { what: format!("more than {MAX_REDIRECTS} redirects") })
}

/// Where a redirect leads; from TLS to plain HTTP it leads nowhere.
pub(crate) fn follow(from: &Uri, location: &str) -> Result<Uri, Cause> {
    let next = resolve(from, location)?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        let what = format!("it redirects from TLS to plain HTTP at {}", host(&next));
        return Err(Cause::Nonsense { what });
    }
    Ok(next)
}

/// Sends a request without credentials; a redirect is an answer.
pub(crate) fn send_unredirected(agent: &Agent, request: &mut Request<'_>) -> Result<Answer, Cause> {
    let uri = request.uri.clone();
    send_once(agent, request, &uri, None)
}

fn send_once(
    agent: &Agent,
    request: &mut Request<'_>,
    uri: &Uri,
    authorization: Option<&HeaderValue>,
) -> Result<Answer, Cause> {
    let mut builder = http::Request::builder().method(request.method.clone()).uri(uri.clone());
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(value) = authorization {
        builder = builder.header(header::AUTHORIZATION, value);
    }
    let length = match &request.payload {
        Payload::None if request.method == Method::GET || request.method == Method::HEAD => None,
        Payload::None => Some(0),
        Payload::Bytes(bytes) => Some(bytes.len() as u64),
        Payload::Reader(_, length) => Some(*length),
    };
    if let Some(length) = length {
        builder = builder.header(header::CONTENT_LENGTH, length);
    }
    let nonsense = |e: &dyn std::error::Error| Cause::Nonsense { what: e.to_string() };
    let answer = match &mut request.payload {
        Payload::None if length.is_none() => agent.run(builder.body(()).map_err(|e| nonsense(&e))?),
        Payload::None => agent.run(patient(agent, builder.body(&[][..]).map_err(|e| nonsense(&e))?)),
        Payload::Bytes(bytes) => agent.run(patient(agent, builder.body(*bytes).map_err(|e| nonsense(&e))?)),
        Payload::Reader(reader, _) => {
            let body = SendBody::from_reader(reader);
            agent.run(patient(agent, builder.body(body).map_err(|e| nonsense(&e))?))
        }
    };
    let (parts, body) = answer.map_err(cause)?.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// What is written may take the registry long to answer: it checks and moves a whole layer before. Silence in the middle
/// of a body that is read is another thing.
fn patient<S: ureq::AsSendBody>(agent: &Agent, request: http::Request<S>) -> http::Request<S> {
    agent.configure_request(request).timeout_per_read(Some(ANSWER_TIMEOUT)).build()
}

/// Sorts the library's errors.
fn cause(error: ureq::Error) -> Cause {
    use ureq::Error as E;
    match error {
        // A TLS failure comes out as I/O where it happens while reading or writing.
        E::Io(source) if source.get_ref().is_some_and(|e| e.is::<rustls::Error>()) => tls(source),
        E::Io(source) => Cause::Connection { source },
        E::Rustls(error) => tls(io::Error::new(io::ErrorKind::InvalidData, error)),
        E::Timeout(_) => Cause::Connection { source: io::Error::new(io::ErrorKind::TimedOut, error) },
        E::HostNotFound => Cause::Connection {
            source: io::Error::new(io::ErrorKind::NotFound, "the host's name is not known"),
        },
        E::ConnectionFailed => Cause::Connection { source: io::ErrorKind::ConnectionRefused.into() },
        E::LargeResponseHeader(_, limit) => Cause::TooLong { limit: limit as u64 },
        other => Cause::Nonsense { what: clean(&other.to_string()) },
    }
}

fn tls(source: io::Error) -> Cause {
    let error = source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let hint = match error {
        Some(rustls::Error::InvalidMessage(_)) => {
            ": if it speaks plain HTTP, list it as `insecure` in the daemon's [registries]"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            ": an authority of its own belongs into certs.d/<registry>/ca.crt"
        }
        _ => "",
    };
    Cause::Tls { hint, source }
}

/// Whether two addresses are one server to whom the same secrets may be told.
pub(crate) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    a.scheme_str() == b.scheme_str()
        && a.host().unwrap_or_default().eq_ignore_ascii_case(b.host().unwrap_or_default())
        && port(a) == port(b)
}

fn host(uri: &Uri) -> String {
    clean(uri.authority().map_or("", |a| a.as_str()))
}

/// The address that a `Location` means, seen from `base`.
pub(crate) fn resolve(base: &Uri, location: &str) -> Result<Uri, Cause> {
    let nonsense = || Cause::Nonsense { what: format!("`{}` is not an address", without_user(location)) };
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str().unwrap_or_default())
    } else if location.starts_with('/') {
        format!("{}://{}{location}", base.scheme_str().unwrap_or_default(), host(base))
    } else if location.starts_with('?') {
        format!("{}://{}{}{location}", base.scheme_str().unwrap_or_default(), host(base), base.path())
    } else if location.is_empty() {
        return Err(Cause::Nonsense { what: "it names no address to go on at".to_owned() });
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(d, _)| d);
        format!("{}://{}{directory}/{location}", base.scheme_str().unwrap_or_default(), host(base))
    };
    let without_fragment = absolute.split('#').next().unwrap_or_default();
    let uri: Uri = without_fragment.parse().map_err(|_| nonsense())?;
    // A name and password in an address would be told to whoever reads the log.
    if uri.authority().is_none_or(|a| a.as_str().contains('@')) {
        return Err(nonsense());
    }
    Ok(uri)
}

/// An address as it may be shown: without a name and password before its host, and without its query, which may be a
/// key.
pub(crate) fn without_user(address: &str) -> String {
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(s, r)| (s, r));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    clean(&format!("{scheme}{separator}{host}{path}"))
}

/// Encodes a value for a query: everything but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        assert!(same("http://a:80/x", "http://a/y?z"));
        for (a, b) in
            [("https://a/", "http://a/"), ("https://a/", "https://b/"), ("https://a/", "https://a:444/")]
        {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn locations_are_seen_from_their_request() {
        let base: Uri = "https://r.example:5000/v2/x/blobs/uploads/1?a=b".parse().unwrap();
        for (location, expected) in [
            ("/v2/y?z=1", "https://r.example:5000/v2/y?z=1"),
            ("https://cdn.example/b#part", "https://cdn.example/b"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("2", "https://r.example:5000/v2/x/blobs/uploads/2"),
            ("?c=d", "https://r.example:5000/v2/x/blobs/uploads/1?c=d"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expected);
        }
        for bad in ["", "https://me:secret@x/", "https://", "/a b"] {
            let error = resolve(&base, bad).unwrap_err();
            assert!(matches!(error, Cause::Nonsense { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_shown_of_an_address_opens_nothing() {
        assert_eq!(without_user("https://me:pw@x:1/a?key=k#f"), "https://x:1/a");
        assert_eq!(without_user("/a/b@c?d"), "/a/b@c");
        assert_eq!(without_user("me:pw@x"), "x");
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("repository:a/b:pull,push"), "repository%3Aa%2Fb%3Apull%2Cpush");
    }
}
