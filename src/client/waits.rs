//! What a client connection waits for, each until its own time, and the one alarm for all of it.

use std::cell::Cell;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::Stage;
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

/// How long one part of a request has been waited for, with pauses in which it was not.
#[derive(Debug, Default)]
pub(super) struct Clock {
    from: Cell<Option<Instant>>,
    before: Cell<Duration>,
}

impl Clock {
    /// It is waited for from now on; nothing if it is already.
    pub(super) fn start(&self, now: Instant) {
        self.from.set(self.from.get().or(Some(now)));
    }

    /// It is not waited for any more, for now.
    pub(super) fn stop(&self, now: Instant) {
        if let Some(from) = self.from.take() {
            let waited = now.saturating_duration_since(from);
            self.before.set(self.before.get() + waited);
        }
    }

    pub(super) fn reset(&self) {
        self.from.set(None);
        self.before.set(Duration::ZERO);
    }

    /// Until when to wait for more of it, of which `bytes` have come: for `timeout` from now on, but not
    /// beyond what the whole may take.
    pub(super) fn until(
        &self,
        now: Instant,
        timeout: Duration,
        whole: Option<&Stage>,
        bytes: u64,
    ) -> Instant {
        let until = now + timeout;
        let end = whole.and_then(|stage| {
            let left = stage.allowed(bytes).saturating_sub(self.before.get());
            self.from.get().unwrap_or(now).checked_add(left)
        });
        end.map_or(until, |end| until.min(end))
    }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn the_whole_is_bounded_by_the_time_that_it_was_waited_for_and_prolonged_by_what_comes() {
        let stage = Stage {
            time: Duration::from_secs(20),
            most: None,
            min_rate: NonZeroU32::new(500),
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let clock = Clock::default();
        let until = |now, bytes| clock.until(at(now), Duration::from_secs(60), Some(&stage), bytes);
        clock.start(at(0));
        clock.start(at(5));
        assert_eq!(until(5, 0), at(20));
        assert_eq!(until(5, 500), at(21));
        clock.stop(at(10));
        // A pause of 90 s, in which it was not waited for.
        clock.start(at(100));
        assert_eq!(until(100, 500), at(111));
        assert_eq!(
            clock.until(at(100), Duration::from_secs(7), Some(&stage), 500),
            at(107)
        );
        assert_eq!(
            clock.until(at(100), Duration::from_secs(60), None, 0),
            at(160)
        );
        clock.reset();
        clock.start(at(200));
        assert_eq!(until(200, 0), at(220));
    }
}
