//! Our own backend, which does to a connection whatever a script says: the misbehaviour that no real
//! server can be asked for.
//!
//! ```ignore
//! // Answers the first request of each connection and resets it in the middle of the second answer.
//! let backend = Backend::start(|mut conn| {
//!     conn.request();
//!     conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
//!     conn.request();
//!     conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
//!     conn.reset();
//! });
//! ```

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::time::Instant;

use super::PATIENCE;
use super::wire::{self, Framing, Stop, Wire};

/// A request as the backend got it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of its connection; the first is 1.
    pub connection: usize,
    /// Request line and header lines with the empty line, each byte one character.
    pub head: String,
    /// Header lines in the order and the case they came in.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing; empty when only the head was read.
    pub body: Vec<u8>,
    /// The sizes of the chunks it came in; empty when it was not chunked.
    pub chunks: Vec<u64>,
    /// The trailer lines as they came.
    pub trailers: String,
    /// Whether the body came to the end that its framing announced.
    pub complete: bool,
}

impl Request {
    /// The request line, without its CR LF.
    pub fn line(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// The first value under this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }

    /// The names of the headers, in order and in their own case.
    pub fn names(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// With FIN.
    Fin,
    /// With RST.
    Reset,
}

/// A listening backend. When it is dropped its connections are shut down and its scripts waited for;
/// one that panicked fails the test.
pub struct Backend {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    accepted: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    ends: Mutex<Vec<(usize, PeerEnd)>>,
    // Weak, as the socket is closed when its script lets go of it, and not before.
    open: Mutex<Vec<Weak<TcpStream>>>,
    scripts: Mutex<Vec<JoinHandle<()>>>,
}

impl Backend {
    /// Runs `script` for each connection, on a thread of its own.
    pub fn start(script: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be had");
        Backend::on(listener, script)
    }

    /// As [`start`](Self::start), on a listener of one's own.
    pub fn on(listener: TcpListener, script: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                loop {
                    let (stream, _) = listener.accept().expect("a listener accepts");
                    if shared.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let number = shared.accepted.fetch_add(1, Ordering::SeqCst) + 1;
                    stream.set_nodelay(true).unwrap();
                    let stream = Arc::new(stream);
                    shared.open.lock().unwrap().push(Arc::downgrade(&stream));
                    let conn = Conn {
                        number,
                        wire: Wire::new(Arc::clone(&stream)),
                        stream,
                        shared: Arc::clone(&shared),
                    };
                    let script = Arc::clone(&script);
                    let running = thread::spawn(move || script(conn));
                    shared.scripts.lock().unwrap().push(running);
                }
            }
        });
        Backend {
            addr,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// Answers every request with these bytes and keeps the connection for as long as the peer does.
    pub fn answering(response: impl Into<Vec<u8>>) -> Backend {
        let response = response.into();
        Backend::start(move |mut conn| conn.serve(|_| response.clone()))
    }

    /// Answers every request with 200 and the number of its connection.
    pub fn numbered() -> Backend {
        Backend::start(|mut conn| {
            let number = conn.number.to_string();
            conn.serve(|_| {
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{number}",
                    number.len()
                )
                .into()
            });
        })
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Requests that scripts have read so far, in the order their reading ended.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How peers ended their connections, as far as scripts have read it: connection number and end.
    pub fn ends(&self) -> Vec<(usize, PeerEnd)> {
        self.shared.ends.lock().unwrap().clone()
    }

    /// Waits until the peer has ended connection `number` and a script has read it.
    ///
    /// # Panics
    /// When that does not come within the usual patience.
    pub fn end_of(&self, number: usize) -> PeerEnd {
        let mut end = None;
        super::wait_until(PATIENCE, &format!("the end of connection {number}"), || {
            end = self.ends().into_iter().find(|(other, _)| *other == number);
            end.is_some()
        });
        end.expect("it was just there").1
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor out of accept(). If the backlog is full it is awake anyway.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        let accepted = self.acceptor.take().map_or(Ok(()), JoinHandle::join);
        for stream in self
            .shared
            .open
            .lock()
            .unwrap()
            .iter()
            .filter_map(Weak::upgrade)
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let scripts = std::mem::take(&mut *self.shared.scripts.lock().unwrap());
        for result in scripts.into_iter().map(JoinHandle::join).chain([accepted]) {
            if let (Err(payload), false) = (result, thread::panicking()) {
                panic::resume_unwind(payload);
            }
        }
    }
}

/// One connection in the hands of its script. Closed when dropped; with [`fin`](Self::fin) or
/// [`reset`](Self::reset) in a way that does not depend on what is still unread.
pub struct Conn {
    /// Its number; the first is 1.
    pub number: usize,
    stream: Arc<TcpStream>,
    wire: Wire,
    shared: Arc<Shared>,
}

impl Conn {
    /// Reads a request to its end. `None` when the peer ended the connection instead.
    ///
    /// # Panics
    /// When what comes is not HTTP/1.1.
    pub fn request(&mut self) -> Option<Request> {
        let request = self.read(true)?;
        self.shared.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    /// Reads the head of a request and leaves its body unread. `None` when the peer ended the
    /// connection instead.
    ///
    /// # Panics
    /// When what comes is not HTTP/1.1.
    pub fn head(&mut self) -> Option<Request> {
        let request = self.read(false)?;
        self.shared.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    fn read(&mut self, with_body: bool) -> Option<Request> {
        let head = match self.wire.head() {
            Ok(head) => head,
            Err(stop) => {
                self.stopped(&stop);
                return None;
            }
        };
        let headers = wire::headers(&head);
        let announced = wire::announced(&headers).unwrap_or(Framing::Empty);
        let framing = if with_body { announced } else { Framing::Empty };
        let body = self.wire.body(framing, true);
        if let Some(stop) = &body.stop {
            self.stopped(stop);
        }
        Some(Request {
            connection: self.number,
            head,
            headers,
            body: body.bytes,
            chunks: body.chunks,
            trailers: body.trailers,
            complete: body.stop.is_none() && framing == announced,
        })
    }

    /// Sends these bytes. Whether the kernel took them: a peer that has closed is no error here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        (&*self.stream).write_all(bytes.as_ref()).is_ok()
    }

    /// Reads the body of a request whose head was just [read](Self::head) and counts it; returns its
    /// length and whether it came to its end. For the large ones.
    pub fn discard_body(&mut self, request: &Request) -> (u64, bool) {
        let framing = wire::announced(&request.headers).unwrap_or(Framing::Empty);
        let body = self.wire.body(framing, false);
        if let Some(stop) = &body.stop {
            self.stopped(stop);
        }
        (body.length, body.stop.is_none())
    }

    /// Sends these bytes and FIN so that both arrive at once, in one segment if they fit.
    pub fn send_and_fin(self, bytes: impl AsRef<[u8]>) {
        SockRef::from(&*self.stream).set_tcp_cork(true).unwrap();
        let _ = (&*self.stream).write_all(bytes.as_ref());
        self.fin();
    }

    /// A second handle on the socket, for what the other methods do not do.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be cloned")
    }

