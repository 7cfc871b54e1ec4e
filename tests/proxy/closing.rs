//! Closing with a reset destroys nothing that is still under way.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;

use socket2::SockRef;
use warmline::account::Close;
use warmline::backend::{self, ShortMode};
use warmline::net::CloseMode;

use crate::support::client::Client;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate, PeerEnd};
use crate::support::{PATIENCE, process, wait_until};
use crate::{OK, get, post};

/// More than the backend takes in unread, less than the proxy's send queue.
const BODY: usize = 32 << 10;

/// A backend that reads a request's head and answers when the first gate is open, and reads its body
/// when the second is. `fin`: the answer says that it closes, and it closes its direction.
fn early(gates: [&Gate; 2], fin: bool) -> Backend {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let [first, second] = gates.map(Gate::clone);
    Backend::on(listener, move |mut conn| {
        conn.pause(&first);
        let Some(request) = conn.head() else { return };
        if fin {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            conn.half_close();
        } else {
            conn.send(OK);
        }
        if request.header("content-length").is_some() {
            conn.pause(&second);
            let (length, complete) = conn.discard_body(&request);
            assert_eq!((length, complete), (BODY as u64, true), "the body arrives");
        }
        conn.wait_for_end();
    })
}

/// The bytes under way to the backend: in the proxy's send queue, and unread at the backend.
fn under_way(backend: SocketAddr) -> usize {
    let queue = |side: &str, column: usize| {
        let output = Command::new(process::find(&["ss"], "iproute2"))
            .args(["-HOtn", "state", "established", side, &backend.to_string()])
            .output()
            .expect("ss can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = text.lines();
        lines
            .map(|line| line.split_whitespace().nth(column).unwrap())
            .map(|bytes| bytes.parse::<usize>().unwrap())
            .sum::<usize>()
    };
    queue("src", 0) + queue("dst", 1)
}

fn wait_ended_by(proxy: &TestProxy, close: Close) {
    wait_until(PATIENCE, &format!("an end by {close:?}"), || {
        proxy.figures().ended_by(close) == 1
    });
}

/// One request under settings that ask for a reset at its end: with a body that is still under way
/// then, or without. How it was closed, and what the backend saw of it.
fn closed(
    outstanding: bool,
    fin: bool,
    change: impl FnOnce(&mut backend::Settings),
    close: Close,
) -> PeerEnd {
    let (first, second) = (Gate::new(), Gate::new());
    let backend = early([&first, &second], fin);
    let proxy = TestProxy::to(backend.addr).upstream(change).start();
    let mut client = Client::connect(proxy.addr());
    if outstanding {
        client.send(post("/", &"x".repeat(BODY)));
        let mut last = 0;
        wait_until(PATIENCE, "the request to be written", || {
            let before = std::mem::replace(&mut last, under_way(backend.addr));
            before == last && last > BODY
        });
    } else {
        client.send(get("/"));
    }
    first.open();
    assert_eq!(client.response().status, 200);
    wait_ended_by(&proxy, close);
    second.open();
    backend.end_of(1)
}

#[test]
fn no_reset_is_sent_while_bytes_are_outstanding() {
    let short = |upstream: &mut backend::Settings| {
        upstream.pool.keep_alive.enabled = false;
        upstream.closing.short = ShortMode::Rst;
    };
    assert_eq!(closed(false, false, short, Close::ProxyRst), PeerEnd::Reset);
    assert_eq!(closed(true, false, short, Close::ProxyFin), PeerEnd::Fin);
}

#[test]
fn a_backend_that_closed_one_direction_gets_the_rest_of_the_request() {
    // The backend's FIN is waited for, and answered with a reset.
    let last = |upstream: &mut backend::Settings| upstream.closing.last = CloseMode::PeerRst;
    assert_eq!(closed(false, true, last, Close::BackendFin), PeerEnd::Reset);
    assert_eq!(closed(true, true, last, Close::BackendFin), PeerEnd::Fin);
}
