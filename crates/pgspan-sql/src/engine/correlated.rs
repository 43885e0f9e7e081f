//! Subqueries that home's planner can only run again for each row of the query around
//! them: `x < (SELECT 0.2 * avg(y) FROM t WHERE t.k = outer.k AND …)`. Each becomes a
//! subquery in FROM that is grouped by its side of the equalities, and a join.
//!
//! That is the same where the value is compared at the top of WHERE and is NULL without
//! rows: then the comparison keeps no row that the join drops. Rows of `t` with `k` equal
//! to `outer.k` are one whole group, because the engine only joins types whose equality
//! is that of their groups. What the subquery computes for keys that the query around it
//! does not have could fail where PostgreSQL never looks; the engine then gives up.

use super::expression::{bare, split};
use super::shape::{has_subqueries, is_star, plain_call};
use crate::analyze::Analysis;
use crate::parse::{Lexeme, closing, lex, node, parse, strings, top_level, visit};
use crate::remote::where_conditions;
use pg_query::protobuf::Token;
use serde_json::Value;

/// How EXPLAIN prints the condition that keeps a fold from being shipped: postgres_fdw does
/// not ship `now()`. It holds for every group, one of no rows included, whoever has written it.
pub const KEPT_HERE: &str = "(count(now()) >= 0)";
const KEEP_HERE: &str = "pg_catalog.count(pg_catalog.now()) OPERATOR(pg_catalog.>=) 0";

/// A subquery that may be rewritten, if home agrees with what its names mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlated {
    /// Bytes of the subquery with its parentheses.
    span: (usize, usize),
    /// Where FROM ends and WHERE begins in the query around it.
    outer: (usize, usize),
    /// Its FROM.
    from: String,
    /// Equalities of columns.
    pub pairs: Vec<(String, String)>,
    /// Its other conditions.
    rest: Vec<String>,
    /// What it selects, and the same without avg.
    target: (String, String),
    /// Arguments of avg, with their parentheses.
    averaged: Vec<String>,
}

/// What home says of one of the two sides of an equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// It is a column of the subquery's own tables.
    Inner,
    /// It is not.
    Outer,
}

impl Correlated {
    /// Fails at home when a column is not one of the subquery's own tables.
    pub fn scope_question(&self, column: &str) -> String {
        format!("SELECT {column} FROM {}", self.from)
    }

    /// The subquery by itself, once it is known which side of each equality is its own:
    /// its keys, its value twice (as written, and without avg), the sums of what avg
    /// averages. `None` when it does not stand by itself.
    pub fn alone(&self, scopes: &[(Scope, Scope)]) -> Option<String> {
        let (keys, _, rest) = self.sorted(scopes)?;
        let mut list: Vec<String> = keys.clone();
        list.push(self.target.0.clone());
        list.push(self.target.1.clone());
        list.extend(self.averaged.iter().map(|a| format!("pg_catalog.sum{a}")));
        Some(format!("SELECT {} FROM {}{}", list.join(", "), self.from, grouped(&rest, keys.len())))
    }

    /// Whether the types of what [`Correlated::alone`] selects allow the rewriting: the
    /// value has its own type, and what is averaged is summed exactly (int8 or numeric).
    pub fn admits(&self, types: &[u32]) -> bool {
        let keys = types.len().checked_sub(2 + self.averaged.len());
        let values = keys.and_then(|k| types.get(k..));
        values.is_some_and(|v| match v {
            [written, new, sums @ ..] => {
                written == new && sums.iter().all(|s| matches!(s, 20 | 1700))
            }
            _ => false,
        })
    }

    /// The statement with the subquery joined under a name that nothing else in it has.
    pub fn rewritten(&self, text: &str, scopes: &[(Scope, Scope)], name: &str) -> Option<String> {
        let (keys, outer, rest) = self.sorted(scopes)?;
        let list: Vec<String> =
            keys.iter().zip(1..).map(|(k, i)| format!("{k} AS pgspan_k{i}")).collect();
        let equal: String =
            outer.iter().zip(1..).map(|(o, i)| format!(" {name}.pgspan_k{i} = {o} AND")).collect();
        let (from_end, where_end) = self.outer;
        Some(format!(
            "{}, (SELECT {}, {} AS pgspan_v FROM {}{} HAVING {KEEP_HERE}) AS {name} {}{equal}{}{name}.pgspan_v{}",
            text.get(..from_end)?.trim_end(),
            list.join(", "),
            self.target.1,
            self.from,
            grouped(&rest, keys.len()),
            text.get(from_end..where_end)?,
            text.get(where_end..self.span.0)?,
            text.get(self.span.1..)?,
        ))
    }

