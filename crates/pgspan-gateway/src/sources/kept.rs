//! What is remembered from one statement to the next, within a number of entries and of
//! bytes: what was used least recently goes first.

use lru::LruCache;
use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one entry takes besides what its owner counts: keys, lists, allocations. In bytes.
const ENTRY_BYTES: usize = 512;

/// No entry may have more than this part of the bytes: it would push out all the others.
const SHARE: usize = 4;

/// Entries by a key.
pub(crate) struct Kept<K, V> {
    state: Mutex<State<K, V>>,
    entries_max: usize,
    bytes_max: usize,
}

struct State<K, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

/// How much memory a kind of thing has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptCounts {
    pub what: &'static str,
    /// `None`: they are not counted.
    pub entries: Option<usize>,
    pub bytes: usize,
    pub bytes_max: usize,
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// At most so many entries, which have at most so many bytes together.
    pub fn new(entries_max: usize, bytes_max: usize) -> Kept<K, V> {
        let state = Mutex::new(State { entries: LruCache::unbounded(), bytes: 0 });
        Kept { state, entries_max: entries_max.max(1), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Remembers an entry that has so many bytes, key and value; one that is too large for its
    /// share is not remembered.
    pub fn put(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes.saturating_add(ENTRY_BYTES);
        // What is dropped may be large: not while others wait for the lock.
        let mut gone = Vec::new();
        let mut state = self.lock();
        if let Some((value, old)) = state.entries.pop(&key) {
            state.bytes -= old;
            gone.push(value);
        }
        if bytes > self.bytes_max / SHARE {
            return;
        }
        while state.bytes + bytes > self.bytes_max || state.entries.len() >= self.entries_max {
            let Some((_, (value, old))) = state.entries.pop_lru() else { break };
            state.bytes -= old;
            gone.push(value);
        }
        state.bytes += bytes;
        state.entries.put(key, (value, bytes));
        drop(state);
        drop(gone);
    }

    pub fn remove(&self, key: &K) {
        let mut state = self.lock();
        let gone = state.entries.pop(key);
        state.bytes -= gone.as_ref().map_or(0, |(_, bytes)| *bytes);
        drop(state);
    }

    /// Forgets the entries whose key is not to be kept.
    pub fn retain(&self, keep: impl Fn(&K) -> bool)
    where
        K: Clone,
    {
        let mut state = self.lock();
        let goes = state.entries.iter().map(|(key, _)| key).filter(|key| !keep(key));
        for key in goes.cloned().collect::<Vec<K>>() {
            let bytes = state.entries.pop(&key).map_or(0, |(_, bytes)| bytes);
            state.bytes -= bytes;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// How much that is.
    pub fn counts(&self, what: &'static str) -> KeptCounts {
        let state = self.lock();
        let (entries, bytes) = (state.entries.len(), state.bytes);
        KeptCounts { what, entries: Some(entries), bytes, bytes_max: self.bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_least_recently_goes_when_there_is_too_much() {
        let own = 1024 - ENTRY_BYTES;
        let kept: Kept<u32, u32> = Kept::new(10, 8 * 1024);
        (0..9).for_each(|n| kept.put(n, n, own));
        assert_eq!(kept.counts("n").bytes, 8 * 1024);
        assert_eq!((kept.get(&0), kept.get(&1)), (None, Some(1)));
        kept.put(9, 9, own);
        assert_eq!((kept.get(&1), kept.get(&2)), (Some(1), None));
        // One that is known already takes its place.
        kept.put(1, 11, own);
        assert_eq!((kept.get(&1), kept.counts("n").entries), (Some(11), Some(8)));
        kept.retain(|n| *n == 1);
        assert_eq!(kept.counts("n").bytes, 1024);
        kept.remove(&1);
        assert!(kept.is_empty() && kept.counts("n").bytes == 0);
    }

    #[test]
    fn there_are_as_many_as_may_be_and_none_is_too_large() {
        let kept: Kept<u32, u32> = Kept::new(3, 1024 * 1024);
        (0..5).for_each(|n| kept.put(n, n, 0));
        assert_eq!(kept.counts("n").entries, Some(3));
        kept.put(4, 4, 1024 * 1024);
        assert_eq!(kept.get(&4), None);
        assert_eq!((kept.counts("n").entries, kept.get(&3)), (Some(2), Some(3)));
    }
}
