//! What a route does: who answers, what becomes of the path and of headers.

use std::ops::Range;

use http::StatusCode;
use http::header::{HOST, HeaderName, HeaderValue};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::conditions::name;
use super::keys::Setting;
use super::read::{Reader, Section, did_you_mean, in_order, type_noun};
use super::report::{Finding, nearest, quoted};
use super::values::{number, switch};
use crate::route::{
    Action, BadTemplate, ChangeSet, Changes, HeaderChange, PathMatch, Redirect, Respond, Rewrite,
    Template, Use, is_framing,
};

/// The settings that say who answers, and those that mean nothing without them.
const ANSWERS: [(&str, &[&str]); 3] = [
    (
        "upstream",
        &[
            "strip_prefix",
            "rewrite",
            "request_headers",
            "backend_timeout",
            "retry_body",
        ],
    ),
    ("redirect", &["redirect_status"]),
    ("respond", &["respond_body", "respond_type"]),
];

/// Something is not as it should be, and was noted.
pub(super) struct Wrong;

/// How many groups a path captures.
pub(super) fn groups(path: &PathMatch) -> usize {
    match path {
        PathMatch::Regex(pattern) => pattern.groups(),
        PathMatch::Prefix(_) | PathMatch::Exact(_) => 0,
    }
}

/// Who answers; `None` if something about it is wrong.
pub(super) fn action(
    section: &Section<'_>,
    groups: usize,
    reader: &mut Reader<'_>,
) -> Option<Action> {
    let mut there = ANSWERS
        .iter()
        .filter(|(name, _)| section.get(name).is_some());
    let Some((answer, _)) = there.next() else {
        if !section.is_misspelt {
            reader.note_missing(
                Finding::fault("a route leads nowhere")
                    .at(section.span.clone(), "who answers?")
                    .help("name an upstream: upstream = \"app\"")
                    .help("or send the client elsewhere: redirect = \"https://$host$request_uri\"")
                    .help("or answer here: respond = 404"),
            );
        }
        return None;
    };
    if let Some((second, _)) = there.next() {
        let span = |name: &str| section.value_span(name).unwrap_or_default();
        reader.note(
            Finding::fault(format!("a route has `{answer}` or `{second}`, not both"))
                .at(span(second), "which of them?")
                .also(span(answer), "the other")
                .help("remove one"),
        );
        return None;
    }
    for (other, settings) in ANSWERS.iter().filter(|(other, _)| other != answer) {
        for name in *settings {
            if let Some(span) = section.value_span(name) {
                reader.note(
                    Finding::fault(format!("`{name}` means nothing without `{other}`"))
                        .at(span, format!("on a route with `{answer}`"))
                        .help("remove it"),
                );
            }
        }
    }
    match *answer {
        "upstream" => reader
            .read(section, "upstream", |s| Ok::<_, String>(s.text.clone()))
            .map(Action::Upstream),
        "redirect" => redirect(section, groups, reader).map(Action::Redirect),
        _ => respond(section, groups, reader).map(Action::Respond),
    }
}

fn redirect(section: &Section<'_>, groups: usize, reader: &mut Reader<'_>) -> Option<Redirect> {
    let status = match number::<u16>(reader, section, "redirect_status") {
        Some(code @ (301 | 302 | 303 | 307 | 308)) => StatusCode::from_u16(code).ok()?,
        Some(code) => {
            reader.note(
                Finding::fault(format!("{code} is no redirect"))
                    .at(
                        section.value_span("redirect_status")?,
                        "not with a `Location`",
                    )
                    .help("allowed: 301, 302, 303, 307, 308"),
            );
            return None;
        }
        None if section.get("redirect_status").is_some() => return None,
        None => StatusCode::FOUND,
    };
    let (setting, value) = section.get("redirect")?;
    let to = template(setting, value, Use::Redirect, groups, reader)?;
    Some(Redirect { status, to })
}

