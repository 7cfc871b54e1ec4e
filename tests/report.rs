//! What is said of a comparison: the program's text, and its page in a real browser, from runs that were made up.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use support::chromedriver::{self, Browser};
use warmline::compare::random::Random;
use warmline::compare::report::{
    self, Arm, Check, Class, Machine, Moment, Network, Peak, Plan, Report, Round, SCHEMA,
};

/// What an arm is like.
#[derive(Clone, Copy)]
struct Like {
    name: &'static str,
    mode: &'static str,
    /// A request.
    proxy_us: f64,
    backend_us: f64,
    p50_us: f64,
    /// Requests a second.
    rate: f64,
    short: bool,
    /// Whether the proxy holds the `TIME_WAIT`s, or the backend, if any.
    holder: Option<bool>,
}

const POOLED: Like = Like {
    name: "pooled",
    mode: "pooled",
    proxy_us: 27.0,
    backend_us: 12.0,
    p50_us: 420.0,
    rate: 610.0,
    short: false,
    holder: None,
};
const PEER: Like = Like {
    name: "close-by-header",
    mode: "close-by-header",
    proxy_us: 71.0,
    backend_us: 40.0,
    p50_us: 610.0,
    rate: 610.0,
    short: true,
    holder: Some(false),
};
const PROXY: Like = Like {
    name: "proxy-closes",
    mode: "proxy-closes",
    proxy_us: 84.0,
    backend_us: 33.0,
    p50_us: 640.0,
    rate: 610.0,
    short: true,
    holder: Some(true),
};
const RST: Like = Like {
    name: "rst",
    mode: "rst",
    proxy_us: 66.0,
    backend_us: 31.0,
    p50_us: 590.0,
    rate: 610.0,
    short: true,
    holder: None,
};

const ROUNDS: usize = 8;
const SECONDS: f64 = 5.0;
const PORTS: u64 = 28_232;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small and positive"
)]
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

#[expect(clippy::cast_precision_loss, reason = "small")]
fn float(number: usize) -> f64 {
    number as f64
}

/// A number near 1.
fn near(random: &mut Random) -> f64 {
    1.0 + 0.03 * ((0..12).map(|_| random.part()).sum::<f64>() - 6.0)
}