    /// Answers each request with what `answer` makes of it, until the peer ends the connection.
    pub fn serve(&mut self, mut answer: impl FnMut(&Request) -> Vec<u8>) {
        while let Some(request) = self.request() {
            if !request.complete || !self.send(answer(&request)) {
                return;
            }
        }
    }

    /// Stays at the gate until it is opened, or the backend is dropped.
    pub fn pause(&self, gate: &Gate) {
        gate.pass(|| self.shared.stopping.load(Ordering::SeqCst));
    }

    /// Sends FIN and goes on reading.
    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with FIN, whatever is unread: Linux sends RST when a socket with unread bytes is closed.
    pub fn fin(mut self) {
        self.half_close();
        self.stream.set_nonblocking(true).unwrap();
        while self.wire.fill().is_ok() {}
    }

    /// Closes with RST.
    pub fn reset(self) {
        SockRef::from(&*self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Reads and drops everything until the peer ends the connection. `None` when the backend was
    /// dropped first.
    pub fn wait_for_end(&mut self) -> Option<PeerEnd> {
        loop {
            if let Err(stop) = self.wire.fill() {
                return self.stopped(&stop);
            }
        }
    }

    /// Notes how the peer ended the connection, unless it was us who shut it down.
    fn stopped(&self, stop: &Stop) -> Option<PeerEnd> {
        if self.shared.stopping.load(Ordering::SeqCst) {
            return None;
        }
        let end = match stop {
            Stop::Fin => PeerEnd::Fin,
            Stop::Reset => PeerEnd::Reset,
            Stop::Silent => unreachable!("a script reads without a timeout"),
            Stop::Garbage(what) => panic!("connection {}: {what}", self.number),
        };
        self.shared.ends.lock().unwrap().push((self.number, end));
        Some(end)
    }
}

/// A place where scripts stop until the test lets them go on.
#[derive(Clone, Default)]
pub struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    inner: Mutex<GateInner>,
    changed: Condvar,
}

#[derive(Default)]
struct GateInner {
    open: bool,
    reached: usize,
}

impl Gate {
    /// A closed one.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets through all who wait, and all who come.
    pub fn open(&self) {
        self.0.inner.lock().unwrap().open = true;
        self.0.changed.notify_all();
    }

