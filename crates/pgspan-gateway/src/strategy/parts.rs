//! A finish that computes each row by itself, over more rows than home should take at once:
//! the rows are bound to it part by part, and what home makes of each part goes to the
//! client before the next is bound.

use super::HELD_BYTES;
use super::direct::{Stream, break_off, complete, no_more_rows, result_formats};
use super::engine::Gathered;
use super::home_join::{ask, same_columns};
use super::snapshot::release;
use crate::session::Session;
use crate::session::home::{self, Around};
use crate::session::query::Request;
use crate::session::state::{pass_on, receive_for, timed_out, timeout, too_long};
use crate::session::stop::{Stop, cancelled, hung_up, unsent};
use crate::sources::CachedPlan;
use crate::sources::engine::EnginePlan;
use bytes::Bytes;
use pgspan_pool::ServerError;
use pgspan_sql::ask::PIN_SETTINGS;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend;
use std::time::Instant;

/// Gives the client the answer, to the end of the transaction.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    engine: &EnginePlan,
    gathered: Gathered,
) -> Result<(), Stop> {
    let mut stream = Stream::default();
    match all(session, request, around, plan, engine, gathered, &mut stream).await {
        Ok(rows) => complete(session, request, rows).await,
        Err(Stop::Refuse(error)) if stream.begun => break_off(session, &stream, &error).await,
        Err(Stop::GiveUp(reason)) if stream.begun => {
            break_off(session, &stream, &no_more_rows(reason.to_string())).await
        }
        Err(stop) => Err(stop),
    }
}

/// All parts; gives the number of rows that home made of them.
async fn all(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    engine: &EnginePlan,
    gathered: Gathered,
    stream: &mut Stream,
) -> Result<u64, Stop> {
    let clock = Clock::new(plan, &gathered);
    // It is shown as under way until all rows have gone; its operators go, and so do the
    // snapshots at the sources.
    let Gathered { answer, started, listed: _listed, .. } = gathered;
    drop(started);
    release(session).await;
    pin_settings(session).await?;
    let formats = result_formats(request, plan.fields.len());
    let (mut values, mut rest) = (answer.values, answer.rest);
    let mut rows = 0;
    loop {
        rows += part(session, request, plan, engine, values, &formats, stream).await?;
        let Some(more) = rest.take() else { break };
        clock.check(session)?;
        (values, rest) = more.next().await.map_err(Reason::from)?;
    }
    around.close(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    stream.flush(&mut session.client, request, plan, &formats).await?;
    Ok(rows)
}

/// What ends a statement between its parts: home's own clock, and its ear for a cancel,
/// are for each part alone.
pub(super) struct Clock {
    ends: Option<Instant>,
}

impl Clock {
    pub fn new(plan: &CachedPlan, gathered: &Gathered) -> Clock {
        let left = timeout(&plan.session.statement_timeout)
            .map(|bound| bound.saturating_sub(gathered.elapsed));
        Clock { ends: left.map(|left| Instant::now() + left) }
    }

    /// Stops when the statement has been cancelled, or its time is up.
    pub fn check(&self, session: &Session) -> Result<(), Stop> {
        if session.cancel.is_cancelled() {
            return Err(cancelled());
        }
        match self.ends {
            Some(ends) if ends <= Instant::now() => Err(timed_out()),
            _ => Ok(()),
        }
    }
}

/// Holds the settings that decide what home makes of a row until the transaction ends: a
/// server that reads its configuration anew does so between messages, and so between parts.
async fn pin_settings(session: &mut Session) -> Result<(), Stop> {
    home::run_once(&mut session.server, PIN_SETTINGS);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    Ok(())
}

/// One part; gives the number of rows that home made of it.
async fn part(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    engine: &EnginePlan,
    values: Vec<Bytes>,
    formats: &[i16],
    stream: &mut Stream,
) -> Result<u64, Stop> {
    ask(session, request, plan, engine.bound(&engine.finish, values), "pgspan:")?;
    frontend::describe_portal(&mut session.server.outbox, "pgspan:");
    home::execute(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    session.server.send().await?;
    let mut rows = None;
    let mut described = false;
    let mut error: Option<ErrorFields> = None;
    let mut refused: Option<Stop> = None;
    loop {
        if described
            && refused.is_none()
            && error.is_none()
            && let Some(size) = session.server.long(b'D', HELD_BYTES)
        {
            stream.flush(&mut session.client, request, plan, formats).await?;
            pass_on(&mut session.server, &mut session.client, size).await?;
            continue;
        }
        if !session.server.take_rows(&mut stream.held) {
            let frame = receive_for(&mut session.server, &mut session.client)
                .await
                .map_err(|stop| hung_up(stop, error.as_ref()))?;
            match frame.tag {
                tag if frame.is_cut() && refused.is_none() && tag != b'E' => {
                    return Err(Stop::End(too_long(tag)));
                }
                b'T' => {
                    described = true;
                    let fields =
                        backend::row_description(frame.body()).map_err(ServerError::from)?;
                    if !same_columns(&plan.fields, &fields, false) {
                        refused = Some(Reason::new(Cause::DescribesOtherwise).into());
                    }
                }
                b'D' => stream.held.extend_from_slice(&frame.raw),
                b'C' => rows = counted(&frame.body()),
                b'E' => {
                    session.server.prepared.doubt_all();
                    error = Some(ErrorFields::read(&frame));
                }
                b'N' if !stream.begun => refused = Some(Reason::new(Cause::HomeNotice).into()),
                b'N' => stream.held.extend_from_slice(&frame.raw),
                b'S' | b'A' => session.client.outbox.extend_from_slice(&frame.raw),
                b'Z' => break,
                _ => {}
            }
        }
        // Everything that is still on its way is read before giving up.
        if refused.is_some() {
            stream.held.clear();
        } else if described && error.is_none() && stream.held.len() > HELD_BYTES {
            stream.flush(&mut session.client, request, plan, formats).await?;
        }
    }
    if let Some(stop) = unsent(refused, error.clone().filter(|_| !stream.begun)) {
        return Err(stop);
    }
    match error {
        Some(error) => Err(Stop::Refuse(error)),
        None => rows.ok_or_else(|| Reason::new(Cause::GivesNoRows).into()),
    }
}

/// The rows of a command tag ("SELECT n").
fn counted(tag: &[u8]) -> Option<u64> {
    let number = tag.strip_suffix(&[0])?.strip_prefix(b"SELECT ")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}
