//! An OS thread with a runtime of its own, which ends when its owner is dropped.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;

/// The longest a drop waits for the thread. Its tasks never block, so it ends at once.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Runs one future until it ends or this is dropped.
///
/// Dropping it drops the future, and with it every task the future owns, and waits for the thread
/// to end, for two seconds at the most.
pub(super) struct OwnThread {
    stop: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OwnThread {
    /// Starts the thread and runs the future that `body` makes there.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be had.
    pub(super) fn start<F>(
        name: &str,
        body: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<OwnThread>
    where
        F: Future<Output = ()>,
    {
        let (stop, stopped) = oneshot::channel();
        let (report, ended) = mpsc::channel();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let built = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            let (runtime, started) = match built {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Nobody listens only if the starter is gone; then there is nothing to do either.
            if report.send(started).is_err() {
                return;
            }
            if let Some(runtime) = runtime {
                runtime.block_on(async {
                    tokio::select! {
                        () = body() => {}
                        _ = stopped => {}
                    }
                });
            }
        })?;
        let own = OwnThread {
            stop: Some(stop),
            ended,
            thread: Some(thread),
        };
        match own.ended.recv() {
            Ok(started) => started.map(|()| own),
            Err(mpsc::RecvError) => Err(io::Error::other("the thread ended before it began")),
        }
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.ended.recv_timeout(STOP_WITHIN);
        if let (Err(mpsc::RecvTimeoutError::Disconnected), Some(thread)) =
            (ended, self.thread.take())
            && thread.join().is_err()
        {
            tracing::warn!("a thread of the comparison had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn dropping_it_drops_what_runs_there() {
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let thread = OwnThread::start("test", move || async move {
            std::future::pending::<()>().await;
            drop(inside);
        })
        .unwrap();
        assert_eq!(Arc::strong_count(&held), 2);
        drop(thread);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
