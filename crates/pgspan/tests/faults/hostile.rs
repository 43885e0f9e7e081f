//! Attacks on the gateway itself: by who has not logged in, by clients, by servers. Each time
//! it stays up and small, and serves the others meanwhile. What each took is printed; with
//! `PGSPAN_HOSTILE=strict` (`make hostile`) how long others waited is judged, too, and the
//! gateway has an address space of 1 GB.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgspan_lab::{Lab, LabOptions};

use crate::client::{Client, dial, message};
use crate::fake::{self, Caller, row};
use crate::stand::{serve, start_gateway};
use crate::world::{becomes, eventually, route};

/// How long nobody may be kept waiting by somebody else, where that is judged.
const STALL_MAX: Duration = Duration::from_millis(50);

fn is_strict() -> bool {
    std::env::var("PGSPAN_HOSTILE").is_ok_and(|value| value == "strict")
}

/// Servers, and a gateway that is attacked.
struct Stage {
    lab: Lab,
    gateway: String,
    program: PathBuf,
}

impl Stage {
    fn new(settings: &[(&str, &str)]) -> Stage {
        Stage::with(settings, |_, _| {})
    }

    /// With more in the gateway's configuration; `change` is told where home's endpoint is.
    fn with(settings: &[(&str, &str)], change: impl FnOnce(&mut String, &str)) -> Stage {
        let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
        let program = lab.state().dir.join("logs/pgspan-bounded");
        let bound = if is_strict() { "ulimit -v 1048576; " } else { "" };
        let script = format!("#!/bin/sh\n{bound}exec {} \"$@\"\n", env!("CARGO_BIN_EXE_pgspan"));
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings: Vec<(&str, String)> =
            settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let gateway = start_gateway(&mut lab, &program, &settings, |_, gateway| {
            let mut text = std::fs::read_to_string(&gateway.config).unwrap();
            change(&mut text, &gateway.endpoint("users-writer").unwrap().listen.to_string());
            std::fs::write(&gateway.config, text).unwrap();
        });
        let stage = Stage { lab, gateway, program };
        stage.at_source(
            "CREATE TABLE far AS SELECT g AS id, 'n' || g AS name FROM generate_series(1, 1000) g;
             CREATE TABLE heavy (id int, doc text);
             ALTER TABLE heavy ALTER doc SET STORAGE EXTERNAL;
             INSERT INTO heavy VALUES (1, repeat('x', 200 * 1024 * 1024));
             ANALYZE",
        );
        let source = stage.lab.server("orders-writer").unwrap().link.clone();
        let password = stage.lab.state().password.clone();
        stage.at_home(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE TABLE near AS SELECT g AS id, 'm' || g AS name FROM generate_series(1, 1000) g;
             CREATE SERVER source FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{}', port '{}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER source
                 OPTIONS (user 'postgres', password '{password}');
             CREATE FOREIGN TABLE far (id int, name text) SERVER source;
             CREATE FOREIGN TABLE heavy (id int, doc text) SERVER source;
             ANALYZE near",
            source.host, source.port
        ));
        let mut client = stage.connect();
        becomes("a home join", "home_join", || {
            assert_eq!(client.value(JOIN), "1000");
            route(&mut client)
        });
        stage
    }

    fn sql(&self, server: &str, sql: &str) -> String {
        let server = self.lab.server(server).unwrap();
        self.lab.psql(server, &server.database, sql).unwrap().trim().to_owned()
    }

    fn at_home(&self, sql: &str) -> String {
        self.sql("users-writer", sql)
    }

    fn at_source(&self, sql: &str) -> String {
        self.sql("orders-writer", sql)
    }

    fn connect(&self) -> Client {
        let password = &self.lab.state().password;
        Client::connect(&self.gateway, "postgres", password, "usersdb").unwrap()
    }

    fn connect_to_home(&self) -> Client {
        let link = &self.lab.server("users-writer").unwrap().link;
        let address = format!("{}:{}", link.host, link.port);
        let password = &self.lab.state().password;
        Client::connect(&address, "postgres", password, "usersdb").unwrap()
    }

    /// A foreign table `name` of a server that is none.
    fn hostile_table(
        &self,
        name: &str,
        play: impl Fn(&mut Caller) -> std::io::Result<()> + Send + Sync + 'static,
    ) {
        let address = fake::listen(play);
        let (host, port) = address.split_once(':').unwrap();
        self.at_home(&format!(
            "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{host}', port '{port}', dbname 'none', connect_timeout '2');
             CREATE USER MAPPING FOR postgres SERVER {name} OPTIONS (user 'nobody');
             CREATE FOREIGN TABLE {name} (id int, name text) SERVER {name}"
        ));
        // The gateway learns of its name.
        self.connect().query("CREATE TEMP TABLE t (a int); ALTER TABLE t ADD b int");
        std::thread::sleep(Duration::from_millis(300));
    }

    /// The gateway's process.
    fn pid(&self) -> u32 {
        let helpers = &self.lab.state().helpers;
        helpers.iter().find(|helper| helper.name == "gateway").unwrap().pid
    }

    /// A line of its `/proc/…/status`, in MB.
    fn megabytes(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        value.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Attacks while somebody else works; prints and judges what it took. The memory may grow
    /// by so many MB at its peak.
    fn attack(&self, what: &str, grows_max: u64, attack: impl FnOnce()) {
        // The peak is counted from here on (proc(5), `clear_refs`).
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
        let before = self.megabytes("VmRSS");
        let over = Arc::new(AtomicBool::new(false));
        // What the machine itself keeps waiting, a session past the gateway tells.
        let bystanders = [self.connect(), self.connect_to_home()].map(|client| {
            let over = over.clone();
            std::thread::spawn(move || waits(client, &over))
        });
        attack();
        let peak = self.megabytes("VmHWM");
        over.store(true, Ordering::Relaxed);
        let [waits, machine] = bystanders.map(|bystander| bystander.join().unwrap());
        let waited = longest(&waits, &machine);
        let began = Instant::now();
        let mut client = self.connect();
        assert_eq!(client.value(JOIN), "1000");
        let recovered = began.elapsed();
        // What `make hostile` is run for.
        #[allow(clippy::print_stdout)]
        {
            println!(
                "{what}: {} MB more at the peak, {} MB afterwards, others waited {waited:?} at \
                 most, as before within {recovered:?}",
                peak.saturating_sub(before),
                self.megabytes("VmRSS").saturating_sub(before),
            );
        }
        assert!(peak < before + grows_max, "{what}: from {before} MB to {peak} MB");
        let stall = if is_strict() { STALL_MAX } else { Duration::from_secs(10) };
        assert!(waited < stall, "{what}: somebody else waited {waited:?}");
    }

    fn end(self) {
        let log = std::fs::read_to_string(self.lab.state().dir.join("logs/gateway.log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        self.lab.stop().unwrap();
    }
}

/// When a session waited for what takes no time: beginnings and ends.
fn waits(mut client: Client, over: &AtomicBool) -> Vec<(Instant, Instant)> {
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        assert_eq!(client.value("SELECT 1"), "1");
        let ended = Instant::now();
        if ended - began > Duration::from_millis(3) {
            waits.push((began, ended));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    waits
}

/// The longest of these waits, without the time in which the others waited too.
fn longest(waits: &[(Instant, Instant)], machine: &[(Instant, Instant)]) -> Duration {
    let alone = |(began, ended): &(Instant, Instant)| {
        let both = machine
            .iter()
            .map(|(from, to)| (*to).min(*ended).saturating_duration_since((*from).max(*began)));
        (*ended - *began).saturating_sub(both.sum())
    };
    waits.iter().map(alone).max().unwrap_or_default()
}

const JOIN: &str = "SELECT count(near.name || far.name) FROM near JOIN far USING (id)";

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let mut stage = Stage::new(&[
        ("limits.client_connections_max", "50"),
        ("limits.logins_max", "40"),
        ("limits.first_message_ms_max", "60000"),
        ("limits.login_ms_max", "60000"),
    ]);
    let mut silent: Vec<TcpStream> = Vec::new();
    stage.attack("500 connections that say nothing", 100, || {
        for _ in 0..500 {
            silent.push(dial(&stage.gateway).unwrap());
        }
        // Somebody comes in all the same.
        let began = Instant::now();
        assert_eq!(stage.connect().value("SELECT 1"), "1");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
    // Those that came first have made room, and nobody else has.
    let closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    };
    assert!(silent.iter_mut().take(400).all(closed));
    assert!(!silent.iter_mut().skip(490).any(closed));
    // Nor do they keep the gateway from ending.
    let began = Instant::now();
    stage.lab.stop_helper("gateway").unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let gateway = stage.lab.state().gateway.clone().unwrap();
    serve(&mut stage.lab, &stage.program, &gateway);
    stage.end();
}

#[test]
fn a_first_message_is_not_waited_for_long() {
    let stage = Stage::new(&[("limits.first_message_ms_max", "300")]);
    let mut silent = dial(&stage.gateway).unwrap();
    let began = Instant::now();
    assert!(matches!(silent.read(&mut [0]), Ok(0)));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.end();
}

#[test]
fn a_configuration_is_read_again_whole_or_not_at_all() {
    let stage = Stage::new(&[]);
    let dir = &stage.lab.state().dir;
    let gateway = stage.lab.state().gateway.clone().unwrap();
    let hang_up = || {
        // SAFETY: kill takes no pointers.
        assert_eq!(unsafe { libc::kill(stage.pid() as i32, libc::SIGHUP) }, 0);
    };
    let log = || std::fs::read_to_string(dir.join("logs/gateway.log")).unwrap();
    let logged = |line: &str| eventually(line, &log, |log| log.contains(line));
    let mut open = stage.connect();
    let (users, configuration) = (dir.join("userlist.txt"), gateway.config.clone());
    let before = std::fs::read_to_string(&users).unwrap();
    let text = std::fs::read_to_string(&configuration).unwrap();
    stage.at_home("CREATE ROLE late LOGIN PASSWORD 'late-secret-5'");
    let late = || Client::connect(&stage.gateway, "late", "late-secret-5", "usersdb");
    assert_eq!(late().err().unwrap().code, "28P01");
    std::fs::write(&users, format!("{before}\"late\" \"late-secret-5\"\n")).unwrap();
    // What is wrong changes nothing.
    std::fs::write(&configuration, text.replace("[gateway]", "[gateway]\nno_such_key = 1"))
        .unwrap();
    hang_up();
    logged("the configuration cannot be read; the old one stays");
    assert_eq!(late().err().unwrap().code, "28P01");
    std::fs::write(&configuration, text.replace("userlist.txt", "nothing.txt")).unwrap();
    hang_up();
    logged("the configuration cannot be used; the old one stays");
    assert_eq!(late().err().unwrap().code, "28P01");
    // Right, it holds for who comes from now on.
    let limits = "[limits]\nclient_connections_max = 2\nplans_max = 7";
    let changed = match text.contains("[limits]") {
        true => text.replace("[limits]", limits),
        false => format!("{text}\n{limits}\n"),
    };
    std::fs::write(&configuration, changed).unwrap();
    hang_up();
    logged("these settings hold from the next start");
    assert!(log().contains("settings=\"limits.plans_max\""), "{}", log());
    let mut second = late().unwrap();
    assert_eq!(second.value("SELECT current_user"), "late");
    assert_eq!(late().err().unwrap().code, "53300");
    assert_eq!(open.value(JOIN), "1000");
    drop(second);
    stage.end();
}

#[test]
fn a_source_that_lies_or_floods_is_left_to_home() {
    let stage = Stage::new(&[("limits.connect_ms_max", "3000")]);
    // Home's own connection, which comes behind the gateway's, is refused.
    let first = |caller: &Caller| match caller.number {
        0 => Ok(()),
        _ => Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)),
    };
    stage.hostile_table("parameters", move |caller| {
        first(caller)?;
        let mut number = 0_u32;
        loop {
            number += 1;
            let parameter = format!("p{number}\0{}\0", "x".repeat(4000));
            caller.say(&message(b'S', parameter.as_bytes()))?;
        }
    });
    stage.hostile_table("notices", move |caller| {
        first(caller)?;
        caller.flood(&message(b'N', &[b'M'; 3000]))
    });
    stage.hostile_table("endless_rows", move |caller| {
        first(caller)?;
        caller.serve()?;
        caller.asked()?;
        caller.flood(&row().repeat(100))
    });
    stage.hostile_table("long_row", move |caller| {
        first(caller)?;
        caller.serve()?;
        caller.asked()?;
        // A header that promises a gigabyte, and what it promises.
        caller.say(&[b'D', 0x3f, 0xff, 0xff, 0xff])?;
        caller.flood(&[0; 1000])
    });
    stage.hostile_table("short_row", move |caller| {
        first(caller)?;
        caller.serve()?;
        loop {
            caller.asked()?;
            caller.flood(&[b'D', 0, 0, 0, 2])?;
        }
    });
    stage.hostile_table("unreadable", move |caller| {
        first(caller)?;
        caller.serve()?;
        loop {
            caller.asked()?;
            caller.say(&message(b'E', &[]))?;
            caller.say(&message(b'Z', b"I"))?;
        }
    });
    for name in ["parameters", "notices", "endless_rows", "long_row", "short_row", "unreadable"] {
        stage.attack(&format!("a source: {name}"), 150, || {
            let mut client = stage.connect();
            // Whatever goes on at the source, this ends it.
            client.query("SET statement_timeout = '2s'");
            let sql = format!("SELECT count(*) FROM near JOIN {name} USING (id)");
            let began = Instant::now();
            let answer = client.query(&sql);
            assert!(["08001", "57014"].contains(&answer.code()), "{name}: {answer:?}");
            assert!(began.elapsed() < Duration::from_secs(15), "{name}: {:?}", began.elapsed());
            assert_eq!(client.value("SELECT 1"), "1");
        });
    }
    stage.end();
}

#[test]
fn a_source_that_keeps_silent_holds_nobody() {
    let stage = Stage::new(&[]);
    stage.hostile_table("silent", |caller| {
        caller.serve()?;
        caller.keep_silent()
    });
    let sql = "SELECT count(*) FROM near JOIN silent USING (id)";
    stage.attack("a source: silent", 100, || {
        let mut client = stage.connect();
        // Its time runs out.
        client.query("SET statement_timeout = '700ms'");
        let began = Instant::now();
        assert_eq!(client.query(sql).code(), "57014");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        // It is cancelled.
        client.query("SET statement_timeout = 0");
        client.start(sql);
        std::thread::sleep(Duration::from_millis(500));
        client.cancel();
        assert_eq!(client.finish().code(), "57014");
        // Its client goes.
        client.start(sql);
        std::thread::sleep(Duration::from_millis(500));
    });
    becomes("sessions at home", "0", || {
        stage.at_home(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
             AND pid <> pg_backend_pid()",
        )
    });
    // Home ends its session.
    let mut client = stage.connect();
    let pid = client.process();
    client.start(sql);
    std::thread::sleep(Duration::from_millis(500));
    stage.at_home(&format!("SELECT pg_terminate_backend({pid})"));
    let began = Instant::now();
    assert_ne!(client.finish().code(), "ok");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.end();
}

/// What a home that is none does once somebody has connected; it counts those that its attack
/// has reached.
type Play = fn(&mut Caller, &AtomicUsize) -> std::io::Result<()>;

fn reached(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::SeqCst);
}

