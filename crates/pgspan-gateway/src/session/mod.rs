//! One client: its connection, its server connection, and the loop that relays
//! between them until a statement names a foreign table.
//!
//! Relaying looks at message headers only. What it reads besides: the text of Query
//! and Parse (does it name a foreign table?), ReadyForQuery (transaction status),
//! CommandComplete (did DDL go by?) and the SQLSTATE of errors.

pub(crate) mod ahead;
pub(crate) mod block;
pub(crate) mod cancel;
pub(crate) mod catalog;
pub(crate) mod gate;
pub(crate) mod home;
pub(crate) mod inbound;
pub(crate) mod make;
pub(crate) mod outbound;
pub(crate) mod owed;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod savepoints;
pub(crate) mod serve;
pub(crate) mod settle;
pub(crate) mod show;
pub(crate) mod state;
pub(crate) mod still;
pub(crate) mod stop;
pub(crate) mod trust;

use crate::databases::Database;
use crate::gateway::{Endpoint, Shared};
use crate::routes::UserRoutes;
use crate::spare::Origin;
use block::Block;
use bytes::BytesMut;
use cancel::CancelHandle;
use owed::Owed;
use pgspan_pool::{ServerConnection, Stream, is_hang_up};
use pgspan_sql::cause::Cause;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use request::{Executed, Held, Statements};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The route of what names no foreign table.
const RELAYED: Route =
    Route { strategy: Strategy::Relay, reason: Reason::new(Cause::NoForeignTable) };

/// Bytes that may wait for a slow reader before the other side is no longer read.
const QUEUE_BYTES_MAX: usize = 256 * 1024;

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;

/// Terminate.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// The client's connection with its queues.
pub(crate) struct ClientSide {
    pub stream: Stream,
    pub inbox: BytesMut,
    pub outbox: BytesMut,
    /// More has come, and Terminate behind it.
    pub goodbye: Arc<AtomicBool>,
}

impl ClientSide {
    /// Notes whether more has come, and Terminate behind it.
    pub fn listen(&self) {
        note_goodbye(&self.inbox, &self.goodbye);
    }

    /// As [`state::client_gone`].
    pub async fn gone(&mut self) {
        state::client_gone(&mut self.stream, &mut self.inbox, &self.goodbye).await;
    }

