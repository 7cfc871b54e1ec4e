//! Rules about the machine: ports, TIME_WAIT, open files, and what else the kernel limits.

use crate::census::ports::TwReuse;
use crate::headroom::TIME_WAIT;
use crate::lookup::Origin;
use crate::net::BACKLOG;
use crate::quantity::{counted, grouped, limit, span, whole};

use super::facts::{Conntrack, gives, sources};
use super::predict::{Holder, closes, expected};
use super::{Facts, Finding};

/// Fewer ports than this are a problem for a pool too.
const FEW_PORTS: u32 = 1_000;

/// Fewer ports than this are a range that somebody made narrower.
const NARROW: u32 = 20_000;

/// What a process may open at least: with a backend connection each, half as many requests at a time.
const FEW_FILES: u64 = 8_192;

/// Listeners, event loops, the log, and what else is open beside connections.
const BESIDE: u64 = 128;
/// What a file is needed for.
const OPEN_FILES: &str = "A client is one file and a backend connection another. Without any left, new clients wait \
                   and requests that need a new connection are answered 503.";

/// Where a change of a kernel setting has to stand to outlast a restart.
const TO_KEEP_IT: &str = "to keep it: the same `name=value` in a file below /etc/sysctl.d/";

fn sysctl(name: &str, value: &str) -> String {
    if value.contains(' ') {
        format!("sysctl -w {name}=\"{value}\"")
    } else {
        format!("sysctl -w {name}={value}")
    }
}

/// The upstreams whose connections leave their TIME_WAIT on this side as a rule.
fn left_here(facts: &Facts<'_>) -> Vec<String> {
    let upstreams = facts.settings.upstreams.iter();
    let here = upstreams.filter(|upstream| Holder::of_last(upstream) == Holder::Here);
    here.map(|upstream| upstream.name.clone()).collect()
}

pub(super) fn port_range(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(limits) = &facts.machine.limits else {
        let found = "The kernel's settings below /proc/sys/net/ipv4 cannot be read.";
        return vec![
            Finding::advice(found)
                .why("Nothing can be said of ports and TIME_WAIT; Linux's defaults are taken.")
                .remedy("run it where /proc/sys can be read"),
        ];
    };
    let (range, ports) = (limits.sysctls.port_range, limits.ports());
    let reserved = range.ports() - ports;
    let less = if reserved == 0 {
        String::new()
    } else {
        format!(" less {} reserved", counted(reserved, "port"))
    };
    let found = format!(
        "ip_local_port_range {}-{}{less}: {} to each backend address, from each source address.",
        range.low,
        range.high,
        counted(ports, "port")
    );
    let a_second = limit(f64::from(ports) / TIME_WAIT.as_secs_f64());
    if ports >= NARROW {
        return vec![Finding::fine(format!(
            "{found} {a_second} closes/s by this side would use them up."
        ))];
    }
    let finding = if ports < FEW_PORTS {
        Finding::problem(found)
    } else {
        Finding::advice(found)
    };
    let remedy = if reserved > range.ports() / 2 {
        "reserve fewer ports: net.ipv4.ip_local_reserved_ports".to_owned()
    } else {
        sysctl("net.ipv4.ip_local_port_range", "32768 60999")
    };
    vec![
        finding
            .why(format!(
                "A connection holds a port while it is open, and for 61 s more if this side closes first: \
                 {a_second} such closes a second to one backend address use up all of them, and then connect() fails."
            ))
            .remedy(remedy)
            .remedy(TO_KEEP_IT),
    ]
}

pub(super) fn listen_ports(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(limits) = &facts.machine.limits else {
        return Vec::new();
    };
    let mut listeners: Vec<(String, u16)> = facts
        .settings
        .listeners
        .iter()
        .map(|listener| ("[[listeners]]".to_owned(), listener.address.port()))
        .collect();
    let admin = facts.settings.admin.iter();
    let admin = admin.filter_map(|admin| admin.address.ip());
    listeners.extend(admin.map(|address| ("[admin]".to_owned(), address.port())));
    for upstream in &facts.settings.upstreams {
        for server in &upstream.servers {
            if let Some(Origin::Address(address)) = Origin::parse(&server.address)
                && (facts.machine.local.contains(&address.ip()) || address.ip().is_loopback())
            {
                let whose = format!("backend {address} on this machine");
                listeners.push((whose, address.port()));
            }
        }
    }
    let mut findings: Vec<_> = listeners
        .into_iter()
        .filter(|(_, port)| *port != 0 && gives(limits, *port))
        .map(|(whose, port)| {
            Finding::advice(format!(
                "Port {port} of {whose} is one of those that outgoing connections get."
            ))
            .why(
                "While nothing listens there, a connection of any program may take it; the next start \
                 then fails now and again with \"address already in use\".",
            )
            .remedy(format!(
                "{}   # the whole list: add those already in it",
                sysctl("net.ipv4.ip_local_reserved_ports", &port.to_string())
            ))
            .remedy(format!(
                "or listen outside of {}-{}",
                limits.sysctls.port_range.low, limits.sysctls.port_range.high
            ))
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::fine(
            "No port that is listened on is one that outgoing connections get.",
        ));
    }
    findings
}

