//! What happened, counted: written by one worker each, read from anywhere.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::keepalive::CloseReason;

/// How many connections there were, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections being opened now.
    pub opening: u64,
    /// Connections carrying an exchange now.
    pub leased: u64,
    /// Connections waiting for one now.
    pub idle: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Permissions to open that came to nothing.
    pub open_failed: u64,
    /// Exchanges on a connection that had served before.
    pub reused: u64,
    /// Connections that ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Counts {
    /// Connections that ended, whatever the reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

/// One worker's figures of one pool, as last published.
///
/// Each cell has a single writer; readers see each figure as it was at some recent moment, not
/// all of them at the same one.
#[derive(Debug, Default)]
pub struct PoolTally {
    requests: AtomicU64,
    opening: AtomicU64,
    leased: AtomicU64,
    idle: AtomicU64,
    opened: AtomicU64,
    open_failed: AtomicU64,
    reused: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

impl PoolTally {
    /// Takes over the pool's counts.
    pub(crate) fn publish(&self, counts: &Counts) {
        set(&self.opening, counts.opening);
        set(&self.leased, counts.leased);
        set(&self.idle, counts.idle);
        set(&self.opened, counts.opened);
        set(&self.open_failed, counts.open_failed);
        set(&self.reused, counts.reused);
        for (cell, &count) in self.closed.iter().zip(&counts.closed) {
            set(cell, count);
        }
    }

    /// Counts a request that was sent to this backend.
    pub(crate) fn request(&self) {
        // One writer: no need for a locked addition.
        set(&self.requests, self.requests.load(Ordering::Relaxed) + 1);
    }

    /// Adds these figures to `sum`.
    pub fn add_to(&self, sum: &mut PoolFigures) {
        sum.requests += self.requests.load(Ordering::Relaxed);
        let counts = &mut sum.counts;
        for (sum, cell) in [
            (&mut counts.opening, &self.opening),
            (&mut counts.leased, &self.leased),
            (&mut counts.idle, &self.idle),
            (&mut counts.opened, &self.opened),
            (&mut counts.open_failed, &self.open_failed),
            (&mut counts.reused, &self.reused),
        ] {
            *sum += cell.load(Ordering::Relaxed);
        }
        for (sum, cell) in counts.closed.iter_mut().zip(&self.closed) {
            *sum += cell.load(Ordering::Relaxed);
        }
    }
}

fn set(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

/// Figures of one or more pools, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Requests sent to backends.
    pub requests: u64,
    /// What became of the connections.
    pub counts: Counts,
}

impl PoolFigures {
    /// Connections that ended for `reason`.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.counts.closed[reason as usize]
    }
}
