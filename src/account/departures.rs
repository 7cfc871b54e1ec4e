//! Departures: connections that we closed first, noted by the kernel's number for them, so that each
//! TIME_WAIT can be told by where it comes from.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Arm, PoolTally};
use crate::keepalive::CloseReason;

/// How many a worker may note between two readings; what comes beyond is counted, not noted.
const ROOM: usize = 16 * 1024;

/// A connection that we closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// `SO_COOKIE`, which its TIME_WAIT has too.
    pub cookie: u64,
    /// The pool it was of, by the number that [`Departures::new_pool`] gave.
    pub pool: u32,
    /// Whether the pool's connections were kept.
    pub arm: Arm,
    /// Why it ended.
    pub reason: CloseReason,
    /// When, since [`Departures`] were made.
    pub at: Duration,
}

/// What the workers note: each in a ring of its own, which nobody else writes and one at a time reads.
#[derive(Debug)]
pub struct Departures {
    rings: Vec<Ring>,
    pools: AtomicU32,
    began: Instant,
    reading: Mutex<()>,
}

/// Written by one worker, read by one reader at a time, without a lock between the two.
#[derive(Debug)]
struct Ring {
    /// Cookie, and the rest in one word.
    slots: Box<[[AtomicU64; 2]]>,
    /// How many were read. Written by the reader.
    read: AtomicU64,
    /// How many were written. Written by the worker, behind what it wrote.
    written: AtomicU64,
    /// How many found no room.
    lost: AtomicU64,
}

/// What the tallies of a pool are made from.
#[derive(Debug)]
pub struct Tallies {
    /// How many workers there are.
    pub workers: usize,
    /// Where departures are noted, if they are.
    pub departures: Option<Arc<Departures>>,
}

impl Tallies {
    /// Those of one pool, for each worker.
    pub fn of_pool(&self, arm: Arm) -> Vec<Arc<PoolTally>> {
        let departures = self.departures.as_ref();
        let noting = departures.map(|departures| (departures, departures.new_pool()));
        let tally = |worker| match noting {
            Some((departures, pool)) => PoolTally::noting(departures, worker, pool, arm),
            None => PoolTally::default(),
        };
        (0..self.workers)
            .map(|worker| Arc::new(tally(worker)))
            .collect()
    }
}

impl Departures {
    /// Room for so many workers.
    pub fn new(workers: usize) -> Departures {
        Departures {
            rings: (0..workers).map(|_| Ring::new(ROOM)).collect(),
            pools: AtomicU32::new(0),
            began: Instant::now(),
            reading: Mutex::new(()),
        }
    }

    /// A number for one more pool.
    pub fn new_pool(&self) -> u32 {
        self.pools.fetch_add(1, Ordering::Relaxed)
    }

    /// How long there have been any.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes one. To be called by the thread of `worker` only.
    pub(super) fn note(
        &self,
        worker: usize,
        pool: u32,
        arm: Arm,
        reason: CloseReason,
        cookie: u64,
    ) {
        let departure = Departure {
            cookie,
            pool,
            arm,
            reason,
            at: self.age(),
        };
        if let Some(ring) = self.rings.get(worker) {
            ring.push(departure.to_words());
        }
    }

    /// Hands over what has been noted since the last time.
    pub fn take(&self, mut each: impl FnMut(Departure)) {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        for ring in &self.rings {
            ring.take(|words| each(Departure::from_words(words, self.age())));
        }
    }

    /// How many were not noted, as nobody read.
    pub fn lost(&self) -> u64 {
        let lost = self.rings.iter().map(|ring| &ring.lost);
        lost.map(|lost| lost.load(Ordering::Relaxed)).sum()
    }
}

impl Departure {
    /// The second word: 24 bits of the pool, the arm, 7 bits of the reason, 32 of the time in
    /// milliseconds, which is 49 days; they begin again then, and the reader knows which it is.
    fn to_words(self) -> [u64; 2] {
        let pool = u64::from(self.pool) & 0xff_ffff;
        let reason = self.reason as u64 & 0x7f;
        let at = millis(self.at) & 0xffff_ffff;
        [
            self.cookie,
            pool << 40 | (self.arm as u64) << 39 | reason << 32 | at,
        ]
    }

