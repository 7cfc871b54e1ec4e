//! The end of the real program: who is still served, who is told, and how long it may take.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::program::{Program, config};
use crate::proxy::{GET, LATE, ask, ms, said};
use crate::support::PATIENCE;
use crate::support::client::{Client, Ended};
use crate::support::scripted::{Backend, Gate, PeerEnd};
use crate::support::wait_until;

/// Far less than what a request in flight may take here, far more than a busy machine needs.
const SOON: Duration = Duration::from_secs(10);

const PATIENT: &str = "shutdown_timeout = \"60s\"";

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers `/slow` once the gate is open, everything else at once.
fn gated(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::start(move |mut conn| {
        while let Some(request) = conn.request() {
            if request.line().contains("/slow") {
                conn.pause(&gate);
            }
            conn.send(OK);
        }
    })
}

/// A client whose request is with the backend.
fn in_flight(program: &Program, gate: &Gate) -> Client {
    let mut client = program.client();
    client.send("GET /slow HTTP/1.1\r\nHost: test.example\r\nConnection: keep-alive\r\n\r\n");
    gate.wait_reached(1);
    client
}

#[test]
fn a_signal_closes_what_is_idle_and_finishes_what_is_in_flight() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let gate = Gate::new();
        let backend = gated(&gate);
        let mut program = Program::start(backend.addr, PATIENT);
        let mut busy = in_flight(&program, &gate);
        let mut idle = program.client();
        assert_eq!(ask(&mut idle, GET).status, 200);
        let mut unused = program.client();
        // Both are accepted: the one after them was.
        assert_eq!(ask(&mut program.client(), GET).status, 200);

        program.signal(signal);
        assert_eq!(idle.end_within(SOON), Ended::Fin, "{signal:?}");
        assert_eq!(unused.end_within(SOON), Ended::Fin, "{signal:?}");
        program.wait_until_refused();
        assert_eq!(busy.end_within(ms(50)), Ended::KeptOpen, "{signal:?}");

        gate.open();
        let response = busy.response();
        assert_eq!((response.status, response.text()), (200, "ok".into()));
        assert_eq!(said(&response), ("close".into(), String::new()));
        assert_eq!(response.ended, Ended::Fin);
        drop((idle, unused, busy));
        assert_eq!(program.exit_code(SOON), 0, "{signal:?}");
        assert!(program.log().contains("stopped"), "{}", program.log());
    }
}

#[test]
fn a_signal_is_heard_as_soon_as_the_log_says_where_the_proxy_listens() {
    let backend = Backend::answering(OK);
    for _ in 0..10 {
        let mut program = Program::start(backend.addr, "");
        program.signal(Signal::TERM);
        assert_eq!(program.exit_code(SOON), 0);
    }
}

#[test]
fn idle_backend_connections_are_closed_while_requests_are_still_in_flight() {
    let gate = Gate::new();
    let backend = gated(&gate);
    let program = Program::start(backend.addr, PATIENT);
    let mut busy = in_flight(&program, &gate);
    assert_eq!(ask(&mut program.client(), GET).status, 200);
    assert_eq!(backend.connections(), 2);
    program.signal(Signal::TERM);
    assert_eq!(backend.end_of(2), PeerEnd::Fin);
    assert_eq!(backend.ends().len(), 1, "the other one is in use");
    gate.open();
    assert_eq!(busy.response().status, 200);
    assert_eq!(backend.end_of(1), PeerEnd::Fin);
}

#[test]
fn requests_in_flight_have_shutdown_timeout_and_no_more() {
    let gate = Gate::new();
    let backend = gated(&gate);
    let mut program = Program::start(backend.addr, "shutdown_timeout = \"700ms\"");
    let mut busy = in_flight(&program, &gate);
    let from = Instant::now();
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(SOON), 0);
    let took = from.elapsed();
    assert!(took >= ms(700), "{took:?}");
    let log = program.log();
    assert!(log.contains("shutdown_timeout is over"), "{log}");
    assert!(log.contains("connections=1"), "{log}");
    assert!(busy.try_response().is_err(), "there is no answer");
}

#[test]
fn a_shutdown_timeout_of_zero_waits_for_none() {
    let gate = Gate::new();
    let backend = gated(&gate);
    let mut program = Program::start(backend.addr, "shutdown_timeout = 0");
    let mut busy = in_flight(&program, &gate);
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(SOON), 0);
    assert!(busy.try_response().is_err(), "there is no answer");
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::QUIT, Signal::INT)] {
        let gate = Gate::new();
        let backend = gated(&gate);
        let mut program = Program::start(backend.addr, PATIENT);
        let _busy = in_flight(&program, &gate);
        program.signal(first);
        program.wait_for_log("finishing the requests in flight");
        program.signal(second);
        assert_eq!(program.exit_code(SOON), 1);
        assert!(
            program.log().contains("ending at once"),
            "{}",
            program.log()
        );
    }
}

