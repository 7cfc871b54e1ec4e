//! The programs of an arm: its proxy and its backend, started, asked and ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::admin::{self, Where};
use super::usage::Usage;
use crate::compare::backend::Answers;
use crate::compare::lab::{self, Room, THIS_PROGRAM, wrapped};
use crate::scrape::Page;

/// The longest a program may take until it answers.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// The longest it may take to end; then it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// Why a program does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is not there, or cannot be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{program} ended; it said:\n{said}")]
    Ended {
        /// Its name.
        program: String,
        /// Its last lines.
        said: String,
    },
    /// It runs and does not answer.
    #[error("{program} did not answer a request within {} s: {why}; it said:\n{said}", STARTS_WITHIN.as_secs())]
    Silent {
        /// Its name.
        program: String,
        /// What came instead.
        why: String,
        /// Its last lines.
        said: String,
    },
    /// What it says makes no sense.
    #[error("{program} does not say what it should: {source}")]
    Odd {
        /// Its name.
        program: String,
        /// What is wrong.
        source: io::Error,
    },
}

/// A program that runs. It is ended when dropped.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    running: lab::Program,
    log: PathBuf,
}

impl Program {
    /// Starts it in `room`; what it says goes to a file.
    fn start(
        room: &Room,
        name: &str,
        mut command: Command,
        log: &Path,
        is_asked: bool,
    ) -> Result<Program, Fault> {
        let start = |source| Fault::Start {
            program: name.to_owned(),
            source,
        };
        let file = File::create(log).map_err(start)?;
        command.stderr(file);
        if is_asked {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        Ok(Program {
            name: name.to_owned(),
            running: room.spawn(command).map_err(start)?,
            log: log.to_owned(),
        })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.running.id()
    }

    /// What it has used.
    pub(super) fn usage(&self) -> Result<Usage, Fault> {
        Usage::of(self.pid()).map_err(|_| self.ended())
    }

    /// The end of what it said.
    fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        if last.is_empty() {
            "  (nothing)".to_owned()
        } else {
            format!("  {}\n", last.join("\n  "))
        }
    }

    fn ended(&self) -> Fault {
        Fault::Ended {
            program: self.name.clone(),
            said: self.said(),
        }
    }

