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
use super::conn::Unswitched;
use super::stream::Watched;
use super::{Conn, Limits, Parked, Phase, Wait, h2};
use crate::account::Flood;
use crate::net::{self, Peer, Stream};

/// How long a client may take to close after our last response, while what it still sends is
/// discarded. Source: Apache httpd 2.4, `MAX_SECS_TO_LINGER`.
const LINGER: Duration = Duration::from_secs(30);

/// The same after an idle client was cut off, and while shutting down. Source: Apache httpd 2.4,
/// event MPM, short lingering close.
pub(super) const LINGER_SHORT: Duration = Duration::from_secs(2);

/// What became of a connection, and of speaking HTTP on it.
enum Ended {
    /// It is idle, for a while now or because the HTTP library is done with it: to be parked.
    Idle,
    /// The client closed, or the last response is written.
    Finished,
    /// The response broke off, or the request did.
    Broken,
    /// What came was not a request that could be read: the answer to it.
    Unreadable(StatusCode, &'static str),
    /// A wait of the connection itself lasted too long.
    Expired(Wait),
    /// It was idle, and its place was needed.
    Evicted,
    /// HTTP is left for another protocol.
    Switched,
    /// The client begins with HTTP/2.
    Http2,
}

/// What is told of a connection beside its exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// What came could not be read as a request, and was answered so.
    Refused(StatusCode),
    /// HTTP/2 is spoken on it.
    Http2,
    /// Its client sent too much that carries nothing, and was sent away.
    Flooded(Flood),
}

/// How serving a connection ended.
pub enum Served {
    /// It is closed.
    Closed,
    /// It is idle, and may be left alone with its socket.
    Parked(Stream, Parked),
}

/// Serves the requests of one client, each answered by `exchange`, until the connection ends or has been
/// idle for a while. What cannot be read as a request is answered here; `tell` is told of that and the like.
///
/// # Cancellation
/// Dropping the future closes the connection at once.
pub async fn serve<E, F, B>(
    mut stream: Stream,
    conn: Rc<Conn>,
    exchange: E,
    tell: impl Fn(Told),
) -> Served
where
    E: Fn(&Rc<Conn>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut ahead = Vec::new();
    if conn.greeting().is_some_and(|greeted| greeted.http2) {
        Box::pin(carry(stream, ahead, &conn, exchange, tell)).await;
        return Served::Closed;
    }
    let unswitched = Unswitched(Rc::clone(&conn));
    // Both futures are boxed: what waits for a first byte is to be small.
    let ended = loop {
        if ahead.is_empty() {
            match wait_for_bytes(&conn).await {
                None => {}
                Some(Ended::Idle) => match conn.parked() {
                    Some(parked) => return Served::Parked(stream, parked),
                    None => continue,
                },
                Some(ended) => break ended,
            }
        }
        let spoken = Box::pin(speak(stream, ahead, &conn, &exchange)).await;
        (stream, ahead) = (spoken.stream, spoken.ahead);
        match spoken.ended {
            Ended::Idle => {}
            Ended::Switched => {
                if let Some(switch) = conn.take_switch() {
                    stream.socket().leaves_http();
                    switch(stream, ahead).await;
                }
                return Served::Closed;
            }
            Ended::Http2 => {
                Box::pin(carry(stream, ahead, &conn, exchange, tell)).await;
                return Served::Closed;
            }
            ended @ (Ended::Finished
            | Ended::Broken
            | Ended::Unreadable(..)
            | Ended::Expired(_)
            | Ended::Evicted) => break ended,
        }
    };
    // What would have taken over hears that it will not before the connection is closed.
    drop(unswitched);
    Box::pin(close(stream, &conn, ended, tell)).await;
    Served::Closed
}

