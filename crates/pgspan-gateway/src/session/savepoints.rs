//! Savepoints of the client's block, at home and at the sources that are held for it.
//!
//! What a source has locked behind a savepoint is free again when the client goes back to
//! it, as with postgres_fdw, which sets one of its own for each. The gateway sets them before
//! it reads, so that a savepoint behind which nothing is read costs nothing. Where it is not
//! certain which ones are open, the sources keep their locks to the block's end.

use pgspan_sql::savepoint::{Step, steps};
use std::collections::VecDeque;

/// Savepoints of one block that are known; with more of them they are unknown.
const KNOWN_MAX: usize = 64;

/// Those of the present transaction.
#[derive(Default)]
pub(crate) struct Savepoints {
    /// What was relayed will do, and the number of the ReadyForQuery that answers it; `None`:
    /// unknown.
    coming: VecDeque<(u64, Option<Step>)>,
    /// The open ones, innermost last: a number of their own, and the name.
    open: Vec<(u64, String)>,
    made: u64,
    unknown: bool,
    /// What counts stands behind this one; 0: behind none.
    mark: u64,
    /// The client has gone back to the mark, or to one before it.
    undone: bool,
    /// The number of the answer that the last completed step is for.
    stepped: u64,
}

impl Savepoints {
    /// A text is relayed that an answer of this number is for; `None`: it is not seen.
    pub fn relayed(&mut self, text: Option<&[u8]>, answer: u64) {
        let steps = text.and_then(steps);
        match steps {
            Some(steps) => self.coming.extend(steps.into_iter().map(|s| (answer, Some(s)))),
            None => self.coming.push_back((answer, None)),
        }
        if self.coming.len() > KNOWN_MAX {
            self.coming.clear();
            self.coming.push_back((answer, None));
        }
    }

    /// A command is complete, with this tag, before the answer of this number. Gives the number
    /// of the savepoint that the client has gone back to, where that is known.
    pub fn completed(&mut self, tag: &[u8], answer: u64) -> Option<u64> {
        let is = |step: &Step| match step {
            Step::Set(_) => tag == b"SAVEPOINT",
            Step::Release(_) => tag == b"RELEASE",
            Step::Back(_) => tag == b"ROLLBACK",
        };
        let front = self.coming.front();
        if front.is_some_and(|(of, step)| *of == answer && step.as_ref().is_some_and(is)) {
            if let Some((_, Some(step))) = self.coming.pop_front() {
                self.take(&step);
                self.stepped = answer;
            }
            if tag == b"ROLLBACK" && !self.unknown {
                let at = self.open.last().map_or(0, |(number, _)| *number);
                self.undone |= at <= self.mark;
                return Some(at);
            }
        } else if matches!(tag, b"SAVEPOINT" | b"RELEASE") {
            self.unknown = true;
        }
        self.undone |= tag == b"ROLLBACK";
        None
    }

    /// Which ones are open is not known any more, nor what has been undone.
    pub fn forget(&mut self) {
        (self.unknown, self.undone) = (true, true);
    }

    /// From here on it counts whether what is done now is undone by going back.
    pub fn mark(&mut self) {
        // One that is unknown may be any of those to come.
        let innermost = self.innermost().map_or(u64::MAX, Option::unwrap_or_default);
        (self.mark, self.undone) = (innermost, false);
    }

    /// Whether what was done at the mark can be undone: a savepoint is open before it.
    pub fn may_undo(&self) -> bool {
        self.known().is_none_or(|open| open.first().is_some_and(|(first, _)| *first <= self.mark))
    }

    /// Whether the client may have undone what was done at the mark.
    pub fn is_undone(&self) -> bool {
        self.undone
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Set(name) if self.open.len() < KNOWN_MAX => {
                self.made += 1;
                self.open.push((self.made, name.clone()));
            }
            Step::Set(_) => self.unknown = true,
            Step::Release(name) | Step::Back(name) => match self.place(name) {
                Some(at) => self.open.truncate(at + usize::from(matches!(step, Step::Back(_)))),
                None => self.unknown = true,
            },
        }
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.open.iter().rposition(|(_, own)| own == name)
    }

    /// The answer of this number came; `over`: a transaction ended before it, `idle`: and no
    /// other one has begun.
    pub fn answered(&mut self, answer: u64, over: bool, idle: bool) {
        // The text or the batch that ended it may have set some in the next one.
        let mut behind = self.stepped == answer;
        while let Some((of, step)) = self.coming.front()
            && *of <= answer
        {
            // A step that was not completed met an error.
            self.unknown |= step.is_none();
            behind |= step.is_none() && *of == answer;
            self.coming.pop_front();
        }
        if over {
            self.open.clear();
            self.unknown = behind && !idle;
            (self.mark, self.undone) = (0, false);
        }
    }

    fn known(&self) -> Option<&[(u64, String)]> {
        (!self.unknown && self.coming.is_empty()).then_some(&self.open)
    }

    /// The numbers of those that are open; none where that is unknown.
    pub fn open(&self) -> Vec<u64> {
        self.known().unwrap_or_default().iter().map(|(number, _)| *number).collect()
    }

    /// The number of the one that was made last, if any is open. `None`: unknown.
    pub fn innermost(&self) -> Option<Option<u64>> {
        self.known().map(|open| open.last().map(|(number, _)| *number))
    }

    /// The number of the savepoint that a text, which is to be relayed next, goes back to.
    pub fn target(&self, text: &[u8]) -> Option<u64> {
        self.known()?;
        match steps(text)?.as_slice() {
            [Step::Back(name)] => self.open.get(self.place(name)?).map(|(number, _)| *number),
            _ => None,
        }
    }
}

