//! The engine: rows of fragments are decoded from PostgreSQL's binary format into Arrow,
//! joined and folded by DataFusion's physical operators, and encoded for PostgreSQL again.
//!
//! It moves, matches and folds rows, and does exact arithmetic on numerics: every other
//! expression is evaluated by a PostgreSQL server, before its rows come here or after. The operators are put together by program
//! from [`pgspan_sql::engine::operators`]; DataFusion's SQL front end, its type coercion and
//! its optimizers are never used.
//!
//! What it meets and cannot represent exactly (a NaN, an infinity or a number of another
//! scale in a numeric column, a value that is too large) is a [`GiveUp`], and the
//! statement goes one rung down.

mod arithmetic;
mod by_integer;
mod decode;
mod encode;
mod explain;
mod feed;
mod parts;
mod predicate;
mod program;
mod run;
mod text;
mod top;
mod types;
mod usage;

use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;

pub use decode::{Decoder, round_trip};
pub use feed::{Feed, KEY_BYTES_MAX, Keys, Progress};
pub use parts::Rest;
pub use program::Program;
pub use run::{Answer, Budget, Limits, Started};
pub use types::{ColumnType, array_type, through_text};

/// Why the engine cannot go on; the statement is answered by the next rung.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", cause.label())]
pub struct GiveUp {
    /// One of the closed list.
    pub cause: Cause,
    /// The column, operator or error in question.
    pub detail: String,
}

impl GiveUp {
    pub(crate) fn new(cause: Cause, detail: impl Into<String>) -> GiveUp {
        GiveUp { cause, detail: detail.into() }
    }
}

impl From<GiveUp> for Reason {
    fn from(error: GiveUp) -> Reason {
        Reason::about(error.cause, error.detail)
    }
}

impl From<datafusion_common::DataFusionError> for GiveUp {
    fn from(error: datafusion_common::DataFusionError) -> GiveUp {
        match error.find_root() {
            datafusion_common::DataFusionError::ResourcesExhausted(_) => {
                GiveUp::new(Cause::EngineMemory, "limits.engine_query_bytes_max")
            }
            other => GiveUp::new(Cause::EngineStopped, other.to_string()),
        }
    }
}

impl From<arrow::error::ArrowError> for GiveUp {
    fn from(error: arrow::error::ArrowError) -> GiveUp {
        GiveUp::new(Cause::EngineStopped, error.to_string())
    }
}
