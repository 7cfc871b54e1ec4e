//! The census: the kernel's own TCP sockets, counted at one instant by address, side and state.
//!
//! The proxy's ledger says what we did; the census says what came of it. It is the only place
//! where TIME_WAIT can be seen at all: such a socket belongs to no process any more.
//!
//! What it promises: one dump, however many addresses are watched and whatever is asked of
//! it ([`walk`]), memory that does not grow with the number of sockets, and no privileges.
//! What it does not know: which program opened a connection (in TIME_WAIT nobody does), and the
//! backend's side where the backend is on another machine or in another network namespace; its
//! counts are then zero. Sockets go on changing while they are listed: the counts are exact for what
//! rests, and near for what moves.
//!
//! Everything here blocks for some milliseconds: not for a worker's thread.

mod address_index;
mod counters;
pub mod diag;
mod lanes;
mod netlink;
pub mod ports;
mod portset;
pub mod procnet;
mod state;
mod survey;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::{Add, AddAssign};

use address_index::AddressIndex;
pub use counters::{Counter, Counters};
use diag::{DumpRequest, Family, SocketEntry, States};
pub use lanes::{Births, Lane, Lanes};
use netlink::{Outcome, SockDiag};
pub use portset::PortSet;
pub use state::{StateCounts, TcpState};
pub use survey::{Survey, Ways};

/// How often a dump that the kernel calls interrupted is tried again.
///
/// None was seen to be, at 2,400 closes a second (Linux 6.18).
const TRIES: u32 = 4;

/// Who is shown the sockets one by one, and keeps what matters to it.
pub trait Visit {
    /// The kernel begins anew: what was shown does not count.
    fn forget(&mut self);

    /// Whether [`note`](Visit::note) would do anything with this one.
    fn concerns(&self, socket: &SocketEntry) -> bool;

    /// One more.
    fn note(&mut self, socket: &SocketEntry);
}

/// The sockets of some watched addresses at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    source: Source,
    /// Sorted by address, each once.
    watched: Vec<(SocketAddr, Sides)>,
    /// Where in `watched` each is.
    index: AddressIndex,
    /// Which of these stand for every address with their port.
    all_addresses: Vec<usize>,
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
    /// its connections are. Where `0.0.0.0` itself is watched, it stands for every address of
    /// IPv4 with its port that is not watched by itself, and `[::]` for those of both families.
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
        let mut census = Census::of_nothing_yet(watched);
        census.source = walk(&mut census)?;
        Ok(census)
    }

    /// The same from one source only, for whoever wants to compare them.
    ///
    /// # Errors
    /// When this source cannot be read, or says something unexpected.
    pub fn take_from(source: Source, watched: &[SocketAddr]) -> io::Result<Census> {
        let mut census = Census::of_nothing_yet(watched);
        walk_from(source, &mut census)?;
        census.source = source;
        Ok(census)
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

    /// A census of these addresses that no socket was shown to yet.
    pub fn of_nothing_yet(watched: &[SocketAddr]) -> Census {
        let mut addresses: Vec<_> = watched.iter().copied().map(folded).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let all_addresses = (0..addresses.len()).filter(|at| addresses[*at].ip().is_unspecified());
        let all_addresses = all_addresses.collect();
        let nothing = |address| (address, Sides::default());
        Census {
            source: Source::SockDiag,
            index: AddressIndex::new(addresses.iter().copied()),
            watched: addresses.into_iter().map(nothing).collect(),
            all_addresses,
        }
    }

    /// The sockets shown to it came from there.
    pub fn is_from(&mut self, source: Source) {
        self.source = source;
    }

    fn index(&self, address: SocketAddr) -> Option<usize> {
        self.index.get(&address)
    }

    /// Where the local end of a socket belongs: to its address, or to all with its port. `0.0.0.0`
    /// stands for those of IPv4, `[::]` for both.
    fn local_index(&self, local: SocketAddr) -> Option<usize> {
        self.index(local).or_else(|| {
            let stands_for = |at: &&usize| {
                let (watched, _) = self.watched[**at];
                watched.port() == local.port() && (watched.is_ipv6() || local.is_ipv4())
            };
            self.all_addresses.iter().find(stands_for).copied()
        })
    }
}

