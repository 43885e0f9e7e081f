//! One round of `pgbench`: who is asked, how, for how long; its per-transaction
//! log read back as times and a rate.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use pgspan_lab::Address;
use serde::Serialize;

use crate::demo::DemoError;
use crate::demo::psql::Login;
use crate::demo::report::Times;
use crate::terminal::INTERRUPTED;

/// The share of a round that warms up and is not counted.
const WARM_SHARE: f64 = 0.25;
/// How often somebody may look while a round runs.
const TICK: Duration = Duration::from_millis(100);
/// A round that takes so much longer than asked has gone wrong.
const OVERTIME: Duration = Duration::from_secs(60);

/// pgbench's `--protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A Query message each.
    Simple,
    /// Parsed once, then Bind and Execute.
    Prepared,
}

impl Protocol {
    /// As pgbench spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Prepared => "prepared",
        }
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub enum Script {
    /// A statement.
    Statement(String),
    /// pgbench's built-in `select-only`.
    SelectOnly,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// Which database.
    pub database: String,
    /// `PGOPTIONS`, when not empty.
    pub options: String,
}

/// What one round found.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// Times of the transactions after the warm-up.
    pub times: Times,
    /// Their rate.
    pub per_second: f64,
}

/// pgbench, and who it logs in as.
#[derive(Debug)]
pub struct Pgbench {
    program: PathBuf,
    login: Login,
    dir: PathBuf,
}

impl Pgbench {
    /// The program from PostgreSQL's directory, else from `PATH`; its files go to `dir`.
    pub fn new(bin: &Path, login: Login, dir: PathBuf) -> Pgbench {
        let own = bin.join("pgbench");
        let program = if own.is_file() { own } else { "pgbench".into() };
        Pgbench { program, login, dir }
    }

