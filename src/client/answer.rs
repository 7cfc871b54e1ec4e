//! Answers of our own: a status and a short text.

use http::StatusCode;

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
