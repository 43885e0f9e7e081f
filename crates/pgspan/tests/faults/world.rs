//! The servers of these tests: one lab for all of them, and what must hold
//! after each.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pgspan_lab::{Lab, LabOptions, Server};

use super::client::{Client, Fault};
use super::stand::{serve, start_gateway};

/// More clients than any test opens, but one that says so.
pub const CLIENTS_MAX: usize = 12;
/// `limits.login_ms_max` of the gateway.
pub const LOGIN_MAX: Duration = Duration::from_secs(3);
/// How long anything may take to end.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// A role that the gateway knows with another password than the server does.
pub const STRANGER: (&str, &str) = ("stranger", "stranger-secret-7");

const SOURCE: &str = "
    CREATE TABLE big (id int PRIMARY KEY, pad text);
    INSERT INTO big SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 90000) g;
    CREATE TABLE small (id int PRIMARY KEY, name text);
    INSERT INTO small SELECT g, 'n' || g FROM generate_series(1, 100) g;
    CREATE TABLE locked (id int PRIMARY KEY, name text);
    INSERT INTO locked SELECT g, 'n' || g FROM generate_series(1, 100) g;
    CREATE TABLE heavy (id int PRIMARY KEY, doc text);
    ALTER TABLE heavy ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO heavy VALUES (1, repeat('x', 100 * 1024 * 1024)), (2, 'light');
    CREATE TABLE passing (id int PRIMARY KEY, name text);
    INSERT INTO passing VALUES (1, 'one');
    ANALYZE";

/// The lab; tests take turns.
pub struct World {
    lab: Lab,
    gateway: String,
    program: String,
}

