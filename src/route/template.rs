//! Texts with variables: headers, redirects, paths and bodies that say something of the request.
//!
//! Variables have nginx's names. What they stand for is what the client sent, byte for byte: nothing is decoded,
//! so that nothing comes to mean something else on its way into a header.

use http::header::{COOKIE, HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::matching::Scheme;
use super::without_port;

/// A text with variables, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Host,
    HttpHost,
    RemoteAddr,
    Scheme,
    Method,
    RequestUri,
    Uri,
    Args,
    IsArgs,
    RequestId,
    Header(HeaderName),
    Group(usize),
}

/// What a text with variables is for: not everything may stand everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A header's value.
    Header,
    /// Where a redirect leads.
    Redirect,
    /// The path for the backend.
    Path,
    /// The body of a response of our own.
    Body,
}

/// What is wrong with a text with variables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// No variable has this name.
    #[error("there is no variable `${0}`")]
    Unknown(String),
    /// A `$` without a name.
    #[error("a `$` without a name; `$$` is one that stands for itself")]
    Lone,
    /// A group that the path's regular expression does not have.
    #[error("`${0}` is a group of `path_regex`, which has {1}")]
    NoGroup(usize, usize),
    /// It would be for others to say where the client is sent, or what is asked for.
    #[error("`${0}` may not stand in this")]
    NotHere(String),
    /// What the client sends stands where the host is.
    #[error(
        "`${0}` stands in the host's place, or right behind it: who makes the link could choose the \
         host; write a `/` before it"
    )]
    OpensHost(String),
    /// Neither a path nor a URL.
    #[error("it begins with neither `/` nor `http://` nor `https://`")]
    NoPlace,
    /// A control character, or one that is not ASCII, where neither may be.
    #[error("the character {0:?} may not stand in this")]
    Character(char),
}

/// What is known of a request that variables stand for.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The host that it names, maybe with a port.
    pub host: Option<&'a str>,
    /// The client's IP address.
    pub client: &'a HeaderValue,
    /// How the client speaks with us.
    pub scheme: Scheme,
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What the groups of the path's regular expression have captured, the whole first.
    pub groups: &'a [&'a str],
    /// A number of its own.
    pub id: u128,
}

impl Variable {
    /// All that have one name.
    const NAMED: [(&'static str, Variable); 10] = [
        ("host", Variable::Host),
        ("http_host", Variable::HttpHost),
        ("remote_addr", Variable::RemoteAddr),
        ("scheme", Variable::Scheme),
        ("request_method", Variable::Method),
        ("request_uri", Variable::RequestUri),
        ("uri", Variable::Uri),
        ("args", Variable::Args),
        ("is_args", Variable::IsArgs),
        ("request_id", Variable::RequestId),
    ];

    fn named(name: &str) -> Result<Variable, BadTemplate> {
        if let Some((_, variable)) = Variable::NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(variable.clone());
        }
        if let Some(digit) = name.parse().ok().filter(|_| name.len() == 1) {
            return Ok(Variable::Group(digit));
        }
        let header = name.strip_prefix("http_").map(|it| it.replace('_', "-"));
        let header = header.and_then(|it| HeaderName::from_bytes(it.as_bytes()).ok());
        match header {
            Some(header) => Ok(Variable::Header(header)),
            None => Err(BadTemplate::Unknown(name.to_owned())),
        }
    }

    /// Whether what it stands for begins with a `/`.
    fn is_path(&self) -> bool {
        matches!(self, Variable::RequestUri | Variable::Uri)
    }