    /// Sends what is in the outbox. What is sent has left it, whenever this is given up.
    pub async fn send(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        if !self.outbox.is_empty() {
            self.stream.write_all_buf(&mut self.outbox).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }
}

/// As [`says_goodbye`], by the last bytes alone. Who takes the end of something else for
/// Terminate works on for a client that is gone; nothing else comes of that.
pub(crate) fn note_goodbye(inbox: &[u8], goodbye: &AtomicBool) {
    let more = inbox.len() > TERMINATE.len();
    goodbye.store(more && inbox.ends_with(TERMINATE), Ordering::Relaxed);
}

/// Whether whole messages have come, behind so many bytes of another, and Terminate behind them.
/// They are worked through, as by PostgreSQL, though the client has closed its connection.
pub(crate) fn says_goodbye(inbox: &[u8], rest: usize) -> bool {
    let all = inbox.get(rest..).unwrap_or_default();
    let mut left = all;
    while let Ok(Some((_, size))) = pgspan_wire::frame::peek(left)
        && !left.starts_with(TERMINATE)
    {
        left = left.get(size..).unwrap_or_default();
    }
    left.starts_with(TERMINATE) && left.len() < all.len()
}

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum End {
    /// The client said goodbye, or its connection broke.
    Client,
    /// The server connection broke, or spoke nonsense.
    Server(String),
    /// The server ended the connection, and said why.
    Home(ErrorFields),
    /// The client spoke nonsense.
    Protocol(ErrorFields),
    /// The gateway shuts down, and the session is at rest.
    Shutdown,
}

/// One client's session.
pub(crate) struct Session {
    pub client: ClientSide,
    pub server: ServerConnection,
    pub cancel: CancelHandle,
    pub user: String,
    pub database_name: String,
    pub endpoint: Arc<Endpoint>,
    pub shared: Arc<Shared>,
    pub database: Arc<Database>,
    /// Statements that the client has prepared.
    pub statements: Statements,
    /// Messages held back until their batch is whole.
    pub held: Held,
    /// What was relayed and is not answered yet.
    pub owed: Owed,
    /// Whether what was relayed is executed as it was bound.
    pub executed: Executed,
    /// Home has told the client why it ends the session.
    pub farewell_told: bool,
    /// Home may have an unnamed statement of the client's.
    pub unnamed_at_home: bool,
    /// Home may have an unnamed portal of the client's.
    pub unnamed_portal_at_home: bool,
    /// An error came since the last ReadyForQuery.
    pub failed: bool,
    /// A statement in a block has named a foreign table, where the catalog cannot be read.
    pub catalog_missed: bool,
    /// After an error that the gateway answered itself: discard up to Sync.
    pub discard_to_sync: bool,
    /// Bytes of a client message that is waited for whole, which may be more than the
    /// queue otherwise takes.
    pub client_whole: usize,
    /// Rest of a long client message that is relayed as it comes, in bytes.
    pub client_rest: usize,
    /// Rest of a client message that nobody reads, in bytes.
    pub client_dropped: usize,
    /// Rest of a long server message, likewise.
    pub server_rest: usize,
    /// The transaction block that the client is in.
    pub block: Block,
    /// A transaction or savepoint of the gateway's own is open at home.
    pub opened: bool,
    /// Whether what is prepared at home is what it was.
    pub trust: trust::Trust,
    /// What is known of home while nothing changes there.
    pub still: still::Still,
    /// How the last statement was run.
    pub last_route: Route,
    /// How many were run how.
    pub routes: Arc<UserRoutes>,
    /// The client's role may see what other users' sessions do.
    pub sees_all: bool,
    /// How home's connection was opened, if another client may have it afterwards.
    pub origin: Option<Origin>,
    /// Snapshots of sources that the present statement keeps.
    pub snapshots: Vec<crate::strategy::snapshot::Held>,
}

/// What the relay loop found to do next.
pub(crate) enum Next {
    /// Nothing more without new bytes.
    Wait,
    /// A simple query that names a foreign table.
    Query(pgspan_wire::frame::Frame),
    /// A whole extended batch that executes such a statement.
    Batch,
    /// The client wants answers to a batch that is held and not whole, or something follows it
    /// that is not of it.
    Flush,
    /// Something that is not seen whole, or not text, in a block that is gated.
    Gate,
    /// The client said goodbye.
    Terminate,
}

impl Session {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        client: ClientSide,
        server: ServerConnection,
        cancel: CancelHandle,
        user: String,
        database_name: String,
        endpoint: Arc<Endpoint>,
        shared: Arc<Shared>,
    ) -> Session {
        let database = shared.databases.enter(&endpoint.cluster, &database_name);
        let routes = shared.routes.of(&user);
        Session {
            client,
            server,
            cancel,
            user,
            database_name,
            endpoint,
            shared,
            database,
            statements: Statements::default(),
            held: Held::default(),
            origin: None,
            snapshots: Vec::new(),
            owed: Owed::default(),
            executed: Executed::default(),
            farewell_told: false,
            unnamed_at_home: false,
            unnamed_portal_at_home: false,
            failed: false,
            catalog_missed: false,
            discard_to_sync: false,
            client_whole: 0,
            client_rest: 0,
            client_dropped: 0,
            server_rest: 0,
            block: Block::default(),
            opened: false,
            trust: trust::Trust::default(),
            still: still::Still::default(),
            last_route: RELAYED,
            routes,
            sees_all: false,
        }
    }