const HOMES: [(&str, Play); 8] = [
    ("flood_of_parameters", |caller, count| {
        reached(count);
        caller.flood(&message(b'S', format!("p\0{}\0", "x".repeat(4000)).as_bytes()))
    }),
    ("flood_of_notices", |caller, count| {
        reached(count);
        caller.flood(&message(b'N', &[b'M'; 3000]))
    }),
    ("silent", |caller, count| {
        reached(count);
        caller.keep_silent()
    }),
    ("long_message", |caller, count| {
        reached(count);
        caller.say(&[b'S', 0x3f, 0xff, 0xff, 0xff])?;
        caller.flood(&[0; 1000])
    }),
    ("silent_behind_the_login", |caller, count| {
        caller.welcome()?;
        reached(count);
        caller.keep_silent()
    }),
    ("endless_rows", |caller, count| {
        caller.welcome()?;
        caller.asked()?;
        reached(count);
        caller.flood(&row().repeat(100))
    }),
    ("long_row", |caller, count| {
        caller.welcome()?;
        caller.asked()?;
        reached(count);
        caller.say(&[b'D', 0x3f, 0xff, 0xff, 0xff])?;
        caller.flood(&[0; 1000])
    }),
    ("unreadable", |caller, count| {
        caller.welcome()?;
        loop {
            caller.asked()?;
            reached(count);
            caller.say(&message(b'E', &[]))?;
            caller.say(&message(b'Z', b"?"))?;
        }
    }),
];

