//! The engine's plan of a statement: asked of home and of the sources once, and kept
//! with the statement's plan.

use super::constants;
use super::factored;
use super::fetch;
use super::keyed::{self, Keyed};
use super::merged;
use super::{CachedPlan, beside};
use crate::session::Session;
use crate::session::home::{self, Around};
use crate::session::query::Request;
use crate::session::state::answers_for;
use crate::session::stop::Stop;
use crate::strategy::home_join::Bound;
use pgspan_engine::{ColumnType, Program};
use pgspan_pool::{ServerConnection, ServerError};
use pgspan_sql::analyze::{Analysis, Kind};
use pgspan_sql::ask;
use pgspan_sql::cause::Cause;
use pgspan_sql::engine::block;
use pgspan_sql::engine::correlated::{self, Correlated, Scope};
use pgspan_sql::engine::operators::Tree;
use pgspan_sql::engine::shape;
use pgspan_sql::engine::split::{CARRIER, Finish as Does, Split, split};
use pgspan_sql::engine::tree;
use pgspan_sql::fragment::is_same_in_binary;
use pgspan_sql::rewrite;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::{ErrorFields, Field};
use pgspan_wire::frontend;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

/// So many times the rows of a LIMIT the engine would join in vain: PostgreSQL, which stops
/// after them, is asked instead.
const STOPS_EARLY: f64 = 10.0;

/// How the engine runs a statement.
pub(crate) struct EnginePlan {
    pub tree: Tree,
    pub program: Program,
    /// The statement that home finishes with, and its parameters' types.
    pub finish: String,
    pub finish_types: Vec<u32>,
    /// Type OIDs of each fragment's columns.
    pub types: Vec<Vec<u32>>,
    /// Rows that each database expects of its fragment.
    pub rows: Vec<f64>,
    /// Home's answer to [`ask::engine_state`].
    pub state: bytes::Bytes,
    /// It holds values that home gave for subqueries: it is good for one run.
    pub once: bool,
    /// Some of these are subqueries over foreign tables: it only runs once they have.
    pub two_stages: bool,
    /// What restricts each fragment.
    pub keyed: Vec<Option<Keyed>>,
    /// Sources are asked for less than home join would ask them for.
    pub reduced: bool,
    /// There were more keys than expected: fragments are read whole.
    pub keys_off: AtomicBool,
}

impl EnginePlan {
    /// A statement over the rows that were gathered.
    pub fn bound<'a>(&self, sql: &'a str, values: Vec<bytes::Bytes>) -> Bound<'a> {
        Bound {
            sql,
            kept: None,
            types: self.finish_types.clone(),
            values: values.into_iter().map(|v| (v, 1)).collect(),
            typmods: false,
            for_values: false,
        }
    }
}

/// What is known of whether the engine can run a statement.
pub(crate) type EngineState = std::sync::Mutex<Option<Result<Arc<EnginePlan>, Reason>>>;

/// The engine's plan, made at first use.
///
/// # Errors
/// Why the engine cannot run it; remembered with the plan.
pub(crate) async fn engine_plan(
    session: &mut Session,
    request: &Request,
    around: Around,
    plan: &CachedPlan,
) -> Result<Arc<EnginePlan>, Stop> {
    if around != Around::Own {
        return Err(Reason::new(Cause::EngineInBlock).into());
    }
    let known = plan.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // What one run has learned saves the next one the attempts that failed.
    let two_stages = matches!(&known, Some(Ok(known)) if known.two_stages);
    match known {
        Some(Ok(known)) if !known.once => {
            // What home's planner concluded from indexes and the like must still hold.
            let server = &mut session.server;
            home::run_once(server, &ask::engine_state(&ask::table_names(&plan.analysis)));
            frontend::sync(&mut server.outbox);
            let got = home::answers(server, &mut session.client.outbox).await?;
            if got.value(0, 0) == Some(&known.state) {
                return Ok(known);
            }
        }
        Some(Err(reason)) => return Err(reason.into()),
        _ => {}
    }
    let made = make(session, request, plan, two_stages).await;
    let keep = match &made {
        Ok(made) => Some(Ok(made.clone())),
        Err(Stop::GiveUp(reason)) => Some(Err(reason.clone())),
        Err(_) => None,
    };
    *plan.engine.lock().unwrap_or_else(PoisonError::into_inner) = keep;
    made
}