impl Visit for Census {
    fn forget(&mut self) {
        for (_, sides) in &mut self.watched {
            *sides = Sides::default();
        }
    }

    fn concerns(&self, socket: &SocketEntry) -> bool {
        self.index(socket.remote).is_some() || self.local_index(socket.local).is_some()
    }

    /// Counts it wherever it belongs.
    fn note(&mut self, socket: &SocketEntry) {
        if let Some(index) = self.index(socket.remote) {
            self.watched[index].1.ours.note(socket.state);
        }
        if let Some(index) = self.local_index(socket.local) {
            self.watched[index].1.theirs.note(socket.state);
        }
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
        let mut sockets = Vec::new();
        let source = walk(&mut sockets)?;
        Ok(Survey::new(source, sockets))
    }

    /// The same from one source only, for whoever wants to compare them.
    ///
    /// # Errors
    /// When this source cannot be read, or says something unexpected.
    pub fn take_from(source: Source) -> io::Result<Survey> {
        let mut sockets = Vec::new();
        walk_from(source, &mut sockets)?;
        Ok(Survey::new(source, sockets))
    }
}

impl Counters {
    /// Reads them for the calling thread's network namespace.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read() -> io::Result<Counters> {
        // /proc/net is the namespace of the main thread, which need not be ours.
        let mut text = fs::read_to_string("/proc/thread-self/net/netstat")?;
        text += &fs::read_to_string("/proc/thread-self/net/snmp")?;
        Ok(Counters::parse(&text))
    }
}

impl Visit for Vec<SocketEntry> {
    fn forget(&mut self) {
        self.clear();
    }

    fn concerns(&self, _: &SocketEntry) -> bool {
        true
    }

    fn note(&mut self, socket: &SocketEntry) {
        self.push(*socket);
    }
}

/// Shows every TCP socket of the calling thread's network namespace to `visit`, and says where they
/// were read.
///
/// # Errors
/// Where neither source can be read, or the kernel answers with something unexpected.
pub fn walk(visit: &mut impl Visit) -> io::Result<Source> {
    match walk_from(Source::SockDiag, visit) {
        Err(error) if netlink::is_unavailable(&error) => {
            walk_from(Source::ProcNetTcp, visit)?;
            Ok(Source::ProcNetTcp)
        }
        result => result.map(|()| Source::SockDiag),
    }
}

/// The ports that are listened on, on whatever address: `connect()` passes them over. Without netlink
/// none are known.
///
/// # Errors
/// As [`walk`].
pub fn listened_ports() -> io::Result<PortSet> {
    struct Ports(PortSet);
    impl Visit for Ports {
        fn forget(&mut self) {
            self.0 = PortSet::default();
        }

        fn concerns(&self, socket: &SocketEntry) -> bool {
            socket.is(TcpState::Listen)
        }

        fn note(&mut self, socket: &SocketEntry) {
            self.0.insert(socket.local.port());
        }
    }
    let mut ports = Ports(PortSet::default());
    match dump(TcpState::Listen.into(), &mut ports) {
        Err(error) if !netlink::is_unavailable(&error) => Err(error),
        Err(_) | Ok(()) => Ok(ports.0),
    }
}

fn walk_from(source: Source, visit: &mut impl Visit) -> io::Result<()> {
    match source {
        Source::SockDiag => dump(States::ALL, visit),
        Source::ProcNetTcp => {
            visit.forget();
            let mut seen = HashSet::new();
            procnet::read(|socket| {
                if visit.concerns(socket) && seen.insert(identity(socket)) {
                    visit.note(socket);
                }
            })
        }
    }
}

/// Shows every socket of both families in these states: in one dump, or where that is not understood in one
/// each; from the beginning if the kernel calls a dump interrupted.
///
/// A filter by address would save copying, not walking: for three addresses and more, one dump of
/// everything is cheaper than one for each of them.
fn dump(states: States, visit: &mut impl Visit) -> io::Result<()> {
    dump_of(&[None], states, visit)
        .or_else(|_| dump_of(&[Some(Family::V4), Some(Family::V6)], states, visit))
}

