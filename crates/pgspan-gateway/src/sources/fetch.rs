//! Fetching from one source: its fragments in one round trip, on one connection, under
//! one snapshot.

use super::block::{self, Holding};
use super::carrier::Builder;
use super::together::{Place, Turn};
use super::{CachedPlan, Fragment, connect_options};
use crate::budget::Share;
use crate::gateway::{Endpoint, Shared};
use crate::session::block::SourceSnapshot;
use crate::session::cancel::CancelHandle;
use crate::session::home::{
    NO_PARAMETERS, answers, begin, commit, execute, prepare, run_once, run_prepared,
};
use crate::session::savepoints::name_at_source;
use crate::session::stop::SYNTAX_ERROR;
use bytes::{Bytes, BytesMut};
use pgspan_pool::{Lease, LeaseError, Reservation, ServerConnection, ServerError};
use pgspan_sql::ask;
use pgspan_sql::cause::Cause;
use pgspan_sql::facts::SourceFacts;
use pgspan_sql::fragment::{Carrier, Fetch};
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a session tells of itself to reach a source.
pub(crate) struct Caller<'a> {
    pub shared: &'a Shared,
    pub home: &'a Endpoint,
    pub cancel: &'a CancelHandle,
    /// Role and settings. A role that is not a superuser reaches a source only by a
    /// password that the source asked for (postgres_fdw's `password_required`).
    pub session: &'a ask::Session,
    /// Who has logged in.
    pub user: &'a str,
}

/// Rows of one foreign table, ready to be bound.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub value: Bytes,
    pub rows: u64,
    pub bytes: usize,
    pub elapsed: Duration,
    /// Of `limits.held_bytes_max`, with the other fetches of its round.
    pub _share: Option<Arc<Share>>,
}

/// Bounds of one statement's fetches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub rows_max: u64,
    pub bytes_max: usize,
}

/// One fetch with what it is asked with.
pub(crate) struct Job<'a> {
    pub fetch: &'a Fetch,
    /// Its statements.
    pub fragment: &'a Fragment,
    /// Keys as a binary array, when the plan restricts by them.
    pub keys: Option<Bytes>,
}

pub(crate) fn unreachable_source(spec: &ServerSpec, error: &LeaseError) -> Reason {
    let cause = match error {
        LeaseError::Busy { .. } => Cause::SourceBusy,
        LeaseError::Connect(_) => Cause::Unreachable,
    };
    Reason::about(cause, format!("{}: {error}", spec.name))
}

/// Why a source of this name gave no answer.
pub(crate) fn failed(name: &str, error: &ServerError) -> Reason {
    let cause = match error {
        ServerError::Sql(e) if e.sqlstate() == SYNTAX_ERROR => Cause::NotSql,
        ServerError::Sql(_) => Cause::SourceError,
        // Its connection would be in order, had somebody waited for it.
        ServerError::Interrupted => Cause::Interrupted,
        _ => Cause::SourceLost,
    };
    Reason::about(cause, format!("{name}: {error}"))
}

/// Lends a connection to a source.
pub(crate) async fn lease(caller: &Caller<'_>, spec: &ServerSpec) -> Result<Lease, Reason> {
    let options = connect_options(caller.shared, caller.home, spec, &caller.session.encoding)?;
    caller.shared.sources.reaches(caller.user, &options);
    let pools = &caller.shared.sources.pools;
    let lease = pools.lease(&options).await.map_err(|e| unreachable_source(spec, &e))?;
    admitted(caller, spec, lease)
}

/// One of several that were reserved; when all are used, another.
pub(crate) async fn reserved(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    reservation: &mut Reservation,
) -> Result<Lease, Reason> {
    match reservation.lease().await {
        Ok(Some(own)) => admitted(caller, spec, own),
        Ok(None) => lease(caller, spec).await,
        Err(e) => Err(unreachable_source(spec, &e.into())),
    }
}

