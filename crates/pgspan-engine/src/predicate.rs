//! Conditions → DataFusion's expressions, for the comparisons that are proven: integers,
//! dates and times with their own kind; numerics of one scale; text, bytes and the like
//! for equality alone. NULL makes any of them unknown, at either end.

use crate::GiveUp;
use crate::arithmetic;
use crate::decode::power_of_ten;
use crate::types::{Column, Repr};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{self, BinaryExpr, Column as ColumnExpr};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::predicate::{Comparison, Operand, Predicate};
use pgspan_sql::engine::term::Term;
use std::sync::Arc;

type Expr = Arc<dyn PhysicalExpr>;

/// All conditions over inputs that stand at the given places of a batch.
pub(crate) fn all(
    predicates: &[Predicate],
    columns: &[Column],
    places: &[usize],
) -> Result<Expr, GiveUp> {
    let parts =
        predicates.iter().map(|p| expr(p, columns, places)).collect::<Result<Vec<_>, _>>()?;
    joined(parts, Operator::And)
}

fn joined(parts: Vec<Expr>, operator: Operator) -> Result<Expr, GiveUp> {
    let one = |a: Expr, b: Expr| Arc::new(BinaryExpr::new(a, operator, b)) as Expr;
    parts.into_iter().reduce(one).ok_or(GiveUp::new(Cause::EmptyCondition, ""))
}

fn expr(p: &Predicate, columns: &[Column], places: &[usize]) -> Result<Expr, GiveUp> {
    let each = |list: &[Predicate]| {
        list.iter().map(|p| expr(p, columns, places)).collect::<Result<Vec<_>, _>>()
    };
    match p {
        Predicate::And(list) => joined(each(list)?, Operator::And),
        Predicate::Or(list) => joined(each(list)?, Operator::Or),
        Predicate::Not(inner) => Ok(expressions::not(expr(inner, columns, places)?)?),
        Predicate::IsNull(i, null) => {
            let input = column(*i, places)?;
            Ok(if *null { expressions::is_null(input)? } else { expressions::is_not_null(input)? })
        }
        Predicate::Compare(comparison, left, right) => {
            let refuse = || GiveUp::new(Cause::ComparisonNotProven, format!("{comparison:?}"));
            let sides = match plain(*comparison, left, right, columns, places)? {
                Some(sides) => Some(sides),
                None => numbers(left, right, columns, places)?,
            };
            let (l, r) = sides.ok_or_else(refuse)?;
            let operator = match comparison {
                Comparison::Equal => Operator::Eq,
                Comparison::NotEqual => Operator::NotEq,
                Comparison::Less => Operator::Lt,
                Comparison::LessOrEqual => Operator::LtEq,
                Comparison::Greater => Operator::Gt,
                Comparison::GreaterOrEqual => Operator::GtEq,
            };
            Ok(Arc::new(BinaryExpr::new(l, operator, r)))
        }
    }
}

/// Columns and literals whose form decides.
fn plain(
    comparison: Comparison,
    left: &Operand,
    right: &Operand,
    columns: &[Column],
    places: &[usize],
) -> Result<Option<(Expr, Expr)>, GiveUp> {
    let with_literal = |i: usize, text: &str, name: &str| {
        let own = columns.get(i)?;
        literal(own, text, name).filter(|_| ordered(own, comparison))
    };
    Ok(match (left, right) {
        (Operand::Input(a), Operand::Input(b)) => match (columns.get(*a), columns.get(*b)) {
            (Some(x), Some(y)) if x.joins(y) && ordered(x, comparison) => {
                Some((column(*a, places)?, column(*b, places)?))
            }
            _ => None,
        },
        (Operand::Input(a), Operand::Literal(text, name)) => match with_literal(*a, text, name) {
            Some(value) => Some((column(*a, places)?, expressions::lit(value))),
            None => None,
        },
        (Operand::Literal(text, name), Operand::Input(b)) => match with_literal(*b, text, name) {
            Some(value) => Some((expressions::lit(value), column(*b, places)?)),
            None => None,
        },
        _ => None,
    })
}

