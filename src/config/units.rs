//! Text → switches, numbers, sizes and durations.
//!
//! Strict where Apache httpd is not: its `atoi` reads `foo` as 0 and `5x` as 5, which then means
//! "unlimited" or "five seconds" without a word. Here each is refused with the reason.

use std::time::Duration;

/// The longest duration there is: far beyond any use, and near enough that adding it to the
/// present cannot overflow.
pub(super) const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Why a text is not the value it should be; what is said beside the caret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Nothing between the quotes.
    #[error("this is empty")]
    Empty,
    /// A minus sign.
    #[error("this is negative")]
    Negative,
    /// Neither on nor off.
    #[error("neither on nor off")]
    NotASwitch,
    /// Other characters than digits.
    #[error("not a whole number")]
    NotANumber,
    /// A unit where the number should be: the number is missing.
    #[error("no number before `{0}`")]
    NoNumber(String),
    /// A number followed by what is not a unit.
    #[error("there is no unit `{0}`")]
    Unit(String),
    /// `1m30`: which unit the 30 has is anybody's guess.
    #[error("no unit after `{0}`")]
    NoUnit(String),
    /// `30s1m` or `1s1s`.
    #[error("units go from the largest to the smallest, each once")]
    Order,
    /// Zero, where it would mean nothing.
    #[error("this is zero")]
    Zero,
    /// Below what is allowed.
    #[error("less than {0}")]
    TooSmall(String),
    /// Above what is allowed.
    #[error("more than {0}")]
    TooLarge(String),
}

/// Reads a switch: `true`, `false`, or Apache's `On` and `Off`, in any case.
///
/// # Errors
/// [`Wrong::NotASwitch`] for anything else, 0 and 1 among it, as in Apache.
pub fn switch(text: &str) -> Result<bool, Wrong> {
    let is = |word| text.eq_ignore_ascii_case(word);
    if is("on") || is("true") {
        Ok(true)
    } else if is("off") || is("false") {
        Ok(false)
    } else if text.is_empty() {
        Err(Wrong::Empty)
    } else {
        Err(Wrong::NotASwitch)
    }
}

/// Reads a whole number of zero or more.
///
/// # Errors
/// When it is empty, negative, not made of digits, or beyond 64 bits.
pub fn whole(text: &str) -> Result<u64, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if text.starts_with('-') {
        return Err(Wrong::Negative);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::NotANumber);
    }
    text.parse()
        .map_err(|_| Wrong::TooLarge(u64::MAX.to_string()))
}

/// Reads a number of bytes: `8190`, `8k`, `1m`, `2g`; the suffixes are powers of 1024, in any
/// case.
///
/// # Errors
/// As [`whole`], and for a suffix that is none of these.
pub fn bytes(text: &str) -> Result<u64, Wrong> {
    if text.starts_with('-') {
        return Err(Wrong::Negative);
    }
    let (number, suffix) = split_number(text);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => return whole(text),
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ if number.is_empty() => return Err(Wrong::NotANumber),
        _ => return Err(Wrong::Unit(suffix.to_owned())),
    };
    if number.is_empty() {
        return Err(Wrong::NoNumber(suffix.to_owned()));
    }
    whole(number)?
        .checked_mul(1 << shift)
        .ok_or_else(|| Wrong::TooLarge(u64::MAX.to_string()))
}

/// Reads a duration: `300ms`, `5s`, `1m30s`, `2h`, `1d`, or a number of seconds, `5` or `0.5`.
///
/// `mi` is Apache's spelling of `m`, minutes.
///
/// # Errors
/// When it is empty, negative, has an unknown unit or none after the first, names its units out
/// of order, or is longer than a year.
pub fn duration(text: &str) -> Result<Duration, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if text.starts_with('-') {
        return Err(Wrong::Negative);
    }
    let mut nanos: u128 = 0;
    let mut smallest = u128::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if number.is_empty() {
            return Err(Wrong::NoNumber(unit.to_owned()));
        }
        let size = match unit {
            "" if number.len() == text.len() => SECOND,
            "" => return Err(Wrong::NoUnit(number.to_owned())),
            _ => unit_nanos(unit).ok_or_else(|| Wrong::Unit(unit.to_owned()))?,
        };
        if size >= smallest {
            return Err(Wrong::Order);
        }
        smallest = size;
        nanos = nanos.saturating_add(scaled(number, size)?);
        rest = after;
    }
    let longest = LONGEST.as_nanos();
    if nanos > longest {
        return Err(Wrong::TooLarge("365d".to_owned()));
    }
    Ok(Duration::from_nanos_u128(nanos))
}

/// Nanoseconds in a second.
const SECOND: u128 = 1_000_000_000;

fn unit_nanos(unit: &str) -> Option<u128> {
    match unit {
        "ms" => Some(SECOND / 1000),
        "s" => Some(SECOND),
        "m" | "mi" | "min" => Some(60 * SECOND),
        "h" => Some(60 * 60 * SECOND),
        "d" => Some(24 * 60 * 60 * SECOND),
        _ => None,
    }
}

/// `number` times `size`, exactly: a decimal fraction read as floating point would turn `0.3`
/// into something else. Digits beyond the nanosecond are dropped.
fn scaled(number: &str, size: u128) -> Result<u128, Wrong> {
    let (before, after) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(before) || !digits(after) {
        return Err(Wrong::NotANumber);
    }
    let before: u128 = before.parse().unwrap_or(u128::MAX);
    let (mut fraction, mut place) = (0, size);
    for digit in after.bytes() {
        place /= 10;
        fraction += u128::from(digit - b'0') * place;
    }
    Ok(before.saturating_mul(size).saturating_add(fraction))
}

