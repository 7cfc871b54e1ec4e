//! What the workers' pools of one server have in common: the line, and the ways a connection goes
//! from one worker to another.
//!
//! No lock is taken when a connection is parked and leased again by the same worker: that costs a
//! look at [`Shared::anyone_in_line`]. The lock is for opening, ending and waiting.
//!
//! No wake-up is lost: who has to wait joins the line first and asks every other worker to look
//! after it then. A worker that parks a connection either does so before it looks, and finds both,
//! or has looked before, and sees the line when it parks. `tests/model.rs` goes through the
//! interleavings: this file compiles against `std` and against a model checker alike.

use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::line::{Arrival, Line, Offer, Ticket};
use super::settings::Settings;
use super::sync::{Arc, AtomicU32, Mutex, Ordering, lock};

/// The line before one server and the mailboxes of its workers.
#[derive(Debug)]
pub(super) struct Shared<W, L> {
    line: Mutex<Line<Place<W, L>>>,
    /// How many stand in line, as of the last change.
    standing: AtomicU32,
    /// Idle connections of all workers; kept only where `max_idle` is set.
    idle: AtomicU32,
    max_idle: u32,
    mailboxes: Vec<Mailbox<W, L>>,
}

/// Who waits, for what, and where it is to be brought.
#[derive(Debug)]
pub(super) struct Place<W, L> {
    /// The number of his worker.
    pub(super) worker: usize,
    /// What he wants.
    pub(super) wants: W,
    /// Where to bring it.
    pub(super) slot: Arc<Slot<L>>,
}

/// What is brought to somebody who waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Brought<L> {
    /// He may open a connection.
    MayOpen,
    /// A connection.
    Conn(L),
    /// Nothing: the worker he asked has none, his attempt failed, or he is to
    /// [`nudge`](Shared::nudge) the line.
    Nothing,
}

/// Where something is brought to one who waits.
#[derive(Debug)]
pub(super) struct Slot<L>(Mutex<Waiting<L>>);

#[derive(Debug)]
struct Waiting<L> {
    may_open: bool,
    nothing: bool,
    conn: Option<L>,
    gone: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Mailbox<W, L>(Mutex<Mail<W, L>>);

/// What a worker is asked by the others.
#[derive(Debug)]
pub(super) struct Mail<W, L> {
    /// To lend one of its idle connections to each of these.
    pub(super) asks: Vec<Place<W, L>>,
    /// To see whether it has something for the line.
    pub(super) look: bool,
    waker: Option<Waker>,
}

impl<W, L> Mail<W, L> {
    fn empty() -> Mail<W, L> {
        Mail {
            asks: Vec::new(),
            look: false,
            waker: None,
        }
    }
}

impl<L> Default for Slot<L> {
    fn default() -> Slot<L> {
        Slot(Mutex::new(Waiting {
            may_open: false,
            nothing: false,
            conn: None,
            gone: false,
            waker: None,
        }))
    }
}

impl<L> Slot<L> {
    /// Brings a connection.
    ///
    /// # Errors
    /// Gives it back when nobody waits here any more.
    pub(super) fn bring(&self, conn: L) -> Result<(), L> {
        self.change(|waiting| {
            if waiting.gone {
                return Err(conn);
            }
            waiting.conn = Some(conn);
            Ok(())
        })
    }

    /// Says that he may open a connection. False when nobody waits here any more.
    #[must_use]
    pub(super) fn allow(&self) -> bool {
        self.change(|waiting| {
            waiting.may_open = !waiting.gone;
            waiting.may_open
        })
    }

    /// Says that there is nothing.
    pub(super) fn deny(&self) {
        self.change(|waiting| waiting.nothing = true);
    }

