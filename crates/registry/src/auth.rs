//! Showing who we are: the registry's challenge, basic authentication, and tokens of a token server.
//!
//! A registry that wants to know answers 401 with a challenge. `Basic`: name and password go with every request. `Bearer`:
//! the challenge names a server (the realm), which gives tokens for a service and scopes (`repository:web:pull`), each for
//! some minutes. The server is asked with name and password, with an identity token from an earlier login (OAuth2's
//! refresh token), or anonymously. Tokens are kept until shortly before they end; a 401 in the middle of a pull gets a
//! new one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use sampan_base::Timestamp;
use serde::Deserialize;

use crate::error::Cause;
use crate::exchange::{self, Payload, Request, encode};
use crate::limits::{DEFAULT_TOKEN_LIFE, MAX_TOKEN_ANSWER_BYTES, TOKEN_MARGIN};
use crate::secret::{Credentials, Secret};

/// How a token server knows us; Docker says `docker`.
const CLIENT_ID: &str = "sampan";

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password.
    Basic,
    /// A token from there.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The strongest challenge of an answer that we can meet.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Challenge> {
        let mut basic = None;
        for header in headers.get_all(header::WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            for challenge in http_auth::ChallengeParser::new(text) {
                // What comes after a part that can't be read can't, either.
                let Ok(challenge) = challenge else { break };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Challenge::Basic);
                }
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    continue;
                }
                let value = |key: &str| {
                    let found = challenge.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
                    found.map(|(_, v)| v.to_unescaped())
                };
                if let Some(realm) = value("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: value("service"),
                        scope: value("scope"),
                    });
                }
            }
        }
        basic
    }
}

/// Shows one registry who we are.
#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Credentials,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    challenge: Option<Challenge>,
    /// By scope.
    tokens: HashMap<String, Token>,
}

#[derive(Clone, Debug)]
struct Token {
    text: Secret,
    got: Timestamp,
    until: Timestamp,
}

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    issued_at: Option<Timestamp>,
    refresh_token: Option<String>,
}

/// A token and what else came with it.
pub(crate) struct Issued {
    pub(crate) header: HeaderValue,
    /// What stands for name and password from now on, if the server gives such.
    pub(crate) identity: Option<Secret>,
}

/// Sends a request to the token server, retries included.
pub(crate) type Ask<'a> = dyn Fn(Request<'_>, Option<HeaderValue>) -> Result<exchange::Answer, Cause> + 'a;

impl Auth {
    pub(crate) fn new(credentials: Credentials) -> Auth {
        Auth { credentials, state: Mutex::default() }
    }

    /// Whether there is something to show.
    pub(crate) fn has_credentials(&self) -> bool {
        self.credentials != Credentials::Anonymous
    }

    /// The registry said what it wants to see.
    pub(crate) fn learn(&self, challenge: Option<Challenge>) {
        if let Some(challenge) = challenge {
            self.state().challenge = Some(challenge);
        }
    }

    /// The token for this scope was refused.
    pub(crate) fn forget(&self, scope: &str) {
        self.state().tokens.remove(scope);
    }

