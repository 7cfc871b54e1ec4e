//! What of a head passes, what does not, and what is added.

use warmline::backend::Forwarded;

use crate::support::client::Client;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Request};
use crate::{OK, answer};

/// What the backend sees of a request with these header lines.
fn seen(proxy: &TestProxy, backend: &Backend, lines: &str) -> Request {
    let mut client = Client::connect(proxy.addr());
    client.send(format!("GET / HTTP/1.1\r\n{lines}\r\n"));
    assert_eq!(client.response().status, 200, "{lines}");
    backend.requests().pop().expect("it was answered")
}

fn all<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    request
        .headers
        .iter()
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect()
}

#[test]
fn names_keep_their_case_from_the_backend_to_the_client() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nETag: 1\r\nWWW-Authenticate: 2\r\nx-lower: 3\r\nX-MIXED-case: 4\r\n\
         CONTENT-length: 2\r\nX-UA-Compatible: 5\r\n\r\nok",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let response = Client::connect(proxy.addr()).get("/");
    for line in [
        "\r\nETag: 1\r\n",
        "\r\nWWW-Authenticate: 2\r\n",
        "\r\nx-lower: 3\r\n",
        "\r\nX-MIXED-case: 4\r\n",
        "\r\nCONTENT-length: 2\r\n",
        "\r\nX-UA-Compatible: 5\r\n",
    ] {
        assert!(response.head.contains(line), "{line:?}: {}", response.head);
    }
}

#[test]
fn names_keep_their_case_from_the_client_to_the_backend() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let request = seen(
        &proxy,
        &backend,
        "hOST: a\r\nX-API-key: 1\r\nx-lower: 2\r\nDNT: 3\r\n",
    );
    for name in ["hOST", "X-API-key", "x-lower", "DNT"] {
        assert!(request.names().contains(&name), "{:?}", request.names());
    }
}

#[test]
fn repeated_headers_stay_lines_of_their_own_in_their_order() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nSet-Cookie: z=1; Path=/\r\nX-Between: 0\r\nset-cookie: a=2, b\r\n\
         Set-Cookie: m=3\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Many: 3\r\nX-Many: 1\r\nx-many: 2\r\n\r\n");
    let response = client.response();
    assert_eq!(
        response.all("Set-Cookie"),
        ["z=1; Path=/", "a=2, b", "m=3"],
        "{}",
        response.head
    );
    assert_eq!(all(&backend.requests()[0], "X-Many"), ["3", "1", "2"]);
}

#[test]
fn unusual_reasons_statuses_and_values_pass() {
    for (line, expected) in [
        ("200 Fine With Me", "HTTP/1.1 200 Fine With Me\r\n"),
        ("299 Strange", "HTTP/1.1 299 Strange\r\n"),
        ("599 x", "HTTP/1.1 599 x\r\n"),
        ("404 Not Found", "HTTP/1.1 404 Not Found\r\n"),
        ("418 ", "HTTP/1.1 418 "),
        ("999 Away", "HTTP/1.1 999 Away\r\n"),
    ] {
        let backend = Backend::answering(format!(
            "HTTP/1.1 {line}\r\nX-Latin: caf\u{e9}\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nok"
        ));
        let proxy = TestProxy::to(backend.addr).start();
        let response = Client::connect(proxy.addr()).get("/");
        assert!(response.head.starts_with(expected), "{}", response.head);
        assert_eq!(response.header("X-Empty"), Some(""), "{}", response.head);
        assert_eq!(response.text(), "ok");
    }
}

#[test]
fn nothing_hop_by_hop_passes_to_the_backend() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.forwarded = Forwarded::Off)
        .start();
    let request = seen(
        &proxy,
        &backend,
        "Host: a\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nconnection: x-other\r\n\
         X-Other: 2\r\nX-Kept: 3\r\n",
    );
    let mut names = request.names();
    names.sort_unstable();
    // The connection's first request asks that it be kept; that is ours.
    assert_eq!(names, ["Connection", "Host", "X-Kept"], "{}", request.head);
    assert_eq!(request.header("Connection"), Some("keep-alive"));
    let request = seen(&proxy, &backend, "Host: a\r\nConnection: keep-alive\r\n");
    assert_eq!(request.names(), ["Host"], "{}", request.head);
}

