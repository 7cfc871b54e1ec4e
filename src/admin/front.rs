//! How clients come in → its part of the page at `/metrics`.

use crate::account::{Flood, Handshake};

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::Page;
use super::facts::Facts;

/// Connections with clients: TLS, its certificates, HTTP/2.
pub(super) fn write(page: &mut Page, facts: &Facts) {
    page.family(
        "warmline_client_connections",
        Gauge,
        "Client connections that are open, idle ones and those that are being closed included.",
    )
    .sample(&[], facts.clients);
    page.family(
        "warmline_clients_not_introduced_total",
        Counter,
        "Client connections that were closed since they had to begin with a PROXY header (proxy_protocol), and began otherwise, \
         broke off within it or did not send it in time.",
    )
    .sample(&[], facts.front.not_introduced);
    let mut family = page.family(
        "warmline_tls_handshakes_total",
        Counter,
        "TLS handshakes with clients, by what became of them: full, resumed (an earlier session), timeout, client_gone, plain_http (it spoke no TLS), failed.",
    );
    for result in Handshake::ALL {
        let count = facts.front.handshakes[result as usize];
        family.sample(&[("result", result.label())], count);
    }
    let mut family = page.family(
        "warmline_certificate_expires_seconds",
        Gauge,
        "Until when a certificate for clients is valid, in seconds since 1970, by its first name.",
    );
    for certificate in &facts.certificates {
        family.sample(&[("name", &certificate.name)], certificate.expires);
    }
    page.family(
        "warmline_http2_connections_total",
        Counter,
        "Client connections on which HTTP/2 was spoken.",
    )
    .sample(&[], facts.front.http2);
    let mut family = page.family(
        "warmline_http2_floods_total",
        Counter,
        "HTTP/2 clients that were sent away for what they cost: resets (requests reset as soon as made), idle_frames (pings, settings, empty data), library (endless heads and the like).",
    );
    for flood in Flood::ALL {
        family.sample(
            &[("kind", flood.label())],
            facts.front.floods[flood as usize],
        );
    }
}
