//! The findings as a person reads them: the worst first, each with what was found, why it matters and
//! what to do.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::quantity::{grouped, rate as per_second};

use super::predict::expected;
use super::{Facts, Finding, Level, summary};

/// The width that lines are broken at where there is no terminal.
pub const WIDTH: usize = 100;

/// Why writing into a string cannot fail.
const ANY: &str = "a string takes any text";

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Where lines are broken.
    pub width: usize,
    /// Whether levels are in colour.
    pub colour: bool,
}

/// One backend: what the settings make, and what there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The upstream's name.
    pub upstream: String,
    /// The backend.
    pub backend: SocketAddr,
    /// Requests a second, if they are known.
    pub rate: Option<f64>,
    /// `TIME_WAIT`s here and at the backend that the settings make at this rate.
    pub predicted: [Option<u64>; 2],
    /// `TIME_WAIT`s towards it, and of its own side if that is on this machine.
    pub counted: [Option<u64>; 2],
}

/// What is predicted and counted, backend by backend.
pub fn balance(facts: &Facts<'_>) -> Vec<Balance> {
    let mut lines = Vec::new();
    for upstream in &facts.settings.upstreams {
        for (backend, rate) in facts.backends(upstream) {
            let recycling = facts.given(backend, upstream, 0.0).headroom().recycling;
            let expected = rate.map(|rate| expected(upstream, rate, recycling.takes_place()));
            let towards = facts.kernel.get(&backend);
            lines.push(Balance {
                upstream: upstream.name.clone(),
                backend,
                rate,
                predicted: [
                    expected.map(|expected| expected.here),
                    expected.map(|expected| expected.there),
                ],
                counted: [
                    towards.map(|towards| towards.time_waits),
                    towards.and_then(|towards| towards.own_time_waits),
                ],
            });
        }
    }
    lines
}

/// The whole report.
pub fn text(of: &str, facts: &Facts<'_>, findings: &[Finding], style: Style) -> String {
    let mut text = format!("warmline doctor: {of}\n");
    for finding in findings {
        if finding.level != Level::Fine {
            text.push('\n');
            text.push_str(&spoken(finding, style));
        }
    }
    let fine: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level == Level::Fine)
        .collect();
    if !fine.is_empty() {
        writeln!(text, "\n{}", word(Level::Fine, style)).expect(ANY);
    }
    let longest = fine.iter().map(|finding| finding.rule.len()).max();
    let longest = longest.unwrap_or(0) + 2;
    for finding in fine {
        let about = match finding.about.as_str() {
            "" => String::new(),
            about => format!("{about}: "),
        };
        let first = format!("  {:longest$}", finding.rule);
        let said = format!("{about}{}", finding.found);
        text.push_str(&wrapped(&first, longest + 2, &said, style.width));
    }
    text.push_str(&table(&balance(facts)));
    text + &format!("\n{}\n", summary(findings))
}

/// What is not fine, whole.
fn spoken(finding: &Finding, style: Style) -> String {
    let about = match finding.about.as_str() {
        "" => String::new(),
        about => format!(" ({about})"),
    };
    let mut text = format!("{}  {}{about}\n", word(finding.level, style), finding.rule);
    text.push_str(&wrapped("  ", 2, &finding.found, style.width));
    text.push_str(&wrapped("  Why: ", 7, &finding.why, style.width));
    for (at, remedy) in finding.remedies.iter().enumerate() {
        let first = if at == 0 { "  Do:  " } else { "       " };
        for (line, part) in remedy.lines().enumerate() {
            let first = if line == 0 { first } else { "       " };
            text.push_str(&wrapped(first, 7, part, style.width));
        }
    }
    text
}

