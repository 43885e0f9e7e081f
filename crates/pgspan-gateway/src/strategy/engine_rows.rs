//! Rows of the engine that are the answer as they are: they go to the client while sources
//! still send, and home has nothing to finish.

use super::HELD_BYTES;
use super::direct::{
    Stream, break_off, complete, lost_behind_rows, no_more_rows, result_formats, wants_all,
};
use super::engine::{Gathered, To, gather};
use crate::session::home::{self, Around};
use crate::session::query::Request;
use crate::session::stop::Stop;
use crate::session::{ClientSide, Session};
use crate::sources::CachedPlan;
use crate::sources::engine::EnginePlan;
use bytes::Bytes;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::ErrorFields;
use pgspan_wire::frontend;

/// Where the rows of a run go.
pub(crate) struct Rows<'a> {
    /// The format of each column.
    pub formats: Vec<i16>,
    /// What the client asked; `None` drops the rows, as EXPLAIN does.
    to: Option<(&'a Request, &'a CachedPlan)>,
    stream: Stream,
    /// Why a source broke off, in its own words.
    pub broke: Option<ErrorFields>,
}

/// The formats, if a statement's rows are the answer as they are.
pub(crate) fn formats(
    session: &Session,
    request: Option<&Request>,
    plan: &CachedPlan,
    engine: &EnginePlan,
) -> Option<Vec<i16>> {
    let own = engine.program.types();
    let (types, formats) = match request {
        Some(request) => {
            if !wants_all(request, own.len()) {
                return None;
            }
            let types = plan.fields.iter().map(|f| f.type_oid).collect();
            (types, result_formats(request, own.len()))
        }
        None => (own.clone(), vec![0; own.len()]),
    };
    let iso = session.server.parameters.get("DateStyle").is_some_and(|v| v.starts_with("ISO"));
    engine.program.answers(&types, &formats, iso).then_some(formats)
}

impl<'a> Rows<'a> {
    fn new(formats: Vec<i16>, to: Option<(&'a Request, &'a CachedPlan)>) -> Rows<'a> {
        Rows { formats, to, stream: Stream::default(), broke: None }
    }

    /// For EXPLAIN: nobody gets them.
    pub fn dropped(formats: Vec<i16>) -> Rows<'a> {
        Rows::new(formats, None)
    }

    /// Whether the statement can still be answered in another way.
    pub fn unsent(&self) -> bool {
        !self.stream.begun
    }

    /// What has come before it is tried again.
    pub fn forget(&mut self) {
        self.stream.held.clear();
    }

    /// Passes rows on.
    pub async fn take(&mut self, client: &mut ClientSide, rows: &[u8]) -> Result<(), Stop> {
        let Some((request, plan)) = self.to else { return Ok(()) };
        self.stream.held.extend_from_slice(rows);
        if self.stream.held.len() > HELD_BYTES {
            self.stream.flush(client, request, plan, &self.formats).await?;
        }
        Ok(())
    }

    /// Passes a notice of home's on, if rows went before it.
    pub fn notice(&mut self, raw: &[u8]) -> Result<(), Reason> {
        if !self.stream.begun {
            return Err(Reason::new(Cause::HomeNotice));
        }
        self.stream.held.extend_from_slice(raw);
        Ok(())
    }

    /// What stands where the next row would. Nothing that the engine meets by itself comes
    /// so late (see `pgspan_engine::Started::rows`).
    fn error(&mut self, reason: &Reason) -> ErrorFields {
        self.broke.take().unwrap_or_else(|| match reason.cause {
            Cause::SourceLost => lost_behind_rows(reason.to_string()),
            _ => no_more_rows(reason.to_string()),
        })
    }
}

/// All rows, and the end of home's transaction.
async fn read(
    session: &mut Session,
    around: Around,
    plan: &CachedPlan,
    engine: &EnginePlan,
    rows: &mut Rows<'_>,
) -> Result<Gathered, Stop> {
    let gathered = gather(session, plan, engine, To::Client(rows)).await?;
    around.close(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    Ok(gathered)
}

/// Runs it, home's snapshot having been taken.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    engine: &EnginePlan,
    formats: Vec<i16>,
) -> Result<Option<Gathered>, Stop> {
    let mut rows = Rows::new(formats, Some((request, plan)));
    let gathered = match read(session, around, plan, engine, &mut rows).await {
        Err(stop @ (Stop::GiveUp(_) | Stop::Refuse(_))) if rows.stream.begun => {
            let error = match stop {
                Stop::Refuse(error) => error,
                Stop::GiveUp(reason) => rows.error(&reason),
                Stop::End(_) => return Err(stop),
            };
            break_off(session, &rows.stream, &error).await?;
            return Ok(None);
        }
        other => other?,
    };
    rows.stream.flush(&mut session.client, request, plan, &rows.formats).await?;
    complete(session, request, gathered.answer.rows as u64).await?;
    Ok(Some(gathered))
}

/// Rows, or notices, on their way: the queue is short, so that a slow client holds back the
/// sources.
pub(crate) fn queue() -> (tokio::sync::mpsc::Sender<Bytes>, tokio::sync::mpsc::Receiver<Bytes>) {
    tokio::sync::mpsc::channel(2)
}
