//! What is kept of a request so that it can be sent again.
//!
//! Nothing is copied for the requests that are answered, which are nearly all. The head is had back
//! from the connection it was written to, where that keeps what it wrote; the body's pieces are kept
//! as they pass, by reference, up to `retry_body`. A body of one piece, as most that are short, takes
//! no allocation.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::body::{BackendConn, RequestBody, Upload};

/// A piece of a body shorter than this, but for the first, is copied to others of its kind: kept by
/// reference, each would hold the whole buffer it was read into, which is four times as large.
const SMALL: usize = 2048;

/// A request that is under way, as far as it is needed to send it again.
pub(super) struct Replay {
    head: Head,
    /// The same body as the request's.
    body: RequestBody,
}

/// How a request's head can be had again.
enum Head {
    /// Its connection gives back what was written.
    Written,
    /// The connection writes something else than HTTP/1.1, so it was copied.
    Copy(Box<Request<()>>),
}

impl Replay {
    /// Keeps what is needed of a request that is about to be sent on `conn`: of its body at most
    /// `bound` bytes.
    pub(super) fn keep(request: &Request<RequestBody>, conn: &BackendConn, bound: u64) -> Replay {
        let head = if conn.keep_head() {
            Head::Written
        } else {
            Head::Copy(Box::new(copy_of(request)))
        };
        let body = request.body().keep(bound);
        Replay { head, body }
    }

    /// The request has begun to be written, and may not be sent again for that: its body need not be
    /// kept any more.
    pub(super) fn let_body_go(&self) {
        self.body.let_go();
    }

    /// Whether the body is there from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_whole()
    }

    /// The request's body on its way, if there is one.
    pub(super) fn upload(&self) -> Option<Upload> {
        self.body.upload()
    }

    /// The request once more. `None` if its head cannot be had back.
    pub(super) fn again(mut self, conn: &BackendConn) -> Option<Request<RequestBody>> {
        let head = match &mut self.head {
            Head::Written => parse(conn.take_written_head())?,
            Head::Copy(request) => std::mem::take(&mut **request),
        };
        let (parts, ()) = head.into_parts();
        Some(Request::from_parts(parts, self.body.again()))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.body.let_go();
    }
}

fn copy_of(request: &Request<RequestBody>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Reads a head that this proxy wrote; what follows it is passed over.
fn parse(written: Vec<u8>) -> Option<Request<()>> {
    let written = Bytes::from(written);
    let lines = written.split(|&byte| byte == b'\n').count();
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    let mut head = httparse::Request::new(&mut fields);
    if head.parse(&written).ok()?.is_partial() {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::from_maybe_shared(written.slice_ref(head.path?.as_bytes())).ok()?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.reserve(head.headers.len());
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(written.slice_ref(field.value)).ok()?;
        headers.append(name, value);
    }
    Some(request)
}

/// The part of a body that has passed, as long as it is to be kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Most bodies that can be kept come in one piece: it takes no place elsewhere.
    first: Option<Bytes>,
    pieces: VecDeque<Bytes>,
    /// The small ones behind them.
    rest: Vec<u8>,
    trailers: Option<HeaderMap>,
    bytes: u64,
    /// The most that may be kept.
    bound: u64,
    keeps: bool,
    /// It goes out for the second time: what passes now is not kept once more.
    goes_again: bool,
    /// Something has passed and is not kept.
    is_cut: bool,
}

impl Kept {
    /// Keeps what passes from here on, up to `bound` bytes.
    pub(super) fn keep(&mut self, bound: u64) {
        if !self.goes_again {
            self.bound = bound;
            self.keeps = bound > 0;
        }
    }

    /// Keeps nothing any more. What is to be sent again is not touched.
    pub(super) fn let_go(&mut self) {
        if self.keeps {
            *self = Kept {
                is_cut: self.is_cut || self.bytes > 0 || self.trailers.is_some(),
                ..Kept::default()
            };
        }
    }

    /// Whether nothing has passed that is not kept.
    pub(super) fn is_whole(&self) -> bool {
        !self.is_cut
    }

    /// A piece of the body passes.
    pub(super) fn note(&mut self, piece: &Bytes) {
        self.bytes += piece.len() as u64;
        if self.bytes > self.bound {
            self.let_go();
        }
        if !self.keeps {
            self.is_cut = true;
        } else if self.bytes == piece.len() as u64 {
            self.first = Some(piece.clone());
        } else if piece.len() < SMALL {
            self.rest.extend_from_slice(piece);
        } else {
            self.close_rest();
            self.pieces.push_back(piece.clone());
        }
    }

    /// The trailers pass.
    pub(super) fn note_trailers(&mut self, trailers: &HeaderMap) {
        if self.keeps {
            self.trailers = Some(trailers.clone());
        } else {
            self.is_cut = true;
        }
    }

