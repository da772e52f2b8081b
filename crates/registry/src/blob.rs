//! Blobs, read as a stream that survives cut connections.
//!
//! A reader has a place in the blob. When its connection breaks it asks for the rest by `Range` and goes on; a registry
//! without ranges sends all of it again, of which the known part is skipped. Nothing that was given out is given out
//! twice. Whoever reads checks the digest: a blob that changed meanwhile does not have it.
//!
//! ```text
//!            open                  bytes                     cut, silent, 5xx
//!   Closed ---------> Open(at) ---------> Open(at + n)   Open ----------------> Closed(at)   wait, and open again
//!                        | at = size                          | too often without a byte
//!                        v                                    v
//!                       End                                  failed, with the last cause
//! ```

use std::io::{self, Read};
use std::sync::Arc;

use http::{HeaderValue, header};
use sampan_base::Digest;
use sampan_oci::image::Descriptor;

use crate::client::{Call, Client};
use crate::error::{Cause, RegistryError};
use crate::exchange::Answer;
use crate::limits::{MAX_ATTEMPTS, MAX_RECONNECTS};
use crate::repository::{Inner, Repository};

/// A blob on its way: the bytes of `descriptor.size`, no more and no fewer. Their digest is the reader's to check.
#[derive(Debug)]
pub struct BlobReader {
    inner: Arc<Inner>,
    blob: Descriptor,
    /// Which of the repository's clients.
    client: usize,
    at: u64,
    body: Option<Body>,
    /// Failures since the last byte.
    failures: u32,
    reconnects: u32,
}

/// A `Read` whose Debug says nothing.
struct Body(Box<dyn Read + Send>);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("open")
    }
}

impl Repository {
    /// Opens a blob.
    ///
    /// # Errors
    /// If no registry has it, or it has another size there.
    pub fn blob(&self, blob: &Descriptor) -> Result<BlobReader, RegistryError> {
        let doing = format!("pull the blob {}", blob.digest);
        let (client, body) =
            self.inner.first(&doing, |client| connect(client, &self.inner, blob, 0).map(|(body, _)| body))?;
        Ok(BlobReader {
            inner: Arc::clone(&self.inner),
            blob: blob.clone(),
            client,
            at: 0,
            body: Some(Body(body)),
            failures: 0,
            reconnects: 0,
        })
    }

    /// A whole small blob, its digest and size checked.
    ///
    /// # Errors
    /// As [`Repository::blob`]; if it is longer than `limit` or not what the descriptor says.
    pub fn small_blob(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let client = self.inner.own();
        let failed = || client.failed(format!("pull the blob {}", blob.digest));
        if blob.size > limit {
            return Err(failed()(Cause::TooLong { limit }));
        }
        let mut bytes = Vec::new();
        let read = self.blob(blob)?.read_to_end(&mut bytes);
        read.map_err(|source| failed()(Cause::Connection { source }))?;
        let digest = Digest::of(&bytes);
        if digest != blob.digest {
            return Err(failed()(Cause::WrongContent {
                what: format!("bytes with the digest {digest} came"),
            }));
        }
        Ok(bytes)
    }

    /// Whether the registry has a blob in this repository.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let client = self.inner.own();
        let failed = || client.failed(format!("look for the blob {digest}"));
        let (path, scope) = (self.inner.path(&format!("blobs/{digest}")), self.inner.push_scope());
        let call = Call { method: http::Method::HEAD, ..Call::get(&path, &scope) };
        let answer = client.send(&call).map_err(|e| failed()(e))?;
        match answer.status.as_u16() {
            200..=299 => Ok(true),
            404 => Ok(false),
            _ => Err(failed()(client.refused(answer))),
        }
    }
}

