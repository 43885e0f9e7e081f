//! Cancel requests: from the number and secret that a client was given to every
//! server process that works for it at that moment.

use super::state::timed_out;
use super::stop::{Stop, cancelled};
use super::{End, Session};
use bytes::Bytes;
use pgspan_pool::{CancelKey, Patience};
use pgspan_wire::backend::ErrorFields;
use pgspan_wire::scram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Why a statement's waits for servers end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The client has cancelled it.
    Cancelled,
    /// Its `statement_timeout` has passed.
    TimedOut,
    /// The client has closed its connection.
    ClientGone,
    /// Home has closed its connection.
    HomeGone,
}

/// A session's sockets, to look whether their other side has closed them.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub client: OwnedFd,
    pub home: OwnedFd,
}

/// Whether the other side of a socket has closed it, as far as the system has heard.
fn is_closed(socket: &OwnedFd) -> bool {
    let mut look = [PollFd::new(socket, PollFlags::RDHUP)];
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    // The call does not wait; where it fails, other means will tell.
    poll(&mut look, Some(&Timespec::default())).is_ok() && look[0].revents().intersects(ends)
}

#[derive(Debug)]
struct Target {
    /// Server processes at work, home's first.
    keys: Mutex<Vec<CancelKey>>,
    sockets: Sockets,
    /// More of the client's messages have come, and Terminate behind them: they are worked
    /// through.
    goodbye: Arc<AtomicBool>,
    /// When the client was first found to be gone.
    gone: Mutex<Option<Instant>>,
    /// When the statement of the straight line began, and how long it may take.
    clock: Mutex<Option<(Instant, Option<Duration>)>>,
    /// Why a wait has ended.
    over: Mutex<Option<Over>>,
    /// A query of the straight line runs, and was cancelled.
    cancelled: AtomicBool,
    /// A cancel request has come, at any time.
    touched: AtomicBool,
    wake: Notify,
    /// Cancel requests whose way to the servers is not over.
    delivering: AtomicUsize,
    delivered: Notify,
}

impl Over {
    /// What ends the wait for a source.
    const AT_SOURCE: &[Over] = &[Over::Cancelled, Over::TimedOut, Over::ClientGone, Over::HomeGone];
    /// With a source that answers all of a statement home is at rest, and may go
    /// (`idle_session_timeout`) while rows still come.
    const WITHOUT_HOME: &[Over] = &[Over::Cancelled, Over::TimedOut, Over::ClientGone];
    /// For home's answers the session waits unless its client has gone: home itself ends what
    /// is cancelled or takes too long, and its answer to that is needed.
    const AT_HOME: &[Over] = &[Over::ClientGone];
}

impl Target {
    /// How long ago the client was first found to be gone. One that has said Terminate behind
    /// more that is to be run is not.
    fn gone_for(&self) -> Option<Duration> {
        if self.goodbye.load(Ordering::Relaxed) || !is_closed(&self.sockets.client) {
            return None;
        }
        Some(lock(&self.gone).get_or_insert_with(Instant::now).elapsed())
    }

    fn is(&self, over: Over, grace: Duration) -> bool {
        let clock = *lock(&self.clock);
        match over {
            Over::Cancelled => clock.is_some() && self.cancelled.load(Ordering::SeqCst),
            Over::TimedOut => clock
                .is_some_and(|(began, bound)| bound.is_some_and(|bound| began.elapsed() > bound)),
            Over::ClientGone => self.gone_for().is_some_and(|gone| gone >= grace),
            Over::HomeGone => is_closed(&self.sockets.home),
        }
    }

    /// The first of these that holds.
    fn why(&self, ends: &[Over], grace: Duration) -> Option<Over> {
        ends.iter().copied().find(|over| self.is(*over, grace))
    }
}

/// A session that waits for a server, and what ends that.
#[derive(Debug)]
struct Wait {
    target: Arc<Target>,
    ends: &'static [Over],
    /// How long it goes on when the client has gone.
    grace: Duration,
}

impl Patience for Wait {
    fn is_over(&self) -> bool {
        let why = self.target.why(self.ends, self.grace);
        let mut over = lock(&self.target.over);
        *over = over.or(why);
        why.is_some()
    }
}

