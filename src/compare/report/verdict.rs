//! What a comparison comes to, in sentences.

use std::collections::BTreeMap;

use super::judge::{Figure, Outcome, Versus};
use super::words::{digits, float, listed, percent, time, times, within};
use super::{Arm, Report};
use crate::census::ports::TwReuse;
use crate::compare::load::Unanswered;
use crate::compare::stats::Interval;
use crate::headroom::{Given, Headroom, TIME_WAIT};
use crate::quantity::{counted, grouped, rate, span};

/// Of one arm.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    /// Its name.
    pub(super) arm: String,
    /// In the order of their weight; each ends with a full stop.
    pub(super) sentences: Vec<String>,
}

/// How much the CPU of a request must grow from the first rounds to the last to be called a collapse.
const COLLAPSE: f64 = 1.5;

/// Up to so many in TIME_WAIT are the ends of a run, not a way of closing.
const FEW: u64 = 10;

/// What is said of each arm; of the first, only what it did by itself.
pub(super) fn verdicts(report: &Report, judged: &[Versus<'_>]) -> Vec<Verdict> {
    let verdict = |(at, arm): (usize, &Arm)| {
        let versus = at.checked_sub(1).and_then(|at| judged.get(at));
        let mut sentences = Vec::new();
        if let Some(versus) = versus {
            sentences.extend(cost(report, versus));
            sentences.extend(speed(versus));
            sentences.extend(alike(versus));
        }
        sentences.extend(exhausted(arm));
        sentences.extend(collapse(report, arm));
        sentences.extend(failures(report, arm));
        sentences.extend(holders(arm));
        sentences.extend(misfits(arm));
        Verdict {
            arm: arm.name.clone(),
            sentences,
        }
    };
    report.arms.iter().enumerate().map(verdict).collect()
}

/// What whoever reads the figures has to know: the report's notes, and what follows from it.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = report.notes.clone();
    let says = |word: &str| report.notes.iter().any(|note| note.contains(word));
    if report.network.kind == "loopback" && recycles(report) && !says("tcp_tw_reuse") {
        notes.push(
            "Over loopback tcp_tw_reuse takes a port in TIME_WAIT again after a second: ports do not run out here as they would between machines."
                .to_owned(),
        );
    }
    let rounds = report.arms.iter().map(|arm| arm.rounds.len()).min();
    if rounds.is_some_and(|rounds| (1..4).contains(&rounds)) && report.arms.len() > 1 {
        notes.push(
            "With so few rounds only large differences are told from chance: take six or more."
                .to_owned(),
        );
    }
    if report.machine.cpus > 0 && report.machine.load_average > f64::from(report.machine.cpus) * 0.5
    {
        notes.push(format!(
            "The machine was busy when the run began: load average {} on {}.",
            digits(report.machine.load_average),
            counted(report.machine.cpus, "processor")
        ));
    }
    notes
}

/// `short costs 3.1 x the proxy's CPU a request [2.9-3.3] and at 610 connects/s exhausts the 28,232 ports …`.
fn cost(report: &Report, versus: &Versus<'_>) -> Option<String> {
    let difference = |figure| versus.outcome(figure).difference();
    let mut costs = Vec::new();
    let mut add = |interval: Option<Interval>, whose: &str| {
        if let Some(interval) = interval {
            let (times, within) = (times(interval.ratio), within(&interval));
            costs.push(format!("{times} the {whose} CPU a request {within}"));
        }
    };
    add(difference(Figure::ProxyCpu), "proxy's");
    add(difference(Figure::BackendCpu), "backend's");
    let ports = ports_go(report, versus.of);
    let costs = (!costs.is_empty()).then(|| format!("costs {}", listed(&costs)));
    let both: Vec<String> = costs.into_iter().chain(ports).collect();
    (!both.is_empty()).then(|| format!("{} {}.", versus.of.name, both.join(", and ")))
}

/// What its connects do to the ports towards one backend address between machines, where it holds its `TIME_WAIT`s
/// itself and did not run out of them in the run.
fn ports_go(report: &Report, arm: &Arm) -> Option<String> {
    let (proxy, backend) = most_waiting(arm);
    if arm.exhausted_at.is_some() || proxy <= FEW || proxy < backend.unwrap_or(0) {
        return None;
    }
    let connects = connects_a_second(arm).filter(|connects| *connects >= 1.0)?;
    let ports = ports(report)?;
    let headroom = headroom(report, arm, ports, connects);
    let at = format!("at {} connects/s", rate(connects));
    let all = format!("the {} towards one backend address", counted(ports, "port"));
    let words = match headroom.fails_after {
        Some(after) => format!("{at} exhausts {all} in {}", span(after)),
        None if headroom.recycling.takes_place() => {
            format!("{at} does not exhaust {all}: {}", headroom.recycling)
        }
        None => format!(
            "{at} holds {} of {all} in TIME_WAIT",
            grouped(headroom.steady_time_wait)
        ),
    };
    let hidden =
        headroom.fails_after.is_some() && report.network.kind == "loopback" && recycles(report);
    Some(if hidden {
        format!("{words} between machines (not over loopback, as here)")
    } else {
        words
    })
}

