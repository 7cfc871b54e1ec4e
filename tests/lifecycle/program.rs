//! The real program, as an operator starts it.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::{PATIENCE, wait_until};

/// The name of the file it reads.
const FILE: &str = "warmline.toml";

/// `warmline run` on a free port; stopped when dropped.
pub struct Program {
    process: Process,
    /// Where it listens.
    pub addr: SocketAddr,
    dir: TempDir,
}

impl Program {
    /// In front of `backend`, with `server` in the section of that name.
    pub fn start(backend: SocketAddr, server: &str) -> Program {
        Program::with_file(&config("127.0.0.1:0", backend, server))
    }

    /// With this file.
    pub fn with_file(text: &str) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.args(["run", "-c"]).arg(&file);
        Program::launch(&mut command, dir)
    }

    /// The same, with a variable of the environment.
    pub fn with_variable(text: &str, name: &str, value: impl AsRef<OsStr>) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.args(["run", "-c"]).arg(&file).env(name, value);
        Program::launch(&mut command, dir)
    }

    /// The same, with so few file descriptors.
    pub fn with_few_descriptors(text: &str, most: u32) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        fs::write(&file, text).unwrap();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {most}; exec \"$0\" run -c \"$1\""))
            .arg(env!("CARGO_BIN_EXE_warmline"))
            .arg(&file);
        Program::launch(&mut command, dir)
    }

    /// With these arguments after `run`.
    pub fn with_flags(args: &[&str]) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.arg("run").args(args).current_dir(dir.path());
        Program::launch(&mut command, dir)
    }

    fn launch(command: &mut Command, dir: TempDir) -> Program {
        let mut process = Process::start(command, &dir.path().join("output"));
        let mut addr = None;
        wait_until(PATIENCE, "warmline to listen", || {
            let ended = process.ended();
            let said = process.said();
            assert!(ended.is_none(), "it ended instead: {said}");
            addr = listens_on(&said);
            addr.is_some()
        });
        Program {
            process,
            addr: addr.unwrap(),
            dir,
        }
    }

    /// Puts other text into its file, and has it read; returns what the log says of it from there on.
    pub fn reload(&self, text: &str) -> String {
        fs::write(self.dir.path().join(FILE), text).unwrap();
        let before = self.log().len();
        self.signal(Signal::HUP);
        let mut said = String::new();
        wait_until(PATIENCE, "the log to say what became of it", || {
            said = self.log().split_off(before);
            let outcomes = ["reloaded; changed", "not reloaded"];
            outcomes.iter().any(|outcome| {
                // Not before the line is whole.
                said.split_once(outcome)
                    .is_some_and(|(_, rest)| rest.contains('\n'))
            })
        });
        said
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal).expect("it still runs");
    }

    /// Stops it where it stands, until it is sent SIGCONT.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until(PATIENCE, "the program to stand still", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            tasks.flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // "123 (name) T …"
                let state = stat.rsplit(") ").next();
                state.is_some_and(|rest| rest.starts_with('T'))
            })
        });
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until its log says `words`.
    pub fn wait_for_log(&self, words: &str) {
        wait_until(PATIENCE, &format!("the log to say {words:?}"), || {
            self.log().contains(words)
        });
    }

    pub fn log(&self) -> String {
        self.process.said()
    }

    /// Waits for its end within `bound`; the exit code.
    ///
    /// # Panics
    /// When it has not ended by then, or not by itself.
    pub fn exit_code(&mut self, bound: Duration) -> i32 {
        self.ended(bound).code().expect("it ended by itself")
    }

    fn ended(&mut self, bound: Duration) -> ExitStatus {
        self.process.wait(bound)
    }

    /// Waits until nobody listens there any more.
    pub fn wait_until_refused(&self) {
        wait_until(PATIENCE, "new connections to be refused", || {
            Client::try_connect(self.addr).is_none()
        });
    }
}

/// A configuration with one listener and one backend.
pub fn config(listen: &str, backend: SocketAddr, server: &str) -> String {
    format!(
        "[server]\nworkers = 1\n{server}\n\
         [[listeners]]\naddress = \"{listen}\"\n\
         [upstreams.app]\nservers = [\"{backend}\"]\n"
    )
}

/// Runs the program to its end in `dir`.
pub fn warmline(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn listens_on(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    // Not before the line is whole.
    let (address, _) = rest.split_once('\n')?;
    address.trim().parse().ok()
}
