//! What the engine has fetched for the statements that run now: `SHOW pgspan.progress`.

use pgspan_engine::Progress;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One fragment of a running statement.
pub(crate) struct Part {
    /// Tables that it reads.
    pub tables: String,
    /// Foreign server, or `home`.
    pub server: String,
    /// Rows that its database expects.
    pub rows_expected: f64,
    /// Connections that read it.
    pub connections: usize,
    /// What has come.
    pub progress: Arc<Progress>,
}

/// A running statement.
struct Entry {
    /// The process number that the client knows.
    pid: i32,
    /// Who has logged in.
    user: String,
    started: Instant,
    parts: Vec<Part>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Running {
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
    next: Mutex<u64>,
}

/// Takes a statement off the list when dropped.
pub(crate) struct Listed {
    number: u64,
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
}

/// A line of the list.
pub(crate) struct Line {
    pub pid: i32,
    pub tables: String,
    pub server: String,
    pub rows: u64,
    pub rows_expected: f64,
    pub bytes: u64,
    pub connections: usize,
    pub elapsed: Duration,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Lists a statement until the guard is dropped.
    pub fn list(&self, (pid, user): (i32, &str), parts: Vec<Part>) -> Listed {
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let user = user.to_owned();
        lock(&self.entries).insert(number, Entry { pid, user, started: Instant::now(), parts });
        Listed { number, entries: self.entries.clone() }
    }

    /// One line for each fragment of a user's statements; `None`: of everybody's.
    pub fn lines(&self, user: Option<&str>) -> Vec<Line> {
        let entries = lock(&self.entries);
        let line = |e: &Entry, p: &Part| Line {
            pid: e.pid,
            tables: p.tables.clone(),
            server: p.server.clone(),
            rows: p.progress.rows.load(Ordering::Relaxed),
            rows_expected: p.rows_expected,
            bytes: p.progress.bytes.load(Ordering::Relaxed),
            connections: p.connections,
            elapsed: e.started.elapsed(),
        };
        let own = entries.values().filter(|e| user.is_none_or(|user| user == e.user));
        own.flat_map(|e| e.parts.iter().map(move |p| line(e, p))).collect()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.entries).remove(&self.number);
    }
}
