//! What is known of a running proxy → the page at `/metrics`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::account::{CLASSES, Close, ConnectFault, Outcome, Refusal, Span, Traffic};
use crate::census::Source;
use crate::keepalive::CloseReason;

use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::exposition::{Format, Page};
use super::facts::{Backend, Facts, Upstream};
use super::lanes::LaneSample;
use super::sampler::Sample;

/// Linux' `TCP_TIMEWAIT_LEN`, which cannot be set. Source: `include/net/tcp.h`.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Writes the page.
pub(super) fn page(facts: &Facts, format: Format) -> String {
    let mut page = Page::new(format);
    page.family("warmline_build_info", Gauge, "The program that runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("warmline_workers", Gauge, "Worker threads.")
        .sample(&[], facts.workers);
    page.family(
        "warmline_client_connections",
        Gauge,
        "Client connections that are open, idle ones and those that are being closed included.",
    )
    .sample(&[], facts.clients);
    exchanges(&mut page, facts);
    requests(&mut page, &facts.backends);
    connections(&mut page, &facts.backends);
    ends(&mut page, &facts.backends);
    line(&mut page, &facts.backends);
    if let Some(sample) = &facts.sample {
        kernel(&mut page, sample);
    }
    page.text()
}

/// A counter of each backend.
fn counter(
    page: &mut Page,
    backends: &[Backend],
    name: &'static str,
    help: &str,
    value: impl Fn(&Backend) -> u64,
) {
    let mut family = page.family(name, Counter, help);
    for backend in backends {
        family.sample(&backend.labels(), value(backend));
    }
}

/// The ends of buckets for times that clients wait: 64 us to 67 s, each twice the one before.
const WAITS: RangeInclusive<u32> = 6..=26;

/// The same for how long connections are idle: 1 ms to over an hour.
const IDLE: RangeInclusive<u32> = 10..=32;

/// The words for no status and for the five classes.
const CLASS: [&str; CLASSES] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

fn exchanges(page: &mut Page, facts: &Facts) {
    let mut all = facts.front.alone.clone();
    for Upstream { figures, .. } in &facts.upstreams {
        all.add(&figures.traffic);
    }
    page.family(
        "warmline_requests_in_flight",
        Gauge,
        "Requests whose response is not over.",
    )
    .sample(&[], facts.front.under_way);
    let mut family = page.family(
        "warmline_responses_total",
        Counter,
        "Requests of clients that are over, by the class of their status (none: the client had gone before there was one) \
         and how they ended: answered by a backend, refused with an error of our own, broken_off by the backend, client_gone.",
    );
    by_outcome(&all, |outcome, class, count| {
        family.sample(&[("outcome", outcome), ("class", class)], count);
    });
    page.family(
        "warmline_request_seconds",
        Histogram,
        "From a request's head to the last byte of its response handed over, all requests.",
    )
    .histogram(&[], &all.total, WAITS);
    for (name, help, value) in [
        (
            "warmline_received_body_bytes_total",
            "Bytes of request bodies that were read from clients.",
            all.received,
        ),
        (
            "warmline_sent_body_bytes_total",
            "Bytes of response bodies that were handed over to clients.",
            all.sent,
        ),
    ] {
        page.family(name, Counter, help).sample(&[], value);
    }
    let mut family = page.family(
        "warmline_upstream_request_seconds",
        Histogram,
        "The same for the requests that went to one of an upstream's backends.",
    );
    for Upstream { name, figures, .. } in &facts.upstreams {
        family.histogram(&[("upstream", name)], &figures.traffic.total, WAITS);
    }
    for (name, help, span, powers) in [
        (
            "warmline_upstream_checkout_seconds",
            "From a request's head until it had a connection to a backend.",
            Span::Checkout,
            WAITS,
        ),
        (
            "warmline_upstream_first_byte_seconds",
            "From then until the response's head was there.",
            Span::FirstByte,
            WAITS,
        ),
        (
            "warmline_upstream_connect_seconds",
            "Opening a connection to a backend until a request could be sent, TLS included.",
            Span::Connect,
            WAITS,
        ),
        (
            "warmline_upstream_connect_call_seconds",
            "The connect() system call of it, failed ones too: what is long here is the kernel's search for a local port.",
            Span::ConnectCall,
            WAITS,
        ),
        (
            "warmline_upstream_idle_at_reuse_seconds",
            "How long connections had been idle when they were used again.",
            Span::IdleAtReuse,
            IDLE,
        ),
        (
            "warmline_upstream_idle_at_close_seconds",
            "How long connections had been idle when their backend closed them.",
            Span::IdleAtClose,
            IDLE,
        ),
    ] {
        let mut family = page.family(name, Histogram, help);
        for Upstream { name, figures, .. } in &facts.upstreams {
            let times = figures.spans.of(span);
            family.histogram(&[("upstream", name)], times, powers.clone());
        }
    }
}

/// What there was, by outcome and class.
fn by_outcome(traffic: &Traffic, mut each: impl FnMut(&str, &str, u64)) {
    for outcome in Outcome::ALL {
        for (class, count) in CLASS.into_iter().zip(traffic.exchanges[outcome as usize]) {
            if count > 0 {
                each(outcome.label(), class, count);
            }
        }
    }
}

fn requests(page: &mut Page, backends: &[Backend]) {
    let mut family = page.family(
        "warmline_backend_responses_total",
        Counter,
        "Requests that are over and that the backend had a part in, as warmline_responses_total has them.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        by_outcome(&backend.figures.traffic, |outcome, class, count| {
            let labels = [upstream, address, ("outcome", outcome), ("class", class)];
            family.sample(&labels, count);
        });
    }
    counter(
        page,
        backends,
        "warmline_backend_requests_total",
        "Requests sent to the backend, those sent again included.",
        |backend| backend.figures.requests,
    );
    let mut family = page.family(
        "warmline_backend_resends_total",
        Counter,
        "Requests sent again: nothing had been written, it may be done twice, or the backend had not processed it.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (proof, count) in ["unsent", "repeatable", "refused"]
            .into_iter()
            .zip(backend.figures.sent_again)
        {
            family.sample(&[upstream, address, ("proof", proof)], count);
        }
    }
    counter(
        page,
        backends,
        "warmline_backend_races_lost_total",
        "Requests that met a connection the backend was closing, and could not be sent again.",
        |backend| backend.figures.races_lost,
    );
}

