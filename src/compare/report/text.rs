//! The report in the terminal, and two saved runs side by side. No line is longer than [`WIDTH`] columns.

use std::fmt::Write as _;

use super::judge::{self, Figure, Outcome, Versus};
use super::verdict::{connect_quantile, fewest_ports, most_waiting, notes, verdicts};
use super::words::{bytes, digits, percent, range, time, times, within};
use super::{Arm, Report};
use crate::quantity::{counted, grouped};

/// The longest line.
const WIDTH: usize = 100;

/// The longest name of an arm that is shown whole.
const NAME: usize = 18;

/// Figures of the first table.
const SHOWN: [Figure; 8] = [
    Figure::Requests,
    Figure::P50,
    Figure::P99,
    Figure::P999,
    Figure::ProxyCpu,
    Figure::BackendCpu,
    Figure::Connects,
    Figure::Errors,
];

/// All of it; with `bold`, headings are.
pub fn text(report: &Report, bold: bool) -> String {
    let page = Page { bold };
    let judged = judge::judge(report);
    let mut out = String::new();
    out += &page.heading("Comparison");
    for line in question(report) {
        out += &wrapped(&line, "", "  ");
    }
    out += "\n";
    out += &page.heading("Each arm: median of the rounds, and the least and the most below it");
    out += &figures(report);
    if !judged.is_empty() {
        out += "\n";
        let first = &report.arms[0].name;
        out += &page.heading(&format!("Against {first}: ratio, and what it lies within"));
        out += &ratios(&judged);
        out += &wrapped(&confidence(judged.len()), "", "");
    }
    out += "\n";
    out += &page.heading("Sockets: the most at any moment");
    out += &sockets(report);
    out += "\n";
    out += &page.heading("What it comes to");
    for verdict in verdicts(report, &judged) {
        if verdict.sentences.is_empty() {
            continue;
        }
        let said = verdict.sentences.join(" ");
        let named = said.starts_with(&format!("{} ", verdict.arm));
        let said = if named {
            said
        } else {
            format!("{}: {said}", verdict.arm)
        };
        out += &wrapped(&said, "- ", "  ");
    }
    let notes = notes(report);
    if !notes.is_empty() {
        out += "\n";
        out += &page.heading("To be known");
        for note in notes {
            out += &wrapped(&note, "- ", "  ");
        }
    }
    out
}

/// Runs that were kept, each held against the first, arm by arm. Each has a name: that of its file.
pub fn beside(runs: &[(&str, &Report)], bold: bool) -> String {
    let page = Page { bold };
    let mut out = String::new();
    let Some(((first_name, first), others)) = runs.split_first() else {
        return out;
    };
    for (name, report) in others {
        if !out.is_empty() {
            out += "\n";
        }
        out += &page.heading(&format!("{name} against {first_name}"));
        for difference in differences(report, first) {
            out += &wrapped(&difference, "! ", "  ");
        }
        let across = judge::across(report, first);
        if across.is_empty() {
            out += "No arm has the same name and mode in both: nothing can be compared.\n";
            continue;
        }
        out += "\n";
        out += &ratios(&across);
        out += &wrapped(&confidence(across.len()), "", "");
        out += &wrapped(
            "The runs were made at different times: what was different on the machine then is in the ratios.",
            "",
            "",
        );
        for arm in &report.arms {
            if !across.iter().any(|versus| versus.of.name == arm.name) {
                let only = format!("{} is only in {name}.", arm.name);
                out += &wrapped(&only, "- ", "  ");
            }
        }
        for arm in &first.arms {
            if !across.iter().any(|versus| versus.of.name == arm.name) {
                let only = format!("{} is only in {first_name}.", arm.name);
                out += &wrapped(&only, "- ", "  ");
            }
        }
    }
    out
}

/// What was not the same in two runs, beside their figures.
fn differences(one: &Report, other: &Report) -> Vec<String> {
    let mut found = Vec::new();
    let parts = |report: &Report| -> [(&'static str, serde_json::Value); 3] {
        let value = |part: Result<serde_json::Value, _>| part.unwrap_or_default();
        let mut machine = value(serde_json::to_value(&report.machine));
        // It is never the same twice.
        if let Some(machine) = machine.as_object_mut() {
            machine.remove("load_average");
        }
        [
            ("plan", value(serde_json::to_value(&report.plan))),
            ("machine", machine),
            ("network", value(serde_json::to_value(&report.network))),
        ]
    };
    for ((part, one), (_, other)) in parts(one).into_iter().zip(parts(other)) {
        let mut keys = Vec::new();
        unlike("", &one, &other, &mut keys);
        if !keys.is_empty() {
            found.push(format!("The {part} is not the same: {}.", keys.join("; ")));
        }
    }
    if one.warmline != other.warmline {
        found.push(format!(
            "The version is not the same: {}, was {}.",
            one.warmline, other.warmline
        ));
    }
    for arm in &one.arms {
        let namesake = other.arms.iter().find(|other| other.name == arm.name);
        if namesake.is_some_and(|other| other.config != arm.config) {
            found.push(format!(
                "The configuration of {} is not the same.",
                arm.name
            ));
        }
    }
    found
}

/// The keys whose values differ, as `rounds 8, was 4`.
fn unlike(key: &str, one: &serde_json::Value, other: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    if let (Value::Object(one), Value::Object(other)) = (one, other) {
        let keys: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        for key in keys {
            let of =
                |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            unlike(key, &of(one), &of(other), found);
        }
    } else if one != other {
        let show = |value: &Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None if value.is_null() => "none".to_owned(),
            None => value.to_string(),
        };
        found.push(format!("{key} {}, was {}", show(one), show(other)));
    }
}

