//! One worker's connections to one server, as a value: which is leased to whom, which are parked,
//! how long each may be used. This is the pool's policy; nothing else decides.
//!
//! A plain state machine: it is *told* what happened and what time it is, and *returns* what to do.
//! The driver beside it ([`super::Pool`]) opens, carries and closes. How many connections there
//! may be, and who gets the next one, is for all workers together: [`super::Line`].

use std::time::Duration;

use tokio::time::Instant;

use crate::account::{Counts, Held};
use crate::keepalive::{CloseReason, Verdict};

use super::settings::Settings;
use super::table::{ConnId, Entry, Life, Phase, Table};
use super::words::{End, Farewell, Free, Gone, Hint, Identity, Leased, Need, Wants};

/// How many young connections are passed over at most to find an older one.
const PASSED_OVER: usize = 32;

/// What a connection takes along from one worker's pool to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passport(Life);

/// One worker's connections to one server, as a value.
///
/// Always true between calls:
/// - a connection is opening, leased or idle, and only one of these;
/// - no connection carries more exchanges at once than it can: one, with HTTP/1.1;
/// - the most recently parked connection is leased first;
/// - none is leased once it has waited its time, at the exact boundary too: `keep_alive.timeout`,
///   or less by the backend's hint or by what was learned of it;
/// - a request that cannot be sent twice gets none that has waited `safe_idle`;
/// - no connection is leased for whom it does not speak;
/// - none carries more exchanges than `keep_alive` and its backend's `max=` allow, and the last
///   one is told that it is;
/// - with keep-alive off, or while draining, nothing is idle;
/// - every permission to open ends as opened or as failed;
/// - every connection that was opened, or came from another worker, is here, went to another
///   worker, or was counted under one [`CloseReason`].
#[derive(Debug)]
pub struct PoolState {
    settings: Settings,
    draining: bool,
    table: Table,
    counts: Counts,
    /// No idle connection's time is up before this; `None` while none waits.
    earliest: Option<Instant>,
    /// How long the backend keeps idle connections, as it was seen to do.
    learned: Option<Duration>,
    /// When somebody last asked for a young connection.
    young_wanted: Option<Instant>,
}

impl PoolState {
    /// An empty pool under these settings.
    pub fn new(settings: Settings) -> PoolState {
        PoolState {
            settings,
            draining: false,
            table: Table::new(),
            counts: Counts::default(),
            earliest: None,
            learned: None,
            young_wanted: None,
        }
    }

