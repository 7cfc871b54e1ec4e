//! The proxy under test: in this process with its figures, or as the program that is shipped.

use std::fs;
use std::net::SocketAddr;
use std::panic;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use warmline::account::PoolFigures;
use warmline::backend::{self, ServerSettings};
use warmline::client;
use warmline::keepalive::CloseReason;
use warmline::route::RouteSettings;
use warmline::server::{Server, Settings};

use super::process::Process;
use super::{PATIENCE, wait_until};

/// Panics of workers in this process; the tasks they happened in are gone, the workers go on.
static WORKER_PANICS: AtomicUsize = AtomicUsize::new(0);

/// A proxy in this process, on a port of its own. Stopped and waited for when dropped; a panic in one
/// of its workers fails the test then.
pub struct TestProxy {
    addr: SocketAddr,
    server: Option<Server>,
    panics_before: usize,
}

/// What a [`TestProxy`] is started with: one worker, one upstream for everything, all else at its
/// default.
#[must_use]
pub struct Builder {
    settings: Settings,
}

impl TestProxy {
    /// A proxy to one backend, to be [started](Builder::start).
    pub fn to(backend: SocketAddr) -> Builder {
        TestProxy::to_all(&[(backend, 1)])
    }

    /// A proxy to backends with these weights.
    pub fn to_all(backends: &[(SocketAddr, u32)]) -> Builder {
        let servers = backends
            .iter()
            .map(|(addr, weight)| ServerSettings {
                address: addr.to_string(),
                weight: *weight,
            })
            .collect();
        Builder {
            settings: Settings {
                certificates: Vec::new(),
                workers: 1,
                // What a test leaves in flight is not worth waiting for.
                shutdown_timeout: Duration::from_secs(1),
                resolver: Vec::new(),
                client: client::Settings::default(),
                max_clients: None,
                admin: None,
                access_log: None,
                listeners: vec![super::local(0).into()],
                hosts: Vec::new(),
                routes: vec![RouteSettings::to("/", "test").into()],
                upstreams: vec![backend::Settings::new("test", servers)],
            },
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The running server.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is dropped")
    }

    /// The figures of all upstreams, added up.
    pub fn figures(&self) -> PoolFigures {
        let mut sum = PoolFigures::default();
        for upstream in self.server().upstreams() {
            upstream.add_to(&mut sum);
        }
        sum
    }

    /// Waits until `count` backend connections have ended for `reason`.
    ///
    /// # Panics
    /// When they do not within the usual patience.
    pub fn wait_closed_for(&self, reason: CloseReason, count: u64) {
        wait_until(
            PATIENCE,
            &format!("{count} closed for {}", reason.label()),
            || self.figures().closed_for(reason) >= count,
        );
    }
}

impl Builder {
    /// Changes the upstream's settings.
    pub fn upstream(mut self, change: impl FnOnce(&mut backend::Settings)) -> Builder {
        change(&mut self.settings.upstreams[0]);
        self
    }

    /// Changes how clients are served.
    pub fn client(mut self, change: impl FnOnce(&mut client::Settings)) -> Builder {
        change(&mut self.settings.client);
        self
    }

    /// Changes any of the settings.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Builder {
        change(&mut self.settings);
        self
    }

    /// So many workers, instead of one.
    pub fn workers(self, workers: usize) -> Builder {
        self.settings(|settings| settings.workers = workers)
    }

    /// The short mode: one backend connection a request.
    pub fn short(self) -> Builder {
        self.upstream(|upstream| upstream.pool.keep_alive.enabled = false)
    }

    /// No limit on the requests of one connection, on both sides.
    pub fn unlimited(self) -> Builder {
        self.upstream(|upstream| upstream.pool.keep_alive.max_requests = None)
            .client(|client| client.keep_alive.max_requests = None)
    }

    /// The settings it would be started with.
    pub fn into_settings(self) -> Settings {
        self.settings
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(self) -> TestProxy {
        count_worker_panics();
        let server = Server::start(&self.settings).unwrap_or_else(|error| panic!("{error}"));
        TestProxy {
            addr: server.addresses()[0],
            server: Some(server),
            panics_before: WORKER_PANICS.load(Ordering::SeqCst),
        }
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            server.join();
        }
        let panics = WORKER_PANICS.load(Ordering::SeqCst) - self.panics_before;
        assert!(
            panics == 0 || std::thread::panicking(),
            "{panics} panics in workers while this proxy ran; the messages are above"
        );
    }
}

/// A panic in a worker's task ends the task and nothing else: without this no test would see it.
fn count_worker_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if thread
                .name()
                .is_some_and(|name| name.starts_with("worker-"))
            {
                WORKER_PANICS.fetch_add(1, Ordering::SeqCst);
            }
            usual(info);
        }));
    });
}

/// The shipped program with a file of settings, stopped when dropped.
pub struct Program {
    /// Where it listens.
    pub addr: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl Program {
    /// Runs `warmline run` with one worker, one listener, and these tables in its file beside them.
    ///
    /// # Panics
    /// When it does not start, with what it says.
    pub fn run(tables: &str) -> Program {
        let dir = TempDir::new().expect("a temporary folder can be had");
        let file = dir.path().join("warmline.toml");
        let head = "[server]\nworkers = 1\nshutdown_timeout = \"1s\"\n\
                    [[listeners]]\naddress = \"127.0.0.1:0\"\n";
        fs::write(&file, format!("{head}{tables}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.env("NO_COLOR", "1").arg("run").arg("-c").arg(&file);
        let mut process = Process::start(&mut command, &dir.path().join("output"));
        let mut addr = None;
        let mut ended = false;
        wait_until(PATIENCE, "the program to listen", || {
            addr = process.said().lines().find_map(|line| {
                let (_, addr) = line.split_once("listening on ")?;
                addr.trim().parse().ok()
            });
            ended = process.ended().is_some();
            addr.is_some() || ended
        });
        let Some(addr) = addr else {
            panic!("warmline did not start:\n{}", process.said());
        };
        Program {
            addr,
            process,
            _dir: dir,
        }
    }

    /// All that it listens on, in the order of the file, once there are so many.
    ///
    /// # Panics
    /// When there are not.
    pub fn listens_on(&mut self, count: usize) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        wait_until(PATIENCE, "every listener", || {
            let said = self.process.said();
            let lines = said
                .lines()
                .filter_map(|line| line.split_once("listening on "));
            all = lines
                .filter_map(|(_, addr)| addr.trim().parse().ok())
                .collect();
            all.len() >= count
        });
        all
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The most memory it has had in RAM so far, in bytes: `VmHWM`.
    pub fn memory_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory it has in RAM now, in bytes: `VmRSS`.
    pub fn memory_now(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))
            .expect("it runs until it is dropped");
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .and_then(|number| number.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {field} in {status}"));
        kib * 1024
    }
}
