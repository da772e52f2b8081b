//! Restart policies: whether a container that has ended starts again, and after which pause. Pure.

use std::time::Duration;

use crate::metadata::ContainerRecord;
use crate::spec::RestartPolicy;

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(60);
/// A run that took this long was a good one: the next pause is the first one again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// The pauses between a container's runs, each twice the one before.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// The pause after a run of this length.
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if ran < GOOD_RUN => last.saturating_mul(2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(pause);
        pause
    }
}

/// Whether the container of `record` starts again after it ended with `code`.
pub(crate) fn is_due(record: &ContainerRecord, code: i32) -> bool {
    is_wanted(record.spec.restart_policy, code, record.restart_count, record.stopped_by_hand)
}

/// Whether a container starts again after it ended with `code`; it has been restarted `count` times by its policy.
pub(crate) fn is_wanted(policy: RestartPolicy, code: i32, count: u32, stopped_by_hand: bool) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_hand,
        RestartPolicy::OnFailure { max_retries } => code != 0 && (max_retries == 0 || count < max_retries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_again_after_a_good_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<u128> = (0..12).map(|_| backoff.next(short).as_millis()).collect();
        let doubled = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000];
        assert_eq!(pauses, doubled);
        assert_eq!(backoff.next(GOOD_RUN).as_millis(), 100);
        assert_eq!(backoff.next(short).as_millis(), 200);
    }

    #[test]
    fn each_policy_decides_by_code_count_and_hand() {
        let on_failure = |max_retries| RestartPolicy::OnFailure { max_retries };
        for (policy, code, count, by_hand, expected) in [
            (RestartPolicy::No, 1, 0, false, false),
            (RestartPolicy::Always, 0, 99, false, true),
            (RestartPolicy::Always, 0, 0, true, true),
            (RestartPolicy::UnlessStopped, 0, 0, false, true),
            (RestartPolicy::UnlessStopped, 1, 0, true, false),
            (on_failure(0), 1, 99, false, true),
            (on_failure(0), 0, 0, false, false),
            (on_failure(3), 1, 2, false, true),
            (on_failure(3), 1, 3, false, false),
        ] {
            let wanted = is_wanted(policy, code, count, by_hand);
            assert_eq!(wanted, expected, "{policy:?} {code} {count} {by_hand}");
        }
    }
}
