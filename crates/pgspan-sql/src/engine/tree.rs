//! Home's `EXPLAIN (VERBOSE, FORMAT JSON)` of a core → the operators that the engine
//! runs and the fragments that feed them.
//!
//! Home's planner has resolved every name and type, turned subqueries into joins and
//! outer joins into inner ones where that is the same, and placed every condition. What
//! it prints is read top down: each node is asked for the expressions that its parent
//! needs, by their printed text; a scan computes them at its database. A node or an
//! expression that is not listed here is refused.

use super::correlated;
use super::expression::{self, Expression};
use super::operators::{Fold, Fragment, JoinKind, Node, Side, Tree};
use super::predicate;
use super::printed::{appends, below, children, kind, outputs, passed, passes, text};
use super::term::{self, Term};
use crate::cause::Cause;
use crate::facts::{HomeRelation, SourceFacts};
use crate::fragment;
use crate::order_free;
use crate::plan::Needs;
use crate::quote::{ident, qualified};
use crate::remote;
use crate::route::Reason;
use serde_json::Value;
use std::sync::Arc;

/// What the translation must know besides the plan.
pub struct Known<'a> {
    /// Foreign tables.
    pub needs: &'a Needs,
    /// Their definitions at home, in the order of `needs.tables`.
    pub relations: &'a [&'a HomeRelation],
    /// Their definitions at the source, likewise.
    pub sources: &'a [Arc<SourceFacts>],
    /// Subqueries and the names of their columns.
    pub subqueries: &'a [(String, Vec<String>)],
    /// There is no DISTINCT ON anywhere. EXPLAIN does not print by what a Unique tells rows
    /// apart: then it is by all of their columns.
    pub distinct_rows: bool,
}

/// Reads home's plan of a core of `columns` columns.
///
/// # Errors
/// What the engine cannot run.
pub fn read(json: &[u8], columns: usize, known: &Known<'_>) -> Result<Tree, Reason> {
    let odd = || Reason::new(Cause::PlanNotRead);
    let value: Value = serde_json::from_slice(json).map_err(|_| odd())?;
    let mut root = value.pointer("/0/Plan").ok_or_else(odd)?.clone();
    let mut all = Vec::new();
    aliases(&root, &mut all);
    if let [only] = all.as_slice() {
        // Of a single relation EXPLAIN writes some columns without its name.
        qualify(&mut root, only);
    }
    let root = &root;
    let outputs = outputs(root);
    let demand = outputs.get(..columns).ok_or_else(odd)?;
    let mut reader = Reader { known, aliases: foreign_aliases(root, known), fragments: Vec::new() };
    let mut root = reader.node(root, demand)?;
    super::counted::drop_counted(&mut root, &mut reader.fragments, known);
    Ok(Tree { roots: vec![root], fragments: reader.fragments })
}

struct Reader<'a> {
    known: &'a Known<'a>,
    /// Foreign tables of the plan: alias, and place in [`Known::relations`].
    aliases: Vec<(String, usize)>,
    fragments: Vec<Fragment>,
}

/// Aliases of the relations below a node.
fn aliases(plan: &Value, out: &mut Vec<String>) {
    if let Some(list) = text(plan, "Relations") {
        out.extend(remote::relations(list).into_iter().map(|(_, _, alias)| alias));
    } else if let Some(alias) = text(plan, "Alias") {
        out.push(alias.to_owned());
    }
    children(plan).iter().for_each(|c| aliases(c, out));
}

/// The foreign tables below a node, by alias; an alias that is used twice is left out.
fn foreign_aliases(plan: &Value, known: &Known<'_>) -> Vec<(String, usize)> {
    fn walk(plan: &Value, known: &Known<'_>, out: &mut Vec<(String, usize)>) {
        if kind(plan) == "Foreign Scan" {
            for (schema, name, alias) in scanned(plan) {
                let own = known.relations.iter().position(|r| {
                    r.schema.as_deref() == Some(schema.as_str())
                        && r.name.as_deref() == Some(name.as_str())
                });
                out.extend(own.map(|i| (alias, i)));
            }
        }
        children(plan).iter().for_each(|c| walk(c, known, out));
    }
    let mut out = Vec::new();
    walk(plan, known, &mut out);
    let all = out.clone();
    out.retain(|(a, _)| all.iter().filter(|(b, _)| a == b).count() == 1);
    out
}

