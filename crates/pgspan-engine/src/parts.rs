//! Rows for a finish that computes each of them by itself: they are held in the statement's
//! memory and go to home in parts, so that neither home nor a message holds all of them.

use crate::types::Column;
use crate::{GiveUp, encode};
use arrow::array::{Array, ArrayRef, RecordBatch};
use bytes::Bytes;
use datafusion_execution::SendableRecordBatchStream;
use datafusion_execution::memory_pool::MemoryReservation;
use futures::StreamExt as _;
use std::collections::VecDeque;

/// Rows that are held.
#[derive(Debug)]
pub struct Rest {
    batches: VecDeque<RecordBatch>,
    columns: Vec<Column>,
    /// Bytes of a part.
    part_bytes: usize,
    memory: MemoryReservation,
}

impl Rest {
    /// Reads all rows of a stream, for parts of so many bytes; a batch may be no more than
    /// the other number.
    ///
    /// # Errors
    /// The stream's; more memory than the statement has; rows too long for a part.
    pub(crate) async fn hold(
        mut stream: SendableRecordBatchStream,
        columns: &[Column],
        memory: MemoryReservation,
        (part_bytes, batch_bytes_max): (usize, usize),
    ) -> Result<Rest, GiveUp> {
        let mut batches = VecDeque::new();
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            let bytes = own_bytes(&batch);
            memory.try_grow(bytes)?;
            if bytes > batch_bytes_max {
                return Err(GiveUp::new(
                    "rows too long for the finish",
                    "limits.home_join_bytes_max",
                ));
            }
            let slices = bytes.div_ceil(part_bytes.max(1)).max(1);
            let rows = batch.num_rows().div_ceil(slices).max(1);
            for first in (0..batch.num_rows()).step_by(rows) {
                batches.push_back(batch.slice(first, rows.min(batch.num_rows() - first)));
            }
        }
        Ok(Rest { batches, columns: columns.to_vec(), part_bytes, memory })
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// The rows, which still count as held until this goes.
    pub(crate) fn batches(&mut self) -> impl Iterator<Item = RecordBatch> + Send + use<> {
        std::mem::take(&mut self.batches).into_iter()
    }

    /// The next part, as one array for each column, and what is left.
    pub(crate) fn part(mut self) -> (Vec<Bytes>, Option<Rest>) {
        let mut part = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.batches.front() {
            let own = own_bytes(batch);
            if bytes > 0 && bytes + own > self.part_bytes {
                break;
            }
            bytes += own;
            part.extend(self.batches.pop_front());
        }
        let columns = self.columns.iter().enumerate();
        let values = columns.map(|(i, c)| encode::array(&part, i, c)).collect();
        // Slices of one batch share what it holds: all of it goes with the last of them.
        self.memory.shrink(bytes.min(self.memory.size()));
        (values, (!self.batches.is_empty()).then_some(self))
    }
}

/// Bytes of a batch that may be a slice of a larger one.
pub(crate) fn own_bytes(batch: &RecordBatch) -> usize {
    let own = |c: &ArrayRef| c.to_data().get_slice_memory_size().unwrap_or(0);
    batch.columns().iter().map(own).sum()
}
