//! `binary://` loggers: a program that takes a container's output on descriptors 3 and 4 and closes 5 when it
//! is ready, as containerd's logging library has it.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use super::Owner;

/// Starts the program in `address` (`/path?key=value&…`) and returns the ends to write output and error output to.
pub(super) fn start(address: &str, owner: Owner<'_>) -> io::Result<[OwnedFd; 2]> {
    let (path, query) = address.split_once('?').unwrap_or((address, ""));
    let (out_reader, out_writer) = io::pipe()?;
    let (err_reader, err_writer) = io::pipe()?;
    let (mut ready_reader, ready_writer) = io::pipe()?;
    let mut command = Command::new(super::address::percent_decoded(path));
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.arg(super::address::percent_decoded(key));
        if !value.is_empty() {
            command.arg(super::address::percent_decoded(value));
        }
    }
    command.env("CONTAINER_ID", owner.container).env("CONTAINER_NAMESPACE", owner.namespace);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sampan_kernel::inherit::pass(
        &mut command,
        &[(out_reader.as_fd(), 3), (err_reader.as_fd(), 4), (ready_writer.as_fd(), 5)],
    )?;
    // The loop reaps it like any other child that it does not know.
    command.spawn()?;
    drop((command, out_reader, err_reader, ready_writer));
    wait_until_closed(&mut ready_reader)?;
    Ok([out_writer.into(), err_writer.into()])
}

/// A logger that does not become ready holds up this one Create; containerd's shim waits for it as well.
fn wait_until_closed(ready: &mut PipeReader) -> io::Result<()> {
    let mut byte = [0u8; 1];
    ready.read(&mut byte).map(drop)
}
