//! What is relayed costs home what it costs without a gateway.

use crate::client::Client;
use crate::world::{route, turn};

/// How many transactions home has run on the client's connection.
fn transactions(client: &mut Client) -> u64 {
    let sql = "SELECT split_part(virtualtransaction, '/', 2) FROM pg_locks \
               WHERE pid = pg_backend_pid() LIMIT 1";
    client.value(sql).parse().unwrap()
}

/// Commands that make and take away what is no foreign table; none leaves anything behind.
const COMMANDS: &[&str] = &[
    "CREATE TEMPORARY TABLE passing_by (id int)",
    "CREATE INDEX ON passing_by (id)",
    "CREATE TEMPORARY VIEW seen AS SELECT * FROM passing_by",
    "INSERT INTO passing_by SELECT 1",
    "DROP VIEW seen",
    "DROP TABLE passing_by",
    "CREATE FUNCTION pg_temp.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'",
    "DROP FUNCTION pg_temp.twice(int)",
    "CREATE TYPE pg_temp.mood AS ENUM ('sad', 'happy')",
    "DROP TYPE pg_temp.mood",
    "CREATE DOMAIN pg_temp.positive AS int CHECK (value > 0)",
    "DROP DOMAIN pg_temp.positive",
    "SELECT * INTO TEMPORARY copied FROM people LIMIT 1",
    "DROP TABLE copied",
];

#[test]
fn no_statement_that_is_relayed_waits_for_a_question() {
    let world = turn();
    let mut client = world.connect();
    let mut asked = Vec::new();
    let began = std::time::Instant::now();
    for command in COMMANDS.iter().cycle().take(20 * COMMANDS.len()) {
        let before = transactions(&mut client);
        assert_eq!(client.query(command).code(), "ok", "{command}");
        // The question itself is one.
        if transactions(&mut client) - before != 2 {
            asked.push(command);
        }
    }
    // Behind what another test has created, the names of foreign tables are read again five
    // times a second, whatever is relayed.
    let by_itself = 1 + began.elapsed().as_millis() as usize / 200;
    assert!(asked.len() <= by_itself, "home was asked {} times: {asked:?}", asked.len());
    drop(client);
    world.assert_settled();
}

#[test]
fn a_new_name_of_a_foreign_table_is_known_at_once() {
    let world = turn();
    let mut client = world.connect();
    for (command, name) in [
        (
            "CREATE FOREIGN TABLE newcomer (id int, name text) SERVER orders OPTIONS (table_name 'small')",
            "newcomer",
        ),
        ("ALTER TABLE newcomer RENAME TO renamed", "renamed"),
        ("ALTER FOREIGN TABLE renamed RENAME TO again", "again"),
    ] {
        assert_eq!(client.query(command).code(), "ok", "{command}");
        assert_eq!(client.value(&format!("SELECT count(*) FROM {name}")), "100");
        assert_eq!(route(&mut client), "direct", "{command}");
    }
    assert_eq!(client.query("DROP FOREIGN TABLE again").code(), "ok");
    assert_eq!(client.query("SELECT count(*) FROM again").code(), "42P01");
    drop(client);
    world.assert_settled();
}