    fn command(&self, target: &Target) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command
            .args(["-h", &target.address.host, "-p", &target.address.port.to_string()])
            .args(["-U", &self.login.user])
            .env("PGPASSWORD", &self.login.password)
            .env("PGCONNECT_TIMEOUT", "15")
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if !target.options.is_empty() {
            command.env("PGOPTIONS", &target.options);
        }
        command
    }

    /// Makes pgbench's tables.
    pub fn initialize(&self, target: &Target, scale: u32) -> Result<(), DemoError> {
        let mut command = self.command(target);
        command.args(["-i", "-q", "-s", &scale.to_string(), &target.database]);
        self.finish(&mut command, Duration::from_secs(300), &mut || Ok(()))
    }

    /// Runs one round.
    pub fn round(
        &self,
        target: &Target,
        script: &Script,
        protocol: Protocol,
        clients: usize,
        seconds: u32,
        tick: &mut dyn FnMut() -> Result<(), DemoError>,
    ) -> Result<Round, DemoError> {
        let io = |error: std::io::Error| DemoError::new(format!("pgbench's log: {error}"));
        let logs = self.dir.join("log");
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).map_err(io)?;
        let threads = thread::available_parallelism().map_or(1, usize::from).min(clients);
        let mut command = self.command(target);
        command
            .args(["-n", "-l", "-M", protocol.as_str(), "-T", &seconds.to_string()])
            .args(["-c", &clients.to_string(), "-j", &threads.to_string()])
            .arg(format!("--log-prefix={}", logs.join("t").display()));
        match script {
            Script::SelectOnly => {
                command.arg("-S");
            }
            Script::Statement(sql) => {
                let file = self.dir.join("script.sql");
                // pgbench ends a statement at a semicolon.
                fs::write(&file, format!("{};\n", sql.trim_end().trim_end_matches(';')))
                    .map_err(io)?;
                command.arg("-f").arg(file);
            }
        }
        command.arg(&target.database);
        self.finish(&mut command, Duration::from_secs(seconds.into()) + OVERTIME, tick)?;
        let mut ends: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for entry in fs::read_dir(&logs).map_err(io)? {
            let text = fs::read_to_string(entry.map_err(io)?.path()).map_err(io)?;
            for (client, end) in text.lines().filter_map(transaction) {
                ends.entry(client).or_default().push(end);
            }
        }
        warm_part(&ends).ok_or_else(|| DemoError::new("pgbench finished too few transactions"))
    }

    fn finish(
        &self,
        command: &mut Command,
        limit: Duration,
        tick: &mut dyn FnMut() -> Result<(), DemoError>,
    ) -> Result<(), DemoError> {
        let name = self.program.display();
        let fail = |error: std::io::Error| DemoError::new(format!("{name}: {error}"));
        let words = self.dir.join("pgbench.err");
        let errors = fs::File::create(&words).map_err(fail)?;
        let mut child = command.stderr(errors).spawn().map_err(fail)?;
        let deadline = Instant::now() + limit;
        let mut next_tick = Instant::now() + TICK;
        loop {
            if let Some(status) = child.try_wait().map_err(fail)? {
                if status.success() {
                    return Ok(());
                }
                let said = fs::read_to_string(&words).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let last = lines[lines.len().saturating_sub(5)..].join("\n");
                return Err(DemoError::new(format!("{name}: {status}\n{last}")));
            }
            if INTERRUPTED.load(Ordering::Relaxed) {
                end(&mut child);
                return Err(DemoError::interrupted());
            }
            if Instant::now() > deadline {
                end(&mut child);
                return Err(DemoError::new(format!("{name}: no end within {} s", limit.as_secs())));
            }
            if Instant::now() >= next_tick {
                if let Err(error) = tick() {
                    end(&mut child);
                    return Err(error);
                }
                next_tick = Instant::now() + TICK;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A client and the end of its transaction in seconds, from a line of the log:
/// `client number microseconds script seconds microseconds`.
///
/// The duration in it is not used: it is zero when the answer was there before
/// pgbench looked at the clock, as happens on a busy machine. A client asks again as
/// soon as it has its answer, so the time between two ends is what it waited.
fn transaction(line: &str) -> Option<(u32, f64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [client, _, duration, _, seconds, micros, ..] = fields.as_slice() else {
        return None;
    };
    // `failed` or `skipped` in place of a number.
    duration.parse::<f64>().ok()?;
    let end = seconds.parse::<f64>().ok()? + micros.parse::<f64>().ok()? / 1e6;
    Some((client.parse().ok()?, end))
}

/// Times and rate after the warm-up.
fn warm_part(ends: &BTreeMap<u32, Vec<f64>>) -> Option<Round> {
    let all = || ends.values().flatten().copied();
    let first = all().min_by(f64::total_cmp)?;
    let last = all().max_by(f64::total_cmp)?;
    let from = first + (last - first) * WARM_SHARE;
    let times: Vec<f64> = ends
        .values()
        .flat_map(|ends| ends.windows(2))
        .filter(|pair| pair[1] > from)
        .map(|pair| (pair[1] - pair[0]) * 1e3)
        .collect();
    if times.is_empty() {
        return None;
    }
    let per_second = times.len() as f64 / (last - from);
    Some(Round { times: Times::of(times), per_second })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_the_log() {
        let (client, end) = transaction("3 199 0 0 1175850568 995598").unwrap();
        assert_eq!(client, 3);
        assert!((end - 1_175_850_568.995_598).abs() < 1e-6);
        assert_eq!(transaction("0 1 failed 0 1 1"), None);
    }

    #[test]
    fn the_first_quarter_is_not_counted() {
        // Two clients; the first transactions are slow.
        let ends = |offset: f64| {
            let slow = (0..5).map(move |i| f64::from(i) * 0.5 + offset);
            let quick = (1..=800).map(move |i| 2.0 + f64::from(i) * 0.01 + offset);
            slow.chain(quick).collect::<Vec<f64>>()
        };
        let round = warm_part(&BTreeMap::from([(0, ends(0.0)), (1, ends(0.001))])).unwrap();
        assert!((round.times.p99_ms - 10.0).abs() < 0.01, "{round:?}");
        assert!((round.per_second - 200.0).abs() < 1.0, "{round:?}");
        assert!(warm_part(&BTreeMap::new()).is_none());
    }
}
