//! The local time zone.
//!
//! The C library knows it, and asking it takes `unsafe`, which the library is without: the program says
//! how it is done.

use std::sync::OnceLock;

static OFFSET: OnceLock<fn(i64) -> i32> = OnceLock::new();

/// Has `how` tell by how many seconds local clocks are ahead of UTC at a second, counted from 1970 in
/// UTC; the first who says it is heeded. Until then it is UTC.
pub fn told_by(how: fn(i64) -> i32) {
    let _ = OFFSET.set(how);
}

/// By how many seconds local clocks are ahead of UTC at `second`.
pub(super) fn offset(second: i64) -> i32 {
    OFFSET.get().map_or(0, |how| how(second))
}
