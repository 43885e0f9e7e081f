//! Home's answers about the session and the join keys, and fetching within the bounds
//! that they set.

use super::cancel::CancelHandle;
use super::home::{self, Answers};
use super::query::Request;
use super::stop::{Stop, cancelled};
use super::{ClientSide, End, Session};
use crate::sources::block::Holding;
use crate::sources::fetch::{self, Bounds, Caller, Fetched};
use crate::sources::{CachedPlan, PlanKey, carrier};
use bytes::{Buf as _, Bytes, BytesMut};
use pgspan_pool::{ServerConnection, Stream};
use pgspan_sql::ask;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::ErrorFields;
use pgspan_wire::frame::{self, Frame};
use pgspan_wire::frontend;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Fetches from all sources at once, until the client cancels or goes, or
/// `statement_timeout` passes.
pub(crate) async fn fetch_bounded(
    caller: &Caller<'_>,
    stream: &mut Stream,
    inbox: &mut bytes::BytesMut,
    plan: &CachedPlan,
    keys: &[Option<Bytes>],
    held: Option<Holding<'_>>,
) -> Result<Vec<Fetched>, Stop> {
    let limits = &caller.shared.config.limits;
    // Where the engine may take over, it does so at its own border.
    let border = plan.session.preference == ask::Preference::Auto
        && held.is_none()
        && super::query::engine_untried(plan);
    let rows_max = limits.home_join_rows_max;
    let rows_max = if border { rows_max.min(limits.engine_rows_min) } else { rows_max };
    let bounds = Bounds { rows_max, bytes_max: limits.home_join_bytes_max };
    let work = fetch::fetch_all(caller, plan, keys, bounds, held);
    Ok(bounded(work, caller.cancel, stream, inbox, &plan.session).await??)
}

/// What comes of some work, unless the client cancels or goes, or `statement_timeout`
/// passes, before it is done.
async fn bounded<T>(
    work: impl Future<Output = T>,
    cancel: &CancelHandle,
    stream: &mut Stream,
    inbox: &mut BytesMut,
    session: &ask::Session,
) -> Result<T, Stop> {
    let deadline = timeout(&session.statement_timeout);
    tokio::select! {
        biased;
        got = work => Ok(got),
        () = cancel.cancelled() => Err(cancelled()),
        () = sleep(deadline) => Err(timed_out()),
        () = client_gone(stream, inbox, cancel.goodbye()) => Err(Stop::End(End::Client)),
    }
}

/// What a source answers, until the client cancels or goes, or `statement_timeout` passes:
/// it may wait for a lock even to plan.
pub(crate) async fn answers_for(
    session: &mut Session,
    plan: &CachedPlan,
    source: &mut ServerConnection,
) -> Result<Answers, Stop> {
    let Session { client: ClientSide { stream, inbox, .. }, cancel, .. } = session;
    // What else it says is not for the client.
    let mut aside = BytesMut::new();
    let work = home::answers(source, &mut aside);
    let got = bounded(work, cancel, stream, inbox, &plan.session).await?;
    if got.is_err() {
        source.prepared.doubt_all();
    }
    Ok(got.map_err(|e| fetch::failed("source", &e))?)
}

/// PostgreSQL's error when `statement_timeout` passes.
pub(crate) fn timed_out() -> Stop {
    let text = "canceling statement due to statement timeout";
    Stop::Refuse(ErrorFields::new("ERROR", "57014", text))
}

/// Waits that long; without a bound, forever.
pub(crate) async fn sleep(bound: Option<Duration>) {
    match bound {
        Some(d) => tokio::time::sleep(d).await,
        None => std::future::pending().await,
    }
}

/// The next message of a server that works for a client, unless the client goes.
pub(crate) async fn receive_for(
    server: &mut ServerConnection,
    client: &mut ClientSide,
) -> Result<Frame, Stop> {
    tokio::select! {
        biased;
        frame = server.receive() => Ok(frame?),
        () = client.gone() => Err(Stop::End(End::Client)),
    }
}

/// Passes the next so many bytes of a server on to the client as they come.
pub(crate) async fn pass_on(
    server: &mut ServerConnection,
    client: &mut ClientSide,
    mut rest: usize,
) -> Result<(), Stop> {
    while rest > 0 {
        if server.inbox.is_empty() {
            tokio::select! {
                biased;
                more = server.read_more() => more?,
                () = client.gone() => {
                    return Err(Stop::End(End::Client));
                }
            }
        }
        let come = rest.min(server.inbox.len());
        client.outbox.extend_from_slice(&server.inbox[..come]);
        server.inbox.advance(come);
        rest -= come;
        client.send().await.map_err(|_| Stop::End(End::Client))?;
    }
    Ok(())
}

/// A message that the gateway does not keep, where it needs it.
pub(crate) fn too_long(tag: u8) -> End {
    End::Server(format!("message {:?} is too long", char::from(tag)))
}

