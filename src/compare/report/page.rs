//! Which pictures the page of a report has, and what stands in each.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::Figure;
use super::svg::{Axis, Bar, Layer, Line, Mark, Plot, Strip, bars};
use super::words::{digits, float, length, time};
use super::{Arm, Moment, Report};
use crate::compare::stats::median;
use crate::quantity::grouped;

/// The most points of a line: more are not seen.
const POINTS: usize = 360;

/// A picture, what its colours mean, and the same as a table.
pub(super) struct Picture {
    pub(super) title: String,
    /// A sentence below the title.
    pub(super) says: String,
    pub(super) svg: String,
    /// Classes and names.
    pub(super) legend: Vec<(String, String)>,
    pub(super) table: Vec<Vec<String>>,
}

/// All pictures for which there are figures.
pub(super) fn pictures(report: &Report) -> Vec<Picture> {
    let over_time = report.arms.iter().any(|arm| !arm.timeline.is_empty());
    let mut all = Vec::new();
    all.extend(cpu(report));
    all.extend(latency(report));
    if over_time {
        all.push(time_wait(report, false));
        let seen = |arm: &Arm| arm.timeline.iter().any(|moment| moment.backend.is_some());
        if report.arms.iter().any(seen) {
            all.push(time_wait(report, true));
        }
        all.extend(ports(report));
    }
    all.extend(connect(report));
    if over_time {
        all.extend(
            report
                .arms
                .iter()
                .enumerate()
                .filter_map(|(at, arm)| states(report, at, arm)),
        );
    }
    all
}

/// The class of an arm's colour.
pub(super) fn class(at: usize) -> String {
    format!("a{}", at % 9)
}

fn legend(report: &Report) -> Vec<(String, String)> {
    let arms = report.arms.iter().enumerate();
    arms.map(|(at, arm)| (class(at), arm.name.clone()))
        .collect()
}

fn run_axis(report: &Report) -> Axis {
    let last = report.arms.iter().filter_map(|arm| arm.timeline.last());
    let most = last.map(|moment| moment.at).fold(0.0, f64::max);
    Axis::until("seconds since the run began", most)
}

/// When each arm was measured.
fn strips(report: &Report) -> Vec<Strip> {
    let strip = |(at, arm): (usize, &Arm)| Strip {
        class: class(at),
        spans: arm
            .rounds
            .iter()
            .map(|round| (round.at, round.at + round.seconds))
            .collect(),
    };
    report.arms.iter().enumerate().map(strip).collect()
}

fn exhaustions(report: &Report) -> Vec<Mark> {
    let mark = |(at, arm): (usize, &Arm)| {
        Some(Mark {
            class: class(at),
            at: arm.exhausted_at?,
            label: format!("{}: no port left", arm.name),
        })
    };
    report.arms.iter().enumerate().filter_map(mark).collect()
}

/// Of every few points the one that reaches furthest, so that no peak is lost.
fn thinned(points: &[(f64, f64)], lowest: bool) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let furthest = |some: &[(f64, f64)]| {
        let by = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
        let found = if lowest {
            some.iter().min_by(by)
        } else {
            some.iter().max_by(by)
        };
        found.copied()
    };
    points.chunks(every).filter_map(furthest).collect()
}

/// A curve for each arm over the run.
fn curves(
    report: &Report,
    title: &str,
    unit: &str,
    lowest: bool,
    of: impl Fn(&Moment) -> Option<u64>,
) -> (String, Vec<Vec<String>>) {
    let mut lines = Vec::new();
    let mut most = 0.0_f64;
    let mut series = Vec::new();
    for (at, arm) in report.arms.iter().enumerate() {
        let points = arm
            .timeline
            .iter()
            .filter_map(|moment| Some((moment.at, float(of(moment)?))));
        let points: Vec<_> = points.collect();
        most = points.iter().map(|(_, value)| *value).fold(most, f64::max);
        lines.push(Line {
            class: class(at),
            points: thinned(&points, lowest),
        });
        series.push(points);
    }
    let plot = Plot {
        title: title.to_owned(),
        height: 280.0,
        x: run_axis(report),
        y: Axis::linear(unit, most.max(4.0)),
        lines,
        layers: Vec::new(),
        marks: exhaustions(report),
        strips: strips(report),
    };
    let names = report.arms.iter().map(|arm| arm.name.clone());
    let mut table = vec![std::iter::once("second".to_owned()).chain(names).collect()];
    let end = plot.x.high;
    for step in 0..=10 {
        let at = end * length(step) / 10.0;
        let near = |points: &Vec<(f64, f64)>| {
            let nearest = points
                .iter()
                .min_by(|one, other| (one.0 - at).abs().total_cmp(&(other.0 - at).abs()));
            nearest.map_or("?".to_owned(), |(_, value)| digits(*value))
        };
        let cells = series.iter().map(near);
        table.push(std::iter::once(digits(at)).chain(cells).collect());
    }
    (plot.svg(), table)
}

