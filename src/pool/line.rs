//! The line before one server, for the whole process: who may open a connection, who waits for
//! one, who is served next.
//!
//! A plain state machine, as [`super::PoolState`] is: told what happened and what time it is, it
//! returns what to do. It knows of connections only how many there are.
//!
//! Whoever needs a connection stands in line, also while he opens one himself: a connection that
//! comes free meanwhile goes to the longest waiting, and the one being opened to whoever is first
//! when it is there (late binding). So no connect is raced, and none is wasted.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;

/// After `EADDRNOTAVAIL` nothing is opened for this long; doubled each time, up to the most.
///
/// A `connect()` that finds no port searches the whole range: 5 ms of CPU for 28,232 ports.
const HOLD: Duration = Duration::from_millis(50);
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// A place in the line: numbers grow, and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What came of [`Line::arrive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Arrival {
    /// Open a connection; stand in line until it, or another one, is there.
    Open(Ticket),
    /// Wait for a connection, or for the permission to open one.
    Wait(Ticket),
    /// The line is full.
    Full,
}

/// To whom a free connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offer<W> {
    /// To this one, who has left the line with it.
    To(W),
    /// Nobody who waits can use it, and somebody does wait for its place: close it.
    MakeRoom,
    /// Nobody waits: keep it.
    Nobody,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: Ticket,
    /// May open a connection, and does.
    opening: bool,
    who: W,
}

/// The line before one server.
///
/// Always true between calls:
/// - connections, those being opened included, are at most `max_connections`;
/// - of them at most `max_connecting` are being opened;
/// - since a port was lacking, and until a connection is there, one at a time is begun;
/// - nobody joins beyond `max_waiting` who may not open at once;
/// - they stand in the order they came;
/// - who may open has an attempt under way, his own or one that will serve him as well;
/// - nobody waits without permission who could be given it ([`Line::next_to_open`] is asked after
///   every event).
#[derive(Debug)]
pub struct Line<W> {
    max_connections: u32,
    max_connecting: u32,
    max_waiting: u32,
    pace: Option<Pace>,
    waiters: VecDeque<Waiter<W>>,
    next_ticket: u64,
    /// Waiters that may not open.
    idle_waiters: u32,
    connections: u32,
    connecting: u32,
    hold: Duration,
    /// Until when nothing is opened as a port was lacking; kept until a connection is there.
    held_until: Option<Instant>,
    /// Who has been told to ask again at which time.
    duty: Option<(Ticket, Instant)>,
}

/// At most so many in a second, a tenth of a second's worth at once.
#[derive(Debug)]
struct Pace {
    each: Duration,
    burst: Duration,
    /// When the next one would be due if they came at an even pace.
    due: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Pace {
        let each = Duration::from_secs(1) / per_second;
        Pace {
            each,
            burst: Duration::from_millis(100).saturating_sub(each),
            due: None,
        }
    }

    /// When the next one may begin, if not now.
    fn wait(&self, now: Instant) -> Option<Instant> {
        self.due
            .filter(|due| due.saturating_duration_since(now) > self.burst)
            .map(|due| due - self.burst)
    }

    fn take(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.each);
    }
}

impl<W> Line<W> {
    /// An empty line under these settings.
    pub fn new(settings: &Settings) -> Line<W> {
        let most = |limit: Option<std::num::NonZeroU32>| limit.map_or(u32::MAX, u32::from);
        Line {
            max_connections: most(settings.max_connections),
            max_connecting: most(settings.max_connecting),
            max_waiting: settings.max_waiting,
            pace: settings
                .max_connects_per_second
                .map(|limit| Pace::new(limit.get())),
            waiters: VecDeque::new(),
            next_ticket: 0,
            idle_waiters: 0,
            connections: 0,
            connecting: 0,
            hold: HOLD,
            held_until: None,
            duty: None,
        }
    }

