//! Peers that answer the same queries, in turns: times, answers, memory, bytes, routes.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::{Answer, Client, Fault, Login, Rows};
use super::equal::{Agreement, compare};
use super::python::{Driver, Setup};
use super::stand::{At, Stand, progress};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The gateway.
    Pgspan,
    /// postgres_fdw as it is declared without options.
    Fdw,
    /// postgres_fdw with everything turned up.
    FdwTuned,
    /// DuckDB with its PostgreSQL scanner.
    Duckdb,
    /// chDB with `postgresql()`.
    Chdb,
    /// The query's columns copied into nothing.
    Floor,
}

impl Name {
    /// As the command line has it.
    pub fn key(self) -> &'static str {
        match self {
            Name::Pgspan => "pgspan",
            Name::Fdw => "fdw",
            Name::FdwTuned => "fdw-tuned",
            Name::Duckdb => "duckdb",
            Name::Chdb => "chdb",
            Name::Floor => "floor",
        }
    }

    /// As a table has it.
    pub fn title(self) -> &'static str {
        match self {
            Name::Pgspan => "pgspan",
            Name::Fdw => "postgres_fdw",
            Name::FdwTuned => "postgres_fdw, tuned",
            Name::Duckdb => "DuckDB",
            Name::Chdb => "chDB",
            Name::Floor => "floor (COPY)",
        }
    }

    /// Whether it is compared with: it answers the query, and is not pgspan.
    pub fn is_rival(self) -> bool {
        !matches!(self, Name::Pgspan | Name::Floor)
    }
}

/// A query.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its name.
    pub name: String,
    /// Its text.
    pub sql: String,
    /// What the floor copies, by halves of the table.
    pub floor: Option<String>,
}

/// Somebody who can be asked.
#[derive(Debug)]
pub enum Player {
    /// A PostgreSQL session: login, what is sent first, and the session while it lasts.
    Session(Box<(Login, String, Option<Client>)>),
    /// A process.
    Driver(Box<Driver>),
    /// Two sessions at the source.
    Halves(Box<[Client; 2]>),
    /// Cannot be had here, and why.
    Missing(String),
}

/// A peer.
#[derive(Debug)]
pub struct Peer {
    /// Who.
    pub name: Name,
    /// How it is asked.
    pub player: Player,
}

impl Peer {
    /// A session with some settings.
    pub fn session(name: Name, login: Login, first: &str) -> Peer {
        Peer { name, player: Player::Session(Box::new((login, first.to_owned(), None))) }
    }

    /// A peer that lives in Python, or the reason why there is none.
    pub fn python(name: Name, setup: &Setup) -> Peer {
        let started = super::python::environment().and_then(|python| {
            Driver::start(name.key(), &python, setup).map_err(|error| error.to_string())
        });
        let player = match started {
            Ok(driver) => Player::Driver(Box::new(driver)),
            Err(why) => {
                progress(format!("{} cannot be had here: {why}", name.title()));
                Player::Missing(why)
            }
        };
        Peer { name, player }
    }

    fn run(&mut self, query: &Query, cut: Duration) -> Result<Answer, Fault> {
        match &mut self.player {
            Player::Session(session) => {
                let (login, first, open) = &mut **session;
                let mut client = match open.take() {
                    Some(client) => client,
                    None => {
                        let mut client = Client::connect(login)?;
                        let cut = cut.as_millis();
                        client.run(&format!("SET statement_timeout = {cut}; {first}"))?;
                        client
                    }
                };
                // The server's own limit comes first; this is for who does not keep it.
                let answer = client.run_within(&query.sql, cut + Duration::from_secs(5));
                if !matches!(&answer, Err(fault) if fault.code.is_empty()) {
                    *open = Some(client);
                }
                answer
            }
            Player::Driver(driver) => driver.run(&query.sql, cut),
            Player::Halves(halves) => floor(halves, query.floor.as_deref().unwrap_or_default()),
            Player::Missing(why) => {
                Err(Fault { code: String::new(), message: format!("not here: {why}") })
            }
        }
    }

    fn route(&mut self) -> Option<String> {
        let Player::Session(session) = &mut self.player else { return None };
        let answer = session.2.as_mut()?.run("SHOW pgspan.last_route").ok()?;
        let row = answer.rows.into_iter().next()?;
        // Strategy and reason.
        let told: Vec<String> = row.into_iter().take(2).flatten().collect();
        Some(told.join(": "))
    }

    fn version(&self) -> Option<String> {
        match &self.player {
            Player::Driver(driver) => Some(driver.version.clone()),
            _ => None,
        }
    }
}

/// The middle of a table, in blocks.
fn halves(source: &mut Client, table: &str) -> Result<u64, Fault> {
    let answer = source.run(&format!("SELECT pg_relation_size('{table}') / 8192 / 2"))?;
    Ok(answer.scalar().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// `COPY` of both halves at once; `select` ends before its conditions on ctid.
fn floor(clients: &mut [Client; 2], select: &str) -> Result<Answer, Fault> {
    let middle = halves(&mut clients[0], "orders")?;
    let [first, second] = clients;
    let began = Instant::now();
    let copy = |client: &mut Client, sign: &str| {
        client.drain(&format!(
            "COPY ({select} ctid {sign} '({middle},0)'::tid) TO STDOUT (FORMAT binary)"
        ))
    };
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| copy(second, ">="));
        let first = copy(first, "<");
        (first, other.join())
    });
    let second =
        second.map_err(|_| Fault { code: String::new(), message: "a thread died".to_owned() })?;
    Ok(Answer {
        rows: Rows::new(),
        seconds: began.elapsed().as_secs_f64(),
        bytes: first?.bytes + second?.bytes,
    })
}