/// How long home is waited for when the client has gone. What it sent before that may not have
/// been read yet: Terminate, or what home is still to run.
const QUESTION_MAX: Duration = Duration::from_secs(5);

/// Counts a cancel request on its way.
struct Delivery(Arc<Target>);

impl Delivery {
    fn new(target: &Arc<Target>) -> Delivery {
        target.delivering.fetch_add(1, Ordering::SeqCst);
        Delivery(target.clone())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.0.delivering.fetch_sub(1, Ordering::SeqCst);
        self.0.delivered.notify_waiters();
    }
}

type Targets = Arc<Mutex<HashMap<(i32, i32), Arc<Target>>>>;

/// Sessions by the process number and the secret that their client knows.
///
/// The number is home's own, since clients compare it with `pg_backend_pid()`, with
/// `pg_stat_activity` and with the sender of a notification. Processes of two servers may
/// have the same, so it does not tell sessions apart; the secret does.
#[derive(Default)]
pub(crate) struct CancelRegistry {
    targets: Targets,
}

/// A session's entry; gone when dropped.
pub(crate) struct CancelHandle {
    pid: i32,
    key: i32,
    target: Arc<Target>,
    targets: Targets,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CancelRegistry {
    /// Enters a session whose server process is `home`.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn register(&self, home: CancelKey, sockets: Sockets) -> Result<CancelHandle, String> {
        let pid = home.pid;
        let target = Arc::new(Target {
            keys: Mutex::new(vec![home]),
            sockets,
            goodbye: Arc::default(),
            gone: Mutex::default(),
            clock: Mutex::default(),
            over: Mutex::default(),
            cancelled: AtomicBool::default(),
            touched: AtomicBool::default(),
            wake: Notify::default(),
            delivering: AtomicUsize::default(),
            delivered: Notify::default(),
        });
        let mut targets = lock(&self.targets);
        loop {
            let key = i32::from_be_bytes(scram::random().map_err(|e| e.to_string())?);
            if let std::collections::hash_map::Entry::Vacant(entry) = targets.entry((pid, key)) {
                entry.insert(target.clone());
                return Ok(CancelHandle { pid, key, target, targets: self.targets.clone() });
            }
        }
    }

    /// Cancels what the session runs, if number and secret are right.
    pub async fn cancel(&self, pid: i32, key: &Bytes) {
        let Ok(key) = <[u8; 4]>::try_from(&key[..]) else { return };
        let found = {
            let targets = lock(&self.targets);
            let found = targets.get(&(pid, i32::from_be_bytes(key))).cloned();
            // While the session cannot retire.
            found.inspect(|target| target.touched.store(true, Ordering::SeqCst))
        };
        let Some(target) = found else { return };
        let _delivery = Delivery::new(&target);
        target.cancelled.store(true, Ordering::SeqCst);
        target.wake.notify_waiters();
        let keys = lock(&target.keys).clone();
        cancel_all(keys).await;
    }
}

/// To all at once: one that does not answer keeps no other from being told.
async fn cancel_all(keys: Vec<CancelKey>) {
    let mut requests = tokio::task::JoinSet::new();
    for key in keys {
        requests.spawn(async move {
            if let Err(error) = key.cancel().await {
                let address = key.address;
                tracing::warn!(%address, %error, "cancel request not delivered");
            }
        });
    }
    while requests.join_next().await.is_some() {}
}

impl CancelHandle {
    /// The process number that the client is told.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The secret that the client is told.
    pub fn key(&self) -> i32 {
        self.key
    }

    /// Whether more of the client's messages have come, and Terminate behind them.
    pub fn goodbye(&self) -> &Arc<AtomicBool> {
        &self.target.goodbye
    }

    /// Ends the entry; whether a cancel request has come before, which may not have
    /// arrived yet.
    pub fn retire(self) -> bool {
        let target = self.target.clone();
        drop(self);
        target.touched.load(Ordering::SeqCst)
    }

    /// A query begins: what was cancelled before does not count.
    pub fn begin(&self) {
        self.target.cancelled.store(false, Ordering::SeqCst);
        *lock(&self.target.clock) = Some((Instant::now(), None));
        *lock(&self.target.over) = None;
    }

