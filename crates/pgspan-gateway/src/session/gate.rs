//! What goes to home after the gateway has read a source in the client's block.
//!
//! A statement that is proven to touch no source passes. Any other one makes the block
//! home's, which is right only if home's postgres_fdw sees what the gateway has seen: home
//! is made to take its snapshot, and then the source is asked whether its own is still the
//! one that the gateway holds. Transactions only ever join those that a snapshot shows, so
//! home's, which was taken between the two, is the same. Otherwise the client gets what
//! PostgreSQL gives where a block cannot be serialized, and the texts that the gateway read
//! with are home's in later blocks.

use super::block::{BlockSource, Ran, SOURCE_MAX, SourceSnapshot, role};
use super::home::{self, Answers, Locks};
use super::request::{self, Text};
use super::stop::Stop;
use super::{End, Session};
use crate::sources::fetch::{self, Caller};
use bytes::Bytes;
use pgspan_pool::{ServerConnection, ServerError};
use pgspan_sql::effect::{self, Effect};
use pgspan_sql::plan::qualified_home;
use pgspan_sql::quote::literal;
use pgspan_sql::savepoint::may_go_back;
use pgspan_wire::backend::{ErrorFields, TransactionStatus, put_ready};
use pgspan_wire::frame::Frame;
use pgspan_wire::frontend;
use std::collections::BTreeSet;

/// What goes to home next.
pub(super) struct Passing<'a> {
    /// What it may do; `None` where that is unknown.
    pub effect: Option<Effect>,
    /// Its text, if it is one.
    pub text: Option<&'a [u8]>,
    /// The first of its texts, which home refuses in a block that has failed, and with it the
    /// rest, unless it leaves the failure.
    pub first: Option<&'a [u8]>,
    /// It may go back to a savepoint, and do more behind that.
    pub goes_back: bool,
}

impl Session {
    /// Whether what goes to home has to be looked at first.
    pub(super) fn is_gated(&self) -> bool {
        self.block.holds()
    }

