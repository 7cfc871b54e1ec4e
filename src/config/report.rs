//! What is wrong with a configuration, and how it is shown.
//!
//! A [`Report`] holds the text it speaks about, so that it can be shown long after the file was
//! read. It knows where a fault is and what to say; it does not know what a setting is.

use std::fmt::{self, Write as _};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// The most faults one report shows; the rest is counted. A file that is not TOML at all has one
/// on every line.
const SHOWN: usize = 50;

/// The most characters of a value that are repeated in a message.
const QUOTED: usize = 60;

/// Everything found in one file, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    name: String,
    /// `None` when it could not be read.
    text: Option<String>,
    findings: Vec<Finding>,
}

/// One thing to say: a fault, which stops the proxy from starting, or a warning, which does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    severity: Severity,
    title: String,
    at: Option<Mark>,
    also: Vec<Mark>,
    help: Vec<String>,
}

/// Whether the proxy can start in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Fault,
    /// It can, but somebody probably meant something else.
    Warning,
}

/// A stretch of the file and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    span: Range<usize>,
    label: String,
}

impl Report {
    /// A report on `text`, which was read from `name`.
    pub(super) fn new(name: &str, text: &str, mut findings: Vec<Finding>) -> Report {
        // What has no place in the file is about the whole of it, and comes last.
        findings.sort_by_key(|finding| finding.start().unwrap_or(usize::MAX));
        Report {
            name: name.to_owned(),
            text: Some(text.to_owned()),
            findings,
        }
    }

    /// A report on a file that could not be read at all, and why.
    pub(super) fn unreadable(name: &str, finding: Finding) -> Report {
        Report {
            name: name.to_owned(),
            text: None,
            findings: vec![finding],
        }
    }

    /// How many faults there are.
    pub fn faults(&self) -> usize {
        self.count(Severity::Fault)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// The findings, in the order they are shown.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// The line a finding is on; the first is 1. `None` when it is about the whole file.
    pub fn line(&self, finding: &Finding) -> Option<usize> {
        let text = self.text.as_deref()?;
        let before = &text.as_bytes()[..finding.start()?.min(text.len())];
        Some(line_at(before))
    }

    /// The report as a person reads it, ending in a newline; empty when there is nothing to say.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for finding in self.findings.iter().take(SHOWN) {
            let group = finding.group(&self.name, self.text.as_deref());
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        if let Some(more) = self
            .findings
            .len()
            .checked_sub(SHOWN)
            .filter(|&more| more > 0)
        {
            write!(out, "... and {more} more\n\n").expect("a string takes any text");
        }
        if !self.is_empty() && self.text.is_some() {
            out.push_str(&self.summary());
            out.push('\n');
        }
        out
    }

    fn summary(&self) -> String {
        let name = visible(&self.name);
        let faults = counted(self.faults(), "fault");
        let warnings = counted(self.warnings(), "warning");
        match (self.faults(), self.warnings()) {
            (_, 0) => format!("{faults} in {name}"),
            (0, _) => format!("{warnings} in {name}"),
            _ => format!("{faults} and {warnings} in {name}"),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

impl Finding {
    /// A fault, in one sentence without an end.
    pub(super) fn fault(title: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Fault,
            title: visible(&title.into()),
            at: None,
            also: Vec::new(),
            help: Vec::new(),
        }
    }

    /// A warning, in one sentence without an end.
    pub(super) fn warning(title: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::fault(title)
        }
    }

    /// Where the caret points, and what is said beside it.
    pub(super) fn at(mut self, span: Range<usize>, label: impl Into<String>) -> Finding {
        self.at = Some(Mark {
            span,
            label: visible(&label.into()),
        });
        self
    }

    /// Another place that belongs to it.
    pub(super) fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Finding {
        self.also.push(Mark {
            span,
            label: visible(&label.into()),
        });
        self
    }

    /// What to do about it, in one or more lines.
    pub(super) fn help(mut self, text: impl AsRef<str>) -> Finding {
        let lines: Vec<_> = text.as_ref().lines().map(visible).collect();
        self.help.push(lines.join("\n"));
        self
    }

    /// [`help`](Self::help) if there is any.
    pub(super) fn maybe_help(self, text: Option<String>) -> Finding {
        match text {
            Some(text) => self.help(text),
            None => self,
        }
    }

    /// Whether the proxy can start in spite of it.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one sentence.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What to do about it.
    pub fn advice(&self) -> &[String] {
        &self.help
    }

    /// The bytes the caret points at.
    pub fn span(&self) -> Option<Range<usize>> {
        self.at.as_ref().map(|mark| mark.span.clone())
    }

    fn start(&self) -> Option<usize> {
        self.at.as_ref().map(|mark| mark.span.start)
    }

    fn group<'a>(&'a self, name: &'a str, text: Option<&'a str>) -> Group<'a> {
        let level = match self.severity {
            Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = Group::with_title(level.primary_title(&self.title));
        let group = match (text, &self.at) {
            // The title names it.
            (None, _) => group,
            (Some(_), None) => group.element(Origin::path(name)),
            (Some(text), Some(at)) => {
                let others = self.also.iter().map(|also| (AnnotationKind::Context, also));
                let marks = std::iter::once((AnnotationKind::Primary, at)).chain(others);
                let annotations = marks
                    .map(|(kind, mark)| kind.span(within(text, &mark.span)).label(&mark.label));
                group.element(Snippet::source(text).path(name).annotations(annotations))
            }
        };
        self.help.iter().fold(group, |group, help| {
            group.element(Level::HELP.message(help))
        })
    }
}

