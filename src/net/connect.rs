//! Opening a TCP connection to a backend, and what errors of opening mean.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::BoxError;
use tower::timeout::error::Elapsed;

use super::options::new_socket;
use super::sources::{Lane, Sources};
use super::{BackendAddr, HandshakeFailed, SocketOptions};

/// Opens TCP connections.
#[derive(Clone, Debug, Default)]
pub struct TcpConnect {
    /// Whence; empty: the kernel chooses.
    sources: Rc<[IpAddr]>,
    options: Rc<SocketOptions>,
    told: Told,
}

/// Who is told how long each `connect()` took.
#[derive(Clone, Default)]
struct Told(Option<Rc<dyn Fn(Duration)>>);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// A connection, and the port it takes.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: TcpStream,
    /// Its port, where that is counted.
    pub port: Option<PortUse>,
}

impl TcpConnect {
    /// Connects with these options, and from that of the addresses, as far as they are of the
    /// backend's family, which has the most ports left.
    pub fn new(sources: &[IpAddr], options: SocketOptions) -> TcpConnect {
        TcpConnect {
            sources: sources.into(),
            options: Rc::new(options),
            told: Told::default(),
        }
    }

    /// Has `told` hear how long each `connect()` system call took, whether it failed or not: in it the
    /// kernel looks for a local port.
    pub fn time_calls(&mut self, told: impl Fn(Duration) + 'static) {
        self.told = Told(Some(Rc::new(told)));
    }

    /// Whether a connection may still fail to open once it is there.
    pub(super) fn is_put_off(&self) -> bool {
        self.options.fast_open
    }

    async fn open(&self, backend: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
        let socket = new_socket(backend)?;
        self.options.prepare(&socket, backend, source)?;
        let mut connecting = pin!(socket.connect(backend));
        let begun = Instant::now();
        // The system call is made when it is polled for the first time.
        let mut told = self.told.0.as_ref();
        let stream = poll_fn(|cx| {
            let polled = connecting.as_mut().poll(cx);
            if let Some(told) = told.take() {
                told(begun.elapsed());
            }
            polled
        })
        .await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn connect(&self, backend: SocketAddr) -> io::Result<Connected> {
        let fits = |source: &&IpAddr| source.is_ipv4() == backend.is_ipv4();
        let sources = || self.sources.iter().filter(fits).copied();
        let count = sources().count();
        if count < 2 {
            // Nothing to choose from: nothing to count.
            let stream = self.open(backend, sources().next()).await?;
            return Ok(Connected { stream, port: None });
        }
        for _ in 0..count {
            let lanes = sources().map(|source| Lane {
                source,
                destination: backend,
                ports: self.options.source_ports,
            });
            let Some(mut port) = PortUse::choose(lanes) else {
                break;
            };
            match self.open(backend, Some(port.lane.source)).await {
                Ok(stream) => {
                    port.opened();
                    let port = Some(port);
                    return Ok(Connected { stream, port });
                }
                // No port is left at this address: the next one has its own.
                Err(error) if is_out_of_ports(&error) => port.end = PortEnd::NoneLeft,
                Err(error) => return Err(error),
            }
        }
        Err(rustix::io::Errno::ADDRNOTAVAIL.into())
    }
}

impl tower::Service<SocketAddr> for TcpConnect {
    type Response = Connected;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connected>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: SocketAddr) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect(backend).await })
    }
}

/// What this process uses of its source addresses. One for all workers and upstreams, as they all
/// take their ports from the same kernel; gone to when one of several sources is chosen, and when
/// such a connection has ended.
static SOURCES: LazyLock<Mutex<Sources>> = LazyLock::new(Mutex::default);

fn sources() -> MutexGuard<'static, Sources> {
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port of one of several source addresses, in use. Dropped, it is free again; or in `TIME_WAIT`, if
/// that was said.
#[derive(Debug)]
pub struct PortUse {
    lane: Lane,
    end: PortEnd,
}

#[derive(Debug)]
enum PortEnd {
    Free,
    TimeWait,
    NoneLeft,
}

impl PortUse {
    fn choose(lanes: impl Iterator<Item = Lane>) -> Option<PortUse> {
        let lane = sources().choose(lanes, Instant::now())?;
        let end = PortEnd::Free;
        Some(PortUse { lane, end })
    }

    fn opened(&self) {
        sources().opened(&self.lane);
    }

    /// The connection was closed by us first: its port will be in `TIME_WAIT`.
    pub fn leaves_time_wait(&mut self) {
        self.end = PortEnd::TimeWait;
    }
}

impl Drop for PortUse {
    fn drop(&mut self) {
        let now = Instant::now();
        match self.end {
            PortEnd::Free => sources().ended(&self.lane, false, now),
            PortEnd::TimeWait => sources().ended(&self.lane, true, now),
            PortEnd::NoneLeft => sources().out_of_ports(&self.lane, now),
        }
    }
}

fn is_out_of_ports(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error())
}

