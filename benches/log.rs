//! What a line of the access log costs the worker that notes it, its share of handing buffers over
//! included.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderValue, Method, Version};
use warmline::account::{Arm, Asked, Connection, Exchange, Outcome, Upstream};
use warmline::log::{self, Destination, Format, Settings};

fn asked() -> Asked {
    Asked {
        method: Method::GET,
        target: "/articles/2026/keep-alive?page=2"
            .parse()
            .expect("a target"),
        version: Version::HTTP_11,
        host: Some(HeaderValue::from_static("shop.example")),
        referer: Some(HeaderValue::from_static("https://shop.example/articles/")),
        user_agent: Some(HeaderValue::from_static(
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        )),
    }
}

fn note(c: &mut Criterion) {
    let asked = asked();
    let backend = SocketAddr::from(([10, 0, 0, 5], 80));
    let exchange = Exchange {
        client: ([192, 0, 2, 7], 40123).into(),
        client_exchange: 3,
        client_kept: true,
        asked: Some(&asked),
        status: 200,
        received: 0,
        sent: 5123,
        outcome: Outcome::Answered,
        total: Duration::from_micros(12_345),
        upstream: Some(Upstream {
            name: "app",
            arm: Arm::Pooled,
            backend: Some(&backend),
            connection: Some(Connection {
                id: 180_123,
                exchange: 4,
                idle: Some(Duration::from_micros(1500)),
                connect: None,
                local_port: Some(40_001),
                closed: None,
            }),
            checkout: Some(Duration::from_micros(17)),
            first_byte: Some(Duration::from_millis(12)),
            sent_again: 0,
            again_since: None,
        }),
    };
    let mut group = c.benchmark_group("log/note");
    group.throughput(Throughput::Elements(1));
    for (name, format) in [
        ("combined", Format::Combined),
        ("extended", Format::Extended),
        ("json", Format::Json),
    ] {
        let settings = Settings {
            to: Destination::File("/dev/null".into()),
            format,
            flush: Settings::FLUSH,
        };
        let (log, sinks) = log::start(&settings, 1).expect("there is a /dev/null");
        let sink = &sinks[0];
        group.bench_function(name, |b| b.iter(|| sink.note(black_box(&exchange))));
        drop(sinks);
        log.join();
    }
    group.finish();
}

criterion_group!(benches, note);
criterion_main!(benches);
