//! Mixed load for a while, with links that break, servers' processes that are ended,
//! and cancels: every answer is the known one or an honest error, nothing written is
//! lost or written twice, and nothing is left behind.
//!
//! `cargo test -p pgspan --test soak -- --minutes 30 --seed 1`
#![allow(clippy::unwrap_used, clippy::print_stdout)] // it reports on its output

#[path = "../faults/client.rs"]
#[allow(dead_code)] // the tests of faults use all of it
mod client;
mod proxy;
#[path = "../faults/stand.rs"]
mod stand;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::Client;
use pgspan_lab::{Lab, LabOptions};
use proxy::{Dice, Weather};
use stand::start_gateway;

/// Sessions at once.
const WORKERS: u64 = 6;
/// Time between two ends of servers' processes.
const KILL_EVERY: Duration = Duration::from_millis(1500);
/// How long everything may take to end when the weather is calm.
const SETTLE_MAX: Duration = Duration::from_secs(40);
/// How much the gateway may hold at the end beyond what it held when warm.
const GROWTH_KB_MAX: u64 = 64 * 1024;

/// What the client may be told when something breaks.
const HONEST: &[&str] = &[
    "lost", "57014", "57P01", "57P02", "57P03", "08000", "08001", "08003", "08006", "53300",
    "HV000", "HV00N",
];

/// Statements whose answers are known: asked of PostgreSQL itself before.
const STATEMENTS: &[&str] = &[
    "SELECT count(*) || ':' || sum(id) FROM far",
    "SELECT id || name FROM far WHERE id < 40 ORDER BY id",
    "SELECT p.who || f.name FROM people p JOIN far f USING (id) ORDER BY f.id",
    "SELECT p.id % 7 || ':' || count(f.id) FROM people p LEFT JOIN far f USING (id) GROUP BY p.id % 7 ORDER BY 1",
    "SELECT a.name || b.name FROM far a JOIN far b ON b.id = a.id + 1 WHERE a.id < 50 ORDER BY a.id",
    "SELECT f.name || s.word FROM far f JOIN second s USING (id) ORDER BY f.id",
    "SELECT id || pad FROM wide ORDER BY id",
    "SELECT count(p.who || w.pad) FROM wide w JOIN people p USING (id)",
    "SELECT name || complain(id) FROM far WHERE id < 5 ORDER BY id",
    "SELECT sum(id) || who FROM people WHERE id < 100 GROUP BY who ORDER BY min(id)",
    "SELECT p.id % 5 || ':' || count(*) || ':' || min(w.id) FROM wide w JOIN people p USING (id) GROUP BY p.id % 5 ORDER BY 1",
    "SELECT f.id || ':' || count(w.id) FROM far f LEFT JOIN wide w ON w.id = f.id WHERE f.id > 450 GROUP BY f.id ORDER BY f.id",
    "SELECT string_agg(name, ',' ORDER BY id) FROM (SELECT * FROM far ORDER BY id LIMIT 20) x",
];

const SOURCE: &str = "
    CREATE TABLE far (id int PRIMARY KEY, name text);
    INSERT INTO far SELECT g, 'n' || g FROM generate_series(1, 500) g;
    CREATE TABLE second (id int PRIMARY KEY, word text);
    INSERT INTO second SELECT g, 'w' || g FROM generate_series(1, 300, 3) g;
    CREATE TABLE wide (id int PRIMARY KEY, pad text);
    INSERT INTO wide SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 3000) g;
    ANALYZE";

/// Counts of a run.
#[derive(Default)]
struct Tally {
    queries: AtomicU64,
    right: AtomicU64,
    cancels: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    /// A wrong answer, kept for the report.
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// An error that may come there.
    fn counted(&self, code: &str) {
        *self.errors.lock().unwrap().entry(code.to_owned()).or_default() += 1;
    }

    /// What came instead of an answer.
    fn error(&self, code: &str, what: &str) {
        self.counted(code);
        if !HONEST.contains(&code) {
            self.wrong(what.to_owned());
        }
    }
}

