//! Tree → what the statement touches, or why it is not understood.
//!
//! Default-deny: a node type, function or clause that is not listed here sends the
//! statement to home unchanged. The rules and the experiments behind them are in
//! `docs/exactness.md`.

use crate::catalog::CatalogSnapshot;
use crate::parse::{Lexeme, Statement, lex, node, strings, visit};
use crate::route::Reason;
use pg_query::protobuf::Token;
use serde_json::Value;
use std::collections::{BTreeSet, HashSet};

/// What kind of statement carries the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bare SELECT (or WITH … SELECT, or a set operation).
    Select,
    /// `COPY (SELECT …) TO STDOUT`.
    CopyOut,
    /// `EXPLAIN … SELECT`.
    Explain(ExplainOptions),
}

/// The options of an EXPLAIN that change what is asked of home and sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExplainOptions {
    /// Run it.
    pub analyze: bool,
    /// More detail.
    pub verbose: bool,
    /// Buffer use.
    pub buffers: bool,
    /// `COSTS`; on unless switched off.
    pub costs: bool,
    /// `TIMING`; on unless switched off.
    pub timing: bool,
    /// `SUMMARY`, when given.
    pub summary: Option<bool>,
}

/// One table named in FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// Schema, when written.
    pub schema: Option<String>,
    /// Relation.
    pub name: String,
    /// Alias, when written.
    pub alias: Option<String>,
    /// Whether the alias renames columns.
    pub renames_columns: bool,
    /// `ONLY` was written.
    pub only: bool,
    /// The bytes to replace: `ONLY`, the name, and `*`.
    pub span: (usize, usize),
}

impl TableRef {
    /// The name by which the query speaks of it.
    pub fn reference(&self) -> &str {
        self.alias.as_deref().unwrap_or(&self.name)
    }

    /// The name as SQL, quoted, qualified as written.
    pub fn sql_name(&self) -> String {
        match &self.schema {
            Some(s) => crate::quote::qualified(s, &self.name),
            None => crate::quote::ident(&self.name),
        }
    }
}

/// A column reference with a schema: `schema.table.column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualifiedColumn {
    /// The table part.
    pub table: String,
    /// The bytes before the table part, to be removed when the table is replaced.
    pub prefix: (usize, usize),
}

/// Names that are resolved along the `search_path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedNames {
    /// Functions called.
    pub functions: BTreeSet<String>,
    /// Operators used.
    pub operators: BTreeSet<String>,
    /// Types named.
    pub types: BTreeSet<String>,
}

/// A statement that may be served, as far as its text can tell.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// What carries the query.
    pub kind: Kind,
    /// First byte of the SELECT itself.
    pub query_start: usize,
    /// The SELECT's tree.
    pub select: Value,
    /// Tables in FROM at any level, common table expressions excluded.
    pub tables: Vec<TableRef>,
    /// References of three parts.
    pub qualified: Vec<QualifiedColumn>,
    /// Every string in the tree: a superset of the column names in use.
    pub words: HashSet<String>,
    /// `*`, NATURAL or the like: every column may be in use.
    pub star: bool,
    /// Last parts of column references (to recognise whole rows).
    pub reference_ends: HashSet<String>,
    /// Names of functions, operators and types: a newcomer of the same name may change
    /// what the statement means.
    pub names: SharedNames,
    /// Highest parameter number.
    pub parameters: u32,
    /// Whether the plan may be used again: no literal such as 'now' that is read
    /// differently each time.
    pub repeatable: bool,
    /// Whether the answer cannot depend on the moment at which the statement begins
    /// (beyond what it reads).
    pub timeless: bool,
}

/// Node types that home join and direct may meet. What is missing is refused.
const ALLOWED: &[&str] = &[
    "SelectStmt",
    "RangeVar",
    "JoinExpr",
    "ResTarget",
    "ColumnRef",
    "AExpr",
    "BoolExpr",
    "AConst",
    "ParamRef",
    "FuncCall",
    "TypeCast",
    "CaseExpr",
    "CaseWhen",
    "CoalesceExpr",
    "MinMaxExpr",
    "NullTest",
    "BooleanTest",
    "SubLink",
    "RangeSubselect",
    "AStar",
    "String",
    "Integer",
    "Float",
    "Boolean",
    "BitString",
    "List",
    "SortBy",
    "CommonTableExpr",
    "WindowDef",
    "GroupingSet",
    "GroupingFunc",
    "SqlvalueFunction",
    "AArrayExpr",
    "AIndirection",
    "AIndices",
    "RowExpr",
    "CollateClause",
    "NamedArgExpr",
    "RangeFunction",
    "TypeName",
    "DefElem",
];

