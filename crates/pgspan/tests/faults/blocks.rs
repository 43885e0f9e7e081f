//! What the gateway does not see whole, or not as text, in a transaction block in which it has
//! read a source; and a source that ends the connection there. PostgreSQL itself, asked
//! without a gateway, says what is right.

use crate::client::{Answer, Client, message};
use crate::world::{Turn, route, turn};

/// A way to call `add_passing()` of which the gateway does not learn that it does.
struct Unseen {
    name: &'static str,
    /// Sent before BEGIN.
    ahead: fn(&mut Client),
    /// Calls it.
    call: fn(&mut Client) -> Answer,
}

/// More than `limits.statement_bytes_max`.
const LONG_BYTES: usize = 300 * 1024;

const UNSEEN: &[Unseen] = &[
    Unseen {
        name: "a FunctionCall message",
        ahead: |_| (),
        call: |client| {
            let oid: u32 = client.value("SELECT 'add_passing'::regproc::oid").parse().unwrap();
            let mut body = oid.to_be_bytes().to_vec();
            body.extend([0; 6]);
            client.send(&message(b'F', &body)).unwrap();
            client.finish()
        },
    },
    Unseen {
        name: "a long Bind of a statement that calls it",
        ahead: |client| {
            let text = b"adds\0SELECT add_passing() WHERE length($1::text) > 1\0\0\0";
            let mut bytes = message(b'P', text);
            bytes.extend(message(b'S', &[]));
            client.send(&bytes).unwrap();
            assert_eq!(client.finish().code(), "ok");
        },
        call: |client| {
            let mut body = b"\0adds\0\0\0\0\x01".to_vec();
            body.extend((LONG_BYTES as u32).to_be_bytes());
            body.extend(vec![b'x'; LONG_BYTES]);
            body.extend([0, 0]);
            let mut bytes = message(b'B', &body);
            bytes.extend(message(b'E', &[0; 5]));
            bytes.extend(message(b'S', &[]));
            client.send(&bytes).unwrap();
            client.finish()
        },
    },
    Unseen {
        name: "a long Query",
        ahead: |_| (),
        call: |client| {
            client.query(&format!("SELECT add_passing() /* {} */", "x".repeat(LONG_BYTES)))
        },
    },
    Unseen {
        name: "a Query in LATIN1",
        ahead: |_| (),
        call: |client| {
            assert_eq!(client.query("SET LOCAL client_encoding = 'LATIN1'").code(), "ok");
            client.send(&message(b'Q', b"SELECT add_passing(), '\xe9'\0")).unwrap();
            client.finish()
        },
    },
    Unseen {
        name: "a Query that writes in LATIN1",
        ahead: |_| (),
        call: |client| {
            assert_eq!(client.query("SET LOCAL client_encoding = 'LATIN1'").code(), "ok");
            client.send(&message(b'Q', b"INSERT INTO passing VALUES (2, '\xe9')\0")).unwrap();
            client.finish()
        },
    },
    Unseen {
        name: "several statements in one Query",
        ahead: |_| (),
        call: |client| client.query("SELECT 1; DO 'BEGIN PERFORM add_passing(); END'"),
    },
];

fn make_function(world: &Turn) {
    world.at_home(
        "CREATE OR REPLACE FUNCTION add_passing() RETURNS int LANGUAGE sql AS
         'INSERT INTO passing VALUES (2, ''two'') RETURNING id'",
    );
}

/// Home without the gateway.
fn directly(world: &Turn) -> Client {
    let server = world.server("users-writer");
    let address = server.address.to_string();
    Client::connect(&address, "postgres", world.password(), &server.database).unwrap()
}

/// What a block says that reads, calls and reads again.
fn read_call_read(client: &mut Client, unseen: &Unseen) -> Vec<String> {
    (unseen.ahead)(client);
    let mut said = Vec::new();
    assert_eq!(client.query("BEGIN").code(), "ok");
    said.push(client.value("SELECT count(*) FROM passing"));
    let answer = (unseen.call)(client);
    said.push(answer.code().to_owned());
    let answer = client.query("SELECT count(*) FROM passing");
    said.push(format!("{} {:?}", answer.code(), answer.rows));
    assert_eq!(client.query("ROLLBACK").code(), "ok");
    said.push(client.value("SELECT count(*) FROM passing"));
    said
}

