//! What happens, said: a line a thing that changes on a terminal, a line a change elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Flags;
use crate::commands::tell;

/// Where it is said.
pub(super) struct Report {
    how: How,
}

enum How {
    Quiet,
    Plain,
    Bars { all: MultiProgress, bars: Mutex<HashMap<String, ProgressBar>>, colours: bool },
}

impl Report {
    pub(super) fn new(flags: &Flags) -> Report {
        let terminal = std::io::stderr().is_terminal();
        let how = match flags.progress.as_str() {
            "quiet" => How::Quiet,
            "tty" => How::bars(flags),
            "auto" if terminal => How::bars(flags),
            _ => How::Plain,
        };
        Report { how }
    }

    /// Something is being done with a thing.
    pub(super) fn doing(&self, thing: &str, what: &str) {
        self.say(thing, what, false);
    }

    /// It is done.
    pub(super) fn done(&self, thing: &str, what: &str) {
        self.say(thing, what, true);
    }

    fn say(&self, thing: &str, what: &str, done: bool) {
        match &self.how {
            How::Quiet => {}
            How::Plain => tell(format_args!(" {thing}  {what}")),
            How::Bars { all, bars, colours } => {
                let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = bars.entry(thing.to_owned()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new_spinner());
                    if let Ok(style) = ProgressStyle::with_template(" {msg}") {
                        bar.set_style(style);
                    }
                    bar
                });
                let text = match (done, colours) {
                    (true, true) => format!("\x1b[32m✔\x1b[0m {thing}  \x1b[32m{what}\x1b[0m"),
                    (true, false) => format!("✔ {thing}  {what}"),
                    (false, true) => format!("\x1b[33m⠿\x1b[0m {thing}  {what}"),
                    (false, false) => format!("⠿ {thing}  {what}"),
                };
                if done {
                    bar.set_message(text.clone());
                    bar.tick();
                } else {
                    bar.set_message(text);
                    bar.tick();
                }
            }
        }
    }
}

impl How {
    fn bars(flags: &Flags) -> How {
        How::Bars {
            all: MultiProgress::new(),
            bars: Mutex::default(),
            colours: colours(flags, std::io::stderr().is_terminal()),
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let How::Bars { bars, .. } = &self.how {
            for bar in bars.lock().unwrap_or_else(PoisonError::into_inner).values() {
                bar.abandon();
            }
        }
    }
}

/// Whether to use colours: on a terminal, unless they are not wanted.
pub(super) fn colours(flags: &Flags, terminal: bool) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    match flags.ansi.as_str() {
        "always" => true,
        "never" => false,
        _ => terminal && !unwanted,
    }
}
