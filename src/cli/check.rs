//! `warmline check`: read the file, say what is in it, start nothing.
//!
//! No address is bound and no name looked up: the answer is the same on every machine that has
//! the same file, the certificates that it names, and the same environment.

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

use super::CheckArgs;
use crate::config::{self, Report, counted};
use crate::server;

/// Tests the file. The verdict goes to standard error, as nginx has it; what the file holds goes
/// to standard output.
pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let file = args.config.display();
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            return ExitCode::FAILURE;
        }
    };
    print_report(&loaded.warnings);
    let faults = server::check_files(&loaded.settings);
    if !faults.is_empty() {
        for fault in faults {
            say(io::stderr(), &format!("error: {fault}\n"));
        }
        return ExitCode::FAILURE;
    }
    if let Some(request) = &args.explain {
        return explain(args, request);
    }
    if !args.quiet {
        say(
            io::stderr(),
            &format!(
                "the configuration file {file} syntax is ok\n\
                 configuration file {file} test is successful\n"
            ),
        );
        say(io::stdout(), &format!("{}\n", summary(&loaded.settings)));
    }
    ExitCode::SUCCESS
}

/// Says what becomes of a request.
fn explain(args: &CheckArgs, request: &str) -> ExitCode {
    let request = match config::Request::parse(request, &args.headers) {
        Ok(request) => request,
        Err(wrong) => {
            say(io::stderr(), &format!("error: {wrong}\n"));
            return ExitCode::from(2);
        }
    };
    match config::explain(&args.config, &request) {
        Ok(text) => {
            say(io::stdout(), &text);
            ExitCode::SUCCESS
        }
        Err(report) => {
            print_report(&report);
            ExitCode::FAILURE
        }
    }
}

/// Prints what was found to standard error, in colour if a person is looking.
pub(super) fn print_report(report: &Report) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = !plain && io::stderr().is_terminal();
    say(io::stderr(), &report.render(colour));
}

/// Writes `text`. The exit code is the answer to a script, so one that does not listen is no
/// reason to fail.
fn say(mut to: impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

/// What there is, in a line: `1 listener, 2 routes, 1 upstream: app (2 servers)`.
fn summary(settings: &server::Settings) -> String {
    let upstreams: Vec<_> = settings
        .upstreams
        .iter()
        .map(|upstream| {
            let servers = counted(upstream.servers.len(), "server");
            format!("{} ({servers})", upstream.name)
        })
        .collect();
    format!(
        "{}, {}, {}: {}",
        counted(settings.listeners.len(), "listener"),
        counted(settings.routes.len(), "route"),
        counted(upstreams.len(), "upstream"),
        upstreams.join(", ")
    )
}
