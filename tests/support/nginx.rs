//! A real nginx as a backend, with its own counts of connections and requests.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::process::{self, Process};
use super::{PATIENCE, client, free_port, local, wait_until};

/// How often another pair of ports is tried when one was lost between finding it free and listening.
const ATTEMPTS: usize = 5;

/// A location that takes uploads: `PUT /uploads/name` stores the body, of any size.
pub const UPLOADS: &str = "
    location /uploads/ {
        dav_methods PUT DELETE;
        create_full_put_path on;
        client_max_body_size 0;
    }
";

/// A running nginx: one process, no master, stopped when dropped.
pub struct Nginx {
    /// Where it serves.
    pub addr: SocketAddr,
    status: SocketAddr,
    asked: AtomicU64,
    process: Process,
    dir: TempDir,
}

/// One request in its access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// nginx's number of the connection, unique while it runs.
    pub connection: u64,
    /// Which request of its connection this is; the first is 1.
    pub connection_requests: u64,
    /// The client's port.
    pub remote_port: u16,
    /// What it answered; 499 when the client left first.
    pub status: u16,
    /// Bytes of the response body that it sent.
    pub body_bytes: u64,
    /// Bytes of the request, head and body.
    pub request_bytes: u64,
    /// The request line.
    pub request: String,
}

impl Nginx {
    /// Starts nginx with `server`, which goes into its one `server` block: locations, and settings
    /// such as `keepalive_timeout`, `keepalive_requests` or `client_max_body_size`.
    ///
    /// Files of [`files`](Self::files) are served where no location says otherwise. One returns when
    /// it answers.
    ///
    /// # Panics
    /// When nginx is not installed or does not take the settings, with what it says.
    pub fn start(server: &str) -> Nginx {
        let mut dir = TempDir::new().expect("a temporary folder can be had");
        fs::create_dir(dir.path().join("files")).unwrap();
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let (addr, status) = (local(free_port()), local(free_port()));
            fs::write(
                config_file(dir.path()),
                config(dir.path(), addr, status, server),
            )
            .unwrap();
            let process = run(dir.path());
            let mut nginx = Nginx {
                addr,
                status,
                asked: AtomicU64::new(0),
                process,
                dir,
            };
            if nginx.comes_up() {
                return nginx;
            }
            said = nginx.process.said();
            dir = nginx.dir;
            if !said.contains("bind()") {
                break;
            }
        }
        panic!("nginx did not start:\n{said}");
    }

    /// Whether it answers, as opposed to having ended.
    fn comes_up(&mut self) -> bool {
        let (mut up, mut ended) = (false, false);
        wait_until(PATIENCE, "nginx to answer", || {
            // Its own folder's name is in the answer: another server may have got the port.
            up = self.try_status().is_some();
            ended = self.process.ended().is_some();
            up || ended
        });
        up && !ended
    }

    /// Whether this nginx was built with a module, such as `http_dav_module`.
    pub fn has_module(name: &str) -> bool {
        let output = Command::new(program())
            .arg("-V")
            .output()
            .expect("nginx can be run");
        String::from_utf8_lossy(&output.stderr).contains(name)
    }

    /// The folder of the files it serves.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Puts a file there.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.files().join(name), content).unwrap();
    }

    /// Puts a file of `length` zero bytes there that takes no room on the disk.
    pub fn sparse_file(&self, name: &str, length: u64) {
        File::create(self.files().join(name))
            .unwrap()
            .set_len(length)
            .unwrap();
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it; its connections are closed and its port refuses.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Ends it and starts it again on the same port. Counts begin anew; the log goes on.
    pub fn restart(&mut self) {
        self.process.stop();
        self.asked.store(0, Ordering::SeqCst);
        self.process = run(self.dir.path());
        assert!(
            self.comes_up(),
            "nginx did not start again:\n{}",
            self.process.said()
        );
    }

    /// Its error log.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Connections it has accepted from others than us, used or not.
    pub fn connections_accepted(&self) -> u64 {
        let accepted = self.status();
        accepted - self.asked.load(Ordering::SeqCst)
    }

    /// Connections that have carried at least one request.
    pub fn connections_used(&self) -> usize {
        self.log()
            .iter()
            .map(|line| line.connection)
            .collect::<HashSet<_>>()
            .len()
    }

    /// Requests it has served to their end.
    pub fn requests_served(&self) -> usize {
        self.log().len()
    }

    /// The access log: every request whose response has been sent.
    ///
    /// nginx sends the end of a response and writes the log line in the same turn of its loop. It is
    /// one process, so once it has answered a question of ours, the line of every response that
    /// anybody had before is in the file.
    pub fn log(&self) -> Vec<LogLine> {
        self.status();
        let text = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().map(parse).collect()
    }

    /// Accepted connections, ours among them.
    fn status(&self) -> u64 {
        self.try_status()
            .unwrap_or_else(|| panic!("nginx does not answer any more:\n{}", self.process.said()))
    }

    fn try_status(&self) -> Option<u64> {
        let mut connection = client::Client::try_connect(self.status)?;
        self.asked.fetch_add(1, Ordering::SeqCst);
        connection
            .try_send(format!(
                "GET {} HTTP/1.0\r\n\r\n",
                status_path(self.dir.path())
            ))
            .ok()?;
        let response = connection
            .try_response()
            .ok()
            .filter(|response| response.status == 200)?;
        let text = response.text();
        let mut lines = text
            .lines()
            .skip_while(|line| !line.starts_with("server accepts"));
        lines.nth(1)?.split_whitespace().next()?.parse().ok()
    }
}