/// The name that a savepoint of the client's has at a source.
pub(crate) fn name_at_source(number: u64) -> String {
    format!("pgspan{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(known: &mut Savepoints, answer: u64, text: &str, tags: &[&str]) {
        known.relayed(Some(text.as_bytes()), answer);
        for tag in tags {
            known.completed(tag.as_bytes(), answer);
        }
        known.answered(answer, false, false);
    }

    #[test]
    fn what_is_open_is_what_was_completed() {
        let mut known = Savepoints::default();
        play(&mut known, 1, "savepoint a", &["SAVEPOINT"]);
        play(&mut known, 2, "savepoint a; savepoint b", &["SAVEPOINT", "SAVEPOINT"]);
        assert_eq!(known.open(), [1, 2, 3]);
        assert_eq!(known.target(b"rollback to A"), Some(2));
        assert_eq!(known.target(b"rollback to c"), None);
        play(&mut known, 3, "rollback to a", &["ROLLBACK"]);
        assert_eq!(known.open(), [1, 2]);
        // It fails.
        play(&mut known, 4, "release b", &[]);
        play(&mut known, 5, "release a", &["RELEASE"]);
        assert_eq!(known.open(), [1]);
        // Numbers are not used again.
        play(&mut known, 6, "savepoint c", &["SAVEPOINT"]);
        assert_eq!(known.open(), [1, 4]);
        assert_eq!(known.innermost(), Some(Some(4)));
        known.answered(7, true, true);
        assert!(known.open().is_empty() && known.innermost() == Some(None));
    }

    #[test]
    fn what_is_undone_is_what_stands_behind_the_mark() {
        let mut known = Savepoints::default();
        known.mark();
        assert!(!known.may_undo());
        play(&mut known, 1, "savepoint a", &["SAVEPOINT"]);
        play(&mut known, 2, "savepoint b", &["SAVEPOINT"]);
        known.mark();
        play(&mut known, 3, "savepoint c", &["SAVEPOINT"]);
        play(&mut known, 4, "rollback to c", &["ROLLBACK"]);
        assert!(known.may_undo() && !known.is_undone());
        // What was done behind one that is released is undone with the one before it.
        play(&mut known, 5, "release b", &["RELEASE"]);
        assert!(known.may_undo() && !known.is_undone());
        play(&mut known, 6, "rollback to a", &["ROLLBACK"]);
        assert!(known.is_undone());
        known.mark();
        play(&mut known, 7, "release a", &["RELEASE"]);
        assert!(!known.may_undo() && !known.is_undone());
        known.completed(b"ROLLBACK", 8);
        assert!(known.is_undone());
    }

    #[test]
    fn what_is_not_seen_makes_them_unknown_to_the_end() {
        for hidden in [None, Some(&b"rollback; begin; savepoint s"[..])] {
            let mut known = Savepoints::default();
            play(&mut known, 1, "savepoint a", &["SAVEPOINT"]);
            known.relayed(hidden, 2);
            known.answered(2, false, false);
            assert!(known.open().is_empty() && known.innermost().is_none());
            assert!(known.target(b"rollback to a").is_none());
            known.answered(3, true, true);
            play(&mut known, 4, "savepoint a", &["SAVEPOINT"]);
            assert_eq!(known.open().len(), 1);
        }
        for (idle, innermost) in [(false, None), (true, Some(None))] {
            let mut known = Savepoints::default();
            known.relayed(Some(b"commit and chain"), 1);
            known.relayed(Some(b"savepoint s"), 1);
            known.completed(b"COMMIT", 1);
            known.completed(b"SAVEPOINT", 1);
            known.answered(1, true, idle);
            assert_eq!(known.innermost(), innermost);
            let mut known = Savepoints::default();
            known.relayed(Some(b"commit and chain; savepoint s"), 1);
            known.completed(b"COMMIT", 1);
            known.answered(1, true, idle);
            assert_eq!(known.innermost(), innermost);
        }
        let mut known = Savepoints::default();
        known.completed(b"SAVEPOINT", 1);
        play(&mut known, 2, "savepoint a", &["SAVEPOINT"]);
        assert!(known.open().is_empty());
    }
}
