//! Opening a TCP connection to a backend, and what errors of opening mean.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tower::BoxError;
use tower::timeout::error::Elapsed;

use super::{BackendAddr, HandshakeFailed, sockopt};

/// Opens TCP connections.
#[derive(Clone, Debug, Default)]
pub struct TcpConnect {
    /// Whence, in turn; empty: the kernel chooses.
    sources: Rc<[IpAddr]>,
    turn: Rc<Cell<usize>>,
}

impl TcpConnect {
    /// Connects from these addresses in turn, as far as they are of the backend's family.
    pub fn from_sources(sources: &[IpAddr]) -> TcpConnect {
        TcpConnect {
            sources: sources.into(),
            turn: Rc::default(),
        }
    }
}

impl tower::Service<SocketAddr> for TcpConnect {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: SocketAddr) -> Self::Future {
        let sources = Rc::clone(&self.sources);
        let first = self.turn.get();
        self.turn.set(first.wrapping_add(1));
        Box::pin(async move {
            let fits = |source: &&IpAddr| source.is_ipv4() == backend.is_ipv4();
            let count = sources.iter().filter(fits).count();
            let mut result = None;
            for turn in 0..count {
                let source = sources.iter().filter(fits).nth((first + turn) % count);
                let opened = open(backend, source.copied()).await;
                match &opened {
                    // No port is left at this address: the next one has its own.
                    Err(error) if is_out_of_ports(error) => result = Some(opened),
                    _ => return opened,
                }
            }
            match result {
                Some(result) => result,
                None => open(backend, None).await,
            }
        })
    }
}

async fn open(backend: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match backend {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    sockopt::any_local_port(&socket)?;
    if let Some(source) = source {
        sockopt::bind_address_no_port(&socket)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(backend).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
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
         keep_alive = true saves ports, a wider net.ipv4.ip_local_port_range adds some"
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
