//! A column that is only counted, and holds no NULL, need not be fetched: its count is
//! that of the rows.

use super::operators::{Certain, Fold, Fragment, Function, Node};
use super::tree::Known;
use crate::ask::NOT_VALID;
use crate::fragment::remote_column;
use crate::quote::{ident, literal, qualified};

/// Types whose every value at the source is one at home, if their modifiers are the same:
/// bool, int8, int2, int4, oid, date, timestamp, timestamptz, numeric, uuid.
const SAME_VALUES: &[u32] = &[16, 20, 21, 23, 26, 1082, 1114, 1184, 1700, 2950];

/// Takes such columns out of the fragments right below folds.
pub(super) fn drop_counted(node: &mut Node, fragments: &mut [Fragment], known: &Known<'_>) {
    match node {
        Node::Fragment(_) => {}
        Node::Join { probe, build, .. } => {
            drop_counted(probe, fragments, known);
            drop_counted(build, fragments, known);
        }
        Node::Filter { input, .. } | Node::Project { input, .. } => {
            drop_counted(input, fragments, known);
        }
        Node::Union { inputs } => {
            inputs.iter_mut().for_each(|i| drop_counted(i, fragments, known));
        }
        Node::Group { input, keys, folds, .. } => {
            let Node::Fragment(at) = **input else {
                return drop_counted(input, fragments, known);
            };
            let Some(fragment) = fragments.get_mut(at) else { return };
            for column in (0..fragment.select.len()).rev() {
                let mut readers = folds.iter().filter(|f| f.argument == Some(column)).peekable();
                let counts = |f: &Fold| f.function == Function::Count && !f.distinct;
                if keys.contains(&column) || readers.peek().is_none() || !readers.all(counts) {
                    continue;
                }
                let Some(certain) = certain(fragment, column, known) else { continue };
                fragment.select.remove(column);
                fragment.certain.push(certain);
                let moved = |c: usize| if c > column { c - 1 } else { c };
                keys.iter_mut().for_each(|k| *k = moved(*k));
                for fold in folds.iter_mut() {
                    fold.argument = fold.argument.filter(|a| *a != column).map(moved);
                }
            }
        }
    }
}

/// What is certain of a column of a fragment that reads one plain table.
fn certain(fragment: &Fragment, column: usize, known: &Known<'_>) -> Option<Certain> {
    let (server, table) = (fragment.server?, fragment.table.as_ref()?);
    let tables = known.needs.tables.iter().enumerate();
    let mut places = tables.filter(|(_, t)| t.server == server && t.remote == *table);
    // Two foreign tables of one table there may have other columns each.
    let (Some((place, _)), None) = (places.next(), places.next()) else { return None };
    let name = fragment.select.get(column)?;
    let home = known.relations.get(place)?.columns.as_deref()?;
    let home = home.iter().find(|c| ident(remote_column(c)) == *name)?;
    // Children may do without the NOT NULL of their parent (up to PostgreSQL 17).
    let there = known.sources.get(place).filter(|s| !s.subclass)?.columns.as_deref()?;
    let there = there.iter().find(|c| c.name == remote_column(home))?;
    let (type_oid, typmod) = (there.type_oid, there.typmod);
    let same = (home.type_oid, home.typmod) == (type_oid, typmod);
    (there.not_null && same && SAME_VALUES.contains(&type_oid)).then(|| Certain {
        column: there.name.clone(),
        type_oid,
        typmod,
    })
}

/// A condition that every row meets, and that breaks the statement off when one of the
/// columns is no longer what it was: another type, without NOT NULL, not to be read by
/// this user. It bounds a range of rows, so it is asked once per scan and not per row
/// (`nodeTidrangescan.c`), in the statement's snapshot: what that says of the table's
/// definition holds for the rows that it shows.
pub(super) fn guard(table: &(String, String), certain: &[Certain]) -> Option<String> {
    if certain.is_empty() {
        return None;
    }
    let same = |c: &Certain| {
        format!(
            "a.attname OPERATOR(pg_catalog.=) {} AND a.atttypid OPERATOR(pg_catalog.=) {}::pg_catalog.oid AND a.atttypmod OPERATOR(pg_catalog.=) {}",
            literal(&c.column),
            c.type_oid,
            c.typmod
        )
    };
    let columns: Vec<String> = certain.iter().map(same).collect();
    Some(format!(
        "ctid OPERATOR(pg_catalog.>=) pg_catalog.tidin(pg_catalog.textout(CASE WHEN (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a \
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
         WHERE c.oid OPERATOR(pg_catalog.=) {table}::pg_catalog.regclass::pg_catalog.oid \
         AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relhassubclass \
         AND (({columns})) AND a.attnotnull AND NOT a.attisdropped AND NOT {NOT_VALID} \
         AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')) OPERATOR(pg_catalog.=) {count} \
         THEN '(0,0)' ELSE 'a column that was NOT NULL is not what it was' END))",
        table = literal(&qualified(&table.0, &table.1)),
        columns = columns.join(") OR ("),
        count = certain.len(),
    ))
}
