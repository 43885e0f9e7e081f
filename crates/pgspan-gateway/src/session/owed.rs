//! What home still owes an answer for, so that the session knows when nothing is
//! under way. It sees type bytes only, never a message.
//!
//! Counting Query and Sync is not enough. After an error in an extended message home
//! skips everything up to the next Sync, a Query too; while it reads COPY data it
//! skips Sync and Flush. Whoever counted those would wait for a ReadyForQuery that
//! never comes.

use bytes::BytesMut;
use pgspan_wire::frontend;
use std::collections::VecDeque;

/// Messages that are under way at home.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// Type bytes of what was sent and is not answered, oldest first. `c` stands for
    /// the end of COPY data.
    queue: VecDeque<u8>,
    /// The names of the Parses among them.
    parsing: VecDeque<String>,
    /// Those of them that failed or were skipped.
    not_parsed: Vec<String>,
    /// How many of them end with ReadyForQuery.
    ready: usize,
    /// Extended messages were sent since the last Sync or Query.
    open: bool,
    /// A Query or FunctionCall went to home in the middle of a batch. From PostgreSQL 18 on
    /// the transaction of the batch goes on behind it, up to Sync.
    goes_on: bool,
    /// Home discards everything up to a Sync.
    skipping: bool,
    /// Home reads COPY data.
    copying_in: bool,
    /// The next ReadyForQuery answers a Sync of the gateway's own.
    closes: Option<Closes>,
    /// Home was asked for the answers to all that was sent.
    flushed: bool,
}

/// What a Sync of the gateway's own ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closes {
    /// A batch that was answered, without an error: one that comes now is what home would have met
    /// the client's next message with.
    Answered,
    /// Any other.
    Open,
}

/// A message that is answered before the Sync that ends its batch.
fn is_extended(tag: u8) -> bool {
    b"PBDEC".contains(&tag)
}

/// A message that is answered with ReadyForQuery.
fn ends_ready(tag: u8) -> bool {
    b"QFS".contains(&tag)
}

impl Owed {
    /// ReadyForQuery messages still to come.
    pub fn ready(&self) -> usize {
        self.ready
    }

    /// Extended messages are at home whose Sync was not sent.
    pub fn batch_open(&self) -> bool {
        self.open || self.skipping || self.goes_on
    }

    /// Home says that no transaction is open, with the last ReadyForQuery that came.
    pub fn is_idle(&mut self) {
        self.goes_on &= self.ready > 0;
    }

    /// Whether the batch that is open at home has been answered as far as it was sent; home is
    /// asked for what it holds back.
    pub fn is_answered(&mut self, home: &mut BytesMut) -> bool {
        let answered = self.front().is_none();
        if !answered && !self.flushed {
            self.flush(home);
        }
        answered
    }

    /// Asks home for its answers.
    pub fn flush(&mut self, home: &mut BytesMut) {
        frontend::flush(home);
        self.flushed = true;
    }

    /// Ends the client's batch with a Sync of the gateway's own, whose answer is not the client's.
    pub fn close_batch(&mut self, home: &mut BytesMut) {
        frontend::sync(home);
        let answered = self.front().is_none() && !self.skipping;
        self.closes = Some(if answered { Closes::Answered } else { Closes::Open });
        self.sent(b'S');
    }

    /// That answer is waited for.
    pub fn is_closing(&self) -> bool {
        self.closes.is_some()
    }

    /// ReadyForQuery came: whether that is the answer.
    pub fn closed(&mut self) -> Option<Closes> {
        self.closes.take()
    }

    /// Home discards what it is sent now.
    pub fn skipping(&self) -> bool {
        self.skipping
    }

    /// Home reads COPY data: what is not part of it is an error.
    pub fn copying_in(&self) -> bool {
        self.copying_in
    }

    /// The Parse that was just sent is of this name.
    pub fn parses(&mut self, name: String) {
        if !self.skipping {
            self.parsing.push_back(name);
        }
    }

