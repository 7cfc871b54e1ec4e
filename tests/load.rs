//! `warmline load` against real servers: it sends exactly what it was asked to send, and says exactly what
//! came of it.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::nginx::Nginx;
use support::process::Process;
use support::scripted::{Backend, Conn, Gate};
use support::{PATIENCE, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn load(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .arg("load")
        .args(args)
        .output()
        .expect("the program starts")
}

/// What it says as JSON, and its exit code.
fn report(args: &[&str]) -> (Value, i32) {
    let output = load(&[args, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    (
        serde_json::from_str(&text).unwrap(),
        output.status.code().unwrap(),
    )
}

/// The same where all is well.
fn good(args: &[&str]) -> Value {
    let (report, code) = report(args);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["unanswered"], 0, "{report}");
    assert_eq!(report["sent"], report["answered"], "{report}");
    report
}

fn at(address: SocketAddr, path: &str) -> String {
    format!("http://{address}{path}")
}

#[test]
fn kept_connections_carry_all_requests() {
    let nginx = Nginx::start("location = /small { return 200 0123456789; }");
    let url = at(nginx.addr, "/small");
    let report = good(&[&url, "--connections", "8", "--requests", "1000"]);
    assert_eq!(report["answered"], 1000);
    assert_eq!(report["statuses"], json!([{"status": 200, "count": 1000}]));
    assert_eq!(
        (&report["connects"], &report["reused"]),
        (&json!(8), &json!(992))
    );
    let log = nginx.log();
    assert_eq!(log.len(), 1000);
    assert_eq!(nginx.connections_used(), 8);
    assert_eq!(nginx.connections_accepted(), 8);
    let bytes: u64 = log.iter().map(|line| line.request_bytes).sum();
    assert_eq!(report["bytes_sent"], bytes);
    assert_eq!(report["latency_seconds"]["count"], 1000);
    assert_eq!(report["connect_seconds"]["count"], 8);
}

#[test]
fn closing_clients_open_a_connection_for_each_request() {
    let nginx = Nginx::start("location = /small { return 200 0123456789; }");
    let url = at(nginx.addr, "/small");
    let report = good(&[&url, "--connections", "8", "--requests", "1000", "--close"]);
    assert_eq!(
        (&report["connects"], &report["reused"]),
        (&json!(1000), &json!(0))
    );
    assert_eq!(nginx.requests_served(), 1000);
    assert_eq!(nginx.connections_accepted(), 1000);
}

#[test]
fn a_server_that_ends_connections_gets_new_ones() {
    let nginx = Nginx::start("keepalive_requests 10; location = /small { return 200 x; }");
    let url = at(nginx.addr, "/small");
    let report = good(&[&url, "--connections", "1", "--requests", "100"]);
    assert_eq!(
        (&report["connects"], &report["reused"]),
        (&json!(10), &json!(90))
    );
    assert_eq!(nginx.connections_accepted(), 10);
}

#[test]
fn threads_share_the_work_to_the_last_request() {
    let nginx = Nginx::start("location = /small { return 200 x; }");
    let url = at(nginx.addr, "/small");
    let mut args = vec![
        url.as_str(),
        "--threads",
        "3",
        "--connections",
        "4",
        "--requests",
        "1001",
    ];
    good(&args);
    assert_eq!(nginx.requests_served(), 1001);
    args.extend(["--rate", "5000", "--arrivals", "poisson"]);
    let report = good(&args);
    assert_eq!(
        (&report["sent"], &report["unsent"]),
        (&json!(1001), &json!(0))
    );
    assert_eq!(nginx.requests_served(), 2002);
}

#[test]
fn what_is_asked_for_is_what_is_sent() {
    let backend = Backend::answering(OK);
    let url = at(backend.addr, "/a?b=c");
    good(&[
        &url,
        "-n",
        "2",
        "-c",
        "1",
        "--body",
        "100k",
        "--header",
        "X-One: 1",
        "--header",
        "Host: shop",
    ]);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.line(), "POST /a?b=c HTTP/1.1");
        assert_eq!(request.header("host"), Some("shop"));
        assert_eq!(request.header("x-one"), Some("1"));
        assert_eq!(request.header("connection"), None);
        assert!(request.complete && request.body.len() == 100 << 10);
    }

    good(&[&url, "-n", "1", "-c", "1", "--method", "DELETE", "--close"]);
    let last = backend.requests().pop().unwrap();
    assert_eq!(last.line(), "DELETE /a?b=c HTTP/1.1");
    assert_eq!(last.header("connection"), Some("close"));
    assert_eq!(last.header("content-length"), None);
}

