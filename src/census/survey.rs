//! A survey: every socket of a network namespace in a list, for questions that a count by address
//! does not answer: which side opened a connection, which local ports are taken, how many `TIME_WAIT`s
//! begin in a second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::diag::SocketEntry;
use super::{Births, Lane, PortSet, Sides, Source, StateCounts, TcpState, folded};

/// Every TCP socket of one network namespace at one instant, IPv4 written as IPv6 folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    source: Source,
    sockets: Vec<SocketEntry>,
    /// What is listened on; an unspecified address is all of them.
    listened: HashSet<SocketAddr>,
    /// The ports of these.
    listened_ports: PortSet,
}

/// All sockets, by the way their connection was opened.
///
/// The kernel does not keep it. A connection counts as incoming if its local end is listened on,
/// else as outgoing: after a listener has gone, what it accepted counts as outgoing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Opened from here: each holds an ephemeral port, in TIME_WAIT too.
    pub outgoing: StateCounts,
    /// Accepted here, and the listening sockets.
    pub incoming: StateCounts,
}

impl Survey {
    /// A survey of these sockets.
    pub fn new(source: Source, sockets: Vec<SocketEntry>) -> Survey {
        let listening = sockets
            .iter()
            .filter(|socket| socket.is(TcpState::Listen))
            .map(|socket| socket.local);
        let listened: HashSet<_> = listening.collect();
        Survey {
            source,
            listened_ports: listened.iter().map(SocketAddr::port).collect(),
            listened,
            sockets,
        }
    }

    /// Where the figures come from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// All sockets.
    pub fn ways(&self) -> Ways {
        let mut ways = Ways::default();
        for socket in &self.sockets {
            if self.is_listened(socket.local) {
                ways.incoming.note(socket.state);
            } else {
                ways.outgoing.note(socket.state);
            }
        }
        ways
    }

    /// `TIME_WAIT`s that began here, whoever holds them.
    pub fn births(&self) -> Births {
        let mut births = Births::default();
        for socket in &self.sockets {
            births.note(socket);
        }
        births
    }

    /// The addresses that most `TIME_WAIT`s of outgoing connections are towards, those with the most
    /// first: at most so `many`.
    pub fn most_time_waits(&self, many: usize) -> Vec<(SocketAddr, u64)> {
        let mut towards: BTreeMap<SocketAddr, u64> = BTreeMap::new();
        for socket in &self.sockets {
            if socket.is(TcpState::TimeWait) && !self.is_listened(socket.local) {
                *towards.entry(socket.remote).or_default() += 1;
            }
        }
        let mut towards: Vec<_> = towards.into_iter().collect();
        towards.sort_by_key(|(_, count)| Reverse(*count));
        towards.truncate(many);
        towards
    }

    /// The sockets of one address, as a [`Census`](super::Census) has them.
    pub fn sides(&self, address: SocketAddr) -> Sides {
        let address = folded(address);
        let mut sides = Sides::default();
        for socket in &self.sockets {
            if socket.remote == address {
                sides.ours.note(socket.state);
            }
            if socket.local == address {
                sides.theirs.note(socket.state);
            }
        }
        sides
    }

    /// `TIME_WAIT`s that began at the address's own side.
    pub fn births_at(&self, address: SocketAddr) -> Births {
        let address = folded(address);
        let mut births = Births::default();
        for socket in self.sockets.iter().filter(|socket| socket.local == address) {
            births.note(socket);
        }
        births
    }

    /// For each source address that has connections to `address`: which of the ports that are
    /// `given` are taken.
    pub fn lanes(&self, address: SocketAddr, given: &PortSet) -> BTreeMap<IpAddr, Lane> {
        let address = folded(address);
        let mut lanes: BTreeMap<IpAddr, Lane> = BTreeMap::new();
        for socket in self
            .sockets
            .iter()
            .filter(|socket| socket.remote == address)
        {
            let lane = lanes.entry(socket.local.ip()).or_default();
            lane.note(socket, given);
        }
        lanes
    }

    /// The ports that are listened on, on whatever address: `connect()` passes them over.
    pub fn listened_ports(&self) -> &PortSet {
        &self.listened_ports
    }

    fn is_listened(&self, local: SocketAddr) -> bool {
        // A listener on [::] may take IPv4 too; on 0.0.0.0 it takes nothing else.
        let any = |ip: [u8; 4]| SocketAddr::new(ip.into(), local.port());
        let any_v6 = SocketAddr::new([0_u16; 8].into(), local.port());
        self.listened.contains(&local)
            || self.listened.contains(&any_v6)
            || local.is_ipv4() && self.listened.contains(&any([0; 4]))
    }
}

