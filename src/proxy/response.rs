//! What the client is answered: a backend's response, handed on, or an error of our own.

use std::rc::Rc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{BackendLease, RelayBody, Upload};
use super::headers::{self, ClientConnection, RequestFacts};
use super::record::Record;
use super::upstream::Backend;
use super::{Failure, grpc};
use crate::account::Outcome;
use crate::client::{Conn, answer};
use crate::keepalive::{CloseReason, drops_connection};

/// Hands a backend's response on to the client; its body carries the lease.
pub(super) fn relay(
    client: &Rc<Conn>,
    response: Response<Incoming>,
    upload: Option<Upload>,
    mut lease: BackendLease,
    request: &RequestFacts,
    backend: &Backend,
    record: &mut Record,
) -> Result<Response<RelayBody>, Failure> {
    let (mut parts, incoming) = response.into_parts();
    // One of 1.0 is not used again, whatever it says, as Apache httpd has it: the library would go on in 1.0,
    // which knows no chunks.
    let is_last = parts.version == Version::HTTP_10;
    let facts = headers::forward_response(&mut parts);
    lease.hint(facts.hint);
    if facts.coded || request.connects && parts.status.is_success() {
        let failure = Failure::BadAnswer {
            backend: backend.address().clone(),
            source: None,
        };
        lease.spent(failure.close_reason());
        record.closes(failure.close_reason());
        return Err(failure);
    }
    record.answers(parts.status.as_u16(), Outcome::Answered, Instant::now());
    lease.conn().give_names_to(client.socket());
    let length_known = incoming.is_end_stream() || incoming.size_hint().exact().is_some();
    let status = parts.status.as_u16();
    say_connection(
        client,
        &mut parts.headers,
        Some(request),
        length_known,
        request.ends || drops_connection(status),
    );
    if !length_known && request.ends_unknown_length_by_close() {
        client.response_ends_with_connection();
    }
    let body = RelayBody::relay(
        incoming,
        upload,
        lease,
        client,
        (backend.address().clone(), record.timeout()),
        facts
            .ambiguous
            .then_some(CloseReason::Protocol)
            .or(is_last.then_some(CloseReason::PeerAsked)),
        record.hand_on(),
    );
    let body = if request.grpc { body.of_call() } else { body };
    Ok(Response::from_parts(parts, body))
}

/// Whether the client's connection ends with this exchange, whatever the response: the proxy stops, what
/// is left of the request will not be read (the client may wait for a `100 Continue` before it sends it), or
/// it was framed in two ways.
fn ends(client: &Conn) -> bool {
    client.is_draining() || !client.is_body_read() || client.is_framed_twice()
}

/// An error answer of our own.
pub(super) fn refusal(
    client: &Conn,
    request: Option<&RequestFacts>,
    failure: &Failure,
    record: Record,
) -> Response<RelayBody> {
    let status = failure.status();
    client.socket().send_own_head();
    if request.is_some_and(|request| request.grpc) {
        // Status 200 on the wire; counted and logged as what it is.
        let body = RelayBody::text(client, status.as_u16(), String::new(), record);
        let mut response = Response::new(body);
        let code = grpc::Code::of(failure);
        grpc::answer(response.headers_mut(), code, failure.sentence());
        client.promises(true);
        return response;
    }
    let text = answer::text(status, failure.sentence());
    let mut response = Response::new(RelayBody::text(client, status.as_u16(), text, record));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    let ends = request.is_some_and(|request| request.ends) || failure.ends_client_connection();
    say_connection(client, headers, request, true, ends);
    response
}

/// Says in a response's head whether the client's connection is kept, and notes it. Over HTTP/2 heads say
/// nothing of that (RFC 9113 §8.2.2).
pub(super) fn say_connection(
    client: &Conn,
    headers: &mut HeaderMap,
    request: Option<&RequestFacts>,
    length_known: bool,
    ends: bool,
) {
    if client.is_one_of_many() {
        client.promises(true);
        return;
    }
    let kept = headers::say_connection(
        headers,
        request,
        &ClientConnection {
            keep_alive: &client.settings().keep_alive,
            exchange: client.exchange(),
            length_known,
            ends: ends || self::ends(client),
        },
    );
    client.promises(kept);
}
