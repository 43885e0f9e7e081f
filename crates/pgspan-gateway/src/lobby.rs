//! Connections that have not logged in: so many at a time, and who has been there longest
//! makes room. Somebody who opens connections and says nothing keeps nobody out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The connections that have not logged in.
#[derive(Default)]
pub(crate) struct Lobby {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order in which they came.
    waiting: VecDeque<(u64, Arc<Notify>)>,
}

/// A place in the lobby, until it is dropped.
pub(crate) struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    needed: Arc<Notify>,
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; with `max` taken the one that was taken first is needed.
    pub fn enter(self: &Arc<Self>, max: usize) -> Place {
        let mut state = self.lock();
        while state.waiting.len() >= max.max(1)
            && let Some((_, needed)) = state.waiting.pop_front()
        {
            needed.notify_one();
        }
        let (number, needed) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        state.waiting.push_back((number, needed.clone()));
        Place { lobby: self.clone(), number, needed }
    }
}

impl Place {
    /// Returns when the place is needed for somebody else.
    pub async fn needed(&self) {
        self.needed.notified().await;
    }

    /// Gives it back: from here on it is not needed.
    pub fn leave(&self) {
        self.lobby.lock().waiting.retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    async fn is_needed(place: &Place) -> bool {
        let mut needed = pin!(place.needed());
        poll_fn(|cx| Poll::Ready(needed.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_nobody_else() {
        let lobby = Arc::new(Lobby::default());
        let (first, second) = (lobby.enter(2), lobby.enter(2));
        assert!(!is_needed(&first).await);
        let third = lobby.enter(2);
        assert!(is_needed(&first).await && !is_needed(&second).await);
        second.leave();
        let (fourth, fifth) = (lobby.enter(2), lobby.enter(2));
        // Who has left is in nobody's way.
        assert!(!is_needed(&second).await && is_needed(&third).await);
        assert!(!is_needed(&fourth).await && !is_needed(&fifth).await);
        drop((first, second, third, fourth, fifth));
        assert!(lobby.lock().waiting.is_empty());
    }
}
