//! The connections one worker keeps to one backend: the driver around [`PoolState`].
//!
//! The state decides; this file opens, hands out, takes back and drops what it is told to, and
//! sleeps until the next deadline. It knows neither HTTP nor sockets: what a connection is, is
//! [`Connect`]'s business. One pool belongs to one worker's thread: no lock, and a lease and its
//! return cost a few memory accesses.

mod state;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::account::PoolTally;
use crate::keepalive::{CloseReason, KeepAlive, Verdict};

pub use state::{ConnId, End, Farewell, Grant, Leased, PoolState};

/// How connections of a pool are opened, and whether one can still be used.
pub trait Connect: 'static {
    /// An open connection. Dropping it closes it; [`close`](Self::close) says how and why.
    type Conn: 'static;
    /// Why one could not be opened.
    type Error;

    /// Opens a connection. Once it has ended by itself, `watch` is to be told.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up.
    fn connect(&self, watch: Watch) -> impl Future<Output = Result<Self::Conn, Self::Error>>;

    /// The last look at a parked connection before it is used: false when it can be known that
    /// its peer has closed it. It has waited for `idle`.
    fn is_usable(&self, conn: &Self::Conn, idle: Duration) -> bool;

    /// Closes a connection of which the pool says `farewell`. Every opened one comes here once.
    fn close(&self, conn: Self::Conn, farewell: Farewell);
}

/// The connections of one worker to one backend.
pub struct Pool<C: Connect>(Rc<Inner<C>>);

impl<C: Connect> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Pool(Rc::clone(&self.0))
    }
}

struct Inner<C: Connect> {
    state: RefCell<PoolState>,
    /// The idle connections, by [`ConnId::index`].
    parked: RefCell<Vec<Option<C::Conn>>>,
    connector: C,
    tally: Arc<PoolTally>,
    /// Wakes the sweeper when a deadline appears where there was none.
    deadline_set: Rc<Notify>,
    sweeper_waits: Cell<bool>,
}

impl<C: Connect> Pool<C> {
    /// An empty pool. Its sweeper runs on the current thread's runtime until the pool is gone.
    pub fn new(keep_alive: KeepAlive, connector: C, tally: Arc<PoolTally>) -> Pool<C> {
        let deadline_set = Rc::new(Notify::new());
        let inner = Rc::new(Inner {
            state: RefCell::new(PoolState::new(keep_alive)),
            parked: RefCell::new(Vec::new()),
            connector,
            tally,
            deadline_set: Rc::clone(&deadline_set),
            sweeper_waits: Cell::new(false),
        });
        tokio::task::spawn_local(sweep(Rc::downgrade(&inner), deadline_set));
        Pool(inner)
    }

    /// What opens this pool's connections.
    pub fn connector(&self) -> &C {
        &self.0.connector
    }

    /// Leases the most recently parked connection that can be used, or else gives the permission
    /// to open one.
    pub fn acquire(&self, now: Instant) -> Acquired<C> {
        loop {
            let grant = self.0.state.borrow_mut().acquire(now);
            match grant {
                Grant::Open(id) => {
                    self.0.publish();
                    return Acquired::Open(Permit {
                        pool: self.clone(),
                        id: Some(id),
                    });
                }
                Grant::Reuse(leased) => {
                    let conn = self.0.parked.borrow_mut()[leased.id.index()]
                        .take()
                        .expect("an idle connection is parked");
                    if !self.0.connector.is_usable(&conn, leased.idle) {
                        let farewell = self.0.state.borrow_mut().stale(leased, now);
                        self.0.connector.close(conn, farewell);
                        continue;
                    }
                    self.0.publish();
                    return Acquired::Reuse(Lease {
                        pool: Rc::clone(&self.0),
                        leased,
                        conn: Some(conn),
                        spent: CloseReason::ClientGone,
                    });
                }
            }
        }
    }

    /// Opens a connection whatever is idle, and leases it.
    ///
    /// # Errors
    /// The connector's.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up.
    pub async fn open(&self) -> Result<Lease<C>, C::Error> {
        let id = self.0.state.borrow_mut().permit(Instant::now());
        let permit = Permit {
            pool: self.clone(),
            id: Some(id),
        };
        permit.open().await
    }

    /// Closes what is idle, and from now on every connection at the end of its exchange.
    pub fn drain(&self) {
        let now = Instant::now();
        loop {
            let ended = self.0.state.borrow_mut().drain(now);
            let Some((id, farewell)) = ended else { break };
            self.0.close_parked(id, farewell);
        }
        self.0.publish();
    }
}

/// What [`Pool::acquire`] came to.
pub enum Acquired<C: Connect> {
    /// A connection that has served before.
    Reuse(Lease<C>),
    /// The permission to open one: see [`Permit::open`].
    Open(Permit<C>),
}

/// The permission to open one connection. Dropped unused, it counts as failed.
pub struct Permit<C: Connect> {
    pool: Pool<C>,
    id: Option<ConnId>,
}

