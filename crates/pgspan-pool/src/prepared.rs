//! What the gateway has prepared on a server connection.

use std::collections::HashMap;

/// Statements that are kept prepared on one connection.
const COUNT_MAX: usize = 256;

/// The length of all their texts, in bytes. A server takes some fifty bytes for each, for a
/// text that is a list of constants.
const BYTES_MAX: usize = 1024 * 1024;

/// Answers that may be outstanding when a statement is written.
const PIPELINED_MAX: u64 = 2;

/// The statements of the gateway's that a server has, or may have, by their number: at most
/// 256, and 1 MiB of text.
#[derive(Debug, Default)]
pub struct Prepared {
    statements: HashMap<u64, One>,
    bytes: usize,
    /// Those that are being closed: number, length, and [`Prepared::answers`] at the time.
    closing: Vec<(u64, usize, u64)>,
    /// ReadyForQuery messages so far.
    answers: u64,
    /// There was an error since [`Prepared::begin`].
    failed: bool,
}

#[derive(Debug)]
struct One {
    bytes: usize,
    /// [`Prepared::answers`] when its Parse was written.
    written: u64,
    /// The same when it was asked for last.
    used: u64,
    /// It is to be parsed anew before it is used; what the server has of it is closed then.
    doubted: bool,
}

impl Prepared {
    /// Whether the server has a statement, which is to be used now.
    pub fn has(&mut self, number: u64) -> bool {
        let answers = self.answers;
        let one = self.statements.get_mut(&number).filter(|one| !one.doubted);
        one.map(|one| one.used = answers).is_some()
    }

    /// The server has none any more.
    pub fn clear(&mut self) {
        self.statements.clear();
        self.closing.clear();
        self.bytes = 0;
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.statements.len() < COUNT_MAX && self.bytes + bytes <= BYTES_MAX
    }

    /// Notes a statement whose Parse, of a text of so many bytes, is written next, and gives
    /// those that are to be closed before: the ones that have not been used for longest, and
    /// none that is used by what waits to be sent or answered.
    pub fn insert(&mut self, number: u64, bytes: usize) -> Vec<u64> {
        if let Some(old) = self.statements.remove(&number) {
            self.bytes -= old.bytes;
        }
        let mut closed = Vec::new();
        if !self.has_room(bytes) {
            let idle = self.statements.iter().filter(|(_, one)| one.used < self.answers);
            let mut idle: Vec<(u64, u64)> = idle.map(|(number, one)| (one.used, *number)).collect();
            idle.sort_unstable();
            for (_, number) in idle {
                if self.has_room(bytes) {
                    break;
                }
                let bytes = self.statements.remove(&number).map_or(0, |one| one.bytes);
                self.bytes -= bytes;
                self.closing.push((number, bytes, self.answers));
                closed.push(number);
            }
        }
        let now = self.answers;
        self.statements.insert(number, One { bytes, written: now, used: now, doubted: false });
        self.bytes += bytes;
        closed
    }

    /// A statement is to be parsed anew before it is used.
    pub fn doubt(&mut self, number: u64) {
        if let Some(one) = self.statements.get_mut(&number) {
            one.doubted = true;
        }
    }

    /// All are to be parsed anew: what the server has under their names is not known.
    pub fn doubt_all(&mut self) {
        self.failed();
        self.statements.values_mut().for_each(|one| one.doubted = true);
    }

    /// Behind an error that questions of the gateway's own have met: the server has skipped what
    /// was written behind it, Close too. What it had answered before is there; who pipelines may
    /// have written it before the last few answers came.
    pub fn failed(&mut self) {
        self.failed = true;
        let answered = self.answers.saturating_sub(PIPELINED_MAX);
        for (number, bytes, _) in self.closing.drain(..) {
            let one = One { bytes, written: 0, used: 0, doubted: true };
            // Or it has been written anew.
            if let std::collections::hash_map::Entry::Vacant(entry) = self.statements.entry(number)
            {
                entry.insert(one);
                self.bytes += bytes;
            }
        }
        self.statements
            .values_mut()
            .filter(|one| one.written >= answered)
            .for_each(|one| one.doubted = true);
    }

