//! From the server to the client: messages pass verbatim; a few are read on the way.

use super::owed::Closes;
use super::{End, Session};
use bytes::Buf as _;
use pgspan_sql::catalog::{Piece, changed_by};
use pgspan_wire::backend::{ErrorFields, TransactionStatus};
use pgspan_wire::frame::{self, HEADER_BYTES};

/// Messages longer than this are relayed as they come, in bytes.
const WHOLE_BYTES_MAX: usize = 8 * 1024;

impl Session {
    /// Relays what the server has sent.
    pub(super) fn read_server(&mut self) -> Result<(), End> {
        let nonsense = |e: pgspan_wire::WireError| End::Server(e.to_string());
        let inbox = &mut self.server.inbox;
        if self.server_rest > 0 {
            let n = self.server_rest.min(inbox.len());
            self.client.outbox.extend_from_slice(&inbox[..n]);
            inbox.advance(n);
            self.server_rest -= n;
        }
        // One copy for a run of messages.
        let mut run = 0;
        let mut error: Option<ErrorFields> = None;
        let mut forgotten = false;
        while let Some((tag, size)) = frame::peek(&inbox[run..]).map_err(nonsense)? {
            let left = inbox.len() - run;
            if left < size {
                if size > WHOLE_BYTES_MAX {
                    self.owed.received(tag);
                    self.failed |= tag == b'E';
                    self.server_rest = size - left;
                    run += left;
                }
                break;
            }
            let body = &inbox[run + HEADER_BYTES..run + size];
            self.owed.received(tag);
            match tag {
                b'Z' => {
                    let byte = body.first().copied().unwrap_or(0);
                    self.server.status = TransactionStatus::from_byte(byte)
                        .ok_or_else(|| End::Server("bad ReadyForQuery".to_owned()))?;
                    let failed = std::mem::take(&mut self.failed);
                    let idle = self.server.status == TransactionStatus::Idle;
                    if idle {
                        self.trust.ended();
                        // It ends with its transaction.
                        self.unnamed_portal_at_home &= self.owed.ready() > 0;
                        self.owed.is_idle();
                    }
                    if self.block.answered(idle, failed) {
                        self.block.end();
                    }
                    let closed = self.owed.closed();
                    if failed
                        && closed == Some(Closes::Answered)
                        && let Ok(Some((tag, size))) = frame::peek(&self.client.inbox)
                        && !super::request::is_of_batch(tag)
                    {
                        // It is what PostgreSQL answers this message with.
                        self.client_dropped = size;
                    } else if closed.is_some() {
                        self.client.outbox.extend_from_slice(&inbox[..run]);
                        inbox.advance(run + size);
                        run = 0;
                        self.discard_to_sync |= failed;
                        continue;
                    }
                }
                b'C' => {
                    let tag = body.strip_suffix(b"\0").unwrap_or(body);
                    self.block.completed(tag);
                    let tag = std::str::from_utf8(tag);
                    let pieces = tag.map_or(&Piece::ALL[..], changed_by);
                    if !pieces.is_empty() {
                        self.database.disturb(pieces);
                    }
                    forgotten |=
                        body.starts_with(b"DISCARD ALL") || body.starts_with(b"DEALLOCATE ALL");
                }
                b'S' => {
                    let mut f = frame::Fields::new(b'S', bytes::Bytes::copy_from_slice(body));
                    if let (Ok(name), Ok(value)) = (f.text(), f.text()) {
                        if ["standard_conforming_strings", "client_encoding"].contains(&&*name) {
                            // What was relayed meanwhile may have been read otherwise.
                            self.block.unknown(self.owed.ready());
                        }
                        pgspan_pool::server::note(&mut self.server.parameters, name, value);
                    }
                }
                b'E' => {
                    let body = bytes::Bytes::copy_from_slice(body);
                    error = ErrorFields::decode(body).ok();
                    self.farewell_told |= error.as_ref().is_some_and(ErrorFields::is_fatal);
                    self.failed = true;
                }
                _ => {}
            }
            run += size;
        }
        self.client.outbox.extend_from_slice(&inbox[..run]);
        inbox.advance(run);
        for name in self.owed.not_parsed() {
            // Whether home kept an older one of that name is home's to tell.
            self.statements.remove(&name);
        }
        let unknown_name = error.is_some_and(|e| e.sqlstate() == "42P01");
        if unknown_name {
            self.database.disturb(&[Piece::ForeignNames]);
        }
        if forgotten {
            self.server.prepared.clear();
            self.statements = super::request::Statements::default();
        }
        Ok(())
    }
}
