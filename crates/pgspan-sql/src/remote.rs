//! Home's `EXPLAIN (VERBOSE, FORMAT JSON)` → what postgres_fdw would ship: the
//! `Remote SQL` of every foreign scan, and of those that read plain tables the
//! conditions on each.

use crate::cause::Cause;
use crate::parse::{COMPARISONS, Lexeme, lex, node, parse, strings, top_level, visit};
use crate::route::Reason;
use pg_query::protobuf::Token;
use serde_json::Value;

/// One Foreign Scan of home's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignScan {
    /// Schema and name at home, when it reads one relation.
    pub relation: Option<(String, String)>,
    /// What postgres_fdw sends.
    pub remote_sql: String,
    /// Output expressions as EXPLAIN prints them.
    pub output: Vec<String>,
    /// Conditions are left to be evaluated at home.
    pub filtered: bool,
    /// It is the whole plan, and nothing hangs below it.
    pub whole_plan: bool,
    /// Its conditions are shipped. Cleared where all rows are wanted.
    pub conditional: bool,
}

/// All foreign scans of a plan printed as JSON.
///
/// # Errors
/// When the answer is not a plan, or it scans foreign rows to modify or lock them.
pub fn foreign_scans(json: &[u8]) -> Result<Vec<ForeignScan>, Reason> {
    let odd = || Reason::new(Cause::PlanNotRead);
    let value: Value = serde_json::from_slice(json).map_err(|_| odd())?;
    let root = value.get(0).and_then(|v| v.get("Plan")).ok_or_else(odd)?;
    let mut scans = Vec::new();
    walk(root, true, &mut scans)?;
    Ok(scans)
}

fn walk(plan: &Value, root: bool, scans: &mut Vec<ForeignScan>) -> Result<(), Reason> {
    let text = |key: &str| plan.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = text("Node Type").unwrap_or_default();
    if kind == "Foreign Scan" {
        if text("Operation").is_some_and(|o| o != "Select") {
            return Err(Reason::new(Cause::ForeignModified));
        }
        let Some(remote_sql) = text("Remote SQL") else {
            return Err(Reason::new(Cause::ForeignOfOtherWrapper));
        };
        let output = plan.get("Output").and_then(Value::as_array);
        scans.push(ForeignScan {
            relation: text("Schema").zip(text("Relation Name")),
            remote_sql,
            output: output
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect(),
            filtered: plan.get("Filter").is_some(),
            whole_plan: root && plan.get("Plans").is_none(),
            conditional: true,
        });
    }
    if kind == "LockRows" || kind == "ModifyTable" {
        return Err(Reason::about(Cause::NotAPlainRead, kind));
    }
    for child in plan.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        walk(child, false, scans)?;
    }
    Ok(())
}

/// A remote table in a `Remote SQL`, and the conditions on it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteTable {
    /// Schema at the source.
    pub schema: String,
    /// Name at the source.
    pub name: String,
    /// Conditions as SQL over its bare column names; every row that the scan may
    /// need satisfies all of them.
    pub conditions: Vec<String>,
}

/// Reads a `Remote SQL`.
///
/// # Errors
/// When it is not a SELECT that PostgreSQL's grammar knows.
pub fn remote_tables(sql: &str) -> Result<Vec<RemoteTable>, Reason> {
    let odd = || Reason::about(Cause::RemoteNotRead, sql);
    let select = select_of(sql).ok_or_else(odd)?;
    let tables = from_tables(&select);
    // Only where rows of a table cannot come back null-extended do its conditions hold for it.
    let mut inner_only = true;
    visit(&select["from_clause"], &mut |name, body| match name {
        "JoinExpr" => inner_only &= body["jointype"] == 1,
        "SelectStmt" | "RangeSubselect" => inner_only = false,
        _ => {}
    });
    let grouped_below = tables.is_empty();
    let conditions = if inner_only && !grouped_below {
        where_conditions(sql, &select).unwrap_or_default()
    } else {
        Vec::new()
    };
    let single = tables.len() == 1;
    // From PostgreSQL 17 on a semi-join is shipped as EXISTS: its tables are not in FROM.
    let elsewhere = select.as_object().into_iter().flatten();
    let elsewhere = elsewhere.filter(|(clause, _)| *clause != "from_clause");
    let elsewhere = elsewhere.flat_map(|(_, clause)| range_vars(clause));
    let whole = elsewhere.map(|(schema, name, _)| RemoteTable { schema, name, conditions: vec![] });
    Ok(tables
        .into_iter()
        .map(|(schema, name, alias)| {
            let own = |c: &String| bare_condition(c, alias.as_deref(), single);
            RemoteTable { schema, name, conditions: conditions.iter().filter_map(own).collect() }
        })
        .chain(whole)
        .collect())
}

