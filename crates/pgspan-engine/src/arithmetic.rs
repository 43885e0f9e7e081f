//! Arithmetic on numerics as PostgreSQL's numeric.c defines it.
//!
//! Sums, differences and products are exact, and their display scale follows from those of
//! their operands. A quotient is rounded to a scale that depends on its operands
//! (`select_div_scale`); its value is held with [`QUOTIENT_SCALE`] digits, and it is only
//! compared, never given out. What leaves 128 bits is given up.

use crate::GiveUp;
use crate::types::{Column, DIGITS_MAX, Repr, Scale};
use arrow::array::{Array, ArrayRef, Decimal128Array, Int64Array, RecordBatch};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Schema};
use datafusion_common::DataFusionError;
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::term::{Operation, Term};
use std::borrow::Cow;
use std::sync::Arc;

type Expr = Arc<dyn PhysicalExpr>;

/// Digits behind the point with which quotients are held.
pub(crate) const QUOTIENT_SCALE: i32 = 24;

/// Digits that a power of ten may have here.
const POWER_MAX: i32 = 37;

/// The scale of a term's values, and whether it is also their display scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Typed {
    pub scale: i32,
    pub exact: bool,
}

/// The scale of a term over columns.
pub(crate) fn typed(term: &Term, columns: &[Column]) -> Result<Typed, GiveUp> {
    let refuse = |detail: &str| Err(GiveUp::new(Cause::ArithmeticNotProven, detail));
    let done = |typed: Typed| {
        if (0..=POWER_MAX).contains(&typed.scale) { Ok(typed) } else { refuse("too many digits") }
    };
    match term {
        Term::Input(i) => match columns.get(*i).map(|c| &c.repr) {
            Some(Repr::Number { scale, .. }) => match scale.known() {
                Some(scale) => done(Typed { scale, exact: true }),
                None => refuse("a numeric without a declared scale"),
            },
            Some(Repr::Quotient { scale }) => done(Typed { scale: *scale, exact: false }),
            _ => refuse("a type"),
        },
        Term::Numeric(inner) => match &**inner {
            Term::Input(i) if columns.get(*i).is_some_and(is_integer) => {
                Ok(Typed { scale: 0, exact: true })
            }
            other => typed(other, columns),
        },
        Term::Literal(text) => match literal(text) {
            Some((_, scale)) => done(Typed { scale, exact: true }),
            None => refuse("a literal"),
        },
        Term::Binary(operation, a, b) => {
            let (a, b) = (typed(a, columns)?, typed(b, columns)?);
            let exact = a.exact && b.exact;
            match operation {
                Operation::Add | Operation::Subtract => {
                    done(Typed { scale: a.scale.max(b.scale), exact })
                }
                Operation::Multiply => done(Typed { scale: a.scale + b.scale, exact }),
                Operation::Divide if exact => Ok(Typed { scale: QUOTIENT_SCALE, exact: false }),
                Operation::Divide => refuse("a quotient of quotients"),
            }
        }
    }
}

fn is_integer(column: &Column) -> bool {
    matches!(column.oid, 20 | 21 | 23) && matches!(column.repr, Repr::Int)
}

/// The column that a term gives.
pub(crate) fn column(term: &Term, columns: &[Column]) -> Result<Column, GiveUp> {
    if let Term::Input(i) = term {
        return columns.get(*i).cloned().ok_or(GiveUp::new(Cause::ColumnNotThere, ""));
    }
    let typed = typed(term, columns)?;
    let repr = if typed.exact {
        Repr::Number { scale: Scale::fixed(typed.scale), declared: true }
    } else {
        Repr::Quotient { scale: typed.scale }
    };
    Ok(Column { oid: 1700, typmod: -1, repr })
}

/// A literal's digits and their scale.
fn literal(text: &str) -> Option<(i128, i32)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = i32::try_from(fraction.len()).ok()?;
    Some((if text.starts_with('-') { -value } else { value }, scale))
}

