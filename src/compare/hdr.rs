//! Times with three significant digits: constant memory, whatever is counted.
//!
//! Log-linear, as `HdrHistogram` has it: 1,024 buckets to each doubling of a nanosecond count, so a quantile is off by less
//! than a thousandth, from 1 µs to over an hour. The largest time is kept as it was. The crate of that
//! name would bring its serialisation and four crates for what is two functions here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::quantity::whole;

/// Buckets to a doubling.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 10;

/// 2^HIGH ns is 73 minutes; what is longer is in the last bucket.
const HIGH: u32 = 42;

/// How many buckets; 264 KiB.
const BUCKETS: usize = (HIGH - STEP_BITS + 1) as usize * STEPS;

/// Where a time is counted. Below 2 x `STEPS` ns each nanosecond has its bucket.
fn bucket(ns: u64) -> usize {
    if ns >> HIGH > 0 {
        return BUCKETS - 1;
    }
    let shift = ns.checked_ilog2().unwrap_or(0).saturating_sub(STEP_BITS);
    let step = usize::try_from(ns >> shift).expect("it is below twice STEPS");
    shift as usize * STEPS + step
}

/// The longest time in a bucket, in ns.
fn last(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    (((bucket - shift * STEPS + 1) as u64) << shift) - 1
}

/// Times, counted by how long they were.
///
/// As JSON: the buckets that have some, each as the longest time in it, in ns, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Kept", from = "Kept")]
pub struct Hdr {
    counts: Box<[u64]>,
    count: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for Hdr {
    fn default() -> Self {
        Hdr {
            counts: vec![0; BUCKETS].into(),
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Hdr {
    /// Counts a time.
    pub fn note(&mut self, time: Duration) {
        self.note_often(time, 1);
    }

    /// Counts so many of the same time.
    pub fn note_often(&mut self, time: Duration, count: u64) {
        if count == 0 {
            return;
        }
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += count;
        self.count += count;
        self.sum_ns += u128::from(ns) * u128::from(count);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds others to these.
    pub fn add(&mut self, others: &Hdr) {
        for (sum, other) in self.counts.iter_mut().zip(&others.counts) {
            *sum += other;
        }
        self.count += others.count;
        self.sum_ns += others.sum_ns;
        self.max_ns = self.max_ns.max(others.max_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly; `None` where there is none.
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max_ns))
    }

    /// The mean, exactly.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum_ns.checked_div(self.count.into())?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    /// The time that the part `q` of all did not exceed: 0.99 is p99.
    ///
    /// Rounded up by less than a thousandth, and never above [`max`](Self::max). `None` where there is none.
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^52 times are more than anybody counts"
    )]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = whole((self.count as f64 * q).ceil()).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        let ns = if bucket + 1 == BUCKETS {
            self.max_ns
        } else {
            last(bucket).min(self.max_ns)
        };
        Some(Duration::from_nanos(ns))
    }
}

/// How it is kept in a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    buckets: Vec<(u64, u64)>,
    sum_ns: u64,
    max_ns: u64,
}

impl From<Hdr> for Kept {
    fn from(times: Hdr) -> Kept {
        let all = times.counts.iter().copied().enumerate();
        Kept {
            buckets: all
                .filter(|(_, count)| *count > 0)
                .map(|(bucket, count)| (last(bucket), count))
                .collect(),
            sum_ns: u64::try_from(times.sum_ns).unwrap_or(u64::MAX),
            max_ns: times.max_ns,
        }
    }
}

impl From<Kept> for Hdr {
    fn from(kept: Kept) -> Hdr {
        let mut times = Hdr {
            sum_ns: kept.sum_ns.into(),
            max_ns: kept.max_ns,
            ..Hdr::default()
        };
        for (ns, count) in kept.buckets {
            let at = &mut times.counts[bucket(ns)];
            *at = at.saturating_add(count);
            times.count = times.count.saturating_add(count);
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn without_times_there_is_nothing_to_say() {
        let none = Hdr::default();
        assert_eq!((none.count(), none.max(), none.mean()), (0, None, None));
        assert_eq!(none.quantile(0.5), None);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut times = Hdr::default();
        for n in 1..=1000 {
            times.note(Duration::from_nanos(n));
        }
        // Below 2,048 ns every nanosecond is told apart.
        for (q, ns) in [
            (0.0, 1),
            (0.5, 500),
            (0.501, 501),
            (0.99, 990),
            (0.999, 999),
            (1.0, 1000),
        ] {
            assert_eq!(times.quantile(q), Some(Duration::from_nanos(ns)), "{q}");
        }
        assert_eq!(times.mean(), Some(Duration::from_nanos(500)));
    }

    #[test]
    fn one_long_time_among_many_is_kept_exactly() {
        let mut times = Hdr::default();
        for _ in 0..999 {
            times.note(us(100));
        }
        times.note(us(1_234_567));
        assert!(times.quantile(0.999).unwrap() < us(101));
        assert_eq!(times.quantile(0.9991), Some(us(1_234_567)));
        assert_eq!(times.max(), Some(us(1_234_567)));
    }

    #[test]
    fn what_is_longer_than_an_hour_is_the_longest() {
        let mut times = Hdr::default();
        for time in [Duration::ZERO, Duration::from_secs(3600), Duration::MAX] {
            times.note(time);
        }
        assert_eq!(times.quantile(0.1), Some(Duration::ZERO));
        let hour = times.quantile(0.5).unwrap().as_secs_f64();
        assert!((3600.0..3603.6).contains(&hour), "{hour}");
        assert_eq!(times.quantile(0.9), times.max());
    }

    #[test]
    fn buckets_join_without_a_gap() {
        for at in 0..BUCKETS - 1 {
            assert_eq!(bucket(last(at)), at);
            assert_eq!(bucket(last(at) + 1), at + 1);
        }
        assert_eq!(last(BUCKETS - 1), (1 << HIGH) - 1);
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_less_than_a_thousandth(
            times in prop::collection::vec(1_000_u64..3_600_000_000_000, 1..200),
            q in 0.0..=1.0_f64,
        ) {
            let (mut left, mut right) = (Hdr::default(), Hdr::default());
            for (at, ns) in times.iter().enumerate() {
                let half = if at % 2 == 0 { &mut left } else { &mut right };
                half.note(Duration::from_nanos(*ns));
            }
            left.add(&right);
            let mut sorted = times;
            sorted.sort_unstable();
            #[expect(clippy::cast_precision_loss, reason = "at most 200")]
            let rank = whole((sorted.len() as f64 * q).ceil()).max(1);
            let exact = sorted[usize::try_from(rank).unwrap() - 1];
            let told = u64::try_from(left.quantile(q).unwrap().as_nanos()).unwrap();
            prop_assert!(told >= exact && told - exact <= exact / 1000, "{told} {exact}");
            prop_assert_eq!(left.count(), sorted.len() as u64);

            let kept = serde_json::to_string(&left).unwrap();
            prop_assert_eq!(serde_json::from_str::<Hdr>(&kept).unwrap(), left);
        }
    }
}
