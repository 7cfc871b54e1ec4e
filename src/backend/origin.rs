//! What is known of a connection from its beginning on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is known of a connection from its beginning on, wherever it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its number: no other in the process has it.
    pub id: u64,
    /// How long it took to open, until a request could be sent.
    pub connect: Duration,
}

impl Origin {
    /// That of a connection that took so long to open.
    pub fn new(connect: Duration) -> Origin {
        // Taken when a connection opens, not with each request.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Origin {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            connect,
        }
    }
}
