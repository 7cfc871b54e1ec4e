//! A running proxy's `/snapshot`, read. What is not there is unknown, and what is not known here is
//! passed over: an older or a newer proxy can be looked at too.

use std::time::Duration;

use serde_json::Value;

use crate::census::TcpState;

/// A proxy at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Snapshot {
    pub(super) version: String,
    pub(super) uptime: Option<Duration>,
    pub(super) workers: Option<u64>,
    pub(super) clients: Option<u64>,
    /// Whether it has been told to stop.
    pub(super) stopping: bool,
    /// All backends, upstream by upstream.
    pub(super) backends: Vec<Backend>,
}

/// One backend of one upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Backend {
    pub(super) upstream: String,
    pub(super) arm: String,
    pub(super) address: String,
    pub(super) requests_per_second: Option<f64>,
    pub(super) connects_per_second: Option<f64>,
    /// Of the requests, the part on a connection that had served before.
    pub(super) reuse: Option<f64>,
    /// How long the upstream's exchanges take: half of them, and 99 in 100.
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    pub(super) opening: Option<u64>,
    pub(super) leased: Option<u64>,
    pub(super) idle: Option<u64>,
    pub(super) waiting: Option<u64>,
    /// The kernel's sockets; `None` where it was not asked, as for a Unix socket.
    pub(super) states: Option<Vec<State>>,
    pub(super) lanes: Vec<Lane>,
    pub(super) cells: Vec<Cell>,
}

/// The sockets in one state: towards the backend, and of its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) of: TcpState,
    pub(super) towards: u64,
    pub(super) own: u64,
}

/// The ports from one source address.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lane {
    pub(super) source: String,
    pub(super) ports: u64,
    pub(super) left: u64,
    /// At the present rate; `None`: they do not run out, or it is not known.
    pub(super) seconds_left: Option<Duration>,
    pub(super) sentence: String,
}

/// One connection of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    pub(super) worker: u64,
    pub(super) state: String,
    pub(super) requests: u64,
    pub(super) age: Duration,
}

impl Snapshot {
    /// Reads a page.
    ///
    /// # Errors
    /// In words, when it is no JSON or none of ours.
    pub(super) fn read(text: &str) -> Result<Snapshot, String> {
        let root: Value = serde_json::from_str(text)
            .map_err(|error| format!("what it answers at /snapshot is no JSON: {error}"))?;
        let Some(upstreams) = root["upstreams"].as_array() else {
            return Err("what it answers at /snapshot has no upstreams".to_owned());
        };
        Ok(Snapshot {
            version: text_of(&root["version"]),
            uptime: seconds(&root["uptime_seconds"]),
            workers: root["workers"].as_u64(),
            clients: root["clients"]["open"].as_u64(),
            stopping: root["stopping"].as_bool().unwrap_or(false),
            backends: upstreams.iter().flat_map(backends).collect(),
        })
    }

    /// Requests a second to all backends.
    pub(super) fn requests_per_second(&self) -> Option<f64> {
        let rates = self.backends.iter().map(|one| one.requests_per_second);
        rates.fold(None, |sum, rate| match (sum, rate) {
            (Some(sum), Some(rate)) => Some(sum + rate),
            (known, None) | (None, known) => known,
        })
    }
}

impl Backend {
    /// `TIME_WAIT`s towards it, which hold a port each.
    pub(super) fn time_waits(&self) -> Option<u64> {
        Some(self.of(TcpState::TimeWait)?.towards)
    }

    /// `TIME_WAIT`s of its own side.
    pub(super) fn own_time_waits(&self) -> Option<u64> {
        Some(self.of(TcpState::TimeWait)?.own)
    }

    fn of(&self, state: TcpState) -> Option<State> {
        let states = self.states.as_ref()?;
        let found = states.iter().find(|count| count.of == state);
        Some(found.copied().unwrap_or(State {
            of: state,
            towards: 0,
            own: 0,
        }))
    }

    /// The way with the fewest ports left.
    pub(super) fn scarcest(&self) -> Option<&Lane> {
        self.lanes.iter().min_by_key(|lane| lane.left)
    }
}