/// The number of the line that begins or goes on after `before`; the first is 1.
pub(super) fn line_at(before: &[u8]) -> usize {
    before.split(|&byte| byte == b'\n').count()
}

/// `span`, cut so that it lies in `text` and splits no character.
fn within(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.max(start));
    start..end
}

/// `3 faults`, `1 fault`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// `text` between backticks, without control characters, and not longer than a line.
pub(super) fn quoted(text: &str) -> String {
    let mut shown = visible(text);
    if let Some((cut, _)) = shown.char_indices().nth(QUOTED) {
        shown.truncate(cut);
        shown.push_str("...");
    }
    format!("`{shown}`")
}

/// `text` with its control characters escaped: a value may come from the environment, and a
/// terminal obeys some of them.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The candidate somebody probably meant by `word`, if one is near enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // One slip in three letters is a slip; more is another word.
    let slips = (word.chars().count() / 3).clamp(1, 4);
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= slips)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_points_at_the_span_and_the_summary_counts() {
        let text = "[client]\ntimeout = \"5x\"\n";
        let report = Report::new(
            "a.toml",
            text,
            vec![
                Finding::fault("no listener"),
                Finding::warning("odd").at(0..8, ""),
                Finding::fault("bad duration")
                    .at(19..23, "no unit `x`")
                    .help("say 5s"),
            ],
        );
        let shown = report.to_string();
        assert!(shown.contains(" --> a.toml:2:11\n"), "{shown}");
        assert!(shown.contains("|           ^^^^ no unit `x`"), "{shown}");
        assert!(shown.contains("= help: say 5s"), "{shown}");
        assert!(
            shown.ends_with("\n2 faults and 1 warning in a.toml\n"),
            "{shown}"
        );
        let titles: Vec<_> = report.findings().iter().map(Finding::title).collect();
        assert_eq!(titles, ["odd", "bad duration", "no listener"]);
        assert_eq!(report.line(&report.findings()[1]), Some(2));
        assert_eq!(report.line(&report.findings()[2]), None);
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        let report = Report::new("a.toml", "x", vec![Finding::fault("odd").at(0..1, "")]);
        assert!(!report.render(false).contains('\u{1b}'));
        assert!(report.render(true).contains('\u{1b}'));
    }

    #[test]
    fn a_long_report_is_cut_and_says_so() {
        let findings = (0..80)
            .map(|n| Finding::fault(format!("fault {n}")))
            .collect();
        let shown = Report::new("a.toml", "", findings).to_string();
        assert!(shown.contains("... and 30 more\n"), "{shown}");
        assert!(shown.ends_with("80 faults in a.toml\n"), "{shown}");
    }

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        let names = ["keep_alive", "keep_alive_timeout", "timeout"];
        for (word, found) in [
            ("keepalive_timeout", Some("keep_alive_timeout")),
            ("keep_alive_timeot", Some("keep_alive_timeout")),
            ("Timeout", Some("timeout")),
            ("tiemout", Some("timeout")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), found, "{word}");
        }
    }

    #[test]
    fn a_quoted_value_cannot_steer_the_terminal() {
        assert_eq!(quoted("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(quoted(&"x".repeat(100)).len(), QUOTED + "``...".len());
    }
}
