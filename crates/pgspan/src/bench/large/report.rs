//! What the large measurements found: Markdown for people, JSON for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::bench::race::{Name, Raced};
use crate::bench::report::load_average;
use crate::bench::stand::Stand;
use crate::demo::DemoError;

use super::data::Size;
use super::growth::{Point, steepest};

/// At most so much of the fastest rival's time.
const OF_BEST: f64 = 0.85;
/// At least so many times faster than postgres_fdw, in Q1.
const OVER_FDW: f64 = 12.0;
/// At most so much of the floor, in Q1.
const OF_FLOOR: f64 = 1.25;
/// The most memory of the gateway in Q1, in bytes.
const PEAK_BYTES: u64 = 300_000_000;

/// A target, and whether it was met.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// What was aimed at.
    pub target: String,
    /// What was measured; `None` when a peer is missing.
    pub measured: Option<f64>,
    /// Whether it was met.
    pub met: Option<bool>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// pgspan's version.
    pub pgspan_version: &'static str,
    /// Built without optimization, which makes the figures worthless.
    pub debug_build: bool,
    /// PostgreSQL's version.
    pub postgres_version: String,
    /// Processors of the machine.
    pub processors: usize,
    /// Load averages over a minute, before and after.
    pub load_average: [Option<f64>; 2],
    /// Users.
    pub users: u64,
    /// Orders.
    pub orders: u64,
    /// Each query.
    pub queries: Vec<Raced>,
    /// Q1 at several sizes.
    pub growth: Vec<Point>,
    /// A join from few rows to many.
    pub border: Vec<Point>,
    /// Each target.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// Nothing found yet.
    pub fn new(stand: &Stand, size: Size) -> Report {
        Report {
            pgspan_version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            postgres_version: stand.postgres_version().to_owned(),
            processors: super::processors(),
            load_average: [load_average(), None],
            users: size.users,
            orders: size.orders,
            queries: Vec::new(),
            growth: Vec::new(),
            border: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Judges.
    pub fn finish(&mut self) {
        self.load_average[1] = load_average();
        for raced in &self.queries {
            let Some(own) = raced.seconds(Name::Pgspan) else { continue };
            let name = &raced.query;
            let mut add = |target: String, measured: Option<f64>, met: &dyn Fn(f64) -> bool| {
                self.verdicts.push(Verdict { target, measured, met: measured.map(met) });
            };
            add(
                format!("{name}: at most {OF_BEST} × the fastest peer"),
                raced.best().map(|(_, best)| own / best),
                &|ratio| ratio <= OF_BEST,
            );
            if name == "q1" {
                add(
                    format!("{name}: at least {OVER_FDW} × faster than postgres_fdw"),
                    raced.seconds(Name::Fdw).map(|fdw| fdw / own),
                    &|ratio| ratio >= OVER_FDW,
                );
                add(
                    format!("{name}: at most {OF_FLOOR} × the floor"),
                    raced.seconds(Name::Floor).map(|floor| own / floor),
                    &|ratio| ratio <= OF_FLOOR,
                );
                let peak = raced.of(Name::Pgspan).and_then(|run| run.peak_bytes);
                add(
                    format!("{name}: at most {} MB in the gateway", PEAK_BYTES / 1_000_000),
                    peak.map(|bytes| bytes as f64 / 1e6),
                    &|_| peak.is_some_and(|bytes| bytes <= PEAK_BYTES),
                );
            }
        }
    }

    /// Targets that were missed.
    pub fn missed(&self) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.met == Some(false)).count()
    }

    /// The targets as a table.
    pub fn summary(&self) -> String {
        let mut text = String::from("| target | measured | |\n|---|---:|---|\n");
        for verdict in &self.verdicts {
            let measured = verdict.measured.map_or("-".to_owned(), |value| format!("{value:.2}"));
            let met = match verdict.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "not measured",
            };
            let _ = writeln!(text, "| {} | {measured} | {met} |", verdict.target);
        }
        text
    }

    /// The whole report as Markdown.
    fn markdown(&self) -> String {
        let mut text = format!(
            "# Large joins\n\npgspan {}, PostgreSQL {}, {} processors, {} users, {} orders, \
             load {} before and {} after.{}\n\n",
            self.pgspan_version,
            self.postgres_version,
            self.processors,
            self.users,
            self.orders,
            self.load_average[0].map_or("-".into(), |load| format!("{load:.1}")),
            self.load_average[1].map_or("-".into(), |load| format!("{load:.1}")),
            if self.debug_build { " A DEBUG BUILD: the figures mean nothing." } else { "" },
        );
        for raced in &self.queries {
            text.push_str(&table(raced));
            text.push('\n');
        }
        text + &self.curves() + &self.summary()
    }

    /// The curves as tables.
    pub fn curves(&self) -> String {
        let mut text = String::new();
        for (title, points) in [("Growth of Q1", &self.growth), ("The border", &self.border)] {
            if points.is_empty() {
                continue;
            }
            let _ = writeln!(
                text,
                "## {title}\n\n| orders | pgspan ms | postgres_fdw tuned ms | gateway MB | route |\n\
                 |---:|---:|---:|---:|---|"
            );
            for point in points {
                let or_none = |value: Option<f64>, scale: f64| {
                    value.map_or("-".to_owned(), |value| format!("{:.1}", value * scale))
                };
                let _ = writeln!(
                    text,
                    "| {} | {:.1} | {} | {} | {} |",
                    point.orders,
                    point.pgspan * 1e3,
                    or_none(point.fdw_tuned, 1e3),
                    or_none(point.peak_bytes.map(|bytes| bytes as f64), 1e-6),
                    point.route,
                );
            }
            if let Some((orders, more, time)) = steepest(points) {
                let _ = writeln!(
                    text,
                    "\nThe steepest step leads to {orders} orders: × {time:.1} time for × {more:.1} \
                     orders.\n"
                );
            }
        }
        text
    }

    /// Writes `PATH.md` and `PATH.json`.
    pub fn write(&self, path: &Path) -> Result<(), DemoError> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| DemoError::new(error.to_string()))?;
        write(&path.with_extension("json"), &(json + "\n"))?;
        write(&path.with_extension("md"), &self.markdown())
    }
}

