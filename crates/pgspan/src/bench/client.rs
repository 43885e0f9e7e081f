//! A blocking PostgreSQL client that costs as little as it can: what is measured is
//! the server's work, not a client's.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use pgspan_lab::Address;
use pgspan_wire::{backend, frame, frontend, scram_client};

use crate::demo::DemoError;

/// How often a wait looks at the clock.
const TICK: Duration = Duration::from_millis(200);
/// How long an answer to a cancel request may take.
const AFTER_CANCEL: Duration = Duration::from_secs(30);
/// SQLSTATE of a statement that was cancelled.
const CANCELLED: &str = "57014";
const BUFFER_BYTES: usize = 256 * 1024;

/// Why a statement has no answer.
#[derive(Debug, Clone)]
pub struct Fault {
    /// SQLSTATE; empty when the connection is gone.
    pub code: String,
    /// The message.
    pub message: String,
}

impl Fault {
    fn lost(message: impl ToString) -> Fault {
        Fault { code: String::new(), message: message.to_string() }
    }

    /// Whether the limit ended it.
    pub fn is_cut(&self) -> bool {
        self.code == CANCELLED
    }
}

impl From<Fault> for DemoError {
    fn from(fault: Fault) -> DemoError {
        DemoError::new(format!("{} {}", fault.code, fault.message).trim().to_owned())
    }
}

/// Rows as text; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// What a statement brought.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Rows of the last result.
    pub rows: Rows,
    /// From sending to the last byte.
    pub seconds: f64,
    /// Bytes that came back, copied data included.
    pub bytes: u64,
}

impl Answer {
    /// The value in the first row and column.
    pub fn scalar(&self) -> Option<&str> {
        self.rows.first()?.first()?.as_deref()
    }
}

/// How to log in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The server.
    pub address: Address,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The database.
    pub database: String,
}

/// One session.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: BytesMut,
    address: Address,
    pid: i32,
    key: i32,
}

/// What is done with rows and copied data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Rows,
    Nothing,
}

impl Client {
    /// Connects and logs in.
    pub fn connect(login: &Login) -> Result<Client, Fault> {
        let address = (login.address.host.as_str(), login.address.port);
        let stream = TcpStream::connect(address)
            .map_err(|error| Fault::lost(format!("{}: {error}", login.address)))?;
        stream.set_nodelay(true).map_err(Fault::lost)?;
        stream.set_read_timeout(Some(TICK)).map_err(Fault::lost)?;
        let mut client = Client {
            stream,
            input: BytesMut::with_capacity(BUFFER_BYTES),
            address: login.address.clone(),
            pid: 0,
            key: 0,
        };
        let mut output = BytesMut::new();
        frontend::startup(
            &mut output,
            &[
                ("user", &login.user),
                ("database", &login.database),
                ("application_name", "pgspan bench"),
                ("client_encoding", "UTF8"),
            ],
        );
        client.send(&output)?;
        client.log_in(login)?;
        Ok(client)
    }

