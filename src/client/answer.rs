//! Answers of our own: a status and a short text.

use http::StatusCode;

use super::intake::Fault;

/// The text of an error answer.
pub fn text(status: StatusCode, reason: &str) -> String {
    format!(
        "{} {}\n{reason}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error")
    )
}

/// A whole answer for a connection that ends with it, head and body.
pub(super) fn raw(status: StatusCode, reason: &str) -> Vec<u8> {
    let body = text(status, reason);
    format!(
        "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        httpdate::fmt_http_date(std::time::SystemTime::now()),
        body.len(),
    )
    .into_bytes()
}

/// The answer to a request in whose head something is wrong.
pub(super) fn to_fault(fault: Fault) -> (StatusCode, &'static str) {
    let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    match fault {
        Fault::LineTooLong => (StatusCode::URI_TOO_LONG, "The request line is too long."),
        Fault::FieldTooLong => (too_large, "A header line of the request is too long."),
        Fault::TooManyFields => (too_large, "The request has too many header lines."),
        Fault::BlankLines => (
            StatusCode::BAD_REQUEST,
            "There are too many blank lines before the request.",
        ),
        Fault::BareLineFeed => (
            StatusCode::BAD_REQUEST,
            "A line of the request does not end with CR LF.",
        ),
        Fault::TwoLengths => (
            StatusCode::BAD_REQUEST,
            "The request has more than one Content-Length.",
        ),
        Fault::Unfinished => (StatusCode::BAD_REQUEST, "The request could not be read."),
    }
}

/// What is said of a request that could not be read.
pub(super) fn unreadable(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "The request target is too long.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "The request's head is too large or has too many lines."
        }
        _ => "The request could not be read.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_answer_has_the_length_it_says() {
        let raw = String::from_utf8(raw(StatusCode::BAD_REQUEST, "Why.")).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "400 Bad Request\nWhy.\n");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        assert!(head.ends_with("Connection: close"), "{head}");
    }
}