    /// How many connections there are and were.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Every connection there is, as seen at `now`.
    pub fn connections(&self, now: Instant) -> impl Iterator<Item = Held> + '_ {
        self.table.iter().map(move |entry| entry.held(now))
    }

    /// What is asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Leases a parked connection: the most recently parked that suits.
    ///
    /// One that has waited too long is passed over; [`expire`](Self::expire) ends it. While there
    /// are requests that need a young connection, those that need not leave the young to them.
    pub fn acquire(&mut self, now: Instant, wants: Wants) -> Option<Leased> {
        let index = self.choose(now, wants)?;
        Some(self.lease(index, now))
    }

    fn choose(&mut self, now: Instant, wants: Wants) -> Option<u32> {
        if wants.need == Need::Young {
            self.young_wanted = Some(now);
        }
        let spares_young = wants.need == Need::Any && self.spares_young(now);
        let mut young = None;
        let mut passed_over = 0;
        let mut next = self.table.newest();
        while let Some(index) = next {
            let entry = &self.table[index];
            next = entry.older();
            if entry.life.identity != wants.identity || self.is_too_old(entry, now) {
                continue;
            }
            let waited = entry.waited_at(now);
            let is_new = entry.life.exchanges == 0;
            if !wants.need.is_met(waited, self.settings.safe_idle, is_new) {
                continue;
            }
            let is_young = waited < self.settings.safe_idle;
            if spares_young && is_young && passed_over < PASSED_OVER {
                young = young.or(Some(index));
                passed_over += 1;
                continue;
            }
            return Some(index);
        }
        young
    }

    /// Whether young connections are wanted by others, and there is an older one.
    fn spares_young(&self, now: Instant) -> bool {
        let wanted =
            |at: Instant| now.saturating_duration_since(at) < self.settings.keep_alive.timeout;
        self.young_wanted.is_some_and(wanted)
            && self
                .table
                .oldest()
                .is_some_and(|index| self.table[index].waited_at(now) >= self.settings.safe_idle)
    }

    /// Notes that a connection is being opened, for which there is permission.
    pub fn opening(&mut self, now: Instant, identity: Identity) -> ConnId {
        self.counts.opening += 1;
        let life = Life {
            opened: now,
            ages_at: None,
            exchanges: 0,
            most_exchanges: u32::MAX,
            idle_limit: self.settings.keep_alive.timeout,
            since: now,
            identity,
        };
        self.table.insert(Phase::Opening, life)
    }

    /// The connection under `id` is open, and leased to whoever opened it. It carries `streams`
    /// exchanges at once; `draw` is a number drawn at random, which shortens its age.
    #[must_use]
    pub fn opened(&mut self, id: ConnId, streams: u32, draw: u32, now: Instant) -> Leased {
        self.arrived(id, streams, draw, now);
        let mut leased = self.lease(id.index, now);
        leased.idle = None;
        leased
    }

    /// The connection under `id` is open, and nobody's: it is parked.
    pub fn stocked(&mut self, id: ConnId, streams: u32, draw: u32, now: Instant) {
        self.arrived(id, streams, draw, now);
        self.counts.idle += 1;
        self.park(id.index);
    }

    fn arrived(&mut self, id: ConnId, streams: u32, draw: u32, now: Instant) {
        let ages_at = self.settings.jittered_age(draw).map(|age| now + age);
        let entry = self
            .table
            .entry_mut(id)
            .expect("a permission is kept until it is used");
        assert_eq!(entry.phase, Phase::Opening, "{id:?} opened twice");
        let life = &mut entry.life;
        (life.opened, life.since, life.ages_at) = (now, now, ages_at);
        entry.streams = streams;
        entry.phase = Phase::Busy;
        self.counts.opening -= 1;
        self.counts.opened += 1;
    }

    /// The connection under `id` could not be opened, or nobody waits for it any more.
    pub fn open_failed(&mut self, id: ConnId) {
        let entry = self
            .table
            .entry(id)
            .expect("a permission is kept until it is used");
        assert_eq!(entry.phase, Phase::Opening, "{id:?} is open");
        self.table.remove(id.index);
        self.counts.opening -= 1;
        self.counts.open_failed += 1;
    }

    /// Takes back a lease whose exchange ended as `end` at `now`, with what the backend said of
    /// its connection. The connection stays if nothing is returned, and ends otherwise.
    pub fn release(&mut self, id: ConnId, end: End, hint: Hint, now: Instant) -> Option<Farewell> {
        self.heed(id, hint);
        let verdict = match end {
            End::Spent(reason) => Verdict::Close(reason),
            End::Complete => self.verdict(id),
        };
        if let Verdict::Close(reason) = verdict {
            self.retire(id, reason);
            if let End::Spent(reason) = end {
                self.leased_mut(id).retires = Some(reason);
            }
        }
        self.give_back(id, now, now)
    }

    /// Takes back a lease that was not used: as if it had not been.
    pub fn unused(&mut self, leased: Leased, now: Instant) -> Option<Farewell> {
        let since = leased.idle.map_or(now, |idle| now - idle);
        let entry = self.leased_mut(leased.id);
        entry.life.exchanges -= 1;
        self.counts.reused -= u64::from(leased.exchange > 1);
        if self.draining {
            self.retire(leased.id, CloseReason::Drain);
        }
        self.give_back(leased.id, since, now)
    }

    /// The backend takes no more exchanges at once on this connection than are on it beside one that
    /// it has refused; at least 1.
    pub fn refused(&mut self, id: ConnId) {
        let entry = self.leased_mut(id);
        entry.streams = (entry.leases - 1).max(1).min(entry.streams);
        if entry.is_free() {
            self.table.unlink(id.index);
        }
    }

    /// What becomes of a leased connection after its exchange.
    fn verdict(&self, id: ConnId) -> Verdict {
        let life = &self.table[id.index].life;
        if self.draining {
            return Verdict::Close(CloseReason::Drain);
        }
        match self.settings.keep_alive.after_exchange(life.exchanges) {
            Verdict::Keep if life.exchanges >= life.most_exchanges => {
                Verdict::Close(CloseReason::RequestLimit)
            }
            Verdict::Keep if life.idle_limit.is_zero() => Verdict::Close(CloseReason::PeerAsked),
            verdict @ (Verdict::Keep | Verdict::Close(_)) => verdict,
        }
    }

    fn heed(&mut self, id: ConnId, hint: Hint) {
        if !self.settings.heed_hints {
            return;
        }
        if let Some(theirs) = hint.timeout {
            let limit = self.settings.idle_limit(theirs);
            self.leased_mut(id).life.idle_limit = limit;
        }
        if let Some(more) = hint.max {
            let life = &mut self.leased_mut(id).life;
            life.most_exchanges = life.exchanges.saturating_add(more);
        }
    }

    /// No further lease of this connection; it ends with its last one.
    fn retire(&mut self, id: ConnId, reason: CloseReason) {
        let entry = self.leased_mut(id);
        entry.retires.get_or_insert(reason);
        if matches!(entry.phase, Phase::Free { .. }) {
            self.table.unlink(id.index);
        }
    }

    fn give_back(&mut self, id: ConnId, since: Instant, now: Instant) -> Option<Farewell> {
        let entry = self.leased_mut(id);
        entry.leases -= 1;
        let (leases, phase, retires) = (entry.leases, entry.phase, entry.retires);
        let has_room = leases < entry.streams;
        if leases == 0 {
            self.counts.leased -= 1;
            if let Some(reason) = retires {
                return Some(self.end(id.index, reason, now));
            }
            self.counts.idle += 1;
            self.table[id.index].life.since = since;
            // Its place in the list is that of its new time.
            if matches!(phase, Phase::Free { .. }) {
                self.table.unlink(id.index);
            }
            self.park(id.index);
        } else if phase == Phase::Busy && retires.is_none() && has_room {
            self.park(id.index);
        }
        None
    }

    /// The connection under `id` turned out to be closed by its peer, or to have said what nobody asked
    /// for.
    ///
    /// It ends if it was idle. One that carries several exchanges is not leased again, and ends
    /// with the last of them; one with a single exchange is ended by its
    /// [`release`](Self::release); one that has ended already is not found.
    pub fn peer_closed(&mut self, id: ConnId, why: Gone, now: Instant) -> Option<Farewell> {
        let entry = self.table.entry(id)?;
        match entry.phase {
            Phase::Free { .. } if entry.leases == 0 => Some(self.end_idle(id.index, why.idle, now)),
            Phase::Free { .. } | Phase::Busy if entry.streams > 1 => {
                self.retire(id, why.busy);
                None
            }
            Phase::Free { .. } | Phase::Opening | Phase::Busy => None,
        }
    }

    /// Takes back the grant of a connection that turned out to be unusable, and why.
    pub fn stale(&mut self, leased: Leased, why: CloseReason, now: Instant) -> Option<Farewell> {
        self.leased_mut(leased.id).life.exchanges -= 1;
        self.counts.reused -= u64::from(leased.exchange > 1);
        self.retire(leased.id, why);
        self.give_back(leased.id, now, now)
    }

    /// Ends one connection that has waited too long. Ask again until there is none.
    pub fn expire(&mut self, now: Instant) -> Option<(ConnId, Farewell)> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return None;
        }
        let mut earliest = None::<Instant>;
        let mut next = self.table.oldest();
        while let Some(index) = next {
            let entry = &self.table[index];
            next = entry.newer();
            if entry.leases > 0 {
                continue;
            }
            if self.is_too_old(entry, now) {
                let id = self.table.id(index);
                return Some((id, self.end_idle(index, CloseReason::IdleTimeout, now)));
            }
            let up = entry.life.since + self.limit(entry);
            earliest = Some(earliest.map_or(up, |earliest| earliest.min(up)));
        }
        self.earliest = earliest;
        None
    }

    /// When a connection may next have waited too long, if one is waiting: not later than that.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Ends the connection that has been idle for the longest, to make room.
    pub fn evict(&mut self, now: Instant) -> Option<(ConnId, Farewell)> {
        self.end_oldest(CloseReason::Surplus, now, |_| true)
    }

    /// Ends an idle connection that speaks for somebody who has gone. Ask again until there is none.
    pub fn evict_of(&mut self, gone: Identity, now: Instant) -> Option<(ConnId, Farewell)> {
        self.end_oldest(CloseReason::Surplus, now, |life| life.identity == gone)
    }

    /// Ends one idle connection, and from now on every leased one at its release. Ask again until
    /// there is none.
    pub fn drain(&mut self, now: Instant) -> Option<(ConnId, Farewell)> {
        self.draining = true;
        self.end_oldest(CloseReason::Drain, now, |_| true)
    }

    /// Whether this pool is being emptied.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    fn end_oldest(
        &mut self,
        reason: CloseReason,
        now: Instant,
        fits: impl Fn(&Life) -> bool,
    ) -> Option<(ConnId, Farewell)> {
        let index = self.table.oldest_idle(fits)?;
        let id = self.table.id(index);
        Some((id, self.end_idle(index, reason, now)))
    }

    /// The connection that would be leased next to whoever it suits.
    pub fn next_free(&self, now: Instant) -> Option<Free> {
        let mut next = self.table.newest();
        while let Some(index) = next {
            let entry = &self.table[index];
            if !self.is_too_old(entry, now) {
                return Some(self.table.free(index, now));
            }
            next = entry.older();
        }
        None
    }

    /// The idle connection that suits, for another worker.
    pub fn idle_for(&mut self, now: Instant, wants: Wants) -> Option<Free> {
        let index = self.choose(now, wants)?;
        // One that is in use as well cannot leave.
        (self.table[index].leases == 0).then(|| self.table.free(index, now))
    }

    /// Leases this one of the free connections.
    #[must_use]
    pub fn lease_free(&mut self, id: ConnId, now: Instant) -> Leased {
        assert!(
            self.table.entry(id).is_some_and(Entry::is_free),
            "{id:?} is not free"
        );
        self.lease(id.index, now)
    }

    /// Takes this idle connection out of the pool, for another worker's.
    pub fn lend(&mut self, id: ConnId) -> Passport {
        self.table.unlink(id.index);
        self.counts.idle -= 1;
        self.counts.lent += 1;
        let entry = self.table.remove(id.index);
        assert!(entry.leases == 0, "{id:?} is in use");
        Passport(entry.life)
    }

    /// Ends this idle connection for `reason`.
    pub fn end_this(&mut self, id: ConnId, reason: CloseReason, now: Instant) -> Farewell {
        self.end_idle(id.index, reason, now)
    }

    /// Takes in an idle connection that another worker lent, and leases it.
    pub fn adopt(&mut self, passport: Passport, now: Instant) -> Leased {
        self.counts.borrowed += 1;
        let id = self.table.insert(Phase::Busy, passport.0);
        self.lease(id.index, now)
    }

    /// The backend was seen to close idle connections after `theirs`: again and again.
    pub fn learn(&mut self, theirs: Option<Duration>) {
        if self.settings.learn_idle_timeout && theirs != self.learned {
            self.learned = theirs;
            // All times are up sooner, or later, than they were.
            self.earliest = self
                .table
                .oldest()
                .map(|index| self.table[index].life.since);
        }
    }

    /// How long the backend was seen to keep idle connections.
    pub fn learned(&self) -> Option<Duration> {
        self.learned
    }

    /// Panics if anything that is always true is not. For tests, and after each event in debug
    /// builds.
    pub fn check(&self) {
        let mut seen = Counts::default();
        for entry in self.table.iter() {
            assert!(entry.leases <= entry.streams, "{entry:?}");
            match entry.phase {
                Phase::Opening => seen.opening += 1,
                _ if entry.leases > 0 => seen.leased += 1,
                Phase::Free { .. } => seen.idle += 1,
                Phase::Busy => panic!("neither in use nor free: {entry:?}"),
            }
            if let Phase::Free { .. } = entry.phase {
                assert!(entry.leases < entry.streams && entry.retires.is_none());
            }
            if let Some(limit) = self.settings.keep_alive.max_requests {
                let most = limit.get().saturating_add(1);
                let is_within = entry.streams > 1 || entry.life.exchanges <= most;
                assert!(is_within, "{entry:?}");
            }
        }
        let counts = &self.counts;
        assert_eq!(
            (seen.opening, seen.leased, seen.idle),
            (counts.opening, counts.leased, counts.idle),
            "each connection is in one phase and counted there"
        );
        assert_eq!(
            counts.opened + counts.borrowed,
            counts.leased + counts.idle + counts.lent + counts.closed_total(),
            "what came is here, lent or closed"
        );
        if self.draining || !self.settings.keeps() {
            assert_eq!(counts.idle, 0, "nothing is parked when nothing is kept");
        }
        self.check_list();
    }

    fn check_list(&self) {
        let mut idle = 0;
        let mut newer = None;
        let mut last: Option<Instant> = None;
        let mut next = self.table.newest();
        while let Some(index) = next {
            let entry = &self.table[index];
            let Phase::Free { newer: back, older } = entry.phase else {
                panic!("connection {index} is in the list and not free");
            };
            assert_eq!(back, newer, "the list holds together");
            if entry.leases == 0 {
                let since = entry.life.since;
                assert!(last.is_none_or(|last| since <= last), "the newest is first");
                last = Some(since);
                idle += 1;
                let up = since + self.limit(entry);
                assert!(self.earliest.is_some_and(|earliest| earliest <= up));
            }
            newer = Some(index);
            next = older;
        }
        assert_eq!(self.table.oldest(), newer, "the list ends with the oldest");
        assert_eq!(idle, self.counts.idle, "every idle connection is listed");
    }

    fn leased_mut(&mut self, id: ConnId) -> &mut Entry {
        let entry = self
            .table
            .entry_mut(id)
            .expect("a leased id is known until its release");
        assert!(entry.leases > 0, "{id:?} is not leased");
        entry
    }

    fn lease(&mut self, index: u32, now: Instant) -> Leased {
        let id = self.table.id(index);
        let entry = &mut self.table[index];
        let was_free = matches!(entry.phase, Phase::Free { .. });
        let was_idle = entry.leases == 0;
        entry.waited = entry.waited_at(now);
        entry.leases += 1;
        entry.life.exchanges = entry.life.exchanges.saturating_add(1);
        let (idle, exchange) = (entry.waited, entry.life.exchanges);
        self.counts.reused += u64::from(exchange > 1);
        let ages = entry.life.ages_at.is_some_and(|at| at <= now);
        let verdict = match self.verdict(id) {
            Verdict::Keep if ages => Verdict::Close(CloseReason::MaxAge),
            verdict @ (Verdict::Keep | Verdict::Close(_)) => verdict,
        };
        let entry = &mut self.table[index];
        if let Verdict::Close(reason) = verdict {
            entry.retires.get_or_insert(reason);
        }
        let is_free = entry.leases < entry.streams && entry.retires.is_none();
        if was_idle {
            self.counts.idle -= u64::from(was_free);
            self.counts.leased += 1;
        }
        match (was_free, is_free) {
            (true, false) => self.table.unlink(index),
            (false, true) => self.park(index),
            (true, true) | (false, false) => {}
        }
        Leased {
            id,
            exchange,
            idle: Some(idle),
            verdict,
        }
    }

    fn park(&mut self, index: u32) {
        let entry = &self.table[index];
        if entry.leases == 0 {
            let up = entry.life.since + self.limit(entry);
            self.earliest = Some(self.earliest.map_or(up, |earliest| earliest.min(up)));
        }
        self.table.link(index);
    }

    fn end_idle(&mut self, index: u32, reason: CloseReason, now: Instant) -> Farewell {
        self.table.unlink(index);
        self.counts.idle -= 1;
        let entry = &mut self.table[index];
        entry.waited = entry.waited_at(now);
        self.end(index, reason, now)
    }

    fn end(&mut self, index: u32, reason: CloseReason, now: Instant) -> Farewell {
        let entry = self.table.remove(index);
        self.counts.closed[reason as usize] += 1;
        Farewell {
            reason,
            exchanges: entry.life.exchanges,
            age: now.saturating_duration_since(entry.life.opened),
            idle: entry.waited,
        }
    }

    fn is_too_old(&self, entry: &Entry, now: Instant) -> bool {
        entry.leases == 0 && entry.waited_at(now) >= self.limit(entry)
    }

    /// How long a connection may wait.
    fn limit(&self, entry: &Entry) -> Duration {
        let learned = self.learned.map(|theirs| self.settings.idle_limit(theirs));
        entry.life.idle_limit.min(learned.unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::num::NonZeroU32;

    use crate::keepalive::KeepAlive;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
    const SAFE: Duration = Duration::from_secs(1);
    const ANY: Wants = Wants {
        need: Need::Any,
        identity: Identity(None),
    };
    const YOUNG: Wants = Wants {
        need: Need::Young,
        identity: Identity(None),
    };
    const NO_HINT: Hint = Hint {
        timeout: None,
        max: None,
    };

    fn settings(limit: u32) -> Settings {
        Settings {
            max_age: None,
            ..Settings::new(KeepAlive {
                enabled: true,
                max_requests: NonZeroU32::new(limit),
                timeout: IDLE,
            })
        }
    }

    fn pool(limit: u32) -> PoolState {
        PoolState::new(settings(limit))
    }

    fn open(pool: &mut PoolState, now: Instant) -> ConnId {
        let id = pool.opening(now, Identity(None));
        pool.opened(id, 1, 0, now).id
    }

    fn reuse(pool: &mut PoolState, now: Instant) -> Leased {
        pool.acquire(now, ANY).expect("a connection is waiting")
    }

    fn done(pool: &mut PoolState, id: ConnId, now: Instant) -> Option<CloseReason> {
        let ended = pool.release(id, End::Complete, NO_HINT, now);
        pool.check();
        ended.map(|farewell| farewell.reason)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_most_recently_parked_is_reused_first() {
        let now = Instant::now();
        let mut pool = pool(0);
        let ids: Vec<_> = (0..3).map(|_| open(&mut pool, now)).collect();
        for (&id, second) in ids.iter().zip(0..) {
            assert_eq!(done(&mut pool, id, now + secs(second)), None);
        }
        let order: Vec<_> = (0..3).map(|_| reuse(&mut pool, now + secs(3)).id).collect();
        assert_eq!(order, [ids[2], ids[1], ids[0]]);
        pool.check();
    }

    #[test]
    fn a_connection_that_waited_exactly_the_timeout_is_too_old() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        assert_eq!(done(&mut pool, id, now), None);
        assert_eq!(pool.next_deadline(), Some(now + IDLE));
        assert_eq!(pool.expire(now + IDLE - Duration::from_nanos(1)), None);
        assert_eq!(pool.acquire(now + IDLE, ANY), None);
        let (expired, farewell) = pool.expire(now + IDLE).unwrap();
        assert_eq!(expired, id);
        assert_eq!(
            farewell,
            Farewell {
                reason: CloseReason::IdleTimeout,
                exchanges: 1,
                age: IDLE,
                idle: IDLE
            }
        );
        assert_eq!(pool.counts().closed[CloseReason::IdleTimeout as usize], 1);
        pool.check();
    }

    #[test]
    fn the_request_after_the_limit_is_the_last_and_is_told_so() {
        let now = Instant::now();
        let mut pool = pool(2);
        let id = open(&mut pool, now);
        assert_eq!(done(&mut pool, id, now), None);
        let second = reuse(&mut pool, now);
        assert_eq!((second.exchange, second.verdict), (2, Verdict::Keep));
        assert_eq!(done(&mut pool, id, now), None);
        let third = reuse(&mut pool, now);
        assert_eq!(third.verdict, Verdict::Close(CloseReason::RequestLimit));
        assert_eq!(done(&mut pool, id, now), Some(CloseReason::RequestLimit));
        assert_eq!(pool.acquire(now, ANY), None);
    }

    #[test]
    fn short_mode_never_parks() {
        let now = Instant::now();
        let mut pool = PoolState::new(Settings::new(KeepAlive {
            enabled: false,
            ..KeepAlive::BACKEND
        }));
        for _ in 0..3 {
            let id = open(&mut pool, now);
            assert_eq!(done(&mut pool, id, now), Some(CloseReason::KeepAliveOff));
        }
        assert_eq!((pool.counts().opened, pool.counts().reused), (3, 0));
    }

    #[test]
    fn draining_ends_the_idle_at_once_and_the_leased_at_their_release() {
        let now = Instant::now();
        let mut pool = pool(0);
        let (busy, idle) = (open(&mut pool, now), open(&mut pool, now));
        assert_eq!(done(&mut pool, idle, now), None);
        assert_eq!(pool.drain(now).map(|(id, _)| id), Some(idle));
        assert_eq!(pool.drain(now), None);
        assert_eq!(done(&mut pool, busy, now), Some(CloseReason::Drain));
    }

    #[test]
    fn an_id_that_has_ended_is_not_mistaken_for_its_successor() {
        let now = Instant::now();
        let mut pool = pool(0);
        let first = open(&mut pool, now);
        let spent = End::Spent(CloseReason::PeerAsked);
        assert!(pool.release(first, spent, NO_HINT, now).is_some());
        let second = open(&mut pool, now);
        assert_eq!(first.index(), second.index());
        assert_eq!(done(&mut pool, second, now), None);
        assert_eq!(pool.peer_closed(first, Gone::CLOSED, now), None);
        assert!(pool.peer_closed(second, Gone::CLOSED, now).is_some());
        pool.check();
    }

    #[test]
    fn a_connection_past_its_age_serves_once_more_and_is_told_that_it_is_the_last_time() {
        let now = Instant::now();
        let mut pool = PoolState::new(Settings {
            max_age: Some(secs(100)),
            ..settings(0)
        });
        for (draw, lives) in [(0, secs(100)), (u32::MAX, secs(90))] {
            let id = pool.opening(now, Identity(None));
            let _first = pool.opened(id, 1, draw, now);
            let just_before = now + lives - secs(1);
            assert_eq!(done(&mut pool, id, just_before), None);
            assert_eq!(reuse(&mut pool, just_before).verdict, Verdict::Keep);
            assert_eq!(done(&mut pool, id, now + lives), None);
            let last = reuse(&mut pool, now + lives);
            assert_eq!(last.verdict, Verdict::Close(CloseReason::MaxAge));
            assert_eq!(done(&mut pool, id, now + lives), Some(CloseReason::MaxAge));
        }
    }

    #[test]
    fn the_backends_hint_shortens_the_wait_and_the_number_of_exchanges() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        let hint = Hint {
            timeout: Some(secs(5)),
            max: Some(2),
        };
        assert_eq!(pool.release(id, End::Complete, hint, now), None);
        assert_eq!(pool.next_deadline(), Some(now + secs(4)), "a second less");
        assert_eq!(pool.acquire(now + secs(4), ANY), None);
        let second = reuse(&mut pool, now + secs(3));
        assert_eq!(second.verdict, Verdict::Keep);
        assert_eq!(done(&mut pool, id, now + secs(3)), None);
        let third = reuse(&mut pool, now + secs(3));
        assert_eq!(third.verdict, Verdict::Close(CloseReason::RequestLimit));
    }

    #[test]
    fn a_hint_never_makes_anything_longer_and_can_be_switched_off() {
        let now = Instant::now();
        let long = Hint {
            timeout: Some(secs(3600)),
            max: Some(1_000_000),
        };
        let mut pool = pool(1);
        let id = open(&mut pool, now);
        assert_eq!(pool.release(id, End::Complete, long, now), None);
        assert_eq!(pool.next_deadline(), Some(now + IDLE));
        assert_ne!(reuse(&mut pool, now).verdict, Verdict::Keep);

        let mut deaf = PoolState::new(Settings {
            heed_hints: false,
            ..settings(0)
        });
        let id = open(&mut deaf, now);
        let short = Hint {
            timeout: Some(secs(1)),
            max: Some(0),
        };
        assert_eq!(deaf.release(id, End::Complete, short, now), None);
        assert_eq!(deaf.next_deadline(), Some(now + IDLE));
        assert_eq!(reuse(&mut deaf, now).verdict, Verdict::Keep);
    }

    #[test]
    fn a_backend_that_keeps_nothing_gets_nothing_parked() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        let hint = Hint {
            timeout: Some(Duration::ZERO),
            max: None,
        };
        let ended = pool.release(id, End::Complete, hint, now);
        assert_eq!(ended.map(|end| end.reason), Some(CloseReason::PeerAsked));
        pool.check();
    }

    #[test]
    fn what_was_learned_shortens_the_wait_of_all_and_is_undone_when_forgotten() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        assert_eq!(done(&mut pool, id, now), None);
        pool.learn(Some(secs(10)));
        pool.check();
        assert_eq!(pool.acquire(now + secs(9), ANY), None);
        assert!(pool.next_deadline().unwrap() <= now + secs(9));
        pool.learn(None);
        pool.check();
        assert_eq!(pool.expire(now + secs(9)), None);
        assert_eq!(reuse(&mut pool, now + secs(9)).id, id);
    }

    #[test]
    fn a_request_that_cannot_be_sent_twice_takes_none_that_waited_safe_idle() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = open(&mut pool, now);
        assert_eq!(done(&mut pool, id, now), None);
        assert_eq!(pool.acquire(now + SAFE, YOUNG), None);
        let leased = pool.acquire(now + SAFE - Duration::from_nanos(1), YOUNG);
        assert_eq!(leased.map(|leased| leased.id), Some(id));
    }

    #[test]
    fn others_leave_the_young_to_it() {
        let now = Instant::now();
        let mut pool = pool(0);
        let (old, young) = (open(&mut pool, now), open(&mut pool, now));
        assert_eq!(done(&mut pool, old, now), None);
        assert_eq!(done(&mut pool, young, now + secs(5)), None);
        let later = now + secs(5);
        // Nobody has asked for a young one: the latest first.
        let leased = reuse(&mut pool, later);
        assert_eq!(leased.id, young);
        assert_eq!(pool.unused(leased, later), None);
        let leased = pool.acquire(later, YOUNG).unwrap();
        assert_eq!(leased.id, young);
        assert_eq!(pool.unused(leased, later), None);
        assert_eq!(reuse(&mut pool, later).id, old);
        assert_eq!(reuse(&mut pool, later).id, young, "better than a new one");
        pool.check();
    }

    #[test]
    fn a_connection_serves_only_for_whom_it_speaks() {
        let now = Instant::now();
        let mut pool = pool(0);
        let of = |n: u8| Identity(Some((SocketAddr::from(([10, 0, 0, n], 1)), PROXY)));
        for n in 1..=3 {
            let id = pool.opening(now, of(n));
            let leased = pool.opened(id, 1, 0, now);
            assert_eq!(done(&mut pool, leased.id, now), None);
        }
        let wants = |identity| Wants {
            need: Need::Any,
            identity,
        };
        assert!(pool.acquire(now, ANY).is_none());
        assert!(pool.acquire(now, wants(of(4))).is_none());
        let id = pool.acquire(now, wants(of(1))).unwrap().id;
        assert!(pool.acquire(now, wants(of(1))).is_none());
        assert_eq!(done(&mut pool, id, now), None);
        assert_eq!(pool.acquire(now, wants(of(1))).unwrap().id, id);
    }

    #[test]
    fn a_multiplexed_connection_is_leased_up_to_its_streams_and_idle_after_the_last() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = pool.opening(now, Identity(None));
        let _first = pool.opened(id, 3, 0, now);
        pool.check();
        for _ in 0..2 {
            assert_eq!(reuse(&mut pool, now).id, id);
        }
        assert_eq!(pool.acquire(now, ANY), None, "three at once");
        for n in 1..=3 {
            assert_eq!(pool.counts().idle, 0);
            assert_eq!(done(&mut pool, id, now + secs(n)), None);
        }
        assert_eq!((pool.counts().leased, pool.counts().idle), (0, 1));
        assert_eq!(pool.next_deadline(), Some(now + secs(3) + IDLE));
    }

    #[test]
    fn a_multiplexed_connection_that_was_closed_takes_no_more_and_ends_with_its_last_exchange() {
        let now = Instant::now();
        let mut pool = pool(0);
        let id = pool.opening(now, Identity(None));
        let _first = pool.opened(id, 9, 0, now);
        let _second = reuse(&mut pool, now);
        assert_eq!(pool.peer_closed(id, Gone::CLOSED, now), None);
        assert_eq!(pool.acquire(now, ANY), None);
        assert_eq!(done(&mut pool, id, now), None);
        assert_eq!(done(&mut pool, id, now), Some(CloseReason::PeerClosedBusy));
    }

    #[test]
    fn a_lent_connection_keeps_its_age_its_exchanges_and_its_limits() {
        let now = Instant::now();
        let (mut here, mut there) = (pool(3), pool(3));
        let id = open(&mut here, now);
        let hint = Hint {
            timeout: Some(secs(10)),
            max: None,
        };
        assert_eq!(here.release(id, End::Complete, hint, now), None);
        let free = here.idle_for(now + secs(1), ANY).unwrap();
        assert_eq!((free.id, free.idle), (id, secs(1)));
        let passport = here.lend(id);
        here.check();
        let leased = there.adopt(passport, now + secs(2));
        assert_eq!((leased.exchange, leased.idle), (2, Some(secs(2))));
        assert_eq!(there.unused(leased, now + secs(2)), None);
        there.check();
        assert_eq!(there.next_deadline(), Some(now + secs(9)));
        let last = there.expire(now + secs(9)).unwrap().1;
        assert_eq!((last.exchanges, last.age), (1, secs(9)));
        assert_eq!((here.counts().lent, there.counts().borrowed), (1, 1));
        there.check();
    }

    #[derive(Clone, Debug)]
    enum Event {
        Acquire(bool, u8),
        Opening(u8),
        Opened(usize),
        Stocked(usize),
        OpenFailed(usize),
        Release(usize, bool, Option<u64>, Option<u32>),
        Unused(usize),
        Stale(usize),
        PeerClosed(usize),
        LendAndAdopt,
        Expire,
        Evict,
        Learn(Option<u64>),
        Drain,
    }

    fn event() -> impl Strategy<Value = Event> {
        let which = 0..8usize;
        let identity = prop_oneof![9 => Just(0u8), 1 => 1..3u8];
        let hint = prop::option::weighted(0.1, 0..90u64);
        let max = prop::option::weighted(0.1, 0..4u32);
        prop_oneof![
            9 => (any::<bool>(), identity.clone()).prop_map(|(young, who)| Event::Acquire(young, who)),
            7 => identity.prop_map(Event::Opening),
            6 => which.clone().prop_map(Event::Opened),
            2 => which.clone().prop_map(Event::Stocked),
            1 => which.clone().prop_map(Event::OpenFailed),
            9 => (which.clone(), prop::bool::weighted(0.8), hint, max)
                .prop_map(|(i, ok, hint, max)| Event::Release(i, ok, hint, max)),
            1 => which.clone().prop_map(Event::Unused),
            1 => which.clone().prop_map(Event::Stale),
            2 => which.prop_map(Event::PeerClosed),
            1 => Just(Event::LendAndAdopt),
            2 => Just(Event::Expire),
            1 => Just(Event::Evict),
            1 => prop::option::of(2..90u64).prop_map(Event::Learn),
            1 => prop::bool::weighted(0.1).prop_map(|yes| if yes { Event::Drain } else { Event::Expire }),
        ]
    }

    /// What the outside holds, and what it knows of each connection.
    #[derive(Default)]
    struct Outside {
        opening: Vec<(ConnId, Identity)>,
        leased: Vec<(Leased, Known)>,
        parked: Vec<(ConnId, Instant, Known)>,
        learned: Option<Duration>,
        drained: bool,
    }

    #[derive(Clone, Copy)]
    struct Known {
        identity: Identity,
        limit: Duration,
        /// Of concurrent leases of the same connection there is one entry each.
        streams: u32,
    }

    fn whom(n: u8) -> Identity {
        Identity((n > 0).then(|| (SocketAddr::from(([10, 0, 0, n], 1)), PROXY)))
    }

    impl Outside {
        fn limit(&self, known: &Known) -> Duration {
            let learned = self
                .learned
                .map_or(IDLE, |theirs| settings(0).idle_limit(theirs));
            known.limit.min(learned)
        }

        #[expect(clippy::too_many_lines, reason = "one arm for each event")]
        fn apply(&mut self, event: &Event, pool: &mut PoolState, now: Instant) {
            fn pick<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
                (!list.is_empty()).then(|| list.swap_remove(which % list.len()))
            }
            match *event {
                Event::Acquire(young, who) => {
                    let need = if young { Need::Young } else { Need::Any };
                    let wants = Wants {
                        need,
                        identity: whom(who),
                    };
                    let fits = |(_, since, known): &&(ConnId, Instant, Known)| {
                        known.identity == wants.identity
                            && now - *since < self.limit(known)
                            && (need == Need::Any || now - *since < SAFE)
                    };
                    let there_is_one = self.parked.iter().any(|parked| fits(&parked));
                    match pool.acquire(now, wants) {
                        Some(leased) => {
                            let at = self.parked.iter().position(|(id, ..)| *id == leased.id);
                            let (_, since, known) = self.parked.remove(at.expect("it was parked"));
                            assert_eq!(known.identity, wants.identity);
                            assert!(
                                now - since < self.limit(&known),
                                "handed out after its time"
                            );
                            assert!(need == Need::Any || now - since < SAFE);
                            assert_eq!(leased.idle, Some(now - since));
                            self.leased.push((leased, known));
                        }
                        None => assert!(!there_is_one, "one would have done"),
                    }
                }
                Event::Opening(who) => self.opening.push((pool.opening(now, whom(who)), whom(who))),
                Event::Opened(which) => {
                    if let Some((id, identity)) = pick(&mut self.opening, which) {
                        let known = Known {
                            identity,
                            limit: IDLE,
                            streams: 1,
                        };
                        self.leased
                            .push((pool.opened(id, known.streams, 0, now), known));
                    }
                }
                Event::Stocked(which) if !self.drained => {
                    if let Some((id, identity)) = pick(&mut self.opening, which) {
                        pool.stocked(id, 1, 0, now);
                        self.parked.push((
                            id,
                            now,
                            Known {
                                identity,
                                limit: IDLE,
                                streams: 1,
                            },
                        ));
                    }
                }
                Event::Stocked(which) | Event::OpenFailed(which) => {
                    if let Some((id, _)) = pick(&mut self.opening, which) {
                        pool.open_failed(id);
                    }
                }
                Event::Release(which, ok, timeout, max) => {
                    if let Some((leased, mut known)) = pick(&mut self.leased, which) {
                        let end = if ok {
                            End::Complete
                        } else {
                            End::Spent(CloseReason::Protocol)
                        };
                        let hint = Hint {
                            timeout: timeout.map(secs),
                            max,
                        };
                        if let Some(theirs) = hint.timeout {
                            known.limit = settings(0).idle_limit(theirs);
                        }
                        if pool.release(leased.id, end, hint, now).is_none() {
                            assert!(ok && !self.drained);
                            assert_eq!(leased.verdict, Verdict::Keep, "announced as the last one");
                            self.parked.push((leased.id, now, known));
                        }
                    }
                }
                Event::Unused(which) => {
                    let at = self
                        .leased
                        .iter()
                        .position(|(leased, _)| leased.verdict == Verdict::Keep);
                    if let Some(at) = at {
                        let (leased, known) = self.leased.swap_remove(at.max(which.min(at)));
                        if pool.unused(leased, now).is_none() {
                            let since = leased.idle.map_or(now, |idle| now - idle);
                            self.parked.push((leased.id, since, known));
                        }
                    }
                }
                Event::Stale(which) => {
                    let reused = |(leased, _): &(Leased, Known)| leased.exchange > 1;
                    if let Some(at) = self.leased.iter().position(reused) {
                        let (leased, _) = self.leased.swap_remove(at.max(which.min(at)));
                        assert!(
                            pool.stale(leased, CloseReason::PeerClosedIdle, now)
                                .is_some()
                        );
                    }
                }
                Event::PeerClosed(which) => {
                    if let Some((id, since, _)) = pick(&mut self.parked, which) {
                        let farewell = pool.peer_closed(id, Gone::CLOSED, now).unwrap();
                        assert_eq!(farewell.idle, now - since);
                        assert_eq!(pool.peer_closed(id, Gone::CLOSED, now), None, "ended twice");
                    }
                }
                Event::LendAndAdopt => {
                    if let Some(free) = pool.idle_for(now, ANY) {
                        let at = self
                            .parked
                            .iter()
                            .position(|(id, ..)| *id == free.id)
                            .unwrap();
                        let (_, since, known) = self.parked.remove(at);
                        let passport = pool.lend(free.id);
                        pool.check();
                        let leased = pool.adopt(passport, now);
                        assert_eq!(leased.idle, Some(now - since));
                        self.leased.push((leased, known));
                    }
                }
                Event::Expire => {
                    while let Some((id, farewell)) = pool.expire(now) {
                        let at = self
                            .parked
                            .iter()
                            .position(|(parked, ..)| *parked == id)
                            .unwrap();
                        let (_, since, known) = self.parked.remove(at);
                        assert_eq!(farewell.idle, now - since);
                        assert!(now - since >= self.limit(&known), "expired too early");
                    }
                    for (_, since, known) in &self.parked {
                        assert!(now - *since < self.limit(known), "not expired");
                        assert!(pool.next_deadline().unwrap() <= *since + self.limit(known));
                    }
                }
                Event::Evict => {
                    if let Some((id, _)) = pool.evict(now) {
                        let oldest = self.parked.iter().map(|(_, since, _)| *since).min();
                        let at = self
                            .parked
                            .iter()
                            .position(|(parked, ..)| *parked == id)
                            .unwrap();
                        assert_eq!(
                            Some(self.parked.remove(at).1),
                            oldest,
                            "the longest idle goes"
                        );
                    }
                }
                Event::Learn(theirs) => {
                    self.learned = theirs.map(secs);
                    pool.learn(self.learned);
                }
                Event::Drain => {
                    self.drained = true;
                    while pool.drain(now).is_some() {}
                    self.parked.clear();
                }
            }
        }
    }

    proptest! {
        /// Whatever happens in whatever order: what is promised of each connection holds, and the
        /// books balance after each event.
        #[test]
        fn the_books_balance(script in prop::collection::vec((0..20u64, event()), 1..300), limit in 0..4u32) {
            let mut pool = pool(limit);
            let mut outside = Outside::default();
            let mut now = Instant::now();
            for (seconds, event) in script {
                now += Duration::from_millis(seconds * 500);
                outside.apply(&event, &mut pool, now);
                pool.check();
            }
            let counts = pool.counts();
            let held = [&outside.opening.len(), &outside.leased.len(), &outside.parked.len()];
            prop_assert_eq!([counts.opening, counts.leased, counts.idle], held.map(|n| *n as u64));
        }

        /// A multiplexed connection carries no more than it can, and every exchange is given back.
        #[test]
        fn streams_are_bounded(script in prop::collection::vec((0..20u64, 0..4u8, 0..8usize), 1..200), streams in 1..5u32) {
            let mut pool = pool(0);
            let mut now = Instant::now();
            let mut leased: Vec<ConnId> = Vec::new();
            for (ms, what, which) in script {
                now += Duration::from_millis(ms);
                match what {
                    0 | 1 => if let Some(lease) = pool.acquire(now, ANY) {
                        leased.push(lease.id);
                    } else {
                        let id = pool.opening(now, Identity(None));
                        leased.push(pool.opened(id, streams, 0, now).id);
                    },
                    2 => if !leased.is_empty() {
                        let id = leased.swap_remove(which % leased.len());
                        let _ended = pool.release(id, End::Complete, NO_HINT, now);
                    },
                    _ => if !leased.is_empty() {
                        let id = leased.swap_remove(which % leased.len());
                        let _ended = pool.release(id, End::Spent(CloseReason::Protocol), NO_HINT, now);
                    },
                }
                pool.check();
                for id in &leased {
                    prop_assert!(leased.iter().filter(|other| *other == id).count() <= streams as usize);
                }
            }
            let connections = pool.counts().leased;
            let distinct: std::collections::HashSet<_> = leased.iter().collect();
            prop_assert_eq!(connections, distinct.len() as u64);
        }
    }
}
