//! The census: the kernel's own TCP sockets, counted at one instant by address, side and state.
//!
//! The proxy's ledger says what we did; the census says what came of it. It is the only place
//! where TIME_WAIT can be seen at all: such a socket belongs to no process any more.
//!
//! What it promises: one dump a family, however many addresses are watched, and no privileges.
//! What it does not know: which program opened a connection (in TIME_WAIT nobody does), and the
//! backend's side where the backend is on another machine or in another network namespace; its
//! counts are then zero. The two families are read one after the other, and sockets go on changing
//! meanwhile: the counts are exact for what rests, and near for what moves.
//!
//! Everything here blocks for some milliseconds: not for a worker's thread.

pub mod diag;
mod netlink;
pub mod ports;
pub mod procnet;
mod state;
mod survey;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::{Add, AddAssign};

use diag::{DumpRequest, Family, SocketEntry};
use netlink::{Outcome, SockDiag};
pub use state::{StateCounts, TcpState};
pub use survey::{Births, Lane, Survey, Ways};

/// How often a dump that the kernel calls interrupted is tried again.
///
/// None was seen to be, at 2,400 closes a second (Linux 6.18).
const TRIES: u32 = 4;

/// The sockets of some watched addresses at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    source: Source,
    /// Sorted by address, each once.
    watched: Vec<(SocketAddr, Sides)>,
}

/// The sockets of one address, or of several, by side.
///
/// A connection within this machine has two sockets, one on each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sides {
    /// The sockets whose remote end is the address: the side that connected to it. Towards a
    /// backend this is the proxy, and every other program here that talks to it.
    pub ours: StateCounts,
    /// The sockets whose local end is exactly the address: its own side, where it is in this
    /// network namespace. A listener on `0.0.0.0` has another local end and is not among them;
    /// its connections are.
    pub theirs: StateCounts,
}

/// Where the figures of a census come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel's socket dump over netlink.
    SockDiag,
    /// The text tables `/proc/net/tcp` and `tcp6`, where netlink is not permitted: some eight
    /// times the cost, and near rather than exact while connections open and close. The kernel
    /// finds its place between two reads by counting, so what comes or goes meanwhile shifts it:
    /// at 1,800 closes a second 29 of 30 reads had lines twice, up to 57 % of them, where none of
    /// 200 sock_diag dumps had (Linux 6.18). They are counted once here; what is skipped stays
    /// unseen.
    ProcNetTcp,
}

impl Census {
    /// Counts the sockets of the `watched` addresses, now.
    ///
    /// Blocks for 1 ms to some 30 ms, growing with the number of TCP sockets on the machine, those
    /// of other network namespaces included.
    ///
    /// # Errors
    /// Where neither source can be read, or the kernel answers with something unexpected.
    pub fn take(watched: &[SocketAddr]) -> io::Result<Census> {
        match Census::take_from(Source::SockDiag, watched) {
            Err(error) if netlink::is_unavailable(&error) => {
                Census::take_from(Source::ProcNetTcp, watched)
            }
            census => census,
        }
    }

    /// The same from one source only, for whoever wants to compare them.
    ///
    /// # Errors
    /// When this source cannot be read, or says something unexpected.
    pub fn take_from(source: Source, watched: &[SocketAddr]) -> io::Result<Census> {
        let empty = Census::empty(source, watched);
        match source {
            Source::SockDiag => dump(&empty, Census::note),
            Source::ProcNetTcp => {
                let mut census = empty;
                let mut seen = HashSet::new();
                procnet::read(|entry| {
                    if census.watches(entry) && seen.insert(identity(entry)) {
                        census.note(entry);
                    }
                })?;
                Ok(census)
            }
        }
    }

    /// Where the figures come from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The sockets of `address`; `None` if it was not watched.
    pub fn of(&self, address: SocketAddr) -> Option<Sides> {
        let index = self.index(folded(address))?;
        Some(self.watched[index].1)
    }

