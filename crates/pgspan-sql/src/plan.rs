//! All that is known → a [`FederatedPlan`], or the reason why home runs the
//! statement itself. Pure: every fact comes in as a value.

use crate::analyze::{Analysis, Kind, TableRef};
use crate::cause::Cause;
use crate::facts::{Column, HomeFacts, HomeRelation, SourceFacts};
use crate::fragment::{self, Carrier, Fetch};
use crate::keys;
use crate::order_free;
use crate::quote::qualified;
use crate::remote::{self, ForeignScan};
use crate::rewrite;
use crate::route::{Reason, Route, Strategy};
use crate::scope::Qualifier;
use crate::server::ServerSpec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A foreign table that the statement reads, before its source has been asked.
#[derive(Debug, Clone)]
pub struct Need {
    /// Its written name, as in [`crate::analyze::TableRef::sql_name`].
    pub written: String,
    /// Index into [`Needs::servers`].
    pub server: usize,
    /// Schema and name at the source.
    pub remote: (String, String),
}

/// What must be asked of the sources.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Each server and mapping once.
    pub servers: Vec<ServerSpec>,
    /// Each foreign table once.
    pub tables: Vec<Need>,
    /// Whether the plan may be used again while the fingerprint holds.
    pub repeatable: bool,
}

/// One source answers the whole statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Index into [`FederatedPlan::servers`].
    pub server: usize,
    /// What postgres_fdw would send.
    pub sql: String,
    /// For each output column, its place in the source's row.
    pub output: Vec<usize>,
    /// The source may use its parallel workers: a table is large, and the one row that
    /// comes is the same in whatever order it meets its own.
    pub parallel: bool,
}

/// How a statement is run across databases.
#[derive(Debug, Clone)]
pub struct FederatedPlan {
    /// The decision.
    pub route: Route,
    /// Servers with the role's mapping.
    pub servers: Vec<ServerSpec>,
    /// One fetch per foreign table.
    pub fetches: Vec<Fetch>,
    /// For each table of the analysis, the fetch that carries it.
    pub carried_by: Vec<Option<usize>>,
    /// The statement with `$first_parameter…` as carriers.
    pub home_sql: String,
    /// Parameter number of the first carrier.
    pub first_parameter: u32,
    /// Set when the source answers all of it.
    pub direct: Option<Direct>,
    /// Whether it may be used again while the fingerprint holds.
    pub repeatable: bool,
    /// A table that is fetched whole and has more rows than a fetch may bring: home join
    /// is out of the question.
    pub too_large: Option<String>,
    /// The source could join or fold a table of more rows than a fetch may bring, which
    /// home join reads table by table: the engine is asked first.
    pub joined_there: bool,
}

/// Limits that planning must know.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows that one fetch may bring.
    pub rows_max: u64,
    /// Keys that may be sent to a source.
    pub keys_max: u64,
    /// Pages from which on a source's table is large.
    pub pages_min: i64,
}

/// Tables below this many rows are small: they are fetched without asking home for join
/// keys first.
pub const SMALL_ROWS: f64 = 2_000.0;

/// Checks the statement's relations at home and lists what to ask of the sources.
///
/// # Errors
/// The reason for fallback.
pub fn needs(a: &Analysis, home: &HomeFacts) -> Result<Needs, Reason> {
    let mut out = Needs { repeatable: a.repeatable, ..Needs::default() };
    for table in &a.tables {
        let written = table.sql_name();
        let Some(relation) = home.relation(&written).filter(|r| r.oid.is_some()) else {
            return Err(Reason::about(Cause::NoRelation, written));
        };
        if matches!(relation.schema.as_deref(), Some("pg_catalog" | "information_schema")) {
            return Err(Reason::about(Cause::SystemCatalog, written));
        }
        match relation.kind.as_deref() {
            Some("f") => {
                if relation.select != Some(true) {
                    return Err(Reason::about(Cause::NoSelect, written));
                }
                if relation.subclass == Some(true) && !table.only {
                    return Err(Reason::about(Cause::ForeignWithChildren, written));
                }
                if out.tables.iter().any(|n| n.written == written) {
                    continue;
                }
                let server = relation.server.as_ref().ok_or(Reason::new(Cause::NoForeignServer))?;
                let spec = ServerSpec::new(server)?;
                let server = out.servers.iter().position(|s| *s == spec).unwrap_or_else(|| {
                    out.servers.push(spec);
                    out.servers.len() - 1
                });
                out.tables.push(Need { written, server, remote: fragment::remote_name(relation) });
            }
            Some("r" | "p" | "m") => {
                if relation.foreign_child == Some(true) {
                    return Err(Reason::about(Cause::ParentOfForeign, written));
                }
                if relation.row_security == Some(true) {
                    return Err(Reason::about(Cause::RowSecurity, written));
                }
            }
            Some("v") if relation.view.as_ref().is_none_or(|view| view.hazard) => {
                return Err(Reason::about(Cause::ViewNotLocal, written));
            }
            // A view's conditions may be shipped, and a view may change unnoticed.
            Some("v") => out.repeatable = false,
            kind => return Err(Reason::about(Cause::RelationKind, kind.unwrap_or("?"))),
        }
    }
    if out.tables.is_empty() {
        return Err(Reason::new(Cause::NoForeignRead));
    }
    Ok(out)
}

