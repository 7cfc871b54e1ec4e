//! What a request does that finds no idle connection: it borrows one from another worker, or joins
//! the line, where it may open one, and takes whichever is there first.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::account::Refusal;

use super::common::Handed;
use super::line::Offer::{MakeRoom, Nobody, To};
use super::line::{Arrival, Ticket};
use super::share::{Brought, Place, Slot};
use super::table::ConnId;
use super::words::{Identity, Need, Wants};
use super::{Connect, Inner, Lease, Pool, Watch};

/// How long another worker may take to lend a connection: its event loop is round in a fraction of
/// that, unless it is overloaded.
const PATIENCE: Duration = Duration::from_millis(5);

/// How often one who is past his time, and has an attempt to open under way, looks whether he
/// still has.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Why a request got no connection.
#[derive(Debug)]
pub enum AcquireError<E> {
    /// None could be opened.
    Connect(E),
    /// It may not have one, or not in time.
    Refused(Refusal),
}

type Error<C> = AcquireError<<C as Connect>::Error>;

impl<C: Connect> Pool<C> {
    /// Gets a connection when nothing idle suits: from another worker, or in its turn from the
    /// line, or by opening one.
    ///
    /// # Errors
    /// The connector's, if none could be opened; a [`Refusal`] if the line is full, or its wait
    /// has lasted `acquire_timeout`. Opening has a time limit of its own.
    ///
    /// # Cancellation
    /// Leaves the line. With keep-alive on, a connection that is being opened is finished and
    /// parked; in short mode the attempt is given up.
    pub async fn wait(&self, now: Instant, wants: Wants) -> Result<Lease<C>, Error<C>> {
        let inner = &self.0;
        let settings = inner.common.settings();
        if settings.keeps() && wants.need != Need::Fresh {
            if let Some(lease) = inner.borrow(now, wants).await {
                return Ok(lease);
            }
            // Meanwhile one may have come free here.
            if let Some(lease) = self.acquire(Instant::now(), wants) {
                return Ok(lease);
            }
            inner.common.missed(now);
        }
        let deadline = now + settings.acquire_timeout;
        loop {
            if let Some(lease) = inner.line_up(wants, deadline).await? {
                return Ok(lease);
            }
        }
    }
}

impl<C: Connect> Inner<C> {
    /// Asks the worker with the most idle connections for one.
    async fn borrow(self: &Rc<Self>, now: Instant, wants: Wants) -> Option<Lease<C>> {
        if !self.connector.can_lend() {
            return None;
        }
        let lender = self.common.lender(self.worker)?;
        let stands = Stands::new(self, None);
        self.common
            .shared
            .ask(lender, stands.place(self.worker, wants));
        let brought = timeout(PATIENCE, poll_fn(|cx| stands.slot.poll(cx))).await;
        match brought {
            Ok(Brought::Conn(handed)) => self.take_over(handed, now),
            Ok(Brought::MayOpen | Brought::Nothing) => None,
            Err(_) => {
                self.common.lent_late();
                None
            }
        }
    }

