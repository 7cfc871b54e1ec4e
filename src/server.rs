//! The whole proxy: what is asked for, its workers, its end.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use crate::account::{LineFigures, PoolFigures, PoolTally};
use crate::net::{self, BackendAddr, ListenError};
use crate::pool::Common;
use crate::proxy::{ServerCommon, Target};
use crate::route::{RouteSettings, Router};
use crate::worker::{self, Plan};
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

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A backend's name has no address.
    #[error("upstream {upstream}: cannot look up server {server}: {source}")]
    LookUp {
        /// The upstream.
        upstream: String,
        /// The server as written.
        server: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Sockets to a backend cannot be as they are asked for.
    #[error("upstream {upstream}: {source}")]
    Socket {
        /// The upstream.
        upstream: String,
        /// What cannot be.
        source: net::OptionError,
    },
    /// A route names an upstream that is not there.
    #[error("a route names upstream {0}, which is not defined")]
    NoUpstream(String),
    /// A worker's thread could not be started.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
}

/// A running proxy. Dropping it stops it as [`Server::stop`] does, without waiting.
pub struct Server {
    addresses: Vec<SocketAddr>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    stop: watch::Sender<bool>,
    upstreams: Vec<UpstreamFigures>,
}

/// One upstream's backends, and what its workers count.
#[derive(Clone, Debug)]
pub struct UpstreamFigures {
    /// Its name.
    pub name: String,
    /// Its backends.
    pub backends: Vec<(Target, Arc<ServerCommon>)>,
}

impl UpstreamFigures {
    /// All workers' figures of all its backends, added up.
    pub fn sum(&self) -> PoolFigures {
        let mut sum = PoolFigures::default();
        for (_, common) in &self.backends {
            for tally in common.tallies() {
                tally.add_to(&mut sum);
            }
        }
        sum
    }

    /// Its backends, each with the figures of its line.
    pub fn lines(&self) -> impl Iterator<Item = (BackendAddr, LineFigures)> {
        self.backends
            .iter()
            .map(|(target, common)| (target.backend, common.figures()))
    }
}

impl Server {
    /// Looks up the backends, binds the listeners, starts the workers.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(settings: &Settings) -> Result<Server, StartError> {
        let workers = match settings.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let router = Arc::new(router(settings)?);
        let upstreams = settings
            .upstreams
            .iter()
            .map(|upstream| look_up(upstream, workers))
            .collect::<Result<Vec<_>, _>>()?;
        let mut sockets = Vec::new();
        for listener in &settings.listeners {
            sockets.push(net::bind(listener.address, workers)?);
        }
        let mut server = Server {
            addresses: sockets
                .iter()
                .filter_map(|group| group[0].local_addr().ok())
                .collect(),
            workers: Vec::new(),
            stop: watch::Sender::new(false),
            upstreams: upstreams.clone(),
        };
        for number in 0..workers {
            let plan = Plan {
                number,
                listeners: sockets.iter_mut().filter_map(Vec::pop).collect(),
                client: settings.client.clone(),
                router: Arc::clone(&router),
                upstreams: settings
                    .upstreams
                    .iter()
                    .zip(&upstreams)
                    .map(|(settings, figures)| (settings.clone(), figures.backends.clone()))
                    .collect(),
                shutdown_timeout: settings.shutdown_timeout,
                stop: server.stop.subscribe(),
            };
            let worker = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || worker::run(plan))
                .map_err(StartError::Worker)?;
            server.workers.push(worker);
        }
        Ok(server)
    }

    /// The addresses it listens on, in the order of the settings.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The upstreams with their live figures.
    pub fn upstreams(&self) -> &[UpstreamFigures] {
        &self.upstreams
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Begins the end: no new clients, idle connections closed, requests in flight finished within
    /// `shutdown_timeout`.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// A handle that can stop this proxy from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Waits until every worker has ended. Blocks the thread.
    pub fn join(mut self) {
        for worker in self.workers.drain(..) {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a worker could not run"),
                Err(_) => tracing::error!("a worker panicked"),
            }
        }
    }
}

/// Stops a proxy: see [`Server::stop`].
#[derive(Clone, Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// Begins the end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

fn router(settings: &Settings) -> Result<Router<usize>, StartError> {
    let mut routes = Vec::new();
    for route in &settings.routes {
        let index = settings
            .upstreams
            .iter()
            .position(|upstream| upstream.name == route.upstream)
            .ok_or_else(|| StartError::NoUpstream(route.upstream.clone()))?;
        routes.push((route.host.as_deref(), route.path.as_str(), index));
    }
    Ok(Router::new(routes))
}

/// The addresses of an upstream's servers, and what the workers have in common of each.
fn look_up(upstream: &backend::Settings, workers: usize) -> Result<UpstreamFigures, StartError> {
    let mut targets = Vec::new();
    for server in &upstream.servers {
        let fail = |source| StartError::LookUp {
            upstream: upstream.name.clone(),
            server: server.address.clone(),
            source,
        };
        let mut found: Vec<_> = server.address.to_socket_addrs().map_err(fail)?.collect();
        found.dedup();
        if found.is_empty() {
            return Err(fail(io::Error::other("the name has no address")));
        }
        targets.extend(found.into_iter().map(|address| Target {
            backend: BackendAddr(address),
            weight: server.weight,
        }));
    }
    for target in &targets {
        upstream
            .sockets
            .check(target.backend, &upstream.source_addresses)
            .map_err(|source| StartError::Socket {
                upstream: upstream.name.clone(),
                source,
            })?;
    }
    let common = |target| {
        let tallies = (0..workers).map(|_| Arc::new(PoolTally::default()));
        let common = Common::new(upstream.pool.clone(), tallies.collect());
        (target, Arc::new(common))
    };
    Ok(UpstreamFigures {
        name: upstream.name.clone(),
        backends: targets.into_iter().map(common).collect(),
    })
}
