//! The demo as text: what the two arms do, second by second, and what it came to.
//!
//! Plain lines that read the same on a terminal, in a pipe and in a log; nothing is drawn over.
//! Whoever has never heard of TIME_WAIT should see the point within ten seconds: one bar grows,
//! the other stays empty.

use std::time::Duration;

use crate::census::Source;
use crate::census::ports::{Sysctls, TwReuse};
use crate::quantity::{counted, grouped};

/// The widest a bar gets; wider says no more.
const BAR_MAX: usize = 40;
/// A bar narrower than this is left out.
const BAR_MIN: usize = 4;
/// How many frames stand under one pair of title lines.
const FRAMES_PER_TITLE: u32 = 10;
/// The time a TIME_WAIT socket stands, as the timer wheel has it: 61.04 s (Linux 6.18).
const TIME_WAIT_SECONDS: u32 = 61;

/// The figures of one arm at one moment, all counted from the start of the demo.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmFigures {
    /// The arm: `pooled` or `short`.
    pub name: String,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered in the last second.
    pub requests_per_second: f64,
    /// Connections opened to the arm's backends.
    pub connects: u64,
    /// The share of requests on a connection that had served before, from 0 to 1; `None` before
    /// the first request.
    pub reuse_ratio: Option<f64>,
    /// TIME_WAIT sockets at the proxy's end of connections to the arm's backends.
    pub time_wait_ours: u64,
    /// TIME_WAIT sockets at the backends' end.
    pub time_wait_theirs: u64,
    /// Connections to the arm's backends that are open now.
    pub open: u64,
}

/// What does not change while the demo runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Columns of the terminal. From 74 on there are bars; 80 is enough.
    pub width: usize,
    /// How many TIME_WAIT sockets a full bar stands for. What one arm can leave at most makes a
    /// good one: its rate times the seconds it runs, or times 60 if it runs longer.
    pub full_bar: u64,
    /// Where the TIME_WAIT figures come from.
    pub source: Source,
    /// The kernel's settings; `None` where they cannot be read.
    pub sysctls: Option<Sysctls>,
}

/// Draws the demo, one piece of text after the other; each ends with a line break.
///
/// First [`header`](Self::header), then [`frame`](Self::frame) once a second, at last
/// [`summary`](Self::summary).
#[derive(Clone, Debug)]
pub struct Picture {
    scene: Scene,
    frames: u32,
}

impl ArmFigures {
    /// TIME_WAIT sockets at both ends together.
    pub fn time_wait(&self) -> u64 {
        self.time_wait_ours + self.time_wait_theirs
    }
}

impl Picture {
    /// Begins a picture of `scene`.
    pub fn new(scene: Scene) -> Picture {
        Picture { scene, frames: 0 }
    }

    /// What the figures mean. Short, so that the first ones are seen on a screen of 24 lines.
    pub fn header(&self) -> String {
        let full_bar = grouped(self.scene.full_bar);
        let source = self.scene.source;
        format!(
            "\
When a TCP connection ends, the side that closed first keeps its socket for
60 s more, in the state TIME_WAIT. It serves nobody, but takes memory and, on
the side that had connected, a port. The kernel counts them ({source}):

  requests     answered since the start, and in the last second
  connections  to the backends: opened since the start; open now;
               reused: the share of requests that needed no new one
  TIME_WAIT    sockets at the proxy's end and at the backends' end;
               # shows both together, a full bar is {full_bar}
"
        )
    }

