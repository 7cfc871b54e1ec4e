//! A backend to try the proxy against: it answers everything, says on which connection, and
//! counts.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::hint;
use std::io;
use std::net::{self, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::thread::OwnThread;

/// How long an answer's body is, unless said otherwise.
const BODY_BYTES: usize = 128;

/// How long accepting rests after it failed, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An HTTP/1.1 backend on its own OS thread, at one address or several.
///
/// Every request gets a 200 with a small text, which names the backend, the path, and which
/// request on which connection this is, so that reuse can be read off the answers:
///
/// ```text
/// app1 answers /cart: request 3 on connection 2
/// ```
///
/// A connection stays open for as long as its peer wants. When a request says `Connection: close`
/// the backend closes first, always: its FIN leaves with the last byte of the answer, so the peer
/// cannot close before, and the TIME_WAIT socket is the backend's.
///
/// It has no limits and no timeouts: its only peer is meant to be the proxy beside it. It stops,
/// and its connections with it, when dropped.
pub struct EmbeddedBackend {
    name: Arc<str>,
    counters: Arc<[Counters]>,
    _thread: OwnThread,
}

/// What answering a request is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// How long the body is: 128 bytes unless said otherwise.
    pub body_bytes: usize,
    /// CPU that each takes beside what it has to: as if there were something to work out. None unless said otherwise.
    pub work: Duration,
    /// How long each then waits, as if for a database. Not at all unless said otherwise.
    pub delay: Duration,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers {
            body_bytes: BODY_BYTES,
            work: Duration::ZERO,
            delay: Duration::ZERO,
        }
    }
}

impl Answers {
    /// Works, then waits.
    ///
    /// # Cancellation
    /// The answer is not given.
    async fn take_their_time(self) {
        if !self.work.is_zero() {
            let used =
                || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
            let until = used() + self.work;
            while used() < until {
                hint::spin_loop();
            }
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }
}

/// What a backend has done at one of its addresses since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The address, with the port that was really bound.
    pub address: SocketAddr,
    /// How many connections were accepted.
    pub connections: u64,
    /// How many requests were answered.
    pub requests: u64,
}

#[derive(Debug)]
struct Counters {
    address: SocketAddr,
    connections: AtomicU64,
    requests: AtomicU64,
}

impl EmbeddedBackend {
    /// Binds all `addresses` and starts answering, with bodies of 128 bytes.
    ///
    /// A port of 0 becomes a free one; see [`addresses`](Self::addresses).
    ///
    /// # Errors
    /// When an address cannot be bound, or a thread not be started.
    pub fn start(name: &str, addresses: &[SocketAddr]) -> io::Result<EmbeddedBackend> {
        EmbeddedBackend::start_with_body(name, addresses, BODY_BYTES)
    }

    /// The same with bodies of exactly `body_bytes`: the text is cut or filled up with dots.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with_body(
        name: &str,
        addresses: &[SocketAddr],
        body_bytes: usize,
    ) -> io::Result<EmbeddedBackend> {
        let answers = Answers {
            body_bytes,
            ..Answers::default()
        };
        EmbeddedBackend::start_with(name, addresses, answers)
    }

    /// The same with answers as they are asked for.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        name: &str,
        addresses: &[SocketAddr],
        answers: Answers,
    ) -> io::Result<EmbeddedBackend> {
        let name: Arc<str> = name.into();
        let mut listeners = Vec::new();
        let mut counters = Vec::new();
        for address in addresses {
            let listener = net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            counters.push(Counters {
                address: listener.local_addr()?,
                connections: AtomicU64::new(0),
                requests: AtomicU64::new(0),
            });
            listeners.push(listener);
        }
        let counters: Arc<[Counters]> = counters.into();

        let site = Site {
            name: Arc::clone(&name),
            counters: Arc::clone(&counters),
            answers,
        };
        let thread = OwnThread::start(&format!("backend {name}"), move || serve(site, listeners))?;
        Ok(EmbeddedBackend {
            name,
            counters,
            _thread: thread,
        })
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses it listens on, in the order they were asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.counters.iter().map(|at| at.address).collect()
    }

    /// What it has done so far, by address, in the same order.
    pub fn served(&self) -> Vec<Served> {
        self.counters.iter().map(Counters::read).collect()
    }
}

impl fmt::Debug for EmbeddedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBackend")
            .field("name", &self.name)
            .field("served", &self.served())
            .finish_non_exhaustive()
    }
}