/// System columns: postgres_fdw has its own answers for them.
const SYSTEM_COLUMNS: &[&str] = &["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];

/// Longest name that is not cut, in bytes (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// The reason of what has nothing to accelerate.
pub const NO_FOREIGN_TABLE: &str = "no foreign table is named";

/// Date and time input words that mean something else at each reading.
const MOVING_WORDS: &[&str] = &["now", "today", "tomorrow", "yesterday", "current", "epoch"];

/// Analyzes one parsed text.
///
/// # Errors
/// The reason why the statement goes to home unchanged.
pub fn analyze(statement: &Statement, catalog: &CatalogSnapshot) -> Result<Analysis, Reason> {
    let [only] = statement.nodes.as_slice() else {
        return Err(Reason::new("more than one statement"));
    };
    let tokens = lex(&statement.text);
    if tokens.iter().any(|t| t.token == Token::Ident as i32 && t.end - t.start > NAME_BYTES_MAX) {
        // Home tells the client that it is cut.
        return Err(Reason::new("a name that is too long"));
    }
    let (kind, select) = carrier(only)?;
    let query_start = query_start(&kind, &tokens);
    let tree = serde_json::json!({"node": {"SelectStmt": select}});
    let mut a = Analysis {
        kind,
        query_start,
        select: select.clone(),
        tables: Vec::new(),
        qualified: Vec::new(),
        words: HashSet::new(),
        star: false,
        reference_ends: HashSet::new(),
        names: SharedNames::default(),
        parameters: 0,
        repeatable: true,
        timeless: true,
    };
    clauses(&tree)?;
    words(&tree, &mut a);
    let ctes = cte_names(&tree);
    let mut refused = None;
    visit(&tree, &mut |name, body| {
        if refused.is_none() {
            refused = examine(name, body, &tokens, catalog, &ctes, &mut a).err();
        }
    });
    match refused {
        Some(reason) => Err(reason),
        None if !a.tables.iter().any(|t| catalog.is_foreign_name(&t.name)) => {
            Err(Reason::new(NO_FOREIGN_TABLE))
        }
        None if catalog.has_strange_implicit_cast() => {
            Err(Reason::new("an implicit cast that is not immutable"))
        }
        None => {
            a.timeless &= a.repeatable && crate::clock::are_timeless(&a.names);
            Ok(a)
        }
    }
}

fn carrier(only: &Value) -> Result<(Kind, &Value), Reason> {
    if let Some(select) = only.get("SelectStmt") {
        return Ok((Kind::Select, select));
    }
    if let Some(copy) = only.get("CopyStmt") {
        let plain = copy["is_from"] == false
            && copy["is_program"] == false
            && copy["filename"] == ""
            && copy["relation"].is_null();
        let select = copy.pointer("/query/node/SelectStmt").filter(|_| plain);
        return select.map(|s| (Kind::CopyOut, s)).ok_or(Reason::new("not a query"));
    }
    if let Some(explain) = only.get("ExplainStmt") {
        let select = explain.pointer("/query/node/SelectStmt").ok_or(Reason::new("not a query"))?;
        return Ok((Kind::Explain(explain_options(&explain["options"])?), select));
    }
    Err(Reason::new("not a query"))
}

fn explain_options(list: &Value) -> Result<ExplainOptions, Reason> {
    let mut o = ExplainOptions { costs: true, timing: true, ..ExplainOptions::default() };
    for item in list.as_array().into_iter().flatten() {
        let Some(("DefElem", body)) = node(item) else {
            return Err(Reason::new("EXPLAIN option"));
        };
        let text = match node(&body["arg"]) {
            None => "on".to_owned(),
            Some(("String", s)) => s["sval"].as_str().unwrap_or("").to_ascii_lowercase(),
            Some(("Boolean", b)) => if b["boolval"] == true { "on" } else { "off" }.to_owned(),
            Some(("Integer", i)) => i["ival"].to_string(),
            Some(_) => return Err(Reason::new("EXPLAIN option")),
        };
        let on = match text.as_str() {
            "on" | "true" | "1" => true,
            "off" | "false" | "0" => false,
            "text" if body["defname"] == "format" => continue,
            _ => return Err(Reason::about("EXPLAIN option", text)),
        };
        match body["defname"].as_str() {
            Some("analyze") => o.analyze = on,
            Some("verbose") => o.verbose = on,
            Some("buffers") => o.buffers = on,
            Some("costs") => o.costs = on,
            Some("timing") => o.timing = on,
            Some("summary") => o.summary = Some(on),
            other => return Err(Reason::about("EXPLAIN option", other.unwrap_or(""))),
        }
    }
    Ok(o)
}

fn query_start(kind: &Kind, tokens: &[Lexeme]) -> usize {
    let starts = |t: &Lexeme| {
        [Token::Select, Token::With, Token::Values, Token::Table]
            .iter()
            .any(|k| t.token == *k as i32)
    };
    let from = match kind {
        Kind::Select => 0,
        Kind::CopyOut => 1,
        Kind::Explain(_) => {
            let options = tokens.get(1).is_some_and(|t| t.is_char(b'('))
                && !tokens.get(2).is_some_and(|t| starts(t) || t.is_char(b'('));
            if options {
                tokens.iter().position(|t| t.is_char(b')')).map_or(1, |i| i + 1)
            } else {
                1
            }
        }
    };
    let first = tokens.iter().skip(from).find(|t| starts(t) || t.is_char(b'('));
    first.map_or(0, |t| t.start)
}

/// Clauses that are refused wherever they stand, found by their field's name.
fn clauses(value: &Value) -> Result<(), Reason> {
    match value {
        Value::Array(items) => items.iter().try_for_each(clauses),
        Value::Object(map) => {
            for (key, v) in map {
                match key.as_str() {
                    "into_clause" if !v.is_null() => return Err(Reason::new("SELECT INTO")),
                    "locking_clause" if v.as_array().is_some_and(|l| !l.is_empty()) => {
                        return Err(Reason::new("row locks"));
                    }
                    _ => clauses(v)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn words(value: &Value, a: &mut Analysis) {
    match value {
        Value::Array(items) => items.iter().for_each(|v| words(v, a)),
        Value::Object(map) => {
            for (key, v) in map {
                match (key.as_str(), v) {
                    ("is_natural", Value::Bool(true)) => a.star = true,
                    (_, Value::String(s)) if !s.is_empty() => {
                        a.words.insert(s.clone());
                    }
                    _ => words(v, a),
                }
            }
        }
        _ => {}
    }
}

fn cte_names(tree: &Value) -> HashSet<String> {
    let mut names = HashSet::new();
    visit(tree, &mut |name, body| {
        if name == "CommonTableExpr"
            && let Some(n) = body["ctename"].as_str()
        {
            names.insert(n.to_owned());
        }
    });
    names
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

fn location(body: &Value) -> Option<usize> {
    body["location"].as_u64().and_then(|n| usize::try_from(n).ok())
}

fn examine(
    name: &str,
    body: &Value,
    tokens: &[Lexeme],
    catalog: &CatalogSnapshot,
    ctes: &HashSet<String>,
    a: &mut Analysis,
) -> Result<(), Reason> {
    if !ALLOWED.contains(&name) {
        return Err(Reason::about("not understood", name));
    }
    match name {
        "RangeVar" => {
            let table = range_var(body, tokens)?;
            let cte = table.schema.is_none() && ctes.contains(&table.name);
            if cte && catalog.is_foreign_name(&table.name) {
                return Err(Reason::about("a WITH query hides a foreign table", table.name));
            }
            let system =
                matches!(table.schema.as_deref(), Some("pg_catalog" | "information_schema"))
                    || (table.name.starts_with("pg_") && table.schema.is_none());
            if system {
                return Err(Reason::about("system catalog", table.name));
            }
            if !cte {
                a.tables.push(table);
            }
        }
        "CommonTableExpr" if body.pointer("/ctequery/node/SelectStmt").is_none() => {
            return Err(Reason::new("data-modifying WITH"));
        }
        "AStar" => a.star = true,
        "ColumnRef" => column_ref(body, tokens, catalog, a)?,
        "AIndirection" => {
            let called = body["indirection"].as_array().into_iter().flatten().find_map(|part| {
                let name = node(part)?.1["sval"].as_str()?;
                catalog.is_outside_function(name).then_some(name)
            });
            if let Some(name) = called {
                return Err(Reason::about("attribute notation may call a function", name));
            }
        }
        "FuncCall" => {
            let path = strings(&body["funcname"]).unwrap_or_default();
            let (function, schema) = match path.as_slice() {
                [f] => (*f, "pg_catalog"),
                [s, f] => (*f, *s),
                _ => return Err(Reason::new("function name")),
            };
            if schema != "pg_catalog" || !catalog.is_builtin_function(function) {
                return Err(Reason::about("function outside pg_catalog", path.join(".")));
            }
            if !catalog.is_safe_function(function) {
                return Err(Reason::about("volatile or session function", function));
            }
            a.names.functions.insert(function.to_owned());
        }
        "AExpr" => {
            let path = strings(&body["name"]).unwrap_or_default();
            if path.len() > 1 && path.first() != Some(&"pg_catalog") {
                return Err(Reason::about("operator outside pg_catalog", path.join(".")));
            }
            if let Some(op) = path.last() {
                operator(op, catalog)?;
                a.names.operators.insert((*op).to_owned());
            }
        }
        "TypeCast" => {
            let path = strings(&body["type_name"]["names"]).unwrap_or_default();
            if let Some(target) = path.last() {
                if catalog.is_strange_type(target) {
                    return Err(Reason::about("a cast that is not immutable", *target));
                }
                a.names.types.insert((*target).to_owned());
            }
        }
        "SubLink" | "SortBy" => {
            let list = if name == "SubLink" { "oper_name" } else { "use_op" };
            for op in strings(&body[list]).unwrap_or_default() {
                operator(op, catalog)?;
                a.names.operators.insert(op.to_owned());
            }
        }
        // CURRENT_TIMESTAMP and the like.
        "SqlvalueFunction" => a.timeless = false,
        "ParamRef" => {
            let n = body["number"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            a.parameters = a.parameters.max(n);
        }
        "AConst" => {
            let moving = body.pointer("/val/Sval/sval").and_then(Value::as_str).is_some_and(|s| {
                let s = s.to_ascii_lowercase();
                MOVING_WORDS.iter().any(|w| s.contains(w))
            });
            if moving {
                a.repeatable = false;
            }
        }
        _ => {}
    }
    Ok(())
}

fn operator(name: &str, catalog: &CatalogSnapshot) -> Result<(), Reason> {
    if catalog.is_strange_operator(name) {
        return Err(Reason::about("an operator of this name is not immutable", name));
    }
    Ok(())
}

fn range_var(body: &Value, tokens: &[Lexeme]) -> Result<TableRef, Reason> {
    let odd = || Reason::new("table name");
    let at = location(body).ok_or_else(odd)?;
    let catalog_name = text(&body["catalogname"]);
    let schema = text(&body["schemaname"]);
    let parts = 1 + usize::from(schema.is_some()) + usize::from(catalog_name.is_some());
    let first = tokens.iter().position(|t| t.start == at).ok_or_else(odd)?;
    let last = first + 2 * (parts - 1);
    let mut span = (at, tokens.get(last).ok_or_else(odd)?.end);
    let only = body["inh"] == false;
    if only {
        let before = first.checked_sub(1).and_then(|i| tokens.get(i)).ok_or_else(odd)?;
        if before.token != Token::Only as i32 {
            return Err(Reason::new("ONLY in parentheses"));
        }
        span.0 = before.start;
    }
    if tokens.get(first.wrapping_sub(1)).is_some_and(|t| t.token == Token::Table as i32) {
        return Err(Reason::new("TABLE command"));
    }
    if let Some(star) = tokens.get(last + 1).filter(|t| t.is_char(b'*')) {
        span.1 = star.end;
    }
    let alias = &body["alias"];
    Ok(TableRef {
        schema,
        name: text(&body["relname"]).ok_or_else(odd)?,
        alias: text(&alias["aliasname"]),
        renames_columns: alias["colnames"].as_array().is_some_and(|c| !c.is_empty()),
        only,
        span,
    })
}

fn column_ref(
    body: &Value,
    tokens: &[Lexeme],
    catalog: &CatalogSnapshot,
    a: &mut Analysis,
) -> Result<(), Reason> {
    let fields = body["fields"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<Option<&str>> =
        fields.iter().map(|f| node(f).and_then(|(_, b)| b["sval"].as_str())).collect();
    if let Some(Some(last)) = names.last() {
        if SYSTEM_COLUMNS.contains(last) {
            return Err(Reason::about("system column", *last));
        }
        if names.len() > 1 && catalog.is_outside_function(last) {
            return Err(Reason::about("attribute notation may call a function", *last));
        }
        a.reference_ends.insert((*last).to_owned());
    }
    if names.len() >= 3 {
        let odd = || Reason::new("column name");
        let at = location(body).ok_or_else(odd)?;
        let first = tokens.iter().position(|t| t.start == at).ok_or_else(odd)?;
        let table = first + 2 * (names.len() - 2);
        let table = tokens.get(table).ok_or_else(odd)?;
        a.qualified.push(QualifiedColumn {
            table: names[names.len() - 2].ok_or_else(odd)?.to_owned(),
            prefix: (at, table.start),
        });
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn catalog() -> CatalogSnapshot {
        let functions =
            [("count", true), ("sum", true), ("lower", true), ("random", false), ("now", true)];
        CatalogSnapshot::new(
            HashSet::from(["ro".to_owned()]),
            functions.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect(),
            HashSet::new(),
            HashSet::new(),
        )
    }

    fn reason(sql: &str) -> String {
        analyze(&parse(sql).unwrap(), &catalog()).unwrap_err().to_string()
    }

    fn ok(sql: &str) -> Analysis {
        analyze(&parse(sql).unwrap(), &catalog()).unwrap()
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(reason("SELECT random() FROM ro"), "volatile or session function: random");
        assert_eq!(reason("SELECT f(a) FROM ro"), "function outside pg_catalog: f");
        assert_eq!(reason("SELECT * FROM ro FOR UPDATE"), "row locks");
        assert_eq!(reason("SELECT * INTO x FROM ro"), "SELECT INTO");
        assert_eq!(reason("SELECT ctid FROM ro"), "system column: ctid");
        assert_eq!(reason("INSERT INTO ro VALUES (1)"), "not a query");
        assert_eq!(reason("SELECT 1; SELECT * FROM ro"), "more than one statement");
        assert_eq!(reason("TABLE ro"), "TABLE command");
        assert_eq!(reason("SELECT 1 FROM t"), "no foreign table is named");
        assert!(reason("SELECT * FROM ro TABLESAMPLE system (1)").starts_with("not understood"));
        assert!(reason("WITH ro AS (SELECT 1) SELECT * FROM ro").starts_with("a WITH query"));
        let cte = "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM ro, x";
        assert!(!reason(cte).is_empty());
    }

    #[test]
    fn spans_cover_only_name_and_star() {
        let sql = "SELECT * FROM public.ro * AS r, u";
        let a = ok(sql);
        assert_eq!(&sql[a.tables[0].span.0..a.tables[0].span.1], "public.ro *");
        let only = "SELECT 1 FROM ONLY public.ro";
        let b = ok(only);
        assert_eq!(&only[b.tables[0].span.0..], "ONLY public.ro");
        assert!(b.tables[0].only);
        assert!(a.star && a.tables[0].alias.as_deref() == Some("r"));
    }

    #[test]
    fn explain_and_copy_carry_a_query() {
        let sql = "EXPLAIN (ANALYZE, BUFFERS, VERBOSE) SELECT 1 FROM ro";
        let a = ok(sql);
        assert_eq!(&sql[a.query_start..], "SELECT 1 FROM ro");
        assert!(matches!(a.kind, Kind::Explain(o) if o.analyze && o.buffers && o.verbose));
        assert_eq!(ok("COPY (SELECT 1 FROM ro) TO STDOUT").kind, Kind::CopyOut);
        assert_eq!(ok("EXPLAIN ANALYZE SELECT 1 FROM ro").query_start, 16);
    }

    #[test]
    fn what_looks_at_the_clock_is_not_timeless() {
        assert!(ok("SELECT count(*), sum(a) FROM ro WHERE d > '2024-01-01'").timeless);
        for text in [
            "SELECT * FROM ro WHERE d < now()",
            "SELECT * FROM ro WHERE d < current_timestamp",
            "SELECT * FROM ro WHERE d < 'tomorrow'",
            "SELECT lower(a)::date FROM ro",
        ] {
            assert!(!ok(text).timeless, "{text}");
        }
    }

    #[test]
    fn moving_literals_are_not_repeatable() {
        assert!(!ok("SELECT * FROM ro WHERE d > 'Today'").repeatable);
        assert!(ok("SELECT * FROM ro WHERE d > '2024-01-01'").repeatable);
    }
}