async fn make(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    two_stages: bool,
) -> Result<Arc<EnginePlan>, Stop> {
    let analysis = &plan.analysis;
    if plan.any_values {
        return Err(Reason::new(Cause::TablesSmall).into());
    }
    if matches!(analysis.kind, Kind::CopyOut) {
        return Err(Reason::new(Cause::Copy).into());
    }
    let names = names_of(&plan.fields);
    let state = check_home(session, plan).await?;
    let carrier = rewrite::fresh(&request.text, CARRIER);
    let mut statement = Statement::new(&request.text, analysis, false, &carrier)?;
    let (text, constants) = constants::over_home(session, plan, &statement).await?;
    let reread;
    if constants {
        reread = analyzed(session, &text)?;
        statement = Statement::new(&text, &reread, true, &carrier)?;
    }
    let mut first = Reason::new(Cause::StandsByItself);
    if !two_stages {
        match attempts(session, request, plan, &statement, &names, &state).await {
            Err(Stop::GiveUp(reason)) => first = reason,
            other => return other.map(Arc::new),
        }
    }
    let explained = matches!(&analysis.kind, Kind::Explain(options) if !options.analyze);
    if explained && constants::waits_for_some(session, &statement) {
        // Nothing is run for an EXPLAIN alone.
        return Err(Reason::about(Cause::RunsFirst, first.to_string()).into());
    }
    let second = constants::over_foreign(session, request, plan, &statement, &state).await?;
    let Some((text, analysis)) = second else { return Err(first.into()) };
    let statement = Statement::new(&text, &analysis, true, &carrier)?;
    let made = attempts(session, request, plan, &statement, &names, &state).await;
    match made {
        Ok(made) => Ok(Arc::new(EnginePlan { two_stages: true, ..made })),
        Err(Stop::GiveUp(reason)) => {
            tracing::debug!(%reason, "no core with constants");
            Err(first.into())
        }
        Err(other) => Err(other),
    }
}

/// A plan for a statement: of one core, or of blocks.
pub(super) async fn attempts(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    statement: &Statement<'_>,
    names: &[String],
    state: &bytes::Bytes,
) -> Result<EnginePlan, Stop> {
    // From PostgreSQL 18 on the plan of an INTERSECT or EXCEPT decides the type modifiers that
    // the portal is described with.
    let modified = plan.fields.iter().any(|f| MODIFIED.contains(&f.type_oid));
    if modified && plan.facts.home.version >= 180_000 && shape::intersects(&statement.select) {
        return Err(Reason::new(Cause::ModifiersInSetOperation).into());
    }
    let joined = decorrelated(session, request, statement).await?;
    let rewritten;
    let statement = match &joined {
        Some((text, analysis)) => {
            rewritten = Statement::new(text, analysis, statement.once, statement.carrier)?;
            &rewritten
        }
        None => statement,
    };
    let state = || (state.clone(), statement.once);
    let first = match whole_core(session, request, plan, statement, names, statement.carrier).await
    {
        Ok(core) => {
            let expected = core.rows;
            let made =
                assemble(session, plan, vec![core], Finish::Last(statement.carrier), state())
                    .await?;
            let few = shape::stops_after(&statement.select);
            let expected = expected.min(made.program.rows());
            let many = |few: u64| expected >= few as f64 * STOPS_EARLY;
            if few.is_some_and(many) && plan.session.preference != ask::Preference::Engine {
                return Err(Reason::new(Cause::LimitStops).into());
            }
            return Ok(made);
        }
        Err(Stop::GiveUp(reason)) => reason,
        Err(other) => return Err(other),
    };
    let catalog = session.database.catalog();
    let long = statement.text.len();
    let arms = beside(long, || block::arms(statement.text, statement.tree(), &catalog));
    if let Some(arms) = arms {
        match by_blocks(session, request, plan, statement, names, (state().0, arms)).await {
            Err(Stop::GiveUp(reason)) => tracing::debug!(%reason, "no arms"),
            other => return other,
        }
    }
    let found = beside(long, || block::find(statement.text, statement.tree(), &catalog));
    let blocks = (state().0, found);
    match by_blocks(session, request, plan, statement, names, blocks).await {
        Err(Stop::GiveUp(reason)) => {
            tracing::debug!(%reason, "no blocks");
            Err(first.into())
        }
        other => other,
    }
}