    /// Whether a Parse of a name is under way in an earlier batch, and none in this one. Should
    /// it fail, or be skipped, an older statement of that name is left.
    pub fn in_doubt(&self, name: &str) -> bool {
        if self.parsing.is_empty() {
            return false;
        }
        let ends = self.queue.iter().rposition(|tag| ends_ready(*tag)).unwrap_or(0);
        let earlier = self.queue.iter().take(ends).filter(|tag| **tag == b'P').count();
        let is_name = |parsed: &String| parsed == name;
        !self.parsing.iter().skip(earlier).any(is_name)
            && self.parsing.iter().take(earlier).any(is_name)
    }

    /// Names whose Parse was not answered with success.
    pub fn not_parsed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.not_parsed)
    }

    /// A message goes to home.
    pub fn sent(&mut self, tag: u8) {
        self.flushed = tag == b'H';
        match tag {
            b'c' | b'f' if self.copying_in => self.copying_in = false,
            b'c' | b'f' if !self.queue.is_empty() => self.queue.push_back(b'c'),
            b'S' if self.copying_in => {}
            _ if self.skipping && tag != b'S' => {}
            _ if ends_ready(tag) => {
                self.queue.push_back(tag);
                self.ready += 1;
                self.goes_on = tag != b'S' && self.batch_open();
                self.open = false;
                self.skipping = false;
            }
            _ if is_extended(tag) => {
                self.queue.push_back(tag);
                self.open = true;
            }
            // Flush asks for nothing of its own.
            _ => {}
        }
    }

    /// A message comes from home.
    pub fn received(&mut self, tag: u8) {
        match tag {
            b'Z' => {
                while let Some(front) = self.queue.pop_front() {
                    if ends_ready(front) {
                        self.ready -= 1;
                        break;
                    }
                }
            }
            b'1' => {
                let parsed = self.answers(b'P');
                self.parsing.drain(..usize::from(parsed).min(self.parsing.len()));
            }
            b'2' => drop(self.answers(b'B')),
            b'3' => drop(self.answers(b'C')),
            b'T' | b'n' => drop(self.answers(b'D')),
            b'C' | b'I' | b's' => {
                self.copying_in = false;
                self.answers(b'E');
            }
            b'E' => self.failed(),
            b'G' => self.copies_in(),
            _ => {}
        }
    }

    /// The oldest message.
    fn front(&mut self) -> Option<u8> {
        while self.queue.front() == Some(&b'c') {
            self.queue.pop_front();
        }
        self.queue.front().copied()
    }

    /// Whether the oldest message is of this type: then it is answered.
    fn answers(&mut self, tag: u8) -> bool {
        let oldest = self.front() == Some(tag);
        if oldest {
            self.queue.pop_front();
        }
        oldest
    }

    /// After an error in an extended message nothing is answered up to a Sync.
    fn failed(&mut self) {
        self.copying_in = false;
        // What home had to say while nothing came, it says to a Flush.
        let idle = self.open && self.flushed && self.front().is_none();
        self.skipping |= idle;
        if !self.front().is_some_and(is_extended) {
            return;
        }
        while let Some(front) = self.queue.front().copied() {
            if front == b'S' {
                return;
            }
            self.ready -= usize::from(ends_ready(front));
            self.queue.pop_front();
            if front == b'P' {
                self.not_parsed.extend(self.parsing.pop_front());
            }
        }
        self.skipping = true;
    }

    /// Home wants COPY data: what was sent up to its end is not answered.
    fn copies_in(&mut self) {
        let Some(command) = self.front() else { return };
        self.queue.pop_front();
        self.copying_in = true;
        let mut rest = std::mem::take(&mut self.queue);
        while let Some(tag) = rest.pop_front() {
            match tag {
                b'c' => {
                    self.copying_in = false;
                    break;
                }
                b'S' => self.ready -= 1,
                _ => self.queue.push_back(tag),
            }
        }
        self.queue.append(&mut rest);
        self.queue.push_front(command);
        self.open = self.queue.iter().rev().find(|t| **t != b'c').is_some_and(|t| is_extended(*t));
    }
}

#[cfg(test)]
mod tests {
    use super::Owed;

    /// Lower case words: `sent` and `received`, in turn.
    fn after(play: &[(&[u8], &[u8])]) -> (usize, bool) {
        let mut owed = Owed::default();
        for (sent, received) in play {
            sent.iter().for_each(|tag| owed.sent(*tag));
            received.iter().for_each(|tag| owed.received(*tag));
        }
        (owed.ready(), owed.batch_open())
    }

