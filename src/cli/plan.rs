//! `warmline plan`: what a rate of requests takes in ports and `TIME_WAIT`s, with a connection for
//! each of them and with a pool. On paper: nothing is opened, and no proxy need run.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use super::PlanArgs;
use crate::backend;
use crate::census::ports::{Limits, TwReuse};
use crate::headroom::{Given, Headroom, TIME_WAIT};
use crate::json::Json;
use crate::keepalive::KeepAlive;
use crate::quantity::{counted, grouped, limit, rate, span, whole};

/// The ports that Linux gives where nobody has changed it: 32768-60999.
const LINUX_PORTS: u32 = 28_232;

/// The width of what a line is about.
const LABEL: usize = 50;

/// Prints the plan.
pub(super) fn plan(args: &PlanArgs) -> ExitCode {
    let machine = match Limits::read() {
        Ok(limits) => Some(limits),
        Err(error) => {
            eprintln!(
                "warning: the kernel's settings cannot be read, so Linux's defaults are taken: {error}"
            );
            None
        }
    };
    let plan = Plan::new(args, machine);
    let text = if args.json {
        format!("{}\n", plan.json())
    } else {
        plan.text()
    };
    // A reader that has gone is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// What is planned for, and where.
struct Plan {
    /// Requests a second, and connects without a pool.
    rate: f64,
    backends: NonZeroU32,
    sources: NonZeroU32,
    response_time: Duration,
    kept: Kept,
    /// As on the command line; `None`: nothing there differs from the machine.
    asked: Option<Given<'static>>,
    here: Given<'static>,
    machine: Option<Limits>,
}

/// How long a pool keeps a connection.
struct Kept {
    /// How many requests one carries at most.
    requests: Option<NonZeroU32>,
    age: Option<Duration>,
}

/// What a pool takes.
struct Pooled {
    /// Open at a time.
    connections: f64,
    /// Ends a minute for each of the two reasons, if it were the only one.
    by_requests: f64,
    by_age: f64,
}

impl Pooled {
    /// Ends a minute: a connection ends for the reason that comes first.
    fn ends(&self) -> f64 {
        self.by_requests.max(self.by_age)
    }
}

impl Plan {
    fn new(args: &PlanArgs, machine: Option<Limits>) -> Plan {
        let defaults = backend::Settings::new("", Vec::new()).pool;
        let pairs = f64::from(args.backends.get()) * f64::from(args.sources.get());
        let here = Given {
            ports: machine.as_ref().map_or(LINUX_PORTS, Limits::ports),
            port_range_option: false,
            in_use: 0,
            time_wait: &[],
            length: TIME_WAIT,
            rate: f64::from(args.rate.get()) / pairs,
            tw_reuse: machine
                .as_ref()
                .map_or(TwReuse::LoopbackOnly, |limits| limits.sysctls.tw_reuse),
            timestamps: machine.as_ref().is_none_or(|limits| limits.timestamps),
            loopback: false,
        };
        let asked = (args.ports.is_some() || args.twait.is_some()).then(|| Given {
            ports: args.ports.map_or(here.ports, u32::from),
            length: args.twait.unwrap_or(here.length),
            ..here
        });
        Plan {
            rate: f64::from(args.rate.get()),
            backends: args.backends,
            sources: args.sources,
            response_time: args.response_time,
            kept: Kept {
                requests: match args.max_keep_alive_requests {
                    None => KeepAlive::BACKEND.max_requests,
                    Some(limit) => NonZeroU32::new(limit),
                },
                age: match args.max_age {
                    None => defaults.max_age,
                    Some(age) => Some(age).filter(|age| !age.is_zero()),
                },
            },
            asked,
            here,
            machine,
        }
    }

    fn pooled(&self) -> Pooled {
        // Little's law again: so many a second, each for so long. One for each backend at least.
        let busy = self.rate * self.response_time.as_secs_f64();
        let connections = busy.ceil().max(self.backends.get().into());
        Pooled {
            connections,
            // After N that promised to keep the connection one more ends it.
            by_requests: self.kept.requests.map_or(0.0, |limit| {
                self.rate * 60.0 / (f64::from(limit.get()) + 1.0)
            }),
            by_age: self
                .kept
                .age
                .map_or(0.0, |age| connections * 60.0 / age.as_secs_f64()),
        }
    }

    /// The columns: what was asked for, if it is not this machine, and this machine.
    fn columns(&self) -> Vec<(&'static str, Given<'static>)> {
        let here = if self.machine.is_some() {
            "this machine"
        } else {
            "Linux"
        };
        let asked = self.asked.map(|asked| ("as asked", asked));
        asked.into_iter().chain([(here, self.here)]).collect()
    }

    fn text(&self) -> String {
        let parts = [self.question(), self.short(), self.pool(), self.settings()];
        parts.join("\n")
    }

    fn question(&self) -> String {
        let to = counted(self.backends.get(), "backend address");
        let from = counted(self.sources.get(), "source address");
        let given = self.asked.unwrap_or(self.here);
        let headroom = given.headroom();
        let connections = whole(self.pooled().connections);
        let without = match (headroom.fails_after, headroom.slow_after) {
            (Some(after), _) => format!("runs out of ports after {}", span(after)),
            (None, Some(after)) => format!("makes connect() slow after {}", span(after)),
            (None, None) => "does not run out of ports".to_owned(),
        };
        format!(
            "{} requests/s from {from} to {to}; a response takes {}.\n\n\
             In short: a connection for each request {without};\n\
             a pool needs {}.\n",
            rate(self.rate),
            span(self.response_time),
            counted(connections, "connection"),
        )
    }

    fn short(&self) -> String {
        let columns = self.columns();
        let mut text = vec![format!(
            "{:LABEL$}",
            "A connection for each request, closed here first"
        )];
        for (name, _) in &columns {
            text.push(format!("  {name:>13}"));
        }
        text.push("\n".to_owned());
        let headrooms: Vec<_> = columns
            .iter()
            .map(|(_, given)| (given, given.headroom()))
            .collect();
        let row = |what: &str, cell: &dyn Fn(&Given<'_>, &Headroom) -> String| {
            let cells = headrooms
                .iter()
                .map(|(given, headroom)| format!("  {:>13}", cell(given, headroom)));
            format!(
                "  {what:width$}{}\n",
                cells.collect::<String>(),
                width = LABEL - 2
            )
        };
        let time = |after: Option<Duration>| after.map_or_else(|| "never".to_owned(), span);
        text.push(row(
            "connects/s from one source to one backend",
            &|given, _| rate(given.rate),
        ));
        text.push(row("ports for these", &|given, _| grouped(given.ports)));
        text.push(row("TIME_WAIT holds one for", &|given, _| {
            span(given.length)
        }));
        text.push(row(
            "connect() is slow above (half the ports) [1]",
            &|_, room| format!("{}/s", limit(room.slow_above.unwrap_or_default())),
        ));
        text.push(row("connect() fails above (all of them)", &|_, room| {
            format!("{}/s", limit(room.fails_above))
        }));
        text.push(row("connect() gets slow after [1]", &|_, room| {
            time(room.slow_after)
        }));
        text.push(row("no port is left after", &|_, room| {
            time(room.fails_after)
        }));
        text.push(row(
            "TIME_WAIT sockets in all, if the ports last",
            &|given, _| grouped(self.time_wait_sockets(given)),
        ));
        text.push(row(
            "source addresses needed for this rate",
            &|given, room| grouped(self.sources_needed(given, room)),
        ));
        text.push("\n".to_owned());
        for (name, given) in &columns {
            let name = if columns.len() > 1 {
                format!("{name}: ")
            } else {
                String::new()
            };
            let given = Given {
                port_range_option: true,
                ..*given
            };
            text.push(format!("  {name}{}.\n", given.sentence("a backend")));
        }
        let wanted = self.time_wait_sockets(&self.here);
        if let Some(most) = self
            .machine
            .as_ref()
            .map(|limits| limits.sysctls.max_tw_buckets)
            && wanted > u64::from(most)
        {
            text.push(format!(
                "  tcp_max_tw_buckets {} is less than {}: the rest would skip TIME_WAIT.\n",
                grouped(most),
                grouped(wanted)
            ));
        }
        text.push("  [1] of programs that do not set IP_LOCAL_PORT_RANGE on their sockets; Warmline does.\n".to_owned());
        text.concat()
    }

    fn pool(&self) -> String {
        let pooled = self.pooled();
        let row = |what: &str, value: String, how: String| {
            format!("  {what:width$}  {value:>13}   {how}\n", width = LABEL - 2)
        };
        let mut text = vec!["A pool instead\n".to_owned()];
        let a_minute = |ends: f64| {
            if ends > 0.0 {
                rate(ends)
            } else {
                "0".to_owned()
            }
        };
        text.push(row(
            "connections in use at a time, on average",
            grouped(whole(pooled.connections)),
            format!(
                "{}/s x {}{}",
                rate(self.rate),
                span(self.response_time),
                if self.rate * self.response_time.as_secs_f64() < self.backends.get().into() {
                    ", one for each backend at least"
                } else {
                    ""
                }
            ),
        ));
        text.push(row(
            "ends a minute by request limit",
            a_minute(pooled.by_requests),
            self.kept.requests.map_or_else(
                || "max_keep_alive_requests 0: no limit".to_owned(),
                |most| {
                    format!(
                        "max_keep_alive_requests {most}: {} on each",
                        counted(most.get() + 1, "request")
                    )
                },
            ),
        ));
        text.push(row(
            "ends a minute by age, if they get that old",
            a_minute(pooled.by_age),
            self.kept.age.map_or_else(
                || "max_age 0: no limit".to_owned(),
                |age| format!("max_age {}", span(age)),
            ),
        ));
        text.push(row(
            "TIME_WAIT sockets a minute, all at the backends",
            a_minute(pooled.ends()),
            "the last request asks the backend to close".to_owned(),
        ));
        let without = self.rate * 60.0;
        if pooled.ends() > 0.0 {
            text.push(format!(
                "\n  That is one TIME_WAIT for {} that a connection for each request would leave.\n",
                grouped(whole(without / pooled.ends()))
            ));
        }
        text.concat()
    }

    fn settings(&self) -> String {
        let Some(limits) = &self.machine else {
            return String::new();
        };
        let range = limits.sysctls.port_range;
        let reserved = range.ports() - limits.ports();
        format!(
            "This machine\n\
             \x20 net.ipv4.ip_local_port_range     {}-{}: {}, of which {} reserved\n\
             \x20 net.ipv4.tcp_max_tw_buckets      {}\n\
             \x20 net.ipv4.tcp_tw_reuse            {}: {}\n\
             \x20 net.ipv4.tcp_timestamps          {}\n",
            range.low,
            range.high,
            counted(range.ports(), "port"),
            if reserved == 0 {
                "none is".to_owned()
            } else {
                format!("{} are", grouped(reserved))
            },
            grouped(limits.sysctls.max_tw_buckets),
            tw_reuse(limits.sysctls.tw_reuse),
            self.here.headroom().recycling.effect(),
            if limits.timestamps { "on" } else { "off" },
        )
    }

    /// `TIME_WAIT`s of all pairs together, if neither ports nor the kernel's limit ended them.
    fn time_wait_sockets(&self, given: &Given<'_>) -> u64 {
        whole((self.rate * given.length.as_secs_f64()).round())
    }

    /// So many source addresses have the ports for this rate.
    fn sources_needed(&self, given: &Given<'_>, headroom: &Headroom) -> u64 {
        let to_one = given.rate * f64::from(self.sources.get());
        whole((to_one / headroom.fails_above).ceil()).max(1)
    }

    fn json(&self) -> Json {
        let column = |given: &Given<'_>| {
            let room = given.headroom();
            let seconds = |time: Option<Duration>| Json::from(time.map(|time| time.as_secs_f64()));
            Json::Object(vec![
                ("connects_per_second_per_pair", given.rate.into()),
                ("ports_per_pair", given.ports.into()),
                ("time_wait_seconds", given.length.as_secs_f64().into()),
                ("slow_above_per_second", room.slow_above.into()),
                ("fails_above_per_second", room.fails_above.into()),
                ("slow_after_seconds", seconds(room.slow_after)),
                ("fails_after_seconds", seconds(room.fails_after)),
                ("time_wait_per_pair", room.steady_time_wait.into()),
                ("time_wait_total", self.time_wait_sockets(given).into()),
                ("sources_needed", self.sources_needed(given, &room).into()),
                ("recycling", room.recycling.label().into()),
            ])
        };
        let pooled = self.pooled();
        let machine = self.machine.as_ref().map(limits_json);
        Json::Object(vec![
            ("requests_per_second", self.rate.into()),
            ("backends", self.backends.get().into()),
            ("sources", self.sources.get().into()),
            (
                "response_time_seconds",
                self.response_time.as_secs_f64().into(),
            ),
            ("short_as_asked", self.asked.as_ref().map(column).into()),
            ("short_this_machine", column(&self.here)),
            (
                "pooled",
                Json::Object(vec![
                    ("connections", whole(pooled.connections).into()),
                    (
                        "max_keep_alive_requests",
                        self.kept.requests.map(NonZeroU32::get).into(),
                    ),
                    (
                        "max_age_seconds",
                        self.kept.age.map(|age| age.as_secs_f64()).into(),
                    ),
                    ("ends_per_minute_by_requests", pooled.by_requests.into()),
                    ("ends_per_minute_by_age", pooled.by_age.into()),
                    ("time_wait_per_minute_at_backends", pooled.ends().into()),
                ]),
            ),
            ("kernel", machine.into()),
        ])
    }
}

/// The kernel's settings as both commands have them in JSON.
pub(super) fn limits_json(limits: &Limits) -> Json {
    let range = limits.sysctls.port_range;
    Json::Object(vec![
        (
            "ip_local_port_range",
            Json::List(vec![
                u32::from(range.low).into(),
                u32::from(range.high).into(),
            ]),
        ),
        ("ports_reserved", (range.ports() - limits.ports()).into()),
        ("tcp_max_tw_buckets", limits.sysctls.max_tw_buckets.into()),
        (
            "tcp_tw_reuse",
            u32::from(tw_reuse(limits.sysctls.tw_reuse)).into(),
        ),
        ("tcp_timestamps", limits.timestamps.into()),
    ])
}

/// The value as it stands in `/proc/sys`.
fn tw_reuse(value: TwReuse) -> u8 {
    match value {
        TwReuse::Never => 0,
        TwReuse::Everywhere => 1,
        TwReuse::LoopbackOnly => 2,
        TwReuse::Other(value) => value,
    }
}