/// Speaks HTTP/2 with a client until the connection ends, and closes it.
async fn carry<E, F, B>(
    stream: Stream,
    ahead: Vec<u8>,
    conn: &Rc<Conn>,
    exchange: E,
    tell: impl Fn(Told),
) where
    E: Fn(&Rc<Conn>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tell(Told::Http2);
    let (stream, ended) = h2::speak(stream, ahead, conn, exchange).await;
    match ended {
        h2::Ended::Over if conn.has_client_closed() => {}
        h2::Ended::Over => {
            if let Some(stream) = stream {
                linger(stream, conn, LINGER_SHORT).await;
            }
        }
        h2::Ended::Broken => {}
        h2::Ended::Flooded(flood) => {
            info!(client = %conn.address(), kind = flood.label(), "sent away: too much that carries nothing");
            tell(Told::Flooded(flood));
        }
    }
}

/// Closes a connection that was idle for too long: with a FIN, and a little time for the client to see it.
///
/// # Cancellation
/// Dropping the future closes it at once.
pub async fn let_go(stream: Stream) {
    net::linger(stream, LINGER_SHORT).await;
}

/// Waits on the bare socket until the client sends something, which is `None`, or it has been idle for a
/// while, or has ended.
async fn wait_for_bytes(conn: &Conn) -> Option<Ended> {
    poll_fn(|cx| {
        conn.wakes(cx.waker());
        while conn.socket().poll_peer_speaks(cx).is_ready() {
            match conn.socket().peer(false) {
                Peer::Silent => {}
                Peer::Spoke => return Poll::Ready(None),
                Peer::Closed => {
                    conn.client_closed();
                    return Poll::Ready(Some(Ended::Finished));
                }
                Peer::Gone => return Poll::Ready(Some(Ended::Broken)),
            }
        }
        if conn.is_evicted() {
            return Poll::Ready(Some(Ended::Evicted));
        }
        while let Some(wait) = conn.take_expired() {
            if wait == Wait::NextRequest {
                return Poll::Ready(Some(Ended::Expired(wait)));
            }
        }
        if conn.may_be_parked() {
            return Poll::Ready(Some(Ended::Idle));
        }
        Poll::Pending
    })
    .await
}

/// What is left when no HTTP is spoken on a connection any more.
struct Spoken {
    stream: Stream,
    /// What has been read from it beyond that.
    ahead: Vec<u8>,
    ended: Ended,
}

/// How HTTP/2 begins, as far as it looks like a request. Source: RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Speaks HTTP on a connection until it is idle for a while, or ends.
async fn speak<E, F, B>(stream: Stream, ahead: Vec<u8>, conn: &Rc<Conn>, exchange: E) -> Spoken
where
    E: Fn(&Rc<Conn>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    conn.is_wanted_again();
    let io = TokioIo::new(Watched::new(stream, Rc::clone(conn), ahead));
    let service = service_fn(|request| exchange(conn, request));
    let mut http = builder(&conn.settings().limits).serve_connection(io, service);
    let ended = poll_fn(|cx| {
        conn.wakes(cx.waker());
        let mut has_rested = false;
        match conn.take_expired() {
            // A request that has come by now is still read: see below.
            None | Some(Wait::NextRequest) => {}
            Some(Wait::Park) => has_rested = true,
            Some(wait @ (Wait::RequestHead | Wait::ClientWrite)) => {
                return Poll::Ready(Ended::Expired(wait));
            }
            // The response is written already, and what is left of the request does not get on.
            Some(Wait::RequestBody | Wait::Backend) if conn.phase() == Phase::Idle => {
                return Poll::Ready(Ended::Finished);
            }
            // The exchange knows how to answer.
            Some(wait @ (Wait::RequestBody | Wait::Backend)) => conn.expire(wait),
        }
        loop {
            if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
                return Poll::Ready(over(conn, result));
            }
            if !conn.can_read_on(cx) {
                break;
            }
        }
        if conn.is_idle_time_over() && conn.socket().peer(true) != Peer::Spoke {
            return Poll::Ready(Ended::Expired(Wait::NextRequest));
        }
        if conn.is_evicted() {
            return Poll::Ready(Ended::Evicted);
        }
        if has_rested && conn.may_park() {
            return Poll::Ready(Ended::Idle);
        }
        if has_client_gone(conn, cx) {
            debug!(client = %conn.address(), "the client closed before its response was there");
            return Poll::Ready(Ended::Broken);
        }
        Poll::Pending
    })
    .await;
    let parts = http.into_parts();
    let (stream, kept_back) = parts.io.into_inner().into_inner();
    let ahead = match &*parts.read_buf {
        [] => kept_back,
        read => [read, &kept_back].concat(),
    };
    let is_unreadable = matches!(ended, Ended::Unreadable(..) | Ended::Broken);
    let ended = if is_unreadable && ahead.starts_with(PREFACE) && conn.may_begin_http2() {
        Ended::Http2
    } else {
        ended
    };
    Spoken {
        stream,
        ahead,
        ended,
    }
}

