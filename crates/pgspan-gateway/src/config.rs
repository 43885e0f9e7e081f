//! The configuration: one TOML file. Unknown keys are errors that name the line and
//! the nearest known key. Every limit has its unit in its name.

use ipnet::IpNet;
use pgspan_pool::{Reach, TcpLimits};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The gateway itself.
    #[serde(default)]
    pub gateway: GatewayConfig,
    /// Database systems by name.
    pub clusters: BTreeMap<String, ClusterConfig>,
    /// Addresses that clients connect to.
    pub listeners: Vec<ListenerConfig>,
    /// Bounds on queues, waits and sizes.
    #[serde(default)]
    pub limits: Limits,
}

/// Which snapshot is taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotOrder {
    /// Home's snapshot, then the sources': postgres_fdw's order.
    #[default]
    HomeFirst,
    /// Both at once: one round trip less; see docs/compatibility.md for what it gives up.
    Parallel,
}

/// Settings of the gateway itself.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Users and secrets, in the format of PgBouncer's `auth_file`; relative to this file.
    pub auth_file: Option<PathBuf>,
    /// Name of an environment variable that holds the same, instead of a file.
    pub auth_env: Option<String>,
    /// Which snapshot is taken first.
    pub snapshot_order: SnapshotOrder,
    /// Certificate chain for clients' TLS, PEM; relative to this file.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM; relative to this file.
    pub tls_key: Option<PathBuf>,
    /// Networks that sources may be in, as `10.0.0.0/8`. By default all but the addresses of
    /// this machine, of its link, and those by which a cloud tells a machine its secrets,
    /// unless home's address is of the same kind. What is elsewhere is home's to reach.
    pub source_networks: Option<Vec<String>>,
    /// Files that foreign servers may name as their `sslrootcert`, exactly as they name them.
    /// No other one is read: where one is named, home connects itself.
    pub source_root_certificates: Vec<PathBuf>,
    /// Whether a server that asks for a password in clear text, or hashed by MD5, gets it
    /// over a connection that is not encrypted.
    pub plain_passwords: bool,
    /// Threads that serve sessions; by default half of the cores, at least one.
    pub worker_threads: Option<usize>,
    /// Whether cross-database queries are accelerated (`false`: everything is relayed).
    pub accelerate: Option<bool>,
}

/// One database system.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// `host:port` of the writer endpoint.
    pub writer: String,
    /// `host:port` of the reader endpoint, if there is one.
    #[serde(default)]
    pub reader: Option<String>,
    /// libpq's `sslmode` towards its servers (default `prefer`).
    #[serde(default)]
    pub sslmode: Option<String>,
    /// Root certificates for `verify-ca` and `verify-full`, PEM; relative to this file.
    #[serde(default)]
    pub sslrootcert: Option<PathBuf>,
}

/// Which endpoint of a cluster a listener leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointKind {
    /// The primary.
    Writer,
    /// A replica.
    Reader,
}

/// Whether clients must encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ListenerTls {
    /// Those who ask for it get it, where there is a certificate.
    #[default]
    Allow,
    /// Nobody else is let in.
    Require,
}

/// An address that clients connect to.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// Name of a cluster.
    pub cluster: String,
    /// Its endpoint.
    pub endpoint: EndpointKind,
    /// Whether clients must encrypt.
    #[serde(default)]
    pub tls: ListenerTls,
    /// Other `host:port`s by which clients and servers know this endpoint (a load
    /// balancer, the endpoint's DNS name): a foreign server that names one of them is
    /// reached directly instead of through this gateway.
    #[serde(default)]
    pub advertised: Vec<String>,
}

