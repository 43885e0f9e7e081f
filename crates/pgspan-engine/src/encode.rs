//! Arrow → PostgreSQL's binary arrays, one for each column, to be bound to the finish; or
//! rows as the client gets them.

use crate::types::{Column, Repr};
use crate::{GiveUp, text};
use arrow::array::{Array, BinaryArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch};
use bytes::{BufMut, Bytes, BytesMut};
use pgspan_sql::cause::Cause;

/// Encodes a column of the batches in the form of `array_recv` (one dimension, lower
/// bound 1; none for no rows).
pub(crate) fn array(batches: &[RecordBatch], place: usize, column: &Column) -> Bytes {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut out = BytesMut::with_capacity(20 + rows * 12);
    if rows == 0 {
        out.put_i32(0);
        out.put_i32(0);
        out.put_u32(column.oid);
        return out.freeze();
    }
    let nulls = batches.iter().any(|b| b.column(place).null_count() > 0);
    out.put_i32(1);
    out.put_i32(i32::from(nulls));
    out.put_u32(column.oid);
    out.put_i32(i32::try_from(rows).unwrap_or(i32::MAX));
    out.put_i32(1);
    for batch in batches {
        values(&mut out, batch.column(place).as_ref(), column);
    }
    out.freeze()
}

fn values(out: &mut BytesMut, array: &dyn Array, column: &Column) {
    let held = Held::new(array, column);
    for i in 0..array.len() {
        held.put(out, i);
    }
}

/// A column's values in a batch, with what their encoding needs.
enum Held<'a> {
    Int(&'a Int64Array, u32),
    Number(&'a Decimal128Array, i32),
    Bytes(&'a BinaryArray),
    Bool(&'a BooleanArray),
    /// No array of the engine's.
    Other,
}

impl Held<'_> {
    fn new<'a>(array: &'a dyn Array, column: &Column) -> Held<'a> {
        let any = array.as_any();
        if let Some(ints) = any.downcast_ref() {
            Held::Int(ints, column.oid)
        } else if let Some(numbers) = any.downcast_ref() {
            let scale = match &column.repr {
                Repr::Number { scale, .. } => scale.get(),
                _ => 0,
            };
            Held::Number(numbers, scale)
        } else if let Some(bytes) = any.downcast_ref() {
            Held::Bytes(bytes)
        } else {
            any.downcast_ref().map_or(Held::Other, Held::Bool)
        }
    }

    fn is_null(&self, i: usize) -> bool {
        match self {
            Held::Int(array, _) => array.is_null(i),
            Held::Number(array, _) => array.is_null(i),
            Held::Bytes(array) => array.is_null(i),
            Held::Bool(array) => array.is_null(i),
            Held::Other => true,
        }
    }

    /// Appends a value in its binary form with its length, -1 for NULL.
    #[inline]
    fn put(&self, out: &mut BytesMut, i: usize) {
        if self.is_null(i) {
            out.put_i32(-1);
            return;
        }
        match self {
            Held::Int(ints, oid) => {
                let value = ints.value(i);
                match oid {
                    21 => {
                        out.put_i32(2);
                        out.put_slice(&value.to_be_bytes()[6..]);
                    }
                    23 | 26 | 1082 => {
                        out.put_i32(4);
                        out.put_slice(&value.to_be_bytes()[4..]);
                    }
                    _ => {
                        out.put_i32(8);
                        out.put_i64(value);
                    }
                }
            }
            Held::Number(numbers, scale) => numeric(out, numbers.value(i), *scale),
            Held::Bytes(bytes) => {
                let value = bytes.value(i);
                out.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
                out.put_slice(value);
            }
            Held::Bool(bools) => {
                out.put_i32(1);
                out.put_u8(u8::from(bools.value(i)));
            }
            Held::Other => {}
        }
    }
}

/// Bytes of rows that are sent at a time.
const ROWS_BYTES: usize = 256 * 1024;