/// The texts of the conditions joined by AND in the top-level WHERE, or `None` when
/// text and tree disagree about how many there are.
pub fn where_conditions(sql: &str, select: &Value) -> Option<Vec<String>> {
    let tree = &select["where_clause"];
    if tree.is_null() {
        return Some(Vec::new());
    }
    let expected = match node(tree) {
        Some(("BoolExpr", b)) if b["boolop"] == 1 => b["args"].as_array()?.len(),
        _ => 1,
    };
    condition_texts(sql, expected)
}

/// The texts of so many conditions joined by AND in the top-level WHERE, or `None` when the
/// text has another number of them.
pub fn condition_texts(sql: &str, expected: usize) -> Option<Vec<String>> {
    if expected == 0 {
        return Some(Vec::new());
    }
    let tokens = lex(sql);
    let ends = [
        Token::GroupP,
        Token::Order,
        Token::Limit,
        Token::Having,
        Token::For,
        Token::Offset,
        Token::Fetch,
        Token::Window,
        Token::Union,
        Token::Intersect,
        Token::Except,
    ];
    let mut depth = 0i32;
    let mut start = None;
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for t in &tokens {
        let top = depth == 0;
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        let is = |k: Token| t.token == k as i32;
        match start {
            None if top && is(Token::Where) => start = Some(t.end),
            Some(_) if top && is(Token::And) => parts.push((t.end, t.end)),
            Some(_) if top && (t.is_char(b';') || ends.iter().any(|e| is(*e))) => break,
            Some(first) => {
                if parts.is_empty() {
                    parts.push((first, first));
                }
                if let Some(last) = parts.last_mut() {
                    last.1 = t.end;
                }
            }
            None => {}
        }
    }
    if parts.len() != expected {
        return None;
    }
    Some(parts.into_iter().map(|(a, b)| sql[a..b].trim().to_owned()).collect())
}

/// The relations of EXPLAIN's `Relations`: schema, name, alias.
/// `(public.a x) INNER JOIN (public.b)` gives `x` and `b`.
pub fn relations(list: &str) -> Vec<(String, String, String)> {
    let tokens = lex(list);
    let word = |i: usize| -> Option<String> {
        let t: &Lexeme = tokens.get(i)?;
        let text = &list[t.start..t.end];
        let quoted = text.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
        Some(quoted.map_or_else(|| text.to_owned(), |q| q.replace("\"\"", "\"")))
    };
    let mut out = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        if !t.is_char(b'.') || i == 0 {
            continue;
        }
        let (Some(schema), Some(name)) = (word(i - 1), word(i + 1)) else { continue };
        let aliased = tokens.get(i + 2).is_some_and(|t| !t.is_char(b')'));
        let alias = if aliased { word(i + 2) } else { None };
        out.push((schema, name.clone(), alias.unwrap_or(name)));
    }
    out
}

pub(crate) fn select_of(sql: &str) -> Option<Value> {
    let statement = parse(sql)?;
    statement.nodes.first()?.get("SelectStmt").cloned()
}

/// The plain tables of a `Remote SQL` in the order of its FROM: schema, name, alias.
/// `None` when there is a subquery among them.
pub fn aliased_tables(sql: &str) -> Option<Vec<(String, String, Option<String>)>> {
    let select = select_of(sql)?;
    let mut plain = true;
    visit(&select["from_clause"], &mut |name, _| {
        plain &= !matches!(name, "SelectStmt" | "RangeSubselect" | "SubLink");
    });
    plain.then(|| from_tables(&select))
}

/// The tables of FROM: schema, name, alias.
fn from_tables(select: &Value) -> Vec<(String, String, Option<String>)> {
    range_vars(&select["from_clause"])
}

/// The tables of a clause and of what is below it: schema, name, alias.
fn range_vars(clause: &Value) -> Vec<(String, String, Option<String>)> {
    let field = |f: &Value| f.as_str().unwrap_or("").to_owned();
    let mut tables = Vec::new();
    visit(clause, &mut |name, body| {
        if name == "RangeVar" {
            let alias = body.pointer("/alias/aliasname").map(field);
            tables.push((field(&body["schemaname"]), field(&body["relname"]), alias));
        }
    });
    tables
}

