//! `[access_log]` → where exchanges are logged, and how.

use std::path::PathBuf;

use toml::de::DeTable;

use super::file::single;
use super::keys;
use super::read::Reader;
use super::values::time;
use crate::log::{Destination, Format, Settings};

/// The log that is asked for; `None` without the table, and where it is off.
pub(super) fn access_log(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Option<Settings> {
    let section = single(root, &keys::ACCESS_LOG, reader)?;
    let to = reader.read(&section, "path", |scalar| destination(&scalar.text));
    let format = reader.read(&section, "format", |scalar| format(&scalar.text));
    let flush = time(reader, &section, "flush");
    Some(Settings {
        to: to??,
        format: format.unwrap_or(Format::Combined),
        flush: flush.unwrap_or(Settings::FLUSH),
    })
}

/// `None` is off.
fn destination(text: &str) -> Result<Option<Destination>, &'static str> {
    match text {
        "" => Err("no path"),
        "off" | "Off" => Ok(None),
        "stdout" => Ok(Some(Destination::Stdout)),
        path if path.ends_with('/') => Err("this is a folder"),
        path => Ok(Some(Destination::File(PathBuf::from(path)))),
    }
}

fn format(text: &str) -> Result<Format, &'static str> {
    match text {
        "combined" => Ok(Format::Combined),
        "extended" => Ok(Format::Extended),
        "json" => Ok(Format::Json),
        _ => Err("unknown word"),
    }
}