    /// The header for a request of this scope; none if the registry has asked for nothing.
    ///
    /// # Errors
    /// If the token server gives none.
    pub(crate) fn header(
        &self,
        registry: &Uri,
        scope: &str,
        now: Timestamp,
        ask: &Ask<'_>,
    ) -> Result<Option<HeaderValue>, Cause> {
        if let Credentials::Bearer(token) = &self.credentials {
            return bearer(token).map(Some);
        }
        // Held while the server is asked: the other layers of a pull need the same token.
        let mut state = self.state();
        let challenge = match (&state.challenge, &self.credentials) {
            (None, _) | (Some(Challenge::Basic), Credentials::Anonymous | Credentials::Identity(_)) => {
                return Ok(None);
            }
            (Some(Challenge::Basic), _) => return self.basic(),
            (Some(challenge), _) => challenge.clone(),
        };
        // Of one that was got later than now the clock was set back: nobody knows how old it is.
        if let Some(token) = state.tokens.get(scope).filter(|t| t.got <= now && t.until > now) {
            return bearer(&token.text).map(Some);
        }
        let answer = self.fetch(registry, &challenge, scope, false, ask)?;
        let text = Secret::new(answer.token.or(answer.access_token).unwrap_or_default());
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs);
        let usable = life.saturating_sub(TOKEN_MARGIN).max(life / 2);
        let from = answer.issued_at.filter(|at| *at < now).unwrap_or(now);
        // A life beyond what time can say does not end in ours.
        let until = i64::try_from(usable.as_secs()).ok().and_then(|s| from.unix_seconds().checked_add(s));
        let until = until.and_then(|s| Timestamp::from_unix(s, 0).ok()).unwrap_or(now);
        let header = bearer(&text)?;
        state.tokens.insert(scope.to_owned(), Token { text, got: now, until });
        Ok(Some(header))
    }

    /// Asks for a token and for what stands for name and password from now on.
    ///
    /// # Errors
    /// If the server gives none.
    pub(crate) fn login(&self, registry: &Uri, ask: &Ask<'_>) -> Result<Option<Issued>, Cause> {
        let challenge = self.state().challenge.clone();
        let Some(challenge) = challenge else { return Ok(None) };
        if challenge == Challenge::Basic {
            return Ok(self.basic()?.map(|header| Issued { header, identity: None }));
        }
        let answer = self.fetch(registry, &challenge, "", true, ask)?;
        let text = Secret::new(answer.token.or(answer.access_token).unwrap_or_default());
        Ok(Some(Issued { header: bearer(&text)?, identity: answer.refresh_token.map(Secret::new) }))
    }

    fn basic(&self) -> Result<Option<HeaderValue>, Cause> {
        let Credentials::Password { user, password } = &self.credentials else { return Ok(None) };
        let text = STANDARD.encode(format!("{user}:{}", password.expose()));
        secret_header(&format!("Basic {text}")).map(Some)
    }

    fn fetch(
        &self,
        registry: &Uri,
        challenge: &Challenge,
        scope: &str,
        offline: bool,
        ask: &Ask<'_>,
    ) -> Result<TokenAnswer, Cause> {
        let Challenge::Bearer { realm, service, scope: asked } = challenge else {
            return Err(Cause::Nonsense { what: "the challenge names no token server".to_owned() });
        };
        let uri = exchange::resolve(registry, realm)?;
        // Whoever can change a registry's answers on the way is kept from sending our password elsewhere in the clear.
        if registry.scheme_str() == Some("https") && uri.scheme_str() != Some("https") {
            let what = "its token server speaks plain HTTP".to_owned();
            return Err(Cause::Nonsense { what });
        }
        // The registry's own words count only where we have none: they may ask for less than is needed next.
        let scopes =
            if scope.is_empty() { asked.as_deref().filter(|_| !offline).unwrap_or("") } else { scope };
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        pairs.extend(service.as_deref().map(|s| ("service", s)));
        let answer = match &self.credentials {
            Credentials::Identity(token) => {
                pairs.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
                pairs.push(("refresh_token", token.expose()));
                // OAuth2 has all scopes in one parameter.
                pairs.extend((!scopes.is_empty()).then_some(("scope", scopes)));
                let form = form(&pairs);
                let mut request = Request::new(Method::POST, uri).header(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
                request.payload = Payload::Bytes(form.as_bytes());
                ask(request, None)?
            }
            credentials => {
                pairs.extend(scopes.split(' ').filter(|s| !s.is_empty()).map(|s| ("scope", s)));
                if offline {
                    pairs.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
                }
                if let Credentials::Password { user, .. } = credentials {
                    pairs.push(("account", user));
                }
                let separator = if uri.query().is_some() { '&' } else { '?' };
                let uri = exchange::resolve(&uri, &format!("{uri}{separator}{}", form(&pairs)))?;
                ask(Request::new(Method::GET, uri), self.basic()?)?
            }
        };
        if !answer.status.is_success() {
            return Err(Cause::Refused(answer.refusal(self.has_credentials())));
        }
        let bytes = answer.bytes(MAX_TOKEN_ANSWER_BYTES)?;
        // The error is not told: it could repeat a part of the token.
        let parsed: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| Cause::Nonsense { what: "the token server's answer can't be read".to_owned() })?;
        let empty = |token: &Option<String>| token.as_ref().is_none_or(String::is_empty);
        if empty(&parsed.token) && empty(&parsed.access_token) {
            return Err(Cause::Nonsense { what: "the token server's answer has no token".to_owned() });
        }
        Ok(parsed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(k, v)| format!("{k}={}", encode(v))).collect::<Vec<_>>().join("&")
}

fn bearer(token: &Secret) -> Result<HeaderValue, Cause> {
    secret_header(&format!("Bearer {}", token.expose()))
}

/// A header that no Debug shows.
fn secret_header(text: &str) -> Result<HeaderValue, Cause> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Cause::Config { what: "the credentials can't be sent in a header".to_owned() })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(lines: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let bearer = |scope: Option<&str>| Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r, example".to_owned()),
            scope: scope.map(str::to_owned),
        };
        let line = r#"Bearer realm="https://auth.example/token",service="r, example",scope="repository:a/b:pull,push""#;
        assert_eq!(challenge(&[line]), Some(bearer(Some("repository:a/b:pull,push"))));
        let both = r#"Basic realm="x", Bearer realm="https://auth.example/token",service="r, example""#;
        assert_eq!(challenge(&[both]), Some(bearer(None)));
        assert_eq!(challenge(&["Negotiate", r#"BASIC realm="x""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Bearer service=x", "Digest a=b", "\"\""]), None);
    }

    #[test]
    fn a_password_never_goes_from_tls_to_plain_http() {
        let auth = Auth::new(Credentials::password("me", "hunter2"));
        auth.learn(challenge(&[r#"Bearer realm="http://auth.example/token""#]));
        let registry: Uri = "https://r.example".parse().unwrap();
        let never: &Ask<'_> = &|_, _| panic!("asked");
        let error = auth.header(&registry, "repository:x:pull", Timestamp::now(), never).unwrap_err();
        assert!(error.to_string().contains("plain HTTP"), "{error}");
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
