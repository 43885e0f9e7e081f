//! Is home what it was when a plan was made? The fingerprint question looks at every
//! catalog row that the plan rests on. While no transaction has ended at home since it was
//! last answered, nothing that it looks at can be different, and a question that costs
//! home a twentieth does: for role and settings, the snapshot, and when the configuration was
//! read. Where nothing of the client's has run since role and settings were read, it need not
//! ask for these.

use super::home::{self, Answers, Around, Statement};
use super::request::Reading;
use super::stop::Stop;
use crate::sources::{Fingerprint, Sources};
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
    Unchanged { short: Short<'a>, whole: &'a Statement },
}

/// The short question.
#[derive(Clone, Copy)]
pub(crate) struct Short<'a> {
    statement: &'a Statement,
    /// It does not ask for role and settings.
    is_brief: bool,
    /// What has run in the session when it is asked ([`super::trust::Trust::runs`]).
    runs: u64,
}

/// Answers to a short question: role and settings, the snapshot, and when the configuration was
/// read.
pub(crate) type ShortAnswer = [Bytes; 3];

impl<'a> Question<'a> {
    /// The statement to run.
    pub fn statement(self) -> &'a Statement {
        match self {
            Question::Whole(whole) => whole,
            Question::Unchanged { short, .. } => short.statement,
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
    settings: Option<Settings>,
}

/// Role and settings as they were read last.
struct Settings {
    read: Bytes,
    /// When the configuration had been read by then.
    loaded: Bytes,
    /// What had run in the session by then.
    runs: u64,
}

impl Still {
    /// How to ask now.
    pub fn question<'a>(
        &self,
        sources: &'a Sources,
        whole: &'a Statement,
        around: Around,
        runs: u64,
    ) -> Question<'a> {
        // In the client's block, what the block has changed is visible in no snapshot.
        let can = around == Around::Own
            && self.streak > self.patience
            && self.known.iter().any(|(number, _)| *number == whole.number());
        if !can {
            return Question::Whole(whole);
        }
        let is_brief = self.settings.as_ref().is_some_and(|known| known.runs == runs);
        let statement = if is_brief { &sources.undisturbed } else { &sources.unchanged };
        Question::Unchanged { short: Short { statement, is_brief, runs }, whole }
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
        answer: &ShortAnswer,
    ) -> bool {
        let Question::Unchanged { short, whole } = question else { return false };
        let answer = self.confirmed(whole, short, answer);
        answer.is_some_and(|answer| answer[..] == fingerprint[..4])
            && reported(server) == fingerprint[4]
    }

    /// A guess was in vain: the whole question again, for a while.
    pub fn doubt(&mut self) {
        self.patience = (self.patience * 2 + 1).min(PATIENCE_MAX);
        self.streak = 0;
    }

    /// The answer that a short question confirms.
    fn confirmed(
        &mut self,
        whole: &Statement,
        short: Short<'_>,
        [settings, snapshot, loaded]: &ShortAnswer,
    ) -> Option<Told> {
        // Whatever comes of it, they are not known until they are read again.
        let before = self.settings.take();
        let settings = if short.is_brief {
            before.filter(|known| known.runs == short.runs && known.loaded == *loaded)?.read
        } else {
            settings.clone()
        };
        let known = self.known.iter().find(|(number, _)| *number == whole.number());
        let answer = known.map(|(_, answer)| answer).filter(|a| a[0] == settings).cloned();
        let same = !self.snapshot.is_empty() && self.snapshot == *snapshot;
        match answer.filter(|_| same) {
            Some(answer) => {
                self.patience = 0;
                let (loaded, runs) = (loaded.clone(), short.runs);
                self.settings = Some(Settings { read: settings, loaded, runs });
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
        Question::Unchanged { short, whole: statement } => {
            whole = statement;
            let answer = [0, 1, 2].map(|n| column(got, i, n));
            if let Some(answer) = still.confirmed(whole, short, &answer) {
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
    use crate::config::Limits;

    fn told(text: &'static str) -> Told {
        [Bytes::from("role"), Bytes::from(text), Bytes::new(), Bytes::new()]
    }

    /// What home says to a short question.
    fn answer(settings: &'static str, snapshot: &str) -> ShortAnswer {
        [Bytes::from(settings), Bytes::from(snapshot.to_owned()), Bytes::from("1.5")]
    }

    struct Stage {
        sources: Sources,
        still: Still,
        runs: u64,
    }

    impl Stage {
        fn new() -> Stage {
            let sources = Sources::new(&Limits::default());
            Stage { sources, still: Still::default(), runs: 0 }
        }

        /// Whether a short question is asked, and if so, whether a brief one; and what it
        /// confirms when it is answered so.
        fn asks(
            &mut self,
            whole: &Statement,
            answer: &ShortAnswer,
        ) -> Option<(bool, Option<Told>)> {
            match self.still.question(&self.sources, whole, Around::Own, self.runs) {
                Question::Whole(_) => None,
                Question::Unchanged { short, .. } => {
                    Some((short.is_brief, self.still.confirmed(whole, short, answer)))
                }
            }
        }

        fn is_short(&self, whole: &Statement, around: Around) -> bool {
            self.still.question(&self.sources, whole, around, self.runs).is_short()
        }

        /// So that the next question is a short one.
        fn still(whole: &Statement, snapshot: &'static str) -> Stage {
            let mut stage = Stage::new();
            (0..2).for_each(|_| stage.still.learn(whole, told("a"), Bytes::from(snapshot)));
            stage
        }
    }

    #[test]
    fn the_short_question_follows_an_unchanged_snapshot() {
        let whole = Statement::new("whole");
        let mut stage = Stage::new();
        stage.still.learn(&whole, told("a"), Bytes::from("7:7:"));
        assert!(!stage.is_short(&whole, Around::Own));
        stage.still.learn(&whole, told("a"), Bytes::from("7:7:"));
        assert!(stage.is_short(&whole, Around::Own));
        assert!(!stage.is_short(&whole, Around::Savepoint));
        assert!(!stage.is_short(&Statement::new("another"), Around::Own));
        let asked = stage.asks(&whole, &answer("role", "7:7:"));
        assert_eq!(asked, Some((false, Some(told("a")))));
        // Another role or setting, another snapshot: the whole question.
        stage.runs += 1;
        assert_eq!(stage.asks(&whole, &answer("other", "7:7:")), Some((false, None)));
        assert_eq!(stage.asks(&whole, &answer("role", "8:8:")), Some((false, None)));
        assert!(!stage.is_short(&whole, Around::Own));
    }

    #[test]
    fn settings_are_not_asked_for_where_nothing_can_have_changed_them() {
        let whole = Statement::new("whole");
        let mut stage = Stage::still(&whole, "7:7:");
        let (full, brief) = (answer("role", "7:7:"), answer("", "7:7:"));
        let confirmed = |is_brief| Some((is_brief, Some(told("a"))));
        assert_eq!(stage.asks(&whole, &full), confirmed(false));
        assert_eq!(stage.asks(&whole, &brief), confirmed(true));
        assert_eq!(stage.asks(&whole, &brief), confirmed(true));
        // Home has run something by itself.
        stage.runs += 1;
        assert_eq!(stage.asks(&whole, &full), confirmed(false));
        assert_eq!(stage.asks(&whole, &brief), confirmed(true));
        // The configuration has been read again.
        let [settings, snapshot, _] = brief.clone();
        let loaded = [settings, snapshot, Bytes::from("2.5")];
        assert_eq!(stage.asks(&whole, &loaded), Some((true, None)));
        assert_eq!(stage.asks(&whole, &full), confirmed(false));
        // Another snapshot.
        assert_eq!(stage.asks(&whole, &answer("", "8:8:")), Some((true, None)));
        assert!(!stage.is_short(&whole, Around::Own));
    }

    #[test]
    fn a_home_that_changes_is_asked_the_whole_question() {
        let whole = Statement::new("whole");
        let mut stage = Stage::new();
        for n in 0..100 {
            stage.still.learn(&whole, told("a"), Bytes::from(format!("{n}:{n}:")));
            assert!(!stage.is_short(&whole, Around::Own));
        }
        // What is running may end at any time.
        for _ in 0..3 {
            stage.still.learn(&whole, told("a"), Bytes::from("100:101:100"));
            assert!(!stage.is_short(&whole, Around::Own));
        }
    }

    #[test]
    fn short_questions_in_vain_are_asked_less_and_less() {
        let whole = Statement::new("whole");
        let mut stage = Stage::new();
        let mut vain = 0;
        for n in 0..1_000 {
            let snapshot = format!("{}:{}:", n / 3, n / 3);
            stage.runs += 1;
            match stage.asks(&whole, &answer("role", &snapshot)) {
                Some((_, Some(_))) => continue,
                Some((_, None)) => vain += 1,
                None => {}
            }
            stage.still.learn(&whole, told("a"), Bytes::from(snapshot));
        }
        assert!(vain < 10, "{vain}");
    }
}
