//! The gateway itself is killed, and the replica behind its reader endpoint.

use std::time::Duration;

use crate::client::Client;
use crate::world::{World, assert_works, becomes, eventually, route, turn};

/// Rows for as long as somebody reads them.
const STREAM: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 10000000)";

#[test]
fn the_gateway_is_killed() {
    let mut world = World::start();
    let mut writer = world.connect();
    for sql in ["BEGIN", "INSERT INTO people VALUES (5000, 'half')"] {
        assert_eq!(writer.query(sql).code(), "ok", "{sql}");
    }
    let holder = world.lock();
    let mut clients = vec![writer];
    let waiting = "SELECT p.who || l.name FROM locked l JOIN people p USING (id)";
    for (sql, streams) in [(STREAM, true), ("SELECT pad FROM big", true), (waiting, false)] {
        let mut client = world.connect();
        client.start(sql);
        if streams {
            client.first_row();
        } else {
            world.until_blocked();
        }
        clients.push(client);
    }
    world.kill_gateway();
    for client in &mut clients {
        let answer = client.finish();
        assert_eq!(answer.code(), "lost", "{answer:?}");
    }
    // Nothing more is let in, and nobody works on for the dead but who waits for a lock.
    assert!(world.connect_as("postgres", world.password(), "usersdb").is_err());
    drop(holder);
    becomes("work at the source", "0", || world.source_at_work());
    becomes("sessions at home", "0", || world.home_sessions());
    assert_eq!(world.at_home("SELECT count(*) FROM people WHERE id = 5000"), "0");
    world.start_gateway_again();
    world.assert_settled();
}

#[test]
fn a_gateway_that_ends_lets_work_finish_and_wakes_who_rests() {
    let world = World::start();
    let (mut resting, mut working) = (world.connect(), world.connect());
    assert_works(&mut resting);
    working.start("SELECT 'slept' FROM pg_sleep(3)");
    becomes("work at home", "1", || world.home_at_work());
    world.end_gateway();
    // While the other one still works.
    let farewell = resting.finish();
    assert_eq!((farewell.code(), farewell.status), ("57P01", 0), "{farewell:?}");
    assert_eq!(world.home_at_work(), "1");
    let answer = working.finish();
    assert_eq!((answer.code(), &answer.rows[..]), ("ok", &["slept".to_owned()][..]));
    assert_eq!(working.finish().code(), "57P01");
}

#[test]
fn the_replica_dies_and_comes_back() {
    let world = World::start();
    let reader = world.reader();
    let connect = || Client::connect(&reader, "postgres", world.password(), "usersdb");
    // Before the gateway looks: DDL that goes around it, it sees after a while only.
    becomes("rows at the replica", "1000", || world.at_replica("SELECT count(*) FROM people"));
    let mut relayed = connect().unwrap();
    relayed.start(STREAM);
    relayed.first_row();
    let mut idle = connect().unwrap();
    assert_works(&mut idle);
    world.stop("users-replica");
    for client in [&mut relayed, &mut idle] {
        let answer = client.query("SELECT 1");
        assert_eq!(answer.status, 0, "{answer:?}");
        // Its own farewell, or what the gateway says where it had none.
        assert!(["57P02", "57P01", "08006", "lost"].contains(&answer.code()), "{answer:?}");
    }
    let fault = connect().err().unwrap();
    assert_eq!(fault.code, "08001", "{fault:?}");
    assert!(fault.message.contains("users"), "{fault:?}");
    assert!(!fault.all.contains(world.password()), "{fault:?}");
    // The writer's sessions do not notice.
    assert_works(&mut world.connect());
    world.start_again("users-replica");
    let mut client = connect().unwrap();
    assert_eq!(client.value("SELECT pg_is_in_recovery()"), "t");
    assert_works(&mut client);
}

/// Stops what home works on for a client, as often as it takes: a signal that comes between
/// two questions of the gateway's meets nothing.
fn stop_at_home(world: &World, client: &Client, how: &str) {
    let process = client.process();
    eventually(
        "an answer of who was stopped",
        || {
            world.at_home(&format!(
                "SELECT count({how}(pid)) FROM pg_stat_activity WHERE pid = {process}
                 AND state = 'active' AND now() - query_start > interval '100 ms'"
            ));
            client.is_answered(Duration::from_millis(300))
        },
        |answered| *answered,
    );
}

