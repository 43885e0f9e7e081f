//! The gateway in front of a lab: its addresses, its configuration, its process.
//!
//! On Linux every endpoint has a loopback address of its own, all on one port,
//! 5432 where it is free, so that the guide's commands work as written. Other
//! systems have only 127.0.0.1: there the endpoints differ by port.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::account::write_private;
use crate::{Address, Lab, LabError, Role, State, ports};

/// The port that the guide's statements name.
const GUIDE_PORT: u16 = 5432;
/// The last octets of the public endpoints, and of the gateway's own listeners
/// behind delaying relays.
const PUBLIC_OCTET: u8 = 2;
const BEHIND_RELAY_OCTET: u8 = 12;
/// Held while a lab looks for addresses, so that two do not choose the same.
const RESERVED_OCTET: u8 = 254;

/// How to run the gateway.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// The pgspan program; it is run as `PROGRAM serve --config FILE`.
    pub program: PathBuf,
    /// The port of the endpoints; chosen when absent.
    pub port: Option<u16>,
    /// More keys for the configuration, as `section.key` and a TOML value.
    pub settings: Vec<(String, String)>,
    /// More users that may come in, and their passwords; the roles themselves are
    /// not made.
    pub users: Vec<(String, String)>,
    /// One address for all endpoints, with ports that differ: how it is where
    /// only 127.0.0.1 exists.
    pub single_address: bool,
}

impl GatewayOptions {
    /// The default options for a given program.
    pub fn new(program: impl Into<PathBuf>) -> GatewayOptions {
        GatewayOptions {
            program: program.into(),
            port: None,
            settings: Vec::new(),
            users: Vec::new(),
            single_address: !cfg!(target_os = "linux"),
        }
    }
}

/// One endpoint of the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// `users-writer`, `users-reader`, `orders-writer`, `orders-reader`.
    pub name: String,
    /// The cluster it stands for.
    pub cluster: String,
    /// `writer` or `reader`.
    pub endpoint: String,
    /// Where clients find it.
    pub address: Address,
    /// Where the gateway itself listens; differs when a delaying relay stands
    /// in front of it.
    pub listen: Address,
}

/// The gateway of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gateway {
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its configuration file.
    pub config: PathBuf,
}

impl Gateway {
    /// The endpoint of that name.
    pub fn endpoint(&self, name: &str) -> Result<&Endpoint, LabError> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.name == name)
            .ok_or_else(|| LabError::Invalid(format!("the gateway has no endpoint {name:?}")))
    }
}

impl Lab {
    /// Writes `pgspan.toml` and `userlist.txt` into the lab's directory, starts
    /// the gateway with them and waits until its endpoints accept connections.
    pub fn start_gateway(
        &mut self,
        options: &GatewayOptions,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Gateway, LabError> {
        self.reservation = None;
        let (endpoints, reservation) = choose_addresses(self.state(), options)?;
        self.reservation = reservation;
        let gateway = Gateway { endpoints, config: self.state().dir.join("pgspan.toml") };
        let mut userlist = String::new();
        let own = (self.state().user.clone(), self.state().password.clone());
        for (name, password) in std::iter::once(&own).chain(&options.users) {
            let [name, password] = [name, password].map(|text| text.replace('"', "\"\""));
            userlist.push_str(&format!("\"{name}\" \"{password}\"\n"));
        }
        write_private(&self.state().dir.join("userlist.txt"), userlist.as_bytes())?;
        let config = configuration(self.state(), &gateway, &options.settings)?;
        write_private(&gateway.config, config.as_bytes())?;

        let mut command = Command::new(&options.program);
        command.args(["serve", "--config"]).arg(&gateway.config).current_dir(&self.state().dir);
        let listen: Vec<Address> =
            gateway.endpoints.iter().map(|endpoint| endpoint.listen.clone()).collect();
        self.state_mut().gateway = Some(gateway.clone());
        let started = self.start_helper("gateway", &mut command, listen);
        if started.is_err() {
            self.state_mut().gateway = None;
            let _ = self.stop_helper("gateway");
        }
        started?;
        let links: Vec<(Address, Address)> = gateway
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.address != endpoint.listen)
            .map(|endpoint| (endpoint.address.clone(), endpoint.listen.clone()))
            .collect();
        if !links.is_empty() {
            self.start_relays("gateway-relay", &links)?;
        }
        for endpoint in &gateway.endpoints {
            progress(&format!("gateway: {} on {}", endpoint.name, endpoint.address));
        }
        Ok(gateway)
    }
}

/// The endpoints that the lab's servers call for.
fn endpoint_names(state: &State) -> Vec<(String, &'static str)> {
    state
        .servers
        .iter()
        .map(|server| match server.role {
            Role::Writer => (server.cluster.clone(), "writer"),
            Role::Replica => (server.cluster.clone(), "reader"),
        })
        .collect()
}

/// Chooses where the endpoints are; no other lab chooses the same until the second
/// result is dropped.
fn choose_addresses(
    state: &State,
    options: &GatewayOptions,
) -> Result<(Vec<Endpoint>, Option<TcpListener>), LabError> {
    let names = endpoint_names(state);
    let relayed = state.latency_us > 0;
    if options.single_address {
        return Ok((on_one_address(&names, relayed, options.port)?, None));
    }
    let chosen = ports::free_ports(1)?;
    let candidates: Vec<u16> = match options.port {
        Some(port) => vec![port],
        None => std::iter::once(GUIDE_PORT).chain(chosen).collect(),
    };
    for port in &candidates {
        if ports::take("127.0.251.1", *port).is_none() {
            // Taken on every address (0.0.0.0).
            continue;
        }
        for block in 0..=250_u8 {
            let host = |octet: u8| format!("127.0.{block}.{octet}");
            let Some(reservation) = ports::take(&host(RESERVED_OCTET), *port) else {
                continue;
            };
            let endpoints = endpoints_of_block(&names, relayed, *port, &host);
            let all_free = endpoints.iter().all(|endpoint| {
                [&endpoint.address, &endpoint.listen]
                    .iter()
                    .all(|address| ports::take(&address.host, address.port).is_some())
            });
            if all_free {
                return Ok((endpoints, Some(reservation)));
            }
        }
    }
    Err(LabError::Invalid(format!(
        "no loopback addresses 127.0.x.2 to 127.0.x.5 are free on port {}; \
         choose another with --gateway-port",
        candidates.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
    )))
}