/// Returns when the client has closed its connection without Terminate. What it sends meanwhile
/// waits.
pub(crate) async fn client_gone(
    stream: &mut Stream,
    inbox: &mut bytes::BytesMut,
    goodbye: &AtomicBool,
) {
    use tokio::io::AsyncReadExt as _;
    while inbox.len() < super::QUEUE_BYTES_MAX {
        match stream.read_buf(inbox).await {
            Ok(0) | Err(_) if super::says_goodbye(inbox, 0) => break,
            Ok(0) | Err(_) => return,
            Ok(_) => super::note_goodbye(inbox, goodbye),
        }
    }
    std::future::pending().await
}

/// Returns when home ends a session that it has nothing to do for, with its words. What it says
/// besides stays where it is. Where it ends the session because there was nothing to do for it
/// (`idle_session_timeout`) it has no say: with PostgreSQL there would have been.
pub(crate) async fn ended_at_rest(home: &mut ServerConnection) -> End {
    while home.inbox.len() < super::QUEUE_BYTES_MAX {
        let mut at = 0;
        while let Ok(Some((tag, size))) = frame::peek(&home.inbox[at..])
            && let Some(raw) = home.inbox.get(at..at + size)
        {
            at += size;
            let body = &raw[frame::HEADER_BYTES..];
            if tag == b'E'
                && let Ok(error) = ErrorFields::decode(Bytes::copy_from_slice(body))
            {
                match error.sqlstate() {
                    IDLE_SESSION_TIMEOUT => return std::future::pending().await,
                    _ => return End::Home(error),
                }
            }
        }
        if let Err(lost) = home.read_more().await {
            return lost.into();
        }
    }
    std::future::pending().await
}

/// `idle_session_timeout`.
const IDLE_SESSION_TIMEOUT: &str = "57P05";

/// The SELECT inside `COPY (…) TO STDOUT`: up to its closing parenthesis.
pub(crate) fn copied_select(text: &str) -> Result<&str, Stop> {
    let mut depth = 0i32;
    for t in pgspan_sql::parse::lex(text) {
        depth += i32::from(t.is_char(b'(')) - i32::from(t.is_char(b')'));
        if depth == 0 && t.is_char(b')') {
            return Ok(&text[..t.end]);
        }
    }
    Err(Reason::new(Cause::CopyWithoutParentheses).into())
}

pub(crate) fn append_keys(server: &mut ServerConnection, plan: &CachedPlan) -> bool {
    let mut any = false;
    for statement in plan.fragments.iter().filter_map(|f| f.keys.as_ref()) {
        home::prepare(server, statement, &[]);
        let name = statement.name();
        // Described every time: the column may have become another type.
        frontend::describe_statement(&mut server.outbox, name);
        frontend::bind(&mut server.outbox, "pgspan:", name, &[], home::NO_PARAMETERS, &[1]);
        home::execute(server);
        any = true;
    }
    any
}

/// Key arrays per fetch. A home column of another type than the remote one, or more
/// keys than the ceiling, gives none: everything is fetched.
pub(crate) fn key_values(plan: &CachedPlan, got: &Answers, first: usize) -> Vec<Option<Bytes>> {
    let mut described = got.fields.iter();
    let mut result = first;
    plan.plan
        .fetches
        .iter()
        .map(|f| {
            let filter = f.keys.as_ref()?;
            let rows = &got.results.get(result)?.rows;
            result += 1;
            let fields = described.next()?.as_deref()?;
            if fields.first()?.type_oid != filter.element_type || rows.len() > filter.keys_max {
                return None;
            }
            let values: Vec<Bytes> = rows.iter().filter_map(|r| r.first()?.clone()).collect();
            Some(carrier::array(filter.element_type, &values))
        })
        .collect()
}

/// `0`, `250ms`, `3s`, `5min`, `1h`, `2d`, as PostgreSQL shows a time setting.
pub(crate) fn timeout(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..split].parse().ok().filter(|n| *n > 0)?;
    let ms = match &text[split..] {
        "ms" | "" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(n * ms))
}

/// What a plan is kept by.
pub(crate) fn plan_key(database: String, user: &str, request: &Request) -> PlanKey {
    let params = match &request.batch {
        None => Vec::new(),
        Some(b) => {
            let mut params = b.bind.params.clone();
            let formats: Vec<u8> = b.bind.param_formats.iter().map(|f| u8::from(*f != 0)).collect();
            let oids: Vec<u8> = request.param_oids.iter().flat_map(|o| o.to_be_bytes()).collect();
            if !params.is_empty() {
                params.push(Some(Bytes::from(formats)));
                params.push(Some(Bytes::from(oids)));
            }
            params
        }
    };
    (database, request.text.clone(), user.to_owned(), params)
}

/// The key of a plan that holds whatever values are bound.
pub(crate) fn without_values(key: &PlanKey) -> PlanKey {
    let (database, text, user, params) = key;
    let types = params.last().cloned();
    (database.clone(), text.clone(), user.clone(), types.into_iter().collect())
}
