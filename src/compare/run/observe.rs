//! Compares proxies that are running and get their requests from elsewhere: by what their admin listeners say, all at
//! once, round by round.
//!
//! Nothing is sent to them but the questions. What they do differently, and what they get, is their operator's business;
//! the report has the mode that their connections' ends tell.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::admin::{self, Where};
use super::arms::Mode;
use super::{Failed, Onlooker, machine, measured};
use crate::compare::hdr::Hdr;
use crate::compare::report::{self, Arm, Check, Class, Moment, Network, Peak, Plan, Report, Round};
use crate::quantity::whole;
use crate::scrape::Page;

/// How often they are asked for their sockets.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest a proxy may take to be there: it may have been started with us.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// One of the proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it is called in the report.
    pub name: String,
    /// Its admin listener.
    pub at: Where,
}

/// Why there is no such proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name and an admin listener are needed, such as short=10.0.0.5:9180 or short=unix:/run/warmline.sock"
)]
pub struct NoProxy;

impl Proxy {
    /// Reads `NAME=HOST:PORT` or `NAME=unix:PATH`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn read(text: &str) -> Result<Proxy, NoProxy> {
        let (name, at) = text.split_once('=').ok_or(NoProxy)?;
        let at = match at.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Where::Unix(PathBuf::from(path)),
            Some(_) => return Err(NoProxy),
            None => {
                let port = at
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.parse::<u16>().ok());
                port.filter(|port| *port > 0).ok_or(NoProxy)?;
                Where::Name(at.to_owned())
            }
        };
        if name.is_empty() {
            return Err(NoProxy);
        }
        Ok(Proxy {
            name: name.to_owned(),
            at,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.at)
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The first is what the others are held against.
    pub proxies: Vec<Proxy>,
    /// How many rounds.
    pub rounds: u32,
    /// How long each is.
    pub round: Duration,
    /// The command line, for the report.
    pub command: Vec<String>,
}

/// Watches them.
///
/// # Errors
/// [`Failed`], above all where one does not answer.
pub fn observe(settings: &Settings, onlooker: &dyn Onlooker) -> Result<Report, Failed> {
    let start = Instant::now();
    let started = machine::now();
    let steps = settings.rounds as usize;
    onlooker.at(0, steps, "waiting for the proxies");
    let mut before = Vec::new();
    for proxy in &settings.proxies {
        before.push(first_page(proxy, onlooker)?);
    }
    let first = before.clone();
    let mut arms = vec![Arm::default(); settings.proxies.len()];
    let mut done = 0;
    'rounds: while done < steps {
        let what = format!("round {} of {steps}", done + 1);
        onlooker.at(done, steps, &what);
        let from = Instant::now();
        while from.elapsed() < settings.round {
            thread::sleep(LOOK_EVERY.min(settings.round.saturating_sub(from.elapsed())));
            if onlooker.has_enough() {
                break 'rounds;
            }
            for (proxy, arm) in settings.proxies.iter().zip(&mut arms) {
                let page = page(proxy)?;
                arm.timeline.push(moment(&page, start.elapsed()));
            }
        }
        for (at, proxy) in settings.proxies.iter().enumerate() {
            let now = page(proxy)?;
            let at_seconds = from.duration_since(start);
            arms[at]
                .rounds
                .push(round(&before[at], &now, at_seconds, from.elapsed()));
            before[at] = now;
        }
        done += 1;
    }
    if done == 0 {
        return Err(Failed::Interrupted);
    }
    for (at, arm) in arms.iter_mut().enumerate() {
        finish(arm, &settings.proxies[at], &first[at], &before[at]);
    }
    onlooker.at(steps, steps, "done");
    let mut notes = vec![
        "Observed proxies that run: they got their requests from elsewhere, and not necessarily the same."
            .to_owned(),
        "Latencies are from the proxies' own classes, each twice as wide as the one before: quantiles are interpolated."
            .to_owned(),
    ];
    if done < steps {
        notes.push(format!("Interrupted: {done} of {steps} rounds."));
    }
    Ok(Report {
        schema: report::SCHEMA,
        warmline: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        seconds: start.elapsed().as_secs_f64(),
        command: settings.command.clone(),
        machine: machine::machine(),
        plan: Plan {
            backend: "whatever the proxies have".to_owned(),
            pace: "given".to_owned(),
            rounds: u32::try_from(done).unwrap_or(u32::MAX),
            round_seconds: settings.round.as_secs_f64(),
            order: "all at once".to_owned(),
            ..Plan::default()
        },
        network: Network {
            kind: "given".to_owned(),
            ..Network::default()
        },
        arms,
        notes,
    })
}

