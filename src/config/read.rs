//! One table of the file, held against the settings it may have → checked values.
//!
//! Every fault is noted and reading goes on, so that one run shows them all. A value that could
//! not be read is `None` here, as one that is not there; the difference is in the findings.

use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::env::{self, Why};
use super::keys::{Default, Setting, TABLES, Table, Takes};
use super::report::{Finding, nearest, quoted};
use super::values::{Scalar, Written};

/// Holds the file, and what was found in it so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    env: &'a dyn Fn(&str) -> Option<String>,
    findings: Vec<Finding>,
    /// How many of them, the first, are errors of syntax. If there are any, what is missing may
    /// stand in what could not be read, and is not complained about.
    syntax: usize,
}

/// A table of the file whose keys are known to be settings.
pub(super) struct Section<'t> {
    table: &'static Table,
    /// As it is written there: `[upstreams.app]`.
    pub(super) header: String,
    /// Where it begins.
    pub(super) span: Range<usize>,
    entries: Vec<Entry<'t>>,
    /// Whether there are names in it that are none: what is missing may be one of them.
    pub(super) is_misspelt: bool,
}

/// One line of a section.
struct Entry<'t> {
    setting: &'static Setting,
    key: Range<usize>,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        text: &'a str,
        env: &'a dyn Fn(&str) -> Option<String>,
        syntax: Vec<Finding>,
    ) -> Reader<'a> {
        Reader {
            text,
            env,
            syntax: syntax.len(),
            findings: syntax,
        }
    }

    /// Everything found. Of a line that is not TOML only that is said: what was made of it is a
    /// guess.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings;
        let rest = findings.split_off(self.syntax);
        let broken: Vec<_> = findings
            .iter()
            .filter_map(|finding| lines(self.text, finding))
            .collect();
        let sound = |finding: &Finding| match lines(self.text, finding) {
            None => true,
            Some(lines) => !broken
                .iter()
                .any(|other| lines.start <= other.end && other.start <= lines.end),
        };
        findings.extend(rest.into_iter().filter(sound));
        findings
    }

    /// Notes a finding.
    pub(super) fn note(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Notes that something is missing, unless it may be in what could not be read.
    pub(super) fn note_missing(&mut self, finding: Finding) {
        if self.syntax == 0 {
            self.findings.push(finding);
        }
    }

    /// Opens `value` as a section, noting each key that does not belong there.
    pub(super) fn section<'t>(
        &mut self,
        table: &'static Table,
        header: String,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Option<Section<'t>> {
        let Some(keys) = value.get_ref().as_table() else {
            self.not_a_table(table, &header, value);
            return None;
        };
        let mut section = Section {
            table,
            header,
            span: value.span(),
            entries: Vec::new(),
            is_misspelt: false,
        };
        let mut unknown = Vec::new();
        for (key, value) in in_order(keys) {
            let Some(setting) = table.find(key.get_ref()) else {
                self.unknown(&section, key.get_ref(), key.span());
                section.is_misspelt = true;
                unknown.push(key.get_ref().as_ref());
                continue;
            };
            let first = section.entry(setting.name).map(|entry| entry.key.clone());
            if let Some(first) = first {
                self.twice(setting, key.span(), first);
                continue;
            }
            section.entries.push(Entry {
                setting,
                key: key.span(),
                value,
            });
        }
        for setting in table.settings {
            // A misspelt name is one fault, not two.
            let misspelt = || {
                unknown
                    .iter()
                    .any(|name| nearest(name, [setting.name]).is_some())
            };
            let there = section.entry(setting.name).is_some();
            if setting.default == Default::Required && !there && !misspelt() {
                self.missing(&section, setting);
            }
        }
        Some(section)
    }

    /// Reads one setting with `parse`; `None` when it is not there or not as it should be.
    pub(super) fn read<T, W: Display>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl FnOnce(&Scalar) -> Result<T, W>,
    ) -> Option<T> {
        let entry = section.entry(name)?;
        self.value(entry.setting, entry.value, parse)
    }

    /// [`read`](Self::read), or `default` when the setting is not there: `None` is only what is
    /// not as it should be.
    pub(super) fn read_or<T, W: Display>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        default: T,
        parse: impl FnOnce(&Scalar) -> Result<T, W>,
    ) -> Option<T> {
        if section.entry(name).is_none() {
            return Some(default);
        }
        self.read(section, name, parse)
    }

    /// Reads one value of `setting` with `parse`.
    pub(super) fn value<T, W: Display>(
        &mut self,
        setting: &Setting,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&Scalar) -> Result<T, W>,
    ) -> Option<T> {
        let scalar = self.scalar(setting, value)?;
        match parse(&scalar) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                self.wrong(setting, &value.span(), &scalar, &wrong.to_string());
                None
            }
        }
    }

    /// Notes that `setting` cannot be `scalar`, and why.
    fn wrong(&mut self, setting: &Setting, span: &Range<usize>, scalar: &Scalar, why: &str) {
        let source = self.text.get(span.clone()).unwrap_or_default();
        let title = format!(
            "`{}` takes {}, not {}",
            setting.name,
            setting.takes.noun(),
            scalar.shown()
        );
        let label = if scalar.written == Written::Text && source.contains("${") {
            format!(
                "{why} (with the environment filled in: {})",
                quoted(&scalar.text)
            )
        } else {
            why.to_owned()
        };
        let near = if let Takes::Word(words) = setting.takes {
            did_you_mean(&scalar.text, words.iter().copied())
        } else {
            None
        };
        self.note(
            Finding::fault(title)
                .at(span.clone(), label)
                .maybe_help(near)
                .help(format!("allowed: {}", setting.allowed())),
        );
    }

    /// `value` as text, with the environment filled in.
    fn scalar(&mut self, setting: &Setting, value: &Spanned<DeValue<'_>>) -> Option<Scalar> {
        let (text, written) = match value.get_ref() {
            DeValue::String(text) => (self.filled(text, value.span())?, Written::Text),
            DeValue::Integer(number) => {
                let digits = i128::from_str_radix(number.as_str(), number.radix());
                let text = digits.map_or_else(|_| number.to_string(), |digits| digits.to_string());
                (text, Written::Whole)
            }
            DeValue::Float(number) => (number.as_str().to_owned(), Written::Fraction),
            DeValue::Boolean(on) => (on.to_string(), Written::Switch),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                self.wrong_type(setting, value);
                return None;
            }
        };
        if setting.takes.accepts(written) {
            Some(Scalar { text, written })
        } else {
            self.wrong_type(setting, value);
            None
        }
    }

    /// Notes that `setting` cannot be written as TOML's type of `value`.
    pub(super) fn wrong_type(&mut self, setting: &Setting, value: &Spanned<DeValue<'_>>) {
        let found = type_noun(value.get_ref());
        let title = format!(
            "`{}` takes {}, not {found}",
            setting.name,
            setting.takes.noun()
        );
        self.note(
            Finding::fault(title)
                .at(value.span(), format!("this is {found}"))
                .help(format!("allowed: {}", setting.allowed())),
        );
    }

    /// `text` with the environment filled in; each variable that could not be is noted.
    fn filled(&mut self, text: &str, span: Range<usize>) -> Option<String> {
        let unfilled = match env::fill(text, self.env) {
            Ok(filled) => return Some(filled),
            Err(unfilled) => unfilled,
        };
        // Unless something is escaped in it, the string stands in the file as it is.
        let source = self.text.get(span.clone()).unwrap_or_default();
        let offset = source.find(text).map(|offset| span.start + offset);
        for one in unfilled {
            let at = match offset {
                Some(offset) => offset + one.at.start..offset + one.at.end,
                None => span.clone(),
            };
            self.note(match one.why {
                Why::Unset(name) => Finding::fault(format!(
                    "the environment variable {} is not set",
                    quoted(&name)
                ))
                .at(at, "nothing to fill in here")
                .help(format!("set it, or give a default: `${{{name}:-default}}`")),
                Why::BadName(name) => {
                    Finding::fault(format!("{} is not the name of a variable", quoted(&name)))
                        .at(at, "letters, digits and `_` make a name")
                        .help("write `$${` where a literal `${` is meant")
                }
                Why::Open => Finding::fault("`${` without `}`")
                    .at(at, "no `}` after this")
                    .help("write `$${` where a literal `${` is meant"),
            });
        }
        None
    }

    fn not_a_table(&mut self, table: &Table, header: &str, value: &Spanned<DeValue<'_>>) {
        let found = type_noun(value.get_ref());
        self.note(
            Finding::fault(format!("{header} is a table, not {found}"))
                .at(value.span(), format!("this is {found}"))
                .help(format!("its settings: {}", names(table))),
        );
    }

    fn unknown(&mut self, section: &Section<'_>, name: &str, span: Range<usize>) {
        let title = format!("{} has no setting {}", section.header, quoted(name));
        self.note(
            Finding::fault(title)
                .at(span, "unknown setting")
                .help(section.hint(name)),
        );
    }

    fn twice(&mut self, setting: &Setting, second: Range<usize>, first: Range<usize>) {
        let alias = setting.alias.unwrap_or(setting.name);
        self.note(
            Finding::fault(format!("`{}` is set twice", setting.name))
                .at(second, "set again here")
                .also(first, "set here")
                .help(format!(
                    "`{alias}` is Apache's name for `{}`; keep one",
                    setting.name
                )),
        );
    }

    fn missing(&mut self, section: &Section<'_>, setting: &Setting) {
        self.note_missing(
            Finding::fault(format!("{} needs `{}`", section.header, setting.name))
                .at(
                    section.span.clone(),
                    format!("no `{}` in here", setting.name),
                )
                .help(format!("allowed: {}", setting.allowed())),
        );
    }
}

