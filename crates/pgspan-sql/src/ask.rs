//! The SQL that home and sources are asked with. Every name is qualified, so that
//! a client's `search_path` cannot change the question.

use crate::analyze::{Analysis, SharedNames};
use crate::catalog::CatalogSnapshot;
use crate::cause::Cause;
use crate::outside;
use crate::quote::{literal, name_array, text_array};
use crate::route::Reason;

/// Names of all foreign tables (`t`), rows `(kind, name, safe)` as all parts of a
/// [`CatalogSnapshot`] have. As many steps through an index as there are foreign tables,
/// however many other ones there are.
pub const FOREIGN_NAMES: &str = "\
SELECT 't', (SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) f.ftrelid), true \
FROM pg_catalog.pg_foreign_table f";

/// Names of relations that have children or partitions (`p`).
pub const PARENTS: &str = "\
SELECT 'p', (SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) i.inhparent), true \
FROM (SELECT DISTINCT h.inhparent FROM pg_catalog.pg_inherits h) i";

/// Every built-in function name with whether none of its overloads is volatile (`f`);
/// names of functions (`u`) outside `pg_catalog` with whether all are immutable; names of
/// operators (`o`) there that are not, or whose function is SQL that the planner puts in
/// their place; words that are keywords (`k`) at home, of those that
/// are none to older servers; built-in functions behind operators and casts that not everybody
/// may call (`a`).
pub const FUNCTIONS: &str = "\
SELECT 'f', p.proname::pg_catalog.text, pg_catalog.bool_and(p.provolatile OPERATOR(pg_catalog.<>) 'v') \
FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) 11::pg_catalog.oid GROUP BY p.proname \
UNION ALL \
SELECT 'u', p.proname::pg_catalog.text, pg_catalog.bool_and(p.provolatile OPERATOR(pg_catalog.=) 'i') FROM pg_catalog.pg_proc p \
WHERE p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid GROUP BY p.proname \
UNION ALL \
SELECT 'o', o.oprname::pg_catalog.text, false FROM pg_catalog.pg_operator o \
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid \
WHERE o.oprnamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid AND (p.provolatile OPERATOR(pg_catalog.<>) 'i' OR p.prolang OPERATOR(pg_catalog.=) 14::pg_catalog.oid) \
UNION ALL \
SELECT 'k', k.word, true FROM pg_catalog.pg_get_keywords() k WHERE k.word OPERATOR(pg_catalog.=) 'system_user' \
UNION ALL \
SELECT 'a', p.proname::pg_catalog.text, false FROM pg_catalog.pg_proc p \
WHERE p.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid AND p.proacl IS NOT NULL \
AND NOT pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') \
AND (EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oprcode::pg_catalog.oid OPERATOR(pg_catalog.=) p.oid) \
OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast c WHERE c.castfunc OPERATOR(pg_catalog.=) p.oid))";

/// Names of types (`y`) to which a cast runs a function that is not immutable: one of the
/// cast's own, or one in a CHECK of a domain, and of the types made of these (`*` when the
/// cast may be implied anywhere).
///
/// `edge` is evaluated only where there is such a type at all.
pub const STRANGE_TYPES: &str = "\
WITH RECURSIVE edge(part, whole) AS MATERIALIZED (\
SELECT t.typbasetype, t.oid FROM pg_catalog.pg_type t WHERE t.typbasetype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
UNION ALL SELECT t.typelem, t.oid FROM pg_catalog.pg_type t WHERE t.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
UNION ALL SELECT a.atttypid, k.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class k ON k.oid OPERATOR(pg_catalog.=) a.attrelid \
WHERE k.reltype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid AND a.attnum OPERATOR(pg_catalog.>) 0 \
UNION ALL SELECT g.rngsubtype, g.rngtypid FROM pg_catalog.pg_range g \
UNION ALL SELECT g.rngsubtype, g.rngmultitypid FROM pg_catalog.pg_range g \
UNION ALL SELECT pg_catalog.oidin(pg_catalog.textout(m.ids[1])), c.contypid FROM pg_catalog.pg_constraint c \
CROSS JOIN LATERAL pg_catalog.regexp_matches(c.conbin::pg_catalog.text, ':resulttype ([0-9]+)', 'g') AS m(ids) \
WHERE c.contypid OPERATOR(pg_catalog.>) 0::pg_catalog.oid), \
strange_cast AS (SELECT c.casttarget, c.castcontext FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) c.castfunc \
WHERE p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid AND p.provolatile OPERATOR(pg_catalog.<>) 'i'), \
strange(o) AS (\
SELECT c.contypid FROM pg_catalog.pg_constraint c \
CROSS JOIN LATERAL pg_catalog.regexp_matches(c.conbin::pg_catalog.text, ':(?:op)?funcid ([0-9]+)', 'g') AS m(ids) \
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) pg_catalog.oidin(pg_catalog.textout(m.ids[1])) \
WHERE c.contypid OPERATOR(pg_catalog.>) 0::pg_catalog.oid AND (p.provolatile OPERATOR(pg_catalog.=) 'v' \
OR (p.provolatile OPERATOR(pg_catalog.=) 's' AND (p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid OR p.proname OPERATOR(pg_catalog.=) 'current_setting'))) \
UNION \
SELECT k.casttarget FROM strange_cast k \
UNION \
SELECT e.whole FROM strange s JOIN edge e ON e.part OPERATOR(pg_catalog.=) s.o) \
SELECT 'y', t.typname::pg_catalog.text, false FROM strange s JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) s.o \
UNION ALL \
SELECT 'y', '*', false FROM strange_cast k WHERE k.castcontext OPERATOR(pg_catalog.=) 'i'";

