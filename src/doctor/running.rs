//! Rules about what runs: the proxy's own figures, and the kernel's sockets towards its backends.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::backend;
use crate::lookup::Origin;
use crate::quantity::{counted, grouped, rate as per_second, span, whole};

use super::predict::expected;
use super::{Facts, Finding, LiveBackend, Proxy};

/// Of what happened, the part that is worth a word: one in a hundred.
const PART: f64 = 0.01;

/// So many must have happened before a share of them means anything.
const ENOUGH: f64 = 100.0;

fn about(backend: &LiveBackend) -> String {
    format!("upstream {}, {}", backend.upstream, backend.address)
}

/// Every backend of the running proxy whose upstream is in the file.
fn each<'a>(
    facts: &'a Facts<'_>,
) -> impl Iterator<Item = (&'a backend::Settings, &'a LiveBackend)> {
    let upstreams = facts.settings.upstreams.iter();
    upstreams.flat_map(|upstream| {
        let backends = facts.live_of(&upstream.name);
        backends.map(move |backend| (upstream, backend))
    })
}

/// A line of this upstream's table.
fn line(upstream: &backend::Settings, setting: &str) -> String {
    format!("[upstreams.{}] {setting}", upstream.name)
}

fn percent(part: f64, of: f64) -> String {
    format!("{:.1}%", 100.0 * part / of.max(1.0))
}

pub(super) fn proxy(facts: &Facts<'_>) -> Vec<Finding> {
    let finding = match &facts.proxy {
        Proxy::NotAsked => return Vec::new(),
        Proxy::Silent { why, expected } => {
            let what = capitalised(why);
            if *expected {
                Finding::problem(what)
                    .why("It was asked for by --admin, and without it nothing is known of what runs.")
                    .remedy("start it, or name the address in its [admin] table")
            } else {
                Finding::fine(format!(
                    "{what} What only a running proxy knows is left out."
                ))
            }
        }
        Proxy::Runs(live) => {
            let requests: f64 = live
                .backends
                .iter()
                .map(|backend| backend.requests_per_second)
                .sum();
            Finding::fine(format!(
                "Warmline {} answers at {}: {} requests/s, {}, {}.",
                live.version,
                live.address,
                per_second(requests),
                counted(live.clients, "client connection"),
                counted(live.backends.len() as u64, "backend address")
            ))
        }
    };
    vec![finding]
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    let text: String = first.into_iter().chain(chars).collect();
    format!("{text}.")
}

/// Whether the proxy has what the file says.
pub(super) fn reload(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(live) = facts.live() else {
        return Vec::new();
    };
    let mut differs = Vec::new();
    for upstream in &facts.settings.upstreams {
        let runs: Vec<_> = facts.live_of(&upstream.name).collect();
        if runs.is_empty() {
            differs.push(format!("upstream {} is not in it", upstream.name));
            continue;
        }
        for server in &upstream.servers {
            if let Some(Origin::Address(address)) = Origin::parse(&server.address)
                && !runs
                    .iter()
                    .any(|backend| backend.address == address.to_string())
            {
                differs.push(format!(
                    "{address} of upstream {} is not in it",
                    upstream.name
                ));
            }
        }
    }
    for backend in &live.backends {
        let in_file = facts.settings.upstreams.iter().any(|upstream| {
            let short = upstream.short_arm().map(|short| short.name);
            upstream.name == backend.upstream || short.as_ref() == Some(&backend.upstream)
        });
        let said = format!("upstream {} is not in the file", backend.upstream);
        if !in_file && !differs.contains(&said) {
            differs.push(said);
        }
    }
    if differs.is_empty() {
        return vec![Finding::fine(
            "The proxy has the upstreams and servers of the file.",
        )];
    }
    vec![
        Finding::advice(format!(
            "The proxy runs with other upstreams than the file has: {}.",
            differs.join("; ")
        ))
        .why("It has not read the file since it changed, or it was started with another one.")
        .remedy("kill -HUP PID"),
    ]
}

