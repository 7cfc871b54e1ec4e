//! Whether arms differ, and by how much: every figure of an arm held against the first arm's.
//!
//! Rounds are paired: the n-th of one arm ran beside the n-th of the other. The ratio is the geometric mean of the
//! pairs' ratios, so what slowed both arms down at one time cancels out. What it lies within is Student's interval of
//! the ratios' logarithms, since with few rounds a percentile bootstrap is too narrow: it knows no outcome but those
//! there were. From [`MANY`] pairs on it is the bootstrap's of the medians if that reaches further.
//!
//! Many figures are looked at, and one in twenty would differ by chance. So the [`ALPHA`] of being wrong once is shared
//! out among the headline figures of all arms (Bonferroni): all of them together are wrong in at most one of twenty
//! comparisons of equal arms.
//!
//! Sources: Student, "The probable error of a mean", 1908; Welch, "The generalization of Student's problem", 1947;
//! Abramowitz, Stegun, "Handbook of mathematical functions", 26.7.3 and 26.7.4 (Student's distribution).

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use super::words::{float, length};
use super::{Arm, Report, Round};
use crate::compare::random::Random;
use crate::compare::stats::{self, Interval, Spread};

/// How often equal arms may be called different, all headline figures together.
pub const ALPHA: f64 = 0.05;

/// The least difference that is called one, as a part.
///
/// An arm is one process: where its memory lies and which ports it has are the same in all its rounds, and shift its
/// figures by a percent or so. No number of rounds shows that, and no interval knows of it.
pub const FLOOR: f64 = 0.02;

/// Pairs of rounds from which on the bootstrap is asked, too.
pub const MANY: usize = 10;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Answers a second, but for those of 500 to 599.
    Requests,
    /// The median latency.
    P50,
    /// Latency.
    P90,
    /// Latency.
    P99,
    /// Latency.
    P999,
    /// The proxy's CPU for each answer.
    ProxyCpu,
    /// The backend's.
    BackendCpu,
    /// Connections to the backend for each answer.
    Connects,
    /// The part of requests without an answer, or with one of 500 to 599.
    Errors,
}

impl Figure {
    /// All of them, as tables have them.
    pub const ALL: [Figure; 9] = [
        Figure::Requests,
        Figure::P50,
        Figure::P90,
        Figure::P99,
        Figure::P999,
        Figure::ProxyCpu,
        Figure::BackendCpu,
        Figure::Connects,
        Figure::Errors,
    ];

    /// Those that decide whether arms differ.
    pub const HEADLINE: [Figure; 5] = [
        Figure::Requests,
        Figure::P50,
        Figure::P99,
        Figure::ProxyCpu,
        Figure::BackendCpu,
    ];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Figure::Requests => "requests/s",
            Figure::P50 => "p50",
            Figure::P90 => "p90",
            Figure::P99 => "p99",
            Figure::P999 => "p99.9",
            Figure::ProxyCpu => "proxy CPU",
            Figure::BackendCpu => "backend CPU",
            Figure::Connects => "connects",
            Figure::Errors => "errors",
        }
    }

    /// In a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Figure::Requests => "requests/s",
            Figure::P50 => "median latency",
            Figure::P90 => "p90 latency",
            Figure::P99 => "p99 latency",
            Figure::P999 => "p99.9 latency",
            Figure::ProxyCpu => "proxy CPU a request",
            Figure::BackendCpu => "backend CPU a request",
            Figure::Connects => "connects a request",
            Figure::Errors => "errors",
        }
    }

    /// Of one round; `None`: it is not known, or there was no answer to divide by.
    pub fn of(self, round: &Round) -> Option<f64> {
        let answered = float(round.answered);
        let each = |sum: f64| (answered > 0.0).then(|| sum / answered);
        let latency = |us: f64| (answered > 0.0).then_some(us);
        match self {
            Figure::Requests => {
                let good = float(round.answered.saturating_sub(round.refused()));
                (round.seconds > 0.0).then(|| good / round.seconds)
            }
            Figure::P50 => latency(round.p50_us),
            Figure::P90 => latency(round.p90_us),
            Figure::P99 => latency(round.p99_us),
            Figure::P999 => latency(round.p999_us),
            Figure::ProxyCpu => each(round.proxy_cpu_us),
            Figure::BackendCpu => each(round.backend_cpu_us?),
            Figure::Connects => each(float(round.connects?)),
            Figure::Errors => (round.sent > 0).then(|| float(round.failed()) / float(round.sent)),
        }
    }

    /// Of every round of an arm that has it.
    pub fn of_all(self, arm: &Arm) -> Vec<f64> {
        let values = arm.rounds.iter().filter_map(|round| self.of(round));
        values.filter(|value| value.is_finite()).collect()
    }

    /// The median of an arm's rounds, and how far they lie apart.
    pub fn spread(self, arm: &Arm) -> Option<Spread> {
        Spread::of(&self.of_all(arm))
    }
}

