//! Where requests go: a URL, and the request that is sent there again and again.

use std::fmt;

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Another scheme, or none.
    #[error("http://HOST[:PORT][/PATH] is needed; TLS is not spoken here")]
    Scheme,
    /// No host, or one with what none has.
    #[error("the host is missing, or has what no host has")]
    Host,
    /// No port number.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// Blanks, or what is not ASCII.
    #[error("the path has blanks or what is not ASCII: write them as %20")]
    Path,
}

/// A URL of HTTP without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host without brackets, for looking it up.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Host and port as they stand in the URL, for `Host`.
    pub authority: String,
    /// The path, with the query.
    pub path: String,
}

impl Target {
    /// Reads a URL. What follows a `#` is left out.
    ///
    /// # Errors
    /// When it is none, or not for plain HTTP.
    pub fn read(url: &str) -> Result<Target, Wrong> {
        let scheme = url
            .get(..7)
            .filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
        let rest = scheme.and(url.get(7..)).ok_or(Wrong::Scheme)?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Wrong::Path);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or(Wrong::Host)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
        if host.is_empty() || !host.chars().all(allowed) {
            return Err(Wrong::Host);
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => 80,
            None => return Err(Wrong::Host),
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(Wrong::Port)?,
            Some(_) => return Err(Wrong::Port),
        };
        Ok(Target {
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// A request as it goes out, head and body in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) bytes: Vec<u8>,
    /// Whether its answer has no body, whatever its head says.
    pub(super) is_head: bool,
}

impl Request {
    /// As it goes out.
    pub fn text(&self) -> &[u8] {
        &self.bytes
    }

    /// A request for `target`. `body` is how many bytes it carries; `None` is no body at all. Of `headers` a `Host` takes
    /// the place of the URL's. `close` asks the server to close the connection after its answer.
    pub fn new(
        target: &Target,
        method: &str,
        headers: &[(String, String)],
        body: Option<usize>,
        close: bool,
    ) -> Request {
        let mut lines = vec![format!("{method} {} HTTP/1.1", target.path)];
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            lines.push(format!("Host: {}", target.authority));
        }
        let own = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        lines.extend(own);
        if close {
            lines.push("Connection: close".to_owned());
        }
        if let Some(length) = body {
            lines.push(format!("Content-Length: {length}"));
        }
        let mut bytes = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + body.unwrap_or(0), b'x');
        Request {
            bytes,
            is_head: method == "HEAD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (url, host, port, authority, path) in [
            ("http://app", "app", 80, "app", "/"),
            ("HTTP://app:8080/a?b=c#d", "app", 8080, "app:8080", "/a?b=c"),
            ("http://127.0.0.1:1?x", "127.0.0.1", 1, "127.0.0.1:1", "/?x"),
            ("http://[::1]:81/", "::1", 81, "[::1]:81", "/"),
            (
                "http://[fe80::1%eth0]/",
                "fe80::1%eth0",
                80,
                "[fe80::1%eth0]",
                "/",
            ),
        ] {
            let target = Target::read(url).unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
            assert_eq!(
                (target.authority.as_str(), target.path.as_str()),
                (authority, path)
            );
        }
    }

    #[test]
    fn what_is_no_url_for_plain_http_is_refused() {
        for (url, wrong) in [
            ("", Wrong::Scheme),
            ("app:80", Wrong::Scheme),
            ("https://app/", Wrong::Scheme),
            ("http://", Wrong::Host),
            ("http:///path", Wrong::Host),
            ("http://me@app/", Wrong::Host),
            ("http://[::1/", Wrong::Host),
            ("http://[::1]80/", Wrong::Host),
            ("http://app:/", Wrong::Port),
            ("http://app:0/", Wrong::Port),
            ("http://app:+80/", Wrong::Port),
            ("http://app:65536/", Wrong::Port),
            ("http://app/a b", Wrong::Path),
            ("http://app/é", Wrong::Path),
            ("http://app/\r\n", Wrong::Path),
        ] {
            assert_eq!(Target::read(url), Err(wrong), "{url:?}");
        }
    }

    #[test]
    fn a_request_is_one_piece() {
        let target = Target::read("http://app:81/x").unwrap();
        let text = |request: &Request| String::from_utf8(request.bytes.clone()).unwrap();
        let plain = Request::new(&target, "GET", &[], None, false);
        assert_eq!(text(&plain), "GET /x HTTP/1.1\r\nHost: app:81\r\n\r\n");
        assert!(!plain.is_head);

        let headers = [
            ("host".to_owned(), "shop".to_owned()),
            ("A".to_owned(), "b".to_owned()),
        ];
        let full = Request::new(&target, "POST", &headers, Some(3), true);
        assert_eq!(
            text(&full),
            "POST /x HTTP/1.1\r\nhost: shop\r\nA: b\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxxx"
        );
    }
}