fn program() -> PathBuf {
    process::find(&["nginx"], "nginx-light")
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("nginx.conf")
}

fn run(dir: &Path) -> Process {
    let mut command = Command::new(program());
    command
        .args(["-e", "stderr", "-p"])
        .arg(dir)
        .arg("-c")
        .arg(config_file(dir));
    Process::start(&mut command, &dir.join("output"))
}

/// Where the status is: a path that only this nginx has.
fn status_path(dir: &Path) -> String {
    let name = dir.file_name().expect("a temporary folder has a name");
    format!("/status-of-{}", name.to_string_lossy())
}

fn config(dir: &Path, addr: SocketAddr, status: SocketAddr, server: &str) -> String {
    let dir_text = dir.display();
    let status_path = status_path(dir);
    format!(
        "daemon off;
        master_process off;
        pid {dir_text}/nginx.pid;
        error_log stderr warn;
        events {{ worker_connections 4096; }}
        http {{
            client_body_temp_path {dir_text}/body;
            proxy_temp_path {dir_text}/proxy;
            fastcgi_temp_path {dir_text}/fastcgi;
            uwsgi_temp_path {dir_text}/uwsgi;
            scgi_temp_path {dir_text}/scgi;
            log_format counted '$connection $connection_requests $remote_port $status '
                               '$body_bytes_sent $request_length $request';
            server {{
                listen {status};
                access_log off;
                location = {status_path} {{ stub_status; }}
                location / {{ return 404; }}
            }}
            server {{
                listen {addr};
                access_log {dir_text}/access.log counted;
                root {dir_text}/files;
                {server}
            }}
        }}
        "
    )
}

fn parse(line: &str) -> LogLine {
    let read = || {
        let mut words = line.splitn(7, ' ');
        Some(LogLine {
            connection: words.next()?.parse().ok()?,
            connection_requests: words.next()?.parse().ok()?,
            remote_port: words.next()?.parse().ok()?,
            status: words.next()?.parse().ok()?,
            body_bytes: words.next()?.parse().ok()?,
            request_bytes: words.next()?.parse().ok()?,
            request: words.next()?.to_owned(),
        })
    };
    read().unwrap_or_else(|| panic!("{line:?} is not a line of our log format"))
}