/// Settings that the server reports by itself whenever they change (manual, section
/// "ParameterStatus"), and that change how a statement or its literals are read.
pub const REPORTED_SETTINGS: &[&str] = &[
    "is_superuser",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "client_encoding",
    "server_encoding",
    "standard_conforming_strings",
];

/// Settings that are asked for with each fingerprint, in its order. Together with the
/// reported ones these are all that the parser, the constant folder, a function that calls
/// itself immutable, or what this gateway does may look at; `tests/parity/src/settings.rs`
/// knows why each other setting of a server is not among them.
pub const ASKED_SETTINGS: &[&str] = &[
    "search_path",
    "constraint_exclusion",
    "array_nulls",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "timezone_abbreviations",
    "extra_float_digits",
    "bytea_output",
    "xmlbinary",
    "xmloption",
    "default_text_search_config",
    "backslash_quote",
    "transform_null_equals",
    "quote_all_identifiers",
    "restrict_nonsystem_relation_kind",
    "transaction_timeout",
    "plan_cache_mode",
];

/// Those of them that older servers do not have.
const NEWER_SETTINGS: &[&str] = &["restrict_nonsystem_relation_kind", "transaction_timeout"];

/// The client's wish for a strategy (`SET pgspan.strategy = engine`): a setting of ours
/// that PostgreSQL keeps as it keeps those of its extensions.
const STRATEGY: &str = "COALESCE(pg_catalog.current_setting('pgspan.strategy', true), '')";

/// What `pgspan.strategy` may ask for. Whatever is asked, a strategy that is not proven
/// for a statement is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// What is expected to be quickest.
    #[default]
    Auto,
    /// Home join however much crosses.
    HomeJoin,
    /// The engine however little crosses.
    Engine,
    /// Home itself.
    Fallback,
}

fn setting(name: &str) -> String {
    if NEWER_SETTINGS.contains(&name) {
        format!("COALESCE(pg_catalog.current_setting({}, true), '')", literal(name))
    } else {
        format!("pg_catalog.current_setting({})", literal(name))
    }
}

/// Role and settings, as one text.
fn settings() -> String {
    let mut settings: Vec<_> = ASKED_SETTINGS.iter().map(|s| setting(s)).collect();
    settings.push(STRATEGY.to_owned());
    format!("pg_catalog.concat_ws('|', CURRENT_USER, {})", settings.join(", "))
}

/// Column 1 of a fingerprint without the role.
pub fn without_role(settings: &[u8]) -> &[u8] {
    let end = settings.iter().position(|byte| *byte == b'|').unwrap_or(settings.len());
    &settings[end..]
}

/// What is visible to a transaction, as `xmin:xmax:` and the transactions between them
/// that still run.
const SNAPSHOT: &str = "pg_catalog.pg_current_snapshot()";

/// When this session's process read the configuration files last, which changes its settings
/// without a statement of its own.
const LOADED: &str = "EXTRACT(EPOCH FROM pg_catalog.pg_conf_load_time())";

/// The part of every fingerprint that a session can change without a transaction that
/// others could see, the snapshot, and when the configuration was read: one row of three
/// texts. Where the snapshot [`is_still`] the one of an earlier fingerprint of this session,
/// and the first column what it was then, the rest of that fingerprint is what it was too.
pub fn unchanged() -> String {
    format!("SELECT {}, {SNAPSHOT}, {LOADED}", settings())
}

/// The same without role and settings, in a session in which nothing has run since they were
/// read: where the configuration was not read since either, they are what they were.
pub fn undisturbed() -> String {
    format!("SELECT '', {SNAPSHOT}, {LOADED}")
}

