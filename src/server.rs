//! The whole proxy: what is asked for, the workers, the signals.

use std::net::SocketAddr;
use std::time::Duration;

use crate::route::RouteSettings;
use crate::{backend, client};

/// Everything a proxy is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads, each with its own listeners, pools and event loop. 0 is one per core.
    pub workers: usize,
    /// How long requests in flight may take to finish once the proxy was told to stop.
    ///
    /// Default: 30 s. Source: Apache httpd 2.4, `GracefulShutdownTimeout` (there unlimited).
    pub shutdown_timeout: Duration,
    /// How clients are served.
    pub client: client::Settings,
    /// The addresses it listens on.
    pub listeners: Vec<ListenerSettings>,
    /// Which requests go where.
    pub routes: Vec<RouteSettings>,
    /// The named sets of backends.
    pub upstreams: Vec<backend::Settings>,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Address and port. Port 0 lets the kernel choose.
    pub address: SocketAddr,
}