impl Ways {
    /// Both together.
    pub fn all(&self) -> StateCounts {
        self.outgoing + self.incoming
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn socket(state: TcpState, local: &str, remote: &str) -> SocketEntry {
        SocketEntry {
            state: state.number(),
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            expires: Duration::ZERO,
            cookie: None,
            uid: 0,
            inode: 0,
        }
    }

    fn survey(sockets: Vec<SocketEntry>) -> Survey {
        Survey::new(Source::SockDiag, sockets)
    }

    #[test]
    fn a_connection_is_incoming_if_its_local_end_is_listened_on() {
        use TcpState::{Established, Listen, TimeWait};
        let ways = survey(vec![
            socket(Listen, "0.0.0.0:80", "0.0.0.0:0"),
            socket(Listen, "10.0.0.1:81", "0.0.0.0:0"),
            socket(Listen, "[::]:82", "[::]:0"),
            socket(Established, "10.0.0.1:80", "10.0.0.9:5"),
            socket(TimeWait, "10.0.0.1:81", "10.0.0.9:5"),
            socket(TimeWait, "10.0.0.1:82", "10.0.0.9:5"),
            socket(TimeWait, "[2001:db8::1]:82", "[2001:db8::9]:5"),
            socket(TimeWait, "10.0.0.2:81", "10.0.0.9:5"), // another address
            socket(TimeWait, "[2001:db8::1]:80", "[2001:db8::9]:5"), // another family
            socket(Established, "10.0.0.1:40000", "10.0.0.9:80"),
        ])
        .ways();
        assert_eq!(
            ways.incoming.to_string(),
            "ESTABLISHED 1, TIME_WAIT 3, LISTEN 3"
        );
        assert_eq!(ways.outgoing.to_string(), "ESTABLISHED 1, TIME_WAIT 2");
        assert_eq!(ways.all().total(), 10);
    }

    #[test]
    fn the_addresses_with_the_most_come_first_and_clients_are_not_among_them() {
        use TcpState::{Established, Listen, TimeWait};
        let survey = survey(vec![
            socket(Listen, "0.0.0.0:80", "0.0.0.0:0"),
            socket(TimeWait, "10.0.0.1:80", "10.0.0.9:5"), // a client
            socket(TimeWait, "10.0.0.1:1", "10.0.0.2:80"),
            socket(TimeWait, "10.0.0.1:1", "10.0.0.3:80"),
            socket(TimeWait, "10.0.0.1:2", "10.0.0.3:80"),
            socket(TimeWait, "10.0.0.1:1", "10.0.0.4:80"),
            socket(Established, "10.0.0.1:3", "10.0.0.4:80"),
        ]);
        let most: Vec<_> = survey
            .most_time_waits(2)
            .into_iter()
            .map(|(address, count)| (address.to_string(), count))
            .collect();
        assert_eq!(
            most,
            [("10.0.0.3:80".to_owned(), 2), ("10.0.0.2:80".to_owned(), 1)]
        );
    }

    #[test]
    fn ports_are_counted_once_and_only_those_that_can_be_given() {
        use TcpState::{Established, FinWait2, Listen, SynSent, TimeWait};
        let survey = survey(vec![
            socket(Established, "10.0.0.1:40000", "10.0.0.9:80"),
            socket(SynSent, "10.0.0.1:40001", "10.0.0.9:80"),
            socket(FinWait2, "10.0.0.1:40002", "10.0.0.9:80"),
            socket(TimeWait, "10.0.0.1:40003", "10.0.0.9:80"),
            socket(TimeWait, "10.0.0.1:40003", "10.0.0.9:80"), // the same
            socket(TimeWait, "10.0.0.1:40004", "10.0.0.9:81"), // to another
            socket(TimeWait, "10.0.0.2:40003", "10.0.0.9:80"), // from another
            socket(TimeWait, "10.0.0.2:50000", "10.0.0.9:80"), // not of the range
            socket(Listen, "127.0.0.1:40009", "0.0.0.0:0"),
            socket(TimeWait, "10.0.0.2:40009", "10.0.0.9:80"), // listened on
        ]);
        let address = "[::ffff:10.0.0.9]:80".parse().unwrap();
        let given = (40_000..40_009).collect();
        let lanes = survey.lanes(address, &given);
        let found: Vec<_> = lanes
            .iter()
            .map(|(ip, lane)| (ip.to_string(), lane.in_use, lane.time_wait, lane.elsewhere))
            .collect();
        assert_eq!(
            found,
            [
                ("10.0.0.1".to_owned(), 3, 1, 0),
                ("10.0.0.2".to_owned(), 0, 1, 2)
            ]
        );
        assert_eq!(survey.listened_ports(), &PortSet::from_iter([40_009]));
    }

    #[test]
    fn what_is_left_of_the_timer_says_when_a_time_wait_began() {
        let aged = |state, expires| SocketEntry {
            expires: Duration::from_millis(expires),
            ..socket(state, "10.0.0.1:80", "10.0.0.9:5")
        };
        let sockets = [60_000, 59_001, 59_000, 50_001, 50_000, 0, 70_000];
        let mut sockets: Vec<_> = sockets
            .into_iter()
            .map(|expires| aged(TcpState::TimeWait, expires))
            .collect();
        sockets.push(aged(TcpState::FinWait2, 60_000));
        let survey = survey(sockets);
        let births = survey.births();
        assert_eq!((births.last_second, births.last_ten), (3, 5));
        assert_eq!(survey.births_at("10.0.0.1:80".parse().unwrap()), births);
        assert_eq!(
            survey.births_at("10.0.0.1:81".parse().unwrap()),
            Births::default()
        );
        assert!((births.rate(false) - 0.5).abs() < 1e-9);
        assert!((births.rate(true) - 3.0).abs() < 1e-9);
        // All of them within 5 s, and all of them just now.
        for (oldest, rate) in [(5, 1.0), (0, 5.0), (60, 0.5)] {
            let oldest = Duration::from_secs(oldest);
            let births = Births { oldest, ..births };
            assert!((births.rate(false) - rate).abs() < 1e-9, "{oldest:?}");
        }
    }
}