    /// Stands in line until it gets a connection. `None`: it was to get one that is lost, and has
    /// to line up again.
    async fn line_up(
        self: &Rc<Self>,
        wants: Wants,
        deadline: Instant,
    ) -> Result<Option<Lease<C>>, Error<C>> {
        let shared = &self.common.shared;
        let mut stands = Stands::new(self, None);
        let now = Instant::now();
        let arrival = shared.arrive(now, stands.place(self.worker, wants));
        let (ticket, mut may_open) = match arrival {
            Arrival::Open(ticket) => (ticket, true),
            Arrival::Wait(ticket) => (ticket, false),
            Arrival::Full => return Err(self.refuse(Refusal::LineFull)),
        };
        stands.ticket = Some(ticket);
        if !may_open {
            self.common.waited();
            // Others have been asked to look; what is idle here does not suit, or not any more.
            self.serve_line(now);
        }
        let trouble = Trouble::<C>::default();
        let mut wake = deadline;
        loop {
            if std::mem::take(&mut may_open) {
                if self.common.settings().keeps() {
                    self.open(Some(ticket), wants, Rc::clone(&trouble), &stands.slot);
                } else {
                    // Nothing comes free in short mode: no need to look out for it.
                    match self.open_own(ticket, wants).await {
                        Ok(lease) => return Ok(Some(lease)),
                        Err(error) if !C::is_out_of_ports(&error) => {
                            return Err(AcquireError::Connect(error));
                        }
                        Err(error) => *trouble.borrow_mut() = Some(error),
                    }
                }
            }
            let brought = tokio::select! {
                biased;
                brought = poll_fn(|cx| stands.slot.poll(cx)) => brought,
                () = sleep_until(wake) => Brought::Nothing,
            };
            match brought {
                Brought::Conn(handed) => return Ok(self.take_over(handed, Instant::now())),
                Brought::MayOpen => may_open = true,
                Brought::Nothing => {
                    if !shared.stands(ticket) {
                        return match trouble.take() {
                            Some(error) => Err(AcquireError::Connect(error)),
                            None => Ok(None),
                        };
                    }
                    let now = Instant::now();
                    // Opening has a limit of its own; until then he is only looked after.
                    if now < deadline {
                        wake = shared.nudge(now).map_or(deadline, |at| at.min(deadline));
                    } else if shared.may_open(ticket) {
                        wake = now + LOOK_AFTER;
                    } else {
                        return Err(match trouble.take() {
                            Some(error) => AcquireError::Connect(error),
                            None if shared.lacks_ports() => {
                                AcquireError::Connect(self.connector.out_of_ports())
                            }
                            None => self.refuse(Refusal::AcquireTimeout),
                        });
                    }
                }
            }
        }
    }

    fn refuse(&self, why: Refusal) -> Error<C> {
        self.common.refused(why);
        AcquireError::Refused(why)
    }

    fn take_over(self: &Rc<Self>, handed: Handed<C::Lent>, now: Instant) -> Option<Lease<C>> {
        match handed {
            Handed::Here(leased) => {
                let conn = self.conn_of(leased.id);
                self.settle_use(now);
                Some(Lease::new(self, leased, conn))
            }
            Handed::Lent(lent, passport) => self.adopt(lent, passport, now),
        }
    }

    /// Opens a connection for its own exchange.
    async fn open_own(self: &Rc<Self>, ticket: Ticket, wants: Wants) -> Result<Lease<C>, C::Error> {
        let permit = Permit::new(self, Some(ticket), wants);
        match self.connector.connect(wants.identity, permit.watch()).await {
            Ok(conn) => Ok(permit.opened(conn)),
            Err(error) => {
                permit.failed(&error);
                Err(error)
            }
        }
    }

    /// Opens a connection for the line, in a task of its own.
    fn open(
        self: &Rc<Self>,
        ticket: Option<Ticket>,
        wants: Wants,
        trouble: Trouble<C>,
        slot: &Arc<Slot<Handed<C::Lent>>>,
    ) {
        let permit = Permit::new(self, ticket, wants);
        let (inner, slot) = (Rc::clone(self), Arc::clone(slot));
        tokio::task::spawn_local(async move {
            match inner
                .connector
                .connect(wants.identity, permit.watch())
                .await
            {
                Ok(conn) => permit.arrived(conn),
                Err(error) => {
                    permit.failed(&error);
                    *trouble.borrow_mut() = Some(error);
                    slot.deny();
                }
            }
        });
    }
}

/// Opens a connection for nobody in particular; the permission is there.
pub(super) fn open_for_stock<C: Connect>(inner: &Rc<Inner<C>>) {
    let slot = Arc::default();
    inner.open(None, Wants::default(), Trouble::<C>::default(), &slot);
}

/// Why an attempt came to nothing, for the one it was for.
type Trouble<C> = Rc<RefCell<Option<<C as Connect>::Error>>>;

/// One who waits. Dropped, he leaves, and what was brought too late is taken back.
struct Stands<'a, C: Connect> {
    pool: &'a Rc<Inner<C>>,
    ticket: Option<Ticket>,
    slot: Arc<Slot<Handed<C::Lent>>>,
}