    /// A statement of the client's begins, in which code of the client's may run.
    pub fn begin(&mut self) {
        self.failed = false;
    }

    /// It ends without an answer of the gateway's. If there was an error, the code that met it
    /// may have closed statements, and given their names to others.
    pub fn gave_up(&mut self) {
        if std::mem::take(&mut self.failed) {
            self.doubt_all();
        }
    }

    /// The server is ready for the next: it has done all of an earlier one.
    pub(crate) fn answered(&mut self) {
        self.answers += 1;
        let done = self.answers.saturating_sub(PIPELINED_MAX + 1);
        self.closing.retain(|(_, _, written)| *written >= done);
    }

    /// Keeps those that the server has, as it has told.
    pub fn retain(&mut self, has: impl Fn(u64) -> bool) {
        self.statements.retain(|number, _| has(*number));
        self.bytes = self.statements.values().map(|one| one.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(prepared: &mut Prepared, numbers: std::ops::Range<u64>) -> Vec<u64> {
        numbers.filter(|number| prepared.has(*number)).collect()
    }

    #[test]
    fn what_was_written_lately_is_in_doubt_behind_an_error() {
        let mut prepared = Prepared::default();
        for number in 0..5 {
            assert!(prepared.insert(number, 10).is_empty());
            prepared.answered();
        }
        prepared.insert(5, 10);
        prepared.failed();
        assert_eq!(known(&mut prepared, 0..6), [0, 1, 2]);
        // It is known again when it is written again.
        prepared.insert(4, 10);
        assert_eq!(known(&mut prepared, 0..6), [0, 1, 2, 4]);
    }

    #[test]
    fn what_is_in_doubt_takes_room_until_it_is_closed() {
        let mut prepared = Prepared::default();
        let mut closed = Vec::new();
        for number in 0..300 {
            closed.extend(prepared.insert(number, 10));
            if number < COUNT_MAX as u64 {
                prepared.failed();
            }
            prepared.answered();
        }
        assert_eq!(closed, (0..300 - COUNT_MAX as u64).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_to_be_closed_behind_an_error_is_still_there() {
        let mut prepared = Prepared::default();
        for number in 0..COUNT_MAX as u64 {
            prepared.insert(number, 10);
            prepared.answered();
        }
        // Its Close is skipped.
        assert_eq!(prepared.insert(1000, 10), [0]);
        prepared.failed();
        prepared.answered();
        // So it is closed again, with one more.
        assert_eq!(prepared.insert(1001, 10), [0, 1]);
    }

    #[test]
    fn code_of_the_clients_that_failed_leaves_doubt_about_all() {
        let mut prepared = Prepared::default();
        prepared.insert(0, 10);
        (0..9).for_each(|_| prepared.answered());
        prepared.begin();
        prepared.gave_up();
        assert!(prepared.has(0));
        prepared.begin();
        prepared.failed();
        assert!(prepared.has(0));
        prepared.gave_up();
        assert!(!prepared.has(0));
    }

    #[test]
    fn what_is_used_stays() {
        let mut prepared = Prepared::default();
        for number in 0..300 {
            prepared.insert(number, 10);
            prepared.answered();
            assert!(prepared.has(0));
        }
        // None of those that an answer is still to come of is closed, however many they are.
        let mut prepared = Prepared::default();
        assert!((0..300).all(|number| prepared.insert(number, BYTES_MAX).is_empty()));
        prepared.answered();
        assert_eq!(prepared.insert(300, 10).len(), 300);
    }

    #[test]
    fn long_texts_are_few() {
        let mut prepared = Prepared::default();
        prepared.insert(0, BYTES_MAX / 2);
        prepared.insert(1, BYTES_MAX / 2);
        prepared.answered();
        // The same again takes no more.
        assert!(prepared.insert(1, BYTES_MAX / 2).is_empty());
        prepared.answered();
        assert_eq!(prepared.insert(2, 1), [0]);
        prepared.retain(|number| number == 2);
        prepared.answered();
        assert!(prepared.insert(3, BYTES_MAX - 1).is_empty() && !prepared.has(1));
    }
}