/// An arm that was measured every `of`-th time, from the `at`-th on.
#[expect(
    clippy::too_many_lines,
    reason = "an arm has many fields, and each is said"
)]
fn arm(like: Like, at: usize, of: usize, rounds: usize, random: &mut Random) -> Arm {
    let mut arm = Arm {
        name: like.name.to_owned(),
        mode: like.mode.to_owned(),
        program: "warmline".to_owned(),
        version: "0.1.0".to_owned(),
        config: format!(
            "[upstreams.app]\nservers = [\"10.0.0.2:80\"]\nkeep_alive = {}\n",
            !like.short
        ),
        close_order: "as its mode says <&>".to_owned(),
        ..Arm::default()
    };
    arm.fingerprint.push(Check {
        what: "connections to the backend".to_owned(),
        expected: "one for each request".to_owned(),
        found: 24_400,
        of: 24_400,
        fits: true,
    });
    for n in 0..rounds {
        let slot = n * of + if n % 2 == 0 { at } else { of - 1 - at };
        let answered = whole(like.rate * SECONDS * near(random));
        let requests = support_float(answered);
        let p50 = like.p50_us * near(random);
        for part in 0..400 {
            let tail = 1.0 / (1.0 - float(part) / 400.0);
            arm.latency.note(Duration::from_secs_f64(
                p50 * (0.7 + 0.3 * tail.powf(0.8)) / 1e6,
            ));
        }
        arm.rounds.push(Round {
            at: float(slot) * SECONDS,
            seconds: SECONDS,
            sent: answered,
            answered,
            statuses: BTreeMap::from([(200, answered)]),
            bytes_sent: answered * 60,
            bytes_received: answered * 280,
            p50_us: p50,
            p90_us: p50 * 1.6 * near(random),
            p99_us: p50 * 3.0 * near(random),
            p999_us: p50 * 6.0 * near(random),
            max_us: p50 * 20.0,
            proxy_cpu_us: like.proxy_us * requests * near(random),
            proxy_user_part: 0.3,
            backend_cpu_us: Some(like.backend_us * requests * near(random)),
            backend_user_part: Some(0.25),
            connects: Some(if like.short { answered } else { 4 }),
            reused: Some(if like.short { 0 } else { answered - 4 }),
            ..Round::default()
        });
    }
    let mut waiting: Vec<f64> = Vec::new();
    let end = whole(float(rounds * of) * SECONDS * 2.0);
    for half in 0..=end {
        let now = support_float(half) / 2.0;
        let driven = arm
            .rounds
            .iter()
            .any(|round| round.at <= now && now < round.at + round.seconds);
        if driven {
            waiting.extend(vec![now; usize::try_from(whole(like.rate / 2.0)).unwrap()]);
        }
        waiting.retain(|since| now - since < 61.0);
        let count = waiting.len() as u64;
        let (mut proxy, mut backend) = (BTreeMap::new(), BTreeMap::new());
        let open = if like.short { u64::from(driven) * 3 } else { 4 };
        for states in [&mut proxy, &mut backend] {
            states.insert("ESTABLISHED".to_owned(), open);
        }
        match like.holder {
            Some(true) => proxy.insert("TIME_WAIT".to_owned(), count),
            Some(false) => backend.insert("TIME_WAIT".to_owned(), count),
            None => None,
        };
        let taken: u64 = proxy.values().sum();
        arm.timeline.push(Moment {
            at: now,
            driven,
            proxy,
            backend: Some(backend),
            ports_left: Some(PORTS.saturating_sub(taken)),
            ..Moment::default()
        });
        arm.peak.time_wait = arm
            .peak
            .time_wait
            .max(if like.holder.is_some() { count } else { 0 });
        arm.peak.sockets = arm.peak.time_wait + 8;
    }
    arm.peak = Peak {
        kernel_bytes: arm.peak.time_wait * 280 + 8 * 2500,
        proxy_bytes: 12 << 20,
        ..arm.peak
    };
    let mut sum = 0;
    for (up_to, count) in [
        (25e-6, 100),
        (50e-6, 5000),
        (100e-6, 12_000),
        (250e-6, 6000),
        (1e-3, 900),
        (10e-3, 20),
    ] {
        sum += if like.short { count } else { count / 400 };
        arm.connect_time.push(Class {
            up_to: Some(up_to),
            count: sum,
        });
    }
    arm.connect_time.push(Class {
        up_to: None,
        count: sum,
    });
    arm
}

fn support_float(number: u64) -> f64 {
    float(usize::try_from(number).unwrap())
}

/// A run of these arms.
fn run(likes: &[Like], rounds: usize, seed: u64) -> Report {
    let mut random = Random::new(seed);
    let arms = likes.iter().enumerate();
    let arms = arms.map(|(at, like)| arm(*like, at, likes.len(), rounds, &mut random));
    let sysctls = [
        ("ip_local_port_range", "32768 60999"),
        ("tcp_tw_reuse", "2"),
        ("tcp_timestamps", "1"),
    ];
    Report {
        schema: SCHEMA,
        warmline: "0.1.0".to_owned(),
        started: "2026-05-04T10:00:00Z".to_owned(),
        seconds: 175.0,
        command: ["warmline", "compare", "--rate", "610"]
            .map(str::to_owned)
            .to_vec(),
        machine: Machine {
            kernel: "Linux 6.18".to_owned(),
            cpus: 2,
            cpu: "A processor".to_owned(),
            memory_bytes: 8 << 30,
            load_average: 0.2,
        },
        plan: Plan {
            backend: "embedded".to_owned(),
            response_bytes: 128,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            pace: "constant".to_owned(),
            rate: Some(610),
            connections: 16,
            threads: 1,
            workers: 1,
            rounds: u32::try_from(rounds).unwrap(),
            round_seconds: SECONDS,
            warm_up_seconds: 1.0,
            order: "ABCDDCBA".to_owned(),
            ..Plan::default()
        },
        network: Network {
            kind: "namespaces".to_owned(),
            sysctls: sysctls
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Network::default()
        },
        arms: arms.collect(),
        notes: Vec::new(),
    }
}