pub(super) fn tw_reuse(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(limits) = &facts.machine.limits else {
        return Vec::new();
    };
    let needs = left_here(facts);
    let found = match limits.sysctls.tw_reuse {
        TwReuse::Never => {
            "tcp_tw_reuse 0: a port in TIME_WAIT is never taken again before its 61 s are over."
        }
        TwReuse::LoopbackOnly => {
            "tcp_tw_reuse 2, the default: ports in TIME_WAIT are taken again after a second over loopback, and \
             never towards other machines. A test on one machine looks better than production."
        }
        TwReuse::Everywhere => {
            "tcp_tw_reuse 1: a port in TIME_WAIT is taken again after a second, if the other end has timestamps."
        }
        TwReuse::Other(_) => "tcp_tw_reuse has a value that is not known here; it is taken for 0.",
    };
    let recycles = limits.sysctls.tw_reuse == TwReuse::Everywhere;
    if recycles || needs.is_empty() {
        let nobody = if recycles {
            ""
        } else {
            " These settings leave no TIME_WAIT on this side, so it does not matter here."
        };
        return vec![Finding::fine(format!("{found}{nobody}"))];
    }
    vec![
        Finding::advice(found)
            .why(format!(
                "Upstream {} closes first, so each of its connections holds a port in TIME_WAIT.",
                needs.join(", ")
            ))
            .remedy("keep connections, or have the backend close first: see short-mode, request-limit, closing")
            .remedy(format!(
                "or, as a makeshift: {}",
                sysctl("net.ipv4.tcp_tw_reuse", "1")
            )),
    ]
}

pub(super) fn timestamps(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(limits) = &facts.machine.limits else {
        return Vec::new();
    };
    if limits.timestamps {
        return vec![Finding::fine("tcp_timestamps is on.")];
    }
    let needed = !left_here(facts).is_empty() && limits.sysctls.tw_reuse == TwReuse::Everywhere;
    let finding = if needed {
        Finding::problem("tcp_timestamps is 0, so tcp_tw_reuse 1 does nothing.")
    } else {
        Finding::advice("tcp_timestamps is 0.")
    };
    vec![
        finding
            .why(
                "Without timestamps no port in TIME_WAIT is taken again, round trips are measured less \
                 often, and old segments are not told from new ones.",
            )
            .remedy(sysctl("net.ipv4.tcp_timestamps", "1"))
            .remedy(TO_KEEP_IT),
    ]
}

pub(super) fn tw_buckets(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(limits) = &facts.machine.limits else {
        return Vec::new();
    };
    let most = u64::from(limits.sysctls.max_tw_buckets);
    let (mut wanted, mut at_the_limit) = (0, false);
    for upstream in &facts.settings.upstreams {
        if Holder::of_last(upstream) != Holder::Here {
            continue;
        }
        for (backend, rate) in facts.backends(upstream) {
            let given = facts.given(backend, upstream, 0.0);
            let room = u64::from(given.ports) * u64::from(sources(upstream, backend));
            match rate {
                Some(rate) => {
                    let recycled = given.headroom().recycling.takes_place();
                    wanted += expected(upstream, rate, recycled).here.min(room);
                }
                None if !upstream.pool.keeps() => {
                    wanted += room;
                    at_the_limit = true;
                }
                None => {}
            }
        }
    }
    let now = facts.time_waits.unwrap_or(0);
    let raise = wanted.max(now * 2).max(1).next_power_of_two();
    let finding = if now * 10 >= most * 9 && now > 0 {
        Finding::problem(format!(
            "{} sockets are in TIME_WAIT, of {} that may be (tcp_max_tw_buckets).",
            grouped(now),
            grouped(most)
        ))
    } else if wanted > most {
        let when = if at_the_limit {
            "once all their ports are taken"
        } else {
            "at this rate"
        };
        Finding::advice(format!(
            "tcp_max_tw_buckets is {}; these settings make {} TIME_WAITs {when}.",
            grouped(most),
            grouped(wanted)
        ))
    } else {
        return vec![Finding::fine(format!(
            "{} in TIME_WAIT now, of {} that may be (tcp_max_tw_buckets).",
            counted(now, "socket"),
            grouped(most)
        ))];
    };
    vec![
        finding
            .why(
                "What is beyond it skips TIME_WAIT: a late segment may meet a new connection, and a count of \
                 TIME_WAITs looks better than the truth (`nstat TcpExtTCPTimeWaitOverflow`).",
            )
            .remedy(sysctl("net.ipv4.tcp_max_tw_buckets", &raise.to_string()))
            .remedy(TO_KEEP_IT),
    ]
}

