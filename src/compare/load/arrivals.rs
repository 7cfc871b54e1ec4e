//! When the requests of an open loop are due.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::random::Random;

/// How the requests of a rate are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Evenly, as a clock ticks.
    Constant,
    /// At random, each independent of all others: as many clients send that know nothing of each other.
    Poisson,
}

/// The moments at which requests are due, counted from the start: the next one, and then the one after it.
///
/// The parts of several threads together are the whole rate: even ones take turns, random ones add up.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    rate: NonZeroU32,
    part: u32,
    parts: NonZeroU32,
    random: Option<Random>,
    /// How many were due before the next one.
    passed: u64,
    next_ns: u64,
}

impl Arrivals {
    /// Those of part `part` of `parts`.
    pub(super) fn new(rate: NonZeroU32, spread: Spread, part: u32, parts: NonZeroU32) -> Arrivals {
        let mut arrivals = Arrivals {
            rate,
            part,
            parts,
            random: match spread {
                Spread::Constant => None,
                Spread::Poisson => Some(Random::new(part.into())),
            },
            passed: 0,
            next_ns: 0,
        };
        arrivals.next_ns = arrivals.after(0);
        arrivals
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Duration {
        Duration::from_nanos(self.next_ns)
    }

    /// Goes on to the one after it.
    pub(super) fn advance(&mut self) {
        self.passed += 1;
        self.next_ns = self.after(self.next_ns);
    }

    /// How many are due until `now`; `self` stays where it is.
    pub(super) fn due(&self, now: Duration, ahead: &mut Arrivals) -> u64 {
        while ahead.next() <= now {
            ahead.advance();
        }
        ahead.passed - self.passed
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a pause of nanoseconds, above zero; a fraction of one is left out"
    )]
    fn after(&mut self, last_ns: u64) -> u64 {
        let rate = u64::from(self.rate.get());
        if let Some(random) = &mut self.random {
            let mean = 1e9 * f64::from(self.parts.get()) / f64::from(self.rate.get());
            // 1 - part is never zero.
            let pause = -(1.0 - random.part()).ln() * mean;
            return last_ns.saturating_add(pause as u64);
        }
        // From the start and not from the last one: nothing drifts.
        let turn = self.passed * u64::from(self.parts.get()) + u64::from(self.part);
        turn / rate * 1_000_000_000 + turn % rate * 1_000_000_000 / rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn first(count: usize, mut arrivals: Arrivals) -> Vec<u64> {
        let mut due = Vec::new();
        for _ in 0..count {
            due.push(arrivals.next_ns);
            arrivals.advance();
        }
        due
    }

    #[test]
    fn even_requests_take_turns_and_do_not_drift() {
        let half = |part| Arrivals::new(number(40), Spread::Constant, part, number(2));
        assert_eq!(first(3, half(0)), [0, 50_000_000, 100_000_000]);
        assert_eq!(first(3, half(1)), [25_000_000, 75_000_000, 125_000_000]);

        let odd = Arrivals::new(number(7), Spread::Constant, 0, number(1));
        assert_eq!(first(7001, odd)[7000], 1_000_000_000_000);
    }

    #[test]
    fn random_requests_keep_the_rate_and_the_scatter_of_their_kind() {
        let both = [0, 1].map(|part| {
            first(
                50_000,
                Arrivals::new(number(1000), Spread::Poisson, part, number(2)),
            )
        });
        assert_ne!(both[0], both[1]);
        for due in both {
            let pauses: Vec<f64> = due
                .windows(2)
                .map(|pair| Duration::from_nanos(pair[1] - pair[0]).as_secs_f64() * 1000.0)
                .collect();
            let count = f64::from(u32::try_from(pauses.len()).unwrap());
            let mean = pauses.iter().sum::<f64>() / count;
            let scatter = pauses
                .iter()
                .map(|pause| (pause - mean).powi(2))
                .sum::<f64>()
                / count;
            // Exponential: the standard deviation is the mean, here 2 ms.
            assert!((mean - 2.0).abs() < 0.05, "{mean}");
            assert!((scatter.sqrt() - 2.0).abs() < 0.1, "{scatter}");
        }
    }

    #[test]
    fn what_is_due_is_counted_without_taking_it() {
        for spread in [Spread::Constant, Spread::Poisson] {
            let mut arrivals = Arrivals::new(number(100), spread, 0, number(1));
            let mut ahead = arrivals.clone();
            let due = arrivals.due(Duration::from_secs(1), &mut ahead);
            assert!(spread == Spread::Poisson || due == 101, "{due}");
            arrivals.advance();
            assert_eq!(arrivals.due(Duration::from_secs(1), &mut ahead), due - 1);
        }
    }
}
