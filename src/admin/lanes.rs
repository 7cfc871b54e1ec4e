//! What a walk through the kernel's sockets says of the ports towards each backend, from each source
//! address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::census::ports::Limits;
use crate::census::{Births, Lanes, PortSet};
use crate::headroom::{Recycling, Way};
use crate::net::PortRange;

/// How long a lane is still shown of which nothing is taken any more.
const SHOWN: Duration = Duration::from_secs(300);

/// A backend as the proxy has it, all upstreams that have it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    /// The ports that connections to it are confined to.
    pub(super) source_ports: Option<PortRange>,
    /// The ports that a NAT on the way has towards it; 0: there is none.
    pub(super) snat_ports: u32,
    /// Connections that were opened.
    pub(super) opened: u64,
    /// Connections that ended by our FIN first, each of which leaves a TIME_WAIT.
    pub(super) left: u64,
    /// Connections that ended by a FIN, whoever was first.
    pub(super) closed: u64,
}

impl Backend {
    /// The same backend in another upstream.
    pub(super) fn join(&mut self, other: Backend) {
        self.opened += other.opened;
        self.left += other.left;
        self.closed += other.closed;
        self.snat_ports = match (self.snat_ports, other.snat_ports) {
            (0, ports) | (ports, 0) => ports,
            (one, other) => one.min(other),
        };
        self.source_ports = match (self.source_ports, other.source_ports) {
            (Some(one), Some(other)) => Some(PortRange {
                low: one.low.min(other.low),
                high: one.high.max(other.high),
            }),
            _ => None,
        };
    }
}

/// The ports from one source address to one backend address, as they are now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LaneSample {
    /// This machine's address.
    pub(super) source: IpAddr,
    /// The backend's.
    pub(super) backend: SocketAddr,
    /// The ports that a `connect()` may get: the range in force, less reserved ones and those that
    /// are listened on.
    pub(super) ports: u32,
    /// Of these, those of connections in any state but TIME_WAIT, whoever opened them.
    pub(super) in_use: u32,
    /// Of these, those in TIME_WAIT.
    pub(super) time_wait: u32,
    /// Of these, those that are left.
    pub(super) left: u32,
    /// Of these, those that a `connect()` cannot have: [`Way::held`].
    pub(super) held: u32,
    /// `TIME_WAIT`s that began, by the kernel's timers.
    pub(super) births: Births,
    /// Connections that this proxy opens to the backend in a second, from all its source addresses;
    /// `None` until it was asked twice.
    pub(super) connects_per_second: Option<f64>,
    /// Connections a second that leave a TIME_WAIT here: the rate that the times are for.
    pub(super) rate: f64,
    /// When `connect()` gets slow, in programs that do not set `IP_LOCAL_PORT_RANGE` (Warmline does);
    /// zero if it is. `None`: it does not at this rate.
    pub(super) slow_after: Option<Duration>,
    /// When no port is left; zero: now. `None`: it does not come to that at this rate, as with a pool.
    pub(super) fails_after: Option<Duration>,
    /// What `tcp_tw_reuse` makes of it.
    pub(super) recycling: Recycling,
    /// The same in words: `at 610 connects/s to 10.0.0.5:80 the 28,232 ports last 46 s`.
    pub(super) sentence: String,
}

impl LaneSample {
    /// The ports that are taken, as a part of all.
    pub(super) fn taken(&self) -> f64 {
        if self.ports == 0 {
            return 1.0;
        }
        1.0 - f64::from(self.left) / f64::from(self.ports)
    }

    /// The ports that a `connect()` cannot have, as a part of all: of those in TIME_WAIT only the youngest
    /// where they are taken again.
    pub(super) fn part_held(&self) -> f64 {
        if self.ports == 0 {
            return 1.0;
        }
        f64::from(self.held) / f64::from(self.ports)
    }
}

/// What is remembered from one sample to the next.
#[derive(Debug, Default)]
pub(super) struct LaneBook {
    /// Counts of each backend when it was last looked at.
    before: HashMap<SocketAddr, Backend>,
    /// Lanes of which something was taken, and how long ago.
    known: HashMap<(IpAddr, SocketAddr), Duration>,
}

/// What happens a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    opened: Option<f64>,
    left: Option<f64>,
}

impl LaneBook {
    /// What is to be counted: the lanes to these backends, under these limits.
    pub(super) fn count(&self, backends: &[Backend], limits: &Limits, listened: &PortSet) -> Lanes {
        let all = Arc::new(limits.given(listened));
        let given = |backend: &Backend| match backend.source_ports {
            None => Arc::clone(&all),
            Some(PortRange { low, high }) => {
                let mut ports = PortSet::default();
                ports.insert_all(low, high);
                ports.keep_all(&all);
                Arc::new(ports)
            }
        };
        let mut lanes = Lanes::new(backends.iter().map(|one| (one.address, given(one))));
        for (source, backend) in self.known.keys() {
            lanes.expect(*source, *backend);
        }
        lanes
    }