impl<'a, C: Connect> Stands<'a, C> {
    fn new(pool: &'a Rc<Inner<C>>, ticket: Option<Ticket>) -> Stands<'a, C> {
        Stands {
            pool,
            ticket,
            slot: Arc::default(),
        }
    }

    fn place(&self, worker: usize, wants: Wants) -> Place<Wants, Handed<C::Lent>> {
        Place {
            worker,
            wants,
            slot: Arc::clone(&self.slot),
        }
    }
}

impl<C: Connect> Drop for Stands<'_, C> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(ticket) = self.ticket {
            self.pool.common.shared.leave(ticket, now);
        }
        let (brought, may_open) = self.slot.leave();
        if may_open {
            // Not used: it is the next one's.
            self.pool.common.shared.failed(None, now);
        }
        match brought {
            Some(Handed::Here(leased)) => self.pool.unused(leased, now),
            Some(Handed::Lent(lent, passport)) => self.pool.bring_home(lent, passport, now),
            None => {}
        }
    }
}

/// The permission to open one connection, being used. Dropped, the attempt has failed.
struct Permit<C: Connect> {
    pool: Rc<Inner<C>>,
    ticket: Option<Ticket>,
    identity: Identity,
    id: Option<ConnId>,
}

impl<C: Connect> Permit<C> {
    fn new(pool: &Rc<Inner<C>>, ticket: Option<Ticket>, wants: Wants) -> Permit<C> {
        let id = pool
            .state
            .borrow_mut()
            .opening(Instant::now(), wants.identity);
        pool.publish();
        Permit {
            pool: Rc::clone(pool),
            ticket,
            identity: wants.identity,
            id: Some(id),
        }
    }

    fn watch(&self) -> Watch {
        Watch::new(&self.pool, self.id.expect("a permit is used once"))
    }

    /// It is there, for the one who opened it.
    fn opened(mut self, conn: C::Conn) -> Lease<C> {
        let (pool, id) = (Rc::clone(&self.pool), self.used());
        let now = Instant::now();
        if let Some(ticket) = self.ticket {
            pool.common.shared.leave(ticket, now);
        }
        // Short mode: nobody waits for what another opens.
        let offer = pool.common.shared.arrived(now, |_| false);
        debug_assert!(!matches!(offer, To(_)));
        let streams = pool.connector.streams(&conn);
        let leased = pool
            .state
            .borrow_mut()
            .opened(id, streams, pool.draw(), now);
        pool.publish();
        Lease::new(&pool, leased, conn)
    }

    /// It is there, for the line or to be parked.
    fn arrived(mut self, conn: C::Conn) {
        let identity = self.identity;
        let (pool, id) = (Rc::clone(&self.pool), self.used());
        let now = Instant::now();
        let streams = pool.connector.streams(&conn);
        pool.put(id, conn);
        pool.state
            .borrow_mut()
            .stocked(id, streams, pool.draw(), now);
        pool.stock_pause.set(super::STOCK_PAUSE);
        let free = pool.state.borrow().next_free(now);
        let free = free.filter(|free| free.id == id);
        let offer = pool.common.shared.arrived(now, |place| {
            free.as_ref().is_some_and(|free| pool.suits(place, free))
        });
        match offer {
            To(place) => pool.deliver(&place, id, now),
            // Whom it was opened for has gone, or has got another, and it is nobody else's.
            MakeRoom | Nobody if identity.0.is_some() => pool.end_of(identity, now),
            // The rest is that of any connection that comes free.
            MakeRoom | Nobody => {}
        }
        pool.came_free(now);
        pool.publish();
    }

    fn failed(mut self, error: &C::Error) {
        let id = self.used();
        let now = Instant::now();
        self.pool.state.borrow_mut().open_failed(id);
        if C::is_out_of_ports(error) {
            self.pool.common.shared.out_of_ports(self.ticket, now);
        } else {
            self.pool.common.shared.refused(self.ticket, now);
        }
        if self.ticket.is_none() {
            self.pool.stock_failed();
        }
        self.pool.publish();
    }

    fn used(&mut self) -> ConnId {
        self.id.take().expect("a permit is used once")
    }
}

impl<C: Connect> Drop for Permit<C> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.pool.state.borrow_mut().open_failed(id);
            self.pool.tally.gave_up();
            self.pool.common.shared.failed(self.ticket, Instant::now());
            self.pool.publish();
        }
    }
}
