//! An open server connection: its bytes, its message queue, what it told at startup.

use crate::busy_poll::BusyPoll;
use crate::prepared::Prepared;
use crate::stream::Stream;
use bytes::{Buf as _, BytesMut};
use pgspan_wire::WireError;
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use pgspan_wire::frame::{self, Frame};
use pgspan_wire::frontend;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Parameters that are noted of a server: PostgreSQL 18 reports 15.
const PARAMETERS_MAX: usize = 64;

/// The longest one that is noted, its name included, in bytes.
const PARAMETER_BYTES_MAX: usize = 16 * 1024;

/// The longest answer to SQL of our own ([`ServerConnection::simple`]), in bytes.
const SIMPLE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When an abandoned query is cancelled.
const CANCEL_AGAIN: [Duration; 3] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(4)];

/// How long a server may take for a CancelRequest.
pub const CANCEL_MAX: Duration = Duration::from_secs(5);

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
    /// Sends the CancelRequest and waits until the server has taken it, at most
    /// [`CANCEL_MAX`].
    ///
    /// # Errors
    /// When the server cannot be reached, or does not answer in time.
    pub async fn cancel(&self) -> io::Result<()> {
        tokio::time::timeout(CANCEL_MAX, self.request_cancel()).await?
    }

    /// Cancels a query whose connection nobody reads any longer, three times within five seconds.
    /// A request that overtakes the query finds the server idle and does nothing, and nobody is
    /// left to see that the query runs.
    pub async fn cancel_abandoned(self) {
        for pause in CANCEL_AGAIN {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.cancel().await {
                tracing::debug!(%error, "an abandoned query could not be cancelled");
            }
        }
    }

    async fn request_cancel(&self) -> io::Result<()> {
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
    /// Who waited does so no longer; the connection is to be discarded.
    #[error("the wait for the server was ended")]
    Interrupted,
    /// The answer to a question was longer than is kept; the connection is in order.
    #[error("the server's answer is too long")]
    TooMuch,
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
    pub prepared: Prepared,
    /// Transaction status at the last ReadyForQuery.
    pub status: TransactionStatus,
    /// Something was sent whose ReadyForQuery has not been read. Each [`Self::send`] of
    /// a lease ends with one Sync or Query, so one ReadyForQuery answers it.
    pub(crate) busy: bool,
    /// The longest message that [`Self::receive`] keeps, header included, in bytes.
    pub message_bytes_max: usize,
    /// A longer one is being read over: its type byte, and how much of it is to come.
    pub(crate) over: Option<(u8, usize)>,
    /// What ends the waits for it; `None`: nothing but its answer.
    pub patience: Option<Arc<dyn Patience>>,
    /// The same for questions of our own where that is `None`.
    pub asking: Option<Arc<dyn Patience>>,
    /// When it was asked last, outside of a wait.
    pub(crate) looked: Instant,
    /// How to wait for its answers.
    pub busy_poll: BusyPoll,
    pub(crate) since: Instant,
}

/// How often who waits for a server is asked whether to go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who waits for a server, and may have a reason not to wait any longer.
pub trait Patience: std::fmt::Debug + Send + Sync {
    /// Whether the wait is to end without an answer.
    fn is_over(&self) -> bool;
}

/// Waits for a server as long as who waits for it does.
async fn patiently<T>(
    patience: Option<&Arc<dyn Patience>>,
    mut wait: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ServerError> {
    let Some(patience) = patience else { return Ok(wait.await) };
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return Ok(done),
            () = tokio::time::sleep(LOOK_EVERY) => {
                if patience.is_over() {
                    return Err(ServerError::Interrupted);
                }
            }
        }
    }
}

/// Notes what ParameterStatus tells; what is more than a server has to report is not kept.
pub fn note(parameters: &mut HashMap<String, String>, name: String, value: String) {
    let room = parameters.len() < PARAMETERS_MAX || parameters.contains_key(&name);
    if room && name.len() + value.len() <= PARAMETER_BYTES_MAX {
        parameters.insert(name, value);
    } else {
        parameters.remove(&name);
    }
}

/// What a read means that ended.
fn came_in(read: io::Result<usize>) -> Result<(), ServerError> {
    match read? {
        0 => Err(ServerError::Io(io::ErrorKind::UnexpectedEof.into())),
        _ => Ok(()),
    }
}

