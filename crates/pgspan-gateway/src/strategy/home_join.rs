//! Home join: the fetched rows are bound to the client's own statement at home, where
//! each foreign table is an array of its own row type. Home does everything else.

use super::HELD_BYTES;
use crate::session::home::{self, Around};
use crate::session::query::{Request, route};
use crate::session::state::{pass_on, receive_for, too_long};
use crate::session::still::Question;
use crate::session::stop::{Stop, hung_up, unsent};
use crate::session::{End, Session};
use crate::sources::CachedPlan;
use crate::sources::fetch::Fetched;
use bytes::{Bytes, BytesMut};
use pgspan_sql::analyze::Kind;
use pgspan_sql::cause::Cause;
use pgspan_sql::fragment::Carrier;
use pgspan_sql::quote::literal;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{self, ErrorFields, Field};
use pgspan_wire::frontend;

/// Up to so many fetched rows home may use its generic plan, which takes an array for
/// ten rows; above, the statement is planned for what is really there.
const GENERIC_ROWS_MAX: u64 = 1_000;

/// A statement over rows that is not kept.
const ONCE: &str = "pgspan:once";

/// Binds, executes, and streams the answer.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    fetched: &[Fetched],
) -> Result<Route, Stop> {
    if plan.analysis.kind == Kind::CopyOut {
        return super::copy_out::run(session, request, around, plan, fetched).await;
    }
    answer_bound(session, request, around, plan, carried(plan, fetched)).await?;
    Ok(route(Strategy::HomeJoin, plan.plan.route.reason.cause))
}

/// As [`run`], with home's transaction opened and its state confirmed in the same trip.
/// `None`: it was not confirmed.
pub(crate) async fn run_opened(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    fetched: &[Fetched],
    question: Question<'_>,
) -> Result<Option<Route>, Stop> {
    let before = session.open_with(request, around, plan, question).await?;
    let bound = carried(plan, fetched);
    let typmods = bound.typmods;
    let around_it = put(session, request, around, plan, bound).await?;
    if !session.opened_with(request, around, plan, question, before).await? {
        return Ok(None);
    }
    answer(session, request, around, plan, around_it, typmods).await?;
    Ok(Some(route(Strategy::HomeJoin, plan.plan.route.reason.cause)))
}

/// A statement of home's with rows bound to it.
pub(crate) struct Bound<'a> {
    pub sql: &'a str,
    /// The statement when it is kept on the connection.
    pub kept: Option<&'a home::Statement>,
    /// Types of all its parameters, the client's first.
    pub types: Vec<u32>,
    /// The rows, each with its format.
    pub values: Vec<(Bytes, i16)>,
    /// Whether it must give the original's type modifiers too.
    pub typmods: bool,
    /// Whether home is to plan it for these values, whatever it has kept.
    pub for_values: bool,
}

/// What stands around the statement in its write.
#[derive(Clone, Copy)]
struct AroundIt {
    /// Statements of the gateway's own before it.
    before: usize,
    /// Close messages of the client's behind it.
    behind: usize,
}

/// The rewritten statement with the fetched rows.
pub(crate) fn carried<'a>(plan: &'a CachedPlan, fetched: &[Fetched]) -> Bound<'a> {
    let mut types = plan.parameters.clone();
    types.extend(plan.plan.fetches.iter().map(|f| f.array_type));
    let rows: u64 = fetched.iter().map(|f| f.rows).sum();
    let values = plan.plan.fetches.iter().zip(fetched);
    Bound {
        sql: &plan.plan.home_sql,
        kept: Some(&plan.home),
        types,
        values: values
            .map(|(f, rows)| (rows.value.clone(), i16::from(f.carrier == Carrier::Binary)))
            .collect(),
        typmods: true,
        for_values: rows > GENERIC_ROWS_MAX,
    }
}

/// Runs it, and streams the answer to the client as the original's.
pub(crate) async fn answer_bound(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    bound: Bound<'_>,
) -> Result<(), Stop> {
    let typmods = bound.typmods;
    let around_it = put(session, request, around, plan, bound).await?;
    answer(session, request, around, plan, around_it, typmods).await
}

