//! Sending a blob: asked for in another repository first, then in one piece, and where that breaks, from where it broke.
//!
//! ```text
//!   POST uploads/?mount=… --201--> there already
//!      | 202, Location
//!      v
//!   PUT Location, all bytes --201--> done          413: in pieces from now on
//!      | cut, 5xx
//!      v
//!   GET Location --Range--> PATCH the rest --> PUT, no bytes --201--> done
//!      | 404: the upload is lost
//!      v
//!   POST uploads/ once more
//! ```

use std::io::{self, Read};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri, header};
use sampan_base::Digest;
use sampan_oci::image::Descriptor;

use crate::client::{Call, Client, Target, is_worth_another_try};
use crate::error::{Cause, RegistryError, clean};
use crate::exchange::{Answer, Payload, Request, encode};
use crate::limits::{CHUNK_BYTES, MAX_ATTEMPTS, MAX_CHUNK_BYTES, MAX_RECONNECTS};
use crate::manifest::CONTENT_DIGEST;
use crate::pace::retry_after;
use crate::repository::{Inner, Repository};

/// A registry's least piece of an upload in pieces.
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Bytes that can be read from any place on, more than once.
pub trait UploadSource: Sync {
    /// A reader of all bytes from `offset` on.
    ///
    /// # Errors
    /// If they can't be read.
    fn open_at(&self, offset: u64) -> io::Result<Box<dyn Read + Send + '_>>;
}

impl UploadSource for Vec<u8> {
    fn open_at(&self, offset: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(Box::new(&self[from..]))
    }
}

impl UploadSource for std::fs::File {
    fn open_at(&self, offset: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(FileFrom { file: self, at: offset }))
    }
}

/// A file read from a place of its own, so that several may read it.
struct FileFrom<'a> {
    file: &'a std::fs::File,
    at: u64,
}

impl Read for FileFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// How a blob came to be in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// Its bytes were sent.
    Sent,
    /// The registry had it in this repository.
    There,
    /// The registry took it from another repository of its own.
    Mounted {
        /// Which.
        from: String,
    },
}

impl Repository {
    /// Puts a blob. `from` are other repositories of the same registry that may have it; `progress` is told how many bytes
    /// the registry has.
    ///
    /// # Errors
    /// If the registry refuses, or breaks off too often.
    pub fn upload(
        &self,
        blob: &Descriptor,
        source: &dyn UploadSource,
        from: &[String],
        progress: &dyn Fn(u64),
    ) -> Result<Uploaded, RegistryError> {
        if self.has_blob(&blob.digest)? {
            return Ok(Uploaded::There);
        }
        let client = self.inner.own();
        let upload = Upload { inner: &self.inner, client, blob, source, progress };
        let result = upload.run(from);
        result.map_err(|e| client.failed(format!("push the blob {}", blob.digest))(client.or_cancelled(e)))
    }
}

struct Upload<'a> {
    inner: &'a Inner,
    client: &'a Client,
    blob: &'a Descriptor,
    source: &'a dyn UploadSource,
    progress: &'a dyn Fn(u64),
}

/// An upload that goes on.
struct Session {
    location: Uri,
    /// How many bytes the registry has.
    offset: u64,
    /// In pieces of so many bytes; in one piece if none.
    chunk: Option<u64>,
    least: u64,
}

/// What one step of an upload led to.
enum Step {
    /// The registry has the blob.
    Done,
    /// There is more to do.
    Goes,
    /// It broke; the registry may know how far it came.
    Broke { cause: Cause, wait: Option<Duration> },
    /// One piece is too long for it.
    TooLong { answer: Cause },
}

