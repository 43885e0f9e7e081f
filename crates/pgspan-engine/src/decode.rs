//! Rows in PostgreSQL's binary format → Arrow, column by column, with no row in between.
//!
//! A DataRow and a row of `COPY … (FORMAT binary)` have the same body: a count of fields,
//! and for each its length (-1 for NULL) and its bytes (manual, sections "Message Formats"
//! and "COPY").

use crate::types::{Column, ColumnType, DIGITS_MAX, Repr, Scale, through_text};
use crate::{GiveUp, encode};
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch,
    RecordBatchOptions,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use pgspan_sql::cause::Cause;
use std::sync::Arc;

/// Rows in a batch.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Bytes of rows after which a batch is full as well.
pub(crate) const BATCH_BYTES: usize = 4 * 1024 * 1024;

enum Values {
    Int(Vec<i64>, u8),
    Bool(Vec<bool>),
    Number(Vec<i128>, Scale),
    Bytes(Vec<u8>, Vec<i32>),
}

struct Builder {
    oid: u32,
    values: Values,
    /// Kept only once there has been a NULL.
    valid: Option<Vec<bool>>,
}

/// Decodes the rows of one stream.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Builder>,
    rows: usize,
    bytes: usize,
}

/// Four bytes without a sign (oid), in the place of a width.
const UNSIGNED: u8 = 0;

fn width(oid: u32) -> u8 {
    match oid {
        21 => 2,
        23 | 1082 => 4,
        26 => UNSIGNED,
        _ => 8,
    }
}

impl Decoder {
    pub(crate) fn new(schema: SchemaRef, columns: &[Column]) -> Decoder {
        let columns = columns
            .iter()
            .map(|c| Builder {
                oid: c.oid,
                values: match &c.repr {
                    Repr::Int => Values::Int(Vec::new(), width(c.oid)),
                    Repr::Bool => Values::Bool(Vec::new()),
                    Repr::Number { scale, .. } => Values::Number(Vec::new(), scale.clone()),
                    // A quotient is never sent.
                    Repr::Exact | Repr::Opaque | Repr::Quotient { .. } => {
                        Values::Bytes(Vec::new(), vec![0])
                    }
                },
                valid: None,
            })
            .collect();
        Decoder { schema, columns, rows: 0, bytes: 0 }
    }

    /// Adds the body of one row; true when a batch is full.
    ///
    /// # Errors
    /// A row of another shape, or a value that the engine does not hold.
    pub fn row(&mut self, body: &[u8]) -> Result<bool, GiveUp> {
        let odd = || GiveUp::new(Cause::UnexpectedRow, "");
        let mut at = body.get(2..).ok_or_else(odd)?;
        for column in &mut self.columns {
            let (head, rest) = at.split_first_chunk::<4>().ok_or_else(odd)?;
            let length = i32::from_be_bytes(*head);
            let Ok(length) = usize::try_from(length) else {
                column.null(self.rows);
                at = rest;
                continue;
            };
            let (value, rest) = rest.split_at_checked(length).ok_or_else(odd)?;
            column.value(value)?;
            at = rest;
        }
        self.rows += 1;
        self.bytes += body.len();
        Ok(self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES)
    }

