//! Every connection of one pool, as a value. This is the pool's policy; nothing else decides.
//!
//! A plain state machine: it is *told* what happened and what time it is, and *returns* what to do.
//! The driver beside it ([`super::Pool`]) opens, carries and closes.

use std::num::NonZeroU32;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::account::Counts;
use crate::keepalive::{CloseReason, KeepAlive, Verdict};

/// A connection of this pool, from the permission to open it until its end.
///
/// Ids are used again, but never mistaken: an id that has ended is not found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: NonZeroU32,
}

impl ConnId {
    /// The place of this connection in a table of the driver; dense and used again.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What [`PoolState::acquire`] grants: a connection that waits, or the permission to open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Grant {
    /// Use this connection, which has served before.
    Reuse(Leased),
    /// Open a connection under this id, then say [`PoolState::opened`] or
    /// [`PoolState::open_failed`].
    Open(ConnId),
}

/// A connection granted for one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Whose lease this is.
    pub id: ConnId,
    /// The number of the exchange on its connection; the first is 1.
    pub exchange: u32,
    /// How long the connection had waited; zero for a fresh one.
    pub idle: Duration,
    /// What becomes of the connection if this exchange ends well. [`Verdict::Close`] has to be
    /// announced in the request: `Connection: close` lets the backend close first, so that no
    /// port of ours is spent.
    pub verdict: Verdict,
}

/// What a connection has been, told when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Farewell {
    /// Why it ends.
    pub reason: CloseReason,
    /// The exchanges begun on it.
    pub exchanges: u32,
    /// How long it was open.
    pub age: Duration,
    /// How long it had waited when it ended, or before its last exchange if that ended it.
    pub idle: Duration,
}

/// How the exchange on a leased connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Request written and response read to their ends; nobody asked for the end.
    Complete,
    /// The connection cannot carry another exchange.
    Spent(CloseReason),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Opening,
    Leased,
    /// In the idle list, between a more and a less recently parked one.
    Idle {
        since: Instant,
        newer: Option<u32>,
        older: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    generation: NonZeroU32,
    phase: Phase,
    /// Exchanges begun on it.
    exchanges: u32,
    opened: Instant,
    /// How long it waited for the exchange it carries.
    idle: Duration,
}

/// Every connection of one pool, as a value.
///
/// Always true between calls:
/// - a connection is opening, leased or idle, and only one of these;
/// - the most recently parked connection is granted first, and the longest parked expires first;
/// - no connection is granted once it has waited `keep_alive.timeout`, at the exact boundary too;
/// - no connection carries more exchanges than `keep_alive` allows;
/// - with keep-alive off, or while draining, nothing is idle;
/// - every permission to open ends as opened or as failed;
/// - every connection that was opened is open now, or was counted under one [`CloseReason`].
#[derive(Debug)]
pub struct PoolState {
    keep_alive: KeepAlive,
    draining: bool,
    entries: Slab<Entry>,
    newest: Option<u32>,
    oldest: Option<u32>,
    generation: NonZeroU32,
    counts: Counts,
}

impl PoolState {
    /// An empty pool under these settings.
    pub fn new(keep_alive: KeepAlive) -> PoolState {
        PoolState {
            keep_alive,
            draining: false,
            entries: Slab::new(),
            newest: None,
            oldest: None,
            generation: NonZeroU32::MIN,
            counts: Counts::default(),
        }
    }

    /// How many connections there are and were.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Grants the most recently parked connection, or else the permission to open one.
    ///
    /// A connection that has waited too long is passed over; [`expire`](Self::expire) ends it.
    pub fn acquire(&mut self, now: Instant) -> Grant {
        // The newest has waited the shortest: if it is too old, all are.
        match self.newest {
            Some(index) if !self.is_too_old(index, now) => {
                let idle = now.saturating_duration_since(self.idle_since(index));
                self.unlink(index);
                self.counts.reused += 1;
                Grant::Reuse(self.lease(index, idle))
            }
            _ => Grant::Open(self.permit(now)),
        }
    }

    /// Gives the permission to open a connection, whatever waits.
    pub fn permit(&mut self, now: Instant) -> ConnId {
        self.counts.opening += 1;
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let entry = Entry {
            generation,
            phase: Phase::Opening,
            exchanges: 0,
            opened: now,
            idle: Duration::ZERO,
        };
        ConnId {
            index: index(self.entries.insert(entry)),
            generation,
        }
    }

