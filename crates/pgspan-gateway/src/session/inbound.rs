//! From the client to the server: messages pass verbatim unless they name a foreign
//! table; those are held until the request is whole and nothing else is under way.

use super::request::{self, Prepared, Text};
use super::{End, Next, QUEUE_BYTES_MAX, Session};
use bytes::{Buf as _, Bytes};
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use pgspan_wire::frame::{self, Frame, LENGTH_MAX};
use pgspan_wire::frontend::{Parse, Target};
use std::sync::Arc;

/// A length that cannot be: where the next message begins is not known, and PostgreSQL
/// ends the connection without a word.
fn framing(error: pgspan_wire::WireError) -> End {
    tracing::info!(%error, "invalid message");
    End::Client
}

/// Objects from this OID on are not PostgreSQL's own (FirstNormalObjectId).
pub(super) const FIRST_OWN_OID: u32 = 16384;

/// Stands for what parsing a statement may do: no more than reading literals of any type.
pub(super) const PARSED: &[u8] = b"VALUES (0)";

/// What a prepared statement takes besides its name and text, in bytes.
const PREPARED_BYTES: usize = 256;

/// Type bytes of messages that a client may send.
const KNOWN: &[u8] = b"QPBEDCSHFXdcfp";

impl Session {
    /// Relays what the client has sent, up to the first message that is not for the relay.
    pub(super) fn read_client(&mut self) -> Result<Next, End> {
        let whole_max = self.shared.config.limits.statement_bytes_max;
        let plain = self.server.parameters.get("standard_conforming_strings");
        self.block.plain = plain.is_some_and(|value| value == "on");
        self.client_whole = 0;
        loop {
            if self.owed.is_closing() {
                // Whether the client's next messages count is known with that answer.
                return Ok(Next::Wait);
            }
            if self.held.is_whole() {
                if self.owed.ready() > 0 {
                    return Ok(Next::Wait);
                }
                if !self.discard_to_sync {
                    return Ok(Next::Batch);
                }
                // An error before it spoils the whole batch.
                let held = self.held.take();
                self.statements.forget(&held);
                self.end_discarding();
            }
            if self.client_dropped > 0 {
                let n = self.client_dropped.min(self.client.inbox.len());
                self.client.inbox.advance(n);
                self.client_dropped -= n;
                if self.client_dropped > 0 {
                    return Ok(Next::Wait);
                }
            }
            if self.client_rest > 0 {
                let n = self.client_rest.min(self.client.inbox.len());
                self.server.outbox.extend_from_slice(&self.client.inbox[..n]);
                self.client.inbox.advance(n);
                self.client_rest -= n;
                if self.client_rest > 0 {
                    return Ok(Next::Wait);
                }
            }
            let Some((tag, size)) = frame::peek(&self.client.inbox).map_err(framing)? else {
                return Ok(Next::Wait);
            };
            if !KNOWN.contains(&tag) {
                let text = format!("invalid frontend message type {tag}");
                return Err(End::Protocol(ErrorFields::new("FATAL", "08P01", text)));
            }
            debug_assert!(size <= LENGTH_MAX + 1);
            if let Some(next) = self.gated(tag, size) {
                return Ok(next);
            }
            if self.discard_to_sync && !self.owed.copying_in() && tag != b'X' {
                self.client_dropped = size;
                if tag == b'S' {
                    self.end_discarding();
                }
                continue;
            }
            if self.client.inbox.len() < size {
                // Long messages pass as they come, unless their batch is being held.
                let held = !self.held.is_empty() && b"BDECSH".contains(&tag);
                let read = b"QP".contains(&tag);
                let binds_foreign = tag == b'B' && self.statements.any_foreign();
                if size > self.shared.config.limits.home_join_bytes_max {
                    // More than may be held: the batch goes to home as it is.
                    self.relay_held();
                }
                let held = held && !self.held.is_empty();
                let too_long = size > self.shared.config.limits.home_join_bytes_max;
                if size > whole_max && !held && (!binds_foreign || too_long) {
                    if b"QPBF".contains(&tag) {
                        self.block.unknown(self.owed.ready());
                    }
                    self.hand_over(tag, None, None);
                    if read {
                        self.count_relayed();
                    }
                    self.client_rest = size;
                    continue;
                }
                // Memory comes with the bytes, not with what a header claims.
                self.client_whole = size;
                return Ok(Next::Wait);
            }
            match tag {
                b'X' => return Ok(Next::Terminate),
                // Whatever it is, home says what is wrong with it.
                _ if self.owed.copying_in() => self.relay(tag, size),
                b'Q' => {
                    // A batch without a Sync before it goes first.
                    self.relay_held();
                    // Without the terminating zero.
                    let text = frame::HEADER_BYTES..size.saturating_sub(1).max(frame::HEADER_BYTES);
                    if self.names_foreign(&self.client.inbox[text.clone()]) {
                        if self.owed.ready() > 0 {
                            return Ok(Next::Wait);
                        }
                        if !self.owed.batch_open() {
                            return Ok(Next::Query(self.take(tag, size)));
                        }
                        // In the middle of a batch: home may even have to skip it.
                    }
                    let text = &self.client.inbox[text];
                    self.block.ran(text, self.owed.ready(), self.is_outside());
                    self.count_relayed();
                    self.relay(tag, size);
                }
                b'H' if !self.held.is_empty() => {
                    if self.owed.ready() > 0 {
                        return Ok(Next::Wait);
                    }
                    self.client.inbox.advance(size);
                    return Ok(Next::Flush);
                }
                _ if request::is_of_batch(tag) => {
                    if self.hold_or_relay(tag, size).is_err() {
                        if self.is_gated() && !self.held.is_empty() {
                            return Ok(Next::Flush);
                        }
                        // Home says what is wrong with it.
                        self.relay_held();
                        self.block.unknown(self.owed.ready());
                        self.relay(tag, size);
                    }
                }
                _ => {
                    self.relay_held();
                    if tag == b'F' {
                        self.block.unknown(self.owed.ready());
                    }
                    self.relay(tag, size);
                }
            }
        }
    }

