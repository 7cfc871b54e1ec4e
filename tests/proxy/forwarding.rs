//! Requests of every shape through to real servers and back.

use std::thread;

use crate::support::client::{Client, Ended};
use crate::support::httpd::Httpd;
use crate::support::nginx::{self, Nginx};
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, curl};
use crate::{OK, answer, get, post};

const ECHO: &str = r#"
    location / { return 200 "$request_method $request_uri $http_host $server_protocol"; }
"#;

fn curl_text(args: &[&str]) -> String {
    let output = curl(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_gets_from_nginx_what_nginx_was_asked_for() {
    let nginx = Nginx::start(ECHO);
    let proxy = TestProxy::to(nginx.addr).start();
    let base = format!("http://{}", proxy.addr());
    for (args, expected) in [
        (vec![], "GET /a/b%20c?x=1&y=%2F HOST HTTP/1.1"),
        (
            vec!["-X", "OPTIONS"],
            "OPTIONS /a/b%20c?x=1&y=%2F HOST HTTP/1.1",
        ),
        (vec!["-d", "body"], "POST /a/b%20c?x=1&y=%2F HOST HTTP/1.1"),
        (
            vec!["-X", "DELETE"],
            "DELETE /a/b%20c?x=1&y=%2F HOST HTTP/1.1",
        ),
        (
            vec!["-X", "PURGE"],
            "PURGE /a/b%20c?x=1&y=%2F HOST HTTP/1.1",
        ),
        (vec!["-0"], "GET /a/b%20c?x=1&y=%2F HOST HTTP/1.1"),
    ] {
        let url = format!("{base}/a/b%20c?x=1&y=%2F");
        let text = curl_text(&[args.as_slice(), &[&url]].concat());
        assert_eq!(text, expected.replace("HOST", &proxy.addr().to_string()));
    }
}

#[test]
fn curl_puts_a_file_into_nginx_and_gets_it_back() {
    let nginx = Nginx::start(nginx::UPLOADS);
    let proxy = TestProxy::to(nginx.addr).start();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &content).unwrap();
    let url = format!("http://{}/uploads/a", proxy.addr());
    let file = file.to_str().unwrap();

    // With Expect: 100-continue, by its length and chunked.
    for (args, status) in [
        (vec!["-T", file, "-H", "Expect: 100-continue"], "201"),
        (vec!["-T", file, "-H", "Transfer-Encoding: chunked"], "204"),
    ] {
        let args = [args.as_slice(), &["-w", "%{http_code}", &url]].concat();
        assert_eq!(curl_text(&args), status);
        assert_eq!(
            std::fs::read(nginx.files().join("uploads/a")).unwrap(),
            content
        );
        assert!(
            curl([&url]).stdout == content,
            "what comes back is the file"
        );
    }
}

#[test]
fn curl_as_a_client_of_a_forward_proxy_sends_absolute_targets_and_gets_its_answer() {
    let nginx = Nginx::start(ECHO);
    let proxy = TestProxy::to(nginx.addr).start();
    let through = format!("http://{}", proxy.addr());
    let args = [
        "--noproxy",
        "",
        "-x",
        &through,
        "http://some.example:81/p?q",
    ];
    assert_eq!(curl_text(&args), "GET /p?q some.example:81 HTTP/1.1");
}

#[test]
fn httpd_serves_files_heads_and_conditions_through_the_proxy() {
    let httpd = Httpd::start("");
    httpd.file("page", "a page");
    let proxy = TestProxy::to(httpd.addr).start();
    let mut client = Client::connect(proxy.addr());

    let whole = client.get("/page");
    assert_eq!((whole.status, whole.text().as_str()), (200, "a page"));
    let etag = whole
        .header("ETag")
        .expect("httpd gives an ETag")
        .to_owned();

    client.send("HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.response_to_head();
    assert_eq!(head.header("Content-Length"), Some("6"));
    assert_eq!(head.header("ETag"), Some(etag.as_str()));
    assert_eq!(head.ended, Ended::KeptOpen);

    client.send(format!(
        "GET /page HTTP/1.1\r\nHost: a\r\nIf-None-Match: {etag}\r\n\r\n"
    ));
    let unchanged = client.response();
    assert_eq!((unchanged.status, unchanged.length), (304, 0));
    assert_eq!(unchanged.header("ETag"), Some(etag.as_str()));

    client.send("GET /page HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\n\r\n");
    let part = client.response();
    assert_eq!((part.status, part.text().as_str()), (206, "pa"));
    assert_eq!(client.get("/none").status, 404);
    assert_eq!(
        httpd.log_of(5).iter().filter(|line| line.kept == 0).count(),
        1
    );
}

#[test]
fn request_targets_reach_the_backend_as_they_were_written() {
    let backend = Backend::start(|mut conn| conn.serve(|request| answer(request.line())));
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for (sent, got) in [
        ("GET /", "GET /"),
        ("GET /?", "GET /?"),
        ("GET /a//b/../c;d=e?f=g?h", "GET /a//b/../c;d=e?f=g?h"),
        ("GET /%00%2f%zz", "GET /%00%2f%zz"),
        ("OPTIONS *", "OPTIONS *"),
        ("POST /x", "POST /x"),
        ("M-SEARCH /x", "M-SEARCH /x"),
        ("GET http://test.example/abs?q", "GET /abs?q"),
        ("GET http://test.example", "GET /"),
        ("GET HTTP://test.example:80/", "GET /"),
    ] {
        client.send(format!("{sent} HTTP/1.1\r\nHost: test.example\r\n\r\n"));
        assert_eq!(
            client.response().text(),
            format!("{got} HTTP/1.1"),
            "{sent}"
        );
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn the_host_of_an_absolute_target_is_held_to_the_rules_of_the_header() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET http://user:secret@b.example/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert!(backend.requests().is_empty());
}

#[test]
fn a_client_of_version_1_0_is_served_once_or_kept_if_it_asks() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();

    let mut once = Client::connect(proxy.addr());
    once.send("GET /once HTTP/1.0\r\n\r\n");
    let response = once.response();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(response.header("Connection"), Some("close"));
    assert_eq!(response.ended, Ended::Fin);

    let mut kept = Client::connect(proxy.addr());
    for left in [100, 99] {
        kept.send("GET /kept HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = kept.response();
        assert_eq!(response.text(), "ok");
        assert_eq!(response.header("Connection"), Some("Keep-Alive"));
        let expected = format!("timeout=5, max={left}");
        assert_eq!(response.header("Keep-Alive"), Some(expected.as_str()));
        assert_eq!(response.ended, Ended::KeptOpen);
    }
    let seen = backend.requests();
    assert_eq!(seen[0].line(), "GET /once HTTP/1.1");
    assert_eq!(
        seen[0].header("Host"),
        Some(backend.addr.to_string().as_str())
    );
}

#[test]
fn heads_without_a_body_keep_their_headers_and_the_connection() {
    for (method, head, length) in [
        ("HEAD", "200 OK\r\nContent-Length: 12345", Some("12345")),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked", None),
        ("HEAD", "404 Not Found\r\nContent-Length: 7", Some("7")),
        ("GET", "204 No Content", None),
        ("DELETE", "204 No Content", None),
        ("GET", "304 Not Modified", None),
        ("GET", "200 OK\r\nContent-Length: 0", Some("0")),
    ] {
        let bytes = format!("HTTP/1.1 {head}\r\nETag: \"x\"\r\nX-Kept: yes\r\n\r\n");
        let backend = Backend::answering(bytes);
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = if method == "HEAD" {
                client.response_to_head()
            } else {
                client.response()
            };
            let context = format!("{method} {head:?}: {:?}", response.head);
            assert!(head.starts_with(&response.status.to_string()), "{context}");
            assert_eq!(response.header("Content-Length"), length, "{context}");
            assert_eq!(response.header("ETag"), Some("\"x\""), "{context}");
            assert_eq!(response.header("X-Kept"), Some("yes"), "{context}");
            assert_eq!(response.ended, Ended::KeptOpen, "{context}");
        }
        assert_eq!(backend.connections(), 1, "{method} {head}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| answer(format!("{} {}", request.line(), request.body.len())));
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    let mut all = String::new();
    for n in 0..20 {
        all += &get(&format!("/{n}"));
        all += &post(&format!("/{n}"), &"x".repeat(n * 100));
    }
    client.send(all);
    for n in 0..20 {
        assert_eq!(client.response().text(), format!("GET /{n} HTTP/1.1 0"));
        assert_eq!(
            client.response().text(),
            format!("POST /{n} HTTP/1.1 {}", n * 100)
        );
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_pipelined_request_waits_for_a_client_that_is_slow_to_read_the_answer_before_it() {
    const LARGE: usize = 12 << 20;
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            while let Some(request) = conn.request() {
                if request.line().contains("/large") {
                    conn.send(answer(vec![b'x'; LARGE]));
                } else {
                    conn.pause(&gate);
                    conn.send(answer("second"));
                }
            }
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/large") + &get("/second"));
    let response = client.response();
    assert_eq!((response.length, response.complete), (LARGE as u64, true));
    gate.wait_reached(1);
    gate.open();
    assert_eq!(client.response().text(), "second");
    crate::assert_serves(&mut client);
}

#[test]
fn clients_are_served_side_by_side() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            while let Some(request) = conn.request() {
                conn.pause(&gate);
                conn.send(answer(request.line()));
            }
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let addr = proxy.addr();
    let clients: Vec<_> = (0..16)
        .map(|n| thread::spawn(move || Client::connect(addr).get(&format!("/{n}")).text()))
        .collect();
    gate.wait_reached(16);
    assert_eq!(proxy.figures().counts.leased, 16);
    gate.open();
    for (n, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().unwrap(), format!("GET /{n} HTTP/1.1"));
    }
    assert_eq!(backend.connections(), 16);
    crate::support::wait_until(PATIENCE, "all to be idle", || {
        proxy.figures().counts.idle == 16
    });
}
