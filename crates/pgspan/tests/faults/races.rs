//! Definitions change while a statement is under way: every message with which the gateway
//! begins something at home or at the source is held back in turn, and another session
//! changes what the statement speaks of. The answer is that of before or of after, never a
//! mixture, and no error that PostgreSQL alone would not give.

use std::sync::mpsc;
use std::time::Duration;

use pgspan_lab::{Lab, LabOptions};

use crate::client::{Answer, Client};
use crate::stand::start_gateway;
use crate::tap::Tap;

/// More beginnings than any statement has.
const BEGINNINGS_MAX: usize = 400;

const SOURCE: &str = "
    CREATE TABLE far (id int, a int, b int);
    INSERT INTO far SELECT g, g, 100 + g FROM generate_series(1, 20) g;
    CREATE TABLE other (id int, a int, b int);
    INSERT INTO other SELECT g, 1000 + g, 1100 + g FROM generate_series(1, 20) g;
    CREATE TABLE parted (id int, v int);
    INSERT INTO parted VALUES (9, 1001), (10, 1002);
    CREATE TABLE wide (id int PRIMARY KEY, n int, pad text);
    INSERT INTO wide SELECT g, g, repeat('x', 600) FROM generate_series(1, 60) g;
    ANALYZE";

const HOME: &str = "
    CREATE FOREIGN TABLE f (id int, a int, b int) SERVER far OPTIONS (table_name 'far');
    CREATE FOREIGN TABLE g (id int, a int, b int) SERVER far OPTIONS (table_name 'other');
    CREATE FOREIGN TABLE wide (id int, n int, pad text) SERVER far;
    CREATE TABLE l (id int PRIMARY KEY, v int);
    INSERT INTO l SELECT g, g FROM generate_series(1, 20) g;
    CREATE TABLE m (id int PRIMARY KEY, v int);
    INSERT INTO m SELECT g, 50 + g FROM generate_series(1, 10) g;
    CREATE MATERIALIZED VIEW mv AS SELECT id, v FROM l;
    CREATE VIEW w AS SELECT id, v FROM l;
    CREATE TABLE p (id int, v int) PARTITION BY LIST (v);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    INSERT INTO p SELECT g, 1 FROM generate_series(1, 5) g;
    CREATE SCHEMA first;
    ANALYZE l, m, p";

const JOIN: &str = "SELECT l.v || ':' || f.a || ':' || f.b FROM l JOIN f ON f.id = l.id";
const ALONE: &str = "SELECT a FROM f WHERE b < 115 OR b > 1100";
const VIEW: &str = "SELECT w.v || ':' || f.a FROM w JOIN f ON f.id = w.id";
const COPY: &str =
    "COPY (SELECT l.v || ':' || f.a || ':' || f.b FROM l JOIN f ON f.id = l.id) TO STDOUT";
const REFRESHED: &str =
    "SELECT l.v || ':' || mv.v || ':' || f.a FROM l JOIN mv USING (id) JOIN f USING (id)";
const WIDE: &str = "SELECT wide.n || ':' || length(wide.pad) FROM wide LEFT JOIN l USING (id)";
const PARENT: &str = "SELECT p.v || ':' || f.a FROM p JOIN f ON f.id = p.id";

/// What another session does, and how it takes it back.
struct Change {
    what: &'static str,
    at_source: bool,
    sql: &'static str,
    undo: &'static str,
    queries: &'static [&'static str],
}

const fn home(
    what: &'static str,
    sql: &'static str,
    undo: &'static str,
    queries: &'static [&'static str],
) -> Change {
    Change { what, at_source: false, sql, undo, queries }
}

const fn source(
    what: &'static str,
    sql: &'static str,
    undo: &'static str,
    queries: &'static [&'static str],
) -> Change {
    Change { what, at_source: true, sql, undo, queries }
}

