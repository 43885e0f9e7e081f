//! Bad input and faults, against real servers: the gateway survives each, frees
//! what it held, keeps its secrets, and the next query works.
#![allow(clippy::unwrap_used)]

mod blocks;
mod client;
mod crowd;
mod doors;
mod ends;
mod fake;
mod grounds;
mod halves;
mod hostile;
mod races;
mod relay;
mod rows;
mod secrets;
mod spare;
mod stand;
mod tap;
mod world;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use client::{Client, dial, message, startup};
use world::{
    CLIENTS_MAX, LOGIN_MAX, STRANGER, Turn, assert_works, becomes, eventually, route, turn,
};

/// One statement for each strategy that works until somebody stops it, and what
/// it waits for.
const ENDLESS: &[(&str, &str, Waits)] = &[
    ("relay", "SELECT pg_sleep(300)", Waits::AtHome),
    ("direct", "SELECT count(*) FROM locked", Waits::AtSource),
    (
        "home join, fetching",
        "SELECT p.who || l.name FROM locked l JOIN people p USING (id)",
        Waits::AtSource,
    ),
    (
        "home join, home computes",
        "SELECT count(*) FROM small s, people a, people b, people c
         WHERE s.id + a.id + b.id + c.id = -1",
        Waits::AtHome,
    ),
    ("fallback, home waits", "SELECT name, pg_sleep(300) FROM small", Waits::AtHome),
    ("fallback, the source waits", "SELECT * FROM locked FOR UPDATE", Waits::AtSource),
];

/// Where an endless statement is at work.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    AtHome,
    AtSource,
}

/// Starts an endless statement and waits until it is at work.
fn start_endless(world: &Turn, client: &mut Client, sql: &str, waits: Waits, extended: bool) {
    client.start_as(sql, extended);
    match waits {
        Waits::AtSource => world.until_blocked(),
        Waits::AtHome => {
            becomes("work at home", "1", || {
                world.at_home(
                    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'
                     AND pid <> pg_backend_pid() AND backend_type = 'client backend'
                     AND now() - query_start > interval '100 ms'",
                )
            });
        }
    }
}

/// Calls `then` for every endless statement in either protocol: its name, the session in
/// which it is at work, and the session that holds the lock.
fn while_each_is_at_work(world: &Turn, mut then: impl FnMut(&str, Client, Client)) {
    for extended in [false, true] {
        for (what, sql, waits) in ENDLESS {
            let mut client = world.connect();
            let holder = world.lock();
            start_endless(world, &mut client, sql, *waits, extended);
            then(what, client, holder);
        }
        world.assert_settled();
    }
}

#[test]
fn wrong_password() {
    let world = turn();
    let fault = world.connect_as("postgres", "not-the-password", "usersdb").err().unwrap();
    assert_eq!(fault.code, "28P01", "{fault:?}");
    assert_eq!(fault.message, "password authentication failed for user \"postgres\"");
    // Nobody learns whether a role exists.
    let nobody = world.connect_as("nobody", "not-the-password", "usersdb").err().unwrap();
    assert_eq!(nobody.code, "28P01", "{nobody:?}");
    // The gateway's list and the server disagree: the server's word counts.
    let stranger = world.connect_as(STRANGER.0, STRANGER.1, "usersdb").err().unwrap();
    assert_eq!(stranger.code, "28P01", "{stranger:?}");
    assert!(!stranger.all.contains(STRANGER.1), "{stranger:?}");
    world.assert_settled();
}

#[test]
fn unknown_database() {
    let world = turn();
    let fault = world.connect_as("postgres", world.password(), "nowhere").err().unwrap();
    assert_eq!(fault.code, "3D000", "{fault:?}");
    assert_eq!(fault.message, "database \"nowhere\" does not exist");
    world.assert_settled();
}