#[test]
fn a_write_that_is_not_seen_shows_in_its_block() {
    let world = turn();
    make_function(&world);
    for unseen in UNSEEN {
        let right = read_call_read(&mut directly(&world), unseen);
        assert_eq!(right, ["1", "ok", "ok [\"2\"]", "1"], "{}", unseen.name);
        let mut client = world.connect();
        let said = read_call_read(&mut client, unseen);
        // What PostgreSQL says when somebody else has committed there meanwhile.
        let moved = ["1", "40001", "25P02 []", "1"];
        assert!(said == right || said == moved, "{}: {said:?}", unseen.name);
    }
    world.at_home("DROP FUNCTION add_passing()");
    world.assert_settled();
}

/// Ends the connections to the source that wait in a block.
fn end_at_source(world: &Turn) {
    let ended = world.at_source(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
         WHERE state = 'idle in transaction' AND application_name <> 'faults'",
    );
    assert_eq!(ended, "1");
}

/// What a block says when the source has ended the connection, with and without a savepoint.
fn read_lose_read(world: &Turn, client: &mut Client, savepoint: bool) -> Vec<String> {
    assert_eq!(client.query("BEGIN").code(), "ok");
    let mut said = vec![client.value("SELECT count(*) FROM small")];
    if savepoint {
        assert_eq!(client.query("SAVEPOINT before").code(), "ok");
    }
    end_at_source(world);
    let mut ask = |sql: &str| said.push(client.query(sql).code().to_owned());
    ask("SELECT count(*) FROM small");
    if savepoint {
        ask("ROLLBACK TO before");
        ask("SELECT count(*) FROM small");
    }
    ask("SELECT 1");
    ask("ROLLBACK");
    ask("SELECT count(*) FROM small");
    said
}

#[test]
fn a_block_whose_source_has_hung_up_reads_it_no_more() {
    let world = turn();
    for savepoint in [false, true] {
        let right = read_lose_read(&world, &mut directly(&world), savepoint);
        let mut client = world.connect();
        let said = read_lose_read(&world, &mut client, savepoint);
        assert_eq!(said, right, "behind a savepoint: {savepoint}");
        assert_eq!(route(&mut client), "direct");
    }
    world.assert_settled();
}

/// Tables that somebody holds a lock on at the source.
fn locked_at_source(world: &Turn) -> String {
    world.at_source(
        "SELECT coalesce(string_agg(DISTINCT relation::regclass::text, ' ' ORDER BY relation::regclass::text), '')
         FROM pg_locks WHERE locktype = 'relation' AND pid <> pg_backend_pid()
         AND relation IN ('small'::regclass, 'passing'::regclass, 'locked'::regclass)",
    )
}

/// Statements of blocks with savepoints, of which some fail.
const SAVEPOINTS: &[&[&str]] = &[
    &[
        "SELECT count(*) FROM small",
        "SAVEPOINT a",
        "SELECT count(*) FROM passing",
        "SAVEPOINT \"A\"",
        "SELECT count(*) FROM locked",
        "ROLLBACK TO \"A\"",
        "ROLLBACK TO a",
        "SELECT count(*) FROM locked",
    ],
    &[
        "SAVEPOINT a",
        "SELECT count(*) FROM small",
        "RELEASE a",
        "SAVEPOINT a; SAVEPOINT b",
        "SELECT count(*) FROM passing",
        "ROLLBACK WORK TO SAVEPOINT a",
        "SELECT count(*) FROM locked",
        "ROLLBACK TO a",
    ],
    &[
        "SAVEPOINT a",
        "SELECT count(*) FROM small",
        "SAVEPOINT a",
        "SELECT count(*) FROM passing",
        "ROLLBACK TO nothing",
        "ROLLBACK TO a",
        "SELECT count(*) FROM locked",
        "SELECT 1 / 0",
        "RELEASE a",
        "ROLLBACK TO a",
        "RELEASE a",
        "SELECT nothing",
        "ROLLBACK TO a",
    ],
];

/// Code of each statement, and what is locked at the source behind it.
fn locks_behind(world: &Turn, client: &mut Client, block: &[&str]) -> Vec<String> {
    assert_eq!(client.query("BEGIN").code(), "ok");
    let mut said = Vec::new();
    for sql in block {
        let code = client.query(sql).code().to_owned();
        said.push(format!("{sql}: {code}, locked: {}", locked_at_source(world)));
    }
    assert_eq!(client.query("ROLLBACK").code(), "ok");
    said.push(locked_at_source(world));
    said
}

#[test]
fn what_was_locked_behind_a_savepoint_is_free_behind_it() {
    let world = turn();
    for block in SAVEPOINTS {
        let right = locks_behind(&world, &mut directly(&world), block);
        let mut client = world.connect();
        assert_eq!(locks_behind(&world, &mut client, block), right);
        client.value("SELECT count(*) FROM small");
        assert_eq!(route(&mut client), "direct");
    }
    world.assert_settled();
}
