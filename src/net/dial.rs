//! A connection to a backend from the first packet until HTTP can begin: the socket, the PROXY
//! header, TLS. A [`tower::Service`], so that a time limit can be put around all of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tower::{BoxError, ServiceExt};

use super::introduction::{self, Ends, ProxyProtocol};
use super::tls::{Shaken, Tls};
use super::wire::{Raw, Wire};
use super::{BackendAddr, Connected, PortUse, TcpConnect};

/// Opens connections to the backends of an upstream.
#[derive(Clone, Debug)]
pub struct Dial {
    /// What opens TCP connections.
    pub tcp: TcpConnect,
    /// Whether the backend is told for whom a connection is opened.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether TLS is spoken; and the server's host as written.
    pub tls: Option<(Tls, Arc<str>)>,
}

/// A call for one connection.
#[derive(Clone, Debug)]
pub struct Call {
    /// To whom.
    pub backend: BackendAddr,
    /// For whom, where the backend is told.
    pub ends: Option<Ends>,
}

/// A connection that HTTP can begin on.
pub struct Opened {
    /// It.
    pub wire: Wire,
    /// Its port, where that is counted.
    pub port: Option<PortUse>,
    /// What came out of the TLS handshake, if there was one.
    pub tls: Option<Shaken>,
}

/// TLS could not be begun: the certificate, the version, or the connection was lost.
#[derive(Debug, thiserror::Error)]
#[error("TLS could not be begun")]
pub struct HandshakeFailed(#[source] pub io::Error);

impl tower::Service<Call> for Dial {
    type Response = Opened;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Opened, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move {
            let dial_is_put_off = dial.tcp.is_put_off();
            let (mut raw, port) = match call.backend {
                BackendAddr::Ip(address) => {
                    let Connected { stream, port } = dial.tcp.oneshot(address).await?;
                    (Raw::Tcp(stream), port)
                }
                BackendAddr::Unix(path) => (Raw::Unix(UnixStream::connect(&*path).await?), None),
            };
            if let Some(version) = dial.proxy_protocol {
                let header = introduction::header(version, call.ends);
                raw.write_all(&header).await?;
            }
            let Some((tls, host)) = dial.tls else {
                return Ok(Opened {
                    wire: Wire::Plain(raw),
                    port,
                    tls: None,
                });
            };
            // Boxed: large beside the rest, and most connections have none.
            let handshake = Box::pin(tls.handshake(&host, raw));
            let (stream, shaken) = handshake.await.map_err(|error| {
                // What the kernel says then is about the connection, not about TLS.
                if dial_is_put_off && error.raw_os_error().is_some() {
                    return BoxError::from(error);
                }
                HandshakeFailed(error).into()
            })?;
            Ok(Opened {
                wire: Wire::Tls(stream),
                port,
                tls: Some(shaken),
            })
        })
    }
}