impl Upload<'_> {
    fn run(&self, from: &[String]) -> Result<Uploaded, Cause> {
        for repository in from.iter().filter(|r| **r != self.inner.name) {
            if let Some(Uploaded::Mounted { from }) = self.mount(repository)? {
                return Ok(Uploaded::Mounted { from });
            }
        }
        let mut session = self.begin(None)?;
        let (mut failures, mut reconnects, mut reached) = (0, 0, 0);
        loop {
            match self.step(&mut session)? {
                Step::Done => return Ok(Uploaded::Sent),
                Step::Goes => (self.progress)(session.offset),
                Step::TooLong { answer } if session.chunk.is_some() => return Err(answer),
                Step::TooLong { .. } => {
                    let chunk = Some(CHUNK_BYTES.max(session.least));
                    session = self.begin(chunk)?;
                }
                Step::Broke { cause, wait } => {
                    if session.offset > reached {
                        (reached, failures) = (session.offset, 0);
                    }
                    failures += 1;
                    reconnects += 1;
                    if failures >= MAX_ATTEMPTS || reconnects > MAX_RECONNECTS {
                        return Err(cause);
                    }
                    self.client.back_off(failures, wait)?;
                    session = self.find_again(session)?;
                    (self.progress)(session.offset);
                }
            }
        }
    }

    /// Asks for the blob from another repository. Registries that can't do it begin an upload instead, which is left.
    fn mount(&self, repository: &str) -> Result<Option<Uploaded>, Cause> {
        let query =
            format!("blobs/uploads/?mount={}&from={}", encode(self.blob.digest.as_str()), encode(repository));
        let scope = format!("{} repository:{repository}:pull", self.inner.push_scope());
        let path = self.inner.path(&query);
        let answer = self.client.send(&Call { method: Method::POST, ..Call::get(&path, &scope) })?;
        let (status, location) = (answer.status.as_u16(), answer.header(header::LOCATION).map(str::to_owned));
        answer.drop_body();
        match (status, location) {
            (201, _) => Ok(Some(Uploaded::Mounted { from: repository.to_owned() })),
            (202, Some(location)) => {
                // Begun in vain: the registry need not keep it.
                let uri = self.client.location(&self.client.base()?, &location)?;
                let _ =
                    self.client.send_once(&mut Request::new(Method::DELETE, uri), &self.inner.push_scope());
                Ok(None)
            }
            // It may not let us read there; then it is sent.
            _ => Ok(None),
        }
    }

    fn begin(&self, chunk: Option<u64>) -> Result<Session, Cause> {
        let (path, scope) = (self.inner.path("blobs/uploads/"), self.inner.push_scope());
        let answer = self.client.success(&Call { method: Method::POST, ..Call::get(&path, &scope) })?;
        let base = self.client.uri(&Target::Path(&path))?;
        let location = self.next_location(&answer, &base)?;
        let least = answer.header(CHUNK_MIN_LENGTH).and_then(|l| l.parse::<u64>().ok()).unwrap_or(0);
        answer.drop_body();
        if least > MAX_CHUNK_BYTES {
            return Err(Cause::Nonsense { what: format!("it wants pieces of {least} bytes") });
        }
        Ok(Session { location, offset: 0, chunk: chunk.map(|c| c.max(least)), least })
    }

    fn next_location(&self, answer: &Answer, seen_from: &Uri) -> Result<Uri, Cause> {
        self.client.location(seen_from, answer.header(header::LOCATION).unwrap_or_default())
    }

    fn step(&self, session: &mut Session) -> Result<Step, Cause> {
        let left = self.blob.size - session.offset;
        if session.offset == 0 && session.chunk.is_none() {
            return self.send(session, Method::PUT, left);
        }
        if left == 0 {
            return self.send(session, Method::PUT, 0);
        }
        self.send(session, Method::PATCH, session.chunk.map_or(left, |chunk| chunk.min(left)))
    }

    /// Sends `length` bytes from where the upload is; a PUT ends it.
    fn send(&self, session: &mut Session, method: Method, length: u64) -> Result<Step, Cause> {
        let last = method == Method::PUT;
        let uri =
            if last { with_digest(&session.location, &self.blob.digest)? } else { session.location.clone() };
        let source = self.source.open_at(session.offset).map_err(|source| Cause::Local { source })?;
        let mut reader = Counted {
            inner: source.take(length),
            sent: 0,
            from: session.offset,
            tell: self.progress,
            failed: None,
        };
        let mut request = Request::new(method, uri.clone())
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if length > 0 {
            if !last {
                let range = format!("{}-{}", session.offset, session.offset + length - 1);
                let range =
                    HeaderValue::from_str(&range).map_err(|e| Cause::Nonsense { what: e.to_string() })?;
                request = request.header(header::CONTENT_RANGE, range);
            }
            request.payload = Payload::Reader(&mut reader, length);
        }
        let sent = self.client.send_once(&mut request, &self.inner.push_scope());
        drop(request);
        if let Some(source) = reader.failed {
            return Err(Cause::Local { source });
        }
        let answer = match sent {
            Ok(answer) => answer,
            Err(cause @ Cause::Connection { .. }) => return Ok(Step::Broke { cause, wait: None }),
            Err(cause) => return Err(cause),
        };
        match answer.status.as_u16() {
            201 | 204 if last => {
                let said = answer.header(CONTENT_DIGEST).map(str::to_owned);
                answer.drop_body();
                match said {
                    Some(said) if said.starts_with("sha256:") && said != self.blob.digest.as_str() => {
                        Err(Cause::WrongContent { what: format!("the registry stored {}", clean(&said)) })
                    }
                    _ => Ok(Step::Done),
                }
            }
            202 | 204 if !last => {
                session.location = self.next_location(&answer, &uri)?;
                session.offset = offset_of(&answer).unwrap_or(session.offset + length).min(self.blob.size);
                answer.drop_body();
                Ok(Step::Goes)
            }
            413 => Ok(Step::TooLong { answer: self.client.refused(answer) }),
            status if is_worth_another_try(status) || matches!(status, 401 | 416) => {
                let wait = answer.header(header::RETRY_AFTER);
                let wait = wait.and_then(|h| retry_after(h, self.client.pace().now()));
                Ok(Step::Broke { cause: self.client.refused(answer), wait })
            }
            _ => Err(self.client.refused(answer)),
        }
    }

    /// Asks the registry how far the upload came; one that it does not know any more begins anew.
    fn find_again(&self, session: Session) -> Result<Session, Cause> {
        let scope = self.inner.push_scope();
        let call = Call { target: Target::Given(session.location.clone()), ..Call::get("", &scope) };
        let answer = self.client.send(&call)?;
        let offset = if answer.status.is_success() { offset_of(&answer) } else { None };
        let location = answer.header(header::LOCATION).map(str::to_owned);
        answer.drop_body();
        match offset {
            Some(offset) if offset > 0 && offset <= self.blob.size => {
                let location = match location {
                    Some(location) => self.client.location(&session.location, &location)?,
                    None => session.location,
                };
                Ok(Session { location, offset, ..session })
            }
            _ => self.begin(session.chunk),
        }
    }
}