    /// Joins the line.
    pub fn arrive(&mut self, now: Instant, who: W) -> Arrival {
        let ticket = Ticket(self.next_ticket);
        let first = self.idle_waiters == 0;
        // What is being opened for one who has been served meanwhile will do for him.
        let is_coming = first && self.connecting > self.opening_waiters();
        let opens = first && !is_coming && self.may_open(now);
        if opens {
            self.begin(now);
        } else if !is_coming {
            if self.idle_waiters >= self.max_waiting {
                return Arrival::Full;
            }
            self.idle_waiters += 1;
        }
        self.next_ticket += 1;
        self.waiters.push_back(Waiter {
            ticket,
            opening: opens || is_coming,
            who,
        });
        if opens {
            Arrival::Open(ticket)
        } else {
            Arrival::Wait(ticket)
        }
    }

    /// Permission to open a connection for nobody in particular, if nobody waits for it.
    #[must_use]
    pub fn open_for_stock(&mut self, now: Instant) -> bool {
        let free = self.idle_waiters == 0 && self.may_open(now);
        if free {
            self.begin(now);
        }
        free
    }

    /// Gives the longest waiting without it the permission to open. To be asked after every other
    /// call, until there is none.
    pub fn next_to_open(&mut self, now: Instant) -> Option<&W> {
        self.balance_permissions();
        if self.idle_waiters == 0 || !self.may_open(now) {
            return None;
        }
        self.begin(now);
        self.idle_waiters -= 1;
        let waiter = self.waiters.iter_mut().find(|waiter| !waiter.opening);
        let waiter = waiter.expect("those who may not open are counted");
        waiter.opening = true;
        Some(&waiter.who)
    }

    /// Who has to see to it that [`next_to_open`](Self::next_to_open) is asked at
    /// [`next_chance`](Self::next_chance), if he has not been told yet.
    pub fn on_duty(&mut self, now: Instant) -> Option<&W> {
        let chance = self.next_chance(now)?;
        let first = self.waiters.iter().find(|waiter| !waiter.opening)?;
        let duty = Some((first.ticket, chance));
        if self.duty == duty {
            return None;
        }
        self.duty = duty;
        Some(&first.who)
    }

    /// When somebody who waits may be allowed to open, if that is a matter of time.
    pub fn next_chance(&self, now: Instant) -> Option<Instant> {
        let paced = self.pace.as_ref().and_then(|pace| pace.wait(now));
        let held = self.held_until.filter(|until| *until > now);
        paced.max(held)
    }

    /// A connection that was being opened is there. To whom does it go? To the longest waiting
    /// whom it suits, whoever began to open it.
    pub fn arrived(&mut self, suits: impl FnMut(&W) -> bool) -> Offer<W> {
        self.connecting -= 1;
        self.hold = HOLD;
        self.held_until = None;
        self.offer(suits)
    }

    /// The attempt of `ticket` came to nothing: he leaves the line, to say so. An attempt for
    /// nobody has no ticket.
    pub fn failed(&mut self, ticket: Option<Ticket>) {
        self.connecting -= 1;
        self.connections -= 1;
        if let Some(ticket) = ticket {
            self.leave(ticket);
        }
    }

    /// The attempt of `ticket` came to nothing at the server: for that there was a port.
    pub fn refused(&mut self, ticket: Option<Ticket>) {
        self.hold = HOLD;
        self.held_until = None;
        self.failed(ticket);
    }

    /// This machine has no port left for the server: nothing is opened for a while, so that
    /// requests wait for a connection that comes free, `ticket`'s among them.
    pub fn out_of_ports(&mut self, ticket: Option<Ticket>, now: Instant) {
        self.failed(None);
        // Attempts that were under way together find out together: that is once.
        if self.held_until.is_none_or(|until| until <= now) {
            self.held_until = Some(now + self.hold);
            self.hold = (self.hold * 2).min(LONGEST_HOLD);
        }
        if let Some(at) = ticket.and_then(|ticket| self.position(ticket)) {
            self.forbid(at);
        }
    }

    /// A connection has ended.
    pub fn ended(&mut self) {
        self.connections -= 1;
    }