/// Whether a snapshot tells by itself what is visible: every transaction that had a number
/// had ended. (On a replica the list of those that run is not part of the text, which makes
/// no difference when there are none.) A later transaction with the same snapshot sees the
/// same catalog, row for row.
pub fn is_still(snapshot: &str) -> bool {
    let mut parts = snapshot.split(':');
    let (Some(xmin), Some(xmax), Some(""), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    !xmin.is_empty() && xmin == xmax
}

/// The names that a fingerprint is about, quoted.
struct Fingerprinted {
    /// All relations.
    names: Vec<String>,
    /// The places of foreign tables among them.
    foreign: Vec<usize>,
    /// And of those that have children or partitions.
    parents: Vec<usize>,
}

/// What the plan of one statement rests on, as one row of text columns:
/// 1 role and settings ([`Session::read`]), 2 what the names mean, 3 how that is defined,
/// 4 foreign servers, mappings and rights, 5 isolation level and, behind a blank, when the
/// transaction began, which no two of a session share, 6 the snapshot ([`is_still`]).
///
/// A plan is used again only while columns 1 to 4 are what they were. A superuser reads
/// the mappings' table itself, which is quicker than the view.
fn fingerprint(of: &Fingerprinted, shared: &SharedNames, superuser: bool) -> String {
    let Fingerprinted { names, foreign, parents } = of;
    // Looked up once each, in a subquery that OFFSET keeps by itself.
    let oid = |at: usize| format!("r.o{at}");
    let all = || 0..names.len();
    let looked_up = names.iter().enumerate().map(|(at, name)| {
        format!("pg_catalog.to_regclass({})::pg_catalog.oid AS o{at}", literal(name))
    });
    let looked_up = looked_up.collect::<Vec<_>>().join(", ");
    // One index look-up each: as subqueries they start quicker than joins.
    let relations = all().map(|at| {
        format!(
            "(SELECT c.xmin FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) {})",
            oid(at)
        )
    });
    // A further child leaves no trace in the parent's own row.
    let trees = parents.iter().map(|at| {
        format!(
            "(WITH RECURSIVE h(o) AS (SELECT {} UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN h ON i.inhparent OPERATOR(pg_catalog.=) h.o) \
             SELECT pg_catalog.sum(i.inhrelid::pg_catalog.int8 OPERATOR(pg_catalog.+) {}) \
             FROM pg_catalog.pg_inherits i JOIN h ON i.inhparent OPERATOR(pg_catalog.=) h.o)",
            oid(*at),
            outside::xmin("i")
        )
    });
    let oids = format!("ARRAY[{}]", all().map(oid).collect::<Vec<_>>().join(", "));
    let mapping = if superuser {
        "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', m.oid, m.xmin), '|') FROM pg_catalog.pg_user_mapping m \
         WHERE m.umserver OPERATOR(pg_catalog.=) s.oid AND m.umuser OPERATOR(pg_catalog.=) ANY(ARRAY[0::pg_catalog.oid, \
         (SELECT g.oid FROM pg_catalog.pg_authid g WHERE g.rolname OPERATOR(pg_catalog.=) CURRENT_USER)]))"
    } else {
        "(SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', m.umid, pg_catalog.hashtextextended(pg_catalog.concat(m.umoptions), 0)), '|') \
         FROM pg_catalog.pg_user_mappings m WHERE m.srvid OPERATOR(pg_catalog.=) s.oid \
         AND (m.umuser OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR m.usename OPERATOR(pg_catalog.=) CURRENT_USER))"
    };
    let servers = foreign.iter().map(|at| {
        format!(
            "(SELECT pg_catalog.concat_ws(':', f.xmin, s.oid, s.xmin, {mapping}) FROM pg_catalog.pg_foreign_table f \
             JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) f.ftserver WHERE f.ftrelid OPERATOR(pg_catalog.=) {o}), \
             pg_catalog.has_table_privilege({o}, 'SELECT')",
            o = oid(*at)
        )
    });
    let list =
        |items: Vec<String>| if items.is_empty() { "NULL".to_owned() } else { items.join(", ") };
    format!(
        "SELECT {settings}, pg_catalog.concat_ws('|', {meanings}), pg_catalog.concat_ws('|', {definitions}), pg_catalog.concat_ws('|', {servers}), \
         pg_catalog.concat({isolation}, ' ', EXTRACT(EPOCH FROM pg_catalog.transaction_timestamp())), {SNAPSHOT} \
         FROM (SELECT {looked_up} OFFSET 0) AS r",
        settings = settings(),
        meanings = list(
            all()
                .map(|at| format!("COALESCE({}, 0)", oid(at)))
                .chain(outside::meanings(shared, &oids))
                .collect()
        ),
        definitions = list(
            relations
                .chain(outside::definitions(shared))
                .chain(trees)
                .map(|d| format!("pg_catalog.concat({d})"))
                .collect()
        ),
        servers = list(servers.collect()),
        isolation = setting("transaction_isolation"),
    )
}

/// The fingerprint questions for an analyzed statement: for a role that is not a
/// superuser, and for one that is.
pub fn fingerprints_of(a: &Analysis, catalog: &CatalogSnapshot) -> [String; 2] {
    let names = table_names(a);
    let among = |of: fn(&CatalogSnapshot, &str) -> bool| {
        let is =
            |name: &String| a.tables.iter().any(|t| of(catalog, &t.name) && t.sql_name() == *name);
        (0..names.len()).filter(|at| is(&names[*at])).collect()
    };
    let of = Fingerprinted {
        foreign: among(CatalogSnapshot::is_foreign_name),
        parents: among(CatalogSnapshot::is_parent_name),
        names,
    };
    [false, true].map(|superuser| fingerprint(&of, &a.names, superuser))
}

/// Names of the statement's tables as written, quoted, each once.
pub fn table_names(a: &Analysis) -> Vec<String> {
    let mut names: Vec<_> = a.tables.iter().map(crate::analyze::TableRef::sql_name).collect();
    names.sort();
    names.dedup();
    names
}

/// Whether rows older than a NOT NULL constraint of `a.attrelid` may still break it
/// (PostgreSQL 18: `NOT VALID`; before, `pg_constraint` has no such rows).
pub(crate) const NOT_VALID: &str = "EXISTS (SELECT 1 FROM pg_catalog.pg_constraint nn WHERE nn.conrelid OPERATOR(pg_catalog.=) a.attrelid AND nn.contype OPERATOR(pg_catalog.=) 'n' AND NOT nn.convalidated)";

/// The columns of one relation as JSON; `rel` is an SQL expression for its OID. The locale of
/// the database's own collation is empty before PostgreSQL 15, and NULL since.
fn columns_json(rel: &str) -> String {
    format!(
        "(SELECT pg_catalog.json_agg(pg_catalog.json_build_object(\
          'name', a.attname, 'type', a.atttypid::pg_catalog.int8, 'typmod', a.atttypmod, \
          'format', pg_catalog.format_type(a.atttypid, a.atttypmod), 'typtype', t.typtype, \
          'typname', t.typname, 'typnsp', (SELECT tn.nspname FROM pg_catalog.pg_namespace tn WHERE tn.oid OPERATOR(pg_catalog.=) t.typnamespace), 'elem', t.typelem::pg_catalog.int8, 'elemtype', (SELECT e.typtype FROM pg_catalog.pg_type e WHERE e.oid OPERATOR(pg_catalog.=) t.typelem), 'not_null', a.attnotnull AND NOT {NOT_VALID}, \
          'collation', CASE WHEN a.attcollation OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN NULL ELSE pg_catalog.concat_ws('/', k.collname, k.collprovider, k.collisdeterministic, k.collencoding, NULLIF(pg_catalog.to_json(k) OPERATOR(pg_catalog.->>) 'collcollate', ''), NULLIF(pg_catalog.to_json(k) OPERATOR(pg_catalog.->>) 'collctype', ''), pg_catalog.to_json(k) OPERATOR(pg_catalog.->>) 'colliculocale', pg_catalog.to_json(k) OPERATOR(pg_catalog.->>) 'colllocale', k.collversion) END, \
          'deterministic', k.collisdeterministic, \
          'options', a.attfdwoptions, 'generated', a.attgenerated) ORDER BY a.attnum) \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
         LEFT JOIN pg_catalog.pg_collation k ON k.oid OPERATOR(pg_catalog.=) a.attcollation \
         WHERE a.attrelid OPERATOR(pg_catalog.=) {rel} AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped)"
    )
}

