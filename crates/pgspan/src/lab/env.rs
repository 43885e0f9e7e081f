//! `pgspan lab env`: what the guide gets from `terraform output`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use pgspan_lab::{Address, Lab, LabError, Role, State};
use serde::Serialize;

use super::Dir;
use crate::terminal::{note, say};

/// The outputs that the guide reads from Terraform.
#[derive(Debug, Serialize)]
pub struct ConnectionInfo {
    /// Where everything is.
    pub connection_info: Places,
    /// Shell commands that set the guide's variables.
    pub environment_setup_commands: Vec<String>,
    /// The password of the user `postgres`.
    pub database_password: String,
}

/// Where everything is.
#[derive(Debug, Serialize)]
pub struct Places {
    /// The gateway's endpoint for writes to `users`.
    pub users_writer: Option<Address>,
    /// The gateway's endpoint for reads from `users`.
    pub users_reader: Option<Address>,
    /// The gateway's endpoint for writes to `orders`.
    pub orders_writer: Option<Address>,
    /// The gateway's endpoint for reads from `orders`, if `orders` has a replica.
    pub orders_reader: Option<Address>,
    /// The port of all endpoints, where they share one.
    pub port: Option<u16>,
    /// The superuser.
    pub user: String,
    /// The address by which home reaches the `orders` server directly.
    pub foreign_server: Address,
    /// The PostgreSQL servers themselves.
    pub servers: BTreeMap<String, Place>,
    /// Round-trip time on every link, in microseconds.
    pub latency_us: u64,
    /// The lab's directory.
    pub dir: std::path::PathBuf,
}

/// One PostgreSQL server.
#[derive(Debug, Serialize)]
pub struct Place {
    /// Its own address.
    pub host: String,
    /// Its own port.
    pub port: u16,
    /// How others reach it: through the delaying relay if there is one.
    pub link: Address,
    /// Writer or replica.
    pub role: Role,
    /// The database of the guide.
    pub database: String,
    /// Its log.
    pub log: std::path::PathBuf,
}

/// What a lab's users need to know.
pub fn connection_info(state: &State) -> ConnectionInfo {
    let endpoint = |name: &str| {
        let gateway = state.gateway.as_ref()?;
        Some(gateway.endpoint(name).ok()?.address.clone())
    };
    let servers: BTreeMap<String, Place> = state
        .servers
        .iter()
        .map(|server| {
            let place = Place {
                host: server.address.host.clone(),
                port: server.address.port,
                link: server.link.clone(),
                role: server.role,
                database: server.database.clone(),
                log: server.log.clone(),
            };
            (server.name.replace('-', "_"), place)
        })
        .collect();
    ConnectionInfo {
        connection_info: Places {
            users_writer: endpoint("users-writer"),
            users_reader: endpoint("users-reader"),
            orders_writer: endpoint("orders-writer"),
            orders_reader: endpoint("orders-reader"),
            port: common_port(state),
            user: state.user.clone(),
            foreign_server: state
                .server("orders-writer")
                .map_or_else(|_| Address::new("", 0), |server| server.link.clone()),
            servers,
            latency_us: state.latency_us,
            dir: state.dir.clone(),
        },
        environment_setup_commands: shell_lines(state),
        database_password: state.password.clone(),
    }
}

/// The port of the endpoints, if they share one.
fn common_port(state: &State) -> Option<u16> {
    let endpoints = &state.gateway.as_ref()?.endpoints;
    let first = endpoints.first()?.address.port;
    endpoints.iter().all(|endpoint| endpoint.address.port == first).then_some(first)
}

/// Shell lines that set the guide's variables.
pub fn shell_lines(state: &State) -> Vec<String> {
    let mut lines = vec![format!("export PGPASSWORD='{}'", state.password)];
    let Some(gateway) = &state.gateway else {
        return lines;
    };
    let common = common_port(state);
    if let Some(port) = common {
        lines.push(format!("export PGPORT='{port}'"));
    }
    for endpoint in &gateway.endpoints {
        let name = endpoint.name.to_uppercase().replace('-', "_");
        lines.push(format!("export {name}='{}'", endpoint.address.host));
        if common.is_none() {
            // One address for all: the port tells them apart, and is to be
            // given with psql's -p.
            lines.push(format!("export {name}_PORT='{}'", endpoint.address.port));
        }
    }
    lines
}

/// Prints how to connect.
pub fn run(options: &Dir) -> Result<ExitCode, LabError> {
    let lab = Lab::open(&options.dir)?;
    if options.json {
        say(super::up::json(&connection_info(lab.state()))?);
        return Ok(ExitCode::SUCCESS);
    }
    if lab.state().gateway.is_none() {
        return Err(LabError::Invalid(
            "the lab has no gateway, so there are no endpoints (--json shows the servers); \
             start one with: pgspan lab up"
                .into(),
        ));
    }
    for line in shell_lines(lab.state()) {
        say(line);
    }
    if common_port(lab.state()).is_none() {
        note(
            "All endpoints have the address 127.0.0.1 here and differ by port: \
             psql -h $USERS_WRITER -p $USERS_WRITER_PORT …, and the same port in CREATE SERVER.",
        );
    }
    Ok(ExitCode::SUCCESS)
}
