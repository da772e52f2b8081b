//! What a build shows while it goes on: a line a running step on a terminal, plain lines elsewhere, or JSON.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sampan_docker_api::build::BuildUpdate;
use sampan_docker_api::units::human_size;

/// How to show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Mode {
    /// Lines that change on a terminal, plain ones elsewhere
    Auto,
    /// Lines that change
    Tty,
    /// Plain lines
    Plain,
    /// A JSON object a line
    #[value(alias = "rawjson")]
    Json,
    /// Only the image's id
    Quiet,
    /// Only what may not be meant: `--check`
    #[value(skip)]
    Check,
}

impl Mode {
    pub(super) fn on_this_terminal(self) -> Mode {
        match self {
            Mode::Auto if io::stderr().is_terminal() => Mode::Tty,
            Mode::Auto => Mode::Plain,
            other => other,
        }
    }
}

/// Shows the events of one build. All of it goes to standard error, but for JSON: standard output is the result's.
pub(super) struct Show {
    mode: Mode,
    /// How many stages there are.
    stages: usize,
    steps: BTreeMap<usize, Step>,
    bars: MultiProgress,
    warnings: usize,
    /// The step that failed.
    failed: Option<usize>,
    /// Where in the Dockerfile it failed.
    excerpt: Option<String>,
}

/// A step that was begun.
struct Step {
    /// Its number for people.
    number: usize,
    title: String,
    cached: bool,
    bar: Option<ProgressBar>,
    /// Its last lines, to be shown if it fails; the last one may not have ended yet.
    last: VecDeque<String>,
    /// What of a line has not come yet, in plain mode.
    open: String,
    /// Bytes there are and will be of each blob.
    transfers: BTreeMap<String, (u64, u64)>,
}

/// Lines of a step's output that are shown when it fails.
const LAST_LINES: usize = 20;
/// Characters of an instruction that are shown.
const MAX_TITLE: usize = 200;
const MAX_LINE: usize = 4096;

impl Show {
    pub(super) fn new(mode: Mode) -> Show {
        Show {
            mode,
            stages: 0,
            steps: BTreeMap::new(),
            bars: MultiProgress::new(),
            warnings: 0,
            failed: None,
            excerpt: None,
        }
    }

    /// How a check ended.
    pub(super) fn checked(&self) -> Result<ExitCode> {
        if self.mode == Mode::Check {
            let found = match self.warnings {
                0 => "no warnings found.".to_owned(),
                1 => "1 warning has been found!".to_owned(),
                n => format!("{n} warnings have been found!"),
            };
            writeln!(io::stdout().lock(), "Check complete, {found}")?;
        }
        Ok(if self.warnings > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    pub(super) fn update(&mut self, update: &BuildUpdate) -> Result<()> {
        if let BuildUpdate::Warning { .. } = update {
            self.warnings += 1;
        }
        match self.mode {
            Mode::Quiet => Ok(()),
            Mode::Check => match update {
                BuildUpdate::Warning { text, .. } => Ok(writeln!(io::stdout().lock(), "{text}")?),
                _ => Ok(()),
            },
            Mode::Json => {
                let mut line = serde_json::to_vec(update)?;
                line.push(b'\n');
                Ok(io::stdout().lock().write_all(&line)?)
            }
            _ => self.show(update),
        }
    }

    fn show(&mut self, update: &BuildUpdate) -> Result<()> {
        match update {
            BuildUpdate::Planned { stages } => self.stages = stages.len(),
            BuildUpdate::Warning { line, text } => {
                let place = if *line > 0 { format!(" (line {line})") } else { String::new() };
                self.line(&format!("WARNING: {text}{place}"))?;
            }
            BuildUpdate::Started { step, stage, name, position, of, text, .. } => {
                let stage = match (name, self.stages) {
                    (Some(name), _) => format!("{name} "),
                    (None, 0 | 1) => String::new(),
                    (None, _) => format!("stage-{stage} "),
                };
                let text: String = text.lines().next().unwrap_or_default().chars().take(MAX_TITLE).collect();
                self.start(*step, format!("[{stage}{position}/{of}] {text}"))?;
            }
            BuildUpdate::Cached { step } => {
                if let Some(step) = self.steps.get_mut(step) {
                    step.cached = true;
                }
            }
            BuildUpdate::Output { step, text, .. } => self.output(*step, text)?,
            BuildUpdate::Transfer { step, blob, current, total } => {
                self.transfer(*step, blob, *current, *total)?;
            }
            BuildUpdate::Done { step, nanoseconds, layer } => {
                let layer = layer.map(|bytes| format!(", {}", human_size(bytes))).unwrap_or_default();
                let took = seconds(*nanoseconds);
                self.finish(*step, &|cached| match cached {
                    true => "CACHED".to_owned(),
                    false => format!("DONE {took}{layer}"),
                })?;
            }
            BuildUpdate::Excerpt { text } => self.excerpt = Some(text.clone()),
            BuildUpdate::Failed { given_up: true, step, .. } => {
                self.finish(*step, &|_| "CANCELED".to_owned())?;
            }
            BuildUpdate::Failed { step, nanoseconds, .. } => {
                self.failed = Some(*step);
                let took = seconds(*nanoseconds);
                self.finish(*step, &|_| format!("ERROR after {took}"))?;
            }
        }
        Ok(())
    }

    fn start(&mut self, id: usize, title: String) -> Result<()> {
        let number = self.steps.len() + 1;
        let mut bar = None;
        if self.mode == Mode::Tty {
            let spinner = self.bars.add(ProgressBar::new_spinner());
            // The template is our own and has only what indicatif knows.
            if let Ok(style) =
                ProgressStyle::with_template(" {spinner} {prefix} {elapsed:>4} {wide_msg:.dim}")
            {
                spinner.set_style(style);
            }
            spinner.set_prefix(title.clone());
            spinner.enable_steady_tick(Duration::from_millis(100));
            bar = Some(spinner);
        } else {
            self.line(&format!("#{number} {title}"))?;
        }
        let step = Step {
            number,
            title,
            cached: false,
            bar,
            last: VecDeque::new(),
            open: String::new(),
            transfers: BTreeMap::new(),
        };
        self.steps.insert(id, step);
        Ok(())
    }

    fn output(&mut self, id: usize, text: &str) -> Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        step.open.push_str(text);
        let mut lines = Vec::new();
        loop {
            let end = match step.open.find('\n') {
                Some(end) if end <= MAX_LINE => end,
                _ if step.open.len() > MAX_LINE => MAX_LINE,
                _ => break,
            };
            // A line without an end is cut somewhere between two characters.
            let end = (0..=end).rev().find(|i| step.open.is_char_boundary(*i)).unwrap_or(0);
            let rest = step.open.split_off(end);
            let line = std::mem::replace(&mut step.open, rest.strip_prefix('\n').unwrap_or(&rest).to_owned());
            lines.push(shown(&line));
        }
        for line in lines {
            if step.last.len() == LAST_LINES {
                step.last.pop_front();
            }
            step.last.push_back(line.clone());
            match &step.bar {
                Some(bar) => bar.set_message(line),
                None => writeln!(io::stderr(), "#{} {line}", step.number)?,
            }
        }
        Ok(())
    }

    fn transfer(&mut self, id: usize, blob: &str, current: u64, total: u64) -> Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let known = step.transfers.insert(blob.to_owned(), (current, total));
        let short = blob.split(':').next_back().unwrap_or(blob);
        let short = short.get(..12).unwrap_or(short);
        match &step.bar {
            Some(bar) => {
                let (current, total) =
                    step.transfers.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                let done = step.transfers.values().filter(|(current, total)| current == total).count();
                let of = step.transfers.len();
                let (current, total) = (human_size(current), human_size(total));
                bar.set_message(format!("{done}/{of} blobs, {current} / {total}"));
            }
            // Once when it is there: nobody wants a thousand lines.
            None if current == total && known.is_none_or(|(before, _)| before < total) => {
                writeln!(io::stderr(), "#{} {short} {}", step.number, human_size(total))?;
            }
            None => {}
        }
        Ok(())
    }