#[test]
fn the_source_is_down_and_comes_back() {
    let world = turn();
    let mut client = world.connect();
    assert_works(&mut client);
    world.stop("orders-writer");
    let statements = [
        "SELECT count(*) FROM small",
        "SELECT p.who || s.name FROM small s JOIN people p USING (id)",
        "SELECT name, random() FROM small",
    ];
    let mut fresh = world.connect();
    for sql in statements {
        for client in [&mut client, &mut fresh] {
            let answer = client.query(sql);
            let fault = answer.fault.clone().unwrap();
            assert!(["08001", "08006"].contains(&fault.code.as_str()), "{sql}: {answer:?}");
            assert_eq!(answer.status, b'I', "{sql}: {answer:?}");
            assert!(fault.message.contains("could not connect to server \"orders\""), "{fault:?}");
            assert!(fault.detail.contains(&world.server("orders-writer").link.host), "{fault:?}");
            assert!(!fault.all.contains(world.password()), "{fault:?}");
            assert_eq!(client.value("SELECT count(*) FROM people"), "1000");
        }
    }
    // A scan that is never executed needs no source.
    assert_eq!(fresh.query("SELECT name FROM small WHERE false").code(), "ok");
    world.start_again("orders-writer");
    for client in [&mut client, &mut fresh] {
        for sql in statements {
            let answer = client.query(sql);
            assert_eq!(answer.code(), "ok", "{sql}: {answer:?}");
        }
        assert_works(client);
    }
    drop((client, fresh));
    world.assert_settled();
}

#[test]
fn home_is_down_and_comes_back() {
    let world = turn();
    let mut client = world.connect();
    world.stop("users-writer");
    let answer = client.query("SELECT 1");
    assert_eq!(answer.status, 0, "{answer:?}");
    let fault = world.connect_as("postgres", world.password(), "usersdb").err().unwrap();
    assert_eq!(fault.code, "08001", "{fault:?}");
    assert!(fault.message.contains("users"), "{fault:?}");
    assert!(!fault.all.contains(world.password()), "{fault:?}");
    world.start_again("users-writer");
    world.assert_settled();
}

#[test]
fn the_source_dies_while_it_is_fetched_from() {
    let world = turn();
    for (what, sql, _) in ENDLESS.iter().filter(|(_, _, waits)| *waits == Waits::AtSource) {
        let mut client = world.connect();
        let holder = world.lock();
        start_endless(&world, &mut client, sql, Waits::AtSource, false);
        let pid = world.at_source("SELECT pid FROM pg_locks WHERE NOT granted LIMIT 1");
        world.kill_backend("orders-writer", &pid);
        drop(holder);
        let answer = client.finish();
        // Before the first row the next rung may have found the server up again.
        assert!(
            ["ok", "08006", "08001", "57P03", "57P02", "HV000"].contains(&answer.code()),
            "{what}: {answer:?}"
        );
        if answer.code() == "ok" {
            assert_eq!(answer.status, b'I');
        }
        eventually(
            what,
            || client.query("SELECT count(*) FROM small").code().to_owned(),
            |code| code == "ok",
        );
        assert_works(&mut client);
        drop(client);
        world.assert_settled();
    }
}

#[test]
fn the_source_dies_in_the_middle_of_direct_rows() {
    let world = turn();
    let sql = "SELECT id, pad FROM big";
    for extended in [false, true] {
        let mut client = world.connect();
        client.start_as(sql, extended);
        client.first_row();
        let pid = world.at_source(
            "SELECT min(pid) FROM pg_stat_activity WHERE state = 'active'
             AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        );
        world.kill_backend("orders-writer", &pid);
        let answer = client.finish();
        assert!(answer.rows.len() < 89_999, "the source was done too early");
        assert!(["08006", "08001", "57P02"].contains(&answer.code()), "{:?}", answer.fault);
        assert_eq!(answer.shape, "DEZ");
        assert!(!answer.fault.unwrap().all.contains(world.password()));
        assert_eq!(answer.status, b'I', "the session goes on");
        assert_works(&mut client);
    }
    world.assert_settled();
}

