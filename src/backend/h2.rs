//! One HTTP/2 connection to a backend, which carries many exchanges at once.
//!
//! hyper runs it in two parts: one that begins requests, and one that moves frames and outlives it
//! until the last stream is done. A task here waits for both, and closes the socket as the pool
//! says.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tower::BoxError;
use tracing::debug;

use super::Closing;
use super::exit::{self, Ending, Entry, Exit};
use super::origin::Origin;
use crate::net::{BackendAddr, PortUse, Socket, Stream, Wire};
use crate::pool::{Farewell, Watch};

/// How long the last frames of a connection that is over may take to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// So many streams are allowed before the backend has said how many.
const UNTOLD: usize = 0;

/// How much of one response may wait here for its client. Each connection has room for as many as it
/// carries streams: a client that does not read stops nobody else.
const WINDOW: u32 = 512 * 1024;

/// How much of a response header block is taken, decoded. As hyper has it for HTTP/1.1.
const HEADER_LIST: u32 = 400 * 1024;

/// An HTTP/2 connection, or another handle to the same. It is closed once all are dropped.
pub struct Conn<B> {
    sender: SendRequest<B>,
    shared: Rc<Shared>,
}

struct Shared {
    backend: BackendAddr,
    socket: Rc<Socket>,
    origin: Cell<Origin>,
    /// Asked of the kernel when somebody wants to know.
    local_port: OnceCell<Option<u16>>,
    scheme: Scheme,
    /// How many exchanges it carries at once.
    streams: Cell<u32>,
    exit: Exit,
    /// Frames are not moved any more: hyper has let go of the socket.
    is_over: Cell<bool>,
    /// Who waits for a frame, or for the end.
    waits: RefCell<Option<Waker>>,
    mover: RefCell<Option<AbortHandle>>,
}

/// The backend does not speak HTTP/2.
pub(super) struct NotHttp2;

/// Begins to speak HTTP/2, and waits for the backend's first word: its settings, with how many
/// exchanges it takes at once. More than `most` are never asked for.
///
/// # Cancellation
/// Closes the connection.
pub(super) async fn begin<B>(
    wire: Wire,
    port: Option<PortUse>,
    backend: &BackendAddr,
    most: u32,
    watch: Watch,
) -> Result<Conn<B>, NotHttp2>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let scheme = if wire.is_tls() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    };
    let (io, socket) = Stream::new(wire);
    socket.carries_frames();
    let shared = Rc::new(Shared {
        backend: backend.clone(),
        socket,
        origin: Cell::new(Origin::new(Duration::ZERO)),
        local_port: OnceCell::new(),
        scheme,
        streams: Cell::new(most),
        exit: Exit::new(port),
        is_over: Cell::new(false),
        waits: RefCell::default(),
        mover: RefCell::default(),
    });
    let (sender, connection) = http2::Builder::new(Tasks(Rc::clone(&shared)))
        .initial_max_send_streams(UNTOLD)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(most.saturating_mul(WINDOW).min(i32::MAX.cast_unsigned()))
        .max_header_list_size(HEADER_LIST)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|_| NotHttp2)?;
    let mut unless_told = Abort(Some(Rc::clone(&shared)));
    let told = poll_fn(|cx| {
        let told = connection.current_max_send_streams();
        if shared.is_over.get() {
            return Poll::Ready(Err(NotHttp2));
        }
        if told != UNTOLD {
            return Poll::Ready(Ok(told));
        }
        *shared.waits.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await?;
    unless_told.0 = None;
    let told = u32::try_from(told).unwrap_or(u32::MAX);
    shared.streams.set(most.min(told));
    tokio::task::spawn_local(carry(connection, Rc::clone(&shared), watch));
    Ok(Conn { sender, shared })
}

/// Ends the moving of frames when dropped, unless it was told otherwise.
struct Abort(Option<Rc<Shared>>);

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.abort();
        }
    }
}

