//! One round of `pgbench`: who is asked, how, for how long; its per-transaction
//! log read back as times and a rate.

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
        let mut done = Vec::new();
        for entry in fs::read_dir(&logs).map_err(io)? {
            let text = fs::read_to_string(entry.map_err(io)?.path()).map_err(io)?;
            done.extend(text.lines().filter_map(transaction));
        }
        warm_part(done).ok_or_else(|| DemoError::new("pgbench finished no transaction"))
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

/// A transaction's end (seconds) and duration (ms) from a line of the log:
/// `client number microseconds script seconds microseconds`.
fn transaction(line: &str) -> Option<(f64, f64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, _, duration, _, seconds, micros, ..] = fields.as_slice() else {
        return None;
    };
    let end = seconds.parse::<f64>().ok()? + micros.parse::<f64>().ok()? / 1e6;
    Some((end, duration.parse::<f64>().ok()? / 1e3))
}

/// Times and rate after the warm-up.
fn warm_part(done: Vec<(f64, f64)>) -> Option<Round> {
    let first = done.iter().map(|one| one.0).min_by(f64::total_cmp)?;
    let last = done.iter().map(|one| one.0).max_by(f64::total_cmp)?;
    let from = first + (last - first) * WARM_SHARE;
    let times: Vec<f64> =
        done.into_iter().filter(|(end, _)| *end > from).map(|(_, ms)| ms).collect();
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
        let (end, ms) = transaction("0 199 2241 0 1175850568 995598").unwrap();
        assert!((end - 1_175_850_568.995_598).abs() < 1e-6);
        assert!((ms - 2.241).abs() < 1e-9);
        assert_eq!(transaction("0 1 failed 0 1 1"), None);
    }

    #[test]
    fn the_first_quarter_is_not_counted() {
        let done = (0..=100).map(|i| (f64::from(i) / 10.0, if i < 20 { 50.0 } else { 1.0 }));
        let round = warm_part(done.collect()).unwrap();
        assert!((round.times.p99_ms - 1.0).abs() < 1e-9);
        assert!((round.per_second - 10.0).abs() < 0.1);
        assert!(warm_part(Vec::new()).is_none());
    }
}