fn time_wait(report: &Report, backend: bool) -> Picture {
    let side = if backend { "backend's" } else { "proxy's" };
    let title = format!("TIME_WAIT over time, {side} side");
    let waiting = |states: &BTreeMap<String, u64>| states.get("TIME_WAIT").copied().unwrap_or(0);
    let of = |moment: &Moment| {
        if backend {
            moment.backend.as_ref().map(waiting)
        } else {
            Some(waiting(&moment.proxy))
        }
    };
    let (svg, table) = curves(report, &title, "sockets in TIME_WAIT", false, of);
    Picture {
        says: if backend {
            "Here they cost memory, and no port. The bars below show which arm was measured when."
                .to_owned()
        } else {
            "Each of them holds a port towards the backend. The bars below show which arm was measured when.".to_owned()
        },
        title,
        svg,
        legend: legend(report),
        table,
    }
}

fn ports(report: &Report) -> Option<Picture> {
    let known = |arm: &Arm| {
        arm.timeline
            .iter()
            .any(|moment| moment.ports_left.is_some())
    };
    report.arms.iter().any(known).then(|| {
        let title = "Ports left towards the backend over time".to_owned();
        let (svg, table) = curves(report, &title, "ports left", true, |moment| moment.ports_left);
        Picture {
            title,
            says: "At zero connect() fails; a proxy without a port range of its own gets slow from half on.".to_owned(),
            svg,
            legend: legend(report),
            table,
        }
    })
}

/// The part of answers that took longer on an axis of nines.
fn latency(report: &Report) -> Option<Picture> {
    const PLACES: [f64; 9] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999_999, 1.0];
    let most = report.arms.iter().map(|arm| arm.latency.count()).max()?;
    if most == 0 {
        return None;
    }
    let nines = |q: f64| -(1.0 - q).log10();
    let us = |arm: &Arm, q: f64| Some(arm.latency.quantile(q)?.as_secs_f64() * 1e6);
    // Beyond the last answer there is nothing.
    let end = float(most).log10().clamp(1.0, 6.0);
    let mut lines = Vec::new();
    let (mut least, mut longest) = (f64::INFINITY, 0.0_f64);
    for (at, arm) in report.arms.iter().enumerate() {
        let its_end = float(arm.latency.count().max(1)).log10().min(end);
        let steps = 120;
        let point = |step: usize| {
            let place = its_end * length(step) / length(steps);
            let us = us(arm, 1.0 - 10_f64.powf(-place))?.max(0.001);
            Some((place, us))
        };
        let points: Vec<_> = (0..=steps).filter_map(point).collect();
        for (_, us) in &points {
            least = least.min(*us);
            longest = longest.max(*us);
        }
        let points = points.into_iter().map(|(place, us)| (place, us.log10()));
        lines.push(Line {
            class: class(at),
            points: points.collect(),
        });
    }
    let names = [
        "",
        "50 %",
        "90 %",
        "99 %",
        "99.9 %",
        "99.99 %",
        "99.999 %",
        "99.9999 %",
        "",
    ];
    let ticks = PLACES
        .into_iter()
        .zip(names)
        .filter(|(q, name)| *q < 1.0 && !name.is_empty());
    let ticks = ticks.map(|(q, name)| (nines(q), name.to_owned()));
    let x = Axis {
        label: "part of the answers that took no longer".to_owned(),
        low: 0.0,
        high: end,
        ticks: ticks.filter(|(at, _)| *at <= end + 1e-6).collect(),
    };
    let title = "Latency of all answers".to_owned();
    let short = |us: f64| time(us).replace(".00 ", " ").replace(".0 ", " ");
    let plot = Plot {
        title: title.clone(),
        height: 300.0,
        x,
        y: Axis::logarithmic("latency", least, longest, short),
        lines,
        layers: Vec::new(),
        marks: Vec::new(),
        strips: Vec::new(),
    };
    let heading = [
        "arm", "least", "p50", "p90", "p99", "p99.9", "p99.99", "max",
    ]
    .map(str::to_owned);
    let mut table = vec![heading.to_vec()];
    for arm in &report.arms {
        let places = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];
        let cells = places.map(|q| us(arm, q).map_or("?".to_owned(), time));
        table.push(std::iter::once(arm.name.clone()).chain(cells).collect());
    }
    Some(Picture {
        title,
        says: "From when a request was due until its answer was over. Both axes are logarithmic; to the right are the slowest.".to_owned(),
        svg: plot.svg(),
        legend: legend(report),
        table,
    })
}