fn usual() -> Report {
    run(&[POOLED, PEER, PROXY, RST], ROUNDS, 1)
}

/// The second arm runs out of ports and fails; its CPU grows before.
fn exhausted() -> Report {
    let mut report = run(
        &[
            POOLED,
            Like {
                rate: 1200.0,
                ..PROXY
            },
        ],
        ROUNDS,
        2,
    );
    let arm = &mut report.arms[1];
    arm.program = "nginx".into();
    arm.exhausted_at = Some(58.5);
    let mut cost = 1.0;
    for round in &mut arm.rounds {
        cost *= 1.35;
        round.proxy_cpu_us *= cost;
        let failed = round.answered / 20;
        round.answered -= failed;
        round.errors.insert("no_port".to_owned(), failed);
    }
    for moment in &mut arm.timeline {
        if moment.at >= 58.5 {
            moment.ports_left = Some(0);
        }
    }
    report
}

fn all_errors() -> Report {
    let mut report = run(&[POOLED, RST], 3, 3);
    for round in &mut report.arms[1].rounds {
        round.errors = BTreeMap::from([("refused".to_owned(), round.sent)]);
        round.answered = 0;
        round.statuses.clear();
        (round.p50_us, round.p90_us, round.p99_us, round.p999_us) = (0.0, 0.0, 0.0, 0.0);
    }
    report.arms[1].latency = warmline::compare::hdr::Hdr::default();
    report
}

fn without_much() -> Report {
    let mut report = run(&[POOLED, PEER], 1, 4);
    for arm in &mut report.arms {
        arm.timeline.clear();
        arm.connect_time.clear();
        for round in &mut arm.rounds {
            (round.backend_cpu_us, round.backend_user_part) = (None, None);
            (round.connects, round.reused) = (None, None);
        }
    }
    report
}

fn equal() -> Report {
    let mut second = POOLED;
    second.name = "pooled-2";
    run(&[POOLED, second], ROUNDS, 5)
}

fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

