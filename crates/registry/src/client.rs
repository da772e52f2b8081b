//! One registry, spoken to by one operation: finds out the scheme and the challenge, then sends requests, with
//! credentials, and again if that may help.
//!
//! What is tried again: no answer, 408, 429 and 5xx, after a wait that doubles or that the registry asks for; 401, once,
//! with a new token. Everything else is an answer.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Method, Uri, header};
use ureq::Agent;

use crate::auth::{Auth, Challenge};
use crate::endpoint::{Endpoint, RegistryConfig, Scheme};
use crate::error::{Cause, RegistryError};
use crate::exchange::{self, Answer, Payload, Request};
use crate::limits::{MAX_ATTEMPTS, MAX_KNOWN_HOSTS, MAX_RETRY_AFTER, MAX_TOKEN_ANSWER_BYTES};
use crate::pace::{Cancel, Pace, backoff, retry_after};
use crate::secret::Credentials;

/// A connection to one endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    config: Arc<RegistryConfig>,
    known: Arc<KnownSchemes>,
    pace: Arc<dyn Pace>,
    cancel: Cancel,
    auth: Auth,
    /// Made by the first request.
    opened: OnceLock<Opened>,
    opening: Mutex<()>,
}

#[derive(Debug)]
struct Opened {
    agent: Agent,
    base: Uri,
}

/// Which scheme an insecure registry was found to speak, so that the next operation tries that first.
pub(crate) type KnownSchemes = Mutex<std::collections::HashMap<String, Scheme>>;

/// A request and what it needs, so that it can be made again.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// From `/v2/` on, or a whole address that the registry gave.
    pub(crate) target: Target<'a>,
    pub(crate) headers: &'a [(http::HeaderName, HeaderValue)],
    pub(crate) body: Option<&'a [u8]>,
    /// For which a token is needed: `repository:web:pull`.
    pub(crate) scope: &'a str,
}

/// Where a request goes.
#[derive(Clone)]
pub(crate) enum Target<'a> {
    /// A path on the registry.
    Path(&'a str),
    /// An address that the registry gave.
    Given(Uri),
}

impl<'a> Call<'a> {
    pub(crate) fn get(path: &'a str, scope: &'a str) -> Call<'a> {
        Call { method: Method::GET, target: Target::Path(path), headers: &[], body: None, scope }
    }
}

impl Client {
    pub(crate) fn new(
        endpoint: Endpoint,
        config: Arc<RegistryConfig>,
        known: Arc<KnownSchemes>,
        pace: Arc<dyn Pace>,
        cancel: Cancel,
        credentials: Credentials,
    ) -> Client {
        // A mirror is another party: it gets nobody's password.
        let credentials = if endpoint.mirror { Credentials::Anonymous } else { credentials };
        let auth = Auth::new(credentials);
        let (opened, opening) = (OnceLock::new(), Mutex::new(()));
        Client { endpoint, config, known, pace, cancel, auth, opened, opening }
    }

    /// As messages name it.
    pub(crate) fn name(&self) -> String {
        match self.opened.get() {
            Some(opened) => opened.base.to_string().trim_end_matches('/').to_owned(),
            None => self.endpoint.authority.clone(),
        }
    }

