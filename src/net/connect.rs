//! Opening a connection to a backend: a [`tower::Service`], so that what later surrounds it
//! (timeouts, limits, TLS) can be put around it as layers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tower::BoxError;
use tower::timeout::error::Elapsed;

use super::{BackendAddr, sockopt};

/// Opens TCP connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnect;

impl tower::Service<BackendAddr> for TcpConnect {
    type Response = TcpStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: BackendAddr) -> Self::Future {
        Box::pin(async move {
            let socket = match backend.0 {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            sockopt::any_local_port(&socket)?;
            let stream = socket.connect(backend.0).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
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
