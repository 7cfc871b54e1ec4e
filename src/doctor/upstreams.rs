//! Rules about what the file asks for of its upstreams.

use crate::backend::{self, ShortMode};
use crate::census::ports::TwReuse;
use crate::headroom::Given;
use crate::lookup::Origin;
use crate::net::CloseMode;
use crate::quantity::{counted, grouped, limit, rate as per_second, span, whole};

use super::facts::{gives, sources};
use super::predict::{Holder, closes, expected};
use super::{Facts, Finding};

/// A pool of which each connection carries fewer requests than this spends much of its time connecting.
const FEW_REQUESTS: u32 = 100;

/// A pool that would run out of ports below this many requests a second is close to it.
const NEAR: f64 = 5_000.0;

/// How long a NAT holds the port of a connection that both sides have closed, in seconds. Source: Linux,
/// `nf_conntrack_tcp_timeout_time_wait`.
const NAT_HOLDS: f64 = 120.0;

/// Fewer ports than this for one upstream are few.
const FEW_PORTS: u32 = 1_000;

fn name(upstream: &backend::Settings) -> String {
    format!("upstream {}", upstream.name)
}

/// A line of this upstream's table.
fn line(upstream: &backend::Settings, setting: &str) -> String {
    format!("[upstreams.{}] {setting}", upstream.name)
}

/// The rate to the backend that has most, and what its ports come to at that rate of closes.
fn busiest<'a>(
    facts: &'a Facts<'_>,
    upstream: &backend::Settings,
) -> Option<(String, Option<f64>, Given<'a>)> {
    let backends = facts.backends(upstream);
    let busiest = backends
        .into_iter()
        .max_by(|(_, a), (_, b)| a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0)));
    busiest.map(|(address, rate)| {
        let sources = f64::from(sources(upstream, address));
        let closes = rate.map_or(0.0, |rate| closes(upstream, rate));
        let given = facts.given(address, upstream, closes / sources);
        (address.to_string(), rate, given)
    })
}

pub(super) fn short_mode(facts: &Facts<'_>) -> Vec<Finding> {
    let upstreams = facts.settings.upstreams.iter();
    upstreams
        .map(|upstream| {
            if upstream.pool.keeps() {
                return Finding::fine("Connections are kept and used again.").about(name(upstream));
            }
            short(facts, upstream).about(name(upstream))
        })
        .collect()
}

/// An upstream that opens a connection for each request.
fn short(facts: &Facts<'_>, upstream: &backend::Settings) -> Finding {
    let because = if upstream.pool.keep_alive.enabled {
        "keep_alive_timeout = 0 keeps no connection"
    } else {
        "keep_alive = false"
    };
    let keep = if upstream.pool.keep_alive.enabled {
        line(upstream, "keep_alive_timeout = \"60s\"")
    } else {
        line(upstream, "keep_alive = true")
    };
    let busiest = busiest(facts, upstream);
    let at = |side: &str| match &busiest {
        Some((address, Some(rate), given)) => {
            let recycled = given.headroom().recycling.takes_place();
            let expected = expected(upstream, *rate, recycled);
            format!(
                " At {} requests/s to {address} that is {} there at a time{side}.",
                per_second(*rate),
                grouped(expected.here.max(expected.there))
            )
        }
        Some((_, None, _)) | None => String::new(),
    };
    let finding = match upstream.closing.short {
        ShortMode::CloseByHeader => Finding::advice(format!(
            "{because}: a connection for each request, which the backend closes. It keeps each one's TIME_WAIT \
             for 60 s.{}",
            at("")
        ))
        .why(
            "Every request pays for a connect and a close on both sides. No port stays taken here, unless a \
             backend takes more than a second to close; across a NAT its TIME_WAITs meet new connections, \
             which then take one or two seconds.",
        ),
        ShortMode::Rst => Finding::advice(format!(
            "{because}, short_mode = \"rst\": a connection for each request, which is reset after the response."
        ))
        .why(
            "No TIME_WAIT is left, but every request pays for a connect, and a backend that looks may log each \
             reset as an error.",
        ),
        ShortMode::ProxyCloses => proxy_closes(upstream, because, busiest.as_ref(), facts),
    };
    let finding = finding.remedy(keep);
    if upstream.closing.short == ShortMode::ProxyCloses {
        return finding.remedy(format!(
            "or have the backend close first: {}",
            line(upstream, "short_mode = \"close-by-header\"")
        ));
    }
    finding
}

