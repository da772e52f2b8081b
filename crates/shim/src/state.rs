//! What may be done to a process, and when.
//!
//! ```text
//!  (Create) -> Created -> Running <-> Paused        the container's first process
//!                 |          |           |
//!                 +----------+-----------+--> Stopped -> (Delete)
//!  (Exec)   -> Added   -> Running --------------^      an exec
//! ```
//! Synchronous and without I/O; [`crate::serve`] does what is allowed here.

use sampan_rpc::ttrpc::{Code, Failure};
use sampan_rpc::types::Status;

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The runtime is making the container.
    Creating,
    /// An exec that has not been started.
    Added,
    /// The container's process waits at the start gate.
    Created,
    /// It runs.
    Running,
    /// It runs, frozen.
    Paused,
    /// It has exited, or an exec could not be started.
    Stopped,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open the start gate, or start the exec.
    Start,
    /// Send a signal.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits.
    Update,
    /// Remove what is left.
    Delete,
}

impl State {
    /// The state on the wire.
    pub fn status(self) -> Status {
        match self {
            State::Creating | State::Added | State::Created => Status::Created,
            State::Running => Status::Running,
            State::Paused => Status::Paused,
            State::Stopped => Status::Stopped,
        }
    }
}

/// Whether `action` may be done in `state`.
///
/// # Errors
/// Why it may not, as the caller shall be told.
pub fn allow(action: Action, state: State) -> Result<(), Failure> {
    use Action::{Delete, Kill, Pause, Resume, Start, Update};
    use State::{Added, Created, Creating, Paused, Running, Stopped};
    let denied = |code, message: &str| Err(Failure { code, message: message.to_owned() });
    match (action, state) {
        (Start, Added | Created)
        | (Kill, Created | Running | Paused)
        | (Pause, Running)
        | (Resume, Paused)
        | (Update, Created | Running | Paused)
        | (Delete, Added | Created | Stopped) => Ok(()),
        (Kill, Stopped) => denied(Code::NotFound, "process already finished"),
        (Kill, Added) => {
            denied(Code::FailedPrecondition, "cannot signal a process that has not been started")
        }
        (Start, Running | Paused) => denied(Code::FailedPrecondition, "process is running already"),
        (Start, Stopped) => denied(Code::FailedPrecondition, "cannot start a process that has stopped"),
        (Delete, Running | Paused) => denied(Code::FailedPrecondition, "cannot delete a running process"),
        (Pause, _) => denied(Code::FailedPrecondition, "cannot pause a container that is not running"),
        (Resume, _) => denied(Code::FailedPrecondition, "cannot resume a container that is not paused"),
        (Update, Stopped | Added) => {
            denied(Code::FailedPrecondition, "cannot update a container that has stopped")
        }
        (_, Creating) => denied(Code::FailedPrecondition, "the container is being created"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_can_only_be_deleted() {
        for action in [Action::Start, Action::Kill, Action::Pause, Action::Resume, Action::Update] {
            assert!(allow(action, State::Stopped).is_err(), "{action:?}");
        }
        assert_eq!(allow(Action::Kill, State::Stopped).unwrap_err().code, Code::NotFound);
        assert!(allow(Action::Delete, State::Stopped).is_ok());
        assert!(allow(Action::Delete, State::Running).is_err());
    }
}
