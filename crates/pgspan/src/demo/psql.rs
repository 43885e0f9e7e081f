//! One long-lived `psql`, fed by a pipe, one statement at a time.
//!
//! Real psql on purpose: what the demo shows is what a user would see. Results
//! come back as CSV, the time of each statement from psql's own `\timing`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pgspan_lab::Address;

use super::DemoError;
use super::csv;
use crate::terminal::INTERRUPTED;

/// The longest wait for one statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(120);

/// How to connect.
#[derive(Debug, Clone)]
pub struct Login {
    /// The psql program.
    pub psql: PathBuf,
    /// The user.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// One statement's result.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Column names, when rows came back.
    pub columns: Vec<String>,
    /// Rows as text; NULL is the empty string, as in psql.
    pub rows: Vec<Vec<String>>,
    /// The command tag, when no rows came back.
    pub tag: String,
    /// psql's measured time in milliseconds.
    pub ms: f64,
}

impl Output {
    /// The value in a row and column, or nothing.
    pub fn cell(&self, row: usize, column: usize) -> &str {
        self.rows.get(row).and_then(|row| row.get(column)).map_or("", String::as_str)
    }

    /// The rows in an order of their own, to compare two results.
    pub fn sorted_rows(&self) -> Vec<Vec<String>> {
        let mut rows = self.rows.clone();
        rows.sort();
        rows
    }
}

/// A running psql.
#[derive(Debug)]
pub struct Psql {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    errors: Receiver<String>,
    /// What the user would have typed to get here.
    pub command_line: String,
}

