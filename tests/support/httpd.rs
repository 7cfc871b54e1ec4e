//! A real Apache httpd as a backend, with its access log.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{self, Process};
use super::{PATIENCE, client, free_port, local, wait_until};

/// How often another port is tried when one was lost between finding it free and listening.
const ATTEMPTS: usize = 5;

/// Where modules are, by distribution.
const MODULE_FOLDERS: [&str; 3] = [
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
];

/// What is loaded where it is not built in; Debian builds two of them in.
const MODULES: [&str; 8] = [
    "mpm_event",
    "log_config",
    "unixd",
    "authz_core",
    "dir",
    "alias",
    "headers",
    "setenvif",
];

/// A running httpd with the event MPM, stopped when dropped.
pub struct Httpd {
    /// Where it serves.
    pub addr: SocketAddr,
    process: Process,
    dir: TempDir,
    mode: Mode,
}

/// How many processes it is.
#[derive(Clone, Copy)]
enum Mode {
    /// One that does not detach, so that its end is the end of all of it.
    Alone,
    /// One that does not detach, and its children, which it ends.
    WithChildren,
}

/// One request in its access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The client's address as the connection has it (`%{c}a`).
    pub client: String,
    /// The client's port (`%{remote}p`).
    pub remote_port: u16,
    /// Requests that the connection had carried before (`%k`): 0 for its first.
    pub kept: u32,
    /// What became of the connection (`%X`): `+` may be kept, `-` is closed, `X` was aborted.
    ///
    /// httpd 2.4 is one early here: with `MaxKeepAliveRequests 2` it writes `-` for the second
    /// request, which it answers with `Connection: Keep-Alive` and whose connection it keeps for a
    /// third. [`kept`](Self::kept) tells what really happened.
    pub connection: char,
    /// What it answered.
    pub status: u16,
    /// The request line.
    pub request: String,
}

impl Httpd {
    /// Starts httpd with `extra` at the end of its configuration: `KeepAlive`,
    /// `MaxKeepAliveRequests`, `KeepAliveTimeout`, `Timeout`, `Header`, `Alias`, …; all of these are at
    /// httpd's own defaults otherwise.
    ///
    /// Files of [`files`](Self::files) are served. One returns when it answers. It is one process,
    /// and knows of signals only that they end it.
    ///
    /// # Panics
    /// When httpd is not installed or does not take the settings, with what it says.
    pub fn start(extra: &str) -> Httpd {
        Httpd::start_as(Mode::Alone, extra)
    }

    /// As [`start`](Self::start), with a process for its children, which knows all of its signals.
    ///
    /// # Panics
    /// As there.
    pub fn start_with_children(extra: &str) -> Httpd {
        Httpd::start_as(Mode::WithChildren, extra)
    }

    fn start_as(mode: Mode, extra: &str) -> Httpd {
        let mut dir = TempDir::new().expect("a temporary folder can be had");
        fs::create_dir(dir.path().join("files")).unwrap();
        fs::write(
            dir.path().join("files").join(ready_name(dir.path())),
            "ready",
        )
        .unwrap();
        // Started by root it serves as another user, who has to get at the files.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let addr = local(free_port());
            fs::write(
                dir.path().join("httpd.conf"),
                config(dir.path(), addr, extra),
            )
            .unwrap();
            let process = run(mode, dir.path());
            let mut httpd = Httpd {
                addr,
                process,
                dir,
                mode,
            };
            if httpd.comes_up() {
                return httpd;
            }
            said = httpd.process.said();
            dir = httpd.dir;
            if !said.contains("could not bind") {
                break;
            }
        }
        panic!("httpd did not start:\n{said}");
    }

    /// Whether it answers, as opposed to having ended.
    fn comes_up(&mut self) -> bool {
        let path = format!("/{}", ready_name(self.dir.path()));
        let (mut up, mut ended) = (false, false);
        wait_until(PATIENCE, "httpd to answer", || {
            // Only this httpd has the file: another server may have got the port.
            up = client::Client::try_connect(self.addr).is_some_and(|mut connection| {
                connection
                    .try_send(format!("GET {path} HTTP/1.0\r\n\r\n"))
                    .is_ok()
                    && connection
                        .try_response()
                        .is_ok_and(|response| response.status == 200)
            });
            ended = self.process.ended().is_some();
            up || ended
        });
        up && !ended
    }

    /// The folder of the files it serves.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Puts a file there.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.files().join(name), content).unwrap();
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it; its connections are closed and its port refuses.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Ends it and starts it again on the same port; the log goes on.
    pub fn restart(&mut self) {
        self.process.stop();
        self.process = run(self.mode, self.dir.path());
        assert!(
            self.comes_up(),
            "httpd did not start again:\n{}",
            self.process.said()
        );
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Its error log.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// The access log once `requests` are in it: httpd may write a line after the client has had the
    /// response.
    ///
    /// # Panics
    /// When there are fewer after the usual patience.
    pub fn log_of(&self, requests: usize) -> Vec<LogLine> {
        let mut lines = Vec::new();
        wait_until(
            PATIENCE,
            &format!("{requests} requests in httpd's log"),
            || {
                lines = self.log();
                lines.len() >= requests
            },
        );
        lines
    }

    /// The access log as far as it is written.
    pub fn log(&self) -> Vec<LogLine> {
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(parse)
            .collect()
    }
}

