//! Whether a request that got no answer may be sent again.
//!
//! A backend may close an idle connection at the very moment a request is written to it. It shows
//! as an end of file, a reset or a broken pipe, and all three mean the same: nothing was answered.
//! What then may be sent again is a matter of proof, not of luck:
//!
//! - nothing of it was written, since the library gave it back or since the kernel took not a byte of
//!   it; or the backend says that it has not processed it (HTTP/2: RFC 9113 §8.7): whatever the
//!   method;
//! - not a byte of a response came, and doing it twice does what doing it once does (RFC 9110
//!   §9.2.2), or the client says that the backend can tell (`Idempotency-Key`), once, on
//!   a connection opened for it.
//!
//! And all of it has to be there still: of a body no more may have passed than is kept.
//!
//! On a connection that was opened for the request there is no such race: the backend refuses, and
//! sending again would only ask it twice.

use http::{HeaderMap, Method};

use crate::pool::Need;

/// So often may a request be sent again of which nothing was written, or that was refused.
const UNSENT_TRIES: u32 = 3;

/// What is known when an exchange has ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The connection had served, or waited, before.
    pub reused: bool,
    /// How often the request was sent before.
    pub before: u32,
    /// Nothing of it was written.
    pub unsent: bool,
    /// The backend says that it has not processed it.
    pub refused: bool,
    /// Not a byte of a response came.
    pub silent: bool,
    /// It may be done twice.
    pub idempotent: bool,
    /// It is still there from its beginning.
    pub whole: bool,
}

/// Why a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Proof {
    /// Nothing of it was written.
    Unsent,
    /// It may be done twice, and nothing was answered.
    Repeatable,
    /// The backend says that it has not processed it.
    Refused,
}

impl Proof {
    /// As it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Proof::Unsent => "unsent",
            Proof::Repeatable => "repeatable",
            Proof::Refused => "refused",
        }
    }
}

/// Judges whether a request may be sent again, and why.
pub fn again(attempt: &Attempt) -> Option<Proof> {
    if !attempt.whole {
        return None;
    }
    if attempt.refused {
        return (attempt.before < UNSENT_TRIES).then_some(Proof::Refused);
    }
    if !attempt.reused {
        return None;
    }
    if attempt.unsent {
        return (attempt.before < UNSENT_TRIES).then_some(Proof::Unsent);
    }
    (attempt.before == 0 && attempt.silent && attempt.idempotent).then_some(Proof::Repeatable)
}

/// Whether doing a request twice does what doing it once does. Source: RFC 9110 §9.2.2;
/// draft-ietf-httpapi-idempotency-key-header.
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key("idempotency-key")
}

/// What a request needs of a connection: one that cannot be sent again stays clear of those that
/// the backend may be about to close. `length`: of its body, if it is known; `bound`: how much of it is
/// kept.
pub fn need(idempotent: bool, length: Option<u64>, bound: u64) -> Need {
    if idempotent && length.is_some_and(|length| length <= bound) {
        Need::Any
    } else {
        Need::Young
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROSSED: Attempt = Attempt {
        reused: true,
        before: 0,
        unsent: false,
        refused: false,
        silent: true,
        idempotent: true,
        whole: true,
    };

    #[test]
    fn a_request_is_sent_again_only_with_proof() {
        let rule = |change: fn(&mut Attempt)| {
            let mut attempt = CROSSED;
            change(&mut attempt);
            again(&attempt)
        };
        assert_eq!(rule(|_| ()), Some(Proof::Repeatable));
        assert_eq!(rule(|it| it.before = 1), None, "once");
        assert_eq!(rule(|it| it.silent = false), None, "it was being answered");
        assert_eq!(rule(|it| it.idempotent = false), None);
        assert_eq!(rule(|it| it.whole = false), None);
        assert_eq!(rule(|it| it.reused = false), None, "no race on a new one");
        let unsent = |it: &mut Attempt| (it.unsent, it.idempotent) = (true, false);
        assert_eq!(rule(unsent), Some(Proof::Unsent));
        let half = |it: &mut Attempt| (it.unsent, it.whole) = (true, false);
        assert_eq!(rule(half), None, "its body has begun to be read");
        let refused = |it: &mut Attempt| {
            (it.refused, it.reused, it.idempotent) = (true, false, false);
        };
        assert_eq!(rule(refused), Some(Proof::Refused), "on a new one too");
        for (before, proof) in [(2, Some(Proof::Unsent)), (3, None)] {
            let attempt = Attempt {
                before,
                unsent: true,
                idempotent: false,
                ..CROSSED
            };
            assert_eq!(again(&attempt), proof, "sent {before} times before");
        }
    }

    #[test]
    fn what_cannot_be_sent_again_needs_a_young_connection() {
        for (idempotent, length, need) in [
            (true, Some(0), Need::Any),
            (true, Some(10), Need::Any),
            (true, Some(11), Need::Young),
            (true, None, Need::Young),
            (false, Some(0), Need::Young),
        ] {
            assert_eq!(super::need(idempotent, length, 10), need, "{length:?}");
        }
        assert_eq!(need(true, Some(0), 0), Need::Any, "no body");
    }

    #[test]
    fn the_idempotent_methods_are_those_of_the_rfc() {
        let none = HeaderMap::new();
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_idempotent(&method.parse().unwrap(), &none), "{method}");
        }
        let mut key = HeaderMap::new();
        key.insert("idempotency-key", "\"8e03978e\"".parse().unwrap());
        for method in ["POST", "PATCH", "PURGE", "get"] {
            let method = method.parse().unwrap();
            assert!(!is_idempotent(&method, &none), "{method}");
            assert!(is_idempotent(&method, &key), "{method}");
        }
    }
}
