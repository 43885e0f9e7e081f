//! What the TPC-H runs found: Markdown for people, JSON for programs.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::bench::large::Volume;
use crate::bench::large::report::write;
use crate::bench::race::{Name, Raced, Run};
use crate::bench::report::load_average;
use crate::bench::stand::Stand;
use crate::demo::DemoError;

/// How many times faster than postgres_fdw, by the geometric mean.
const OVER_FDW: f64 = 8.0;

/// The 22 queries in one arrangement.
#[derive(Debug, Clone, Serialize)]
pub struct Arrangement {
    /// `split` or `foreign`.
    pub name: &'static str,
    /// Each query.
    pub queries: Vec<Raced>,
}

/// A target, and whether it was met.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What was aimed at.
    pub target: String,
    /// What was measured.
    pub measured: String,
    /// Whether it was met; `None` when a peer is missing.
    pub met: Option<bool>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// PostgreSQL's version.
    pub postgres_version: String,
    /// The scale factor.
    pub scale: f64,
    /// The limit of one query, in seconds.
    pub cut: f64,
    /// Built without optimization, which makes the figures worthless.
    pub debug_build: bool,
    /// Load averages over a minute, before and after.
    pub load_average: [Option<f64>; 2],
    /// Each arrangement.
    pub arrangements: Vec<Arrangement>,
    /// Each target.
    pub verdicts: Vec<Verdict>,
}

impl Arrangement {
    /// Nothing found yet.
    pub fn new(name: &'static str) -> Arrangement {
        Arrangement { name, queries: Vec::new() }
    }

    /// The geometric mean of a peer's times over the queries that all peers answered or
    /// were cut in; an error counts as the limit.
    fn mean(&self, peer: Name, cut: Duration) -> Option<f64> {
        let times: Vec<f64> = self
            .queries
            .iter()
            .filter_map(|raced| raced.of(peer).map(|run| run.seconds.unwrap_or(cut.as_secs_f64())))
            .collect();
        (!times.is_empty())
            .then(|| (times.iter().map(|time| time.ln()).sum::<f64>() / times.len() as f64).exp())
    }

    fn fallbacks(&self) -> Vec<&str> {
        let strategy = |raced: &&Raced| {
            let route = raced.of(Name::Pgspan).and_then(|run| run.route.as_deref());
            route.is_some_and(|route| route.starts_with("fallback") || route.starts_with("relay"))
        };
        self.queries.iter().filter(strategy).map(|raced| raced.query.as_str()).collect()
    }

    /// As a table.
    pub fn markdown(&self, cut: Duration) -> String {
        let title = match self.name {
            "split" => "customer, nation, region, supplier at home; the others foreign",
            _ => "every table foreign, over two sources",
        };
        let mut text = format!(
            "## {}: {title}\n\n| query | pgspan s | postgres_fdw s | DuckDB s | × postgres_fdw | \
             × DuckDB | pgspan's answer | DuckDB's | gateway MB | route |\n\
             |---|---:|---:|---:|---:|---:|---|---|---:|---|\n",
            self.name
        );
        for raced in &self.queries {
            let own = raced.of(Name::Pgspan);
            let answer = |name| {
                let run = raced.of(name)?;
                match (&run.error, run.answer) {
                    (Some(_), _) if run.cut => Some("cut".to_owned()),
                    (Some(error), _) => Some(error.replace('|', "/")),
                    (None, answer) => answer.map(|answer| answer.as_str().to_owned()),
                }
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                raced.query,
                seconds(own),
                seconds(raced.of(Name::Fdw)),
                seconds(raced.of(Name::Duckdb)),
                ratio(raced.seconds(Name::Pgspan), raced.seconds(Name::Fdw)),
                ratio(raced.seconds(Name::Pgspan), raced.seconds(Name::Duckdb)),
                answer(Name::Pgspan).unwrap_or_else(|| "-".to_owned()),
                answer(Name::Duckdb).unwrap_or_else(|| "-".to_owned()),
                own.and_then(|run| run.peak_bytes)
                    .map_or("-".to_owned(), |bytes| format!("{:.0}", bytes as f64 / 1e6)),
                own.and_then(|run| run.route.as_deref()).unwrap_or("-"),
            );
        }
        let mean = |peer| self.mean(peer, cut);
        let show = |mean: Option<f64>| mean.map_or("-".to_owned(), |mean| format!("{mean:.2}"));
        let _ = writeln!(
            text,
            "| geometric mean | {} | {} | {} | {} | {} | | | | |",
            show(mean(Name::Pgspan)),
            show(mean(Name::Fdw)),
            show(mean(Name::Duckdb)),
            ratio(mean(Name::Pgspan), mean(Name::Fdw)),
            ratio(mean(Name::Pgspan), mean(Name::Duckdb)),
        );
        text
    }
}

