//! The routes of images. Their names may hold slashes, so that the verb is split off here.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode, header};
use sampan_base::{ImageRef, Timestamp};
use sampan_docker_api::build::Progress;
use sampan_docker_api::container::{ContainerConfig, GraphDriver};
use sampan_docker_api::image::{
    HistoryRow, ImageDeleted, ImageInspect, ImageMetadata, ImageSummary, ImagesPruned, RootFs,
};
use sampan_docker_api::{IdAnswer, reading};
use sampan_engine::Engine;
use sampan_engine::images::{Image, ImageId, InvalidPlatform, NewImage, Platform, Removed};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::containers::{ChannelWriter, archive_body, json};
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::{Query, convert, is_on, show};

/// How much of an upload that nobody wants any more is still taken: what clients have under way when they read the answer.
const MOST_UNWANTED_BYTES: u64 = 64 << 20;

/// A request's body as a reader for blocking code.
///
/// What is not read of it is taken all the same when this is dropped: a connection with unread data is reset when it is
/// closed, and the client would lose the answer. So handlers that may refuse an upload make this first.
pub(crate) fn body_reader(request: Request<Body>) -> Box<dyn std::io::Read + Send> {
    let stream =
        futures_util::TryStreamExt::map_err(request.into_body().into_data_stream(), std::io::Error::other);
    let body = SyncIoBridge::new(Box::new(StreamReader::new(stream)) as AsyncBody);
    Box::new(BodyReader { body: Some(body), runtime: Handle::current() })
}

type AsyncBody = Box<dyn AsyncRead + Send + Unpin>;

struct BodyReader {
    body: Option<SyncIoBridge<AsyncBody>>,
    runtime: Handle,
}

impl std::io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.body.as_mut().map_or(Ok(0), |body| body.read(buffer))
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let mut rest = body.into_inner().take(MOST_UNWANTED_BYTES);
        // A client that has gone sends nothing more.
        self.runtime.spawn(async move { drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await) });
    }
}

/// Sends a line of progress; a client that has gone misses it.
pub(crate) async fn tell(sender: &mpsc::Sender<Bytes>, progress: Progress) {
    if let Ok(mut line) = serde_json::to_vec(&progress) {
        line.extend(b"\r\n");
        let _ = sender.send(line.into()).await;
    }
}

fn tags(image: &Image) -> Vec<String> {
    image.names.iter().filter(|n| n.tag().is_some()).map(ImageRef::familiar).collect()
}

