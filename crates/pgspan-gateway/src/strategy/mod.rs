//! The rungs above relay and fallback: each either answers the client or gives up
//! before anything has been sent.

pub(crate) mod copy_out;
pub(crate) mod direct;
pub(crate) mod explain;
pub(crate) mod home_join;