fn page(proxy: &Proxy) -> Result<Page, Failed> {
    admin::page(&proxy.at).map_err(|source| Failed::Silent {
        proxy: proxy.to_string(),
        source,
    })
}

fn first_page(proxy: &Proxy, onlooker: &dyn Onlooker) -> Result<Page, Failed> {
    let until = Instant::now() + STARTS_WITHIN;
    loop {
        match page(proxy) {
            Err(Failed::Silent { source, .. })
                if is_not_there_yet(&source)
                    && Instant::now() < until
                    && !onlooker.has_enough() =>
            {
                thread::sleep(Duration::from_millis(200));
            }
            result => return result,
        }
    }
}

/// What a program that is being started looks like; in a container its name may not be known yet.
fn is_not_there_yet(error: &io::Error) -> bool {
    let kind = error.kind();
    kind != io::ErrorKind::InvalidData && kind != io::ErrorKind::PermissionDenied
}

fn sum(page: &Page, name: &str, labels: &[(&str, &str)]) -> f64 {
    page.sum(name, labels).unwrap_or(0.0)
}

/// How much a counter grew.
fn grown(before: &Page, after: &Page, name: &str, labels: &[(&str, &str)]) -> f64 {
    (sum(after, name, labels) - sum(before, name, labels)).max(0.0)
}

/// The classes of a histogram: their upper bounds, and how many took no longer, all series together.
fn classes(before: &Page, after: &Page, name: &str) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for (page, sign) in [(after, 1.0), (before, -1.0)] {
        for series in page.all(name) {
            let bound = series.label("le").parse().ok();
            let up_to = bound.filter(|bound: &f64| bound.is_finite());
            let count = sign * series.value;
            let known = classes.iter().position(|class| class.up_to == up_to);
            let at = known.unwrap_or_else(|| {
                classes.push(Class { up_to, count: 0 });
                classes.len() - 1
            });
            let class = &mut classes[at];
            class.count = if sign > 0.0 {
                class.count + whole(count)
            } else {
                class.count.saturating_sub(whole(-count))
            };
        }
    }
    classes
}

/// The latencies as far as classes tell: of each, as many as there are, spread evenly over it.
fn latencies(classes: &[Class]) -> Hdr {
    let mut times = Hdr::default();
    let (mut low, mut below) = (0.0, 0);
    for class in classes {
        let count = class.count.saturating_sub(below);
        // What is above all bounds is told as the last of them.
        let high = class.up_to.unwrap_or(low);
        let parts = count.min(16);
        for part in 0..parts {
            let each = count / parts + u64::from(part < count % parts);
            #[expect(clippy::cast_precision_loss, reason = "at most 16")]
            let at = low + (high - low) * (part as f64 + 0.5) / parts as f64;
            times.note_often(Duration::try_from_secs_f64(at).unwrap_or_default(), each);
        }
        (low, below) = (high, class.count);
    }
    times
}

