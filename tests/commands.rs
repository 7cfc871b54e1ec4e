//! Each command of the documents is run as it stands there, or it is said what runs it; and what the
//! documents quote of the log is what the program says.
//!
//! A command is a line of a block marked `sh`, or one that begins with `$` in any other. Those of
//! `warmline`, `curl` and `sysctl` are run in a network namespace of their own, where their ports are free
//! and their addresses can be made, only for shorter where they would take long; it takes root. What is
//! run elsewhere stands in `ELSEWHERE`.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::network::in_network_of_its_own;
use support::process::Process;
use support::{PATIENCE, process, wait_until};
use tempfile::TempDir;
use warmline::compare::EmbeddedBackend;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The longest one command may take; only reached by one that hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A command that is not run here, and what stands in the file that runs it. Where nothing does, as it
/// takes too long or changes the machine, it is held against the program's own text.
struct Elsewhere {
    command: &'static str,
    file: &'static str,
    has: &'static [&'static str],
}

const ELSEWHERE: &[Elsewhere] = &[
    Elsewhere {
        command: "cargo test",
        file: ".ci/run",
        has: &["step test cargo test --locked"],
    },
    Elsewhere {
        command: "cargo test --test apache -- --nocapture",
        file: ".ci/run",
        has: &["step test cargo test --locked"],
    },
    Elsewhere {
        command: "cargo build --release",
        file: ".ci/run",
        has: &["cargo build --release --locked"],
    },
    Elsewhere {
        command: "docker build -t warmline .",
        file: "config/compose/check",
        has: &["-t \"$image\" ../.."],
    },
    Elsewhere {
        command: "docker run -p 8080:8080 -e WARMLINE_UPSTREAM=app:80 warmline",
        file: "config/compose/check",
        has: &["-p 127.0.0.1::8080 -e WARMLINE_UPSTREAM=app:80 \"$image\""],
    },
    Elsewhere {
        command: "docker compose up --exit-code-from verdict",
        file: "config/compose/check",
        has: &["up --exit-code-from verdict"],
    },
    Elsewhere {
        command: "systemctl daemon-reload && systemctl enable --now warmline",
        file: "config/compose/check",
        has: &["systemd-analyze verify"],
    },
    Elsewhere {
        command: "systemctl reload warmline",
        file: "tests/lifecycle/service.rs",
        has: &["RELOADING=1"],
    },
    Elsewhere {
        command: "benches/peers/run --rounds 9 --seconds 2 --large-buffers",
        file: "benches/peers/run",
        has: &["\"--rounds\"", "\"--seconds\"", "\"--large-buffers\""],
    },
    Elsewhere {
        command: "benches/peers/run --seconds 2 --scenario handshake,h2,h2-64k,tls",
        file: "benches/peers/run",
        has: &["\"handshake\"", "\"h2\"", "\"h2-64k\"", "\"tls\""],
    },
];

/// A line of a document.
struct Line {
    document: String,
    number: usize,
    text: String,
}

