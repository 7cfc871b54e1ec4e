//! One connection to a backend, whatever is spoken on it, and how one is opened: what a pool keeps.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};
use tower::timeout::Timeout;
use tower::{BoxError, ServiceExt};

use super::exit::Entry;
use super::h1::Lent;
use super::origin::Origin;
use super::{Closing, Protocol, Settings, Switched, h1, h2};
use crate::account::{ConnectFault, PoolTally, Span};
use crate::keepalive::CloseReason;
use crate::net::{BackendAddr, Call, ConnectError, Dial, Ends, Socket, Wire};
use crate::pool::{Connect, Farewell, Identity, Watch};

/// Opens connections to one backend.
pub struct Connector<B> {
    backend: BackendAddr,
    limit: Duration,
    closing: Closing,
    protocol: Protocol,
    /// The most exchanges at once on one connection.
    streams: u32,
    /// After how long it is asked by a system call whether the backend has closed it.
    probe_idle: Option<Duration>,
    tally: Arc<PoolTally>,
    open: Timeout<Dial>,
    body: std::marker::PhantomData<fn() -> B>,
}

impl<B> Connector<B> {
    /// A connector to `backend`, dialled by `dial`, under its upstream's `settings`; ends are
    /// entered into `tally`.
    pub fn new(
        backend: BackendAddr,
        dial: Dial,
        settings: &Settings,
        tally: Arc<PoolTally>,
    ) -> Connector<B> {
        let limit = settings.connect_timeout;
        let mut dial = dial;
        dial.tcp.time_calls({
            let tally = Arc::clone(&tally);
            move |took| tally.spans.note(Span::ConnectCall, took)
        });
        Connector {
            backend,
            limit,
            closing: settings.closing,
            protocol: settings.protocol,
            streams: settings.max_streams.get(),
            probe_idle: settings.probe_idle,
            tally,
            open: tower::ServiceBuilder::new().timeout(limit).service(dial),
            body: std::marker::PhantomData,
        }
    }

    /// Whom it connects to.
    pub fn backend(&self) -> &BackendAddr {
        &self.backend
    }
}

impl<B> Connector<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    async fn begin(
        &self,
        identity: Identity,
        watch: Watch,
        since: Instant,
    ) -> Result<Conn<B>, ConnectError> {
        let backend = &self.backend;
        let end = since + self.limit;
        let call = Call {
            backend: backend.clone(),
            ends: identity.0.map(|(client, proxy)| Ends { client, proxy }),
        };
        let opened = self
            .open
            .clone()
            .oneshot(call)
            .await
            .map_err(|error| ConnectError::sort(error, backend.clone(), self.limit))?;
        if let Some(shaken) = opened.tls {
            self.tally.handshake(shaken.resumed);
        }
        let chose_http2 = opened.tls.is_some_and(|shaken| shaken.http2);
        let http2 = match self.protocol {
            Protocol::Http1 => false,
            Protocol::Either => chose_http2,
            // Without TLS there is no choice to be heard of: it is known beforehand.
            Protocol::Http2 => chose_http2 || opened.tls.is_none(),
        };
        let not_http2 = || ConnectError::NotHttp2 {
            backend: backend.clone(),
        };
        if !http2 {
            if self.protocol == Protocol::Http2 {
                return Err(not_http2());
            }
            let origin = Origin::new(since.elapsed());
            return Ok(Conn::Http1(h1::begin(
                opened.wire,
                opened.port,
                origin,
                backend,
                watch,
            )));
        }
        let begun = h2::begin(opened.wire, opened.port, backend, self.streams, watch);
        match timeout_at(end, begun).await {
            Ok(Ok(conn)) => {
                conn.opened_in(since.elapsed());
                Ok(Conn::Http2(conn))
            }
            Ok(Err(h2::NotHttp2)) => Err(not_http2()),
            Err(_) => Err(ConnectError::Timeout {
                backend: backend.clone(),
                limit: self.limit,
            }),
        }
    }
}

/// Under which kind of fault a failure to open a connection is counted.
fn fault(error: &ConnectError) -> ConnectFault {
    match error {
        ConnectError::Timeout { .. } => ConnectFault::Timeout,
        ConnectError::NoLocalPort { .. } => ConnectFault::NoLocalPort,
        ConnectError::NoDescriptor { .. } => ConnectFault::NoDescriptor,
        ConnectError::Tls { .. } => ConnectFault::Tls,
        ConnectError::NotHttp2 { .. } => ConnectFault::NotHttp2,
        ConnectError::Io { source, .. } if source.kind() == ErrorKind::ConnectionRefused => {
            ConnectFault::Refused
        }
        ConnectError::Io { .. } => ConnectFault::Other,
    }
}

