//! What the kernel says → its part of the page at `/metrics`.

use crate::census::{Counter as Count, Counters, Source};

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::Page;
use super::lanes::LaneSample;
use super::owners::Balance;
use super::sampler::{Origins, Sample};
use super::snat::{self, SnatSample};

/// What the kernel had when it was last asked.
pub(super) fn write(page: &mut Page, sample: &Sample) {
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
    snats(page, &sample.snats);
    tightest(page, sample);
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
    page.family(
        "warmline_census_age_seconds",
        Gauge,
        "How long ago it last told; longer than the period if it did not since. After 300 s all of this is absent.",
    )
    .sample(&[], sample.age.as_secs_f64());
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

fn snats(page: &mut Page, snats: &[SnatSample]) {
    let mut each = |name, help, value: &dyn Fn(&SnatSample) -> Option<f64>| {
        let mut family = page.family(name, Gauge, help);
        for snat in snats {
            if let Some(value) = value(snat) {
                family.sample(&[("backend", &snat.backend.to_string())], value);
            }
        }
    };
    each(
        "warmline_snat_ports",
        "The ports of a NAT on the way to the backend: snat_ports.",
        &|snat| Some(snat.ports.into()),
    );
    each(
        "warmline_snat_ports_left",
        "Of these, those left beside open connections and those closed by a FIN within 120 s. Other programs behind the NAT are not known.",
        &|snat| Some(snat.left.into()),
    );
    each(
        "warmline_snat_ports_last_seconds",
        "When none of these is left at the present rate. Absent where it does not come to that.",
        &|snat| snat.fails_after.map(|after| after.as_secs_f64()),
    );
}

fn tightest(page: &mut Page, sample: &Sample) {
    let mut family = page.family(
        "warmline_tightest_ports_left",
        Gauge,
        "The ports left to the backend by the tighter limit: local_ports, of the source address with the most, or snat_ports.",
    );
    let mut backends: Vec<_> = sample.lanes.iter().map(|lane| lane.backend).collect();
    backends.extend(sample.snats.iter().map(|snat| snat.backend));
    backends.sort_unstable();
    backends.dedup();
    for backend in backends {
        if let Some((limit, left)) = snat::tightest(backend, &sample.lanes, &sample.snats) {
            family.sample(&[("backend", &backend.to_string()), ("limit", limit)], left);
        }
    }
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
        let mut family = page.family(name, Counter, help);
        // Kernels learn and forget some.
        if let Some(value) = counters.get(counter) {
            family.sample(&[], value);
        }
    }
}
