//! CRIU, the program that writes a container's processes to files and makes them again: its service protocol.
//!
//! `criu swrk FD` serves one conversation over a socket pair: a request, notifications on the way (each has to be
//! acknowledged), a response. Descriptors in a request are numbers of ours: CRIU opens them by way of `/proc`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use sampan_kernel::process::{self as kernel, Child, Clone as CloneHow, StringArray};

use crate::cgroup::{self, Group, Joiner};
use crate::ending::wait_status;
use crate::error::Step;

mod options;
mod protobuf;

pub use options::{CgroupsMode, Options, PageServer};
use protobuf::{Field, Fields, Reader};

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Write processes to files.
    Dump,
    /// Make them again.
    Restore,
    /// Write memory only, to have less to write later.
    PreDump,
}

/// The numbers of requests in the protocol.
const DUMP: u64 = 1;
const RESTORE: u64 = 2;
const PRE_DUMP: u64 = 4;
const NOTIFY: u64 = 6;

/// What CRIU tells on the way.
#[derive(Debug)]
pub struct Notification {
    /// At which point it is: `setup-namespaces`, `post-restore` …
    pub point: String,
    /// The first process, where it is known.
    pub pid: i32,
    /// What came along.
    pub fds: Vec<OwnedFd>,
}

/// A message of CRIU's.
#[derive(Default, Debug)]
struct Response {
    kind: u64,
    success: bool,
    restored: i32,
    errno: i32,
    error: String,
    notification: Option<(String, i32)>,
}

impl Response {
    fn decode(bytes: &[u8]) -> io::Result<Response> {
        let mut response = Response::default();
        let mut fields = Reader(bytes);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, _) => response.kind = field.number(),
                (2, _) => response.success = field.number() != 0,
                (4, Field::Bytes(inside)) => {
                    let mut inside = Reader(inside);
                    while let Some((number, field)) = inside.next()? {
                        if number == 1 {
                            response.restored = i32::try_from(field.number()).unwrap_or(0);
                        }
                    }
                }
                (5, Field::Bytes(inside)) => {
                    let notification = response.notification.get_or_insert_default();
                    let mut inside = Reader(inside);
                    while let Some((number, field)) = inside.next()? {
                        match number {
                            1 => notification.0 = field.text(),
                            2 => notification.1 = i32::try_from(field.number()).unwrap_or(0),
                            _ => {}
                        }
                    }
                }
                (7, _) => response.errno = field.number() as i32,
                (9, _) => response.error = field.text(),
                _ => {}
            }
        }
        Ok(response)
    }
}

/// Whether bytes can be understood as a message of CRIU's. (What fuzzing asks.)
pub fn is_message(bytes: &[u8]) -> bool {
    Response::decode(bytes).is_ok()
}

/// Where CRIU makes processes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The groups that CRIU, and so what it makes, is in.
    pub groups: &'a [Group],
    /// Files that CRIU finds open under the same numbers.
    pub keep: &'a [File],
}

/// Asks CRIU for something and tells `notified` what comes on the way. Returns the restored process's number, if there
/// is one. For a restore, `place` says where.
///
/// # Errors
/// If CRIU can't be run or fails; or with the error of `notified`, which makes CRIU give up.
pub fn call<E: From<Step>>(
    program: Option<&Path>,
    request: Request,
    options: &Options<'_>,
    place: Option<Place<'_>>,
    mut notified: impl FnMut(Notification) -> Result<(), E>,
) -> Result<i32, E> {
    let program = find(program)?;
    let lost = || Step::on::<io::Error, _>(|| "talk with CRIU");
    let (socket, child) = start(&program, place)?;
    let mut message = Fields::default();
    message.number(
        1,
        match request {
            Request::Dump => DUMP,
            Request::Restore => RESTORE,
            Request::PreDump => PRE_DUMP,
        },
    );
    message.message(2, &options.encode());
    let mut ending = Ending { child: Some(child) };
    send(&socket, message).map_err(lost())?;
    loop {
        /// As CRIU's own limit.
        const MAX_MESSAGE: usize = 64 * 1024;
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, fds) =
            sampan_kernel::descriptors::receive(socket.as_fd(), &mut buffer).map_err(lost())?;
        if length == 0 {
            return Err(failed(&program, options, "it ended without an answer").into());
        }
        let response = Response::decode(&buffer[..length]).map_err(lost())?;
        if !response.success {
            let mut why = response.error.clone();
            if why.is_empty() && response.errno != 0 {
                why = io::Error::from_raw_os_error(response.errno).to_string();
            }
            return Err(failed(&program, options, &why).into());
        }
        if response.kind != NOTIFY {
            // It ends by itself now; what it has restored are our children, not its.
            drop(socket);
            ending.wait();
            return Ok(response.restored);
        }
        let (point, pid) = response.notification.unwrap_or_default();
        notified(Notification { point, pid, fds })?;
        let mut answer = Fields::default();
        answer.number(1, NOTIFY);
        answer.flag(3, true);
        send(&socket, answer).map_err(lost())?;
    }
}

