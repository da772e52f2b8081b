//! The terminal that this program runs in: raw mode, its size, and when that changes.

use std::io::{IsTerminal, stdin, stdout};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios};

/// While it lives, the terminal passes every key on; when it goes, the terminal is as before.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches standard input's terminal.
    pub(crate) fn enter() -> Result<RawMode> {
        let before = rustix::termios::tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin(), OptionalActions::Now, &raw)
            .context("cannot switch the terminal")?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal has gone there is nothing to put right.
        let _ = rustix::termios::tcsetattr(stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Reads a line from standard input's terminal that is not shown there.
pub(crate) fn read_hidden_line() -> Result<String> {
    use rustix::termios::LocalModes;
    let before = rustix::termios::tcgetattr(stdin()).context("cannot read the terminal's settings")?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    rustix::termios::tcsetattr(stdin(), OptionalActions::Flush, &hidden)
        .context("cannot switch the terminal")?;
    let restored = RawMode { before };
    let mut line = String::new();
    let read = std::io::BufRead::read_line(&mut stdin().lock(), &mut line);
    drop(restored);
    read.context("cannot read from the terminal")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Whether standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    stdin().is_terminal()
}

/// Rows and columns of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size =
        rustix::termios::tcgetwinsize(stdout()).or_else(|_| rustix::termios::tcgetwinsize(stdin())).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
