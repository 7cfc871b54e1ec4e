//! Stops short arms that do harm: a guard for each upstream with a split, looked at once a second.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::account::Outcome;
use crate::split::{Guard, Seen, Share, Split, Stopped, twin_name};

use super::facts::{Facts, Upstream};

/// How old the kernel's figures may be.
const RECENT: Duration = Duration::from_secs(5);

/// One for each upstream, by its name.
#[derive(Default)]
pub(super) struct Guards(HashMap<String, Guard>);

impl Guards {
    /// Looks at all of them, and does what is to be done.
    pub(super) fn look(&mut self, facts: &Facts, now: Instant) {
        for upstream in &facts.upstreams {
            let Some(split) = &upstream.split else {
                self.0.remove(&upstream.name);
                continue;
            };
            let short = twin_name(&upstream.name);
            let Some(short) = facts.upstreams.iter().find(|other| other.name == short) else {
                continue;
            };
            let seen = seen(facts, upstream, short);
            let is_on = split.in_force() > Share::NONE;
            let guard = self.0.entry(upstream.name.clone()).or_default();
            if let Some(why) = guard.look(now, seen, is_on) {
                stop(split, &upstream.name, why, &seen);
            }
        }
    }
}

fn stop(split: &Split, upstream: &str, why: Stopped, seen: &Seen) {
    if !split.stop(why) {
        return;
    }
    let again = "Its requests go the pooled way; ask for a share again once that is mended";
    match why {
        Stopped::PortsLow => {
            let left = seen.ports_left.unwrap_or(0.0) * 100.0;
            warn!(
                upstream,
                "the short arm is stopped: {left:.0}% of the local ports to a backend are left. {again}"
            );
        }
        Stopped::Errors => {
            warn!(
                upstream,
                "the short arm is stopped: its requests fail more often than the pooled ones. {again}"
            );
        }
        Stopped::NoPort => warn!(
            upstream,
            "the short arm is stopped: no local port was left. {again}"
        ),
    }
}

fn seen(facts: &Facts, pooled: &Upstream, short: &Upstream) -> Seen {
    let over = |upstream: &Upstream| -> u64 { upstream.responses().iter().sum() };
    // Cut off within, an answer of 5xx counts twice: that happens to errors only.
    let failed = |upstream: &Upstream| {
        let traffic = &upstream.figures.traffic;
        traffic.of_class(5) + traffic.of_outcome(Outcome::BrokenOff)
    };
    let backends = facts.backends.iter();
    let addresses = backends
        .filter(|backend| backend.upstream == short.name)
        .filter_map(|backend| backend.ip);
    // What the kernel said long ago says nothing of a share that was asked for since.
    let sample = facts
        .sample
        .as_ref()
        .filter(|sample| sample.age < RECENT.max(sample.period * 2));
    let lanes = sample.iter().flat_map(|sample| &sample.lanes);
    let lanes: Vec<_> = lanes.collect();
    let left = addresses
        .filter_map(|address| {
            // Of several sources the one with the most is used.
            let own = lanes.iter().filter(|lane| lane.backend == address);
            own.map(|lane| 1.0 - lane.part_held())
                .max_by(f64::total_cmp)
        })
        .min_by(f64::total_cmp);
    Seen {
        short: over(short),
        short_failed: failed(short),
        pooled: over(pooled),
        pooled_failed: failed(pooled),
        ports_left: left,
    }
}
