//! The lines between hosts: veth pairs, and what delays, loses and holds back packets on them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::relay::{self, Relay};
use super::{LabError, Line, Room, Spec, tool};
use crate::net;

/// One end of a line: on which host, as which device, under which address. All lines are networks of 30 bits.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    room: &'a Room,
    device: &'a str,
    address: Ipv4Addr,
}

/// How delay and loss are made on this machine, for all lines of a lab alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// The kernel's own emulator does both.
    netem: bool,
    /// The packet filter's program that loses packets, where netem does not.
    filter: Option<&'static str>,
    delays: bool,
    loses: bool,
    limits: bool,
}

/// The packet filter's names: the distribution's choice first, then each of the two that it may be.
const FILTERS: [&str; 3] = ["iptables", "iptables-legacy", "iptables-nft"];

/// The longest that a packet waits where the rate is limited.
const QUEUE: Duration = Duration::from_millis(50);

impl<'a> End<'a> {
    pub(super) fn new(room: &'a Room, device: &'a str, address: Ipv4Addr) -> End<'a> {
        End {
            room,
            device,
            address,
        }
    }

    /// Gives the device its address and brings it up, the host's loopback device too.
    fn up(self, peer: Ipv4Addr, with: &str) -> Result<(), LabError> {
        let (device, address) = (self.device, self.address);
        self.ip(format!(
            "link set dev lo up\n\
             link set dev {device} addrgenmode none {with}\n\
             address add {address} peer {peer}/30 dev {device}\n\
             link set dev {device} up\n"
        ))
    }

    fn ip(self, lines: String) -> Result<(), LabError> {
        tool::run(self.room, "ip", &["-batch", "-"], lines)
    }

    fn tc(self, args: &str) -> Result<(), LabError> {
        let mut words = vec!["qdisc", "add", "dev", self.device];
        words.extend(args.split_whitespace());
        tool::run(self.room, "tc", &words, String::new())
    }
}

/// A veth pair that does nothing to packets.
pub(super) fn plain(one: End<'_>, other: End<'_>) -> Result<(), LabError> {
    pair(one, other, "")
}

fn pair(one: End<'_>, other: End<'_>, with: &str) -> Result<(), LabError> {
    // Made where it belongs, both ends at once: the machine's own network never sees it.
    one.ip(format!(
        "link add {} type veth peer name {} netns {}\n",
        one.device,
        other.device,
        other.room.namespace().display()
    ))?;
    one.up(other.address, with)?;
    other.up(one.address, with)
}

impl Way {
    /// Finds out what there is, if anything that is asked for needs it. Tries on the host `room`.
    pub(super) fn of(spec: &Spec, room: &Room) -> Result<Way, LabError> {
        let mut way = Way {
            delays: spec.lines().any(|line| !line.delay.is_zero()),
            loses: spec.lines().any(|line| line.loss > 0.0),
            limits: spec.lines().any(|line| line.rate.is_some()),
            ..Way::default()
        };
        if way.limits {
            tool::find("tc")?;
        }
        if way.delays || way.loses {
            let tried = End::new(room, "lo", Ipv4Addr::LOCALHOST).tc("root netem delay 1ms");
            way.netem = tried.is_ok();
            if way.netem {
                let args = ["qdisc", "del", "dev", "lo", "root"];
                tool::run(room, "tc", &args, String::new())?;
            } else if way.loses {
                way.filter = Some(filter(room)?);
            }
        }
        Ok(way)
    }

    /// How delay, loss and rate are made, in words.
    pub(super) fn means(self) -> Vec<String> {
        let mut means = Vec::new();
        if self.netem {
            means.push("delay and loss: the kernel's netem".to_owned());
        } else if self.delays {
            means.push(
                "delay: a relay between TUN devices, a thread of this process; it takes CPU time of its own"
                    .to_owned(),
            );
        }
        if let Some(filter) = self.filter {
            means.push(format!(
                "loss: the packet filter's match `statistic`, by {filter}"
            ));
        }
        if self.limits {
            means.push("rate: the kernel's token bucket (tbf)".to_owned());
        }
        means
    }