/// Bounds. Every error that a limit causes names it in its hint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Clients at the same time.
    pub client_connections_max: usize,
    /// Connections to one source server, all roles and databases together.
    pub source_connections_max: usize,
    /// Wait for one of them, in ms; after that home runs the statement itself.
    pub source_wait_ms_max: u64,
    /// Idle connections to sources are closed after this long, in s.
    pub source_idle_s_max: u64,
    /// A home connection is reset when its client leaves, and kept this long for the next
    /// with the same role, database and startup parameters, in s; 0 closes it.
    pub home_idle_s_max: u64,
    /// Home connections that are kept so at the same time; of one role half of them. For one
    /// more the oldest is closed.
    pub home_idle_max: usize,
    /// Reaching a server and being let in, in ms.
    pub connect_ms_max: u64,
    /// From a client's connect to the first message of its protocol, in ms.
    pub first_message_ms_max: u64,
    /// Connections that have not logged in, at the same time: one more, and the oldest of them
    /// is closed.
    pub logins_max: usize,
    /// A client or server that has sent nothing for so long is asked by TCP keepalive whether
    /// it is there, in s; 0 leaves that to the system.
    pub tcp_keepalive_s: u64,
    /// How long what was sent to a client or to home may remain unacknowledged, or unsent
    /// because it does not read (`TCP_USER_TIMEOUT`), in s; 0 leaves that to the system. A
    /// client whose reader pauses for longer is cut.
    pub session_unacknowledged_s_max: u64,
    /// The same for sources, in s.
    pub source_unacknowledged_s_max: u64,
    /// From a client's connect to the end of its authentication, in ms.
    pub login_ms_max: u64,
    /// Rows that one fetch may bring to home before home runs the statement itself.
    pub home_join_rows_max: u64,
    /// Bytes that all fetches of a statement may bring, likewise.
    pub home_join_bytes_max: usize,
    /// Rows of a fetch above which the engine takes over where it can run the statement.
    pub engine_rows_min: u64,
    /// Pages of 8 KiB from which on a source's table is large: the engine reads it on several
    /// connections, and its source may fold it first or use its parallel workers.
    pub engine_pages_min: u32,
    /// Bytes of rows that home is given at a time, where it computes each row of the answer
    /// by itself: enough that asking home is little beside its work.
    pub engine_part_bytes: usize,
    /// Memory of the engine's operators for one statement, in bytes. A statement that
    /// needs more is run by home itself.
    pub engine_query_bytes_max: usize,
    /// The same for all statements together, in bytes.
    pub engine_bytes_max: usize,
    /// Connections that read one large table of a source at the same time.
    pub engine_streams_max: usize,
    /// Join keys sent to a source.
    pub keys_max: u64,
    /// Longest statement text that is looked at; longer ones are relayed unseen. In bytes.
    pub statement_bytes_max: usize,
    /// While a single statement runs: look for a server's answer this long before
    /// sleeping until it comes, in µs. Rarely done where answers take longer. 0 never does.
    pub busy_poll_us_max: u64,
    /// Plans that are kept, and as many analyzed texts.
    pub plans_max: usize,
    /// Rows of sources that are on their way to home, and clients' batches that are not whole,
    /// of all sessions together, in bytes. A statement for which nothing is left is home's.
    pub held_bytes_max: usize,
    /// Texts of clients' prepared statements, of all sessions together, in bytes. One that is
    /// not remembered is home's when it is executed.
    pub prepared_bytes_max: usize,
    /// All that is remembered from one statement to the next: texts, plans, statements, and
    /// what is known of sources' tables. In bytes.
    pub remembered_bytes_max: usize,
    /// Age after which what is known of home's catalog and of sources is read again, in s.
    pub catalog_s_max: u64,
    /// Open sessions get this long to finish at shutdown, in s.
    pub shutdown_s_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            client_connections_max: 1_000,
            source_connections_max: 8,
            source_wait_ms_max: 5_000,
            source_idle_s_max: 60,
            home_idle_s_max: 0,
            home_idle_max: 50,
            connect_ms_max: 10_000,
            first_message_ms_max: 5_000,
            logins_max: 200,
            tcp_keepalive_s: 60,
            session_unacknowledged_s_max: 0,
            source_unacknowledged_s_max: 90,
            login_ms_max: 30_000,
            home_join_rows_max: 100_000,
            home_join_bytes_max: 64 * 1024 * 1024,
            engine_rows_min: 10_000,
            engine_pages_min: 1024,
            engine_part_bytes: 4 * 1024 * 1024,
            engine_query_bytes_max: 1024 * 1024 * 1024,
            engine_bytes_max: 4 * 1024 * 1024 * 1024,
            engine_streams_max: 2,
            keys_max: 10_000,
            statement_bytes_max: 256 * 1024,
            busy_poll_us_max: 300,
            plans_max: 1_000,
            held_bytes_max: 1024 * 1024 * 1024,
            prepared_bytes_max: 128 * 1024 * 1024,
            remembered_bytes_max: 128 * 1024 * 1024,
            catalog_s_max: 30,
            shutdown_s_max: 30,
        }
    }
}

impl Limits {
    /// Open files that the gateway may need: one for each login; for each client its connection
    /// and home's, both twice; home's that are kept; and those of sources, which only clients
    /// tell.
    pub fn descriptors(&self) -> u64 {
        /// Listeners, the log, the runtime's own.
        const BESIDE: usize = 64;
        /// Source servers that are reckoned with.
        const SOURCES: usize = 8;
        let sources = SOURCES.saturating_mul(self.source_connections_max);
        let clients = self.client_connections_max.saturating_mul(4);
        let beside = self.logins_max.saturating_add(self.home_idle_max);
        let all = clients.saturating_add(beside).saturating_add(sources);
        u64::try_from(all.saturating_add(BESIDE)).unwrap_or(u64::MAX)
    }

