//! `SHOW pgspan.…`: the gateway's own tables. The question is replaced by a SELECT of
//! their values, which home answers, so that both protocols, both formats and every
//! driver work.

use super::home::{self, Statement};
use super::{End, Session};
use pgspan_sql::quote::literal;
use std::sync::OnceLock;

const PREFIX: &[u8] = b"show pgspan.";

/// Whether a text asks for one of them.
pub(super) fn is_show(text: &[u8]) -> bool {
    let start = text.trim_ascii_start();
    start.get(..PREFIX.len()).is_some_and(|s| s.eq_ignore_ascii_case(PREFIX))
}

/// Who sees everybody's: as of `pg_stat_activity` (manual, section "Predefined Roles").
fn sees_all() -> &'static Statement {
    static ONE: OnceLock<Statement> = OnceLock::new();
    ONE.get_or_init(|| Statement::new("SELECT pg_catalog.pg_has_role('pg_monitor', 'MEMBER')"))
}

impl Session {
    /// Before a SHOW of the gateway's own: asks home what the client's role may see. In a block
    /// that has failed only its own.
    pub(super) async fn learn_what_is_seen(&mut self) -> Result<(), End> {
        let got = self.ask_aside(|server| home::run_prepared(server, sees_all())).await?;
        self.sees_all = got.is_some_and(|got| got.value(0, 0).is_some_and(|v| &v[..] == b"t"));
        Ok(())
    }

    /// The SELECT that stands for a SHOW; `None` when there is no such table, and home
    /// will say so.
    pub(super) fn show(&self, text: &str) -> Option<String> {
        let name = text.trim().trim_end_matches(';').trim_end();
        let name = name.get(PREFIX.len()..)?.to_ascii_lowercase();
        let whose = (!self.sees_all).then_some(self.user.as_str());
        match name.as_str() {
            "routes" => Some(values(
                "routes(strategy, reason, count)",
                self.shared.routes.rows(whose).into_iter().map(|(strategy, reason, count)| {
                    format!(
                        "{}::pg_catalog.text, {}::pg_catalog.text, {count}::pg_catalog.int8",
                        literal(strategy.as_str()),
                        literal(reason)
                    )
                }),
                "''::pg_catalog.text, ''::pg_catalog.text, 0::pg_catalog.int8",
            )),
            "last_route" => Some(format!(
                "SELECT {}::pg_catalog.text AS strategy, {}::pg_catalog.text AS reason, \
                 {}::pg_catalog.text AS hint",
                literal(self.last_route.strategy.as_str()),
                literal(&self.last_route.reason.to_string()),
                self.last_route.reason.hint().map_or("NULL".to_owned(), literal),
            )),
            "servers" => Some(values(
                "servers(address, open, idle, waiting)",
                self.shared.sources.counts(whose).into_iter().map(|c| {
                    format!(
                        "{}::pg_catalog.text, {}::pg_catalog.int8, {}::pg_catalog.int8, {}::pg_catalog.int8",
                        literal(&c.address),
                        c.open,
                        c.idle,
                        c.waiting
                    )
                }),
                "''::pg_catalog.text, 0::pg_catalog.int8, 0::pg_catalog.int8, 0::pg_catalog.int8",
            )),
            "progress" => Some(values(
                "progress(pid, tables, server, rows, rows_expected, bytes, connections, elapsed_s)",
                self.shared.progress.lines(whose).into_iter().map(|l| {
                    format!(
                        "{}::pg_catalog.int4, {}::pg_catalog.text, {}::pg_catalog.text, {}::pg_catalog.int8, \
                         {:.0}::pg_catalog.int8, {}::pg_catalog.int8, {}::pg_catalog.int8, {:.1}::pg_catalog.numeric",
                        l.pid,
                        literal(&l.tables),
                        literal(&l.server),
                        l.rows,
                        l.rows_expected,
                        l.bytes,
                        l.connections,
                        l.elapsed.as_secs_f64()
                    )
                }),
                "0::pg_catalog.int4, ''::pg_catalog.text, ''::pg_catalog.text, 0::pg_catalog.int8, \
                 0::pg_catalog.int8, 0::pg_catalog.int8, 0::pg_catalog.int8, 0::pg_catalog.numeric",
            )),
            "memory" => Some(values(
                "memory(what, entries, bytes, bytes_max)",
                self.shared.memory().into_iter().map(|kept| {
                    format!(
                        "{}::pg_catalog.text, {}::pg_catalog.int8, {}::pg_catalog.int8, {}::pg_catalog.int8",
                        literal(kept.what),
                        kept.entries.map_or("NULL".to_owned(), |entries| entries.to_string()),
                        kept.bytes,
                        kept.bytes_max
                    )
                }),
                "''::pg_catalog.text, 0::pg_catalog.int8, 0::pg_catalog.int8, 0::pg_catalog.int8",
            )),
            "version" => Some(format!(
                "SELECT {}::pg_catalog.text AS version",
                literal(concat!("pgspan ", env!("CARGO_PKG_VERSION")))
            )),
            _ => None,
        }
    }
}

fn values(columns: &str, rows: impl Iterator<Item = String>, none: &str) -> String {
    let rows: Vec<_> = rows.map(|r| format!("({r})")).collect();
    if rows.is_empty() {
        format!("SELECT * FROM (VALUES ({none})) AS {columns} WHERE false")
    } else {
        format!("SELECT * FROM (VALUES {}) AS {columns}", rows.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_names_are_taken() {
        assert!(is_show(b"  SHOW pgspan.routes;"));
        assert!(!is_show(b"SHOW search_path"));
        assert!(!is_show(b"SELECT 'show pgspan.routes'"));
    }
}