pub(super) fn open_files(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(most) = facts.machine.open_files else {
        return Vec::new();
    };
    let shell = "of this shell; a service has its own";
    let raise = |to: u64| {
        format!("LimitNOFILE={to} in the service's unit, or `ulimit -Hn {to}` before it is started")
    };
    if let Some(live) = facts.live() {
        let connections: u64 = live
            .backends
            .iter()
            .map(super::LiveBackend::connections)
            .sum();
        let open = live.clients + connections;
        if open * 10 >= most * 8 {
            return vec![
                Finding::problem(format!(
                    "{} are open, of {} files that a process may open ({shell}).",
                    counted(open, "connection"),
                    grouped(most)
                ))
                .why(OPEN_FILES)
                .remedy(raise((open * 4).next_power_of_two())),
            ];
        }
    }
    let mut needed = facts.settings.max_clients.map(|most| u64::from(most.get()));
    for upstream in &facts.settings.upstreams {
        let each = upstream.pool.max_connections;
        let servers = upstream.servers.len() as u64;
        needed = needed.and_then(|sum| Some(sum + u64::from(each?.get()) * servers));
    }
    match needed.map(|needed| needed + BESIDE) {
        Some(needed) if needed > most => vec![
            Finding::problem(format!(
                "`max_connections` of [client] and of the upstreams allow {} files to be open; the hard limit is \
                 {} ({shell}).",
                grouped(needed),
                grouped(most)
            ))
            .why(OPEN_FILES)
            .remedy(raise(needed.next_power_of_two()))
            .remedy("or lower `max_connections`"),
        ],
        None if most < FEW_FILES => vec![
            Finding::advice(format!(
                "A process may open {} files ({shell}), and `max_connections` does not keep below it everywhere.",
                grouped(most)
            ))
            .why(OPEN_FILES)
            .remedy(raise(1 << 16))
            .remedy(format!(
                "or [client] max_connections = {}",
                most.saturating_sub(BESIDE) / 2
            )),
        ],
        Some(_) | None => vec![Finding::fine(format!(
            "A process may open {} files ({shell}); the proxy raises its own limit to it.",
            grouped(most)
        ))],
    }
}

pub(super) fn conntrack(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(tracked) = facts.machine.conntrack else {
        return vec![Finding::fine(
            "No connection tracking (nf_conntrack) is loaded here.",
        )];
    };
    let mut findings = vec![table_of(facts, tracked)];
    if let Some(forgets) = tracked.established {
        for upstream in &facts.settings.upstreams {
            let kept = upstream.pool.keep_alive.timeout;
            if upstream.pool.keeps() && kept >= forgets {
                findings.push(
                    Finding::problem(format!(
                        "Connection tracking forgets a silent connection after {}; this upstream keeps them idle for {}.",
                        span(forgets),
                        span(kept)
                    ))
                    .about(format!("upstream {}", upstream.name))
                    .why("A request on a forgotten connection is dropped or reset on its way.")
                    .remedy(format!(
                        "[upstreams.{}] keep_alive_timeout = \"{}s\"",
                        upstream.name,
                        (forgets / 2).as_secs()
                    ))
                    .remedy("or raise net.netfilter.nf_conntrack_tcp_timeout_established"),
                );
            }
        }
    }
    findings
}

