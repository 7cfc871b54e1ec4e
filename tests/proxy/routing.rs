//! Routes that do more than lead to an upstream: by the program that is shipped, with real clients and a real
//! nginx behind it.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::Program;
use crate::support::scripted::Backend;
use crate::{OK, answer};

/// What curl says: the body, and behind it what `-w` asks for.
fn curl(addr: SocketAddr, target: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "--path-as-is",
            "-k",
            "--connect-to",
        ])
        .arg(format!("::{}:{}", addr.ip(), addr.port()))
        .args(arguments)
        .arg(target)
        .output()
        .expect("curl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{target}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A backend that answers with the head that it was sent.
fn telling() -> Backend {
    Backend::start(|mut conn| conn.serve(|request| answer(&request.head)))
}

fn upstream(name: &str, addr: SocketAddr) -> String {
    format!("[upstreams.{name}]\nservers = [\"{addr}\"]\n")
}

#[test]
fn requests_are_told_apart_by_path_method_and_header() {
    let nginx = Nginx::start("location / { return 200 $http_x_route; }");
    let route = |name: &str, lines: &str| {
        format!(
            "[[routes]]\nupstream = \"app\"\n{lines}\n\
             request_headers = {{ set = {{ X-Route = \"{name}\" }} }}\n"
        )
    };
    let proxy = Program::run(&format!(
        "{}{}{}{}{}{}{}",
        route("all", ""),
        route("exact", "path_exact = \"/a/x.css\""),
        route("css", "path_regex = '\\.css$'"),
        route("a", "path = \"/a\""),
        route("a posted", "path = \"/a\"\nmethods = [\"POST\", \"PUT\"]"),
        route(
            "beta",
            "path = \"/a\"\nheaders = { Cookie = '~\\bbeta=1\\b' }"
        ),
        upstream("app", nginx.addr),
    ));
    for (target, arguments, expected) in [
        ("http://h/", [].as_slice(), "all"),
        ("http://h/a/x.css", &[], "exact"),
        ("http://h/a/x.css?v=1", &[], "exact"),
        ("http://h/a/y.css", &[], "css"),
        ("http://h/a/y.css/", &[], "a"),
        ("http://h/a", &["-d", "x"], "a posted"),
        ("http://h/a", &["-X", "DELETE"], "a"),
        ("http://h/a", &["-H", "Cookie: a=1; beta=1"], "beta"),
        ("http://h/a", &["-H", "Cookie: alphabeta=1"], "a"),
        ("http://h/a", &["-H", "X-Route: forged"], "a"),
        ("http://h/a/../b", &[], "a"),
        ("http://h/%61", &[], "all"),
    ] {
        assert_eq!(
            curl(proxy.addr, target, arguments),
            expected,
            "{target} {arguments:?}"
        );
    }
}

#[test]
fn the_backend_sees_the_path_rewritten() {
    let backend = telling();
    let proxy = Program::run(&format!(
        "[[routes]]\npath = \"/api\"\nupstream = \"app\"\nstrip_prefix = true\n\
         [[routes]]\npath_regex = '^/item/([0-9]+)(?:/([a-z]+))?$'\nupstream = \"app\"\n\
         rewrite = \"/show?item=$1&part=$2\"\n\
         [[routes]]\npath = \"/old\"\nupstream = \"app\"\nrewrite = \"/new$uri\"\n{}",
        upstream("app", backend.addr),
    ));
    for (target, line) in [
        ("/api", "GET / HTTP/1.1"),
        ("/api/", "GET / HTTP/1.1"),
        ("/api/a%20b?x=%2F", "GET /a%20b?x=%2F HTTP/1.1"),
        ("/item/12", "GET /show?item=12&part= HTTP/1.1"),
        ("/item/12/page?x", "GET /show?item=12&part=page HTTP/1.1"),
        ("/old/a?x=1", "GET /new/old/a?x=1 HTTP/1.1"),
        ("http://other.example/api/x", "GET /x HTTP/1.1"),
    ] {
        let mut client = Client::connect(proxy.addr);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let told = client.response().text();
        assert_eq!(told.lines().next(), Some(line), "{target}");
        let host = if target.starts_with('/') {
            "h"
        } else {
            "other.example"
        };
        let host = format!("host: {host}");
        assert!(told.to_lowercase().contains(&host), "{told}");
    }
}

#[test]
fn plain_requests_are_redirected_to_tls_and_curl_follows() {
    let backend = telling();
    let mut proxy = Program::run(&format!(
        "[[certificates]]\nself_signed = [\"shop.example\"]\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\ntls = true\n\
         [[routes]]\nscheme = \"http\"\nredirect = \"https://$host$request_uri\"\nredirect_status = 308\n\
         [[routes]]\npath = \"/a\"\nupstream = \"app\"\n{}",
        upstream("app", backend.addr),
    ));
    let tls = proxy.listens_on(2)[1];
    let said = curl(
        proxy.addr,
        "http://shop.example/a/b?x=1",
        &["-w", "%{http_code} %{redirect_url}"],
    );
    assert!(said.ends_with("308 https://shop.example/a/b?x=1"), "{said}");
    let plain = format!("shop.example:80:{}:{}", proxy.addr.ip(), proxy.addr.port());
    let secure = format!("shop.example:443:{}:{}", tls.ip(), tls.port());
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sSLk", "--max-time", "20", version, "-d", "kept"])
            .args(["--connect-to", &plain, "--connect-to", &secure])
            .arg("http://Shop.example/a/b?x=1")
            .output()
            .expect("curl is installed");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            told.starts_with("POST /a/b?x=1 HTTP/1.1"),
            "{version}: {told}"
        );
        assert!(
            told.to_lowercase().contains("x-forwarded-proto: https"),
            "{told}"
        );
    }
}