fn cpu(report: &Report) -> Option<Picture> {
    let mut groups = Vec::new();
    let heading = ["arm", "whose", "median", "least", "most", "user", "kernel"].map(str::to_owned);
    let mut table = vec![heading.to_vec()];
    for arm in &report.arms {
        let mut rows = Vec::new();
        for (figure, name) in [(Figure::ProxyCpu, "proxy"), (Figure::BackendCpu, "backend")] {
            let Some(spread) = figure.spread(arm) else {
                continue;
            };
            let parts = arm.rounds.iter().filter_map(|round| {
                if figure == Figure::BackendCpu {
                    round.backend_user_part
                } else {
                    Some(round.proxy_user_part)
                }
            });
            let part = median(&parts.collect::<Vec<_>>())
                .unwrap_or(0.0)
                .clamp(0.0, 1.0);
            let (user, kernel) = (spread.median * part, spread.median * (1.0 - part));
            rows.push(Bar {
                name: name.to_owned(),
                parts: vec![
                    (format!("{name}-user"), user),
                    (format!("{name}-kernel"), kernel),
                ],
                whisker: Some((spread.low, spread.high)),
                value: time(spread.median),
            });
            let times = [spread.median, spread.low, spread.high, user, kernel].map(time);
            let names = [arm.name.clone(), name.to_owned()];
            table.push(names.into_iter().chain(times).collect());
        }
        if !rows.is_empty() {
            groups.push((arm.name.clone(), rows));
        }
    }
    if groups.is_empty() {
        return None;
    }
    let title = "CPU for each request".to_owned();
    let legend = [
        ("proxy-user", "proxy, user"),
        ("proxy-kernel", "proxy, kernel"),
        ("backend-user", "backend, user"),
        ("backend-kernel", "backend, kernel"),
    ];
    Some(Picture {
        svg: bars(&title, "µs a request", &groups),
        title,
        says: "Median of the rounds; the whisker reaches from the least to the most.".to_owned(),
        legend: legend
            .map(|(class, name)| (class.to_owned(), name.to_owned()))
            .to_vec(),
        table,
    })
}

