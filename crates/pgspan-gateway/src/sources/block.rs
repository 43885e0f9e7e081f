//! Fetching in a transaction block: each source keeps one transaction, with one snapshot,
//! to the block's end. And what a plan must know to be run in one.

use super::fetch::{Bounds, Caller, Fetched, Job, Transaction, Trouble, lease, run};
use crate::session::block::BlockSource;
use pgspan_sql::cause::Cause;
use pgspan_sql::certain::{self, Runs};
use pgspan_sql::facts::{HomeFacts, option};
use pgspan_sql::fragment::Fetch;
use pgspan_sql::remote::ForeignScan;
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;

/// How often a connection that had been closed while it was idle is replaced.
const ATTEMPTS_MAX: usize = 3;

/// The sources that a block holds, and the savepoints that they are to have.
pub(crate) struct Holding<'a> {
    /// Those that have been read.
    pub sources: &'a mut Vec<BlockSource>,
    /// The numbers of the client's open savepoints.
    pub savepoints: &'a [u64],
}

impl Holding<'_> {
    /// The same for one more source.
    pub fn again(&mut self) -> Holding<'_> {
        Holding { sources: self.sources, savepoints: self.savepoints }
    }
}

/// Runs the fetches of one source under the block's snapshot of it, or takes that.
pub(super) async fn fetch(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    jobs: &[Job<'_>],
    bounds: Bounds,
    held: Holding<'_>,
) -> Result<Vec<Fetched>, Reason> {
    let Holding { sources: held, savepoints } = held;
    // postgres_fdw keeps the connection that it has, whatever becomes of server and mapping.
    if held.iter().any(|s| s.spec.name == spec.name && s.spec != *spec) {
        return Err(Reason::about(Cause::ServerAltered, &spec.name));
    }
    let place = match held.iter().position(|s| s.spec == *spec) {
        Some(place) => place,
        None => {
            held.push(BlockSource {
                spec: spec.clone(),
                lease: None,
                snapshot: None,
                shown: false,
                fresh: false,
                lost: false,
                savepoints: Vec::new(),
                read_behind: false,
            });
            held.len() - 1
        }
    };
    let source = &mut held[place];
    if source.lost {
        return Err(Reason::about(Cause::SourceLost, &spec.name));
    }
    source.fresh = true;
    source.read_behind = true;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match once(caller, jobs, bounds, source, savepoints).await {
            Ok(fetched) => return Ok(fetched),
            Err(Trouble::Stale) if attempts < ATTEMPTS_MAX => {}
            Err(Trouble::Stale) => return Err(Reason::about(Cause::SourceLost, &spec.name)),
            Err(Trouble::Reason(reason)) => return Err(reason),
        }
    }
}

async fn once(
    caller: &Caller<'_>,
    jobs: &[Job<'_>],
    bounds: Bounds,
    source: &mut BlockSource,
    savepoints: &[u64],
) -> Result<Vec<Fetched>, Trouble> {
    let BlockSource { spec, lease: held, snapshot, lost, savepoints: set, .. } = source;
    if let Some(open) = held {
        let missing: Vec<u64> = savepoints.iter().copied().filter(|s| !set.contains(s)).collect();
        let transaction = Transaction::Open(&missing);
        set.extend(&missing);
        let fetched = run(caller, spec, open, jobs, bounds, transaction, snapshot).await;
        if let Err(trouble) = &fetched {
            *lost = matches!(trouble, Trouble::Reason(r) if r.cause == Cause::SourceLost);
            if let Some(lease) = held.take() {
                lease.discard();
            }
        }
        return fetched;
    }
    // The first, or one in the place of another: then with the very same snapshot.
    let before = snapshot.clone();
    *held = Some(lease(caller, spec).await.map_err(Trouble::Reason)?);
    let Some(open) = held else { return Err(Trouble::Stale) };
    if !open.hold(caller.user) {
        *held = None;
        return Err(Trouble::Reason(Reason::about(
            Cause::SourceBusy,
            "the role's other transactions",
        )));
    }
    *set = savepoints.to_vec();
    let transaction = Transaction::First(savepoints);
    // What is known of the block's snapshot stays, however this ends.
    let mut now = None;
    let fetched = run(caller, spec, open, jobs, bounds, transaction, &mut now).await;
    let moved = match (&before, &now) {
        (Some(before), Some(now)) => !before.stands(now),
        (None, now) => now.is_none() && fetched.is_ok(),
        (Some(_), None) => true,
    };
    if before.is_none() {
        *snapshot = now;
    }
    if let Some(lease) = held.take_if(|_| fetched.is_err() || moved) {
        lease.discard();
    }
    match fetched {
        Ok(_) if moved => Err(Trouble::Reason(Reason::about(Cause::SourceMoved, &spec.name))),
        other => other,
    }
}

/// Whether the scans that stand for these fetches are run: of each source one must be.
pub(crate) fn runs(
    plan: &[u8],
    scans: &[ForeignScan],
    fetches: &[Fetch],
    servers: usize,
    any_values: bool,
) -> Runs {
    let scanned = |f: &Fetch| scans.iter().any(|s| s.relation.as_ref() == Some(&f.home_name));
    if servers > 1 && !fetches.iter().all(scanned) {
        return Runs::Doubtful;
    }
    certain::runs(plan, !any_values)
}

/// Whether planning at home asks a source.
pub(crate) fn estimates_remotely(facts: &HomeFacts) -> bool {
    let asks = |o: &Option<Vec<String>>| {
        option(o, "use_remote_estimate").is_some_and(|v| !v.eq_ignore_ascii_case("false"))
    };
    let mut relations = facts.relations.iter();
    relations.any(|r| asks(&r.options) || r.server.as_ref().is_some_and(|s| asks(&s.options)))
}
