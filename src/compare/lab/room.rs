//! One host: a network namespace, and the thread that is in it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::{fs, io, thread};

use super::hand::Hand;
use super::{LabError, Program, Sysctls};
use crate::net;

/// A host of one's own: a network namespace that one thread holds.
///
/// What that thread starts is in the namespace too: threads, and programs. So is every socket that it opens, wherever
/// that is used afterwards. `/proc/sys/net` and `/proc/thread-self/net` are the host's, too, for who reads
/// them there; `/proc/net` is not, which is always the main thread's.
///
/// The namespace has no name and ends with the last thread, program and socket in it. Dropping the room ends
/// its thread, and kills its programs. Other threads started there go on, and are their owner's.
///
/// Its programs have a PID namespace of their own besides, whose first process ends when this process does: then the kernel
/// kills all of them, with what they have started, whichever user, group or session that is in.
/// Seen from here they have ordinary process numbers.
#[derive(Debug)]
pub struct Room {
    name: String,
    /// Starts the programs; there once the first is asked for.
    starter: Mutex<Option<Starter>>,
    hand: Hand,
    namespace: PathBuf,
    is_own: bool,
}

impl Room {
    /// A new host without any network but a loopback device, which is down.
    ///
    /// # Errors
    /// [`LabError::Refused`] without root; no more threads.
    pub fn open(name: &str) -> Result<Room, LabError> {
        Room::start(name, true)
    }

    /// No host of its own: a thread on this one, with the same interface.
    ///
    /// # Errors
    /// No more threads.
    pub fn here(name: &str) -> Result<Room, LabError> {
        Room::start(name, false)
    }

    fn start(name: &str, is_own: bool) -> Result<Room, LabError> {
        let hand = Hand::start(name).map_err(|source| LabError::Thread {
            name: name.to_owned(),
            source,
        })?;
        let entered = hand.run(move || {
            if is_own {
                net::own_network()?;
            }
            own_namespace()
        });
        let namespace = entered.map_err(|source| LabError::Refused {
            room: name.to_owned(),
            source,
        })?;
        Ok(Room {
            name: name.to_owned(),
            hand,
            namespace,
            is_own,
            starter: Mutex::new(None),
        })
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

    /// Does something on this host and returns what came of it.
    ///
    /// Meant to be short: one thing is done at a time. What takes long starts a thread there.
    ///
    /// # Panics
    /// When `job` does, with what it said; when called from within itself, which would wait for ever.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.hand.run(job)
    }

    /// Starts a program on this host, at the head of a process group of its own.
    ///
    /// On the host that this process is on itself, let it be one that [`wrapped`](super::wrapped) made: another outlives a
    /// killed process.
    ///
    /// # Errors
    /// The system's: above all that there is no such program. Also when `cat` is not there, which the first start needs.
    pub fn spawn(&self, command: Command) -> io::Result<Program> {
        let mut starter = self.starter.lock().expect("nobody panics with it");
        let starter = match &mut *starter {
            Some(starter) => starter,
            none => none.insert(Starter::of(self)?),
        };
        starter.hand.run(move || Program::start(command))
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

/// A thread that starts programs, with a PID namespace for them if the host is one of its own. It is another than
/// the room's: it can start no threads.
#[derive(Debug)]
struct Starter {
    hand: Hand,
    /// The first process of the namespace.
    first: Option<Child>,
}

impl Starter {
    fn of(room: &Room) -> io::Result<Starter> {
        let name = room.name.clone();
        let hand = room.run(move || Hand::start(&name))?;
        let mut starter = Starter { hand, first: None };
        if room.is_own {
            let first = starter.hand.run(|| {
                net::own_processes()?;
                // It reads until this process ends, whose end of the pipe nobody else has.
                Command::new("cat")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
            });
            starter.first = Some(first?);
        }
        Ok(starter)
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        if let Some(mut first) = self.first.take() {
            // The kernel kills the others after it.
            let _ = first.kill();
            // That takes until the last of them was waited for, and a `Program` may outlive its host.
            let wait = thread::Builder::new().name(format!("end of {}", first.id()));
            let _ = wait.spawn(move || first.wait());
        }
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
