//! Serving one client connection, from its accept to its close.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::answer;
use super::conn::{Phase, Wait};
use super::stream::Watched;
use super::{Conn, Limits};
use crate::net::{self, Peer, Stream};

/// How long a client may take to close after our last response, while what it still sends is
/// discarded. Source: Apache httpd 2.4, `MAX_SECS_TO_LINGER`.
const LINGER: Duration = Duration::from_secs(30);

/// The same after an idle client was cut off, and while shutting down. Source: Apache httpd 2.4,
/// event MPM, short lingering close.
const LINGER_SHORT: Duration = Duration::from_secs(2);

/// Why serving a connection came to its end.
enum Ended {
    /// The client closed, or the last response is written.
    Finished,
    /// The response broke off, or the request did.
    Broken,
    /// What came was not a request that could be read; the status our answer has.
    Unreadable(StatusCode),
    /// A wait of the connection itself lasted too long.
    Expired(Wait),
}

/// Serves the requests of one client, each answered by `exchange`, until the connection ends.
///
/// # Cancellation
/// Dropping the future closes the connection at once.
pub async fn serve<E, F, B>(stream: Stream, conn: Rc<Conn>, exchange: E)
where
    E: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(Watched::new(stream, Rc::clone(&conn)));
    let mut http = builder(&conn.settings().limits).serve_connection(io, service_fn(exchange));
    let ended = poll_fn(|cx| {
        conn.wakes(cx.waker());
        match conn.take_expired() {
            // A request that has come by now is still read: see below.
            None | Some(Wait::NextRequest) => {}
            Some(wait @ (Wait::RequestHead | Wait::ClientWrite)) => {
                return Poll::Ready(Ended::Expired(wait));
            }
            // The exchange knows how to answer.
            Some(wait @ (Wait::RequestBody | Wait::Backend)) => conn.expire(wait),
        }
        if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
            return Poll::Ready(match result {
                Ok(()) => Ended::Finished,
                Err(error) => {
                    debug!(client = %conn.address(), %error, "client connection ended");
                    unreadable(&conn, &error).map_or(Ended::Broken, Ended::Unreadable)
                }
            });
        }
        if conn.is_idle_time_over() {
            return Poll::Ready(Ended::Expired(Wait::NextRequest));
        }
        if has_client_gone(&conn, cx) {
            debug!(client = %conn.address(), "the client closed before its response was there");
            return Poll::Ready(Ended::Broken);
        }
        Poll::Pending
    })
    .await;
    let stream = http.into_parts().io.into_inner().into_inner();
    close(stream, &conn, ended).await;
}

/// Whether the client has closed while its response is being made, so that nobody waits for it.
///
/// hyper would see it too, but only by preparing to read the next request, which costs a fresh
/// buffer in every exchange.
fn has_client_gone(conn: &Conn, cx: &mut Context<'_>) -> bool {
    while conn.is_client_watched() && conn.socket().poll_peer_speaks(cx).is_ready() {
        match conn.socket().peer(false) {
            Peer::Gone => return true,
            // The next request, sent ahead of time.
            Peer::Spoke => conn.client_spoke(),
            Peer::Silent => {}
        }
    }
    false
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.half_close(true);
    if limits.fields != Limits::default().fields {
        // hyper's own default is the same 100, and cheaper when it is not set.
        builder.max_headers(limits.fields);
    }
    builder
}

/// The status for a request that hyper could not read, if there is one.
fn unreadable(conn: &Conn, error: &hyper::Error) -> Option<StatusCode> {
    if conn.phase() == Phase::Exchange || !error.is_parse() {
        return None;
    }
    let status = conn
        .withheld()
        .and_then(|status| StatusCode::from_u16(status).ok());
    Some(status.unwrap_or(StatusCode::BAD_REQUEST))
}

async fn close(stream: Stream, conn: &Conn, ended: Ended) {
    let client = conn.address();
    match ended {
        Ended::Finished if conn.has_client_closed() => {}
        Ended::Finished => linger(stream, conn, LINGER).await,
        Ended::Broken => {
            if conn.needs_reset() {
                conn.socket().reset_on_close();
            }
        }
        Ended::Unreadable(status) => {
            info!(%client, status = status.as_u16(), reason = "the request could not be read", "request refused");
            answer_and_linger(stream, conn, status, answer::unreadable(status), LINGER).await;
        }
        Ended::Expired(Wait::NextRequest) => {
            debug!(%client, "idle for too long");
            net::linger(stream, LINGER_SHORT).await;
        }
        // Half a request line is answered with silence, half a head with 408, as in Apache httpd.
        Ended::Expired(Wait::RequestHead) if conn.has_request_line() => {
            let status = StatusCode::REQUEST_TIMEOUT;
            info!(%client, status = status.as_u16(), reason = "the request's head did not come in time", "request refused");
            let reason = "The request's head did not come in time.";
            answer_and_linger(stream, conn, status, reason, LINGER_SHORT).await;
        }
        Ended::Expired(Wait::RequestHead) => net::linger(stream, LINGER_SHORT).await,
        Ended::Expired(Wait::ClientWrite) => {
            info!(%client, "the client took nothing of its response for too long: closed");
            conn.socket().reset_on_close();
        }
        Ended::Expired(Wait::RequestBody | Wait::Backend) => {
            unreachable!("these waits end in their exchange")
        }
    }
}

async fn answer_and_linger(
    mut stream: Stream,
    conn: &Conn,
    status: StatusCode,
    reason: &str,
    bound: Duration,
) {
    let bytes = answer::raw(status, reason);
    if let Ok(Ok(())) = timeout(LINGER_SHORT, stream.write_all(&bytes)).await {
        linger(stream, conn, bound).await;
    }
}

/// Lingers for `bound`; not for long any more once the proxy is shutting down.
async fn linger(stream: Stream, conn: &Conn, bound: Duration) {
    let draining = poll_fn(|cx| {
        conn.wakes(cx.waker());
        if conn.is_draining() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    tokio::select! {
        () = net::linger(stream, bound) => {}
        () = async { draining.await; sleep(LINGER_SHORT).await } => {}
    }
}
