//! What is known of one database ahead of any statement: the names of its foreign
//! tables and which built-in functions are safe to run at home beside fetched rows.

use crate::ask;
use crate::parse::SystemUser;
use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a piece says of one name: kind, name, and whether it is safe.
pub type Row = (String, String, bool);

/// A part of a [`CatalogSnapshot`], which is asked for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The names of foreign tables: what decides whether a statement is relayed.
    ForeignNames,
    /// The names of relations that have children or partitions.
    Parents,
    /// What functions and operators may do.
    Functions,
    /// To which types a cast may do more than compute.
    Types,
}

impl Piece {
    /// Every piece, in the order of their numbers (`piece as usize`).
    pub const ALL: [Piece; 4] =
        [Piece::ForeignNames, Piece::Parents, Piece::Functions, Piece::Types];

    /// The question for it, answered with [`Row`]s.
    pub fn question(self) -> &'static str {
        match self {
            Piece::ForeignNames => ask::FOREIGN_NAMES,
            Piece::Parents => ask::PARENTS,
            Piece::Functions => ask::FUNCTIONS,
            Piece::Types => ask::STRANGE_TYPES,
        }
    }
}

/// Objects that no piece speaks of, as the tags of their commands name them (manual,
/// section "SQL Commands").
const BESIDE: &[&str] = &[
    "ACCESS METHOD",
    "COLLATION",
    "CONVERSION",
    "DATABASE",
    "DEFAULT PRIVILEGES",
    "FOREIGN DATA WRAPPER",
    "INDEX",
    "LANGUAGE",
    "POLICY",
    "PUBLICATION",
    "ROLE",
    "RULE",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLESPACE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TRANSFORM",
    "TRIGGER",
    "USER MAPPING",
];

/// What may be otherwise after a command, by the tag of its CommandComplete: everything
/// after a CREATE, ALTER, DROP or IMPORT that is not known.
pub fn changed_by(tag: &str) -> &'static [Piece] {
    use Piece::{ForeignNames, Functions, Parents, Types};
    let (verb, object) = tag.split_once(' ').unwrap_or((tag, ""));
    match (verb, object) {
        ("CREATE" | "ALTER" | "DROP", object) if BESIDE.contains(&object) => &[],
        // A child of another table's, and its row type.
        ("CREATE", "TABLE" | "VIEW") => &[Parents, Types],
        // What is known of them does not harm when they have gone.
        ("DROP", "TABLE" | "VIEW" | "MATERIALIZED VIEW") => &[],
        ("DROP", "FOREIGN TABLE") => &[ForeignNames],
        (
            "CREATE" | "ALTER" | "DROP",
            "AGGREGATE" | "CAST" | "DOMAIN" | "FUNCTION" | "OPERATOR" | "OPERATOR CLASS"
            | "OPERATOR FAMILY" | "PROCEDURE" | "ROUTINE" | "TYPE",
        ) => &[Functions, Types],
        ("CREATE" | "ALTER" | "DROP" | "IMPORT", _) => &Piece::ALL,
        ("GRANT" | "REVOKE", _) => &[Functions],
        _ => &[],
    }
}

/// Names of foreign tables, and how they are found in a text.
#[derive(Debug, Default)]
struct ForeignNames {
    names: HashSet<String>,
    /// `None`: there are none, or they are too many, and every text may name one.
    finder: Option<AhoCorasick>,
}

impl ForeignNames {
    fn new(names: HashSet<String>) -> ForeignNames {
        let finder = if names.is_empty() {
            None
        } else {
            // A pattern that is too large to build means that every statement is parsed.
            AhoCorasickBuilder::new().ascii_case_insensitive(true).build(&names).ok()
        };
        ForeignNames { names, finder }
    }
}

/// What is known of functions and operators.
#[derive(Debug, Default, PartialEq, Eq)]
struct Functions {
    /// Those of `pg_catalog`, and whether none of them is volatile or might be shadowed.
    built_in: HashMap<String, bool>,
    /// Those of other schemas.
    outside: HashSet<String>,
    /// Operators of other schemas that are not immutable.
    strange_operators: HashSet<String>,
    /// Words that home reads as keywords and older servers do not.
    keywords: HashSet<String>,
    /// Some of those that operators and casts call are not for everybody.
    restricted: bool,
}

/// An immutable copy of the names that decide whether a statement is worth parsing.
#[derive(Debug, Clone, Default)]
pub struct CatalogSnapshot {
    foreign: Arc<ForeignNames>,
    parents: Arc<HashSet<String>>,
    functions: Arc<Functions>,
    strange_types: Arc<HashSet<String>>,
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
    let names = crate::quote::name_array(STATEFUL.iter());
    let parts = crate::quote::text_array(STATEFUL_PARTS.iter());
    format!(
        "(p.proname OPERATOR(pg_catalog.=) ANY({names}) OR EXISTS (SELECT 1 FROM pg_catalog.unnest({parts}) AS s(part) \
         WHERE pg_catalog.strpos(p.proname::pg_catalog.text, s.part) OPERATOR(pg_catalog.>) 0))"
    )
}

