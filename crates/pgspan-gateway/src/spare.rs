//! Home connections whose clients have left, kept for the next: with `home_idle_s_max`
//! the gateway pools sessions as PgBouncer does in session mode.
//!
//! A client gets a spare one only where it could not tell it from a new one, but for its
//! age: the same startup parameters, everything reset (`DISCARD ALL`), and nothing
//! changed since it was opened of what a new one would begin with.

use pgspan_pool::{ConnectError, ConnectOptions, ServerConnection, connect};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What decides whether this role is let into this database, and with which settings.
/// NULL where a trigger runs at login (PostgreSQL 17), which a spare connection would miss.
const STANDING: &str = "SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger t WHERE t.evtevent OPERATOR(pg_catalog.=) 'login') THEN \
  pg_catalog.concat_ws('/', r.oid, r.rolname, r.rolcanlogin, r.rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now(), d.oid, d.datallowconn, \
  pg_catalog.has_database_privilege(d.oid, 'CONNECT'), \
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(s.setdatabase, s.setrole, s.setconfig) ORDER BY s.setdatabase, s.setrole) \
   FROM pg_catalog.pg_db_role_setting s WHERE s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, d.oid]) \
   AND s.setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0::pg_catalog.oid, r.oid]))) END \
 FROM pg_catalog.pg_roles r, pg_catalog.pg_database d \
 WHERE r.rolname OPERATOR(pg_catalog.=) SESSION_USER AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// SQLSTATE `too_many_connections`.
const TOO_MANY: &str = "53300";

/// How often a full server is asked again once it has been given room, and after what.
const TRIES: u32 = 20;
const TRY_EVERY: Duration = Duration::from_millis(25);

/// How a connection was opened, for whom it may serve next.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    options: Arc<ConnectOptions>,
    standing: Vec<u8>,
}

struct Kept {
    connection: ServerConnection,
    standing: Vec<u8>,
    since: Instant,
}

/// The spare connections of one gateway.
pub(crate) struct Spare {
    kept: Mutex<HashMap<Arc<ConnectOptions>, Vec<Kept>>>,
    age_max: Duration,
    count_max: usize,
}

impl Spare {
    /// Connections are kept for `age_max`, not at all when it is zero; at most `count_max`, and
    /// of one role half of them.
    pub fn new(age_max: Duration, count_max: usize) -> Spare {
        Spare { kept: Mutex::default(), age_max, count_max }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<ConnectOptions>, Vec<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spare connection, or a new one; with its origin, if it may be kept.
    ///
    /// # Errors
    /// [`ConnectError`] when a new one cannot be opened.
    pub async fn connect(
        &self,
        options: ConnectOptions,
    ) -> Result<(ServerConnection, Option<Origin>), ConnectError> {
        if self.age_max.is_zero() {
            return Ok((connect::connect(&options).await?, None));
        }
        let options = Arc::new(options);
        while let Some(mut kept) = self.pop(&options) {
            // The server may have ended it, or may have changed.
            let standing = standing(&mut kept.connection, options.timeout).await;
            if standing.is_some_and(|s| s == kept.standing) && kept.connection.is_clean() {
                let origin = Origin { options, standing: kept.standing };
                return Ok((kept.connection, Some(origin)));
            }
        }
        let mut connection = self.open(&options).await?;
        let standing = standing(&mut connection, options.timeout).await;
        if !connection.is_clean() {
            // Half of an answer would meet the client.
            let address = connection.cancel_key.address;
            let (host, port) = (address.ip().to_string(), address.port());
            let source = std::io::ErrorKind::TimedOut.into();
            return Err(ConnectError::Unreachable { host, port, source });
        }
        Ok((connection, standing.map(|standing| Origin { options, standing })))
    }

    /// A new connection; a server that has no more gets back what is spare there.
    async fn open(&self, options: &ConnectOptions) -> Result<ServerConnection, ConnectError> {
        let mut tries = 0;
        loop {
            match connect::connect(options).await {
                Err(ConnectError::Refused { error, .. })
                    if error.sqlstate() == TOO_MANY
                        && tries < TRIES
                        && (tries > 0 || self.make_room(options)) =>
                {
                    // The server's processes take a moment to end.
                    tries += 1;
                    tokio::time::sleep(TRY_EVERY).await;
                }
                other => return other,
            }
        }
    }

    fn pop(&self, options: &ConnectOptions) -> Option<Kept> {
        // The last one is the warmest.
        let kept = self.lock().get_mut(options)?.pop()?;
        (kept.since.elapsed() <= self.age_max).then_some(kept)
    }

    /// Closes what is spare at the same server; false when there was nothing.
    fn make_room(&self, options: &ConnectOptions) -> bool {
        let mut kept = self.lock();
        let before = kept.len();
        kept.retain(|other, _| other.addresses != options.addresses);
        kept.len() < before
    }

    /// Keeps a connection that is at rest, once everything of its client is gone from it.
    pub async fn keep(&self, origin: Origin, mut connection: ServerConnection) {
        connection.prepared.clear();
        // Who waited for it does so no longer.
        connection.patience = None;
        connection.asking = None;
        let reset = connection.simple("DISCARD ALL");
        let reset = tokio::time::timeout(origin.options.timeout, reset).await;
        if !matches!(reset, Ok(Ok(_))) || !connection.is_clean() {
            return;
        }
        let new = Kept { connection, standing: origin.standing, since: Instant::now() };
        let mut kept = self.lock();
        let user = &origin.options.user;
        make_place(&mut kept, (self.count_max / 2).max(1), |options| options.user == *user);
        make_place(&mut kept, self.count_max, |_| true);
        if self.count_max > 0 {
            kept.entry(origin.options).or_default().push(new);
        }
    }

    /// Closes what has been spare for too long.
    pub fn reap(&self) {
        self.lock().retain(|_, list| {
            list.retain(|kept| kept.since.elapsed() <= self.age_max);
            !list.is_empty()
        });
    }
}

/// Closes the oldest of some connections, so that one more of them makes no more than `max`.
fn make_place(
    kept: &mut HashMap<Arc<ConnectOptions>, Vec<Kept>>,
    max: usize,
    counts: impl Fn(&ConnectOptions) -> bool,
) {
    loop {
        let of_them = || kept.iter().filter(|(options, _)| counts(options));
        if of_them().map(|(_, list)| list.len()).sum::<usize>() < max {
            return;
        }
        let oldest = of_them().filter_map(|(options, list)| Some((options, list.first()?.since)));
        let Some((options, _)) = oldest.min_by_key(|(_, since)| *since) else { return };
        let options = options.clone();
        if let Some(list) = kept.get_mut(&options) {
            list.remove(0);
            if list.is_empty() {
                kept.remove(&options);
            }
        }
    }
}

async fn standing(connection: &mut ServerConnection, timeout: Duration) -> Option<Vec<u8>> {
    let rows = tokio::time::timeout(timeout, connection.simple(STANDING)).await.ok()?.ok()?;
    rows.first()?.first()?.as_ref().map(|value| value.to_vec())
}
