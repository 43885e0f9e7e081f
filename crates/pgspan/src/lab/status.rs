//! `pgspan lab status`.

use std::process::ExitCode;

use pgspan_lab::{Lab, LabError};

use super::Dir;
use crate::terminal::{Style, say};

/// Prints the state of a lab; succeeds only if everything runs.
pub fn run(options: &Dir) -> Result<ExitCode, LabError> {
    let status = Lab::open(&options.dir)?.status();
    let exit = if status.up { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if options.json {
        say(super::up::json(&status)?);
        return Ok(exit);
    }
    let style = Style::for_stdout();
    let up = |up: bool| {
        if up { style.green("up  ") } else { style.red("down") }
    };
    let latency = match status.latency_us {
        0 => "no added latency".to_string(),
        us => format!("{} ms round trip on every link", us as f64 / 1000.0),
    };
    say(style.bold(format!("PostgreSQL {}, {latency}", status.postgres_version)));
    for server in &status.servers {
        let pid = server.pid.map_or("-".to_string(), |pid| pid.to_string());
        let lag = match (server.lag_bytes, server.lag_ms) {
            (Some(bytes), Some(ms)) => format!("  lag {bytes} bytes, {ms:.1} ms"),
            (Some(bytes), None) => format!("  lag {bytes} bytes"),
            _ => String::new(),
        };
        say(format!(
            "  {:<16} {}  {:<22} pid {pid:<8}{}",
            server.name,
            up(server.up),
            server.address.to_string(),
            style.dim(lag)
        ));
    }
    for helper in &status.helpers {
        let mut addresses = helper.listen.iter();
        let first = addresses.next().map(ToString::to_string);
        say(format!(
            "  {:<16} {}  {:<22} pid {}",
            helper.name,
            up(helper.up),
            first.unwrap_or_default(),
            helper.pid
        ));
        for address in addresses {
            say(format!("  {:<16}       {address}", ""));
        }
    }
    Ok(exit)
}
