//! Is home what it was when a plan was made? The fingerprint question looks at every
//! catalog row that the plan rests on. While no transaction has ended at home since it was
//! last answered, nothing that it looks at can be different, and a question that costs
//! home a twentieth does.

use super::home::{self, Answers, Around, Statement};
use super::request::Reading;
use super::stop::Stop;
use crate::sources::Fingerprint;
use bytes::{Bytes, BytesMut};
use pgspan_pool::ServerConnection;
use pgspan_sql::ask;
use pgspan_sql::cause::Cause;
use pgspan_sql::route::Reason;
use pgspan_wire::frontend;

/// Answers kept of one session.
const KNOWN_MAX: usize = 64;

/// The longest run of equal snapshots that is asked for before the short question.
const PATIENCE_MAX: u32 = 64;

/// Home's answer to the fingerprint question.
pub(crate) struct HomeState {
    pub fingerprint: Fingerprint,
    pub session: ask::Session,
    /// What tells home's transaction from any other; empty where nobody asked.
    pub transaction: Bytes,
}

/// How home is asked.
#[derive(Clone, Copy)]
pub(crate) enum Question<'a> {
    /// Everything.
    Whole(&'a Statement),
    /// Whether anything can have changed; if so, everything.
    Unchanged { short: &'a Statement, whole: &'a Statement },
}

impl<'a> Question<'a> {
    /// The statement to run.
    pub fn statement(self) -> &'a Statement {
        match self {
            Question::Whole(whole) => whole,
            Question::Unchanged { short, .. } => short,
        }
    }

    /// Whether home has little to do for it.
    pub fn is_short(self) -> bool {
        matches!(self, Question::Unchanged { .. })
    }
}

/// What a whole answer tells of what a plan rests on.
type Told = [Bytes; 4];

/// What a session knows of home under the snapshot that it saw last. Of this session
/// alone: another one has temporary tables, and so another meaning of names.
#[derive(Default)]
pub(crate) struct Still {
    /// A snapshot that [`ask::is_still`]; empty for none.
    snapshot: Bytes,
    /// Number of a fingerprint question, and the first four columns of its answer.
    known: Vec<(u64, Told)>,
    /// So many questions in a row found the snapshot unchanged.
    streak: u32,
    /// So many have to, beyond the first: more after each short question in vain, so that
    /// a home that always changes is asked once.
    patience: u32,
}

impl Still {
    /// How to ask now.
    pub fn question<'a>(
        &self,
        short: &'a Statement,
        whole: &'a Statement,
        around: Around,
    ) -> Question<'a> {
        // In the client's block, what the block has changed is visible in no snapshot.
        let can = around == Around::Own
            && self.streak > self.patience
            && self.known.iter().any(|(number, _)| *number == whole.number());
        if can { Question::Unchanged { short, whole } } else { Question::Whole(whole) }
    }

    /// Whether home will confirm this fingerprint unless something has changed since it was
    /// asked last.
    pub fn expects(
        &self,
        question: Question<'_>,
        fingerprint: &Fingerprint,
        server: &ServerConnection,
    ) -> bool {
        let Question::Unchanged { whole, .. } = question else { return false };
        let known = self.known.iter().find(|(number, _)| *number == whole.number());
        known.is_some_and(|(_, answer)| answer[..] == fingerprint[..4])
            && reported(server) == fingerprint[4]
    }

    /// Whether the answer to the short question confirms it.
    pub fn confirms(
        &mut self,
        question: Question<'_>,
        fingerprint: &Fingerprint,
        server: &ServerConnection,
        settings: &Bytes,
        snapshot: &Bytes,
    ) -> bool {
        let Question::Unchanged { whole, .. } = question else { return false };
        let answer = self.confirmed(whole, settings, snapshot);
        answer.is_some_and(|answer| answer[..] == fingerprint[..4])
            && reported(server) == fingerprint[4]
    }

    /// A guess was in vain: the whole question again, for a while.
    pub fn doubt(&mut self) {
        self.patience = (self.patience * 2 + 1).min(PATIENCE_MAX);
        self.streak = 0;
    }

    /// The answer that a short question confirms.
    fn confirmed(&mut self, whole: &Statement, settings: &Bytes, snapshot: &Bytes) -> Option<Told> {
        let known = self.known.iter().find(|(number, _)| *number == whole.number());
        let answer = known.map(|(_, answer)| answer).filter(|a| a[0] == *settings).cloned();
        let same = !self.snapshot.is_empty() && self.snapshot == *snapshot;
        match answer.filter(|_| same) {
            Some(answer) => {
                self.patience = 0;
                Some(answer)
            }
            None => {
                if !same {
                    self.doubt();
                }
                None
            }
        }
    }

    /// Takes note of a whole answer.
    fn learn(&mut self, whole: &Statement, answer: Told, snapshot: Bytes) {
        if !std::str::from_utf8(&snapshot).is_ok_and(ask::is_still) {
            *self = Still { patience: self.patience, ..Still::default() };
            return;
        }
        if self.snapshot == snapshot {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.snapshot = snapshot;
            self.known.clear();
            self.streak = 0;
        }
        let number = whole.number();
        self.known.retain(|(n, _)| *n != number);
        if self.known.len() >= KNOWN_MAX {
            self.known.remove(0);
        }
        self.known.push((number, answer));
    }
}