#[test]
fn a_redirect_stays_where_it_is_written() {
    let proxy = Program::run(
        "[[routes]]\npath_regex = '^/go/(.*)$'\nredirect = \"/$1\"\n\
         [[routes]]\nredirect = \"$request_uri\"\nredirect_status = 301\n\
         [upstreams.app]\nservers = [\"127.0.0.1:9\"]\n",
    );
    for (target, status, location) in [
        ("/go//evil.example/", 302, "/evil.example/"),
        ("//evil.example/x", 301, "/evil.example/x"),
        ("/a%0d%0aSet-Cookie:x", 301, "/a%0d%0aSet-Cookie:x"),
    ] {
        let mut client = Client::connect(proxy.addr);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status, status, "{target}: {}", response.head);
        assert_eq!(response.header("location"), Some(location), "{target}");
        assert_eq!(response.header("set-cookie"), None);
    }
}

#[test]
fn headers_are_set_added_and_removed_both_ways() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| {
            let length = request.head.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: secret\r\nX-Powered-By: secret\r\nVary: a\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            [head.as_bytes(), request.head.as_bytes()].concat()
        });
    });
    let proxy = Program::run(&format!(
        "[[routes]]\nupstream = \"app\"\n\
         request_headers = {{ set = {{ X-Real-IP = \"$remote_addr\", X-Url = \"$scheme://$host$request_uri\", \
         Host = \"app.example\", X-Id = \"$request_id\", X-Empty = \"$http_x_absent\" }}, \
         add = {{ X-Many = \"us\" }}, remove = [\"X-Debug\", \"X-Forwarded-Proto\"] }}\n\
         response_headers = {{ set = {{ Server = \"Warmline\", X-Id = \"$request_id\" }}, \
         add = {{ Vary = \"b\" }}, remove = [\"X-Powered-By\"] }}\n{}",
        upstream("app", backend.addr),
    ));
    let mut client = Client::connect(proxy.addr);
    let mut ids = Vec::new();
    for _ in 0..2 {
        client.send(
            "GET /a?b HTTP/1.1\r\nHost: Shop.example:81\r\nX-Debug: 1\r\nX-Many: one\r\nx-real-ip: forged\r\n\
             X-Empty: was here\r\n\r\n",
        );
        let response = client.response();
        let seen = backend.requests().pop().unwrap();
        let lines = |name: &str| -> Vec<String> {
            let all = seen.headers.iter();
            let named = all.filter(|(other, _)| other.eq_ignore_ascii_case(name));
            named.map(|(_, value)| value.clone()).collect()
        };
        assert_eq!(lines("X-Real-IP"), ["127.0.0.1"]);
        assert_eq!(lines("X-Url"), ["http://shop.example/a?b"]);
        assert_eq!(lines("Host"), ["app.example"]);
        assert_eq!(lines("X-Forwarded-Host"), ["Shop.example:81"]);
        assert_eq!(lines("X-Many"), ["one", "us"]);
        for gone in ["X-Debug", "X-Forwarded-Proto", "X-Empty"] {
            assert_eq!(lines(gone), [""; 0], "{gone}");
        }
        assert_eq!(response.all("Server"), ["Warmline"]);
        assert_eq!(response.all("Vary"), ["a", "b"]);
        assert_eq!(response.header("X-Powered-By"), None);
        let id = response.header("X-Id").unwrap().to_owned();
        assert_eq!(lines("X-Id"), [id.as_str()]);
        assert_eq!(id.len(), 32);
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_route_answers_by_itself_and_the_connection_is_kept() {
    let proxy = Program::run(
        "[[routes]]\npath = \"/health\"\nrespond = 200\nrespond_body = \"ok $uri\\n\"\n\
         [[routes]]\npath = \"/page\"\nrespond = 503\nrespond_body = \"<p>$http_x_name</p>\"\n\
         respond_type = \"text/html\"\n\
         [[routes]]\npath = \"/nothing\"\nrespond = 204\n\
         [[routes]]\npath = \"/down\"\nupstream = \"app\"\n\
         response_headers = { set = { X-Always = \"1\" } }\n\
         [upstreams.app]\nservers = [\"127.0.0.1:9\"]\n",
    );
    let mut client = Client::connect(proxy.addr);
    let response = client.get("/health/x");
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "ok /health/x\n")
    );
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    client.send("GET /page HTTP/1.1\r\nHost: h\r\nX-Name: <script>\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "<p>&lt;script&gt;</p>")
    );
    assert_eq!(response.header("content-type"), Some("text/html"));
    assert_eq!(client.get("/nothing").status, 204);
    let response = client.get("/down");
    assert_eq!(
        (response.status, response.header("x-always")),
        (502, Some("1"))
    );
    assert_eq!(client.get("/other").status, 404);
    assert_eq!(client.get("/health").status, 200, "it was kept all along");
    let head = curl(proxy.addr, "http://h/health", &["-I"]);
    assert!(head.to_lowercase().contains("content-length: 11"), "{head}");
}

