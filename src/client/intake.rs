//! A request as it comes in, byte by byte: where its lines and its end are, and what is wrong with it
//! before it is whole.
//!
//! The HTTP library parses a head once all of it is there. Until then somebody has to know whether
//! the request line is complete (silence or 408 when time is up), to refuse what is too long without
//! reading on, and to keep what belongs to the next request from being read with this one. No socket,
//! no clock.
//!
//! Source: Apache httpd 2.4, `ap_rgetline_core`, `read_request_line` and `ap_get_mime_headers_core` in
//! `protocol.c`; RFC 9112 §2.2, §3, §5, §6 and §7.1.

use super::Limits;
use crate::net::{find, find_all};

/// Blank lines before a request line that are passed over. Source: Apache httpd 2.4,
/// `DEFAULT_LIMIT_BLANK_LINES`.
const BLANK_LINES: u8 = 10;

/// How much of one request has come.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    stage: Stage,
    /// Bytes of the line that is coming, without its end.
    line: usize,
    /// The last byte of that line, if it has any: its CR may be cut off from its LF.
    last: u8,
    /// Its first bytes, if it did not come at once: enough to know the fields that frame a body.
    begin: [u8; NAMED],
    blank: u8,
    fields: usize,
    /// Bytes of the head so far, and of its lines that are complete.
    head: usize,
    whole: usize,
    lengths: u8,
    codings: u8,
}

/// As long as the longest name that is looked for, with its colon.
const NAMED: usize = b"transfer-encoding:".len();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Blank lines, or nothing.
    Blank,
    RequestLine,
    Fields,
    /// The head is complete; its body's framing is not known yet.
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    Chunks(Chunks),
    /// All of it has come.
    Over,
}

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The request line is longer than `limit_request_line`.
    LineTooLong,
    /// A header line is longer than `limit_request_field_size`.
    FieldTooLong,
    /// There are more of them than `limit_request_fields`.
    TooManyFields,
    /// More blank lines than are passed over.
    BlankLines,
    /// A line of the head, or one between chunks, does not end with CR LF.
    BareLineFeed,
    /// There is more than one `Content-Length`: RFC 9110 §8.6 lets a recipient refuse that, and
    /// Apache httpd does, even where they are equal.
    TwoLengths,
    /// The HTTP library does not take the head for complete where it has to be.
    Unfinished,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake {
            stage: Stage::Blank,
            line: 0,
            last: 0,
            begin: [0; NAMED],
            blank: 0,
            fields: 0,
            head: 0,
            whole: 0,
            lengths: 0,
            codings: 0,
        }
    }
}

