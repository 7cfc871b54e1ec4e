//! A thread that does what it is given, one thing after the other.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// Threads have what programs and sockets go by: namespaces, and whose end the kernel tells children of. So it
/// matters on which one they are started. Ends when dropped, after what it is at.
#[derive(Debug)]
pub(super) struct Hand {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Hand {
    /// # Errors
    /// No more threads.
    pub(super) fn start(name: &str) -> io::Result<Hand> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let body = move || to_do.into_iter().for_each(|job| job());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Hand {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Does something there and returns what came of it.
    ///
    /// # Panics
    /// When `job` does, with what it said; when called from within itself, which would wait for ever.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        type Outcome<T> = Result<T, Box<dyn Any + Send>>;
        let thread = self.thread.as_ref().expect("only a drop takes it away");
        assert_ne!(
            thread.thread().id(),
            thread::current().id(),
            "a thread cannot wait for itself"
        );
        let (give, done) = mpsc::sync_channel::<Outcome<T>>(1);
        let job = Box::new(move || {
            // A panic must not end the thread: the kernel would kill the programs that it has started.
            let outcome = panic::catch_unwind(AssertUnwindSafe(job));
            let _ = give.send(outcome);
        });
        let jobs = self.jobs.as_ref().expect("only a drop takes it away");
        jobs.send(job)
            .expect("the thread lives until this is dropped");
        match done.recv().expect("every job gives its outcome") {
            Ok(value) => value,
            Err(panic) => panic::resume_unwind(panic),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("every panic there is caught");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_there_is_done_on_its_thread_and_a_panic_does_not_end_it() {
        let hand = Hand::start("a hand").unwrap();
        let name = || thread::current().name().map(str::to_owned);
        assert_eq!(hand.run(name).as_deref(), Some("a hand"));
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| hand.run(|| panic!("oh"))));
        assert!(panicked.is_err());
        assert_eq!(hand.run(name).as_deref(), Some("a hand"));
    }
}