    /// What was counted, so long after the sample before.
    pub(super) fn samples(
        &mut self,
        lanes: &Lanes,
        backends: &[Backend],
        limits: &Limits,
        since: Duration,
    ) -> Vec<LaneSample> {
        let rates = self.rates(backends, since);
        let mut sources: HashMap<SocketAddr, u32> = HashMap::new();
        for (_, backend, ..) in lanes.iter() {
            *sources.entry(backend).or_default() += 1;
        }
        self.known.retain(|_, unused| {
            *unused += since;
            *unused < SHOWN
        });
        let mut samples = Vec::new();
        for (source, backend, given, lane) in lanes.iter() {
            let mut way = Way::new(source, backend, lane, given.count(), limits);
            if lane.in_use + lane.time_wait > 0 {
                self.known.insert((source, backend), Duration::ZERO);
            }
            let Rates { opened, left } = rates.get(&backend).copied().unwrap_or_default();
            // The kernel's figure is over ten seconds: ours knows sooner what has begun.
            if let (Some(left), Some(1)) = (left, sources.get(&backend)) {
                way.rate = way.rate.max(left);
            }
            let room = way.given(true).headroom();
            samples.push(LaneSample {
                source,
                backend,
                ports: way.ports,
                in_use: lane.in_use,
                time_wait: lane.time_wait,
                left: room.left,
                held: way.held(),
                births: lane.births,
                connects_per_second: opened,
                rate: way.rate,
                slow_after: way.given(false).headroom().slow_after,
                fails_after: room.fails_after,
                recycling: room.recycling,
                sentence: way.given(true).sentence(backend),
            });
        }
        samples
    }

    fn rates(&mut self, backends: &[Backend], since: Duration) -> HashMap<SocketAddr, Rates> {
        let per_second = |now: u64, before: Option<u64>| {
            let more = u32::try_from(now.checked_sub(before?)?).ok()?;
            (since > Duration::ZERO).then(|| f64::from(more) / since.as_secs_f64())
        };
        let rates = backends.iter().map(|backend| {
            let before = self.before.get(&backend.address);
            let rates = Rates {
                opened: per_second(backend.opened, before.map(|before| before.opened)),
                left: per_second(backend.left, before.map(|before| before.left)),
            };
            (backend.address, rates)
        });
        let rates = rates.collect();
        let now = backends.iter().map(|backend| (backend.address, *backend));
        self.before = now.collect();
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::diag::SocketEntry;
    use crate::census::ports::{ReservedPorts, Sysctls};
    use crate::census::{TcpState, Visit as _};

    fn limits() -> Limits {
        Limits {
            sysctls: Sysctls::parse("40000 40199", "0", "1000").unwrap(),
            reserved: ReservedPorts::default(),
            timestamps: true,
        }
    }

    fn backend(opened: u64, left: u64) -> Backend {
        Backend {
            address: "10.0.0.9:80".parse().unwrap(),
            source_ports: None,
            snat_ports: 0,
            opened,
            left,
            closed: left,
        }
    }

    fn socket(state: TcpState, port: u16, age: u64) -> SocketEntry {
        SocketEntry {
            state: state.number(),
            local: format!("10.0.0.1:{port}").parse().unwrap(),
            remote: "10.0.0.9:80".parse().unwrap(),
            expires: Duration::from_millis(60_000 - age),
            cookie: None,
            uid: 0,
            inode: 0,
        }
    }

    /// One look at these sockets, a second after the one before.
    fn look(book: &mut LaneBook, backend: Backend, sockets: &[SocketEntry]) -> Vec<LaneSample> {
        let mut lanes = book.count(&[backend], &limits(), &PortSet::default());
        for socket in sockets {
            lanes.note(socket);
        }
        book.samples(&lanes, &[backend], &limits(), Duration::from_secs(1))
    }

    #[test]
    fn a_lane_says_what_is_taken_and_how_long_the_rest_lasts() {
        let mut book = LaneBook::default();
        let mut sockets = vec![socket(TcpState::Established, 40_000, 0)];
        let time_waits = (0..20).map(|n| socket(TcpState::TimeWait, 40_001 + n, 100));
        sockets.extend(time_waits);
        let found = look(&mut book, backend(100, 80), &sockets);
        let [lane] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            [lane.ports, lane.in_use, lane.time_wait, lane.left],
            [200, 1, 20, 179]
        );
        assert!((lane.taken() - 0.105).abs() < 1e-9);
        assert!((lane.part_held() - 0.105).abs() < 1e-9);
        assert_eq!(lane.connects_per_second, None);
        // 20 in the last second, and the first of them a moment ago.
        assert!((lane.rate - 20.0).abs() < 1e-9);
        assert_eq!(lane.fails_after.unwrap().as_secs(), 8);
        assert_eq!(lane.slow_after.unwrap().as_secs(), 3);
        assert_eq!(
            lane.sentence,
            "at 20 connects/s to 10.0.0.9:80 the 179 ports left of 200 last 8.9 s"
        );

        // What the proxy knows sooner than a figure over ten seconds.
        let found = look(&mut book, backend(200, 170), &sockets);
        assert_eq!(found[0].connects_per_second, Some(100.0));
        assert!((found[0].rate - 90.0).abs() < 1e-9);
    }

    #[test]
    fn in_a_pool_nothing_runs_out_and_a_lane_stays_while_it_is_remembered() {
        let mut book = LaneBook::default();
        let open = [socket(TcpState::Established, 40_000, 0)];
        let found = look(&mut book, backend(1, 0), &open);
        assert_eq!((found[0].fails_after, found[0].slow_after), (None, None));
        for second in 1..400 {
            let found = look(&mut book, backend(1, 0), &[]);
            let left: Vec<_> = found.iter().map(|lane| lane.left).collect();
            let expected: &[u32] = if second < 301 { &[200] } else { &[] };
            assert_eq!(left, expected, "{second}");
        }
    }

    #[test]
    fn connections_that_are_confined_have_fewer_ports() {
        let confined = Backend {
            source_ports: Some(PortRange {
                low: 40_150,
                high: 50_000,
            }),
            ..backend(0, 0)
        };
        let mut book = LaneBook::default();
        let sockets = [
            socket(TcpState::TimeWait, 40_150, 0),
            socket(TcpState::TimeWait, 40_149, 0),
        ];
        let found = look(&mut book, confined, &sockets);
        assert_eq!((found[0].ports, found[0].left), (50, 49));
    }
}