fn admitted(caller: &Caller<'_>, spec: &ServerSpec, mut lease: Lease) -> Result<Lease, Reason> {
    lease.busy_poll.max = crate::session::query::busy_poll(caller.shared);
    lease.patience = Some(caller.cancel.patience());
    if !caller.session.superuser && !lease.password_used {
        return Err(Reason::about(Cause::NoPassword, &spec.name));
    }
    Ok(lease)
}

/// Asks a source about a relation that a plan needs.
pub(crate) async fn facts(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    name: &(String, String),
) -> Result<SourceFacts, Reason> {
    let mut lease = lease(caller, spec).await?;
    let _at_work = caller.cancel.at_work(lease.cancel_key.clone());
    run_once(&mut lease, &ask::source_facts(&name.0, &name.1));
    frontend::sync(&mut lease.outbox);
    let got =
        answers(&mut lease, &mut BytesMut::new()).await.map_err(|e| failed(&spec.name, &e))?;
    let missing = || Reason::about(Cause::NoTableAtSource, &name.1);
    SourceFacts::read(got.value(0, 0).ok_or_else(missing)?)
}

/// What may happen to a fetch besides failing.
pub(super) enum Trouble {
    Reason(Reason),
    /// The connection was idle and had been closed meanwhile: worth another.
    Stale,
}

/// Runs the fetches of one source. In a block the source keeps its transaction.
pub(crate) async fn fetch(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    jobs: &[Job<'_>],
    bounds: Bounds,
    held: Option<Holding<'_>>,
) -> Result<Vec<Fetched>, Reason> {
    let Some(held) = held else {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut lease = lease(caller, spec).await?;
            let transaction = if jobs.len() > 1 { Transaction::Whole } else { Transaction::None };
            match run(caller, spec, &mut lease, jobs, bounds, transaction, &mut None).await {
                Ok(fetched) => return Ok(fetched),
                Err(Trouble::Stale) if attempts < 3 => lease.discard(),
                Err(Trouble::Stale) => {
                    return Err(Reason::about(Cause::SourceLost, &spec.name));
                }
                Err(Trouble::Reason(reason)) => return Err(reason),
            }
        }
    };
    block::fetch(caller, spec, jobs, bounds, held).await
}

