//! What the engine runs: one SELECT split into a core and a finish, the core as home's
//! planner sees it, and the fragments that sources and home run for it.

pub mod block;
pub mod constant;
pub mod correlated;
pub mod counted;
pub mod early;
pub mod expression;
pub mod factor;
pub mod merge;
pub mod operators;
pub mod predicate;
mod printed;
pub mod restrict;
pub mod shape;
pub mod split;
pub mod term;
pub mod tree;
mod words;
