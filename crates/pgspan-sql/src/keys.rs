//! Semi-join keys: when the home side of a join is selective, its join keys restrict
//! what is fetched. Home evaluates the join again, so a restriction may only leave
//! out rows that no result row can come from.
//!
//! Proven shape, at the statement's top level only: tables joined by INNER and LEFT
//! joins; the local table is never on a nullable side, so its WHERE conditions hold
//! in every result row; the foreign table is joined to it by `=` in an inner join's
//! ON, in WHERE, or in the ON of the LEFT join whose right side it is.

use crate::analyze::{Analysis, carrier};
use crate::facts::HomeRelation;
use crate::fragment::{Fetch, KeyFilter, remote_column};
use crate::nodes::{self, Unknown, place, strings};
use crate::parse::read;
use crate::plan::keys_worth;
use crate::quote::ident;
use crate::remote::condition_texts;
use crate::scope::Qualifier;
use crate::tree::Node;
use pg_query::protobuf::{AExprKind, BoolExprType, JoinType};

/// Key types: equality is the same everywhere and the array type is built in.
const KEY_TYPES: &[(u32, &str)] = &[
    (20, "pg_catalog.int8"),
    (21, "pg_catalog.int2"),
    (23, "pg_catalog.int4"),
    (2950, "pg_catalog.uuid"),
    (1082, "pg_catalog.date"),
];

/// A column of a table of the statement.
type Column = (usize, String);

/// Two columns that are equal in every row of the answer, and the tables that the
/// condition may restrict.
struct Equality {
    left: Column,
    right: Column,
    restricts: Vec<usize>,
}

/// The joins of FROM, tables by their place in the analysis.
#[derive(Default)]
struct Joins {
    /// Tables that never come null-extended.
    solid: Vec<usize>,
    equalities: Vec<Equality>,
}

/// Adds key filters to the fetches that they restrict.
pub fn add(
    text: &str,
    a: &Analysis,
    relations: &[&HomeRelation],
    carried_by: &[Option<usize>],
    fetches: &mut [Fetch],
    keys_max: u64,
) {
    let worth = |(i, fetch): (usize, &Fetch)| {
        let uses = carried_by.iter().filter(|c| **c == Some(i)).count();
        uses == 1 && keys_worth(fetch)
    };
    if a.query_start != 0 || !fetches.iter().enumerate().any(worth) {
        return;
    }
    let Some(shape) = Shape::read(text, a) else { return };
    for (i, fetch) in fetches.iter_mut().enumerate() {
        if worth((i, &*fetch))
            && let (Some(place), Some(relation)) =
                (carried_by.iter().position(|c| *c == Some(i)), relations.get(i))
        {
            fetch.keys = shape.find(place, relation, carried_by, fetch, keys_max);
        }
    }
}

/// The statement's top level, where it has the proven shape.
struct Shape<'a> {
    analysis: &'a Analysis,
    joins: Joins,
    /// The conditions joined by AND in WHERE, with the one table that each speaks of.
    conditions: Vec<(String, Option<usize>)>,
}

