//! Interim responses (1xx) of a backend: which of them are passed on, and as what.
//!
//! Source: RFC 9110 §15.2: a proxy forwards them, but for those that it has asked for itself, to clients of
//! HTTP/1.1. `100 Continue` is such a one: `Expect` is answered here. 101 is no interim response.

use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

/// The most header lines; a head with more is not passed on.
const MOST: usize = 100;

/// What belongs to one connection, or frames a body that an interim response does not have.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
];

/// The head of an interim response as it goes to the client; `None` if it does not.
pub(super) fn passed_on(head: &[u8]) -> Option<Vec<u8>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST];
    let mut response = httparse::Response::new(&mut fields);
    if response.parse(head).ok()?.is_partial() || response.version != Some(1) {
        return None;
    }
    let status = response.code.filter(|code| !matches!(code, 100 | 101))?;
    let reason = response.reason.unwrap_or_default();
    let mut out = format!("HTTP/1.1 {status} {reason}\r\n").into_bytes();
    let is_called = |field: &httparse::Header<'_>, name: &HeaderName| {
        field.name.eq_ignore_ascii_case(name.as_str())
    };
    let named: Vec<_> = response
        .headers
        .iter()
        .filter(|field| is_called(field, &CONNECTION))
        .flat_map(|field| field.value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    for field in &*response.headers {
        let is_hop_by_hop = HOP_BY_HOP.iter().any(|name| is_called(field, name));
        let name = field.name.as_bytes();
        if is_hop_by_hop || named.iter().any(|named| named.eq_ignore_ascii_case(name)) {
            continue;
        }
        for part in [name, b": ", field.value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_one_connection_stays_and_what_is_no_interim_response_does_not_pass() {
        for (head, passed) in [
            (
                "HTTP/1.1 103 Early Hints\r\nLINK: </a.css>; rel=preload\r\nlink:</b>\r\n\r\n",
                Some(
                    "HTTP/1.1 103 Early Hints\r\nLINK: </a.css>; rel=preload\r\nlink: </b>\r\n\r\n",
                ),
            ),
            (
                "HTTP/1.1 102\r\nConnection: close, X-Hop\r\nx-hop: 1\r\nKeep-Alive: max=1\r\n\
                 Content-Length: 5\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n\r\n",
                Some("HTTP/1.1 102 \r\n\r\n"),
            ),
            (
                "HTTP/1.1 199 Whatever\n\n",
                Some("HTTP/1.1 199 Whatever\r\n\r\n"),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
            ("HTTP/1.1 101 Switching\r\n\r\n", None),
            ("HTTP/1.0 103 Early Hints\r\n\r\n", None),
            (
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n folded\r\n\r\n",
                None,
            ),
            ("HTTP/1.1 103 Early Hints\r\nno colon\r\n\r\n", None),
            ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n", None),
        ] {
            let got = passed_on(head.as_bytes());
            assert_eq!(got.as_deref(), passed.map(str::as_bytes), "{head:?}");
        }
    }
}
