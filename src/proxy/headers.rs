//! What is read from a request's and a response's head, and how both are rewritten on their way:
//! nothing hop-by-hop passes, framing is stated anew, the backend is told who the client is.
//!
//! Source: RFC 9110 §7.6.1 (`Connection` and what it names), RFC 9112 §3.2 (request target and
//! `Host`) and §6 (framing), RFC 7239 (`Forwarded`), Apache httpd 2.4 `ap_set_keepalive` (the
//! client's connection).

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Uri, Version, request, response};

pub use super::connection::{ClientConnection, say_connection};
use super::hint::hint;
use super::target::{check_host, check_size, check_target};
use super::{Failure, grpc};
use crate::backend::Forwarded;
use crate::client::{Conn, Limits};
use crate::pool::Hint;

pub(super) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a `Connection` header says: its tokens, and the names it declares hop-by-hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ConnectionTokens {
    /// `close` is among them; it beats `keep-alive`.
    pub close: bool,
    /// `keep-alive` is among them.
    pub keep_alive: bool,
    /// The other names.
    pub names: Vec<HeaderName>,
}

impl ConnectionTokens {
    /// Adds the tokens of one header line. What is no name is passed over, and whatever is no part of
    /// a token separates two. Source: Apache httpd 2.4, `ap_find_token`.
    fn read(&mut self, value: &HeaderValue) {
        let tokens = value.as_bytes().split(|&byte| byte == b',');
        for token in tokens.map(<[u8]>::trim_ascii) {
            if self.heed(token) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token) {
                self.names.push(name);
            } else {
                for part in token.split(|&byte| !is_token(byte)) {
                    self.heed(part);
                }
            }
        }
    }

    /// True if this is one of the two words.
    fn heed(&mut self, token: &[u8]) -> bool {
        let close = token.eq_ignore_ascii_case(b"close");
        let keep_alive = token.eq_ignore_ascii_case(b"keep-alive");
        self.close |= close;
        self.keep_alive |= keep_alive;
        close || keep_alive
    }

    /// Removes the headers it names; those that frame or address the message stay, whatever a
    /// client may say.
    fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.names {
            if !matches!(*name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING) {
                headers.remove(name);
            }
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a head holds that must not pass, found in one walk over it.
#[derive(Clone, Debug, Default)]
struct HopByHop {
    tokens: ConnectionTokens,
    connection: bool,
    keep_alive: bool,
    proxy_connection: bool,
    te: bool,
    upgrade: bool,
    transfer_encoding: bool,
}

impl HopByHop {
    /// Looks at one header; true if it was one of these.
    fn see(&mut self, name: &HeaderName, value: &HeaderValue) -> bool {
        match *name {
            CONNECTION => {
                self.connection = true;
                self.tokens.read(value);
            }
            TRANSFER_ENCODING => self.transfer_encoding = true,
            TE => self.te = true,
            UPGRADE => self.upgrade = true,
            _ if *name == KEEP_ALIVE => self.keep_alive = true,
            _ if *name == PROXY_CONNECTION => self.proxy_connection = true,
            _ => return false,
        }
        true
    }

    fn strip(&self, headers: &mut HeaderMap) {
        self.tokens.strip(headers);
        for (there, name) in [
            (self.connection, CONNECTION),
            (self.keep_alive, KEEP_ALIVE),
            (self.proxy_connection, PROXY_CONNECTION),
            (self.te, TE),
            (self.upgrade, UPGRADE),
            (self.transfer_encoding, TRANSFER_ENCODING),
        ] {
            if there {
                headers.remove(name);
            }
        }
    }
}

/// A request's head, read and found fit to be forwarded.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    hop: HopByHop,
    /// Whether it speaks HTTP/1.1 or later.
    http_11: bool,
    expect: bool,
    trailers: bool,
    /// Whether it is a gRPC call, whose client reads what went wrong from `grpc-status`.
    pub grpc: bool,
    /// Whether it came as an extended CONNECT (RFC 8441): only an answer that agrees to switch may look like a
    /// success.
    pub connects: bool,
    /// Whether the client's connection ends after it, for what it is.
    pub ends: bool,
}

