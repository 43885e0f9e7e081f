//! The straight line: the only place where the steps of a cross-database query meet.
//! Each step takes values and returns a value.

use super::ahead::Ahead;
use super::block::lock_tables;
use super::home::{self, Around, Statement};
use super::request::{Batch, Reading};
use super::settle;
use super::state::{
    append_keys, fetch_bounded, key_values, plan_key, sleep, timed_out, timeout, without_values,
};
use super::still::{HomeState, Question, home_state};
use super::stop::{LOCK_NOT_AVAILABLE, Stop, cancelled};
use super::{End, Session};
use crate::config::SnapshotOrder;
use crate::gateway::Shared;
use crate::sources::block::Holding;
use crate::sources::engine::engine_plan;
use crate::sources::fetch::{Caller, Fetched};
use crate::sources::{Analyzed, CachedPlan, PlanKey};
use crate::strategy::snapshot::release;
use crate::strategy::{direct, engine, explain, home_join};
use bytes::Bytes;
use pgspan_pool::{ServerConnection, ServerError};
use pgspan_sql::analyze::{Analysis, Kind};
use pgspan_sql::ask;
use pgspan_sql::ask::Preference;
use pgspan_sql::cause::Cause;
use pgspan_sql::facts::HomeFacts;
use pgspan_sql::route::{Reason, Route, Strategy};
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
    /// When home has read the text.
    pub read: Read,
}

/// When home reads, or has read, the text of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    /// With this request.
    Now,
    /// Earlier, under this; `None` when that is not known.
    Earlier(Option<Reading>),
}

/// Whether PostgreSQL would plan a request's statement once for several executions.
pub(super) fn keeps_plan(request: &Request, analysis: &Analysis) -> bool {
    request.batch.is_some() && analysis.kind == Kind::Select
}

/// So often a plan is made anew for a statement, where each time home changed meanwhile.
const ROUNDS_MAX: usize = 4;

/// How long a plan is not tried again whose fetch outgrew the limits, or at which home had
/// something to say.
const REST: Duration = Duration::from_secs(60);

impl Session {
    /// The database by a name that no other one has.
    pub(super) fn database_key(&self) -> String {
        format!("{}/{}", self.endpoint.cluster, self.database_name)
    }

    pub(super) fn fell_back(&mut self, reason: Reason) {
        if reason.cause == Cause::NoForeignTable {
            self.count_relayed();
            return;
        }
        let route = Route::fallback(reason);
        tracing::debug!(reason = %route.reason, "fallback");
        self.routes.count(&route);
        self.last_route = route;
        if !self.is_gated() {
            // Home may open a transaction at a source of its own.
            self.block.unknown(0);
        }
    }

