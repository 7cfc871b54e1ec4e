//! A connection that has left HTTP/1.1: from the backend's `101 Switching Protocols` until both sides have
//! ended.
//!
//! The lease, and with it the backend connection's place among its server's connections, lasts as long.
//! The exchange is told once, at its end.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::debug;

use crate::account::{Outcome, PoolTally, TunnelEnd};
use crate::backend::Switched;
use crate::client::{self, Conn};
use crate::keepalive::CloseReason;
use crate::net::{BackendAddr, Over, Patience, Side, Stream, Tunnel};

use super::body::{BackendLease, RelayBody};
use super::failure::Failure;
use super::headers;
use super::record::Record;
use super::upgrade::Upgrade;
use super::upstream::Backend;

/// Hands a backend's `101 Switching Protocols` on to the client, if it switches to what was asked for. What
/// follows it is passed on by the client's own task.
///
/// # Errors
/// [`Failure::BadAnswer`] if it does not.
pub(super) fn switch(
    client: &Rc<Conn>,
    response: Response<Incoming>,
    asked: Option<Upgrade>,
    mut lease: BackendLease,
    backend: &Backend,
    record: &mut Record,
) -> Result<Response<RelayBody>, Failure> {
    let (mut parts, _) = response.into_parts();
    let agreed = asked.and_then(|asked| Some((asked.agreed(&parts.headers)?, asked.patience())));
    lease.conn().give_names_to(client.socket());
    let switched = lease.conn().switch();
    let (Some((agreed, patience)), Some((stream, early))) = (agreed, switched) else {
        let failure = Failure::BadAnswer {
            backend: backend.address().clone(),
            source: None,
        };
        lease.spent(failure.close_reason());
        record.closes(failure.close_reason());
        return Err(failure);
    };
    headers::forward_response(&mut parts);
    parts.headers.remove(CONTENT_LENGTH);
    let upgrade = HeaderValue::from_static("Upgrade");
    parts.headers.insert(CONNECTION, upgrade);
    parts.headers.insert(UPGRADE, agreed);
    client.backend_moved();
    client.promises(false);
    let open = Open::begin(client, stream, lease, backend, record);
    client.switches(Box::new(move |stream, ahead| {
        Box::pin(open.run(stream, ahead, early, patience))
    }));
    debug_assert_eq!(parts.status, StatusCode::SWITCHING_PROTOCOLS);
    Ok(Response::from_parts(parts, RelayBody::none()))
}

/// A tunnel that is open. Until it has ended by itself it counts as cut off.
struct Open {
    client: Rc<Conn>,
    address: BackendAddr,
    stream: Switched,
    lease: BackendLease,
    record: Record,
    tally: Arc<PoolTally>,
    end: TunnelEnd,
}

impl Open {
    fn begin(
        client: &Rc<Conn>,
        stream: Switched,
        mut lease: BackendLease,
        backend: &Backend,
        record: &mut Record,
    ) -> Open {
        let tally = Arc::clone(&backend.tally);
        tally.tunnels.begins();
        record.switches(Instant::now());
        record.closes(CloseReason::Drain);
        lease.spent(CloseReason::Drain);
        Open {
            client: Rc::clone(client),
            address: backend.address().clone(),
            stream,
            lease,
            record: record.hand_on(),
            tally,
            end: TunnelEnd::CutOff,
        }
    }

    /// Passes on what comes until it ends, and closes both connections.
    ///
    /// # Cancellation
    /// Dropping the future cuts the tunnel off.
    async fn run(mut self, mut client: Stream, ahead: Vec<u8>, early: Bytes, patience: Patience) {
        let mut tunnel = Tunnel::new(ahead, early.into());
        let (record, tally) = (&mut self.record, &self.tally);
        let moved = |side, bytes| match side {
            Side::Client => {
                record.takes(bytes);
                tally.tunnels.received(bytes);
            }
            Side::Backend => {
                record.hands_over(bytes);
                tally.tunnels.sent(bytes);
            }
        };
        let over = tunnel
            .run(&mut client, &mut self.stream, patience, moved)
            .await;
        let address = self.client.address();
        match &over {
            Over::Broken(side, error) => {
                debug!(client = %address, backend = %self.address, ?side, %error, "a tunnel broke off");
            }
            Over::Idle => {
                debug!(client = %address, backend = %self.address, "a tunnel was silent for too long");
            }
            Over::Closed => {}
        }
        // Whether the client has seen, or is to see, an end that looks like one.
        let is_gentle = match over {
            Over::Closed => {
                self.ends(TunnelEnd::Closed);
                return;
            }
            Over::Idle => {
                self.ends(TunnelEnd::Timeout);
                true
            }
            Over::Broken(Side::Client, _) => {
                self.ends(TunnelEnd::ClientGone);
                false
            }
            Over::Broken(Side::Backend, _) => {
                self.lease.conn().broke_off();
                self.ends(TunnelEnd::BackendGone);
                tunnel.has_told_client()
            }
        };
        drop(self);
        if is_gentle {
            client::let_go(client).await;
        } else {
            client.socket().reset_on_close();
        }
    }

    fn ends(&mut self, end: TunnelEnd) {
        let (reason, outcome) = match end {
            TunnelEnd::Closed => (CloseReason::Upgraded, Outcome::Answered),
            TunnelEnd::ClientGone => (CloseReason::ClientGone, Outcome::ClientGone),
            TunnelEnd::BackendGone => (CloseReason::PeerClosedBusy, Outcome::BrokenOff),
            TunnelEnd::Timeout => (CloseReason::Timeout, Outcome::BrokenOff),
            TunnelEnd::CutOff => (CloseReason::Drain, Outcome::BrokenOff),
        };
        self.end = end;
        self.lease.spent(reason);
        self.record.closes(reason);
        self.record.ends_as(outcome);
        self.record.ends(Instant::now());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tally.tunnels.ends(self.end);
    }
}
