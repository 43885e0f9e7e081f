//! What on home's connection is still what the gateway takes it for.
//!
//! Prepared statements live on the client's own connection: the gateway's, which answer for
//! the client's rights, and the client's, by whose names it is told what to run. SQL can
//! take any of them away and put another in its place (PREPARE, DEALLOCATE, DISCARD), and
//! not only where that can be read: a function, a trigger or a DO may. So whatever home ran
//! by itself leaves them in doubt unless it is proven harmless, and before the next use home
//! is asked, by a text that is parsed on the spot, which statements there are and whether
//! they came by the protocol. Those the gateway has seen all of.

use super::home::{self, Statement};
use super::request::{self, Text};
use super::{End, Session};
use pgspan_wire::backend::TransactionStatus;
use pgspan_wire::frame::HEADER_BYTES;
use std::collections::HashSet;

/// Names of prepared statements, and whether SQL made them.
const PREPARED: &str = "SELECT p.name, p.from_sql FROM pg_catalog.pg_prepared_statements p";

/// Statements that run no function and no trigger, by their first word.
const HARMLESS: &[&[u8]] = &[
    b"begin",
    b"start",
    b"savepoint",
    b"release",
    b"rollback",
    b"abort",
    b"set",
    b"reset",
    b"show",
];

/// Statements that end a transaction, and so run the triggers that wait for that.
const ENDS: &[&[u8]] = &[b"commit", b"end"];

/// Whether statements on home's connection may have been replaced.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Trust {
    /// Something ran since they were looked at.
    doubted: bool,
    /// Something ran in the transaction that is open: its end may do more.
    pending: bool,
    /// How often something ran.
    runs: u64,
}

impl Trust {
    /// Home runs a Query by itself.
    pub fn ran(&mut self, text: Option<&[u8]>) {
        self.runs += 1;
        let harmless = text.is_some_and(|text| {
            let text = text.trim_ascii().strip_suffix(b";").unwrap_or(text.trim_ascii());
            let is = |list: &[&[u8]]| list.iter().any(|word| begins(text, word));
            let deferred = mentions(text, b"constraints");
            !text.contains(&b';') && !deferred && (is(HARMLESS) || (is(ENDS) && !self.pending))
        });
        self.doubted |= !harmless;
        self.pending |= !harmless;
    }

    /// Another number means that home has run something by itself in between: the session's
    /// settings may be others.
    pub fn runs(self) -> u64 {
        self.runs
    }

    /// Whether they have not been looked at since.
    pub fn is_doubted(self) -> bool {
        self.doubted
    }

    /// The transaction is over.
    pub fn ended(&mut self) {
        self.pending = false;
    }
}

/// Whether these letters are anywhere in a text, in whatever case.
fn mentions(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word))
}

/// Whether the first word of a text is this one.
fn begins(text: &[u8], word: &[u8]) -> bool {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || !b.is_ascii();
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        && !text.get(word.len()).is_some_and(is_word)
}

impl Session {
    /// Looks at what is prepared at home, if that is in doubt. Nothing is under way.
    pub(super) async fn regain_trust(&mut self) -> Result<(), End> {
        if !self.trust.doubted || self.server.status == TransactionStatus::Failed {
            return Ok(());
        }
        // Those that the question itself goes by are in doubt too.
        home::doubt_constants(&mut self.server);
        let asked = self.ask_aside(|server| home::run_once(server, PREPARED)).await?;
        let Some(got) = asked else {
            // Nothing is known: all is prepared anew, and home runs what it is named.
            self.server.prepared.doubt_all();
            self.statements.retain(str::is_empty);
            return Ok(());
        };
        let rows = got.results.into_iter().next().unwrap_or_default().rows;
        let seen: HashSet<String> = rows
            .into_iter()
            .filter(|row| matches!(row.get(1), Some(Some(from_sql)) if &from_sql[..] == b"f"))
            .filter_map(|row| Some(String::from_utf8_lossy(row.first()?.as_ref()?).into_owned()))
            .collect();
        self.server.prepared.retain(|number| seen.contains(&Statement::name_of(number)));
        self.statements.retain(|name| name.is_empty() || seen.contains(name));
        self.trust.doubted = false;
        Ok(())
    }

    /// Notes what a message does that goes to home as it is; `None`: it was not seen whole.
    /// `bound`: what it runs, if it binds a statement that is known.
    pub(super) fn note_relayed(&mut self, tag: u8, raw: Option<&[u8]>, bound: Option<&Text>) {
        let body = raw.and_then(|raw| raw.get(HEADER_BYTES..));
        match tag {
            b'Q' => self.trust.ran(body.map(|text| text.strip_suffix(b"\0").unwrap_or(text))),
            b'F' => self.trust.ran(None),
            b'B' => {
                let name = body.and_then(|body| request::nth_text(body, 1));
                let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
                self.trust.ran(bound.map(|(sql, _)| &sql[..]));
                // Home may read its text anew, under settings that nobody has asked for.
                self.statements.read_unseen(name.as_deref());
            }
            b'P' | b'C' => {
                let name = match tag {
                    b'P' => body.and_then(|body| request::nth_text(body, 0)),
                    _ => body.and_then(|body| request::nth_text(body.get(1..)?, 0)),
                };
                // By a name as the gateway gives them: which are whose cannot be told.
                if name.is_none_or(|name| name.starts_with(b"pgspan:")) {
                    self.server.prepared.doubt_all();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubts(texts: &[&str]) -> bool {
        let mut trust = Trust::default();
        texts.iter().for_each(|t| trust.ran(Some(t.as_bytes())));
        trust.doubted
    }

    #[test]
    fn what_runs_no_code_leaves_no_doubt() {
        assert!(!doubts(&[
            "BEGIN",
            " start transaction read only;",
            "SET x = 1",
            "show x",
            "COMMIT"
        ]));
        for text in [
            "deallocate p",
            "/* */ deallocate all",
            "select 1",
            "begin; deallocate p",
            "set constraints all immediate",
            "settle",
            "do $$ begin end $$",
            "",
        ] {
            assert!(doubts(&[text]), "{text}");
        }
    }

    #[test]
    fn a_commit_may_run_what_was_deferred() {
        let mut trust = Trust::default();
        trust.ran(Some(b"begin"));
        trust.ran(Some(b"insert into t values (1)"));
        trust.doubted = false;
        trust.ran(Some(b"commit"));
        assert!(trust.doubted);
        trust.ended();
        trust.doubted = false;
        trust.ran(Some(b"begin"));
        trust.ran(Some(b"commit"));
        assert!(!trust.doubted);
        trust.ran(None);
        assert!(trust.doubted);
    }
}