fn table_of(facts: &Facts<'_>, tracked: Conntrack) -> Finding {
    let Conntrack { most, count, .. } = tracked;
    let mut closing = 0.0;
    for upstream in &facts.settings.upstreams {
        let rates = facts.backends(upstream).into_iter();
        closing += rates
            .filter_map(|(_, rate)| rate)
            .map(|rate| closes(upstream, rate))
            .sum::<f64>();
    }
    let held = tracked.time_wait.map_or(120.0, |time| time.as_secs_f64());
    let predicted = whole((closing * held).round());
    let found = format!(
        "Connection tracking has {} of {} entries (nf_conntrack_max).",
        grouped(count),
        grouped(most)
    );
    let finding = if count * 10 >= most * 9 {
        Finding::problem(found)
    } else if predicted > most {
        Finding::problem(format!(
            "{found} At this rate closed connections alone take {}, {} each.",
            grouped(predicted),
            span(tracked.time_wait.unwrap_or_default())
        ))
    } else if count * 10 >= most * 6 {
        Finding::advice(found)
    } else {
        return Finding::fine(found);
    };
    finding
        .why(
            "Each connection takes an entry, and keeps it for a time after its end. Once the table is full the \
             kernel drops the first packets of new connections: \"table full, dropping packet\" in its log.",
        )
        .remedy(sysctl(
            "net.netfilter.nf_conntrack_max",
            &(most * 2).max(predicted * 2).to_string(),
        ))
        .remedy("or `notrack` for this traffic; or keep connections, which takes an entry for each and no more")
}

