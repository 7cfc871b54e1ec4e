//! `warmline compare`: what it measures, what it refuses, and that nothing is left of it.
//!
//! What needs hosts of its own needs root, and is skipped aloud without.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use support::nginx::Nginx;
use support::scripted::Backend;
use support::{PATIENCE, wait_until};
use warmline::compare::report::{Arm, Moment, Report, Round};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
    command.arg("compare").args(args);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it with two rounds that are short, and gives what it kept.
fn compare(args: &[&str]) -> Report {
    let mut all = args.to_vec();
    all.extend(["--rounds", "2", "--warm-up", "100ms", "--json", "-"]);
    if !args.contains(&"--round") {
        all.extend(["--round", "200ms"]);
    }
    let output = command(&all).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    for arm in &report.arms {
        assert!(
            !arm.rounds.is_empty() && !arm.timeline.is_empty(),
            "{}",
            arm.name
        );
        for check in &arm.fingerprint {
            assert!(check.fits, "{}: {check:?}", arm.name);
        }
    }
    report
}

/// Whether hosts of their own are to be had; says so if not.
fn is_root(test: &str) -> bool {
    if geteuid().is_root() {
        return true;
    }
    // Past the test harness, which keeps what passing tests print to itself.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: hosts of their own need root");
    false
}

fn states(arm: &Arm, side: &str, state: &str) -> u64 {
    let of = |moment: &Moment| {
        let sockets = match side {
            "proxy" => Some(&moment.proxy),
            "backend" => moment.backend.as_ref(),
            other => panic!("{other}: a connection has two sides"),
        };
        let sockets = sockets.expect("the backend is here");
        sockets.get(state).copied().unwrap_or(0)
    };
    arm.timeline.iter().map(of).max().unwrap()
}

fn good(arm: &Arm) -> u64 {
    let rounds = arm.rounds.iter();
    rounds
        .flat_map(|round| &round.statuses)
        .filter(|(status, _)| **status == 200)
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn on_hosts_of_their_own_each_mode_leaves_its_time_waits_where_it_says() {
    if !is_root("on_hosts_of_their_own_each_mode_leaves_its_time_waits_where_it_says") {
        return;
    }
    let devices = || {
        let names = fs::read_dir("/sys/class/net").unwrap();
        names
            .map(|name| name.unwrap().file_name())
            .collect::<BTreeSet<_>>()
    };
    let before = devices();
    let report = compare(&["--netns", "--against", "nginx"]);
    assert_eq!(devices(), before);
    assert_eq!(report.network.kind, "namespaces");
    assert_eq!(report.plan.order, "ABCDEFGGFEDCBA");
    let names: Vec<_> = report.arms.iter().map(|arm| arm.name.as_str()).collect();
    let expected = [
        "pooled",
        "close-by-header",
        "proxy-closes",
        "rst",
        "nginx pooled",
        "nginx close-by-header",
        "nginx proxy-closes",
    ];
    assert_eq!(names, expected);
    for arm in &report.arms {
        let waits = ["proxy", "backend"].map(|side| states(arm, side, "TIME_WAIT"));
        let many = good(arm) / 2;
        assert!(many > 10, "{}: {:?}", arm.name, arm.rounds);
        match arm.mode.as_str() {
            "pooled" | "rst" => assert_eq!(waits, [0, 0], "{}", arm.name),
            "proxy-closes" => assert!(waits[0] > many && waits[1] == 0, "{waits:?}"),
            _ => assert!(waits[1] > many && waits[0] == 0, "{waits:?}"),
        }
        // Of a short arm: connections, the ledger where there is one, and the kernel's two or three.
        let checks = match (arm.mode.as_str(), arm.program.as_str()) {
            ("pooled", _) => 1,
            ("rst", _) => 5,
            (_, "warmline") => 4,
            _ => 3,
        };
        assert_eq!(arm.fingerprint.len(), checks, "{:?}", arm.fingerprint);
        for round in &arm.rounds {
            assert!(round.errors.is_empty(), "{}: {round:?}", arm.name);
            assert!(
                round.proxy_cpu_us > 0.0 && round.backend_cpu_us > Some(0.0),
                "{round:?}"
            );
            let connects = round.connects.unwrap();
            if arm.mode == "pooled" {
                assert_eq!(connects, 0);
            } else {
                assert!(connects.abs_diff(round.answered) <= 32, "{round:?}");
            }
        }
        assert_eq!(
            arm.latency.count(),
            arm.rounds.iter().map(|round| round.answered).sum::<u64>()
        );
        assert_eq!(arm.connect_time.is_empty(), arm.program != "warmline");
    }
}

#[test]
fn when_the_ports_run_out_it_is_told_and_the_pool_goes_on() {
    if !is_root("when_the_ports_run_out_it_is_told_and_the_pool_goes_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let arms = folder.path().join("arms.toml");
    let text = "[[arms]]\n[[arms]]\nmode = \"close=proxy\"\nacquire_timeout = \"100ms\"\n";
    fs::write(&arms, text).unwrap();
    let hosts = ["--netns", "--port-range", "20000-20199", "--tw-reuse", "0"];
    let rounds = ["--round-requests", "300", "--round", "5s", "--settings"];
    let report = compare(&[&hosts[..], &rounds, &[arms.to_str().unwrap()]].concat());
    assert_eq!(report.network.sysctls["ip_local_port_range"], "20000 20199");
    let [pooled, short] = &report.arms[..] else {
        panic!("two were asked for");
    };
    assert_eq!(pooled.exhausted_at, None);
    assert_eq!(good(pooled), 600);
    assert!(short.exhausted_at.is_some_and(|at| at < report.seconds));
    assert_eq!(short.timeline.last().unwrap().ports_left, Some(0));
    assert!(good(short) < 200, "{}", good(short));
    let refused = |round: &Round| round.statuses.get(&503).copied();
    assert!(
        short.rounds.iter().all(|round| refused(round) > Some(0)),
        "{:?}",
        short.rounds
    );
}

#[test]
fn over_loopback_it_says_what_that_hides() {
    let report = compare(&["--modes", "pooled,pool=1,short", "--rate", "500", "-c", "4"]);
    assert_eq!(report.network.kind, "loopback");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("tcp_tw_reuse")),
        "{:?}",
        report.notes
    );
    assert_eq!(
        (report.plan.pace.as_str(), report.plan.rate),
        ("constant", Some(500))
    );
    assert_eq!(report.arms[1].name, "pool=1");
    assert!(report.arms[1].config.contains("max_connections = 1"));
    assert_eq!(states(&report.arms[1], "proxy", "ESTABLISHED"), 1);
    let all: u64 = report.arms.iter().map(good).sum();
    assert_eq!(
        all,
        report
            .arms
            .iter()
            .map(|arm| arm.latency.count())
            .sum::<u64>()
    );
}

