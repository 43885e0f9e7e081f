//! `COPY (SELECT …) TO STDOUT`: COPY takes no parameters, so the carriers stand in the
//! statement as literals of the foreign table's row type.

use super::HELD_BYTES;
use crate::session::Session;
use crate::session::home::Around;
use crate::session::query::{Request, route};
use crate::session::state::{pass_on, receive_for, too_long};
use crate::session::stop::{Stop, hung_up, unsent};
use crate::sources::CachedPlan;
use crate::sources::fetch::Fetched;
use bytes::BytesMut;
use pgspan_sql::cause::Cause;
use pgspan_sql::plan::qualified_home;
use pgspan_sql::quote::literal;
use pgspan_sql::rewrite::splice;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frontend;

/// Runs it.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    fetched: &[Fetched],
) -> Result<Route, Stop> {
    let schema = |t: usize| plan.schema_of(t);
    let text = splice(&request.text, &plan.analysis, schema, |t| {
        let place = plan.plan.carried_by.get(t).copied().flatten()?;
        let fetch = plan.plan.fetches.get(place)?;
        let value = std::str::from_utf8(&fetched.get(place)?.value).ok()?;
        Some(format!("pg_catalog.unnest({}::{}[])", literal(value), qualified_home(fetch)))
    })?;
    frontend::query(&mut session.server.outbox, &text);
    session.server.send().await?;
    let mut held = BytesMut::new();
    let mut begun = false;
    let mut noticed = false;
    let mut error: Option<ErrorFields> = None;
    loop {
        if !noticed
            && error.is_none()
            && let Some(size) = session.server.long(b'd', HELD_BYTES)
        {
            begun = true;
            session.client.outbox.extend_from_slice(&held);
            held.clear();
            pass_on(&mut session.server, &mut session.client, size).await?;
            continue;
        }
        let frame = receive_for(&mut session.server, &mut session.client)
            .await
            .map_err(|stop| hung_up(stop, error.as_ref()))?;
        match frame.tag {
            tag if frame.is_cut() && !noticed && tag != b'E' => {
                return Err(Stop::End(too_long(tag)));
            }
            b'N' if !begun => noticed = true,
            b'S' | b'A' if !begun => session.client.outbox.extend_from_slice(&frame.raw),
            b'H' | b'd' | b'c' | b'C' | b'N' | b'S' | b'A' => held.extend_from_slice(&frame.raw),
            b'E' => {
                error = Some(ErrorFields::read(&frame));
            }
            b'Z' => break,
            _ => {}
        }
        if noticed {
            // Everything that is still on its way is read before giving up.
            held.clear();
            continue;
        }
        if error.is_none() && held.len() > HELD_BYTES {
            begun = true;
            session.client.outbox.extend_from_slice(&held);
            held.clear();
            session.client.send().await.map_err(|_| Stop::End(crate::session::End::Client))?;
        }
    }
    let refused = noticed.then(|| Reason::new(Cause::HomeNotice).into());
    if let Some(stop) = unsent(refused, error.clone().filter(|_| !begun)) {
        return Err(stop);
    }
    match error {
        Some(error) => {
            session.client.outbox.extend_from_slice(&held);
            error.put(&mut session.client.outbox);
            if around == Around::Own {
                session.undo_own().await?;
            }
        }
        None => {
            session.client.outbox.extend_from_slice(&held);
            around.close(&mut session.server);
            frontend::sync(&mut session.server.outbox);
            crate::session::home::answers(&mut session.server, &mut session.client.outbox).await?;
        }
    }
    backend::put_ready(&mut session.client.outbox, session.server.status);
    Ok(route(Strategy::HomeJoin, plan.plan.route.reason.cause))
}
