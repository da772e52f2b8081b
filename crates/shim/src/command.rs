//! The commands: `start`, `delete`, and to serve.
//!
//! `start` binds the socket, starts the server with it as descriptor 0, prints the address and ends. The server
//! is in its own session, and as its starter has ended, nobody's child; a daemon's end does not touch it. A pod's
//! containers share one server: if one listens at the pod's address, `start` prints that.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use prost::Message;
use rustix::fs::OFlags;
use sampan_base::files::{create_directories, write_atomic_volatile};
use sampan_base::{Digest, FileError};
use sampan_kernel::signals::SignalFd;
use sampan_rpc::spare;
use sampan_rpc::task::DeleteResponse;

use crate::args::{Arguments, Verb};
use crate::bundle::{POD_ANNOTATION, Record, SpecFacts};
use crate::events::Publisher;
use crate::runtime::Runtime;
use crate::serve::Server;
use crate::socket;

/// Where sockets are if the caller does not say.
pub const SOCKET_DIRECTORY: &str = "/run/sampan-shim";
/// The exit status of a process that was ended by SIGKILL.
const KILLED: u32 = 137;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something else of the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// An argument that the command needs is not there.
    #[error("`{verb}` needs `-{flag}`")]
    Missing {
        /// The command.
        verb: &'static str,
        /// The flag.
        flag: &'static str,
    },
}

impl CommandError {
    fn on(action: impl Into<String>) -> impl FnOnce(io::Error) -> CommandError {
        let action = action.into();
        move |source| CommandError::Host { action, source }
    }
}

/// Does what `arguments` say.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match arguments.verb {
        Verb::Start => start(arguments),
        Verb::Delete => delete(arguments),
        Verb::Serve => serve(arguments),
        Verb::Version => {
            print(format!("containerd-shim-sampan-v2 {}\n", env!("CARGO_PKG_VERSION")).as_bytes())
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), CommandError> {
    if arguments.id.is_empty() {
        return Err(CommandError::Missing { verb: "start", flag: "id" });
    }
    let bundle = bundle_of(arguments)?;
    // A bundle without config.json is refused by Create, with a better word.
    let facts = SpecFacts::read(&bundle).unwrap_or_default();
    let group = facts.annotations.get(POD_ANNOTATION).unwrap_or(&arguments.id);
    let path = socket_path(arguments, &bundle, group);
    let address = format!("unix://{}", path.display());
    if let Some(listener) = claim(&path)? {
        start_server(arguments, &bundle, &path, listener)?;
    }
    write_atomic_volatile(&bundle.join("address"), address.as_bytes(), 0o600)?;
    print(address.as_bytes())
}

/// Where the server of `group` listens: the same path for the containers of one pod, and another one for another
/// containerd, namespace or engine with the same ids.
fn socket_path(arguments: &Arguments, bundle: &Path, group: &str) -> PathBuf {
    if !arguments.socket.is_empty() {
        return socket::path_of(&arguments.socket).to_owned();
    }
    let siblings = bundle.parent().unwrap_or(bundle).to_string_lossy().into_owned();
    let whose = [arguments.address.as_str(), &arguments.namespace, &siblings, group].join("\n");
    Path::new(SOCKET_DIRECTORY).join(format!("{}.sock", &Digest::of(whose.as_bytes()).hex()[..32]))
}

/// Binds `path`; none if a server listens there already. What a dead server left is replaced.
fn claim(path: &Path) -> Result<Option<UnixListener>, CommandError> {
    if let Some(directory) = path.parent() {
        create_directories(directory, 0o711)?;
    }
    let listening = || CommandError::on(format!("listen at `{}`", path.display()));
    match socket::listen(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if socket::connect(path).is_ok() {
                return Ok(None);
            }
            std::fs::remove_file(path).map_err(listening())?;
            socket::listen(path).map(Some).map_err(listening())
        }
        other => other.map(Some).map_err(listening()),
    }
}

fn start_server(
    arguments: &Arguments,
    bundle: &Path,
    path: &Path,
    listener: UnixListener,
) -> Result<(), CommandError> {
    let log = open_log(bundle).map_err(CommandError::on("open the shim's log"))?;
    let program = crate::runtime::own_executable().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut server = Command::new(program);
    // A container must not announce itself as ready in place of the daemon, nor get the sockets that it listens on.
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
        server.env_remove(name);
    }
    server.args(["-namespace", &arguments.namespace, "-id", &arguments.id, "-address", &arguments.address]);
    server
        .args(["-publish-binary", &arguments.publish_binary])
        .arg("-bundle")
        .arg(bundle)
        .arg("-socket")
        .arg(path);
    // The caller waits for the end of its pipes, so the server must not hold them.
    server.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(log);
    match server.spawn() {
        // Not waited for: it outlives us.
        Ok(_) => Ok(()),
        Err(error) => {
            let _ = std::fs::remove_file(path); // nobody will listen there
            Err(CommandError::Host { action: "start the server".into(), source: error })
        }
    }
}

