//! `limits.home_idle_s_max`: a home connection goes to the next client, and nothing of
//! the one before with it.

use pgspan_lab::{Lab, LabOptions};

use crate::client::Client;
use crate::stand::start_gateway;
use crate::world::{becomes, eventually};

struct Pool {
    lab: Lab,
    gateway: String,
}

impl Pool {
    fn start() -> Pool {
        let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
        let settings = [("limits.home_idle_s_max", "60".to_owned())];
        let program = env!("CARGO_BIN_EXE_pgspan");
        let gateway = start_gateway(&mut lab, program.as_ref(), &settings, |_, _| {});
        Pool { lab, gateway }
    }

    fn connect_to(&self, database: &str) -> Client {
        Client::connect(&self.gateway, "postgres", &self.lab.state().password, database).unwrap()
    }

    fn connect(&self) -> Client {
        self.connect_to("usersdb")
    }

    fn at_home(&self, sql: &str) -> String {
        let server = self.lab.server("users-writer").unwrap();
        self.lab.psql(server, &server.database, sql).unwrap().trim().to_owned()
    }

    /// Ends a session; its server process.
    fn leave(client: Client) -> i32 {
        let process = client.process();
        drop(client);
        process
    }

    /// As [`Pool::leave`], once the process waits for the next client.
    fn leave_behind(&self, client: Client) -> i32 {
        let process = Pool::leave(client);
        let sql = format!("SELECT state, query FROM pg_stat_activity WHERE pid = {process}");
        becomes("spare", "idle|DISCARD ALL", || self.at_home(&sql));
        process
    }

    fn is_gone(&self, process: i32) {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
        becomes("gone", "0", || self.at_home(&sql));
    }
}

fn do_all(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        assert_eq!(client.query(sql).code(), "ok", "{sql}");
    }
}

#[test]
fn home_connections_are_kept_for_the_next_client() {
    let pool = Pool::start();

    // Nothing of a client is left to the next.
    let mut client = pool.connect();
    let seen = client.value("SHOW search_path");
    do_all(
        &mut client,
        &[
            "CREATE TABLE kept (id int)",
            "SET search_path = nowhere",
            "SET pgspan.strategy = fallback",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "CREATE TEMPORARY TABLE secret AS SELECT 42 AS n",
            "PREPARE p AS SELECT 1",
            "LISTEN c",
            "SELECT pg_advisory_lock(7)",
            "BEGIN",
            "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
            "COMMIT",
            "SET ROLE pg_monitor",
        ],
    );
    let first = pool.leave_behind(client);
    let mut client = pool.connect();
    assert_eq!(client.process(), first);
    assert_eq!(client.value("SELECT pg_backend_pid()"), first.to_string());
    for (sql, wanted) in [
        ("SHOW search_path", seen.as_str()),
        ("SHOW transaction_isolation", "read committed"),
        ("SELECT current_user", "postgres"),
        ("SELECT to_regclass('secret') IS NULL", "t"),
        ("SELECT count(*) FROM pg_prepared_statements", "0"),
        ("SELECT count(*) FROM pg_cursors", "0"),
        ("SELECT count(*) FROM pg_listening_channels()", "0"),
        ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0"),
        ("SELECT count(*) FROM kept", "0"),
        ("SELECT coalesce(current_setting('pgspan.strategy', true), '')", ""),
    ] {
        assert_eq!(client.value(sql), wanted, "{sql}");
    }

    // Another database is another connection; so is a second client at the same time.
    let other = pool.connect_to("postgres");
    assert_ne!(other.process(), first);
    let second = pool.connect();
    assert_ne!(second.process(), first);
    drop((other, second));

    // A transaction that is open, or a statement that runs, is nobody else's.
    do_all(&mut client, &["BEGIN", "INSERT INTO kept VALUES (1)"]);
    pool.is_gone(Pool::leave(client));
    assert_eq!(pool.at_home("SELECT count(*) FROM kept"), "0");
    let mut client = pool.connect();
    client.start("SELECT pg_sleep(300)");
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(300)'
        AND state = 'active' AND pid <> pg_backend_pid()";
    becomes("at work", "1", || pool.at_home(active));
    pool.is_gone(Pool::leave(client));

    // Nor is one that somebody has asked to be cancelled: that may be on its way yet.
    let client = pool.connect();
    client.cancel();
    std::thread::sleep(std::time::Duration::from_millis(200));
    pool.is_gone(Pool::leave(client));

    // A new connection would begin otherwise.
    let process = pool.leave_behind(pool.connect());
    pool.at_home("ALTER ROLE postgres SET work_mem = '5MB'");
    let mut client = pool.connect();
    assert_ne!(client.process(), process);
    assert_eq!(client.value("SHOW work_mem"), "5MB");

    // The server has ended it.
    let process = pool.leave_behind(client);
    pool.at_home(&format!("SELECT pg_terminate_backend({process})"));
    pool.is_gone(process);
    let mut client = pool.connect();
    assert_ne!(client.process(), process);
    assert_eq!(client.value("SELECT 1"), "1");

    // A server that is full of spare connections has room for others.
    let password = &pool.lab.state().password;
    let connect = |to| Client::connect(&pool.gateway, "postgres", password, to);
    let mut crowd = vec![client];
    let refused = loop {
        match connect("usersdb") {
            Ok(one) => crowd.push(one),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code, "53300");
    assert_eq!(connect("postgres").err().unwrap().code, "53300");
    drop(crowd);
    eventually(
        "room",
        || connect("postgres").map_or_else(|e| e.code, |_| String::new()),
        String::is_empty,
    );
}

#[test]
fn without_the_setting_a_connection_ends_with_its_client() {
    let world = crate::world::turn();
    let process = Pool::leave(world.connect());
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
    becomes("gone", "0", || world.at_home(&sql));
}