    /// Serves the client to the end of its session.
    pub async fn run(mut self) {
        let end = match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let listens = !matches!(end, End::Client);
        let farewell = match end {
            End::Client => None,
            End::Server(_) if self.farewell_told => None,
            End::Server(reason) => {
                tracing::info!(reason, "server connection lost");
                let text = "server closed the connection unexpectedly";
                Some(ErrorFields::new("FATAL", "08006", text).with_detail(reason))
            }
            End::Home(error) | End::Protocol(error) => Some(error),
            End::Shutdown => {
                let text = "terminating connection because the gateway is shutting down";
                Some(ErrorFields::new("FATAL", "57P01", text))
            }
        };
        if let Some(error) = farewell {
            error.put(&mut self.client.outbox);
        }
        if listens {
            let bound = std::time::Duration::from_secs(5);
            // The client may be gone as well; there is nobody else to tell.
            let _sent = tokio::time::timeout(bound, self.client.send()).await;
        }
        let idle = self.server.status == TransactionStatus::Idle && !self.server.is_busy();
        if !idle || self.owed.ready() > 0 {
            // The server would go on working for nobody.
            self.cancel.cancel_own().await;
            if self.server.is_busy() || self.owed.ready() > 0 {
                tokio::spawn(self.server.cancel_key.clone().cancel_abandoned());
            }
        } else if !listens && self.at_rest() && self.server.is_clean() {
            let Session { server, cancel, shared, origin, .. } = self;
            // A cancel request that is still on its way would meet the next client.
            if let Some(origin) = origin.filter(|_| !cancel.retire()) {
                shared.spare.keep(origin, server).await;
            }
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        let mut closing = self.shared.closing.clone();
        // One future for the whole session: it registers itself once.
        let mut closing = std::pin::pin!(closing.wait_for(|c| *c));
        let mut asked = false;
        loop {
            self.read_server()?;
            if self.server.status == TransactionStatus::Failed && self.owed.ready() == 0 {
                self.block.failed().await;
            }
            let next = self.read_client()?;
            self.client.listen();
            match next {
                Next::Query(frame) => self.serve_query(frame).await?,
                Next::Batch => self.serve_batch().await?,
                Next::Flush => self.serve_flush(true).await?,
                Next::Gate => self.serve_gate().await?,
                Next::Terminate => return Err(self.terminate().await),
                Next::Wait => {
                    let idle = self.at_rest();
                    let due = if idle && !asked { self.read_at_rest() } else { &[] };
                    if !due.is_empty() {
                        // Between two statements, so that none waits for it.
                        self.refresh_catalog(due).await?;
                        asked = true;
                        continue;
                    }
                    asked = false;
                    tokio::select! {
                        biased;
                        moved = self.pump() => moved?,
                        _ = &mut closing, if idle => return Err(End::Shutdown),
                    }
                }
            }
        }
    }

    /// The client says goodbye: home finishes what it was sent before, as it would
    /// without a gateway, and whoever still listens gets the answers.
    async fn terminate(&mut self) -> End {
        let (mut told, mut listening) = (false, true);
        loop {
            if !told && (self.held.is_empty() || self.owed.ready() == 0) {
                if self.discard_to_sync {
                    drop(self.held.take());
                }
                // It is executed without a Sync too: a COMMIT among it counts.
                if !self.held.is_empty()
                    && let Err(end) = self.serve_flush(false).await
                {
                    return end;
                }
                if self.origin.is_some() && self.at_rest() {
                    return End::Client;
                }
                pgspan_wire::frontend::terminate(&mut self.server.outbox);
                told = true;
            }
            if self.server.send().await.is_err() || self.read_server().is_err() {
                break;
            }
            if listening {
                listening = self.client.send().await.is_ok();
            }
            self.client.outbox.clear();
            let server = &mut self.server;
            let more = poll_fn(|cx| read(&mut server.stream, &mut server.inbox, cx)).await;
            if !matches!(more, Ok(n) if n > 0) {
                break;
            }
        }
        // Nothing is left to be cancelled.
        self.server.status = TransactionStatus::Idle;
        self.owed = Owed::default();
        self.origin = None;
        End::Client
    }

    /// A statement that names no foreign table goes to home.
    fn count_relayed(&mut self) {
        self.routes.count_relayed();
        self.last_route = RELAYED;
    }

    /// Nothing runs, nothing waits, no transaction is open.
    fn at_rest(&self) -> bool {
        self.owed.ready() == 0
            && !self.owed.batch_open()
            && self.server.status == TransactionStatus::Idle
            && self.server_rest == 0
            && self.client.outbox.is_empty()
            && self.server.outbox.is_empty()
    }

    /// Moves bytes in both directions until something new has been read, or the client has
    /// all that there was for it. A side whose queue is full is not read further, so a slow
    /// reader slows its writer.
    async fn pump(&mut self) -> Result<(), End> {
        let inbox_max = self.client_whole.max(QUEUE_BYTES_MAX);
        let rest = self.client_rest + self.client_dropped;
        let client = &mut self.client;
        let server = &mut self.server;
        let end = |e: io::Error| End::Server(e.to_string());
        poll_fn(|cx| {
            if !server.outbox.is_empty() {
                match write(&mut server.stream, &mut server.outbox, cx) {
                    // Why home hung up is read below, or the end of its stream.
                    Err(e) if is_hang_up(&e) => server.outbox.clear(),
                    written => written.map_err(end)?,
                }
            }
            let mut news = false;
            if !client.outbox.is_empty() {
                write(&mut client.stream, &mut client.outbox, cx).map_err(|_| End::Client)?;
                news = client.outbox.is_empty();
            }
            if client.outbox.len() < QUEUE_BYTES_MAX {
                match read(&mut server.stream, &mut server.inbox, cx) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(End::Server("end of stream".to_owned())));
                    }
                    Poll::Ready(Ok(_)) => news = true,
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(end(e))),
                    Poll::Pending => {}
                }
            }
            if server.outbox.len() < QUEUE_BYTES_MAX && client.inbox.len() < inbox_max {
                match read(&mut client.stream, &mut client.inbox, cx) {
                    Poll::Ready(Ok(0) | Err(_)) if says_goodbye(&client.inbox, rest) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(End::Client)),
                    Poll::Ready(Ok(_)) => news = true,
                    Poll::Pending => {}
                }
            }
            if news { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

fn write(
    stream: &mut Stream,
    queue: &mut BytesMut,
    cx: &mut std::task::Context<'_>,
) -> io::Result<()> {
    use bytes::Buf as _;
    while !queue.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, queue) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => queue.advance(n),
            Poll::Ready(Err(e)) => return Err(e),
            Poll::Pending => return Ok(()),
        }
    }
    if matches!(stream, Stream::Tls(_)) {
        // Pending is fine: the stream wakes us when it can go on.
        if let Poll::Ready(Err(e)) = Pin::new(stream).poll_flush(cx) {
            return Err(e);
        }
    }
    Ok(())
}

