//! The straight line: the only place where the steps of a cross-database query meet.
//! Each step takes values and returns a value.

use super::block::{TOUCHED, lock_table};
use super::home::{self, Around};
use super::request::Batch;
use super::state::{
    append_keys, copied_select, fetch_bounded, key_values, plan_key, without_values,
};
use super::still::{HomeState, Question, home_state};
use super::stop::{LOCK_NOT_AVAILABLE, NOTICE, Stop, cancelled};
use super::{End, Session};
use crate::config::SnapshotOrder;
use crate::gateway::Shared;
use crate::sources::PlanFacts;
use crate::sources::block::{estimates_remotely, locking, runs};
use crate::sources::engine::engine_plan;
use crate::sources::fetch::{self, Caller, Fetched, OUTGROWN};
use crate::sources::{Analyzed, CachedPlan, Fragment, PlanKey};
use crate::strategy::snapshot::release;
use crate::strategy::{direct, engine, explain, home_join};
use bytes::Bytes;
use pgspan_pool::{ServerConnection, ServerError};
use pgspan_sql::analyze::Kind;
use pgspan_sql::ask::Preference;
use pgspan_sql::facts::HomeFacts;
use pgspan_sql::fragment::Fetch;
use pgspan_sql::plan::{self, Limits};
use pgspan_sql::route::{Reason, Route, Strategy};
use pgspan_sql::{ask, remote};
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use pgspan_wire::frontend;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Counts a statement while it runs.
pub(crate) struct Running(Arc<Shared>);

impl Running {
    fn new(shared: &Arc<Shared>) -> Running {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Running(shared.clone())
    }

