//! A blocking protocol client that can stop in the middle: enough to misbehave.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

/// How long one message may take.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(30);

/// What the server said went wrong.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// SQLSTATE; empty when the connection just ended.
    pub code: String,
    /// Message.
    pub message: String,
    /// Detail.
    pub detail: String,
    /// Hint.
    pub hint: String,
    /// All fields.
    pub all: String,
}

impl Fault {
    fn decode(body: &[u8]) -> Fault {
        let mut fault = Fault::default();
        for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
            let text = String::from_utf8_lossy(&field[1..]).into_owned();
            fault.all.push_str(&format!("{}={text}\n", char::from(field[0])));
            match field[0] {
                b'C' => fault.code = text,
                b'M' => fault.message = text,
                b'D' => fault.detail = text,
                b'H' => fault.hint = text,
                _ => (),
            }
        }
        fault
    }

    fn io(error: &io::Error) -> Fault {
        Fault { message: error.to_string(), ..Fault::default() }
    }
}

/// Everything up to ReadyForQuery.
#[derive(Debug, Default)]
pub struct Answer {
    /// First column of each row, as text, or a line of COPY; NULL is empty.
    pub rows: Vec<String>,
    /// Bytes of all rows.
    pub row_bytes: usize,
    /// The error, if one came.
    pub fault: Option<Fault>,
    /// Tags of the messages, runs of one as one.
    pub shape: String,
    /// Transaction status; 0 when the connection ended.
    pub status: u8,
}

impl Answer {
    /// SQLSTATE, `ok`, or `lost`.
    pub fn code(&self) -> &str {
        match &self.fault {
            Some(fault) if fault.code.is_empty() => "lost",
            Some(fault) => &fault.code,
            None if self.status == 0 => "lost",
            None => "ok",
        }
    }
}

/// One session.
pub struct Client {
    /// Its socket.
    pub stream: TcpStream,
    address: String,
    key: [u8; 8],
}

/// A message: tag, length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A startup packet.
pub fn startup(user: &str, database: &str) -> Vec<u8> {
    let body =
        format!("user\0{user}\0database\0{database}\0application_name\0faults\0\0").into_bytes();
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&196_608_u32.to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// A socket without a session.
pub fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(MESSAGE_WAIT_MAX))?;
    stream.set_write_timeout(Some(MESSAGE_WAIT_MAX))?;
    Ok(stream)
}

impl Client {
    /// A session that has not begun.
    pub fn over(stream: TcpStream, address: &str) -> Client {
        Client { stream, address: address.to_owned(), key: [0; 8] }
    }

    /// Connects and logs in.
    pub fn connect(
        address: &str,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, Fault> {
        let stream = dial(address).map_err(|error| Fault::io(&error))?;
        Client::over(stream, address).log_in(user, password, database)
    }

    /// Logs in.
    pub fn log_in(mut self, user: &str, password: &str, database: &str) -> Result<Client, Fault> {
        let client = &mut self;
        client.send(&startup(user, database)).map_err(|error| Fault::io(&error))?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            let (tag, body) = client.next().map_err(|error| Fault::io(&error))?;
            let reply = match (tag, body.get(3)) {
                (b'R', Some(10)) => {
                    let mut reply = SCRAM_SHA_256.as_bytes().to_vec();
                    reply.push(0);
                    reply.extend_from_slice(&(scram.message().len() as u32).to_be_bytes());
                    reply.extend_from_slice(scram.message());
                    reply
                }
                (b'R', Some(11)) => {
                    scram.update(&body[4..]).map_err(|error| Fault::io(&error))?;
                    scram.message().to_vec()
                }
                (b'R', Some(12)) => {
                    scram.finish(&body[4..]).map_err(|error| Fault::io(&error))?;
                    continue;
                }
                (b'K', _) => {
                    client.key.copy_from_slice(&body);
                    continue;
                }
                (b'E', _) => return Err(Fault::decode(&body)),
                (b'Z', _) => return Ok(self),
                _ => continue,
            };
            client.send(&message(b'p', &reply)).map_err(|error| Fault::io(&error))?;
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a simple Query.
    pub fn start(&mut self, sql: &str) {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        // A failed write shows itself when the answer is read.
        let _ = self.send(&message(b'Q', &body));
    }

    /// Sends a statement in the extended protocol, with Sync.
    pub fn start_extended(&mut self, sql: &str) {
        self.start_batch(sql, &[(b'E', &[0; 5])]);
    }

    /// As [`Client::start_extended`], described, with a bound of rows that is never reached,
    /// or none, and a Close of portal and statement behind it.
    pub fn start_closed(&mut self, sql: &str, bounded: bool) {
        let rows: i32 = if bounded { i32::MAX } else { 0 };
        let execute = [&[0], &rows.to_be_bytes()[..]].concat();
        let portal = b"P\0";
        self.start_batch(sql, &[(b'D', portal), (b'E', &execute), (b'C', portal), (b'C', b"S\0")]);
    }

    /// Parses and binds it, and sends further messages up to Sync.
    fn start_batch(&mut self, sql: &str, further: &[(u8, &[u8])]) {
        let mut bytes = message(b'P', format!("\0{sql}\0\0\0").as_bytes());
        bytes.extend(message(b'B', &[0; 8]));
        further.iter().for_each(|(tag, body)| bytes.extend(message(*tag, body)));
        bytes.extend(message(b'S', &[]));
        let _ = self.send(&bytes);
    }

    /// Sends a statement in either protocol.
    pub fn start_as(&mut self, sql: &str, extended: bool) {
        if extended {
            self.start_extended(sql);
        } else {
            self.start(sql);
        }
    }

    /// A simple Query and its answer.
    pub fn query(&mut self, sql: &str) -> Answer {
        self.start(sql);
        self.finish()
    }

    /// The first column of the only row.
    pub fn value(&mut self, sql: &str) -> String {
        let answer = self.query(sql);
        assert_eq!(answer.code(), "ok", "{sql}: {answer:?}");
        assert_eq!(answer.rows.len(), 1, "{sql}: {answer:?}");
        answer.rows[0].clone()
    }

    /// The next message.
    pub fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        self.stream.read_exact(&mut body)?;
        Ok((head[0], body))
    }

    /// Reads until the first row has come.
    pub fn first_row(&mut self) {
        loop {
            let (tag, body) = self.next().unwrap();
            assert_ne!(tag, b'E', "{:?}", Fault::decode(&body));
            if tag == b'D' {
                return;
            }
        }
    }

    /// Whether something has come to be read, the end of the connection too, waiting so long.
    pub fn is_answered(&self, wait: Duration) -> bool {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(MESSAGE_WAIT_MAX)).unwrap();
        seen.is_ok()
    }

