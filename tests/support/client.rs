//! A client that sends the bytes it is given and says exactly what came back.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;
use super::wire::{self, Framing, Stop, Wire};

/// A response, byte for byte.
#[derive(Debug)]
pub struct RawResponse {
    /// From the status line. A 1xx is a response of its own; the final one comes after it.
    pub status: u16,
    /// Status line and header lines with the empty line, each byte one character.
    pub head: String,
    /// Header lines in the order and the case they came in.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing. Empty when [`Client::discard_bodies`] was called.
    pub body: Vec<u8>,
    /// The body's length, discarded or not.
    pub length: u64,
    /// The sizes of the chunks it came in; empty when it was not chunked.
    pub chunks: Vec<u64>,
    /// The trailer lines as they came.
    pub trailers: String,
    /// Whether it came to the end that its framing announced.
    pub complete: bool,
    /// What the connection did after it. After a response that leaves the connection open this is
    /// what was seen at once; [`Client::end_within`] waits.
    pub ended: Ended,
}

/// What became of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is still open.
    KeptOpen,
    /// The other side has sent FIN.
    Fin,
    /// The other side has sent RST.
    Reset,
}

impl RawResponse {
    /// The first value under this name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }

    /// All values under this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The body as text, each byte one character.
    pub fn text(&self) -> String {
        wire::latin1(&self.body)
    }
}

/// One client connection.
pub struct Client {
    stream: Arc<TcpStream>,
    wire: Wire,
    keep_bodies: bool,
}

impl Client {
    /// Connects, within the usual patience.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)
            .unwrap_or_else(|error| panic!("could not connect to {addr}: {error}"));
        Client::over(stream)
    }

    /// Connects, if somebody listens there.
    pub fn try_connect(addr: SocketAddr) -> Option<Client> {
        TcpStream::connect_timeout(&addr, PATIENCE)
            .ok()
            .map(Client::over)
    }

    /// Speaks over a stream that is connected already.
    pub fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let stream = Arc::new(stream);
        Client {
            wire: Wire::new(Arc::clone(&stream)),
            stream,
            keep_bodies: true,
        }
    }

    /// The address it is seen under.
    pub fn addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// A second handle on the socket, for a thread that sends while another reads.
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be cloned")
    }

    /// Counts bodies from now on and does not keep them: for the large ones.
    pub fn discard_bodies(&mut self) {
        self.keep_bodies = false;
    }

    /// Sends these bytes.
    ///
    /// # Panics
    /// When the connection does not take them; see [`try_send`](Self::try_send).
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes)
            .expect("the connection takes what the client sends");
    }

    /// Sends these bytes to a peer that may have closed.
    ///
    /// # Errors
    /// As the kernel says, and when nothing moves for the usual patience.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream).write_all(bytes.as_ref())
    }

    /// Sends FIN; responses can still be read.
    pub fn half_close(&mut self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("an open connection can be half closed");
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        SockRef::from(&*self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Sends `GET path` as HTTP/1.1 and reads the response.
    pub fn get(&mut self, path: &str) -> RawResponse {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n"));
        self.response()
    }

    /// Reads the response to anything but HEAD and CONNECT.
    ///
    /// # Panics
    /// When no head comes within the usual patience, or what comes is not HTTP/1.1. A body that ends
    /// early is no panic: see [`RawResponse::complete`].
    pub fn response(&mut self) -> RawResponse {
        self.read(false).unwrap_or_else(|stop| self.complain(&stop))
    }

    /// Reads the response to HEAD.
    ///
    /// # Panics
    /// As [`response`](Self::response).
    pub fn response_to_head(&mut self) -> RawResponse {
        self.read(true).unwrap_or_else(|stop| self.complain(&stop))
    }

    /// Reads a response from a peer that may close instead.
    ///
    /// # Errors
    /// [`Stop`] when the connection ended, or nothing came for the usual patience, before a whole head.
    pub fn try_response(&mut self) -> Result<RawResponse, Stop> {
        self.read(false)
    }

    /// Waits for the other side to end the connection; `KeptOpen` when it has not within `bound`.
    ///
    /// # Panics
    /// When anything but the end comes.
    pub fn end_within(&mut self, bound: Duration) -> Ended {
        let unread = self.wire.unread();
        assert!(
            unread.is_empty(),
            "nobody asked for {:?}",
            wire::latin1(unread)
        );
        self.stream
            .set_read_timeout(Some(bound.max(Duration::from_millis(1))))
            .unwrap();
        match self.wire.fill() {
            Err(Stop::Fin) => Ended::Fin,
            Err(Stop::Reset) => Ended::Reset,
            Err(Stop::Silent) => Ended::KeptOpen,
            Err(Stop::Garbage(_)) => unreachable!("one read does not judge what it reads"),
            Ok(()) => panic!("nobody asked for {:?}", wire::latin1(self.wire.unread())),
        }
    }

    fn complain(&self, stop: &Stop) -> ! {
        let unread = wire::latin1(self.wire.unread());
        panic!("no response ({stop:?}); what came is {unread:?}")
    }

    fn read(&mut self, to_head: bool) -> Result<RawResponse, Stop> {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = self.wire.head()?;
        let status = head
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.get(2..5))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Stop::Garbage(format!("{head:?} does not begin with a status line")))?;
        let headers = wire::headers(&head);
        let framing = if to_head || matches!(status, 100..=199 | 204 | 304) {
            Framing::Empty
        } else {
            wire::announced(&headers).unwrap_or(Framing::UntilClose)
        };
        let body = self.wire.body(framing, self.keep_bodies);
        if let Some(Stop::Garbage(what)) = body.stop {
            return Err(Stop::Garbage(what));
        }
        let ended = match body.stop {
            Some(Stop::Fin) => Ended::Fin,
            Some(Stop::Reset) => Ended::Reset,
            Some(_) => Ended::KeptOpen,
            None if framing == Framing::UntilClose => Ended::Fin,
            None => self.ended(says_close(&head, status, &headers)),
        };
        Ok(RawResponse {
            status,
            headers,
            head,
            body: body.bytes,
            length: body.length,
            chunks: body.chunks,
            trailers: body.trailers,
            complete: body.stop.is_none(),
            ended,
        })
    }

    /// Whether the connection has ended after a whole response: waited for if the response said that
    /// it would, looked at otherwise.
    fn ended(&mut self, announced: bool) -> Ended {
        if !self.wire.unread().is_empty() {
            return Ended::KeptOpen; // the next response is here already
        }
        if !announced {
            self.stream.set_nonblocking(true).unwrap();
        }
        let result = self.wire.fill();
        self.stream.set_nonblocking(false).unwrap();
        match result {
            Err(Stop::Fin) => Ended::Fin,
            Err(Stop::Reset) => Ended::Reset,
            Ok(()) | Err(Stop::Silent | Stop::Garbage(_)) => Ended::KeptOpen,
        }
    }
}

/// Whether a response announces that the connection ends after it.
fn says_close(head: &str, status: u16, headers: &[(String, String)]) -> bool {
    let says = |word: &str| {
        headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
            .flat_map(|(_, value)| value.split(','))
            .any(|option| option.trim().eq_ignore_ascii_case(word))
    };
    status >= 200 && (says("close") || (head.starts_with("HTTP/1.0") && !says("keep-alive")))
}

/// One GET on a connection of its own.
pub fn get(addr: SocketAddr, path: &str) -> RawResponse {
    let mut client = Client::connect(addr);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n"));
    client.response()
}
