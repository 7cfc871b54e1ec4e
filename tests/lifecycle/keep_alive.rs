//! How often a client's connection is kept, and what is said about it.

use crate::proxy::{GET, GET_KEPT, NEVER, Proxy, ask, kept, ms, said};
use crate::support::PATIENCE;
use crate::support::client::Ended;
use crate::support::scripted::{Backend, Gate};

const CLOSE: &str = "close";

#[test]
fn with_keep_alive_off_every_response_says_close_and_the_fin_follows_it() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive.enabled = false;
    });
    for request in [GET, GET_KEPT] {
        let response = ask(&mut proxy.client(), request);
        assert_eq!(response.status, 200);
        assert_eq!(said(&response), (CLOSE.into(), String::new()));
        assert_eq!(response.ended, Ended::Fin);
    }
    assert_eq!(
        backend.connections(),
        1,
        "the backend's side is another matter"
    );
}

#[test]
fn a_keep_alive_timeout_of_zero_keeps_nothing() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(0), 100);
    });
    let response = ask(&mut proxy.client(), GET_KEPT);
    assert_eq!(said(&response), (CLOSE.into(), String::new()));
    assert_eq!(response.ended, Ended::Fin);
}

#[test]
fn a_limit_of_three_answers_four_requests_and_counts_down_to_a_client_that_named_keep_alive() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(5000), 3);
    });
    let mut client = proxy.client();
    for left in [3, 2, 1] {
        let response = ask(&mut client, GET_KEPT);
        let announced = format!("timeout=5, max={left}");
        assert_eq!(said(&response), ("Keep-Alive".into(), announced));
        assert_eq!(response.ended, Ended::KeptOpen);
    }
    let last = ask(&mut client, GET_KEPT);
    assert_eq!(last.status, 200);
    assert_eq!(said(&last), (CLOSE.into(), String::new()));
    assert_eq!(last.ended, Ended::Fin);
}

#[test]
fn a_client_that_did_not_name_keep_alive_is_told_of_the_end_only() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(5000), 1);
    });
    let mut client = proxy.client();
    let first = ask(&mut client, GET);
    assert_eq!(said(&first), (String::new(), String::new()));
    let last = ask(&mut client, GET);
    assert_eq!(said(&last), (CLOSE.into(), String::new()));
    assert_eq!(last.ended, Ended::Fin);
}

#[test]
fn the_limit_counts_for_each_connection_by_itself() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(5000), 1);
    });
    let (mut one, mut other) = (proxy.client(), proxy.client());
    for client in [&mut one, &mut other] {
        assert_eq!(ask(client, GET_KEPT).ended, Ended::KeptOpen);
    }
    for client in [&mut one, &mut other] {
        assert_eq!(ask(client, GET_KEPT).ended, Ended::Fin);
    }
}

#[test]
fn without_a_limit_there_is_no_max_to_announce() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(5000), 0);
    });
    let mut client = proxy.client();
    for _ in 0..150 {
        let response = ask(&mut client, GET_KEPT);
        assert_eq!(said(&response), ("Keep-Alive".into(), "timeout=5".into()));
    }
}

#[test]
fn the_announced_timeout_is_in_whole_seconds_rounded_down() {
    let backend = Backend::numbered();
    for (timeout, announced) in [(500, "timeout=0"), (1500, "timeout=1")] {
        let proxy = Proxy::start(backend.addr, |settings| {
            settings.client.keep_alive = kept(ms(timeout), 0);
        });
        let response = ask(&mut proxy.client(), GET_KEPT);
        assert_eq!(said(&response), ("Keep-Alive".into(), announced.into()));
    }
}

#[test]
fn close_beats_keep_alive_and_the_last_request_of_a_client_is_its_own_choice() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |_| {});
    for connection in ["close", "keep-alive, Close", "Upgrade, close"] {
        let request =
            format!("GET / HTTP/1.1\r\nHost: test.example\r\nConnection: {connection}\r\n\r\n");
        let response = ask(&mut proxy.client(), &request);
        assert_eq!(
            said(&response),
            (CLOSE.into(), String::new()),
            "{connection}"
        );
        assert_eq!(response.ended, Ended::Fin, "{connection}");
    }
}

#[test]
fn http_1_0_is_kept_when_it_asks_for_that() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(ms(5000), 9);
    });
    let mut client = proxy.client();
    let response = ask(
        &mut client,
        "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    );
    let announced = "timeout=5, max=9".into();
    assert_eq!(said(&response), ("Keep-Alive".into(), announced));
    let response = ask(&mut client, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(said(&response), (CLOSE.into(), String::new()));
    assert_eq!(response.ended, Ended::Fin);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_nothing_after_the_limit() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| {
            let path = request.line().split(' ').nth(1).unwrap().to_owned();
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}",
                path.len()
            )
            .into()
        });
    });
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(NEVER, 2);
    });
    let mut client = proxy.client();
    for number in 1..=5 {
        client.send(format!(
            "GET /{number} HTTP/1.1\r\nHost: test.example\r\n\r\n"
        ));
    }
    for number in 1..=3 {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    assert_eq!(backend.requests().len(), 3);
}

/// Apache httpd answers it; nginx takes it for gone, as is done here: a FIN does not say which it is,
/// and a backend should not work for nobody.
#[test]
fn a_client_that_half_closes_before_its_response_gets_it_unless_that_means_that_it_has_gone() {
    for abort_on_close in [false, true] {
        let gate = Gate::new();
        let backend = Backend::start({
            let gate = gate.clone();
            move |mut conn| {
                conn.request();
                conn.pause(&gate);
                if !abort_on_close {
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
                conn.wait_for_end();
            }
        });
        let proxy = Proxy::start(backend.addr, |settings| {
            settings.client.abort_on_close = abort_on_close;
        });
        let mut client = proxy.client();
        client.send(GET);
        gate.wait_reached(1);
        client.half_close();
        gate.open();
        if abort_on_close {
            backend.end_of(1);
        } else {
            assert_eq!(client.response().status, 200);
        }
        assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    }
}
