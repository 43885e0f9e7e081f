//! The client's transaction block: what ran in it, and the sources that hold a snapshot
//! for it.
//!
//! postgres_fdw opens one REPEATABLE READ transaction per source at the first foreign
//! read of a block and holds it to the block's end. So does the gateway in READ
//! COMMITTED blocks. Who reads first has the block: once home itself may have touched a
//! source, its snapshot differs from ours, and the rest of the block is home's; once the
//! gateway has read one, nothing that may touch a source goes to home unless `gate.rs`
//! lets it pass.

use super::home::{self, Around, Statement};
use super::query::Request;
use super::savepoints::{Savepoints, name_at_source};
use super::still::HomeState;
use super::stop::Stop;
use super::{End, Session};
use crate::sources::{Analyzed, CachedPlan, beside};
use crate::strategy::snapshot;
use bytes::Bytes;
use pgspan_pool::{Lease, ServerConnection, ServerError};
use pgspan_sql::analyze::{Analysis, Kind};
use pgspan_sql::ask;
use pgspan_sql::cause::Cause;
use pgspan_sql::certain::Runs;
use pgspan_sql::effect::{self, Effect, effect};
use pgspan_sql::quote::text_array_value;
use pgspan_sql::route::Reason;
use pgspan_sql::server::ServerSpec;
use pgspan_wire::backend::ErrorFields;
use pgspan_wire::frontend;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::timeout;

/// Statements of one block that are remembered; more make it unknown.
const REMEMBERED_MAX: usize = 64;

/// A text up to this long is remembered outside a block too: it may be BEGIN. In bytes.
const OPENING_BYTES_MAX: usize = 64;

/// Bytes of one statement that are remembered; a longer one makes it unknown.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// How long a source may take to answer what is not a statement of the client's.
pub(crate) const SOURCE_MAX: Duration = Duration::from_secs(5);

/// What a snapshot of a source's says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceSnapshot {
    /// `xmin:xmax:` and what runs between them.
    text: Bytes,
    /// On a replica the text does not list what runs.
    replica: bool,
}

impl SourceSnapshot {
    /// The question.
    pub fn statement() -> &'static Statement {
        static ONE: OnceLock<Statement> = OnceLock::new();
        ONE.get_or_init(|| {
            Statement::new(
                "SELECT pg_catalog.pg_current_snapshot(), pg_catalog.pg_is_in_recovery()::pg_catalog.text",
            )
        })
    }

    /// Asks one that does not work for anybody else.
    ///
    /// # Errors
    /// The source's, or a lost connection.
    pub async fn ask(lease: &mut Lease) -> Result<Option<SourceSnapshot>, ServerError> {
        home::run_prepared(lease, SourceSnapshot::statement());
        frontend::sync(&mut lease.outbox);
        let got = home::answers(lease, &mut bytes::BytesMut::new()).await?;
        let row = got.results.first().and_then(|r| r.rows.first());
        Ok(row.and_then(|r| SourceSnapshot::read(r)))
    }

    /// Reads the answer.
    pub fn read(row: &[Option<Bytes>]) -> Option<SourceSnapshot> {
        let [Some(text), Some(replica)] = row else { return None };
        Some(SourceSnapshot { text: text.clone(), replica: &replica[..] != b"false" })
    }

    /// Whether it shows the same rows as a later one, and so does every one between them:
    /// transactions only ever join those that are visible.
    pub fn stands(&self, later: &SourceSnapshot) -> bool {
        let still = || std::str::from_utf8(&self.text).is_ok_and(ask::is_still);
        self == later && (!self.replica || still())
    }
}

/// A source that the gateway has read in the block.
pub(crate) struct BlockSource {
    pub spec: ServerSpec,
    /// The connection that holds the snapshot. `None`: it was given up, or left in the
    /// middle of an answer; another one will do if it has the very same snapshot.
    pub lease: Option<Lease>,
    /// Its snapshot, once that is known.
    pub snapshot: Option<SourceSnapshot>,
    /// The client has seen an answer that rests on it.
    pub shown: bool,
    /// The present statement reads it.
    pub fresh: bool,
    /// The source has ended the connection: PostgreSQL could not read on.
    pub lost: bool,
    /// The numbers of the client's savepoints that the connection has set, in order.
    pub savepoints: Vec<u64>,
    /// It has been read behind the last of them.
    pub read_behind: bool,
}

impl BlockSource {
    /// Whether the source has ended the connection; then it is lost for the block.
    pub async fn has_hung_up(&mut self) -> bool {
        if let Some(lease) = &mut self.lease {
            let answer = timeout(SOURCE_MAX, SourceSnapshot::ask(lease)).await;
            self.lost |= !matches!(answer, Ok(Ok(_)));
        }
        self.lost
    }