/// On one line, so that a sentence can be looked for.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_costs_of_short_connections_are_in_sentences() {
    let text = report::text(&usual(), false);
    fits(&text);
    let flowing = flowing(&text);
    for part in [
        "proxy-closes costs 3.",
        "x the proxy's CPU a request [",
        "connects/s exhausts the 28,232 ports towards one backend address in 4",
        "No difference from pooled in requests/s: one of ",
        "in TIME_WAIT on the backend's side, where they cost memory but no port.",
        "Nobody held connections in TIME_WAIT to speak of.",
    ] {
        assert!(flowing.contains(part), "{part:?} is missing:\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(report::text(&usual(), true).contains("\u{1b}[1mWhat it comes to\u{1b}[0m"));
}

#[test]
fn equal_arms_are_called_equal() {
    let text = flowing(&report::text(&equal(), false));
    assert!(
        text.contains(
            "No difference from pooled in requests/s, median latency, p99 latency, proxy CPU a request and backend CPU a request: one of "
        ),
        "{text}"
    );
    assert!(!text.contains("costs"), "{text}");
}

#[test]
fn exhaustion_and_the_collapse_before_it_are_told() {
    let text = report::text(&exhausted(), false);
    fits(&text);
    let text = flowing(&text);
    for part in [
        "It ran out of ports 58.5 s after the run began; ",
        "requests found none.",
        "Its proxy CPU a request grew from ",
        "more than half of the ports were taken, and connect() searches ever longer",
        "no local port left",
    ] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let text = report::text(&all_errors(), false);
    fits(&text);
    assert!(flowing(&text).contains("failed (100 %): "), "{text}");
    assert!(text.contains("connection refused"), "{text}");
    let text = report::text(&without_much(), false);
    fits(&text);
    assert!(
        flowing(&text).contains("Nothing can be said of differences with fewer than two rounds."),
        "{text}"
    );
    for made in [
        usual(),
        exhausted(),
        all_errors(),
        without_much(),
        equal(),
        Report::default(),
    ] {
        let page = report::html(&made);
        for wrong in ["NaN", "inf ", "undefined", "<&>"] {
            assert!(!page.contains(wrong), "{wrong}");
        }
    }
}

#[test]
fn a_hidden_exhaustion_is_told_over_loopback() {
    let mut made = usual();
    made.network.kind = "loopback".to_owned();
    let text = flowing(&report::text(&made, false));
    assert!(
        text.contains("between machines (not over loopback, as here)"),
        "{text}"
    );
    assert!(
        text.contains("Over loopback tcp_tw_reuse takes a port in TIME_WAIT again"),
        "{text}"
    );
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let made = usual();
    let kept = serde_json::to_string(&made).unwrap();
    // Whole reports are too long to be printed.
    assert!(report::read(&kept).unwrap() == made);
}

fn warmline(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_warmline");
    Command::new(program)
        .arg("report")
        .args(args)
        .output()
        .unwrap()
}

fn keep(report: &Report, path: &Path) -> String {
    fs::write(path, serde_json::to_string(report).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn saved_runs_are_shown_again_and_held_against_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = keep(&usual(), &dir.path().join("one.json"));
    let said = warmline(&[&one]);
    assert!(said.status.success());
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        report::text(&usual(), false)
    );
    let said = warmline(&[&one, "--json"]);
    assert!(serde_json::from_slice::<Report>(&said.stdout).unwrap() == usual());

    let mut slower = run(
        &[
            Like {
                proxy_us: 40.0,
                ..POOLED
            },
            PEER,
            RST,
        ],
        ROUNDS,
        9,
    );
    slower.machine.cpus = 8;
    let other = keep(&slower, &dir.path().join("other.json"));
    let said = warmline(&[&one, &other]);
    let text = String::from_utf8(said.stdout).unwrap();
    let flowing = flowing(&text);
    for part in [
        "The machine is not the same: cpus 8, was 2.",
        "proxy-closes is only in",
        "1.4",
    ] {
        assert!(flowing.contains(part), "{part:?} is missing:\n{text}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let newer = file("newer.json", r#"{"schema":99,"arms":[]}"#);
    let other = file("other.json", r#"{"a":1}"#);
    let missing = dir.path().join("missing.json");
    let good = keep(&equal(), &dir.path().join("good.json"));
    for (args, reason) in [
        (vec![newer.as_str()], "newer.json: its schema is 99"),
        (vec![other.as_str()], "other.json: it is not a report"),
        (
            vec![missing.to_str().unwrap()],
            "missing.json: No such file",
        ),
        (vec![&good, &good, "--json"], "name one file, not 2"),
    ] {
        let said = warmline(&args);
        assert_eq!(said.status.code(), Some(1), "{args:?}");
        let error = String::from_utf8(said.stderr).unwrap();
        assert!(error.contains(reason), "{error}");
    }
}

/// What the page is looked at for: that nothing lies over something else, at this width.
const OVERLAPS: &str = "
    const found = [];
    if (document.documentElement.scrollWidth > window.innerWidth) found.push('wider than the window');
    for (const svg of document.querySelectorAll('svg.chart')) {
        const frame = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll('text')].map((one) => [one.textContent, one.getBoundingClientRect()]);
        texts.forEach(([text, one], n) => {
            if (one.left < frame.left - 2 || one.right > frame.right + 2) found.push('outside: ' + text);
            for (const [other, two] of texts.slice(n + 1)) {
                const over = one.left < two.right - 1 && two.left < one.right - 1 && one.top < two.bottom - 3 && two.top < one.bottom - 3;
                if (over) found.push(text + ' over ' + other);
            }
        });
    }
    return found;";

#[test]
fn the_page_stands_alone_and_nothing_overlaps() {
    if !chromedriver::is_there("the_page_stands_alone_and_nothing_overlaps") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Where pictures are put for who wants to look at them.
    let pictures = std::env::var_os("WARMLINE_PICTURES");
    for (name, made) in [
        ("usual", usual()),
        ("exhausted", exhausted()),
        ("errors", all_errors()),
        ("little", without_much()),
    ] {
        let kept = keep(&made, &dir.path().join("run.json"));
        let page = dir.path().join("page.html");
        assert!(
            warmline(&[&kept, "--html", page.to_str().unwrap()])
                .status
                .success()
        );
        for (width, dark) in [(1280, false), (390, true)] {
            let browser = Browser::start(width, 900, dark);
            browser.requests();
            let url = format!("file://{}", page.display());
            browser.open(&url);
            browser.wait_for("the page", "return document.readyState === 'complete'");
            assert_eq!(browser.run(OVERLAPS), json!([]), "{name} {width}");
            let asked: BTreeSet<String> = browser.requests().into_iter().collect();
            let elsewhere: Vec<_> = asked
                .iter()
                .filter(|asked| {
                    **asked != url && !asked.starts_with("data:") && !asked.starts_with("about:")
                        // The browser's own.
                        && !asked.starts_with("chrome:")
                })
                .collect();
            assert!(elsewhere.is_empty(), "{elsewhere:?}");
            assert_eq!(browser.log("browser"), Vec::<Value>::new());
            let unnamed = "return [...document.querySelectorAll('svg[role=img]')].filter((svg) => !svg.querySelector('title').textContent).length";
            assert_eq!(browser.run(unnamed), json!(0));
            let look = |width: u32, name: String| {
                let Some(folder) = &pictures else { return };
                let height = browser.run("return document.documentElement.scrollHeight");
                browser.resize(width, u32::try_from(height.as_u64().unwrap()).unwrap());
                browser.picture(&Path::new(folder).join(name));
            };
            look(width, format!("{name}-{width}.png"));
            if dark {
                continue;
            }
            // A4 less its margins, at 96 dots an inch.
            browser.on_paper(688, 1000);
            assert_eq!(browser.run(OVERLAPS), json!([]), "{name} on paper");
            look(688, format!("{name}-paper.png"));
        }
    }
}

/// Every key of a file, as `arms[].rounds[].at`; maps of the reader's words end in `.*`.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    const MAPS: [&str; 5] = ["sysctls", "statuses", "errors", "proxy", "backend"];
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let last = path.rsplit('.').next().unwrap_or_default();
                if MAPS.contains(&last) {
                    found.insert(format!("{path}.*"));
                    continue;
                }
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                keys(member, &path, found);
                if !member.is_object()
                    && !member
                        .as_array()
                        .is_some_and(|list| list.iter().any(Value::is_object))
                {
                    found.insert(path);
                }
            }
        }
        Value::Array(list) => {
            for one in list {
                keys(one, &format!("{path}[]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_key_of_the_file_is_in_the_document() {
    let mut there = BTreeSet::new();
    for made in [usual(), exhausted()] {
        keys(&serde_json::to_value(&made).unwrap(), "", &mut there);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/compare.md")).unwrap();
    let rows = document.split("\n## The file\n").nth(1).unwrap().lines();
    let named: BTreeSet<String> = rows
        .filter_map(|row| {
            row.strip_prefix("| `")?
                .split('`')
                .next()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(named, there);
}
