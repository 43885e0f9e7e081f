//! Listeners, shared state, shutdown.

use crate::auth::Users;
use crate::budget::Budget;
use crate::config::{self, Config, EndpointKind, Limits};
use crate::databases::Databases;
use crate::files;
use crate::handshake;
use crate::lobby::Lobby;
use crate::logins::Failures;
use crate::routes::Routes;
use crate::session::cancel::CancelRegistry;
use crate::sources::Sources;
use crate::sources::kept::KeptCounts;
use crate::spare::Spare;
use pgspan_pool::{ConnectOptions, Reach, RootCertificates, SslMode};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A listener's address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Cause.
        source: std::io::Error,
    },
    /// Users and secrets cannot be read.
    #[error("{0}")]
    Auth(String),
    /// A configuration that is read anew has other listeners.
    #[error("listeners: their `listen` addresses change at a start only")]
    ListenersDiffer,
    /// A certificate or key for TLS cannot be used.
    #[error("TLS: {0}")]
    Tls(std::io::Error),
}

/// One endpoint of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub cluster: String,
    pub host: String,
    pub port: u16,
    pub ssl_mode: SslMode,
    pub ssl_roots: Option<RootCertificates>,
    /// Clients must encrypt.
    pub tls_required: bool,
}

/// What a session is served under: the configuration, as it was read when the session began,
/// and what all sessions share.
pub(crate) struct Shared {
    pub config: Config,
    pub users: Users,
    /// What foreign servers may name as their `sslrootcert`.
    pub source_roots: HashMap<PathBuf, RootCertificates>,
    pub tls: Option<TlsAcceptor>,
    /// Where each listener leads.
    endpoints: Vec<Arc<Endpoint>>,
    /// Addresses that lead to this gateway, and the server behind each.
    pub own_addresses: HashMap<(String, u16), Endpoint>,
    common: Arc<Common>,
}

impl Deref for Shared {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

/// What all sessions share, whatever configuration they began under.
pub(crate) struct Common {
    /// Logins that failed.
    pub failures: Failures,
    /// Connections that have not logged in.
    pub lobby: Arc<Lobby>,
    /// Rows of sources and batches of clients that are held.
    pub held: Arc<Budget>,
    /// Texts that clients have prepared.
    pub prepared: Arc<Budget>,
    pub routes: Routes,
    pub cancels: CancelRegistry,
    pub sources: Sources,
    pub spare: Spare,
    pub clients: AtomicUsize,
    /// What the engine runs now.
    pub progress: crate::progress::Running,
    /// Statements of the straight line that run now.
    pub running: AtomicUsize,
    pub closing: watch::Receiver<bool>,
    pub databases: Databases,
}

impl Common {
    fn new(limits: &Limits, closing: watch::Receiver<bool>) -> Common {
        Common {
            failures: Failures::default(),
            lobby: Arc::default(),
            held: Budget::new(limits.held_bytes_max),
            prepared: Budget::new(limits.prepared_bytes_max),
            routes: Routes::default(),
            cancels: CancelRegistry::default(),
            sources: Sources::new(limits),
            spare: Spare::new(Duration::from_secs(limits.home_idle_s_max), limits.home_idle_max),
            clients: AtomicUsize::new(0),
            progress: crate::progress::Running::default(),
            running: AtomicUsize::new(0),
            closing,
            databases: Databases::default(),
        }
    }

    /// What memory is in use for, and its bounds.
    pub fn memory(&self) -> Vec<KeptCounts> {
        let engine = (self.sources.engine_budget.used(), self.sources.engine_budget.bytes_max());
        let beside = [
            ("prepared texts of clients", self.prepared.counts()),
            ("rows and batches that are held", self.held.counts()),
            ("operators of the engine", engine),
        ];
        let beside = beside.into_iter().map(|(what, (bytes, bytes_max))| KeptCounts {
            what,
            entries: None,
            bytes,
            bytes_max,
        });
        self.sources.remembered().into_iter().chain(beside).collect()
    }
}

impl Shared {
    fn new(config: Config, named: Named, common: Arc<Common>) -> Shared {
        let Named { users, tls, source_roots, endpoints } = named;
        let mut own_addresses = HashMap::new();
        for (l, endpoint) in config.listeners.iter().zip(&endpoints) {
            for a in std::iter::once(&l.listen).chain(&l.advertised) {
                own_addresses.extend(config::address(a).map(|a| (a, endpoint.clone())));
            }
        }
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        Shared { config, users, source_roots, tls, endpoints, own_addresses, common }
    }