    /// In a block in which the gateway has read a source, nothing goes to home unseen:
    /// requests are held until they are whole and nothing is under way. `None`: the message
    /// takes the usual way.
    fn gated(&mut self, tag: u8, size: usize) -> Option<Next> {
        if !self.is_gated() || self.owed.copying_in() || self.discard_to_sync || tag == b'X' {
            return None;
        }
        if self.owed.ready() > 0 {
            return Some(Next::Wait);
        }
        if self.owed.batch_open() {
            // It was flushed, or home has overlooked its Sync in front of COPY data.
            if tag == b'S' {
                return None;
            }
            if !self.owed.is_answered(&mut self.server.outbox) {
                return Some(Next::Wait);
            }
            if self.block.is_ending() && !self.owed.skipping() {
                // Up to its Sync, which commits it, the rest belongs to another transaction.
                self.block.ends(None);
                return None;
            }
            // A Sync changes nothing in a block, and behind an error only another one could come.
            self.owed.close_batch(&mut self.server.outbox);
            return Some(Next::Wait);
        }
        let failed = self.server.status == TransactionStatus::Failed;
        let whole = self.client.inbox.len() >= size;
        let too_long = size > self.shared.config.limits.home_join_bytes_max;
        let (alone, calls) = (b"QF".contains(&tag), tag == b'F');
        let copies = b"cdfp".contains(&tag);
        if (alone || copies) && !self.held.is_empty() {
            // The batch in front of it goes first.
            return Some(Next::Flush);
        }
        if copies {
            // Home overlooks it.
            return None;
        }
        let unseen = match alone {
            // Home refuses it in a block that has failed.
            true if calls => (whole || too_long) && !failed,
            true => too_long,
            // A batch of which no more can be held goes there as well.
            false => {
                let all = self.held.bytes() + size;
                all > self.shared.config.limits.home_join_bytes_max
                    || !self.held.has_room(size, &self.shared.held)
            }
        };
        if unseen {
            return Some(Next::Gate);
        }
        if !whole && !too_long {
            self.client_whole = size;
            return Some(Next::Wait);
        }
        (alone && !calls).then(|| Next::Query(self.take(tag, size)))
    }

    fn end_discarding(&mut self) {
        self.discard_to_sync = false;
        pgspan_wire::backend::put_ready(&mut self.client.outbox, self.server.status);
    }

    fn take(&mut self, tag: u8, size: usize) -> Frame {
        Frame { tag, raw: self.client.inbox.split_to(size).freeze() }
    }

    /// Passes a whole message on.
    pub(super) fn relay(&mut self, tag: u8, size: usize) {
        let raw = self.client.inbox.split_to(size);
        self.hand_over(tag, Some(&raw), None);
    }

    /// A message goes to home; `None`: too long to be seen whole, it follows.
    pub(super) fn hand_over(&mut self, tag: u8, raw: Option<&[u8]>, bound: Option<&Text>) {
        self.note_relayed(tag, raw, bound);
        if !self.executed.follows(tag, raw.unwrap_or_default(), bound) {
            self.block.unknown(self.owed.ready());
        }
        self.owed.sent(tag);
        match (tag, raw) {
            // Whatever a Query does, the unnamed statement is gone.
            (b'Q', _) => {
                self.statements.remove("");
                self.unnamed_at_home = false;
                self.unnamed_portal_at_home = false;
            }
            (b'B', Some(raw)) => {
                let portal = request::first_text(raw);
                self.unnamed_portal_at_home |= portal.is_none_or(<[u8]>::is_empty);
            }
            (b'B', None) => self.unnamed_portal_at_home = true,
            (b'P', Some(raw)) => {
                let name = request::parsed_name(tag, raw).unwrap_or_default();
                self.unnamed_at_home |= name.is_empty();
                if self.owed.skipping() {
                    self.statements.remove(&name);
                }
                self.owed.parses(name);
            }
            (b'P', None) => {
                // Its text is not kept, and its name not read.
                self.unnamed_at_home = true;
                self.statements = super::request::Statements::default();
                self.owed.parses(String::new());
            }
            _ => {}
        }
        self.server.outbox.extend_from_slice(raw.unwrap_or_default());
    }

