//! Host and path of a request → the route it takes. The most specific route wins.

use std::collections::HashMap;

/// A route as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The host it is for: exact (`shop.example`), or every name below one (`*.shop.example`).
    /// `None` is any host. Without a port; compared without regard to case.
    pub host: Option<String>,
    /// The path prefix it is for, starting with `/`. Matches whole segments: `/api` is for `/api`
    /// and `/api/x`, not for `/apiary`; `/api/` only for what lies below it.
    pub path: String,
    /// The name of the upstream that answers.
    pub upstream: String,
}

/// All routes, in the order of how specific they are.
///
/// An exact host comes before a wildcard, a longer wildcard before a shorter one, any host last;
/// within a host the longest path prefix comes first. A host that is known but has no route for
/// the path falls back to the less specific ones.
#[derive(Clone, Debug, Default)]
pub struct Router<T> {
    exact: HashMap<Box<str>, Paths<T>>,
    /// Suffixes with their leading dot, the longest first.
    wildcards: Vec<(Box<str>, Paths<T>)>,
    any: Paths<T>,
}

/// Prefixes, the longest first.
type Paths<T> = Vec<(Box<str>, T)>;

impl<T: Copy> Router<T> {
    /// Makes a router of `(host, path, target)`.
    pub fn new<'a>(routes: impl IntoIterator<Item = (Option<&'a str>, &'a str, T)>) -> Router<T> {
        let mut sorted = Router {
            exact: HashMap::new(),
            wildcards: Vec::new(),
            any: Vec::new(),
        };
        for (host, path, target) in routes {
            let host = host.map(str::to_ascii_lowercase);
            let paths = match host.as_deref() {
                None => &mut sorted.any,
                Some(host) => match host.strip_prefix('*') {
                    None => sorted.exact.entry(host.into()).or_default(),
                    Some(suffix) => {
                        let at = sorted
                            .wildcards
                            .iter()
                            .position(|(known, _)| **known == *suffix);
                        let at = at.unwrap_or_else(|| {
                            sorted.wildcards.push((suffix.into(), Vec::new()));
                            sorted.wildcards.len() - 1
                        });
                        &mut sorted.wildcards[at].1
                    }
                },
            };
            paths.push((path.into(), target));
        }
        let longest_first =
            |paths: &mut Paths<T>| paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        sorted.exact.values_mut().for_each(longest_first);
        sorted
            .wildcards
            .iter_mut()
            .for_each(|(_, paths)| longest_first(paths));
        longest_first(&mut sorted.any);
        sorted
            .wildcards
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        sorted
    }

    /// The target of the most specific route for `host` (which may end with a port) and `path`.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<T> {
        if !(self.exact.is_empty() && self.wildcards.is_empty())
            && let Some(host) = host
        {
            let found = self.find_host(without_port(host), path);
            if found.is_some() {
                return found;
            }
        }
        longest_prefix(&self.any, path)
    }

    fn find_host(&self, host: &str, path: &str) -> Option<T> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        self.exact
            .get(host)
            .and_then(|paths| longest_prefix(paths, path))
            .or_else(|| {
                self.wildcards
                    .iter()
                    .filter(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
                    .find_map(|(_, paths)| longest_prefix(paths, path))
            })
    }
}

fn longest_prefix<T: Copy>(paths: &Paths<T>, path: &str) -> Option<T> {
    paths
        .iter()
        .find(|(prefix, _)| is_below(prefix, path))
        .map(|&(_, target)| target)
}

fn is_below(prefix: &str, path: &str) -> bool {
    prefix == "/"
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
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
            assert_eq!(router.find(host, path), Some(target), "{host:?} {path}");
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
}
