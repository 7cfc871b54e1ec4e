//! What there was a moment ago: a reading a second, from which rates are worked out and the page is
//! drawn when it is opened.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::account::{PoolFigures, Times};
use crate::census::{StateCounts, TcpState};
use crate::json::Json;

use super::facts::{Facts, Upstream};
use super::snapshot::rounded;

/// How often a reading is taken.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Over how many readings a rate is taken.
const SPAN: usize = 5;

/// How many readings the past has: five minutes.
const PAST: usize = 300;

/// Whose figures: an upstream's, or those of one of its backends.
pub(super) type Whose = (String, Option<String>);

/// The readings there are.
#[derive(Default)]
pub(super) struct History {
    /// The last few, as they were.
    recent: VecDeque<Reading>,
    /// All of them, worked out.
    past: VecDeque<Point>,
}

struct Reading {
    at: Instant,
    sums: HashMap<Whose, Sum>,
}

/// Counters at one moment.
#[derive(Clone)]
struct Sum {
    requests: u64,
    connects: u64,
    reuses: u64,
    times: Option<Times>,
}

/// How fast it went of late.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Requests a second.
    pub(super) requests: Option<f64>,
    /// Connections opened a second.
    pub(super) connects: Option<f64>,
    /// Of the requests, the part that used a connection again.
    pub(super) reuse: Option<f64>,
}

/// One second of the past.
struct Point {
    /// Seconds since 1970.
    time: f64,
    upstreams: Vec<UpstreamPoint>,
}

struct UpstreamPoint {
    name: String,
    rates: Rates,
    towards: StateCounts,
    own: StateCounts,
}

impl History {
    /// Takes a reading at `now`.
    pub(super) fn note(&mut self, facts: &Facts, now: Instant) {
        let mut sums = HashMap::new();
        for upstream in facts.present() {
            let sum = Sum::of(&upstream.figures, Some(upstream.times().clone()));
            sums.insert((upstream.name.clone(), None), sum);
        }
        for backend in &facts.backends {
            let whose = (backend.upstream.clone(), Some(backend.address.clone()));
            sums.insert(whose, Sum::of(&backend.figures, None));
        }
        if self.recent.len() > SPAN {
            self.recent.pop_front();
        }
        self.recent.push_back(Reading { at: now, sums });
        let point = |upstream: &Upstream| {
            let (towards, own) = facts.states_of(&upstream.name);
            UpstreamPoint {
                name: upstream.name.clone(),
                rates: self.rates(&(upstream.name.clone(), None)),
                towards,
                own,
            }
        };
        let upstreams = facts.present().map(point).collect();
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back(Point {
            time: facts.time,
            upstreams,
        });
    }

    /// The first and the last of the recent readings that have these figures.
    fn ends(&self, whose: &Whose) -> Option<(&Sum, &Sum, f64)> {
        let last = self.recent.back()?;
        let known = |reading: &&Reading| reading.sums.contains_key(whose);
        let first = self.recent.iter().find(known)?;
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let ends = (first.sums.get(whose)?, last.sums.get(whose)?, seconds);
        (seconds > 0.0).then_some(ends)
    }

    /// How fast it went over the last seconds.
    pub(super) fn rates(&self, whose: &Whose) -> Rates {
        let Some((first, last, seconds)) = self.ends(whose) else {
            return Rates::default();
        };
        let requests = number(last.requests.saturating_sub(first.requests));
        let connects = number(last.connects.saturating_sub(first.connects));
        let reuses = number(last.reuses.saturating_sub(first.reuses));
        Rates {
            requests: Some(requests / seconds),
            connects: Some(connects / seconds),
            reuse: (requests > 0.0).then(|| (reuses / requests).min(1.0)),
        }
    }

    /// How long exchanges took over the last seconds.
    pub(super) fn times(&self, whose: &Whose) -> Option<Times> {
        let (first, last, _) = self.ends(whose)?;
        Some(last.times.as_ref()?.since(first.times.as_ref()?))
    }

