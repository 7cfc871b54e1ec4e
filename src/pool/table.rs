//! A pool's connections, and the list of those that are free, the most recently parked first.
//!
//! The list runs through the table itself: parking a connection and taking it out again touches two
//! neighbours and allocates nothing.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::account::{Held, Stage};
use crate::keepalive::CloseReason;

use super::words::{Free, Identity};

/// A connection of this pool, from the permission to open it until its end.
///
/// Ids are used again, but never mistaken: an id that has ended is not found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub(super) index: u32,
    generation: NonZeroU32,
}

impl ConnId {
    /// The place of this connection in a table of the driver; dense and used again.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What is known of a connection, whoever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) opened: Instant,
    /// When it is too old to be used.
    pub(super) ages_at: Option<Instant>,
    /// Exchanges begun on it.
    pub(super) exchanges: u32,
    /// The most that its backend said it takes.
    pub(super) most_exchanges: u32,
    /// How long it may wait, after its backend's hint.
    pub(super) idle_limit: Duration,
    /// When it last came free.
    pub(super) since: Instant,
    pub(super) identity: Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    /// In use by as many exchanges as it can carry, or by its last one.
    Busy,
    /// In the list of those that can be leased, between a more and a less recently parked one.
    Free {
        newer: Option<u32>,
        older: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    generation: NonZeroU32,
    pub(super) phase: Phase,
    pub(super) life: Life,
    /// Exchanges on it now, and the most there may be: 1 with HTTP/1.1.
    pub(super) leases: u32,
    pub(super) streams: u32,
    /// How long it waited for its latest exchange.
    pub(super) waited: Duration,
    /// It ends with its last lease, for this reason.
    pub(super) retires: Option<CloseReason>,
}

/// Every connection of a pool, and the list of those that are free.
#[derive(Debug)]
pub(super) struct Table {
    entries: Slab<Entry>,
    newest: Option<u32>,
    oldest: Option<u32>,
    generation: NonZeroU32,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            entries: Slab::new(),
            newest: None,
            oldest: None,
            generation: NonZeroU32::MIN,
        }
    }

    /// The free connection that was parked last.
    pub(super) fn newest(&self) -> Option<u32> {
        self.newest
    }

    /// The free connection that was parked first.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.oldest
    }

    /// The free connection that has been idle for the longest, of those that fit.
    pub(super) fn oldest_idle(&self, fits: impl Fn(&Life) -> bool) -> Option<u32> {
        let mut next = self.oldest;
        while let Some(index) = next {
            let entry = &self[index];
            if entry.leases == 0 && fits(&entry.life) {
                return Some(index);
            }
            next = entry.newer();
        }
        None
    }

    /// What a free connection has to offer.
    pub(super) fn free(&self, index: u32, now: Instant) -> Free {
        let entry = &self[index];
        Free {
            id: self.id(index),
            identity: entry.life.identity,
            idle: entry.waited_at(now),
            is_new: entry.life.exchanges == 0,
            is_idle: entry.leases == 0,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    pub(super) fn remove(&mut self, index: u32) -> Entry {
        self.entries.remove(index as usize)
    }

    pub(super) fn insert(&mut self, phase: Phase, life: Life) -> ConnId {
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let key = self.entries.insert(Entry {
            generation,
            phase,
            life,
            leases: 0,
            streams: 1,
            waited: Duration::ZERO,
            retires: None,
        });
        let index = u32::try_from(key);
        ConnId {
            index: index.expect("open files run out long before four billion connections"),
            generation,
        }
    }

    pub(super) fn entry(&self, id: ConnId) -> Option<&Entry> {
        self.entries
            .get(id.index())
            .filter(|entry| entry.generation == id.generation)
    }

    pub(super) fn entry_mut(&mut self, id: ConnId) -> Option<&mut Entry> {
        self.entries
            .get_mut(id.index())
            .filter(|entry| entry.generation == id.generation)
    }

    pub(super) fn id(&self, index: u32) -> ConnId {
        ConnId {
            index,
            generation: self[index].generation,
        }
    }

    /// Puts a connection into the list, where its time puts it: mostly first.
    pub(super) fn link(&mut self, index: u32) {
        let since = self[index].life.since;
        let mut newer = None;
        let mut older = self.newest;
        while let Some(next) = older {
            if self[next].life.since <= since {
                break;
            }
            newer = older;
            older = self[next].older();
        }
        self[index].phase = Phase::Free { newer, older };
        match newer {
            Some(newer) => *self.older_of(newer) = Some(index),
            None => self.newest = Some(index),
        }
        match older {
            Some(older) => *self.newer_of(older) = Some(index),
            None => self.oldest = Some(index),
        }
    }

    /// Takes a connection out of the list.
    pub(super) fn unlink(&mut self, index: u32) {
        let phase = std::mem::replace(&mut self[index].phase, Phase::Busy);
        let Phase::Free { newer, older } = phase else {
            panic!("connection {index} is not free");
        };
        match newer {
            Some(newer) => *self.older_of(newer) = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => *self.newer_of(older) = newer,
            None => self.oldest = newer,
        }
    }

    fn newer_of(&mut self, index: u32) -> &mut Option<u32> {
        match &mut self[index].phase {
            Phase::Free { newer, .. } => newer,
            Phase::Opening | Phase::Busy => panic!("connection {index} is not free"),
        }
    }

    fn older_of(&mut self, index: u32) -> &mut Option<u32> {
        match &mut self[index].phase {
            Phase::Free { older, .. } => older,
            Phase::Opening | Phase::Busy => panic!("connection {index} is not free"),
        }
    }
}

impl Index<u32> for Table {
    type Output = Entry;

    fn index(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }
}

impl IndexMut<u32> for Table {
    fn index_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[index as usize]
    }
}

impl Entry {
    pub(super) fn is_free(&self) -> bool {
        matches!(self.phase, Phase::Free { .. })
    }

    pub(super) fn waited_at(&self, now: Instant) -> Duration {
        match self.leases {
            0 => now.saturating_duration_since(self.life.since),
            _ => Duration::ZERO,
        }
    }

    /// What an onlooker sees of it.
    pub(super) fn held(&self, now: Instant) -> Held {
        let stage = match self.phase {
            Phase::Opening => Stage::Opening,
            Phase::Busy | Phase::Free { .. } if self.leases > 0 => Stage::Leased,
            Phase::Busy | Phase::Free { .. } => Stage::Idle,
        };
        Held {
            stage,
            exchanges: self.life.exchanges,
            age: now.saturating_duration_since(self.life.opened),
            idle: if stage == Stage::Idle {
                self.waited_at(now)
            } else {
                Duration::ZERO
            },
        }
    }

    pub(super) fn newer(&self) -> Option<u32> {
        match self.phase {
            Phase::Free { newer, .. } => newer,
            Phase::Opening | Phase::Busy => None,
        }
    }

    pub(super) fn older(&self) -> Option<u32> {
        match self.phase {
            Phase::Free { older, .. } => older,
            Phase::Opening | Phase::Busy => None,
        }
    }
}
