//! One value of the file → the switch, number or duration that its setting takes.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::time::Duration;

use super::keys::Takes;
use super::read::{Reader, Section};
use super::report::{Finding, quoted};
use super::units;
use crate::keepalive::KeepAlive;

/// A value that is neither a list nor a table, with the environment filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) written: Written,
}

/// As which of TOML's types a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Text,
    Whole,
    Fraction,
    Switch,
}

impl Scalar {
    /// As a person would write it in the file.
    pub(super) fn shown(&self) -> String {
        match self.written {
            Written::Text if self.text.is_empty() => "an empty string".to_owned(),
            Written::Text | Written::Whole | Written::Fraction | Written::Switch => {
                quoted(&self.text)
            }
        }
    }

    /// A number that TOML wrote as a fraction, `1e3` among them, as a duration in seconds.
    ///
    /// `None` when it was written as anything else.
    pub(super) fn seconds(&self) -> Option<Result<Duration, units::Wrong>> {
        if self.written != Written::Fraction {
            return None;
        }
        let seconds: f64 = self.text.parse().unwrap_or(f64::NAN);
        Some(if seconds.is_nan() {
            Err(units::Wrong::NotANumber)
        } else if seconds < 0.0 {
            Err(units::Wrong::Negative)
        } else {
            match Duration::try_from_secs_f64(seconds) {
                Ok(time) if time <= units::LONGEST => Ok(time),
                _ => Err(units::Wrong::TooLarge("365d".to_owned())),
            }
        })
    }
}

impl Takes {
    /// Whether it may be written so. Everything may be written as text, for the environment's
    /// sake.
    pub(super) fn accepts(self, written: Written) -> bool {
        match written {
            // Each of the addresses, that is; the list is looked at before.
            Written::Text => !matches!(self, Takes::Servers),
            Written::Switch => matches!(self, Takes::Switch),
            Written::Fraction => matches!(
                self,
                Takes::Time { .. } | Takes::TimeOrOff { .. } | Takes::Share
            ),
            Written::Whole => matches!(
                self,
                Takes::Whole { .. }
                    | Takes::Limit { .. }
                    | Takes::Bytes { .. }
                    | Takes::Time { .. }
                    | Takes::TimeOrOff { .. }
                    | Takes::Listen
                    | Takes::ListenOrUnix
                    | Takes::Share
            ),
        }
    }
}

/// The three settings of keeping connections, which both sides have.
pub(super) fn keep_alive(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    default: KeepAlive,
) -> KeepAlive {
    let mut settings = default;
    set(&mut settings.enabled, switch(reader, section, "keep_alive"));
    let limit = number(reader, section, "max_keep_alive_requests");
    set(&mut settings.max_requests, limit.map(NonZeroU32::new));
    set(
        &mut settings.timeout,
        time(reader, section, "keep_alive_timeout"),
    );
    if settings.enabled && settings.timeout.is_zero() {
        let span = section.value_span("keep_alive_timeout");
        reader.note(
            Finding::warning(format!("{} keeps no connections", section.header))
                .at(
                    span.unwrap_or_else(|| section.span.clone()),
                    "zero keeps none",
                )
                .help("write `keep_alive = false` if that is meant"),
        );
    }
    settings
}

/// On or off.
pub(super) fn switch(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<bool> {
    reader.read(section, name, |scalar| units::switch(&scalar.text))
}

/// A number or a number of bytes, within the setting's bounds.
pub(super) fn number<N: TryFrom<u64>>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
) -> Option<N> {
    let (setting, _) = section.get(name)?;
    let takes = setting.takes;
    reader.read(section, name, |scalar| {
        let number = if matches!(takes, Takes::Bytes { .. }) {
            units::bytes(&scalar.text)?
        } else {
            units::whole(&scalar.text)?
        };
        let (least, most) = takes.bounds();
        if number < least {
            return Err(units::Wrong::TooSmall(least.to_string()));
        }
        let too_large = || units::Wrong::TooLarge(most.to_string());
        if number > most {
            return Err(too_large());
        }
        N::try_from(number).map_err(|_| too_large())
    })
}

/// A number; -1 inherits, as if it were not there.
pub(super) fn whole_or_inherit(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
) -> Option<u32> {
    let read = reader.read(section, name, |scalar| {
        if scalar.text == "-1" {
            return Ok(None);
        }
        let number = u32::try_from(units::whole(&scalar.text)?);
        let too_large = |_| units::Wrong::TooLarge(u32::MAX.to_string());
        number.map(Some).map_err(too_large)
    });
    read.flatten()
}

/// A duration; zero only where it means something.
pub(super) fn time(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<Duration> {
    let (setting, _) = section.get(name)?;
    let takes = setting.takes;
    reader.read(section, name, |scalar| {
        let time = scalar
            .seconds()
            .unwrap_or_else(|| units::duration(&scalar.text))?;
        if time.is_zero() && takes.zero().is_none() {
            return Err(units::Wrong::Zero);
        }
        Ok(time)
    })
}

/// Puts a duration that was read in place of the default, or none for `off`.
pub(super) fn set_time_or_off(
    place: &mut Option<Duration>,
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
) {
    let time = reader.read(section, name, |scalar| {
        if scalar.text.eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        let time = scalar.seconds();
        time.unwrap_or_else(|| units::duration(&scalar.text))
            .map(Some)
    });
    set(place, time);
}

/// A list of texts, each read with `parse`; without those that are not as they should be.
pub(super) fn list<T, W: Display>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, W>,
) -> Vec<T> {
    let Some((setting, value)) = section.get(name) else {
        return Vec::new();
    };
    let Some(list) = value.get_ref().as_array() else {
        reader.wrong_type(setting, value);
        return Vec::new();
    };
    list.iter()
        .filter_map(|value| {
            if value.get_ref().is_str() {
                return reader.value(setting, value, |scalar| parse(&scalar.text));
            }
            reader.wrong_type(setting, value);
            None
        })
        .collect()
}

/// The same, or `None` if the setting is not there.
pub(super) fn given_list<T, W: Display>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, W>,
) -> Option<Vec<T>> {
    section.get(name)?;
    Some(list(reader, section, name, parse))
}

/// Puts a value that was read in place of the default.
pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
