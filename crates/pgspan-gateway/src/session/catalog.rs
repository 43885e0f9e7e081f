//! Reading the names of home's foreign tables on the session's own connection.

use super::{End, Session};
use crate::session::home::answers;
use pgspan_pool::ServerError;
use pgspan_sql::ask;
use pgspan_sql::catalog::CatalogSnapshot;
use pgspan_wire::backend::TransactionStatus;
use pgspan_wire::frontend;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

impl Session {
    pub(super) fn catalog_age_max(&self) -> Duration {
        Duration::from_secs(self.shared.config.limits.catalog_s_max)
    }

    /// Reads the catalog again when it is due and home is at rest.
    pub(super) async fn refresh_catalog(&mut self) -> Result<(), End> {
        let idle = self.server.status == TransactionStatus::Idle && self.owed.ready() == 0;
        if !idle || !self.accelerates() || !self.database.is_due(self.catalog_age_max()) {
            return Ok(());
        }
        self.database.being_read();
        super::home::run_once(&mut self.server, ask::CATALOG);
        frontend::sync(&mut self.server.outbox);
        match answers(&mut self.server, &mut self.client.outbox).await {
            Ok(got) => {
                let rows = got.results.into_iter().next().unwrap_or_default().rows;
                self.database.replace(snapshot(rows));
                Ok(())
            }
            Err(ServerError::Sql(error)) => {
                // Relaying goes on; nothing is accelerated with what is not known.
                tracing::warn!(%error, "home's catalog could not be read");
                Ok(())
            }
            Err(lost) => Err(lost.into()),
        }
    }
}

fn snapshot(rows: Vec<Vec<Option<bytes::Bytes>>>) -> CatalogSnapshot {
    let mut tables = HashSet::new();
    let mut functions = HashMap::new();
    let mut operators = HashSet::new();
    let mut types = HashSet::new();
    let mut parents = HashSet::new();
    let mut outside = HashMap::new();
    for row in rows {
        let text = |i: usize| {
            let value = row.get(i).and_then(Option::as_ref);
            value.map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
        };
        match text(0).as_str() {
            "t" => {
                tables.insert(text(1));
            }
            "p" => {
                parents.insert(text(1));
            }
            "o" => {
                operators.insert(text(1));
            }
            "y" => {
                types.insert(text(1));
            }
            "f" => {
                functions.insert(text(1), text(2) == "t");
            }
            _ => {
                outside.insert(text(1), text(2) == "t");
            }
        }
    }
    for (name, immutable) in &outside {
        if let Some(safe) = functions.get_mut(name) {
            *safe &= immutable;
        }
    }
    CatalogSnapshot::new(tables, functions, outside.into_keys().collect(), operators)
        .with_strange_types(types)
        .with_parents(parents)
}