/// Writes a file and the directories above it.
pub fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    let fail = |error: std::io::Error| DemoError::new(format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

/// One query as a table.
pub fn table(raced: &Raced) -> String {
    let mut text = format!("## {}\n\n```sql\n{}\n```\n\n", raced.query, raced.sql);
    text.push_str(
        "| peer | s | × best peer | × postgres_fdw | × floor | answer | MB from the source | \
         gateway MB | route |\n|---|---:|---:|---:|---:|---|---:|---:|---|\n",
    );
    let best = raced.best().map(|(_, seconds)| seconds);
    for run in &raced.runs {
        let ratio = |other: Option<f64>| {
            run.seconds
                .zip(other)
                .filter(|(_, other)| *other > 0.0)
                .map_or("-".to_owned(), |(own, other)| format!("{:.2}", own / other))
        };
        let bytes = |value: Option<u64>| {
            value.map_or("-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6))
        };
        let seconds = match run.seconds {
            Some(seconds) if run.cut => format!("> {seconds:.0}"),
            Some(seconds) => format!("{seconds:.3}"),
            None => "-".to_owned(),
        };
        let answer = match (&run.answer, &run.error) {
            (_, Some(error)) => error.clone(),
            (Some(answer), None) => answer.as_str().to_owned(),
            (None, None) => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {}{} | {seconds} | {} | {} | {} | {} | {} | {} | {} |",
            run.peer.title(),
            run.version.as_ref().map_or(String::new(), |version| format!(" {version}")),
            ratio(best),
            ratio(raced.seconds(Name::Fdw)),
            ratio(raced.seconds(Name::Floor)),
            answer.replace('|', "/"),
            bytes(run.source_bytes),
            bytes(run.peak_bytes),
            run.route.as_deref().unwrap_or("-"),
        );
    }
    text
}
