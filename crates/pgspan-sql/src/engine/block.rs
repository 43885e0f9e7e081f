//! Blocks: subqueries that read foreign tables and stand by themselves. Each is split and
//! run as a statement of its own, at the same time and under the same snapshots, and its
//! finish takes its place in the statement around it.

use crate::analyze::Analysis;
use crate::catalog::CatalogSnapshot;
use crate::parse::{Lexeme, closing, lex, node, top_level, visit};
use pg_query::protobuf::Token;
use serde_json::Value;

/// The bytes between the parentheses of one.
pub type Span = (usize, usize);

/// The outermost blocks of a statement, in the order of the text.
pub fn find(text: &str, (a, select): (&Analysis, &Value), catalog: &CatalogSnapshot) -> Vec<Span> {
    let tokens = lex(text);
    let mut out: Vec<Span> = Vec::new();
    visit(select, &mut |name, body| {
        let (query, from) = match name {
            // The name of a WITH query stands before its parenthesis.
            "CommonTableExpr" => (&body["ctequery"], body["location"].as_u64()),
            "SubLink" if body["sub_link_type"] == 5 => {
                (&body["subselect"], body["location"].as_u64())
            }
            "RangeSubselect" => (&body["subquery"], first_place(&body["subquery"])),
            _ => return,
        };
        let foreign = reads_foreign(query, catalog);
        let span = from.and_then(|n| usize::try_from(n).ok()).and_then(|at| match name {
            "RangeSubselect" => around(&tokens, at),
            "CommonTableExpr" => {
                // Its name, and perhaps names of columns, stand before AS.
                let word = tokens.iter().find(|t| t.start >= at && t.token == Token::As as i32);
                word.and_then(|t| after(&tokens, t.end))
            }
            _ => after(&tokens, at),
        });
        // By itself the name of a WITH query around it would mean another table.
        if let Some(span) = span.filter(|span| foreign && a.stands_alone(*span))
            && !out.iter().any(|o| o.0 <= span.0 && span.1 <= o.1)
        {
            out.push(span);
        }
    });
    out.sort_unstable();
    out
}

/// The arms of a set operation (UNION, INTERSECT, EXCEPT) that read foreign tables: each is
/// a query by itself, and home combines what they give. `None` where there is none, or an
/// arm is no plain SELECT.
pub fn arms(
    text: &str,
    (a, select): (&Analysis, &Value),
    catalog: &CatalogSnapshot,
) -> Option<Vec<Span>> {
    if !select["with_clause"].is_null() || leaf(select) {
        return None;
    }
    let tokens: Vec<Lexeme> = lex(text).into_iter().filter(|t| t.start >= a.query_start).collect();
    let end = tokens.iter().position(|t| t.is_char(b';')).unwrap_or(tokens.len());
    let mut spans = Vec::new();
    divide(tokens.get(..end)?, &mut spans)?;
    let mut queries = Vec::new();
    leaves(select, &mut queries);
    if queries.len() != spans.len() {
        return None;
    }
    let both = spans.into_iter().zip(queries);
    let own: Vec<Span> =
        both.filter(|(_, q)| reads_foreign(q, catalog)).map(|(span, _)| span).collect();
    if !own.iter().all(|span| a.stands_alone(*span)) {
        return None;
    }
    (!own.is_empty()).then_some(own)
}

/// Whether a SELECT is no set operation.
pub(super) fn leaf(select: &Value) -> bool {
    select["op"] == 1
}

/// The arms of a set operation, or the query itself.
pub(super) fn leaves<'a>(select: &'a Value, out: &mut Vec<&'a Value>) {
    if leaf(select) {
        out.push(select);
    } else {
        leaves(&select["larg"], out);
        leaves(&select["rarg"], out);
    }
}

/// The texts of the arms, in their order.
fn divide(tokens: &[Lexeme], out: &mut Vec<Span>) -> Option<()> {
    let first = tokens.first()?;
    if first.is_char(b'(') && closing(tokens, 0)? + 1 == tokens.len() {
        return divide(tokens.get(1..tokens.len() - 1)?, out);
    }
    let combines = [Token::Union, Token::Intersect, Token::Except];
    let next = |from: usize| {
        let rest = tokens.get(from..)?;
        combines.iter().filter_map(|t| Some(from + top_level(rest, *t)?)).min()
    };
    let mut at = 0;
    let mut several = false;
    while let Some(end) = next(at) {
        several = true;
        divide(tokens.get(at..end)?, out)?;
        let quantified = tokens
            .get(end + 1)
            .is_some_and(|t| t.token == Token::All as i32 || t.token == Token::Distinct as i32);
        at = end + 1 + usize::from(quantified);
    }
    let mut last = tokens.get(at..)?;
    if several {
        // What follows the last arm is said of all of them.
        let tails = [Token::Order, Token::Limit, Token::Offset, Token::Fetch, Token::For];
        let tail = tails.iter().filter_map(|t| top_level(last, *t)).min();
        last = last.get(..tail.unwrap_or(last.len()))?;
        return divide(last, out);
    }
    (first.token == Token::Select as i32).then_some(())?;
    out.push((first.start, last.last()?.end));
    Some(())
}