#[test]
fn a_home_that_lies_or_floods_harms_its_own_sessions_alone() {
    use std::fmt::Write as _;
    let mut doors = Vec::new();
    let stage = Stage::with(&[("limits.connect_ms_max", "2000")], |text, own| {
        // On the lab's own address its other ports are free.
        let host = own.rsplit_once(':').unwrap().0;
        for (port, (name, play)) in (6001..).zip(HOMES) {
            let count = Arc::new(AtomicUsize::new(0));
            let home = fake::listen({
                let count = count.clone();
                move |caller| play(caller, &count)
            });
            let door = format!("{host}:{port}");
            write!(
                text,
                "\n[clusters.{name}]\nwriter = \"{home}\"\n\n[[listeners]]\nlisten = \"{door}\"\n\
                 cluster = \"{name}\"\nendpoint = \"writer\"\n"
            )
            .unwrap();
            doors.push((name, door, count));
        }
    });
    stage.attack("nothing", 100, || std::thread::sleep(Duration::from_millis(200)));
    let files = || std::fs::read_dir(format!("/proc/{}/fd", stage.pid())).unwrap().count();
    let before = files();
    for (name, door, count) in doors {
        stage.attack(&format!("a home: {name}"), 100, || {
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let (door, password) = (door.clone(), stage.lab.state().password.clone());
                    std::thread::spawn(move || call(&door, &password))
                })
                .collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap());
        });
        assert!(count.load(Ordering::SeqCst) >= CALLERS, "{name}: {count:?}");
        // Nor do its sessions go on for nobody: each would hold four files or more.
        eventually(name, files, |files| *files < before + CALLERS);
    }
    stage.end();
}

