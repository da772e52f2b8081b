//! Terminals: one made inside the container for its process, the other end handed to whoever asked for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::channel::send_descriptor;
use crate::error::Step;
use crate::rootfs::Root;
use crate::rootfs::beneath::Links;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end that a person or an engine is at.
    pub controller: OwnedFd,
    /// The end that is the process's standard streams.
    pub process: OwnedFd,
}

/// Makes a terminal in the container's own devpts.
///
/// # Errors
/// If the container has none.
pub fn open(root: &Root, size: Option<(u32, u32)>) -> Result<Terminal, Step> {
    let make = || -> io::Result<Terminal> {
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let controller = root.open_with(Path::new("dev/pts/ptmx"), Links::Refused, flags)?;
        #[allow(clippy::unnecessary_cast, reason = "i64 here, not everywhere")]
        if rustix::fs::fstatfs(&controller)?.f_type as i64 != DEVPTS_SUPER_MAGIC {
            return Err(io::Error::other("it is not in a devpts file system"));
        }
        rustix::pty::unlockpt(&controller)?;
        // Taken from the kernel by the other end, not by a path that somebody could have swapped.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let process = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
        if let Some((rows, columns)) = size {
            set_size(controller.as_fd(), rows, columns)?;
        }
        Ok(Terminal { controller, process })
    };
    make().map_err(Step::on(|| "make a terminal with `/dev/pts/ptmx`"))
}

/// Sets a terminal's size. A size that is none is left alone.
///
/// # Errors
/// If it is no terminal.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u32, columns: u32) -> io::Result<()> {
    let (Ok(ws_row), Ok(ws_col)) = (u16::try_from(rows), u16::try_from(columns)) else { return Ok(()) };
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// The size of the terminal that the runtime itself is at, in rows and columns, if it is at one.
pub fn own_size() -> Option<(u32, u32)> {
    let size = rustix::termios::tcgetwinsize(io::stdin()).ok()?;
    Some((size.ws_row.into(), size.ws_col.into()))
}

/// Makes a terminal this session's own, and the standard streams.
///
/// # Errors
/// If this process leads no session or has a terminal already.
pub fn take(process_end: &OwnedFd) -> Result<(), Step> {
    let take = || -> io::Result<()> {
        rustix::process::ioctl_tiocsctty(process_end)?;
        rustix::stdio::dup2_stdin(process_end)?;
        rustix::stdio::dup2_stdout(process_end)?;
        rustix::stdio::dup2_stderr(process_end)?;
        Ok(())
    };
    take().map_err(Step::on(|| "take the terminal"))
}

/// Hands a terminal's other end over a socket, with the name that receivers show.
///
/// # Errors
/// If nobody listens.
pub fn hand_over(socket: &UnixStream, controller: &OwnedFd) -> Result<(), Step> {
    send_descriptor(socket.as_fd(), b"/dev/ptmx", controller.as_fd())
        .map_err(Step::on(|| "send the terminal over the console socket"))
}
