//! What names mean in a query: every table in FROM and every qualified column reference by
//! identity, as PostgreSQL's parser resolves them (`parse_clause.c`, `parse_relation.c`):
//! levels of queries, names of WITH queries and where they hide a table, joins and what
//! their aliases hide, LATERAL.
//!
//! No column list is needed for it. Which table a bare name belongs to is not told; it
//! counts as a use of that column in every table of the levels around it that stands before
//! it, so that what is told of a table is a superset of what is read, whatever columns the
//! other tables have.

use crate::nodes::{self, Unknown, is_leaf, place, string, strings};
use crate::tree::{Alias, ColumnRef, JoinExpr, Node, RangeVar, SelectStmt};
use pg_query::protobuf::JoinType;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A table in FROM.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    /// As it is written.
    pub var: &'a RangeVar,
    /// All its columns may be read.
    pub whole: bool,
    /// Names that are written as its columns; one that is none calls a function of the row.
    pub names: BTreeSet<&'a str>,
    /// The parts of [`Names::bare`] that may be its columns: from, and one past the last.
    pub bare: (usize, usize),
    /// Another one of the same name stands beside it: they are told apart by their schemas.
    pub crowded: bool,
}

/// What the qualifier of a column reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qualifier {
    /// `table.column`: this table.
    Table(usize),
    /// `name.column`: a WITH query, a subquery, a function or the alias of a join of these
    /// tables and others.
    Other(Arc<Vec<usize>>),
    /// `schema.table.column`.
    Schema(Arc<InSchema>),
}

/// A table named with its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InSchema {
    /// The schema as written.
    pub schema: String,
    /// Tables without an alias that have the name, inner levels first: the first one that is
    /// in the schema is meant.
    pub candidates: Vec<usize>,
    /// The table that the name would mean without the schema.
    pub plain: Option<usize>,
}

/// A column reference with a qualifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Its first byte.
    pub location: usize,
    /// Names and stars that it consists of.
    pub parts: usize,
    /// What stands before the last of them.
    pub qualifier: Qualifier,
    /// The last of them; `None` for a star.
    pub last: Option<&'a str>,
}

/// A use of a WITH query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithUse {
    /// First byte of the name in FROM.
    pub location: usize,
    /// First byte of the WITH query's own name.
    pub defined: usize,
}

/// All that is known of a query's names.
#[derive(Debug, Clone, Default)]
pub struct Names<'a> {
    /// Tables at every level.
    pub tables: Vec<Table<'a>>,
    /// Column references with qualifiers.
    pub references: Vec<Reference<'a>>,
    /// Bare names in expressions, in the order of reading. A new part begins where a table
    /// comes into sight or goes out of it, so that however many tables see a name, it is
    /// kept once.
    pub bare: Vec<BTreeSet<&'a str>>,
    /// Uses of WITH queries.
    pub with_uses: Vec<WithUse>,
}

/// Why names are not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// A node type that is not listed.
    Unknown(String),
    /// A qualifier that names nothing, or a shape that is not understood.
    Name(String),
}

impl Names<'_> {
    /// Begins a new part of the bare names, and tells which it is.
    fn part(&mut self) -> usize {
        if self.bare.last().is_none_or(|part| !part.is_empty()) {
            self.bare.push(BTreeSet::new());
        }
        self.bare.len() - 1
    }
}

impl From<Unknown> for Unresolved {
    fn from(unknown: Unknown) -> Unresolved {
        Unresolved::Unknown(unknown.0)
    }
}

/// One thing in FROM that can be referred to.
#[derive(Debug, Clone)]
struct Item<'a> {
    /// By this name; `None` for what has none.
    name: Option<&'a str>,
    /// Whether the name may be used as a qualifier.
    visible: bool,
    /// Only what is LATERAL sees it as yet.
    lateral_only: bool,
    /// The tables of a join whose columns a reference to its alias may mean.
    joined: Option<Arc<Vec<usize>>>,
    /// Its columns have other names than the tables'.
    renamed: bool,
    /// It is this table itself.
    table: Option<usize>,
}