/// Sends it, to the end of the transaction.
async fn put(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    bound: Bound<'_>,
) -> Result<AroundIt, Stop> {
    let max_rows = request.batch.as_ref().map_or(0, |b| b.max_rows);
    let portal = request.batch.as_ref().map_or("pgspan:", |b| b.bind.portal.as_str());
    let for_values = bound.for_values;
    if for_values {
        home::plan_for_values(&mut session.server);
    }
    ask(session, request, plan, bound, portal)?;
    let server = &mut session.server;
    let mut before = usize::from(for_values);
    if for_values && around == Around::Savepoint {
        // The rest of the client's block is planned as the client wants.
        let mode = literal(&plan.session.plan_cache_mode);
        home::run_once(server, &format!("SET LOCAL plan_cache_mode = {mode}"));
        before += 1;
    }
    frontend::describe_portal(&mut server.outbox, portal);
    match request.batch {
        Some(_) => frontend::execute(&mut server.outbox, portal, max_rows),
        None => home::execute(server),
    }
    let tail = request.batch.as_ref().map_or(&[][..], |b| &b.tail);
    for frame in tail {
        server.outbox.extend_from_slice(&frame.raw);
    }
    around.close(server);
    frontend::sync(&mut server.outbox);
    server.send().await?;
    Ok(AroundIt { before, behind: tail.len() })
}

/// Appends Parse (unless home has it) and Bind of the rewritten statement.
pub(crate) fn ask(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    bound: Bound<'_>,
    portal: &str,
) -> Result<(), Stop> {
    let server = &mut session.server;
    let name = match bound.kept {
        Some(statement) => {
            home::prepare(server, statement, &bound.types);
            statement.name()
        }
        None => {
            frontend::close_statement(&mut server.outbox, ONCE);
            frontend::parse(&mut server.outbox, ONCE, bound.sql, &bound.types);
            ONCE
        }
    };
    let mut values: Vec<Option<Bytes>> = Vec::new();
    let mut formats: Vec<i16> = Vec::new();
    let mut result_formats: &[i16] = &[];
    if let Some(batch) = &request.batch {
        let bind = &batch.bind;
        values.extend(bind.params.iter().cloned());
        formats.extend((0..values.len()).map(|i| bind.param_format(i)));
        result_formats = &bind.result_formats;
    }
    if values.len() != plan.parameters.len() {
        // Home tells what is wrong with it.
        return Err(Reason::new(Cause::OtherParameters).into());
    }
    for (value, format) in bound.values {
        values.push(Some(value));
        formats.push(format);
    }
    frontend::bind(&mut server.outbox, portal, name, &formats, &values, result_formats);
    Ok(())
}

/// Whether the rewritten statement describes itself as the original does.
pub(crate) fn same_columns(original: &[Field], rewritten: &[Field], typmods: bool) -> bool {
    original.len() == rewritten.len()
        && original.iter().zip(rewritten).all(|(o, r)| {
            (&o.name, o.type_oid, o.type_size) == (&r.name, r.type_oid, r.type_size)
                && (!typmods || o.typmod == r.typmod)
                && (r.table_oid == 0 || (r.table_oid, r.attnum) == (o.table_oid, o.attnum))
        })
}

