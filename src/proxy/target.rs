//! Whom a request is for: which targets and hosts are taken; and how long a head may be that did not come in
//! lines.

use http::{HeaderValue, Uri, request};

use super::Failure;
use crate::client::Limits;

/// Checks the target of a request.
///
/// # Errors
/// [`Failure::BadRequest`].
pub(super) fn check_target(uri: &Uri) -> Result<(), Failure> {
    let Some(authority) = uri.authority() else {
        return Ok(());
    };
    match uri.scheme_str() {
        Some("http" | "https") if is_host(authority.as_str().as_bytes()) => Ok(()),
        Some("http" | "https") => Err(Failure::BadRequest(
            "The request target's host is not a host.",
        )),
        Some(_) => Err(Failure::BadRequest(
            "The request target's scheme is not http.",
        )),
        // RFC 9112 §3.2.3: a bare authority is for CONNECT only.
        None => Err(Failure::BadRequest("The request target is not a path.")),
    }
}

/// Checks a `Host` header.
///
/// # Errors
/// [`Failure::BadRequest`].
pub(super) fn check_host(value: &HeaderValue) -> Result<(), Failure> {
    if is_host(value.as_bytes()) {
        Ok(())
    } else {
        Err(Failure::BadRequest("The Host header is not a host."))
    }
}

/// RFC 3986 §3.2.2 and §3.2.3: a name or an address in brackets, maybe a port. Without user
/// information, and without percent-encoding, which names on the net do not have: two programs that
/// take it differently would take the request for different hosts.
fn is_host(text: &[u8]) -> bool {
    let (host, after) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else {
                return false;
            };
            let fits = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if end == 0 || !rest[..end].iter().all(fits) {
                return false;
            }
            (&rest[..end], &rest[end + 1..])
        }
        text => {
            let end = text.iter().position(|&byte| byte == b':');
            let (host, after) = text.split_at(end.unwrap_or(text.len()));
            let fits =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte);
            if !host.iter().all(fits) {
                return false;
            }
            (host, after)
        }
    };
    let is_port = match after {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && is_port
}

/// Holds a head that came over HTTP/2 against the limits that one in lines was held against as it came in:
/// it is as long as its lines would be.
///
/// # Errors
/// [`Failure`] with status 414 or 431.
pub(super) fn check_size(parts: &request::Parts, limits: &Limits) -> Result<(), Failure> {
    let target = parts.uri.path_and_query().map_or(1, |it| it.as_str().len());
    let line = parts.method.as_str().len() + target + " ".len() + " HTTP/1.1".len();
    // Apache's limit of N lets N + 1 bytes through.
    if line > limits.request_line + 1 {
        return Err(Failure::TargetTooLong(limits.request_line));
    }
    if let Some(most) = limits.fields
        && parts.headers.len() > most
    {
        return Err(Failure::TooManyFields(most));
    }
    let mut fields = parts.headers.iter();
    let is_long = |name: usize, value: usize| name + ": ".len() + value > limits.field_size + 1;
    if fields.any(|(name, value)| is_long(name.as_str().len(), value.len())) {
        return Err(Failure::FieldTooLong(limits.field_size));
    }
    Ok(())
}
