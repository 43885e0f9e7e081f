//! Direct: one source answers all of it. What postgres_fdw would send goes there, and
//! the rows come straight back under home's description of the original.

use super::HELD_BYTES;
use super::home_join::put_start;
use crate::session::cancel::CancelHandle;
use crate::session::home::{self, Around, Means, NO_PARAMETERS};
use crate::session::query::{Request, route};
use crate::session::stop::Stop;
use crate::session::{ClientSide, End, Session, state};
use crate::sources::CachedPlan;
use crate::sources::fetch;
use bytes::{Bytes, BytesMut};
use pgspan_pool::ServerError;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{self, ErrorFields, TransactionStatus};
use pgspan_wire::frontend;
use std::pin::pin;

/// Runs it.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
) -> Result<Route, Stop> {
    let mut stream = Stream::default();
    let done = match rows(session, request, around, plan, &mut stream).await {
        // Home cannot begin anew behind rows.
        Err(Stop::GiveUp(reason)) if stream.begun => {
            Err(Stop::Refuse(no_more_rows(reason.to_string())))
        }
        done => done,
    };
    match done {
        // The error stands where the next row would.
        Err(Stop::Refuse(error)) if stream.begun => {
            error.put(&mut session.client.outbox);
            backend::put_ready(&mut session.client.outbox, TransactionStatus::Idle);
            Ok(route(Strategy::Direct, plan.plan.route.reason.cause))
        }
        done => done,
    }
}