fn respond(section: &Section<'_>, groups: usize, reader: &mut Reader<'_>) -> Option<Respond> {
    let status = number::<u16>(reader, section, "respond")?;
    let status = StatusCode::from_u16(status).ok()?;
    let body = match section.get("respond_body") {
        Some((setting, value)) => template(setting, value, Use::Body, groups, reader)?,
        None => Template::new("", Use::Body, 0).ok()?,
    };
    let has_none = [204, 205, 304].contains(&status.as_u16());
    if has_none && body.constant() != Some("") {
        reader.note(
            Finding::fault(format!(
                "a response with status {} has no body",
                status.as_u16()
            ))
            .at(section.value_span("respond_body")?, "it would not be sent")
            .help("remove it"),
        );
        return None;
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    let content_type = reader.read_or(section, "respond_type", plain, |scalar| {
        HeaderValue::from_str(&scalar.text).map_err(|_| "no value that a header can have")
    })?;
    Some(Respond {
        status,
        body,
        content_type,
    })
}

/// What becomes of the path.
///
/// # Errors
/// Something about it is wrong, and noted.
pub(super) fn rewrite(
    section: &Section<'_>,
    groups: usize,
    reader: &mut Reader<'_>,
) -> Result<Option<Rewrite>, Wrong> {
    let strips = switch(reader, section, "strip_prefix");
    if strips != Some(true) {
        let Some((setting, value)) = section.get("rewrite") else {
            return Ok(None);
        };
        let to = template(setting, value, Use::Path, groups, reader).ok_or(Wrong)?;
        return Ok(Some(Rewrite::To(to)));
    }
    let span = section.value_span("strip_prefix").ok_or(Wrong)?;
    for (other, title) in [
        (
            "path_exact",
            "`strip_prefix` strips `path`, which is not here",
        ),
        (
            "path_regex",
            "`strip_prefix` strips `path`, which is not here",
        ),
        (
            "rewrite",
            "a route has `strip_prefix` or `rewrite`, not both",
        ),
    ] {
        if let Some(there) = section.value_span(other) {
            reader.note(
                Finding::fault(title)
                    .at(span, "this")
                    .also(there, "beside this")
                    .help("with `path_regex`, capture what is to stay: rewrite = \"/$1\""),
            );
            return Err(Wrong);
        }
    }
    let prefix = reader.read_or(section, "path", "/".to_owned(), |scalar| {
        super::address::route_path(&scalar.text)
    });
    Ok(Some(Rewrite::Strip(prefix.ok_or(Wrong)?)))
}

/// What becomes of headers; `None` if something about it is wrong.
pub(super) fn changes(
    section: &Section<'_>,
    groups: usize,
    reader: &mut Reader<'_>,
) -> Option<Changes> {
    let request = change_set(section, "request_headers", groups, reader);
    let response = change_set(section, "response_headers", groups, reader);
    Some(Changes {
        request: request?,
        response: response?,
    })
}

fn change_set(
    section: &Section<'_>,
    name: &str,
    groups: usize,
    reader: &mut Reader<'_>,
) -> Option<ChangeSet> {
    let Some((setting, value)) = section.get(name) else {
        return Some(ChangeSet::default());
    };
    let Some(table) = value.get_ref().as_table() else {
        reader.wrong_type(setting, value);
        return None;
    };
    let mut changes = Changing {
        setting,
        groups,
        is_sound: true,
        made: Vec::new(),
    };
    for (key, value) in in_order(table) {
        match key.get_ref().as_ref() {
            "remove" => changes.removed(value, reader),
            "set" => changes.values(value, HeaderChange::Set, reader),
            "add" => changes.values(value, HeaderChange::Add, reader),
            other => {
                changes.is_sound = false;
                let words = ["set", "add", "remove"];
                let help = did_you_mean(other, words);
                let help = help.unwrap_or_else(|| format!("allowed: {}", setting.allowed()));
                reader.note(
                    Finding::fault(format!("`{}` has no part {}", setting.name, quoted(other)))
                        .at(key.span(), "`set`, `add` or `remove`")
                        .help(help),
                );
            }
        }
    }
    // Removed, set, added, in whichever order that was written.
    changes.made.sort_by_key(|(_, change)| match change {
        HeaderChange::Remove => 0,
        HeaderChange::Set(_) => 1,
        HeaderChange::Add(_) => 2,
    });
    changes.is_sound.then_some(ChangeSet(changes.made))
}

/// Changes of headers while they are read.
struct Changing<'s> {
    setting: &'s Setting,
    groups: usize,
    is_sound: bool,
    made: Vec<(HeaderName, HeaderChange)>,
}

