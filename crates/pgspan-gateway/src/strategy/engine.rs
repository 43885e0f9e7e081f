//! Engine: fragments stream in from sources and home, the engine joins and folds them,
//! and home finishes over the rows that are left.

use super::direct::wants_all;
use super::engine_rows::{self, Rows};
use super::home_join;
use super::parts;
use super::snapshot::connections;
use crate::progress::{Listed, Part};
use crate::session::End;
use crate::session::Session;
use crate::session::cancel::AtWork;
use crate::session::home::{self, Around, Means};
use crate::session::query::{Request, route};
use crate::session::state::{sleep, timed_out, timeout};
use crate::session::stop::{Stop, cancelled};
use crate::sources::engine::EnginePlan;
use crate::sources::fetch::{self, Caller};
use crate::sources::keyed::{Keyed, depth};
use crate::sources::{CachedPlan, connect_options};
use bytes::Bytes;
use pgspan_engine::{Answer, Feed, GiveUp, Keys, Limits, Started};
use pgspan_pool::{ConnectOptions, LeaseError, Reservation, ServerConnection, ServerError};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::Fragment;
use pgspan_sql::engine::restrict::{Place, restricted};
use pgspan_sql::quote::qualified;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

/// Bytes read from a source at a time.
const READ_BYTES: usize = 256 * 1024;

/// What the engine did, for EXPLAIN.
pub(crate) struct Gathered {
    pub answer: Answer,
    pub started: Started,
    /// Connections of each fragment.
    pub streams: Vec<usize>,
    /// The keys that restricted each fragment, if they were not too many.
    pub keys: Vec<Option<Arc<[i64]>>>,
    pub elapsed: Duration,
    /// Until this goes, it is shown as under way.
    pub listed: Listed,
}

/// Runs it, home's snapshot having been taken.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    engine: &EnginePlan,
) -> Result<Route, Stop> {
    if let Some(formats) = engine_rows::formats(session, Some(request), plan, engine) {
        let ran = engine_rows::run(session, request, around, plan, engine, formats).await?;
        ran.iter().for_each(|gathered| learn(session, plan, engine, gathered));
    } else {
        let in_parts = engine.program.in_parts() && wants_all(request, plan.fields.len());
        let gathered = gather(session, plan, engine, To::Finish { in_parts }).await?;
        learn(session, plan, engine, &gathered);
        if gathered.answer.rest.is_some() {
            parts::run(session, request, around, plan, engine, gathered).await?;
        } else {
            let bound = engine.bound(&engine.finish, gathered.answer.values);
            home_join::answer_bound(session, request, around, plan, bound).await?;
        }
    }
    Ok(route(Strategy::Engine, Cause::MuchCrosses))
}

/// Notes whether the engine was worth it.
fn learn(session: &Session, plan: &CachedPlan, engine: &EnginePlan, gathered: &Gathered) {
    let small = session.shared.config.limits.engine_rows_min / 2;
    let most = gathered.started.progress.iter().map(|p| p.rows.load(Ordering::Relaxed)).max();
    // What the engine has its sources leave out home join would fetch.
    let prefers = engine.reduced || most.unwrap_or(0) > small;
    plan.prefers_engine.store(prefers, Ordering::Relaxed);
}

/// Where the core's rows go.
pub(crate) enum To<'a, 'b> {
    /// They become parameters of the finish, which may take them in parts.
    Finish { in_parts: bool },
    /// They are the answer.
    Client(&'a mut Rows<'b>),
}

/// The core's rows.
pub(crate) async fn gather(
    session: &mut Session,
    plan: &CachedPlan,
    engine: &EnginePlan,
    to: To<'_, '_>,
) -> Result<Gathered, Stop> {
    let (mut rows, in_parts) = match to {
        To::Finish { in_parts } => (None, in_parts),
        To::Client(rows) => (Some(rows), false),
    };
    match gather_once(session, plan, engine, rows.as_deref_mut(), in_parts).await {
        Err(Stop::GiveUp(reason))
            if reason.cause == Cause::TooManyKeys && rows.as_ref().is_none_or(|r| r.unsent()) =>
        {
            engine.keys_off.store(true, Ordering::Relaxed);
            if let Some(rows) = &mut rows {
                rows.forget();
            }
            gather_once(session, plan, engine, rows, in_parts).await
        }
        other => other,
    }
}

