//! The PostgreSQL protocol 3, both sides, as bytes and messages.
//!
//! This crate knows nothing of SQL and does no IO: callers bring the bytes and
//! take the bytes away. Message formats follow the PostgreSQL manual, chapter
//! "Frontend/Backend Protocol", section "Message Formats".
//!
//! | module | room |
//! |---|---|
//! | [`frame`] | where one message ends and the next begins |
//! | [`frontend`] | messages a client sends: encode, and decode those a gateway must read |
//! | [`backend`] | messages a server sends: decode, and encode those a gateway must say itself |
//! | [`startup`] | the untyped first packet: startup, TLS request, cancel request |
//! | [`scram`] | SCRAM-SHA-256, the server's side, and the client's with keys (with a password: re-exported) |

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod scram;
pub mod startup;

/// SCRAM-SHA-256, the client's side, from the `postgres-protocol` crate.
pub use postgres_protocol::authentication::sasl as scram_client;

/// MD5 password hashing for servers that still ask for it.
pub use postgres_protocol::authentication::md5_hash;

/// What can be wrong with bytes that claim to be a protocol message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// The length word is smaller than itself or larger than the limit in force.
    #[error("message {tag:?} has invalid length {length}")]
    Length {
        /// The message's type byte, or `None` for a startup packet.
        tag: Option<char>,
        /// The length word as sent, in bytes.
        length: i64,
    },
    /// The body ends before its fields do, or its text is not terminated.
    #[error("message {0:?} is malformed")]
    Malformed(char),
}