impl Changing<'_> {
    fn removed(&mut self, value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
        let Some(list) = value.get_ref().as_array() else {
            return self.wrong_part("remove", "a list of names", value, reader);
        };
        for value in list {
            let text = reader.value(self.setting, value, |scalar| {
                Ok::<_, String>(scalar.text.clone())
            });
            let name = text.and_then(|text| header(&text, value.span(), reader));
            match name {
                Some(name) if name == HOST => {
                    self.is_sound = false;
                    reader.note(
                        Finding::fault("a request has a `Host`: it cannot be removed")
                            .at(value.span(), "not this one")
                            .help("`preserve_host = false` has the backend's own address there"),
                    );
                }
                Some(name) => self.made.push((name, HeaderChange::Remove)),
                None => self.is_sound = false,
            }
        }
    }

    fn values(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        change: fn(Template) -> HeaderChange,
        reader: &mut Reader<'_>,
    ) {
        let Some(table) = value.get_ref().as_table() else {
            return self.wrong_part("set` and `add", "tables of names and values", value, reader);
        };
        self.values_of(table, change, reader);
    }

    fn values_of(
        &mut self,
        table: &DeTable<'_>,
        change: fn(Template) -> HeaderChange,
        reader: &mut Reader<'_>,
    ) {
        for (key, value) in in_order(table) {
            let name = header(key.get_ref(), key.span(), reader);
            let template = template(self.setting, value, Use::Header, self.groups, reader);
            let (Some(name), Some(template)) = (name, template) else {
                self.is_sound = false;
                continue;
            };
            let change = change(template);
            if name == HOST && !is_one_host(&change) {
                self.is_sound = false;
                reader.note(
                    Finding::fault("the `Host` is set to one name, or to what the client named")
                        .at(value.span(), "anything could come to stand here")
                        .help("set = { Host = \"app.example\" }"),
                );
            } else {
                self.made.push((name, change));
            }
        }
    }

    fn wrong_part(
        &mut self,
        part: &str,
        takes: &str,
        value: &Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) {
        self.is_sound = false;
        let found = type_noun(value.get_ref());
        reader.note(
            Finding::fault(format!("`{part}` takes {takes}, not {found}"))
                .at(value.span(), format!("this is {found}"))
                .help(format!("allowed: {}", self.setting.allowed())),
        );
    }
}

/// The name of a header that may be changed.
fn header(text: &str, span: Range<usize>, reader: &mut Reader<'_>) -> Option<HeaderName> {
    let name = name(text, span.clone(), reader)?;
    if !is_framing(&name) {
        return Some(name);
    }
    reader.note(
        Finding::fault(format!("{} is the proxy's to say", quoted(text)))
            .at(span, "it belongs to the connection or to the body")
            .help("remove it from here"),
    );
    None
}

fn is_one_host(change: &HeaderChange) -> bool {
    match change {
        HeaderChange::Set(template) => template.is_host_or_constant(),
        HeaderChange::Add(_) | HeaderChange::Remove => false,
    }
}

/// A text with variables.
fn template(
    setting: &Setting,
    value: &Spanned<DeValue<'_>>,
    used: Use,
    groups: usize,
    reader: &mut Reader<'_>,
) -> Option<Template> {
    let text = reader.value(setting, value, |scalar| {
        Ok::<_, String>(scalar.text.clone())
    })?;
    match Template::new(&text, used, groups) {
        Ok(template) => Some(template),
        Err(wrong) => {
            let near = if let BadTemplate::Unknown(name) = &wrong {
                nearest(name, Template::names()).map(|near| format!("did you mean `${near}`?"))
            } else {
                None
            };
            reader.note(
                Finding::fault(format!("`{}` cannot be {}", setting.name, quoted(&text)))
                    .at(value.span(), wrong.to_string())
                    .maybe_help(near)
                    .help(format!("allowed: {}", setting.allowed())),
            );
            None
        }
    }
}