fn same_declaration(home: &HomeFacts, source: &SourceFacts, column: &Column) -> Result<(), Reason> {
    let name = fragment::remote_column(column);
    // postgres_fdw quotes what is a keyword at home: the source reads a function in its place.
    // No other keyword that is reserved from version 15 on.
    if name == "system_user" && home.version < 160_000 && source.version >= 160_000 {
        return Err(Reason::about(Cause::KeywordAtSource, name));
    }
    let remote = source.columns.iter().flatten().find(|c| c.name == name);
    let Some(remote) = remote else {
        return Err(Reason::about(Cause::NoColumnAtSource, name));
    };
    let alike = (&column.typname, &column.typnsp, column.typmod, &column.typtype)
        == (&remote.typname, &remote.typnsp, remote.typmod, &remote.typtype);
    if !alike {
        return Err(Reason::about(Cause::DeclaredOtherwise, &column.name));
    }
    if column.collation != remote.collation {
        return Err(Reason::about(Cause::OtherCollation, &column.name));
    }
    if column.collation.is_some() && home.database != source.database {
        return Err(Reason::about(Cause::OtherLocale, &column.name));
    }
    if home.version >= 170_000 && column.not_null && !remote.not_null {
        return Err(Reason::about(Cause::NotNullAtHome, &column.name));
    }
    Ok(())
}

/// Makes the plan.
///
/// `text` is the client's; `declared` the number of parameters it binds; `sources`
/// answers for `needs.tables` in their order; `output_types` the type OIDs of home's
/// Describe of the original.
///
/// # Errors
/// The reason for fallback.
#[allow(clippy::too_many_arguments)]
pub fn plan(
    text: &str,
    a: &Analysis,
    declared: u32,
    home: &HomeFacts,
    needs: &Needs,
    scans: &[ForeignScan],
    sources: &[Arc<SourceFacts>],
    output_types: &[u32],
    limits: Limits,
) -> Result<FederatedPlan, Reason> {
    let relations: Vec<&HomeRelation> = needs
        .tables
        .iter()
        .map(|n| home.relation(&n.written).ok_or(Reason::new(Cause::NoRelation)))
        .collect::<Result<_, _>>()?;
    let conditions = scan_conditions(a, needs, &relations, scans)?;
    let read_there = columns_read(needs, &relations, scans)?;
    let mut fetches = Vec::new();
    for (i, need) in needs.tables.iter().enumerate() {
        let (Some(relation), Some(source)) = (relations.get(i), sources.get(i)) else {
            return Err(Reason::new(Cause::SourceSilent));
        };
        let condition = conditions.get(i).and_then(|c| fragment::combine(c));
        let words = read_there.get(i).ok_or(Reason::new(Cause::SourceSilent))?;
        fetches.push(fetch(a, home, need, (relation, source), words, condition.as_deref())?);
    }
    let carried_by: Vec<Option<usize>> = a
        .tables
        .iter()
        .map(|t| needs.tables.iter().position(|n| n.written == t.sql_name()))
        .collect();
    let direct =
        direct(a, needs, (&relations, sources), scans, &carried_by, output_types, limits.pages_min);
    keys::add(text, a, &relations, &carried_by, &mut fetches, limits.keys_max);
    let too_large = fetches.iter().find(|f| {
        let unrestricted = f.keys.is_none() && f.condition.is_none();
        #[allow(clippy::cast_precision_loss)] // an estimate
        let beyond = f.table_rows > limits.rows_max as f64;
        direct.is_none() && unrestricted && beyond
    });
    let too_large = too_large.map(qualified_home);
    #[allow(clippy::cast_precision_loss)] // an estimate
    let large = |f: &Fetch| f.keys.is_none() && f.table_rows > limits.rows_max as f64;
    let joined_there =
        direct.is_none() && scans.iter().any(|s| s.relation.is_none()) && fetches.iter().any(large);
    let first_parameter = a.parameters.max(declared) + 1;
    let home_sql = if a.kind == Kind::CopyOut {
        String::new()
    } else {
        let schema = |t: usize| home.relation(&a.tables.get(t)?.sql_name())?.schema.clone();
        rewrite::splice(text, a, schema, |t| {
            let f = carried_by.get(t).copied().flatten()?;
            let number = first_parameter + u32::try_from(f).ok()?;
            let fetch = fetches.get(f)?;
            Some(format!("pg_catalog.unnest(${number}::{}[])", qualified_home(fetch)))
        })?
    };
    let (strategy, cause) = match direct {
        Some(_) => (Strategy::Direct, Cause::OneSource),
        None => (Strategy::HomeJoin, Cause::FewRows),
    };
    Ok(FederatedPlan {
        route: Route { strategy, reason: Reason::new(cause) },
        servers: needs.servers.clone(),
        fetches,
        carried_by,
        home_sql,
        first_parameter,
        direct,
        repeatable: needs.repeatable,
        too_large,
        joined_there,
    })
}

