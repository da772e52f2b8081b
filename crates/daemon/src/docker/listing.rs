//! The listing of containers, its filters, and the prune of those that do not run.

use std::ops::RangeInclusive;

use axum::Json;
use axum::extract::State;
use regex_lite::Regex;
use sampan_base::Timestamp;
use sampan_docker_api::container::{ContainerSummary, ContainersPruned};
use sampan_engine::container::View;
use sampan_engine::metadata::ContainerRecord;
use sampan_engine::spec::{MountSource, Port};
use sampan_engine::{Engine, EngineError};

use super::containers::number;
use super::error::{Answer, ApiError};
use super::filters::Filters;
use super::images::until;
use super::show;
use super::{Query, is_on, networks};

const FILTERS: [&str; 15] = [
    "id",
    "name",
    "status",
    "label",
    "ancestor",
    "exited",
    "before",
    "since",
    "volume",
    "network",
    "health",
    "publish",
    "expose",
    "is-task",
    "isolation",
];
const STATUSES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

pub(crate) async fn list(State(engine): State<Engine>, query: Query) -> Answer<Json<Vec<ContainerSummary>>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &FILTERS)?;
    let limit: i64 = number(&query, "limit")?.unwrap_or(0);
    // With a status filter the listing is not of running ones only, as in Docker.
    let all = is_on(query.get("all")) || limit > 0 || filters.has("status") || filters.has("exited");
    let views = engine.containers();
    let wanted = Wanted::parse(&engine, &filters, &views).await?;
    let now = Timestamp::now();
    let volumes = engine.config().root.join("volumes");
    let rows = views
        .iter()
        .filter(|view| all || view.record.phase.is_on())
        .filter(|view| wanted.matches(view))
        .map(|view| show::summary(view, &volumes, now));
    let limit = usize::try_from(limit).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
    let mut rows: Vec<ContainerSummary> = rows.take(limit).collect();
    if is_on(query.get("size")) {
        for row in &mut rows {
            (row.size_rw, row.size_root_fs) = sizes(&engine, &row.id, &row.image_id).await;
        }
    }
    Ok(Json(rows))
}

/// Bytes that a container wrote, and these with its image's. What can't be sized (its layer is lost) has no size.
pub(crate) async fn sizes(engine: &Engine, id: &str, image: &str) -> (Option<i64>, Option<i64>) {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let Ok(written) = engine.written_bytes(id).await.map(signed) else { return (None, None) };
    let image = engine.image(image).await.map_or(0, |image| signed(image.size));
    (Some(written), Some(written.saturating_add(image)))
}

/// Filters, with what they need looked up once.
struct Wanted<'a> {
    filters: &'a Filters,
    names: Vec<Regex>,
    ids: Vec<Regex>,
    exit_codes: Vec<i32>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Vec<String>,
    published: Vec<PortRange>,
    exposed: Vec<PortRange>,
}

