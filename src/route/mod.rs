//! A request's host, path and what else it says → the route it takes. The most specific route wins.
//!
//! The order is the same as that in which a person would be asked: the scheme, if it matters; hosts, exact ones before wildcards;
//! within a host exact paths, then regular expressions in the order of the file, then prefixes, the longest
//! first; of two for the same path the one that asks for more.

mod action;
mod explain;
mod matching;
mod template;

use std::cmp::Reverse;
use std::collections::HashMap;

pub use action::{
    Action, ChangeSet, Changed, Changes, HeaderChange, Redirect, Respond, Rewrite, is_framing,
};
pub use explain::{Tried, tried};
pub use matching::{Asked, BadPattern, Conditions, PathMatch, Pattern, Scheme, Unmet, ValueMatch};
pub use template::{BadTemplate, Facts, Template, Use};

use matching::is_below;

/// A route as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The host it is for: exact (`shop.example`), or every name below one (`*.shop.example`).
    /// `None` is any host. Without a port; compared without regard to case.
    pub host: Option<String>,
    /// The paths it is for.
    pub path: PathMatch,
    /// What else it asks of a request.
    pub conditions: Conditions,
    /// Who answers.
    pub action: Action,
    /// What becomes of the path on its way to the backend; `None`: it stays as it is.
    pub rewrite: Option<Rewrite>,
    /// What becomes of headers.
    pub changes: Changes,
}

impl RouteSettings {
    /// A route for everything below `path` at any host, to the upstream of this name.
    pub fn to(path: &str, upstream: &str) -> RouteSettings {
        RouteSettings {
            host: None,
            path: PathMatch::Prefix(path.to_owned()),
            conditions: Conditions::default(),
            action: Action::Upstream(upstream.to_owned()),
            rewrite: None,
            changes: Changes::default(),
        }
    }

    /// The name of the upstream that answers, if one does.
    pub fn upstream(&self) -> Option<&str> {
        match &self.action {
            Action::Upstream(name) => Some(name),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}

/// All routes, in the order they are tried in.
///
/// Those that ask for a scheme come before those that do not. Then an exact host comes before a wildcard, a longer
/// wildcard before a shorter one, any host last. Within a host exact paths come first, then regular expressions in
/// the order they were given in, then prefixes, the longest first; among equals those with more conditions come
/// first, and then those that were given first. A host that is known but has no route for the request falls back
/// to the less specific ones.
///
/// Source: nginx, whose servers are found by where they listen, then by `server_name`, then by `location`, without
/// `^~`.
#[derive(Clone, Debug)]
pub struct Router<T> {
    /// Those that ask for a scheme, if any do.
    schemed: Option<Box<Hosts<T>>>,
    hosts: Hosts<T>,
}

/// Routes by their hosts.
#[derive(Clone, Debug)]
struct Hosts<T> {
    exact: HashMap<Box<str>, Paths<T>>,
    /// Suffixes with their leading dot, the longest first.
    wildcards: Vec<(Box<str>, Paths<T>)>,
    any: Paths<T>,
}

/// In the order they are tried in.
type Paths<T> = Vec<Candidate<T>>;

/// One route of a host.
#[derive(Clone, Debug)]
struct Candidate<T> {
    prefix: Box<str>,
    /// Where the prefix is not all that counts: it does not count then.
    more: Option<Box<More>>,
    target: T,
}

/// What a route goes by that is not for a prefix alone.
#[derive(Clone, Debug)]
struct More {
    path: PathMatch,
    conditions: Conditions,
}

impl<T> Default for Router<T> {
    /// No routes.
    fn default() -> Router<T> {
        Router {
            schemed: None,
            hosts: Hosts::default(),
        }
    }
}

impl<T> Router<T> {
    /// Makes a router of `(host, path prefix, target)`.
    pub fn new<'a>(routes: impl IntoIterator<Item = (Option<&'a str>, &'a str, T)>) -> Router<T> {
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        let routes = routes.into_iter();
        Router::of(
            routes.map(|(host, path, target)| (host, prefix(path), Conditions::default(), target)),
        )
    }

    /// Makes a router of `(host, path, conditions, target)`.
    pub fn of<'a>(
        routes: impl IntoIterator<Item = (Option<&'a str>, PathMatch, Conditions, T)>,
    ) -> Router<T> {
        let mut made = Router::default();
        for (host, path, conditions, target) in routes {
            let host = host.map(str::to_ascii_lowercase);
            let hosts = match conditions.scheme {
                None => &mut made.hosts,
                Some(_) => made.schemed.get_or_insert_default(),
            };
            hosts
                .paths(host.as_deref())
                .push(Candidate::new(path, conditions, target));
        }
        made.hosts.sort();
        if let Some(schemed) = &mut made.schemed {
            schemed.sort();
        }
        made
    }

    /// The target of the most specific route for `host` (which may end with a port) and `path`, of those that
    /// ask for nothing else.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<&T> {
        self.hosts.find(host, path, None)
    }

