//! What a route does: who answers, what becomes of the path and of headers.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::matching::{PathMatch, Pattern};
use super::template::{Facts, Template, is_host};

/// Who answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A backend of the upstream of this name.
    Upstream(String),
    /// Nobody: the client is to ask elsewhere.
    Redirect(Redirect),
    /// The proxy.
    Respond(Respond),
}

/// Where a client is to ask instead.
///
/// Source: nginx, `return 301 URL`; Apache httpd 2.4, `Redirect`, `RedirectMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Status 301, 302, 303, 307 or 308.
    ///
    /// Default: 302, as both have it.
    pub status: StatusCode,
    /// The `Location`.
    pub to: Template,
}

/// A response that is always the same, but for its variables.
///
/// Source: nginx, `return CODE TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// Its status, from 200 on.
    pub status: StatusCode,
    /// Its body.
    pub body: Template,
    /// Its `Content-Type`.
    ///
    /// Default: `text/plain; charset=utf-8`.
    pub content_type: HeaderValue,
}

impl Respond {
    /// Its body for a request. In markup what variables stand for is escaped.
    pub fn body(&self, facts: &Facts<'_>) -> Vec<u8> {
        let kind = self.content_type.as_bytes().to_ascii_lowercase();
        let is_markup = kind.windows(4).any(|word| word == b"html")
            || kind.windows(3).any(|word| word == b"xml" || word == b"svg");
        if is_markup {
            self.body.fill_escaped(facts)
        } else {
            self.body.fill(facts)
        }
    }
}

/// What becomes of a path on its way to the backend. The query stays as it is unless it is said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// This prefix goes; what is left begins with a `/`.
    ///
    /// Source: nginx, `proxy_pass` with a path; Apache httpd 2.4, `ProxyPass /api/ http://app/`.
    Strip(String),
    /// It is this instead. A query of its own stands in place of the client's, even an empty one.
    ///
    /// Source: nginx, `rewrite`; Apache httpd 2.4, `RewriteRule … [P]`.
    To(Template),
}

impl Rewrite {
    /// The target of a request, rewritten; `None`: it would be none.
    pub fn apply(&self, facts: &Facts<'_>) -> Option<Uri> {
        let query = facts.uri.query();
        let mut path: Cow<'_, [u8]> = match self {
            Rewrite::Strip(prefix) => {
                let path = facts.uri.path();
                let rest = path.strip_prefix(prefix.as_str()).unwrap_or(path);
                if rest.starts_with('/') {
                    rest.as_bytes().into()
                } else {
                    format!("/{rest}").into_bytes().into()
                }
            }
            Rewrite::To(template) => template.fill(facts).into(),
        };
        let has_query = matches!(self, Rewrite::To(template) if template.has_query());
        if has_query {
            // Without anything behind it there is none.
            if path.last() == Some(&b'?') {
                path.to_mut().pop();
            }
        } else if let Some(query) = query {
            let path = path.to_mut();
            path.push(b'?');
            path.extend_from_slice(query.as_bytes());
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(path.into_owned())).ok()?;
        let mut parts = facts.uri.clone().into_parts();
        parts.path_and_query = Some(target);
        Uri::from_parts(parts).ok()
    }
}

/// What becomes of headers, on both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of the request's, after the proxy has said its own.
    ///
    /// Source: nginx, `proxy_set_header`; Apache httpd 2.4, `RequestHeader`.
    pub request: ChangeSet,
    /// Of the response's, whoever gives it.
    ///
    /// Source: nginx, `add_header … always`, `proxy_hide_header`; Apache httpd 2.4, `Header always`.
    pub response: ChangeSet,
}

/// Changes in the order they are made in: removed, set, added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet(pub Vec<(HeaderName, HeaderChange)>);

/// What becomes of one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderChange {
    /// All its lines go.
    Remove,
    /// It has this line and no other; if that is empty, none, as in nginx.
    Set(Template),
    /// It has this line too, unless that is empty.
    Add(Template),
}

/// Changes for one request, with its values.
#[derive(Clone, Debug, Default)]
pub struct Changed(Vec<(HeaderName, Option<HeaderValue>, bool)>);

impl ChangeSet {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes for one request. What cannot be a header's value is none.
    pub fn fill(&self, facts: &Facts<'_>) -> Changed {
        let value = |template: &Template| {
            let filled = template.fill(facts);
            let value = HeaderValue::from_maybe_shared(Bytes::from(filled)).ok();
            value.filter(|value| !value.is_empty())
        };
        let one = |(name, change): &(HeaderName, HeaderChange)| match change {
            HeaderChange::Remove => (name.clone(), None, false),
            HeaderChange::Set(template) => (name.clone(), value(template), false),
            HeaderChange::Add(template) => (name.clone(), value(template), true),
        };
        Changed(self.0.iter().map(one).collect())
    }
}