pub(super) fn ports_left(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in &facts.settings.upstreams {
        for (address, _) in facts.backends(upstream) {
            let Some(towards) = facts.kernel.get(&address) else {
                continue;
            };
            for (source, way) in &towards.ways {
                let given = way.given(true);
                let room = given.headroom();
                let taken = way.held();
                let free = given.ports - taken;
                let sentence = given.sentence(address);
                let found = format!("From {source}: {sentence}.");
                let soon = room
                    .fails_after
                    .is_some_and(|after| after < Duration::from_mins(10));
                let finding = if soon || u64::from(free) * 10 < u64::from(given.ports) {
                    Finding::problem(found)
                } else if u64::from(taken) * 10 > u64::from(given.ports) * 4 {
                    Finding::advice(found)
                } else {
                    findings.push(
                        Finding::fine(found)
                            .about(format!("upstream {}, {address}", upstream.name)),
                    );
                    continue;
                };
                findings.push(
                    finding
                        .about(format!("upstream {}, {address}", upstream.name))
                        .why(format!(
                            "{} in use and {} in TIME_WAIT, of {}. From half of them on connect() takes milliseconds in \
                             programs without IP_LOCAL_PORT_RANGE; with none left it fails, and requests are \
                             answered 503.",
                            grouped(given.in_use),
                            grouped(given.waiting()),
                            counted(given.ports, "port")
                        ))
                        .remedy(format!(
                            "find out who: warmline states --backend {address}; ss -tan dst {address}"
                        ))
                        .remedy(format!(
                            "more ports: {}",
                            line(upstream, "source_addresses = [\"…\", \"…\"]")
                        )),
                );
            }
        }
    }
    findings
}

/// The `TIME_WAIT`s that the settings explain against those that there are.
pub(super) fn time_wait(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in &facts.settings.upstreams {
        for (address, rate) in facts.backends(upstream) {
            let (Some(towards), Some(rate), true) =
                (facts.kernel.get(&address), rate, facts.rate.is_none())
            else {
                continue;
            };
            let recycled = facts
                .given(address, upstream, 0.0)
                .headroom()
                .recycling
                .takes_place();
            let expected = expected(upstream, rate, recycled);
            let here = towards.time_waits;
            let whose = format!("upstream {}, {address}", upstream.name);
            // Those of another program, of the settings before a reload, or of a rate that has fallen.
            if here > expected.here + expected.here / 2 + 100 {
                findings.push(
                    Finding::advice(format!(
                        "{} TIME_WAITs on this side; at {} requests/s these settings make {}.",
                        grouped(here),
                        per_second(rate),
                        grouped(expected.here)
                    ))
                    .about(whose)
                    .why(
                        "Others connect to this backend from here, or there were more requests, or other settings, \
                         within the last minute. They take of the same ports.",
                    )
                    .remedy(format!("in a minute again; then who it is: ss -tanp dst {address}")),
                );
            } else {
                findings.push(
                    Finding::fine(format!(
                        "{} TIME_WAITs on this side; {} predicted at {} requests/s.",
                        grouped(here),
                        grouped(expected.here),
                        per_second(rate)
                    ))
                    .about(whose),
                );
            }
        }
    }
    findings
}

pub(super) fn connects(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, backend) in each(facts) {
        let tried = backend.connects + backend.connect_failures;
        let failed = backend.connect_failures;
        if failed < 1.0 {
            if tried > 0.0 {
                findings.push(
                    Finding::fine(format!(
                        "{}, none failed.",
                        counted(whole(tried), "connect")
                    ))
                    .about(about(backend)),
                );
            }
            continue;
        }
        let found = format!(
            "{} of {} failed since the start ({}).",
            grouped(whole(failed)),
            counted(whole(tried), "connect"),
            percent(failed, tried)
        );
        let finding = if failed / tried > PART {
            Finding::problem(found)
        } else {
            Finding::advice(found)
        };
        findings.push(
            finding
                .about(about(backend))
                .why("A server that cannot be connected to is passed over for 10 s; with no other one the request is answered 502, 503 or 504.")
                .remedy(format!(
                    "the proxy's log says why; then: warmline states --backend {}",
                    backend.address
                )),
        );
    }
    findings
}