impl Item<'_> {
    /// The tables whose columns a reference to it may mean.
    fn reads(&self) -> &[usize] {
        let joined = self.joined.as_ref().map_or(&[][..], |tables| tables);
        if self.table.is_some() { self.table.as_slice() } else { joined }
    }
}

#[derive(Debug, Default)]
struct Level<'a> {
    items: Vec<Item<'a>>,
    lateral: bool,
    /// WITH queries: name, and where it is defined.
    with: Vec<(&'a str, usize)>,
}

impl<'a> Level<'a> {
    /// What a qualifier may name here and now.
    fn named(&self) -> impl Iterator<Item = &Item<'a>> {
        self.items.iter().filter(|i| i.visible && (self.lateral || !i.lateral_only))
    }
}

#[derive(Default)]
struct Resolver<'a> {
    names: Names<'a>,
    levels: Vec<Level<'a>>,
    /// What schemas and names have meant, each once.
    in_schemas: Vec<Arc<InSchema>>,
    /// No tables.
    nothing: Arc<Vec<usize>>,
}

/// Tables that all the different `schema.table` of column references may mean together, at
/// most: each of many schemas could mean each of many tables whose schema is not written.
const CANDIDATES_MAX: usize = 1_000;

/// Resolves the names of a query.
///
/// # Errors
/// A node that is not listed, or a name that nothing has.
pub fn resolve(select: &SelectStmt) -> Result<Names<'_>, Unresolved> {
    let mut resolver = Resolver::default();
    resolver.names.part();
    resolver.query(select)?;
    Ok(resolver.names)
}

fn odd(what: &str) -> Unresolved {
    Unresolved::Name(what.to_owned())
}

impl<'a> Resolver<'a> {
    fn query(&mut self, select: &'a SelectStmt) -> Result<(), Unresolved> {
        // What is not listed is refused, wherever it stands.
        let all = nodes::select_children(select)?;
        let first = self.names.tables.len();
        self.levels.push(Level::default());
        if let Some(with) = &select.with_clause {
            self.with(&with.ctes, with.recursive)?;
        }
        if is_leaf(select) {
            self.all_from(&select.from_clause)?;
            let rest = all.into_iter().filter(|n| {
                let own = |list: &'a [Node]| list.iter().any(|m| std::ptr::eq(m, *n));
                let with = select.with_clause.as_ref().is_some_and(|w| own(&w.ctes));
                !with && !own(&select.from_clause)
            });
            for node in rest {
                self.expression(node)?;
            }
        } else {
            for side in [&select.larg, &select.rarg] {
                self.query(side.as_ref().ok_or_else(|| odd("a set operation"))?)?;
            }
            // Its order speaks of the result's names and places alone.
            for bound in [&select.limit_offset, &select.limit_count] {
                bound.as_ref().map_or(Ok(()), |n| self.expression(n))?;
            }
            if !select.sort_clause.iter().all(sorts_by_result) {
                return Err(odd("the order of a set operation"));
            }
        }
        self.levels.pop();
        let end = self.names.part();
        // Those of queries within have gone out of sight before.
        for table in &mut self.names.tables[first..] {
            table.bare.1 = table.bare.1.min(end);
        }
        Ok(())
    }

    /// Names of WITH queries are known to those behind them, or to all of them.
    fn with(&mut self, list: &'a [Node], recursive: bool) -> Result<(), Unresolved> {
        let mut queries = Vec::new();
        for node in list {
            let Node::CommonTableExpr(cte) = node else { return Err(odd("WITH")) };
            nodes::children(node)?;
            let Some(Node::SelectStmt(query)) = cte.ctequery.as_ref() else {
                return Err(odd("data-modifying WITH"));
            };
            let defined = place(cte.location).ok_or_else(|| odd(&cte.ctename))?;
            queries.push((&*cte.ctename, defined, query));
        }
        if recursive {
            self.top().with.extend(queries.iter().map(|(name, defined, _)| (*name, *defined)));
        }
        for (name, defined, query) in queries {
            self.query(query)?;
            if !recursive {
                self.top().with.push((name, defined));
            }
        }
        Ok(())
    }

