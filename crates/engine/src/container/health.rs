//! Health checks: a probe now and then in a running container, and what its results say about the container's health.
//!
//! ```text
//!            success                failures in a row
//! Starting ----------> Healthy <-------------------> Unhealthy
//!     `------------------- failures in a row ------------^
//! ```
//!
//! [`Health`] is the pure part. A [`Monitor`] is a task beside the container's owner while it runs and is not frozen: it
//! waits, probes, and tells the owner, who alone changes the container. A probe is an exec like any other: it shows in
//! the events, its shim looks after it, and it is killed when it takes too long or the monitor ends.

use std::sync::Arc;
use std::time::Duration;

use sampan_base::{Timestamp, Uptime};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::container::Request;
use crate::exec::ExecSpec;
use crate::metadata::ContainerRecord;
use crate::shim::Task;
use crate::spec::HealthSpec;
use crate::{Engine, Inner};

/// How many results are kept.
const KEPT_RESULTS: usize = 5;
/// How much of a probe's output is kept, in bytes.
const KEPT_OUTPUT: usize = 4096;
/// The exit code of a probe that had none.
const NO_CODE: i32 = -1;

/// How a container fares.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing is known yet.
    Starting,
    /// The last probe succeeded, or not enough have failed since one did.
    Healthy,
    /// Too many probes in a row have failed, or nobody probes.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// What is known of a container's health.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Health {
    /// How it fares.
    pub status: HealthStatus,
    /// How many probes in a row have failed.
    pub failing_streak: u32,
    /// The last results, the newest last.
    pub log: Vec<ProbeResult>,
}

/// One probe.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// Its exit code; -1 if it had none.
    pub exit_code: i32,
    /// The beginning of what it said, or why there is no exit code.
    pub output: String,
}

impl Health {
    /// At the beginning of a run: what was known counts no more, only the log is kept.
    pub(crate) fn begin(before: Option<Health>) -> Health {
        let log = before.map(|h| h.log).unwrap_or_default();
        Health { status: HealthStatus::Starting, failing_streak: 0, log }
    }

    /// Takes the result of a probe that began when the container had run for this long.
    pub(crate) fn take(&mut self, result: ProbeResult, spec: &HealthSpec, ran: Duration) {
        let failed = result.exit_code != 0;
        if self.log.len() >= KEPT_RESULTS {
            self.log.drain(..=self.log.len() - KEPT_RESULTS);
        }
        self.log.push(result);
        if !failed {
            (self.failing_streak, self.status) = (0, HealthStatus::Healthy);
            return;
        }
        if self.status == HealthStatus::Starting && ran < duration(spec.start_period, 0) {
            return;
        }
        self.failing_streak = self.failing_streak.saturating_add(1);
        if i64::from(self.failing_streak) >= retries(spec) {
            self.status = HealthStatus::Unhealthy;
        }
    }
}

fn retries(spec: &HealthSpec) -> i64 {
    if spec.retries > 0 { spec.retries } else { 3 }
}

/// A time of the check, or what it is when it was not given.
fn duration(nanos: i64, default_seconds: u64) -> Duration {
    match u64::try_from(nanos) {
        Ok(nanos @ 1..) => Duration::from_nanos(nanos),
        _ => Duration::from_secs(default_seconds),
    }
}

/// The pause before the next probe of a container that has run for this long.
fn pause(spec: &HealthSpec, starting: bool, ran: Duration) -> Duration {
    if starting && ran < duration(spec.start_period, 0) {
        duration(spec.start_interval, 5)
    } else {
        duration(spec.interval, 30)
    }
}

