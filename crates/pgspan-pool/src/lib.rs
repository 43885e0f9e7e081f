//! Server connections: opening them, lending them, cancelling what they run.
//!
//! This crate knows the protocol but no SQL beyond the settings that a source
//! session needs, and nothing of clients.
//!
//! | module | room |
//! |---|---|
//! | [`stream`] | plain or TLS bytes, either side |
//! | [`connect`] | options, startup, authentication |
//! | [`reach`] | which addresses a connection may lead to |
//! | [`roots`] | root certificates |
//! | [`prepared`] | what the gateway has prepared on a connection |
//! | [`server`] | an open server connection and its message queue |
//! | [`tcp`] | when a silent connection is given up |
//! | [`busy_poll`] | whether to sleep while an answer is on its way |
//! | [`budget`] | connections to sources: leases under one budget per server |

pub mod budget;
pub mod busy_poll;
pub mod connect;
pub mod prepared;
pub mod reach;
pub mod roots;
pub mod server;
pub mod stream;
pub mod tcp;

pub use budget::{Lease, LeaseError, Reservation, SourcePools};
pub use connect::{ConnectError, ConnectOptions, SslMode};
pub use prepared::Prepared;
pub use reach::Reach;
pub use roots::RootCertificates;
pub use server::{CancelKey, Notices, Patience, ServerConnection, ServerError, is_hang_up};
pub use stream::Stream;
pub use tcp::TcpLimits;
