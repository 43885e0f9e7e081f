//! Values of subqueries that stand by themselves, put into the statement as literals: of
//! those over home, which home gives, and of those over foreign tables, which the engine
//! computes under the snapshots that the statement then keeps.

use super::CachedPlan;
use super::engine::{Statement, analyzed, asked, attempts, described, names_of};
use crate::session::Session;
use crate::session::home::{self, Answers};
use crate::session::query::Request;
use crate::session::stop::Stop;
use crate::strategy::engine::{To, gather};
use crate::strategy::home_join::ask;
use crate::strategy::snapshot::hold;
use pgspan_sql::analyze::Analysis;
use pgspan_sql::engine::constant::{self, Constant};
use pgspan_wire::frontend;

/// The statement with the values of its subqueries over home, and whether there were any.
pub(super) async fn over_home(
    session: &mut Session,
    plan: &CachedPlan,
    statement: &Statement<'_>,
) -> Result<(String, bool), Stop> {
    let mut edits = Vec::new();
    for constant in constant::find(statement.text, statement.tree(), &plan.facts.home) {
        let question = constant.question(&constant.query);
        // An error: it speaks of the query around it, or fails; both are home's to say, and
        // so are notices.
        match asked(session, |s| home::run_once(s, &question)).await? {
            Ok(got) if !got.noticed => edits.extend(literal(&constant, &got, 1)),
            _ => {}
        }
    }
    let any = !edits.is_empty();
    Ok((edited(statement.text, edits), any))
}

/// Whether there are subqueries over foreign tables whose values might be known first.
pub(super) fn waits_for_some(session: &Session, statement: &Statement<'_>) -> bool {
    let catalog = session.database.catalog();
    !constant::find_foreign(statement.text, statement.tree(), &catalog).is_empty()
}

/// The same for subqueries over foreign tables; `None` when there are none.
pub(super) async fn over_foreign(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    statement: &Statement<'_>,
    state: &bytes::Bytes,
) -> Result<Option<(String, Analysis)>, Stop> {
    let catalog = session.database.catalog();
    let mut edits = Vec::new();
    for constant in constant::find_foreign(statement.text, statement.tree(), &catalog) {
        // It may speak of the query around it; or one that the engine cannot run.
        match evaluated(session, request, plan, (&constant, statement.carrier), state).await {
            Ok(edit) => edits.extend(edit),
            Err(Stop::GiveUp(reason)) => tracing::debug!(%reason, "no constant"),
            Err(other) => return Err(other),
        }
    }
    if edits.is_empty() {
        return Ok(None);
    }
    let text = edited(statement.text, edits);
    let analysis = analyzed(session, &text)?;
    Ok(Some((text, analysis)))
}

async fn evaluated(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    (constant, carrier): (&Constant, &str),
    state: &bytes::Bytes,
) -> Result<Option<Edit>, Stop> {
    let fields = match described(session, request, &constant.query).await? {
        Ok(fields) => fields,
        Err(_) => return Ok(None),
    };
    let names = names_of(&fields);
    let analysis = analyzed(session, &constant.query)?;
    let statement = Statement::new(&constant.query, &analysis, true, carrier)?;
    let engine = attempts(session, request, plan, &statement, &names, state).await?;
    hold(session, plan, &engine.tree).await?;
    let gathered = gather(session, plan, &engine, To::Finish { in_parts: false }).await?;
    let question = constant.question(&engine.finish);
    let bound = engine.bound(&question, gathered.answer.values);
    ask(session, request, plan, bound, "pgspan:")?;
    home::execute(&mut session.server);
    frontend::sync(&mut session.server.outbox);
    let got = home::answers(&mut session.server, &mut session.client.outbox).await?;
    Ok(if got.noticed { None } else { literal(constant, &got, 0) })
}

/// Bytes of the statement, and what takes their place.
type Edit = ((usize, usize), String);

fn literal(constant: &Constant, got: &Answers, result: usize) -> Option<Edit> {
    let text = |v: &bytes::Bytes| String::from_utf8_lossy(v).into_owned();
    let value = got.value(result, 0).map(text);
    let type_name = got.value(result, 1).map(text).unwrap_or_default();
    let new = constant.literal(value.as_deref(), &type_name)?;
    Some((constant.span, new))
}

fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(span, _)| span.0);
    let mut out = String::new();
    let mut at = 0;
    for ((start, end), new) in &edits {
        out.push_str(text.get(at..*start).unwrap_or(""));
        out.push_str(new);
        at = *end;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out
}