    /// The connection under `id` is open, and leased to whoever opened it.
    #[must_use]
    pub fn opened(&mut self, id: ConnId, now: Instant) -> Leased {
        let entry = self
            .entry(id)
            .expect("a permission is kept until it is used");
        assert!(matches!(entry.phase, Phase::Opening), "{id:?} opened twice");
        self.entries[id.index()].opened = now;
        self.counts.opening -= 1;
        self.counts.opened += 1;
        self.lease(id.index, Duration::ZERO)
    }

    /// The connection under `id` could not be opened, or nobody waits for it any more.
    pub fn open_failed(&mut self, id: ConnId) {
        let entry = self
            .entry(id)
            .expect("a permission is kept until it is used");
        assert!(matches!(entry.phase, Phase::Opening), "{id:?} is open");
        self.entries.remove(id.index());
        self.counts.opening -= 1;
        self.counts.open_failed += 1;
    }

    /// Takes back a connection whose exchange ended as `end` at `now`. It is parked if nothing is
    /// returned, and ends otherwise.
    pub fn release(&mut self, id: ConnId, end: End, now: Instant) -> Option<Farewell> {
        let entry = self
            .entry(id)
            .expect("a leased id is known until its release");
        assert!(matches!(entry.phase, Phase::Leased), "{id:?} is not leased");
        let verdict = match end {
            End::Spent(reason) => Verdict::Close(reason),
            End::Complete if self.draining => Verdict::Close(CloseReason::Drain),
            End::Complete => self.keep_alive.after_exchange(entry.exchanges),
        };
        self.counts.leased -= 1;
        match verdict {
            Verdict::Keep => {
                self.park(id.index, now);
                None
            }
            Verdict::Close(reason) => Some(self.end(id.index, reason, now)),
        }
    }

    /// The connection under `id` turned out to be closed by its peer.
    ///
    /// It ends if it was idle. A leased one is ended by its [`release`](Self::release); one that
    /// has ended already is not found.
    pub fn peer_closed(&mut self, id: ConnId, now: Instant) -> Option<Farewell> {
        match self.entry(id) {
            Some(Entry {
                phase: Phase::Idle { .. },
                ..
            }) => Some(self.end_idle(id.index, CloseReason::PeerClosedIdle, now)),
            _ => None,
        }
    }

    /// Takes back the grant of a connection that turned out to be closed before it was used.
    pub fn stale(&mut self, leased: Leased, now: Instant) -> Farewell {
        self.counts.reused -= 1;
        self.counts.leased -= 1;
        assert!(self.entry(leased.id).is_some(), "a leased id is known");
        self.entries[leased.id.index()].exchanges -= 1;
        self.end(leased.id.index, CloseReason::PeerClosedIdle, now)
    }

    /// Ends one connection that has waited too long. Ask again until there is none.
    pub fn expire(&mut self, now: Instant) -> Option<(ConnId, Farewell)> {
        let index = self.oldest?;
        self.is_too_old(index, now).then(|| {
            let id = self.id(index);
            (id, self.end_idle(index, CloseReason::IdleTimeout, now))
        })
    }

