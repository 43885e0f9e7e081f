//! PostgreSQL's own answers, remembered in the lab beside the data that they belong to.

use super::client::{Client, Rows};
use crate::demo::DemoError;

/// The remembered answer; `ask` gets it the first time.
pub fn remembered(
    client: &mut Client,
    sql: &str,
    ask: impl FnOnce(&mut Client) -> Result<Rows, DemoError>,
) -> Result<Rows, DemoError> {
    let fail = |error: serde_json::Error| DemoError::new(error.to_string());
    let quoted = sql.replace('\'', "''");
    let known =
        client.run(&format!("SELECT answer FROM bench_answers WHERE query = '{quoted}'"))?;
    if let Some(text) = known.scalar() {
        return serde_json::from_str(text).map_err(fail);
    }
    let rows = ask(client)?;
    let json = serde_json::to_string(&rows).map_err(fail)?.replace('\'', "''");
    client.run(&format!("INSERT INTO bench_answers VALUES ('{quoted}', '{json}')"))?;
    Ok(rows)
}
