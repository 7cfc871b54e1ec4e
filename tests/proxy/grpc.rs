//! gRPC through the proxy, with HTTP/2 on both sides: a real client and a real server (tonic), and what a
//! client is told when something breaks.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::server::{NamedService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};

use warmline::backend::Protocol;
use warmline::route::RouteSettings;

use crate::support::proxy::TestProxy;
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, free_port, local};

/// Messages are bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}

type Answering<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// `t.Echo`: what is said comes back, or what its method's name says.
#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "t.Echo";
}

#[derive(Clone, Copy, PartialEq)]
enum Unary {
    Echo,
    Fail,
    Never,
}

impl UnaryService<Vec<u8>> for Unary {
    type Response = Vec<u8>;
    type Future = Answering<Response<Vec<u8>>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let what = *self;
        Box::pin(async move {
            match what {
                Unary::Echo => {
                    let mut response = Response::new(request.get_ref().clone());
                    if let Some(told) = request.metadata().get("x-told") {
                        response.metadata_mut().insert("x-told", told.clone());
                    }
                    Ok(response)
                }
                Unary::Fail => Err(Status::new(Code::FailedPrecondition, "not to-day, 100 %")),
                Unary::Never => std::future::pending().await,
            }
        })
    }
}

/// Each message of a stream comes back as it comes.
struct Back;

impl StreamingService<Vec<u8>> for Back {
    type Response = Vec<u8>;
    type ResponseStream = Streaming<Vec<u8>>;
    type Future = Answering<Response<Streaming<Vec<u8>>>>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain);
            let unary = match request.uri().path() {
                "/t.Echo/Echo" => Unary::Echo,
                "/t.Echo/Fail" => Unary::Fail,
                "/t.Echo/Never" => Unary::Never,
                _ => return Ok(grpc.streaming(Back, request).await),
            };
            Ok(grpc.unary(unary, request).await)
        })
    }
}

/// A gRPC server on a thread of its own.
struct Serving {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start() -> Serving {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let incoming = TcpIncoming::bind(local(0)).unwrap();
                tell.send(incoming.local_addr().unwrap()).unwrap();
                let serving = Server::builder().add_service(Echo);
                tokio::select! {
                    served = serving.serve_with_incoming(incoming) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Serving {
            addr: told.recv_timeout(PATIENCE).unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A client of the server, or of a proxy before it.
async fn client(addr: SocketAddr) -> Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{addr}")).unwrap();
    let mut grpc = Grpc::new(channel.connect().await.unwrap());
    grpc.ready().await.unwrap();
    grpc
}

fn path(method: &str) -> PathAndQuery {
    format!("/t.Echo/{method}").parse().unwrap()
}

/// A proxy that speaks HTTP/2 to the backend.
fn proxy(backend: SocketAddr) -> TestProxy {
    TestProxy::to(backend)
        .upstream(|upstream| upstream.protocol = Protocol::Http2)
        .start()
}

#[test]
fn calls_pass_with_their_metadata_messages_and_status() {
    let serving = Serving::start();
    let proxy = proxy(serving.addr);
    runtime().block_on(async {
        let mut grpc = client(proxy.addr()).await;
        for size in [0, 1, 100_000, 3 << 20] {
            let message = vec![b'x'; size];
            let mut request = Request::new(message.clone());
            request
                .metadata_mut()
                .insert("x-told", "a word".parse().unwrap());
            let answer = grpc.unary(request, path("Echo"), Plain).await.unwrap();
            assert_eq!(answer.metadata().get("x-told").unwrap(), "a word");
            assert_eq!(answer.metadata().get("grpc-status").unwrap(), "0");
            assert!(answer.into_inner() == message, "{size}");
            grpc.ready().await.unwrap();
        }
        // Trailers-only: a response that is over with its head.
        let failed = grpc
            .unary(Request::new(Vec::new()), path("Fail"), Plain)
            .await;
        let status = failed.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "not to-day, 100 %");
    });
    assert_eq!(proxy.figures().counts.opened, 1);
}

#[test]
fn a_stream_is_handed_on_message_by_message() {
    let serving = Serving::start();
    let proxy = proxy(serving.addr);
    runtime().block_on(async {
        let mut grpc = client(proxy.addr()).await;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let messages = Messages(receiver);
        sender.send(b"0".to_vec()).await.unwrap();
        let request = Request::new(messages);
        let answer = grpc.streaming(request, path("Back"), Plain).await.unwrap();
        let mut answer = answer.into_inner();
        // Each comes back before the next is sent: nothing waits for the end.
        for number in 1..20 {
            let said = answer.message().await.unwrap().unwrap();
            assert_eq!(said, (number - 1).to_string().into_bytes());
            sender.send(number.to_string().into_bytes()).await.unwrap();
        }
        assert_eq!(answer.message().await.unwrap().unwrap(), b"19");
        drop(sender);
        assert_eq!(answer.message().await.unwrap(), None);
    });
}

/// Messages to be sent.
struct Messages(tokio::sync::mpsc::Receiver<Vec<u8>>);

impl tokio_stream::Stream for Messages {
    type Item = Vec<u8>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.poll_recv(cx)
    }
}

/// By curl: tonic's client keeps a deadline by itself, whoever is behind it.
#[test]
fn a_deadline_of_the_client_is_kept_here_too() {
    let serving = Serving::start();
    let proxy = proxy(serving.addr);
    let dir = tempfile::tempdir().unwrap();
    let message = dir.path().join("message");
    std::fs::write(&message, [0; 5]).unwrap();
    for _ in 0..3 {
        let output = Command::new("curl")
            .args(["-sSi", "--max-time", "20", "--http2-prior-knowledge"])
            .args(["-H", "Content-Type: application/grpc", "-H", "TE: trailers"])
            .args(["-H", "grpc-timeout: 300m", "--data-binary"])
            .arg(format!("@{}", message.display()))
            .arg(format!("http://{}/t.Echo/Never", proxy.addr()))
            .output()
            .expect("curl is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with("HTTP/2 200"), "{said}");
        for line in [
            "content-type: application/grpc",
            "grpc-status: 4",
            "grpc-message: The backend did not answer in time.",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
    }
    // It says nothing of the connection, which others are on.
    assert_eq!(proxy.figures().counts.opened, 1);
}

#[test]
fn what_goes_wrong_here_is_told_as_grpc_status() {
    // Nobody listens there.
    let nobody = proxy(local(free_port()));
    // One that breaks off in the middle of its answer.
    let breaking = Backend::start(|mut conn| {
        conn.request();
        conn.send(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
             6\r\n\0\0\0\0\u{1}x\r\n",
        );
        conn.reset();
    });
    let breaking = TestProxy::to(breaking.addr).start();
    let nowhere = TestProxy::to(local(1))
        .settings(|settings| settings.routes[0] = RouteSettings::to("/elsewhere", "test").into())
        .start();
    runtime().block_on(async {
        for (proxy, code, message) in [
            (
                &nobody,
                Code::Unavailable,
                "The backend could not be reached.",
            ),
            (
                &breaking,
                Code::Unavailable,
                "The backend's response broke off.",
            ),
            (
                &nowhere,
                Code::Unimplemented,
                "No route is for this host and path.",
            ),
        ] {
            let mut grpc = client(proxy.addr()).await;
            let failed = grpc
                .unary(Request::new(Vec::new()), path("Echo"), Plain)
                .await;
            let status = failed.unwrap_err();
            assert_eq!((status.code(), status.message()), (code, message));
        }
    });
}
