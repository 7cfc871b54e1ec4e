//! Which requests a route is for: its path, scheme, methods and headers.

use http::{HeaderName, Method};
use toml::de::DeValue;

use super::address;
use super::read::{Reader, Section, in_order};
use super::report::{Finding, quoted};
use super::values::list;
use crate::route::{Conditions, PathMatch, Pattern, Scheme, ValueMatch};

/// The settings that say which paths it is for.
const PATHS: [&str; 3] = ["path", "path_exact", "path_regex"];

/// The paths of a route; `None` if something about them is wrong.
pub(super) fn path(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<PathMatch> {
    let mut there = PATHS.iter().filter(|name| section.get(name).is_some());
    let (first, second) = (there.next(), there.next());
    if let (Some(first), Some(second)) = (first, second)
        && let (Some(before), Some(span)) = (section.value_span(first), section.value_span(second))
    {
        reader.note(
            Finding::fault(format!("a route has `{first}` or `{second}`, not both"))
                .at(span, "which of them?")
                .also(before, "the other")
                .help("remove one; two routes can lead to one upstream"),
        );
        return None;
    }
    let plain = |scalar: &super::values::Scalar| address::route_path(&scalar.text);
    match first {
        Some(&"path_exact") => reader
            .read(section, "path_exact", plain)
            .map(PathMatch::Exact),
        Some(&"path_regex") => {
            let pattern = reader.read(section, "path_regex", |scalar| Pattern::new(&scalar.text));
            pattern.map(PathMatch::Regex)
        }
        _ => {
            let prefix = reader.read_or(section, "path", "/".to_owned(), plain);
            prefix.map(PathMatch::Prefix)
        }
    }
}

/// What else a route asks for; `None` if something about it is wrong.
pub(super) fn conditions(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<Conditions> {
    let scheme = reader.read_or(section, "scheme", None, |scalar| {
        match scalar.text.as_str() {
            "http" => Ok(Some(Scheme::Http)),
            "https" => Ok(Some(Scheme::Https)),
            _ => Err("neither `http` nor `https`"),
        }
    });
    let methods = list(reader, section, "methods", method);
    if let Some((_, value)) = section.get("methods") {
        let written = value.get_ref().as_array()?;
        if written.is_empty() {
            reader.note(
                Finding::fault("`methods` has none: no request would take this route")
                    .at(value.span(), "for which methods?")
                    .help("leave it out for all of them"),
            );
        }
        if written.is_empty() || methods.len() < written.len() {
            return None;
        }
    }
    let headers = headers(section, reader);
    Some(Conditions {
        scheme: scheme?,
        methods,
        headers: headers?,
    })
}

fn method(text: &str) -> Result<Method, &'static str> {
    // Methods are compared with regard to case: RFC 9110 §9.1.
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err("methods are written in capitals");
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| "no name that a method can have")
}

fn headers(
    section: &Section<'_>,
    reader: &mut Reader<'_>,
) -> Option<Vec<(HeaderName, ValueMatch)>> {
    let Some((setting, value)) = section.get("headers") else {
        return Some(Vec::new());
    };
    let DeValue::Table(table) = value.get_ref() else {
        reader.wrong_type(setting, value);
        return None;
    };
    let mut headers = Vec::new();
    let mut is_sound = true;
    for (key, value) in in_order(table) {
        let name = name(key.get_ref(), key.span(), reader);
        let matched = reader.value(setting, value, |scalar| match scalar.text.as_str() {
            "*" => Ok(ValueMatch::Any),
            text => match text.strip_prefix('~') {
                Some(pattern) => Pattern::new(pattern).map(ValueMatch::Regex),
                None => Ok(ValueMatch::Exact(text.to_owned())),
            },
        });
        match (name, matched) {
            (Some(name), Some(matched)) => headers.push((name, matched)),
            _ => is_sound = false,
        }
    }
    is_sound.then_some(headers)
}

/// A header's name, as the key of a table or in a list.
pub(super) fn name(
    text: &str,
    span: std::ops::Range<usize>,
    reader: &mut Reader<'_>,
) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        reader.note(
            Finding::fault(format!(
                "{} is no name that a header can have",
                quoted(text)
            ))
            .at(span, "letters, digits and `-`"),
        );
    }
    name
}
