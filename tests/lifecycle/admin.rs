//! What an operator's programs are told: is it well, is it ready, what does it count.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use warmline::admin::Admin;
use warmline::server::{AdminAddress, AdminSettings};

use crate::program::Program;
use crate::proxy::{GET, Proxy, ask, ms};
use crate::support::client::{Client, Ended, get};
use crate::support::scripted::{Backend, Gate, Refusing};
use crate::support::{PATIENCE, local, wait_until};

/// The admin listener of a proxy, on a port of its own.
pub struct Listening(Admin);

impl Listening {
    pub fn address(&self) -> SocketAddr {
        self.0.address().ip().unwrap()
    }
}

/// Its admin listener.
pub fn admin(proxy: &Proxy) -> Listening {
    let server = proxy.server();
    Listening(Admin::start(local(0), server.control()).unwrap())
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
            let is_of_it = |name: &str| {
                let rest = name.strip_prefix(&current);
                rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
            };
            assert!(name.split('{').next().is_some_and(is_of_it), "{line}");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(series.insert(name.to_owned()), "{name} is there twice");
        }
    }
    assert!(families.len() > 15, "{page}");
}

/// What stands in `docs/measure.md` of a family: its line in the table.
fn told_in_the_document(name: &str) -> Option<&'static str> {
    let document = include_str!("../../docs/measure.md");
    let row = document
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| `{name}` | ")))?;
    Some(row.strip_suffix(" |").unwrap_or(row))
}

#[test]
fn the_document_says_of_each_family_what_the_page_says() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.admin = Some(local(0).into());
    });
    let admin = admin(&proxy);
    let mut page = String::new();
    wait_until(PATIENCE, "the kernel's figures", || {
        page = metrics(admin.address());
        page.contains("warmline_tcp_sockets")
    });
    let mut on_page = 0;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert_eq!(told_in_the_document(name), Some(help), "{name}");
            on_page += 1;
        }
    }
    let document = include_str!("../../docs/measure.md");
    let in_document = document
        .lines()
        .filter(|line| line.starts_with("| `warmline_") || line.starts_with("| `process_"))
        .count();
    assert_eq!(on_page, in_document, "the document has more");
}

#[test]
fn each_exchange_is_counted_once_by_how_it_ended() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            while let Some(request) = conn.request() {
                match request.line() {
                    "GET /short HTTP/1.1" => {
                        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
                        return;
                    }
                    "GET /never HTTP/1.1" => conn.pause(&gate),
                    "POST / HTTP/1.1" => {
                        conn.send("HTTP/1.1 204 No Content\r\n\r\n");
                    }
                    _ => {
                        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
                    }
                }
            }
        }
    });
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.routes[0].route.host = Some("test.example".to_owned());
    });
    let admin = admin(&proxy);
    let mut client = proxy.client();
    assert_eq!(ask(&mut client, GET).text(), "hello");
    let post = "POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 7\r\n\r\n1234567";
    assert_eq!(ask(&mut client, post).status, 204);
    // No route; and no request at all.
    assert_eq!(
        ask(&mut client, "GET / HTTP/1.1\r\nHost: other\r\n\r\n").status,
        404
    );
    assert_eq!(ask(&mut proxy.client(), "nonsense\r\n\r\n").status, 400);
    // A response that breaks off, and a client that does not wait.
    let mut broken = proxy.client();
    broken.send("GET /short HTTP/1.1\r\nHost: test.example\r\n\r\n");
    assert!(!broken.response().complete);
    let mut leaving = proxy.client();
    leaving.send("GET /never HTTP/1.1\r\nHost: test.example\r\n\r\n");
    gate.wait_reached(1);
    let page = metrics(admin.address());
    assert_eq!(figure(&page, "warmline_requests_in_flight"), Some(1.0));
    leaving.reset();
    wait_until(PATIENCE, "the end of the last", || {
        let page = metrics(admin.address());
        figure(&page, "warmline_requests_in_flight") == Some(0.0)
    });
    gate.open();
    let page = metrics(admin.address());
    let of = format!("upstream=\"app\",backend=\"{}\"", backend.addr);
    for (outcome, class, all, of_backend) in [
        ("answered", "2xx", Some(2.0), Some(2.0)),
        ("broken_off", "2xx", Some(1.0), Some(1.0)),
        ("client_gone", "none", Some(1.0), Some(1.0)),
        ("refused", "4xx", Some(2.0), None),
        ("answered", "4xx", None, None),
    ] {
        let labels = format!("outcome=\"{outcome}\",class=\"{class}\"");
        let series = format!("warmline_responses_total{{{labels}}}");
        assert_eq!(figure(&page, &series), all, "{series} in\n{page}");
        let series = format!("warmline_backend_responses_total{{{of},{labels}}}");
        assert_eq!(figure(&page, &series), of_backend, "{series} in\n{page}");
    }
    let count = |family: &str| figure(&page, &format!("{family}_count{{upstream=\"app\"}}"));
    for (family, times) in [
        ("warmline_upstream_request_seconds", 4.0),
        ("warmline_upstream_checkout_seconds", 4.0),
        // The last had none.
        ("warmline_upstream_first_byte_seconds", 3.0),
        ("warmline_upstream_connect_call_seconds", 2.0),
        ("warmline_upstream_connect_seconds", 2.0),
        ("warmline_upstream_idle_at_reuse_seconds", 2.0),
    ] {
        assert_eq!(count(family), Some(times), "{family} in\n{page}");
    }
    // What could not be read as a request took no time.
    assert_eq!(figure(&page, "warmline_request_seconds_count"), Some(5.0));
    let read = figure(&page, "warmline_received_body_bytes_total");
    assert_eq!(read, Some(7.0));
    let text = ask(&mut client, "GET / HTTP/1.1\r\nHost: other\r\n\r\n");
    let handed_over = 5 + 2 + text.body.len();
    let sent = figure(&page, "warmline_sent_body_bytes_total");
    #[allow(clippy::cast_precision_loss)]
    let handed_over = handed_over as f64;
    assert_eq!(sent, Some(handed_over));
}

