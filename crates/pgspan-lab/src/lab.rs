//! A lab's life: start, open, stop.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::account::{Account, free_space, random_hex, short_temp_root};
use crate::cleanup::{all_servers_run, clean_up, end_helper};
use crate::find::{self, Postgres};
use crate::process::{self, FileLock};
use crate::relay::Relay;
use crate::server::{self, Starter};
use crate::start::{plan, start_cluster};
use crate::watchdog::Watchdog;
use crate::{Address, Helper, LabError, LabOptions, Phase, Server, State};

/// Starts again with other ports when one was lost in between.
const PORT_ATTEMPTS: usize = 3;
/// The superuser of the guide.
const USER: &str = "postgres";
/// Three new clusters and their first WAL need about this much.
const NEEDED_BYTES: u64 = 500_000_000;

/// A lab. One that this process started stops when it is dropped, unless
/// [`Lab::detach`] was called; one that was opened stays.
#[derive(Debug)]
pub struct Lab {
    state: State,
    timeout: Duration,
    relay_command: Option<Vec<std::ffi::OsString>>,
    cancel: Option<&'static AtomicBool>,
    children: Vec<Child>,
    relays: Vec<Relay>,
    watchdog: Option<Watchdog>,
    owned: bool,
    /// Keeps the gateway's addresses from other labs while the gateway is down.
    pub(crate) reservation: Option<TcpListener>,
}