async fn gather_once(
    session: &mut Session,
    plan: &CachedPlan,
    engine: &EnginePlan,
    mut rows: Option<&mut Rows<'_>>,
    in_parts: bool,
) -> Result<Gathered, Stop> {
    let began = Instant::now();
    let limits = &session.shared.config.limits;
    let bounds = Limits {
        query_bytes_max: limits.engine_query_bytes_max,
        answer_bytes_max: limits.home_join_bytes_max,
        part_bytes: in_parts.then(|| limits.engine_part_bytes.min(limits.home_join_bytes_max)),
    };
    let fragments = &engine.tree.fragments;
    let sources = asked(session, plan, fragments)?;
    let (streams, reserved) = share(session, fragments, &sources)?;
    let keyed: &[Option<Keyed>] =
        if engine.keys_off.load(Ordering::Relaxed) { &[] } else { &engine.keyed };
    let mut wanted: Vec<Place> = keyed.iter().flatten().map(|k| k.from).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let (feeds, started) = engine
        .program
        .start(&streams, &wanted, bounds, &session.shared.sources.engine_budget)
        .map_err(Reason::from)?;
    let keys = |i: usize| {
        let keyed = keyed.get(i).and_then(Option::as_ref)?;
        let at = wanted.iter().position(|w| *w == keyed.from)?;
        Some((keyed.clone(), started.keys.get(at)?.clone()))
    };
    let waited_for = |i: usize| wanted.iter().any(|w| w.0 == i);
    let parts = fragments.iter().enumerate().map(|(i, f)| Part {
        tables: f.label.clone(),
        server: f
            .server
            .and_then(|s| plan.plan.servers.get(s))
            .map_or_else(|| "home".to_owned(), |s| s.name.clone()),
        rows_expected: engine.rows.get(i).copied().unwrap_or(0.0),
        connections: streams.get(i).copied().unwrap_or(1),
        progress: started.progress.get(i).cloned().unwrap_or_default(),
    });
    let listed = {
        let who = (session.cancel.pid(), session.user.as_str());
        session.shared.progress.list(who, parts.collect())
    };
    let mut feeds: Vec<Option<Vec<Feed>>> = feeds.into_iter().map(Some).collect();
    let mut work = JoinSet::new();
    let mut at_work: Vec<AtWork> = Vec::new();
    let Session { server, client, shared, endpoint, cancel, user, snapshots: held, .. } = session;
    let caller = Caller { shared, home: endpoint, cancel, session: &plan.session, user };
    let busy = |e: LeaseError| Reason::about(Cause::SourceBusy, e.to_string());
    // Why a stream broke: the engine, which is told as well, may end before it.
    let broke: Arc<OnceLock<Broke>> = Arc::default();
    let (sender, mut queue) = engine_rows::queue();
    let (noticed, mut notices) = engine_rows::queue();
    let formats = rows.as_ref().map(|rows| rows.formats.clone());
    let gather = async {
        let mut reserved = reserved.map(Vec::into_iter);
        for Asked { options, place } in &sources {
            let place = *place;
            let Some(spec) = plan.plan.servers.get(place) else { continue };
            let reservation = match reserved.as_mut().and_then(Iterator::next) {
                Some(reservation) => reservation,
                None => {
                    let own = fragments.iter().filter(|f| f.server == Some(place)).count();
                    shared.sources.pools.reserve_all(options, own).await.map_err(busy)?
                }
            };
            let own = fragments.iter().enumerate().filter(|(_, f)| f.server == Some(place));
            let mut jobs: Vec<(Job, Feed)> = Vec::new();
            for (i, fragment) in own {
                let feeds = feeds.get_mut(i).and_then(Option::take).unwrap_or_default();
                let parts = feeds.len();
                let types = engine.types.get(i).cloned().unwrap_or_default();
                for (part, feed) in feeds.into_iter().enumerate() {
                    let job = Job {
                        whole: fragment.sql(),
                        sql: part_sql(fragment, part, parts),
                        part,
                        types: types.clone(),
                        keys: keys(i),
                        means: means(fragment, parts, keyed.get(i).and_then(Option::as_ref)),
                        notices: Notices::Dropped,
                    };
                    jobs.push((job, feed));
                }
            }
            let snapshot = held.iter().find(|h| h.place == place).map(|h| h.snapshot.as_str());
            let in_parts = tables_in_parts(fragments, &streams, place);
            let leases = connections(&caller, spec, reservation, snapshot, &in_parts).await?;
            let several = leases.len() > 1 || snapshot.is_some();
            for (mut lease, (job, feed)) in leases.into_iter().zip(jobs) {
                at_work.push(cancel.at_work(lease.cancel_key.clone()));
                let (name, broke) = (spec.name.clone(), broke.clone());
                work.spawn(async move {
                    let pumped = pump(&mut lease, &job, feed, several, (&name, &broke)).await;
                    if pumped.is_err() {
                        // Its settings are in doubt.
                        lease.discard();
                    }
                    pumped.map_err(|e| e.at(&name))
                });
            }
        }
        let mut home_order = engine.program.order();
        home_order.retain(|i| fragments.get(*i).is_some_and(|f| f.server.is_none()));
        // Those for whose keys others wait come first, and must not wait for an operator.
        home_order.sort_by_key(|i| if waited_for(*i) { depth(keyed, *i) } else { usize::MAX });
        let home_feeds: Vec<(usize, Vec<Feed>)> =
            home_order.into_iter().filter_map(|i| Some((i, feeds.get_mut(i)?.take()?))).collect();
        let from_home = async {
            for (i, feeds) in home_feeds {
                let Some(fragment) = fragments.get(i) else { continue };
                let job = Job {
                    whole: fragment.sql(),
                    sql: fragment.sql(),
                    part: 0,
                    types: engine.types.get(i).cloned().unwrap_or_default(),
                    keys: keys(i),
                    means: Means::USUAL,
                    notices: match formats {
                        Some(_) => Notices::Passed(noticed.clone()),
                        None => Notices::Refused,
                    },
                };
                for mut feed in feeds {
                    if waited_for(i) {
                        feed.expect_few();
                    }
                    let pumped = pump(server, &job, feed, false, ("home", &broke)).await;
                    pumped.map_err(|e| match e {
                        Broken::Lost(e) => Stop::from(e),
                        other => Stop::GiveUp(other.at("home")),
                    })?;
                }
            }
            Ok::<(), Stop>(())
        };
        let from_sources = async {
            while let Some(done) = work.join_next().await {
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => return Err(Stop::GiveUp(reason)),
                    Err(e) => return Err(Reason::about(Cause::EngineStopped, e.to_string()).into()),
                }
            }
            Ok(())
        };
        let run = async {
            let ran = match &formats {
                Some(formats) => started.rows(formats.clone(), sender).await,
                None => {
                    drop(sender);
                    started.run().await
                }
            };
            ran.map_err(|e| Stop::GiveUp(e.into()))
        };
        let ((), (), answer) = tokio::try_join!(from_home, from_sources, run)?;
        Ok::<Answer, Stop>(answer)
    };
    let mut deadline = pin!(sleep(timeout(&plan.session.statement_timeout)));
    let answer = {
        let mut gather = pin!(gather);
        loop {
            tokio::select! {
                biased;
                got = &mut gather => break got,
                () = cancel.cancelled() => break Err(cancelled()),
                () = &mut deadline => break Err(timed_out()),
                Some(some) = queue.recv() => {
                    let Some(rows) = &mut rows else { continue };
                    if let Err(stop) = rows.take(client, &some).await {
                        break Err(stop);
                    }
                }
                Some(notice) = notices.recv() => {
                    let Some(rows) = &mut rows else { continue };
                    if let Err(reason) = rows.notice(&notice) {
                        break Err(reason.into());
                    }
                }
                () = client.gone() => {
                    break Err(Stop::End(End::Client));
                }
            }
        }
    };
    // What is behind it on the way.
    let answer = match (answer, &mut rows) {
        (Ok(answer), Some(rows)) => {
            while let Ok(some) = queue.try_recv() {
                rows.take(client, &some).await?;
            }
            let mut told = Ok(());
            while let Ok(notice) = notices.try_recv() {
                told = told.and(rows.notice(&notice));
            }
            told.map(|()| answer).map_err(Stop::GiveUp)
        }
        (answer, _) => answer,
    };
    // Before the sources are cancelled, which is no reason.
    let broke_off = broke.get().is_some_and(|b| b.reason.cause == Cause::Interrupted);
    let refused =
        broke.get().filter(|b| matches!(b.reason.cause, Cause::SourceError | Cause::SourceLost));
    let answer = answer.map_err(|stop| match (stop, refused) {
        (Stop::GiveUp(_), _) if broke_off => cancel.interrupted(),
        (Stop::GiveUp(_), Some(broke)) => {
            if let Some(rows) = &mut rows {
                rows.broke = broke.error.clone();
            }
            Stop::GiveUp(broke.reason.clone())
        }
        (stop, _) => stop,
    });
    drop(at_work);
    let answer = match answer {
        Err(Stop::End(end)) => return Err(Stop::End(end)),
        // What home still has to say of its own fragment is read to its end.
        other => {
            while server.is_busy() {
                let frame = server.receive().await?;
                if matches!(frame.tag, b'S' | b'A') {
                    client.outbox.extend_from_slice(&frame.raw);
                }
            }
            other?
        }
    };
    let known = (0..fragments.len()).map(|i| keys(i).and_then(|(_, k)| k.known())).collect();
    Ok(Gathered { answer, keys: known, streams, elapsed: began.elapsed(), started, listed })
}

