//! `warmline run`: the file and the flags → the proxy.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::level_filters::LevelFilter;
use tracing::{error, info, warn};

use super::check::print_report;
use super::{DEFAULT_CONFIG, RunArgs, stop};
use crate::admin::Admin;
use crate::backend::{self, ServerSettings};
use crate::client;
use crate::config::{self, Effective, Loaded, Report, SHUTDOWN_TIMEOUT};
use crate::route::RouteSettings;
use crate::server::{self, AdminAddress, AdminSettings, ListenerSettings, Server};

/// The name of the upstream that `--upstream` makes.
const UPSTREAM: &str = "default";

/// Where a proxy without a file listens, unless told.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);

/// Serves requests until it is told to stop.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    start_logging(args.log);
    let (settings, effective) = match settings(args) {
        Ok(loaded) => {
            print_report(&loaded.warnings);
            (loaded.settings, loaded.effective)
        }
        Err(report) => {
            print_report(&report);
            return ExitCode::FAILURE;
        }
    };
    raise_open_files();
    let server = match Server::start(&settings) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let admin = match admin(&server, &settings) {
        Ok(admin) => admin,
        Err(error) => {
            eprintln!("error: the admin listener: {error}");
            return ExitCode::FAILURE;
        }
    };
    let shown = Shown {
        admin: admin.as_ref(),
        now: RefCell::new(effective),
        next: RefCell::default(),
    };
    shown.show();
    stop::serve_until_told(
        server,
        |server| {
            announce(server, &settings);
            if let Some(admin) = &admin {
                match admin.address() {
                    AdminAddress::Ip(address) => info!("admin on http://{address}"),
                    unix @ AdminAddress::Unix(_) => info!("admin on {unix}"),
                }
            }
        },
        || {
            let loaded = read_again(args)?;
            shown.next.replace(loaded.effective);
            Some(loaded.settings)
        },
        || shown.turn(),
    )
}

/// The settings in effect, as the admin listener shows them.
struct Shown<'a> {
    admin: Option<&'a Admin>,
    now: RefCell<Option<Effective>>,
    /// Those that are being put into effect.
    next: RefCell<Option<Effective>>,
}

impl Shown<'_> {
    fn show(&self) {
        if let (Some(admin), Some(effective)) = (self.admin, &*self.now.borrow()) {
            admin.shows(&effective.json());
        }
    }

    /// The next ones are in effect now, but for what takes a restart.
    fn turn(&self) {
        if let Some(mut next) = self.next.take() {
            if let Some(now) = &*self.now.borrow() {
                next.restart_only_from(now);
            }
            self.now.replace(Some(next));
            self.show();
        }
    }
}

/// Starts the admin listener, if there is to be one.
fn admin(server: &Server, settings: &server::Settings) -> io::Result<Option<Admin>> {
    let start = |admin: &AdminSettings| {
        Admin::start(admin.clone(), server.control())
            .map_err(|error| io::Error::other(format!("{}: {error}", admin.address)))
    };
    settings.admin.as_ref().map(start).transpose()
}

/// What SIGHUP asks for. `None`, with the reasons in the log, if there is nothing to go on with but
/// what there is.
fn read_again(args: &RunArgs) -> Option<Loaded> {
    if !args.upstream.is_empty() {
        warn!("SIGHUP: nothing to read again, the proxy was started with --upstream");
        return None;
    }
    match settings(args) {
        Ok(loaded) => {
            print_report(&loaded.warnings);
            Some(loaded)
        }
        Err(report) => {
            print_report(&report);
            let faults = report.faults();
            error!(faults, "SIGHUP: not reloaded, everything goes on as it was");
            None
        }
    }
}

/// Logs to standard error, in colour if a person is looking.
pub(super) fn start_logging(level: LevelFilter) {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
}

/// Raises the limit of open files to what the system allows: two for each request in flight.
pub(super) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!(%error, "cannot raise the limit of open files");
        }
    }
}

fn announce(server: &Server, settings: &server::Settings) {
    let version = env!("CARGO_PKG_VERSION");
    info!(workers = server.workers(), "warmline {version} has started");
    for address in server.addresses() {
        info!("listening on {address}");
    }
    for (upstream, settings) in server.upstreams().iter().zip(&settings.upstreams) {
        let backends: Vec<_> = upstream
            .backends
            .iter()
            .map(|(target, _)| target.backend.to_string())
            .collect();
        let arm = if settings.pool.keep_alive.enabled {
            "kept connections"
        } else {
            "a connection for each request"
        };
        info!("upstream {}: {}, {arm}", upstream.name, backends.join(", "));
    }
}