/// A statement's core: with its folds, or, where that cannot be, without.
async fn whole_core(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    statement: &Statement<'_>,
    names: &[String],
    carrier: &str,
) -> Result<Core, Stop> {
    let first = match make_core(session, request, plan, statement, names, true, carrier).await {
        Err(Stop::GiveUp(reason)) => reason,
        other => return other,
    };
    tracing::debug!(reason = %first, "no core with folds");
    match make_core(session, request, plan, statement, names, false, carrier).await {
        Err(Stop::GiveUp(reason)) => {
            tracing::debug!(%reason, "no core");
            Err(first.into())
        }
        other => other,
    }
}

/// One core with its operators.
struct Core {
    split: Split,
    tree: Tree,
    /// Rows that home expects of it.
    rows: f64,
}

/// The statement's blocks each as a core of its own. What is left is finished at home; or,
/// where it still reads foreign tables, is one core more.
async fn by_blocks(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    statement: &Statement<'_>,
    names: &[String],
    (state, spans): (bytes::Bytes, Vec<block::Span>),
) -> Result<EnginePlan, Stop> {
    let odd = || Reason::new(Cause::NotRewritten);
    if spans.is_empty() {
        return Err(Reason::new(Cause::NoBlock).into());
    }
    let mut cores = Vec::new();
    let mut text = String::new();
    let mut at = 0;
    let mut first = plan.plan.first_parameter;
    for (n, (start, end)) in spans.iter().enumerate() {
        let own = statement.text.get(*start..*end).ok_or_else(odd)?;
        // What speaks of the query around it is not known to home alone.
        let own_names = describe_block(session, request, own).await?;
        let analysis = analyzed(session, own)?;
        let block = Statement::new(own, &analysis, false, statement.carrier)?;
        let name = format!("{}{}", statement.carrier, n + 1);
        let core = whole_core(session, request, plan, &block, &own_names, &name).await;
        let core = core.map_err(|stop| match stop {
            Stop::GiveUp(_) => Reason::new(Cause::BlockNotRun).into(),
            other => other,
        })?;
        let (types, rows) = describe(session, plan, &core.tree).await?;
        let alone =
            Program::new(&core.tree, &[None], &types, &rows, Does::Whole).map_err(Reason::from)?;
        text.push_str(statement.text.get(at..*start).ok_or_else(odd)?);
        text.push_str(&core.split.finish(&alone.carrier(0, &name, first)));
        at = *end;
        first += u32::try_from(core.split.columns).map_err(|_| odd())?;
        cores.push(core);
    }
    text.push_str(statement.text.get(at..).ok_or_else(odd)?);
    match analyzed(session, &text) {
        Err(reason) if reason.cause == Cause::NoForeignTable => {
            let finish = text.get(statement.analysis.query_start..).ok_or_else(odd)?;
            let finish = finish.trim_end().trim_end_matches(';').to_owned();
            assemble(session, plan, cores, Finish::Text(finish), (state, statement.once)).await
        }
        Err(reason) => Err(reason.into()),
        Ok(analysis) => {
            let carrier = statement.carrier;
            let outer = Statement::new(&text, &analysis, statement.once, carrier)?;
            cores.push(make_core(session, request, plan, &outer, names, true, carrier).await?);
            assemble(session, plan, cores, Finish::Last(carrier), (state, statement.once)).await
        }
    }
}

