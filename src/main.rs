//! The command line's door.

use std::process::ExitCode;

/// An exchange was measured to cost less with it than with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(
    unsafe_code,
    reason = "the allocator's own function, which may be called at any time"
)]
fn give_back() {
    // SAFETY: it takes no pointer, and touches nothing but the allocator's own state of this thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// By how many seconds local clocks are ahead of UTC at `second`: `TZ`, or `/etc/localtime`.
#[expect(
    unsafe_code,
    reason = "the C library's own function, with two values on the stack"
)]
fn zone(second: i64) -> i32 {
    // SAFETY: a `tm` is numbers and a pointer, for all of which zero is a value.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call. It reads the environment, which nothing
    // in this program changes.
    let known = unsafe { libc::localtime_r(&raw const second, &raw mut local) };
    if known.is_null() {
        0
    } else {
        i32::try_from(local.tm_gmtoff).unwrap_or(0)
    }
}

fn main() -> ExitCode {
    warmline::memory::given_back_by(give_back);
    warmline::log::zone_told_by(zone);
    warmline::cli::main()
}