/// The command of the check; `None` if there is none.
pub(crate) fn command(spec: &HealthSpec, shell: Option<&[String]>) -> Option<Vec<String>> {
    let (kind, rest) = spec.test.split_first()?;
    match kind.as_str() {
        "CMD" if !rest.is_empty() => Some(rest.to_vec()),
        "CMD-SHELL" if !rest.is_empty() => {
            let shell = shell.filter(|s| !s.is_empty()).map(<[String]>::to_vec);
            let shell = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            Some(shell.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

/// What the image says fills what the container does not say.
pub(crate) fn merge(own: Option<HealthSpec>, image: Option<HealthSpec>) -> Option<HealthSpec> {
    let (Some(mut own), Some(image)) = (own.clone(), image.clone()) else { return own.or(image) };
    if own.test.is_empty() {
        own.test = image.test;
    }
    for (mine, images) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *mine == 0 {
            *mine = images;
        }
    }
    Some(own)
}

/// What can be said against a check.
pub(crate) fn check(spec: &HealthSpec) -> Result<(), String> {
    const LEAST: i64 = 1_000_000;
    for (name, nanos) in [
        ("Interval", spec.interval),
        ("Timeout", spec.timeout),
        ("StartPeriod", spec.start_period),
        ("StartInterval", spec.start_interval),
    ] {
        if nanos != 0 && nanos < LEAST {
            return Err(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if spec.retries < 0 {
        return Err("Retries in Healthcheck cannot be negative".to_owned());
    }
    Ok(())
}

/// Probes a container until it is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// Dropped, it tells the task to end.
    _end: oneshot::Sender<()>,
}

/// What a monitor needs.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) inner: Arc<Inner>,
    pub(crate) task: Task,
    pub(crate) record: ContainerRecord,
    pub(crate) since: Uptime,
    /// Where the results go.
    pub(crate) owner: mpsc::WeakSender<Request>,
    /// Which monitor they are of.
    pub(crate) generation: u64,
}

impl Monitor {
    /// Begins to probe, if the container has a check.
    pub(crate) fn begin(watched: Watched) -> Option<Monitor> {
        let spec = watched.record.spec.health.clone()?;
        let command = command(&spec, watched.record.spec.shell.as_deref())?;
        let (end, ended) = oneshot::channel();
        tokio::spawn(watch(watched, spec, command, ended));
        Some(Monitor { _end: end })
    }
}

async fn watch(watched: Watched, spec: HealthSpec, command: Vec<String>, mut ended: oneshot::Receiver<()>) {
    let mut starting = watched.record.health.as_ref().is_none_or(|h| h.status == HealthStatus::Starting);
    loop {
        let pause = pause(&spec, starting, watched.since.elapsed());
        tokio::select! {
            _ = &mut ended => return,
            () = tokio::time::sleep(pause) => {}
        }
        let ran = watched.since.elapsed();
        let Some(result) = probe(&watched, &spec, command.clone(), &mut ended).await else { return };
        starting = starting && result.exit_code != 0;
        let Some(owner) = watched.owner.upgrade() else { return };
        if owner.send(Request::Probed { generation: watched.generation, ran, result }).await.is_err() {
            return;
        }
    }
}

/// One probe; `None` if the monitor is to end.
async fn probe(
    watched: &Watched,
    spec: &HealthSpec,
    command: Vec<String>,
    ended: &mut oneshot::Receiver<()>,
) -> Option<ProbeResult> {
    let engine = Engine { inner: Arc::clone(&watched.inner) };
    let start = Timestamp::now();
    let limit = duration(spec.timeout, 30);
    let done = |exit_code: i32, output: String| {
        Some(ProbeResult { start, end: Timestamp::now(), exit_code, output })
    };
    let exec = ExecSpec { args: command, stdout: true, stderr: true, ..ExecSpec::default() };
    let id = match engine.probe_create(&watched.record, exec) {
        Ok(id) => id,
        Err(error) => return done(NO_CODE, sampan_base::chain(&error)),
    };
    let mut output = Vec::new();
    let run = async {
        let stream = engine.exec_start_in(&id, &watched.record, &watched.task, false, None).await?;
        if let Some(stream) = stream {
            read_output(stream, &mut output).await;
        }
        engine.exec_wait(&id).await
    };
    let result = tokio::select! {
        _ = &mut *ended => None,
        result = tokio::time::timeout(limit, run) => Some(result),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let answer = match result {
        Some(Ok(Ok(code))) => done(code, text(&output)),
        Some(Ok(Err(error))) => done(NO_CODE, sampan_base::chain(&error)),
        Some(Err(_)) => {
            let said = text(&output);
            let said = if said.is_empty() { said } else { format!(": {said}") };
            done(NO_CODE, format!("Health check exceeded timeout ({}){said}", go_duration(limit)))
        }
        None => None,
    };
    engine.exec_discard(&id, &watched.task).await;
    answer
}

/// What the probe says, without the frames it comes in, and no more than is kept.
async fn read_output(mut stream: UnixStream, output: &mut Vec<u8>) {
    let mut header = [0u8; 8];
    // A stream that is cut off ends as one that ends.
    while stream.read_exact(&mut header).await.is_ok() {
        let length = u64::from(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
        let mut payload = (&mut stream).take(length);
        let mut piece = [0u8; 4096];
        while let Ok(read @ 1..) = payload.read(&mut piece).await {
            let room = KEPT_OUTPUT.saturating_sub(output.len()).min(read);
            output.extend_from_slice(&piece[..room]);
        }
    }
}

/// As Go prints a duration: `1s`, `1m30s`, `500ms`.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => format!("{millis}ms"),
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + second, 0).unwrap()
    }

    fn result(second: i64, exit_code: i32) -> ProbeResult {
        ProbeResult { start: at(second), end: at(second), exit_code, output: String::new() }
    }

    #[test]
    fn failures_count_after_the_start_period_or_the_first_success() {
        let spec = HealthSpec { start_period: 10 * SECOND, retries: 2, ..HealthSpec::default() };
        let mut health = Health::begin(None);
        let mut told = String::new();
        for (second, code) in [(1, 1), (5, 1), (11, 1), (12, 1), (13, 0), (14, 1), (15, 1), (16, 0), (17, 7)]
        {
            let ran = Duration::from_secs(i64::unsigned_abs(second));
            health.take(result(second, code), &spec, ran);
            told += &format!("{second}:{code} {} {}\n", health.status.word(), health.failing_streak);
        }
        expect_test::expect![[r#"
            1:1 starting 0
            5:1 starting 0
            11:1 starting 1
            12:1 unhealthy 2
            13:0 healthy 0
            14:1 healthy 1
            15:1 unhealthy 2
            16:0 healthy 0
            17:7 healthy 1
        "#]]
        .assert_eq(&told);
        let kept: Vec<i32> = health.log.iter().map(|r| r.exit_code).collect();
        assert_eq!(kept, [0, 1, 1, 0, 7]);
    }

    #[test]
    fn pauses_are_shorter_while_it_starts() {
        let spec = HealthSpec {
            interval: 20 * SECOND,
            start_period: 10 * SECOND,
            start_interval: SECOND,
            ..HealthSpec::default()
        };
        let seconds = |starting, ran| pause(&spec, starting, Duration::from_secs(ran)).as_secs();
        assert_eq!((seconds(true, 3), seconds(false, 3), seconds(true, 10)), (1, 20, 20));
        assert_eq!(pause(&HealthSpec::default(), true, Duration::ZERO).as_secs(), 30);
    }

    #[test]
    fn the_images_check_fills_what_is_not_said() {
        let test = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let image =
            HealthSpec { test: test(&["CMD", "a"]), interval: 5, retries: 7, ..HealthSpec::default() };
        let own = HealthSpec { retries: 1, ..HealthSpec::default() };
        let merged = merge(Some(own), Some(image.clone())).unwrap();
        assert_eq!((merged.test, merged.interval, merged.retries), (test(&["CMD", "a"]), 5, 1));
        assert_eq!(merge(None, Some(image.clone())), Some(image.clone()));
        let none = HealthSpec { test: test(&["NONE"]), ..HealthSpec::default() };
        assert_eq!(command(&merge(Some(none), Some(image)).unwrap(), None), None);
        let shell = HealthSpec { test: test(&["CMD-SHELL", "x y"]), ..HealthSpec::default() };
        assert_eq!(command(&shell, None).unwrap(), ["/bin/sh", "-c", "x y"]);
        assert!(check(&HealthSpec { timeout: 5, ..HealthSpec::default() }).unwrap_err().contains("Timeout"));
        check(&HealthSpec::default()).unwrap();
    }

    #[test]
    fn durations_read_as_gos() {
        let told = [500, 1000, 1500, 90_000, 3_600_000].map(|ms| go_duration(Duration::from_millis(ms)));
        assert_eq!(told, ["500ms", "1s", "1.5s", "1m30s", "1h0m0s"]);
    }
}