/// What one connection reads.
struct Job {
    /// The fragment's SQL.
    whole: String,
    /// That of this part of it.
    sql: String,
    part: usize,
    types: Vec<u32>,
    /// The keys to wait for.
    keys: Option<(Keyed, Arc<Keys>)>,
    means: Means,
    notices: Notices,
}

/// What becomes of notices.
enum Notices {
    /// A source's: postgres_fdw keeps them to itself.
    Dropped,
    /// Home's: they are a reason to give up.
    Refused,
    /// Home's: they go this way.
    Passed(Sender<Bytes>),
}

impl Job {
    /// Its SQL, once the keys have come.
    async fn sql(&self) -> String {
        let Some((keyed, keys)) = &self.keys else { return self.sql.clone() };
        match keys.wait().await {
            Some(keys) if keys.len() <= keyed.looked_up_max => {
                // By the first connection; the others have nothing to do.
                let own = if self.part == 0 { &keys[..] } else { &[] };
                restricted(&self.whole, &self.types, keyed.column, own)
            }
            Some(keys) => restricted(&self.sql, &self.types, keyed.column, &keys),
            None => self.sql.clone(),
        }
    }
}

/// What the source may use for a fragment.
pub(super) fn means(fragment: &Fragment, parts: usize, keyed: Option<&Keyed>) -> Means {
    Means {
        parallel: parts == 1 && fragment.order_free && fragment.table.is_none(),
        bitmaps: keyed.is_none_or(|k| k.bitmaps),
    }
}