#[test]
fn a_connection_that_cannot_be_opened_is_counted_by_why() {
    let refusing = Refusing::start();
    let proxy = Proxy::start(refusing.addr, |_| {});
    let admin = admin(&proxy);
    assert_eq!(ask(&mut proxy.client(), GET).status, 502);
    let page = metrics(admin.address());
    let of = format!("upstream=\"app\",backend=\"{}\"", refusing.addr);
    for (reason, count) in [("refused", 1.0), ("no_local_port", 0.0), ("given_up", 0.0)] {
        let series = format!("warmline_backend_connect_failures_total{{{of},reason=\"{reason}\"}}");
        assert_eq!(figure(&page, &series), Some(count), "{series} in\n{page}");
    }
    let series =
        format!("warmline_backend_responses_total{{{of},outcome=\"refused\",class=\"5xx\"}}");
    assert_eq!(figure(&page, &series), Some(1.0), "{page}");
}

#[test]
fn openmetrics_is_spoken_to_who_asks_for_it() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut client = Client::connect(admin.address());
    client.send(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
    );
    let response = client.response();
    assert_eq!(
        response.header("Content-Type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let page = response.text();
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    assert!(page.contains("# TYPE warmline_backend_requests counter\n"));
    assert!(page.contains("\nwarmline_backend_requests_total{"));
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
    let other = get(admin.address(), "/other");
    assert_eq!(other.status, 404);
    for path in ["/metrics", "/snapshot", "/events", "/healthz"] {
        assert!(other.text().contains(path), "{}", other.text());
    }
    let mut client = Client::connect(admin.address());
    client.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 405);
    assert_eq!(response.header("Allow"), Some("GET, HEAD"));
    assert!(backend.requests().is_empty());
    assert!(client.end_within(ms(1)) != Ended::Reset);
}