impl Intake {
    /// Takes in the next bytes: says how many of them belong to this request. The rest is to be
    /// kept back, and taken in again later.
    ///
    /// # Errors
    /// [`Fault`], as soon as it can be seen.
    pub(super) fn take(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Fault> {
        let mut taken = 0;
        while taken < bytes.len() {
            let rest = &bytes[taken..];
            taken += match &mut self.stage {
                Stage::Fields if self.line == 0 => match self.whole_fields(rest, limits)? {
                    0 => self.line(rest, limits)?,
                    here => here,
                },
                Stage::Blank | Stage::RequestLine | Stage::Fields => self.line(rest, limits)?,
                Stage::Body(left) => {
                    let here =
                        usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    *left -= here as u64;
                    if *left == 0 {
                        self.stage = Stage::Over;
                    }
                    here
                }
                Stage::Chunks(chunks) => {
                    let (here, is_over) = chunks.take(rest)?;
                    if is_over {
                        self.stage = Stage::Over;
                    }
                    here
                }
                // More is asked for only by who does not see the end.
                Stage::Head if taken == 0 => return Err(Fault::Unfinished),
                Stage::Head | Stage::Over => break,
            };
        }
        Ok(taken)
    }

    /// Takes in header lines that are there as a whole, and nothing is wrong with: most are.
    fn whole_fields(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Fault> {
        let most = limits.fields.unwrap_or(usize::MAX);
        let longest = limits.field_size + 1;
        let mut taken = 0;
        let mut fault = None;
        find_all(b'\n', bytes, |end| {
            let Some((b'\r', line)) = bytes[taken..end].split_last() else {
                return false;
            };
            let Some(first) = line.first() else {
                self.stage = Stage::Head;
                taken = end + 1;
                return false;
            };
            if line.len() > longest || self.fields >= most {
                return false;
            }
            if matches!(first | 0x20, b'c' | b't') {
                fault = self.field(line).err();
            } else {
                self.fields += 1;
            }
            taken = end + 1;
            fault.is_none()
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.head += taken;
        self.whole = self.head;
        Ok(taken)
    }

    /// Takes in the rest of a line, or all there is of it.
    fn line(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Fault> {
        let end = find(b'\n', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        let is_whole = self.line == 0 && end.is_some();
        if !is_whole && self.line < NAMED {
            let kept = part.len().min(NAMED - self.line);
            self.begin[self.line..self.line + kept].copy_from_slice(&part[..kept]);
        }
        self.line += part.len();
        self.head += part.len();
        if let Some(&last) = part.last() {
            self.last = last;
        }
        // A CR may be the first half of the line's end.
        let has_cr = self.line > 0 && self.last == b'\r';
        let length = self.line - usize::from(has_cr);
        if length > 0 && self.stage == Stage::Blank {
            self.stage = Stage::RequestLine;
        }
        // Apache's limit of N lets N + 1 bytes through before CR LF.
        if self.stage == Stage::RequestLine && length > limits.request_line + 1 {
            return Err(Fault::LineTooLong);
        }
        if self.stage == Stage::Fields && length > 0 {
            if length > limits.field_size + 1 {
                return Err(Fault::FieldTooLong);
            }
            if limits.fields.is_some_and(|most| self.fields >= most) {
                return Err(Fault::TooManyFields);
            }
        }
        let Some(end) = end else {
            return Ok(part.len());
        };
        self.head += 1;
        if !has_cr {
            return Err(Fault::BareLineFeed);
        }
        if self.stage == Stage::Blank {
            self.blank += 1;
            if self.blank > BLANK_LINES {
                return Err(Fault::BlankLines);
            }
        } else if self.stage == Stage::RequestLine {
            self.stage = Stage::Fields;
        } else if length == 0 {
            self.stage = Stage::Head;
        } else if is_whole {
            self.field(part)?;
        } else {
            let begin = self.begin;
            self.field(&begin[..self.line.min(NAMED)])?;
        }
        self.line = 0;
        self.whole = self.head;
        Ok(end + 1)
    }

    /// A header line is complete; it begins so.
    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.fields += 1;
        let is = |name: &[u8]| {
            let begin = line.get(..name.len());
            begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name))
        };
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b'c') if is(b"content-length:") => {
                self.lengths += 1;
                if self.lengths > 1 {
                    return Err(Fault::TwoLengths);
                }
            }
            Some(b't') if is(b"transfer-encoding:") => self.codings = 1,
            _ => {}
        }
        Ok(())
    }

    /// The head has been read: a body of this length follows.
    pub(super) fn body(&mut self, framing: Framing) {
        self.stage = match framing {
            Framing::Length(0) => Stage::Over,
            Framing::Length(length) => Stage::Body(length),
            Framing::Chunked => Stage::Chunks(Chunks::default()),
        };
    }

    /// Begins with the next request.
    pub(super) fn next(&mut self) {
        *self = Intake::default();
    }

    /// Whether nothing of a request has come, not even a blank line.
    pub(super) fn is_new(&self) -> bool {
        self.stage == Stage::Blank && self.head == 0
    }

    /// Whether the head is complete, so that what comes is its body.
    pub(super) fn is_head_complete(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Blank | Stage::RequestLine | Stage::Fields
        )
    }

    /// Whether the request line is complete.
    pub(super) fn has_request_line(&self) -> bool {
        !matches!(self.stage, Stage::Blank | Stage::RequestLine)
    }

    /// Whether what would come now belongs to the next request.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Bytes of the head's lines that are complete.
    pub(super) fn line_bytes(&self) -> usize {
        self.whole
    }

    /// Whether the head has both a length and a transfer coding: RFC 9112 §6.3 has such a connection
    /// ended after the response.
    pub(super) fn is_framed_twice(&self) -> bool {
        self.lengths > 0 && self.codings > 0
    }
}

/// Where a body in chunks ends. What is wrong with one is for the HTTP library to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chunks {
    part: Part,
    /// The size that is being read, or what is left of the chunk with its CR LF.
    size: u64,
    /// The last byte of a line was a CR.
    has_cr: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    /// After the size, up to the line's end.
    Extension,
    Data,
    /// A trailer line of which nothing but maybe a CR has come.
    Trailer,
    TrailerLine,
}

