//! Subqueries that read home alone and nothing of the query around them: their value is
//! asked of home first and stands in the statement as a literal, so that what remains can
//! be shipped and joined.

use crate::analyze::Analysis;
use crate::facts::HomeFacts;
use crate::parse::{Lexeme, lex, node, visit};
use crate::quote::{ident, literal, qualified};
use serde_json::Value;

/// A subquery whose value may stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// The bytes that are replaced.
    pub span: (usize, usize),
    /// What home is asked: one row of a value and its type, both as text. Fails when the
    /// subquery speaks of the query around it.
    pub question: String,
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

/// The subqueries of a statement that may be asked first, innermost left to home.
pub fn find(text: &str, a: &Analysis, home: &HomeFacts) -> Vec<Constant> {
    let tokens = lex(text);
    let mut out: Vec<Constant> = Vec::new();
    visit(&a.select, &mut |name, body| {
        if name == "SubLink"
            && let Some(c) = constant(text, &tokens, body, home)
            && !out.iter().any(|o| o.span.0 <= c.span.0 && c.span.1 <= o.span.1)
        {
            out.push(c);
        }
    });
    out
}

fn constant(text: &str, tokens: &[Lexeme], body: &Value, home: &HomeFacts) -> Option<Constant> {
    let at = usize::try_from(body["location"].as_u64()?).ok()?;
    let first = tokens.iter().position(|t| t.start == at)?;
    // PostgreSQL's SubLinkType: ANY is 3, EXPR is 5 (one more in the tree's numbers).
    let kind = body["sub_link_type"].as_u64()?;
    let word = |i: usize| tokens.get(i).and_then(|t| text.get(t.start..t.end));
    let not_in = kind == 3 && word(first).is_some_and(|w| w.eq_ignore_ascii_case("not"));
    if !not_in && kind != 5 {
        return None;
    }
    let only_home = |select: &Value| {
        let mut ok = true;
        visit(select, &mut |name, body| match name {
            "RangeVar" => {
                let relation = body["relname"].as_str().unwrap_or("");
                let written = match body["schemaname"].as_str().filter(|s| !s.is_empty()) {
                    Some(s) => qualified(s, relation),
                    None => ident(relation),
                };
                let kind = home.relation(&written).and_then(|r| r.kind.as_deref());
                ok &= matches!(kind, Some("r" | "p" | "m"));
            }
            "ParamRef" => ok = false,
            _ => {}
        });
        ok
    };
    let (_, select) = node(&body["subselect"])?;
    if !only_home(select) {
        return None;
    }
    let open = (first..tokens.len()).find(|i| tokens[*i].is_char(b'('))?;
    let mut depth = 0i32;
    let close = (open..tokens.len()).find(|i| {
        depth += i32::from(tokens[*i].is_char(b'(')) - i32::from(tokens[*i].is_char(b')'));
        depth == 0
    })?;
    let start = if not_in { tokens[first].start } else { tokens[open].start };
    let end = tokens[close].end;
    let query = text.get(tokens[open].start..end)?;
    let value = if not_in { format!("ARRAY{query}") } else { query.to_owned() };
    Some(Constant {
        span: (start, end),
        question: format!(
            "SELECT v::pg_catalog.text, pg_catalog.pg_typeof(v)::pg_catalog.text FROM (SELECT {value} AS v) AS pgspan"
        ),
        not_in,
    })
}
