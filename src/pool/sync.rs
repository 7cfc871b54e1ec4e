//! What [`super::share`] is built on: `std`'s, or a model checker's in `tests/model.rs`.

pub(super) use std::sync::atomic::{AtomicU32, Ordering};
pub(super) use std::sync::{Arc, Mutex, MutexGuard};

/// Locks. What a lock here guards is changed whole or not at all: a panic elsewhere in its owner's
/// thread leaves it usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