    fn log_in(&mut self, login: &Login) -> Result<(), Fault> {
        let mut exchange = scram_client::ScramSha256::new(
            login.password.as_bytes(),
            scram_client::ChannelBinding::unsupported(),
        );
        loop {
            let message = self.message(None)?;
            let mut body = message.body();
            match message.tag {
                b'R' => {
                    let kind = body.try_get_i32().map_err(Fault::lost)?;
                    let mut output = BytesMut::new();
                    match kind {
                        0 | 12 => continue,
                        3 => {
                            let mut answer = login.password.clone().into_bytes();
                            answer.push(0);
                            frontend::password_message(&mut output, &answer);
                        }
                        10 => frontend::sasl_initial_response(
                            &mut output,
                            scram_client::SCRAM_SHA_256,
                            exchange.message(),
                        ),
                        11 => {
                            exchange.update(&body).map_err(Fault::lost)?;
                            frontend::password_message(&mut output, exchange.message());
                        }
                        other => return Err(Fault::lost(format!("authentication {other}"))),
                    }
                    self.send(&output)?;
                }
                b'K' if body.len() >= 8 => {
                    self.pid = body.get_i32();
                    self.key = body.get_i32();
                }
                b'E' => return Err(fault(body)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    /// Runs SQL; rows of the last result are kept.
    pub fn run(&mut self, sql: &str) -> Result<Answer, Fault> {
        self.query(sql, Keep::Rows, None)
    }

    /// The same; after `limit` the statement is cancelled.
    pub fn run_within(&mut self, sql: &str, limit: Duration) -> Result<Answer, Fault> {
        self.query(sql, Keep::Rows, Some(limit))
    }

    /// Runs SQL and reads its rows or copied data into nothing.
    pub fn drain(&mut self, sql: &str) -> Result<Answer, Fault> {
        self.query(sql, Keep::Nothing, None)
    }

    fn query(&mut self, sql: &str, keep: Keep, limit: Option<Duration>) -> Result<Answer, Fault> {
        let mut output = BytesMut::new();
        frontend::query(&mut output, sql);
        let began = Instant::now();
        self.send(&output)?;
        let mut answer = Answer::default();
        let mut failed = None;
        let mut deadline = limit.map(|limit| began + limit);
        let mut cancelled = false;
        loop {
            if keep == Keep::Nothing {
                self.skip(&mut answer.bytes)?;
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                if cancelled {
                    return Err(Fault::lost("no answer to a cancel request"));
                }
                self.cancel()?;
                cancelled = true;
                deadline = Some(Instant::now() + AFTER_CANCEL);
            }
            let Some(message) = self.poll(deadline)? else { continue };
            answer.bytes += message.raw.len() as u64;
            let body = message.body();
            match message.tag {
                b'T' => answer.rows.clear(),
                b'D' if keep == Keep::Rows => {
                    let row = backend::data_row(body).map_err(Fault::lost)?;
                    answer.rows.push(row.into_iter().map(text).collect());
                }
                b'E' => failed = Some(fault(body)),
                b'Z' => break,
                _ => {}
            }
        }
        answer.seconds = began.elapsed().as_secs_f64();
        match failed {
            Some(fault) => Err(fault),
            None => Ok(answer),
        }
    }

    /// `COPY … FROM STDIN` of what `fill` writes, piece by piece, until it returns false.
    pub fn copy_in(
        &mut self,
        sql: &str,
        fill: &mut dyn FnMut(&mut Vec<u8>) -> bool,
    ) -> Result<(), Fault> {
        let mut output = BytesMut::new();
        frontend::query(&mut output, sql);
        self.send(&output)?;
        loop {
            let message = self.message(None)?;
            match message.tag {
                b'G' => break,
                b'E' => {
                    let failed = fault(message.body());
                    while self.message(None)?.tag != b'Z' {}
                    return Err(failed);
                }
                _ => {}
            }
        }
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let more = fill(&mut piece);
            output.clear();
            if !piece.is_empty() {
                frontend::copy_data(&mut output, &piece);
            }
            if !more {
                frontend::copy_done(&mut output);
            }
            self.send(&output)?;
            if !more {
                break;
            }
        }
        let mut failed = None;
        loop {
            let message = self.message(None)?;
            match message.tag {
                b'E' => failed = Some(fault(message.body())),
                b'Z' => return failed.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }

    /// Steps over rows and copied data without looking at them.
    fn skip(&mut self, bytes: &mut u64) -> Result<(), Fault> {
        let mut place = 0;
        while let Some((tag, size)) = frame::peek(&self.input[place..]).map_err(Fault::lost)? {
            if !matches!(tag, b'd' | b'D') || self.input.len() - place < size {
                break;
            }
            place += size;
        }
        *bytes += place as u64;
        self.input.advance(place);
        Ok(())
    }

    fn cancel(&self) -> Result<(), Fault> {
        let address = (self.address.host.as_str(), self.address.port);
        let mut other = TcpStream::connect(address).map_err(Fault::lost)?;
        let mut output = BytesMut::new();
        frontend::cancel_request(&mut output, self.pid, self.key);
        other.write_all(&output).map_err(Fault::lost)
    }

    fn send(&mut self, output: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(output).map_err(Fault::lost)
    }

    /// The next message, however long it takes.
    fn message(&mut self, deadline: Option<Instant>) -> Result<frame::Frame, Fault> {
        loop {
            if let Some(message) = self.poll(deadline)? {
                return Ok(message);
            }
        }
    }

    /// The next message, or nothing when more bytes had to be read first.
    fn poll(&mut self, deadline: Option<Instant>) -> Result<Option<frame::Frame>, Fault> {
        if let Some(message) = frame::take(&mut self.input).map_err(Fault::lost)? {
            return Ok(Some(message));
        }
        let filled = self.input.len();
        self.input.resize(filled + BUFFER_BYTES, 0);
        let read = loop {
            match self.stream.read(&mut self.input[filled..]) {
                Ok(0) => {
                    self.input.truncate(filled);
                    return Err(Fault::lost("the connection was closed"));
                }
                Ok(read) => break read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if crate::terminal::INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed) {
                        self.input.truncate(filled);
                        return Err(Fault::lost("interrupted"));
                    }
                    if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                        break 0;
                    }
                }
                Err(error) => return Err(Fault::lost(error)),
            }
        };
        self.input.truncate(filled + read);
        Ok(None)
    }
}

fn fault(body: Bytes) -> Fault {
    match backend::ErrorFields::decode(body) {
        Ok(fields) => {
            Fault { code: fields.sqlstate().to_owned(), message: fields.message().to_owned() }
        }
        Err(error) => Fault::lost(error),
    }
}

fn text(value: Option<Bytes>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}
