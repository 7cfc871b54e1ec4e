//! What reading and rewriting the heads of an exchange costs, and finding its route.
//!
//! The heads are a browser's request and an application's response, in `http`'s types, as hyper
//! hands them over; cloning the head, which each round needs, is measured beside it.
//! `cargo bench --bench headers`; `benches/README.md` has the figures.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderValue, Request, Response, request, response};
use warmline::backend::Forwarded;
use warmline::client::Limits;
use warmline::keepalive::KeepAlive;
use warmline::proxy::headers::{
    ClientConnection, Introduction, RequestFacts, Wish, forward_request, forward_response,
    say_connection,
};
use warmline::route::Router;

const REQUEST: [(&str, &str); 13] = [
    ("host", "shop.example"),
    ("connection", "keep-alive"),
    ("cache-control", "max-age=0"),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("upgrade-insecure-requests", "1"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-mode", "navigate"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    (
        "cookie",
        "session=4f2a9c0d7be84b6c9a55f0c1d2e3f4a5; theme=dark; consent=1",
    ),
];

const RESPONSE: [(&str, &str); 9] = [
    ("date", "Tue, 10 Nov 2026 10:00:00 GMT"),
    ("server", "app"),
    ("content-type", "text/html; charset=utf-8"),
    ("content-length", "5123"),
    ("connection", "keep-alive"),
    ("keep-alive", "timeout=60"),
    ("vary", "Accept-Encoding"),
    ("cache-control", "private, no-cache"),
    ("set-cookie", "session=4f2a9c0d7be84b6c; Path=/; HttpOnly"),
];

fn request_head() -> request::Parts {
    let mut request = Request::builder().uri("/articles/2026/keep-alive?page=2");
    for (name, value) in REQUEST {
        request = request.header(name, value);
    }
    request.body(()).expect("the head is sound").into_parts().0
}

fn response_head() -> response::Parts {
    let mut response = Response::builder();
    for (name, value) in RESPONSE {
        response = response.header(name, value);
    }
    response.body(()).expect("the head is sound").into_parts().0
}

fn request(c: &mut Criterion) {
    let head = request_head();
    let limits = Limits::default();
    let client = HeaderValue::from_static("192.0.2.1");
    let address = HeaderValue::from_static("10.0.0.1:9000");
    let mut group = c.benchmark_group("headers/request");
    group.bench_function("clone", |b| b.iter(|| black_box(&head).clone()));
    group.bench_function("read", |b| {
        b.iter(|| RequestFacts::read(black_box(&head), &limits));
    });
    let facts = RequestFacts::read(&head, &limits).expect("the request is sound");
    for (name, forwarded) in [
        ("rewrite", Forwarded::XForwarded),
        ("rewrite, forwarded off", Forwarded::Off),
    ] {
        let introduction = Introduction {
            client: &client,
            is_believed: false,
            scheme: "http",
            subject: None,
            forwarded,
            host: None,
            address: &address,
            wish: Wish::None,
            upgrade: None,
            chunked: false,
        };
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || head.clone(),
                |parts| forward_request(black_box(parts), &facts, &introduction),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn response(c: &mut Criterion) {
    let head = response_head();
    let request = request_head();
    let facts = RequestFacts::read(&request, &Limits::default()).expect("the request is sound");
    let connection = ClientConnection {
        keep_alive: &KeepAlive::CLIENT,
        exchange: 1,
        length_known: true,
        ends: false,
    };
    let mut group = c.benchmark_group("headers/response");
    group.bench_function("clone", |b| b.iter(|| black_box(&head).clone()));
    group.bench_function("rewrite", |b| {
        b.iter_batched_ref(
            || head.clone(),
            |parts| {
                let ambiguous = forward_response(black_box(parts)).ambiguous;
                say_connection(&mut parts.headers, Some(&facts), &connection) && !ambiguous
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route/find");
    let one = Router::new([(None, "/", 0)]);
    group.bench_function("one route", |b| {
        b.iter(|| one.find(black_box(Some("shop.example")), black_box("/articles/2026")));
    });
    let hosts: Vec<String> = (0..100).map(|n| format!("site{n}.example")).collect();
    let routes = hosts.iter().enumerate().flat_map(|(n, host)| {
        let host = Some(host.as_str());
        [(host, "/", n), (host, "/api", n)]
    });
    let many = Router::new(routes);
    group.bench_function("200 routes, 100 hosts", |b| {
        b.iter(|| {
            many.find(
                black_box(Some("site42.example:8080")),
                black_box("/api/v1/x"),
            )
        });
    });
    group.finish();
}

criterion_group!(benches, request, response, route);
criterion_main!(benches);
