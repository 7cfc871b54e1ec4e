//! The table of backends, as text: on the screen as many columns as fit, printed all of them.

use std::time::Duration;

use crate::quantity::{counted, grouped, rate, span};

use super::snapshot::{Backend, Snapshot};

/// Cells of the bar that shows how many ports are left.
const BAR: usize = 8;

/// A column: its head, and what stands in it.
struct Column {
    head: &'static str,
    /// Left out the sooner the larger it is; 0 never is.
    spare: u8,
    left: bool,
    cell: fn(&Backend) -> String,
}

/// All of them, in order.
const COLUMNS: &[Column] = &[
    column("upstream", 0, true, |backend| backend.upstream.clone()),
    column("backend", 0, true, |backend| backend.address.clone()),
    column("arm", 4, true, |backend| backend.arm.clone()),
    column("req/s", 0, false, |backend| {
        known(backend.requests_per_second.map(rate))
    }),
    column("conn/s", 1, false, |backend| {
        known(backend.connects_per_second.map(rate))
    }),
    column("reuse", 2, false, |backend| {
        known(backend.reuse.map(percent))
    }),
    column("p50", 7, false, |backend| {
        known(backend.p50.map(short_time))
    }),
    column("p99", 6, false, |backend| {
        known(backend.p99.map(short_time))
    }),
    column("idle", 4, false, |backend| known(backend.idle.map(grouped))),
    column("busy", 4, false, |backend| {
        known(backend.leased.map(grouped))
    }),
    column("opening", 8, false, |backend| {
        known(backend.opening.map(grouped))
    }),
    column("waiting", 5, false, |backend| {
        known(backend.waiting.map(grouped))
    }),
    column("TW here", 0, false, |backend| {
        known(backend.time_waits().map(grouped))
    }),
    column("TW there", 6, false, |backend| {
        known(backend.own_time_waits().map(grouped))
    }),
    column("ports left", 1, false, |backend| {
        known(backend.scarcest().map(|lane| grouped(lane.left)))
    }),
    column("", 3, true, |backend| {
        backend
            .scarcest()
            .map_or_else(String::new, |lane| bar(lane.left, lane.ports))
    }),
    column("last", 2, false, lasts),
];

const fn column(head: &'static str, spare: u8, left: bool, cell: fn(&Backend) -> String) -> Column {
    Column {
        head,
        spare,
        left,
        cell,
    }
}

/// What is not known.
fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn percent(part: f64) -> String {
    // 99.97 is not yet all of it.
    format!("{:.1}%", (part * 1000.0).floor() / 10.0)
}

/// A latency: more exact than a span of time in general.
pub(super) fn short_time(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        0..1000 => format!("{us} µs"),
        1000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => span(time),
    }
}

/// How long the ports last at this rate.
fn lasts(backend: &Backend) -> String {
    let soonest = backend.lanes.iter().filter_map(|lane| lane.seconds_left);
    match soonest.min() {
        Some(Duration::ZERO) => "used up".to_owned(),
        Some(time) => span(time),
        None if backend.lanes.is_empty() => "-".to_owned(),
        None => "for ever".to_owned(),
    }
}

/// How much is left, in eighths of a cell.
pub(super) fn bar(left: u64, of: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = left.min(of) * (BAR as u64 * 8) / of.max(1);
    let eighths = usize::try_from(eighths).unwrap_or(0);
    let bar = format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8]);
    let blank = BAR - bar.chars().count();
    format!("{bar}{}", "·".repeat(blank))
}

/// The table, its head first: a line for each backend, none wider than `width` if that can be.
pub(super) fn table(backends: &[Backend], width: usize) -> Vec<String> {
    let cells: Vec<Vec<String>> = COLUMNS
        .iter()
        .map(|column| {
            let head = std::iter::once(column.head.to_owned());
            head.chain(backends.iter().map(column.cell)).collect()
        })
        .collect();
    let widths: Vec<usize> = cells
        .iter()
        .map(|cells| cells.iter().map(|cell| cell.chars().count()).max())
        .map(|most| most.unwrap_or(0))
        .collect();
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    loop {
        let sum: usize = shown.iter().map(|at| widths[*at] + 2).sum();
        let dearest = shown.iter().copied().max_by_key(|at| COLUMNS[*at].spare);
        let Some(dearest) = dearest.filter(|at| COLUMNS[*at].spare > 0) else {
            break;
        };
        if sum <= width + 2 {
            break;
        }
        shown.retain(|at| *at != dearest);
    }
    let line = |row: usize| {
        let mut line = String::new();
        for at in &shown {
            let (cell, width) = (&cells[*at][row], widths[*at]);
            let cell = if COLUMNS[*at].left {
                format!("{cell:width$}  ")
            } else {
                format!("{cell:>width$}  ")
            };
            line.push_str(&cell);
        }
        line.truncate(line.trim_end().len());
        line
    };
    (0..=backends.len()).map(line).collect()
}

