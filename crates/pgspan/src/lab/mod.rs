//! `pgspan lab`: real PostgreSQL clusters on this machine, with a gateway in
//! front of them.

mod env;
mod status;
mod up;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pgspan_lab::{Lab, LabError};

use crate::terminal::{Style, note, say};

pub use env::connection_info;
pub use up::pair;

/// Where a lab lives unless told otherwise.
const DEFAULT_DIR: &str = ".pgspan/lab";

/// The commands of `pgspan lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start the clusters `users` (writer, replica) and `orders` (writer), and the gateway
    Up(up::Up),
    /// Show servers, relays and gateway: address, process, replication lag
    Status(Dir),
    /// Print how to connect: shell lines for eval, or JSON
    Env(Dir),
    /// Stop everything and delete the lab's data
    Down(OnlyDir),
    /// Run delaying relays in the foreground
    #[command(hide = true)]
    Relay {
        /// ROUND_TRIP_MICROSECONDS FROM=TO...
        #[arg(trailing_var_arg = true)]
        args: Vec<OsString>,
    },
}

/// Which lab.
#[derive(Debug, Args)]
pub struct OnlyDir {
    /// The lab's directory
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
}

/// Which lab, and how to print.
#[derive(Debug, Args)]
pub struct Dir {
    /// The lab's directory
    #[arg(long, default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a command of `pgspan lab`.
pub fn run(command: LabCommand) -> ExitCode {
    let result = match command {
        LabCommand::Up(options) => up::run(&options),
        LabCommand::Status(options) => status::run(&options),
        LabCommand::Env(options) => env::run(&options),
        LabCommand::Down(options) => down(&options),
        LabCommand::Relay { args } => {
            pgspan_lab::relay::run_from_args(&args).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        note(format!("{} {error}", Style::for_stderr().red("pgspan lab:")));
        match error {
            LabError::Interrupted => ExitCode::from(130),
            _ => ExitCode::FAILURE,
        }
    })
}

fn down(options: &OnlyDir) -> Result<ExitCode, LabError> {
    match Lab::open(&options.dir) {
        Ok(lab) => {
            lab.stop()?;
            say(format!("the lab in {} is gone", options.dir.display()));
        }
        Err(LabError::NotFound { dir }) => say(format!("there is no lab in {}", dir.display())),
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

/// The command that runs relays in a process of their own: this program.
pub fn relay_command() -> Result<Vec<OsString>, LabError> {
    Ok(vec![this_program()?.into(), "lab".into(), "relay".into()])
}

/// The path of this program.
pub fn this_program() -> Result<PathBuf, LabError> {
    std::env::current_exe()
        .map_err(|source| LabError::Io { what: "finding this program".into(), source })
}

/// Reads `1ms`, `500us`, `0.5ms`, `1s` or `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let micros = match unit.trim() {
        "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "" if number == "0" => 0.0,
        _ => return Err("give a number and a unit: 500us, 1ms, 0.1s".into()),
    };
    let value: f64 = number.parse().map_err(|_| "not a number".to_string())?;
    let result = Duration::try_from_secs_f64(value * micros / 1e6).map_err(|e| e.to_string())?;
    if result > Duration::from_secs(10) {
        return Err("at most 10s".into());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [("1ms", 1000), ("500us", 500), ("0.5ms", 500), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for text in ["1", "ms", "-1ms", "1h", "11s", ""] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
