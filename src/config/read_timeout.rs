//! Text → how long the parts of a request may take, in the words of Apache httpd's
//! `RequestReadTimeout`: `header=20-40,MinRate=500 body=20,MinRate=500`.
//!
//! Source: Apache httpd 2.4, `set_reqtimeouts` in `mod_reqtimeout.c`; but its times may have a unit, and
//! the `handshake` of TLS is not known.

use std::num::NonZeroU32;
use std::time::Duration;

use super::units::{self, Wrong};
use crate::client::{ReadTimeout, Stage};

/// What is wrong with such a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("this is empty")]
    Empty,
    #[error("`{0}` is neither `header=…` nor `body=…`")]
    Part(String),
    #[error("`{0}` is there twice")]
    Twice(String),
    #[error("`{text}` is no time: {why}")]
    Time { text: String, why: Wrong },
    #[error("`{0}`: the second time is less than the first")]
    Range(String),
    #[error("`{0}`: a range needs a `MinRate`, or nothing prolongs the first time")]
    NoRate(String),
    #[error("`{0}` is not `MinRate=` and a number of bytes a second")]
    Rate(String),
}

/// Reads one; a part that is not named is at its default.
///
/// # Errors
/// [`Fault`], the first there is.
pub(super) fn parse(text: &str) -> Result<ReadTimeout, Fault> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(ReadTimeout::OFF);
    }
    let (mut header, mut body) = (None, None);
    for part in text.split_ascii_whitespace() {
        let unknown = || Fault::Part(part.to_owned());
        let (name, value) = part.split_once('=').ok_or_else(unknown)?;
        let place = match name.to_ascii_lowercase().as_str() {
            "header" => &mut header,
            "body" => &mut body,
            _ => return Err(unknown()),
        };
        if place.replace(stage(part, value)?).is_some() {
            return Err(Fault::Twice(name.to_owned()));
        }
    }
    if header.is_none() && body.is_none() {
        return Err(Fault::Empty);
    }
    let default = ReadTimeout::default();
    Ok(ReadTimeout {
        header: header.unwrap_or(default.header),
        body: body.unwrap_or(default.body),
    })
}

/// `20`, `20-40,MinRate=500`; `None` for 0, which bounds nothing.
fn stage(part: &str, value: &str) -> Result<Option<Stage>, Fault> {
    let (times, rate) = match value.split_once(',') {
        Some((times, rate)) => (times, Some(min_rate(rate)?)),
        None => (value, None),
    };
    let (first, most) = match times.split_once('-') {
        Some((first, most)) => (time(first)?, Some(time(most)?)),
        None => (time(times)?, None),
    };
    if first.is_zero() {
        return Ok(None);
    }
    if most.is_some_and(|most| most < first) {
        return Err(Fault::Range(part.to_owned()));
    }
    if most.is_some() && rate.is_none() {
        return Err(Fault::NoRate(part.to_owned()));
    }
    Ok(Some(Stage {
        time: first,
        most,
        min_rate: rate,
    }))
}

fn time(text: &str) -> Result<Duration, Fault> {
    units::duration(text).map_err(|why| Fault::Time {
        text: text.to_owned(),
        why,
    })
}

fn min_rate(text: &str) -> Result<NonZeroU32, Fault> {
    let number = text
        .split_once('=')
        .filter(|(name, _)| name.eq_ignore_ascii_case("MinRate"))
        .and_then(|(_, number)| number.parse().ok());
    number.ok_or_else(|| Fault::Rate(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(time: u64, most: Option<u64>, rate: u32) -> Stage {
        Stage {
            time: Duration::from_secs(time),
            most: most.map(Duration::from_secs),
            min_rate: NonZeroU32::new(rate),
        }
    }

    #[test]
    fn apaches_words_are_read_and_what_is_left_out_is_at_its_default() {
        let default = ReadTimeout::default();
        for (text, header, body) in [
            (
                "header=20-40,MinRate=500 body=20,MinRate=500",
                default.header,
                default.body,
            ),
            ("header=10", Some(stage(10, None, 0)), default.body),
            (
                "BODY=30s,minrate=1000",
                default.header,
                Some(stage(30, None, 1000)),
            ),
            ("header=0 body=0", None, None),
            (
                "header=5-1m,MinRate=1",
                Some(stage(5, Some(60), 1)),
                default.body,
            ),
            ("off", None, None),
        ] {
            assert_eq!(parse(text), Ok(ReadTimeout { header, body }), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, said) in [
            ("", "this is empty"),
            ("20", "`20` is neither `header=…` nor `body=…`"),
            (
                "handshake=5",
                "`handshake=5` is neither `header=…` nor `body=…`",
            ),
            ("header=1 header=2", "`header` is there twice"),
            ("header=foo", "`foo` is no time: no number before `foo`"),
            (
                "header=20-40",
                "`header=20-40`: a range needs a `MinRate`, or nothing prolongs the first time",
            ),
            (
                "header=20-10,MinRate=1",
                "`header=20-10,MinRate=1`: the second time is less than the first",
            ),
            (
                "body=20,Rate=5",
                "`Rate=5` is not `MinRate=` and a number of bytes a second",
            ),
            (
                "body=20,MinRate=0",
                "`MinRate=0` is not `MinRate=` and a number of bytes a second",
            ),
        ] {
            let fault = parse(text).map_err(|fault| fault.to_string());
            assert_eq!(fault, Err(said.to_owned()), "{text:?}");
        }
    }
}
