//! The `pgspan` command.

mod bench;
mod demo;
mod explain;
mod lab;
mod progress;
mod serve;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A gateway that speaks the PostgreSQL protocol and answers queries that span
/// several databases, live.
#[derive(Debug, Parser)]
#[command(name = "pgspan", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    CheckConfig(serve::CheckConfig),
    Explain(explain::Explain),
    Progress(progress::Progress),
    Demo(demo::Demo),
    Verify(Box<demo::Verify>),
    Bench(bench::Bench),
    /// Real PostgreSQL clusters on this machine, with a gateway in front of them
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(options) => serve::serve(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Progress(options) => progress::run(&options),
        Command::CheckConfig(options) => serve::check_config(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Verify(options) => demo::run_verify(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Lab(command) => lab::run(command),
    }
}
