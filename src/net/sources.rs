//! Which of several source addresses a connection is opened from: the one with the most ports left
//! towards its destination.
//!
//! Each source has as many ports towards a destination as the others, so the most are left where the
//! fewest are used: by connections of this process, or by their `TIME_WAIT` here. What other programs
//! use is not known, until the kernel says that no port is left: then the source is left alone for a
//! while. Asking the kernel for its sockets each time would cost milliseconds; this costs a look at
//! a few counts.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::PortRange;

/// How long a `TIME_WAIT` keeps its port: `TCP_TIMEWAIT_LEN`, 60 s, and the second that the
/// kernel's timers add to it at most (61.0 s on average on Linux 6.18).
pub(super) const TIME_WAIT: Duration = Duration::from_secs(61);

/// After `EADDRNOTAVAIL` a source is left alone for this long; doubled each time, up to the most.
///
/// A `connect()` that finds no port searches the whole range: 5 ms of CPU for 28,232 ports.
const HOLD: Duration = Duration::from_millis(50);
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// Births of `TIME_WAIT`s within this time are counted together.
const GRAIN: Duration = Duration::from_secs(1);

/// Where connections come from and go to, which is what they compete for ports in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    /// This machine's address.
    pub(super) source: IpAddr,
    /// The backend's address and port.
    pub(super) destination: SocketAddr,
    /// The ports it is confined to: two upstreams with ranges of their own take none from each
    /// other.
    pub(super) ports: Option<PortRange>,
}

/// The lanes of this process, with what is used of each.
///
/// Always true between calls:
/// - a lane counts what was chosen and has not ended, and each end that left a `TIME_WAIT` for
///   [`TIME_WAIT`];
/// - a lane that was told to have no port is not chosen until its hold is over, which is at most a
///   second.
#[derive(Debug, Default)]
pub(super) struct Sources {
    lanes: HashMap<Lane, Use>,
    /// Numbers choices.
    turn: u64,
    /// How many were left when those that nothing is used of were last thrown away.
    swept_to: usize,
}

#[derive(Debug)]
struct Use {
    /// Connections being opened, and open.
    open: u32,
    /// Those that have ended and left a `TIME_WAIT` here: when, and how many.
    left: VecDeque<(Instant, u32)>,
    /// The sum of `left`.
    lingering: u32,
    /// When it was last chosen, as a number that grows.
    chosen: u64,
    hold: Duration,
    held_until: Option<Instant>,
}

impl Default for Use {
    fn default() -> Use {
        Use {
            open: 0,
            left: VecDeque::new(),
            lingering: 0,
            chosen: 0,
            hold: HOLD,
            held_until: None,
        }
    }
}

