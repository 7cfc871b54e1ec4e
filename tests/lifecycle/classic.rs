//! `config/apache-classic.toml` to its full times: `Timeout 30`, `MaxKeepAliveRequests 100`,
//! `KeepAliveTimeout 180`; in a clock that is moved by hand, and once, when asked to, in real time.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use warmline::config;
use warmline::server::Settings;

use crate::moved_time::{TICK, Worker, in_moved_time, tasks};
use crate::program::Program;
use crate::proxy::{GET, GET_KEPT, ask, ms, said};
use crate::support::PATIENCE;
use crate::support::client::{Client, Ended};
use crate::support::scripted::Backend;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/apache-classic.toml");

const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(180);
const TIMEOUT: Duration = Duration::from_secs(30);

/// `RequestReadTimeout`'s first figure, for heads and for bodies.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What `RequestReadTimeout` adds for the only whole line of half a head: 16 bytes at 500 a second.
const FOR_A_LINE: Duration = Duration::from_millis(32);

const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHost: test.exa";

/// Runs `script` beside a worker with the file's settings, as `change` makes them.
fn in_moved_classic(change: impl FnOnce(&mut Settings), script: impl AsyncFnOnce(Rc<Worker>)) {
    let loaded = config::load(Path::new(FILE)).unwrap_or_else(|report| panic!("{report}"));
    let mut settings = loaded.settings;
    change(&mut settings);
    let backend = Backend::numbered();
    in_moved_time(settings, backend.addr, script);
}

#[test]
fn an_idle_client_is_kept_for_180_seconds_and_closed_in_silence_then() {
    in_moved_classic(
        |_| {},
        async |worker| {
            let mut client = worker.client().await;
            let announced = "timeout=180, max=100".to_owned();
            assert_eq!(said(&client.asks(GET_KEPT).await).1, announced);
            let with_its_task = tasks();
            sleep(ms(1500)).await;
            assert_eq!(tasks(), with_its_task - 1, "it is parked");
            sleep(KEEP_ALIVE_TIMEOUT - ms(1600)).await;
            let announced = "timeout=180, max=99".to_owned();
            assert_eq!(said(&client.asks(GET_KEPT).await).1, announced);
            let from = Instant::now();
            client.sees_a_silent_fin(from, KEEP_ALIVE_TIMEOUT).await;
        },
    );
}

/// The end of its time comes in the same turn of the event loop.
#[test]
fn a_request_in_the_last_millisecond_is_answered() {
    in_moved_classic(
        |_| {},
        async |worker| {
            let mut client = worker.client().await;
            for before in [2, 1] {
                assert_eq!(client.asks(GET).await.status, 200);
                sleep(KEEP_ALIVE_TIMEOUT - ms(before)).await;
                client.sends_before(GET, ms(before)).await;
                let response = client.does(Client::response).await;
                assert_eq!(response.status, 200, "{before} ms before the end");
                assert_eq!(response.ended, Ended::KeptOpen);
            }
        },
    );
}

#[test]
fn a_hundred_responses_promise_to_keep_the_connection_and_the_next_one_ends_it() {
    in_moved_classic(
        |_| {},
        async |worker| {
            let mut client = worker.client().await;
            for left in (1..=100).rev() {
                let response = client.asks(GET_KEPT).await;
                let announced = format!("timeout=180, max={left}");
                assert_eq!(said(&response), ("Keep-Alive".into(), announced));
                assert_eq!(response.ended, Ended::KeptOpen);
                if left % 10 == 0 {
                    sleep(ms(1500)).await; // it is parked, and counts on
                }
            }
            let last = client.asks(GET_KEPT).await;
            assert_eq!(last.status, 200);
            assert_eq!(said(&last), ("close".into(), String::new()));
            assert_eq!(last.ended, Ended::Fin);
        },
    );
}

#[test]
fn half_a_head_has_what_request_read_timeout_gives_it_and_is_answered_408() {
    in_moved_classic(
        |_| {},
        async |worker| {
            // On a new connection its time counts from the accept.
            for is_kept in [false, true] {
                let mut client = worker.client().await;
                if is_kept {
                    assert_eq!(client.asks(GET).await.status, 200);
                    sleep(ms(90_000)).await;
                }
                let from = Instant::now();
                client.sends(HALF_A_HEAD).await;
                let due = READ_TIMEOUT + FOR_A_LINE;
                client.gets_a_last_response(from, due, 408).await;
            }
        },
    );
}

#[test]
fn half_a_head_has_timeout_where_request_read_timeout_is_off_and_each_byte_renews_it() {
    in_moved_classic(
        |settings| settings.client.read_timeout = warmline::client::ReadTimeout::OFF,
        async |worker| {
            let mut client = worker.client().await;
            client.sends(HALF_A_HEAD).await;
            for piece in ["m", "p", "l"] {
                sleep(TIMEOUT - TICK).await;
                client.sends(piece).await;
            }
            let from = Instant::now();
            client.gets_a_last_response(from, TIMEOUT, 408).await;
        },
    );
}

#[test]
fn half_a_body_has_the_sooner_of_the_two_times_and_is_answered_408() {
    for (read_timeout, due) in [(None, READ_TIMEOUT), (Some("off"), TIMEOUT)] {
        in_moved_classic(
            |settings| {
                if read_timeout.is_some() {
                    settings.client.read_timeout = warmline::client::ReadTimeout::OFF;
                }
            },
            async |worker| {
                let mut client = worker.client().await;
                let from = Instant::now();
                client
                    .sends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
                    .await;
                client.gets_a_last_response(from, due, 408).await;
            },
        );
    }
}

#[test]
fn nothing_or_half_a_line_is_met_with_silence_when_its_time_is_over() {
    for (off, due) in [(false, READ_TIMEOUT), (true, TIMEOUT)] {
        in_moved_classic(
            |settings| {
                if off {
                    settings.client.read_timeout = warmline::client::ReadTimeout::OFF;
                }
            },
            async |worker| {
                for sent in ["", "GET / HT"] {
                    let mut client = worker.client().await;
                    let from = Instant::now();
                    client.sends(sent).await;
                    client.sees_a_silent_fin(from, due).await;
                }
                let mut kept = worker.client().await;
                assert_eq!(kept.asks(GET).await.status, 200);
                sleep(ms(60_000)).await;
                let from = Instant::now();
                kept.sends("\r\n").await;
                // A line end is two bytes of a head's lines: 4 ms by the rate.
                let due = if off { due } else { due + ms(4) };
                kept.sees_a_silent_fin(from, due).await;
            },
        );
    }
}

/// The program itself, in real time: three minutes.
///
/// `cargo test --test lifecycle classic::the_program_keeps -- --ignored`
#[test]
#[ignore = "it takes three minutes"]
fn the_program_keeps_an_idle_client_for_180_seconds() {
    let backend = Backend::numbered();
    let text = std::fs::read_to_string(FILE).unwrap();
    let text = text
        .replace("${PORT:-8080}", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &backend.addr.to_string());
    let program = Program::with_file(&text);
    let mut client = program.client();
    assert_eq!(said(&ask(&mut client, GET_KEPT)).1, "timeout=180, max=100");
    let from = Instant::now();
    assert_eq!(said(&ask(&mut client, GET_KEPT)).1, "timeout=180, max=99");
    let bound = KEEP_ALIVE_TIMEOUT + PATIENCE;
    assert_eq!(client.end_within(bound), Ended::Fin);
    let took = from.elapsed();
    assert!(took >= KEEP_ALIVE_TIMEOUT, "{took:?}");
    assert!(took < KEEP_ALIVE_TIMEOUT + ms(1000), "{took:?}");
}