/// A source that fragments are asked of.
struct Asked {
    options: Arc<ConnectOptions>,
    /// Its place in the plan.
    place: usize,
}

/// The sources of a plan's fragments, everybody's in one order.
fn asked(
    session: &Session,
    plan: &CachedPlan,
    fragments: &[Fragment],
) -> Result<Vec<Asked>, Reason> {
    let mut all: Vec<Asked> = Vec::new();
    for (place, spec) in plan.plan.servers.iter().enumerate() {
        if fragments.iter().any(|f| f.server == Some(place)) {
            let encoding = &plan.session.encoding;
            let options = connect_options(&session.shared, &session.endpoint, spec, encoding)?;
            all.push(Asked { options, place });
        }
    }
    all.sort_by(|a, b| a.options.addresses.cmp(&b.options.addresses));
    Ok(all)
}

/// Connections for each fragment: one, and more for large tables while the budget of
/// their server has free ones. They are reserved for all sources, or, where one of them has
/// too few, for none: then each fragment has one, to be waited for.
fn share(
    session: &Session,
    fragments: &[Fragment],
    sources: &[Asked],
) -> Result<(Vec<usize>, Option<Vec<Reservation>>), Reason> {
    let limits = &session.shared.config.limits;
    let pages_min = i64::from(limits.engine_pages_min);
    let mut streams = vec![1; fragments.len()];
    let mut reserved = Vec::new();
    for Asked { options, place } in sources {
        let own = || (0..fragments.len()).filter(|i| fragments[*i].server == Some(*place));
        let held = session.snapshots.iter().filter(|h| h.place == *place).count();
        let count = own().count();
        if count + held > limits.source_connections_max {
            return Err(Reason::about(Cause::TooManyFragments, count.to_string()));
        }
        let large = |i: &usize| fragments[*i].table.is_some() && fragments[*i].pages >= pages_min;
        let more = limits.engine_streams_max.saturating_sub(1);
        let most = count + own().filter(large).count() * more;
        let Some(reservation) = session.shared.sources.pools.reserve(options, count, most) else {
            return Ok((vec![1; fragments.len()], None));
        };
        let mut free = reservation.count() - count;
        for i in own().filter(large) {
            streams[i] += more.min(free);
            free -= more.min(free);
        }
        reserved.push(reservation);
    }
    Ok((streams, Some(reserved)))
}

