//! The rungs above relay and fallback: each either answers the client or gives up
//! before anything has been sent.

pub(crate) mod copy_out;
pub(crate) mod direct;
pub(crate) mod engine;
pub(crate) mod engine_rows;
pub(crate) mod explain;
pub(crate) mod home_join;
pub(crate) mod parts;
pub(crate) mod snapshot;

/// So many bytes of an answer are held back: an error among them still leads to fallback.
pub(crate) const HELD_BYTES: usize = 32 * 1024;
