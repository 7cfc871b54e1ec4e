//! The tables of the file → the settings of the proxy, and what only shows when they are put
//! together: upstreams that nobody defined, routes that stand twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, TABLES, Takes};
use super::read::{Reader, Scalar, Section, did_you_mean, in_order, type_noun};
use super::report::{Finding, counted, nearest, quoted};
use super::{SHUTDOWN_TIMEOUT, address, units};
use crate::backend::{self, Forwarded, ServerSettings};
use crate::client;
use crate::keepalive::KeepAlive;
use crate::route::RouteSettings;
use crate::server::{self, ListenerSettings};

/// The longest name of an upstream: it becomes a label of every metric of its backends.
const LONGEST_NAME: usize = 64;

/// A value and the place it was read from.
struct Placed<T> {
    value: T,
    span: Range<usize>,
}

/// Reads the whole file. What could not be read is at its default, and noted.
pub(super) fn settings(root: &DeTable<'_>, reader: &mut Reader<'_>) -> server::Settings {
    unknown_tables(root, reader);
    let (workers, shutdown_timeout) = server_section(root, reader);
    let client = client_section(root, reader);
    let listeners = listeners(root, reader);
    let upstreams = upstreams(root, reader);
    let routes = routes(root, &upstreams, reader);
    server::Settings {
        workers,
        shutdown_timeout,
        client,
        listeners,
        routes,
        upstreams: upstreams
            .into_iter()
            .filter_map(|placed| placed.value.settings)
            .collect(),
    }
}

fn unknown_tables(root: &DeTable<'_>, reader: &mut Reader<'_>) {
    // The last of the tables is not one of the root's.
    let tables = &TABLES[..TABLES.len() - 1];
    for (key, value) in in_order(root) {
        let name = key.get_ref().as_ref();
        if tables.iter().any(|table| table.key == name) {
            continue;
        }
        let homes: Vec<_> = TABLES
            .iter()
            .filter(|table| table.find(name).is_some())
            .map(|table| table.header)
            .collect();
        let near = nearest(name, tables.iter().map(|table| table.key));
        let near = tables.iter().find(|table| Some(table.key) == near);
        let headers: Vec<_> = tables.iter().map(|table| table.header).collect();
        let (title, help) = if !homes.is_empty() && !value.get_ref().is_table() {
            let title = format!("{} stands in no table", quoted(name));
            (
                title,
                format!("it is a setting of {}", homes.join(" and of ")),
            )
        } else if let Some(near) = near {
            (
                format!("there is no table {}", quoted(name)),
                format!("did you mean `{}`?", near.header),
            )
        } else {
            (
                format!("there is no table {}", quoted(name)),
                format!("the tables: {}", headers.join(", ")),
            )
        };
        reader.note(
            Finding::fault(title)
                .at(key.span(), "unknown here")
                .help(help),
        );
    }
}

fn server_section(root: &DeTable<'_>, reader: &mut Reader<'_>) -> (usize, Duration) {
    let section = single(root, &keys::SERVER, reader);
    let workers = section
        .as_ref()
        .and_then(|section| number(reader, section, "workers"));
    let shutdown = section
        .as_ref()
        .and_then(|section| time(reader, section, "shutdown_timeout"));
    (workers.unwrap_or(0), shutdown.unwrap_or(SHUTDOWN_TIMEOUT))
}

fn client_section(root: &DeTable<'_>, reader: &mut Reader<'_>) -> client::Settings {
    let mut settings = client::Settings::default();
    let Some(section) = single(root, &keys::CLIENT, reader) else {
        return settings;
    };
    settings.keep_alive = keep_alive(reader, &section, KeepAlive::CLIENT);
    set(&mut settings.timeout, time(reader, &section, "timeout"));
    let limits = &mut settings.limits;
    set(
        &mut limits.request_line,
        number(reader, &section, "limit_request_line"),
    );
    set(
        &mut limits.fields,
        number(reader, &section, "limit_request_fields"),
    );
    set(
        &mut limits.field_size,
        number(reader, &section, "limit_request_field_size"),
    );
    let body = number::<u64>(reader, &section, "limit_request_body");
    set(
        &mut limits.body,
        body.map(|bytes| Some(bytes).filter(|&bytes| bytes > 0)),
    );
    settings
}