    /// Own keys, the outer columns that they equal, and all other conditions.
    fn sorted(&self, scopes: &[(Scope, Scope)]) -> Option<(Vec<String>, Vec<String>, Vec<String>)> {
        let (mut keys, mut outer, mut rest) = (Vec::new(), Vec::new(), self.rest.clone());
        for ((a, b), scope) in self.pairs.iter().zip(scopes) {
            let (own, other) = match scope {
                (Scope::Inner, Scope::Inner) => {
                    rest.push(format!("{a} = {b}"));
                    continue;
                }
                (Scope::Inner, Scope::Outer) => (a, b),
                (Scope::Outer, Scope::Inner) => (b, a),
                (Scope::Outer, Scope::Outer) => return None,
            };
            keys.push(own.clone());
            outer.push(other.clone());
        }
        (!keys.is_empty()).then_some((keys, outer, rest))
    }
}

fn grouped(rest: &[String], keys: usize) -> String {
    let places: Vec<String> = (1..=keys).map(|i| i.to_string()).collect();
    let all: Vec<String> = rest.iter().map(|r| format!("({r})")).collect();
    let condition =
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) };
    format!("{condition} GROUP BY {}", places.join(", "))
}

/// The subqueries of a statement that may be joined instead.
pub fn find(text: &str, (a, select): (&Analysis, &Value)) -> Vec<Correlated> {
    let tokens = lex(text);
    let mut out = Vec::new();
    let mut of = |query: &Value| {
        let items = |key: &str| query[key].as_array().map_or(&[][..], Vec::as_slice);
        let star = items("target_list").iter().any(|t| is_star(&t["node"]["ResTarget"]["val"]));
        if query["op"] != 1 || star || items("from_clause").is_empty() {
            return;
        }
        for condition in conjuncts(&query["where_clause"]) {
            let Some(("AExpr", body)) = node(condition) else { continue };
            let operator = strings(&body["name"]).unwrap_or_default();
            if body["kind"] != 1
                || !matches!(operator.as_slice(), ["=" | "<>" | "<" | "<=" | ">" | ">="])
            {
                continue;
            }
            let found: Vec<Correlated> = ["lexpr", "rexpr"]
                .iter()
                .filter_map(|side| match node(&body[*side]) {
                    Some(("SubLink", link)) if link["sub_link_type"] == 5 => {
                        read(text, &tokens, link)
                    }
                    _ => None,
                })
                // Home is asked about it by itself.
                .filter(|c: &Correlated| a.stands_alone(c.span))
                .collect();
            if let [one] = found.as_slice() {
                out.push(one.clone());
            }
        }
    };
    of(select);
    visit(select, &mut |name, body| {
        if name == "SelectStmt" {
            of(body);
        }
    });
    out
}

fn conjuncts(tree: &Value) -> Vec<&Value> {
    match node(tree) {
        Some(("BoolExpr", body)) if body["boolop"] == 1 => {
            body["args"].as_array().into_iter().flatten().collect()
        }
        Some(_) => vec![tree],
        None => Vec::new(),
    }
}

