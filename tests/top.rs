//! `warmline top`: the program in a real terminal, and what it prints where there is none.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use support::client::Client;
use support::proxy::Program;
use support::scripted::Backend;
use support::{PATIENCE, process, wait_until};

const SNAPSHOT: &str = include_str!("support/snapshot.json");

/// Answers every request with the snapshot; gone when dropped.
struct Proxy {
    address: SocketAddr,
    gone: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let gone = Arc::clone(&gone);
            move || {
                for stream in listener.incoming() {
                    if gone.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).unwrap();
                    let asked = request[..length].starts_with(b"GET /snapshot HTTP/1.1\r\n");
                    let status = if asked { "200 OK" } else { "404 Not Found" };
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{SNAPSHOT}",
                        SNAPSHOT.len()
                    );
                }
            }
        });
        Proxy {
            address,
            gone,
            thread: Some(thread),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn top(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .arg("top")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn where_there_is_no_terminal_it_is_printed_once() {
    let proxy = Proxy::start();
    let address = proxy.address.to_string();
    for args in [&["--admin", &address][..], &["--admin", &address, "--once"]] {
        let output = top(args);
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).unwrap();
        for words in [
            &format!("Warmline 0.1.0 at {address}  up 12 min"),
            "upstream  backend ",
            "app       10.0.0.5:80 ",
            "the 5,367 ports left of 28,232 last 8.8 s",
        ] {
            assert!(said.contains(words), "{words:?} is not in\n{said}");
        }
        assert!(!said.contains('\x1b'), "{said}");
    }
}

#[test]
fn a_running_proxy_is_read_over_tcp_and_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let socket = format!("unix:{}", socket.display());
    for admin in ["127.0.0.1:0", &socket] {
        let backend = Backend::numbered();
        let mut proxy = Program::run(&format!(
            "[admin]\naddress = \"{admin}\"\n[[routes]]\nupstream = \"app\"\n\
             [upstreams.app]\nservers = [\"{}\"]\n",
            backend.addr
        ));
        let mut client = Client::connect(proxy.addr);
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 200);
        }
        let mut address = None;
        wait_until(PATIENCE, "the admin listener", || {
            address = proxy.process().said().lines().find_map(|line| {
                let (_, address) = line.split_once("admin on ")?;
                let address = address.trim();
                Some(
                    address
                        .strip_prefix("http://")
                        .unwrap_or(address)
                        .to_owned(),
                )
            });
            address.is_some()
        });
        let address = address.unwrap();
        let mut said = String::new();
        // The kernel is asked once a second.
        wait_until(PATIENCE, "the ports left", || {
            let output = top(&["--once", "--admin", &address]);
            assert!(output.status.success());
            said = String::from_utf8(output.stdout).unwrap();
            said.contains("ports are free")
        });
        let head = format!("Warmline {} at {address}  up ", env!("CARGO_PKG_VERSION"));
        assert!(said.starts_with(&head), "{said}");
        assert!(said.contains("1 client  1 worker"), "{said}");
        let row = said.lines().find(|line| line.starts_with("app "));
        let row = row.unwrap_or_else(|| panic!("{said}"));
        assert!(row.contains(&format!("{}  pooled", backend.addr)), "{row}");
    }
}

#[test]
fn without_a_proxy_the_reason_is_said_and_the_exit_code_is_1() {
    let nobody = support::free_port();
    let output = top(&["--admin", &format!("127.0.0.1:{nobody}")]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!("error: no proxy answers at 127.0.0.1:{nobody}: connection refused\n")
    );
    assert!(output.stdout.is_empty());
    assert_eq!(top(&["--interval", "0"]).status.code(), Some(2));
}

