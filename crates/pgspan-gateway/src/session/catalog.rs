//! Reading what is known of home's catalog on the session's own connection.
//!
//! Which texts name a foreign table is asked while the session is at rest, so that no
//! statement that is relayed waits for it; the rest before a statement that names one, or, where
//! that stands in a block, when the session is at rest again.

use super::{End, Session};
use crate::session::home::answers;
use pgspan_pool::ServerError;
use pgspan_sql::catalog::{Piece, Row};
use pgspan_wire::backend::TransactionStatus;
use pgspan_wire::frontend;
use std::time::Duration;

impl Session {
    pub(super) fn catalog_age_max(&self) -> Duration {
        Duration::from_secs(self.shared.config.limits.catalog_s_max)
    }

    /// What is to be read while the session is at rest.
    pub(super) fn read_at_rest(&self) -> &'static [Piece] {
        let pieces: &'static [Piece] =
            if self.catalog_missed { &Piece::ALL } else { &[Piece::ForeignNames] };
        let is_due = |piece: &Piece| self.database.is_due(*piece, self.catalog_age_max());
        if self.accelerates() && pieces.iter().any(is_due) { pieces } else { &[] }
    }

    /// Reads those pieces of the catalog again that are due, if home is at rest.
    pub(super) async fn refresh_catalog(&mut self, pieces: &[Piece]) -> Result<(), End> {
        if !self.accelerates() {
            return Ok(());
        }
        if self.server.status != TransactionStatus::Idle || self.owed.ready() > 0 {
            self.catalog_missed = true;
            return Ok(());
        }
        self.catalog_missed = false;
        let age_max = self.catalog_age_max();
        let due = pieces.iter().copied().filter(|p| self.database.is_due(*p, age_max));
        let due: Vec<Piece> = due.collect();
        if due.is_empty() {
            return Ok(());
        }
        for piece in &due {
            self.database.being_read(*piece);
            super::home::run_once(&mut self.server, piece.question());
        }
        frontend::sync(&mut self.server.outbox);
        match answers(&mut self.server, &mut self.client.outbox).await {
            Ok(got) => {
                for (piece, result) in due.into_iter().zip(got.results) {
                    let text = |value: Option<&Option<bytes::Bytes>>| {
                        let value = value.and_then(Option::as_ref);
                        value.map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
                    };
                    let rows = result
                        .rows
                        .iter()
                        .map(|row| (text(row.first()), text(row.get(1)), text(row.get(2)) == "t"));
                    // One without a name is of an object that is going.
                    let rows: Vec<Row> = rows.filter(|(_, name, _)| !name.is_empty()).collect();
                    self.database.replace(piece, &rows);
                }
                Ok(())
            }
            Err(error @ (ServerError::Sql(_) | ServerError::TooMuch)) => {
                // Relaying goes on; nothing is accelerated with what is not known.
                tracing::warn!(%error, "home's catalog could not be read");
                self.database.not_read(&due);
                Ok(())
            }
            Err(lost) => Err(lost.into()),
        }
    }
}
