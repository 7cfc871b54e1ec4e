//! Two pages at `/metrics` of a running proxy, a moment apart → what it does in a second.
//!
//! Missing metrics are 0, so that an older or a newer proxy can be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::scrape::Page;

/// What a running proxy counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// Where it was asked.
    pub address: String,
    /// Its version; empty if it does not say.
    pub version: String,
    /// Client connections that are open.
    pub clients: u64,
    /// Its backends.
    pub backends: Vec<LiveBackend>,
}

/// One backend of a running proxy. Numbers are since its start, unless they are per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveBackend {
    /// Its upstream.
    pub upstream: String,
    /// Its address.
    pub address: String,
    /// Requests a second, now.
    pub requests_per_second: f64,
    /// Connections opened a second, now.
    pub connects_per_second: f64,
    /// Requests.
    pub requests: f64,
    /// Connections opened.
    pub connects: f64,
    /// Attempts to open one that came to nothing.
    pub connect_failures: f64,
    /// Requests on a connection that had served before.
    pub reuses: f64,
    /// Connections now.
    pub opening: u64,
    /// Of these, those that carry a request.
    pub leased: u64,
    /// Of these, those that are free.
    pub idle: u64,
    /// Requests in line now.
    pub waiting: u64,
    /// Requests that had to wait in line.
    pub waited: f64,
    /// Requests refused since no connection was to be had.
    pub refused: f64,
    /// Connects that twice, four and eight times the `max_idle` would have saved.
    pub would_hit: [f64; 3],
    /// Requests that met a connection being closed, and could not be sent again.
    pub races_lost: f64,
    /// The backend's own idle timeout, if it was learned.
    pub learned_idle_timeout: Option<Duration>,
    /// How connections ended.
    pub closes: Vec<Closes>,
}

/// Connections that ended for the same reason in the same way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Closes {
    /// Why.
    pub reason: String,
    /// Who closed first and how.
    pub close: String,
    /// How many.
    pub connections: f64,
    /// How long they had been idle, added up.
    pub idle_seconds: f64,
}

impl Live {
    /// What two pages say that were taken `apart`.
    pub fn new(address: String, first: &Page, second: &Page, apart: Duration) -> Live {
        let version = second
            .all("warmline_build_info")
            .map(|series| series.label("version").to_owned());
        let backends = second.all("warmline_backend_requests_total").map(|series| {
            let (upstream, backend) = (series.label("upstream"), series.label("backend"));
            LiveBackend::new(upstream, backend, first, second, apart)
        });
        Live {
            address,
            version: version.last().unwrap_or_default(),
            clients: number(second.sum("warmline_client_connections", &[])),
            backends: backends.collect(),
        }
    }
}

impl LiveBackend {
    fn new(upstream: &str, address: &str, first: &Page, second: &Page, apart: Duration) -> Self {
        let whose = [("upstream", upstream), ("backend", address)];
        let get = |name: &str| second.sum(name, &whose).unwrap_or(0.0);
        let with = |name: &str, key: &str, value: &str| {
            let labels = [whose[0], whose[1], (key, value)];
            second.sum(name, &labels)
        };
        let a_second = |name: &str| {
            let before = first.sum(name, &whose).unwrap_or(0.0);
            // Less than before: it was started anew in between.
            (get(name) - before).max(0.0) / apart.as_secs_f64()
        };
        let connections = |state| number(with("warmline_backend_connections", "state", state));
        let would_hit = ["2", "4", "8"]
            .map(|times| with("warmline_backend_would_hit_total", "times", times).unwrap_or(0.0));
        let mut closes = Vec::new();
        for series in second.all("warmline_backend_closes_total") {
            if series.label("upstream") != upstream || series.label("backend") != address {
                continue;
            }
            let (reason, close) = (series.label("reason"), series.label("close"));
            let labels = [whose[0], whose[1], ("reason", reason), ("close", close)];
            let idle = second.sum("warmline_backend_closed_idle_seconds_total", &labels);
            closes.push(Closes {
                reason: reason.to_owned(),
                close: close.to_owned(),
                connections: series.value,
                idle_seconds: idle.unwrap_or(0.0),
            });
        }
        let learned = second.sum("warmline_backend_learned_idle_timeout_seconds", &whose);
        LiveBackend {
            requests_per_second: a_second("warmline_backend_requests_total"),
            connects_per_second: a_second("warmline_backend_connects_total"),
            requests: get("warmline_backend_requests_total"),
            connects: get("warmline_backend_connects_total"),
            connect_failures: get("warmline_backend_connect_failures_total"),
            reuses: get("warmline_backend_reuses_total"),
            opening: connections("opening"),
            leased: connections("leased"),
            idle: connections("idle"),
            waiting: number(second.sum("warmline_backend_waiting", &whose)),
            waited: get("warmline_backend_waited_total"),
            refused: get("warmline_backend_refusals_total"),
            would_hit,
            races_lost: get("warmline_backend_races_lost_total"),
            learned_idle_timeout: learned
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            closes,
            upstream: upstream.to_owned(),
            address: address.to_owned(),
        }
    }