    /// Whether a text may name a foreign table, or asks the gateway itself.
    pub(super) fn names_foreign(&self, text: &[u8]) -> bool {
        (self.accelerates() && self.database.catalog().may_name_foreign_table(text))
            || super::show::is_show(text)
    }

    pub(super) fn accelerates(&self) -> bool {
        self.shared.config.gateway.accelerate != Some(false)
    }

    /// One message of the extended protocol.
    fn hold_or_relay(&mut self, tag: u8, size: usize) -> Result<(), pgspan_wire::WireError> {
        let body = bytes::Bytes::copy_from_slice(&self.client.inbox[frame::HEADER_BYTES..size]);
        let (mut starts, mut bound) = (false, None);
        match tag {
            b'P' => {
                let parse = Parse::decode(body)?;
                starts = self.names_foreign(&parse.sql);
                let param_oids = parse.param_oids.into();
                self.remember(&parse.name, parse.sql, param_oids, starts);
            }
            b'B' => {
                let mut f = frame::Fields::new(b'B', body);
                let _portal = f.cstr()?;
                let name = f.text()?;
                let known = self.statements.get(&name);
                bound = known.filter(|_| !self.owed.in_doubt(&name)).map(Prepared::text);
                match known {
                    Some(p) if p.foreign => starts = true,
                    Some(_) => self.count_relayed(),
                    None => {}
                }
            }
            b'C' => {
                if let Target::Statement(name) = Target::decode(b'C', body)? {
                    self.statements.remove(&name);
                }
            }
            _ => {}
        }
        starts |= self.is_gated();
        if !self.held.is_empty() || (starts && !self.owed.batch_open()) {
            let frame = self.take(tag, size);
            self.held.push(frame);
            // Whoever sends many rows in one batch may read errors before its end.
            let long =
                self.held.is_pipeline() && self.held.bytes() > QUEUE_BYTES_MAX && !self.is_gated();
            if long {
                self.fell_back(Reason::new(Cause::SeveralInBatch));
            }
            let too_much = self.held.bytes() > self.shared.config.limits.home_join_bytes_max
                || !self.held.has_room(0, &self.shared.held);
            // In a gated block there was room for it.
            if long || (too_much && !self.is_gated()) {
                self.relay_held();
            }
            return Ok(());
        }
        let frame = self.take(tag, size);
        self.record(&frame, bound.as_ref());
        self.hand_over(tag, Some(&frame.raw), bound.as_ref());
        Ok(())
    }

    /// Remembers what the client has prepared. Where there is no room, it is not known, and so
    /// home's.
    pub(super) fn remember(&mut self, name: &str, sql: Bytes, oids: Arc<[u32]>, foreign: bool) {
        // A copy: the text would keep all of what it was received with.
        let sql = Bytes::copy_from_slice(&sql);
        let bytes = sql.len() + name.len() + size_of_val(&oids[..]) + PREPARED_BYTES;
        match self.shared.prepared.take(bytes) {
            Some(share) => {
                self.statements.insert(name, Prepared::new(sql, oids, foreign, share));
            }
            None => self.statements.remove(name),
        }
    }

    /// What is held goes to home as it is.
    pub(super) fn relay_held(&mut self) {
        let frames = self.held.take();
        let bound = self.bound(&frames);
        self.relay_whole(&frames, bound);
    }

    /// Nothing is under way, and no block is open.
    fn is_outside(&self) -> bool {
        self.owed.ready() == 0
            && !self.owed.batch_open()
            && self.server.status == TransactionStatus::Idle
    }

    /// Remembers a Query that goes to home.
    pub(super) fn record_query(&mut self, text: &[u8]) {
        let outside = self.is_outside();
        self.block.ran(text, self.owed.ready(), outside);
    }

    /// What each message of a held batch runs that binds a statement.
    pub(super) fn bound(&self, frames: &[Frame]) -> Vec<Option<Text>> {
        let known = |name: &str| {
            self.statements.get(name).filter(|_| !self.owed.in_doubt(name)).map(Prepared::text)
        };
        request::bound(frames, known)
    }

    /// Remembers what a message of the extended protocol that goes to home may do; `bound`: what
    /// it runs, if it binds a statement that is known.
    pub(super) fn record(&mut self, frame: &Frame, bound: Option<&Text>) {
        let (owed, outside) = (self.owed.ready(), self.is_outside());
        match frame.tag {
            // A literal may be read: of an array of domains, with what these demand.
            b'P' => {
                let quiet = Parse::decode(frame.body())
                    .is_ok_and(|p| self.names_foreign(&p.sql) || self.is_control(&p.sql));
                if !quiet {
                    self.block.ran(PARSED, owed, outside);
                }
            }
            b'B' => match bound {
                Some((sql, oids)) if oids.iter().all(|o| *o < FIRST_OWN_OID) => {
                    self.block.ran(sql, owed, outside);
                }
                _ => self.block.unknown(owed),
            },
            _ => {}
        }
    }
}
