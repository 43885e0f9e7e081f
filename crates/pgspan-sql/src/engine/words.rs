//! The text of one SELECT as tokens: where its clauses, the items of its lists and its calls
//! are.

use crate::cause::Cause;
use crate::parse::{Lexeme, lex, top_level};
use crate::route::Reason;
use pg_query::protobuf::Token;
use serde_json::Value;
use std::ops::Range;

/// A clause's tokens.
pub(super) type Span = Range<usize>;

/// Where the clauses of a SELECT are.
pub(super) struct Clauses {
    pub(super) list: Span,
    pub(super) from: Span,
    pub(super) where_: Option<Span>,
    pub(super) group: Option<Span>,
    pub(super) having: Option<Span>,
    pub(super) window: Option<Span>,
    pub(super) order: Option<Span>,
    /// LIMIT, OFFSET and FETCH, with their keywords.
    pub(super) limit: Option<Span>,
}

/// A text and its tokens, from the SELECT on.
pub(super) struct Words<'a> {
    pub(super) text: &'a str,
    tokens: Vec<Lexeme>,
}

impl<'a> Words<'a> {
    /// The words of a text from a byte on.
    pub(super) fn new(text: &'a str, start: usize) -> Words<'a> {
        Words { text, tokens: lex(text).into_iter().filter(|t| t.start >= start).collect() }
    }

    pub(super) fn is(&self, i: usize, token: Token) -> bool {
        self.tokens.get(i).is_some_and(|t| t.token == token as i32)
    }

    pub(super) fn is_char(&self, i: usize, c: u8) -> bool {
        self.tokens.get(i).is_some_and(|t| t.is_char(c))
    }

    pub(super) fn source(&self, span: &Span) -> &str {
        let (start, end) = self.bytes(span);
        self.text.get(start..end).unwrap_or("")
    }

    /// Takes the WITH clause away, and gives its text.
    pub(super) fn take_with(&mut self) -> Result<String, Reason> {
        let main = top_level(&self.tokens, Token::Select);
        let main = main.ok_or(Reason::new(Cause::ClausesNotFound))?;
        let text = self.source(&(0..main)).to_owned();
        self.tokens.drain(..main);
        Ok(text)
    }

    /// Where the clauses are, by the keywords outside parentheses.
    pub(super) fn clauses(&self) -> Result<Clauses, Reason> {
        let odd = || Reason::new(Cause::ClausesNotFound);
        if !self.is(0, Token::Select) {
            return Err(odd());
        }
        let mut first = 1;
        if self.is(first, Token::Distinct) || self.is(first, Token::All) {
            first += 1;
        }
        let mut marks: Vec<(Token, usize, usize)> = Vec::new();
        let mut depth = 0i32;
        let mut end = self.tokens.len();
        for (i, t) in self.tokens.iter().enumerate().skip(first) {
            if t.is_char(b'(') || t.is_char(b'[') {
                depth += 1;
            }
            if t.is_char(b')') || t.is_char(b']') {
                depth -= 1;
                if depth < 0 {
                    end = i;
                    break;
                }
            }
            if depth > 0 {
                continue;
            }
            if t.is_char(b';') {
                end = i;
                break;
            }
            let is_distinct_from = self.is(i, Token::From) && self.is(i - 1, Token::Distinct);
            let mark = if self.is(i, Token::From) && !is_distinct_from && marks.is_empty() {
                Some((Token::From, i + 1))
            } else if marks.is_empty() {
                None
            } else if self.is(i, Token::Where) {
                Some((Token::Where, i + 1))
            } else if self.is(i, Token::GroupP) && self.is(i + 1, Token::By) {
                Some((Token::GroupP, i + 2))
            } else if self.is(i, Token::Having) {
                Some((Token::Having, i + 1))
            } else if self.is(i, Token::Window) {
                Some((Token::Window, i + 1))
            } else if self.is(i, Token::Order) && self.is(i + 1, Token::By) {
                Some((Token::Order, i + 2))
            } else if (self.is(i, Token::Limit)
                || self.is(i, Token::Offset)
                || self.is(i, Token::Fetch))
                && !marks.iter().any(|m| m.0 == Token::Limit)
            {
                Some((Token::Limit, i))
            } else {
                None
            };
            if let Some((token, after)) = mark {
                if marks.iter().any(|m| m.0 == token) {
                    return Err(odd());
                }
                marks.push((token, i, after));
            }
        }
        let span = |token: Token| -> Option<Span> {
            let at = marks.iter().position(|m| m.0 == token)?;
            let (_, _, after) = marks.get(at).copied()?;
            Some(after..marks.get(at + 1).map_or(end, |m| m.1))
        };
        let from = span(Token::From).ok_or_else(odd)?;
        let list_end = marks.first().map_or(end, |m| m.1);
        Ok(Clauses {
            list: first..list_end,
            from,
            where_: span(Token::Where),
            group: span(Token::GroupP),
            having: span(Token::Having),
            window: span(Token::Window),
            order: span(Token::Order),
            limit: span(Token::Limit),
        })
    }

    /// The items of a list, which must be as many as the tree has.
    pub(super) fn items(&self, span: &Span, expected: usize) -> Result<Vec<Span>, Reason> {
        let mut out = Vec::new();
        let mut depth = 0i32;
        let mut start = span.start;
        for i in span.clone() {
            let opens = self.is_char(i, b'(') || self.is_char(i, b'[');
            let closes = self.is_char(i, b')') || self.is_char(i, b']');
            depth += i32::from(opens) - i32::from(closes);
            if depth == 0 && self.is_char(i, b',') {
                out.push(start..i);
                start = i + 1;
            }
        }
        out.push(start..span.end);
        if out.len() == expected && out.iter().all(|s| !s.is_empty()) {
            Ok(out)
        } else {
            Err(Reason::new(Cause::ListNotFound))
        }
    }

    /// An item of ORDER BY: what it sorts by, and how.
    pub(super) fn sort_key(&self, span: &Span) -> (Span, Span) {
        let word = |i: usize| {
            let t = self.tokens.get(i)?;
            self.text.get(t.start..t.end)
        };
        let is = |i: usize, words: &[&str]| {
            i > span.start
                && word(i).is_some_and(|w| words.iter().any(|k| w.eq_ignore_ascii_case(k)))
        };
        let mut end = span.end;
        if is(end - 1, &["first", "last"]) && is(end - 2, &["nulls"]) {
            end -= 2;
        }
        // Behind a point it is a column's name.
        if is(end - 1, &["asc", "desc"]) && !self.is_char(end - 2, b'.') {
            end -= 1;
        } else if let Some(using) = (span.start..end).rev().find(|i| self.is(*i, Token::Using)) {
            end = using;
        }
        (span.start..end, end..span.end)
    }

    pub(super) fn without_alias(&self, span: &Span) -> Result<Span, Reason> {
        let mut end = span.end.saturating_sub(1);
        if self.is(end.saturating_sub(1), Token::As) {
            end -= 1;
        }
        if end <= span.start {
            return Err(Reason::new(Cause::AliasNotFound));
        }
        Ok(span.start..end)
    }

    pub(super) fn token_at(&self, body: &Value) -> Result<usize, Reason> {
        let at = body["location"].as_u64().and_then(|n| usize::try_from(n).ok());
        at.and_then(|at| self.tokens.iter().position(|t| t.start == at))
            .ok_or(Reason::new(Cause::ExpressionNotFound))
    }

    /// The tokens of a function call that is no window call: name, arguments.
    pub(super) fn call_span(&self, body: &Value) -> Result<Span, Reason> {
        let start = self.token_at(body)?;
        let mut depth = 0i32;
        for i in start..self.tokens.len() {
            depth += i32::from(self.is_char(i, b'(')) - i32::from(self.is_char(i, b')'));
            if depth == 0 && self.is_char(i, b')') {
                return Ok(start..i + 1);
            }
        }
        Err(Reason::new(Cause::CallNotFound))
    }

    /// Bytes of some tokens; none where there are none.
    pub(super) fn bytes(&self, span: &Span) -> (usize, usize) {
        match self.tokens.get(span.clone()) {
            Some([first, .., last]) => (first.start, last.end),
            Some([only]) => (only.start, only.end),
            _ => (0, 0),
        }
    }
}
