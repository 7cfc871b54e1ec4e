//! The access log: its lines beside those of a real Apache httpd, its rotation, and what becomes of it when
//! nobody takes the lines.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use http::{HeaderValue, Version};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;
use warmline::account::{Arm, Asked, Connection, Exchange, Outcome, Upstream};
use warmline::log::{self, Destination, Format, Handle, Settings, Sink, Stamp};
use warmline::server::{Server, StartError};

use support::client::Client;
use support::httpd::Httpd;
use support::proxy::{Program, TestProxy};
use support::scripted::{Backend, Gate};
use support::{PATIENCE, wait_until};

/// Longer than any test lasts: only full buffers are written.
const NEVER: Duration = Duration::from_secs(3600);

fn settings(path: &Path, flush: Duration) -> Settings {
    Settings {
        to: Destination::File(path.to_owned()),
        format: Format::Extended,
        flush,
    }
}

fn asked(target: &str) -> Asked {
    Asked {
        method: http::Method::GET,
        target: target.parse().unwrap(),
        version: Version::HTTP_11,
        host: Some(HeaderValue::from_static("shop.example")),
        referer: None,
        user_agent: Some(HeaderValue::from_static("curl/8.5")),
    }
}

fn exchange(asked: &Asked) -> Exchange<'_> {
    Exchange {
        client: "192.0.2.7:40123".parse().unwrap(),
        client_exchange: 1,
        client_kept: true,
        asked: Some(asked),
        status: 200,
        received: 0,
        sent: 5123,
        outcome: Outcome::Answered,
        total: Duration::from_micros(12_345),
        upstream: None,
    }
}

/// Logs a request whose target is `number`.
fn note(sink: &Sink, number: usize) {
    sink.note(&exchange(&asked(&format!("/{number}"))));
}

/// The numbers of the requests in a log, each line of which is whole.
fn numbers(text: &str) -> Vec<usize> {
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    let number = |line: &str| {
        assert!(line.ends_with(" close=-"), "{line:?}");
        let (_, rest) = line.split_once("\"GET /")?;
        rest.split_once(' ')?.0.parse().ok()
    };
    text.lines()
        .map(|line| number(line).unwrap_or_else(|| panic!("{line:?}")))
        .collect()
}

fn wait_written(handle: &Handle, lines: u64) {
    let what = format!("{lines} lines to be written");
    wait_until(PATIENCE, &what, || handle.counts().written >= lines);
}

/// A line with the figures of its time, the month's name and the sign of the zone left out.
fn without_time(line: &str) -> String {
    let (before, rest) = line.split_once(" [").unwrap();
    let (time, after) = rest.split_once("] ").unwrap();
    // `10/Oct/2000:13:55:36 -0700`
    let figure = |c: char| if c.is_ascii_digit() { '0' } else { c };
    let shape: String = time.chars().map(figure).collect();
    let shape = shape.replacen(&shape[3..6], "Mon", 1).replace('-', "+");
    format!("{before} [{shape}] {after}")
}

