//! The first words of a connection that comes through another proxy: the PROXY header.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::Settings;
use crate::account::FrontTally;
use crate::net::{self, ClientAddr, Ends, NotIntroduced};

/// How long the header may take to come, if the head of a request may take longer. Whoever sends one has it ready
/// when it connects; the time is that of a packet or two that get lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom the connection of a client that connects from `address` is of. `None` if it has to say so and has not: then it is
/// closed, and counted.
///
/// # Cancellation
/// Closes the connection.
pub(super) async fn introduction(
    stream: &TcpStream,
    address: ClientAddr,
    settings: &Settings,
    front: &FrontTally,
) -> Option<Option<Ends>> {
    let head = settings.read_timeout.header.map(|stage| stage.time);
    let patience = PATIENCE.min(settings.timeout).min(head.unwrap_or(PATIENCE));
    let reason = match timeout(patience, net::hear(stream)).await {
        Ok(Ok(ends)) => {
            if let Some(Ends { client, proxy }) = ends {
                debug!(%client, via = %address, at = %proxy, "a client was introduced");
            }
            return Some(ends);
        }
        Ok(Err(NotIntroduced::Silent)) => {
            debug!(client = %address, "it closed without a word");
            return None;
        }
        Ok(Err(reason)) => reason.to_string(),
        Err(_) => format!("no PROXY header came within {patience:?}"),
    };
    front.not_introduced();
    debug!(client = %address, reason, "it has to introduce its client, and did not: closed");
    None
}