/// What home answers to what is sent behind a savepoint, or its error, which is undone.
pub(super) async fn asked(
    session: &mut Session,
    send: impl FnOnce(&mut ServerConnection),
) -> Result<Result<home::Answers, ErrorFields>, Stop> {
    let server = &mut session.server;
    home::savepoint(server);
    send(server);
    home::back_to_savepoint(server);
    frontend::sync(&mut server.outbox);
    match home::answers(server, &mut session.client.outbox).await {
        Ok(got) => Ok(Ok(got)),
        Err(ServerError::Sql(e)) => {
            session.leave_savepoint().await?;
            Ok(Err(e))
        }
        Err(lost) => Err(lost.into()),
    }
}

/// The columns that a query gives, if home knows it by itself.
pub(super) async fn described(
    session: &mut Session,
    request: &Request,
    sql: &str,
) -> Result<Result<Vec<Field>, ErrorFields>, Stop> {
    let got = asked(session, |server| {
        let name = "pgspan:block";
        frontend::close_statement(&mut server.outbox, name);
        frontend::parse(&mut server.outbox, name, sql, &request.param_oids);
        frontend::describe_statement(&mut server.outbox, name);
    });
    Ok(match got.await? {
        Ok(got) => {
            let fields = got.fields.into_iter().next().flatten();
            Ok(fields.ok_or(Reason::new(Cause::BlockWithoutRows))?)
        }
        Err(e) => Err(e),
    })
}

/// The names of columns.
pub(super) fn names_of(fields: &[Field]) -> Vec<String> {
    fields.iter().map(|f| String::from_utf8_lossy(&f.name).into_owned()).collect()
}

/// The names of a block's columns.
async fn describe_block(
    session: &mut Session,
    request: &Request,
    block: &str,
) -> Result<Vec<String>, Stop> {
    match described(session, request, block).await? {
        Ok(fields) => Ok(names_of(&fields)),
        Err(e) => Err(Reason::about(Cause::BlockSpeaksOfOuter, e.to_string()).into()),
    }
}

/// A statement whose correlated subqueries have become joins; `None` when there is none.
async fn decorrelated(
    session: &mut Session,
    request: &Request,
    statement: &Statement<'_>,
) -> Result<Option<(String, Analysis)>, Stop> {
    /// Rounds: subqueries in subqueries are found once those around them are joined.
    const ROUNDS_MAX: usize = 8;
    let mut now: Option<(String, Analysis)> = None;
    for n in 1..=ROUNDS_MAX {
        let Statement { once, carrier, .. } = *statement;
        let rewritten;
        let own = match &now {
            Some((text, analysis)) => {
                rewritten = Statement::new(text, analysis, once, carrier)?;
                &rewritten
            }
            None => statement,
        };
        let mut next = None;
        let found = beside(own.text.len(), || correlated::find(own.text, own.tree()));
        for found in found {
            if let Some(scopes) = scopes(session, request, &found).await? {
                next = found.rewritten(own.text, &scopes, &format!("{carrier}_d{n}"));
                break;
            }
        }
        let Some(next) = next else { break };
        let analysis = analyzed(session, &next)?;
        now = Some((next, analysis));
    }
    Ok(now)
}

/// A text of the gateway's own, analyzed.
pub(super) fn analyzed(session: &Session, text: &str) -> Result<Analysis, Reason> {
    let odd = || Reason::new(Cause::NotRewritten);
    let catalog = session.database.catalog();
    match beside(text.len(), || pgspan_sql::analyze::analyze(text, &catalog)) {
        Err(reason) if reason.cause == Cause::NotParsed => Err(odd()),
        analyzed => analyzed,
    }
}

/// Which side of each equality is the subquery's own, if it may be joined.
async fn scopes(
    session: &mut Session,
    request: &Request,
    found: &Correlated,
) -> Result<Option<Vec<(Scope, Scope)>>, Stop> {
    let mut scopes = Vec::new();
    for (a, b) in &found.pairs {
        let mut both = [Scope::Inner; 2];
        for (scope, column) in both.iter_mut().zip([a, b]) {
            match described(session, request, &found.scope_question(column)).await? {
                Ok(_) => {}
                // undefined_column; undefined_table: "missing FROM-clause entry"
                Err(e) if matches!(e.sqlstate(), "42703" | "42P01") => *scope = Scope::Outer,
                Err(_) => return Ok(None),
            }
        }
        let [a, b] = both;
        scopes.push((a, b));
    }
    let Some(alone) = found.alone(&scopes) else { return Ok(None) };
    Ok(match described(session, request, &alone).await? {
        Ok(fields) => {
            let types: Vec<u32> = fields.iter().map(|f| f.type_oid).collect();
            found.admits(&types).then_some(scopes)
        }
        Err(_) => None,
    })
}

