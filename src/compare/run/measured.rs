//! The rounds of one arm, as they were counted → what the report has of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::child::Figures;
use super::machine;
use super::running::Counted;
use crate::compare::hdr::Hdr;
use crate::compare::load::Tally;
use crate::compare::report::{Arm, Class, Moment, Peak, Round};

/// What was measured so far.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) rounds: Vec<Round>,
    /// Of each round.
    latencies: Vec<Hdr>,
}

impl Measured {
    /// Adds a round. Of the `all` answers that came while the counts went from `before` to `after`, the tally has
    /// those that were measured.
    pub(super) fn note(
        &mut self,
        at: Duration,
        tally: &Tally,
        all: u64,
        before: &Counted,
        after: &Counted,
    ) {
        let quantile = |q| tally.latency.quantile(q).map_or(0.0, micros);
        let errors = tally.errors().filter(|(_, count)| *count > 0);
        // The proxy worked for the round's own warm-up, too.
        let share = part(tally.answered, all);
        let cpu = |ns: u64| float(ns) / 1e3 * share;
        let backend = after.backend_usage.zip(before.backend_usage);
        let figures = after.figures.as_ref().zip(before.figures.as_ref());
        let figures = figures.map(|(after, before)| after.since(before));
        let served = after.served.zip(before.served);
        let of_share = |count: u64| crate::quantity::whole((float(count) * share).round());
        self.rounds.push(Round {
            at: at.as_secs_f64(),
            seconds: tally.measured.as_secs_f64(),
            sent: tally.sent,
            answered: tally.answered,
            statuses: tally.statuses().collect(),
            errors: errors
                .map(|(why, count)| (why.label().to_owned(), count))
                .collect(),
            bytes_sent: tally.bytes_sent,
            bytes_received: tally.bytes_received,
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: tally.latency.max().map_or(0.0, micros),
            proxy_cpu_us: cpu(after.usage.since(before.usage).run_ns),
            proxy_user_part: 0.0,
            backend_cpu_us: backend.map(|(after, before)| cpu(after.since(before).run_ns)),
            backend_user_part: None,
            connects: match (&figures, served) {
                (Some(figures), _) => Some(of_share(figures.connects)),
                (None, served) => {
                    served.map(|(after, before)| of_share(after.connections - before.connections))
                }
            },
            reused: match (&figures, served) {
                (Some(figures), _) => Some(of_share(figures.reused)),
                (None, served) => served.map(|(after, before)| {
                    let requests = after.requests - before.requests;
                    of_share(requests.saturating_sub(after.connections - before.connections))
                }),
            },
        });
        self.latencies.push(tally.latency.clone());
    }

    /// All of it, as far as `rounds` go. `figures` is what the proxy counted from before the first to after the last.
    pub(super) fn arm(
        mut self,
        rounds: usize,
        before: &Counted,
        after: &Counted,
        figures: Option<&Figures>,
        timeline: Vec<Moment>,
        proxy_bytes: u64,
    ) -> Arm {
        self.rounds.truncate(rounds);
        let mut latency = Hdr::default();
        for round in self.latencies.iter().take(rounds) {
            latency.add(round);
        }
        let proxy_part = after.usage.since(before.usage).user_part();
        let backend = after.backend_usage.zip(before.backend_usage);
        let backend_part = backend.map(|(after, before)| after.since(before).user_part());
        for round in &mut self.rounds {
            round.proxy_user_part = proxy_part;
            round.backend_user_part = backend_part;
        }
        let connect = figures.into_iter().flat_map(|figures| &figures.connect);
        let ran_out = figures.is_some_and(|figures| figures.no_port > 0);
        Arm {
            rounds: self.rounds,
            latency,
            connect_time: connect
                .map(|(up_to, count)| Class {
                    up_to: *up_to,
                    count: *count,
                })
                .collect(),
            peak: peak(&timeline, proxy_bytes),
            exhausted_at: ran_out.then(|| emptiest(&timeline)).flatten(),
            timeline,
            ..Arm::default()
        }
    }
}

/// When the fewest ports were left for the first time.
pub(super) fn emptiest(timeline: &[Moment]) -> Option<f64> {
    let left = |moment: &Moment| moment.ports_left;
    let least = timeline.iter().filter_map(left).min()?;
    // A few come free between the moment when there was none and the moment when it was looked.
    let near = least + least / 4 + 64;
    let first = timeline
        .iter()
        .find(|moment| left(moment).is_some_and(|left| left <= near))?;
    Some(first.at)
}

/// The most there was.
pub(super) fn peak(timeline: &[Moment], proxy_bytes: u64) -> Peak {
    let (full, waiting) = machine::object_sizes();
    let count = |states: &BTreeMap<String, u64>, only: Option<&str>| -> u64 {
        let wanted = |name: &str| only.is_none_or(|only| only == name);
        let all = states.iter().filter(|(name, _)| wanted(name));
        all.map(|(_, count)| count).sum()
    };
    let mut peak = Peak {
        proxy_bytes,
        ..Peak::default()
    };
    for moment in timeline {
        let both = || std::iter::once(&moment.proxy).chain(&moment.backend);
        let all: u64 = both().map(|states| count(states, None)).sum();
        let small: u64 = both()
            .map(|states| count(states, Some("TIME_WAIT")) + count(states, Some("FIN_WAIT2")))
            .sum();
        let time_wait: u64 = both().map(|states| count(states, Some("TIME_WAIT"))).sum();
        peak.sockets = peak.sockets.max(all);
        peak.time_wait = peak.time_wait.max(time_wait);
        let bytes = (all - small) * full + small * waiting;
        peak.kernel_bytes = peak.kernel_bytes.max(bytes);
    }
    peak
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run of minutes")]
fn float(count: u64) -> f64 {
    count as f64
}

fn part(some: u64, all: u64) -> f64 {
    if all == 0 {
        1.0
    } else {
        float(some) / float(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: f64, left: u64, time_wait: u64) -> Moment {
        let states = BTreeMap::from([
            ("TIME_WAIT".to_owned(), time_wait),
            ("ESTABLISHED".to_owned(), 2),
        ]);
        Moment {
            at,
            ports_left: Some(left),
            proxy: states,
            backend: Some(BTreeMap::from([("ESTABLISHED".to_owned(), 2)])),
            ..Moment::default()
        }
    }

    #[test]
    fn the_most_and_the_emptiest_are_found() {
        let timeline = [
            moment(0.0, 1000, 0),
            moment(1.0, 10, 990),
            moment(2.0, 0, 998),
        ];
        assert_eq!(emptiest(&timeline), Some(1.0));
        let peak = peak(&timeline, 7);
        let (full, waiting) = machine::object_sizes();
        assert_eq!(
            (peak.sockets, peak.time_wait, peak.proxy_bytes),
            (1002, 998, 7)
        );
        assert_eq!(peak.kernel_bytes, 4 * full + 998 * waiting);
        assert_eq!(emptiest(&[]), None);
    }
}
