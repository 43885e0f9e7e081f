//! Several connections to a source that read one snapshot (manual, section "Snapshot
//! Synchronization Functions").

use crate::session::Session;
use crate::session::block::SOURCE_MAX;
use crate::session::stop::Stop;
use crate::sources::CachedPlan;
use crate::sources::fetch::{self, Caller};
use pgspan_pool::{Lease, Reservation, ServerError};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::Tree;
use pgspan_sql::quote::literal;
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;
use tokio::time::timeout;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection that keeps a source's snapshot for the rest of a statement.
pub(crate) struct Held {
    /// The source, by its place in the plan.
    pub place: usize,
    lease: Lease,
    /// The name by which others take it.
    pub snapshot: String,
}

/// Has the session keep the snapshots of the sources that a tree reads.
pub(crate) async fn hold(
    session: &mut Session,
    plan: &CachedPlan,
    tree: &Tree,
) -> Result<(), Stop> {
    for place in tree.fragments.iter().filter_map(|f| f.server) {
        if session.snapshots.iter().any(|h| h.place == place) {
            continue;
        }
        let spec = plan.plan.servers.get(place).ok_or(Reason::new(Cause::NoServer))?;
        let caller = session.caller(&plan.session);
        let (lease, snapshot) = exported(&caller, spec, None, &[]).await?;
        session.snapshots.push(Held { place, lease, snapshot });
    }
    Ok(())
}

/// Ends what [`hold`] began.
pub(crate) async fn release(session: &mut Session) {
    end(session.snapshots.drain(..).map(|held| held.lease).collect()).await;
}

/// Ends the transactions of these connections; one that does not answer is closed, which
/// ends its transaction too.
pub(crate) async fn end(leases: Vec<Lease>) {
    for mut lease in leases {
        let ended = !lease.is_busy()
            && matches!(timeout(SOURCE_MAX, lease.simple("COMMIT")).await, Ok(Ok(_)));
        if !ended {
            lease.discard();
        }
    }
}

/// Connections that all read one snapshot: that which is given, or, where there are
/// several, one of their own. Each holds a lock on the tables that are read in parts before
/// any of them reads: what writes a table anew (CLUSTER, VACUUM FULL) moves its rows from
/// one range of pages to another.
pub(super) async fn connections(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    mut reservation: Reservation,
    snapshot: Option<&str>,
    in_parts: &[String],
) -> Result<Vec<Lease>, Stop> {
    let count = reservation.count();
    let mut leases = Vec::new();
    let mut own = None;
    match (count, snapshot) {
        (0, _) => return Ok(leases),
        (1, None) => return Ok(vec![fetch::reserved(caller, spec, &mut reservation).await?]),
        (_, Some(_)) => {}
        (_, None) => {
            let (lease, name) = exported(caller, spec, Some(&mut reservation), in_parts).await?;
            leases.push(lease);
            own = Some(name);
        }
    }
    let snapshot = snapshot.or(own.as_deref()).unwrap_or_default();
    // Who waits for these locks to go would keep us waiting for ever.
    let lock = lock(in_parts, " NOWAIT");
    let sql = format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}{lock}", literal(snapshot));
    while leases.len() < count {
        leases.push(begun(caller, spec, Some(&mut reservation), &sql).await?.0);
    }
    Ok(leases)
}

/// A connection in a transaction whose snapshot others may take.
async fn exported(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    reservation: Option<&mut Reservation>,
    in_parts: &[String],
) -> Result<(Lease, String), Stop> {
    let lock = lock(in_parts, "");
    let sql = format!("{BEGIN}{lock}; SELECT pg_catalog.pg_export_snapshot()");
    let (lease, rows) = begun(caller, spec, reservation, &sql).await?;
    let snapshot = rows.last().and_then(|r| r.first()?.as_ref());
    let snapshot = snapshot.ok_or(Reason::new(Cause::NoSnapshot))?;
    Ok((lease, String::from_utf8_lossy(snapshot).into_owned()))
}

/// What locks these tables, behind another statement.
fn lock(tables: &[String], wait: &str) -> String {
    match tables {
        [] => String::new(),
        tables => format!("; LOCK TABLE {} IN ACCESS SHARE MODE{wait}", tables.join(", ")),
    }
}

/// `lock_not_available`, `insufficient_privilege` and `wrong_object_type`.
const LOCK_ERRORS: &[&str] = &["55P03", "42501", "42809"];

type SimpleRows = Vec<Vec<Option<bytes::Bytes>>>;

/// A connection on which a transaction has been begun: one that was reserved, if any were.
async fn begun(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    reservation: Option<&mut Reservation>,
    sql: &str,
) -> Result<(Lease, SimpleRows), Stop> {
    let failed = |e: ServerError| match &e {
        ServerError::Sql(error) if LOCK_ERRORS.contains(&error.sqlstate()) => {
            Reason::about(Cause::NotLocked, e.to_string())
        }
        _ => Reason::about(Cause::SourceError, e.to_string()),
    };
    let mut lease = match reservation {
        Some(reservation) => fetch::reserved(caller, spec, reservation).await?,
        None => fetch::lease(caller, spec).await?,
    };
    match lease.simple(sql).await {
        Ok(rows) => Ok((lease, rows)),
        // It may have been closed while it was idle.
        Err(ServerError::Io(_)) => {
            lease.discard();
            let mut lease = fetch::lease(caller, spec).await?;
            let rows = lease.simple(sql).await.map_err(failed)?;
            Ok((lease, rows))
        }
        Err(e) => Err(failed(e).into()),
    }
}