    /// Read at `now`, within 49 days of when it was noted.
    fn from_words([cookie, rest]: [u64; 2], now: Duration) -> Departure {
        let bits = |from: u32, mask: u64| rest >> from & mask;
        let now = millis(now);
        let ago = now.wrapping_sub(bits(0, 0xffff_ffff)) & 0xffff_ffff;
        let index = |bits: u64| usize::try_from(bits).expect("a few bits");
        Departure {
            cookie,
            pool: u32::try_from(bits(40, 0xff_ffff)).expect("24 bits"),
            arm: Arm::ALL[index(bits(39, 1))],
            reason: CloseReason::ALL[index(bits(32, 0x7f))],
            at: Duration::from_millis(now.saturating_sub(ago)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Ring {
    fn new(room: usize) -> Ring {
        Ring {
            slots: (0..room).map(|_| Default::default()).collect(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn slot(&self, number: u64) -> &[AtomicU64; 2] {
        let room = self.slots.len() as u64;
        let place = usize::try_from(number % room).expect("less than the room");
        &self.slots[place]
    }

    fn push(&self, words: [u64; 2]) {
        let written = self.written.load(Ordering::Relaxed);
        // What the reader is done with may be written over.
        if written - self.read.load(Ordering::Acquire) == self.slots.len() as u64 {
            let lost = self.lost.load(Ordering::Relaxed);
            self.lost.store(lost + 1, Ordering::Relaxed);
            return;
        }
        for (slot, word) in self.slot(written).iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
        self.written.store(written + 1, Ordering::Release);
    }

    fn take(&self, mut each: impl FnMut([u64; 2])) {
        let written = self.written.load(Ordering::Acquire);
        for number in self.read.load(Ordering::Relaxed)..written {
            let words = self.slot(number).each_ref();
            each(words.map(|word| word.load(Ordering::Relaxed)));
        }
        self.read.store(written, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_departure_comes_out_of_its_words_as_it_went_in() {
        for arm in Arm::ALL {
            for reason in CloseReason::ALL {
                let departure = Departure {
                    cookie: u64::MAX - 7,
                    pool: 0xab_cdef,
                    arm,
                    reason,
                    at: Duration::from_millis(0xfedc_ba98),
                };
                let read = Departure::from_words(departure.to_words(), departure.at);
                assert_eq!(read, departure);
            }
        }
    }

    #[test]
    fn when_it_was_is_known_after_49_days_too() {
        const TURN: u64 = 1 << 32;
        for (noted, read) in [
            (0, 0),
            (5, 1000),
            (TURN - 1, TURN - 1),
            (TURN - 1, TURN + 5),
            (TURN + 5, TURN + 1005),
            (7 * TURN + 123, 7 * TURN + 60_123),
        ] {
            let departure = Departure {
                cookie: 1,
                pool: 2,
                arm: Arm::Short,
                reason: CloseReason::KeepAliveOff,
                at: Duration::from_millis(noted),
            };
            let words = departure.to_words();
            assert_eq!(
                Departure::from_words(words, Duration::from_millis(read)),
                departure
            );
        }
    }

    #[test]
    fn each_is_handed_over_once_and_what_finds_no_room_is_counted() {
        let departures = Departures::new(2);
        let (a, b) = (departures.new_pool(), departures.new_pool());
        let note = |worker, pool, cookie| {
            departures.note(worker, pool, Arm::Short, CloseReason::KeepAliveOff, cookie);
        };
        let take = || {
            let mut taken = Vec::new();
            departures.take(|departure| taken.push((departure.pool, departure.cookie)));
            taken
        };
        note(0, a, 1);
        note(1, b, 2);
        note(0, b, 3);
        assert_eq!(take(), [(a, 1), (b, 3), (b, 2)]);
        assert!(take().is_empty());
        let room = ROOM as u64;
        for cookie in 0..room + 5 {
            note(0, a, cookie);
        }
        let taken = take();
        assert_eq!((taken.len(), taken[0].1), (ROOM, 0));
        assert_eq!(departures.lost(), 5);
        note(0, a, 9);
        assert_eq!(take(), [(a, 9)]);
    }

    #[test]
    fn a_reader_meanwhile_finds_every_one_in_order() {
        const MANY: u64 = 200_000;
        let ring = Arc::new(Ring::new(64));
        let writer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || {
                for number in 0..MANY {
                    ring.push([number, !number]);
                }
            }
        });
        let mut next = 0;
        loop {
            let is_over = writer.is_finished();
            ring.take(|[number, not]| {
                assert_eq!(not, !number);
                assert!(number >= next);
                next = number + 1;
            });
            if is_over {
                break;
            }
        }
        writer.join().unwrap();
        let lost = ring.lost.load(Ordering::Relaxed);
        assert_eq!(ring.read.load(Ordering::Relaxed) + lost, MANY);
    }
}
