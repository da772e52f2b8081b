//! One at a time for each key: who comes second waits, and then finds what the first one has made.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Whose turn it is, for each key.
#[derive(Debug)]
pub struct Turns<K> {
    taken: Mutex<HashSet<K>>,
    free: Condvar,
}

impl<K> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns { taken: Mutex::new(HashSet::new()), free: Condvar::new() }
    }
}

/// It is one's turn for as long as this lives.
#[derive(Debug)]
pub struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K> Turns<K> {
    fn taken(&self) -> MutexGuard<'_, HashSet<K>> {
        // A thread that panics gives its turn back like any other.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits until it is nobody else's turn.
    pub fn take(&self, key: K) -> Turn<'_, K> {
        let mut taken = self.taken();
        while !taken.insert(key.clone()) {
            taken = self.free.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        drop(taken);
        Turn { turns: self, key }
    }
}

impl<K: Eq + Hash> Turn<'_, K> {
    /// What it is for.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.turns.taken().remove(&self.key);
        self.turns.free.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_for_a_key_and_all_at_once_for_different_ones() {
        let (turns, inside, most) = (Turns::default(), AtomicU32::new(0), AtomicU32::new(0));
        let other = turns.take("b");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let turn = turns.take("a");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(*turn.key(), "a");
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        drop(other);
        drop(turns.take("b"));
    }
}
