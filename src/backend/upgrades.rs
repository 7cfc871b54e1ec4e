//! Which protocols a client may leave HTTP for.

/// What is never switched to: HTTP/2 has rules of its own for what passes a proxy, and a tunnel would
/// carry requests past all of ours. Source: RFC 9113 §3.1, which has taken it out of HTTP.
const NEVER: &str = "h2c";

/// The protocols that a client may switch to from HTTP/1.1.
///
/// Source: RFC 9110 §7.8; Apache httpd 2.4, `ProxyPass … upgrade=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrades {
    /// Any but `h2c`.
    Any,
    /// These, by their names in lower case, with a version or for every version.
    These(Vec<String>),
}

impl Default for Upgrades {
    /// WebSocket alone.
    fn default() -> Upgrades {
        Upgrades::These(vec!["websocket".to_owned()])
    }
}

impl Upgrades {
    /// Whether `protocol`, a name or a name and its version, may be switched to.
    pub fn allow(&self, protocol: &[u8]) -> bool {
        let mut parts = protocol.splitn(2, |&byte| byte == b'/');
        let name = parts.next().unwrap_or_default();
        if name.eq_ignore_ascii_case(NEVER.as_bytes()) {
            return false;
        }
        match self {
            Upgrades::Any => true,
            Upgrades::These(list) => list.iter().any(|one| {
                let one = one.as_bytes();
                one.eq_ignore_ascii_case(protocol) || one.eq_ignore_ascii_case(name)
            }),
        }
    }

    /// What a list in the settings says; `*` is any.
    pub fn of(list: Vec<String>) -> Upgrades {
        if list.iter().any(|one| one == "*") {
            Upgrades::Any
        } else {
            Upgrades::These(list)
        }
    }

    /// Reads one of them.
    ///
    /// # Errors
    /// What is no protocol's name, and `h2c`.
    pub fn read(text: &str) -> Result<String, &'static str> {
        let is_token = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
            !text.is_empty() && text.bytes().all(fits)
        };
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(text);
        }
        let name = match text.split_once('/') {
            Some((name, version)) if is_token(version) => name,
            Some(_) => return Err("not a protocol's name and version"),
            None => &text,
        };
        if name == NEVER {
            return Err("HTTP/2 is not switched to");
        }
        if is_token(name) {
            Ok(text)
        } else {
            Err("not a protocol's name")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_allowed_by_its_name_or_with_its_version_and_h2c_never() {
        let list = |names: &[&str]| {
            let read = names.iter().map(|name| Upgrades::read(name));
            Upgrades::of(read.collect::<Result<_, _>>().unwrap())
        };
        for (upgrades, protocol, allowed) in [
            (Upgrades::default(), "websocket", true),
            (Upgrades::default(), "WebSocket", true),
            (Upgrades::default(), "websocket/13", true),
            (Upgrades::default(), "websockets", false),
            (Upgrades::default(), "h2c", false),
            (list(&["TLS/1.2", "irc"]), "tls/1.2", true),
            (list(&["TLS/1.2", "irc"]), "tls/1.3", false),
            (list(&["TLS/1.2", "irc"]), "tls", false),
            (list(&["TLS/1.2", "irc"]), "IRC/6.9", true),
            (list(&["irc", "*"]), "anything", true),
            (list(&["*"]), "H2C", false),
            (list(&[]), "websocket", false),
        ] {
            let allows = upgrades.allow(protocol.as_bytes());
            assert_eq!(allows, allowed, "{upgrades:?} {protocol}");
        }
    }

    #[test]
    fn what_is_no_protocol_is_refused() {
        for text in ["", "a b", "a,b", "/1", "a/", "h2c", "H2C/1", "a*"] {
            assert!(Upgrades::read(text).is_err(), "{text:?}");
        }
    }
}