/// The very requests that are asked of httpd, written by both: the lines are the same but for the time.
#[test]
fn combined_is_what_a_real_httpd_writes() {
    let httpd = Httpd::start(
        "LogFormat \"%h %l %u %t \\\"%r\\\" %>s %b \\\"%{Referer}i\\\" \\\"%{User-Agent}i\\\"\" combined\n\
         CustomLog combined.log combined env=!unlogged\n",
    );
    httpd.file("page", "some text\n");
    let log = httpd.files().parent().unwrap().join("combined.log");
    let odd = b"a\"b\\c\td\x80\xff\xc3\xa9~ x";
    for (at, (method, target, version, referer, user_agent)) in [
        (
            "GET",
            "/page",
            "1.1",
            Some(&b"http://a.example/?q=1"[..]),
            Some(&b"curl/8.5"[..]),
        ),
        ("GET", "/page?a=b&c=%22", "1.0", None, None),
        ("HEAD", "/page", "1.1", Some(b""), Some(b"x")),
        ("GET", "/nothing", "1.1", Some(&odd[..]), Some(&odd[..])),
        (
            "GET",
            "http://test.example/page",
            "1.1",
            None,
            Some(b"\\x41"),
        ),
        (
            "GET",
            "/caf\u{e9}",
            "1.1",
            None,
            Some("caf\u{e9}".as_bytes()),
        ),
        ("GET", "/a\"b", "1.1", None, Some(b"it's; `fine`")),
        ("OPTIONS", "*", "1.1", None, None),
        ("POST", "/page", "1.1", None, Some(b"[::1]")),
        ("BREW", "/pot", "1.1", None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut head =
            format!("{method} {target} HTTP/{version}\r\nHost: test.example\r\n").into_bytes();
        for (name, value) in [("Referer", referer), ("User-Agent", user_agent)] {
            if let Some(value) = value {
                head.extend_from_slice(format!("{name}: ").as_bytes());
                head.extend_from_slice(value);
                head.extend_from_slice(b"\r\n");
            }
        }
        head.extend_from_slice(b"Connection: close\r\nContent-Length: 0\r\n\r\n");
        let mut client = Client::connect(httpd.addr);
        client.send(head);
        let response = if method == "HEAD" {
            client.response_to_head()
        } else {
            client.response()
        };
        let mut lines = Vec::new();
        wait_until(PATIENCE, "httpd's line", || {
            lines = fs::read(&log).unwrap_or_default();
            lines.ends_with(b"\n") && lines.split(|byte| *byte == b'\n').count() > at + 1
        });
        let lines = String::from_utf8(lines).expect("httpd escapes what is not ASCII");
        let theirs = lines.lines().nth(at).unwrap();

        let header = |value: &[u8]| HeaderValue::from_bytes(value).unwrap();
        let asked = Asked {
            method: method.parse().unwrap(),
            target: target.parse().unwrap(),
            version: if version == "1.0" {
                Version::HTTP_10
            } else {
                Version::HTTP_11
            },
            host: None,
            referer: referer.map(header),
            user_agent: user_agent.map(header),
        };
        let exchange = Exchange {
            client: client.addr(),
            status: response.status,
            sent: response.body.len().try_into().unwrap(),
            ..exchange(&asked)
        };
        let mut ours = Vec::new();
        let stamp = Stamp::new(971_211_336, 0);
        log::line(&mut ours, Format::Combined, &exchange, &stamp, 0);
        let ours = String::from_utf8(ours).unwrap();
        assert_eq!(
            without_time(ours.trim_end()),
            without_time(theirs),
            "{method} {target}"
        );
    }
}

#[test]
fn lines_of_all_workers_are_written_each_once_and_in_their_order() {
    const WORKERS: usize = 4;
    // Not more than the queue has room for, however slow the disk is.
    const EACH: usize = 2500;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    fs::write(&path, "").unwrap();
    let (log, sinks) = log::start(&settings(&path, NEVER), WORKERS).unwrap();
    let handle = log.handle();
    thread::scope(|scope| {
        for (worker, sink) in sinks.into_iter().enumerate() {
            scope.spawn(move || {
                for number in 0..EACH {
                    note(&sink, worker * EACH + number);
                }
            });
        }
    });
    log.join();
    let counts = handle.counts();
    let found = numbers(&fs::read_to_string(&path).unwrap());
    assert_eq!(found.len() as u64, counts.written);
    assert_eq!(
        (counts.written, counts.dropped),
        ((WORKERS * EACH) as u64, 0)
    );
    for worker in 0..WORKERS {
        let of_it = found.iter().filter(|number| *number / EACH == worker);
        let expected = worker * EACH..(worker + 1) * EACH;
        assert!(of_it.copied().eq(expected), "worker {worker}");
    }
}

/// Renamed and reopened again and again under load: every line is in one of the files, and none in an old
/// one that was noted after the reopening was done.
#[test]
fn rotation_loses_no_line_and_writes_none_to_the_old_file() {
    const TURNS: u64 = 20;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let (log, mut sinks) = log::start(&settings(&path, NEVER), 1).unwrap();
    let handle = log.handle();
    let over = AtomicBool::new(false);
    let mut old = Vec::new();
    let noted = thread::scope(|scope| {
        let (sink, over, counts) = (sinks.remove(0), &over, handle.clone());
        let noting = scope.spawn(move || {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                note(&sink, number);
                number += 1;
                if number % 1000 == 0 {
                    // Not faster than the disk.
                    let before = number as u64 - 500;
                    wait_written(&counts, before);
                }
            }
            number
        });
        for turn in 1..=TURNS {
            wait_written(&handle, turn * 1000);
            let renamed = dir.path().join(format!("access.log.{turn}"));
            fs::rename(&path, &renamed).unwrap();
            handle.reopen();
            wait_until(PATIENCE, "the reopening", || {
                handle.counts().reopened == turn
            });
            assert!(path.exists());
            old.push((fs::metadata(&renamed).unwrap().len(), renamed));
        }
        over.store(true, Ordering::Relaxed);
        noting.join().unwrap()
    });
    log.join();
    let mut found = Vec::new();
    for (length, renamed) in old {
        let text = fs::read_to_string(renamed).unwrap();
        assert_eq!(
            text.len() as u64,
            length,
            "nothing came after the reopening"
        );
        found.extend(numbers(&text));
    }
    found.extend(numbers(&fs::read_to_string(&path).unwrap()));
    assert!(found.into_iter().eq(0..noted), "each line, once, in order");
    assert_eq!(handle.counts().dropped, 0);
}

