//! One HTTP/1.1 connection to a backend, carried by a task of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tower::BoxError;
use tracing::debug;

use super::Closing;
use super::conn::AfterResponse;
use super::exit::{self, Ending, Entry, Exit};
use super::origin::Origin;
use super::switched::Switched;
use crate::keepalive::CloseReason;
use crate::net::{BackendAddr, Moving, Peer, PortUse, Socket, Stream, Wire};
use crate::pool::{Farewell, Watch};

/// Begins to speak HTTP over an open connection.
pub(super) fn begin<B>(
    wire: Wire,
    port: Option<PortUse>,
    origin: Origin,
    backend: &BackendAddr,
    watch: Watch,
) -> Conn<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let (io, socket) = Stream::new(wire);
    let http = http1::Builder::new();
    let mut handshake = pin!(http.handshake(TokioIo::new(io)));
    let made = handshake
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    // It only makes the two halves; nothing is sent, and nothing can fail.
    let Poll::Ready(Ok((sender, connection))) = made else {
        panic!("HTTP/1.1 begins without a word")
    };
    let gate = Arc::new(Gate::default());
    let carrier = Rc::new(Carrier {
        connection: RefCell::new(Some(connection)),
        has_spoken: Cell::new(false),
        may_switch: Cell::new(false),
        switched: Cell::new(None),
        socket: Cell::new(None),
        broke: Cell::new(false),
        ended: Cell::new(None),
        waker: Waker::from(Arc::clone(&gate)),
        gate,
        exit: Exit::new(port),
        origin,
        local_port: OnceCell::new(),
    });
    // Only now does hyper say that it is ready: it may be parked before its task runs.
    carrier.advance();
    tokio::task::spawn_local(carry(Rc::clone(&carrier), backend.clone(), watch));
    Conn {
        sender,
        socket,
        carrier,
        in_exchange: Cell::new(false),
    }
}

/// An idle connection on its way from one worker's runtime to another's.
#[derive(Debug)]
pub struct Lent {
    pub(super) wire: Moving,
    pub(super) port: Option<PortUse>,
    pub(super) origin: Origin,
}

/// An HTTP/1.1 connection. Dropping it closes it.
pub struct Conn<B: Body + 'static> {
    sender: SendRequest<B>,
    socket: Rc<Socket>,
    carrier: Rc<Carrier<B>>,
    /// A request was sent whose response has not been read to its end.
    in_exchange: Cell<bool>,
}

