//! How many clients there may be at once, for all workers together, and who has to go when there are
//! too many.
//!
//! At the limit the connection that has been idle for the longest is closed for each new one; new
//! ones wait in the kernel's backlog only if none is idle. (Apache httpd 2.4's event MPM, short of
//! threads, closes all that are idle.) A worker says of its parked connections since when the oldest
//! is; of those that have been idle for less than that only it knows itself.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// What the workers have in common of their clients.
#[derive(Debug)]
pub struct Room {
    /// 0 is none.
    limit: AtomicU32,
    taken: AtomicU32,
    seats: Vec<Seat>,
    /// One client is to go, whoever's: the first worker that has an idle one takes it upon itself.
    wanted: AtomicBool,
    /// Told when somebody has left.
    left: Notify,
    start: Instant,
}

/// One worker.
#[derive(Debug)]
struct Seat {
    /// Since when its oldest parked client is idle, in ns after the start; the most if it has none.
    oldest: AtomicU64,
    /// How many of its clients are to go.
    wanted: AtomicU32,
    asked: Notify,
}

const NONE: u64 = u64::MAX;

impl Room {
    /// For so many workers.
    pub fn new(workers: usize) -> Room {
        let seat = || Seat {
            oldest: AtomicU64::new(NONE),
            wanted: AtomicU32::new(0),
            asked: Notify::new(),
        };
        Room {
            limit: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            seats: (0..workers).map(|_| seat()).collect(),
            wanted: AtomicBool::new(false),
            left: Notify::new(),
            start: Instant::now(),
        }
    }

    /// Sets how many there may be.
    pub fn set_limit(&self, limit: Option<NonZeroU32>) {
        let limit = limit.map_or(0, NonZeroU32::get);
        self.limit.store(limit, Ordering::Relaxed);
        self.left.notify_waiters();
    }

    /// Whether there are as many as there may be.
    pub(super) fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        limit > 0 && self.taken.load(Ordering::Relaxed) >= limit
    }

    /// How many there are, for all workers.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// One has come.
    pub(super) fn enter(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// One has gone.
    pub(super) fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        if self.limit.load(Ordering::Relaxed) > 0 {
            self.left.notify_waiters();
        }
    }

    /// Done when somebody has left.
    pub(super) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    /// Says since when a worker's oldest parked client is idle.
    pub(super) fn oldest_of(&self, worker: usize, since: Option<Instant>) {
        let nanos = since.map_or(NONE, |since| {
            let nanos = since.saturating_duration_since(self.start).as_nanos();
            u64::try_from(nanos).unwrap_or(NONE)
        });
        self.seats[worker].oldest.store(nanos, Ordering::Relaxed);
    }

    /// The worker whose parked client is to go; `None` if there is none.
    pub(super) fn eldest(&self) -> Option<usize> {
        let seats = self.seats.iter().enumerate();
        let oldest = |(_, seat): &(usize, &Seat)| seat.oldest.load(Ordering::Relaxed);
        let eldest = seats.min_by_key(oldest)?;
        (oldest(&eldest) != NONE).then_some(eldest.0)
    }

    /// Asks a worker to close the client that has been idle for the longest, if one is.
    pub(super) fn ask(&self, worker: usize) {
        let seat = &self.seats[worker];
        seat.wanted.fetch_add(1, Ordering::Relaxed);
        seat.asked.notify_one();
    }

    /// Asks all workers but this one for one client: see [`claim`](Self::claim).
    pub(super) fn ask_others(&self, worker: usize) {
        self.wanted.store(true, Ordering::Relaxed);
        for (other, seat) in self.seats.iter().enumerate() {
            if other != worker {
                seat.asked.notify_one();
            }
        }
    }

    /// Whether one was asked for whoever's it is, and nobody else has taken that upon himself.
    pub(super) fn claim(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    /// Waits until a worker is asked: how many of its own are to go.
    pub(super) async fn asked(&self, worker: usize) -> u32 {
        let seat = &self.seats[worker];
        seat.asked.notified().await;
        seat.wanted.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_worker_with_the_oldest_is_found_and_one_that_has_none_is_not() {
        let room = Room::new(3);
        assert_eq!(room.eldest(), None);
        let later = |ms| Some(room.start + Duration::from_millis(ms));
        room.oldest_of(1, later(20));
        room.oldest_of(2, later(10));
        assert_eq!(room.eldest(), Some(2));
        room.oldest_of(2, None);
        assert_eq!(room.eldest(), Some(1));
    }

    #[test]
    fn it_is_full_at_its_limit_and_never_without_one() {
        let room = Room::new(1);
        room.enter();
        assert!(!room.is_full());
        room.set_limit(NonZeroU32::new(1));
        assert!(room.is_full());
        room.leave();
        assert!(!room.is_full());
    }
}
