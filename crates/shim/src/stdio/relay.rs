//! Copies between a pty and the caller's files.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::PollFlags;

use super::{Got, Interest, Slot, nonblocking, read, write};

/// A pty between a file to read from and one to write to. At most one buffer of bytes waits in each direction.
#[derive(Debug)]
pub(super) struct Relay {
    master: Option<OwnedFd>,
    input: Option<OwnedFd>,
    /// Keeps a fifo for input from reaching its end.
    keeper: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// The other ends of fifos for output, so that writes to them never fail.
    kept: Vec<OwnedFd>,
    to_process: Vec<u8>,
    from_process: Vec<u8>,
    /// The process is gone: when the pty has nothing more now, it has nothing more ever.
    exited: bool,
}

impl Relay {
    pub(super) fn new(
        input: Option<OwnedFd>,
        keeper: Option<OwnedFd>,
        output: Option<OwnedFd>,
        kept: Vec<OwnedFd>,
    ) -> Relay {
        for fd in [&input, &output].into_iter().flatten() {
            // A file that can't be non-blocking does not block for long, either.
            let _ = nonblocking(fd);
        }
        Relay {
            master: None,
            input,
            keeper,
            output,
            kept,
            to_process: Vec::new(),
            from_process: Vec::new(),
            exited: false,
        }
    }

    pub(super) fn set_terminal(&mut self, master: OwnedFd) {
        self.master = Some(master);
    }

    pub(super) fn terminal(&self) -> Option<&OwnedFd> {
        self.master.as_ref()
    }

    pub(super) fn close_input(&mut self) {
        self.keeper = None;
    }

    pub(super) fn interests<'a>(&'a self, out: &mut Vec<Interest<'a>>) {
        if let Some(master) = &self.master {
            if self.from_process.is_empty() {
                out.push((master.as_fd(), PollFlags::IN, Slot::Stdout));
            }
            match &self.input {
                _ if !self.to_process.is_empty() => out.push((master.as_fd(), PollFlags::OUT, Slot::Stdin)),
                Some(input) => out.push((input.as_fd(), PollFlags::IN, Slot::Input)),
                None => {}
            }
        }
        if let (Some(output), false) = (&self.output, self.from_process.is_empty()) {
            out.push((output.as_fd(), PollFlags::OUT, Slot::Output));
        }
    }

    pub(super) fn ready(&mut self, slot: Slot, buffer: &mut [u8]) {
        match slot {
            Slot::Stdout => {
                self.pull(buffer);
            }
            Slot::Output => {
                self.push();
                while self.exited && self.from_process.is_empty() && self.pull(buffer) {}
            }
            Slot::Input => {
                let Some(input) = &self.input else { return };
                match read(input, buffer) {
                    Got::Bytes(n) => {
                        self.to_process.extend_from_slice(&buffer[..n]);
                        self.feed();
                    }
                    Got::Later => {}
                    Got::End => self.input = None,
                }
            }
            Slot::Stdin => self.feed(),
            Slot::Stderr | Slot::Listener | Slot::Client(_) | Slot::Log => {}
        }
    }

    pub(super) fn process_exited(&mut self, buffer: &mut [u8]) {
        self.input = None;
        self.keeper = None;
        self.exited = true;
        // As long as the reader has room; the rest goes out as the loop finds room.
        while self.from_process.is_empty() && self.pull(buffer) {}
    }

    /// One read from the pty and what of it can be written. False if there was nothing.
    fn pull(&mut self, buffer: &mut [u8]) -> bool {
        let Some(master) = &self.master else { return false };
        match read(master, buffer) {
            Got::Bytes(n) => {
                if self.output.is_some() {
                    self.from_process.extend_from_slice(&buffer[..n]);
                    self.push();
                }
                true
            }
            Got::Later if !self.exited => false,
            Got::Later | Got::End => {
                self.end();
                false
            }
        }
    }

    fn push(&mut self) {
        let Some(output) = &self.output else { return };
        match write(output, &self.from_process) {
            Some(n) => {
                self.from_process.drain(..n);
            }
            None => {
                self.from_process.clear();
                self.output = None;
            }
        }
        if self.from_process.is_empty() && self.master.is_none() {
            self.output = None;
        }
    }

    fn feed(&mut self) {
        let Some(master) = &self.master else { return };
        match write(master, &self.to_process) {
            Some(n) => {
                self.to_process.drain(..n);
            }
            None => self.to_process.clear(),
        }
    }

    fn end(&mut self) {
        self.master = None;
        self.kept.clear();
        if self.from_process.is_empty() {
            self.output = None;
        }
    }
}