/// Locale and encoding of a database as JSON: two databases with the same text sort
/// and fold text alike. Before PostgreSQL 15 there is one provider, the C library.
const LOCALE_JSON: &str = "(SELECT pg_catalog.json_build_object('encoding', pg_catalog.pg_encoding_to_char(d.encoding), \
   'locale', pg_catalog.concat_ws('/', d.datcollate, d.datctype, COALESCE(pg_catalog.to_json(d) OPERATOR(pg_catalog.->>) 'datlocprovider', 'c'), pg_catalog.to_json(d) OPERATOR(pg_catalog.->>) 'daticulocale', pg_catalog.to_json(d) OPERATOR(pg_catalog.->>) 'datlocale', pg_catalog.to_json(d) OPERATOR(pg_catalog.->>) 'datcollversion')) \
   FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())";

/// Everything about the relations at home whose names `$1` lists, as one JSON value
/// ([`crate::facts::HomeFacts`]). The planner does not see how many there are: so it finds a
/// plan for these names no better than the one for any, which it then keeps. What is one row by
/// its key is a subquery: each join makes the planner look at more orders.
pub fn home_facts() -> String {
    format!(
        "SELECT pg_catalog.json_build_object('version', pg_catalog.int4in(pg_catalog.textout(pg_catalog.current_setting('server_version_num'))), \
         'database', {LOCALE_JSON}, 'user', CURRENT_USER, 'relations', \
         (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('written', n.name, 'oid', c.oid::pg_catalog.int8, \
          'kind', c.relkind, 'persistence', c.relpersistence, 'schema', (SELECT ns.nspname FROM pg_catalog.pg_namespace ns WHERE ns.oid OPERATOR(pg_catalog.=) c.relnamespace), 'name', c.relname, 'row_security', c.relrowsecurity, 'subclass', c.relhassubclass, \
          'foreign_child', (c.relhassubclass AND EXISTS (WITH RECURSIVE h(o) AS (SELECT c.oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN h ON h.o OPERATOR(pg_catalog.=) i.inhparent) SELECT 1 FROM h WHERE h.o OPERATOR(pg_catalog.<>) c.oid AND (SELECT hc.relkind FROM pg_catalog.pg_class hc WHERE hc.oid OPERATOR(pg_catalog.=) h.o) OPERATOR(pg_catalog.=) 'f')), \
          'row_type', c.reltype::pg_catalog.int8, 'array_type', (SELECT rt.typarray::pg_catalog.int8 FROM pg_catalog.pg_type rt WHERE rt.oid OPERATOR(pg_catalog.=) c.reltype), \
          'select', pg_catalog.has_table_privilege(c.oid, 'SELECT'), \
          'server', CASE WHEN f.ftrelid IS NULL THEN NULL ELSE pg_catalog.json_build_object('name', s.srvname, 'postgres_fdw', (SELECT h.proname FROM pg_catalog.pg_proc h WHERE h.oid OPERATOR(pg_catalog.=) w.fdwhandler) OPERATOR(pg_catalog.=) 'postgres_fdw_handler', 'wrapper_options', w.fdwoptions, 'options', s.srvoptions, 'mapped', m.umid IS NOT NULL, 'mapping', m.umoptions) END, \
          'options', f.ftoptions, \
          'virtual_columns', {computed}, 'view', CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'v' THEN {view} END, \
          'columns', CASE WHEN f.ftrelid IS NULL THEN NULL ELSE {columns} END)) \
          FROM (SELECT n.name, pg_catalog.to_regclass(n.name)::pg_catalog.oid AS oid FROM pg_catalog.unnest((SELECT $1::pg_catalog.text[])) AS n(name) OFFSET 0) AS n \
          LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) n.oid \
          LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid OPERATOR(pg_catalog.=) c.oid \
          LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) f.ftserver \
          LEFT JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw \
          LEFT JOIN LATERAL (SELECT u.umid, u.umoptions FROM pg_catalog.pg_user_mappings u WHERE u.srvid OPERATOR(pg_catalog.=) s.oid AND (u.umuser OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR u.usename OPERATOR(pg_catalog.=) CURRENT_USER) ORDER BY u.umuser USING OPERATOR(pg_catalog.>) LIMIT 1) m ON true))",
        columns = columns_json("c.oid"),
        view = view_json("c.oid"),
        computed = virtual_columns("c.oid"),
    )
}

