//! `stats`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_docker_api::container::{ContainerInspect, ContainerSummary};
use sampan_docker_api::system::Event;
use sampan_docker_api::units::{human_binary_size, human_size};
use sampan_template::Value;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::client::{Client, encode, full, query};
use crate::commands::run::container_path;
use crate::commands::{short, tell};
use crate::listing::Format;

/// `sampan stats`
#[derive(Args)]
pub(crate) struct Stats {
    /// Also containers that do not run
    #[arg(short, long)]
    all: bool,
    /// How to print: table, json, or a Go template
    #[arg(
        long,
        visible_alias = "output",
        default_value = "",
        hide_default_value = true,
        value_name = "FORMAT"
    )]
    format: String,
    /// Once, not again and again
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids; none: all that run
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,
}

const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
const HEADINGS: [(&str, &str); 9] = [
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// What the API says of a container, as far as it is shown.
#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Sample {
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    blkio_stats: Block,
    networks: Option<BTreeMap<String, Link>>,
    pids_stats: Pids,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Cpu {
    cpu_usage: CpuUsage,
    system_cpu_usage: u64,
    online_cpus: u32,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct CpuUsage {
    total_usage: u64,
    percpu_usage: Option<Vec<u64>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Memory {
    usage: u64,
    limit: u64,
    stats: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Block {
    io_service_bytes_recursive: Option<Vec<BlockEntry>>,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct BlockEntry {
    op: String,
    value: u64,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Link {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Pids {
    current: u64,
}

impl Sample {
    /// The share of one CPU that was used since the sample before.
    #[allow(clippy::cast_precision_loss)]
    fn cpu_percent(&self) -> f64 {
        let used =
            self.cpu_stats.cpu_usage.total_usage as f64 - self.precpu_stats.cpu_usage.total_usage as f64;
        let all = self.cpu_stats.system_cpu_usage as f64 - self.precpu_stats.system_cpu_usage as f64;
        let known = self.cpu_stats.cpu_usage.percpu_usage.as_ref().map_or(0, Vec::len);
        let cpus =
            if self.cpu_stats.online_cpus > 0 { f64::from(self.cpu_stats.online_cpus) } else { known as f64 };
        if used > 0.0 && all > 0.0 { used / all * cpus * 100.0 } else { 0.0 }
    }

    /// Memory in use, without files that could be dropped at once (of cgroup v1, then of v2).
    fn memory(&self) -> u64 {
        let usage = self.memory_stats.usage;
        let of = |name: &str| self.memory_stats.stats.as_ref().and_then(|s| s.get(name).copied());
        let droppable = of("total_inactive_file").or_else(|| of("inactive_file"));
        droppable.filter(|n| *n < usage).map_or(usage, |n| usage - n)
    }

    fn block(&self, letter: char) -> u64 {
        let entries = self.blkio_stats.io_service_bytes_recursive.iter().flatten();
        entries.filter(|e| e.op.to_lowercase().starts_with(letter)).map(|e| e.value).sum()
    }
}

/// A container among those that are shown.
struct Shown {
    asked: String,
    id: String,
    name: String,
    sample: Option<Sample>,
}

impl Shown {
    fn row(&self, whole: bool, table: bool) -> Value {
        let id = if whole { self.id.as_str() } else { short(&self.id) };
        let nothing = Sample::default();
        let sample = self.sample.as_ref().unwrap_or(&nothing);
        let (used, limit) = (sample.memory(), sample.memory_stats.limit);
        #[allow(clippy::cast_precision_loss)]
        let share = if limit > 0 { used as f64 / limit as f64 * 100.0 } else { 0.0 };
        let links = || sample.networks.iter().flat_map(BTreeMap::values);
        let received: u64 = links().map(|l| l.rx_bytes).sum();
        let sent: u64 = links().map(|l| l.tx_bytes).sum();
        // Until there is a sample there is nothing to show.
        let known =
            |text: String| Value::from(if self.sample.is_none() && table { "--".to_owned() } else { text });
        Value::record([
            (
                "BlockIO",
                known(format!("{} / {}", human_size(sample.block('r')), human_size(sample.block('w')))),
            ),
            ("CPUPerc", known(format!("{:.2}%", sample.cpu_percent()))),
            ("Container", Value::from(if whole { self.id.as_str() } else { self.asked.as_str() })),
            ("ID", Value::from(id)),
            ("MemPerc", known(format!("{share:.2}%"))),
            ("MemUsage", known(format!("{} / {}", human_binary_size(used), human_binary_size(limit)))),
            ("Name", Value::from(self.name.trim_start_matches('/'))),
            ("NetIO", known(format!("{} / {}", human_size(received), human_size(sent)))),
            ("PIDs", known(sample.pids_stats.current.to_string())),
        ])
    }
}

/// What comes from the tasks that listen.
enum News {
    Sample(String, Box<Sample>),
    /// It does not run any more.
    Ended(String),
    Started(String),
}

pub(crate) async fn stats(client: &Client, command: Stats) -> Result<ExitCode> {
    let given = crate::settings::format("statsFormat", &command.format, false);
    let format = Format::parse(&given, TABLE)?;
    let mut shown: Vec<Shown> = Vec::new();
    let every = command.names.is_empty();
    if every {
        let path = format!("/containers/json{}", query(&[("all", if command.all { "1" } else { "" })]));
        let containers: Vec<ContainerSummary> = client.get(&path).await?;
        shown.extend(containers.into_iter().map(|c| Shown {
            asked: short(&c.id).to_owned(),
            name: c.names.first().cloned().unwrap_or_default(),
            id: c.id,
            sample: None,
        }));
    } else {
        for name in &command.names {
            let c: ContainerInspect = client.get(&container_path(name, "json")).await?;
            shown.push(Shown { asked: name.clone(), id: c.id, name: c.name, sample: None });
        }
    }
    if command.no_stream {
        return once(client, &command, &format, shown).await;
    }
    let (sender, mut news) = mpsc::channel(64);
    for one in &shown {
        listen(client, &one.id, &sender);
    }
    if every {
        listen_for_starts(client, &sender);
    }
    let redraw = std::io::stdout().is_terminal();
    draw(&format, &shown, command.no_trunc, redraw)?;
    while let Some(first) = news.recv().await {
        let mut next = Some(first);
        while let Some(one) = next {
            match one {
                News::Sample(id, sample) => {
                    if let Some(known) = shown.iter_mut().find(|s| s.id == id) {
                        known.sample = Some(*sample);
                    }
                }
                News::Ended(id) if every && !command.all => shown.retain(|s| s.id != id),
                News::Ended(id) => {
                    if let Some(known) = shown.iter_mut().find(|s| s.id == id) {
                        known.sample = Some(Sample::default());
                    }
                }
                News::Started(id) => {
                    let inspect = client.get::<ContainerInspect>(&container_path(&id, "json")).await;
                    // It may have gone by now.
                    let Ok(c) = inspect else { break };
                    if !shown.iter().any(|s| s.id == id) {
                        shown.push(Shown {
                            asked: short(&id).to_owned(),
                            name: c.name,
                            id: c.id,
                            sample: None,
                        });
                    }
                    listen(client, &id, &sender);
                }
            }
            // What has come meanwhile is drawn with it.
            next = news.try_recv().ok();
        }
        draw(&format, &shown, command.no_trunc, redraw)?;
        if !every && shown.is_empty() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(format: &Format, shown: &[Shown], whole: bool, redraw: bool) -> Result<()> {
    let rows: Vec<Value> = shown.iter().map(|s| s.row(whole, matches!(format, Format::Table(_)))).collect();
    let mut text = format.render(&HEADINGS, &rows)?;
    if redraw {
        // From the top, each line to its end, and nothing below.
        text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

async fn once(client: &Client, command: &Stats, format: &Format, mut shown: Vec<Shown>) -> Result<ExitCode> {
    let asked = shown.iter().map(|one| {
        let path = container_path(&one.id, "stats?stream=0");
        async move { client.get::<Sample>(&path).await }
    });
    let mut code = ExitCode::SUCCESS;
    let answers = futures_util::future::join_all(asked).await;
    for (one, answer) in shown.iter_mut().zip(answers) {
        match answer {
            Ok(sample) => one.sample = Some(sample),
            Err(error) => code = crate::commands::fail(&error),
        }
    }
    draw(format, &shown, command.no_trunc, false)?;
    Ok(code)
}

/// Tells what a container uses until it ends.
fn listen(client: &Client, id: &str, sender: &mpsc::Sender<News>) {
    let (client, id, sender) = (client.clone(), id.to_owned(), sender.clone());
    tokio::spawn(async move {
        let path = container_path(&id, "stats?stream=1");
        match client.request(Method::GET, &path, full(""), "application/json").await {
            Ok(answer) => {
                let mut lines = Lines { body: answer.into_body(), rest: Vec::new() };
                while let Some(sample) = lines.next::<Sample>().await {
                    // Once it has ended there are samples without anything in them.
                    let runs = sample.cpu_stats.system_cpu_usage > 0 || sample.memory_stats.limit > 0;
                    if !runs || sender.send(News::Sample(id.clone(), Box::new(sample))).await.is_err() {
                        break;
                    }
                }
            }
            Err(error) => tell(format_args!("sampan: {error:#}")),
        }
        // If nobody listens any more, nobody misses it.
        let _ = sender.send(News::Ended(id)).await;
    });
}

fn listen_for_starts(client: &Client, sender: &mpsc::Sender<News>) {
    let (client, sender) = (client.clone(), sender.clone());
    tokio::spawn(async move {
        let filters = encode(r#"{"type":["container"],"event":["start"]}"#);
        let path = format!("/events?filters={filters}");
        let Ok(answer) = client.request(Method::GET, &path, full(""), "application/json").await else {
            return;
        };
        let mut lines = Lines { body: answer.into_body(), rest: Vec::new() };
        while let Some(event) = lines.next::<Event>().await {
            if sender.send(News::Started(event.actor.id)).await.is_err() {
                return;
            }
        }
    });
}

/// JSON values, one after the other, out of a body.
pub(crate) struct Lines {
    pub(crate) body: hyper::body::Incoming,
    pub(crate) rest: Vec<u8>,
}

impl Lines {
    /// The next value; none at the end, or where the body is cut off.
    pub(crate) async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).ok();
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_reckoned_as_docker_does() {
        let text = r#"{
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3145728, "limit": 8388608, "stats": {"total_inactive_file": 1048576}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 1000}, {"op": "write", "value": 5}]},
            "networks": {"eth0": {"rx_bytes": 10, "tx_bytes": 20}, "eth1": {"rx_bytes": 1, "tx_bytes": 2}},
            "pids_stats": {"current": 7}}"#;
        let sample = serde_json::from_str(text).unwrap();
        let shown = Shown {
            asked: "c1".into(),
            id: "0123456789abcdef".into(),
            name: "/c1".into(),
            sample: Some(sample),
        };
        let format = Format::parse(
            "{{.ID}} {{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}",
            TABLE,
        );
        let text = format.unwrap().render(&HEADINGS, &[shown.row(false, false)]).unwrap();
        assert_eq!(text, "0123456789ab c1 40.00% 2MiB / 8MiB 25.00% 11B / 22B 1kB / 5B 7\n");
    }
}