/// Why a connection to a backend could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The backend did not answer in time.
    #[error("{backend} did not accept a connection within {limit:?}")]
    Timeout {
        /// The backend.
        backend: BackendAddr,
        /// Its `connect_timeout`.
        limit: Duration,
    },
    /// This machine has no local port left for this backend: `EADDRNOTAVAIL`. Not the backend's
    /// fault.
    #[error(
        "no local port is left towards {backend}: too many connections or TIME_WAIT sockets; \
         keep_alive = true saves ports, source_addresses and a wider \
         net.ipv4.ip_local_port_range add some"
    )]
    NoLocalPort {
        /// The backend.
        backend: BackendAddr,
    },
    /// This process has no file descriptor left: `EMFILE` or `ENFILE`. Not the backend's fault.
    #[error(
        "no file descriptor is left for a connection to {backend}: raise the limit (`ulimit -n`)"
    )]
    NoDescriptor {
        /// The backend.
        backend: BackendAddr,
    },
    /// TLS could not be begun: the certificate, the version, or the connection was lost.
    #[error("cannot begin TLS with {backend}")]
    Tls {
        /// The backend.
        backend: BackendAddr,
        /// What is wrong.
        source: io::Error,
    },
    /// The backend does not speak HTTP/2, and nothing else may be spoken to it.
    #[error("{backend} does not speak HTTP/2: `protocol = \"http/1.1\"` if it never will")]
    NotHttp2 {
        /// The backend.
        backend: BackendAddr,
    },
    /// Anything else: refused, unreachable, reset.
    #[error("cannot connect to {backend}")]
    Io {
        /// The backend.
        backend: BackendAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ConnectError {
    /// Sorts what the connector's layers returned.
    pub fn sort(error: BoxError, backend: BackendAddr, limit: Duration) -> ConnectError {
        if error.is::<Elapsed>() {
            return ConnectError::Timeout { backend, limit };
        }
        let error = match error.downcast::<HandshakeFailed>() {
            Ok(failed) => {
                let HandshakeFailed(source) = *failed;
                return ConnectError::Tls { backend, source };
            }
            Err(error) => error,
        };
        let source = match error.downcast::<io::Error>() {
            Ok(source) => *source,
            Err(other) => io::Error::other(other),
        };
        match source
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::ADDRNOTAVAIL) => ConnectError::NoLocalPort { backend },
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                ConnectError::NoDescriptor { backend }
            }
            _ if source.kind() == io::ErrorKind::TimedOut => {
                ConnectError::Timeout { backend, limit }
            }
            _ => ConnectError::Io { backend, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SOURCES: [&str; 2] = ["127.0.4.1", "127.0.4.2"];

    fn connect() -> TcpConnect {
        let sources = SOURCES.map(|source| source.parse().unwrap());
        TcpConnect::new(&sources, SocketOptions::default())
    }

    /// What is used of each source towards `destination`: open, in `TIME_WAIT`.
    fn used(destination: SocketAddr) -> [(u32, u32); 2] {
        SOURCES.map(|source| {
            let lane = Lane {
                source: source.parse().unwrap(),
                destination,
                ports: None,
            };
            sources().used(&lane, Instant::now())
        })
    }

    #[tokio::test]
    async fn a_port_is_counted_for_as_long_as_its_connection_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let connect = connect();
        let mut opened = Vec::new();
        for _ in 0..4 {
            opened.push(connect.connect(backend).await.unwrap());
        }
        assert_eq!(used(backend), [(2, 0), (2, 0)]);
        let from: Vec<_> = opened
            .iter()
            .map(|opened| opened.stream.local_addr().unwrap().ip().to_string())
            .collect();
        let [one, two] = SOURCES;
        assert_eq!(from, [one, two, one, two]);
        opened[1].port.as_mut().unwrap().leaves_time_wait();
        opened.truncate(1);
        assert_eq!(used(backend), [(1, 0), (0, 1)]);
        drop(opened);
        assert_eq!(used(backend), [(0, 0), (0, 1)]);
    }

    #[tokio::test]
    async fn an_attempt_that_fails_or_is_given_up_leaves_nothing() {
        let refusing = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = connect().connect(refusing).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(used(refusing), [(0, 0), (0, 0)]);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let connect = connect();
        let mut attempt = Box::pin(connect.connect(backend));
        let waker = std::task::Waker::noop();
        let begun = attempt.as_mut().poll(&mut Context::from_waker(waker));
        assert!(begun.is_pending());
        assert_eq!(used(backend), [(1, 0), (0, 0)]);
        drop(attempt);
        assert_eq!(used(backend), [(0, 0), (0, 0)]);
    }

    #[tokio::test]
    async fn with_one_address_or_none_nothing_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        for sources in [&[][..], &["127.0.4.1"], &["127.0.4.1", "::1"]] {
            let sources: Vec<_> = sources.iter().map(|text| text.parse().unwrap()).collect();
            let connect = TcpConnect::new(&sources, SocketOptions::default());
            let opened = connect.connect(backend).await.unwrap();
            assert!(opened.port.is_none(), "{sources:?}");
            let from = opened.stream.local_addr().unwrap().ip();
            assert_eq!(
                from.to_string() == "127.0.4.1",
                !sources.is_empty(),
                "{from}"
            );
        }
    }
}