/// The tables of a source that several connections read.
fn tables_in_parts(fragments: &[Fragment], streams: &[usize], place: usize) -> Vec<String> {
    let own = fragments.iter().zip(streams).filter(|(f, n)| f.server == Some(place) && **n > 1);
    own.filter_map(|(f, _)| f.table.as_ref()).map(|(s, name)| qualified(s, name)).collect()
}

/// One of the parts that a table is read in, by ranges of its pages. The last is open,
/// because the table may have grown.
fn part_sql(fragment: &Fragment, part: usize, parts: usize) -> String {
    if parts <= 1 {
        return fragment.sql();
    }
    let page = |n: usize| {
        let n = i64::try_from(n).unwrap_or(0);
        fragment.pages.saturating_mul(n) / i64::try_from(parts).unwrap_or(1)
    };
    let from = format!("ctid OPERATOR(pg_catalog.>=) '({},0)'::pg_catalog.tid", page(part));
    if part + 1 == parts {
        return fragment.sql_where(&from);
    }
    let to = format!("ctid OPERATOR(pg_catalog.<) '({},0)'::pg_catalog.tid", page(part + 1));
    fragment.sql_where(&format!("{from} AND {to}"))
}

/// Why a stream broke.
enum Broken {
    Lost(ServerError),
    GiveUp(Reason),
}

/// The first stream that broke.
struct Broke {
    reason: Reason,
    /// What its database said.
    error: Option<ErrorFields>,
}

impl Broken {
    fn error(&self) -> Option<ErrorFields> {
        match self {
            Broken::Lost(ServerError::Sql(e)) => Some(e.clone()),
            _ => None,
        }
    }

