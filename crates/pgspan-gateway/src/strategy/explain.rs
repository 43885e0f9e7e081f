//! EXPLAIN of a statement of the straight line, in PostgreSQL's text layout: strategy
//! and reason, each fragment with what it brought and its source's own plan, and home's
//! plan of the rewritten statement.
//!
//! With ANALYZE the fragments are fetched for real, and run once more at their source
//! under EXPLAIN ANALYZE; without it nothing is fetched.

use super::engine::{To, gather, means};
use super::engine_rows::{self, Rows};
use super::home_join::{Bound, ask, carried, put_start};
use super::parts::Clock;
use crate::session::home::{self, Answers, Around, Means};
use crate::session::query::{Request, route};
use crate::session::state::{answers_for, too_long};
use crate::session::stop::Stop;
use crate::session::{End, Session};
use crate::sources::CachedPlan;
use crate::sources::carrier::Builder;
use crate::sources::engine::{EnginePlan, engine_plan};
use crate::sources::fetch::{self, Fetched};
use bytes::Bytes;
use pgspan_pool::ServerError;
use pgspan_sql::analyze::{ExplainOptions, Kind};
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::operators::Fragment;
use pgspan_sql::engine::restrict::restricted;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_sql::server::ServerSpec;
use pgspan_wire::backend::{self, Field};
use pgspan_wire::frontend;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs it.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &Arc<CachedPlan>,
) -> Result<Route, Stop> {
    let Kind::Explain(options) = &plan.analysis.kind else {
        return Err(Reason::new(Cause::ExplainAlone).into());
    };
    let started = Instant::now();
    let mut lines = Vec::new();
    // What a run would try first; a home join that outgrows its border leads there too.
    let mut not_engine = None;
    let mut by_engine = None;
    if crate::session::query::prefers_engine(plan) {
        match engine_plan(session, request, around, plan).await {
            Ok(made) => by_engine = Some(made),
            Err(Stop::GiveUp(reason)) if plan.plan.too_large.is_none() => not_engine = Some(reason),
            Err(other) => return Err(other),
        }
    }
    let mut strategy = plan.plan.route.strategy;
    let reason = plan.plan.route.reason.to_string();
    let mut fetched = Vec::new();
    let mut keys = Vec::new();
    if by_engine.is_none() && plan.plan.direct.is_none() {
        keys = session.ask_keys(plan, around).await?;
        if options.analyze {
            match session.fetch(plan, &keys, around).await {
                Ok(rows) => fetched = rows,
                Err(Stop::GiveUp(r)) if r.cause == Cause::Outgrown && not_engine.is_none() => {
                    by_engine = Some(engine_plan(session, request, around, plan).await?);
                }
                Err(other) => return Err(other),
            }
        } else {
            fetched = plan.plan.fetches.iter().map(nothing).collect();
        }
    }
    if let Some(engine) = &by_engine {
        strategy = Strategy::Engine;
        explain_engine(session, request, plan, engine, &mut lines).await?;
    } else if let Some(direct) = &plan.plan.direct {
        let spec = plan.plan.servers.get(direct.server).ok_or(Reason::new(Cause::NotDirect))?;
        lines.push("Direct (pgspan)".to_owned());
        lines.push("  Strategy: direct".to_owned());
        lines.push(format!("  Reason: {reason}"));
        lines.push(format!("  Remote SQL: {}", direct.sql));
        lines.push(format!("  Server: {}", place(spec)));
        let means = Means { parallel: direct.parallel, ..Means::USUAL };
        let asked = source_plan(session, plan, spec, options, (&direct.sql, means), None).await?;
        nest(&mut lines, 2, asked);
    } else {
        lines.push("Home Join (pgspan)".to_owned());
        lines.push("  Strategy: home join".to_owned());
        lines.push(format!("  Reason: {reason}"));
        if let Some(reason) = &not_engine {
            lines.push(format!("  Not by the engine: {reason}"));
            lines.extend(reason.hint().map(|hint| format!("  Hint: {hint}")));
        }
        let home = home_plan(session, request, plan, carried(plan, &fetched)).await?;
        nest(&mut lines, 2, home);
        for (i, fetch) in plan.plan.fetches.iter().enumerate() {
            let spec = plan.plan.servers.get(fetch.server).ok_or(Reason::new(Cause::NoServer))?;
            let key = keys.get(i).cloned().flatten();
            let sql = match (&fetch.keys, &key) {
                (Some(filter), Some(_)) => &filter.sql,
                _ => &fetch.sql,
            };
            let measured =
                fetched.get(i).filter(|_| options.analyze).map(measured).unwrap_or_default();
            lines.push(format!("  ->  Fragment on {}{measured}", spec.name));
            lines.push(format!(
                "        Foreign Table: {}.{}",
                fetch.home_name.0, fetch.home_name.1
            ));
            lines.push(format!("        Remote SQL: {sql}"));
            lines.push(format!("        Server: {}", place(spec)));
            if let (Some(filter), Some(_)) = (&fetch.keys, &key) {
                lines.push(format!("        Keys: {}", filter.home_sql));
            }
            let asked = source_plan(session, plan, spec, options, (sql, Means::USUAL), key).await?;
            nest(&mut lines, 8, asked);
        }
    }
    if options.analyze && options.summary != Some(false) {
        lines.push(format!("pgspan Time: {} ms", ms(started.elapsed())));
    }
    around.close(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    home::answers(&mut session.server, &mut session.client.outbox).await?;
    let out = &mut session.client.outbox;
    let columns = [query_plan()];
    put_start(out, request, &columns, columns.iter().map(|f| f.format));
    lines.iter().for_each(|l| backend::put_data_row(out, &[Some(l.as_bytes())]));
    backend::put_command_complete(out, "EXPLAIN");
    for _ in request.batch.iter().flat_map(|b| &b.tail) {
        frontend::message(out, b'3', |_| {});
    }
    backend::put_ready(out, session.server.status);
    Ok(route(strategy, plan.plan.route.reason.cause))
}

/// The engine's part: the finish at home, the operators, the fragments.
async fn explain_engine(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    engine: &EnginePlan,
    lines: &mut Vec<String>,
) -> Result<(), Stop> {
    let Kind::Explain(options) = &plan.analysis.kind else {
        return Err(Reason::new(Cause::ExplainAlone).into());
    };
    lines.push("Engine (pgspan)".to_owned());
    lines.push("  Strategy: engine".to_owned());
    lines.push("  Reason: much crosses".to_owned());
    // The answer as it is needs no finish.
    let formats = engine_rows::formats(session, None, plan, engine);
    let finishes = formats.is_none();
    let mut gathered = None;
    if options.analyze {
        let mut rows = formats.map(Rows::dropped);
        let to = match &mut rows {
            Some(rows) => To::Client(rows),
            None => To::Finish { in_parts: engine.program.in_parts() },
        };
        gathered = Some(gather(session, plan, engine, to).await?);
    }
    if let Some(g) = &gathered {
        lines.push(format!(
            "  Engine: time={} rows={} memory={} kB",
            ms(g.elapsed),
            g.answer.rows,
            g.answer.peak_bytes / 1024
        ));
    }
    if finishes {
        if options.verbose {
            lines.push(format!("  Finish SQL: {}", engine.finish));
        }
        let mut values = match &mut gathered {
            Some(g) => std::mem::take(&mut g.answer.values),
            None => engine.program.no_rows(),
        };
        let head = request.text.get(..plan.analysis.query_start).unwrap_or("");
        let sql = format!("{head}{}", engine.finish);
        let began = Instant::now();
        let home = home_plan(session, request, plan, engine.bound(&sql, values)).await?;
        let mut parts = 1;
        if let Some(g) = &mut gathered {
            let clock = Clock::new(plan, g);
            while let Some(rest) = g.answer.rest.take() {
                clock.check(session)?;
                (values, g.answer.rest) = rest.next().await.map_err(Reason::from)?;
                home_plan(session, request, plan, engine.bound(&sql, values)).await?;
                parts += 1;
            }
        }
        if parts > 1 {
            let time = ms(began.elapsed());
            lines.push(format!("  Finish: parts={parts} time={time}, the first of them:"));
        }
        nest(lines, 2, home);
    } else {
        lines.push("  Finish: none, rows go to the client as they are".to_owned());
    }
    let operators = match &gathered {
        Some(g) => g.started.lines(true),
        None => engine.program.lines().map_err(Reason::from)?,
    };
    lines.extend(operators.into_iter().map(|l| format!("  {l}")));
    for (i, fragment) in engine.tree.fragments.iter().enumerate() {
        let spec = fragment.server.and_then(|s| plan.plan.servers.get(s));
        let place_name = spec.map_or("home", |s| s.name.as_str());
        let measured = match &gathered {
            Some(g) => {
                let p = g.started.progress.get(i);
                let load =
                    |a: &std::sync::atomic::AtomicU64| a.load(std::sync::atomic::Ordering::Relaxed);
                format!(
                    "  (actual rows={} bytes={} connections={})",
                    p.map_or(0, |p| load(&p.rows)),
                    p.map_or(0, |p| load(&p.bytes)),
                    g.streams.get(i).copied().unwrap_or(1)
                )
            }
            None => String::new(),
        };
        let estimated = format!("  (rows={:.0})", engine.rows.get(i).copied().unwrap_or(0.0));
        lines.push(format!("  ->  Fragment on {place_name}{estimated}{measured}"));
        lines.push(format!("        Tables: {}", fragment.label));
        lines.push(format!("        Remote SQL: {}", fragment.sql_unguarded()));
        if !fragment.certain.is_empty() {
            let names: Vec<_> = fragment.certain.iter().map(|c| c.column.as_str()).collect();
            lines.push(format!("        Counted, being NOT NULL there: {}", names.join(", ")));
        }
        let mut sql = fragment.sql_unguarded();
        if let Some(keyed) = engine.keyed.get(i).and_then(Option::as_ref) {
            let from = engine.tree.fragments.get(keyed.from.0);
            let column = |f: Option<&Fragment>, c: usize| {
                f.and_then(|f| f.select.get(c)).cloned().unwrap_or_default()
            };
            let got = gathered.as_ref().and_then(|g| g.keys.get(i).cloned().flatten());
            lines.push(format!(
                "        Keys: {} = any of {} of {}{}",
                column(Some(fragment), keyed.column),
                column(from, keyed.from.1),
                from.map_or("", |f| f.label.as_str()),
                match (&gathered, &got) {
                    (Some(_), Some(keys)) => format!("  (actual keys={})", keys.len()),
                    (Some(_), None) => "  (too many, or not needed)".to_owned(),
                    (None, _) => String::new(),
                }
            ));
            if let Some(keys) = got {
                let types = engine.types.get(i).map_or(&[][..], Vec::as_slice);
                sql = restricted(&sql, types, keyed.column, &keys);
            }
        }
        if let Some(spec) = spec {
            lines.push(format!("        Server: {}", place(spec)));
            let parts = gathered.as_ref().and_then(|g| g.streams.get(i)).copied().unwrap_or(1);
            let keyed = engine.keyed.get(i).and_then(Option::as_ref);
            let means = means(fragment, parts, keyed);
            let asked = source_plan(session, plan, spec, options, (&sql, means), None).await?;
            nest(lines, 8, asked.into_iter().map(without_keys).collect());
        }
    }
    Ok(())
}

/// The column of EXPLAIN's text form.
fn query_plan() -> Field {
    Field {
        name: Bytes::from_static(b"QUERY PLAN"),
        table_oid: 0,
        attnum: 0,
        type_oid: 25,
        type_size: -1,
        typmod: -1,
        format: 0,
    }
}

fn place(spec: &ServerSpec) -> String {
    let hosts: Vec<_> = spec.addresses.iter().map(|(h, p)| format!("{h}:{p}")).collect();
    format!("{}/{}", hosts.join(","), spec.database)
}

fn ms(d: Duration) -> String {
    format!("{:.3}", d.as_secs_f64() * 1000.0)
}

fn measured(f: &Fetched) -> String {
    format!("  (actual time={} rows={} bytes={} connections=1)", ms(f.elapsed), f.rows, f.bytes)
}

fn nothing(fetch: &pgspan_sql::fragment::Fetch) -> Fetched {
    let value = Builder::new(fetch).finish();
    Fetched { value, rows: 0, bytes: 0, elapsed: Duration::ZERO, _share: None }
}

/// Appends a plan as PostgreSQL nests a child: `->` at the indentation, the rest after it.
fn nest(lines: &mut Vec<String>, indent: usize, plan: Vec<String>) {
    for (i, line) in plan.into_iter().enumerate() {
        let arrow = if i == 0 { "->  " } else { "    " };
        lines.push(format!("{:indent$}{arrow}{line}", ""));
    }
}

fn text_lines(got: &Answers, i: usize) -> Vec<String> {
    let rows = got.results.get(i).map(|r| r.rows.as_slice()).unwrap_or_default();
    let values = rows.iter().filter_map(|r| r.first()?.as_ref());
    values.map(|v| String::from_utf8_lossy(v).into_owned()).collect()
}

/// Home's plan of the rewritten statement: the client's own EXPLAIN with the carriers.
async fn home_plan(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    bound: Bound<'_>,
) -> Result<Vec<String>, Stop> {
    ask(session, request, plan, bound, "pgspan:")?;
    home::execute(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    let got = home::answers(&mut session.server, &mut session.client.outbox).await?;
    Ok(text_lines(&got, 0).into_iter().map(without_rows).collect())
}

/// With VERBOSE home prints the bound rows as a literal, which may be megabytes.
fn without_rows(line: String) -> String {
    let call = "Function Call: unnest('";
    match (line.find(call), line.rfind("'::")) {
        (Some(at), Some(end)) if at + call.len() <= end => {
            format!("{}…{}", &line[..at + call.len()], &line[end..])
        }
        _ => line,
    }
}

/// A list of keys as short as it can be told.
fn without_keys(line: String) -> String {
    const SHOWN: usize = 24;
    let at = line.find("ANY ('{");
    let end = at.and_then(|at| Some(at + line.get(at..)?.find("}'::")?));
    match (at, end) {
        (Some(at), Some(end)) if at + SHOWN < end => {
            format!("{}…{}", line.get(..at + SHOWN).unwrap_or(""), &line[end..])
        }
        _ => line,
    }
}

/// The source's own plan of a fragment.
async fn source_plan(
    session: &mut Session,
    plan: &CachedPlan,
    spec: &ServerSpec,
    options: &ExplainOptions,
    (sql, means): (&str, Means),
    keys: Option<Bytes>,
) -> Result<Vec<String>, Stop> {
    let caller = session.caller(&plan.session);
    let mut lease = fetch::lease(&caller, spec).await?;
    let _at_work = session.cancel.at_work(lease.cancel_key.clone());
    let on = |name: &str, value: bool| format!("{name} {}", if value { "ON" } else { "OFF" });
    let mut list = vec![
        on("ANALYZE", options.analyze),
        on("VERBOSE", options.verbose),
        on("COSTS", options.costs),
        on("BUFFERS", options.buffers),
    ];
    if options.analyze {
        list.push(on("TIMING", options.timing));
    }
    let text = format!("EXPLAIN ({}) {sql}", list.join(", "));
    let before = means.allow(&mut lease);
    frontend::parse(&mut lease.outbox, "", &text, &[]);
    let values: Vec<Option<Bytes>> = keys.into_iter().map(Some).collect();
    frontend::bind(&mut lease.outbox, "", "", &[1], &values, &[]);
    frontend::execute(&mut lease.outbox, "", 0);
    means.end(&mut lease);
    frontend::sync(&mut lease.outbox);
    let got = answers_for(session, plan, &mut lease).await?;
    Ok(text_lines(&got, before))
}

/// EXPLAIN of a statement that falls back: home's own output, and why.
///
/// # Errors
/// A lost connection.
pub(crate) async fn fallback(
    session: &mut Session,
    text: &str,
    reason: &Reason,
) -> Result<(), End> {
    let lost = |e: ServerError| End::Server(e.to_string());
    frontend::query(&mut session.server.outbox, text);
    session.server.send().await.map_err(lost)?;
    let mut plain = false;
    loop {
        let frame = session.server.receive().await.map_err(lost)?;
        if frame.is_cut() {
            return Err(too_long(frame.tag));
        }
        let out = &mut session.client.outbox;
        match frame.tag {
            b'T' => {
                let fields = backend::row_description(frame.body()).unwrap_or_default();
                plain = fields == [query_plan()];
            }
            b'C' if plain => {
                let strategy = Strategy::Fallback.as_str();
                let hint = reason.hint().map(|hint| format!("pgspan Hint: {hint}"));
                for line in
                    [format!("pgspan Strategy: {strategy}"), format!("pgspan Reason: {reason}")]
                        .into_iter()
                        .chain(hint)
                {
                    backend::put_data_row(out, &[Some(line.as_bytes())]);
                }
            }
            _ => {}
        }
        out.extend_from_slice(&frame.raw);
        if frame.tag == b'Z' {
            return Ok(());
        }
        if out.len() > 64 * 1024 {
            session.client.send().await.map_err(|_| End::Client)?;
        }
    }
}

/// Whether a text is one EXPLAIN, as far as its first word tells; home decides.
pub(crate) fn is_explain(text: &str) -> bool {
    let head = text.trim_start().get(..7);
    head.is_some_and(|h| h.eq_ignore_ascii_case("explain"))
}
