//! The way from a source's connection into an operator: batches through a bounded
//! channel, so that a slow operator holds back the socket.

use crate::GiveUp;
use crate::decode::{BATCH_BYTES, BATCH_ROWS, Decoder};
use arrow::array::{Array as _, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion_common::DataFusionError;
use datafusion_execution::{SendableRecordBatchStream, TaskContext};
use datafusion_physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_physical_plan::streaming::PartitionStream;
use pgspan_sql::cause::Cause;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc, watch};

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

/// Rows of a fragment whose keys are collected at most. So many fit into the channels of
/// their streams, so that whoever waits for the keys never waits for an operator.
const KEY_ROWS_MAX: usize = 500_000;
/// Bytes of those rows at most.
pub const KEY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The values of one column of a fragment, for those that only need rows with them.
#[derive(Debug)]
pub struct Keys {
    column: usize,
    found: Mutex<Collected>,
    published: watch::Sender<Option<Published>>,
}

/// The keys; `None` when they are too many, or not all of them came.
type Published = Option<Arc<[i64]>>;

#[derive(Debug)]
struct Collected {
    keys: Vec<i64>,
    rows: usize,
    bytes: usize,
    /// Streams that have not ended.
    streams: usize,
}

impl Keys {
    pub(crate) fn new(column: usize, streams: usize) -> Keys {
        let found = Collected { keys: Vec::new(), rows: 0, bytes: 0, streams };
        Keys { column, found: Mutex::new(found), published: watch::Sender::new(None) }
    }

    /// Waits for all keys; `None` when they are too many.
    pub async fn wait(&self) -> Option<Arc<[i64]>> {
        let mut seen = self.published.subscribe();
        match seen.wait_for(Option::is_some).await {
            Ok(published) => published.clone().flatten(),
            Err(_) => None,
        }
    }

    /// The keys, if they have come and are not too many.
    pub fn known(&self) -> Option<Arc<[i64]>> {
        self.published.borrow().clone().flatten()
    }

    fn publish(&self, keys: Published) {
        self.published.send_if_modified(|p| {
            let first = p.is_none();
            if first {
                *p = Some(keys);
            }
            first
        });
    }

    /// False when they are too many. `bytes` is what the batch was on the wire, by which it
    /// may have been full.
    fn add(&self, batch: &RecordBatch, bytes: usize) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.rows += batch.num_rows();
        found.bytes += batch.get_array_memory_size().max(bytes);
        let fits = found.rows <= KEY_ROWS_MAX && found.bytes <= KEY_BYTES_MAX;
        let column = batch.columns().get(self.column).map(|c| c.as_any());
        match column.and_then(|c| c.downcast_ref::<Int64Array>()) {
            Some(ints) if fits => {
                found.keys.extend(ints.iter().flatten());
                true
            }
            _ => {
                self.publish(None);
                false
            }
        }
    }

    fn end(&self) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.streams = found.streams.saturating_sub(1);
        if found.streams == 0 {
            let mut keys = std::mem::take(&mut found.keys);
            keys.sort_unstable();
            keys.dedup();
            self.publish(Some(keys.into()));
        }
    }
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
    keys: Vec<Arc<Keys>>,
    few: bool,
    /// Batches that the channel takes more than [`QUEUE_BATCHES`], while keys are collected.
    extra: usize,
}

