//! From a whole request to the straight line or to the relay.

use super::gate::Passing;
use super::home::{Locks, Statement};
use super::query::{Read, Request};
use super::request::{self, Reading, Text};
use super::{End, Session};
use crate::sources::Analyzed;
use pgspan_pool::ServerError;
use pgspan_sql::catalog::Piece;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_sql::savepoint::may_go_back;
use pgspan_wire::backend::{self, ErrorFields, TransactionStatus};
use pgspan_wire::frame::Frame;
use pgspan_wire::frontend;
use std::sync::Arc;

impl Session {
    /// A simple query that may be ours.
    pub(super) async fn serve_query(&mut self, frame: Frame) -> Result<(), End> {
        self.refresh_catalog(&Piece::ALL).await?;
        let body = frame.body();
        let text = body.strip_suffix(b"\0").unwrap_or(&body);
        let Ok(text) = std::str::from_utf8(text) else {
            return self.pass_query(frame).await;
        };
        let shows = super::show::is_show(text.as_bytes());
        if shows {
            self.regain_trust().await?;
            self.learn_what_is_seen().await?;
        }
        if let Some(select) = shows.then(|| self.show(text)).flatten() {
            // A SELECT of literals.
            let trust = self.trust;
            self.hand_over(b'Q', None, None);
            self.trust = trust;
            frontend::query(&mut self.server.outbox, &select);
            return Ok(());
        }
        if !self.names_foreign(text.as_bytes()) {
            self.count_relayed();
            return self.pass_query(frame).await;
        }
        if self.may_take_snapshot(Some(text.as_bytes())).await {
            self.regain_trust().await?;
        }
        let request = Request {
            text: text.to_owned(),
            param_oids: Arc::new([]),
            batch: None,
            read: Read::Now,
        };
        if self.answer(&request).await? {
            self.close_unnamed().await
        } else {
            self.pass_query(frame).await
        }
    }

    /// A simple query that home is to run.
    async fn pass_query(&mut self, frame: Frame) -> Result<(), End> {
        let body = frame.body();
        let text = body.strip_suffix(b"\0").unwrap_or(&body);
        if self.is_gated() {
            let effect = self.effect_of(text, &[]);
            let goes_back = may_go_back(text, self.block.reads(text));
            let what = Passing { effect, text: Some(text), first: Some(text), goes_back };
            if let Some(error) = self.pass(what).await? {
                self.refuse_with(&error);
                return Ok(());
            }
        }
        self.record_query(text);
        self.relay_whole(&[frame], vec![None]);
        Ok(())
    }

    /// A whole batch that home is to run.
    async fn pass_batch(&mut self, frames: &[Frame], bound: Vec<Option<Text>>) -> Result<(), End> {
        if let Some(error) = self.pass_frames(frames, &bound, false).await? {
            self.statements.forget(frames);
            self.refuse_with(&error);
            return Ok(());
        }
        self.relay_whole(frames, bound);
        Ok(())
    }