fn seconds(run: Option<&Run>) -> String {
    match run {
        Some(Run { seconds: Some(seconds), cut: true, .. }) => format!("> {seconds:.0}"),
        Some(Run { seconds: Some(seconds), .. }) => format!("{seconds:.2}"),
        _ => "-".to_owned(),
    }
}

fn ratio(own: Option<f64>, other: Option<f64>) -> String {
    own.zip(other)
        .filter(|(_, other)| *other > 0.0)
        .map_or("-".to_owned(), |(own, other)| format!("{:.2}", own / other))
}

/// One query in a line, as it is done.
pub fn line(raced: &Raced) -> String {
    let mut text = format!("{}:", raced.query);
    for run in &raced.runs {
        let _ = write!(text, " {} {}", run.peer.key(), seconds(Some(run)));
        match (&run.error, run.answer) {
            (Some(error), _) => {
                let _ = write!(text, " ({error})");
            }
            (None, Some(answer)) => {
                let _ = write!(text, " {}", answer.as_str());
            }
            (None, None) => {}
        }
        if let Some(route) = &run.route {
            let _ = write!(text, " [{route}]");
        }
        text.push(',');
    }
    text.trim_end_matches(',').to_owned()
}

impl Report {
    /// Nothing found yet.
    pub fn new(stand: &Stand, volume: &Volume) -> Report {
        Report {
            postgres_version: stand.postgres_version().to_owned(),
            scale: volume.scale,
            cut: volume.cut.as_secs_f64(),
            debug_build: cfg!(debug_assertions),
            load_average: [load_average(), None],
            arrangements: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Every query of every arrangement.
    pub fn raced(&self) -> impl Iterator<Item = &Raced> {
        self.arrangements.iter().flat_map(|arrangement| &arrangement.queries)
    }

    /// Judges.
    pub fn finish(&mut self) {
        self.load_average[1] = load_average();
        let cut = Duration::from_secs_f64(self.cut);
        for arrangement in &self.arrangements {
            let name = arrangement.name;
            let mean = |peer| arrangement.mean(peer, cut);
            let Some(own) = mean(Name::Pgspan) else { continue };
            let mut add = |target: String, measured: String, met: Option<bool>| {
                self.verdicts.push(Verdict { target, measured, met });
            };
            let wrong: Vec<&str> = arrangement
                .queries
                .iter()
                .filter(|raced| raced.is_wrong() || raced.of(Name::Pgspan).is_some_and(|r| r.cut))
                .map(|raced| raced.query.as_str())
                .collect();
            add(
                format!("{name}: every answer came, and is PostgreSQL's"),
                names(&wrong),
                Some(wrong.is_empty()),
            );
            if name == "split" {
                let fallbacks = arrangement.fallbacks();
                let met = Some(fallbacks.is_empty());
                add(format!("{name}: no fallback"), names(&fallbacks), met);
            }
            let over = mean(Name::Fdw).map(|fdw| fdw / own);
            add(
                format!("{name}: {OVER_FDW} × faster than postgres_fdw (geometric mean)"),
                over.map_or("-".to_owned(), |over| format!("{over:.2}")),
                over.map(|over| over >= OVER_FDW),
            );
            let over = mean(Name::Duckdb).map(|duckdb| duckdb / own);
            add(
                format!("{name}: faster than DuckDB (geometric mean)"),
                over.map_or("-".to_owned(), |over| format!("{over:.2}")),
                over.map(|over| over > 1.0),
            );
        }
    }

    /// Targets that were missed.
    pub fn missed(&self) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.met == Some(false)).count()
    }

    /// The targets as a table.
    pub fn summary(&self) -> String {
        let mut text = String::from("| target | measured | |\n|---|---|---|\n");
        for verdict in &self.verdicts {
            let met = match verdict.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "not measured",
            };
            let _ = writeln!(text, "| {} | {} | {met} |", verdict.target, verdict.measured);
        }
        text
    }

    /// Writes `PATH.md` and `PATH.json`.
    pub fn write(&self, path: &Path, cut: Duration) -> Result<(), DemoError> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| DemoError::new(error.to_string()))?;
        write(&path.with_extension("json"), &(json + "\n"))?;
        let load =
            |at: usize| self.load_average[at].map_or("-".into(), |load| format!("{load:.1}"));
        let mut text = format!(
            "# TPC-H at scale factor {}\n\nPostgreSQL {}, a query is cut at {} s, load {} before and \
             {} after.{}\n\n",
            self.scale,
            self.postgres_version,
            self.cut,
            load(0),
            load(1),
            if self.debug_build { " A DEBUG BUILD: the figures mean nothing." } else { "" },
        );
        for arrangement in &self.arrangements {
            text.push_str(&arrangement.markdown(cut));
            text.push('\n');
        }
        write(&path.with_extension("md"), &(text + &self.summary()))
    }
}

fn names(names: &[&str]) -> String {
    if names.is_empty() { "all".to_owned() } else { format!("not {}", names.join(", ")) }
}
