//! The way from a source's connection into an operator: batches through a bounded
//! channel, so that a slow operator holds back the socket.

use crate::GiveUp;
use crate::decode::Decoder;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion_common::DataFusionError;
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::PartitionStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};

/// Batches on their way between a connection and the engine.
const QUEUE_BATCHES: usize = 4;

/// What has come for one fragment so far, for whoever looks.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows.
    pub rows: AtomicU64,
    /// Bytes of them on the wire.
    pub bytes: AtomicU64,
}

/// `None` is the end of a whole stream: one that just stops is not all.
type Item = Result<Option<RecordBatch>, DataFusionError>;

/// One stream of a fragment: takes rows as they come from the connection.
pub struct Feed {
    decoder: Decoder,
    sender: mpsc::Sender<Item>,
    progress: Arc<Progress>,
    bytes: u64,
    done: Arc<Semaphore>,
}

impl Feed {
    /// Adds the body of one row; true when [`Feed::flush`] is due.
    ///
    /// # Errors
    /// A value that the engine does not hold.
    #[inline]
    pub fn row(&mut self, body: &[u8]) -> Result<bool, GiveUp> {
        self.bytes += body.len() as u64;
        self.decoder.row(body)
    }

    /// Hands the rows so far to the engine; waits while it is busy. False when the engine
    /// wants no more.
    ///
    /// # Errors
    /// [`GiveUp`].
    pub async fn flush(&mut self) -> Result<bool, GiveUp> {
        if self.decoder.rows() == 0 {
            return Ok(!self.sender.is_closed() && !self.done.is_closed());
        }
        self.progress.rows.fetch_add(self.decoder.rows() as u64, Ordering::Relaxed);
        self.progress.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        let batch = self.decoder.batch()?;
        Ok(self.send(Ok(Some(batch))).await)
    }

    /// Hands over the last rows and tells that these are all.
    ///
    /// # Errors
    /// [`GiveUp`].
    pub async fn end(mut self) -> Result<(), GiveUp> {
        self.flush().await?;
        self.send(Ok(None)).await;
        Ok(())
    }

    /// False when the engine wants no more: an operator may be done and still hold what it
    /// would have read from.
    async fn send(&self, item: Item) -> bool {
        tokio::select! {
            biased;
            _ = self.done.acquire() => false,
            sent = self.sender.send(item) => sent.is_ok(),
        }
    }

    /// Tells the engine that the stream broke: what has come is not all.
    pub async fn fail(self, why: String) {
        // An engine that has stopped already needs no telling.
        self.send(Err(DataFusionError::External(why.into()))).await;
    }
}

/// The engine's end of a [`Feed`].
pub(crate) struct Mouth {
    schema: SchemaRef,
    receiver: Mutex<Option<mpsc::Receiver<Item>>>,
}

impl std::fmt::Debug for Mouth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mouth")
    }
}

pub(crate) fn feed(
    schema: &SchemaRef,
    decoder: Decoder,
    progress: &Arc<Progress>,
    done: &Arc<Semaphore>,
) -> (Feed, Mouth) {
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
    let feed = Feed { decoder, sender, progress: progress.clone(), bytes: 0, done: done.clone() };
    (feed, Mouth { schema: schema.clone(), receiver: Mutex::new(Some(receiver)) })
}

impl PartitionStream for Mouth {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = futures::stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Ok(Some(batch))) => Some((Ok(batch), Some(receiver))),
                Some(Ok(None)) => None,
                Some(Err(error)) => Some((Err(error), None)),
                None => {
                    let text = "a stream stopped before its end";
                    Some((Err(DataFusionError::External(text.into())), None))
                }
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}
