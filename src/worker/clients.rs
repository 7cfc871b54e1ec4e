//! The clients of one worker.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::client::{Conn, Parked};
use crate::net::Moving;

use super::parking::{Left, Parking};
use super::room::Room;

/// How long to wait before looking again for an idle client when there is no room for another.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The clients of one worker.
pub(super) struct Clients {
    worker: usize,
    room: Arc<Room>,
    /// How many there are: those with a task, the parked ones, those that are let go.
    count: Cell<usize>,
    /// Those with a task.
    conns: RefCell<Slab<Rc<Conn>>>,
    parking: Parking,
    draining: Cell<bool>,
    /// Told when the last one has gone.
    gone: Notify,
}

impl Clients {
    pub(super) fn new(worker: usize, room: Arc<Room>) -> io::Result<Clients> {
        Ok(Clients {
            worker,
            room,
            count: Cell::new(0),
            conns: RefCell::default(),
            parking: Parking::new()?,
            draining: Cell::new(false),
            gone: Notify::new(),
        })
    }

    /// One has come.
    pub(super) fn enter(&self) {
        self.room.enter();
        self.count.set(self.count.get() + 1);
    }

    /// One has gone.
    pub(super) fn leave(&self) {
        self.room.leave();
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 && self.draining.get() {
            self.gone.notify_one();
        }
    }

    /// One has a task now; returns its number.
    pub(super) fn begin(&self, conn: &Rc<Conn>) -> usize {
        if self.draining.get() {
            conn.drain();
        }
        self.conns.borrow_mut().insert(Rc::clone(conn))
    }

    /// Its task ends.
    pub(super) fn end(&self, number: usize) {
        self.conns.borrow_mut().remove(number);
    }

    /// Parks one, whose task has ended. An error closes its connection.
    pub(super) fn park(&self, socket: Moving, client: Parked) -> io::Result<()> {
        self.parking.park(socket, client)?;
        self.say_oldest();
        Ok(())
    }

    /// Waits until some of the parked ones leave: what has become of each.
    pub(super) async fn next(&self) -> io::Result<Vec<Left>> {
        let left = self.parking.next().await;
        self.say_oldest();
        left
    }

    fn say_oldest(&self) {
        self.room.oldest_of(self.worker, self.parking.oldest());
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
            for _ in 0..count {
                // Who asks looks again after a while, and may have asked twice for one.
                if self.room.is_full() {
                    self.evict(1);
                }
            }
            if self.room.is_full() && self.has_idle() && self.room.claim() {
                self.evict(1);
            }
        }
    }

    fn has_idle(&self) -> bool {
        let conns = self.conns.borrow();
        self.parking.oldest().is_some() || conns.iter().any(|(_, conn)| conn.idle_since().is_some())
    }

    /// Ends the idle clients that have been so for the longest.
    pub(super) fn evict(&self, count: u32) {
        for _ in 0..count {
            if self.parking.evict() {
                self.leave();
            } else if !self.evict_unparked() {
                break;
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

    /// What is still open is closed at once with the worker's end.
    pub(super) fn cut_off(&self) {
        for (_, conn) in &*self.conns.borrow() {
            conn.cut_off();
        }
    }

    /// Lets requests in flight finish, for at most `bound`; what is idle is closed.
    pub(super) async fn drain(&self, bound: Duration) {
        self.draining.set(true);
        let end = Instant::now() + bound;
        self.parking.drain();
        for conn in self.all() {
            conn.drain();
        }
        while self.count.get() > 0 {
            tokio::select! {
                () = self.gone.notified() => {}
                () = sleep_until(end) => {
                    let left = self.count.get();
                    warn!(connections = left, "shutdown_timeout is over: closing what is left");
                    self.cut_off();
                    return;
                }
            }
        }
    }
}
