//! Lanes: the local ports that are taken from one source address towards one backend address, counted
//! while the sockets go by, in memory that does not grow with their number.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::address_index::AddressIndex;
use super::diag::SocketEntry;
use super::{PortSet, TcpState, Visit, folded};

/// How long the kernel's timer of a TIME_WAIT is set: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// The most lanes of a [`Lanes`]: a program here may connect from any address of 127.0.0.0/8.
const MOST: usize = 1024;

/// How many `TIME_WAIT`s began within a time; those that ended within it, as their port was taken
/// again, are not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Births {
    /// Within the last second. None of these can have been recycled.
    pub last_second: u64,
    /// Within the last ten.
    pub last_ten: u64,
    /// How long ago the first of all that are there began, those of before ten seconds included.
    pub oldest: Duration,
}

/// The local ports taken from one source address towards one address, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// By a connection in any state but TIME_WAIT.
    pub in_use: u32,
    /// By one in TIME_WAIT.
    pub time_wait: u32,
    /// Ports beyond those that were asked about, which a program bound by itself.
    pub elsewhere: u32,
    /// `TIME_WAIT`s that began.
    pub births: Births,
    ends: Ends,
    seen: PortSet,
}

/// How many come free within each quarter of a second from now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends(Box<[u32; Ends::COUNT]>);

/// The lanes to some backends.
#[derive(Clone, Debug)]
pub struct Lanes {
    /// Sorted by address, each once.
    backends: Vec<Towards>,
    /// Where in `backends` each is.
    index: AddressIndex,
    count: usize,
    /// Sockets of source addresses beyond the most that are told apart.
    left_out: u64,
}

/// The lanes to one backend.
#[derive(Clone, Debug)]
struct Towards {
    address: SocketAddr,
    given: Arc<PortSet>,
    /// Sorted by source address.
    lanes: Vec<(IpAddr, Lane)>,
}

impl Lane {
    /// Counts a socket of this lane; `given` are the ports that `connect()` may get.
    pub(super) fn note(&mut self, socket: &SocketEntry, given: &PortSet) {
        self.births.note(socket);
        let port = socket.local.port();
        if !self.seen.insert(port) {
            return;
        }
        if !given.contains(port) {
            self.elsewhere += 1;
        } else if socket.is(TcpState::TimeWait) {
            self.time_wait += 1;
            self.ends.note(socket.expires);
        } else {
            self.in_use += 1;
        }
    }

    /// How many `TIME_WAIT`s end by their timers within each quarter of a second, the soonest first: when it
    /// begins, how long it is, and the count, which is not 0.
    pub fn ends(&self) -> impl Iterator<Item = (Duration, Duration, u32)> + '_ {
        let ends = (0..).zip(self.ends.0.iter());
        let ends = ends.filter(|(_, count)| **count > 0);
        ends.map(|(at, &count)| (Ends::GRAIN * at, Ends::GRAIN, count))
    }
}

impl Ends {
    const GRAIN: Duration = Duration::from_millis(250);
    const COUNT: usize = 256;

    fn note(&mut self, expires: Duration) {
        // As expires / GRAIN, which would be a division of 128 bits.
        let quarter = expires.subsec_millis() / Ends::GRAIN.subsec_millis();
        let at = expires.as_secs().saturating_mul(4) + u64::from(quarter);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.0[at.min(Ends::COUNT - 1)] += 1;
    }
}

impl Default for Ends {
    fn default() -> Ends {
        Ends(Box::new([0; Ends::COUNT]))
    }
}

impl Births {
    /// Per second: over the last ten seconds, which is steadier, or over the last one where ports
    /// are recycled after it. Where the first began within the ten seconds, it is since then.
    pub fn rate(&self, recycled: bool) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "there are fewer than 2^52 sockets"
        )]
        let [second, ten] = [self.last_second, self.last_ten].map(|count| count as f64);
        if recycled {
            second
        } else {
            ten / self.oldest.as_secs_f64().clamp(1.0, 10.0)
        }
    }

    pub(super) fn note(&mut self, socket: &SocketEntry) {
        if !socket.is(TcpState::TimeWait) {
            return;
        }
        let age = TIME_WAIT.saturating_sub(socket.expires);
        self.oldest = self.oldest.max(age);
        self.last_second += u64::from(age < Duration::from_secs(1));
        self.last_ten += u64::from(age < Duration::from_secs(10));
    }
}

impl Lanes {
    /// Nothing yet of these backends, each with the ports that `connect()` may get towards it.
    pub fn new(backends: impl IntoIterator<Item = (SocketAddr, Arc<PortSet>)>) -> Lanes {
        let towards = |(address, given)| Towards {
            address: folded(address),
            given,
            lanes: Vec::new(),
        };
        let mut backends: Vec<_> = backends.into_iter().map(towards).collect();
        backends.sort_by_key(|towards| towards.address);
        backends.dedup_by_key(|towards| towards.address);
        Lanes {
            index: AddressIndex::new(backends.iter().map(|towards| towards.address)),
            backends,
            count: 0,
            left_out: 0,
        }
    }

    /// Shows this lane even if nothing is taken of it.
    pub fn expect(&mut self, source: IpAddr, backend: SocketAddr) {
        if let Some(index) = self.index.get(&folded(backend)) {
            self.lane_of(source, index);
        }
    }