    /// What is kept is to be sent again, and what follows it will not be.
    pub(super) fn rewind(&mut self) {
        self.close_rest();
        self.keeps = false;
        self.goes_again = true;
    }

    /// The next piece to be sent again.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if self.keeps {
            return None;
        }
        let piece = self.first.take().or_else(|| self.pieces.pop_front());
        self.is_cut |= piece.is_some();
        piece
    }

    /// The trailers to be sent again, after the last piece.
    pub(super) fn next_trailers(&mut self) -> Option<HeaderMap> {
        if self.keeps {
            return None;
        }
        let trailers = self.trailers.take();
        self.is_cut |= trailers.is_some();
        trailers
    }

    /// How many bytes are to be sent again, and whether trailers are.
    pub(super) fn left(&self) -> (u64, bool) {
        if self.keeps {
            return (0, false);
        }
        let pieces = self.first.iter().chain(&self.pieces);
        let bytes = pieces.map(|piece| piece.len() as u64).sum();
        (bytes, self.trailers.is_some())
    }

    fn close_rest(&mut self) {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.pieces.push_back(Bytes::from(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(bound: u64, lengths: &[usize]) -> Kept {
        let mut kept = Kept::default();
        kept.keep(bound);
        for (n, &length) in lengths.iter().enumerate() {
            let fill = u8::try_from(n % 251).expect("it is small");
            kept.note(&Bytes::from(vec![fill; length]));
        }
        kept
    }

    #[test]
    fn a_body_is_whole_up_to_the_bound_and_cut_beyond_it() {
        for (bound, lengths, whole) in [
            (10, &[10][..], true),
            (10, &[5, 5], true),
            (10, &[5, 6], false),
            (10, &[11], false),
            (0, &[], true),
            (0, &[1], false),
            (100_000, &[1, 5000, 3, 4, 60_000], true),
        ] {
            let kept = passed(bound, lengths);
            assert_eq!(kept.is_whole(), whole, "{bound} {lengths:?}");
            if !whole {
                assert!(kept.first.is_none() && kept.pieces.is_empty() && kept.rest.is_empty());
            }
        }
    }

    #[test]
    fn what_has_passed_is_lost_when_it_is_let_go_and_what_goes_again_is_not() {
        let mut kept = passed(10, &[]);
        kept.let_go();
        assert!(kept.is_whole(), "nothing has passed");
        kept.note(&Bytes::from_static(b"x"));
        assert!(!kept.is_whole());
        let mut kept = passed(10, &[4]);
        kept.rewind();
        kept.let_go();
        assert_eq!(kept.left(), (4, false));
        assert_eq!(kept.next().map(|piece| piece.len()), Some(4));
        assert_eq!(kept.next(), None);
    }

    #[test]
    fn what_goes_out_for_the_second_time_is_not_kept_once_more() {
        let mut kept = passed(10, &[4]);
        kept.rewind();
        kept.keep(10);
        assert_eq!((kept.left(), kept.is_whole()), ((4, false), true));
        assert!(kept.next().is_some());
        assert!(!kept.is_whole(), "it has passed");
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_again_byte_for_byte(
            lengths in prop::collection::vec(prop_oneof![1..50usize, 1900..2200usize, 1..9000usize], 0..12),
        ) {
            let mut kept = passed(u64::MAX, &lengths);
            prop_assert_eq!(kept.left(), (0, false));
            let mut all = Vec::new();
            for (n, &length) in lengths.iter().enumerate() {
                all.extend(vec![u8::try_from(n % 251).unwrap(); length]);
            }
            kept.rewind();
            prop_assert_eq!(kept.left(), (all.len() as u64, false));
            let mut again = Vec::new();
            while let Some(piece) = kept.next() {
                again.extend_from_slice(&piece);
            }
            prop_assert_eq!(again, all);
        }

        #[test]
        fn a_head_that_was_written_is_read_again_as_it_was(
            method in prop::sample::select(vec!["GET", "PUT", "DELETE", "PATCH", "X-OWN"]),
            path in "/[!-\"$-~]{0,40}",
            fields in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,12}", "[!-~\u{80}-\u{ff}]([ -~]{0,20}[!-~])?"), 0..40),
            body in "[ -~\r\n]{0,60}",
        ) {
            let Ok(uri) = path.parse::<Uri>() else {
                return Ok(());
            };
            let mut text = format!("{method} {uri} HTTP/1.1\r\n").into_bytes();
            let mut expected = HeaderMap::new();
            for (name, value) in &fields {
                text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                expected.append(
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
            text.extend_from_slice(b"\r\n");
            for cut in [0, 1, text.len() - 1] {
                prop_assert!(parse(text[..cut].to_vec()).is_none());
            }
            text.extend_from_slice(body.as_bytes());
            let request = parse(text).expect("it is a head");
            prop_assert_eq!(request.method().as_str(), method);
            prop_assert_eq!(request.uri(), &uri);
            prop_assert_eq!(request.headers(), &expected);
        }
    }
}
