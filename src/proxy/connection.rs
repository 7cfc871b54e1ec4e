//! What a response's head says of the client's connection.
//!
//! Source: Apache httpd 2.4, `ap_set_keepalive`.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue};

use super::headers::{KEEP_ALIVE, RequestFacts};
use crate::keepalive::{KeepAlive, Verdict};

/// What is known when a response's `Connection` header is written.
#[derive(Clone, Copy, Debug)]
pub struct ClientConnection<'a> {
    /// The client side's settings.
    pub keep_alive: &'a KeepAlive,
    /// The number of this exchange on its connection; the first is 1.
    pub exchange: u32,
    /// Whether the response's end can be seen without closing.
    pub length_known: bool,
    /// Whether something else ends the connection: the proxy is shutting down, a failure.
    pub ends: bool,
}

/// Says in a response's head whether the client's connection is kept. True if it is.
///
/// An end is always said. That it is kept is said only to a client that named keep-alive, with
/// the timeout in whole seconds and the requests left. Source: Apache httpd 2.4,
/// `ap_set_keepalive`.
pub fn say_connection(
    headers: &mut HeaderMap,
    request: Option<&RequestFacts>,
    connection: &ClientConnection<'_>,
) -> bool {
    let verdict = connection.keep_alive.after_exchange(connection.exchange);
    let wanted = request.is_some_and(RequestFacts::wants_kept);
    let kept = verdict == Verdict::Keep
        && wanted
        && !connection.ends
        && (connection.length_known || request.is_some_and(RequestFacts::is_http_11));
    if !kept {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    } else if request.is_some_and(RequestFacts::names_keep_alive) {
        headers.insert(KEEP_ALIVE, keep_alive_value(connection));
        headers.insert(CONNECTION, HeaderValue::from_static("Keep-Alive"));
    }
    kept
}

fn keep_alive_value(connection: &ClientConnection<'_>) -> HeaderValue {
    let seconds = connection.keep_alive.timeout.as_secs();
    let text = match connection.keep_alive.left(connection.exchange) {
        Some(left) => format!("timeout={seconds}, max={left}"),
        None => format!("timeout={seconds}"),
    };
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("numbers and words are visible ASCII")
}
