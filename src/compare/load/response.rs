//! A response as it comes in, piece by piece: where it ends, and whether another may follow on its connection.
//!
//! Bodies are counted off and not kept. RFC 9112 §6.3.

/// The longest head. What is longer is no answer.
const LONGEST_HEAD: usize = 64 * 1024;

/// The most header lines.
const MOST_LINES: usize = 128;

/// Bytes that are no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How a response went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the connection may carry another request.
    pub(super) kept: bool,
}

/// One response, and after [`begin`](Self::begin) the next one.
#[derive(Debug, Default)]
pub(super) struct Response {
    is_to_head: bool,
    state: State,
    status: u16,
    kept: bool,
    /// A head that has come in part. Keeps its memory for the next one.
    head: Vec<u8>,
    begun: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes are missing.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

/// Where a chunked body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In a size of so many digits.
    Size(u64, u8),
    /// Behind it.
    Extension(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, after a CR there, and within one.
    Line,
    LastLf,
    Trailer,
}

/// How the body of a response ends.
fn framing(
    response: &httparse::Response<'_, '_>,
    is_to_head: bool,
) -> Result<(State, bool), Malformed> {
    let (mut length, mut encoded, mut close, mut keep) = (None, None, false, false);
    for header in response.headers.iter() {
        let has = |option: &[u8]| {
            let mut options = header.value.split(|byte| *byte == b',');
            options.any(|value| value.trim_ascii().eq_ignore_ascii_case(option))
        };
        // By length first: few headers have these.
        match header.name.len() {
            10 if header.name.eq_ignore_ascii_case("connection") => {
                close |= has(b"close");
                keep |= has(b"keep-alive");
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let value = number(header.value).ok_or(Malformed)?;
                if length.replace(value).is_some_and(|before| before != value) {
                    return Err(Malformed);
                }
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                let last = header.value.rsplit(|byte| *byte == b',').next();
                encoded = last.map(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
    }
    let kept = !close && (response.version == Some(1) || keep);
    let bodiless = is_to_head || matches!(response.code, Some(100..=199 | 204 | 304));
    Ok(match (encoded, length) {
        _ if bodiless => (State::Length(0), kept),
        (Some(true), _) => (State::Chunked(Chunk::Size(0, 0)), kept),
        (None, Some(length)) => (State::Length(length), kept),
        (Some(false), _) | (None, None) => (State::UntilClose, false),
    })
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.is_empty();
    let text = str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

impl Response {
    /// Makes ready for the next one; `is_to_head`: its request is a HEAD.
    pub(super) fn begin(&mut self, is_to_head: bool) {
        self.is_to_head = is_to_head;
        self.state = State::Head;
        self.head.clear();
        self.begun = false;
    }

    /// Whether a byte of it has come.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Takes what has come. Bytes behind its end mean that the connection cannot be kept.
    ///
    /// # Errors
    /// When that is no response.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        self.begun |= !bytes.is_empty();
        while self.state == State::Head {
            let Some(rest) = self.take_head(bytes)? else {
                return Ok(None);
            };
            bytes = rest;
        }
        let over = match &mut self.state {
            State::Head | State::UntilClose => false,
            State::Length(missing) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*missing).unwrap_or(usize::MAX));
                *missing -= taken as u64;
                bytes = &bytes[taken..];
                *missing == 0
            }
            State::Chunked(chunk) => {
                let mut over = false;
                while !over && !bytes.is_empty() {
                    over = chunk.take(&mut bytes)?;
                }
                over
            }
        };
        Ok(over.then_some(Answer {
            status: self.status,
            kept: self.kept && bytes.is_empty(),
        }))
    }

    /// The connection has ended: whether that was the response's end.
    pub(super) fn end(&self) -> Option<Answer> {
        (self.state == State::UntilClose).then_some(Answer {
            status: self.status,
            kept: false,
        })
    }

    /// What is behind the head; `None`: it is not over yet. An interim response leaves another head to come.
    fn take_head<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, Malformed> {
        let before = self.head.len();
        if before > 0 {
            self.head.extend_from_slice(bytes);
        }
        let whole = if before > 0 { &self.head } else { bytes };
        let mut lines = [const { std::mem::MaybeUninit::uninit() }; MOST_LINES];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, whole, &mut lines)
            .map_err(|_| Malformed)?;
        let httparse::Status::Complete(length) = parsed else {
            if whole.len() > LONGEST_HEAD {
                return Err(Malformed);
            }
            if before == 0 {
                self.head.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        let status = response
            .code
            .filter(|status| *status != 101)
            .ok_or(Malformed)?;
        if status >= 200 {
            (self.state, self.kept) = framing(&response, self.is_to_head)?;
            self.status = status;
        }
        self.head.clear();
        Ok(Some(&bytes[length - before..]))
    }
}

impl Chunk {
    /// Takes one byte, or all there is of a chunk's data; whether the body is over.
    fn take(&mut self, bytes: &mut &[u8]) -> Result<bool, Malformed> {
        if let Chunk::Data(missing) = self {
            let taken = bytes
                .len()
                .min(usize::try_from(*missing).unwrap_or(usize::MAX));
            *missing -= taken as u64;
            *bytes = &bytes[taken..];
            if *missing == 0 {
                *self = Chunk::DataCr;
            }
            return Ok(false);
        }
        let Some((byte, rest)) = bytes.split_first() else {
            return Ok(false);
        };
        *bytes = rest;
        *self = match (*self, *byte) {
            (Chunk::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(*byte).to_digit(16).expect("it is one");
                Chunk::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (Chunk::Size(0, 1..) | Chunk::Extension(0) | Chunk::Trailer, b'\n') => Chunk::Line,
            (Chunk::Size(size, 1..) | Chunk::Extension(size), b'\n') => Chunk::Data(size),
            (Chunk::Size(size, 1..), b'\r' | b';' | b' ' | b'\t') | (Chunk::Extension(size), _) => {
                Chunk::Extension(size)
            }
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size(0, 0),
            (Chunk::Line, b'\r') => Chunk::LastLf,
            (Chunk::LastLf, b'\n') => return Ok(true),
            (Chunk::Line | Chunk::Trailer, _) => Chunk::Trailer,
            (
                Chunk::Size(..) | Chunk::DataCr | Chunk::DataLf | Chunk::LastLf | Chunk::Data(_),
                _,
            ) => {
                return Err(Malformed);
            }
        };
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is said of these bytes, which come in pieces of `piece`.
    fn read(text: &str, is_to_head: bool, piece: usize) -> Result<Option<Answer>, Malformed> {
        let mut response = Response::default();
        response.begin(is_to_head);
        let mut bytes = text.as_bytes();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(piece.min(bytes.len()));
            bytes = later;
            if let Some(mut answer) = response.take(now)? {
                answer.kept &= later.is_empty();
                return Ok(Some(answer));
            }
        }
        Ok(response.end())
    }

    #[test]
    fn a_response_ends_where_its_framing_says() {
        for (text, status, kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, true),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nCONNECTION: Close\r\n\r\nok",
                200,
                false,
            ),
            (
                "HTTP/1.1 404 No\r\nConnection: TE, close\r\nContent-Length: 1\r\n\r\nx",
                404,
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, false),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
                200,
                true,
            ),
            ("HTTP/1.1 204 None\r\n\r\n", 204, true),
            (
                "HTTP/1.1 304 Same\r\nContent-Length: 500\r\n\r\n",
                304,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nuntil the end",
                200,
                false,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.",
                200,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                200,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
                200,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
                200,
                false,
            ),
        ] {
            for piece in [1, 2, 3, 7, 1000] {
                let answer = Ok(Some(Answer { status, kept }));
                assert_eq!(read(text, false, piece), answer, "{text:?} by {piece}");
            }
        }
    }

