//! Signals: SIGHUP reloads, SIGUSR1 reopens the access log; the first of the others ends the proxy
//! gracefully, the second at once.

use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::notify;
use crate::server::{Control, ReloadError, Server, Settings};

/// How long ending at once may take.
const AT_ONCE: Duration = Duration::from_secs(1);

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
/// that was cut short by a second signal, or when all workers ended by themselves. `read` is what a
/// SIGHUP asks for: the settings to go on with, or `None` if there is nothing to go on with but what
/// there is, which it has said then; `reloaded` is called when they are in effect.
///
/// Calls `announce` once signals are listened for: whoever is told that the proxy runs may end it.
pub(super) fn serve_until_told(
    server: Server,
    announce: impl FnOnce(&Server),
    read: impl Fn() -> Option<Settings>,
    reloaded: impl Fn(),
) -> ExitCode {
    let waited = Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(wait(server, announce, read, reloaded)));
    waited.unwrap_or_else(|error| {
        error!(%error, "cannot listen for signals");
        ExitCode::FAILURE
    })
}

async fn wait(
    server: Server,
    announce: impl FnOnce(&Server),
    read: impl Fn() -> Option<Settings>,
    reloaded: impl Fn(),
) -> io::Result<ExitCode> {
    let mut stop = Stop::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    announce(&server);
    notify::ready();
    let control = server.control();
    let (ended, mut all_ended) = oneshot::channel();
    thread::Builder::new()
        .name("join".to_owned())
        .spawn(move || {
            server.join();
            // Nobody listens any more after a second signal.
            let _ = ended.send(());
        })?;
    let reloading = async {
        // One after the other: those that come meanwhile are one more.
        while hangup.recv().await.is_some() {
            notify::reloading();
            if let Some(settings) = read()
                && reload(&control, &settings).await
            {
                reloaded();
            }
            notify::ready();
        }
    };
    let mut reopening = pin!(async {
        while user1.recv().await.is_some() {
            if !control.reopen_log() {
                info!("SIGUSR1: there is no access log to reopen");
            }
        }
    });
    tokio::select! {
        name = stop.told() => info!("{name}: finishing the requests in flight; once more ends at once"),
        _ = &mut all_ended => {
            error!("all workers have ended");
            return Ok(ExitCode::FAILURE);
        }
        () = reloading => unreachable!("signals do not come to an end"),
        () = &mut reopening => unreachable!("signals do not come to an end"),
    }
    notify::stopping();
    control.stop();
    let reload_no_more = async {
        while hangup.recv().await.is_some() {
            info!("SIGHUP: not reloading, the proxy is stopping");
        }
    };
    Ok(tokio::select! {
        name = stop.told() => {
            warn!("{name} again: ending at once");
            control.stop_at_once();
            // The access log has a few lines to write; who does not come to an end is left behind.
            let _ = timeout(AT_ONCE, all_ended).await;
            ExitCode::FAILURE
        }
        _ = &mut all_ended => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        () = reload_no_more => unreachable!("signals do not come to an end"),
        () = reopening => unreachable!("signals do not come to an end"),
    })
}

/// Puts settings into effect, and says in the log what that changed; whether it could.
async fn reload(control: &Control, settings: &Settings) -> bool {
    match control.reload(settings).await {
        Ok(changes) => {
            info!("reloaded; changed: {changes}");
            for setting in changes.restart {
                warn!("{setting} cannot change while the proxy runs: that needs a restart");
            }
            return true;
        }
        Err(ReloadError::Faults(faults)) => {
            for fault in &faults {
                error!("{fault}");
            }
            error!(
                faults = faults.len(),
                "not reloaded: everything goes on as it was"
            );
        }
        Err(ReloadError::Stopping) => info!("not reloaded: the proxy is stopping"),
    }
    false
}
