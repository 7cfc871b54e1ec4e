//! What the log says of an exchange that failed.

use std::fmt;

use http::{Method, Uri};
use tracing::{info, warn};

use super::Failure;
use crate::client::Conn;

/// Says once in the log what failed and why, as loud as it is our side's fault.
pub(super) fn report(client: &Conn, method: &Method, target: &Uri, failure: &Failure) {
    let (client, status, reason) = (client.address(), failure.status(), Chain(failure));
    let code = status.as_u16();
    if status.is_server_error() {
        warn!(%client, %method, %target, status = code, %reason, "request failed");
    } else {
        info!(%client, %method, %target, status = code, %reason, "request refused");
    }
}

/// An error with all its sources, on one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