    fn top(&mut self) -> &mut Level<'a> {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn all_from(&mut self, list: &'a [Node]) -> Result<(), Unresolved> {
        for node in list {
            let mut items = self.one_from(node)?;
            items.iter_mut().for_each(|i| i.lateral_only = true);
            self.top().items.extend(items);
        }
        let level = self.top();
        level.items.iter_mut().for_each(|i| i.lateral_only = false);
        let visible: Vec<(Option<&str>, Option<usize>)> =
            level.items.iter().filter(|i| i.visible).map(|i| (i.name, i.table)).collect();
        for (name, table) in &visible {
            let same = visible.iter().filter(|(n, _)| n == name && n.is_some()).count();
            if let Some(table) = table.filter(|_| same > 1) {
                self.names.tables[table].crowded = true;
            }
        }
        Ok(())
    }

    fn one_from(&mut self, node: &'a Node) -> Result<Vec<Item<'a>>, Unresolved> {
        match node {
            Node::RangeVar(var) => Ok(vec![self.range_var(var)?]),
            Node::RangeSubselect(sub) => {
                let Some(Node::SelectStmt(query)) = sub.subquery.as_ref() else {
                    return Err(odd("a subquery"));
                };
                self.laterally(sub.lateral, |own| own.query(query))?;
                Ok(vec![opaque(sub.alias.as_deref())])
            }
            Node::RangeFunction(function) => {
                if calls_no_function(&function.functions) {
                    return Err(odd("system_user"));
                }
                self.laterally(true, |own| {
                    nodes::children(node)?.into_iter().try_for_each(|n| own.expression(n))
                })?;
                let mut item = opaque(function.alias.as_deref());
                if item.name.is_none() {
                    // Without an alias it has the function's name.
                    item.name = function_name(&function.functions);
                    item.visible = item.name.is_some();
                }
                Ok(vec![item])
            }
            Node::JoinExpr(join) => self.join(join),
            other => Err(Unresolved::Unknown(nodes::type_name(other))),
        }
    }

    fn laterally(
        &mut self,
        lateral: bool,
        f: impl FnOnce(&mut Self) -> Result<(), Unresolved>,
    ) -> Result<(), Unresolved> {
        let before = std::mem::replace(&mut self.top().lateral, lateral);
        f(self)?;
        self.top().lateral = before;
        Ok(())
    }

    fn range_var(&mut self, var: &'a RangeVar) -> Result<Item<'a>, Unresolved> {
        let location = place(var.location).ok_or_else(|| odd(&var.relname))?;
        let alias = var.alias.as_deref();
        let name = alias.map_or(&*var.relname, |a| &*a.aliasname);
        let renamed = alias.is_some_and(|a| !a.colnames.is_empty());
        if var.schemaname.is_empty() && var.catalogname.is_empty() {
            let mut with = self.levels.iter().rev().flat_map(|l| l.with.iter().rev());
            if let Some((_, defined)) = with.find(|(n, _)| *n == &*var.relname) {
                self.names.with_uses.push(WithUse { location, defined: *defined });
                let item = opaque(None);
                return Ok(Item { name: Some(name), visible: true, ..item });
            }
        }
        let table = self.names.tables.len();
        let bare = (self.names.part(), usize::MAX);
        let names = BTreeSet::new();
        self.names.tables.push(Table { var, whole: false, names, bare, crowded: false });
        Ok(Item {
            name: Some(name),
            visible: true,
            lateral_only: false,
            joined: None,
            renamed,
            table: Some(table),
        })
    }

    fn join(&mut self, join: &'a JoinExpr) -> Result<Vec<Item<'a>>, Unresolved> {
        let side = |node: &'a Option<Node>| node.as_ref().ok_or_else(|| odd("a join"));
        let kinds =
            [JoinType::JoinInner, JoinType::JoinLeft, JoinType::JoinFull, JoinType::JoinRight];
        if !kinds.iter().any(|k| *k as i32 == join.jointype) {
            return Err(odd("a kind of join"));
        }
        let mut items = self.one_from(side(&join.larg)?)?;
        // The right side sees the left one if it is LATERAL.
        let before = self.top().items.len();
        self.top().items.extend(items.iter().map(|i| Item { lateral_only: true, ..i.clone() }));
        let right = self.one_from(side(&join.rarg)?)?;
        self.top().items.truncate(before);
        items.extend(right);
        items.iter_mut().for_each(|i| i.lateral_only = false);
        let mut reads: Vec<usize> = items.iter().flat_map(|i| i.reads().iter().copied()).collect();
        reads.sort_unstable();
        reads.dedup();
        let renamed = items.iter().any(|i| i.renamed);
        let using = strings(&join.using_clause).ok_or_else(|| odd("USING"))?;
        for table in &reads {
            let used = &mut self.names.tables[*table];
            used.whole |= join.is_natural || (renamed && !using.is_empty());
            used.names.extend(&using);
        }
        let reads = Arc::new(reads);
        // ON sees both sides and what is around the query, nothing beside the join.
        if let Some(quals) = join.quals.as_ref() {
            let around = std::mem::replace(&mut self.top().items, items);
            self.laterally(false, |own| own.expression(quals))?;
            items = std::mem::replace(&mut self.top().items, around);
        }
        if let Some(alias) = &join.join_using_alias {
            let named = Item { name: Some(&alias.aliasname), ..opaque(None) };
            items.push(Item { visible: true, joined: Some(reads.clone()), renamed, ..named });
        }
        if let Some(alias) = &join.alias {
            // The alias hides what is joined.
            items.iter_mut().for_each(|i| i.visible = false);
            let renamed = renamed || !alias.colnames.is_empty();
            let named = Item { name: Some(&alias.aliasname), ..opaque(None) };
            items.push(Item { visible: true, joined: Some(reads), renamed, ..named });
        }
        Ok(items)
    }

    fn expression(&mut self, node: &'a Node) -> Result<(), Unresolved> {
        match node {
            Node::ColumnRef(column) => self.column(column),
            Node::SelectStmt(query) => self.query(query),
            other => nodes::children(other)?.into_iter().try_for_each(|n| self.expression(n)),
        }
    }

    fn column(&mut self, column: &'a ColumnRef) -> Result<(), Unresolved> {
        let star = matches!(column.fields.iter().last(), Some(Node::AStar(_)));
        let named = column.fields.len() - usize::from(star && !column.fields.is_empty());
        let names = strings(&column.fields[..named]).ok_or_else(|| odd("a column"))?;
        let (qualifiers, last) = match (names.as_slice(), star) {
            (all, true) => (all, None),
            ([before @ .., last], false) => (before, Some(*last)),
            ([], false) => return Err(odd("a column")),
        };
        let qualifier = match qualifiers {
            [] => {
                self.bare(last);
                return Ok(());
            }
            [name] => self.named(name, last)?,
            [schema, name] | [_, schema, name] => self.in_schema(schema, name, last)?,
            _ => return Err(odd(&names.join("."))),
        };
        let location = place(column.location).ok_or_else(|| odd(&names.join(".")))?;
        let parts = column.fields.len();
        self.names.references.push(Reference { location, parts, qualifier, last });
        Ok(())
    }

    /// `*`, or a name that may be a column of whatever is seen, or a whole row.
    fn bare(&mut self, name: Option<&'a str>) {
        let Some(name) = name else {
            let items = self.levels.last().map_or(&[][..], |l| &l.items);
            for table in items.iter().flat_map(Item::reads) {
                self.names.tables[*table].whole = true;
            }
            return;
        };
        if let Some(part) = self.names.bare.last_mut() {
            part.insert(name);
        }
        for item in self.levels.iter().flat_map(|l| &l.items) {
            if item.renamed || item.name == Some(name) {
                for table in item.reads() {
                    self.names.tables[*table].whole = true;
                }
            }
        }
    }

    /// The items that a qualifier may mean at the innermost level that has one.
    fn find(&self, fits: impl Fn(&Item<'a>) -> bool) -> Vec<Item<'a>> {
        for level in self.levels.iter().rev() {
            let found: Vec<Item<'a>> = level.named().filter(|i| fits(i)).cloned().collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    fn read(&mut self, item: &Item<'a>, column: Option<&'a str>) {
        for table in item.reads() {
            let used = &mut self.names.tables[*table];
            match column {
                Some(name) if !item.renamed => {
                    used.names.insert(name);
                }
                _ => used.whole = true,
            }
        }
    }

    fn named(&mut self, name: &str, column: Option<&'a str>) -> Result<Qualifier, Unresolved> {
        let found = self.find(|i| i.name == Some(name));
        let [item] = found.as_slice() else { return Err(odd(name)) };
        self.read(item, column);
        let joined = || item.joined.as_ref().unwrap_or(&self.nothing).clone();
        Ok(item.table.map_or_else(|| Qualifier::Other(joined()), Qualifier::Table))
    }

    fn in_schema(
        &mut self,
        schema: &str,
        name: &str,
        column: Option<&'a str>,
    ) -> Result<Qualifier, Unresolved> {
        let tables = &self.names.tables;
        let may_mean = |item: &Item<'a>| {
            item.table.is_some_and(|t| {
                let var = tables[t].var;
                let written = [schema, ""].contains(&&*var.schemaname);
                var.alias.is_none() && &*var.relname == name && written
            })
        };
        let mut candidates = Vec::new();
        for level in self.levels.iter().rev() {
            candidates.extend(level.named().filter(|i| may_mean(i)).cloned());
        }
        if candidates.is_empty() {
            return Err(odd(&format!("{schema}.{name}")));
        }
        let plain = match self.find(|i| i.name == Some(name)).as_slice() {
            [one] => one.table,
            _ => None,
        };
        candidates.iter().for_each(|i| self.read(i, column));
        let candidates = candidates.iter().filter_map(|i| i.table).collect();
        let meant = InSchema { schema: schema.to_owned(), candidates, plain };
        if let Some(same) = self.in_schemas.iter().find(|s| ***s == meant) {
            return Ok(Qualifier::Schema(same.clone()));
        }
        let known: usize = self.in_schemas.iter().map(|s| s.candidates.len()).sum();
        if known + meant.candidates.len() > CANDIDATES_MAX {
            return Err(odd("too many schemas"));
        }
        let meant = Arc::new(meant);
        self.in_schemas.push(meant.clone());
        Ok(Qualifier::Schema(meant))
    }
}

/// Something whose columns are no table's.
fn opaque(alias: Option<&Alias>) -> Item<'_> {
    Item {
        name: alias.map(|a| &*a.aliasname),
        visible: alias.is_some(),
        lateral_only: false,
        joined: None,
        renamed: false,
        table: None,
    }
}

/// Whether what stands in the place of a function is a name to this server: then a table's.
fn calls_no_function(functions: &[Node]) -> bool {
    let names = |n: &Node| matches!(n, Node::List(pair) if matches!(pair.items.first(), Some(Node::ColumnRef(_))));
    functions.iter().any(names)
}

/// The name of the only function of a list as `RangeFunction` has it: a list of lists of a
/// call and its column definitions.
fn function_name(functions: &[Node]) -> Option<&str> {
    let [one] = functions else { return None };
    let Node::List(pair) = one else { return None };
    match pair.items.first()? {
        Node::FuncCall(call) => call.funcname.last().and_then(string),
        _ => None,
    }
}

/// ORDER BY a name or a place of the result.
fn sorts_by_result(node: &Node) -> bool {
    let Node::SortBy(sort) = node else { return false };
    match sort.node.as_ref() {
        Some(Node::AConst(_)) => true,
        Some(Node::ColumnRef(c)) => strings(&c.fields).is_some_and(|f| f.len() == 1),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::analyze::carrier;
    use crate::parse::{SystemUser, read};

    /// Tables with what is read of them: `name:a,b` or `name:*`.
    fn used(sql: &str) -> Result<Vec<String>, Unresolved> {
        let statements = read(sql, SystemUser::Keyword).unwrap();
        let (_, select) = carrier(&statements[0]).unwrap();
        let names = resolve(select)?;
        let of = |t: &Table<'_>| {
            let bare = names.bare[t.bare.0..t.bare.1].iter().flatten();
            let list: BTreeSet<&str> = t.names.iter().chain(bare).copied().collect();
            let list: Vec<&str> = list.into_iter().collect();
            let list = if t.whole { "*".to_owned() } else { list.join(",") };
            format!("{}:{list}", t.var.relname)
        };
        Ok(names.tables.iter().map(of).collect())
    }

    #[test]
    fn what_the_aliases_of_joins_read() {
        assert_eq!(used("SELECT x.t FROM (a JOIN b USING (i)) AS x").unwrap(), ["a:i,t", "b:i,t"]);
        assert_eq!(used("SELECT p FROM (a JOIN b USING (i)) AS x(p, q)").unwrap(), ["a:*", "b:*"]);
        assert_eq!(used("SELECT x FROM (a JOIN b USING (i)) AS x").unwrap(), ["a:*", "b:*"]);
        // The alias hides what is joined.
        let hidden = used("SELECT a.t FROM (a JOIN b USING (i)) AS x");
        assert_eq!(hidden, Err(Unresolved::Name("a".to_owned())));
        assert_eq!(used("SELECT a.t FROM a JOIN b USING (i) AS x").unwrap(), ["a:i,t", "b:i"]);
        assert_eq!(used("SELECT 1 FROM a NATURAL JOIN b").unwrap(), ["a:*", "b:*"]);
    }

    #[test]
    fn levels_and_lateral() {
        let inner = "SELECT a.x FROM a WHERE EXISTS (SELECT FROM c a WHERE a.y = 1)";
        assert_eq!(used(inner).unwrap(), ["a:x", "c:y"]);
        let beside = "SELECT 1 FROM a, (SELECT a.x FROM b) s";
        assert_eq!(used(beside), Err(Unresolved::Name("a".to_owned())));
        let lateral = "SELECT 1 FROM a, LATERAL (SELECT a.x FROM b) s";
        assert_eq!(used(lateral).unwrap(), ["a:x", "b:"]);
        let on = "SELECT 1 FROM a, b JOIN c ON a.x = c.x";
        assert_eq!(used(on), Err(Unresolved::Name("a".to_owned())));
        // A bare name may be a column of everything that is seen.
        assert_eq!(used("SELECT (SELECT max(v) FROM b) FROM a").unwrap(), ["a:v", "b:v"]);
        assert_eq!(used("SELECT * FROM a, (SELECT b.x FROM b) s").unwrap(), ["a:*", "b:x"]);
    }

    #[test]
    fn with_queries_hide_tables_in_their_scope() {
        let tables = |sql: &str| used(sql).unwrap().len();
        assert_eq!(tables("WITH a AS (SELECT 1) SELECT 1 FROM a"), 0);
        assert_eq!(tables("WITH a AS (SELECT 1 FROM a) SELECT 1 FROM a"), 1);
        assert_eq!(tables("WITH RECURSIVE a AS (SELECT 1 FROM a) SELECT 1 FROM a"), 0);
        assert_eq!(tables("WITH b AS (SELECT 1 FROM a), a AS (SELECT 1) SELECT 1 FROM a, b"), 1);
        assert_eq!(tables("SELECT (WITH a AS (SELECT 1) SELECT 1 FROM a) FROM a, s.a x"), 2);
        assert_eq!(tables("WITH a AS (SELECT 1) SELECT 1 FROM public.a"), 1);
        assert_eq!(tables("WITH a AS (SELECT 1) (SELECT 1 FROM a) UNION SELECT 2 FROM a, b"), 1);
    }

    #[test]
    fn a_schema_tells_namesakes_apart() {
        let sql = "SELECT far.t.x FROM far.t WHERE EXISTS (SELECT 1 FROM near.t WHERE near.t.y = far.t.z)";
        assert_eq!(used(sql).unwrap(), ["t:x,z", "t:y"]);
        let statements = read(sql, SystemUser::Keyword).unwrap();
        let names = resolve(carrier(&statements[0]).unwrap().1).unwrap();
        let of = |at: usize| names.references.iter().find(|r| r.location == at).unwrap();
        let captured = &of(sql.rfind("far.t.z").unwrap()).qualifier;
        let Qualifier::Schema(own) = captured else { panic!("{captured:?}") };
        assert_eq!((own.candidates.as_slice(), own.plain), (&[0][..], Some(1)));
        assert!(!names.tables[0].crowded);
        let statements = read("SELECT 1 FROM far.t, near.t", SystemUser::Keyword).unwrap();
        let names = resolve(carrier(&statements[0]).unwrap().1).unwrap();
        assert!(names.tables.iter().all(|t| t.crowded));
    }
}