    /// What has been brought; a connection before anything else.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Brought<L>> {
        let mut waiting = lock(&self.0);
        if let Some(conn) = waiting.conn.take() {
            return Poll::Ready(Brought::Conn(conn));
        }
        if std::mem::take(&mut waiting.may_open) {
            return Poll::Ready(Brought::MayOpen);
        }
        if std::mem::take(&mut waiting.nothing) {
            return Poll::Ready(Brought::Nothing);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nobody waits here any more. What has been brought and not taken is returned: a connection,
    /// and whether there is a permission to open one, which has to be given back.
    #[must_use]
    pub(super) fn leave(&self) -> (Option<L>, bool) {
        let mut waiting = lock(&self.0);
        waiting.gone = true;
        waiting.waker = None;
        (waiting.conn.take(), std::mem::take(&mut waiting.may_open))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting<L>) -> T) -> T {
        let mut waiting = lock(&self.0);
        let result = change(&mut waiting);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

impl<W, L> Shared<W, L> {
    /// What `workers` pools of one server share.
    pub(super) fn new(settings: &Settings, workers: usize) -> Shared<W, L> {
        Shared {
            line: Mutex::new(Line::new(settings)),
            standing: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            max_idle: settings.max_idle.map_or(u32::MAX, u32::from),
            mailboxes: (0..workers)
                .map(|_| Mailbox(Mutex::new(Mail::empty())))
                .collect(),
        }
    }

    /// Whether anybody stands in line: to be asked whenever a connection has been parked.
    pub(super) fn anyone_in_line(&self) -> bool {
        // Not to be missed only by who has been asked to look: the mailbox's lock orders that.
        self.standing.load(Ordering::Relaxed) > 0
    }

    /// Joins the line.
    pub(super) fn arrive(&self, now: Instant, place: Place<W, L>) -> Arrival {
        let worker = place.worker;
        let arrival = self.change(now, |line| line.arrive(now, place));
        if let Arrival::Wait(_) = arrival {
            for (number, mailbox) in self.mailboxes.iter().enumerate() {
                if number != worker {
                    mailbox.post(|mail| mail.look = true);
                }
            }
        }
        arrival
    }

    /// Permission to open a connection for nobody in particular, if nobody waits for it.
    #[must_use]
    pub(super) fn open_for_stock(&self, now: Instant) -> bool {
        self.change(now, |line| line.open_for_stock(now))
    }

    /// Time has passed: somebody may be allowed to open now. Returns when to ask again.
    pub(super) fn nudge(&self, now: Instant) -> Option<Instant> {
        self.change(now, |line| line.next_chance(now))
    }

    /// A connection that was being opened is there: see [`Line::arrived`].
    pub(super) fn arrived(
        &self,
        now: Instant,
        suits: impl FnMut(&Place<W, L>) -> bool,
    ) -> Offer<Place<W, L>> {
        self.change(now, |line| line.arrived(suits))
    }

    /// An attempt to open came to nothing: see [`Line::failed`].
    pub(super) fn failed(&self, ticket: Option<Ticket>, now: Instant) {
        self.change(now, |line| line.failed(ticket));
    }

    /// An attempt to open came to nothing at the server: see [`Line::refused`].
    pub(super) fn refused(&self, ticket: Option<Ticket>, now: Instant) {
        self.change(now, |line| line.refused(ticket));
    }

    /// An attempt to open found no local port: see [`Line::out_of_ports`].
    pub(super) fn out_of_ports(&self, ticket: Option<Ticket>, now: Instant) {
        self.change(now, |line| line.out_of_ports(ticket, now));
    }

    /// A connection has ended.
    pub(super) fn ended(&self, now: Instant) {
        self.change(now, Line::ended);
    }

    /// Leaves the line, served or not.
    pub(super) fn leave(&self, ticket: Ticket, now: Instant) -> bool {
        self.change(now, |line| line.leave(ticket))
    }

    /// Whether this one still stands in line.
    pub(super) fn stands(&self, ticket: Ticket) -> bool {
        lock(&self.line).stands(ticket).is_some()
    }

    /// Whether this one stands in line with an attempt to open under way.
    pub(super) fn may_open(&self, ticket: Ticket) -> bool {
        lock(&self.line).stands(ticket).unwrap_or(false)
    }

    /// Whether no local port is left: see [`Line::lacks_ports`].
    pub(super) fn lacks_ports(&self) -> bool {
        lock(&self.line).lacks_ports()
    }

    /// A connection is free: see [`Line::offer`].
    pub(super) fn offer(
        &self,
        now: Instant,
        suits: impl FnMut(&Place<W, L>) -> bool,
    ) -> Offer<Place<W, L>> {
        self.change(now, |line| line.offer(suits))
    }

    /// How many wait without being allowed to open, and how many connections there are.
    pub(super) fn figures(&self) -> (u32, u32) {
        let line = lock(&self.line);
        (line.waiting(), line.connections())
    }

    /// Asks one worker to lend a connection.
    pub(super) fn ask(&self, worker: usize, place: Place<W, L>) {
        self.mailboxes[worker].post(|mail| mail.asks.push(place));
    }

    /// What this worker has been asked, if anything.
    pub(super) fn poll_mail(&self, worker: usize, cx: &Context<'_>) -> Poll<Mail<W, L>> {
        let mut mail = lock(&self.mailboxes[worker].0);
        if mail.look || !mail.asks.is_empty() {
            return Poll::Ready(std::mem::replace(&mut *mail, Mail::empty()));
        }
        mail.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A connection is to be parked. False if one has to go for it.
    #[must_use]
    pub(super) fn park(&self) -> bool {
        self.max_idle == u32::MAX || self.idle.fetch_add(1, Ordering::Relaxed) < self.max_idle
    }

    /// A connection is not idle any more.
    pub(super) fn unpark(&self) {
        if self.max_idle != u32::MAX {
            self.idle.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Changes the line, and tells those who may open after it.
    fn change<T>(&self, now: Instant, change: impl FnOnce(&mut Line<Place<W, L>>) -> T) -> T {
        let mut line = lock(&self.line);
        let result = change(&mut line);
        let mut allowed = Vec::new();
        while let Some(place) = line.next_to_open(now) {
            allowed.push(Arc::clone(&place.slot));
        }
        #[cfg(debug_assertions)]
        line.check(now);
        let on_duty = line.on_duty(now).map(|place| Arc::clone(&place.slot));
        let standing = u32::try_from(line.len()).unwrap_or(u32::MAX);
        self.standing.store(standing, Ordering::Relaxed);
        drop(line);
        for slot in allowed {
            if !slot.allow() {
                // He has left meanwhile: the permission is the next one's.
                self.failed(None, now);
            }
        }
        if let Some(slot) = on_duty {
            slot.deny();
        }
        result
    }
}

impl<W, L> Mailbox<W, L> {
    fn post(&self, change: impl FnOnce(&mut Mail<W, L>)) {
        let mut mail = lock(&self.0);
        change(&mut mail);
        let waker = mail.waker.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
