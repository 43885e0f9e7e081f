//! `--fuzz`: generated schemas over two or three sources and generated queries, each at
//! PostgreSQL and through the gateway with each strategy that does something of its own.
//!
//! | module | room |
//! |---|---|
//! | [`values`] | types, and values at their extremes |
//! | [`schema`] | tables and rows from a seed |
//! | [`place`] | how a table is kept at its source, and how home declares it |
//! | [`change`] | what happens to its rows and definitions between two queries |
//! | [`draft`] | a query as a tree, and how it gets smaller |
//! | [`query`] | queries from a seed |
//! | [`names`] | queries whose names could be confused |
//! | [`parameters`] | the same query with parameters |
//! | [`play`] | sessions, and what counts as a difference |
//! | [`keep`] | a failure made small, rows included, and written as a case file |

pub mod change;
pub mod draft;
pub mod keep;
pub mod names;
pub mod parameters;
pub mod place;
pub mod play;
pub mod query;
pub mod schema;
pub mod values;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::lab::Lab;
use crate::options::Options;
use crate::world::{self, World};
use change::Changes;
use play::{Table, Verdict, Way};
use schema::Schema;

/// Queries of one schema.
const PER_SCHEMA: usize = 250;
/// A line for each so many queries of a long run.
const REPORT_EVERY: usize = 5_000;
/// Behind so many queries something changes, and the last ones that the gateway has served are
/// played again.
const CHANGE_EVERY: usize = 25;
/// So many of them.
const AGAIN: usize = 12;
/// Failures that are made small; the others are only counted.
const KEPT_MAX: usize = 10;
/// Reasons that are listed.
const REASONS_MAX: usize = 12;

/// What a run found.
#[derive(Debug, Default)]
struct Found {
    played: usize,
    /// Played again behind changes.
    again: usize,
    skipped: usize,
    refused: BTreeMap<String, usize>,
    rows: usize,
    /// Strategy asked for → route taken → count.
    routes: BTreeMap<&'static str, BTreeMap<String, usize>>,
    /// Why queries did not run on the engine though it was asked for: route and reason;
    /// how many, and where and in which words first.
    others: BTreeMap<(String, String), (usize, String)>,
    wrong: usize,
    plan_decides: usize,
    kept: usize,
    failures: Vec<String>,
}

/// Runs so many queries; true when none differed.
///
/// # Errors
/// When the servers cannot be used.
pub fn run(options: &Options, lab: &Lab, count: usize) -> Result<bool, String> {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Found::default());
    let schemas = count.div_ceil(PER_SCHEMA);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|_| {
                scope.spawn(|| -> Result<(), String> {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= schemas {
                            return Ok(());
                        }
                        let own = PER_SCHEMA.min(count - at * PER_SCHEMA);
                        let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(at as u64);
                        one_schema(options, lab, seed, own, &found)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "the harness panicked".to_owned())?)
    })?;
    let found = found.into_inner().map_err(|error| error.to_string())?;
    found.print(count, began.elapsed().as_secs_f64());
    if found.played == 0 {
        return Err("nothing was played".to_owned());
    }
    Ok(found.wrong == 0)
}

