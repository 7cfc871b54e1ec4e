//! What the workers' pools of one server have in common, as the workers use it: the line, what
//! each of them has idle, what was learned of the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::account::{LineFigures, PoolTally, Refusal};

use super::ghost::Ghosts;
use super::learn::Learner;
use super::settings::Settings;
use super::share::Shared;
use super::state::Passport;
use super::words::{Leased, Wants};

/// A connection on its way to one who waits for it.
#[derive(Debug)]
pub enum Handed<L> {
    /// His own worker's, already leased to him.
    Here(Leased),
    /// From another worker.
    Lent(L, Passport),
}

/// What the workers' pools of one server have in common. `L` is a connection as it goes from one
/// worker to another.
#[derive(Debug)]
pub struct Common<L> {
    settings: Settings,
    pub(super) shared: Shared<Wants, Handed<L>>,
    tallies: Vec<Arc<PoolTally>>,
    memory: Mutex<Memory>,
    waited: AtomicU64,
    lent_late: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    learned_ms: AtomicU64,
    would_hit: [AtomicU64; super::ghost::CAPS.len()],
}

#[derive(Debug)]
struct Memory {
    learner: Learner,
    ghosts: Option<Ghosts>,
}

impl<L> Common<L> {
    /// What the pools of one server have in common, one pool with each of `tallies`.
    pub fn new(settings: Settings, tallies: Vec<Arc<PoolTally>>) -> Common<L> {
        let ghosts = settings
            .max_idle
            .map(|cap| Ghosts::new(cap.get(), settings.keep_alive.timeout));
        Common {
            shared: Shared::new(&settings, tallies.len()),
            memory: Mutex::new(Memory {
                learner: Learner::default(),
                ghosts,
            }),
            settings,
            tallies,
            waited: AtomicU64::new(0),
            lent_late: AtomicU64::new(0),
            refused: Default::default(),
            learned_ms: AtomicU64::new(0),
            would_hit: Default::default(),
        }
    }

    /// What is asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The figures of each worker's pool.
    pub fn tallies(&self) -> &[Arc<PoolTally>] {
        &self.tallies
    }

    /// The figures of the line.
    pub fn figures(&self) -> LineFigures {
        let (waiting, connections) = self.shared.figures();
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let learned = read(&self.learned_ms);
        LineFigures {
            waiting: waiting.into(),
            connections: connections.into(),
            waited: read(&self.waited),
            lent_late: read(&self.lent_late),
            refused: self.refused.each_ref().map(read),
            would_hit: self.would_hit.each_ref().map(read),
            learned_idle_timeout: (learned > 0).then(|| Duration::from_millis(learned)),
        }
    }

    /// The share of `min_idle` that is this worker's.
    pub(super) fn min_idle_of(&self, worker: usize) -> u64 {
        let workers = self.tallies.len() as u64;
        let all = u64::from(self.settings.min_idle);
        all / workers + u64::from((worker as u64) < all % workers)
    }

    /// The worker to borrow an idle connection from rather than to open one: as long as at least
    /// half of all connections are idle. With fewer, the workers would take connections from each
    /// other again and again; one more ends that.
    pub(super) fn lender(&self, borrower: usize) -> Option<usize> {
        let (mut idle, mut busy) = (0, 0);
        let mut richest = None;
        for (worker, tally) in self.tallies.iter().enumerate() {
            let (has_idle, has_busy) = tally.idle_and_busy();
            idle += has_idle;
            busy += has_busy;
            if worker != borrower && has_idle > richest.map_or(0, |(_, most)| most) {
                richest = Some((worker, has_idle));
            }
        }
        richest.filter(|_| idle >= busy).map(|(worker, _)| worker)
    }

    /// Somebody had to wait.
    pub(super) fn waited(&self) {
        self.waited.fetch_add(1, Ordering::Relaxed);
    }

    /// Another worker did not lend in time.
    pub(super) fn lent_late(&self) {
        self.lent_late.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody was refused.
    pub(super) fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The backend closed a connection that was idle. Returns its timeout, if that has taught it.
    pub(super) fn peer_closed_idle(&self, idle: Duration, now: Instant) -> Option<Duration> {
        if !self.settings.learn_idle_timeout {
            return None;
        }
        let mut memory = self.memory();
        if !memory.learner.closed(idle, now) {
            return None;
        }
        let learned = memory.learner.learned(now)?;
        self.say_learned(Some(learned));
        Some(learned)
    }

    /// How long the backend was seen to keep idle connections.
    pub(super) fn learned(&self, now: Instant) -> Option<Duration> {
        if self.learned_ms.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let learned = self.memory().learner.learned(now);
        self.say_learned(learned);
        learned
    }

    fn say_learned(&self, learned: Option<Duration>) {
        let ms = learned.map_or(0, |learned| learned.as_millis().max(1));
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        self.learned_ms.store(ms, Ordering::Relaxed);
    }

    /// A connection was closed because there were enough idle ones.
    pub(super) fn closed_for_cap(&self, now: Instant) {
        if let Some(ghosts) = &mut self.memory().ghosts {
            ghosts.closed(now);
        }
    }

    /// A connection has to be opened.
    pub(super) fn missed(&self, now: Instant) {
        if self.settings.max_idle.is_none() {
            return;
        }
        if let Some(ghosts) = &mut self.memory().ghosts {
            ghosts.missed(now);
            for (cell, hits) in self.would_hit.iter().zip(ghosts.hits()) {
                cell.store(hits, Ordering::Relaxed);
            }
        }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