const CHANGES: &[Change] = &[
    home(
        "foreign columns swap their names",
        "BEGIN; ALTER FOREIGN TABLE f RENAME a TO x; ALTER FOREIGN TABLE f RENAME b TO a; ALTER FOREIGN TABLE f RENAME x TO b; COMMIT",
        "BEGIN; ALTER FOREIGN TABLE f RENAME a TO x; ALTER FOREIGN TABLE f RENAME b TO a; ALTER FOREIGN TABLE f RENAME x TO b; COMMIT",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "foreign columns swap what they stand for",
        "BEGIN; ALTER FOREIGN TABLE f ALTER a OPTIONS (column_name 'b'); ALTER FOREIGN TABLE f ALTER b OPTIONS (column_name 'a'); COMMIT",
        "BEGIN; ALTER FOREIGN TABLE f ALTER a OPTIONS (DROP column_name); ALTER FOREIGN TABLE f ALTER b OPTIONS (DROP column_name); COMMIT",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "another foreign table takes the name",
        "BEGIN; ALTER FOREIGN TABLE f RENAME TO h; ALTER FOREIGN TABLE g RENAME TO f; COMMIT",
        "BEGIN; ALTER FOREIGN TABLE f RENAME TO g; ALTER FOREIGN TABLE h RENAME TO f; COMMIT",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "a foreign table stands for another",
        "ALTER FOREIGN TABLE f OPTIONS (SET table_name 'other')",
        "ALTER FOREIGN TABLE f OPTIONS (SET table_name 'far')",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "a foreign column has another type",
        "ALTER FOREIGN TABLE f ALTER a TYPE text",
        "ALTER FOREIGN TABLE f ALTER a TYPE int",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "a foreign column is made anew",
        "BEGIN; ALTER FOREIGN TABLE f DROP a; ALTER FOREIGN TABLE f ADD a int; COMMIT",
        "SELECT 1",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "a foreign table is made anew",
        "BEGIN; DROP FOREIGN TABLE f; CREATE FOREIGN TABLE public.f (b int, a int, id int) SERVER far OPTIONS (schema_name 'public', table_name 'other'); COMMIT",
        "BEGIN; DROP FOREIGN TABLE f; CREATE FOREIGN TABLE public.f (id int, a int, b int) SERVER far OPTIONS (schema_name 'public', table_name 'far'); COMMIT",
        &[JOIN, COPY, ALONE],
    ),
    home(
        "a local table is emptied and filled",
        "BEGIN; TRUNCATE l; INSERT INTO l SELECT g, 200 + g FROM generate_series(1, 20) g; COMMIT",
        "BEGIN; TRUNCATE l; INSERT INTO l SELECT g, g FROM generate_series(1, 20) g; COMMIT",
        &[JOIN],
    ),
    home(
        "a local table is rewritten",
        "ALTER TABLE l ALTER v TYPE bigint USING v + 300",
        "ALTER TABLE l ALTER v TYPE int USING v - 300",
        &[JOIN],
    ),
    home(
        "another local table takes the name",
        "BEGIN; ALTER TABLE l RENAME TO n; ALTER TABLE m RENAME TO l; COMMIT",
        "BEGIN; ALTER TABLE l RENAME TO m; ALTER TABLE n RENAME TO l; COMMIT",
        &[JOIN],
    ),
    home(
        "a table of the name appears in a schema that comes first",
        "CREATE TABLE first.l AS SELECT id, v + 7 AS v FROM l",
        "DROP TABLE first.l",
        &[JOIN],
    ),
    home(
        "a materialized view is refreshed",
        "BEGIN; UPDATE l SET v = v + 600; REFRESH MATERIALIZED VIEW mv; COMMIT",
        "BEGIN; UPDATE l SET v = v - 600; REFRESH MATERIALIZED VIEW mv; COMMIT",
        &[REFRESHED],
    ),
    home(
        "a view is replaced",
        "CREATE OR REPLACE VIEW w AS SELECT id, v + 400 AS v FROM l",
        "CREATE OR REPLACE VIEW w AS SELECT id, v FROM l",
        &[VIEW],
    ),
    home(
        "a foreign partition is attached to a table that has some",
        "CREATE FOREIGN TABLE public.p2 PARTITION OF p FOR VALUES IN (NULL, 1001, 1002) SERVER far OPTIONS (table_name 'parted')",
        "DROP FOREIGN TABLE p2",
        &[PARENT],
    ),
    source(
        "a table at the source is rewritten",
        "VACUUM FULL wide",
        "UPDATE wide SET n = n WHERE id < 30",
        &[WIDE],
    ),
    source(
        "a table at the source is sorted",
        "CLUSTER wide USING wide_pkey",
        "UPDATE wide SET n = n WHERE id % 3 = 0",
        &[WIDE],
    ),
    source(
        "rows at the source change",
        "UPDATE wide SET n = n + 1000",
        "UPDATE wide SET n = n - 1000",
        &[WIDE],
    ),
    source(
        "a wide table at the source is emptied and filled",
        "BEGIN; TRUNCATE wide; INSERT INTO wide SELECT g, 500 + g, repeat('y', 500) FROM generate_series(1, 60) g; COMMIT",
        "BEGIN; TRUNCATE wide; INSERT INTO wide SELECT g, g, repeat('x', 600) FROM generate_series(1, 60) g; COMMIT",
        &[WIDE],
    ),
    source(
        "a table at the source is emptied and filled",
        "BEGIN; TRUNCATE far; INSERT INTO far SELECT g, 500 + g, 100 + g FROM generate_series(1, 20) g; COMMIT",
        "BEGIN; TRUNCATE far; INSERT INTO far SELECT g, g, 100 + g FROM generate_series(1, 20) g; COMMIT",
        &[JOIN, COPY, ALONE],
    ),
];

