//! Interim responses (1xx) on their way through: taken as they come in from a backend, and sent to a client
//! before the head that the HTTP library writes, which knows of none.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use super::Socket;

/// What of interim responses a socket holds.
#[derive(Default)]
pub(super) struct Early {
    /// Who is told that one has come.
    told: Cell<Option<Waker>>,
    /// How much of what was noted of the message that comes in has been taken.
    taken: Cell<usize>,
    /// What goes out before anything else.
    first: RefCell<Vec<u8>>,
}

impl Early {
    /// Another message's interim responses follow.
    pub(super) fn expect(&self) {
        self.taken.set(0);
    }

    /// One has come.
    pub(super) fn came(&self) {
        if let Some(waker) = self.told.take() {
            waker.wake();
        }
    }

    /// Moves what goes out before anything else behind what is `left`, which was before it.
    pub(super) fn move_behind(&self, left: &mut Vec<u8>) {
        let mut first = self.first.borrow_mut();
        if !first.is_empty() {
            left.append(&mut first);
            *first = Vec::new();
        }
    }
}

impl Socket {
    /// Takes the heads of the interim responses that have come to the request under way, each once, as far
    /// as heads are noted (16 KiB). The next one wakes `waker`.
    pub fn take_interim(&self, waker: Option<&Waker>, each: impl FnMut(&[u8])) {
        let early = &self.early;
        let taken = self.incoming.borrow().interim(early.taken.get(), each);
        early.taken.set(taken);
        early.told.set(waker.cloned());
    }

    /// Sends these bytes before anything else: with the next write or flush.
    pub fn send_first(&self, bytes: &[u8]) {
        self.early.first.borrow_mut().extend_from_slice(bytes);
    }
}
