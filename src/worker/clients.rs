//! The clients of one worker.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::client::Conn;

use super::room::Room;

/// How long to wait before looking again for an idle client when there is no room for another.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The clients of one worker.
pub(super) struct Clients {
    worker: usize,
    room: Arc<Room>,
    conns: RefCell<Slab<Rc<Conn>>>,
    /// The parked ones, by since when they are idle.
    parked: RefCell<BTreeSet<(Instant, usize)>>,
    draining: Cell<bool>,
    /// Told when the last one has gone.
    gone: Notify,
}

impl Clients {
    pub(super) fn new(worker: usize, room: Arc<Room>) -> Clients {
        Clients {
            worker,
            room,
            conns: RefCell::default(),
            parked: RefCell::default(),
            draining: Cell::new(false),
            gone: Notify::new(),
        }
    }

    /// One has come; returns its number.
    pub(super) fn enter(&self, conn: &Rc<Conn>) -> usize {
        self.room.enter();
        self.conns.borrow_mut().insert(Rc::clone(conn))
    }

    /// One has gone.
    pub(super) fn leave(&self, number: usize) {
        let mut conns = self.conns.borrow_mut();
        conns.remove(number);
        self.room.leave();
        if conns.is_empty() && self.draining.get() {
            self.gone.notify_one();
        }
    }

    /// One is parked, and idle since then.
    pub(super) fn park(&self, number: usize, since: Instant) {
        self.parked.borrow_mut().insert((since, number));
        self.say_oldest();
    }

    /// One that was parked is no more.
    pub(super) fn take_up(&self, number: usize, since: Instant) {
        self.parked.borrow_mut().remove(&(since, number));
        self.say_oldest();
    }

    fn say_oldest(&self) {
        let parked = self.parked.borrow();
        let oldest = parked.first().map(|(since, _)| *since);
        self.room.oldest_of(self.worker, oldest);
    }

    /// Makes room for one more: ends the client, of all workers', that has been idle for the longest.
    /// Returns once there is, or after a while.
    pub(super) async fn make_room(&self) {
        // First: whoever is asked may be faster.
        let mut left = pin!(self.room.left());
        left.as_mut().enable();
        if !self.room.is_full() {
            return;
        }
        match self.room.eldest() {
            Some(worker) if worker != self.worker => self.room.ask(worker),
            Some(_) => self.evict(1),
            // Nobody is parked anywhere: somebody may be idle all the same.
            None if self.evict_unparked() => {}
            None => self.room.ask_others(self.worker),
        }
        // Who becomes idle in the meantime tells nobody.
        let _ = timeout(LOOK_AGAIN, left).await;
    }

    /// Ends clients of this worker for others, for as long as there are any.
    pub(super) async fn give_way(&self) {
        loop {
            let count = self.room.asked(self.worker).await;
            if self.room.is_full() {
                self.evict(count);
            }
        }
    }

    /// Ends the idle clients that have been so for the longest.
    pub(super) fn evict(&self, count: u32) {
        for _ in 0..count {
            let oldest = self.parked.borrow_mut().pop_first();
            match oldest {
                Some((_, number)) => self.conns.borrow()[number].evict(),
                None if self.evict_unparked() => {}
                None => break,
            }
        }
        self.say_oldest();
    }

    /// The same for those that are not parked yet. True if there is one.
    fn evict_unparked(&self) -> bool {
        let conns = self.conns.borrow();
        let idle = conns
            .iter()
            .filter_map(|(_, conn)| conn.idle_since().map(|since| (since, conn)));
        let oldest = idle.min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, conn)| {
            conn.evict();
            true
        })
    }

    fn all(&self) -> Vec<Rc<Conn>> {
        let conns = self.conns.borrow();
        conns.iter().map(|(_, conn)| Rc::clone(conn)).collect()
    }

    /// Lets requests in flight finish, for at most `bound`; what is idle is closed.
    pub(super) async fn drain(&self, bound: Duration) {
        self.draining.set(true);
        let end = Instant::now() + bound;
        for conn in self.all() {
            conn.drain();
        }
        while !self.conns.borrow().is_empty() {
            tokio::select! {
                () = self.gone.notified() => {}
                () = sleep_until(end) => {
                    let left = self.conns.borrow().len();
                    warn!(connections = left, "shutdown_timeout is over: closing what is left");
                    for (_, conn) in &*self.conns.borrow() {
                        conn.cut_off();
                    }
                    return;
                }
            }
        }
    }
}