impl Psql {
    /// Connects; an error is psql's own message.
    pub fn connect(login: &Login, address: &Address, database: &str) -> Result<Psql, DemoError> {
        let mut command = Command::new(&login.psql);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            // The user's TLS settings count, as for any psql of theirs.
            if name.starts_with("PG") && !name.starts_with("PGSSL") {
                command.env_remove(name);
            }
        }
        command
            .args(["-X", "-w", "--csv", "-h", &address.host])
            .args(["-U", &login.user, "-d", database])
            .env("PGPORT", address.port.to_string())
            .env("PGPASSWORD", &login.password)
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGCONNECT_TIMEOUT", "15")
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| DemoError::new(format!("{}: {error}", login.psql.display())))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(DemoError::new("psql has no pipes"));
        };
        let mut psql = Psql {
            child,
            stdin,
            lines: lines_of(stdout),
            errors: lines_of(stderr),
            command_line: format!("psql -h {} -U {} -d {database}", address.host, login.user),
        };
        psql.send("\\timing on\n")?;
        psql.finish()?;
        Ok(psql)
    }

    /// Runs one statement; PostgreSQL's error is an error.
    pub fn run(&mut self, sql: &str) -> Result<Output, DemoError> {
        self.send(sql)?;
        self.send("\n")?;
        let (text, error) = self.finish()?;
        match error {
            Some(error) => Err(DemoError::new(error)),
            None => Ok(parse(&text)),
        }
    }

    /// Runs one statement many times and returns psql's time for each, in
    /// milliseconds. The results are read completely and thrown away.
    pub fn time(&mut self, sql: &str, times: usize) -> Result<Vec<f64>, DemoError> {
        self.send("\\o /dev/null\n")?;
        let mut script = String::with_capacity((sql.len() + 1) * times);
        for _ in 0..times {
            script.push_str(sql);
            script.push('\n');
        }
        self.send(&script)?;
        self.send("\\o\n")?;
        let (text, error) = self.finish()?;
        if let Some(error) = error {
            return Err(DemoError::new(error));
        }
        let times_read: Vec<f64> = text.lines().filter_map(timing).collect();
        if times_read.len() == times {
            Ok(times_read)
        } else {
            Err(DemoError::new(format!(
                "psql reported {} times for {times} statements",
                times_read.len()
            )))
        }
    }

    fn send(&mut self, text: &str) -> Result<(), DemoError> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(DemoError::interrupted());
        }
        match self.stdin.write_all(text.as_bytes()) {
            Ok(()) => Ok(()),
            Err(_) => Err(DemoError::new(self.last_words())),
        }
    }

    /// Waits for everything sent so far: its output, and the error if there
    /// was one.
    fn finish(&mut self) -> Result<(String, Option<String>), DemoError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mark = format!("-- pgspan {} --", COUNTER.fetch_add(1, Ordering::Relaxed));
        let script = format!("\\echo '{mark}'\n\\warn '{mark}'\n");
        self.send(&script)?;
        let deadline = Instant::now() + STATEMENT_LIMIT;
        let text = self.until(&mark, deadline, false)?;
        let error = self.until(&mark, deadline, true)?;
        // A warning or notice is not an error.
        let failed = error.contains("ERROR:") || error.contains("FATAL:");
        Ok((text, failed.then(|| error.trim().to_string())))
    }

    fn until(&mut self, mark: &str, deadline: Instant, error: bool) -> Result<String, DemoError> {
        let mut text = String::new();
        loop {
            let source = if error { &self.errors } else { &self.lines };
            match source.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line == mark => return Ok(text),
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(DemoError::new(self.last_words()));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return Err(DemoError::interrupted());
                    }
                    if Instant::now() > deadline {
                        return Err(DemoError::new(format!(
                            "no answer within {} s",
                            STATEMENT_LIMIT.as_secs()
                        )));
                    }
                }
            }
        }
    }

    /// What psql said before it ended.
    fn last_words(&mut self) -> String {
        thread::sleep(Duration::from_millis(100));
        let words: Vec<String> = self.errors.try_iter().collect();
        if words.is_empty() {
            format!("{}: the connection ended", self.command_line)
        } else {
            words.join("\n")
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.stdin.write_all(b"\\q\n");
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of<R: Read + Send + 'static>(from: R) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Milliseconds of a line `Time: 1.234 ms`, also `Time: 1234.567 ms (00:01.235)`.
fn timing(line: &str) -> Option<f64> {
    line.strip_prefix("Time: ")?.split_whitespace().next()?.parse().ok()
}

/// Reads the output of one statement: CSV or a command tag, then the time.
fn parse(text: &str) -> Output {
    let mut output = Output::default();
    let mut body = Vec::new();
    for line in text.lines() {
        match timing(line) {
            Some(ms) => output.ms = ms,
            None => body.push(line),
        }
    }
    let is_tag = body.len() == 1
        && [
            "INSERT ", "UPDATE ", "DELETE ", "CREATE ", "DROP ", "SET", "BEGIN", "COMMIT",
            "ROLLBACK",
        ]
        .iter()
        .any(|tag| body[0].starts_with(tag));
    if is_tag || body.is_empty() {
        output.tag = body.first().copied().unwrap_or_default().to_string();
        return output;
    }
    let mut rows = csv::parse(&body.join("\n")).into_iter();
    output.columns = rows.next().unwrap_or_default();
    output.rows = rows.collect();
    output
}

/// psql from the directory of PostgreSQL's programs, else from `PATH`.
pub fn program(bin: Option<&Path>) -> PathBuf {
    bin.map(|bin| bin.join("psql")).filter(|path| path.is_file()).unwrap_or_else(|| "psql".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_read() {
        let output = parse("a,b\n1,\"x\ny\"\nTime: 0.512 ms\n");
        assert_eq!(output.columns, ["a", "b"]);
        assert_eq!(output.rows, [["1", "x\ny"]]);
        assert!((output.ms - 0.512).abs() < 1e-9);
        let output = parse("INSERT 0 1\nTime: 1234.5 ms (00:01.235)\n");
        assert_eq!(output.tag, "INSERT 0 1");
        assert!((output.ms - 1234.5).abs() < 1e-9);
    }
}
