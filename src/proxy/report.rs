//! What the log says of an exchange that failed.

use std::fmt;

use http::{Method, Uri};
use tracing::field::display;
use tracing::{info, warn};

use super::Failure;
use crate::client::{Conn, Named};

/// Says once in the log what failed and why, as loud as it is our side's fault.
pub(super) fn report(
    conn: &Conn,
    named: Option<&Named>,
    method: &Method,
    target: &Uri,
    failure: &Failure,
) {
    let (status, reason) = (failure.status(), Chain(failure));
    let (client, via) = who(conn, named);
    let code = status.as_u16();
    if status.is_server_error() {
        warn!(%client, via, %method, %target, status = code, %reason, "request failed");
    } else {
        info!(%client, via, %method, %target, status = code, %reason, "request refused");
    }
}

/// For whom an exchange is, as the log has it; and whose connection it is on, if that is another's.
pub(super) fn who(
    conn: &Conn,
    named: Option<&Named>,
) -> (impl fmt::Display, Option<impl tracing::Value>) {
    let own = conn.address();
    let via = named.is_some().then(|| display(own));
    let client = fmt::from_fn(move |f| match named {
        Some(named) => write!(f, "{}", named.ip),
        None => write!(f, "{own}"),
    });
    (client, via)
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