#[test]
fn a_backend_that_is_there_is_shared_by_arms_with_ports_of_their_own() {
    let nginx = Nginx::start("location = /x { return 200 0123456789; }");
    let url = format!("http://{}/x", nginx.addr);
    let report = compare(&["--backend", &url, "--modes", "pooled,short,close=proxy"]);
    assert_eq!(
        (report.plan.backend.as_str(), report.plan.path.as_str()),
        (url.as_str(), "/x")
    );
    let range = |arm: &Arm| {
        let line = arm
            .config
            .lines()
            .find(|line| line.starts_with("source_port_range"));
        let (low, high) = line
            .unwrap()
            .split_once('"')
            .unwrap()
            .1
            .split_once('-')
            .unwrap();
        let high = high.trim_end_matches('"');
        (low.parse::<u16>().unwrap(), high.parse::<u16>().unwrap())
    };
    let ranges: Vec<_> = report.arms.iter().map(range).collect();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 < pair[1].0),
        "{ranges:?}"
    );
    let [pooled, header, proxy] = &report.arms[..] else {
        panic!("three were asked for");
    };
    let waits = |arm| ["proxy", "backend"].map(|side| states(arm, side, "TIME_WAIT"));
    assert_eq!(waits(pooled), [0, 0]);
    assert!(
        waits(header)[0] == 0 && waits(header)[1] > 10,
        "{:?}",
        waits(header)
    );
    assert!(
        waits(proxy)[1] == 0 && waits(proxy)[0] > 10,
        "{:?}",
        waits(proxy)
    );
    // The other arms' are strangers.
    let strangers = pooled.timeline.last().unwrap().foreign_time_wait;
    assert!(strangers >= waits(proxy)[0], "{strangers}");
    assert_eq!(pooled.rounds[0].backend_cpu_us, None);
}

