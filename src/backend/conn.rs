//! One HTTP/1.1 connection to a backend, and how one is opened: what a pool keeps.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tower::timeout::Timeout;
use tower::{BoxError, ServiceExt};
use tracing::debug;

use super::Closing;
use crate::account::{Close, PoolTally};
use crate::keepalive::CloseReason;
use crate::net::{self, BackendAddr, CloseMode, ConnectError, Peer, Socket, Stream, TcpConnect};
use crate::pool::{Connect, Farewell, Identity, Watch};

/// How long the backend may take to close after both sides agreed on the end, before we do.
///
/// Waiting leaves the TIME_WAIT with the backend and spends no port here. Its own task waits: no
/// client does.
const PEER_CLOSE: Duration = Duration::from_secs(1);

/// Opens connections to one backend.
pub struct Connector<B> {
    backend: BackendAddr,
    limit: Duration,
    closing: Closing,
    /// The upstream's `probe_idle`.
    probe_idle: Option<Duration>,
    tally: Arc<PoolTally>,
    open: Timeout<TcpConnect>,
    http: http1::Builder,
    body: std::marker::PhantomData<fn() -> B>,
}

impl<B> Connector<B> {
    /// A connector to `backend` that gives up after `limit`, closes as `closing` says, and connects
    /// from `sources` in turn; ends are entered into `tally`.
    pub fn new(
        backend: BackendAddr,
        limit: Duration,
        closing: Closing,
        sources: &[IpAddr],
        tally: Arc<PoolTally>,
    ) -> Connector<B> {
        let http = http1::Builder::new();
        Connector {
            backend,
            limit,
            closing,
            probe_idle: None,
            tally,
            open: tower::ServiceBuilder::new()
                .timeout(limit)
                .service(TcpConnect::from_sources(sources)),
            http,
            body: std::marker::PhantomData,
        }
    }

    /// The same, asking by a system call whether the backend has closed a connection that has been
    /// idle for this long.
    #[must_use]
    pub fn probing(mut self, idle: Option<Duration>) -> Connector<B> {
        self.probe_idle = idle;
        self
    }

    /// Whom it connects to.
    pub fn backend(&self) -> BackendAddr {
        self.backend
    }
}

impl<B> Connect for Connector<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    type Conn = Conn<B>;
    type Error = ConnectError;

    type Lent = Lent;

    async fn connect(&self, _: Identity, watch: Watch) -> Result<Conn<B>, ConnectError> {
        let stream = self
            .open
            .clone()
            .oneshot(self.backend)
            .await
            .map_err(|error| ConnectError::sort(error, self.backend, self.limit))?;
        Ok(self.begin(stream, watch))
    }

    fn is_usable(&self, conn: &Conn<B>, idle: Duration) -> bool {
        let probe = self.probe_idle.is_some_and(|least| idle >= least);
        conn.sender.is_ready() && conn.socket.peer(probe) == Peer::Silent
    }

    fn idle_end(&self, conn: &Conn<B>) -> CloseReason {
        if conn.carrier.has_spoken.get() || conn.socket.peer(true) == Peer::Spoke {
            CloseReason::Protocol
        } else {
            CloseReason::PeerClosedIdle
        }
    }

    fn close(&self, conn: Option<Conn<B>>, farewell: Farewell) {
        let mut entry = Entry {
            tally: Arc::clone(&self.tally),
            reason: farewell.reason,
            close: Close::BackendFin,
        };
        if let Some(conn) = conn {
            let aborts = conn.in_exchange.get();
            let announced = !aborts && !conn.sender.is_ready();
            let mode = self.closing.mode(farewell.reason, announced);
            // At once, so that it holds even if the worker ends before the carrying task does.
            match mode {
                CloseMode::FinRst => conn.socket.reset_after_fin(),
                // A reset destroys what has not arrived: only where that is meant.
                CloseMode::Rst if aborts || conn.socket.has_delivered() => {
                    conn.socket.reset_on_close();
                }
                CloseMode::Fin | CloseMode::Rst | CloseMode::Peer | CloseMode::PeerRst => {}
            }
            entry.close = match mode {
                // If its FIN does not come, the carrying task knows better.
                CloseMode::Peer | CloseMode::PeerRst => Close::BackendFin,
                CloseMode::Fin => Close::ProxyFin,
                CloseMode::Rst => Close::ProxyRst,
                CloseMode::FinRst => Close::ProxyFinRst,
            };
            conn.carrier.ends(Ending {
                mode,
                entry: Some(entry),
            });
        }
    }

    fn lend(&self, conn: Conn<B>) -> Result<Lent, Conn<B>> {
        conn.lend()
    }

    fn adopt(&self, lent: Lent, watch: Watch) -> Option<Conn<B>> {
        let stream = TcpStream::from_std(lent.0).ok()?;
        Some(self.begin(stream, watch))
    }

    fn is_out_of_ports(error: &ConnectError) -> bool {
        matches!(error, ConnectError::NoLocalPort { .. })
    }
}

/// An idle connection on its way from one worker's runtime to another's.
#[derive(Debug)]
pub struct Lent(std::net::TcpStream);