fn backends(upstream: &Value) -> Vec<Backend> {
    let list = upstream["backends"].as_array();
    let latency = &upstream["latency_seconds"];
    list.into_iter()
        .flatten()
        .map(|backend| {
            let connections = &backend["connections"];
            // A backend's own times are better than its upstream's, if it has any.
            let own = &backend["latency_seconds"];
            let quantile = |name: &str| seconds(&own[name]).or_else(|| seconds(&latency[name]));
            Backend {
                upstream: text_of(&upstream["name"]),
                arm: text_of(&upstream["arm"]),
                address: text_of(&backend["address"]),
                requests_per_second: backend["requests_per_second"].as_f64(),
                connects_per_second: backend["connects_per_second"].as_f64(),
                reuse: backend["reuse_ratio"].as_f64(),
                p50: quantile("p50"),
                p99: quantile("p99"),
                opening: connections["opening"].as_u64(),
                leased: connections["leased"].as_u64(),
                idle: connections["idle"].as_u64(),
                waiting: backend["waiting"].as_u64(),
                states: states(&backend["states"]),
                lanes: list_of(&backend["ports"], lane),
                cells: list_of(&backend["cells"], cell),
            }
        })
        .collect()
}

fn list_of<T>(value: &Value, read: fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

fn states(value: &Value) -> Option<Vec<State>> {
    value.as_object()?;
    let counts = TcpState::ALL.into_iter().map(|state| {
        let of = |side: &str| value[side][state.name()].as_u64().unwrap_or(0);
        State {
            of: state,
            towards: of("towards"),
            own: of("own"),
        }
    });
    Some(
        counts
            .filter(|count| count.towards + count.own > 0)
            .collect(),
    )
}

fn lane(value: &Value) -> Lane {
    Lane {
        source: text_of(&value["source"]),
        ports: value["ports"].as_u64().unwrap_or(0),
        left: value["left"].as_u64().unwrap_or(0),
        seconds_left: seconds(&value["seconds_left"]),
        sentence: text_of(&value["sentence"]),
    }
}

fn cell(value: &Value) -> Cell {
    Cell {
        worker: value["worker"].as_u64().unwrap_or(0),
        state: text_of(&value["state"]),
        requests: value["requests"].as_u64().unwrap_or(0),
        age: seconds(&value["age_seconds"]).unwrap_or_default(),
    }
}

/// A text without what would move the cursor.
fn text_of(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).collect()
}

fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::top) fn fixture() -> Snapshot {
        Snapshot::read(include_str!("../../../tests/support/snapshot.json")).unwrap()
    }

    #[test]
    fn a_snapshot_is_read_with_all_it_has() {
        let snapshot = fixture();
        assert_eq!(snapshot.version, "0.1.0");
        assert_eq!((snapshot.workers, snapshot.clients), (Some(2), Some(56)));
        assert_eq!(snapshot.requests_per_second().map(f64::round), Some(1610.0));
        let [app, old] = &snapshot.backends[..] else {
            panic!("there are two");
        };
        assert_eq!((app.upstream.as_str(), app.arm.as_str()), ("app", "pooled"));
        assert_eq!(app.p99, Some(Duration::from_micros(18_500)));
        assert_eq!((app.leased, app.idle), (Some(2), Some(3)));
        assert_eq!((app.time_waits(), app.own_time_waits()), (Some(0), Some(0)));
        assert_eq!(app.cells.len(), 5);
        assert_eq!(old.time_waits(), Some(22_860));
        assert_eq!(old.p99, None);
        let lane = old.scarcest().unwrap();
        assert_eq!((lane.ports, lane.left), (28_232, 5_367));
        assert_eq!(lane.seconds_left, Some(Duration::from_millis(8_800)));
    }

    #[test]
    fn what_is_missing_is_unknown_and_what_is_no_snapshot_is_refused() {
        let text = r#"{"upstreams": [{"name": "a\u001b[2J", "backends": [{}, {"states": null, "odd": 1}]}, {}]}"#;
        let snapshot = Snapshot::read(text).unwrap();
        assert_eq!(snapshot.backends.len(), 2);
        assert_eq!(snapshot.backends[0].upstream, "a[2J");
        assert_eq!(snapshot.backends[1].time_waits(), None);
        assert_eq!(snapshot.requests_per_second(), None);
        for (text, words) in [
            ("nope", "is no JSON"),
            ("{}", "no upstreams"),
            ("[]", "no upstreams"),
        ] {
            assert!(Snapshot::read(text).unwrap_err().contains(words), "{text}");
        }
    }
}
