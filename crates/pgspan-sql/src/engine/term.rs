//! Arithmetic on numerics that the engine does itself, read from the text that EXPLAIN
//! prints: every operation stands in parentheses of its own, and every cast is written.

use super::expression::{self, Expression, reference, split, unwrapped};
use crate::parse::{Lexeme, lex, node, strings};
use serde_json::Value;

/// An operation on two numerics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

/// A numeric expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// A column of the input.
    Input(usize),
    /// A literal of the type numeric.
    Literal(String),
    /// An integer as numeric.
    Numeric(Box<Term>),
    /// An operation.
    Binary(Operation, Box<Term>, Box<Term>),
}

impl Term {
    /// Whether it is more than an input.
    pub fn is_computed(&self) -> bool {
        !matches!(self, Term::Input(_))
    }

    /// Adds the columns that it reads, each once.
    pub fn inputs(&self, out: &mut Vec<usize>) {
        match self {
            Term::Input(i) if !out.contains(i) => out.push(*i),
            Term::Input(_) | Term::Literal(_) => {}
            Term::Numeric(inner) => inner.inputs(out),
            Term::Binary(_, a, b) => {
                a.inputs(out);
                b.inputs(out);
            }
        }
    }

    /// With other places for its inputs.
    pub fn placed(&self, place: &dyn Fn(usize) -> usize) -> Term {
        match self {
            Term::Input(i) => Term::Input(place(*i)),
            Term::Literal(text) => Term::Literal(text.clone()),
            Term::Numeric(inner) => Term::Numeric(Box::new(inner.placed(place))),
            Term::Binary(op, a, b) => {
                Term::Binary(*op, Box::new(a.placed(place)), Box::new(b.placed(place)))
            }
        }
    }
}

/// Reads an expression; what it takes as it is (columns, calls, and what a node below has
/// computed) goes to `inputs` by its text.
pub fn read(text: &str, inputs: &mut Vec<String>) -> Option<Term> {
    let text = text.trim();
    let mut input = |text: &str| {
        let at = inputs.iter().position(|i| i == text).unwrap_or_else(|| {
            inputs.push(text.to_owned());
            inputs.len() - 1
        });
        Some(Term::Input(at))
    };
    if reference(text).is_some() {
        return input(text);
    }
    let e = Expression::read(text)?;
    match node(e.tree())? {
        ("ColumnRef" | "FuncCall", _) => input(text),
        // Without a cast it is numeric only if an integer's form would not give it back
        // (ruleutils.c: get_const_expr).
        ("AConst", body) => body.pointer("/val/Fval").and_then(|_| literal(text)),
        ("TypeCast", body) => {
            let path = strings(&body["type_name"]["names"])?;
            let plain = body["type_name"]["typmods"].as_array().is_none_or(Vec::is_empty)
                && body["type_name"]["array_bounds"].as_array().is_none_or(Vec::is_empty);
            if path.last() != Some(&"numeric") || !plain {
                return None;
            }
            if let Some(value) = body.pointer("/arg/node/AConst/val/Sval/sval") {
                return literal(value.as_str()?);
            }
            // A cast puts parentheses around whatever it is of.
            let inner = unwrapped(cast(text)?)?;
            let leaf = reference(inner).is_some() || is_leaf(inner);
            if leaf { Some(Term::Numeric(Box::new(input(inner)?))) } else { None }
        }
        ("AExpr", body) if body["kind"] == 1 && !body["lexpr"].is_null() => {
            let operator = strings(&body["name"])?;
            let (operation, sign) = match operator.as_slice() {
                ["+"] => (Operation::Add, b'+'),
                ["-"] => (Operation::Subtract, b'-'),
                ["*"] => (Operation::Multiply, b'*'),
                ["/"] => (Operation::Divide, b'/'),
                _ => return None,
            };
            let sides = split(unwrapped(text)?, |t: &Lexeme| t.is_char(sign));
            let [left, right] = sides.as_slice() else { return None };
            let left = read(left, inputs)?;
            let right = read(right, inputs)?;
            Some(Term::Binary(operation, Box::new(left), Box::new(right)))
        }
        _ => None,
    }
}

/// A column or a call.
fn is_leaf(text: &str) -> bool {
    let e = Expression::read(text);
    let tree: Option<(&str, &Value)> = e.as_ref().and_then(|e| node(e.tree()));
    matches!(tree, Some(("ColumnRef" | "FuncCall", _)))
}

/// What stands before the last `::`.
fn cast(text: &str) -> Option<&str> {
    let tokens = lex(text);
    let at = tokens.iter().rev().find(|t| text.get(t.start..t.end) == Some("::"))?;
    let before = text.get(..at.start)?.trim();
    expression::is_closed(before).then_some(before)
}

fn literal(text: &str) -> Option<Term> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (plain(whole) && plain(fraction) && whole.len() + fraction.len() > 0)
        .then(|| Term::Literal(text.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Term, Vec<String>)> {
        let mut inputs = Vec::new();
        let term = read(text, &mut inputs)?;
        Some((term, inputs))
    }

    #[test]
    fn terms() {
        let (term, inputs) = of("(0.2 * (sum(l.q) / (count(l.q))::numeric))").unwrap();
        assert_eq!(inputs, ["sum(l.q)", "count(l.q)"]);
        let quotient = Term::Binary(
            Operation::Divide,
            Box::new(Term::Input(0)),
            Box::new(Term::Numeric(Box::new(Term::Input(1)))),
        );
        let fifth = Term::Literal("0.2".to_owned());
        assert_eq!(term, Term::Binary(Operation::Multiply, Box::new(fifth), Box::new(quotient)));
        let (_, inputs) = of("(l.p * ('1'::numeric - l.d))").unwrap();
        assert_eq!(inputs, ["l.p", "l.d"]);
        let (term, inputs) = of("(a.n)::numeric").unwrap();
        assert_eq!(
            (term, inputs),
            (Term::Numeric(Box::new(Term::Input(0))), vec!["a.n".to_owned()])
        );
    }

    #[test]
    fn what_a_node_below_computed_is_taken_as_it_is() {
        let (term, inputs) = of("((0.5 * sum(l.q)))").unwrap();
        assert_eq!((term, inputs), (Term::Input(0), vec!["((0.5 * sum(l.q)))".to_owned()]));
        let (_, inputs) = of("(a.x + (sum(l.q)))").unwrap();
        assert_eq!(inputs, ["a.x", "(sum(l.q))"]);
        let (_, inputs) = of("((count(*)))::numeric").unwrap();
        assert_eq!(inputs, ["(count(*))"]);
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "5",
            "'NaN'::numeric",
            "(a.x)::integer",
            "((a.x + a.y))::numeric",
            "(a.x || a.y)",
            "(- a.x)",
            "CASE WHEN a.x THEN 1.5 END",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
