//! The output of many containers, each line with whose it is: `compose logs` and an attached `up`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use sampan_compose::plan::Plan;
use sampan_docker_api::container::{ContainerInspect, WaitAnswer};
use sampan_docker_api::stream::Demultiplexer;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::converge::{self, Member};
use super::project::{Session, name_of, number_of, service_of};
use super::report::{Report, colours};
use crate::client::{Client, full, query};
use crate::commands::container::logs::point_in_time;
use crate::commands::run::container_path;
use crate::commands::run::exit_code;
use crate::commands::tell;

/// How lines are shown.
#[derive(Clone, Debug)]
pub(super) struct Style {
    pub(super) colours: bool,
    pub(super) prefix: bool,
    pub(super) timestamps: bool,
}

/// When an attached `up` ends before all have ended, and how.
pub(super) struct Ending {
    pub(super) on_exit: bool,
    pub(super) on_failure: bool,
    pub(super) code_from: Option<String>,
    pub(super) timeout: Option<i64>,
}

/// The longest line that is held back until it ends.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Colours that are told apart on dark and light terminals.
const COLOURS: [&str; 10] = ["36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"];

/// What comes of a container.
enum News {
    /// Lines of output, whole but perhaps the last.
    Lines(Vec<u8>),
    /// It has ended.
    Exited(i64),
}

/// Prints lines with the names of whose they are.
struct Printer {
    prefixes: Vec<String>,
}

impl Printer {
    fn new(names: &[String], style: &Style) -> Printer {
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let prefix = |(at, name): (usize, &String)| match (style.prefix, style.colours) {
            (false, _) => String::new(),
            (true, false) => format!("{name:<width$}  | "),
            (true, true) => format!("\x1b[{}m{name:<width$}  |\x1b[0m ", COLOURS[at % COLOURS.len()]),
        };
        Printer { prefixes: names.iter().enumerate().map(prefix).collect() }
    }

    fn print(&self, who: usize, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let prefix = self.prefixes.get(who).map(String::as_str).unwrap_or_default();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            out.write_all(prefix.as_bytes())?;
            out.write_all(line)?;
            if !line.ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
        }
        Ok(out.flush()?)
    }
}

/// Bytes as whole lines.
#[derive(Default)]
struct Whole {
    rest: Vec<u8>,
}

impl Whole {
    /// The lines that are whole now.
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.rest.extend_from_slice(bytes);
        let end = match self.rest.iter().rposition(|b| *b == b'\n') {
            Some(at) => at + 1,
            None if self.rest.len() > MAX_LINE_BYTES => self.rest.len(),
            None => return None,
        };
        Some(self.rest.drain(..end).collect())
    }
}

/// The short name of a container: without the project's.
fn short_name(session: &Session, name: &str, service: &str, number: u32) -> String {
    match name.strip_prefix(&format!("{}-", session.name)) {
        Some(rest) => rest.to_owned(),
        None if name.starts_with(&session.name) => format!("{service}-{number}"),
        None => name.to_owned(),
    }
}

