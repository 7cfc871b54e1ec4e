//! Connections that go from hand to hand: to those who stand in line, to other workers and back.

use std::rc::Rc;

use tokio::time::Instant;

use crate::keepalive::CloseReason;

use super::common::Handed;
use super::line::Offer::{MakeRoom, Nobody, To};
use super::share::{Mail, Place};
use super::state::Passport;
use super::table::ConnId;
use super::words::{Free, Leased, Wants};
use super::{Connect, Inner, Lease, Watch};

impl<C: Connect> Inner<C> {
    /// Gives what is free to those who wait, as long as there is both.
    pub(super) fn serve_line(self: &Rc<Self>, now: Instant) {
        let shared = &self.common.shared;
        while shared.anyone_in_line() {
            let Some(free) = self.state.borrow().next_free(now) else {
                break;
            };
            if !self.is_parked_usable(free.id, free.idle) {
                self.end_unusable(free.id, CloseReason::PeerClosedBusy, now);
                continue;
            }
            match shared.offer(now, |place| self.suits(place, &free)) {
                To(place) => self.deliver(&place, free.id, now),
                MakeRoom => {
                    let ended = self.state.borrow_mut().evict(now);
                    let Some((id, farewell)) = ended else { break };
                    self.close_parked(id, farewell, now);
                }
                Nobody => break,
            }
        }
    }

    pub(super) fn suits(&self, place: &Place<Wants, Handed<C::Lent>>, free: &Free) -> bool {
        let safe_idle = self.common.settings().safe_idle;
        place.wants.identity == free.identity
            && place.wants.need.is_met(free.idle, safe_idle, free.is_new)
            && (place.worker == self.worker || free.is_idle && self.connector.can_lend())
    }

    /// Hands a free connection to one who has left the line for it.
    pub(super) fn deliver(
        self: &Rc<Self>,
        place: &Place<Wants, Handed<C::Lent>>,
        id: ConnId,
        now: Instant,
    ) {
        if place.worker == self.worker {
            let leased = self.state.borrow_mut().lease_free(id, now);
            if place.slot.bring(Handed::Here(leased)).is_err() {
                self.unused(leased, now);
            }
        } else {
            self.lend(place, id, now);
        }
    }

    /// Sends an idle connection to another worker.
    pub(super) fn lend(
        self: &Rc<Self>,
        place: &Place<Wants, Handed<C::Lent>>,
        id: ConnId,
        now: Instant,
    ) {
        let conn = self.take(id).expect("an idle connection is parked");
        match self.connector.lend(conn) {
            Ok(lent) => {
                let passport = self.state.borrow_mut().lend(id);
                if let Err(Handed::Lent(lent, passport)) =
                    place.slot.bring(Handed::Lent(lent, passport))
                {
                    self.bring_home(lent, passport, now);
                }
            }
            Err(conn) => {
                let reason = self.connector.idle_end(&conn);
                let farewell = self.state.borrow_mut().end_this(id, reason, now);
                self.bury(Some(conn), farewell, now);
                place.slot.deny();
            }
        }
    }

    /// A lease was not used after all.
    pub(super) fn unused(self: &Rc<Self>, leased: Leased, now: Instant) {
        let ended = self.state.borrow_mut().unused(leased, now);
        self.after_end(leased.id, None, ended, now);
    }

    /// Takes in a connection that came for nobody.
    pub(super) fn bring_home(self: &Rc<Self>, lent: C::Lent, passport: Passport, now: Instant) {
        if let Some(lease) = self.adopt(lent, passport, now) {
            let leased = lease.put_back();
            self.unused(leased, now);
        }
    }

    /// Takes in a connection from another worker and leases it; `None` if it is lost.
    pub(super) fn adopt(
        self: &Rc<Self>,
        lent: C::Lent,
        passport: Passport,
        now: Instant,
    ) -> Option<Lease<C>> {
        let leased = self.state.borrow_mut().adopt(passport, now);
        let watch = Watch::new(self, leased.id);
        if let Some(conn) = self.connector.adopt(lent, watch) {
            self.publish();
            return Some(Lease::new(self, leased, conn));
        }
        let reason = CloseReason::PeerClosedIdle;
        let ended = self.state.borrow_mut().stale(leased, reason, now);
        self.after_end(leased.id, None, ended, now);
        None
    }

    /// Answers what other workers ask.
    pub(super) fn answer(self: &Rc<Self>, mail: Mail<Wants, Handed<C::Lent>>, now: Instant) {
        for place in mail.asks {
            let found = loop {
                let found = self.state.borrow_mut().idle_for(now, place.wants);
                match found {
                    Some(free) if !self.is_parked_usable(free.id, free.idle) => {
                        let ended = self.end_unusable(free.id, CloseReason::PeerClosedBusy, now);
                        assert!(ended, "it was idle");
                    }
                    found => break found,
                }
            };
            match found {
                Some(free) if self.connector.can_lend() => self.lend(&place, free.id, now),
                _ => place.slot.deny(),
            }
        }
        if mail.look {
            self.serve_line(now);
        }
        self.settle(now);
    }
}