/// The foreign table's name at home as SQL.
pub fn qualified_home(f: &Fetch) -> String {
    qualified(&f.home_name.0, &f.home_name.1)
}

/// For each needed table, the conditions of each of its scans; none for one of which fewer
/// scans are seen than the statement has of the table.
fn scan_conditions(
    a: &Analysis,
    needs: &Needs,
    relations: &[&HomeRelation],
    scans: &[ForeignScan],
) -> Result<Vec<Vec<Vec<String>>>, Reason> {
    let mut conditions: Vec<Vec<Vec<String>>> = vec![Vec::new(); needs.tables.len()];
    for scan in scans {
        let named = scan.relation.as_ref();
        let mut tables = remote::remote_tables(&scan.remote_sql)?;
        if !scan.conditional {
            tables.iter_mut().for_each(|t| t.conditions.clear());
        }
        if let Some((schema, name)) = named {
            let home = relations.iter().position(|r| {
                r.schema.as_deref() == Some(schema.as_str())
                    && r.name.as_deref() == Some(name.as_str())
            });
            let Some(i) = home else {
                return Err(Reason::about(Cause::ReachedUnnamed, name));
            };
            let own = tables.into_iter().next().map(|t| t.conditions).unwrap_or_default();
            conditions[i].push(own);
            continue;
        }
        for table in tables {
            let matching: Vec<usize> = (0..needs.tables.len())
                .filter(|i| needs.tables[*i].remote == (table.schema.clone(), table.name.clone()))
                .collect();
            match matching.as_slice() {
                [] => return Err(Reason::about(Cause::ReachedUnnamed, table.name)),
                [one] => conditions[*one].push(table.conditions.clone()),
                // Which of them is meant cannot be told: all of each is wanted.
                many => many.iter().for_each(|i| conditions[*i].push(Vec::new())),
            }
        }
    }
    for (need, seen) in needs.tables.iter().zip(&mut conditions) {
        let written = a.tables.iter().filter(|t| t.sql_name() == need.written).count();
        if seen.len() < written {
            seen.push(Vec::new());
        }
    }
    Ok(conditions)
}

/// What home's own planner reads of a foreign table, by what postgres_fdw would send.
#[derive(Debug, Clone, Default)]
struct ReadThere {
    /// Every word of it: a superset of the names of columns, at the source.
    words: BTreeSet<String>,
    /// Its columns, where it reads this table alone.
    columns: BTreeSet<String>,
}

