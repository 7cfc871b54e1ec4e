//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    warmline::cli::main()
}