fn read(text: &str, tokens: &[Lexeme], link: &Value) -> Option<Correlated> {
    let at = usize::try_from(link["location"].as_u64()?).ok()?;
    let open = tokens.iter().position(|t| t.start >= at && t.is_char(b'('))?;
    let close = closing(tokens, open)?;
    let outer = outer_where(tokens, open)?;
    let own = text.get(tokens[open].end..tokens[close].start)?;
    let statement = parse(own)?;
    let select = statement.nodes.first()?.get("SelectStmt")?;
    let empty = |key: &str| match &select[key] {
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    };
    let plain = select["op"] == 1
        && ["distinct_clause", "group_clause", "having_clause", "window_clause", "sort_clause"]
            .iter()
            .chain(&["limit_count", "limit_offset", "locking_clause", "with_clause"])
            .all(|k| empty(k));
    let mut parameter = false;
    visit(select, &mut |name, _| parameter |= name == "ParamRef");
    let [target] = select["target_list"].as_array()?.as_slice() else { return None };
    let target_body = &target["node"]["ResTarget"];
    if !plain || parameter || target_body["name"].as_str().is_some_and(|n| !n.is_empty()) {
        return None;
    }
    let clauses = lex(own);
    let from = top_level(&clauses, Token::From)?;
    let where_ = top_level(&clauses, Token::Where)?;
    let list = (clauses.first()?.end, clauses[from].start);
    let (mut averages, mut averaged) = (Vec::new(), Vec::new());
    if !strict(&target_body["val"], own, &clauses, &mut averages, &mut averaged)? {
        return None;
    }
    averages.sort_unstable_by_key(|(span, _)| *span);
    let mut without = String::new();
    let mut done = list.0;
    for ((start, end), new) in averages {
        without.push_str(own.get(done..start)?);
        without.push_str(&new);
        done = end;
    }
    without.push_str(own.get(done..list.1)?);
    let texts = where_conditions(own, select)?;
    let (mut pairs, mut rest) = (Vec::new(), Vec::new());
    for (tree, text) in conjuncts(&select["where_clause"]).into_iter().zip(&texts) {
        match equality(tree, text) {
            Some(pair) => pairs.push(pair),
            None => rest.push(text.clone()),
        }
    }
    if pairs.is_empty() {
        return None;
    }
    Some(Correlated {
        span: (tokens[open].start, tokens[close].end),
        outer,
        from: own.get(clauses[from].end..clauses[where_].start)?.trim().to_owned(),
        pairs,
        rest,
        target: (own.get(list.0..list.1)?.trim().to_owned(), without.trim().to_owned()),
        averaged,
    })
}

/// Bytes where FROM ends and where WHERE has been said, in the query around a subquery
/// that stands in no further parentheses.
fn outer_where(tokens: &[Lexeme], open: usize) -> Option<(usize, usize)> {
    let mut depth = 0i32;
    for t in tokens.get(..open)?.iter().rev() {
        depth += i32::from(t.is_char(b')')) - i32::from(t.is_char(b'('));
        if depth < 0 {
            return None;
        }
        if depth == 0 && t.token == Token::Where as i32 {
            return Some((t.start, t.end));
        }
    }
    None
}

/// `a = b` of two columns.
fn equality(tree: &Value, text: &str) -> Option<(String, String)> {
    let ("AExpr", body) = node(tree)? else { return None };
    let column = |v: &Value| matches!(node(v), Some(("ColumnRef", _))) && !is_star(v);
    let plain = body["kind"] == 1
        && strings(&body["name"])?.as_slice() == ["="]
        && column(&body["lexpr"])
        && column(&body["rexpr"]);
    let sides = split(bare(text), |t| t.is_char(b'='));
    match sides.as_slice() {
        [a, b] if plain => Some((a.trim().to_owned(), b.trim().to_owned())),
        _ => None,
    }
}

/// The bytes of a call of avg, and what says the same without it.
type Average = ((usize, usize), String);