/// The source's transaction around a fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction<'a> {
    /// One statement is its own snapshot.
    None,
    /// Several fetches share one.
    Whole,
    /// The first of a block opens it, with these savepoints of the client's.
    First(&'a [u64]),
    /// It is open, and lacks these.
    Open(&'a [u64]),
}

enum Step {
    Skip,
    /// The snapshot of a block's transaction.
    Snapshot,
    Rows(usize),
}

pub(super) async fn run(
    caller: &Caller<'_>,
    spec: &ServerSpec,
    lease: &mut Lease,
    jobs: &[Job<'_>],
    bounds: Bounds,
    transaction: Transaction<'_>,
    snapshot: &mut Option<SourceSnapshot>,
) -> Result<Vec<Fetched>, Trouble> {
    let started = Instant::now();
    let _at_work = caller.cancel.at_work(lease.cancel_key.clone());
    let (steps, described) = ask_for(lease, jobs, transaction);
    let first_use = |e: ServerError| match e {
        ServerError::Io(_) if !matches!(transaction, Transaction::Open(_)) => Trouble::Stale,
        other => Trouble::Reason(failed(&spec.name, &other)),
    };
    lease.send().await.map_err(first_use)?;
    let mut builders: Vec<Builder<'_>> = jobs.iter().map(|j| Builder::new(j.fetch)).collect();
    let mut described = described.into_iter();
    let mut steps = steps.into_iter();
    let mut step = steps.next();
    let mut error: Option<ErrorFields> = None;
    let mut changed: Option<Reason> = None;
    let mut received = 0;
    let mut bytes = 0;
    let mut share = caller.shared.held.share();
    loop {
        if let Some(Step::Rows(i)) = &step
            && let Some(builder) = builders.get_mut(*i)
        {
            let before = builder.bytes();
            let took = lease.rows(|row| {
                builder.push(row).ok_or(Cause::UnexpectedRow)?;
                let bytes = bytes + builder.bytes() - before;
                let fits =
                    u64::from(builder.rows()) <= bounds.rows_max && bytes <= bounds.bytes_max;
                if fits { Ok(()) } else { Err(Cause::Outgrown) }
            });
            bytes += builder.bytes() - before;
            let took =
                took.and_then(|rows| share.resize(bytes).then_some(rows).ok_or(Cause::NoRoom));
            received += took.map_err(|cause| {
                // What is still on its way is not wanted.
                close(lease);
                Trouble::Reason(Reason::about(cause, &spec.name))
            })?;
        }
        let next = match lease.received() {
            Ok(None) => lease.fill().await.map(|()| None),
            other => other,
        };
        let next = next.map_err(|e| {
            if received == 0 { first_use(e) } else { Trouble::Reason(failed(&spec.name, &e)) }
        })?;
        let Some(frame) = next else { continue };
        received += 1;
        match (frame.tag, &step) {
            (b'T', _) => {
                // Only fragments that are new on this connection are described.
                let fields = backend::row_description(frame.body()).unwrap_or_default();
                let fits = described
                    .next()
                    .and_then(|i| jobs.get(i))
                    .is_some_and(|j| types_fit(j.fetch, &fields));
                if !fits {
                    changed = Some(Reason::about(Cause::OtherTypes, &spec.name));
                }
            }
            (b'D', _) if frame.is_cut() => {
                close(lease);
                return Err(Trouble::Reason(Reason::about(Cause::Outgrown, &spec.name)));
            }
            (b'D', Some(Step::Snapshot)) => {
                let row = backend::data_row(frame.body()).unwrap_or_default();
                *snapshot = SourceSnapshot::read(&row);
            }
            (b'C', _) => step = steps.next(),
            (b'E', _) => error = Some(ErrorFields::read(&frame)),
            (b'Z', _) => break,
            _ => {}
        }
    }
    if let Some(e) = error {
        lease.prepared.doubt_all();
        caller.shared.sources.forget_relations(spec);
        return Err(Trouble::Reason(failed(&spec.name, &ServerError::Sql(e))));
    }
    if let Some(reason) = changed {
        caller.shared.sources.forget_relations(spec);
        lease.prepared.doubt_all();
        return Err(Trouble::Reason(reason));
    }
    let elapsed = started.elapsed();
    let share = Arc::new(share);
    Ok(builders
        .into_iter()
        .map(|b| {
            let (rows, bytes) = (u64::from(b.rows()), b.bytes());
            Fetched { value: b.finish(), rows, bytes, elapsed, _share: Some(share.clone()) }
        })
        .collect())
}

/// Makes sure that the connection is not used again.
fn close(connection: &mut ServerConnection) {
    // Anything unread makes a returned lease discard its connection.
    connection.outbox.extend_from_slice(b"X");
}

fn types_fit(fetch: &Fetch, fields: &[backend::Field]) -> bool {
    let types = fetch.expected_types.iter().zip(fields);
    let typmods = fetch.expected_typmods.iter().zip(fields);
    types.into_iter().all(|(want, got)| *want == 0 || *want == got.type_oid)
        && typmods.into_iter().all(|(want, got)| *want == got.typmod)
}

/// Appends the messages; gives the steps in order, and the jobs whose fragments are
/// new on this connection and therefore described.
fn ask_for(
    connection: &mut ServerConnection,
    jobs: &[Job<'_>],
    transaction: Transaction<'_>,
) -> (Vec<Step>, Vec<usize>) {
    let mut steps = Vec::new();
    let mut described = Vec::new();
    if matches!(transaction, Transaction::Whole | Transaction::First(_)) {
        begin(connection);
        steps.push(Step::Skip);
    }
    if matches!(transaction, Transaction::First(_)) {
        run_prepared(connection, SourceSnapshot::statement());
        steps.push(Step::Snapshot);
    }
    if let Transaction::First(savepoints) | Transaction::Open(savepoints) = transaction {
        for number in savepoints {
            run_once(connection, &format!("SAVEPOINT {}", name_at_source(*number)));
            steps.push(Step::Skip);
        }
    }
    for (i, job) in jobs.iter().enumerate() {
        let statement = match (&job.fragment.by_keys, &job.keys) {
            (Some(by_keys), Some(_)) => by_keys,
            _ => &job.fragment.all,
        };
        let name = statement.name();
        if prepare(connection, statement, &[]) {
            frontend::describe_statement(&mut connection.outbox, name);
            described.push(i);
        }
        let format = i16::from(job.fetch.carrier == Carrier::Binary);
        let values = std::slice::from_ref(&job.keys);
        let values = if job.keys.is_some() { values } else { NO_PARAMETERS };
        frontend::bind(&mut connection.outbox, "pgspan:", name, &[1], values, &[format]);
        execute(connection);
        steps.push(Step::Rows(i));
    }
    if transaction == Transaction::Whole {
        commit(connection);
        steps.push(Step::Skip);
    }
    frontend::sync(&mut connection.outbox);
    (steps, described)
}

/// Runs the fetches of all sources of a plan at once; the answers are in the order of
/// the plan's fetches. In a block, where sources are held, one after the other.
pub(crate) async fn fetch_all(
    caller: &Caller<'_>,
    plan: &CachedPlan,
    keys: &[Option<Bytes>],
    bounds: Bounds,
    held: Option<Holding<'_>>,
) -> Result<Vec<Fetched>, Reason> {
    let jobs = |server: usize| -> (Vec<usize>, Vec<Job<'_>>) {
        let fetches = plan.plan.fetches.iter().zip(&plan.fragments).enumerate();
        fetches
            .filter(|(_, (f, _))| f.server == server)
            .map(|(i, (fetch, fragment))| {
                (i, Job { fetch, fragment, keys: keys.get(i).cloned().flatten() })
            })
            .unzip()
    };
    let mut out: Vec<(usize, Fetched)> = Vec::new();
    let endpoint = std::ptr::from_ref(caller.home).addr();
    if let Some(mut held) = held {
        for (server, spec) in plan.plan.servers.iter().enumerate() {
            let (places, jobs) = jobs(server);
            out.extend(
                places
                    .into_iter()
                    .zip(fetch(caller, spec, &jobs, bounds, Some(held.again())).await?),
            );
        }
    } else if let [spec] = plan.plan.servers.as_slice() {
        let (places, jobs) = jobs(0);
        let fetched = fetch_together(caller, plan, (0, endpoint), spec, &jobs, bounds).await?;
        out.extend(places.into_iter().zip(fetched));
    } else {
        let work = plan.plan.servers.iter().enumerate().map(|(server, spec)| {
            let (places, jobs) = jobs(server);
            async move {
                let place = (server, endpoint);
                let fetched = fetch_together(caller, plan, place, spec, &jobs, bounds).await?;
                Ok::<_, Reason>(places.into_iter().zip(fetched).collect::<Vec<_>>())
            }
        });
        for done in all(work.map(Box::pin).collect()).await {
            out.extend(done?);
        }
    }
    out.sort_by_key(|(place, _)| *place);
    Ok(out.into_iter().map(|(_, fetched)| fetched).collect())
}

/// Fetches outside a block: alone, or with other sessions that wait for the same rows.
async fn fetch_together(
    caller: &Caller<'_>,
    plan: &CachedPlan,
    place: Place,
    spec: &ServerSpec,
    jobs: &[Job<'_>],
    bounds: Bounds,
) -> Result<Vec<Fetched>, Reason> {
    if jobs.iter().any(|job| job.keys.is_some()) {
        return fetch(caller, spec, jobs, bounds, None).await;
    }
    loop {
        match plan.together.turn(place).await {
            Turn::Fetch(lead) => {
                let fetched = fetch(caller, spec, jobs, bounds, None).await;
                lead.tell(fetched.as_ref().ok());
                return fetched;
            }
            Turn::Share(Some(fetched)) => return Ok(fetched),
            // What went wrong there may be that session's alone.
            Turn::Share(None) | Turn::Alone => {
                return fetch(caller, spec, jobs, bounds, None).await;
            }
            Turn::Again => {}
        }
    }
}

/// Polls several futures on this task until all are done.
async fn all<F: Future + Unpin>(mut work: Vec<F>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = work.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in work.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(cx)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
