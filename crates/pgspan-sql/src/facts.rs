//! Answers of home and sources, typed. The questions are in [`crate::ask`].

use crate::cause::Cause;
use crate::route::Reason;
use serde::Deserialize;

/// Locale and encoding of a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Database {
    /// Encoding name.
    pub encoding: String,
    /// Provider, locale and version in one comparable text.
    pub locale: String,
}

/// One live column.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type OID.
    #[serde(rename = "type")]
    pub type_oid: u32,
    /// Type modifier, -1 for none.
    pub typmod: i32,
    /// Type as SQL writes it.
    pub format: String,
    /// `b` base, `c` composite, `d` domain, `e` enum, `r` range, `m` multirange.
    pub typtype: String,
    /// Type name.
    pub typname: String,
    /// Type's schema.
    pub typnsp: String,
    /// Element type OID of an array, else 0.
    pub elem: u32,
    /// `typtype` of the element.
    pub elemtype: Option<String>,
    /// Declared NOT NULL.
    pub not_null: bool,
    /// Collation definition in one comparable text; `None` for types without.
    pub collation: Option<String>,
    /// Whether the collation is deterministic.
    pub deterministic: Option<bool>,
    /// `name=value` options.
    pub options: Option<Vec<String>>,
    /// `v` for a virtual generated column, `s` for a stored one, else empty.
    #[serde(default)]
    pub generated: Option<String>,
}

/// A foreign server as the asking role sees it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct ForeignServer {
    /// Name.
    pub name: String,
    /// Whether its wrapper's handler is postgres_fdw's.
    pub postgres_fdw: bool,
    /// Options of the wrapper itself.
    pub wrapper_options: Option<Vec<String>>,
    /// Server options.
    pub options: Option<Vec<String>>,
    /// Whether there is a user mapping for the role or for PUBLIC.
    pub mapped: bool,
    /// The mapping's options, when the role may read them.
    pub mapping: Option<Vec<String>>,
}

impl std::fmt::Debug for ForeignServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The mapping holds a password.
        write!(f, "ForeignServer({})", self.name)
    }
}

/// What a view rests on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct View {
    /// It may reach foreign tables, partitions, row security, a user's functions, or
    /// functions that do more than compute.
    pub hazard: bool,
    /// A plan may keep what a setting has decided ([`crate::folding`]).
    pub folds: bool,
    /// Another text for each version of it and of the views below it.
    pub state: Option<String>,
}

/// A relation at home, by the name that the statement writes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HomeRelation {
    /// The name as asked.
    pub written: String,
    /// OID; `None` when there is no such relation.
    pub oid: Option<u32>,
    /// `relkind`.
    pub kind: Option<String>,
    /// `relpersistence`.
    pub persistence: Option<String>,
    /// Schema.
    pub schema: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Row security enabled.
    pub row_security: Option<bool>,
    /// May have inheritance children.
    pub subclass: Option<bool>,
    /// A foreign table among its inheritance children.
    pub foreign_child: Option<bool>,
    /// Row type OID.
    pub row_type: Option<u32>,
    /// OID of the array of its row type.
    pub array_type: Option<u32>,
    /// SELECT on all of it.
    pub select: Option<bool>,
    /// Its foreign server.
    pub server: Option<ForeignServer>,
    /// Its own options.
    pub options: Option<Vec<String>>,
    /// What it rests on, if it is a view.
    pub view: Option<View>,
    /// It has virtual generated columns, whose expressions become the statement's
    /// (PostgreSQL 18).
    pub virtual_columns: Option<bool>,
    /// Live columns in attribute order, for foreign tables.
    pub columns: Option<Vec<Column>>,
}

/// Everything about the relations of one statement at home.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HomeFacts {
    /// `server_version_num`.
    pub version: u32,
    /// Home's database.
    pub database: Database,
    /// Effective role.
    pub user: String,
    /// One entry per name asked.
    pub relations: Vec<HomeRelation>,
}

/// Everything about one remote relation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SourceFacts {
    /// `server_version_num`.
    pub version: u32,
    /// The source's database.
    pub database: Database,
    /// OID there.
    pub oid: u32,
    /// `relkind`.
    pub kind: String,
    /// Row security enabled.
    pub row_security: bool,
    /// May have inheritance children.
    pub subclass: bool,
    /// Estimated rows, -1 when never analyzed.
    pub rows: f64,
    /// Pages.
    pub pages: i64,
    /// Live columns.
    pub columns: Option<Vec<Column>>,
    /// `array_nulls|transform_null_equals`, by which a source reads literals and comparisons.
    pub reading: String,
}

impl HomeFacts {
    /// Reads the answer to [`crate::ask::home_facts`].
    ///
    /// # Errors
    /// When it is not what was asked for.
    pub fn read(json: &[u8]) -> Result<HomeFacts, Reason> {
        serde_json::from_slice(json).map_err(|e| Reason::about(Cause::CatalogAnswer, e.to_string()))
    }

    /// Whether all that home's EXPLAIN prints of a statement is of the statement's own text.
    /// What it prints is read again, and it does not print all: a COLLATE that the planner has
    /// made a relabelling of (ruleutils.c, `get_rule_expr`), the columns that an alias renames,
    /// whose alias is whose. In the statement's own text such things are looked for; not in a
    /// view's, nor in a virtual column's.
    pub fn is_printed_whole(&self) -> bool {
        self.relations.iter().all(|r| r.virtual_columns != Some(true) && r.view.is_none())
    }

    /// The relation that the statement writes by this (quoted) name.
    pub fn relation(&self, written: &str) -> Option<&HomeRelation> {
        self.relations.iter().find(|r| r.written == written)
    }
}

impl SourceFacts {
    /// About what it takes, in bytes.
    pub fn bytes(&self) -> usize {
        /// A column with its name, type and collation.
        const COLUMN_BYTES: usize = 256;
        let columns = self.columns.as_ref().map_or(0, Vec::len);
        size_of::<SourceFacts>() + columns * COLUMN_BYTES + self.kind.len() + self.reading.len()
    }

    /// Whether it is the same table, defined alike. How many rows it has does not matter.
    pub fn same_definition(&self, other: &SourceFacts) -> bool {
        let SourceFacts { version, database, oid, kind, row_security, subclass, columns, .. } =
            self;
        (version, database, oid, kind) == (&other.version, &other.database, &other.oid, &other.kind)
            && (row_security, subclass, columns)
                == (&other.row_security, &other.subclass, &other.columns)
    }

    /// Reads the answer to [`crate::ask::source_facts`].
    ///
    /// # Errors
    /// When it is not what was asked for.
    pub fn read(json: &[u8]) -> Result<SourceFacts, Reason> {
        serde_json::from_slice(json).map_err(|e| Reason::about(Cause::CatalogAnswer, e.to_string()))
    }
}

/// The value of a `name=value` option.
pub fn option<'a>(options: &'a Option<Vec<String>>, name: &str) -> Option<&'a str> {
    options.iter().flatten().find_map(|o| o.strip_prefix(name)?.strip_prefix('='))
}
