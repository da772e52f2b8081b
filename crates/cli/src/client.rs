//! A client of Docker's API: one connection a request.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sampan_docker_api::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::endpoint::Endpoint;

/// What the daemon answered when it was no success.
#[derive(Debug)]
pub(crate) struct DaemonError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl std::fmt::Display for DaemonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DaemonError {}

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of what comes out of a channel.
pub(crate) fn channel(receiver: mpsc::Receiver<std::io::Result<Bytes>>) -> Body {
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece.map(Frame::data), receiver))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

/// Where the daemon is.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Client {
        Client { endpoint }
    }

    /// Whether a daemon listens.
    pub(crate) async fn answers(&self) -> bool {
        self.endpoint.connect().await.is_ok()
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let stream = self.endpoint.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("cannot speak to the daemon")?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.context("the daemon went away in the middle of a request")
    }

    /// Sends a request; an answer that is no success is an error with the daemon's words.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
        kind: &str,
    ) -> Result<Response<Incoming>> {
        self.request_with(method, path, body, kind, &[]).await
    }

    /// As [`Client::request`], with further headers.
    pub(crate) async fn request_with(
        &self,
        method: Method,
        path: &str,
        body: Body,
        kind: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "sampan")
            .header(header::CONTENT_TYPE, kind);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).with_context(|| format!("cannot ask for `{path}`"))?;
        success(self.send(request).await?).await
    }

    /// As [`Client::request`], with what shows a registry who the user is.
    pub(crate) async fn request_as(
        &self,
        method: Method,
        path: &str,
        body: Body,
        auth: &str,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "sampan");
        if !auth.is_empty() {
            request = request.header("x-registry-auth", auth);
        }
        let request = request.body(body).with_context(|| format!("cannot ask for `{path}`"))?;
        success(self.send(request).await?).await
    }

    /// Whether the engine is ours, which can do more than Docker's API says.
    pub(crate) async fn is_sampan(&self) -> Result<bool> {
        let answer = self.request(Method::GET, "/_ping", full(""), "application/json").await?;
        let server = answer.headers().get(header::SERVER).and_then(|s| s.to_str().ok());
        Ok(server.is_some_and(|s| s.starts_with("sampan/")))
    }

    /// Asks and reads a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read_json(self.request(Method::GET, path, full(""), "application/json").await?).await
    }

    /// Posts JSON and reads a JSON answer.
    pub(crate) async fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = full(serde_json::to_vec(body)?);
        read_json(self.request(Method::POST, path, body, "application/json").await?).await
    }

    /// Posts JSON and takes no answer.
    pub(crate) async fn post_without_answer(&self, path: &str, body: &impl Serialize) -> Result<()> {
        let body = full(serde_json::to_vec(body)?);
        self.request(Method::POST, path, body, "application/json").await.map(drop)
    }

    /// Posts without a body and takes no answer.
    pub(crate) async fn post(&self, path: &str) -> Result<()> {
        self.request(Method::POST, path, full(""), "application/json").await.map(drop)
    }

    /// Deletes; answers what came back.
    pub(crate) async fn delete(&self, path: &str) -> Result<Bytes> {
        let answer = self.request(Method::DELETE, path, full(""), "application/json").await?;
        Ok(answer.into_body().collect().await?.to_bytes())
    }

    /// Posts and takes over the connection.
    pub(crate) async fn upgrade(&self, path: &str, body: Vec<u8>) -> Result<TokioIo<Upgraded>> {
        let request = Request::post(path)
            .header(header::HOST, "sampan")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .body(full(body))?;
        let response = success(self.send(request).await?).await?;
        Ok(TokioIo::new(hyper::upgrade::on(response).await.context("sampand did not open a stream")?))
    }
}

async fn success(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED
    {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await?.to_bytes();
    let message = match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => body.message,
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(&bytes).trim()),
    };
    Err(DaemonError { status, message }.into())
}

/// Reads a JSON answer.
pub(crate) async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    let bytes = response.into_body().collect().await?.to_bytes();
    serde_json::from_slice(&bytes).context("sampand's answer can't be read")
}

/// Encodes a part of a path or a parameter's value.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b'@') {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
        out
    })
}

/// A query of these parameters; those without a value are left out.
pub(crate) fn query(parameters: &[(&str, &str)]) -> String {
    let set = parameters.iter().filter(|(_, value)| !value.is_empty());
    let text: Vec<String> = set.map(|(key, value)| format!("{key}={}", encode(value))).collect();
    if text.is_empty() { String::new() } else { format!("?{}", text.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded_and_empty_ones_left_out() {
        assert_eq!(query(&[("a", "x y&z"), ("b", ""), ("c", "me/web:1")]), "?a=x%20y%26z&c=me/web:1");
        assert_eq!(query(&[("b", "")]), "");
    }
}
