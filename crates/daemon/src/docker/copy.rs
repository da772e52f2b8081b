//! The routes of files copied out of and into containers.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use http::{HeaderName, Request, StatusCode, header};
use sampan_docker_api::container::PathStat;
use sampan_engine::Engine;
use sampan_engine::copy::{self, CopyIn};

use super::containers::{ChannelWriter, archive_body};
use super::error::Answer;
use super::images::body_reader;
use super::{Query, is_on};

const STAT_HEADER: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

fn path(query: &Query) -> &str {
    query.get("path").map_or("", String::as_str)
}

fn show(stat: &copy::PathStat) -> PathStat {
    PathStat {
        name: stat.name.clone(),
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: go_mode(stat.mode),
        mtime: stat.changed.to_string(),
        link_target: stat.link_target.clone(),
    }
}

/// Kind and permissions in Go's bits.
fn go_mode(mode: u32) -> u32 {
    const FORMAT: u32 = 0o170_000;
    let kind = match mode & FORMAT {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let flags = [(0o4000, 23), (0o2000, 22), (0o1000, 20)];
    let flags = flags.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, to)| all | 1 << to);
    kind | flags | mode & 0o777
}

fn stat_header(stat: &copy::PathStat) -> [(HeaderName, String); 1] {
    // Plain numbers and text: they can be encoded.
    let json = serde_json::to_vec(&show(stat)).unwrap_or_default();
    [(STAT_HEADER, base64::engine::general_purpose::STANDARD.encode(json))]
}

pub(crate) async fn stat(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let stat = engine.path_stat(&id, path(&query)).await?;
    Ok((StatusCode::OK, stat_header(&stat)).into_response())
}

pub(crate) async fn get(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let found = engine.copy_out(&id, path(&query)).await?;
    let headers = stat_header(&found.stat);
    let (sender, body) = archive_body();
    tokio::spawn(async move {
        if let Err(error) = found.write(Box::new(ChannelWriter::new(sender.clone()))).await {
            tracing::warn!(container = id, error = sampan_base::chain(&error), "copying out failed");
            // A client that has gone knows already.
            let _ = sender.send(Err(std::io::Error::other("copying out failed"))).await;
        }
    });
    Ok((headers, [(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

pub(crate) async fn put(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
    request: Request<Body>,
) -> Answer<StatusCode> {
    let how = CopyIn {
        keep_kinds: is_on(query.get("noOverwriteDirNonDir")),
        as_user: is_on(query.get("copyUIDGID")),
    };
    engine.copy_in(&id, path(&query), how, body_reader(request)).await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o040_755), 2_147_484_141);
        assert_eq!(go_mode(0o100_644), 420);
        assert_eq!(go_mode(0o120_777), 0x0800_01ff);
        assert_eq!(go_mode(0o104_755), 0x0080_01ed);
        assert_eq!(go_mode(0o020_666), 0x0420_01b6);
    }
}