    #[test]
    fn a_batch_and_a_query() {
        assert_eq!(after(&[(b"PBDES", b"12TDC")]), (1, false));
        assert_eq!(after(&[(b"PBDES", b"12TDCZ"), (b"Q", b"TDCZ")]), (0, false));
        assert_eq!(after(&[(b"PBDESH", b"12TDCZ")]), (0, false));
    }

    #[test]
    fn a_query_ends_a_batch_if_home_says_so() {
        assert_eq!(after(&[(b"PBE", b"12C")]), (0, true));
        assert_eq!(after(&[(b"PBEQ", b"12CTDCZ")]), (0, true));
        assert_eq!(after(&[(b"PBEQ", b"12CTDCZ"), (b"S", b"Z")]), (0, false));
        let mut owed = Owed::default();
        b"QPBEQ".iter().for_each(|tag| owed.sent(*tag));
        for tag in b"TDCZ" {
            owed.received(*tag);
        }
        // That was said of the first one.
        owed.is_idle();
        b"12CTDCZ".iter().for_each(|tag| owed.received(*tag));
        assert!(owed.batch_open());
        owed.is_idle();
        assert!(!owed.batch_open());
    }

    #[test]
    fn after_an_error_all_is_skipped_up_to_sync() {
        assert_eq!(after(&[(b"PBEQ", b"12E")]), (0, true));
        assert_eq!(after(&[(b"PBE", b"12E"), (b"QPBEQ", b"")]), (0, true));
        assert_eq!(after(&[(b"PBEQS", b"12E")]), (1, false));
        assert_eq!(after(&[(b"PBEQS", b"12EZ")]), (0, false));
        assert_eq!(after(&[(b"PBE", b"12E"), (b"QS", b"Z")]), (0, false));
        assert_eq!(after(&[(b"PBESPBE", b"12EZ")]), (0, true));
    }

    #[test]
    fn an_error_of_a_query_skips_nothing() {
        assert_eq!(after(&[(b"QQ", b"E")]), (2, false));
        assert_eq!(after(&[(b"QQ", b"EZTDCZ")]), (0, false));
    }

    #[test]
    fn sync_is_not_answered_while_data_is_copied_in() {
        assert_eq!(after(&[(b"BES", b"2G")]), (0, true));
        assert_eq!(after(&[(b"BES", b"2G"), (b"dcS", b"CZ")]), (0, false));
        assert_eq!(after(&[(b"BESdcS", b"2GCZ")]), (0, false));
        assert_eq!(after(&[(b"BES", b"2G"), (b"dfS", b"EZ")]), (0, false));
        assert_eq!(after(&[(b"BES", b"2G"), (b"dcS", b"EZ")]), (0, false));
    }

    #[test]
    fn copy_by_simple_queries() {
        assert_eq!(after(&[(b"Q", b"G"), (b"ddc", b"CZ")]), (0, false));
        assert_eq!(after(&[(b"Qdc", b"GCZ")]), (0, false));
        assert_eq!(after(&[(b"QdcdcQ", b"GCGCZ")]), (1, false));
        assert_eq!(after(&[(b"Qdc", b"EZ"), (b"Q", b"TDCZ")]), (0, false));
    }

    #[test]
    fn what_was_not_parsed_is_told() {
        let mut owed = Owed::default();
        for name in ["a", "b", "c"] {
            owed.sent(b'P');
            owed.parses(name.to_owned());
        }
        owed.sent(b'S');
        owed.sent(b'P');
        owed.parses("d".to_owned());
        owed.received(b'1');
        owed.received(b'E');
        assert_eq!(owed.not_parsed(), ["b", "c"]);
        owed.received(b'Z');
        owed.received(b'1');
        assert!(owed.not_parsed().is_empty());
    }

    #[test]
    fn an_empty_statement_and_a_suspended_portal() {
        assert_eq!(after(&[(b"PBEEES", b"12IssZ")]), (0, false));
        assert_eq!(after(&[(b"DDES", b"tTnCZ")]), (0, false));
    }
}
