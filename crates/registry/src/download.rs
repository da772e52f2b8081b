//! A plain download, for what is not in a registry: a Dockerfile's `ADD <url>`.

use std::io::{self, Read};

use http::{HeaderName, HeaderValue, Method, Uri, header};

use crate::client::is_worth_another_try;
use crate::endpoint::public_agent;
use crate::error::{Cause, Refusal, RegistryError};
use crate::exchange::{self, Request};
use crate::limits::{MAX_ATTEMPTS, MAX_REDIRECTS, MAX_RETRY_AFTER};
use crate::pace::{Cancel, Pace, backoff};
use crate::pace::{RealPace, retry_after};

/// What is known of a file on another host, so that it need not be sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its `ETag` then.
    pub etag: Option<String>,
    /// Its `Last-Modified` then.
    pub last_modified: Option<String>,
}

/// A file that is coming.
pub struct Download {
    /// The address it comes from in the end.
    pub url: String,
    /// Its length, if the server says.
    pub length: Option<u64>,
    /// `Last-Modified`, as sent.
    pub last_modified: Option<String>,
    /// `ETag`, as sent.
    pub etag: Option<String>,
    /// `Content-Disposition`, as sent: it may name the file.
    pub content_disposition: Option<String>,
    /// `Content-Type`, as sent.
    pub content_type: Option<String>,
    body: io::Take<Box<dyn Read + Send>>,
    limit: u64,
    read: u64,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("url", &self.url)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// What a server answered to one who knows the file.
#[derive(Debug)]
pub enum Downloaded {
    /// The file.
    New(Download),
    /// It is as it was.
    Unchanged,
}

/// Begins to download `url` (http or https), of at most `limit` bytes. No credentials are sent, and those in the address
/// are refused.
///
/// # Errors
/// If the address is not one, or the server does not give the file.
pub fn download(url: &str, known: &Known, limit: u64, cancel: &Cancel) -> Result<Downloaded, RegistryError> {
    download_paced(url, known, limit, cancel, &RealPace)
}

/// As [`download`], with another clock and way of waiting.
///
/// # Errors
/// As [`download`].
pub fn download_paced(
    url: &str,
    known: &Known,
    limit: u64,
    cancel: &Cancel,
    pace: &dyn Pace,
) -> Result<Downloaded, RegistryError> {
    let shown = exchange::without_user(url);
    let failed = |cause| RegistryError {
        registry: url.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned)).unwrap_or_default(),
        doing: format!("download {shown}"),
        cause: Box::new(if cancel.is_set() { Cause::Cancelled } else { cause }),
    };
    let mut failures = 0;
    loop {
        let wait = match attempt(url, known, limit, cancel) {
            Ok(Ok(downloaded)) => return Ok(downloaded),
            Ok(Err((refusal, after)))
                if is_worth_another_try(refusal.status) && failures + 1 < MAX_ATTEMPTS =>
            {
                after.and_then(|h| retry_after(&h, pace.now()))
            }
            Ok(Err((refusal, _))) => return Err(failed(Cause::Refused(refusal))),
            Err(Cause::Connection { source })
                if failures + 1 < MAX_ATTEMPTS
                    && !matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                    ) =>
            {
                None
            }
            Err(cause) => return Err(failed(cause)),
        };
        failures += 1;
        let time = wait.unwrap_or_else(|| backoff(failures, pace.chance()));
        if time > MAX_RETRY_AFTER {
            return Err(failed(Cause::ComeBackLater { seconds: time.as_secs() }));
        }
        if !pace.wait(time, cancel) {
            return Err(failed(Cause::Cancelled));
        }
    }
}

type Refused = (Refusal, Option<String>);

fn attempt(
    url: &str,
    known: &Known,
    limit: u64,
    cancel: &Cancel,
) -> Result<Result<Downloaded, Refused>, Cause> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Cause::Unsupported {
            what: "addresses that are neither http:// nor https://".to_owned(),
        });
    }
    let mut uri = exchange::resolve(&Uri::default(), url)?;
    // Followed here, host by host: each may need another client.
    for _ in 0..=MAX_REDIRECTS {
        let agent = public_agent(&uri);
        cancel.watch(&agent);
        let mut request = Request::new(Method::GET, uri.clone());
        let conditions: [(HeaderName, &Option<String>); 2] =
            [(header::IF_NONE_MATCH, &known.etag), (header::IF_MODIFIED_SINCE, &known.last_modified)];
        for (name, value) in conditions {
            if let Some(value) = value.as_deref().and_then(|v| HeaderValue::from_str(v).ok()) {
                request.headers.push((name, value));
            }
        }
        let answer = exchange::send_unredirected(&agent, &mut request)?;
        let text = |name: HeaderName| answer.header(name).map(str::to_owned);
        match answer.status.as_u16() {
            301 | 302 | 303 | 307 | 308 => {
                let to = text(header::LOCATION).unwrap_or_default();
                answer.drop_body();
                uri = exchange::follow(&uri, &to)?;
            }
            304 => return Ok(Ok(Downloaded::Unchanged)),
            200 => {
                let length = answer.length();
                if length.is_some_and(|l| l > limit) {
                    return Err(Cause::TooLong { limit });
                }
                return Ok(Ok(Downloaded::New(Download {
                    url: uri.to_string(),
                    length,
                    last_modified: text(header::LAST_MODIFIED),
                    etag: text(header::ETAG),
                    content_disposition: text(header::CONTENT_DISPOSITION),
                    content_type: text(header::CONTENT_TYPE),
                    body: answer.into_reader().take(limit.saturating_add(1)),
                    limit,
                    read: 0,
                })));
            }
            _ => {
                let after = text(header::RETRY_AFTER);
                return Ok(Err((answer.refusal(false), after)));
            }
        }
    }
    Err(Cause::Nonsense { what: format!("more than {MAX_REDIRECTS} redirects") })
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        self.read += n as u64;
        if self.read > self.limit {
            let why = format!("longer than {} bytes", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        if n == 0 && !buffer.is_empty() && self.length.is_some_and(|l| l != self.read) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(n)
    }
}
