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
    #[command(flatten)]
    connection: Connection,
    /// Ask for the engine, and show what keeps the statement off it
    #[arg(long)]
    why: bool,
    /// The statement
    sql: String,
}

/// Where the gateway is.
#[derive(Debug, Args)]
pub struct Connection {
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
}

impl Connection {
    /// What psql prints for commands, unaligned and without headers; `None` when it failed,
    /// which it or this has then said.
    pub fn ask(&self, commands: &[&str]) -> Option<String> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        let port = self.port.map(|p| p.to_string());
        let given = [
            ("-h", self.host.as_deref()),
            ("-p", port.as_deref()),
            ("-U", self.user.as_deref()),
            ("-d", self.database.as_deref()),
        ];
        for (flag, value) in given {
            if let Some(value) = value {
                psql.args([flag, value]);
            }
        }
        commands.iter().for_each(|c| {
            psql.args(["-c", *c]);
        });
        match psql.stdin(Stdio::null()).stderr(Stdio::inherit()).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                output.status.success().then_some(text)
            }
            Err(error) => {
                terminal::note(format!("pgspan: cannot run psql: {error}"));
                None
            }
        }
    }
}

/// Runs it.
pub fn run(options: &Explain) -> ExitCode {
    let sql = options.sql.trim().trim_end_matches(';');
    let explain = format!("EXPLAIN (VERBOSE, COSTS OFF) {sql}");
    let mut commands = vec![explain.as_str(), "SHOW pgspan.last_route"];
    if options.why {
        commands.insert(0, "SET pgspan.strategy = engine");
    }
    let Some(text) = options.connection.ask(&commands) else { return ExitCode::FAILURE };
    let mut lines: Vec<&str> = text.lines().collect();
    let told = lines.pop().and_then(|line| {
        let (strategy, rest) = line.split_once('|')?;
        // No hint has the sign that stands between columns; a reason may have.
        let (reason, hint) = rest.rsplit_once('|')?;
        Some((strategy, reason, hint))
    });
    if let Some((strategy, reason, hint)) = told {
        terminal::say(format!("route:  {strategy}"));
        terminal::say(format!("reason: {reason}"));
        if !hint.is_empty() {
            terminal::say(format!("hint:   {hint}"));
        }
    }
    lines.into_iter().for_each(terminal::say);
    ExitCode::SUCCESS
}
