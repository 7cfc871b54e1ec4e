//! What an operator's programs are told: is it well, is it ready, what does it count.

use std::net::SocketAddr;

use warmline::admin::Admin;

use crate::proxy::{GET, Proxy, ask, ms};
use crate::support::client::{Client, get};
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, local, wait_until};

/// Its admin listener.
pub fn admin(proxy: &Proxy) -> Admin {
    let server = proxy.server();
    Admin::start(local(0), server.control(), server.addresses()).unwrap()
}

/// The figure that stands on the page under this name and these labels.
pub fn figure(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .map(|value| value.parse().unwrap())
}

/// The page.
pub fn metrics(admin: SocketAddr) -> String {
    let response = get(admin, "/metrics");
    assert_eq!(response.status, 200);
    let kind = response.header("Content-Type").unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    response.text()
}

#[test]
fn the_metrics_count_what_happened_and_what_the_kernel_has() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    let of = format!("upstream=\"app\",backend=\"{}\"", backend.addr);
    let page = metrics(admin.address());
    for (series, value) in [
        (format!("warmline_backend_requests_total{{{of}}}"), 5.0),
        (format!("warmline_backend_connects_total{{{of}}}"), 1.0),
        (format!("warmline_backend_reuses_total{{{of}}}"), 4.0),
        (
            format!("warmline_backend_port_seconds_saved_total{{{of}}}"),
            240.0,
        ),
        (
            format!("warmline_backend_connections{{{of},state=\"idle\"}}"),
            1.0,
        ),
        (
            format!("warmline_backend_connections{{{of},state=\"leased\"}}"),
            0.0,
        ),
        ("warmline_client_connections".to_owned(), 1.0),
        ("warmline_workers".to_owned(), 1.0),
    ] {
        assert_eq!(figure(&page, &series), Some(value), "{series} in\n{page}");
    }
    // The kernel is asked once a second.
    let sockets = |side: &str, address: SocketAddr| {
        format!(
            "warmline_tcp_sockets{{address=\"{address}\",side=\"{side}\",state=\"ESTABLISHED\"}}"
        )
    };
    wait_until(PATIENCE, "the kernel's figures", || {
        let page = metrics(admin.address());
        [
            sockets("proxy", backend.addr),
            sockets("backend", backend.addr),
            sockets("listener", proxy.addr),
        ]
        .iter()
        .all(|series| figure(&page, series) == Some(1.0))
    });
    let page = metrics(admin.address());
    let ports = figure(&page, "warmline_local_ports").unwrap();
    let left = format!(
        "warmline_local_ports_left{{source=\"127.0.0.1\",backend=\"{}\"}}",
        backend.addr
    );
    // Sockets of another test may rest towards the same address: its port was free again.
    let towards = format!(
        "warmline_tcp_sockets{{address=\"{}\",side=\"proxy\"",
        backend.addr
    );
    let used: f64 = page
        .lines()
        .filter(|line| line.starts_with(&towards))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert!(used >= 1.0);
    assert_eq!(figure(&page, &left), Some(ports - used));
}

#[test]
fn every_figure_stands_under_its_help_and_its_type_once() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    assert_eq!(ask(&mut proxy.client(), GET).status, 200);
    let page = metrics(admin.address());
    let mut families = std::collections::HashSet::new();
    let mut current = String::new();
    let mut series = std::collections::HashSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            assert!(families.insert(name.to_owned()), "{name} is there twice");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next(), Some(current.as_str()), "{line}");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(series.insert(name.to_owned()), "{name} is there twice");
        }
    }
    assert!(families.len() > 15, "{page}");
}

#[test]
fn it_is_ready_until_it_is_told_to_stop_and_healthy_until_it_ends() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.request();
            conn.pause(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.shutdown_timeout = PATIENCE;
    });
    let admin = admin(&proxy);
    let status = |path| get(admin.address(), path).status;
    assert_eq!((status("/healthz"), status("/readyz")), (200, 200));
    let mut client = proxy.client();
    client.send(GET);
    gate.wait_reached(1);
    proxy.server().stop();
    assert_eq!((status("/healthz"), status("/readyz")), (200, 503));
    gate.open();
    assert_eq!(client.response().status, 200);
}

#[test]
fn nothing_else_is_answered_there() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    assert_eq!(get(admin.address(), "/").status, 200);
    assert_eq!(get(admin.address(), "/other").status, 404);
    let mut client = Client::connect(admin.address());
    client.send("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 405);
    assert_eq!(response.header("Allow"), Some("GET, HEAD"));
    assert!(backend.requests().is_empty());
    assert!(client.end_within(ms(1)) != crate::support::client::Ended::Reset);
}
