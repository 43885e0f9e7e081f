//! TPC-H's eight tables: generated here, copied into two clusters, and all of them into
//! one plain database whose answers count.

use std::fmt::Display;
use std::thread;
use std::time::Instant;

use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

use crate::bench::client::{Client, Fault};
use crate::bench::stand::{At, Stand, progress};
use crate::demo::DemoError;

/// Home of the first arrangement, with its own four tables.
pub const HOME: &str = "tpch_home";
/// The source: the other four.
pub const SOURCE: &str = "tpch_source";
/// Home of the second arrangement: all eight are foreign, over two sources.
pub const THIRD: &str = "tpch_third";
/// Everything in one database, beside the source.
pub const PLAIN: &str = "tpch_plain";
/// Home's tables.
pub const AT_HOME: [&str; 4] = ["region", "nation", "supplier", "customer"];
/// The source's tables.
pub const AT_SOURCE: [&str; 4] = ["part", "partsupp", "orders", "lineitem"];
/// Bytes of one piece of a COPY.
const PIECE: usize = 512 * 1024;

fn mark(scale: f64) -> String {
    format!("pgspan bench: TPC-H at scale factor {scale}, format 1")
}

/// Loads what is not loaded yet, and tells home where the gateway is in this run.
pub fn load(stand: &Stand, scale: f64) -> Result<(), DemoError> {
    let mark = mark(scale);
    if stand.mark(At::Home, THIRD)?.as_deref() == Some(mark.as_str()) {
        progress(format!("already loaded: TPC-H at scale factor {scale}"));
        stand.move_server(&mut stand.connect(At::Home, HOME)?, "src", At::Source)?;
        let mut third = stand.connect(At::Home, THIRD)?;
        stand.move_server(&mut third, "src", At::Source)?;
        return stand.move_server(&mut third, "near", At::Home);
    }
    let all: Vec<&str> = AT_HOME.into_iter().chain(AT_SOURCE).collect();
    let mut home = stand.make_database(At::Home, HOME)?;
    let mut source = stand.make_database(At::Source, SOURCE)?;
    let mut plain = stand.make_database(At::Source, PLAIN)?;
    thread::scope(|scope| {
        let plain = scope.spawn(|| fill(&mut plain, "plain", &all, scale));
        fill(&mut home, "home", &AT_HOME, scale)?;
        fill(&mut source, "source", &AT_SOURCE, scale)?;
        plain.join().map_err(|_| DemoError::new("a thread died"))?
    })?;
    plain.run("CREATE TABLE bench_answers (query text PRIMARY KEY, answer json NOT NULL)")?;

    home.run("CREATE EXTENSION postgres_fdw")?;
    declare(stand, &mut home, "src", (At::Source, SOURCE), &AT_SOURCE)?;
    let mut third = stand.make_database(At::Home, THIRD)?;
    third.run("CREATE EXTENSION postgres_fdw")?;
    declare(stand, &mut third, "src", (At::Source, SOURCE), &AT_SOURCE)?;
    declare(stand, &mut third, "near", (At::Home, HOME), &AT_HOME)?;
    for at in [At::Home, At::Source] {
        stand.connect(at, "postgres")?.run("CHECKPOINT")?;
    }
    stand.set_mark(At::Home, THIRD, &mark)
}

/// Foreign tables through the gateway in `public`, and in `direct_fdw` those that name the
/// server itself.
fn declare(
    stand: &Stand,
    home: &mut Client,
    server: &str,
    place: (At, &str),
    tables: &[&str],
) -> Result<(), DemoError> {
    home.run("CREATE SCHEMA IF NOT EXISTS direct_fdw")?;
    home.run(&stand.create_server(server, place, false, "")?)?;
    let direct = format!("direct_{server}");
    home.run(&stand.create_server(&direct, place, true, "")?)?;
    let names = tables.join(", ");
    for (schema, server) in [("public", server), ("direct_fdw", direct.as_str())] {
        home.run(&format!(
            "IMPORT FOREIGN SCHEMA public LIMIT TO ({names}) FROM SERVER {server} INTO {schema}"
        ))?;
    }
    Ok(())
}

/// The statements of a script that name one of the tables.
fn of_tables<'a>(script: &'a str, tables: &'a [&str]) -> impl Iterator<Item = &'a str> {
    script.lines().filter(|line| {
        let mut words = line.split_whitespace();
        words.any(|word| tables.contains(&word))
    })
}

fn fill(client: &mut Client, place: &str, tables: &[&str], scale: f64) -> Result<(), DemoError> {
    let began = Instant::now();
    for sql in of_tables(include_str!("tables.sql"), tables) {
        client.run(sql)?;
    }
    for table in tables {
        progress(format!("loading {table} ({place})"));
        copy(client, table, scale)?;
    }
    for sql in of_tables(include_str!("indexes.sql"), tables) {
        client.run(sql)?;
    }
    for table in tables {
        client.run(&format!("VACUUM ANALYZE {table}"))?;
    }
    progress(format!("loaded {place} ({:.1} s)", began.elapsed().as_secs_f64()));
    Ok(())
}

fn copy(client: &mut Client, table: &str, scale: f64) -> Result<(), Fault> {
    match table {
        "region" => rows(client, table, RegionGenerator::new(scale, 1, 1).iter()),
        "nation" => rows(client, table, NationGenerator::new(scale, 1, 1).iter()),
        "supplier" => rows(client, table, SupplierGenerator::new(scale, 1, 1).iter()),
        "customer" => rows(client, table, CustomerGenerator::new(scale, 1, 1).iter()),
        "part" => rows(client, table, PartGenerator::new(scale, 1, 1).iter()),
        "partsupp" => rows(client, table, PartSuppGenerator::new(scale, 1, 1).iter()),
        "orders" => rows(client, table, OrderGenerator::new(scale, 1, 1).iter()),
        _ => rows(client, table, LineItemGenerator::new(scale, 1, 1).iter()),
    }
}

/// Copies rows as their own text: fields end with `|`, the last one too.
fn rows<R: Display>(
    client: &mut Client,
    table: &str,
    mut rows: impl Iterator<Item = R>,
) -> Result<(), Fault> {
    let mut line = String::new();
    client.copy_in(&format!("COPY {table} FROM STDIN (DELIMITER '|')"), &mut |piece| {
        use std::fmt::Write as _;
        while piece.len() < PIECE {
            let Some(row) = rows.next() else { return false };
            line.clear();
            let _ = write!(line, "{row}");
            let text = line.trim_end_matches('\n');
            piece.extend_from_slice(text.strip_suffix('|').unwrap_or(text).as_bytes());
            piece.push(b'\n');
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_made_and_has_a_key() {
        for table in AT_HOME.into_iter().chain(AT_SOURCE) {
            for script in [include_str!("tables.sql"), include_str!("indexes.sql")] {
                assert!(of_tables(script, &[table]).count() > 0, "{table}");
            }
        }
        let all: Vec<&str> = AT_HOME.into_iter().chain(AT_SOURCE).collect();
        let lines = include_str!("indexes.sql").lines().count();
        assert_eq!(of_tables(include_str!("indexes.sql"), &all).count(), lines);
    }
}