    /// Before a statement is relayed in a block that is gated. An error: it is the answer, and
    /// the block has failed.
    pub(super) async fn pass(&mut self, what: Passing<'_>) -> Result<Option<ErrorFields>, End> {
        let failed = self.server.status == TransactionStatus::Failed;
        if failed && what.first.is_some_and(|text| !effect::may_leave_failure(text)) {
            return Ok(None);
        }
        let Some(effect) = what.effect else {
            return self.gate(what.goes_back).await;
        };
        if effect.is_named() {
            if failed {
                return self.gate(what.goes_back).await;
            }
            // Each time: what the words mean others may have changed since.
            let harmless = match self.block.is_handed_over() && !what.goes_back {
                true => Ok(false),
                false => self.is_harmless(&effect, Ran::Proven).await,
            };
            match harmless {
                Ok(true) => {}
                Ok(false) | Err(Stop::GiveUp(_)) => {
                    if let Some(error) = self.gate(what.goes_back).await? {
                        return Ok(Some(error));
                    }
                }
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Refuse(error)) => {
                    self.fail_block(false).await?;
                    return Ok(Some(error));
                }
            }
        }
        if effect.ends() {
            // Whoever has the answer to COMMIT finds no lock of ours.
            self.block.release().await;
            self.block.ends(what.text.map(Bytes::copy_from_slice));
        }
        self.block.go_back(what.text.unwrap_or_default()).await;
        Ok(None)
    }

    /// Makes the block home's, or fails it; `goes_back`: home's locks may be undone in the
    /// middle of what follows.
    async fn gate(&mut self, goes_back: bool) -> Result<Option<ErrorFields>, End> {
        let in_block = self.server.status == TransactionStatus::InBlock;
        let goes_back = goes_back && self.block.savepoints.innermost() != Some(None);
        let fate = match self.block.doomed.clone() {
            Some(error) => Fate::Lost(error),
            None if self.block.read_more || !in_block || goes_back => Fate::Moved,
            None if self.block.is_handed_over() => Fate::Same,
            None => self.hand_to_home().await?,
        };
        let error = match fate {
            Fate::Same => {
                self.block.hand_over().await;
                return Ok(None);
            }
            Fate::Moved => {
                let database = self.database_key();
                for answered in self.block.read.drain(..) {
                    self.shared.sources.leave_to_home(&database, answered.text);
                }
                moved()
            }
            Fate::Lost(error) => error,
        };
        if self.server.status == TransactionStatus::InBlock {
            self.fail_block(false).await?;
        }
        let lost = self.block.sources.iter().find(|s| s.lost);
        let always = lost.map_or_else(moved, |source| reject(&source.spec.name));
        self.block.doomed.get_or_insert(always);
        self.block.release().await;
        Ok(Some(error))
    }

    /// Home takes its snapshots of the sources; then each is asked for its present one.
    async fn hand_to_home(&mut self) -> Result<Fate, End> {
        if let Some(lost) = self.block.sources.iter().find(|s| s.lost) {
            return Ok(Fate::Lost(lost_connection(&lost.spec.name)));
        }
        let read = self.block.read.clone();
        let Some(reading) = self.block.reading.clone() else { return Ok(Fate::Moved) };
        let (expected, question) = (&reading.fingerprint, &reading.question);
        // What the gateway has locked at the sources is home's to lock. What the client has
        // gone back behind is read for its snapshot alone.
        let again = self.block.handed;
        let probes = |locked: bool| -> BTreeSet<String> {
            let read = read.iter().filter(|answered| answered.locked == locked);
            let fetches = read.flat_map(|answered| &answered.plan.plan.fetches);
            fetches.map(|f| format!("SELECT FROM {} LIMIT 1", qualified_home(f))).collect()
        };
        let [locked, passing] = [probes(true), probes(false)];
        if again && locked.is_empty() {
            return Ok(Fate::Same);
        }
        // As the role, and with the meaning of names, of the block's first read. Who has locked
        // the table since home's locks were undone is not waited for.
        let asked = "SELECT CURRENT_USER, pg_catalog.current_setting('role'), pg_catalog.current_setting('search_path'), pg_catalog.current_setting('statement_timeout')";
        let got = match self.behind_savepoint(|server| home::run_once(server, asked)).await? {
            Ok(got) => got,
            Err(fate) => return Ok(fate),
        };
        let told = |n| String::from_utf8_lossy(got.value(0, n).map_or(b"", |v| v)).into_owned();
        let now = [1, 2, 3].map(told);
        let then = [
            String::from_utf8_lossy(role(&expected[0])).into_owned(),
            reading.search_path(),
            if again { AGAIN_MAX.to_owned() } else { told(3) },
        ];
        let alike = then[0] == told(0) && then[1..] == now[1..];
        let settings = (!alike).then(|| [local(&then), local(&now)]);
        let probed = self.behind_savepoint(|server| {
            if let Some([then, _]) = &settings {
                home::run_once(server, then);
            }
            home::run_prepared(server, question);
            locked.iter().for_each(|probe| home::run_once(server, probe));
            if !again && !passing.is_empty() {
                home::run_once(server, "SAVEPOINT pgspan_passing");
                passing.iter().for_each(|probe| home::run_once(server, probe));
                home::run_once(server, "ROLLBACK TO SAVEPOINT pgspan_passing");
                home::run_once(server, "RELEASE SAVEPOINT pgspan_passing");
            }
            if let Some([_, now]) = &settings {
                home::run_once(server, now);
            }
        });
        let got = match probed.await? {
            Ok(got) => got,
            Err(fate) => return Ok(fate),
        };
        let answer = usize::from(settings.is_some());
        let unaltered = (1..expected.len()).all(|n| got.value(answer, n) == Some(&expected[n]));
        let session = read.first().map(|answered| answered.plan.session.clone());
        let Some(session) = session.filter(|_| unaltered) else { return Ok(Fate::Moved) };
        let Session { shared, endpoint, cancel, block, user, .. } = self;
        let caller = Caller { shared, home: endpoint, cancel, session: &session, user };
        for source in &mut block.sources {
            if source.has_hung_up().await {
                return Ok(Fate::Lost(lost_connection(&source.spec.name)));
            }
            if !stands(&caller, source).await {
                return Ok(Fate::Moved);
            }
        }
        Ok(Fate::Same)
    }

    /// Asks home in the client's block; an error is the block's fate.
    async fn behind_savepoint(
        &mut self,
        ask: impl FnOnce(&mut ServerConnection),
    ) -> Result<Result<Answers, Fate>, End> {
        match self.ask_or_undo(Locks::Kept, ask).await {
            Ok(got) => Ok(Ok(got)),
            Err(ServerError::Sql(error)) => {
                tracing::debug!(%error, "home could not read the source");
                // Stopped, or the source is gone: what the statement itself would have met. Where
                // locks are taken again, it would have met nothing.
                let own = matches!(error.sqlstate(), "57014" | "55P03");
                let source = error.sqlstate().starts_with("08");
                let met = (own || source) && !self.block.handed;
                Ok(Err(if met { Fate::Lost(error) } else { Fate::Moved }))
            }
            Err(lost) => Err(lost.into()),
        }
    }

    /// A whole request is answered with an error.
    pub(super) fn refuse_with(&mut self, error: &ErrorFields) {
        error.put(&mut self.client.outbox);
        put_ready(&mut self.client.outbox, self.server.status);
    }

    /// The first message of the client's, which is not seen whole before it goes to home.
    pub(super) async fn serve_gate(&mut self) -> Result<(), End> {
        let front = pgspan_wire::frame::peek(&self.client.inbox).map_err(|_| End::Client)?;
        let Some((tag, size)) = front else { return Ok(()) };
        let whole = self.client.inbox.len() >= size && self.held.is_empty();
        let calls = tag == b'F' && whole;
        let Some(error) = self.gate(!calls).await? else {
            if calls && self.is_gated() {
                self.relay(tag, size);
            }
            return Ok(());
        };
        // Home must not have it: it may begin with leaving the failed block.
        let held = self.held.take();
        self.statements.forget(&held);
        if b"QF".contains(&tag) {
            self.client_dropped = size;
            self.refuse_with(&error);
        } else {
            error.put(&mut self.client.outbox);
            self.discard_to_sync = true;
        }
        Ok(())
    }

    /// Before a batch is relayed, as [`Session::pass`]; `flushed`: a piece of one.
    pub(super) async fn pass_frames(
        &mut self,
        frames: &[Frame],
        bound: &[Option<Text>],
        flushed: bool,
    ) -> Result<Option<ErrorFields>, End> {
        if !self.is_gated() {
            return Ok(None);
        }
        let texts = request::texts(frames, bound);
        // What is bound and left waiting may end the transaction, or go back in it, unseen.
        let waits = !request::executes(frames, bound);
        let effect = self.effect_of_batch(frames, bound).filter(|_| !waits);
        let alike = texts.iter().all(|text| *text == texts[0]);
        let any = |may: &dyn Fn(&[u8]) -> bool| texts.iter().any(|t| t.as_deref().is_none_or(may));
        let goes_back = !alike && any(&|text| may_go_back(text, self.block.reads(text)));
        if goes_back {
            // What was bound may not be executed, or in another order.
            self.block.savepoints.forget();
        }
        let first = texts.first().and_then(|text| text.as_deref());
        // One statement is known again by its text. What it does is not proven by its Parse.
        let text = first.filter(|_| alike && request::binds(frames));
        // A Sync of the gateway's own would commit what stands behind an end that nobody sees.
        let open = flushed || any(&effect::may_copy);
        let ends = open && effect.is_none() && any(&effect::may_leave_failure);
        let goes_back = goes_back || waits || ends;
        self.pass(Passing { effect, text, first, goes_back }).await
    }

    /// What the messages of a batch may do together.
    pub(super) fn effect_of_batch(
        &self,
        frames: &[Frame],
        bound: &[Option<Text>],
    ) -> Option<Effect> {
        let mut all = Effect::default();
        for (frame, bound) in frames.iter().zip(bound) {
            match frame.tag {
                // Its Bind counts; see `record` for what a Parse alone may do.
                b'P' => {
                    let sql = frontend::Parse::decode(frame.body()).ok()?.sql;
                    if !self.controls(&sql) {
                        all.then(self.effect_of(super::inbound::PARSED, &[])?);
                    }
                }
                b'B' => {
                    let (sql, param_oids) = bound.as_ref()?;
                    all.then(self.effect_of(sql, param_oids)?);
                }
                tag if request::is_of_batch(tag) => {}
                _ => return None,
            }
        }
        Some(all)
    }
}