#[test]
fn a_connection_header_cannot_remove_what_frames_or_addresses_the_request() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| answer(&request.body));
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length\r\n\
         Content-Length: 3\r\n\r\nabc",
    );
    assert_eq!(client.response().text(), "abc");
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().text(), "abc");
    assert_eq!(backend.requests()[0].header("Host"), Some("a"));
}

#[test]
fn nothing_hop_by_hop_passes_to_the_client() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Connection: close\r\nUpgrade: h2c\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    let response = client.get("/");
    let mut names: Vec<_> = response
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["Content-Length", "Date", "X-Kept"],
        "{}",
        response.head
    );
    crate::assert_serves(&mut client);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_date_is_added_where_the_backend_gave_none_and_kept_where_it_did() {
    let date = "Thu, 01 Jan 1970 00:00:00 GMT";
    let backend = Backend::start(move |mut conn| {
        conn.serve(|request| {
            let head = if request.line().contains("dated") {
                format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nServer: mine\r\n")
            } else {
                "HTTP/1.1 200 OK\r\n".to_owned()
            };
            format!("{head}Content-Length: 0\r\n\r\n").into()
        });
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    let dated = client.get("/dated");
    assert_eq!(dated.all("Date"), [date]);
    assert_eq!(dated.all("Server"), ["mine"]);
    let plain = client.get("/plain");
    assert_eq!(plain.all("Date").len(), 1);
    assert!(plain.all("Server").is_empty());
}

#[test]
fn the_backend_is_told_of_the_client_as_the_setting_says() {
    let sent = "Host: shop:81\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                X-Forwarded-Host: other\r\nForwarded: for=203.0.113.9\r\n";
    let ours = "for=127.0.0.1;host=\"shop:81\";proto=http";
    let both = format!("for=203.0.113.9, {ours}");
    for (setting, x, forwarded) in [
        (
            Forwarded::XForwarded,
            ["203.0.113.9, 127.0.0.1", "http", "shop:81"],
            "for=203.0.113.9",
        ),
        (
            Forwarded::Rfc7239,
            ["203.0.113.9", "https", "other"],
            both.as_str(),
        ),
        (
            Forwarded::Both,
            ["203.0.113.9, 127.0.0.1", "http", "shop:81"],
            both.as_str(),
        ),
        (
            Forwarded::Off,
            ["203.0.113.9", "https", "other"],
            "for=203.0.113.9",
        ),
    ] {
        let backend = Backend::answering(OK);
        let proxy = TestProxy::to(backend.addr)
            .upstream(|upstream| upstream.forwarded = setting)
            .start();
        let request = seen(&proxy, &backend, sent);
        assert_eq!(all(&request, "X-Forwarded-For"), [x[0]], "{setting:?}");
        assert_eq!(all(&request, "X-Forwarded-Proto"), [x[1]], "{setting:?}");
        assert_eq!(all(&request, "X-Forwarded-Host"), [x[2]], "{setting:?}");
        assert_eq!(all(&request, "Forwarded"), [forwarded], "{setting:?}");
    }
}

#[test]
fn the_host_is_kept_unless_the_backends_own_is_asked_for() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let request = seen(&proxy, &backend, "Host: Shop.example:81\r\n");
    assert_eq!(all(&request, "Host"), ["Shop.example:81"]);
    assert_eq!(request.header("X-Forwarded-Host"), Some("Shop.example:81"));

    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.preserve_host = false)
        .start();
    let request = seen(&proxy, &backend, "Host: Shop.example:81\r\n");
    assert_eq!(all(&request, "Host"), [backend.addr.to_string()]);
    assert_eq!(request.header("X-Forwarded-Host"), Some("Shop.example:81"));
}
