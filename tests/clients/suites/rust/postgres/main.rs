//! The driver's tests are a module of the driver itself, `src/test.rs`; everything that they
//! use of it is public.

pub use postgres::*;

mod test;