    /// Goes back to the client's savepoint of this number: what was locked behind it is free.
    async fn go_back(&mut self, number: u64) {
        let Some(set) = self.savepoints.iter().copied().find(|set| *set >= number) else { return };
        if self.savepoints.last() == Some(&set) && !self.read_behind {
            return;
        }
        self.savepoints.retain(|known| *known <= set);
        self.read_behind = false;
        let Some(lease) = &mut self.lease else { return };
        let back = format!("ROLLBACK TO SAVEPOINT {}", name_at_source(set));
        let answer = timeout(SOURCE_MAX, lease.simple(&back)).await;
        self.lost |= !matches!(answer, Ok(Ok(_)));
    }
}

/// Under what the gateway read first in the block.
#[derive(Clone)]
pub(crate) struct Reading {
    /// Home's transaction.
    transaction: Bytes,
    /// Role and settings, names, definitions, servers and mappings, as home answered.
    pub fingerprint: [Bytes; 4],
    /// The question to which that was the answer.
    pub question: Statement,
}

impl Reading {
    /// The `search_path` in the settings.
    pub fn search_path(&self) -> String {
        let path = self.fingerprint[0].split(|b| *b == b'|').nth(1).unwrap_or_default();
        String::from_utf8_lossy(path).into_owned()
    }
}

/// A text that the gateway has answered in the block.
#[derive(Clone)]
pub(crate) struct Answered {
    pub text: String,
    pub plan: Arc<CachedPlan>,
    /// The number of the innermost savepoint before it; 0: none, or not known.
    behind: u64,
    /// The client has not gone back behind it: its tables are locked.
    pub locked: bool,
}

/// Whether a text whose effects are in question has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ran {
    /// It is about to, or was proven when it was.
    Proven,
    /// It has, and what it called may have gone since.
    Unproven,
}

struct Relayed {
    /// The number of the ReadyForQuery that answers it.
    answer: u64,
    /// `None`: not seen whole, or what it does is unknown.
    text: Option<Bytes>,
}

/// What is known of the current block.
#[derive(Default)]
pub(crate) struct Block {
    /// What was relayed and is not proven harmless.
    ran: VecDeque<Relayed>,
    /// ReadyForQuery messages that came.
    answers: u64,
    /// The client's savepoints.
    pub savepoints: Savepoints,
    /// What was relayed last ends the transaction, unless it fails before: its text, if it is one.
    ending: Option<Option<Bytes>>,
    pub sources: Vec<BlockSource>,
    pub reading: Option<Reading>,
    /// What the gateway has answered in it, and by which plans.
    pub read: Vec<Answered>,
    /// More than is remembered.
    pub read_more: bool,
    /// The block is home's, whose locks at the sources stand behind a savepoint.
    pub handed: bool,
    /// Home's `standard_conforming_strings` is on.
    pub plain: bool,
    /// The plan of the present statement.
    plan: Option<Arc<CachedPlan>>,
    /// Home runs the scans of the present statement if it gives a row.
    needs_rows: bool,
    /// Home and the client have seen a source differently, or it is lost: nothing that
    /// touches one may go on, and this is what it gets.
    pub doomed: Option<ErrorFields>,
}

impl Block {
    /// A statement is relayed as one of those that the next but `owed` ReadyForQuery
    /// answers. Outside a block its text matters only if it opens one.
    pub fn ran(&mut self, text: &[u8], owed: usize, outside: bool) {
        let max = if outside { OPENING_BYTES_MAX } else { TEXT_BYTES_MAX };
        let text = (text.len() <= max).then(|| Bytes::copy_from_slice(text));
        self.push(text, owed);
    }

    /// Something is relayed of which it is not known what it does.
    pub fn unknown(&mut self, owed: usize) {
        self.push(None, owed);
    }

    /// Whether home reads a text as the gateway does: with the setting off, a backslash escapes.
    pub fn reads(&self, text: &[u8]) -> bool {
        self.plain || !text.contains(&b'\\')
    }

    fn push(&mut self, text: Option<Bytes>, owed: usize) {
        let text = text.filter(|text| self.reads(text));
        let answer = self.answers + owed as u64 + 1;
        self.savepoints.relayed(text.as_deref(), answer);
        if self.ran.len() >= REMEMBERED_MAX {
            self.ran.clear();
            self.ran.push_back(Relayed { answer, text: None });
        }
        self.ran.push_back(Relayed { answer, text });
    }

