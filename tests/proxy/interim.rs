//! Interim responses (1xx) on their way to clients.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::process;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate};
use crate::{OK, get};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";

/// A backend that sends hints at once, and the answer once the gate is open.
fn hinting(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::start(move |mut conn| {
        while conn.request().is_some() {
            conn.send(HINTS);
            conn.pause(&gate);
            conn.send(OK);
        }
    })
}

/// They come as soon as the backend sends them, in the case it sent them in, and the response behind them.
#[test]
fn hints_come_before_the_response_is_there() {
    let gate = Gate::new();
    let backend = hinting(&gate);
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/"));
    let hints = client.response();
    assert_eq!(
        hints.head,
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    );
    assert_eq!(proxy.figures().interim, 1);
    gate.open();
    assert_eq!(client.response().text(), "ok");
    // And the next one on both connections.
    client.send(get("/"));
    assert_eq!(client.response().status, 103);
    assert_eq!(client.response().text(), "ok");
    assert_eq!(backend.connections(), 1);
    assert_eq!(proxy.figures().interim, 2);
}

/// However they come: with the response, cut anywhere, several at once. Of a backend's `100 Continue` nobody
/// has asked for none is passed on.
#[test]
fn all_of_them_come_in_their_order_and_none_behind_the_response() {
    let answer = format!(
        "{HINTS}HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-Step: 1\r\n\r\n{HINTS}{OK}"
    );
    let pieces: Vec<Vec<u8>> = vec![answer.clone().into_bytes()]
        .into_iter()
        .chain(answer.as_bytes().chunks(1).map(<[u8]>::to_vec))
        .collect();
    for (first, rest) in [(&pieces[..1], &[][..]), (&[][..], &pieces[1..])] {
        let pieces: Vec<_> = first.iter().chain(rest).cloned().collect();
        let backend = Backend::start(move |mut conn| {
            while conn.request().is_some() {
                for piece in &pieces {
                    conn.send(piece);
                }
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        for _ in 0..2 {
            client.send(get("/"));
            let got: Vec<_> = (0..4).map(|_| client.response().status).collect();
            assert_eq!(got, [103, 102, 103, 200]);
        }
    }
}

#[test]
fn a_client_of_1_0_gets_none() {
    let gate = Gate::new();
    gate.open();
    let backend = hinting(&gate);
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.figures().interim, 0);
}

/// A switch of protocols may have hints before it, and an error of ours behind them.
#[test]
fn what_follows_them_need_not_be_a_response_of_the_backend() {
    let backend = Backend::start(|mut conn| {
        let request = conn.head().unwrap();
        conn.send(HINTS);
        if request.line().contains("/ws") {
            conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nfirst");
            conn.wait_for_end();
        } else {
            conn.reset();
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/broken"));
    assert_eq!(client.response().status, 103);
    assert_eq!(client.response().status, 502);
    asks_again(&mut client);
    let mut client = Client::connect(proxy.addr());
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().status, 103);
    assert_eq!(client.response().status, 101);
}

/// The connection is well: the failure was the backend's.
fn asks_again(client: &mut Client) {
    client.send(get("/broken"));
    assert_eq!(client.response().status, 103);
    assert_eq!(client.response().status, 502);
}

/// `Expect` is answered here: one `100 Continue`, whatever the backend says.
#[test]
fn continue_is_ours_alone() {
    let backend = Backend::start(|mut conn| {
        conn.head();
        conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        conn.send(HINTS);
        conn.send(OK);
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    let mut statuses = vec![client.response().status];
    client.send("hi");
    while statuses.last() != Some(&200) {
        statuses.push(client.response().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [100, 103, 200]);
}

/// As curl sees them.
#[test]
fn curl_takes_them() {
    let gate = Gate::new();
    gate.open();
    let backend = hinting(&gate);
    let proxy = TestProxy::to(backend.addr).start();
    let folder = TempDir::new().unwrap();
    let heads = folder.path().join("heads");
    let output = Command::new(process::find(&["curl"], "curl"))
        .args(["-q", "--noproxy", "*", "-sS", "--http1.1", "-D"])
        .arg(&heads)
        .arg(format!("http://{}/", proxy.addr()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok");
    let heads = fs::read_to_string(heads).unwrap();
    let (hints, response) = heads.split_once("\r\n\r\n").unwrap();
    assert!(
        hints.starts_with("HTTP/1.1 103 Early Hints\r\nLink: "),
        "{heads}"
    );
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{heads}");
}