    /// The same, of all routes whose conditions are met by what is `asked`.
    pub fn find_for(&self, host: Option<&str>, path: &str, asked: &Asked<'_>) -> Option<&T> {
        if let Some(schemed) = &self.schemed {
            let found = schemed.find(host, path, Some(asked));
            if found.is_some() {
                return found;
            }
        }
        self.hosts.find(host, path, Some(asked))
    }

    /// Every target that may be that of a request to `host`, in the order they are tried in.
    pub fn in_order(&self, host: Option<&str>) -> Vec<&T> {
        let mut all = Vec::new();
        if let Some(schemed) = &self.schemed {
            schemed.add_in_order(host, &mut all);
        }
        self.hosts.add_in_order(host, &mut all);
        all.into_iter().map(|one| &one.target).collect()
    }
}

impl<T> Default for Hosts<T> {
    fn default() -> Hosts<T> {
        Hosts {
            exact: HashMap::new(),
            wildcards: Vec::new(),
            any: Vec::new(),
        }
    }
}

impl<T> Hosts<T> {
    /// The routes of a host, which is in lower case.
    fn paths(&mut self, host: Option<&str>) -> &mut Paths<T> {
        let Some(host) = host else {
            return &mut self.any;
        };
        let Some(suffix) = host.strip_prefix('*') else {
            return self.exact.entry(host.into()).or_default();
        };
        let mut wildcards = self.wildcards.iter();
        let at = wildcards.position(|(known, _)| **known == *suffix);
        let at = at.unwrap_or_else(|| {
            self.wildcards.push((suffix.into(), Vec::new()));
            self.wildcards.len() - 1
        });
        &mut self.wildcards[at].1
    }

    fn sort(&mut self) {
        let in_order = |paths: &mut Paths<T>| paths.sort_by_key(Candidate::rank);
        self.exact.values_mut().for_each(in_order);
        let wildcards = self.wildcards.iter_mut();
        wildcards.for_each(|(_, paths)| in_order(paths));
        in_order(&mut self.any);
        self.wildcards
            .sort_by_key(|(suffix, _)| Reverse(suffix.len()));
    }

    fn find(&self, host: Option<&str>, path: &str, asked: Option<&Asked<'_>>) -> Option<&T> {
        if !(self.exact.is_empty() && self.wildcards.is_empty())
            && let Some(host) = host
        {
            let found = self.find_host(without_port(host), path, asked);
            if found.is_some() {
                return found;
            }
        }
        first(&self.any, path, asked)
    }

    fn find_host(&self, host: &str, path: &str, asked: Option<&Asked<'_>>) -> Option<&T> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let of_it = self.exact.get(host);
        of_it
            .and_then(|paths| first(paths, path, asked))
            .or_else(|| {
                self.wildcards
                    .iter()
                    .filter(|(suffix, _)| is_under(host, suffix))
                    .find_map(|(_, paths)| first(paths, path, asked))
            })
    }

    fn add_in_order<'h>(&'h self, host: Option<&str>, all: &mut Vec<&'h Candidate<T>>) {
        if let Some(host) = host {
            let host = without_port(host).to_ascii_lowercase();
            all.extend(self.exact.get(host.as_str()).into_iter().flatten());
            for (suffix, paths) in &self.wildcards {
                if is_under(&host, suffix) {
                    all.extend(paths);
                }
            }
        }
        all.extend(&self.any);
    }
}

