//! A program that runs on one of the hosts and does not outlive who started it.

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus};
use std::time::Duration;
use std::{io, mem};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open,
    set_parent_process_death_signal, waitid,
};
use tokio::time::Instant;

/// The program that is running, as a child of it finds it: right even if the file was replaced since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// A command for `program` that the kernel kills when the thread that started it ends: with a
/// [`Room`](super::Room), or with all of this process, `kill -9` included.
///
/// `warmline` is the program that has the subcommand `in-lab`: [`THIS_PROGRAM`], but for tests. It is started, asks
/// the kernel for the signal, and becomes `program`, so process number, output and exit code are that one's.
/// Arguments are added as usual.
///
/// That holds for `program` and not for what it starts, and not if it changes its user (`prctl(2)`,
/// `PR_SET_PDEATHSIG`). On a host of one's own both end with the host anyway. Over loopback let it be one process with
/// the user it is started as (nginx: `daemon off; master_process off;`, haproxy: `-db`, httpd: `-X`).
pub fn wrapped(warmline: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(warmline);
    command
        .args(["in-lab", "--owner", &process::id().to_string(), "--"])
        .arg(program);
    command
}

/// Becomes `program`, to be killed when the parent ends. Returns only if that did not work: what
/// `warmline in-lab` does.
///
/// `owner` is the process that the parent must be; it may have ended before the kernel was told.
pub fn run_owned(owner: u32, program: &OsStr, args: &[impl AsRef<OsStr>]) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // 0: started from outside of its PID namespace, which ends with the owner.
    if ![0, owner].contains(&parent_id()) {
        return io::Error::other("who started it is gone");
    }
    Command::new(program).args(args).exec()
}

/// A running program, and the processes that it has started, as far as they stay in its process group. All of them
/// are killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    has_ended: bool,
}

impl Program {
    pub(super) fn start(mut command: Command) -> io::Result<Program> {
        let child = command.process_group(0).spawn()?;
        Ok(Program {
            child,
            has_ended: false,
        })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its pipes: `stdin`, `stdout`, `stderr`. Waiting and killing are better done here than there.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal, [`Signal::TERM`] for an orderly end; the processes it has started get none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.has_ended {
            return Ok(());
        }
        Ok(kill_process(self.pid(), signal)?)
    }

    /// Ends it in an orderly way, with SIGTERM, and what is left of it and its group `within` this time by force.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        self.signal(Signal::TERM)?;
        self.wait(within)
    }

    /// How it ended, if it does within this time. What it left behind is killed then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        if !self.has_ended {
            let process = pidfd_open(self.pid(), PidfdFlags::empty())?;
            let end = Instant::now() + within;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
                let mut watched = [PollFd::new(&process, PollFlags::IN)];
                match poll(&mut watched, Some(&timeout)) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                    Ok(_) => break,
                }
            }
        }
        self.try_wait()
    }

    /// How it ended, if it has. What it left behind is killed then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if !self.has_ended {
            // Looked at without taking it away, so that its number still is its group's when that is killed.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            if waitid(WaitId::Pid(self.pid()), options)?.is_none() {
                return Ok(None);
            }
            self.end();
        }
        self.child.try_wait()
    }

    /// Kills it and its group, and takes it away.
    fn end(&mut self) {
        if mem::replace(&mut self.has_ended, true) {
            return;
        }
        // Fails if nobody is left there, which is as well.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}