fn send(socket: &OwnedFd, message: Fields) -> io::Result<()> {
    rustix::net::send(socket, &message.into_bytes(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The program, from the command line or `PATH`.
fn find(given: Option<&Path>) -> Result<PathBuf, Step> {
    if let Some(given) = given.filter(|path| path.components().count() > 1) {
        return Ok(given.to_owned());
    }
    let name = given.unwrap_or(Path::new("criu"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' programs are not in everybody's PATH.
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut candidates = directories.map(|directory| directory.join(name));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| {
        Step::refused("run CRIU", format!("there is no `{}` in PATH: is CRIU installed?", name.display()))
    })
}

fn start(program: &Path, place: Option<Place<'_>>) -> Result<(OwnedFd, Child), Step> {
    use std::os::unix::ffi::OsStrExt;
    let failed = || Step::on::<io::Error, _>(|| format!("run `{}`", program.display()));
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|e| failed()(e.into()))?;
    let path = std::ffi::CString::new(program.as_os_str().as_bytes()).map_err(|e| failed()(e.into()))?;
    let number = theirs.as_raw_fd().to_string();
    let arguments = ["criu", "swrk", &number].map(|argument| argument.as_bytes().to_vec());
    let arguments = StringArray::new(arguments).map_err(failed())?;
    let environment =
        std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let environment = StringArray::new(environment).map_err(failed())?;
    let birthplace = place.map(|place| cgroup::birthplace(place.groups)).transpose()?.flatten();
    let joiner = place.map(|place| Joiner::open(place.groups)).transpose()?;
    let how = CloneHow {
        cgroup: birthplace.as_ref().map(AsFd::as_fd),
        without: &[ours.as_fd()],
        ..CloneHow::default()
    };
    let child = kernel::clone(&how, || {
        let prepare = || -> Result<(), Step> {
            // Those that we have taken for ourselves.
            kernel::reset_signals().map_err(Step::on(|| "reset the signals"))?;
            joiner.map_or(Ok(()), Joiner::join)?;
            let kept = place.iter().flat_map(|place| place.keep).map(AsFd::as_fd);
            for fd in kept.chain([theirs.as_fd()]) {
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
                    .map_err(Step::on(|| "hand a descriptor to CRIU"))?;
            }
            Ok(())
        };
        if let Err(step) = prepare() {
            crate::log::say(&sampan_base::chain(&step));
            return 1;
        }
        let Err(error) = kernel::execute(&path, &arguments, &environment);
        crate::log::say(&format!("cannot run `{}`: {error}", program.display()));
        1
    });
    Ok((ours, child.map_err(failed())?))
}

/// Takes CRIU's end, whatever comes.
struct Ending {
    child: Option<Child>,
}

impl Ending {
    fn wait(&mut self) {
        if let Some(child) = self.child.take() {
            // It has told how it went.
            let _ = wait_status(&child.pidfd);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            // It hears nothing more from us.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
        }
        self.wait();
    }
}

/// What went wrong, in the words of CRIU's log.
fn failed(program: &Path, options: &Options<'_>, why: &str) -> Step {
    /// Enough to see the cause, which comes first as a rule.
    const LINES: usize = 4;
    let log = options.work_path.join(options.log_file());
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // `(00.012345) Error (criu/vdso.c:381): vdso: …`
    let errors =
        text.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): ").map(|(_, what)| what));
    let mut reasons: Vec<&str> = errors.take(LINES).collect();
    if reasons.is_empty() && !why.trim().is_empty() {
        reasons.push(why.trim());
    }
    if reasons.iter().any(|reason| reason.contains("vdso")) {
        reasons.push("this version of CRIU does not know this kernel's vDSO: a newer CRIU or an older kernel is needed");
    }
    reasons.push("its log:");
    let reasons = reasons.join("; ");
    Step::refused(
        format!("have it done by `{}`", program.display()),
        format!("{reasons} `{}`", log.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_understood() {
        // A notification of a pid, as CRIU 3.17 sends it; a restore's end; a failure.
        let notify = [8, 6, 16, 1, 42, 20, 10, 16];
        let notify = [&notify[..], b"setup-namespaces", &[16, 77]].concat();
        let response = Response::decode(&notify).unwrap();
        assert_eq!(response.notification, Some(("setup-namespaces".into(), 77)));
        let response = Response::decode(&[8, 2, 16, 1, 34, 2, 8, 9]).unwrap();
        assert_eq!((response.kind, response.success, response.restored), (RESTORE, true, 9));
        let response = Response::decode(&[8, 1, 16, 0, 56, 22]).unwrap();
        assert_eq!((response.success, response.errno), (false, 22));
        for length in 0..notify.len() {
            let _ = Response::decode(&notify[..length]);
        }
    }
}