impl<T> Candidate<T> {
    fn new(path: PathMatch, conditions: Conditions, target: T) -> Candidate<T> {
        if let (PathMatch::Prefix(prefix), true) = (&path, conditions.is_empty()) {
            return Candidate {
                prefix: prefix.as_str().into(),
                more: None,
                target,
            };
        }
        Candidate {
            prefix: "".into(),
            more: Some(Box::new(More { path, conditions })),
            target,
        }
    }

    /// The smaller is tried first; equals in the order they were given in.
    fn rank(&self) -> ((u8, usize), Reverse<usize>) {
        match &self.more {
            None => ((2, usize::MAX - self.prefix.len()), Reverse(0)),
            // Those for regular expressions stay in the order they were given in.
            Some(more) => match more.path {
                PathMatch::Regex(_) => (more.path.rank(), Reverse(0)),
                PathMatch::Prefix(_) | PathMatch::Exact(_) => {
                    (more.path.rank(), Reverse(more.conditions.count()))
                }
            },
        }
    }

    fn is_for(&self, path: &str, asked: Option<&Asked<'_>>) -> bool {
        match &self.more {
            None => is_below(&self.prefix, path),
            Some(more) => {
                more.path.is_for(path)
                    && match asked {
                        Some(asked) => more.conditions.unmet(asked).is_none(),
                        None => more.conditions.is_empty(),
                    }
            }
        }
    }
}

fn first<'r, T>(paths: &'r Paths<T>, path: &str, asked: Option<&Asked<'_>>) -> Option<&'r T> {
    paths
        .iter()
        .find(|one| one.is_for(path, asked))
        .map(|one| &one.target)
}

