//! WebSocket over HTTP/2: a client that asks for it by an extended CONNECT is, towards an HTTP/1.1 backend, one
//! that asks for an upgrade.
//!
//! Source: RFC 8441; RFC 6455 §4.

use http::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Version, request};
use hyper::ext::Protocol;

/// Whether a request is an extended CONNECT.
pub(super) fn is_extended(parts: &request::Parts) -> bool {
    parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_some()
}

/// Makes it a request for an upgrade, as HTTP/1.1 has it.
pub(super) fn to_upgrade(parts: &mut request::Parts) {
    let protocol = parts.extensions.remove::<Protocol>();
    let protocol = protocol.and_then(|it| HeaderValue::from_str(it.as_str()).ok());
    let Some(protocol) = protocol else { return };
    let host = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    let headers = &mut parts.headers;
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
        headers.insert(SEC_WEBSOCKET_KEY, KEY);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, protocol);
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
}

/// 16 bytes, in base64. It proves that a server understands WebSocket, to a client that could take something
/// else for it; over HTTP/2 clients neither send one nor look at the answer (RFC 8441 §5), so that it need
/// not be another each time.
const KEY: HeaderValue = HeaderValue::from_static("d2FybWxpbmUgb3ZlciBoMg==");

/// What of the head of an answer is not for such a client.
pub(super) const NOT_FOR_CLIENT: [HeaderName; 3] = [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT];

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn an_extended_connect_becomes_a_request_for_an_upgrade() {
        let request = Request::connect("https://a.example:8443/chat?room=1")
            .version(Version::HTTP_2)
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"));
        let mut parts = request.body(()).unwrap().into_parts().0;
        assert!(is_extended(&parts));
        to_upgrade(&mut parts);
        assert!(!is_extended(&parts));
        assert_eq!(
            (parts.method, parts.version),
            (Method::GET, Version::HTTP_11)
        );
        assert_eq!(parts.uri.path_and_query().unwrap(), "/chat?room=1");
        for (name, value) in [
            ("host", "a.example:8443"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
        ] {
            assert_eq!(parts.headers[name], value);
        }
        assert_eq!(parts.headers[SEC_WEBSOCKET_KEY].len(), 24);
    }

    #[test]
    fn a_plain_connect_is_none() {
        let request = Request::connect("a.example:443").version(Version::HTTP_2);
        assert!(!is_extended(&request.body(()).unwrap().into_parts().0));
    }
}
