//! Sends signals to a container's processes.

use rustix::process::Signal;
use sampan_base::Class;
use sampan_kernel::cgroup::Version;

use crate::cgroup::{self, freezer};
use crate::error::Step;
use crate::state::{self, LookupError, StateRoot};

/// A container that can't be signalled.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// It can't be found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its process has ended. (Callers look for this text: to them it is success.)
    #[error("container not running")]
    NotRunning,
    /// The signal is none.
    #[error("unknown signal `{text}`")]
    UnknownSignal {
        /// As given.
        text: String,
    },
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Step),
}

impl KillError {
    /// The class to report.
    pub fn class(&self) -> Class {
        match self {
            KillError::Lookup(error) => error.class(),
            KillError::NotRunning => Class::Conflict,
            KillError::UnknownSignal { .. } => Class::Invalid,
            KillError::Step(error) => error.class(),
        }
    }
}

/// Sends a signal to a container's first process, or to all of its processes. Signal 0 only asks whether it could be.
///
/// # Errors
/// If there is none, or it can't be signalled.
pub fn kill(root: &StateRoot, id: &str, signal: &str, all: bool) -> Result<(), KillError> {
    let wanted = match signal {
        "0" => None,
        text => Some(parse_signal(text).ok_or_else(|| KillError::UnknownSignal { text: text.to_owned() })?),
    };
    let (_, record) = root.find(id)?;
    let process = state::open_process(&record).map_err(Step::on(|| "open the container's process"))?;
    let Some(signal) = wanted else {
        return if process.is_some() || all { Ok(()) } else { Err(KillError::NotRunning) };
    };
    // A namespace of its own ends with the first process, and every other with it; without one, the others live on.
    let others_live = signal == Signal::KILL && !record.has_own_pids() && !record.shares_cgroups;
    match process {
        _ if all => cgroup::signal_all(&record.cgroups, signal)?,
        None if others_live && !cgroup::processes(&record.cgroups)?.is_empty() => {
            cgroup::signal_all(&record.cgroups, signal)?;
        }
        None => return Err(KillError::NotRunning),
        Some(_) if others_live => cgroup::signal_all(&record.cgroups, signal)?,
        Some(process) => match rustix::process::pidfd_send_signal(&process, signal) {
            Err(rustix::io::Errno::SRCH) => return Err(KillError::NotRunning),
            other => other.map_err(Step::on(|| "send a signal to the container's process"))?,
        },
    }
    // In v1, a frozen process dies only when it is thawed.
    let v1 = record.cgroups.iter().any(|g| g.version() == Version::V1);
    if signal == Signal::KILL && v1 && freezer::is_frozen(&record.cgroups) {
        freezer::thaw(&record.cgroups)?;
    }
    Ok(())
}

/// Signals by name, in the order of their numbers from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// A signal by number or by name, with or without `SIG`, in any case.
pub fn parse_signal(text: &str) -> Option<Signal> {
    let number = if let Ok(number) = text.parse::<i32>() {
        number
    } else {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        match name {
            "CLD" => 17,
            "IOT" => 6,
            "POLL" => 29,
            "RTMIN" => SIGRTMIN,
            "RTMAX" => SIGRTMAX,
            _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
                (Some(more), _) => from_real_time_range(SIGRTMIN + i32::from(more.parse::<u8>().ok()?))?,
                (_, Some(less)) => from_real_time_range(SIGRTMAX - i32::from(less.parse::<u8>().ok()?))?,
                _ => i32::try_from(NAMES.iter().position(|n| *n == name)? + 1).ok()?,
            },
        }
    };
    Signal::from_named_raw(number).or_else(|| real_time(number))
}

fn from_real_time_range(number: i32) -> Option<i32> {
    (SIGRTMIN..=SIGRTMAX).contains(&number).then_some(number)
}

/// A real-time signal: the C library has no use for it here, since this program is the only thread.
fn real_time(number: i32) -> Option<Signal> {
    sampan_kernel::signals::real_time(from_real_time_range(number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        let number = |text| parse_signal(text).map(Signal::as_raw);
        for (text, expected) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("WINCH", 28),
            ("SYS", 31),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("37", 37),
        ] {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in ["", "0", "-1", "65", "SIG", "MOON", "RTMIN+31", "RTMAX-40", "99999999999"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