/// What home is asked waits until the session ends: about foreign tables, or in a block, which
/// keeps its locks on catalogs, about a table.
fn questions_wait(world: &World, block: bool) -> Client {
    let mut locker = world.home_session();
    let table = if block { "people" } else { "pg_catalog.pg_foreign_table" };
    let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    assert_eq!(locker.query(&lock).code(), "ok");
    locker
}

#[test]
fn home_is_stopped_while_it_is_asked() {
    let world = turn();
    let process_waits = |client: &Client| {
        let seen = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE pid = {} AND wait_event_type = 'Lock'",
            client.process()
        );
        becomes("a question that waits", "1", || world.at_home(&seen));
    };
    for (turn, (extended, block)) in
        [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate()
    {
        let failed = if block { b'E' } else { b'I' };
        let mut client = world.connect();
        for (number, how) in ["request", "signal", "timeout", "end"].into_iter().enumerate() {
            if block {
                assert_eq!(client.query("BEGIN").code(), "ok");
                // The gateway has read first.
                assert_eq!(client.value("SELECT count(*) FROM small"), "100");
                assert_ne!(route(&mut client), "fallback");
            }
            if how == "timeout" {
                assert_eq!(client.query("SET statement_timeout = '300ms'").code(), "ok");
            }
            let locker = questions_wait(&world, block);
            // Never seen, so that home is asked about it.
            let column = format!("turn_{turn}_{number}");
            client.start_as(&format!("SELECT s.id AS {column} FROM small s, people p"), extended);
            match how {
                "request" => {
                    process_waits(&client);
                    client.cancel();
                }
                "signal" => stop_at_home(&world, &client, "pg_cancel_backend"),
                "end" => stop_at_home(&world, &client, "pg_terminate_backend"),
                _ => (),
            }
            let answer = client.finish();
            let wanted = if how == "end" { ("57P01", 0) } else { ("57014", failed) };
            assert_eq!(
                (answer.code(), answer.status),
                wanted,
                "{how} {extended} {block}: {answer:?}"
            );
            drop(locker);
            if how != "end" {
                assert_eq!(client.query("ROLLBACK; RESET statement_timeout").code(), "ok");
                assert_works(&mut client);
            }
        }
    }
    world.assert_settled();
}

#[test]
fn home_is_stopped_while_it_computes_a_join() {
    let world = turn();
    let sql = "SELECT count(*) FROM small s, people a, people b, people c
               WHERE s.id + a.id + b.id + c.id = -1";
    for extended in [false, true] {
        let mut client = world.connect();
        assert_works(&mut client);
        // Another attempt would only put off what was decided.
        client.start_as(sql, extended);
        stop_at_home(&world, &client, "pg_cancel_backend");
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{answer:?}");
        assert_ne!(route(&mut client), "fallback");
        assert_eq!(client.query("SET statement_timeout = '300ms'").code(), "ok");
        client.start_as(sql, extended);
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57014", b'I'), "{answer:?}");
        assert_ne!(route(&mut client), "fallback");
        assert_eq!(client.query("SET statement_timeout = 0").code(), "ok");
        // What home says last is what the client is told.
        client.start_as(sql, extended);
        stop_at_home(&world, &client, "pg_terminate_backend");
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57P01", 0), "{answer:?}");
    }
    world.assert_settled();
}

#[test]
fn home_ends_a_session_while_a_source_answers_all_of_a_statement() {
    let world = turn();
    let sql = "SELECT id, pad FROM big";
    let home = |client: &Client, what: &str| {
        world.at_home(&format!(
            "SELECT {what} FROM pg_stat_activity WHERE pid = {}",
            client.process()
        ))
    };
    for extended in [false, true] {
        let mut client = world.connect();
        client.start_as(sql, extended);
        client.first_row();
        assert_eq!(home(&client, "state"), "idle");
        home(&client, "pg_terminate_backend(pid)");
        let answer = client.finish();
        assert!(answer.rows.len() < 89_999, "the source was done too early");
        assert_eq!((answer.code(), answer.status), ("57P01", 0), "{answer:?}");
    }
    // Who waits for rows is not idle.
    let mut client = world.connect();
    assert_eq!(client.query("SET idle_session_timeout = '300ms'").code(), "ok");
    client.start_as(sql, false);
    client.first_row();
    becomes("the end of home's session", "0", || home(&client, "count(*)"));
    let answer = client.finish();
    assert_eq!((answer.code(), answer.rows.len()), ("ok", 89_999));
    drop(client);
    world.assert_settled();
}
