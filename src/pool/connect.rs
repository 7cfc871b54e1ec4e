//! What a pool asks of its connections.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::keepalive::CloseReason;

use super::Inner;
use super::table::ConnId;
use super::words::{Farewell, Identity};

/// How connections of a pool are opened, used, moved and closed.
pub trait Connect: 'static {
    /// An open connection. Dropping it closes it; [`close`](Self::close) says how and why.
    type Conn: 'static;
    /// A connection on its way to another worker.
    type Lent: Send + 'static;
    /// Why one could not be opened.
    type Error: 'static;

    /// Opens a connection that speaks for `identity`. Once it has ended by itself, `watch` is to be
    /// told.
    ///
    /// # Cancellation
    /// Dropping the future gives the attempt up.
    fn connect(
        &self,
        identity: Identity,
        watch: Watch,
    ) -> impl Future<Output = Result<Self::Conn, Self::Error>>;

    /// The last look at a parked connection before it is used: false when it can be known that
    /// its peer has closed it. It has waited for `idle`.
    fn is_usable(&self, conn: &Self::Conn, idle: Duration) -> bool;

    /// Why an idle connection that is not usable any more has come to that.
    fn idle_end(&self, _conn: &Self::Conn) -> CloseReason {
        CloseReason::PeerClosedIdle
    }

    /// Closes a connection of which the pool says `farewell`. Every opened one comes here once;
    /// `None` for one that was lost on its way from another worker.
    fn close(&self, conn: Option<Self::Conn>, farewell: Farewell);

    /// How many exchanges it can carry at once.
    fn streams(&self, _conn: &Self::Conn) -> u32 {
        1
    }

    /// Another handle to the same connection, if it can carry several exchanges at once.
    fn share(&self, _conn: &Self::Conn) -> Option<Self::Conn> {
        None
    }

    /// Takes an idle connection off this worker. It is not to be watched any more.
    ///
    /// # Errors
    /// Gives it back when it cannot move.
    fn lend(&self, conn: Self::Conn) -> Result<Self::Lent, Self::Conn>;

    /// Takes in an idle connection from another worker; `None` if that fails, and it is closed.
    fn adopt(&self, lent: Self::Lent, watch: Watch) -> Option<Self::Conn>;

    /// Whether idle connections can move to another worker.
    fn can_lend(&self) -> bool {
        true
    }

    /// Whether it is this machine that has no port left, not the server that is at fault.
    fn is_out_of_ports(error: &Self::Error) -> bool;

    /// That error, for one who waited in vain while others found out.
    fn out_of_ports(&self) -> Self::Error;
}

/// To be told once that a connection has ended by itself, or takes no more exchanges, so that it is
/// not handed out any more.
pub struct Watch(Box<dyn FnOnce(CloseReason)>);

impl Watch {
    pub(super) fn new<C: Connect>(inner: &Rc<Inner<C>>, id: ConnId) -> Watch {
        let pool = Rc::downgrade(inner);
        Watch(Box::new(move |busy| {
            if let Some(pool) = pool.upgrade() {
                pool.peer_closed(id, busy);
            }
        }))
    }

    /// The connection has ended.
    pub fn ended(self) {
        (self.0)(CloseReason::PeerClosedBusy);
    }

    /// The connection takes no more exchanges; those that are on it may end well.
    pub fn retires(self) {
        (self.0)(CloseReason::PeerAsked);
    }
}