/// How sure the ratios are.
pub(super) fn confidence(comparisons: usize) -> String {
    let level = (judge::level(comparisons) * 1000.0).floor() / 10.0;
    format!(
        "= no difference found, ? not known. Intervals of {level:.1} %: all of the table together takes equal arms for \
         different in at most one run of twenty. What is closer than {} counts as equal.",
        percent(judge::FLOOR)
    )
}

/// What was asked for, where, and when.
pub(super) fn question(report: &Report) -> Vec<String> {
    let (plan, network, machine) = (&report.plan, &report.network, &report.machine);
    let pace = match plan.rate {
        Some(rate) => format!("{} requests/s ({})", grouped(rate), plan.pace),
        None if plan.think_us > 0.0 => {
            format!(
                "the next request {} after the last answer",
                time(plan.think_us)
            )
        }
        None => "the next request when the last is answered".to_owned(),
    };
    let mut load = format!(
        "{} {}, {pace}, {}{}",
        plan.method,
        plan.path,
        counted(plan.connections, "connection"),
        if plan.client_close {
            " that end after each request"
        } else {
            ""
        }
    );
    if plan.pace == "given" {
        "whatever the proxies get from elsewhere".clone_into(&mut load);
    }
    if plan.request_bytes > 0 {
        let _ = write!(load, ", bodies of {}", bytes(plan.request_bytes));
    }
    let mut backend = plan.backend.clone();
    if backend == "embedded" {
        let _ = write!(backend, ", answers of {}", bytes(plan.response_bytes));
        for (us, what) in [
            (plan.backend_work_us, "work"),
            (plan.backend_delay_us, "wait"),
        ] {
            if us > 0.0 {
                let _ = write!(backend, ", {} of {what}", time(us));
            }
        }
    }
    let mut way = match network.kind.as_str() {
        "namespaces" => "hosts of their own, joined by veth".to_owned(),
        "given" => "whatever lies before the backend".to_owned(),
        kind => kind.to_owned(),
    };
    if network.delay_us > 0.0 {
        let _ = write!(way, ", {} one way", time(network.delay_us));
    }
    if network.loss > 0.0 {
        let _ = write!(way, ", {} lost", percent(network.loss));
    }
    vec![
        format!("Load:    {load}"),
        format!("Backend: {backend}"),
        format!("Network: {way}"),
        format!(
            "Rounds:  {} of {} s each, order {}, warm-up {} s",
            plan.rounds,
            digits(plan.round_seconds),
            plan.order,
            digits(plan.warm_up_seconds)
        ),
        format!(
            "Machine: {}, {}, {}",
            machine.kernel,
            counted(machine.cpus, "processor"),
            machine.cpu
        ),
        format!(
            "Run:     {}, {} s, warmline {}",
            report.started,
            digits(report.seconds),
            report.warmline
        ),
    ]
}

/// A figure's value.
pub(super) fn value(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Requests | Figure::Connects => digits(value),
        Figure::P50
        | Figure::P90
        | Figure::P99
        | Figure::P999
        | Figure::ProxyCpu
        | Figure::BackendCpu => time(value),
        Figure::Errors => percent(value),
    }
}

fn figures(report: &Report) -> String {
    let mut table = vec![row(
        "arm",
        SHOWN.map(|figure| figure.name().to_owned()).to_vec(),
    )];
    for arm in &report.arms {
        let (mut middle, mut range) = (Vec::new(), Vec::new());
        for figure in SHOWN {
            let spread = figure.spread(arm);
            middle.push(spread.map_or("?".to_owned(), |spread| value(figure, spread.median)));
            range.push(spread.map_or(String::new(), |spread| short_range(figure, &spread)));
        }
        table.push(row(&arm.name, middle));
        if arm.rounds.len() > 1 {
            table.push(row("", range));
        }
    }
    laid_out(&table)
}

/// The least and the most, in the unit of the table's line above if that is the same for all three.
fn short_range(figure: Figure, spread: &crate::compare::stats::Spread) -> String {
    if spread.low.to_bits() == spread.high.to_bits() {
        return String::new();
    }
    let unit = |text: &str| text.split_once(' ').map(|(_, unit)| unit.to_owned());
    let [low, middle, high] =
        [spread.low, spread.median, spread.high].map(|number| value(figure, number));
    let bare = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    if unit(&low) == unit(&high) && unit(&low) == unit(&middle) {
        format!("{}-{}", bare(&low), bare(&high))
    } else {
        range(spread, |number| value(figure, number).replace(' ', ""))
    }
}

