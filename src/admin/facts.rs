//! What is known of a running proxy at one moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::account::{Arm, FrontFigures, LineFigures, PoolFigures, Times};
use crate::census::StateCounts;
use crate::log;
use crate::net::Shown;
use crate::split::Split;

use super::process::Process;
use super::sampler::Sample;

/// What is known at one moment.
pub(super) struct Facts {
    /// Seconds since 1970.
    pub(super) time: f64,
    /// How long it has run.
    pub(super) uptime: Duration,
    /// Whether it has been told to stop.
    pub(super) stopping: bool,
    /// How many workers there are.
    pub(super) workers: usize,
    /// Client connections that are open.
    pub(super) clients: u32,
    /// Exchanges, whatever their backends.
    pub(super) front: FrontFigures,
    /// The certificates for clients.
    pub(super) certificates: Vec<Shown>,
    /// The upstreams, each with the figures of all backends it has and had.
    pub(super) upstreams: Vec<Upstream>,
    /// The backends, one by one.
    pub(super) backends: Vec<Backend>,
    /// The access log's lines; none if there is no such log.
    pub(super) log: log::Counts,
    /// What the program takes of the machine.
    pub(super) process: Process,
    /// What the kernel had when it was last asked.
    pub(super) sample: Option<Sample>,
}

/// One upstream.
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) arm: Arm,
    /// Which of its requests go to its short arm; `None`: it has none.
    pub(super) split: Option<Arc<Split>>,
    pub(super) figures: PoolFigures,
}

/// One backend of one upstream.
pub(super) struct Backend {
    pub(super) upstream: String,
    pub(super) arm: Arm,
    pub(super) address: String,
    /// Its address as the kernel has it; `None` for a Unix socket.
    pub(super) ip: Option<SocketAddr>,
    pub(super) figures: PoolFigures,
    pub(super) line: LineFigures,
}

impl Backend {
    pub(super) fn labels(&self) -> [(&'static str, &str); 2] {
        [("upstream", &self.upstream), ("backend", &self.address)]
    }
}

impl Upstream {
    /// How long its exchanges took, from the request's head to the response's last byte.
    pub(super) fn times(&self) -> &Times {
        &self.figures.traffic.total
    }

    /// The responses to clients by their class, 1xx first.
    pub(super) fn responses(&self) -> [u64; 5] {
        [1, 2, 3, 4, 5].map(|class| self.figures.traffic.of_class(class))
    }
}

impl Facts {
    /// The upstreams that have backends: those that a reload has removed have none.
    pub(super) fn present(&self) -> impl Iterator<Item = &Upstream> {
        let has = |name: &str| self.backends.iter().any(|backend| backend.upstream == name);
        self.upstreams
            .iter()
            .filter(move |upstream| has(&upstream.name))
    }

    /// The kernel's sockets of an upstream's backends: towards them, and their own.
    pub(super) fn states_of(&self, upstream: &str) -> (StateCounts, StateCounts) {
        let Some(sample) = &self.sample else {
            return Default::default();
        };
        let mut addresses: Vec<_> = self
            .backends
            .iter()
            .filter(|backend| backend.upstream == upstream)
            .filter_map(|backend| backend.ip)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let sides = sample.census.of_all(addresses);
        (sides.ours, sides.theirs)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::account::Counts;

    /// One upstream with one backend, and these counts.
    pub(in super::super) fn facts(requests: u64, connects: u64, reuses: u64) -> Facts {
        let figures = PoolFigures {
            requests,
            counts: Counts {
                opened: connects,
                reused: reuses,
                idle: 2,
                ..Counts::default()
            },
            ..PoolFigures::default()
        };
        Facts {
            time: 1_700_000_000.0,
            uptime: Duration::from_secs(61),
            stopping: false,
            workers: 2,
            clients: 3,
            front: FrontFigures::default(),
            certificates: Vec::new(),
            upstreams: vec![Upstream {
                name: "app".to_owned(),
                arm: Arm::Pooled,
                split: None,
                figures: figures.clone(),
            }],
            backends: vec![Backend {
                upstream: "app".to_owned(),
                arm: Arm::Pooled,
                address: "10.0.0.1:80".to_owned(),
                ip: Some(([10, 0, 0, 1], 80).into()),
                figures,
                line: LineFigures::default(),
            }],
            log: log::Counts::default(),
            process: Process::default(),
            sample: None,
        }
    }
}
