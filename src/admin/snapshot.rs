//! What the proxy is at one moment → JSON. Keys stay as they are; others may be added.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::account::{Arm, Held};
use crate::census::{Source, StateCounts, TcpState};
use crate::json::Json;

use super::facts::{Backend, Facts, Upstream};
use super::history::{History, Rates};
use super::lanes::LaneSample;
use super::owners::TimeWaits;
use super::sampler::Sample;
use super::share;

/// Everything that is told of one moment.
pub(super) struct Snapshot<'a> {
    pub(super) facts: &'a Facts,
    pub(super) history: &'a History,
    pub(super) cells: &'a Cells,
}

/// The connections of each backend, by the upstream's name and the backend's address.
pub(super) type Cells = HashMap<(String, String), Vec<Cell>>;

/// One connection to a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    /// The worker that has it.
    pub(super) worker: usize,
    pub(super) held: Held,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it.
    All,
    /// What the pools have and did.
    Pools,
    /// The kernel's sockets by state.
    States,
    /// The local ports.
    Ports,
}

impl Shown {
    /// Whether the connections are shown one by one.
    pub(super) fn has_cells(self) -> bool {
        matches!(self, Shown::All | Shown::Pools)
    }
}

/// What is told of each backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Pools,
    States,
    Ports,
}