    fn put(&self, facts: &Facts<'_>, to: &mut Vec<u8>) {
        let path = facts.uri.path();
        match self {
            Variable::Host => {
                let host = without_port(facts.host.unwrap_or_default());
                to.extend(host.bytes().map(|byte| byte.to_ascii_lowercase()));
            }
            Variable::HttpHost => to.extend_from_slice(facts.host.unwrap_or_default().as_bytes()),
            Variable::RemoteAddr => to.extend_from_slice(facts.client.as_bytes()),
            Variable::Scheme => to.extend_from_slice(facts.scheme.as_str().as_bytes()),
            Variable::Method => to.extend_from_slice(facts.method.as_str().as_bytes()),
            Variable::RequestUri | Variable::Uri => {
                // `OPTIONS *` has none.
                if !path.starts_with('/') {
                    to.push(b'/');
                }
                to.extend_from_slice(path.as_bytes());
                if let (Variable::RequestUri, Some(query)) = (self, facts.uri.query()) {
                    to.push(b'?');
                    to.extend_from_slice(query.as_bytes());
                }
            }
            Variable::Args => {
                to.extend_from_slice(facts.uri.query().unwrap_or_default().as_bytes());
            }
            Variable::IsArgs => {
                if facts.uri.query().is_some_and(|query| !query.is_empty()) {
                    to.push(b'?');
                }
            }
            Variable::RequestId => to.extend_from_slice(format!("{:032x}", facts.id).as_bytes()),
            Variable::Header(name) => {
                let between: &[u8] = if *name == COOKIE { b"; " } else { b", " };
                for (at, line) in facts.headers.get_all(name).iter().enumerate() {
                    if at > 0 {
                        to.extend_from_slice(between);
                    }
                    to.extend_from_slice(line.as_bytes());
                }
            }
            Variable::Group(number) => {
                let group = facts.groups.get(*number).copied().unwrap_or_default();
                to.extend_from_slice(group.as_bytes());
            }
        }
    }

    fn name(&self) -> String {
        let known = Variable::NAMED.iter().find(|(_, it)| it == self);
        match (known, self) {
            (Some((name, _)), _) => (*name).to_owned(),
            (None, Variable::Group(number)) => number.to_string(),
            (None, Variable::Header(name)) => format!("http_{}", name.as_str().replace('-', "_")),
            (
                None,
                Variable::Host
                | Variable::HttpHost
                | Variable::RemoteAddr
                | Variable::Scheme
                | Variable::Method
                | Variable::RequestUri
                | Variable::Uri
                | Variable::Args
                | Variable::IsArgs
                | Variable::RequestId,
            ) => unreachable!("it is among the named ones"),
        }
    }
}

