//! What each way in which a client's connection ends leaves in the kernel: whose the TIME_WAIT is, and
//! how long the proxy goes on reading after its own FIN.
//!
//! The side whose FIN goes first has the TIME_WAIT. Each test looks at both: a FIN that a client sees
//! before it has closed was the first.

use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use warmline::census::TcpState;
use warmline::server::Settings;

use crate::kernel::{assert_left, resets, sides};
use crate::program::Program;
use crate::proxy::{GET, LATE, NEVER, Proxy, ask, kept, ms, said};
use crate::support::client::{Client, Ended};
use crate::support::network::in_network_of_its_own;
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// More than the kernel's buffers between the proxy and a client that does not read, or the other way.
const LARGE: usize = 64 << 20;

/// The time that is to be over. What has to come before that comes at once, or as late as a busy machine
/// makes it.
const SHORT: Duration = Duration::from_millis(1500);

/// How long the proxy reads on after it has cut off an idle client.
const LINGER_SHORT: Duration = Duration::from_secs(2);

/// What a case changes of the settings.
type Change = fn(&mut Settings);

/// Runs `body` in a network namespace of its own, for a test of this file called `name`.
fn in_own_network(name: &str, body: fn()) {
    in_network_of_its_own(&format!("kernel_clients::{name}"), body);
}

#[track_caller]
fn assert_in_time(from: Instant, due: Duration) {
    let took = from.elapsed();
    assert!(took >= due, "{took:?} is before {due:?}");
    assert!(took < due + LATE, "{took:?} is long after {due:?}");
}

/// So many sockets are open in this process, which has one test only.
fn open_sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = files.flatten().map(|file| std::fs::read_link(file.path()));
    links
        .flatten()
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Sends a byte now and then until the connection does not take it: the other end is closed.
///
/// The kernel answers the first byte that comes too late with a reset, and the next one fails.
fn trickle_until_reset(client: &mut Client) {
    wait_until(PATIENCE + LINGER_SHORT, "a reset", || {
        thread::sleep(ms(20));
        client.try_send("x").is_err()
    });
}

#[test]
fn a_client_that_closes_first_keeps_the_time_wait_wherever_its_request_stands() {
    in_own_network(
        "a_client_that_closes_first_keeps_the_time_wait_wherever_its_request_stands",
        || {
            let backend = Backend::start(|mut conn| {
                conn.head();
                conn.wait_for_end();
            });
            for (sends, answer, to_backend) in [
                ("", None, false),
                ("GET / HT", None, false),
                ("GET / HTTP/1.1\r\nHost: te", Some(400), false),
                (GET, None, true),
            ] {
                eprintln!("{sends:?}");
                let proxy = Proxy::start(backend.addr, |settings| {
                    settings.client.abort_on_close = true;
                });
                let before = backend.requests().len();
                let mut client = proxy.client();
                client.send(sends);
                if to_backend {
                    wait_until(PATIENCE, "the request at the backend", || {
                        backend.requests().len() > before
                    });
                }
                assert_eq!(client.end_within(ms(50)), Ended::KeptOpen);
                client.half_close();
                if let Some(status) = answer {
                    let answer = client.response();
                    assert_eq!((answer.status, answer.ended), (status, Ended::Fin));
                } else {
                    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
                }
                drop(client);
                assert_left(proxy.addr, 1, 0);
            }
        },
    );
}

#[test]
fn a_client_that_closes_within_its_body_keeps_the_time_wait_and_is_answered_400() {
    in_own_network(
        "a_client_that_closes_within_its_body_keeps_the_time_wait_and_is_answered_400",
        || {
            let backend = Backend::numbered();
            let proxy = Proxy::start(backend.addr, |_| {});
            let mut client = proxy.client();
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
            client.half_close();
            let answer = client.response();
            assert_eq!((answer.status, answer.ended), (400, Ended::Fin));
            drop(client);
            assert_left(proxy.addr, 1, 0);
        },
    );
}

#[test]
fn a_client_that_resets_leaves_nothing_behind() {
    in_own_network("a_client_that_resets_leaves_nothing_behind", || {
        let backend = Backend::numbered();
        let proxy = Proxy::start(backend.addr, |_| {});
        let mut client = proxy.client();
        assert_eq!(ask(&mut client, GET).ended, Ended::KeptOpen);
        client.reset();
        assert_left(proxy.addr, 0, 0);
    });
}

