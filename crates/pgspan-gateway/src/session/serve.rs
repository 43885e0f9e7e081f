//! From a whole request to the straight line or to the relay.

use super::gate::Passing;
use super::query::Request;
use super::request;
use super::{End, Session};
use pgspan_pool::ServerError;
use pgspan_sql::route::Reason;
use pgspan_wire::frame::Frame;
use pgspan_wire::frontend;
use std::sync::Arc;

impl Session {
    /// A simple query that may be ours.
    pub(super) async fn serve_query(&mut self, frame: Frame) -> Result<(), End> {
        self.refresh_catalog().await?;
        let body = frame.body();
        let text = body.strip_suffix(b"\0").unwrap_or(&body);
        let Ok(text) = std::str::from_utf8(text) else {
            return self.pass_query(frame).await;
        };
        if let Some(select) =
            super::show::is_show(text.as_bytes()).then(|| self.show(text)).flatten()
        {
            self.hand_over(b'Q', None);
            frontend::query(&mut self.server.outbox, &select);
            return Ok(());
        }
        if !self.names_foreign(text.as_bytes()) {
            self.count_relayed();
            return self.pass_query(frame).await;
        }
        let request = Request { text: text.to_owned(), param_oids: Arc::new([]), batch: None };
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
        let what = Passing { effect: self.effect_of(text, &[]), text: Some(text) };
        if let Some(error) = self.pass(what).await? {
            self.refuse_with(&error);
            return Ok(());
        }
        self.record_query(text);
        self.relay_whole(&[frame]);
        Ok(())
    }

    /// A whole batch that home is to run.
    async fn pass_batch(&mut self, frames: &[Frame]) -> Result<(), End> {
        if self.is_gated() {
            let effect = self.effect_of_batch(frames);
            // One statement is known again by its text.
            let texts = self.texts_of(frames);
            let text = texts.iter().all(|t| *t == texts[0]).then(|| texts.first()).flatten();
            if let Some(error) = self.pass(Passing { effect, text: text.map(|t| &t[..]) }).await? {
                for frame in frames {
                    if let Some(name) = super::inbound::parsed_name(frame.tag, &frame.raw) {
                        self.statements.remove(&name);
                    }
                }
                self.refuse_with(&error);
                return Ok(());
            }
        }
        self.relay_whole(frames);
        Ok(())
    }

    /// A whole batch of the extended protocol that may be ours.
    pub(super) async fn serve_batch(&mut self) -> Result<(), End> {
        let mut frames = self.held.take();
        self.refresh_catalog().await?;
        let shape = request::batch(&frames);
        self.notice_statement(&mut frames);
        let batch = match shape {
            Ok(Some(batch)) => batch,
            Ok(None) | Err(_) => {
                let runs_foreign =
                    frames.iter().any(|f| f.tag == b'B') && self.statements.any_foreign();
                if runs_foreign {
                    self.fell_back(Reason::new("a batch of several statements"));
                }
                return self.pass_batch(&frames).await;
            }
        };
        let Some(prepared) = self.statements.get(&batch.bind.statement).cloned() else {
            return self.pass_batch(&frames).await;
        };
        let text = std::str::from_utf8(&prepared.sql).ok().filter(|_| prepared.foreign);
        let Some(text) = text.filter(|t| !super::show::is_show(t.as_bytes())) else {
            self.count_relayed();
            return self.pass_batch(&frames).await;
        };
        let head = batch.head.len();
        let request = Request {
            text: text.to_owned(),
            param_oids: prepared.param_oids.clone(),
            batch: Some(batch),
        };
        if head > 0 && !self.relay_head(&frames[..head]).await? {
            return Ok(());
        }
        if self.answer(&request).await? {
            return Ok(());
        }
        self.pass_batch(&frames[head..]).await
    }

    /// The client wants answers before its Sync. Parse and Describe alone are closed
    /// with a Sync of our own, whose ReadyForQuery is swallowed, so that what follows
    /// starts on clean ground; anything else is relayed as it is.
    pub(super) async fn serve_flush(&mut self) -> Result<(), End> {
        self.refresh_catalog().await?;
        let mut frames = self.held.take();
        self.notice_statement(&mut frames);
        if frames.iter().all(|f| b"PDC".contains(&f.tag)) {
            self.relay_whole(&frames);
            frontend::sync(&mut self.server.outbox);
            self.owed.sent(b'S');
            self.swallow_ready = true;
        } else {
            if self.is_gated()
                && let Some(error) = self.pass(Passing { effect: None, text: None }).await?
            {
                error.put(&mut self.client.outbox);
                self.discard_to_sync = true;
                return Ok(());
            }
            self.relay_whole(&frames);
            frontend::flush(&mut self.server.outbox);
        }
        Ok(())
    }

    /// What a Parse in a held batch prepares, seen with the catalog as it is now. A
    /// SHOW of the gateway's own is replaced by the SELECT that stands for it.
    fn notice_statement(&mut self, frames: &mut [Frame]) {
        for frame in frames.iter_mut().filter(|f| f.tag == b'P') {
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
            let prepared = request::Prepared { sql: parse.sql, param_oids, foreign };
            self.statements.insert(&parse.name, prepared);
        }
    }

    /// Hands whole messages to home; the relay loop brings the answers back.
    fn relay_whole(&mut self, frames: &[Frame]) {
        for f in frames {
            self.record(f);
            self.hand_over(f.tag, Some(&f.raw));
        }
    }

    /// A Query that the gateway answers takes the client's unnamed statement away at
    /// home, as a Query at home does.
    async fn close_unnamed(&mut self) -> Result<(), End> {
        self.statements.remove("");
        if !std::mem::take(&mut self.unnamed_at_home) {
            return Ok(());
        }
        frontend::close_statement(&mut self.server.outbox, "");
        frontend::sync(&mut self.server.outbox);
        match super::home::answers(&mut self.server, &mut self.client.outbox).await {
            Ok(_) | Err(ServerError::Sql(_)) => Ok(()),
            Err(lost) => Err(lost.into()),
        }
    }

    /// Relays Parse and Describe and waits for their answers. `false`: they failed, and
    /// the client has its error.
    async fn relay_head(&mut self, head: &[Frame]) -> Result<bool, End> {
        let lost = |e: ServerError| End::Server(e.to_string());
        let name = head.first().and_then(|f| super::inbound::parsed_name(f.tag, &f.raw));
        self.unnamed_at_home |= name.as_deref() == Some("");
        for f in head {
            self.server.outbox.extend_from_slice(&f.raw);
        }
        frontend::sync(&mut self.server.outbox);
        self.server.send().await.map_err(|e| lost(e.into()))?;
        let mut ok = true;
        loop {
            let frame = self.server.receive().await.map_err(lost)?;
            ok &= frame.tag != b'E';
            if frame.tag != b'Z' {
                self.client.outbox.extend_from_slice(&frame.raw);
            } else if ok {
                return Ok(true);
            } else {
                if let Some(name) = name {
                    // Whether home kept an older one of that name is home's to tell.
                    self.statements.remove(&name);
                }
                self.client.outbox.extend_from_slice(&frame.raw);
                return Ok(false);
            }
        }
    }
}
