//! What one source is asked for: the columns in use of one foreign table, with the
//! conditions that postgres_fdw itself would ship.

use crate::facts::{Column, HomeRelation, option};
use crate::parse::lex;
use crate::quote::{ident, qualified};

/// How fetched rows are bound to home's statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// An array of the foreign table's row type, in binary.
    Binary,
    /// The same as text: the input functions that postgres_fdw uses.
    Text,
}

/// Built-in types whose binary form does not carry over between databases, or keeps what
/// postgres_fdw's way over text does not: money, xml, the reg types, aclitem, pg_node_tree and
/// kin; tsquery (a tree in another shape); "char" (from version 16 on other text above 127); and
/// what is made of floats and intervals, for which [`CHANGED_IN_17`] and the carrier see to that.
const TEXT_ONLY: &[u32] = &[
    790, 142, 24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, 1033, 194, 3361,
    3402, 5017, 13, 2249, 2278, 27, 3615, 3645, 18, 1002, 1021, 1022, 1187, 600, 601, 602, 603,
    604, 628, 718, 1017, 1018, 1019, 1020, 1027, 629, 719,
];

/// One fetch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetch {
    /// Index into [`crate::plan::FederatedPlan::servers`].
    pub server: usize,
    /// Schema and name at home.
    pub home_name: (String, String),
    /// Schema and name at the source.
    pub remote_name: (String, String),
    /// Row type OID at home.
    pub row_type: u32,
    /// OID of the array of it.
    pub array_type: u32,
    /// For every live column of the foreign table: its type OID at home, and where
    /// it stands in the fetched row, if it is fetched.
    pub columns: Vec<(u32, Option<usize>)>,
    /// Type OIDs that the source must answer with; 0 where user types differ in OID.
    pub expected_types: Vec<u32>,
    /// Their type modifiers.
    pub expected_typmods: Vec<i32>,
    /// The carrier's format.
    pub carrier: Carrier,
    /// The SELECT for the source.
    pub sql: String,
    /// Its WHERE, if it has one.
    pub condition: Option<String>,
    /// The remote column and array type OID that keys restrict, when they do.
    pub keys: Option<KeyFilter>,
    /// Estimated rows of the remote table, -1 unknown.
    pub table_rows: f64,
}

/// Restriction of a fetch by join keys of the home side, bound as its `$1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFilter {
    /// The SELECT at home that gives the keys, at most one more than the ceiling.
    pub home_sql: String,
    /// The fetch with `= ANY($1)`.
    pub sql: String,
    /// Element type OID of the keys.
    pub element_type: u32,
    /// More keys than this are not sent.
    pub keys_max: usize,
}

/// The remote schema and table of a foreign table.
pub fn remote_name(relation: &HomeRelation) -> (String, String) {
    let own = |o: &Option<String>| o.clone().unwrap_or_default();
    let schema = option(&relation.options, "schema_name").map(str::to_owned);
    let name = option(&relation.options, "table_name").map(str::to_owned);
    (schema.unwrap_or_else(|| own(&relation.schema)), name.unwrap_or_else(|| own(&relation.name)))
}

/// The column's name at the source.
pub fn remote_column(column: &Column) -> &str {
    option(&column.options, "column_name").unwrap_or(&column.name)
}

/// Type OID and modifier of the column of this name at the source; `None` where there is
/// none, or several of different types.
pub fn remote_type<'a>(
    columns: impl Iterator<Item = &'a Column>,
    name: &str,
) -> Option<(u32, i32)> {
    let own = columns.filter(|c| remote_column(c) == name);
    let mut types = own.map(|c| (c.type_oid, c.typmod));
    let first = types.next()?;
    types.all(|t| t == first).then_some(first)
}

/// The reg types: OIDs that are written as names, which mean other objects elsewhere.
pub(crate) const NAMING: &[u32] = &[24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// Whether a column's values are names of objects.
pub fn names_objects(column: &Column) -> bool {
    is_naming(column.type_oid) || is_naming(column.elem)
}

/// Whether a type's values are names of objects.
pub fn is_naming(type_oid: u32) -> bool {
    NAMING.contains(&type_oid)
}

/// Types in whose binary form PostgreSQL 17 gave some values (the infinite intervals)
/// another meaning.
const CHANGED_IN_17: &[u32] = &[1186, 1187];

/// Whether values of a type mean the same in binary to servers of these versions.
pub fn is_same_in_binary(type_oid: u32, home: u32, source: u32) -> bool {
    !CHANGED_IN_17.contains(&type_oid) || (home >= 170_000) == (source >= 170_000)
}

/// Whether a column's values can travel in binary from a source to home, of these versions.
pub fn is_binary_safe(column: &Column, home: u32, source: u32) -> bool {
    let builtin = |oid: u32| {
        oid < 16_384 && !TEXT_ONLY.contains(&oid) && is_same_in_binary(oid, home, source)
    };
    if column.typtype == "e" {
        return true;
    }
    column.typnsp == "pg_catalog"
        && builtin(column.type_oid)
        && (column.elem == 0 || builtin(column.elem))
}

/// The conditions of one fetch: what every scan of the table demands. An empty
/// inner list means that some scan wants every row.
pub fn combine(scans: &[Vec<String>]) -> Option<String> {
    if scans.is_empty() || scans.iter().any(Vec::is_empty) {
        return None;
    }
    let mut alternatives: Vec<String> = scans.iter().map(|s| s.join(" AND ")).collect();
    alternatives.sort();
    alternatives.dedup();
    Some(match alternatives.as_slice() {
        [one] => one.clone(),
        many => format!("({})", many.join(") OR (")),
    })
}

/// Names that a condition mentions, to be fetched because home evaluates it again.
pub fn condition_words(condition: &str) -> Vec<String> {
    lex(condition)
        .iter()
        .map(|t| condition[t.start..t.end].trim_matches('"').replace("\"\"", "\""))
        .collect()
}

/// The SELECT for the source.
pub fn select(columns: &[&Column], remote: &(String, String), condition: Option<&str>) -> String {
    let list: Vec<_> = columns.iter().map(|c| ident(remote_column(c))).collect();
    let list = if list.is_empty() { "NULL".to_owned() } else { list.join(", ") };
    let from = qualified(&remote.0, &remote.1);
    match condition {
        Some(c) => format!("SELECT {list} FROM {from} WHERE {c}"),
        None => format!("SELECT {list} FROM {from}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_without_conditions_wants_everything() {
        let a = vec!["(a > 1)".to_owned()];
        assert_eq!(combine(&[a.clone(), Vec::new()]), None);
        assert_eq!(combine(&[a.clone(), a.clone()]).as_deref(), Some("(a > 1)"));
        let b = vec!["(b)".to_owned(), "(c)".to_owned()];
        assert_eq!(combine(&[a, b]).as_deref(), Some("((a > 1)) OR ((b) AND (c))"));
    }
}
