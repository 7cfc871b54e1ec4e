//! Gives the report of a comparison, and of those that were kept: as text, as JSON, as a page.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::compare::report::{self, Report, Unreadable};

/// The arguments of `report`.
///
/// With one file its report is shown again. With more, each run is held against the first, arm by arm.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Files that `warmline compare --json` wrote
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Write the page of a single run to this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Print JSON in the present form in place of the text; docs/compare.md has its keys
    #[arg(long)]
    pub json: bool,
}

/// Shows reports that were kept.
pub(super) fn report(args: &ReportArgs) -> ExitCode {
    match shown(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {source}", path = path.display())]
    Form { path: PathBuf, source: Unreadable },
    #[error("--html and --json are of one run: name one file, not {0}")]
    Several(usize),
}

fn shown(args: &ReportArgs) -> Result<(), Refused> {
    let reports: Vec<Report> = args
        .files
        .iter()
        .map(|path| read(path))
        .collect::<Result<_, _>>()?;
    if let [report] = &reports[..] {
        let stdout = Path::new("-");
        let json = args.json.then_some(stdout);
        return give(report, json, args.html.as_deref())
            .map_err(|(path, source)| Refused::File { path, source });
    }
    if args.json || args.html.is_some() {
        return Err(Refused::Several(reports.len()));
    }
    let names: Vec<String> = args
        .files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let runs: Vec<(&str, &Report)> = names.iter().map(String::as_str).zip(&reports).collect();
    // Whoever reads it may have had enough, as `head` has.
    let _ = write!(io::stdout(), "{}", report::beside(&runs, is_bold()));
    Ok(())
}

fn read(path: &Path) -> Result<Report, Refused> {
    let text = fs::read(path).map_err(|source| Refused::File {
        path: path.to_owned(),
        source,
    })?;
    report::read(&String::from_utf8_lossy(&text)).map_err(|source| Refused::Form {
        path: path.to_owned(),
        source,
    })
}

fn is_bold() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes what is asked for, and prints the text unless the JSON goes there: `-` is the standard output.
pub(super) fn give(
    report: &Report,
    json: Option<&Path>,
    html: Option<&Path>,
) -> Result<(), (PathBuf, io::Error)> {
    let mut out = io::stdout().lock();
    if let Some(path) = html {
        let page = report::html(report);
        if path == Path::new("-") {
            let _ = write!(out, "{page}");
            return Ok(());
        }
        fs::write(path, page).map_err(|error| (path.to_owned(), error))?;
    }
    if let Some(path) = json {
        let text =
            serde_json::to_string(report).map_err(|error| (path.to_owned(), error.into()))?;
        if path == Path::new("-") {
            let _ = writeln!(out, "{text}");
            return Ok(());
        }
        fs::write(path, text + "\n").map_err(|error| (path.to_owned(), error))?;
    }
    let _ = write!(out, "{}", report::text(report, is_bold()));
    Ok(())
}
