//! The demo as it is first seen: it runs by itself, ends by itself and shows the difference.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::program::warmline;
use crate::support::{free_port, local};

/// One run of the demo, for all who look at it.
fn demo() -> &'static Output {
    static RUN: OnceLock<Output> = OnceLock::new();
    RUN.get_or_init(run)
}

/// Runs the demo for three seconds on a pair of ports that are free, trying others when one was
/// lost in between.
fn run() -> Output {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..5 {
        let port = free_pair();
        let args = ["demo", "--seconds", "3", "--port", &port.to_string()];
        let output = warmline(dir.path(), &args);
        if output.status.success() || !text(&output.stderr).contains("cannot listen") {
            return output;
        }
    }
    panic!("no free pair of ports in five tries");
}

fn free_pair() -> u16 {
    loop {
        let port = free_port();
        if port < u16::MAX && TcpListener::bind(local(port + 1)).is_ok() {
            return port;
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("what the demo says is text")
}

/// The figures of the last line of an arm: requests, opened, reused, TIME_WAIT here and there.
#[derive(Debug)]
struct Line {
    requests: u64,
    opened: u64,
    reused: f64,
    time_wait: u64,
}

impl Line {
    fn last(arm: &str, shown: &str) -> Line {
        let columns: Vec<_> = shown
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip_while(|word| *word != arm);
                words.next()?;
                let columns: Vec<_> = words.take(7).map(|word| word.replace(',', "")).collect();
                (columns.len() == 7 && columns[0].parse::<u64>().is_ok()).then_some(columns)
            })
            .next_back()
            .unwrap_or_else(|| panic!("{arm} has no line in\n{shown}"));
        let number = |at: usize| columns[at].parse::<u64>().unwrap();
        Line {
            requests: number(0),
            opened: number(2),
            reused: columns[4].trim_end_matches('%').parse().unwrap(),
            time_wait: number(5) + number(6),
        }
    }
}

#[test]
fn the_demo_shows_few_connections_pooled_and_one_a_request_short() {
    let output = demo();
    let (shown, complaints) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    assert_eq!(complaints, "");

    let pooled = Line::last("pooled", &shown);
    assert!(pooled.requests > 100, "{pooled:?}\n{shown}");
    assert!(
        pooled.opened <= 8,
        "four clients need no more: {pooled:?}\n{shown}"
    );
    assert!(pooled.reused > 90.0, "{pooled:?}\n{shown}");
    assert_eq!(pooled.time_wait, 0, "{shown}");

    let short = Line::last("short", &shown);
    assert!(short.requests > 100, "{short:?}\n{shown}");
    // A request may be under way at the moment of the look: counted on one side and not yet on the
    // other.
    assert!(
        short.opened.abs_diff(short.requests) <= 4,
        "{short:?}\n{shown}"
    );
    assert!(short.reused.abs() < f64::EPSILON, "{short:?}\n{shown}");
    assert!(short.time_wait > 100, "{short:?}\n{shown}");
}

#[test]
fn on_a_screen_of_80_by_24_the_demo_shows_its_first_figures_without_scrolling() {
    let shown = text(&demo().stdout);
    let titles = shown
        .lines()
        .position(|line| line.trim_start().starts_with("time "))
        .unwrap_or_else(|| panic!("there are no titles in\n{shown}"));
    // Below the titles stand both arms, and below them the cursor.
    let cursor = titles + 1 + 2 + 1;
    assert!(cursor <= 24, "the cursor is in line {cursor}:\n{shown}");
    let long = shown.lines().find(|line| line.chars().count() > 80);
    assert_eq!(long, None, "longer than a line");
}

#[test]
fn it_speaks_tls_and_http2_too_if_asked_to() {
    let port = free_pair().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_warmline"))
        .args([
            "demo",
            "--tls",
            "--no-load",
            "--seconds",
            "20",
            "--port",
            &port,
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let urls: Vec<_> = lines
        .map_while(Result::ok)
        .filter_map(|line| {
            let url = line
                .split_whitespace()
                .find(|word| word.starts_with("https://"));
            url.map(str::to_owned)
        })
        .take(2)
        .collect();
    let told = urls.iter().map(|url| {
        let curl = Command::new("curl")
            .args([
                "-ksS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{http_version}",
                url,
            ])
            .output();
        text(&curl.expect("curl is installed").stdout)
    });
    let told: Vec<_> = told.collect();
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(told, ["200 2", "200 2"]);
}