impl RequestFacts {
    /// Whether it waits for a `100 Continue`, which only goes out for a body.
    pub fn expects_continue(&self) -> bool {
        self.expect
    }

    /// Reads a request's head and checks it.
    ///
    /// # Errors
    /// [`Failure`] with status 400, 405, 413, 417 or 431.
    pub fn read(parts: &request::Parts, limits: &Limits) -> Result<RequestFacts, Failure> {
        if parts.method == Method::CONNECT {
            return Err(Failure::Method);
        }
        check_target(&parts.uri)?;
        let mut facts = RequestFacts {
            hop: HopByHop::default(),
            http_11: parts.version >= Version::HTTP_11,
            expect: false,
            trailers: false,
            grpc: grpc::is_call(parts),
            connects: false,
            ends: false,
        };
        if parts.version == Version::HTTP_2 {
            check_size(parts, limits)?;
        }
        let mut hosts = 0;
        let (mut last, mut joined) = (None, 0);
        for (name, value) in &parts.headers {
            // The lines of one name come one after the other. Single ones were judged as they came in.
            let is_repeated = last == Some(name);
            joined = value.len() + if is_repeated { joined + 2 } else { 0 };
            last = Some(name);
            if is_repeated && joined > limits.field_size {
                return Err(Failure::FieldTooLong(limits.field_size));
            }
            if facts.hop.see(name, value) {
                match *name {
                    TE => facts.trailers |= has_token(value, b"trailers"),
                    // RFC 9112 §6.1: chunked is not to be applied twice.
                    TRANSFER_ENCODING if is_repeated => {
                        return Err(Failure::BadRequest("The transfer coding is not known."));
                    }
                    TRANSFER_ENCODING => check_coding(value)?,
                    _ => {}
                }
                continue;
            }
            match *name {
                HOST => {
                    hosts += 1;
                    check_host(value)?;
                }
                EXPECT => {
                    if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                        return Err(Failure::Expectation);
                    }
                    facts.expect = true;
                }
                CONTENT_LENGTH => check_length(value, limits)?,
                _ => {}
            }
        }
        match hosts {
            // RFC 9113 §8.3.1: over HTTP/2 it is part of the target.
            0 if parts.version == Version::HTTP_2 && parts.uri.authority().is_some() => Ok(facts),
            0 if facts.http_11 => Err(Failure::BadRequest("A Host header is missing.")),
            0 | 1 => Ok(facts),
            _ => Err(Failure::BadRequest("There is more than one Host header.")),
        }
    }

    /// The host the request is for: that of its target, or its `Host` header.
    pub fn host(parts: &request::Parts) -> Option<&str> {
        match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => parts.headers.get(HOST).and_then(|host| host.to_str().ok()),
        }
    }

    /// Whether the client takes interim responses: those of HTTP/1.0 do not know them (RFC 9110 §15.2), and
    /// over HTTP/2 the library writes none.
    pub fn takes_interim(&self, client: &Conn) -> bool {
        self.http_11 && !client.is_one_of_many()
    }

    /// Whether the client asks to leave HTTP for another protocol, as far as its `Connection` says. A 1.0
    /// client does not (RFC 9110 §7.8), nor does one of HTTP/2, which has no such header.
    pub fn asks_to_switch(&self, parts: &request::Parts) -> bool {
        self.hop.upgrade
            && parts.version == Version::HTTP_11
            && self.hop.tokens.names.contains(&UPGRADE)
    }

    /// Whether it speaks HTTP/1.1 or later.
    pub(super) fn is_http_11(&self) -> bool {
        self.http_11
    }

    /// Whether the client names `keep-alive`.
    pub(super) fn names_keep_alive(&self) -> bool {
        self.hop.tokens.keep_alive
    }

    /// Whether the client asks for, or by its version expects, the connection to be kept.
    pub fn wants_kept(&self) -> bool {
        !self.hop.tokens.close && (self.http_11 || self.hop.tokens.keep_alive)
    }

    /// Whether a response without a known length ends with the connection.
    pub fn ends_unknown_length_by_close(&self) -> bool {
        !self.http_11
    }
}