impl Counters {
    fn read(&self) -> Served {
        Served {
            address: self.address,
            connections: self.connections.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

/// What the answers are made of; the same for all addresses.
#[derive(Clone)]
struct Site {
    name: Arc<str>,
    counters: Arc<[Counters]>,
    answers: Answers,
}

/// Accepts at every address until dropped.
async fn serve(site: Site, listeners: Vec<net::TcpListener>) {
    let mut accepting = JoinSet::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                accepting.spawn_local(accept(site.clone(), index, listener));
            }
            Err(error) => tracing::error!(%error, "a listener was not accepted by the runtime"),
        }
    }
    while accepting.join_next().await.is_some() {}
}

/// Accepts at one address until dropped; owns the connections that came of it.
async fn accept(site: Site, index: usize, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let counter = &site.counters[index].connections;
                    let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
                    connections.spawn_local(converse(site.clone(), index, number, stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the requests of one connection, the `number`-th of its address, until it ends.
async fn converse(site: Site, index: usize, number: u64, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let ending = Rc::new(Cell::new(false));
    let stream = FinWithLastByte {
        stream: TokioIo::new(stream),
        ending: Rc::clone(&ending),
    };
    let answered = Cell::new(0_u64);
    let service = service_fn(|request: Request<Incoming>| {
        answered.set(answered.get() + 1);
        let (request_number, site, ending) = (answered.get(), &site, &ending);
        async move {
            let last = wants_close(&request);
            let (head, mut body) = request.into_parts();
            // Unread bytes would turn our FIN into a RST.
            while let Some(Ok(_)) = body.frame().await {}

            site.answers.take_their_time().await;
            let text = text(
                &site.name,
                head.uri.path(),
                request_number,
                number,
                site.answers.body_bytes,
            );
            let mut response = Response::new(Full::new(text));
            let headers = response.headers_mut();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            if last {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                ending.set(true);
            }
            let counter = &site.counters[index].requests;
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    if let Err(error) = http1::Builder::new()
        .serve_connection(stream, service)
        .await
    {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Whether this is the connection's last request. RFC 9112 §9.3.
fn wants_close<B>(request: &Request<B>) -> bool {
    let said = |option: &str| {
        let values = request.headers().get_all(CONNECTION).into_iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option))
    };
    said("close") || (request.version() < Version::HTTP_11 && !said("keep-alive"))
}

/// The body of an answer: exactly `size` bytes, or somewhat fewer where the cut would fall into a
/// character.
fn text(name: &str, path: &str, request: u64, connection: u64, size: usize) -> Bytes {
    let mut text = format!("{name} answers {path}: request {request} on connection {connection}\n");
    if text.len() >= size {
        text.truncate(text.floor_char_boundary(size));
    } else {
        let dots = size - text.len() - 1;
        text.extend(std::iter::repeat_n('.', dots));
        text.push('\n');
    }
    text.into()
}

/// A stream that, once `ending` is set, holds back the end of what is written until it is shut
/// down, so that the last bytes and the FIN travel in one segment.
///
/// Otherwise a peer that closes on the last byte, as a proxy does, can be quicker than our FIN,
/// and the TIME_WAIT lands now here, now there, now on both sides: 5-26 % of the connections of
/// common servers ended in such a race (Linux 6.18).
struct FinWithLastByte {
    stream: TokioIo<TcpStream>,
    ending: Rc<Cell<bool>>,
}

impl FinWithLastByte {
    fn hold_back(&self) {
        if self.ending.take()
            && let Err(error) = SockRef::from(self.stream.inner()).set_tcp_cork(true)
        {
            tracing::debug!(%error, "could not set TCP_CORK");
        }
    }
}

impl Read for FinWithLastByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for FinWithLastByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hold_back();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.hold_back();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_size_asked_for() {
        let whole = "app1 answers /a: request 3 on connection 2\n";
        for (size, expected) in [
            (0, String::new()),
            (4, "app1".into()),
            (43, whole.into()),
            (44, format!("{whole}\n")),
            (50, format!("{whole}......\n")),
        ] {
            let text = text("app1", "/a", 3, 2, size);
            assert_eq!(text, expected);
            assert_eq!(text.len(), size);
        }
        assert_eq!(text("é", "/", 1, 1, 1), "", "no half characters");
    }

    #[test]
    fn the_last_request_is_the_one_that_says_so() {
        for (version, connection, last) in [
            (Version::HTTP_11, None, false),
            (Version::HTTP_11, Some("close"), true),
            (Version::HTTP_11, Some("TE, Close"), true),
            (Version::HTTP_11, Some("closed"), false),
            (Version::HTTP_10, None, true),
            (Version::HTTP_10, Some("Keep-Alive"), false),
        ] {
            let mut request = Request::builder().version(version);
            if let Some(connection) = connection {
                request = request.header(CONNECTION, connection);
            }
            let request = request.body(()).unwrap();
            assert_eq!(wants_close(&request), last, "{version:?} {connection:?}");
        }
    }
}