/// What came between two pages.
fn round(before: &Page, after: &Page, at: Duration, took: Duration) -> Round {
    let grown = |name: &str, labels: &[(&str, &str)]| grown(before, after, name, labels);
    let responses = "warmline_responses_total";
    let answered = whole(
        grown(responses, &[("outcome", "answered")]) + grown(responses, &[("outcome", "refused")]),
    );
    let all = whole(grown(responses, &[]));
    let mut statuses = BTreeMap::new();
    for class in 1..=5_u16 {
        let count = whole(grown(responses, &[("class", &format!("{class}xx"))]));
        if count > 0 {
            statuses.insert(class * 100, count);
        }
    }
    let mut errors = BTreeMap::new();
    for (outcome, why) in [
        ("broken_off", "closed_within"),
        ("client_gone", "interrupted"),
    ] {
        let count = whole(grown(responses, &[("outcome", outcome)]));
        if count > 0 {
            errors.insert(why.to_owned(), count);
        }
    }
    let latency = latencies(&classes(before, after, "warmline_request_seconds_bucket"));
    let quantile = |q| {
        latency
            .quantile(q)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    let cpu =
        grown("process_cpu_seconds_total", &[]) - grown("warmline_census_cpu_seconds_total", &[]);
    Round {
        at: at.as_secs_f64(),
        seconds: took.as_secs_f64(),
        sent: all,
        answered,
        statuses,
        errors,
        bytes_sent: whole(grown("warmline_received_body_bytes_total", &[])),
        bytes_received: whole(grown("warmline_sent_body_bytes_total", &[])),
        p50_us: quantile(0.5),
        p90_us: quantile(0.9),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        max_us: quantile(1.0),
        proxy_cpu_us: cpu.max(0.0) * 1e6,
        proxy_user_part: 0.5,
        backend_cpu_us: None,
        backend_user_part: None,
        connects: Some(whole(grown("warmline_backend_connects_total", &[]))),
        reused: Some(whole(grown("warmline_backend_reuses_total", &[]))),
    }
}

/// The kernel's sockets as the proxy tells them.
fn moment(page: &Page, at: Duration) -> Moment {
    let mut proxy: BTreeMap<String, u64> = BTreeMap::new();
    let mut backend: BTreeMap<String, u64> = BTreeMap::new();
    for series in page.all("warmline_tcp_sockets") {
        let side = match series.label("side") {
            "proxy" => &mut proxy,
            "backend" => &mut backend,
            _ => continue,
        };
        let count = whole(series.value);
        if count > 0 {
            *side.entry(series.label("state").to_owned()).or_default() += count;
        }
    }
    let left = page
        .all("warmline_tightest_ports_left")
        .map(|series| whole(series.value));
    Moment {
        at: at.as_secs_f64(),
        driven: true,
        proxy,
        backend: (!backend.is_empty()).then_some(backend),
        foreign_time_wait: whole(sum(
            page,
            "warmline_time_wait_sockets",
            &[("reason", "foreign")],
        )),
        ports_left: left.min(),
    }
}

/// What is known once all rounds are over.
fn finish(arm: &mut Arm, proxy: &Proxy, first: &Page, last: &Page) {
    let requests = whole(grown(first, last, "warmline_backend_requests_total", &[]));
    let connects = whole(grown(first, last, "warmline_backend_connects_total", &[]));
    let ends = |how: &str| {
        whole(grown(
            first,
            last,
            "warmline_backend_closes_total",
            &[("close", how)],
        ))
    };
    let mode = if connects * 2 <= requests {
        Mode::Pooled
    } else {
        let short = [
            (Mode::CloseByHeader, ends("backend_fin")),
            (Mode::ProxyCloses, ends("proxy_fin")),
            (Mode::Rst, ends("proxy_rst")),
        ];
        let most = short.into_iter().max_by_key(|(_, ends)| *ends);
        most.map_or(Mode::CloseByHeader, |(mode, _)| mode)
    };
    arm.name.clone_from(&proxy.name);
    arm.mode = mode.name().into();
    arm.program = "warmline".into();
    arm.version = last
        .all("warmline_build_info")
        .last()
        .map_or_else(String::new, |series| series.label("version").to_owned());
    arm.close_order = mode.close_order().into();
    arm.fingerprint = vec![Check {
        what: "connections to the backend".to_owned(),
        expected: "whatever they are".to_owned(),
        found: connects,
        of: requests,
        fits: true,
    }];
    arm.latency = latencies(&classes(first, last, "warmline_request_seconds_bucket"));
    arm.connect_time = classes(first, last, "warmline_upstream_connect_call_seconds_bucket");
    let no_port = [("reason", "no_local_port")];
    if grown(
        first,
        last,
        "warmline_backend_connect_failures_total",
        &no_port,
    ) > 0.0
    {
        arm.exhausted_at = measured::emptiest(&arm.timeline);
    }
    let memory = whole(sum(last, "process_resident_memory_bytes", &[]));
    arm.peak = Peak {
        proxy_bytes: memory,
        ..measured::peak(&arm.timeline, memory)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_name_and_a_place() {
        for (text, shown) in [
            ("short=10.0.0.5:9180", Some("short=10.0.0.5:9180")),
            ("a=unix:/run/w", Some("a=unix:/run/w")),
            (
                "pooled=warmline-pooled:9180",
                Some("pooled=warmline-pooled:9180"),
            ),
            ("10.0.0.5:9180", None),
            ("=x:1", None),
            ("a=x", None),
            ("a=x:0", None),
            ("a=unix:", None),
        ] {
            let read = Proxy::read(text).ok().map(|proxy| proxy.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn classes_become_latencies() {
        let page = |one: u32, two: u32| {
            let name = "warmline_request_seconds_bucket";
            Page::read(&format!(
                "{name}{{le=\"0.001\"}} {one}\n{name}{{le=\"0.002\"}} {two}\n{name}{{le=\"+Inf\"}} {two}\n"
            ))
        };
        let classes = classes(
            &page(10, 10),
            &page(60, 110),
            "warmline_request_seconds_bucket",
        );
        let counts: Vec<_> = classes
            .iter()
            .map(|class| (class.up_to, class.count))
            .collect();
        assert_eq!(counts, [(Some(0.001), 50), (Some(0.002), 100), (None, 100)]);
        let times = latencies(&classes);
        assert_eq!(times.count(), 100);
        let at = |q| times.quantile(q).unwrap().as_secs_f64();
        assert!((at(0.25) - 0.0005).abs() < 0.0001, "{}", at(0.25));
        assert!((at(0.75) - 0.0015).abs() < 0.0001, "{}", at(0.75));
    }
}