    /// Waits until `count` scripts have come to it.
    ///
    /// # Panics
    /// When they do not within the usual patience.
    pub fn wait_reached(&self, count: usize) {
        assert!(
            self.reached_within(count, PATIENCE),
            "{} of {count} scripts came to the gate",
            self.0.inner.lock().unwrap().reached
        );
    }

    /// Whether `count` scripts come to it within `bound`.
    pub fn reached_within(&self, count: usize, bound: Duration) -> bool {
        let end = Instant::now() + bound;
        let mut inner = self.0.inner.lock().unwrap();
        while inner.reached < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.0.changed.wait_timeout(inner, left).unwrap().0;
        }
        true
    }

    fn pass(&self, abandoned: impl Fn() -> bool) {
        let mut inner = self.0.inner.lock().unwrap();
        inner.reached += 1;
        self.0.changed.notify_all();
        while !inner.open && !abandoned() {
            // Who drops the backend does not know the gates its scripts stand at.
            inner = self
                .0
                .changed
                .wait_timeout(inner, Duration::from_millis(20))
                .unwrap()
                .0;
        }
    }
}

/// An address that refuses connections for as long as this lives: bound, and nobody listens.
pub struct Refusing {
    /// The address.
    pub addr: SocketAddr,
    _bound: Socket,
}

impl Refusing {
    /// Takes a free port and does not listen on it.
    pub fn start() -> Refusing {
        let socket = bound();
        Refusing {
            addr: address(&socket),
            _bound: socket,
        }
    }
}

/// An address where connecting neither succeeds nor fails: its backlog is full, and Linux drops the
/// SYN of whoever comes then.
pub struct Unanswering {
    /// The address.
    pub addr: SocketAddr,
    _listener: Socket,
    _in_the_way: Vec<TcpStream>,
}

impl Unanswering {
    /// Listens with the shortest backlog and fills it.
    ///
    /// # Panics
    /// When it cannot be filled.
    pub fn start() -> Unanswering {
        let listener = bound();
        listener.listen(0).expect("a bound socket can listen");
        let addr = address(&listener);
        let mut in_the_way = Vec::new();
        // A backlog of 0 holds one connection (Linux 6.18); a few more do no harm elsewhere. A refused
        // wait is the sign that it is full: the SYN got no answer.
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
            in_the_way.push(stream);
            assert!(in_the_way.len() < 64, "the backlog of {addr} does not fill");
        }
        Unanswering {
            addr,
            _listener: listener,
            _in_the_way: in_the_way,
        }
    }
}

fn bound() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be had");
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .expect("a loopback port can be had");
    socket
}

fn address(socket: &Socket) -> SocketAddr {
    socket
        .local_addr()
        .ok()
        .and_then(|addr| addr.as_socket())
        .expect("a bound socket has an address")
}
