//! Several workers share what one of them has idle.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::TestProxy;

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
    eprintln!(
        "four workers, one client: {accepted} backend connections for {REQUESTS} requests, \
         borrowed {} times",
        counts.borrowed
    );
    assert!(accepted <= 2, "{accepted} connections");
    assert_eq!(counts.opened, accepted);
    assert_eq!(counts.opened + counts.reused, REQUESTS);
    assert!(counts.borrowed > REQUESTS / 4, "they went to all workers");
    assert_eq!(counts.borrowed, counts.lent);
}

#[test]
fn a_limit_holds_for_all_workers_together_and_everybody_is_served() {
    static AT_ONCE: AtomicU64 = AtomicU64::new(0);
    let nginx = Nginx::start("keepalive_requests 1000000; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr)
        .unlimited()
        .workers(4)
        .upstream(|upstream| upstream.pool.max_connections = NonZeroU32::new(2))
        .start();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = Client::connect(proxy.addr());
                for _ in 0..100 {
                    assert_eq!(client.get("/").status, 200);
                    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
                    AT_ONCE.fetch_max(line.connections, Ordering::Relaxed);
                }
            });
        }
    });
    let counts = proxy.figures().counts;
    assert_eq!(nginx.connections_accepted(), 2);
    assert_eq!((counts.opened, counts.open_failed), (2, 0));
    assert_eq!(AT_ONCE.load(Ordering::Relaxed), 2);
    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
    assert!(line.waited > 100, "{} had to wait", line.waited);
    assert_eq!(line.waiting, 0);
}
