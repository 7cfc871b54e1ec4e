//! `warmline states`: the kernel's sockets by state, of everything or of some backends, and how many
//! ports are left towards them. Once, or again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::SystemTime;

use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};

use super::StatesArgs;
use super::stop::Stop;
use super::tables::Report;
use crate::census::Survey;
use crate::census::ports::Limits;

/// Prints the tables.
pub(super) fn states(args: &StatesArgs) -> ExitCode {
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the kernel's sockets cannot be counted: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &StatesArgs) -> io::Result<()> {
    let Some(every) = args.watch else {
        print(&look(args)?);
        return Ok(());
    };
    let redraw = !args.json && io::stdout().is_terminal();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        let mut clock = interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut first = true;
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                _ = stop.told() => return Ok(()),
            }
            let text = look(args)?;
            let text = match (redraw, args.json, first) {
                (true, _, _) => over_the_last(&text),
                (false, true, _) | (false, false, true) => text,
                (false, false, false) => format!("\n{text}"),
            };
            if !print(&text) {
                return Ok(());
            }
            first = false;
        }
    })
}

/// What the kernel has now, as it is printed.
fn look(args: &StatesArgs) -> io::Result<String> {
    let survey = Survey::take()?;
    let report = Report::new(
        SystemTime::now(),
        &survey,
        &args.backend,
        Limits::read().ok(),
    );
    Ok(if args.json {
        format!("{}\n", report.json())
    } else {
        report.text()
    })
}

/// Draws over what is there instead of clearing first, which would flicker: to the top, each line to
/// its end, and nothing below.
fn over_the_last(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// Whether somebody reads it.
fn print(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}
