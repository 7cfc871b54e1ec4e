//! Speaking HTTP/2 with a client: one connection, many exchanges at once.
//!
//! hyper's HTTP/2 moves the frames. Each exchange is a task of its own with its own waits; what surrounds
//! the connection is here: its idle time, its end, and clients that only cost.
//!
//! Of Apache's settings `keep_alive_timeout` and `timeout` count, the other two do not: a running httpd
//! 2.4 with `KeepAlive Off` and `MaxKeepAliveRequests 10` goes on over HTTP/2 all the same.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::Instant;
use tracing::{debug, info};

use super::frames::Frames;
use super::serve::LINGER_SHORT;
use super::{Conn, Wait};
use crate::account::Flood;
use crate::net::Stream;

/// How much of one request's body may wait here for its backend. Each connection has room for as many as it
/// carries streams: a backend that does not read stops nobody else.
const WINDOW: u32 = 128 * 1024;

/// How much of a response's body the library holds for a client that takes it slowly.
const HELD: usize = 128 * 1024;

/// Who takes more bytes than this at once takes a response, and not only an answer to a ping.
const MORE_THAN_WORDS: usize = 256;

/// How many exchanges' state is kept for the next ones.
const SPARE: usize = 32;

/// How speaking HTTP/2 has ended.
pub(super) enum Ended {
    /// By a goodbye of either side, or the client's FIN.
    Over,
    /// By what the client did, or did not do for too long.
    Broken,
    /// The client was sent away.
    Flooded(Flood),
}

/// What the connection's task and those of its exchanges have in common.
struct Shared {
    conn: Rc<Conn>,
    /// The exchange that begins now: on its way from the service to its task.
    latest: Cell<Option<Rc<Conn>>>,
    /// Those that are over, for the next ones.
    spare: RefCell<Vec<Rc<Conn>>>,
    flood: Cell<Option<Flood>>,
    /// The stream, once the library has let go of it.
    stream: Cell<Option<Stream>>,
}

/// Speaks HTTP/2 on a connection until it ends; `ahead` has been read from it already. Gives the stream back.
pub(super) async fn speak<E, F, B>(
    stream: Stream,
    ahead: Vec<u8>,
    conn: &Rc<Conn>,
    exchange: E,
) -> (Option<Stream>, Ended)
where
    E: Fn(&Rc<Conn>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    conn.begins_to_carry();
    let shared = Rc::new(Shared {
        conn: Rc::clone(conn),
        latest: Cell::new(None),
        spare: RefCell::default(),
        flood: Cell::new(None),
        stream: Cell::new(None),
    });
    let io = TokioIo::new(Framed {
        stream: Some(stream),
        ahead,
        frames: Frames::new(),
        shared: Rc::clone(&shared),
    });
    let service = service_fn(|request| {
        let one = shared.begin();
        // Boxed: it goes through many hands until its task has it.
        let answer = Box::pin(exchange(&one, request));
        async move {
            answer.await.map(|response| {
                response.map(|body| OneBody {
                    is_over: body.is_end_stream(),
                    body,
                    one,
                })
            })
        }
    });
    let mut http = Box::pin(builder(conn, Tasks(Rc::clone(&shared))).serve_connection(io, service));
    let (mut is_leaving, mut waits_for_goodbye) = (false, false);
    let ended = poll_fn(|cx| {
        conn.wakes(cx.waker());
        match conn.take_expired() {
            Some(Wait::ClientWrite) => {
                info!(client = %conn.address(), "the client took nothing for too long: closed");
                conn.socket().reset_on_close();
                return Poll::Ready(Ended::Broken);
            }
            Some(Wait::NextRequest) if conn.carries() == 0 => {
                // What is left of responses that are over waits for the client.
                if let Some(until) = conn.stalls_until() {
                    conn.waits_for_goodbye(until);
                } else if waits_for_goodbye {
                    return Poll::Ready(Ended::Over);
                } else {
                    debug!(client = %conn.address(), "idle for too long");
                    is_leaving = true;
                    http.as_mut().graceful_shutdown();
                }
            }
            Some(
                Wait::NextRequest
                | Wait::RequestHead
                | Wait::RequestBody
                | Wait::Backend
                | Wait::Park,
            )
            | None => {}
        }
        if !is_leaving && (conn.is_draining() || conn.is_evicted()) {
            is_leaving = true;
            http.as_mut().graceful_shutdown();
        }
        let polled = http.as_mut().poll(cx);
        if let Some(flood) = shared.flood.get() {
            return Poll::Ready(Ended::Flooded(flood));
        }
        let is_done = is_leaving && conn.carries() == 0;
        if is_done && !waits_for_goodbye {
            conn.waits_for_goodbye(Instant::now() + LINGER_SHORT);
        }
        waits_for_goodbye = is_done;
        polled.map(|result| over(conn, result))
    })
    .await;
    drop(http);
    conn.socket().carries_no_frames();
    (shared.stream.take(), ended)
}

fn builder(conn: &Conn, tasks: Tasks) -> http2::Builder<Tasks> {
    let settings = conn.settings().http2;
    let mut builder = http2::Builder::new(tasks);
    builder
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(
            settings
                .max_streams
                .saturating_mul(WINDOW)
                .clamp(WINDOW, i32::MAX.cast_unsigned()),
        )
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_header_list)
        .max_send_buf_size(HELD)
        .enable_connect_protocol();
    builder
}