/// What home does over the cores' rows.
enum Finish<'a> {
    /// What the last core leaves to it, over a carrier of this name.
    Last(&'a str),
    /// This statement.
    Text(String),
}

/// Puts cores together.
async fn assemble(
    session: &mut Session,
    plan: &CachedPlan,
    cores: Vec<Core>,
    finish: Finish<'_>,
    (state, once): (bytes::Bytes, bool),
) -> Result<EnginePlan, Stop> {
    let mut tree = Tree::default();
    let mut tops = Vec::new();
    let mut last = None;
    let mut before = 0;
    let count = cores.len();
    for (i, core) in cores.into_iter().enumerate() {
        if i + 1 < count {
            before += core.split.columns;
        }
        tops.push(core.split.top.clone());
        tree.append(core.tree);
        last = Some(core.split);
    }
    let (mut types, mut rows) = describe(session, plan, &tree).await?;
    merged::choose(session, plan, &mut tree, &mut types, &mut rows).await?;
    let factored = factored::choose(session, plan, &mut tree, &types, &rows).await?;
    if factored {
        (types, rows) = describe(session, plan, &tree).await?;
    }
    let keyed = keyed::choose(session, plan, &tree, &types, &mut rows).await?;
    let reduced = factored || keyed.iter().any(Option::is_some);
    let does = match (&finish, &last) {
        (Finish::Last(_), Some(last)) => last.does,
        _ => Does::Whole,
    };
    let program = Program::new(&tree, &tops, &types, &rows, does).map_err(Reason::from)?;
    let odd = || Reason::new(Cause::NoCore);
    let finish = match finish {
        Finish::Text(finish) => finish,
        Finish::Last(carrier) => {
            let first = plan.plan.first_parameter + u32::try_from(before).map_err(|_| odd())?;
            last.ok_or_else(odd)?.finish(&program.carrier(count - 1, carrier, first))
        }
    };
    let mut finish_types = plan.parameters.clone();
    finish_types.extend(program.array_types());
    let oids = |t: &Vec<ColumnType>| t.iter().map(|t| t.oid).collect();
    let types = types.iter().map(oids).collect();
    let keys_off = AtomicBool::new(false);
    Ok(EnginePlan {
        tree,
        program,
        finish,
        finish_types,
        types,
        rows,
        state,
        once,
        keyed,
        reduced,
        keys_off,
        two_stages: false,
    })
}

/// A text as it is to be run, which may hold the values of constant subqueries.
pub(super) struct Statement<'a> {
    pub text: &'a str,
    pub analysis: &'a Analysis,
    /// The SELECT's tree.
    select: serde_json::Value,
    pub once: bool,
    /// A name that the client's text does not contain.
    pub carrier: &'a str,
}

impl<'a> Statement<'a> {
    /// # Errors
    /// The text is no query, or its tree as JSON is not as home reads it.
    pub fn new(
        text: &'a str,
        analysis: &'a Analysis,
        once: bool,
        carrier: &'a str,
    ) -> Result<Statement<'a>, Reason> {
        if analysis.names_a_keyword() {
            return Err(Reason::new(Cause::KeywordColumn));
        }
        let select = beside(text.len(), || {
            let select =
                pgspan_sql::parse::select_value(text).ok_or(Reason::new(Cause::NotRewritten))?;
            if shape::collates(&select) {
                return Err(Reason::new(Cause::Collate));
            }
            if let Some(name) = shape::odd_cast(&select) {
                return Err(Reason::about(Cause::CastUnknown, name));
            }
            Ok(select)
        })?;
        Ok(Statement { text, analysis, select, once, carrier })
    }

    /// What its names mean, and its tree.
    pub fn tree(&self) -> (&Analysis, &serde_json::Value) {
        (self.analysis, &self.select)
    }
}

