//! Becomes another program that the kernel kills when its starter ends.

use std::process::ExitCode;

use super::InLabArgs;
use crate::compare::lab;

/// Returns only if the program could not be started: with 127, as shells have it.
pub(super) fn in_lab(args: &InLabArgs) -> ExitCode {
    let (program, rest) = args
        .program
        .split_first()
        .expect("clap asks for at least one");
    let error = lab::run_owned(args.owner, program, rest);
    eprintln!(
        "warmline: {} could not be started: {error}",
        program.display()
    );
    ExitCode::from(127)
}
