//! `pgspan explain "SQL"`: route, reason and fragments of a statement, as a running
//! gateway decides them.

use crate::terminal;
use clap::Args;
use std::process::{Command, ExitCode, Stdio};

/// Show how a running gateway would run a statement: route, reason, fragments
///
/// Connects with psql, so PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass
/// count as they do there. Nothing is executed.
#[derive(Debug, Args)]
pub struct Explain {
    /// The gateway's endpoint
    #[arg(long, short = 'H', env = "PGHOST")]
    host: Option<String>,
    /// Its port
    #[arg(long, short, env = "PGPORT")]
    port: Option<u16>,
    /// Role
    #[arg(long, short = 'U', env = "PGUSER")]
    user: Option<String>,
    /// Database
    #[arg(long, short, env = "PGDATABASE")]
    database: Option<String>,
    /// The statement
    sql: String,
}

/// Runs it.
pub fn run(options: &Explain) -> ExitCode {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
    let port = options.port.map(|p| p.to_string());
    let given = [
        ("-h", options.host.as_deref()),
        ("-p", port.as_deref()),
        ("-U", options.user.as_deref()),
        ("-d", options.database.as_deref()),
    ];
    for (flag, value) in given {
        if let Some(value) = value {
            psql.args([flag, value]);
        }
    }
    let sql = options.sql.trim().trim_end_matches(';');
    psql.args(["-c", &format!("EXPLAIN (VERBOSE, COSTS OFF) {sql}")]);
    psql.args(["-c", "SHOW pgspan.last_route"]);
    let output = match psql.stdin(Stdio::null()).stderr(Stdio::inherit()).output() {
        Ok(output) => output,
        Err(error) => {
            terminal::note(format!("pgspan: cannot run psql: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if !output.status.success() {
        return ExitCode::FAILURE;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some((strategy, reason)) = lines.pop().and_then(|l| l.split_once('|')) {
        terminal::say(format!("route:  {strategy}"));
        terminal::say(format!("reason: {reason}"));
    }
    lines.into_iter().for_each(terminal::say);
    ExitCode::SUCCESS
}
