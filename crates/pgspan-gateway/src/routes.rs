//! Counts per strategy and reason: what `SHOW pgspan.routes` lists.

use pgspan_sql::route::{Route, Strategy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts of one gateway since its start.
#[derive(Debug, Default)]
pub struct Routes {
    relayed: AtomicU64,
    others: Mutex<BTreeMap<(Strategy, &'static str), u64>>,
}

impl Routes {
    /// Counts statements that name no foreign table.
    pub fn count_relayed(&self) {
        self.relayed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a routed statement.
    pub fn count(&self, route: &Route) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        *others.entry((route.strategy, route.reason.what)).or_default() += 1;
    }

    /// Rows of strategy, reason and count.
    pub fn rows(&self) -> Vec<(Strategy, &'static str, u64)> {
        let relayed = self.relayed.load(Ordering::Relaxed);
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::once((Strategy::Relay, "no foreign table is named", relayed))
            .chain(others.iter().map(|((s, r), n)| (*s, *r, *n)))
            .collect()
    }
}
