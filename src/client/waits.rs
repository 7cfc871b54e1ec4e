//! What a client connection waits for, each until its own time, and the one alarm for all of it.

use std::cell::Cell;
use std::task::Waker;

use tokio::time::Instant;

use crate::alarm::{Alarm, Alarms};

/// What is being waited for, each until its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Wait {
    /// The first byte of the next request: `keep_alive_timeout`.
    NextRequest,
    /// More of a request's head: `timeout`.
    RequestHead,
    /// More of a request's body: `timeout`.
    RequestBody,
    /// The client to take more of the response: `timeout`.
    ClientWrite,
    /// The backend to answer, to go on, or to take more: the upstream's `timeout`.
    Backend,
    /// A while, before an idle connection is parked.
    Park,
}

const WAITS: usize = 6;

impl Wait {
    const ALL: [Wait; WAITS] = [
        Wait::NextRequest,
        Wait::RequestHead,
        Wait::RequestBody,
        Wait::ClientWrite,
        Wait::Backend,
        Wait::Park,
    ];
}

/// The waits of one connection.
pub(super) struct Waits {
    until: [Cell<Option<Instant>>; WAITS],
    alarm: Alarm,
}

impl Waits {
    pub(super) fn new(alarms: &Alarms) -> Waits {
        Waits {
            until: Default::default(),
            alarm: alarms.alarm(),
        }
    }

    /// Until when this is waited for, if it is.
    pub(super) fn until(&self, wait: Wait) -> Option<Instant> {
        self.until[wait as usize].get()
    }

    /// Waits for this until then.
    pub(super) fn set(&self, wait: Wait, until: Instant) {
        self.note(wait, until);
        self.alarm.set(self.earliest());
    }

    /// The same, where another wait is set right behind it.
    pub(super) fn note(&self, wait: Wait, until: Instant) {
        self.until[wait as usize].set(Some(until));
    }

    /// This is not waited for any more. The alarm may ring all the same, for nothing.
    pub(super) fn clear(&self, wait: Wait) {
        self.until[wait as usize].set(None);
    }

    /// Nothing is waited for any more.
    pub(super) fn clear_all(&self) {
        for until in &self.until {
            until.set(None);
        }
    }

    /// Whom to wake.
    pub(super) fn wakes(&self, waker: &Waker) {
        self.alarm.wakes(waker);
    }

    /// Wakes now.
    pub(super) fn wake(&self) {
        self.alarm.wake();
    }

    /// If the alarm has rung: which wait has lasted too long. It is over.
    pub(super) fn take_expired(&self) -> Option<Wait> {
        if !self.alarm.has_rung() {
            return None;
        }
        let now = Instant::now();
        let late = |wait: &Wait| self.until(*wait).is_some_and(|until| until <= now);
        let expired = Wait::ALL.into_iter().find(late);
        if let Some(wait) = expired {
            self.clear(wait);
        }
        self.alarm.set(self.earliest());
        expired
    }

    fn earliest(&self) -> Option<Instant> {
        self.until.iter().filter_map(Cell::get).min()
    }
}