fn one_schema(
    options: &Options,
    lab: &Lab,
    seed: u64,
    count: usize,
    found: &Mutex<Found>,
) -> Result<(), String> {
    let schema = Schema::new(seed);
    let name = format!("fuzz_{seed}");
    let file = schema.file(&name);
    let world = World::create(lab, &file)?;
    let mut table = Table::sparing(&world);
    let mut failures = Vec::new();
    // Every third query plays with names.
    let confused = names::drafts(&schema, seed, count.div_ceil(3));
    let mut confused = confused.into_iter();
    let mut changes = Changes::new(&schema, seed);
    let mut played: Vec<(String, bool, Way)> = Vec::new();
    let drafts = query::drafts(&schema, seed, count).into_iter().enumerate();
    for (at, draft) in drafts {
        let draft = if at % 3 == 2 { confused.next().unwrap_or(draft) } else { draft };
        let way = Way::of(at);
        let sql = draft.sql();
        let verdict = table.play(&sql, draft.is_ordered(), way)?;
        let served = |(_, route, _): &(&str, String, String)| {
            !matches!(route.as_str(), "fallback" | "relay")
        };
        if verdict.routes.iter().any(served) {
            played.push((sql, draft.is_ordered(), way));
        }
        if at % CHANGE_EVERY == CHANGE_EVERY - 1 {
            changes.make(&world)?;
            for (sql, ordered, way) in played.iter().rev().take(AGAIN) {
                let again = table.play(sql, *ordered, *way)?;
                let mut found = found.lock().map_err(|error| error.to_string())?;
                found.again += 1;
                if !again.wrong.is_empty() {
                    found.wrong += 1;
                    let place = format!("seed {seed}/{at} again");
                    println!(
                        "{}",
                        failure(&format!("{place} {way:?}"), sql, &again, &changes.done)
                    );
                    found.failures.push(place);
                }
            }
        }
        let mut found = found.lock().map_err(|error| error.to_string())?;
        let place = format!("seed {seed}/{at}");
        found.count(&place, &verdict);
        let all = found.played + found.skipped;
        if all.is_multiple_of(REPORT_EVERY) {
            eprintln!("{all} queries, {} failed", found.wrong);
        }
        if !verdict.wrong.is_empty() {
            println!(
                "{}",
                failure(&format!("{place} {way:?}"), &draft.sql(), &verdict, &changes.done)
            );
            found.failures.push(place);
            if found.kept < KEPT_MAX {
                found.kept += 1;
                failures.push((at, draft, way));
            }
        }
    }
    drop(table);
    for (at, draft, way) in failures {
        let kept = keep::minimise(&world, &schema, &draft, way)?;
        let path = keep::write(&options.failures, &format!("seed_{seed}_{at}"), &kept)?;
        println!("kept as {}:\n{}\n", path.display(), kept.sql);
    }
    world::remove(world);
    Ok(())
}

/// What differed, and what had been changed before.
fn failure(place: &str, sql: &str, verdict: &Verdict, changes: &[String]) -> String {
    let mut text = format!("FAILED {place}\n{sql}\n");
    for (strategy, difference) in &verdict.wrong {
        text.push_str(&format!("[{strategy}] {difference}\n"));
    }
    text.push_str(&format!("behind\n  {}\n", changes.join(";\n  ")));
    text
}

impl Found {
    fn count(&mut self, place: &str, verdict: &Verdict) {
        if verdict.skipped {
            self.skipped += 1;
            return;
        }
        self.played += 1;
        self.rows += verdict.rows;
        self.wrong += usize::from(!verdict.wrong.is_empty());
        self.plan_decides += usize::from(verdict.plan_decides);
        if let Some(code) = &verdict.refused {
            *self.refused.entry(code.clone()).or_default() += 1;
        }
        for (strategy, route, reason) in &verdict.routes {
            *self.routes.entry(strategy).or_default().entry(route.clone()).or_default() += 1;
            if *strategy == "engine" && route != "engine" {
                // What stands behind the colon is this query's own.
                let short = reason.split(':').next().unwrap_or_default().to_owned();
                let other = self
                    .others
                    .entry((route.clone(), short))
                    .or_insert_with(|| (0, format!("{place}: {reason}")));
                other.0 += 1;
            }
        }
    }

    fn print(&self, count: usize, seconds: f64) {
        println!("strategy     ran as");
        for (strategy, routes) in &self.routes {
            let routes: Vec<String> =
                routes.iter().map(|(route, count)| format!("{route} {count}")).collect();
            println!("{strategy:<12} {}", routes.join(", "));
        }
        let mut others: Vec<_> = self.others.iter().collect();
        others.sort_by_key(|other| std::cmp::Reverse(other.1.0));
        for ((route, reason), (count, example)) in others.into_iter().take(REASONS_MAX) {
            println!("  engine asked for, {route}: {reason}: {count} (first {example})");
        }
        let refused: Vec<String> =
            self.refused.iter().map(|(code, count)| format!("{code} {count}")).collect();
        println!(
            "{} rows at PostgreSQL; it refused {} queries ({}); {} were too large to be played",
            self.rows,
            self.refused.values().sum::<usize>(),
            refused.join(", "),
            self.skipped
        );
        println!("{} were played again behind changes of rows and definitions", self.again);
        println!(
            "{} meet a value that cannot be computed under some of PostgreSQL's plans only",
            self.plan_decides
        );
        println!(
            "{count} queries in {seconds:.0} s ({:.1} each second), {} times through the gateway",
            count as f64 / seconds,
            self.routes.values().flat_map(BTreeMap::values).sum::<usize>()
        );
        if !self.failures.is_empty() {
            println!("failed: {}", self.failures.join(", "));
        }
        println!("{} passed, {} failed", self.played + self.again - self.wrong, self.wrong);
    }
}
