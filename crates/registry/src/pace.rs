//! When to try again: waiting, chance, and being told that nobody waits for the result any more.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sampan_base::Timestamp;

use crate::limits::{FIRST_BACKOFF, MAX_BACKOFF};

/// Clock, chance and waiting; tests have their own, so that they do not wait.
pub trait Pace: Send + Sync + fmt::Debug {
    /// The time of day, for headers that name one and for the ends of tokens.
    fn now(&self) -> Timestamp;
    /// Waits, unless `cancel` is set before or meanwhile; answers whether it waited to the end.
    fn wait(&self, time: Duration, cancel: &Cancel) -> bool;
    /// A number between 0 and 255, so that many clients do not come back at the same moment.
    fn chance(&self) -> u8;
}

/// The host's clock.
#[derive(Debug, Default)]
pub struct RealPace;

impl Pace for RealPace {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn wait(&self, time: Duration, cancel: &Cancel) -> bool {
        cancel.wait(time)
    }

    fn chance(&self) -> u8 {
        let mut byte = [0];
        // Without a random number all clients wait as long, which is no harm to this one.
        let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
        byte[0]
    }
}

/// How long to wait after the `failures`th failure in a row, from 1 on: doubled each time, up to a bound, of which
/// between a half and the whole is taken.
pub(crate) fn backoff(failures: u32, chance: u8) -> Duration {
    let whole = FIRST_BACKOFF.saturating_mul(1 << (failures.clamp(1, 16) - 1)).min(MAX_BACKOFF);
    whole / 2 + whole * u32::from(chance) / 510
}

/// Ends what goes on in other threads: waits are cut short, connections are closed.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    set: bool,
    agents: Vec<ureq::Agent>,
}

impl Cancel {
    /// Cancels, now and for all time.
    pub fn set(&self) {
        let agents = {
            let mut state = self.state();
            state.set = true;
            std::mem::take(&mut state.agents)
        };
        self.0.bell.notify_all();
        for agent in agents {
            agent.shutdown();
        }
    }

    /// Whether it is cancelled.
    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// Has this agent's connections closed when it is cancelled.
    pub(crate) fn watch(&self, agent: &ureq::Agent) {
        let mut state = self.state();
        if state.set {
            agent.clone().shutdown();
        } else {
            state.agents.push(agent.clone());
        }
    }

    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state();
        while !state.set {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.0.bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_set()).finish()
    }
}

/// What a `Retry-After` header asks for: seconds, or a date.
pub(crate) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(header.trim()).ok()?;
    let seconds = at.as_second().saturating_sub(now.unix_seconds());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_vary_by_half() {
        assert_eq!(backoff(1, 0), Duration::from_millis(125));
        assert_eq!(backoff(1, 255), Duration::from_millis(250));
        assert_eq!(backoff(3, 255), Duration::from_secs(1));
        assert_eq!(backoff(40, 255), MAX_BACKOFF);
        assert_eq!(backoff(40, 0), MAX_BACKOFF / 2);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 10:00:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sat, 21 Nov 2026 09:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn a_cancelled_wait_ends_at_once() {
        let cancel = Cancel::default();
        let other = cancel.clone();
        std::thread::spawn(move || other.set());
        assert!(!cancel.wait(Duration::from_secs(3600)));
        assert!(!RealPace.wait(Duration::from_secs(3600), &cancel));
    }
}