    /// The past of every upstream that there is, each as lists of the same length.
    pub(super) fn json(&self) -> Json {
        let now = self.past.back();
        let names = now.iter().flat_map(|point| &point.upstreams);
        let upstreams = names.map(|upstream| self.past_of(&upstream.name));
        Json::Object(vec![
            ("period_seconds", PERIOD.as_secs_f64().into()),
            ("upstreams", Json::List(upstreams.collect())),
        ])
    }

    fn past_of(&self, name: &str) -> Json {
        let of = |point: &'_ Point| {
            let mut upstreams = point.upstreams.iter();
            upstreams.position(|upstream| upstream.name == name)
        };
        let points: Vec<_> = self
            .past
            .iter()
            .filter_map(|point| Some((point.time, &point.upstreams[of(point)?])))
            .collect();
        let list = |value: &dyn Fn(f64, &UpstreamPoint) -> Json| {
            let values = points.iter().map(|(time, point)| value(*time, point));
            Json::List(values.collect())
        };
        Json::Object(vec![
            ("name", name.into()),
            ("time", list(&|time, _| time.into())),
            (
                "requests_per_second",
                list(&|_, point| point.rates.requests.map(rounded).into()),
            ),
            (
                "connects_per_second",
                list(&|_, point| point.rates.connects.map(rounded).into()),
            ),
            ("towards", states(&points, |point| &point.towards)),
            ("own", states(&points, |point| &point.own)),
        ])
    }
}

/// The sockets in each state that occurs, over time.
fn states(points: &[(f64, &UpstreamPoint)], side: fn(&UpstreamPoint) -> &StateCounts) -> Json {
    let occurs = |state| points.iter().any(|(_, point)| side(point).get(state) > 0);
    let states = TcpState::ALL.into_iter().filter(|state| occurs(*state));
    let list = |state: TcpState| {
        let counts = points
            .iter()
            .map(|(_, point)| side(point).get(state).into());
        (state.name(), Json::List(counts.collect()))
    };
    Json::Object(states.map(list).collect())
}

impl Sum {
    fn of(figures: &PoolFigures, times: Option<Times>) -> Sum {
        Sum {
            requests: figures.requests,
            connects: figures.counts.opened,
            reuses: figures.counts.reused,
            times,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::facts;
    use super::*;

    fn whose(backend: Option<&str>) -> Whose {
        ("app".to_owned(), backend.map(str::to_owned))
    }

    #[test]
    fn a_rate_is_what_came_in_the_last_five_seconds() {
        let mut history = History::default();
        let start = Instant::now();
        assert_eq!(history.rates(&whose(None)), Rates::default());
        // 100 requests a second, each tenth on a new connection; from the seventh on nothing.
        for second in 0..20_u64 {
            let counted = second.min(7);
            history.note(
                &facts(100 * counted, 10 * counted, 90 * counted),
                start + Duration::from_secs(second),
            );
            let rates = history.rates(&whose(None));
            assert_eq!(history.rates(&whose(Some("10.0.0.1:80"))), rates);
            match second {
                0 => assert_eq!(rates, Rates::default()),
                1..=7 => assert_eq!(
                    rates,
                    Rates {
                        requests: Some(100.0),
                        connects: Some(10.0),
                        reuse: Some(0.9),
                    }
                ),
                8..12 => assert!(rates.requests.unwrap() < 100.0),
                _ => assert_eq!(
                    rates,
                    Rates {
                        requests: Some(0.0),
                        connects: Some(0.0),
                        reuse: None,
                    }
                ),
            }
        }
        assert_eq!(history.rates(&("none".to_owned(), None)), Rates::default());
    }

    #[test]
    fn the_past_is_five_minutes_and_no_more() {
        let mut history = History::default();
        let start = Instant::now();
        for second in 0..400_u64 {
            history.note(&facts(second, 0, 0), start + Duration::from_secs(second));
        }
        assert_eq!((history.past.len(), history.recent.len()), (PAST, SPAN + 1));
        let text = history.json().to_string();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for list in ["time", "requests_per_second", "connects_per_second"] {
            let list = json["upstreams"][0][list].as_array().unwrap();
            assert_eq!(list.len(), PAST);
        }
        assert_eq!(json["upstreams"][0]["requests_per_second"][299], 1.0);
    }
}