/// Sessions of a home that is none.
const CALLERS: usize = 4;

/// Somebody who asks something, and goes three seconds later.
fn call(door: &str, password: &str) {
    let stream = dial(door).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    if let Ok(mut client) = Client::over(stream, door).log_in("postgres", password, "usersdb") {
        client.start("SELECT * FROM far");
        let (mut bytes, began) = ([0; 64 * 1024], Instant::now());
        while client.stream.read(&mut bytes).is_ok_and(|n| n > 0)
            && began.elapsed() < Duration::from_secs(3)
        {}
    }
}

#[test]
fn a_connection_that_died_while_it_was_idle_costs_nothing() {
    let stage = Stage::new(&[]);
    let mut client = stage.connect();
    for sql in [JOIN, "SELECT count(*) FROM far", "SELECT max(name) FROM far WHERE id < 3"] {
        client.query(sql);
        let as_before = client.query(sql).rows;
        let taken = route(&mut client);
        assert_ne!(taken, "fallback", "{sql}");
        for _ in 0..3 {
            let others = "FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            stage.at_source(&format!("SELECT pg_terminate_backend(pid) {others}"));
            // One that is still there would die in the middle of what comes.
            let left = || stage.at_source(&format!("SELECT count(*) {others}"));
            eventually("the source's connections end", left, |left| left.trim() == "0");
            assert_eq!(client.query(sql).rows, as_before);
            assert_eq!(route(&mut client), taken, "{sql}");
        }
    }
    stage.end();
}