impl<B> Conn<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// What is known of it from its beginning on.
    pub(super) fn origin(&self) -> Origin {
        self.carrier.origin
    }

    /// Its local port, where it has one.
    pub(super) fn local_port(&self) -> Option<u16> {
        let ask = || self.socket.local_addr().map(|address| address.port());
        *self.carrier.local_port.get_or_init(ask)
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The last look before it is used: with a system call, or only at what the runtime has seen.
    pub(super) fn is_usable(&self, probe: bool) -> bool {
        if !self.sender.is_ready() {
            return false;
        }
        match self.socket.peer(probe) {
            Peer::Silent => true,
            Peer::Closed | Peer::Gone => false,
            Peer::Spoke if !self.socket.is_tls() => false,
            // Session tickets, maybe: what they are shows once they are read.
            Peer::Spoke => {
                self.carrier.advance();
                self.sender.is_ready() && self.socket.peer(true) == Peer::Silent
            }
        }
    }

    /// Why it came to be unusable while it was idle.
    pub(super) fn idle_end(&self) -> CloseReason {
        let spoke = || !self.socket.is_tls() && self.socket.peer(true) == Peer::Spoke;
        if self.carrier.has_spoken.get() || spoke() {
            CloseReason::Protocol
        } else {
            CloseReason::PeerClosedIdle
        }
    }

    /// Closes it, as `closing` says for what the pool says of it.
    pub(super) fn close(&self, closing: Closing, farewell: Farewell, entry: Entry) {
        let aborts = self.in_exchange.get();
        let announced = !aborts && !self.sender.is_ready();
        let mode = if aborts && farewell.reason == CloseReason::Drain {
            // A tunnel is cut off: that is not to look like its end.
            closing.error
        } else {
            closing.mode(farewell.reason, announced)
        };
        let ending = Ending::new(mode, entry, &self.socket, aborts);
        self.carrier.exit.decide(ending);
    }

    /// Sends a request. An error that still holds the request proves that nothing of it was sent.
    ///
    /// It is written right here, as far as the backend takes it, while it is in the processor's
    /// caches; what is left, and the response, is the carrying task's.
    ///
    /// # Cancellation
    /// Dropping the future ends the connection.
    pub(super) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.socket.expect_answer();
        self.in_exchange.set(true);
        let sender = &mut self.sender;
        let answer = self
            .carrier
            .gate
            .closed(|| sender.try_send_request(request));
        self.carrier.advance();
        answer
    }

    /// Whether the request that is sent next asks to leave HTTP for another protocol.
    pub(super) fn may_switch(&self, asks: bool) {
        self.carrier.may_switch.set(asks);
    }

    /// The connection's bytes, and what of them has been read already, its backend having left HTTP.
    pub(super) fn switch(&self) -> Option<(Switched, Bytes)> {
        let carrier = &self.carrier;
        // The task may not have looked yet.
        let result = carrier.ended.take();
        if carrier.may_switch.get() && matches!(result, Some(Ok(()))) {
            carrier.end_http();
        }
        carrier.ended.set(result);
        let (stream, early) = carrier.switched.take()?;
        Some((Switched::new(stream), early))
    }

    /// What was spoken in place of HTTP was broken off by the backend.
    pub(super) fn broke_off(&self) {
        self.carrier.broke.set(true);
    }

    /// Takes an idle connection off its runtime.
    pub(super) fn lend(self) -> Result<Lent, Conn<B>> {
        let Some(connection) = self.carrier.connection.take() else {
            return Err(self);
        };
        let parts = connection.into_parts();
        let stream = parts.io.into_inner();
        // The carrying task has nothing to carry any more.
        self.carrier.ended.set(Some(Ok(())));
        self.carrier.waker.wake_by_ref();
        // Bytes that nobody asked for: it is not to be used again.
        if !parts.read_buf.is_empty() || !stream.is_flushed() {
            self.carrier.has_spoken.set(!parts.read_buf.is_empty());
            return Err(self);
        }
        let socket = Rc::clone(&self.socket);
        let port = self.carrier.exit.take_port();
        let origin = self.carrier.origin;
        drop(stream);
        drop(self);
        let wire = Socket::depart(socket).expect("an idle connection has no third handle");
        Ok(Lent { wire, port, origin })
    }

    /// Asks how the connection is, its last response having been read to its end.
    pub(super) fn after_response(&self) -> AfterResponse {
        self.in_exchange.set(false);
        self.carrier.may_switch.set(false);
        if self.carrier.has_spoken.get() {
            AfterResponse::Spoke
        } else if self.sender.is_ready() {
            AfterResponse::Ready
        } else if self.sender.is_closed() {
            AfterResponse::Closed
        } else {
            AfterResponse::Busy
        }
    }

    /// Polls a response's body.
    ///
    /// hyper tells the carrying task of every piece that was taken. When the response has been
    /// read to its end already there is nothing for it to do.
    pub(super) fn poll_body(
        &self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = Pin::new(body);
        if self.sender.is_ready() {
            self.carrier.gate.closed(|| body.poll_frame(cx))
        } else {
            body.poll_frame(cx)
        }
    }
}

impl<B: Body + 'static> Drop for Conn<B> {
    fn drop(&mut self) {
        self.carrier.exit.nobody_decides();
    }
}