#[test]
fn statement_timeout_in_the_middle_of_direct_rows() {
    let world = turn();
    let mut client = world.connect();
    for extended in [false, true] {
        assert_eq!(client.query("SET statement_timeout = '1s'").code(), "ok");
        let sql = "SELECT id, pad FROM big";
        client.start_as(sql, extended);
        client.first_row();
        // A client that reads slowly is the server's time, as in PostgreSQL.
        std::thread::sleep(Duration::from_millis(1500));
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{:?}", answer.fault);
        assert_eq!(answer.shape, "DEZ");
        assert_eq!(client.query("SET statement_timeout = 0").code(), "ok");
        assert_works(&mut client);
    }
    drop(client);
    world.assert_settled();
}

#[test]
fn home_dies_in_the_middle_of_relayed_rows() {
    let world = turn();
    let mut client = world.connect();
    let pid = client.value("SELECT pg_backend_pid()");
    client.start("SELECT repeat('x', 1000) FROM generate_series(1, 300000)");
    client.first_row();
    world.kill_backend("users-writer", &pid);
    let answer = client.finish();
    assert!(answer.rows.len() < 299_999, "home was done too early");
    assert_eq!(answer.status, 0, "the session is over: {:?}", answer.fault);
    assert!(["08006", "57P02"].contains(&answer.code()), "{:?}", answer.fault);
    world.assert_settled();
}

#[test]
fn home_dies_while_it_computes_a_join() {
    let world = turn();
    let mut client = world.connect();
    let pid = client.value("SELECT pg_backend_pid()");
    let (_, sql, waits) = ENDLESS[3];
    start_endless(&world, &mut client, sql, waits, true);
    world.kill_backend("users-writer", &pid);
    let answer = client.finish();
    assert!(["08006", "57P02"].contains(&answer.code()), "{answer:?}");
    assert_eq!(answer.status, 0, "{answer:?}");
    world.assert_settled();
}

#[test]
fn the_client_goes_away_in_the_middle_of_rows() {
    let world = turn();
    for sql in [
        "SELECT repeat('x', 1000) FROM generate_series(1, 3000000)",
        "SELECT id, pad FROM big",
        "SELECT b.pad, p.who FROM big b LEFT JOIN people p USING (id)",
        "SELECT b.pad, random() FROM big b",
    ] {
        for goodbye in [&b""[..], b"X\0\0\0\x04", b"Q\0\0\0\x06 \0X\0\0\0\x04"] {
            let mut client = world.connect();
            client.start(sql);
            client.first_row();
            client.send(goodbye).unwrap();
            drop(client);
            world.assert_settled();
        }
    }
}

#[test]
fn the_client_goes_away_while_servers_work() {
    let world = turn();
    let mut calls = 0;
    while_each_is_at_work(&world, |what, mut client, holder| {
        calls += 1;
        // What home runs, it finishes before Terminate.
        let ours = what.starts_with("home join") || what == "direct";
        if ours && calls > ENDLESS.len() {
            client.send(b"X\0\0\0\x04").unwrap();
        }
        drop(client);
        becomes(&format!("{what}: work at home"), "0", || world.home_at_work());
        becomes(&format!("{what}: waiting at the source"), "0", || {
            world.at_source("SELECT count(*) FROM pg_locks WHERE NOT granted")
        });
        drop(holder);
    });
}

#[test]
fn cancel_during_each_strategy() {
    let world = turn();
    while_each_is_at_work(&world, |what, mut client, holder| {
        let asked = Instant::now();
        client.cancel();
        let answer = client.finish();
        assert_eq!(answer.code(), "57014", "{what}: {answer:?}");
        let message = answer.fault.unwrap().message;
        assert_eq!(message, "canceling statement due to user request", "{what}");
        assert_eq!(answer.status, b'I', "{what}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{what}: {:?}", asked.elapsed());
        drop(holder);
        // A cancel that comes late hits nothing.
        client.cancel();
        assert_works(&mut client);
    });
}

