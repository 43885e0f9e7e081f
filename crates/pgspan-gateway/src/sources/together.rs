//! Sessions that want the same rows at the same time fetch them once. A fetch that has
//! been sent is nobody else's: its snapshot may be older than what another session has
//! seen at home. While enough of them are under way, those who come wait for the next
//! one together; it is sent after all of them have come, so that each gets rows of a
//! moment between its own snapshot at home and its answer, as if it had fetched alone.

use super::fetch::Fetched;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Fetches of the same rows that are under way at the same time before others wait.
const UNDER_WAY_MAX: usize = 2;

/// How long one waits for others: a source that does not answer on one connection may
/// answer on another.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// Number of the source in its plan, and the address of the endpoint in memory: the same
/// source may be reached otherwise from another home.
pub(crate) type Place = (usize, usize);

/// What a fetch gave; `None`: it failed.
type Outcome = Option<Vec<Fetched>>;

/// The fetches of one plan.
#[derive(Default)]
pub(crate) struct Together {
    lanes: Mutex<Vec<(Place, Arc<Lane>)>>,
}

/// The fetches from one source.
#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    /// One of those under way has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// The one that is not sent yet.
    next: Option<watch::Receiver<Option<Outcome>>>,
}

/// What to do now.
pub(crate) enum Turn {
    /// Fetch, and tell.
    Fetch(Lead),
    /// Somebody else has fetched it, or failed.
    Share(Outcome),
    /// Who was to fetch it is gone.
    Again,
    /// It took too long: fetch without regard to others.
    Alone,
}

/// One fetch under way.
pub(crate) struct Lead {
    lane: Arc<Lane>,
    others: Option<watch::Sender<Option<Outcome>>>,
}

impl Lead {
    /// Gives the rows to those who wait for them.
    pub fn tell(mut self, fetched: Option<&Vec<Fetched>>) {
        if let Some(others) = self.others.take().filter(|o| o.receiver_count() > 0) {
            others.send_replace(Some(fetched.cloned()));
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.lane.lock().under_way -= 1;
        self.lane.ended.notify_one();
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Together {
    fn lane(&self, place: Place) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lane)) = lanes.iter().find(|(p, _)| *p == place) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::default());
        lanes.push((place, lane.clone()));
        lane
    }

    /// Waits for one's turn, or for another's rows. To be called when the snapshot at home
    /// has been taken.
    pub async fn turn(&self, place: Place) -> Turn {
        let lane = self.lane(place);
        let entry = lane.enter();
        let waiting = async {
            match entry {
                Entry::Go => Turn::Fetch(Lead { lane, others: None }),
                Entry::Follow(mut next) => match next.wait_for(Option::is_some).await {
                    Ok(outcome) => Turn::Share(outcome.clone().flatten()),
                    Err(_) => Turn::Again,
                },
                Entry::Lead(sender, own) => {
                    while !lane.may_lead(&own) {
                        lane.ended.notified().await;
                    }
                    Turn::Fetch(Lead { lane, others: Some(sender) })
                }
            }
        };
        match tokio::time::timeout(WAIT_MAX, waiting).await {
            Ok(turn) => turn,
            Err(_) => Turn::Alone,
        }
    }
}

/// How one finds the fetches.
enum Entry {
    /// Few are under way.
    Go,
    /// Another session is to fetch.
    Follow(watch::Receiver<Option<Outcome>>),
    /// This session is to fetch, for those who come before its turn as well.
    Lead(watch::Sender<Option<Outcome>>, watch::Receiver<Option<Outcome>>),
}

impl Lane {
    fn enter(&self) -> Entry {
        let mut state = self.lock();
        // Closed without a value: who was to send it has given up.
        if let Some(next) = state.next.as_ref().filter(|next| next.has_changed().is_ok()) {
            return Entry::Follow(next.clone());
        }
        if state.under_way < UNDER_WAY_MAX {
            state.under_way += 1;
            return Entry::Go;
        }
        let (sender, receiver) = watch::channel(None);
        state.next = Some(receiver.clone());
        Entry::Lead(sender, receiver)
    }

    /// Takes the turn if there is room; from then on others wait for the one after.
    fn may_lead(&self, own: &watch::Receiver<Option<Outcome>>) -> bool {
        let mut state = self.lock();
        if state.under_way >= UNDER_WAY_MAX {
            return false;
        }
        state.under_way += 1;
        if state.next.as_ref().is_some_and(|next| next.same_channel(own)) {
            state.next = None;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const HERE: Place = (0, 0);

    fn rows(n: u64) -> Vec<Fetched> {
        vec![Fetched {
            value: Bytes::new(),
            rows: n,
            bytes: 0,
            elapsed: Duration::ZERO,
            _share: None,
        }]
    }

    fn lead(turn: Turn) -> Lead {
        match turn {
            Turn::Fetch(lead) => lead,
            _ => unreachable!("its turn to fetch"),
        }
    }

    /// Lets other tasks run until they wait.
    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    fn spawn(together: &Arc<Together>) -> tokio::task::JoinHandle<Turn> {
        let together = together.clone();
        tokio::spawn(async move { together.turn(HERE).await })
    }

    #[tokio::test]
    async fn what_is_under_way_is_nobody_elses() {
        let together = Arc::new(Together::default());
        let first = lead(together.turn(HERE).await);
        let second = lead(together.turn(HERE).await);
        let third = spawn(&together);
        settle().await;
        let fourth = spawn(&together);
        settle().await;
        // From another home it is another fetch.
        drop(lead(together.turn((0, 1)).await));
        first.tell(Some(&rows(1)));
        let third = lead(third.await.unwrap_or(Turn::Again));
        // Whoever comes now may not have what is already under way.
        let fifth = spawn(&together);
        settle().await;
        third.tell(Some(&rows(3)));
        let Ok(Turn::Share(Some(shared))) = fourth.await else { unreachable!("shared") };
        assert_eq!(shared[0].rows, 3);
        lead(fifth.await.unwrap_or(Turn::Again)).tell(None);
        second.tell(None);
        drop(lead(together.turn(HERE).await));
    }

    #[tokio::test]
    async fn who_is_cancelled_takes_nobody_along() {
        let together = Arc::new(Together::default());
        let _first = lead(together.turn(HERE).await);
        let _second = lead(together.turn(HERE).await);
        let leader = spawn(&together);
        settle().await;
        let follower = spawn(&together);
        settle().await;
        leader.abort();
        assert!(matches!(follower.await, Ok(Turn::Again)));
    }

    #[tokio::test]
    async fn nobody_waits_for_long() {
        let together = Arc::new(Together::default());
        let first = lead(together.turn(HERE).await);
        let _second = lead(together.turn(HERE).await);
        assert!(matches!(together.turn(HERE).await, Turn::Alone));
        drop(first);
        // The place that was waited for is free again.
        drop(lead(together.turn(HERE).await));
    }

    #[tokio::test]
    async fn a_failure_is_told_as_one() {
        let together = Arc::new(Together::default());
        let first = lead(together.turn(HERE).await);
        let _second = lead(together.turn(HERE).await);
        let third = spawn(&together);
        settle().await;
        let fourth = spawn(&together);
        settle().await;
        drop(first);
        lead(third.await.unwrap_or(Turn::Again)).tell(None);
        assert!(matches!(fourth.await, Ok(Turn::Share(None))));
    }
}
