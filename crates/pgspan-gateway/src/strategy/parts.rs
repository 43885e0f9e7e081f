//! A finish that computes each row by itself, over more rows than home should take at once:
//! the rows are bound to it part by part, and what home makes of each part goes to the
//! client before the next is bound.

use super::HELD_BYTES;
use super::direct::{Stream, close_tail, result_formats};
use super::engine::{Gathered, give_up};
use super::home_join::{ask, same_columns};
use crate::session::Session;
use crate::session::home::{self, Around};
use crate::session::query::Request;
use crate::session::state::{receive_for, timed_out, timeout};
use crate::session::stop::{NOTICE, Stop, cancelled, hung_up, unsent};
use crate::sources::CachedPlan;
use crate::sources::engine::EnginePlan;
use bytes::Bytes;
use pgspan_pool::ServerError;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend;
use std::time::Instant;

/// Whether a request is for all rows at once, in formats that there are: what is left of a
/// portal home would have to keep, and home tells what is wrong with formats.
pub(crate) fn wants_all(request: &Request, columns: usize) -> bool {
    let Some(batch) = &request.batch else { return true };
    let formats = &batch.bind.result_formats;
    batch.max_rows == 0
        && (formats.len() <= 1 || formats.len() == columns)
        && formats.iter().all(|format| matches!(format, 0 | 1))
}

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
    let rows = match all(session, request, around, plan, engine, gathered, &mut stream).await {
        // The error stands where the next row would.
        Err(stop @ (Stop::GiveUp(_) | Stop::Refuse(_))) if stream.begun => {
            let error = match stop {
                Stop::Refuse(error) => error,
                Stop::GiveUp(reason) => {
                    ErrorFields::new("ERROR", "58000", "the rest of the rows could not be had")
                        .with_detail(reason.to_string())
                }
                Stop::End(_) => return Err(stop),
            };
            error.put(&mut session.client.outbox);
            session.undo_own().await.map_err(|e| Stop::End(e.into()))?;
            backend::put_ready(&mut session.client.outbox, session.server.status);
            return Ok(());
        }
        other => other?,
    };
    session.opened = false;
    let tag = format!("SELECT {rows}");
    backend::put_command_complete(&mut session.client.outbox, &tag);
    close_tail(session, request).await?;
    backend::put_ready(&mut session.client.outbox, session.server.status);
    Ok(())
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
    let Gathered { mut answer, started, elapsed, .. } = gathered;
    let began = Instant::now();
    let bound = timeout(&plan.session.statement_timeout);
    let formats = result_formats(request, plan.fields.len());
    let mut values = answer.values;
    let mut rows = 0;
    loop {
        rows += part(session, request, plan, engine, values, &formats, stream).await?;
        let Some(rest) = answer.rest.take() else { break };
        // Home's own clock is for each part.
        if bound.is_some_and(|bound| elapsed + began.elapsed() >= bound) {
            return Err(timed_out());
        }
        if session.cancel.is_cancelled() {
            return Err(cancelled());
        }
        (values, answer.rest) = started.part(rest).await.map_err(give_up)?;
    }
    around.close(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    stream.flush(&mut session.client, request, plan, &formats).await?;
    Ok(rows)
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
    session.server.send().await.map_err(|e| Stop::from(ServerError::from(e)))?;
    let mut rows = 0;
    let mut described = false;
    let mut error: Option<ErrorFields> = None;
    let mut refused: Option<Stop> = None;
    loop {
        if !session.server.take_rows(&mut stream.held) {
            let frame = receive_for(&mut session.server, &mut session.client)
                .await
                .map_err(|stop| hung_up(stop, error.as_ref()))?;
            match frame.tag {
                b'T' => {
                    described = true;
                    let fields =
                        backend::row_description(frame.body()).map_err(ServerError::from)?;
                    if !same_columns(&plan.fields, &fields, false) {
                        let what = "the rewritten statement describes itself otherwise";
                        refused = Some(Reason::new(what).into());
                    }
                }
                b'D' => stream.held.extend_from_slice(&frame.raw),
                b'C' => rows = counted(&frame.body()),
                b'E' => {
                    home::forget_prepared(&mut session.server);
                    error = Some(ErrorFields::decode(frame.body()).map_err(ServerError::from)?);
                }
                b'N' if !stream.begun => refused = Some(Reason::new(NOTICE).into()),
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
        // Rows that home made before it.
        Some(error) => {
            session.client.outbox.extend_from_slice(&stream.held);
            stream.held.clear();
            Err(Stop::Refuse(error))
        }
        None => Ok(rows),
    }
}

/// The rows of a command tag ("SELECT n").
fn counted(tag: &[u8]) -> u64 {
    let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
    let number = tag.rsplit(|b| *b == b' ').next().unwrap_or_default();
    std::str::from_utf8(number).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}
