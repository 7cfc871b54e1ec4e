//! Counts the interim responses (1xx) that come before an answer: the HTTP library passes over them,
//! as many as there are.

use std::io;

/// The most before one answer. `102 Processing` every few seconds and a handful of `103 Early Hints`
/// stay far below it.
const MOST: u16 = 100;

/// `HTTP/1.1 1xx`: so much says whether it is one.
const BEGINNING: usize = 12;

/// Too many interim responses came.
#[derive(Debug, thiserror::Error)]
#[error("more than {MOST} interim responses came before the answer")]
pub(super) struct TooManyInterim;

impl From<TooManyInterim> for io::Error {
    fn from(error: TooManyInterim) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// Where in the responses to a request the bytes are that came last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interim {
    at: At,
    seen: u16,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// In the answer, or nothing was asked for.
    #[default]
    Over,
    /// In what a response begins with.
    Beginning { bytes: [u8; BEGINNING], length: u8 },
    /// In the rest of an interim response's head; maybe in a line that has been empty so far.
    Interim { is_empty: bool },
}

const BEGIN: At = At::Beginning {
    bytes: [0; BEGINNING],
    length: 0,
};

impl Interim {
    /// A request goes out; its responses follow.
    pub(super) fn expect() -> Interim {
        Interim { at: BEGIN, seen: 0 }
    }

    /// How many have come.
    pub(super) fn seen(&self) -> u16 {
        self.seen
    }

    /// The next bytes come.
    ///
    /// # Errors
    /// When there are too many interim responses.
    pub(super) fn note(&mut self, bytes: &[u8]) -> Result<(), TooManyInterim> {
        // Nearly always an answer that begins with its first byte.
        if let (At::Beginning { length: 0, .. }, Some((beginning, _))) =
            (self.at, bytes.split_first_chunk())
            && beginning[0] == b'H'
            && !is_interim(beginning)
        {
            self.at = At::Over;
        }
        let mut bytes = bytes.iter();
        while !matches!(self.at, At::Over)
            && let Some(&byte) = bytes.next()
        {
            self.byte(byte);
            if self.seen > MOST {
                return Err(TooManyInterim);
            }
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) {
        match &mut self.at {
            At::Over => {}
            // Blank lines before a response are passed over.
            At::Beginning { length: 0, .. } if matches!(byte, b'\r' | b'\n') => {}
            At::Beginning { bytes, length } => {
                let at = usize::from(*length);
                bytes[at] = byte;
                *length += 1;
                if at + 1 == BEGINNING {
                    self.at = if is_interim(bytes) {
                        At::Interim { is_empty: false }
                    } else {
                        At::Over
                    };
                }
            }
            At::Interim { is_empty } => match byte {
                b'\n' if *is_empty => {
                    self.seen += 1;
                    self.at = BEGIN;
                }
                b'\n' => *is_empty = true,
                b'\r' => {}
                _ => *is_empty = false,
            },
        }
    }
}

/// 101 is the last one of its request.
fn is_interim(beginning: &[u8; BEGINNING]) -> bool {
    beginning.starts_with(b"HTTP/1.") && beginning[8..10] == *b" 1" && beginning[10..] != *b"01"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(text: &str, piece: usize) -> (Result<(), TooManyInterim>, Interim) {
        let mut interim = Interim::expect();
        for bytes in text.as_bytes().chunks(piece) {
            if let Err(error) = interim.note(bytes) {
                return (Err(error), interim);
            }
        }
        (Ok(()), interim)
    }

    #[test]
    fn interim_responses_are_counted_however_they_are_cut() {
        let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let go_on = "HTTP/1.0 100\n\n";
        let answer = "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
        for (text, seen) in [
            (answer.to_owned(), 0),
            (format!("\r\n{hint}{answer}"), 1),
            (format!("{go_on}\r\n{hint}{go_on}{answer}"), 3),
            (format!("{hint}HTTP/1.1 101 Switching\r\n\r\n{hint}"), 1),
            (format!("{hint}HTTP/1.1 10"), 1),
            ("HTTP/1.1 100 Continue\r\nX: 1".to_owned(), 0),
            ("nonsense\r\n\r\n".repeat(300), 0),
        ] {
            for piece in [1, 2, 7, 1000] {
                let (result, interim) = noted(&text, piece);
                assert!(result.is_ok());
                assert_eq!(interim.seen, seen, "{text:?} by {piece}");
            }
        }
    }

    #[test]
    fn a_hundred_are_borne_and_no_more() {
        for (count, fits) in [(100, true), (101, false)] {
            let text = "HTTP/1.1 102 Processing\r\n\r\n".repeat(count);
            for piece in [1, 1000] {
                assert_eq!(noted(&text, piece).0.is_ok(), fits, "{count} by {piece}");
            }
        }
    }
}