/// Schema, name and alias of what a Foreign Scan reads.
fn scanned(plan: &Value) -> Vec<(String, String, String)> {
    match text(plan, "Relations") {
        Some(list) => remote::relations(list),
        None => vec![(
            text(plan, "Schema").unwrap_or("").to_owned(),
            text(plan, "Relation Name").unwrap_or("").to_owned(),
            text(plan, "Alias").unwrap_or("").to_owned(),
        )],
    }
}

/// Writes bare columns with the relation's name.
fn qualify(plan: &mut Value, alias: &str) {
    let Some(map) = plan.as_object_mut() else { return };
    for (key, value) in map {
        match value {
            Value::Array(items) if key == "Plans" => {
                items.iter_mut().for_each(|p| qualify(p, alias));
            }
            Value::Array(items) if key == "Output" || key == "Group Key" => {
                for item in items {
                    if let Some(text) = item.as_str() {
                        *item = Value::String(expression::qualified(text, alias));
                    }
                }
            }
            Value::String(text) if key == "Filter" || key.ends_with(" Cond") => {
                *text = expression::qualified(text, alias);
            }
            _ => {}
        }
    }
}

/// A list without repetition, and where each went.
fn place(list: &mut Vec<String>, item: &str) -> usize {
    list.iter().position(|i| i == item).unwrap_or_else(|| {
        list.push(item.to_owned());
        list.len() - 1
    })
}