/// What rules the engine out whatever the core is.
async fn check_home(session: &mut Session, plan: &CachedPlan) -> Result<bytes::Bytes, Stop> {
    let analysis = &plan.analysis;
    let server = &mut session.server;
    let names = ask::table_names(analysis);
    home::run_once(server, &ask::engine_hazards(&names, &analysis.names));
    frontend::sync(&mut server.outbox);
    let got = home::answers(server, &mut session.client.outbox).await?;
    let odd = || Stop::GiveUp(Reason::new(Cause::CatalogAnswer));
    if got.value(0, 0).map(|v| &v[..]) != Some(b"f") {
        return Err(Reason::new(Cause::NotTheEngines).into());
    }
    // How EXPLAIN prints literals.
    if !plan.session.prints_portably {
        return Err(Reason::new(Cause::OutputSettings).into());
    }
    if analysis.tables.iter().any(|t| t.renames_columns) {
        return Err(Reason::new(Cause::RenamingAlias).into());
    }
    let collated: Vec<String> =
        serde_json::from_slice(got.value(0, 1).ok_or_else(odd)?).map_err(|_| odd())?;
    match collated.iter().find(|c| analysis.may_read(c)) {
        Some(c) => Err(Reason::about(Cause::OwnCollation, c).into()),
        None => got.value(0, 2).cloned().ok_or_else(odd),
    }
}

/// Home's plan of a core, under planner settings of the engine's.
async fn explain_core(
    session: &mut Session,
    request: &Request,
    core: &str,
) -> Result<bytes::Bytes, Stop> {
    let sql = format!("{}{core}", ask::ENGINE_EXPLAIN);
    let got = asked(session, |server| {
        home::run_once(server, ask::ENGINE_PLANNER);
        home::run_with_parameters(server, &sql, request);
    });
    match got.await? {
        Ok(got) => got.value(2, 0).cloned().ok_or(Stop::GiveUp(Reason::new(Cause::PlanNotRead))),
        Err(e) => Err(Reason::about(Cause::CoreNotPlanned, e.to_string()).into()),
    }
}

#[allow(clippy::too_many_arguments)]
async fn make_core(
    session: &mut Session,
    request: &Request,
    plan: &CachedPlan,
    statement: &Statement<'_>,
    names: &[String],
    fold: bool,
    carrier: &str,
) -> Result<Core, Stop> {
    let split = beside(statement.text.len(), || {
        split(statement.text, statement.tree(), names, fold, carrier)
    })?;
    if !fold && split.grouped {
        return Err(Reason::new(Cause::Distinct).into());
    }
    let facts = &plan.facts;
    if !facts.home.is_printed_whole() {
        return Err(Reason::new(Cause::ViewOrVirtual).into());
    }
    let odd = || Stop::GiveUp(Reason::new(Cause::CatalogAnswer));
    let relations: Vec<_> = facts
        .needs
        .tables
        .iter()
        .map(|n| facts.home.relation(&n.written))
        .collect::<Option<_>>()
        .ok_or_else(odd)?;
    let subqueries = beside(statement.text.len(), || shape::subquery_columns(&statement.select));
    let known = tree::Known {
        needs: &facts.needs,
        relations: &relations,
        sources: &facts.sources,
        subqueries: &subqueries,
        distinct_rows: !shape::distinct_on(&statement.select),
    };
    let explained = explain_core(session, request, &split.core).await?;
    let rows = planned_rows(&explained).ok_or_else(odd)?;
    let read =
        |explained: &[u8]| beside(explained.len(), || tree::read(explained, split.columns, &known));
    let mut tree = read(&explained)?;
    if split.grouped && tree.folds_much(session.shared.config.limits.engine_pages_min.into()) {
        let core = split.core_with(ask::ENGINE_FOLDS);
        let explained = explain_core(session, request, &core).await?;
        if let Ok(better) = read(&explained) {
            tree = better;
        }
    }
    Ok(Core { split, tree, rows })
}

