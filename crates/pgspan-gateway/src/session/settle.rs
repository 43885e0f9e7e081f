//! What may change behind home's snapshot, before the statement has its locks.
//!
//! Tables are locked before the snapshot, and the rewritten statement is read before it.
//! Two things cannot be had like that: a materialized view is locked by no LOCK, and
//! refreshing it shows its new rows to older snapshots; and COPY is read when it runs, by
//! then with other columns in the row type that its rows are written in. So where a plan has
//! such, home locks what the statement names, and tells what it sees then: by functions and
//! by reading a text, which look past the snapshot. If that is what the snapshot shows,
//! it stays so.

use super::block::lock_tables;
use super::home::{Answers, run_described};
use super::query::Request;
use super::stop::Stop;
use crate::sources::CachedPlan;
use pgspan_pool::ServerConnection;
use pgspan_sql::analyze::Kind;
use pgspan_sql::facts::{Column, HomeFacts, HomeRelation};
use pgspan_sql::fragment::Fetch;
use pgspan_sql::plan::qualified_home;
use pgspan_sql::quote::{ident, literal};

/// A question behind the locks. It must describe itself as told, and all that it answers and
/// that is not NULL must be true.
pub(crate) struct Settle {
    sql: String,
    /// Name, type and modifier of its first columns.
    columns: Vec<(String, u32, i32)>,
}

/// The questions that a plan needs.
pub(super) fn settles(kind: &Kind, facts: &HomeFacts, fetches: &[Fetch]) -> Vec<Settle> {
    let refreshed = facts.relations.iter().filter(|r| r.kind.as_deref() == Some("m")).map(|r| {
        let sql = format!(
            "SELECT pg_catalog.pg_relation_filenode(c.oid) OPERATOR(pg_catalog.=) c.relfilenode FROM pg_catalog.pg_class c \
             WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({})::pg_catalog.oid",
            literal(&r.written)
        );
        Settle { sql, columns: Vec::new() }
    });
    let copied = if *kind == Kind::CopyOut { fetches } else { &[] };
    let written = copied.iter().filter_map(|f| {
        let is = |r: &&HomeRelation| r.row_type == Some(f.row_type);
        let relation = facts.relations.iter().find(is)?;
        Some(row_type(&qualified_home(f), relation.columns.as_deref().unwrap_or_default()))
    });
    refreshed.chain(written).collect()
}

/// The columns of a row type as they are read now; their collations against the snapshot's.
fn row_type(table: &str, columns: &[Column]) -> Settle {
    let collations = columns.iter().filter(|c| c.collation.is_some()).map(|c| {
        format!(
            ", pg_catalog.regcollationin(pg_catalog.textout(pg_catalog.pg_collation_for((NULL::{table}).{})))::pg_catalog.oid OPERATOR(pg_catalog.=) \
             (SELECT a.attcollation FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) \
             pg_catalog.to_regclass({})::pg_catalog.oid AND a.attname OPERATOR(pg_catalog.=) {}::pg_catalog.name)",
            ident(&c.name),
            literal(table),
            literal(&c.name)
        )
    });
    Settle {
        sql: format!("SELECT (NULL::{table}).*{}", collations.collect::<String>()),
        columns: columns.iter().map(|c| (c.name.clone(), c.type_oid, c.typmod)).collect(),
    }
}

/// Appends the locks and the questions.
///
/// # Errors
/// When the statement to be copied has no parentheses.
pub(super) fn ask(
    server: &mut ServerConnection,
    request: &Request,
    plan: &CachedPlan,
) -> Result<(), Stop> {
    if !plan.settles.is_empty() {
        lock_tables(server, request, &plan.analysis)?;
    }
    plan.settles.iter().for_each(|settle| run_described(server, &settle.sql));
    Ok(())
}

/// Whether nothing has changed; `i` is the first of its results.
pub(super) fn settled(plan: &CachedPlan, request: &Request, got: &Answers, i: usize) -> bool {
    // The client's own statement is described first: that locks its tables.
    let described = got.fields.iter().skip(usize::from(request.batch.is_some()));
    plan.settles.iter().zip(described).enumerate().all(|(n, (settle, fields))| {
        let Some(fields) = fields else { return false };
        let beyond = fields.len().checked_sub(settle.columns.len());
        let same = settle.columns.iter().zip(fields).all(|((name, oid, typmod), field)| {
            *name.as_bytes() == field.name[..] && (*oid, *typmod) == (field.type_oid, field.typmod)
        });
        let rows = got.results.get(i + n).map_or(&[][..], |result| &result.rows);
        let answered = rows.len() == 1
            && rows.iter().flatten().flatten().all(|value| &value[..] == b"t")
            && rows.iter().flatten().filter(|value| value.is_some()).count() == beyond.unwrap_or(0);
        beyond.is_some() && same && answered
    })
}