fn dump_of(families: &[Option<Family>], states: States, visit: &mut impl Visit) -> io::Result<()> {
    let mut kernel = SockDiag::open()?;
    'again: for _ in 0..TRIES {
        visit.forget();
        for &family in families {
            let request = DumpRequest {
                states,
                ..DumpRequest::all(family)
            };
            let outcome = kernel.dump(request, |socket| visit.note(socket))?;
            if outcome == Outcome::Interrupted {
                continue 'again;
            }
        }
        return Ok(());
    }
    let what = "the socket tables changed during every dump";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
}

/// The address as a [`SocketEntry`] has it: IPv4 in IPv6 folded, without flow label and scope,
/// which the kernel's tables do not have.
pub fn folded(address: SocketAddr) -> SocketAddr {
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
    fn one_dump_lists_what_one_of_each_family_lists() {
        let listeners =
            ["127.0.0.1:0", "[::1]:0"].map(|at| std::net::TcpListener::bind(at).unwrap());
        let addresses = listeners.each_ref().map(|one| one.local_addr().unwrap());
        let listed = |families: &[Option<Family>]| {
            let mut all = Vec::new();
            dump_of(families, TcpState::Listen.into(), &mut all).unwrap();
            all.retain(|socket: &SocketEntry| addresses.contains(&socket.local));
            all.sort_by_key(|socket| socket.local);
            all
        };
        let both = listed(&[None]);
        assert_eq!(both.len(), 2);
        assert!(both.iter().all(|socket| socket.cookie.is_some()));
        assert_eq!(both, listed(&[Some(Family::V4), Some(Family::V6)]));
    }

    #[test]
    fn a_socket_is_ours_by_its_remote_end_and_theirs_by_its_local_end() {
        let (a, b) = (address("10.0.0.1:80"), address("10.0.0.2:80"));
        let mut census = Census::of_nothing_yet(&[b, a, b]);
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
        let mut census = Census::of_nothing_yet(&[a, b]);
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
    fn a_listener_on_all_addresses_has_the_clients_of_each() {
        use TcpState::{Established, Listen, TimeWait};
        let [v4, v6, one] = ["0.0.0.0:80", "[::]:81", "10.0.0.1:81"].map(address);
        let mut census = Census::of_nothing_yet(&[v4, v6, one]);
        for (state, local, remote) in [
            (Listen, "0.0.0.0:80", "0.0.0.0:0"),
            (Established, "10.0.0.1:80", "10.0.0.9:5"),
            (Established, "10.0.0.2:80", "10.0.0.9:5"),
            (Established, "[2001:db8::1]:80", "[2001:db8::9]:5"), // not of this family
            (Established, "10.0.0.1:82", "10.0.0.9:80"),          // another port
            (Listen, "[::]:81", "[::]:0"),
            (TimeWait, "10.0.0.2:81", "10.0.0.9:5"),
            (TimeWait, "[2001:db8::1]:81", "[2001:db8::9]:5"),
            (TimeWait, "10.0.0.1:81", "10.0.0.9:5"), // the more exact one's
        ] {
            census.note(&socket(state, local, remote));
        }
        let clients = |at| census.of(at).unwrap().theirs.to_string();
        assert_eq!(clients(v4), "ESTABLISHED 2, LISTEN 1");
        assert_eq!(clients(v6), "TIME_WAIT 2, LISTEN 1");
        assert_eq!(clients(one), "TIME_WAIT 1");
    }

    #[test]
    fn this_kernel_has_the_counters() {
        let counters = Counters::read().unwrap();
        // PAWSTimewait is of Linux 6.15.
        let needed = Counter::ALL.into_iter();
        for counter in needed.filter(|counter| *counter != Counter::PawsRejects) {
            assert!(counters.get(counter).is_some(), "{counter:?}");
        }
    }

    #[test]
    fn watched_addresses_are_compared_folded() {
        let mut census = Census::of_nothing_yet(&[address("[::ffff:10.0.0.1]:80")]);
        census.note(&socket(TcpState::TimeWait, "10.0.0.9:4000", "10.0.0.1:80"));
        let sides = census.of(address("10.0.0.1:80")).unwrap();
        assert_eq!(sides.ours.get(TcpState::TimeWait), 1);
        assert_eq!(census.of(address("[::ffff:10.0.0.1]:80")), Some(sides));
    }
}