pub(super) fn max_connections(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (upstream, backend) in each(facts) {
        let pool = &upstream.pool;
        let limited = pool.max_connections.map(NonZeroU32::get);
        let limit = limited.map_or_else(
            || "There is no max_connections".to_owned(),
            |most| format!("The most is max_connections, {}", grouped(most)),
        );
        let waited = backend.waited / backend.requests.max(1.0);
        let state = format!(
            "Connections in use now: {}, idle: {}; requests in line: {}. {limit}.",
            grouped(backend.leased),
            grouped(backend.idle),
            grouped(backend.waiting)
        );
        let finding = if backend.refused > 0.0 {
            Finding::problem(format!(
                "{} answered 503 since the start as no connection was to be had. {state}",
                counted(whole(backend.refused), "request")
            ))
        } else if pool.is_bounded()
            && (backend.waiting > 0 || waited > PART && backend.requests > ENOUGH)
        {
            // Without a limit a request is in line only until the connection opened for it is there.
            Finding::advice(format!(
                "{} had to wait in line since the start ({}). {state}",
                counted(whole(backend.waited), "request"),
                percent(backend.waited, backend.requests)
            ))
        } else if limited.is_some_and(|most| backend.leased * 10 >= u64::from(most) * 9) {
            Finding::advice(state)
        } else {
            findings.push(Finding::fine(state).about(about(backend)));
            continue;
        };
        let at_once = backend.leased + backend.waiting;
        let more = (at_once * 2).max(u64::from(limited.unwrap_or(0)) * 2);
        let remedy = if limited.is_some() {
            line(upstream, &format!("max_connections = {more}"))
        } else {
            "see what limits it: max_connecting, max_connects_per_second, max_waiting, or the backend's own pace"
                .to_owned()
        };
        findings.push(
            finding
                .about(about(backend))
                .why(format!(
                    "Beyond the limit requests wait in line for up to {}, at most {} of them; then they are answered 503.",
                    span(pool.acquire_timeout),
                    grouped(pool.max_waiting)
                ))
                .remedy(remedy)
                .remedy("or, if the backend takes no more at once: another server, or a longer acquire_timeout"),
        );
    }
    findings
}

pub(super) fn max_idle(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (upstream, backend) in each(facts) {
        let Some(most) = upstream.pool.max_idle.map(NonZeroU32::get) else {
            continue;
        };
        let [twice, four, eight] = backend.would_hit;
        let found = format!(
            "max_idle = {most}. Twice as much would have saved {} of {}, four times {}, eight times {}.",
            grouped(whole(twice)),
            counted(whole(backend.connects), "connect"),
            grouped(whole(four)),
            grouped(whole(eight))
        );
        let part = eight / backend.connects.max(1.0);
        if part <= PART || eight < 10.0 {
            findings.push(Finding::fine(found).about(about(backend)));
            continue;
        }
        findings.push(
            Finding::advice(found)
                .about(about(backend))
                .why(
                    "max_idle is below the number of requests at once: connections are closed only to be opened \
                     again, up to one a request.",
                )
                .remedy(line(upstream, "max_idle = 0"))
                .remedy("without a limit of its own, what is not needed ends by keep_alive_timeout"),
        );
    }
    findings
}

