//! The whole proxy: what is asked for, its workers, its end.

mod admin;
mod change;
mod doors;
mod figures;
mod keeper;
mod plan;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::account::{Departures, FrontFigures, FrontTally, Tallies};
use crate::lookup::LookUpError;
use crate::net::{
    CertificateSource, ListenError, OptionError, ServerTlsSettings, Shown, Tls, TlsError,
};
use crate::proxy::PoolView;
use crate::worker::{self, Look, Orders, Plan, Room};
use crate::{backend, client, log};

use figures::Book;
use keeper::Reload;

pub use admin::{AdminAddress, AdminSettings};
pub use change::{Changes, Moves, UpstreamChange};
pub use figures::UpstreamFigures;
pub use routes::RouteSettings;

/// How many may want to see a worker's connections at once.
const LOOKS: usize = 8;

/// How long a worker may take to show its connections.
const LOOK_WITHIN: Duration = Duration::from_millis(250);

/// Everything a proxy is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads, each with its own listeners, pools and event loop. 0 is one per core.
    pub workers: usize,
    /// How long requests in flight may take to finish once the proxy was told to stop.
    ///
    /// Default: 30 s. Source: Apache httpd 2.4, `GracefulShutdownTimeout` (there unlimited).
    pub shutdown_timeout: Duration,
    /// The name servers to ask; empty: those of `/etc/resolv.conf`.
    ///
    /// Source: nginx, `resolver`.
    pub resolver: Vec<SocketAddr>,
    /// How clients are served.
    pub client: client::Settings,
    /// How many client connections there may be at once, over all workers. At the limit the one that has
    /// been idle for the longest is closed for each new one; if none is idle, new ones wait in the
    /// kernel's backlog. `None` is no limit but that of open files.
    ///
    /// Default: none. Source: Apache httpd 2.4, event MPM, `MaxRequestWorkers`; `HAProxy`, `maxconn`.
    pub max_clients: Option<NonZeroU32>,
    /// Where its figures can be asked for; `None` is nowhere. It takes a restart to change it.
    pub admin: Option<AdminSettings>,
    /// Where each exchange is logged; `None` is nowhere. It takes a restart to change it.
    pub access_log: Option<log::Settings>,
    /// The certificates that are shown to clients, on every listener that speaks TLS: the first that is for
    /// the name that the client asks for (SNI), else the first of all.
    pub certificates: Vec<CertificateSource>,
    /// The addresses it listens on.
    pub listeners: Vec<ListenerSettings>,
    /// What is asked for otherwise for requests to these hosts.
    pub hosts: Vec<client::HostSettings>,
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
    /// How its clients are served otherwise than all are.
    pub client: client::Overrides,
    /// How TLS is spoken with them, if it is.
    pub tls: Option<ServerTlsSettings>,
}

impl From<SocketAddr> for ListenerSettings {
    /// One whose clients are served as all are.
    fn from(address: SocketAddr) -> ListenerSettings {
        ListenerSettings {
            address,
            client: client::Overrides::default(),
            tls: None,
        }
    }
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
        /// Why.
        source: LookUpError,
    },
    /// Sockets to a backend cannot be as they are asked for.
    #[error("upstream {upstream}: {source}")]
    Socket {
        /// The upstream.
        upstream: String,
        /// What cannot be.
        source: OptionError,
    },
    /// Too few connections for every worker to have one.
    #[error(
        "upstream {upstream}: max_connections is {limit}, and HTTP/2 connections stay with their \
         worker: with {workers} workers some would have none. Raise it, or set `workers`"
    )]
    TooFewConnections {
        /// The upstream.
        upstream: String,
        /// Its `max_connections`.
        limit: u32,
        /// How many workers there are.
        workers: usize,
    },
    /// TLS cannot be spoken as asked for.
    #[error("upstream {upstream}: {source}")]
    Tls {
        /// The upstream.
        upstream: String,
        /// Which file, and what is wrong with it.
        source: TlsError,
    },
    /// A certificate for clients cannot be used.
    #[error("certificates: {0}")]
    Certificates(TlsError),
    /// TLS cannot be spoken with the clients of a listener as asked for.
    #[error("listener {address}: {source}")]
    Listener {
        /// Its address.
        address: SocketAddr,
        /// Which file, and what is wrong with it.
        source: TlsError,
    },
    /// A route names an upstream that is not there.
    #[error("a route names upstream {0}, which is not defined")]
    NoUpstream(String),
    /// The access log cannot be written.
    #[error("access_log: cannot open {path}: {source}")]
    AccessLog {
        /// Where it was to be.
        path: log::Destination,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Worker(io::Error),
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// What is asked for cannot be had; all that is wrong with it.
    #[error("{}", listed(.0))]
    Faults(Vec<StartError>),
    /// The proxy is stopping.
    #[error("the proxy is stopping")]
    Stopping,
}

fn listed(faults: &[StartError]) -> String {
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    faults.join("; ")
}