    /// Each lane, in the order of the backends' addresses: source, backend, the ports there are, and
    /// what is taken of them.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, SocketAddr, &PortSet, &Lane)> + '_ {
        self.backends.iter().flat_map(|towards| {
            let lanes = towards.lanes.iter();
            lanes.map(|(source, lane)| (*source, towards.address, &*towards.given, lane))
        })
    }

    /// Sockets of source addresses beyond the most that are told apart.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Counts a socket, and says whether it was one towards one of the backends.
    pub fn add(&mut self, socket: &SocketEntry) -> bool {
        let Some(index) = self.index.get(&socket.remote) else {
            return false;
        };
        if let Some((lane, given)) = self.lane_of(socket.local.ip(), index) {
            lane.note(socket, given);
        }
        true
    }

    fn lane_of(&mut self, source: IpAddr, index: usize) -> Option<(&mut Lane, &PortSet)> {
        let towards = &mut self.backends[index];
        let place = towards.lanes.binary_search_by_key(&source, |lane| lane.0);
        let place = match place {
            Ok(place) => place,
            Err(_) if self.count == MOST => {
                self.left_out += 1;
                return None;
            }
            Err(place) => {
                self.count += 1;
                towards.lanes.insert(place, (source, Lane::default()));
                place
            }
        };
        Some((&mut towards.lanes[place].1, &towards.given))
    }
}

impl Visit for Lanes {
    fn forget(&mut self) {
        for towards in &mut self.backends {
            for (_, lane) in &mut towards.lanes {
                *lane = Lane::default();
            }
        }
        self.left_out = 0;
    }

    fn concerns(&self, socket: &SocketEntry) -> bool {
        self.index.get(&socket.remote).is_some()
    }

    fn note(&mut self, socket: &SocketEntry) {
        self.add(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(state: TcpState, local: &str, remote: &str, expires: u64) -> SocketEntry {
        SocketEntry {
            state: state.number(),
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            expires: Duration::from_millis(expires),
            cookie: None,
            uid: 0,
            inode: 0,
        }
    }

    #[test]
    fn each_source_and_backend_has_its_lane_and_a_walk_can_begin_anew() {
        use TcpState::{Established, TimeWait};
        let given = Arc::new((40_000..40_010).collect());
        let [a, b] = ["10.0.0.9:80", "[::ffff:10.0.0.8]:80"].map(|text| text.parse().unwrap());
        let mut lanes = Lanes::new([(a, Arc::clone(&given)), (b, given)]);
        let idle = "10.0.0.3".parse().unwrap();
        lanes.expect(idle, b);
        for _ in 0..2 {
            lanes.forget();
            for socket in [
                socket(Established, "10.0.0.1:40000", "10.0.0.9:80", 0),
                socket(TimeWait, "10.0.0.1:40001", "10.0.0.9:80", 30_000),
                socket(TimeWait, "10.0.0.2:40001", "10.0.0.8:80", 59_999),
                socket(TimeWait, "10.0.0.2:50001", "10.0.0.8:80", 1),
                socket(TimeWait, "10.0.0.2:40001", "10.0.0.7:80", 1),
            ] {
                let watched = [a, "10.0.0.8:80".parse().unwrap()];
                assert_eq!(lanes.concerns(&socket), watched.contains(&socket.remote));
                lanes.note(&socket);
            }
            let found: Vec<_> = lanes
                .iter()
                .map(|(source, backend, given, lane)| {
                    assert_eq!(given.count(), 10);
                    let figures = [lane.in_use, lane.time_wait, lane.elsewhere];
                    (format!("{source} {backend}"), figures)
                })
                .collect();
            let [of_b, idle, of_a] = [
                "10.0.0.2 10.0.0.8:80",
                "10.0.0.3 10.0.0.8:80",
                "10.0.0.1 10.0.0.9:80",
            ]
            .map(str::to_owned);
            assert_eq!(
                found,
                [(of_b, [0, 1, 1]), (idle, [0, 0, 0]), (of_a, [1, 1, 0])]
            );
        }
    }

    #[test]
    fn the_ends_are_known_to_a_quarter_of_a_second() {
        let given = (1..=1000).collect();
        let mut lane = Lane::default();
        let expires = [0, 10, 249, 250, 59_999, 60_000, 90_000];
        for (port, expires) in (1..).zip(expires) {
            let local = format!("10.0.0.1:{port}");
            let socket = socket(TcpState::TimeWait, &local, "10.0.0.9:80", expires);
            lane.note(&socket, &given);
        }
        let ms = Duration::from_millis;
        let ends: Vec<_> = lane.ends().collect();
        let expected = [
            (0, 3),
            (250, 1),
            (59_750, 1),
            (60_000, 1),
            // What should not be is the last that there can be.
            (63_750, 1),
        ];
        assert_eq!(
            ends,
            expected.map(|(begin, count)| (ms(begin), ms(250), count))
        );
    }

    #[test]
    fn there_are_no_more_lanes_than_are_told_apart() {
        let backend = "10.0.0.9:80";
        let mut lanes = Lanes::new([(backend.parse().unwrap(), Arc::default())]);
        for high in 0..6 {
            for low in 0..=255 {
                let local = format!("127.0.{high}.{low}:40000");
                lanes.note(&socket(TcpState::TimeWait, &local, backend, 0));
            }
        }
        assert_eq!(lanes.iter().count(), MOST);
        assert_eq!(lanes.left_out(), 6 * 256 - 1024);
    }
}