    /// The arms at `elapsed` since the start, a line each; from time to time the titles above.
    pub fn frame(&mut self, arms: &[ArmFigures], elapsed: Duration) -> String {
        let names = arms.iter().map(|arm| arm.name.chars().count());
        let name_width = names.max().unwrap_or(0).max(6);

        let mut text = String::new();
        if self.frames.is_multiple_of(FRAMES_PER_TITLE) {
            let groups = format!(
                "\n{:6}  {:name_width$} {:>12} {:>22} {:>16}\n",
                "", "", "requests", "connections", "TIME_WAIT"
            );
            let titles = format!(
                "{:>6}  {:name_width$} {:>7} {:>4} {:>8} {:>5} {:>7} {:>7} {:>8}\n",
                "time", "mode", "total", "/s", "opened", "open", "reused", "proxy", "backend",
            );
            text += &groups;
            text += &titles;
        }
        self.frames = self.frames.wrapping_add(1);

        let mut time = format!("{} s", elapsed.as_secs());
        for arm in arms {
            let line = format!(
                "{time:>6}  {:name_width$} {:>7} {:>4.0} {:>8} {:>5} {:>7} {:>7} {:>8}",
                arm.name,
                grouped(arm.requests),
                arm.requests_per_second,
                grouped(arm.connects),
                grouped(arm.open),
                arm.reuse_ratio.map_or_else(|| "-".into(), percent),
                grouped(arm.time_wait_ours),
                grouped(arm.time_wait_theirs),
            );
            let room = self.scene.width.saturating_sub(line.chars().count() + 3);
            let bar = self.bar(arm.time_wait(), room.min(BAR_MAX));
            text += &line;
            text += &bar;
            text.push('\n');
            time.clear();
        }
        text
    }

    /// What it came to: a sentence for each arm, and what the difference means.
    pub fn summary(&self, arms: &[ArmFigures], elapsed: Duration) -> String {
        let seconds = elapsed.as_secs();
        let sentence = |arm: &ArmFigures| {
            format!(
                "  {} mode opened {} for {}\n  and left {} ({} at the proxy, {} at the backends).\n",
                arm.name,
                counted(arm.connects, "connection"),
                counted(arm.requests, "request"),
                counted(arm.time_wait(), "TIME_WAIT socket"),
                grouped(arm.time_wait_ours),
                grouped(arm.time_wait_theirs),
            )
        };
        let mut paragraphs = vec![
            format!("\nAfter {seconds} s with the same load on both:\n"),
            arms.iter().map(sentence).collect(),
        ];
        if seconds > u64::from(TIME_WAIT_SECONDS) {
            let gone = "TIME_WAIT sockets of more than a minute ago are gone again.\n";
            paragraphs.push(gone.into());
        }
        paragraphs.extend(connects_compared(arms));
        paragraphs.extend(self.scene.sysctls.and_then(port_limit));
        paragraphs.extend(self.scene.sysctls.map(settings));
        paragraphs.join("\n")
    }

    /// `  |####`: of `cells`, as many as `count` is of a full bar, at least one if there is any at
    /// all; a `+` at the end if it does not fit. Empty where there is no room.
    fn bar(&self, count: u64, cells: usize) -> String {
        if cells < BAR_MIN {
            return String::new();
        }
        let full = u128::from(self.scene.full_bar.max(1));
        let filled = (u128::from(count) * cells as u128).div_ceil(full);
        match usize::try_from(filled) {
            Ok(filled) if filled <= cells => format!("  |{}", "#".repeat(filled)),
            _ => format!("  |{}+", "#".repeat(cells - 1)),
        }
    }
}

/// How many times the connections a request the arm with the most needed, against the one with
/// the fewest. `None` where there is nothing to compare or no difference to speak of.
fn connects_compared(arms: &[ArmFigures]) -> Option<String> {
    let a_request = |arm: &ArmFigures| per(arm.connects, arm.requests);
    let mut compared: Vec<_> = arms
        .iter()
        .filter_map(|arm| Some((a_request(arm)?, arm)))
        .collect();
    compared.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let ((fewest, frugal), (most, lavish)) = (compared.first()?, compared.last()?);
    let times = most / fewest;
    (times >= 2.0).then(|| {
        format!(
            "For the same work {} opened {times:.0} times as many connections as {}.\n",
            lavish.name, frugal.name
        )
    })
}