    /// The sockets of all `addresses` together; those not watched add nothing.
    pub fn of_all(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Sides {
        let watched = addresses.into_iter().filter_map(|address| self.of(address));
        watched.fold(Sides::default(), Add::add)
    }

    /// Every watched address with its sockets, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, Sides)> + '_ {
        self.watched.iter().copied()
    }

    fn empty(source: Source, watched: &[SocketAddr]) -> Census {
        let mut addresses: Vec<_> = watched.iter().copied().map(folded).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let nothing = |address| (address, Sides::default());
        Census {
            source,
            watched: addresses.into_iter().map(nothing).collect(),
        }
    }

    /// Counts one socket wherever it belongs.
    fn note(&mut self, entry: &SocketEntry) {
        if let Some(index) = self.index(entry.remote) {
            self.watched[index].1.ours.note(entry.state);
        }
        if let Some(index) = self.index(entry.local) {
            self.watched[index].1.theirs.note(entry.state);
        }
    }

    fn watches(&self, entry: &SocketEntry) -> bool {
        self.index(entry.remote).is_some() || self.index(entry.local).is_some()
    }

    fn index(&self, address: SocketAddr) -> Option<usize> {
        self.watched
            .binary_search_by_key(&address, |(watched, _)| *watched)
            .ok()
    }
}

impl Survey {
    /// Lists every TCP socket of the calling thread's network namespace, now.
    ///
    /// Costs what [`Census::take`] costs, and some 100 bytes for each socket.
    ///
    /// # Errors
    /// As [`Census::take`].
    pub fn take() -> io::Result<Survey> {
        match Survey::take_from(Source::SockDiag) {
            Err(error) if netlink::is_unavailable(&error) => Survey::take_from(Source::ProcNetTcp),
            survey => survey,
        }
    }

    /// The same from one source only, for whoever wants to compare them.
    ///
    /// # Errors
    /// When this source cannot be read, or says something unexpected.
    pub fn take_from(source: Source) -> io::Result<Survey> {
        let sockets = match source {
            Source::SockDiag => dump(&Vec::new(), |sockets, entry| sockets.push(*entry))?,
            Source::ProcNetTcp => {
                let (mut sockets, mut seen) = (Vec::new(), HashSet::new());
                procnet::read(|entry| {
                    if seen.insert(identity(entry)) {
                        sockets.push(*entry);
                    }
                })?;
                sockets
            }
        };
        Ok(Survey::new(source, sockets))
    }
}

/// Gathers what `note` makes of every socket of both families, in one dump each; again from
/// `empty` if the kernel calls a dump interrupted.
///
/// A filter in the request would save copying, not walking: for three addresses and more, one dump
/// of everything is cheaper than one for each of them.
fn dump<T: Clone>(empty: &T, mut note: impl FnMut(&mut T, &SocketEntry)) -> io::Result<T> {
    let mut kernel = SockDiag::open()?;
    'again: for _ in 0..TRIES {
        let mut gathered = empty.clone();
        for family in Family::ALL {
            let request = DumpRequest::all(family);
            let outcome = kernel.dump(request, |entry| note(&mut gathered, entry))?;
            if outcome == Outcome::Interrupted {
                continue 'again;
            }
        }
        return Ok(gathered);
    }
    let what = "the socket tables changed during every dump";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
}