impl<B> Connector<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Begins to speak HTTP over an open connection.
    fn begin(&self, stream: TcpStream, watch: Watch) -> Conn<B> {
        let (io, socket) = Stream::new(stream);
        let mut handshake = pin!(self.http.handshake(TokioIo::new(io)));
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
            ended: Cell::new(None),
            waker: Waker::from(Arc::clone(&gate)),
            gate,
            ending: RefCell::new(None),
            decided: Notify::new(),
        });
        // Only now does hyper say that it is ready: it may be parked before its task runs.
        carrier.advance();
        tokio::task::spawn_local(carry(Rc::clone(&carrier), self.backend, watch));
        Conn {
            sender,
            socket,
            carrier,
            in_exchange: Cell::new(false),
        }
    }
}

/// A connection to a backend. Dropping it closes it.
pub struct Conn<B: Body + 'static> {
    sender: SendRequest<B>,
    socket: Rc<Socket>,
    carrier: Rc<Carrier<B>>,
    /// A request was sent whose response has not been read to its end.
    in_exchange: Cell<bool>,
}

/// How a connection is to be closed, and its entry in the ledger.
struct Ending {
    mode: CloseMode,
    entry: Option<Entry>,
}

/// The end of one connection, entered when this is dropped: exactly once, whatever happens to the
/// task that closes it.
struct Entry {
    tally: Arc<PoolTally>,
    reason: CloseReason,
    close: Close,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tally.ended(self.reason, self.close);
    }
}

/// How the response stands to its connection once it has been read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterResponse {
    /// Free for another exchange.
    Ready,
    /// Closed, or about to be, by agreement.
    Closed,
    /// The request is still being written.
    Busy,
    /// More has come than the response.
    Spoke,
}

impl<B> Conn<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Its socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Keeps the head of the request that is sent next, so that it can be had back. False if this
    /// connection does not write it as HTTP/1.1 has it: whoever needs it keeps a copy.
    pub fn keep_head(&self) -> bool {
        self.socket.keep_head();
        true
    }

    /// What was kept: a head, and maybe the beginning of a body behind it.
    pub fn take_written_head(&self) -> Vec<u8> {
        self.socket.take_written_head()
    }

    /// Sends a request. An error that still holds the request proves that nothing of it was sent.
    ///
    /// It is written right here, as far as the backend takes it, while it is in the processor's
    /// caches; what is left, and the response, is the carrying task's.
    ///
    /// # Cancellation
    /// Dropping the future ends the connection.
    pub fn send(
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

    /// Takes an idle connection off its runtime.
    fn lend(self) -> Result<Lent, Conn<B>> {
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
        drop(stream);
        drop(self);
        let stream = Socket::into_std(socket).expect("an idle connection has no third handle");
        Ok(Lent(stream))
    }

    /// Asks how the connection is, its last response having been read to its end.
    pub fn after_response(&self) -> AfterResponse {
        self.in_exchange.set(false);
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
    pub fn poll_body(
        &self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
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
        // Nobody said how: the pool is gone, or it went to another worker.
        if self.carrier.ending.borrow().is_none() {
            self.carrier.ends(Ending {
                mode: CloseMode::Fin,
                entry: None,
            });
        }
    }
}

/// What moves the bytes of one connection: polled by a task of its own, and by whoever sends.
struct Carrier<B: Body + 'static> {
    /// Taken by the task at the end, or with the connection when it goes to another worker.
    connection: RefCell<Option<http1::Connection<TokioIo<Stream>, B>>>,
    /// The backend has sent what nobody asked for.
    has_spoken: Cell<bool>,
    /// How the connection ended while the task was not looking.
    ended: Cell<Option<hyper::Result<()>>>,
    gate: Arc<Gate>,
    /// The gate, as all events of the connection have it.
    waker: Waker,
    /// How it is to be closed, once that is decided.
    ending: RefCell<Option<Ending>>,
    /// Told when it is.
    decided: Notify,
}

impl<B: Body + 'static> Carrier<B> {
    fn ends(&self, ending: Ending) {
        *self.ending.borrow_mut() = Some(ending);
        self.decided.notify_one();
    }
}

impl<B> Carrier<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
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

/// Whether a connection ended since bytes came when nothing was asked for. hyper does not say it in so
/// many words: it is the error of an idle connection that has no cause in the socket.
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
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let result = poll_fn(|cx| carrier.poll(cx)).await;
    let Some(connection) = carrier.connection.take() else {
        // It went to another worker.
        return;
    };
    let mut stream = connection.into_parts().io.into_inner();
    watch.ended();
    if let Err(error) = &result {
        debug!(%backend, %error, "backend connection ended");
    }
    let Ending { mode, mut entry } = loop {
        let ending = carrier.ending.take();
        match ending {
            Some(ending) => break ending,
            None => carrier.decided.notified().await,
        }
    };
    let reason = entry.as_ref().map(|entry| entry.reason);
    let mut known = |close| {
        if let Some(entry) = &mut entry {
            entry.close = close;
        }
    };
    if stream.has_peer_closed() {
        known(Close::BackendFin);
    } else if result.is_err()
        && let Some(CloseReason::PeerClosedIdle | CloseReason::PeerClosedBusy) = reason
    {
        known(Close::BackendRst);
    }
    if let CloseMode::Peer | CloseMode::PeerRst = mode {
        let has_closed =
            stream.has_peer_closed() || net::wait_for_peer(&mut stream, PEER_CLOSE).await;
        match mode {
            _ if !has_closed => {
                stream.socket().reset_after_fin();
                known(Close::ProxyFinRst);
            }
            CloseMode::PeerRst => stream.socket().reset_on_close(),
            CloseMode::Peer | CloseMode::Fin | CloseMode::Rst | CloseMode::FinRst => {}
        }
    }
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
