//! What rounds of two arms say about their difference: medians, spreads, and how sure the ratio is.
//!
//! Rounds are paired: the n-th of one arm ran beside the n-th of the other, so what slowed the machine down
//! then slowed both.

use super::random::Random;

/// The middle of these numbers, or the mean of the two in the middle; `None` where there is none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[half - 1], upper))
}

/// A median, and how far the rounds lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
}

impl Spread {
    /// Of these rounds; `None` where there is none.
    pub fn of(rounds: &[f64]) -> Option<Spread> {
        Some(Spread {
            median: median(rounds)?,
            low: rounds.iter().copied().min_by(f64::total_cmp)?,
            high: rounds.iter().copied().max_by(f64::total_cmp)?,
        })
    }
}

/// A ratio, and what it lies within.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// As measured.
    pub ratio: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Whether it tells the arms apart: 1 lies outside.
    pub fn differs(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

/// Draws of rounds that an interval is made from. With 2,000 its ends come to rest within a few parts in a thousand
/// of its width.
pub const DRAWS: usize = 2000;

/// The ratio of two arms' medians with its confidence interval: `level` 0.95 is one that misses the true ratio once
/// in twenty times.
///
/// A bootstrap: pairs of rounds are drawn again, with replacement, [`DRAWS`] times, and what remains after the
/// outermost parts are cut off is the interval. It knows only the rounds that there are: with few pairs it is
/// too narrow. With nine pairs and 5 % of scatter it took 6 of 200 equal arms for unequal, and found a fifth
/// 200 times of 200.
///
/// `None` where there are no rounds, not as many of one as of the other, or where a number is not above
/// zero: then there is no ratio.
/// Source: Efron, Tibshirani, "An introduction to the bootstrap", 1993, ch. 13 (percentile interval).
pub fn ratio(of: &[f64], to: &[f64], level: f64, random: &mut Random) -> Option<Interval> {
    let fine = |rounds: &[f64]| rounds.iter().all(|value| value.is_finite() && *value > 0.0);
    if of.len() != to.len() || !fine(of) || !fine(to) {
        return None;
    }
    let measured = median(of)? / median(to)?;
    let (mut one, mut other) = (vec![0.0; of.len()], vec![0.0; of.len()]);
    let mut ratios = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        for at in 0..of.len() {
            let pair = random.below(of.len());
            (one[at], other[at]) = (of[pair], to[pair]);
        }
        one.sort_unstable_by(f64::total_cmp);
        other.sort_unstable_by(f64::total_cmp);
        ratios.push(middle(&one)? / middle(&other)?);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let outside = (1.0 - level.clamp(0.0, 1.0)) / 2.0;
    Some(Interval {
        low: quantile(&ratios, outside),
        ratio: measured,
        high: quantile(&ratios, 1.0 - outside),
    })
}

/// Between the two nearest of sorted numbers, of which there is at least one (type 7 of Hyndman and Fan).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions in a list that is short"
)]
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let part = position - position.floor();
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, expected) in [
            (&[][..], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0, 5.0], Some(5.0)),
            (&[4.0, 1.0, 2.0, 100.0], Some(3.0)),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
        let spread = Spread::of(&[4.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.0, 2.0, 4.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn quantiles_lie_between_the_nearest() {
        // As R's quantile() and numpy's percentile() have them by default.
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (0.9, 6.8), (1.0, 8.0)] {
            assert!((quantile(&values, q) - expected).abs() < 1e-12, "{q}");
        }
    }

    #[test]
    fn rounds_that_agree_leave_no_doubt() {
        let interval = ratio(&[30.0; 7], &[10.0; 7], 0.95, &mut Random::new(1)).unwrap();
        let all_three = Interval {
            low: 3.0,
            ratio: 3.0,
            high: 3.0,
        };
        assert_eq!(interval, all_three);
        assert!(interval.differs());
    }

    /// A slow round slows both arms: the ratio does not see it.
    #[test]
    fn what_hits_both_arms_cancels_out() {
        let to = [10.0, 10.0, 40.0, 10.0, 30.0, 10.0, 20.0];
        let of = to.map(|value| value * 1.2);
        let interval = ratio(&of, &to, 0.95, &mut Random::new(1)).unwrap();
        assert!((interval.low - 1.2).abs() < 1e-9 && (interval.high - 1.2).abs() < 1e-9);
    }

    #[test]
    fn where_there_is_no_ratio_none_is_made_up() {
        let random = &mut Random::new(1);
        for (of, to) in [
            (&[][..], &[][..]),
            (&[1.0], &[1.0, 2.0]),
            (&[1.0], &[0.0]),
            (&[f64::NAN], &[1.0]),
            (&[f64::INFINITY], &[1.0]),
        ] {
            assert_eq!(ratio(of, to, 0.95, random), None, "{of:?} {to:?}");
        }
    }

    #[test]
    fn the_same_seed_says_the_same() {
        let (of, to) = ([3.0, 5.0, 4.0, 6.0], [1.0, 2.0, 1.5, 1.7]);
        let ask = |seed| ratio(&of, &to, 0.95, &mut Random::new(seed)).unwrap();
        assert_eq!(ask(7), ask(7));
        let asked = ask(7);
        assert!(
            asked.low <= asked.ratio && asked.ratio <= asked.high,
            "{asked:?}"
        );
    }

    /// Rounds around `mean` with a standard deviation of 5 % of it: the sum of twelve even ones is nearly normal.
    fn rounds(mean: f64, count: usize, random: &mut Random) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let normal = (0..12).map(|_| random.part()).sum::<f64>() - 6.0;
                mean * (1.0 + 0.05 * normal)
            })
            .collect()
    }

    /// How many of 200 comparisons find a difference.
    fn found(slower: f64, pairs: usize) -> usize {
        let mut random = Random::new(20);
        (0..200)
            .filter(|_| {
                let to = rounds(100.0, pairs, &mut random);
                let of = rounds(100.0 * slower, pairs, &mut random);
                ratio(&of, &to, 0.95, &mut random).unwrap().differs()
            })
            .count()
    }

    #[test]
    fn equal_arms_are_rarely_told_apart_and_a_fifth_always_is() {
        let (by_chance, truly) = (found(1.0, 9), found(1.2, 9));
        eprintln!("of 200 comparisons: {by_chance} by chance, {truly} of a fifth");
        assert!(
            by_chance <= 20,
            "one in twenty is what 95 % promises: {by_chance} of 200"
        );
        assert_eq!(truly, 200);
    }
}
