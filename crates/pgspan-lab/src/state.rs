//! The lab's state file: what was started, where, and as which process.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::account::write_private;

/// The name of the state file in a lab's directory.
pub(crate) const STATE_FILE: &str = "state.json";
/// The names that a lab may create in its directory; nothing else is deleted.
pub(crate) const OWN_FILES: &[&str] =
    &["servers", "logs", "pgspan.toml", "userlist.txt", STATE_FILE, "lock"];

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Numeric address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// An address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl std::str::FromStr for Address {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Address, LabError> {
        text.rsplit_once(':')
            .and_then(|(host, port)| Some(Address::new(host, port.parse().ok()?)))
            .ok_or_else(|| LabError::Invalid(format!("{text:?} is not HOST:PORT")))
    }
}

/// Whether a server takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The primary.
    Writer,
    /// A hot standby.
    Replica,
}

/// One PostgreSQL server of the lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// `users-writer`, `users-replica`, `orders-writer`, `orders-replica`.
    pub name: String,
    /// `users` or `orders`.
    pub cluster: String,
    /// Writer or replica.
    pub role: Role,
    /// Where the server itself listens.
    pub address: Address,
    /// How others reach it: through the delaying relay if there is one, else
    /// the same as `address`.
    pub link: Address,
    /// The database of the guide that it holds.
    pub database: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

/// A process of the lab that is not a PostgreSQL server: relays, the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Helper {
    /// `relay`, `gateway`, `gateway-relay`.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in the system's own notation; with the pid it
    /// identifies the process.
    pub started: String,
    /// Where it listens.
    pub listen: Vec<Address>,
    /// Its log.
    pub log: PathBuf,
}

/// How far the lab has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being started; whoever finds this without its starter cleans up.
    Starting,
    /// Up.
    Ready,
}

/// All that is known of a lab; the content of its state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// How far the lab has come.
    pub phase: Phase,
    /// The lab's directory.
    pub dir: PathBuf,
    /// The parent of the data directories.
    pub data_root: PathBuf,
    /// The private directory of the Unix sockets.
    pub socket_dir: PathBuf,
    /// The directory of PostgreSQL's programs.
    pub postgres_bin: PathBuf,
    /// PostgreSQL's version, for example `15.14`.
    pub postgres_version: String,
    /// The superuser, `postgres`.
    pub user: String,
    /// Its random password.
    pub password: String,
    /// Round-trip time on every link, in microseconds.
    pub latency_us: u64,
    /// The servers.
    pub servers: Vec<Server>,
    /// Relays and the gateway.
    pub helpers: Vec<Helper>,
    /// The gateway's endpoints, once one was started.
    pub gateway: Option<crate::Gateway>,
}

impl State {
    /// Reads the state file of the lab in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<State, LabError> {
        let path = dir.join(STATE_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LabError::NotFound { dir: dir.into() });
            }
            Err(error) => return Err(LabError::io(format!("reading {}", path.display()))(error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            LabError::Invalid(format!(
                "{}: not a state file of this version of the lab: {error}",
                path.display()
            ))
        })
    }

    /// Writes the state file; readers see the old or the new one, never half.
    pub(crate) fn write(&self) -> Result<(), LabError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| LabError::Invalid(format!("state file: {error}")))?;
        let temporary = self.dir.join("state.json.new");
        write_private(&temporary, text.as_bytes())?;
        fs::rename(&temporary, self.dir.join(STATE_FILE))
            .map_err(LabError::io("replacing the state file"))
    }

    /// The server of that name.
    pub fn server(&self, name: &str) -> Result<&Server, LabError> {
        self.servers
            .iter()
            .find(|server| server.name == name)
            .ok_or_else(|| LabError::Invalid(format!("the lab has no server {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_read_back() {
        let address: Address = "127.0.0.2:5432".parse().unwrap();
        assert_eq!(address, Address::new("127.0.0.2", 5432));
        assert_eq!(address.to_string(), "127.0.0.2:5432");
        assert!("127.0.0.2".parse::<Address>().is_err());
        assert!("h:99999".parse::<Address>().is_err());
    }
}
