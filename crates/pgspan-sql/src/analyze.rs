//! Tree → what the statement touches, or why it is not understood.
//!
//! Default-deny: a node type, function or clause that is not listed here sends the
//! statement to home unchanged. The rules and the experiments behind them are in
//! `docs/exactness.md`.

use crate::catalog::CatalogSnapshot;
use crate::cause::Cause;
use crate::effect::MEANT;
use crate::folding::{Folds, folds};
use crate::nodes::{self, Unknown, place, string, strings};
use crate::parameters::{Computed, computed};
use crate::parse::{Lexeme, SystemUser, Unread, lex, read};
use crate::route::Reason;
use crate::scope::{self, Names, Qualifier, Unresolved, WithUse};
use crate::tree::{self, Node, RangeVar, SelectStmt};
use pg_query::protobuf::Token;
use std::collections::BTreeSet;

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

/// Names, sorted, as small as they can be kept.
type NameList = Box<[Box<str>]>;

/// What is read of a table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// All of them may be.
    pub whole: bool,
    /// Those of these names.
    names: NameList,
    /// Those of the names in these parts of [`Analysis::bare`].
    bare: (usize, usize),
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
    /// First byte of the name.
    pub location: usize,
    /// The bytes to replace: `ONLY`, the name, and `*`.
    pub span: (usize, usize),
    /// What is read of its columns.
    pub used: Use,
    /// Another table of the same name stands beside it.
    pub crowded: bool,
}

impl Analysis {
    /// Whether a part of the text reads no WITH query that is defined outside of it: by
    /// itself such a name would mean something else.
    pub fn stands_alone(&self, (start, end): (usize, usize)) -> bool {
        let within = |at: usize| (start..end).contains(&at);
        !self.with_uses.iter().any(|u| within(u.location) && !within(u.defined))
    }

    /// Whether a column of this name may be read, of whichever table.
    pub fn may_read(&self, column: &str) -> bool {
        self.tables.iter().any(|t| self.may_read_of(t, column))
    }

    /// Whether a column of this name may be read of a table.
    pub fn may_read_of(&self, table: &TableRef, column: &str) -> bool {
        let Use { whole, names, bare: (from, to) } = &table.used;
        let bare = self.bare.get(*from..*to).unwrap_or(&[]);
        *whole || has(names, column) || bare.iter().any(|part| has(part, column))
    }

    /// Whether it has a column that is named like a keyword of the grammar's: only
    /// [`crate::tree`] reads it as one.
    pub fn names_a_keyword(&self) -> bool {
        self.system_user == SystemUser::Name && self.has_bare("system_user")
    }

    /// Whether an expression has this name without a qualifier.
    pub fn has_bare(&self, name: &str) -> bool {
        self.bare.iter().any(|part| has(part, name))
    }
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

/// A column reference with a qualifier, as small as it can be kept: a statement may have
/// thousands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualifiedColumn {
    /// The bytes before its last part: `schema.table.`
    qualifier: (u32, u32),
    /// What they name.
    pub names: Qualifier,
    /// Its last part, if there is a function of that name, which is meant where there is no
    /// such column.
    pub call: Option<Box<str>>,
}

impl QualifiedColumn {
    /// The bytes before its last part.
    pub fn qualifier(&self) -> (usize, usize) {
        let wide = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        (wide(self.qualifier.0), wide(self.qualifier.1))
    }
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
    /// How its tree was read.
    pub system_user: SystemUser,
    /// First byte of the SELECT itself.
    pub query_start: usize,
    /// Tables in FROM at any level, uses of WITH queries excluded.
    pub tables: Vec<TableRef>,
    /// Column references with a qualifier, and what it names.
    pub references: Vec<QualifiedColumn>,
    /// Bare names in expressions, in parts ([`Names::bare`]).
    bare: Vec<NameList>,
    /// Uses of WITH queries.
    pub with_uses: Vec<WithUse>,
    /// Names of functions, operators and types: a newcomer of the same name may change
    /// what the statement means.
    pub names: SharedNames,
    /// Highest parameter number.
    pub parameters: u32,
    /// Whether the plan may be used again: no literal such as 'now' that is read
    /// differently each time.
    pub repeatable: bool,
    /// Whether a plan that is kept may keep what a setting has decided.
    pub folds: Folds,
    /// What PostgreSQL computes of the parameters when it plans for their values.
    pub computed: Computed,
    /// Whether the answer cannot depend on the moment at which the statement begins
    /// (beyond what it reads).
    pub timeless: bool,
}