#[test]
fn a_client_that_stays_after_its_last_response_does_not_hold_up_the_end() {
    let gate = Gate::new();
    let backend = gated(&gate);
    let mut program = Program::start(backend.addr, PATIENT);
    let mut busy = in_flight(&program, &gate);
    // This one's linger has begun before the signal.
    let mut early = program.client();
    let request = "GET / HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(&mut early, request).ended, Ended::Fin);
    program.signal(Signal::TERM);
    program.wait_until_refused();
    gate.open();
    assert_eq!(busy.response().ended, Ended::Fin);
    assert_eq!(program.exit_code(SOON), 0);
    drop((early, busy));
}

#[test]
fn clients_in_the_accept_queue_at_the_signal_are_answered() {
    let backend = Backend::answering(OK);
    let mut program = Program::start(backend.addr, PATIENT);
    program.freeze();
    let mut clients: Vec<_> = (0..200).map(|_| program.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    assert_all_answered(&mut program, clients);
}

/// Each gets its response and then a FIN: announced, where the response came after the signal was
/// heard.
fn assert_all_answered(program: &mut Program, mut clients: Vec<Client>) {
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 200);
        if response.ended == Ended::KeptOpen {
            assert_eq!(client.end_within(SOON), Ended::Fin);
        }
    }
    drop(clients);
    assert_eq!(program.exit_code(SOON), 0);
}

#[test]
fn a_request_that_has_arrived_on_a_kept_connection_at_the_signal_is_answered() {
    let backend = Backend::answering(OK);
    let mut program = Program::start(backend.addr, PATIENT);
    let mut clients: Vec<_> = (0..50).map(|_| program.client()).collect();
    for client in &mut clients {
        assert_eq!(ask(client, GET).ended, Ended::KeptOpen);
    }
    program.freeze();
    for client in &mut clients {
        client.send(GET);
    }
    program.signal(Signal::TERM);
    program.signal(Signal::CONT);
    assert_all_answered(&mut program, clients);
}

#[test]
fn under_load_no_request_on_a_kept_connection_is_lost_at_the_end() {
    let backend = Backend::answering(OK);
    let endless = format!("{PATIENT}\n[client]\nmax_keep_alive_requests = 0");
    let mut program = Program::start(backend.addr, &endless);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = program.client();
                let mut before = Instant::now();
                loop {
                    let now = Instant::now();
                    client.send(GET);
                    let Ok(response) = client.try_response() else {
                        // Only a client that paused for longer than the last chance may lose one.
                        let paused = before.elapsed();
                        assert!(paused > ms(100), "lost after {paused:?}");
                        return;
                    };
                    before = now;
                    assert_eq!((response.status, response.text()), (200, "ok".into()));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if said(&response).0 == "close" {
                        assert_eq!(response.ended, Ended::Fin);
                        return;
                    }
                }
            });
        }
        wait_until(PATIENCE, "some load", || {
            answered.load(Ordering::Relaxed) > 500
        });
        program.signal(Signal::TERM);
    });
    assert_eq!(program.exit_code(SOON), 0);
}

#[test]
fn a_client_that_sends_for_ever_after_its_refusal_does_not_hold_up_the_end() {
    let backend = Backend::answering(OK);
    let mut program = Program::start(
        backend.addr,
        "shutdown_timeout = \"60s\"\n[client]\nlimit_request_body = 10",
    );
    let mut stream = TcpStream::connect(program.addr).unwrap();
    let head = "POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let sending = thread::spawn(move || while stream.write_all(&[b'x'; 4096]).is_ok() {});
    program.wait_for_log("status=413");
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(SOON), 0);
    sending.join().unwrap();
}

/// Without a descriptor left, accepting fails again and again.
#[test]
fn without_a_descriptor_left_a_stop_ends_in_its_time() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut program = Program::with_few_descriptors(
        &config("127.0.0.1:0", backend.addr, "shutdown_timeout = 1"),
        40,
    );
    let clients: Vec<_> = (0..120)
        .map(|_| TcpStream::connect(program.addr).unwrap())
        .collect();
    wait_until(PATIENCE, "the descriptors to run out", || {
        program.log().contains("cannot accept")
    });
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(LATE), 0, "{}", program.log());
    drop(clients);
}