/// The sentence on how far the ports would reach without reuse of connections.
fn port_limit(sysctls: Sysctls) -> Option<String> {
    if sysctls.tw_reuse == TwReuse::Everywhere {
        return None; // a port is then free again after a second
    }
    let ports = sysctls.port_range.ports();
    Some(format!(
        "Where it is the proxy that closes first, each of these sockets holds one of its\n\
         {} ports for a minute: beyond {} requests a second to one backend address\n\
         on another machine, no port is left for a new connection.\n",
        grouped(ports),
        grouped(ports / TIME_WAIT_SECONDS),
    ))
}

/// The kernel's settings, without which the figures say little.
fn settings(sysctls: Sysctls) -> String {
    let list = sysctls.to_string().replace(", ", "\n  ");
    format!("Kernel settings:\n  {list}\n")
}

/// `part / whole`; `None` unless both are there.
fn per(part: u64, whole: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
    (part > 0 && whole > 0).then(|| part as f64 / whole as f64)
}

/// A ratio as per cent with one decimal, rounded down: 100.0% is said of nothing less.
fn percent(ratio: f64) -> String {
    // The small addition keeps 0.29 from becoming 28.9 %.
    format!("{:.1}%", (ratio * 1000.0 + 1e-9).floor() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        Scene {
            width: 80,
            full_bar: 1200,
            source: Source::SockDiag,
            sysctls: Some(Sysctls::parse("32768 60999", "2", "131072").unwrap()),
        }
    }

    fn short(requests: u64) -> ArmFigures {
        ArmFigures {
            name: "short".into(),
            requests,
            requests_per_second: 40.2,
            connects: requests,
            reuse_ratio: Some(0.0),
            time_wait_ours: requests,
            time_wait_theirs: 0,
            open: 0,
        }
    }

    fn pooled(requests: u64) -> ArmFigures {
        ArmFigures {
            name: "pooled".into(),
            requests,
            requests_per_second: 39.8,
            connects: 4,
            reuse_ratio: per(requests - 4, requests),
            time_wait_ours: 0,
            time_wait_theirs: 0,
            open: 4,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_header_explains_every_title_of_the_table() {
        let text = Picture::new(scene()).header();
        assert_eq!(
            text,
            "\
When a TCP connection ends, the side that closed first keeps its socket for
60 s more, in the state TIME_WAIT. It serves nobody, but takes memory and, on
the side that had connected, a port. The kernel counts them (netlink sock_diag):

  requests     answered since the start, and in the last second
  connections  to the backends: opened since the start; open now;
               reused: the share of requests that needed no new one
  TIME_WAIT    sockets at the proxy's end and at the backends' end;
               # shows both together, a full bar is 1,200
"
        );
    }

    #[test]
    fn a_frame_shows_both_arms_and_one_bar_grows() {
        let mut picture = Picture::new(scene());
        let mut text = String::new();
        for (at, requests) in [(1, 40), (10, 400), (30, 1200), (45, 1800)] {
            text += &picture.frame(&[pooled(requests), short(requests)], seconds(at));
        }
        assert_eq!(
            text,
            "
                   requests            connections        TIME_WAIT
  time  mode     total   /s   opened  open  reused   proxy  backend
   1 s  pooled      40   40        4     4   90.0%       0        0  |
        short       40   40       40     0    0.0%      40        0  |#
  10 s  pooled     400   40        4     4   99.0%       0        0  |
        short      400   40      400     0    0.0%     400        0  |####
  30 s  pooled   1,200   40        4     4   99.6%       0        0  |
        short    1,200   40    1,200     0    0.0%   1,200        0  |##########
  45 s  pooled   1,800   40        4     4   99.7%       0        0  |
        short    1,800   40    1,800     0    0.0%   1,800        0  |#########+
"
        );
    }

    #[test]
    fn the_titles_come_back_every_ten_frames() {
        let mut picture = Picture::new(scene());
        let titled: Vec<_> = (1..=21)
            .filter(|at| {
                picture
                    .frame(&[short(1)], seconds(*at))
                    .contains("TIME_WAIT")
            })
            .collect();
        assert_eq!(titled, [1, 11, 21]);
    }

    #[test]
    fn before_the_first_request_there_is_no_reuse_to_speak_of() {
        let mut picture = Picture::new(Scene {
            width: 40,
            ..scene()
        });
        let arm = ArmFigures {
            reuse_ratio: None,
            requests_per_second: 0.0,
            ..short(0)
        };
        let text = picture.frame(&[arm], seconds(0));
        assert_eq!(
            text.lines().last(),
            Some("   0 s  short        0    0        0     0       -       0        0"),
            "and no bar where there is no room"
        );
    }

    #[test]
    fn a_bar_shows_every_socket_and_never_leaves_its_place() {
        let picture = Picture::new(scene());
        for (count, cells, bar) in [
            (0, 10, "  |"),
            (1, 10, "  |#"),
            (600, 10, "  |#####"),
            (1200, 10, "  |##########"),
            (1201, 10, "  |#########+"),
            (u64::MAX, 10, "  |#########+"),
            (1200, 3, ""),
        ] {
            assert_eq!(picture.bar(count, cells), bar, "{count}");
        }
        let zero = Scene {
            full_bar: 0,
            ..scene()
        };
        assert_eq!(Picture::new(zero).bar(9, 4), "  |###+");
    }

    #[test]
    fn the_summary_says_in_words_what_came_of_it() {
        let text = Picture::new(scene()).summary(&[pooled(1200), short(1200)], seconds(30));
        assert_eq!(
            text,
            "
After 30 s with the same load on both:

  pooled mode opened 4 connections for 1,200 requests
  and left 0 TIME_WAIT sockets (0 at the proxy, 0 at the backends).
  short mode opened 1,200 connections for 1,200 requests
  and left 1,200 TIME_WAIT sockets (1,200 at the proxy, 0 at the backends).

For the same work short opened 300 times as many connections as pooled.

Where it is the proxy that closes first, each of these sockets holds one of its
28,232 ports for a minute: beyond 462 requests a second to one backend address
on another machine, no port is left for a new connection.

Kernel settings:
  ip_local_port_range 32768-60999 (28232 ports)
  tcp_tw_reuse 2 (loopback only)
  tcp_max_tw_buckets 131072
"
        );
    }

    #[test]
    fn a_summary_claims_only_what_the_figures_show() {
        let scene = Scene {
            sysctls: None,
            ..scene()
        };
        let nothing = ArmFigures {
            requests: 0,
            connects: 0,
            ..short(0)
        };
        let one = ArmFigures {
            connects: 1,
            requests: 1,
            time_wait_ours: 0,
            time_wait_theirs: 1,
            ..short(1)
        };
        let text = Picture::new(scene).summary(&[nothing, one], seconds(90));
        assert_eq!(
            text,
            "
After 90 s with the same load on both:

  short mode opened 0 connections for 0 requests
  and left 0 TIME_WAIT sockets (0 at the proxy, 0 at the backends).
  short mode opened 1 connection for 1 request
  and left 1 TIME_WAIT socket (0 at the proxy, 1 at the backends).

TIME_WAIT sockets of more than a minute ago are gone again.
"
        );
    }

    #[test]
    fn the_port_limit_is_kept_to_itself_where_ports_come_back_at_once() {
        let parse = |reuse| Sysctls::parse("32768 60999", reuse, "131072").unwrap();
        assert!(port_limit(parse("1")).is_none());
        assert!(
            port_limit(parse("0"))
                .unwrap()
                .contains("beyond 462 requests")
        );
    }

    #[test]
    fn per_cent_are_rounded_down() {
        for (ratio, text) in [
            (0.0, "0.0%"),
            (0.29, "29.0%"),
            (0.9999, "99.9%"),
            (1.0, "100.0%"),
        ] {
            assert_eq!(percent(ratio), text);
        }
    }
}