/// Connections that these requests came on.
///
/// Each has one first request. Ports would not do: a long test may be given one twice.
pub fn connections_used(log: &[LogLine]) -> usize {
    log.iter().filter(|line| line.kept == 0).count()
}

fn run(mode: Mode, dir: &Path) -> Process {
    let mut command = Command::new(process::find(&["apache2", "httpd"], "apache2-bin"));
    command
        .arg(match mode {
            Mode::Alone => "-X",
            Mode::WithChildren => "-DFOREGROUND",
        })
        .arg("-d")
        .arg(dir)
        .arg("-f")
        .arg(dir.join("httpd.conf"));
    Process::start(&mut command, &dir.join("output"))
}

/// What loads a module, such as `http2`, where it is not built in.
pub fn load(name: &str) -> String {
    let modules = MODULE_FOLDERS
        .iter()
        .map(Path::new)
        .find(|folder| folder.is_dir())
        .unwrap_or_else(|| panic!("this test needs httpd's modules, which are not installed: `apt-get install apache2-bin`"));
    let file = modules.join(format!("mod_{name}.so"));
    format!(
        "<IfModule !{name}_module>\nLoadModule {name}_module {}\n</IfModule>\n",
        file.display()
    )
}

/// The file it is asked for until it answers.
fn ready_name(dir: &Path) -> String {
    let name = dir.file_name().expect("a temporary folder has a name");
    format!("ready-{}", name.to_string_lossy().trim_start_matches('.'))
}

fn config(dir: &Path, addr: SocketAddr, extra: &str) -> String {
    let dir_text = dir.display();
    let load: String = MODULES.into_iter().map(load).collect();
    let user = if rustix::process::geteuid().is_root() {
        "User nobody\nGroup #65534\n"
    } else {
        ""
    };
    format!(
        r#"ServerRoot {dir_text}
ServerName test.example
{load}{user}Listen {addr}
PidFile {dir_text}/httpd.pid
DefaultRuntimeDir {dir_text}
ErrorLog /dev/stderr
LogLevel warn
DocumentRoot {dir_text}/files
SetEnvIf Request_URI "^/ready-" unlogged
LogFormat "%{{c}}a %{{remote}}p %k %X %>s %r" counted
CustomLog {dir_text}/access.log counted env=!unlogged
{extra}
"#
    )
}

fn parse(line: &str) -> LogLine {
    let read = || {
        let mut words = line.splitn(6, ' ');
        Some(LogLine {
            client: words.next()?.to_owned(),
            remote_port: words.next()?.parse().ok()?,
            kept: words.next()?.parse().ok()?,
            connection: words.next()?.chars().next()?,
            status: words.next()?.parse().ok()?,
            request: words.next()?.to_owned(),
        })
    };
    read().unwrap_or_else(|| panic!("{line:?} is not a line of our log format"))
}
