//! The command line's door.

use std::process::ExitCode;

/// Measured beside the system's allocator when an exchange allocated 18 times: 6 % less CPU a request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    warmline::cli::main()
}
