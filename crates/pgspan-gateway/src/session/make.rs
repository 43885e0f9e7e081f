//! Making a plan: home is asked in one trip, each source that is not known in another.
//!
//! The plan is made before the transaction in which it is used. Each use asks home once
//! more for the fingerprint, which covers all that was asked here: what is the same before
//! and after the other questions was the same while they were answered.

use super::Session;
use super::home::{self, Around};
use super::query::{Request, keeps_plan};
use super::settle;
use super::state::copied_select;
use super::stop::{SYNTAX_ERROR, Stop, cancelled};
use crate::sources::block::{estimates_remotely, runs};
use crate::sources::fetch;
use crate::sources::{Analyzed, CachedPlan, Fingerprint, Fragment, PlanFacts, Sources, beside};
use pgspan_pool::ServerError;
use pgspan_sql::analyze::{Analysis, Kind};
use pgspan_sql::ask::{self, Preference};
use pgspan_sql::catalog::Piece;
use pgspan_sql::cause::Cause;
use pgspan_sql::facts::{HomeFacts, SourceFacts};
use pgspan_sql::fragment::Fetch;
use pgspan_sql::outside::Said;
use pgspan_sql::plan::{self, Limits, Needs};
use pgspan_sql::remote;
use pgspan_sql::route::Reason;
use pgspan_wire::frontend;
use std::sync::Arc;

