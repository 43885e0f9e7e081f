//! `pgspan bench --tpch`: the 22 queries over two clusters, in two arrangements, beside
//! postgres_fdw and DuckDB; one plain database with all tables tells what is right.

mod data;
mod report;

use std::path::Path;
use std::time::Duration;

use super::client::Rows;
use super::large::Volume;
use super::python::Setup;
use super::race::{Manner, Name, Peer, Query, Raced, race};
use super::stand::{At, Stand, progress};
use crate::demo::DemoError;
use crate::terminal::say;
use data::{AT_HOME, AT_SOURCE, HOME, PLAIN, SOURCE, THIRD};
use report::{Arrangement, Report};

/// Timed rounds of each peer unless told otherwise.
const ROUNDS: usize = 3;
/// What takes longer is run once.
const PATIENCE: Duration = Duration::from_secs(10);
/// With less, the generator's keys are not unique.
const SCALE_MIN: f64 = 0.01;
const PEERS: [Name; 3] = [Name::Pgspan, Name::Fdw, Name::Duckdb];

/// The queries.
fn queries() -> Vec<Query> {
    let text = include_str!("queries.sql");
    let mut queries: Vec<Query> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("-- q") {
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                queries.push(Query { name: format!("q{number}"), sql: String::new(), floor: None });
            }
            _ => {
                if let Some(query) = queries.last_mut() {
                    query.sql.push_str(line);
                    query.sql.push('\n');
                }
            }
        }
    }
    for query in &mut queries {
        query.sql.truncate(query.sql.trim_end().len());
    }
    queries
}

/// Runs them; true when every answer of pgspan is PostgreSQL's and, with `--strict`, no
/// target is missed.
pub fn run(bench: &super::Bench) -> Result<bool, DemoError> {
    let volume = &bench.volume;
    volume.check(&PEERS, &queries())?;
    if volume.scale < SCALE_MIN {
        return Err(DemoError::new(format!("a scale factor of at least {SCALE_MIN}, please")));
    }
    super::warn_of_noise();
    let stand = volume.open(bench)?;
    data::load(&stand, volume.scale)?;
    if volume.load_only {
        progress(format!("the lab in {} is up", stand.dir().display()));
        return Ok(true);
    }
    let rounds = bench.rounds.map_or(if bench.quick { 1 } else { ROUNDS }, usize::from);
    let manner = Manner { rounds, cut: volume.cut, patience: PATIENCE };
    let mut report = Report::new(&stand, volume);
    for (title, database) in [("split", HOME), ("foreign", THIRD)] {
        if volume.arrangement.as_ref().is_some_and(|wanted| wanted != title) {
            continue;
        }
        let mut arrangement = Arrangement::new(title);
        let mut peers = peers(&stand, volume, database)?;
        for query in queries().iter().filter(|query| volume.wants_query(&query.name)) {
            let oracle = oracle(&stand, query)?;
            let raced = race(&stand, query, &oracle, &mut peers, manner);
            progress(format!("{title} {}", report::line(&raced)));
            arrangement.queries.push(raced);
        }
        say(arrangement.markdown(volume.cut));
        report.arrangements.push(arrangement);
    }
    report.finish();
    say(report.summary());
    report.write(&bench.out.parent().unwrap_or(Path::new(".")).join("tpch"), volume.cut)?;
    stand.close()?;
    let wrong = report.raced().any(Raced::is_wrong);
    Ok(!wrong && (!bench.strict || report.missed() == 0))
}

fn peers(stand: &Stand, volume: &Volume, database: &str) -> Result<Vec<Peer>, DemoError> {
    let table = |server| move |name: &str| (name.to_owned(), server, name.to_owned());
    let setup = Setup {
        servers: [
            ("home", stand.login(At::Home, HOME)?),
            ("source", stand.login(At::Source, SOURCE)?),
        ]
        .into(),
        tables: AT_HOME
            .into_iter()
            .map(table("home"))
            .chain(AT_SOURCE.into_iter().map(table("source")))
            .collect(),
    };
    let mut peers = Vec::new();
    for name in PEERS.into_iter().filter(|name| volume.wants_peer(*name)) {
        peers.push(match name {
            Name::Pgspan => Peer::session(name, stand.login(At::Gateway, database)?, ""),
            Name::Fdw => {
                let first = "SET search_path = direct_fdw, public";
                Peer::session(name, stand.login(At::Home, database)?, first)
            }
            _ => Peer::python(name, &setup),
        });
    }
    Ok(peers)
}

/// The plain database's answer, asked once for each lab.
fn oracle(stand: &Stand, query: &Query) -> Result<Rows, DemoError> {
    let mut plain = stand.connect(At::Source, PLAIN)?;
    super::answers::remembered(&mut plain, &query.sql, |plain| {
        progress(format!("{}: the plain database's answer", query.name));
        Ok(plain.run(&query.sql)?.rows)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_two_queries() {
        let queries = queries();
        let names: Vec<&str> = queries.iter().map(|query| query.name.as_str()).collect();
        let wanted: Vec<String> = (1..=22).map(|number| format!("q{number}")).collect();
        assert_eq!(names, wanted);
        assert!(queries.iter().all(|query| query.sql.contains("from") && !query.sql.contains(';')));
    }
}
