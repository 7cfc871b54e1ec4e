//! One host: a network namespace, and the thread that is in it.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::{fmt, fs, io};

use super::{LabError, Program, Sysctls};
use crate::net;

type Job = Box<dyn FnOnce() + Send>;

/// A host of one's own: a network namespace that one thread holds.
///
/// What that thread starts is in the namespace too: threads, and programs. So is every socket that it opens, wherever
/// that is used afterwards. `/proc/sys/net` and `/proc/thread-self/net` are the host's, too, for who reads
/// them there; `/proc/net` is not, which is always the main thread's.
///
/// The namespace has no name and ends with the last thread, program and socket in it. Dropping the room ends
/// its thread, and with it every program started under [`wrapped`](super::wrapped); threads started there go on, and are
/// their owner's.
pub struct Room {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    namespace: PathBuf,
}

impl Room {
    /// A new host without any network but a loopback device, which is down.
    ///
    /// # Errors
    /// [`LabError::Refused`] without root; no more threads.
    pub fn open(name: &str) -> Result<Room, LabError> {
        let room = Room::start(name, net::own_network)?;
        room.map_err(|source| LabError::Refused {
            room: name.to_owned(),
            source,
        })
    }

    /// No host of its own: a thread on this one, with the same interface.
    ///
    /// # Errors
    /// No more threads.
    pub fn here(name: &str) -> Result<Room, LabError> {
        let room = Room::start(name, || Ok(()))?;
        room.map_err(|source| LabError::Thread {
            name: name.to_owned(),
            source,
        })
    }

    fn start(name: &str, enter: fn() -> io::Result<()>) -> Result<io::Result<Room>, LabError> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let (report, entered) = mpsc::channel();
        let body = move || {
            let namespace = enter().and_then(|()| own_namespace());
            let is_in = namespace.is_ok();
            if report.send(namespace).is_err() || !is_in {
                return;
            }
            for job in to_do {
                job();
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread = thread.map_err(|source| LabError::Thread {
            name: name.to_owned(),
            source,
        })?;
        let namespace = entered
            .recv()
            .expect("the thread reports before it does anything else");
        Ok(namespace.map(|namespace| Room {
            name: name.to_owned(),
            jobs: Some(jobs),
            thread: Some(thread),
            namespace,
        }))
    }

    /// What it is called in errors and in the list of threads.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for its network namespace, as long as the room is there: for `nsenter --net=`, and for
    /// `ip link … netns`.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Does something on this host and returns what came of it. Not to be called from within itself, which
    /// would wait for ever.
    ///
    /// Meant to be short: one thing is done at a time. What takes long starts a thread there.
    ///
    /// # Panics
    /// When `job` does, with what it said.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        type Outcome<T> = Result<T, Box<dyn Any + Send>>;
        let (give, done) = mpsc::sync_channel::<Outcome<T>>(1);
        let job = Box::new(move || {
            // A panic must not end the thread: the kernel would kill the programs that it has started.
            let outcome = panic::catch_unwind(AssertUnwindSafe(job));
            let _ = give.send(outcome);
        });
        let jobs = self.jobs.as_ref().expect("only a drop takes it away");
        jobs.send(job)
            .expect("the thread lives until the room is dropped");
        match done.recv().expect("every job gives its outcome") {
            Ok(value) => value,
            Err(panic) => panic::resume_unwind(panic),
        }
    }

    /// Starts a program on this host, at the head of a process group of its own.
    ///
    /// Let it be one that [`wrapped`](super::wrapped) made: another outlives a killed process, and with it the host.
    ///
    /// # Errors
    /// The system's: above all that there is no such program.
    pub fn spawn(&self, command: Command) -> io::Result<Program> {
        self.run(move || Program::start(command))
    }

    /// Reads a kernel setting of this host, `net.ipv4.tcp_tw_reuse` for example.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sysctl(&self, name: &str) -> io::Result<String> {
        let file = setting(name);
        let text = self.run(move || fs::read_to_string(file))?;
        Ok(text.trim().to_owned())
    }

    pub(super) fn apply(&self, sysctls: &Sysctls) -> Result<(), LabError> {
        for (name, value) in sysctls.all() {
            let (file, text) = (setting(&name), value.clone());
            let written = self.run(move || fs::write(file, text));
            written.map_err(|source| LabError::Sysctl {
                room: self.name.clone(),
                name,
                value,
                source,
            })?;
        }
        Ok(())
    }
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// The calling thread's.
fn own_namespace() -> io::Result<PathBuf> {
    let thread = fs::read_link("/proc/thread-self")?;
    Ok(Path::new("/proc").join(thread).join("ns/net"))
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread of the host {:?} had panicked", self.name);
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_there_is_done_on_its_thread_and_a_panic_does_not_end_it() {
        let room = Room::here("a room").unwrap();
        let name = || thread::current().name().map(str::to_owned);
        assert_eq!(room.run(name).as_deref(), Some("a room"));
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| room.run(|| panic!("oh"))));
        assert!(panicked.is_err());
        assert_eq!(room.run(name).as_deref(), Some("a room"));
    }
}