    /// Reads up to ReadyForQuery, or the end of the connection.
    pub fn finish(&mut self) -> Answer {
        let mut answer = Answer::default();
        loop {
            let Ok((tag, body)) = self.next() else {
                return answer;
            };
            if !matches!(tag, b'N' | b'S') && !answer.shape.ends_with(char::from(tag)) {
                answer.shape.push(char::from(tag));
            }
            match tag {
                b'D' => {
                    answer.row_bytes += body.len();
                    let length = body.get(2..6).map_or(-1, |length| {
                        i32::from_be_bytes([length[0], length[1], length[2], length[3]])
                    });
                    let value = &body[6.min(body.len())..][..length.clamp(0, 200) as usize];
                    answer.rows.push(String::from_utf8_lossy(value).into_owned());
                }
                b'd' => answer.rows.push(String::from_utf8_lossy(&body).trim_end().to_owned()),
                b'E' => answer.fault = Some(Fault::decode(&body)),
                b'Z' => {
                    answer.status = body[0];
                    return answer;
                }
                _ => (),
            }
        }
    }

    /// Connections of the gateway to sources that somebody holds or waits for.
    pub fn leased(&mut self) -> u64 {
        let busy = |row: &Vec<u64>| {
            let [_, open, idle, waiting] = row[..] else {
                unreachable!("SHOW pgspan.servers has four columns")
            };
            open - idle + waiting
        };
        self.numbers_of("SHOW pgspan.servers").iter().map(busy).sum()
    }

    /// Rows that the engine has fetched for the statements that run now.
    pub fn fetched(&mut self) -> u64 {
        self.numbers_of("SHOW pgspan.progress").iter().map(|row| row[3]).sum()
    }

    /// The rows of an answer as [`numbers`].
    pub fn numbers_of(&mut self, sql: &str) -> Vec<Vec<u64>> {
        self.start(sql);
        let mut rows = Vec::new();
        loop {
            let (tag, body) = self.next().unwrap();
            assert_ne!(tag, b'E', "{:?}", Fault::decode(&body));
            match tag {
                b'Z' => return rows,
                b'D' => rows.push(numbers(&body)),
                _ => (),
            }
        }
    }

    /// The number of home's process that this session was told.
    pub fn process(&self) -> i32 {
        i32::from_be_bytes([self.key[0], self.key[1], self.key[2], self.key[3]])
    }

    /// Asks the server to cancel what this session runs.
    pub fn cancel(&self) {
        let mut stream = dial(&self.address).unwrap();
        let mut bytes = 16_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&80_877_102_u32.to_be_bytes());
        bytes.extend_from_slice(&self.key);
        stream.write_all(&bytes).unwrap();
        let _ = stream.read(&mut [0; 8]);
    }
}

/// The columns of a row as numbers; what is none, NULL too, is 0.
fn numbers(row: &[u8]) -> Vec<u64> {
    let mut values = Vec::new();
    let mut rest = &row[2..];
    while let [a, b, c, d, tail @ ..] = rest {
        let length = i32::from_be_bytes([*a, *b, *c, *d]);
        let (value, tail) = tail.split_at(usize::try_from(length).unwrap_or(0));
        values.push(String::from_utf8_lossy(value).parse().unwrap_or_default());
        rest = tail;
    }
    values
}