pub(super) fn backlog(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(most) = facts.machine.somaxconn else {
        return Vec::new();
    };
    let asked = u64::try_from(BACKLOG).expect("it is positive");
    if most >= asked {
        return vec![Finding::fine(format!(
            "net.core.somaxconn {}: listeners have the backlog of {} that they ask for.",
            grouped(most),
            grouped(asked)
        ))];
    }
    vec![
        Finding::advice(format!(
            "net.core.somaxconn {}: the kernel lowers the listeners' backlog of {} to it.",
            grouped(most),
            grouped(asked)
        ))
        .why(
            "Clients beyond it that come at once are dropped, and come again after a second or more \
             (`nstat TcpExtListenOverflows`).",
        )
        .remedy(sysctl("net.core.somaxconn", &asked.to_string()))
        .remedy(TO_KEEP_IT)
        .remedy("then start the proxy anew: a backlog is set when listening begins"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Level::{Advice, Fine, Problem};
    use super::super::tests::{Case, limits, seconds};
    use super::*;

    const PROXY_CLOSES: &str = "keep_alive = false\nshort_mode = \"proxy-closes\"";

    #[test]
    fn a_narrow_range_of_ports_is_said_with_what_it_is_good_for() {
        for (range, reserved, level, words) in [
            ("32768 60999", "", Fine, "462 closes/s"),
            ("1024 65535", "", Fine, "64,512 ports"),
            ("40000 49999", "", Advice, "163 such closes"),
            (
                "40000 40099",
                "",
                Problem,
                "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"",
            ),
            ("32768 60999", "32768-60000", Problem, "reserve fewer"),
            ("32768 60999", "40000", Fine, "less 1 port reserved"),
        ] {
            let case =
                Case::new("").on(|machine| machine.limits = Some(limits(range, "2", reserved)));
            case.says("port-range", level, words);
        }
        let unread = Case::new("").on(|machine| machine.limits = None);
        unread.says("port-range", Advice, "cannot be read");
        for rule in ["listen-ports", "tw-reuse", "timestamps", "tw-buckets"] {
            assert!(unread.findings(rule).is_empty(), "{rule}");
        }
    }

    #[test]
    fn a_port_that_connections_get_is_not_one_to_listen_on() {
        for (range, reserved, level, words) in [
            ("32768 60999", "", Fine, "No port"),
            ("1024 65535", "", Advice, "Port 8080 of [[listeners]]"),
            ("1024 9000", "8080", Fine, "No port"),
            ("9000 9999", "", Advice, "Port 9180 of [admin]"),
        ] {
            let case =
                Case::new("").on(|machine| machine.limits = Some(limits(range, "2", reserved)));
            case.says("listen-ports", level, words);
        }
        let mut case = Case::new("").on(|machine| {
            machine.limits = Some(limits("70 90", "2", ""));
        });
        case.says("listen-ports", Fine, "No port");
        case.machine.local.insert([10, 0, 0, 5].into());
        case.says(
            "listen-ports",
            Advice,
            "Port 80 of backend 10.0.0.5:80 on this machine",
        );
    }

    #[test]
    fn tw_reuse_matters_where_this_side_closes_first() {
        for (settings, value, level, words) in [
            ("", "2", Fine, "does not matter here"),
            ("", "0", Fine, "never taken again"),
            (PROXY_CLOSES, "1", Fine, "after a second"),
            (PROXY_CLOSES, "2", Advice, "Upstream app closes first"),
            (
                PROXY_CLOSES,
                "0",
                Advice,
                "sysctl -w net.ipv4.tcp_tw_reuse=1",
            ),
            (PROXY_CLOSES, "7", Advice, "not known"),
            ("close_last = \"fin\"", "2", Advice, "Upstream app"),
        ] {
            let case = Case::new(settings)
                .on(|machine| machine.limits = Some(limits("32768 60999", value, "")));
            case.says("tw-reuse", level, words);
        }
    }

    #[test]
    fn without_timestamps_no_port_is_taken_again() {
        for (settings, value, on, level, words) in [
            ("", "2", true, Fine, "is on"),
            ("", "1", false, Advice, "tcp_timestamps is 0."),
            (PROXY_CLOSES, "2", false, Advice, "tcp_timestamps=1"),
            (PROXY_CLOSES, "1", false, Problem, "does nothing"),
        ] {
            let case = Case::new(settings).on(|machine| {
                let mut limits = limits("32768 60999", value, "");
                limits.timestamps = on;
                machine.limits = Some(limits);
            });
            case.says("timestamps", level, words);
        }
    }

    #[test]
    fn the_kernels_limit_of_time_waits_is_held_against_what_the_settings_make() {
        let with = |settings: &str, most: u32| {
            Case::new(settings).on(|machine| {
                let limits = machine.limits.as_mut().unwrap();
                limits.sysctls.max_tw_buckets = most;
            })
        };
        with("", 100).says("tw-buckets", Fine, "0 sockets in TIME_WAIT now, of 100");
        with(PROXY_CLOSES, 131_072).says("tw-buckets", Fine, "");
        with(PROXY_CLOSES, 10_000).says("tw-buckets", Advice, "28,232 TIME_WAITs once all");
        with(PROXY_CLOSES, 10_000)
            .rate(100)
            .says("tw-buckets", Fine, "");
        with(PROXY_CLOSES, 5_000).rate(100).says(
            "tw-buckets",
            Advice,
            "6,100 TIME_WAITs at this rate",
        );
        let mut full = with("", 1_000);
        full.time_waits = 950;
        full.says("tw-buckets", Problem, "tcp_max_tw_buckets=2048");
    }

    #[test]
    fn open_files_are_held_against_what_may_be_open() {
        const BOUNDED: &str = "max_connections = 500\n[client]\nmax_connections = 1000";
        for (settings, files, level, words) in [
            ("", 1 << 20, Fine, "1,048,576"),
            ("", 1024, Advice, "[client] max_connections = 448"),
            (BOUNDED, 4096, Fine, "4,096"),
            (BOUNDED, 1024, Problem, "LimitNOFILE=2048"),
        ] {
            let case = Case::new(settings).on(|machine| machine.open_files = Some(files));
            case.says("open-files", level, words);
        }
        Case::new("")
            .live(|backend| backend.idle = 9_000)
            .on(|machine| machine.open_files = Some(10_000))
            .says("open-files", Problem, "9,003 connections are open");
    }

    #[test]
    fn connection_tracking_has_room_and_remembers_for_longer_than_the_pool() {
        let with = |count, established| {
            move |machine: &mut super::super::Machine| {
                machine.conntrack = Some(Conntrack {
                    most: 10_000,
                    count,
                    time_wait: Some(seconds(120)),
                    established: Some(seconds(established)),
                });
            }
        };
        Case::new("").says("conntrack", Fine, "No connection tracking");
        for (count, established, level, words) in [
            (100, 432_000, Fine, "100 of 10,000"),
            (6_500, 432_000, Advice, "nf_conntrack_max=20000"),
            (9_500, 432_000, Problem, "table full"),
            (100, 60, Problem, "keep_alive_timeout = \"30s\""),
            (100, 61, Fine, ""),
        ] {
            let case = Case::new("").on(with(count, established));
            case.says("conntrack", level, words);
        }
        Case::new("keep_alive = false")
            .rate(1000)
            .on(with(100, 432_000))
            .says("conntrack", Problem, "take 120,000, 120 s each");
    }

    #[test]
    fn the_backlog_is_what_the_kernel_lets_it_be() {
        for (most, level, words) in [
            (4096, Fine, "4,096"),
            (128, Advice, "sysctl -w net.core.somaxconn=4096"),
        ] {
            let case = Case::new("").on(|machine| machine.somaxconn = Some(most));
            case.says("backlog", level, words);
        }
    }
}
