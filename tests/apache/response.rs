//! A response as the prober sees it: what it says of itself and of its connection.

use std::fmt;
use std::time::Duration;

use crate::support::wire;

/// How the head says that the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Neither: the connection's end, where there may be a body at all.
    Nothing,
}

/// One response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// From the status line; 0 where bytes came without one, as in HTTP/0.9.
    pub status: u16,
    /// As in the status line.
    pub version: String,
    /// The values of `Connection`.
    pub connection: String,
    /// The values of `Keep-Alive`.
    pub keep_alive: String,
    pub announced: Announced,
    /// Bytes of the body without chunk framing.
    pub body: usize,
    /// Whether it came to the end that it announced.
    pub complete: bool,
    /// When its last byte came, counted from what was last before it.
    pub after: Duration,
}

impl Seen {
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// Whether it says that its connection ends.
    pub fn says_close(&self) -> bool {
        let mut options = self.connection.split(',');
        options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    }

    /// Whether two servers said the same, whenever they did. Their own error pages may differ.
    pub fn is_like(&self, other: &Seen) -> bool {
        let blank = |seen: &Seen| Seen {
            body: if seen.status < 300 { seen.body } else { 0 },
            after: Duration::ZERO,
            ..seen.clone()
        };
        blank(self) == blank(other)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, ", self.version, self.status)?;
        match self.announced {
            Announced::Length => write!(f, "length")?,
            Announced::Chunked => write!(f, "chunked")?,
            Announced::Nothing => write!(f, "no framing")?,
        }
        let broken = if self.complete { "" } else { " (broken off)" };
        write!(f, ", body of {}{broken}", self.body)?;
        for (name, value) in [
            ("Connection", &self.connection),
            ("Keep-Alive", &self.keep_alive),
        ] {
            if !value.is_empty() {
                write!(f, ", {name}: {value}")?;
            }
        }
        write!(f, ", after {} ms", self.after.as_millis())
    }
}

/// The first response in these bytes and how long it is there, if it is whole or `ended`.
pub fn next_response(bytes: &[u8], to_head: bool, ended: bool) -> Option<(Seen, usize)> {
    if bytes.is_empty() {
        return None;
    }
    let start = bytes.len().min(5);
    if bytes[..start] != b"HTTP/"[..start] {
        let headless = seen_of("", bytes.len(), ended);
        return ended.then_some((headless, bytes.len()));
    }
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        let part = seen_of(&wire::latin1(bytes), 0, false);
        return ended.then_some((part, bytes.len()));
    };
    let head = wire::latin1(&bytes[..end + 4]);
    let mut seen = seen_of(&head, 0, true);
    let rest = &bytes[end + 4..];
    let (length, body, complete) = match seen.announced {
        _ if to_head || matches!(seen.status, 100..=199 | 204 | 304) => (0, 0, true),
        Announced::Length => {
            let headers = wire::headers(&head);
            let announced = wire::header(&headers, "content-length").and_then(|n| n.parse().ok());
            let announced = announced.unwrap_or(usize::MAX);
            let there = announced.min(rest.len());
            (there, there, there == announced)
        }
        Announced::Chunked => chunked(rest),
        Announced::Nothing => (rest.len(), rest.len(), ended),
    };
    (complete || ended).then(|| {
        seen.body = body;
        seen.complete = complete;
        (seen, end + 4 + length)
    })
}

/// Bytes taken, bytes of the body, and whether its end has come.
fn chunked(bytes: &[u8]) -> (usize, usize, bool) {
    let (mut taken, mut body) = (0, 0);
    loop {
        let rest = &bytes[taken..];
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (bytes.len(), body, false);
        };
        let text = wire::latin1(&rest[..line]);
        let digits = text.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return (bytes.len(), body, false);
        };
        // The last chunk is followed by the empty line at once: neither server hands on trailers.
        let next = line + 2 + size + 2;
        if rest.len() < next {
            return (bytes.len(), body, false);
        }
        taken += next;
        body += size;
        if size == 0 {
            return (taken, body, true);
        }
    }
}

fn seen_of(head: &str, body: usize, complete: bool) -> Seen {
    let line = head.split("\r\n").next().unwrap_or_default();
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default().to_owned();
    let status = words.next().and_then(|status| status.parse().ok());
    let headers = wire::headers(head);
    let all = |name: &str| {
        let of_name = headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let values: Vec<_> = of_name.map(|(_, value)| value.as_str()).collect();
        values.join(" + ")
    };
    let announced = if !all("transfer-encoding").is_empty() {
        Announced::Chunked
    } else if !all("content-length").is_empty() {
        Announced::Length
    } else {
        Announced::Nothing
    };
    Seen {
        status: status.unwrap_or(0),
        version,
        connection: all("connection"),
        keep_alive: all("keep-alive"),
        announced,
        body,
        complete,
        after: Duration::ZERO,
    }
}
