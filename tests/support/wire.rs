//! HTTP/1.1 as bytes: what both the client and the scripted backend read with.
//!
//! Nothing is corrected or put in order. Heads are kept as they came; text is taken byte by byte as
//! Latin-1, so that every byte is one character and none is lost.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;

/// The longest head that is read; a peer that sends more is not making a head.
const HEAD_LIMIT: usize = 1 << 20;

/// Why no more bytes could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The peer has sent FIN.
    Fin,
    /// The peer has sent RST.
    Reset,
    /// Nothing came within the stream's read timeout.
    Silent,
    /// What came is not HTTP/1.1.
    Garbage(String),
}

/// How a body's end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end is its end.
    UntilClose,
}

/// A body as far as it came.
#[derive(Debug, Default)]
pub struct Body {
    /// Its bytes without chunk framing; empty where they were to be discarded.
    pub bytes: Vec<u8>,
    /// How many there were, kept or not.
    pub length: u64,
    /// The sizes of the chunks in order, where it was chunked.
    pub chunks: Vec<u64>,
    /// The trailer section as it came, without the empty line.
    pub trailers: String,
    /// What ended the reading, where it was not the body's own framing.
    pub stop: Option<Stop>,
}

/// A stream with what was read from it and not yet asked for.
pub struct Wire {
    stream: Arc<TcpStream>,
    piece: Box<[u8]>,
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: Arc<TcpStream>) -> Wire {
        Wire {
            stream,
            piece: vec![0; 1 << 16].into_boxed_slice(),
            buffer: Vec::new(),
        }
    }

    /// Bytes that came and were not asked for yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// Reads once; at least one byte is new afterwards.
    pub fn fill(&mut self) -> Result<(), Stop> {
        loop {
            return match (&*self.stream).read(&mut self.piece) {
                Ok(0) => Err(Stop::Fin),
                Ok(count) => {
                    self.buffer.extend_from_slice(&self.piece[..count]);
                    Ok(())
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Stop::Silent),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(Stop::Reset),
                    _ => panic!("reading from a loopback stream failed: {error}"),
                },
            };
        }
    }

    /// A head with its empty line. Bytes of an unfinished one stay [`unread`](Self::unread).
    pub fn head(&mut self) -> Result<String, Stop> {
        let mut looked_at = 0;
        loop {
            let end = self.buffer[looked_at..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return Ok(latin1(&self.take(looked_at + end + 4)));
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(Stop::Garbage(format!("no head within {HEAD_LIMIT} bytes")));
            }
            looked_at = self.buffer.len().saturating_sub(3);
            self.fill()?;
        }
    }

    /// A body, or as much of it as comes. `keep` is whether its bytes are wanted.
    pub fn body(&mut self, framing: Framing, keep: bool) -> Body {
        let mut body = Body::default();
        let result = match framing {
            Framing::Empty => Ok(()),
            Framing::Length(length) => self.bytes(length, keep, &mut body),
            Framing::Chunked => self.chunks(keep, &mut body),
            Framing::UntilClose => match self.bytes(u64::MAX, keep, &mut body) {
                Err(Stop::Fin) => Ok(()),
                other => other,
            },
        };
        body.stop = result.err();
        body
    }

    fn bytes(&mut self, count: u64, keep: bool, body: &mut Body) -> Result<(), Stop> {
        let mut left = count;
        while left > 0 {
            if self.buffer.is_empty() {
                self.fill()?;
            }
            let now =
                usize::try_from(left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
            if keep {
                body.bytes.extend_from_slice(&self.buffer[..now]);
            }
            self.buffer.drain(..now);
            left -= now as u64;
            body.length += now as u64;
        }
        Ok(())
    }

    fn chunks(&mut self, keep: bool, body: &mut Body) -> Result<(), Stop> {
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| Stop::Garbage(format!("{line:?} is not the size of a chunk")))?;
            if size == 0 {
                break;
            }
            self.bytes(size, keep, body)?;
            body.chunks.push(size);
            let end = self.line()?;
            if !end.is_empty() {
                return Err(Stop::Garbage(format!(
                    "a chunk of {size} bytes goes on with {end:?}"
                )));
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            body.trailers.push_str(&line);
            body.trailers.push_str("\r\n");
        }
    }

    /// A line without its CR LF.
    fn line(&mut self) -> Result<String, Stop> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let mut line = self.take(end + 2);
                line.truncate(end);
                return Ok(latin1(&line));
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(Stop::Garbage(format!("no line within {HEAD_LIMIT} bytes")));
            }
            self.fill()?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }
}

/// Each byte as the character of its number.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// The header lines of a head, in order and in their own case, values without surrounding blanks.
pub fn headers(head: &str) -> Vec<(String, String)> {
    head.split("\r\n")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect()
}

/// The first value under `name`, in whatever case.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// The framing that headers announce, if they announce one.
pub fn announced(headers: &[(String, String)]) -> Option<Framing> {
    let chunked = header(headers, "transfer-encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
    if chunked {
        return Some(Framing::Chunked);
    }
    let length = header(headers, "content-length")?;
    Some(Framing::Length(length.parse().unwrap_or_else(|_| {
        panic!("Content-Length: {length:?} is not a length")
    })))
}