/// What comes of handing a block to home.
pub(super) enum Fate {
    /// Home sees what the gateway has seen.
    Same,
    /// That is not proven.
    Moved,
    /// The source cannot be read on.
    Lost(ErrorFields),
}

/// `statement_timeout` where home takes locks again that it had before.
const AGAIN_MAX: &str = "2s";

/// Sets role, `search_path` and `statement_timeout` to the end of the transaction.
fn local([role, path, timeout]: &[String; 3]) -> String {
    format!(
        "SELECT pg_catalog.set_config('role', {}, true), pg_catalog.set_config('search_path', {}, true), \
         pg_catalog.set_config('statement_timeout', {}, true)",
        literal(role),
        literal(path),
        literal(timeout)
    )
}

/// Whether a source still has the snapshot that is held.
async fn stands(caller: &Caller<'_>, source: &BlockSource) -> bool {
    let Some(held) = &source.snapshot else { return false };
    let Ok(mut lease) = fetch::lease(caller, &source.spec).await else { return false };
    let now = tokio::time::timeout(SOURCE_MAX, SourceSnapshot::ask(&mut lease)).await;
    matches!(now, Ok(Ok(Some(now))) if held.stands(&now))
}

/// The block cannot go on: home would see another state of the source.
pub(crate) fn moved() -> ErrorFields {
    ErrorFields::new("ERROR", "40001", "could not serialize access due to concurrent update")
        .with_detail("A source has changed since pgspan read it in this transaction.")
        .with_hint("The transaction might succeed if retried.")
}

/// What a block that goes on behind a savepoint has of a source that ended the connection
/// (postgres_fdw's `pgfdw_reject_incomplete_xact_state_change`).
fn reject(server: &str) -> ErrorFields {
    let text = format!("connection to server \"{server}\" was lost");
    ErrorFields::new("ERROR", "08000", text)
}

/// The source has ended the connection that holds the block's snapshot.
pub(crate) fn lost_connection(server: &str) -> ErrorFields {
    let text = format!("connection to server \"{server}\" was lost");
    ErrorFields::new("ERROR", "08006", text)
}