#[test]
fn an_upstream_of_a_file_keeps_its_settings() {
    let nginx = Nginx::start("location = / { return 200 0123456789; }");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("warmline.toml");
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:1\"\n[upstreams.app]\nservers = [\"{}\"]\n\
         MaxKeepAliveRequests = 9\n[upstreams.other]\nservers = [\"127.0.0.1:1\"]\n",
        nginx.addr
    );
    fs::write(&file, text).unwrap();
    let arms = folder.path().join("arms.toml");
    let text = "[[arms]]\n[[arms]]\nname = \"nineteen\"\nmax_keep_alive_requests = 19\n";
    fs::write(&arms, text).unwrap();
    let (file, arms) = (file.to_str().unwrap(), arms.to_str().unwrap());
    let report = compare(&["--config", file, "--upstream", "app", "--settings", arms]);
    assert_eq!(report.arms[1].name, "nineteen");
    for (arm, exchanges) in report.arms.iter().zip([10, 20]) {
        let count =
            |of: fn(&Round) -> Option<u64>| -> u64 { arm.rounds.iter().filter_map(of).sum() };
        let (connects, reused) = (count(|round| round.connects), count(|round| round.reused));
        let expected = (connects + reused) / exchanges;
        assert!(connects.abs_diff(expected) <= 64, "{connects} {expected}");
    }
}

#[test]
fn a_backend_that_does_not_close_makes_no_report() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let url = format!("http://{}/", backend.addr);
    let output = command(&[
        "--backend",
        &url,
        "--modes",
        "pooled,short",
        "--rounds",
        "1",
        "--round",
        "200ms",
        "--json",
        "-",
    ])
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = said(&output);
    assert!(
        said.contains("arm close-by-header did not do what its mode says"),
        "{said}"
    );
    assert!(said.contains("WRONG ended by the backend's FIN"), "{said}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let free = format!("http://127.0.0.1:{}/", support::free_port());
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("odd.toml");
    fs::write(&odd, "[[arms]]\n[[arms]]\nmax_idl = 3\n").unwrap();
    let odd = odd.to_str().unwrap();
    for (args, code, says) in [
        (&["--modes", "pooled,long"][..], 1, "unknown mode `long`"),
        (&["--modes", "pooled"], 1, "two to nine"),
        (
            &["--handicap", "slow=1ms"],
            1,
            "there is no arm `slow`; there is pooled, close-by-header",
        ),
        (&["--port-range", "20000-20100"], 2, "--netns"),
        (
            &["--netns", "--backend", "http://127.0.0.1:1/"],
            2,
            "cannot be used with",
        ),
        (
            &["--config", "/nowhere.toml"],
            1,
            "/nowhere.toml: No such file",
        ),
        (
            &["--json", "/nowhere/x.json"],
            1,
            "/nowhere/x.json: No such file",
        ),
        (&["--backend", &free], 1, "it answered 502"),
        (&["--against", "apache"], 2, "nginx and haproxy"),
        (&["--settings", odd], 1, "max_idle"),
    ] {
        let output = command(args).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

/// Starts a comparison that would take minutes, and waits until its proxies serve.
fn long(args: &[&str]) -> (Child, BTreeSet<u32>) {
    let mut child = command(&[
        "--modes",
        "pooled,short",
        "--rounds",
        "1000",
        "--round",
        "200ms",
    ])
    .args(["--warm-up", "0s", "--json", "-"])
    .args(args)
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut family = BTreeSet::new();
    wait_until(PATIENCE, "two proxies and two backends run", || {
        assert_eq!(child.try_wait().unwrap(), None);
        family = children(child.id());
        let programs = family.iter().filter(|pid| !holds_namespace(**pid));
        programs.count() == 4 && family.iter().filter(|pid| is_proxy(**pid)).count() == 2
    });
    (child, family)
}

fn children(pid: u32) -> BTreeSet<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let files = tasks
        .into_iter()
        .flatten()
        .map(|task| task.unwrap().path().join("children"));
    let text: String = files
        .map(|file| fs::read_to_string(file).unwrap_or_default())
        .collect();
    text.split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// How long it was on a processor, in ns.
fn cpu(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |file| fs::read_to_string(file).unwrap();
    let runs = tasks.map(|task| of(task.unwrap().path().join("schedstat")));
    runs.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn is_proxy(pid: u32) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').nth(1) == Some("run")
}

/// Whether it is the first process of a host's PID namespace, which does nothing but end in time.
fn holds_namespace(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "cat\n")
}

fn is_gone(pid: u32) -> bool {
    // A child whose parent was killed may wait for init to take it away.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        || !fs::exists(format!("/proc/{pid}")).unwrap()
}

#[test]
fn interrupted_it_reports_the_rounds_there_were() {
    let (child, family) = long(&[]);
    let pid = Pid::from_child(&child);
    // Starting counts as work too: only the second turn of each is sure to be a round's.
    let mut proxies = family.iter().copied().filter(|pid| is_proxy(*pid));
    let (a, b) = (proxies.next().unwrap(), proxies.next().unwrap());
    for proxy in [a, b, a, b, a, b] {
        let from = cpu(proxy);
        wait_until(PATIENCE, "an arm is driven", || {
            cpu(proxy) > from + 30_000_000
        });
    }
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    let rounds: Vec<_> = report.arms.iter().map(|arm| arm.rounds.len()).collect();
    assert!(
        rounds[0] > 0 && rounds[0] == rounds[1] && rounds[0] < 1000,
        "{rounds:?}"
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.starts_with("Interrupted: ")),
        "{:?}",
        report.notes
    );
    assert!(family.into_iter().all(is_gone));
}