fn digests(image: &Image) -> Vec<String> {
    image.digests.iter().map(ImageRef::familiar).collect()
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer<Json<Vec<ImageSummary>>> {
    let known = ["reference", "label", "dangling", "before", "since", "until"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let images = engine.images().await?;
    let bound = |key: &str| -> Answer<Option<Timestamp>> {
        if !filters.has(key) {
            return Ok(None);
        }
        let found = images.iter().find(|i| filters.any(key, |v| names_image(i, v)));
        let found = found.ok_or_else(|| ApiError::invalid(format!("no such image in the filter {key}")))?;
        Ok(found.created)
    };
    let (before, since) = (bound("before")?, bound("since")?);
    let until = until(&filters)?;
    let wanted = |image: &&Image| {
        let dangling = image.names.is_empty();
        let reference = |pattern: &str| image.names.iter().any(|name| matches_reference(name, pattern));
        filters.any("dangling", |v| matches!(v, "1" | "true") == dangling)
            && filters.any("reference", reference)
            && filters.labels(&image.config.config.labels)
            && before.is_none_or(|t| created(image) < t.unix_nanos())
            && since.is_none_or(|t| created(image) > t.unix_nanos())
            && until.is_none_or(|t| created(image) < t.unix_nanos())
    };
    let shared = is_on(query.get("shared-size")).then(|| shared_bytes(&images));
    let row = |image: &Image| {
        let (mut tags, mut digests) = (tags(image), digests(image));
        // Only the names that were asked for are shown.
        if filters.has("reference") {
            let asked = |name: &&ImageRef| filters.any("reference", |p| matches_reference(name, p));
            tags = image
                .names
                .iter()
                .filter(|n| n.tag().is_some())
                .filter(asked)
                .map(ImageRef::familiar)
                .collect();
        }
        if tags.is_empty() && digests.is_empty() {
            tags.push("<none>:<none>".to_owned());
            digests.push("<none>@<none>".to_owned());
        }
        ImageSummary {
            containers: -1,
            created: image.created.map_or(0, Timestamp::unix_seconds),
            id: image.id.to_string(),
            labels: (!image.config.config.labels.is_empty()).then(|| image.config.config.labels.clone()),
            repo_digests: Some(digests),
            repo_tags: Some(tags),
            shared_size: shared.as_ref().map_or(-1, |s| bytes(s[&image.id])),
            size: bytes(image.size),
            virtual_size: bytes(image.size),
            ..ImageSummary::default()
        }
    };
    Ok(Json(images.iter().filter(wanted).map(row).collect()))
}

fn created(image: &Image) -> i128 {
    image.created.map_or(0, Timestamp::unix_nanos)
}

/// The latest of the times of the filter `until`: RFC 3339, seconds since 1970, or a span back from now.
pub(crate) fn until(filters: &Filters) -> Answer<Option<Timestamp>> {
    let mut latest = None;
    for text in filters.values("until") {
        let invalid = || ApiError::invalid(format!("invalid value for the filter until: {text}"));
        let time = match text.parse::<jiff::SignedDuration>() {
            Ok(span) => {
                let seconds = Timestamp::now().unix_seconds().saturating_sub(span.as_secs());
                Timestamp::from_unix(seconds, 0).map_err(|_| invalid())?
            }
            Err(_) => match text.parse::<i64>() {
                Ok(seconds) => Timestamp::from_unix(seconds, 0).map_err(|_| invalid())?,
                Err(_) => text.parse().map_err(|_| invalid())?,
            },
        };
        latest = latest.max(Some(time));
    }
    Ok(latest)
}

/// Bytes of each image's layers that other images have, too.
pub(crate) fn shared_bytes(images: &[Image]) -> BTreeMap<ImageId, u64> {
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for layer in images.iter().flat_map(|i| &i.layers) {
        *users.entry(layer.chain_id.0.as_str()).or_default() += 1;
    }
    let shared = |image: &Image| -> u64 {
        image.layers.iter().filter(|l| users[l.chain_id.0.as_str()] > 1).map(|l| l.size).sum()
    };
    images.iter().map(|i| (i.id.clone(), shared(i))).collect()
}

fn names_image(image: &Image, text: &str) -> bool {
    text.parse::<ImageRef>().is_ok_and(|name| image.names.contains(&name))
        || image.id.to_string().trim_start_matches("sha256:").starts_with(text.trim_start_matches("sha256:"))
}

/// `debian`, `debian:book*`, `*/web`: `*` stands for any text without a slash.
fn matches_reference(name: &ImageRef, pattern: &str) -> bool {
    fn fits(text: &[u8], pattern: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => {
                let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
                (0..=end).any(|n| fits(&text[n..], rest))
            }
            Some((first, rest)) => text.first() == Some(first) && fits(&text[1..], rest),
        }
    }
    let full = name.familiar();
    fits(full.as_bytes(), pattern.as_bytes())
        || fits(name.familiar_repository().as_bytes(), pattern.as_bytes())
}

/// Splits `library/debian/json` into the name and one of the verbs.
fn split(path: &str, verbs: &[&str]) -> Answer<(String, String)> {
    let found = path.rsplit_once('/').filter(|(_, verb)| verbs.contains(verb));
    found.map(|(name, verb)| (name.to_owned(), verb.to_owned())).ok_or_else(ApiError::no_page)
}

pub(crate) async fn get(
    State(engine): State<Engine>,
    Path(path): Path<String>,
    query: Query,
) -> Answer<Response> {
    let (name, verb) = split(&path, &["json", "history", "get", "rootfs"])?;
    match verb.as_str() {
        "rootfs" => super::builds::rootfs(engine, name).await,
        "json" => {
            let image = engine.image(&name).await?;
            let told = inspect(&image);
            let parent = engine.image_parent(image).await?.map(|id| id.to_string()).unwrap_or_default();
            Ok(Json(ImageInspect { parent, ..told }).into_response())
        }
        "history" => Ok(Json(history(&engine.image(&name).await?)).into_response()),
        _ => send_archive(engine, vec![name], platform(&query)?).await,
    }
}

pub(crate) async fn post(
    State(engine): State<Engine>,
    Path(path): Path<String>,
    axum::extract::RawQuery(raw): axum::extract::RawQuery,
    query: Query,
    headers: http::HeaderMap,
) -> Answer<Response> {
    let (name, verb) = split(&path, &["tag", "push"])?;
    if verb == "push" {
        return super::registry::push(engine, &name, &query, repeated(raw.as_deref(), "index"), &headers)
            .await;
    }
    let repository = query.get("repo").map_or("", String::as_str);
    let tag = query.get("tag").filter(|t| !t.is_empty());
    engine.image_tag(&name, new_name(repository, tag)?).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub(crate) fn new_name(repository: &str, tag: Option<&String>) -> Answer<ImageRef> {
    let name: ImageRef = repository.parse().map_err(|e| invalid_reference(&e))?;
    match tag {
        Some(tag) => name.with_tag(tag).map_err(|e| invalid_reference(&e)),
        None => Ok(name),
    }
}

pub(crate) fn invalid_reference(error: &dyn std::error::Error) -> ApiError {
    ApiError::invalid(format!("invalid reference format: {error}"))
}

pub(crate) async fn delete(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    query: Query,
) -> Answer<Json<Vec<ImageDeleted>>> {
    let removed = engine.image_remove(&name, is_on(query.get("force"))).await?;
    Ok(Json(removed.into_iter().map(deleted).collect()))
}

fn deleted(removed: Removed) -> ImageDeleted {
    match removed {
        Removed::Untagged(name) => ImageDeleted { untagged: Some(name.familiar()), deleted: None },
        Removed::Deleted(id) => ImageDeleted { untagged: None, deleted: Some(id) },
    }
}

fn inspect(image: &Image) -> ImageInspect {
    let config = &image.config;
    let other = |key: &str| config.other.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: tags(image),
        repo_digests: digests(image),
        comment: config.history.last().map(|h| h.comment.clone()).unwrap_or_default(),
        created: image.created.map_or_else(String::new, |t| t.to_string()),
        container: other("container"),
        container_config: config
            .other
            .get("container_config")
            .and_then(|value| reading::from_value(value.clone()).ok())
            .unwrap_or_default(),
        docker_version: other("docker_version"),
        author: config.author.clone(),
        config: show::image_config(&config.config),
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        size: bytes(image.size),
        virtual_size: bytes(image.size),
        graph_driver: GraphDriver { data: None, name: "overlay2".to_owned() },
        root_fs: RootFs {
            kind: "layers".to_owned(),
            layers: image.layers.iter().map(|l| l.diff_id.0.to_string()).collect(),
        },
        metadata: ImageMetadata { last_tag_time: image.added.to_string() },
        ..ImageInspect::default()
    }
}

/// The newest step first; the layers' sizes belong to the steps that made some.
fn history(image: &Image) -> Vec<HistoryRow> {
    let mut layers = image.layers.iter();
    let mut rows: Vec<HistoryRow> = image
        .config
        .history
        .iter()
        .map(|step| HistoryRow {
            comment: step.comment.clone(),
            created: step.created.map_or(0, Timestamp::unix_seconds),
            created_by: step.created_by.clone(),
            id: "<missing>".to_owned(),
            size: if step.empty_layer { 0 } else { layers.next().map_or(0, |l| bytes(l.size)) },
            tags: None,
        })
        .collect();
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        first.id = image.id.to_string();
        first.tags = Some(tags(image)).filter(|t| !t.is_empty());
    }
    rows
}

