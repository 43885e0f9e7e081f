//! The client's transaction block: what ran in it, and the sources that hold a
//! snapshot for it.
//!
//! postgres_fdw opens one REPEATABLE READ transaction per source at the first foreign
//! read of a block and holds it to the block's end. So does the gateway in READ
//! COMMITTED blocks. Once home itself may have opened such a transaction (a fallback,
//! a write to a foreign table, a call of something that might), its snapshot differs
//! from ours, and the rest of the block falls back.

use super::Session;
use super::stop::Stop;
use bytes::Bytes;
use pgspan_pool::Lease;
use pgspan_sql::ask;
use pgspan_sql::effect::{Effect, effect};
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;

/// Statements of one block that are remembered; more make it unknown.
const REMEMBERED_MAX: usize = 64;

/// A text up to this long is remembered outside a block too: it may be BEGIN. In bytes.
const OPENING_BYTES_MAX: usize = 64;

/// Bytes of one statement that are remembered; a longer one makes it unknown.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// A source that holds its snapshot for the block.
pub(crate) struct BlockSource {
    pub spec: ServerSpec,
    pub lease: Lease,
}

/// What is known of the current block.
#[derive(Default)]
pub(crate) struct Block {
    ran: Vec<Bytes>,
    unknown: bool,
    /// A longer text ran outside a block; if it opened one, that one is unknown.
    unrecorded: bool,
    pub sources: Vec<BlockSource>,
}

impl Block {
    /// A statement was relayed. Outside a block its text matters only if it opens one.
    pub fn ran(&mut self, text: &[u8], outside: bool) {
        if self.unknown {
            return;
        }
        if outside && text.len() > OPENING_BYTES_MAX {
            self.unrecorded = true;
            return;
        }
        if self.ran.len() >= REMEMBERED_MAX || text.len() > TEXT_BYTES_MAX {
            self.unknown();
        } else {
            self.ran.push(Bytes::copy_from_slice(text));
        }
    }

    /// The client is in a block after what ran last.
    pub fn is_open(&mut self) {
        if std::mem::take(&mut self.unrecorded) {
            self.unknown();
        }
    }

    /// Something was relayed of which it is not known what it does, or home read or
    /// wrote foreign tables itself.
    pub fn unknown(&mut self) {
        self.unknown = true;
        self.ran.clear();
    }

    /// Whether home may have touched a source in this block.
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// Statements relayed and not yet found harmless.
    pub fn unchecked(&self) -> &[Bytes] {
        &self.ran
    }

    /// All of them were found harmless.
    pub fn checked(&mut self) {
        self.ran.clear();
    }

    /// Sources whose answer is no longer waited for lose their connection.
    pub fn drop_abandoned(&mut self) {
        self.sources.retain(|s| !s.lease.is_busy());
    }

    /// The block is over, or the statement outside one: sources give their snapshots up.
    pub fn end(&mut self) {
        self.ran.clear();
        self.unknown = false;
        self.unrecorded = false;
        for mut source in self.sources.drain(..).filter(|s| !s.lease.is_busy()) {
            tokio::spawn(async move {
                if source.lease.simple("COMMIT").await.is_err() {
                    source.lease.discard();
                }
            });
        }
    }
}

impl Session {
    /// Before the first foreign read after other statements of a block: home must not
    /// have touched a source meanwhile.
    ///
    /// # Errors
    /// The reason for fallback when it may have.
    pub(super) async fn check_block(&mut self) -> Result<(), Stop> {
        if self.block.unchecked().is_empty() {
            return Ok(());
        }
        let catalog = self.database.catalog();
        let mut names = Vec::new();
        for text in self.block.unchecked() {
            match std::str::from_utf8(text).map(|t| effect(t, &catalog)) {
                Ok(Effect::Local(found)) => names.extend(found),
                _ => return Err(Reason::new(TOUCHED).into()),
            }
        }
        names.sort();
        names.dedup();
        if !names.is_empty() {
            // Not kept as prepared: the names differ each time.
            super::home::run_once(&mut self.server, &ask::quiet(&names));
            pgspan_wire::frontend::sync(&mut self.server.outbox);
            let got = super::home::answers(&mut self.server, &mut self.client.outbox).await?;
            let quiet = got.value(0, 0);
            if quiet.is_none_or(|q| &q[..] != b"t") {
                return Err(Reason::new(TOUCHED).into());
            }
        }
        self.block.checked();
        Ok(())
    }
}

const TOUCHED: &str = "home may have read or written the source in this block";
