//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT of a real HTTP/2 client, to a real WebSocket server that
//! knows HTTP/1.1 alone.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use warmline::account::TunnelEnd;
use warmline::backend::Upgrades;

use crate::support::node::Node;
use crate::support::proxy::TestProxy;
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, wait_until};

/// Runs a client on a runtime of its own; all of it has its time.
fn run(client: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async { timeout(PATIENCE, client).await.expect("in time") });
}

/// A connection whose server says that it takes extended CONNECTs.
async fn connect(addr: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    let moving = spawn_local(async move {
        let _ = connection.await;
    });
    while !sender.is_extended_connect_protocol_enabled() {
        sender = sender.ready().await.unwrap();
        tokio::task::yield_now().await;
    }
    (sender, moving)
}

/// Asks for a WebSocket.
async fn ask(
    sender: &mut SendRequest<Bytes>,
    path: &str,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let request = Request::connect(format!("http://test.example{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("origin", "http://test.example");
    let (answer, stream) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    (answer.await.unwrap(), stream)
}

/// A frame of a client (RFC 6455 §5.2), its length in two bytes, with a mask that changes nothing.
fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x80 | kind, 0xfe, length[0], length[1], 0, 0, 0, 0];
    [&head[..], payload].concat().into()
}

/// The next `length` bytes that come.
async fn read(stream: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < length {
        let piece = stream.data().await.expect("it goes on").unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        read.extend_from_slice(&piece);
    }
    read
}

#[test]
fn a_websocket_over_http2_passes_beside_other_requests_and_outlives_the_idle_time() {
    let node = Node::websocket();
    let proxy = TestProxy::to(node.addr)
        .client(|client| client.keep_alive.timeout = Duration::from_millis(200))
        .start();
    run(async {
        let (mut sender, moving) = connect(proxy.addr()).await;
        let (answer, mut up) = ask(&mut sender, "/echo").await;
        assert_eq!(answer.status(), 200);
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        let mut down = answer.into_body();
        let text = "x".repeat(200);
        for pause in [0, 600] {
            // Longer than an idle connection is kept.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            up.send_data(frame(1, text.as_bytes()), false).unwrap();
            let back = read(&mut down, 204).await;
            assert_eq!(back[..4], [0x81, 126, 0, 200]);
            assert_eq!(&back[4..], text.as_bytes());
        }
        // Another request on the same connection.
        let other = Request::get("http://test.example/other").body(()).unwrap();
        let (other, _) = sender.send_request(other, true).unwrap();
        assert!(other.await.unwrap().status().as_u16() >= 200);
        // 1000: a normal end, which the server says, too, and then closes.
        up.send_data(frame(8, &1000_u16.to_be_bytes()), false)
            .unwrap();
        let back = read(&mut down, 4).await;
        assert_eq!(back, [0x88, 2, 3, 232]);
        up.send_data(Bytes::new(), true).unwrap();
        while let Some(last) = down.data().await {
            assert_eq!(last.unwrap(), "");
        }
        drop((up, down, sender));
        moving.await.unwrap();
    });
    wait_until(PATIENCE, "the tunnel's end", || {
        proxy.figures().tunnels.ended[TunnelEnd::Closed as usize] == 1
    });
    wait_until(PATIENCE, "the client's connection to be gone", || {
        proxy.server().control().clients() == 0
    });
}

#[test]
fn a_client_that_resets_its_websocket_ends_the_backends_connection() {
    let node = Node::websocket();
    let proxy = TestProxy::to(node.addr).start();
    run(async {
        let (mut sender, _moving) = connect(proxy.addr()).await;
        let (answer, mut up) = ask(&mut sender, "/echo").await;
        assert_eq!(answer.status(), 200);
        up.send_reset(h2::Reason::CANCEL);
        drop(answer);
        while proxy.figures().tunnels.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(
        proxy.figures().tunnels.ended[TunnelEnd::ClientGone as usize],
        1
    );
}

#[test]
fn what_is_no_switch_does_not_look_like_one() {
    // One that does not switch, and means well; one that refuses.
    for (answer, status) in [
        (crate::OK, 502),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
            502,
        ),
    ] {
        let backend = Backend::start(move |mut conn| {
            let request = conn.request().expect("it comes");
            assert_eq!(request.header("cookie"), Some("a=1; b=2"));
            conn.send(answer);
            conn.wait_for_end();
        });
        let proxy = TestProxy::to(backend.addr).start();
        run(async {
            let (mut sender, _moving) = connect(proxy.addr()).await;
            let (answer, _) = ask(&mut sender, "/").await;
            assert_eq!(answer.status(), status);
        });
    }
}

#[test]
fn what_is_not_allowed_is_refused() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.upgrade = Upgrades::of(Vec::new()))
        .start();
    run(async {
        let (mut sender, _moving) = connect(proxy.addr()).await;
        let (answer, _) = ask(&mut sender, "/").await;
        assert_eq!(answer.status(), 502);
    });
}