/// Whether `host` is a name below `suffix`, which begins with its dot.
fn is_under(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// The host without its port, and without the dot that may end a whole name.
fn without_port(host: &str) -> &str {
    let name = match host.rfind(':') {
        // The colons of an IPv6 address stand within brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_most_specific_route_wins() {
        let router = Router::new([
            (None, "/", "any"),
            (None, "/api", "any api"),
            (Some("shop.example"), "/", "shop"),
            (Some("shop.example"), "/api", "shop api"),
            (Some("shop.example"), "/api/v2/", "shop v2"),
            (Some("*.shop.example"), "/", "below shop"),
            (Some("*.example"), "/api", "below example, api"),
        ]);
        for (host, path, target) in [
            (None, "/x", "any"),
            (Some("other"), "/api", "any api"),
            (Some("other"), "/apiary", "any"),
            (Some("shop.example"), "/", "shop"),
            (Some("SHOP.example:8080"), "/api/x", "shop api"),
            (Some("shop.example"), "/api/v2", "shop api"),
            (Some("shop.example"), "/api/v2/x", "shop v2"),
            (Some("www.shop.example"), "/", "below shop"),
            (Some("a.b.shop.example"), "/api", "below shop"),
            (Some("www.example"), "/api/", "below example, api"),
            (Some("www.example"), "/", "any"),
            (Some("[::1]:80"), "/api", "any api"),
        ] {
            let found = router.find(host, path).copied();
            assert_eq!(found, Some(target), "{host:?} {path}");
        }
    }

    #[test]
    fn no_route_is_no_target() {
        let router = Router::new([(Some("shop.example"), "/api", ())]);
        assert_eq!(router.find(Some("shop.example"), "/"), None);
        assert_eq!(router.find(Some("example"), "/api"), None);
        assert_eq!(router.find(None, "/api"), None);
    }

    #[test]
    fn a_port_is_no_part_of_the_host() {
        for (host, bare) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(without_port(host), bare);
        }
    }

    fn regex(text: &str) -> PathMatch {
        PathMatch::Regex(Pattern::new(text).unwrap())
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.to_owned())
    }

    fn method(method: Method) -> Conditions {
        Conditions {
            methods: vec![method],
            ..Conditions::default()
        }
    }

    #[test]
    fn exact_paths_come_first_then_patterns_in_their_order_then_the_longest_prefix() {
        let none = Conditions::default;
        let exact = |text: &str| PathMatch::Exact(text.to_owned());
        let router = Router::of([
            (None, prefix("/"), none(), "all"),
            (None, prefix("/a/b"), none(), "a/b"),
            (None, prefix("/a"), none(), "a"),
            (None, prefix("/a"), method(Method::POST), "a, posted"),
            (None, regex(r"\.css$"), method(Method::GET), "css, got"),
            (None, regex(r"^/a/.*css$"), none(), "a's css"),
            (None, regex(r"\.css$"), none(), "css"),
            (None, exact("/a/x.css"), none(), "x.css"),
            (Some("h"), prefix("/a"), method(Method::PUT), "put at h"),
        ]);
        let headers = HeaderMap::new();
        for (host, verb, path, target) in [
            ("h", Method::GET, "/a/x.css", "x.css"),
            ("h", Method::GET, "/a/y.css", "css, got"),
            ("h", Method::POST, "/a/y.css", "a's css"),
            ("h", Method::POST, "/b/y.css", "css"),
            ("h", Method::POST, "/a/y", "a, posted"),
            ("h", Method::POST, "/a/b/y", "a/b"),
            ("h", Method::GET, "/a/y", "a"),
            ("h", Method::PUT, "/a/y", "put at h"),
            ("i", Method::PUT, "/a/y", "a"),
            ("i", Method::PUT, "/", "all"),
        ] {
            let asked = Asked {
                scheme: Scheme::Http,
                method: &verb,
                headers: &headers,
            };
            let found = router.find_for(Some(host), path, &asked).copied();
            assert_eq!(found, Some(target), "{verb} {host} {path}");
        }
    }

    #[test]
    fn a_route_for_a_scheme_comes_before_all_that_are_for_either() {
        let schemed = |scheme| Conditions {
            scheme: Some(scheme),
            ..Conditions::default()
        };
        let router = Router::of([
            (Some("h"), prefix("/a"), Conditions::default(), "h's a"),
            (None, prefix("/"), schemed(Scheme::Http), "to https"),
            (None, prefix("/acme"), schemed(Scheme::Http), "acme"),
        ]);
        let headers = HeaderMap::new();
        for (scheme, path, target) in [
            (Scheme::Http, "/a", Some("to https")),
            (Scheme::Http, "/acme/x", Some("acme")),
            (Scheme::Https, "/a", Some("h's a")),
            (Scheme::Https, "/", None),
        ] {
            let asked = Asked {
                scheme,
                method: &Method::GET,
                headers: &headers,
            };
            let found = router.find_for(Some("h"), path, &asked).copied();
            assert_eq!(found, target, "{scheme:?} {path}");
        }
    }

    fn a_path() -> impl Strategy<Value = PathMatch> {
        prop_oneof![
            "(/[ab]{1,2}){1,3}".prop_map(PathMatch::Prefix),
            "(/[ab]{1,2}){1,3}".prop_map(PathMatch::Exact),
            "\\^?(/[ab]{1,2}){1,2}\\$?".prop_map(|text| regex(&text)),
        ]
    }

    fn a_condition() -> impl Strategy<Value = Conditions> {
        prop_oneof![
            Just(Conditions::default()),
            Just(method(Method::POST)),
            Just(method(Method::GET)),
            Just(Conditions {
                scheme: Some(Scheme::Http),
                ..method(Method::GET)
            }),
            Just(Conditions {
                scheme: Some(Scheme::Https),
                ..Conditions::default()
            }),
        ]
    }

    proptest! {
        /// What is found is the first of all that may be, in the order that is told, that is for the request.
        #[test]
        fn the_route_taken_is_the_first_that_is_for_the_request(
            routes in prop::collection::vec(
                (prop::option::of("(\\*\\.)?[ab](\\.[ab])?"), a_path(), a_condition()), 0..12),
            host in "[abAB](\\.[ab]){0,2}(:80)?",
            path in "(/[ab]{1,2}){1,3}/?",
            posts in any::<bool>(),
        ) {
            let router = Router::of(routes.iter().enumerate().map(|(at, (host, path, conditions))| {
                (host.as_deref(), path.clone(), conditions.clone(), at)
            }));
            let (method, headers) = (if posts { Method::POST } else { Method::GET }, HeaderMap::new());
            let asked = Asked { scheme: Scheme::Http, method: &method, headers: &headers };
            let found = router.find_for(Some(&host), &path, &asked).copied();
            let order = router.in_order(Some(&host));
            let first = order.into_iter().copied().find(|&at| {
                let (_, route, conditions) = &routes[at];
                route.is_for(&path) && conditions.unmet(&asked).is_none()
            });
            prop_assert_eq!(found, first);
        }
    }
}