impl<B> Connect for Connector<B>
where
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Conn = Conn<B>;
    type Error = ConnectError;
    type Lent = Lent;

    async fn connect(&self, identity: Identity, watch: Watch) -> Result<Conn<B>, ConnectError> {
        let begun = Instant::now();
        let opened = self.begin(identity, watch, begun).await;
        match &opened {
            Ok(conn) => self.tally.spans.note(Span::Connect, conn.origin().connect),
            Err(error) => self.tally.connect_failed(fault(error)),
        }
        opened
    }

    fn is_usable(&self, conn: &Conn<B>, idle: Duration) -> bool {
        match conn {
            Conn::Http1(conn) => conn.is_usable(self.probe_idle.is_some_and(|least| idle >= least)),
            Conn::Http2(conn) => conn.is_usable(idle),
        }
    }

    fn idle_end(&self, conn: &Conn<B>) -> CloseReason {
        match conn {
            Conn::Http1(conn) => conn.idle_end(),
            // It may say anything at any time.
            Conn::Http2(_) => CloseReason::PeerClosedIdle,
        }
    }

    fn close(&self, conn: Option<Conn<B>>, farewell: Farewell) {
        let entry = Entry::of(&self.tally, farewell);
        match conn {
            Some(Conn::Http1(conn)) => conn.close(self.closing, farewell, entry),
            Some(Conn::Http2(conn)) => conn.close(self.closing, farewell, entry),
            None => {}
        }
    }

    fn streams(&self, conn: &Conn<B>) -> u32 {
        match conn {
            Conn::Http1(_) => 1,
            Conn::Http2(conn) => conn.streams(),
        }
    }

    fn share(&self, conn: &Conn<B>) -> Option<Conn<B>> {
        match conn {
            Conn::Http1(_) => None,
            Conn::Http2(conn) => Some(Conn::Http2(conn.clone())),
        }
    }

    fn lend(&self, conn: Conn<B>) -> Result<Lent, Conn<B>> {
        match conn {
            Conn::Http1(conn) => conn.lend().map_err(Conn::Http1),
            Conn::Http2(_) => Err(conn),
        }
    }

    fn adopt(&self, lent: Lent, watch: Watch) -> Option<Conn<B>> {
        let wire = Wire::arrive(lent.wire).ok()?;
        let conn = h1::begin(wire, lent.port, lent.origin, &self.backend, watch);
        Some(Conn::Http1(conn))
    }

    /// HTTP/2 connections stay where they are: each worker has its own, and needs few.
    fn can_lend(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    fn is_out_of_ports(error: &ConnectError) -> bool {
        matches!(error, ConnectError::NoLocalPort { .. })
    }

    fn out_of_ports(&self) -> ConnectError {
        ConnectError::NoLocalPort {
            backend: self.backend.clone(),
        }
    }
}

