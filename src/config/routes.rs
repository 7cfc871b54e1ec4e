//! `[[routes]]` → which requests go where.

use std::ops::Range;

use toml::de::DeTable;

use super::actions;
use super::client;
use super::conditions;
use super::file::{Placed, is_empty, several};
use super::read::{Reader, Section, did_you_mean};
use super::report::{Finding, counted, quoted};
use super::upstreams::Upstream;
use super::values::{number, time};
use super::{address, keys};
use crate::proxy::Otherwise;
use crate::route::RouteSettings as Route;
use crate::server::RouteSettings;

/// Reads every route, and sees that each leads somewhere, and to each upstream one.
pub(super) fn routes(
    root: &DeTable<'_>,
    upstreams: &[Placed<Upstream>],
    reader: &mut Reader<'_>,
) -> Vec<RouteSettings> {
    if is_empty(root.get(keys::ROUTES.key)) {
        let none = is_empty(root.get(keys::UPSTREAMS.key));
        return everything_to_one(upstreams, none, reader);
    }
    let mut routes: Vec<Placed<RouteSettings>> = Vec::new();
    let mut used: Vec<String> = Vec::new();
    for section in several(root, &keys::ROUTES, reader) {
        if let Some(span) = section.value_span("upstream")
            && let Some(name) =
                reader.read(&section, "upstream", |s| Ok::<_, String>(s.text.clone()))
        {
            used.push(name.clone());
            check_target(&name, span, upstreams, reader);
        }
        let Some(value) = route(&section, reader) else {
            continue;
        };
        let is_same = |old: &&Placed<RouteSettings>| {
            let (old, new) = (&old.value.route, &value.route);
            old.host == new.host && old.path == new.path && old.conditions == new.conditions
        };
        if let Some(first) = routes.iter().find(is_same) {
            reader.note(again(&value.route, &section, first.span.clone()));
            continue;
        }
        let span = section.span.clone();
        routes.push(Placed { value, span });
    }
    warn_of_unused(upstreams, &used, reader);
    routes.into_iter().map(|placed| placed.value).collect()
}

/// One route; `None` if something about it is wrong.
fn route(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<RouteSettings> {
    let host = reader.read_or(section, "host", None, |scalar| {
        address::route_host(&scalar.text).map(Some)
    });
    let path = conditions::path(section, reader);
    let conditions = conditions::conditions(section, reader);
    // Where the pattern is wrong its groups are not known, and not complained about.
    let groups = path.as_ref().map_or(9, actions::groups);
    let action = actions::action(section, groups, reader);
    let rewrite = actions::rewrite(section, groups, reader);
    let changes = actions::changes(section, groups, reader);
    let otherwise = Otherwise {
        client: client::overrides(reader, section),
        backend_timeout: time(reader, section, "backend_timeout"),
        retry_body: number(reader, section, "retry_body"),
    };
    let route = Route {
        host: host?,
        path: path?,
        conditions: conditions?,
        action: action?,
        rewrite: rewrite.ok()?,
        changes: changes?,
    };
    Some(RouteSettings { route, otherwise })
}

/// The same route again.
fn again(route: &Route, section: &Section<'_>, first: Range<usize>) -> Finding {
    let host = route.host.as_deref().unwrap_or("any host");
    let also = if route.conditions.is_empty() {
        ""
    } else {
        ", with the same conditions"
    };
    Finding::fault(format!("two routes for {host} and {}{also}", route.path))
        .at(section.span.clone(), "the same again")
        .also(first, "the first of them")
        .help("a request can take only one: change `host` or `path`, or remove one")
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
            return vec![Route::to("/", &only.value.name).into()];
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
