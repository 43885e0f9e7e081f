//! How a lab is doing.

use serde::Serialize;

use crate::{Address, Lab, Role, cleanup, server};

/// The state of one server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its process, when it runs.
    pub pid: Option<u32>,
    /// Whether it runs.
    pub up: bool,
    /// A replica's distance from its writer, in bytes of WAL not yet replayed.
    pub lag_bytes: Option<u64>,
    /// The same as time, in milliseconds, when the writer has measured it lately.
    pub lag_ms: Option<f64>,
}

/// The state of a relay or of the gateway.
#[derive(Debug, Clone, Serialize)]
pub struct HelperStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: Vec<Address>,
    /// Its process.
    pub pid: u32,
    /// Whether it runs.
    pub up: bool,
}

/// The state of a lab.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Whether everything that was started runs.
    pub up: bool,
    /// PostgreSQL's version.
    pub postgres_version: String,
    /// Round-trip time on every link, in microseconds.
    pub latency_us: u64,
    /// The servers.
    pub servers: Vec<ServerStatus>,
    /// Relays and the gateway.
    pub helpers: Vec<HelperStatus>,
}

impl Lab {
    /// Looks at every process of the lab and asks the writers about their replicas.
    pub fn status(&self) -> Status {
        let state = self.state();
        let servers: Vec<ServerStatus> = state
            .servers
            .iter()
            .map(|one| {
                let pid = server::running_pid(&one.data);
                let lag = match (pid, one.role) {
                    (Some(_), Role::Replica) => self.lag(&one.cluster),
                    _ => None,
                };
                ServerStatus {
                    name: one.name.clone(),
                    address: one.address.clone(),
                    pid,
                    up: pid.is_some(),
                    lag_bytes: lag.map(|(bytes, _)| bytes),
                    lag_ms: lag.and_then(|(_, ms)| ms),
                }
            })
            .collect();
        let helpers: Vec<HelperStatus> = state
            .helpers
            .iter()
            .map(|one| HelperStatus {
                name: one.name.clone(),
                listen: one.listen.clone(),
                pid: one.pid,
                up: cleanup::helper_runs(one),
            })
            .collect();
        Status {
            up: servers.iter().all(|one| one.up) && helpers.iter().all(|one| one.up),
            postgres_version: state.postgres_version.clone(),
            latency_us: state.latency_us,
            servers,
            helpers,
        }
    }

    /// Bytes and milliseconds by which the cluster's replica is behind.
    fn lag(&self, cluster: &str) -> Option<(u64, Option<f64>)> {
        let writer = self.server(&format!("{cluster}-writer")).ok()?;
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, \
                   extract(epoch FROM replay_lag) * 1000 \
                   FROM pg_stat_replication WHERE state = 'streaming'";
        let row = self.psql(writer, "postgres", sql).ok()?;
        let (bytes, ms) = row.lines().next()?.split_once('|')?;
        let bytes = bytes.parse::<i64>().ok()?;
        Some((u64::try_from(bytes).unwrap_or(0), ms.parse().ok()))
    }
}