fn read(
    stream: &mut Stream,
    queue: &mut BytesMut,
    cx: &mut std::task::Context<'_>,
) -> Poll<io::Result<usize>> {
    use bytes::BufMut as _;
    queue.reserve(READ_BYTES / 8);
    let spare = queue.spare_capacity_mut();
    let mut buf = ReadBuf::uninit(spare);
    match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Ready(Ok(())) => {
            let n = buf.filled().len();
            // SAFETY: `ReadBuf` has initialised its first `n` bytes, which are the
            // first `n` of the queue's spare capacity.
            unsafe { queue.advance_mut(n) };
            Poll::Ready(Ok(n))
        }
        Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
        Poll::Pending => Poll::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::says_goodbye;

    #[test]
    fn terminate_is_heard_behind_whole_messages() {
        let query = b"Q\0\0\0\x06 \0";
        let with = |parts: &[&[u8]]| parts.concat();
        let goodbye = b"X\0\0\0\x04";
        assert!(says_goodbye(&with(&[query, query, goodbye]), 0));
        assert!(says_goodbye(&with(&[b"rest", query, goodbye]), 4));
        for (inbox, rest) in [
            (with(&[]), 0),
            (with(&[query]), 0),
            (with(&[query, &goodbye[..4]]), 0),
            // There is nothing to work through.
            (with(&[goodbye]), 0),
            (with(&[b"rest", goodbye]), 4),
            // Part of a message that has not come whole.
            (with(&[b"Q\0\0\x01\0", goodbye]), 0),
            (with(&[query, goodbye]), 20),
        ] {
            assert!(!says_goodbye(&inbox, rest), "{inbox:?} {rest}");
        }
    }
}
