//! `warmline load`: sends requests to a URL and says how fast they were answered.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::{NonZeroU32, NonZeroU64};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Builder;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::load_report::Report;
use super::stop::Stop;
use super::{LoadArgs, run};
use crate::compare::load::{Load, Pace, Request, Settings, Tally};
use crate::quantity::{counted, grouped};

/// How long is measured, unless said otherwise.
const DURATION: Duration = Duration::from_secs(10);

/// What a program has open beside its connections, with room for more.
const SPARE_FILES: u64 = 32;

/// What keeps a load from starting.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no address for {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error(
        "{connections} connections need {needed} open files, and the limit is {limit}: raise it with `ulimit -n`, or \
         ask for fewer"
    )]
    Files {
        connections: u32,
        needed: String,
        limit: String,
    },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Sends until all is sent, the time is over or a signal comes, and prints what came of it.
pub(super) fn load(args: &LoadArgs) -> ExitCode {
    run::start_logging(tracing::level_filters::LevelFilter::WARN);
    run::raise_open_files();
    match measure(args) {
        Ok(tally) => {
            let report = Report {
                args,
                tally: &tally,
            };
            let text = if args.json {
                format!("{}\n", report.json())
            } else {
                report.text()
            };
            // A reader that has gone is no reason to fail.
            let _ = io::stdout().write_all(text.as_bytes());
            if tally.any_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &LoadArgs) -> Result<Tally, Failed> {
    enough_files(args.connections)?;
    let settings = settings(args, addresses(args)?);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let load = Load::start(settings)?;
        tokio::select! {
            () = load.ended() => {}
            _ = stop.told() => {}
            () = tell(&load) => {}
        }
        Ok(load.finish()?)
    })
}

/// The system's addresses of the host: the file of hosts, name servers, whatever it asks.
fn addresses(args: &LoadArgs) -> Result<Vec<SocketAddr>, Failed> {
    let failed = |source| Failed::Lookup {
        host: args.url.host.clone(),
        source,
    };
    let found: Vec<_> = (args.url.host.as_str(), args.url.port)
        .to_socket_addrs()
        .map_err(failed)?
        .collect();
    if found.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(found)
}

fn enough_files(connections: u32) -> Result<(), Failed> {
    let needed = u64::from(connections) + SPARE_FILES;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => Err(Failed::Files {
            connections,
            needed: grouped(needed),
            limit: grouped(limit),
        }),
        _ => Ok(()),
    }
}

fn settings(args: &LoadArgs, addresses: Vec<SocketAddr>) -> Settings {
    let at_least_one = |number| NonZeroU32::new(number).expect("the command line has it so");
    let body = args
        .body
        .map(|size| usize::try_from(size).expect("it is at most 64M"));
    Settings {
        addresses,
        request: Request::new(&args.url, method(args), &args.header, body, args.close),
        pace: match args.rate {
            Some(rate) => Pace::Open {
                rate: at_least_one(rate),
                spread: args.arrivals,
            },
            None => Pace::Closed {
                think: args.think.unwrap_or_default(),
            },
        },
        connections: at_least_one(args.connections),
        threads: at_least_one(args.threads),
        close: args.close,
        warm_up: args.warm_up,
        duration: args
            .duration
            .or(args.requests.is_none().then_some(DURATION)),
        requests: args.requests.map(NonZeroU64::get),
        timeout: args.timeout,
    }
}

pub(super) fn method(args: &LoadArgs) -> &str {
    let default = if args.body.is_some() { "POST" } else { "GET" };
    args.method.as_deref().unwrap_or(default)
}

/// Says every second how it goes, where somebody looks. Does not end.
///
/// # Cancellation
/// Nothing is lost.
async fn tell(load: &Load) {
    if !io::stderr().is_terminal() {
        return std::future::pending().await;
    }
    let second = Duration::from_secs(1);
    let start = Instant::now();
    let mut clock = interval_at(start + second, second);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = load.so_far();
    loop {
        let now = clock.tick().await;
        let so_far = load.so_far();
        let answered = grouped(so_far.answered - before.answered);
        let mut line = vec![format!(
            "{:>4} s  {answered:>9} answers",
            (now - start).as_secs()
        )];
        let refused = so_far.refused - before.refused;
        if refused > 0 {
            line.push(format!("{} with a status from 400 on", grouped(refused)));
        }
        let unanswered = so_far.unanswered - before.unanswered;
        if unanswered > 0 {
            line.push(counted(unanswered, "error"));
        }
        if so_far.behind > 0 {
            line.push(format!("{} behind", grouped(so_far.behind)));
        }
        eprintln!("{}", line.join(", "));
        before = so_far;
    }
}