impl Session {
    /// Asks home and sources for what a plan needs, and makes it.
    pub(super) async fn make_plan(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
    ) -> Result<Arc<CachedPlan>, Stop> {
        let analysis = analyzed.outcome.clone()?;
        let select = &request.text[analysis.query_start..];
        let select = match analysis.kind {
            Kind::CopyOut => copied_select(select)?,
            _ => select,
        };
        let names = ask::table_names(&analysis);
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        if around == Around::Savepoint {
            around.open(&mut self.server);
            self.opened = true;
        }
        let first = usize::from(around == Around::Savepoint);
        let server = &mut self.server;
        home::run_prepared(server, question.statement());
        home::run_facts(server, &names);
        // The original: its description, and what postgres_fdw would ship.
        let original = "pgspan:original";
        frontend::close_statement(&mut server.outbox, original);
        frontend::parse(&mut server.outbox, original, select, &request.param_oids);
        frontend::describe_statement(&mut server.outbox, original);
        let sql = format!("{}{select}", ask::EXPLAIN_PREFIX);
        home::run_with_parameters(server, &sql, request);
        if around == Around::Savepoint {
            home::back_to_savepoint(server);
        }
        frontend::sync(&mut server.outbox);
        let got = match home::answers(server, &mut self.client.outbox).await {
            Err(ServerError::Sql(error)) if error.sqlstate() == SYNTAX_ERROR => {
                let detail = error.to_string();
                return Err(Reason::about(Cause::NotHomesGrammar, detail).into());
            }
            got => got?,
        };
        self.opened = false;
        if got.noticed {
            return Err(Reason::new(Cause::HomeNotice).into());
        }
        self.stop_if_cancelled()?;
        let home = self.home_state(question, &got, first, around).await?;
        self.check_reading(&home, analyzed, around)?;
        if home.session.preference == Preference::Fallback {
            return Err(Reason::new(Cause::StrategyFallback).into());
        }
        let odd = || Stop::GiveUp(Reason::new(Cause::CatalogAnswer));
        let facts = HomeFacts::read(got.value(first + 1, 0).ok_or_else(odd)?)?;
        let plan_text = got.value(first + 2, 0).cloned().ok_or_else(odd)?;
        let mut scans = beside(plan_text.len(), || remote::foreign_scans(&plan_text))?;
        if !home.session.prints_portably
            && scans.iter().any(|scan| remote::selects_constants(&scan.remote_sql))
        {
            return Err(Reason::new(Cause::ConstantAtSource).into());
        }
        let fields = got.fields.into_iter().next().flatten().ok_or_else(odd)?;
        let parameters = got.parameters.into_iter().next().unwrap_or_default();
        let mut needs = plan::needs(&analysis, &facts)?;
        if around == Around::Savepoint && estimates_remotely(&facts) {
            // Home's postgres_fdw has taken its snapshot for that.
            return Err(Reason::about(Cause::ServerOption, "use_remote_estimate").into());
        }
        let views = || facts.relations.iter().filter_map(|r| r.view.as_ref());
        let folds = views().next().is_some() && analysis.folds.over_views;
        if keeps_plan(request, &analysis) && (folds || views().any(|view| view.folds)) {
            return Err(Reason::new(Cause::ConstantBySettings).into());
        }
        needs.repeatable &= !analyzed.catalog.restricts_operators()
            && is_kept(&home.fingerprint, names.len())
            && !parameters.iter().any(|p| pgspan_sql::fragment::is_naming(*p));
        let covered = is_covered(&facts, analyzed);
        if !covered {
            // What is known of them holds for this run.
            self.database.disturb(&[Piece::ForeignNames, Piece::Parents]);
            needs.repeatable = false;
        }
        let sources = self.source_facts(&home.session, &needs).await?;
        let limits = &self.shared.config.limits;
        let types: Vec<u32> = fields.iter().map(|f| f.type_oid).collect();
        let declared = u32::try_from(parameters.len()).unwrap_or(u32::MAX);
        let limits = Limits {
            rows_max: limits.home_join_rows_max,
            keys_max: limits.keys_max,
            pages_min: limits.engine_pages_min.into(),
        };
        // Of small tables all rows are fetched, whatever is bound: home evaluates every
        // condition anyway, and one plan serves all values, unless planning for them may fail.
        let small = sources.iter().all(|s| plan::estimated_rows(s) < plan::SMALL_ROWS);
        let values = request.batch.as_ref().is_some_and(|b| !b.bind.params.is_empty());
        let any_values = small
            && values
            && analysis.tables.len() > needs.tables.len()
            && !may_fail_to_plan(request, &analysis);
        if any_values {
            scans.iter_mut().for_each(|s| s.conditional = false);
        }
        let made = beside(request.text.len(), || {
            plan::plan(
                &request.text,
                &analysis,
                declared,
                &facts,
                &needs,
                &scans,
                &sources,
                &types,
                limits,
            )
        })?;
        let may_fail =
            |scan: &remote::ForeignScan| remote::sorts_by_what_may_fail(&scan.remote_sql);
        if made.direct.is_none() && scans.iter().any(may_fail) {
            return Err(Reason::new(Cause::SourceSorts).into());
        }
        let runs = runs(&plan_text, &scans, &made.fetches, made.servers.len(), any_values);
        let mut home_types = parameters.clone();
        home_types.extend(made.fetches.iter().map(|f| f.array_type));
        let sources_known = &self.shared.sources;
        Ok(Arc::new(CachedPlan {
            home: sources_known.typed_statement(
                made.home_sql.clone(),
                &home_types,
                &home.fingerprint,
            ),
            home_types,
            settles: settle::settles(&analysis.kind, &facts, &made.fetches),
            lock: lockable(&facts)?.map(|sql| sources_known.statement(sql)),
            asks_again: !covered || facts.relations.iter().any(|r| r.view.is_some()),
            calls_users: calls_users(&home.fingerprint, names.len()),
            fingerprint: home.fingerprint,
            session: home.session,
            analysis,
            fields,
            parameters,
            any_values,
            together: crate::sources::together::Together::default(),
            engine: std::sync::Mutex::new(None),
            prefers_engine: std::sync::atomic::AtomicBool::new(false),
            facts: Arc::new(PlanFacts { home: facts, needs, sources }),
            fragments: made.fetches.iter().map(|f| fragment(sources_known, f)).collect(),
            direct: made.direct.as_ref().map(|d| sources_known.statement(d.sql.clone())),
            rests_until: std::sync::Mutex::new(None),
            runs,
            plan: made,
        }))
    }

    /// What is known of the tables that a plan needs; who is not known is asked.
    pub(super) async fn source_facts(
        &self,
        session: &ask::Session,
        needs: &Needs,
    ) -> Result<Vec<Arc<SourceFacts>>, Stop> {
        let caller = self.caller(session);
        let mut sources = Vec::new();
        for need in &needs.tables {
            let spec = needs.servers.get(need.server).ok_or(Reason::new(Cause::NoServer))?;
            let known = caller.shared.sources.relation(spec, &need.remote, self.catalog_age_max());
            let facts = match known {
                Some(known) => known,
                None => {
                    let facts = tokio::select! {
                        got = fetch::facts(&caller, spec, &need.remote) => got?,
                        () = self.cancel.cancelled() => return Err(cancelled()),
                    };
                    let facts = Arc::new(facts);
                    caller.shared.sources.keep_relation(spec, &need.remote, facts.clone());
                    facts
                }
            };
            sources.push(facts);
        }
        Ok(sources)
    }

