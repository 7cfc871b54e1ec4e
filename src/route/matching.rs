//! What a route is for, beside its host: which paths, methods, headers and schemes.

use std::fmt;

use http::{HeaderMap, HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};

/// A regular expression, compiled. Two are equal if they are written in the same way.
///
/// It is looked for anywhere in the text, as in nginx: `^` and `$` stand for its beginning and end. What it
/// takes grows with the text alone, whatever is in it: no text can be made that it never gets done with.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// The most bytes that one may take, compiled.
    const MOST: usize = 1 << 20;

    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Pattern, BadPattern> {
        // Paths and headers are bytes, and what is not ASCII is encoded in them.
        let made = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(Pattern::MOST)
            .build();
        made.map(Pattern).map_err(|error| {
            let said = error.to_string();
            // The library draws the place over several lines; its last one says what is wrong there.
            let last = said.lines().last().unwrap_or_default();
            BadPattern(last.trim_start_matches("error: ").to_owned())
        })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// How many groups it captures, beside the whole.
    pub fn groups(&self) -> usize {
        self.0.captures_len() - 1
    }

    /// Whether it is found in `text`.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }

    /// What its groups have captured in `text`, the whole first; nothing if it is not found. A group that has
    /// captured nothing is empty.
    pub fn captures<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let Some(found) = self.0.captures(text.as_bytes()) else {
            return Vec::new();
        };
        let group = |group: Option<regex::bytes::Match<'_>>| {
            group.and_then(|group| text.get(group.range()))
        };
        found
            .iter()
            .map(|it| group(it).unwrap_or_default())
            .collect()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

/// What is wrong with a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

/// Which paths a route is for. They are compared with the path as the client sent it: nothing is decoded, and
/// no `..` followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The path that begins with this, in whole segments: `/api` is for `/api` and `/api/x`, not for
    /// `/apiary`; `/api/` only for what lies below it.
    ///
    /// Source: nginx, `location /api`, which goes by letters there.
    Prefix(String),
    /// This path only.
    ///
    /// Source: nginx, `location = /api`.
    Exact(String),
    /// A path that it is found in.
    ///
    /// Source: nginx, `location ~`.
    Regex(Pattern),
}

impl PathMatch {
    /// Everything.
    pub fn all() -> PathMatch {
        PathMatch::Prefix("/".to_owned())
    }

    /// Whether it is for this path.
    pub fn is_for(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => is_below(prefix, path),
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Regex(pattern) => pattern.is_in(path.as_bytes()),
        }
    }

    /// Its place among those of one host: the smaller is tried first.
    pub(super) fn rank(&self) -> (u8, usize) {
        match self {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Regex(_) => (1, 0),
            // The longest first.
            PathMatch::Prefix(prefix) => (2, usize::MAX - prefix.len()),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathMatch::Prefix(prefix) => f.write_str(prefix),
            PathMatch::Exact(exact) => write!(f, "= {exact}"),
            PathMatch::Regex(pattern) => write!(f, "~ {}", pattern.as_str()),
        }
    }
}

/// Whether `path` is `prefix` or lies below it.
pub(super) fn is_below(prefix: &str, path: &str) -> bool {
    prefix == "/"
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// How the client speaks with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// That of a connection with TLS, or without.
    pub fn of(is_tls: bool) -> Scheme {
        if is_tls { Scheme::Https } else { Scheme::Http }
    }

    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What a header has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Anything.
    Any,
    /// This, and nothing else.
    Exact(String),
    /// Something that it is found in.
    Regex(Pattern),
}

impl ValueMatch {
    fn is_for(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Any => true,
            ValueMatch::Exact(exact) => exact.as_bytes() == value,
            ValueMatch::Regex(pattern) => pattern.is_in(value),
        }
    }
}

/// What a route asks of a request beside host and path; of a list it is enough that one is met, of the others
/// all have to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// How the client speaks with us; `None` is either.
    pub scheme: Option<Scheme>,
    /// The methods; without any, all. `GET` is for `HEAD` too.
    pub methods: Vec<Method>,
    /// Headers, and what one of their lines has to say.
    pub headers: Vec<(HeaderName, ValueMatch)>,
}

/// What is known of a request that conditions go by.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How the client speaks with us.
    pub scheme: Scheme,
    /// Its method.
    pub method: &'a Method,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// Why a request does not meet a route's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'a> {
    /// The client speaks otherwise than this.
    Scheme(Scheme),
    /// The method is none of these.
    Method(&'a [Method]),
    /// This header is not there, or says something else.
    Header(&'a HeaderName),
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::Scheme(scheme) => write!(f, "the scheme is not {}", scheme.as_str()),
            Unmet::Method([only]) => write!(f, "the method is not {only}"),
            Unmet::Method(methods) => {
                let names: Vec<_> = methods.iter().map(Method::as_str).collect();
                write!(f, "the method is none of {}", names.join(", "))
            }
            Unmet::Header(name) => write!(f, "no header {name} says that"),
        }
    }
}

