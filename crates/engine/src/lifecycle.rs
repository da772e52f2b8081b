//! The verbs on a container after its creation: start, stop, kill, wait, remove, …; and what can be asked about it.

use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::attach::Streams;
use crate::container::owner::publish;
use crate::container::state::{Denial, Phase, Verb};
use crate::container::{Live, Request, View, run};
use crate::error::{EngineError, Result};
use crate::events::EventKind;
use crate::logs::{self, LogQuery, LogReader};
use crate::metadata::ContainerRecord;
use crate::{Engine, blocking};

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitCondition {
    /// It does not run (it may have ended long ago, or never have started).
    NotRunning,
    /// The end of the run that goes on, or of the next one.
    NextExit,
    /// It is gone.
    Removed,
}

/// The seconds that a container gets to end itself.
const STOP_SECONDS: i64 = 10;

impl Engine {
    /// All containers, the newest first.
    pub fn containers(&self) -> Vec<View> {
        let mut views: Vec<View> = self.inner.containers().all().iter().map(|h| h.snapshot()).collect();
        views.sort_by_key(|v| std::cmp::Reverse(v.record.created));
        views
    }

    /// The container of this id, name or unique beginning of the id.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn container(&self, text: &str) -> Result<View> {
        Ok(self.inner.find_container(text)?.snapshot())
    }

    /// The ids of a container's running execs.
    pub fn running_execs(&self, container_id: &str) -> Vec<String> {
        self.inner.execs.running(container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// If it already runs, or can't be started.
    pub async fn start(&self, text: &str, console: Option<(u32, u32)>) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        handle.ask(|reply| Request::Start { console, reply }).await
    }

    /// Asks a container to end, and kills it if it has not after `timeout` seconds (negative: never kill; `None`: what
    /// it was created with). Returns when it has ended.
    ///
    /// # Errors
    /// If it does not run, or can't be signalled.
    pub async fn stop(&self, text: &str, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        let view = handle.settled(Verb::Stop).await?;
        let has_process = handle.ask(|reply| Request::Ending { for_good: true, reply }).await?;
        let (Some(live), true) = (view.live.clone(), has_process) else {
            // It only waited for its restart, or has ended just now.
            publish(&self.inner, &view.record, "stop", []);
            return Ok(());
        };
        let spec = &view.record.spec;
        let signal = match signal {
            Some(signal) => signal,
            None => self.stop_signal(&view).await?,
        };
        let seconds = timeout.or(spec.stop_timeout).unwrap_or(STOP_SECONDS);
        let paused = matches!(view.record.phase, Phase::Paused { .. });
        let mut watch = handle.view.clone();
        let ended = |v: &View| v.ended_runs > view.ended_runs || v.removed;
        let send = |number: i32| self.signal(&view, &live, number);
        send(signal).await?;
        if paused {
            // A frozen process gets the signal when it is thawed.
            handle.ask(|reply| Request::Resume { reply }).await?;
        }
        let within = u64::try_from(seconds).map(Duration::from_secs);
        let timely = match within {
            Ok(limit) => tokio::time::timeout(limit, watch.wait_for(ended)).await.is_ok(),
            Err(_) => watch.wait_for(ended).await.is_ok(),
        };
        if !timely {
            // Nobody refuses a first one; of a second it could be told after the end.
            if signal != 9 {
                send(9).await?;
            }
            // The sender lives as long as the container; if it goes, the container has.
            let _ = watch.wait_for(ended).await;
        }
        publish(&self.inner, &view.record, "stop", []);
        Ok(())
    }

    /// The signal that asks a container to end: its own, its image's, SIGTERM.
    async fn stop_signal(&self, view: &View) -> Result<i32> {
        if let Some(text) = &view.record.spec.stop_signal {
            return parse_signal(text);
        }
        let (inner, id) = (self.inner.clone(), view.record.image_id.clone());
        let image = blocking(move || inner.images.resolve_id(&id)).await;
        match image.map(|i| i.config.config.stop_signal) {
            Ok(text) if !text.is_empty() => parse_signal(&text),
            _ => Ok(15),
        }
    }

    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// If it can't be stopped or started.
    pub async fn restart(&self, text: &str, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
        match self.stop(text, signal, timeout).await {
            Ok(()) | Err(EngineError::Denied(Denial::AlreadyStopped { .. })) => {}
            Err(error) => return Err(error),
        }
        self.start(text, None).await?;
        let view = self.container(text)?;
        publish(&self.inner, &view.record, "restart", []);
        Ok(())
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// If it does not run, or can't be signalled.
    pub async fn kill(&self, text: &str, signal: i32) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        let view = handle.settled(Verb::Kill).await?;
        // Where the container has a signal of its own to end it, others are taken for messages, not for the end.
        let for_good = match &view.record.spec.stop_signal {
            Some(text) if signal != 9 => parse_signal(text).is_ok_and(|own| own == signal),
            _ => true,
        };
        let has_process = handle.ask(|reply| Request::Ending { for_good, reply }).await?;
        let live = match view.live.clone() {
            Some(live) if has_process => live,
            _ if matches!(view.record.phase, Phase::Restarting(_)) => return Ok(()),
            _ => return Err(Denial::NotRunning { id: view.record.id.clone() }.into()),
        };
        self.signal(&view, &live, signal).await?;
        if signal == 9 {
            let mut watch = handle.view.clone();
            // As after a stop.
            let _ = watch.wait_for(|v| v.ended_runs > view.ended_runs || v.removed).await;
        }
        Ok(())
    }

    /// Sends a signal to a container's first process and says so: first, since it may end before the sender knows more,
    /// and its end is told after what ended it.
    async fn signal(&self, view: &View, live: &Live, signal: i32) -> Result<()> {
        let number =
            u32::try_from(signal).map_err(|_| EngineError::Invalid(format!("invalid signal: {signal}")))?;
        publish(&self.inner, &view.record, "kill", [("signal", signal.to_string())]);
        match live.task.kill(None, number, false).await {
            // It has ended meanwhile.
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map_err(run::shim_failed("cannot signal the container")),
        }
    }

    /// Freezes a container's processes.
    ///
    /// # Errors
    /// If it does not run, or can't be frozen.
    pub async fn pause(&self, text: &str) -> Result<()> {
        self.inner.find_container(text)?.ask(|reply| Request::Pause { reply }).await
    }

    /// Thaws a container's processes.
    ///
    /// # Errors
    /// If it is not frozen, or can't be thawed.
    pub async fn resume(&self, text: &str) -> Result<()> {
        self.inner.find_container(text)?.ask(|reply| Request::Resume { reply }).await
    }

    /// Waits; answers the exit code. The future of the answer is made before anything else happens, so a caller that
    /// starts the container after this call returns can't miss its end.
    ///
    /// # Errors
    /// If there is no such container.
    pub fn wait(
        &self,
        text: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = i32> + Send + use<>> {
        let handle = self.inner.find_container(text)?;
        let mut watch = handle.view.clone();
        let before = watch.borrow().ended_runs;
        Ok(async move {
            let reached = |view: &View| match condition {
                // Each end of a run counts, also if its restart policy goes on with the next one.
                WaitCondition::NotRunning => {
                    view.ended_runs > before || !view.record.phase.is_on() && view.live.is_none()
                }
                WaitCondition::NextExit => view.ended_runs > before,
                WaitCondition::Removed => view.removed,
            };
            // The view stays readable after its owner has gone.
            let seen = watch.wait_for(|view| reached(view) || view.removed).await.map(|view| view.clone());
            exit_code(&seen.unwrap_or_else(|_| handle.snapshot()).record.phase)
        })
    }

    /// Removes a container; a running one only by `force`.
    ///
    /// # Errors
    /// If it runs, or can't be removed.
    pub async fn remove(&self, text: &str, force: bool, volumes: bool) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        match handle.ask(|reply| Request::Remove { force, volumes, reply }).await {
            // It went by itself (auto-remove) before its owner saw this request.
            Err(EngineError::Gone { .. }) if handle.view.borrow().removed => Ok(()),
            other => other,
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// If the name can't be one or is in use.
    pub async fn rename(&self, text: &str, name: &str) -> Result<()> {
        let handle = self.inner.find_container(text)?;
        crate::spec::check_name(name).map_err(EngineError::Invalid)?;
        let old = handle.snapshot().record.name;
        if old == name {
            return Err(EngineError::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        self.inner.containers().claim(name, &handle.id)?;
        let renamed = handle.ask(|reply| Request::Rename { name: name.to_owned(), reply }).await;
        self.inner.containers().release(if renamed.is_ok() { &old } else { name }, &handle.id);
        renamed
    }

    /// Attaches to a container's first process, now or when it starts: the stream comes when there is one. The channel
    /// closes without one if the container does not start.
    ///
    /// # Errors
    /// If there is no such container.
    pub async fn attach(
        &self,
        text: &str,
        streams: Streams,
    ) -> Result<oneshot::Receiver<std::io::Result<UnixStream>>> {
        let handle = self.inner.find_container(text)?;
        let view = handle.snapshot();
        view.record.phase.allows(Verb::Attach, &handle.id)?;
        let spec = &view.record.spec;
        let streams = Streams {
            stdin: streams.stdin && spec.open_stdin,
            stdin_once: streams.stdin && spec.open_stdin && spec.stdin_once,
            ..streams
        };
        let (reply, stream) = oneshot::channel();
        let gone = |_| EngineError::Gone { what: format!("container {}", handle.id) };
        handle.requests.send(Request::Attach { streams, reply }).await.map_err(gone)?;
        publish(&self.inner, &view.record, "attach", []);
        Ok(stream)
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn resize(&self, text: &str, rows: u32, columns: u32) -> Result<()> {
        let (_, live) = self.inner.find_container(text)?.live(Verb::Resize).await?;
        live.task.resize(None, rows, columns).await.map_err(run::shim_failed("cannot resize the terminal"))
    }

    /// Removes the containers that do not run and are `wanted` away. Answers what went and the bytes freed.
    pub async fn containers_prune(
        &self,
        wanted: impl Fn(&ContainerRecord) -> bool + Send,
    ) -> (Vec<String>, u64) {
        let (mut gone, mut bytes) = (Vec::new(), 0);
        for view in self.containers() {
            let record = &view.record;
            if record.phase.is_on() || !wanted(record) {
                continue;
            }
            let written = self.written_bytes(&record.id).await.unwrap_or(0);
            match self.remove(&record.id, false, false).await {
                Ok(()) => {
                    gone.push(view.record.id);
                    bytes += written;
                }
                // It was started or removed meanwhile.
                Err(error) => tracing::debug!(error = sampan_base::chain(&error), "not pruned"),
            }
        }
        self.inner.prune_event(EventKind::Container, bytes);
        (gone, bytes)
    }

    /// Reads a container's log.
    ///
    /// # Errors
    /// If there is no such container, or its log is not kept.
    pub async fn logs(&self, text: &str, query: LogQuery) -> Result<LogReader> {
        let handle = self.inner.find_container(text)?;
        let record = handle.snapshot().record;
        let directory = self.inner.config.container_directory(&handle.id);
        let Some((path, format)) = logs::driver::kept(&record.spec.log, &directory, &handle.id) else {
            return Err(logs::unreadable(&record.spec.log.driver));
        };
        if let Phase::Running { started_at, .. } = record.phase
            && query.first_words
            && !query.follow
        {
            logs::first_words(started_at, handle.alive.clone()).await;
        }
        LogReader::open(&path, format, query, handle.alive.clone()).await
    }

    /// The file that a container's log is in; none if it is in none that others can read.
    pub fn log_path(&self, id: &str) -> Option<std::path::PathBuf> {
        let log = self.inner.find_container(id).ok()?.snapshot().record.spec.log;
        let directory = self.inner.config.container_directory(id);
        let (path, format) = logs::driver::kept(&log, &directory, id)?;
        (format == sampan_rpc::log::LogFormat::JsonFile).then_some(path)
    }
}

/// The exit code of the last run, or of the attempt at one.
pub(crate) fn exit_code(phase: &Phase) -> i32 {
    match phase {
        Phase::Exited(exit) | Phase::Restarting(exit) => exit.code,
        Phase::Created { error: Some(failure) } => failure.exit_code,
        _ => 0,
    }
}

/// A signal's number, from `9`, `KILL` or `SIGKILL`.
///
/// # Errors
/// If there is no such signal.
pub fn parse_signal(text: &str) -> Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let invalid = || EngineError::Invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Real-time signals as glibc numbers them: the first two of the kernel's 32 to 64 are its own.
    let real_time = |base: i32, rest: &str, sign: i32| match rest {
        "" => Some(base),
        _ => rest.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| base + sign * n),
    };
    let number = match name {
        "CLD" => Some(17),
        "POLL" => Some(29),
        "IOT" => Some(6),
        _ => NAMES
            .iter()
            .position(|n| *n == name)
            .and_then(|i| i32::try_from(i + 1).ok())
            .or_else(|| name.strip_prefix("RTMIN").and_then(|r| real_time(34, r.trim_start_matches('+'), 1)))
            .or_else(|| {
                name.strip_prefix("RTMAX").and_then(|r| real_time(64, r.trim_start_matches('-'), -1))
            }),
    };
    number.ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SYS", 31)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+99"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
