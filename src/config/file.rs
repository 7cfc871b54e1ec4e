//! The tables of the file → the settings of the proxy.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, TABLES};
use super::read::{Reader, Section, in_order, type_noun};
use super::report::{Finding, nearest, quoted};
use super::values::{list, number, time};
use super::{SHUTDOWN_TIMEOUT, access_log, address, admin, client, doors, routes, upstreams};
use crate::server::{self, ListenerSettings};

/// A value and the place it was read from.
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// Reads the whole file. What could not be read is at its default, and noted.
pub(super) fn settings(root: &DeTable<'_>, reader: &mut Reader<'_>) -> server::Settings {
    unknown_tables(root, reader);
    let (workers, shutdown_timeout, resolver) = server_section(root, reader);
    let admin = admin::admin(root, reader);
    let access_log = access_log::access_log(root, reader);
    let (client, max_clients) = client::client(root, reader);
    let certificates = doors::certificates(root, reader);
    let has_certificates = !is_empty(root.get(keys::CERTIFICATES.key));
    let listeners = listeners(root, has_certificates, reader);
    let hosts = client::hosts(root, reader);
    let upstreams = upstreams::upstreams(root, reader);
    let routes = routes::routes(root, &upstreams, reader);
    server::Settings {
        workers,
        shutdown_timeout,
        resolver,
        client,
        max_clients,
        admin,
        access_log,
        certificates,
        listeners,
        hosts,
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

fn server_section(
    root: &DeTable<'_>,
    reader: &mut Reader<'_>,
) -> (usize, Duration, Vec<SocketAddr>) {
    let section = single(root, &keys::SERVER, reader);
    let workers = section
        .as_ref()
        .and_then(|section| number(reader, section, "workers"));
    let shutdown = section
        .as_ref()
        .and_then(|section| time(reader, section, "shutdown_timeout"));
    let resolver = section
        .as_ref()
        .map(|section| list(reader, section, "resolver", address::name_server));
    (
        workers.unwrap_or(0),
        shutdown.unwrap_or(SHUTDOWN_TIMEOUT),
        resolver.unwrap_or_default(),
    )
}

fn listeners(
    root: &DeTable<'_>,
    has_certificates: bool,
    reader: &mut Reader<'_>,
) -> Vec<ListenerSettings> {
    let mut listeners: Vec<Placed<ListenerSettings>> = Vec::new();
    let sections = several(root, &keys::LISTENERS, reader);
    let none = sections.is_empty();
    for section in sections {
        let address = reader.read(&section, "address", |scalar| address::listen(&scalar.text));
        let client = client::of_listener(reader, &section);
        let tls = doors::tls(reader, &section, has_certificates);
        let (Some(address), Some(span)) = (address, section.value_span("address")) else {
            continue;
        };
        let first = listeners
            .iter()
            .find(|first| first.value.address == address && address.port() != 0);
        match first {
            Some(first) => reader.note(
                Finding::fault(format!("{address} is listened on twice"))
                    .at(span, "again here")
                    .also(first.span.clone(), "first here")
                    .help("remove one of them"),
            ),
            None => listeners.push(Placed {
                value: ListenerSettings {
                    address,
                    client,
                    tls,
                },
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
    listeners.into_iter().map(|placed| placed.value).collect()
}

/// The one table of this kind, if it is there.
pub(super) fn single<'t>(
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
pub(super) fn several<'t>(
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
pub(super) fn is_empty(value: Option<&Spanned<DeValue<'_>>>) -> bool {
    let Some(value) = value.map(Spanned::get_ref) else {
        return true;
    };
    value.as_array().is_some_and(|list| list.is_empty())
        || value.as_table().is_some_and(DeTable::is_empty)
}