    /// When a connection will next have waited too long, if one is waiting.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.oldest
            .map(|index| self.idle_since(index) + self.keep_alive.timeout)
    }

    /// Ends one idle connection, and from now on every leased one at its release. Ask again until
    /// there is none.
    pub fn drain(&mut self, now: Instant) -> Option<(ConnId, Farewell)> {
        self.draining = true;
        let index = self.oldest?;
        let id = self.id(index);
        Some((id, self.end_idle(index, CloseReason::Drain, now)))
    }

    /// Panics if anything that is always true is not. For tests, and after each event in debug
    /// builds.
    pub fn check(&self) {
        let mut seen = Counts::default();
        for (_, entry) in &self.entries {
            match entry.phase {
                Phase::Opening => seen.opening += 1,
                Phase::Leased => seen.leased += 1,
                Phase::Idle { .. } => seen.idle += 1,
            }
            if let Some(limit) = self.keep_alive.max_requests {
                let most = limit.get().saturating_add(1);
                assert!(
                    entry.exchanges <= most,
                    "{} exchanges, limit {limit}",
                    entry.exchanges
                );
            }
        }
        let counts = &self.counts;
        assert_eq!(
            (seen.opening, seen.leased, seen.idle),
            (counts.opening, counts.leased, counts.idle),
            "each connection is in one phase and counted there"
        );
        assert_eq!(
            counts.opened,
            counts.leased + counts.idle + counts.closed_total(),
            "what was opened is open or closed"
        );
        if self.draining || !self.keep_alive.enabled {
            assert_eq!(counts.idle, 0, "nothing is parked when nothing is kept");
        }
        self.check_idle_list();
    }

    fn check_idle_list(&self) {
        let mut listed = 0;
        let mut newer = None;
        let mut last: Option<Instant> = None;
        let mut next = self.newest;
        while let Some(index) = next {
            let Phase::Idle {
                since,
                newer: back,
                older,
            } = self.entries[index as usize].phase
            else {
                panic!("connection {index} is in the idle list and not idle");
            };
            assert_eq!(back, newer, "the idle list holds together");
            assert!(
                last.is_none_or(|last| since <= last),
                "the newest comes first"
            );
            last = Some(since);
            newer = Some(index);
            next = older;
            listed += 1;
        }
        assert_eq!(self.oldest, newer, "the list ends with the oldest");
        assert_eq!(listed, self.counts.idle, "every idle connection is listed");
    }

    fn entry(&self, id: ConnId) -> Option<&Entry> {
        self.entries
            .get(id.index())
            .filter(|entry| entry.generation == id.generation)
    }

    fn id(&self, index: u32) -> ConnId {
        ConnId {
            index,
            generation: self.entries[index as usize].generation,
        }
    }

    fn lease(&mut self, index: u32, idle: Duration) -> Leased {
        let entry = &mut self.entries[index as usize];
        entry.phase = Phase::Leased;
        entry.idle = idle;
        entry.exchanges = entry.exchanges.saturating_add(1);
        self.counts.leased += 1;
        let exchange = entry.exchanges;
        Leased {
            id: self.id(index),
            exchange,
            idle,
            verdict: if self.draining {
                Verdict::Close(CloseReason::Drain)
            } else {
                self.keep_alive.after_exchange(exchange)
            },
        }
    }

    fn park(&mut self, index: u32, now: Instant) {
        self.counts.idle += 1;
        let older = self.newest.replace(index);
        self.entries[index as usize].phase = Phase::Idle {
            since: now,
            newer: None,
            older,
        };
        match older {
            Some(older) => *self.newer_of(older) = Some(index),
            None => self.oldest = Some(index),
        }
    }

    fn unlink(&mut self, index: u32) {
        let Phase::Idle { newer, older, .. } = self.entries[index as usize].phase else {
            panic!("connection {index} is not idle");
        };
        self.counts.idle -= 1;
        match newer {
            Some(newer) => *self.older_of(newer) = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => *self.newer_of(older) = newer,
            None => self.oldest = newer,
        }
    }

    fn end_idle(&mut self, index: u32, reason: CloseReason, now: Instant) -> Farewell {
        self.entries[index as usize].idle = now.saturating_duration_since(self.idle_since(index));
        self.unlink(index);
        self.end(index, reason, now)
    }

    fn end(&mut self, index: u32, reason: CloseReason, now: Instant) -> Farewell {
        let entry = self.entries.remove(index as usize);
        self.counts.closed[reason as usize] += 1;
        Farewell {
            reason,
            exchanges: entry.exchanges,
            age: now.saturating_duration_since(entry.opened),
            idle: entry.idle,
        }
    }

    fn is_too_old(&self, index: u32, now: Instant) -> bool {
        now.saturating_duration_since(self.idle_since(index)) >= self.keep_alive.timeout
    }

    fn idle_since(&self, index: u32) -> Instant {
        match self.entries[index as usize].phase {
            Phase::Idle { since, .. } => since,
            Phase::Opening | Phase::Leased => panic!("connection {index} is not idle"),
        }
    }

    fn newer_of(&mut self, index: u32) -> &mut Option<u32> {
        match &mut self.entries[index as usize].phase {
            Phase::Idle { newer, .. } => newer,
            Phase::Opening | Phase::Leased => panic!("connection {index} is not idle"),
        }
    }

    fn older_of(&mut self, index: u32) -> &mut Option<u32> {
        match &mut self.entries[index as usize].phase {
            Phase::Idle { older, .. } => older,
            Phase::Opening | Phase::Leased => panic!("connection {index} is not idle"),
        }
    }
}