impl Functions {
    fn read(rows: &[Row]) -> Functions {
        let mut functions = Functions::default();
        let mut not_immutable = Vec::new();
        for (kind, name, safe) in rows {
            match kind.as_str() {
                "f" => {
                    functions.built_in.insert(name.clone(), *safe);
                }
                "o" => {
                    functions.strange_operators.insert(name.clone());
                }
                "k" => {
                    functions.keywords.insert(name.clone());
                }
                "a" => functions.restricted = true,
                _ => {
                    functions.outside.insert(name.clone());
                    not_immutable.extend((!safe).then_some(name));
                }
            }
        }
        for name in not_immutable {
            if let Some(safe) = functions.built_in.get_mut(name) {
                *safe = false;
            }
        }
        functions
    }
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
        CatalogSnapshot {
            foreign: Arc::new(ForeignNames::new(foreign_tables)),
            functions: Arc::new(Functions {
                built_in: functions,
                outside: outside_functions,
                strange_operators,
                keywords: HashSet::new(),
                restricted: false,
            }),
            ..CatalogSnapshot::default()
        }
    }

    /// With a piece as its question was answered; `None`: it says what this one says.
    pub fn with(&self, piece: Piece, rows: &[Row]) -> Option<CatalogSnapshot> {
        let names = || rows.iter().map(|(_, name, _)| name.clone()).collect();
        let mut new = self.clone();
        let same = match piece {
            Piece::ForeignNames => {
                let names = names();
                let same = names == self.foreign.names;
                if !same {
                    new.foreign = Arc::new(ForeignNames::new(names));
                }
                same
            }
            Piece::Parents => {
                new.parents = Arc::new(names());
                new.parents == self.parents
            }
            Piece::Functions => {
                new.functions = Arc::new(Functions::read(rows));
                new.functions == self.functions
            }
            Piece::Types => {
                new.strange_types = Arc::new(names());
                new.strange_types == self.strange_types
            }
        };
        (!same).then_some(new)
    }

    /// Whether some relation of this name has children or partitions, in whatever schema.
    pub fn is_parent_name(&self, name: &str) -> bool {
        self.parents.contains(name)
    }

    /// Whether the text may name a foreign table. Never a false "no", except that
    /// names hidden in `U&"…"` escapes or with doubled quotes are left to home: relaying is
    /// always right.
    pub fn may_name_foreign_table(&self, text: &[u8]) -> bool {
        let goes_on = |byte: Option<&u8>| {
            byte.is_some_and(|b| b.is_ascii_alphanumeric() || b"_$".contains(b) || !b.is_ascii())
        };
        match &self.foreign.finder {
            // A part of a longer word is not that name.
            Some(finder) => finder.find_overlapping_iter(text).any(|found| {
                let before = found.start().checked_sub(1).and_then(|at| text.get(at));
                !goes_on(before) && !goes_on(text.get(found.end()))
            }),
            None => !self.foreign.names.is_empty(),
        }
    }

    /// Whether some foreign table has this name, in whatever schema.
    pub fn is_foreign_name(&self, name: &str) -> bool {
        self.foreign.names.contains(name)
    }

    /// Number of foreign table names known.
    pub fn foreign_table_count(&self) -> usize {
        self.foreign.names.len()
    }

    /// Whether every built-in function of this name is immutable or stable, and none
    /// shows session state.
    pub fn is_safe_function(&self, name: &str) -> bool {
        !is_stateful(name) && self.functions.built_in.get(name).copied().unwrap_or(false)
    }

    /// Whether there is a function of this name outside `pg_catalog`: `row.name` may call it.
    pub fn is_outside_function(&self, name: &str) -> bool {
        self.functions.outside.contains(name)
    }

    /// Whether PostgreSQL may refuse a role what an operator or a cast calls, which no
    /// fingerprint tells.
    pub fn restricts_operators(&self) -> bool {
        self.functions.restricted
    }

    /// Whether an operator of this name may do more than compute.
    pub fn is_strange_operator(&self, name: &str) -> bool {
        self.functions.strange_operators.contains(name)
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

    /// What the word `system_user` is at home.
    pub fn system_user(&self) -> SystemUser {
        if self.functions.keywords.contains("system_user") {
            SystemUser::Keyword
        } else {
            SystemUser::Name
        }
    }

    /// Whether `pg_catalog` has a function of this name at all.
    pub fn is_builtin_function(&self, name: &str) -> bool {
        self.functions.built_in.contains_key(name)
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
        assert!(!snapshot().may_name_foreign_table(b"select * from old_remote_orders"));
        assert!(!snapshot().may_name_foreign_table("from remote_orders\u{e9}".as_bytes()));
        assert!(snapshot().may_name_foreign_table(b"select * from a,remote_orders"));
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

    #[test]
    fn a_piece_that_says_the_same_is_not_another_snapshot() {
        let known = snapshot();
        let row = |name: &str| ("t".to_owned(), name.to_owned(), true);
        let same = known.with(Piece::ForeignNames, &[row("remote_orders")]);
        assert!(same.is_none());
        let more = [row("remote_orders"), row("remote_items")];
        let more = known.with(Piece::ForeignNames, &more).unwrap();
        assert!(more.may_name_foreign_table(b"select from remote_items"));
        assert!(more.is_safe_function("lower"));
    }

    #[test]
    fn functions_that_might_shadow_are_not_safe() {
        let row = |kind: &str, name: &str, safe| (kind.to_owned(), name.to_owned(), safe);
        let rows = [row("u", "lower", false), row("f", "lower", true), row("f", "upper", true)];
        let known = CatalogSnapshot::default().with(Piece::Functions, &rows).unwrap();
        assert!(!known.is_safe_function("lower") && known.is_safe_function("upper"));
        assert!(known.is_outside_function("lower"));
    }

    #[test]
    fn what_a_command_may_change_is_all_unless_it_is_known() {
        assert_eq!(changed_by("SELECT 1"), &[]);
        assert_eq!(changed_by("CREATE INDEX"), &[]);
        assert!(!changed_by("CREATE TABLE").contains(&Piece::ForeignNames));
        assert_eq!(changed_by("DROP CAST"), &[Piece::Functions, Piece::Types]);
        for tag in ["ALTER TABLE", "CREATE EXTENSION", "IMPORT FOREIGN SCHEMA", "DROP WIDGET"] {
            assert_eq!(changed_by(tag), Piece::ALL);
        }
    }
}
