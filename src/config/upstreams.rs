//! `[upstreams.NAME]` → the upstreams and their servers.

use std::num::NonZeroU32;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::Placed;
use super::read::{Reader, Section, in_order, type_noun};
use super::report::{Finding, quoted};
use super::transport::transport;
use super::values::{Scalar, keep_alive, number, set, set_time_or_off, switch, time};
use super::{address, closing, keys, sockets, split};
use crate::backend::{self, Forwarded, ServerSettings};
use crate::keepalive::KeepAlive;
use crate::lookup;
use crate::pool;

/// The longest name of an upstream: it becomes a label of every metric of its backends.
const LONGEST_NAME: usize = 64;

/// An upstream that is there, even if it could not be read.
pub(super) struct Upstream {
    pub(super) name: String,
    pub(super) settings: Option<backend::Settings>,
}

/// Reads every upstream, in the order of the file.
pub(super) fn upstreams(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Vec<Placed<Upstream>> {
    let Some(value) = root.get(keys::UPSTREAMS.key) else {
        return Vec::new();
    };
    let Some(tables) = value.get_ref().as_table() else {
        let found = type_noun(value.get_ref());
        reader.note(
            Finding::fault(format!("`upstreams` holds tables with names, not {found}"))
                .at(value.span(), format!("this is {found}"))
                .help("an upstream:\n[upstreams.app]\nservers = [\"127.0.0.1:9000\"]"),
        );
        return Vec::new();
    };
    let mut upstreams = Vec::new();
    for (key, value) in in_order(tables) {
        let name = key.get_ref().as_ref();
        if keys::UPSTREAMS.find(name).is_some() && !value.get_ref().is_table() {
            reader.note(
                Finding::fault(format!("{} is a setting of one upstream", quoted(name)))
                    .at(key.span(), "whose?")
                    .help("an upstream has a name: `[upstreams.app]`"),
            );
            continue;
        }
        check_name(name, key.span(), reader);
        let settings = reader
            .section(&keys::UPSTREAMS, format!("[upstreams.{name}]"), value)
            .and_then(|section| upstream(name, &section, reader));
        let name = name.to_owned();
        let span = key.span();
        upstreams.push(Placed {
            value: Upstream { name, settings },
            span,
        });
    }
    upstreams
}

fn check_name(name: &str, span: Range<usize>, reader: &mut Reader<'_>) {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(letter) {
        reader.note(
            Finding::fault(format!("an upstream cannot be called {}", quoted(name)))
                .at(span, "not a name")
                .help(format!(
                    "allowed: letters, digits, `-`, `_` and `.`, at most {LONGEST_NAME} of them; \
                     the name is a label in the metrics"
                )),
        );
    }
}

fn upstream(
    name: &str,
    section: &Section<'_>,
    reader: &mut Reader<'_>,
) -> Option<backend::Settings> {
    let tls = section.get("tls").is_some_and(|(_, value)| {
        // Read with all faults further down; here it only says which port a server has.
        let scalar = value.get_ref();
        scalar.as_bool().unwrap_or(true)
    });
    let servers = servers(section, tls, reader);
    let mut settings = backend::Settings::new(name, Vec::new());
    settings.pool.keep_alive = keep_alive(reader, section, KeepAlive::BACKEND);
    limits(&mut settings.pool, section, reader);
    settings.closing = closing::closing(section, reader);
    settings.resolve = resolve(section, reader);
    settings.source_addresses = sockets::addresses(section, reader);
    set(
        &mut settings.snat_ports,
        number(reader, section, "snat_ports"),
    );
    settings.sockets = sockets::options(section, reader);
    transport(&mut settings, section, reader);
    set(
        &mut settings.connect_timeout,
        time(reader, section, "connect_timeout"),
    );
    set(&mut settings.timeout, time(reader, section, "timeout"));
    set(
        &mut settings.retry_body,
        number(reader, section, "retry_body"),
    );
    set_time_or_off(&mut settings.probe_idle, reader, section, "probe_idle");
    set(
        &mut settings.preserve_host,
        switch(reader, section, "preserve_host"),
    );
    let forwarded = reader.read(section, "forwarded", |scalar| match scalar.text.as_str() {
        "x-forwarded" => Ok(Forwarded::XForwarded),
        "forwarded" => Ok(Forwarded::Rfc7239),
        "both" => Ok(Forwarded::Both),
        "off" => Ok(Forwarded::Off),
        _ => Err("unknown word"),
    });
    set(&mut settings.forwarded, forwarded);
    settings.split = split::split(&settings, section, reader);
    settings.servers = servers?;
    Some(settings)
}