/// Numerics with the same number of digits behind the point.
fn numbers(
    left: &Operand,
    right: &Operand,
    columns: &[Column],
    places: &[usize],
) -> Result<Option<(Expr, Expr)>, GiveUp> {
    let term = |o: &Operand| match o {
        Operand::Input(i) => Some(Term::Input(*i)),
        Operand::Computed(term) => Some(term.clone()),
        Operand::Literal(text, name) if name == "numeric" || text.contains('.') => {
            Some(Term::Literal(text.clone()))
        }
        Operand::Literal(..) => None,
    };
    let (Some(left), Some(right)) = (term(left), term(right)) else { return Ok(None) };
    let typed = (arithmetic::typed(&left, columns), arithmetic::typed(&right, columns));
    let (Ok(l), Ok(r)) = typed else { return Ok(None) };
    let scale = l.scale.max(r.scale);
    let input = |i: usize| column(i, places);
    Ok(Some((
        arithmetic::expr(&left, columns, &input, scale)?,
        arithmetic::expr(&right, columns, &input, scale)?,
    )))
}

fn column(i: usize, places: &[usize]) -> Result<Expr, GiveUp> {
    let place = places.get(i).ok_or(GiveUp::new(Cause::ColumnNotThere, ""))?;
    Ok(Arc::new(ColumnExpr::new(&format!("c{place}"), *place)))
}

/// Whether a comparison of this column means what PostgreSQL's means.
fn ordered(c: &Column, comparison: Comparison) -> bool {
    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    match c.repr {
        Repr::Int | Repr::Number { .. } => true,
        Repr::Bool | Repr::Exact => equality,
        Repr::Opaque | Repr::Quotient { .. } => false,
    }
}

/// A literal in the form that the column is held in.
fn literal(c: &Column, text: &str, type_name: &str) -> Option<ScalarValue> {
    match &c.repr {
        Repr::Int => {
            let integer =
                matches!(c.oid, 20 | 21 | 23) && matches!(type_name, "" | "int2" | "int4" | "int8");
            integer.then(|| text.parse().ok()).flatten().map(|n| ScalarValue::Int64(Some(n)))
        }
        Repr::Number { scale, .. } => {
            if !matches!(type_name, "numeric" | "" | "int2" | "int4" | "int8") {
                return None;
            }
            let scale = u32::try_from(scale.known()?).ok()?;
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
            let negative = whole.starts_with('-');
            let whole = whole.strip_prefix('-').unwrap_or(whole);
            let fraction = fraction.trim_end_matches('0');
            let missing = scale.checked_sub(u32::try_from(fraction.len()).ok()?)?;
            if !digits(whole)
                || !digits(fraction)
                || whole.len() + fraction.len() > 20
                || scale > 17
            {
                return None;
            }
            let n: i128 = format!("{whole}{fraction}").parse().ok()?;
            let n = n * power_of_ten(missing);
            Some(ScalarValue::Decimal128(Some(if negative { -n } else { n }), 38, 0))
        }
        Repr::Exact => {
            let bytes = match (c.oid, type_name) {
                (25 | 1043, "text" | "varchar" | "") => text.as_bytes().to_vec(),
                (1042, "bpchar" | "") if c.typmod >= 4 => {
                    // Values are filled up with blanks to the declared length.
                    let length = usize::try_from(c.typmod - 4).ok()?;
                    let text = text.trim_end_matches(' ');
                    let blanks = length.checked_sub(text.chars().count());
                    // A longer text equals none; that is not for here to say.
                    format!("{text}{}", " ".repeat(blanks?)).into_bytes()
                }
                _ => return None,
            };
            Some(ScalarValue::Binary(Some(bytes)))
        }
        Repr::Bool | Repr::Opaque | Repr::Quotient { .. } => None,
    }
}
