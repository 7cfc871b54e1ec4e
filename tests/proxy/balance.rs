//! Several servers in one upstream.

use std::time::Duration;

use crate::support::client::{self, Client};
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Refusing, Unanswering};
use crate::{OK, post};

#[test]
fn servers_share_the_requests_by_their_weights() {
    let (heavy, light) = (Backend::answering(OK), Backend::answering(OK));
    let proxy = TestProxy::to_all(&[(heavy.addr, 2), (light.addr, 1)]).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((heavy.requests().len(), light.requests().len()), (40, 20));
    assert_eq!((heavy.connections(), light.connections()), (1, 1));
}

#[test]
fn a_server_that_refuses_is_passed_over_and_no_request_fails() {
    let (refusing, backend) = (Refusing::start(), Backend::answering(OK));
    let proxy = TestProxy::to_all(&[(refusing.addr, 1), (backend.addr, 1)]).start();
    let mut client = Client::connect(proxy.addr());
    for n in 0..20 {
        client.send(post("/", "body"));
        assert_eq!(client.response().status, 200, "request {n}");
    }
    let seen = backend.requests();
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|request| request.body == b"body"));
    // It is not asked again at once: one attempt was enough to know.
    assert_eq!(proxy.figures().counts.open_failed, 1);
}

#[test]
fn a_server_that_does_not_answer_a_connect_is_passed_over() {
    let (silent, backend) = (Unanswering::start(), Backend::answering(OK));
    let proxy = TestProxy::to_all(&[(silent.addr, 1), (backend.addr, 1)])
        .upstream(|upstream| upstream.connect_timeout = Duration::from_millis(200))
        .start();
    for _ in 0..4 {
        assert_eq!(client::get(proxy.addr(), "/").status, 200);
    }
    assert_eq!(proxy.figures().counts.open_failed, 1);
}

#[test]
fn when_all_servers_refuse_each_is_tried_once_and_the_client_is_told() {
    let (one, two) = (Refusing::start(), Refusing::start());
    let proxy = TestProxy::to_all(&[(one.addr, 1), (two.addr, 1)]).start();
    let mut client = Client::connect(proxy.addr());
    for n in 1..=3 {
        assert_eq!(client.get("/").status, 502);
        assert_eq!(proxy.figures().counts.open_failed, 2 * n);
    }
}

#[test]
fn a_server_of_weight_0_gets_nothing() {
    let (off, on) = (Backend::answering(OK), Backend::answering(OK));
    let proxy = TestProxy::to_all(&[(off.addr, 0), (on.addr, 1)]).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((off.connections(), on.requests().len()), (0, 10));
}