fn reads_foreign(query: &Value, catalog: &CatalogSnapshot) -> bool {
    let mut foreign = false;
    visit(query, &mut |name, body| {
        foreign |= name == "RangeVar"
            && body["relname"].as_str().is_some_and(|n| catalog.is_foreign_name(n));
    });
    foreign
}

/// The place of the first thing that a query's select list says.
fn first_place(query: &Value) -> Option<u64> {
    let (_, body) = node(query)?;
    body["target_list"].as_array()?.first()?.pointer("/node/ResTarget/location")?.as_u64()
}

/// The content of the first parentheses from a place on.
fn after(tokens: &[Lexeme], at: usize) -> Option<Span> {
    let open = tokens.iter().position(|t| t.start >= at && t.is_char(b'('))?;
    content(tokens, open)
}

/// The content of the parentheses right before the SELECT whose list begins at a place.
fn around(tokens: &[Lexeme], at: usize) -> Option<Span> {
    let first = tokens.iter().position(|t| t.start == at)?;
    let select = (0..first).rev().find(|i| tokens[*i].token == Token::Select as i32)?;
    let open = select.checked_sub(1).filter(|i| tokens[*i].is_char(b'('))?;
    content(tokens, open)
}

fn content(tokens: &[Lexeme], open: usize) -> Option<Span> {
    let close = closing(tokens, open)?;
    (close > open + 1).then(|| (tokens[open + 1].start, tokens[close - 1].end))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::analyze::analyze;
    use crate::parse::select_value;
    use std::collections::{HashMap, HashSet};

    fn catalog() -> CatalogSnapshot {
        let names = HashSet::from(["ro".to_owned()]);
        CatalogSnapshot::new(
            names,
            HashMap::from([("max".to_owned(), true)]),
            HashSet::new(),
            HashSet::new(),
        )
    }

    #[test]
    fn blocks_of_a_statement() {
        let catalog = catalog();
        let of = |sql: &str| -> Vec<String> {
            let (a, select) = (analyze(sql, &catalog).unwrap(), select_value(sql).unwrap());
            let spans = find(sql, (&a, &select), &catalog);
            spans.iter().map(|s| sql[s.0..s.1].to_owned()).collect()
        };
        assert_eq!(
            of("WITH t (a) AS (SELECT 1 FROM ro) SELECT (SELECT max(a) FROM t) FROM u"),
            ["SELECT 1 FROM ro"]
        );
        assert_eq!(
            of("SELECT 1 FROM u, (SELECT (x), y FROM ro) s WHERE u.a > (SELECT 2 FROM ro)"),
            ["SELECT (x), y FROM ro", "SELECT 2 FROM ro"]
        );
        assert!(of("SELECT 1 FROM ro, (SELECT 1 FROM u) s").is_empty());
        // The name is that of the WITH query, not of the foreign table.
        assert_eq!(
            of("WITH ro AS (SELECT 1 FROM ro), s AS (SELECT 2 FROM ro) SELECT 1 FROM s"),
            ["SELECT 1 FROM ro"]
        );
    }

    #[test]
    fn arms_of_set_operations() {
        let catalog = catalog();
        let of = |sql: &str| -> Vec<String> {
            let Ok(a) = analyze(sql, &catalog) else { return Vec::new() };
            let select = select_value(sql).unwrap();
            let spans = arms(sql, (&a, &select), &catalog).unwrap_or_default();
            spans.iter().map(|s| sql[s.0..s.1].to_owned()).collect()
        };
        assert_eq!(
            of(
                "SELECT 1 FROM ro UNION ALL SELECT 2 FROM u UNION SELECT 3 FROM ro ORDER BY 1 LIMIT 2;"
            ),
            ["SELECT 1 FROM ro", "SELECT 3 FROM ro"]
        );
        assert_eq!(
            of(
                "(SELECT 1 FROM ro ORDER BY 1 LIMIT 1) EXCEPT ((SELECT 2 FROM ro) INTERSECT ALL SELECT 3 FROM ro WHERE a IN (SELECT 4 UNION SELECT 5))"
            ),
            [
                "SELECT 1 FROM ro ORDER BY 1 LIMIT 1",
                "SELECT 2 FROM ro",
                "SELECT 3 FROM ro WHERE a IN (SELECT 4 UNION SELECT 5)"
            ]
        );
        assert!(of("SELECT 1 FROM ro").is_empty());
        assert!(of("SELECT 1 FROM ro UNION VALUES (1)").is_empty());
        assert!(of("TABLE ro UNION SELECT 1 FROM ro").is_empty());
        assert!(of("WITH t AS (SELECT 1) SELECT 1 FROM ro UNION SELECT * FROM t").is_empty());
        assert!(of("SELECT 1 UNION SELECT 2 FROM u").is_empty());
    }
}