/// What every worker knows.
struct Stage {
    address: String,
    password: String,
    answers: Vec<Vec<String>>,
    ending: AtomicBool,
    tally: Tally,
    /// Numbers that the client was told are written, and those it was told are not.
    written: Mutex<Vec<u64>>,
    refused: Mutex<Vec<u64>>,
    next: AtomicU64,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)?.parse::<f64>().ok()
    };
    let minutes = option("--minutes").unwrap_or(30.0);
    let seed = option("--seed").map_or(1, |seed| seed as u64);
    let duration = Duration::from_secs_f64(minutes * 60.0);
    println!("soak: {minutes} minutes, {WORKERS} sessions, seed {seed}");

    let mut options = LabOptions::temporary().unwrap();
    options.settings.push(("fsync".to_owned(), "off".to_owned()));
    let mut lab = Lab::start(&options, &mut |_| {}).unwrap();
    let weather = Arc::new(Weather::default());
    weather.calm.store(true, Ordering::Relaxed);
    let link = |lab: &Lab, name: &str| lab.server(name).unwrap().link.to_string();
    let to_home = proxy::start(&link(&lab, "users-writer"), &weather, seed * 1000, 400_000);
    let to_source = proxy::start(&link(&lab, "orders-writer"), &weather, seed * 2000, 400_000);
    let program = Path::new(env!("CARGO_BIN_EXE_pgspan"));
    // What ends well is kept for the next client.
    let settings = [("limits.home_idle_s_max", "2".to_owned())];
    let gateway = start_gateway(&mut lab, program, &settings, |lab, gateway| {
        // The proxy in its way to home.
        let text = std::fs::read_to_string(&gateway.config).unwrap();
        let home = link(lab, "users-writer");
        assert!(text.contains(&home), "{text}");
        std::fs::write(&gateway.config, text.replace(&home, &to_home)).unwrap();
    });
    let to_gateway = proxy::start(&gateway, &weather, seed * 3000, 600_000);
    fill(&lab, &to_source);

    let home = lab.server("users-writer").unwrap().address.to_string();
    let password = lab.state().password.clone();
    let mut direct = Client::connect(&home, "postgres", &password, "usersdb").unwrap();
    let answers: Vec<Vec<String>> = STATEMENTS
        .iter()
        .map(|sql| {
            let answer = direct.query(sql);
            assert_eq!(answer.code(), "ok", "{sql}: {answer:?}");
            answer.rows
        })
        .collect();
    drop(direct);
    weather.calm.store(false, Ordering::Relaxed);
    let stage = Arc::new(Stage {
        address: to_gateway,
        password,
        answers,
        ending: AtomicBool::new(false),
        tally: Tally::default(),
        written: Mutex::default(),
        refused: Mutex::default(),
        next: AtomicU64::new(1),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| {
            let stage = Arc::clone(&stage);
            std::thread::spawn(move || work(&stage, Dice::new(seed * 77 + n * 13 + 1)))
        })
        .collect();

    let started = Instant::now();
    let mut dice = Dice::new(seed * 31 + 7);
    let (mut ended, mut warm_kb) = (0, 0);
    while started.elapsed() < duration {
        std::thread::sleep(KILL_EVERY.min(duration));
        let server = ["users-writer", "orders-writer"][dice.below(2) as usize];
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
             ORDER BY random() LIMIT 1";
        let place = lab.server(server).unwrap();
        ended +=
            u64::from(lab.psql(place, &place.database, sql).is_ok_and(|out| out.contains('t')));
        if warm_kb == 0 && started.elapsed() > duration / 5 {
            warm_kb = resident_kb(&lab);
        }
    }
    stage.ending.store(true, Ordering::Relaxed);
    weather.calm.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    let leaked = settle(&lab, &gateway, &stage);
    check_journal(&lab, &stage);
    let kb = resident_kb(&lab);
    let grown = kb.saturating_sub(warm_kb);
    let tally = &stage.tally;
    let wrong = tally.wrong.lock().unwrap();
    wrong.iter().take(20).for_each(|text| println!("WRONG {text}"));
    let faults: Vec<u64> = weather.faults.iter().map(|n| n.load(Ordering::Relaxed)).collect();
    println!(
        "soak: {} queries, {} answered, {} written, errors {:?}",
        tally.queries.load(Ordering::Relaxed),
        tally.right.load(Ordering::Relaxed),
        stage.written.lock().unwrap().len(),
        tally.errors.lock().unwrap()
    );
    println!(
        "soak: {} faults ({} cuts, {} half messages, {} stalls, {} slow), {ended} processes ended, {} cancels, {} connections",
        faults.iter().sum::<u64>(),
        faults[0],
        faults[1],
        faults[2],
        faults[3],
        tally.cancels.load(Ordering::Relaxed),
        weather.connections.load(Ordering::Relaxed)
    );
    println!(
        "soak: {} wrong answers, {leaked} leaked connections, memory {warm_kb} kB warm, {kb} kB at the end",
        wrong.len()
    );
    let bad = !wrong.is_empty() || leaked > 0 || grown > GROWTH_KB_MAX;
    drop(lab);
    std::process::exit(i32::from(bad));
}

