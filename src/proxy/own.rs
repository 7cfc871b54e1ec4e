//! Answers of our own, and what is said in them of the client's connection.

use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::body::RelayBody;
use super::headers::{self, ClientConnection, RequestFacts};
use super::record::Record;
use super::{Failure, grpc};
use crate::client::{Conn, answer};

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