#[test]
fn every_response_that_says_close_leaves_its_time_wait_on_the_listening_port() {
    in_own_network(
        "every_response_that_says_close_leaves_its_time_wait_on_the_listening_port",
        || {
            let any = |_: &mut Settings| {};
            let off = |settings: &mut Settings| settings.client.keep_alive.enabled = false;
            let second_is_last = |settings: &mut Settings| {
                settings.client.keep_alive.max_requests = NonZeroU32::new(1);
            };
            let small = |settings: &mut Settings| settings.client.limits.body = Some(3);
            let nobody = |settings: &mut Settings| settings.upstreams[0].servers[0].weight = 0;
            let asked = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let cases: [(&str, Change, &[&str], u16); 9] = [
                ("KeepAlive Off", off, &[GET], 200),
                ("the request limit", second_is_last, &[GET, GET], 200),
                ("the client asked", any, &[GET, asked], 200),
                ("HTTP/1.0", any, &["GET / HTTP/1.0\r\n\r\n"], 200),
                ("no request", any, &["nonsense\r\n\r\n"], 400),
                ("no Host", any, &[GET, "GET / HTTP/1.1\r\n\r\n"], 400),
                (
                    "a body too long",
                    small,
                    &["POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd"],
                    413,
                ),
                (
                    "a body that becomes too long",
                    small,
                    &[
                        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
                    ],
                    413,
                ),
                ("no server", nobody, &[GET], 503),
            ];
            let backend = Backend::numbered();
            for (name, change, requests, status) in cases {
                eprintln!("{name}");
                let proxy = Proxy::start(backend.addr, change);
                let mut client = proxy.client();
                let (last, others) = requests.split_last().unwrap();
                for request in others {
                    assert_eq!(ask(&mut client, request).ended, Ended::KeptOpen, "{name}");
                }
                let response = ask(&mut client, last);
                assert_eq!(response.status, status, "{name}");
                assert_eq!(said(&response).0, "close", "{name}");
                assert_eq!(response.ended, Ended::Fin, "{name}");
                drop(client);
                assert_left(proxy.addr, 0, 1);
            }
        },
    );
}

/// What a client sends before it is cut off, and how it is answered.
const CUT_OFF: [(&str, Option<u16>); 5] = [
    ("", None),
    ("GET / HTTP/1.1", None),
    ("\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nHost: test.exa", Some(408)),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
        Some(408),
    ),
];

/// A proxy that cuts off a client which has sent no more than this, on a kept connection or a new one.
fn cuts_off(backend: &Backend, sends: &str, is_kept: bool) -> Proxy {
    let (keep_alive_timeout, timeout) = if sends.is_empty() && is_kept {
        (SHORT, NEVER)
    } else {
        (NEVER, SHORT)
    };
    Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(keep_alive_timeout, 0);
        settings.client.timeout = timeout;
    })
}

/// A client that sends no more than this, once the proxy's FIN is there.
fn cut_off(proxy: &Proxy, (sends, status): (&str, Option<u16>), is_kept: bool) -> Client {
    let mut client = proxy.client();
    if is_kept {
        assert_eq!(ask(&mut client, GET).ended, Ended::KeptOpen);
    }
    client.send(sends);
    if let Some(status) = status {
        let response = client.response();
        assert_eq!((response.status, response.ended), (status, Ended::Fin));
    }
    assert_eq!(client.end_within(PATIENCE), Ended::Fin, "{sends:?}");
    client
}

#[test]
fn every_wait_that_is_over_leaves_its_time_wait_on_the_listening_port() {
    in_own_network(
        "every_wait_that_is_over_leaves_its_time_wait_on_the_listening_port",
        || {
            let backend = Backend::numbered();
            thread::scope(|scope| {
                for case in CUT_OFF {
                    for is_kept in [false, true] {
                        let backend = &backend;
                        scope.spawn(move || {
                            let proxy = cuts_off(backend, case.0, is_kept);
                            drop(cut_off(&proxy, case, is_kept));
                            assert_left(proxy.addr, 0, 1);
                        });
                    }
                }
            });
        },
    );
}