type Members = Vec<(&'static str, Json)>;

impl Snapshot<'_> {
    /// As JSON.
    pub(super) fn json(&self, shown: Shown) -> Json {
        let mut members = vec![("time", self.facts.time.into())];
        if shown == Shown::All {
            members.extend(self.proxy());
        }
        members.push(self.upstreams(match shown {
            Shown::All => &[Part::Pools, Part::States, Part::Ports],
            Shown::Pools => &[Part::Pools],
            Shown::States => &[Part::States],
            Shown::Ports => &[Part::Ports],
        }));
        if matches!(shown, Shown::All | Shown::States) {
            members.extend(self.kernel());
        }
        Json::Object(members)
    }

    fn proxy(&self) -> Members {
        let facts = self.facts;
        let clients = Json::Object(vec![("open", facts.clients.into())]);
        vec![
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("uptime_seconds", facts.uptime.as_secs_f64().into()),
            ("workers", (facts.workers as u64).into()),
            ("stopping", facts.stopping.into()),
            ("clients", clients),
        ]
    }

    fn upstreams(&self, parts: &[Part]) -> (&'static str, Json) {
        let list = self
            .facts
            .present()
            .map(|upstream| self.upstream(upstream, parts));
        ("upstreams", Json::List(list.collect()))
    }

    fn upstream(&self, upstream: &Upstream, parts: &[Part]) -> Json {
        let mut members = vec![
            ("name", upstream.name.as_str().into()),
            ("arm", upstream.arm.label().into()),
        ];
        if let Some(split) = &upstream.split {
            members.push(("short_share", share::shown(split)));
        }
        if parts.contains(&Part::Pools) {
            let whose = (upstream.name.clone(), None);
            members.push(("requests_total", upstream.figures.requests.into()));
            members.push(("responses", responses(upstream)));
            members.extend(rates(self.history.rates(&whose)));
            let times = self.history.times(&whose);
            let quantile = |q| -> Json {
                let time = times.as_ref().and_then(|times| times.quantile(q));
                time.map(|time| time.as_secs_f64()).into()
            };
            let latency = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
            members.push((
                "latency_seconds",
                Json::Object(latency.map(|(name, q)| (name, quantile(q))).into()),
            ));
        }
        let backends = self.facts.backends.iter();
        let backends = backends
            .filter(|backend| backend.upstream == upstream.name)
            .map(|backend| self.backend(backend, parts));
        members.push(("backends", Json::List(backends.collect())));
        Json::Object(members)
    }

    fn backend(&self, backend: &Backend, parts: &[Part]) -> Json {
        let mut members = vec![("address", backend.address.as_str().into())];
        for part in parts {
            match part {
                Part::Pools => self.pool(backend, &mut members),
                Part::States => members.push(("states", self.sides(backend))),
                Part::Ports => {
                    members.push(("ports", self.lanes(backend)));
                    members.push(("snat", self.snat(backend)));
                }
            }
        }
        Json::Object(members)
    }

    fn pool(&self, backend: &Backend, members: &mut Members) {
        let counts = &backend.figures.counts;
        members.extend([
            (
                "connections",
                Json::Object(vec![
                    ("opening", counts.opening.into()),
                    ("leased", counts.leased.into()),
                    ("idle", counts.idle.into()),
                ]),
            ),
            ("waiting", backend.line.waiting.into()),
            ("requests_total", backend.figures.requests.into()),
            ("connects_total", counts.opened.into()),
            ("connect_failures_total", counts.open_failed.into()),
            ("reuses_total", counts.reused.into()),
        ]);
        let whose = (backend.upstream.clone(), Some(backend.address.clone()));
        members.extend(rates(self.history.rates(&whose)));
        let cells = self
            .cells
            .get(&(backend.upstream.clone(), backend.address.clone()));
        let cells = cells.iter().copied().flatten().map(Cell::json);
        members.push(("cells", Json::List(cells.collect())));
    }

    fn sides(&self, backend: &Backend) -> Json {
        let sides = self.facts.sample.as_ref().zip(backend.ip);
        let sides = sides.and_then(|(sample, address)| sample.census.of(address));
        sides.map_or(Json::Null, |sides| {
            Json::Object(vec![
                ("towards", counts(&sides.ours)),
                ("own", counts(&sides.theirs)),
            ])
        })
    }

    /// The ports towards it, from each source address.
    fn lanes(&self, backend: &Backend) -> Json {
        let lanes = self.facts.sample.iter().flat_map(|sample| &sample.lanes);
        let lanes = lanes.filter(|lane| Some(lane.backend) == backend.ip);
        Json::List(lanes.map(lane).collect())
    }

    /// The ports towards it of a NAT on the way, if one is declared.
    fn snat(&self, backend: &Backend) -> Json {
        let mut snats = self.facts.sample.iter().flat_map(|sample| &sample.snats);
        let snat = snats.find(|snat| Some(snat.backend) == backend.ip);
        snat.map_or(Json::Null, |snat| {
            let left = snat.fails_after;
            Json::Object(vec![
                ("ports", snat.ports.into()),
                ("in_use", snat.in_use.into()),
                ("held", snat.held.into()),
                ("left", snat.left.into()),
                (
                    "seconds_left",
                    left.map(|left| rounded(left.as_secs_f64())).into(),
                ),
                ("sentence", snat.sentence.as_str().into()),
            ])
        })
    }

    fn kernel(&self) -> Members {
        let Some(sample) = &self.facts.sample else {
            return vec![
                ("listeners", Json::List(Vec::new())),
                ("census", Json::Null),
                ("time_wait", Json::Null),
            ];
        };
        let listeners = sample.listeners.iter().filter_map(|address| {
            let sides = sample.census.of(*address)?;
            Some(Json::Object(vec![
                ("address", address.to_string().into()),
                ("states", counts(&sides.theirs)),
            ]))
        });
        let source = match sample.census.source() {
            Source::SockDiag => "sock_diag",
            Source::ProcNetTcp => "proc_net_tcp",
        };
        vec![
            ("listeners", Json::List(listeners.collect())),
            (
                "census",
                Json::Object(vec![
                    ("source", source.into()),
                    ("seconds", sample.took.as_secs_f64().into()),
                    ("period_seconds", sample.period.as_secs_f64().into()),
                    ("age_seconds", rounded(sample.age.as_secs_f64()).into()),
                ]),
            ),
            ("time_wait", time_wait(self.facts, sample)),
        ]
    }
}

impl Cell {
    fn json(&self) -> Json {
        let Held {
            stage,
            exchanges,
            age,
            idle,
        } = self.held;
        Json::Object(vec![
            ("worker", (self.worker as u64).into()),
            ("state", stage.label().into()),
            ("requests", exchanges.into()),
            ("age_seconds", rounded(age.as_secs_f64()).into()),
            ("idle_seconds", rounded(idle.as_secs_f64()).into()),
        ])
    }
}

fn rates(rates: Rates) -> Members {
    vec![
        ("requests_per_second", rates.requests.map(rounded).into()),
        ("connects_per_second", rates.connects.map(rounded).into()),
        ("reuse_ratio", rates.reuse.map(rounded).into()),
    ]
}

fn responses(upstream: &Upstream) -> Json {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let both = classes.into_iter().zip(upstream.responses());
    Json::Object(both.map(|(class, count)| (class, count.into())).collect())
}

/// Sockets by state, under the kernel's names.
pub(super) fn counts(counts: &StateCounts) -> Json {
    let mut members: Members = counts
        .iter()
        .map(|(state, count)| (state.name(), Json::from(count)))
        .collect();
    members.push(("unknown", counts.unknown().into()));
    members.push(("sum", counts.total().into()));
    Json::Object(members)
}