#[test]
fn idle_transactions_of_one_role_leave_connections_to_others() {
    let stage = Stage::new(&[("limits.source_connections_max", "4")]);
    let mut idle: Vec<Client> = (0..8).map(|_| stage.connect()).collect();
    for client in &mut idle {
        client.query("BEGIN");
        assert_eq!(client.value("SELECT count(*) FROM far"), "1000");
    }
    let mut other = stage.connect();
    for _ in 0..5 {
        assert_eq!(other.value(JOIN), "1000");
        assert_eq!(route(&mut other), "home_join");
    }
    for client in &mut idle {
        assert_eq!(client.value("SELECT count(*) FROM far"), "1000");
        assert_eq!(client.query("COMMIT").code(), "ok");
    }
    stage.end();
}

#[test]
fn long_rows_pass_as_they_come() {
    let stage = Stage::new(&[]);
    let long = 150 * 1024 * 1024;
    for (what, sql) in [
        ("relayed", format!("SELECT repeat('x', {long})")),
        (
            "computed by home",
            format!(
                "SELECT repeat(left(near.name, 1), {long}) FROM near JOIN far USING (id) WHERE near.id = 5"
            ),
        ),
        (
            "copied",
            format!(
                "COPY (SELECT repeat(left(near.name, 1), {long}) FROM near JOIN far USING (id) WHERE near.id = 5) TO STDOUT"
            ),
        ),
    ] {
        stage.attack(&format!("a row of 150 MB, {what}"), 100, || {
            let mut client = stage.connect();
            client.start(&sql);
            let mut bytes = 0;
            loop {
                let mut head = [0; 5];
                client.stream.read_exact(&mut head).unwrap();
                let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as u64 - 4;
                let mut body = Read::take(&mut client.stream, size);
                bytes += std::io::copy(&mut body, &mut std::io::sink()).unwrap();
                assert_ne!(head[0], b'E', "{what}");
                if head[0] == b'Z' {
                    break;
                }
            }
            assert!(bytes > long, "{what}: {bytes}");
            if what == "computed by home" {
                assert_eq!(route(&mut client), "home_join");
            }
        });
    }
    // Of a source's the header is enough.
    stage.attack("a source's row of 200 MB", 150, || {
        let mut client = stage.connect();
        let sql = "SELECT length(doc || near.name) FROM heavy JOIN near USING (id)";
        assert_eq!(client.value(sql), (200 * 1024 * 1024 + 2).to_string());
        assert_eq!(route(&mut client), "fallback");
    });
    stage.end();
}