/// When names are looked up again.
fn resolve(section: &Section<'_>, reader: &mut Reader<'_>) -> lookup::Settings {
    let mut resolve = lookup::Settings::default();
    let again = reader.read(section, "resolve", |scalar| match scalar.text.as_str() {
        "ttl" => Ok(true),
        "off" => Ok(false),
        _ => Err("unknown word"),
    });
    set(&mut resolve.again, again);
    set(&mut resolve.least, time(reader, section, "resolve_min"));
    set(&mut resolve.most, time(reader, section, "resolve_max"));
    if resolve.least > resolve.most {
        let span = section
            .value_span("resolve_min")
            .or_else(|| section.value_span("resolve_max"));
        reader.note(
            Finding::fault(format!(
                "`resolve_min` of {} is more than its `resolve_max`",
                section.header
            ))
            .at(
                span.unwrap_or_else(|| section.span.clone()),
                format!("{:?} and {:?}", resolve.least, resolve.most),
            )
            .help("raise `resolve_max`, or lower `resolve_min`"),
        );
    }
    resolve
}

fn limits(pool: &mut pool::Settings, section: &Section<'_>, reader: &mut Reader<'_>) {
    for (limit, name) in [
        (&mut pool.max_connections, "max_connections"),
        (&mut pool.max_idle, "max_idle"),
        (&mut pool.max_connecting, "max_connecting"),
        (&mut pool.max_connects_per_second, "max_connects_per_second"),
    ] {
        set(limit, number(reader, section, name).map(NonZeroU32::new));
    }
    set(&mut pool.min_idle, number(reader, section, "min_idle"));
    set(
        &mut pool.max_waiting,
        number(reader, section, "max_waiting"),
    );
    let age = time(reader, section, "max_age");
    set(
        &mut pool.max_age,
        age.map(|age| (!age.is_zero()).then_some(age)),
    );
    for (value, name) in [
        (&mut pool.acquire_timeout, "acquire_timeout"),
        (&mut pool.safe_idle, "safe_idle"),
        (&mut pool.hint_margin, "hint_margin"),
    ] {
        set(value, time(reader, section, name));
    }
    for (value, name) in [
        (&mut pool.heed_hints, "backend_hints"),
        (&mut pool.learn_idle_timeout, "learn_idle_timeout"),
    ] {
        set(value, switch(reader, section, name));
    }
    let too_few = |most: Option<NonZeroU32>| most.is_some_and(|most| most.get() < pool.min_idle);
    for (name, most) in [
        ("max_connections", pool.max_connections),
        ("max_idle", pool.max_idle),
    ] {
        if too_few(most) {
            let span = section.value_span("min_idle");
            reader.note(
                Finding::fault(format!(
                    "`min_idle` of {} is more than its `{name}`",
                    section.header
                ))
                .at(
                    span.unwrap_or_else(|| section.span.clone()),
                    format!("`{name}` is {}", most.map_or(0, u32::from)),
                )
                .help(format!("raise `{name}`, or lower `min_idle`")),
            );
        }
    }
}

fn servers(
    section: &Section<'_>,
    tls: bool,
    reader: &mut Reader<'_>,
) -> Option<Vec<ServerSettings>> {
    let (setting, value) = section.get("servers")?;
    let Some(list) = value.get_ref().as_array() else {
        reader.wrong_type(setting, value);
        return None;
    };
    if list.is_empty() {
        reader.note(
            Finding::fault(format!("{} has no server", section.header))
                .at(value.span(), "at least one is needed")
                .help(format!("allowed: {}", setting.allowed())),
        );
    }
    let mut servers: Vec<Placed<ServerSettings>> = Vec::new();
    let mut sound = true;
    for value in list {
        let Some(server) = one_server(value, tls, reader) else {
            sound = false;
            continue;
        };
        let first = servers.iter().find(|first| {
            let (one, other) = (&first.value.address, &server.value.address);
            one.eq_ignore_ascii_case(other)
        });
        match first {
            Some(first) => reader.note(
                Finding::fault(format!(
                    "{} is twice among the servers of {}",
                    server.value.address, section.header
                ))
                .at(server.span, "again here")
                .also(first.span.clone(), "first here")
                .help(format!(
                    "for twice the share write {{ address = \"{}\", weight = 2 }}",
                    server.value.address
                )),
            ),
            None => servers.push(server),
        }
    }
    if sound && !servers.is_empty() && servers.iter().all(|server| server.value.weight == 0) {
        reader.note(
            Finding::fault(format!("every server of {} has weight 0", section.header))
                .at(value.span(), "no request can go anywhere")
                .help("give at least one of them a weight of 1 or more"),
        );
    }
    sound.then(|| servers.into_iter().map(|server| server.value).collect())
}

fn one_server(
    value: &Spanned<DeValue<'_>>,
    tls: bool,
    reader: &mut Reader<'_>,
) -> Option<Placed<ServerSettings>> {
    let parse = |scalar: &Scalar| address::server(&scalar.text, tls);
    if !value.get_ref().is_table() {
        let setting = keys::SERVERS
            .find("address")
            .expect("a server has an address");
        let address = reader.value(setting, value, parse)?;
        return Some(Placed {
            value: ServerSettings::new(address),
            span: value.span(),
        });
    }
    let section = reader.section(&keys::SERVERS, "a server".to_owned(), value)?;
    let weight = number(reader, &section, "weight");
    let address = reader.read(&section, "address", parse)?;
    let mut server = ServerSettings::new(address);
    set(&mut server.weight, weight);
    Some(Placed {
        value: server,
        span: section
            .value_span("address")
            .unwrap_or_else(|| value.span()),
    })
}
