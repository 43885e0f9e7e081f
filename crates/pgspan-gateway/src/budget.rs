//! Memory that all sessions together may have of one kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many bytes for all.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    bytes_max: usize,
}

/// What somebody has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), bytes_max })
    }

    /// A share without bytes.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// A share of so many bytes; `None`: there are not as many left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let mut share = self.share();
        share.resize(bytes).then_some(share)
    }

    /// Bytes in use, and all.
    pub fn counts(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.bytes_max)
    }
}

impl Share {
    /// Has so many bytes from now on; `false`: there are not as many left, and it stays as it
    /// was.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let (own, max) = (self.bytes, self.budget.bytes_max);
        let changed = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let used = used - own + bytes;
            // Giving back is always possible.
            (used <= max || bytes <= own).then_some(used)
        });
        if changed.is_ok() {
            self.bytes = bytes;
        }
        changed.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_there_is() {
        let budget = Budget::new(100);
        let mut one = budget.take(60);
        assert!(one.is_some() && budget.take(41).is_none());
        let two = budget.take(40);
        assert_eq!(budget.counts(), (100, 100));
        if let Some(one) = &mut one {
            assert!(!one.resize(61) && one.resize(10));
        }
        assert_eq!(budget.counts().0, 50);
        drop((one, two));
        assert_eq!(budget.counts().0, 0);
    }
}