/// The framing is stated anew: what was coded otherwise than by chunks would lose its label.
fn check_coding(value: &HeaderValue) -> Result<(), Failure> {
    if is_chunked(value) {
        Ok(())
    } else {
        Err(Failure::BadRequest("The transfer coding is not known."))
    }
}

fn is_chunked(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"chunked")
}

fn check_length(value: &HeaderValue, limits: &Limits) -> Result<(), Failure> {
    let Some(limit) = limits.body else {
        return Ok(());
    };
    // hyper has refused what is no number.
    let length = value
        .to_str()
        .ok()
        .and_then(|digits| digits.parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(Failure::BodyTooLong(limit)),
        _ => Ok(()),
    }
}

fn has_token(value: &HeaderValue, token: &[u8]) -> bool {
    let tokens = value.as_bytes().split(|&byte| byte == b',');
    tokens
        .map(<[u8]>::trim_ascii)
        .any(|this| this.eq_ignore_ascii_case(token))
}

/// What a backend is told, beside what the client said.
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    /// The client's IP address.
    pub client: &'a HeaderValue,
    /// Whether it is a trusted proxy, so that it is believed what its own client asked for.
    pub is_believed: bool,
    /// What it speaks: `http` or `https`.
    pub scheme: &'static str,
    /// The header for the subject of its certificate, and that, if it has shown one.
    pub subject: Option<(&'a HeaderName, Option<&'a HeaderValue>)>,
    /// Which headers name the client.
    pub forwarded: Forwarded,
    /// The `Host` to send instead of the client's, or where it sent none.
    pub host: Option<&'a HeaderValue>,
    /// The `Host` for a client that named none: the backend's own address.
    pub address: &'a HeaderValue,
    /// What is said of the connection.
    pub wish: Wish,
    /// What the client may leave HTTP for, and asks to.
    pub upgrade: Option<&'a HeaderValue>,
    /// Whether a body follows whose length is not known.
    pub chunked: bool,
}

/// What a request says of the connection it goes out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: HTTP/1.1 keeps it.
    None,
    /// That it is to be kept, for the sake of the answer: Apache httpd says how long it keeps a
    /// connection only if it is asked (`ap_set_keepalive`). Said once on each.
    Keep,
    /// That this is its last request.
    Close,
}

/// Rewrites a request's head for a backend.
pub fn forward_request(parts: &mut request::Parts, facts: &RequestFacts, intro: &Introduction<'_>) {
    let headers = &mut parts.headers;
    facts.hop.strip(headers);
    if facts.expect {
        // Answered here, as soon as a backend connection is there for the body.
        headers.remove(EXPECT);
    }
    if let Some(authority) = parts.uri.authority() {
        // RFC 9112 §3.2.2: the target's host replaces the header's.
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            headers.insert(HOST, host);
        }
        parts.uri = origin_form(&parts.uri);
    }
    if let Some((name, subject)) = intro.subject {
        headers.remove(name);
        if let Some(subject) = subject {
            headers.insert(name, subject.clone());
        }
    }
    introduce(headers, intro);
    if intro.chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if facts.trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.append(CONNECTION, HeaderValue::from_static("TE"));
    }
    match intro.upgrade {
        // Nothing else is said of the connection: it may well be its last request.
        Some(protocols) => {
            headers.insert(UPGRADE, protocols.clone());
            headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        None => say_wish(headers, intro.wish),
    }
    parts.version = Version::HTTP_11;
}

/// Over HTTP/2 a cookie header may come in crumbs, which nobody else puts together. Source: RFC 9113 §8.2.3.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    let joined = HeaderValue::from_maybe_shared(Bytes::from(joined));
    headers.insert(COOKIE, joined.expect("parts of header values make one"));
}

/// Says in a request that was rewritten for one connection what is wished for another.
pub fn say_another_wish(headers: &mut HeaderMap, wish: Wish) {
    if headers.contains_key(UPGRADE) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let with_te = headers.get_all(CONNECTION).iter().any(|said| *said == "TE");
        headers.remove(CONNECTION);
        if with_te {
            headers.append(CONNECTION, HeaderValue::from_static("TE"));
        }
    }
    say_wish(headers, wish);
}

