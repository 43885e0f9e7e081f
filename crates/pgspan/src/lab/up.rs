//! `pgspan lab up`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pgspan_lab::{GatewayOptions, Lab, LabError, LabOptions};

use super::{connection_info, duration, relay_command, this_program};
use crate::terminal::{INTERRUPTED, Style, note, say, watch_signals};

/// Options of `pgspan lab up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The lab's directory
    #[arg(long, default_value = super::DEFAULT_DIR)]
    dir: PathBuf,
    /// The directory of PostgreSQL's programs (initdb, postgres); else PGSPAN_POSTGRES_BIN, else found
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
    /// Round-trip time to put on every link (client to gateway, gateway to
    /// servers, server to server), for example 1ms
    #[arg(long, value_parser = duration, default_value = "0", value_name = "TIME")]
    latency: Duration,
    /// Give `orders` a streaming replica too
    #[arg(long)]
    orders_replica: bool,
    /// A setting for every PostgreSQL server, as NAME=VALUE; may be repeated
    #[arg(long, value_parser = pair, value_name = "NAME=VALUE")]
    server_setting: Vec<(String, String)>,
    /// Start the servers only
    #[arg(long)]
    no_gateway: bool,
    /// The port of the gateway's endpoints (default: 5432 if free, else any)
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// The gateway's snapshot order: home_first or parallel
    #[arg(long, value_name = "ORDER")]
    snapshot_order: Option<String>,
    /// A key of the gateway's configuration, as SECTION.KEY=VALUE; may be repeated
    #[arg(long, value_parser = pair, value_name = "SECTION.KEY=VALUE")]
    set: Vec<(String, String)>,
    /// A further user whom the gateway lets in, as NAME=PASSWORD; may be repeated. The
    /// role itself is not made
    #[arg(long, value_parser = pair, value_name = "NAME=PASSWORD")]
    gateway_user: Vec<(String, String)>,
    /// Give all endpoints the address 127.0.0.1, with ports that differ (always
    /// so where only that address exists)
    #[arg(long)]
    single_address: bool,
    /// Another program to run as the gateway
    #[arg(long, hide = true)]
    gateway_program: Option<PathBuf>,
    /// Print how to connect as JSON
    #[arg(long)]
    json: bool,
}

/// Reads `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.trim().to_string(), value.trim().to_string()))
        .ok_or_else(|| "give NAME=VALUE".into())
}

impl Up {
    fn lab_options(&self) -> Result<LabOptions, LabError> {
        let mut options = LabOptions::new(&self.dir);
        options.postgres_bin = self.postgres_bin.clone().or(options.postgres_bin);
        options.latency = self.latency;
        options.orders_replica = self.orders_replica;
        options.settings.clone_from(&self.server_setting);
        options.relay_command = Some(relay_command()?);
        options.cancel = Some(&INTERRUPTED);
        Ok(options)
    }

    fn gateway_options(&self) -> Result<GatewayOptions, LabError> {
        let program = match &self.gateway_program {
            Some(program) => program.clone(),
            None => this_program()?,
        };
        let mut options = GatewayOptions::new(program);
        options.port = self.gateway_port;
        options.single_address |= self.single_address;
        options.settings.clone_from(&self.set);
        options.users.clone_from(&self.gateway_user);
        if let Some(order) = &self.snapshot_order {
            options.settings.push(("gateway.snapshot_order".into(), order.clone()));
        }
        Ok(options)
    }
}

/// Starts a lab, or what is missing of one that runs.
pub fn run(up: &Up) -> Result<ExitCode, LabError> {
    watch_signals();
    let style = Style::for_stderr();
    let mut progress = |line: &str| note(style.dim(format!("  {line}")));
    let lab = match Lab::start(&up.lab_options()?, &mut progress) {
        Ok(mut lab) => {
            if !up.no_gateway {
                lab.start_gateway(&up.gateway_options()?, &mut progress)?;
            }
            lab
        }
        Err(LabError::AlreadyRunning { dir }) => complete(up, &dir, &mut progress)?,
        Err(error) => return Err(error),
    };
    let state = lab.detach();
    if up.json {
        say(json(&connection_info(&state))?);
        return Ok(ExitCode::SUCCESS);
    }
    let style = Style::for_stdout();
    let dir = if up.dir == std::path::Path::new(super::DEFAULT_DIR) {
        String::new()
    } else {
        format!(" --dir {}", up.dir.display())
    };
    let next = |command: String, what: &str| {
        say(format!("  {}  {}", style.cyan(format!("{command:<44}")), style.dim(what)));
    };
    say(style.bold(format!("The lab in {} is up. Next:", up.dir.display())));
    if state.gateway.is_some() {
        next(format!("eval \"$(pgspan lab env{dir})\""), "the guide's variables");
        next("psql -h $USERS_READER -U postgres -d usersdb".into(), "as the guide writes it");
    }
    next(format!("pgspan lab status{dir}"), "what runs where");
    next(format!("pgspan lab down{dir}"), "stop, and delete its data");
    Ok(ExitCode::SUCCESS)
}

/// The lab runs already: keep it, and start the gateway if it is missing.
fn complete(
    up: &Up,
    dir: &std::path::Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Lab, LabError> {
    let mut lab = Lab::open(dir)?.with_relay_command(relay_command()?);
    if u128::from(lab.state().latency_us) != up.latency.as_micros() {
        return Err(LabError::Invalid(format!(
            "the lab that runs in {} has another latency ({} us); stop it first: pgspan lab down",
            dir.display(),
            lab.state().latency_us
        )));
    }
    let dead: Vec<String> = lab
        .status()
        .helpers
        .into_iter()
        .filter(|helper| !helper.up)
        .map(|helper| helper.name)
        .collect();
    if dead.iter().any(|name| name == "relay") {
        return Err(LabError::Invalid(
            "the relays of the running lab are dead; stop it first: pgspan lab down".into(),
        ));
    }
    let has_gateway = lab.state().helpers.iter().any(|helper| helper.name == "gateway");
    progress("the servers run already");
    if !up.no_gateway && (!has_gateway || !dead.is_empty()) {
        lab.stop_helper("gateway")?;
        lab.stop_helper("gateway-relay")?;
        lab.start_gateway(&up.gateway_options()?, progress)?;
    }
    Ok(lab)
}

/// Pretty JSON.
pub fn json<T: serde::Serialize>(value: &T) -> Result<String, LabError> {
    serde_json::to_string_pretty(value).map_err(|error| LabError::Invalid(error.to_string()))
}
