//! Looking for an answer again and again before sleeping until it comes: waking a thread
//! takes longer than a near server takes to answer. It pays only where answers do come
//! within the time spent looking, so who looks in vain looks less often.

use std::time::Duration;

/// The most waits in a row that are not looked through.
const REST_MAX: u32 = 256;

/// How to wait for the answers of one connection.
#[derive(Debug, Default)]
pub struct BusyPoll {
    /// Look for so long. Zero to sleep at once, as one must when others could use the
    /// processor.
    pub max: Duration,
    /// So many waits are slept through.
    rest: u32,
    /// So many are after the next look in vain.
    next_rest: u32,
}

impl BusyPoll {
    /// How long to look for the answer that is waited for now.
    pub(crate) fn start(&mut self) -> Option<Duration> {
        if self.max.is_zero() {
            return None;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        Some(self.max)
    }

    /// Whether the answer came while one looked.
    pub(crate) fn ended(&mut self, came: bool) {
        self.next_rest = if came { 0 } else { (self.next_rest * 2 + 1).min(REST_MAX) };
        self.rest = self.next_rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_vain_become_rare() {
        let mut poll = BusyPoll { max: Duration::from_micros(1), ..BusyPoll::default() };
        let mut looks = 0;
        for _ in 0..10_000 {
            if poll.start().is_some() {
                looks += 1;
                poll.ended(false);
            }
        }
        assert!((10..60).contains(&looks), "{looks}");
        // One success, and it looks every time.
        while poll.start().is_none() {}
        for _ in 0..10 {
            poll.ended(true);
            assert!(poll.start().is_some());
        }
    }

    #[test]
    fn nobody_looks_unless_told() {
        assert!(BusyPoll::default().start().is_none());
    }
}