#[test]
fn a_file_that_cannot_be_reopened_is_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("logs");
    fs::create_dir(&folder).unwrap();
    let (log, sinks) = log::start(&settings(&folder.join("access.log"), NEVER), 1).unwrap();
    let moved = dir.path().join("moved");
    fs::rename(&folder, &moved).unwrap();
    log.handle().reopen();
    note(&sinks[0], 7);
    drop(sinks);
    let handle = log.handle();
    log.join();
    assert_eq!((handle.counts().written, handle.counts().reopened), (1, 0));
    let text = fs::read_to_string(moved.join("access.log")).unwrap();
    assert_eq!(numbers(&text), [7]);
}

/// Nobody reads the pipe: no note waits, what there is no room for is counted, and the rest arrives.
#[test]
fn a_writer_that_is_stuck_holds_nobody_up() {
    const LINES: usize = 20_000;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Opened for both, it does not wait for the other end.
    let mut open = OpenOptions::new();
    let mut pipe = open.read(true).write(true).open(&path).unwrap();
    let (log, mut sinks) = log::start(&settings(&path, NEVER), 1).unwrap();
    let sink = sinks.remove(0);
    let began = Instant::now();
    for number in 0..LINES {
        note(&sink, number);
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} for {LINES} notes");
    let handle = log.handle();
    let dropped = handle.counts().dropped;
    assert!(dropped > 0, "{LINES} lines are too many for the queue");
    // Now somebody does.
    let reading = thread::spawn(move || {
        let mut text = Vec::new();
        let mut room = vec![0; 1 << 16];
        while !text.ends_with(b"the end\n") {
            let count = pipe.read(&mut room).unwrap();
            text.extend_from_slice(&room[..count]);
        }
        text
    });
    drop(sink);
    log.join();
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(b"the end\n")
        .unwrap();
    let text = String::from_utf8(reading.join().unwrap()).unwrap();
    let found = numbers(text.strip_suffix("the end\n").unwrap());
    let counts = handle.counts();
    assert_eq!(found.len() as u64, counts.written);
    assert_eq!(counts.written + counts.dropped, LINES as u64);
    assert!(found.is_sorted(), "in order");
    assert_eq!(
        found.last(),
        Some(&(LINES - 1)),
        "the last ones are waited for"
    );
}

#[test]
fn a_full_disk_drops_and_counts() {
    let (log, sinks) = log::start(&settings(Path::new("/dev/full"), NEVER), 1).unwrap();
    for number in 0..1000 {
        note(&sinks[0], number);
    }
    drop(sinks);
    let handle = log.handle();
    log.join();
    assert_eq!(
        (handle.counts().written, handle.counts().dropped),
        (0, 1000)
    );
}

