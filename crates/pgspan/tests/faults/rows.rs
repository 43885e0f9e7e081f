//! Something ends while rows of the engine are on their way to a client that does not read
//! them.

use crate::client::Client;
use crate::world::{Turn, assert_works, becomes, eventually, route, turn};

/// Every row of the long table is one of the answer.
const ROWS: usize = 300_000;
const ALL: &str = "SELECT l.who, l.pad, s.name FROM flow l LEFT JOIN small s ON s.name = l.who";

fn make_flow(world: &Turn) {
    world.at_source(&format!(
        "CREATE TABLE IF NOT EXISTS flow AS
         SELECT 'p' || g AS who, repeat(md5(g::text), 8) AS pad, g AS n
         FROM generate_series(1, {ROWS}) g;
         ANALYZE flow"
    ));
    world.at_home(&format!(
        "CREATE FOREIGN TABLE IF NOT EXISTS flow (who text, pad text, n int) SERVER orders;
         CREATE TABLE IF NOT EXISTS near AS SELECT g AS n FROM generate_series(1, {ROWS}) g;
         ANALYZE flow, near"
    ));
}

/// The same rows, each of which home computes: they are more than it takes at once.
const COMPUTED: &str =
    "SELECT l.who || '!', l.pad, s.name FROM flow l LEFT JOIN small s ON s.name = l.who";

/// Starts [`ALL`] and reads its first row.
fn begin(world: &Turn, extended: bool) -> Client {
    begin_with(world, ALL, extended)
}

fn begin_with(world: &Turn, all: &str, extended: bool) -> Client {
    let mut client = world.connect();
    assert_eq!(client.query("SET pgspan.strategy = 'engine'").code(), "ok");
    // A plan whose tables the gateway has just met serves but one run.
    becomes("the engine", "engine", || {
        let answer = client.query(&format!("{all} WHERE l.who < 'p1001'"));
        assert_eq!(answer.code(), "ok", "{answer:?}");
        route(&mut client)
    });
    client.start_as(all, extended);
    client.first_row();
    client
}

#[test]
fn the_source_ends_while_rows_are_on_their_way() {
    let world = turn();
    make_flow(&world);
    for extended in [false, true] {
        for violent in [false, true] {
            let mut client = begin(&world, extended);
            world.end_reading("flow", violent);
            let answer = client.finish();
            // Its own words, if it had time for them, stand where the next row would.
            assert!(["57P01", "57P02", "08006"].contains(&answer.code()), "{}", answer.code());
            assert!(answer.rows.len() < ROWS);
            assert_eq!(answer.status, b'I');
            eventually(
                "the same statement",
                || (client.query(ALL).rows.len(), route(&mut client)),
                |(rows, _)| *rows == ROWS,
            );
            assert_eq!(client.query("RESET pgspan.strategy").code(), "ok");
            assert_works(&mut client);
            drop(client);
            world.assert_settled();
        }
    }
}

#[test]
fn an_error_behind_rows_stands_where_the_next_row_would() {
    let world = turn();
    make_flow(&world);
    let fails = |column: &str| format!("10 / ({column} - {ROWS}) > -100");
    let statements = [
        ("the source", format!("{ALL} WHERE {}", fails("l.n"))),
        (
            "home",
            format!(
                "SELECT f.n, p.who, p.id FROM near f LEFT JOIN people p ON p.id = f.n
                 LEFT JOIN small s ON s.name = p.who WHERE {}",
                fails("f.n")
            ),
        ),
    ];
    for (whose, sql) in &statements {
        for extended in [false, true] {
            let mut client = begin(&world, extended);
            assert_eq!(client.finish().code(), "ok");
            client.start_as(sql, extended);
            client.first_row();
            let answer = client.finish();
            assert_eq!((answer.code(), answer.status), ("22012", b'I'), "{whose}");
            assert_eq!(answer.fault.as_ref().unwrap().message, "division by zero", "{whose}");
            assert!(answer.rows.len() < ROWS, "{whose}");
            assert_eq!(client.query("RESET pgspan.strategy").code(), "ok");
            assert_works(&mut client);
            drop(client);
            world.assert_settled();
        }
    }
}

#[test]
fn a_finish_in_parts_ends_where_it_is_ended() {
    let world = turn();
    make_flow(&world);
    for extended in [false, true] {
        let mut client = begin_with(&world, COMPUTED, extended);
        let answer = client.finish();
        assert_eq!((answer.code(), answer.rows.len(), route(&mut client)), all());
        // An error behind many rows.
        let fails = COMPUTED.replace("l.pad", &format!("10 / (l.n - {ROWS})"));
        client.start_as(&fails, extended);
        client.first_row();
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("22012", b'I'));
        assert_eq!(answer.fault.as_ref().unwrap().message, "division by zero");
        // Whoever does not read holds home back.
        client.start_as(COMPUTED, extended);
        client.first_row();
        client.cancel();
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'));
        assert!(answer.rows.len() < ROWS);
        // The clock runs over all parts.
        assert_eq!(client.query("SET statement_timeout = '4s'").code(), "ok");
        client.start_as(COMPUTED, extended);
        client.first_row();
        std::thread::sleep(std::time::Duration::from_secs(4));
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'));
        let said = &answer.fault.as_ref().unwrap().message;
        assert_eq!(said, "canceling statement due to statement timeout");
        assert_eq!(client.query("RESET ALL").code(), "ok");
        assert_works(&mut client);
        // Who goes leaves nothing behind.
        drop(client);
        drop(begin_with(&world, COMPUTED, extended));
        world.assert_settled();
        let mut client = begin_with(&world, COMPUTED, extended);
        world.kill_backend("users-writer", &client.process().to_string());
        let answer = client.finish();
        assert!(["08006", "57P02", "lost"].contains(&answer.code()), "{}", answer.code());
        drop(client);
        world.assert_settled();
    }
}