impl Shared {
    fn abort(&self) {
        if let Some(mover) = self.mover.take() {
            mover.abort();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
    }

    /// Waits until hyper has let go of the socket.
    async fn over(&self) {
        poll_fn(|cx| {
            if self.is_over.get() {
                return Poll::Ready(());
            }
            *self.waits.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<B> Clone for Conn<B> {
    fn clone(&self) -> Self {
        Conn {
            sender: self.sender.clone(),
            shared: Rc::clone(&self.shared),
        }
    }
}

impl<B> Conn<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// What is known of it from its beginning on.
    pub(super) fn origin(&self) -> Origin {
        self.shared.origin.get()
    }

    /// It took so long until requests could be sent.
    pub(super) fn opened_in(&self, connect: Duration) {
        let origin = self.shared.origin.get();
        self.shared.origin.set(Origin { connect, ..origin });
    }

    /// Its local port, where it has one.
    pub(super) fn local_port(&self) -> Option<u16> {
        let shared = &self.shared;
        let ask = || shared.socket.local_addr().map(|address| address.port());
        *shared.local_port.get_or_init(ask)
    }

    /// How many exchanges it carries at once.
    pub(super) fn streams(&self) -> u32 {
        self.shared.streams.get()
    }

    /// The last look before it is used; it has waited for `idle`.
    pub(super) fn is_usable(&self, idle: Duration) -> bool {
        // A peer that spoke may have said goodbye: a request that it then does not take is sent
        // again, with proof.
        !self.sender.is_closed() && (idle.is_zero() || !self.shared.socket.peer(false).is_over())
    }

    /// Closes it, as `closing` says for what the pool says of it: after a GOAWAY.
    pub(super) fn close(&self, closing: Closing, farewell: Farewell, entry: Entry) {
        let mode = closing.mode(farewell.reason, false);
        let ending = Ending::new(mode, entry, &self.shared.socket, false);
        self.shared.exit.decide(ending);
    }

    /// Sends a request. An error that still holds the request proves that nothing of it was sent.
    ///
    /// # Cancellation
    /// Dropping the future ends the stream (`RST_STREAM`), not the connection.
    pub(super) fn send(
        &mut self,
        mut request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        to_http2(&mut request, &self.shared.scheme);
        self.sender.try_send_request(request)
    }
}

/// Puts the request into HTTP/2's form: its host is part of the target, and nothing is said of the
/// connection. Source: RFC 9113 §8.2.2, §8.3.1.
fn to_http2<B>(request: &mut Request<B>, scheme: &Scheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host
        .as_ref()
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        // Never for what a client has named: the proxy lets no other host pass.
        .unwrap_or_else(|| Authority::from_static("localhost"));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    let path = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).expect("all three parts are there");
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

/// Puts a request that was not sent into HTTP/1.1's form again.
pub(super) fn to_http1<B: Body>(request: &mut Request<B>) {
    if request.body().size_hint().exact().is_none() {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    if request.headers().contains_key(TE) {
        let te = HeaderValue::from_static("TE");
        request.headers_mut().insert(CONNECTION, te);
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or(Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
}

/// Whether the backend says that it has not processed the request, whatever its method: its stream
/// was refused, or is beyond the last one that a GOAWAY names. Source: RFC 9113 §8.7.
pub(super) fn was_not_processed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_remote()
                && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}

/// Waits for the end of a connection, and closes it.
async fn carry<B>(
    connection: http2::Connection<TokioIo<Stream>, B, Tasks>,
    shared: Rc<Shared>,
    watch: Watch,
) where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut connection = connection;
    let mut watch = Some(watch);
    let mut decided = pin!(shared.exit.decided());
    let mut ending = None;
    // hyper does not look up from a request for which there is no stream free: neither at the end of
    // the connection nor at its last handle's. So both are waited for.
    let result = poll_fn(|cx| {
        if let Poll::Ready(how) = decided.as_mut().poll(cx) {
            ending = Some(how);
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut connection).poll(cx);
        let told = u32::try_from(connection.current_max_send_streams()).unwrap_or(u32::MAX);
        if told < shared.streams.get()
            && let Some(watch) = watch.take()
        {
            // Fewer than the pool counts on: the next connection begins with the new number.
            watch.retires();
        }
        polled.map(Some)
    })
    .await;
    let result = match result {
        Some(result) => result,
        // What is left to be done is the last frames.
        None => timeout(GOODBYE, connection).await.unwrap_or(Ok(())),
    };
    if let Err(error) = &result {
        debug!(backend = %shared.backend, %error, "backend connection ended");
    }
    // A GOAWAY lets the streams under way end well.
    match watch {
        Some(watch) if result.is_ok() => watch.retires(),
        Some(watch) => watch.ended(),
        None => {}
    }
    let ending = match ending {
        Some(ending) => ending,
        None => decided.await,
    };
    if timeout(GOODBYE, shared.over()).await.is_err() {
        shared.abort();
    }
    exit::close(&shared.socket, ending, result.is_err()).await;
}

/// Runs what hyper wants to be run for one connection.
#[derive(Clone)]
struct Tasks(Rc<Shared>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let shared = &self.0;
        if shared.mover.borrow().is_some() || shared.is_over.get() {
            tokio::task::spawn_local(future);
            return;
        }
        // The first is the one that moves the frames.
        let moving = Moving {
            future: Some(Box::pin(future)),
            shared: Rc::clone(shared),
        };
        let task = tokio::task::spawn_local(moving);
        *shared.mover.borrow_mut() = Some(task.abort_handle());
    }
}

/// Moves frames, and tells who waits for one.
struct Moving<F> {
    future: Option<Pin<Box<F>>>,
    shared: Rc<Shared>,
}

impl<F: Future<Output = ()>> Future for Moving<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else {
            return Poll::Ready(());
        };
        let polled = pin!(future).poll(cx);
        if polled.is_ready() {
            // hyper lets go of the socket with it.
            self.future = None;
            self.shared.is_over.set(true);
        }
        self.shared.wake();
        polled
    }
}

impl<F> Drop for Moving<F> {
    fn drop(&mut self) {
        self.future = None;
        self.shared.is_over.set(true);
        self.shared.wake();
    }
}