/// users writer .2, users reader .3, orders writer .4, orders reader .5.
fn endpoints_of_block(
    names: &[(String, &'static str)],
    relayed: bool,
    port: u16,
    host: &dyn Fn(u8) -> String,
) -> Vec<Endpoint> {
    names
        .iter()
        .zip(0_u8..)
        .map(|((cluster, kind), index)| {
            let address = Address::new(host(PUBLIC_OCTET + index), port);
            let listen = if relayed {
                Address::new(host(BEHIND_RELAY_OCTET + index), port)
            } else {
                address.clone()
            };
            endpoint(cluster, kind, address, listen)
        })
        .collect()
}

fn on_one_address(
    names: &[(String, &'static str)],
    relayed: bool,
    first_port: Option<u16>,
) -> Result<Vec<Endpoint>, LabError> {
    let free = ports::free_ports(names.len() * 2)?;
    let (public, behind) = free.split_at(names.len());
    let endpoints = names.iter().zip(0_u16..).zip(public).zip(behind);
    Ok(endpoints
        .map(|((((cluster, kind), index), public), behind)| {
            let port = first_port.map_or(*public, |first| first.saturating_add(index));
            let address = Address::new("127.0.0.1", port);
            let listen = if relayed { Address::new("127.0.0.1", *behind) } else { address.clone() };
            endpoint(cluster, kind, address, listen)
        })
        .collect())
}

fn endpoint(cluster: &str, kind: &str, address: Address, listen: Address) -> Endpoint {
    Endpoint {
        name: format!("{cluster}-{kind}"),
        cluster: cluster.into(),
        endpoint: kind.into(),
        address,
        listen,
    }
}

/// The gateway's configuration file.
fn configuration(
    state: &State,
    gateway: &Gateway,
    settings: &[(String, String)],
) -> Result<String, LabError> {
    let mut extra: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for (name, value) in settings {
        let (section, key) = name.rsplit_once('.').ok_or_else(|| {
            LabError::Invalid(format!("{name:?}: a setting is section.key, as limits.x"))
        })?;
        extra.entry(section).or_default().insert(key, toml_value(value));
    }
    extra.entry("gateway").or_default();
    let gateway_keys = extra.remove("gateway").unwrap_or_default();

    let mut text = String::from("# Written by pgspan lab; it is overwritten by the next one.\n");
    text.push_str("[gateway]\nauth_file = \"userlist.txt\"\n");
    for (key, value) in gateway_keys {
        text.push_str(&format!("{key} = {value}\n"));
    }
    let clusters: std::collections::BTreeSet<&str> =
        state.servers.iter().map(|server| server.cluster.as_str()).collect();
    for cluster in clusters {
        text.push_str(&format!("\n[clusters.{cluster}]\n"));
        for server in state.servers.iter().filter(|one| one.cluster == cluster) {
            let key = match server.role {
                Role::Writer => "writer",
                Role::Replica => "reader",
            };
            text.push_str(&format!("{key} = \"{}\"\n", server.link));
        }
        if let Some(keys) = extra.remove(format!("clusters.{cluster}").as_str()) {
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
    }
    for endpoint in &gateway.endpoints {
        text.push_str(&format!(
            "\n[[listeners]]\nlisten = \"{}\"\ncluster = \"{}\"\nendpoint = \"{}\"\n",
            endpoint.listen, endpoint.cluster, endpoint.endpoint
        ));
        if endpoint.address != endpoint.listen {
            text.push_str(&format!("advertised = [\"{}\"]\n", endpoint.address));
        }
    }
    for (section, keys) in extra {
        text.push_str(&format!("\n[{section}]\n"));
        for (key, value) in keys {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    Ok(text)
}

/// A value as TOML: numbers, booleans, arrays and quoted strings as they are,
/// anything else as a string.
fn toml_value(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok();
    let is_literal = matches!(text, "true" | "false") || text.starts_with(['"', '\'', '[', '{']);
    if is_number || is_literal {
        text.to_string()
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_become_toml() {
        for (text, toml) in [
            ("1", "1"),
            ("true", "true"),
            ("64MB", "\"64MB\""),
            ("\"x\"", "\"x\""),
            ("[1, 2]", "[1, 2]"),
            ("a\"b", "\"a\\\"b\""),
        ] {
            assert_eq!(toml_value(text), toml);
        }
    }

    #[test]
    fn endpoints_have_addresses_of_their_own() {
        let names = vec![
            ("users".to_string(), "writer"),
            ("users".to_string(), "reader"),
            ("orders".to_string(), "writer"),
        ];
        let host = |octet: u8| format!("127.0.7.{octet}");
        let plain = endpoints_of_block(&names, false, 5432, &host);
        assert_eq!(plain[2].name, "orders-writer");
        assert_eq!(plain[2].address.to_string(), "127.0.7.4:5432");
        assert_eq!(plain[2].listen, plain[2].address);
        let relayed = endpoints_of_block(&names, true, 5432, &host);
        assert_eq!(relayed[1].listen.to_string(), "127.0.7.13:5432");
    }
}
