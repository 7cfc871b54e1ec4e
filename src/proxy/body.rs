//! The two bodies of an exchange on their way through: the request's to the backend, and the
//! response's to the client, which carries the lease and ends it exactly once.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::info;

use crate::account::Outcome;
use crate::backend::{self, AfterResponse, Connector};
use crate::client::{BodyFault, Conn, Wait};
use crate::keepalive::{CloseReason, Verdict};
use crate::net::BackendAddr;
use crate::pool::{End, Lease};

use super::grpc;
use super::record::Record;
use super::replay::Kept;
use super::report::who;

type BoxError = Box<dyn Error + Send + Sync>;

/// A lease on a connection that carries request bodies of clients.
pub(super) type BackendLease = Lease<Connector<RequestBody>>;

/// A connection that carries request bodies of clients.
pub(super) type BackendConn = backend::Conn<RequestBody>;

/// A client's request body on its way to the backend.
///
/// Most requests have none. What there is is shared with whoever may have to send it again; only the
/// latest handle moves it.
pub struct RequestBody(Option<Handle>);

struct Handle {
    stream: Rc<RefCell<RequestStream>>,
    turn: u32,
}

struct RequestStream {
    incoming: Incoming,
    client: Rc<Conn>,
    /// The upstream's `timeout`.
    timeout: Duration,
    limit: Option<u64>,
    seen: u64,
    kept: Kept,
    /// All of it has been read.
    is_read: bool,
    /// The latest handle's.
    turn: u32,
}

/// A body that goes out again was asked for by the connection that has lost it.
#[derive(Debug, thiserror::Error)]
#[error("the request body goes out on another connection")]
struct Withdrawn;

impl RequestBody {
    /// The body of a client's request, or none.
    pub(super) fn of(incoming: Incoming, client: &Rc<Conn>, timeout: Duration) -> RequestBody {
        if incoming.is_end_stream() {
            RequestBody::empty()
        } else {
            RequestBody::stream(incoming, Rc::clone(client), timeout)
        }
    }

    /// A request without a body.
    pub(super) fn empty() -> RequestBody {
        RequestBody(None)
    }

    pub(super) fn stream(incoming: Incoming, client: Rc<Conn>, timeout: Duration) -> RequestBody {
        let stream = RequestStream {
            incoming,
            limit: client.settings().limits.body,
            client,
            timeout,
            seen: 0,
            kept: Kept::default(),
            is_read: false,
            turn: 0,
        };
        RequestBody(Some(Handle {
            stream: Rc::new(RefCell::new(stream)),
            turn: 0,
        }))
    }

    /// Keeps what passes from here on, up to `bound` bytes, for another handle: the one returned.
    pub(super) fn keep(&self, bound: u64) -> RequestBody {
        if let Some(handle) = &self.0 {
            handle.stream.borrow_mut().kept.keep(bound);
        }
        RequestBody(self.0.as_ref().map(|handle| Handle {
            stream: Rc::clone(&handle.stream),
            turn: handle.turn,
        }))
    }

    /// Keeps nothing any more.
    pub(super) fn let_go(&self) {
        if let Some(handle) = &self.0 {
            handle.stream.borrow_mut().kept.let_go();
        }
    }

    /// Whether all of it can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|handle| handle.stream.borrow().kept.is_whole())
    }

    /// How it is on its way, if there is one.
    pub(super) fn upload(&self) -> Option<Upload> {
        self.0
            .as_ref()
            .map(|handle| Upload(Rc::clone(&handle.stream)))
    }

    /// The body from its beginning. All other handles are void.
    pub(super) fn again(&self) -> RequestBody {
        RequestBody(self.0.as_ref().map(|handle| {
            let mut stream = handle.stream.borrow_mut();
            stream.kept.rewind();
            stream.turn += 1;
            Handle {
                stream: Rc::clone(&handle.stream),
                turn: stream.turn,
            }
        }))
    }
}

/// A request's body on its way to the backend.
pub(super) struct Upload(Rc<RefCell<RequestStream>>);

impl Upload {
    /// No more of it is to go out. True if not all of it has been read from the client.
    fn ends_early(&self) -> bool {
        let mut stream = self.0.borrow_mut();
        if !stream.is_read {
            stream.turn += 1;
        }
        !stream.is_read
    }
}

