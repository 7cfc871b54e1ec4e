//! When the short arm is to be stopped: looked at once a second, by what both arms did within the last ten.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Stopped;

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(10);

/// Below this part of the ports towards a backend.
const FEW_PORTS: f64 = 0.2;

/// From so many failures within the window on.
const FAILURES: u64 = 10;

/// And from this part of the requests on.
const PART: f64 = 0.01;

/// And if they are so many times as frequent as the pooled arm's.
const TIMES: f64 = 5.0;

/// What there is at one moment, since the proxy's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Requests of the short arm that are over.
    pub short: u64,
    /// Of these, those that failed: answered 5xx, or not to the end.
    pub short_failed: u64,
    /// The same of the pooled arm.
    pub pooled: u64,
    /// The same of the pooled arm.
    pub pooled_failed: u64,
    /// Of the ports towards the backend that has the fewest left, the part that is left; `None`: not known.
    pub ports_left: Option<f64>,
}

/// Watches one upstream.
#[derive(Debug, Default)]
pub struct Guard {
    /// The last ten seconds, and the moment before them.
    past: VecDeque<(Instant, Seen)>,
}

impl Guard {
    /// What is to be done, now that this is seen: `Some` where the short arm, which `is_on`, is to be stopped.
    pub fn look(&mut self, now: Instant, seen: Seen, is_on: bool) -> Option<Stopped> {
        if !is_on {
            // Whatever comes after a stop is measured anew.
            self.past.clear();
            return None;
        }
        while self.past.len() > 1 && self.past[1].0 + WINDOW <= now {
            self.past.pop_front();
        }
        let before = self.past.front().map_or(seen, |(_, seen)| *seen);
        self.past.push_back((now, seen));
        if seen.ports_left.is_some_and(|left| left < FEW_PORTS) {
            return Some(Stopped::PortsLow);
        }
        let rate = |failed: u64, of: u64| {
            if of == 0 {
                0.0
            } else {
                float(failed) / float(of)
            }
        };
        let failed = seen.short_failed.saturating_sub(before.short_failed);
        let short = rate(failed, seen.short.saturating_sub(before.short));
        let pooled = rate(
            seen.pooled_failed.saturating_sub(before.pooled_failed),
            seen.pooled.saturating_sub(before.pooled),
        );
        let is_bad = failed >= FAILURES && short > PART && short > TIMES * pooled;
        is_bad.then_some(Stopped::Errors)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^52 requests are more than there are"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(short: u64, short_failed: u64, pooled_failed: u64, ports_left: f64) -> Seen {
        Seen {
            short,
            short_failed,
            pooled: short * 9,
            pooled_failed,
            ports_left: Some(ports_left),
        }
    }

    #[test]
    fn ports_and_errors_stop_it() {
        let start = Instant::now();
        for (what, then, expected) in [
            ("all is well", seen(1000, 0, 0, 0.9), None),
            ("few ports", seen(1000, 0, 0, 0.19), Some(Stopped::PortsLow)),
            ("errors", seen(1000, 20, 0, 0.9), Some(Stopped::Errors)),
            ("too few of them", seen(100, 9, 0, 0.9), None),
            ("a small part", seen(10_000, 90, 0, 0.9), None),
            ("both arms alike", seen(1000, 50, 500, 0.9), None),
            (
                "more than five times",
                seen(1000, 60, 90, 0.9),
                Some(Stopped::Errors),
            ),
        ] {
            let mut guard = Guard::default();
            assert_eq!(guard.look(start, Seen::default(), true), None);
            let later = start + Duration::from_secs(5);
            assert_eq!(guard.look(later, then, true), expected, "{what}");
            assert_eq!(guard.look(later, then, false), None, "it is off");
        }
    }

    #[test]
    fn what_is_long_past_does_not_count() {
        let start = Instant::now();
        let mut guard = Guard::default();
        // Nine failures every eight seconds: never ten within ten.
        for turn in 0..10_u32 {
            let now = start + Duration::from_secs(8) * turn;
            let failed = 9 * u64::from(turn);
            let then = seen(500 * u64::from(turn), failed, 0, 0.9);
            let stopped = guard.look(now, then, true);
            // Two of them lie within a window's edges at most.
            if turn < 2 {
                assert_eq!(stopped, None, "{turn}");
            }
        }
        let mut guard = Guard::default();
        for second in 0..100_u32 {
            let now = start + Duration::from_secs(1) * second;
            let failed = u64::from(second) / 2;
            let then = seen(100 * u64::from(second), failed, 0, 0.9);
            assert_eq!(guard.look(now, then, true), None, "{second}");
        }
    }

    #[test]
    fn without_ports_known_only_errors_count() {
        let mut guard = Guard::default();
        let none = Seen {
            ports_left: None,
            ..Seen::default()
        };
        assert_eq!(guard.look(Instant::now(), none, true), None);
    }
}
