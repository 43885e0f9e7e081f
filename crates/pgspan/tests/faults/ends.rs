//! The gateway itself is killed, and the replica behind its reader endpoint.

use crate::client::Client;
use crate::world::{World, assert_works, becomes, route, turn};

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

#[test]
fn home_is_stopped_while_it_computes_a_join() {
    let world = turn();
    let sql = "SELECT count(*) FROM small s, people a, people b, people c
               WHERE s.id + a.id + b.id + c.id = -1";
    let at_work = |client: &Client, sql: &str| {
        let seen = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND state = 'active'
             AND now() - query_start > interval '100 ms'",
            client.process()
        );
        becomes("work at home", "1", || world.at_home(&seen));
        world.at_home(&format!("SELECT {sql}({})", client.process()));
    };
    for extended in [false, true] {
        let mut client = world.connect();
        assert_works(&mut client);
        // Another attempt would only put off what was decided.
        client.start_as(sql, extended);
        at_work(&client, "pg_cancel_backend");
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
        at_work(&client, "pg_terminate_backend");
        let answer = client.finish();
        assert_eq!((answer.code(), answer.status), ("57P01", 0), "{answer:?}");
    }
    world.assert_settled();
}
