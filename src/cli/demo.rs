//! `warmline demo`: both ways side by side.

use std::process::ExitCode;

use super::DemoArgs;

/// Runs the demo until it is told to stop.
pub(super) fn demo(_args: &DemoArgs) -> ExitCode {
    ExitCode::FAILURE
}
