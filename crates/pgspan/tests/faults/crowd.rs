//! Statements that each need several connections of a server, as many as there are.

use std::thread;

use pgspan_lab::{Lab, LabOptions};

use crate::client::Client;
use crate::stand::start_gateway;
use crate::world::{becomes, route};

const JOIN: &str = "SELECT count(*), sum(f.id), sum(s.id)
     FROM first f JOIN near n ON n.id = f.id JOIN second s ON s.id = n.other";

#[test]
fn two_who_need_all_connections_do_not_wait_for_each_other() {
    let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
    let program = env!("CARGO_BIN_EXE_pgspan");
    let settings = [
        ("limits.source_connections_max", "4"),
        ("limits.engine_streams_max", "2"),
        ("limits.engine_pages_min", "1"),
        ("limits.engine_rows_min", "8"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let gateway = start_gateway(&mut lab, program.as_ref(), &settings, |_, _| {});
    let (home, source) =
        (lab.server("users-writer").unwrap(), lab.server("orders-writer").unwrap());
    let run = |server: &pgspan_lab::Server, sql: &str| {
        lab.psql(server, &server.database, sql).unwrap();
    };
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} AS SELECT g AS id, repeat('x', 100) AS pad
             FROM generate_series(1, 2000) g; ANALYZE {name};"
        )
    };
    run(source, &(table("first") + &table("second")));
    let server = format!(
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw;
         CREATE SERVER crowd FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '{}', port '{}', dbname '{}');
         CREATE USER MAPPING FOR postgres SERVER crowd
             OPTIONS (user 'postgres', password '{}');",
        source.address.host,
        source.address.port,
        source.database,
        lab.state().password
    );
    run(
        home,
        &(server
            + "CREATE FOREIGN TABLE first (id int, pad text) SERVER crowd;
               CREATE FOREIGN TABLE second (id int, pad text) SERVER crowd;
               CREATE TABLE near AS SELECT g AS id, 2001 - g AS other FROM generate_series(1, 2000) g;
               ANALYZE near"),
    );
    let connect = || {
        let password = &lab.state().password;
        let mut client = Client::connect(&gateway, "postgres", password, &home.database).unwrap();
        assert_eq!(client.query("SET pgspan.strategy = 'engine'").code(), "ok");
        client
    };
    let again = |client: &mut Client| {
        let answer = client.query(JOIN);
        assert_eq!((answer.code(), answer.rows.as_slice()), ("ok", &["2000".to_owned()][..]));
        route(client)
    };
    let mut both = [connect(), connect()];
    for client in &mut both {
        // A plan whose tables the gateway has just met serves but one run.
        becomes("the engine", "engine", || again(client));
    }
    thread::scope(|scope| {
        for client in &mut both {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(again(client), "engine")));
        }
    });
}