fn json(admin: SocketAddr, path: &str) -> Value {
    let response = get(admin, path);
    assert_eq!(response.status, 200, "{path}");
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn the_snapshot_has_the_pools_each_connection_the_states_and_the_ports() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    let mut all = Value::Null;
    wait_until(PATIENCE, "the kernel's figures, and a rate", || {
        all = json(admin.address(), "/snapshot");
        let upstream = &all["upstreams"][0];
        let towards = &upstream["backends"][0]["states"]["towards"];
        towards["ESTABLISHED"] == 1 && upstream["requests_per_second"].is_number()
    });
    assert_eq!(all["clients"]["open"], 1);
    assert_eq!(
        (&all["workers"], &all["stopping"]),
        (&1.into(), &false.into())
    );
    let upstream = &all["upstreams"][0];
    assert_eq!(upstream["name"], "app");
    assert_eq!(upstream["arm"], "pooled");
    let of = &upstream["backends"][0];
    assert_eq!(of["address"], backend.addr.to_string());
    for (key, value) in [
        ("requests_total", 5),
        ("connects_total", 1),
        ("reuses_total", 4),
    ] {
        assert_eq!(of[key], value, "{key}");
    }
    let cells = of["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 1);
    assert_eq!(
        (&cells[0]["state"], &cells[0]["requests"]),
        (&"idle".into(), &5.into())
    );
    assert_eq!(cells[0]["worker"], 0);
    let [age, idle] = ["age_seconds", "idle_seconds"].map(|key| cells[0][key].as_f64().unwrap());
    assert!(age >= idle && age < PATIENCE.as_secs_f64(), "{age} {idle}");
    let lane = &of["ports"][0];
    let sum: u64 = ["in_use", "time_wait", "left"]
        .iter()
        .map(|key| lane[key].as_u64().unwrap())
        .sum();
    assert_eq!(lane["ports"], sum);
    assert_eq!(all["listeners"][0]["address"], proxy.addr.to_string());
    assert_eq!(all["listeners"][0]["states"]["ESTABLISHED"], 1);
    assert!(all["census"]["seconds"].is_number());

    // The parts have the same, each its own.
    for (path, key, other) in [
        ("/pools", "cells", "states"),
        ("/states", "states", "ports"),
        ("/ports", "ports", "cells"),
    ] {
        let part = json(admin.address(), path);
        let of = &part["upstreams"][0]["backends"][0];
        assert!(!of[key].is_null() && of[other].is_null(), "{path}: {part}");
    }
    let past = json(admin.address(), "/history");
    let past = &past["upstreams"][0];
    let points = past["time"].as_array().unwrap().len();
    assert!(points > 0);
    for list in ["requests_per_second", "connects_per_second"] {
        assert_eq!(past[list].as_array().unwrap().len(), points);
    }
}

#[test]
fn a_connection_in_use_is_shown_as_such() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.request();
            conn.pause(&gate);
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut client = proxy.client();
    client.send(GET);
    gate.wait_reached(1);
    let pools = json(admin.address(), "/pools");
    let cells = &pools["upstreams"][0]["backends"][0]["cells"];
    assert_eq!(cells[0]["state"], "leased", "{pools}");
    assert_eq!(cells[0]["requests"], 1);
    assert_eq!(cells[0]["idle_seconds"].as_f64(), Some(0.0));
    gate.open();
    assert_eq!(client.response().status, 200);
}

/// The kernel has the sockets of such an address under the one of IPv4.
#[test]
fn a_backend_at_an_ipv4_address_in_ipv6_has_its_ports_too() {
    let backend = Backend::numbered();
    let IpAddr::V4(ip) = backend.addr.ip() else {
        panic!("it listens on 127.0.0.1");
    };
    let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), backend.addr.port());
    let proxy = Proxy::start(mapped, |_| {});
    let admin = admin(&proxy);
    let mut client = proxy.client();
    assert_eq!(ask(&mut client, GET).status, 200);
    wait_until(PATIENCE, "the ports", || {
        let snapshot = json(admin.address(), "/snapshot");
        let shown = &snapshot["upstreams"][0]["backends"][0];
        shown["ports"][0]["in_use"] == 1 && shown["states"]["towards"]["ESTABLISHED"] == 1
    });
}

/// The snapshots that come over a connection that follows the events.
struct Events {
    stream: std::net::TcpStream,
    text: String,
}

impl Events {
    fn follow(admin: SocketAddr) -> Events {
        let mut stream = std::net::TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        Events {
            stream,
            text: String::new(),
        }
    }

    /// Reads until there is `wanted`; the text so far.
    fn read_until(&mut self, wanted: &str) -> &str {
        let mut bytes = [0; 4096];
        while !self.text.contains(wanted) {
            let length = self.stream.read(&mut bytes).unwrap();
            assert!(length > 0, "it ended: {}", self.text);
            self.text += &String::from_utf8_lossy(&bytes[..length]);
        }
        &self.text
    }
}

#[test]
fn events_are_told_every_second_to_those_who_follow_and_to_no_more_than_sixteen() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut followers: Vec<_> = (0..16).map(|_| Events::follow(admin.address())).collect();
    for follower in &mut followers {
        let head = follower.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("text/event-stream"), "{head}");
    }
    let refused = get(admin.address(), "/events");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("16"), "{}", refused.text());

    assert_eq!(ask(&mut proxy.client(), GET).status, 200);
    followers[0].read_until("\"requests_total\":1");
    let events = followers[0].text.matches("data: {").count();
    assert!(events > 1, "{events}");

    // One who leaves makes room.
    drop(followers.pop());
    wait_until(PATIENCE, "room for another", || {
        let mut events = Events::follow(admin.address());
        let head = events.read_until("\r\n\r\n");
        head.starts_with("HTTP/1.1 200")
    });
}

#[test]
fn a_crowd_of_connections_keeps_nobody_out_and_takes_no_more_than_128() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let admin = admin(&proxy);
    let mut follower = Events::follow(admin.address());
    follower.read_until("data: {");
    let mut crowd: Vec<_> = (0..300).map(|_| Client::connect(admin.address())).collect();
    assert_eq!(get(admin.address(), "/healthz").status, 200);
    for early in &mut crowd[..150] {
        assert_eq!(
            early.end_within(PATIENCE),
            Ended::Fin,
            "the oldest give way"
        );
    }
    // Who follows is not among them.
    follower.text.clear();
    follower.read_until("data: {");
    let late = crowd.last_mut().unwrap();
    late.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(late.response().status, 200);
}

