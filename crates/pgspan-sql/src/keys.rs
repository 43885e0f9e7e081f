//! Semi-join keys: when the home side of a join is selective, its join keys restrict
//! what is fetched. Home evaluates the join again, so a restriction may only leave
//! out rows that no result row can come from.
//!
//! Proven shape, at the statement's top level only: tables joined by INNER and LEFT
//! joins; the local table is never on a nullable side, so its WHERE conditions hold
//! in every result row; the foreign table is joined to it by `=` in an inner join's
//! ON, in WHERE, or in the ON of the LEFT join whose right side it is.

use crate::analyze::Analysis;
use crate::facts::HomeRelation;
use crate::fragment::{Fetch, KeyFilter, remote_column};
use crate::parse::{node, strings, visit};
use crate::plan::{Needs, keys_worth};
use crate::quote::ident;
use crate::remote::where_conditions;
use serde_json::Value;

/// Key types: equality is the same everywhere and the array type is built in.
const KEY_TYPES: &[(u32, &str)] = &[
    (20, "pg_catalog.int8"),
    (21, "pg_catalog.int2"),
    (23, "pg_catalog.int4"),
    (2950, "pg_catalog.uuid"),
    (1082, "pg_catalog.date"),
];

struct Join {
    /// Tables on the side that never comes null-extended (by place in FROM).
    solid: Vec<String>,
    /// `(equality, tables that it may restrict)`.
    equalities: Vec<(Value, Vec<String>)>,
}