/// Rows of a batch from `next` on as DataRow messages, each column in its format (0 text,
/// 1 binary), up to about [`ROWS_BYTES`]; moves `next` behind them.
///
/// # Errors
/// A value without a text form, which would be a defect.
pub(crate) fn rows(
    batch: &RecordBatch,
    columns: &[Column],
    formats: &[i16],
    next: &mut usize,
) -> Result<Bytes, GiveUp> {
    let odd = || GiveUp::new(Cause::NoTextForm, "");
    let count = u16::try_from(columns.len()).map_err(|_| odd())?;
    let held: Vec<(Held<'_>, u32, bool)> = columns
        .iter()
        .zip(batch.columns())
        .zip(formats)
        .map(|((c, array), format)| (Held::new(array.as_ref(), c), c.oid, *format == 0))
        .collect();
    let mut out = BytesMut::with_capacity(ROWS_BYTES + ROWS_BYTES / 4);
    let mut binary = BytesMut::new();
    let mut word = Vec::new();
    while *next < batch.num_rows() && out.len() < ROWS_BYTES {
        let i = *next;
        *next += 1;
        let start = out.len();
        out.put_u8(b'D');
        out.put_u32(0);
        out.put_u16(count);
        for (held, oid, as_text) in &held {
            if !as_text || held.is_null(i) {
                held.put(&mut out, i);
                continue;
            }
            binary.clear();
            word.clear();
            held.put(&mut binary, i);
            text::text(&mut word, *oid, binary.get(4..).unwrap_or(&[])).ok_or_else(odd)?;
            out.put_i32(i32::try_from(word.len()).map_err(|_| odd())?);
            out.put_slice(&word);
        }
        let length = u32::try_from(out.len() - start - 1).map_err(|_| odd())?;
        out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }
    Ok(out.freeze())
}

/// A numeric with its length, in the form of `numeric_recv`.
pub(crate) fn numeric(out: &mut BytesMut, value: i128, scale: i32) {
    let scale = u32::try_from(scale).unwrap_or(0);
    let magnitude = value.unsigned_abs();
    // Base 10,000 digits stand on both sides of the decimal point: the fraction is
    // filled up to whole ones.
    let padding = (4 - scale % 4) % 4;
    let mut digits: Vec<u16> = Vec::with_capacity(12);
    let power = 10u128.pow(scale);
    let (mut whole, fraction) = (magnitude / power, magnitude % power);
    let mut fraction = fraction * 10u128.pow(padding);
    let fraction_digits = (scale + padding) / 4;
    let mut below = Vec::with_capacity(8);
    for _ in 0..fraction_digits {
        below.push(u16::try_from(fraction % 10_000).unwrap_or(0));
        fraction /= 10_000;
    }
    let mut above = Vec::with_capacity(10);
    while whole > 0 {
        above.push(u16::try_from(whole % 10_000).unwrap_or(0));
        whole /= 10_000;
    }
    let mut weight = i32::try_from(above.len()).unwrap_or(0) - 1;
    digits.extend(above.iter().rev());
    digits.extend(below.iter().rev());
    let leading = digits.iter().take_while(|d| **d == 0).count();
    digits.drain(..leading);
    weight -= i32::try_from(leading).unwrap_or(0);
    while digits.last() == Some(&0) {
        digits.pop();
    }
    if digits.is_empty() {
        weight = 0;
    }
    let count = i16::try_from(digits.len()).unwrap_or(0);
    out.put_i32(8 + 2 * i32::from(count));
    out.put_i16(count);
    out.put_i16(i16::try_from(weight).unwrap_or(0));
    out.put_u16(if value < 0 { 0x4000 } else { 0 });
    out.put_u16(u16::try_from(scale).unwrap_or(0));
    digits.iter().for_each(|d| out.put_u16(*d));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_as_postgresql_sends_them() {
        let of = |value: i128, scale: i32| {
            let mut out = BytesMut::new();
            numeric(&mut out, value, scale);
            out[4..].to_vec()
        };
        // 12345.67
        assert_eq!(of(1_234_567, 2), [0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 9, 41, 26, 44]);
        // -0.01
        assert_eq!(of(-1, 2), [0, 1, 255, 255, 64, 0, 0, 2, 0, 100]);
        // 0.00
        assert_eq!(of(0, 2), [0, 0, 0, 0, 0, 0, 0, 2]);
        // 100000000
        assert_eq!(of(100_000_000, 0), [0, 1, 0, 2, 0, 0, 0, 0, 0, 1]);
        // 0.00001
        assert_eq!(of(1, 5), [0, 1, 255, 254, 0, 0, 0, 5, 3, 232]);
    }
}