fn lane(lane: &LaneSample) -> Json {
    let seconds = |time: Option<Duration>| Json::from(time.map(|time| rounded(time.as_secs_f64())));
    Json::Object(vec![
        ("source", lane.source.to_string().into()),
        ("ports", lane.ports.into()),
        ("in_use", lane.in_use.into()),
        ("time_wait", lane.time_wait.into()),
        ("left", lane.left.into()),
        ("connects_per_second", rounded(lane.rate).into()),
        ("seconds_until_slow", seconds(lane.slow_after)),
        ("seconds_left", seconds(lane.fails_after)),
        ("recycling", lane.recycling.label().into()),
        ("sentence", lane.sentence.as_str().into()),
    ])
}

/// The sockets in `TIME_WAIT` towards backends, by what left them. Where that is not known, by how the
/// address' upstreams use connections: those towards one that upstreams of both arms have are foreign.
fn time_wait(facts: &Facts, sample: &Sample) -> Json {
    if let Some(origins) = &sample.origins {
        return by_arm(|wanted| {
            let arm = |waits: &TimeWaits| waits.owner.as_ref().map(|owner| owner.arm);
            let waits = origins.time_waits.iter();
            let of_it = waits.filter(|waits| arm(waits) == wanted);
            of_it.map(|waits| waits.count).sum()
        });
    }
    let mut arms: HashMap<SocketAddr, Option<Arm>> = HashMap::new();
    for backend in &facts.backends {
        if let Some(address) = backend.ip {
            arms.entry(address)
                .and_modify(|known| *known = known.filter(|arm| *arm == backend.arm))
                .or_insert(Some(backend.arm));
        }
    }
    let sum = |wanted: Option<Arm>| -> u64 {
        let addresses = arms.iter().filter(|(_, arm)| **arm == wanted);
        let sides = sample.census.of_all(addresses.map(|(address, _)| *address));
        sides.ours.get(TcpState::TimeWait)
    };
    by_arm(sum)
}

fn by_arm(sum: impl Fn(Option<Arm>) -> u64) -> Json {
    Json::Object(vec![
        ("pooled", sum(Some(Arm::Pooled)).into()),
        ("short", sum(Some(Arm::Short)).into()),
        ("foreign", sum(None).into()),
    ])
}

/// A figure without the digits that nobody reads.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::facts;
    use super::*;
    use crate::account::Stage;

    fn read(json: &Json) -> serde_json::Value {
        serde_json::from_str(&json.to_string()).unwrap()
    }

    #[test]
    fn a_snapshot_has_every_key_and_the_parts_have_theirs() {
        let facts = facts(100, 10, 90);
        let held = Held {
            stage: Stage::Idle,
            exchanges: 50,
            age: Duration::from_millis(12_345),
            idle: Duration::from_micros(600),
        };
        let key = ("app".to_owned(), "10.0.0.1:80".to_owned());
        let cells = Cells::from([(key, vec![Cell { worker: 1, held }])]);
        let snapshot = Snapshot {
            facts: &facts,
            history: &History::default(),
            cells: &cells,
        };
        let all = read(&snapshot.json(Shown::All));
        assert_eq!(all["uptime_seconds"], 61.0);
        assert_eq!(all["clients"]["open"], 3);
        let app = &all["upstreams"][0];
        assert_eq!(
            (&app["name"], &app["arm"]),
            (&"app".into(), &"pooled".into())
        );
        assert_eq!(app["requests_total"], 100);
        assert!(app["requests_per_second"].is_null());
        let backend = &app["backends"][0];
        assert_eq!(backend["connections"]["idle"], 2);
        assert_eq!(
            backend["cells"],
            serde_json::json!([{
                "worker": 1, "state": "idle", "requests": 50,
                "age_seconds": 12.345, "idle_seconds": 0.001,
            }])
        );
        let keys = |json: Json| {
            let json = read(&json);
            let backend = json["upstreams"][0]["backends"][0].as_object();
            backend.unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert!(keys(snapshot.json(Shown::Pools)).contains(&"cells".to_owned()));
        assert_eq!(keys(snapshot.json(Shown::States)), ["address", "states"]);
        assert_eq!(
            keys(snapshot.json(Shown::Ports)),
            ["address", "ports", "snat"]
        );
    }
}
