//! Peers that live in Python: their virtual environment, and one process for each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Answer, Fault, Login};
use super::stand::progress;
use crate::demo::DemoError;

/// What is installed. DuckDB's scanner comes as a package of its own: nothing is
/// fetched while a query runs.
const PACKAGES: &[&str] =
    &["duckdb==1.5.5", "duckdb-extension-postgres-scanner==1.5.5", "chdb==4.4.0"];
/// The longest wait for a peer to be ready.
const READY_LIMIT: Duration = Duration::from_secs(120);
const DRIVER: &str = include_str!("driver.py");

/// Where the peer finds its tables.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Name and login of each server.
    pub servers: BTreeMap<&'static str, Login>,
    /// Table as queries name it, server, table there.
    pub tables: Vec<(String, &'static str, String)>,
}

/// Makes the virtual environment, once for each set of versions.
pub fn environment() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let dir = cache.join("pgspan").join("bench-peers");
    let wanted = PACKAGES.join("\n");
    let mark = dir.join("packages.txt");
    let python = dir.join("bin").join("python");
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    progress(format!("installing {} into {}", PACKAGES.join(", "), dir.display()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    done(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    done(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PACKAGES),
    )?;
    std::fs::write(&mark, wanted).map_err(|error| format!("{}: {error}", mark.display()))?;
    Ok(python)
}

fn done(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{}: {}: {last}", command.get_program().display(), output.status))
}

/// A peer's process.
#[derive(Debug)]
pub struct Driver {
    name: &'static str,
    python: PathBuf,
    setup: Setup,
    running: Option<Running>,
    /// What it calls itself.
    pub version: String,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Driver {
    /// Starts it.
    pub fn start(name: &'static str, python: &Path, setup: &Setup) -> Result<Driver, DemoError> {
        let mut driver = Driver {
            name,
            python: python.to_owned(),
            setup: setup.clone(),
            running: None,
            version: String::new(),
        };
        driver.restart()?;
        Ok(driver)
    }

    fn restart(&mut self) -> Result<(), DemoError> {
        self.running = None;
        let fail = |error: std::io::Error| DemoError::new(format!("{}: {error}", self.name));
        let mut child = Command::new(&self.python)
            .args(["-u", "-c", DRIVER, self.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(DemoError::new("a peer has no pipes"));
        };
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let servers: BTreeMap<&str, Value> = self
            .setup
            .servers
            .iter()
            .map(|(name, login)| {
                let value = json!({
                    "host": login.address.host, "port": login.address.port, "user": login.user,
                    "password": login.password, "database": login.database,
                });
                (*name, value)
            })
            .collect();
        let tables: BTreeMap<&str, Value> = self
            .setup
            .tables
            .iter()
            .map(|(table, server, remote)| (table.as_str(), json!([server, remote])))
            .collect();
        self.running = Some(Running { child, stdin, lines });
        let ready = self.ask(&json!({"servers": servers, "tables": tables}), READY_LIMIT)?;
        self.version = ready["version"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }

    /// Runs a statement; at the limit the process is ended, and a new one starts with
    /// the next statement.
    pub fn run(&mut self, sql: &str, limit: Duration) -> Result<Answer, Fault> {
        if self.running.is_none() {
            self.restart()
                .map_err(|error| Fault { code: String::new(), message: error.to_string() })?;
        }
        let answer = self.ask(&json!({"sql": sql}), limit)?;
        let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
        let row = |row: &Value| {
            let values = row.as_array().map(Vec::as_slice).unwrap_or_default();
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
        };
        Ok(Answer {
            rows: rows.iter().map(row).collect(),
            seconds: answer["seconds"].as_f64().unwrap_or_default(),
            bytes: 0,
        })
    }

    fn ask(&mut self, request: &Value, limit: Duration) -> Result<Value, Fault> {
        let lost = |message: String| Fault { code: String::new(), message };
        let Some(running) = &mut self.running else {
            return Err(lost("the peer does not run".to_owned()));
        };
        let sent = writeln!(running.stdin, "{request}").and_then(|()| running.stdin.flush());
        let deadline = Instant::now() + limit;
        let line = match sent {
            Ok(()) => loop {
                match running.lines.recv_timeout(Duration::from_millis(100)) {
                    Ok(line) => break Ok(line),
                    Err(RecvTimeoutError::Disconnected) => break Err("the peer ended".to_owned()),
                    Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                        self.running = None;
                        return Err(Fault {
                            code: "57014".to_owned(),
                            message: format!("cut after {} s", limit.as_secs()),
                        });
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            },
            Err(error) => Err(error.to_string()),
        };
        let line = match line {
            Ok(line) => line,
            Err(message) => {
                self.running = None;
                return Err(lost(message));
            }
        };
        let value: Value = serde_json::from_str(&line).map_err(|error| lost(error.to_string()))?;
        match value["error"].as_str() {
            Some(error) => {
                Err(lost(error.lines().next().unwrap_or_default().chars().take(300).collect()))
            }
            None => Ok(value),
        }
    }
}
