//! Conditions that the engine evaluates itself, because they speak of both sides of a
//! join or of groups: comparisons of columns with columns and literals under AND, OR and
//! NOT. Which types may be compared the engine decides.

use super::expression::{self, Expression, PREFIX, is_closed};
use super::term::{self, Term};
use crate::parse::{lex, node, strings};
use serde_json::Value;

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// An input, by its place in [`Condition::inputs`].
    Input(usize),
    /// A literal: its text, and the name of its type (`""` for a bare number).
    Literal(String, String),
    /// A numeric that is computed.
    Computed(Term),
}

/// A condition, three-valued as SQL's.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// All.
    And(Vec<Predicate>),
    /// Any.
    Or(Vec<Predicate>),
    /// Not.
    Not(Box<Predicate>),
    /// A comparison.
    Compare(Comparison, Operand, Operand),
    /// `IS NULL`, or with `false` `IS NOT NULL`.
    IsNull(usize, bool),
}

impl Predicate {
    /// Whether a number is computed for it.
    pub fn computes(&self) -> bool {
        let computed = |o: &Operand| matches!(o, Operand::Computed(_));
        match self {
            Predicate::And(all) | Predicate::Or(all) => all.iter().any(Predicate::computes),
            Predicate::Not(inner) => inner.computes(),
            Predicate::Compare(_, left, right) => computed(left) || computed(right),
            Predicate::IsNull(..) => false,
        }
    }
}

/// A condition with the expressions that it reads, as EXPLAIN prints them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Condition {
    /// Expressions.
    pub inputs: Vec<String>,
    /// Each of `predicates` must hold.
    pub predicates: Vec<Predicate>,
}

/// Reads a condition; `None` when it holds what the engine does not evaluate.
pub fn read(text: &str) -> Option<Condition> {
    if !is_closed(text) {
        return None;
    }
    let expression = Expression::read(text)?;
    let mut condition = Condition::default();
    let predicate = predicate(&expression, expression.tree(), &mut condition.inputs)?;
    condition.predicates.push(predicate);
    Some(condition)
}

fn predicate(e: &Expression<'_>, tree: &Value, inputs: &mut Vec<String>) -> Option<Predicate> {
    let (name, body) = node(tree)?;
    match name {
        "BoolExpr" => {
            let mut parts = body["args"]
                .as_array()?
                .iter()
                .map(|a| predicate(e, a, inputs))
                .collect::<Option<Vec<_>>>()?;
            match body["boolop"].as_u64()? {
                1 => Some(Predicate::And(parts)),
                2 => Some(Predicate::Or(parts)),
                3 => Some(Predicate::Not(Box::new(parts.pop()?))),
                _ => None,
            }
        }
        "AExpr" if body["kind"] == 1 => {
            let operator = strings(&body["name"])?;
            let comparison = match operator.as_slice() {
                ["="] => Comparison::Equal,
                ["<>"] => Comparison::NotEqual,
                ["<"] => Comparison::Less,
                ["<="] => Comparison::LessOrEqual,
                [">"] => Comparison::Greater,
                [">="] => Comparison::GreaterOrEqual,
                _ => return None,
            };
            let (left, right) = e.sides(body)?;
            let left = operand(left, inputs)?;
            let right = operand(right, inputs)?;
            Some(Predicate::Compare(comparison, left, right))
        }
        "NullTest" => {
            let Operand::Input(i) = operand(e.sides(body)?.0, inputs)? else { return None };
            match body["nulltesttype"].as_u64()? {
                1 => Some(Predicate::IsNull(i, true)),
                2 => Some(Predicate::IsNull(i, false)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn operand(text: &str, inputs: &mut Vec<String>) -> Option<Operand> {
    if expression::reference(text).is_none() {
        let e = Expression::read(text)?;
        if let Some((text, name)) = literal(e.tree()) {
            return Some(Operand::Literal(text, name));
        }
    }
    match term::read(text, inputs)? {
        Term::Input(i) => Some(Operand::Input(i)),
        computed => Some(Operand::Computed(computed)),
    }
}

/// A literal and the name of its type.
fn literal(tree: &Value) -> Option<(String, String)> {
    let value = |v: &Value| -> Option<String> {
        let value = v.pointer("/node/AConst/val")?;
        if let Some(i) = value.get("Ival") {
            return Some(i["ival"].as_i64().unwrap_or(0).to_string());
        }
        if let Some(f) = value.get("Fval") {
            return f["fval"].as_str().map(str::to_owned);
        }
        value.pointer("/Sval/sval").and_then(Value::as_str).map(str::to_owned)
    };
    match node(tree)? {
        ("AConst", _) => Some((value(tree)?, String::new())),
        ("TypeCast", body) => {
            let path = strings(&body["type_name"]["names"])?;
            let plain = body["type_name"]["typmods"].as_array().is_none_or(Vec::is_empty)
                && body["type_name"]["array_bounds"].as_array().is_none_or(Vec::is_empty);
            let name = (*path.last()?).to_owned();
            plain.then_some((value(&body["arg"])?, name))
        }
        _ => None,
    }
}

impl Expression<'_> {
    /// The texts at either side of an operator or of IS, which stands with them in
    /// parentheses of its own.
    fn sides(&self, body: &Value) -> Option<(&str, &str)> {
        let at = usize::try_from(body["location"].as_u64()?).ok()?.checked_sub(PREFIX.len())?;
        let tokens = lex(self.text());
        let operator = tokens.iter().position(|t| t.start == at)?;
        let mut depth = 0i32;
        let open = tokens.iter().take(operator).rev().find(|t| {
            depth += i32::from(t.is_char(b')')) - i32::from(t.is_char(b'('));
            depth < 0
        });
        depth = 0;
        let close = tokens.iter().skip(operator + 1).find(|t| {
            depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
            depth < 0
        });
        let operator = tokens.get(operator)?;
        let left = self.text().get(open.map_or(0, |t| t.end)..operator.start)?;
        let right = self.text().get(operator.end..close.map_or(self.text().len(), |t| t.start))?;
        Some((left.trim(), right.trim()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn conditions_over_two_sides() {
        let c = read("(((a.x = 'F'::bpchar) AND (b.y <> a.z)) OR (b.y IS NULL))").unwrap();
        assert_eq!(c.inputs, ["a.x", "b.y", "a.z"]);
        let [Predicate::Or(parts)] = c.predicates.as_slice() else { panic!() };
        assert_eq!(parts[1], Predicate::IsNull(1, true));
        let sum = read("(sum(l.q) > '300'::numeric)").unwrap();
        assert_eq!(sum.inputs, ["sum(l.q)"]);
        let literal = Operand::Literal("300".to_owned(), "numeric".to_owned());
        let [Predicate::Compare(Comparison::Greater, Operand::Input(0), l)] =
            sum.predicates.as_slice()
        else {
            panic!()
        };
        assert_eq!(*l, literal);
        let more = read("((p.n)::numeric > ((0.5 * sum(l.q))))").unwrap();
        assert_eq!(more.inputs, ["p.n", "((0.5 * sum(l.q)))"]);
        let null = read("((count(*)) IS NOT NULL)").unwrap();
        assert_eq!(null.inputs, ["(count(*))"]);
        assert!(read("(a.x ~~ 'b%'::text)").is_none());
        assert!(read("(a.x > (hashed SubPlan 1))").is_none());
    }
}