/// What is read of each needed table.
fn columns_read(
    needs: &Needs,
    relations: &[&HomeRelation],
    scans: &[ForeignScan],
) -> Result<Vec<ReadThere>, Reason> {
    let mut read = vec![ReadThere::default(); needs.tables.len()];
    for scan in scans {
        let there = remote::remote_tables(&scan.remote_sql)?;
        let of_scan = fragment::condition_words(&scan.remote_sql);
        let columns = remote::columns(&scan.remote_sql);
        for ((need, relation), read) in needs.tables.iter().zip(relations).zip(&mut read) {
            let here = scan.relation.as_ref().is_some_and(|(schema, name)| {
                relation.schema.as_ref() == Some(schema) && relation.name.as_ref() == Some(name)
            });
            let named =
                there.iter().any(|t| (&t.schema, &t.name) == (&need.remote.0, &need.remote.1));
            if here || named {
                read.words.extend(of_scan.iter().cloned());
            }
            if here {
                read.columns.extend(columns.iter().cloned());
            }
        }
    }
    Ok(read)
}

/// Tells whether the statement may read a column of these of its tables, all the same
/// relation.
fn used<'a>(
    a: &'a Analysis,
    mine: &dyn Fn(&TableRef) -> bool,
    columns: &[Column],
) -> impl Fn(&Column) -> bool + use<'a> {
    let tables: Vec<&TableRef> = a.tables.iter().filter(|t| mine(t)).collect();
    let mut whole = tables.iter().any(|t| t.used.whole || t.renames_columns);
    // What follows a name and is no column may be a function of the whole row.
    let mine = |n: &usize| a.tables.get(*n).is_some_and(mine);
    whole |= a.references.iter().any(|r| {
        let own = match &r.names {
            Qualifier::Table(t) => mine(t),
            Qualifier::Other(reads) => reads.iter().any(mine),
            Qualifier::Schema(name) => name.candidates.iter().any(mine),
        };
        own && r.call.as_ref().is_some_and(|name| !columns.iter().any(|c| *c.name == **name))
    });
    move |column| whole || tables.iter().any(|t| a.may_read_of(t, &column.name))
}

/// The resolver knew of every column that home's own planner reads. Tests play each case
/// with this on; what it would miss is fetched all the same.
fn foreseen(a: &Analysis, home: &HomeFacts, relation: &HomeRelation, there: &ReadThere) {
    let columns = relation.columns.as_deref().unwrap_or(&[]);
    // The relation may be written in several ways.
    let mine = |t: &TableRef| home.relation(&t.sql_name()).and_then(|r| r.oid) == relation.oid;
    let used = used(a, &mine, columns);
    for column in columns {
        debug_assert!(
            used(column) || !there.columns.contains(fragment::remote_column(column)),
            "home reads {}, of which the resolver did not know",
            column.name,
        );
    }
}

fn fetch(
    a: &Analysis,
    home: &HomeFacts,
    need: &Need,
    (relation, source): (&HomeRelation, &SourceFacts),
    read_there: &ReadThere,
    condition: Option<&str>,
) -> Result<Fetch, Reason> {
    if !matches!(source.kind.as_str(), "r" | "p") {
        return Err(Reason::about(Cause::NotPlainTable, &need.remote.1));
    }
    if source.row_security {
        return Err(Reason::about(Cause::RowSecurityAtSource, &need.remote.1));
    }
    if source.reading != "on|off" {
        return Err(Reason::new(Cause::SettingAtSource));
    }
    let columns = relation.columns.as_deref().unwrap_or(&[]);
    let used = used(a, &|t| t.sql_name() == need.written, columns);
    // Home computes it, from columns that the statement need not name.
    let is_virtual = |c: &&Column| c.generated.as_deref() == Some("v") && used(c);
    if let Some(column) = columns.iter().find(is_virtual) {
        return Err(Reason::about(Cause::VirtualColumn, &column.name));
    }
    if cfg!(debug_assertions) {
        foreseen(a, home, relation, read_there);
    }
    let mut fetched: Vec<&Column> = Vec::new();
    let mut layout = Vec::new();
    let mut binary = true;
    for column in columns {
        let there = fragment::remote_column(column);
        let needed = used(column) || column.typtype == "d" || read_there.words.contains(there);
        if needed {
            same_declaration(home, source, column)?;
            if fragment::names_objects(column) {
                // postgres_fdw has the source compare and sort by numbers of its own.
                return Err(Reason::about(Cause::NamesObjects, &column.name));
            }
            binary &= fragment::is_binary_safe(column, home.version, source.version);
            layout.push((column.type_oid, Some(fetched.len())));
            fetched.push(column);
        } else {
            layout.push((column.type_oid, None));
        }
    }
    let carrier = if binary && a.kind != Kind::CopyOut { Carrier::Binary } else { Carrier::Text };
    let builtin = |oid: u32| if oid < 16_384 { oid } else { 0 };
    Ok(Fetch {
        server: need.server,
        home_name: (
            relation.schema.clone().unwrap_or_default(),
            relation.name.clone().unwrap_or_default(),
        ),
        remote_name: need.remote.clone(),
        row_type: relation.row_type.unwrap_or(0),
        array_type: relation.array_type.unwrap_or(0),
        expected_types: fetched.iter().map(|c| builtin(c.type_oid)).collect(),
        expected_typmods: fetched.iter().map(|c| c.typmod).collect(),
        condition: condition.map(str::to_owned),
        sql: fragment::select(&fetched, &need.remote, condition),
        columns: layout,
        carrier,
        keys: None,
        table_rows: estimated_rows(source),
    })
}

