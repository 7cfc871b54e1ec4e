//! The command line: what can be asked for, and who answers.
//!
//! Exit codes: 0 when all is well, 1 for a configuration with faults, a failed start, a kernel that
//! cannot be asked for its sockets, a problem that `doctor` found or a load without a single good answer, 2 for a
//! command line that cannot be understood.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::compare::load::{Spread, Target, Wrong};
use crate::config::{address, units};
use crate::server::AdminAddress;

mod admin_client;
mod backend;
mod check;
mod compare;
mod demo;
mod doctor;
mod healthcheck;
mod in_lab;
mod load;
mod load_report;
mod notify;
mod plan;
mod report;
pub mod run;
mod split;
mod states;
mod stop;
mod tables;
mod top;

/// The file that is read when none is named.
pub const DEFAULT_CONFIG: &str = "config/warmline.toml";

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "warmline",
    about = "A reverse proxy that keeps its lines to the backends warm",
    version,
    disable_version_flag = true,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Test the configuration file, as `check` does
    #[arg(short = 't', long = "test")]
    pub test: bool,

    #[command(flatten)]
    check: TestArgs,

    /// Print the version
    #[arg(short = 'v', visible_short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve requests
    Run(RunArgs),
    /// Test the configuration file and say what is in it
    Check(CheckArgs),
    /// Show pooled and short connections side by side, with backends and load of its own
    Demo(DemoArgs),
    /// Show the kernel's TCP sockets by state, and the ports left towards backends
    States(StatesArgs),
    /// Work out what a rate of requests takes in ports and `TIME_WAIT`s, with and without a pool
    Plan(PlanArgs),
    /// Send requests to a URL and say how fast they were answered
    Load(LoadArgs),
    /// Compare pooled with short backend connections on the same work, and say what the difference is
    Compare(Box<compare::CompareArgs>),
    /// Answer every request, to try a proxy with
    #[command(hide = true)]
    Backend(backend::BackendArgs),
    /// Show the report of a comparison again, or hold saved ones against each other
    Report(report::ReportArgs),
    /// Hold the configuration file against this machine and the running proxy, and say what to do
    ///
    /// Changes nothing and needs no privileges. If the file has an admin table and its proxy runs, that
    /// is asked too, twice within a second. Exit code 1: there is a problem.
    Doctor(DoctorArgs),
    /// Ask whether the proxy of a configuration file is well
    ///
    /// Asks its admin listener, and without one whether connections are accepted. Exit code 1: it is not.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Send another share of an upstream's requests over short connections, in a running proxy
    ///
    /// Takes effect at once, without a reload. The upstream needs a `short_share`, and the file an admin table.
    Split(split::SplitArgs),
    /// Watch a running proxy: pools, TCP states, ports and rates of each backend
    ///
    /// The proxy's file needs an admin table. Keys: q quits, the arrows select a backend, p pauses, ? has
    /// the rest. With --once, or where there is no terminal, it is printed once as plain text; exit code 1:
    /// no proxy answers.
    Top(TopArgs),
    /// Become a program that is killed when its starter ends; what a comparison starts programs with
    #[command(hide = true)]
    InLab(InLabArgs),
}

/// The arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file [default: config/warmline.toml]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen here in place of what the file says; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address::listen)]
    pub listen: Vec<SocketAddr>,

    /// Run without a file, with one upstream of these servers; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = plain_server, conflicts_with = "config")]
    pub upstream: Vec<String>,

    /// Worker threads; 0 is one per core
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,

    /// Whether backend connections are kept
    #[arg(long, value_name = "on|off", value_parser = units::switch, action = ArgAction::Set)]
    pub keep_alive: Option<bool>,

    /// How many exchanges may keep a backend connection; 0 is unlimited
    #[arg(long, value_name = "N")]
    pub max_keep_alive_requests: Option<u32>,

    /// The longest a kept backend connection may wait, such as 300ms, 60s or 1m30s
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub keep_alive_timeout: Option<Duration>,

    /// What to log
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = levels())]
    pub log: LevelFilter,
}

/// The arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Say nothing when all is well
    #[arg(short, long)]
    pub quiet: bool,

    /// Say which route a request takes, and which settings are in force for it, with their lines
    #[arg(
        long,
        value_name = "METHOD URL",
        conflicts_with = "quiet",
        long_help = "Say which route a request takes, and which settings are in force for it, with their \
                     lines: --explain 'GET http://shop.example/api/x'"
    )]
    pub explain: Option<String>,

    /// A header of that request, as in curl
    #[arg(
        short = 'H',
        long = "header",
        value_name = "NAME: VALUE",
        requires = "explain"
    )]
    pub headers: Vec<String>,
}