/// Adds key filters to the fetches that they restrict.
pub fn add(
    text: &str,
    a: &Analysis,
    needs: &Needs,
    relations: &[&HomeRelation],
    carried_by: &[Option<usize>],
    fetches: &mut [Fetch],
    keys_max: u64,
) {
    for (i, fetch) in fetches.iter_mut().enumerate() {
        let uses = carried_by.iter().filter(|c| **c == Some(i)).count();
        if uses == 1 && keys_worth(fetch) {
            fetch.keys = find(text, a, needs, relations, carried_by, i, fetch, keys_max);
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn find(
    text: &str,
    a: &Analysis,
    needs: &Needs,
    relations: &[&HomeRelation],
    carried_by: &[Option<usize>],
    index: usize,
    fetch: &Fetch,
    keys_max: u64,
) -> Option<KeyFilter> {
    let select = &a.select;
    if a.query_start != 0 || select["op"] != 1 || !select["with_clause"].is_null() {
        return None;
    }
    let place = carried_by.iter().position(|c| *c == Some(index))?;
    let foreign = a.tables.get(place)?.reference().to_owned();
    let mut join = Join { solid: Vec::new(), equalities: Vec::new() };
    let mut top = Vec::new();
    for item in select["from_clause"].as_array()? {
        top.extend(walk(item, true, &mut join)?);
    }
    let conditions = where_conditions(text, select)?;
    let nodes = conjuncts(&select["where_clause"]);
    if nodes.len() != conditions.len() {
        return None;
    }
    for n in &nodes {
        join.equalities.push(((*n).clone(), top.clone()));
    }
    let columns = relations.get(index)?.columns.as_deref()?;
    for (equality, restricts) in &join.equalities {
        if !restricts.contains(&foreign) {
            continue;
        }
        let Some((left, right)) = column_equality(equality) else { continue };
        let (own, local) = if left.0 == foreign {
            (left, right)
        } else if right.0 == foreign {
            (right, left)
        } else {
            continue;
        };
        if !join.solid.contains(&local.0) {
            continue;
        }
        let home_table = a.tables.iter().enumerate().find(|(_, t)| t.reference() == local.0)?;
        if carried_by.get(home_table.0).copied().flatten().is_some() || home_table.1.renames_columns
        {
            continue;
        }
        let column = columns.iter().find(|c| c.name == own.1)?;
        let (_, type_name) = KEY_TYPES.iter().find(|(oid, _)| *oid == column.type_oid)?;
        let own_conditions: Vec<&str> = nodes
            .iter()
            .zip(&conditions)
            .filter(|(n, _)| speaks_only_of(n, &local.0))
            .map(|(_, c)| c.as_str())
            .collect();
        if own_conditions.is_empty() {
            continue;
        }
        let table = home_table.1;
        let only = if table.only { "ONLY " } else { "" };
        let home_sql = format!(
            "SELECT DISTINCT {l}.{k} FROM {only}{t} AS {l} WHERE ({w}) LIMIT {n}",
            l = ident(&local.0),
            k = ident(&local.1),
            t = table.sql_name(),
            w = own_conditions.join(") AND ("),
            n = keys_max + 1,
        );
        let key = ident(remote_column(column));
        let test = format!("{key} OPERATOR(pg_catalog.=) ANY ($1::{type_name}[])");
        let head = fetch.sql.get(
            ..fetch.sql.len() - fetch.condition.as_ref().map_or(0, |c| c.len() + " WHERE ".len()),
        )?;
        let sql = match &fetch.condition {
            Some(c) => format!("{head} WHERE ({c}) AND {test}"),
            None => format!("{head} WHERE {test}"),
        };
        debug_assert!(needs.tables.len() == relations.len());
        let keys_max = usize::try_from(keys_max).unwrap_or(usize::MAX);
        return Some(KeyFilter { home_sql, sql, element_type: column.type_oid, keys_max });
    }
    None
}

/// The tables below a FROM item, noting the joins; `None` for shapes not proven.
fn walk(item: &Value, solid: bool, join: &mut Join) -> Option<Vec<String>> {
    match node(item)? {
        ("RangeVar", body) => {
            let alias = body.pointer("/alias/aliasname").and_then(Value::as_str);
            let name = alias.or(body["relname"].as_str())?.to_owned();
            if solid {
                join.solid.push(name.clone());
            }
            Some(vec![name])
        }
        ("JoinExpr", body) => {
            let inner = body["jointype"] == 1;
            let left_outer = body["jointype"] == 2;
            let plain = body["is_natural"] == false
                && body["using_clause"].as_array().is_some_and(Vec::is_empty)
                && body["alias"].is_null();
            if !plain || !(inner || left_outer) {
                return None;
            }
            let left = walk(&body["larg"], solid, join)?;
            let right = walk(&body["rarg"], solid && inner, join)?;
            let all: Vec<String> = left.iter().chain(&right).cloned().collect();
            let restricts = if inner { all.clone() } else { right };
            for c in conjuncts(&body["quals"]) {
                join.equalities.push((c.clone(), restricts.clone()));
            }
            Some(all)
        }
        _ => None,
    }
}

fn conjuncts(tree: &Value) -> Vec<&Value> {
    match node(tree) {
        None => Vec::new(),
        Some(("BoolExpr", b)) if b["boolop"] == 1 => {
            b["args"].as_array().map(|v| v.iter().collect()).unwrap_or_default()
        }
        Some(_) => vec![tree],
    }
}

type Name = (String, String);

fn column_equality(tree: &Value) -> Option<(Name, Name)> {
    let ("AExpr", body) = node(tree)? else { return None };
    if body["kind"] != 1 || strings(&body["name"])? != ["="] {
        return None;
    }
    let column = |v: &Value| -> Option<Name> {
        let ("ColumnRef", c) = node(v)? else { return None };
        match strings(&c["fields"])?.as_slice() {
            [t, c] => Some(((*t).to_owned(), (*c).to_owned())),
            _ => None,
        }
    };
    Some((column(&body["lexpr"])?, column(&body["rexpr"])?))
}

/// Whether a condition reads columns of this table alone, each written with its name.
fn speaks_only_of(condition: &Value, table: &str) -> bool {
    let mut ok = true;
    let mut columns = 0;
    visit(condition, &mut |name, body| match name {
        "ColumnRef" => {
            columns += 1;
            let path = strings(&body["fields"]).unwrap_or_default();
            ok &= path.len() == 2 && path.first() == Some(&table);
        }
        "SubLink" | "ParamRef" => ok = false,
        _ => {}
    });
    ok && columns > 0
}
