//! What the gateway has prepared on a server connection.

use std::collections::HashMap;

/// Statements that are kept prepared on one connection.
const COUNT_MAX: usize = 256;

/// The length of all their texts, in bytes. A server takes some fifty bytes for each, for a
/// text that is a list of constants.
const BYTES_MAX: usize = 1024 * 1024;

/// The statements of the gateway's that a server has, or may have, by their number: at most
/// 256, and 1 MiB of text.
#[derive(Debug, Default)]
pub struct Prepared {
    statements: HashMap<u64, One>,
    bytes: usize,
    /// ReadyForQuery messages so far.
    answers: u64,
}

#[derive(Debug)]
struct One {
    bytes: usize,
    /// [`Prepared::answers`] when its Parse was written.
    written: u64,
    /// It is to be parsed anew before it is used; what the server has of it is closed then.
    doubted: bool,
}

impl Prepared {
    /// Whether the server has a statement.
    pub fn contains(&self, number: u64) -> bool {
        self.statements.get(&number).is_some_and(|one| !one.doubted)
    }

    /// Those that the server has or may have; none is known afterwards.
    pub fn clear(&mut self) -> impl Iterator<Item = u64> + use<> {
        self.bytes = 0;
        std::mem::take(&mut self.statements).into_keys()
    }

    /// Whether one more, with a text of so many bytes, has room beside those that are there.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.statements.is_empty()
            || (self.statements.len() < COUNT_MAX && self.bytes + bytes <= BYTES_MAX)
    }

    /// Notes a statement whose Parse, of a text of so many bytes, has been written.
    pub fn insert(&mut self, number: u64, bytes: usize) {
        let one = One { bytes, written: self.answers, doubted: false };
        let old = self.statements.insert(number, one);
        self.bytes = self.bytes + bytes - old.map_or(0, |one| one.bytes);
    }

    /// A statement is to be parsed anew before it is used.
    pub fn doubt(&mut self, number: u64) {
        if let Some(one) = self.statements.get_mut(&number) {
            one.doubted = true;
        }
    }

    /// All are to be parsed anew.
    pub fn doubt_all(&mut self) {
        self.statements.values_mut().for_each(|one| one.doubted = true);
    }

    /// Behind an error: the server has skipped what was written behind it. What it had answered
    /// before is there; of the last two answers it is not known which the Parse was part of.
    pub fn failed(&mut self) {
        let answered = self.answers.saturating_sub(1);
        self.statements
            .values_mut()
            .filter(|one| one.written >= answered)
            .for_each(|one| one.doubted = true);
    }

    /// The server is ready for the next: it has done all of an earlier one.
    pub(crate) fn answered(&mut self) {
        self.answers += 1;
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

    #[test]
    fn what_was_written_lately_is_in_doubt_behind_an_error() {
        let mut prepared = Prepared::default();
        for number in 0..4 {
            prepared.insert(number, 10);
            prepared.answered();
        }
        prepared.insert(4, 10);
        prepared.failed();
        let known: Vec<u64> = (0..5).filter(|number| prepared.contains(*number)).collect();
        assert_eq!(known, [0, 1, 2]);
        // The server may have the others all the same.
        let mut all: Vec<u64> = prepared.clear().collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_in_doubt_takes_room_until_it_is_closed() {
        let mut prepared = Prepared::default();
        let mut written = 0;
        while prepared.has_room(10) {
            prepared.insert(written, 10);
            prepared.failed();
            written += 1;
        }
        assert_eq!(written, COUNT_MAX as u64);
        assert_eq!(prepared.clear().count(), COUNT_MAX);
        assert!(prepared.has_room(10));
    }

    #[test]
    fn long_texts_are_few() {
        let mut prepared = Prepared::default();
        // One has room, however long it is.
        assert!(prepared.has_room(2 * BYTES_MAX));
        prepared.insert(0, BYTES_MAX / 2);
        assert!(prepared.has_room(BYTES_MAX / 2) && !prepared.has_room(BYTES_MAX / 2 + 1));
        // The same again takes no more.
        prepared.insert(0, BYTES_MAX / 2);
        assert!(prepared.has_room(BYTES_MAX / 2));
        prepared.insert(1, BYTES_MAX / 2);
        prepared.retain(|number| number == 1);
        assert!(prepared.has_room(BYTES_MAX / 2) && !prepared.contains(0));
    }
}