fn ratios(judged: &[Versus<'_>]) -> String {
    let heading = Figure::HEADLINE.map(|figure| figure.name().to_owned());
    let mut table = vec![row("arm", heading.to_vec())];
    for versus in judged {
        let (mut above, mut below) = (Vec::new(), Vec::new());
        for figure in Figure::HEADLINE {
            let outcome = versus.outcome(figure);
            above.push(ratio(&outcome));
            below.push(outcome.interval().map_or(String::new(), |one| within(&one)));
        }
        table.push(row(&versus.of.name, above));
        table.push(row("", below));
    }
    laid_out(&table)
}

/// `3.12 x`, `= 1.01 x`, `?`.
pub(super) fn ratio(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Differs(interval) => times(interval.ratio),
        Outcome::Alike(interval, _) => format!("= {}", times(interval.ratio)),
        Outcome::Unknown => "?".to_owned(),
    }
}

/// Headings of the table of sockets.
pub(super) const SOCKETS: [&str; 7] = [
    "TW proxy",
    "TW backend",
    "all sockets",
    "memory",
    "ports left",
    "connect p50",
    "p99",
];

/// Its line for an arm.
pub(super) fn sockets_of(arm: &Arm) -> [String; 7] {
    let unknown = || "?".to_owned();
    let (proxy, backend) = most_waiting(arm);
    let known = !arm.timeline.is_empty();
    let connect = |q| connect_quantile(arm, q).map_or_else(unknown, |s| time(s * 1e6));
    [
        if known { grouped(proxy) } else { unknown() },
        backend.map_or_else(unknown, grouped),
        if known {
            grouped(arm.peak.sockets)
        } else {
            unknown()
        },
        if known {
            bytes(arm.peak.kernel_bytes)
        } else {
            unknown()
        },
        fewest_ports(arm).map_or_else(unknown, grouped),
        connect(0.5),
        connect(0.99),
    ]
}

fn sockets(report: &Report) -> String {
    let mut table = vec![row("arm", SOCKETS.map(str::to_owned).to_vec())];
    for arm in &report.arms {
        table.push(row(&arm.name, sockets_of(arm).to_vec()));
    }
    laid_out(&table)
        + "TW: in TIME_WAIT. memory: what the kernel holds for all sockets. ports left: the fewest.\n"
}

fn row(name: &str, cells: Vec<String>) -> Vec<String> {
    std::iter::once(shortened(name)).chain(cells).collect()
}

/// What a file says may not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

fn shortened(name: &str) -> String {
    let name = printable(name);
    if name.chars().count() <= NAME {
        return name;
    }
    let start: String = name.chars().take(NAME - 1).collect();
    start + "…"
}

/// Columns as wide as they need to be: the first to the left, the others to the right.
fn laid_out(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let sum = widths.iter().sum::<usize>();
    let gap = (WIDTH.saturating_sub(sum) / columns.max(1)).clamp(1, 2);
    let mut out = String::new();
    for row in table {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if column == 0 {
                let _ = write!(line, "{cell:<width$}");
            } else {
                let _ = write!(line, "{:gap$}{cell:>width$}", "");
            }
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// In lines, the first after `start`, the others after `indent`.
fn wrapped(text: &str, start: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = start.to_owned();
    let mut is_bare = true;
    let text = printable(text);
    // Blanks that align columns are kept.
    for word in text.split(' ') {
        if !is_bare && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += line.trim_end();
            out.push('\n');
            indent.clone_into(&mut line);
            is_bare = true;
        }
        if !is_bare {
            line.push(' ');
        }
        line += word;
        is_bare = false;
    }
    out + line.trim_end() + "\n"
}

struct Page {
    bold: bool,
}

impl Page {
    fn heading(&self, text: &str) -> String {
        if self.bold {
            format!("\x1b[1m{text}\x1b[0m\n")
        } else {
            format!("{text}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_not_broken_and_lines_not_too_long() {
        let text = "word ".repeat(50);
        let lines = wrapped(text.trim_end(), "- ", "  ");
        assert!(
            lines.lines().all(|line| line.chars().count() <= WIDTH),
            "{lines}"
        );
        assert!(
            lines.starts_with("- word") && lines.contains("\n  word"),
            "{lines}"
        );
        assert_eq!(lines.split_whitespace().count(), 51);
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let mut one = Report::default();
        let mut other = Report::default();
        assert!(differences(&one, &other).is_empty());
        one.plan.rounds = 8;
        other.plan.rounds = 4;
        one.machine.load_average = 3.0;
        one.network
            .sysctls
            .insert("tcp_tw_reuse".into(), "1".into());
        assert_eq!(
            differences(&one, &other),
            [
                "The plan is not the same: rounds 8, was 4.",
                "The network is not the same: tcp_tw_reuse 1, was none."
            ]
        );
    }
}