/// The program in a terminal of 30 lines and 120 columns.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(address: SocketAddr) -> Terminal {
        let program = env!("CARGO_BIN_EXE_warmline");
        let line = format!(
            "stty rows 30 cols 120; echo \"before=$(stty -g)=\"; \
             sh -c 'echo pid=$$=; exec \"{program}\" top --interval 0.1 --admin {address}'; \
             echo \"code=$?=\"; echo \"after=$(stty -g)=\""
        );
        let mut child = Command::new(process::find(&["script"], "bsdutils"))
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script can be run");
        let mut stdout = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let keys = child.stdin.take().unwrap();
        thread::spawn({
            let output = Arc::clone(&output);
            move || {
                let mut part = [0; 4096];
                while let Ok(length) = stdout.read(&mut part) {
                    if length == 0 {
                        return;
                    }
                    output.lock().unwrap().extend_from_slice(&part[..length]);
                }
            }
        });
        Terminal {
            child,
            keys,
            output,
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// Waits until `words` are to be seen, or no longer to be.
    #[track_caller]
    fn wait_for(&self, words: &str, seen: bool) {
        wait_until(PATIENCE, words, || {
            screen(&self.said()).contains(words) == seen
        });
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// What was said between `name=` and the next `=`.
    fn value(&self, name: &str) -> String {
        let said = self.said();
        let after = said.rsplit(&format!("{name}=")).next().unwrap();
        after.split('=').next().unwrap().to_owned()
    }

    /// Waits for the end, after which the terminal is as it was.
    #[track_caller]
    fn ends_as_it_began(&mut self) {
        wait_until(PATIENCE, "the program to end", || {
            self.child.try_wait().unwrap().is_some()
        });
        wait_until(PATIENCE, "its last words", || {
            self.said().contains("after=")
        });
        assert_eq!(self.value("code"), "0");
        assert_eq!(self.value("before"), self.value("after"));
        let said = self.said();
        let (entered, left) = (said.find("\x1b[?1049h"), said.rfind("\x1b[?1049l"));
        assert!(entered.is_some() && entered < left, "{said:?}");
        assert!(
            said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"),
            "the cursor"
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Its terminal goes with it, and the program with that.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a terminal shows after these bytes, as far as the program uses one: text where the cursor is, moves
/// of it, and erasing all.
fn screen(said: &str) -> String {
    const ROWS: usize = 30;
    const COLUMNS: usize = 120;
    let mut cells = vec![vec![' '; COLUMNS]; ROWS];
    let (mut row, mut column) = (0, 0);
    let mut chars = said.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.next() == Some('[') => {
                let mut arguments = String::new();
                let end = chars.by_ref().find(|c| {
                    arguments.push(*c);
                    c.is_ascii_alphabetic()
                });
                let numbers = arguments.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let mut numbers = numbers.split(';').map(|text| text.parse().unwrap_or(1));
                match end {
                    Some('H') => {
                        row = numbers.next().unwrap_or(1) - 1;
                        column = numbers.next().unwrap_or(1) - 1;
                    }
                    Some('J') => cells = vec![vec![' '; COLUMNS]; ROWS],
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            c => {
                if let Some(cell) = cells.get_mut(row).and_then(|row| row.get_mut(column)) {
                    *cell = c;
                }
                column += 1;
            }
        }
    }
    let lines = cells.into_iter().map(|row| {
        let line: String = row.into_iter().collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn it_draws_and_reacts_to_keys_and_gives_the_terminal_back() {
    let proxy = Proxy::start();
    let mut terminal = Terminal::start(proxy.address);
    terminal.wait_for("> app       10.0.0.5:80", true);
    terminal.wait_for("the 28,227 ports left of 28,232 do not run out", true);
    assert!(terminal.said().contains("\x1b[38;5;"), "it is in colour");
    terminal.press("j");
    terminal.wait_for("> old       10.0.0.6:8080", true);
    terminal.wait_for("the 5,367 ports left of 28,232 last 8.8 s", true);
    terminal.press("\x1b[A");
    terminal.wait_for("> app       10.0.0.5:80", true);
    terminal.press("?");
    terminal.wait_for("Home, End    the first, the last", true);
    terminal.press("?");
    terminal.wait_for("Home, End", false);
    terminal.press("p");
    terminal.wait_for("\npaused", true);
    terminal.press("p");
    terminal.wait_for("\npaused", false);
    drop(proxy);
    terminal.wait_for("proxy gone, trying again: no proxy answers at", true);
    terminal.wait_for("> app       10.0.0.5:80", true);
    terminal.press("q");
    terminal.ends_as_it_began();
}

#[test]
fn a_signal_and_ctrl_c_give_the_terminal_back_too() {
    let proxy = Proxy::start();
    let mut terminal = Terminal::start(proxy.address);
    terminal.wait_for("10.0.0.6:8080", true);
    terminal.press("\x03");
    terminal.ends_as_it_began();

    let mut terminal = Terminal::start(proxy.address);
    terminal.wait_for("10.0.0.6:8080", true);
    let pid = terminal.value("pid").parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    terminal.ends_as_it_began();
}