impl<'a> Shape<'a> {
    fn read(text: &str, a: &'a Analysis) -> Option<Shape<'a>> {
        let statements = read(text, a.system_user).ok()?;
        let [only] = statements.as_slice() else { return None };
        let (_, select) = carrier(only).ok()?;
        if !nodes::is_leaf(select) || select.with_clause.is_some() {
            return None;
        }
        let mut joins = Joins::default();
        let mut all = Vec::new();
        for item in &select.from_clause {
            all.extend(walk(a, item, true, &mut joins)?);
        }
        let parts = conjuncts(&select.where_clause);
        let texts = condition_texts(text, parts.len())?;
        for part in &parts {
            joins.note(a, part, &all);
        }
        let speaks = parts.iter().map(|p| speaks_only_of(a, p));
        let conditions = texts.into_iter().zip(speaks).collect();
        Some(Shape { analysis: a, joins, conditions })
    }

    /// The keys that restrict the table at a place of the analysis.
    fn find(
        &self,
        foreign: usize,
        relation: &HomeRelation,
        carried_by: &[Option<usize>],
        fetch: &Fetch,
        keys_max: u64,
    ) -> Option<KeyFilter> {
        let columns = relation.columns.as_deref()?;
        for equality in &self.joins.equalities {
            if !equality.restricts.contains(&foreign) {
                continue;
            }
            let (own, local) = match (equality.left.0 == foreign, equality.right.0 == foreign) {
                (true, false) => (&equality.left, &equality.right),
                (false, true) => (&equality.right, &equality.left),
                _ => continue,
            };
            let table = self.analysis.tables.get(local.0)?;
            let is_home = carried_by.get(local.0).copied().flatten().is_none();
            if !self.joins.solid.contains(&local.0) || !is_home || table.renames_columns {
                continue;
            }
            let column = columns.iter().find(|c| c.name == own.1)?;
            let (_, type_name) = KEY_TYPES.iter().find(|(oid, _)| *oid == column.type_oid)?;
            let mine = self.conditions.iter().filter(|(_, t)| *t == Some(local.0));
            let mine: Vec<&str> = mine.map(|(c, _)| c.as_str()).collect();
            if mine.is_empty() {
                continue;
            }
            let home_sql = format!(
                "SELECT DISTINCT {l}.{k} FROM {only}{t} AS {l} WHERE ({w}) LIMIT {n}",
                l = ident(table.reference()),
                k = ident(&local.1),
                only = if table.only { "ONLY " } else { "" },
                t = table.sql_name(),
                w = mine.join(") AND ("),
                n = keys_max + 1,
            );
            let test = format!(
                "{} OPERATOR(pg_catalog.=) ANY ($1::{type_name}[])",
                ident(remote_column(column))
            );
            let tail = fetch.condition.as_ref().map_or(0, |c| c.len() + " WHERE ".len());
            let head = fetch.sql.get(..fetch.sql.len() - tail)?;
            let sql = match &fetch.condition {
                Some(c) => format!("{head} WHERE ({c}) AND {test}"),
                None => format!("{head} WHERE {test}"),
            };
            let keys_max = usize::try_from(keys_max).unwrap_or(usize::MAX);
            return Some(KeyFilter { home_sql, sql, element_type: column.type_oid, keys_max });
        }
        None
    }
}

impl Joins {
    fn note(&mut self, a: &Analysis, condition: &Node, restricts: &[usize]) {
        if let Some((left, right)) = column_equality(a, condition) {
            self.equalities.push(Equality { left, right, restricts: restricts.to_vec() });
        }
    }
}

/// The tables below a FROM item, noting the joins; `None` for shapes not proven.
fn walk(a: &Analysis, item: &Node, solid: bool, joins: &mut Joins) -> Option<Vec<usize>> {
    match item {
        Node::RangeVar(var) => {
            let at = place(var.location)?;
            let table = a.tables.iter().position(|t| t.location == at)?;
            if solid {
                joins.solid.push(table);
            }
            Some(vec![table])
        }
        Node::JoinExpr(join) => {
            let inner = join.jointype == JoinType::JoinInner as i32;
            let left_outer = join.jointype == JoinType::JoinLeft as i32;
            let plain = !join.is_natural && join.using_clause.is_empty() && join.alias.is_none();
            if !plain || !(inner || left_outer) {
                return None;
            }
            let left = walk(a, join.larg.as_ref()?, solid, joins)?;
            let right = walk(a, join.rarg.as_ref()?, solid && inner, joins)?;
            let all: Vec<usize> = left.iter().chain(&right).copied().collect();
            let restricts = if inner { &all } else { &right };
            for c in conjuncts(&join.quals) {
                joins.note(a, c, restricts);
            }
            Some(all)
        }
        _ => None,
    }
}

/// What is joined by AND at the top of a condition.
fn conjuncts(tree: &Option<Node>) -> Vec<&Node> {
    match tree {
        None => Vec::new(),
        Some(Node::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 => {
            b.args.iter().collect()
        }
        Some(one) => vec![one],
    }
}

/// The column that `table.column` means.
fn column_of(a: &Analysis, node: &Option<Node>) -> Option<Column> {
    let Node::ColumnRef(column) = node.as_ref()? else { return None };
    let names = strings(&column.fields)?;
    let [_, name] = names.as_slice() else { return None };
    Some((table_of(a, place(column.location)?)?, (*name).to_owned()))
}

/// The table that the qualifier at a place names.
fn table_of(a: &Analysis, location: usize) -> Option<usize> {
    match a.references.iter().find(|r| r.qualifier().0 == location)?.names {
        Qualifier::Table(table) => Some(table),
        _ => None,
    }
}

fn column_equality(a: &Analysis, node: &Node) -> Option<(Column, Column)> {
    let Node::AExpr(e) = node else { return None };
    if e.kind != AExprKind::AexprOp as i32 || strings(&e.name)? != ["="] {
        return None;
    }
    Some((column_of(a, &e.lexpr)?, column_of(a, &e.rexpr)?))
}

/// The table whose columns alone a condition reads, each written with its name.
fn speaks_only_of(a: &Analysis, condition: &Node) -> Option<usize> {
    let mut tables = Vec::new();
    let mut found = |node: &Node| -> Result<(), Unknown> {
        match node {
            Node::ColumnRef(c) if c.fields.len() == 2 => {
                let table = place(c.location).and_then(|at| table_of(a, at));
                tables.push(table.ok_or(Unknown(String::new()))?);
                Ok(())
            }
            Node::ColumnRef(_) | Node::SubLink(_) | Node::ParamRef(_) => {
                Err(Unknown(String::new()))
            }
            _ => Ok(()),
        }
    };
    nodes::visit_node(condition, &mut found).ok()?;
    tables.dedup();
    match tables.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}
