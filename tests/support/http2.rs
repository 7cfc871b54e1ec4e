//! A backend that speaks HTTP/2 without TLS, and does whatever a test needs: refuse a stream, hold an
//! answer back, vanish; and [`frames`], where every frame is by hand.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use h2::server::{self, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, watch};

use super::local;

/// A running backend; it ends when dropped.
pub struct Http2 {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<watch::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What its connections share with the test.
#[derive(Default)]
pub struct Shared {
    connections: AtomicUsize,
    /// Each request that was taken: its connection's number, its method and path.
    taken: Mutex<Vec<(usize, String)>>,
    at_once: AtomicUsize,
    /// Opens those that wait.
    pub gate: Notify,
}

/// One request at the backend.
pub struct Taken {
    /// The number of its connection; the first is 1.
    pub connection: usize,
    /// How many requests came on this connection before.
    pub before: usize,
    /// It.
    pub request: Request<RecvStream>,
    /// How to answer it.
    pub respond: SendResponse<Bytes>,
}

/// What becomes of a request.
pub enum Answer {
    /// `200` with this text, once the gate was opened if `held`.
    Text(String, bool),
    /// The status, with this text and its length; the stream's end comes by itself, behind it.
    EndsLate(u16, &'static str),
    /// `200` with the request's body.
    Echo,
    /// `RST_STREAM` with `REFUSED_STREAM`.
    Refuse,
    /// The connection is closed without a word.
    Vanish,
}

impl Http2 {
    /// Starts one that takes `streams` requests at once on a connection, if that is said, and does
    /// with each what `script` says.
    pub fn start(
        streams: Option<u32>,
        script: impl Fn(&Taken) -> Answer + Send + Sync + 'static,
    ) -> Http2 {
        let (told, addr) = std::sync::mpsc::channel();
        let (stop, mut stopped) = watch::channel(());
        let shared = Arc::new(Shared::default());
        let ours = Arc::clone(&shared);
        let script: Arc<dyn Fn(&Taken) -> Answer + Send + Sync> = Arc::new(script);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(local(0)).await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.unwrap();
                            let number = ours.connections.fetch_add(1, Ordering::SeqCst) + 1;
                            let (shared, script) = (Arc::clone(&ours), Arc::clone(&script));
                            tokio::task::spawn_local(serve(stream, number, streams, shared, script));
                        }
                        _ = stopped.changed() => break,
                    }
                }
            });
        });
        Http2 {
            addr: addr.recv().unwrap(),
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Opens the gate for all who wait at it now.
    pub fn open(&self) {
        self.shared.gate.notify_waiters();
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The requests that came, with their connections' numbers.
    pub fn taken(&self) -> Vec<(usize, String)> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// How many requests are there now.
    pub fn at_once(&self) -> usize {
        self.shared.at_once.load(Ordering::SeqCst)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Script = Arc<dyn Fn(&Taken) -> Answer + Send + Sync>;

async fn serve(
    stream: TcpStream,
    number: usize,
    streams: Option<u32>,
    shared: Arc<Shared>,
    script: Script,
) {
    let mut builder = server::Builder::new();
    if let Some(streams) = streams {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut connection): Result<Connection<_, Bytes>, _> = builder.handshake(stream).await
    else {
        return;
    };
    let mut before = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let line = format!("{} {}", request.method(), request.uri().path());
        shared.taken.lock().unwrap().push((number, line));
        let mut taken = Taken {
            connection: number,
            before,
            request,
            respond,
        };
        before += 1;
        match script(&taken) {
            Answer::Text(text, held) => {
                tokio::task::spawn_local(answer(taken, Some(text), held, Arc::clone(&shared)));
            }
            Answer::Echo => {
                tokio::task::spawn_local(answer(taken, None, false, Arc::clone(&shared)));
            }
            Answer::EndsLate(status, text) => {
                tokio::task::spawn_local(ends_late(taken, status, text));
            }
            Answer::Refuse => taken.respond.send_reset(Reason::REFUSED_STREAM),
            Answer::Vanish => return,
        }
    }
}

fn answer(
    mut taken: Taken,
    text: Option<String>,
    held: bool,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> {
    shared.at_once.fetch_add(1, Ordering::SeqCst);
    async move {
        if held {
            shared.gate.notified().await;
        }
        let mut body = taken.request.into_body();
        let mut read = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
        }
        shared.at_once.fetch_sub(1, Ordering::SeqCst);
        let response = Response::builder().status(200).body(()).unwrap();
        if let Ok(mut stream) = taken.respond.send_response(response, false) {
            let text = text.map_or(read, String::into_bytes);
            let _ = stream.send_data(Bytes::from(text), true);
        }
    }
}

async fn ends_late(mut taken: Taken, status: u16, text: &'static str) {
    let length = text.len().to_string();
    let response = Response::builder().status(status);
    let response = if text.is_empty() {
        response
    } else {
        response.header("content-length", length)
    };
    let response = response.body(()).unwrap();
    if let Ok(mut stream) = taken.respond.send_response(response, false) {
        if !text.is_empty() && taken.request.method() != "HEAD" {
            let _ = stream.send_data(Bytes::from(text), false);
        }
        // What is said so far goes out by itself.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let _ = stream.send_data(Bytes::new(), true);
    }
}

/// HTTP/2 by hand, over a [`scripted`](super::scripted) connection.
pub mod frames {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// `HEADERS`.
    pub const HEADERS: u8 = 1;
    /// `GOAWAY`.
    pub const GOAWAY: u8 = 7;
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub const MAX_CONCURRENT_STREAMS: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// Reads the client's preface and says our settings.
    pub fn begin(stream: &mut TcpStream) -> bool {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).is_ok() && send(stream, SETTINGS, 0, 0, &[])
    }

    /// Says one setting.
    pub fn settings(stream: &mut TcpStream, setting: u8, value: u32) -> bool {
        let mut payload = vec![0, setting];
        payload.extend_from_slice(&value.to_be_bytes());
        send(stream, SETTINGS, 0, 0, &payload)
    }

    /// Reads frames until there is one of this kind; its stream.
    pub fn wait_for(stream: &mut TcpStream, kind: u8) -> Option<u32> {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).ok()?;
            if head[3] == SETTINGS && head[4] == 0 {
                send(stream, SETTINGS, 1, 0, &[]);
            }
            if head[3] == kind {
                return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            }
        }
    }

    /// Answers a stream with 200 and no body.
    pub fn ok(stream: &mut TcpStream, id: u32) -> bool {
        // RFC 7541, appendix A: index 8 is `:status: 200`.
        send(stream, HEADERS, END_STREAM | END_HEADERS, id, &[0x88])
    }

    /// Says that nothing after stream `last` was processed.
    pub fn goodbye(stream: &mut TcpStream, last: u32) -> bool {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0; 4]);
        send(stream, GOAWAY, 0, 0, &payload)
    }

    fn send(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(payload);
        stream.write_all(&frame).is_ok()
    }
}
