//! Expressions as EXPLAIN prints them: which relations they speak of, whether they are
//! NULL for a row of NULLs, and how a source computes them.
//!
//! What is shipped is a closed list: exact arithmetic on integers and numerics,
//! comparisons, CASE, COALESCE, LIKE, and fields of dates and timestamps. None of them
//! depends on a setting, and all are PostgreSQL's at either end.

use super::operators::Function;
use super::shape::plain_call;
use crate::parse::{Lexeme, lex, node, parse, strings, visit};
use pg_query::protobuf::Token;
use serde_json::Value;

/// Without the parentheses around all of it.
pub fn bare(text: &str) -> &str {
    let mut text = text.trim();
    while let Some(inner) = unwrapped(text) {
        text = inner;
    }
    text
}

/// The source's name and the type OID of a column, by alias and name at home.
pub type Places<'a> = dyn Fn(&str, &str) -> Option<(String, u32)> + 'a;

/// What a node's own output is called by the node above it: EXPLAIN prints a column as it
/// is, and all else in parentheses (ruleutils.c: `get_variable`). Operators and conditions
/// have parentheses of their own, which are no mark.
pub fn reference(text: &str) -> Option<&str> {
    let inner = unwrapped(text)?;
    if unwrapped(inner).is_some() {
        return Some(inner);
    }
    let e = Expression::read(inner)?;
    let operator =
        matches!(node(&e.tree)?.0, "AExpr" | "BoolExpr" | "NullTest" | "BooleanTest" | "ColumnRef");
    (!operator).then_some(inner)
}

/// Without one pair of parentheses around all of it.
pub(super) fn unwrapped(text: &str) -> Option<&str> {
    let tokens = lex(text);
    let (first, last) = (tokens.first()?, tokens.last()?);
    if !first.is_char(b'(') || !last.is_char(b')') {
        return None;
    }
    let mut depth = 0i32;
    for (i, t) in tokens.iter().enumerate() {
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        if depth == 0 && i + 1 < tokens.len() {
            return None;
        }
    }
    Some(text.get(first.end..last.start)?.trim())
}

/// A parsed expression.
#[derive(Debug)]
pub struct Expression<'a> {
    text: &'a str,
    tree: Value,
}

/// Bytes before the expression in the statement that is parsed for it.
pub(super) const PREFIX: &str = "SELECT ";

/// What a shipped expression gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Number,
    Text,
    Date,
    Timestamp,
    Boolean,
    /// NULL, or a literal that takes the type of what it meets.
    Any,
}

impl Class {
    fn of_type(oid: u32) -> Option<Class> {
        Some(match oid {
            20 | 21 | 23 | 1700 => Class::Number,
            25 | 1042 | 1043 => Class::Text,
            1082 => Class::Date,
            1114 => Class::Timestamp,
            16 => Class::Boolean,
            _ => return None,
        })
    }

    fn of_name(name: &str) -> Option<Class> {
        Some(match name {
            "int2" | "int4" | "int8" | "numeric" => Class::Number,
            "text" | "bpchar" | "varchar" => Class::Text,
            "date" => Class::Date,
            "timestamp" => Class::Timestamp,
            "bool" => Class::Boolean,
            _ => return None,
        })
    }

    fn with(self, other: Class) -> Option<Class> {
        match (self, other) {
            (Class::Any, c) | (c, Class::Any) => Some(c),
            (a, b) if a == b => Some(a),
            // Comparisons of dates with timestamps are immutable.
            (Class::Date, Class::Timestamp) | (Class::Timestamp, Class::Date) => {
                Some(Class::Timestamp)
            }
            _ => None,
        }
    }
}