    /// Waits until a GET of `path` at `address` is answered with a status below 400, as seen from `room`.
    pub(super) fn answers(
        &mut self,
        room: &Room,
        address: SocketAddr,
        request: &str,
    ) -> Result<(), Fault> {
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            let request = request.to_owned();
            let status = room.run(move || ask(address, &request));
            if matches!(self.running.try_wait(), Ok(Some(_))) {
                return Err(self.ended());
            }
            let why = match status {
                Ok(status) if status < 400 => return Ok(()),
                Ok(status) => format!("it answered {status}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() > until {
                return Err(Fault::Silent {
                    program: self.name.clone(),
                    why,
                    said: self.said(),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    /// Asks it to end; what does not is killed.
    fn drop(&mut self) {
        let _ = self.running.signal(Signal::TERM);
        let until = Instant::now() + ENDS_WITHIN;
        while matches!(self.running.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One request, and the status of its answer.
fn ask(address: SocketAddr, request: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(request.as_bytes())?;
    let mut head = String::new();
    BufReader::new(stream).read_line(&mut head)?;
    let status = head.split_ascii_whitespace().nth(1);
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP"))
}

/// This program again, which ends with us.
fn own() -> Command {
    let this = Path::new(THIS_PROGRAM);
    wrapped(this, this)
}

/// The proxy of an arm.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) program: Program,
    /// Where Warmline answers operators.
    admin: Option<Where>,
}

impl Proxy {
    /// Starts Warmline, with its configuration in a file.
    pub(super) fn warmline(
        room: &Room,
        name: &str,
        config: &Path,
        admin: &Path,
        log: &Path,
    ) -> Result<Proxy, Fault> {
        let mut command = own();
        command.args(["run", "--log", "warn", "-c"]).arg(config);
        Ok(Proxy {
            program: Program::start(room, name, command, log, false)?,
            admin: Some(Where::Unix(admin.to_owned())),
        })
    }

    /// Starts another, which is on the path.
    pub(super) fn other(
        room: &Room,
        name: &str,
        program: &str,
        args: &[&OsStr],
        log: &Path,
    ) -> Result<Proxy, Fault> {
        let mut command = wrapped(Path::new(THIS_PROGRAM), program);
        command.args(args);
        Ok(Proxy {
            program: Program::start(room, name, command, log, false)?,
            admin: None,
        })
    }

    /// What it counts, if it does.
    pub(super) fn figures(&self) -> Result<Option<Figures>, Fault> {
        let Some(admin) = &self.admin else {
            return Ok(None);
        };
        let odd = |source| Fault::Odd {
            program: self.program.name.clone(),
            source,
        };
        let page = admin::page(admin).map_err(odd)?;
        Ok(Some(Figures::of(&page)))
    }
}

/// What Warmline counts of its one upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) connects: u64,
    pub(super) reused: u64,
    pub(super) busy: u64,
    /// Attempts that found no local port.
    pub(super) no_port: u64,
    /// Ends of connections, by how.
    pub(super) closes: BTreeMap<String, u64>,
    /// The time of `connect()`: bounds in seconds, and how many took no longer.
    pub(super) connect: Vec<(Option<f64>, u64)>,
}

impl Figures {
    fn of(page: &Page) -> Figures {
        let whole = |value: f64| crate::quantity::whole(value);
        let sum =
            |name: &str, labels: &[(&str, &str)]| whole(page.sum(name, labels).unwrap_or(0.0));
        let mut closes = BTreeMap::new();
        for series in page.all("warmline_backend_closes_total") {
            *closes.entry(series.label("close").to_owned()).or_default() += whole(series.value);
        }
        let mut connect: Vec<(Option<f64>, u64)> = Vec::new();
        for series in page.all("warmline_upstream_connect_call_seconds_bucket") {
            let bound = series
                .label("le")
                .parse()
                .ok()
                .filter(|bound: &f64| bound.is_finite());
            let count = whole(series.value);
            match connect.iter_mut().find(|(there, _)| *there == bound) {
                Some((_, sum)) => *sum += count,
                None => connect.push((bound, count)),
            }
        }
        Figures {
            requests: sum("warmline_backend_requests_total", &[]),
            connects: sum("warmline_backend_connects_total", &[]),
            reused: sum("warmline_backend_reuses_total", &[]),
            busy: sum("warmline_backend_connections", &[("state", "leased")]),
            no_port: sum(
                "warmline_backend_connect_failures_total",
                &[("reason", "no_local_port")],
            ),
            closes,
            connect,
        }
    }

    /// What came since.
    pub(super) fn since(&self, before: &Figures) -> Figures {
        let closes = self.closes.iter().map(|(how, count)| {
            let earlier = before.closes.get(how).copied().unwrap_or(0);
            (how.clone(), count.saturating_sub(earlier))
        });
        let connect = self.connect.iter().map(|(bound, count)| {
            let earlier = before.connect.iter().find(|(there, _)| there == bound);
            (
                *bound,
                count.saturating_sub(earlier.map_or(0, |(_, count)| *count)),
            )
        });
        Figures {
            requests: self.requests.saturating_sub(before.requests),
            connects: self.connects.saturating_sub(before.connects),
            reused: self.reused.saturating_sub(before.reused),
            busy: self.busy,
            no_port: self.no_port.saturating_sub(before.no_port),
            closes: closes.collect(),
            connect: connect.collect(),
        }
    }
}

/// A backend of our own.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) program: Program,
    pub(super) address: SocketAddr,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What a backend has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) connections: u64,
    pub(super) requests: u64,
}

impl Backend {
    /// Starts it at `address`; port 0 becomes a free one.
    pub(super) fn start(
        room: &Room,
        name: &str,
        address: SocketAddr,
        answers: Answers,
        log: &Path,
    ) -> Result<Backend, Fault> {
        let mut command = own();
        command.args(["backend", "--asked", "--listen", &address.to_string()]);
        command.args(["--body", &answers.body_bytes.to_string()]);
        command.args(["--work", &format!("{}us", answers.work.as_micros())]);
        command.args(["--delay", &format!("{}us", answers.delay.as_micros())]);
        let mut program = Program::start(room, name, command, log, true)?;
        let (Some(asks), Some(said)) = (
            program.running.child().stdin.take(),
            program.running.child().stdout.take(),
        ) else {
            return Err(program.ended());
        };
        let mut said = BufReader::new(said);
        let mut line = String::new();
        let read = said.read_line(&mut line);
        let address = line.trim().parse().ok().filter(|_| read.is_ok());
        Ok(Backend {
            address: address.ok_or_else(|| program.ended())?,
            program,
            asks,
            answers: said,
        })
    }

    /// What it has done so far.
    pub(super) fn served(&mut self) -> Result<Served, Fault> {
        let mut line = String::new();
        let asked = self
            .asks
            .write_all(b"\n")
            .and_then(|()| self.answers.read_line(&mut line));
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        match (asked, numbers.next(), numbers.next()) {
            (Ok(_), Some(Ok(connections)), Some(Ok(requests))) => Ok(Served {
                connections,
                requests,
            }),
            _ => Err(self.program.ended()),
        }
    }
}