/// Reads the answer that is the `i`th result; asks for the rest if that is needed.
pub(crate) async fn home_state(
    server: &mut ServerConnection,
    aside: &mut BytesMut,
    still: &mut Still,
    question: Question<'_>,
    got: &Answers,
    i: usize,
    around: Around,
) -> Result<HomeState, Stop> {
    let column = |got: &Answers, i: usize, n: usize| got.value(i, n).cloned().unwrap_or_default();
    let (asked_again, whole);
    let (got, i) = match question {
        Question::Whole(statement) => {
            whole = statement;
            (got, i)
        }
        Question::Unchanged { whole: statement, .. } => {
            whole = statement;
            let (settings, snapshot) = (column(got, i, 0), column(got, i, 1));
            if let Some(answer) = still.confirmed(whole, &settings, &snapshot) {
                return state_of(server, answer);
            }
            home::run_prepared(server, whole);
            frontend::sync(&mut server.outbox);
            asked_again = home::answers(server, aside).await?;
            (&asked_again, 0)
        }
    };
    let answer = [0, 1, 2, 3].map(|n| column(got, i, n));
    if around == Around::Own {
        still.learn(whole, answer.clone(), column(got, i, 5));
    } else {
        let told = column(got, i, 4);
        let blank = told.iter().rposition(|b| *b == b' ').unwrap_or(told.len());
        if told[..blank] != b"read committed"[..] {
            let isolation = String::from_utf8_lossy(&told[..blank]).into_owned();
            return Err(Reason::about(Cause::Isolation, isolation).into());
        }
        return Ok(HomeState { transaction: told.slice(blank..), ..state_of(server, answer)? });
    }
    state_of(server, answer)
}

/// With what the server has told of its settings by itself.
fn state_of(server: &ServerConnection, answer: Told) -> Result<HomeState, Stop> {
    let told = |name: &str| server.parameters.get(name).map(String::as_str);
    let session = ask::Session::read(&String::from_utf8_lossy(&answer[0]), told)?;
    let [settings, names, definitions, servers] = answer;
    let fingerprint = [settings, names, definitions, servers, reported(server)];
    Ok(HomeState { fingerprint, session, transaction: Bytes::new() })
}

/// What a text is read under, from the answer to its fingerprint question.
pub(crate) fn reading(server: &ServerConnection, row: Vec<Option<Bytes>>) -> Option<Reading> {
    let mut columns = row.into_iter().map(Option::unwrap_or_default);
    let mut next = || columns.next();
    let fingerprint = [next()?, next()?, next()?, next()?, reported(server)];
    Some(Reading::of(&fingerprint))
}

/// Settings that the server reports by itself.
pub(crate) fn reported(server: &ServerConnection) -> Bytes {
    let value = |name: &&str| server.parameters.get(*name).map_or("", String::as_str);
    Bytes::from(ask::REPORTED_SETTINGS.iter().map(value).collect::<Vec<_>>().join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &'static str) -> Told {
        [Bytes::from("role"), Bytes::from(text), Bytes::new(), Bytes::new()]
    }

    fn asks_short(still: &Still, short: &Statement, whole: &Statement) -> bool {
        still.question(short, whole, Around::Own).is_short()
    }

    #[test]
    fn the_short_question_follows_an_unchanged_snapshot() {
        let (short, whole) = (Statement::new("short"), Statement::new("whole"));
        let mut still = Still::default();
        let (role, first) = (Bytes::from("role"), Bytes::from("7:7:"));
        still.learn(&whole, answer("a"), first.clone());
        assert!(!asks_short(&still, &short, &whole));
        still.learn(&whole, answer("a"), first.clone());
        assert!(asks_short(&still, &short, &whole));
        assert!(!still.question(&short, &whole, Around::Savepoint).is_short());
        assert!(!asks_short(&still, &short, &Statement::new("another")));
        assert_eq!(still.confirmed(&whole, &role, &first), Some(answer("a")));
        // Another role or setting, another snapshot: the whole question.
        assert_eq!(still.confirmed(&whole, &Bytes::from("other"), &first), None);
        assert_eq!(still.confirmed(&whole, &role, &Bytes::from("8:8:")), None);
        assert!(!asks_short(&still, &short, &whole));
    }

    #[test]
    fn a_home_that_changes_is_asked_the_whole_question() {
        let (short, whole) = (Statement::new("short"), Statement::new("whole"));
        let mut still = Still::default();
        for n in 0..100 {
            still.learn(&whole, answer("a"), Bytes::from(format!("{n}:{n}:")));
            assert!(!asks_short(&still, &short, &whole));
        }
        // What is running may end at any time.
        for _ in 0..3 {
            still.learn(&whole, answer("a"), Bytes::from("100:101:100"));
            assert!(!asks_short(&still, &short, &whole));
        }
    }

    #[test]
    fn short_questions_in_vain_are_asked_less_and_less() {
        let (short, whole) = (Statement::new("short"), Statement::new("whole"));
        let mut still = Still::default();
        let mut vain = 0;
        for n in 0..1_000 {
            let snapshot = Bytes::from(format!("{}:{}:", n / 3, n / 3));
            if asks_short(&still, &short, &whole) {
                if still.confirmed(&whole, &Bytes::from("role"), &snapshot).is_some() {
                    continue;
                }
                vain += 1;
            }
            still.learn(&whole, answer("a"), snapshot);
        }
        assert!(vain < 10, "{vain}");
    }
}
