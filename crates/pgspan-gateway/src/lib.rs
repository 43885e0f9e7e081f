//! A running gateway as a library.
//!
//! | module | room |
//! |---|---|
//! | [`config`] | the TOML file, typed and checked |
//! | [`gateway`] | listeners, shared state, shutdown |
//! | [`auth`] | who may come in |
//! | `budget` | memory that all sessions together may have of one kind |
//! | `lobby` | connections that have not logged in |
//! | `handshake` | from the first packet to an open session |
//! | `session` | one client: relay, and the straight line of a query |
//! | `strategy` | the rungs: direct, home join, engine; what gives up falls back |
//! | `sources` | what the gateway knows of sources, and fetching from them |
//! | `progress` | what the engine fetches now |
//! | `spare` | home connections whose clients have left |
//! | [`routes`] | counts per strategy and reason |

pub mod auth;
mod budget;
pub mod config;
mod databases;
mod files;
pub mod gateway;
mod handshake;
mod lobby;
mod logins;
mod progress;
pub mod routes;
mod session;
mod sources;
mod spare;
mod strategy;

pub use gateway::{Gateway, GatewayError, check_files};