/// `fromSrc=-`: the body is a root file system. `fromImage`: a pull.
pub(crate) async fn create(
    State(engine): State<Engine>,
    axum::extract::RawQuery(raw): axum::extract::RawQuery,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    let Some(source) = query.get("fromSrc") else {
        return super::registry::pull(engine, &query, request.headers()).await;
    };
    let archive = body_reader(request);
    if source != "-" {
        return Err(ApiError::unsupported("importing from a URL is not supported: send the archive"));
    }
    let repository = query.get("repo").map_or("", String::as_str);
    let tag = query.get("tag").filter(|t| !t.is_empty());
    let name = if repository.is_empty() { None } else { Some(new_name(repository, tag)?) };
    let message = query.get("message").filter(|m| !m.is_empty()).cloned();
    let new = NewImage {
        config: None,
        name,
        message: message.unwrap_or_else(|| "Imported from -".to_owned()),
        author: String::new(),
        changes: repeated(raw.as_deref(), "changes"),
    };
    // Told by the status: after the answer has begun, only by a line in it.
    sampan_engine::build::check_changes(&new.changes)?;
    let image = to_its_end(async move { engine.import(archive, new).await }).await?;
    Ok(json_lines(lines(&[Progress::status(image.id.to_string())])))
}

/// Does it even if the client goes, and answers when it is done: clients that do not read the answer's body count on that.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = sampan_engine::Result<T>> + Send + 'static,
) -> sampan_engine::Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        // Nobody aborts it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// How Docker tells of an image that was loaded.
fn loaded(image: &Image) -> Vec<String> {
    if image.names.is_empty() {
        return vec![format!("Loaded image ID: {}\n", image.id)];
    }
    image.names.iter().map(|name| format!("Loaded image: {name}\n")).collect()
}

