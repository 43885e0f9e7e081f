//! A server that does what no PostgreSQL does: it lies, floods, or keeps silent.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::client::message;

/// One connection, from behind its startup packet.
pub struct Caller {
    stream: TcpStream,
    /// How many came before it.
    pub number: usize,
}

/// Listens on a free port; `play` serves each connection, on a thread of its own, until it
/// gives up.
pub fn listen(play: impl Fn(&mut Caller) -> io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (play, count) = (Arc::new(play), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            let play = play.clone();
            std::thread::spawn(move || {
                let mut caller = Caller { stream, number };
                // Whoever is attacked hangs up.
                let _hung_up = caller.starts().and_then(|()| play(&mut caller));
            });
        }
    });
    address
}

/// A row of one column without a value.
pub fn row() -> Vec<u8> {
    message(b'D', &[0, 1, 255, 255, 255, 255])
}

impl Caller {
    fn starts(&mut self) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length)?;
            let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
            self.stream.read_exact(&mut body)?;
            match body.get(..4).map(|code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]))
            {
                // TLS, or encryption by GSSAPI.
                Some(80_877_103 | 80_877_104) => self.say(b"N")?,
                Some(196_608) => return Ok(()),
                // A cancel request.
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Says something, whatever it is.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says something again and again, until nobody listens.
    pub fn flood(&mut self, bytes: &[u8]) -> io::Result<()> {
        let many = bytes.repeat(64 * 1024 / bytes.len() + 1);
        loop {
            self.say(&many)?;
        }
    }

    /// Lets the caller in.
    pub fn welcome(&mut self) -> io::Result<()> {
        self.say(&message(b'R', &[0; 4]))?;
        for parameter in ["server_version\x0015.0\0", "standard_conforming_strings\0on\0"] {
            self.say(&message(b'S', parameter.as_bytes()))?;
        }
        self.say(&message(b'K', &[0, 0, 0, 7, 0, 0, 0, 7]))?;
        self.say(&message(b'Z', b"I"))
    }

    /// The next messages up to a Query or a Sync, by their type bytes.
    pub fn asked(&mut self) -> io::Result<Vec<u8>> {
        let mut tags = Vec::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            self.stream.read_exact(&mut body)?;
            tags.push(head[0]);
            match head[0] {
                b'Q' | b'S' => return Ok(tags),
                b'X' => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }

    /// Lets the caller in, and answers the first statements, those of its settings, as if they
    /// were done.
    pub fn serve(&mut self) -> io::Result<()> {
        self.welcome()?;
        self.asked()?;
        self.say(&message(b'C', b"SET\0"))?;
        self.say(&message(b'Z', b"I"))
    }

    /// Says nothing more, until the caller hangs up.
    pub fn keep_silent(&mut self) -> io::Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map(drop)
    }
}
