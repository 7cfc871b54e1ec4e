//! Several workers, one client, one backend: how few connections do. A program of its own, so that no
//! other test runs beside it: a worker that does not get a processor for some milliseconds is not
//! waited for.

// What goes wrong here is a failed test.
#![allow(clippy::unwrap_used, clippy::format_push_string)]

#[path = "support/mod.rs"]
mod support;

use support::client::Client;
use support::nginx::Nginx;
use support::proxy::TestProxy;

const REQUESTS: u64 = 1000;

/// One request on a connection of its own each: the kernel spreads them over the workers.
fn one_after_the_other(proxy: &TestProxy) {
    for n in 0..REQUESTS {
        let response = Client::connect(proxy.addr()).get("/");
        assert_eq!(response.status, 200, "request {n}");
    }
}

#[test]
fn a_thousand_requests_of_one_client_over_four_workers_take_two_backend_connections_at_most() {
    let nginx = Nginx::start("keepalive_requests 1000000; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).unlimited().workers(4).start();
    one_after_the_other(&proxy);
    let accepted = nginx.connections_accepted();
    let counts = proxy.figures().counts;
    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
    eprintln!(
        "four workers, one client: {accepted} backend connections for {REQUESTS} requests, \
         borrowed {} times, {} times too late",
        counts.borrowed, line.lent_late
    );
    // A worker that gets no processor for 5 ms is not waited for: that depends on what else the
    // machine does, and each time is counted.
    assert!(accepted <= 2 + line.lent_late, "{accepted} connections");
    assert!(line.lent_late < REQUESTS / 10, "workers lend");
    assert_eq!(counts.opened, accepted);
    assert_eq!(counts.opened + counts.reused, REQUESTS);
    assert!(counts.borrowed > REQUESTS / 4, "they went to all workers");
    assert_eq!(counts.borrowed, counts.lent);
}