/// The planner's guess at the rows of a remote table.
pub fn estimated_rows(source: &SourceFacts) -> f64 {
    if source.rows >= 0.0 {
        source.rows
    } else {
        // Never analyzed: as the planner does, guess from the pages (about 100 rows each).
        #[allow(clippy::cast_precision_loss)]
        let pages = source.pages.max(0) as f64;
        pages * 100.0
    }
}

/// Whether a fetch is worth restricting by keys.
pub(crate) fn keys_worth(f: &Fetch) -> bool {
    f.table_rows >= SMALL_ROWS
}

/// Types whose text form depends on no session setting and on no version.
const PLAIN_TEXT: &[u32] = &[16, 20, 21, 23, 25, 26, 1042, 1043, 1700, 2950, 114, 3802, 19];

fn direct(
    a: &Analysis,
    needs: &Needs,
    (relations, sources): (&[&HomeRelation], &[Arc<SourceFacts>]),
    scans: &[ForeignScan],
    carried_by: &[Option<usize>],
    output_types: &[u32],
    pages_min: i64,
) -> Option<Direct> {
    let [scan] = scans else { return None };
    let alone = a.kind != Kind::CopyOut
        && needs.servers.len() == 1
        && scan.whole_plan
        && scan.conditional
        && !scan.filtered
        && carried_by.iter().all(Option::is_some)
        && output_types.iter().all(|t| PLAIN_TEXT.contains(t));
    if !alone || scan.remote_sql.contains('$') || output_types.is_empty() {
        return None;
    }
    // Home would check what a domain of its own demands.
    let mut columns = relations.iter().flat_map(|r| r.columns.iter().flatten());
    if columns.any(|c| c.typtype == "d") {
        return None;
    }
    let remote = remote::select_columns(&scan.remote_sql)?;
    let wanted = scan.output.get(..output_types.len())?;
    let output = if scan.relation.is_some() {
        let columns = relations.first()?.columns.as_deref()?;
        wanted
            .iter()
            .map(|o| {
                let name = remote::output_column(o)?;
                let column = columns.iter().find(|c| c.name == name)?;
                let there = fragment::remote_column(column);
                remote.iter().position(|r| r.as_deref() == Some(there))
            })
            .collect::<Option<Vec<_>>>()?
    } else {
        // Grouped: postgres_fdw's select list is the output list, each expression once.
        let mut distinct = scan.output.clone();
        distinct.sort();
        distinct.dedup();
        let grouped = scan.output.iter().any(|o| o.contains('('));
        let there = |name: &str| {
            let mut columns = relations.iter().flat_map(|r| r.columns.iter().flatten());
            let mut found: Vec<_> = columns
                .by_ref()
                .filter(|c| c.name == name)
                .map(|c| fragment::remote_column(c).to_owned())
                .collect();
            found.dedup();
            if found.len() == 1 { found.pop() } else { None }
        };
        let same = remote::same_expressions(&scan.output, &scan.remote_sql, &there);
        if !grouped || distinct.len() != scan.output.len() || !same {
            return None;
        }
        (0..output_types.len()).collect()
    };
    let type_of = |name: &str| {
        fragment::remote_type(relations.iter().flat_map(|r| r.columns.iter().flatten()), name)
    };
    let sql = scan.remote_sql.clone();
    let large = sources.iter().any(|s| s.pages >= pages_min);
    let parallel = large && order_free::folds_into_one(&sql, &type_of);
    Some(Direct { server: 0, sql, output, parallel })
}