/// `sampan compose logs`
#[derive(Args)]
pub(crate) struct Logs {
    /// Go on while they run
    #[arg(short, long)]
    follow: bool,
    /// Only the container of this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// No names before lines
    #[arg(long)]
    no_log_prefix: bool,
    /// From then on
    #[arg(long, default_value = "", hide_default_value = true)]
    since: String,
    /// Until then
    #[arg(long, default_value = "", hide_default_value = true)]
    until: String,
    /// Only the last N lines of each
    #[arg(short = 'n', long, default_value = "all", value_name = "N", allow_hyphen_values = true)]
    tail: String,
    /// With times
    #[arg(short, long)]
    timestamps: bool,
    /// The services; none: all
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) async fn logs(session: &Session, command: Logs) -> Result<ExitCode> {
    let containers = session.of_services(&command.services, true).await?;
    let containers: Vec<_> =
        containers.into_iter().filter(|c| command.index.is_none_or(|i| number_of(c) == i)).collect();
    let names: Vec<String> =
        containers.iter().map(|c| short_name(session, name_of(c), service_of(c), number_of(c))).collect();
    let style = Style {
        colours: colours(&session.flags, std::io::stdout().is_terminal()) && !command.no_color,
        prefix: !command.no_log_prefix,
        timestamps: command.timestamps,
    };
    let printer = Printer::new(&names, &style);
    let on = |yes: bool| if yes { "1" } else { "" };
    let parameters = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", on(command.follow)),
        ("timestamps", on(command.timestamps)),
        ("tail", &command.tail),
        ("since", &point_in_time(&command.since)),
        ("until", &point_in_time(&command.until)),
    ]);
    // One after the other where they end, so that lines of one are together; all at once where they go on.
    let turns: Vec<Vec<usize>> = if command.follow {
        vec![(0..containers.len()).collect()]
    } else {
        (0..containers.len()).map(|n| vec![n]).collect()
    };
    for turn in turns {
        let (sender, mut news) = mpsc::channel(64);
        for who in turn {
            let (client, sender) = (session.client.clone(), sender.clone());
            let id = containers[who].id.clone();
            let path = container_path(&id, "logs") + &parameters;
            tokio::spawn(async move {
                if let Err(error) = send_log(&client, &id, &path, who, &sender).await {
                    tell(format_args!("sampan: {error:#}"));
                }
            });
        }
        drop(sender);
        while let Some((who, one)) = news.recv().await {
            print_lines(&printer, who, &one)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_lines(printer: &Printer, who: usize, news: &News) -> Result<()> {
    match news {
        News::Lines(lines) => printer.print(who, lines),
        News::Exited(_) => Ok(()),
    }
}

type Sender = mpsc::Sender<(usize, News)>;

async fn send_log(client: &Client, id: &str, path: &str, who: usize, sender: &Sender) -> Result<()> {
    let inspect: ContainerInspect = client.get(&container_path(id, "json")).await?;
    let answer = client.request(Method::GET, path, full(""), "application/json").await?;
    let mut splitter = Splitter::new(inspect.config.tty);
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else { continue };
        for lines in splitter.push(&data)? {
            if sender.send((who, News::Lines(lines))).await.is_err() {
                return Ok(());
            }
        }
    }
    for lines in splitter.rest() {
        let _ = sender.send((who, News::Lines(lines))).await;
    }
    Ok(())
}

/// A stream's bytes as lines, each stream's own.
struct Splitter {
    tty: bool,
    demultiplexer: Demultiplexer,
    /// Of a terminal or standard output, and of standard error.
    whole: [Whole; 2],
}

impl Splitter {
    fn new(tty: bool) -> Splitter {
        Splitter { tty, demultiplexer: Demultiplexer::default(), whole: Default::default() }
    }

    fn push(&mut self, data: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        if self.tty {
            lines.extend(self.whole[0].push(data));
        } else {
            let whole = &mut self.whole;
            self.demultiplexer.push(data, |stream, bytes| {
                let which = usize::from(stream == sampan_docker_api::stream::STDERR);
                lines.extend(whole[which].push(bytes));
            })?;
        }
        Ok(lines)
    }

    fn rest(&mut self) -> Vec<Vec<u8>> {
        self.whole.iter_mut().map(|w| std::mem::take(&mut w.rest)).filter(|rest| !rest.is_empty()).collect()
    }
}

/// Attaches to a container that is about to start, or runs, and tells what it says and when it ends.
async fn listen(client: &Client, member: &Member, who: usize, shown: bool, sender: &Sender) -> Result<()> {
    let condition = if member.running { "not-running" } else { "next-exit" };
    let path = container_path(&member.id, &format!("wait?condition={condition}"));
    let wait = client.request(Method::POST, &path, full(""), "application/json").await?;
    let stream = if shown {
        let inspect: ContainerInspect = client.get(&container_path(&member.id, "json")).await?;
        let path = container_path(&member.id, "attach?stream=1&stdout=1&stderr=1");
        Some((client.upgrade(&path, Vec::new()).await?, Splitter::new(inspect.config.tty)))
    } else {
        None
    };
    let sender = sender.clone();
    tokio::spawn(async move {
        if let Some((mut stream, mut splitter)) = stream {
            let mut buffer = vec![0u8; 32 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                let Ok(all) = splitter.push(&buffer[..n]) else { break };
                for lines in all {
                    if sender.send((who, News::Lines(lines))).await.is_err() {
                        return;
                    }
                }
            }
            for lines in splitter.rest() {
                let _ = sender.send((who, News::Lines(lines))).await;
            }
        }
        let code = match wait.into_body().collect().await {
            Ok(body) => serde_json::from_slice::<WaitAnswer>(&body.to_bytes()).map_or(-1, |a| a.status_code),
            Err(_) => -1,
        };
        let _ = sender.send((who, News::Exited(code))).await;
    });
    Ok(())
}

/// Starts, shows what is said until all have ended, one too many has, or somebody presses Ctrl-C; then stops what is left.
pub(super) async fn run(
    session: &Session,
    plan: &Plan,
    members: &[Member],
    attached: &[Member],
    ending: &Ending,
    style: &Style,
    report: Report,
) -> Result<ExitCode> {
    let names: Vec<String> =
        members.iter().map(|m| short_name(session, &m.name, &m.service, m.number)).collect();
    let printer = Printer::new(&names, style);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let (sender, mut news) = mpsc::channel(64);
    for (who, member) in members.iter().enumerate() {
        let shown = attached.iter().any(|a| a.id == member.id);
        listen(&session.client, member, who, shown, &sender).await?;
    }
    drop(sender);
    let shown: Vec<&str> = members
        .iter()
        .zip(&names)
        .filter(|(m, _)| attached.iter().any(|a| a.id == m.id))
        .map(|(_, name)| name.as_str())
        .collect();
    let mut said = Some(format!("Attaching to {}", shown.join(", ")));
    let mut starting = Some(Box::pin(converge::start(session, plan, members, &report)));
    let mut running = vec![true; members.len()];
    let (mut code, mut stopping, mut failed) = (None::<i64>, false, None);
    loop {
        tokio::select! {
            started = async { match starting.as_mut() { Some(s) => s.await, None => std::future::pending().await } } => {
                starting = None;
                if let Err(error) = started {
                    failed = Some(error);
                    break;
                }
                // A restarted daemon's containers, or a start that was nothing, end at once.
                if running.iter().all(|r| !r) {
                    break;
                }
            }
            one = news.recv() => match one {
                Some((who, News::Lines(lines))) => {
                    if let Some(text) = said.take() {
                        tell(text);
                    }
                    let lines = if style.timestamps { stamped(&lines) } else { lines };
                    printer.print(who, &lines)?;
                }
                Some((who, News::Exited(exit))) => {
                    running[who] = false;
                    tell(format_args!("{} exited with code {exit}", names[who]));
                    let from = ending.code_from.as_ref().is_none_or(|service| *service == members[who].service);
                    if from && (ending.on_exit || ending.on_failure) && code.is_none() {
                        code = Some(exit);
                    }
                    let depended = plan.services.iter().any(|s| s.after.iter().any(|(other, condition, _)| {
                        *other == members[who].service
                            && *condition == sampan_compose::model::Condition::ServiceCompletedSuccessfully
                    }));
                    // Who only prepares something for others ends as it should.
                    let prepares = depended && exit == 0;
                    if (ending.on_exit && !prepares) || (ending.on_failure && exit != 0) {
                        break;
                    }
                    if running.iter().all(|r| !r) && starting.is_none() {
                        break;
                    }
                }
                None if starting.is_none() => break,
                None => {
                    if let Some(start) = starting.take() { start.await?; }
                    break;
                }
            },
            _ = interrupts.recv() => { stopping = true; break; }
            _ = terminations.recv() => { stopping = true; break; }
        }
    }
    drop(starting);
    let ended = ending.on_exit || ending.on_failure;
    if stopping || failed.is_some() || (ended && running.iter().any(|r| *r)) {
        if stopping {
            tell("Gracefully stopping... (press Ctrl+C again to force)");
        } else if failed.is_none() {
            tell("Aborting on container exit...");
        }
        if failed.is_none() {
            let stop = stop_all(session, plan, members, ending.timeout, &report);
            tokio::select! {
                () = stop => {}
                _ = interrupts.recv() => kill_all(session, members).await,
            }
        }
        // What was said meanwhile.
        while let Ok((who, one)) = news.try_recv() {
            match one {
                News::Lines(lines) => printer.print(who, &lines)?,
                News::Exited(exit) => {
                    tell(format_args!("{} exited with code {exit}", names[who]));
                    if ending.code_from.as_ref().is_some_and(|s| *s == members[who].service) && code.is_none()
                    {
                        code = Some(exit);
                    }
                }
            }
        }
    }
    drop(report);
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(service) = ending.code_from.as_ref().filter(|_| code.is_none()) {
        for member in members.iter().filter(|m| m.service == *service) {
            let inspect: ContainerInspect = session.client.get(&container_path(&member.id, "json")).await?;
            code = Some(inspect.state.exit_code);
        }
    }
    Ok(match (stopping, code) {
        (true, None) => ExitCode::from(130),
        (_, Some(code)) => exit_code(code),
        (false, None) => ExitCode::SUCCESS,
    })
}

/// Lines with the time of now.
fn stamped(lines: &[u8]) -> Vec<u8> {
    let now = jiff::Timestamp::now();
    let mut out = Vec::new();
    for line in lines.split_inclusive(|b| *b == b'\n') {
        out.extend_from_slice(format!("{now:.9} ").as_bytes());
        out.extend_from_slice(line);
    }
    out
}

/// Stops all, those first that depend on others.
async fn stop_all(session: &Session, plan: &Plan, members: &[Member], timeout: Option<i64>, report: &Report) {
    for service in plan.services.iter().rev() {
        let own = members.iter().filter(|m| m.service == service.service);
        let stops = own.map(|member| async move {
            let thing = format!("Container {}", member.name);
            report.doing(&thing, "Stopping");
            match converge::stop(&session.client, &member.id, timeout).await {
                Ok(()) => report.done(&thing, "Stopped"),
                Err(error) => tell(format_args!("sampan: {error:#}")),
            }
        });
        futures_util::future::join_all(stops).await;
    }
}

async fn kill_all(session: &Session, members: &[Member]) {
    let kills = members.iter().map(|m| async move {
        // It may have ended by now.
        let _ = session.client.post(&container_path(&m.id, "kill")).await;
    });
    futures_util::future::join_all(kills).await;
}
