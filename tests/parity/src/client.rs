//! A small blocking protocol client: enough to send any message and to read
//! everything that comes back, bounded in time.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use pgspan_wire::backend::{self, ErrorFields, TransactionStatus};
use pgspan_wire::{frame, frontend, md5_hash, scram_client};

use crate::reply::{Reply, ResultSet};

/// How long an answer may take.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What [`Connection::message`] says when the wait is over.
pub const NOTHING: &str = "no answer in time";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Who connects, and to which database.
#[derive(Debug, Clone)]
pub struct Login {
    /// Where.
    pub address: Address,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// Further startup parameters.
    pub settings: Vec<(String, String)>,
}

/// How an extended statement is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Parse, Describe, Bind, Describe, Execute, Sync in one go, unnamed (libpq).
    OneTrip,
    /// Parse, Describe, Sync; then Bind, Execute, Sync, named (most drivers).
    Prepared,
}

/// An extended statement.
#[derive(Debug, Clone)]
pub struct Extended<'a> {
    /// Its text.
    pub sql: &'a str,
    /// Declared parameter types; 0 leaves one open.
    pub param_oids: &'a [u32],
    /// Values.
    pub params: &'a [Option<Bytes>],
    /// Their formats, one each: 0 text, 1 binary.
    pub param_formats: &'a [i16],
    /// Format of the results.
    pub result_format: i16,
    /// The order of messages.
    pub flow: Flow,
}

