//! EXPLAIN of a statement of the straight line.

use crate::session::Session;
use crate::session::home::Around;
use crate::session::query::{Request, Stop};
use crate::sources::CachedPlan;
use pgspan_sql::route::{Reason, Route};
use std::sync::Arc;

/// Runs it.
pub(crate) async fn run(
    _session: &mut Session,
    _request: &Request,
    _around: Around,
    _plan: &Arc<CachedPlan>,
) -> Result<Route, Stop> {
    Err(Reason::new("EXPLAIN").into())
}