    /// Options for a session's own server connection.
    pub fn connect_options(&self, endpoint: &Endpoint) -> ConnectOptions {
        ConnectOptions {
            addresses: vec![(endpoint.host.clone(), endpoint.port)],
            database: String::new(),
            user: String::new(),
            password: None,
            scram_keys: None,
            parameters: Vec::new(),
            ssl_mode: endpoint.ssl_mode,
            ssl_roots: endpoint.ssl_roots.clone(),
            reach: Reach::Anywhere,
            plain_password: self.config.gateway.plain_passwords,
            message_bytes_max: self.config.limits.message_bytes_max(),
            tcp: self.config.limits.tcp_of_sessions(),
            timeout: Duration::from_millis(self.config.limits.connect_ms_max),
            on_connect: String::new(),
        }
    }
}

/// A running gateway. Dropping it stops the listeners; [`Gateway::shutdown`] also
/// waits for the sessions.
pub struct Gateway {
    current: Current,
    closing: watch::Sender<bool>,
    addresses: Vec<SocketAddr>,
}

/// What sessions that begin now are served under.
type Current = Arc<Mutex<Arc<Shared>>>;

fn current(current: &Current) -> Arc<Shared> {
    current.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Gateway {
    /// Starts listening. Runs on the current tokio runtime.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start(config: Config) -> Result<Gateway, GatewayError> {
        let named = Named::read(&config)?;
        named.endpoints.iter().for_each(warn_of_plain);
        let (closing, closed) = watch::channel(false);
        let mut bound = Vec::new();
        for l in &config.listeners {
            let fail = |source| GatewayError::Listen { address: l.listen.clone(), source };
            bound.push(TcpListener::bind(&l.listen).await.map_err(fail)?);
        }
        let common = Arc::new(Common::new(&config.limits, closed));
        let current: Current = Arc::new(Mutex::new(Arc::new(Shared::new(config, named, common))));
        let addresses = bound.iter().filter_map(|l| l.local_addr().ok()).collect();
        for (number, listener) in bound.into_iter().enumerate() {
            tokio::spawn(accept(listener, number, current.clone()));
        }
        tokio::spawn(reap(current.clone()));
        Ok(Gateway { current, closing, addresses })
    }

    /// Takes another configuration for the sessions that begin from now on; those that are
    /// open keep theirs. Gives the settings that differ and hold from the next start only.
    ///
    /// # Errors
    /// [`GatewayError`]; everything stays as it was.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, GatewayError> {
        let old = current(&self.current);
        let listens = |c: &Config| c.listeners.iter().map(|l| l.listen.clone()).collect::<Vec<_>>();
        if listens(&config) != listens(&old.config) {
            return Err(GatewayError::ListenersDiffer);
        }
        let named = Named::read(&config)?;
        named.endpoints.iter().for_each(warn_of_plain);
        let later = config.differs_for_the_next_start(&old.config);
        let new = Arc::new(Shared::new(config, named, old.common.clone()));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(later)
    }

    /// The addresses listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        current(&self.current).clients.load(Ordering::Relaxed)
    }

    /// Stops taking clients, lets sessions finish what they run, and waits for them
    /// within `limits.shutdown_s_max`. Gives the number of sessions that had to be cut.
    pub async fn shutdown(self) -> usize {
        let _nobody_listens = self.closing.send(true);
        let bound = Duration::from_secs(current(&self.current).config.limits.shutdown_s_max);
        let end = Instant::now() + bound;
        while self.clients() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.clients()
    }
}

/// What the configuration names, read from its files.
struct Named {
    users: Users,
    tls: Option<TlsAcceptor>,
    source_roots: HashMap<PathBuf, RootCertificates>,
    /// One for each listener.
    endpoints: Vec<Endpoint>,
}