/// The names of the columns that a `Remote SQL` speaks of.
pub fn columns(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(select) = select_of(sql) {
        visit(&select, &mut |name, body| {
            if name == "ColumnRef" {
                let last = strings(&body["fields"]).and_then(|f| f.last().map(|n| (*n).to_owned()));
                found.extend(last);
            }
        });
    }
    found
}

/// Whether a `Remote SQL` folds rows at the source.
pub fn is_grouped(sql: &str) -> bool {
    let Some(select) = select_of(sql) else { return true };
    let mut calls = false;
    // postgres_fdw ships no other calls in a select list than those of a fold.
    visit(&select["target_list"], &mut |name, _| calls |= name == "FuncCall");
    calls
        || select["group_clause"].as_array().is_some_and(|g| !g.is_empty())
        || !select["having_clause"].is_null()
}

/// Whether a `Remote SQL` selects something that is computed from constants. postgres_fdw
/// prints those of conditions in a form that every server reads alike, and these as the
/// session's settings have it.
pub fn selects_constants(sql: &str) -> bool {
    let Some(select) = select_of(sql) else { return true };
    let mut found = false;
    visit(&select["target_list"], &mut |name, body| {
        found |= name == "AConst" && body["isnull"] != true;
    });
    found
}

/// Whether a `Remote SQL` sorts by an expression that could fail for a row: that is evaluated
/// for each row of the scan, whatever becomes of the row at home. (Groups are not joined: what
/// they are sorted by is wanted of each.)
pub fn sorts_by_what_may_fail(sql: &str) -> bool {
    let Some(select) = select_of(sql) else { return true };
    if is_grouped(sql) {
        return false;
    }
    let mut found = false;
    visit(&select["sort_clause"], &mut |name, body| {
        found |= match name {
            "SortBy" | "ColumnRef" | "String" | "CollateClause" | "List" | "NullTest"
            | "BoolExpr" | "CaseExpr" | "CaseWhen" | "AConst" => false,
            "AExpr" => {
                let constant = |side: &Value| {
                    matches!(node(side), Some(("AConst", _)))
                        || body_of(side, "TypeCast")
                            .is_some_and(|cast| body_of(&cast["arg"], "AConst").is_some())
                };
                let operator = strings(&body["name"]).unwrap_or_default();
                !matches!(operator[..], [name] if COMPARISONS.contains(&name))
                    || !(constant(&body["lexpr"]) || constant(&body["rexpr"]))
            }
            // Of a varchar, as text; of a literal.
            "TypeCast" => {
                strings(&body["type_name"]["names"]).as_deref() != Some(&["text"])
                    && body_of(&body["arg"], "AConst").is_none()
            }
            "FuncCall" => {
                let called = strings(&body["funcname"]).unwrap_or_default();
                called != ["lower"] && called != ["upper"]
            }
            other => other.starts_with(char::is_uppercase),
        };
    });
    found
}

fn body_of<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    node(value).filter(|(found, _)| *found == name).map(|(_, body)| body)
}

/// Whether the rows that it gives are limited.
pub fn is_limited(sql: &str) -> bool {
    select_of(sql).is_none_or(|s| !s["limit_count"].is_null() || !s["limit_offset"].is_null())
}

/// Whether a `Remote SQL` has a WHERE clause.
pub fn has_where(sql: &str) -> bool {
    select_of(sql).is_some_and(|s| !s["where_clause"].is_null())
}

/// The items of a `Remote SQL`'s select list, and what follows FROM: the rows are wanted in
/// any order.
pub fn list_and_from(sql: &str) -> Option<(Vec<String>, String)> {
    let tokens = lex(sql);
    if tokens.first()?.token != Token::Select as i32 {
        return None;
    }
    let mut depth = 0i32;
    let mut items = Vec::new();
    let mut start = tokens.first()?.end;
    for t in tokens.iter().skip(1) {
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        if depth == 0 && t.is_char(b',') {
            items.push(sql[start..t.start].trim().to_owned());
            start = t.end;
        }
        if depth == 0 && t.token == Token::From as i32 {
            items.push(sql[start..t.start].trim().to_owned());
            let mut from = &sql[t.end..];
            // It decides nothing but the order, unless the rows are limited.
            let sorted = lex(from);
            if let Some(order) = top_level(&sorted, Token::Order).filter(|_| !is_limited(sql)) {
                from = &from[..sorted[order].start];
            }
            return Some((items, from.trim().to_owned()));
        }
    }
    None
}