impl Chunks {
    /// How many of the bytes belong to the body, and whether that was its end.
    fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Fault> {
        let mut at = 0;
        while at < bytes.len() {
            if self.part == Part::Data {
                let left = bytes.len() - at;
                let here = usize::try_from(self.size).map_or(left, |size| size.min(left));
                self.size -= here as u64;
                at += here;
                if self.size == 0 {
                    self.part = Part::Size;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            if byte != b'\n' {
                self.see(byte);
                self.has_cr = byte == b'\r';
                continue;
            }
            // Who takes a bare one for the end of a line, and who does not, would see different requests.
            if !std::mem::take(&mut self.has_cr) {
                return Err(Fault::BareLineFeed);
            }
            match self.part {
                Part::Size | Part::Extension if self.size == 0 => self.part = Part::Trailer,
                Part::Size | Part::Extension | Part::Data => {
                    self.part = Part::Data;
                    self.size = self.size.saturating_add(2);
                }
                Part::Trailer => return Ok((at, true)),
                Part::TrailerLine => self.part = Part::Trailer,
            }
        }
        Ok((at, false))
    }

    /// A byte of a line, which does not end it.
    fn see(&mut self, byte: u8) {
        match self.part {
            Part::Size => match (byte as char).to_digit(16) {
                Some(digit) => {
                    self.size = self.size.saturating_mul(16).saturating_add(digit.into());
                }
                None => self.part = Part::Extension,
            },
            Part::Trailer if byte != b'\r' || self.has_cr => self.part = Part::TrailerLine,
            Part::Trailer | Part::TrailerLine | Part::Extension | Part::Data => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> Limits {
        Limits {
            request_line: 30,
            fields: Some(2),
            field_size: 20,
            ..Limits::default()
        }
    }

    /// Takes `text` in, cut at `cut`: how much of it was taken.
    fn taken(intake: &mut Intake, text: &str, cut: usize) -> Result<usize, Fault> {
        let (first, second) = text.as_bytes().split_at(cut);
        let taken = intake.take(first, &limits())?;
        if intake.is_head_complete() {
            return Ok(taken);
        }
        Ok(taken + intake.take(second, &limits())?)
    }

    #[test]
    fn a_head_ends_at_its_blank_line_wherever_it_is_cut() {
        let head = "\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n";
        let text = format!("{head}GET /next");
        for cut in 0..text.len() {
            let mut intake = Intake::default();
            assert_eq!(taken(&mut intake, &text, cut), Ok(head.len()), "{cut}");
            assert!(intake.has_request_line());
            assert_eq!(intake.line_bytes(), head.len());
        }
    }

    #[test]
    fn what_is_known_before_the_head_is_complete() {
        for (text, begun, line) in [
            ("", false, false),
            ("\r", true, false),
            ("\r\n", true, false),
            ("GET / HT", true, false),
            ("GET / HTTP/1.1\r", true, false),
            ("GET / HTTP/1.1\r\n", true, true),
            ("\r\nGET / HTTP/1.1\r\nHost: a", true, true),
        ] {
            let mut intake = Intake::default();
            assert_eq!(intake.take(text.as_bytes(), &limits()), Ok(text.len()));
            assert_eq!(!intake.is_new(), begun, "{text:?}");
            assert_eq!(intake.has_request_line(), line, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_seen_wherever_the_text_is_cut_and_limits_of_n_allow_n_plus_one() {
        let line = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length - 14));
        let field = |length: usize| format!("A: {}", "b".repeat(length - 3));
        let head = |field: &str| format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
        for (text, expected) in [
            (format!("{}\r\n\r\n", line(31)), None),
            (format!("{}\r\n\r\n", line(32)), Some(Fault::LineTooLong)),
            (head(&field(21)), None),
            (head(&field(22)), Some(Fault::FieldTooLong)),
            (head("A: 1\r\nB: 2"), None),
            (head("A: 1\r\nB: 2\r\nC: 3"), Some(Fault::TooManyFields)),
            (format!("{}{}", "\r\n".repeat(10), head("A: 1")), None),
            ("\r\n".repeat(11), Some(Fault::BlankLines)),
            (
                "GET / HTTP/1.1\nA: b\r\n\r\n".to_owned(),
                Some(Fault::BareLineFeed),
            ),
            (head("A: b\nC: d"), Some(Fault::BareLineFeed)),
            (
                "\nGET / HTTP/1.1\r\n\r\n".to_owned(),
                Some(Fault::BareLineFeed),
            ),
            (
                head("content-length: 1\r\nCONTENT-Length:1"),
                Some(Fault::TwoLengths),
            ),
        ] {
            for cut in 0..text.len() {
                let result = taken(&mut Intake::default(), &text, cut);
                assert_eq!(result.err(), expected, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_seen_before_its_end() {
        let mut intake = Intake::default();
        let begin = format!("GET /{}", "a".repeat(30));
        let result = intake.take(begin.as_bytes(), &limits());
        assert_eq!(result, Err(Fault::LineTooLong));
    }

    #[test]
    fn two_framings_are_noticed() {
        for (head, twice) in [
            ("Content-Length: 1\r\nX: y", false),
            ("Transfer-Encoding: x", false),
            ("Transfer-encoding: x\r\nCONTENT-LENGTH: 1", true),
        ] {
            let mut intake = Intake::default();
            let head = format!("GET / HTTP/1.1\r\n{head}\r\n\r\n");
            let wide = Limits::default();
            assert_eq!(intake.take(head.as_bytes(), &wide), Ok(head.len()));
            assert_eq!(intake.is_framed_twice(), twice, "{head:?}");
        }
    }

    /// A head, a body in this framing, and what comes after it.
    fn body_ends(framing: Framing, body: &[u8], after: &[u8], cuts: &[usize]) -> bool {
        let mut intake = Intake::default();
        let head = b"POST / HTTP/1.1\r\n\r\n";
        let mut text = [head, body, after].concat();
        assert_eq!(intake.take(&text, &limits()), Ok(head.len()));
        intake.body(framing);
        text.drain(..head.len());
        let (mut at, mut cuts) = (0, cuts.iter());
        while at < text.len() && !intake.is_over() {
            let step = cuts.next().map_or(text.len(), |cut| cut + 1);
            let end = text.len().min(at + step);
            at += intake.take(&text[at..end], &limits()).unwrap();
        }
        at == body.len() && intake.is_over()
    }

    #[test]
    fn a_line_between_chunks_that_ends_with_a_bare_line_feed_is_at_fault() {
        for body in [
            "3\nabc\r\n0\r\n\r\n",
            "3;x\nabc",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
        ] {
            for cut in 0..body.len() {
                let mut intake = Intake::default();
                let head = b"POST / HTTP/1.1\r\n\r\n";
                assert_eq!(intake.take(head, &limits()), Ok(head.len()));
                intake.body(Framing::Chunked);
                let (first, second) = body.as_bytes().split_at(cut);
                let result = intake.take(first, &limits());
                let result = result.and_then(|_| intake.take(second, &limits()));
                assert_eq!(result, Err(Fault::BareLineFeed), "{body:?} cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_body_ends_where_its_length_says(
            length in 0..200usize,
            after in "[a-z\r\n]{0,40}",
            cuts in prop::collection::vec(0..30usize, 0..40),
        ) {
            let body = vec![b'x'; length];
            prop_assert!(body_ends(Framing::Length(length as u64), &body, after.as_bytes(), &cuts));
        }

        #[test]
        fn a_body_in_chunks_ends_with_the_last_one(
            chunks in prop::collection::vec("[a-z0-9\r\n;]{1,20}", 0..6),
            extension in "(;[a-z=]{0,5})?",
            trailers in prop::collection::vec("[A-Z]: [a-z]{0,5}", 0..3),
            after in "[a-z0-9\r\n]{0,40}",
            cuts in prop::collection::vec(0..30usize, 0..40),
        ) {
            let chunk = |chunk: &String| format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len());
            let chunks: String = chunks.iter().map(chunk).collect();
            let trailers = trailers.iter().flat_map(|line| [line.as_str(), "\r\n"]);
            let trailers: String = trailers.collect();
            let body = format!("{chunks}0{extension}\r\n{trailers}\r\n");
            prop_assert!(body_ends(Framing::Chunked, body.as_bytes(), after.as_bytes(), &cuts));
        }
    }
}
