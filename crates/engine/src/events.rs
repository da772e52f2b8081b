//! What happens in the engine, as events: a bounded past and a live stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sampan_base::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept (as many as Docker keeps).
const PAST: usize = 256;
/// How many events a slow listener may be behind before it loses some.
const BEHIND: usize = 1024;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// To what sort of thing.
    pub kind: EventKind,
    /// What: `create`, `start`, `die`, `exec_start: sh -c …`.
    pub action: String,
    /// The thing's id.
    pub id: String,
    /// More about it: `name`, `image`, `exitCode`, labels.
    pub attributes: BTreeMap<String, String>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The build cache.
    Builder,
    /// The daemon itself.
    Daemon,
}

/// The engine's events.
#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<Event>>,
    count: AtomicU64,
    live: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Events {
        Events { past: Mutex::default(), count: AtomicU64::new(0), live: broadcast::Sender::new(BEHIND) }
    }
}

impl Events {
    /// Notes an event and tells all listeners.
    pub fn publish(
        &self,
        kind: EventKind,
        action: impl Into<String>,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let event =
            Event { at: Timestamp::now(), kind, action: action.into(), id: id.to_owned(), attributes };
        let mut past = self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.count.fetch_add(1, Ordering::Relaxed);
        if past.len() == PAST {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that `subscribe` sees each event exactly once. No listener is no error.
        let _ = self.live.send(event);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// The kept past and everything from now on.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_gets_the_past_and_then_the_rest() {
        let events = Events::default();
        for n in 0..PAST + 1 {
            events.publish(EventKind::Container, "create", &n.to_string(), BTreeMap::new());
        }
        let (past, mut live) = events.subscribe();
        assert_eq!((past.len(), past[0].id.as_str()), (PAST, "1"));
        events.publish(EventKind::Image, "tag", "x", BTreeMap::new());
        assert_eq!(live.try_recv().unwrap().action, "tag");
    }
}