/// Says in a request that was rewritten what is wished for its connection.
fn say_wish(headers: &mut HeaderMap, wish: Wish) {
    let word = match wish {
        Wish::None => return,
        Wish::Keep => HeaderValue::from_static("keep-alive"),
        Wish::Close => HeaderValue::from_static("close"),
    };
    headers.append(CONNECTION, word);
}

fn origin_form(uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = uri
        .path_and_query()
        .cloned()
        .or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
}

fn introduce(headers: &mut HeaderMap, intro: &Introduction<'_>) {
    let named = headers.get(HOST).cloned();
    match intro.forwarded {
        Forwarded::XForwarded => x_forwarded(headers, intro, named.as_ref()),
        Forwarded::Rfc7239 => forwarded(headers, intro, named.as_ref()),
        Forwarded::Both => {
            x_forwarded(headers, intro, named.as_ref());
            forwarded(headers, intro, named.as_ref());
        }
        Forwarded::Off => {}
    }
    if let Some(host) = intro.host {
        headers.insert(HOST, host.clone());
    } else if named.is_none() {
        headers.insert(HOST, intro.address.clone());
    }
}

/// `X-Forwarded-For` grows by the client's address; the other two say what this proxy saw, or one before it that is believed.
fn x_forwarded(headers: &mut HeaderMap, intro: &Introduction<'_>, host: Option<&HeaderValue>) {
    let list = grown(headers, &X_FORWARDED_FOR, intro.client);
    headers.insert(X_FORWARDED_FOR, list);
    let is_known = |name| intro.is_believed && headers.contains_key(name);
    let (proto_known, host_known) = (is_known(X_FORWARDED_PROTO), is_known(X_FORWARDED_HOST));
    if !proto_known {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(intro.scheme));
    }
    if let Some(host) = host
        && !host_known
    {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

fn forwarded(headers: &mut HeaderMap, intro: &Introduction<'_>, host: Option<&HeaderValue>) {
    let mut element = String::with_capacity(64);
    let client = intro.client.to_str().unwrap_or("unknown");
    // RFC 7239 §6: an IPv6 address stands in brackets and quotes.
    let written = if client.contains(':') {
        write!(element, "for=\"[{client}]\"")
    } else {
        write!(element, "for={client}")
    };
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        // A port's colon is not allowed outside quotes.
        element.push_str(";host=\"");
        element.push_str(host);
        element.push('"');
    }
    element.push_str(";proto=");
    element.push_str(intro.scheme);
    let element = HeaderValue::from_maybe_shared(Bytes::from(element))
        .unwrap_or(HeaderValue::from_static("for=unknown"));
    let list = grown(headers, &FORWARDED, &element);
    headers.insert(FORWARDED, list);
}

/// The lines under `name` as one list, with `element` at its end.
fn grown(headers: &HeaderMap, name: &HeaderName, element: &HeaderValue) -> HeaderValue {
    let mut lines = headers.get_all(name).iter().peekable();
    if lines.peek().is_none() {
        return element.clone();
    }
    let mut list = Vec::new();
    for line in lines {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or_else(|_| element.clone())
}

/// What a response's head says about its message and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
    /// Both `Content-Length` and `Transfer-Encoding` came: whoever believes the wrong one would
    /// take what follows for another response. RFC 9112 §6.3.
    pub ambiguous: bool,
    /// A transfer coding other than chunked came, which nobody has undone.
    pub coded: bool,
    /// What the backend says of its connection.
    pub hint: Hint,
}

