//! What a larger `max_idle` would have saved.
//!
//! A connection closed because the cap was full becomes a ghost. A request that finds nothing idle
//! and has to open one would have found the ghost under a larger cap: so much larger, that the
//! ghost would still be there. One list for each cap asked about, each as long as the cap is larger.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The caps asked about, as multiples of the one there is.
pub(super) const CAPS: [u32; 3] = [2, 4, 8];

/// Connections that a larger cap would have kept.
#[derive(Debug)]
pub(super) struct Ghosts {
    keep: Duration,
    lists: [List; CAPS.len()],
}

#[derive(Debug)]
struct List {
    room: usize,
    /// When each would have waited too long; the latest last.
    ends: VecDeque<Instant>,
    hits: u64,
}

impl Ghosts {
    /// Ghosts beyond a cap of `max_idle`, each of which would have waited `keep`.
    pub(super) fn new(max_idle: u32, keep: Duration) -> Ghosts {
        Ghosts {
            keep,
            lists: CAPS.map(|times| List {
                room: max_idle as usize * (times as usize - 1),
                ends: VecDeque::new(),
                hits: 0,
            }),
        }
    }

    /// A connection was closed because the cap was full.
    pub(super) fn closed(&mut self, now: Instant) {
        for list in &mut self.lists {
            if list.ends.len() == list.room {
                list.ends.pop_front();
            }
            list.ends.push_back(now + self.keep);
        }
    }

    /// A connection has to be opened, since none is idle.
    pub(super) fn missed(&mut self, now: Instant) {
        for list in &mut self.lists {
            match list.ends.pop_back() {
                Some(end) if end > now => list.hits += 1,
                // The others are older still.
                _ => list.ends.clear(),
            }
        }
    }

    /// How many connects each of the [`CAPS`] would have saved.
    pub(super) fn hits(&self) -> [u64; CAPS.len()] {
        [0, 1, 2].map(|cap: usize| self.lists[cap].hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[test]
    fn a_cap_twice_as_large_saves_as_many_connects_as_there_were_caps_worth_of_ghosts() {
        let now = Instant::now();
        let mut ghosts = Ghosts::new(2, KEEP);
        for _ in 0..20 {
            ghosts.closed(now);
        }
        for _ in 0..20 {
            ghosts.missed(now);
        }
        assert_eq!(ghosts.hits(), [2, 6, 14]);
    }

    #[test]
    fn a_ghost_that_would_have_waited_too_long_saves_nothing() {
        let now = Instant::now();
        let mut ghosts = Ghosts::new(2, KEEP);
        ghosts.closed(now);
        ghosts.missed(now + KEEP);
        assert_eq!(ghosts.hits(), [0; 3]);
        ghosts.closed(now + KEEP);
        ghosts.missed(now + KEEP + KEEP / 2);
        assert_eq!(ghosts.hits(), [1; 3]);
    }
}
