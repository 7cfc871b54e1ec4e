//! A check of the `TIME_WAIT`s by Little's law: as many must be there as connections that we closed first
//! within a minute. Where fewer are, something took them away, and the kernel may say what.

use std::collections::VecDeque;
use std::time::Duration;

use crate::census::{Counter, Counters};
use crate::quantity::grouped;

use super::owners::Balance;

/// How many samples in a row a difference has to stand.
const STANDS: u32 = 3;

/// Differences up to this are of no account.
const SMALL: u64 = 50;

/// How far back the kernel's counters are looked at: what is missing went within this.
const MINUTE: Duration = Duration::from_secs(60);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Little {
    /// Samples in a row with a difference.
    standing: u32,
    /// The kernel's counters of the last minute, and one from before it.
    counters: VecDeque<(Duration, Counters)>,
}

impl Little {
    /// What the log is to say now, if anything: once for each difference that comes to stand.
    pub(super) fn check(
        &mut self,
        balances: &[Balance],
        counters: Counters,
        now: Duration,
    ) -> Option<String> {
        self.counters.push_back((now, counters));
        while let Some((second, _)) = self.counters.get(1)
            && now.saturating_sub(*second) >= MINUTE
        {
            self.counters.pop_front();
        }
        let (mut expected, mut found) = (0, 0);
        for balance in balances {
            expected += balance.expected;
            found += balance.found;
        }
        let missing = expected.saturating_sub(found);
        if missing <= SMALL || missing * 10 <= expected {
            self.standing = 0;
            return None;
        }
        self.standing = self.standing.saturating_add(1);
        if self.standing != STANDS {
            return None;
        }
        Some(format!(
            "of {} connections to backends that were closed here first within a minute, {} are in \
             TIME_WAIT. {}",
            grouped(expected),
            grouped(found),
            self.cause(counters)
        ))
    }

    fn cause(&self, now: Counters) -> &'static str {
        let before = self.counters.front().map_or(now, |(_, before)| *before);
        if now.has_grown(&before, Counter::Overflows) {
            "The others skipped it (TCPTimeWaitOverflow): net.ipv4.tcp_max_tw_buckets is reached"
        } else if now.has_grown(&before, Counter::Recycled) {
            "The ports of the others were taken again (TWRecycled), as net.ipv4.tcp_tw_reuse allows"
        } else {
            "The kernel does not say what became of the others; backends that close at the same moment \
             may hold theirs"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::owners::Place;

    fn balance(expected: u64, found: u64) -> [Balance; 1] {
        let place = Place {
            upstream: "app".to_owned(),
            backend: "10.0.0.9:80".parse().unwrap(),
        };
        [Balance {
            place,
            expected,
            found,
        }]
    }

    fn counters(overflows: u64, recycled: u64) -> Counters {
        Counters::parse(&format!(
            "TcpExt: TCPTimeWaitOverflow TWRecycled\nTcpExt: {overflows} {recycled}\n"
        ))
    }

    #[test]
    fn a_difference_is_told_of_once_it_stands_and_once_only() {
        let mut little = Little::default();
        let mut second = 0;
        let mut look = |expected, found| {
            second += 1;
            let now = Duration::from_secs(second);
            let said = little.check(&balance(expected, found), counters(1, 1), now);
            said.is_some()
        };
        for (expected, found, is_said) in [
            (0, 0, false),
            (1000, 900, false), // a tenth
            (1000, 899, false),
            (1000, 899, false),
            (1000, 950, false), // it did not stand
            (1000, 0, false),
            (1000, 0, false),
            (1000, 0, true),
            (1000, 0, false),
            (1000, 1000, false),
            (50, 0, false), // small
            (51, 0, false),
            (51, 0, false),
            (51, 0, true),
        ] {
            assert_eq!(look(expected, found), is_said, "{expected} {found}");
        }
    }

    #[test]
    fn the_kernels_counters_of_the_last_minute_name_the_cause() {
        for (overflows, recycled, words) in [
            ([3, 3], [0, 9], "tcp_tw_reuse"),
            ([3, 4], [0, 9], "tcp_max_tw_buckets"),
            ([3, 3], [9, 9], "does not say"),
        ] {
            let mut little = Little::default();
            let mut said = None;
            for (at, counted) in [(0, 0), (1, 1), (2, 1)] {
                let counters = counters(overflows[counted], recycled[counted]);
                let now = Duration::from_secs(at);
                said = little.check(&balance(1000, 10), counters, now);
            }
            let said = said.unwrap();
            assert!(said.contains(words), "{said}");
            assert!(said.contains("of 1,000 connections") && said.contains(" 10 are in"));
        }
        // What was long ago is no cause.
        let mut little = Little::default();
        little.check(&balance(0, 0), counters(0, 0), Duration::ZERO);
        for at in 1..200 {
            little.check(&balance(0, 0), counters(7, 7), Duration::from_secs(at));
        }
        assert!(little.counters.len() < 63);
        assert!(little.cause(counters(7, 7)).contains("does not say"));
    }
}
