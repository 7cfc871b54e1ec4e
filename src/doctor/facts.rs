//! What the rules go by.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::backend;
use crate::census::ports::{Limits, TwReuse};
use crate::headroom::{Given, TIME_WAIT, Way};
use crate::lookup::Origin;
use crate::server;

use super::live::{Live, LiveBackend};

/// All that is known.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What the file asks for.
    pub settings: &'a server::Settings,
    /// What it is to run on.
    pub machine: Machine,
    /// Whether it runs.
    pub proxy: Proxy,
    /// Requests a second to each upstream, if that was said: it stands in for what a running proxy has.
    pub rate: Option<f64>,
    /// What the kernel has towards each backend address.
    pub kernel: BTreeMap<SocketAddr, Towards>,
    /// Sockets in TIME_WAIT, of whatever program; `None`: they could not be counted.
    pub time_waits: Option<u64>,
}

/// The machine; `None` is what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Ports and TIME_WAIT.
    pub limits: Option<Limits>,
    /// The most files that a process may open: the hard limit, which the proxy takes.
    pub open_files: Option<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// Connection tracking, where the kernel does it.
    pub conntrack: Option<Conntrack>,
    /// Of the backends' addresses, those of this machine.
    pub local: HashSet<IpAddr>,
    /// What the kernel refuses of what is asked for of sockets to backends.
    pub refused: Vec<Refused>,
}

/// The kernel's table of connections, for NAT and stateful filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// `nf_conntrack_max`.
    pub most: u64,
    /// `nf_conntrack_count`.
    pub count: u64,
    /// `nf_conntrack_tcp_timeout_time_wait`.
    pub time_wait: Option<Duration>,
    /// `nf_conntrack_tcp_timeout_established`.
    pub established: Option<Duration>,
}

/// Something of an upstream's sockets that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The upstream.
    pub upstream: String,
    /// What the kernel says.
    pub error: String,
    /// The source address that is not one of this machine, if that is it.
    pub not_here: Option<IpAddr>,
}

/// The running proxy.
#[derive(Clone, Debug)]
pub enum Proxy {
    /// Nobody said where to ask.
    NotAsked,
    /// Nobody answers there.
    Silent {
        /// What was tried, and what came of it.
        why: String,
        /// Whether it was asked for expressly, so that it should.
        expected: bool,
    },
    /// It has answered.
    Runs(Box<Live>),
}

/// What the kernel has towards one address.
#[derive(Clone, Debug, Default)]
pub struct Towards {
    /// The ports, by the source address they are of.
    pub ways: BTreeMap<IpAddr, Way>,
    /// `TIME_WAIT`s of this side, of whatever program.
    pub time_waits: u64,
    /// `TIME_WAIT`s of the backend's own side; `None` if that is not in this network namespace.
    pub own_time_waits: Option<u64>,
}

impl Facts<'_> {
    /// The running proxy's figures, if it runs.
    pub fn live(&self) -> Option<&Live> {
        match &self.proxy {
            Proxy::Runs(live) => Some(live),
            Proxy::NotAsked | Proxy::Silent { .. } => None,
        }
    }

    /// The figures of an upstream's backends, while the proxy runs.
    pub fn live_of<'a>(&'a self, upstream: &'a str) -> impl Iterator<Item = &'a LiveBackend> {
        let backends = self.live().map_or(&[][..], |live| &live.backends);
        backends
            .iter()
            .filter(move |backend| backend.upstream == upstream)
    }

    /// The backends of an upstream that are known by address, and the requests a second that each has,
    /// where that is known: of the running proxy, or of the file.
    pub fn backends(&self, upstream: &backend::Settings) -> Vec<(SocketAddr, Option<f64>)> {
        let mut known: BTreeMap<SocketAddr, Option<f64>> = BTreeMap::new();
        let weights: u64 = upstream
            .servers
            .iter()
            .map(|server| u64::from(server.weight))
            .sum();
        for server in &upstream.servers {
            if let Some(Origin::Address(address)) = Origin::parse(&server.address) {
                let rate = self.rate.map(|rate| {
                    #[expect(clippy::cast_precision_loss, reason = "weights are small numbers")]
                    let all = weights.max(1) as f64;
                    rate * f64::from(server.weight) / all
                });
                known.insert(address, rate);
            }
        }
        if self.rate.is_none() {
            for backend in self.live_of(&upstream.name) {
                if let Ok(address) = backend.address.parse() {
                    known.insert(address, Some(backend.requests_per_second));
                }
            }
        }
        known.into_iter().collect()
    }

    /// What is known of the ports from one source address to `backend`, none of them taken, at so many
    /// closes a second by this side.
    pub fn given(&self, backend: SocketAddr, upstream: &backend::Settings, rate: f64) -> Given<'_> {
        let limits = self.machine.limits.as_ref();
        let ports = match (limits, upstream.sockets.source_ports) {
            (Some(limits), Some(range)) => {
                let given = (range.low..=range.high).filter(|port| gives(limits, *port));
                u32::try_from(given.count()).expect("there are 65,536 ports at most")
            }
            (Some(limits), None) => limits.ports(),
            (None, _) => LINUX_PORTS,
        };
        Given {
            ports,
            port_range_option: true,
            in_use: 0,
            time_wait: &[],
            length: TIME_WAIT,
            rate,
            tw_reuse: limits.map_or(TwReuse::LoopbackOnly, |limits| limits.sysctls.tw_reuse),
            timestamps: limits.is_none_or(|limits| limits.timestamps),
            loopback: backend.ip().is_loopback(),
        }
    }
}

/// The ports that Linux gives where nobody has changed it: 32768-60999.
const LINUX_PORTS: u32 = 28_232;

/// Whether an outgoing connection may get `port`, if nobody listens on it.
pub(super) fn gives(limits: &Limits, port: u16) -> bool {
    limits.sysctls.port_range.contains(port) && !limits.reserved.contains(port)
}

/// From how many addresses an upstream connects to a backend.
pub(super) fn sources(upstream: &backend::Settings, backend: SocketAddr) -> u32 {
    let of_its_family = upstream
        .source_addresses
        .iter()
        .filter(|source| source.is_ipv4() == backend.is_ipv4());
    u32::try_from(of_its_family.count())
        .unwrap_or(u32::MAX)
        .max(1)
}
