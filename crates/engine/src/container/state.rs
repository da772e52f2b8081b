//! Where a container is in its life, and what may be done to it there. Synchronous, no I/O.
//!
//! ```text
//!            start            pause
//! Created ---------> Running <-------> Paused
//!    |                 |       resume     |
//!    |                 | exit             | exit (killed)
//!    |                 v                  |
//!    |               Exited <-------------+       (or Restarting, if the restart policy says so:
//!    |                 |  `--- start ---> Running   it goes on to Running by itself after a pause,
//!    +----- remove ----+----> (record gone)         or to Exited if it is stopped meanwhile)
//! ```

use sampan_base::{Class, Timestamp};
use serde::{Deserialize, Serialize};

/// A phase of a container's life.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Phase {
    /// Never started, or its only start failed.
    Created {
        /// Why the start failed, if it did.
        error: Option<StartFailure>,
    },
    /// Its process runs.
    Running {
        /// Process id on the host.
        pid: u32,
        /// Since when.
        started_at: Timestamp,
    },
    /// Its processes are frozen.
    Paused {
        /// Process id on the host.
        pid: u32,
        /// Since when it runs.
        started_at: Timestamp,
    },
    /// Its process has ended, and its restart policy starts it again after a pause.
    Restarting(Exit),
    /// Its process has ended.
    Exited(Exit),
}

/// How a run ended.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Exit {
    /// The exit code; 128 + the signal's number if one ended it.
    pub code: i32,
    /// The kernel killed for want of memory.
    pub oom_killed: bool,
    /// When the run began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What went wrong besides, for people.
    pub error: String,
}

/// Why a start failed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StartFailure {
    /// For people.
    pub message: String,
    /// 127, 126 or 128.
    pub exit_code: i32,
    /// When.
    pub at: Timestamp,
}

/// What may be asked of a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Run its process.
    Start,
    /// Ask it to end.
    Stop,
    /// Send it a signal.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Run another process in it.
    Exec,
    /// Connect a client to its process.
    Attach,
    /// Set its terminal's size.
    Resize,
    /// Remove it (not by force).
    Remove,
}

/// Why it may not be done now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It already runs.
    #[error("container {id} is already running")]
    AlreadyRunning {
        /// The container.
        id: String,
    },
    /// It does not run.
    #[error("Container {id} is not running")]
    NotRunning {
        /// The container.
        id: String,
    },
    /// It can't be stopped because it does not run: nothing to do.
    #[error("container {id} is already stopped")]
    AlreadyStopped {
        /// The container.
        id: String,
    },
    /// It is frozen.
    #[error("Container {id} is paused, unpause the container before {doing}")]
    Frozen {
        /// The container.
        id: String,
        /// What was asked.
        doing: &'static str,
    },
    /// It is frozen, and so runs.
    #[error("cannot start a paused container, try unpause instead")]
    FrozenStart,
    /// It waits for its restart.
    #[error("Container {id} is restarting, wait until the container is running")]
    Restarting {
        /// The container.
        id: String,
    },
    /// It is frozen already.
    #[error("Container {id} is already paused")]
    AlreadyPaused {
        /// The container.
        id: String,
    },
    /// It is not frozen.
    #[error("Container {id} is not paused")]
    NotPaused {
        /// The container.
        id: String,
    },
    /// It must not be removed while it runs.
    #[error(
        "You cannot remove a {phase} container {id}. {}",
        if *phase == "paused" { "Unpause and then stop the container before attempting removal or force remove" } else { "Stop the container before attempting removal or force remove" }
    )]
    RemoveRunning {
        /// The container.
        id: String,
        /// `running`, `paused` or `restarting`.
        phase: &'static str,
    },
}

impl Denial {
    /// The class for the skin's table of codes.
    pub fn class(&self) -> Class {
        match self {
            Denial::AlreadyRunning { .. } | Denial::AlreadyStopped { .. } => Class::NotModified,
            _ => Class::Conflict,
        }
    }
}

