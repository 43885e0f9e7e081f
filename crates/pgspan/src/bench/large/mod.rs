//! `pgspan bench --large`: millions of rows that cross, beside postgres_fdw (default and
//! tuned), DuckDB, chDB, and the floor: the same columns copied into nothing.

mod data;
mod growth;
pub mod report;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::client::Rows;
use super::python::Setup;
use super::race::{Manner, Name, Peer, Player, Query, race};
use super::stand::{At, Stand, StandOptions, progress};
use crate::demo::DemoError;
use crate::terminal::say;
use data::{HOME, SOURCE, Size};
use report::Report;

const HEADING: &str = "With --large or --tpch";
/// Rounds of each peer unless told otherwise.
const ROUNDS: usize = 5;

/// What the measurements with much data share.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct Volume {
    /// How much data: 1 is 5,000,000 orders with --large, scale factor 1 with --tpch
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub scale: f64,
    /// Only these queries: q1,q3
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub queries: Vec<String>,
    /// Only these peers: pgspan,fdw,fdw-tuned,duckdb,chdb,floor
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// A query is ended after this time, which then counts as its time
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = time)]
    pub cut: Duration,
    /// Keep the lab and its data there, and use them again (end it with `pgspan lab down`)
    #[arg(long, value_name = "DIR")]
    pub lab_dir: Option<PathBuf>,
    /// With --large: also Q1 at a tenth and at four times the orders, and the border
    /// between few rows and many, as plots
    #[arg(long)]
    pub growth: bool,
    /// With --tpch: only `split` (four tables at home) or `foreign` (all of them foreign)
    #[arg(long, value_name = "NAME", value_parser = ["split", "foreign"])]
    pub arrangement: Option<String>,
    /// Load the data, start the gateway, and stop there
    #[arg(long, requires = "lab_dir")]
    pub load_only: bool,
    /// A key of the gateway's configuration, as SECTION.KEY=VALUE; may be repeated
    #[arg(long, value_parser = crate::lab::pair, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<(String, String)>,
}

/// Reads `300s`, `500ms`.
fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds: f64 = number.parse().map_err(|_| "give a time: 300s".to_owned())?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|error| error.to_string())
}

impl Volume {
    /// Opens the lab of these options.
    pub fn open(&self, bench: &super::Bench) -> Result<Stand, DemoError> {
        Stand::open(&StandOptions {
            dir: self.lab_dir.as_deref(),
            postgres_bin: bench.postgres_bin.as_deref(),
            gateway_program: bench.gateway_program.as_deref(),
            settings: self.set.clone(),
        })
    }

    /// Whether a peer is wanted.
    pub fn wants_peer(&self, name: Name) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer == name.key())
    }

    /// Whether a query is wanted.
    pub fn wants_query(&self, name: &str) -> bool {
        self.queries.is_empty() || self.queries.iter().any(|query| query.eq_ignore_ascii_case(name))
    }

    /// Refuses names that nobody has.
    pub fn check(&self, peers: &[Name], queries: &[Query]) -> Result<(), DemoError> {
        let peer = self.peers.iter().find(|name| peers.iter().all(|peer| peer.key() != *name));
        let query = self
            .queries
            .iter()
            .find(|name| queries.iter().all(|query| !query.name.eq_ignore_ascii_case(name)));
        match (peer, query) {
            (Some(name), _) => Err(DemoError::new(format!("there is no peer {name:?}"))),
            (_, Some(name)) => Err(DemoError::new(format!("there is no query {name:?}"))),
            _ => Ok(()),
        }
    }
}

/// The four queries, and what the floor copies for them: the columns that they need.
fn queries() -> Vec<Query> {
    let query = |name: &str, sql: &str, floor: Option<&str>| Query {
        name: name.to_owned(),
        sql: sql.trim().to_owned(),
        floor: floor.map(str::to_owned),
    };
    vec![
        query(
            "q1",
            include_str!("q1.sql"),
            Some("SELECT user_id, order_id, total_amount FROM orders WHERE"),
        ),
        query("q2", include_str!("q2.sql"), Some("SELECT user_id FROM orders WHERE")),
        query("q3", include_str!("q3.sql"), None),
        query(
            "q4",
            include_str!("q4.sql"),
            Some(
                "SELECT user_id, order_status, total_amount FROM orders \
                 WHERE order_date >= '2025-01-01' AND",
            ),
        ),
    ]
}

