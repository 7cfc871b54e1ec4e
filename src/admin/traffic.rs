//! Exchanges and their times → their part of the page at `/metrics`.

use std::ops::RangeInclusive;

use crate::account::{CLASSES, Outcome, Span, Traffic};

use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::exposition::Page;
use super::facts::{Facts, Upstream};

/// The ends of buckets for times that clients wait: 64 us to 67 s, each twice the one before.
const WAITS: RangeInclusive<u32> = 6..=26;

/// The same for how long connections are idle: 1 ms to over an hour.
const IDLE: RangeInclusive<u32> = 10..=32;

/// The words for no status and for the five classes.
const CLASS: [&str; CLASSES] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests, how they ended, and how long they and their connections took.
pub(super) fn exchanges(page: &mut Page, facts: &Facts) {
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
         and how they ended: answered by a backend, refused with an error of our own, own: by a route's redirect or fixed response, broken_off by the backend, client_gone.",
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
    spans(page, &facts.upstreams);
}

/// What requests and connections to backends waited for, by upstream.
fn spans(page: &mut Page, upstreams: &[Upstream]) {
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
        (
            "warmline_upstream_round_trip_seconds",
            "The round trip to the backend as the kernel had measured it (TCP_INFO) when a connection ended, of one in 16.",
            Span::RoundTrip,
            WAITS,
        ),
    ] {
        let mut family = page.family(name, Histogram, help);
        for Upstream { name, figures, .. } in upstreams {
            let times = figures.spans.of(span);
            family.histogram(&[("upstream", name)], times, powers.clone());
        }
    }
    let mut family = page.family(
        "warmline_upstream_retransmits_total",
        Counter,
        "Segments that had been sent again on these connections.",
    );
    for Upstream { name, figures, .. } in upstreams {
        family.sample(&[("upstream", name)], figures.retransmits);
    }
}

/// What there was, by outcome and class.
pub(super) fn by_outcome(traffic: &Traffic, mut each: impl FnMut(&str, &str, u64)) {
    for outcome in Outcome::ALL {
        for (class, count) in CLASS.into_iter().zip(traffic.exchanges[outcome as usize]) {
            if count > 0 {
                each(outcome.label(), class, count);
            }
        }
    }
}
