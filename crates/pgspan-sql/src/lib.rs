//! Text to plan: parse, analyze, route, plan, fragments. Pure and synchronous;
//! this crate knows no sockets, no tasks and no clock. What it needs to know of
//! the world comes in as snapshots ([`catalog`], [`facts`]).
//!
//! | module | step |
//! |---|---|
//! | [`parse`] | text → tree and tokens, by PostgreSQL's own grammar |
//! | [`tree`] | the tree, as far as it is understood |
//! | [`nodes`] | what each node consists of |
//! | [`scope`] | what each name of a query means, by identity |
//! | [`analyze`] | tree → what the statement touches, or why it is not understood |
//! | [`ask`] | the SQL that home and sources are asked with |
//! | [`outside`] | what a kept plan rests on besides tables |
//! | [`facts`] | their answers, typed |
//! | [`effect`] | whether a statement of home's may touch a source |
//! | [`certain`] | whether home's plan runs its foreign scans |
//! | [`remote`] | home's EXPLAIN → what postgres_fdw would ship |
//! | [`keys`] | when the home side's join keys may restrict a source |
//! | [`fragment`] | what one source is asked for |
//! | [`rewrite`] | the statement with its foreign tables replaced by carriers |
//! | [`plan`] | all of it → [`plan::FederatedPlan`] or the reason for fallback |
//! | [`reading`] | whether settings change how a text is read |
//! | [`folding`] | whether a kept plan may keep what a setting has decided |
//! | [`server`] | a foreign server's options → where and as whom to connect |
//! | [`route`] | the words for strategies and reasons |

pub mod analyze;
pub mod ask;
pub mod catalog;
pub mod cause;
pub mod certain;
pub mod clock;
pub mod effect;
pub mod engine;
pub mod facts;
pub mod folding;
pub mod fragment;
mod grammar;
pub mod keys;
pub mod nodes;
pub mod order_free;
pub mod outside;
pub mod parameters;
pub mod parse;
pub mod plan;
pub mod quote;
pub mod reading;
pub mod remote;
pub mod rewrite;
pub mod route;
pub mod savepoint;
pub mod scope;
pub mod server;
pub mod tree;