impl Named {
    fn read(config: &Config) -> Result<Named, GatewayError> {
        let tls = match (&config.gateway.tls_certificate, &config.gateway.tls_key) {
            (Some(certificate), Some(key)) => {
                let certificate = files::read(certificate).map_err(GatewayError::Tls)?;
                let key = files::read(key).map_err(GatewayError::Tls)?;
                let acceptor = pgspan_pool::stream::acceptor(&certificate, &key);
                Some(acceptor.map_err(GatewayError::Tls)?)
            }
            _ => None,
        };
        let source_roots = config.gateway.source_root_certificates.iter();
        Ok(Named {
            users: read_users(config)?,
            tls,
            source_roots: source_roots
                .map(|file| Ok((file.clone(), roots(file)?)))
                .collect::<Result<_, GatewayError>>()?,
            endpoints: config
                .listeners
                .iter()
                .map(|l| endpoint(config, l))
                .collect::<Result<_, GatewayError>>()?,
        })
    }
}

/// Reads the files that a configuration names, as [`Gateway::start`] does, and listens on
/// nothing.
///
/// # Errors
/// [`GatewayError`].
pub fn check_files(config: &Config) -> Result<(), GatewayError> {
    Named::read(config).map(drop)
}

fn roots(file: &Path) -> Result<RootCertificates, GatewayError> {
    let named = |error| {
        let text = format!("{}: {error}", file.display());
        GatewayError::Tls(std::io::Error::other(text))
    };
    let pem = files::read(file).map_err(GatewayError::Tls)?;
    RootCertificates::new(file, &pem).map_err(named)
}

/// Rows and what is said at logins may go in clear text.
fn warn_of_plain(endpoint: &Endpoint) {
    let here = endpoint.host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
    if matches!(endpoint.ssl_mode, SslMode::Disable | SslMode::Prefer) && !here {
        tracing::warn!(
            cluster = endpoint.cluster,
            host = endpoint.host,
            "connections to this server may go unencrypted: set the cluster's sslmode to \
             \"require\", or better \"verify-full\""
        );
    }
}

fn endpoint(config: &Config, listener: &config::ListenerConfig) -> Result<Endpoint, GatewayError> {
    // `Config::check` has seen to it that all of this is there.
    let cluster = config.clusters.get(&listener.cluster);
    let text = cluster.map(|c| match listener.endpoint {
        EndpointKind::Writer => c.writer.as_str(),
        EndpointKind::Reader => c.reader.as_deref().unwrap_or(&c.writer),
    });
    let (host, port) = text.and_then(config::address).unwrap_or_default();
    let certificates = cluster.and_then(|c| c.sslrootcert.as_deref());
    Ok(Endpoint {
        cluster: listener.cluster.clone(),
        host,
        port,
        ssl_mode: cluster
            .and_then(|c| c.sslmode.as_deref())
            .and_then(SslMode::parse)
            .unwrap_or_default(),
        ssl_roots: certificates.map(roots).transpose()?,
        tls_required: listener.tls == config::ListenerTls::Require,
    })
}

fn read_users(config: &Config) -> Result<Users, GatewayError> {
    let text = match (&config.gateway.auth_file, &config.gateway.auth_env) {
        (Some(path), _) => files::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|e| GatewayError::Auth(e.to_string()))?,
        (None, Some(name)) => std::env::var(name)
            .map_err(|_| GatewayError::Auth(format!("environment variable {name} is not set")))?,
        (None, None) => String::new(),
    };
    Users::parse(&text).map_err(GatewayError::Auth)
}

async fn accept(listener: TcpListener, number: usize, gateway: Current) {
    let mut closing = current(&gateway).closing.clone();
    loop {
        let accepted = tokio::select! {
            a = listener.accept() => a,
            _ = closing.wait_for(|c| *c) => return,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let shared = current(&gateway);
                let Some(endpoint) = shared.endpoints.get(number).cloned() else { return };
                let place = shared.lobby.enter(shared.config.limits.logins_max);
                tokio::spawn(handshake::serve(tcp, peer, endpoint, shared, place));
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One of `limits.client_connections_max`, until it is dropped.
pub(crate) struct Admission(Arc<Shared>);

impl Admission {
    /// `None`: all are taken.
    pub fn new(shared: &Arc<Shared>) -> Option<Admission> {
        let max = shared.config.limits.client_connections_max;
        let one_more = |n: usize| (n < max).then_some(n + 1);
        let taken = shared.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Admission(shared.clone()))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn reap(gateway: Current) {
    let mut closing = current(&gateway).closing.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {
                let shared = current(&gateway);
                let age = Duration::from_secs(shared.config.limits.source_idle_s_max);
                shared.sources.pools.reap(age);
                shared.spare.reap();
            }
            _ = closing.wait_for(|c| *c) => return,
        }
    }
}