    fn finish(&mut self, id: usize, word: &dyn Fn(bool) -> String) -> Result<()> {
        let Some(step) = self.steps.get_mut(&id) else { return Ok(()) };
        let rest = shown(&std::mem::take(&mut step.open));
        if !rest.is_empty() {
            step.last.push_back(rest.clone());
            if step.bar.is_none() {
                writeln!(io::stderr(), "#{} {rest}", step.number)?;
            }
        }
        let text = match &step.bar {
            Some(bar) => {
                bar.finish_and_clear();
                format!(" => {} {}", step.title, word(step.cached))
            }
            None => format!("#{} {}", step.number, word(step.cached)),
        };
        self.line(&text)
    }

    /// The build is over. Of steps that failed it shows again what they said last, if that has gone from the screen.
    pub(super) fn end(&mut self, failed: bool) -> Result<()> {
        for step in self.steps.values_mut() {
            if let Some(bar) = step.bar.take() {
                bar.finish_and_clear();
            }
        }
        if failed {
            if self.mode == Mode::Tty {
                self.show_last_lines()?;
            }
            if let Some(excerpt) = &self.excerpt {
                writeln!(io::stderr(), "{}", excerpt.trim_end())?;
            }
        }
        Ok(())
    }

    fn show_last_lines(&self) -> Result<()> {
        let step = self.failed.and_then(|id| self.steps.get(&id)).filter(|step| !step.last.is_empty());
        let Some(step) = step else { return Ok(()) };
        let mut out = io::stderr().lock();
        writeln!(out, "------\n > {}:", step.title)?;
        for line in &step.last {
            writeln!(out, "{line}")?;
        }
        Ok(writeln!(out, "------")?)
    }

    fn line(&self, text: &str) -> Result<()> {
        match self.mode {
            Mode::Tty => Ok(self.bars.println(text)?),
            _ => Ok(writeln!(io::stderr(), "{text}")?),
        }
    }
}

fn seconds(nanoseconds: u64) -> String {
    format!("{:.1}s", Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// A line of a command, without what would move the cursor: it comes from a container.
fn shown(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut out = String::new();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // An escape sequence: `ESC [ … letter`, or two characters.
            if rest.next() == Some('[') {
                while rest.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {}
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_writes_moves_no_cursor() {
        assert_eq!(shown("\u{1b}[31mred\u{1b}[0m\u{7} plain\r"), "red plain");
        assert_eq!(shown(" 10%\r 20%\r100%"), "100%");
        assert_eq!(shown("\u{1b}[2J\u{1b}[1;1Hx\u{1b}7y"), "xy");
    }

    #[test]
    fn lines_are_cut_between_characters() {
        let mut show = Show::new(Mode::Tty);
        show.start(0, "t".into()).unwrap();
        show.output(0, &"ä".repeat(MAX_LINE)).unwrap();
        show.output(0, "end\nopen").unwrap();
        let step = &show.steps[&0];
        assert_eq!(step.open, "open");
        assert!(step.last.iter().all(|line| line.len() <= MAX_LINE));
    }
}
