//! Whether a statement that home has run by itself may have touched a source: in a
//! transaction block that decides whether the gateway's snapshot of the source and
//! home's own could differ.

use crate::catalog::CatalogSnapshot;
use crate::parse::{parse, strings, visit};
use serde_json::json;

/// What a statement may have done to sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It touched none if these relations (as written, quoted) are plain local tables
    /// without triggers, rules and the like.
    Local(Vec<String>),
    /// It may have.
    Unknown,
}

/// Built-in functions that are volatile but reach no table and no other database.
const HARMLESS: &[&str] = &[
    "nextval",
    "setval",
    "currval",
    "lastval",
    "random",
    "gen_random_uuid",
    "clock_timestamp",
    "timeofday",
    "pg_sleep",
    "set_config",
    "current_setting",
    "pg_advisory_lock",
    "pg_advisory_unlock",
    "pg_advisory_xact_lock",
    "pg_try_advisory_lock",
    "txid_current",
    "pg_current_xact_id",
    "pg_notify",
    "pg_backend_pid",
];

const STATEMENTS: &[&str] = &[
    "SelectStmt",
    "InsertStmt",
    "UpdateStmt",
    "DeleteStmt",
    "TransactionStmt",
    "VariableSetStmt",
    "VariableShowStmt",
    "NotifyStmt",
    "ListenStmt",
    "UnlistenStmt",
];

/// Judges one text that was relayed.
pub fn effect(text: &str, catalog: &CatalogSnapshot) -> Effect {
    let Some(statement) = parse(text) else {
        // It cannot have run.
        return Effect::Local(Vec::new());
    };
    let mut names = Vec::new();
    // A value that is stored is cast to its column's type, and nobody writes that.
    let mut unknown = catalog.has_strange_types();
    for tree in &statement.nodes {
        let kind = tree.as_object().and_then(|o| o.keys().next()).map_or("", String::as_str);
        unknown |= !STATEMENTS.contains(&kind);
        // INSERT, UPDATE and DELETE name their target without a node around it.
        if let Some(target) = tree.pointer(&format!("/{kind}/relation")).filter(|r| !r.is_null()) {
            names.push(name(target));
        }
        visit(&json!({ "node": tree }), &mut |node, body| match node {
            "RangeVar" => names.push(name(body)),
            "FuncCall" => {
                let path = strings(&body["funcname"]).unwrap_or_default();
                let builtin = path.len() == 1 || path.first() == Some(&"pg_catalog");
                let function = path.last().copied().unwrap_or("");
                let safe = catalog.is_safe_function(function) || HARMLESS.contains(&function);
                unknown |= !(builtin && safe);
            }
            _ => {}
        });
    }
    if unknown { Effect::Unknown } else { Effect::Local(names) }
}

fn name(range_var: &serde_json::Value) -> String {
    let relation = crate::quote::ident(range_var["relname"].as_str().unwrap_or(""));
    match range_var["schemaname"].as_str().filter(|s| !s.is_empty()) {
        Some(schema) => format!("{}.{relation}", crate::quote::ident(schema)),
        None => relation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn only_plain_statements_are_judged() {
        let functions = HashMap::from([("lower".to_owned(), true), ("random".to_owned(), false)]);
        let c = CatalogSnapshot::new(HashSet::new(), functions, HashSet::new(), HashSet::new());
        assert_eq!(
            effect("INSERT INTO a.t SELECT lower(x) FROM u", &c),
            Effect::Local(vec!["\"a\".\"t\"".to_owned(), "\"u\"".to_owned()])
        );
        assert_eq!(effect("SAVEPOINT a", &c), Effect::Local(Vec::new()));
        assert_eq!(effect("SELECT f()", &c), Effect::Unknown);
        assert_eq!(effect("EXECUTE p", &c), Effect::Unknown);
        assert_eq!(effect("DO $$ $$", &c), Effect::Unknown);
        assert_eq!(effect("CREATE TABLE x AS SELECT 1", &c), Effect::Unknown);
    }
}