#[test]
fn cancel_in_a_block_and_of_direct_rows() {
    let world = turn();
    let mut client = world.connect();
    for (what, sql, waits) in ENDLESS {
        let holder = world.lock();
        assert_eq!(client.query("BEGIN").code(), "ok");
        start_endless(&world, &mut client, sql, *waits, false);
        client.cancel();
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'E'), "{what}: {answer:?}");
        assert_eq!(client.query("SELECT count(*) FROM small").code(), "25P02", "{what}");
        assert_eq!(client.query("ROLLBACK").status, b'I', "{what}");
        drop(holder);
        assert_works(&mut client);
    }
    client.start("SELECT id, pad FROM big");
    client.first_row();
    client.cancel();
    let answer = client.finish();
    assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{} rows", answer.rows.len());
    assert_works(&mut client);
    drop(client);
    world.assert_settled();
}

#[test]
fn a_wrong_cancel_key_stops_nothing() {
    let world = turn();
    let mut client = world.connect();
    client.start("SELECT pg_sleep(1)");
    for key in [[0_u8; 8], [0xff; 8]] {
        let mut stream = dial(world.gateway()).unwrap();
        let mut bytes = 16_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&80_877_102_u32.to_be_bytes());
        bytes.extend_from_slice(&key);
        stream.write_all(&bytes).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or_default(), 0);
    }
    assert_eq!(client.finish().code(), "ok");
    drop(client);
    world.assert_settled();
}

#[test]
fn the_remote_column_or_table_is_gone() {
    let world = turn();
    let mut old = world.connect();
    let join = "SELECT count(p.who || f.name) FROM passing f JOIN people p USING (id)";
    for (gone, code) in [
        ("ALTER TABLE passing RENAME name TO title", "42703"),
        ("ALTER TABLE passing RENAME title TO name; ALTER TABLE passing RENAME TO gone", "42P01"),
    ] {
        world.at_source("SELECT 1");
        let warm = old.query(join);
        if code == "42703" {
            assert_eq!(warm.code(), "ok", "{warm:?}");
        }
        world.at_source(gone);
        for sql in [join, "SELECT name FROM passing"] {
            let mut new = world.connect();
            for client in [&mut old, &mut new] {
                let answer = client.query(sql);
                assert_eq!((answer.code(), answer.status), (code, b'I'), "{sql}: {answer:?}");
                let fault = answer.fault.unwrap();
                assert!(fault.all.contains("remote SQL command"), "{fault:?}");
                assert_works(client);
            }
        }
    }
    world.at_source("ALTER TABLE gone RENAME TO passing");
    assert_eq!(old.value(join), "1");
    drop(old);
    world.assert_settled();
}

#[test]
fn no_user_mapping_and_a_refused_one() {
    let world = turn();
    let mut client = world.connect();
    for sql in [
        "SELECT count(*) FROM unmapped",
        "SELECT p.who, u.name FROM unmapped u JOIN people p USING (id)",
    ] {
        let answer = client.query(sql);
        assert_eq!((answer.code(), answer.status), ("42704", b'I'), "{answer:?}");
        assert!(answer.fault.unwrap().message.contains("user mapping not found for \"postgres\""));
    }
    for sql in [
        "SELECT count(*) FROM refused",
        "SELECT p.who, u.name FROM refused u JOIN people p USING (id)",
    ] {
        let answer = client.query(sql);
        assert_eq!((answer.code(), answer.status), ("08001", b'I'), "{answer:?}");
        let fault = answer.fault.unwrap();
        assert!(fault.message.contains("\"refused\""), "{fault:?}");
        assert!(!fault.all.contains("mapped-secret-9"), "{fault:?}");
    }
    assert_works(&mut client);
    drop(client);
    world.assert_settled();
}

