//! The data of the large measurements: made by the servers themselves, once for each lab.

use std::time::Instant;

use crate::bench::client::Client;
use crate::bench::stand::{At, Stand, progress};
use crate::demo::DemoError;

/// Home's database.
pub const HOME: &str = "bench_users";
/// The source's database.
pub const SOURCE: &str = "bench_orders";
/// Users at scale 1.
const USERS: f64 = 200_000.0;
/// Orders at scale 1.
pub const ORDERS: f64 = 5_000_000.0;
/// The foreign server as the guide declares it: it names the gateway.
const SERVER: &str = "orders_server";

/// One kind of direct postgres_fdw: schema, server, options.
const DIRECT: [(&str, &str, &str); 2] = [
    ("direct_fdw", "direct_orders_server", ""),
    (
        "tuned_fdw",
        "tuned_orders_server",
        ", fetch_size '10000', use_remote_estimate 'true', async_capable 'true'",
    ),
];

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Rows of `users`.
    pub users: u64,
    /// Rows of `orders`.
    pub orders: u64,
}

impl Size {
    /// The size at a scale.
    pub fn at(scale: f64) -> Size {
        let rows = |full: f64| (full * scale).round().max(1.0) as u64;
        Size { users: rows(USERS), orders: rows(ORDERS) }
    }

    fn mark(self) -> String {
        format!("pgspan bench: {} users, {} orders, format 1", self.users, self.orders)
    }
}

/// Loads what is not loaded yet.
pub fn load(stand: &Stand, size: Size) -> Result<(), DemoError> {
    let mark = size.mark();
    if stand.mark(At::Home, HOME)?.as_deref() == Some(mark.as_str()) {
        progress(format!("already loaded: {} users, {} orders", size.users, size.orders));
        let mut home = stand.connect(At::Home, HOME)?;
        return stand.move_server(&mut home, SERVER, At::Source);
    }
    let mut source = stand.make_database(At::Source, SOURCE)?;
    make_orders(&mut source, "orders", size)?;
    let mut home = stand.make_database(At::Home, HOME)?;
    timed(&format!("{} users", size.users), || {
        run(&mut home, include_str!("users.sql"), &[("users", &size.users.to_string())])?;
        home.run("VACUUM ANALYZE users")?;
        Ok(())
    })?;
    home.run("CREATE EXTENSION postgres_fdw")?;
    home.run(&stand.create_server(SERVER, (At::Source, SOURCE), false, "")?)?;
    foreign(&mut home, "remote_orders", SERVER, "orders")?;
    for (schema, server, options) in DIRECT {
        home.run(&stand.create_server(server, (At::Source, SOURCE), true, options)?)?;
        home.run(&format!("CREATE SCHEMA {schema}"))?;
        foreign(&mut home, &format!("{schema}.remote_orders"), server, "orders")?;
    }
    timed("statistics of the tuned foreign table", || {
        home.run("ANALYZE tuned_fdw.remote_orders")?;
        Ok(())
    })?;
    home.run("CREATE TABLE bench_answers (query text PRIMARY KEY, answer json NOT NULL)")?;
    stand.connect(At::Source, "postgres")?.run("CHECKPOINT")?;
    stand.connect(At::Home, "postgres")?.run("CHECKPOINT")?;
    stand.set_mark(At::Home, HOME, &mark)
}

/// Makes sure that the source also has a table of so many orders; its foreign table is
/// named `remote_TABLE`.
pub fn more_orders(stand: &Stand, table: &str, size: Size) -> Result<(), DemoError> {
    let mut source = stand.connect(At::Source, SOURCE)?;
    let found = source.run(&format!(
        "SELECT obj_description(to_regclass('{table}'), 'pg_class') = '{}'",
        size.mark()
    ))?;
    if found.scalar() != Some("t") {
        source.run(&format!("DROP TABLE IF EXISTS {table}"))?;
        make_orders(&mut source, table, size)?;
        source.run(&format!("COMMENT ON TABLE {table} IS '{}'", size.mark()))?;
        source.run("CHECKPOINT")?;
    }
    // Through the gateway, which so hears of the new table at once.
    let mut home = stand.connect(At::Gateway, HOME)?;
    let name = format!("remote_{table}");
    home.run(&format!("DROP FOREIGN TABLE IF EXISTS {name}"))?;
    foreign(&mut home, &name, SERVER, table)
}

fn make_orders(source: &mut Client, table: &str, size: Size) -> Result<(), DemoError> {
    timed(&format!("{} orders", size.orders), || {
        let fill = [
            ("table", table.to_owned()),
            ("users", size.users.to_string()),
            ("orders", size.orders.to_string()),
        ];
        let fill: Vec<(&str, &str)> = fill.iter().map(|(k, v)| (*k, v.as_str())).collect();
        run(source, include_str!("orders.sql"), &fill)?;
        source.run(&format!("VACUUM ANALYZE {table}"))?;
        Ok(())
    })
}

fn foreign(home: &mut Client, name: &str, server: &str, table: &str) -> Result<(), DemoError> {
    let fill = [("name", name), ("server", server), ("table", table)];
    run(home, include_str!("foreign.sql"), &fill)
}

fn run(client: &mut Client, script: &str, fill: &[(&str, &str)]) -> Result<(), DemoError> {
    let mut sql = script.to_owned();
    for (name, value) in fill {
        sql = sql.replace(&format!("${{{name}}}"), value);
    }
    client.run(&sql)?;
    Ok(())
}

fn timed(what: &str, work: impl FnOnce() -> Result<(), DemoError>) -> Result<(), DemoError> {
    progress(format!("loading {what}"));
    let began = Instant::now();
    work()?;
    progress(format!("loaded {what} ({:.1} s)", began.elapsed().as_secs_f64()));
    Ok(())
}