/// One step, with what it needs to know of scales.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Input(usize),
    Literal(i128),
    /// Times a power of ten.
    Scaled(Box<Step>, i128),
    Add(Box<Step>, Box<Step>),
    Subtract(Box<Step>, Box<Step>),
    Multiply(Box<Step>, Box<Step>),
    /// With the scales of both.
    Divide(Box<Step>, Box<Step>, i32, i32),
}

/// A term as an expression over a batch; `scale` is that of its values.
pub(crate) fn expr(
    term: &Term,
    columns: &[Column],
    inputs: &dyn Fn(usize) -> Result<Expr, GiveUp>,
    scale: i32,
) -> Result<Expr, GiveUp> {
    let own = typed(term, columns)?;
    let mut used: Vec<usize> = Vec::new();
    let step = scaled(step(term, columns, &mut used)?, scale - own.scale)?;
    let inputs = used.into_iter().map(inputs).collect::<Result<Vec<_>, _>>()?;
    // What is given out may be summed up.
    let bound = if own.exact && scale == own.scale { 10i128.pow(DIGITS_MAX) } else { i128::MAX };
    Ok(Arc::new(Arithmetic { step, inputs, bound }))
}

fn scaled(step: Step, by: i32) -> Result<Step, GiveUp> {
    match u32::try_from(by) {
        Ok(0) => Ok(step),
        Ok(n) if by <= POWER_MAX => Ok(Step::Scaled(Box::new(step), 10i128.pow(n))),
        _ => Err(GiveUp::new(Cause::ArithmeticNotProven, "too many digits")),
    }
}

fn step(term: &Term, columns: &[Column], used: &mut Vec<usize>) -> Result<Step, GiveUp> {
    Ok(match term {
        Term::Input(i) => {
            let at = used.iter().position(|u| u == i).unwrap_or_else(|| {
                used.push(*i);
                used.len() - 1
            });
            Step::Input(at)
        }
        Term::Numeric(inner) => step(inner, columns, used)?,
        Term::Literal(text) => {
            let (value, _) = literal(text).ok_or(GiveUp::new(Cause::ArithmeticNotProven, text))?;
            Step::Literal(value)
        }
        Term::Binary(operation, a, b) => {
            let (x, y) = (typed(a, columns)?.scale, typed(b, columns)?.scale);
            let (a, b) = (step(a, columns, used)?, step(b, columns, used)?);
            let both = x.max(y);
            match operation {
                Operation::Add => {
                    Step::Add(Box::new(scaled(a, both - x)?), Box::new(scaled(b, both - y)?))
                }
                Operation::Subtract => {
                    Step::Subtract(Box::new(scaled(a, both - x)?), Box::new(scaled(b, both - y)?))
                }
                Operation::Multiply => Step::Multiply(Box::new(a), Box::new(b)),
                Operation::Divide => Step::Divide(Box::new(a), Box::new(b), x, y),
            }
        }
    })
}

/// A term as DataFusion evaluates it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    step: Step,
    inputs: Vec<Expr>,
    /// Values are smaller.
    bound: i128,
}

impl std::fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("arithmetic")
    }
}

impl PhysicalExpr for Arithmetic {
    fn data_type(&self, _: &Schema) -> datafusion_common::Result<DataType> {
        Ok(DataType::Decimal128(38, 0))
    }