/// Who it is and how it is, in a line.
pub(super) fn header(at: &str, snapshot: &Snapshot) -> String {
    let mut parts = vec![format!("Warmline {} at {at}", snapshot.version)];
    parts.extend(snapshot.uptime.map(|time| format!("up {}", span(time))));
    let requests = snapshot.requests_per_second();
    parts.extend(requests.map(|requests| format!("{} requests/s", rate(requests))));
    parts.extend(snapshot.clients.map(|clients| counted(clients, "client")));
    parts.extend(snapshot.workers.map(|workers| counted(workers, "worker")));
    if snapshot.stopping {
        parts.push("stopping".to_owned());
    }
    parts.join("  ")
}

/// All of it on paper.
pub(super) fn page(at: &str, snapshot: &Snapshot) -> String {
    let mut text = format!("{}\n\n", header(at, snapshot));
    for line in table(&snapshot.backends, usize::MAX - 2) {
        text.push_str(&line);
        text.push('\n');
    }
    let sentences = snapshot.backends.iter().flat_map(|backend| &backend.lanes);
    let sentences: Vec<_> = sentences
        .filter(|lane| !lane.sentence.is_empty())
        .map(|lane| match lane.source.as_str() {
            "" => format!("{}\n", lane.sentence),
            source => format!("from {source}: {}\n", lane.sentence),
        })
        .collect();
    if !sentences.is_empty() {
        text.push('\n');
        text.extend(sentences);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::fixture;
    use super::*;

    #[test]
    fn all_of_it_is_printed() {
        let page = page("127.0.0.1:9180", &fixture());
        assert_eq!(
            page,
            "\
Warmline 0.1.0 at 127.0.0.1:9180  up 12 min  1,610 requests/s  56 clients  2 workers

upstream  backend        arm     req/s  conn/s  reuse     p50    p99  idle  busy  opening  waiting  TW here  TW there  ports left                last
app       10.0.0.5:80    pooled  1,000     1.0  99.9%  1.2 ms  18 ms     3     2        0        0        0         0      28,227  ███████▉  for ever
old       10.0.0.6:8080  short     610     610   0.0%  2.1 ms      -     0     4        1        0   22,860         0       5,367  █▌······     8.8 s

from 10.0.0.1: at 1.0 connects/s to 10.0.0.5:80 the 28,227 ports left of 28,232 do not run out: 61 are in TIME_WAIT at a time
from 10.0.0.1: at 610 connects/s to 10.0.0.6:8080 the 5,367 ports left of 28,232 last 8.8 s
"
        );
    }

    #[test]
    fn a_narrow_table_keeps_what_matters_most() {
        let snapshot = fixture();
        for width in [200, 120, 100, 80, 60, 50] {
            let table = table(&snapshot.backends, width);
            let widest = table.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{width}: {table:#?}");
            assert!(table[0].contains("TW here") && table[0].contains("req/s"));
        }
        assert!(table(&snapshot.backends, 100)[0].contains("ports left"));
        assert!(!table(&snapshot.backends, 10)[1].is_empty());
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let table = table(&[Backend::default()], 200);
        assert!(!table[1].contains('0'), "{table:?}");
        assert!(table[1].contains('-'), "{table:?}");
    }

    #[test]
    fn a_bar_is_as_long_as_what_is_left() {
        for (left, of, bar_of_it) in [
            (0, 100, "········"),
            (100, 100, "████████"),
            (50, 100, "████····"),
            (1, 64, "▏·······"),
            (9, 0, "········"),
            (200, 100, "████████"),
        ] {
            assert_eq!(bar(left, of), bar_of_it, "{left} of {of}");
        }
    }

    #[test]
    fn times_and_shares_are_short() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1250, "1.2 ms"),
            (18_500, "18 ms"),
        ] {
            assert_eq!(short_time(Duration::from_micros(us)), text);
        }
        assert_eq!(percent(0.9999), "99.9%");
        assert_eq!(percent(1.0), "100.0%");
    }
}