    /// For a statement that has the gateway to itself.
    fn busy_poll(&self) -> Duration {
        busy_poll(&self.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a server connection is polled before waiting.
pub(crate) fn busy_poll(shared: &Shared) -> Duration {
    let alone = shared.running.load(Ordering::Relaxed) == 1;
    Duration::from_micros(if alone { shared.config.limits.busy_poll_us_max } else { 0 })
}

/// What the client asks, whichever protocol it speaks.
pub(crate) struct Request {
    pub text: String,
    /// Parameter types that the client declared.
    pub param_oids: Arc<[u32]>,
    /// Set in the extended protocol.
    pub batch: Option<Batch>,
}

/// How long a plan is not tried again whose fetch outgrew the limits, or at which home had
/// something to say.
const REST: Duration = Duration::from_secs(60);

impl Session {
    pub(super) fn fell_back(&mut self, reason: Reason) {
        if reason.what == pgspan_sql::analyze::NO_FOREIGN_TABLE {
            self.count_relayed();
            return;
        }
        let route = Route::fallback(reason);
        tracing::debug!(reason = %route.reason, "fallback");
        self.shared.routes.count(&route);
        self.last_route = route;
        if !self.is_gated() {
            // Home may open a transaction at a source of its own.
            self.block.unknown(0);
        }
    }

    /// Runs one statement. `false`: home is to run it itself; nothing has been sent.
    pub(super) async fn answer(&mut self, request: &Request) -> Result<bool, End> {
        self.cancel.begin();
        let around = match self.server.status {
            TransactionStatus::Idle => Around::Own,
            TransactionStatus::InBlock => Around::Savepoint,
            // Home refuses everything until the block ends.
            TransactionStatus::Failed => return Ok(false),
        };
        let running = Running::new(&self.shared);
        self.server.busy_poll.max = running.busy_poll();
        let done = self.straight_line(request, around).await;
        drop(running);
        self.server.busy_poll.max = Duration::ZERO;
        self.cancel.delivered().await;
        release(self).await;
        self.block.drop_abandoned();
        let stop = match done {
            Ok(route) => {
                self.opened = false;
                self.shared.routes.count(&route);
                self.last_route = route;
                if around == Around::Savepoint {
                    self.block.shown(&request.text);
                }
                return Ok(true);
            }
            Err(stop) => stop,
        };
        let stop = if self.cancel.is_cancelled() && matches!(stop, Stop::GiveUp(_)) {
            cancelled()
        } else {
            stop
        };
        match stop {
            Stop::End(end) => Err(end),
            Stop::GiveUp(reason) => {
                self.undo(around).await?;
                self.block.forget_unshown().await;
                let shown = reason.clone();
                self.fell_back(reason);
                let ours = shown.what != pgspan_sql::analyze::NO_FOREIGN_TABLE;
                let explains = request.batch.is_none() && explain::is_explain(&request.text);
                if ours && explains && !self.is_gated() {
                    explain::fallback(self, &request.text, &shown).await?;
                    return Ok(true);
                }
                Ok(false)
            }
            Stop::Refuse(error) => {
                self.refuse(request, around, &error).await?;
                Ok(true)
            }
        }
    }

    /// The client gets an error, and its transaction is where PostgreSQL would leave it.
    async fn refuse(
        &mut self,
        request: &Request,
        around: Around,
        error: &ErrorFields,
    ) -> Result<(), ServerError> {
        if around == Around::Own {
            self.undo(around).await?;
        } else {
            let opened = std::mem::take(&mut self.opened);
            if self.server.status == TransactionStatus::InBlock {
                self.fail_block(opened).await?;
            }
        }
        // What was bound fails while it runs; locks are waited for while it is bound.
        if request.batch.is_some() && error.sqlstate() != LOCK_NOT_AVAILABLE {
            frontend::message(&mut self.client.outbox, b'2', |_| {});
        }
        error.put(&mut self.client.outbox);
        pgspan_wire::backend::put_ready(&mut self.client.outbox, self.server.status);
        Ok(())
    }

    async fn straight_line(&mut self, request: &Request, around: Around) -> Result<Route, Stop> {
        if around == Around::Savepoint && self.block.is_unknown() {
            return Err(Reason::new(TOUCHED).into());
        }
        let database = format!("{}/{}", self.endpoint.cluster, self.database_name);
        let catalog = self.database.catalog();
        let analyzed = self.shared.sources.analyzed(&database, &request.text, &catalog);
        let analysis = analyzed.outcome.clone()?;
        if analysis.parameters > 0 && request.batch.is_none() {
            return Err(Reason::new("a parameter in the simple protocol").into());
        }
        if analysis.kind == Kind::CopyOut && request.batch.is_some() {
            return Err(Reason::new("COPY in the extended protocol").into());
        }
        if around == Around::Savepoint {
            if self.block.doomed {
                return Err(Reason::new(TOUCHED).into());
            }
            self.may_answer_in_block(request, &analysis, &database)?;
            self.check_block().await?;
        }
        let mut key = plan_key(database, &self.user, request);
        let any_values = without_values(&key);
        let known = match self.shared.sources.plan(&any_values) {
            Some(plan) => {
                key.clone_from(&any_values);
                Some(plan)
            }
            None => self.shared.sources.plan(&key),
        };
        if let Some(plan) = &known {
            check_rest(plan)?;
        }
        let wants_engine = |p: &CachedPlan| around == Around::Own && prefers_engine(p);
        if let Some(table) =
            known.as_ref().filter(|p| !wants_engine(p)).and_then(|p| p.plan.too_large.clone())
        {
            return Err(Reason::about(OUTGROWN, table).into());
        }
        let all_rows = request.batch.as_ref().is_none_or(|b| b.max_rows == 0);
        let explains = matches!(analysis.kind, Kind::Explain(_));
        let is_direct =
            |p: &CachedPlan| p.plan.direct.is_some() && around == Around::Own && all_rows;
        if let Some(plan) = known.as_ref().filter(|_| around == Around::Savepoint) {
            self.block.may_read(plan)?;
        }
        let home = match known.filter(|p| !explains && !is_direct(p) && !wants_engine(p)) {
            // The usual case: the plan is known, and holds.
            Some(plan) => {
                let shared = self.shared.clone();
                let question = self.question(&shared, &analyzed, around);
                if let Some(route) = self.fetch_first(request, around, question, &plan).await? {
                    return Ok(route);
                }
                let (home, fetched) =
                    self.snapshot_and_fetch(request, around, &analyzed, &plan).await?;
                self.block.drop_abandoned();
                if home.fingerprint == plan.fingerprint {
                    let fetched = match fetched {
                        Err(stop) => self.outgrown(request, around, &key, &plan, stop).await?,
                        Ok(fetched) => Outgrown::Fetched(fetched),
                    };
                    return match fetched {
                        Outgrown::Fetched(f) => self.finish(request, around, &key, &plan, &f).await,
                        Outgrown::Answered(route) => Ok(route),
                    };
                }
                home
            }
            None => {
                let (home, plan) = self.snapshot(request, around, &analyzed, &key).await?;
                if let Some(plan) = plan.filter(|_| !explains) {
                    if wants_engine(&plan) {
                        return self.by_engine(request, around, &key, &plan).await;
                    }
                    if is_direct(&plan) {
                        return direct::run(self, request, around, &plan).await;
                    }
                }
                home
            }
        };
        if home.session.preference == Preference::Fallback {
            return Err(Reason::new("pgspan.strategy is fallback").into());
        }
        let plan = self.make_plan(request, around, &analyzed, &home).await?;
        // In a block each question has a snapshot of its own: what they said together
        // holds if the fingerprint is still the same after them.
        let consistent = around == Around::Own
            || plan.facts_known
            || self.fingerprint_again(&analyzed, around).await?.fingerprint == home.fingerprint;
        if plan.plan.repeatable && consistent {
            if plan.any_values {
                key = any_values;
            }
            self.shared.sources.keep_plan(key.clone(), plan.clone());
        }
        if explains {
            return explain::run(self, request, around, &plan).await;
        }
        if wants_engine(&plan) {
            return self.by_engine(request, around, &key, &plan).await;
        }
        if is_direct(&plan) {
            return direct::run(self, request, around, &plan).await;
        }
        if let Some(table) = &plan.plan.too_large {
            return Err(Reason::about(OUTGROWN, table.clone()).into());
        }
        if around == Around::Savepoint {
            self.block.may_read(&plan)?;
        }
        let keys = self.ask_keys(&plan, around).await?;
        match self.fetch(&plan, &keys, around).await {
            Ok(fetched) => self.finish(request, around, &key, &plan, &fetched).await,
            Err(stop) => match self.outgrown(request, around, &key, &plan, stop).await? {
                Outgrown::Fetched(f) => self.finish(request, around, &key, &plan, &f).await,
                Outgrown::Answered(route) => Ok(route),
            },
        }
    }

    /// The engine's rung; where it cannot run the statement, home join's if what crosses
    /// may fit.
    async fn by_engine(
        &mut self,
        request: &Request,
        around: Around,
        key: &PlanKey,
        plan: &Arc<CachedPlan>,
    ) -> Result<Route, Stop> {
        let made = engine_plan(self, request, around, plan).await;
        let reason = match made {
            Ok(made) => {
                let ran = engine::run(self, request, around, plan, &made).await;
                if matches!(&ran, Err(Stop::GiveUp(r)) if r.what == fetch::SOURCE_ERROR) {
                    self.doubt(key, plan);
                }
                return ran;
            }
            Err(Stop::GiveUp(reason)) => reason,
            Err(other) => return Err(other),
        };
        tracing::debug!(%reason, "not by the engine");
        // Who asks for the engine is told why not.
        let asked = plan.session.preference == Preference::Engine;
        let told = |route: Route| match asked {
            true => Route { reason: reason.clone(), ..route },
            false => route,
        };
        if plan.plan.direct.is_some() && request.batch.as_ref().is_none_or(|b| b.max_rows == 0) {
            return direct::run(self, request, around, plan).await.map(told);
        }
        if plan.plan.too_large.is_some() {
            return Err(reason.into());
        }
        let keys = self.ask_keys(plan, around).await?;
        let fetched = self.fetch(plan, &keys, around).await;
        match self.judge(key, plan, fetched) {
            Ok(fetched) => self.finish(request, around, key, plan, &fetched).await.map(told),
            Err(Stop::GiveUp(outgrown)) if outgrown.what == OUTGROWN => Err(reason.into()),
            Err(other) => Err(other),
        }
    }

    /// After a fetch that brought more than home join takes while the engine is untried.
    async fn outgrown(
        &mut self,
        request: &Request,
        around: Around,
        key: &PlanKey,
        plan: &Arc<CachedPlan>,
        stop: Stop,
    ) -> Result<Outgrown, Stop> {
        let engine_first = around == Around::Own
            && plan.session.preference != Preference::HomeJoin
            && matches!(&stop, Stop::GiveUp(r) if r.what == OUTGROWN)
            && engine_untried(plan);
        if !engine_first {
            return self.judge(key, plan, Err(stop)).map(Outgrown::Fetched);
        }
        self.by_engine(request, around, key, plan).await.map(Outgrown::Answered)
    }

    /// A plan whose fetch failed is made anew the next time; one that outgrew the limits
    /// rests for a while.
    fn judge(
        &self,
        key: &PlanKey,
        plan: &CachedPlan,
        fetched: Result<Vec<Fetched>, Stop>,
    ) -> Result<Vec<Fetched>, Stop> {
        if let Err(Stop::GiveUp(reason)) = &fetched {
            if reason.what == OUTGROWN {
                rest(plan, OUTGROWN);
            } else {
                self.shared.sources.drop_plan(key);
            }
        }
        fetched
    }

    /// What is known of the sources may have changed: the next run asks again.
    fn doubt(&self, key: &PlanKey, plan: &CachedPlan) {
        self.shared.sources.drop_plan(key);
        plan.plan.servers.iter().for_each(|s| self.shared.sources.forget_relations(s));
    }

    async fn finish(
        &mut self,
        request: &Request,
        around: Around,
        key: &PlanKey,
        plan: &CachedPlan,
        fetched: &[Fetched],
    ) -> Result<Route, Stop> {
        let done = home_join::run(self, request, around, plan, fetched).await;
        match &done {
            Err(Stop::GiveUp(reason)) if reason.what == NOTICE => rest(plan, NOTICE),
            Err(Stop::GiveUp(_)) => self.shared.sources.drop_plan(key),
            _ => {}
        }
        done
    }

    /// The fingerprint question for the session's role.
    fn question<'a>(
        &self,
        shared: &'a Shared,
        analyzed: &'a Analyzed,
        around: Around,
    ) -> Question<'a> {
        let superuser = self.server.parameters.get("is_superuser").is_some_and(|v| v == "on");
        let whole = &analyzed.fingerprint[usize::from(superuser)];
        self.still.question(&shared.sources.unchanged, whole, around)
    }

    /// Home's snapshot; with a known direct plan, also whether it holds.
    async fn snapshot(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
        key: &PlanKey,
    ) -> Result<(HomeState, Option<Arc<CachedPlan>>), Stop> {
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        around.open(&mut self.server);
        self.opened = true;
        home::run_prepared(&mut self.server, question.statement());
        describe_clients(&mut self.server, request);
        frontend::sync(&mut self.server.outbox);
        let got = home::answers(&mut self.server, &mut self.client.outbox).await?;
        self.stop_if_cancelled()?;
        let home = self.home_state(question, &got, 1, around).await?;
        self.check_reading(&home, analyzed, around)?;
        let plan = self.shared.sources.plan(key).filter(|p| p.fingerprint == home.fingerprint);
        Ok((home, plan))
    }

    async fn fingerprint_again(
        &mut self,
        analyzed: &Analyzed,
        around: Around,
    ) -> Result<HomeState, Stop> {
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        home::run_prepared(&mut self.server, question.statement());
        frontend::sync(&mut self.server.outbox);
        let got = home::answers(&mut self.server, &mut self.client.outbox).await?;
        self.home_state(question, &got, 0, around).await
    }

    /// Reads the fingerprint that is the `i`th result.
    async fn home_state(
        &mut self,
        question: Question<'_>,
        got: &home::Answers,
        i: usize,
        around: Around,
    ) -> Result<HomeState, Stop> {
        let Session { server, client, still, .. } = self;
        home_state(server, &mut client.outbox, still, question, got, i, around).await
    }

    pub(super) fn stop_if_cancelled(&self) -> Result<(), Stop> {
        if self.cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }

    /// Home's snapshot, then at the same time home's answer whether the plan still holds
    /// and the sources' rows. With `snapshot_order = "parallel"` the sources do not wait
    /// for home's snapshot; in a block home's statements have snapshots of their own.
    async fn snapshot_and_fetch(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
        plan: &Arc<CachedPlan>,
    ) -> Result<(HomeState, Result<Vec<Fetched>, Stop>), Stop> {
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        around.open(&mut self.server);
        self.opened = true;
        // In a block home's answers have snapshots of their own: keys may miss a row that the
        // statement finds.
        let has_keys = around == Around::Own && plan.plan.fetches.iter().any(|f| f.keys.is_some());
        let parallel = self.shared.config.gateway.snapshot_order == SnapshotOrder::Parallel;
        // With others running, what overlapping saves in time it costs them in work.
        let alone = self.shared.running.load(Ordering::Relaxed) <= 2;
        let home_first = around == Around::Own && !parallel;
        let waits = home_first && !has_keys && alone && !question.is_short();
        if waits {
            home::take_snapshot(&mut self.server);
            frontend::flush(&mut self.server.outbox);
        }
        if around == Around::Savepoint {
            for statement in &plan.locks {
                lock_table(&mut self.server, statement);
            }
        }
        home::run_prepared(&mut self.server, question.statement());
        if has_keys {
            append_keys(&mut self.server, plan);
        }
        describe_clients(&mut self.server, request);
        frontend::sync(&mut self.server.outbox);
        let mut asked = home::Asked::default();
        if waits {
            asked.read(&mut self.server, &mut self.client.outbox, Some(2)).await?;
        }
        let first = if waits { 2 } else { 1 };
        if has_keys || (home_first && !waits) {
            let got = asked.finish(&mut self.server, &mut self.client.outbox).await?;
            self.stop_if_cancelled()?;
            let home = self.home_state(question, &got, first, around).await?;
            if home.fingerprint != plan.fingerprint {
                return Ok((home, stale()));
            }
            let keys = if has_keys {
                key_values(plan, &got, first + 1)
            } else {
                vec![None; plan.plan.fetches.len()]
            };
            let fetched = self.fetch(plan, &keys, around).await;
            return Ok((home, fetched));
        }
        let keys = vec![None; plan.plan.fetches.len()];
        let Session { server, client, endpoint, cancel, block, still, .. } = &mut *self;
        let caller = Caller { shared: &shared, home: endpoint, cancel, session: &plan.session };
        let held = (around == Around::Savepoint).then_some(&mut block.sources);
        let (home, fetched) = {
            let (stream, inbox) = (&mut client.stream, &mut client.inbox);
            let mut fetch = pin!(fetch_bounded(&caller, stream, inbox, plan, &keys, held));
            let mut fetched = None;
            let got = {
                let mut answer = pin!(asked.finish(server, &mut client.outbox));
                loop {
                    tokio::select! {
                        biased;
                        got = &mut answer => break got?,
                        rows = &mut fetch, if fetched.is_none() => fetched = Some(rows),
                    }
                }
            };
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            let aside = &mut client.outbox;
            let home = home_state(server, aside, still, question, &got, first, around).await?;
            // What is fetched under another plan, or under another timeout, is dropped.
            let fetched = match fetched {
                _ if home.fingerprint != plan.fingerprint => stale(),
                Some(rows) => rows,
                None => fetch.await,
            };
            (home, fetched)
        };
        self.check_reading(&home, analyzed, around)?;
        Ok((home, fetched))
    }

    /// Asks home and sources for what a plan needs, and makes it.
    async fn make_plan(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
        home: &HomeState,
    ) -> Result<Arc<CachedPlan>, Stop> {
        let analysis = analyzed.outcome.clone()?;
        let select = &request.text[analysis.query_start..];
        let select = match analysis.kind {
            Kind::CopyOut => copied_select(select)?,
            _ => select,
        };
        let names = ask::table_names(&analysis);
        let database = format!("{}/{}", self.endpoint.cluster, self.database_name);
        let facts_key = (database, names, home.fingerprint.clone());
        let known = self.shared.sources.home_facts(&facts_key);
        let server = &mut self.server;
        if known.is_none() {
            home::run_once(server, &ask::home_facts(&facts_key.1));
        }
        // The original: its description, and what postgres_fdw would ship.
        let original = "pgspan:original";
        frontend::close_statement(&mut server.outbox, original);
        frontend::parse(&mut server.outbox, original, select, &request.param_oids);
        frontend::describe_statement(&mut server.outbox, original);
        let sql = format!("{}{select}", ask::EXPLAIN_PREFIX);
        home::run_with_parameters(server, &sql, request);
        frontend::sync(&mut server.outbox);
        let got = home::answers(server, &mut self.client.outbox).await?;
        if got.noticed {
            return Err(Reason::new(NOTICE).into());
        }
        let odd = || Stop::GiveUp(Reason::new("catalog answer"));
        let explained = usize::from(known.is_none());
        let facts = match known {
            Some(facts) => facts,
            None => Arc::new(HomeFacts::read(got.value(0, 0).ok_or_else(odd)?)?),
        };
        let plan_text = got.value(explained, 0).cloned().ok_or_else(odd)?;
        let mut scans = remote::foreign_scans(&plan_text)?;
        let fields = got.fields.into_iter().next().flatten().ok_or_else(odd)?;
        let parameters = got.parameters.into_iter().next().unwrap_or_default();
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let mut needs = plan::needs(&analysis, &facts)?;
        if around == Around::Savepoint && estimates_remotely(&facts) {
            // Home's postgres_fdw has taken its snapshot for that.
            return Err(Reason::about("server option", "use_remote_estimate").into());
        }
        // A foreign table that was made around the gateway, and that the fingerprint
        // therefore does not cover yet: what is known of it holds for this run.
        let is_covered = |written: &str| {
            let mut tables = analysis.tables.iter().filter(|t| t.sql_name() == written);
            tables.all(|t| analyzed.catalog.is_foreign_name(&t.name))
        };
        let covered = facts.relations.iter().all(|r| r.server.is_none() || is_covered(&r.written));
        if !covered {
            self.database.disturb();
            needs.repeatable = false;
        }
        // A view may change without a trace in the fingerprint, and in a block the
        // fingerprint and the facts have different snapshots.
        let has_views = facts.relations.iter().any(|r| r.kind.as_deref() == Some("v"));
        if around == Around::Own && !has_views && covered {
            self.shared.sources.keep_home_facts(facts_key, facts.clone());
        }
        let caller = self.caller(&home.session);
        let mut sources = Vec::new();
        for need in &needs.tables {
            let spec = needs.servers.get(need.server).ok_or_else(odd)?;
            let known = caller.shared.sources.relation(spec, &need.remote);
            let facts = match known {
                Some(known) => known,
                None => {
                    let facts = tokio::select! {
                        got = fetch::facts(&caller, spec, &need.remote) => got?,
                        () = self.cancel.cancelled() => return Err(cancelled()),
                    };
                    caller.shared.sources.keep_relation(spec, &need.remote, facts.clone());
                    facts
                }
            };
            sources.push(facts);
        }
        let limits = &self.shared.config.limits;
        let types: Vec<u32> = fields.iter().map(|f| f.type_oid).collect();
        let declared = u32::try_from(parameters.len()).unwrap_or(u32::MAX);
        let limits = Limits {
            rows_max: limits.home_join_rows_max,
            keys_max: limits.keys_max,
            pages_min: limits.engine_pages_min.into(),
        };
        // Of small tables all rows are fetched, whatever is bound: home evaluates every
        // condition anyway, and one plan serves all values.
        let small = sources.iter().all(|s| plan::estimated_rows(s) < plan::SMALL_ROWS);
        let values = request.batch.as_ref().is_some_and(|b| !b.bind.params.is_empty());
        let any_values = small && values && analysis.tables.len() > needs.tables.len();
        if any_values {
            scans.iter_mut().for_each(|s| s.conditional = false);
        }
        let made = plan::plan(
            &request.text,
            &analysis,
            declared,
            &facts,
            &needs,
            &scans,
            &sources,
            &types,
            limits,
        )?;
        let runs = runs(&plan_text, &scans, &made.fetches, made.servers.len(), any_values);
        let mut bound_types = parameters.clone();
        bound_types.extend(made.fetches.iter().map(|f| f.array_type));
        Ok(Arc::new(CachedPlan {
            fingerprint: home.fingerprint.clone(),
            session: home.session.clone(),
            analysis,
            fields,
            parameters,
            facts_known: explained == 0,
            any_values,
            together: crate::sources::together::Together::default(),
            engine: std::sync::Mutex::new(None),
            prefers_engine: std::sync::atomic::AtomicBool::new(false),
            facts: Arc::new(PlanFacts { home: facts, needs, sources }),
            home: self.shared.sources.typed_statement(
                made.home_sql.clone(),
                &bound_types,
                &home.fingerprint,
            ),
            fragments: made.fetches.iter().map(|f| fragment(&self.shared.sources, f)).collect(),
            direct: made.direct.as_ref().map(|d| self.shared.sources.statement(d.sql.clone())),
            rests_until: std::sync::Mutex::new(None),
            runs,
            locks: made.fetches.iter().map(|f| locking(&self.shared.sources, f)).collect(),
            plan: made,
        }))
    }

    /// This session as one that asks sources, under settings that home has told.
    pub(crate) fn caller<'a>(&'a self, session: &'a ask::Session) -> Caller<'a> {
        Caller { shared: &self.shared, home: &self.endpoint, cancel: &self.cancel, session }
    }

    /// The join keys of a plan that was made just now.
    pub(crate) async fn ask_keys(
        &mut self,
        plan: &CachedPlan,
        around: Around,
    ) -> Result<Vec<Option<Bytes>>, Stop> {
        if around == Around::Savepoint || !append_keys(&mut self.server, plan) {
            return Ok(vec![None; plan.plan.fetches.len()]);
        }
        frontend::sync(&mut self.server.outbox);
        let got = home::answers(&mut self.server, &mut self.client.outbox).await?;
        Ok(key_values(plan, &got, 0))
    }

    /// Fetches from all sources at once.
    pub(crate) async fn fetch(
        &mut self,
        plan: &CachedPlan,
        keys: &[Option<Bytes>],
        around: Around,
    ) -> Result<Vec<Fetched>, Stop> {
        let Session { client, shared, endpoint, cancel, block, .. } = self;
        let caller = Caller { shared, home: endpoint, cancel, session: &plan.session };
        let held = (around == Around::Savepoint).then_some(&mut block.sources);
        fetch_bounded(&caller, &mut client.stream, &mut client.inbox, plan, keys, held).await
    }
}

/// In place of what was fetched under a plan that is to be made anew.
fn stale<T>() -> Result<T, Stop> {
    Err(Reason::new("the plan no longer holds").into())
}

/// What became of a fetch that outgrew its bounds.
enum Outgrown {
    Fetched(Vec<Fetched>),
    Answered(Route),
}

/// Whether the engine is asked before anything is fetched.
pub(crate) fn prefers_engine(plan: &CachedPlan) -> bool {
    match plan.session.preference {
        Preference::Engine => true,
        Preference::HomeJoin | Preference::Fallback => false,
        Preference::Auto => {
            plan.plan.too_large.is_some()
                || (plan.plan.joined_there && engine_untried(plan))
                || (plan.prefers_engine.load(Ordering::Relaxed) && plan.engine_runs())
        }
    }
}

/// Whether the engine may still turn out to run it.
pub(crate) fn engine_untried(plan: &CachedPlan) -> bool {
    !plan.any_values && plan.engine_state().is_none_or(|runs| runs)
}

/// The plan is not tried for a while.
fn rest(plan: &CachedPlan, why: &'static str) {
    let mut until = plan.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
    *until = Some((Instant::now() + REST, why));
}

fn check_rest(plan: &CachedPlan) -> Result<(), Stop> {
    let until = *plan.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
    match until {
        Some((t, why)) if Instant::now() < t => Err(Reason::new(why).into()),
        _ => Ok(()),
    }
}

/// Home is asked about the client's own prepared statement: if it is gone, or its result
/// has changed, the error is home's to give when it runs it.
pub(crate) fn describe_clients(server: &mut ServerConnection, request: &Request) {
    if let Some(batch) = &request.batch {
        frontend::describe_statement(&mut server.outbox, &batch.bind.statement);
    }
}

fn fragment(sources: &crate::sources::Sources, fetch: &Fetch) -> Fragment {
    let keys = fetch.keys.as_ref();
    Fragment {
        all: sources.statement(fetch.sql.clone()),
        by_keys: keys.map(|k| sources.statement(k.sql.clone())),
        keys: keys.map(|k| sources.statement(k.home_sql.clone())),
    }
}

/// Names the strategy for counts and `SHOW pgspan.last_route`.
pub(crate) fn route(strategy: Strategy, what: &'static str) -> Route {
    Route { strategy, reason: Reason::new(what) }
}