#[test]
fn killed_it_leaves_no_program_behind() {
    let places: &[&[&str]] = if is_root("killed_it_leaves_no_program_behind --netns") {
        &[&[], &["--netns"]]
    } else {
        &[&[]]
    };
    for place in places {
        let (mut child, family) = long(place);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until(PATIENCE, "its programs have ended", || {
            family.iter().all(|pid| is_gone(*pid))
        });
    }
}

/// A program that runs until it is dropped.
struct Runs(Child);

impl Runs {
    fn start(args: &[&str]) -> Runs {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Runs(command.spawn().unwrap())
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn proxies_that_run_are_told_apart_by_what_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let nginx = Nginx::start("location = / { return 200 0123456789; }");
    let mut running = Vec::new();
    let mut places = Vec::new();
    for (name, mode) in [
        ("kept", ""),
        (
            "closed",
            "keep_alive = false\nshort_mode = \"proxy-closes\"\n",
        ),
    ] {
        let port = support::free_port();
        let admin = format!("unix:{}/{name}", folder.path().display());
        let file = folder.path().join(format!("{name}.toml"));
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:{port}\"\n[admin]\naddress = \"{admin}\"\n\
             [upstreams.app]\nservers = [\"{}\"]\n{mode}",
            nginx.addr
        );
        fs::write(&file, text).unwrap();
        running.push(Runs::start(&["run", "-c", file.to_str().unwrap()]));
        let url = format!("http://127.0.0.1:{port}/");
        running.push(Runs::start(&[
            "load", &url, "--rate", "200", "-c", "2", "-d", "1m",
        ]));
        places.push(format!("{name}={admin}"));
    }
    let output = command(&["--running", &places[0]]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("nothing to be compared with"),
        "{}",
        said(&output)
    );
    let report = compare(&[
        "--running",
        &places[0],
        "--running",
        &places[1],
        "--round",
        "1500ms",
    ]);
    let [kept, closed] = &report.arms[..] else {
        panic!("two were named");
    };
    assert_eq!((kept.name.as_str(), kept.mode.as_str()), ("kept", "pooled"));
    assert_eq!(
        (closed.name.as_str(), closed.mode.as_str()),
        ("closed", "proxy-closes")
    );
    for arm in &report.arms {
        for round in &arm.rounds {
            assert!(
                round.answered > 100 && round.proxy_cpu_us > 0.0 && round.p50_us > 0.0,
                "{round:?}"
            );
            assert_eq!(round.statuses.keys().collect::<Vec<_>>(), [&200]);
        }
    }
    // One or two are under way when they are asked.
    let last = &closed.rounds[1];
    assert!(
        last.connects.unwrap().abs_diff(last.answered) <= 4,
        "{last:?}"
    );
    assert_eq!(kept.rounds[1].connects, Some(0));
    assert!(states(closed, "proxy", "TIME_WAIT") > 100);
    assert_eq!(
        (report.network.kind.as_str(), report.plan.pace.as_str()),
        ("given", "given")
    );
    let text = warmline::compare::report::text(&report, false);
    assert!(
        text.contains("Load:    whatever the proxies get from elsewhere"),
        "{text}"
    );
}