#[test]
fn a_line_waits_no_longer_than_flush_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let flush = Duration::from_millis(50);
    let (log, mut sinks) = log::start(&settings(&path, flush), 1).unwrap();
    let handle = log.handle();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let sink = Rc::new(sinks.remove(0));
        tokio::task::spawn_local(Rc::clone(&sink).keep_flushing());
        // The second time it must be armed anew.
        for line in 1..=3 {
            note(&sink, line);
            let end = Instant::now() + PATIENCE;
            while handle.counts().written < line as u64 {
                assert!(Instant::now() < end, "line {line} is not written");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    drop(runtime);
    log.join();
    assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [1, 2, 3]);
}

#[test]
fn the_file_is_made_for_its_owner_and_group_and_added_to() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    for number in [1, 2] {
        let (log, sinks) = log::start(&settings(&path, NEVER), 1).unwrap();
        note(&sinks[0], number);
        drop(sinks);
        log.join();
    }
    assert_eq!(numbers(&fs::read_to_string(&path).unwrap()), [1, 2]);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}: no more than 0640");
}

/// The whole of what is known, as JSON, through the file.
#[test]
fn json_arrives_as_json() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let settings = Settings {
        format: Format::Json,
        ..settings(&path, NEVER)
    };
    let (log, sinks) = log::start(&settings, 1).unwrap();
    let backend: SocketAddr = "10.0.0.5:80".parse().unwrap();
    let asked = asked("/a?b");
    let before = std::time::SystemTime::now();
    sinks[0].note(&Exchange {
        upstream: Some(Upstream {
            name: "app",
            arm: Arm::Short,
            backend: Some(&backend),
            connection: Some(Connection {
                id: 1,
                exchange: 1,
                idle: None,
                connect: Some(Duration::from_millis(1)),
                local_port: Some(40_000),
                closed: Some(warmline::keepalive::CloseReason::KeepAliveOff),
            }),
            checkout: Some(Duration::from_millis(1)),
            first_byte: Some(Duration::from_millis(2)),
            sent_again: 0,
            again_since: None,
        }),
        total: Duration::from_secs(30),
        ..exchange(&asked)
    });
    drop(sinks);
    log.join();
    let text = fs::read_to_string(&path).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["arm"], "short");
    assert_eq!(read["close"], "keep_alive_off");
    assert_eq!(read["backend"], "10.0.0.5:80");
    // When the request came, not when its exchange was over.
    let came = before - Duration::from_secs(30);
    let second = came
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let stamp = |second: u64| {
        let text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(second));
        text.split(' ').nth(4).unwrap().to_owned()
    };
    let time = read["time"].as_str().unwrap();
    assert!(
        [stamp(second), stamp(second + 1)]
            .iter()
            .any(|t| time.contains(t.as_str())),
        "{time} is not 30 s before {before:?}"
    );
}

#[test]
fn a_proxy_whose_log_cannot_be_opened_does_not_start() {
    let settings = TestProxy::to("127.0.0.1:1".parse().unwrap())
        .settings(|proxy| {
            let path = Path::new("/nowhere/access.log");
            proxy.access_log = Some(settings(path, NEVER));
        })
        .into_settings();
    let error = Server::start(&settings).err().expect("it does not start");
    assert!(matches!(error, StartError::AccessLog { .. }));
    let said = error.to_string();
    assert!(
        said.starts_with("access_log: cannot open /nowhere/access.log: No such file"),
        "{said}"
    );
}

/// The program, its signal and its messages.
#[test]
fn sigusr1_reopens_the_file_and_is_harmless_without_one() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let upstream = "[upstreams.app]\nservers = [\"127.0.0.1:1\"]\n";
    let mut program = Program::run(&format!(
        "[access_log]\npath = \"{}\"\n{upstream}",
        path.display()
    ));
    assert!(path.exists());
    fs::rename(&path, dir.path().join("old")).unwrap();
    program.process().signal(Signal::USR1).unwrap();
    wait_until(PATIENCE, "the file to be there again", || path.exists());
    wait_until(PATIENCE, "the program to say so", || {
        program
            .process()
            .said()
            .contains("the access log was reopened")
    });
    let mut program = Program::run(upstream);
    program.process().signal(Signal::USR1).unwrap();
    wait_until(PATIENCE, "the program to say so", || {
        program.process().said().contains("no access log to reopen")
    });
    assert!(program.process().ended().is_none());
}

