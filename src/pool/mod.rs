//! The connections one worker keeps to one server: the driver around [`PoolState`] and [`Line`].
//!
//! The two state machines decide; this file opens, hands out, takes back and closes as they say. It
//! knows neither HTTP nor sockets: what a connection is, is [`Connect`]'s business.
//!
//! A pool belongs to one worker's thread, and a lease and its return cost a few memory accesses and
//! no lock. What holds for the process (limits, the line, borrowing an idle connection from another
//! worker before a new one is opened) is in [`Common`]; it is gone to only when nothing is idle
//! here, and when a connection opens or ends.

mod common;
mod connect;
mod ghost;
mod hand;
mod learn;
mod lease;
mod line;
mod settings;
mod share;
mod state;
mod sync;
mod table;
mod wait;
mod words;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

use crate::account::{Held, PoolTally};
use crate::keepalive::CloseReason;

pub use common::{Common, Handed};
pub use connect::{Connect, Watch};
pub use lease::Lease;
pub use line::{Arrival, Line, Offer, Ticket};
pub use settings::Settings;
pub use state::{Passport, PoolState};
pub use table::ConnId;
pub use wait::AcquireError;
pub use words::{End, Farewell, Free, Gone, Hint, Identity, Leased, Need, Wants};

/// The connections of one worker to one server.
pub struct Pool<C: Connect>(Rc<Inner<C>>);

impl<C: Connect> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool(Rc::clone(&self.0))
    }
}

struct Inner<C: Connect> {
    state: RefCell<PoolState>,
    /// By [`ConnId::index`]: the idle connections, and those that carry several exchanges at once.
    parked: RefCell<Vec<Option<C::Conn>>>,
    connector: C,
    common: Arc<Common<C::Lent>>,
    worker: usize,
    tally: Arc<PoolTally>,
    /// How many idle connections `max_idle` has been told of.
    idle_told: Cell<u64>,
    /// This worker's share of `min_idle`.
    min_idle: u64,
    /// When the stock is to be filled up next; `None` while nothing is missing.
    stock_at: Cell<Option<Instant>>,
    /// How long to wait after the next attempt that fails.
    stock_pause: Cell<Duration>,
    random: Cell<u64>,
    /// Wakes the tending task when there is something to do sooner than it knows.
    tend: Rc<Notify>,
    tends_at: Cell<Option<Instant>>,
}

/// The stock is filled up within this time of the start, or of a loss, at random: not by all
/// workers of all proxies at once.
const STOCK_JITTER: Duration = Duration::from_millis(250);

/// The pause after a first failure to fill up the stock; doubled each time, up to the most.
const STOCK_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_STOCK_PAUSE: Duration = Duration::from_secs(30);

impl<C: Connect> Pool<C> {
    /// An empty pool, the one of the `worker`-th. Its tending task runs on the current thread's
    /// runtime until the pool is gone.
    pub fn new(connector: C, common: Arc<Common<C::Lent>>, worker: usize) -> Pool<C> {
        let settings = common.settings().clone();
        let min_idle = if settings.keeps() {
            common.min_idle_of(worker)
        } else {
            0
        };
        let tend = Rc::new(Notify::new());
        let inner = Rc::new(Inner {
            state: RefCell::new(PoolState::new(settings)),
            parked: RefCell::new(Vec::new()),
            connector,
            worker,
            tally: Arc::clone(&common.tallies()[worker]),
            idle_told: Cell::new(0),
            min_idle,
            stock_at: Cell::new(None),
            stock_pause: Cell::new(STOCK_PAUSE),
            random: Cell::new(seed()),
            tend: Rc::clone(&tend),
            tends_at: Cell::new(None),
            common: Arc::clone(&common),
        });
        tokio::task::spawn_local(tend_pool(Rc::downgrade(&inner), common, worker, tend));
        Pool(inner)
    }

    /// What opens this pool's connections.
    pub fn connector(&self) -> &C {
        &self.0.connector
    }