impl Template {
    /// The names of the variables that have one; beside them there are `$http_NAME` for each header and `$1`
    /// to `$9`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Variable::NAMED.iter().map(|(name, _)| *name)
    }

    /// Takes a text apart: `$name` or `${name}` is a variable, `$$` a dollar. The path's regular expression has
    /// so many groups.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str, used: Use, groups: usize) -> Result<Template, BadTemplate> {
        let pieces = pieces(text)?;
        for piece in &pieces {
            match piece {
                Piece::Text(text) => check_text(text, used)?,
                Piece::Variable(Variable::Group(number)) if *number > groups => {
                    return Err(BadTemplate::NoGroup(*number, groups));
                }
                Piece::Variable(variable @ Variable::Header(_))
                    if matches!(used, Use::Redirect | Use::Path) =>
                {
                    return Err(BadTemplate::NotHere(variable.name()));
                }
                Piece::Variable(_) => {}
            }
        }
        let template = Template {
            text: text.to_owned(),
            pieces,
        };
        match used {
            Use::Redirect => template.check_place()?,
            Use::Path if !template.begins_with_path() => return Err(BadTemplate::NoPlace),
            Use::Path | Use::Header | Use::Body => {}
        }
        Ok(template)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no variables: then it is this.
    pub fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            [..] => None,
        }
    }

    /// Whether all that it says of the request is its host.
    pub fn is_host_or_constant(&self) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Variable(variable) => matches!(variable, Variable::Host | Variable::HttpHost),
        })
    }

    /// Whether it has a query of its own, or none is to follow.
    pub fn has_query(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Text(text) => text.contains('?'),
            Piece::Variable(variable) => {
                matches!(variable, Variable::RequestUri | Variable::IsArgs)
            }
        })
    }

    /// The text for a request.
    pub fn fill(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut filled = Vec::with_capacity(self.text.len() + 64);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => variable.put(facts, &mut filled),
            }
        }
        filled
    }

    /// The same, where markup would be taken for markup: what variables stand for is escaped.
    pub fn fill_escaped(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut filled = Vec::new();
        let mut value = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => {
                    value.clear();
                    variable.put(facts, &mut value);
                    for &byte in &value {
                        match byte {
                            b'<' => filled.extend_from_slice(b"&lt;"),
                            b'>' => filled.extend_from_slice(b"&gt;"),
                            b'&' => filled.extend_from_slice(b"&amp;"),
                            b'"' => filled.extend_from_slice(b"&quot;"),
                            b'\'' => filled.extend_from_slice(b"&#39;"),
                            _ => filled.push(byte),
                        }
                    }
                }
            }
        }
        filled
    }

    /// Where a redirect leads for a request. A path stays a path: two slashes at its beginning would name
    /// another host, and a browser takes a backslash for a slash.
    pub fn fill_location(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut filled = self.fill(facts);
        if self.begins_with_path() && !self.names_host() {
            let slashes = filled
                .iter()
                .take_while(|byte| matches!(byte, b'/' | b'\\'));
            let slashes = slashes.count();
            if slashes > 1 {
                filled.drain(1..slashes);
            }
        }
        filled
    }

    fn begins_with_path(&self) -> bool {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text.starts_with('/'),
            Some(Piece::Variable(variable)) => variable.is_path(),
            None => false,
        }
    }

    /// Whether it begins with `//`, on purpose: a host follows.
    fn names_host(&self) -> bool {
        matches!(self.pieces.first(), Some(Piece::Text(text)) if text.starts_with("//"))
    }

    /// Sees that whoever makes a link cannot choose the host that a redirect leads to.
    fn check_place(&self) -> Result<(), BadTemplate> {
        let mut pieces = self.pieces.iter();
        let rest = match pieces.next() {
            Some(Piece::Text(text)) if text.starts_with("//") => &text[2..],
            Some(Piece::Text(text)) if text.starts_with('/') => return Ok(()),
            Some(Piece::Text(text)) => {
                let schemes = ["http://", "https://"];
                let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
                rest.ok_or(BadTemplate::NoPlace)?
            }
            Some(Piece::Variable(Variable::Scheme)) => match pieces.next() {
                Some(Piece::Text(text)) => text.strip_prefix("://").ok_or(BadTemplate::NoPlace)?,
                Some(Piece::Variable(_)) | None => return Err(BadTemplate::NoPlace),
            },
            Some(Piece::Variable(variable)) if variable.is_path() => return Ok(()),
            Some(Piece::Variable(_)) | None => return Err(BadTemplate::NoPlace),
        };
        let ends = |text: &str| text.contains(['/', '?', '#']);
        if ends(rest) {
            return Ok(());
        }
        for piece in pieces {
            match piece {
                Piece::Text(text) if ends(text) => return Ok(()),
                Piece::Variable(variable) if variable.is_path() => return Ok(()),
                Piece::Text(_) | Piece::Variable(Variable::Host | Variable::HttpHost) => {}
                Piece::Variable(variable) => return Err(BadTemplate::OpensHost(variable.name())),
            }
        }
        Ok(())
    }
}

