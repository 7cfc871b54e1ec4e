//! `warmline demo`: both ways side by side, with backends and load of its own.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::stop::Stop;
use super::{DemoArgs, run};
use crate::backend::{self, ServerSettings};
use crate::census::ports::Sysctls;
use crate::census::{Census, TcpState};
use crate::client;
use crate::compare::backend::EmbeddedBackend;
use crate::compare::load::{self, Load};
use crate::compare::picture::{ArmFigures, Picture, Scene};
use crate::config::SHUTDOWN_TIMEOUT;
use crate::keepalive::KeepAlive;
use crate::net::{CertificateSource, ServerTlsSettings};
use crate::route::RouteSettings;
use crate::server::{ListenerSettings, Server, Settings, StartError};

/// Client connections to each proxy.
const CLIENTS: NonZeroU32 = NonZeroU32::new(4).expect("four is not zero");

/// How long a TIME_WAIT socket stands, in whole seconds.
const TIME_WAIT_SECONDS: u64 = 60;

/// How often other ports are tried for the backends: first those that the kernel gives, then those
/// below the range that it gives from, where no outgoing connection has left anything.
const GIVEN_TRIES: u16 = 10;
const FRESH_TRIES: u16 = 50;

/// What keeps a demo from starting.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Proxy(#[from] StartError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// One way of speaking to the backends: a proxy, and the backends' addresses that only it uses.
struct Arm {
    name: &'static str,
    proxy: Server,
    backends: Vec<SocketAddr>,
    /// Requests answered at the last look.
    answered: u64,
}

/// Runs the demo until it is told to stop.
pub(super) fn demo(args: &DemoArgs) -> ExitCode {
    run::start_logging(tracing::level_filters::LevelFilter::WARN);
    run::raise_open_files();
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if matches!(error, Failed::Proxy(StartError::Listen(_))) {
                eprintln!("help: `warmline demo --port N` takes the ports N and N+1 instead");
            }
            ExitCode::FAILURE
        }
    }
}

fn show(args: &DemoArgs) -> Result<(), Failed> {
    let backends = backends()?;
    let door = |arm: usize| {
        backends
            .iter()
            .map(|backend| backend.addresses()[arm])
            .collect()
    };
    let mut arms = [
        Arm::start("pooled", args.port, args.tls, door(0), true)?,
        Arm::start("short", args.port + 1, args.tls, door(1), false)?,
    ];
    let load = if args.no_load {
        None
    } else {
        let of = |arm: &Arm| {
            let address = arm.proxy.addresses()[0];
            Load::start(load::Settings::steady(address, args.rate, CLIENTS))
        };
        Some(arms.iter().map(of).collect::<io::Result<Vec<_>>>()?)
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let shown = runtime.block_on(watch(args, &mut arms));
    drop(load);
    for arm in arms {
        arm.proxy.stop();
        arm.proxy.join();
    }
    shown
}

/// Two backends, each with an address for each arm: that is how the kernel's sockets are told apart.
///
/// The kernel may still know connections of somebody else who had such an address within the last
/// minute; another one is taken then.
fn backends() -> Result<[EmbeddedBackend; 2], Failed> {
    let lowest_given = Sysctls::read().map_or(0, |sysctls| sysctls.port_range.low);
    for attempt in 0..FRESH_TRIES {
        let below = attempt
            .checked_sub(GIVEN_TRIES)
            .and_then(|n| lowest_given.checked_sub(4 * (n + 1)));
        let at = |n: u16| {
            // Ports below 1024 are for privileged programs.
            let port = below
                .filter(|port| *port >= 1024)
                .map_or(0, |port| port + n);
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        };
        let start = || -> io::Result<[EmbeddedBackend; 2]> {
            Ok([
                EmbeddedBackend::start("app1", &[at(0), at(1)])?,
                EmbeddedBackend::start("app2", &[at(2), at(3)])?,
            ])
        };
        let backends = match start() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            backends => backends?,
        };
        let addresses: Vec<_> = backends
            .iter()
            .flat_map(EmbeddedBackend::addresses)
            .collect();
        let known = Census::take(&addresses)?.of_all(addresses);
        if known.ours.total() + known.theirs.connections() == 0 {
            return Ok(backends);
        }
    }
    let why = "every free port has sockets in TIME_WAIT: try again in a minute";
    Err(io::Error::new(io::ErrorKind::AddrInUse, why).into())
}