/// What came of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Chance does not explain it.
    Differs(Interval),
    /// It may be chance. One of this part, such as 0.04, would have been seen.
    Alike(Interval, f64),
    /// One arm's value is not known, or zero, or there is only one round.
    Unknown,
}

impl Outcome {
    /// What an interval comes to.
    fn of(interval: Option<Interval>) -> Outcome {
        match interval {
            None => Outcome::Unknown,
            Some(interval) if interval.differs() && far(interval.ratio) => {
                Outcome::Differs(interval)
            }
            Some(interval) => {
                let reach = (interval.high / interval.low).sqrt() - 1.0;
                Outcome::Alike(interval, reach.max(FLOOR))
            }
        }
    }

    /// The ratio, where there is one.
    pub fn interval(&self) -> Option<Interval> {
        match *self {
            Outcome::Differs(interval) | Outcome::Alike(interval, _) => Some(interval),
            Outcome::Unknown => None,
        }
    }

    /// The ratio, where it is more than chance.
    pub fn difference(&self) -> Option<Interval> {
        match *self {
            Outcome::Differs(interval) => Some(interval),
            Outcome::Alike(..) | Outcome::Unknown => None,
        }
    }
}

/// Whether a ratio is as far from 1 as [`FLOOR`] asks, upwards or downwards.
fn far(ratio: f64) -> bool {
    ratio.ln().abs() >= FLOOR.ln_1p()
}

/// One arm held against another.
#[derive(Clone, Debug)]
pub struct Versus<'a> {
    /// This one.
    pub of: &'a Arm,
    /// Against that.
    pub to: &'a Arm,
    /// Every figure, in the order of [`Figure::ALL`].
    outcomes: Vec<Outcome>,
}

impl Versus<'_> {
    /// What came of a figure.
    pub fn outcome(&self, figure: Figure) -> Outcome {
        let at = Figure::ALL.iter().position(|other| *other == figure);
        at.map_or(Outcome::Unknown, |at| self.outcomes[at])
    }

    /// Whether any headline figure differs.
    pub fn differs(&self) -> bool {
        let mut headline = Figure::HEADLINE.into_iter();
        headline.any(|figure| self.outcome(figure).difference().is_some())
    }
}

/// Holds each arm against the first.
pub fn judge(report: &Report) -> Vec<Versus<'_>> {
    let Some((first, others)) = report.arms.split_first() else {
        return Vec::new();
    };
    let level = level(others.len());
    let versus = |of| {
        let outcome = |figure| Outcome::of(paired(figure, of, first, level));
        Versus {
            of,
            to: first,
            outcomes: Figure::ALL.into_iter().map(outcome).collect(),
        }
    };
    others.iter().map(versus).collect()
}

/// Holds arms of another run against those of the same name of this one. Their rounds are not paired.
pub fn across<'a>(of: &'a Report, to: &'a Report) -> Vec<Versus<'a>> {
    let namesake = |arm: &'a Arm| {
        let same = |other: &&Arm| other.name == arm.name && other.mode == arm.mode;
        Some((arm, to.arms.iter().find(same)?))
    };
    let pairs: Vec<_> = of.arms.iter().filter_map(namesake).collect();
    let level = level(pairs.len());
    let versus = |(of, to): (&'a Arm, &'a Arm)| {
        let outcome =
            |figure: Figure| Outcome::of(apart(&figure.of_all(of), &figure.of_all(to), level));
        Versus {
            of,
            to,
            outcomes: Figure::ALL.into_iter().map(outcome).collect(),
        }
    };
    pairs.into_iter().map(versus).collect()
}

/// The level at which each figure is judged so that all of them keep to [`ALPHA`].
pub fn level(comparisons: usize) -> f64 {
    1.0 - ALPHA / (length(Figure::HEADLINE.len()) * length(comparisons.max(1)))
}