/// How many bytes the registry has, of `Range: 0-99` (or `bytes=0-99`). `0-0` is what some say of none.
fn offset_of(answer: &Answer) -> Option<u64> {
    let text = answer.header(header::RANGE)?;
    let end: u64 = text.trim_start_matches("bytes=").split_once('-')?.1.trim().parse().ok()?;
    if end == 0 { Some(0) } else { end.checked_add(1) }
}

fn with_digest(location: &Uri, digest: &Digest) -> Result<Uri, Cause> {
    let separator = if location.query().is_some() { '&' } else { '?' };
    let text = format!("{location}{separator}digest={}", encode(digest.as_str()));
    text.parse().map_err(|_| Cause::Nonsense { what: "the upload's address is not one".to_owned() })
}

/// Tells how many bytes have been sent, and keeps what went wrong with reading them.
struct Counted<'a> {
    inner: io::Take<Box<dyn Read + Send + 'a>>,
    sent: u64,
    from: u64,
    tell: &'a dyn Fn(u64),
    failed: Option<io::Error>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(0) if self.inner.limit() > 0 && !buffer.is_empty() => {
                let error =
                    || io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it should be");
                self.failed = Some(error());
                Err(error())
            }
            Ok(n) => {
                self.sent += n as u64;
                (self.tell)(self.from + self.sent);
                Ok(n)
            }
            Err(error) => {
                self.failed = Some(io::Error::new(error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}
