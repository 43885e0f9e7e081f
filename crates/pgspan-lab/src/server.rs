//! One PostgreSQL server: made, started, recognised, stopped.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::account::{Account, write_private};
use crate::find::Postgres;
use crate::process::{self, end_of_log};
use crate::{LabError, Server};

/// How long a fast shutdown may take before an immediate one.
const FAST_SHUTDOWN: Duration = Duration::from_secs(20);
/// How long an immediate shutdown may take before the process is killed.
const IMMEDIATE_SHUTDOWN: Duration = Duration::from_secs(5);

/// The guide's table of users, as its statements need it.
pub const USERS_SCHEMA: &str = "CREATE TABLE users (
    user_id serial PRIMARY KEY,
    username varchar(50) UNIQUE NOT NULL,
    email varchar(100) NOT NULL,
    first_name varchar(50),
    last_name varchar(50),
    created_at timestamp DEFAULT current_timestamp
)";
/// The guide's table of orders.
pub const ORDERS_SCHEMA: &str = "CREATE TABLE orders (
    order_id serial PRIMARY KEY,
    user_id integer NOT NULL,
    product_name varchar(100) NOT NULL,
    quantity integer NOT NULL DEFAULT 1,
    unit_price decimal(10,2) NOT NULL,
    total_amount decimal(10,2) NOT NULL,
    order_status varchar(20) DEFAULT 'pending',
    order_date timestamp DEFAULT current_timestamp
)";