impl Lab {
    /// Starts a lab, after cleaning up what a killed one left in the same
    /// directory. `progress` is told of each step. On error nothing is left.
    pub fn start(options: &LabOptions, progress: &mut dyn FnMut(&str)) -> Result<Lab, LabError> {
        fs::create_dir_all(&options.dir)
            .map_err(LabError::io(format!("creating {}", options.dir.display())))?;
        let dir = fs::canonicalize(&options.dir)
            .map_err(LabError::io(format!("entering {}", options.dir.display())))?;
        let _lock = FileLock::take(&dir.join("lock"), &dir)?;
        match State::read(&dir) {
            Ok(state) => {
                if state.phase == Phase::Ready && all_servers_run(&state) {
                    return Err(LabError::AlreadyRunning { dir });
                }
                progress("cleaning up what an earlier lab left here");
                clean_up(&state);
            }
            Err(LabError::NotFound { .. }) => {
                let in_the_way = dir.join("servers");
                if in_the_way.exists() {
                    return Err(LabError::NotOurs { path: in_the_way });
                }
            }
            Err(error) => return Err(error),
        }
        let mut attempt = 1;
        loop {
            match Lab::start_once(options, &dir, progress) {
                Err(LabError::PortTaken { name, port }) if attempt < PORT_ATTEMPTS => {
                    progress(&format!("{name}: port {port} was taken meanwhile; starting again"));
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    fn start_once(
        options: &LabOptions,
        dir: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Lab, LabError> {
        let began = Instant::now();
        let postgres = Postgres::find(options.postgres_bin.as_deref())?;
        let orders = match options.orders_postgres_bin.as_deref() {
            Some(bin) => Postgres::find(Some(bin))?,
            None => postgres.clone(),
        };
        let account = Account::for_servers()?;
        // An earlier attempt that failed has removed it.
        fs::create_dir_all(dir).map_err(LabError::io(format!("creating {}", dir.display())))?;
        progress(&format!("PostgreSQL {} in {}", postgres.version, postgres.bin.display()));
        if orders.bin != postgres.bin {
            progress(&format!("orders: PostgreSQL {} in {}", orders.version, orders.bin.display()));
        }
        let data_root = if account.can_enter(dir) {
            dir.join("servers")
        } else {
            // Root's own directories are closed to the servers' account.
            PathBuf::from("/var/tmp").join(format!("pgspan-lab-{}", random_hex(6)?))
        };
        let socket_dir = short_temp_root().join(format!("pgspan-{}", random_hex(4)?));
        let state = State {
            phase: Phase::Starting,
            dir: dir.to_path_buf(),
            servers: plan(options, dir, &data_root)?,
            data_root,
            socket_dir,
            postgres_bin: postgres.bin.clone(),
            postgres_version: postgres.version.clone(),
            user: USER.into(),
            password: random_hex(16)?,
            latency_us: u64::try_from(options.latency.as_micros()).unwrap_or(u64::MAX),
            helpers: Vec::new(),
            gateway: None,
        };
        state.write()?;
        let mut lab = Lab {
            timeout: options.start_timeout,
            relay_command: options.relay_command.clone(),
            cancel: options.cancel,
            children: Vec::new(),
            relays: Vec::new(),
            watchdog: Some(Watchdog::start(&state.data_root, &state.socket_dir, dir)?),
            owned: true,
            state,
            reservation: None,
        };
        // From here on, dropping `lab` cleans up.
        account.create_private_dir(&lab.state.data_root)?;
        account.create_private_dir(&lab.state.socket_dir)?;
        let logs = dir.join("logs");
        fs::create_dir_all(&logs).map_err(LabError::io("creating logs"))?;
        if let Some(free) = free_space(&lab.state.data_root)
            && free < NEEDED_BYTES
        {
            return Err(LabError::Invalid(format!(
                "only {} MB are free for {}; a lab needs {} MB",
                free / 1_000_000,
                lab.state.data_root.display(),
                NEEDED_BYTES / 1_000_000
            )));
        }
        lab.start_server_relays(options.latency)?;
        lab.start_servers(options, [&postgres, &orders], account, progress)?;
        lab.state.phase = Phase::Ready;
        lab.state.write()?;
        progress(&format!(
            "{} servers are up ({:.1} s)",
            lab.state.servers.len(),
            began.elapsed().as_secs_f64()
        ));
        Ok(lab)
    }

    fn start_server_relays(&mut self, latency: Duration) -> Result<(), LabError> {
        if latency.is_zero() {
            return Ok(());
        }
        let links: Vec<(Address, Address)> = self
            .state
            .servers
            .iter()
            .map(|server| (server.link.clone(), server.address.clone()))
            .collect();
        self.start_relays("relay", &links)
    }

    /// Starts relays with the lab's latency, in a process of their own or in
    /// threads of this one.
    pub(crate) fn start_relays(
        &mut self,
        name: &str,
        links: &[(Address, Address)],
    ) -> Result<(), LabError> {
        let round_trip = Duration::from_micros(self.state.latency_us);
        let Some(argv) = self.relay_command.clone() else {
            for (from, to) in links {
                self.relays.push(Relay::start(from, to, round_trip)?);
            }
            return Ok(());
        };
        let [program, args @ ..] = argv.as_slice() else {
            return Err(LabError::Invalid("the relay command is empty".into()));
        };
        let mut command = Command::new(program);
        command.args(args).arg(self.state.latency_us.to_string());
        command.args(links.iter().map(|(from, to)| format!("{from}={to}")));
        let listen = links.iter().map(|(from, _)| from.clone()).collect();
        self.start_helper(name, &mut command, listen)
    }

    /// Starts a process of the lab (its log is `logs/NAME.log`) and waits
    /// until it accepts connections on every address of `listen`.
    pub fn start_helper(
        &mut self,
        name: &str,
        command: &mut Command,
        listen: Vec<Address>,
    ) -> Result<(), LabError> {
        let log = self.state.dir.join("logs").join(format!("{name}.log"));
        process::detach(command);
        let mut child = process::spawn_logged(command, &log)?;
        let started = process::started(child.id()).unwrap_or_default();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.watch(child.id(), &started);
        }
        self.state.helpers.retain(|helper| helper.name != name);
        self.state.helpers.push(Helper {
            name: name.into(),
            pid: child.id(),
            started,
            listen: listen.clone(),
            log: log.clone(),
        });
        self.state.write()?;
        let deadline = Instant::now() + self.timeout;
        let mut waiting: Vec<Address> = listen;
        let result = loop {
            match child.try_wait() {
                Ok(Some(status)) => {
                    break Err(LabError::Exited {
                        name: name.into(),
                        status: status.to_string(),
                        log: process::end_of_log(&log),
                        log_path: log,
                    });
                }
                Ok(None) => {}
                Err(error) => break Err(LabError::io(format!("waiting for {name}"))(error)),
            }
            waiting.retain(|address| !crate::ports::accepts(address));
            let Some(next) = waiting.first() else {
                break Ok(());
            };
            if self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                break Err(LabError::Interrupted);
            }
            if Instant::now() > deadline {
                break Err(LabError::Timeout {
                    what: format!("{name} listening on {next}"),
                    seconds: self.timeout.as_secs(),
                    log: format!("; the end of its log:\n{}", process::end_of_log(&log)),
                });
            }
            thread::sleep(Duration::from_millis(10));
        };
        self.children.push(child);
        result
    }

    fn start_servers(
        &mut self,
        options: &LabOptions,
        postgres: [&Postgres; 2],
        account: Account,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), LabError> {
        let abort = AtomicBool::new(false);
        let cancelled = || {
            abort.load(Ordering::Relaxed)
                || options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed))
        };
        let starter = |postgres| Starter {
            postgres,
            account,
            socket_dir: &self.state.socket_dir,
            user: &self.state.user,
            password: &self.state.password,
            settings: &options.settings,
            timeout: options.start_timeout,
            cancelled: &cancelled,
        };
        let children = Mutex::new(Vec::new());
        let mut result = Ok(());
        thread::scope(|scope| {
            let (sender, messages) = channel::<String>();
            let clusters: Vec<_> = ["users", "orders"]
                .into_iter()
                .zip(postgres)
                .map(|(cluster, postgres)| {
                    let starter = starter(postgres);
                    let sender = sender.clone();
                    let servers: Vec<&Server> = self
                        .state
                        .servers
                        .iter()
                        .filter(|server| server.cluster == cluster)
                        .collect();
                    let (children, abort) = (&children, &abort);
                    scope.spawn(move || {
                        let result = start_cluster(&starter, &servers, children, &sender);
                        if result.is_err() {
                            abort.store(true, Ordering::Relaxed);
                        }
                        result
                    })
                })
                .collect();
            drop(sender);
            for message in messages {
                progress(&message);
            }
            for cluster in clusters {
                let one = cluster
                    .join()
                    .unwrap_or_else(|_| Err(LabError::Invalid("a thread of the lab died".into())));
                // The cluster that failed first tells why; the other was told to stop.
                if matches!(result, Ok(()) | Err(LabError::Interrupted)) && one.is_err() {
                    result = one;
                }
            }
        });
        self.children
            .extend(children.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
        result
    }

    /// Opens the lab that runs in `dir`; it stays when the result is dropped.
    pub fn open(dir: &Path) -> Result<Lab, LabError> {
        Ok(Lab {
            state: State::read(dir)?,
            timeout: Duration::from_secs(60),
            relay_command: None,
            cancel: None,
            children: Vec::new(),
            relays: Vec::new(),
            watchdog: None,
            owned: false,
            reservation: None,
        })
    }

    /// Gives a lab that was opened the command that runs its relays.
    #[must_use]
    pub fn with_relay_command(mut self, command: Vec<std::ffi::OsString>) -> Lab {
        self.relay_command = Some(command);
        self
    }

    /// What is known of the lab.
    pub fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// The server of that name, for example `users-writer`.
    pub fn server(&self, name: &str) -> Result<&Server, LabError> {
        self.state.server(name)
    }

    /// Runs SQL on a server directly (not through a gateway, without added
    /// latency) and returns psql's unaligned output.
    pub fn psql(&self, server: &Server, database: &str, sql: &str) -> Result<String, LabError> {
        server::psql(
            &find::program(&self.state.postgres_bin, "psql"),
            server,
            database,
            (&self.state.user, &self.state.password),
            sql,
            Duration::from_secs(600),
            &|| false,
        )
    }

    /// Whether every server of the lab runs.
    pub fn servers_run(&self) -> bool {
        all_servers_run(&self.state)
    }

    /// Lets the lab run on after this process. Relays must be processes of
    /// their own for that (`relay_command`).
    pub fn detach(mut self) -> State {
        self.owned = false;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.release();
        }
        self.state.clone()
    }

    /// Stops everything and deletes the lab's data.
    pub fn stop(mut self) -> Result<(), LabError> {
        let _lock = FileLock::take(&self.state.dir.join("lock"), &self.state.dir)?;
        self.stop_now();
        Ok(())
    }

    /// Ends one helper, for example to start it again in another way.
    pub fn stop_helper(&mut self, name: &str) -> Result<(), LabError> {
        for helper in self.state.helpers.iter().filter(|one| one.name == name) {
            end_helper(helper);
        }
        self.state.helpers.retain(|helper| helper.name != name);
        self.state.write()
    }

    fn stop_now(&mut self) {
        self.owned = false;
        clean_up(&self.state);
        for child in &mut self.children {
            let _ = child.wait();
        }
        self.relays.clear();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.release();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            self.stop_now();
        }
    }
}