    /// Leases a parked connection, if one suits. Otherwise [`wait`](Self::wait).
    pub fn acquire(&self, now: Instant, wants: Wants) -> Option<Lease<C>> {
        let inner = &self.0;
        loop {
            let leased = inner.state.borrow_mut().acquire(now, wants)?;
            let conn = inner.conn_of(leased.id);
            if inner
                .connector
                .is_usable(&conn, leased.idle.unwrap_or_default())
            {
                inner.settle_use(now);
                return Some(Lease::new(inner, leased, conn));
            }
            let reason = inner.connector.idle_end(&conn);
            let ended = inner.state.borrow_mut().stale(leased, reason, now);
            inner.after_end(leased.id, Some(conn), ended, now);
        }
    }

    /// Closes what is idle, and from now on every connection at the end of its exchange.
    pub fn drain(&self) {
        self.0.drain(Instant::now());
    }

    /// Closes the idle connections that speak for somebody who has gone: nobody else can use them.
    pub fn end_of(&self, gone: Identity) {
        self.0.end_of(gone, Instant::now());
    }

    /// Its connections as they are at `now`, at most so many.
    pub fn connections(&self, now: Instant, most: usize) -> Vec<Held> {
        let state = self.0.state.borrow();
        state.connections(now).take(most).collect()
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        let counts = *self.0.state.borrow().counts();
        counts.opening + counts.leased + counts.idle == 0
    }
}

impl<C: Connect> Inner<C> {
    /// The connection under `id`, to be used: all of it, or a handle if others use it too.
    fn conn_of(&self, id: ConnId) -> C::Conn {
        let parked = &mut self.parked.borrow_mut()[id.index()];
        let conn = parked.as_ref().expect("a free connection is parked");
        match self.connector.share(conn) {
            Some(handle) => handle,
            None => parked.take().expect("it was just seen"),
        }
    }

    fn put(&self, id: ConnId, conn: C::Conn) {
        let mut parked = self.parked.borrow_mut();
        if parked.len() <= id.index() {
            parked.resize_with(id.index() + 1, || None);
        }
        parked[id.index()] = Some(conn);
    }

    fn take(&self, id: ConnId) -> Option<C::Conn> {
        self.parked
            .borrow_mut()
            .get_mut(id.index())
            .and_then(Option::take)
    }

    fn is_parked_usable(&self, id: ConnId, idle: Duration) -> bool {
        let parked = self.parked.borrow();
        parked
            .get(id.index())
            .and_then(Option::as_ref)
            .is_some_and(|conn| self.connector.is_usable(conn, idle))
    }

    fn take_back(
        self: &Rc<Self>,
        id: ConnId,
        conn: C::Conn,
        mut end: End,
        hint: Hint,
        now: Instant,
    ) {
        let is_shared = self
            .parked
            .borrow()
            .get(id.index())
            .is_some_and(Option::is_some);
        if is_shared
            && !matches!(
                end,
                End::Spent(CloseReason::Timeout | CloseReason::EarlyResponse)
            )
            && self.is_parked_usable(id, Duration::ZERO)
        {
            // One exchange of several ended badly; the connection is well. After a timeout nobody
            // knows, and after an early response the request may still be waiting to be written.
            end = End::Complete;
        }
        let ended = self.state.borrow_mut().release(id, end, hint, now);
        if is_shared {
            drop(conn);
            self.after_end(id, None, ended, now);
        } else if ended.is_none() {
            self.put(id, conn);
            self.came_free(now);
        } else {
            self.after_end(id, Some(conn), ended, now);
        }
    }

    /// A lease was given back: closes the connection if it has ended, serves the line if it is
    /// free.
    fn after_end(
        self: &Rc<Self>,
        id: ConnId,
        conn: Option<C::Conn>,
        ended: Option<Farewell>,
        now: Instant,
    ) {
        if let Some(farewell) = ended {
            let conn = self.take(id).or(conn);
            self.bury(conn, farewell, now);
            self.publish();
            return;
        }
        if let Some(conn) = conn
            && self.connector.streams(&conn) == 1
        {
            self.put(id, conn);
        }
        self.came_free(now);
    }

