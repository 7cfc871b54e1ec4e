//! The programs that the hosts and lines are made with.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, io};

use super::{LabError, Room};

/// Where they are looked for besides `PATH`, which often has no place for administrators' programs.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Finds one.
///
/// # Errors
/// [`LabError::Missing`], with the package it is in.
pub(super) fn find(program: &'static str) -> Result<Command, LabError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(PLACES.map(Into::into));
    let found = places
        .map(|place| place.join(program))
        .find(|file| Path::is_file(file));
    match found {
        Some(file) => Ok(Command::new(file)),
        None => Err(LabError::Missing {
            program,
            package: package(program),
        }),
    }
}

fn package(program: &str) -> &'static str {
    if program.starts_with("iptables") {
        "iptables"
    } else {
        "iproute2"
    }
}

/// Runs one on a host, with `input` on its standard input.
///
/// # Errors
/// It is missing, or says that it failed.
pub(super) fn run(
    room: &Room,
    program: &'static str,
    args: &[&str],
    input: String,
) -> Result<(), LabError> {
    let mut command = find(program)?;
    command.args(args);
    let output = room.run(move || -> io::Result<_> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("it was asked to be a pipe");
        // One that has ended early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output()
    });
    let output = output.map_err(|source| LabError::NotStarted { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::Failed {
        room: room.name().to_owned(),
        command: format!("{program} {}", args.join(" ")),
        said: said.trim().replace('\n', "; "),
    })
}