impl ServerConnection {
    /// One on which nothing has been said yet.
    pub(crate) fn new(
        stream: Stream,
        address: SocketAddr,
        message_bytes_max: usize,
    ) -> ServerConnection {
        ServerConnection {
            stream,
            inbox: BytesMut::with_capacity(16 * 1024),
            outbox: BytesMut::with_capacity(4 * 1024),
            cancel_key: CancelKey { address, pid: 0, key: 0 },
            parameters: HashMap::new(),
            password_used: false,
            notices: Notices::default(),
            prepared: Prepared::default(),
            status: TransactionStatus::Idle,
            message_bytes_max,
            over: None,
            patience: None,
            asking: None,
            looked: Instant::now(),
            busy: false,
            busy_poll: BusyPoll::default(),
            since: Instant::now(),
        }
    }

    /// Sends what is in the outbox. A server that has hung up is no error here: why it
    /// did may still be there to be read, and reading tells the end.
    ///
    /// # Errors
    /// When the connection is lost in another way.
    pub async fn send(&mut self) -> Result<(), ServerError> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        self.busy = true;
        let Self { stream, outbox, patience, .. } = self;
        let sent = {
            let write = pin!(async {
                stream.write_all(outbox).await?;
                stream.flush().await
            });
            patiently(patience.as_ref(), write).await
        };
        self.outbox.clear();
        match sent? {
            Err(e) if !is_hang_up(&e) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The next message. ParameterStatus is noted on the way and returned as any other. One
    /// that is longer than [`Self::message_bytes_max`] is read over, and returned without its
    /// body: [`Frame::is_cut`].
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
        if self.over.is_none() {
            self.over = match frame::peek(&self.inbox)? {
                Some((tag, size)) if size > self.message_bytes_max => Some((tag, size)),
                _ => None,
            };
        }
        if let Some((tag, rest)) = &mut self.over {
            let come = (*rest).min(self.inbox.len());
            self.inbox.advance(come);
            *rest -= come;
            if *rest > 0 {
                return Ok(None);
            }
            let frame = Frame::cut(*tag);
            self.over = None;
            return Ok(Some(frame));
        }
        let Some(frame) = frame::take(&mut self.inbox)? else { return Ok(None) };
        match frame.tag {
            b'S' => self.note_parameter(&frame)?,
            b'Z' => {
                self.busy = false;
                self.prepared.answered();
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
        self.look()?;
        self.inbox.reserve(16 * 1024);
        let Self { stream, inbox, patience, busy_poll, .. } = self;
        let mut read = pin!(stream.read_buf(inbox));
        let mut came = None;
        if let Some(time) = busy_poll.start() {
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
            busy_poll.ended(came.is_some());
        }
        came_in(match came {
            Some(got) => got,
            None => patiently(patience.as_ref(), read).await?,
        })
    }

    /// A server that never stops talking is not waited for, and yet must end.
    fn look(&mut self) -> Result<(), ServerError> {
        let Some(patience) = &self.patience else { return Ok(()) };
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if patience.is_over() { Err(ServerError::Interrupted) } else { Ok(()) }
    }

    /// As [`Self::fill`], asleep: for rows, of which more are always on their way.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn read_more(&mut self) -> Result<(), ServerError> {
        self.look()?;
        self.inbox.reserve(16 * 1024);
        let Self { stream, inbox, patience, .. } = self;
        came_in(patiently(patience.as_ref(), pin!(stream.read_buf(inbox))).await?)
    }

    /// Moves the whole DataRows that have arrived and are next, as they came; tells
    /// whether there were any.
    pub fn take_rows(&mut self, into: &mut BytesMut) -> bool {
        if self.over.is_some() {
            return false;
        }
        let mut size = 0;
        // A header that cannot be is reported by `receive`.
        while let Ok(Some((b'D', row))) = frame::peek(&self.inbox[size..])
            && size + row <= self.inbox.len()
        {
            size += row;
        }
        into.extend_from_slice(&self.inbox[..size]);
        self.inbox.advance(size);
        size > 0
    }

    /// The size in bytes, header included, of the message that is next, if it is of this type,
    /// longer than so many bytes, and not here whole.
    pub fn long(&self, tag: u8, than: usize) -> Option<usize> {
        if self.over.is_some() {
            return None;
        }
        // A header that cannot be is reported by `receive`.
        let (own, size) = frame::peek(&self.inbox).ok()??;
        (own == tag && size > than && self.inbox.len() < size).then_some(size)
    }

    /// Hands over the bodies of the DataRows that have arrived and are next, where they
    /// lie; stops before the first other message, or when `each` fails.
    ///
    /// # Errors
    /// What `each` says.
    pub fn rows<E>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<usize, E> {
        if self.over.is_some() {
            // What lies there is the middle of a message.
            return Ok(0);
        }
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
        note(&mut self.parameters, name, value);
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
        let mut said = 0;
        loop {
            let frame = self.receive().await?;
            said += frame.raw.len() + size_of::<Vec<Option<bytes::Bytes>>>();
            match frame.tag {
                _ if said > SIMPLE_BYTES_MAX || frame.is_cut() => {
                    return Err(ServerError::Unexpected(char::from(frame.tag)));
                }
                b'D' => rows.push(pgspan_wire::backend::data_row(frame.body())?),
                b'E' => error = Some(ErrorFields::read(&frame)),
                b'Z' => break,
                _ => {}
            }
        }
        match error {
            Some(e) => Err(ServerError::Sql(e)),
            None => Ok(rows),
        }
    }

    /// Whether a connection at rest is still open, as far as the system has heard: the server
    /// has neither closed it nor said anything.
    pub fn is_alive(&mut self) -> bool {
        let read = pin!(self.stream.read_buf(&mut self.inbox));
        let mut nobody = Context::from_waker(Waker::noop());
        read.poll(&mut nobody).is_pending()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn connection(message_bytes_max: usize) -> (ServerConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        let stream = Stream::Plain(tcp);
        let connection = ServerConnection::new(stream, address, message_bytes_max);
        (connection, other)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    fn rows(connection: &mut ServerConnection) -> usize {
        connection.rows(|_| Ok::<(), ()>(())).unwrap()
    }

    #[tokio::test]
    async fn no_row_is_found_in_the_middle_of_a_message_that_is_too_long() {
        let (mut connection, _other) = connection(64).await;
        let row = message(b'D', &[0, 0]);
        // Its value looks like rows.
        let long = message(b'D', &row.repeat(1000));
        let end = [row.clone(), message(b'C', b"SELECT 2\0")].concat();
        let mut taken = BytesMut::new();
        let mut tags = Vec::new();
        let mut count = 0;
        for bytes in [&row[..], &long, &end].concat().chunks(97) {
            connection.inbox.extend_from_slice(bytes);
            loop {
                assert!(connection.over.is_none() || connection.long(b'D', 0).is_none());
                count += rows(&mut connection);
                assert!(connection.over.is_none() || !connection.take_rows(&mut taken));
                let Some(frame) = connection.received().unwrap() else { break };
                tags.push((frame.tag, frame.is_cut()));
            }
        }
        assert_eq!((count, tags), (2, vec![(b'D', true), (b'C', false)]));
    }

    #[tokio::test]
    async fn what_a_server_reports_of_itself_has_a_bound() {
        let (mut connection, _other) = connection(64 * 1024).await;
        for number in 0..1000 {
            let told = format!("p{number}\0v\0");
            connection.inbox.extend_from_slice(&message(b'S', told.as_bytes()));
        }
        let long = format!("p0\0{}\0", "x".repeat(PARAMETER_BYTES_MAX));
        connection.inbox.extend_from_slice(&message(b'S', long.as_bytes()));
        while connection.received().unwrap().is_some() {}
        assert_eq!(connection.parameters.len(), PARAMETERS_MAX - 1);
        assert_eq!(connection.parameters.get("p1").map(String::as_str), Some("v"));
    }

    #[tokio::test]
    async fn who_loses_patience_waits_no_longer_whether_the_server_talks_or_not() {
        #[derive(Debug)]
        struct Over;
        impl Patience for Over {
            fn is_over(&self) -> bool {
                true
            }
        }
        let (mut connection, mut other) = connection(64).await;
        connection.patience = Some(Arc::new(Over));
        let silent = connection.receive().await;
        assert!(matches!(silent, Err(ServerError::Interrupted)));
        tokio::spawn(
            async move { while other.write_all(&message(b'D', &[0, 0])).await.is_ok() {} },
        );
        let talking = async {
            loop {
                if let Err(error) = connection.receive().await {
                    return error;
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), talking).await;
        assert!(matches!(ended, Ok(ServerError::Interrupted)));
    }
}
