//! What a backend says of its connection in `Keep-Alive`.

use std::time::Duration;

use http::HeaderValue;

use crate::pool::Hint;

/// What `timeout=0` stands for: Node.js and Apache httpd cut a timeout below a second off to whole
/// seconds (`_http_outgoing.js`, `ap_set_keepalive`). Who means none says `Connection: close`.
const BELOW_A_SECOND: Duration = Duration::from_millis(500);

/// Reads `Keep-Alive: timeout=N, max=M`; what it does not understand says nothing.
pub(super) fn hint(value: &HeaderValue) -> Hint {
    let mut hint = Hint::default();
    for part in value.as_bytes().split(|&byte| byte == b',') {
        let Ok(part) = std::str::from_utf8(part) else {
            continue;
        };
        let Some((name, number)) = part.split_once('=') else {
            continue;
        };
        let number = number.trim().trim_matches('"').parse::<u32>();
        match (name.trim(), number) {
            (name, Ok(seconds)) if name.eq_ignore_ascii_case("timeout") => {
                hint.timeout = Some(match seconds {
                    0 => BELOW_A_SECOND,
                    _ => Duration::from_secs(seconds.into()),
                });
            }
            (name, Ok(more)) if name.eq_ignore_ascii_case("max") => hint.max = Some(more),
            _ => {}
        }
    }
    hint
}
