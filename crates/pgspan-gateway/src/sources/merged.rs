//! Which joins home runs by itself as part of a fragment: those of which fewer rows come
//! than of their sides.

use super::CachedPlan;
use super::estimate::estimates;
use crate::session::Session;
use crate::session::home::Means;
use crate::session::stop::Stop;
use pgspan_engine::ColumnType;
use pgspan_sql::engine::operators::{Side, Tree};

/// Chooses, and replaces types and rows by those of the fragments that are left.
///
/// # Errors
/// A lost connection.
pub(super) async fn choose(
    session: &mut Session,
    plan: &CachedPlan,
    tree: &mut Tree,
    types: &mut Vec<Vec<ColumnType>>,
    rows: &mut Vec<f64>,
) -> Result<(), Stop> {
    let mut refused = Vec::new();
    loop {
        let oids: Vec<Vec<u32>> = types.iter().map(|t| t.iter().map(|c| c.oid).collect()).collect();
        let merges = tree.merges_at_home(&oids);
        let Some(merge) = merges.into_iter().find(|m| !refused.contains(&m.fragment)) else {
            return Ok(());
        };
        let sides = [merge.probe, merge.build].map(|i| tree.fragments[i].sql_unguarded());
        let queries: Vec<String> = sides.into_iter().chain([merge.fragment.sql()]).collect();
        let asked = estimates(session, plan, None, &queries, Means::USUAL).await?;
        let apart: f64 = asked.iter().take(2).map(|e| e.with_rows()).sum();
        let Some(joined) = asked.last().filter(|e| e.with_rows() < apart) else {
            refused.push(merge.fragment);
            continue;
        };
        let columns = merge.columns.iter().filter_map(|side| match side {
            Side::Probe(i) => types.get(merge.probe)?.get(*i).copied(),
            Side::Build(i) => types.get(merge.build)?.get(*i).copied(),
        });
        types[merge.probe] = columns.collect();
        rows[merge.probe] = joined.rows;
        types.remove(merge.build);
        rows.remove(merge.build);
        tree.merge(&merge);
    }
}