    /// A whole batch of the extended protocol that may be ours.
    pub(super) async fn serve_batch(&mut self) -> Result<(), End> {
        let mut frames = self.held.take();
        self.refresh_catalog(&Piece::ALL).await?;
        let mut bound = self.bound(&frames);
        // In a block that has failed home refuses whatever the names mean.
        let mut doubted =
            self.trust.is_doubted() && self.server.status != TransactionStatus::Failed;
        if doubted {
            let first = request::texts(&frames, &bound).into_iter().next().flatten();
            if self.may_take_snapshot(first.as_deref()).await {
                self.regain_trust().await?;
                bound = self.bound(&frames);
                doubted = self.trust.is_doubted();
            }
            if doubted {
                bound = request::bound(&frames, |_| None);
            }
        }
        if runs_show(&frames, &bound) {
            self.learn_what_is_seen().await?;
        }
        let shape = request::batch(&frames);
        let noticed = self.notice_statements(&mut frames);
        let batch = match shape {
            Ok(Some(batch)) => batch,
            Ok(None) | Err(_) => {
                if let [head @ .., _sync] = &frames[..]
                    && self.is_foreign_head(head)
                {
                    self.relay_head(head, true).await?;
                    backend::put_ready(&mut self.client.outbox, self.server.status);
                    return Ok(());
                }
                let runs_foreign = request::binds(&frames) && self.statements.any_foreign();
                if runs_foreign {
                    self.fell_back(Reason::new(Cause::SeveralInBatch));
                }
                return self.pass_batch(&frames, bound).await;
            }
        };
        let parsed_here = batch.head.first().is_some_and(|f| f.tag == b'P');
        let noticed = noticed.into_iter().rev().find(|(name, _)| *name == batch.bind.statement);
        let prepared = noticed.map(|(_, prepared)| prepared);
        let known = || self.statements.get(&batch.bind.statement).filter(|_| !doubted).cloned();
        let Some(prepared) = prepared.or_else(known) else {
            return self.pass_batch(&frames, bound).await;
        };
        let text = std::str::from_utf8(&prepared.sql).ok().filter(|_| prepared.foreign);
        let Some(text) = text.filter(|t| !super::show::is_show(t.as_bytes())) else {
            if !parsed_here {
                self.show_anew(&batch.bind.statement, &prepared).await?;
            }
            self.count_relayed();
            return self.pass_batch(&frames, bound).await;
        };
        let head = batch.head.len();
        let name = batch.bind.statement.clone();
        if head > 0 && !self.relay_head(&frames[..head], !name.is_empty()).await? {
            backend::put_ready(&mut self.client.outbox, self.server.status);
            return Ok(());
        }
        let reading = self.statements.get(&name).and_then(|p| p.reading.clone());
        let request = Request {
            text: text.to_owned(),
            param_oids: prepared.param_oids.clone(),
            batch: Some(batch),
            read: if parsed_here { Read::Now } else { Read::Earlier(reading.clone()) },
        };
        if self.answer(&request).await? {
            return Ok(());
        }
        let alike = self.is_read_alike(reading.as_ref()).await?;
        self.pass_batch(&frames[head..], bound.split_off(head)).await?;
        if alike {
            self.statements.read(&name, reading);
        }
        Ok(())
    }

    /// What is held goes on without its Sync; `answers`: the client wants them at once. Then
    /// Parse and Describe alone are closed with a Sync of our own, whose ReadyForQuery is
    /// swallowed, so that what follows starts on clean ground; anything else is relayed as it is.
    pub(super) async fn serve_flush(&mut self, answers: bool) -> Result<(), End> {
        self.refresh_catalog(&Piece::ALL).await?;
        let mut frames = self.held.take();
        let mut bound = self.bound(&frames);
        let shows = runs_show(&frames, &bound);
        let first = request::texts(&frames, &bound).into_iter().next().flatten();
        if shows || self.may_take_snapshot(first.as_deref()).await {
            self.regain_trust().await?;
            bound = self.bound(&frames);
        }
        if shows {
            self.learn_what_is_seen().await?;
        }
        self.notice_statements(&mut frames);
        if self.is_foreign_head(&frames) {
            self.discard_to_sync = !self.relay_head(&frames, true).await?;
            return Ok(());
        }
        let parses = frames.iter().all(|f| b"PDC".contains(&f.tag));
        if !parses && let Some(error) = self.pass_frames(&frames, &bound, true).await? {
            self.statements.forget(&frames);
            error.put(&mut self.client.outbox);
            self.discard_to_sync = true;
            return Ok(());
        }
        self.relay_whole(&frames, bound);
        match answers {
            true if parses => self.owed.close_batch(&mut self.server.outbox),
            true => self.owed.flush(&mut self.server.outbox),
            false => {}
        }
        Ok(())
    }

    /// What a held batch prepares, seen with the catalog as it is now, and what of it is left
    /// at its end. A SHOW of the gateway's own is replaced by the SELECT that stands for it.
    /// Gives what was prepared, in order.
    fn notice_statements(&mut self, frames: &mut [Frame]) -> Vec<(String, request::Prepared)> {
        let mut noticed = Vec::new();
        for frame in frames {
            if let Some(name) = request::closed_name(frame) {
                self.statements.remove(&name);
            }
            if frame.tag != b'P' {
                continue;
            }
            let Ok(parse) = frontend::Parse::decode(frame.body()) else { continue };
            let foreign = self.names_foreign(&parse.sql);
            let show = std::str::from_utf8(&parse.sql)
                .ok()
                .filter(|t| super::show::is_show(t.as_bytes()))
                .and_then(|t| self.show(t));
            if let Some(select) = show {
                let mut raw = bytes::BytesMut::new();
                frontend::parse(&mut raw, &parse.name, &select, &parse.param_oids);
                frame.raw = raw.freeze();
            }
            let param_oids = parse.param_oids.into();
            self.remember(&parse.name, parse.sql, param_oids, foreign);
            if let Some(prepared) = self.statements.get(&parse.name) {
                noticed.push((parse.name, prepared.clone()));
            }
        }
        noticed
    }