/// Asks for a blob from byte `at` on. Answers the rest of it, and from where the answer really began.
fn connect(
    client: &Client,
    inner: &Inner,
    blob: &Descriptor,
    at: u64,
) -> Result<(Box<dyn Read + Send>, u64), Cause> {
    let (path, scope) = (inner.path(&format!("blobs/{}", blob.digest)), inner.pull_scope());
    let range = HeaderValue::from_str(&format!("bytes={at}-"))
        .map_err(|e| Cause::Nonsense { what: e.to_string() })?;
    let headers = [(header::RANGE, range)];
    let headers: &[_] = if at > 0 { &headers } else { &[] };
    let answer = client.success(&Call { headers, ..Call::get(&path, &scope) })?;
    let start = if answer.status.as_u16() == 206 { range_start(&answer)? } else { 0 };
    if start > at {
        return Err(Cause::Nonsense { what: format!("it goes on at byte {start} where {at} was asked for") });
    }
    if let Some(length) = answer.length()
        && start.checked_add(length) != Some(blob.size)
    {
        let what =
            format!("a blob of {} bytes where the manifest says {}", start.saturating_add(length), blob.size);
        return Err(Cause::WrongContent { what });
    }
    let mut body = answer.into_reader();
    // A registry without ranges sends what we have once more.
    let skipped = io::copy(&mut body.by_ref().take(at - start), &mut io::sink());
    match skipped {
        Ok(n) if n == at - start => Ok((body, start)),
        Ok(_) => Err(Cause::Connection { source: io::ErrorKind::UnexpectedEof.into() }),
        Err(source) => Err(Cause::Connection { source }),
    }
}

/// The first byte's place, of `Content-Range: bytes 5-9/10`.
fn range_start(answer: &Answer) -> Result<u64, Cause> {
    let text = answer.header(header::CONTENT_RANGE).unwrap_or_default();
    let start =
        text.strip_prefix("bytes ").and_then(|t| t.split('-').next()).and_then(|n| n.trim().parse().ok());
    start.ok_or_else(|| Cause::Nonsense { what: "a part of a blob without its place".to_owned() })
}

impl BlobReader {
    fn client(&self) -> &Client {
        &self.inner.clients[self.client]
    }

    fn failed(&self, cause: Cause) -> io::Error {
        let blob = &self.blob;
        let doing = format!("pull the blob {} (at byte {} of {})", blob.digest, self.at, blob.size);
        self.client().failed(doing)(self.client().or_cancelled(cause)).into_io()
    }

    /// Another connection, after a wait; answers nothing while there may be yet another try.
    fn reopen(&mut self, cause: Cause) -> io::Result<()> {
        self.body = None;
        let mut cause = cause;
        loop {
            self.failures += 1;
            self.reconnects += 1;
            if self.failures >= MAX_ATTEMPTS || self.reconnects > MAX_RECONNECTS {
                return Err(self.failed(cause));
            }
            // The first cut in a while is likely the only one: no wait.
            if self.failures > 1 {
                self.client().back_off(self.failures - 1, None).map_err(|e| self.failed(e))?;
            }
            match connect(self.client(), &self.inner, &self.blob, self.at) {
                Ok((body, _)) => {
                    self.body = Some(Body(body));
                    return Ok(());
                }
                Err(next @ Cause::Connection { .. }) => cause = next,
                // A mirror that has lost it: the registry itself may go on.
                Err(_) if self.client().is_mirror() => self.client += 1,
                Err(next) => return Err(self.failed(next)),
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.client().cancel().is_set() {
                return Err(self.failed(Cause::Cancelled));
            }
            let left = self.blob.size - self.at;
            let Some(Body(body)) = &mut self.body else { return Ok(0) };
            if left == 0 {
                // One more look: it tells a blob that is too long, and gives the connection back for the next request.
                let more = body.read(&mut [0; 1]);
                self.body = None;
                if matches!(more, Ok(1)) {
                    let what = format!("a blob of more than {} bytes", self.blob.size);
                    return Err(self.failed(Cause::WrongContent { what }));
                }
                return Ok(0);
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match body.read(&mut buffer[..most]) {
                Ok(0) => self.reopen(Cause::Connection { source: io::ErrorKind::UnexpectedEof.into() })?,
                Ok(n) => {
                    self.at += n as u64;
                    self.failures = 0;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => self.reopen(Cause::Connection { source })?,
            }
        }
    }
}