struct Stand {
    lab: Lab,
    gateway: String,
    tap: Tap,
}

/// How a statement is run.
#[derive(Debug, Clone, Copy)]
struct Manner {
    extended: bool,
    block: bool,
    strategy: &'static str,
    /// Home is still, and the gateway knows the plan.
    warm: bool,
    /// From one message that is held to the next.
    stride: usize,
}

const fn manner(
    strategy: &'static str,
    extended: bool,
    block: bool,
    warm: bool,
    stride: usize,
) -> Manner {
    Manner { extended, block, strategy, warm, stride }
}

/// What has many moments is tried at some of them, which are others for each change.
const MANNERS: &[Manner] = &[
    manner("home_join", false, false, true, 1),
    manner("home_join", true, false, true, 1),
    manner("home_join", false, true, true, 2),
    manner("home_join", true, true, true, 2),
    manner("home_join", true, false, false, 3),
    manner("engine", true, false, true, 5),
];

impl Stand {
    fn start() -> Stand {
        let mut lab = Lab::start(&LabOptions::temporary().unwrap(), &mut |_| {}).unwrap();
        let tap = Tap::default();
        let home = lab.server("users-writer").unwrap().address.to_string();
        let at_home = tap.listen(&home);
        let source = lab.server("orders-writer").unwrap().address.to_string();
        let at_source = tap.listen(&source);
        let program = env!("CARGO_BIN_EXE_pgspan");
        let settings = [
            ("limits.engine_rows_min", "8".to_owned()),
            ("limits.engine_pages_min", "1".to_owned()),
            ("limits.engine_part_bytes", "8192".to_owned()),
        ];
        let gateway = start_gateway(&mut lab, program.as_ref(), &settings, |_, gateway| {
            let text = std::fs::read_to_string(&gateway.config).unwrap();
            let writer = format!("writer = \"{home}\"");
            assert!(text.contains(&writer), "{text}");
            let text = text.replace(&writer, &format!("writer = \"{at_home}\""));
            std::fs::write(&gateway.config, text).unwrap();
        });
        let stand = Stand { lab, gateway, tap };
        let (host, port) = at_source.split_once(':').unwrap();
        let password = &stand.lab.state().password;
        assert_eq!(stand.direct(true).query(SOURCE).code(), "ok");
        let made = stand.direct(false).query(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'postgres', password '{password}');
             {HOME}"
        ));
        assert_eq!(made.code(), "ok", "{made:?}");
        stand
    }

    /// A session past the gateway.
    fn direct(&self, at_source: bool) -> Client {
        let name = if at_source { "orders-writer" } else { "users-writer" };
        let server = self.lab.server(name).unwrap();
        let password = &self.lab.state().password;
        let address = server.address.to_string();
        let mut client = Client::connect(&address, "postgres", password, &server.database).unwrap();
        let path = "SET search_path = first, public; SET lock_timeout = '30ms'";
        assert_eq!(client.query(path).code(), "ok");
        client
    }

    /// Runs a statement with one beginning after the other held back. How often.
    fn attack(&self, change: &Change, sql: &str, manner: Manner) -> (usize, Vec<String>) {
        let mut asked = self.direct(false);
        let mut changer = self.direct(change.at_source);
        let (mut wrong, mut moments) = (Vec::new(), 0);
        for held in (change.what.len() % manner.stride..BEGINNINGS_MAX).step_by(manner.stride) {
            moments += 1;
            let password = &self.lab.state().password;
            let mut client =
                Client::connect(&self.gateway, "postgres", password, "usersdb").unwrap();
            let set = format!(
                "SET search_path = first, public; SET pgspan.strategy = {}",
                manner.strategy
            );
            assert_eq!(client.query(&set).code(), "ok");
            // A text that is new has no plan.
            let sql = if manner.warm { sql.to_owned() } else { format!("{sql} /* {held} */") };
            let before = sorted(asked.query(&sql));
            for _ in 0..if manner.warm { 4 } else { 0 } {
                let answer = client.query(&sql);
                assert_eq!(answer.code(), "ok", "{answer:?}");
            }
            if manner.block {
                assert_eq!(client.query("BEGIN").code(), "ok");
            }
            self.tap.arm(held);
            client.start_as(&sql, manner.extended);
            let (send, answered) = mpsc::channel();
            let reader = std::thread::spawn(move || {
                let answer = client.finish();
                let _ = send.send(());
                (client, answer)
            });
            let mut is_held = false;
            while !is_held && answered.try_recv().is_err() {
                is_held = self.tap.is_held(Duration::from_millis(2));
            }
            let changed = is_held.then(|| changer.query(change.sql));
            self.tap.release();
            let (mut client, answer) = reader.join().unwrap();
            let is_changed = changed.as_ref().is_some_and(|answer| answer.code() == "ok");
            if !is_changed {
                assert_eq!(changer.query("ROLLBACK").status, b'I');
            }
            let code = answer.code().to_owned();
            let rows = sorted(answer);
            let after = sorted(asked.query(&sql));
            if manner.block {
                assert_eq!(client.query("ROLLBACK").status, b'I');
            }
            // The client's Parse is a transaction of its own at home: another type of result
            // is then an error, as where the client sends it alone.
            let parsed_before = manner.extended && code == "0A000";
            // TRUNCATE is seen by older snapshots, and postgres_fdw's too is older than its lock.
            let emptied = rows.is_empty() && code == "ok" && change.sql.contains("TRUNCATE");
            let emptied = emptied && change.at_source;
            if rows != before && rows != after && !parsed_before && !emptied {
                let what = changed.map(|answer| answer.code().to_owned());
                wrong.push(format!(
                    "{}, {manner:?}, {sql}, {held} beginnings, change {what:?}: {code} {rows:?}, neither {before:?} nor {after:?}",
                    change.what
                ));
            }
            let again = sorted(client.query(&sql));
            if again != after {
                wrong.push(format!(
                    "{}, {manner:?}, {sql}, again: {again:?}, not {after:?}",
                    change.what
                ));
            }
            drop(client);
            if is_changed {
                let undone = changer.query(change.undo);
                assert_eq!(undone.code(), "ok", "{undone:?}");
            }
            if !is_held {
                return (moments, wrong);
            }
        }
        unreachable!("a statement of so many messages")
    }
}

/// The rows in an order of their own; an error as a row.
fn sorted(answer: Answer) -> Vec<String> {
    let mut rows = match &answer.fault {
        Some(fault) => vec![format!("{} {}", fault.code, fault.message)],
        None => answer.rows,
    };
    rows.sort();
    rows
}

#[test]
fn definitions_change_at_any_moment() {
    let stand = Stand::start();
    let mut wrong = Vec::new();
    for change in CHANGES {
        for sql in change.queries {
            // In the extended protocol COPY is home's.
            let served = |manner: &&Manner| !(*sql == COPY && manner.extended);
            for manner in MANNERS.iter().filter(served) {
                let (moments, found) = stand.attack(change, sql, *manner);
                println!("{}: {manner:?}: {moments} moments, {} wrong", change.what, found.len());
                found.iter().for_each(|text| println!("    {text}"));
                wrong.extend(found);
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
