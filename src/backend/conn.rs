//! One HTTP/1.1 connection to a backend, and how one is opened: what a pool keeps.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tower::timeout::Timeout;
use tower::{BoxError, ServiceExt};
use tracing::debug;

use crate::net::{self, BackendAddr, ConnectError, Peer, Socket, Stream, TcpConnect};
use crate::pool::{Connect, Watch};

/// How long the backend may take to close after both sides agreed on the end, before we do.
///
/// Waiting leaves the TIME_WAIT with the backend and spends no port here. Its own task waits: no
/// client does.
const PEER_CLOSE: Duration = Duration::from_secs(1);

/// A connection that has been idle for this long is asked by a system call (0.2 µs) whether its
/// peer has closed it; a fresher one only if the runtime has seen something come in.
const PROBE_IDLE: Duration = Duration::from_millis(100);

/// Opens connections to one backend.
pub struct Connector<B> {
    backend: BackendAddr,
    limit: Duration,
    open: Timeout<TcpConnect>,
    http: http1::Builder,
    body: std::marker::PhantomData<fn() -> B>,
}

impl<B> Connector<B> {
    /// A connector to `backend` that gives up after `limit`.
    pub fn new(backend: BackendAddr, limit: Duration) -> Connector<B> {
        let http = http1::Builder::new();
        Connector {
            backend,
            limit,
            open: tower::ServiceBuilder::new()
                .timeout(limit)
                .service(TcpConnect),
            http,
            body: std::marker::PhantomData,
        }
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

    async fn connect(&self, watch: Watch) -> Result<Conn<B>, ConnectError> {
        let stream = self
            .open
            .clone()
            .oneshot(self.backend)
            .await
            .map_err(|error| ConnectError::sort(error, self.backend, self.limit))?;
        let (io, socket) = Stream::new(stream);
        let (sender, connection) =
            self.http
                .handshake(TokioIo::new(io))
                .await
                .map_err(|error| {
                    // It only makes the two halves; nothing is sent.
                    ConnectError::sort(Box::new(error), self.backend, self.limit)
                })?;
        let shared = Rc::new(Shared {
            closing: Cell::new(Closing::Agreed),
            settled: Cell::new(false),
        });
        let carrier = Carrier {
            connection,
            shared: Rc::clone(&shared),
            socket: Rc::clone(&socket),
        };
        tokio::task::spawn_local(carrier.run(self.backend, watch));
        Ok(Conn {
            sender,
            socket,
            shared,
        })
    }

    fn is_usable(&self, conn: &Conn<B>, idle: Duration) -> bool {
        conn.sender.is_ready() && conn.socket.peer(idle >= PROBE_IDLE) == Peer::Silent
    }
}

/// A connection to a backend. Dropping it closes it.
pub struct Conn<B> {
    sender: SendRequest<B>,
    socket: Rc<Socket>,
    shared: Rc<Shared>,
}

/// What the two halves of a connection tell each other.
struct Shared {
    closing: Cell<Closing>,
    /// Nothing is to be done but to see whether the peer speaks.
    settled: Cell<bool>,
}

/// How a connection is closed once HTTP is through with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// One side announced the end: the backend closes first, if it does so soon.
    Agreed,
    /// We end an idle connection: our FIN first.
    Idle,
    /// We give up in the middle of an exchange.
    Aborted,
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
}

impl<B: Body + 'static> Conn<B> {
    /// Its socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a request. An error that still holds the request proves that nothing of it was sent.
    ///
    /// # Cancellation
    /// Dropping the future ends the connection.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.shared.settled.set(false);
        self.socket.expect_head();
        self.sender.try_send_request(request)
    }

    /// Asks how the connection is, its last response having been read to its end.
    pub fn after_response(&self) -> AfterResponse {
        if self.sender.is_ready() {
            self.shared.settled.set(true);
            AfterResponse::Ready
        } else if self.sender.is_closed() {
            AfterResponse::Closed
        } else {
            AfterResponse::Busy
        }
    }
}

impl<B> Drop for Conn<B> {
    fn drop(&mut self) {
        self.shared.settled.set(false);
        if self.sender.is_closed() {
            // Its task is through with HTTP and knows how to close.
        } else if self.sender.is_ready() {
            self.shared.closing.set(Closing::Idle);
        } else {
            self.shared.closing.set(Closing::Aborted);
        }
    }
}

/// Moves the bytes of one connection: the half that runs in a task of its own.
struct Carrier<B: Body + 'static> {
    connection: http1::Connection<TokioIo<Stream>, B>,
    shared: Rc<Shared>,
    socket: Rc<Socket>,
}

impl<B> Carrier<B>
where
    B: Body<Data = bytes::Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Carries until the connection ends, and closes it.
    async fn run(mut self, backend: BackendAddr, watch: Watch) {
        let result = poll_fn(|cx| {
            // Taking the last bytes of a response wakes this task once more, for nothing: a poll
            // of hyper's connection that finds nothing costs 5 % of an exchange.
            if self.shared.settled.get() && self.socket.poll_peer_speaks(cx).is_pending() {
                return Poll::Pending;
            }
            self.connection.poll_without_shutdown(cx)
        })
        .await;
        let mut stream = self.connection.into_parts().io.into_inner();
        watch.ended();
        if let Err(error) = result {
            debug!(%backend, %error, "backend connection ended");
            return;
        }
        match self.shared.closing.get() {
            Closing::Agreed if !stream.has_peer_closed() => {
                net::wait_for_peer(&mut stream, PEER_CLOSE).await;
            }
            Closing::Agreed | Closing::Idle | Closing::Aborted => {}
        }
    }
}
