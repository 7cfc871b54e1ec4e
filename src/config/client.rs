//! `[client]`, and what `[[listeners]]` and `[[hosts]]` ask for otherwise.

use std::num::NonZeroU32;
use std::ops::Range;

use http::HeaderName;
use toml::de::DeTable;

use super::file::{is_empty, several, single};
use super::read::{Reader, Section};
use super::report::{Finding, quoted};
use super::values::{given_list, keep_alive, list, number, switch, time, whole_or_inherit};
use super::{address, keys, read_timeout};
use crate::client::{HostSettings, Overrides, Settings};
use crate::keepalive::KeepAlive;
use crate::net::Networks;

/// How clients are served, and how many there may be.
pub(super) fn client(
    root: &DeTable<'_>,
    reader: &mut Reader<'_>,
) -> (Settings, Option<NonZeroU32>) {
    let Some(section) = single(root, &keys::CLIENT, reader) else {
        return (Settings::default(), None);
    };
    let keep_alive = keep_alive(reader, &section, KeepAlive::CLIENT);
    let mut overrides = common(reader, &section);
    limits_of_head(reader, &section, &mut overrides);
    proxies_in_front(reader, &section, &mut overrides);
    http2(reader, &section, &mut overrides);
    let subject_header = header(reader, &section, "tls_subject_header");
    let settings = Settings {
        keep_alive,
        subject_header,
        ..overrides.over(&Settings::default())
    };
    let most = number(reader, &section, "max_connections");
    (settings, most.and_then(NonZeroU32::new))
}

/// What is asked for otherwise on a listener.
pub(super) fn of_listener(reader: &mut Reader<'_>, section: &Section<'_>) -> Overrides {
    let mut overrides = overrides(reader, section);
    limits_of_head(reader, section, &mut overrides);
    proxies_in_front(reader, section, &mut overrides);
    http2(reader, section, &mut overrides);
    overrides
}

fn http2(reader: &mut Reader<'_>, section: &Section<'_>, overrides: &mut Overrides) {
    overrides.http2 = switch(reader, section, "http2");
    overrides.http2_max_streams = number(reader, section, "http2_max_streams");
    overrides.http2_max_header_list = number(reader, section, "http2_max_header_list");
}

/// What is asked for otherwise on a listener, for a host or on a route.
pub(super) fn overrides(reader: &mut Reader<'_>, section: &Section<'_>) -> Overrides {
    let limit = whole_or_inherit(reader, section, "max_keep_alive_requests");
    let idle = time(reader, section, "keep_alive_timeout");
    Overrides {
        keep_alive: switch(reader, section, "keep_alive"),
        max_keep_alive_requests: limit.map(NonZeroU32::new),
        keep_alive_timeout: idle.filter(|time| !time.is_zero()),
        ..common(reader, section)
    }
}

/// What is read in the same way wherever it stands.
fn common(reader: &mut Reader<'_>, section: &Section<'_>) -> Overrides {
    let read_timeout = reader.read(section, "request_read_timeout", |scalar| {
        read_timeout::parse(&scalar.text)
    });
    let body = number(reader, section, "limit_request_body");
    Overrides {
        timeout: time(reader, section, "timeout"),
        read_timeout,
        body: body.map(|most: u64| Some(most).filter(|&most| most > 0)),
        abort_on_close: switch(reader, section, "abort_on_close"),
        ..Overrides::default()
    }
}

/// What a request's line and header lines may measure: no host is known yet where that counts.
fn limits_of_head(reader: &mut Reader<'_>, section: &Section<'_>, overrides: &mut Overrides) {
    overrides.request_line = number(reader, section, "limit_request_line");
    let fields = number(reader, section, "limit_request_fields");
    overrides.fields = fields.map(|most: usize| Some(most).filter(|&most| most > 0));
    overrides.field_size = number(reader, section, "limit_request_field_size");
}

/// Who introduces clients, and who is believed about them: known before any host is.
fn proxies_in_front(reader: &mut Reader<'_>, section: &Section<'_>, overrides: &mut Overrides) {
    let introducing = given_list(reader, section, "proxy_protocol", address::network);
    overrides.introduced_by = introducing.map(Networks::new);
    let trusted = given_list(reader, section, "trusted_proxies", address::network);
    overrides.trusted_proxies = trusted.map(Networks::new);
    overrides.trusted_header = header(reader, section, "trusted_header");
}

/// The name of a header.
fn header(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<HeaderName> {
    reader.read(section, name, |scalar| {
        HeaderName::from_bytes(scalar.text.as_bytes()).map_err(|_| "no name that a header can have")
    })
}

/// The virtual hosts.
pub(super) fn hosts(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Vec<HostSettings> {
    let mut hosts = Vec::new();
    let mut seen: Vec<(String, Range<usize>)> = Vec::new();
    for section in several(root, &keys::HOSTS, reader) {
        let names = list(reader, &section, "names", address::route_host);
        let span = section.value_span("names");
        let span = span.unwrap_or_else(|| section.span.clone());
        if section
            .get("names")
            .is_some_and(|(_, value)| is_empty(Some(value)))
        {
            reader.note(
                Finding::fault("a virtual host has no names")
                    .at(span.clone(), "for which requests?")
                    .help("say which: names = [\"shop.example\"]"),
            );
        }
        for name in &names {
            if let Some((_, first)) = seen.iter().find(|(known, _)| known == name) {
                reader.note(
                    Finding::fault(format!("{} stands in two virtual hosts", quoted(name)))
                        .at(span.clone(), "again here")
                        .also(first.clone(), "first here")
                        .help("a request has only one: remove it from one of them"),
                );
            }
        }
        seen.extend(names.iter().map(|name| (name.clone(), span.clone())));
        hosts.push(HostSettings {
            client: overrides(reader, &section),
            names,
        });
    }
    hosts
}
