//! The words for how a statement is run and why. One [`Route`] is decided per
//! statement; later stages read it and never look at the SQL again.

use std::borrow::Cow;

use crate::cause::Cause;

/// One way to run a routed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// Bytes to home verbatim: no foreign table is named.
    Relay,
    /// One source answers all of it.
    Direct,
    /// Foreign rows are fetched and bound to the same query at home.
    HomeJoin,
    /// What crosses is large: the engine joins and folds it, and home finishes.
    Engine,
    /// Home runs the statement itself, with its own postgres_fdw.
    Fallback,
}

impl Strategy {
    /// As shown in `SHOW pgspan.routes` and EXPLAIN.
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::Relay => "relay",
            Strategy::Direct => "direct",
            Strategy::HomeJoin => "home_join",
            Strategy::Engine => "engine",
            Strategy::Fallback => "fallback",
        }
    }
}

/// Why a route was taken, and the thing in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// One of the closed list.
    pub cause: Cause,
    /// The table, function or error in question; may be empty.
    pub detail: Cow<'static, str>,
}

impl Reason {
    /// A reason that needs no detail.
    pub const fn new(cause: Cause) -> Reason {
        Reason { cause, detail: Cow::Borrowed("") }
    }

    /// What a user can do about it, in English; `None` when there is nothing to do.
    pub fn hint(&self) -> Option<&'static str> {
        self.cause.advice().english()
    }

    /// A reason about something.
    pub fn about(cause: Cause, detail: impl Into<String>) -> Reason {
        Reason { cause, detail: Cow::Owned(detail.into()) }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.cause.label())
        } else {
            write!(f, "{}: {}", self.cause.label(), self.detail)
        }
    }
}

/// The decision how a statement is run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// How.
    pub strategy: Strategy,
    /// Why.
    pub reason: Reason,
}

impl Route {
    /// A fallback for a reason.
    pub fn fallback(reason: Reason) -> Route {
        Route { strategy: Strategy::Fallback, reason }
    }
}