    /// A ReadyForQuery came; `failed`: after an error. Whether the transaction is over.
    pub fn answered(&mut self, idle: bool, failed: bool) -> bool {
        self.answers += 1;
        let answers = self.answers;
        let ending = self.ending.take();
        let over = idle || (ending.is_some() && !failed);
        self.savepoints.answered(answers, over, idle);
        if !over {
            return false;
        }
        self.ran.retain(|r| r.answer > answers);
        if !idle {
            // Another one has begun behind the end.
            self.ran.push_front(Relayed { answer: answers, text: ending.flatten() });
        }
        self.reading = None;
        self.read.clear();
        self.read_more = false;
        self.handed = false;
        self.doomed = None;
        true
    }

    /// A command of a relayed statement is complete.
    pub fn completed(&mut self, tag: &[u8]) {
        if let Some(number) = self.savepoints.completed(tag, self.answers + 1) {
            self.read.iter_mut().for_each(|answered| answered.locked &= answered.behind < number);
        }
    }

    /// Before a text is relayed: if it goes back to a savepoint, so do the sources.
    pub async fn go_back(&mut self, text: &[u8]) {
        if let Some(number) = self.savepoints.target(text) {
            self.sources_go_back(number).await;
        }
    }

    async fn sources_go_back(&mut self, number: u64) {
        for source in &mut self.sources {
            source.go_back(number).await;
        }
    }

    /// What is relayed next ends the transaction, unless it fails before; `text`: if it is one.
    pub fn ends(&mut self, text: Option<Bytes>) {
        self.ending = Some(text);
    }

    /// Whether what was relayed last ends the transaction, unless it fails before.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The block has failed, and what was done behind the innermost savepoint is undone.
    /// Without one it will read nothing more, and gives its sources up, as postgres_fdw does
    /// when a transaction aborts.
    pub async fn failed(&mut self) {
        match self.savepoints.innermost() {
            Some(Some(number)) => self.sources_go_back(number).await,
            Some(None) => self.end(),
            None => {}
        }
    }

    /// Whether home may have touched a source in this block.
    pub fn is_unknown(&self) -> bool {
        self.handed || self.ran.iter().any(|r| r.text.is_none())
    }

    /// Home sees what the gateway has seen, and has locked it: the rest of the block is
    /// home's. Behind a savepoint it stays gated, as going back undoes home's locks.
    pub async fn hand_over(&mut self) {
        self.release().await;
        if !self.is_handed_over() {
            self.savepoints.mark();
        }
        self.handed = self.savepoints.may_undo();
        if !self.handed {
            self.sources.clear();
            self.unknown(0);
        }
    }

    /// Whether home has the block, and holds the locks of what the gateway read in it.
    pub fn is_handed_over(&self) -> bool {
        self.handed && self.doomed.is_none() && !self.savepoints.is_undone()
    }

    /// Whether what goes to home must pass the gate.
    pub fn holds(&self) -> bool {
        self.doomed.is_some() || !self.sources.is_empty()
    }

    /// Sources whose answer is no longer waited for lose their connection.
    pub fn drop_abandoned(&mut self) {
        for source in &mut self.sources {
            if source.lease.as_ref().is_some_and(|l| l.is_busy()) {
                source.lease = None;
            }
        }
    }

    /// Whether a plan's foreign scans may be run here and now.
    ///
    /// # Errors
    /// The reason for fallback when home might not run them, and so take no snapshot.
    pub fn may_read(&mut self, plan: &Arc<CachedPlan>) -> Result<(), Reason> {
        let held = |spec: &ServerSpec| self.sources.iter().any(|s| s.spec == *spec && s.shown);
        let all_held = plan.plan.servers.iter().all(held);
        self.plan = Some(plan.clone());
        self.needs_rows = plan.runs == Runs::WithRows && !all_held;
        let in_doubt = match plan.runs {
            Runs::Always => false,
            // How many rows are copied is known when they have been sent.
            Runs::WithRows => plan.analysis.kind != Kind::Select,
            Runs::Doubtful => true,
        };
        if in_doubt && !all_held {
            return Err(Reason::new(Cause::MightNotRun));
        }
        Ok(())
    }

    /// Whether the present statement's answer is home's to give if it has no row.
    pub fn needs_rows(&self) -> bool {
        self.needs_rows
    }

