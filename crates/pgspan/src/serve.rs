//! `pgspan serve` and `pgspan check-config`.

use crate::terminal;
use clap::Args;
use pgspan_gateway::Gateway;
use pgspan_gateway::config::Config;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Run the gateway until SIGINT or SIGTERM
#[derive(Debug, Args)]
pub struct Serve {
    /// Configuration file
    #[arg(long, short, default_value = "pgspan.toml", env = "PGSPAN_CONFIG")]
    config: PathBuf,
    /// Log filter, e.g. `info` or `pgspan_gateway=debug`
    #[arg(long, default_value = "info", env = "PGSPAN_LOG")]
    log: String,
}

/// Check a configuration file, and say what is wrong with it
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// Configuration file
    #[arg(default_value = "pgspan.toml")]
    config: PathBuf,
    /// Print the JSON Schema of the file instead
    #[arg(long)]
    schema: bool,
}

/// Runs `pgspan serve`.
pub fn serve(options: &Serve) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(&options.log))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let config = match Config::load(&options.config) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    let threads = config.gateway.worker_threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1))
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config)),
        Err(error) => fail(&error.to_string()),
    }
}

async fn run(config: Config) -> ExitCode {
    let gateway = match Gateway::start(config).await {
        Ok(gateway) => gateway,
        Err(error) => return fail(&error.to_string()),
    };
    for address in gateway.addresses() {
        tracing::info!(%address, "listening");
    }
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return fail("cannot wait for signals");
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!(
        clients = gateway.clients(),
        "shutting down; sessions may finish, a second signal cuts them"
    );
    let cut = tokio::select! {
        cut = gateway.shutdown() => cut,
        _ = interrupt.recv() => 1,
        _ = terminate.recv() => 1,
    };
    if cut > 0 {
        tracing::warn!(sessions = cut, "sessions were cut");
    }
    ExitCode::SUCCESS
}

/// Runs `pgspan check-config`.
pub fn check_config(options: &CheckConfig) -> ExitCode {
    if options.schema {
        let schema = serde_json::to_string_pretty(&Config::schema()).unwrap_or_default();
        terminal::say(schema);
        return ExitCode::SUCCESS;
    }
    match Config::load(&options.config) {
        Ok(config) => {
            if let Err(error) = pgspan_gateway::check_files(&config) {
                return fail(&format!("{}: {error}", options.config.display()));
            }
            terminal::say(format!(
                "{}: {} clusters, {} listeners, no errors",
                options.config.display(),
                config.clusters.len(),
                config.listeners.len()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(message: &str) -> ExitCode {
    terminal::note(format!("pgspan: {message}"));
    ExitCode::FAILURE
}