/// containerd's fifo if it has made one, else a file. The fifo is opened for both ways, so that it does not break
/// when containerd ends, and does not wait when it is full.
fn open_log(bundle: &Path) -> io::Result<Stdio> {
    let fifo = bundle.join("log");
    if std::fs::symlink_metadata(&fifo).is_ok_and(|m| m.file_type().is_fifo()) {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        return OpenOptions::new().read(true).write(true).custom_flags(flags).open(fifo).map(Stdio::from);
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(bundle.join("shim.log"))?;
    Ok(Stdio::from(file))
}

/// Waits until it is known what a spare shim is for, and then has the command line and the descriptors of any other.
/// None if that will never be.
fn wait_for_work(signals: &SignalFd) -> io::Result<Option<Arguments>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let stdin = rustix::stdio::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    while let Err(error) = poll(&mut polled, None) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    // Whoever wants to end it, may.
    if polled[1].revents().intersects(PollFlags::IN) {
        return Ok(None);
    }
    let mut bytes = [0; spare::MOST_BYTES];
    let (length, fds) = sampan_kernel::descriptors::receive(stdin, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let work = spare::Work::decode(&bytes[..length]).ok_or_else(|| bad("what the work is can't be read"))?;
    let [listener, log] =
        <[OwnedFd; 2]>::try_from(fds).map_err(|_| bad("the socket or the log did not come along"))?;
    rustix::stdio::dup2_stdin(&listener)?;
    rustix::stdio::dup2_stderr(&log)?;
    let words: Vec<String> = std::env::args().collect();
    let value = |flag: &str| words.iter().position(|w| w == flag).map(|at| at + 1).ok_or_else(|| bad(flag));
    sampan_kernel::command_line::replace(&[
        (value("-id")?, work.id.as_bytes()),
        (value("-bundle")?, work.bundle.as_bytes()),
        (value("-socket")?, work.socket.as_bytes()),
    ])?;
    crate::args::parse(std::env::args().skip(1)).map(Some).map_err(io::Error::other)
}

fn serve(arguments: &Arguments) -> Result<(), CommandError> {
    use rustix::process::{Signal, set_child_subreaper, setsid};
    // First, so that no signal is lost between here and the loop.
    let signals = [Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT].map(Signal::as_raw);
    let signals = sampan_kernel::signals::open(&signals).map_err(CommandError::on("take signals"))?;
    // Once sealed, it would have a descriptor's number for a name where the kernel is older than 6.14. Only a name.
    let _ = rustix::thread::set_name(c"containerd-shim");
    // Fails only if we are a session's leader already.
    let _ = setsid();
    // Whoever started us may want to unmount where it was.
    std::env::set_current_dir("/").map_err(CommandError::on("change to the root directory"))?;
    // The runtime's commands end before the processes that they start; those become our children by this.
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| CommandError::Host { action: "become a sub-reaper".into(), source: e.into() })?;
    let told = match arguments.id == spare::NO_ID {
        true => match wait_for_work(&signals).map_err(CommandError::on("learn what the shim is for"))? {
            Some(told) => Some(told),
            None => return Ok(()),
        },
        false => None,
    };
    let arguments = told.as_ref().unwrap_or(arguments);
    let listener =
        take_listener().map_err(CommandError::on("take the listening socket from descriptor 0"))?;
    let ttrpc_address = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let publisher =
        Publisher::new(&arguments.namespace, &ttrpc_address, &arguments.publish_binary, &arguments.address);
    let path = socket::path_of(&arguments.socket).to_owned();
    Server::new(arguments.namespace.clone(), path, listener, signals, publisher)
        .run()
        .map_err(CommandError::on("go on serving"))
}

/// Moves the listener away from descriptor 0, so that no child inherits it by accident.
fn take_listener() -> io::Result<UnixListener> {
    let listener = UnixListener::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(listener)
}

/// Removes what a dead server's container has left, and tells how it ended as far as that is known: killed, now.
fn delete(arguments: &Arguments) -> Result<(), CommandError> {
    if arguments.id.is_empty() {
        return Err(CommandError::Missing { verb: "delete", flag: "id" });
    }
    let bundle = bundle_of(arguments)?;
    let pid = std::fs::read_to_string(bundle.join("init.pid")).ok().and_then(|t| t.trim().parse().ok());
    // Without a record, Create has not come far enough to leave anything.
    if let Ok(record) = Record::read(&bundle) {
        let log = bundle.join("run-delete.log");
        let status = Runtime::from_record(&record)
            .call("delete", &log)
            .and_then(|call| call.arg("--force").arg(&arguments.id).into_command().status())
            .map_err(CommandError::on(format!("run `{}`", record.runtime.display())))?;
        if !status.success() {
            let reason = crate::runtime::last_error(&log).unwrap_or_else(|| status.to_string());
            if !reason.contains("does not exist") {
                crate::note(&format!("OCI runtime delete failed: {reason}"));
            }
        }
        let _ = std::fs::remove_file(&log); // the bundle goes next
        if socket::connect(&record.socket).is_err() {
            remove_socket(&record.socket);
        }
    }
    crate::rootfs::unmount(&bundle.join("rootfs"))
        .map_err(CommandError::on("unmount the root file system"))?;
    let response = DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: KILLED,
        exited_at: Some(SystemTime::now().into()),
    };
    print(&response.encode_to_vec())
}

/// The socket of a dead server, and those on which it waited for terminals.
fn remove_socket(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return };
    let name = name.to_string_lossy();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let other = entry.file_name();
        let other = other.to_string_lossy();
        if other.strip_prefix(&*name).is_some_and(|rest| rest.is_empty() || rest.starts_with(".pty")) {
            let _ = std::fs::remove_file(entry.path()); // best effort: they are only names
        }
    }
}

fn bundle_of(arguments: &Arguments) -> Result<PathBuf, CommandError> {
    if arguments.bundle.is_absolute() {
        return Ok(arguments.bundle.clone());
    }
    std::env::current_dir()
        .map(|here| here.join(&arguments.bundle))
        .map_err(CommandError::on("find the current directory"))
}

fn print(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CommandError::on("write to standard output"))
}
