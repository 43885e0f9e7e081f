//! An open server connection: its bytes, its message queue, what it told at startup.

use crate::busy_poll::BusyPoll;
use crate::stream::Stream;
use bytes::BytesMut;
use pgspan_wire::WireError;
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use pgspan_wire::frame::{self, Frame};
use pgspan_wire::frontend;
use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a server process answers to for a CancelRequest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// Where the server was reached.
    pub address: SocketAddr,
    /// Process number.
    pub pid: i32,
    /// Secret.
    pub key: i32,
}

impl CancelKey {
    /// Sends the CancelRequest and waits until the server has taken it.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn cancel(&self) -> io::Result<()> {
        let mut tcp = tokio::net::TcpStream::connect(self.address).await?;
        let mut buf = BytesMut::new();
        frontend::cancel_request(&mut buf, self.pid, self.key);
        tcp.write_all(&buf).await?;
        // The server closes the connection when it has signalled the process.
        let mut end = [0u8; 1];
        let _closed = tcp.read(&mut end).await?;
        Ok(())
    }
}

/// Why a server connection did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The connection broke; it is to be discarded.
    #[error("server connection lost: {0}")]
    Io(#[from] io::Error),
    /// The server sent what cannot be a message; the connection is to be discarded.
    #[error("server sent an invalid message: {0}")]
    Wire(#[from] WireError),
    /// The server answered with an error; the connection is in order.
    #[error("{0}")]
    Sql(ErrorFields),
    /// The server ended the connection, and said why.
    #[error("{0}")]
    HungUp(ErrorFields),
    /// The server sent a message that has no place here; the connection is to be discarded.
    #[error("unexpected message {0:?} from the server")]
    Unexpected(char),
}

impl ServerError {
    /// The server's own error, if it is one.
    pub fn sql(&self) -> Option<&ErrorFields> {
        match self {
            ServerError::Sql(e) => Some(e),
            _ => None,
        }
    }
}

/// Whether a write failed because the other side has closed: what it sent before can
/// still be read.
pub fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// NoticeResponse messages of a startup, whole, as they came: of settings that it asked
/// for, for example, or of a trigger on login.
#[derive(Debug, Default)]
pub struct Notices {
    /// Those in front of BackendKeyData.
    pub before_key: BytesMut,
    /// Those behind it.
    pub after_key: BytesMut,
}

/// An open, authenticated server connection.
#[derive(Debug)]
pub struct ServerConnection {
    /// The bytes.
    pub stream: Stream,
    /// Received and not yet taken.
    pub inbox: BytesMut,
    /// Written and not yet sent.
    pub outbox: BytesMut,
    /// How to cancel what it runs.
    pub cancel_key: CancelKey,
    /// ParameterStatus as last told.
    pub parameters: HashMap<String, String>,
    /// Whether the server asked for a password (postgres_fdw demands it for roles
    /// that are not superusers).
    pub password_used: bool,
    /// What the server said while it let us in: nobody else can tell the client.
    pub notices: Notices,
    /// Statements that the gateway has prepared on it, by their number.
    pub prepared: HashSet<u64>,
    /// Transaction status at the last ReadyForQuery.
    pub status: TransactionStatus,
    /// Something was sent whose ReadyForQuery has not been read. Each [`Self::send`] of
    /// a lease ends with one Sync or Query, so one ReadyForQuery answers it.
    pub(crate) busy: bool,
    /// How to wait for its answers.
    pub busy_poll: BusyPoll,
    pub(crate) since: Instant,
}

impl ServerConnection {
    /// Sends what is in the outbox. A server that has hung up is no error here: why it
    /// did may still be there to be read, and reading tells the end.
    ///
    /// # Errors
    /// When the connection is lost in another way.
    pub async fn send(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.busy = true;
        let sent = match self.stream.write_all(&self.outbox).await {
            Ok(()) => self.stream.flush().await,
            Err(e) => Err(e),
        };
        self.outbox.clear();
        match sent {
            Err(e) if !is_hang_up(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// The next message. ParameterStatus is noted on the way and returned as any other.
    ///
    /// # Errors
    /// When the connection is lost or speaks nonsense.
    pub async fn receive(&mut self) -> Result<Frame, ServerError> {
        loop {
            match self.received()? {
                Some(frame) => return Ok(frame),
                None => self.fill().await?,
            }
        }
    }

    /// As [`Self::receive`], of what has arrived.
    ///
    /// # Errors
    /// When the server speaks nonsense.
    pub fn received(&mut self) -> Result<Option<Frame>, ServerError> {
        let Some(frame) = frame::take(&mut self.inbox)? else { return Ok(None) };
        match frame.tag {
            b'S' => self.note_parameter(&frame)?,
            b'Z' => {
                self.busy = false;
                let byte = frame.body().first().copied().unwrap_or(0);
                self.status =
                    TransactionStatus::from_byte(byte).ok_or(WireError::Malformed('Z'))?;
            }
            _ => {}
        }
        Ok(Some(frame))
    }

    /// Waits until more has arrived.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn fill(&mut self) -> Result<(), ServerError> {
        self.inbox.reserve(16 * 1024);
        let mut read = pin!(self.stream.read_buf(&mut self.inbox));
        let mut came = None;
        if let Some(time) = self.busy_poll.start() {
            let began = Instant::now();
            came = loop {
                let once = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
                match once {
                    Poll::Ready(got) => break Some(got),
                    Poll::Pending if began.elapsed() >= time => break None,
                    // Whoever else has something to do is served in between.
                    Poll::Pending => tokio::task::yield_now().await,
                }
            };
            self.busy_poll.ended(came.is_some());
        }
        let got = match came {
            Some(got) => got,
            None => read.await,
        };
        match got? {
            0 => Err(ServerError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// Moves the whole DataRows that have arrived and are next, as they came; tells
    /// whether there were any.
    pub fn take_rows(&mut self, into: &mut BytesMut) -> bool {
        let mut size = 0;
        // A header that cannot be is reported by `receive`.
        while let Ok(Some((b'D', row))) = frame::peek(&self.inbox[size..])
            && size + row <= self.inbox.len()
        {
            size += row;
        }
        into.extend_from_slice(&self.inbox[..size]);
        bytes::Buf::advance(&mut self.inbox, size);
        size > 0
    }

    /// Hands over the bodies of the DataRows that have arrived and are next, where they
    /// lie; stops before the first other message, or when `each` fails.
    ///
    /// # Errors
    /// What `each` says.
    pub fn rows<E>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<usize, E> {
        use bytes::Buf as _;
        let (mut at, mut count) = (0, 0);
        let mut done = Ok(());
        // A header that cannot be is reported by `receive`.
        while let Ok(Some((b'D', size))) = frame::peek(&self.inbox[at..]) {
            let Some(raw) = self.inbox.get(at..at + size) else { break };
            done = each(&raw[frame::HEADER_BYTES..]);
            at += size;
            count += 1;
            if done.is_err() {
                break;
            }
        }
        self.inbox.advance(at);
        done.map(|()| count)
    }

    fn note_parameter(&mut self, frame: &Frame) -> Result<(), WireError> {
        let mut f = frame::Fields::new(b'S', frame.body());
        let name = f.text()?;
        let value = f.text()?;
        self.parameters.insert(name, value);
        Ok(())
    }

    /// Runs simple-protocol SQL of our own and gives its rows as text.
    ///
    /// # Errors
    /// The server's error after ReadyForQuery has been read, or a lost connection.
    pub async fn simple(
        &mut self,
        sql: &str,
    ) -> Result<Vec<Vec<Option<bytes::Bytes>>>, ServerError> {
        frontend::query(&mut self.outbox, sql);
        self.send().await?;
        let mut rows = Vec::new();
        let mut error = None;
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'D' => rows.push(pgspan_wire::backend::data_row(frame.body())?),
                b'E' => error = Some(ErrorFields::decode(frame.body())?),
                b'Z' => break,
                _ => {}
            }
        }
        match error {
            Some(e) => Err(ServerError::Sql(e)),
            None => Ok(rows),
        }
    }

    /// Whether the server still works on something of ours.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether it is at rest: outside a transaction, nothing half sent or half read.
    pub fn is_clean(&self) -> bool {
        !self.busy
            && self.status == TransactionStatus::Idle
            && self.inbox.is_empty()
            && self.outbox.is_empty()
    }
}
