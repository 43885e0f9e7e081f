//! `SHOW pgspan.…`: the gateway's own tables. The question is replaced by a SELECT of
//! their values, which home answers, so that both protocols, both formats and every
//! driver work.

use super::Session;
use pgspan_sql::quote::literal;

const PREFIX: &[u8] = b"show pgspan.";

/// Whether a text asks for one of them.
pub(super) fn is_show(text: &[u8]) -> bool {
    let start = text.trim_ascii_start();
    start.get(..PREFIX.len()).is_some_and(|s| s.eq_ignore_ascii_case(PREFIX))
}

impl Session {
    /// The SELECT that stands for a SHOW; `None` when there is no such table, and home
    /// will say so.
    pub(super) fn show(&self, text: &str) -> Option<String> {
        let name = text.trim().trim_end_matches(';').trim_end();
        let name = name.get(PREFIX.len()..)?.to_ascii_lowercase();
        match name.as_str() {
            "routes" => Some(values(
                "routes(strategy, reason, count)",
                self.shared.routes.rows().into_iter().map(|(strategy, reason, count)| {
                    format!(
                        "{}::pg_catalog.text, {}::pg_catalog.text, {count}::pg_catalog.int8",
                        literal(strategy.as_str()),
                        literal(reason)
                    )
                }),
                "''::pg_catalog.text, ''::pg_catalog.text, 0::pg_catalog.int8",
            )),
            "last_route" => Some(format!(
                "SELECT {}::pg_catalog.text AS strategy, {}::pg_catalog.text AS reason",
                literal(self.last_route.strategy.as_str()),
                literal(&self.last_route.reason.to_string()),
            )),
            "servers" => Some(values(
                "servers(address, open, idle, waiting)",
                self.shared.sources.pools.counts().into_iter().map(|c| {
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
                self.shared.progress.lines().into_iter().map(|l| {
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