impl<'t> Section<'t> {
    fn entry(&self, name: &str) -> Option<&Entry<'t>> {
        debug_assert!(
            self.table
                .settings
                .iter()
                .any(|setting| setting.name == name),
            "`{name}` is read, but is no setting of {}",
            self.table.header
        );
        self.entries.iter().find(|entry| entry.setting.name == name)
    }

    /// The setting called `name` and its value, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<(&'static Setting, &'t Spanned<DeValue<'t>>)> {
        self.entry(name).map(|entry| (entry.setting, entry.value))
    }

    /// Where the value of `name` stands, if it is there.
    pub(super) fn value_span(&self, name: &str) -> Option<Range<usize>> {
        self.entry(name).map(|entry| entry.value.span())
    }

    /// What somebody who wrote `name` here may have meant.
    fn hint(&self, name: &str) -> String {
        let here = self.table.settings;
        let elsewhere = || {
            TABLES
                .into_iter()
                .filter(|table| table.find(name).is_some())
        };
        if let Some(setting) = here.iter().find(|setting| setting.is_elsewhere(name)) {
            return format!("it is called `{}` here", setting.name);
        }
        if let Some(near) = nearest(name, here.iter().map(|setting| setting.name)) {
            return format!("did you mean `{near}`?");
        }
        let headers: Vec<_> = elsewhere().map(|table| table.header).collect();
        if headers.is_empty() {
            format!("its settings: {}", names(self.table))
        } else {
            format!("it is a setting of {}", headers.join(" and of "))
        }
    }
}

/// The entries of a table in the order of the file; TOML's own order is the alphabet's.
pub(super) fn in_order<'t>(
    table: &'t DeTable<'t>,
) -> Vec<(
    &'t Spanned<std::borrow::Cow<'t, str>>,
    &'t Spanned<DeValue<'t>>,
)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// `did you mean ...?`, if one of `candidates` is near.
pub(super) fn did_you_mean<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// What TOML calls the type of `value`, with its article.
pub(super) fn type_noun(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn names(table: &Table) -> String {
    let names: Vec<_> = table
        .settings
        .iter()
        .map(|setting| format!("`{}`", setting.name))
        .collect();
    names.join(", ")
}

/// The bytes of the lines a finding points at.
fn lines(text: &str, finding: &Finding) -> Option<Range<usize>> {
    let span = finding.span()?;
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.max(start));
    let first = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let last = text[end..].find('\n').map_or(text.len(), |at| end + at);
    Some(first..last)
}