fn connections(page: &mut Page, backends: &[Backend]) {
    let mut family = page.family(
        "warmline_backend_connections",
        Gauge,
        "Connections to the backend that are being opened, carry a request, or are idle.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        let counts = &backend.figures.counts;
        for (state, count) in [
            ("opening", counts.opening),
            ("leased", counts.leased),
            ("idle", counts.idle),
        ] {
            family.sample(&[upstream, address, ("state", state)], count);
        }
    }
    for (name, help, value) in [
        (
            "warmline_backend_connects_total",
            "Connections opened to the backend.",
            (|backend| backend.figures.counts.opened) as fn(&Backend) -> u64,
        ),
        (
            "warmline_backend_reuses_total",
            "Requests on a connection that had served before.",
            |backend| backend.figures.counts.reused,
        ),
        (
            "warmline_backend_borrowed_total",
            "Idle connections that one worker took from another.",
            |backend| backend.figures.counts.borrowed,
        ),
    ] {
        counter(page, backends, name, help, value);
    }
    let mut family = page.family(
        "warmline_backend_connect_failures_total",
        Counter,
        "Attempts to open one that came to nothing, by why; given_up: nobody waited for it any more.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        let figures = &backend.figures;
        for (fault, count) in ConnectFault::ALL.into_iter().zip(figures.connect_faults) {
            family.sample(&[upstream, address, ("reason", fault.label())], count);
        }
        let failed: u64 = figures.connect_faults.iter().sum();
        let given_up = figures.counts.open_failed.saturating_sub(failed);
        family.sample(&[upstream, address, ("reason", "given_up")], given_up);
    }
    let mut family = page.family(
        "warmline_backend_tls_handshakes_total",
        Counter,
        "TLS handshakes, in full or resumed.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (kind, count) in ["full", "resumed"]
            .into_iter()
            .zip(backend.figures.handshakes)
        {
            family.sample(&[upstream, address, ("kind", kind)], count);
        }
    }
    let mut family = page.family(
        "warmline_backend_port_seconds_saved_total",
        Counter,
        "How long ports were not in TIME_WAIT since connections were used again: 60 s for each reuse.",
    );
    for backend in backends {
        let saved = backend.figures.port_time_saved(TIME_WAIT).as_secs();
        family.sample(&backend.labels(), saved);
    }
}

fn ends(page: &mut Page, backends: &[Backend]) {
    let all = |backend: &Backend| {
        let mut list = Vec::new();
        for reason in CloseReason::ALL {
            for close in Close::ALL {
                let sum = backend.figures.ends[reason as usize][close as usize];
                if sum.connections > 0 {
                    list.push((reason.label(), close.label(), sum));
                }
            }
        }
        list
    };
    let mut family = page.family(
        "warmline_backend_closes_total",
        Counter,
        "Connections to the backend that ended: why, who closed first and how. What has not happened is not listed.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (reason, close, sum) in all(backend) {
            let labels = [upstream, address, ("reason", reason), ("close", close)];
            family.sample(&labels, sum.connections);
        }
    }
    let mut family = page.family(
        "warmline_backend_closed_requests_total",
        Counter,
        "The requests those connections had carried.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (reason, close, sum) in all(backend) {
            let labels = [upstream, address, ("reason", reason), ("close", close)];
            family.sample(&labels, sum.exchanges);
        }
    }
    let mut family = page.family(
        "warmline_backend_closed_idle_seconds_total",
        Counter,
        "How long they had been idle; for peer_closed_idle, over the number of closes, the backend's idle timeout.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (reason, close, sum) in all(backend) {
            let labels = [upstream, address, ("reason", reason), ("close", close)];
            family.sample(&labels, sum.idle.as_secs_f64());
        }
    }
}

