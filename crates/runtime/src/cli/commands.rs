//! The table of commands, and those that are no more than a call.

use std::path::PathBuf;

use sampan_oci::runtime::Status;

use super::arguments::{End, Known, Parsed, flag, value};
use super::{Context, Failure, criu, events, features, list, process, resources, spec};
use crate::bundle;
use crate::cgroup::freezer;
use crate::container::create::{GateKind, Options};
use crate::container::run::Mode;
use crate::container::{self, exec};
use crate::error::Refused;
use crate::init::Switches;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// What follows its name.
    pub(super) usage: &'static str,
    pub(super) options: &'static [Known],
    pub(super) end: End,
    /// How many arguments beside options, at least and at most.
    pub(super) arguments: (usize, usize),
    pub(super) run: fn(&Context, &Parsed) -> Result<u8, Failure>,
}

const ANY: usize = usize::MAX;

pub(super) const BUNDLE: Known =
    value("bundle", "DIR", "the bundle (default: the current directory)").or('b');
pub(super) const CONSOLE: Known =
    value("console-socket", "SOCKET", "a Unix socket that gets the terminal's other end");
pub(super) const PIDFD: Known =
    value("pidfd-socket", "SOCKET", "a Unix socket that gets a handle on the process");
pub(super) const PID_FILE: Known = value("pid-file", "FILE", "write the process's number to FILE");
pub(super) const NO_PIVOT: Known = flag("no-pivot", "use chroot instead of pivot_root, as on an initramfs");
pub(super) const NO_KEYRING: Known = flag("no-new-keyring", "share the caller's session keyring");
const PRESERVE: Known = value("preserve-fds", "N", "hand on N descriptors from 3 on");
pub(super) const DETACH: Known = flag("detach", "do not wait for the process").or('d');
const FORMAT: Known = value("format", "FORMAT", "`table` (default) or `json`").or('f');

/// All commands, in the order of the help.
pub(super) const COMMANDS: [Command; 18] = [
    Command {
        name: "create",
        help: "create a container",
        usage: "[options] ID",
        options: &[BUNDLE, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE],
        end: End::Nowhere,
        arguments: (1, 1),
        run: create,
    },
    Command {
        name: "start",
        help: "start a created container",
        usage: "ID",
        options: &[],
        end: End::Nowhere,
        arguments: (1, 1),
        run: start,
    },
    Command {
        name: "run",
        help: "create and start a container, and wait for its end",
        usage: "[options] ID",
        options: &[
            BUNDLE,
            CONSOLE,
            PIDFD,
            PID_FILE,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
            DETACH,
            flag("keep", "do not delete the container at its end"),
            flag("no-subreaper", "ignored: the runtime adopts no processes"),
        ],
        end: End::Nowhere,
        arguments: (1, 1),
        run,
    },
    Command {
        name: "exec",
        help: "run another process in a container",
        usage: "[options] ID COMMAND [ARGUMENT...]  or  [options] --process FILE ID",
        options: &process::EXEC_OPTIONS,
        end: End::FirstArgument,
        arguments: (1, ANY),
        run: exec_command,
    },
    Command {
        name: "state",
        help: "show a container's state",
        usage: "ID",
        options: &[],
        end: End::Nowhere,
        arguments: (1, 1),
        run: list::state,
    },
    Command {
        name: "kill",
        help: "send a signal to a container",
        usage: "[options] ID [SIGNAL]",
        options: &[flag("all", "to all of its processes").or('a')],
        end: End::Nowhere,
        arguments: (1, 2),
        run: kill,
    },
    Command {
        name: "delete",
        help: "delete a container",
        usage: "[options] ID",
        options: &[flag("force", "kill it first if it runs; no error if there is none").or('f')],
        end: End::Nowhere,
        arguments: (1, 1),
        run: delete,
    },
    Command {
        name: "list",
        help: "list containers",
        usage: "[options]",
        options: &[FORMAT, flag("quiet", "only ids").or('q')],
        end: End::Nowhere,
        arguments: (0, 0),
        run: list::list,
    },
    Command {
        name: "ps",
        help: "show the processes of a container",
        usage: "[options] ID [PS OPTION...]",
        options: &[FORMAT],
        end: End::FirstArgument,
        arguments: (1, ANY),
        run: list::ps,
    },
    Command {
        name: "pause",
        help: "freeze all processes of a container",
        usage: "ID",
        options: &[],
        end: End::Nowhere,
        arguments: (1, 1),
        run: pause,
    },
    Command {
        name: "resume",
        help: "let the processes of a paused container run again",
        usage: "ID",
        options: &[],
        end: End::Nowhere,
        arguments: (1, 1),
        run: resume,
    },
    Command {
        name: "update",
        help: "change a container's limits",
        usage: "[options] ID",
        options: &resources::UPDATE_OPTIONS,
        end: End::Nowhere,
        arguments: (1, 1),
        run: resources::update,
    },
    Command {
        name: "events",
        help: "show what a container uses, and that it ran out of memory",
        usage: "[options] ID",
        options: &[
            flag("stats", "show it once"),
            value("interval", "DURATION", "how often to show it (default: 5s)"),
        ],
        end: End::Nowhere,
        arguments: (1, 1),
        run: events::events,
    },
    Command {
        name: "mounts",
        help: "add mounts to a container, or remove mounts from it",
        usage: "add|remove ID FILE",
        options: &[],
        end: End::Nowhere,
        arguments: (3, 3),
        run: mounts,
    },
    Command {
        name: "spec",
        help: "write a config.json to begin with",
        usage: "[options]",
        options: &[BUNDLE, flag("rootless", "for an ordinary user")],
        end: End::Nowhere,
        arguments: (0, 0),
        run: spec::spec,
    },
    Command {
        name: "features",
        help: "show what this runtime can do",
        usage: "",
        options: &[],
        end: End::Nowhere,
        arguments: (0, 0),
        run: features::features,
    },
    Command {
        name: "checkpoint",
        help: "write a running container to files (by CRIU), and delete it",
        usage: "[options] ID",
        options: &criu::CHECKPOINT_OPTIONS,
        end: End::Nowhere,
        arguments: (1, 1),
        run: criu::checkpoint,
    },
    Command {
        name: "restore",
        help: "make a container again from files that checkpoint wrote",
        usage: "[options] ID",
        options: &criu::RESTORE_OPTIONS,
        end: End::Nowhere,
        arguments: (1, 1),
        run: criu::restore,
    },
];