fn speed(versus: &Versus<'_>) -> Option<String> {
    let parts = [Figure::Requests, Figure::P50, Figure::P99].map(|figure| {
        let interval = versus.outcome(figure).difference()?;
        let (times, within) = (times(interval.ratio), within(&interval));
        Some(format!("{times} the {} {within}", figure.words()))
    });
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("It has {}.", listed(&parts)))
}

/// What was not found, and how small it could have been.
fn alike(versus: &Versus<'_>) -> Option<String> {
    let (mut parts, mut reaches, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    let mut unknown = 0;
    for figure in Figure::HEADLINE {
        match versus.outcome(figure) {
            // What would have to be twice as much to be seen was not measured.
            Outcome::Alike(_, reach) if reach >= 1.0 => apart.push(figure.words().to_owned()),
            Outcome::Alike(_, reach) => {
                parts.push(figure.words().to_owned());
                reaches.push(percent(reach));
            }
            Outcome::Differs(_) => {}
            Outcome::Unknown => unknown += 1,
        }
    }
    if unknown == Figure::HEADLINE.len() {
        let rounds = versus.of.rounds.len().min(versus.to.rounds.len());
        return Some(if rounds < 2 {
            "Nothing can be said of differences with fewer than two rounds.".to_owned()
        } else {
            "There is nothing to hold against the first arm.".to_owned()
        });
    }
    let mut sentences = Vec::new();
    if !parts.is_empty() {
        sentences.push(format!(
            "No difference from {} in {}: one of {} would have been seen.",
            versus.to.name,
            listed(&parts),
            listed(&reaches)
        ));
    }
    if !apart.is_empty() {
        sentences.push(format!(
            "Of {} the rounds lie too far apart to tell.",
            listed(&apart)
        ));
    }
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn exhausted(arm: &Arm) -> Option<String> {
    let at = arm.exhausted_at?;
    let none = arm
        .rounds
        .iter()
        .filter_map(|round| round.errors.get("no_port"));
    let none: u64 = none.sum();
    let count = if none > 0 {
        format!("; {} found none", counted(none, "request"))
    } else {
        String::new()
    };
    Some(format!(
        "It ran out of ports {} s after the run began{count}.",
        digits(at)
    ))
}

/// A `connect()` that searches the port range: it comes at half of the ports, long before none is left.
fn collapse(report: &Report, arm: &Arm) -> Option<String> {
    let cpu = Figure::ProxyCpu.of_all(arm);
    let (first, last) = (*cpu.first()?, *cpu.last()?);
    let ports = arm
        .timeline
        .iter()
        .filter_map(|moment| moment.ports_left)
        .max();
    let ports = ports.or_else(|| ports_of(report).map(u64::from))?;
    let half = |moment: &&super::Moment| moment.ports_left.is_some_and(|left| left <= ports / 2);
    let since = arm.timeline.iter().find(half)?.at;
    if last < first * COLLAPSE {
        return None;
    }
    let connect = connect_quantile(arm, 0.99)
        .map(|seconds| format!(" Its connect() took {} at p99.", time(seconds * 1e6)))
        .unwrap_or_default();
    Some(format!(
        "Its proxy CPU a request grew from {} in the first round to {} in the last: from {} s on more than half of the \
         ports were taken, and connect() searches ever longer for a free one.{connect}",
        time(first),
        time(last),
        digits(since)
    ))
}

fn failures(report: &Report, arm: &Arm) -> Option<String> {
    let sum = |of: fn(&super::Round) -> u64| arm.rounds.iter().map(of).sum::<u64>();
    let (sent, failed) = (sum(|round| round.sent), sum(super::Round::failed));
    if failed == 0 {
        return None;
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for round in &arm.rounds {
        for (key, count) in &round.errors {
            let known = Unanswered::ALL.into_iter().find(|one| one.label() == key);
            let words = known.map_or_else(|| key.clone(), |one| one.words().to_owned());
            *kinds.entry(words).or_default() += count;
        }
        for (status, count) in round.statuses.range(500..600) {
            // Of proxies that are observed only the class is known.
            let status = match report.plan.pace.as_str() {
                "given" => format!("{}xx", status / 100),
                _ => status.to_string(),
            };
            *kinds.entry(format!("status {status}")).or_default() += count;
        }
    }
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(what, count)| format!("{} {what}", grouped(*count)))
        .collect();
    let answers = if failed >= sent {
        " Nothing else can be said of it."
    } else if failed > sent / 100 {
        " Its latencies are those of the requests that were answered."
    } else {
        ""
    };
    Some(format!(
        "{} of {} failed ({}): {}.{answers}",
        grouped(failed),
        counted(sent, "request"),
        percent(float(failed) / float(sent.max(1))),
        listed(&kinds)
    ))
}

/// Who holds the `TIME_WAIT`s.
fn holders(arm: &Arm) -> Option<String> {
    if arm.timeline.is_empty() {
        return None;
    }
    let (proxy, backend) = most_waiting(arm);
    let on_proxy = proxy > FEW;
    Some(match backend {
        None if on_proxy => format!(
            "Up to {} were in TIME_WAIT on the proxy's side, each with a port; the backend's side cannot be seen.",
            counted(proxy, "connection")
        ),
        None => {
            "None to speak of were in TIME_WAIT on the proxy's side; the backend's cannot be seen."
                .to_owned()
        }
        Some(backend) if backend > FEW && on_proxy => format!(
            "Up to {} were in TIME_WAIT on the proxy's side, each with a port, and {} on the backend's.",
            counted(proxy, "connection"),
            grouped(backend)
        ),
        Some(backend) if backend > FEW => format!(
            "Up to {} were in TIME_WAIT on the backend's side, where they cost memory but no port.",
            counted(backend, "connection")
        ),
        Some(_) if on_proxy => format!(
            "Up to {} were in TIME_WAIT on the proxy's side, each with a port.",
            counted(proxy, "connection")
        ),
        Some(_) => "Nobody held connections in TIME_WAIT to speak of.".to_owned(),
    })
}

fn misfits(arm: &Arm) -> Option<String> {
    let wrong = arm.fingerprint.iter().filter(|check| !check.fits);
    let wrong: Vec<String> = wrong
        .map(|check| {
            format!(
                "{}: {} of {}, expected {}",
                check.what,
                grouped(check.found),
                grouped(check.of),
                check.expected
            )
        })
        .collect();
    (!wrong.is_empty()).then(|| {
        format!(
            "It did not close its connections as it says, and its figures are worth nothing ({}).",
            wrong.join("; ")
        )
    })
}

/// The most in TIME_WAIT at any moment: the proxy's side, and the backend's where it can be seen.
pub(super) fn most_waiting(arm: &Arm) -> (u64, Option<u64>) {
    let waiting = |states: &BTreeMap<String, u64>| states.get("TIME_WAIT").copied().unwrap_or(0);
    let proxy = arm.timeline.iter().map(|moment| waiting(&moment.proxy));
    let backend = arm
        .timeline
        .iter()
        .filter_map(|moment| moment.backend.as_ref());
    (proxy.max().unwrap_or(0), backend.map(waiting).max())
}

/// The fewest ports that were left.
pub(super) fn fewest_ports(arm: &Arm) -> Option<u64> {
    arm.timeline
        .iter()
        .filter_map(|moment| moment.ports_left)
        .min()
}

fn connects_a_second(arm: &Arm) -> Option<f64> {
    let rounds = arm.rounds.iter().filter(|round| round.seconds > 0.0);
    let rates = rounds.filter_map(|round| Some(float(round.connects?) / round.seconds));
    crate::compare::stats::median(&rates.collect::<Vec<_>>())
}

/// How long the part `q` of connects took at most, in seconds: within its class as if they lay evenly in it. `None`:
/// there is none, or it lies in the class without a bound.
pub(super) fn connect_quantile(arm: &Arm, q: f64) -> Option<f64> {
    let all = arm.connect_time.last()?.count;
    let rank = float(all) * q;
    let (mut below, mut before) = (0.0, 0);
    for class in &arm.connect_time {
        if class.count > before && float(class.count) >= rank {
            let part = (rank - float(before)) / float(class.count - before);
            return Some(below + (class.up_to? - below) * part);
        }
        (below, before) = (class.up_to.unwrap_or(below), class.count);
    }
    None
}

fn sysctl<'a>(report: &'a Report, name: &str) -> Option<&'a str> {
    report.network.sysctls.get(name).map(String::as_str)
}