    /// Whether the sources' tables are what a plan takes them for, as far as is known; what
    /// is known no longer is asked again.
    pub(super) async fn sources_hold(&self, plan: &CachedPlan) -> Result<bool, Stop> {
        let now = self.source_facts(&plan.session, &plan.facts.needs).await?;
        let same = |(a, b): (&Arc<SourceFacts>, &Arc<SourceFacts>)| {
            Arc::ptr_eq(a, b) || a.same_definition(b)
        };
        Ok(now.iter().zip(&plan.facts.sources).all(same))
    }
}

/// Whether there may be values for which PostgreSQL cannot plan the statement.
fn may_fail_to_plan(request: &Request, analysis: &Analysis) -> bool {
    // Of one that is declared as what it is cast to nothing is computed.
    const SAME: &[(u32, &str)] = &[
        (16, "bool"),
        (20, "int8"),
        (21, "int2"),
        (23, "int4"),
        (25, "text"),
        (701, "float8"),
        (1043, "varchar"),
        (1082, "date"),
        (1114, "timestamp"),
        (1184, "timestamptz"),
        (1700, "numeric"),
        (2950, "uuid"),
    ];
    let other = |(number, target): &(i32, String)| {
        let at = usize::try_from(*number).ok().and_then(|number| number.checked_sub(1));
        let oid = at.and_then(|at| request.param_oids.get(at)).copied().unwrap_or(0);
        oid != 0 && !SAME.contains(&(oid, target.as_str()))
    };
    analysis.computed.may_fail || analysis.computed.cast.iter().any(other)
}

/// What a fingerprint of so many relations says of objects outside `pg_catalog`.
fn outside(fingerprint: &Fingerprint, relations: usize) -> impl Iterator<Item = Said> {
    fingerprint[1].split(|byte| *byte == b'|').skip(relations).map(Said::read)
}

/// Whether a name of the statement may mean a user's object.
fn calls_users(fingerprint: &Fingerprint, relations: usize) -> bool {
    outside(fingerprint, relations).any(|said| matches!(said, Said::Meant | Said::Moving))
}

/// Whether the fingerprint tells when what a plan has computed with is another one.
fn is_kept(fingerprint: &Fingerprint, relations: usize) -> bool {
    outside(fingerprint, relations).all(|said| said != Said::Moving)
}

/// Whether the fingerprint covers all relations: a foreign table or a parent that was made
/// around the gateway is not known to be one.
fn is_covered(facts: &HomeFacts, analyzed: &Analyzed) -> bool {
    let Ok(analysis) = &analyzed.outcome else { return false };
    facts.relations.iter().all(|r| {
        let mut tables = analysis.tables.iter().filter(|t| t.sql_name() == r.written);
        tables.all(|t| {
            (r.server.is_none() || analyzed.catalog.is_foreign_name(&t.name))
                && (r.subclass != Some(true) || analyzed.catalog.is_parent_name(&t.name))
        })
    })
}

/// What locks home's own tables as the statement would.
///
/// # Errors
/// One that this role could not lock, though it may read some of its columns.
fn lockable(facts: &HomeFacts) -> Result<Option<String>, Reason> {
    let tables =
        facts.relations.iter().filter(|r| matches!(r.kind.as_deref(), Some("r" | "p" | "v")));
    let mut names = Vec::new();
    for table in tables {
        if table.select != Some(true) {
            return Err(Reason::about(Cause::NoSelect, &table.written));
        }
        names.push(table.written.as_str());
    }
    Ok((!names.is_empty()).then(|| format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "))))
}

fn fragment(sources: &Sources, fetch: &Fetch) -> Fragment {
    let keys = fetch.keys.as_ref();
    Fragment {
        all: sources.statement(fetch.sql.clone()),
        by_keys: keys.map(|k| sources.statement(k.sql.clone())),
        keys: keys.map(|k| sources.statement(k.home_sql.clone())),
    }
}