/// A running proxy. Dropping it, and every [`Control`] of it, stops it as [`Server::stop`] does,
/// without waiting.
pub struct Server {
    workers: Vec<JoinHandle<io::Result<()>>>,
    keeper: JoinHandle<()>,
    log: Option<log::Log>,
    control: Control,
    orders: watch::Receiver<Arc<Orders>>,
}

impl Server {
    /// Looks up the backends, binds the listeners, starts the workers.
    ///
    /// # Errors
    /// [`StartError`], the first if there are several; nothing runs then.
    pub fn start(settings: &Settings) -> Result<Server, StartError> {
        let workers = match settings.workers {
            0 => thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        };
        let (lookers, looks): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(LOOKS)).unzip();
        let (mut control, keeper, orders) = keep(settings, workers, lookers)?;
        let (log, sinks) = access_log(settings, workers)?;
        control.log = log.as_ref().map(log::Log::handle);
        let mut sinks = sinks.into_iter();
        let mut server = Server {
            workers: Vec::new(),
            keeper,
            log,
            control,
            orders,
        };
        for (number, looks) in looks.into_iter().enumerate() {
            let plan = Plan {
                front: Arc::clone(&server.control.fronts[number]),
                room: Arc::clone(&server.control.room),
                number,
                looks,
                log: sinks.next(),
                orders: server.orders.clone(),
                stop: server.control.stop.subscribe(),
                cut: server.control.cut.subscribe(),
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
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.control.addresses()
    }

    /// The upstreams with their live figures; after them those that a reload has removed.
    pub fn upstreams(&self) -> Vec<UpstreamFigures> {
        self.control.upstreams()
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Begins the end: no new clients, idle connections closed, requests in flight finished within
    /// `shutdown_timeout`.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// Puts other settings into effect; see [`Control::reload`]. Blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn reload(&self, settings: &Settings) -> Result<Changes, ReloadError> {
        let done = self.control.ask(settings)?;
        done.blocking_recv()
            .map_err(|_| ReloadError::Stopping)?
            .map_err(ReloadError::Faults)
    }

    /// A handle on this proxy that can be used elsewhere.
    pub fn control(&self) -> Control {
        self.control.clone()
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
        if let Some(log) = self.log.take() {
            log.join();
        }
        // If the workers ended by themselves nobody has told it yet.
        self.control.stop();
        if self.keeper.join().is_err() {
            tracing::error!("the thread that looks names up panicked");
        }
    }
}

/// Opens the access log, if there is to be one, with a sink for each worker.
fn access_log(
    settings: &Settings,
    workers: usize,
) -> Result<(Option<log::Log>, Vec<log::Sink>), StartError> {
    let Some(asked) = &settings.access_log else {
        return Ok((None, Vec::new()));
    };
    match log::start(asked, workers) {
        Ok((log, sinks)) => Ok((Some(log), sinks)),
        Err(source) => Err(StartError::AccessLog {
            path: asked.to.clone(),
            source,
        }),
    }
}

/// Starts the thread that keeps the layout; returns once the first is made.
#[expect(
    clippy::type_complexity,
    reason = "three things, named where they are taken"
)]
fn keep(
    settings: &Settings,
    workers: usize,
    lookers: Vec<mpsc::Sender<Look>>,
) -> Result<(Control, JoinHandle<()>, watch::Receiver<Arc<Orders>>), StartError> {
    let (reloads, asked) = mpsc::unbounded_channel();
    let (started, first) = std_mpsc::sync_channel(1);
    let departures = settings
        .admin
        .as_ref()
        .map(|_| Arc::new(Departures::new(workers)));
    let control = Control {
        stop: watch::Sender::new(false),
        cut: watch::Sender::new(false),
        reloads,
        book: Arc::default(),
        departures: departures.clone(),
        room: Arc::new(Room::new(workers)),
        lookers: lookers.into(),
        fronts: (0..workers).map(|_| Arc::default()).collect(),
        log: None,
    };
    let start = keeper::Start {
        settings: settings.clone(),
        tallies: Tallies {
            workers,
            departures,
        },
        book: Arc::clone(&control.book),
        reloads: asked,
        stop: control.stop.subscribe(),
        started,
    };
    let keeper = thread::Builder::new()
        .name("names".to_owned())
        .spawn(move || keeper::run(start))
        .map_err(StartError::Worker)?;
    match first.recv() {
        Ok(Ok(orders)) => Ok((control, keeper, orders)),
        Ok(Err(faults)) => Err(faults.into_iter().next().unwrap_or_else(keeper::vanished)),
        Err(_) => Err(keeper::vanished()),
    }
}

/// A handle on a proxy: stops it, changes it, reads its figures.
#[derive(Clone, Debug)]
pub struct Control {
    stop: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    reloads: mpsc::UnboundedSender<Reload>,
    book: Arc<Book>,
    /// Noted if there is somebody to be told: with [`Settings::admin`].
    departures: Option<Arc<Departures>>,
    room: Arc<Room>,
    /// To each worker: who wants to see its connections.
    lookers: Arc<[mpsc::Sender<Look>]>,
    fronts: Vec<Arc<FrontTally>>,
    log: Option<log::Handle>,
}