    fn nullable(&self, _: &Schema) -> datafusion_common::Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> datafusion_common::Result<ColumnarValue> {
        let rows = batch.num_rows();
        let arrays = self
            .inputs
            .iter()
            .map(|i| i.evaluate(batch)?.into_array(rows))
            .collect::<datafusion_common::Result<Vec<_>>>()?;
        let nulls = arrays.iter().fold(None, |all, a| NullBuffer::union(all.as_ref(), a.nulls()));
        let values = match evaluate(&self.step, &arrays, rows, nulls.as_ref())? {
            Values::One(v) => vec![v; rows],
            Values::Many(v) => v.into_owned(),
        };
        let valid = |i: usize| nulls.as_ref().is_none_or(|n| n.is_valid(i));
        if values
            .iter()
            .enumerate()
            .any(|(i, v)| v.unsigned_abs() >= self.bound.unsigned_abs() && valid(i))
        {
            return Err(too_large());
        }
        let array = Decimal128Array::try_new(ScalarBuffer::from(values), nulls)?;
        let array = array.with_data_type(DataType::Decimal128(38, 0));
        Ok(ColumnarValue::Array(Arc::new(array)))
    }

    fn children(&self) -> Vec<&Expr> {
        self.inputs.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        inputs: Vec<Expr>,
    ) -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Arithmetic { step: self.step.clone(), inputs, bound: self.bound }))
    }

    fn fmt_sql(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

fn too_large() -> DataFusionError {
    DataFusionError::Execution("a numeric of more digits than the engine holds".to_owned())
}

enum Values<'a> {
    One(i128),
    Many(Cow<'a, [i128]>),
}

fn evaluate<'a>(
    step: &Step,
    arrays: &'a [ArrayRef],
    rows: usize,
    nulls: Option<&NullBuffer>,
) -> datafusion_common::Result<Values<'a>> {
    let of = |step| evaluate(step, arrays, rows, nulls);
    match step {
        Step::Literal(v) => Ok(Values::One(*v)),
        Step::Input(i) => {
            let any = arrays.get(*i).map(|a| a.as_any());
            if let Some(a) = any.and_then(|a| a.downcast_ref::<Decimal128Array>()) {
                return Ok(Values::Many(Cow::Borrowed(a.values())));
            }
            if let Some(a) = any.and_then(|a| a.downcast_ref::<Int64Array>()) {
                let values = a.values().iter().map(|v| i128::from(*v)).collect();
                return Ok(Values::Many(Cow::Owned(values)));
            }
            Err(DataFusionError::Internal("arithmetic on another type".to_owned()))
        }
        Step::Scaled(a, power) => both(of(a)?, Values::One(*power), rows, nulls, multiply),
        Step::Multiply(a, b) => both(of(a)?, of(b)?, rows, nulls, multiply),
        Step::Add(a, b) => both(of(a)?, of(b)?, rows, nulls, i128::checked_add),
        Step::Subtract(a, b) => both(of(a)?, of(b)?, rows, nulls, i128::checked_sub),
        Step::Divide(a, b, x, y) => {
            both(of(a)?, of(b)?, rows, nulls, |v, w| quotient(v, *x, w, *y))
        }
    }
}

/// An operation on each pair; what stands in the place of NULLs is not looked at.
fn both<'a>(
    a: Values<'a>,
    b: Values<'a>,
    rows: usize,
    nulls: Option<&NullBuffer>,
    operation: impl Fn(i128, i128) -> Option<i128>,
) -> datafusion_common::Result<Values<'a>> {
    let at = |v: &Values<'_>, i: usize| match v {
        Values::One(v) => *v,
        Values::Many(v) => v.get(i).copied().unwrap_or(0),
    };
    if let (Values::One(x), Values::One(y)) = (&a, &b) {
        return operation(*x, *y).map(Values::One).ok_or_else(too_large);
    }
    let mut out = Vec::with_capacity(rows);
    for i in 0..rows {
        match operation(at(&a, i), at(&b, i)) {
            Some(v) => out.push(v),
            None if nulls.is_some_and(|n| n.is_null(i)) => out.push(0),
            None => return Err(too_large()),
        }
    }
    Ok(Values::Many(Cow::Owned(out)))
}

#[inline]
fn multiply(a: i128, b: i128) -> Option<i128> {
    match (i64::try_from(a), i64::try_from(b)) {
        // No overflow in 128 bits.
        (Ok(x), Ok(y)) => Some(i128::from(x) * i128::from(y)),
        _ => a.checked_mul(b),
    }
}

