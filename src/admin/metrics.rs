//! What is known of a running proxy → the page at `/metrics`.

use std::time::Duration;

use crate::account::{Close, ConnectFault, Refusal, TunnelEnd};
use crate::keepalive::CloseReason;

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::{Format, Page};
use super::facts::{Backend, Facts};
use super::traffic::{by_outcome, exchanges};
use super::{front, kernel};

/// Linux' `TCP_TIMEWAIT_LEN`, which cannot be set. Source: `include/net/tcp.h`.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Writes the page.
pub(super) fn page(facts: &Facts, format: Format) -> String {
    let mut page = Page::new(format);
    page.family("warmline_build_info", Gauge, "The program that runs.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("warmline_workers", Gauge, "Worker threads.")
        .sample(&[], facts.workers);
    front::write(&mut page, facts);
    exchanges(&mut page, facts);
    requests(&mut page, &facts.backends);
    tunnels(&mut page, &facts.backends);
    connections(&mut page, &facts.backends);
    ends(&mut page, &facts.backends);
    splits(&mut page, facts);
    line(&mut page, &facts.backends);
    page.family(
        "warmline_access_log_lines_total",
        Counter,
        "Lines of the access log that were written.",
    )
    .sample(&[], facts.log.written);
    page.family(
        "warmline_access_log_lines_dropped_total",
        Counter,
        "Lines that were not: writing was too slow, or failed.",
    )
    .sample(&[], facts.log.dropped);
    facts.process.write(&mut page);
    if let Some(sample) = &facts.sample {
        kernel::write(&mut page, sample);
    }
    page.text()
}

/// What the live splits are.
fn splits(page: &mut Page, facts: &Facts) {
    let upstreams = facts.upstreams.iter();
    let splits = || {
        let upstreams = upstreams.clone();
        upstreams.filter_map(|upstream| Some((upstream.name.as_str(), upstream.split.as_deref()?)))
    };
    let mut family = page.family(
        "warmline_upstream_short_share_ratio",
        Gauge,
        "The part of the upstream's requests that go to its short arm; 0 while that is stopped.",
    );
    for (name, split) in splits() {
        family.sample(&[("upstream", name)], split.in_force().part());
    }
    let mut family = page.family(
        "warmline_upstream_short_share_asked_ratio",
        Gauge,
        "The part that is asked for.",
    );
    for (name, split) in splits() {
        family.sample(&[("upstream", name)], split.asked().part());
    }
    let mut family = page.family(
        "warmline_upstream_split_stops_total",
        Counter,
        "How often the short arm was stopped, by why: few ports left, none left, more errors than the pooled arm.",
    );
    for (name, split) in splits() {
        for (why, count) in split.stops() {
            family.sample(&[("upstream", name), ("reason", why.label())], count);
        }
    }
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

/// Connections that have left HTTP.
fn tunnels(page: &mut Page, backends: &[Backend]) {
    let mut family = page.family(
        "warmline_backend_tunnels",
        Gauge,
        "Tunnels that are open: connections that have left HTTP for another protocol, WebSocket for one.",
    );
    for backend in backends {
        family.sample(&backend.labels(), backend.figures.tunnels.open());
    }
    counter(
        page,
        backends,
        "warmline_backend_upgrades_total",
        "Requests answered 101 Switching Protocols, each of which has become a tunnel.",
        |backend| backend.figures.tunnels.begun,
    );
    let used = || backends.iter().filter(|it| it.figures.tunnels.begun > 0);
    let mut family = page.family(
        "warmline_backend_tunnel_ends_total",
        Counter,
        "Tunnels that have ended: closed by both sides, broken off by one, silent for too long, cut off by the proxy's stop.",
    );
    for backend in used() {
        let [upstream, address] = backend.labels();
        for (end, count) in TunnelEnd::ALL
            .into_iter()
            .zip(backend.figures.tunnels.ended)
        {
            family.sample(&[upstream, address, ("end", end.label())], count);
        }
    }
    let mut family = page.family(
        "warmline_backend_tunnel_bytes_total",
        Counter,
        "Bytes passed on through tunnels, as they pass: received from clients, and sent to them.",
    );
    for backend in used() {
        let [upstream, address] = backend.labels();
        let tunnels = &backend.figures.tunnels;
        for (direction, bytes) in [("received", tunnels.received), ("sent", tunnels.sent)] {
            family.sample(&[upstream, address, ("direction", direction)], bytes);
        }
    }
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
        family.sample(
            &[upstream, address, ("reason", "given_up")],
            figures.given_up,
        );
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