impl<'a> Expression<'a> {
    pub(super) fn tree(&self) -> &Value {
        &self.tree
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Parses one expression.
    pub fn read(text: &'a str) -> Option<Expression<'a>> {
        if text.contains("SubPlan") || text.contains("InitPlan") {
            return None;
        }
        let statement = parse(&format!("{PREFIX}{text}"))?;
        let select = statement.nodes.first()?.get("SelectStmt")?;
        let [only] = select["target_list"].as_array()?.as_slice() else { return None };
        let body = &only["node"]["ResTarget"];
        let plain = select["from_clause"].as_array().is_none_or(Vec::is_empty)
            && body["name"].as_str().is_none_or(str::is_empty);
        plain.then(|| Expression { text, tree: body["val"].clone() })
    }

    /// Its text for a source; `there` gives the source's name and the type OID of a column.
    pub fn shipped(&self, there: &Places<'_>) -> Option<String> {
        if !is_column(self.text) {
            class(&self.tree, there)?;
        }
        let tokens = lex(self.text);
        let mut edits: Vec<(usize, usize, String)> = Vec::new();
        let mut lost = false;
        visit(&self.tree, &mut |name, body| {
            if name != "ColumnRef" {
                return;
            }
            let edit = strings(&body["fields"]).and_then(|path| {
                let [alias, column] = path.as_slice() else { return None };
                let at = usize::try_from(body["location"].as_u64()?).ok()? - PREFIX.len();
                let first = tokens.iter().position(|t| t.start == at)?;
                Some((at, tokens.get(first + 2)?.end, there(alias, column)?.0))
            });
            match edit {
                Some(edit) => edits.push(edit),
                None => lost = true,
            }
        });
        if lost {
            return None;
        }
        edits.sort();
        let mut out = String::new();
        let mut at = 0;
        for (start, end, new) in edits {
            out.push_str(self.text.get(at..start)?);
            out.push_str(&new);
            at = end;
        }
        out.push_str(self.text.get(at..)?);
        Some(out)
    }
}

/// The class of an expression that may be shipped; `None` for all others.
fn class(tree: &Value, there: &Places<'_>) -> Option<Class> {
    let (name, body) = node(tree)?;
    let of = |v: &Value| class(v, there);
    match name {
        "ColumnRef" => {
            let path = strings(&body["fields"])?;
            let [alias, column] = path.as_slice() else { return None };
            Class::of_type(there(alias, column)?.1)
        }
        "AConst" => {
            if body["isnull"] == true {
                return Some(Class::Any);
            }
            let value = body.get("val")?;
            if value.get("Ival").is_some() || value.get("Fval").is_some() {
                Some(Class::Number)
            } else if value.get("Sval").is_some() {
                Some(Class::Any)
            } else {
                value.get("Boolval").map(|_| Class::Boolean)
            }
        }
        "TypeCast" => {
            let path = strings(&body["type_name"]["names"])?;
            let no_modifier = body["type_name"]["typmods"].as_array().is_none_or(Vec::is_empty)
                && body["type_name"]["array_bounds"].as_array().is_none_or(Vec::is_empty);
            let to = Class::of_name(path.last()?).filter(|_| no_modifier)?;
            let from = of(&body["arg"])?;
            // Within a class no cast depends on a setting.
            (from == to || from == Class::Any).then_some(to)
        }
        "AExpr" if body["kind"] == 1 => {
            let operator = strings(&body["name"])?;
            let [operator] = operator.as_slice() else { return None };
            let right = of(&body["rexpr"])?;
            let left = match &body["lexpr"] {
                Value::Null => Class::Number,
                l => of(l)?,
            };
            let both = left.with(right)?;
            match *operator {
                "+" | "-" | "*" | "/" => (both == Class::Number).then_some(Class::Number),
                "=" | "<>" | "<" | "<=" | ">" | ">=" => Some(Class::Boolean),
                "~~" | "!~~" => (both == Class::Text).then_some(Class::Boolean),
                _ => None,
            }
        }
        "BoolExpr" => {
            let all = body["args"].as_array()?.iter().map(of).collect::<Option<Vec<_>>>()?;
            all.iter().all(|c| matches!(c, Class::Boolean | Class::Any)).then_some(Class::Boolean)
        }
        "NullTest" => of(&body["arg"]).map(|_| Class::Boolean),
        "CoalesceExpr" => {
            let all = body["args"].as_array()?.iter().map(of).collect::<Option<Vec<_>>>()?;
            all.into_iter().try_fold(Class::Any, Class::with)
        }
        "CaseExpr" => {
            if !body["arg"].is_null() {
                return None;
            }
            let mut result = match &body["defresult"] {
                Value::Null => Class::Any,
                d => of(d)?,
            };
            for arm in body["args"].as_array()? {
                let (_, when) = node(arm)?;
                if !matches!(of(&when["expr"])?, Class::Boolean | Class::Any) {
                    return None;
                }
                result = result.with(of(&when["result"])?)?;
            }
            Some(result)
        }
        "FuncCall" => {
            let path = strings(&body["funcname"])?;
            let arguments = body["args"].as_array()?;
            match (path.last().copied()?, arguments.as_slice()) {
                ("extract" | "date_part", [field, value]) => {
                    let field = field.pointer("/node/AConst/val/Sval/sval")?.as_str()?;
                    let known = ["year", "month", "day", "quarter"].contains(&field);
                    let dated = matches!(of(value)?, Class::Date | Class::Timestamp);
                    (known && dated).then_some(Class::Number)
                }
                ("substring" | "substr", [value, rest @ ..]) => {
                    let numbers = rest.iter().all(|r| of(r) == Some(Class::Number));
                    (of(value)? == Class::Text && numbers).then_some(Class::Text)
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether computing an expression raises no error, whatever the values are: columns and
/// constants, folds of them, comparisons, and sums and products of numerics. (These overflow
/// from 10^131072 on.)
pub fn is_certain(text: &str, there: &Places<'_>) -> bool {
    is_column(text) || Expression::read(text).is_some_and(|e| certain(&e.tree, there).is_some())
}

/// Whether an expression that raises no error is a numeric; `None`: it may raise one.
fn certain(tree: &Value, there: &Places<'_>) -> Option<bool> {
    let (name, body) = node(tree)?;
    let of = |v: &Value| certain(v, there);
    let all = |list: &Value| -> Option<Vec<bool>> {
        list.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(of).collect()
    };
    match name {
        "ColumnRef" => {
            let path = strings(&body["fields"])?;
            let [alias, column] = path.as_slice() else { return None };
            Some(there(alias, column)?.1 == 1700)
        }
        "AConst" => Some(body.pointer("/val/Fval").is_some()),
        "TypeCast" => {
            // A constant that home has read, or an integer as a numeric.
            let path = strings(&body["type_name"]["names"])?;
            let numeric = path.last() == Some(&"numeric");
            let (inner, _) = node(&body["arg"])?;
            let modified = body["type_name"]["typmods"].as_array().is_some_and(|m| !m.is_empty());
            let widened = || numeric && !modified && of(&body["arg"]).is_some();
            (inner == "AConst" || widened()).then_some(numeric)
        }
        "AExpr" if body["kind"] == 1 => {
            let operator = strings(&body["name"])?;
            let (left, right) = (of(&body["lexpr"])?, of(&body["rexpr"])?);
            match operator.as_slice() {
                ["+" | "-" | "*"] => (left || right).then_some(true),
                ["=" | "<>" | "<" | "<=" | ">" | ">="] => Some(false),
                // A pattern must not end with its escape.
                ["~~" | "!~~"] => {
                    let pattern =
                        body["rexpr"].pointer("/node/TypeCast/arg/node/AConst/val/Sval/sval");
                    pattern.and_then(Value::as_str).filter(|p| !p.contains('\\')).map(|_| false)
                }
                _ => None,
            }
        }
        "BoolExpr" => all(&body["args"]).map(|_| false),
        "NullTest" => of(&body["arg"]).map(|_| false),
        "CoalesceExpr" => all(&body["args"]).map(|kinds| kinds.contains(&true)),
        "CaseExpr" if body["arg"].is_null() => {
            let mut numeric = false;
            for arm in body["args"].as_array()? {
                let (_, when) = node(arm)?;
                of(&when["expr"])?;
                numeric |= of(&when["result"])?;
            }
            if !body["defresult"].is_null() {
                numeric |= of(&body["defresult"])?;
            }
            Some(numeric)
        }
        "FuncCall" => {
            let path = strings(&body["funcname"])?;
            let kinds = all(&body["args"])?;
            match *path.last()? {
                "count" | "min" | "max" => Some(kinds.contains(&true)),
                // Of floats, intervals and money they may overflow.
                "sum" | "avg" => {
                    let exact = |arg: &Value| match node(arg) {
                        Some(("ColumnRef", body)) => strings(&body["fields"]).is_some_and(|path| {
                            matches!(path[..], [alias, column] if there(alias, column)
                                .is_some_and(|(_, oid)| [20, 21, 23, 1700].contains(&oid)))
                        }),
                        _ => of(arg) == Some(true),
                    };
                    let args = body["args"].as_array().map_or(&[][..], Vec::as_slice);
                    args.iter().all(exact).then(|| kinds.contains(&true))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The aliases that an expression names; `None` when it holds what cannot be judged.
pub fn names(text: &str) -> Option<Vec<String>> {
    let e = Expression::read(text)?;
    let mut out: Vec<String> = Vec::new();
    let mut odd = false;
    visit(&e.tree, &mut |name, body| match name {
        "ColumnRef" => match strings(&body["fields"]).as_deref() {
            Some([alias, _]) => {
                if !out.iter().any(|a| a == alias) {
                    out.push((*alias).to_owned());
                }
            }
            _ => odd = true,
        },
        // The names of a row's fields (`to_jsonb(q)`) are not printed.
        "SubLink" | "ParamRef" | "RowExpr" => odd = true,
        _ => {}
    });
    (!odd).then_some(out)
}

/// Whether an expression or condition stands by itself: no subquery, no parameter, no row.
pub fn is_closed(text: &str) -> bool {
    !text.contains('$') && names(text).is_some()
}

/// An expression whose bare columns get a relation's name.
pub fn qualified(text: &str, alias: &str) -> String {
    let Some(e) = Expression::read(text) else { return text.to_owned() };
    let mut places = Vec::new();
    visit(&e.tree, &mut |name, body| {
        if name == "ColumnRef" && strings(&body["fields"]).is_some_and(|f| f.len() == 1) {
            let at = body["location"].as_u64().and_then(|n| usize::try_from(n).ok());
            places.extend(at.and_then(|n| n.checked_sub(PREFIX.len())));
        }
    });
    places.sort_unstable();
    let mut out = text.to_owned();
    // A plain name is written as EXPLAIN writes it elsewhere.
    let plain = alias.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let alias = if plain { alias.to_owned() } else { crate::quote::ident(alias) };
    for at in places.into_iter().rev() {
        out.insert_str(at, &format!("{alias}."));
    }
    out
}

/// `alias.column`, and nothing else.
pub fn is_column(text: &str) -> bool {
    column(text).is_some()
}

/// The column of `alias.column`.
pub fn column(text: &str) -> Option<String> {
    column_of(text).map(|(_, column)| column)
}

/// `alias.column`, in two.
pub fn column_of(text: &str) -> Option<(String, String)> {
    let e = Expression::read(text)?;
    match node(&e.tree)? {
        ("ColumnRef", body) => match strings(&body["fields"])?.as_slice() {
            [alias, column] => Some(((*alias).to_owned(), (*column).to_owned())),
            _ => None,
        },
        _ => None,
    }
}

/// Whether it is NULL when all its columns are: only strict operators over at least one.
pub fn is_strict(text: &str) -> bool {
    let Some(e) = Expression::read(text) else { return false };
    let mut columns = 0;
    let mut strict = true;
    visit(&e.tree, &mut |name, body| match name {
        "ColumnRef" => columns += 1,
        "AExpr" => {
            let operator = strings(&body["name"]).unwrap_or_default();
            strict &= body["kind"] == 1
                && ["+", "-", "*", "/"].contains(&operator.last().copied().unwrap_or(""));
        }
        "TypeCast" | "TypeName" | "AConst" | "String" | "Integer" | "Float" => {}
        _ => strict = false,
    });
    strict && columns > 0
}

/// The sides of `a = b AND c = d`, each without parentheses.
pub fn equalities(condition: &str) -> Option<Vec<(String, String)>> {
    let condition = bare(condition);
    let mut out = Vec::new();
    for part in split(condition, |t| t.token == Token::And as i32) {
        let part = bare(part);
        let sides = split(part, |t| t.is_char(b'='));
        let [left, right] = sides.as_slice() else { return None };
        let (left, right) = (left.trim(), right.trim());
        for side in [left, right] {
            if split(side, is_loose).len() > 1 || !is_closed(side) {
                return None;
            }
        }
        out.push((left.to_owned(), right.to_owned()));
    }
    (!out.is_empty()).then_some(out)
}

/// Operators that bind no tighter than `=`.
fn is_loose(t: &Lexeme) -> bool {
    [Token::Or, Token::Not, Token::Is, Token::NotEquals, Token::LessEquals, Token::GreaterEquals]
        .iter()
        .any(|k| t.token == *k as i32)
        || t.is_char(b'<')
        || t.is_char(b'>')
}

/// The parts of a text between tokens outside parentheses.
pub(super) fn split(text: &str, at: impl Fn(&Lexeme) -> bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut depth = 0i32;
    for t in lex(text) {
        let opens = t.is_char(b'(') || t.is_char(b'[');
        let closes = t.is_char(b')') || t.is_char(b']');
        depth += i32::from(opens) - i32::from(closes);
        if depth == 0 && at(&t) {
            out.push(&text[start..t.start]);
            start = t.end;
        }
    }
    out.push(&text[start..]);
    out
}

/// A call of one of the engine's aggregates: which, of what, and whether of each value once.
pub fn fold(text: &str) -> Option<(Function, Option<String>, bool)> {
    if text.starts_with('(') {
        return None;
    }
    let e = Expression::read(text)?;
    let ("FuncCall", body) = node(&e.tree)? else { return None };
    let path = strings(&body["funcname"])?;
    let function = match path.as_slice() {
        ["count"] => Function::Count,
        ["sum"] => Function::Sum,
        ["min"] => Function::Min,
        ["max"] => Function::Max,
        _ => return None,
    };
    if !plain_call(body) {
        return None;
    }
    if body["agg_star"] == true {
        return Some((function, None, false));
    }
    let [_] = body["args"].as_array()?.as_slice() else { return None };
    let distinct = body["agg_distinct"] == true;
    let tokens = lex(text);
    let open = tokens.iter().position(|t| t.is_char(b'('))?;
    let first = if distinct { tokens.get(open + 1)?.end } else { tokens.get(open)?.end };
    let argument = text.get(first..tokens.last()?.start)?.trim();
    // DISTINCT changes nothing for the least and the greatest.
    let distinct = distinct && !matches!(function, Function::Min | Function::Max);
    Some((function, Some(argument.to_owned()), distinct))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn there(alias: &str, column: &str) -> Option<(String, u32)> {
        let oid = match column {
            "n" => 1700,
            "t" => 1043,
            "d" => 1082,
            "f" => 701,
            _ => return None,
        };
        Some((format!("r_{alias}.\"{column}\""), oid))
    }

    fn ship(text: &str) -> Option<String> {
        Expression::read(text)?.shipped(&there)
    }

    #[test]
    fn parentheses_around_all_of_it() {
        assert_eq!(bare("((a.b))"), "a.b");
        assert_eq!(bare("(a) + (b)"), "(a) + (b)");
        assert_eq!(bare("(')')"), "')'");
    }

    #[test]
    fn what_is_shipped() {
        let e = "(l.n * ('1'::numeric - l.n))";
        assert_eq!(ship(e).unwrap(), "(r_l.\"n\" * ('1'::numeric - r_l.\"n\"))");
        let case = "CASE WHEN ((l.t)::text ~~ 'a%'::text) THEN l.n ELSE '0'::numeric END";
        assert!(ship(case).is_some());
        assert!(ship("EXTRACT(year FROM l.d)").is_some());
        assert!(ship("l.f").is_some());
        for refused in ["(l.f * 2)", "(l.n)::text", "now()", "(l.d)::text", "upper((l.t)::text)"] {
            assert_eq!(ship(refused), None, "{refused}");
        }
    }

    #[test]
    fn conditions_of_joins() {
        let two = equalities("((a.x = b.y) AND ((a.t)::text = (b.t)::text))").unwrap();
        assert_eq!(two[1], ("(a.t)::text".to_owned(), "(b.t)::text".to_owned()));
        assert_eq!(equalities("(a.x < b.y)"), None);
        assert_eq!(equalities("((a.x = b.y) OR (a.z = b.z))"), None);
        // Of booleans; a side that speaks of both tables is refused by the join.
        assert_eq!(equalities("((a.x = b.y) = b.z)").unwrap().len(), 1);
    }

    #[test]
    fn folds() {
        assert_eq!(fold("count(*)"), Some((Function::Count, None, false)));
        assert_eq!(
            fold("sum((l.n * l.n))"),
            Some((Function::Sum, Some("(l.n * l.n)".to_owned()), false))
        );
        assert_eq!(
            fold("count(DISTINCT l.t)"),
            Some((Function::Count, Some("l.t".to_owned()), true))
        );
        assert_eq!(fold("sum(l.n) FILTER (WHERE (l.n > '1'::numeric))"), None);
        assert_eq!(fold("(count(*) + 1)"), None);
    }

    #[test]
    fn references() {
        assert_eq!(reference("(count(*))"), Some("count(*)"));
        assert_eq!(reference("((a.x + b.y))"), Some("(a.x + b.y)"));
        for own in ["(a.x + b.y)", "count(*)", "a.x", "(a.x IS NULL)", "(a.x)::text", "(a.x)"] {
            assert_eq!(reference(own), None, "{own}");
        }
        assert!(reference("(COALESCE(a.x, 0))").is_some());
    }

    #[test]
    fn strictness() {
        assert!(is_strict("(l.n * ('1'::numeric - l.m))") && is_strict("l.n"));
        assert!(!is_strict("COALESCE(l.n, 0)") && !is_strict("'1'::numeric"));
        assert_eq!(names("(a.x + b.y)").unwrap(), ["a", "b"]);
        let there = |_: &str, column: &str| {
            Some((column.to_owned(), if column == "n" { 1700 } else { 23 }))
        };
        for (text, is) in [
            ("a.x", true),
            ("sum((a.n * ('1'::numeric - a.n)))", true),
            ("((a.x)::numeric * a.n)", true),
            ("count(*)", true),
            ("CASE WHEN (a.x > 3) THEN a.n ELSE '0'::numeric END", true),
            ("(a.x + 1)", false),
            ("sum((a.x * a.x))", false),
            ("(a.n / a.n)", false),
            ("(a.n)::integer", false),
            ("(10 / a.x)", false),
            ("\"substring\"(a.s, 1, a.x)", false),
        ] {
            assert_eq!(is_certain(text, &there), is, "{text}");
        }
        assert_eq!(qualified("sum((a * b.c))", "t"), "sum((t.a * b.c))");
        assert_eq!(names("count(*)").unwrap(), [""; 0]);
    }
}