/// The condition over bare column names, if it speaks of this table alone and of
/// nothing that is only known while the plan runs.
fn bare_condition(condition: &str, alias: Option<&str>, single: bool) -> Option<String> {
    let tokens = lex(condition);
    if tokens.iter().any(|t| t.token == Token::Param as i32 || t.token == Token::Select as i32) {
        return None;
    }
    let mut out = String::new();
    let mut at = 0;
    let mut skip_dot = false;
    for (i, t) in tokens.iter().enumerate() {
        if skip_dot {
            skip_dot = false;
            at = t.end;
            continue;
        }
        let word = &condition[t.start..t.end];
        let dotted = tokens.get(i + 1).is_some_and(|n: &Lexeme| n.is_char(b'.'));
        let relation_alias = word.len() > 1
            && word.starts_with('r')
            && word[1..].bytes().all(|b| b.is_ascii_digit())
            && dotted;
        if relation_alias && alias.is_some() {
            if Some(word) != alias {
                return None;
            }
            out.push_str(&condition[at..t.start]);
            skip_dot = true;
            continue;
        }
        out.push_str(&condition[at..t.end]);
        at = t.end;
    }
    // Without an alias the columns are bare already, which only one table can have.
    (alias.is_some() || single).then_some(out)
}

/// The column names of a `Remote SQL`'s select list, in order; `None` where an item
/// is not a plain column.
pub fn select_columns(sql: &str) -> Option<Vec<Option<String>>> {
    let select = select_of(sql)?;
    Some(
        select["target_list"]
            .as_array()?
            .iter()
            .map(|item| column_name(&node(item)?.1["val"]))
            .collect(),
    )
}

/// The column that an output expression of EXPLAIN consists of: `o.amount` → `amount`.
pub fn output_column(expression: &str) -> Option<String> {
    let statement = parse(&format!("SELECT {expression}"))?;
    let item = statement.nodes.first()?.pointer("/SelectStmt/target_list/0")?;
    column_name(&node(item)?.1["val"])
}

/// A home column's name at the source.
type Names<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Whether each output expression of EXPLAIN is exactly the item of the `Remote SQL`'s
/// select list in its place: nothing is computed at home on top of it. `there` gives a
/// home column's name at the source.
pub fn same_expressions(
    output: &[String],
    sql: &str,
    there: &dyn Fn(&str) -> Option<String>,
) -> bool {
    let list = |text: &str| -> Option<Vec<Value>> {
        let select = select_of(text)?;
        let list = select["target_list"].as_array()?;
        list.iter().map(|item| Some(node(item)?.1["val"].clone())).collect()
    };
    let (Some(home), Some(remote)) = (list(&format!("SELECT {}", output.join(", "))), list(sql))
    else {
        return false;
    };
    home.len() == output.len()
        && home.len() == remote.len()
        && home.iter().zip(&remote).all(|(h, r)| same_tree(h, r, there))
}

/// As [`same_expressions`] for the first items of the select list, whatever casts either
/// prints: home shows the change from varchar to text that postgres_fdw does not write.
/// Only for telling which item stands for which expression.
pub fn same_but_for_casts(
    output: &[String],
    sql: &str,
    there: &dyn Fn(&str) -> Option<String>,
) -> bool {
    let list = |text: &str| -> Option<Vec<Value>> {
        let select = select_of(text)?;
        let list = select["target_list"].as_array()?;
        list.iter().map(|item| Some(plain_tree(&node(item)?.1["val"], None))).collect()
    };
    let home: Option<Vec<Value>> =
        select_of(&format!("SELECT {}", output.join(", "))).and_then(|s| {
            let list = s["target_list"].as_array()?;
            list.iter().map(|i| Some(plain_tree(&node(i)?.1["val"], Some(there)))).collect()
        });
    let (Some(home), Some(remote)) = (home, list(sql)) else { return false };
    let mut seen = Vec::new();
    let apart = home.iter().all(|h| {
        let new = !seen.contains(&h);
        seen.push(h);
        new
    });
    apart
        && home.len() == output.len()
        && home.len() <= remote.len()
        && home.iter().zip(&remote).all(|(h, r)| h == r)
}