/// The arguments of `-t`: those of `check`, which mean nothing without it.
#[derive(Clone, Debug, Args)]
struct TestArgs {
    /// The configuration file to test [default: config/warmline.toml]
    #[arg(short, long, value_name = "FILE", requires = "test")]
    config: Option<PathBuf>,

    /// Say nothing when all is well
    #[arg(short, long, requires = "test")]
    quiet: bool,
}

/// The arguments of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// The port of the pooled proxy; the short one has the next
    #[arg(long, value_name = "N", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65534))]
    pub port: u16,

    /// Send no requests; somebody else will
    #[arg(long)]
    pub no_load: bool,

    /// Requests a second, to each of the two proxies
    #[arg(long, value_name = "N", default_value = "200")]
    pub rate: NonZeroU32,

    /// Stop after so many seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<NonZeroU64>,

    /// Listen with TLS and HTTP/2 too, with a certificate that is made for it
    #[arg(long)]
    pub tls: bool,
}

/// The arguments of `states`.
///
/// Needs no privileges and no proxy; what it sees is its own network namespace.
#[derive(Clone, Debug, Args)]
pub struct StatesArgs {
    /// Show the sockets of this address, and the ports left towards it; may be repeated. Without
    /// it: all sockets
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = backend)]
    pub backend: Vec<SocketAddr>,

    /// Show them again every so many seconds until interrupted [default: 1]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = pause)]
    pub watch: Option<Duration>,

    /// Print JSON, an object a line; docs/measure.md has its keys
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `plan`.
///
/// Nothing is opened, and no proxy need run.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Requests a second, to all backends together
    #[arg(long, value_name = "N")]
    pub rate: NonZeroU32,

    /// How many backend addresses share them evenly
    #[arg(long, value_name = "N", default_value = "1")]
    pub backends: NonZeroU32,

    /// How many source addresses connections come from
    #[arg(long, value_name = "N", default_value = "1")]
    pub sources: NonZeroU32,

    /// How long a response takes
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = some_time)]
    pub response_time: Duration,

    /// Plan for a TIME_WAIT this long, beside this machine's [Linux: 60s, 61s with its timers]
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    pub twait: Option<Duration>,

    /// Plan for so many ports, beside those of this machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Option<u16>,

    /// The pool's request limit; 0 is unlimited [default: 1000, as in the settings]
    #[arg(long, value_name = "N")]
    pub max_keep_alive_requests: Option<u32>,

    /// The pool's age limit; 0 is unlimited [default: 1h, as in the settings]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_age: Option<Duration>,

    /// Print JSON; docs/measure.md has its keys
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `load`.
///
/// HTTP/1.1 without TLS. Without `--rate` each connection sends its next request when the last one is answered.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Where to: http, a host or an address, and a path
    #[arg(value_name = "URL", value_parser = Target::read as fn(&str) -> Result<Target, Wrong>)]
    pub url: Target,

    /// How many connections, and so requests at a time
    #[arg(short, long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,

    /// Send so many requests a second, whether answered or not; latency counts from when each was due
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,

    /// How the rate is spread: evenly, or at random
    #[arg(long, value_name = "constant|poisson", default_value = "constant", requires = "rate", value_parser = spreads())]
    pub arrivals: Spread,

    /// A new connection for each request, which the server is asked to close
    #[arg(long)]
    pub close: bool,

    /// The method [default: GET, with --body POST]
    #[arg(long, value_name = "METHOD", value_parser = method)]
    pub method: Option<String>,

    /// A header, such as "Accept: text/html"; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,

    /// A body of so many bytes, such as 4K, up to 64M
    #[arg(long, value_name = "SIZE", value_parser = body)]
    pub body: Option<u64>,

    /// Send for so long before it is measured
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::duration)]
    pub warm_up: Duration,

    /// Measure for so long [default: 10s, unless there is --requests]
    #[arg(short, long, value_name = "TIME", value_parser = some_time)]
    pub duration: Option<Duration>,

    /// Measure so many requests, and end
    #[arg(short = 'n', long, value_name = "N")]
    pub requests: Option<NonZeroU64>,

    /// Wait so long after an answer before the next request
    #[arg(long, value_name = "TIME", conflicts_with = "rate", value_parser = units::duration)]
    pub think: Option<Duration>,

    /// The longest one request may take, its connection included
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = some_time)]
    pub timeout: Duration,

    /// How many threads share the connections
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,

    /// Print JSON; docs/load.md has its keys
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Where the running proxy's admin listener is [default: the file's admin address]
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", value_parser = admin_client::address)]
    pub admin: Option<AdminAddress>,

    /// Work it out for so many requests a second to each upstream, in place of those that a running proxy has
    #[arg(long, value_name = "N")]
    pub rate: Option<NonZeroU32>,

    /// Print JSON; docs/measure.md has its keys
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Where the running proxy's admin listener is
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", default_value = "127.0.0.1:9180", value_parser = admin_client::address)]
    pub admin: AdminAddress,

    /// Print it once and end
    #[arg(long)]
    pub once: bool,

    /// How often the proxy is asked, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = pause)]
    pub interval: Duration,
}

