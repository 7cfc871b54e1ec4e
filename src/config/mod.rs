//! The configuration file → the settings of the proxy.
//!
//! Promises that every fault of a file is reported at once, each with its line, what was read,
//! what is allowed and, where one is near, the name that was probably meant; and that what it
//! hands on needs no further checking. Does not look names up, bind addresses, or know what the
//! settings do.
//!
//! The file is TOML, read as a tree with the place of every key and value, and held against the
//! list in [`keys`]. It is not deserialised: that would stop at the first fault.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use crate::server;

mod access_log;
mod actions;
pub mod address;
mod admin;
mod client;
mod closing;
mod conditions;
mod doors;
mod effective;
mod env;
mod explain;
mod file;
mod front;
pub mod keys;
mod read;
mod read_timeout;
mod report;
mod route_keys;
mod routes;
mod setting;
mod sockets;
mod split;
mod syntax;
#[cfg(test)]
mod tests;
mod transport;
pub mod units;
mod upstreams;
mod values;

pub use effective::Effective;
pub use explain::{BadRequest, Request};
pub(crate) use report::counted;
pub use report::{Finding, Report, Severity};

/// [`server::Settings::shutdown_timeout`] when the file does not say.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest file that is read. A wrong path can lead to something that never ends.
const LARGEST: u64 = 1 << 20;

/// A file without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it asks for.
    pub settings: server::Settings,
    /// What is odd about it, if anything.
    pub warnings: Report,
    /// Every setting with its value; `None` where there is no file.
    pub effective: Option<Effective>,
}

/// Reads the file at `path`, with `${VAR}` filled in from the environment.
///
/// # Errors
/// A report of every fault in it, or the one that it could not be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let name = path.display().to_string();
    let text = read_text(path).map_err(|finding| Report::unreadable(&name, finding))?;
    parse(&text, &name, &|variable| std::env::var(variable).ok())
}

/// Reads `text`, which came from `name`, with `${VAR}` filled in from `env`.
///
/// # Errors
/// A report of every fault in it.
pub fn parse(
    text: &str,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let syntax = syntax::findings(text, &errors);
    let mut reader = read::Reader::new(text, env, syntax);
    let settings = file::settings(root.get_ref(), &mut reader);
    let report = Report::new(name, text, reader.into_findings());
    if report.faults() > 0 {
        return Err(report);
    }
    Ok(Loaded {
        settings,
        warnings: report,
        effective: Some(Effective::of(root.get_ref(), env)),
    })
}

/// What becomes of `request` by the file at `path`: which routes are tried, which one it takes, and every setting
/// in force with the line it comes from.
///
/// # Errors
/// A report of every fault in the file.
pub fn explain(path: &Path, request: &Request) -> Result<String, Report> {
    let name = path.display().to_string();
    let text = read_text(path).map_err(|finding| Report::unreadable(&name, finding))?;
    let env = |variable: &str| std::env::var(variable).ok();
    let settings = parse(&text, &name, &env)?.settings;
    let (root, _) = DeTable::parse_recoverable(&text);
    Ok(explain::explain(
        &text,
        &name,
        root.get_ref(),
        &settings,
        request,
    ))
}

/// The file's text, or why there is none.
fn read_text(path: &Path) -> Result<String, Finding> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(unreadable(path, &error));
    }
    if bytes.len() as u64 > LARGEST {
        return Err(
            Finding::fault(format!("{} is larger than 1 MiB", path.display()))
                .help("is it the right file?"),
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = report::line_at(sound);
        Finding::fault(format!(
            "{} is not text: line {line} is not UTF-8",
            path.display()
        ))
        .help("save it as UTF-8; is it the right file?")
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    // Without the "(os error 2)" that the library adds.
    let error_text = error.to_string();
    let reason = error_text.split(" (os error").next().unwrap_or(&error_text);
    let finding = Finding::fault(format!("cannot read {}: {reason}", path.display()));
    if error.kind() == io::ErrorKind::NotFound {
        finding
            .help("name another with `-c FILE`")
            .help("run without one: `warmline run --upstream HOST:PORT`")
            .help("just have a look: `warmline demo`")
    } else {
        finding.help("name another with `-c FILE`")
    }
}