/// How long `connect()` took: the part that took no longer.
fn connect(report: &Report) -> Option<Picture> {
    let some = |arm: &&Arm| arm.connect_time.last().is_some_and(|class| class.count > 0);
    let bounds = report
        .arms
        .iter()
        .filter(some)
        .flat_map(|arm| &arm.connect_time);
    let bounds = bounds
        .filter_map(|class| class.up_to)
        .filter(|bound| *bound > 0.0);
    let bounds: Vec<f64> = bounds.map(|seconds| seconds * 1e6).collect();
    let least = bounds.iter().copied().min_by(f64::total_cmp)?;
    let most = bounds.iter().copied().max_by(f64::total_cmp)?;
    let mut lines = Vec::new();
    let mut table = vec![vec![
        "arm".to_owned(),
        "no longer than".to_owned(),
        "part".to_owned(),
        "count".to_owned(),
    ]];
    for (at, arm) in report.arms.iter().enumerate() {
        let all = arm.connect_time.last().map_or(0, |class| class.count);
        let mut points = Vec::new();
        for bounded in &arm.connect_time {
            let part = float(bounded.count) / float(all.max(1)) * 100.0;
            let bound = bounded.up_to.map(|seconds| seconds * 1e6);
            if let Some(us) = bound.filter(|us| *us > 0.0 && all > 0) {
                points.push((us.log10(), part));
            }
            table.push(vec![
                arm.name.clone(),
                bound.map_or("any".to_owned(), time),
                format!("{part:.2} %"),
                grouped(bounded.count),
            ]);
        }
        lines.push(Line {
            class: class(at),
            points,
        });
    }
    let title = "How long connect() took".to_owned();
    let short = |us: f64| time(us).replace(".00 ", " ").replace(".0 ", " ");
    let plot = Plot {
        title: title.clone(),
        height: 260.0,
        x: Axis::logarithmic("time of a connect()", least, most, short),
        y: Axis::linear("% that took no longer", 100.0),
        lines,
        layers: Vec::new(),
        marks: Vec::new(),
        strips: Vec::new(),
    };
    Some(Picture {
        title,
        says: "The proxy's connections to the backend, as far as it tells.".to_owned(),
        svg: plot.svg(),
        legend: legend(report),
        table,
    })
}

/// Stacked: the sockets of one arm by state, both sides.
fn states(report: &Report, at: usize, arm: &Arm) -> Option<Picture> {
    if arm.timeline.is_empty() {
        return None;
    }
    let every = arm.timeline.len().div_ceil(POINTS).max(1);
    let moments: Vec<&Moment> = arm.timeline.iter().step_by(every).collect();
    let names: BTreeSet<&String> = arm
        .timeline
        .iter()
        .flat_map(|moment| moment.proxy.keys())
        .collect();
    // Those that are always few lie below; TIME_WAIT above all.
    let mut names: Vec<&String> = names.into_iter().collect();
    names.sort_by_key(|name| (name.as_str() == "TIME_WAIT", name.as_str() != "ESTABLISHED"));
    let mut floor = vec![0.0; moments.len()];
    let mut layers = Vec::new();
    let mut legend = Vec::new();
    let mut table = vec![vec![
        "state".to_owned(),
        "most".to_owned(),
        "at second".to_owned(),
    ]];
    for name in names {
        let mut points = Vec::new();
        for (moment, floor) in moments.iter().zip(&mut floor) {
            let count = float(moment.proxy.get(name).copied().unwrap_or(0));
            points.push((moment.at, *floor, *floor + count));
            *floor += count;
        }
        let most = arm
            .timeline
            .iter()
            .max_by_key(|moment| moment.proxy.get(name).copied().unwrap_or(0))?;
        let class = state_class(name);
        table.push(vec![
            name.clone(),
            grouped(most.proxy.get(name).copied().unwrap_or(0)),
            digits(most.at),
        ]);
        legend.push((class.clone(), name.clone()));
        layers.push(Layer { class, points });
    }
    let title = format!("{}: TCP states over time, proxy's side", arm.name);
    let most = floor_of(&layers);
    let plot = Plot {
        title: title.clone(),
        height: 230.0,
        x: run_axis(report),
        y: Axis::linear("sockets", most.max(4.0)),
        lines: Vec::new(),
        layers,
        marks: Vec::new(),
        strips: strips(report).into_iter().skip(at).take(1).collect(),
    };
    Some(Picture {
        title,
        says: "Its sockets towards the backend. The bar below shows when it was measured."
            .to_owned(),
        svg: plot.svg(),
        legend,
        table,
    })
}

fn floor_of(layers: &[Layer]) -> f64 {
    let tops = layers.iter().flat_map(|layer| &layer.points);
    tops.map(|(_, _, high)| *high).fold(0.0, f64::max)
}

/// The class of a state's colour; a name that is none of the kernel's has that of the unknown.
fn state_class(name: &str) -> String {
    const KNOWN: [&str; 9] = [
        "ESTABLISHED",
        "TIME_WAIT",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "CLOSE_WAIT",
        "LAST_ACK",
        "CLOSING",
    ];
    let known = KNOWN.contains(&name);
    format!("s-{}", if known { name } else { "unknown" })
}
