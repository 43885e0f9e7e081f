//! Real PostgreSQL clusters on this machine: a writer and a streaming replica
//! for `users`, a writer for `orders`, with the schema of the guide, and, when
//! asked, a delaying relay on every link so that a network can be measured
//! honestly on one machine.
//!
//! ```no_run
//! # fn main() -> Result<(), pgspan_lab::LabError> {
//! let options = pgspan_lab::LabOptions::temporary()?;
//! let lab = pgspan_lab::Lab::start(&options, &mut |line| eprintln!("{line}"))?;
//! let users = lab.server("users-writer")?;
//! lab.psql(users, "usersdb", "SELECT count(*) FROM users")?;
//! // The servers stop and their data goes when `lab` is dropped; when the
//! // process is killed instead, a watchdog does the same.
//! # Ok(())
//! # }
//! ```
//!
//! Synchronous on purpose (std only): a lab starts processes and waits.

mod account;
mod bouncer;
mod cleanup;
mod error;
mod find;
mod gateway;
mod lab;
mod options;
mod ports;
mod process;
pub mod relay;
mod server;
mod start;
mod state;
mod status;
mod watchdog;

pub use account::{random_name, write_private};
pub use error::LabError;
pub use gateway::{Endpoint, Gateway, GatewayOptions};
pub use lab::Lab;
pub use options::LabOptions;
pub use ports::free_ports;
pub use server::{ORDERS_SCHEMA, USERS_SCHEMA};
pub use state::{Address, Helper, Phase, Role, Server, State};
pub use status::{HelperStatus, ServerStatus, Status};
