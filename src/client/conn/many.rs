//! HTTP/2: one connection that carries many exchanges, each with a [`Conn`] of its own.
//!
//! An exchange has its own waits and its own body; what it shares with the others is its carrier.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Conn;
use crate::client::waits::Wait;
use crate::client::words::Phase;
use crate::net::Greeted;

impl Conn {
    /// The same connection, and what its TLS handshake has said.
    #[must_use]
    pub fn greeted(self, greeted: Option<Greeted>) -> Conn {
        Conn { greeted, ..self }
    }

    /// What its TLS handshake has said, if there was one.
    pub fn greeting(&self) -> Option<&Greeted> {
        self.carrier().greeted.as_ref()
    }

    /// One exchange on `carrier`, which may be used for one after the other.
    pub(in crate::client) fn on(carrier: &Rc<Conn>) -> Conn {
        Conn {
            ip: carrier.ip.clone(),
            standing: carrier.standing,
            introduced: carrier.introduced.clone(),
            carrier: Some(Rc::clone(carrier)),
            ..Conn::bare(
                carrier.address,
                Rc::clone(&carrier.socket),
                Rc::clone(&carrier.policy),
                &carrier.alarms,
            )
        }
    }

    /// The connection itself.
    fn carrier(&self) -> &Conn {
        self.carrier.as_deref().unwrap_or(self)
    }

    /// Whether it is one exchange of a connection with HTTP/2: nothing is said of its end in heads.
    pub fn is_one_of_many(&self) -> bool {
        self.carrier.is_some()
    }

    /// An exchange begins on this connection; `one` is it.
    pub(in crate::client) fn carry(&self, one: &Conn) {
        // Counted up when its head is taken in.
        one.exchanges.set(self.exchanges.get());
        one.host.set(None);
        self.exchanges.set(self.exchanges.get().saturating_add(1));
        self.carries.set(self.carries.get() + 1);
        self.phase.set(Phase::Exchange);
        self.waits.clear(Wait::NextRequest);
    }

    /// One of them is over.
    pub(in crate::client) fn carried(&self) {
        let left = self.carries.get() - 1;
        self.carries.set(left);
        if left == 0 {
            self.phase.set(Phase::Idle);
            self.rests(Instant::now());
        }
    }

    /// Of one exchange: its connection is used on until the result is dropped, whatever becomes of the
    /// exchange. `None` over HTTP/1.1.
    pub fn stays(&self) -> Option<Stay> {
        let carrier = self.carrier.as_ref()?;
        carrier.carries.set(carrier.carries.get() + 1);
        Some(Stay(Rc::clone(carrier)))
    }

    /// How many it carries now.
    pub(in crate::client) fn carries(&self) -> u32 {
        self.carries.get()
    }

    /// Whether the client may begin with HTTP/2 now: with the first that it says.
    pub(in crate::client) fn may_begin_http2(&self) -> bool {
        self.exchanges.get() == 0 && self.settings().http2.enabled
    }

    /// Begins to carry HTTP/2.
    pub(in crate::client) fn begins_to_carry(&self) {
        self.socket.carries_frames();
        self.waits.clear(Wait::Park);
        self.phase.set(Phase::Idle);
    }

    /// The client takes what is left of responses that are over: as long as it does, it is not let go.
    pub(in crate::client) fn takes_the_rest(&self, patience: Duration) {
        if self.carries.get() == 0
            && let Some(until) = self.waits.until(Wait::NextRequest)
        {
            let until = until.max(Instant::now() + patience);
            self.waits.set(Wait::NextRequest, until);
        }
    }

    /// Until when it is waited for the client to take more, if it is.
    pub(in crate::client) fn stalls_until(&self) -> Option<Instant> {
        self.waits.until(Wait::ClientWrite)
    }

    /// The last word was said, and nothing is under way: the client may take so long to leave.
    pub(in crate::client) fn waits_for_goodbye(&self, until: Instant) {
        self.waits.set(Wait::NextRequest, until);
    }

    /// One exchange is over, and another may have its place.
    pub(in crate::client) fn rests_for_another(&self) {
        self.waits.clear_all();
    }
}

/// A connection with HTTP/2 that is in use.
pub struct Stay(Rc<Conn>);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.carried();
        self.0.waits.wake();
    }
}