/// What the steps of a start share.
pub(crate) struct Starter<'a> {
    pub(crate) postgres: &'a Postgres,
    pub(crate) account: Account,
    pub(crate) socket_dir: &'a Path,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) settings: &'a [(String, String)],
    pub(crate) timeout: Duration,
    pub(crate) cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Starter<'_> {
    /// Makes a new cluster for a writer.
    pub(crate) fn make_writer(&self, server: &Server) -> Result<(), LabError> {
        let password_file = server.data.with_extension("password");
        write_private(&password_file, self.password.as_bytes())?;
        self.account.own(&password_file)?;
        let mut command = Command::new(self.postgres.program("initdb"));
        command
            .args(["--no-sync", "--no-instructions", "--encoding=UTF8"])
            .args([
                format!("--locale={}", locale()),
                "--lc-messages=C".to_string(),
                format!("--username={}", self.user),
                "--auth=scram-sha-256".to_string(),
            ])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg(format!("--pgdata={}", server.data.display()));
        self.account.apply(&mut command);
        process::end_with_us(&mut command);
        let made = process::run(&mut command, self.timeout, self.cancelled);
        let _ = fs::remove_file(&password_file);
        made?;
        self.append(server, "postgresql.conf", &self.configuration())?;
        let hba = "local all all scram-sha-256\n\
                   host all all 127.0.0.0/8 scram-sha-256\n\
                   host all all ::1/128 scram-sha-256\n\
                   host replication all 127.0.0.0/8 scram-sha-256\n\
                   host replication all ::1/128 scram-sha-256\n";
        let path = server.data.join("pg_hba.conf");
        fs::write(&path, hba).map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// Copies a writer into a replica that follows it.
    pub(crate) fn make_replica(&self, replica: &Server, writer: &Server) -> Result<(), LabError> {
        let mut command = Command::new(self.postgres.program("pg_basebackup"));
        command
            .args(["-w", "--no-sync", "--checkpoint=fast", "--wal-method=stream"])
            .args(["--write-recovery-conf", "--create-slot"])
            .arg(format!("--slot={}", replica.name.replace('-', "_")))
            .arg(format!("--pgdata={}", replica.data.display()))
            .args(["-h", &writer.link.host])
            .args(["-p", &writer.link.port.to_string()])
            .args(["-U", self.user]);
        self.account.apply(&mut command);
        process::end_with_us(&mut command);
        command.env("PGPASSWORD", self.password);
        command.env("PGAPPNAME", &replica.name);
        process::run(&mut command, self.timeout, self.cancelled)?;
        // pg_basebackup of a newer version writes options that the server may not know.
        let follow = format!(
            "primary_conninfo = 'host={} port={} user={} password={} application_name={}'\n",
            writer.link.host, writer.link.port, self.user, self.password, replica.name
        );
        self.append(replica, "postgresql.auto.conf", &follow)?;
        Ok(())
    }

    /// Starts a server and waits until it takes connections.
    pub(crate) fn start(&self, server: &Server) -> Result<Child, LabError> {
        let mut command = Command::new(self.postgres.program("postgres"));
        command
            .arg("-D")
            .arg(&server.data)
            .args(["-p", &server.address.port.to_string()])
            .arg("-k")
            .arg(self.socket_dir)
            .arg("-c")
            .arg(format!("listen_addresses={}", server.address.host));
        self.account.apply(&mut command);
        process::detach(&mut command);
        let mut child = process::spawn_logged(&mut command, &server.log)?;
        match self.wait_ready(server, &mut child) {
            Ok(()) => Ok(child),
            Err(error) => {
                stop_child(&mut child);
                Err(error)
            }
        }
    }

    fn wait_ready(&self, server: &Server, child: &mut Child) -> Result<(), LabError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let ended =
                child.try_wait().map_err(LabError::io(format!("waiting for {}", server.name)))?;
            if let Some(status) = ended {
                let log = end_of_log(&server.log);
                if log.contains("could not bind") {
                    return Err(LabError::PortTaken {
                        name: server.name.clone(),
                        port: server.address.port,
                    });
                }
                return Err(LabError::Exited {
                    name: server.name.clone(),
                    status: status.to_string(),
                    log_path: server.log.clone(),
                    log,
                });
            }
            if ready(server) {
                return Ok(());
            }
            if (self.cancelled)() {
                return Err(LabError::Interrupted);
            }
            if Instant::now() > deadline {
                return Err(LabError::Timeout {
                    what: format!("the start of {}", server.name),
                    seconds: self.timeout.as_secs(),
                    log: format!("; the end of its log:\n{}", end_of_log(&server.log)),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Creates the guide's database and table on a new writer.
    pub(crate) fn create_schema(&self, server: &Server) -> Result<(), LabError> {
        let schema = if server.cluster == "users" { USERS_SCHEMA } else { ORDERS_SCHEMA };
        self.psql(server, "postgres", &format!("CREATE DATABASE {}", server.database))?;
        self.psql(server, &server.database, schema)?;
        Ok(())
    }

    /// Runs SQL on a server directly.
    pub(crate) fn psql(
        &self,
        server: &Server,
        database: &str,
        sql: &str,
    ) -> Result<String, LabError> {
        let program = self.postgres.program("psql");
        psql(
            &program,
            server,
            database,
            (self.user, self.password),
            sql,
            self.timeout,
            self.cancelled,
        )
    }

    /// The settings that differ from PostgreSQL's defaults. The planner's and
    /// the memory's stay as they are: a lab must not flatter anyone.
    fn configuration(&self) -> String {
        let mut lines = String::from("\n# pgspan lab\n");
        let mut set = |name: &str, value: &str| {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        };
        set("fsync", "off");
        set("max_connections", "200");
        set("wal_level", "replica");
        set("hot_standby", "on");
        set("max_wal_senders", "10");
        set("wal_receiver_status_interval", "1s");
        set("max_standby_streaming_delay", "5s");
        if self.postgres.has_library("pg_stat_statements") {
            set("shared_preload_libraries", "pg_stat_statements");
        }
        for (name, value) in self.settings {
            set(name, value);
        }
        lines
    }

    fn append(&self, server: &Server, file: &str, text: &str) -> Result<(), LabError> {
        let path = server.data.join(file);
        let what = || format!("writing {}", path.display());
        let mut content = fs::read_to_string(&path).map_err(LabError::io(what()))?;
        content.push_str(text);
        fs::write(&path, content).map_err(LabError::io(what()))
    }
}

/// Runs SQL through psql, over TCP as any client would; rows come back
/// unaligned, without header.
pub(crate) fn psql(
    program: &Path,
    server: &Server,
    database: &str,
    (user, password): (&str, &str),
    sql: &str,
    timeout: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<String, LabError> {
    let mut command = Command::new(program);
    process::end_with_us(&mut command);
    command
        .args(["-X", "-w", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
        .args(["-h", &server.address.host])
        .args(["-p", &server.address.port.to_string()])
        .args(["-U", user, "-d", database, "-c", sql])
        .env("PGPASSWORD", password)
        .env("PGAPPNAME", "pgspan-lab")
        .env("PGCONNECT_TIMEOUT", "10")
        .env("LC_ALL", "C")
        .env("PGCLIENTENCODING", "UTF8");
    let output = process::run(&mut command, timeout, cancelled)?;
    Ok(output.trim_end_matches('\n').to_string())
}

/// A locale whose order does not depend on the machine, if it has one.
fn locale() -> &'static str {
    let names = Command::new("locale").arg("-a").output().map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).to_lowercase(),
    );
    let has = |name: &str| names.lines().any(|line| line.replace('-', "") == name);
    if has("c.utf8") {
        "C.UTF-8"
    } else if has("en_us.utf8") {
        "en_US.UTF-8"
    } else {
        "C"
    }
}

/// Whether the server says that it takes connections, in line 8 of its pid file.
fn ready(server: &Server) -> bool {
    let text = fs::read_to_string(server.data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).map(str::trim) == Some("ready")
}

/// The process of the server that runs in `data`, if there is one and it is
/// really that server.
pub(crate) fn running_pid(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: u32 = text.lines().next()?.trim().parse().ok()?;
    process::started(pid)?;
    is_server_of(pid, data).then_some(pid)
}

/// A server's working directory is its data directory.
#[cfg(target_os = "linux")]
fn is_server_of(pid: u32, data: &Path) -> bool {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
    let data = fs::canonicalize(data);
    matches!((cwd, data), (Ok(cwd), Ok(data)) if cwd == data)
}

#[cfg(not(target_os = "linux"))]
fn is_server_of(pid: u32, data: &Path) -> bool {
    let output =
        Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout).contains(&data.display().to_string())
    })
}

/// Stops the server that runs in `data`, if any: fast, then immediate, then by force.
pub(crate) fn stop(data: &Path) {
    for (signal, limit) in [
        (libc::SIGINT, FAST_SHUTDOWN),
        (libc::SIGQUIT, IMMEDIATE_SHUTDOWN),
        (libc::SIGKILL, IMMEDIATE_SHUTDOWN),
    ] {
        let Some(pid) = running_pid(data) else {
            return;
        };
        process::signal(pid, signal);
        if process::wait_until(limit, || process::started(pid).is_none()) {
            return;
        }
    }
}

/// Stops a server whose start failed.
fn stop_child(child: &mut Child) {
    for (signal, limit) in [
        (libc::SIGINT, Duration::from_secs(3)),
        (libc::SIGQUIT, IMMEDIATE_SHUTDOWN),
        (libc::SIGKILL, IMMEDIATE_SHUTDOWN),
    ] {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        process::signal(child.id(), signal);
        if process::wait_until(limit, || !matches!(child.try_wait(), Ok(None))) {
            return;
        }
    }
}
