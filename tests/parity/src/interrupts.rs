//! `--properties --filter interrupts`: a statement that is ended at any moment, by a
//! timeout or by a cancel request, leaves its session in step.

use std::time::Duration;

use crate::case_file::Endpoint;
use crate::client::Connection;
use crate::lab::Lab;
use crate::reply::Reply;
use crate::world::{self, Player, World};
use pgspan_wire::backend::TransactionStatus;

/// Its name among the types.
pub const NAME: &str = "interrupts";
/// Statements that cross, large enough to be met in the middle.
const STATEMENTS: [&str; 3] = [
    "select count(*), min(p.id), max(q.id) from q join p on q.v = p.v",
    "select q.g, count(p.v) from q left join p on q.id = p.id group by q.g order by q.g",
    "select p.v, p.id from p join q on q.id = p.id order by p.v, p.id limit 2000",
];
/// Rounds of each statement, each ended a little later.
const ROUNDS: u64 = 60;
/// The first moment, and how much later the next one is.
const FIRST: Duration = Duration::from_millis(1);
const STEP: Duration = Duration::from_millis(4);
/// SQLSTATE of a statement that was cancelled.
const CANCELLED: &str = "57014";

/// What a run found.
#[derive(Debug, Default)]
pub struct Found {
    /// Statements that were ended.
    pub ended: usize,
    /// Statements that were quicker.
    pub answered: usize,
    /// What went wrong.
    pub wrong: Vec<String>,
}

/// Ends statements at many moments; the databases are those of a property test.
///
/// # Errors
/// When the servers cannot be used.
pub fn run(lab: &Lab, values: usize) -> Result<Found, String> {
    let world = World::create(lab, &crate::properties::integers(values))?;
    let mut found = Found::default();
    for sql in STATEMENTS {
        let mut direct = open(&world, Player::Oracle)?;
        let right = direct.simple(sql);
        if right.error.is_some() || right.row_count() == 0 {
            return Err(format!("{sql}: {}", right.summary()));
        }
        for by_timeout in [true, false] {
            let mut session = open(&world, Player::Gateway)?;
            for round in 0..ROUNDS {
                let moment = FIRST + STEP * u32::try_from(round).unwrap_or(0);
                let reply = match by_timeout {
                    true => timeout(&mut session, sql, moment),
                    false => cancel(&mut session, sql, moment)?,
                };
                let how = if by_timeout { "timeout" } else { "cancel" };
                let place = format!("{how} after {} ms: {sql}", moment.as_millis());
                let trouble = judge(&reply, &right, &mut found)
                    .or_else(|| in_step(&mut session, round).err());
                if let Some(trouble) = trouble {
                    found.wrong.push(format!("{place}\n  {trouble}"));
                    session = open(&world, Player::Gateway)?;
                }
            }
        }
    }
    world::remove(world);
    if found.ended == 0 {
        return Err("no statement was ended, so nothing is tried".to_owned());
    }
    Ok(found)
}

fn open(world: &World<'_>, player: Player) -> Result<Connection, String> {
    let login = world.login(player, Endpoint::Writer)?;
    let mut session = Connection::open(&login).map_err(|reply| reply.summary())?;
    let reply = session.simple("set pgspan.strategy = 'engine'");
    match reply.error.is_some() || reply.broken.is_some() {
        true => Err(reply.summary()),
        false => Ok(session),
    }
}

fn timeout(session: &mut Connection, sql: &str, moment: Duration) -> Reply {
    session.simple(&format!("set statement_timeout = {}", moment.as_millis()));
    let reply = session.simple(sql);
    session.simple("set statement_timeout = 0");
    reply
}

fn cancel(session: &mut Connection, sql: &str, moment: Duration) -> Result<Reply, String> {
    session.start_simple(sql);
    std::thread::sleep(moment);
    session.cancel()?;
    Ok(session.finish())
}

/// The answer must be PostgreSQL's, or say that it was ended.
fn judge(reply: &Reply, right: &Reply, found: &mut Found) -> Option<String> {
    if let Some(error) = &reply.error {
        found.ended += usize::from(error.sqlstate() == CANCELLED);
        return (error.sqlstate() != CANCELLED).then(|| reply.summary());
    }
    found.answered += 1;
    let rows = |reply: &Reply| {
        let mut reply = reply.clone();
        reply.sort_rows();
        reply.results.into_iter().flat_map(|result| result.rows).collect::<Vec<_>>()
    };
    if reply.broken.is_some() || rows(reply) != rows(right) {
        return Some(format!("wrong rows: {}", reply.summary()));
    }
    None
}

/// The next statement gets its own answer, outside of any transaction. A cancel request
/// may arrive late and end it: then the one after it.
fn in_step(session: &mut Connection, round: u64) -> Result<(), String> {
    let mut last = Reply::default();
    for _ in 0..3 {
        last = session.simple(&format!("select 'mark {round}'"));
        let late = last.error.as_ref().is_some_and(|error| error.sqlstate() == CANCELLED);
        if !late {
            break;
        }
    }
    if last.scalar() != Some(format!("mark {round}")) {
        return Err(format!("out of step: {}, {}", last.summary(), last.shape));
    }
    match last.status {
        TransactionStatus::Idle => Ok(()),
        other => Err(format!("left in a transaction: {other:?}")),
    }
}