/// The ratio of paired rounds.
fn paired(figure: Figure, of: &Arm, to: &Arm, level: f64) -> Option<Interval> {
    let rounds = of.rounds.iter().zip(&to.rounds);
    let pairs = rounds.filter_map(|(of, to)| Some((figure.of(of)?, figure.of(to)?)));
    let (of, to): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let logs = logs(&of)?.into_iter().zip(logs(&to)?);
    let (mean, error) = mean_and_error(&logs.map(|(of, to)| of - to).collect::<Vec<_>>())?;
    let student = around(mean, error * student(of.len() - 1, level));
    if of.len() < MANY {
        return Some(student);
    }
    // The same rounds say the same whenever they are looked at.
    let bootstrap = stats::ratio(&of, &to, level, &mut Random::new(0))?;
    Some(Interval {
        low: student.low.min(bootstrap.low),
        ratio: student.ratio,
        high: student.high.max(bootstrap.high),
    })
}

/// The ratio of rounds that are not paired (Welch).
fn apart(of: &[f64], to: &[f64], level: f64) -> Option<Interval> {
    let (of_mean, of_error) = mean_and_error(&logs(of)?)?;
    let (to_mean, to_error) = mean_and_error(&logs(to)?)?;
    let (of_square, to_square) = (of_error.powi(2), to_error.powi(2));
    let sum = of_square + to_square;
    let freedom = if sum > 0.0 {
        let part = |square: f64, count: usize| square.powi(2) / length(count - 1);
        sum.powi(2) / (part(of_square, of.len()) + part(to_square, to.len()))
    } else {
        1.0
    };
    let freedom = usize::try_from(crate::quantity::whole(freedom)).unwrap_or(usize::MAX);
    let margin = sum.sqrt() * student(freedom.clamp(1, 1000), level);
    Some(around(of_mean - to_mean, margin))
}

fn around(log: f64, margin: f64) -> Interval {
    Interval {
        low: (log - margin).exp(),
        ratio: log.exp(),
        high: (log + margin).exp(),
    }
}

/// The logarithms; `None` where one is not above zero.
fn logs(values: &[f64]) -> Option<Vec<f64>> {
    let log = |value: &f64| (*value > 0.0).then(|| value.ln());
    values.iter().map(log).collect()
}

/// The mean, and the standard error of it; `None` with fewer than two.
fn mean_and_error(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let count = length(values.len());
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, (squares / (count - 1.0) / count).sqrt()))
}

/// How many standard errors to either side a mean lies within, at this level, with so many degrees of freedom.
fn student(freedom: usize, level: f64) -> f64 {
    // Of the angle whose tangent is t over the root of the freedom: it is bounded where t is not.
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..60 {
        let angle = f64::midpoint(low, high);
        if inside(freedom, angle) < level {
            low = angle;
        } else {
            high = angle;
        }
    }
    f64::midpoint(low, high).tan() * length(freedom).sqrt()
}

