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

fn main() -> ExitCode {
    warmline::memory::given_back_by(give_back);
    warmline::cli::main()
}