/// The digits at the front of `text`, and what follows them.
fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_switch_is_what_apache_takes_or_a_boolean() {
        for (text, value) in [
            ("On", Ok(true)),
            ("on", Ok(true)),
            ("TRUE", Ok(true)),
            ("Off", Ok(false)),
            ("oFF", Ok(false)),
            ("false", Ok(false)),
            ("1", Err(Wrong::NotASwitch)),
            ("yes", Err(Wrong::NotASwitch)),
            ("", Err(Wrong::Empty)),
        ] {
            assert_eq!(switch(text), value, "{text}");
        }
    }

    #[test]
    fn a_whole_number_is_digits_only() {
        for (text, value) in [
            ("0", Ok(0)),
            ("100", Ok(100)),
            ("18446744073709551615", Ok(u64::MAX)),
            (
                "18446744073709551616",
                Err(Wrong::TooLarge(u64::MAX.to_string())),
            ),
            ("-1", Err(Wrong::Negative)),
            ("+1", Err(Wrong::NotANumber)),
            ("10x", Err(Wrong::NotANumber)),
            ("1.5", Err(Wrong::NotANumber)),
            ("foo", Err(Wrong::NotANumber)),
            ("", Err(Wrong::Empty)),
        ] {
            assert_eq!(whole(text), value, "{text}");
        }
    }

    #[test]
    fn a_size_may_have_a_suffix() {
        for (text, value) in [
            ("0", Ok(0)),
            ("8190", Ok(8190)),
            ("8k", Ok(8192)),
            ("8K", Ok(8192)),
            ("1m", Ok(1 << 20)),
            ("2g", Ok(2 << 30)),
            ("99999999999g", Err(Wrong::TooLarge(u64::MAX.to_string()))),
            ("1t", Err(Wrong::Unit("t".into()))),
            ("1mb", Err(Wrong::Unit("mb".into()))),
            ("1 k", Err(Wrong::Unit(" k".into()))),
            ("k", Err(Wrong::NoNumber("k".into()))),
            ("lots", Err(Wrong::NotANumber)),
            ("-1k", Err(Wrong::Negative)),
            ("", Err(Wrong::Empty)),
        ] {
            assert_eq!(bytes(text), value, "{text}");
        }
    }

    #[test]
    fn a_duration_is_a_sum_of_units_or_a_number_of_seconds() {
        let ms = Duration::from_millis;
        for (text, value) in [
            ("5s", ms(5_000)),
            ("300ms", ms(300)),
            ("1m", ms(60_000)),
            ("1mi", ms(60_000)),
            ("1min", ms(60_000)),
            ("1m30s", ms(90_000)),
            ("1.5s", ms(1_500)),
            ("2h", ms(7_200_000)),
            ("1d", ms(86_400_000)),
            ("1d2h3m4s5ms", ms(93_784_005)),
            ("5", ms(5_000)),
            ("0.3", ms(300)),
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("365d", LONGEST),
        ] {
            assert_eq!(duration(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for (text, wrong) in [
            ("", Wrong::Empty),
            ("-1", Wrong::Negative),
            ("-5s", Wrong::Negative),
            ("foo", Wrong::NoNumber("foo".into())),
            ("s", Wrong::NoNumber("s".into())),
            ("5x", Wrong::Unit("x".into())),
            ("5S", Wrong::Unit("S".into())),
            ("5 s", Wrong::Unit(" s".into())),
            ("5sec", Wrong::Unit("sec".into())),
            ("1m30", Wrong::NoUnit("30".into())),
            ("30s1m", Wrong::Order),
            ("1s1s", Wrong::Order),
            ("1m1mi", Wrong::Order),
            ("1..5s", Wrong::NotANumber),
            (".5s", Wrong::NotANumber),
            ("5.", Wrong::NotANumber),
            ("366d", Wrong::TooLarge("365d".into())),
            ("365d1ms", Wrong::TooLarge("365d".into())),
            (
                "99999999999999999999999999999999999999999999d",
                Wrong::TooLarge("365d".into()),
            ),
        ] {
            assert_eq!(duration(text), Err(wrong), "{text}");
        }
    }

    proptest! {
        /// Whatever way a duration is written, the same one is read.
        #[test]
        fn a_duration_survives_being_written(ms in 0..=31_536_000_000_u64) {
            let whole = Duration::from_millis(ms);
            prop_assert_eq!(duration(&format!("{ms}ms")), Ok(whole));
            prop_assert_eq!(duration(&format!("{}s{}ms", ms / 1000, ms % 1000)), Ok(whole));
            prop_assert_eq!(duration(&format!("{}.{:03}", ms / 1000, ms % 1000)), Ok(whole));
            let (s, m, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
            let text = format!("{}d{}h{}m{}s{}ms", h / 24, h % 24, m % 60, s % 60, ms % 1000);
            prop_assert_eq!(duration(&text), Ok(whole));
        }

        /// Any text is read or refused; none panics.
        #[test]
        fn any_text_has_an_answer(text in ".{0,40}", near in "[0-9a-z. -]{0,12}") {
            for text in [text, near] {
                let _ = duration(&text);
                let _ = bytes(&text);
                let _ = whole(&text);
                let _ = switch(&text);
            }
        }
    }
}