/// What stands between two fences.
struct Block {
    tag: String,
    lines: Vec<Line>,
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md, docs/*.md and the READMEs of the demos.
fn documents() -> Vec<String> {
    let inside = |folder: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut found = vec![Path::new(ROOT).join("README.md")];
    found.extend(inside("docs"));
    found.extend(
        inside("config/compose")
            .iter()
            .map(|folder| folder.join("README.md")),
    );
    let mut found: Vec<_> = found
        .iter()
        .filter(|path| path.is_file() && path.extension().is_some_and(|end| end == "md"))
        .map(|path| {
            path.strip_prefix(ROOT)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    found.sort();
    found
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (index, text) in read(document).lines().enumerate() {
        if let Some(tag) = text.trim_start().strip_prefix("```") {
            inside = !inside;
            if inside {
                let tag = tag.trim().to_owned();
                found.push(Block {
                    tag,
                    lines: Vec::new(),
                });
            }
        } else if inside {
            found.last_mut().unwrap().lines.push(Line {
                document: document.to_owned(),
                number: index + 1,
                text: text.to_owned(),
            });
        }
    }
    assert!(!inside, "{document}: a block does not end");
    found
}

/// A command without the remark behind it.
fn bare(line: &str) -> &str {
    line.split_once(" #")
        .map_or(line, |(command, _)| command)
        .trim()
}

/// What a block without a mark may not begin with: it would be a command that nobody runs.
const PROGRAMS: [&str; 7] = [
    "cargo ",
    "docker ",
    "sudo ",
    "systemctl ",
    "curl ",
    "sysctl ",
    "target/",
];

fn commands() -> Vec<Line> {
    let mut found = Vec::new();
    for block in documents().iter().flat_map(|document| blocks(document)) {
        let is_shell = block.tag == "sh";
        for line in block.lines {
            let command = if is_shell {
                bare(&line.text).to_owned()
            } else if let Some(command) = line.text.strip_prefix("$ ") {
                bare(command).to_owned()
            } else {
                let hidden = PROGRAMS.iter().any(|one| line.text.starts_with(one));
                assert!(
                    !hidden,
                    "{}:{}: a command in a block that is not marked sh: {}",
                    line.document, line.number, line.text
                );
                continue;
            };
            if !command.is_empty() {
                found.push(Line {
                    text: command,
                    ..line
                });
            }
        }
    }
    assert!(found.len() > 30, "only {} commands", found.len());
    found
}

fn is_elsewhere(command: &str) -> bool {
    ELSEWHERE.iter().any(|one| one.command == command)
}

/// Whether it is run here.
fn is_ours(command: &str) -> bool {
    let command = command.strip_prefix("sudo ").unwrap_or(command);
    [
        "warmline ",
        "target/release/warmline ",
        "curl ",
        "sysctl ",
        "cargo run --release -- ",
    ]
    .iter()
    .any(|program| command.starts_with(program))
}

#[test]
fn each_command_is_run_or_it_is_said_what_runs_it() {
    let commands = commands();
    for command in &commands {
        assert!(
            is_ours(&command.text) || is_elsewhere(&command.text),
            "{}:{}: nothing runs `{}`: what does is to stand in ELSEWHERE",
            command.document,
            command.number,
            command.text
        );
    }
    for one in ELSEWHERE {
        assert!(
            commands.iter().any(|command| command.text == one.command),
            "no document has `{}` any more",
            one.command
        );
        let text = read(one.file);
        for what in one.has {
            assert!(
                text.contains(what),
                "{} lacks {what:?}, which runs `{}`",
                one.file,
                one.command
            );
        }
    }
}

/// Replaces what stands behind `flag`, where it is.
fn with(command: &str, flag: &str, value: &str) -> String {
    let words = command.split(' ');
    let mut after = false;
    let words: Vec<_> = words
        .map(|word| {
            let other = if after { value } else { word };
            after = word == flag;
            other
        })
        .collect();
    words.join(" ")
}

/// The same command, for as long as a test may take.
fn shortened(command: &str) -> String {
    let mut command = command
        .replace("cargo run --release -- ", "warmline ")
        // Beside the proxy under test there is no service manager.
        .replace(" && systemctl reload warmline", "")
        .replace("/run/warmline/admin.sock", "admin.sock")
        .replace("curl ", "curl --fail --noproxy '*' --max-time 20 ");
    if command.contains("warmline compare") {
        for flag in ["--rounds", "--round"] {
            let words: Vec<_> = command.split(' ').collect();
            if let Some(at) = words.iter().position(|word| *word == flag) {
                command = [&words[..at], &words[at + 2..]].concat().join(" ");
            }
        }
        command += " --rounds 3 --round 100ms --warm-up 50ms";
        let is_there = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].iter();
        let is_there = is_there.map(Path::new).any(Path::exists);
        if !is_there {
            command = command.replace("nginx,haproxy", "nginx");
        }
    } else if command.contains("warmline load") {
        command = with(&command, "--duration", "300ms");
        command = with(&command, "--warm-up", "50ms");
        command = with(&command, "--requests", "200");
        if !command.contains("--duration") && !command.contains("--requests") {
            command += " --duration 300ms";
        }
    } else if command.contains("warmline demo") && !command.contains("--seconds") {
        command += " --seconds 2";
    }
    command
}

/// The folder that commands are run in, with what they name, and who they speak to.
struct Stage {
    dir: TempDir,
    /// The proxy of the quick start's file, on 8080 and 9180.
    proxy: Option<Process>,
    /// Two more, and one on a Unix socket; and requests for the first two.
    others: Vec<Process>,
    _backend: EmbeddedBackend,
}

impl Stage {
    fn set() -> Stage {
        for address in ["10.0.0.5", "10.0.0.6"] {
            let add = ["address", "add", &format!("{address}/24"), "dev", "lo"];
            let status = Command::new(process::find(&["ip"], "iproute2"))
                .args(add)
                .status();
            assert!(status.unwrap().success());
        }
        let addresses = ["127.0.0.1:9000", "127.0.0.1:9001", "10.0.0.5:8000"];
        let addresses = addresses.map(|one| one.parse::<SocketAddr>().unwrap());
        let backend = EmbeddedBackend::start("app", &addresses).unwrap();
        let mut stage = Stage {
            dir: TempDir::new().unwrap(),
            proxy: None,
            others: Vec::new(),
            _backend: backend,
        };
        stage.programs();
        stage.files();
        let other = |listen: &str, admin: &str, more: &str| {
            format!(
                "[server]\nworkers = 1\n[[listeners]]\naddress = \"{listen}\"\n\
                 [admin]\naddress = \"{admin}\"\npublic = true\n\
                 [upstreams.app]\nservers = [\"127.0.0.1:9000\"]\n{more}\n"
            )
        };
        let short = "keep_alive = false";
        let socket = format!("unix:{}", stage.path("admin.sock").display());
        for (name, text) in [
            ("pooled", other("10.0.0.5:8085", "10.0.0.5:9180", "")),
            ("short", other("10.0.0.6:8085", "10.0.0.6:9180", short)),
            (
                "unix",
                other("127.0.0.1:8090", &socket, "").replace("public = true\n", ""),
            ),
        ] {
            stage.write(&format!("{name}.toml"), &text);
            let other = stage.started(&format!("warmline run -c {name}.toml"), name);
            stage.others.push(other);
        }
        for host in ["10.0.0.5", "10.0.0.6"] {
            let load = format!("warmline load http://{host}:8085/ --rate 100 -c 2 --duration 10m");
            let load = stage.start(&load, host);
            stage.others.push(load);
        }
        stage.run_to_its_end(
            "warmline compare --modes pooled,short --rounds 3 --round 60ms --warm-up 50ms --json run.json",
        );
        for name in ["before.json", "after.json"] {
            fs::copy(stage.path("run.json"), stage.path(name)).unwrap();
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `warmline` and `target/release/warmline` are the program under test; `sudo` is not needed here.
    fn programs(&self) {
        for name in ["bin/warmline", "target/release/warmline"] {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            symlink(env!("CARGO_BIN_EXE_warmline"), self.path(name)).unwrap();
        }
        self.write("bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
        fs::set_permissions(self.path("bin/sudo"), Permissions::from_mode(0o755)).unwrap();
    }

    /// The files that documents have under their names, such as `# shop.toml`, and those that they take for
    /// granted: the same with a share to be changed.
    fn files(&self) {
        for block in documents().iter().flat_map(|document| blocks(document)) {
            let first = block
                .lines
                .first()
                .and_then(|line| line.text.strip_prefix("# "));
            if let Some(name) = first.filter(|name| {
                block.tag == "toml" && Path::new(name).extension().is_some_and(|end| end == "toml")
            }) {
                let lines: Vec<_> = block.lines.iter().map(|line| line.text.as_str()).collect();
                self.write(name, &lines.join("\n"));
            }
        }
        let shop = fs::read_to_string(self.path("shop.toml")).expect("the quick start has it");
        let shop = format!("{shop}\nshort_share = 0.0\n");
        self.write("warmline.toml", &shop);
        self.write("config/warmline.toml", &shop);
        let sample = include_str!("../config/replace-nginx.toml");
        self.write("config/replace-nginx.toml", sample);
    }

    /// The shell that runs a command here.
    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.path("bin").display());
        shell
            .args(["-c", command])
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("NO_COLOR", "1");
        shell
    }

    fn start(&self, command: &str, name: &str) -> Process {
        let output = self.path(&format!("{name}.output"));
        Process::start(&mut self.shell(&format!("exec {command}")), &output)
    }

    /// Starts a proxy, and waits until it serves.
    fn started(&self, command: &str, name: &str) -> Process {
        let mut proxy = self.start(command, name);
        let mut ended = false;
        wait_until(PATIENCE, "a proxy to start", || {
            ended = proxy.ended().is_some();
            ended || proxy.said().contains("listening on ")
        });
        assert!(!ended, "`{command}` did not start:\n{}", proxy.said());
        proxy
    }

    fn proxy_runs(&mut self, wanted: bool) {
        match (wanted, &mut self.proxy) {
            (true, None) => {
                self.proxy = Some(self.started("warmline run -c warmline.toml", "proxy"));
            }
            (false, Some(proxy)) => {
                proxy.stop();
                self.proxy = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Runs a command; gives what it said.
    fn run_to_its_end(&self, command: &str) -> String {
        let mut program = Process::start(&mut self.shell(command), &self.path("output"));
        let status = program.wait(LIMIT);
        let said = program.said();
        // The doctor may find a problem of the machine that the test runs on.
        let is_fine = status.success()
            || (command.contains("warmline doctor")
                && status.code() == Some(1)
                && said.contains("warmline doctor: "));
        assert!(is_fine, "`{command}` ended with {status}:\n{said}");
        assert!(
            !said.is_empty() || command.contains(" -q "),
            "`{command}` says nothing"
        );
        said
    }

    /// Runs a proxy until it serves, and asks it to stop.
    fn run_until_told(&self, command: &str) {
        let mut proxy = self.started(command, "told");
        proxy.signal(Signal::TERM).unwrap();
        let status = proxy.wait(LIMIT);
        assert!(
            status.success(),
            "`{command}` ended with {status}:\n{}",
            proxy.said()
        );
    }
}

/// Not where the kernel's settings may only be read, as in some containers.
fn may_set() -> bool {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(path, fs::read(path).unwrap()).is_ok()
}

#[test]
fn every_command_of_the_documents_ends_well() {
    in_network_of_its_own("every_command_of_the_documents_ends_well", || {
        let mut stage = Stage::set();
        let mut run = 0;
        for line in commands() {
            if is_elsewhere(&line.text) {
                continue;
            }
            let Line {
                document,
                number,
                text,
            } = &line;
            let command = shortened(text);
            eprintln!("{document}:{number}: {command}");
            if command.contains("sysctl -w") && !may_set() {
                eprintln!("SKIPPED: the kernel's settings may only be read");
                continue;
            }
            if command.contains("warmline run ") {
                stage.proxy_runs(false);
                stage.run_until_told(&command);
            } else {
                stage.proxy_runs(!command.contains("warmline demo"));
                stage.run_to_its_end(&command);
            }
            run += 1;
        }
        assert!(run > 25, "only {run} commands were run");
    });
}

/// The sources as one text, in which a string that goes on in the next line does not break off.
fn sources() -> String {
    fn walk(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, text);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    walk(&Path::new(ROOT).join("src"), &mut text);
    let lines: Vec<_> = text.split("\\\n").collect();
    let lines: Vec<_> = lines.iter().map(|line| line.trim_start()).collect();
    lines.concat()
}

/// What is quoted and comes from hyper.
const FROM_BELOW: [&str; 3] = [
    "connection closed before message completed",
    "invalid HTTP version parsed",
    "reading a body from connection",
];

/// The words of a quoted line that the program has as they are: runs of four or more between figures,
/// addresses and fields, and no further than to a colon or a full stop.
fn phrases(line: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for word in line.split(' ') {
        let is_field = word.len() > 1 && word.contains('=');
        let is_figure =
            word.contains(|letter: char| letter.is_ascii_digit() || "/\"".contains(letter));
        if is_field || is_figure || word.starts_with("true)") {
            found.push(String::new());
            continue;
        }
        let last = found.last_mut().unwrap();
        if word == "(os" {
            // The kernel's words: "Connection refused (os error 111)".
            last.clear();
            continue;
        }
        if !last.is_empty() {
            last.push(' ');
        }
        last.push_str(word);
        if word.ends_with([':', '.']) {
            found.push(String::new());
        }
    }
    let long = |phrase: &String| phrase.split(' ').count() >= 4;
    found.into_iter().filter(long).collect()
}

#[test]
fn what_is_quoted_of_the_log_is_what_the_program_says() {
    let sources = sources();
    let mut checked = 0;
    for block in documents().iter().flat_map(|document| blocks(document)) {
        for line in block.lines.iter().filter(|_| block.tag == "log") {
            let text = ["WARN ", "INFO ", "ERROR "]
                .iter()
                .find_map(|level| line.text.strip_prefix(level))
                .unwrap_or(&line.text);
            let phrases = phrases(text);
            for phrase in &phrases {
                // Its first word may be a name that the program puts there.
                let (_, rest) = phrase.split_once(' ').unwrap();
                let is_said =
                    |phrase: &str| sources.contains(phrase.trim_end_matches(['.', ':', ';', ',']));
                assert!(
                    FROM_BELOW.contains(&phrase.as_str()) || is_said(phrase) || is_said(rest),
                    "{}:{}: the program does not say {phrase:?}",
                    line.document,
                    line.number
                );
            }
            checked += phrases.len();
        }
    }
    assert!(checked >= 20, "only {checked} phrases");
}
