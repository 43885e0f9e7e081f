//! Half of something: clients that die in the middle of a message or of COPY, messages
//! that come in pieces, servers that end in the middle of an engine's stream.

use std::time::{Duration, Instant};

use crate::client::{Client, message};
use crate::world::{Turn, assert_works, becomes, eventually, route, turn};

/// Larger than what the gateway holds of a message that it only relays.
const LARGE_BYTES: usize = 700 * 1024;

/// A Bind of one text parameter to the statement `s`.
fn bind(value: &[u8]) -> Vec<u8> {
    let mut body = b"\0s\0\0\0\0\x01".to_vec();
    body.extend_from_slice(&(value.len() as u32).to_be_bytes());
    body.extend_from_slice(value);
    body.extend_from_slice(&[0, 0]);
    message(b'B', &body)
}

fn prepare(client: &mut Client, sql: &str) {
    client.send(&message(b'P', format!("s\0{sql}\0\0\0").as_bytes())).unwrap();
    client.send(&message(b'S', &[])).unwrap();
    assert_eq!(client.finish().status, b'I');
}

fn in_pieces(client: &mut Client, bytes: &[u8]) {
    for piece in bytes.chunks(48 * 1024) {
        client.send(piece).unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Ends a connection as a process that dies does: at once, or half of it first.
fn die(client: Client, half_first: bool) {
    if half_first {
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(client);
}

#[test]
fn the_process_that_a_client_is_told_is_homes() {
    let world = turn();
    let mut client = world.connect();
    let told = client.process().to_string();
    assert_eq!(client.value("SELECT pg_backend_pid()"), told);
    assert_eq!(
        world.at_home(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {told}")),
        "1"
    );
    drop(client);
    world.assert_settled();
}

#[test]
fn statements_of_the_gateways_are_not_left_in_sessions_that_only_relay() {
    let world = turn();
    // Twice: DDL makes the gateway read its catalog again.
    for _ in 0..2 {
        let mut client = world.connect();
        assert_eq!(client.query("CREATE TEMPORARY TABLE t (i int)").code(), "ok");
        assert_eq!(client.query("SELECT count(*) FROM t").code(), "ok");
        assert_eq!(client.value("SELECT count(*) FROM pg_prepared_statements"), "0");
    }
    world.assert_settled();
}

#[test]
fn a_large_parameter_in_pieces() {
    let world = turn();
    let mut client = world.connect();
    prepare(&mut client, "SELECT count(*) FROM small WHERE name <> $1");
    for size in [LARGE_BYTES, 10, 2 * LARGE_BYTES] {
        let batch = [bind(&vec![b'x'; size]), message(b'E', &[0; 5]), message(b'S', &[])].concat();
        in_pieces(&mut client, &batch);
        assert_eq!(client.finish().rows, ["100"], "{size}");
        assert_works(&mut client);
    }
    drop(client);
    world.assert_settled();
}

#[test]
fn an_error_is_told_before_a_long_batch_ends() {
    let world = turn();
    let mut client = world.connect();
    prepare(&mut client, "SELECT count(*) FROM small WHERE id = $1::text::int");
    let one = [bind(&[b'x'; 4096]), message(b'E', &[0; 5])].concat();
    for _ in 0..2 * LARGE_BYTES / one.len() {
        client.send(&one).unwrap();
    }
    let answered = Instant::now();
    loop {
        let (tag, _) = client.next().unwrap();
        assert_ne!(tag, b'Z');
        if tag == b'E' {
            break;
        }
    }
    assert!(answered.elapsed() < Duration::from_secs(5));
    client.send(&message(b'S', &[])).unwrap();
    let answer = client.finish();
    assert_eq!((answer.shape.as_str(), answer.status), ("Z", b'I'));
    assert_works(&mut client);
    drop(client);
    world.assert_settled();
}

#[test]
fn the_client_dies_in_the_middle_of_a_message() {
    let world = turn();
    world.at_home("CREATE TABLE halves (id int)");
    let foreign = "SELECT count(p.who || s.name) FROM small s JOIN people p USING (id)\0";
    let statement = format!("\0{foreign}\0\0");
    let row = message(b'Q', b"INSERT INTO halves VALUES (2)\0");
    let parse = message(b'P', statement.as_bytes());
    let large = bind(&vec![b'x'; LARGE_BYTES]);
    let held = [parse.clone(), message(b'B', &[0; 8])].concat();
    let inputs: [(&str, Vec<u8>); 8] = [
        ("a tag", vec![b'Q']),
        ("half a length", row[..3].to_vec()),
        ("half a query", row[..20].to_vec()),
        ("half a query of a foreign table", message(b'Q', foreign.as_bytes())[..30].to_vec()),
        ("half a Parse", parse[..30].to_vec()),
        ("a batch without a Sync", held.clone()),
        ("a batch and half an Execute", [held, vec![b'E', 0, 0]].concat()),
        ("half a large Bind", large[..LARGE_BYTES / 2].to_vec()),
    ];
    for block in [false, true] {
        for half_first in [false, true] {
            for (what, bytes) in &inputs {
                let mut client = world.connect();
                prepare(&mut client, "SELECT count(*) FROM small WHERE name <> $1");
                if block {
                    assert_eq!(
                        client.query("BEGIN; INSERT INTO halves VALUES (1)").code(),
                        "ok",
                        "{what}"
                    );
                    assert_eq!(client.query("SELECT count(*) FROM small").code(), "ok", "{what}");
                }
                client.send(bytes).unwrap();
                die(client, half_first);
            }
            world.assert_settled();
            assert_eq!(world.at_home("SELECT count(*) FROM halves"), "0", "block {block}");
        }
    }
    world.at_home("DROP TABLE halves");
}

#[test]
fn the_client_dies_in_the_middle_of_copy_in() {
    let world = turn();
    world.at_home("CREATE TABLE loaded (id int, name text)");
    world.at_source("CREATE TABLE loaded (id int, name text)");
    world.at_home(
        "CREATE FOREIGN TABLE loaded_far (id int, name text) SERVER orders
         OPTIONS (table_name 'loaded')",
    );
    let line = message(b'd', b"1\tone\n2\ttwo\n");
    let large = message(b'd', &b"3\tthree three three three three three three\n".repeat(16_000));
    let inputs: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("whole rows", line.clone()),
        ("half a row", message(b'd', b"1\tone\n2\tt")),
        ("half a message", line[..9].to_vec()),
        ("half a large message", [line.clone(), large[..large.len() / 2].to_vec()].concat()),
        ("half of the end", [large, vec![b'c', 0, 0]].concat()),
    ];
    for table in ["loaded", "loaded_far"] {
        for half_first in [false, true] {
            for (what, bytes) in &inputs {
                let mut client = world.connect();
                client.start(&format!("COPY {table} FROM STDIN"));
                let (tag, body) = client.next().unwrap();
                assert_eq!(tag, b'G', "{what}: {}", String::from_utf8_lossy(&body));
                client.send(bytes).unwrap();
                die(client, half_first);
            }
            world.assert_settled();
            assert_eq!(world.at_home("SELECT count(*) FROM loaded"), "0", "{table}");
            assert_eq!(world.at_source("SELECT count(*) FROM loaded"), "0", "{table}");
        }
    }
    // Home ends in the middle of it; the client goes on sending.
    let mut client = world.connect();
    client.start("COPY loaded FROM STDIN");
    assert_eq!(client.next().unwrap().0, b'G');
    client.send(&line).unwrap();
    world.at_home(&format!("SELECT pg_terminate_backend({})", client.process()));
    for _ in 0..200 {
        if client.send(&line).is_err() {
            break;
        }
    }
    let answer = client.finish();
    assert!(["57P01", "08006", "lost"].contains(&answer.code()), "{answer:?}");
    assert_eq!(answer.status, 0, "{answer:?}");
    world.assert_settled();
    assert_eq!(world.at_home("SELECT count(*) FROM loaded"), "0");
    world.at_home("DROP FOREIGN TABLE loaded_far; DROP TABLE loaded");
    world.at_source("DROP TABLE loaded");
}

/// Two sources, so that each is a stream of its own; one of them waits.
const STREAMS: &str = "SELECT l.name || p.who || length(b.pad)
     FROM long b JOIN people p USING (who) JOIN locked_too l ON l.id = p.id";

/// Makes the table of [`STREAMS`] that is longer than all that is on its way. Its key is
/// a text: integers of the others would restrict it.
fn make_long(world: &Turn) {
    world.at_source(
        "CREATE TABLE IF NOT EXISTS long AS
         SELECT 'p' || g AS who, repeat(md5(g::text), 8) AS pad FROM generate_series(1, 300000) g;
         ANALYZE long",
    );
    // The small one is held in memory, the long one streams past it.
    world.at_home(
        "CREATE FOREIGN TABLE IF NOT EXISTS long (who text, pad text) SERVER orders;
         ANALYZE long, locked_too",
    );
}

/// Starts [`STREAMS`] in the engine and waits until rows of one stream have come while
/// the other waits for the lock: the client, and who holds the lock.
fn start_streams(world: &Turn, extended: bool) -> (Client, Client) {
    let mut client = world.connect();
    let mut watcher = world.connect();
    assert_eq!(client.query("SET pgspan.strategy = 'engine'").code(), "ok");
    // Planning would wait for the lock; and a plan whose tables the gateway has just met
    // serves but one run.
    for _ in 0..3 {
        assert_eq!(client.query(STREAMS).rows.len(), 100);
    }
    assert_eq!(route(&mut client), "engine");
    let holder = world.lock();
    client.start_as(STREAMS, extended);
    world.until_blocked();
    eventually("rows of the engine's stream", || watcher.fetched(), |rows| *rows > 0);
    (client, holder)
}

#[test]
fn the_source_ends_in_the_middle_of_an_engines_stream() {
    let world = turn();
    make_long(&world);
    for extended in [false, true] {
        for violent in [false, true] {
            let (mut client, holder) = start_streams(&world, extended);
            world.end_reading("long", violent);
            drop(holder);
            let answer = client.finish();
            // Nothing has been sent yet: the next rung may have found the server again.
            assert!(
                ["ok", "08006", "08001", "57P01", "57P02", "57P03", "HV000"]
                    .contains(&answer.code()),
                "{answer:?}"
            );
            if answer.code() == "ok" {
                assert_eq!(answer.rows.len(), 100);
            } else {
                assert!(answer.rows.is_empty(), "{answer:?}");
            }
            assert_eq!(answer.status, b'I', "{answer:?}");
            eventually("the same statement", || client.query(STREAMS).rows.len(), |n| *n == 100);
            assert_eq!(route(&mut client), "engine");
            drop(client);
            world.assert_settled();
        }
    }
}

#[test]
fn home_or_the_client_ends_in_the_middle_of_an_engines_stream() {
    let world = turn();
    make_long(&world);
    for extended in [false, true] {
        for whose in ["home", "client", "cancel"] {
            let (mut client, mut holder) = start_streams(&world, extended);
            match whose {
                "home" => {
                    world.kill_backend("users-writer", &client.process().to_string());
                    // That home is gone is seen when it is asked for the answer.
                    assert_eq!(holder.query("ROLLBACK").code(), "ok");
                    let answer = client.finish();
                    assert!(["08006", "57P02", "lost"].contains(&answer.code()), "{answer:?}");
                    assert_eq!(answer.status, 0, "{answer:?}");
                }
                "cancel" => {
                    client.cancel();
                    let answer = client.finish();
                    assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{answer:?}");
                    assert_works_by_itself(&mut client);
                }
                _ => {}
            }
            drop(client);
            becomes(&format!("{whose}: waiting at the source"), "0", || {
                world.at_source("SELECT count(*) FROM pg_locks WHERE NOT granted")
            });
            drop(holder);
            world.assert_settled();
        }
    }
}

/// As [`assert_works`], with the strategy chosen again.
fn assert_works_by_itself(client: &mut Client) {
    assert_eq!(client.query("RESET pgspan.strategy").code(), "ok");
    assert_works(client);
}
