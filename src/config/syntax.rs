//! What the TOML parser says → findings in our words.
//!
//! The parser goes on after an error, and what it says then may be a consequence of it: of each
//! line only the first is shown, and of a list that is never closed only that.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::Error;

use super::report::{Finding, quoted};

/// At most one finding for each line.
pub(super) fn findings(text: &str, errors: &[Error]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut lines = BTreeSet::new();
    let mut placed: Vec<_> = errors
        .iter()
        .map(|error| (error.message(), place(text, error)))
        .collect();
    placed.sort_by_key(|(_, span)| span.start);
    for (message, span) in placed {
        let line = Line::around(text, span.start);
        if !lines.insert(line.start) {
            continue;
        }
        let in_list = message.starts_with("missing comma between array")
            || message.starts_with("string values must be quoted");
        if in_list && line.starts_anew(&span) {
            findings.push(
                Finding::fault("a list is not closed")
                    .at(span, "a `]` is missing before this")
                    .help("what follows was not looked at"),
            );
            break;
        }
        findings.push(finding(text, &line, message, span));
    }
    findings
}

/// Where the parser points, splitting no character.
fn place(text: &str, error: &Error) -> Range<usize> {
    let span = error.span().unwrap_or(text.len()..text.len());
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

/// One line of the file.
struct Line<'t> {
    start: usize,
    text: &'t str,
}

impl<'t> Line<'t> {
    fn around(text: &'t str, at: usize) -> Line<'t> {
        let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
        let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        Line {
            start,
            text: text[start..end].trim_end(),
        }
    }

    /// Whether what begins at `span` looks like a new table or setting: the first thing on its
    /// line, and a header or a key.
    fn starts_anew(&self, span: &Range<usize>) -> bool {
        let Some((before, rest)) = self.text.split_at_checked(span.start - self.start) else {
            return false;
        };
        let key = rest
            .split_once('=')
            .is_some_and(|(key, _)| is_bare(key.trim()));
        matches!(before.trim(), "" | "[" | "[[") && (self.is_header() || key)
    }

    /// Whether it is the header of a table.
    fn is_header(&self) -> bool {
        self.text.trim_start().starts_with('[')
    }
}

fn finding(text: &str, line: &Line<'_>, message: &str, span: Range<usize>) -> Finding {
    let source = &text[span.clone()];
    if message.starts_with("string values must be quoted") && !source.is_empty() {
        return Finding::fault(format!("{} is not a value", quoted(source)))
            .at(span, "a string needs quotes")
            .help(format!("write {}", quoted(&format!("\"{source}\""))));
    }
    if message.starts_with("duplicate key") && !source.is_empty() {
        return twice(text, line, source, span);
    }
    if message.starts_with("invalid basic string, expected `\"`") {
        return Finding::fault("a string is not closed").at(span, "a `\"` is missing here");
    }
    if message.starts_with("invalid literal string, expected `'`") {
        return Finding::fault("a string is not closed").at(span, "a `'` is missing here");
    }
    let words = line.text[..line.text.find('#').unwrap_or(line.text.len())].trim();
    if message.starts_with("key with no value") && !words.is_empty() && !line.is_header() {
        // Apache writes `KeepAliveTimeout 5`, nginx `keepalive_timeout 5;`.
        let (key, value) = words
            .split_once(char::is_whitespace)
            .unwrap_or((words, "..."));
        let start = line.start + line.text.find(key).unwrap_or(0);
        let value = value.trim().trim_end_matches(';');
        let plain = matches!(value, "..." | "true" | "false") || value.parse::<u64>().is_ok();
        let value = if plain || value.starts_with('"') {
            value.to_owned()
        } else {
            format!("\"{value}\"")
        };
        return Finding::fault(format!("{} has no value", quoted(key)))
            .at(start..start + key.len(), "no `=` after this")
            .help(format!("write {}", quoted(&format!("{key} = {value}"))));
    }
    Finding::fault(format!("this is not TOML: {message}")).at(span, "")
}

/// A key or header that is there already. The parser does not say where; within one table it is
/// the only line that starts with the same key.
fn twice(text: &str, line: &Line<'_>, key: &str, span: Range<usize>) -> Finding {
    let before = &text[..line.start];
    let (title, help, same): (_, _, Vec<_>) = if line.is_header() {
        let header = line.text.trim();
        let same = starts(before).filter(|(_, other)| other.trim() == header);
        (
            format!("{header} stands twice"),
            "put its settings together under one of them",
            same.collect(),
        )
    } else {
        let same = starts(before)
            .rev()
            .take_while(|(_, other)| !other.trim_start().starts_with('['))
            .filter(|(_, other)| {
                other
                    .split_once('=')
                    .is_some_and(|(left, _)| left.trim() == key)
            });
        (
            format!("{} is set twice", quoted(key)),
            "keep one of them",
            same.collect(),
        )
    };
    if line.is_header() && same.is_empty() {
        return Finding::fault(format!("{} is something else already", quoted(key)))
            .at(span, "there is a setting or table of this name above")
            .help("`[name]` is one table, `[[name]]` one of several");
    }
    let finding = Finding::fault(title).at(span, "again here").help(help);
    match same[..] {
        [(start, other)] => {
            let indent = other.len() - other.trim_start().len();
            let width = if line.is_header() {
                other.trim().len()
            } else {
                key.len()
            };
            finding.also(start + indent..start + indent + width, "first here")
        }
        _ => finding,
    }
}

/// Each line of `text` with the place it starts at.
fn starts(text: &str) -> impl DoubleEndedIterator<Item = (usize, &str)> {
    let mut at = 0;
    let lines: Vec<_> = text
        .split_inclusive('\n')
        .map(|line| {
            let start = at;
            at += line.len();
            (start, line)
        })
        .collect();
    lines.into_iter()
}

fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::*;

    #[test]
    fn what_is_not_toml_is_said_in_words_that_help() {
        for (text, title, help) in [
            ("a = 30s", "`30s` is not a value", "write `\"30s\"`"),
            (
                "KeepAlive On",
                "`KeepAlive` has no value",
                "write `KeepAlive = \"On\"`",
            ),
            (
                "timeout 5;  # s",
                "`timeout` has no value",
                "write `timeout = 5`",
            ),
            ("timeout", "`timeout` has no value", "write `timeout = ...`"),
            ("a = \"x", "a string is not closed", ""),
            ("a = 'x", "a string is not closed", ""),
            ("a = 1\na = 2", "`a` is set twice", "keep one of them"),
            (
                "[a]\n[a]",
                "[a] stands twice",
                "put its settings together under one of them",
            ),
            (
                "[a]\n[[a]]",
                "`a` is something else already",
                "`[name]` is one table, `[[name]]` one of several",
            ),
            (
                "a = [1,\nb = 2",
                "a list is not closed",
                "what follows was not looked at",
            ),
            (
                "a = [1,\n[b]\nc = [",
                "a list is not closed",
                "what follows was not looked at",
            ),
        ] {
            let (_, errors) = DeTable::parse_recoverable(text);
            let found = findings(text, &errors);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(found[0].title(), title, "{text}");
            let advice = found[0].advice().first().map_or("", String::as_str);
            assert_eq!(advice, help, "{text}");
        }
    }
}