/// What one peer did with one query.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Who.
    pub peer: Name,
    /// Its version, where it is not PostgreSQL.
    pub version: Option<String>,
    /// Median of the rounds; the limit when it was cut.
    pub seconds: Option<f64>,
    /// Every round.
    pub rounds: Vec<f64>,
    /// It was asked only once: it took too long.
    pub once: bool,
    /// It was ended at the limit.
    pub cut: bool,
    /// Why there is no answer.
    pub error: Option<String>,
    /// How far its answer agrees with PostgreSQL's.
    pub answer: Option<Agreement>,
    /// Rows of the answer.
    pub rows: usize,
    /// Bytes that the source sent for it.
    pub source_bytes: Option<u64>,
    /// The most memory of the gateway's process while it ran.
    pub peak_bytes: Option<u64>,
    /// The route that was taken.
    pub route: Option<String>,
}

/// One query and all peers.
#[derive(Debug, Clone, Serialize)]
pub struct Raced {
    /// The query's name.
    pub query: String,
    /// Its text.
    pub sql: String,
    /// Each peer.
    pub runs: Vec<Run>,
}

impl Raced {
    /// A peer's run.
    pub fn of(&self, name: Name) -> Option<&Run> {
        self.runs.iter().find(|run| run.peer == name)
    }

    /// A peer's time.
    pub fn seconds(&self, name: Name) -> Option<f64> {
        self.of(name)?.seconds
    }

    /// The fastest rival.
    pub fn best(&self) -> Option<(Name, f64)> {
        let rivals = self.runs.iter().filter(|run| run.peer.is_rival() && !run.cut);
        rivals
            .filter_map(|run| Some((run.peer, run.seconds?)))
            .min_by(|left, right| left.1.total_cmp(&right.1))
    }

    /// Whether pgspan's answer, if there is one, is not PostgreSQL's.
    pub fn is_wrong(&self) -> bool {
        self.of(Name::Pgspan).is_some_and(|run| {
            run.answer.is_some_and(|answer| answer != Agreement::Same)
                || (run.error.is_some() && !run.cut)
        })
    }
}

/// How a race is run.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Timed rounds of each peer.
    pub rounds: usize,
    /// The limit of one query.
    pub cut: Duration,
    /// A peer that took longer the first time is not asked again.
    pub patience: Duration,
}

/// Runs one query with every peer: once to see the answer, the bytes and the route, then
/// the timed rounds, another peer first each time. With one round the first run is it.
pub fn race(
    stand: &Stand,
    query: &Query,
    oracle: &Rows,
    peers: &mut [Peer],
    manner: Manner,
) -> Raced {
    let mut runs: Vec<Run> = Vec::new();
    for peer in peers.iter_mut() {
        runs.push(first(stand, query, oracle, peer, manner));
    }
    let rounds = if manner.rounds > 1 { manner.rounds } else { 0 };
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let place = (round + turn) % peers.len();
            let run = &mut runs[place];
            if run.error.is_some() || run.once {
                continue;
            }
            let pgspan = run.peer == Name::Pgspan;
            let counted = pgspan && stand.reset_peak();
            match peers[place].run(query, manner.cut) {
                Ok(answer) => run.rounds.push(answer.seconds),
                Err(fault) => failed(run, &fault, manner.cut),
            }
            if counted {
                run.peak_bytes = run.peak_bytes.max(stand.peak());
            }
        }
    }
    for run in &mut runs {
        if !run.cut {
            run.seconds = median(&run.rounds);
        }
    }
    Raced { query: query.name.clone(), sql: query.sql.clone(), runs }
}

fn first(stand: &Stand, query: &Query, oracle: &Rows, peer: &mut Peer, manner: Manner) -> Run {
    let mut run = Run {
        peer: peer.name,
        version: peer.version(),
        seconds: None,
        rounds: Vec::new(),
        once: false,
        cut: false,
        error: None,
        answer: None,
        rows: 0,
        source_bytes: None,
        peak_bytes: None,
        route: None,
    };
    if peer.name == Name::Floor && query.floor.is_none() {
        run.error = Some("not meant for this query".to_owned());
        return run;
    }
    let counted = peer.name == Name::Pgspan && stand.reset_peak();
    let (answer, bytes) = if manner.rounds > 1 {
        stand.bytes_sent(At::Source, || peer.run(query, manner.cut))
    } else {
        (peer.run(query, manner.cut), None)
    };
    if counted {
        run.peak_bytes = stand.peak();
    }
    match answer {
        Ok(answer) => {
            run.once = answer.seconds > manner.patience.as_secs_f64();
            if run.once || manner.rounds <= 1 {
                run.rounds.push(answer.seconds);
            }
            run.source_bytes = if peer.name == Name::Floor { Some(answer.bytes) } else { bytes };
            run.rows = answer.rows.len();
            if peer.name != Name::Floor {
                run.answer = Some(compare(oracle, &answer.rows));
            }
            if peer.name == Name::Pgspan {
                run.route = peer.route();
            }
        }
        Err(fault) => failed(&mut run, &fault, manner.cut),
    }
    run
}

fn failed(run: &mut Run, fault: &Fault, cut: Duration) {
    run.error = Some(format!("{} {}", fault.code, fault.message).trim().to_owned());
    if fault.is_cut() {
        run.cut = true;
        run.seconds = Some(cut.as_secs_f64());
    }
}

/// The middle value.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied()?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values[values.len() / 2 - 1] + upper) / 2.0)
}