/// The rows of `SHOW pgspan.memory`: bytes in use, and the bound.
fn memory(client: &mut Client) -> Vec<(u64, u64)> {
    let rows = client.numbers_of("SHOW pgspan.memory");
    rows.iter().map(|row| (row[2], row[3])).collect()
}

#[test]
fn what_is_remembered_has_a_bound() {
    let stage = Stage::new(&[
        ("limits.remembered_bytes_max", "33554432"),
        ("limits.prepared_bytes_max", "16777216"),
    ]);
    let rounds = if is_strict() { 10_000 } else { 300 };
    stage.attack("texts with 1,000 ids each", 250, || {
        let mut client = stage.connect();
        for round in 0..rounds {
            let ids: Vec<String> = (0..1000).map(|id| (id * 7 + round).to_string()).collect();
            let sql = format!(
                "SELECT count(*) FROM near JOIN far USING (id) WHERE far.id IN ({})",
                ids.join(", ")
            );
            assert_eq!(client.query(&sql).code(), "ok");
        }
        let memory = memory(&mut client);
        assert!(memory.iter().all(|(bytes, max)| bytes <= max), "{memory:?}");
        assert!(memory.iter().map(|(bytes, _)| bytes).sum::<u64>() > 1_000_000, "{memory:?}");
    });
    stage.attack("200 prepared texts of 250 kB", 200, || {
        let mut client = stage.connect();
        let pad = "x".repeat(250_000);
        for number in 0..200 {
            let sql = format!(
                "SELECT count(*) FROM near JOIN far USING (id) WHERE far.name <> '{pad}{number}'"
            );
            let mut bytes = message(b'P', format!("s{number}\0{sql}\0\0\0").as_bytes());
            bytes.extend(message(b'S', &[]));
            client.send(&bytes).unwrap();
            assert_eq!(client.finish().code(), "ok");
        }
        // Those that are remembered and those that are not.
        for number in [0, 199] {
            let mut bytes = message(b'B', format!("\0s{number}\0\0\0\0\0\0\0").as_bytes());
            bytes.extend(message(b'E', &[0; 5]));
            bytes.extend(message(b'S', &[]));
            client.send(&bytes).unwrap();
            let answer = client.finish();
            assert_eq!((answer.code(), answer.rows.len()), ("ok", 1), "{number}: {answer:?}");
        }
        let memory = memory(&mut client);
        assert!(memory.iter().all(|(bytes, max)| bytes <= max), "{memory:?}");
    });
    stage.attack("values of 20 MB", 250, || {
        let mut client = stage.connect();
        let before: u64 = memory(&mut client).iter().map(|(bytes, _)| bytes).sum();
        let value = "y".repeat(20 * 1024 * 1024);
        for _ in 0..3 {
            let sql =
                "SELECT count(*) FROM near JOIN far USING (id) WHERE far.name <> $1 OR near.id < 0";
            let mut bytes = message(b'P', format!("\0{sql}\0\0\x01\0\0\0\x19").as_bytes());
            let mut bind = b"\0\0\0\0\0\x01".to_vec();
            bind.extend((value.len() as u32).to_be_bytes());
            bind.extend(value.as_bytes());
            bind.extend([0, 0]);
            bytes.extend(message(b'B', &bind));
            bytes.extend(message(b'E', &[0; 5]));
            bytes.extend(message(b'S', &[]));
            client.send(&bytes).unwrap();
            let answer = client.finish();
            assert_eq!((answer.code(), &answer.rows[0][..]), ("ok", "1000"), "{answer:?}");
        }
        let after: u64 = memory(&mut client).iter().map(|(bytes, _)| bytes).sum();
        assert!(after < before + 1024 * 1024, "{before} {after}");
    });
    let rounds = if is_strict() { 1_000 } else { 20 };
    stage.attack("statements of 250 kB", 250, || {
        let mut client = stage.connect();
        for round in 0..rounds {
            let ids: Vec<String> =
                (0..36_000).map(|id| (100_000 + round * 10 + id).to_string()).collect();
            let list = ids.join(",");
            let sql = format!(
                "SELECT count(*) FROM near JOIN far USING (id) WHERE far.id NOT IN ({list})"
            );
            assert!(sql.len() > 250_000 && sql.len() < 256 * 1024);
            assert_eq!(client.value(&sql), "1000");
        }
        // Nor does home keep all of them.
        let kept = "SELECT sum(length(statement)) FROM pg_prepared_statements";
        let kept: usize = client.value(kept).parse().unwrap();
        assert!(kept < 2_000_000, "{kept}");
    });
    stage.end();
}

#[test]
fn what_is_prepared_at_home_has_a_bound_behind_errors_too() {
    let stage = Stage::new(&[]);
    let mut client = stage.connect();
    let mut most = 0;
    for round in 0..300 {
        let sql = format!("SELECT count(*) + {round} FROM near JOIN far USING (id)");
        assert_eq!(client.value(&sql), (1000 + round).to_string());
        // Home refuses this one while it is planned for.
        let sql = format!("SELECT nothing{round} FROM near JOIN far USING (id)");
        assert_eq!(client.query(&sql).code(), "42703");
        let count = client.value("SELECT count(*) FROM pg_prepared_statements");
        most = most.max(count.parse::<usize>().unwrap());
    }
    // Those in use are not closed.
    assert!((100..270).contains(&most), "{most}");
    stage.end();
}