impl<'a> Wanted<'a> {
    async fn parse(engine: &Engine, filters: &'a Filters, views: &[View]) -> Answer<Wanted<'a>> {
        let one_of = |key: &str, known: &[&str]| match filters
            .values(key)
            .iter()
            .find(|v| !known.contains(&v.as_str()))
        {
            Some(other) => Err(ApiError::invalid(format!("invalid filter '{key}={other}'"))),
            None => Ok(()),
        };
        one_of("status", &STATUSES)?;
        if let Some(other) = filters.values("health").iter().find(|v| !HEALTH.contains(&v.as_str())) {
            return Err(ApiError::invalid(format!("Unrecognised filter value for health: {other}")));
        }
        one_of("is-task", &["true", "false", "1", "0"])?;
        one_of("isolation", &["", "default"])?;
        let pattern = |text: &String| {
            Regex::new(text)
                .map_err(|_| ApiError::invalid(format!("invalid filter: bad regular expression {text:?}")))
        };
        let code = |text: &String| {
            text.parse().map_err(|_| ApiError::invalid(format!("invalid filter 'exited={text}'")))
        };
        let bound = |key: &str| -> Answer<Option<Timestamp>> {
            let Some(text) = filters.one(key) else { return Ok(None) };
            let names =
                |v: &&View| v.record.id.starts_with(text) || v.record.name == text.trim_start_matches('/');
            let found = views.iter().find(names);
            let found = found.ok_or_else(|| EngineError::NoSuchContainer { name: text.to_owned() })?;
            Ok(Some(found.record.created))
        };
        Ok(Wanted {
            names: filters.values("name").iter().map(pattern).collect::<Answer<_>>()?,
            ids: filters.values("id").iter().map(pattern).collect::<Answer<_>>()?,
            exit_codes: filters.values("exited").iter().map(code).collect::<Answer<_>>()?,
            before: bound("before")?,
            since: bound("since")?,
            ancestors: ancestors(engine, filters).await,
            published: filters
                .values("publish")
                .iter()
                .map(|t| PortRange::parse(t))
                .collect::<Answer<_>>()?,
            exposed: filters.values("expose").iter().map(|t| PortRange::parse(t)).collect::<Answer<_>>()?,
            filters,
        })
    }

    fn matches(&self, view: &View) -> bool {
        let (record, filters) = (&view.record, self.filters);
        let spec = &record.spec;
        let named = |pattern: &Regex| {
            pattern.is_match(&record.name) || pattern.is_match(&format!("/{}", record.name))
        };
        let any_or_none =
            |list: &[Regex], test: &dyn Fn(&Regex) -> bool| list.is_empty() || list.iter().any(test);
        let network = |text: &str| {
            let shown = networks::settings(view).networks;
            shown.iter().any(|(name, e)| name == text || !text.is_empty() && e.network_id.starts_with(text))
                || spec.endpoints.iter().any(|(id, wish)| wish.network == text || id.starts_with(text))
        };
        let volume = |text: &str| {
            spec.mounts.iter().any(|m| {
                m.target == text
                    || match &m.source {
                        MountSource::Volume { name, .. } => name == text,
                        MountSource::Bind { path, .. } => path.to_str() == Some(text),
                        MountSource::Tmpfs { .. } | MountSource::Image { .. } => false,
                    }
            })
        };
        let in_ranges = |ranges: &[PortRange], mut ports: Box<dyn Iterator<Item = Port> + '_>| {
            ranges.is_empty() || ports.any(|port| ranges.iter().any(|range| range.contains(port)))
        };
        any_or_none(&self.ids, &|pattern| pattern.is_match(&record.id))
            && any_or_none(&self.names, &named)
            && self.before.is_none_or(|t| record.created < t)
            && self.since.is_none_or(|t| record.created > t)
            && filters.any("status", |v| show::status_word(&record.phase) == v)
            && filters.any("health", |v| record.health.as_ref().map_or("none", |h| h.status.word()) == v)
            // There are no tasks of a swarm here.
            && filters.any("is-task", |v| matches!(v, "false" | "0"))
            && filters.labels(&spec.labels)
            && (self.exit_codes.is_empty()
                || record.phase.exit().is_some_and(|exit| self.exit_codes.contains(&exit.code)))
            && filters.any("network", network)
            && filters.any("volume", volume)
            && (!filters.has("ancestor") || self.ancestors.contains(&record.image_id))
            && in_ranges(&self.exposed, Box::new(spec.exposed.iter().copied()))
            && in_ranges(&self.published, Box::new(published(view).into_iter()))
    }
}

/// The host's ports that lead to a container.
fn published(view: &View) -> Vec<Port> {
    let endpoints = view.live.iter().flat_map(|live| &live.endpoints);
    let ports = endpoints.flat_map(|endpoint| &endpoint.published);
    ports.map(|publish| Port { number: publish.host_port, protocol: publish.port.protocol }).collect()
}

/// `80`, `80/udp`, `8000-8100/tcp`.
#[derive(Debug, PartialEq, Eq)]
struct PortRange {
    numbers: RangeInclusive<u16>,
    protocol: String,
}

impl PortRange {
    fn parse(text: &str) -> Answer<PortRange> {
        let invalid = || ApiError::invalid(format!("invalid filter: invalid port {text:?}"));
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let numbers = first.parse().map_err(|_| invalid())?..=last.parse().map_err(|_| invalid())?;
        Ok(PortRange { numbers, protocol: protocol.to_owned() })
    }

    fn contains(&self, port: Port) -> bool {
        self.numbers.contains(&port.number) && self.protocol == port.protocol.to_string()
    }
}

/// The ids of the images that the ancestor filter names.
async fn ancestors(engine: &Engine, filters: &Filters) -> Vec<String> {
    let mut ids = Vec::new();
    if filters.has("ancestor") {
        for image in engine.images().await.unwrap_or_default() {
            let id = image.id.to_string();
            let names = |wanted: &str| {
                let digits = wanted.trim_start_matches("sha256:");
                image.names.iter().any(|n| n.familiar() == wanted || n.familiar_repository() == wanted)
                    || !digits.is_empty() && id.trim_start_matches("sha256:").starts_with(digits)
            };
            if filters.any("ancestor", names) {
                ids.push(id);
            }
        }
    }
    ids
}

pub(crate) async fn prune(State(engine): State<Engine>, query: Query) -> Answer<Json<ContainersPruned>> {
    let filters = Filters::parse(query.get("filters").map(String::as_str), &["label", "label!", "until"])?;
    let until = until(&filters)?;
    let wanted = |record: &ContainerRecord| {
        filters.labels(&record.spec.labels) && until.is_none_or(|until| record.created < until)
    };
    let (deleted, space_reclaimed) = engine.containers_prune(wanted).await;
    Ok(Json(ContainersPruned {
        containers_deleted: (!deleted.is_empty()).then_some(deleted),
        space_reclaimed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        let port = |text: &str| text.parse::<Port>().unwrap();
        let range = |text: &str| PortRange::parse(text).unwrap();
        assert!(range("80").contains(port("80/tcp")) && !range("80").contains(port("80/udp")));
        assert!(range("8000-8100/udp").contains(port("8050/udp")));
        assert!(PortRange::parse("x").is_err() && PortRange::parse("1-").is_err());
    }
}
