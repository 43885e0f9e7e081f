//! What planners say of queries that are not run yet.

use super::CachedPlan;
use super::engine::ask_place;
use crate::session::Session;
use crate::session::home::{self, Means};
use crate::session::stop::Stop;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::frontend;
use serde_json::Value;

/// What a row costs that is sent and taken in, in the planner's units: about as much as
/// scanning ten (`cpu_tuple_cost` is 0.01).
const ROW_COST: f64 = 0.1;

/// A planner's estimate of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estimate {
    /// Rows of its result.
    pub rows: f64,
    /// Bytes of a row.
    pub width: f64,
    cost: f64,
    /// It reads a whole table.
    pub scans: bool,
}

impl Estimate {
    /// The cost with that of the rows on their way.
    pub fn with_rows(&self) -> f64 {
        self.cost + ROW_COST * self.rows
    }
}

/// Asks home (`None`) or a source.
///
/// # Errors
/// A lost connection, or an error of a source.
pub(super) async fn estimates(
    session: &mut Session,
    plan: &CachedPlan,
    place: Option<usize>,
    queries: &[String],
    means: Means,
) -> Result<Vec<Estimate>, Stop> {
    let mut first = 0;
    let answers = ask_place(session, plan, place, |server| {
        first = means.allow(server);
        for sql in queries {
            home::run_once(server, &format!("EXPLAIN (FORMAT JSON) {sql}"));
        }
        means.end(server);
        frontend::sync(&mut server.outbox);
    });
    let answers = answers.await?;
    let read = |n: usize| -> Option<Estimate> {
        let value: Value = serde_json::from_slice(answers.value(first + n, 0)?).ok()?;
        let root = value.pointer("/0/Plan")?;
        let (rows, cost) = (root["Plan Rows"].as_f64()?, root["Total Cost"].as_f64()?);
        let width = root["Plan Width"].as_f64()?;
        Some(Estimate { rows, width, cost, scans: scans(root) })
    };
    let all: Option<Vec<Estimate>> = (0..queries.len()).map(read).collect();
    all.ok_or_else(|| Reason::new(Cause::FragmentNotDescribed).into())
}

/// Whether a plan reads a whole table.
fn scans(plan: &Value) -> bool {
    plan["Node Type"] == "Seq Scan" || plan["Plans"].as_array().into_iter().flatten().any(scans)
}
