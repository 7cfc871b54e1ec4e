//! A real browser, told what to do: headless Chromium by chromedriver.
//!
//! Source: W3C, "`WebDriver`": JSON over HTTP.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{self, Process};
use super::{PATIENCE, local, wait_until};

/// The longest one command may take: a browser is slow to start on a busy machine.
const SLOW: Duration = Duration::from_secs(60);

/// A browser with one window. Ended when dropped.
pub struct Browser {
    // Before the driver: it is asked to end the browser.
    session: String,
    driver: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

/// How many are started before it is given up: each asks the kernel for a port, and ends if another has the
/// same one on the other IP version.
const DRIVERS: usize = 5;

/// Starts a driver; returns it and where it listens, or `None` if it found no port.
fn start_driver(dir: &TempDir) -> Option<(Process, u16)> {
    let mut command = Command::new(process::find(&["chromedriver"], "chromium-driver"));
    command
        .arg("--port=0")
        // What it writes for itself goes with the test.
        .env("HOME", dir.path())
        .env("TMPDIR", dir.path());
    let mut driver = Process::start(&mut command, &dir.path().join("chromedriver.log"));
    let (mut port, mut has_ended) = (None, false);
    wait_until(PATIENCE, "chromedriver to listen", || {
        has_ended = driver.ended().is_some();
        let said = driver.said();
        let rest = said.split("started successfully on port ").nth(1);
        let digits = rest.and_then(|rest| rest.split(['.', '\n']).next());
        port = digits.and_then(|digits| digits.parse().ok());
        port.is_some() || has_ended
    });
    if has_ended {
        let said = driver.said();
        assert!(said.contains("port 0"), "it ended: {said}");
        return None;
    }
    port.map(|port| (driver, port))
}

/// Whether there is one; otherwise says aloud that `test` is skipped.
pub fn is_there(test: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let has = |name: &str| env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let there = has("chromedriver") && (has("chromium") || has("google-chrome"));
    if !there {
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = io::Write::write_all(
            &mut io::stderr(),
            format!("SKIPPED {test}: chromium and chromedriver are needed: `apt-get install chromium chromium-driver`\n").as_bytes(),
        );
    }
    there
}

impl Browser {
    /// Starts one with a window of this size, dark or light.
    pub fn start(width: u32, height: u32, dark: bool) -> Browser {
        let dir = tempfile::tempdir().unwrap();
        let (driver, port) = (0..DRIVERS)
            .find_map(|_| start_driver(&dir))
            .expect("a chromedriver finds a port");
        let mut args = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--no-first-run".to_owned(),
            // The browser's own first page asks the network, and is waited for.
            "about:blank".to_owned(),
            "--disable-background-networking".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", dir.path().join("profile").display()),
        ];
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox".to_owned());
        }
        let mut browser = Browser {
            session: String::new(),
            driver: local(port),
            _process: driver,
            _dir: dir,
        };
        let asked = json!({ "capabilities": { "alwaysMatch": {
            "pageLoadStrategy": "eager",
            "goog:chromeOptions": { "args": args },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        }}});
        let session = browser.ask("POST", "/session", Some(&asked));
        session["sessionId"]
            .as_str()
            .unwrap()
            .clone_into(&mut browser.session);
        let scheme = if dark { "dark" } else { "light" };
        browser.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        browser.resize(width, height);
        browser
    }

    /// The page has this size from now on: narrower, too, than a window may be.
    pub fn resize(&self, width: u32, height: u32) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// The page looks from now on as it would on paper, this wide.
    pub fn on_paper(&self, width: u32, height: u32) {
        self.devtools("Emulation.setEmulatedMedia", &json!({ "media": "print" }));
        self.resize(width, height);
    }

    /// Goes to an address.
    pub fn open(&self, url: &str) {
        self.told("POST", "/url", &json!({ "url": url }));
    }

    /// What `script`, the body of a function, returns.
    pub fn run(&self, script: &str) -> Value {
        self.told(
            "POST",
            "/execute/sync",
            &json!({ "script": script, "args": [] }),
        )
    }

    /// Waits until `script` returns what is true.
    ///
    /// # Panics
    /// When it does not within the usual patience.
    pub fn wait_for(&self, what: &str, script: &str) {
        wait_until(PATIENCE, what, || self.run(script) == Value::Bool(true));
    }

    /// Types these keys, as `WebDriver` names them, to whatever has the focus.
    pub fn keys(&self, keys: &[&str]) {
        let mut actions = Vec::new();
        for key in keys {
            actions.push(json!({ "type": "keyDown", "value": key }));
            actions.push(json!({ "type": "keyUp", "value": key }));
        }
        let asked = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.told("POST", "/actions", &asked);
    }

    /// What the console said, and what was asked of the network, since this was last read.
    pub fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.told("POST", "/se/log", &json!({ "type": kind }));
        log.as_array().unwrap().clone()
    }

    /// Every address that was asked for since this was last read.
    pub fn requests(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for entry in self.log("performance") {
            let text = entry["message"].as_str().unwrap();
            let message: Value = serde_json::from_str(text).unwrap();
            if message["message"]["method"] == "Network.requestWillBeSent" {
                let url = &message["message"]["params"]["request"]["url"];
                urls.push(url.as_str().unwrap().to_owned());
            }
        }
        urls
    }

    /// A picture of the page as PNG, written to `path`.
    pub fn picture(&self, path: &std::path::Path) {
        let picture = self.ask(
            "GET",
            &format!("/session/{}/screenshot", self.session),
            None,
        );
        fs::write(path, base64(picture.as_str().unwrap())).unwrap();
    }

    fn devtools(&self, command: &str, params: &Value) {
        let asked = json!({ "cmd": command, "params": params });
        self.told("POST", "/goog/cdp/execute", &asked);
    }

    fn told(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask(method, &path, Some(body))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let (status, answer) = exchange(self.driver, method, path, &body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Also after a failure: the driver alone would leave the browser behind.
        let path = format!("/session/{}", self.session);
        let _ = exchange(self.driver, "DELETE", &path, "");
    }
}

/// One exchange on a connection of its own; status and body. The driver announces that it closes, and
/// leaves that to its peer.
fn exchange(
    driver: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(driver)?;
    stream.set_read_timeout(Some(SLOW))?;
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {driver}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    )?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        let (name, value) = line.trim_end().split_once([':', ' ']).unwrap_or_default();
        if name.starts_with("HTTP/") {
            status = value[..3].parse().map_err(io::Error::other)?;
        } else if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        line.clear();
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer)?;
    Ok((status, answer))
}

/// RFC 4648 §4, read.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}