    /// Connections there are, those being opened included.
    pub fn connections(&self) -> u64 {
        self.opening + self.leased + self.idle
    }

    /// How many ended for this reason, and how long they had been idle on average.
    pub(super) fn ended_for(&self, reason: &str) -> (f64, Duration) {
        let (mut count, mut idle) = (0.0, 0.0);
        for closes in self.closes.iter().filter(|closes| closes.reason == reason) {
            count += closes.connections;
            idle += closes.idle_seconds;
        }
        let average = Duration::try_from_secs_f64(idle / f64::max(count, 1.0));
        (count, average.unwrap_or_default())
    }

    /// The reason that most connections ended for, with its share of all.
    pub(super) fn commonest_end(&self) -> Option<(&str, f64)> {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for closes in &self.closes {
            *sums.entry(&closes.reason).or_default() += closes.connections;
        }
        let all: f64 = sums.values().sum();
        let most = sums.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some((most.0, most.1 / all))
    }
}

fn number(value: Option<f64>) -> u64 {
    crate::quantity::whole(value.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP warmline_build_info The program that runs.
# TYPE warmline_build_info gauge
warmline_build_info{version="0.1.0"} 1
warmline_client_connections 12
warmline_backend_requests_total{upstream="app",backend="10.0.0.5:80"} 1000
warmline_backend_requests_total{upstream="app",backend="unix:/run/a \"b\".sock"} 7
warmline_backend_connects_total{upstream="app",backend="10.0.0.5:80"} 40
warmline_backend_reuses_total{upstream="app",backend="10.0.0.5:80"} 960
warmline_backend_connections{upstream="app",backend="10.0.0.5:80",state="leased"} 3
warmline_backend_connections{upstream="app",backend="10.0.0.5:80",state="idle"} 2
warmline_backend_refusals_total{upstream="app",backend="10.0.0.5:80",reason="line_full"} 4
warmline_backend_refusals_total{upstream="app",backend="10.0.0.5:80",reason="waited"} 5
warmline_backend_would_hit_total{upstream="app",backend="10.0.0.5:80",times="4"} 9
warmline_backend_closes_total{upstream="app",backend="10.0.0.5:80",reason="peer_closed_idle",close="peer_fin"} 4
warmline_backend_closed_idle_seconds_total{upstream="app",backend="10.0.0.5:80",reason="peer_closed_idle",close="peer_fin"} 20.4
warmline_backend_closes_total{upstream="app",backend="10.0.0.5:80",reason="max_age",close="peer_fin"} 1
warmline_backend_learned_idle_timeout_seconds{upstream="app",backend="10.0.0.5:80"} 5.1
warmline_something_new{odd="}"} 3
no number
"#;

    #[test]
    fn a_page_is_read_with_what_it_has() {
        let (first, second) = (Page::default(), Page::read(PAGE));
        assert!(second.is_ours() && !first.is_ours());
        let live = Live::new("x".to_owned(), &first, &second, Duration::from_secs(2));
        assert_eq!((live.version.as_str(), live.clients), ("0.1.0", 12));
        let backend = &live.backends[0];
        assert_eq!(live.backends[1].address, "unix:/run/a \"b\".sock");
        assert_eq!(backend.connections(), 5);
        assert!((backend.requests_per_second - 500.0).abs() < 1e-9);
        assert!((backend.connects_per_second - 20.0).abs() < 1e-9);
        assert!((backend.refused - 9.0).abs() < 1e-9);
        assert!((backend.would_hit[1] - 9.0).abs() < 1e-9);
        assert_eq!(
            backend.learned_idle_timeout,
            Some(Duration::from_millis(5100))
        );
        let (count, idle) = backend.ended_for("peer_closed_idle");
        assert_eq!((count, idle), (4.0, Duration::from_millis(5100)));
        assert_eq!(backend.commonest_end(), Some(("peer_closed_idle", 0.8)));
        assert_eq!(live.backends[1].commonest_end(), None);
    }

    #[test]
    fn a_proxy_that_was_started_anew_in_between_has_no_rate_below_zero() {
        let (first, second) = (
            Page::read(PAGE),
            Page::read(&PAGE.replace("} 1000", "} 10")),
        );
        let live = Live::new("x".to_owned(), &first, &second, Duration::from_secs(1));
        assert!(live.backends[0].requests_per_second.abs() < 1e-9);
    }
}
