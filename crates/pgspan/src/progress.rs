//! `pgspan progress`: what the statements that run now have fetched, as bars.

use crate::explain::Connection;
use crate::terminal;
use clap::Args;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Show what large statements of a running gateway have fetched so far
///
/// Connects with psql, so PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSWORD and ~/.pgpass
/// count as they do there.
#[derive(Debug, Args)]
pub struct Progress {
    #[command(flatten)]
    connection: Connection,
    /// Look again every so many seconds, until interrupted
    #[arg(long, short, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

/// Characters of a whole bar.
const BAR: usize = 24;

/// Runs it.
pub fn run(options: &Progress) -> ExitCode {
    loop {
        let Some(text) = options.connection.ask(&["SHOW pgspan.progress"]) else {
            return ExitCode::FAILURE;
        };
        let lines: Vec<String> = text.lines().filter_map(line).collect();
        if lines.is_empty() {
            terminal::say("no statement is run by the engine now");
        }
        lines.iter().for_each(terminal::say);
        match options.watch {
            Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
            None => return ExitCode::SUCCESS,
        }
    }
}

/// `pid|tables|server|rows|rows_expected|bytes|connections|seconds` as a bar.
fn line(row: &str) -> Option<String> {
    let fields: Vec<&str> = row.split('|').collect();
    let [pid, tables, server, rows, expected, bytes, _, seconds] = fields.as_slice() else {
        return None;
    };
    let (rows, expected): (f64, f64) = (rows.parse().ok()?, expected.parse().ok()?);
    // An estimate may be too low: a bar is not full before the end.
    let share = if expected > 0.0 { (rows / expected).min(0.99) } else { 0.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and BAR
    let full = (share * BAR as f64) as usize;
    let megabytes = bytes.parse::<f64>().ok()? / 1e6;
    Some(format!(
        "{pid:>10}  [{}{}] {:>3.0} %  {rows} of about {expected} rows, {megabytes:.1} MB, {seconds} s  {tables} at {server}",
        "#".repeat(full),
        ".".repeat(BAR - full),
        share * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_bar() {
        let text =
            line("42|public.orders|orders_server|500|1000|2000000|2|1.5").unwrap_or_default();
        assert!(text.contains("[############............]  50 %"), "{text}");
        assert!(text.contains("2.0 MB") && text.contains("public.orders at orders_server"));
        assert_eq!(line("not a row"), None);
    }
}