    /// The client has the answer to a text.
    pub fn shown(&mut self, text: &str) {
        let plan = self.plan.take();
        if self.sources.is_empty() {
            return;
        }
        for source in &mut self.sources {
            source.shown |= std::mem::take(&mut source.fresh);
        }
        let Some(plan) = plan else { return };
        let behind = self.savepoints.innermost().flatten().unwrap_or_default();
        let known = |a: &&mut Answered| a.text == text && Arc::ptr_eq(&a.plan, &plan);
        if let Some(answered) = self.read.iter_mut().find(known) {
            answered.behind = if answered.locked { answered.behind.min(behind) } else { behind };
            answered.locked = true;
            return;
        }
        // What cannot be asked for again cannot be handed over either.
        self.read_more |= self.read.len() >= REMEMBERED_MAX;
        self.read.truncate(REMEMBERED_MAX - 1);
        self.read.push(Answered { text: text.to_owned(), plan, behind, locked: true });
    }

    /// After a statement that the client has not seen an answer of: sources that it was the
    /// first to read are as if it had not.
    pub async fn forget_unshown(&mut self) {
        let (shown, unshown) = self.sources.drain(..).partition(|s| s.shown);
        self.sources = shown;
        self.sources.iter_mut().for_each(|s| s.fresh = false);
        self.plan = None;
        end_all(unshown).await;
        if self.sources.is_empty() {
            self.reading = None;
        }
    }

    /// The sources give snapshots and locks up; returns when they have. What is known of
    /// the snapshots stays.
    pub async fn release(&mut self) {
        let leases: Vec<Lease> = self.sources.iter_mut().filter_map(|s| s.lease.take()).collect();
        snapshot::end(leases).await;
    }

    /// The same at a block's end, when nobody waits for it.
    pub fn end(&mut self) {
        let sources = std::mem::take(&mut self.sources);
        if sources.iter().any(|s| s.lease.is_some()) {
            tokio::spawn(end_all(sources));
        }
    }
}

async fn end_all(sources: Vec<BlockSource>) {
    snapshot::end(sources.into_iter().filter_map(|s| s.lease).collect()).await;
}

/// Appends what takes the locks of the client's statement at home, to the block's end and in
/// PostgreSQL's order: home parses it. (What the client has prepared is described, which takes
/// them too.) Nothing is executed, and no source is asked.
///
/// # Errors
/// When the statement to be copied has no parentheses.
pub(crate) fn lock_tables(
    server: &mut ServerConnection,
    request: &Request,
    analysis: &Analysis,
) -> Result<(), Stop> {
    if let Some(batch) = &request.batch {
        frontend::describe_statement(&mut server.outbox, &batch.bind.statement);
        return Ok(());
    }
    let text = match analysis.kind {
        Kind::CopyOut => super::state::copied_select(&request.text[analysis.query_start..])?,
        _ => request.text.as_str(),
    };
    let original = "pgspan:original";
    frontend::close_statement(&mut server.outbox, original);
    frontend::parse(&mut server.outbox, original, text, &[]);
    Ok(())
}

impl Session {
    /// What a text may do, as home reads texts now.
    pub(super) fn effect_of(&self, text: &[u8], param_oids: &[u32]) -> Option<Effect> {
        if !self.block.reads(text) || param_oids.iter().any(|o| *o >= super::inbound::FIRST_OWN_OID)
        {
            return None;
        }
        let encoding = self.server.parameters.get("client_encoding").map_or("", String::as_str);
        let utf8 = matches!(encoding, "UTF8" | "SQL_ASCII");
        beside(text.len(), || effect(text, utf8))
    }

    /// Whether a text is SAVEPOINT, SET and the like, in which nothing is read. Most texts are
    /// told by their first word, without being cut into tokens.
    pub(super) fn is_control(&self, text: &[u8]) -> bool {
        text.len() <= OPENING_BYTES_MAX && self.controls(text)
    }

    /// The same of a text of any length.
    pub(super) fn controls(&self, text: &[u8]) -> bool {
        effect::may_be_control(text)
            && self.effect_of(text, &[]).is_some_and(|effect| !effect.is_named())
    }

    /// Asks home whether nothing that a text could name leads to a source, and where it has
    /// run, whether home has opened no foreign table.
    pub(super) async fn is_harmless(&mut self, effect: &Effect, ran: Ran) -> Result<bool, Stop> {
        static ONE: OnceLock<[Statement; 2]> = OnceLock::new();
        if !effect.is_named() {
            return Ok(true);
        }
        let [question, opened] = ONE.get_or_init(|| {
            [Statement::new(effect::question()), Statement::new(effect::OPENED_FOREIGN)]
        });
        let array = |names: &std::collections::BTreeSet<String>| {
            Some(Bytes::from(text_array_value(names.iter())))
        };
        let values = [array(&effect.names), array(&effect.operators), array(&effect.called)];
        let ask = |server: &mut ServerConnection| {
            home::prepare(server, question, &[]);
            frontend::bind(&mut server.outbox, "pgspan:", question.name(), &[], &values, &[]);
            home::execute(server);
            if ran == Ran::Unproven {
                home::run_prepared(server, opened);
            }
        };
        let got = self.ask_or_undo(home::Locks::GivenUp, ask).await?;
        let told = |n| got.value(n, 0).map(|value| &value[..]);
        Ok(told(0) == Some(b"t") && (ran == Ran::Proven || told(1) == Some(b"f")))
    }