/// A tree without casts and places, columns by their name at the source, literals by
/// their text.
fn plain_tree(value: &Value, there: Option<&Names<'_>>) -> Value {
    if let Some(column) = column_name(value) {
        let name = match there {
            Some(there) => there(&column),
            None => Some(column),
        };
        return serde_json::json!({"column": name});
    }
    match node(value) {
        Some(("TypeCast", body)) => return plain_tree(&body["arg"], there),
        Some(("AConst", body)) => {
            let value = &body["val"];
            let text =
                value.pointer("/Sval/sval").or(value.pointer("/Fval/fval")).cloned().or(value
                    .pointer("/Ival")
                    .map(|i| i["ival"].as_i64().unwrap_or(0).to_string().into()));
            return serde_json::json!({"literal": text.unwrap_or_else(|| value.clone())});
        }
        _ => {}
    }
    match value {
        Value::Array(items) => items.iter().map(|v| plain_tree(v, there)).collect(),
        Value::Object(map) => {
            let kept = map.iter().filter(|(k, _)| !k.contains("location"));
            Value::Object(kept.map(|(k, v)| (k.clone(), plain_tree(v, there))).collect())
        }
        other => other.clone(),
    }
}

fn same_tree(home: &Value, remote: &Value, there: &dyn Fn(&str) -> Option<String>) -> bool {
    if let (Some(h), Some(r)) = (column_name(home), column_name(remote)) {
        return there(&h).as_deref() == Some(r.as_str());
    }
    let (home, remote) = (bare_constant(home), bare_constant(remote));
    match (home, remote) {
        (Value::Object(h), Value::Object(r)) => {
            h.len() == r.len()
                && h.iter().all(|(k, v)| {
                    k.contains("location")
                        || r.get(k).is_some_and(|other| same_tree(v, other, there))
                })
        }
        (Value::Array(h), Value::Array(r)) => {
            h.len() == r.len() && h.iter().zip(r).all(|(x, y)| same_tree(x, y, there))
        }
        (h, r) => h == r,
    }
}

/// A constant without its cast, which home and postgres_fdw print differently.
fn bare_constant(value: &Value) -> &Value {
    match node(value) {
        Some(("TypeCast", body)) if matches!(node(&body["arg"]), Some(("AConst", _))) => {
            &body["arg"]
        }
        _ => value,
    }
}