impl<C: Connect> Permit<C> {
    /// Opens the connection and leases it.
    ///
    /// # Errors
    /// The connector's.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up, and the permission back.
    pub async fn open(mut self) -> Result<Lease<C>, C::Error> {
        let inner = Rc::clone(&self.pool.0);
        let id = self.id.expect("a permit is used once");
        let conn = inner.connector.connect(Watch::new(&inner, id)).await?;
        self.id = None;
        let leased = inner.state.borrow_mut().opened(id, Instant::now());
        inner.publish();
        Ok(Lease {
            pool: inner,
            leased,
            conn: Some(conn),
            spent: CloseReason::ClientGone,
        })
    }
}

impl<C: Connect> Drop for Permit<C> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pool.0.state.borrow_mut().open_failed(id);
            self.pool.0.publish();
        }
    }
}

/// The right to use one connection for one exchange.
///
/// A lease that is not expressly [finished](Lease::finish) closes its connection: reuse is earned.
pub struct Lease<C: Connect> {
    pool: Rc<Inner<C>>,
    leased: Leased,
    conn: Option<C::Conn>,
    /// The reason to count if it is dropped.
    spent: CloseReason,
}

impl<C: Connect> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("leased", &self.leased)
            .finish_non_exhaustive()
    }
}

impl<C: Connect> Lease<C> {
    /// The connection.
    pub fn conn(&mut self) -> &mut C::Conn {
        self.conn
            .as_mut()
            .expect("a lease has its connection until it ends")
    }

    /// Whether the connection has served before.
    pub fn is_reused(&self) -> bool {
        self.leased.exchange > 1
    }

    /// What becomes of the connection if this exchange ends well; a close has to be announced to
    /// the backend.
    pub fn verdict(&self) -> Verdict {
        self.leased.verdict
    }

    /// Says why the connection ends, should the lease be dropped from here on. Until this is said
    /// the reason is [`CloseReason::ClientGone`].
    pub fn spent(&mut self, reason: CloseReason) {
        self.spent = reason;
    }

    /// The exchange is over at `now`: parks the connection, or closes it.
    pub fn finish(mut self, end: End, now: Instant) {
        let conn = self.conn.take().expect("a lease ends once");
        self.pool.take_back(self.leased.id, conn, end, now);
    }
}

impl<C: Connect> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let end = End::Spent(self.spent);
            self.pool
                .take_back(self.leased.id, conn, end, Instant::now());
        }
    }
}

impl<C: Connect> Inner<C> {
    fn take_back(&self, id: ConnId, conn: C::Conn, end: End, now: Instant) {
        let released = self.state.borrow_mut().release(id, end, now);
        match released {
            None => self.park(id, conn),
            Some(farewell) => self.connector.close(conn, farewell),
        }
        self.publish();
    }

    fn park(&self, id: ConnId, conn: C::Conn) {
        let mut parked = self.parked.borrow_mut();
        if parked.len() <= id.index() {
            parked.resize_with(id.index() + 1, || None);
        }
        parked[id.index()] = Some(conn);
        if self.sweeper_waits.get() {
            self.sweeper_waits.set(false);
            self.deadline_set.notify_one();
        }
    }

    fn close_parked(&self, id: ConnId, farewell: Farewell) {
        let conn = self.parked.borrow_mut()[id.index()].take();
        let conn = conn.expect("an idle connection is parked");
        self.connector.close(conn, farewell);
    }

    fn peer_closed(&self, id: ConnId) {
        let ended = self.state.borrow_mut().peer_closed(id, Instant::now());
        if let Some(farewell) = ended {
            self.close_parked(id, farewell);
            self.publish();
        }
    }

    fn publish(&self) {
        let state = self.state.borrow();
        #[cfg(debug_assertions)]
        state.check();
        self.tally.publish(state.counts());
    }
}

impl<C: Connect> Drop for Inner<C> {
    fn drop(&mut self) {
        self.deadline_set.notify_one();
    }
}

/// Ends connections that waited too long, as long as there is a pool.
async fn sweep<C: Connect>(pool: Weak<Inner<C>>, deadline_set: Rc<Notify>) {
    loop {
        let deadline = {
            let Some(pool) = pool.upgrade() else { return };
            let now = Instant::now();
            loop {
                let expired = pool.state.borrow_mut().expire(now);
                match expired {
                    Some((id, farewell)) => pool.close_parked(id, farewell),
                    None => break,
                }
            }
            pool.publish();
            let deadline = pool.state.borrow().next_deadline();
            pool.sweeper_waits.set(deadline.is_none());
            deadline
        };
        match deadline {
            // A connection parked later expires later: no need to look up before this one does.
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => deadline_set.notified().await,
        }
    }
}

/// To be told once that a connection has ended by itself, so that it is not handed out any more.
pub struct Watch(Box<dyn FnOnce()>);

impl Watch {
    fn new<C: Connect>(inner: &Rc<Inner<C>>, id: ConnId) -> Watch {
        let pool = Rc::downgrade(inner);
        Watch(Box::new(move || {
            if let Some(pool) = pool.upgrade() {
                pool.peer_closed(id);
            }
        }))
    }

    /// The connection has ended.
    pub fn ended(self) {
        (self.0)();
    }
}