const PEERS: [Name; 6] =
    [Name::Pgspan, Name::Fdw, Name::FdwTuned, Name::Duckdb, Name::Chdb, Name::Floor];

/// Runs the measurements; true when pgspan's answers are PostgreSQL's and, with
/// `--strict`, no target is missed.
pub fn run(bench: &super::Bench) -> Result<bool, DemoError> {
    let volume = &bench.volume;
    volume.check(&PEERS, &queries())?;
    super::warn_of_noise();
    let stand = volume.open(bench)?;
    let size = Size::at(volume.scale);
    data::load(&stand, size)?;
    if volume.load_only {
        progress(format!("the lab in {} is up", stand.dir().display()));
        return Ok(true);
    }
    let mut report = Report::new(&stand, size);
    let mut peers = peers(&stand, volume)?;
    let rounds = bench.rounds.map_or(if bench.quick { 2 } else { ROUNDS }, usize::from);
    let manner = Manner { rounds, cut: volume.cut, patience: Duration::MAX };
    for query in queries().iter().filter(|query| volume.wants_query(&query.name)) {
        progress(format!("{}: {}", query.name, query.sql));
        let oracle = oracle(&stand, &query.sql)?;
        let raced = race(&stand, query, &oracle, &mut peers, manner);
        say(report::table(&raced));
        report.queries.push(raced);
    }
    drop(peers);
    let folder = bench.out.parent().unwrap_or(Path::new("."));
    if volume.growth {
        report.border = growth::border(&stand, size, volume.cut)?;
        report.growth = growth::growth(&stand, size, volume.cut)?;
        growth::pictures(folder, &report.growth, &report.border)?;
        say(report.curves());
    }
    report.finish();
    say(report.summary());
    report.write(&folder.join("large"))?;
    stand.close()?;
    Ok(!report.queries.iter().any(super::race::Raced::is_wrong)
        && (!bench.strict || report.missed() == 0))
}

fn peers(stand: &Stand, volume: &Volume) -> Result<Vec<Peer>, DemoError> {
    let setup = Setup {
        servers: [
            ("home", stand.login(At::Home, HOME)?),
            ("source", stand.login(At::Source, SOURCE)?),
        ]
        .into(),
        tables: vec![
            ("users".into(), "home", "users".into()),
            ("remote_orders".into(), "source", "orders".into()),
        ],
    };
    let mut peers = Vec::new();
    for name in PEERS.into_iter().filter(|name| volume.wants_peer(*name)) {
        peers.push(match name {
            Name::Pgspan => Peer::session(name, stand.login(At::Gateway, HOME)?, ""),
            Name::Fdw => {
                let first = "SET search_path = direct_fdw, public";
                Peer::session(name, stand.login(At::Home, HOME)?, first)
            }
            Name::FdwTuned => {
                let first = "SET search_path = tuned_fdw, public";
                Peer::session(name, stand.login(At::Home, HOME)?, first)
            }
            Name::Duckdb | Name::Chdb => Peer::python(name, &setup),
            Name::Floor => {
                let halves =
                    [stand.connect(At::Source, SOURCE)?, stand.connect(At::Source, SOURCE)?];
                Peer { name, player: Player::Halves(Box::new(halves)) }
            }
        });
    }
    Ok(peers)
}

/// PostgreSQL's own answer, asked once for each lab.
fn oracle(stand: &Stand, sql: &str) -> Result<Rows, DemoError> {
    let mut home = stand.connect(At::Home, HOME)?;
    super::answers::remembered(&mut home, sql, |home| {
        progress("PostgreSQL's own answer");
        home.run("SET search_path = tuned_fdw, public")?;
        let rows = home.run(sql)?.rows;
        home.run("RESET search_path")?;
        Ok(rows)
    })
}

/// Processors of this machine.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
