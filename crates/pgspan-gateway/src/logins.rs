//! Logins that failed: a line in the log for each, within a rate, and a wait for who fails
//! again and again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in the log in one second; what is more is counted.
const LINES_PER_S_MAX: u32 = 10;
/// Peers that are remembered; the one that failed longest ago is forgotten first.
const PEERS_MAX: usize = 4096;
/// A peer that has not failed for this long starts anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Failures without a wait: who mistypes is not kept waiting.
const FREE: u32 = 3;
/// The wait behind the first failure that has one; it doubles with each.
const WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Why somebody was not let in. Never told to the client, who could learn which users exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `auth_file` does not have the user.
    NoSuchUser,
    /// The proof is of another password.
    WrongPassword,
    /// The messages are none of SCRAM-SHA-256.
    BadMessage,
    /// Clients must encrypt, and this one does not.
    NotEncrypted,
    /// Home did not let the user in.
    RefusedByHome,
    /// It took longer than `limits.login_ms_max`.
    TooSlow,
    /// It said nothing within `limits.first_message_ms_max`.
    Silent,
    /// There were `limits.logins_max` others behind it.
    NoRoom,
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Refusal::NoSuchUser => "no such user in the gateway's auth_file",
            Refusal::WrongPassword => "wrong password",
            Refusal::BadMessage => "malformed authentication message",
            Refusal::NotEncrypted => "the connection is not encrypted",
            Refusal::RefusedByHome => "refused by the server",
            Refusal::TooSlow => "the login took longer than limits.login_ms_max",
            Refusal::Silent => "no message within limits.first_message_ms_max",
            Refusal::NoRoom => "more than limits.logins_max connections had not logged in",
        }
    }
}

/// What failed lately.
#[derive(Default)]
pub(crate) struct Failures {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: HashMap<IpAddr, (u32, Instant)>,
    /// Of the present second: when it began, lines written, lines left out.
    second: Option<(Instant, u32, u64)>,
}

/// Whoever has one address of a network has all of them (RFC 6177).
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(a) => {
            let mut octets = a.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
        v4 => v4,
    }
}

impl Failures {
    /// Notes a failure, and tells how long its answer waits.
    pub fn note(&self, peer: IpAddr, user: &str, cause: Refusal) -> Duration {
        let now = Instant::now();
        let (wait, left_out) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.wait(network(peer), cause, now), state.line(now))
        };
        if let Some(left_out) = left_out {
            let user: String = user.chars().take(63).collect();
            // A name is quoted: it could hold what looks like another line.
            tracing::info!(%peer, ?user, cause = cause.as_str(), left_out, "login failed");
        }
        wait
    }
}

impl State {
    fn wait(&mut self, peer: IpAddr, cause: Refusal, now: Instant) -> Duration {
        if !matches!(cause, Refusal::NoSuchUser | Refusal::WrongPassword | Refusal::BadMessage) {
            return Duration::ZERO;
        }
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, (_, at))| *at).map(|(peer, _)| *peer);
            oldest.and_then(|oldest| self.peers.remove(&oldest));
        }
        let (count, at) = self.peers.entry(peer).or_insert((0, now));
        if now.duration_since(*at) > FORGIVEN_AFTER {
            *count = 0;
        }
        (*count, *at) = (count.saturating_add(1), now);
        match count.checked_sub(FREE + 1) {
            Some(more) => WAIT_MAX.min(WAIT * 2u32.saturating_pow(more.min(8))),
            None => Duration::ZERO,
        }
    }

    /// Whether a line may be written, and how many were left out before it.
    fn line(&mut self, now: Instant) -> Option<u64> {
        let (began, lines, left_out) = self.second.unwrap_or((now, 0, 0));
        let new = now.duration_since(began) >= Duration::from_secs(1);
        let (began, lines) = if new { (now, 0) } else { (began, lines) };
        if lines >= LINES_PER_S_MAX {
            self.second = Some((began, lines, left_out + 1));
            return None;
        }
        self.second = Some((began, lines + 1, 0));
        Some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_again_and_again_waits() {
        let mut state = State::default();
        let now = Instant::now();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let waits: Vec<u128> =
            (0..12).map(|_| state.wait(peer, Refusal::WrongPassword, now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3000, 3000, 3000, 3000]);
        assert_eq!(
            state.wait(IpAddr::from([192, 0, 2, 2]), Refusal::WrongPassword, now),
            Duration::ZERO
        );
        assert_eq!(state.wait(peer, Refusal::RefusedByHome, now), Duration::ZERO);
        let later = now + FORGIVEN_AFTER + Duration::from_millis(1);
        assert_eq!(state.wait(peer, Refusal::WrongPassword, later), Duration::ZERO);
    }

    #[test]
    fn peers_and_lines_are_bounded() {
        let mut state = State::default();
        let now = Instant::now();
        for n in 0..u32::try_from(PEERS_MAX).unwrap_or(0) + 50 {
            let peer = IpAddr::from(n.to_be_bytes());
            state.wait(peer, Refusal::NoSuchUser, now + Duration::from_micros(u64::from(n)));
        }
        assert_eq!(state.peers.len(), PEERS_MAX);
        assert!(!state.peers.contains_key(&IpAddr::from(0u32.to_be_bytes())));
        let lines = (0..25).filter(|_| state.line(now).is_some()).count();
        assert_eq!(lines, LINES_PER_S_MAX as usize);
        assert_eq!(state.line(now + Duration::from_secs(1)), Some(15));
        let network_of = |last| network(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]));
        assert_eq!(network_of(1), network_of(2));
    }
}
