//! Leaving HTTP/1.1 for another protocol: WebSocket by real programs, and every other way by bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Instant;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};
use warmline::account::{Close, TunnelEnd};
use warmline::backend::Upgrades;
use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Conn, PeerEnd};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, assert_serves, get};

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A request that asks for this protocol.
fn asking(protocol: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: test.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
}

/// A connection of which every byte is read as it is asked for.
struct Line(TcpStream);

impl Line {
    fn to(addr: SocketAddr) -> Line {
        Line::over(TcpStream::connect_timeout(&addr, PATIENCE).unwrap())
    }

    fn over(stream: TcpStream) -> Line {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Line(stream)
    }

    /// The tunnel of a client, once it is open.
    fn switched(addr: SocketAddr) -> Line {
        let mut line = Line::to(addr);
        line.send(asking("websocket"));
        let head = line.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        line
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn read(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// A head, and not a byte of what follows it.
    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.read(1);
        }
        head
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }

    fn fin(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    fn reset(self) {
        SockRef::from(&self.0)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Waits for the end, which is the first thing that comes.
    fn end(&mut self) -> PeerEnd {
        match self.0.read(&mut [0]) {
            Ok(0) => PeerEnd::Fin,
            Ok(_) => panic!("more came than the end"),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => PeerEnd::Reset,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A backend that switches to WebSocket and then does as `script` says.
fn switching(script: impl Fn(Line) + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut conn| {
        if switches(&mut conn) {
            script(Line::over(conn.stream()));
        }
    })
}

fn switches(conn: &mut Conn) -> bool {
    let Some(request) = conn.head() else {
        return false;
    };
    assert_eq!(request.header("upgrade"), Some("websocket"));
    conn.send(SWITCHED)
}

/// Waits until one tunnel has ended, and in this way.
fn ended(proxy: &TestProxy, end: TunnelEnd) {
    wait_until(PATIENCE, "the tunnel's end", || {
        proxy.figures().tunnels.open() == 0
    });
    let ends = proxy.figures().tunnels.ended;
    assert_eq!(
        (ends[end as usize], ends.iter().sum::<u64>()),
        (1, 1),
        "{ends:?}"
    );
}

/// A real client to a real server, which closes by the handshake of RFC 6455.
#[test]
fn a_websocket_passes() {
    let node = Node::websocket();
    let proxy = TestProxy::to(node.addr).start();
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let uri = format!("ws://{}/echo", proxy.addr());
    let (mut socket, response) = tungstenite::client(uri, stream).unwrap();
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut echoes = |message: Message| {
        socket.send(message.clone()).unwrap();
        assert!(socket.read().unwrap() == message, "the message comes back");
    };
    echoes(Message::text("hello"));
    let large: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    assert_eq!(large.len(), 1 << 20);
    echoes(Message::binary(large));
    echoes(Message::text("x".repeat(70_000)));
    socket.send(Message::Ping("are you there?".into())).unwrap();
    let pong = socket.read().unwrap();
    assert_eq!(pong, Message::Pong("are you there?".into()));
    assert_eq!(proxy.figures().tunnels.open(), 1);
    close(socket);

    ended(&proxy, TunnelEnd::Closed);
    proxy.wait_closed_for(CloseReason::Upgraded, 1);
    let figures = proxy.figures();
    assert_eq!(figures.counts.leased, 0);
    let least = (1 << 20) + 70_000;
    let tunnels = &figures.tunnels;
    assert!(
        tunnels.received > least && tunnels.sent > least,
        "{tunnels:?}"
    );
    // Counted apart: no body, and no time.
    assert_eq!((figures.traffic.received, figures.traffic.sent), (0, 0));
    assert_eq!(figures.traffic.total.count(), 0);
    assert_eq!(figures.traffic.of_class(1), 1);
}

/// Closes with a code of our own, which is to come back.
fn close(mut socket: WebSocket<TcpStream>) {
    let frame = CloseFrame {
        code: CloseCode::Library(4001),
        reason: "enough".into(),
    };
    socket.close(Some(frame.clone())).unwrap();
    loop {
        match socket.read() {
            Ok(Message::Close(back)) => assert_eq!(back, Some(frame.clone())),
            Ok(other) => panic!("{other:?} after the end"),
            Err(tungstenite::Error::ConnectionClosed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_right_behind_a_head_is_not_lost_and_comes_after_the_switch() {
    let backend = Backend::start(|mut conn| {
        let head = conn.head().unwrap();
        assert_eq!(head.header("connection"), Some("Upgrade"));
        conn.send(format!("{SWITCHED}first"));
        let mut line = Line::over(conn.stream());
        assert_eq!(line.read(5), "early");
        let rest = line.rest();
        line.send(rest);
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Line::to(proxy.addr());
    client.send(asking("websocket") + "early");
    let head = client.head();
    assert_eq!(client.read(5), "first");
    for line in ["Connection: Upgrade\r\n", "Upgrade: websocket\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    let lower = head.to_ascii_lowercase();
    assert!(
        !lower.contains("content-length") && !lower.contains("close"),
        "{head}"
    );
    client.send("back");
    client.fin();
    assert_eq!(client.rest(), b"back");
    ended(&proxy, TunnelEnd::Closed);
}

/// Each side may end by itself, and the other goes on for as long as it likes.
#[test]
fn an_end_is_passed_on_and_the_other_way_stays_open() {
    const LARGE: usize = 3 << 20;
    let backend = switching(|mut line| {
        assert_eq!(line.rest(), b"question");
        line.send(vec![b'a'; LARGE]);
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Line::switched(proxy.addr());
    client.send("question");
    client.fin();
    assert_eq!(client.rest().len(), LARGE);
    ended(&proxy, TunnelEnd::Closed);

    let backend = switching(|mut line| {
        line.fin();
        assert_eq!(line.rest().len(), LARGE);
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Line::switched(proxy.addr());
    assert_eq!(client.end(), PeerEnd::Fin);
    client.send(vec![b'b'; LARGE]);
    client.fin();
    ended(&proxy, TunnelEnd::Closed);
    assert_eq!(proxy.figures().tunnels.received, LARGE as u64);
}

/// Whoever's FIN is first has the `TIME_WAIT`, and the ledger says who it was.
#[test]
fn the_ledger_knows_who_closed_first() {
    let backend = switching(|mut line| match &*line.read(1) {
        "b" => {
            line.fin();
            line.rest();
        }
        "r" => line.reset(),
        _ => {
            line.end();
        }
    });
    for (asks, end, reason, close) in [
        (
            "b",
            TunnelEnd::Closed,
            CloseReason::Upgraded,
            Close::BackendFin,
        ),
        (
            "c",
            TunnelEnd::Closed,
            CloseReason::Upgraded,
            Close::ProxyFin,
        ),
        (
            "r",
            TunnelEnd::BackendGone,
            CloseReason::PeerClosedBusy,
            Close::BackendRst,
        ),
        (
            "x",
            TunnelEnd::ClientGone,
            CloseReason::ClientGone,
            Close::ProxyRst,
        ),
    ] {
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Line::switched(proxy.addr());
        client.send(asks);
        match asks {
            "b" => {
                assert_eq!(client.end(), PeerEnd::Fin);
                client.fin();
            }
            "c" => {
                client.fin();
                assert_eq!(client.end(), PeerEnd::Fin);
            }
            "r" => assert_eq!(client.end(), PeerEnd::Reset),
            _ => {
                // It has arrived, so that the reset overtakes nothing.
                wait_until(PATIENCE, "a byte to pass", || {
                    proxy.figures().tunnels.received == 1
                });
                client.reset();
            }
        }
        ended(&proxy, end);
        proxy.wait_closed_for(reason, 1);
        wait_until(PATIENCE, "the entry in the ledger", || {
            proxy.figures().ended_for(reason).connections == 1
        });
        assert_eq!(
            proxy.figures().ended_by(close),
            1,
            "{asks}: {:?}",
            proxy.figures().ends
        );
    }
}

#[test]
fn silence_ends_a_tunnel() {
    let limit = Duration::from_millis(300);
    let backend = switching(|mut line| assert_eq!(line.end(), PeerEnd::Reset));
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.tunnel_timeout = limit)
        .start();
    let begun = Instant::now();
    let mut client = Line::switched(proxy.addr());
    assert_eq!(client.end(), PeerEnd::Fin);
    assert!(begun.elapsed() >= limit);
    ended(&proxy, TunnelEnd::Timeout);
    proxy.wait_closed_for(CloseReason::Timeout, 1);
}

#[test]
fn what_is_not_allowed_is_not_asked_for_and_the_request_goes_on_without() {
    let backend = Backend::answering(OK);
    for (upgrades, protocol, passed) in [
        (Upgrades::default(), "websocket", Some("websocket")),
        (
            Upgrades::default(),
            "irc/6.9, websocket, h2c",
            Some("websocket"),
        ),
        (Upgrades::default(), "irc/6.9", None),
        (Upgrades::Any, "irc/6.9, h2c", Some("irc/6.9")),
        (Upgrades::Any, "h2c", None),
        (Upgrades::These(Vec::new()), "websocket", None),
    ] {
        let proxy = TestProxy::to(backend.addr)
            .upstream(|upstream| upstream.upgrade = upgrades.clone())
            .start();
        let mut client = Client::connect(proxy.addr());
        client.send(asking(protocol));
        assert_eq!(client.response().status, 200);
        let requests = backend.requests();
        let request = requests.last().unwrap();
        assert_eq!(request.header("upgrade"), passed, "{upgrades:?} {protocol}");
        let connection = passed.map_or("keep-alive", |_| "Upgrade");
        assert_eq!(request.header("connection"), Some(connection));
        assert_serves(&mut client);
    }
}

#[test]
fn a_request_of_1_0_or_with_a_body_is_an_ordinary_one() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    for request in [
        asking("websocket").replace("HTTP/1.1", "HTTP/1.0"),
        asking("websocket")
            .replace("GET", "POST")
            .replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi"),
        asking("websocket").replace(
            "\r\n\r\n",
            "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        // RFC 9110 §7.8: who means it names it in Connection.
        asking("websocket").replace(", Upgrade", ""),
    ] {
        let mut client = Client::connect(proxy.addr());
        client.send(&request);
        assert_eq!(client.response().status, 200);
        let requests = backend.requests();
        let last = requests.last().unwrap();
        assert_eq!(last.header("upgrade"), None, "{request}");
    }
}

/// A backend that does not switch has answered, and both connections go on.
#[test]
fn another_answer_than_101_is_an_ordinary_one() {
    let backend = Backend::answering(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Content-Length: 2\r\n\r\nno",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..3 {
        client.send(asking("websocket"));
        let response = client.response();
        assert_eq!((response.status, &*response.text()), (426, "no"));
        client.send(get("/"));
        assert_eq!(client.response().status, 426);
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(proxy.figures().tunnels.begun, 0);
}

#[test]
fn a_switch_to_what_was_not_asked_for_is_refused() {
    for answer in [
        SWITCHED.replace("websocket", "irc"),
        SWITCHED.replace("websocket", "websocket, tls/1.0"),
        SWITCHED.replace("Upgrade: websocket\r\n", ""),
    ] {
        let backend = Backend::start(move |mut conn| {
            if conn.head().is_some() {
                conn.send(&answer);
                conn.wait_for_end();
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send(asking("websocket"));
        assert_eq!(client.response().status, 502);
        assert_eq!(backend.end_of(1), PeerEnd::Reset);
        proxy.wait_closed_for(CloseReason::Protocol, 1);
    }
}

/// A kept connection that dies under the request: as for any GET, it is sent again, and as it was.
#[test]
fn a_request_that_meets_a_closing_connection_asks_once_more() {
    let backend = Backend::start(|mut conn| {
        if conn.number == 1 {
            conn.request();
            conn.send(OK);
            conn.head();
            conn.reset();
        } else if switches(&mut conn) {
            Line::over(conn.stream()).send("here");
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_serves(&mut client);
    let mut client = Line::over(client.stream());
    client.send(asking("websocket"));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.read(4), "here");
    assert_eq!(proxy.figures().sent_again.iter().sum::<u64>(), 1);
}

/// A stop gives tunnels their time, and then it does not look like an end.
#[test]
fn a_stop_cuts_tunnels_off_when_its_time_is_over() {
    let backend = switching(|mut line| {
        let late = line.read(4);
        line.send(late);
        assert_eq!(line.end(), PeerEnd::Reset);
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Line::switched(proxy.addr());
    proxy.server().stop();
    client.send("late");
    assert_eq!(client.read(4), "late");
    assert_eq!(client.end(), PeerEnd::Reset);
    assert_eq!(proxy.figures().tunnels.ended[TunnelEnd::CutOff as usize], 1);
}