    #[test]
    fn the_answer_to_a_head_has_no_body() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
        let answer = Answer {
            status: 200,
            kept: true,
        };
        assert_eq!(read(text, true, 1000), Ok(Some(answer)));
        assert_eq!(read(text, false, 1000), Ok(None));
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        for text in [
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        ] {
            assert_eq!(read(text, false, 4), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_response_is_said_to_be_none() {
        let chunked = |body| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        for text in [
            "SSH-2.0-OpenSSH\r\n".to_owned(),
            "HTTP/1.1 101 Switching\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_owned(),
            chunked("\r\n"),
            chunked("g\r\n"),
            chunked("1\r\nab\r\n"),
            chunked("ffffffffffffffff\r\n"),
            format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(70_000)),
        ] {
            assert_eq!(read(&text, false, 100), Err(Malformed), "{text:.60}");
        }
    }

    #[test]
    fn one_follows_the_other() {
        let mut response = Response::default();
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.",
            "HTTP/1.1 500 No\r\nContent-Length: 1\r\n\r\n.",
        ] {
            response.begin(false);
            assert!(!response.begun());
            assert_eq!(response.take(&text.as_bytes()[..20]), Ok(None));
            assert!(response.begun());
            assert!(response.take(&text.as_bytes()[20..]).unwrap().is_some());
        }
    }
}