/// Whatever ends a response, the next request finds its connection ready, or another one.
#[test]
fn every_kind_of_body_is_read_to_its_end() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nA: b\r\n\r\n";
    let none = "HTTP/1.1 204 No Content\r\n\r\n";
    let same = "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n";
    let early =
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (answer, status) in [
        (OK, 200),
        (chunked, 200),
        (none, 204),
        (same, 304),
        (early, 200),
    ] {
        let backend = Backend::answering(answer);
        let report = good(&[&at(backend.addr, "/"), "-n", "50", "-c", "2"]);
        assert_eq!(report["statuses"], json!([{"status": status, "count": 50}]));
        assert_eq!(report["bytes_received"], 50 * answer.len());
        assert_eq!(backend.connections(), 2, "{answer:?}");
    }

    let head = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
    good(&[
        &at(head.addr, "/"),
        "-n",
        "50",
        "-c",
        "2",
        "--method",
        "HEAD",
    ]);
    assert_eq!(head.connections(), 2);

    let until_close = Backend::start(|mut conn| {
        if conn.request().is_some() {
            conn.send_and_fin("HTTP/1.1 200 OK\r\n\r\nuntil the end");
        }
    });
    let report = good(&[&at(until_close.addr, "/"), "-n", "50", "-c", "2"]);
    assert_eq!(
        (&report["connects"], until_close.connections()),
        (&json!(50), 50)
    );

    let nginx = Nginx::start("");
    nginx.sparse_file("large", 5_000_000);
    let report = good(&[&at(nginx.addr, "/large"), "-n", "10", "-c", "2"]);
    assert!(report["bytes_received"].as_u64().unwrap() > 50_000_000);
}