/// What stands in a text as it is.
fn check_text(text: &str, used: Use) -> Result<(), BadTemplate> {
    let fits = |c: char| match used {
        Use::Header => c == '\t' || !c.is_control(),
        Use::Redirect => c.is_ascii_graphic() && c != '\\',
        Use::Path => c.is_ascii_graphic() && c != '#',
        Use::Body => true,
    };
    match text.chars().find(|&c| !fits(c)) {
        Some(character) => Err(BadTemplate::Character(character)),
        None => Ok(()),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, BadTemplate> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            plain.push('$');
            rest = after;
            continue;
        }
        let name;
        (name, rest) = match rest.strip_prefix('{') {
            Some(inside) => inside.split_once('}').ok_or(BadTemplate::Lone)?,
            None if rest.starts_with(|c: char| c.is_ascii_digit()) => rest.split_at(1),
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                rest.split_at(end.unwrap_or(rest.len()))
            }
        };
        if name.is_empty() {
            return Err(BadTemplate::Lone);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Variable(Variable::named(name)?));
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// Whether a header of this name says which host a request is for.
pub(super) fn is_host(name: &HeaderName) -> bool {
    *name == HOST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str, used: Use, target: &str, groups: &[&str]) -> String {
        let template = Template::new(text, used, 9).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x-one", "<1>".parse().unwrap());
        headers.append("x-one", "2".parse().unwrap());
        let facts = Facts {
            host: Some("Shop.example:8080"),
            client: &HeaderValue::from_static("192.0.2.1"),
            scheme: Scheme::Https,
            method: &Method::GET,
            uri: &target.parse().unwrap(),
            headers: &headers,
            groups,
            id: 0xabc,
        };
        let bytes = match used {
            Use::Redirect => template.fill_location(&facts),
            Use::Body => template.fill_escaped(&facts),
            Use::Header | Use::Path => template.fill(&facts),
        };
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn variables_stand_for_what_the_client_sent() {
        for (text, expected) in [
            ("", ""),
            ("a $$1 b", "a $1 b"),
            ("$host $http_host", "shop.example Shop.example:8080"),
            ("${host}s", "shop.examples"),
            (
                "$scheme://$host$request_uri",
                "https://shop.example/a%20b?x=1",
            ),
            ("$uri$is_args$args", "/a%20b?x=1"),
            ("$request_method $remote_addr", "GET 192.0.2.1"),
            ("$http_x_one|$http_x_two", "<1>, 2|"),
            ("$1-$2-$3", "one--"),
            ("$request_id", "00000000000000000000000000000abc"),
        ] {
            let got = filled(text, Use::Header, "/a%20b?x=1", &["all", "one"]);
            assert_eq!(got, expected, "{text}");
        }
        assert_eq!(filled("$http_x_one", Use::Body, "/", &[]), "&lt;1&gt;, 2");
        assert_eq!(filled("$uri$is_args", Use::Header, "/a?", &[]), "/a");
    }

    #[test]
    fn a_redirect_leads_to_the_host_it_is_written_with() {
        for (text, target, groups, expected) in [
            (
                "https://$host$request_uri",
                "/a?b",
                [""; 2],
                "https://shop.example/a?b",
            ),
            (
                "https://$host$request_uri",
                "*",
                [""; 2],
                "https://shop.example/*",
            ),
            ("$request_uri", "//evil.example/", [""; 2], "/evil.example/"),
            ("/$1", "/", ["", "/evil.example"], "/evil.example"),
            ("/$1", "/", ["", "\\evil.example"], "/evil.example"),
            ("//cdn.example$uri", "/x", [""; 2], "//cdn.example/x"),
            (
                "https://a.example/$1",
                "/",
                ["", ".evil.example"],
                "https://a.example/.evil.example",
            ),
        ] {
            assert_eq!(
                filled(text, Use::Redirect, target, &groups),
                expected,
                "{text}"
            );
        }
        for text in [
            "https://a.example$1",
            "https://$1.example/",
            "https://$host$args",
            "$scheme://$host:$1/",
            "//a.example$1/",
        ] {
            let wrong = Template::new(text, Use::Redirect, 1).unwrap_err();
            assert!(
                matches!(wrong, BadTemplate::OpensHost(_)),
                "{text}: {wrong}"
            );
        }
        for text in [
            "",
            "x",
            "$1",
            "$host/",
            "javascript:$uri",
            "$scheme$uri",
            "$http_a",
        ] {
            assert!(Template::new(text, Use::Redirect, 1).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        use BadTemplate::{Character, Lone, NoGroup, NoPlace, NotHere, Unknown};
        for (text, used, wrong) in [
            ("$hots", Use::Header, Unknown("hots".to_owned())),
            ("a$", Use::Header, Lone),
            ("${host", Use::Header, Lone),
            ("$3", Use::Header, NoGroup(3, 2)),
            ("$http_x", Use::Redirect, NotHere("http_x".to_owned())),
            ("a\nb", Use::Header, Character('\n')),
            ("/ä", Use::Path, Character('ä')),
            ("a", Use::Path, NoPlace),
        ] {
            assert_eq!(Template::new(text, used, 2), Err(wrong), "{text}");
        }
    }

    proptest! {
        /// Whatever a client sends, a redirect of a path stays on this host, and no line can be broken.
        #[test]
        fn no_target_leads_elsewhere(path in "/[/\\\\a.:@]{0,8}", text in prop_oneof![
            Just("$request_uri"), Just("$uri"), Just("/$1"), Just("$uri/$1"),
        ]) {
            if path.parse::<Uri>().is_ok_and(|uri| uri.authority().is_none()) {
                let location = filled(text, Use::Redirect, &path, &["", &path]);
                let second = location.as_bytes().get(1);
                prop_assert!(location.starts_with('/'));
                prop_assert!(!matches!(second, Some(b'/' | b'\\')), "{}", location);
                prop_assert!(HeaderValue::from_str(&location).is_ok());
            }
        }
    }
}