async fn rows(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    stream: &mut Stream,
) -> Result<Route, Stop> {
    let direct = plan.plan.direct.as_ref().ok_or(Reason::new(Cause::NotDirect))?;
    let spec = plan.plan.servers.get(direct.server).ok_or(Reason::new(Cause::NotDirect))?;
    let formats = result_formats(request, plan.fields.len());
    let caller = session.caller(&plan.session);
    let mut lease = tokio::select! {
        lease = fetch::lease(&caller, spec) => lease?,
        () = session.cancel.cancelled() => return Err(Reason::new(Cause::Cancelled).into()),
    };
    lease.patience = Some(session.cancel.patience_without_home());
    let _at_work = session.cancel.at_work(lease.cancel_key.clone());
    let lost = |e: ServerError| Stop::GiveUp(Reason::about(Cause::SourceLost, e.to_string()));
    let statement = plan.direct.as_ref().ok_or(Reason::new(Cause::NotDirect))?;
    let means = Means { parallel: direct.parallel, ..Means::USUAL };
    means.allow(&mut lease);
    home::prepare(&mut lease, statement, &[]);
    let name = statement.name();
    // The source's columns are in its own order; ask each in the format of the output
    // column that it becomes.
    let width = direct.output.iter().max().map_or(0, |m| m + 1);
    let mut there = vec![0i16; width];
    for (place, format) in direct.output.iter().zip(&formats) {
        there[*place] = *format;
    }
    let uniform = there.iter().all(|f| *f == there[0]);
    let asked: &[i16] = if uniform { &there[..1] } else { &there };
    frontend::bind(&mut lease.outbox, "pgspan:", name, &[], NO_PARAMETERS, asked);
    frontend::describe_portal(&mut lease.outbox, "pgspan:");
    home::execute(&mut lease);
    means.end(&mut lease);
    frontend::sync(&mut lease.outbox);
    lease.send().await.map_err(lost)?;
    // Home is done: its transaction ends while the source works.
    around.close(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;

    let identity = direct.output.iter().enumerate().all(|(i, o)| i == *o);
    let mut error: Option<ErrorFields> = None;
    let mut trouble: Option<Cause> = None;
    // What stands around it completes as well.
    let mut its_own = false;
    let mut deadline = pin!(state::sleep(state::timeout(&plan.session.statement_timeout)));
    loop {
        let client = &mut session.client;
        let frame = tokio::select! {
            biased;
            () = &mut deadline => return Err(state::timed_out()),
            frame = lease.receive() => frame.map_err(|e| stream.broken(e, &session.cancel))?,
            () = client.gone() => {
                return Err(Stop::End(End::Client));
            }
            end = state::ended_at_rest(&mut session.server) => return Err(Stop::End(end)),
            () = session.cancel.cancelled(), if error.is_none() && !session.cancel.is_cancelled() => continue,
        };
        match frame.tag {
            b'T' => {
                its_own = true;
                let fields = backend::row_description(frame.body()).unwrap_or_default();
                let fits = direct.output.iter().zip(&plan.fields).all(|(place, want)| {
                    fields
                        .get(*place)
                        .is_some_and(|f| (f.type_oid, f.typmod) == (want.type_oid, want.typmod))
                });
                if !fits {
                    trouble = Some(Cause::OtherTypes);
                }
            }
            b'D' if frame.is_cut() => trouble = Some(Cause::Outgrown),
            // The rest is read over.
            b'D' if trouble.is_some() || error.is_some() => {}
            b'D' if identity && width == count(&frame.raw) => {
                stream.held.extend_from_slice(&frame.raw)
            }
            b'D' => match backend::data_row(frame.body()) {
                Ok(row) => {
                    let values: Vec<Option<Bytes>> =
                        direct.output.iter().map(|o| row.get(*o).cloned().flatten()).collect();
                    backend::put_data_row(&mut stream.held, &values);
                }
                Err(_) => trouble = Some(Cause::UnexpectedRow),
            },
            b'C' if its_own => {
                its_own = false;
                stream.held.extend_from_slice(&frame.raw);
            }
            b'E' => error = Some(ErrorFields::read(&frame)),
            b'Z' => break,
            _ => {}
        }
        if trouble.is_none() && error.is_none() && stream.held.len() > HELD_BYTES {
            tokio::select! {
                biased;
                end = state::ended_at_rest(&mut session.server) => return Err(Stop::End(end)),
                sent = stream.flush(&mut session.client, request, plan, &formats) => sent?,
            }
        }
    }
    if let Some(cause) = trouble {
        lease.prepared.doubt_all();
        session.shared.sources.forget_relations(spec);
        return Err(Reason::about(cause, &spec.name).into());
    }
    if let Some(e) = error {
        lease.prepared.doubt_all();
        if !stream.begun {
            session.shared.sources.forget_relations(spec);
            return Err(Reason::about(Cause::SourceError, format!("{}: {e}", spec.name)).into());
        }
        session.client.outbox.extend_from_slice(&stream.held);
        e.put(&mut session.client.outbox);
    } else {
        stream.flush(&mut session.client, request, plan, &formats).await?;
        close_tail(session, request).await?;
    }
    backend::put_ready(&mut session.client.outbox, TransactionStatus::Idle);
    Ok(route(Strategy::Direct, plan.plan.route.reason.cause))
}

/// Rows on their way to the client.
#[derive(Default)]
pub(super) struct Stream {
    /// Those that it has not been given.
    pub held: BytesMut,
    /// It has been given some.
    pub begun: bool,
}

impl Stream {
    /// A source connection that breaks: before the first row home runs it itself;
    /// after it the client gets an error, as from postgres_fdw.
    fn broken(&self, error: ServerError, cancel: &CancelHandle) -> Stop {
        if matches!(error, ServerError::Interrupted) {
            cancel.interrupted()
        } else if self.begun {
            Stop::Refuse(lost_behind_rows(error.to_string()))
        } else {
            Stop::GiveUp(Reason::about(Cause::SourceLost, error.to_string()))
        }
    }

    /// Gives the client what is held.
    pub async fn flush(
        &mut self,
        client: &mut ClientSide,
        request: &Request,
        plan: &CachedPlan,
        formats: &[i16],
    ) -> Result<(), Stop> {
        if !std::mem::replace(&mut self.begun, true) {
            put_start(&mut client.outbox, request, &plan.fields, formats.iter().copied());
        }
        client.outbox.extend_from_slice(&self.held);
        self.held.clear();
        if client.outbox.len() > HELD_BYTES {
            client.send().await.map_err(|_| Stop::End(End::Client))?;
        }
        Ok(())
    }
}

/// What stands where the next row would when a source's connection breaks.
pub(super) fn lost_behind_rows(detail: String) -> ErrorFields {
    let text = "connection to the source was lost while rows were on their way";
    ErrorFields::new("ERROR", "08006", text).with_detail(detail)
}

/// Columns of a DataRow.
fn count(raw: &[u8]) -> usize {
    match raw.get(5..7) {
        Some([a, b]) => usize::from(u16::from_be_bytes([*a, *b])),
        _ => 0,
    }
}

/// The format of each column (0 text, 1 binary).
pub(super) fn result_formats(request: &Request, columns: usize) -> Vec<i16> {
    let asked = request.batch.as_ref().map_or(&[][..], |b| &b.bind.result_formats);
    match asked {
        [] => vec![0; columns],
        [one] => vec![*one; columns],
        many => (0..columns).map(|i| many.get(i).copied().unwrap_or(0)).collect(),
    }
}

/// Whether a request is for all rows at once, in formats that there are: what is left of a
/// portal home would have to keep, and home tells what is wrong with formats.
pub(super) fn wants_all(request: &Request, columns: usize) -> bool {
    let Some(batch) = &request.batch else { return true };
    let formats = &batch.bind.result_formats;
    batch.max_rows == 0
        && (formats.len() <= 1 || formats.len() == columns)
        && formats.iter().all(|format| matches!(format, 0 | 1))
}

/// Ends an answer of so many rows, all of which the client has been given.
pub(super) async fn complete(
    session: &mut Session,
    request: &Request,
    rows: u64,
) -> Result<(), Stop> {
    session.opened = false;
    let tag = format!("SELECT {rows}");
    backend::put_command_complete(&mut session.client.outbox, &tag);
    close_tail(session, request).await?;
    backend::put_ready(&mut session.client.outbox, session.server.status);
    Ok(())
}

/// Ends an answer that breaks off behind rows: the error stands where the next would.
pub(super) async fn break_off(
    session: &mut Session,
    stream: &Stream,
    error: &ErrorFields,
) -> Result<(), Stop> {
    session.client.outbox.extend_from_slice(&stream.held);
    error.put(&mut session.client.outbox);
    session.undo_own().await.map_err(|e| Stop::End(e.into()))?;
    backend::put_ready(&mut session.client.outbox, session.server.status);
    Ok(())
}

/// The error for it, where the gateway itself cannot go on.
pub(super) fn no_more_rows(detail: String) -> ErrorFields {
    ErrorFields::new("ERROR", "58000", "the rest of the rows could not be had").with_detail(detail)
}

/// Close messages of the client's batch go to home, where its statements are.
pub(super) async fn close_tail(session: &mut Session, request: &Request) -> Result<(), Stop> {
    let tail = request.batch.as_ref().map_or(&[][..], |b| &b.tail);
    if tail.is_empty() {
        return Ok(());
    }
    for frame in tail {
        session.server.outbox.extend_from_slice(&frame.raw);
    }
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    for _ in tail {
        frontend::message(&mut session.client.outbox, b'3', |_| {});
    }
    Ok(())
}