#[test]
fn a_route_has_limits_and_times_of_its_own() {
    // One that never answers what it is asked on /slow.
    let backend = Backend::start(|mut conn| {
        while let Some(request) = conn.request() {
            if request.line().contains("/slow") {
                conn.wait_for_end();
                return;
            }
            conn.send(OK);
        }
    });
    let proxy = Program::run(&format!(
        "[client]\nlimit_request_body = 10\n\
         [[hosts]]\nnames = [\"h\"]\nmax_keep_alive_requests = 7\n\
         [[routes]]\nupstream = \"app\"\n\
         [[routes]]\npath = \"/large\"\nupstream = \"app\"\nlimit_request_body = 100\n\
         [[routes]]\npath = \"/once\"\nupstream = \"app\"\nkeep_alive = false\n\
         [[routes]]\npath = \"/slow\"\nupstream = \"app\"\nbackend_timeout = \"50ms\"\n{}",
        upstream("app", backend.addr),
    ));
    let mut client = Client::connect(proxy.addr);
    let mut post = |path: &str, length: usize| {
        let body = "x".repeat(length);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let response = client.response();
        if response
            .header("connection")
            .is_some_and(|it| it.eq_ignore_ascii_case("close"))
        {
            client = Client::connect(proxy.addr);
        }
        response.status
    };
    assert_eq!(post("/large", 100), 200);
    assert_eq!(post("/", 10), 200);
    assert_eq!(post("/", 11), 413, "the route before counts no more");
    assert_eq!(post("/large", 101), 413);
    let mut client = Client::connect(proxy.addr);
    assert_eq!(client.get("/slow").status, 504);
    let mut client = Client::connect(proxy.addr);
    let response = client.get("/once");
    assert_eq!(
        response
            .header("connection")
            .map(str::to_lowercase)
            .as_deref(),
        Some("close")
    );
    let mut client = Client::connect(proxy.addr);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(
        client.get("/large").status,
        200,
        "the connection is kept elsewhere"
    );
}
