//! The page at `/`: one document with all that it needs, which asks nobody else for anything.

use std::hash::{BuildHasher as _, RandomState};

use http::{HeaderValue, Response, StatusCode};

use super::site::{Body, text};

/// Its pieces, put together.
const PAGE: &str = concat!(
    include_str!("page/head.html"),
    include_str!("page/page.css"),
    include_str!("page/body.html"),
    include_str!("page/draw.js"),
    include_str!("page/page.js"),
    "</script>\n</body>\n</html>\n",
);

/// What stands in them for the word that only this answer's script and style have.
const NONCE: &str = "@NONCE@";

/// The page, with leave to run its own script and to ask its own address, and nothing else.
pub(super) fn response() -> Response<Body> {
    // Random by the process' own keys; hashed twice, as it takes 128 bits.
    let draw = || RandomState::new().hash_one(0_u8);
    let nonce = format!("{:016x}{:016x}", draw(), draw());
    let mut response = text(
        StatusCode::OK,
        "text/html; charset=utf-8",
        PAGE.replace(NONCE, &nonce),
    );
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    headers.insert(
        "content-security-policy",
        HeaderValue::try_from(policy).expect("it is ASCII"),
    );
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_other_address_and_makes_no_markup_of_text() {
        for never in [
            "http:",
            "https:",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            // The namespace of SVG is a name, not an address.
            let page = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(never), "{never} in the page");
        }
        assert_eq!(PAGE.matches(NONCE).count(), 2);
    }

    #[test]
    fn no_two_answers_have_the_same_word() {
        let policy = || {
            let response = response();
            response.headers()["content-security-policy"].clone()
        };
        assert_ne!(policy(), policy());
    }
}