impl Feed {
    /// Has it stop with [`Cause::TooManyKeys`] rather than wait for an operator: whoever feeds
    /// it feeds others after it.
    pub fn expect_few(&mut self) {
        self.few = true;
    }

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
        let bytes = std::mem::take(&mut self.bytes);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let batch = self.decoder.batch()?;
        let mut few = true;
        for keys in &self.keys {
            few &= keys.add(&batch, bytes);
        }
        if !few {
            if self.few {
                return Err(GiveUp::new(Cause::TooManyKeys, ""));
            }
            // Nobody waits for the keys any more; the channel is to hold no more than others.
            self.keys.clear();
        }
        let wanted = self.send(Ok(Some(batch))).await;
        if !wanted {
            // What is still to come is not looked at.
            self.keys.iter().for_each(|k| k.publish(None));
        }
        Ok(wanted)
    }

    /// Hands over the last rows and tells that these are all.
    ///
    /// # Errors
    /// [`GiveUp`].
    pub async fn end(mut self) -> Result<(), GiveUp> {
        self.flush().await?;
        self.keys.iter().for_each(|k| k.end());
        self.send(Ok(None)).await;
        Ok(())
    }

    /// False when the engine wants no more: an operator may be done and still hold what it
    /// would have read from.
    async fn send(&self, item: Item) -> bool {
        let room = if self.keys.is_empty() { self.extra + 1 } else { 1 };
        tokio::select! {
            biased;
            _ = self.done.acquire() => false,
            permits = self.sender.reserve_many(room) => match permits {
                Ok(mut permits) => {
                    if let Some(permit) = permits.next() {
                        permit.send(item);
                    }
                    true
                }
                Err(_) => false,
            },
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
    keys: &[Arc<Keys>],
) -> (Feed, Mouth) {
    // Batches are full by rows or by bytes; a stream's last one may be a short one.
    let most = KEY_ROWS_MAX / BATCH_ROWS + KEY_BYTES_MAX / BATCH_BYTES + 2;
    let extra = if keys.is_empty() { 0 } else { most };
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES + extra);
    let (progress, done, keys) = (progress.clone(), done.clone(), keys.to_vec());
    let feed = Feed { decoder, sender, progress, bytes: 0, done, keys, few: false, extra };
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};

    fn batch(values: Vec<Option<i64>>) -> Option<RecordBatch> {
        let schema = Schema::new(vec![Field::new("c0", DataType::Int64, true)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values))]).ok()
    }

    #[tokio::test]
    async fn keys_come_once_all_streams_have_ended() {
        let keys = Keys::new(0, 2);
        for values in [vec![Some(3), None, Some(1)], vec![Some(3)]] {
            batch(values).iter().for_each(|b| assert!(keys.add(b, 0)));
            assert!(keys.published.borrow().is_none());
            keys.end();
        }
        assert_eq!(keys.wait().await.as_deref(), Some(&[1, 3][..]));
    }

    #[tokio::test]
    async fn too_many_keys_restrict_nothing() {
        let keys = Keys::new(0, 1);
        let many = (0..500_001).map(Some).collect();
        batch(many).iter().for_each(|b| assert!(!keys.add(b, 0)));
        assert_eq!(keys.wait().await, None);
        keys.end();
        assert_eq!(keys.wait().await, None);
    }

    /// Feeds rows that no operator takes until it would wait for one.
    async fn fed(rows: usize, streams: usize) -> Option<usize> {
        let types = [crate::ColumnType { oid: 20, typmod: -1 }];
        let columns: Vec<_> =
            types.iter().filter_map(|t| crate::types::Column::of(*t).ok()).collect();
        let schema = crate::run::schema(&columns);
        let keys = Arc::new(Keys::new(0, streams));
        let (progress, done) = (Arc::new(Progress::default()), Arc::new(Semaphore::new(0)));
        let mut mouths = Vec::new();
        for stream in 0..streams {
            let decoder = Decoder::new(schema.clone(), &columns);
            let (mut own, mouth) =
                feed(&schema, decoder, &progress, &done, std::slice::from_ref(&keys));
            mouths.push(mouth);
            for row in (stream..rows).step_by(streams) {
                let mut body = vec![0, 1, 0, 0, 0, 8];
                body.extend_from_slice(&(row as i64).to_be_bytes());
                if matches!(own.row(&body), Ok(true)) {
                    let flushed =
                        tokio::time::timeout(std::time::Duration::from_secs(2), own.flush());
                    if flushed.await.is_err() {
                        // It waits for an operator: the keys must have come, or be too many.
                        let known = keys.published.borrow().clone();
                        assert!(known.is_some());
                        return known.flatten().map(|k| k.len());
                    }
                }
            }
            let ended = tokio::time::timeout(std::time::Duration::from_secs(2), own.end()).await;
            assert!(ended.is_ok_and(|e| e.is_ok()));
        }
        let found = tokio::time::timeout(std::time::Duration::from_secs(2), keys.wait()).await;
        found.ok().flatten().map(|k| k.len())
    }

    #[tokio::test]
    async fn who_waits_for_keys_does_not_wait_for_an_operator() {
        assert_eq!(fed(KEY_ROWS_MAX, 1).await, Some(KEY_ROWS_MAX));
        assert_eq!(fed(KEY_ROWS_MAX, 3).await, Some(KEY_ROWS_MAX));
        assert_eq!(fed(KEY_ROWS_MAX + 100_000, 1).await, None);
    }
}