/// The arguments of `in-lab`.
#[derive(Clone, Debug, Args)]
pub struct InLabArgs {
    /// The process that must be the parent
    #[arg(long, value_name = "PID")]
    pub owner: u32,

    /// The program and its arguments
    #[arg(
        value_name = "PROGRAM",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub program: Vec<OsString>,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Demo(args)) => demo::demo(&args),
        Some(Command::States(args)) => states::states(&args),
        Some(Command::Plan(args)) => plan::plan(&args),
        Some(Command::Load(args)) => load::load(&args),
        Some(Command::Compare(args)) => compare::compare(&args),
        Some(Command::Backend(args)) => backend::backend(&args),
        Some(Command::Report(args)) => report::report(&args),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Healthcheck(args)) => healthcheck::healthcheck(&args),
        Some(Command::Split(args)) => split::split(&args),
        Some(Command::Top(args)) => top::top(&args),
        Some(Command::InLab(args)) => in_lab::in_lab(&args),
        // Without a command there is at least one argument, and each of them needs `-t`.
        None => check::check(&CheckArgs {
            config: cli.check.config.unwrap_or_else(|| DEFAULT_CONFIG.into()),
            quiet: cli.check.quiet,
            explain: None,
            headers: Vec::new(),
        }),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    let setting = crate::config::keys::SERVER
        .find("workers")
        .expect("`workers` is a setting");
    let (least, most) = setting.takes.bounds();
    let number = units::whole(text).map_err(|wrong| wrong.to_string())?;
    usize::try_from(number)
        .ok()
        .filter(|_| (least..=most).contains(&number))
        .ok_or_else(|| format!("allowed: {}", setting.takes.allowed()))
}

fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|word| word.parse::<LevelFilter>().expect("each word is a level"))
}

/// The address of a socket: the kernel knows no names.
fn backend(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        "an IP address and a port are needed, such as 10.0.0.5:80 or [2001:db8::5]:80".to_owned()
    })?;
    if address.port() == 0 {
        return Err("port 0 is no port that a backend can have".to_owned());
    }
    Ok(address)
}

/// Between two looks; shorter would measure little but itself.
fn pause(text: &str) -> Result<Duration, String> {
    let pause = units::duration(text).map_err(|wrong| wrong.to_string())?;
    if pause < Duration::from_millis(100) {
        return Err("less than 100ms".to_owned());
    }
    Ok(pause)
}

/// A time that is not zero.
fn some_time(text: &str) -> Result<Duration, units::Wrong> {
    units::duration(text).and_then(|time| {
        if time.is_zero() {
            Err(units::Wrong::Zero)
        } else {
            Ok(time)
        }
    })
}

/// A time that may be a few microseconds, such as 200us.
fn fine_time(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("us") {
        Some(micros) => micros
            .parse()
            .map(Duration::from_micros)
            .map_err(|_| "a whole number of microseconds is needed, such as 200us".to_owned()),
        None => units::duration(text).map_err(|wrong| wrong.to_string()),
    }
}

fn spreads() -> impl TypedValueParser<Value = Spread> {
    PossibleValuesParser::new(["constant", "poisson"]).map(|word| match word.as_str() {
        "poisson" => Spread::Poisson,
        _ => Spread::Constant,
    })
}

fn method(text: &str) -> Result<String, String> {
    let token = http::Method::from_bytes(text.as_bytes()).map_err(|error| error.to_string())?;
    if token == http::Method::CONNECT {
        return Err("a tunnel has no answers to be measured".to_owned());
    }
    Ok(text.to_owned())
}

/// A header line, but for those that say how the request is framed.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a name and a value are needed, such as \"Accept: text/html\"")?;
    let name: http::HeaderName = name.parse().map_err(|_| "that is no header's name")?;
    let value = http::HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?;
    let value = value.to_str().map_err(|error| error.to_string())?;
    match name.as_str() {
        "connection" => Err("--close says whether connections are closed".to_owned()),
        "content-length" | "transfer-encoding" => {
            Err("--body says how long the body is".to_owned())
        }
        name => Ok((name.to_owned(), value.to_owned())),
    }
}

fn body(text: &str) -> Result<u64, String> {
    let size = units::bytes(text).map_err(|wrong| wrong.to_string())?;
    if size > 64 << 20 {
        return Err("more than 64M".to_owned());
    }
    Ok(size)
}

