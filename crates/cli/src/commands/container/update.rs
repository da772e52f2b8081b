//! `update`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::commands::options::{limits, restart_policy};
use crate::commands::run::container_path;
use crate::commands::{for_each, parse_size, say, tell};

/// `sampan update`
#[derive(Args)]
pub(crate) struct Update {
    /// Relative weight of disk time: 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Period of the CPU limit in microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// CPU time in each period in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Period of the real-time limit in microseconds
    #[arg(long)]
    cpu_rt_period: Option<i64>,
    /// Real time in each period in microseconds
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
    /// Relative weight of CPU time
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// Number of CPUs, such as 0.2
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// CPUs to run on: 0-3,8
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory limit, such as 64m
    #[arg(short, long, value_parser = parse_size)]
    memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, value_parser = parse_size)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together, -1: none
    #[arg(long, value_parser = parse_size, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Limit of processes, -1: none
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// When to start it again: no, always, unless-stopped, on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

/// What the daemon could not do as asked.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Updated {
    warnings: Option<Vec<String>>,
}

pub(crate) async fn update(client: &Client, command: Update) -> Result<ExitCode> {
    let mut body = Map::new();
    let numbers = [
        ("BlkioWeight", command.blkio_weight.map(i64::from)),
        ("CpuPeriod", command.cpu_period),
        ("CpuQuota", command.cpu_quota),
        ("CpuRealtimePeriod", command.cpu_rt_period),
        ("CpuRealtimeRuntime", command.cpu_rt_runtime),
        ("CpuShares", command.cpu_shares),
        ("NanoCpus", command.cpus.map(|cpus| limits::nano_cpus(Some(cpus)))),
        ("Memory", command.memory),
        ("MemoryReservation", command.memory_reservation),
        ("MemorySwap", command.memory_swap),
        ("PidsLimit", command.pids_limit),
    ];
    let texts = [("CpusetCpus", &command.cpuset_cpus), ("CpusetMems", &command.cpuset_mems)];
    body.extend(numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))));
    body.extend(
        texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value.clone()?)))),
    );
    if let Some(policy) = &command.restart {
        body.insert("RestartPolicy".to_owned(), json!(restart_policy(policy)?));
    }
    if body.is_empty() {
        bail!("you must provide one or more flags when using this command: see `sampan update --help`");
    }
    for_each(&command.names, async |name| {
        let updated: Updated = client.post_json(&container_path(name, "update"), &body).await?;
        for warning in updated.warnings.unwrap_or_default() {
            tell(format_args!("WARNING: {warning}"));
        }
        say(name)
    })
    .await
}