pub(super) fn options(context: &Context, parsed: &Parsed) -> Result<Options, Failure> {
    let path = |name| parsed.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(Options {
        bundle: path("bundle").unwrap_or_else(|| PathBuf::from(".")),
        pid_file: path("pid-file"),
        console_socket: path("console-socket"),
        pidfd_socket: path("pidfd-socket"),
        console: None,
        systemd_cgroup: context.systemd_cgroup,
        switches: Switches {
            no_pivot: parsed.has("no-pivot"),
            no_new_keyring: parsed.has("no-new-keyring"),
            preserve_fds: process::preserved(parsed)?,
            environment: process::socket_activation(),
        },
    })
}

fn create(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    // Before anything is opened: the check is whether the caller's descriptors are there.
    let options = options(context, parsed)?;
    crate::seal::seal()?;
    container::create(&context.root, &parsed.rest[0], &options, GateKind::Socket, &context.log)
        .map_err(|e| Failure::of("create", &e))?;
    Ok(0)
}

fn start(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    container::start(&context.root, &parsed.rest[0], &context.log)?;
    Ok(0)
}

fn run(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let options = options(context, parsed)?;
    crate::seal::seal()?;
    let mode = match (parsed.has("detach"), parsed.has("keep")) {
        (true, _) => Mode::Detached,
        (false, true) => Mode::Kept,
        (false, false) => Mode::Foreground,
    };
    let code = container::run(&context.root, &parsed.rest[0], &options, mode, &context.log)
        .map_err(|e| Failure::of("run", &e))?;
    Ok(exit_code(code))
}

fn exec_command(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    // Callers tell by this code that exec failed, not what was executed.
    const FAILED: u8 = 255;
    let run = || -> Result<i32, Failure> {
        let groups = parsed.all("cgroup").map(exec::SubGroup::parse).collect::<Result<_, _>>()?;
        let path = |name| parsed.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let options = exec::Options {
            detach: parsed.has("detach"),
            pid_file: path("pid-file"),
            console_socket: path("console-socket"),
            pidfd_socket: path("pidfd-socket"),
            preserve_fds: process::preserved(parsed)?,
            ignore_paused: parsed.has("ignore-paused"),
            groups,
        };
        crate::seal::seal()?;
        let given = path("process").map(|path| bundle::load_process(&path)).transpose()?;
        let make = |spec: &sampan_oci::runtime::Spec| match given {
            Some(process) => Ok(process),
            None => process::from_options(spec, parsed),
        };
        container::exec(&context.root, &parsed.rest[0], make, &options, &context.log)
            .map_err(|e| Failure::of("exec", &e))
    };
    run().map(exit_code).map_err(|failure| Failure { code: FAILED, ..failure })
}

/// What does not fit is cut off, as by the kernel.
pub(super) fn exit_code(code: i32) -> u8 {
    (code & 0xff) as u8
}

fn kill(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let signal = parsed.rest.get(1).map_or("TERM", String::as_str);
    container::kill(&context.root, &parsed.rest[0], signal, parsed.has("all"))?;
    Ok(0)
}

fn mounts(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let [what, id, file] = parsed.rest.as_slice() else {
        return Err(Refused::Invalid("mounts takes add or remove, an id and a file".to_owned()).into());
    };
    crate::seal::seal()?;
    let mounts = container::mounts::load(std::path::Path::new(file))?;
    match what.as_str() {
        "add" => container::add_mounts(&context.root, id, &mounts)?,
        "remove" => {
            let destinations: Vec<String> = mounts.into_iter().map(|mount| mount.destination).collect();
            container::remove_mounts(&context.root, id, &destinations)?;
        }
        other => return Err(Refused::Invalid(format!("mounts: `{other}` is neither add nor remove")).into()),
    }
    Ok(0)
}

fn delete(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    container::delete(&context.root, &parsed.rest[0], parsed.has("force"), &context.log)?;
    Ok(0)
}

fn pause(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let (directory, record) = context.root.find(&parsed.rest[0])?;
    let _lock = directory.lock()?;
    match directory.status(&record) {
        Status::Running | Status::Created => freezer::freeze(&record.cgroups)?,
        status => {
            return Err(Refused::Invalid(format!("container not running: it is {}", status.name())).into());
        }
    }
    Ok(0)
}

fn resume(context: &Context, parsed: &Parsed) -> Result<u8, Failure> {
    let (directory, record) = context.root.find(&parsed.rest[0])?;
    let _lock = directory.lock()?;
    match directory.status(&record) {
        Status::Paused => freezer::thaw(&record.cgroups)?,
        status => {
            return Err(Refused::Invalid(format!("container not paused: it is {}", status.name())).into());
        }
    }
    Ok(0)
}
