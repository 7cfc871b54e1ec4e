//! Figures → Prometheus' text format, version 0.0.4.
//!
//! Source: Prometheus, "Exposition formats" and "Metric and label naming".

use std::fmt::{Display, Write as _};

/// The type of a page in this format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until the process starts anew.
    Counter,
    /// Comes and goes.
    Gauge,
}

/// A page, being written: one family after the other.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// One family of a page.
pub(super) struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    /// Begins a family: its name, with its unit and `_total` where it is a counter, and what it means.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
            .expect("a string takes text");
        Family {
            page: &mut self.0,
            name,
        }
    }

    /// The page as it is sent.
    pub(super) fn text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One figure, under these labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.page.push_str(self.name);
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