#[test]
fn after_a_wait_that_is_over_the_proxy_reads_on_for_two_seconds_and_then_resets() {
    in_own_network(
        "after_a_wait_that_is_over_the_proxy_reads_on_for_two_seconds_and_then_resets",
        || {
            let backend = Backend::numbered();
            // The last is answered as any request is, and has the time that a response which says close has.
            thread::scope(|scope| {
                for case in &CUT_OFF[..4] {
                    let backend = &backend;
                    scope.spawn(move || {
                        let proxy = cuts_off(backend, case.0, true);
                        let from = Instant::now();
                        let mut client = cut_off(&proxy, *case, true);
                        trickle_until_reset(&mut client);
                        assert_in_time(from, SHORT + LINGER_SHORT);
                        drop(client);
                        assert_left(proxy.addr, 0, 0);
                    });
                }
            });
        },
    );
}

#[test]
fn an_idle_client_that_closes_after_those_two_seconds_leaves_the_same_time_wait() {
    in_own_network(
        "an_idle_client_that_closes_after_those_two_seconds_leaves_the_same_time_wait",
        || {
            let backend = Backend::numbered();
            let proxy = cuts_off(&backend, CUT_OFF[0].0, true);
            let from = Instant::now();
            let client = cut_off(&proxy, CUT_OFF[0], true);
            let open = open_sockets();
            wait_until(PATIENCE, "the proxy to close its socket", || {
                open_sockets() < open
            });
            assert_in_time(from, SHORT + LINGER_SHORT);
            // What is left of it belongs to the kernel, and still waits for the client's FIN.
            let sides = sides(proxy.addr);
            assert_eq!(sides.theirs.get(TcpState::FinWait2), 1, "{sides:?}");
            assert_eq!(sides.ours.get(TcpState::CloseWait), 1, "{sides:?}");
            drop(client);
            assert_left(proxy.addr, 0, 1);
        },
    );
}

#[test]
fn after_a_response_that_says_close_the_proxy_goes_on_reading_and_never_resets() {
    in_own_network(
        "after_a_response_that_says_close_the_proxy_goes_on_reading_and_never_resets",
        || {
            let backend = Backend::numbered();
            let proxy = Proxy::start(backend.addr, |_| {});
            let before = resets();
            let mut client = proxy.client();
            let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            assert_eq!(ask(&mut client, request).ended, Ended::Fin);
            // More than any buffer holds: somebody reads it.
            client.send(vec![b'x'; LARGE]);
            // Longer than the short linger, and with a silence that a bound for each read would end.
            let from = Instant::now();
            let silence = LINGER_SHORT + ms(200);
            for pause in [ms(100); 10].into_iter().chain([silence]) {
                thread::sleep(pause);
                client.send("x");
            }
            assert!(from.elapsed() >= ms(3000));
            let sides = sides(proxy.addr);
            assert_eq!(sides.theirs.get(TcpState::FinWait2), 1, "{sides:?}");
            assert_eq!(sides.ours.get(TcpState::CloseWait), 1, "{sides:?}");
            drop(client);
            assert_left(proxy.addr, 0, 1);
            assert_eq!(resets() - before, 0);
        },
    );
}

#[test]
fn a_client_that_takes_nothing_is_reset_and_nobody_holds_a_time_wait() {
    in_own_network(
        "a_client_that_takes_nothing_is_reset_and_nobody_holds_a_time_wait",
        || {
            let backend = Backend::start(|mut conn| {
                conn.request();
                conn.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
                ));
                conn.send(vec![b'x'; LARGE]);
                conn.wait_for_end();
            });
            let proxy = Proxy::start(backend.addr, |settings| settings.client.timeout = SHORT);
            let mut client = proxy.client();
            client.discard_bodies();
            client.send(GET);
            backend.end_of(1);
            let response = client.response();
            assert_eq!((response.complete, response.ended), (false, Ended::Reset));
            drop(client);
            assert_left(proxy.addr, 0, 0);
        },
    );
}