    /// A connection has ended.
    fn bury(&self, conn: Option<C::Conn>, farewell: Farewell, now: Instant) {
        self.connector.close(conn, farewell);
        if farewell.reason == CloseReason::PeerClosedIdle
            && let Some(learned) = self.common.peer_closed_idle(farewell.idle, now)
        {
            let used = self.common.settings().idle_limit(learned);
            info!(
                idle_timeout = ?learned, used_for = ?used,
                "the backend closes idle connections after this time: they are used for a shorter one"
            );
            self.state.borrow_mut().learn(Some(learned));
        }
        self.common.shared.ended(now);
    }

    fn close_parked(&self, id: ConnId, farewell: Farewell, now: Instant) {
        let conn = self.take(id);
        self.bury(conn, farewell, now);
    }

    fn peer_closed(&self, id: ConnId, busy: CloseReason) {
        let now = Instant::now();
        if self.end_unusable(id, busy, now) {
            self.settle(now);
        }
    }

    /// Ends a connection that its peer has made unusable, if it is idle.
    /// One that carries exchanges ends after them, for the reason `busy`.
    fn end_unusable(&self, id: ConnId, busy: CloseReason, now: Instant) -> bool {
        let idle = {
            let parked = self.parked.borrow();
            let conn = parked.get(id.index()).and_then(Option::as_ref);
            conn.map_or(CloseReason::PeerClosedIdle, |conn| {
                self.connector.idle_end(conn)
            })
        };
        let gone = Gone { idle, busy };
        let ended = self.state.borrow_mut().peer_closed(id, gone, now);
        if let Some(farewell) = ended {
            self.close_parked(id, farewell, now);
        }
        ended.is_some()
    }

    fn drain(&self, now: Instant) {
        loop {
            let ended = self.state.borrow_mut().drain(now);
            let Some((id, farewell)) = ended else { break };
            self.close_parked(id, farewell, now);
        }
        self.settle(now);
    }

    fn end_of(&self, gone: Identity, now: Instant) {
        loop {
            let ended = self.state.borrow_mut().evict_of(gone, now);
            let Some((id, farewell)) = ended else { break };
            self.close_parked(id, farewell, now);
        }
        self.settle(now);
    }

    /// A connection has come free at `now`.
    fn came_free(self: &Rc<Self>, now: Instant) {
        if self.common.shared.anyone_in_line() {
            self.serve_line(now);
        }
        if self.state.borrow().is_draining() {
            self.drain(now);
        }
        self.settle_use(now);
        if let Some(deadline) = self.state.borrow().next_deadline()
            && self.tends_at.get().is_none_or(|at| deadline < at)
        {
            self.tends_at.set(Some(deadline));
            self.tend.notify_one();
        }
    }

    /// Ends what has waited too long, fills up the stock; returns when to do so again.
    fn tend(self: &Rc<Self>, now: Instant) -> Option<Instant> {
        let learned = self.common.learned(now);
        self.state.borrow_mut().learn(learned);
        loop {
            let expired = self.state.borrow_mut().expire(now);
            let Some((id, farewell)) = expired else { break };
            self.close_parked(id, farewell, now);
        }
        self.fill_stock(now);
        self.settle(now);
        let deadline = self.state.borrow().next_deadline();
        let next = match (deadline, self.stock_at.get()) {
            (Some(deadline), Some(stock)) => Some(deadline.min(stock)),
            (deadline, stock) => deadline.or(stock),
        };
        self.tends_at.set(next);
        next
    }

    /// How many connections are missing from the stock.
    fn missing(&self) -> u64 {
        let state = self.state.borrow();
        if state.is_draining() {
            return 0;
        }
        let counts = state.counts();
        self.min_idle.saturating_sub(counts.idle + counts.opening)
    }

