//! A connection that has left HTTP/1.1: from the backend's `101 Switching Protocols` until both sides have
//! ended.
//!
//! The lease, and with it the backend connection's place among its server's connections, lasts as long.
//! The exchange is told once, at its end.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::Instant;
use tracing::debug;

use crate::account::{Outcome, PoolTally, TunnelEnd};
use crate::backend::Switched;
use crate::client::{self, Conn};
use crate::keepalive::CloseReason;
use crate::net::{BackendAddr, Over, Patience, Side, Stream, Tunnel};

use super::body::{BackendLease, RelayBody};
use super::connect;
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
    let over_http2 = asked.as_ref().and_then(Upgrade::stream);
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
    if let Some(over_http2) = over_http2 {
        for name in connect::NOT_FOR_CLIENT {
            parts.headers.remove(name);
        }
        parts.status = StatusCode::OK;
        let stay = client.stays();
        spawn_local(async move {
            // An error means that the client has gone.
            if let Ok(upgraded) = over_http2.await {
                let client = OverHttp2 {
                    stream: TokioIo::new(upgraded),
                    has_waited: false,
                };
                open.run_over_http2(client, early, patience).await;
            }
            drop(stay);
        });
        return Ok(Response::from_parts(parts, RelayBody::none()));
    }
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
        let Some(is_gentle) = self.pass(&mut client, ahead, early, patience).await else {
            return;
        };
        drop(self);
        if is_gentle {
            client::let_go(client).await;
        } else {
            client.socket().reset_on_close();
        }
    }

    /// The same over a stream of HTTP/2: to drop it ends it, or resets it if it was not ended before.
    async fn run_over_http2(mut self, mut client: OverHttp2, early: Bytes, patience: Patience) {
        if let Some(true) = self.pass(&mut client, Vec::new(), early, patience).await {
            let _ = client.shutdown().await;
        }
    }

    /// Passes on what comes until it ends. `None` once both sides have; else whether the client is to see an
    /// end that looks like one.
    async fn pass<C: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        client: &mut C,
        ahead: Vec<u8>,
        early: Bytes,
        patience: Patience,
    ) -> Option<bool> {
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
        let over = tunnel.run(client, &mut self.stream, patience, moved).await;
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
        match over {
            Over::Closed => {
                self.ends(TunnelEnd::Closed);
                None
            }
            Over::Idle => {
                self.ends(TunnelEnd::Timeout);
                Some(true)
            }
            Over::Broken(Side::Client, _) => {
                self.ends(TunnelEnd::ClientGone);
                Some(false)
            }
            Over::Broken(Side::Backend, _) => {
                self.lease.conn().broke_off();
                self.ends(TunnelEnd::BackendGone);
                Some(tunnel.has_told_client())
            }
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

/// A stream of HTTP/2 that is a tunnel.
///
/// hyper takes a client's reset for the end of what it sends, which would leave the other way open; that it
/// was one is seen by whoever writes. So both are asked.
struct OverHttp2 {
    stream: TokioIo<Upgraded>,
    /// The half that writes has had a turn to see what became of the stream.
    has_waited: bool,
}

impl AsyncRead for OverHttp2 {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            if !std::mem::replace(&mut self.has_waited, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OverHttp2 {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