/// A connection to a backend. Dropping the last handle to it closes it.
pub enum Conn<B: Body + 'static> {
    /// HTTP/1.1: one exchange at a time.
    Http1(h1::Conn<B>),
    /// HTTP/2: many.
    Http2(h2::Conn<B>),
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
    B: Body<Data = bytes::Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// What is known of it from its beginning on.
    pub fn origin(&self) -> Origin {
        match self {
            Conn::Http1(conn) => conn.origin(),
            Conn::Http2(conn) => conn.origin(),
        }
    }

    /// Its local port, where it has one: asked of the kernel once.
    pub fn local_port(&self) -> Option<u16> {
        match self {
            Conn::Http1(conn) => conn.local_port(),
            Conn::Http2(conn) => conn.local_port(),
        }
    }

    /// Sends a request, in HTTP/1.1's form whatever the connection speaks. An error that still
    /// holds the request proves that nothing of it was sent.
    ///
    /// # Cancellation
    /// Dropping the future ends an HTTP/1.1 connection, and of an HTTP/2 connection the stream.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> + use<B> {
        match self {
            Conn::Http1(conn) => Sending::Http1 {
                sending: conn.send(request),
            },
            Conn::Http2(conn) => Sending::Http2 {
                sending: conn.send(request),
            },
        }
    }

    /// The request's head is about to be sent: its names are written as `client` wrote them, where
    /// the protocol leaves a choice.
    pub fn take_names_of(&self, client: &Socket) {
        if let Conn::Http1(conn) = self {
            conn.socket().send_head_from(client);
        }
    }

    /// The request's head was not answered: its names are wanted once more.
    pub fn give_names_back(&self, client: &Socket) {
        if let Conn::Http1(conn) = self {
            conn.socket().take_head_back(client);
        }
    }

    /// The response's head is about to be sent to `client`, with the names as the backend wrote
    /// them, or capitalised.
    pub fn give_names_to(&self, client: &Socket) {
        match self {
            Conn::Http1(conn) => client.send_head_from(conn.socket()),
            Conn::Http2(_) => client.send_own_head(),
        }
    }

    /// Whether a request may ask to leave HTTP for another protocol.
    pub fn can_switch(&self) -> bool {
        matches!(self, Conn::Http1(_))
    }

    /// Says whether the request that is sent next asks for it.
    pub fn may_switch(&self, asks: bool) {
        if let Conn::Http1(conn) = self {
            conn.may_switch(asks);
        }
    }

    /// The connection's bytes, and what of them has been read already, its backend having left HTTP.
    pub fn switch(&self) -> Option<(Switched, bytes::Bytes)> {
        match self {
            Conn::Http1(conn) => conn.switch(),
            Conn::Http2(_) => None,
        }
    }

    /// What was spoken in place of HTTP was broken off by the backend.
    pub fn broke_off(&self) {
        if let Conn::Http1(conn) = self {
            conn.broke_off();
        }
    }

    /// Keeps the head of the request that is sent next, so that it can be had back. False if this
    /// connection does not write it as HTTP/1.1 has it: whoever needs it keeps a copy.
    pub fn keep_head(&self) -> bool {
        match self {
            Conn::Http1(conn) => {
                conn.socket().keep_head();
                true
            }
            Conn::Http2(_) => false,
        }
    }

    /// What was kept: a head, and maybe the beginning of a body behind it.
    pub fn take_written_head(&self) -> Vec<u8> {
        match self {
            Conn::Http1(conn) => conn.socket().take_written_head(),
            Conn::Http2(_) => Vec::new(),
        }
    }

    /// Whether the kernel has taken any of the request, as far as that can be known.
    pub fn has_sent(&self) -> bool {
        match self {
            Conn::Http1(conn) => conn.socket().has_sent(),
            // Frames go out for others too.
            Conn::Http2(_) => true,
        }
    }

    /// Whether the backend may say of a request that it has not processed it.
    pub fn may_refuse(&self) -> bool {
        matches!(self, Conn::Http2(_))
    }

    /// Whether any of the response has come.
    pub fn has_heard(&self) -> bool {
        match self {
            Conn::Http1(conn) => conn.socket().has_heard(),
            // Frames come for others too; a response's head comes whole.
            Conn::Http2(_) => false,
        }
    }

    /// Asks how the connection is, a response having been read to its end.
    pub fn after_response(&self) -> AfterResponse {
        match self {
            Conn::Http1(conn) => conn.after_response(),
            // Whatever this stream still has to say, it disturbs no other.
            Conn::Http2(_) => AfterResponse::Ready,
        }
    }

    /// Polls a response's body.
    pub fn poll_body(
        &self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, hyper::Error>>> {
        match self {
            Conn::Http1(conn) => conn.poll_body(body, cx),
            Conn::Http2(_) => Pin::new(body).poll_frame(cx),
        }
    }
}

/// Why a request got no response.
pub struct SendError<B> {
    /// The request, if nothing of it was sent.
    pub unsent: Option<Request<B>>,
    /// Whether it is certain that the backend has not processed it, although it was sent.
    pub not_processed: bool,
    /// What the HTTP library said.
    pub error: hyper::Error,
}

pin_project! {
    /// A request on its way, until its response's head is there.
    #[project = SendingProjected]
    enum Sending<S1, S2> {
        Http1 { #[pin] sending: S1 },
        Http2 { #[pin] sending: S2 },
    }
}

impl<B, S1, S2> Future for Sending<S1, S2>
where
    B: Body,
    S1: Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>,
    S2: Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>,
{
    type Output = Result<Response<Incoming>, SendError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            SendingProjected::Http1 { sending } => {
                sending.poll(cx).map_err(|mut error| SendError {
                    unsent: error.take_message(),
                    not_processed: false,
                    error: error.into_error(),
                })
            }
            SendingProjected::Http2 { sending } => sending.poll(cx).map_err(|mut error| {
                let mut unsent = error.take_message();
                if let Some(request) = &mut unsent {
                    h2::to_http1(request);
                }
                let error = error.into_error();
                SendError {
                    unsent,
                    not_processed: h2::was_not_processed(&error),
                    error,
                }
            }),
        }
    }
}
