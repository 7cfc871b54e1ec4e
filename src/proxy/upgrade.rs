//! Leaving HTTP/1.1 for another protocol: what of it is passed on, and whether the answer agrees.
//!
//! Source: RFC 9110 §7.8.

use http::header::{HeaderValue, UPGRADE};
use http::{HeaderMap, request};
use hyper::upgrade::OnUpgrade;

use super::headers::RequestFacts;
use crate::backend::Settings;
use crate::net::Patience;

/// The protocols a client asks to switch to, of those that it may.
#[derive(Clone, Debug)]
pub(super) struct Upgrade {
    protocols: HeaderValue,
    patience: Patience,
    /// Over HTTP/2: the stream that becomes the tunnel.
    stream: Option<OnUpgrade>,
}

impl Upgrade {
    /// What is passed on of a request's `Upgrade`, if anything is.
    ///
    /// Nothing beside a body: the new protocol would begin behind it, and not before the backend has agreed;
    /// so it is an ordinary request, as RFC 9110 §7.8 has it for who does not care to switch.
    pub(super) fn asked(
        parts: &request::Parts,
        facts: &RequestFacts,
        settings: &Settings,
        has_body: bool,
    ) -> Option<Upgrade> {
        if has_body || !facts.asks_to_switch(parts) {
            return None;
        }
        let allowed = |protocol: &&[u8]| settings.upgrade.allow(protocol);
        Some(Upgrade {
            protocols: joined(protocols(&parts.headers).filter(allowed))?,
            stream: facts
                .connects
                .then(|| parts.extensions.get::<OnUpgrade>().cloned())
                .flatten(),
            patience: Patience {
                open: settings.tunnel_timeout,
                half_closed: settings.tunnel_timeout.min(settings.timeout),
            },
        })
    }

    /// The stream that becomes the tunnel, over HTTP/2.
    pub(super) fn stream(&self) -> Option<OnUpgrade> {
        self.stream.clone()
    }

    /// As it is passed on.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.protocols
    }

    /// How long nothing may move once it is granted.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// What the head of a `101 Switching Protocols` switches to: nothing, unless all of it was asked for.
    pub(super) fn agreed(&self, answer: &HeaderMap) -> Option<HeaderValue> {
        let asked = |protocol: &[u8]| {
            let mut asked = split(&self.protocols);
            asked.any(|asked| asked.eq_ignore_ascii_case(protocol))
        };
        if protocols(answer).all(asked) {
            joined(protocols(answer))
        } else {
            None
        }
    }
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(UPGRADE).iter().flat_map(split)
}

fn split(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = value.as_bytes().split(|&byte| byte == b',');
    parts
        .map(<[u8]>::trim_ascii)
        .filter(|part| !part.is_empty())
}

/// A list of them; `None` for an empty one.
fn joined<'a>(protocols: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue> {
    let list = protocols.collect::<Vec<_>>().join(&b", "[..]);
    (!list.is_empty()).then(|| HeaderValue::from_bytes(&list).ok())?
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, Version};

    use super::*;
    use crate::backend::Upgrades;
    use crate::client::Limits;

    fn asked(version: Version, headers: &[(&str, &str)], has_body: bool) -> Option<Upgrade> {
        let mut builder = Request::builder().uri("/").version(version);
        for (name, value) in [("host", "a")].iter().chain(headers) {
            builder = builder.header(*name, *value);
        }
        let parts = builder.body(()).unwrap().into_parts().0;
        let facts = RequestFacts::read(&parts, &Limits::default()).unwrap();
        let mut settings = Settings::new("test", Vec::new());
        settings.upgrade = Upgrades::of(vec!["websocket".to_owned(), "irc".to_owned()]);
        Upgrade::asked(&parts, &facts, &settings, has_body)
    }

    #[test]
    fn only_what_is_allowed_and_named_in_connection_is_asked_for() {
        let v11 = Version::HTTP_11;
        for (version, connection, upgrade, has_body, passed) in [
            (v11, "Upgrade", "websocket", false, Some("websocket")),
            (
                v11,
                "keep-alive, UPGRADE",
                "WebSocket",
                false,
                Some("WebSocket"),
            ),
            (
                v11,
                "upgrade",
                "h2c, websocket,,IRC/6.9 , a b",
                false,
                Some("websocket, IRC/6.9"),
            ),
            (v11, "upgrade", "h2c", false, None),
            (v11, "upgrade", "", false, None),
            (v11, "keep-alive", "websocket", false, None),
            (v11, "upgrade", "websocket", true, None),
            (Version::HTTP_10, "upgrade", "websocket", false, None),
            (Version::HTTP_2, "upgrade", "websocket", false, None),
        ] {
            let headers = [("connection", connection), ("upgrade", upgrade)];
            let got = asked(version, &headers, has_body);
            let got = got.as_ref().map(|it| it.header().to_str().unwrap());
            assert_eq!(
                got, passed,
                "{version:?} {connection:?} {upgrade:?} {has_body}"
            );
        }
    }

    #[test]
    fn an_answer_agrees_to_what_was_asked_for_and_to_nothing_else() {
        let headers = [("connection", "upgrade"), ("upgrade", "websocket, irc/6.9")];
        let asked = asked(Version::HTTP_11, &headers, false).unwrap();
        for (answer, agreed) in [
            (&["WebSocket"][..], Some("WebSocket")),
            (&["irc/6.9", "websocket"], Some("irc/6.9, websocket")),
            (&["irc"], None),
            (&["websocket, tls/1.0"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut builder = Response::builder();
            for value in answer {
                builder = builder.header("upgrade", *value);
            }
            let answer = builder.body(()).unwrap();
            let got = asked.agreed(answer.headers());
            let got = got.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(got, agreed, "{answer:?}");
        }
    }
}