/// What waits in the workers' buffers is written when the program is told to end at once, too.
#[test]
fn a_second_signal_loses_no_line() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            conn.request();
            conn.pause(&gate);
        }
    });
    let mut program = Program::run(&format!(
        "[access_log]\npath = \"{}\"\nflush = \"1h\"\n[upstreams.app]\nservers = [\"{}\"]\n",
        path.display(),
        backend.addr
    ));
    let mut client = Client::connect(program.addr);
    assert_eq!(client.get("/answered").status, 200);
    client.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    gate.wait_reached(1);
    program.process().signal(Signal::TERM).unwrap();
    wait_until(PATIENCE, "the program to say so", || {
        program.process().said().contains("once more ends at once")
    });
    program.process().signal(Signal::TERM).unwrap();
    let status = program.process().wait(PATIENCE);
    assert_eq!(status.code(), Some(1));
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text:?}");
    assert!(
        lines[0].contains("\"GET /answered HTTP/1.1\" 200 "),
        "{text}"
    );
    assert!(lines[1].contains("\"GET /held HTTP/1.1\" - "), "{text}");
}

/// Through the whole proxy: what is logged of an exchange is what happened, and by its end all is written.
#[test]
fn a_proxys_exchanges_are_logged_with_what_they_were() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("access.log");
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .settings(|proxy| {
            proxy.access_log = Some(Settings {
                format: Format::Json,
                ..settings(&path, NEVER)
            });
        })
        .start();
    let mut client = Client::connect(proxy.addr());
    for target in ["/first", "/second?a=b", "/third"] {
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: test\r\n\r\n"
        ));
        assert_eq!(client.response().status, 200);
    }
    let mut other = Client::connect(proxy.addr());
    other.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(other.response().status, 200);
    other.send("nonsense\r\n\r\n");
    assert_eq!(other.response().status, 400);
    drop((client, other));
    drop(proxy);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 5, "{text}");
    let targets = ["/first", "/second?a=b", "/third"];
    for (number, (line, target)) in (1..).zip(lines.iter().zip(targets)) {
        for (key, expected) in [
            ("client", "127.0.0.1"),
            ("method", "GET"),
            ("target", target),
            ("version", "HTTP/1.1"),
            ("host", "shop.example"),
            ("user_agent", "test"),
            ("outcome", "answered"),
            ("upstream", "test"),
            ("arm", "pooled"),
            ("backend", &backend.addr.to_string()),
            ("close", "kept"),
        ] {
            assert_eq!(line[key], expected, "{key} of {line}");
        }
        assert_eq!(line["status"], 200);
        assert_eq!(line["client_exchange"], number);
        assert_eq!(line["connection_exchange"], number);
        assert_eq!(line["reused"], number > 1);
        assert_eq!(line["idle_seconds"].is_null(), number == 1, "{line}");
        assert_eq!(line["connect_seconds"].is_null(), number > 1, "{line}");
        assert_eq!(line["connection"], lines[0]["connection"]);
        assert_eq!(line["local_port"], lines[0]["local_port"]);
        assert!(line["local_port"].as_u64() > Some(0), "{line}");
        let seconds = |key: &str| line[key].as_f64().unwrap();
        let parts = seconds("checkout_seconds") + seconds("first_byte_seconds");
        assert!(parts <= seconds("total_seconds") + 1e-5, "{line}");
        assert!(line["sent"].as_u64() > Some(0), "{line}");
    }
    assert_eq!(lines[3]["client_kept"], true);
    let refused = &lines[4];
    assert_eq!(refused["status"], 400);
    assert_eq!(refused["client_exchange"], 2);
    assert_eq!(refused["client_kept"], false);
    assert_eq!(refused["outcome"], "refused");
    assert!(refused["target"].is_null() && refused["upstream"].is_null());
}
