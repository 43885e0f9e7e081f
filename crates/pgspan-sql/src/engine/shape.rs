//! Questions about the tree of a SELECT.

use super::block;
use crate::parse::{COMPARISONS, node, strings, visit};
use serde_json::Value;

/// Aggregates whose calls may be taken into the core.
const AGGREGATES: &[&str] = &["count", "sum", "avg", "min", "max"];

/// LIMIT plus OFFSET, when both are plain numbers.
pub(super) fn rows_wanted(select: &Value) -> Option<u64> {
    let number =
        |v: &Value| v.pointer("/node/AConst/val/Ival").map(|i| i["ival"].as_u64().unwrap_or(0));
    let limit = number(&select["limit_count"])?;
    let offset = match &select["limit_offset"] {
        Value::Null => 0,
        other => number(other)?,
    };
    // WITH TIES counts by all sort keys, which a superset by the first serves too.
    limit.checked_add(offset)
}

/// The rows after which PostgreSQL can stop: those of a LIMIT over inner joins of tables,
/// without an order, a fold or anything else that reads all rows first.
pub fn stops_after(select: &Value) -> Option<u64> {
    let none = |key: &str| match &select[key] {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let whole = ["sort_clause", "distinct_clause", "group_clause", "having_clause", "with_clause"];
    if select["op"] != 1 || !whole.iter().all(|key| none(key)) {
        return None;
    }
    let mut reads_all = false;
    visit(&select["from_clause"], &mut |name, body| {
        // JOIN_INNER
        reads_all |= name == "RangeSubselect" || name == "JoinExpr" && body["jointype"] != 1;
    });
    let targets = &select["target_list"];
    reads_all |= has_subqueries(&select["where_clause"])
        || has_subqueries(targets)
        || has_windows(targets)
        || has_aggregate(targets);
    rows_wanted(select).filter(|_| !reads_all)
}

/// Whether what is computed of a row or a group could fail, or give several rows for one: then it
/// must be computed of all of them. What aggregates are of is computed before.
pub(super) fn may_fail(value: &Value) -> bool {
    let below = |value: &Value| match value {
        Value::Array(items) => items.iter().any(may_fail),
        Value::Object(map) => map.values().any(may_fail),
        _ => false,
    };
    fn constant(value: &Value) -> bool {
        match node(value) {
            Some(("AConst", _)) => true,
            Some(("List", list)) => {
                list["items"].as_array().is_some_and(|i| i.iter().all(constant))
            }
            _ => false,
        }
    }
    // Of two types one is cast to the other's, which nobody writes. A literal is of the other's.
    let one_type =
        |values: &[&Value]| values.iter().filter(|v| !v.is_null() && !constant(v)).count() <= 1;
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    match node(value) {
        Some(("FuncCall", body)) => !is_aggregate(body),
        Some(("AExpr", body)) => {
            let operator = strings(&body["name"]).unwrap_or_default();
            !matches!(operator[..], [name] if COMPARISONS.contains(&name) || name.contains("BETWEEN"))
                || !one_type(&[&body["lexpr"], &body["rexpr"]])
                || below(body)
        }
        Some(("CaseExpr", body)) => {
            let arms = list(&body["args"]);
            let mut results: Vec<&Value> =
                arms.iter().map(|arm| &arm["node"]["CaseWhen"]["result"]).collect();
            results.push(&body["defresult"]);
            !one_type(&results) || !body["arg"].is_null() || below(body)
        }
        Some(("CoalesceExpr" | "MinMaxExpr", body)) => {
            let args = list(&body["args"]);
            !one_type(&args.iter().collect::<Vec<_>>()) || below(body)
        }
        // A constant is read once.
        Some(("TypeCast", body)) => !matches!(node(&body["arg"]), Some(("AConst", _))),
        Some(("AIndirection" | "XmlExpr" | "XmlSerialize", _)) => true,
        _ => below(value),
    }
}

/// The conditions of a HAVING that must all hold.
pub(super) fn conjuncts(having: &Value) -> Vec<&Value> {
    match node(having) {
        // AND_EXPR
        Some(("BoolExpr", body)) if body["boolop"] == 1 => {
            body["args"].as_array().into_iter().flatten().flat_map(conjuncts).collect()
        }
        Some(_) => vec![having],
        None => Vec::new(),
    }
}

/// The names of the functions that are called outside of aggregates.
pub(super) fn calls(value: &Value) -> Vec<String> {
    fn walk(value: &Value, out: &mut Vec<String>) {
        match (node(value), value) {
            (Some(("FuncCall", body)), _) if is_aggregate(body) => {}
            (Some(("FuncCall", body)), _) => {
                let path = strings(&body["funcname"]).unwrap_or_default();
                out.extend(path.last().map(|n| (*n).to_owned()));
                walk(&body["args"], out);
                walk(&body["over"], out);
            }
            (_, Value::Array(items)) => items.iter().for_each(|v| walk(v, out)),
            (_, Value::Object(map)) => map.values().for_each(|v| walk(v, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(value, &mut out);
    out
}

/// Whether there is a DISTINCT ON, at any level.
pub fn distinct_on(select: &Value) -> bool {
    // Both sides of a set operation are queries and no nodes.
    fn own(query: &Value) -> bool {
        let list = query["distinct_clause"].as_array();
        list.is_some_and(|list| list.iter().any(|n| node(n).is_some()))
            || ["larg", "rarg"].iter().any(|side| !query[side].is_null() && own(&query[side]))
    }
    let mut found = own(select);
    visit(select, &mut |name, body| found |= name == "SelectStmt" && own(body));
    found
}

/// Whether there is an INTERSECT or EXCEPT, at any level.
pub fn intersects(select: &Value) -> bool {
    // Both sides of a set operation are queries and no nodes.
    fn is(query: &Value) -> bool {
        query["op"] == 3
            || query["op"] == 4
            || ["larg", "rarg"].iter().any(|side| !query[side].is_null() && is(&query[side]))
    }
    let mut found = is(select);
    visit(select, &mut |name, body| found |= name == "SelectStmt" && is(body));
    found
}

/// Whether there is a COLLATE, at any level: EXPLAIN does not print it.
pub fn collates(select: &Value) -> bool {
    let mut found = false;
    visit(select, &mut |name, _| found |= name == "CollateClause");
    found
}

/// Types of `pg_catalog` whose values compare by the default collation, or by none.
const PLAIN_TYPES: &[&str] = &[
    "bit",
    "bool",
    "bpchar",
    "bytea",
    "char",
    "date",
    "float4",
    "float8",
    "int2",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "money",
    "numeric",
    "oid",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "uuid",
    "varbit",
    "varchar",
];

/// A cast to a type that may bring a collation of its own: a domain, a row, `name`, or any
/// that is not known.
pub fn odd_cast(select: &Value) -> Option<String> {
    let mut odd = None;
    visit(select, &mut |name, body| {
        if name != "TypeCast" {
            return;
        }
        let path = strings(&body["type_name"]["names"]).unwrap_or_default();
        let plain = match path.as_slice() {
            [name] | ["pg_catalog", name] => PLAIN_TYPES.contains(name),
            _ => false,
        };
        if !plain {
            odd = Some(path.join("."));
        }
    });
    odd
}

/// Whether there is a subquery in an expression.
pub(super) fn has_subqueries(value: &Value) -> bool {
    let mut found = false;
    visit(value, &mut |name, _| found |= name == "SubLink");
    found
}

/// Whether a window function is called.
pub(super) fn has_windows(value: &Value) -> bool {
    let mut found = false;
    visit(value, &mut |name, body| found |= name == "FuncCall" && !body["over"].is_null());
    found
}

pub(super) fn is_aggregate(body: &Value) -> bool {
    let path = strings(&body["funcname"]).unwrap_or_default();
    body["over"].is_null() && path.last().is_some_and(|f| AGGREGATES.contains(f))
}

/// A call of an aggregate with nothing but arguments: no window, FILTER, ORDER BY, VARIADIC.
pub(crate) fn plain_call(body: &Value) -> bool {
    body["agg_filter"].is_null()
        && body["over"].is_null()
        && body["agg_order"].as_array().is_none_or(Vec::is_empty)
        && body["agg_within_group"] == false
        && body["func_variadic"] == false
}

pub(super) fn has_aggregate(value: &Value) -> bool {
    let mut found = false;
    visit(value, &mut |name, body| found |= name == "FuncCall" && is_aggregate(body));
    found
}

pub(super) fn is_star(value: &Value) -> bool {
    let fields = match node(value) {
        Some(("ColumnRef", body)) => body["fields"].as_array(),
        _ => None,
    };
    fields.and_then(|f| node(f.last()?)).is_some_and(|(n, _)| n == "AStar")
}

pub(super) fn column_ref(value: &Value) -> bool {
    matches!(node(value), Some(("ColumnRef", _)))
}

pub(super) fn bare_name(value: &Value) -> Option<&str> {
    match node(value)? {
        ("ColumnRef", body) => match strings(&body["fields"])?.as_slice() {
            [one] => Some(*one),
            _ => None,
        },
        _ => None,
    }
}

/// The column names of the subqueries in FROM and in WITH, by their alias; an alias that
/// is used twice, or a column without a plain name, is left out.
pub fn subquery_columns(select: &Value) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Option<Vec<String>>)> = Vec::new();
    let mut note = |alias: Option<&str>, renamed: &Value, query: &Value| {
        let Some(alias) = alias else { return };
        let names = result_names(query, renamed);
        match found.iter_mut().find(|(a, _)| a == alias) {
            Some(twice) => twice.1 = None,
            None => found.push((alias.to_owned(), names)),
        }
    };
    visit(select, &mut |name, body| match name {
        "RangeSubselect" => {
            let alias = body.pointer("/alias/aliasname").and_then(Value::as_str);
            note(alias, &body["alias"]["colnames"], &body["subquery"]);
        }
        "CommonTableExpr" => {
            note(body["ctename"].as_str(), &body["aliascolnames"], &body["ctequery"]);
        }
        _ => {}
    });
    let written = found.len();
    // The arms of the only set operation (analyze.c: transformSetOperationTree). Their
    // columns are meant by place, so that every name must be known.
    let mut operations = Vec::new();
    visit(select, &mut |name, body| {
        if name == "SelectStmt" && !block::leaf(body) {
            operations.push(body);
        }
    });
    if let [only] = operations.as_slice() {
        let mut arms = Vec::new();
        block::leaves(only, &mut arms);
        for (arm, n) in arms.into_iter().zip(1..) {
            let names = names_of(arm, &Value::Null).filter(|names| !names.contains(&String::new()));
            found.push((format!("*SELECT* {n}"), names));
        }
    }
    // EXPLAIN tells a subquery by its alias alone: a table or another reference of that
    // name makes it unclear. A WITH query is spoken of by its own name, once.
    let mut uses: Vec<(String, bool)> = Vec::new();
    visit(select, &mut |name, body| {
        if name == "RangeVar" {
            let alias = body.pointer("/alias/aliasname").and_then(Value::as_str);
            let name = alias.or(body["relname"].as_str()).unwrap_or("");
            uses.push((name.to_owned(), alias.is_some()));
        }
    });
    let mut queries: Vec<String> = Vec::new();
    visit(select, &mut |name, body| {
        if name == "CommonTableExpr" {
            queries.extend(body["ctename"].as_str().map(str::to_owned));
        }
    });
    // Names that PostgreSQL itself gives to what has none (analyze.c, from 16 on
    // parse_relation.c): a client's own of that kind cannot be told from them.
    let given =
        |alias: &str| alias.starts_with("*SELECT*") || alias.starts_with("unnamed_subquery");
    let clients = found.iter().take(written).any(|(alias, _)| given(alias))
        || uses.iter().any(|(name, _)| given(name));
    if clients {
        return Vec::new();
    }
    let clear = |alias: &String| {
        let mut own = uses.iter().filter(|(n, _)| n == alias);
        match (own.next(), own.next()) {
            (None, _) => !queries.contains(alias),
            (Some((_, renamed)), None) => !renamed && queries.contains(alias),
            _ => false,
        }
    };
    found
        .into_iter()
        .filter(|(alias, _)| clear(alias))
        .filter_map(|(alias, names)| Some((alias, names?)))
        .collect()
}

fn result_names(query: &Value, renamed: &Value) -> Option<Vec<String>> {
    let ("SelectStmt", body) = node(query)? else { return None };
    names_of(body, renamed)
}

fn names_of(body: &Value, renamed: &Value) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for target in body["target_list"].as_array()? {
        let target = &target["node"]["ResTarget"];
        let given = target["name"].as_str().filter(|n| !n.is_empty());
        let name = match given {
            Some(name) => name.to_owned(),
            None => match node(&target["val"])? {
                ("ColumnRef", c) => (*strings(&c["fields"])?.last()?).to_owned(),
                ("FuncCall", c) => (*strings(&c["funcname"])?.last()?).to_owned(),
                // PostgreSQL names it; which name does not matter unless it is used.
                _ => String::new(),
            },
        };
        names.push(name);
    }
    for (name, new) in names.iter_mut().zip(renamed.as_array().into_iter().flatten()) {
        new.pointer("/node/String/sval")?.as_str()?.clone_into(name);
    }
    Some(names)
}

/// The last name of a column reference.
pub(crate) fn last_name(value: &Value) -> Option<&str> {
    match node(value)? {
        ("ColumnRef", body) => strings(&body["fields"])?.last().copied(),
        _ => None,
    }
}

/// A tree that equals another whatever their places in the text.
pub(super) fn without_places(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(without_places).collect(),
        Value::Object(map) => {
            let kept = map.iter().filter(|(k, _)| !k.contains("location"));
            Value::Object(kept.map(|(k, v)| (k.clone(), without_places(v))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parse::parse;

    #[test]
    fn where_postgresql_can_stop() {
        let of = |sql: &str| stops_after(&parse(sql).unwrap().nodes[0]["SelectStmt"]);
        assert_eq!(of("SELECT a, upper(b) FROM t JOIN u USING (a) WHERE a > 1 LIMIT 5"), Some(5));
        assert_eq!(of("SELECT * FROM t, u LIMIT 5 OFFSET 10"), Some(15));
        for sql in [
            "SELECT a FROM t",
            "SELECT a FROM t ORDER BY a LIMIT 5",
            "SELECT count(*) FROM t LIMIT 5",
            "SELECT rank() OVER (ORDER BY a) FROM t LIMIT 5",
            "SELECT DISTINCT a FROM t LIMIT 5",
            "SELECT a FROM t LEFT JOIN u USING (b) WHERE u.c IS NULL LIMIT 5",
            "SELECT a FROM t WHERE NOT EXISTS (SELECT FROM u WHERE u.b = t.b) LIMIT 5",
            "SELECT a FROM t GROUP BY a LIMIT 5",
            "SELECT a FROM (SELECT max(a) AS a FROM t) s LIMIT 5",
            "SELECT 1 FROM t UNION SELECT 2 FROM u LIMIT 5",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