/// The ports of the range.
fn ports_of(report: &Report) -> Option<u32> {
    let mut ends = sysctl(report, "ip_local_port_range")?.split_whitespace();
    let mut end = || ends.next()?.parse::<u16>().ok();
    let (low, high) = (end()?, end()?);
    u32::from(high).checked_sub(low.into()).map(|more| more + 1)
}

fn ports(report: &Report) -> Option<u32> {
    ports_of(report).filter(|ports| *ports > 0)
}

fn tw_reuse(report: &Report) -> TwReuse {
    match sysctl(report, "tcp_tw_reuse").and_then(|value| value.parse().ok()) {
        Some(0) => TwReuse::Never,
        Some(1) => TwReuse::Everywhere,
        Some(2) | None => TwReuse::LoopbackOnly,
        Some(other) => TwReuse::Other(other),
    }
}

fn has_timestamps(report: &Report) -> bool {
    sysctl(report, "tcp_timestamps") != Some("0")
}

/// Whether ports in TIME_WAIT are taken again over loopback.
fn recycles(report: &Report) -> bool {
    has_timestamps(report)
        && matches!(
            tw_reuse(report),
            TwReuse::Everywhere | TwReuse::LoopbackOnly
        )
}

/// How far the ports reach between machines.
fn headroom(report: &Report, arm: &Arm, ports: u32, rate: f64) -> Headroom {
    let given = Given {
        ports,
        port_range_option: arm.program == "warmline",
        in_use: 0,
        time_wait: &[],
        length: TIME_WAIT,
        rate,
        tw_reuse: tw_reuse(report),
        timestamps: has_timestamps(report),
        loopback: false,
    };
    given.headroom()
}