impl Use {
    fn used(&self) -> u32 {
        self.open + self.lingering
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Forgets the `TIME_WAIT`s that are over.
    fn age(&mut self, now: Instant) {
        while let Some(&(since, count)) = self.left.front()
            && since + GRAIN + TIME_WAIT <= now
        {
            self.left.pop_front();
            self.lingering -= count;
        }
    }

    fn is_forgettable(&mut self, now: Instant) -> bool {
        self.age(now);
        self.used() == 0 && !self.is_held(now)
    }
}

impl Sources {
    /// The lane of these with the fewest ports used, and of several the one that was chosen longest
    /// ago. From now on a port of it is used, until [`ended`](Self::ended) or
    /// [`out_of_ports`](Self::out_of_ports). `None`: not long ago all of them had none.
    pub(super) fn choose(
        &mut self,
        lanes: impl Iterator<Item = Lane>,
        now: Instant,
    ) -> Option<Lane> {
        let mut best: Option<((u32, u64), Lane)> = None;
        for lane in lanes {
            let rank = match self.lanes.get_mut(&lane) {
                None => (0, 0),
                Some(used) => {
                    used.age(now);
                    if used.is_held(now) {
                        continue;
                    }
                    (used.used(), used.chosen)
                }
            };
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, lane));
            }
        }
        let (_, lane) = best?;
        self.make_room(now);
        self.turn += 1;
        let chosen = self.lanes.entry(lane).or_default();
        chosen.open += 1;
        chosen.chosen = self.turn;
        Some(lane)
    }

    /// A connection was opened: there are ports again.
    pub(super) fn opened(&mut self, lane: &Lane) {
        let used = self.used_of(lane);
        used.hold = HOLD;
        used.held_until = None;
    }

    /// No connection could be opened as no port was left.
    pub(super) fn out_of_ports(&mut self, lane: &Lane, now: Instant) {
        let used = self.used_of(lane);
        used.open -= 1;
        // Attempts that were under way together find out together: that is once.
        if !used.is_held(now) {
            used.held_until = Some(now + used.hold);
            used.hold = (used.hold * 2).min(LONGEST_HOLD);
        }
    }

    /// A connection has ended, or the attempt to open it; whether its port is in `TIME_WAIT` now.
    pub(super) fn ended(&mut self, lane: &Lane, time_wait: bool, now: Instant) {
        let used = self.used_of(lane);
        used.open -= 1;
        if !time_wait {
            return;
        }
        used.age(now);
        used.lingering += 1;
        match used.left.back_mut() {
            Some((since, count)) if now < *since + GRAIN => *count += 1,
            _ => used.left.push_back((now, 1)),
        }
    }

    /// The ports used of a lane, as far as is known: by connections, and by their `TIME_WAIT`s.
    #[cfg(test)]
    pub(super) fn used(&mut self, lane: &Lane, now: Instant) -> (u32, u32) {
        self.lanes.get_mut(lane).map_or((0, 0), |used| {
            used.age(now);
            (used.open, used.lingering)
        })
    }

    fn used_of(&mut self, lane: &Lane) -> &mut Use {
        let used = self.lanes.get_mut(lane);
        used.expect("a lane is kept while a port of it is used")
    }

    /// Throws away what is not used any more, now and then: backends come and go.
    fn make_room(&mut self, now: Instant) {
        if self.lanes.len() > 2 * self.swept_to + 64 {
            self.lanes.retain(|_, used| !used.is_forgettable(now));
            self.swept_to = self.lanes.len();
        }
    }

    /// Panics if anything that is always true is not.
    #[cfg(test)]
    fn check(&self) {
        for used in self.lanes.values() {
            let sum: u32 = used.left.iter().map(|(_, count)| count).sum();
            assert_eq!(sum, used.lingering);
            assert!(used.left.len() <= 64, "a minute, second by second");
            assert!(used.hold <= LONGEST_HOLD);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(source: u8) -> Lane {
        Lane {
            source: IpAddr::from([127, 0, 4, source]),
            destination: ([10, 0, 0, 1], 80).into(),
            ports: None,
        }
    }

    fn of(count: u8) -> impl Iterator<Item = Lane> {
        (0..count).map(lane)
    }

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn without_a_difference_they_are_chosen_in_turn() {
        let now = Instant::now();
        let mut sources = Sources::default();
        let chosen: Vec<_> = (0..6)
            .map(|_| {
                let lane = sources.choose(of(3), now).unwrap();
                sources.ended(&lane, false, now);
                lane
            })
            .collect();
        let expected: Vec<_> = of(3).chain(of(3)).collect();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn the_one_with_the_fewest_in_use_is_chosen() {
        let now = Instant::now();
        let mut sources = Sources::default();
        for _ in 0..5 {
            sources.choose(of(1), now).unwrap();
        }
        // A second address was added: it catches up first.
        for n in 0..5 {
            assert_eq!(sources.choose(of(2), now), Some(lane(1)), "{n}");
        }
        // On a par, it is the other's turn.
        assert_eq!(sources.choose(of(2), now), Some(lane(0)));
        assert_eq!(sources.used(&lane(0), now), (6, 0));
    }

    #[test]
    fn a_time_wait_of_ours_counts_for_a_minute() {
        let start = Instant::now();
        let mut sources = Sources::default();
        for n in 0..4 {
            let lane = sources.choose(of(1), start).unwrap();
            sources.ended(&lane, true, start + Duration::from_millis(n * 500));
        }
        let last = start + Duration::from_millis(1500);
        assert_eq!(sources.choose(of(2), last), Some(lane(1)));
        for (after, lingering) in [
            (Duration::ZERO, 4),
            (TIME_WAIT.saturating_sub(secs(1)), 4),
            (TIME_WAIT + GRAIN, 0),
        ] {
            assert_eq!(
                sources.used(&lane(0), last + after),
                (0, lingering),
                "{after:?}"
            );
        }
    }

    #[test]
    fn one_without_a_port_is_left_alone_for_longer_and_longer_and_the_next_is_chosen() {
        let mut now = Instant::now();
        let mut sources = Sources::default();
        // Connections of others: this process does not know of them.
        for hold in [50, 100, 200, 400, 800, 1000, 1000] {
            let found = sources.choose(of(1), now).unwrap();
            sources.out_of_ports(&found, now);
            let end = now + Duration::from_millis(hold);
            let before = end - Duration::from_nanos(1);
            assert_eq!(sources.choose(of(1), before), None, "{hold}");
            let other = sources
                .choose(of(2), before)
                .expect("the other is not held");
            assert_eq!(other, lane(1));
            sources.ended(&other, false, before);
            now = end;
        }
        // One that succeeds starts it over.
        let found = sources.choose(of(1), now).unwrap();
        sources.opened(&found);
        let found = sources.choose(of(1), now).unwrap();
        sources.out_of_ports(&found, now);
        assert!(sources.choose(of(1), now + HOLD).is_some());
    }

    #[test]
    fn attempts_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut sources = Sources::default();
        for _ in 0..8 {
            sources.choose(of(1), now).unwrap();
        }
        for _ in 0..8 {
            sources.out_of_ports(&lane(0), now);
        }
        assert_eq!(sources.used(&lane(0), now), (0, 0));
        assert!(sources.choose(of(1), now + HOLD).is_some());
    }

    #[test]
    fn ranges_of_ports_are_lanes_of_their_own() {
        let now = Instant::now();
        let mut sources = Sources::default();
        let ports = Some(PortRange {
            low: 40_000,
            high: 49_999,
        });
        let confined = Lane { ports, ..lane(0) };
        let found = sources.choose([confined].into_iter(), now).unwrap();
        sources.out_of_ports(&found, now);
        assert_eq!(sources.choose([confined].into_iter(), now), None);
        assert_eq!(sources.choose(of(1), now), Some(lane(0)));
    }

    #[test]
    fn backends_that_are_gone_take_no_memory() {
        let now = Instant::now();
        let mut sources = Sources::default();
        for port in 1..=10_000 {
            let lane = Lane {
                destination: ([10, 0, 0, 1], port).into(),
                ..lane(0)
            };
            let lane = sources.choose([lane].into_iter(), now).unwrap();
            sources.ended(&lane, false, now);
        }
        assert!(sources.lanes.len() <= 65, "{}", sources.lanes.len());
    }

    proptest! {
        /// Four sources whose ports are exhausted by chance: the counts are those of a plain list of
        /// what is open and what is in TIME_WAIT, and what is chosen has the fewest.
        #[test]
        fn the_fewest_used_is_chosen_and_the_books_balance(
            script in proptest::collection::vec((0_u8..6, 0_u64..4000, 0_usize..64), 1..400)
        ) {
            let mut now = Instant::now();
            let mut sources = Sources::default();
            let mut open: Vec<Lane> = Vec::new();
            for (event, pause, which) in script {
                now += Duration::from_millis(pause);
                match event {
                    0..=2 => {
                        let used: Vec<u32> = of(4).map(|lane| {
                            let (open, lingering) = sources.used(&lane, now);
                            open + lingering
                        }).collect();
                        if let Some(lane) = sources.choose(of(4), now) {
                            let held = |lane: &Lane| {
                                sources.lanes.get(lane).is_some_and(|used| used.is_held(now))
                            };
                            let least = of(4).zip(&used).filter(|(lane, _)| !held(lane));
                            let least = least.map(|(_, used)| *used).min();
                            let at = of(4).position(|other| other == lane).unwrap();
                            prop_assert_eq!(Some(used[at]), least);
                            open.push(lane);
                        }
                    }
                    _ if open.is_empty() => {}
                    3 => sources.out_of_ports(&open.swap_remove(which % open.len()), now),
                    _ => sources.ended(&open.swap_remove(which % open.len()), event == 4, now),
                }
                sources.check();
                let known: u32 = of(4).map(|lane| sources.used(&lane, now).0).sum();
                prop_assert_eq!(known as usize, open.len());
            }
            // In the end nothing is left but what is open.
            now += TIME_WAIT + GRAIN + LONGEST_HOLD;
            for lane in open.drain(..) {
                sources.ended(&lane, false, now);
            }
            sources.make_room(now);
            prop_assert!(of(4).all(|lane| sources.used(&lane, now) == (0, 0)));
        }
    }
}
