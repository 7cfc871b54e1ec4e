//! A program that runs on one of the hosts and does not outlive who started it.

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus};
use std::{io, mem};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group,
    set_parent_process_death_signal, waitid,
};

/// The program that is running, as a child of it finds it: right even if the file was replaced since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// A command for `program` that the kernel kills when the thread that started it ends: with a
/// [`Room`](super::Room), or with all of this process, `kill -9` included.
///
/// `warmline` is the program that has the subcommand `in-lab`: [`THIS_PROGRAM`], but for tests. It is started, asks
/// the kernel for the signal, and becomes `program`, so process number, output and exit code are that one's.
/// Arguments are added as usual.
///
/// Children of `program` are not killed with it: let it have none (nginx: `daemon off; master_process off;`, haproxy:
/// `-db` without master-worker, httpd: `-X`). After an orderly end [`Program`] kills them too.
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
    if parent_id() != owner {
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
