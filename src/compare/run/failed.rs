//! Why there is no report.

use std::io;

use super::child::Fault;
use crate::compare::lab::LabError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The hosts could not be had.
    #[error("{fault}{}", reason(.fault))]
    Lab {
        /// Why.
        fault: LabError,
    },
    /// A program did not do as it should.
    #[error("arm {arm}: {fault}")]
    Arm {
        /// Its name.
        arm: String,
        /// What it did.
        fault: Fault,
    },
    /// A name has no address.
    #[error("no address for {name}: {source}")]
    Lookup {
        /// The name.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Hosts of their own do not reach a backend that is elsewhere.
    #[error("a backend that is given is not reached from hosts of their own: leave --netns out")]
    Unreachable,
    /// Other programs need the backend's address.
    #[error(
        "{program} takes no settings of a file's upstream: compare it with --backend or without"
    )]
    Other {
        /// Which.
        program: &'static str,
    },
    /// A proxy that is observed does not say what it does.
    #[error("{proxy}: {source}")]
    Silent {
        /// Its name and its admin listener.
        proxy: String,
        /// What came of asking.
        source: io::Error,
    },
    /// Nothing was measured.
    #[error("interrupted before every arm had a round: there is nothing to report")]
    Interrupted,
    /// No request was answered.
    #[error("arm {arm}: no request was answered with less than 400 in its first round: {what}")]
    Nothing {
        /// Its name.
        arm: String,
        /// What came instead.
        what: String,
    },
    /// Connections did not end as the mode says.
    #[error(
        "arm {arm} did not do what its mode says, so there is no report. {mode}: {close_order}.\n{lines}"
    )]
    Fingerprint {
        /// Its name.
        arm: String,
        /// Its mode.
        mode: &'static str,
        /// What that is.
        close_order: &'static str,
        /// What was expected and found.
        lines: String,
    },
    /// The system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<LabError> for Failed {
    fn from(fault: LabError) -> Failed {
        Failed::Lab { fault }
    }
}

/// Whatever is behind an error, where there is something.
fn reason(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(String::new, |source| format!(" ({source})"))
}
