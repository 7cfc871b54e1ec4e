//! Times, counted by how long they were: one writer, any reader.
//!
//! Four buckets to each doubling, from 16 µs to over an hour: a quantile read from them is off by a
//! quarter at most, and mostly by much less. Counting one is a few instructions and two plain stores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets to a doubling.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 2;

/// 2^LOW µs is where the first doubling begins; what is shorter is in the first bucket.
const LOW: u32 = 4;

/// 2^HIGH µs, somewhat more than an hour, is where the last one ends; what is longer is in the last bucket.
const HIGH: u32 = 32;

/// How many buckets: one below, `STEPS` in each doubling, one above.
const BUCKETS: usize = (HIGH - LOW) as usize * STEPS + 2;

/// Where a time is counted.
fn bucket(us: u64) -> usize {
    if us < 1 << LOW {
        return 0;
    }
    let doubling = us.ilog2();
    if doubling >= HIGH {
        return BUCKETS - 1;
    }
    let step = us >> (doubling - STEP_BITS);
    let step = usize::try_from(step).expect("it is less than twice STEPS") % STEPS;
    (doubling - LOW) as usize * STEPS + step + 1
}

/// Where a bucket ends, in µs: what is in it is shorter. `None` for the last.
fn end(bucket: usize) -> Option<u64> {
    if bucket + 1 >= BUCKETS {
        return None;
    }
    let doubling = LOW + u32::try_from(bucket / STEPS).expect("there are few buckets");
    let step = (bucket % STEPS) as u64;
    Some((1 << doubling) + (step << (doubling - STEP_BITS)))
}

/// One worker's times.
#[derive(Debug)]
pub struct TimesTally {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for TimesTally {
    fn default() -> Self {
        TimesTally {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
        }
    }
}

impl TimesTally {
    /// Counts a time.
    pub fn note(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // One writer: no need for a locked addition.
        let add = |cell: &AtomicU64, more: u64| {
            cell.store(
                cell.load(Ordering::Relaxed).saturating_add(more),
                Ordering::Relaxed,
            );
        };
        add(&self.counts[bucket(us)], 1);
        add(&self.sum_us, us);
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut Times) {
        for (sum, cell) in sum.counts.iter_mut().zip(&self.counts) {
            *sum += cell.load(Ordering::Relaxed);
        }
        sum.sum += Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
    }
}

/// Times of one or more workers, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            counts: [0; BUCKETS],
            sum: Duration::ZERO,
        }
    }
}

impl Times {
    /// Adds others to these.
    pub fn add(&mut self, others: &Times) {
        for (sum, other) in self.counts.iter_mut().zip(&others.counts) {
            *sum += other;
        }
        self.sum += others.sum;
    }

    /// Those that came after `earlier`, an older reading of the same.
    #[must_use]
    pub fn since(&self, earlier: &Times) -> Times {
        let mut later = self.clone();
        for (count, before) in later.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        later.sum = later.sum.saturating_sub(earlier.sum);
        later
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How many were shorter than 2^`power` µs, where `power` is 4 to 31.
    pub fn below_power(&self, power: u32) -> u64 {
        let buckets = (power.clamp(LOW, HIGH) - LOW) as usize * STEPS + 1;
        self.counts[..buckets].iter().sum()
    }

    /// The time that the share `q` of them, 0 to 1, did not exceed; `None` if there are none. Within a
    /// bucket it is taken to be spread evenly; beyond the last it is that one's beginning.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss)] // fewer than 2^52
        let rank = (q.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut below = 0.0;
        for (bucket, &here) in self.counts.iter().enumerate() {
            #[allow(clippy::cast_precision_loss)]
            let here = here as f64;
            if here > 0.0 && below + here >= rank {
                let begin = bucket.checked_sub(1).and_then(end).unwrap_or(0);
                let length = end(bucket).map_or(0, |end| end - begin);
                #[allow(clippy::cast_precision_loss)]
                let us = begin as f64 + length as f64 * (rank - below) / here;
                return Some(Duration::from_secs_f64(us / 1e6));
            }
            below += here;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        assert_eq!(bucket(0), 0);
        for index in 0..BUCKETS - 1 {
            let end = end(index).unwrap();
            assert_eq!(bucket(end - 1), index, "below {end}");
            assert_eq!(bucket(end), index + 1, "at {end}");
        }
        assert_eq!(end(BUCKETS - 1), None);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn times_add_up_and_quantiles_are_near() {
        let us = Duration::from_micros;
        let (one, other) = (TimesTally::default(), TimesTally::default());
        for n in 1..=1000 {
            if n % 2 == 0 { &one } else { &other }.note(us(n * 100));
        }
        let mut sum = Times::default();
        one.add_to(&mut sum);
        other.add_to(&mut sum);
        assert_eq!(sum.count(), 1000);
        assert_eq!(sum.sum(), us(100 * 500_500));
        for (q, exact) in [(0.5, 50_000), (0.9, 90_000), (0.99, 99_000), (1.0, 100_000)] {
            let found = sum.quantile(q).unwrap().as_secs_f64() / us(exact).as_secs_f64();
            assert!((0.8..1.25).contains(&found), "{q}: {found}");
        }
        // 2^16 µs is 65.536 ms: 655 are shorter.
        assert_eq!(sum.below_power(16), 655);
        let mut more = sum.clone();
        more.add(&sum);
        assert_eq!(more.since(&sum), sum);
        assert_eq!(Times::default().quantile(0.5), None);
        let mut long = Times::default();
        let tally = TimesTally::default();
        tally.note(Duration::from_hours(9));
        tally.add_to(&mut long);
        assert_eq!(long.quantile(0.5), Some(us(1 << 32)));
    }
}