    /// Leaves the line, served or not. False when the ticket has left it already.
    ///
    /// A permission to open stays: it ends with its attempt.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(at) = self.position(ticket) else {
            return false;
        };
        self.remove(at);
        true
    }

    /// Whether this one stands in line, and whether he may open.
    pub fn stands(&self, ticket: Ticket) -> Option<bool> {
        self.position(ticket).map(|at| self.waiters[at].opening)
    }

    /// A connection is free: to whom does it go? `suits` says whether one who waits can use it.
    pub fn offer(&mut self, mut suits: impl FnMut(&W) -> bool) -> Offer<W> {
        match self.waiters.iter().position(|waiter| suits(&waiter.who)) {
            Some(at) => Offer::To(self.remove(at).who),
            None if self.idle_waiters > 0 && self.connections >= self.max_connections => {
                Offer::MakeRoom
            }
            None => Offer::Nobody,
        }
    }

    /// How many stand in line, whether they may open or not.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// How many wait without being allowed to open.
    pub fn waiting(&self) -> u32 {
        self.idle_waiters
    }

    /// Whether, when a connection was last to be opened, no port was left.
    pub fn lacks_ports(&self) -> bool {
        self.held_until.is_some()
    }

    /// How many connections there are, those being opened included.
    pub fn connections(&self) -> u32 {
        self.connections
    }

    fn may_open(&self, now: Instant) -> bool {
        self.connections < self.max_connections
            && self.connecting < self.max_connecting()
            && self.next_chance(now).is_none()
    }

    /// How many may be opening at once. While ports are lacking it is one: all who wait would search
    /// the whole range in vain, each for himself.
    fn max_connecting(&self) -> u32 {
        if self.lacks_ports() {
            1
        } else {
            self.max_connecting
        }
    }

    fn begin(&mut self, now: Instant) {
        self.connections += 1;
        self.connecting += 1;
        if let Some(pace) = &mut self.pace {
            pace.take(now);
        }
    }

    /// There are as many who may open as attempts under way, if so many wait: an attempt whose owner
    /// has been served meanwhile is the next one's, and when it fails, the last has to ask anew.
    fn balance_permissions(&mut self) {
        while self.opening_waiters() > self.connecting {
            let last = self.waiters.iter().rposition(|waiter| waiter.opening);
            self.forbid(last.expect("those who may open are counted"));
        }
        while self.idle_waiters > 0 && self.opening_waiters() < self.connecting {
            let first = self.waiters.iter_mut().find(|waiter| !waiter.opening);
            first.expect("those who may not open are counted").opening = true;
            self.idle_waiters -= 1;
        }
    }

    fn opening_waiters(&self) -> u32 {
        u32::try_from(self.waiters.len()).expect("the line is short") - self.idle_waiters
    }

    fn forbid(&mut self, at: usize) {
        if std::mem::take(&mut self.waiters[at].opening) {
            self.idle_waiters += 1;
        }
    }

    fn position(&self, ticket: Ticket) -> Option<usize> {
        // Those who leave are mostly among the first.
        self.waiters
            .iter()
            .position(|waiter| waiter.ticket == ticket)
    }

    fn remove(&mut self, at: usize) -> Waiter<W> {
        let waiter = self.waiters.remove(at).expect("the place is in the line");
        if !waiter.opening {
            self.idle_waiters -= 1;
        }
        waiter
    }

    /// Panics if anything that is always true is not. For tests, and after each event in debug
    /// builds.
    pub fn check(&self, now: Instant) {
        assert!(self.connections <= self.max_connections);
        assert!(self.connecting <= self.max_connecting && self.connecting <= self.connections);
        let idle = self.waiters.iter().filter(|waiter| !waiter.opening);
        assert_eq!(idle.count(), self.idle_waiters as usize);
        let next = self.waiters.iter().skip(1);
        assert!(
            self.waiters
                .iter()
                .zip(next)
                .all(|(one, next)| one.ticket < next.ticket),
            "they stand in the order they came"
        );
        assert!(self.opening_waiters() <= self.connecting);
        assert!(self.idle_waiters == 0 || self.opening_waiters() == self.connecting);
        assert!(
            self.idle_waiters == 0 || !self.may_open(now),
            "somebody waits who could open a connection"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use crate::keepalive::KeepAlive;

    use super::*;

    fn settings(connections: u32, connecting: u32, per_second: u32, waiting: u32) -> Settings {
        Settings {
            max_connections: NonZeroU32::new(connections),
            max_connecting: NonZeroU32::new(connecting),
            max_connects_per_second: NonZeroU32::new(per_second),
            max_waiting: waiting,
            ..Settings::new(KeepAlive::BACKEND)
        }
    }

    fn opens(line: &mut Line<u32>, now: Instant, who: u32) -> Ticket {
        match line.arrive(now, who) {
            Arrival::Open(ticket) => ticket,
            other @ (Arrival::Wait(_) | Arrival::Full) => panic!("{who} may open, got {other:?}"),
        }
    }

    fn waits(line: &mut Line<u32>, now: Instant, who: u32) -> Ticket {
        match line.arrive(now, who) {
            Arrival::Wait(ticket) => ticket,
            other @ (Arrival::Open(_) | Arrival::Full) => {
                panic!("{who} has to wait, got {other:?}")
            }
        }
    }

    #[test]
    fn beyond_the_limit_they_wait_and_beyond_that_they_are_refused() {
        let now = Instant::now();
        let mut line = Line::new(&settings(1, 0, 0, 2));
        opens(&mut line, now, 1);
        waits(&mut line, now, 2);
        waits(&mut line, now, 3);
        assert_eq!(line.arrive(now, 4), Arrival::Full);
        assert_eq!(line.next_to_open(now), None);
        line.check(now);
    }

    #[test]
    fn a_free_connection_goes_to_the_longest_waiting_even_if_another_opened_it() {
        let now = Instant::now();
        let mut line = Line::new(&settings(0, 0, 0, 9));
        opens(&mut line, now, 1);
        let second = opens(&mut line, now, 2);
        assert_eq!(
            line.arrived(|_| true),
            Offer::To(1),
            "the second's is there first"
        );
        assert_eq!(
            line.stands(second),
            Some(true),
            "the first's attempt is his now"
        );
        assert_eq!(line.arrived(|_| true), Offer::To(2));
        assert_eq!(line.offer(|_| true), Offer::Nobody);
        line.check(now);
    }

    #[test]
    fn when_the_attempt_of_one_who_was_served_fails_the_last_asks_anew() {
        let now = Instant::now();
        let mut line = Line::new(&settings(2, 0, 0, 9));
        let first = opens(&mut line, now, 1);
        let second = opens(&mut line, now, 2);
        assert_eq!(line.arrived(|_| true), Offer::To(1));
        line.failed(Some(first));
        assert_eq!(
            line.next_to_open(now),
            Some(&2),
            "he has no attempt any more"
        );
        assert_eq!(line.stands(second), Some(true));
        line.check(now);
    }

    #[test]
    fn what_is_being_opened_for_one_who_was_served_does_for_the_next() {
        let now = Instant::now();
        let mut line = Line::new(&settings(0, 0, 0, 9));
        opens(&mut line, now, 1);
        assert_eq!(line.offer(|_| true), Offer::To(1), "one came free");
        waits(&mut line, now, 2);
        opens(&mut line, now, 3);
        line.check(now);
        assert_eq!(line.arrived(|_| true), Offer::To(2));
    }

    #[test]
    fn the_end_of_a_connection_lets_the_longest_waiting_open() {
        let now = Instant::now();
        let mut line = Line::new(&settings(1, 0, 0, 9));
        opens(&mut line, now, 1);
        assert_eq!(line.arrived(|_| true), Offer::To(1));
        waits(&mut line, now, 2);
        waits(&mut line, now, 3);
        line.ended();
        assert_eq!(line.next_to_open(now), Some(&2));
        assert_eq!(line.next_to_open(now), None);
        line.check(now);
    }

    #[test]
    fn room_is_made_only_where_somebody_waits_for_it() {
        let now = Instant::now();
        let mut line = Line::new(&settings(1, 0, 0, 9));
        opens(&mut line, now, 1);
        assert_eq!(line.arrived(|_| true), Offer::To(1));
        assert_eq!(line.offer(|_| false), Offer::Nobody);
        waits(&mut line, now, 2);
        assert_eq!(line.offer(|_| false), Offer::MakeRoom);
    }

    #[test]
    fn connects_are_paced_and_the_first_who_waits_sees_to_it() {
        let start = Instant::now();
        let mut line = Line::new(&settings(0, 0, 100, 99));
        let mut opened = 0;
        let mut now = start;
        for who in 0..50 {
            match line.arrive(now, who) {
                Arrival::Open(_) => opened += 1,
                Arrival::Wait(_) => {}
                Arrival::Full => panic!("there is room"),
            }
        }
        assert_eq!(opened, 10, "a tenth of a second's worth at once");
        assert_eq!(line.on_duty(now), Some(&10));
        assert_eq!(line.on_duty(now), None, "he has been told");
        let mut order = Vec::new();
        while let Some(next) = line.next_chance(now) {
            assert!(next > now);
            now = next;
            while let Some(&who) = line.next_to_open(now) {
                order.push(who);
            }
            line.check(now);
            if order.len() == 40 {
                break;
            }
        }
        assert_eq!(
            order,
            (10..50).collect::<Vec<_>>(),
            "in the order they came"
        );
        let took = now - start;
        assert!(
            took >= Duration::from_millis(390) && took <= Duration::from_millis(410),
            "{took:?}"
        );
    }

    #[test]
    fn without_a_port_left_nobody_opens_for_a_while_and_longer_each_time() {
        let mut now = Instant::now();
        let mut line = Line::new(&settings(0, 0, 0, 9));
        let mut ticket = opens(&mut line, now, 1);
        let mut holds = Vec::new();
        for _ in 0..7 {
            line.out_of_ports(Some(ticket), now);
            assert_eq!(line.next_to_open(now), None);
            let chance = line.next_chance(now).unwrap();
            holds.push((chance - now).as_millis());
            now = chance;
            assert_eq!(line.next_to_open(now), Some(&1), "he still waits");
            line.check(now);
        }
        assert_eq!(holds, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(line.arrived(|_| true), Offer::To(1));
        ticket = opens(&mut line, now, 2);
        line.out_of_ports(Some(ticket), now);
        assert_eq!(
            line.next_chance(now),
            Some(now + HOLD),
            "one that opens forgives"
        );
    }

    #[test]
    fn while_ports_are_lacking_one_at_a_time_looks_for_one() {
        let mut now = Instant::now();
        let mut line = Line::new(&settings(0, 0, 0, 99));
        let tickets: Vec<_> = (0..20).map(|who| opens(&mut line, now, who)).collect();
        for &ticket in &tickets {
            line.out_of_ports(Some(ticket), now);
        }
        for _ in 0..3 {
            now = line.next_chance(now).unwrap();
            assert_eq!(line.next_to_open(now), Some(&0));
            assert_eq!(line.next_to_open(now), None, "one is enough to find out");
            line.check(now);
            line.out_of_ports(Some(tickets[0]), now);
        }
        now = line.next_chance(now).unwrap();
        assert_eq!(line.next_to_open(now), Some(&0));
        assert_eq!(line.arrived(|_| true), Offer::To(0));
        // There are ports again: everybody may.
        let order: Vec<_> = std::iter::from_fn(|| line.next_to_open(now).copied()).collect();
        assert_eq!(order, (1..20).collect::<Vec<_>>());
        line.check(now);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Arrive,
        Stock,
        Arrived(bool),
        Failed(usize),
        OutOfPorts(usize),
        Ended,
        Leave(usize),
        Free(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => Just(Event::Arrive),
            1 => Just(Event::Stock),
            5 => prop::bool::weighted(0.9).prop_map(Event::Arrived),
            1 => (0..8usize).prop_map(Event::Failed),
            1 => (0..8usize).prop_map(Event::OutOfPorts),
            3 => Just(Event::Ended),
            2 => (0..8usize).prop_map(Event::Leave),
            4 => prop::bool::weighted(0.9).prop_map(Event::Free),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: the limits hold, whoever may open does so in the
        /// order they came, a connection goes to the first, and all who come are served, refused
        /// or leave.
        #[test]
        fn the_line_keeps_its_order(
            script in prop::collection::vec((0..60u64, event()), 1..300),
            connections in 0..5u32,
            connecting in 0..4u32,
            pace in prop_oneof![Just(0), 1..100u32],
            waiting in 0..6u32,
        ) {
            let mut line: Line<u32> = Line::new(&settings(connections, connecting, pace, waiting));
            let mut now = Instant::now();
            let mut next = 0;
            // Who stands in line, in order; the attempts under way; open connections.
            let mut standing: Vec<(Ticket, u32)> = Vec::new();
            let mut attempts: Vec<Option<Ticket>> = Vec::new();
            let mut open = 0u32;
            for (ms, event) in script {
                now += Duration::from_millis(ms);
                match event {
                    Event::Arrive => {
                        let before = line.waiting();
                        match line.arrive(now, next) {
                            Arrival::Open(ticket) => {
                                prop_assert_eq!(before, 0, "nobody is overtaken");
                                attempts.push(Some(ticket));
                                standing.push((ticket, next));
                            }
                            Arrival::Wait(ticket) => standing.push((ticket, next)),
                            Arrival::Full => prop_assert!(before >= waiting),
                        }
                        next += 1;
                    }
                    Event::Stock => if line.open_for_stock(now) { attempts.push(None) },
                    Event::Arrived(suits) => if !attempts.is_empty() {
                        attempts.swap_remove(0);
                        open += 1;
                        let offer = line.arrived(|_| suits);
                        match offer {
                            Offer::To(who) => prop_assert_eq!(standing.remove(0).1, who),
                            Offer::MakeRoom | Offer::Nobody => {}
                        }
                    },
                    Event::Failed(which) => if !attempts.is_empty() {
                        let ticket = attempts.swap_remove(which % attempts.len());
                        line.failed(ticket);
                        standing.retain(|(standing, _)| Some(*standing) != ticket);
                    },
                    Event::OutOfPorts(which) => if !attempts.is_empty() {
                        let ticket = attempts.swap_remove(which % attempts.len());
                        line.out_of_ports(ticket, now);
                    },
                    Event::Ended => if open > 0 {
                        open -= 1;
                        line.ended();
                    },
                    Event::Leave(which) => if !standing.is_empty() {
                        let (ticket, _) = standing.remove(which % standing.len());
                        prop_assert!(line.leave(ticket));
                        prop_assert!(!line.leave(ticket), "left twice");
                    },
                    Event::Free(suits) => match line.offer(|_| suits) {
                        Offer::To(who) => prop_assert_eq!(standing.remove(0).1, who),
                        Offer::MakeRoom if open > 0 => {
                            open -= 1;
                            line.ended();
                        }
                        Offer::MakeRoom | Offer::Nobody => {}
                    },
                }
                let mut last = None;
                while let Some(&who) = line.next_to_open(now) {
                    prop_assert!(last < Some(who), "in the order they came");
                    last = Some(who);
                    let (ticket, _) = *standing.iter().find(|(_, standing)| *standing == who).unwrap();
                    attempts.push(Some(ticket));
                }
                line.check(now);
                prop_assert_eq!(line.connections(), open + u32::try_from(attempts.len()).unwrap());
                prop_assert_eq!(line.len(), standing.len());
            }
            // Time passes and attempts come through: everybody is served.
            for _ in 0..10_000 {
                if standing.is_empty() { break; }
                now = line.next_chance(now).unwrap_or(now + Duration::from_millis(1));
                while let Some(&who) = line.next_to_open(now) {
                    let (ticket, _) = *standing.iter().find(|(_, standing)| *standing == who).unwrap();
                    attempts.push(Some(ticket));
                }
                if attempts.is_empty() {
                    prop_assert!(open > 0, "{} wait for nothing", standing.len());
                    open -= 1;
                    line.ended();
                } else {
                    attempts.swap_remove(0);
                    match line.arrived(|_| true) {
                        Offer::To(who) => prop_assert_eq!(standing.remove(0).1, who),
                        Offer::MakeRoom | Offer::Nobody => {
                            prop_assert!(false, "not given to {} who wait", standing.len());
                        }
                    }
                    open += 1;
                }
            }
            prop_assert!(standing.is_empty(), "{} were never served", standing.len());
        }
    }
}
