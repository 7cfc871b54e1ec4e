//! A client connection while it is parked: what of it stays, and taking it up again.

use std::rc::Rc;

use tokio::time::Instant;

use super::Conn;
use super::origin::Introduced;
use crate::alarm::Alarms;
use crate::client::Policy;
use crate::client::waits::Wait;
use crate::net::{ClientAddr, Greeted, Socket};

/// A client connection that is idle, apart from its socket.
#[derive(Clone, Debug)]
pub struct Parked {
    /// Where the client connected from.
    pub address: ClientAddr,
    /// Since when it is idle.
    pub since: Instant,
    /// Until when it may be.
    pub until: Instant,
    policy: Rc<Policy>,
    host: Option<usize>,
    exchanges: u32,
    greeted: Option<Greeted>,
    introduced: Option<Rc<Introduced>>,
}

impl Conn {
    /// A connection that was parked and is taken up again, since something has come on it.
    ///
    /// So it is not idle any more, though the runtime has yet to say so of its socket: the times of a
    /// head that is coming count, and nobody is to have its place.
    pub fn taken_up(parked: Parked, socket: Rc<Socket>, alarms: &Alarms) -> Conn {
        let conn = Conn::new(parked.address, socket, parked.policy, alarms).greeted(parked.greeted);
        let conn = Conn {
            introduced: parked.introduced,
            ..conn
        };
        conn.host.set(parked.host);
        conn.exchanges.set(parked.exchanges);
        conn
    }

    /// Whether it can be parked: it is kept, has been idle for a while, and no pool knows it by its ends.
    pub(in crate::client) fn may_be_parked(&self) -> bool {
        self.is_idle()
            && self.waits.until(Wait::Park).is_none()
            && self.waits.until(Wait::NextRequest).is_some()
            && self.ends.get().is_none()
            && !self.draining.get()
            && !self.evicted.get()
    }

    /// The connection as it is parked, if it can be.
    pub(in crate::client) fn parked(&self) -> Option<Parked> {
        Some(Parked {
            address: self.address,
            since: self.idle_since().filter(|_| self.may_be_parked())?,
            until: self.waits.until(Wait::NextRequest)?,
            policy: Rc::clone(&self.policy),
            host: self.host.get(),
            exchanges: self.exchanges.get(),
            greeted: self.greeted.clone(),
            introduced: self.introduced.clone(),
        })
    }
}

#[cfg(test)]
impl Parked {
    /// One that was idle for these times, for tests of who keeps it.
    pub(crate) fn idle(since: Instant, until: Instant) -> Parked {
        Parked {
            address: ClientAddr(([127, 0, 0, 1], 1).into()),
            since,
            until,
            policy: Rc::default(),
            host: None,
            exchanges: 1,
            greeted: None,
            introduced: None,
        }
    }
}