/// Whether an expression is NULL when there are no rows, and fails for none: arithmetic
/// over at least one of sum, avg, min and max. Notes the calls of avg.
fn strict(
    tree: &Value,
    text: &str,
    tokens: &[Lexeme],
    averages: &mut Vec<Average>,
    averaged: &mut Vec<String>,
) -> Option<bool> {
    let (name, body) = node(tree)?;
    match name {
        "AConst" => {
            let number = body.pointer("/val/Ival").or(body.pointer("/val/Fval"));
            number.map(|_| false)
        }
        "AExpr" if body["kind"] == 1 && !body["lexpr"].is_null() => {
            let operator = strings(&body["name"])?;
            let left = strict(&body["lexpr"], text, tokens, averages, averaged)?;
            let right = strict(&body["rexpr"], text, tokens, averages, averaged)?;
            match operator.as_slice() {
                ["+" | "-" | "*"] => Some(left || right),
                ["/"] if !right && !is_zero(&body["rexpr"]) => Some(left),
                _ => None,
            }
        }
        "FuncCall" => {
            let path = strings(&body["funcname"])?;
            let [function] = path.as_slice() else { return None };
            if !plain_call(body) || body["agg_distinct"] == true || body["agg_star"] == true {
                return None;
            }
            if has_subqueries(&body["args"]) {
                return None;
            }
            match *function {
                "sum" | "min" | "max" => Some(true),
                "avg" => {
                    let at = usize::try_from(body["location"].as_u64()?).ok()?;
                    let first = tokens.iter().position(|t| t.start == at)?;
                    let open = first + 1;
                    let close = closing(tokens, open)?;
                    let arguments = text.get(tokens[open].start..tokens[close].end)?;
                    averages.push((
                        (at, tokens[close].end),
                        // numeric.c: numeric_avg, int8_avg.
                        format!(
                            "(pg_catalog.sum{arguments}::pg_catalog.numeric OPERATOR(pg_catalog./) pg_catalog.count{arguments}::pg_catalog.numeric)"
                        ),
                    ));
                    averaged.push(arguments.to_owned());
                    Some(true)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a literal, which is no expression here, is zero.
fn is_zero(tree: &Value) -> bool {
    let integer = tree.pointer("/node/AConst/val/Ival").map(|i| i["ival"].as_i64().unwrap_or(0));
    let float = tree.pointer("/node/AConst/val/Fval/fval").and_then(Value::as_str);
    match (integer, float) {
        (Some(n), _) => n == 0,
        (None, Some(f)) => f.bytes().all(|b| matches!(b, b'0' | b'.')),
        _ => true,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analyze::analyze;
    use crate::catalog::CatalogSnapshot;
    use crate::parse::select_value;

    fn of(sql: &str) -> Vec<Correlated> {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        let functions = ["sum", "avg", "count"].map(|f| (f.to_owned(), true)).into();
        let catalog = CatalogSnapshot::new(names(&["t", "l"]), functions, names(&[]), names(&[]));
        let analysis = analyze(sql, &catalog).unwrap();
        find(sql, (&analysis, &select_value(sql).unwrap()))
    }

    #[test]
    fn a_correlated_average_becomes_a_join() {
        let sql = "SELECT sum(p) FROM l, t WHERE t.k = l.k AND q < (SELECT 0.2 * avg(q) FROM l WHERE l.k = t.k AND l.d > 5) AND t.x = 1";
        let found = of(sql);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(one.pairs, [("l.k".to_owned(), "t.k".to_owned())]);
        assert_eq!(one.scope_question("l.k"), "SELECT l.k FROM l");
        let scopes = [(Scope::Inner, Scope::Outer)];
        assert_eq!(
            one.rewritten(sql, &scopes, "pgspan_d1").unwrap(),
            "SELECT sum(p) FROM l, t, (SELECT l.k AS pgspan_k1, 0.2 * (pg_catalog.sum(q)::pg_catalog.numeric \
             OPERATOR(pg_catalog./) pg_catalog.count(q)::pg_catalog.numeric) AS pgspan_v FROM l WHERE (l.d > 5) \
             GROUP BY 1 HAVING pg_catalog.count(pg_catalog.now()) OPERATOR(pg_catalog.>=) 0) AS pgspan_d1 \
             WHERE pgspan_d1.pgspan_k1 = t.k AND t.k = l.k AND q < pgspan_d1.pgspan_v AND t.x = 1"
        );
        assert!(one.admits(&[23, 1700, 1700, 20]));
        assert!(!one.admits(&[23, 701, 1700, 701]));
        assert_eq!(one.alone(&[(Scope::Outer, Scope::Outer)]), None);
    }

    #[test]
    fn what_stays() {
        for sql in [
            // Not NULL without rows.
            "SELECT 1 FROM t WHERE x < (SELECT count(q) FROM l WHERE l.k = t.k)",
            "SELECT 1 FROM t WHERE x < (SELECT coalesce(sum(q), 0) FROM l WHERE l.k = t.k)",
            // Not at the top of WHERE.
            "SELECT 1 FROM t WHERE x < (SELECT sum(q) FROM l WHERE l.k = t.k) OR y = 1",
            "SELECT 1 FROM t WHERE NOT x < (SELECT sum(q) FROM l WHERE l.k = t.k)",
            "SELECT (SELECT sum(q) FROM l WHERE l.k = t.k) FROM t",
            // No equality of columns, more columns, groups of its own.
            "SELECT 1 FROM t WHERE x < (SELECT sum(q) FROM l WHERE l.k > t.k)",
            "SELECT * FROM t WHERE x < (SELECT sum(q) FROM l WHERE l.k = t.k)",
            "SELECT 1 FROM t WHERE x < (SELECT sum(q) FROM l WHERE l.k = t.k GROUP BY l.y)",
            "SELECT 1 FROM t WHERE x < (SELECT sum(q) / 0 FROM l WHERE l.k = t.k)",
            "SELECT 1 FROM t WHERE x < (SELECT q FROM l WHERE l.k = t.k)",
            // By itself the name of the WITH query means the table.
            "WITH l AS (SELECT 1 AS q) SELECT 1 FROM t WHERE x < (SELECT sum(q) FROM l WHERE l.k = t.k)",
        ] {
            assert!(of(sql).is_empty(), "{sql}");
        }
    }
}
