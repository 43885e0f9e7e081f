//! What a run of the benchmark found, as a table and as JSON.

use serde::Serialize;

use super::measure::{Effort, Figure, Measured, Verdict};
use crate::demo::show::Show;

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// pgspan's version.
    pub pgspan_version: &'static str,
    /// Whether it was built without optimization, which makes the figures worthless.
    pub debug_build: bool,
    /// PostgreSQL's version.
    pub postgres_version: String,
    /// Processors of the machine.
    pub processors: usize,
    /// Load averages over a minute before and after the run, where the system tells:
    /// peers share what others leave of the processors, and not alike.
    pub load_average: [Option<f64>; 2],
    /// How long and how often.
    pub effort: Effort,
    /// Each measurement.
    pub measurements: Vec<Measured>,
    /// Targets that were met.
    pub met: usize,
    /// Targets that were missed.
    pub missed: usize,
    /// Targets that could not be judged: a peer is not installed.
    pub not_measured: usize,
}

impl Report {
    /// Counts the verdicts.
    pub fn count(&mut self) {
        let count = |wanted: Option<bool>| {
            let verdicts = self.measurements.iter().flat_map(|one| &one.verdicts);
            verdicts.filter(|verdict| verdict.met == wanted).count()
        };
        (self.met, self.missed, self.not_measured) =
            (count(Some(true)), count(Some(false)), count(None));
    }
}

/// The load average over the last minute.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Prints the table of one measurement.
pub fn table(show: &Show, measured: &Measured) {
    show.line("");
    let mut title = format!("── {}", measured.name);
    if let Some(strategy) = &measured.strategy {
        title.push_str(&format!("  [{strategy}]"));
    }
    match measured.same {
        Some(true) => title.push_str("  same rows"),
        Some(false) => title.push_str("  DIFFERENT ROWS"),
        None => {}
    }
    show.line(show.style.bold(title));
    let columns = ["system", "protocol", "p50 ms", "p99 ms", "per s", "ratio", "target", ""];
    let mut rows = Vec::new();
    for (place, peer) in measured.peers.iter().enumerate() {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_string(), |value| format!("{value:.digits$}"))
        };
        let mut row = vec![
            peer.system.to_string(),
            peer.protocol.as_str().to_string(),
            number(peer.p50_ms, 3),
            number(peer.p99_ms, 3),
            number(peer.per_second, 0),
        ];
        let ratio = |verdict: &&Verdict| verdict.figure != Figure::Connections;
        let own = measured.verdicts.iter().filter(|verdict| verdict.peer == place);
        match own.clone().find(ratio) {
            Some(verdict) => row.extend(judged(verdict)),
            None if peer.rounds.is_empty() => {
                row.extend([String::new(), String::new(), "not installed".into()]);
            }
            None => row.extend([String::new(), String::new(), String::new()]),
        }
        rows.push(row);
        if let Some(count) = peer.orders_connections_max {
            let mut row = vec!["  connections at orders".to_string()];
            row.extend([String::new(), String::new(), String::new(), String::new()]);
            let bound = own.clone().find(|verdict| verdict.figure == Figure::Connections);
            match bound {
                Some(verdict) => row.extend(judged(verdict)),
                None => row.extend([count.to_string(), String::new(), String::new()]),
            }
            rows.push(row);
        }
    }
    show.table(&columns.map(String::from), &rows);
}

fn judged(verdict: &Verdict) -> [String; 3] {
    let measured = match (verdict.measured, verdict.figure) {
        (None, _) => "-".to_string(),
        (Some(count), Figure::Connections) => format!("{count:.0}"),
        (Some(ratio), _) => format!("{ratio:.2}"),
    };
    let target = match verdict.figure {
        Figure::P50 => format!("≤ {} × {} p50", verdict.bound, verdict.against),
        Figure::Rate => format!("≥ {} × {} rate", verdict.bound, verdict.against),
        Figure::Connections => format!("≤ {:.0}", verdict.bound),
    };
    let met = match verdict.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    };
    [measured, target, met.to_string()]
}