/// One open session.
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    /// Process number for cancel requests.
    pub pid: i32,
    key: i32,
    address: Address,
    /// Sent when the server asks for COPY data.
    pub copy_input: Vec<u8>,
    /// Sent behind it, in the same write.
    pub behind_copy: Vec<u8>,
    /// What the startup brought: settings, notices.
    pub startup: Reply,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// What went wrong, or the server's own error, as a broken or failed reply.
    pub fn open(login: &Login) -> Result<Connection, Box<Reply>> {
        let mut connection = Connection::dial(&login.address).map_err(broken)?;
        let mut params = vec![("user", login.user.as_str()), ("database", login.database.as_str())];
        if !login.settings.iter().any(|(name, _)| name == "client_encoding") {
            params.push(("client_encoding", "UTF8"));
        }
        if !login.settings.iter().any(|(name, _)| name == "application_name") {
            params.push(("application_name", "parity"));
        }
        for (name, value) in &login.settings {
            params.push((name, value));
        }
        frontend::startup(&mut connection.output, &params);
        connection.log_in(login)?;
        Ok(connection)
    }

    fn dial(address: &Address) -> Result<Connection, String> {
        let fail = |error: std::io::Error| format!("{}:{}: {error}", address.host, address.port);
        let target = (address.host.as_str(), address.port)
            .to_socket_addrs()
            .map_err(fail)?
            .next()
            .ok_or_else(|| format!("{} has no address", address.host))?;
        let stream = TcpStream::connect_timeout(&target, Duration::from_secs(10)).map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        Ok(Connection {
            stream,
            input: BytesMut::with_capacity(16 * 1024),
            output: BytesMut::new(),
            pid: 0,
            key: 0,
            address: address.clone(),
            copy_input: Vec::new(),
            behind_copy: Vec::new(),
            startup: Reply::default(),
        })
    }

    fn log_in(&mut self, login: &Login) -> Result<(), Box<Reply>> {
        let mut scram = None;
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        self.send().map_err(broken)?;
        loop {
            let message = self.next(deadline).map_err(broken)?;
            let mut body = message.body();
            match message.tag {
                b'R' => self.authenticate(login, &mut scram, body).map_err(broken)?,
                b'K' if body.len() >= 8 => {
                    self.pid = body.get_i32();
                    self.key = body.get_i32();
                }
                b'S' => self.startup.settings.extend(setting(body)),
                b'N' => {
                    let notice = ErrorFields::decode(body).map_err(|e| broken(e.to_string()))?;
                    self.startup.notices.push(notice);
                }
                b'Z' => {
                    // Their order is not said anywhere.
                    self.startup.settings.sort();
                    return Ok(());
                }
                b'E' => {
                    let error = ErrorFields::decode(body).map_err(|e| broken(e.to_string()))?;
                    return Err(Box::new(Reply {
                        error: Some(error),
                        notices: std::mem::take(&mut self.startup.notices),
                        shape: "E".to_owned(),
                        ..Reply::default()
                    }));
                }
                _ => (),
            }
        }
    }

    fn authenticate(
        &mut self,
        login: &Login,
        scram: &mut Option<scram_client::ScramSha256>,
        mut body: Bytes,
    ) -> Result<(), String> {
        let kind = body.try_get_i32().map_err(|error| error.to_string())?;
        match kind {
            0 => return Ok(()),
            3 => {
                let mut answer = login.password.clone().into_bytes();
                answer.push(0);
                frontend::password_message(&mut self.output, &answer);
            }
            5 => {
                let salt = body.get(..4).and_then(|salt| salt.try_into().ok()).unwrap_or_default();
                let mut answer =
                    md5_hash(login.user.as_bytes(), login.password.as_bytes(), salt).into_bytes();
                answer.push(0);
                frontend::password_message(&mut self.output, &answer);
            }
            10 => {
                let exchange = scram_client::ScramSha256::new(
                    login.password.as_bytes(),
                    scram_client::ChannelBinding::unsupported(),
                );
                frontend::sasl_initial_response(
                    &mut self.output,
                    scram_client::SCRAM_SHA_256,
                    exchange.message(),
                );
                *scram = Some(exchange);
            }
            11 => {
                let exchange = scram.as_mut().ok_or("SASL continues before it starts")?;
                exchange.update(&body).map_err(|error| error.to_string())?;
                frontend::password_message(&mut self.output, exchange.message());
            }
            12 => {
                let exchange = scram.as_mut().ok_or("SASL ends before it starts")?;
                return exchange.finish(&body).map_err(|error| error.to_string());
            }
            other => return Err(format!("authentication method {other} is not known")),
        }
        self.send()
    }

    /// One simple Query.
    pub fn simple(&mut self, sql: &str) -> Reply {
        self.start_simple(sql);
        self.finish()
    }

    /// Sends a simple Query without waiting.
    pub fn start_simple(&mut self, sql: &str) {
        frontend::query(&mut self.output, sql);
        // A failed write shows itself when the answer is read.
        let _ = self.send();
    }

    /// One extended statement in the given flow.
    pub fn extended(&mut self, statement: &Extended<'_>) -> Reply {
        match statement.flow {
            Flow::OneTrip => {
                frontend::parse(&mut self.output, "", statement.sql, statement.param_oids);
                frontend::describe_statement(&mut self.output, "");
                self.put_bind("", "", statement);
                frontend::describe_portal(&mut self.output, "");
                frontend::execute(&mut self.output, "", 0);
                self.exchange()
            }
            Flow::Prepared => {
                let mut reply = self.prepare("parity", statement.sql, statement.param_oids);
                if reply.error.is_some() || reply.broken.is_some() {
                    return reply;
                }
                self.put_bind("", "parity", statement);
                frontend::execute(&mut self.output, "", 0);
                reply.append(self.exchange());
                frontend::close_statement(&mut self.output, "parity");
                reply.append(self.exchange());
                reply
            }
        }
    }

    /// Parse and Describe of a named statement, to Sync.
    pub fn prepare(&mut self, name: &str, sql: &str, param_oids: &[u32]) -> Reply {
        frontend::parse(&mut self.output, name, sql, param_oids);
        frontend::describe_statement(&mut self.output, name);
        self.exchange()
    }

    /// Bind, Describe and Execute of a named statement, in pieces of `rows_max`
    /// rows (0: all at once) and at most `pieces` of them, to Sync.
    pub fn execute(
        &mut self,
        name: &str,
        values: &[Option<Bytes>],
        formats: (&[i16], i16),
        rows_max: i32,
        pieces: usize,
    ) -> Reply {
        let portal = if pieces > 1 { "parity" } else { "" };
        frontend::bind(&mut self.output, portal, name, formats.0, values, &[formats.1]);
        frontend::describe_portal(&mut self.output, portal);
        for _ in 0..pieces {
            frontend::execute(&mut self.output, portal, rows_max);
        }
        self.exchange()
    }

    /// Close of a named statement, to Sync.
    pub fn close(&mut self, name: &str) -> Reply {
        frontend::close_statement(&mut self.output, name);
        self.exchange()
    }

    fn put_bind(&mut self, portal: &str, name: &str, statement: &Extended<'_>) {
        frontend::bind(
            &mut self.output,
            portal,
            name,
            statement.param_formats,
            statement.params,
            &[statement.result_format],
        );
    }

    /// Sync, and everything up to ReadyForQuery.
    fn exchange(&mut self) -> Reply {
        frontend::sync(&mut self.output);
        let _ = self.send();
        self.finish()
    }

    /// Asks the server, on a connection of its own, to cancel what this session runs.
    pub fn cancel(&self) -> Result<(), String> {
        let mut other = Connection::dial(&self.address)?;
        frontend::cancel_request(&mut other.output, self.pid, self.key);
        other.send()?;
        // The server closes the connection when it has taken the request.
        let mut rest = [0u8; 16];
        other
            .stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .map_err(|error| error.to_string())?;
        let _ = other.stream.read(&mut rest);
        Ok(())
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Errors
    /// Why there is none.
    pub fn silent(address: &Address) -> Result<Connection, String> {
        Connection::dial(address)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.output.extend_from_slice(bytes);
        self.send()
    }

    /// The next message, if one comes in time.
    ///
    /// # Errors
    /// None came, the connection is gone, or what came is not a message.
    pub fn message(&mut self, wait_max: Duration) -> Result<frame::Frame, String> {
        self.next(Instant::now() + wait_max)
    }

    /// The next byte alone: the answer to a request for encryption.
    ///
    /// # Errors
    /// None came.
    pub fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0_u8];
        self.stream
            .set_read_timeout(Some(ANSWER_WAIT_MAX))
            .and_then(|()| self.stream.read_exact(&mut byte))
            .map_err(|error| error.to_string())?;
        Ok(byte[0])
    }

    /// The client's side is closed, without a word.
    pub fn hang_up(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    fn send(&mut self) -> Result<(), String> {
        let output = std::mem::take(&mut self.output);
        self.stream.write_all(&output).map_err(|error| format!("send: {error}"))
    }

    fn next(&mut self, deadline: Instant) -> Result<frame::Frame, String> {
        loop {
            if let Some(message) =
                frame::take(&mut self.input).map_err(|error| error.to_string())?
            {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NOTHING.to_owned());
            }
            self.stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
            let mut chunk = [0u8; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
    }

    /// Everything up to ReadyForQuery.
    pub fn finish(&mut self) -> Reply {
        let mut reply = Reply::default();
        let mut open = ResultSet::default();
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        loop {
            let message = match self.next(deadline) {
                Ok(message) => message,
                Err(why) => {
                    reply.broken = Some(why);
                    return reply;
                }
            };
            if self.take_in(&message, &mut reply, &mut open) {
                return reply;
            }
        }
    }

    /// Takes one message into the reply; `true` at ReadyForQuery.
    fn take_in(&mut self, message: &frame::Frame, reply: &mut Reply, open: &mut ResultSet) -> bool {
        let body = message.body();
        let repeated =
            matches!(message.tag, b'D' | b'd') && reply.shape.ends_with(char::from(message.tag));
        if !matches!(message.tag, b'N' | b'S' | b'A') && !repeated {
            reply.shape.push(char::from(message.tag));
        }
        let mut trouble = None;
        match message.tag {
            b'T' => match backend::row_description(body) {
                Ok(columns) if reply.shape.ends_with("tT") => reply.described = Some(columns),
                Ok(columns) => open.columns = Some(columns),
                Err(error) => trouble = Some(error.to_string()),
            },
            b't' => match backend::parameter_description(body) {
                Ok(oids) => reply.parameters = Some(oids),
                Err(error) => trouble = Some(error.to_string()),
            },
            b'D' => match backend::data_row(body) {
                Ok(row) => open.rows.push(row),
                Err(error) => trouble = Some(error.to_string()),
            },
            b'd' => open.copied.push(body),
            b'G' => {
                let data = std::mem::take(&mut self.copy_input);
                frontend::copy_data(&mut self.output, &data);
                frontend::copy_done(&mut self.output);
                self.output.extend_from_slice(&std::mem::take(&mut self.behind_copy));
                let _ = self.send();
            }
            b'C' => {
                let end = body.len().saturating_sub(1);
                open.tag = Some(String::from_utf8_lossy(&body[..end]).into_owned());
                reply.results.push(std::mem::take(open));
            }
            b'I' | b's' => reply.results.push(std::mem::take(open)),
            b'E' | b'N' => match ErrorFields::decode(body) {
                Ok(notice) if message.tag == b'N' => reply.notices.push(notice),
                Ok(error) => {
                    reply.error = reply.error.take().or(Some(error));
                    reply.results.push(std::mem::take(open));
                }
                Err(error) => trouble = Some(error.to_string()),
            },
            b'S' => reply.settings.extend(setting(body)),
            b'A' => {
                let mut fields = frame::Fields::new(b'A', body);
                if let (Ok(_), Ok(channel), Ok(payload)) =
                    (fields.i32(), fields.text(), fields.text())
                {
                    reply.notifications.push((channel, payload));
                }
            }
            b'Z' => {
                reply.status = body
                    .first()
                    .and_then(|byte| TransactionStatus::from_byte(*byte))
                    .unwrap_or_default();
                return true;
            }
            _ => (),
        }
        if trouble.is_some() {
            reply.broken = trouble;
        }
        false
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.output.clear();
        frontend::terminate(&mut self.output);
        let _ = self.send();
    }
}

fn broken(why: String) -> Box<Reply> {
    Box::new(Reply::broken(why))
}

fn setting(body: Bytes) -> Option<(String, String)> {
    let mut fields = frame::Fields::new(b'S', body);
    Some((fields.text().ok()?, fields.text().ok()?))
}