    /// A prepared SHOW of the gateway's own tells of now: at home another SELECT takes the
    /// place of the one that stood for it.
    async fn show_anew(&mut self, name: &str, prepared: &request::Prepared) -> Result<(), End> {
        let text = std::str::from_utf8(&prepared.sql).ok();
        let show = text.filter(|t| super::show::is_show(t.as_bytes())).and_then(|t| self.show(t));
        let Some(select) = show.filter(|_| self.server.status != TransactionStatus::Failed) else {
            return Ok(());
        };
        frontend::close_statement(&mut self.server.outbox, name);
        frontend::parse(&mut self.server.outbox, name, &select, &prepared.param_oids);
        frontend::sync(&mut self.server.outbox);
        match super::home::answers(&mut self.server, &mut self.client.outbox).await {
            Ok(_) | Err(ServerError::Sql(_)) => Ok(()),
            Err(lost) => Err(lost.into()),
        }
    }

    /// Hands whole messages to home; the relay loop brings the answers back.
    pub(super) fn relay_whole(&mut self, frames: &[Frame], bound: Vec<Option<Text>>) {
        for (f, bound) in frames.iter().zip(&bound) {
            self.record(f, bound.as_ref());
            self.hand_over(f.tag, Some(&f.raw), bound.as_ref());
        }
    }

    /// A Query that the gateway answers takes the client's unnamed statement and portal away at
    /// home, as a Query at home does.
    async fn close_unnamed(&mut self) -> Result<(), End> {
        self.statements.remove("");
        let portal = std::mem::take(&mut self.unnamed_portal_at_home);
        if !std::mem::take(&mut self.unnamed_at_home) && !portal {
            return Ok(());
        }
        frontend::close_portal(&mut self.server.outbox, "");
        frontend::close_statement(&mut self.server.outbox, "");
        frontend::sync(&mut self.server.outbox);
        match super::home::answers(&mut self.server, &mut self.client.outbox).await {
            Ok(_) | Err(ServerError::Sql(_)) => Ok(()),
            Err(lost) => Err(lost.into()),
        }
    }

    /// Whether messages are one Parse of a text that names a foreign table, and Describes of
    /// what it prepares.
    fn is_foreign_head(&self, frames: &[Frame]) -> bool {
        let [parse, describes @ ..] = frames else { return false };
        let prepared = request::parsed_name(parse.tag, &parse.raw)
            .and_then(|name| Some((self.statements.get(&name)?, name)));
        let Some((prepared, name)) = prepared else { return false };
        let of_it = frontend::Target::Statement(name);
        prepared.foreign
            && !super::show::is_show(&prepared.sql)
            && describes.iter().all(|d| {
                d.tag == b'D' && frontend::Target::decode(d.tag, d.body()).is_ok_and(|t| t == of_it)
            })
    }

    /// Relays Parse and Describe and waits for their answers, without ReadyForQuery. With
    /// `lasts`, notes what home has read the statement under. `false`: they failed, and the
    /// client has its error.
    async fn relay_head(&mut self, head: &[Frame], lasts: bool) -> Result<bool, End> {
        let name = head.first().and_then(|f| request::parsed_name(f.tag, &f.raw));
        self.unnamed_at_home |= name.as_deref() == Some("");
        let question = self.reading_question(name.as_deref()).await;
        let in_block = self.server.status == TransactionStatus::InBlock;
        if in_block && question.is_some() {
            // What runs next may be the gateway's, and from here on home holds its locks.
            self.prove_block().await?;
        }
        for f in head {
            self.note_relayed(f.tag, Some(&f.raw), None);
            self.server.outbox.extend_from_slice(&f.raw);
        }
        let question = question.filter(|_| lasts);
        if let Some(question) = &question {
            let ask = |server: &mut _| super::home::run_prepared(server, question);
            super::home::append_aside(&mut self.server, in_block, Locks::GivenUp, ask);
        }
        frontend::sync(&mut self.server.outbox);
        let waits = super::home::ask(&mut self.server);
        let answered = self.head_answered(head.len()).await;
        if waits {
            self.server.patience = None;
        }
        let row = match answered? {
            Head::Answered(row) => row,
            Head::Failed => {
                if let Some(name) = name {
                    // Whether home kept an older one of that name is home's to tell.
                    self.statements.remove(&name);
                }
                return Ok(false);
            }
            Head::NotAsked => {
                self.opened = in_block;
                self.undo(super::home::Around::Savepoint).await?;
                Vec::new()
            }
        };
        if question.is_some()
            && let Some(name) = &name
        {
            self.statements.read(name, super::still::reading(&self.server, row));
        }
        Ok(true)
    }