impl Phase {
    /// Whether `verb` may be done to container `id` in this phase.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, verb: Verb, id: &str) -> Result<(), Denial> {
        let id = || id.to_owned();
        match (self, verb) {
            // A client that attaches before the start sees all of it.
            (Phase::Created { .. } | Phase::Exited(_), Verb::Start | Verb::Remove | Verb::Attach) => Ok(()),
            (Phase::Created { .. } | Phase::Exited(_), Verb::Stop) => {
                Err(Denial::AlreadyStopped { id: id() })
            }
            (Phase::Created { .. } | Phase::Exited(_), Verb::Resume) => Err(Denial::NotPaused { id: id() }),
            (Phase::Created { .. } | Phase::Exited(_), _) => Err(Denial::NotRunning { id: id() }),
            (Phase::Running { .. }, Verb::Start) => Err(Denial::AlreadyRunning { id: id() }),
            (Phase::Running { .. }, Verb::Resume) => Err(Denial::NotPaused { id: id() }),
            (Phase::Running { .. }, Verb::Remove) => {
                Err(Denial::RemoveRunning { id: id(), phase: "running" })
            }
            (Phase::Running { .. }, _) => Ok(()),
            (Phase::Paused { .. }, Verb::Start) => Err(Denial::FrozenStart),
            (Phase::Paused { .. }, Verb::Exec) => Err(Denial::Frozen { id: id(), doing: "exec" }),
            (Phase::Paused { .. }, Verb::Attach) => Err(Denial::Frozen { id: id(), doing: "attach" }),
            (Phase::Paused { .. }, Verb::Pause) => Err(Denial::AlreadyPaused { id: id() }),
            (Phase::Paused { .. }, Verb::Remove) => Err(Denial::RemoveRunning { id: id(), phase: "paused" }),
            (Phase::Paused { .. }, _) => Ok(()),
            // Stopping or killing one that waits for its restart ends the waiting.
            (Phase::Restarting(_), Verb::Stop | Verb::Kill) => Ok(()),
            (Phase::Restarting(_), Verb::Start) => Err(Denial::AlreadyRunning { id: id() }),
            (Phase::Restarting(_), Verb::Resume) => Err(Denial::NotPaused { id: id() }),
            (Phase::Restarting(_), Verb::Remove) => {
                Err(Denial::RemoveRunning { id: id(), phase: "restarting" })
            }
            (Phase::Restarting(_), _) => Err(Denial::Restarting { id: id() }),
        }
    }

    /// The process id on the host, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Phase::Running { pid, .. } | Phase::Paused { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// Whether a process of it exists.
    pub fn is_alive(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether it is on: a process of it exists, or will again by itself.
    pub fn is_on(&self) -> bool {
        self.is_alive() || matches!(self, Phase::Restarting(_))
    }

    /// How its last run ended, if it does not run.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Phase::Restarting(exit) | Phase::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line a phase: what each verb gets.
    fn table() -> String {
        let t: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let exit = Exit { code: 0, oom_killed: false, started_at: t, finished_at: t, error: String::new() };
        let phases = [
            ("created", Phase::Created { error: None }),
            ("running", Phase::Running { pid: 1, started_at: t }),
            ("paused", Phase::Paused { pid: 1, started_at: t }),
            ("restarting", Phase::Restarting(exit.clone())),
            ("exited", Phase::Exited(exit)),
        ];
        use Verb::*;
        let mut text = String::new();
        for (name, phase) in phases {
            for verb in [Start, Stop, Kill, Pause, Resume, Exec, Attach, Resize, Remove] {
                let answer = match phase.allows(verb, "c") {
                    Ok(()) => "yes".to_owned(),
                    Err(denial) => format!("{:?}: {denial}", denial.class()),
                };
                text += &format!("{name} {verb:?}: {answer}\n");
            }
        }
        text
    }

    #[test]
    fn every_phase_answers_every_verb() {
        expect_test::expect_file!["state_table.txt"].assert_eq(&table());
    }
}