pub(super) fn reuse(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (upstream, backend) in each(facts).filter(|(upstream, _)| upstream.pool.keeps()) {
        if backend.requests < ENOUGH {
            continue;
        }
        let found = format!(
            "{} of {} were on a connection that had served before.",
            percent(backend.reuses, backend.requests),
            counted(whole(backend.requests), "request")
        );
        if backend.reuses / backend.requests >= 0.8 {
            findings.push(Finding::fine(found).about(about(backend)));
            continue;
        }
        let finding = Finding::advice(found).about(about(backend));
        let Some((reason, share)) = backend.commonest_end() else {
            findings.push(
                finding
                    .why("Connections are opened faster than they are used again.")
                    .remedy("look again under a steady load"),
            );
            continue;
        };
        let (why, remedy) = what_ends(upstream, reason);
        findings.push(
            finding
                .why(format!(
                    "Most connections, {:.0}%, ended for {reason}: {why}",
                    share * 100.0
                ))
                .remedy(remedy),
        );
    }
    findings
}

/// What a reason means for reuse, and what is to be done.
fn what_ends(upstream: &backend::Settings, reason: &str) -> (&'static str, String) {
    match reason {
        "peer_asked" => (
            "the backend says `Connection: close`, speaks HTTP/1.0, or ends its responses by closing.",
            "turn keep-alive on at the backend (Apache: KeepAlive On; Node.js: server.keepAliveTimeout)".to_owned(),
        ),
        "peer_closed_idle" => (
            "the backend closes idle connections before they are used again.",
            "raise the backend's idle timeout (Apache: KeepAliveTimeout; nginx: keepalive_timeout)".to_owned(),
        ),
        "request_limit" => (
            "max_keep_alive_requests, or the backend's own limit, is low.",
            line(upstream, "max_keep_alive_requests = 1000"),
        ),
        "surplus" => (
            "max_idle is below the number of requests at once.",
            line(upstream, "max_idle = 0"),
        ),
        "idle_timeout" => (
            "requests come further apart than keep_alive_timeout.",
            line(upstream, "keep_alive_timeout = \"60s\""),
        ),
        "client_gone" => (
            "clients go away before the response is over.",
            "see whether clients time out: the backend may be slower than they wait".to_owned(),
        ),
        _ => (
            "docs/pool.md has what it means.",
            "see warmline_backend_closes_total at /metrics, and the backend's log".to_owned(),
        ),
    }
}

/// The backend's own idle timeout, told or seen, against ours.
pub(super) fn idle_timeout(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for upstream in facts
        .settings
        .upstreams
        .iter()
        .filter(|one| one.pool.keeps())
    {
        let pool = &upstream.pool;
        let ours = pool.keep_alive.timeout;
        let whose = format!("upstream {}", upstream.name);
        if !pool.heed_hints && !pool.learn_idle_timeout && ours >= Duration::from_secs(5) {
            findings.push(
                Finding::advice(format!(
                    "keep_alive_timeout = {}, and neither hints nor what is learned of the backend shortens it.",
                    span(ours)
                ))
                .about(&*whose)
                .why(
                    "A backend that closes sooner (Apache and Node.js do after 5 s, gunicorn after 2) meets requests \
                     on connections that it is closing; those that cannot be sent again are answered 502.",
                )
                .remedy(line(upstream, "learn_idle_timeout = true"))
                .remedy(line(upstream, "backend_hints = true")),
            );
            continue;
        }
        let mut said = false;
        for backend in facts.live_of(&upstream.name) {
            if let Some(finding) = closes_first(upstream, backend) {
                findings.push(finding.about(about(backend)));
                said = true;
            }
        }
        if !said {
            findings.push(
                Finding::fine(format!(
                    "keep_alive_timeout = {}; a backend that says or shows a shorter one is heeded.",
                    span(ours)
                ))
                .about(&*whose),
            );
        }
    }
    findings
}