fn column_name(value: &Value) -> Option<String> {
    match node(value)? {
        ("ColumnRef", body) => strings(&body["fields"])?.last().map(|s| (*s).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_one_table() {
        let sql = "SELECT order_id FROM public.orders WHERE ((amount > 15::numeric)) AND ((a = 'x AND y')) ORDER BY a LIMIT 3::bigint";
        let t = remote_tables(sql).unwrap();
        assert_eq!(t[0].conditions, ["((amount > 15::numeric))", "((a = 'x AND y'))"]);
        assert_eq!((t[0].schema.as_str(), t[0].name.as_str()), ("public", "orders"));
    }

    #[test]
    fn conditions_of_a_join_go_to_their_table() {
        let sql = "SELECT r2.a, r3.b FROM (public.o r2 INNER JOIN public.p r3 ON (((r2.id = r3.id)))) WHERE ((r2.a > 1)) AND ((r3.b < r2.a))";
        let t = remote_tables(sql).unwrap();
        assert_eq!(t[0].conditions, ["((a > 1))"]);
        assert!(t[1].conditions.is_empty());
    }

    #[test]
    fn outer_joins_and_parameters_ship_nothing() {
        let outer = "SELECT r1.a FROM (public.o r1 LEFT JOIN public.p r2 ON (((r1.a = r2.a)))) WHERE ((r1.a > 1))";
        assert!(remote_tables(outer).unwrap().iter().all(|t| t.conditions.is_empty()));
        let param = "SELECT a FROM public.o WHERE ((a = $1::integer)) AND ((b = 2))";
        assert_eq!(remote_tables(param).unwrap()[0].conditions, ["((b = 2))"]);
    }

    #[test]
    fn what_a_semi_join_reads_is_seen() {
        let sql = "SELECT r1.c0 FROM public.f r1 WHERE ((r1.a = 1)) AND EXISTS (SELECT NULL FROM (public.f r2 INNER JOIN public.g r3 ON (TRUE)) WHERE ((r2.b <> 7)) AND ((r1.a = r2.a)))";
        let tables = remote_tables(sql).unwrap();
        let seen: Vec<_> =
            tables.iter().map(|t| (t.name.as_str(), t.conditions.as_slice())).collect();
        assert_eq!(seen, [("f", &["((a = 1))".to_owned()][..]), ("f", &[]), ("g", &[])]);
    }

    #[test]
    fn sorts_that_may_fail_are_seen() {
        for (order, fails) in [
            ("a ASC NULLS LAST, b DESC NULLS FIRST", false),
            ("lower((n)::text) ASC NULLS LAST, n COLLATE \"C\" ASC NULLS LAST", false),
            ("(a IS NULL) ASC NULLS LAST, (a = 3) DESC NULLS FIRST", false),
            ("CASE WHEN (s = 'x'::text) THEN 0 ELSE 1 END ASC NULLS LAST", false),
            ("(n < f8) ASC NULLS LAST", true),
            ("id ASC NULLS LAST, (1 / i) ASC NULLS LAST", true),
            ("((n)::integer) ASC NULLS LAST", true),
            ("pg_catalog.substr(n, i) ASC NULLS LAST", true),
        ] {
            let sql = format!("SELECT a FROM public.t ORDER BY {order}");
            assert_eq!(sorts_by_what_may_fail(&sql), fails, "{order}");
        }
        assert!(!sorts_by_what_may_fail("SELECT (1 / i) FROM public.t"));
    }

    #[test]
    fn constants_of_the_select_list_are_seen() {
        for (sql, selects) in [
            ("SELECT count(*) FILTER (WHERE (d > '01.02.2024')) FROM public.f", true),
            ("SELECT a, sum((f * 0.1::double precision)) FROM public.f GROUP BY 1", true),
            (
                "SELECT a, count(*), NULL::bigint FROM public.f WHERE ((d > '2024-02-01')) GROUP BY 1",
                false,
            ),
            ("nonsense", true),
        ] {
            assert_eq!(selects_constants(sql), selects, "{sql}");
        }
    }

    #[test]
    fn between_is_not_split() {
        let s = parse("SELECT 1 FROM t WHERE a BETWEEN 1 AND 2 AND b = 3").unwrap();
        assert_eq!(where_conditions(&s.text, &s.nodes[0]["SelectStmt"]), None);
    }

    #[test]
    fn what_home_computes_on_top_is_seen() {
        let there = |c: &str| Some(if c == "total" { "total_amount" } else { c }.to_owned());
        let same = |o: &str, sql: &str| same_expressions(&[o.to_owned()], sql, &there);
        assert!(same("(sum(o.total))", "SELECT sum(total_amount) FROM public.orders"));
        assert!(same("(count(*))", "SELECT count(*) FROM public.orders"));
        assert!(same("'x'::text", "SELECT 'x' FROM public.orders"));
        assert!(!same("COALESCE((sum(o.total)), '0'::numeric)", "SELECT sum(total_amount) FROM t"));
        assert!(!same("((sum(o.id))::text)", "SELECT sum(id) FROM t"));
        assert!(!same("(max(o.a))", "SELECT min(a) FROM t"));
    }

    #[test]
    fn joined_relations() {
        let list = "((public.a x) INNER JOIN (public.\"B c\")) LEFT JOIN (s.d)";
        let found = relations(list);
        assert_eq!(found[0], ("public".to_owned(), "a".to_owned(), "x".to_owned()));
        assert_eq!(found[1].2, "B c");
        assert_eq!(found[2], ("s".to_owned(), "d".to_owned(), "d".to_owned()));
        let sql = "SELECT r1.a, (r2.b) FROM (public.a r1 INNER JOIN public.b r2 ON (((r1.x = r2.x)))) WHERE ((r1.a > 1))";
        let (items, from) = list_and_from(sql).unwrap();
        assert_eq!(items, ["r1.a", "(r2.b)"]);
        assert!(from.starts_with("(public.a r1") && has_where(sql) && !is_grouped(sql));
        assert_eq!(aliased_tables(sql).unwrap()[1].2.as_deref(), Some("r2"));
        let from = |sql: &str| list_and_from(sql).unwrap().1;
        assert_eq!(
            from("SELECT a FROM t WHERE ((a = 'x ORDER BY')) ORDER BY a"),
            "t WHERE ((a = 'x ORDER BY'))"
        );
        assert_eq!(
            from("SELECT a FROM t ORDER BY a ASC NULLS LAST LIMIT 3::bigint"),
            "t ORDER BY a ASC NULLS LAST LIMIT 3::bigint"
        );
    }

    #[test]
    fn output_expressions() {
        assert_eq!(output_column("ro.amount").as_deref(), Some("amount"));
        assert_eq!(output_column("(count(*))"), None);
        let list = select_columns("SELECT a, count(*), r1.\"B c\" FROM t").unwrap();
        assert_eq!(list, [Some("a".to_owned()), None, Some("B c".to_owned())]);
    }
}