/// What moves the bytes of one connection: polled by a task of its own, and by whoever sends.
struct Carrier<B: Body + 'static> {
    /// Taken by the task at the end, or with the connection when it goes to another worker.
    connection: RefCell<Option<http1::Connection<TokioIo<Stream>, B>>>,
    /// The backend has sent what nobody asked for.
    has_spoken: Cell<bool>,
    /// The request under way asks to leave HTTP.
    may_switch: Cell<bool>,
    /// The stream of such a connection when no HTTP is spoken on it any more, and what was read of it.
    switched: Cell<Option<(Stream, Bytes)>>,
    /// Its socket, for the task that closes it.
    socket: Cell<Option<Rc<Socket>>>,
    /// What was spoken instead broke off.
    broke: Cell<bool>,
    /// How the connection ended while the task was not looking.
    ended: Cell<Option<hyper::Result<()>>>,
    gate: Arc<Gate>,
    /// The gate, as all events of the connection have it.
    waker: Waker,
    /// How it is to be closed, once that is decided.
    exit: Exit,
    origin: Origin,
    /// Asked of the kernel when somebody wants to know.
    local_port: OnceCell<Option<u16>>,
}

impl<B> Carrier<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Ends HTTP on a connection that has left it, or was closed in its place.
    fn end_http(&self) {
        if let Some(connection) = self.connection.take() {
            let parts = connection.into_parts();
            let stream = parts.io.into_inner();
            self.socket.set(Some(stream.handle()));
            self.switched.set(Some((stream, parts.read_buf)));
        }
    }

    /// Moves what can be moved, for somebody who is not the task.
    fn advance(&self) {
        if let Poll::Ready(result) = self.poll_connection() {
            self.ended.set(Some(result));
            self.waker.wake_by_ref();
        }
    }

    /// The task's part; ready at the connection's end.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.gate.opens_to(cx.waker());
        match self.ended.take() {
            Some(result) => Poll::Ready(result),
            None => self.poll_connection(),
        }
    }

    /// Whoever polls: events wake the task.
    fn poll_connection(&self) -> Poll<hyper::Result<()>> {
        match &mut *self.connection.borrow_mut() {
            Some(connection) => {
                let polled =
                    connection.poll_without_shutdown(&mut Context::from_waker(&self.waker));
                if let Poll::Ready(Err(error)) = &polled
                    && is_unasked(error)
                {
                    self.has_spoken.set(true);
                }
                polled
            }
            None => Poll::Pending,
        }
    }
}

/// Whether a connection ended since bytes came when nothing was asked for. hyper does not say it in
/// so many words: it is the error of an idle connection that has no cause in the socket.
fn is_unasked(error: &hyper::Error) -> bool {
    let is_other = error.is_parse()
        || error.is_user()
        || error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || error.is_body_write_aborted()
        || error.is_timeout();
    !is_other && std::error::Error::source(error).is_none()
}

/// Carries a connection until it ends, and closes it.
async fn carry<B>(carrier: Rc<Carrier<B>>, backend: BackendAddr, watch: Watch)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let result = poll_fn(|cx| carrier.poll(cx)).await;
    if carrier.may_switch.get() && result.is_ok() {
        // Its exchange is under way, and knows whether HTTP was left or only ended: the pool will be told.
        carrier.end_http();
        let ending = carrier.exit.decided().await;
        if let Some(socket) = carrier.socket.take() {
            exit::close(&socket, ending, carrier.broke.get()).await;
        }
        return;
    }
    let Some(connection) = carrier.connection.take() else {
        // It went to another worker.
        return;
    };
    let stream = connection.into_parts().io.into_inner();
    watch.ended();
    if let Err(error) = &result {
        debug!(%backend, %error, "backend connection ended");
    }
    let ending = carrier.exit.decided().await;
    exit::close(stream.socket(), ending, result.is_err()).await;
}

/// The waker of a carrying task, which can be held back while what would wake it is done by
/// somebody else: two of five wake-ups of an exchange were for nothing.
#[derive(Default)]
struct Gate {
    task: OnceLock<Waker>,
    is_closed: AtomicBool,
}

impl Gate {
    fn opens_to(&self, task: &Waker) {
        self.task.get_or_init(|| task.clone());
    }

    fn closed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.is_closed.store(true, Ordering::Relaxed);
        let result = work();
        self.is_closed.store(false, Ordering::Relaxed);
        result
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // One thread carries, sends and reads; only the bounds of a waker ask for atomics.
        if !self.is_closed.load(Ordering::Relaxed)
            && let Some(task) = self.task.get()
        {
            task.wake_by_ref();
        }
    }
}
