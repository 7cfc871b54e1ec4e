//! Whose `TIME_WAIT`s the kernel has: which of ours left each, and which are of nobody known here.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use crate::account::{Arm, Departure};
use crate::census::TcpState;
use crate::census::diag::SocketEntry;
use crate::keepalive::CloseReason;

/// How long a departure is remembered: a TIME_WAIT, and what the kernel's timers add.
const REMEMBERED: Duration = Duration::from_secs(65);

/// How long a TIME_WAIT lasts at least. Whoever left within this must be there still.
const MUST_BE_THERE: Duration = Duration::from_secs(60);

/// The most departures that are remembered; those that are not make their `TIME_WAIT`s foreign.
const MOST: usize = 128 * 1024;

/// A TIME_WAIT that began within this, and is of nobody known, may have been noted since.
const MAY_BE_NOTED: Duration = Duration::from_secs(1);

/// The most of these that are looked up again.
const MOST_LATE: usize = 8 * 1024;

/// Where a pool leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) upstream: String,
    pub(super) backend: SocketAddr,
}

/// Sockets in TIME_WAIT towards a backend that have one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeWaits {
    pub(super) backend: SocketAddr,
    /// `None`: from before a restart, or of other programs.
    pub(super) owner: Option<Owner>,
    pub(super) count: u64,
}

/// What of this proxy left a TIME_WAIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) upstream: String,
    pub(super) arm: Arm,
    pub(super) reason: CloseReason,
}

/// What must be in TIME_WAIT of one upstream's connections to one backend, and what the kernel has:
/// Little's law, both sides of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    pub(super) place: Place,
    /// Connections that we closed first within a minute.
    pub(super) expected: u64,
    /// Of these, those that the kernel still has.
    pub(super) found: u64,
}

/// The departures of the last minute.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_cookie: Numbered<u64, Known>,
    /// The oldest first.
    order: VecDeque<(Duration, u64)>,
    places: Numbered<u32, Place>,
}

/// A map by numbers that the kernel or this program gave.
type Numbered<Key, Value> = HashMap<Key, Value, ByNumber>;

type ByNumber = BuildHasherDefault<Scattered>;

/// Hashes such numbers. Nobody outside chooses them, so there is nothing to defend against; what matters is that
/// the map is asked for every socket that the kernel shows.
#[derive(Debug, Default)]
struct Scattered(u64);

#[derive(Clone, Copy, Debug)]
struct Known {
    kind: Kind,
    at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Kind {
    pool: u32,
    arm: u8,
    reason: u8,
}

/// What one walk has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    ours: Numbered<Kind, u64>,
    /// By pool: of those that must be there.
    recent: Numbered<u32, u64>,
    foreign: BTreeMap<SocketAddr, u64>,
    late: Vec<(u64, SocketAddr)>,
}

impl Owners {
    /// The pools there are now lead to these places.
    pub(super) fn lead_to(&mut self, places: impl Iterator<Item = (u32, Place)>) {
        let used: HashSet<_, ByNumber> = self
            .by_cookie
            .values()
            .map(|known| known.kind.pool)
            .collect();
        self.places.retain(|pool, _| used.contains(pool));
        self.places.extend(places);
    }

