//! Which folds of large tables their sources begin: those that leave few rows to be sent.

use super::CachedPlan;
use super::estimate::estimates;
use crate::session::Session;
use crate::session::home::Means;
use crate::session::stop::Stop;
use pgspan_engine::ColumnType;
use pgspan_sql::engine::operators::Tree;

/// So many groups fit into what a server gives to a hash table (`work_mem`, 4 MB).
const GROUPS_MAX: f64 = 10_000.0;

/// At least so many rows for each.
const ROWS_PER_GROUP: f64 = 4.0;

/// Chooses; true when types and rows must be asked for again.
///
/// # Errors
/// A lost connection, or an error of a source.
pub(super) async fn choose(
    session: &mut Session,
    plan: &CachedPlan,
    tree: &mut Tree,
    types: &[Vec<ColumnType>],
    rows: &[f64],
) -> Result<bool, Stop> {
    let types: Vec<Vec<(u32, i32)>> =
        types.iter().map(|t| t.iter().map(|c| (c.oid, c.typmod)).collect()).collect();
    let pages_min = session.shared.config.limits.engine_pages_min;
    let mut changed = false;
    let mut all = tree.factored(&types, pages_min.into()).into_iter().peekable();
    while let Some(first) = all.next() {
        let mut ways = vec![first];
        while let Some(way) = all.next_if(|f| ways.iter().all(|w| w.place == f.place)) {
            ways.push(way);
        }
        let queries: Vec<String> = ways.iter().map(|w| w.fragment.sql()).collect();
        let Some((place, server)) = ways.first().map(|w| (w.place, w.fragment.server)) else {
            continue;
        };
        let asked = match estimates(session, plan, server, &queries, Means::USUAL).await {
            Err(Stop::GiveUp(reason)) => {
                tracing::debug!(%reason, "not folded at the source");
                continue;
            }
            asked => asked?,
        };
        let best = ways.into_iter().zip(asked).min_by(|a, b| a.1.rows.total_cmp(&b.1.rows));
        let whole = rows.get(place).copied().unwrap_or(0.0);
        let few = |groups: f64| groups <= GROUPS_MAX && groups * ROWS_PER_GROUP <= whole;
        if let Some((way, _)) = best.filter(|(_, e)| few(e.rows)) {
            tree.factor_out(way);
            changed = true;
        }
    }
    Ok(changed)
}