/// System columns: postgres_fdw has its own answers for them.
const SYSTEM_COLUMNS: &[&str] = &["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];

/// Longest name that is not cut, in bytes (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// Tables, subqueries and functions in FROM at most, at every level together: what is known
/// of one is a hundred times the name of one letter that brings it there. Far more than are
/// joined by anybody who waits for PostgreSQL's planner.
pub const FROM_ITEMS_MAX: usize = 250;

/// Date and time input words that mean something else at each reading.
const MOVING_WORDS: &[&str] = &["now", "today", "tomorrow", "yesterday", "current", "epoch"];

impl From<Unknown> for Reason {
    fn from(unknown: Unknown) -> Reason {
        match unknown.0.as_str() {
            "IntoClause" => Reason::new(Cause::SelectInto),
            "LockingClause" => Reason::new(Cause::RowLocks),
            _ => Reason::about(Cause::NotUnderstood, unknown.0),
        }
    }
}

impl From<Unresolved> for Reason {
    fn from(unresolved: Unresolved) -> Reason {
        match unresolved {
            Unresolved::Unknown(name) => Unknown(name).into(),
            Unresolved::Name(name) => Reason::about(Cause::Unresolved, name),
        }
    }
}

/// How functions begin that may take an object's name as a text.
const LOOKS_UP: &[&str] = &[
    "pg_",
    "to_reg",
    "to_ts",
    "ts_",
    "plainto_ts",
    "phraseto_ts",
    "websearch_to_ts",
    "json_to_ts",
    "jsonb_to_ts",
    "get_current_ts",
    "regclass",
    "regproc",
    "regoper",
    "regtype",
    "regrole",
    "regnamespace",
    "regconfig",
    "regdictionary",
    "regcollation",
    "has_",
    "obj_description",
    "col_description",
];

/// Analyzes a text.
///
/// # Errors
/// The reason why the statement goes to home unchanged.
pub fn analyze(text: &str, catalog: &CatalogSnapshot) -> Result<Analysis, Reason> {
    let system_user = catalog.system_user();
    let statements = read(text, system_user).map_err(|unread| match unread {
        Unread::NotSql => Reason::new(Cause::NotParsed),
        Unread::TooDeep => Reason::new(Cause::TooDeep),
        Unread::Odd => Reason::about(Cause::NotUnderstood, "what libpg_query wrote"),
    })?;
    let [only] = statements.as_slice() else {
        return Err(Reason::new(Cause::SeveralStatements));
    };
    let tokens = lex(text);
    if tokens.iter().any(|t| t.token == Token::Ident as i32 && t.end - t.start > NAME_BYTES_MAX) {
        // Home tells the client that it is cut.
        return Err(Reason::new(Cause::NameTooLong));
    }
    let (kind, select) = carrier(only)?;
    let mut seen = Seen {
        catalog,
        from_items: 0,
        names: SharedNames::default(),
        parameters: 0,
        repeatable: true,
        timeless: true,
    };
    nodes::visit(select, &mut |node| seen.examine(node))?;
    let names = scope::resolve(select)?;
    let mut tables = Vec::with_capacity(names.tables.len());
    for table in &names.tables {
        tables.push(range_var(table, &tokens)?);
    }
    if !tables.iter().any(|t| catalog.is_foreign_name(&t.name)) {
        return Err(Reason::new(Cause::NoForeignTable));
    }
    // Where PostgreSQL reads an extreme off an index it keeps the ties of that too, and fails with
    // 21000 (planagg.c: build_minmax_path).
    let extremes = seen.names.functions.iter().any(|name| name == "min" || name == "max");
    if extremes && tokens.iter().any(|t| t.token == Token::Ties as i32) {
        return Err(Reason::new(Cause::WithTies));
    }
    // USING, IN, CASE and BETWEEN mean operators that they do not name.
    if let Some(strange) = MEANT.iter().find(|meant| catalog.is_strange_operator(meant)) {
        return Err(Reason::about(Cause::OperatorNotImmutable, *strange));
    }
    if catalog.has_strange_implicit_cast() {
        return Err(Reason::new(Cause::ImplicitCastNotImmutable));
    }
    Ok(Analysis {
        system_user,
        query_start: query_start(&kind, &tokens),
        kind,
        tables,
        references: qualified(&names, &tokens, catalog)?,
        bare: names.bare.iter().map(name_list).collect(),
        with_uses: names.with_uses,
        folds: folds(select)?,
        computed: computed(select)?,
        timeless: seen.timeless && seen.repeatable && crate::clock::are_timeless(&seen.names),
        names: seen.names,
        parameters: seen.parameters,
        repeatable: seen.repeatable,
    })
}

fn query_of(node: &Option<Node>) -> Option<&SelectStmt> {
    match node.as_ref()? {
        Node::SelectStmt(select) => Some(select),
        _ => None,
    }
}

/// The SELECT of a statement, and what carries it.
///
/// # Errors
/// It is none.
pub fn carrier(only: &Node) -> Result<(Kind, &SelectStmt), Reason> {
    let none = Reason::new(Cause::NotAQuery);
    match only {
        Node::SelectStmt(select) => Ok((Kind::Select, select)),
        Node::CopyStmt(copy) => {
            let tree::CopyStmt { relation, query, is_from, is_program, filename } = copy.as_ref();
            let plain = !is_from && !is_program && filename.is_empty() && relation.is_none();
            let select = query_of(query).filter(|_| plain);
            select.map(|s| (Kind::CopyOut, s)).ok_or(none)
        }
        Node::ExplainStmt(explain) => {
            let select = query_of(&explain.query).ok_or(none)?;
            Ok((Kind::Explain(explain_options(&explain.options)?), select))
        }
        _ => Err(none),
    }
}

fn explain_options(list: &[Node]) -> Result<ExplainOptions, Reason> {
    let mut o = ExplainOptions { costs: true, timing: true, ..ExplainOptions::default() };
    for item in list {
        let Node::DefElem(option) = item else {
            return Err(Reason::new(Cause::ExplainOption));
        };
        let text = match &option.arg {
            None => "on".to_owned(),
            Some(Node::String(s)) => s.sval.to_ascii_lowercase(),
            Some(Node::Boolean(b)) => if b.boolval { "on" } else { "off" }.to_owned(),
            Some(Node::Integer(i)) => i.ival.to_string(),
            Some(_) => return Err(Reason::new(Cause::ExplainOption)),
        };
        let on = match text.as_str() {
            "on" | "true" | "1" => true,
            "off" | "false" | "0" => false,
            "text" if &*option.defname == "format" => continue,
            _ => return Err(Reason::about(Cause::ExplainOption, text)),
        };
        match &*option.defname {
            "analyze" => o.analyze = on,
            "verbose" => o.verbose = on,
            "buffers" => o.buffers = on,
            "costs" => o.costs = on,
            "timing" => o.timing = on,
            "summary" => o.summary = Some(on),
            other => return Err(Reason::about(Cause::ExplainOption, other)),
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

/// What the nodes of a statement say, whatever its names mean.
struct Seen<'c> {
    catalog: &'c CatalogSnapshot,
    /// Tables, subqueries and functions in FROM.
    from_items: usize,
    names: SharedNames,
    parameters: u32,
    repeatable: bool,
    timeless: bool,
}

impl Seen<'_> {
    fn examine(&mut self, node: &Node) -> Result<(), Reason> {
        if matches!(node, Node::RangeVar(_) | Node::RangeSubselect(_) | Node::RangeFunction(_)) {
            self.from_items += 1;
            if self.from_items > FROM_ITEMS_MAX {
                return Err(Reason::new(Cause::TooManyTables));
            }
        }
        match node {
            Node::RangeVar(var) => system_catalog(var),
            Node::CommonTableExpr(cte) => match query_of(&cte.ctequery) {
                Some(_) => Ok(()),
                None => Err(Reason::new(Cause::ModifyingWith)),
            },
            Node::ColumnRef(column) => self.column(column),
            Node::AIndirection(i) => {
                let mut names = i.indirection.iter().filter_map(string);
                names
                    .find(|n| self.catalog.is_outside_function(n))
                    .map_or(Ok(()), |name| Err(Reason::about(Cause::AttributeNotation, name)))
            }
            Node::FuncCall(call) => self.call(call),
            Node::AExpr(e) => {
                let path = strings(&e.name).unwrap_or_default();
                if path.len() > 1 && path.first() != Some(&"pg_catalog") {
                    return Err(Reason::about(Cause::OperatorOutside, path.join(".")));
                }
                path.last().map_or(Ok(()), |op| self.operator(op))
            }
            Node::TypeCast(t) => self.type_name(t.type_name.as_deref()),
            Node::SubLink(s) => {
                let path = strings(&s.oper_name).unwrap_or_default();
                path.into_iter().try_for_each(|op| self.operator(op))
            }
            Node::SortBy(s) => {
                let path = strings(&s.use_op).unwrap_or_default();
                path.into_iter().try_for_each(|op| self.operator(op))
            }
            // What the name means may change, and what the collation does.
            Node::CollateClause(_) => {
                self.repeatable = false;
                Ok(())
            }
            // CURRENT_TIMESTAMP and the like.
            Node::SqlvalueFunction(_) => {
                self.timeless = false;
                Ok(())
            }
            Node::ParamRef(p) => {
                self.parameters = self.parameters.max(u32::try_from(p.number).unwrap_or(0));
                Ok(())
            }
            Node::AConst(c) => {
                if let Some(Node::String(s)) = &c.val {
                    let text = s.sval.to_ascii_lowercase();
                    self.repeatable &= !MOVING_WORDS.iter().any(|w| text.contains(w));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn column(&self, column: &tree::ColumnRef) -> Result<(), Reason> {
        let Some(last) = column.fields.last().and_then(string) else { return Ok(()) };
        if SYSTEM_COLUMNS.contains(&last) {
            return Err(Reason::about(Cause::SystemColumn, last));
        }
        if column.fields.len() > 1 && self.catalog.is_outside_function(last) {
            return Err(Reason::about(Cause::AttributeNotation, last));
        }
        Ok(())
    }

    fn call(&mut self, call: &tree::FuncCall) -> Result<(), Reason> {
        let path = strings(&call.funcname).unwrap_or_default();
        let (function, schema) = match path.as_slice() {
            [f] => (*f, "pg_catalog"),
            [s, f] => (*f, *s),
            _ => return Err(Reason::new(Cause::FunctionName)),
        };
        if schema != "pg_catalog" || !self.catalog.is_builtin_function(function) {
            return Err(Reason::about(Cause::FunctionOutside, path.join(".")));
        }
        if !self.catalog.is_safe_function(function) {
            return Err(Reason::about(Cause::FunctionVolatile, function));
        }
        // A literal may be the name of an object, which home looks up once.
        self.repeatable &= !LOOKS_UP.iter().any(|start| function.starts_with(start));
        self.names.functions.insert(function.to_owned());
        Ok(())
    }

    fn type_name(&mut self, name: Option<&tree::TypeName>) -> Result<(), Reason> {
        let path = name.and_then(|n| strings(&n.names)).unwrap_or_default();
        let Some(target) = path.last() else { return Ok(()) };
        if self.catalog.is_strange_type(target) {
            return Err(Reason::about(Cause::CastNotImmutable, *target));
        }
        self.repeatable &= !target.trim_start_matches('_').starts_with("reg");
        self.names.types.insert((*target).to_owned());
        Ok(())
    }

    fn operator(&mut self, name: &str) -> Result<(), Reason> {
        if self.catalog.is_strange_operator(name) {
            return Err(Reason::about(Cause::OperatorNotImmutable, name));
        }
        self.names.operators.insert(name.to_owned());
        Ok(())
    }
}

fn system_catalog(var: &RangeVar) -> Result<(), Reason> {
    let system = matches!(&*var.schemaname, "pg_catalog" | "information_schema")
        || (var.relname.starts_with("pg_") && var.schemaname.is_empty());
    if system { Err(Reason::about(Cause::SystemCatalog, &*var.relname)) } else { Ok(()) }
}

fn text(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

fn token_at(tokens: &[Lexeme], start: usize) -> Option<usize> {
    tokens.binary_search_by_key(&start, |t| t.start).ok()
}

fn range_var(table: &scope::Table<'_>, tokens: &[Lexeme]) -> Result<TableRef, Reason> {
    let odd = || Reason::new(Cause::TableName);
    let var = table.var;
    let at = place(var.location).ok_or_else(odd)?;
    let schema = text(&var.schemaname);
    let parts = 1 + usize::from(schema.is_some()) + usize::from(!var.catalogname.is_empty());
    let first = token_at(tokens, at).ok_or_else(odd)?;
    let last = first + 2 * (parts - 1);
    let mut span = (at, tokens.get(last).ok_or_else(odd)?.end);
    let only = !var.inh;
    if only {
        let before = first.checked_sub(1).and_then(|i| tokens.get(i)).ok_or_else(odd)?;
        if before.token != Token::Only as i32 {
            return Err(Reason::new(Cause::OnlyInParentheses));
        }
        span.0 = before.start;
    }
    if tokens.get(first.wrapping_sub(1)).is_some_and(|t| t.token == Token::Table as i32) {
        return Err(Reason::new(Cause::TableCommand));
    }
    if let Some(star) = tokens.get(last + 1).filter(|t| t.is_char(b'*')) {
        span.1 = star.end;
    }
    let alias = var.alias.as_ref();
    Ok(TableRef {
        schema,
        name: text(&var.relname).ok_or_else(odd)?,
        alias: alias.and_then(|a| text(&a.aliasname)),
        renames_columns: alias.is_some_and(|a| !a.colnames.is_empty()),
        only,
        location: at,
        span,
        used: Use { whole: table.whole, names: name_list(&table.names), bare: table.bare },
        crowded: table.crowded,
    })
}

fn name_list(names: &BTreeSet<&str>) -> NameList {
    names.iter().map(|name| Box::from(*name)).collect()
}

fn has(names: &NameList, name: &str) -> bool {
    names.binary_search_by(|n| (**n).cmp(name)).is_ok()
}

/// The references that something may be asked of, and where their qualifiers are.
fn qualified(
    names: &Names<'_>,
    tokens: &[Lexeme],
    catalog: &CatalogSnapshot,
) -> Result<Vec<QualifiedColumn>, Reason> {
    let odd = || Reason::new(Cause::ColumnName);
    let narrow = |n: usize| u32::try_from(n).map_err(|_| odd());
    let mut kept = Vec::new();
    for reference in &names.references {
        let call = reference.last.filter(|n| catalog.is_builtin_function(n));
        if call.is_none() && matches!(reference.qualifier, Qualifier::Other(_)) {
            continue;
        }
        let first = token_at(tokens, reference.location).ok_or_else(odd)?;
        let last = tokens.get(first + 2 * (reference.parts - 1)).ok_or_else(odd)?;
        kept.push(QualifiedColumn {
            qualifier: (narrow(reference.location)?, narrow(last.start)?),
            names: reference.qualifier.clone(),
            call: call.map(Into::into),
        });
    }
    kept.shrink_to_fit();
    Ok(kept)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

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
        analyze(sql, &catalog()).unwrap_err().to_string()
    }

    fn ok(sql: &str) -> Analysis {
        analyze(sql, &catalog()).unwrap()
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
        let hidden = "WITH ro AS (SELECT 1) SELECT * FROM ro";
        assert_eq!(reason(hidden), "no foreign table is named");
        assert_eq!(reason("SELECT x.a FROM ro"), "a name that is not resolved: x");
        assert_eq!(reason("SELEC 1 FROM ro"), "not parsed");
        let deep = format!("SELECT a{} FROM ro", " || a".repeat(99));
        assert_eq!(reason(&deep), "it nests too deep to be read");
        let long =
            |n: usize| format!("SELECT 1 FROM ro{}", ", t, (SELECT) s, lower('x')".repeat(n));
        assert_eq!(ok(&long((FROM_ITEMS_MAX - 1) / 3)).tables.len(), 84);
        assert_eq!(reason(&long(FROM_ITEMS_MAX / 3 + 1)), "too many tables in FROM");
        let cte = "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM ro, x";
        assert!(!reason(cte).is_empty());
    }

    #[test]
    fn a_word_is_a_keyword_where_home_says_so() {
        let older = ok("SELECT system_user FROM ro WHERE system_user = 'x'");
        assert!(older.names_a_keyword() && older.may_read("system_user"));
        let table = reason("SELECT 1 FROM ro, system_user");
        assert_eq!(table, "a name that is not resolved: system_user");
        assert!(reason("SELECT pg_catalog.system_user() FROM ro").starts_with("function outside"));
        let row = |kind: &str| (kind.to_owned(), "system_user".to_owned(), true);
        let newer = catalog().with(crate::catalog::Piece::Functions, &[row("k"), row("f")]);
        let newer = newer.unwrap();
        for text in ["SELECT system_user FROM ro", "SELECT 1 FROM ro, system_user s"] {
            let own = analyze(text, &newer).unwrap();
            assert!(!own.names_a_keyword() && !own.may_read("system_user"), "{text}");
            assert!(own.names.functions.contains("system_user"), "{text}");
        }
        assert!(!analyze("SELECT \"system_user\" FROM ro", &newer).unwrap().names_a_keyword());
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
        assert!(a.tables[0].used.whole && a.tables[0].alias.as_deref() == Some("r"));
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
