//! What becomes of one request: the routes in the order they are tried, the one it takes, and every setting in
//! force, with the line it comes from.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Default, Setting, Table, Takes};
use super::report::line_at;
use super::units;
use crate::route::{self, Action, Asked, Facts, Router, Scheme};
use crate::server::{ListenerSettings, Settings};

/// A request to be explained.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// Why there is no such request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Not a method and a URL.
    #[error("a request is a method and a URL, such as 'GET http://shop.example/api/x', not {0:?}")]
    Line(String),
    /// Not a header.
    #[error("a header is a name and a value, such as 'X-Api: 2', not {0:?}")]
    Header(String),
}

impl Request {
    /// Reads `METHOD URL`, and headers as `Name: value`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(line: &str, headers: &[String]) -> Result<Request, BadRequest> {
        let wrong = || BadRequest::Line(line.to_owned());
        let (method, url) = line.trim().split_once(' ').ok_or_else(wrong)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong())?;
        let uri: Uri = url.trim().parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), None | Some("http" | "https"))
            || uri.scheme().is_none() && uri.authority().is_some()
        {
            return Err(wrong());
        }
        let mut map = HeaderMap::new();
        for text in headers {
            let wrong = || BadRequest::Header(text.clone());
            let (name, value) = text.split_once(':').ok_or_else(wrong)?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
            let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
            map.append(name, value);
        }
        Ok(Request {
            method,
            uri,
            headers: map,
        })
    }

    fn scheme(&self) -> Scheme {
        Scheme::of(self.uri.scheme_str() == Some("https"))
    }

    fn host(&self) -> Option<&str> {
        match self.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => self.headers.get("host").and_then(|host| host.to_str().ok()),
        }
    }

    fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(match self.scheme() {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            scheme: self.scheme(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// A table of the file, and the settings that it may have.
#[derive(Clone, Copy)]
struct Layer<'a> {
    kind: &'static Table,
    /// As it is written there.
    header: &'a str,
    table: &'a DeTable<'a>,
}

struct Explaining<'a> {
    text: &'a str,
    name: &'a str,
    root: &'a DeTable<'a>,
    out: String,
}

/// Says what becomes of `request` by a file without faults.
pub(super) fn explain(
    text: &str,
    name: &str,
    root: &DeTable<'_>,
    settings: &Settings,
    request: &Request,
) -> String {
    let mut it = Explaining {
        text,
        name,
        root,
        out: String::new(),
    };
    it.say(&format!("{} {}\n", request.method, request.uri));
    let taken = it.routes(settings, request);
    let route = taken.and_then(|taken| it.nth(&keys::ROUTES, taken));
    if let Some(taken) = taken {
        it.answer(&settings.routes[taken].route, request);
    }
    it.clients(settings, request, route);
    if let Some(route) = route {
        it.say("\nsettings of the route");
        it.own(route, |setting| {
            keys::CLIENT.find(setting.name).is_none()
                && !["backend_timeout", "retry_body"].contains(&setting.name)
        });
    }
    let upstream = taken.and_then(|taken| settings.routes[taken].route.upstream());
    if let Some(upstream) = upstream {
        it.upstream(upstream, route);
    }
    it.out
}

impl<'a> Explaining<'a> {
    fn say(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    /// Where something stands: `FILE:LINE`.
    fn place(&self, at: usize) -> String {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        format!("{}:{}", self.name, line_at(before))
    }

    /// The n-th table of a list of them.
    fn nth(&self, kind: &'static Table, n: usize) -> Option<Layer<'a>> {
        let list = self.root.get(kind.key)?.get_ref().as_array()?;
        let table = list.get(n)?.get_ref().as_table()?;
        Some(Layer {
            kind,
            header: kind.header,
            table,
        })
    }

    fn place_of_nth(&self, kind: &'static Table, n: usize) -> Option<String> {
        let list = self.root.get(kind.key)?.get_ref().as_array()?;
        Some(self.place(list.get(n)?.span().start))
    }

    /// Says which routes are tried; the number of the one that is taken.
    fn routes(&mut self, settings: &Settings, request: &Request) -> Option<usize> {
        let routes: Vec<_> = settings.routes.iter().map(|it| it.route.clone()).collect();
        let asked = request.asked();
        let tried = route::tried(&routes, request.host(), request.uri.path(), &asked);
        self.say("\nroutes in the order they are tried");
        let mut rows = Vec::new();
        for one in &tried {
            let route = &routes[one.route];
            let place = self.place_of_nth(&keys::ROUTES, one.route);
            rows.push([
                route.host.clone().unwrap_or_else(|| "any host".to_owned()),
                route.path.to_string(),
                one.why
                    .map_or("taken".to_owned(), |why| format!("no: {why}")),
                place.unwrap_or_else(|| "the file has no routes".to_owned()),
            ]);
        }
        self.table(&rows);
        let hosts = routes.len() - tried.len();
        let taken = tried.iter().find(|one| one.why.is_none());
        if taken.is_none() {
            if hosts > 0 {
                self.say(&format!("  the other {hosts} are for other hosts"));
            }
            self.say("\nanswer\n  404: no route is for it");
        }
        taken.map(|taken| taken.route)
    }

    /// Says what the route does.
    fn answer(&mut self, route: &route::RouteSettings, request: &Request) {
        let groups = route.path.groups(request.uri.path());
        let facts = Facts {
            host: request.host(),
            client: &HeaderValue::from_static("CLIENT"),
            scheme: request.scheme(),
            method: &request.method,
            uri: &request.uri,
            headers: &request.headers,
            groups: &groups,
            id: 0,
        };
        self.say("\nanswer");
        match &route.action {
            Action::Upstream(name) => {
                let uri = route.rewrite.as_ref().map(|it| it.apply(&facts));
                let target = match uri {
                    Some(None) => {
                        self.say("  400: the path cannot be rewritten");
                        return;
                    }
                    Some(Some(uri)) => uri,
                    None => request.uri.clone(),
                };
                let target = target.path_and_query().map_or("/", |it| it.as_str());
                self.say(&format!(
                    "  upstream {name} is asked: {} {target}",
                    request.method
                ));
            }
            Action::Redirect(redirect) => {
                let to = redirect.to.fill_location(&facts);
                let to = String::from_utf8_lossy(&to).into_owned();
                self.say(&format!("  {} to {to}", redirect.status.as_u16()));
            }
            Action::Respond(respond) => {
                let length = respond.body(&facts).len();
                let status = respond.status.as_u16();
                self.say(&format!("  {status} with a body of {length} bytes"));
            }
        }
    }

    /// Says how the client is served.
    fn clients(&mut self, settings: &Settings, request: &Request, route: Option<Layer<'a>>) {
        let is_tls = request.scheme() == Scheme::Https;
        let fits = |listener: &&ListenerSettings| listener.tls.is_some() == is_tls;
        let all = || settings.listeners.iter().enumerate();
        let listener = all()
            .find(|(_, it)| fits(it) && it.address.port() == request.port())
            .or_else(|| all().find(|(_, it)| fits(it)));
        let names = settings
            .hosts
            .iter()
            .enumerate()
            .flat_map(|(number, host)| {
                let names = host.names.iter();
                names.map(move |name| (Some(name.as_str()), "/", number))
            });
        let host = Router::new(names).find(request.host(), "/").copied();
        match listener {
            Some((_, listener)) => {
                self.say(&format!(
                    "\nsettings towards the client, at {}",
                    listener.address
                ));
            }
            None => self.say(&format!(
                "\nsettings towards the client; no listener speaks {}",
                request.scheme().as_str()
            )),
        }
        let client = self.root.get(keys::CLIENT.key);
        let client = client.and_then(|table| table.get_ref().as_table());
        let layers = [
            route,
            host.and_then(|host| self.nth(&keys::HOSTS, host)),
            listener.and_then(|(number, _)| self.nth(&keys::LISTENERS, number)),
            client.map(|table| Layer {
                kind: &keys::CLIENT,
                header: keys::CLIENT.header,
                table,
            }),
        ];
        let mut rows = Vec::new();
        for setting in keys::CLIENT.settings {
            rows.push(self.row(setting, layers.into_iter().flatten()));
        }
        self.table(&rows);
    }

    /// Says how the upstream is asked.
    fn upstream(&mut self, name: &str, route: Option<Layer<'a>>) {
        self.say(&format!("\nsettings of the upstream {name}"));
        let upstreams = self.root.get(keys::UPSTREAMS.key);
        let table = upstreams
            .and_then(|table| table.get_ref().as_table()?.get(name))
            .and_then(|one| one.get_ref().as_table());
        let header = format!("[upstreams.{name}]");
        let own = table.map(|table| Layer {
            kind: &keys::UPSTREAMS,
            header: &header,
            table,
        });
        let mut rows = Vec::new();
        for setting in keys::UPSTREAMS.settings {
            let on_route = match setting.name {
                "timeout" => Some("backend_timeout"),
                "retry_body" => Some("retry_body"),
                _ => None,
            };
            let over = on_route.and_then(|name| {
                let (value, at) = self.written(route?, name)?;
                Some([
                    setting.name.to_owned(),
                    value,
                    format!("{} [[routes]]", self.place(at)),
                ])
            });
            rows.push(over.unwrap_or_else(|| self.row(setting, own.into_iter())));
        }
        self.table(&rows);
    }

    /// Says those settings of one table that are wanted and stand there.
    fn own(&mut self, layer: Layer<'a>, wanted: impl Fn(&Setting) -> bool) {
        let mut rows = Vec::new();
        for setting in layer.kind.settings.iter().filter(|setting| wanted(setting)) {
            let is_there = self.written(layer, setting.name).is_some();
            // What is left out there says nothing of its own, but for its default.
            if is_there || matches!(setting.default, Default::Is(_)) && setting.name == "path" {
                rows.push(self.row(setting, std::iter::once(layer)));
            }
        }
        self.table(&rows);
    }

    /// A setting as the first of the layers has it that says something of it.
    fn row<'l>(&self, setting: &Setting, layers: impl Iterator<Item = Layer<'l>>) -> [String; 3] {
        for layer in layers {
            let here = layer.kind.find(setting.name);
            if let Some(here) = here
                && let Some((value, at)) = self.written(layer, setting.name)
                && !inherits(here, &value)
            {
                let place = format!("{} {}", self.place(at), layer.header);
                return [setting.name.to_owned(), value, place];
            }
        }
        let value = match setting.default {
            Default::Is(text) => text.to_owned(),
            Default::None(what) => format!("({what})"),
            Default::Required => "(missing)".to_owned(),
        };
        [setting.name.to_owned(), value, "default".to_owned()]
    }

    /// What stands there of a setting, as it is written, and where.
    fn written(&self, layer: Layer<'_>, name: &str) -> Option<(String, usize)> {
        let setting = layer.kind.find(name)?;
        let mut entries = layer.table.iter();
        let (key, value) = entries.find(|(key, _)| setting.is_called(key.get_ref()))?;
        Some((self.source(value), key.span().start))
    }

    fn source(&self, value: &Spanned<DeValue<'_>>) -> String {
        let source = self.text.get(value.span()).unwrap_or_default();
        source.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Rows with their columns below each other.
    fn table<const N: usize>(&mut self, rows: &[[String; N]]) {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            // One long list is no reason to move all the rest aside.
            widths.filter(|&width| width <= 40).max().unwrap_or(0)
        });
        for row in rows {
            let mut line = String::from(" ");
            for (cell, width) in row.iter().zip(widths) {
                write!(line, " {cell:width$} ").expect("a string takes any text");
            }
            self.say(&line);
        }
    }
}

/// Whether a value says that it is as elsewhere: 0 for some times and -1 for limits, as in Apache httpd.
fn inherits(setting: &Setting, value: &str) -> bool {
    let bare = value.trim_matches(['"', '\'']);
    if let Takes::Limit { .. } = setting.takes {
        return bare == "-1";
    }
    let zero = Takes::Time {
        zero: Some("inherits"),
    };
    setting.takes == zero && units::duration(bare).is_ok_and(|time| time.is_zero())
}