/// Rewrites a response's head for the client, all but its connection.
pub fn forward_response(parts: &mut response::Parts) -> ResponseFacts {
    let mut hop = HopByHop::default();
    let mut lengths = 0;
    let mut coded = false;
    for (name, value) in &parts.headers {
        if hop.see(name, value) {
            coded |= *name == TRANSFER_ENCODING && !is_chunked(value);
        } else if *name == CONTENT_LENGTH {
            lengths += 1;
        }
    }
    let hint = hop
        .keep_alive
        .then(|| parts.headers.get(KEEP_ALIVE).map(hint))
        .flatten();
    hop.strip(&mut parts.headers);
    if hop.transfer_encoding && lengths > 0 {
        parts.headers.remove(CONTENT_LENGTH);
    } else if lengths > 1
        && let Some(length) = parts.headers.get(CONTENT_LENGTH).cloned()
    {
        // hyper has refused lengths that differ.
        parts.headers.insert(CONTENT_LENGTH, length);
    }
    parts.version = Version::HTTP_11;
    ResponseFacts {
        ambiguous: hop.transfer_encoding && lengths > 0,
        coded,
        hint: hint.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use http::{Request, Response};
    use proptest::prelude::*;

    use super::*;
    use crate::keepalive::KeepAlive;

    fn request(target: &str, version: Version, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().uri(target).version(version);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn get(headers: &[(&str, &str)]) -> request::Parts {
        request("/x?y", Version::HTTP_11, headers)
    }

    fn forwarded_with(
        mut parts: request::Parts,
        change: impl FnOnce(&mut Introduction<'_>),
    ) -> request::Parts {
        let facts = RequestFacts::read(&parts, &Limits::default()).unwrap();
        let client = HeaderValue::from_static("192.0.2.1");
        let address = HeaderValue::from_static("10.0.0.1:9000");
        let mut intro = Introduction {
            client: &client,
            is_believed: false,
            scheme: "http",
            subject: None,
            forwarded: Forwarded::Off,
            host: None,
            address: &address,
            wish: Wish::None,
            upgrade: None,
            chunked: false,
        };
        change(&mut intro);
        forward_request(&mut parts, &facts, &intro);
        parts
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn nothing_hop_by_hop_passes_to_the_backend() {
        let parts = forwarded_with(
            get(&[
                ("host", "a"),
                ("connection", "keep-alive, X-Hop"),
                ("connection", "content-length, host"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip"),
                ("upgrade", "h2c"),
                ("expect", "100-Continue"),
                ("content-length", "3"),
                ("accept", "*/*"),
            ]),
            |_| {},
        );
        assert_eq!(
            lines(&parts.headers),
            ["accept: */*", "content-length: 3", "host: a"]
        );
    }

    #[test]
    fn what_a_backend_says_of_its_connection_is_read() {
        for (text, timeout_ms, max) in [
            ("timeout=5, max=99", Some(5000), Some(99)),
            ("timeout=1", Some(1000), None),
            ("timeout=0", Some(500), None),
            ("Max = 0, TIMEOUT=\"7\"", Some(7000), Some(0)),
            ("timeout=-1, timeouts=3, max", None, None),
            ("timeout=99999999999", None, None),
        ] {
            let expected = Hint {
                timeout: timeout_ms.map(Duration::from_millis),
                max,
            };
            assert_eq!(hint(&HeaderValue::from_static(text)), expected, "{text}");
        }
    }

    #[test]
    fn another_connection_is_told_its_own_wish_only() {
        let values = |headers: &HeaderMap| {
            let values = headers.get_all(CONNECTION).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (before, after, said) in [
            (Wish::Close, Wish::Keep, &["TE", "keep-alive"][..]),
            (Wish::Close, Wish::None, &["TE"]),
            (Wish::Keep, Wish::Close, &["TE", "close"]),
            (Wish::None, Wish::None, &["TE"]),
        ] {
            let mut parts = forwarded_with(get(&[("host", "a"), ("te", "trailers")]), |intro| {
                intro.wish = before;
            });
            say_another_wish(&mut parts.headers, after);
            assert_eq!(values(&parts.headers), said, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_request_that_asks_to_switch_says_nothing_else_of_its_connection() {
        static PROTOCOLS: HeaderValue = HeaderValue::from_static("websocket");
        let asked = [
            ("host", "a"),
            ("connection", "close, upgrade"),
            ("upgrade", "x"),
        ];
        let mut parts = forwarded_with(get(&asked), |intro| {
            intro.wish = Wish::Close;
            intro.upgrade = Some(&PROTOCOLS);
        });
        say_another_wish(&mut parts.headers, Wish::Close);
        assert_eq!(
            lines(&parts.headers),
            ["connection: Upgrade", "host: a", "upgrade: websocket"]
        );
    }

    #[test]
    fn te_trailers_passes_with_its_connection_token() {
        let parts = forwarded_with(get(&[("host", "a"), ("te", "gzip, trailers")]), |intro| {
            intro.wish = Wish::Close;
        });
        assert_eq!(
            lines(&parts.headers),
            [
                "connection: TE",
                "connection: close",
                "host: a",
                "te: trailers"
            ]
        );
    }

    #[test]
    fn a_target_with_a_host_replaces_the_header_and_becomes_a_path() {
        let parts = forwarded_with(
            request("http://b:81/p?q", Version::HTTP_11, &[("host", "a")]),
            |_| {},
        );
        assert_eq!(parts.uri, "/p?q");
        assert_eq!(parts.headers[HOST], "b:81");
    }

    #[test]
    fn the_host_is_kept_replaced_or_supplied() {
        let own = HeaderValue::from_static("backend");
        let kept = forwarded_with(get(&[("host", "a")]), |_| {});
        assert_eq!(kept.headers[HOST], "a");
        let mut parts = get(&[("host", "a")]);
        let facts = RequestFacts::read(&parts, &Limits::default()).unwrap();
        let intro = Introduction {
            client: &own,
            is_believed: false,
            scheme: "http",
            subject: None,
            forwarded: Forwarded::XForwarded,
            host: Some(&own),
            address: &own,
            wish: Wish::None,
            upgrade: None,
            chunked: false,
        };
        forward_request(&mut parts, &facts, &intro);
        assert_eq!(parts.headers[HOST], "backend");
        assert_eq!(parts.headers["x-forwarded-host"], "a");
        let supplied = forwarded_with(request("/", Version::HTTP_10, &[]), |_| {});
        assert_eq!(supplied.headers[HOST], "10.0.0.1:9000");
    }

    #[test]
    fn the_client_is_named_as_asked_for() {
        let sent = [
            ("host", "shop:80"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "spoofed"),
        ];
        let parts = forwarded_with(get(&sent), |intro| intro.forwarded = Forwarded::Both);
        assert_eq!(
            lines(&parts.headers),
            [
                "forwarded: for=192.0.2.1;host=\"shop:80\";proto=http",
                "host: shop:80",
                "x-forwarded-for: 203.0.113.9, 198.51.100.7, 192.0.2.1",
                "x-forwarded-host: shop:80",
                "x-forwarded-proto: http",
            ]
        );
        let parts = forwarded_with(get(&sent), |intro| {
            intro.forwarded = Forwarded::XForwarded;
            intro.is_believed = true;
        });
        assert_eq!(
            lines(&parts.headers),
            [
                "host: shop:80",
                "x-forwarded-for: 203.0.113.9, 198.51.100.7, 192.0.2.1",
                "x-forwarded-host: shop:80",
                "x-forwarded-proto: spoofed",
            ]
        );
        let v6 = HeaderValue::from_static("2001:db8::1");
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED, HeaderValue::from_static("for=a"));
        let intro = Introduction {
            client: &v6,
            is_believed: false,
            scheme: "https",
            subject: None,
            forwarded: Forwarded::Rfc7239,
            host: None,
            address: &v6,
            wish: Wish::None,
            upgrade: None,
            chunked: false,
        };
        forwarded(&mut headers, &intro, None);
        assert_eq!(
            headers[FORWARDED],
            "for=a, for=\"[2001:db8::1]\";proto=https"
        );
    }

    #[test]
    fn a_request_that_breaks_a_rule_is_refused() {
        let long = "x".repeat(8190);
        for (parts, status) in [
            (get(&[]), 400),
            (get(&[("host", "a"), ("host", "a")]), 400),
            (get(&[("host", "")]), 400),
            (get(&[("host", "a/b")]), 400),
            (get(&[("host", "user@a")]), 400),
            (get(&[("host", "a"), ("expect", "more")]), 417),
            (request("ftp://a/", Version::HTTP_11, &[("host", "a")]), 400),
            (
                get(&[("host", "a"), ("x", &long[..4096]), ("x", &long[..4093])]),
                431,
            ),
        ] {
            let refused = RequestFacts::read(&parts, &Limits::default()).unwrap_err();
            assert_eq!(refused.status(), status, "{parts:?}");
        }
        assert!(
            RequestFacts::read(&request("/", Version::HTTP_10, &[]), &Limits::default()).is_ok()
        );
    }

    #[test]
    fn a_body_longer_than_the_limit_is_refused_by_its_announcement() {
        let limits = Limits {
            body: Some(10),
            ..Limits::default()
        };
        let read = |length| {
            RequestFacts::read(&get(&[("host", "a"), ("content-length", length)]), &limits)
        };
        assert!(read("10").is_ok());
        assert_eq!(read("11").unwrap_err().status(), 413);
    }

    #[test]
    fn a_response_with_two_framings_keeps_one_and_is_called_ambiguous() {
        let response = |headers: &[(&str, &str)]| {
            let mut builder = Response::builder();
            for (name, value) in headers {
                builder = builder.header(*name, *value);
            }
            builder.body(()).unwrap().into_parts().0
        };
        let mut both = response(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        assert!(forward_response(&mut both).ambiguous);
        assert!(both.headers.is_empty());
        let mut twice = response(&[
            ("content-length", "3"),
            ("content-length", "3"),
            ("keep-alive", "max=1"),
        ]);
        assert!(!forward_response(&mut twice).ambiguous);
        assert_eq!(lines(&twice.headers), ["content-length: 3"]);
    }

    #[test]
    fn keep_alive_is_said_only_to_who_named_it_and_an_end_always() {
        let keep_alive = KeepAlive {
            enabled: true,
            max_requests: NonZeroU32::new(3),
            timeout: Duration::from_millis(1500),
        };
        let v10 = |headers: &[(&str, &str)]| request("/", Version::HTTP_10, headers);
        for (parts, exchange, length_known, ends, said) in [
            (get(&[("host", "a")]), 1, true, false, vec![]),
            (
                get(&[("host", "a"), ("connection", "Keep-Alive")]),
                1,
                true,
                false,
                vec!["connection: Keep-Alive", "keep-alive: timeout=1, max=3"],
            ),
            (
                get(&[("host", "a"), ("connection", "keep-alive")]),
                3,
                false,
                false,
                vec!["connection: Keep-Alive", "keep-alive: timeout=1, max=1"],
            ),
            (
                get(&[("host", "a"), ("connection", "keep-alive")]),
                4,
                true,
                false,
                vec!["connection: close"],
            ),
            (
                get(&[("host", "a"), ("connection", "keep-alive, close")]),
                1,
                true,
                false,
                vec!["connection: close"],
            ),
            (
                get(&[("host", "a")]),
                1,
                true,
                true,
                vec!["connection: close"],
            ),
            (v10(&[]), 1, true, false, vec!["connection: close"]),
            (
                v10(&[("connection", "keep-alive")]),
                2,
                true,
                false,
                vec!["connection: Keep-Alive", "keep-alive: timeout=1, max=2"],
            ),
            (
                v10(&[("connection", "keep-alive")]),
                2,
                false,
                false,
                vec!["connection: close"],
            ),
        ] {
            let facts = RequestFacts::read(&parts, &Limits::default()).unwrap();
            let mut headers = HeaderMap::new();
            let connection = ClientConnection {
                keep_alive: &keep_alive,
                exchange,
                length_known,
                ends,
            };
            let kept = say_connection(&mut headers, Some(&facts), &connection);
            assert_eq!(lines(&headers), said, "{parts:?}");
            assert_eq!(kept, !said.contains(&"connection: close"));
        }
    }

    proptest! {
        /// Whatever a client writes into `Connection`, framing and address of the message stay.
        #[test]
        fn framing_survives_any_connection_header(text in "[ -~]{0,60}") {
            let parts = get(&[("host", "a"), ("content-length", "3"), ("connection", &text)]);
            let forwarded = forwarded_with(parts, |_| {});
            prop_assert_eq!(&forwarded.headers[HOST], "a");
            prop_assert_eq!(&forwarded.headers[CONTENT_LENGTH], "3");
            prop_assert!(!forwarded.headers.contains_key(CONNECTION));
        }
    }
}