fn word(level: Level, style: Style) -> String {
    let (word, code) = match level {
        Level::Problem => ("PROBLEM", "1;31"),
        Level::Advice => ("ADVICE", "1;33"),
        Level::Fine => ("FINE", "1;32"),
    };
    if style.colour {
        format!("\x1b[{code}m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

/// `text` after `first`, broken at blanks, further lines set in by `indent`.
fn wrapped(first: &str, indent: usize, text: &str, width: usize) -> String {
    let mut out = first.to_owned();
    let mut column = first.chars().count();
    let mut is_start = true;
    // What is to be typed stays in one piece.
    let text = text
        .replace(" = ", "\u{a0}=\u{a0}")
        .replace("sysctl -w ", "sysctl\u{a0}-w\u{a0}");
    for word in text.split(' ') {
        let length = word.chars().count();
        if !is_start && column + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
            is_start = true;
        }
        if !is_start {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        is_start = false;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out.replace('\u{a0}', " ")
}

/// What is predicted against what there is. Nothing if neither is known of any backend.
fn table(lines: &[Balance]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let both =
        |pair: [Option<u64>; 2]| pair.map(|count| count.map_or_else(|| "?".to_owned(), grouped));
    let width = |text: &dyn Fn(&Balance) -> usize, least: usize| {
        lines.iter().map(text).max().unwrap_or(0).max(least)
    };
    let names = width(&|line| line.upstream.len(), 8);
    let addresses = width(&|line| line.backend.to_string().len(), 7);
    let mut text = format!(
        "\nTIME_WAIT {:blank$} {:>10} {:^24} {:^24}\n  {:names$}  {:addresses$} {:>10} {:>12}{:>12} {:>12}{:>12}\n",
        "",
        "",
        "predicted",
        "counted",
        "upstream",
        "backend",
        "requests/s",
        "this side",
        "backend's",
        "this side",
        "backend's",
        blank = (names + addresses + 2).saturating_sub(8),
    );
    for line in lines {
        let predicted = both(line.predicted).map(|text| format!("{text:>12}"));
        let counted = both(line.counted).map(|text| format!("{text:>12}"));
        writeln!(
            text,
            "  {:names$}  {:addresses$} {:>10} {} {}",
            line.upstream,
            line.backend.to_string(),
            line.rate.map_or_else(|| "?".to_owned(), per_second),
            predicted.concat(),
            counted.concat(),
        )
        .expect(ANY);
    }
    if lines.iter().any(|line| line.rate.is_none()) {
        text.push_str("  predicted: needs a rate, that of a running proxy or --rate N\n");
    }
    if lines.iter().any(|line| line.counted[1].is_none()) {
        text.push_str("  backend's: counted only where the backend is on this machine\n");
    }
    let lines = text.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::super::examine;
    use super::super::tests::Case;
    use super::*;

    const PLAIN: Style = Style {
        width: 80,
        colour: false,
    };

    #[test]
    fn the_worst_is_read_first_and_the_sum_last() {
        let case = Case::new("keep_alive = false\nshort_mode = \"proxy-closes\"").rate(610);
        let facts = case.facts();
        let findings = examine(&facts);
        let said = text("test.toml", &facts, &findings, PLAIN);
        let at = |words: &str| {
            said.find(words)
                .unwrap_or_else(|| panic!("{words:?} is not in\n{said}"))
        };
        let order = [
            "warmline doctor: test.toml\n\nPROBLEM  short-mode (upstream app)\n  keep_alive = false",
            "\n  Why: connect() fails above 462/s",
            "\n  Do:  [upstreams.app] keep_alive = true\n       or have the backend",
            "\nADVICE  tw-reuse\n",
            "\nFINE\n",
            "\nTIME_WAIT",
            "\n  app       10.0.0.5:80        610       37,210           0            ?           ?\n",
            "\n1 problem, 1 piece of advice;",
        ];
        let places = order.map(at);
        assert!(places.is_sorted(), "{places:?}\n{said}");
        assert!(
            said.lines().all(|line| line.chars().count() <= 90),
            "{said}"
        );
        assert!(!said.lines().any(|line| line.ends_with(' ')), "{said}");
    }

    #[test]
    fn lines_are_broken_at_blanks_and_set_in() {
        assert_eq!(wrapped("  a ", 4, "bb cc dd", 9), "  a bb cc\n    dd\n");
        assert_eq!(wrapped("", 2, "long-word x", 4), "long-word\n  x\n");
        assert_eq!(wrapped("", 2, "or a = 1", 6), "or\n  a = 1\n");
        assert_eq!(wrapped("  x  ", 5, "", 80), "  x\n");
    }

    #[test]
    fn colour_is_on_the_level_alone() {
        let colour = Style {
            colour: true,
            ..PLAIN
        };
        assert_eq!(word(Level::Problem, colour), "\x1b[1;31mPROBLEM\x1b[0m");
        assert_eq!(word(Level::Fine, PLAIN), "FINE");
    }
}
