//! What is known of each database's catalog ahead of any statement, for all sessions in it.

use lru::LruCache;
use pgspan_sql::catalog::{CatalogSnapshot, Piece, Row};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known of one database, shared by its sessions on every endpoint.
#[derive(Default)]
pub(crate) struct Database {
    state: Mutex<DatabaseState>,
}

#[derive(Default)]
struct DatabaseState {
    catalog: Arc<CatalogSnapshot>,
    /// When each piece of it was asked for.
    ages: [Age; Piece::ALL.len()],
}

/// How old a piece of the catalog is.
#[derive(Default, Clone, Copy)]
struct Age {
    /// When it was asked for; `None`: never, or something has changed it since.
    asked_at: Option<Instant>,
    /// Until when it is asked for often: a replica may lag behind a change.
    restless_until: Option<Instant>,
}

impl Age {
    fn is_restless(&self, now: Instant) -> bool {
        self.restless_until.is_some_and(|until| now < until)
    }
}

/// What is known of each cluster's databases, which all sessions in one share.
pub(crate) struct Databases {
    /// By cluster and name; whose last session began longest ago goes first.
    known: Mutex<LruCache<(String, String), Arc<Database>>>,
}

/// So many databases are remembered in which nobody has a session any more: about 0.3 MB each.
const DATABASES_LEFT_MAX: usize = 32;

impl Default for Databases {
    fn default() -> Databases {
        Databases { known: Mutex::new(LruCache::unbounded()) }
    }
}

impl Databases {
    fn lock(&self) -> MutexGuard<'_, LruCache<(String, String), Arc<Database>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that a session is about to be in.
    pub fn enter(&self, cluster: &str, name: &str) -> Arc<Database> {
        let mut known = self.lock();
        let entered =
            known.get_or_insert((cluster.to_owned(), name.to_owned()), Arc::default).clone();
        // Sessions that are in one database have one knowledge of it: what one of them has
        // changed is in doubt for the others. So only what no session holds may go.
        let is_left =
            |database: &Arc<Database>| Arc::strong_count(database) == 1 && !database.is_restless();
        let left = known.iter().filter(|(_, database)| is_left(database)).count();
        let goes = known.iter().rev().filter(|(_, database)| is_left(database));
        let goes = goes.map(|(key, _)| key.clone()).take(left.saturating_sub(DATABASES_LEFT_MAX));
        for key in goes.collect::<Vec<_>>() {
            known.pop(&key);
        }
        entered
    }
}

/// A restless piece is asked for at most this often.
const RESTLESS_EVERY: Duration = Duration::from_millis(200);

/// For how long a piece is restless behind a change.
const RESTLESS_FOR: Duration = Duration::from_secs(10);

impl Database {
    /// The catalog as last read.
    pub fn catalog(&self) -> Arc<CatalogSnapshot> {
        self.lock().catalog.clone()
    }

    /// Whether a piece of it is due to be read again.
    pub fn is_due(&self, piece: Piece, age_max: Duration) -> bool {
        let age = self.lock().ages[piece as usize];
        let now = Instant::now();
        let age_max = if age.is_restless(now) { RESTLESS_EVERY } else { age_max };
        age.asked_at.is_none_or(|t| now.duration_since(t) > age_max)
    }

    /// Whether something has been changed lately, which a replica may not show yet.
    fn is_restless(&self) -> bool {
        let now = Instant::now();
        self.lock().ages.iter().any(|age| age.is_restless(now))
    }

    /// Somebody asks for a piece now; others go on with what is known.
    pub fn being_read(&self, piece: Piece) {
        self.lock().ages[piece as usize].asked_at = Some(Instant::now());
    }

    /// Takes a newly read piece. It stays in doubt if something has changed it since it was
    /// asked for. What is as it was keeps what was made of it: texts that are analyzed, for
    /// one.
    pub fn replace(&self, piece: Piece, rows: &[Row]) {
        loop {
            let known = self.catalog();
            // Not under the lock: what finds thousands of names takes milliseconds to make.
            let Some(new) = known.with(piece, rows) else { return };
            let mut state = self.lock();
            // Unless another piece came meanwhile.
            if Arc::ptr_eq(&state.catalog, &known) {
                state.catalog = Arc::new(new);
                return;
            }
        }
    }

    /// Pieces could not be read: they are asked for again soon.
    pub fn not_read(&self, pieces: &[Piece]) {
        let mut state = self.lock();
        for piece in pieces {
            state.ages[*piece as usize].restless_until = Some(Instant::now() + RESTLESS_FOR);
        }
    }

    /// Something may have changed these pieces.
    pub fn disturb(&self, pieces: &[Piece]) {
        let mut state = self.lock();
        for piece in pieces {
            let restless_until = Some(Instant::now() + RESTLESS_FOR);
            state.ages[*piece as usize] = Age { asked_at: None, restless_until };
        }
    }

    fn lock(&self) -> MutexGuard<'_, DatabaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_with_a_session_is_never_forgotten() {
        let databases = Databases::default();
        let session = databases.enter("users", "own");
        for n in 0..4 * DATABASES_LEFT_MAX {
            databases.enter("users", &n.to_string());
        }
        assert!(Arc::ptr_eq(&session, &databases.enter("users", "own")));
        assert_eq!(databases.lock().len(), 1 + DATABASES_LEFT_MAX);
        let last = (4 * DATABASES_LEFT_MAX - 1).to_string();
        assert!(databases.lock().contains(&("users".to_owned(), last)));
    }

    #[test]
    fn what_has_been_changed_lately_is_remembered() {
        let databases = Databases::default();
        databases.enter("users", "changed").disturb(&[Piece::ForeignNames]);
        (0..4 * DATABASES_LEFT_MAX).for_each(|n| drop(databases.enter("users", &n.to_string())));
        assert!(databases.lock().contains(&("users".to_owned(), "changed".to_owned())));
    }
}