async fn watch(args: &DemoArgs, arms: &mut [Arm]) -> Result<(), Failed> {
    let mut stop = Stop::listen()?;
    let seconds = args.seconds.map_or(TIME_WAIT_SECONDS, |seconds| {
        seconds.get().min(TIME_WAIT_SECONDS)
    });
    let mut picture = Picture::new(Scene {
        width: columns(),
        full_bar: u64::from(args.rate.get()) * seconds,
        source: Census::take(&[])?.source(),
        sysctls: Sysctls::read().ok(),
    });
    print(&introduction(args, arms));
    print(&picture.header());
    let second = Duration::from_secs(1);
    let start = Instant::now();
    let mut clock = interval_at(start + second, second);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = start;
    loop {
        tokio::select! {
            now = clock.tick() => {
                let figures = look(arms, now - last)?;
                print(&picture.frame(&figures, now - start));
                last = now;
            }
            _ = stop.told() => break,
        }
        if args
            .seconds
            .is_some_and(|seconds| start.elapsed() >= Duration::from_secs(seconds.get()))
        {
            break;
        }
    }
    let figures = look(arms, last.elapsed())?;
    print(&picture.summary(&figures, start.elapsed()));
    Ok(())
}

impl Arm {
    fn start(
        name: &'static str,
        port: u16,
        with_tls: bool,
        backends: Vec<SocketAddr>,
        keep_alive: bool,
    ) -> Result<Arm, StartError> {
        let servers = backends
            .iter()
            .map(|address| ServerSettings::new(address.to_string()))
            .collect();
        let mut upstream = backend::Settings::new(name, servers);
        upstream.pool.keep_alive = KeepAlive {
            enabled: keep_alive,
            ..KeepAlive::BACKEND
        };
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut listeners = vec![address(port).into()];
        let mut certificates = Vec::new();
        if with_tls {
            certificates.push(CertificateSource::SelfSigned(vec!["localhost".to_owned()]));
            listeners.push(ListenerSettings {
                tls: Some(ServerTlsSettings::default()),
                ..address(0).into()
            });
        }
        let proxy = Server::start(&Settings {
            certificates,
            workers: 1,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            resolver: Vec::new(),
            client: client::Settings::default(),
            max_clients: None,
            admin: None,
            access_log: None,
            listeners,
            hosts: Vec::new(),
            routes: vec![RouteSettings::to("/", name).into()],
            upstreams: vec![upstream],
        })?;
        Ok(Arm {
            name,
            proxy,
            backends,
            answered: 0,
        })
    }

    fn figures(&mut self, census: &Census, since: Duration) -> ArmFigures {
        let pool = self.proxy.upstreams()[0].sum();
        let sides = census.of_all(self.backends.iter().copied());
        let new = pool.requests - std::mem::replace(&mut self.answered, pool.requests);
        ArmFigures {
            name: self.name.to_owned(),
            requests: pool.requests,
            requests_per_second: ratio(new, since.as_secs_f64()),
            connects: pool.counts.opened,
            reuse_ratio: (pool.requests > 0)
                .then(|| ratio(pool.counts.reused, ratio(pool.requests, 1.0))),
            time_wait_ours: sides.ours.get(TcpState::TimeWait),
            time_wait_theirs: sides.theirs.get(TcpState::TimeWait),
            open: sides.ours.get(TcpState::Established),
        }
    }
}

/// One look at everything: the proxies' own counts, and the kernel's.
fn look(arms: &mut [Arm], since: Duration) -> Result<Vec<ArmFigures>, Failed> {
    let watched: Vec<_> = arms
        .iter()
        .flat_map(|arm| arm.backends.iter().copied())
        .collect();
    let census = Census::take(&watched)?;
    Ok(arms
        .iter_mut()
        .map(|arm| arm.figures(&census, since))
        .collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a demo are far below 2^52"
)]
fn ratio(count: u64, of: f64) -> f64 {
    if of > 0.0 { count as f64 / of } else { 0.0 }
}

fn introduction(args: &DemoArgs, arms: &[Arm]) -> String {
    let twice = "The same proxy twice, in two modes, in front of the same two backends:\n";
    let mut lines = vec![twice.to_owned()];
    for arm in arms {
        let (address, name) = (arm.proxy.addresses()[0], arm.name);
        let what = match name {
            "pooled" => "connections are kept and used again",
            _ => "a connection for each request",
        };
        lines.push(format!("  {name:<6}  http://{address}  {what}"));
        if let Some(with_tls) = arm.proxy.addresses().get(1) {
            let port = with_tls.port();
            lines.push(format!(
                "          https://localhost:{port}  the same, with TLS and HTTP/2 (curl -k)"
            ));
        }
    }
    lines.push(if args.no_load {
        "\nSend requests to both (--no-load: there are no others). Ctrl-C ends the demo.".to_owned()
    } else {
        let rate = args.rate;
        format!("\nEach gets {rate} requests a second (--rate N, --no-load). Ctrl-C ends the demo.")
    });
    lines.push("\n".to_owned());
    lines.join("\n")
}

/// How wide the terminal is; 80 where there is none.
fn columns() -> usize {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| usize::from(size.ws_col).max(40))
}

/// A reader that has gone is no reason to fail.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