/// What it means that the HTTP library is done with a connection.
fn over(conn: &Conn, result: hyper::Result<()>) -> Ended {
    let Err(error) = result else {
        return Ended::Over;
    };
    debug!(client = %conn.address(), %error, "client connection ended");
    if has_had_enough(&error) {
        Ended::Flooded(Flood::Library)
    } else {
        Ended::Broken
    }
}

/// Whether the library has ended the connection for what it costs (`ENHANCE_YOUR_CALM`).
fn has_had_enough(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            return !cause.is_remote() && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        }
        source = cause.source();
    }
    false
}

impl Shared {
    fn begin(&self) -> Rc<Conn> {
        let spare = self.spare.borrow_mut().pop();
        let one = spare.unwrap_or_else(|| Rc::new(Conn::on(&self.conn)));
        self.conn.carry(&one);
        self.latest.set(Some(Rc::clone(&one)));
        one
    }
}

/// Runs the library's futures: each exchange in a task of its own.
#[derive(Clone)]
struct Tasks(Rc<Shared>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        match self.0.latest.take() {
            Some(one) => {
                let carried = Carried {
                    one: Some(one),
                    shared: Rc::clone(&self.0),
                };
                spawn_local(Exchange { future, carried });
            }
            // What moves the bytes of a tunnel.
            None => {
                spawn_local(future);
            }
        }
    }
}

pin_project! {
    /// One exchange, and its waits.
    struct Exchange<F> {
        // First: it is dropped before the exchange is over.
        #[pin]
        future: F,
        carried: Carried,
    }
}

impl<F: Future<Output = ()>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let one = this.carried.one.as_ref().expect("until it is dropped");
        one.wakes(cx.waker());
        match one.take_expired() {
            // Dropping it resets the stream.
            Some(Wait::ClientWrite) => {
                info!(client = %one.address(), "the client took nothing of its response for too long: reset");
                return Poll::Ready(());
            }
            Some(wait @ (Wait::RequestBody | Wait::Backend)) => one.expire(wait),
            Some(Wait::NextRequest | Wait::RequestHead | Wait::Park) | None => {}
        }
        this.future.poll(cx)
    }
}

/// Ends an exchange when dropped.
struct Carried {
    one: Option<Rc<Conn>>,
    shared: Rc<Shared>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.shared.conn.carried();
        let Some(one) = self.one.take() else { return };
        let mut spare = self.shared.spare.borrow_mut();
        // Its request's body may still be on its way to the backend.
        if Rc::strong_count(&one) == 1 && spare.len() < SPARE {
            one.rests_for_another();
            spare.push(one);
        }
    }
}

pin_project! {
    /// A response's body: notes whether the client takes it.
    struct OneBody<B> {
        #[pin]
        body: B,
        is_over: bool,
        one: Rc<Conn>,
    }
}

impl<B: Body<Data = Bytes>> Body for OneBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        // The piece before this one is in the client's window: only then is another asked for.
        this.one.client_took();
        let polled = this.body.as_mut().poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            *this.is_over = this.body.is_end_stream();
            // The library may hold it until there is room, the last one too.
            this.one.client_stalls();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client's stream as the library has it: its frames are looked at, its stalls noted, and it is never
/// shut down here, since how a connection ends is decided by [`super::serve()`].
struct Framed {
    /// Until it is given back.
    stream: Option<Stream>,
    /// What was read already.
    ahead: Vec<u8>,
    frames: Frames,
    shared: Rc<Shared>,
}

/// The client is sent away.
#[derive(Debug, thiserror::Error)]
#[error("the client sends too much that carries nothing")]
struct TooMuch;

impl Framed {
    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("until it is dropped"))
    }

    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.frames.came(bytes, Instant::now) {
            None => Ok(()),
            Some(flood) => {
                self.shared.flood.set(Some(flood));
                Err(io::Error::other(TooMuch))
            }
        }
    }

    fn written<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending => self.shared.conn.client_stalls(),
            Poll::Ready(_) => self.shared.conn.client_took(),
        }
        result
    }

    /// The same of bytes.
    fn taken(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(taken)) = result
            && taken > MORE_THAN_WORDS
        {
            self.shared.conn.takes_the_rest(LINGER_SHORT);
        }
        self.written(result)
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.shared.stream.set(self.stream.take());
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let mut ahead = std::mem::take(&mut this.ahead);
            let part = ahead.len().min(buf.remaining());
            this.look(&ahead[..part])?;
            buf.put_slice(&ahead[..part]);
            ahead.drain(..part);
            this.ahead = ahead;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = this.stream().poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &result {
            let bytes = &buf.filled()[before..];
            if bytes.is_empty() {
                this.shared.conn.client_closed();
            } else {
                this.look(bytes)?;
            }
        }
        result
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = this.stream().poll_write(cx, bytes);
        this.taken(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = this.stream().poll_write_vectored(cx, slices);
        this.taken(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = this.stream().poll_flush(cx);
        this.written(result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