    /// The query that has begun may take this long; `None`: for ever.
    pub fn ends_within(&self, bound: Option<Duration>) {
        if let Some(clock) = &mut *lock(&self.target.clock) {
            clock.1 = bound;
        }
    }

    /// The query is over. Why a wait of its ended, if one did.
    pub fn ended(&self) -> Option<Over> {
        *lock(&self.target.clock) = None;
        *lock(&self.target.over)
    }

    /// What a wait that has ended means for the statement.
    pub fn interrupted(&self) -> Stop {
        let told = *lock(&self.target.over);
        match told.or_else(|| self.target.why(Over::AT_SOURCE, Duration::ZERO)) {
            Some(Over::TimedOut) => timed_out(),
            Some(Over::ClientGone) => Stop::End(End::Client),
            Some(Over::HomeGone) => Stop::End(End::Server("home has closed it".to_owned())),
            Some(Over::Cancelled) | None => cancelled(),
        }
    }

    /// What ends the waits for sources.
    pub fn patience(&self) -> Arc<dyn Patience> {
        self.wait(Over::AT_SOURCE, Duration::ZERO)
    }

    /// What ends the waits for a source where home has nothing more to do.
    pub fn patience_without_home(&self) -> Arc<dyn Patience> {
        self.wait(Over::WITHOUT_HOME, Duration::ZERO)
    }

    /// What ends the waits for home, in a statement and between two.
    pub fn patience_with_home(&self) -> Arc<dyn Patience> {
        self.wait(Over::AT_HOME, QUESTION_MAX)
    }

    fn wait(&self, ends: &'static [Over], grace: Duration) -> Arc<dyn Patience> {
        Arc::new(Wait { target: self.target.clone(), ends, grace })
    }

    /// Whether the query was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.target.cancelled.load(Ordering::SeqCst)
    }

    /// Returns when every server has what it was sent because of a cancel request. What the
    /// session asks of them next is not to be hit.
    pub async fn delivered(&self) {
        while self.target.delivering.load(Ordering::SeqCst) > 0 {
            let mut next = pin!(self.target.delivered.notified());
            next.as_mut().enable();
            if self.target.delivering.load(Ordering::SeqCst) > 0 {
                next.await;
            }
        }
    }

    /// Returns when the query is cancelled.
    pub async fn cancelled(&self) {
        let wake = self.target.wake.notified();
        if !self.is_cancelled() {
            wake.await;
        }
    }

    /// A source process works for this session until the guard is dropped.
    pub fn at_work(&self, key: CancelKey) -> AtWork {
        lock(&self.target.keys).push(key.clone());
        AtWork { key, target: self.target.clone() }
    }

    /// Cancels everything at work, as when the client has gone.
    pub async fn cancel_own(&self) {
        let keys = lock(&self.target.keys).clone();
        cancel_all(keys).await;
    }
}

impl Session {
    /// What a statement ended with, a wait of which was ended for this reason.
    pub(super) async fn ended_with(&mut self, stop: Stop, over: Option<Over>) -> Stop {
        match (stop, over) {
            (Stop::GiveUp(_), _) if self.cancel.is_cancelled() => cancelled(),
            (Stop::GiveUp(_), Some(Over::TimedOut)) => timed_out(),
            (
                Stop::GiveUp(_) | Stop::Refuse(_) | Stop::End(End::Server(_)),
                Some(Over::ClientGone),
            ) => Stop::End(End::Client),
            (_, Some(Over::HomeGone)) => Stop::End(self.last_words().await),
            (stop, _) => stop,
        }
    }

    /// What home said last, which has closed the connection.
    async fn last_words(&mut self) -> End {
        loop {
            match self.server.receive().await {
                Ok(frame) if frame.tag == b'E' => return End::Home(ErrorFields::read(&frame)),
                Ok(_) => {}
                Err(lost) => return lost.into(),
            }
        }
    }
}

impl Drop for CancelHandle {
    fn drop(&mut self) {
        lock(&self.targets).remove(&(self.pid, self.key));
    }
}

/// Removes a server process from those at work.
pub(crate) struct AtWork {
    key: CancelKey,
    target: Arc<Target>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut keys = lock(&self.target.keys);
        if let Some(i) = keys.iter().rposition(|k| *k == self.key) {
            keys.remove(i);
        }
    }
}