    /// Rows in the batch that is being built.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The batch so far.
    ///
    /// # Errors
    /// Arrow's, which would be a defect.
    pub(crate) fn batch(&mut self) -> Result<RecordBatch, GiveUp> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let arrays: Vec<ArrayRef> = self.columns.iter_mut().map(Builder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

impl Builder {
    fn null(&mut self, rows: usize) {
        match &mut self.values {
            Values::Int(v, _) => v.push(0),
            Values::Bool(v) => v.push(false),
            Values::Number(v, _) => v.push(0),
            Values::Bytes(bytes, ends) => ends.push(end(bytes)),
        }
        self.valid.get_or_insert_with(|| vec![true; rows]).push(false);
    }

    #[inline]
    fn value(&mut self, value: &[u8]) -> Result<(), GiveUp> {
        let odd = || GiveUp::new(Cause::UnexpectedRow, "");
        match &mut self.values {
            Values::Int(v, width) => v.push(match (*width, value) {
                (2, [a, b]) => i64::from(i16::from_be_bytes([*a, *b])),
                (UNSIGNED, [a, b, c, d]) => i64::from(u32::from_be_bytes([*a, *b, *c, *d])),
                (4, [a, b, c, d]) => i64::from(i32::from_be_bytes([*a, *b, *c, *d])),
                (8, _) => i64::from_be_bytes(value.try_into().map_err(|_| odd())?),
                _ => return Err(odd()),
            }),
            Values::Bool(v) => v.push(value == [1]),
            Values::Number(v, scale) => v.push(number(value, scale)?),
            Values::Bytes(bytes, ends) => {
                let Some(value) = through_text(self.oid, value) else {
                    return Err(GiveUp::new(Cause::TextNotRead, ""));
                };
                if bytes.len() + value.len() > i32::MAX as usize {
                    return Err(GiveUp::new(Cause::ValuesTooLarge, ""));
                }
                bytes.extend_from_slice(value);
                ends.push(end(bytes));
            }
        }
        if let Some(valid) = &mut self.valid {
            valid.push(true);
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        let nulls = self.valid.take().map(NullBuffer::from);
        match &mut self.values {
            Values::Int(v, _) => {
                let values = std::mem::replace(v, Vec::with_capacity(BATCH_ROWS));
                Arc::new(Int64Array::new(ScalarBuffer::from(values), nulls))
            }
            Values::Bool(v) => Arc::new(BooleanArray::new(std::mem::take(v).into(), nulls)),
            Values::Number(v, _) => {
                let values = std::mem::replace(v, Vec::with_capacity(BATCH_ROWS));
                let array = Decimal128Array::new(ScalarBuffer::from(values), nulls);
                // The type that the schema names: no decimal point, 38 digits.
                Arc::new(array.with_data_type(arrow::datatypes::DataType::Decimal128(38, 0)))
            }
            Values::Bytes(bytes, ends) => {
                let ends = std::mem::replace(ends, vec![0]);
                let bytes = std::mem::take(bytes);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                Arc::new(BinaryArray::new(offsets, Buffer::from_vec(bytes), nulls))
            }
        }
    }
}

fn end(bytes: &[u8]) -> i32 {
    // Bounded where bytes are added.
    i32::try_from(bytes.len()).unwrap_or(i32::MAX)
}

/// Rows decoded into columns and encoded again, as the arrays that the finish is given:
/// what a fuzzer asks of both.
///
/// # Errors
/// A type, a row or a value that the engine does not hold.
pub fn round_trip(types: &[ColumnType], rows: &[&[u8]]) -> Result<Vec<Bytes>, GiveUp> {
    let columns = types.iter().map(|t| Column::of(*t)).collect::<Result<Vec<_>, _>>()?;
    let fields = columns.iter().map(|c| Field::new("c", c.data_type(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut decoder = Decoder::new(schema, &columns);
    for row in rows {
        decoder.row(row)?;
    }
    let batch = [decoder.batch()?];
    Ok(columns.iter().enumerate().map(|(i, c)| encode::array(&batch, i, c)).collect())
}

/// Powers of ten up to 10^38.
pub(crate) const fn power_of_ten(n: u32) -> i128 {
    10i128.pow(n)
}

/// Decimal places that are held: with them, a fraction filled up to whole digits to the
/// base of 10,000 fits in 128 bits whatever it is.
const SCALE_MAX: i32 = 36;

/// A numeric in its wire form (numeric.c: `numeric_send`): count of digits, weight, sign,
/// display scale, then the digits to the base of 10,000.
fn number(value: &[u8], scale: &Scale) -> Result<i128, GiveUp> {
    let odd = || GiveUp::new(Cause::UnexpectedRow, "");
    let (head, digits) = value.split_first_chunk::<8>().ok_or_else(odd)?;
    let weight = i32::from(i16::from_be_bytes([head[2], head[3]]));
    let negative = match u16::from_be_bytes([head[4], head[5]]) {
        0 => false,
        0x4000 => true,
        _ => return Err(GiveUp::new(Cause::NotFinite, "numeric")),
    };
    let dscale = i32::from(u16::from_be_bytes([head[6], head[7]]));
    // Encoding has the fraction in whole digits to the base of 10,000.
    if dscale > SCALE_MAX {
        return Err(GiveUp::new(Cause::NumberTooLarge, ""));
    }
    if !scale.admits(dscale) {
        return Err(GiveUp::new(Cause::ScalesDiffer, ""));
    }
    let too_large = || GiveUp::new(Cause::NumberTooLarge, "");
    // Nine digits to the base of 10,000 always fit.
    if digits.len() > 18 {
        return Err(too_large());
    }
    let digit = |pair: &[u8; 2]| u16::from_be_bytes(*pair);
    let (digits, _) = digits.as_chunks::<2>();
    let count = i32::try_from(digits.len()).map_err(|_| odd())?;
    // The last digit stands for 10,000 to the power of (weight - count + 1).
    let exponent = 4 * (weight - count + 1) + dscale;
    // Nearly all numbers: four digits and two decimal places fit in 64 bits, whose division
    // is many times as fast.
    let n = if digits.len() <= 4 && (-15..=2).contains(&exponent) {
        let n = digits.iter().fold(0, |n: u64, d| n * 10_000 + u64::from(digit(d)));
        let power = 10u64.pow(exponent.unsigned_abs());
        let (whole, hidden) = if exponent >= 0 { (n * power, 0) } else { (n / power, n % power) };
        // What the display scale hides is zero.
        if hidden != 0 {
            return Err(odd());
        }
        i128::from(whole)
    } else {
        let n = digits.iter().fold(0, |n: i128, d| n * 10_000 + i128::from(digit(d)));
        if n == 0 { 0 } else { scaled(n, exponent)? }
    };
    Ok(if negative { -n } else { n })
}

/// `n` times ten to the power of `exponent`.
fn scaled(n: i128, exponent: i32) -> Result<i128, GiveUp> {
    let too_large = || GiveUp::new(Cause::NumberTooLarge, "");
    if exponent.unsigned_abs() > 38 {
        return Err(too_large());
    }
    let power = power_of_ten(exponent.unsigned_abs());
    let n = if exponent >= 0 {
        n.checked_mul(power).ok_or_else(too_large)?
    } else if n % power == 0 {
        n / power
    } else {
        return Err(GiveUp::new(Cause::UnexpectedRow, ""));
    };
    if n >= const { power_of_ten(DIGITS_MAX) } { Err(too_large()) } else { Ok(n) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use arrow::array::Array as _;

    /// A value as `numeric_send` gives it.
    pub(crate) fn numeric(weight: i16, sign: u16, dscale: u16, digits: &[u16]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u16::try_from(digits.len()).unwrap().to_be_bytes());
        out.extend(weight.to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend(dscale.to_be_bytes());
        digits.iter().for_each(|d| out.extend(d.to_be_bytes()));
        out
    }

    #[test]
    fn numbers() {
        let n = |v: &[u8]| number(v, &Scale::unseen());
        // 12345.67, -0.01, 0.00, 100000000, 1.10
        assert_eq!(n(&numeric(1, 0, 2, &[1, 2345, 6700])).unwrap(), 1_234_567);
        assert_eq!(n(&numeric(-1, 0x4000, 2, &[100])).unwrap(), -1);
        assert_eq!(n(&numeric(0, 0, 2, &[])).unwrap(), 0);
        assert_eq!(n(&numeric(2, 0, 0, &[1])).unwrap(), 100_000_000);
        assert_eq!(n(&numeric(0, 0, 2, &[1, 1000])).unwrap(), 110);
        // The widest that 64 bits are asked to hold, and one more: 9999999999999999.00, 10^16.
        let nines = [9999; 4];
        assert_eq!(n(&numeric(3, 0, 2, &nines)).unwrap(), 999_999_999_999_999_900);
        assert_eq!(n(&numeric(3, 0, 3, &nines)).unwrap(), 9_999_999_999_999_999_000);
        assert_eq!(n(&numeric(4, 0, 0, &[1])).unwrap(), 10_000_000_000_000_000);
        assert_eq!(
            n(&numeric(0, 0, 13, &[9, 9999, 9999, 9999, 9000])).unwrap(),
            99_999_999_999_999
        );
        // What the display scale hides.
        assert!(n(&numeric(0, 0, 2, &[1, 1234])).is_err());
        assert!(n(&numeric(0, 0, 2, &[1, 0, 0, 0, 1])).is_err());
        assert!(n(&numeric(0, 0xC000, 0, &[])).is_err());
        assert!(n(&numeric(20, 0, 0, &[1])).is_err());
        // 36 and 37 decimal places.
        assert_eq!(n(&numeric(0, 0, 36, &[])).unwrap(), 0);
        assert!(n(&numeric(0, 0, 37, &[])).is_err());
    }

    #[test]
    fn rows_become_columns() {
        let types = [
            ColumnType { oid: 23, typmod: -1 },
            ColumnType { oid: 25, typmod: -1 },
            ColumnType { oid: 16, typmod: -1 },
        ];
        let columns: Vec<Column> = types.iter().map(|t| Column::of(*t).unwrap()).collect();
        let fields: Vec<Field> =
            columns.iter().map(|c| Field::new("c", c.data_type(), true)).collect();
        let mut d = Decoder::new(Arc::new(Schema::new(fields)), &columns);
        let row: &[u8] =
            &[0, 3, 0, 0, 0, 4, 255, 255, 255, 254, 0, 0, 0, 2, b'h', b'i', 0, 0, 0, 1, 1];
        assert!(!d.row(row).unwrap());
        let null: &[u8] = &[0, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        d.row(null).unwrap();
        assert!(d.row(&row[..10]).is_err());
        let mut d2 = Decoder::new(d.schema.clone(), &columns);
        d2.row(row).unwrap();
        d2.row(null).unwrap();
        let batch = d2.batch().unwrap();
        assert_eq!((batch.num_rows(), batch.column(0).null_count()), (2, 1));
        let ints = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
        assert_eq!(ints.value(0), -2);
        let texts = batch.column(1).as_any().downcast_ref::<BinaryArray>().unwrap();
        assert_eq!(texts.value(0), b"hi");
    }
}