#[test]
fn statuses_are_counted_and_a_load_of_errors_fails() {
    let backend = Backend::start(|mut conn| {
        let mut statuses = [200, 404, 503, 200, 429].into_iter().cycle();
        conn.serve(|_| {
            let status = statuses.next().unwrap();
            format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into()
        });
    });
    let report = good(&[&at(backend.addr, "/"), "-n", "50", "-c", "1"]);
    let expected: Vec<_> = [(200, 20), (404, 10), (429, 10), (503, 10)]
        .map(|(status, count)| json!({"status": status, "count": count}))
        .into();
    assert_eq!(report["statuses"], json!(expected));

    let failing = Backend::answering("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    let (report, code) = report_of(&failing, 5);
    assert_eq!((&report["answered"], code), (&json!(5), 1));
}

/// A load of so many requests on one connection at a time.
fn report_of(backend: &Backend, requests: u32) -> (Value, i32) {
    let requests = requests.to_string();
    report(&[&at(backend.addr, "/"), "-n", &requests, "-c", "1"])
}

/// The kinds of errors that there were, each with its count.
fn errors(report: &Value) -> Vec<(&str, u64)> {
    let errors = report["errors"].as_object().unwrap().iter();
    errors
        .map(|(why, count)| (why.as_str(), count.as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect()
}

type Script = fn(Conn);

#[test]
fn what_goes_wrong_is_told_apart() {
    let scripts: [(_, Script); 4] = [
        ("closed_before", |mut conn| {
            conn.request();
            conn.fin();
        }),
        ("closed_within", |mut conn| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nok");
            conn.fin();
        }),
        ("malformed", |mut conn| {
            conn.request();
            conn.send("SSH-2.0-OpenSSH_9.2\r\n");
            conn.fin();
        }),
        ("reset", |mut conn| {
            conn.request();
            conn.reset();
        }),
    ];
    for (why, script) in scripts {
        let backend = Backend::start(script);
        let (report, code) = report_of(&backend, 3);
        assert_eq!(errors(&report), [(why, 3)]);
        assert_eq!(
            (&report["sent"], &report["answered"], code),
            (&json!(3), &json!(0), 1)
        );
        assert_eq!(report["latency_seconds"]["p99"], Value::Null);
        assert_eq!(backend.requests().len(), 3);
    }
}

#[test]
fn nobody_there_is_an_error_for_each_request() {
    // Bound but not listening: nobody answers, and nobody else gets the port.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    nobody.bind(&any.into()).unwrap();
    let address = nobody.local_addr().unwrap().as_socket().unwrap();
    let (report, code) = report(&[&at(address, "/"), "-n", "20"]);
    assert_eq!((errors(&report), code), (vec![("refused", 20)], 1));
    assert_eq!(report["connects"], 0);
    // Sixteen clients, twenty requests: some have failed twice, and rest in between.
    assert!(report["measured_seconds"].as_f64().unwrap() >= 0.01);

    let text = String::from_utf8(load(&[&at(address, "/"), "-n", "20"]).stdout).unwrap();
    assert!(text.contains("connection refused"), "{text}");
}

#[test]
fn an_answer_that_takes_too_long_is_given_up() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::start(move |mut conn| {
        conn.request();
        conn.pause(&held);
    });
    let url = at(backend.addr, "/");
    let (report, _) = report(&[&url, "-n", "2", "-c", "2", "--timeout", "200ms"]);
    assert_eq!(errors(&report), [("timed_out", 2)]);
    gate.open();
}

#[test]
fn a_name_is_looked_up_and_its_addresses_tried() {
    // `localhost` is ::1 first on many machines, where nobody listens here.
    let backend = Backend::answering(OK);
    let url = format!("http://localhost:{}/", backend.addr.port());
    good(&[&url, "-n", "10", "-c", "3"]);
    let host = format!("localhost:{}", backend.addr.port());
    assert_eq!(backend.requests()[0].header("host"), Some(host.as_str()));

    let output = load(&["http://no-such-host.invalid/"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-host.invalid"));
}

#[test]
fn what_cannot_be_is_refused() {
    for url in [
        "https://127.0.0.1/",
        "127.0.0.1:80",
        "http://127.0.0.1:80000/",
    ] {
        assert_eq!(load(&[url]).status.code(), Some(2), "{url}");
    }
    let program = env!("CARGO_BIN_EXE_warmline");
    let limited = format!("ulimit -n 100; exec {program} load http://127.0.0.1:1/ -c 100");
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("need 132 open files, and the limit is 100"),
        "{said}"
    );
}

/// A backend that stops once, for a second, before it answers its hundredth request.
fn stalling() -> Backend {
    Backend::start(|mut conn| {
        let mut served = 0;
        conn.serve(|_| {
            served += 1;
            if served == 100 {
                thread::sleep(Duration::from_secs(1));
            }
            OK.into()
        });
    })
}

/// Requests are due every 10 ms on one connection. The hundredth takes a second at least, so the one due 10 ms after it
/// is answered 990 ms after it was due at the earliest, the next one 980 ms, and so on.
#[test]
fn a_stall_is_felt_by_all_that_was_due_meanwhile() {
    let backend = stalling();
    let url = at(backend.addr, "/");
    let report = good(&[&url, "--rate", "100", "-c", "1", "--requests", "300"]);
    let time = |of: &str, at: &str| report[of][at].as_f64().unwrap();
    // Of 300 times p99 is the fourth longest, and p90 the thirty-first.
    assert!(time("latency_seconds", "max") >= 1.0, "{report}");
    // And p99.9 the longest.
    assert!(time("latency_seconds", "p99_9") >= 1.0, "{report}");
    assert!(time("latency_seconds", "p99") >= 0.970, "{report}");
    assert!(time("latency_seconds", "p90") >= 0.700, "{report}");
    // From when it was sent only one took so long. Thirty-one would have taken over 20 s.
    assert!(time("service_seconds", "max") >= 1.0, "{report}");
    assert!(time("service_seconds", "p90") < 0.700, "{report}");
    // Looked at every 100 ms: within the last tenth of the stall 89 more were due.
    assert!(report["most_behind"].as_u64().unwrap() >= 89, "{report}");
    assert_eq!(report["unsent"], 0);
    assert_eq!(backend.requests().len(), 300);

    // A closed loop waits with the server, and has one long answer.
    let backend = stalling();
    let report = good(&[&at(backend.addr, "/"), "-c", "1", "--requests", "300"]);
    let p99 = report["latency_seconds"]["p99"].as_f64().unwrap();
    assert!(p99 < 0.970, "{report}");
    assert_eq!(
        (&report["most_behind"], &report["unsent"]),
        (&Value::Null, &Value::Null)
    );
}

/// Ten requests a second can be answered, a hundred are due.
#[test]
fn what_cannot_be_sent_in_time_is_said() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|_| {
            thread::sleep(Duration::from_millis(100));
            OK.into()
        });
    });
    let report = good(&[
        &at(backend.addr, "/"),
        "--rate",
        "100",
        "-c",
        "1",
        "--duration",
        "1s",
    ]);
    let (sent, unsent) = (
        report["sent"].as_u64().unwrap(),
        report["unsent"].as_u64().unwrap(),
    );
    assert_eq!(sent + unsent, 100, "{report}");
    assert!(sent <= 11, "{report}");
    assert_eq!(backend.requests().len() as u64, sent);
}