/// The one way that takes ports.
fn proxy_closes(
    upstream: &backend::Settings,
    because: &str,
    busiest: Option<&(String, Option<f64>, Given<'_>)>,
    facts: &Facts<'_>,
) -> Finding {
    let found = format!(
        "{because}, short_mode = \"proxy-closes\": each request takes a port, and its TIME_WAIT holds it for 61 s."
    );
    let Some((address, rate, given)) = busiest else {
        return Finding::advice(found).why(
            "At the rate of ports / 61 s to one backend address none is left, and connect() fails: 462/s with \
             Linux's 28,232 ports.",
        );
    };
    let room = given.headroom();
    let without = Given {
        port_range_option: false,
        ..*given
    };
    let slow = limit(without.headroom().slow_above.unwrap_or_default());
    let mut limits = format!(
        "connect() fails above {}/s from one source address to one backend ({}). Above {slow}/s it is slow, but not in \
         Warmline, which sets IP_LOCAL_PORT_RANGE.",
        limit(room.fails_above),
        counted(given.ports, "port"),
    );
    let tw_reuse = facts
        .machine
        .limits
        .as_ref()
        .map(|limits| limits.sysctls.tw_reuse);
    if given.loopback && room.recycling.takes_place() && tw_reuse == Some(TwReuse::LoopbackOnly) {
        limits.push_str(" That is over loopback, where ports are taken again; towards another machine it would be a 61st of it.");
    }
    let Some(rate) = rate else {
        return Finding::advice(found).why(limits);
    };
    let found = format!("{found} {}", capitalised(&given.sentence(address)));
    if room.fails_after.is_some() {
        let wanted = expected(upstream, *rate, room.recycling.takes_place()).here;
        Finding::problem(format!(
            "{found}: it would take {} TIME_WAITs at a time.",
            grouped(wanted)
        ))
        .why(limits)
    } else {
        Finding::advice(format!("{found}.")).why(limits)
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

pub(super) fn request_limit(facts: &Facts<'_>) -> Vec<Finding> {
    let kept = facts
        .settings
        .upstreams
        .iter()
        .filter(|upstream| upstream.pool.keeps());
    kept.map(|upstream| limit_of(facts, upstream).about(name(upstream)))
        .collect()
}

fn limit_of(facts: &Facts<'_>, upstream: &backend::Settings) -> Finding {
    let Some(most) = upstream.pool.keep_alive.max_requests else {
        return Finding::fine(
            "max_keep_alive_requests = 0: no connection ends for the number of its requests.",
        );
    };
    let carried = f64::from(most.get()) + 1.0;
    let holder = Holder::of_last(upstream);
    let whose = match holder {
        Holder::Here => "on this side, where it holds a port",
        Holder::Backend => "at the backend",
        Holder::Nobody => "nowhere",
    };
    let found = format!(
        "max_keep_alive_requests = {most}: a connection ends after {}, and its TIME_WAIT is {whose}.",
        counted(u64::from(most.get()) + 1, "request"),
    );
    let busiest = busiest(facts, upstream);
    let raise = || {
        let more = most.get().saturating_mul(10).max(1000);
        line(upstream, &format!("max_keep_alive_requests = {more}"))
    };
    let peer = line(upstream, "close_last = \"peer\"");
    if let (Holder::Here, Some((address, rate, given))) = (holder, &busiest) {
        let room = given.headroom();
        let most_requests = room.fails_above * carried;
        let why = format!(
            "Above {} requests/s from one source address to one backend no port is left, and connect() fails.",
            limit(most_requests)
        );
        if let Some(rate) = rate {
            let time_waits = whole((given.rate * given.length.as_secs_f64()).round());
            let found = format!(
                "{found} At {} requests/s to {address}: {} TIME_WAITs of {} ports.",
                per_second(*rate),
                grouped(time_waits),
                grouped(given.ports)
            );
            if given.rate > room.fails_above {
                return Finding::problem(found)
                    .why(why)
                    .remedy(peer)
                    .remedy(format!("or {}", raise()));
            }
            if given.rate * 2.0 > room.fails_above {
                return Finding::advice(found)
                    .why(why)
                    .remedy(peer)
                    .remedy(format!("or {}", raise()));
            }
        } else if most_requests < NEAR {
            return Finding::advice(found)
                .why(why)
                .remedy(peer)
                .remedy(format!("or {}", raise()));
        }
    }
    if most.get() < FEW_REQUESTS {
        return Finding::advice(found)
            .why(format!(
                "One request in {} pays for a connect and the backend for a close; 1,000, the default, is one in 1,001.",
                grouped(most.get() + 1)
            ))
            .remedy(raise());
    }
    let rates = facts.backends(upstream).into_iter();
    let all: f64 = rates
        .filter_map(|(_, rate)| rate)
        .map(|rate| closes(upstream, rate))
        .sum();
    let now = if all > 0.0 {
        format!(" That is {}/s now.", per_second(all))
    } else {
        String::new()
    };
    Finding::fine(format!("{found}{now}"))
}

pub(super) fn closing(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in facts
        .settings
        .upstreams
        .iter()
        .filter(|one| one.pool.keeps())
    {
        let closing = &upstream.closing;
        let modes = [
            (
                "close_idle",
                closing.idle,
                "fin+rst",
                "that are closed while they are idle",
            ),
            (
                "close_last",
                closing.last,
                "peer",
                "that have carried their last request",
            ),
            (
                "close_error",
                closing.error,
                "rst",
                "that break off in the middle of an exchange",
            ),
        ];
        let mut here: Vec<_> = modes
            .into_iter()
            .filter(|(_, mode, _, _)| *mode == CloseMode::Fin)
            .map(|(setting, _, better, which)| {
                Finding::advice(format!(
                    "{setting} = \"fin\": connections {which} leave their TIME_WAIT on this side."
                ))
                .about(name(upstream))
                .why("Each of these holds one of the ports to its backend for 61 s.")
                .remedy(line(upstream, &format!("{setting} = \"{better}\"")))
            })
            .collect();
        if here.is_empty() {
            here.push(
                Finding::fine(
                    "However a connection is closed, it leaves no TIME_WAIT on this side.",
                )
                .about(name(upstream)),
            );
        }
        findings.extend(here);
    }
    findings
}

pub(super) fn sockets(facts: &Facts<'_>) -> Vec<Finding> {
    let refused = facts.machine.refused.iter();
    let mut findings: Vec<_> = refused
        .map(|refused| {
            let finding = Finding::problem(format!("{}.", capitalised(&refused.error)))
                .about(format!("upstream {}", refused.upstream))
                .why("The proxy does not start with it.");
            match refused.not_here {
                Some(address) => {
                    let bits = if address.is_ipv4() { 32 } else { 128 };
                    finding
                        .remedy(format!("ip address add {address}/{bits} dev DEVICE"))
                        .remedy("or take it out of `source_addresses`; `ip address` lists those there are")
                }
                None => finding.remedy(format!(
                    "change that setting in [upstreams.{}], or what the kernel lacks",
                    refused.upstream
                )),
            }
        })
        .collect();
    for upstream in &facts.settings.upstreams {
        let of_it = |one: &&super::Refused| one.upstream == upstream.name;
        if upstream.source_addresses.is_empty()
            || facts.machine.refused.iter().any(|one| of_it(&one))
        {
            continue;
        }
        findings.push(
            Finding::fine(format!(
                "{} of this machine: each has the ports to a backend anew.",
                counted(upstream.source_addresses.len() as u64, "source address")
            ))
            .about(name(upstream)),
        );
    }
    findings
}

pub(super) fn source_ports(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(limits) = &facts.machine.limits else {
        return findings;
    };
    for upstream in &facts.settings.upstreams {
        let Some(range) = upstream.sockets.source_ports else {
            continue;
        };
        let given = (range.low..=range.high).filter(|port| gives(limits, *port));
        let ports = u32::try_from(given.count()).unwrap_or(u32::MAX);
        let found = format!(
            "source_port_range {range}: {} to each backend address, of {}.",
            counted(ports, "port"),
            grouped(limits.ports())
        );
        let most = upstream.pool.max_connections.map(std::num::NonZeroU32::get);
        let finding = if ports == 0 || most.is_some_and(|most| most > ports) {
            Finding::problem(found)
        } else if ports < FEW_PORTS {
            Finding::advice(found)
        } else {
            findings.push(Finding::fine(found).about(name(upstream)));
            continue;
        };
        findings.push(
            finding
                .about(name(upstream))
                .why(format!(
                    "More connections than that cannot be open to one backend at once{}.",
                    most.map_or(String::new(), |most| format!(
                        ", and max_connections is {}",
                        grouped(most)
                    ))
                ))
                .remedy(line(
                    upstream,
                    &format!(
                        "source_port_range = \"{}-{}\"",
                        limits.sysctls.port_range.low, limits.sysctls.port_range.high
                    ),
                )),
        );
    }
    findings
}

pub(super) fn snat(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in &facts.settings.upstreams {
        let ports = upstream.snat_ports;
        if ports == 0 {
            continue;
        }
        let most = f64::from(ports) / NAT_HOLDS;
        let found = format!(
            "snat_ports = {ports}: a NAT with {} to each backend, which it holds for 120 s after a close.",
            counted(ports, "port")
        );
        let why = format!(
            "{} closes/s to one backend use them up; then the NAT drops what would open a connection.",
            limit(most)
        );
        let closing = busiest(facts, upstream).and_then(|(_, rate, _)| rate);
        let closing = closing.map(|rate| closes(upstream, rate));
        let held = closing.map_or(0.0, |rate| rate * NAT_HOLDS);
        let finding = if held > f64::from(ports) {
            Finding::problem(format!(
                "{found} This rate would take {}.",
                grouped(whole(held.round()))
            ))
        } else if held * 2.0 > f64::from(ports) || closing.is_none() && !upstream.pool.keeps() {
            Finding::advice(found)
        } else {
            findings.push(Finding::fine(found).about(name(upstream)));
            continue;
        };
        findings.push(
            finding
                .about(name(upstream))
                .why(why)
                .remedy("keep connections, and for longer: see short-mode and request-limit")
                .remedy("or more addresses for the NAT"),
        );
    }
    findings
}

pub(super) fn names(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in &facts.settings.upstreams {
        let named = upstream
            .servers
            .iter()
            .filter(|server| Origin::parse(&server.address).is_some_and(|from| from.is_name()));
        let named: Vec<_> = named.map(|server| server.address.as_str()).collect();
        if named.is_empty() {
            continue;
        }
        let named = named.join(", ");
        let finding = if upstream.resolve.again {
            Finding::fine(format!(
                "{named}: looked up again when the TTL is over, at the latest after {}.",
                span(upstream.resolve.most)
            ))
        } else {
            Finding::advice(format!(
                "resolve = \"off\": {named} is looked up at the start and at a reload only."
            ))
            .why("If its addresses change, requests go on to those that were, until somebody sends SIGHUP.")
            .remedy(line(upstream, "resolve = \"ttl\""))
        };
        findings.push(finding.about(name(upstream)));
    }
    findings
}

pub(super) fn loopback(facts: &Facts<'_>) -> Vec<Finding> {
    let tw_reuse = facts
        .machine
        .limits
        .as_ref()
        .map(|limits| limits.sysctls.tw_reuse);
    let mut findings = Vec::new();
    for upstream in &facts.settings.upstreams {
        let over_loopback = upstream.servers.iter().any(|server| {
            let origin = Origin::parse(&server.address);
            matches!(origin, Some(Origin::Address(address)) if address.ip().is_loopback())
        });
        if !over_loopback || tw_reuse != Some(TwReuse::LoopbackOnly) {
            continue;
        }
        findings.push(
            Finding::fine(
                "A backend on loopback: with tcp_tw_reuse 2 its ports are taken again after a second, and do not run \
                 out as they would towards another machine.",
            )
            .about(name(upstream)),
        );
    }
    findings
}

pub(super) fn admin(facts: &Facts<'_>) -> Vec<Finding> {
    let finding = match &facts.settings.admin {
        Some(admin) => Finding::fine(format!("Figures are to be had at {}.", admin.address)),
        None => Finding::advice("There is no [admin] table.")
            .why("Nobody can ask the running proxy for its figures: no `warmline top`, no metrics, and half of these checks.")
            .remedy("[admin]\naddress = \"127.0.0.1:9180\"")
            .remedy("then start the proxy anew: a reload does not change it"),
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::Level::{Advice, Fine, Problem};
    use super::super::Refused;
    use super::super::tests::{Case, limits};

    #[test]
    fn a_connection_for_each_request_is_said_with_its_limits() {
        const PROXY: &str = "keep_alive = false\nshort_mode = \"proxy-closes\"";
        for (settings, rate, level, words) in [
            ("", None, Fine, "used again"),
            ("keep_alive = false", None, Advice, "keep_alive = true"),
            (
                "keep_alive_timeout = 0",
                None,
                Advice,
                "keep_alive_timeout = \"60s\"",
            ),
            (
                "keep_alive = false",
                Some(1000),
                Advice,
                "61,000 there at a time",
            ),
            (
                "keep_alive = false\nshort_mode = \"rst\"",
                None,
                Advice,
                "reset",
            ),
            (PROXY, None, Advice, "fails above 462/s"),
            (PROXY, None, Advice, "Above 231/s it is slow"),
            (
                PROXY,
                Some(400),
                Advice,
                "24,400 are in TIME_WAIT at a time",
            ),
            (
                PROXY,
                Some(610),
                Problem,
                "At 610 connects/s to 10.0.0.5:80 the 28,232 ports last 46 s",
            ),
        ] {
            let mut case = Case::new(settings);
            if let Some(rate) = rate {
                case = case.rate(rate);
            }
            case.says("short-mode", level, words);
        }
        // Two source addresses have the ports twice.
        let two = format!("{PROXY}\nsource_addresses = [\"10.0.0.1\", \"10.0.0.2\"]");
        Case::new(&two)
            .rate(610)
            .says("short-mode", Advice, "305 connects/s");
        // A running proxy knows the rate.
        Case::new(PROXY)
            .live(|backend| backend.requests_per_second = 610.0)
            .says("short-mode", Problem, "610 connects/s");
    }

    #[test]
    fn a_limit_of_requests_is_held_against_the_ports() {
        const FIN: &str = "close_last = \"fin\"\nmax_keep_alive_requests =";
        for (settings, rate, level, words) in [
            ("", None, Fine, "1,001 requests"),
            (
                "max_keep_alive_requests = 0",
                None,
                Fine,
                "no connection ends",
            ),
            (
                "max_keep_alive_requests = 9",
                None,
                Advice,
                "One request in 10",
            ),
            (
                "max_keep_alive_requests = 4294967295",
                None,
                Fine,
                "4,294,967,296 requests",
            ),
            ("", Some(1001), Fine, "That is 1.0/s now"),
            (&format!("{FIN} 9"), None, Advice, "Above 4,628 requests/s"),
            (&format!("{FIN} 100"), None, Fine, "this side"),
            (
                &format!("{FIN} 100"),
                Some(30_000),
                Advice,
                "18,119 TIME_WAITs of 28,232",
            ),
            (
                &format!("{FIN} 100"),
                Some(50_000),
                Problem,
                "close_last = \"peer\"",
            ),
            (
                &format!("{FIN} 1000"),
                Some(500_000),
                Problem,
                "max_keep_alive_requests = 10000",
            ),
        ] {
            let mut case = Case::new(settings);
            if let Some(rate) = rate {
                case = case.rate(rate);
            }
            case.says("request-limit", level, words);
        }
    }

    #[test]
    fn closing_first_is_said_for_each_way_to_close() {
        Case::new("").says("closing", Fine, "no TIME_WAIT on this side");
        for (settings, words) in [
            ("close_idle = \"fin\"", "close_idle = \"fin+rst\""),
            ("close_last = \"fin\"", "close_last = \"peer\""),
            ("close_error = \"fin\"", "close_error = \"rst\""),
        ] {
            Case::new(settings).says("closing", Advice, words);
        }
        assert!(
            Case::new("keep_alive = false")
                .findings("closing")
                .is_empty()
        );
    }

    #[test]
    fn what_the_kernel_refuses_of_sockets_is_a_problem() {
        let settings = "source_addresses = [\"10.0.0.1\"]";
        Case::new(settings).says("sockets", Fine, "1 source address of this machine");
        let refused = |not_here| Refused {
            upstream: "app".to_owned(),
            error: "source address 10.0.0.1: cannot assign".to_owned(),
            not_here,
        };
        for (not_here, words) in [
            (Some([10, 0, 0, 1].into()), "ip address add 10.0.0.1/32"),
            (None, "change that setting"),
        ] {
            let case = Case::new(settings).on(|machine| machine.refused = vec![refused(not_here)]);
            case.says("sockets", Problem, words);
        }
        assert!(Case::new("").findings("sockets").is_empty());
    }

    #[test]
    fn a_range_of_ports_of_ones_own_is_a_limit() {
        for (settings, level, words) in [
            ("source_port_range = \"40000-49999\"", Fine, "10,000 ports"),
            ("source_port_range = \"40000-40099\"", Advice, "100 ports"),
            ("source_port_range = \"60990-65535\"", Advice, "10 ports"),
            ("source_port_range = \"61000-65535\"", Problem, "0 ports"),
            (
                "source_port_range = \"40000-40099\"\nmax_connections = 200",
                Problem,
                "max_connections is 200",
            ),
        ] {
            Case::new(settings).says("source-ports", level, words);
        }
        assert!(Case::new("").findings("source-ports").is_empty());
        let narrow = Case::new("source_port_range = \"40000-40099\"")
            .on(|machine| machine.limits = Some(limits("40050 60000", "2", "")));
        narrow.says("source-ports", Advice, "50 ports");
    }

    #[test]
    fn the_ports_of_a_nat_are_held_against_what_is_closed() {
        const SHORT: &str = "snat_ports = 1024\nkeep_alive = false";
        for (settings, rate, level, words) in [
            ("snat_ports = 1024", None, Fine, "1,024 ports"),
            ("snat_ports = 1024", Some(1001), Fine, "120 s after a close"),
            (SHORT, None, Advice, "8.5 closes/s"),
            (SHORT, Some(6), Advice, "8.5 closes/s"),
            (SHORT, Some(10), Problem, "would take 1,200"),
        ] {
            let mut case = Case::new(settings);
            if let Some(rate) = rate {
                case = case.rate(rate);
            }
            case.says("snat", level, words);
        }
        assert!(Case::new("").findings("snat").is_empty());
    }

    #[test]
    fn names_and_loopback_and_the_admin_listener_have_their_word() {
        let file = |server: &str, more: &str| {
            Case::of_file(&format!(
                "[[listeners]]\naddress = \":8080\"\n[[routes]]\nupstream = \"app\"\n\
                 [upstreams.app]\nservers = [\"{server}\"]\n{more}\n"
            ))
        };
        file("app.internal:80", "").says("names", Fine, "at the latest after 300 s");
        file("app.internal:80", "resolve = \"off\"").says("names", Advice, "resolve = \"ttl\"");
        assert!(file("10.0.0.5:80", "").findings("names").is_empty());
        file("127.0.0.1:80", "").says("loopback", Fine, "towards another machine");
        assert!(Case::new("").findings("loopback").is_empty());
        file("10.0.0.5:80", "").says("admin", Advice, "[admin]");
        Case::new("").says("admin", Fine, "127.0.0.1:9180");
    }
}