fn lines(all: &[Progress]) -> Body {
    let mut text = Vec::new();
    for progress in all {
        // Plain values can always be written.
        text.extend(serde_json::to_vec(progress).unwrap_or_default());
        text.extend(b"\r\n");
    }
    text.into()
}

/// All values of a parameter that may come several times.
pub(crate) fn repeated(raw: Option<&str>, key: &str) -> Vec<String> {
    let pairs: Vec<(String, String)> = axum::extract::Query::try_from_uri(
        &format!("/?{}", raw.unwrap_or_default()).parse().unwrap_or_default(),
    )
    .map(|axum::extract::Query(pairs)| pairs)
    .unwrap_or_default();
    pairs.into_iter().filter(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v).collect()
}

pub(crate) fn json_lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The one platform that a request may ask for: `linux/arm64`, or as Docker's client sends it, a JSON object.
fn platform(query: &Query) -> Answer<Option<Platform>> {
    let Some(text) = query.get("platform").filter(|p| !p.is_empty()) else { return Ok(None) };
    let parsed = if text.starts_with('{') {
        serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("invalid platform: {e}")))?
    } else {
        text.parse().map_err(|e: InvalidPlatform| ApiError::invalid(e.to_string()))?
    };
    Ok(Some(parsed))
}

pub(crate) async fn load(
    State(engine): State<Engine>,
    query: Query,
    request: Request<Body>,
) -> Answer<Response> {
    let archive = body_reader(request);
    let platform = platform(&query)?;
    // Docker's answer has begun by then; it tells of failures by a line, too.
    let told = match to_its_end(async move { engine.load(archive, platform).await }).await {
        Ok(images) => images.iter().flat_map(loaded).map(Progress::stream).collect(),
        Err(error) => vec![Progress::error(sampan_base::chain(&error), None)],
    };
    Ok(json_lines(lines(&told)))
}

pub(crate) async fn save(
    State(engine): State<Engine>,
    axum::extract::RawQuery(raw): axum::extract::RawQuery,
    query: Query,
) -> Answer<Response> {
    let names = repeated(raw.as_deref(), "names");
    if names.is_empty() {
        return Err(ApiError::invalid("no image was named"));
    }
    send_archive(engine, names, platform(&query)?).await
}