async fn answer(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    around_it: AroundIt,
    typmods: bool,
) -> Result<(), Stop> {
    let AroundIt { mut before, behind } = around_it;
    let mut held = BytesMut::new();
    // What is for the client even if the rest is not.
    let mut aside = BytesMut::new();
    // Whether the client's messages mean the same when home gets them again.
    let repeatable =
        request.batch.as_ref().is_none_or(|b| b.tail.is_empty() && b.bind.portal.is_empty());
    let mut begun = false;
    let mut executed = false;
    let mut closes = 0;
    let mut fields: Option<Vec<Field>> = None;
    let mut error: Option<ErrorFields> = None;
    let mut refused: Option<Stop> = None;
    loop {
        let certain = refused.is_none() && error.is_none() && !executed;
        if certain && let Some(size) = session.server.long(b'D', HELD_BYTES) {
            if !std::mem::replace(&mut begun, true)
                && let Err(stop) = begin(session, request, plan, fields.as_deref(), typmods)
            {
                (begun, refused) = (false, Some(stop));
                continue;
            }
            session.client.outbox.extend_from_slice(&held);
            held.clear();
            pass_on(&mut session.server, &mut session.client, size).await?;
            continue;
        }
        // Rows in a run, where more than one has arrived.
        if executed || !session.server.take_rows(&mut held) {
            let frame = receive_for(&mut session.server, &mut session.client)
                .await
                .map_err(|stop| hung_up(stop, error.as_ref()))?;
            match frame.tag {
                tag if frame.is_cut() && refused.is_none() && tag != b'E' => {
                    return Err(Stop::End(too_long(tag)));
                }
                b'T' if fields.is_none() => {
                    fields = Some(
                        backend::row_description(frame.body())
                            .map_err(pgspan_pool::ServerError::from)?,
                    )
                }
                b'C' if before > 0 => before -= 1,
                b'D' if !executed => held.extend_from_slice(&frame.raw),
                b'C' | b's' if !executed => {
                    executed = true;
                    if around == Around::Savepoint
                        && session.block.needs_rows()
                        && frame.raw.ends_with(b" 0\0")
                    {
                        refused = Some(Reason::new(Cause::MightNotRun).into());
                    }
                    held.extend_from_slice(&frame.raw);
                }
                b'3' if executed && closes < behind => {
                    closes += 1;
                    held.extend_from_slice(&frame.raw);
                }
                b'E' => {
                    session.server.prepared.doubt_all();
                    error = Some(ErrorFields::read(&frame));
                }
                b'N' if !begun && repeatable => {
                    refused = Some(Reason::new(Cause::HomeNotice).into())
                }
                b'N' => held.extend_from_slice(&frame.raw),
                b'S' | b'A' => {
                    aside.extend_from_slice(&frame.raw);
                    held.extend_from_slice(&frame.raw);
                }
                b'Z' => break,
                _ => {}
            }
        }
        // Everything that is still on its way is read before giving up.
        if refused.is_some() {
            held.clear();
            continue;
        }
        if error.is_none() && held.len() > HELD_BYTES {
            if !begun {
                refused = begin(session, request, plan, fields.as_deref(), typmods).err();
                if refused.is_some() {
                    continue;
                }
                begun = true;
            }
            session.client.outbox.extend_from_slice(&held);
            held.clear();
            session.client.send().await.map_err(|_| Stop::End(End::Client))?;
        }
    }
    if error.is_none() {
        // What was opened is closed, and a read leaves nothing to undo.
        session.opened = false;
    }
    if let Some(stop) = unsent(refused, error.clone().filter(|_| !begun)) {
        session.client.outbox.extend_from_slice(&aside);
        return Err(stop);
    }
    if let Some(error) = error {
        session.client.outbox.extend_from_slice(&held);
        error.put(&mut session.client.outbox);
        if around == Around::Own {
            session.undo_own().await?;
        }
    } else {
        if !begun {
            begin(session, request, plan, fields.as_deref(), typmods)?;
        }
        session.client.outbox.extend_from_slice(&held);
    }
    backend::put_ready(&mut session.client.outbox, session.server.status);
    Ok(())
}

/// What precedes the first row.
fn begin(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    rewritten: Option<&[Field]>,
    typmods: bool,
) -> Result<(), Stop> {
    let rewritten = rewritten.ok_or(Reason::new(Cause::GivesNoRows))?;
    if !same_columns(&plan.fields, rewritten, typmods) {
        return Err(Reason::new(Cause::DescribesOtherwise).into());
    }
    let out = &mut session.client.outbox;
    put_start(out, request, &plan.fields, rewritten.iter().map(|f| f.format));
    Ok(())
}

/// Appends BindComplete and RowDescription as the client's protocol wants them: home's
/// description of the original, in the formats that the rows have.
pub(crate) fn put_start(
    out: &mut BytesMut,
    request: &Request,
    original: &[Field],
    formats: impl Iterator<Item = i16>,
) {
    let described = match &request.batch {
        None => true,
        Some(batch) => {
            frontend::message(out, b'2', |_| {});
            batch.describe
        }
    };
    if described {
        let fields: Vec<Field> =
            original.iter().zip(formats).map(|(o, format)| Field { format, ..o.clone() }).collect();
        backend::put_row_description(out, &fields);
    }
}