    /// Remembers a departure.
    pub(super) fn note(&mut self, departure: &Departure) {
        if self.order.len() == MOST
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.by_cookie.remove(&oldest);
        }
        let kind = Kind {
            pool: departure.pool,
            arm: departure.arm as u8,
            reason: departure.reason as u8,
        };
        let known = Known {
            kind,
            at: departure.at,
        };
        self.by_cookie.insert(departure.cookie, known);
        self.order.push_back((departure.at, departure.cookie));
    }

    /// Forgets what is over by `now`.
    pub(super) fn age(&mut self, now: Duration) {
        while let Some((at, cookie)) = self.order.front().copied()
            && now.saturating_sub(at) > REMEMBERED
        {
            self.order.pop_front();
            self.by_cookie.remove(&cookie);
        }
        // A minute of many does not hold memory for ever.
        if self.order.capacity() > 1024 && self.order.len() < self.order.capacity() / 8 {
            self.order.shrink_to(1024);
            self.by_cookie.shrink_to(1024);
        }
    }

    /// Counts a socket towards a watched backend, `now`.
    pub(super) fn count(&self, socket: &SocketEntry, now: Duration, found: &mut Found) {
        let waits = socket.is(TcpState::TimeWait);
        let Some(cookie) = socket.cookie else {
            return;
        };
        match self.by_cookie.get(&cookie) {
            Some(known) => found.add(*known, waits, now),
            None if !waits => {}
            None => {
                let age = MUST_BE_THERE.saturating_sub(socket.expires);
                if age < MAY_BE_NOTED && found.late.len() < MOST_LATE {
                    found.late.push((cookie, socket.remote));
                } else {
                    *found.foreign.entry(socket.remote).or_default() += 1;
                }
            }
        }
    }

    /// Looks those up again that had not been noted when the kernel showed them.
    pub(super) fn count_late(&self, now: Duration, found: &mut Found) {
        for (cookie, backend) in std::mem::take(&mut found.late) {
            match self.by_cookie.get(&cookie) {
                Some(known) => found.add(*known, true, now),
                None => *found.foreign.entry(backend).or_default() += 1,
            }
        }
    }

    /// The `TIME_WAIT`s by backend and origin.
    pub(super) fn time_waits(&self, found: &Found) -> Vec<TimeWaits> {
        let mut kinds: Vec<_> = found
            .ours
            .iter()
            .map(|(kind, count)| (*kind, *count))
            .collect();
        kinds.sort_unstable();
        let ours = kinds.into_iter().filter_map(|(kind, count)| {
            let place = self.places.get(&kind.pool)?;
            let owner = Owner {
                upstream: place.upstream.clone(),
                arm: Arm::ALL[usize::from(kind.arm)],
                reason: CloseReason::ALL[usize::from(kind.reason)],
            };
            Some(TimeWaits {
                backend: place.backend,
                owner: Some(owner),
                count,
            })
        });
        let foreign = found.foreign.iter().map(|(backend, count)| TimeWaits {
            backend: *backend,
            owner: None,
            count: *count,
        });
        // Of two pools that follow each other, as after a reload, the sockets are of one origin.
        let mut list: Vec<TimeWaits> = Vec::new();
        for one in ours.chain(foreign) {
            let same =
                |known: &&mut TimeWaits| (known.backend, &known.owner) == (one.backend, &one.owner);
            match list.iter_mut().find(same) {
                Some(known) => known.count += one.count,
                None => list.push(one),
            }
        }
        list
    }

    /// What must be there at `now`, and what is.
    pub(super) fn balances(&self, found: &Found, before_walk: Duration) -> Vec<Balance> {
        let mut expected: Numbered<u32, u64> = Numbered::default();
        for known in self.by_cookie.values() {
            let is_recent = before_walk.saturating_sub(known.at) < MUST_BE_THERE;
            if is_recent && known.at <= before_walk {
                *expected.entry(known.kind.pool).or_default() += 1;
            }
        }
        let mut balances: BTreeMap<&Place, (u64, u64)> = BTreeMap::new();
        for (pool, place) in &self.places {
            let (sum_expected, sum_found) = balances.entry(place).or_default();
            let expected = expected.get(pool).copied().unwrap_or(0);
            *sum_expected += expected;
            *sum_found += found.recent.get(pool).copied().unwrap_or(0).min(expected);
        }
        let balances = balances.into_iter();
        let balance = |(place, (expected, found)): (&Place, _)| Balance {
            place: place.clone(),
            expected,
            found,
        };
        balances.map(balance).collect()
    }
}

impl Hasher for Scattered {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        /// 2^64 divided by the golden ratio, odd.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(SPREAD);
    }

    /// The map looks at the lowest bits and at the highest. Only the highest depend on all of the number.
    fn finish(&self) -> u64 {
        self.0.rotate_left(32)
    }
}

impl Found {
    /// Begins anew.
    pub(super) fn forget(&mut self) {
        *self = Found::default();
    }

