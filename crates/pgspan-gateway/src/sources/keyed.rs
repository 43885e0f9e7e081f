//! Which fragments wait for the keys of others: a small one is read first, and a large
//! one is then asked only for the rows that can match. What that saves is asked of the
//! large one's planner.

use super::CachedPlan;
use super::estimate::estimates;
use crate::session::Session;
use crate::session::home::Means;
use crate::session::stop::Stop;
use pgspan_engine::{ColumnType, KEY_BYTES_MAX};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::Tree;
use pgspan_sql::engine::restrict::{Place, restricted};
use pgspan_sql::route::Reason;

/// How a fragment is restricted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyed {
    /// Its own column.
    pub column: usize,
    /// The column whose values are the keys.
    pub from: Place,
    /// The rows of so many keys are looked up, so that reading the table in parts would
    /// look them up again for each; of more keys it is read in parts.
    pub looked_up_max: usize,
    /// Its database may read bitmaps of an index.
    pub bitmaps: bool,
}

/// Rows that a fragment may have whose keys others wait for.
const KEY_ROWS_EXPECTED: f64 = 400_000.0;

/// From this part of its rows on there is one on nearly every page of a table, and from so
/// many pages on a bitmap of them outgrows `work_mem` (4 MB) and forgets which rows they are:
/// then the table is better read as it lies, and in parts.
const MUCH_OF_A_TABLE: f64 = 0.02;
const BITMAP_PAGES: f64 = 32_768.0;

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
        let Some(from) = tree.fragments.get(best.from.0) else { continue };
        let alone = [from.sql_unguarded()];
        let asked = estimates(session, plan, from.server, &alone, Means::USUAL).await?;
        let width = asked.first().map_or(f64::MAX, |e| e.width);
        // Its rows wait until all have come. Arrays take more than what they hold.
        #[allow(clippy::cast_precision_loss)]
        if expected(best.from.0) * width > KEY_BYTES_MAX as f64 / 2.0 {
            continue;
        }
        let fragment = tree.fragments.get(f).ok_or(Reason::new(Cause::NoFragment))?;
        // As many keys as are expected; which they are is not known yet.
        let count = expected(best.from.0).ceil() as usize;
        let keys: Vec<i64> = (1..).take(count).collect();
        let oids: Vec<u32> = types.get(f).into_iter().flatten().map(|t| t.oid).collect();
        let whole = fragment.sql_unguarded();
        let some = restricted(&whole, &oids, column, &keys);
        let both = [whole, some];
        let asked = estimates(session, plan, fragment.server, &both, Means::USUAL).await?;
        let [whole, mut some] = asked[..] else { return Ok(chosen) };
        // Planners take a key for more frequent than it is where a table's distinct values
        // are more than its sample shows. Keys that are a part of their own table's rows
        // are taken for the same part of the other's.
        let own = tree.fragments.get(best.from.0).and_then(|f| f.table_rows);
        let part = own.map_or(1.0, |own| (expected(best.from.0) / own).min(1.0));
        let likely = |planned: f64| planned.min(whole.rows * part);
        // Home's settings are the client's.
        #[allow(clippy::cast_precision_loss)]
        let pages = if fragment.pages > 0 { fragment.pages as f64 } else { f64::MAX };
        let left = likely(some.rows);
        let bitmaps = fragment.server.is_none()
            || left < whole.rows * MUCH_OF_A_TABLE
            || left.min(pages) < BITMAP_PAGES;
        if !bitmaps {
            let no = Means { bitmaps: false, ..Means::USUAL };
            let again = estimates(session, plan, fragment.server, &both[1..], no).await?;
            some = again.first().copied().unwrap_or(some);
        }
        some.rows = likely(some.rows);
        if some.rows * 2.0 <= whole.rows && some.with_rows() < whole.with_rows() {
            rows[f] = some.rows;
            let looked_up_max = if some.scans { 0 } else { count.saturating_mul(4).max(1000) };
            chosen[f] = Some(Keyed { column, from: best.from, looked_up_max, bitmaps });
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