/// What the proxy is started with: the file, or `--upstream` in its place, and over it the flags.
///
/// # Errors
/// A report of every fault in the file.
pub fn settings(args: &RunArgs) -> Result<Loaded, Report> {
    let mut loaded = if args.upstream.is_empty() {
        let file = args.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        config::load(file)?
    } else {
        Loaded {
            settings: without_file(&args.upstream),
            warnings: Report::default(),
            effective: None,
        }
    };
    override_with(&mut loaded.settings, args);
    if let Some(effective) = &mut loaded.effective {
        show_flags(effective, args);
    }
    Ok(loaded)
}

/// A proxy to one upstream of these servers, with every other setting at its default.
fn without_file(servers: &[String]) -> server::Settings {
    let servers = servers.iter().map(ServerSettings::new).collect();
    server::Settings {
        certificates: Vec::new(),
        workers: 0,
        shutdown_timeout: SHUTDOWN_TIMEOUT,
        resolver: Vec::new(),
        client: client::Settings::default(),
        max_clients: None,
        admin: None,
        access_log: None,
        listeners: vec![LISTEN.into()],
        hosts: Vec::new(),
        routes: vec![RouteSettings::to("/", UPSTREAM).into()],
        upstreams: vec![backend::Settings::new(UPSTREAM, servers)],
    }
}

/// Puts the flags in place of what the settings say; those of keep-alive for every upstream.
fn override_with(settings: &mut server::Settings, args: &RunArgs) {
    if !args.listen.is_empty() {
        let listen = args.listen.iter().copied();
        settings.listeners = listen.map(ListenerSettings::from).collect();
    }
    if let Some(workers) = args.workers {
        settings.workers = workers;
    }
    for upstream in &mut settings.upstreams {
        let keep_alive = &mut upstream.pool.keep_alive;
        if let Some(enabled) = args.keep_alive {
            keep_alive.enabled = enabled;
        }
        if let Some(limit) = args.max_keep_alive_requests {
            keep_alive.max_requests = NonZeroU32::new(limit);
        }
        if let Some(timeout) = args.keep_alive_timeout {
            keep_alive.timeout = timeout;
        }
    }
}

/// The same where the settings are shown.
fn show_flags(effective: &mut Effective, args: &RunArgs) {
    if !args.listen.is_empty() {
        effective.set_listeners(args.listen.iter().map(ToString::to_string));
    }
    if let Some(workers) = args.workers {
        effective.set("server", "workers", workers as u64);
    }
    if let Some(enabled) = args.keep_alive {
        effective.set_upstreams("keep_alive", &enabled.into());
    }
    if let Some(limit) = args.max_keep_alive_requests {
        effective.set_upstreams("max_keep_alive_requests", &limit.into());
    }
    if let Some(timeout) = args.keep_alive_timeout {
        let seconds = format!("{}s", timeout.as_secs_f64());
        effective.set_upstreams("keep_alive_timeout", &seconds.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use std::time::Duration;

    fn args(line: &str) -> RunArgs {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Some(Command::Run(args)) = cli.command else {
            panic!("`run` is what was asked for");
        };
        args
    }

    #[test]
    fn upstream_flags_stand_in_for_a_file() {
        let settings = settings(&args("warmline run --upstream a:1 --upstream b"))
            .unwrap()
            .settings;
        assert_eq!(settings.listeners[0].address.to_string(), "0.0.0.0:8080");
        assert_eq!(settings.upstreams.len(), 1);
        let servers: Vec<_> = settings.upstreams[0]
            .servers
            .iter()
            .map(|s| &s.address)
            .collect();
        assert_eq!(servers, ["a:1", "b:80"]);
        let upstream = settings.routes[0].route.upstream();
        assert_eq!(upstream, Some(settings.upstreams[0].name.as_str()));
        assert_eq!(settings.shutdown_timeout, SHUTDOWN_TIMEOUT);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/two-upstreams.toml");
        let line = format!(
            "warmline run -c {file} --listen :7 --workers 3 --keep-alive off \
             --max-keep-alive-requests 0 --keep-alive-timeout 2s"
        );
        let settings = settings(&args(&line)).unwrap().settings;
        assert_eq!(settings.listeners.len(), 1);
        assert_eq!(settings.listeners[0].address.port(), 7);
        assert_eq!(settings.workers, 3);
        assert_eq!(settings.upstreams.len(), 2);
        for upstream in settings.upstreams {
            assert!(!upstream.pool.keep_alive.enabled);
            assert_eq!(upstream.pool.keep_alive.max_requests, None);
            assert_eq!(upstream.pool.keep_alive.timeout, Duration::from_secs(2));
        }
        assert_eq!(
            settings.client.keep_alive,
            client::Settings::default().keep_alive
        );
    }
}
