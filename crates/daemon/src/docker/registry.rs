//! The routes to registries: pull, push, login, and what a name means there.
//!
//! Pulls and pushes answer with lines of progress. An error before the first line is an HTTP error, as with Docker; after
//! it, a line. A client that goes away cancels what it asked for.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode};
use sampan_base::{Digest, ImageRef};
use sampan_docker_api::build::{Progress, ProgressDetail};
use sampan_docker_api::reading;
use sampan_docker_api::system::{AuthAnswer, AuthRequest};
use sampan_engine::images::LayerProgress;
use sampan_engine::registry::pull::{PullEvent, PullRequest};
use sampan_engine::registry::push::{PushEvent, PushState};
use sampan_engine::registry::{Cancel, Credentials, Secret};
use sampan_engine::{Engine, EngineError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Query;
use super::containers::json as read_json;
use super::error::{Answer, ApiError};
use super::images::{invalid_reference, json_lines, tell};

/// Lines that wait for a slow client; then the transfer waits, too, but for lines that only say how far it is.
const WAITING_LINES: usize = 64;
/// How often a layer's bytes are told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Base64 for URLs, padded or not: clients differ.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who the client says it is. What can't be read is nobody, as with Docker.
pub(crate) fn credentials(headers: &HeaderMap) -> Credentials {
    let read = || -> Option<AuthRequest> {
        let text = headers.get("x-registry-auth")?.as_bytes();
        let bytes = LENIENT.decode(text).or_else(|_| base64::engine::general_purpose::STANDARD.decode(text));
        reading::from_slice(&bytes.ok()?).ok()
    };
    read().map(from_request).unwrap_or_default()
}

/// Who a client that builds says it is, by registry as images' names have it. What can't be read is nobody.
pub(crate) fn all_credentials(headers: &HeaderMap) -> BTreeMap<String, Credentials> {
    let read = || -> Option<BTreeMap<String, AuthRequest>> {
        let text = headers.get("x-registry-config")?.as_bytes();
        let bytes = LENIENT.decode(text).or_else(|_| base64::engine::general_purpose::STANDARD.decode(text));
        reading::from_slice(&bytes.ok()?).ok()
    };
    let all = read().unwrap_or_default().into_iter();
    all.map(|(address, request)| (registry_of(&address), from_request(request))).collect()
}

fn from_request(request: AuthRequest) -> Credentials {
    if !request.identity_token.is_empty() {
        return Credentials::Identity(Secret::new(request.identity_token));
    }
    if !request.registry_token.is_empty() {
        return Credentials::Bearer(Secret::new(request.registry_token));
    }
    Credentials::password(&request.username, &request.password)
}

/// `POST /auth`
pub(crate) async fn auth(State(engine): State<Engine>, body: Bytes) -> Answer<Json<AuthAnswer>> {
    let request: AuthRequest = read_json(&body)?;
    let registry = registry_of(&request.server_address);
    match engine.login(&registry, from_request(request)).await {
        Ok(identity) => Ok(Json(AuthAnswer {
            status: "Login Succeeded".to_owned(),
            identity_token: identity.map(|s| s.expose().to_owned()).unwrap_or_default(),
        })),
        Err(error) => {
            let answer = ApiError::from(error);
            // Docker's client tells a wrong password from a registry that does not answer by this.
            let denied = answer.status == StatusCode::FORBIDDEN;
            Err(ApiError { status: if denied { StatusCode::UNAUTHORIZED } else { answer.status }, ..answer })
        }
    }
}

/// `https://index.docker.io/v1/`, `https://r.example/v2/` and `r.example` as images' names have it.
fn registry_of(address: &str) -> String {
    let host = address.trim_start_matches("https://").trim_start_matches("http://");
    match host.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

/// `GET /distribution/{name}/json`, and two of ours: `…/tags`, `…/referrers`.
pub(crate) async fn distribution(
    State(engine): State<Engine>,
    Path(path): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Answer<Response> {
    let (name, verb) = path.rsplit_once('/').ok_or_else(ApiError::no_page)?;
    let name: ImageRef = name.parse().map_err(|e| invalid_reference(&e))?;
    let credentials = credentials(&headers);
    match verb {
        "json" => {
            let found = engine.distribution(&name, credentials).await?;
            let descriptor = found.descriptor;
            Ok(Json(json!({
                "Descriptor": {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size},
                "Platforms": found.platforms,
            }))
            .into_response())
        }
        "tags" => {
            let tags = engine.tags(&name, credentials).await?;
            Ok(Json(json!({"Name": name.familiar_repository(), "Tags": tags})).into_response())
        }
        "referrers" => {
            let kind = query.get("artifactType").filter(|t| !t.is_empty()).cloned();
            Ok(Json(json!({"Manifests": engine.referrers(&name, kind, credentials).await?})).into_response())
        }
        _ => Err(ApiError::no_page()),
    }
}

/// `POST /images/create?fromImage=`
pub(crate) async fn pull(engine: Engine, query: &Query, headers: &HeaderMap) -> Answer<Response> {
    let text = |key: &str| query.get(key).map_or("", String::as_str);
    let name: ImageRef = text("fromImage").parse().map_err(|e| invalid_reference(&e))?;
    let name = match text("tag") {
        "" => name,
        tag => match tag.parse::<Digest>() {
            Ok(digest) => name.with_digest(&digest),
            Err(_) => name.with_tag(tag).map_err(|e| invalid_reference(&e))?,
        },
    };
    // Without a tag anywhere, the client means all of them.
    let untagged = text("fromImage").rsplit('/').next().is_some_and(|last| !last.contains([':', '@']));
    let all = text("tag").is_empty() && untagged;
    let platform = match text("platform") {
        "" => None,
        platform => Some(
            platform
                .parse()
                .map_err(|e: sampan_engine::registry::InvalidPlatform| ApiError::invalid(e.to_string()))?,
        ),
    };
    let credentials = credentials(headers);
    begin(move |sender, cancel| async move {
        let names = if all {
            let tags = engine.tags(&name, credentials.clone()).await?;
            tags.iter().filter_map(|tag| name.with_tag(tag).ok()).collect()
        } else {
            vec![name]
        };
        for name in names {
            let shown = Shown::new(sender.clone());
            let told = name.clone();
            let request = PullRequest { name, platform: platform.clone(), credentials: credentials.clone() };
            let events = Box::new(move |event| shown.pull(&told, event));
            engine.pull(request, cancel.clone(), events).await?;
        }
        Ok(())
    })
    .await
}

/// `POST /images/{name}/push`; with `index=IMAGE` parameters, an addition of ours, these images and an index of them.
pub(crate) async fn push(
    engine: Engine,
    name: &str,
    query: &Query,
    index: Vec<String>,
    headers: &HeaderMap,
) -> Answer<Response> {
    let untagged = name.rsplit('/').next().is_some_and(|last| !last.contains(':'));
    let name: ImageRef = name.parse().map_err(|e| invalid_reference(&e))?;
    if name.digest().is_some() {
        return Err(ApiError::invalid("cannot push a digest reference"));
    }
    let tag = query.get("tag").filter(|t| !t.is_empty());
    let all = tag.is_none() && untagged && index.is_empty();
    let name = match tag {
        Some(tag) => name.with_tag(tag).map_err(|e| invalid_reference(&e))?,
        None => name,
    };
    let credentials = credentials(headers);
    begin(move |sender, cancel| async move {
        let repository = format!("{}/{}", name.registry(), name.repository());
        let text = format!("The push refers to repository [{repository}]");
        tell(&sender, Progress::status(text)).await;
        if !index.is_empty() {
            let (shown, told) = (Shown::new(sender.clone()), name.clone());
            let events = Box::new(move |event| shown.push(&told, event));
            return engine.push_index(name, index, credentials, cancel, events).await.map(drop);
        }
        let names = if all { local_tags(&engine, &name).await? } else { vec![name] };
        for name in names {
            let shown = Shown::new(sender.clone());
            let told = name.clone();
            let events = Box::new(move |event| shown.push(&told, event));
            engine.push(name, credentials.clone(), cancel.clone(), events).await?;
        }
        Ok(())
    })
    .await
}

/// The names of this repository that images here have.
async fn local_tags(engine: &Engine, name: &ImageRef) -> Result<Vec<ImageRef>, EngineError> {
    let images = engine.images().await?;
    let mut names: Vec<ImageRef> =
        images.into_iter().flat_map(|i| i.names).filter(|n| n.same_repository(name)).collect();
    names.sort();
    if names.is_empty() {
        return Err(EngineError::NotToPush { name: name.familiar_repository() });
    }
    Ok(names)
}

/// Runs a transfer whose lines go to the client; answers when the first line is there, or it failed before.
async fn begin<F>(work: impl FnOnce(mpsc::Sender<Bytes>, Cancel) -> F) -> Answer<Response>
where
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let (sender, mut lines) = mpsc::channel::<Bytes>(WAITING_LINES);
    let (fail, failure) = oneshot::channel::<EngineError>();
    let cancel = Cancel::default();
    let working = work(sender.clone(), cancel.clone());
    tokio::spawn(async move {
        tokio::pin!(working);
        let done = tokio::select! {
            done = &mut working => done,
            () = sender.closed() => {
                tracing::info!("a client has gone: its transfer is cancelled");
                cancel.set();
                working.await
            }
        };
        if let Err(error) = done {
            // Told before `sender` goes, so that whoever sees the last line finds it. Nobody may be there any more.
            drop(fail.send(error));
        }
    });
    let Some(first) = lines.recv().await else {
        return match failure.await {
            Ok(error) => Err(error.into()),
            Err(_) => Ok(json_lines(Body::empty())),
        };
    };
    let rest = futures_util::stream::unfold(
        (Some(first), lines, Some(failure)),
        |(first, mut lines, mut failure)| async move {
            let mut line = match first {
                Some(line) => Some(line),
                None => lines.recv().await,
            };
            if line.is_none()
                && let Some(failure) = failure.take()
                && let Ok(error) = failure.await
            {
                line = encode(&Progress::error(sampan_base::chain(&error), None));
            }
            line.map(|bytes| (Ok::<_, std::io::Error>(bytes), (None, lines, failure)))
        },
    );
    Ok(json_lines(Body::from_stream(rest)))
}

/// Writes a transfer's events as Docker does.
struct Shown {
    lines: mpsc::Sender<Bytes>,
    told: Mutex<HashMap<Digest, Instant>>,
}

impl Shown {
    fn new(lines: mpsc::Sender<Bytes>) -> Shown {
        Shown { lines, told: Mutex::default() }
    }

    fn pull(&self, name: &ImageRef, event: PullEvent) {
        match event {
            PullEvent::Found { repository, which } => {
                let status = format!("Pulling from {repository}");
                self.send(&Progress { id: Some(which), ..Progress::status(status) });
            }
            PullEvent::Layer { digest, size, state } => self.pulled_layer(&digest, size, state),
            PullEvent::Done { digest, up_to_date } => {
                self.send(&Progress::status(format!("Digest: {digest}")));
                let what = if up_to_date { "Image is up to date" } else { "Downloaded newer image" };
                self.send(&Progress::status(format!("Status: {what} for {name}")));
            }
        }
    }

    fn pulled_layer(&self, layer: &Digest, size: u64, state: LayerProgress) {
        match state {
            LayerProgress::Waiting => self.layer(layer, "Pulling fs layer", None),
            LayerProgress::Exists => self.layer(layer, "Already exists", None),
            LayerProgress::Receiving { bytes } => self.bytes(layer, "Downloading", bytes, size),
            LayerProgress::Unpacking => {
                self.layer(layer, "Verifying Checksum", None);
                self.layer(layer, "Download complete", None);
                self.layer(layer, "Extracting", Some((size, size)));
            }
            LayerProgress::Done => self.layer(layer, "Pull complete", None),
        }
    }

    fn push(&self, name: &ImageRef, event: PushEvent) {
        match event {
            PushEvent::Layer { layer, size, state } => match state {
                PushState::Preparing => self.layer(&layer, "Preparing", None),
                PushState::Sending { bytes } => self.bytes(&layer, "Pushing", bytes, size),
                PushState::Sent => self.layer(&layer, "Pushed", None),
                PushState::Exists => self.layer(&layer, "Layer already exists", None),
                PushState::Mounted { from } => self.layer(&layer, &format!("Mounted from {from}"), None),
            },
            PushEvent::Done { digest, size } => {
                let tag = name.tag().unwrap_or("latest");
                self.send(&Progress::status(format!("{tag}: digest: {digest} size: {size}")));
                let aux: Value = json!({"Tag": tag, "Digest": digest, "Size": size});
                self.send(&Progress {
                    aux: Some(aux),
                    progress_detail: Some(ProgressDetail::default()),
                    ..Progress::default()
                });
            }
        }
    }

    fn layer(&self, layer: &Digest, status: &str, bytes: Option<(u64, u64)>) {
        self.send(&line(layer, status, bytes));
    }

    /// How far a layer is; said now and then, and not at all to a client that does not keep up.
    fn bytes(&self, layer: &Digest, status: &str, bytes: u64, size: u64) {
        let now = Instant::now();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let last = told.get(layer);
            if bytes < size && last.is_some_and(|at| now.duration_since(*at) < TELL_EVERY) {
                return;
            }
            told.insert(layer.clone(), now);
        }
        if let Some(line) = encode(&line(layer, status, Some((bytes, size)))) {
            let _ = self.lines.try_send(line);
        }
    }

    fn send(&self, progress: &Progress) {
        if let Some(line) = encode(progress) {
            // A client that has gone cancels the transfer elsewhere.
            let _ = self.lines.blocking_send(line);
        }
    }
}

fn line(layer: &Digest, status: &str, bytes: Option<(u64, u64)>) -> Progress {
    let detail = bytes.map(|(current, total)| ProgressDetail { current, total }).unwrap_or_default();
    Progress {
        id: Some(layer.short().to_owned()),
        progress: bytes.map(|_| detail.bar()),
        progress_detail: Some(detail),
        ..Progress::status(status)
    }
}

fn encode(progress: &Progress) -> Option<Bytes> {
    let mut line = serde_json::to_vec(progress).ok()?;
    line.extend(b"\r\n");
    Some(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_the_client_is_comes_in_a_header() {
        let shown = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-registry-auth", text.parse().unwrap());
            match credentials(&headers) {
                Credentials::Anonymous => "nobody".to_owned(),
                Credentials::Password { user, password } => format!("{user}:{}", password.expose()),
                Credentials::Identity(token) => format!("identity {}", token.expose()),
                Credentials::Bearer(token) => format!("bearer {}", token.expose()),
            }
        };
        let url = |json: &str| LENIENT.encode(json);
        assert_eq!(shown(&url(r#"{"username":"me","password":"a?~ÿ"}"#)), "me:a?~ÿ");
        assert_eq!(shown(url(r#"{"identitytoken":"x"}"#).trim_end_matches('=')), "identity x");
        assert_eq!(shown(&url(r#"{"registrytoken":"x"}"#)), "bearer x");
        for nobody in ["", "null", "e30=", "!!", &url("null"), &url("[]")] {
            assert_eq!(shown(nobody), "nobody", "{nobody}");
        }
    }

    #[test]
    fn a_registrys_address_is_written_in_many_ways() {
        for (address, expected) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("https://r.example/v2/", "r.example"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(registry_of(address), expected);
        }
    }
}
