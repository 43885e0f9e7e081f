//! `COPY (SELECT …) TO STDOUT`: COPY takes no parameters, so the carriers stand in the
//! statement as literals of the foreign table's row type.

use super::HELD_BYTES;
use crate::session::Session;
use crate::session::home::Around;
use crate::session::query::{Request, Stop, route};
use crate::session::state::receive_for;
use crate::sources::CachedPlan;
use crate::sources::fetch::Fetched;
use bytes::BytesMut;
use pgspan_pool::ServerError;
use pgspan_sql::plan::qualified_home;
use pgspan_sql::quote::literal;
use pgspan_sql::rewrite::splice;
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_wire::backend::{self, ErrorFields};
use pgspan_wire::frame::Frame;
use pgspan_wire::frontend;

/// Runs it.
pub(crate) async fn run(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
    fetched: &[Fetched],
) -> Result<Route, Stop> {
    let text = splice(&request.text, &plan.analysis, |t| {
        let place = plan.plan.carried_by.get(t).copied().flatten()?;
        let fetch = plan.plan.fetches.get(place)?;
        let value = std::str::from_utf8(&fetched.get(place)?.value).ok()?;
        Some(format!("pg_catalog.unnest({}::{}[])", literal(value), qualified_home(fetch)))
    })?;
    frontend::query(&mut session.server.outbox, &text);
    session.server.send().await.map_err(|e| Stop::from(ServerError::from(e)))?;
    let mut held = BytesMut::new();
    let mut begun = false;
    let mut error: Option<Frame> = None;
    loop {
        let frame = receive_for(&mut session.server, &mut session.client).await?;
        match frame.tag {
            b'H' | b'd' | b'c' | b'C' | b'N' | b'S' | b'A' => held.extend_from_slice(&frame.raw),
            b'E' => error = Some(frame.clone()),
            b'Z' => break,
            _ => {}
        }
        if error.is_none() && held.len() > HELD_BYTES {
            begun = true;
            session.client.outbox.extend_from_slice(&held);
            held.clear();
            session.client.send().await.map_err(|_| Stop::End(crate::session::End::Client))?;
        }
    }
    match error {
        Some(frame) if !begun => {
            let text = ErrorFields::decode(frame.body()).map(|e| e.to_string()).unwrap_or_default();
            return Err(Reason::about("home reported an error", text).into());
        }
        Some(frame) => {
            session.client.outbox.extend_from_slice(&held);
            session.client.outbox.extend_from_slice(&frame.raw);
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
    Ok(route(Strategy::HomeJoin, plan.plan.route.reason.what))
}
