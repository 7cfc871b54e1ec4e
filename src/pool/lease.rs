//! The right to use one connection for one exchange.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::keepalive::{CloseReason, Verdict};

use super::words::{End, Hint, Leased};
use super::{Connect, Inner};

/// The right to use one connection for one exchange.
///
/// A lease that is not expressly [finished](Lease::finish) closes its connection: reuse is earned.
pub struct Lease<C: Connect> {
    pool: Rc<Inner<C>>,
    leased: Leased,
    conn: Option<C::Conn>,
    hint: Hint,
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
    pub(super) fn new(pool: &Rc<Inner<C>>, leased: Leased, conn: C::Conn) -> Lease<C> {
        Lease {
            pool: Rc::clone(pool),
            leased,
            conn: Some(conn),
            hint: Hint::default(),
            spent: CloseReason::ClientGone,
        }
    }

    /// Puts the connection back where it is parked, to be given back unused.
    pub(super) fn put_back(mut self) -> Leased {
        let conn = self.conn.take().expect("a lease ends once");
        self.pool.put(self.leased.id, conn);
        self.leased
    }

    /// The connection.
    pub fn conn(&mut self) -> &mut C::Conn {
        self.conn
            .as_mut()
            .expect("a lease has its connection until it ends")
    }

    /// Whether the connection has served or waited before: then its peer may be closing it for its
    /// age. Not so for one that was opened for this exchange.
    pub fn is_reused(&self) -> bool {
        self.leased.exchange > 1 || self.leased.idle.is_some_and(|idle| !idle.is_zero())
    }

    /// The number of the exchange on its connection; the first is 1.
    pub fn exchange(&self) -> u32 {
        self.leased.exchange
    }

    /// How long the connection had waited for it; `None` if it was opened for it.
    pub fn idle(&self) -> Option<Duration> {
        self.leased.idle
    }

    /// What becomes of the connection if this exchange ends well; a close has to be announced to
    /// the backend.
    pub fn verdict(&self) -> Verdict {
        self.leased.verdict
    }

    /// What the backend said in its `Keep-Alive` header.
    pub fn hint(&mut self, hint: Hint) {
        self.hint = hint;
    }

    /// The backend did not take this exchange beside those that are on its connection: it carries
    /// no more than those at once from now on.
    pub fn refused(&self) {
        self.pool.state.borrow_mut().refused(self.leased.id);
    }

    /// Says why the connection ends, should the lease be dropped from here on. Until this is said
    /// the reason is [`CloseReason::ClientGone`].
    pub fn spent(&mut self, reason: CloseReason) {
        self.spent = reason;
    }

    /// The exchange is over at `now`: parks the connection, or closes it.
    pub fn finish(mut self, end: End, now: Instant) {
        let conn = self.conn.take().expect("a lease ends once");
        self.pool
            .take_back(self.leased.id, conn, end, self.hint, now);
    }
}

impl<C: Connect> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let end = End::Spent(self.spent);
            self.pool
                .take_back(self.leased.id, conn, end, self.hint, Instant::now());
        }
    }
}