fn index(key: usize) -> u32 {
    u32::try_from(key).expect("open files run out long before four billion connections")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn pool(limit: u32) -> PoolState {
        PoolState::new(KeepAlive {
            enabled: true,
            max_requests: NonZeroU32::new(limit),
            timeout: IDLE,
        })
    }

    fn open(pool: &mut PoolState, now: Instant) -> ConnId {
        match pool.acquire(now) {
            Grant::Open(id) => pool.opened(id, now).id,
            Grant::Reuse(leased) => panic!("nothing to reuse, got {leased:?}"),
        }
    }

    fn reuse(pool: &mut PoolState, now: Instant) -> Leased {
        match pool.acquire(now) {
            Grant::Reuse(leased) => leased,
            Grant::Open(id) => panic!("a connection was waiting, got {id:?}"),
        }
    }

    #[test]
    fn the_most_recently_parked_is_reused_first() {
        let now = Instant::now();
        let mut pool = pool(0);
        let ids: Vec<_> = (0..3).map(|_| open(&mut pool, now)).collect();
        for (&id, second) in ids.iter().zip(0..) {
            let end = now + Duration::from_secs(second);
            assert_eq!(pool.release(id, End::Complete, end), None);
        }
        let order: Vec<_> = (0..3).map(|_| reuse(&mut pool, now).id).collect();
        assert_eq!(order, [ids[2], ids[1], ids[0]]);
        pool.check();
    }

    #[test]
    fn a_connection_that_waited_exactly_the_timeout_is_too_old() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        let _ = pool.release(id, End::Complete, now);
        assert_eq!(pool.next_deadline(), Some(now + IDLE));
        assert_eq!(pool.expire(now + IDLE - Duration::from_nanos(1)), None);
        assert!(matches!(pool.acquire(now + IDLE), Grant::Open(_)));
        let (expired, farewell) = pool.expire(now + IDLE).unwrap();
        assert_eq!(expired, id);
        assert_eq!(
            (farewell.exchanges, farewell.idle, farewell.age),
            (1, IDLE, IDLE)
        );
        assert_eq!(pool.counts().closed[CloseReason::IdleTimeout as usize], 1);
        pool.check();
    }

    #[test]
    fn the_request_after_the_limit_is_the_last_and_is_told_so() {
        let now = Instant::now();
        let mut pool = pool(2);
        let id = open(&mut pool, now);
        let _ = pool.release(id, End::Complete, now);
        let second = reuse(&mut pool, now);
        assert_eq!((second.exchange, second.verdict), (2, Verdict::Keep));
        let _ = pool.release(id, End::Complete, now);
        let third = reuse(&mut pool, now);
        assert_eq!(third.verdict, Verdict::Close(CloseReason::RequestLimit));
        assert_eq!(
            pool.release(id, End::Complete, now).map(|end| end.reason),
            Some(CloseReason::RequestLimit)
        );
        assert!(matches!(pool.acquire(now), Grant::Open(_)));
        pool.check();
    }

    #[test]
    fn short_mode_never_parks() {
        let now = Instant::now();
        let mut pool = PoolState::new(KeepAlive {
            enabled: false,
            ..KeepAlive::BACKEND
        });
        for _ in 0..3 {
            let id = open(&mut pool, now);
            assert_eq!(
                pool.release(id, End::Complete, now).map(|end| end.reason),
                Some(CloseReason::KeepAliveOff)
            );
            pool.check();
        }
        assert_eq!((pool.counts().opened, pool.counts().reused), (3, 0));
    }

    #[test]
    fn draining_ends_the_idle_at_once_and_the_leased_at_their_release() {
        let now = Instant::now();
        let mut pool = pool(0);
        let (busy, idle) = (open(&mut pool, now), open(&mut pool, now));
        let _ = pool.release(idle, End::Complete, now);
        assert_eq!(pool.drain(now).map(|(id, _)| id), Some(idle));
        assert_eq!(pool.drain(now), None);
        assert_eq!(
            pool.release(busy, End::Complete, now).map(|end| end.reason),
            Some(CloseReason::Drain)
        );
        pool.check();
    }

    #[test]
    fn an_id_that_has_ended_is_not_mistaken_for_its_successor() {
        let now = Instant::now();
        let mut pool = pool(0);
        let first = open(&mut pool, now);
        let _ = pool.release(first, End::Spent(CloseReason::PeerAsked), now);
        let second = open(&mut pool, now);
        assert_eq!(first.index(), second.index());
        let _ = pool.release(second, End::Complete, now);
        assert_eq!(pool.peer_closed(first, now), None);
        assert!(pool.peer_closed(second, now).is_some());
        pool.check();
    }

    #[derive(Clone, Debug)]
    enum Event {
        Acquire,
        Opened(usize),
        OpenFailed(usize),
        Release(usize, bool),
        Stale(usize),
        PeerClosed(usize),
        Expire,
        Drain,
    }

    fn event() -> impl Strategy<Value = Event> {
        let which = 0..8usize;
        prop_oneof![
            8 => Just(Event::Acquire),
            6 => which.clone().prop_map(Event::Opened),
            1 => which.clone().prop_map(Event::OpenFailed),
            8 => (which.clone(), prop::bool::weighted(0.8)).prop_map(|(i, ok)| Event::Release(i, ok)),
            1 => which.clone().prop_map(Event::Stale),
            2 => which.prop_map(Event::PeerClosed),
            2 => Just(Event::Expire),
            1 => prop::bool::weighted(0.1).prop_map(|yes| if yes { Event::Drain } else { Event::Expire }),
        ]
    }

    /// What the outside holds: the permissions and leases it must give back.
    #[derive(Default)]
    struct Outside {
        opening: Vec<ConnId>,
        leased: Vec<(Leased, bool)>,
        parked: Vec<(ConnId, Instant)>,
    }

    impl Outside {
        fn apply(&mut self, event: &Event, pool: &mut PoolState, now: Instant) {
            fn pick<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
                (!list.is_empty()).then(|| list.swap_remove(which % list.len()))
            }
            match *event {
                Event::Acquire => match pool.acquire(now) {
                    Grant::Open(id) => self.opening.push(id),
                    Grant::Reuse(leased) => {
                        let (id, since) = self.parked.pop().expect("the model has one parked too");
                        assert_eq!(id, leased.id, "last in, first out");
                        assert!(now - since < IDLE, "handed out after its idle time");
                        self.leased.push((leased, true));
                    }
                },
                Event::Opened(which) => {
                    if let Some(id) = pick(&mut self.opening, which) {
                        self.leased.push((pool.opened(id, now), false));
                    }
                }
                Event::OpenFailed(which) => {
                    if let Some(id) = pick(&mut self.opening, which) {
                        pool.open_failed(id);
                    }
                }
                Event::Release(which, ok) => {
                    if let Some((leased, _)) = pick(&mut self.leased, which) {
                        let end = if ok {
                            End::Complete
                        } else {
                            End::Spent(CloseReason::Protocol)
                        };
                        if pool.release(leased.id, end, now).is_none() {
                            assert_eq!(leased.verdict, Verdict::Keep, "announced as the last one");
                            self.parked.push((leased.id, now));
                        }
                    }
                }
                Event::Stale(which) => {
                    if let Some(at) = self.leased.iter().position(|(_, reused)| *reused) {
                        let (leased, _) = self.leased.swap_remove(at.min(which.max(at)));
                        let _end = pool.stale(leased, now);
                    }
                }
                Event::PeerClosed(which) => {
                    if !self.parked.is_empty() {
                        let (id, _) = self.parked.remove(which % self.parked.len());
                        assert!(pool.peer_closed(id, now).is_some());
                        assert_eq!(pool.peer_closed(id, now), None, "ended twice");
                    }
                }
                Event::Expire => {
                    while let Some((id, _)) = pool.expire(now) {
                        let (oldest, since) = self.parked.remove(0);
                        assert_eq!(id, oldest, "the longest parked expires first");
                        assert!(now - since >= IDLE, "expired too early");
                    }
                }
                Event::Drain => {
                    while let Some((id, _)) = pool.drain(now) {
                        self.parked.retain(|(parked, _)| *parked != id);
                    }
                }
            }
        }
    }

    proptest! {
        /// Whatever happens in whatever order, the books balance after each event.
        #[test]
        fn the_books_balance(script in prop::collection::vec((0..30u64, event()), 1..300), limit in 0..4u32) {
            let mut pool = pool(limit);
            let mut outside = Outside::default();
            let mut now = Instant::now();
            for (seconds, event) in script {
                now += Duration::from_secs(seconds);
                outside.apply(&event, &mut pool, now);
                pool.check();
            }
            let counts = pool.counts();
            let held = [&outside.opening.len(), &outside.leased.len(), &outside.parked.len()];
            prop_assert_eq!([counts.opening, counts.leased, counts.idle], held.map(|n| *n as u64));
        }
    }
}
