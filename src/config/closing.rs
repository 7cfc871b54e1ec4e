//! The settings of how backend connections are closed, listed and read.

use super::read::{Reader, Section};
use super::setting::{Default, Setting, Takes};
use super::values::set;
use crate::backend::{Closing, ShortMode};
use crate::net::CloseMode;

/// `short_mode`.
pub(super) const SHORT_MODE: Setting = Setting {
    name: "short_mode",
    alias: None,
    takes: Takes::Word(&["close-by-header", "proxy-closes", "rst"]),
    default: Default::Is("\"close-by-header\""),
    meaning: "What `keep_alive = false` is: the backend closes first as the request tells it, the proxy closes after the last byte, or resets.",
    apache: "none",
    nginx: "HTTP/1.0 with `Connection: close`; without, as `proxy-closes`",
};

/// `close_idle`.
pub(super) const CLOSE_IDLE: Setting = Setting {
    name: "close_idle",
    alias: None,
    takes: Takes::Word(&["fin", "rst", "fin+rst"]),
    default: Default::Is("\"fin+rst\""),
    meaning: "How idle connections are closed: a FIN, a reset, or a FIN and a reset once it is acknowledged, which leaves no TIME_WAIT.",
    apache: "none",
    nginx: "as `fin`",
};

/// `close_last`.
pub(super) const CLOSE_LAST: Setting = Setting {
    name: "close_last",
    alias: None,
    takes: Takes::Word(&["fin", "rst", "fin+rst", "peer", "peer+rst"]),
    default: Default::Is("\"peer\""),
    meaning: "How connections are closed after their last exchange: `peer` waits for the backend's FIN, which leaves it the TIME_WAIT; `peer+rst` leaves none.",
    apache: "none",
    nginx: "as `fin`",
};

/// `close_error`.
pub(super) const CLOSE_ERROR: Setting = Setting {
    name: "close_error",
    alias: None,
    takes: Takes::Word(&["fin", "rst", "fin+rst"]),
    default: Default::Is("\"rst\""),
    meaning: "How connections are closed in the middle of an exchange.",
    apache: "none",
    nginx: "as `fin`",
};

/// Reads how connections are closed.
pub(super) fn closing(section: &Section<'_>, reader: &mut Reader<'_>) -> Closing {
    let mut closing = Closing::default();
    let short = reader.read(section, "short_mode", |scalar| match scalar.text.as_str() {
        "close-by-header" => Ok(ShortMode::CloseByHeader),
        "proxy-closes" => Ok(ShortMode::ProxyCloses),
        "rst" => Ok(ShortMode::Rst),
        _ => Err("unknown word"),
    });
    set(&mut closing.short, short);
    for (mode, name) in [
        (&mut closing.idle, "close_idle"),
        (&mut closing.last, "close_last"),
        (&mut closing.error, "close_error"),
    ] {
        let word = reader.read(section, name, |scalar| match scalar.text.as_str() {
            "fin" => Ok(CloseMode::Fin),
            "rst" => Ok(CloseMode::Rst),
            "fin+rst" => Ok(CloseMode::FinRst),
            "peer" => Ok(CloseMode::Peer),
            "peer+rst" => Ok(CloseMode::PeerRst),
            _ => Err("unknown word"),
        });
        set(mode, word);
    }
    closing
}