/// The part of Student's distribution within that angle.
fn inside(freedom: usize, angle: f64) -> f64 {
    let (sine, cosine) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    let mut at = if odd { 2 } else { 1 };
    let terms = if odd { (freedom - 1) / 2 } else { freedom / 2 };
    for _ in 0..terms {
        sum += term;
        term *= cosine * cosine * length(at) / length(at + 1);
        at += 2;
    }
    if odd {
        FRAC_2_PI * (angle + sine * sum)
    } else {
        sine * sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's distribution have these.
    #[test]
    fn student_is_as_in_the_tables() {
        for (freedom, level, t) in [
            (1, 0.95, 12.706),
            (2, 0.95, 4.303),
            (3, 0.99, 5.841),
            (4, 0.95, 2.776),
            (7, 0.99, 3.499),
            (30, 0.95, 2.042),
            (120, 0.99, 2.617),
        ] {
            let ours = student(freedom, level);
            assert!((ours - t).abs() < 0.001, "{freedom} {level}: {ours}");
        }
    }

    /// What rounds are like: a machine that gets slower and faster for both arms, scatter of each, and once in a
    /// while a round that something got in the way of.
    struct Noise {
        random: Random,
        scatter: f64,
    }

    impl Noise {
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.random.part()).sum::<f64>() - 6.0
        }

        /// Heavy-tailed: a normal number over the root of a mean of squares of three (Student's with three degrees),
        /// scaled to a standard deviation near 1.
        fn heavy(&mut self) -> f64 {
            let squares: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
            self.normal() / (squares / 3.0).sqrt().max(0.1) / 1.6
        }

        /// Two arms with all headline figures; the second takes `slower` times as long.
        fn run(&mut self, rounds: usize, slower: f64) -> Report {
            let mut drift = 0.0;
            let mut arms = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                drift += 0.03 * self.normal();
                for (arm, slow) in arms.iter_mut().zip([1.0, slower]) {
                    let mut draw = |mean: f64, slow: f64| {
                        mean * slow * (drift + self.scatter * self.heavy()).exp()
                    };
                    let answered = 10_000;
                    arm.push(Round {
                        seconds: draw(1.0, slow),
                        sent: answered,
                        answered,
                        p50_us: draw(200.0, slow),
                        p99_us: draw(900.0, slow),
                        proxy_cpu_us: draw(27.0, slow) * 10_000.0,
                        backend_cpu_us: Some(draw(15.0, 1.0) * 10_000.0),
                        ..Round::default()
                    });
                }
            }
            let arm = |rounds| Arm {
                rounds,
                ..Arm::default()
            };
            Report {
                arms: arms.map(arm).into(),
                ..Report::default()
            }
        }

        /// How many runs find any difference in a headline figure.
        fn found(runs: usize, rounds: usize, slower: f64) -> usize {
            let mut noise = Noise {
                random: Random::new(6),
                scatter: 0.05,
            };
            let runs = (0..runs).filter(|_| judge(&noise.run(rounds, slower))[0].differs());
            runs.count()
        }
    }

    #[test]
    fn equal_arms_are_called_different_in_at_most_one_of_twenty_runs() {
        // With many rounds the bootstrap is asked, too, which takes long.
        for (rounds, runs) in [
            (2, 1000),
            (3, 1000),
            (4, 1000),
            (6, 1000),
            (8, 1000),
            (10, 60),
            (15, 60),
        ] {
            let found = Noise::found(runs, rounds, 1.0);
            eprintln!("{rounds} rounds: {found} of {runs} runs of equal arms");
            assert!(
                found <= runs / 20,
                "{rounds} rounds: {found} of {runs} runs"
            );
        }
    }

    #[test]
    fn a_slowdown_of_a_fifth_is_found_with_eight_rounds() {
        let mut noise = Noise {
            random: Random::new(7),
            scatter: 0.05,
        };
        let found = (0..1000).filter(|_| {
            let report = noise.run(8, 1.2);
            judge(&report)[0]
                .outcome(Figure::ProxyCpu)
                .difference()
                .is_some()
        });
        let found = found.count();
        eprintln!("{found} of 1,000 runs find a fifth more CPU");
        assert!(found >= 950, "{found} of 1,000");
    }

    #[test]
    fn a_certain_difference_below_the_floor_is_none() {
        for (ratio, differs) in [(1.019, false), (1.021, true), (1.0 / 1.021, true)] {
            let certain = around(f64::ln(ratio), 1e-6);
            let outcome = Outcome::of(Some(certain));
            assert_eq!(outcome.difference().is_some(), differs, "{ratio}");
        }
    }

    #[test]
    fn what_cannot_be_known_is_not_made_up() {
        let round = |answered, cpu| Round {
            seconds: 1.0,
            answered,
            sent: 10,
            proxy_cpu_us: cpu,
            ..Round::default()
        };
        let arm = |rounds: &[Round]| Arm {
            rounds: rounds.to_vec(),
            ..Arm::default()
        };
        let good = [round(10, 5.0), round(10, 6.0)];
        for (other, why) in [
            (vec![round(10, 5.0)], "one round"),
            (vec![round(0, 5.0), round(0, 5.0)], "no answers"),
            (vec![round(10, 0.0), round(10, 0.0)], "no CPU"),
            (vec![], "no rounds"),
        ] {
            let report = Report {
                arms: vec![arm(&good), arm(&other)],
                ..Report::default()
            };
            let judged = judge(&report);
            let outcome = judged[0].outcome(Figure::ProxyCpu);
            assert_eq!(outcome, Outcome::Unknown, "{why}");
            assert_eq!(judged[0].outcome(Figure::BackendCpu), Outcome::Unknown);
        }
        assert!(judge(&Report::default()).is_empty());
    }

    /// Between two runs nothing is paired, and the interval is wider.
    #[test]
    fn saved_runs_are_compared_arm_by_arm() {
        let mut noise = Noise {
            random: Random::new(8),
            scatter: 0.01,
        };
        let (one, other) = (noise.run(12, 1.0), noise.run(12, 1.0));
        let named = |mut report: Report| {
            for (at, arm) in report.arms.iter_mut().enumerate() {
                arm.name = at.to_string();
            }
            report
        };
        let (one, mut other) = (named(one), named(other));
        other.arms[1].name = "elsewhere".to_owned();
        for round in &mut other.arms[0].rounds {
            round.proxy_cpu_us *= 3.0;
        }
        let across = across(&other, &one);
        assert_eq!(across.len(), 1, "only one has a namesake");
        let cpu = across[0].outcome(Figure::ProxyCpu).difference().unwrap();
        assert!(
            (2.0..4.5).contains(&cpu.ratio) && cpu.high > cpu.low,
            "{cpu:?}"
        );
    }
}