/// The address as a [`SocketEntry`] has it: IPv4 in IPv6 folded, without flow label and scope,
/// which the kernel's tables do not have.
fn folded(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What tells one line of the text tables from another: the two ends, of which there is one
/// connection at a time, and for listeners, several of which may share an address, the inode.
fn identity(entry: &SocketEntry) -> (SocketAddr, SocketAddr, u64) {
    let listens = TcpState::from_number(entry.state) == Some(TcpState::Listen);
    (
        entry.local,
        entry.remote,
        if listens { entry.inode } else { 0 },
    )
}

impl AddAssign for Sides {
    fn add_assign(&mut self, other: Sides) {
        self.ours += other.ours;
        self.theirs += other.theirs;
    }
}

impl Add for Sides {
    type Output = Sides;

    fn add(mut self, other: Sides) -> Sides {
        self += other;
        self
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Source::SockDiag => "netlink sock_diag",
            Source::ProcNetTcp => "/proc/net/tcp",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn socket(state: TcpState, local: &str, remote: &str) -> SocketEntry {
        SocketEntry {
            state: state.number(),
            local: address(local),
            remote: address(remote),
            expires: Duration::ZERO,
            cookie: None,
            uid: 0,
            inode: 0,
        }
    }

    #[test]
    fn a_socket_is_ours_by_its_remote_end_and_theirs_by_its_local_end() {
        let (a, b) = (address("10.0.0.1:80"), address("10.0.0.2:80"));
        let mut census = Census::empty(Source::SockDiag, &[b, a, b]);
        for (state, local, remote) in [
            (TcpState::TimeWait, "10.0.0.9:40000", "10.0.0.1:80"),
            (TcpState::TimeWait, "10.0.0.9:40001", "10.0.0.1:80"),
            (TcpState::FinWait2, "10.0.0.9:40000", "10.0.0.2:80"),
            (TcpState::CloseWait, "10.0.0.2:80", "10.0.0.9:40000"),
            (TcpState::Listen, "10.0.0.2:80", "0.0.0.0:0"),
            (TcpState::Listen, "0.0.0.0:80", "0.0.0.0:0"), // not this address
            (TcpState::Established, "10.0.0.9:5", "10.0.0.1:81"), // another port
            (TcpState::Established, "10.0.0.9:80", "10.0.0.3:80"), // another host
        ] {
            census.note(&socket(state, local, remote));
        }

        let of_a = census.of(a).unwrap();
        assert_eq!(of_a.ours.to_string(), "TIME_WAIT 2");
        assert_eq!(of_a.theirs.to_string(), "none");
        let of_b = census.of(b).unwrap();
        assert_eq!(of_b.ours.to_string(), "FIN_WAIT2 1");
        assert_eq!(of_b.theirs.to_string(), "CLOSE_WAIT 1, LISTEN 1");

        assert_eq!(census.of_all([a, b]), of_a + of_b);
        assert_eq!(census.of(address("10.0.0.3:80")), None);
        let listed: Vec<_> = census.iter().map(|(address, _)| address).collect();
        assert_eq!(listed, [a, b]);
    }

    #[test]
    fn a_connection_between_two_watched_addresses_counts_for_both() {
        let (a, b) = (address("10.0.0.1:80"), address("10.0.0.2:80"));
        let mut census = Census::empty(Source::SockDiag, &[a, b]);
        census.note(&socket(TcpState::Established, "10.0.0.1:80", "10.0.0.2:80"));
        assert_eq!(census.of(a).unwrap().theirs.total(), 1);
        assert_eq!(census.of(b).unwrap().ours.total(), 1);
    }

    #[test]
    fn a_line_that_comes_twice_is_the_same_socket_unless_it_listens_on_its_own() {
        let open = socket(TcpState::Established, "10.0.0.9:5", "10.0.0.1:80");
        let closed = socket(TcpState::TimeWait, "10.0.0.9:5", "10.0.0.1:80");
        assert_eq!(identity(&open), identity(&closed));

        let listener = socket(TcpState::Listen, "10.0.0.1:80", "0.0.0.0:0");
        let another = SocketEntry {
            inode: 9,
            ..listener
        };
        assert_ne!(identity(&listener), identity(&another));
    }

    #[test]
    fn watched_addresses_are_compared_folded() {
        let mut census = Census::empty(Source::SockDiag, &[address("[::ffff:10.0.0.1]:80")]);
        census.note(&socket(TcpState::TimeWait, "10.0.0.9:4000", "10.0.0.1:80"));
        let sides = census.of(address("10.0.0.1:80")).unwrap();
        assert_eq!(sides.ours.get(TcpState::TimeWait), 1);
        assert_eq!(census.of(address("[::ffff:10.0.0.1]:80")), Some(sides));
    }
}