/// A backend that closes idle connections before the pool does.
fn closes_first(upstream: &backend::Settings, backend: &LiveBackend) -> Option<Finding> {
    let pool = &upstream.pool;
    let ours = pool.keep_alive.timeout;
    let (closed, after) = backend.ended_for("peer_closed_idle");
    let lost = backend.races_lost;
    let shorter = |theirs: Duration| {
        let shorter = theirs.saturating_sub(pool.hint_margin.min(theirs / 2));
        // 0 would keep none.
        if shorter < Duration::from_millis(1) {
            return "turn keep-alive on at the backend: it closes as soon as it has answered"
                .to_owned();
        }
        let text = if shorter.as_millis().is_multiple_of(1000) {
            format!("{}s", shorter.as_secs())
        } else {
            format!("{}ms", shorter.as_millis())
        };
        line(upstream, &format!("keep_alive_timeout = \"{text}\""))
    };
    let why = "A request that meets a connection just as the backend closes it has to be sent again, and what \
               cannot be sent twice is answered 502.";
    if lost > 0.0 {
        let theirs = backend.learned_idle_timeout.unwrap_or(after);
        return Some(
            Finding::problem(format!(
                "{} met a connection that the backend was closing, and could not be sent again; the backend \
                 closed {} idle ones, after {} on average.",
                counted(whole(lost), "request"),
                grouped(whole(closed)),
                span(theirs)
            ))
            .why(why)
            .remedy(if theirs.is_zero() {
                "see the backend's log: does it close connections in the middle of requests?".to_owned()
            } else {
                shorter(theirs)
            })
            .remedy("and a safe_idle below that for requests that cannot be sent twice"),
        );
    }
    if let Some(theirs) = backend.learned_idle_timeout.filter(|theirs| *theirs < ours) {
        let found = format!(
            "The backend closes idle connections after {}; keep_alive_timeout is {}.",
            span(theirs),
            span(ours)
        );
        return Some(if pool.learn_idle_timeout {
            Finding::fine(format!("{found} That was learned and is heeded."))
        } else {
            Finding::advice(found).why(why).remedy(shorter(theirs))
        });
    }
    if closed >= 10.0 && after < ours {
        return Some(
            Finding::advice(format!(
                "The backend closed {} while they were idle, after {} on average; keep_alive_timeout is {}.",
                counted(whole(closed), "connection"),
                span(after),
                span(ours)
            ))
            .why(why)
            .remedy(shorter(after)),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use super::super::Level::{Advice, Fine, Problem};
    use super::super::tests::{BACKEND, Case, limits, seconds};
    use super::super::{Closes, Towards};
    use super::*;
    use crate::census::diag::SocketEntry;
    use crate::census::{Source, Survey, TcpState};
    use crate::headroom::Way;

    fn closes(reason: &str, connections: f64, idle_seconds: f64) -> Closes {
        Closes {
            reason: reason.to_owned(),
            close: "peer_fin".to_owned(),
            connections,
            idle_seconds,
        }
    }

    /// Sockets towards the backend from one address: open, in TIME_WAIT for long, and for up to 5 s.
    fn towards(open: u16, old: u16, young: u16) -> BTreeMap<SocketAddr, Towards> {
        let backend: SocketAddr = BACKEND.parse().unwrap();
        let limits = limits("32768 60999", "2", "");
        let socket = |port: u16| {
            let (state, expires) = match port {
                _ if port < open => (TcpState::Established, 0),
                _ if port < open + old => (TcpState::TimeWait, 40),
                _ => (TcpState::TimeWait, 55),
            };
            SocketEntry {
                state: state.number(),
                local: SocketAddr::new([10, 0, 0, 1].into(), 32_768 + port),
                remote: backend,
                expires: seconds(expires),
                cookie: None,
                uid: 0,
                inode: 0,
            }
        };
        let sockets = (0..open + old + young).map(socket).collect();
        let survey = Survey::new(Source::SockDiag, sockets);
        let given = limits.given(survey.listened_ports());
        let ways = survey.lanes(backend, &given).into_iter();
        let ways = ways.map(|(source, lane)| {
            let way = Way::new(source, backend, &lane, given.count(), &limits);
            (source, way)
        });
        let towards = Towards {
            ways: ways.collect(),
            time_waits: u64::from(old + young),
            own_time_waits: None,
        };
        BTreeMap::from([(backend, towards)])
    }

    #[test]
    fn a_proxy_that_does_not_answer_is_a_problem_if_it_was_asked_for() {
        assert!(Case::new("").findings("proxy").is_empty());
        let silent = |expected| {
            let mut case = Case::new("");
            let why = "no proxy answers at 127.0.0.1:9180: connection refused".to_owned();
            case.proxy = Proxy::Silent { why, expected };
            case
        };
        silent(false).says(
            "proxy",
            Fine,
            "No proxy answers at 127.0.0.1:9180: connection refused.",
        );
        silent(true).says("proxy", Problem, "--admin");
        Case::new("")
            .live(|backend| backend.requests_per_second = 12.0)
            .says(
                "proxy",
                Fine,
                "12 requests/s, 3 client connections, 1 backend address",
            );
    }

    #[test]
    fn a_file_that_was_not_read_again_is_found_out() {
        Case::new("")
            .live(|_| {})
            .says("reload", Fine, "of the file");
        Case::new("")
            .live(|backend| backend.address = "10.0.0.6:80".to_owned())
            .says("reload", Advice, "10.0.0.5:80 of upstream app is not in it");
        Case::new("")
            .live(|backend| backend.upstream = "old".to_owned())
            .says("reload", Advice, "upstream old is not in the file");
        // What the file has no short arm for.
        Case::new("")
            .live(|backend| backend.upstream = "app@short".to_owned())
            .says("reload", Advice, "upstream app@short is not in the file");
        Case::new("short_share = 0.1")
            .live(|_| {})
            .says("reload", Fine, "of the file");
        assert!(Case::new("").findings("reload").is_empty());
    }

    #[test]
    fn the_ports_that_are_left_are_said_in_words() {
        for (in_use, time_waits, births, level, words) in [
            (10, 0, 0, Fine, "28,222 of 28,232 ports are free"),
            (100, 12_000, 0, Advice, "12,000 in TIME_WAIT"),
            (26_000, 0, 0, Problem, "26,000 in use"),
            (0, 5_000, 9_000, Problem, "at 900 connects/s to 10.0.0.5:80"),
        ] {
            let mut case = Case::new("");
            case.kernel = towards(in_use, time_waits, births);
            case.says("ports-left", level, words);
        }
        assert!(Case::new("").findings("ports-left").is_empty());
    }

    #[test]
    fn time_waits_that_the_settings_do_not_explain_are_somebody_elses() {
        let with = |settings: &str, time_waits| {
            let mut case = Case::new(settings).live(|backend| backend.requests_per_second = 100.0);
            case.kernel = towards(1, time_waits, 0);
            case
        };
        with("", 0).says("time-wait", Fine, "0 TIME_WAITs on this side; 0 predicted");
        with("", 5_000).says("time-wait", Advice, "5,000 TIME_WAITs on this side; at 100");
        let short = "keep_alive = false\nshort_mode = \"proxy-closes\"";
        with(short, 6_000).says("time-wait", Fine, "6,100 predicted");
    }

    #[test]
    fn connects_that_fail_are_a_problem_from_one_in_a_hundred() {
        for (connects, failed, level, words) in [
            (10.0, 0.0, Fine, "10 connects, none failed"),
            (10_000.0, 5.0, Advice, "5 of 10,005 connects"),
            (90.0, 10.0, Problem, "(10.0%)"),
        ] {
            let case = Case::new("").live(|backend| {
                backend.connects = connects;
                backend.connect_failures = failed;
            });
            case.says("connects", level, words);
        }
    }

    #[test]
    fn a_line_before_the_backend_asks_for_more_connections() {
        for (waited, waiting, refused, leased, level, words) in [
            (0.0, 0, 0.0, 3, Fine, "in use now: 3, idle: 0"),
            (0.0, 0, 0.0, 9, Advice, "max_connections, 10"),
            (500.0, 0, 0.0, 3, Advice, "500 requests had to wait in line"),
            (1.0, 7, 0.0, 10, Advice, "max_connections = 34"),
            (1.0, 0, 4.0, 3, Problem, "4 requests answered 503"),
        ] {
            let case = Case::new("max_connections = 10").live(|backend| {
                backend.requests = 10_000.0;
                backend.waited = waited;
                backend.waiting = waiting;
                backend.refused = refused;
                backend.leased = leased;
            });
            case.says("max-connections", level, words);
        }
        let unlimited = Case::new("").live(|backend| {
            backend.requests = 10_000.0;
            backend.waited = 5_000.0;
        });
        unlimited.says("max-connections", Fine, "no max_connections");
    }

    #[test]
    fn a_max_idle_that_costs_connects_is_found_out() {
        for (would_hit, requests, level, words) in [
            ([0.0; 3], 1000.0, Fine, "would have saved 0 of 500 connects"),
            ([50.0, 80.0, 90.0], 10_000.0, Advice, "max_idle = 0"),
            ([50.0, 300.0, 400.0], 1000.0, Advice, "four times 300"),
        ] {
            let case = Case::new("max_idle = 2").live(|backend| {
                backend.requests = requests;
                backend.connects = 500.0;
                backend.would_hit = would_hit;
            });
            case.says("max-idle", level, words);
        }
        assert!(Case::new("").live(|_| {}).findings("max-idle").is_empty());
    }

    #[test]
    fn little_reuse_is_said_with_what_ends_the_connections() {
        for (reuses, ended, level, words) in [
            (950.0, vec![], Fine, "95.0% of 1,000 requests"),
            (100.0, vec![], Advice, "opened faster"),
            (
                100.0,
                vec![closes("peer_asked", 9.0, 0.0)],
                Advice,
                "KeepAlive On",
            ),
            (
                100.0,
                vec![closes("surplus", 9.0, 0.0), closes("max_age", 1.0, 0.0)],
                Advice,
                "90%, ended for surplus",
            ),
        ] {
            let case = Case::new("").live(|backend| {
                backend.requests = 1000.0;
                backend.reuses = reuses;
                backend.closes = ended;
            });
            case.says("reuse", level, words);
        }
        let few = Case::new("").live(|backend| backend.requests = 5.0);
        assert!(few.findings("reuse").is_empty());
    }

    #[test]
    fn the_backends_own_idle_timeout_is_held_against_ours() {
        const DEAF: &str = "backend_hints = false\nlearn_idle_timeout = false";
        Case::new("").says("idle-timeout", Fine, "heeded");
        Case::new(DEAF).says("idle-timeout", Advice, "learn_idle_timeout = true");
        for (settings, learned, lost, ended, level, words) in [
            ("", Some(5), 0.0, vec![], Fine, "learned and is heeded"),
            (
                "learn_idle_timeout = false",
                Some(5),
                0.0,
                vec![],
                Advice,
                "keep_alive_timeout = \"4s\"",
            ),
            (
                "",
                None,
                0.0,
                vec![closes("peer_closed_idle", 20.0, 100.0)],
                Advice,
                "after 5 s on average",
            ),
            (
                "keep_alive_timeout = \"4s\"",
                None,
                0.0,
                vec![closes("peer_closed_idle", 20.0, 100.0)],
                Fine,
                "",
            ),
            (
                "",
                None,
                3.0,
                vec![closes("peer_closed_idle", 20.0, 100.0)],
                Problem,
                "3 requests met",
            ),
            ("", None, 1.0, vec![], Problem, "see the backend's log"),
            (
                "",
                None,
                0.0,
                vec![closes("peer_closed_idle", 20.0, 0.006)],
                Advice,
                "as soon as it has answered",
            ),
        ] {
            let case = Case::new(settings).live(|backend| {
                backend.learned_idle_timeout = learned.map(seconds);
                backend.races_lost = lost;
                backend.closes = ended;
            });
            case.says("idle-timeout", level, words);
        }
    }
}
