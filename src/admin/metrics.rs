//! What is known of a running proxy → the page at `/metrics`.

use std::time::Duration;

use crate::account::{Close, LineFigures, PoolFigures, Refusal};
use crate::census::{Counter as Count, Counters, Source};
use crate::keepalive::CloseReason;

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::Page;
use super::lanes::LaneSample;
use super::owners::Balance;
use super::sampler::{Origins, Sample};

/// Linux' `TCP_TIMEWAIT_LEN`, which cannot be set. Source: `include/net/tcp.h`.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// What is known at one moment.
pub(super) struct Facts {
    /// How many workers there are.
    pub(super) workers: usize,
    /// Client connections that are open.
    pub(super) clients: u32,
    /// The backends, one by one.
    pub(super) backends: Vec<Backend>,
    /// What the kernel had when it was last asked.
    pub(super) sample: Option<Sample>,
}

/// One backend of one upstream.
pub(super) struct Backend {
    pub(super) upstream: String,
    pub(super) address: String,
    pub(super) figures: PoolFigures,
    pub(super) line: LineFigures,
}

impl Backend {
    fn labels(&self) -> [(&'static str, &str); 2] {
        [("upstream", &self.upstream), ("backend", &self.address)]
    }
}

/// Writes the page.
pub(super) fn page(facts: &Facts) -> String {
    let mut page = Page::default();
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

fn requests(page: &mut Page, backends: &[Backend]) {
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
            "warmline_backend_connect_failures_total",
            "Attempts to open one that came to nothing.",
            |backend| backend.figures.counts.open_failed,
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
    if let Some(known) = &sample.origins {
        origins(page, known);
    }
    counters(page, &sample.counters);
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
        "warmline_census_samples_total",
        Counter,
        "How often it was asked.",
    )
    .sample(&[], sample.samples);
    page.family(
        "warmline_census_cpu_seconds_total",
        Counter,
        "The CPU time that asking, and counting what it says, took.",
    )
    .sample(&[], sample.cpu.as_secs_f64());
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

fn origins(page: &mut Page, origins: &Origins) {
    let mut family = page.family(
        "warmline_time_wait_sockets",
        Gauge,
        "TIME_WAIT sockets towards a backend, by what left them: a connection of the upstream (pooled, or one for each request) and why it ended; or something unknown here (origin foreign): another program, this one before a restart, or a connection that never carried a request.",
    );
    for one in &origins.time_waits {
        let backend = one.backend.to_string();
        match &one.owner {
            Some(owner) => family.sample(
                &[
                    ("origin", "warmline"),
                    ("upstream", &owner.upstream),
                    ("backend", &backend),
                    ("arm", owner.arm.label()),
                    ("reason", owner.reason.label()),
                ],
                one.count,
            ),
            None => family.sample(&[("origin", "foreign"), ("backend", &backend)], one.count),
        };
    }
    for (name, help, value) in [
        (
            "warmline_time_wait_expected_sockets",
            "Connections that were closed here first within the last minute: each must be in TIME_WAIT, or on the way there.",
            (|balance| balance.expected) as fn(&Balance) -> u64,
        ),
        (
            "warmline_time_wait_found_sockets",
            "Of these, those that the kernel still has. Fewer: some skipped TIME_WAIT, or their ports were taken again.",
            |balance| balance.found,
        ),
    ] {
        let mut family = page.family(name, Gauge, help);
        for balance in &origins.balances {
            let backend = balance.place.backend.to_string();
            let labels = [
                ("upstream", balance.place.upstream.as_str()),
                ("backend", &backend),
            ];
            family.sample(&labels, value(balance));
        }
    }
    page.family(
        "warmline_time_wait_unnoted_total",
        Counter,
        "Connections that were closed here first and not noted, as there was no room: their TIME_WAIT counts as foreign.",
    )
    .sample(&[], origins.lost);
}

fn counters(page: &mut Page, counters: &Counters) {
    for counter in Count::ALL {
        let (name, help) = match counter {
            Count::TimeWaits => (
                "warmline_kernel_time_waits_total",
                "TcpExt TW: sockets of the network namespace that went into TIME_WAIT, or into FIN_WAIT2 for as long.",
            ),
            Count::Recycled => (
                "warmline_kernel_time_waits_recycled_total",
                "TcpExt TWRecycled: ports in TIME_WAIT that were taken again, by tcp_tw_reuse.",
            ),
            Count::Killed => (
                "warmline_kernel_time_waits_killed_total",
                "TcpExt TWKilled: sockets that went into FIN_WAIT2 for a few seconds only.",
            ),
            Count::Overflows => (
                "warmline_kernel_time_wait_overflows_total",
                "TcpExt TCPTimeWaitOverflow: sockets that skipped TIME_WAIT, as tcp_max_tw_buckets were there.",
            ),
            Count::PawsRejects => (
                "warmline_kernel_time_wait_paws_rejects_total",
                "TcpExt PAWSTimewait: segments that a TIME_WAIT refused for their timestamp, as from several hosts behind one NAT.",
            ),
            Count::AbortsOnData => (
                "warmline_kernel_aborts_on_data_total",
                "TcpExt TCPAbortOnData: connections closed by a reset, as their program asked for.",
            ),
            Count::ResetsSent => (
                "warmline_kernel_resets_sent_total",
                "Tcp OutRsts: resets sent.",
            ),
            Count::EstablishedResets => (
                "warmline_kernel_established_resets_total",
                "Tcp EstabResets: open connections that ended by a reset.",
            ),
            Count::ListenOverflows => (
                "warmline_kernel_listen_overflows_total",
                "TcpExt ListenOverflows: connections refused as a program accepted too slowly.",
            ),
            Count::SynRetransmits => (
                "warmline_kernel_syn_retransmits_total",
                "TcpExt TCPSynRetrans: SYNs sent again.",
            ),
        };
        if let Some(value) = counters.get(counter) {
            page.family(name, Counter, help).sample(&[], value);
        }
    }
}