fn listeners(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Vec<ListenerSettings> {
    let mut listeners: Vec<Placed<SocketAddr>> = Vec::new();
    let sections = several(root, &keys::LISTENERS, reader);
    let none = sections.is_empty();
    for section in sections {
        let address = reader.read(&section, "address", |scalar| address::listen(&scalar.text));
        let (Some(address), Some(span)) = (address, section.value_span("address")) else {
            continue;
        };
        let first = listeners
            .iter()
            .find(|first| first.value == address && address.port() != 0);
        match first {
            Some(first) => reader.note(
                Finding::fault(format!("{address} is listened on twice"))
                    .at(span, "again here")
                    .also(first.span.clone(), "first here")
                    .help("remove one of them"),
            ),
            None => listeners.push(Placed {
                value: address,
                span,
            }),
        }
    }
    if none && is_empty(root.get(keys::LISTENERS.key)) {
        reader.note_missing(
            Finding::fault("no address to listen on")
                .help("add a listener:\n[[listeners]]\naddress = \"0.0.0.0:8080\""),
        );
    }
    let settings = |placed: Placed<SocketAddr>| ListenerSettings {
        address: placed.value,
    };
    listeners.into_iter().map(settings).collect()
}

/// An upstream that is there, even if it could not be read.
struct Upstream {
    name: String,
    settings: Option<backend::Settings>,
}

fn upstreams(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Vec<Placed<Upstream>> {
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
    let servers = servers(section, reader);
    let mut settings = backend::Settings::new(name, Vec::new());
    settings.keep_alive = keep_alive(reader, section, KeepAlive::BACKEND);
    set(
        &mut settings.connect_timeout,
        time(reader, section, "connect_timeout"),
    );
    set(&mut settings.timeout, time(reader, section, "timeout"));
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
    settings.servers = servers?;
    Some(settings)
}

fn servers(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<Vec<ServerSettings>> {
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
        let Some(server) = one_server(value, reader) else {
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
    reader: &mut Reader<'_>,
) -> Option<Placed<ServerSettings>> {
    let parse = |scalar: &Scalar| address::server(&scalar.text);
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

fn routes(
    root: &DeTable<'_>,
    upstreams: &[Placed<Upstream>],
    reader: &mut Reader<'_>,
) -> Vec<RouteSettings> {
    if is_empty(root.get(keys::ROUTES.key)) {
        let none = is_empty(root.get(keys::UPSTREAMS.key));
        return everything_to_one(upstreams, none, reader);
    }
    let mut routes: Vec<RouteSettings> = Vec::new();
    let mut seen: BTreeMap<(Option<String>, String), Range<usize>> = BTreeMap::new();
    let mut used: Vec<String> = Vec::new();
    for section in several(root, &keys::ROUTES, reader) {
        let host = reader.read_or(&section, "host", None, |scalar| {
            address::route_host(&scalar.text).map(Some)
        });
        let path = reader.read_or(&section, "path", "/".to_owned(), |scalar| {
            address::route_path(&scalar.text)
        });
        let upstream = reader.read(&section, "upstream", |s| Ok::<_, String>(s.text.clone()));
        if let (Some(name), Some(span)) = (&upstream, section.value_span("upstream")) {
            used.push(name.clone());
            check_target(name, span, upstreams, reader);
        }
        let (Some(host), Some(path)) = (host, path) else {
            continue;
        };
        let key = (host.clone(), path.clone());
        if let Some(first) = seen.get(&key) {
            let host = host.as_deref().unwrap_or("any host");
            reader.note(
                Finding::fault(format!("two routes for {host} and {path}"))
                    .at(section.span.clone(), "the same again")
                    .also(first.clone(), "the first of them")
                    .help("a request can take only one: change `host` or `path`, or remove one"),
            );
            continue;
        }
        seen.insert(key, section.span.clone());
        if let Some(upstream) = upstream {
            routes.push(RouteSettings {
                host,
                path,
                upstream,
            });
        }
    }
    warn_of_unused(upstreams, &used, reader);
    routes
}

fn warn_of_unused(upstreams: &[Placed<Upstream>], used: &[String], reader: &mut Reader<'_>) {
    for upstream in upstreams {
        let name = &upstream.value.name;
        if !used.contains(name) {
            reader.note(
                Finding::warning(format!("no route leads to [upstreams.{name}]"))
                    .at(upstream.span.clone(), "never asked")
                    .help("add a route to it, or remove it"),
            );
        }
    }
}

/// The routes of a file that has none.
fn everything_to_one(
    upstreams: &[Placed<Upstream>],
    none: bool,
    reader: &mut Reader<'_>,
) -> Vec<RouteSettings> {
    match upstreams {
        [only] => {
            return vec![RouteSettings {
                host: None,
                path: "/".to_owned(),
                upstream: only.value.name.clone(),
            }];
        }
        // What stands in their place was complained about.
        [] if !none => {}
        [] => reader.note_missing(
            Finding::fault("no upstream: there is nobody to pass requests to")
                .help("add one:\n[upstreams.app]\nservers = [\"127.0.0.1:9000\"]"),
        ),
        [first, ..] => reader.note_missing(
            Finding::fault(format!(
                "no route: which of the {} answers?",
                counted(upstreams.len(), "upstream")
            ))
            .help(format!(
                "routes may be left out only where there is one upstream; add one:\n[[routes]]\n\
                 path = \"/\"\nupstream = \"{}\"",
                first.value.name
            )),
        ),
    }
    Vec::new()
}

fn check_target(
    name: &str,
    span: Range<usize>,
    upstreams: &[Placed<Upstream>],
    reader: &mut Reader<'_>,
) {
    let names: Vec<_> = upstreams
        .iter()
        .map(|upstream| upstream.value.name.as_str())
        .collect();
    if names.contains(&name) {
        return;
    }
    let listed: Vec<_> = names.iter().map(|name| quoted(name)).collect();
    let help = did_you_mean(name, names.iter().copied()).unwrap_or_else(|| {
        if listed.is_empty() {
            format!("define it:\n[upstreams.{name}]\nservers = [\"127.0.0.1:9000\"]")
        } else {
            format!("there is {}", listed.join(", "))
        }
    });
    reader.note_missing(
        Finding::fault(format!("there is no upstream {}", quoted(name)))
            .at(span, "nobody of this name")
            .help(help),
    );
}

/// The one table of this kind, if it is there.
fn single<'t>(
    root: &'t DeTable<'t>,
    table: &'static keys::Table,
    reader: &mut Reader<'_>,
) -> Option<Section<'t>> {
    let value = root.get(table.key)?;
    if let Some(list) = value.get_ref().as_array() {
        let key = table.key;
        let first = list.iter().next();
        reader.note(
            Finding::fault(format!("there is one {}, not a list of them", table.header))
                .at(first.map_or(value.span(), Spanned::span), "this is a list")
                .help(format!("write `[{key}]`, with one bracket, and only once")),
        );
        return None;
    }
    reader.section(table, table.header.to_owned(), value)
}

/// Every table of this kind, in the order of the file.
fn several<'t>(
    root: &'t DeTable<'t>,
    table: &'static keys::Table,
    reader: &mut Reader<'_>,
) -> Vec<Section<'t>> {
    let Some(value) = root.get(table.key) else {
        return Vec::new();
    };
    match value.get_ref() {
        DeValue::Array(tables) => tables
            .iter()
            .filter_map(|value| reader.section(table, table.header.to_owned(), value))
            .collect(),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => {
            let found = type_noun(value.get_ref());
            let key = table.key;
            reader.note(
                Finding::fault(format!("`{key}` is a list of tables, not {found}"))
                    .at(value.span(), format!("this is {found}"))
                    .help(format!("write `[[{key}]]`, with two brackets, for each")),
            );
            Vec::new()
        }
    }
}

/// Whether nothing was written there, not even something wrong.
fn is_empty(value: Option<&Spanned<DeValue<'_>>>) -> bool {
    let Some(value) = value.map(Spanned::get_ref) else {
        return true;
    };
    value.as_array().is_some_and(|list| list.is_empty())
        || value.as_table().is_some_and(DeTable::is_empty)
}

/// The three settings of keeping connections, which both sides have.
fn keep_alive(reader: &mut Reader<'_>, section: &Section<'_>, default: KeepAlive) -> KeepAlive {
    let mut settings = default;
    set(&mut settings.enabled, switch(reader, section, "keep_alive"));
    let limit = number(reader, section, "max_keep_alive_requests");
    set(&mut settings.max_requests, limit.map(NonZeroU32::new));
    set(
        &mut settings.timeout,
        time(reader, section, "keep_alive_timeout"),
    );
    if settings.enabled && settings.timeout.is_zero() {
        let span = section.value_span("keep_alive_timeout");
        reader.note(
            Finding::warning(format!("{} keeps no connections", section.header))
                .at(
                    span.unwrap_or_else(|| section.span.clone()),
                    "zero keeps none",
                )
                .help("write `keep_alive = false` if that is meant"),
        );
    }
    settings
}

fn switch(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<bool> {
    reader.read(section, name, |scalar| units::switch(&scalar.text))
}

/// A number or a number of bytes, within the setting's bounds.
fn number<N: TryFrom<u64>>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
) -> Option<N> {
    let (setting, _) = section.get(name)?;
    let takes = setting.takes;
    reader.read(section, name, |scalar| {
        let number = if matches!(takes, Takes::Bytes { .. }) {
            units::bytes(&scalar.text)?
        } else {
            units::whole(&scalar.text)?
        };
        let (least, most) = takes.bounds();
        if number < least {
            return Err(units::Wrong::TooSmall(least.to_string()));
        }
        let too_large = || units::Wrong::TooLarge(most.to_string());
        if number > most {
            return Err(too_large());
        }
        N::try_from(number).map_err(|_| too_large())
    })
}

/// A duration; zero only where it means something.
fn time(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<Duration> {
    let (setting, _) = section.get(name)?;
    let takes = setting.takes;
    reader.read(section, name, |scalar| {
        let time = scalar
            .seconds()
            .unwrap_or_else(|| units::duration(&scalar.text))?;
        if time.is_zero() && takes.zero().is_none() {
            return Err(units::Wrong::Zero);
        }
        Ok(time)
    })
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