/// Whether a relation or one of its children has virtual generated columns, as an SQL
/// condition; `rel` is an SQL expression for its OID. OFFSET keeps the planner from reading
/// the attributes of all relations to find the few that are virtual.
fn virtual_columns(rel: &str) -> String {
    format!(
        "EXISTS (WITH RECURSIVE h(o) AS (SELECT {rel} UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN h ON h.o OPERATOR(pg_catalog.=) i.inhparent) \
         SELECT 1 FROM h WHERE EXISTS (SELECT 1 FROM pg_catalog.pg_attribute va \
         WHERE va.attrelid OPERATOR(pg_catalog.=) h.o AND va.attgenerated OPERATOR(pg_catalog.=) 'v' OFFSET 0))"
    )
}

/// What a view rests on, as JSON: whether that may be more than local tables and functions
/// that compute, and a text that is another whenever a view below it is. What a view calls
/// of PostgreSQL's own leaves no dependency, so that is read from the view's stored tree.
fn view_json(view: &str) -> String {
    format!(
        "(WITH RECURSIVE v(o) AS (SELECT {view} UNION SELECT d.refobjid FROM v JOIN pg_catalog.pg_rewrite rw ON rw.ev_class OPERATOR(pg_catalog.=) v.o \
          JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) rw.oid \
          AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass), \
         r AS (SELECT rw.oid, rw.xmin, rw.ev_action::pg_catalog.text AS tree FROM v JOIN pg_catalog.pg_rewrite rw ON rw.ev_class OPERATOR(pg_catalog.=) v.o), \
         called(f) AS (SELECT pg_catalog.oidin(pg_catalog.textout(m.ids[1])) FROM r CROSS JOIN LATERAL pg_catalog.regexp_matches(r.tree, ':(?:funcid|opfuncid|hashfuncid|aggfnoid|winfnoid|tsmhandler) ([0-9]+)', 'g') AS m(ids) \
          UNION SELECT o.oprcode::pg_catalog.oid FROM r CROSS JOIN LATERAL pg_catalog.regexp_matches(r.tree, ':opno ([0-9]+)', 'g') AS m(ids) \
          JOIN pg_catalog.pg_operator o ON o.oid OPERATOR(pg_catalog.=) pg_catalog.oidin(pg_catalog.textout(m.ids[1]))) \
         SELECT pg_catalog.json_build_object('state', (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', r.oid, r.xmin), ',' ORDER BY r.oid) FROM r), 'folds', \
          EXISTS (SELECT 1 FROM r LEFT JOIN called ON true LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) called.f WHERE {folds}), 'hazard', \
          EXISTS (SELECT 1 FROM v JOIN pg_catalog.pg_class vc ON vc.oid OPERATOR(pg_catalog.=) v.o \
           WHERE vc.relkind OPERATOR(pg_catalog.<>) ALL(ARRAY['r','v']::\"char\"[]) OR vc.relhassubclass OR vc.relrowsecurity) \
          OR EXISTS (SELECT 1 FROM r JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) r.oid \
           AND d.refclassid OPERATOR(pg_catalog.=) ANY(ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_type', 'pg_catalog.pg_operator']::pg_catalog.regclass[])) \
          OR EXISTS (SELECT 1 FROM r CROSS JOIN LATERAL pg_catalog.regexp_matches(r.tree, ':relid ([0-9]+)', 'g') AS m(ids) \
           WHERE pg_catalog.int8in(pg_catalog.textout(m.ids[1])) OPERATOR(pg_catalog.>) 0 AND pg_catalog.int8in(pg_catalog.textout(m.ids[1])) OPERATOR(pg_catalog.<) 16384) \
          OR EXISTS (SELECT 1 FROM called LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) called.f WHERE called.f OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
           AND (p.oid IS NULL OR p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid OR p.provolatile OPERATOR(pg_catalog.=) 'v' OR {stateful}))))",
        folds = crate::folding::view_condition(),
        stateful = crate::catalog::stateful_condition(),
    )
}