    /// Runs one statement. `false`: home is to run it itself; nothing has been sent.
    pub(super) async fn answer(&mut self, request: &Request) -> Result<bool, End> {
        let around = match self.server.status {
            TransactionStatus::Idle => Around::Own,
            TransactionStatus::InBlock => Around::Savepoint,
            // Home refuses everything until the block ends.
            TransactionStatus::Failed => return Ok(false),
        };
        self.cancel.begin();
        self.server.prepared.begin();
        self.server.patience = Some(self.cancel.patience_with_home());
        let running = Running::new(&self.shared);
        self.server.busy_poll.max = running.busy_poll();
        let done = self.straight_line(request, around).await;
        let over = self.cancel.ended();
        self.server.patience = None;
        drop(running);
        self.server.busy_poll.max = Duration::ZERO;
        self.cancel.delivered().await;
        release(self).await;
        self.block.drop_abandoned();
        let stop = match done {
            Ok(route) => {
                self.opened = false;
                self.routes.count(&route);
                self.last_route = route;
                if around == Around::Savepoint {
                    self.block.shown(&request.text);
                }
                return Ok(true);
            }
            Err(stop) => stop,
        };
        self.server.prepared.gave_up();
        let stop = self.ended_with(stop, over).await;
        match stop {
            Stop::End(end) => Err(end),
            Stop::GiveUp(reason) => {
                self.undo(around).await?;
                self.block.forget_unshown().await;
                let shown = reason.clone();
                self.fell_back(reason);
                // Of several statements it is not known which one that is about.
                let others = [Cause::NoForeignTable, Cause::SeveralStatements];
                let ours = !others.contains(&shown.cause);
                let explains = request.batch.is_none() && explain::is_explain(&request.text);
                if ours && explains && !self.is_gated() {
                    // With ANALYZE, whatever the statement calls.
                    self.trust.ran(None);
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
        let database = self.database_key();
        let catalog = self.database.catalog();
        let analyzed = self.shared.sources.analyzed(&database, &request.text, &catalog).await;
        let analysis = analyzed.outcome.clone()?;
        if analysis.parameters > 0 && request.batch.is_none() {
            return Err(Reason::new(Cause::ParameterInSimple).into());
        }
        if analysis.kind == Kind::CopyOut && request.batch.is_some() {
            return Err(Reason::new(Cause::CopyExtended).into());
        }
        if keeps_plan(request, &analysis) && analysis.folds.itself {
            return Err(Reason::new(Cause::ConstantBySettings).into());
        }
        if around == Around::Savepoint {
            if self.block.doomed.is_some() || self.block.is_unknown() {
                return Err(Reason::new(Cause::Touched).into());
            }
            self.may_answer_in_block(request, &analysis, &database)?;
            self.check_block().await?;
        }
        let mut key = plan_key(database, &self.user, request);
        let any_values = without_values(&key);
        let mut known = match self.shared.sources.plan(&any_values) {
            Some(plan) => {
                key.clone_from(&any_values);
                Some(plan)
            }
            None => self.shared.sources.plan(&key),
        };
        known = known.filter(|_| !catalog.restricts_operators());
        if let Some(plan) = &known {
            check_rest(plan)?;
            if !self.sources_hold(plan).await? {
                known = None;
            }
        }
        for _ in 0..ROUNDS_MAX {
            self.stop_if_cancelled()?;
            let mut made = false;
            let reads_as = |p: &Arc<CachedPlan>| self.reads_as(request, &analyzed, p);
            let plan = match known.take().filter(reads_as) {
                Some(plan) => plan,
                None => {
                    made = true;
                    let plan = self.make_plan(request, around, &analyzed).await?;
                    if plan.any_values {
                        key.clone_from(&any_values);
                    }
                    if plan.plan.repeatable {
                        self.shared.sources.keep_plan(key.clone(), plan.clone());
                    }
                    if !self.reads_as(request, &analyzed, &plan) {
                        return Err(Reason::new(Cause::ReadOtherwise).into());
                    }
                    plan
                }
            };
            let used = self.use_plan(request, around, &analyzed, &key, &plan).await;
            if !matches!(used, Ok(Some(_))) {
                // Home may have read the text under what the plan was not made for.
                self.server.prepared.doubt(plan.home.number());
            }
            match used {
                Ok(Some(route)) => {
                    if plan.calls_users {
                        // What a user's function does nobody knows.
                        self.trust.ran(None);
                    }
                    return Ok(route);
                }
                Err(Stop::GiveUp(reason)) if reason.cause == Cause::Refused && !made => {}
                other => drop(other?),
            }
            // Home is not what it was when the plan was made.
            self.undo(around).await?;
        }
        Err(Reason::new(Cause::HomeMoves).into())
    }

    /// Whether home has read the client's statement as it would read its text under this
    /// plan: PostgreSQL keeps a prepared statement as it was read.
    fn reads_as(&self, request: &Request, analyzed: &Analyzed, plan: &CachedPlan) -> bool {
        match &request.read {
            Read::Now => true,
            Read::Earlier(None) => false,
            Read::Earlier(Some(reading)) => {
                reading.same(&Reading::of(&plan.fingerprint), analyzed.depends_on_settings)
            }
        }
    }

    /// Runs a statement by a plan. `None`: the plan does not hold; nothing has been sent.
    async fn use_plan(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
        key: &PlanKey,
        plan: &Arc<CachedPlan>,
    ) -> Result<Option<Route>, Stop> {
        let explains = matches!(plan.analysis.kind, Kind::Explain(_));
        let columns = if explains { 1 } else { plan.fields.len() };
        if !request.batch.as_ref().is_none_or(|b| b.bind.formats_fit(columns)) {
            // Home tells what is wrong with them.
            return Err(Reason::new(Cause::OtherFormats).into());
        }
        if around == Around::Savepoint {
            self.block.may_read(plan)?;
        }
        let wants_engine = around == Around::Own && prefers_engine(plan);
        let all_rows = request.batch.as_ref().is_none_or(|b| b.max_rows == 0);
        let is_direct = plan.plan.direct.is_some() && around == Around::Own && all_rows;
        if explains || wants_engine || is_direct {
            if !self.snapshot(request, around, analyzed, plan).await? {
                return Ok(None);
            }
            return if explains {
                explain::run(self, request, around, plan).await
            } else if wants_engine {
                self.by_engine(request, around, key, plan).await
            } else {
                direct::run(self, request, around, plan).await
            }
            .map(Some);
        }
        if let Some(table) = plan.plan.too_large.clone() {
            return Err(Reason::about(Cause::Outgrown, table).into());
        }
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        match self.fetch_first(request, around, question, plan).await? {
            Ahead::Answered(route) => return Ok(Some(route)),
            Ahead::Stale => return Ok(None),
            Ahead::No => {}
        }
        let fetched = self.snapshot_and_fetch(request, around, analyzed, plan).await;
        self.block.drop_abandoned();
        let Some(fetched) = fetched? else { return Ok(None) };
        let fetched = match fetched {
            Err(stop) => self.outgrown(request, around, key, plan, stop).await?,
            Ok(fetched) => Outgrown::Fetched(fetched),
        };
        match fetched {
            Outgrown::Fetched(f) => self.finish(request, around, key, plan, &f).await.map(Some),
            Outgrown::Answered(route) => Ok(Some(route)),
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
                if matches!(&ran, Err(Stop::GiveUp(r)) if r.cause == Cause::SourceError) {
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
            Err(Stop::GiveUp(outgrown)) if outgrown.cause == Cause::Outgrown => Err(reason.into()),
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
            && matches!(&stop, Stop::GiveUp(r) if r.cause == Cause::Outgrown)
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
            if reason.cause == Cause::Outgrown {
                rest(plan, Cause::Outgrown);
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
            Err(Stop::GiveUp(reason)) if reason.cause == Cause::HomeNotice => {
                rest(plan, Cause::HomeNotice)
            }
            Err(Stop::GiveUp(_)) => self.shared.sources.drop_plan(key),
            _ => {}
        }
        done
    }

    /// The fingerprint question for the session's role.
    pub(super) fn question<'a>(
        &self,
        shared: &'a Shared,
        analyzed: &'a Analyzed,
        around: Around,
    ) -> Question<'a> {
        let whole = self.whole_question(analyzed);
        self.still.question(&shared.sources, whole, around, self.trust.runs())
    }

    /// The same, whatever is known.
    pub(super) fn whole_question<'a>(&self, analyzed: &'a Analyzed) -> &'a Statement {
        let superuser = self.server.parameters.get("is_superuser").is_some_and(|v| v == "on");
        &analyzed.fingerprint[usize::from(superuser)]
    }

    /// Appends the opening of a statement at home: what makes its names mean what the plan
    /// takes them for, and the question that proves it. Gives the number of statements
    /// before the question; with `early` their answer comes ahead of the question's.
    ///
    /// The rewritten statement is read before the snapshot in which the fingerprint is, so
    /// that home reads it as the plan does. PostgreSQL locks a statement's tables before
    /// it takes a snapshot for it; so does this.
    ///
    /// # Errors
    /// Home does not read the rewritten statement.
    pub(crate) async fn open(
        &mut self,
        request: &Request,
        around: Around,
        plan: &CachedPlan,
        question: Question<'_>,
        early: bool,
    ) -> Result<usize, Stop> {
        let server = &mut self.server;
        let mut before = 1;
        if around == Around::Savepoint {
            around.open(server);
            lock_tables(server, request, &plan.analysis)?;
        }
        let rewritten = plan.analysis.kind != Kind::CopyOut;
        let parses = match (rewritten, plan.plan.repeatable) {
            (false, _) => false,
            (true, true) => home::prepare(server, &plan.home, &plan.home_types),
            (true, false) => home::prepare_anew(server, &plan.home, &plan.home_types),
        };
        if parses && around == Around::Own {
            // A text is read in a transaction that has a snapshot: in one before this. In
            // one write, what failed or was cancelled there would be followed by the rest.
            frontend::sync(&mut server.outbox);
            home::answers(server, &mut self.client.outbox).await.map_err(refused)?;
        }
        if around == Around::Own {
            around.open(server);
            if let Some(lock) = &plan.lock {
                home::run_prepared(server, lock);
                before += 1;
            }
        }
        self.opened = true;
        if early {
            home::take_snapshot(server);
            frontend::flush(&mut server.outbox);
            before += 1;
        }
        before += home::append_within(server, around, |server| {
            home::run_prepared(server, question.statement());
            if plan.asks_again {
                home::run_facts(server, &ask::table_names(&plan.analysis));
            }
        });
        if around == Around::Own {
            settle::ask(server, request, plan)?;
        }
        Ok(before)
    }

    /// Whether what home said is what the plan rests on; `i` is the result behind the
    /// fingerprint's.
    fn holds(
        plan: &CachedPlan,
        (request, around): (&Request, Around),
        home: &HomeState,
        got: &home::Answers,
        i: usize,
    ) -> bool {
        let same_facts = || {
            let facts = got.value(i, 0).and_then(|json| HomeFacts::read(json).ok());
            facts.is_some_and(|facts| facts == plan.facts.home)
        };
        let settled = || {
            around == Around::Savepoint
                || settle::settled(plan, request, got, i + usize::from(plan.asks_again))
        };
        home.fingerprint == plan.fingerprint && (!plan.asks_again || same_facts()) && settled()
    }

    /// Home's snapshot; whether the plan holds in it.
    async fn snapshot(
        &mut self,
        request: &Request,
        around: Around,
        analyzed: &Analyzed,
        plan: &CachedPlan,
    ) -> Result<bool, Stop> {
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        let before = self.open(request, around, plan, question, false).await?;
        describe_clients(&mut self.server, request);
        frontend::sync(&mut self.server.outbox);
        let got = home::answers(&mut self.server, &mut self.client.outbox).await;
        let got = got.map_err(refused)?;
        self.stop_if_cancelled()?;
        let home = self.home_state(question, &got, before, around).await?;
        self.check_reading(&home, analyzed, around)?;
        Ok(Session::holds(plan, (request, around), &home, &got, before + 1))
    }

    /// Reads the fingerprint that is the `i`th result.
    pub(super) async fn home_state(
        &mut self,
        question: Question<'_>,
        got: &home::Answers,
        i: usize,
        around: Around,
    ) -> Result<HomeState, Stop> {
        let Session { server, client, still, .. } = self;
        let state = home_state(server, &mut client.outbox, still, question, got, i, around).await?;
        self.cancel.ends_within(timeout(&state.session.statement_timeout));
        Ok(state)
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
    ) -> Result<Option<Result<Vec<Fetched>, Stop>>, Stop> {
        let shared = self.shared.clone();
        let question = self.question(&shared, analyzed, around);
        // In a block home's answers have snapshots of their own: keys may miss a row that the
        // statement finds.
        let has_keys = around == Around::Own
            && plan.settles.is_empty()
            && plan.plan.fetches.iter().any(|f| f.keys.is_some());
        let parallel = self.shared.config.gateway.snapshot_order == SnapshotOrder::Parallel;
        // With others running, what overlapping saves in time it costs them in work.
        let alone = self.shared.running.load(Ordering::Relaxed) <= 2;
        let home_first = around == Around::Own && !parallel;
        let waits = home_first && !has_keys && alone && !question.is_short();
        let before = self.open(request, around, plan, question, waits).await?;
        if has_keys {
            append_keys(&mut self.server, plan);
        }
        describe_clients(&mut self.server, request);
        frontend::sync(&mut self.server.outbox);
        let mut asked = home::Asked::default();
        if waits {
            asked.read(&mut self.server, &mut self.client.outbox, Some(before)).await?;
        }
        let behind = before + 1;
        if has_keys || (home_first && !waits) {
            let got = asked.finish(&mut self.server, &mut self.client.outbox).await;
            let got = got.map_err(refused)?;
            self.stop_if_cancelled()?;
            let home = self.home_state(question, &got, before, around).await?;
            if !Session::holds(plan, (request, around), &home, &got, behind) {
                return Ok(None);
            }
            let keys = if has_keys {
                key_values(plan, &got, behind + usize::from(plan.asks_again))
            } else {
                vec![None; plan.plan.fetches.len()]
            };
            return Ok(Some(self.fetch(plan, &keys, around).await));
        }
        let keys = vec![None; plan.plan.fetches.len()];
        let Session { server, client, endpoint, cancel, block, still, user, .. } = &mut *self;
        let session = &plan.session;
        let caller = Caller { shared: &shared, home: endpoint, cancel, session, user };
        let savepoints = block.savepoints.open();
        let held = (around == Around::Savepoint)
            .then_some(Holding { sources: &mut block.sources, savepoints: &savepoints });
        let (home, fetched) = {
            let (stream, inbox) = (&mut client.stream, &mut client.inbox);
            let mut fetch = pin!(fetch_bounded(&caller, stream, inbox, plan, &keys, held));
            let mut fetched = None;
            let got = {
                let mut answer = pin!(asked.finish(server, &mut client.outbox));
                loop {
                    tokio::select! {
                        biased;
                        got = &mut answer => break got,
                        rows = &mut fetch, if fetched.is_none() => fetched = Some(rows),
                    }
                }
            };
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            let aside = &mut client.outbox;
            let told = match got {
                Ok(got) => {
                    home_state(server, aside, still, question, &got, before, around).await.map(
                        |home| (Session::holds(plan, (request, around), &home, &got, behind), home),
                    )
                }
                Err(error) => Err(refused(error)),
            };
            let holds = matches!(told, Ok((true, _)));
            if around == Around::Savepoint && !holds && fetched.is_none() {
                // The source's snapshot is the block's, and so is its connection.
                let session = told.as_ref().map_or(&plan.session, |(_, home)| &home.session);
                let deadline = timeout(&session.statement_timeout);
                let done = tokio::select! {
                    biased;
                    done = &mut fetch => done,
                    () = sleep(deadline) => Err(timed_out()),
                };
                if let Err(stop @ (Stop::Refuse(_) | Stop::End(_))) = done {
                    return Err(stop);
                }
            }
            let (holds, home) = told?;
            // What is fetched under another plan, or under another timeout, is dropped.
            let fetched = match fetched {
                _ if !holds => None,
                Some(rows) => Some(rows),
                None => Some(fetch.await),
            };
            (home, fetched)
        };
        self.check_reading(&home, analyzed, around)?;
        Ok(fetched)
    }

    /// This session as one that asks sources, under settings that home has told.
    pub(crate) fn caller<'a>(&'a self, session: &'a ask::Session) -> Caller<'a> {
        let Session { shared, endpoint: home, cancel, user, .. } = self;
        Caller { shared, home, cancel, session, user }
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
        let Session { client, shared, endpoint, cancel, block, user, .. } = self;
        let caller = Caller { shared, home: endpoint, cancel, session: &plan.session, user };
        let savepoints = block.savepoints.open();
        let held = (around == Around::Savepoint)
            .then_some(Holding { sources: &mut block.sources, savepoints: &savepoints });
        fetch_bounded(&caller, &mut client.stream, &mut client.inbox, plan, keys, held).await
    }
}

/// What an error means that home answers the opening with.
pub(crate) fn refused(error: ServerError) -> Stop {
    match Stop::from(error) {
        Stop::GiveUp(reason) if reason.cause == Cause::HomeError => {
            Stop::GiveUp(Reason { cause: Cause::Refused, ..reason })
        }
        stop => stop,
    }
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
fn rest(plan: &CachedPlan, why: Cause) {
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

/// Names the strategy for counts and `SHOW pgspan.last_route`.
pub(crate) fn route(strategy: Strategy, cause: Cause) -> Route {
    Route { strategy, reason: Reason::new(cause) }
}
