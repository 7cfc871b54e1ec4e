//! `warmline compare`: pooled against short connections on the same work, and what came of it.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::stop::Stop;
use super::{body, fine_time, header, method, run, some_time, spreads};
use crate::compare::backend::Answers;
use crate::compare::lab::{Line, Sysctls};
use crate::compare::load::{Pace, Spread, Target, Wrong};
use crate::compare::report::Report;
use crate::compare::run::arms::{self, Arm, Mode, Program};
use crate::compare::run::config::{self, Base};
use crate::compare::run::observe::{self, NoProxy, Proxy};
use crate::compare::run::{Behind, Failed, Onlooker, Place, Settings};
use crate::config::units;

/// The arguments of `compare`.
///
/// Starts a proxy and a backend for each mode, and sends each the same requests in turn, there and back.
/// Which modes, against what, on which network and under which load is said here; the defaults take about
/// a minute and a half.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// What is compared; the first is what the others are held against: pooled, short (the backend closes),
    /// close=proxy, close=rst, pool=1,4,16 (at most so many connections)
    #[arg(
        long,
        value_name = "MODES",
        default_value = "pooled,short,close=proxy,close=rst"
    )]
    pub modes: String,

    /// A TOML file of arms with settings of an upstream in place of --modes; docs/compare.md has an example
    #[arg(long, value_name = "FILE", conflicts_with = "modes")]
    pub settings: Option<PathBuf>,

    /// Compare with these too, in the modes they have: nginx, haproxy
    #[arg(long, value_name = "PROGRAMS", value_delimiter = ',', value_parser = program)]
    pub against: Vec<Program>,

    /// Observe proxies that run, by their admin listeners, and send nothing; at least two times, such as
    /// pooled=10.0.0.5:9180
    #[arg(long, value_name = "NAME=ADDRESS:PORT|NAME=unix:PATH", value_parser = Proxy::read as fn(&str) -> Result<Proxy, NoProxy>, conflicts_with_all = ["modes", "settings", "against", "backend", "config", "handicap", "netns"])]
    pub running: Vec<Proxy>,

    /// Send to this backend in place of embedded ones
    #[arg(long, value_name = "URL", value_parser = Target::read as fn(&str) -> Result<Target, Wrong>)]
    pub backend: Option<Target>,

    /// Take an upstream of this configuration file, with all its settings
    #[arg(long, value_name = "FILE", conflicts_with = "backend")]
    pub config: Option<PathBuf>,

    /// Which of them, where the file has several
    #[arg(long, value_name = "NAME", requires = "config")]
    pub upstream: Option<String>,

    /// Bodies of the embedded backends' answers
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = body, conflicts_with_all = ["backend", "config"])]
    pub response: u64,

    /// CPU that each of their answers takes, such as 200us
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = fine_time, conflicts_with_all = ["backend", "config"])]
    pub backend_work: Duration,

    /// How long each of their answers then waits, as if for a database
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = fine_time, conflicts_with_all = ["backend", "config"])]
    pub backend_delay: Duration,

    /// More work for the backend of one arm, such as rst=50us, to see whether it is found; may be repeated
    #[arg(long, value_name = "ARM=TIME", value_parser = handicap)]
    pub handicap: Vec<(String, Duration)>,

    /// Run on hosts of their own: network namespaces joined by veth. Needs root; this machine's network is
    /// left alone
    #[arg(long, conflicts_with_all = ["backend", "config"])]
    pub netns: bool,

    /// The hosts' local ports [default: the kernel's, 32768-60999]
    #[arg(long, value_name = "LOW-HIGH", requires = "netns", value_parser = ports)]
    pub port_range: Option<(u16, u16)>,

    /// Whether the hosts take ports in TIME_WAIT again: 0, 1, or 2 for loopback only [default: the kernel's]
    #[arg(long, value_name = "N", requires = "netns", value_parser = clap::value_parser!(u8).range(0..=2))]
    pub tw_reuse: Option<u8>,

    /// How many `TIME_WAIT`s the hosts may have [default: the kernel's]
    #[arg(long, value_name = "N", requires = "netns")]
    pub max_tw_buckets: Option<u32>,

    /// How long packets take from proxy to backend, one way
    #[arg(long, value_name = "TIME", default_value = "0s", requires = "netns", value_parser = fine_time)]
    pub delay: Duration,

    /// The share of packets that are lost there, such as 0.01
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, requires = "netns")]
    pub loss: f64,

    /// The most bits a second there, such as 100000000
    #[arg(long, value_name = "BITS", requires = "netns")]
    pub line_rate: Option<u64>,

    /// How many client connections, and so requests at a time
    #[arg(short, long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,

    /// Send so many requests a second to the arm that is measured, whether answered or not; without it, as
    /// many as are answered
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,

    /// How the rate is spread: evenly, or at random
    #[arg(long, value_name = "constant|poisson", default_value = "constant", requires = "rate", value_parser = spreads())]
    pub arrivals: Spread,

    /// Wait so long after an answer before the next request
    #[arg(long, value_name = "TIME", conflicts_with = "rate", value_parser = fine_time)]
    pub think: Option<Duration>,

    /// A client connection for each request
    #[arg(long)]
    pub close: bool,

    /// The path; that of --backend where it has one
    #[arg(long, value_name = "PATH", value_parser = path)]
    pub path: Option<String>,

    /// The method [default: GET, with --body POST]
    #[arg(long, value_name = "METHOD", value_parser = method)]
    pub method: Option<String>,

    /// A header, such as "Accept: text/html"; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,

    /// A body of so many bytes, such as 4K, up to 64M
    #[arg(long, value_name = "SIZE", value_parser = body)]
    pub body: Option<u64>,

    /// The longest one request may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time)]
    pub timeout: Duration,

    /// How many threads send
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,

    /// Worker threads of each proxy
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,

    /// Rounds of each arm; with fewer than five little can be told
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// How long a round is
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = some_time)]
    pub round: Duration,

    /// End a round after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub round_requests: Option<u64>,

    /// How long each arm is driven before the first round
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub warm_up: Duration,

    /// Keep everything in this file; `warmline report` reads it. `-`: print it in place of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a page with pictures to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What keeps a comparison from starting, or its report from being kept.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("--modes: {0}")]
    Modes(arms::Wrong),
    #[error("{}: {why}", path.display())]
    Settings { path: PathBuf, why: arms::Wrong },
    #[error("{}: {why}", path.display())]
    Config { path: PathBuf, why: config::Wrong },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("--handicap: there is no arm `{0}`; there is {1}")]
    Handicap(String, String),
    #[error("--running: one proxy has nothing to be compared with; name another")]
    Alone,
    #[error("--handicap is for arms with embedded backends")]
    NotOurs,
    #[error(transparent)]
    Run(#[from] Failed),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs it and says what came of it. Exit code 1: there is no report.
pub(super) fn compare(args: &CompareArgs) -> ExitCode {
    run::start_logging(tracing::level_filters::LevelFilter::WARN);
    run::raise_open_files();
    match whole(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn whole(args: &CompareArgs) -> Result<(), Refused> {
    if args.running.len() == 1 {
        return Err(Refused::Alone);
    }
    for path in [&args.json, &args.html].into_iter().flatten() {
        writable(path)?;
    }
    let report = if args.running.is_empty() {
        let settings = settings(args)?;
        while_listening(move |bar| crate::compare::run::run(&settings, bar))?
    } else {
        let settings = observe::Settings {
            proxies: args.running.clone(),
            rounds: args.rounds,
            round: args.round,
            command: std::env::args().collect(),
        };
        while_listening(move |bar| observe::observe(&settings, bar))?
    };
    super::report::give(&report, args.json.as_deref(), args.html.as_deref())
        .map_err(|(path, source)| Refused::File { path, source })
}

/// A run of a minute and a half is not to be lost for a folder that is not there.
fn writable(path: &Path) -> Result<(), Refused> {
    if path == Path::new("-") {
        return Ok(());
    }
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    match opened {
        Ok(_) => Ok(()),
        Err(source) => Err(Refused::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Runs it on a thread; this one waits for signals. The first ends the run with what there is.
fn while_listening(
    run: impl FnOnce(&Bar) -> Result<Report, Failed> + Send + 'static,
) -> Result<Report, Refused> {
    let enough = Arc::new(AtomicBool::new(false));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut stop = runtime.block_on(async { Stop::listen() })?;
    let (tell, over) = oneshot::channel::<()>();
    let worker = thread::Builder::new().name("compare".to_owned()).spawn({
        let enough = Arc::clone(&enough);
        move || {
            let report = run(&Bar::new(enough));
            drop(tell);
            report
        }
    })?;
    runtime.block_on(async {
        tokio::select! {
            _ = over => {}
            _ = stop.told() => enough.store(true, Ordering::Relaxed),
        }
    });
    let report = worker
        .join()
        .map_err(|_| io::Error::other("the comparison panicked"))?;
    Ok(report?)
}

/// How it goes, on the terminal.
struct Bar {
    enough: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Bar {
    fn new(enough: Arc<AtomicBool>) -> Bar {
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template(
            "{wide_bar} {pos}/{len}  {elapsed} of about {duration}  {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Bar { enough, bar }
    }
}

impl Onlooker for Bar {
    fn at(&self, done: usize, of: usize, what: &str) {
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(what.to_owned());
        if done == of {
            self.bar.finish_and_clear();
        }
    }

    fn has_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }
}

fn settings(args: &CompareArgs) -> Result<Settings, Refused> {
    let some = |number| NonZeroU32::new(number).expect("the command line has it so");
    let size = |bytes: u64| usize::try_from(bytes).expect("it is at most 64M");
    let behind = match (&args.backend, &args.config) {
        (Some(target), _) => Behind::Given(target.clone()),
        (None, Some(path)) => Behind::File(base(path, args.upstream.as_deref())?),
        (None, None) => Behind::Embedded(Answers {
            body_bytes: size(args.response),
            work: args.backend_work,
            delay: args.backend_delay,
        }),
    };
    let path = match (&args.path, &args.backend) {
        (Some(path), _) => path.clone(),
        (None, Some(target)) => target.path.clone(),
        (None, None) => "/".to_owned(),
    };
    Ok(Settings {
        arms: arms(args, &behind)?,
        behind,
        place: if args.netns {
            Place::Hosts {
                line: Line {
                    delay: args.delay,
                    loss: args.loss,
                    rate: args.line_rate,
                },
                sysctls: Sysctls {
                    ports: args.port_range,
                    tw_reuse: args.tw_reuse,
                    max_tw_buckets: args.max_tw_buckets,
                    others: Vec::new(),
                },
            }
        } else {
            Place::Loopback
        },
        method: args
            .method
            .clone()
            .unwrap_or_else(|| if args.body.is_some() { "POST" } else { "GET" }.to_owned()),
        path,
        headers: args.header.clone(),
        body: args.body.map(size),
        pace: match args.rate {
            Some(rate) => Pace::Open {
                rate: some(rate),
                spread: args.arrivals,
            },
            None => Pace::Closed {
                think: args.think.unwrap_or_default(),
            },
        },
        connections: some(args.connections),
        threads: some(args.threads),
        client_close: args.close,
        workers: args.workers,
        rounds: args.rounds,
        round: args.round,
        round_requests: args.round_requests,
        warm_up: args.warm_up,
        timeout: args.timeout,
        command: std::env::args().collect(),
    })
}

fn arms(args: &CompareArgs, behind: &Behind) -> Result<Vec<Arm>, Refused> {
    let mut arms = match &args.settings {
        Some(path) => {
            let text = read(path)?;
            arms::from_file(&text).map_err(|why| Refused::Settings {
                path: path.clone(),
                why,
            })?
        }
        // One mode of ours is enough where another program is the other arm.
        None if args.modes == Mode::Pooled.name() && !args.against.is_empty() => {
            vec![Arm::of(Mode::Pooled)]
        }
        None => arms::read(&args.modes).map_err(Refused::Modes)?,
    };
    if !args.against.is_empty() {
        arms = arms::against(&arms, &args.against).map_err(Refused::Modes)?;
    }
    for (name, work) in &args.handicap {
        if !matches!(behind, Behind::Embedded(_)) {
            return Err(Refused::NotOurs);
        }
        let names: Vec<_> = arms.iter().map(|arm| arm.name.clone()).collect();
        let arm = arms.iter_mut().find(|arm| arm.name == *name);
        arm.ok_or_else(|| Refused::Handicap(name.clone(), names.join(", ")))?
            .handicap += *work;
    }
    Ok(arms)
}

fn base(path: &Path, upstream: Option<&str>) -> Result<Base, Refused> {
    Base::read(&read(path)?, upstream).map_err(|why| Refused::Config {
        path: path.to_owned(),
        why,
    })
}

fn read(path: &Path) -> Result<String, Refused> {
    fs::read_to_string(path).map_err(|source| Refused::File {
        path: path.to_owned(),
        source,
    })
}

fn program(text: &str) -> Result<Program, String> {
    match text {
        "nginx" => Ok(Program::Nginx),
        "haproxy" => Ok(Program::Haproxy),
        _ => Err("nginx and haproxy are what can be compared with".to_owned()),
    }
}

fn handicap(text: &str) -> Result<(String, Duration), String> {
    let (arm, time) = text
        .rsplit_once('=')
        .ok_or("an arm and a time are needed, such as rst=50us")?;
    Ok((arm.to_owned(), fine_time(time)?))
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(low, high)| {
        let (low, high) = (low.parse().ok()?, high.parse().ok()?);
        (1024 <= low && low < high).then_some((low, high))
    });
    range.ok_or_else(|| "two ports from 1024 on are needed, such as 32768-60999".to_owned())
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has no blanks".to_owned())
    }
}