#[test]
fn statement_timeout_during_each_strategy() {
    let world = turn();
    let mut client = world.connect();
    for extended in [false, true] {
        for (what, sql, _) in ENDLESS {
            assert_eq!(client.query("SET statement_timeout = '700ms'").code(), "ok");
            let holder = world.lock();
            let asked = Instant::now();
            client.start_as(sql, extended);
            let answer = client.finish();
            assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{what}: {answer:?}");
            let message = answer.fault.unwrap().message;
            assert_eq!(message, "canceling statement due to statement timeout", "{what}");
            assert!(asked.elapsed() < Duration::from_secs(5), "{what}: {:?}", asked.elapsed());
            drop(holder);
            assert_eq!(client.query("SET statement_timeout = 0").code(), "ok");
            assert_works(&mut client);
        }
    }
    drop(client);
    world.assert_settled();
}

#[test]
fn a_row_of_100_megabytes() {
    const SIZE: usize = 100 * 1024 * 1024;
    let world = turn();
    let mut client = world.connect();
    for (sql, strategy) in [
        ("SELECT repeat('x', 100 * 1024 * 1024)", None),
        ("SELECT doc FROM heavy WHERE id = 1", None),
        (
            "SELECT h.doc || p.who FROM heavy h JOIN people p USING (id) WHERE h.id = 1",
            Some("fallback"),
        ),
    ] {
        let answer = client.query(sql);
        assert_eq!(answer.code(), "ok", "{sql}: {:?}", answer.fault);
        assert!(answer.row_bytes >= SIZE, "{sql}: {} bytes", answer.row_bytes);
        assert_eq!(answer.rows.len(), 1, "{sql}");
        if let Some(strategy) = strategy {
            assert_eq!(route(&mut client), strategy, "{sql}");
        }
    }
    // And to the server.
    let mut sql = "SELECT length('".to_owned();
    sql.push_str(&"y".repeat(SIZE));
    sql.push_str("')");
    assert_eq!(client.value(&sql), SIZE.to_string());
    let light = "SELECT h.doc || p.who FROM heavy h JOIN people p USING (id) WHERE h.id = 2";
    assert_eq!(client.value(light), "lightp2");
    assert_works(&mut client);
    drop(client);
    world.assert_settled();
}

#[test]
fn garbage_before_the_login() {
    let world = turn();
    let mut http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    http.resize(64, b' ');
    let mut huge = 0x7fff_ffff_u32.to_be_bytes().to_vec();
    huge.extend_from_slice(&196_608_u32.to_be_bytes());
    let mut unterminated = startup("postgres", "usersdb");
    let end = unterminated.len() - 1;
    unterminated[end] = b'x';
    let mut old = 8_u32.to_be_bytes().to_vec();
    old.extend_from_slice(&131_072_u32.to_be_bytes());
    let inputs: [(&str, Vec<u8>); 10] = [
        ("HTTP", http),
        ("zeros", vec![0; 100]),
        ("ones", vec![0xff; 100]),
        ("a length of 2 GB", huge),
        ("a length too short", 4_u32.to_be_bytes().to_vec()),
        ("no end of parameters", unterminated),
        ("protocol 2.0", old),
        ("nothing", Vec::new()),
        ("half a length", vec![0, 0]),
        ("half a packet", startup("postgres", "usersdb")[..20].to_vec()),
    ];
    for (what, bytes) in inputs {
        let mut stream = dial(world.gateway()).unwrap();
        stream.write_all(&bytes).unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(started.elapsed() < LOGIN_MAX + Duration::from_secs(3), "{what}: still open");
        assert!(rest.is_empty() || rest[0] == b'E', "{what}: {rest:?}");
    }
    // An answer to SCRAM that is none.
    for reply in
        [&b"SCRAM-SHA-256\0\0\0\0\x04n,,n"[..], b"SCRAM-SHA-256\0\xff\xff\xff\xff", b"", b"MD5\0"]
    {
        let mut stream = dial(world.gateway()).unwrap();
        stream.write_all(&startup("postgres", "usersdb")).unwrap();
        stream.write_all(&message(b'p', reply)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest).into_owned();
        assert!(text.contains("28P01") || text.contains("08P01"), "{reply:?}: {text:?}");
    }
    // A query before the login.
    let mut stream = dial(world.gateway()).unwrap();
    stream.write_all(&startup("postgres", "usersdb")).unwrap();
    stream.write_all(&message(b'Q', b"SELECT 1\0")).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.contains(&b'Z'), "{:?}", String::from_utf8_lossy(&rest));
    world.assert_settled();
}

