//! `[[routes]]` → which requests go to which upstream.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::DeTable;

use super::file::{Placed, is_empty, several};
use super::read::{Reader, did_you_mean};
use super::report::{Finding, counted, quoted};
use super::upstreams::Upstream;
use super::{address, keys};
use crate::route::RouteSettings;

/// Reads every route, and sees that each leads to an upstream, and to each upstream one.
pub(super) fn routes(
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
