//! Programs that a test starts and that end with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, io};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// The longest a program may take to end after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Where the first of `names` is, in `PATH` and in the `sbin` folders that `PATH` of an ordinary user
/// often lacks.
///
/// # Panics
/// When there is none; the message says which Debian package has it.
pub fn find(names: &[&str], package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test needs {}, which is not installed: `apt-get install {package}`",
                names[0]
            )
        })
}

/// A running program with its output in a file; stopped when dropped.
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`, with both its outputs in `output`.
    pub fn start(command: &mut Command, output: &Path) -> Process {
        let file = File::create(output).expect("a file in a temporary folder can be made");
        let errors = file.try_clone().expect("a file can be opened twice");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
        Process {
            child,
            output: output.to_owned(),
        }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("one's own child can be waited for")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not within `bound`.
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let mut status = None;
        super::wait_until(bound, "a program to end", || {
            status = self.ended();
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Ends it: SIGTERM, and SIGKILL if that does not help.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let _ = self.signal(Signal::TERM);
        let end = Instant::now() + STOP_LIMIT;
        while self.ended().is_none() {
            if Instant::now() >= end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