    /// Lays a line. The relay, if one is needed, has to be kept for as long as the line.
    pub(super) fn lay(
        self,
        one: End<'_>,
        other: End<'_>,
        line: &Line,
    ) -> Result<Option<Relay>, LabError> {
        if line.is_plain() {
            return plain(one, other).map(|()| None);
        }
        let mut relay = None;
        if line.delay.is_zero() || self.netem {
            // Packets as a wire has them: the kernel would otherwise pass on up to 64 KiB as one, and
            // that is lost, or let through, as one.
            pair(one, other, "gso_max_segs 1")?;
        } else {
            relay = Some(joined(one, other, line.delay)?);
        }
        for end in [one, other] {
            let mut place = "root";
            if self.netem && (!line.delay.is_zero() || line.loss > 0.0) {
                end.tc(&format!("root handle 1: {}", netem(line)))?;
                place = "parent 1:1";
            }
            if let Some(rate) = line.rate {
                end.tc(&format!("{place} handle 2: {}", bucket(rate)))?;
            }
            if let Some(filter) = self.filter
                && line.loss > 0.0
            {
                lose(filter, "-A", end, line.loss)?;
            }
        }
        Ok(relay)
    }
}

/// Two TUN devices with a relay between them. These pass whole packets, with checksums and none larger than
/// the MTU.
fn joined(one: End<'_>, other: End<'_>, delay: Duration) -> Result<Relay, LabError> {
    let tunnel = |end: End<'_>| {
        let device = end.device.to_owned();
        let made = end.room.run(move || net::tunnel(&device));
        made.map_err(|source| LabError::NoDelay { source })
    };
    let tunnels = (tunnel(one)?, tunnel(other)?);
    let with = format!("txqueuelen {}", relay::MOST_WAITING);
    one.up(other.address, &with)?;
    other.up(one.address, &with)?;
    Relay::start(tunnels.0, tunnels.1, delay).map_err(|source| LabError::Thread {
        name: "relay".to_owned(),
        source,
    })
}

fn netem(line: &Line) -> String {
    let mut args = format!("netem limit {}", relay::MOST_WAITING);
    if !line.delay.is_zero() {
        let _ = write!(args, " delay {}us", line.delay.as_micros());
    }
    if line.loss > 0.0 {
        let _ = write!(args, " loss {:.4}%", line.loss * 100.0);
    }
    args
}

/// A bucket that holds 10 ms of the rate, and at least two packets.
fn bucket(rate: u64) -> String {
    let burst = (rate / 8 / 100).max(2 * 1_600);
    format!(
        "tbf rate {rate}bit burst {burst} latency {}ms",
        QUEUE.as_millis()
    )
}

/// The first of the packet filter's programs that can lose packets here.
fn filter(room: &Room) -> Result<&'static str, LabError> {
    let lo = End::new(room, "lo", Ipv4Addr::LOCALHOST);
    let mut failed = None;
    for filter in FILTERS {
        match lose(filter, "-A", lo, 0.5) {
            Ok(()) => return lose(filter, "-D", lo, 0.5).map(|()| filter),
            // What is missing is of less interest than what did not work.
            Err(error @ LabError::Missing { .. }) => failed = failed.or(Some(error)),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.expect("at least one was tried"))
}

/// Adds (`-A`) or takes away (`-D`) the rule that loses this share of what comes in.
fn lose(filter: &'static str, what: &str, end: End<'_>, share: f64) -> Result<(), LabError> {
    let share = format!("{share:.6}");
    let (device, random) = (end.device, ["--mode", "random", "--probability", &share]);
    let mut args = vec!["-w", what, "INPUT", "-i", device, "-m", "statistic"];
    args.extend(random);
    args.extend(["-j", "DROP"]);
    tool::run(end.room, filter, &args, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netem_and_the_bucket_are_asked_in_their_units() {
        let line = Line {
            delay: Duration::from_micros(2_500),
            loss: 0.015,
            rate: Some(10_000_000),
        };
        assert_eq!(netem(&line), "netem limit 10000 delay 2500us loss 1.5000%");
        assert_eq!(
            netem(&Line {
                delay: Duration::ZERO,
                ..line
            }),
            "netem limit 10000 loss 1.5000%"
        );
        assert_eq!(
            bucket(10_000_000),
            "tbf rate 10000000bit burst 12500 latency 50ms"
        );
        assert_eq!(bucket(64_000), "tbf rate 64000bit burst 3200 latency 50ms");
    }
}