    /// The longest message of a server's that is kept, in bytes: a row that is fetched, and what
    /// is no row at any rate.
    pub(crate) fn message_bytes_max(&self) -> usize {
        /// PostgreSQL's longest description, of 1,600 columns, is shorter.
        const LEAST: usize = 1024 * 1024;
        self.home_join_bytes_max.max(LEAST)
    }

    /// Bounds on the silence of clients and of home.
    pub(crate) fn tcp_of_sessions(&self) -> TcpLimits {
        TcpLimits {
            keepalive: Duration::from_secs(self.tcp_keepalive_s),
            unacknowledged_max: Duration::from_secs(self.session_unacknowledged_s_max),
        }
    }

    /// Bounds on the silence of sources.
    pub(crate) fn tcp_of_sources(&self) -> TcpLimits {
        let unacknowledged_max = Duration::from_secs(self.source_unacknowledged_s_max);
        TcpLimits { unacknowledged_max, ..self.tcp_of_sessions() }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key or value that is not known.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// With line, column, and the nearest known key.
        message: String,
    },
    /// It contradicts itself.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
}

/// Splits `host:port`; IPv6 addresses stand in brackets.
pub fn address(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    Some((host.to_owned(), port.parse().ok()?))
}

/// Reads a network, or one address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Config {
    /// Reads and checks a file; relative paths in it become relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and, where possible, the line.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::read(&text, path)
    }

    /// As [`Config::load`], from text that is already there.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            message: with_suggestion(&e.to_string()),
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        let absolute = |p: &mut Option<PathBuf>| {
            if let Some(p) = p.as_mut().filter(|p| p.is_relative()) {
                *p = base.join(&*p);
            }
        };
        absolute(&mut config.gateway.auth_file);
        absolute(&mut config.gateway.tls_certificate);
        absolute(&mut config.gateway.tls_key);
        config.clusters.values_mut().for_each(|c| absolute(&mut c.sslrootcert));
        config
            .check()
            .map_err(|message| ConfigError::Invalid { path: path.to_owned(), message })?;
        Ok(config)
    }

    /// Which addresses sources may have that home, at this host and port, is told of.
    pub(crate) fn reach(&self, home: (&str, u16)) -> Reach {
        match &self.gateway.source_networks {
            Some(networks) => Reach::Within(networks.iter().flat_map(|n| network(n)).collect()),
            None => Reach::Beside(home.0.to_owned(), home.1),
        }
    }

    /// The settings in which this differs from another configuration and that hold from the
    /// start of a gateway to its end.
    pub(crate) fn differs_for_the_next_start(&self, other: &Config) -> Vec<&'static str> {
        let (own, others) = (&self.limits, &other.limits);
        [
            ("gateway.worker_threads", self.gateway.worker_threads != other.gateway.worker_threads),
            (
                "limits.source_connections_max",
                own.source_connections_max != others.source_connections_max,
            ),
            ("limits.source_wait_ms_max", own.source_wait_ms_max != others.source_wait_ms_max),
            ("limits.home_idle_s_max", own.home_idle_s_max != others.home_idle_s_max),
            ("limits.home_idle_max", own.home_idle_max != others.home_idle_max),
            ("limits.engine_bytes_max", own.engine_bytes_max != others.engine_bytes_max),
            ("limits.plans_max", own.plans_max != others.plans_max),
            ("limits.held_bytes_max", own.held_bytes_max != others.held_bytes_max),
            ("limits.prepared_bytes_max", own.prepared_bytes_max != others.prepared_bytes_max),
            (
                "limits.remembered_bytes_max",
                own.remembered_bytes_max != others.remembered_bytes_max,
            ),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    fn check(&self) -> Result<(), String> {
        for text in self.gateway.source_networks.iter().flatten() {
            network(text).ok_or(format!(
                "gateway.source_networks: {text:?} is not a network (an address, or 10.0.0.0/8)"
            ))?;
        }
        for (name, c) in &self.clusters {
            for a in std::iter::once(&c.writer).chain(&c.reader) {
                address(a).ok_or(format!("clusters.{name}: {a:?} is not host:port"))?;
            }
            if let Some(mode) = &c.sslmode {
                pgspan_pool::SslMode::parse(mode)
                    .ok_or(format!("clusters.{name}.sslmode: {mode:?} is not known"))?;
            }
        }
        if self.listeners.is_empty() {
            return Err("listeners: there is none, so no client could connect".to_owned());
        }
        for (i, l) in self.listeners.iter().enumerate() {
            for a in std::iter::once(&l.listen).chain(&l.advertised) {
                address(a).ok_or(format!("listeners[{i}]: {a:?} is not host:port"))?;
            }
            let Some(cluster) = self.clusters.get(&l.cluster) else {
                let known: Vec<_> = self.clusters.keys().map(String::as_str).collect();
                return Err(format!(
                    "listeners[{i}].cluster: there is no cluster {:?} (known: {})",
                    l.cluster,
                    known.join(", ")
                ));
            };
            if l.endpoint == EndpointKind::Reader && cluster.reader.is_none() {
                return Err(format!(
                    "listeners[{i}].endpoint: cluster {:?} has no reader",
                    l.cluster
                ));
            }
        }
        if self.gateway.auth_file.is_none() && self.gateway.auth_env.is_none() {
            return Err("gateway: give auth_file or auth_env, or no client could log in".to_owned());
        }
        if self.gateway.tls_certificate.is_some() != self.gateway.tls_key.is_some() {
            return Err("gateway: tls_certificate and tls_key go together".to_owned());
        }
        let requires = self.listeners.iter().position(|l| l.tls == ListenerTls::Require);
        if let Some(i) = requires.filter(|_| self.gateway.tls_certificate.is_none()) {
            return Err(format!(
                "listeners[{i}].tls: \"require\" needs gateway.tls_certificate and tls_key"
            ));
        }
        let l = &self.limits;
        let zero = [
            ("client_connections_max", l.client_connections_max == 0),
            ("source_connections_max", l.source_connections_max == 0),
            ("plans_max", l.plans_max == 0),
            ("connect_ms_max", l.connect_ms_max == 0),
            ("login_ms_max", l.login_ms_max == 0),
            ("first_message_ms_max", l.first_message_ms_max == 0),
            ("logins_max", l.logins_max == 0),
        ];
        match zero.iter().find(|(_, z)| *z) {
            Some((name, _)) => Err(format!("limits.{name}: must be at least 1")),
            None => Ok(()),
        }
    }

    /// The JSON Schema of the file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Config).to_value()
    }
}

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let Some(at) = message.find("unknown field `") else {
        return message.to_owned();
    };
    let names: Vec<&str> = message[at..].split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = names.split_first() else {
        return message.to_owned();
    };
    let near = known.iter().map(|k| (distance(unknown, k), *k)).min();
    match near {
        Some((d, name)) if d <= unknown.len().max(4) / 2 => {
            format!("{}\ndid you mean `{name}`?", message.trim_end())
        }
        _ => message.to_owned(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: &str = "[gateway]\nauth_file = \"u.txt\"\n[clusters.a]\nwriter = \"h:1\"\n[[listeners]]\nlisten = \"127.0.0.1:2\"\ncluster = \"a\"\nendpoint = \"writer\"\n";

    fn read(text: &str) -> Result<Config, ConfigError> {
        Config::read(text, Path::new("/etc/pgspan.toml"))
    }

    #[test]
    fn a_good_file_is_read() {
        let c = read(GOOD).unwrap();
        assert_eq!(c.gateway.auth_file.as_deref(), Some(Path::new("/etc/u.txt")));
        assert_eq!(c.limits.source_connections_max, 8);
    }

    #[test]
    fn an_unknown_key_gets_line_and_suggestion() {
        let e = read(&GOOD.replace("endpoint", "endpont")).unwrap_err().to_string();
        assert!(e.contains("line 8") && e.contains("did you mean `endpoint`?"), "{e}");
    }

    #[test]
    fn contradictions_are_named() {
        let e = read(&GOOD.replace("cluster = \"a\"", "cluster = \"b\"")).unwrap_err();
        assert!(e.to_string().contains("there is no cluster \"b\" (known: a)"), "{e}");
        let e = read(&GOOD.replace("\"writer\"", "\"reader\"")).unwrap_err();
        assert!(e.to_string().contains("has no reader"), "{e}");
        assert!(read(&GOOD.replace("h:1", "h")).is_err());
        let e = read(&GOOD.replace("[clusters", "source_networks = [\"10/8\"]\n[clusters"));
        assert!(e.unwrap_err().to_string().contains("is not a network"));
        let e = read(&format!("{GOOD}tls = \"require\"\n")).unwrap_err();
        assert!(e.to_string().contains("needs gateway.tls_certificate"), "{e}");
    }
}