/// What the databases say of their fragments: column types, and rows they expect.
async fn describe(
    session: &mut Session,
    plan: &CachedPlan,
    tree: &Tree,
) -> Result<(Vec<Vec<ColumnType>>, Vec<f64>), Stop> {
    let mut types = vec![Vec::new(); tree.fragments.len()];
    let mut rows = vec![0.0; tree.fragments.len()];
    let mut servers: Vec<Option<usize>> = tree.fragments.iter().map(|f| f.server).collect();
    servers.sort_unstable();
    servers.dedup();
    for place in servers {
        let own: Vec<usize> =
            (0..tree.fragments.len()).filter(|i| tree.fragments[*i].server == place).collect();
        let answers = ask_place(session, plan, place, |server| {
            ask_about(server, tree, &own);
        });
        let answers = answers.await?;
        let odd = || Stop::GiveUp(Reason::new(Cause::FragmentNotDescribed));
        for (n, i) in own.iter().enumerate() {
            let fields = answers.fields.get(n).and_then(Option::as_ref).ok_or_else(odd)?;
            let wanted = tree.fragments[*i].select.len();
            types[*i] = fields
                .iter()
                .take(wanted)
                .map(|f| ColumnType { oid: f.type_oid, typmod: f.typmod })
                .collect();
            if types[*i].iter().any(|t| t.oid == NAME_TYPE) {
                return Err(Reason::about(Cause::ColumnOfType, "name").into());
            }
            if let Some(odd) = types[*i].iter().find(|t| !travels(plan, place, t.oid)) {
                return Err(Reason::about(Cause::TypeByVersion, odd.oid.to_string()).into());
            }
            let json = answers.value(n, 0).ok_or_else(odd)?;
            rows[*i] = planned_rows(json).ok_or_else(odd)?;
        }
    }
    Ok((types, rows))
}

/// Types with modifiers: `bpchar`, `varchar`, `time`, `timestamp`, `timestamptz`, `interval`,
/// `timetz`, `bit`, `varbit`, `numeric`.
const MODIFIED: [u32; 10] = [1042, 1043, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700];

/// OID of `name`, whose collation is "C".
const NAME_TYPE: u32 = 19;

/// Whether values of a type mean the same in binary at home as where they come from.
fn travels(plan: &CachedPlan, place: Option<usize>, type_oid: u32) -> bool {
    let of_place = plan.facts.needs.tables.iter().zip(&plan.facts.sources);
    let mut sources = of_place.filter(|(need, _)| Some(need.server) == place).map(|(_, s)| s);
    sources.all(|s| is_same_in_binary(type_oid, plan.facts.home.version, s.version))
}

/// The rows that an EXPLAIN expects.
fn planned_rows(json: &[u8]) -> Option<f64> {
    beside(json.len(), || {
        let value: serde_json::Value = serde_json::from_slice(json).ok()?;
        value.pointer("/0/Plan/Plan Rows")?.as_f64()
    })
}

/// Asks home (`None`) or a source.
pub(super) async fn ask_place(
    session: &mut Session,
    plan: &CachedPlan,
    place: Option<usize>,
    send: impl FnOnce(&mut ServerConnection),
) -> Result<home::Answers, Stop> {
    let Some(server) = place else {
        send(&mut session.server);
        return Ok(home::answers(&mut session.server, &mut session.client.outbox).await?);
    };
    let caller = session.caller(&plan.session);
    let spec = plan.plan.servers.get(server).ok_or(Reason::new(Cause::NoServer))?;
    let mut lease = fetch::lease(&caller, spec).await?;
    let _at_work = session.cancel.at_work(lease.cancel_key.clone());
    send(&mut lease);
    answers_for(session, plan, &mut lease).await
}

fn ask_about(server: &mut ServerConnection, tree: &Tree, own: &[usize]) {
    for i in own {
        let sql = tree.fragments[*i].sql_unguarded();
        let once = "pgspan:once";
        frontend::close_statement(&mut server.outbox, once);
        frontend::parse(&mut server.outbox, once, &sql, &[]);
        frontend::describe_statement(&mut server.outbox, once);
        home::run_once(server, &format!("EXPLAIN (FORMAT JSON) {sql}"));
    }
    frontend::sync(&mut server.outbox);
}