fn line(page: &mut Page, backends: &[Backend]) {
    let mut family = page.family(
        "warmline_backend_waiting",
        Gauge,
        "Requests that wait in line for a connection.",
    );
    for backend in backends {
        family.sample(&backend.labels(), backend.line.waiting);
    }
    counter(
        page,
        backends,
        "warmline_backend_waited_total",
        "Requests that had to wait in line.",
        |backend| backend.line.waited,
    );
    counter(
        page,
        backends,
        "warmline_backend_lent_late_total",
        "Requests that did not wait for another worker to lend a connection, as it took too long.",
        |backend| backend.line.lent_late,
    );
    let mut family = page.family(
        "warmline_backend_refusals_total",
        Counter,
        "Requests answered 503 since no connection was to be had.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (why, count) in Refusal::ALL.into_iter().zip(backend.line.refused) {
            family.sample(&[upstream, address, ("reason", why.label())], count);
        }
    }
    let mut family = page.family(
        "warmline_backend_would_hit_total",
        Counter,
        "Connects that a max_idle so many times as large would have saved.",
    );
    for backend in backends {
        let [upstream, address] = backend.labels();
        for (times, count) in ["2", "4", "8"].into_iter().zip(backend.line.would_hit) {
            family.sample(&[upstream, address, ("times", times)], count);
        }
    }
    let mut family = page.family(
        "warmline_backend_learned_idle_timeout_seconds",
        Gauge,
        "How long the backend was seen to keep idle connections, where that is known.",
    );
    for backend in backends {
        if let Some(learned) = backend.line.learned_idle_timeout {
            family.sample(&backend.labels(), learned.as_secs_f64());
        }
    }
}

fn kernel(page: &mut Page, sample: &Sample) {
    let mut family = page.family(
        "warmline_tcp_sockets",
        Gauge,
        "The kernel's sockets by address, side and state, whoever opened them: towards a backend (side proxy), \
         the backend's own where it is on this machine (side backend), a listener's clients (side listener).",
    );
    for (address, sides) in sample.census.iter() {
        let address_text = address.to_string();
        let is_listener = sample.listeners.contains(&address);
        let both = [
            (if is_listener { None } else { Some("proxy") }, sides.ours),
            (
                Some(if is_listener { "listener" } else { "backend" }),
                sides.theirs,
            ),
        ];
        for (side, counts) in both {
            let Some(side) = side else { continue };
            for (state, count) in counts.iter() {
                let labels = [
                    ("address", address_text.as_str()),
                    ("side", side),
                    ("state", state.name()),
                ];
                family.sample(&labels, count);
            }
        }
    }
    if let Some(ports) = sample.ports {
        page.family(
            "warmline_local_ports",
            Gauge,
            "The ports of net.ipv4.ip_local_port_range, less those that are reserved or listened on.",
        )
        .sample(&[], ports);
    }
    lanes(page, &sample.lanes);
    let source = match sample.census.source() {
        Source::SockDiag => "sock_diag",
        Source::ProcNetTcp => "proc_net_tcp",
    };
    page.family(
        "warmline_census_seconds",
        Gauge,
        "How long the kernel took to list its sockets when it was last asked, by where they were read.",
    )
    .sample(&[("source", source)], sample.took.as_secs_f64());
    page.family(
        "warmline_census_period_seconds",
        Gauge,
        "How often it is asked: less often when it takes long.",
    )
    .sample(&[], sample.period.as_secs_f64());
}

fn lanes(page: &mut Page, lanes: &[LaneSample]) {
    let mut each = |name, help, value: &dyn Fn(&LaneSample) -> Option<f64>| {
        let mut family = page.family(name, Gauge, help);
        for lane in lanes {
            if let Some(value) = value(lane) {
                let (source, backend) = (lane.source.to_string(), lane.backend.to_string());
                family.sample(&[("source", &source), ("backend", &backend)], value);
            }
        }
    };
    each(
        "warmline_local_ports_left",
        "Of the ports that connections may get, those that no socket of this machine has from the source address to the backend.",
        &|lane| Some(lane.left.into()),
    );
    each(
        "warmline_local_ports_taken_ratio",
        "Those that are taken, as a part of these ports.",
        &|lane| Some(lane.taken()),
    );
    each(
        "warmline_local_ports_in_time_wait",
        "Of these ports, those in TIME_WAIT.",
        &|lane| Some(lane.time_wait.into()),
    );
    each(
        "warmline_time_wait_births_per_second",
        "Ports that go into TIME_WAIT in a second, from the source address to the backend, by the kernel's timers: over ten seconds, or over one where ports are recycled.",
        &|lane| Some(lane.births.rate(lane.recycling.takes_place())),
    );
    each(
        "warmline_local_ports_last_seconds",
        "When no port is left at the present rate, and connect() fails. Absent where it does not come to that.",
        &|lane| lane.fails_after.map(|after| after.as_secs_f64()),
    );
    each(
        "warmline_local_ports_slow_seconds",
        "When half of them are taken and connect() gets slow in programs that do not set IP_LOCAL_PORT_RANGE; Warmline does. Absent where it does not come to that.",
        &|lane| lane.slow_after.map(|after| after.as_secs_f64()),
    );
}