/// What it means that the HTTP library is done with a connection.
fn over(conn: &Conn, result: hyper::Result<()>) -> Ended {
    if let Some((status, reason)) = conn.fault() {
        return Ended::Unreadable(status, reason);
    }
    let Err(error) = result else {
        if conn.is_switching() {
            return Ended::Switched;
        }
        // The library reads some words otherwise than we do, and has closed what was promised to stay.
        let is_kept = conn.is_to_be_kept();
        return if is_kept {
            Ended::Idle
        } else {
            Ended::Finished
        };
    };
    debug!(client = %conn.address(), %error, "client connection ended");
    if conn.broke_off_head() {
        let status = StatusCode::BAD_REQUEST;
        return Ended::Unreadable(status, answer::unreadable(status));
    }
    match unreadable(conn, &error) {
        Some(status) => Ended::Unreadable(status, answer::unreadable(status)),
        None => Ended::Broken,
    }
}

/// Whether the client has gone while its response is being made, so that nobody waits for it.
///
/// hyper would see it too, but only by preparing to read the next request, which costs a fresh
/// buffer in every exchange.
fn has_client_gone(conn: &Conn, cx: &mut Context<'_>) -> bool {
    while conn.is_client_watched() && conn.socket().poll_peer_speaks(cx).is_ready() {
        match conn.socket().peer(false) {
            Peer::Gone => return true,
            Peer::Closed if conn.settings().abort_on_close => return true,
            Peer::Closed => conn.client_half_closed(),
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
        builder.max_headers(limits.fields.unwrap_or(Limits::MOST_FIELDS));
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

async fn close(stream: Stream, conn: &Conn, ended: Ended, tell: impl Fn(Told)) {
    let client = conn.address();
    match ended {
        // Nothing is unread or unsent: this is a FIN.
        Ended::Evicted => debug!(%client, "idle, and its place was needed: closed"),
        Ended::Idle | Ended::Http2 | Ended::Switched => {}
        Ended::Finished if conn.has_client_closed() => {}
        Ended::Finished => linger(stream, conn, LINGER).await,
        Ended::Broken => {
            if conn.needs_reset() {
                conn.socket().reset_on_close();
            } else {
                // What the client has sent ahead would make the close a reset, which may destroy what
                // it has not read yet.
                linger(stream, conn, LINGER_SHORT).await;
            }
        }
        Ended::Unreadable(status, reason) => {
            info!(%client, status = status.as_u16(), reason, "request refused");
            tell(Told::Refused(status));
            answer_and_linger(stream, conn, status, reason, LINGER).await;
        }
        Ended::Expired(Wait::NextRequest) => {
            debug!(%client, "idle for too long");
            net::linger(stream, LINGER_SHORT).await;
        }
        // Half a request line is answered with silence, half a head with 408, as in Apache httpd.
        Ended::Expired(Wait::RequestHead) if conn.has_request_line() => {
            let status = StatusCode::REQUEST_TIMEOUT;
            info!(%client, status = status.as_u16(), reason = "the request's head did not come in time", "request refused");
            tell(Told::Refused(status));
            let reason = "The request's head did not come in time.";
            answer_and_linger(stream, conn, status, reason, LINGER_SHORT).await;
        }
        Ended::Expired(Wait::RequestHead) => net::linger(stream, LINGER_SHORT).await,
        Ended::Expired(Wait::ClientWrite) => {
            info!(%client, "the client took nothing of its response for too long: closed");
            conn.socket().reset_on_close();
        }
        Ended::Expired(Wait::RequestBody | Wait::Backend | Wait::Park) => {
            unreachable!("these waits end in their exchange, or in no end at all")
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