impl Conditions {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scheme.is_none() && self.methods.is_empty() && self.headers.is_empty()
    }

    /// How many there are, a list being one.
    pub(super) fn count(&self) -> usize {
        usize::from(self.scheme.is_some())
            + usize::from(!self.methods.is_empty())
            + self.headers.len()
    }

    /// The first of them that a request does not meet.
    pub fn unmet<'c>(&'c self, asked: &Asked<'_>) -> Option<Unmet<'c>> {
        if let Some(scheme) = self.scheme
            && scheme != asked.scheme
        {
            return Some(Unmet::Scheme(scheme));
        }
        let takes = |method: &Method| {
            method == asked.method || *method == Method::GET && *asked.method == Method::HEAD
        };
        if !self.methods.is_empty() && !self.methods.iter().any(takes) {
            return Some(Unmet::Method(&self.methods));
        }
        let is_unmet = |(name, value): &&(HeaderName, ValueMatch)| {
            let mut lines = asked.headers.get_all(name).iter();
            !lines.any(|line| value.is_for(line.as_bytes()))
        };
        let mut headers = self.headers.iter();
        headers.find(is_unmet).map(|(name, _)| Unmet::Header(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_matched_as_it_was_sent() {
        let regex = |text| PathMatch::Regex(Pattern::new(text).unwrap());
        let exact = |text: &str| PathMatch::Exact(text.to_owned());
        let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
        for (path, text, is) in [
            (prefix("/"), "/x", true),
            (prefix("/api"), "/apiary", false),
            (prefix("/api"), "/api/../x", true),
            (exact("/api"), "/api", true),
            (exact("/api"), "/api/", false),
            (exact("/a"), "/%61", false),
            (regex(r"\.(png|css)$"), "/a/b.png", true),
            (regex(r"\.(png|css)$"), "/a/b.png/", false),
            (regex(r"(?i)\.PNG$"), "/a/b.png", true),
            (regex("^/v[0-9]+/"), "/x/v1/", false),
        ] {
            assert_eq!(path.is_for(text), is, "{path} {text}");
        }
    }

    #[test]
    fn every_condition_has_to_be_met() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=1".parse().unwrap());
        headers.append("cookie", "beta=1".parse().unwrap());
        headers.insert("x-api", "2".parse().unwrap());
        let (get, head) = (Method::GET, Method::HEAD);
        let asked = |method| Asked {
            scheme: Scheme::Https,
            method,
            headers: &headers,
        };
        let header = |name: &'static str, value| Conditions {
            headers: vec![(HeaderName::from_static(name), value)],
            ..Conditions::default()
        };
        let beta = ValueMatch::Regex(Pattern::new("(^|; )beta=1").unwrap());
        for (conditions, met) in [
            (Conditions::default(), true),
            (header("cookie", beta.clone()), true),
            (header("x-api", beta), false),
            (header("x-api", ValueMatch::Exact("2".to_owned())), true),
            (header("x-api", ValueMatch::Exact("20".to_owned())), false),
            (header("x-api", ValueMatch::Any), true),
            (header("x-other", ValueMatch::Any), false),
        ] {
            assert_eq!(conditions.unmet(&asked(&get)).is_none(), met);
        }
        let mut conditions = Conditions {
            methods: vec![Method::GET],
            ..Conditions::default()
        };
        assert_eq!(conditions.unmet(&asked(&head)), None, "GET is for HEAD too");
        let post = Method::POST;
        assert_eq!(
            conditions.unmet(&asked(&post)).unwrap().to_string(),
            "the method is not GET"
        );
        conditions.scheme = Some(Scheme::Http);
        assert_eq!(
            conditions.unmet(&asked(&get)),
            Some(Unmet::Scheme(Scheme::Http))
        );
    }

    #[test]
    fn a_bad_pattern_is_told_in_a_line() {
        for text in [
            "(",
            "[z-a]",
            "a{4294967295}",
            "(?P<n",
            "\\p{Greek}",
            "(a{1000}){1000}",
        ] {
            let why = Pattern::new(text).unwrap_err().to_string();
            assert!(!why.is_empty() && !why.contains('\n'), "{text}: {why}");
        }
    }
}
