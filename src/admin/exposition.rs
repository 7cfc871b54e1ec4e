//! Figures → Prometheus' text format, version 0.0.4, or `OpenMetrics`, version 1.0.0.
//!
//! Source: Prometheus, "Exposition formats" and "Metric and label naming"; `OpenMetrics` 1.0.

use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;

use crate::account::Times;

/// How a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' own.
    #[default]
    Prometheus,
    /// `OpenMetrics`.
    OpenMetrics,
}

impl Format {
    /// The one a client would rather have that sends this `Accept`.
    pub(super) fn preferred(accept: Option<&str>) -> Format {
        let mut best = (Format::Prometheus, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next() {
                Some("application/openmetrics-text") => Format::OpenMetrics,
                Some("text/plain" | "text/*" | "*/*") => Format::Prometheus,
                _ => continue,
            };
            let mut quality = 1.0;
            let mut is_known = true;
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => quality = text.parse().unwrap_or(0.0),
                    Some(("version", version)) if format == Format::OpenMetrics => {
                        is_known = version == "1.0.0";
                    }
                    _ => {}
                }
            }
            if is_known && quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// The type of a page in this format.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until the process starts anew.
    Counter,
    /// Comes and goes.
    Gauge,
    /// Times, by how long they were.
    Histogram,
}

/// A page, being written: one family after the other.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    format: Format,
}

/// One family of a page.
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    /// An empty one.
    pub(super) fn new(format: Format) -> Page {
        Page {
            text: String::new(),
            format,
        }
    }

    /// Begins a family: its name, with its unit and `_total` where it is a counter, and what it means.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        let family = match (kind, self.format) {
            (Kind::Counter, Format::OpenMetrics) => name.trim_end_matches("_total"),
            _ => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        write!(
            self.text,
            "# HELP {family} {help}\n# TYPE {family} {kind}\n"
        )
        .expect("a string takes text");
        Family {
            page: &mut self.text,
            name,
        }
    }

    /// The page as it is sent.
    pub(super) fn text(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// One figure, under these labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, value)
    }

    /// Times under these labels, in buckets that end at the powers of two of a microsecond in `powers`.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        times: &Times,
        powers: RangeInclusive<u32>,
    ) -> &mut Self {
        for power in powers {
            #[allow(clippy::cast_precision_loss)] // a power of two
            let end = (1_u64 << power) as f64 / 1e6;
            let text = end.to_string();
            let all = [labels, &[("le", text.as_str())]].concat();
            self.line("_bucket", &all, times.below_power(power));
        }
        let all = [labels, &[("le", "+Inf")]].concat();
        self.line("_bucket", &all, times.count());
        self.line("_sum", labels, times.sum().as_secs_f64());
        self.line("_count", labels, times.count())
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.page.push_str(self.name);
        self.page.push_str(suffix);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.page.push_str(if number == 0 { "{" } else { "," });
            self.page.push_str(label);
            self.page.push_str("=\"");
            for character in text.chars() {
                match character {
                    '\\' => self.page.push_str("\\\\"),
                    '"' => self.page.push_str("\\\""),
                    '\n' => self.page.push_str("\\n"),
                    other => self.page.push(other),
                }
            }
            self.page.push('"');
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        writeln!(self.page, " {value}").expect("a string takes text");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_the_client_would_rather_have() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        for (accept, format) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/html"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some(prometheus), Format::OpenMetrics),
            (
                Some("application/openmetrics-text; version=0.0.1, text/plain;q=0.2"),
                Format::Prometheus,
            ),
            (
                Some("application/openmetrics-text;q=0.1, */*;q=0.9"),
                Format::Prometheus,
            ),
        ] {
            assert_eq!(Format::preferred(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn openmetrics_names_counters_without_their_ending_and_says_where_it_ends() {
        let mut page = Page::new(Format::OpenMetrics);
        page.family("a_total", Kind::Counter, "What it is.")
            .sample(&[], 7);
        assert_eq!(
            page.text(),
            "# HELP a What it is.\n# TYPE a counter\na_total 7\n# EOF\n"
        );
    }

    #[test]
    fn a_histogram_has_its_buckets_its_sum_and_its_count() {
        let tally = crate::account::TimesTally::default();
        for us in [50, 100, 100, 5000] {
            tally.note(std::time::Duration::from_micros(us));
        }
        let mut times = Times::default();
        tally.add_to(&mut times);
        let mut page = Page::default();
        page.family("t_seconds", Kind::Histogram, "Times.")
            .histogram(&[("x", "1")], &times, 6..=7);
        assert_eq!(
            page.text(),
            "# HELP t_seconds Times.\n# TYPE t_seconds histogram\n\
             t_seconds_bucket{x=\"1\",le=\"0.000064\"} 1\n\
             t_seconds_bucket{x=\"1\",le=\"0.000128\"} 3\n\
             t_seconds_bucket{x=\"1\",le=\"+Inf\"} 4\n\
             t_seconds_sum{x=\"1\"} 0.00525\nt_seconds_count{x=\"1\"} 4\n"
        );
    }

    #[test]
    fn a_family_has_its_help_its_type_and_its_figures() {
        let mut page = Page::default();
        page.family("a_total", Kind::Counter, "What it is.")
            .sample(&[("x", "1"), ("y", "a\"b\\c\nd")], 7)
            .sample(&[], 0.5);
        page.family("b", Kind::Gauge, "None yet.");
        assert_eq!(
            page.text(),
            "# HELP a_total What it is.\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 7\na_total 0.5\n\
             # HELP b None yet.\n# TYPE b gauge\n"
        );
    }
}