#[test]
fn only_requests_for_this_machine_are_answered_unless_it_is_public() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let server = proxy.server();
    for public in [false, true] {
        let settings = AdminSettings {
            address: AdminAddress::Ip(local(0)),
            public,
        };
        let admin = Admin::start(settings, server.control()).unwrap();
        let address = admin.address().ip().unwrap();
        let status = |head: &str| {
            let mut client = Client::connect(address);
            client.send(format!("GET {head}\r\n\r\n"));
            client.response().status
        };
        let other = if public { 200 } else { 421 };
        for (head, wanted) in [
            ("/healthz HTTP/1.1\r\nHost: localhost".to_owned(), 200),
            (format!("/healthz HTTP/1.1\r\nHost: {address}"), 200),
            ("/healthz HTTP/1.0".to_owned(), 200),
            ("/healthz HTTP/1.1\r\nHost: evil.example".to_owned(), other),
            (
                "/snapshot HTTP/1.1\r\nHost: evil.example:9180".to_owned(),
                other,
            ),
            (
                "http://evil.example/healthz HTTP/1.1\r\nHost: localhost".to_owned(),
                other,
            ),
            ("/healthz HTTP/1.1\r\nHost: \u{e9}".to_owned(), other),
        ] {
            assert_eq!(status(&head), wanted, "{head} public={public}");
        }
        let cross = "/events HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site";
        assert_eq!(status(cross), 403);
    }
}

#[test]
fn a_unix_socket_is_one_too() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    let server = proxy.server();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let settings = || AdminSettings {
        address: AdminAddress::Unix(path.clone()),
        public: false,
    };
    let admin = Admin::start(settings(), server.control()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
    let second = Admin::start(settings(), server.control());
    let error = second.err().unwrap().to_string();
    assert_eq!(error, "another process listens there");
    drop(admin);
    assert!(!path.exists());
}

#[test]
fn the_listeners_are_those_that_there_are_after_a_reload_too() {
    let backend = Backend::numbered();
    let file = |listeners: &[&str]| {
        let listeners: Vec<_> = listeners
            .iter()
            .map(|address| format!("[[listeners]]\naddress = \"{address}:0\"\n"))
            .collect();
        let listeners = listeners.concat();
        format!(
            "[server]\nworkers = 1\n[admin]\naddress = \"127.0.0.1:0\"\n{listeners}\
             [upstreams.app]\nservers = [\"{}\"]\n",
            backend.addr
        )
    };
    let program = Program::with_file(&file(&["127.0.0.1"]));
    let address = admin_of(&program);
    let shown = || {
        let listeners = json(address, "/states")["listeners"].clone();
        let listeners = listeners.as_array().unwrap().clone();
        let ip = |one: &Value| {
            one["address"]
                .as_str()?
                .split(':')
                .next()
                .map(str::to_owned)
        };
        listeners.iter().filter_map(ip).collect::<Vec<_>>()
    };
    wait_until(PATIENCE, "the listener", || shown() == ["127.0.0.1"]);
    program.reload(&file(&["127.0.0.1", "127.0.0.2"]));
    wait_until(PATIENCE, "the one that has come", || {
        shown() == ["127.0.0.1", "127.0.0.2"]
    });
    program.reload(&file(&["127.0.0.2"]));
    wait_until(PATIENCE, "the one that stays", || shown() == ["127.0.0.2"]);
}

/// Where a program's admin listener is, as its log says.
fn admin_of(program: &Program) -> SocketAddr {
    program.wait_for_log("admin on http://");
    let log = program.log();
    let address = log.split("admin on http://").nth(1).unwrap();
    address.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_settings_in_effect_are_shown_and_again_after_a_reload() {
    let backend = Backend::numbered();
    let file = |timeout: &str, admin: u16| {
        format!(
            "[server]\nworkers = 1\n[admin]\naddress = \"127.0.0.1:{admin}\"\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.app]\n\
             servers = [\"{}\"]\nkeep_alive_timeout = \"{timeout}\"\n",
            backend.addr
        )
    };
    let program = Program::with_file(&file("7s", 0));
    let address = admin_of(&program);
    let shown = || json(address, "/config");
    let timeout =
        |shown: &Value| shown["upstreams"][0]["settings"]["keep_alive_timeout"]["value"].clone();
    let before = shown();
    assert_eq!(timeout(&before), "7s");
    assert_eq!(before["server"]["workers"]["value"], 1);
    assert_eq!(before["client"]["timeout"]["default"], true);
    program.reload(&file("9s", 1));
    wait_until(PATIENCE, "the new settings", || timeout(&shown()) == "9s");
    // That takes a restart.
    assert_eq!(shown()["admin"], before["admin"]);
}
