//! Metrics for Prometheus, named as Docker's where Docker has them.
//!
//! What requests do is counted as they are answered ([`record`]); what there is is counted when somebody asks.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sampan_engine::Engine;
use sampan_engine::container::state::Phase;

/// The upper bounds of actions' durations, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Action {
    action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestKind {
    method: String,
    path: String,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ContainerState {
    state: &'static str,
}

/// What requests have done.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    containers: Family<Action, Histogram, fn() -> Histogram>,
    networks: Family<Action, Histogram, fn() -> Histogram>,
    builds: Counter,
    builds_failed: Counter,
    requests: Family<RequestKind, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            containers: Family::new_with_constructor(histogram),
            networks: Family::new_with_constructor(histogram),
            builds: Counter::default(),
            builds_failed: Counter::default(),
            requests: Family::default(),
        }
    }
}

/// Counts a request. Only routes are counted by their name, so that what a client makes up fills no memory.
pub(crate) async fn record(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let began = Instant::now();
    let response = next.run(request).await;
    let seconds = began.elapsed().as_secs_f64();
    let succeeded = response.status().is_success();
    let observe = |family: &Family<Action, Histogram, fn() -> Histogram>, action| {
        if succeeded {
            family.get_or_create(&Action { action }).observe(seconds);
        }
    };
    match (&method, path.as_str()) {
        (&Method::POST, "/containers/create") => observe(&metrics.containers, "create"),
        (&Method::POST, "/containers/{id}/start") => observe(&metrics.containers, "start"),
        (&Method::DELETE, "/containers/{id}") => observe(&metrics.containers, "delete"),
        (&Method::GET, "/containers/{id}/changes") => observe(&metrics.containers, "changes"),
        (&Method::POST, "/commit") => observe(&metrics.containers, "commit"),
        (&Method::POST, "/networks/create") => observe(&metrics.networks, "create"),
        (&Method::POST, "/networks/{id}/connect") => observe(&metrics.networks, "connect"),
        (&Method::POST, "/networks/{id}/disconnect") => observe(&metrics.networks, "disconnect"),
        (&Method::POST, "/build") => {
            metrics.builds.inc();
            if !succeeded {
                metrics.builds_failed.inc();
            }
        }
        _ => {}
    }
    let code = response.status().as_u16();
    metrics.requests.get_or_create(&RequestKind { method: method.to_string(), path, code }).inc();
    response
}

/// Serves `/metrics` at `address` as long as the daemon lives.
///
/// # Errors
/// If the address can't be listened on.
pub(crate) async fn serve(address: std::net::SocketAddr, engine: Engine, metrics: Metrics) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics on `{address}`"))?;
    tracing::info!(%address, "serving metrics");
    let text = move || {
        let (engine, metrics) = (engine.clone(), metrics.clone());
        async move {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], write(&engine, &metrics))
        }
    };
    let router = Router::new().route("/metrics", get(text));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}

fn write(engine: &Engine, metrics: &Metrics) -> String {
    let mut registry = Registry::with_prefix("engine_daemon");
    registry.register(
        "container_actions_seconds",
        "How long operations on containers take",
        metrics.containers.clone(),
    );
    registry.register(
        "network_actions_seconds",
        "How long operations on networks take",
        metrics.networks.clone(),
    );
    registry.register("builds_triggered", "Builds that were asked for", metrics.builds.clone());
    registry.register("builds_failed", "Builds that could not begin", metrics.builds_failed.clone());
    registry.register("http_requests", "Answers by route and status", metrics.requests.clone());
    let states = Family::<ContainerState, Gauge>::default();
    let views = engine.containers();
    for (state, matches) in [
        ("running", (|p| matches!(p, Phase::Running { .. })) as fn(&Phase) -> bool),
        ("paused", |p| matches!(p, Phase::Paused { .. })),
        ("stopped", |p| !p.is_alive()),
    ] {
        let count = views.iter().filter(|view| matches(&view.record.phase)).count();
        states.get_or_create(&ContainerState { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("container_states_containers", "Containers by state", states);
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge(&mut registry, "engine_cpus_cpus", "CPUs of the host", u64::from(engine.host().cpus));
    gauge(&mut registry, "engine_memory_bytes", "Memory of the host", engine.host().memory);
    let events = Counter::<u64, AtomicU64>::default();
    events.inc_by(engine.events().count());
    registry.register("events", "Events", events);
    let mut process = Registry::with_prefix("process");
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count() as u64);
    gauge(&mut process, "open_fds", "Open descriptors of the daemon", descriptors);
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, |list| list.count() as u64);
    gauge(&mut process, "threads", "Threads of the daemon", threads);
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    let page = rustix::param::page_size() as u64;
    gauge(&mut process, "resident_memory_bytes", "Resident memory of the daemon", pages * page);
    let mut text = String::new();
    // Writing to a String can't fail. The first registry's end mark would end the whole.
    let _ = encode(&mut text, &registry);
    let text_of_engine = text.trim_end().trim_end_matches("# EOF").to_owned();
    text.clear();
    let _ = encode(&mut text, &process);
    text_of_engine + &text
}