fn fill(lab: &Lab, to_source: &str) {
    let at = |name: &str, sql: &str| {
        let server = lab.server(name).unwrap();
        lab.psql(server, &server.database, sql).unwrap()
    };
    at("orders-writer", SOURCE);
    let (host, port) = to_source.rsplit_once(':').unwrap();
    let password = &lab.state().password;
    at(
        "users-writer",
        &format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER orders FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{host}', port '{port}', dbname 'ordersdb');
             CREATE USER MAPPING FOR postgres SERVER orders
                OPTIONS (user 'postgres', password '{password}');
             CREATE FOREIGN TABLE far (id int, name text) SERVER orders;
             CREATE FOREIGN TABLE second (id int, word text) SERVER orders;
             CREATE FOREIGN TABLE wide (id int, pad text) SERVER orders;
             CREATE TABLE people (id int PRIMARY KEY, who text);
             INSERT INTO people SELECT g, 'p' || g FROM generate_series(1, 400) g;
             CREATE TABLE journal (id bigint);
             CREATE FUNCTION complain(n int) RETURNS text LANGUAGE plpgsql AS
                'BEGIN RAISE NOTICE ''row %'', n; RETURN n::text; END';
             ANALYZE people"
        ),
    );
}

/// One session after another, until the end.
fn work(stage: &Stage, mut dice: Dice) {
    while !stage.ending.load(Ordering::Relaxed) {
        let mut client =
            match Client::connect(&stage.address, "postgres", &stage.password, "usersdb") {
                Ok(client) => client,
                Err(fault) => {
                    let code = if fault.code.is_empty() { "lost" } else { &fault.code };
                    stage.tally.error(code, &format!("login: {fault:?}"));
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
        // A third of the sessions prefer the engine, whatever the size.
        if dice.below(3) == 0 && client.query("SET pgspan.strategy = 'engine'").code() != "ok" {
            continue;
        }
        for _ in 0..1 + dice.below(60) {
            if stage.ending.load(Ordering::Relaxed) || !one(stage, &mut client, &mut dice) {
                break;
            }
        }
    }
}

/// One statement, or one block of them; `false` when the session is over.
fn one(stage: &Stage, client: &mut Client, dice: &mut Dice) -> bool {
    match dice.below(12) {
        0 => write(stage, client),
        1 => {
            let block = client.query("BEGIN").code() == "ok"
                && ask(stage, client, dice)
                && ask(stage, client, dice);
            block && client.query("ROLLBACK").status == b'I'
        }
        2 => {
            // A cancel that comes at some moment, and may hit nothing.
            stage.tally.cancels.fetch_add(1, Ordering::Relaxed);
            let at = dice.below(STATEMENTS.len() as u64) as usize;
            client.start(STATEMENTS[at]);
            std::thread::sleep(Duration::from_micros(dice.below(3000)));
            client.cancel();
            judge(stage, at, &client.finish())
        }
        _ => ask(stage, client, dice),
    }
}

fn ask(stage: &Stage, client: &mut Client, dice: &mut Dice) -> bool {
    let at = dice.below(STATEMENTS.len() as u64) as usize;
    if dice.below(2) == 0 {
        client.start(STATEMENTS[at]);
    } else {
        client.start_extended(STATEMENTS[at]);
    }
    judge(stage, at, &client.finish())
}

/// Compares an answer with the known one.
fn judge(stage: &Stage, at: usize, answer: &client::Answer) -> bool {
    stage.tally.queries.fetch_add(1, Ordering::Relaxed);
    match answer.code() {
        "ok" if answer.rows == stage.answers[at] => {
            stage.tally.right.fetch_add(1, Ordering::Relaxed);
        }
        "ok" => stage.tally.wrong(format!(
            "{}: {} rows, {} expected, {}",
            STATEMENTS[at],
            answer.rows.len(),
            stage.answers[at].len(),
            answer.shape
        )),
        // Within a block that an error has ended.
        "25P02" if answer.status == b'E' => {}
        // In a block, after the gateway has read there: a link broke, home had to go on, and
        // somebody had written meanwhile (docs/decisions/0012-blocks.md).
        "40001" if answer.status == b'E' && answer.rows.is_empty() => stage.tally.counted("40001"),
        code => {
            stage.tally.error(code, &format!("{}: {answer:?}", STATEMENTS[at]));
            // What came before the error is the beginning of the answer.
            if !stage.answers[at].starts_with(&answer.rows) {
                stage.tally.wrong(format!("{}: other rows before {code}", STATEMENTS[at]));
            }
        }
    }
    answer.status != 0
}

/// A row at home that is written once, or not at all.
fn write(stage: &Stage, client: &mut Client) -> bool {
    let id = stage.next.fetch_add(1, Ordering::Relaxed);
    let answer = client.query(&format!("INSERT INTO journal VALUES ({id}) RETURNING id"));
    stage.tally.queries.fetch_add(1, Ordering::Relaxed);
    match answer.code() {
        "ok" => stage.written.lock().unwrap().push(id),
        "57014" => stage.refused.lock().unwrap().push(id),
        code => stage.tally.error(code, &format!("INSERT: {answer:?}")),
    }
    answer.status != 0
}

/// Everything that was written is there once, nothing that was refused is.
fn check_journal(lab: &Lab, stage: &Stage) {
    let server = lab.server("users-writer").unwrap();
    let text = lab.psql(server, "usersdb", "SELECT id FROM journal").unwrap();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for id in text.lines().filter_map(|line| line.trim().parse().ok()) {
        *counts.entry(id).or_default() += 1;
    }
    for id in stage.written.lock().unwrap().iter() {
        if counts.get(id) != Some(&1) {
            stage.tally.wrong(format!("journal {id} was written {:?} times", counts.get(id)));
        }
    }
    for id in stage.refused.lock().unwrap().iter().filter(|id| counts.contains_key(id)) {
        stage.tally.wrong(format!("journal {id} was refused and is there"));
    }
    for (id, count) in counts.iter().filter(|(_, count)| **count > 1) {
        stage.tally.wrong(format!("journal {id} is there {count} times"));
    }
}

/// In calm weather nothing is left: sessions at home, leases of sources; and every
/// statement has its answer again. What is left is counted.
fn settle(lab: &Lab, gateway: &str, stage: &Stage) -> u64 {
    let deadline = Instant::now() + SETTLE_MAX;
    let server = lab.server("users-writer").unwrap();
    let sessions = || -> u64 {
        let sql = "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        // Kept ones among them, until they have been kept for too long.
        lab.psql(server, "usersdb", sql).ok().and_then(|n| n.trim().parse().ok()).unwrap_or(1)
    };
    let mut left = sessions();
    while left > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        left = sessions();
    }
    let mut client = Client::connect(gateway, "postgres", &stage.password, "usersdb").unwrap();
    for preferred in ["auto", "engine"] {
        assert_eq!(client.query(&format!("SET pgspan.strategy = '{preferred}'")).code(), "ok");
        let mut routes: BTreeMap<String, usize> = BTreeMap::new();
        for (sql, rows) in STATEMENTS.iter().zip(&stage.answers) {
            // A pooled connection that broke unseen may cost the first statement an error
            // of home's own attempt, never the second.
            let answer = [client.query(sql), client.query(sql)].into_iter().next_back().unwrap();
            if answer.rows != *rows {
                stage.tally.wrong(format!("afterwards, {preferred}, {sql}: {answer:?}"));
            }
            *routes.entry(client.value("SHOW pgspan.last_route")).or_default() += 1;
        }
        println!("soak: statements by strategy, {preferred}: {routes:?}");
    }
    loop {
        let leased = client.leased();
        if leased == 0 || Instant::now() > deadline {
            return left + leased;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Memory that the gateway holds.
fn resident_kb(lab: &Lab) -> u64 {
    let helper = lab.state().helpers.iter().find(|helper| helper.name == "gateway").unwrap();
    let text = std::fs::read_to_string(format!("/proc/{}/status", helper.pid)).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}
