//! Counts per strategy and reason: what `SHOW pgspan.routes` lists, of each user's own.

use pgspan_sql::cause::Cause;
use pgspan_sql::route::{Route, Strategy};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of one gateway since its start, by who has logged in.
#[derive(Debug, Default)]
pub struct Routes {
    users: Mutex<BTreeMap<String, Arc<UserRoutes>>>,
}

/// Those of one user's sessions.
#[derive(Debug, Default)]
pub struct UserRoutes {
    relayed: AtomicU64,
    others: Mutex<BTreeMap<(Strategy, Cause), u64>>,
}

impl UserRoutes {
    /// Counts statements that name no foreign table.
    pub fn count_relayed(&self) {
        self.relayed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a routed statement.
    pub fn count(&self, route: &Route) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        *others.entry((route.strategy, route.reason.cause)).or_default() += 1;
    }
}

impl Routes {
    /// The counts of a user who has been let in.
    pub fn of(&self, user: &str) -> Arc<UserRoutes> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.entry(user.to_owned()).or_default().clone()
    }

    /// Rows of strategy, reason and count; `None`: of all users.
    pub fn rows(&self, user: Option<&str>) -> Vec<(Strategy, &'static str, u64)> {
        let mut sums: BTreeMap<(Strategy, &'static str), u64> = BTreeMap::new();
        let mut relayed = 0;
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, own) in users.iter().filter(|(name, _)| user.is_none_or(|user| user == *name)) {
            relayed += own.relayed.load(Ordering::Relaxed);
            let others = own.others.lock().unwrap_or_else(PoisonError::into_inner);
            for ((strategy, cause), count) in &*others {
                *sums.entry((*strategy, cause.label())).or_default() += count;
            }
        }
        std::iter::once((Strategy::Relay, Cause::NoForeignTable.label(), relayed))
            .chain(sums.into_iter().map(|((strategy, reason), count)| (strategy, reason, count)))
            .collect()
    }
}
