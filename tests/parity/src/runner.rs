//! Plays the files: every query in its variants, at PostgreSQL and at the gateway.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgspan_wire::backend::TransactionStatus;

use crate::case_file::{Case, CaseFile, Endpoint, Marks, Query, Variant};
use crate::client::{Connection, Extended, Flow};
use crate::compare::{self, Manner};
use crate::lab::Lab;
use crate::reply::Reply;
use crate::report::{Outcome, Report};
use crate::world::{self, Player, Sent, World};

/// Plays all files, several at once; failures are printed as they come.
pub fn run(lab: &Lab, files: &[CaseFile], threads: usize, quiet: bool) -> Report {
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcomes = catch_unwind(AssertUnwindSafe(|| run_file(lab, file)))
                        .unwrap_or_else(|_| vec![failed_file(file, "the harness panicked")]);
                    if !quiet {
                        print_file(file, &outcomes);
                    }
                    if let Ok(mut report) = report.lock() {
                        report.outcomes.extend(outcomes);
                    }
                }
            });
        }
    });
    report.into_inner().unwrap_or_default()
}

fn print_file(file: &CaseFile, outcomes: &[Outcome]) {
    let failed: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).collect();
    let mut text = String::new();
    for outcome in &failed {
        text.push_str(&outcome.failure());
    }
    let skipped = outcomes.iter().filter(|o| o.skipped.is_some()).count();
    let skipped = if skipped > 0 { format!(", {skipped} not played") } else { String::new() };
    println!(
        "{text}{:<24} {} of {} agree{skipped}",
        file.name,
        outcomes.len() - failed.len() - outcomes.iter().filter(|o| o.skipped.is_some()).count(),
        outcomes.len(),
    );
}

fn failed_file(file: &CaseFile, why: &str) -> Outcome {
    let mut outcome = Outcome::new(
        format!("{}/setup", file.name),
        format!("cases/{}.case", file.name),
        String::new(),
    );
    outcome.wrong.push(why.to_owned());
    outcome
}

/// Plays one file.
fn run_file(lab: &Lab, file: &CaseFile) -> Vec<Outcome> {
    let skipped = file.needs.iter().find_map(|need| match need.as_str() {
        "icu" if !lab.icu => Some("PostgreSQL without ICU"),
        "replica" if lab.home_replica.is_none() || lab.gateway_replica.is_none() => {
            Some("no replica")
        }
        _ => None,
    });
    if let Some(why) = skipped {
        return file
            .cases
            .iter()
            .map(|case| {
                let mut outcome = outcome_of(file, case);
                outcome.skipped = Some(why.to_owned());
                outcome
            })
            .collect();
    }
    let mut world = match World::create(lab, file) {
        Ok(world) => world,
        Err(why) => return vec![failed_file(file, &why)],
    };
    let mut outcomes = Vec::new();
    if let Err(why) = world.read_names() {
        outcomes.push(failed_file(file, &why));
    }
    let mut seats = (Seat::default(), Seat::default());
    for case in &file.cases {
        let mut outcome = outcome_of(file, case);
        if case.marks().version_min > lab.version {
            outcome.skipped = Some(format!("PostgreSQL {} is too old", lab.version));
        } else if case.marks().version_max.is_some_and(|max| max < lab.version) {
            outcome.skipped = Some(format!("PostgreSQL {} is too new", lab.version));
        } else {
            match case {
                Case::Query(query) => {
                    play_query(&mut world, &mut seats, query, file.separate, &mut outcome);
                }
                Case::Scenario(scenario) => {
                    crate::scenario::play(&mut world, scenario, &mut outcome);
                }
            }
        }
        outcomes.push(outcome);
    }
    drop(seats);
    world::remove(world);
    outcomes
}

fn outcome_of(file: &CaseFile, case: &Case) -> Outcome {
    let text = match case {
        Case::Query(query) => query.sql.clone(),
        Case::Scenario(scenario) => scenario
            .steps
            .iter()
            .map(|step| format!("{:?}: {}", step.action, step.text))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    Outcome::new(
        format!("{}/{}", file.name, case.label()),
        format!("cases/{}.case:{}", file.name, case.line()),
        text,
    )
}

/// The sessions of one player; one for each variant, so that a variant finds
/// only what it left itself.
#[derive(Default)]
struct Seat {
    sessions: HashMap<(Variant, Endpoint), Connection>,
}

/// The variants that a query is played in.
fn variants(query: &Query, separate: bool) -> Vec<Variant> {
    let mut variants = query.marks.variants.clone();
    if variants.is_empty() {
        variants = Variant::ALL.to_vec();
        if separate || !query.stdin.is_empty() {
            variants.retain(|variant| *variant != Variant::Again);
        }
    }
    if !query.params.is_empty() {
        // A parameter without values is the case's own subject in the simple protocol.
        variants.retain(|variant| *variant != Variant::Simple);
    }
    variants
}

fn play_query(
    world: &mut World<'_>,
    seats: &mut (Seat, Seat),
    query: &Query,
    separate: bool,
    outcome: &mut Outcome,
) {
    for variant in variants(query, separate) {
        let oracle = play(world, &mut seats.0, Player::Oracle, query, variant, outcome);
        let gateway = play(world, &mut seats.1, Player::Gateway, query, variant, outcome);
        let (oracle, gateway) = match (oracle, gateway) {
            (Ok(oracle), Ok(gateway)) => (oracle, gateway),
            (Err(why), _) | (_, Err(why)) => {
                outcome.wrong.push(format!("[{}] {why}", variant.name()));
                continue;
            }
        };
        let manner = Manner {
            rowsort: query.marks.rowsort,
            loose_context: query.marks.loose_context,
            loose_description: query.marks.loose_description,
        };
        let mut wrong: Vec<String> =
            compare::unexpected(&oracle.reply, &query.expect).into_iter().collect();
        wrong.extend(agree(world, &oracle.before, &gateway.before, manner));
        wrong.extend(agree(world, &oracle.reply, &gateway.reply, manner));
        wrong.extend(check_route(
            &query.marks,
            variant,
            gateway.route,
            world.lab.routes_visible,
            outcome,
        ));
        outcome.comparisons += 1;
        outcome
            .wrong
            .extend(wrong.into_iter().map(|wrong| format!("[{}] {wrong}", variant.name())));
    }
    outcome.statements.push(query.sql.clone());
}

/// Compares two replies; names of new objects are read when they are first missed.
pub fn agree(
    world: &mut World<'_>,
    oracle: &Reply,
    gateway: &Reply,
    manner: Manner,
) -> Vec<String> {
    let compared = |world: &World<'_>| {
        let names = (&world.realm(Player::Oracle).names, &world.realm(Player::Gateway).names);
        compare::differences(oracle, gateway, names, manner)
    };
    let found = compared(world);
    if found.is_empty() || world.read_names().is_err() {
        return found;
    }
    compared(world)
}

