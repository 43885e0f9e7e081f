//! Why a rung is left, and what home's errors mean for that.

use super::End;
use pgspan_pool::ServerError;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::ErrorFields;

/// Why a rung was left.
pub(crate) enum Stop {
    /// The next rung: home runs it itself.
    GiveUp(Reason),
    /// The client gets this error: the statement was cancelled, or its time or its wait
    /// for a lock ran out.
    Refuse(ErrorFields),
    /// The session is over.
    End(End),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Stop {
        Stop::GiveUp(reason)
    }
}

impl From<ServerError> for Stop {
    fn from(error: ServerError) -> Stop {
        match error {
            ServerError::Sql(e) => refusal(e),
            ServerError::TooMuch => Reason::new(Cause::TooLongAnswer).into(),
            lost => Stop::End(lost.into()),
        }
    }
}

impl From<ServerError> for End {
    fn from(error: ServerError) -> End {
        match error {
            ServerError::HungUp(e) => End::Home(e),
            other => End::Server(other.to_string()),
        }
    }
}

/// `lock_not_available`: the end of `lock_timeout`.
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";

/// `syntax_error`.
pub(crate) const SYNTAX_ERROR: &str = "42601";

/// What an error of home's means: it was stopped, which another attempt would only put
/// off; or home is to show what it makes of the statement itself.
fn refusal(error: ErrorFields) -> Stop {
    match error.sqlstate() {
        // query_canceled, by a timeout or by somebody.
        "57014" | LOCK_NOT_AVAILABLE => Stop::Refuse(error),
        SYNTAX_ERROR => Reason::about(Cause::NotSql, error.to_string()).into(),
        _ => Stop::GiveUp(Reason::about(Cause::HomeError, error.to_string())),
    }
}

/// Why an answer of which nothing has been sent is not: it was stopped, whatever else
/// spoke against it; there was another reason; or home reported an error.
pub(crate) fn unsent(refused: Option<Stop>, error: Option<ErrorFields>) -> Option<Stop> {
    match error.map(refusal) {
        Some(stop @ Stop::Refuse(_)) => Some(stop),
        failed => refused.or(failed),
    }
}

pub(crate) fn cancelled() -> Stop {
    let text = "canceling statement due to user request";
    Stop::Refuse(ErrorFields::new("ERROR", "57014", text))
}

/// After an error of home's that was the last thing it said.
pub(crate) fn hung_up(stop: Stop, last: Option<&ErrorFields>) -> Stop {
    match (stop, last) {
        (Stop::End(End::Server(_)), Some(last)) if last.is_fatal() => {
            Stop::End(End::Home(last.clone()))
        }
        (stop, _) => stop,
    }
}