#[test]
fn a_batch_goes_on_behind_an_answer() {
    let world = turn();
    make_flow(&world);
    for sql in [ALL, COMPUTED] {
        let mut client = begin_with(&world, sql, true);
        assert_eq!(client.finish().code(), "ok");
        for bounded in [false, true] {
            client.start_closed(sql, bounded);
            let answer = client.finish();
            assert_eq!((answer.code(), answer.shape.as_str()), ("ok", "12TDC3Z"), "{sql}");
            // What is left of a portal home keeps, and so all of it.
            let by_engine = route(&mut client) == "engine";
            assert_eq!((answer.rows.len(), by_engine), (ROWS, !bounded), "{sql}");
        }
        assert_eq!(client.query("RESET pgspan.strategy").code(), "ok");
        assert_works(&mut client);
        drop(client);
        world.assert_settled();
    }
}

#[test]
fn settings_stay_as_they_are_for_all_parts() {
    let world = turn();
    make_flow(&world);
    let stamp = "(timestamptz '2001-01-01' + l.n * interval '1 second')::text";
    let sql = COMPUTED.replace("l.who || '!'", stamp);
    for extended in [false, true] {
        let mut client = begin_with(&world, &sql, extended);
        world.at_home("ALTER SYSTEM SET timezone = 'Asia/Tokyo'");
        world.at_home("SELECT pg_reload_conf()");
        let answer = client.finish();
        world.at_home("ALTER SYSTEM RESET timezone");
        world.at_home("SELECT pg_reload_conf()");
        assert_eq!((answer.code(), answer.rows.len(), route(&mut client)), all());
        let zone = |row: &str| row["2001-01-01 00:00:00".len()..].to_owned();
        let first = zone(&answer.rows[0]);
        assert!(answer.rows.iter().all(|row| zone(row) == first));
        assert_ne!(first, "+09");
        drop(client);
        world.assert_settled();
    }
}

/// The whole of an answer, by the engine.
fn all() -> (&'static str, usize, String) {
    ("ok", ROWS - 1, "engine".to_owned())
}

#[test]
fn the_engine_does_not_plan_for_ever() {
    let world = turn();
    let sql = "SELECT p.who || l.name FROM locked l JOIN people p USING (id)";
    for extended in [false, true] {
        for whose in ["timeout", "cancel", "client"] {
            let mut client = world.connect();
            assert_eq!(client.query("SET pgspan.strategy = 'engine'").code(), "ok");
            if whose == "timeout" {
                assert_eq!(client.query("SET statement_timeout = '700ms'").code(), "ok");
            }
            // Even to plan, the source waits for the lock.
            let holder = world.lock();
            client.start_as(sql, extended);
            world.until_blocked();
            if whose == "cancel" {
                client.cancel();
            }
            if whose != "client" {
                let answer = client.finish();
                assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{whose}");
                assert_eq!(client.query("RESET ALL").code(), "ok");
            }
            drop(client);
            becomes(whose, "0", || {
                world.at_source("SELECT count(*) FROM pg_locks WHERE NOT granted")
            });
            drop(holder);
            world.assert_settled();
        }
    }
}

#[test]
fn a_client_that_does_not_read_holds_back_the_source() {
    let world = turn();
    make_flow(&world);
    let mut client = begin(&world, false);
    let mut watcher = world.connect();
    let mut before = 0;
    eventually(
        "no more rows come",
        || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let now = watcher.fetched();
            std::mem::replace(&mut before, now) == now
        },
        |still| *still,
    );
    assert!(before < ROWS as u64, "{before}");
    let answer = client.finish();
    assert_eq!((answer.code(), answer.rows.len()), ("ok", ROWS - 1));
    drop((client, watcher));
    world.assert_settled();
}

#[test]
fn the_client_cancels_or_goes_while_rows_are_on_their_way() {
    let world = turn();
    make_flow(&world);
    for extended in [false, true] {
        let mut client = begin(&world, extended);
        client.cancel();
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'));
        assert!(answer.rows.len() < ROWS);
        assert_eq!(client.query("RESET pgspan.strategy").code(), "ok");
        assert_works(&mut client);
        drop(begin(&world, extended));
        becomes("still reading", "", || world.reading("flow"));
        drop(client);
        world.assert_settled();
    }
    let mut client = begin(&world, false);
    world.kill_backend("users-writer", &client.process().to_string());
    let answer = client.finish();
    assert!(["08006", "57P02", "lost"].contains(&answer.code()), "{}", answer.code());
    drop(client);
    world.assert_settled();
}