impl Changed {
    /// Makes them.
    pub fn apply(self, headers: &mut HeaderMap) {
        for (name, value, adds) in self.0 {
            match value {
                Some(value) if adds => {
                    headers.append(name, value);
                }
                Some(value) => {
                    headers.insert(name, value);
                }
                // A request without a host would be none.
                None if adds || is_host(&name) => {}
                None => {
                    headers.remove(name);
                }
            }
        }
    }
}

/// Whether a header says where a message ends or what becomes of its connection: that is the proxy's to say.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(
        *name,
        CONNECTION | CONTENT_LENGTH | EXPECT | TE | TRAILER | TRANSFER_ENCODING | UPGRADE
    ) || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

/// What the groups of a route's path have captured.
pub(super) fn groups<'p>(path: &PathMatch, text: &'p str) -> Vec<&'p str> {
    match path {
        PathMatch::Regex(pattern) => Pattern::captures(pattern, text),
        PathMatch::Prefix(_) | PathMatch::Exact(_) => Vec::new(),
    }
}

impl PathMatch {
    /// What its groups have captured in a path, the whole first.
    pub fn groups<'p>(&self, path: &'p str) -> Vec<&'p str> {
        groups(self, path)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::matching::Scheme;
    use super::super::template::Use;
    use super::*;

    fn rewritten(rewrite: &Rewrite, target: &str, groups: &[&str]) -> Option<String> {
        let facts = Facts {
            host: Some("h"),
            client: &HeaderValue::from_static("192.0.2.1"),
            scheme: Scheme::Http,
            method: &Method::GET,
            uri: &target.parse().unwrap(),
            headers: &HeaderMap::new(),
            groups,
            id: 0,
        };
        rewrite.apply(&facts).map(|uri| uri.to_string())
    }

    #[test]
    fn a_prefix_is_stripped_and_a_slash_is_left() {
        for (prefix, target, expected) in [
            ("/api", "/api", "/"),
            ("/api", "/api?x", "/?x"),
            ("/api", "/api/", "/"),
            ("/api", "/api/a/b?x=1", "/a/b?x=1"),
            ("/api/", "/api/a", "/a"),
            ("/", "/a", "/a"),
            ("/a", "http://h/a/b", "http://h/b"),
        ] {
            let rewrite = Rewrite::Strip(prefix.to_owned());
            let got = rewritten(&rewrite, target, &[]);
            assert_eq!(got.as_deref(), Some(expected), "{prefix} {target}");
        }
    }

    #[test]
    fn a_path_is_rewritten_with_what_was_captured() {
        for (to, target, expected) in [
            ("/v2/$1", "/api/x?q=1", "/v2/one?q=1"),
            ("/v2/$1?", "/api/x?q=1", "/v2/one"),
            ("/index?page=$1", "/api/x?q=1", "/index?page=one"),
            ("/index?page=$1&$args", "/api/x?q=1", "/index?page=one&q=1"),
            ("/old$request_uri", "/api/x?q=1", "/old/api/x?q=1"),
            ("/fixed", "http://h/api", "http://h/fixed"),
        ] {
            let rewrite = Rewrite::To(Template::new(to, Use::Path, 1).unwrap());
            let got = rewritten(&rewrite, target, &["all", "one"]);
            assert_eq!(got.as_deref(), Some(expected), "{to}");
        }
    }

    #[test]
    fn headers_are_removed_set_and_added() {
        let template = |text| Template::new(text, Use::Header, 0).unwrap();
        let name = |name: &'static str| HeaderName::from_static(name);
        let set = ChangeSet(vec![
            (name("x-gone"), HeaderChange::Remove),
            (name("x-set"), HeaderChange::Set(template("$remote_addr"))),
            (name("x-empty"), HeaderChange::Set(template("$args"))),
            (name("x-more"), HeaderChange::Add(template("$scheme"))),
            (name("x-none"), HeaderChange::Add(template("$http_x"))),
            (name("host"), HeaderChange::Set(template("$http_x"))),
        ]);
        let mut headers = HeaderMap::new();
        for name in ["x-gone", "x-set", "x-empty", "x-more", "x-stays", "host"] {
            headers.append(name, HeaderValue::from_static("old"));
            headers.append(name, HeaderValue::from_static("older"));
        }
        let facts = Facts {
            host: Some("h"),
            client: &HeaderValue::from_static("192.0.2.1"),
            scheme: Scheme::Http,
            method: &Method::GET,
            uri: &Uri::from_static("/"),
            headers: &HeaderMap::new(),
            groups: &[],
            id: 0,
        };
        set.fill(&facts).apply(&mut headers);
        let lines = |name: &str| -> Vec<&str> {
            let lines = headers.get_all(name).iter();
            lines.map(|line| line.to_str().unwrap()).collect()
        };
        assert_eq!(lines("x-set"), ["192.0.2.1"]);
        assert_eq!(lines("x-more"), ["old", "older", "http"]);
        assert_eq!(lines("x-stays"), ["old", "older"]);
        assert_eq!(lines("host"), ["old", "older"]);
        for gone in ["x-gone", "x-empty", "x-none"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }
}