#[test]
fn garbage_and_half_messages_in_a_session() {
    let world = turn();
    let join = "SELECT count(p.who || s.name) FROM small s JOIN people p USING (id)\0";
    let whole = message(b'Q', join.as_bytes());
    let mut negative = vec![b'Q'];
    negative.extend_from_slice(&(-1_i32).to_be_bytes());
    let mut short = vec![b'Q'];
    short.extend_from_slice(&3_u32.to_be_bytes());
    let mut huge = vec![b'P'];
    huge.extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    huge.extend_from_slice(b"small");
    let sync = message(b'S', &[]);
    let with_sync = |bytes: Vec<u8>| [bytes, sync.clone()].concat();
    let inputs: [(&str, Vec<u8>); 12] = [
        ("an unknown tag", message(b'!', b"xyz")),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
        ("a negative length", negative),
        ("a length too short", short),
        ("2 GB announced", huge),
        ("half a message", whole[..20].to_vec()),
        ("a query without its zero", message(b'Q', &join.as_bytes()[..join.len() - 1])),
        ("an empty query message", message(b'Q', b"")),
        ("a Parse without an end", with_sync(message(b'P', b"\0SELECT name FROM small"))),
        ("a Bind of nothing", with_sync(message(b'B', &[0, 0, 0, 1, 0]))),
        ("an empty Execute", with_sync(message(b'E', b""))),
    ];
    for (what, bytes) in inputs {
        let mut client = world.connect();
        client.send(&bytes).unwrap();
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest);
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: still open");
    }
    world.assert_settled();
    // What PostgreSQL survives, the session survives.
    let mut client = world.connect();
    for (what, bytes) in [
        ("a Parse of garbage", with_sync(message(b'P', b"\0SELECT \xff\xfe FROM small\0\0\0"))),
        ("a Bind of an unknown statement", with_sync(message(b'B', b"\0nothing\0\0\0\0\0\0\0"))),
        ("an Execute of an unknown portal", with_sync(message(b'E', b"nothing\0\0\0\0\0"))),
        ("a query of garbage", message(b'Q', b"SELECT \xff\xfe FROM small\0")),
        ("a Describe of neither", with_sync(message(b'D', b"Xsmall\0"))),
    ] {
        client.send(&bytes).unwrap();
        let answer = client.finish();
        assert_eq!(answer.status, b'I', "{what}: {answer:?}");
        assert!(answer.fault.is_some(), "{what}: {answer:?}");
        assert_works(&mut client);
    }
    // Byte by byte.
    for byte in whole {
        client.send(&[byte]).unwrap();
    }
    assert_eq!(client.finish().rows, ["100"]);
    drop(client);
    world.assert_settled();
}

#[test]
fn too_many_clients() {
    let world = turn();
    // The last one of another test may still be leaving.
    world.assert_settled();
    let mut clients = Vec::new();
    eventually(
        "the limit is reached",
        || {
            let fault = match world.connect_as("postgres", world.password(), "usersdb") {
                Ok(client) => {
                    clients.push(client);
                    return clients.len();
                }
                Err(fault) => fault,
            };
            assert_eq!(fault.code, "53300", "{fault:?}");
            assert!(fault.hint.contains("limits.client_connections_max"), "{fault:?}");
            usize::MAX
        },
        |open| *open == usize::MAX,
    );
    assert_eq!(clients.len(), CLIENTS_MAX);
    // Those who are in are served, and their cancel requests too.
    let mut last = clients.pop().unwrap();
    last.start("SELECT pg_sleep(300)");
    std::thread::sleep(Duration::from_millis(200));
    last.cancel();
    assert_eq!(last.finish().code(), "57014");
    for client in &mut clients {
        assert_works(client);
    }
    drop((clients, last));
    world.assert_settled();
}