impl Reader<'_> {
    fn node(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        for child in children(plan) {
            if matches!(text(child, "Parent Relationship"), Some("InitPlan" | "SubPlan")) {
                return Err(Reason::new(Cause::SubqueryNoJoin));
            }
        }
        self.check_unasked(plan, demand)?;
        let child = || children(plan).first().ok_or(Reason::new(Cause::PlanNotRead));
        match kind(plan) {
            _ if passes(plan) => {
                let child = child()?;
                let own = outputs(child);
                let lower: Vec<String> = demand
                    .iter()
                    .map(|d| Ok(below(d, &own)?.unwrap_or_else(|| d.clone())))
                    .collect::<Result<_, Reason>>()?;
                self.node(child, &lower)
            }
            "Seq Scan" | "Index Scan" | "Index Only Scan" | "Bitmap Heap Scan" => {
                self.home_scan(plan, demand)
            }
            "Foreign Scan" => self.foreign_scan(plan, demand),
            "Hash Join" => self.join(plan, "Hash Cond", demand),
            "Merge Join" => self.join(plan, "Merge Cond", demand),
            "Aggregate" => self.group(plan, demand),
            "Unique" => self.unique(plan, demand),
            _ if appends(plan) => self.append(plan, demand),
            "Subquery Scan" => match text(plan, "Filter") {
                None => self.subquery(plan, demand),
                Some(f) => self.filtered(f, demand, |reader, all| reader.subquery(plan, all)),
            },
            other => Err(Reason::about(Cause::NoSuchOperator, other)),
        }
    }

    /// PostgreSQL computes all that a node gives, whether anybody needs it or not (a column of an
    /// arm of UNION ALL, what a subquery is sorted by); the engine what it is asked for.
    ///
    /// # Errors
    /// Something else could fail.
    fn check_unasked(&self, plan: &Value, demand: &[String]) -> Result<(), Reason> {
        let folded = || text(plan, "Remote SQL").is_some_and(remote::is_grouped);
        if passes(plan) || appends(plan) || folded() {
            return Ok(());
        }
        let lower: Vec<String> = children(plan).iter().flat_map(outputs).collect();
        let there = |alias: &str, column: &str| {
            let (_, relation) = self.aliases.iter().find(|(a, _)| a == alias)?;
            let columns = self.known.relations.get(*relation)?.columns.as_deref()?;
            let column = columns.iter().find(|c| c.name == column)?;
            Some((column.name.clone(), column.type_oid))
        };
        let asked = |output: &str| {
            demand.iter().any(|d| d == output || expression::reference(d) == Some(output))
        };
        for output in outputs(plan) {
            let harmless = asked(&output)
                || expression::is_column(&output)
                || matches!(below(&output, &lower), Ok(Some(_)))
                || expression::is_certain(&output, &there);
            if !harmless {
                return Err(Reason::about(Cause::UnneededMayFail, output));
            }
        }
        Ok(())
    }

    fn home_scan(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        let odd = || Reason::new(Cause::PlanNotRead);
        let schema = text(plan, "Schema").ok_or_else(odd)?;
        let name = text(plan, "Relation Name").ok_or_else(odd)?;
        let alias = text(plan, "Alias").ok_or_else(odd)?;
        let mut conditions = Vec::new();
        for key in ["Index Cond", "Recheck Cond", "Filter"] {
            if let Some(condition) = text(plan, key) {
                if !expression::is_closed(condition) {
                    return Err(Reason::new(Cause::ConditionWithSubquery));
                }
                conditions.push(condition.to_owned());
            }
        }
        // A scan is of one relation; its children have scans of their own.
        let mut from = format!("ONLY {} {}", qualified(schema, name), ident(alias));
        if !conditions.is_empty() {
            from.push_str(" WHERE ");
            from.push_str(&conditions.join(" AND "));
        }
        for d in demand {
            if !expression::is_closed(d) {
                return Err(Reason::about(Cause::ExpressionNotPassed, d));
            }
        }
        let (conditional, label) = (!conditions.is_empty(), format!("{schema}.{name}"));
        let may_fail = !demand.iter().all(|d| expression::is_column(d));
        let fragment = Fragment::at_home(demand.to_vec(), from, conditional, label);
        self.fragments.push(Fragment { may_fail, ..fragment });
        Ok(Node::Fragment(self.fragments.len() - 1))
    }

    fn foreign_scan(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        let odd = |sql: &str| Reason::about(Cause::RemoteNotRead, sql);
        let sql = text(plan, "Remote SQL").ok_or(Reason::new(Cause::PlanNotRead))?;
        if plan.get("Filter").is_some() {
            return Err(Reason::about(
                Cause::ConditionNotShipped,
                text(plan, "Filter").unwrap_or(""),
            ));
        }
        if sql.contains('$') {
            return Err(Reason::new(Cause::ParameterAtSource));
        }
        let (items, from) = remote::list_and_from(sql).ok_or_else(|| odd(sql))?;
        let relations = scanned(plan);
        let tables = remote::aliased_tables(sql).ok_or_else(|| odd(sql))?;
        if tables.len() != relations.len() {
            return Err(odd(sql));
        }
        let mut server = None;
        let mut places = Vec::new();
        for ((schema, name, alias), there) in relations.iter().zip(&tables) {
            let i = self.known.relations.iter().position(|r| {
                r.schema.as_deref() == Some(schema.as_str())
                    && r.name.as_deref() == Some(name.as_str())
            });
            let i = i.ok_or(Reason::about(Cause::ReachedUnnamed, name))?;
            let need = self.known.needs.tables.get(i).ok_or_else(|| odd(sql))?;
            if need.remote != (there.0.clone(), there.1.clone()) {
                return Err(odd(sql));
            }
            server = Some(need.server);
            places.push((alias.clone(), i, there.2.clone()));
        }
        let there = |alias: &str, column: &str| -> Option<(String, u32)> {
            let (_, i, remote_alias) = places.iter().find(|(a, _, _)| a == alias)?;
            let relation = self.known.relations.get(*i)?;
            let column = relation.columns.as_deref()?.iter().find(|c| c.name == column)?;
            let name = ident(fragment::remote_column(column));
            let name = match remote_alias {
                Some(r) => format!("{}.{name}", ident(r)),
                None => name,
            };
            Some((name, column.type_oid))
        };
        let folded = remote::is_grouped(sql);
        let own = outputs(plan);
        let mut distinct: Vec<String> = Vec::new();
        own.iter().for_each(|o| {
            place(&mut distinct, o);
        });
        let mut select = Vec::new();
        // Its GROUP BY speaks of places in the list, which therefore stays whole.
        let mut picked = Vec::new();
        for d in demand {
            let shipped = if folded {
                let at = distinct.iter().position(|o| o == d).filter(|i| *i < items.len());
                picked.extend(at.map(Term::Input));
                at.map(|_| String::new())
            } else {
                Expression::read(d).and_then(|e| e.shipped(&there))
            };
            select.push(shipped.ok_or_else(|| Reason::about(Cause::ExpressionNotPassed, d))?);
        }
        if folded {
            let name = |c: &str| {
                let mut found: Vec<String> = places
                    .iter()
                    .filter_map(|(_, i, _)| self.known.relations.get(*i)?.columns.as_deref())
                    .flatten()
                    .filter(|x| x.name == c)
                    .map(|x| fragment::remote_column(x).to_owned())
                    .collect();
                found.dedup();
                if found.len() == 1 { found.pop() } else { None }
            };
            // postgres_fdw's list is home's, each expression once, and then what HAVING needs.
            let same = remote::same_but_for_casts(&distinct, sql, &name);
            if distinct.len() > items.len() || !same {
                return Err(odd(sql));
            }
        }
        // Which rows are left depends on their order.
        let limited = remote::is_limited(sql);
        let type_of = |name: &str| {
            let columns =
                |(_, i, _): &(String, usize, _)| self.known.relations.get(*i)?.columns.as_deref();
            fragment::remote_type(places.iter().filter_map(columns).flatten(), name)
        };
        let single = match places.as_slice() {
            [(_, i, None)] if !folded && !limited => {
                self.known.sources.get(*i).filter(|s| s.kind == "r")
            }
            _ => None,
        };
        // A fold computes its keys and all of its list, asked for or not.
        let computed = if folded { own.as_slice() } else { demand };
        let single_table = single.and_then(|_| tables.first());
        if folded {
            select = items.clone();
        }
        self.fragments.push(Fragment {
            server,
            select,
            conditional: single_table.is_some() && remote::has_where(sql),
            tail: String::new(),
            from,
            table: single_table.map(|t| (t.0.clone(), t.1.clone())),
            pages: match places.as_slice() {
                [(_, i, _)] => self.known.sources.get(*i).map_or(0, |s| s.pages),
                _ => 0,
            },
            table_rows: single.map(|s| s.rows).filter(|rows| *rows > 0.0),
            certain: Vec::new(),
            order_free: !limited && (!folded || order_free::folds(sql, &type_of)),
            may_fail: sql.contains(" HAVING ")
                || !computed.iter().all(|c| expression::is_certain(c, &there)),
            sums: folded && items.iter().any(|i| i.starts_with("sum(") || i.starts_with("avg(")),
            label: relations
                .iter()
                .map(|r| format!("{}.{}", r.0, r.1))
                .collect::<Vec<_>>()
                .join(", "),
        });
        let fragment = Node::Fragment(self.fragments.len() - 1);
        if folded {
            return Ok(Node::Project { input: Box::new(fragment), columns: picked });
        }
        Ok(fragment)
    }

    fn join(&mut self, plan: &Value, condition: &str, demand: &[String]) -> Result<Node, Reason> {
        let kind = match text(plan, "Join Type") {
            Some("Inner") => JoinKind::Inner,
            Some("Left") => JoinKind::Left,
            Some("Right") => JoinKind::Right,
            Some("Full") => JoinKind::Full,
            Some("Semi") => JoinKind::Semi,
            Some("Anti") => JoinKind::Anti,
            Some("Right Anti") => JoinKind::RightAnti,
            Some("Right Semi") => JoinKind::RightSemi,
            other => return Err(Reason::about(Cause::KindOfJoin, other.unwrap_or("?"))),
        };
        if let Some(f) = text(plan, "Filter") {
            // A condition on what an outer join gives.
            let mut unfiltered = plan.clone();
            if let Some(map) = unfiltered.as_object_mut() {
                map.remove("Filter");
            }
            return self
                .filtered(f, demand, |reader, all| reader.join(&unfiltered, condition, all));
        }
        let [outer, inner] = children(plan) else {
            return Err(Reason::new(Cause::PlanNotRead));
        };
        let (mut probe_aliases, mut build_aliases) = (Vec::new(), Vec::new());
        aliases(outer, &mut probe_aliases);
        aliases(inner, &mut build_aliases);
        let (probe_own, build_own) = (outputs(outer), outputs(inner));
        let nullable = (
            matches!(kind, JoinKind::Right | JoinKind::Full),
            matches!(kind, JoinKind::Left | JoinKind::Full),
        );
        let mut probe_demand = Vec::new();
        let mut build_demand = Vec::new();
        // The side that gives an expression, and what it is asked for; and whether the side
        // itself computes it before the join.
        let side_of = |e: &str| -> Result<(bool, String, bool), Reason> {
            let refuse = || Reason::about(Cause::ExpressionOverBoth, e);
            let names = expression::names(e).ok_or_else(refuse)?;
            if expression::reference(e).is_some() {
                let found =
                    (below(e, &probe_own).ok().flatten(), below(e, &build_own).ok().flatten());
                return match found {
                    (Some(text), None) => Ok((true, text, true)),
                    (None, Some(text)) => Ok((false, text, true)),
                    _ => Err(Reason::about(Cause::OutputNotFound, e)),
                };
            }
            if names.is_empty() {
                return Err(refuse());
            }
            if names.iter().all(|a| probe_aliases.contains(a)) {
                Ok((true, e.to_owned(), false))
            } else if names.iter().all(|a| build_aliases.contains(a)) {
                Ok((false, e.to_owned(), false))
            } else {
                Err(refuse())
            }
        };
        let mut keys = Vec::new();
        let pairs = text(plan, condition).and_then(expression::equalities);
        for (a, b) in pairs.ok_or(Reason::new(Cause::NotEquality))? {
            let (p, q) = match (side_of(&a)?, side_of(&b)?) {
                ((true, a, _), (false, b, _)) => (a, b),
                ((false, a, _), (true, b, _)) => (b, a),
                _ => return Err(Reason::new(Cause::NotEquality)),
            };
            keys.push((place(&mut probe_demand, &p), place(&mut build_demand, &q)));
        }
        let mut output = Vec::new();
        for d in demand {
            let (probe, lower, computed) = side_of(d)?;
            let null_extended = if probe { nullable.0 } else { nullable.1 };
            // Below an outer join only what is NULL for NULLs means the same as above it;
            // what the side itself computes home computes there too.
            if null_extended && !computed && !expression::is_strict(d) {
                return Err(Reason::about(Cause::ExpressionNullable, d));
            }
            output.push(if probe {
                Side::Probe(place(&mut probe_demand, &lower))
            } else {
                Side::Build(place(&mut build_demand, &lower))
            });
        }
        let filter = match text(plan, "Join Filter") {
            None => None,
            Some(f) => {
                let refuse = || Reason::about(Cause::ConditionOverBoth, f);
                let read = predicate::read(f).ok_or_else(refuse)?;
                let mut inputs = Vec::new();
                for e in &read.inputs {
                    let (probe, lower, _) = side_of(e)?;
                    inputs.push(if probe {
                        Side::Probe(place(&mut probe_demand, &lower))
                    } else {
                        Side::Build(place(&mut build_demand, &lower))
                    });
                }
                Some((inputs, read.predicates))
            }
        };
        let mut probe = self.node(outer, &probe_demand)?;
        let mut build = self.node(inner, &build_demand)?;
        // Where only existence counts each key is needed once: rows that repeat it would be
        // matched again and again.
        if filter.is_none() {
            match kind {
                JoinKind::Semi | JoinKind::Anti => build = distinct(build, build_demand.len()),
                JoinKind::RightSemi | JoinKind::RightAnti => {
                    probe = distinct(probe, probe_demand.len());
                }
                _ => {}
            }
        }
        Ok(Node::Join {
            filter,
            kind,
            probe: Box::new(probe),
            build: Box::new(build),
            keys,
            output,
        })
    }

    fn group(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        if text(plan, "Partial Mode").is_some_and(|m| m != "Simple")
            || plan.get("Grouping Sets").is_some()
            || text(plan, "Strategy") == Some("Mixed")
        {
            return Err(Reason::new(Cause::FoldInParts));
        }
        if let Some(f) = text(plan, "Filter") {
            let mut unfiltered = plan.clone();
            if let Some(map) = unfiltered.as_object_mut() {
                map.remove("Filter");
            }
            if f == correlated::KEPT_HERE {
                return self.group(&unfiltered, demand);
            }
            return self.filtered(f, demand, |reader, all| reader.group(&unfiltered, all));
        }
        let child = children(plan).first().ok_or(Reason::new(Cause::PlanNotRead))?;
        let group_keys: Vec<String> = plan
            .get("Group Key")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|s| s.trim().to_owned())
            .collect();
        // What is computed of the folds is asked of a fold without it.
        let child_own = outputs(child);
        let mut inner: Vec<String> = Vec::new();
        let mut columns = Vec::new();
        for d in demand {
            let own = below(d, &child_own)?.is_some()
                || expression::fold(d).is_some()
                || group_keys.contains(d);
            let mut inputs = Vec::new();
            let term = if own { None } else { term::read(d, &mut inputs) };
            columns.push(match term.filter(Term::is_computed) {
                Some(term) => {
                    let places: Vec<usize> = inputs.iter().map(|i| place(&mut inner, i)).collect();
                    term.placed(&|i| places.get(i).copied().unwrap_or(usize::MAX))
                }
                None => Term::Input(place(&mut inner, d)),
            });
        }
        if columns.iter().any(Term::is_computed) {
            let input = Box::new(self.fold(child, &child_own, &group_keys, &inner)?);
            return Ok(Node::Project { input, columns });
        }
        self.fold(child, &child_own, &group_keys, demand)
    }

    /// A fold; its arguments are computed here where that moves no more columns, else by
    /// whom the rows come from.
    fn fold(
        &mut self,
        child: &Value,
        child_own: &[String],
        group_keys: &[String],
        demand: &[String],
    ) -> Result<Node, Reason> {
        let here = self.moves_less(group_keys, demand);
        let fragments = self.fragments.len();
        let first = self.fold_with(child, child_own, group_keys, demand, here);
        first.or_else(|reason| {
            self.fragments.truncate(fragments);
            self.fold_with(child, child_own, group_keys, demand, !here).map_err(|_| reason)
        })
    }

    /// Whether all computed arguments of folds together need no more columns than they are.
    fn moves_less(&self, group_keys: &[String], demand: &[String]) -> bool {
        let mut plain: Vec<String> = group_keys.to_vec();
        let mut leaves: Vec<String> = Vec::new();
        let mut computed: Vec<String> = Vec::new();
        for d in demand {
            match expression::fold(d) {
                Some((_, Some(a), _)) => match self.exact(&a) {
                    Some((_, inputs)) => {
                        leaves.extend(inputs);
                        place(&mut computed, &a);
                    }
                    None => plain.push(a),
                },
                _ => plain.push(d.clone()),
            }
        }
        leaves.retain(|l| !plain.contains(l));
        leaves.sort();
        leaves.dedup();
        !computed.is_empty() && leaves.len() <= computed.len()
    }

    /// A computed numeric over columns that the engine holds with a known scale.
    fn exact(&self, text: &str) -> Option<(Term, Vec<String>)> {
        let mut inputs = Vec::new();
        let term = term::read(text, &mut inputs).filter(Term::is_computed)?;
        let known = |i: &String| {
            let (alias, column) = expression::column_of(i)?;
            let (_, relation) = self.aliases.iter().find(|(a, _)| *a == alias)?;
            let columns = self.known.relations.get(*relation)?.columns.as_deref()?;
            let column = columns.iter().find(|c| c.name == column)?;
            let held =
                matches!(column.type_oid, 21 | 23) || column.type_oid == 1700 && column.typmod > 0;
            held.then_some(())
        };
        inputs.iter().all(|i| known(i).is_some()).then_some((term, inputs))
    }

    fn fold_with(
        &mut self,
        child: &Value,
        child_own: &[String],
        group_keys: &[String],
        demand: &[String],
        here: bool,
    ) -> Result<Node, Reason> {
        let mut input_demand: Vec<String> = Vec::new();
        let mut computed: Vec<Term> = Vec::new();
        let mut keys: Vec<usize> = Vec::new();
        for key in group_keys {
            keys.push(place(&mut input_demand, key));
        }
        let mut folds: Vec<Fold> = Vec::new();
        let mut wanted: Vec<Result<usize, usize>> = Vec::new();
        // Places of computed arguments are told apart until the columns are counted.
        const COMPUTED: usize = usize::MAX / 2;
        for d in demand {
            // EXPLAIN prints the keys in the words of the node below.
            let lower = below(d, child_own)?;
            if let Some(k) = lower.as_ref().and_then(|l| group_keys.iter().position(|g| g == l)) {
                wanted.push(Ok(k));
                continue;
            }
            if let Some((function, argument, distinct)) = expression::fold(d) {
                let argument = match argument {
                    None => None,
                    Some(a) => {
                        let exact = if here { self.exact(&a) } else { None };
                        Some(match (exact, below(&a, child_own)?) {
                            (Some((term, inputs)), None) => {
                                let places: Vec<usize> =
                                    inputs.iter().map(|i| place(&mut input_demand, i)).collect();
                                let term =
                                    term.placed(&|i| places.get(i).copied().unwrap_or(COMPUTED));
                                let at = computed.iter().position(|t| *t == term);
                                COMPUTED
                                    + at.unwrap_or_else(|| {
                                        computed.push(term);
                                        computed.len() - 1
                                    })
                            }
                            (_, lower) => place(&mut input_demand, &lower.unwrap_or(a)),
                        })
                    }
                };
                let fold = Fold { function, argument, distinct };
                let at = folds.iter().position(|f| *f == fold).unwrap_or_else(|| {
                    folds.push(fold);
                    folds.len() - 1
                });
                wanted.push(Err(at));
                continue;
            }
            // A column that depends on the keys is one more key that changes nothing.
            if expression::is_column(d) {
                let column = place(&mut input_demand, d);
                let k = keys.iter().position(|k| *k == column).unwrap_or_else(|| {
                    keys.push(column);
                    keys.len() - 1
                });
                wanted.push(Ok(k));
                continue;
            }
            return Err(Reason::about(Cause::ExpressionOverGroups, d));
        }
        let mut input = self.node(child, &input_demand)?;
        if !computed.is_empty() {
            let columns = (0..input_demand.len()).map(Term::Input).chain(computed).collect();
            input = Node::Project { input: Box::new(input), columns };
            for argument in folds.iter_mut().filter_map(|f| f.argument.as_mut()) {
                *argument = match argument.checked_sub(COMPUTED) {
                    Some(n) => input_demand.len() + n,
                    None => *argument,
                };
            }
        }
        let output = wanted.into_iter().map(|w| w.unwrap_or_else(|f| keys.len() + f)).collect();
        Ok(super::early::fold_early(Node::Group { input: Box::new(input), keys, folds, output }))
    }

    /// A subquery's columns by their names: its own output has their order.
    fn subquery(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        let odd = || Reason::new(Cause::PlanNotRead);
        let alias = text(plan, "Alias").ok_or_else(odd)?;
        let child = children(plan).first().ok_or_else(odd)?;
        let refuse = || Reason::about(Cause::NoPlainNames, alias);
        let mut named = self.known.subqueries.iter().filter(|(a, _)| a == alias);
        let (Some((_, names)), None) = (named.next(), named.next()) else {
            return Err(refuse());
        };
        let own = outputs(child);
        // EXPLAIN tells columns of one name apart by names of its own.
        let named = |n: &&String| !n.is_empty();
        let twice = |n: &String| names.iter().filter(|other| *other == n).count() > 1;
        if names.iter().filter(named).any(twice) {
            return Err(refuse());
        }
        let mut inner = Vec::new();
        let mut places = Vec::new();
        for d in demand {
            let column = expression::column(d).ok_or_else(refuse)?;
            let mut same = names.iter().enumerate().filter(|(_, n)| **n == column);
            let (Some((i, _)), None) = (same.next(), same.next()) else { return Err(refuse()) };
            places.push(Term::Input(place(&mut inner, own.get(i).ok_or_else(refuse)?)));
        }
        let input = Box::new(self.node(child, &inner)?);
        Ok(Node::Project { input, columns: places })
    }

    /// The arms of a UNION ALL. Members of a family of tables are refused: which there are
    /// may change.
    fn append(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        let odd = || Reason::new(Cause::PlanNotRead);
        let own = outputs(plan);
        if (1..own.len()).any(|i| own[..i].contains(&own[i])) {
            // What is one thing in the first arm may be two in another.
            return Err(Reason::new(Cause::ArmTwice));
        }
        let mut places = Vec::new();
        for d in demand {
            let lower = below(d, &own)?.unwrap_or_else(|| d.clone());
            places.push(own.iter().position(|o| *o == lower).ok_or_else(odd)?);
        }
        let mut inputs = Vec::new();
        for arm in children(plan) {
            let below = kind(passed(arm));
            if !matches!(below, "Foreign Scan" | "Subquery Scan") {
                return Err(Reason::about(Cause::ArmOfAppend, below));
            }
            if below == "Subquery Scan" && !(0..own.len()).all(|i| places.contains(&i)) {
                // It may be there for a cast, which EXPLAIN does not print, and which may fail.
                return Err(Reason::new(Cause::UnneededUnionColumn));
            }
            let outputs = outputs(arm);
            let lower: Option<Vec<String>> =
                places.iter().map(|i| outputs.get(*i).cloned()).collect();
            inputs.push(self.node(arm, &lower.ok_or_else(odd)?)?);
        }
        Ok(Node::Union { inputs })
    }

    /// What a node gives, filtered by a condition that the engine evaluates.
    fn filtered(
        &mut self,
        condition: &str,
        demand: &[String],
        node: impl FnOnce(&mut Self, &[String]) -> Result<Node, Reason>,
    ) -> Result<Node, Reason> {
        let refuse = || Reason::about(Cause::ConditionNotEvaluated, condition);
        let read = predicate::read(condition).ok_or_else(refuse)?;
        let mut all = demand.to_vec();
        let inputs = read.inputs.iter().map(|e| place(&mut all, e)).collect();
        let input = Box::new(node(self, &all)?);
        Ok(Node::Filter { input, inputs, predicates: read.predicates, columns: demand.len() })
    }

    fn unique(&mut self, plan: &Value, demand: &[String]) -> Result<Node, Reason> {
        if !self.known.distinct_rows {
            return Err(Reason::new(Cause::DistinctOn));
        }
        let child = children(plan).first().ok_or(Reason::new(Cause::PlanNotRead))?;
        let own = outputs(plan);
        let child_own = outputs(child);
        let lower: Vec<String> = own
            .iter()
            .map(|d| Ok(below(d, &child_own)?.unwrap_or_else(|| d.clone())))
            .collect::<Result<_, Reason>>()?;
        let input = self.node(child, &lower)?;
        let keys: Vec<usize> = (0..own.len()).collect();
        let output = demand.iter().map(|d| own.iter().position(|o| o == d)).collect::<Option<_>>();
        let output = output.ok_or(Reason::new(Cause::PlanNotRead))?;
        Ok(Node::Group { input: Box::new(input), keys, folds: Vec::new(), output })
    }
}

/// Each row once.
fn distinct(input: Node, columns: usize) -> Node {
    let all: Vec<usize> = (0..columns).collect();
    Node::Group { input: Box::new(input), keys: all.clone(), folds: Vec::new(), output: all }
}