/// Everything about one remote relation, as one JSON value ([`crate::facts::SourceFacts`]).
pub fn source_facts(schema: &str, name: &str) -> String {
    format!(
        "SELECT pg_catalog.json_build_object('version', pg_catalog.int4in(pg_catalog.textout(pg_catalog.current_setting('server_version_num'))), 'database', {LOCALE_JSON}, 'oid', c.oid::pg_catalog.int8, 'kind', c.relkind, \
         'row_security', c.relrowsecurity, 'subclass', c.relhassubclass, 'rows', c.reltuples, 'pages', c.relpages, 'columns', {columns}, \
         'reading', pg_catalog.concat_ws('|', pg_catalog.current_setting('array_nulls'), pg_catalog.current_setting('transform_null_equals'))) \
         FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({name})::pg_catalog.oid",
        columns = columns_json("c.oid"),
        name = literal(&crate::quote::qualified(schema, name)),
    )
}

/// Settings of a source session, as postgres_fdw's `configure_remote_session` makes them.
/// Besides, the literals of home's EXPLAIN are read as home printed them, whatever the database
/// or the role has set: postgres_fdw writes those with a backslash as `E'…'`, which means the
/// same either way. Compiling scans to machine code costs more than it saves where their rows are sent away.
pub const SOURCE_SESSION: &str = "SET search_path = pg_catalog; SET timezone = 'GMT'; SET datestyle = ISO; \
SET intervalstyle = postgres; SET extra_float_digits = 3; SET standard_conforming_strings = on; \
SET max_parallel_workers_per_gather = 0; SET jit = off";

/// How home is asked what postgres_fdw would ship.
pub const EXPLAIN_PREFIX: &str = "EXPLAIN (VERBOSE, FORMAT JSON, COSTS OFF) ";

/// Planner settings under which home's plan of a core consists of what the engine has:
/// scans, hash joins and folds, each once, not in parts.
pub const ENGINE_PLANNER: &str = "SELECT \
pg_catalog.set_config('enable_nestloop', 'off', true), pg_catalog.set_config('enable_mergejoin', 'off', true), \
pg_catalog.set_config('enable_hashjoin', 'on', true), pg_catalog.set_config('enable_seqscan', 'on', true), \
pg_catalog.set_config('enable_indexscan', 'off', true), pg_catalog.set_config('enable_bitmapscan', 'off', true), \
pg_catalog.set_config('enable_indexonlyscan', 'off', true), pg_catalog.set_config('enable_material', 'off', true), \
pg_catalog.set_config('enable_hashagg', 'on', true), pg_catalog.set_config('enable_partitionwise_join', 'off', true), \
pg_catalog.set_config('enable_partitionwise_aggregate', 'off', true), \
pg_catalog.set_config('max_parallel_workers_per_gather', '0', true), \
pg_catalog.set_config('from_collapse_limit', '20', true), pg_catalog.set_config('join_collapse_limit', '20', true)";

/// An output beside a core's own, an aggregate that no source is asked to compute: home
/// then plans the fold above the scans.
pub const ENGINE_FOLDS: &str = ", pg_catalog.max(pg_catalog.now())";