async fn send_archive(engine: Engine, names: Vec<String>, platform: Option<Platform>) -> Answer<Response> {
    // Looked up before the answer begins: after that an error can only cut it off.
    for name in &names {
        let image = engine.image(name).await?;
        let is = Platform {
            architecture: image.config.architecture,
            os: image.config.os,
            variant: image.config.variant,
            ..Platform::default()
        };
        if let Some(wanted) = platform.as_ref().filter(|wanted| !is.fits(wanted)) {
            let message = format!("the image {name} is for {is}, not for {wanted}");
            return Err(ApiError { status: StatusCode::NOT_FOUND, message });
        }
    }
    let (sender, body) = archive_body();
    tokio::spawn(async move {
        let writer = ChannelWriter::new(sender.clone());
        if let Err(error) = engine.save(names, platform, Box::new(writer)).await {
            tracing::warn!(error = sampan_base::chain(&error), "saving images failed");
            // A client that has gone knows already.
            let _ = sender.send(Err(std::io::Error::other("saving the images failed"))).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer<Json<ImagesPruned>> {
    let known = ["dangling", "until", "label", "label!"];
    let filters = Filters::parse(query.get("filters").map(String::as_str), &known)?;
    let all = filters.has("dangling") && filters.any("dangling", |v| matches!(v, "0" | "false"));
    let until = until(&filters)?;
    let wanted = |image: &Image| {
        (all || image.names.is_empty())
            && filters.labels(&image.config.config.labels)
            && until.is_none_or(|t| created(image) < t.unix_nanos())
    };
    let (removed, space_reclaimed) = engine.images_prune(wanted).await?;
    Ok(Json(ImagesPruned {
        images_deleted: (!removed.is_empty()).then(|| removed.into_iter().map(deleted).collect()),
        space_reclaimed,
    }))
}

pub(crate) async fn commit(
    State(engine): State<Engine>,
    axum::extract::RawQuery(raw): axum::extract::RawQuery,
    query: Query,
    body: Bytes,
) -> Answer<(StatusCode, Json<IdAnswer>)> {
    let container = query.get("container").map_or("", String::as_str);
    let repository = query.get("repo").map_or("", String::as_str);
    let tag = query.get("tag").filter(|t| !t.is_empty());
    let text = |key: &str| query.get(key).cloned().unwrap_or_default();
    // The body may give another configuration than the container's; docker's command line sends an empty one.
    let body: ContainerConfig = json(&body)?;
    let config = (body != ContainerConfig::default()).then(|| convert::image_process(body));
    let new = NewImage {
        config,
        name: if repository.is_empty() { None } else { Some(new_name(repository, tag)?) },
        message: text("comment"),
        author: text("author"),
        changes: repeated(raw.as_deref(), "changes")
            .iter()
            .flat_map(|c| c.lines().map(str::to_owned))
            .collect(),
    };
    let pause = query.get("pause").is_none_or(|p| is_on(Some(p)));
    let image = engine.commit(container, pause, new).await?;
    Ok((StatusCode::CREATED, Json(IdAnswer { id: image.id.to_string() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_keep_them() {
        let split = |path| split(path, &["json", "history"]).map_err(|e| e.message);
        assert_eq!(
            split("127.0.0.1:5000/a/b:1/json").unwrap(),
            ("127.0.0.1:5000/a/b:1".into(), "json".into())
        );
        assert!(split("json").is_err() && split("a/b").is_err());
    }

    #[test]
    fn references_match_by_pattern() {
        let name: ImageRef = "me/web:1.2".parse().unwrap();
        for pattern in ["me/web", "me/web:1.2", "me/web:1*", "*/web", "*/*:*"] {
            assert!(matches_reference(&name, pattern), "{pattern}");
        }
        for pattern in ["web", "*", "me/web:2", "me/*:2"] {
            assert!(!matches_reference(&name, pattern), "{pattern}");
        }
    }

    #[test]
    fn a_parameter_may_come_several_times() {
        assert_eq!(repeated(Some("changes=CMD+a&x=1&changes=ENV%20b%3Dc"), "changes"), ["CMD a", "ENV b=c"]);
    }
}
