//! A build's events as Docker's classic builder writes them: one step after another, numbered through.
//!
//! Stages that are built at once are shown one after the other, in the order of the Dockerfile: what comes of a later one
//! waits until those before it are done.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Bytes;
use sampan_docker_api::build::Progress;
use sampan_engine::build::{BuildEvent, Stream};
use tokio::sync::mpsc;

use super::say;

/// Writes events to a client.
pub(super) struct Shown {
    lines: mpsc::Sender<Bytes>,
    quiet: bool,
    order: Mutex<Order>,
}

/// What is written, and what waits.
#[derive(Default)]
struct Order {
    /// How many steps each stage has.
    stages: Vec<usize>,
    /// The stage that is shown now.
    shown: usize,
    /// How many steps were shown.
    steps: usize,
    waiting: BTreeMap<usize, Waiting>,
    /// Which stage a step belongs to.
    stage_of: BTreeMap<usize, usize>,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<Line>,
    bytes: usize,
    done: bool,
}

enum Line {
    /// A step's beginning: it gets its number when it is shown.
    Step(String),
    Text(String),
}

/// Bytes of output of one stage that wait for the stages before it; what is more is left out, and said so.
const MAX_WAITING_BYTES: usize = 8 << 20;

impl Shown {
    pub(super) fn new(lines: mpsc::Sender<Bytes>, quiet: bool) -> Shown {
        Shown { lines, quiet, order: Mutex::default() }
    }

    pub(super) fn show(&self, event: &BuildEvent<'_>) {
        if self.quiet {
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for line in order.lines(event) {
            say(&self.lines, &Progress::stream(line));
        }
    }
}

impl Order {
    /// What is to be written now.
    fn lines(&mut self, event: &BuildEvent<'_>) -> Vec<String> {
        match event {
            BuildEvent::Planned { stages } => self.stages = stages.to_vec(),
            BuildEvent::StepStarted { step, place, text } => {
                if let Some(steps) = self.stages.get_mut(place.stage) {
                    *steps = place.of;
                }
                self.stage_of.insert(step.0, place.stage);
                return self.add(place.stage, Line::Step((*text).to_owned()));
            }
            BuildEvent::Cached { step } => return self.add_to(step.0, " ---> Using cache\n".to_owned()),
            BuildEvent::Output { step, stream, bytes } => {
                let text = String::from_utf8_lossy(bytes);
                // Error output is red, and set back at its end.
                let text = match stream {
                    Stream::Stdout => text.into_owned(),
                    Stream::Stderr => format!("\x1b[91m{text}\x1b[0m"),
                };
                return self.add_to(step.0, text);
            }
            BuildEvent::StepDone { step, state, .. } => {
                return self.add_to(step.0, format!(" ---> {}\n", state.short()));
            }
            BuildEvent::StageDone { stage } => {
                self.waiting.entry(*stage).or_default().done = true;
                return self.advance();
            }
            // The build ends with the reason: whoever reads it wants to see what that step said before.
            BuildEvent::StepFailed { step, given_up: false, .. } => {
                if let Some(stage) = self.stage_of.get(&step.0).copied()
                    && stage > self.shown
                {
                    let waiting = self.waiting.remove(&stage).unwrap_or_default();
                    return waiting.lines.into_iter().map(|line| self.text(line)).collect();
                }
            }
            BuildEvent::StepFailed { .. } => {}
            // Docker's classic builder checks nothing; what is not about a line it says, too.
            BuildEvent::Warning { line: 0, text } => return vec![format!("[Warning] {text}\n")],
            BuildEvent::Warning { .. } => {}
            BuildEvent::Transfer { .. } | BuildEvent::Failed { .. } | BuildEvent::Built { .. } => {}
        }
        Vec::new()
    }

    fn add_to(&mut self, step: usize, text: String) -> Vec<String> {
        match self.stage_of.get(&step).copied() {
            Some(stage) => self.add(stage, Line::Text(text)),
            None => Vec::new(),
        }
    }

    fn add(&mut self, stage: usize, line: Line) -> Vec<String> {
        if stage <= self.shown {
            return vec![self.text(line)];
        }
        let waiting = self.waiting.entry(stage).or_default();
        let Line::Text(text) = &line else {
            waiting.lines.push(line);
            return Vec::new();
        };
        let fitted = waiting.bytes <= MAX_WAITING_BYTES;
        waiting.bytes += text.len();
        if waiting.bytes <= MAX_WAITING_BYTES {
            waiting.lines.push(line);
        } else if fitted {
            waiting.lines.push(Line::Text("\n[more output was left out]\n".to_owned()));
        }
        Vec::new()
    }

    /// Shows the stages that had to wait for one that is done.
    fn advance(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while self.waiting.get(&self.shown).is_some_and(|w| w.done) {
            self.waiting.remove(&self.shown);
            self.shown += 1;
            let next = self.waiting.get_mut(&self.shown).map(|w| std::mem::take(&mut w.lines));
            lines.extend(next.into_iter().flatten().map(|line| self.text(line)).collect::<Vec<_>>());
        }
        lines
    }

    fn text(&mut self, line: Line) -> String {
        match line {
            Line::Text(text) => text,
            Line::Step(text) => {
                self.steps += 1;
                format!("Step {}/{} : {text}\n", self.steps, self.stages.iter().sum::<usize>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_build_events::*;

    #[test]
    fn a_later_stage_waits_for_its_turn() {
        let mut order = Order::default();
        let mut told = String::new();
        let mut tell = |event: BuildEvent<'_>| told.extend(order.lines(&event));
        tell(BuildEvent::Planned { stages: &[2, 1] });
        tell(started(0, 0, 1, 2, "FROM a"));
        tell(started(1, 1, 1, 1, "FROM b"));
        tell(output(1, "of b\n"));
        tell(output(0, "of a\n"));
        tell(BuildEvent::StageDone { stage: 1 });
        tell(started(2, 0, 2, 2, "RUN c"));
        tell(BuildEvent::StageDone { stage: 0 });
        assert_eq!(told, "Step 1/3 : FROM a\nof a\nStep 2/3 : RUN c\nStep 3/3 : FROM b\nof b\n");
    }

    #[test]
    fn what_failed_is_shown_out_of_turn() {
        let mut order = Order::default();
        let mut told = String::new();
        let mut tell = |event: BuildEvent<'_>| told.extend(order.lines(&event));
        tell(BuildEvent::Planned { stages: &[1, 1] });
        tell(started(0, 0, 1, 1, "FROM a"));
        tell(started(1, 1, 1, 1, "FROM b"));
        tell(output(1, "why\n"));
        tell(BuildEvent::StepFailed { step: StepId(1), took: std::time::Duration::ZERO, given_up: false });
        assert_eq!(told, "Step 1/2 : FROM a\nStep 2/2 : FROM b\nwhy\n");
    }

    mod sampan_build_events {
        pub(super) use sampan_engine::build::{BuildEvent, Place, StepId, Stream};

        pub(super) fn started(
            step: usize,
            stage: usize,
            position: usize,
            of: usize,
            text: &str,
        ) -> BuildEvent<'_> {
            let place = Place { stage, name: None, position, of, line: 1 };
            BuildEvent::StepStarted { step: StepId(step), place, text }
        }

        pub(super) fn output(step: usize, text: &str) -> BuildEvent<'_> {
            BuildEvent::Output { step: StepId(step), stream: Stream::Stdout, bytes: text.as_bytes() }
        }
    }
}
