//! Rows for a finish that computes each of them by itself: they are held in the statement's
//! memory and go to home in parts, so that neither home nor a message holds all of them.

use crate::types::Column;
use crate::{GiveUp, encode};
use arrow::array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use datafusion_execution::SendableRecordBatchStream;
use datafusion_execution::memory_pool::MemoryReservation;
use futures::StreamExt as _;
use pgspan_sql::cause::Cause;
use std::collections::VecDeque;
use tokio::runtime::Handle;

/// Rows that are held, and count as such until this goes.
#[derive(Debug)]
pub struct Rest {
    batches: VecDeque<RecordBatch>,
    columns: Vec<Column>,
    /// Bytes of a part.
    part_bytes: usize,
    memory: MemoryReservation,
    /// The engine's threads.
    handle: Handle,
}

impl Rest {
    /// Reads all rows of a stream, for parts of about so many bytes; one row may be no more
    /// than the other number.
    ///
    /// # Errors
    /// The stream's; more memory than the statement has; a row too long for the finish.
    pub(crate) async fn hold(
        mut stream: SendableRecordBatchStream,
        columns: &[Column],
        memory: MemoryReservation,
        (part_bytes, row_bytes_max): (usize, usize),
    ) -> Result<Rest, GiveUp> {
        let mut batches = VecDeque::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            memory.try_grow(own_bytes(&batch))?;
            let before = batches.len();
            cut(batch, part_bytes, &mut batches);
            if batches.range(before..).any(|piece| sent_bytes(piece) > row_bytes_max) {
                let limit = "limits.home_join_bytes_max";
                return Err(GiveUp::new(Cause::RowTooLong, limit));
            }
        }
        let (columns, handle) = (columns.to_vec(), Handle::current());
        Ok(Rest { batches, columns, part_bytes, memory, handle })
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The rows.
    pub(crate) fn batches(&mut self) -> impl Iterator<Item = RecordBatch> + Send + use<> {
        std::mem::take(&mut self.batches).into_iter()
    }

    /// The next part, as one array for each column, and what is left of the rows.
    pub(crate) fn part(mut self) -> (Vec<Bytes>, Option<Rest>) {
        let mut part = Vec::new();
        let (mut held, mut sent) = (0, 0);
        while let Some(batch) = self.batches.front() {
            let more = sent_bytes(batch);
            if sent > 0 && sent + more > self.part_bytes {
                break;
            }
            held += own_bytes(batch);
            sent += more;
            part.extend(self.batches.pop_front());
        }
        let columns = self.columns.iter().enumerate();
        let values = columns.map(|(i, c)| encode::array(&part, i, c)).collect();
        self.memory.shrink(held.min(self.memory.size()));
        (values, (!self.batches.is_empty()).then_some(self))
    }

    /// The next part, as [`crate::Answer::values`], and what is left of the rows.
    ///
    /// # Errors
    /// The engine's threads have stopped.
    pub async fn next(self) -> Result<(Vec<Bytes>, Option<Rest>), GiveUp> {
        let handle = self.handle.clone();
        let done = handle.spawn(async move { self.part() }).await;
        done.map_err(|e| GiveUp::new(Cause::EngineStopped, e.to_string()))
    }
}

/// Halves a batch until each piece is a part at most, or one row.
fn cut(batch: RecordBatch, part_bytes: usize, into: &mut VecDeque<RecordBatch>) {
    let rows = batch.num_rows();
    if rows <= 1 || sent_bytes(&batch) <= part_bytes {
        into.push_back(batch);
    } else {
        cut(batch.slice(0, rows / 2), part_bytes, into);
        cut(batch.slice(rows / 2, rows - rows / 2), part_bytes, into);
    }
}

/// Bytes of a batch that may be a slice of a larger one.
fn own_bytes(batch: &RecordBatch) -> usize {
    let own = |c: &ArrayRef| c.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(own).sum()
}

/// Bytes of it as arrays of PostgreSQL's, at most: each value has its length before it, and
/// a numeric its head.
fn sent_bytes(batch: &RecordBatch) -> usize {
    own_bytes(batch) + batch.num_rows() * batch.num_columns() * 18
}
