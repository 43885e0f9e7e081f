//! Top N: of rows that only differ in what home would cut off, the ones that can be among
//! the first. What equals the last of them stays, because other sort keys decide there.

use crate::GiveUp;
use crate::decode::power_of_ten;
use crate::types::{Column, Repr};
use arrow::array::{Array, BooleanArray, Decimal128Array, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use pgspan_sql::engine::split::TopN;

/// Keeps the rows that can be among the first `top.rows`.
pub(crate) fn keep(
    batches: Vec<RecordBatch>,
    top: &TopN,
    columns: &[Column],
) -> Result<Vec<RecordBatch>, GiveUp> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let wanted = usize::try_from(top.rows).unwrap_or(usize::MAX);
    if rows <= wanted || wanted == 0 {
        return Ok(batches);
    }
    let scale = match columns.get(top.column).map(|c| &c.repr) {
        Some(Repr::Number { scale, .. }) => scale.get(),
        _ => 0,
    };
    let power = u32::try_from(scale).ok().filter(|s| *s <= 18).map(power_of_ten);
    let null_as = match (top.null_as, power) {
        (Some(n), Some(power)) => Some(i128::from(n) * power),
        (Some(_), None) => return Ok(batches),
        (None, _) => None,
    };
    // Ascending rank: NULL below or above all values, greatest first by negation.
    let rank = |value: Option<i128>| -> (i8, i128) {
        match value.or(null_as) {
            Some(v) => (0, if top.descending { -v } else { v }),
            None => (if top.nulls_first { -1 } else { 1 }, 0),
        }
    };
    let mut ranks: Vec<Vec<(i8, i128)>> = Vec::with_capacity(batches.len());
    for batch in &batches {
        let array = batch.column(top.column);
        let any = array.as_any();
        if let Some(a) = any.downcast_ref::<Int64Array>() {
            ranks.push(a.iter().map(|v| rank(v.map(i128::from))).collect());
        } else if let Some(a) = any.downcast_ref::<Decimal128Array>() {
            ranks.push(a.iter().map(rank).collect());
        } else {
            return Ok(batches);
        }
    }
    let mut all: Vec<(i8, i128)> = ranks.iter().flatten().copied().collect();
    let (_, last, _) = all.select_nth_unstable(wanted - 1);
    let last = *last;
    batches
        .iter()
        .zip(&ranks)
        .map(|(batch, ranks)| {
            let mask: BooleanArray = ranks.iter().map(|r| Some(*r <= last)).collect();
            Ok(filter_record_batch(batch, &mask)?)
        })
        .collect()
}