    fn at(&self, name: &str) -> Reason {
        match self {
            Broken::GiveUp(reason) => reason.clone(),
            Broken::Lost(e) => fetch::failed(name, e),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Lost(e) => e.fmt(f),
            Broken::GiveUp(reason) => reason.fmt(f),
        }
    }
}

impl From<GiveUp> for Broken {
    fn from(e: GiveUp) -> Broken {
        Broken::GiveUp(e.into())
    }
}

/// Runs one fragment on a connection and feeds its rows to the engine; with `commit`
/// the transaction ends with it. `told` is who is asked, and where it is said why not.
async fn pump(
    server: &mut ServerConnection,
    job: &Job,
    mut feed: Feed,
    commit: bool,
    told: (&str, &OnceLock<Broke>),
) -> Result<(), Broken> {
    match pump_rows(server, job, &mut feed, commit).await {
        Ok(()) => Ok(feed.end().await?),
        Err(broken) => {
            // The first to break is the reason.
            let broke = Broke { reason: broken.at(told.0), error: broken.error() };
            let _later = told.1.set(broke);
            // The engine must not take what has come for all.
            feed.fail(broken.to_string()).await;
            Err(broken)
        }
    }
}

async fn pump_rows(
    server: &mut ServerConnection,
    job: &Job,
    feed: &mut Feed,
    commit: bool,
) -> Result<(), Broken> {
    let sql = job.sql().await;
    let Job { types, means, .. } = job;
    let once = "pgspan:once";
    means.allow(server);
    frontend::close_statement(&mut server.outbox, once);
    frontend::parse(&mut server.outbox, once, &sql, &[]);
    frontend::bind(&mut server.outbox, "pgspan:", once, &[], home::NO_PARAMETERS, &[1]);
    frontend::describe_portal(&mut server.outbox, "pgspan:");
    home::execute(server);
    means.end(server);
    if commit {
        home::commit(server);
    }
    frontend::sync(&mut server.outbox);
    server.send().await.map_err(Broken::Lost)?;
    let mut error: Option<ErrorFields> = None;
    let mut wanted = true;
    loop {
        let due = server.rows(|row| match wanted {
            true => match feed.row(row) {
                Ok(false) => Ok(()),
                Ok(true) => Err(None),
                Err(e) => Err(Some(e)),
            },
            false => Ok(()),
        });
        match due {
            Ok(_) => {}
            Err(None) => {
                // The engine may have all that it needs; the rest is read and dropped.
                wanted = feed.flush().await?;
                continue;
            }
            Err(Some(e)) => return Err(e.into()),
        }
        let Some(frame) = server.received().map_err(Broken::Lost)? else {
            server.inbox.reserve(READ_BYTES);
            server.read_more().await.map_err(Broken::Lost)?;
            continue;
        };
        match frame.tag {
            b'T' => {
                let fields =
                    backend::row_description(frame.body()).map_err(|e| Broken::Lost(e.into()))?;
                let same = fields.len() == types.len().max(1)
                    && fields.iter().zip(types).all(|(f, t)| f.type_oid == *t);
                if !same {
                    return Err(Broken::GiveUp(Reason::new(Cause::OtherTypes)));
                }
            }
            b'N' => {
                let given_up = || Broken::GiveUp(Reason::new(Cause::HomeNotice));
                match &job.notices {
                    Notices::Dropped => {}
                    Notices::Refused => return Err(given_up()),
                    Notices::Passed(on) => on.send(frame.raw).await.map_err(|_| given_up())?,
                }
            }
            b'E' => error = Some(ErrorFields::read(&frame)),
            b'D' => return Err(Broken::GiveUp(Reason::new(Cause::Outgrown))),
            b'Z' => break,
            _ => {}
        }
    }
    if let Some(e) = error {
        server.prepared.doubt_all();
        return Err(Broken::Lost(ServerError::Sql(e)));
    }
    Ok(())
}