impl Control {
    /// The connections to backends that were closed here first; `None` without
    /// [`Settings::admin`].
    pub fn departures(&self) -> Option<Arc<Departures>> {
        self.departures.clone()
    }

    /// Whether it has been told to stop.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// How many client connections are open, idle ones included.
    pub fn clients(&self) -> u32 {
        self.room.taken()
    }

    /// The addresses it listens on, in the order of the settings.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.book.listeners()
    }

    /// The certificates that are shown to clients, as they are now.
    pub fn certificates(&self) -> Vec<Shown> {
        self.book.served.shown()
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.fronts.len()
    }

    /// What the workers count of exchanges, whatever their backends.
    pub fn front(&self) -> FrontFigures {
        let mut sum = FrontFigures::default();
        for front in &self.fronts {
            front.add_to(&mut sum);
        }
        sum
    }

    /// Every worker's connections to backends, by the worker's number. Of a worker that does not
    /// answer soon there are none.
    ///
    /// # Cancellation
    /// Nobody is told.
    pub async fn connections(&self) -> Vec<(usize, Vec<PoolView>)> {
        let ask = |(number, looker): (usize, &mpsc::Sender<Look>)| {
            let (answer, answered) = oneshot::channel();
            looker.try_send(Look { answer }).ok()?;
            Some((number, answered))
        };
        let asked: Vec<_> = self.lookers.iter().enumerate().filter_map(ask).collect();
        let end = Instant::now() + LOOK_WITHIN;
        let mut seen = Vec::new();
        for (number, answered) in asked {
            if let Ok(Ok(pools)) = timeout_at(end, answered).await {
                seen.push((number, pools));
            }
        }
        seen
    }

    /// What became of the access log's lines, if there is one.
    pub fn access_log(&self) -> Option<log::Counts> {
        self.log.as_ref().map(log::Handle::counts)
    }

    /// Stops at once: requests in flight are broken off. What they came to is still logged.
    pub fn stop_at_once(&self) {
        self.stop();
        self.cut.send_replace(true);
    }

    /// Has the access log's file reopened; see [`log::Handle::reopen`]. `false` if there is no such log.
    pub fn reopen_log(&self) -> bool {
        self.log.as_ref().map(log::Handle::reopen).is_some()
    }

    /// Begins the end: see [`Server::stop`].
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Puts other settings into effect, all of them or none.
    ///
    /// Names are looked up anew; one that cannot be keeps the addresses it has. Servers that stay
    /// keep their connections, unless what is asked of connections has changed; those of the
    /// others are closed, the busy ones after their exchange. Requests in flight go on as they
    /// began.
    ///
    /// # Errors
    /// [`ReloadError`]; everything goes on as before.
    ///
    /// # Cancellation
    /// The reload goes on.
    pub async fn reload(&self, settings: &Settings) -> Result<Changes, ReloadError> {
        let done = self.ask(settings)?;
        done.await
            .map_err(|_| ReloadError::Stopping)?
            .map_err(ReloadError::Faults)
    }

    /// The upstreams with their live figures; after them those that a reload has removed.
    pub fn upstreams(&self) -> Vec<UpstreamFigures> {
        self.book.read()
    }

    fn ask(
        &self,
        settings: &Settings,
    ) -> Result<oneshot::Receiver<Result<Changes, Vec<StartError>>>, ReloadError> {
        let (done, is_done) = oneshot::channel();
        let settings = settings.clone();
        match self.reloads.send(Reload { settings, done }) {
            Ok(()) => Ok(is_done),
            Err(_) => Err(ReloadError::Stopping),
        }
    }
}

/// Reads the certificates and keys that `settings` name, and says all that is wrong with them.
pub fn check_files(settings: &Settings) -> Vec<StartError> {
    let mut faults = Vec::new();
    load_tls(settings, &mut faults);
    doors::Doors::default().load(settings, &mut faults);
    faults
}

/// The TLS of each upstream that speaks it.
fn load_tls(settings: &Settings, faults: &mut Vec<StartError>) -> Vec<Option<Tls>> {
    let load = |upstream: &backend::Settings| {
        let Some(tls) = &upstream.tls else {
            return Ok(None);
        };
        let tls = Tls::load(tls, upstream.protocol.offer())?;
        for server in &upstream.servers {
            tls.check_host(server.host())?;
        }
        Ok(Some(tls))
    };
    let mut loaded = Vec::new();
    for upstream in &settings.upstreams {
        let result = load(upstream).map_err(|source| StartError::Tls {
            upstream: upstream.name.clone(),
            source,
        });
        loaded.push(result.unwrap_or_else(|fault| {
            faults.push(fault);
            None
        }));
    }
    loaded
}