    fn add(&mut self, known: Known, waits: bool, before_walk: Duration) {
        if waits {
            *self.ours.entry(known.kind).or_default() += 1;
        }
        let is_recent = before_walk.saturating_sub(known.at) < MUST_BE_THERE;
        if is_recent && known.at <= before_walk {
            *self.recent.entry(known.kind.pool).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: &str = "10.0.0.9:80";

    fn departure(cookie: u64, reason: CloseReason, at: u64) -> Departure {
        Departure {
            cookie,
            pool: 3,
            arm: Arm::Short,
            reason,
            at: Duration::from_secs(at),
        }
    }

    fn socket(state: TcpState, cookie: u64, expires: u64) -> SocketEntry {
        SocketEntry {
            state: state.number(),
            local: "10.0.0.1:40000".parse().unwrap(),
            remote: BACKEND.parse().unwrap(),
            expires: Duration::from_secs(expires),
            cookie: Some(cookie),
            uid: 0,
            inode: 0,
        }
    }

    fn owners(departures: &[Departure]) -> Owners {
        let mut owners = Owners::default();
        for departure in departures {
            owners.note(departure);
        }
        let place = Place {
            upstream: "app".to_owned(),
            backend: BACKEND.parse().unwrap(),
        };
        owners.lead_to([(3, place.clone()), (4, place)].into_iter());
        owners
    }

    #[test]
    fn each_time_wait_is_told_by_its_cookie() {
        use CloseReason::{KeepAliveOff, MaxAge};
        let mut owners = owners(&[
            departure(1, KeepAliveOff, 0),
            departure(2, KeepAliveOff, 9),
            departure(3, MaxAge, 9),
            departure(4, MaxAge, 9),
        ]);
        let now = Duration::from_secs(10);
        let mut found = Found::default();
        for (state, cookie, expires) in [
            (TcpState::TimeWait, 1, 50),
            (TcpState::TimeWait, 2, 59),
            (TcpState::TimeWait, 3, 59),
            (TcpState::FinWait2, 4, 59),
            (TcpState::TimeWait, 77, 30),
            (TcpState::TimeWait, 78, 60), // not noted yet
            (TcpState::TimeWait, 79, 60), // and never
            (TcpState::Established, 80, 0),
        ] {
            owners.count(&socket(state, cookie, expires), now, &mut found);
        }
        owners.note(&departure(78, KeepAliveOff, 11));
        owners.count_late(now, &mut found);
        let list: Vec<_> = owners
            .time_waits(&found)
            .into_iter()
            .map(|one| (one.owner.map(|owner| owner.reason), one.count))
            .collect();
        assert_eq!(
            list,
            [(Some(KeepAliveOff), 3), (Some(MaxAge), 1), (None, 2)]
        );
        let balances = owners.balances(&found, now);
        assert_eq!(balances.len(), 1);
        assert_eq!((balances[0].expected, balances[0].found), (4, 4));
    }

    #[test]
    fn what_must_be_there_and_is_not_shows_and_what_is_over_is_forgotten() {
        let all: Vec<_> = (0..100)
            .map(|n| departure(n, CloseReason::Timeout, n))
            .collect();
        let mut owners = owners(&all);
        let now = Duration::from_secs(100);
        owners.age(now);
        assert_eq!(owners.by_cookie.len(), 65);
        let mut found = Found::default();
        // Every second one was taken again.
        for cookie in (0..100).filter(|n| n % 2 == 0) {
            owners.count(&socket(TcpState::TimeWait, cookie, 30), now, &mut found);
        }
        let balance = &owners.balances(&found, now)[0];
        assert_eq!((balance.expected, balance.found), (59, 29));
        owners.age(now + Duration::from_secs(100));
        assert_eq!((owners.by_cookie.len(), owners.order.len()), (0, 0));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut owners = Owners::default();
        for cookie in 0..MOST as u64 + 10 {
            owners.note(&departure(cookie, CloseReason::KeepAliveOff, 1));
        }
        assert_eq!((owners.by_cookie.len(), owners.order.len()), (MOST, MOST));
        assert!(!owners.by_cookie.contains_key(&9) && owners.by_cookie.contains_key(&10));
    }
}