    /// The answers to so many messages that were relayed, for the client.
    async fn head_answered(&mut self, mut unanswered: usize) -> Result<Head, End> {
        let lost = |e: ServerError| End::Server(e.to_string());
        self.server.send().await.map_err(lost)?;
        let mut row = Vec::new();
        let (mut failed, mut refused) = (false, false);
        let mut bytes = 0;
        loop {
            let frame = self.server.receive().await.map_err(lost)?;
            bytes += frame.raw.len();
            if frame.is_cut() || bytes > super::home::ANSWER_BYTES_MAX {
                return Err(super::state::too_long(frame.tag));
            }
            if frame.tag == b'E'
                && let Ok(last) = ErrorFields::decode(frame.body())
                && last.is_fatal()
            {
                return Err(End::Home(last));
            }
            match frame.tag {
                b'Z' => break,
                b'S' | b'A' => self.client.outbox.extend_from_slice(&frame.raw),
                _ if unanswered > 0 => {
                    failed = frame.tag == b'E';
                    if failed {
                        self.server.prepared.doubt_all();
                    }
                    unanswered -= usize::from(b"1Tn".contains(&frame.tag));
                    if failed {
                        unanswered = 0;
                    }
                    self.client.outbox.extend_from_slice(&frame.raw);
                }
                b'D' => row = backend::data_row(frame.body()).unwrap_or_default(),
                b'E' => {
                    refused = true;
                    self.server.prepared.doubt_all();
                }
                _ => {}
            }
        }
        Ok(match (failed, refused) {
            (true, _) => Head::Failed,
            (false, true) => Head::NotAsked,
            (false, false) => Head::Answered(row),
        })
    }

    /// The question what home reads the text of this name under; `None`: home runs it.
    async fn reading_question(&self, name: Option<&str>) -> Option<Statement> {
        let text = self.statements.get(name?).map(|p| p.sql.clone())?;
        if self.server.status == TransactionStatus::Failed {
            return None;
        }
        let analyzed = self.query(&text).await?;
        Some(self.whole_question(&analyzed).clone())
    }

    /// What is known of a text that the gateway may answer.
    async fn query(&self, text: &[u8]) -> Option<Arc<Analyzed>> {
        let text = std::str::from_utf8(text).ok()?;
        let database = self.database_key();
        let catalog = self.database.catalog();
        let analyzed = self.shared.sources.analyzed(&database, text, &catalog).await;
        analyzed.outcome.is_ok().then_some(analyzed)
    }

    /// Whether home may be asked something before it runs a request, of which this is the first
    /// text. A question takes a snapshot in the client's block; only where the client's own
    /// statement does as well may it: `SET TRANSACTION ISOLATION LEVEL` must come before the
    /// first.
    async fn may_take_snapshot(&self, first: Option<&[u8]>) -> bool {
        let asked_already = self.server.status == TransactionStatus::Idle || self.is_gated();
        match first {
            _ if asked_already => true,
            Some(text) => self.query(text).await.is_some(),
            None => false,
        }
    }

    /// Whether home would read a text now under the settings that it was read under.
    async fn is_read_alike(&mut self, reading: Option<&Reading>) -> Result<bool, End> {
        let Some(reading) = reading else { return Ok(false) };
        let shared = self.shared.clone();
        let ask = |server: &mut _| super::home::run_prepared(server, &shared.sources.unchanged);
        let Some(got) = self.ask_aside(ask).await? else { return Ok(false) };
        let settings = got.value(0, 0).cloned().unwrap_or_default();
        Ok(reading.has_settings(&settings, &super::still::reported(&self.server)))
    }
}

/// What came of a Parse, its Describes and the question behind them.
enum Head {
    /// The row of the question, if it was asked.
    Answered(Vec<Option<bytes::Bytes>>),
    /// The client has its error.
    Failed,
    /// The client has its answers; home refuses the question.
    NotAsked,
}

/// Whether a SHOW of the gateway's own is among the statements of a batch.
fn runs_show(frames: &[Frame], bound: &[Option<Text>]) -> bool {
    request::texts(frames, bound).iter().flatten().any(|text| super::show::is_show(text))
}
