//! Giving memory back that was freed.
//!
//! What many connections needed for a moment stays with the allocator, for the next ones. Once they rest,
//! somebody else may have more use for it. How that is done is the allocator's affair, which the program
//! chooses: it says so here.

use std::sync::OnceLock;

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Has `how` called when memory is to be given back; the first who asks is heeded.
pub fn given_back_by(how: fn()) {
    let _ = GIVE_BACK.set(how);
}

/// Gives back what the calling thread has freed, if the program has said how.
pub fn give_back() {
    if let Some(how) = GIVE_BACK.get() {
        how();
    }
}