/// A backend that is spoken to without TLS.
fn plain_server(text: &str) -> Result<String, address::Wrong> {
    address::server(text, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_settings_in_place_of_the_files() {
        let line = "warmline run --listen :9090 --listen [::1]:9091 --upstream http://app \
                    --workers 2 --keep-alive off --max-keep-alive-requests 0 \
                    --keep-alive-timeout 1m30s --log debug";
        let Some(Command::Run(args)) = parse(line).unwrap().command else {
            panic!("`run` is what was asked for");
        };
        assert_eq!(args.config, None);
        let listen: Vec<_> = args.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["0.0.0.0:9090", "[::1]:9091"]);
        assert_eq!(args.upstream, ["app:80"]);
        assert_eq!(args.workers, Some(2));
        assert_eq!(args.keep_alive, Some(false));
        assert_eq!(args.max_keep_alive_requests, Some(0));
        assert_eq!(args.keep_alive_timeout, Some(Duration::from_secs(90)));
        assert_eq!(args.log, LevelFilter::DEBUG);
    }

    #[test]
    fn demo_has_its_defaults() {
        let Some(Command::Demo(args)) = parse("warmline demo").unwrap().command else {
            panic!("`demo` is what was asked for");
        };
        assert_eq!(
            (args.port, args.no_load, args.rate.get()),
            (8080, false, 200)
        );
        assert_eq!(args.seconds, None);
    }

    #[test]
    fn states_looks_once_or_every_so_often() {
        for (line, watch) in [
            ("warmline states", None),
            ("warmline states --watch", Some(1000)),
            ("warmline states --watch 5", Some(5000)),
            ("warmline states --watch --backend [::1]:80", Some(1000)),
            (
                "warmline states --backend 10.0.0.5:80 --watch 0.5",
                Some(500),
            ),
        ] {
            let Some(Command::States(args)) = parse(line).unwrap().command else {
                panic!("`states` is what was asked for");
            };
            assert_eq!(args.watch, watch.map(Duration::from_millis), "{line}");
            assert_eq!(args.backend.len(), usize::from(line.contains("--backend")));
        }
    }

    #[test]
    fn load_takes_a_url_and_has_its_defaults() {
        let line = "warmline load http://app:81/x -c 4 --rate 10 --arrivals poisson -H A:b -n 5";
        let Some(Command::Load(args)) = parse(line).unwrap().command else {
            panic!("`load` is what was asked for");
        };
        assert_eq!(args.url.to_string(), "http://app:81/x");
        assert_eq!(
            (args.connections, args.rate, args.threads),
            (4, Some(10), 1)
        );
        assert_eq!(args.arrivals, Spread::Poisson);
        assert_eq!(args.header, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((args.duration, args.requests), (None, NonZeroU64::new(5)));
        assert_eq!(
            (args.warm_up, args.timeout),
            (Duration::ZERO, Duration::from_secs(10))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "warmline -q",
            "warmline -c file.toml",
            "warmline -t run",
            "warmline serve",
            "warmline run --listen localhost:80",
            "warmline run --upstream https://app",
            "warmline run --upstream app -c file.toml",
            "warmline run --workers -1",
            "warmline run --workers 100000",
            "warmline run --keep-alive maybe",
            "warmline run --max-keep-alive-requests -1",
            "warmline run --keep-alive-timeout 5x",
            "warmline run --log loud",
            "warmline demo --port 65535",
            "warmline demo --rate 0",
            "warmline plan",
            "warmline plan --rate 0",
            "warmline plan --rate 10 --backends 0",
            "warmline plan --rate 10 --sources 0",
            "warmline plan --rate 10 --ports 0",
            "warmline plan --rate 10 --ports 65536",
            "warmline plan --rate 10 --twait 0",
            "warmline plan --rate 10 --response-time 0s",
            "warmline load",
            "warmline load app:80",
            "warmline load https://app",
            "warmline load http://app --connections 0",
            "warmline load http://app --rate 0",
            "warmline load http://app --arrivals poisson",
            "warmline load http://app --rate 1 --arrivals often",
            "warmline load http://app --rate 1 --think 1s",
            "warmline load http://app --requests 0",
            "warmline load http://app --duration 0s",
            "warmline load http://app --threads 0",
            "warmline load http://app --method G@T",
            "warmline load http://app --method CONNECT",
            "warmline load http://app --header Accept",
            "warmline load http://app --header Content-Length:1",
            "warmline load http://app --header Connection:close",
            "warmline load http://app --body 65M",
            "warmline states --backend localhost:80",
            "warmline states --backend 10.0.0.5",
            "warmline states --backend 10.0.0.5:0",
            "warmline states --watch 0",
            "warmline states --watch soon",
            "warmline doctor --admin localhost:9180",
            "warmline doctor --admin unix:",
            "warmline doctor --rate 0",
            "warmline top --interval 0",
            "warmline top --admin nowhere",
            "warmline in-lab -- sleep",
            "warmline in-lab --owner 1",
            "warmline doctor config/warmline.toml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