#[test]
fn requests_come_by_the_clock_and_clients_think() {
    let backend = Backend::answering(OK);
    let url = at(backend.addr, "/");
    let measured = |args: &[&str]| {
        let report = good(&[&[url.as_str()], args].concat());
        report["measured_seconds"].as_f64().unwrap()
    };
    assert!(measured(&["--rate", "1000", "-n", "200"]) >= 0.199);
    assert!(measured(&["-c", "1", "--think", "50ms", "-n", "5"]) >= 0.2);
    let report = good(&[&url, "--rate", "1000", "--duration", "500ms"]);
    assert_eq!(
        report["sent"].as_u64().unwrap() + report["unsent"].as_u64().unwrap(),
        500
    );
    assert!((report["measured_seconds"].as_f64().unwrap() - 0.5).abs() < 1e-9);
}

#[test]
fn the_warm_up_is_not_measured() {
    let backend = Backend::answering(OK);
    let url = at(backend.addr, "/");
    let report = good(&[&url, "-c", "2", "--warm-up", "300ms", "-n", "100"]);
    assert_eq!(report["sent"], 100);
    assert_eq!(
        (&report["connects"], &report["reused"]),
        (&json!(0), &json!(100))
    );
    assert!(backend.requests().len() > 100);
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_interrupted_load_says_what_came_of_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let backend = Backend::answering(OK);
    for signal in [Signal::INT, Signal::TERM] {
        let before = backend.requests().len();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.args([
            "load",
            &at(backend.addr, "/"),
            "--duration",
            "1h",
            "--think",
            "10ms",
            "--json",
        ]);
        let mut running = Process::start(&mut command, &dir.path().join("output"));
        wait_until(PATIENCE, "some requests", || {
            backend.requests().len() > before + 50
        });
        running.signal(signal).unwrap();
        assert_eq!(running.wait(PATIENCE).code(), Some(0));
        let report: Value = serde_json::from_str(&running.said()).unwrap();
        let count = |key: &str| report[key].as_u64().unwrap();
        assert!(count("answered") >= 34, "{report}");
        assert_eq!(count("sent"), count("answered") + count("unanswered"));
        assert_eq!(report["errors"]["interrupted"], report["unanswered"]);
        assert!(report["measured_seconds"].as_f64().unwrap() < PATIENCE.as_secs_f64() * 2.0);
    }
}

#[test]
fn the_table_has_the_figures() {
    let nginx = Nginx::start("location = /small { return 200 x; }");
    let url = at(nginx.addr, "/small");
    let output = load(&[&url, "-n", "100", "-c", "4", "--rate", "1000"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let figure = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no {label:?} in\n{text}"));
        line[label.len()..].trim().to_owned()
    };
    assert_eq!(figure("requests sent"), "100");
    assert_eq!(figure("answered"), "100");
    assert_eq!(figure("  200"), "100");
    assert_eq!(figure("without an answer"), "0");
    assert_eq!(figure("never sent"), "0");
    for label in [
        "answers/s",
        "p50",
        "p90",
        "p99 ",
        "p99.9",
        "max",
        "mean",
        "bytes received",
    ] {
        assert!(!figure(label).is_empty());
    }
}