/// How home is asked for its plan of a core.
pub const ENGINE_EXPLAIN: &str = "EXPLAIN (VERBOSE, FORMAT JSON) ";

/// What the engine must know of home besides: whether an operator or a function outside
/// `pg_catalog` could be meant where the engine reads PostgreSQL's own, a cast that nobody
/// writes runs SQL, which the planner puts in its place, or a function of the
/// statement is an aggregate that it does not have, or values are grouped and sorted by a
/// user's operators; which columns of the tables have a
/// collation of their own, or a type that may bring one (a domain, a row, a range); and [`engine_state`]. One row: a boolean,
/// a JSON array, a text.
pub fn engine_hazards(names: &[String], functions: &SharedNames) -> String {
    format!(
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid \
         AND o.oprname OPERATOR(pg_catalog.=) ANY('{{=,<>,<,<=,>,>=,+,-,*,/,~~,!~~}}'::pg_catalog.name[]) \
         AND o.oprleft OPERATOR(pg_catalog.<) 16384::pg_catalog.oid AND o.oprright OPERATOR(pg_catalog.<) 16384::pg_catalog.oid) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid \
         AND p.proname OPERATOR(pg_catalog.=) ANY('{{count,sum,avg,min,max,extract,date_part,substring,substr}}'::pg_catalog.name[])) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) k.castfunc \
         WHERE k.castcontext OPERATOR(pg_catalog.=) 'i' AND p.prolang OPERATOR(pg_catalog.=) 14::pg_catalog.oid AND p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.prokind OPERATOR(pg_catalog.=) 'a' \
         AND p.proname OPERATOR(pg_catalog.=) ANY({functions}) \
         AND p.proname OPERATOR(pg_catalog.<>) ALL('{{count,sum,avg,min,max}}'::pg_catalog.name[])) \
         OR EXISTS (SELECT 1 FROM {default_classes} AND x.opcintype OPERATOR(pg_catalog.<) 16384::pg_catalog.oid), \
         COALESCE((SELECT pg_catalog.json_agg(a.attname) FROM pg_catalog.unnest({names}) AS n(name) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(n.name)::pg_catalog.oid \
         WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
         AND (a.attcollation OPERATOR(pg_catalog.<>) ALL(ARRAY[0::pg_catalog.oid, 100::pg_catalog.oid]) \
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem \
         WHERE t.oid OPERATOR(pg_catalog.=) a.atttypid \
         AND (t.typtype OPERATOR(pg_catalog.<>) ALL('{{b,e}}'::\"char\"[]) OR e.typtype OPERATOR(pg_catalog.<>) ALL('{{b,e}}'::\"char\"[]))))), '[]'), \
         ({state})",
        default_classes = outside::DEFAULT_CLASSES,
        functions = name_array(functions.functions.iter()),
        names = text_array(names),
        state = engine_state(names),
    )
}

/// What home's planner may have drawn conclusions from besides what the fingerprint holds:
/// the indexes, columns and constraints of the tables and of their children. One text.
pub fn engine_state(names: &[String]) -> String {
    format!(
        "WITH RECURSIVE h(o) AS (SELECT pg_catalog.to_regclass(n.name)::pg_catalog.oid FROM pg_catalog.unnest({}) AS n(name) \
         UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN h ON i.inhparent OPERATOR(pg_catalog.=) h.o) \
         SELECT pg_catalog.concat_ws('|', (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', i.indexrelid, i.xmin), ',' ORDER BY i.indexrelid) \
         FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) ANY(t.tables)), \
         (SELECT pg_catalog.sum({}) FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid OPERATOR(pg_catalog.=) ANY(t.tables)), \
         (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', k.oid, k.xmin), ',' ORDER BY k.oid) FROM pg_catalog.pg_constraint k \
         WHERE k.conrelid OPERATOR(pg_catalog.=) ANY(t.tables)), pg_catalog.array_length(t.tables, 1)) \
         FROM (SELECT pg_catalog.array_agg(h.o) AS tables FROM h) AS t",
        text_array(names),
        outside::xmin("a")
    )
}

/// Keeps, until the transaction ends, the settings that a session may change and that decide
/// how a statement is read, what its functions give or how values are printed (manual, sections
/// "Client Connection Defaults" and "Version and Platform Compatibility").
pub const PIN_SETTINGS: &str = "\
SELECT pg_catalog.count(pg_catalog.set_config(s.name, pg_catalog.current_setting(s.name), true)) \
FROM pg_catalog.unnest('{search_path,TimeZone,timezone_abbreviations,DateStyle,IntervalStyle,extra_float_digits,bytea_output,\
lc_monetary,lc_numeric,lc_time,default_text_search_config,xmlbinary,xmloption,quote_all_identifiers,array_nulls,\
backslash_quote,standard_conforming_strings,transform_null_equals}'::pg_catalog.text[]) AS s(name)";

/// The role and settings that a fingerprint was taken under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `statement_timeout` as PostgreSQL shows it.
    pub statement_timeout: String,
    /// `is_superuser`.
    pub superuser: bool,
    /// `server_encoding`.
    pub encoding: String,
    /// `plan_cache_mode`.
    pub plan_cache_mode: String,
    /// `pgspan.strategy`.
    pub preference: Preference,
    /// Dates, intervals and floats are printed as postgres_fdw has them printed where it sees to
    /// it: for conditions, not for what it selects.
    pub prints_portably: bool,
}

impl Session {
    /// Reads column 1 of a fingerprint, and what the server has reported by itself.
    ///
    /// # Errors
    /// A setting at which the statement could mean something else than the gateway
    /// reads, or at which home would not wait for the sources.
    pub fn read<'a>(
        column: &str,
        reported: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Session, Reason> {
        let asked: Vec<&str> = column.split('|').collect();
        let [_role, .., preference] = asked.as_slice() else {
            return Err(Reason::new(Cause::NoSettings));
        };
        if asked.len() != ASKED_SETTINGS.len() + 2 {
            return Err(Reason::new(Cause::SettingWithBar));
        }
        let value = |name: &str| {
            let place = ASKED_SETTINGS.iter().position(|s| *s == name);
            place.and_then(|i| asked.get(i + 1)).copied().or_else(|| reported(name)).unwrap_or("")
        };
        let wanted = [
            ("constraint_exclusion", "partition"),
            ("array_nulls", "on"),
            ("standard_conforming_strings", "on"),
            ("server_encoding", "UTF8"),
            ("idle_in_transaction_session_timeout", "0"),
        ];
        for (name, wanted) in wanted {
            if value(name) != wanted {
                return Err(Reason::about(Cause::Setting, name));
            }
        }
        if value("default_transaction_isolation") == "serializable" {
            // A statement outside a block would take part in what makes them so.
            return Err(Reason::about(Cause::Isolation, "serializable"));
        }
        let client = value("client_encoding");
        if client != value("server_encoding") && client != "SQL_ASCII" {
            return Err(Reason::about(Cause::ClientEncoding, client));
        }
        let preference = match preference.to_ascii_lowercase().as_str() {
            "" | "auto" => Preference::Auto,
            "home_join" => Preference::HomeJoin,
            "engine" => Preference::Engine,
            "fallback" => Preference::Fallback,
            _ => {
                return Err(Reason::new(Cause::StrategyUnknown));
            }
        };
        Ok(Session {
            preference,
            statement_timeout: value("statement_timeout").to_owned(),
            superuser: value("is_superuser") == "on",
            encoding: value("server_encoding").to_owned(),
            plan_cache_mode: value("plan_cache_mode").to_owned(),
            prints_portably: value("DateStyle").starts_with("ISO")
                && value("IntervalStyle") == "postgres"
                && value("extra_float_digits").parse().is_ok_and(|digits: i32| digits >= 1),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reported(name: &str) -> Option<&'static str> {
        match name {
            "is_superuser" | "standard_conforming_strings" => Some("on"),
            "client_encoding" | "server_encoding" => Some("UTF8"),
            _ => None,
        }
    }

    #[test]
    fn a_snapshot_with_a_running_transaction_is_not_still() {
        assert!(is_still("745:745:"));
        for running in ["740:745:", "740:745:740", "745:745:745", "745:745", "", "::", "1:1::"] {
            assert!(!is_still(running), "{running}");
        }
    }

    #[test]
    fn settings_that_change_a_meaning_are_refused() {
        let column = |name: &str, value: &str| {
            let mut values: Vec<&str> = ASKED_SETTINGS
                .iter()
                .map(|s| match *s {
                    s if s == name => value,
                    "constraint_exclusion" => "partition",
                    "array_nulls" => "on",
                    "statement_timeout" => "5s",
                    "idle_in_transaction_session_timeout" => "0",
                    "default_transaction_isolation" => "read committed",
                    _ => "",
                })
                .collect();
            values.insert(0, "postgres");
            values.push("");
            values.join("|")
        };
        let s = Session::read(&column("", ""), reported).unwrap();
        assert_eq!((s.statement_timeout.as_str(), s.superuser), ("5s", true));
        for (name, value) in [
            ("constraint_exclusion", "on"),
            ("array_nulls", "off"),
            ("idle_in_transaction_session_timeout", "1min"),
            ("default_transaction_isolation", "serializable"),
            ("search_path", "a|b"),
        ] {
            assert!(Session::read(&column(name, value), reported).is_err(), "{name}");
        }
        let latin = |n: &str| if n == "client_encoding" { Some("LATIN1") } else { reported(n) };
        assert!(Session::read(&column("", ""), latin).is_err());
        assert_eq!(without_role(b"role|a|b"), b"|a|b");
    }
}