    /// Before the first foreign read after other statements of a block: home must not
    /// have touched a source meanwhile.
    ///
    /// # Errors
    /// The reason for fallback when it may have.
    pub(super) async fn check_block(&mut self) -> Result<(), Stop> {
        if self.block.is_unknown() {
            return Err(Reason::new(Cause::Touched).into());
        }
        if self.block.ran.is_empty() {
            return Ok(());
        }
        let mut all = Effect::default();
        for text in self.block.ran.iter().filter_map(|r| r.text.as_ref()) {
            all.then(self.effect_of(text, &[]).ok_or(Reason::new(Cause::Touched))?);
        }
        // Behind the gateway's first read all has passed the gate, and home holds locks on what
        // the gateway has read.
        let gated = !self.block.sources.is_empty();
        if !gated && all.goes_back() {
            return Err(Reason::new(Cause::Touched).into());
        }
        if !self.is_harmless(&all, if gated { Ran::Proven } else { Ran::Unproven }).await? {
            return Err(Reason::new(Cause::Touched).into());
        }
        self.block.ran.clear();
        Ok(())
    }

    /// As [`Session::check_block`], before home locks the foreign tables of a statement that it
    /// only parses: from then on its locks say nothing of what ran before.
    pub(super) async fn prove_block(&mut self) -> Result<(), End> {
        if self.is_gated() {
            return Ok(());
        }
        match self.check_block().await {
            Ok(()) => Ok(()),
            Err(Stop::End(end)) => Err(end),
            Err(_) => {
                self.block.unknown(0);
                Ok(())
            }
        }
    }

    /// Whether the gateway may answer a statement in the block that the client is in.
    pub(super) fn may_answer_in_block(
        &self,
        request: &Request,
        analysis: &Analysis,
        database: &str,
    ) -> Result<(), Stop> {
        let batch = request.batch.as_ref();
        if batch.is_some_and(|b| !b.tail.is_empty()) {
            return Err(Reason::new(Cause::ClosesInBlock).into());
        }
        if batch.is_some_and(|b| b.max_rows != 0 || !b.bind.portal.is_empty()) {
            // While it is open, the foreign table is in use: DDL of the session's own is refused.
            return Err(Reason::new(Cause::PortalInBlock).into());
        }
        if matches!(&analysis.kind, Kind::Explain(o) if o.analyze) {
            return Err(Reason::new(Cause::ExplainInBlock).into());
        }
        let first = self.block.sources.is_empty();
        if first && self.shared.sources.is_left_to_home(database, &request.text) {
            return Err(Reason::new(Cause::FollowsInBlock).into());
        }
        Ok(())
    }

    /// Whether what is held is this transaction's and this role's; else it must not be read.
    pub(super) fn check_reading(
        &mut self,
        home: &HomeState,
        analyzed: &Analyzed,
        around: Around,
    ) -> Result<(), Stop> {
        if around == Around::Own {
            return Ok(());
        }
        let fingerprint = || {
            let [settings, names, definitions, servers, _] = &home.fingerprint;
            [settings.clone(), names.clone(), definitions.clone(), servers.clone()]
        };
        match &self.block.reading {
            Some(reading) if reading.transaction != home.transaction => {
                // It ended in a way that nobody saw.
                self.block.end();
                self.block.reading = None;
                self.block.unknown(0);
                Err(Reason::new(Cause::Touched).into())
            }
            Some(reading) if role(&reading.fingerprint[0]) != role(&home.fingerprint[0]) => {
                Err(Reason::new(Cause::OtherRoleInBlock).into())
            }
            Some(_) => Ok(()),
            None => {
                self.block.reading = Some(Reading {
                    transaction: home.transaction.clone(),
                    fingerprint: fingerprint(),
                    question: analyzed.fingerprint[usize::from(home.session.superuser)].clone(),
                });
                Ok(())
            }
        }
    }
}

/// The role in a fingerprint's first column.
pub(super) fn role(settings: &[u8]) -> &[u8] {
    settings.split(|b| *b == b'|').next().unwrap_or_default()
}