/// `numeric_div`: `a` of scale `x` by `b` of scale `y`, rounded half away from zero to the
/// scale of `select_div_scale`, held with [`QUOTIENT_SCALE`] digits. `None` for what is
/// divided by zero or does not fit.
fn quotient(a: i128, x: i32, b: i128, y: i32) -> Option<i128> {
    if b == 0 {
        return None;
    }
    // Weight and first digit to the base of 10,000, of zero both zero.
    let (weight1, first1) = leading(a, x);
    let (weight2, first2) = leading(b, y);
    let weight = weight1 - weight2 - i32::from(first1 <= first2);
    // NUMERIC_MIN_SIG_DIGITS, DEC_DIGITS; NUMERIC_MAX_DISPLAY_SCALE is out of reach.
    let scale = (16 - weight * 4).max(x).max(y).max(0);
    if scale > QUOTIENT_SCALE {
        return None;
    }
    // a / 10^x / (b / 10^y) * 10^scale
    let up = scale + y - x;
    let numerator = a.checked_mul(10i128.checked_pow(u32::try_from(up).ok()?)?)?;
    let (whole, left) = (numerator / b, numerator % b);
    let away = left.unsigned_abs() >= b.unsigned_abs() - left.unsigned_abs();
    let sign = if (numerator < 0) == (b < 0) { 1 } else { -1 };
    let rounded = if away && left != 0 { whole + sign } else { whole };
    rounded.checked_mul(10i128.checked_pow(u32::try_from(QUOTIENT_SCALE - scale).ok()?)?)
}

/// The weight of a number's first digit to the base of 10,000, and that digit.
fn leading(value: i128, scale: i32) -> (i32, i128) {
    let value = i128::try_from(value.unsigned_abs()).unwrap_or(i128::MAX);
    if value == 0 {
        return (0, 0);
    }
    let top = i32::try_from(value.ilog10()).unwrap_or(0) - scale;
    let weight = top.div_euclid(4);
    // Its last decimal place is that of 10^(4 * weight).
    let down = scale + 4 * weight;
    let digit = match u32::try_from(down) {
        Ok(n) => value / 10i128.pow(n),
        Err(_) => value * 10i128.pow(down.unsigned_abs()),
    };
    (weight, digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What psql shows for each, with QUOTIENT_SCALE digits.
    #[test]
    fn quotients_as_numeric_div_rounds_them() {
        let of = |a, x, b, y| quotient(a, x, b, y);
        // 10 / 3 = 3.3333333333333333
        assert_eq!(of(10, 0, 3, 0), Some(3_333_333_333_333_333_300_000_000));
        // 2 / 3 = 0.66666666666666666667: 20 digits
        assert_eq!(of(2, 0, 3, 0), Some(666_666_666_666_666_666_670_000));
        // 1.00 / 3 = 0.33333333333333333333
        assert_eq!(of(100, 2, 3, 0), Some(333_333_333_333_333_333_330_000));
        // 765.00 / 30 = 25.5000000000000000
        assert_eq!(of(76500, 2, 30, 0), Some(25_500_000_000_000_000_000_000_000));
        // -2 / 3 rounds away from zero
        assert_eq!(of(-2, 0, 3, 0), Some(-666_666_666_666_666_666_670_000));
        assert_eq!(of(0, 2, 7, 0), Some(0));
        assert_eq!(of(1, 0, 0, 0), None);
        // 100000 / 3 = 33333.333333333333: 12 digits
        assert_eq!(of(100_000, 0, 3, 0), Some(33_333_333_333_333_333_000_000_000_000));
    }

    #[test]
    fn first_digits() {
        assert_eq!(leading(1_234_567, 2), (1, 1));
        assert_eq!(leading(1, 5), (-2, 1000));
        assert_eq!(leading(12, 2), (-1, 1200));
        assert_eq!(leading(9_999, 0), (0, 9_999));
    }
}
