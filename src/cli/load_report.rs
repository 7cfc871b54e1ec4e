//! What `warmline load` prints.

use std::num::NonZeroU64;
use std::time::Duration;

use super::LoadArgs;
use super::load::method;
use crate::compare::hdr::Hdr;
use crate::compare::load::{Spread, Tally};
use crate::json::Json;
use crate::quantity::{counted, grouped, rate};

/// The quantiles, as a table and as JSON have them.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// What was asked for, and what came of it.
pub(super) struct Report<'a> {
    pub(super) args: &'a LoadArgs,
    pub(super) tally: &'a Tally,
}

impl Report<'_> {
    pub(super) fn text(&self) -> String {
        let mut text = self.question();
        text += &self.requests();
        text += &self.times();
        text += &self.connections();
        text
    }

    fn question(&self) -> String {
        let (args, tally) = (self.args, self.tally);
        let kind = if args.close {
            "closed after each request"
        } else {
            "kept"
        };
        let pace = match args.rate {
            Some(per_second) => {
                let spread = match args.arrivals {
                    Spread::Constant => "evenly",
                    Spread::Poisson => "at random",
                };
                format!("{}/s, {spread}", grouped(per_second))
            }
            None => "the next when the last is answered".to_owned(),
        };
        let warm_up = if args.warm_up.is_zero() {
            String::new()
        } else {
            format!(" after a warm-up of {}", time(args.warm_up))
        };
        format!(
            "{} {}: {pace}; at most {}, {kind}, {}\nmeasured for {}{warm_up}\n\n",
            method(args),
            args.url,
            counted(args.connections, "connection"),
            counted(args.threads, "thread"),
            time(tally.measured),
        )
    }

    fn requests(&self) -> String {
        let tally = self.tally;
        let mut text = row("requests sent", &grouped(tally.sent));
        text += &row("answers/s", &rate(tally.per_second()));
        text += &row("answered", &grouped(tally.answered));
        for (status, count) in tally.statuses() {
            text += &row(&format!("  {status}"), &grouped(count));
        }
        text += &row("without an answer", &grouped(tally.unanswered()));
        for (why, count) in tally.errors().filter(|(_, count)| *count > 0) {
            text += &row(&format!("  {}", why.words()), &grouped(count));
        }
        if self.args.rate.is_some() {
            text += &row("behind, at the most", &grouped(tally.most_behind));
            text += &row("never sent", &grouped(tally.unsent));
        }
        text
    }

    fn times(&self) -> String {
        let tally = self.tally;
        let mut columns = vec![("latency", &tally.latency)];
        if self.args.rate.is_some() {
            columns.push(("once sent", &tally.service));
        }
        if tally.connect.count() > 0 {
            columns.push(("connecting", &tally.connect));
        }
        let line = |name: &str, cell: &dyn Fn(&(&str, &Hdr)) -> String| {
            let cells: Vec<_> = columns
                .iter()
                .map(|column| format!("{:>14}", cell(column)))
                .collect();
            format!("{:<12}{}\n", name, cells.concat())
        };
        let told = |time_: Option<Duration>| time_.map_or("-".to_owned(), time);
        let mut text = format!("\n{}", line("", &|(name, _)| (*name).to_owned()));
        for (q, name) in QUANTILES {
            text += &line(name, &|(_, times)| told(times.quantile(q)));
        }
        text += &line("max", &|(_, times)| told(times.max()));
        text += &line("mean", &|(_, times)| told(times.mean()));
        text
    }

    fn connections(&self) -> String {
        let tally = self.tally;
        let mut text = String::from("\n");
        text += &row("connections opened", &grouped(tally.connects));
        text += &row("requests on a used one", &grouped(tally.reused));
        text += &row("bytes sent", &grouped(tally.bytes_sent));
        text += &row("bytes received", &grouped(tally.bytes_received));
        if self.tally.unsent > 0 {
            text += "\nNot all that was due could be sent: at the end all connections were still busy.\n";
        }
        text
    }

    pub(super) fn json(&self) -> Json {
        let (args, tally) = (self.args, self.tally);
        let statuses = tally.statuses().map(|(status, count)| {
            Json::Object(vec![
                ("status", u32::from(status).into()),
                ("count", count.into()),
            ])
        });
        let errors = tally
            .errors()
            .map(|(why, count)| (why.label(), count.into()));
        Json::Object(vec![
            ("url", args.url.to_string().into()),
            ("method", method(args).into()),
            ("connections", args.connections.into()),
            ("threads", args.threads.into()),
            ("close", args.close.into()),
            ("rate", args.rate.into()),
            (
                "arrivals",
                args.rate
                    .map(|_| match args.arrivals {
                        Spread::Constant => "constant",
                        Spread::Poisson => "poisson",
                    })
                    .into(),
            ),
            (
                "think_seconds",
                args.think.map(|think| think.as_secs_f64()).into(),
            ),
            ("body_bytes", args.body.into()),
            ("warm_up_seconds", args.warm_up.as_secs_f64().into()),
            (
                "duration_seconds",
                args.duration.map(|time| time.as_secs_f64()).into(),
            ),
            ("requests", args.requests.map(NonZeroU64::get).into()),
            ("measured_seconds", tally.measured.as_secs_f64().into()),
            ("answers_per_second", tally.per_second().into()),
            ("sent", tally.sent.into()),
            ("answered", tally.answered.into()),
            ("statuses", Json::List(statuses.collect())),
            ("unanswered", tally.unanswered().into()),
            ("errors", Json::Object(errors.collect())),
            ("most_behind", args.rate.map(|_| tally.most_behind).into()),
            ("unsent", args.rate.map(|_| tally.unsent).into()),
            ("latency_seconds", times_json(&tally.latency)),
            ("service_seconds", times_json(&tally.service)),
            ("connect_seconds", times_json(&tally.connect)),
            ("connects", tally.connects.into()),
            ("reused", tally.reused.into()),
            ("bytes_sent", tally.bytes_sent.into()),
            ("bytes_received", tally.bytes_received.into()),
        ])
    }
}

fn times_json(times: &Hdr) -> Json {
    let seconds = |time: Option<Duration>| Json::from(time.map(|time| time.as_secs_f64()));
    Json::Object(vec![
        ("count", times.count().into()),
        ("p50", seconds(times.quantile(0.5))),
        ("p90", seconds(times.quantile(0.9))),
        ("p99", seconds(times.quantile(0.99))),
        ("p99_9", seconds(times.quantile(0.999))),
        ("max", seconds(times.max())),
        ("mean", seconds(times.mean())),
    ])
}

fn row(label: &str, number: &str) -> String {
    format!("{label:<40}{number:>14}\n")
}

/// A time with three digits: `87.2 µs`, `1.24 ms`, `10.0 s`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (value, unit) = match seconds {
        ..0.000_999_5 => (seconds * 1e6, "µs"),
        ..0.999_5 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (ns, text) in [
            (0, "0.00 µs"),
            (87_249, "87.2 µs"),
            (999_400, "999 µs"),
            (999_600, "1.00 ms"),
            (1_236_000, "1.24 ms"),
            (99_960_000, "100 ms"),
            (999_600_000, "1.00 s"),
            (10_000_000_000, "10.0 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(time(Duration::from_nanos(ns)), text, "{ns}");
        }
    }
}
