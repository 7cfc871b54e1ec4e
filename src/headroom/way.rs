//! From the sockets of a lane to how far its ports reach.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Ending, Given, RECYCLED_AFTER, Recycling, TIME_WAIT};
use crate::census::Lane;
use crate::census::ports::{Limits, TwReuse};

/// How late the kernel ends a TIME_WAIT.
const TIMERS_ADD: Duration = Duration::from_secs(1);

/// The ports from one source address to one backend address, as they are now.
#[derive(Clone, Debug)]
pub struct Way {
    /// The ports that a `connect()` may get.
    pub ports: u32,
    /// Of these, those of connections in any state but TIME_WAIT.
    pub in_use: u32,
    /// Connections a second that leave a TIME_WAIT here.
    pub rate: f64,
    /// Of the ports, those in TIME_WAIT: when they come free, the soonest first.
    time_wait: Vec<Ending>,
    tw_reuse: TwReuse,
    timestamps: bool,
    loopback: bool,
}

impl Way {
    /// What `lane`, from `source` to `backend`, has taken of so many ports, under the kernel's
    /// `limits`. The rate is that of the `TIME_WAIT`s that began.
    pub fn new(
        source: IpAddr,
        backend: SocketAddr,
        lane: &Lane,
        ports: u32,
        limits: &Limits,
    ) -> Way {
        let loopback = source.is_loopback() || backend.ip().is_loopback();
        let recycling = Recycling::of(limits.sysctls.tw_reuse, limits.timestamps, loopback);
        // The timers are set for 60 s, and go off a second late.
        let ends = lane.ends().map(|(begin, within, count)| Ending {
            begin: begin + TIMERS_ADD,
            within,
            count,
        });
        Way {
            ports,
            in_use: lane.in_use,
            rate: lane.births.rate(recycling.takes_place()),
            time_wait: ends.collect(),
            tw_reuse: limits.sysctls.tw_reuse,
            timestamps: limits.timestamps,
            loopback,
        }
    }

    /// What the arithmetic is given: for programs that set `IP_LOCAL_PORT_RANGE` on their sockets,
    /// or those that do not.
    pub fn given(&self, port_range_option: bool) -> Given<'_> {
        Given {
            ports: self.ports,
            port_range_option,
            in_use: self.in_use,
            time_wait: &self.time_wait,
            length: TIME_WAIT,
            rate: self.rate,
            tw_reuse: self.tw_reuse,
            timestamps: self.timestamps,
            loopback: self.loopback,
        }
    }

    /// Of the ports, those that a `connect()` cannot have: of those in TIME_WAIT only the youngest where
    /// they are taken again.
    pub fn held(&self) -> u32 {
        let taken_again = if self.recycling().takes_place() {
            TIME_WAIT.saturating_sub(RECYCLED_AFTER)
        } else {
            Duration::ZERO
        };
        let waiting = self
            .time_wait
            .iter()
            .map(|ending| ending.after(taken_again));
        let waiting = waiting.fold(0, u32::saturating_add);
        self.in_use.saturating_add(waiting).min(self.ports)
    }

    /// What `tcp_tw_reuse` makes of it.
    pub fn recycling(&self) -> Recycling {
        Recycling::of(self.tw_reuse, self.timestamps, self.loopback)
    }
}
