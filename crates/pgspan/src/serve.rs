//! `pgspan serve` and `pgspan check-config`.

use crate::terminal;
use clap::Args;
use pgspan_gateway::Gateway;
use pgspan_gateway::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Run the gateway until SIGINT or SIGTERM; SIGHUP reads its configuration again
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
    raise_descriptors(&config);
    let threads = config.gateway.worker_threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1))
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(config, &options.config)),
        Err(error) => fail(&error.to_string()),
    }
}

/// Takes as many descriptors as the system gives, and warns where these cannot be enough.
fn raise_descriptors(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let needed = config.limits.descriptors();
    match getrlimit(Resource::Nofile).current {
        Some(have) if have < needed => tracing::warn!(
            have,
            needed,
            "fewer files may be open than limits.client_connections_max and logins_max need: \
             raise the limit (ulimit -n, LimitNOFILE) or lower them"
        ),
        _ => {}
    }
}

/// Takes the configuration anew; what is wrong with it leaves the old in force.
fn reload(gateway: &Gateway, path: &Path) {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the configuration cannot be read; the old one stays");
            return;
        }
    };
    match gateway.reload(config) {
        Ok(later) if later.is_empty() => tracing::info!("configuration read again"),
        Ok(later) => tracing::warn!(
            settings = later.join(", "),
            "configuration read again; these settings hold from the next start"
        ),
        Err(error) => {
            tracing::error!(%error, "the configuration cannot be used; the old one stays")
        }
    }
}

async fn run(config: Config, path: &Path) -> ExitCode {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return fail("cannot wait for signals");
    };
    let gateway = match Gateway::start(config).await {
        Ok(gateway) => gateway,
        Err(error) => return fail(&error.to_string()),
    };
    for address in gateway.addresses() {
        tracing::info!(%address, "listening");
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => reload(&gateway, path),
        }
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