/// What `SHOW pgspan.last_route` must say.
pub fn check_route(
    marks: &Marks,
    variant: Variant,
    route: Option<(String, String)>,
    visible: bool,
    outcome: &mut Outcome,
) -> Option<String> {
    if !visible {
        outcome.strategy_unchecked |= !marks.strategies.is_empty();
        return None;
    }
    let Some((strategy, reason)) = route else {
        return (!marks.strategies.is_empty())
            .then(|| "strategy: the gateway does not tell its last route".to_owned());
    };
    outcome.routes.push((variant.name().to_owned(), strategy.clone(), reason.clone()));
    // Said only where home and a source are of different versions, which no case asks for.
    let mixed = reason.starts_with("a type that servers of different versions read differently");
    if marks.strategies.is_empty() || marks.strategies.contains(&strategy) || mixed {
        return None;
    }
    Some(format!(
        "strategy: expected {}, the gateway took {strategy} ({reason})",
        marks.strategies.join(" or ")
    ))
}

/// Whether it makes sense to ask how a statement was run. Asking is a statement too:
/// after `begin` it would come between it and `set transaction`.
pub fn has_route(sql: &str, reply: &Reply) -> bool {
    let sql = sql.trim_start_matches(['(', ' ', '\n']).to_ascii_lowercase();
    let query = ["select", "with", "table", "values", "/*", "--", "execute"]
        .iter()
        .any(|word| sql.starts_with(word));
    query && reply.broken.is_none() && reply.error.is_none()
}

/// Asks the gateway how it ran the last statement.
pub fn last_route(session: &mut Connection) -> Option<(String, String)> {
    let reply = session.simple("show pgspan.last_route");
    let row = reply.results.first()?.rows.first()?;
    let text = |at: usize| {
        let value = row.get(at)?.as_ref()?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Some((text(0)?, text(1).unwrap_or_default()))
}

struct Played {
    before: Reply,
    reply: Reply,
    route: Option<(String, String)>,
}

fn play(
    world: &World<'_>,
    seat: &mut Seat,
    player: Player,
    query: &Query,
    variant: Variant,
    outcome: &mut Outcome,
) -> Result<Played, String> {
    let realm = world.realm(player);
    let sql = realm.bound(&query.sql)?;
    let binary = variant == Variant::Binary;
    let params = realm.parameters(world.lab, &query.params, binary)?;
    let key = (variant, query.marks.endpoint);
    if !query.before.is_empty() {
        seat.sessions.remove(&key);
    }
    let mut session = match seat.sessions.remove(&key) {
        Some(session) => session,
        None => {
            let login = world.login(player, query.marks.endpoint)?;
            Connection::open(&login)
                .map_err(|reply| format!("{player:?} does not let in: {}", reply.summary()))?
        }
    };
    let mut before = Reply::default();
    for text in &query.before {
        let text = realm.bound(text)?;
        outcome.statements.push(text.clone());
        before.append(session.simple(&text));
    }
    session.copy_input = query.stdin.clone().into_bytes();
    let reply = run_statement(&mut session, &sql, &params, variant);
    let route = (player == Player::Gateway && world.lab.routes_visible && has_route(&sql, &reply))
        .then(|| last_route(&mut session))
        .flatten();
    // What a case leaves behind is not the next one's business.
    let mut usable = reply.broken.is_none() && query.before.is_empty();
    if usable && reply.status != TransactionStatus::Idle {
        usable = session.simple("rollback").broken.is_none();
    }
    if usable {
        seat.sessions.insert(key, session);
    }
    Ok(Played { before, reply, route })
}

/// One statement in a variant.
pub fn run_statement(
    session: &mut Connection,
    sql: &str,
    params: &[Sent],
    variant: Variant,
) -> Reply {
    let simple = variant == Variant::Simple || (variant == Variant::Again && params.is_empty());
    if simple {
        return session.simple(sql);
    }
    let oids: Vec<u32> = params.iter().map(|(oid, ..)| *oid).collect();
    let values: Vec<_> = params.iter().map(|(_, value, _)| value.clone()).collect();
    let formats: Vec<i16> = params.iter().map(|(.., format)| *format).collect();
    session.extended(&Extended {
        sql,
        param_oids: &oids,
        params: &values,
        param_formats: &formats,
        result_format: i16::from(variant == Variant::Binary),
        flow: match variant {
            Variant::Binary => Flow::Prepared,
            _ => Flow::OneTrip,
        },
    })
}