    fn fill_stock(self: &Rc<Self>, now: Instant) {
        let missing = self.missing();
        if missing == 0 {
            self.stock_at.set(None);
            return;
        }
        match self.stock_at.get() {
            None => self.stock_at.set(Some(now + self.jitter(STOCK_JITTER))),
            Some(at) if at > now => {}
            Some(_) => {
                for _ in 0..missing {
                    if !self.common.shared.open_for_stock(now) {
                        break;
                    }
                    wait::open_for_stock(self);
                }
                // What the limits refused is tried again; what is being opened is not missing.
                let pause = self.stock_pause.get();
                self.stock_at
                    .set(Some(now + pause / 2 + self.jitter(pause)));
            }
        }
    }

    fn stock_failed(&self) {
        let longer = self.stock_pause.get() * 2;
        self.stock_pause.set(longer.min(LONGEST_STOCK_PAUSE));
    }

    /// Keeps `max_idle`, wakes the tending task for the stock, and publishes the counts.
    fn settle(&self, now: Instant) {
        self.settle_stock(now);
        self.publish();
    }

    /// The same after a lease or its return: only what these change is published.
    fn settle_use(&self, now: Instant) {
        self.settle_stock(now);
        let state = self.state.borrow();
        #[cfg(debug_assertions)]
        state.check();
        self.tally.publish_use(state.counts());
    }

    fn settle_stock(&self, now: Instant) {
        if self.common.settings().max_idle.is_some() {
            self.keep_to_max_idle(now);
        }
        if self.min_idle > 0 && self.stock_at.get().is_none() && self.missing() > 0 {
            self.tend.notify_one();
        }
    }

    fn keep_to_max_idle(&self, now: Instant) {
        let shared = &self.common.shared;
        let idle = self.state.borrow().counts().idle;
        for _ in idle..self.idle_told.get() {
            shared.unpark();
        }
        for _ in self.idle_told.get()..idle {
            if shared.park() {
                continue;
            }
            shared.unpark();
            let ended = self.state.borrow_mut().evict(now);
            if let Some((id, farewell)) = ended {
                self.common.closed_for_cap(now);
                self.close_parked(id, farewell, now);
            }
            self.publish();
        }
        self.idle_told.set(self.state.borrow().counts().idle);
    }

    fn publish(&self) {
        let state = self.state.borrow();
        #[cfg(debug_assertions)]
        state.check();
        self.tally.publish(state.counts());
    }

    /// A number drawn at random.
    fn draw(&self) -> u32 {
        // Marsaglia, "Xorshift RNGs", 2003. Good enough to spread deadlines.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        u32::try_from(x >> 32).expect("32 bits are left")
    }

    fn jitter(&self, most: Duration) -> Duration {
        most.mul_f64(f64::from(self.draw()) / f64::from(u32::MAX))
    }
}

impl<C: Connect> Drop for Inner<C> {
    fn drop(&mut self) {
        // What is still parked goes with it.
        let now = Instant::now();
        loop {
            let ended = self.state.borrow_mut().drain(now);
            let Some((id, farewell)) = ended else { break };
            self.close_parked(id, farewell, now);
        }
        self.settle(now);
        self.tend.notify_one();
    }
}

/// Ends connections that waited too long, keeps the stock, answers the other workers; as long as
/// there is a pool.
async fn tend_pool<C: Connect>(
    pool: Weak<Inner<C>>,
    common: Arc<Common<C::Lent>>,
    worker: usize,
    tend: Rc<Notify>,
) {
    loop {
        let next = {
            let Some(pool) = pool.upgrade() else { return };
            pool.tend(Instant::now())
        };
        let time = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            mail = std::future::poll_fn(|cx| common.shared.poll_mail(worker, cx)) => {
                let Some(pool) = pool.upgrade() else { return };
                pool.answer(mail, Instant::now());
            }
            () = tend.notified() => {}
            () = time => {}
        }
    }
}

/// A number that differs from pool to pool; never zero.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) | 1
}