/// A test's turn.
pub struct Turn(MutexGuard<'static, World>);

impl std::ops::Deref for Turn {
    type Target = World;
    fn deref(&self) -> &World {
        &self.0
    }
}

/// Waits for a turn with the lab, which the first one starts.
pub fn turn() -> Turn {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let world = WORLD.get_or_init(|| Mutex::new(World::start()));
    Turn(world.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until something holds.
pub fn eventually<T: std::fmt::Debug>(
    what: &str,
    mut seen: impl FnMut() -> T,
    holds: impl Fn(&T) -> bool,
) {
    let deadline = Instant::now() + SETTLE_MAX;
    loop {
        let value = seen();
        if holds(&value) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: still {value:?} after {SETTLE_MAX:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Waits until `seen` is `wanted`.
pub fn becomes(what: &str, wanted: &str, seen: impl FnMut() -> String) {
    eventually(what, seen, |value| value == wanted);
}

impl World {
    /// Servers and a gateway; tests that can share them take a [`turn`] instead.
    pub fn start() -> World {
        let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
        // The log must keep secrets even when it tells everything.
        let program = lab.state().dir.join("logs/pgspan-debug");
        let script = "#!/bin/sh\nPGSPAN_LOG=debug exec ".to_owned()
            + env!("CARGO_BIN_EXE_pgspan")
            + " \"$@\"\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = [
            ("limits.client_connections_max", CLIENTS_MAX.to_string()),
            ("limits.login_ms_max", LOGIN_MAX.as_millis().to_string()),
        ];
        let gateway = start_gateway(&mut lab, &program, &settings, |lab, _| {
            // One more user.
            let userlist = lab.state().dir.join("userlist.txt");
            let mut text = std::fs::read_to_string(&userlist).unwrap();
            text.push_str(&format!("\"{}\" \"{}\"\n", STRANGER.0, STRANGER.1));
            std::fs::write(&userlist, text).unwrap();
        });
        let program = lab.state().postgres_bin.join("postgres").display().to_string();
        let world = World { lab, gateway, program };
        world.fill();
        world
    }

    /// The address of home's reader endpoint.
    pub fn reader(&self) -> String {
        let gateway = self.lab.state().gateway.as_ref().unwrap();
        gateway.endpoint("users-reader").unwrap().address.to_string()
    }

    /// Kills the gateway.
    pub fn kill_gateway(&mut self) {
        self.signal_gateway(libc::SIGKILL);
        self.lab.stop_helper("gateway").unwrap();
    }

    /// Tells the gateway to end.
    pub fn end_gateway(&self) {
        self.signal_gateway(libc::SIGTERM);
    }

    fn signal_gateway(&self, number: i32) {
        let helper = self.lab.state().helpers.iter().find(|one| one.name == "gateway").unwrap();
        signal(i32::try_from(helper.pid).unwrap(), number);
    }

    /// Starts it anew, as it was.
    pub fn start_gateway_again(&mut self) {
        let gateway = self.lab.state().gateway.clone().unwrap();
        let program = self.lab.state().dir.join("logs/pgspan-debug");
        serve(&mut self.lab, &program, &gateway);
    }

    fn fill(&self) {
        self.at_source(SOURCE);
        let orders = &self.server("orders-writer").link;
        let password = &self.lab.state().password;
        let (stranger, _) = STRANGER;
        self.at_home(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE ROLE {stranger} LOGIN PASSWORD 'something else';
             CREATE SERVER orders FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER orders
                OPTIONS (user 'postgres', password '{password}');
             CREATE SERVER orders_too FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER orders_too
                OPTIONS (user 'postgres', password '{password}');
             CREATE FOREIGN TABLE locked_too (id int, name text) SERVER orders_too
                OPTIONS (table_name 'locked');
             CREATE SERVER unmapped FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE SERVER refused FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER refused
                OPTIONS (user 'postgres', password 'mapped-secret-9');
             CREATE FOREIGN TABLE big (id int, pad text) SERVER orders;
             CREATE FOREIGN TABLE small (id int, name text) SERVER orders;
             CREATE FOREIGN TABLE locked (id int, name text) SERVER orders;
             CREATE FOREIGN TABLE heavy (id int, doc text) SERVER orders;
             CREATE FOREIGN TABLE passing (id int, name text) SERVER orders;
             CREATE FOREIGN TABLE unmapped (id int, name text) SERVER unmapped
                OPTIONS (table_name 'small');
             CREATE FOREIGN TABLE refused (id int, name text) SERVER refused
                OPTIONS (table_name 'small');
             CREATE TABLE people (id int PRIMARY KEY, who text);
             INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 1000) g;
             ANALYZE",
            host = orders.host,
            port = orders.port,
        ));
    }

    /// The process at the source that reads a table for the gateway; empty when none does.
    pub fn reading(&self, table: &str) -> String {
        self.at_source(&format!(
            "SELECT max(pid) FROM pg_stat_activity WHERE query LIKE '%{table}%'
             AND state <> 'idle' AND pid <> pg_backend_pid() AND application_name <> 'faults'"
        ))
    }

    /// Ends that process.
    pub fn end_reading(&self, table: &str, violent: bool) {
        let pid = self.reading(table);
        if violent {
            self.kill_backend("orders-writer", &pid);
        } else {
            assert_eq!(self.at_source(&format!("SELECT pg_terminate_backend({pid})")), "t");
        }
    }

    /// A server of the lab.
    pub fn server(&self, name: &str) -> &Server {
        self.lab.server(name).unwrap()
    }

    /// The lab's password.
    pub fn password(&self) -> &str {
        &self.lab.state().password
    }

    /// The gateway's address.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    fn psql(&self, name: &str, sql: &str) -> String {
        let server = self.server(name);
        self.lab.psql(server, &server.database, sql).unwrap().trim().to_owned()
    }

    /// SQL at home, past the gateway.
    pub fn at_home(&self, sql: &str) -> String {
        self.psql("users-writer", sql)
    }

    /// SQL at home's replica, past the gateway; nothing when it fails.
    pub fn at_replica(&self, sql: &str) -> String {
        let replica = self.server("users-replica");
        self.lab.psql(replica, "usersdb", sql).unwrap_or_default().trim().to_owned()
    }

    /// SQL at the source, past everything.
    pub fn at_source(&self, sql: &str) -> String {
        self.psql("orders-writer", sql)
    }

    /// A session at the source, past everything.
    pub fn source_session(&self) -> Client {
        self.session_at("orders-writer")
    }

    /// A session at home, past the gateway.
    pub fn home_session(&self) -> Client {
        self.session_at("users-writer")
    }

    fn session_at(&self, name: &str) -> Client {
        let server = self.server(name);
        let address = server.address.to_string();
        Client::connect(&address, "postgres", self.password(), &server.database).unwrap()
    }

    /// A session of somebody through the gateway.
    pub fn connect_as(&self, user: &str, password: &str, database: &str) -> Result<Client, Fault> {
        Client::connect(&self.gateway, user, password, database)
    }

    /// A session through the gateway.
    pub fn connect(&self) -> Client {
        self.connect_as("postgres", self.password(), "usersdb").unwrap()
    }

    /// Holds a lock on the source's table `locked` until dropped.
    pub fn lock(&self) -> Client {
        let mut holder = self.source_session();
        assert_eq!(holder.query("BEGIN; LOCK TABLE locked").code(), "ok");
        holder
    }

    /// Processes of the source that work for somebody else.
    pub fn source_at_work(&self) -> String {
        self.at_source(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
             AND pid <> pg_backend_pid() AND state <> 'idle' AND application_name <> 'faults'",
        )
    }

    /// Processes of home that work for somebody else.
    pub fn home_at_work(&self) -> String {
        self.at_home(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
             AND pid <> pg_backend_pid() AND state <> 'idle'",
        )
    }

    /// Sessions at home of somebody else.
    pub fn home_sessions(&self) -> String {
        self.at_home(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
             AND pid <> pg_backend_pid()",
        )
    }

    /// Waits until the source waits for the lock of [`World::lock`].
    pub fn until_blocked(&self) {
        eventually(
            "waiting for the lock at the source",
            || self.at_source("SELECT count(*) FROM pg_locks WHERE NOT granted"),
            |count| count != "0",
        );
    }

    /// What must hold after every fault: nobody works for a client that is gone,
    /// connections are free, the next queries work, no secret was written.
    pub fn assert_settled(&self) {
        becomes("sessions at home", "0", || self.home_sessions());
        becomes("work at the source", "0", || self.source_at_work());
        let mut client = self.connect();
        assert_works(&mut client);
        eventually("connections of the gateway in use", || client.leased(), |busy| *busy == 0);
        let log = self.gateway_log();
        for secret in [self.password(), "mapped-secret-9", STRANGER.1, "not-the-password"] {
            assert!(!log.contains(secret), "the gateway's log tells a secret");
        }
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains("a defect of the gateway"), "{log}");
    }

    /// All that the gateway has logged.
    pub fn gateway_log(&self) -> String {
        let state = self.lab.state();
        let helper = state.helpers.iter().find(|helper| helper.name == "gateway").unwrap();
        String::from_utf8_lossy(&std::fs::read(&helper.log).unwrap()).into_owned()
    }

    /// Kills a process of a server, which then starts over, and waits for that.
    pub fn kill_backend(&self, server: &str, pid: &str) {
        signal(pid.parse().unwrap(), libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(100));
        self.until_up(server);
    }

    /// Waits until a server takes connections.
    pub fn until_up(&self, name: &str) {
        let server = self.server(name);
        eventually(
            "the server is back",
            || self.lab.psql(server, &server.database, "SELECT 1").is_ok(),
            |up| *up,
        );
    }

    /// Stops a server at once.
    pub fn stop(&self, name: &str) {
        let server = self.server(name);
        let file = server.data.join("postmaster.pid");
        let text = std::fs::read_to_string(&file).unwrap();
        signal(text.lines().next().unwrap().parse().unwrap(), libc::SIGQUIT);
        eventually("the server is gone", || file.exists(), |exists| !exists);
    }

    /// Starts a server that was stopped.
    pub fn start_again(&self, name: &str) {
        let server = self.server(name);
        let owner = std::fs::metadata(&server.data).unwrap();
        let log = std::fs::OpenOptions::new().append(true).open(&server.log).unwrap();
        let mut command = Command::new(&self.program);
        command
            .arg("-D")
            .arg(&server.data)
            .args(["-p", &server.address.port.to_string()])
            .arg("-k")
            .arg(&self.lab.state().socket_dir)
            .args(["-c", &format!("listen_addresses={}", server.address.host)])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(owner.uid()).gid(owner.gid());
        }
        // The lab stops it by its data directory.
        let mut child = command.spawn().unwrap();
        std::thread::spawn(move || child.wait());
        self.until_up(name);
    }
}

/// Signals a process of the lab's own.
fn signal(pid: i32, number: i32) {
    assert!(pid > 1);
    // SAFETY: kill takes no pointers.
    assert_eq!(unsafe { libc::kill(pid, number) }, 0);
}

/// Relay, home join and direct work in this session.
pub fn assert_works(client: &mut Client) {
    assert_eq!(client.value("SELECT count(*) FROM people"), "1000");
    let join = "SELECT count(p.who || s.name) FROM small s JOIN people p USING (id)";
    assert_eq!(client.value(join), "100");
    assert_eq!(route(client), "home_join");
    assert_eq!(client.value("SELECT count(*) FROM small"), "100");
    assert_eq!(route(client), "direct");
}

/// How the last statement was run.
pub fn route(client: &mut Client) -> String {
    client.value("SHOW pgspan.last_route")
}
