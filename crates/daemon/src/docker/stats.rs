//! The route of what containers use.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use sampan_base::{Class, Timestamp};
use sampan_docker_api::stats as wire;
use sampan_engine::container::stats::{BlkioEntry, Usage};
use sampan_engine::{Engine, EngineError};
use tokio::time::{Duration, MissedTickBehavior};

use super::containers::channel_body;
use super::error::Answer;
use super::{Query, is_on};

/// How often a stream has a line.
const PERIOD: Duration = Duration::from_secs(1);
/// What Docker writes where there is no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// One line, with what was before it if that is known.
fn show(id: &str, name: &str, usage: Option<&Usage>, before: Option<&Usage>) -> wire::Stats {
    let base = wire::Stats {
        read: NO_TIME.to_owned(),
        preread: NO_TIME.to_owned(),
        name: format!("/{name}"),
        id: id.to_owned(),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        ..wire::Stats::default()
    };
    let time = |usage: &Usage| usage.at.map_or_else(|| NO_TIME.to_owned(), |at: Timestamp| at.to_string());
    let Some(usage) = usage else { return base };
    let entries = |list: &[BlkioEntry]| {
        let row = |e: &BlkioEntry| wire::BlkioEntry {
            major: e.major,
            minor: e.minor,
            op: e.operation.clone(),
            value: e.value,
        };
        Some(list.iter().map(row).collect())
    };
    // Docker's numbers of v2 know nothing of the rest, those of v1 show it empty.
    let nothing = || if usage.unified { None } else { Some(Vec::new()) };
    wire::Stats {
        read: time(usage),
        preread: before.map_or_else(|| NO_TIME.to_owned(), time),
        pids_stats: wire::PidsStats { current: usage.pids.0, limit: usage.pids.1 },
        blkio_stats: wire::BlkioStats {
            io_service_bytes_recursive: entries(&usage.blkio.bytes),
            io_serviced_recursive: if usage.unified { None } else { entries(&usage.blkio.operations) },
            io_queue_recursive: nothing(),
            io_service_time_recursive: nothing(),
            io_wait_time_recursive: nothing(),
            io_merged_recursive: nothing(),
            io_time_recursive: nothing(),
            sectors_recursive: nothing(),
        },
        cpu_stats: cpu(usage),
        memory_stats: wire::MemoryStats {
            usage: usage.memory.usage,
            max_usage: usage.memory.max_usage,
            stats: usage.memory.stats.clone(),
            failcnt: usage.memory.failures,
            limit: usage.memory.limit,
        },
        networks: usage
            .networks
            .iter()
            .map(|(name, n)| {
                let counters = wire::NetworkStats {
                    rx_bytes: n.rx_bytes,
                    rx_packets: n.rx_packets,
                    rx_errors: n.rx_errors,
                    rx_dropped: n.rx_dropped,
                    tx_bytes: n.tx_bytes,
                    tx_packets: n.tx_packets,
                    tx_errors: n.tx_errors,
                    tx_dropped: n.tx_dropped,
                };
                (name.clone(), counters)
            })
            .collect(),
        ..base
    }
}

fn cpu(usage: &Usage) -> wire::CpuStats {
    wire::CpuStats {
        cpu_usage: wire::CpuUsage {
            total_usage: usage.cpu.total,
            percpu_usage: usage.cpu.per_cpu.clone(),
            usage_in_kernelmode: usage.cpu.kernel,
            usage_in_usermode: usage.cpu.user,
        },
        system_cpu_usage: usage.host_cpu,
        online_cpus: usage.online_cpus,
        throttling_data: wire::ThrottlingData {
            periods: usage.cpu.periods,
            throttled_periods: usage.cpu.throttled_periods,
            throttled_time: usage.cpu.throttled_time,
        },
    }
}

/// What the container uses now; nothing if it does not run.
async fn usage(engine: &Engine, id: &str) -> sampan_engine::Result<Option<Usage>> {
    match engine.usage(id).await {
        Ok(usage) => Ok(Some(usage)),
        Err(error @ EngineError::NoSuchContainer { .. }) => Err(error),
        Err(error) if error.class() == Class::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

fn line(stats: &wire::Stats) -> Bytes {
    // Plain numbers and text: they can be encoded.
    let mut bytes = serde_json::to_vec(stats).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

pub(crate) async fn stats(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Response> {
    let record = engine.container(&id)?.record;
    let json = [(header::CONTENT_TYPE, "application/json")];
    let stream = query.get("stream").is_none_or(|text| is_on(Some(text)));
    let mut before = usage(&engine, &record.id).await?;
    if !stream {
        if is_on(query.get("one-shot")) || before.is_none() {
            let stats = show(&record.id, &record.name, before.as_ref(), None);
            return Ok((json, Body::from(line(&stats))).into_response());
        }
        tokio::time::sleep(PERIOD).await;
        let now = usage(&engine, &record.id).await?;
        let stats = show(&record.id, &record.name, now.as_ref(), before.as_ref());
        return Ok((json, Body::from(line(&stats))).into_response());
    }
    let (sender, body) = channel_body();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once, with nothing before it.
        ticks.tick().await;
        let first = show(&record.id, &record.name, before.as_ref(), None);
        if sender.send(line(&first)).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            // It has been removed: the stream ends.
            let Ok(now) = usage(&engine, &record.id).await else { return };
            let stats = show(&record.id, &record.name, now.as_ref(), before.as_ref());
            if sender.send(line(&stats)).await.is_err() {
                return;
            }
            before = now;
        }
    });
    Ok((json, body).into_response())
}
