//! PostgreSQL and the gateway must agree.
//!
//! Every case of `cases/*.case` runs directly at home (PostgreSQL with its own
//! postgres_fdw: the oracle) and through the gateway, on the same servers. They
//! must agree in everything that a client can see: success or error with all its
//! fields, column names, type OIDs and modifiers, table OIDs, command tag, rows
//! as bytes, notices, reported settings, transaction status, order of messages;
//! in the simple protocol, in the extended one with text, and in the extended one
//! with binary parameters and results.
//!
//! | module | room |
//! |---|---|
//! | [`case_file`], [`expand`] | the format of the data files; `foreach`, `let`, variables |
//! | [`client`], [`reply`] | a blocking protocol client; what it got, as a value |
//! | [`compare`] | two replies → how they differ, for people |
//! | [`lab`], [`world`] | the servers; the databases that one file plays in |
//! | [`runner`], [`scenario`] | one query in its variants; many sessions in order |
//! | [`mutant`] | a deliberately wrong gateway, to prove that the suite can fail |
//! | [`protocol`] | scripts of messages, compared message by message |
//! | [`settings`] | settings from the server's own list, drawn and compared |
//! | [`random`] | queries over the shop that nobody thought of, from a seed ([`dice`]) |
//! | [`fuzz`] | schemas and queries that nobody thought of, with each strategy in turn |
//! | [`sequences`] | sequences of steps in transaction blocks, from a seed |
//! | [`properties`], [`interrupts`] | each operation on each type, over very many values; ended at any moment |
//! | [`options`], [`report`] | the command line; totals |
//!
//! This crate knows nothing of how the gateway works; it sees bytes.

// A test harness: a broken assumption should stop it loudly, and it reports on its output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

pub mod case_file;
pub mod client;
pub mod compare;
pub mod dice;
pub mod expand;
pub mod fuzz;
pub mod interrupts;
pub mod lab;
pub mod mutant;
pub mod options;
pub mod properties;
pub mod protocol;
pub mod random;
pub mod reply;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod sequences;
pub mod settings;
pub mod world;