impl RequestStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(piece) = self.kept.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = self.kept.next_trailers() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            self.client.wait_for_body(self.seen);
            return Poll::Pending;
        };
        self.client.wait_for_backend(Instant::now(), self.timeout);
        let Some(frame) = frame else {
            self.is_read = true;
            self.client.body_is_read();
            return Poll::Ready(None);
        };
        let fail = |fault: BodyFault| {
            self.client.upload().failed(fault);
            Poll::Ready(Some(Err(fault.into())))
        };
        let Ok(frame) = frame else {
            return fail(BodyFault::Unreadable);
        };
        if let Some(data) = frame.data_ref() {
            self.seen += data.len() as u64;
            self.client.upload().came(self.seen);
            match self.limit {
                Some(limit) if self.seen > limit => return fail(BodyFault::TooLong(limit)),
                _ => self.kept.note(data),
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.kept.note_trailers(trailers);
            self.is_read = true;
        }
        if self.is_read || self.incoming.is_end_stream() {
            self.is_read = true;
            self.client.body_is_read();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.kept.left() == (0, false) && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let coming = self.incoming.size_hint();
        let (again, _) = self.kept.left();
        let mut hint = SizeHint::new();
        if let Some(most) = coming.upper() {
            hint.set_upper(most + again);
        }
        hint.set_lower(coming.lower() + again);
        hint
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(handle) = &self.0 else {
            return Poll::Ready(None);
        };
        let mut stream = handle.stream.borrow_mut();
        if handle.turn != stream.turn {
            return Poll::Ready(Some(Err(Withdrawn.into())));
        }
        stream.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|handle| handle.stream.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(handle) => handle.stream.borrow().size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// What the client gets: a backend's response body, or a text of our own. The exchange is over with it.
pub struct RelayBody {
    inner: Inner,
    record: Record,
}

enum Inner {
    Text(Option<Bytes>),
    Relay(Relay),
}

/// A backend's response body on its way to the client.
struct Relay {
    incoming: Incoming,
    /// The request's body, where its connection would go on with it whatever becomes of the response.
    upload: Option<Upload>,
    /// Until the response has been read to its end.
    lease: Option<BackendLease>,
    client: Rc<Conn>,
    backend: BackendAddr,
    timeout: Duration,
    /// Why its connection is not used again although it could be.
    spent: Option<CloseReason>,
    /// It answers a gRPC call.
    grpc: bool,
}

/// Why a response that had begun was not finished.
#[derive(Debug, thiserror::Error)]
#[error("the backend's response broke off")]
struct BrokenOff;

impl RelayBody {
    /// A text of our own: the body of an answer with this status.
    pub(super) fn text(client: &Conn, status: u16, text: String, record: Record) -> RelayBody {
        RelayBody::own(client, status, text.into(), Outcome::Refused, record)
    }

    /// The body of an answer of our own.
    pub(super) fn own(
        client: &Conn,
        status: u16,
        text: Bytes,
        outcome: Outcome,
        mut record: Record,
    ) -> RelayBody {
        let now = Instant::now();
        client.response_over(now);
        record.answers(status, outcome, now);
        RelayBody {
            inner: Inner::Text(Some(text).filter(|text| !text.is_empty())),
            record,
        }
    }

    /// Nothing, as the exchange goes on in a tunnel.
    pub(super) fn none() -> RelayBody {
        RelayBody {
            inner: Inner::Text(None),
            record: Record::none(),
        }
    }

    /// A backend's body. The lease ends with it, or with the response's head if it has none.
    pub(super) fn relay(
        incoming: Incoming,
        upload: Option<Upload>,
        lease: BackendLease,
        client: &Rc<Conn>,
        origin: (BackendAddr, Duration),
        spent: Option<CloseReason>,
        mut record: Record,
    ) -> RelayBody {
        let (backend, timeout) = origin;
        let mut relay = Relay {
            incoming,
            upload,
            lease: Some(lease),
            client: Rc::clone(client),
            backend,
            timeout,
            spent,
            grpc: false,
        };
        client.backend_moved();
        if relay.incoming.is_end_stream() {
            relay.finish(&mut record);
        }
        RelayBody {
            inner: Inner::Relay(relay),
            record,
        }
    }
}

impl RelayBody {
    /// The same, the answer to a gRPC call: if it breaks off, its client is told why in trailers.
    pub(super) fn of_call(mut self) -> RelayBody {
        if let Inner::Relay(relay) = &mut self.inner {
            relay.grpc = true;
        }
        self
    }
}

/// Why a connection ends whose response's body could not be read on.
fn reason_of(error: &hyper::Error) -> CloseReason {
    if is_nonsense(error) {
        CloseReason::Protocol
    } else {
        CloseReason::PeerClosedBusy
    }
}

/// Whether what a backend sent is the trouble, and not that its connection ended: no HTTP, chunks that
/// are none, too many interim responses.
pub(super) fn is_nonsense(error: &hyper::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    error.is_parse()
        || cause.is_some_and(|cause| {
            matches!(
                cause.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            )
        })
}

impl Relay {
    /// The response has been read to its end.
    fn finish(&mut self, record: &mut Record) {
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        let now = Instant::now();
        let is_early = self.ends_upload();
        let end = match (lease.verdict(), lease.conn().after_response(), self.spent) {
            (_, AfterResponse::Ready, Some(reason)) => End::Spent(reason),
            (_, _, Some(CloseReason::Protocol)) => End::Spent(CloseReason::Protocol),
            _ if is_early => End::Spent(CloseReason::EarlyResponse),
            // Announced in the request; the pool counts the reason by itself.
            (Verdict::Close(_), AfterResponse::Ready | AfterResponse::Closed, _)
            | (Verdict::Keep, AfterResponse::Ready, _) => End::Complete,
            (Verdict::Keep, AfterResponse::Closed, _) => End::Spent(CloseReason::PeerAsked),
            (_, AfterResponse::Busy, _) => End::Spent(CloseReason::EarlyResponse),
            (_, AfterResponse::Spoke, _) => End::Spent(CloseReason::Protocol),
        };
        match (end, lease.verdict()) {
            (End::Spent(reason), _) | (End::Complete, Verdict::Close(reason)) => {
                record.closes(reason);
            }
            (End::Complete, Verdict::Keep) => {}
        }
        lease.finish(end, now);
        self.client.response_over(now);
        record.ends(now);
    }

    /// Ends a request that is still being written. True if there is one.
    fn ends_upload(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::ends_early)
    }

    fn break_off(
        &mut self,
        mut reason: CloseReason,
        why: &dyn std::fmt::Display,
        record: &mut Record,
    ) -> Result<Frame<Bytes>, BoxError> {
        if self.ends_upload() {
            reason = CloseReason::EarlyResponse;
        }
        if let Some(mut lease) = self.lease.take() {
            lease.spent(reason);
        }
        record.closes(reason);
        record.ends_as(Outcome::BrokenOff);
        record.ends(Instant::now());
        self.client.backend_moved();
        let named = record.named();
        let (client, via) = who(&self.client, named.as_deref());
        info!(
            %client, via, backend = %self.backend, reason = %why,
            "response broke off: the client's connection is closed"
        );
        if !self.grpc {
            return Err(Box::new(BrokenOff));
        }
        let mut trailers = HeaderMap::new();
        let is_late = reason == CloseReason::Timeout || self.client.is_past_its_time();
        let (code, message) = if is_late {
            (grpc::Code::DeadlineExceeded, "The backend took too long.")
        } else {
            let broken = "The backend's response broke off.";
            (grpc::Code::Unavailable, broken)
        };
        grpc::tell(&mut trailers, code, message);
        Ok(Frame::trailers(trailers))
    }
}

impl Relay {
    /// The library needs no more of it. If its end has not come, all of a known length has passed, or the
    /// client has gone.
    fn leave(&mut self, record: &mut Record) {
        let Some(lease) = &mut self.lease else {
            return;
        };
        let now = Instant::now();
        // What is handed over is all there is to write. (Over HTTP/2 an end may come by itself, behind the
        // last byte.)
        self.client.backend_moved();
        self.client.response_over(now);
        let is_early = self.upload.as_ref().is_some_and(Upload::ends_early);
        let reason = if is_early {
            CloseReason::EarlyResponse
        } else {
            CloseReason::ClientGone
        };
        lease.spent(reason);
        record.closes(reason);
        record.ends(now);
        if self.incoming.size_hint().exact() != Some(0) {
            record.ends_as(Outcome::ClientGone);
        }
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        if let Inner::Relay(relay) = &mut self.inner {
            relay.leave(&mut self.record);
        }
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let RelayBody { inner, record } = &mut *self;
        let relay = match inner {
            Inner::Text(text) => {
                return Poll::Ready(text.take().map(|text| {
                    record.hands_over(text.len());
                    Ok(Frame::data(text))
                }));
            }
            Inner::Relay(relay) => relay,
        };
        if let Some(Wait::Backend) = relay.client.expired() {
            // A deadline of the client's says nothing of the connection.
            let end = if relay.client.is_past_its_time() {
                relay.break_off(CloseReason::ClientGone, &"the client's deadline", record)
            } else {
                relay.break_off(CloseReason::Timeout, &"the backend's timeout", record)
            };
            return Poll::Ready(Some(end));
        }
        let polled = match &mut relay.lease {
            Some(lease) => lease.conn().poll_body(&mut relay.incoming, cx),
            None => Pin::new(&mut relay.incoming).poll_frame(cx),
        };
        match polled {
            Poll::Pending => {
                if !relay.client.waits_for_backend() {
                    relay.client.wait_for_backend(Instant::now(), relay.timeout);
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                relay.client.backend_moved();
                record.hands_over(frame.data_ref().map_or(0, Bytes::len));
                // Nothing follows trailers, and nobody asks again.
                if relay.incoming.is_end_stream() || frame.is_trailers() {
                    relay.finish(record);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(Some(relay.break_off(reason_of(&error), &error, record)))
            }
            Poll::Ready(None) => {
                relay.finish(record);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Text(text) => text.is_none(),
            Inner::Relay(relay) => relay.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Inner::Relay(relay) => relay.incoming.size_hint(),
        }
    }
}
