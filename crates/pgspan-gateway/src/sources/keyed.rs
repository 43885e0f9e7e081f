//! Which fragments wait for the keys of others: a small one is read first, and a large
//! one is then asked only for the rows that can match. What that saves is asked of the
//! large one's planner.

use super::CachedPlan;
use super::engine::ask_place;
use crate::session::Session;
use crate::session::home;
use crate::session::stop::Stop;
use pgspan_engine::ColumnType;
use pgspan_sql::engine::operators::Tree;
use pgspan_sql::engine::restrict::{Place, restricted};
use pgspan_sql::route::Reason;
use pgspan_wire::frontend;
use serde_json::Value;

/// How a fragment is restricted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyed {
    /// Its own column.
    pub column: usize,
    /// The column whose values are the keys.
    pub from: Place,
    /// The rows are looked up, so that reading the table in parts would look them up
    /// again for each.
    pub looked_up: bool,
}

/// Rows that a fragment may have whose keys others wait for.
const KEY_ROWS_EXPECTED: f64 = 12_000.0;

/// Chooses, and replaces the rows that are expected by those that are left.
///
/// # Errors
/// A lost connection, or an error of a source.
pub(super) async fn choose(
    session: &mut Session,
    plan: &CachedPlan,
    tree: &Tree,
    types: &[Vec<ColumnType>],
    rows: &mut [f64],
) -> Result<Vec<Option<Keyed>>, Stop> {
    let mut chosen: Vec<Option<Keyed>> = vec![None; tree.fragments.len()];
    let integer = |(f, c): Place| {
        let column = types.get(f).and_then(|t| t.get(c));
        column.is_some_and(|t| matches!(t.oid, 20 | 21 | 23))
    };
    let all = tree.restrictions();
    // A fragment with fewer rows is read at once.
    let large = session.shared.config.limits.engine_rows_min as f64;
    let mut tried: Vec<(Place, Place)> = Vec::new();
    loop {
        // The large fragment that the fewest keys restrict.
        let expected = |f: usize| rows.get(f).copied().unwrap_or(f64::MAX);
        let best = all
            .iter()
            .filter(|r| integer(r.from) && integer(r.to) && !tried.contains(&(r.from, r.to)))
            .filter(|r| chosen.get(r.to.0).is_some_and(Option::is_none))
            .filter(|r| !waits(&chosen, r.from.0, r.to.0))
            .filter(|r| {
                let (from, to) = (expected(r.from.0), expected(r.to.0));
                from <= KEY_ROWS_EXPECTED && to >= large && from * 4.0 <= to
            })
            .min_by(|a, b| expected(a.from.0).total_cmp(&expected(b.from.0)));
        let Some(best) = best else { return Ok(chosen) };
        tried.push((best.from, best.to));
        let (f, column) = best.to;
        let fragment = tree.fragments.get(f).ok_or(Reason::new("no fragment"))?;
        // As many keys as are expected; which they are is not known yet.
        let keys: Vec<i64> = (1..).take(expected(best.from.0).ceil() as usize).collect();
        let sql = restricted(&fragment.sql_unguarded(), fragment.select.len(), column, &keys);
        let answers = ask_place(session, plan, fragment.server, |server| {
            home::run_once(server, &format!("EXPLAIN (FORMAT JSON) {sql}"));
            frontend::sync(&mut server.outbox);
        });
        let answers = answers.await?;
        let odd = || Reason::new("a fragment could not be described");
        let json = answers.value(0, 0).ok_or_else(odd)?;
        let value: Value = serde_json::from_slice(json).map_err(|_| odd())?;
        let root = value.pointer("/0/Plan").ok_or_else(odd)?;
        let left = root["Plan Rows"].as_f64().unwrap_or(f64::MAX);
        if left * 2.0 <= expected(f) {
            rows[f] = left;
            chosen[f] = Some(Keyed { column, from: best.from, looked_up: !scans(root) });
        }
    }
}

/// Whether a fragment waits, by way of others, for another.
fn waits(chosen: &[Option<Keyed>], waiting: usize, other: usize) -> bool {
    let mut at = waiting;
    // Each waits for one, and none for itself.
    loop {
        if at == other {
            return true;
        }
        match chosen.get(at).and_then(Option::as_ref) {
            Some(k) => at = k.from.0,
            None => return false,
        }
    }
}

/// How many others a fragment waits for, one after the other.
pub(crate) fn depth(keyed: &[Option<Keyed>], fragment: usize) -> usize {
    let next = keyed.get(fragment).and_then(Option::as_ref);
    next.map_or(0, |k| 1 + depth(keyed, k.from.0))
}

/// Whether a plan reads a whole table.
fn scans(plan: &Value) -> bool {
    plan["Node Type"] == "Seq Scan" || plan["Plans"].as_array().into_iter().flatten().any(scans)
}
