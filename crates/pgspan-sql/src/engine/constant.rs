//! Subqueries that need nothing of the query around them: their value is computed first
//! and stands in the statement as a literal, so that what remains can be shipped and
//! joined. Those that read home alone are asked of home, those that read foreign tables
//! are run as statements of their own, under the same snapshots.

use crate::analyze::Analysis;
use crate::catalog::CatalogSnapshot;
use crate::facts::HomeFacts;
use crate::parse::{Lexeme, closing, lex, node, top_level, visit};
use crate::quote::{ident, literal, qualified};
use pg_query::protobuf::Token;
use serde_json::Value;

/// A subquery whose value may stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// The bytes that are replaced.
    pub span: (usize, usize),
    /// The subquery, with the WITH queries that it may read. Fails at home when it speaks
    /// of the query around it.
    pub query: String,
    /// `NOT IN`: the value is an array.
    not_in: bool,
}

/// Types that a literal of their text form gives back exactly.
const TYPES: &[&str] = &[
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "text",
    "character varying",
    "date",
    "timestamp without time zone",
    "boolean",
];

/// Elements that a NOT IN list may have, as bytes of its text.
const LIST_BYTES_MAX: usize = 256 * 1024;

impl Constant {
    /// What home is asked: one row of a value and its type, both as text (by `concat`, since a
    /// cast to text may be a user's). `query` is the subquery, or its finish.
    pub fn question(&self, query: &str) -> String {
        let array = if self.not_in { "ARRAY" } else { "" };
        format!(
            "SELECT CASE WHEN v IS NOT NULL THEN pg_catalog.concat(v) END, pg_catalog.concat(pg_catalog.pg_typeof(v)) FROM (SELECT {array}({query}) AS v) AS pgspan_v"
        )
    }

    /// The literal for home's answer; `None` where it would not be the same.
    pub fn literal(&self, value: Option<&str>, type_name: &str) -> Option<String> {
        let element = type_name.strip_suffix("[]");
        let known = if self.not_in { element? } else { type_name };
        if !TYPES.contains(&known) || value.is_some_and(|v| v.len() > LIST_BYTES_MAX) {
            return None;
        }
        let text = value.map_or_else(|| "NULL".to_owned(), literal);
        Some(if self.not_in {
            format!("<> ALL ({text}::{type_name})")
        } else {
            format!("({text}::{type_name})")
        })
    }
}

/// The subqueries of a statement over home alone that may be asked first, innermost left
/// to home.
pub fn find(text: &str, (a, select): (&Analysis, &Value), home: &HomeFacts) -> Vec<Constant> {
    let only_home = |select: &Value| {
        relations(select).iter().all(|body| {
            let relation = body["relname"].as_str().unwrap_or("");
            let written = match body["schemaname"].as_str().filter(|s| !s.is_empty()) {
                Some(s) => qualified(s, relation),
                None => ident(relation),
            };
            let kind = home.relation(&written).and_then(|r| r.kind.as_deref());
            matches!(kind, Some("r" | "p" | "m"))
        })
    };
    let mut found = outermost(text, select, &only_home);
    found.retain(|c| a.stands_alone(c.span));
    found
}

/// The subqueries that read foreign tables, or WITH queries that may do so.
pub fn find_foreign(
    text: &str,
    (a, select): (&Analysis, &Value),
    catalog: &CatalogSnapshot,
) -> Vec<Constant> {
    let mut with: Vec<&str> = Vec::new();
    visit(&select["with_clause"], &mut |name, body| {
        if name == "CommonTableExpr" {
            with.extend(body["ctename"].as_str());
        }
    });
    let reads = |select: &Value| {
        let named =
            |b: &&Value, test: &dyn Fn(&str) -> bool| b["relname"].as_str().is_some_and(test);
        let relations = relations(select);
        relations.iter().any(|b| named(b, &|n| catalog.is_foreign_name(n) || with.contains(&n)))
    };
    let clause = with_clause(text, a.query_start);
    let mut found = outermost(text, select, &reads);
    found.retain_mut(|constant| {
        if a.stands_alone(constant.span) {
            return true;
        }
        // With the WITH queries of the whole statement it may, if it reads those and no
        // table that they would hide.
        let Some((start, end)) = clause else { return false };
        let within = |at: usize| (constant.span.0..constant.span.1).contains(&at);
        let mut uses = a.with_uses.iter().filter(|u| within(u.location) && !within(u.defined));
        let mut tables = a.tables.iter().filter(|t| within(t.location));
        let known = uses.all(|u| (start..end).contains(&u.defined))
            && !tables.any(|t| t.schema.is_none() && with.contains(&t.name.as_str()));
        if let Some(clause) = text.get(start..end).filter(|_| known) {
            constant.query = format!("{clause} {}", constant.query);
        }
        known
    });
    found
}

/// The bytes of the WITH clause before the main query.
fn with_clause(text: &str, start: usize) -> Option<(usize, usize)> {
    let tokens: Vec<Lexeme> = lex(text).into_iter().filter(|t| t.start >= start).collect();
    let main = top_level(&tokens, Token::Select)?;
    Some((tokens.first()?.start, tokens.get(main)?.start))
}

fn relations(select: &Value) -> Vec<&Value> {
    let mut out = Vec::new();
    visit(select, &mut |name, body| {
        if name == "RangeVar" {
            out.push(body);
        }
    });
    out
}

fn outermost(text: &str, select: &Value, reads: &dyn Fn(&Value) -> bool) -> Vec<Constant> {
    let tokens = lex(text);
    let mut out: Vec<Constant> = Vec::new();
    visit(select, &mut |name, body| {
        if name == "SubLink"
            && let Some(c) = constant(text, &tokens, body, reads)
            && !out.iter().any(|o| o.span.0 <= c.span.0 && c.span.1 <= o.span.1)
        {
            out.push(c);
        }
    });
    out
}

fn constant(
    text: &str,
    tokens: &[Lexeme],
    body: &Value,
    reads: &dyn Fn(&Value) -> bool,
) -> Option<Constant> {
    let at = usize::try_from(body["location"].as_u64()?).ok()?;
    let first = tokens.iter().position(|t| t.start == at)?;
    // PostgreSQL's SubLinkType: ANY is 3, EXPR is 5 (one more in the tree's numbers).
    let kind = body["sub_link_type"].as_u64()?;
    let word = |i: usize| tokens.get(i).and_then(|t| text.get(t.start..t.end));
    let not_in = kind == 3 && word(first).is_some_and(|w| w.eq_ignore_ascii_case("not"));
    if !not_in && kind != 5 {
        return None;
    }
    let (_, select) = node(&body["subselect"])?;
    let mut parameter = false;
    visit(select, &mut |name, _| parameter |= name == "ParamRef");
    if parameter || !reads(select) {
        return None;
    }
    let open = (first..tokens.len()).find(|i| tokens[*i].is_char(b'('))?;
    let close = closing(tokens, open)?;
    let start = if not_in { tokens[first].start } else { tokens[open].start };
    let query = text.get(tokens[open].end..tokens[close].start)?.trim().to_owned();
    Some(Constant { span: (start, tokens[close].end), query, not_in })
}
