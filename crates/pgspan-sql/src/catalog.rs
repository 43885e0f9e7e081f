//! What is known of one database ahead of any statement: the names of its foreign
//! tables and which built-in functions are safe to run at home beside fetched rows.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use std::collections::{HashMap, HashSet};

/// An immutable copy of the names that decide whether a statement is worth parsing.
#[derive(Debug, Clone, Default)]
pub struct CatalogSnapshot {
    foreign_tables: HashSet<String>,
    functions: HashMap<String, bool>,
    outside_functions: HashSet<String>,
    strange_operators: HashSet<String>,
    strange_types: HashSet<String>,
    parents: HashSet<String>,
    finder: Option<AhoCorasick>,
}

/// Stable functions whose answer depends on session or transaction state that a
/// rewritten statement shows differently; never beside fetched rows.
const STATEFUL: &[&str] = &[
    "current_setting",
    "currval",
    "lastval",
    "pg_cursor",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_current_snapshot",
    "pg_current_xact_id_if_assigned",
    "txid_current_snapshot",
    "txid_current_if_assigned",
    "pg_export_snapshot",
    "current_query",
    // The rewritten statement starts later than the transaction around it.
    "statement_timestamp",
    "pg_show_all_settings",
    "pg_lock_status",
    // It runs the text that it is given.
    "ts_stat",
    "ts_rewrite",
    "pg_trigger_depth",
    "inet_client_addr",
    "inet_client_port",
];

/// Parts of names of such functions: those that run a query or read a table that they are
/// told the name of, and counts of what this and other sessions do.
const STATEFUL_PARTS: &[&str] = &["_to_xml", "pg_stat_get_"];

/// Whether an answer of this built-in function depends on session or transaction state.
fn is_stateful(name: &str) -> bool {
    STATEFUL.contains(&name) || STATEFUL_PARTS.iter().any(|part| name.contains(part))
}

/// The same as an SQL condition on a row `p` of `pg_proc`.
pub(crate) fn stateful_condition() -> String {
    let names = crate::quote::text_array(STATEFUL.iter());
    let parts = crate::quote::text_array(STATEFUL_PARTS.iter());
    format!(
        "(p.proname OPERATOR(pg_catalog.=) ANY({names}::pg_catalog.name[]) OR EXISTS (SELECT 1 FROM pg_catalog.unnest({parts}) AS s(part) \
         WHERE pg_catalog.strpos(p.proname::pg_catalog.text, s.part) OPERATOR(pg_catalog.>) 0))"
    )
}

impl CatalogSnapshot {
    /// `functions`: every function name of `pg_catalog`, and whether none of its
    /// overloads, in whatever schema, is volatile or might shadow it; `outside_functions`:
    /// every function name of other schemas; `strange_operators`:
    /// names of operators outside `pg_catalog` that are not immutable.
    pub fn new(
        foreign_tables: HashSet<String>,
        functions: HashMap<String, bool>,
        outside_functions: HashSet<String>,
        strange_operators: HashSet<String>,
    ) -> CatalogSnapshot {
        let finder = if foreign_tables.is_empty() {
            None
        } else {
            // A pattern that is too large to build means that every statement is parsed.
            AhoCorasickBuilder::new().ascii_case_insensitive(true).build(&foreign_tables).ok()
        };
        CatalogSnapshot {
            foreign_tables,
            functions,
            outside_functions,
            strange_operators,
            strange_types: HashSet::new(),
            parents: HashSet::new(),
            finder,
        }
    }

    /// With the names of types to which a cast may do more than compute; `*` among them
    /// for a cast that need not be written.
    pub fn with_strange_types(self, strange_types: HashSet<String>) -> CatalogSnapshot {
        CatalogSnapshot { strange_types, ..self }
    }

    /// With the names of relations that have children or partitions.
    pub fn with_parents(self, parents: HashSet<String>) -> CatalogSnapshot {
        CatalogSnapshot { parents, ..self }
    }

    /// Whether some relation of this name has children or partitions, in whatever schema.
    pub fn is_parent_name(&self, name: &str) -> bool {
        self.parents.contains(name)
    }

    /// Whether the text may name a foreign table. Never a false "no", except that
    /// names hidden in `U&"…"` escapes are left to home: relaying is always right.
    pub fn may_name_foreign_table(&self, text: &[u8]) -> bool {
        match &self.finder {
            Some(finder) => finder.is_match(text),
            None => !self.foreign_tables.is_empty(),
        }
    }

    /// Whether some foreign table has this name, in whatever schema.
    pub fn is_foreign_name(&self, name: &str) -> bool {
        self.foreign_tables.contains(name)
    }

    /// Number of foreign table names known.
    pub fn foreign_table_count(&self) -> usize {
        self.foreign_tables.len()
    }

    /// Whether every built-in function of this name is immutable or stable, and none
    /// shows session state.
    pub fn is_safe_function(&self, name: &str) -> bool {
        !is_stateful(name) && self.functions.get(name).copied().unwrap_or(false)
    }

    /// Whether there is a function of this name outside `pg_catalog`: `row.name` may call it.
    pub fn is_outside_function(&self, name: &str) -> bool {
        self.outside_functions.contains(name)
    }

    /// Whether an operator of this name may do more than compute.
    pub fn is_strange_operator(&self, name: &str) -> bool {
        self.strange_operators.contains(name)
    }

    /// Whether a cast to a type of this name may do more than compute.
    pub fn is_strange_type(&self, name: &str) -> bool {
        self.strange_types.contains(name)
    }

    /// Whether there is such a type.
    pub fn has_strange_types(&self) -> bool {
        !self.strange_types.is_empty()
    }

    /// Whether a cast that nobody has written may.
    pub fn has_strange_implicit_cast(&self) -> bool {
        self.strange_types.contains("*")
    }

    /// Whether `pg_catalog` has a function of this name at all.
    pub fn is_builtin_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> CatalogSnapshot {
        let functions = [("lower".to_owned(), true), ("random".to_owned(), false)];
        CatalogSnapshot::new(
            HashSet::from(["remote_orders".to_owned()]),
            functions.into_iter().collect(),
            HashSet::new(),
            HashSet::new(),
        )
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert!(snapshot().may_name_foreign_table(b"select * from Public.REMOTE_ORDERS"));
        assert!(!snapshot().may_name_foreign_table(b"select * from orders"));
    }

    #[test]
    fn unknown_and_volatile_functions_are_not_safe() {
        let s = snapshot();
        assert!(s.is_safe_function("lower"));
        assert!(!s.is_safe_function("random"));
        assert!(!s.is_safe_function("f_ro"));
        assert!(!s.is_safe_function("current_setting"));
        assert!(is_stateful("table_to_xml_and_xmlschema") && !is_stateful("xmlagg"));
    }
}
