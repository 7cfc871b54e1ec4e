//! Signals: the first one ends the proxy gracefully, the second at once.

use std::io;
use std::process::ExitCode;
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::server::Server;

/// The signals that end the proxy. QUIT is nginx's graceful stop; TERM and INT are graceful here
/// too, since that is what service managers and containers send.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Stop {
    pub(super) fn listen() -> io::Result<Stop> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub(super) async fn told(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// Waits for a signal, then for the requests in flight. Exit code 0 for a graceful end, 1 for one
/// that was cut short by a second signal, or when all workers ended by themselves.
///
/// Calls `announce` once signals are listened for: whoever is told that the proxy runs may end it.
pub(super) fn serve_until_told(server: Server, announce: impl FnOnce(&Server)) -> ExitCode {
    let waited = Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(wait(server, announce)));
    waited.unwrap_or_else(|error| {
        error!(%error, "cannot listen for signals");
        ExitCode::FAILURE
    })
}

async fn wait(server: Server, announce: impl FnOnce(&Server)) -> io::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    announce(&server);
    let stopper = server.stopper();
    let (ended, mut all_ended) = oneshot::channel();
    thread::Builder::new()
        .name("join".to_owned())
        .spawn(move || {
            server.join();
            // Nobody listens any more after a second signal.
            let _ = ended.send(());
        })?;
    tokio::select! {
        name = stop.told() => info!("{name}: finishing the requests in flight; once more ends at once"),
        _ = &mut all_ended => {
            error!("all workers have ended");
            return Ok(ExitCode::FAILURE);
        }
    }
    stopper.stop();
    Ok(tokio::select! {
        name = stop.told() => {
            warn!("{name} again: ending at once");
            ExitCode::FAILURE
        }
        _ = all_ended => {
            info!("stopped");
            ExitCode::SUCCESS
        }
    })
}