#[test]
fn a_response_that_breaks_off_ends_with_a_fin_or_with_a_reset_where_its_end_is_the_connections() {
    in_own_network(
        "a_response_that_breaks_off_ends_with_a_fin_or_with_a_reset_where_its_end_is_the_connections",
        || {
            let http_1_0 = "GET / HTTP/1.0\r\n\r\n";
            let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\n";
            for (request, head, ended, left) in [
                (GET, "Content-Length: 10\r\n\r\n", Ended::Fin, (0, 1)),
                (GET, chunked, Ended::Fin, (0, 1)),
                (http_1_0, chunked, Ended::Reset, (0, 0)),
            ] {
                eprintln!("{request:?}, {head:?}");
                let backend = Backend::start(move |mut conn| {
                    conn.request();
                    conn.send_and_fin(format!("HTTP/1.1 200 OK\r\n{head}begun"));
                });
                let proxy = Proxy::start(backend.addr, |_| {});
                let mut client = proxy.client();
                let response = ask(&mut client, request);
                assert_eq!((response.status, response.complete), (200, false));
                assert_eq!(response.ended, ended);
                drop(client);
                assert_left(proxy.addr, left.0, left.1);
            }
        },
    );
}

#[test]
fn a_graceful_end_leaves_the_time_waits_of_idle_and_of_busy_clients_with_us() {
    in_own_network(
        "a_graceful_end_leaves_the_time_waits_of_idle_and_of_busy_clients_with_us",
        || {
            let gate = Gate::new();
            let backend = Backend::start({
                let gate = gate.clone();
                move |mut conn| {
                    while let Some(request) = conn.request() {
                        if request.line().contains("/slow") {
                            conn.pause(&gate);
                        }
                        conn.send(OK);
                    }
                }
            });
            let mut program = Program::start(backend.addr, "shutdown_timeout = \"60s\"");
            let mut busy = program.client();
            busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
            gate.wait_reached(1);
            let mut idle = program.client();
            assert_eq!(ask(&mut idle, GET).ended, Ended::KeptOpen);
            program.signal(Signal::TERM);
            assert_eq!(idle.end_within(PATIENCE), Ended::Fin);
            drop(idle);
            wait_until(PATIENCE, "its TIME_WAIT", || {
                sides(program.addr).theirs.get(TcpState::TimeWait) == 1
            });
            assert_eq!(busy.end_within(ms(50)), Ended::KeptOpen);
            gate.open();
            let response = busy.response();
            assert_eq!((response.status, response.ended), (200, Ended::Fin));
            assert_eq!(said(&response).0, "close");
            drop(busy);
            assert_eq!(program.exit_code(LATE), 0);
            assert_left(program.addr, 0, 2);
        },
    );
}

#[test]
fn an_idle_client_that_stays_is_let_go_two_seconds_after_a_graceful_end_began() {
    in_own_network(
        "an_idle_client_that_stays_is_let_go_two_seconds_after_a_graceful_end_began",
        || {
            let backend = Backend::answering(OK);
            let mut program = Program::start(backend.addr, "shutdown_timeout = \"60s\"");
            let mut idle = program.client();
            assert_eq!(ask(&mut idle, GET).ended, Ended::KeptOpen);
            let from = Instant::now();
            program.signal(Signal::TERM);
            assert_eq!(idle.end_within(LATE), Ended::Fin);
            assert_eq!(program.exit_code(LATE), 0);
            let took = from.elapsed();
            assert!(took >= LINGER_SHORT, "{took:?}");
            drop(idle);
            assert_left(program.addr, 0, 1);
        },
    );
}

#[test]
fn when_shutdown_timeout_is_over_what_is_left_is_cut_off_as_a_response_that_breaks_off() {
    in_own_network(
        "when_shutdown_timeout_is_over_what_is_left_is_cut_off_as_a_response_that_breaks_off",
        || {
            let backend = Backend::start(|mut conn| {
                conn.request();
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun");
                conn.wait_for_end();
            });
            for (request, ended, left) in [
                (GET, Ended::Fin, (0, 1)),
                ("GET / HTTP/1.0\r\n\r\n", Ended::Reset, (0, 0)),
            ] {
                let mut program = Program::start(backend.addr, "shutdown_timeout = \"300ms\"");
                let before = backend.requests().len();
                let mut client = program.client();
                client.send(request);
                wait_until(PATIENCE, "the request at the backend", || {
                    backend.requests().len() > before
                });
                let reading = thread::spawn(move || client.response());
                program.signal(Signal::TERM);
                assert_eq!(program.exit_code(LATE), 0);
                let response = reading.join().unwrap();
                assert_eq!((response.complete, response.ended), (false, ended));
                assert_left(program.addr, left.0, left.1);
            }
        },
    );
}