    pub(crate) fn is_mirror(&self) -> bool {
        self.endpoint.mirror
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    pub(crate) fn pace(&self) -> &dyn Pace {
        &*self.pace
    }

    /// Wraps the cause of a failure.
    pub(crate) fn failed(&self, doing: impl Into<String>) -> impl FnOnce(Cause) -> RegistryError {
        let (registry, doing) = (self.name(), doing.into());
        move |cause| RegistryError { registry, doing, cause: Box::new(cause) }
    }

    /// The registry's own address, once it is known to answer.
    pub(crate) fn base(&self) -> Result<Uri, Cause> {
        self.open().map(|o| o.base.clone())
    }

    /// Sends a request, as often as it may help. Any answer that is not a success is a refusal.
    pub(crate) fn success(&self, call: &Call<'_>) -> Result<Answer, Cause> {
        let answer = self.send(call)?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(answer)) }
    }

    /// An answer as the refusal that it is.
    pub(crate) fn refused(&self, answer: Answer) -> Cause {
        Cause::Refused(answer.refusal(self.auth.has_credentials()))
    }

    /// Sends a request, as often as it may help.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<Answer, Cause> {
        let opened = self.open()?;
        self.retried(|| {
            let mut request = Request::new(call.method.clone(), self.uri(&call.target)?);
            request.headers = call.headers.to_vec();
            request.payload = call.body.map_or(Payload::None, Payload::Bytes);
            self.authorized(opened, &mut request, call.scope)
        })
    }

    /// Sends a request once, with a body that can't be sent again.
    pub(crate) fn send_once(&self, request: &mut Request<'_>, scope: &str) -> Result<Answer, Cause> {
        let opened = self.open()?;
        let authorization = self.authorization(opened, &request.uri, scope)?;
        let sent = exchange::send(&opened.agent, request, authorization.as_ref());
        let answer = sent.map_err(|e| self.or_cancelled(e))?;
        if answer.status.as_u16() == 401 {
            self.auth.learn(Challenge::of(&answer.headers));
            self.auth.forget(scope);
        }
        Ok(answer)
    }

    /// The address that a `Location` means. One on this very host is never given up for a weaker scheme: a registry behind
    /// a proxy that ends TLS often does not know how it is reached.
    pub(crate) fn location(&self, seen_from: &Uri, location: &str) -> Result<Uri, Cause> {
        let uri = exchange::resolve(seen_from, location)?;
        let base = self.base()?;
        if base.scheme_str() == Some("https") && uri.scheme_str() == Some("http") && uri.host() == base.host()
        {
            return exchange::resolve(&base, uri.path_and_query().map_or("/", |p| p.as_str()));
        }
        Ok(uri)
    }

    pub(crate) fn uri(&self, target: &Target<'_>) -> Result<Uri, Cause> {
        match target {
            Target::Path(path) => exchange::resolve(&self.base()?, path),
            Target::Given(uri) => Ok(uri.clone()),
        }
    }

    /// Asks for what stands for name and password from now on, and whether the registry takes it.
    pub(crate) fn login(&self) -> Result<Option<crate::Secret>, Cause> {
        let opened = self.open()?;
        let issued = self.auth.login(&opened.base, &|r, a| self.ask(opened, r, a))?;
        let uri = exchange::resolve(&opened.base, "/v2/")?;
        let header = issued.as_ref().map(|i| i.header.clone());
        let answer = self.retried(|| {
            exchange::send(&opened.agent, &mut Request::new(Method::GET, uri.clone()), header.as_ref())
        })?;
        if !answer.status.is_success() {
            return Err(self.refused(answer));
        }
        answer.drop_body();
        Ok(issued.and_then(|i| i.identity))
    }

    /// A request with what shows who we are; a token that is not taken is replaced once.
    fn authorized(&self, opened: &Opened, request: &mut Request<'_>, scope: &str) -> Result<Answer, Cause> {
        let first = self.authorization(opened, &request.uri, scope)?;
        let answer = exchange::send(&opened.agent, request, first.as_ref())?;
        if answer.status.as_u16() != 401 {
            return Ok(answer);
        }
        self.auth.learn(Challenge::of(&answer.headers));
        self.auth.forget(scope);
        let second = self.authorization(opened, &request.uri, scope)?;
        // The same password again would get the same answer.
        if second.is_none() || second == first {
            return Ok(answer);
        }
        answer.drop_body();
        exchange::send(&opened.agent, request, second.as_ref())
    }

    /// What to show at `uri`: nothing where the registry sent us to another server.
    fn authorization(&self, opened: &Opened, uri: &Uri, scope: &str) -> Result<Option<HeaderValue>, Cause> {
        if !exchange::same_origin(uri, &opened.base) {
            return Ok(None);
        }
        self.auth.header(&opened.base, scope, self.pace.now(), &|r, a| self.ask(opened, r, a))
    }

    /// A request to the token server, which may be another host: the registry named it, and the protocol wants that it
    /// gets the password.
    fn ask(
        &self,
        opened: &Opened,
        mut request: Request<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, Cause> {
        self.retried(|| exchange::send(&opened.agent, &mut request, authorization.as_ref()))
    }

    fn retried(&self, mut attempt: impl FnMut() -> Result<Answer, Cause>) -> Result<Answer, Cause> {
        let mut failures = 0;
        loop {
            let result = attempt();
            if self.cancel.is_set() {
                return Err(Cause::Cancelled);
            }
            let wanted = match &result {
                Ok(answer) if is_worth_another_try(answer.status.as_u16()) => {
                    answer.header(header::RETRY_AFTER).and_then(|h| retry_after(h, self.pace.now()))
                }
                Err(Cause::Connection { source }) if is_passing(source) => None,
                _ => return result,
            };
            failures += 1;
            if failures == MAX_ATTEMPTS {
                return result;
            }
            if let Ok(answer) = result {
                answer.drop_body();
            }
            self.back_off(failures, wanted)?;
        }
    }

    /// Waits after the `failures`th failure in a row, or as long as the registry asks.
    pub(crate) fn back_off(&self, failures: u32, wanted: Option<Duration>) -> Result<(), Cause> {
        let time = match wanted {
            Some(time) if time > MAX_RETRY_AFTER => {
                return Err(Cause::ComeBackLater { seconds: time.as_secs() });
            }
            Some(time) => time,
            None => backoff(failures, self.pace.chance()),
        };
        if self.pace.wait(time, &self.cancel) { Ok(()) } else { Err(Cause::Cancelled) }
    }

    /// A connection that broke because it was cancelled is no failure of the registry's.
    pub(crate) fn or_cancelled(&self, cause: Cause) -> Cause {
        if self.cancel.is_set() { Cause::Cancelled } else { cause }
    }

    /// Finds the scheme that the registry speaks, and what it wants to see.
    fn open(&self) -> Result<&Opened, Cause> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let _one_at_a_time = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let mut schemes = self.endpoint.schemes.clone();
        let known =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&self.endpoint.authority).copied();
        if known.is_some_and(|known| schemes.contains(&known)) {
            schemes.sort_by_key(|s| Some(*s) != known);
        }
        let mut first_error = None;
        for (n, scheme) in schemes.iter().enumerate() {
            let last = n + 1 == schemes.len();
            match self.ping(*scheme, last) {
                Ok(opened) => {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    if schemes.len() > 1 && known.len() < MAX_KNOWN_HOSTS {
                        known.insert(self.endpoint.authority.clone(), *scheme);
                    }
                    drop(known);
                    return Ok(self.opened.get_or_init(|| opened));
                }
                Err(Cause::Cancelled) => return Err(Cause::Cancelled),
                // Perhaps plain HTTP; what that says then counts more. A certificate that is not good is no reason to do
                // without any.
                Err(error) if is_no_tls(&error) => drop(first_error.replace(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first_error.unwrap_or(Cause::Config { what: "no scheme to try".to_owned() }))
    }

    /// `GET /v2/`. Whatever it answers, it is a server that speaks HTTP; its challenge is noted.
    fn ping(&self, scheme: Scheme, last: bool) -> Result<Opened, Cause> {
        let agent = self.config.agent(&self.endpoint, scheme)?;
        self.cancel.watch(&agent);
        let base = format!("{}://{}/", scheme.as_str(), self.endpoint.authority);
        let base: Uri = base.parse().map_err(|_| Cause::Config {
            what: format!("`{}` is not a registry's address", self.endpoint.authority),
        })?;
        let uri = exchange::resolve(&base, "/v2/")?;
        let ask = || exchange::send(&agent, &mut Request::new(Method::GET, uri.clone()), None);
        let answer = match ask() {
            // A server of plain HTTP may hang up without a word on what it can't read.
            Err(Cause::Connection { source })
                if !last && source.kind() != io::ErrorKind::ConnectionRefused =>
            {
                return Err(Cause::Tls { hint: "", source });
            }
            // Nobody is there: most likely the name is wrong. Waiting would only hide that.
            Err(cause) if is_refused(&cause) => return Err(cause),
            Err(Cause::Connection { .. }) => self.retried(ask)?,
            other => other.map_err(|e| self.or_cancelled(e))?,
        };
        if answer.status.as_u16() == 400 && scheme == Scheme::Http && !last {
            // What servers of TLS say to plain HTTP, if they say anything: it has changed since it was last spoken to.
            return Err(Cause::Tls { hint: "", source: io::ErrorKind::InvalidData.into() });
        }
        if answer.status.as_u16() == 401 {
            self.auth.learn(Challenge::of(&answer.headers));
        }
        // It is read to its end, so that the connection serves the next request.
        let _ = answer.bytes(MAX_TOKEN_ANSWER_BYTES);
        Ok(Opened { agent, base })
    }
}

/// Whether the server does not speak TLS at all.
fn is_no_tls(cause: &Cause) -> bool {
    let Cause::Tls { source, .. } = cause else { return false };
    match source.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
        // It hung up.
        None => true,
    }
}

fn is_refused(cause: &Cause) -> bool {
    use io::ErrorKind as K;
    let Cause::Connection { source } = cause else { return false };
    matches!(source.kind(), K::ConnectionRefused | K::NotFound | K::HostUnreachable | K::NetworkUnreachable)
}

/// Whether a failure of the connection may pass.
fn is_passing(error: &io::Error) -> bool {
    // A name that is not known, and what a limit of ours refused, will not be otherwise the next time.
    !matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
    )
}

/// Whether an answer may be another one later.
pub(crate) fn is_worth_another_try(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}
