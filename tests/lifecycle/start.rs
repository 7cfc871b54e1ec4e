//! How the real program starts, and how it says that it cannot.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use crate::program::{Program, config, warmline};
use crate::proxy::{GET, ask};
use crate::support::scripted::Backend;
use crate::support::{local, process};

/// Runs `warmline run` with this configuration, which is to fail.
fn fails(config: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("warmline.toml"), config).unwrap();
    warmline(dir.path(), &["run", "-c", "warmline.toml"])
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is text")
}

/// One line, which says `words`, and exit code 1.
#[track_caller]
fn assert_says(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in {said}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn an_address_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind(local(0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = fails(&config(&address, local(9), ""));
    let advice = "stop it or choose another address";
    assert_says(
        &output,
        &["error: ", &address, "another program listens there", advice],
    );
}

#[test]
fn two_instances_do_not_share_a_port_by_mistake() {
    let backend = Backend::numbered();
    let first = Program::start(backend.addr, "");
    for listen in [
        first.addr.to_string(),
        format!("0.0.0.0:{}", first.addr.port()),
    ] {
        let output = fails(&config(&listen, backend.addr, ""));
        assert_says(&output, &[&listen, "another program listens there"]);
    }
    assert_eq!(ask(&mut first.client(), GET).status, 200);
}

#[test]
fn a_backend_whose_name_is_unknown_is_named() {
    // RFC 6761 §6.4: no resolver knows a name below `invalid`.
    let text = config("127.0.0.1:0", local(9), "").replace("127.0.0.1:9\"", "backend.invalid:9\"");
    assert_says(&fails(&text), &["error: upstream app", "backend.invalid:9"]);
}

#[test]
fn sockets_that_cannot_be_as_they_are_asked_for_are_named() {
    let with = |setting: &str| config("127.0.0.1:0", local(9), "") + setting;
    for (setting, words) in [
        (
            "bind_device = \"no-such-device\"",
            "bind_device: No such device",
        ),
        // TEST-NET-1, RFC 5737: nobody's.
        (
            "source_addresses = [\"192.0.2.1\"]",
            "source address 192.0.2.1: ",
        ),
        (
            "source_port_range = \"1-2\"",
            "source_port_range 1-2 has no port of net.ipv4.ip_local_port_range",
        ),
    ] {
        assert_says(&fails(&with(setting)), &["error: upstream app: ", words]);
    }
    // Not even root may set a mark without the capability.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("warmline.toml"), with("mark = 7")).unwrap();
    let mut command = Command::new(process::find(&["setpriv"], "util-linux"));
    if rustix::process::geteuid().is_root() {
        command.arg("--bounding-set=-net_admin,-net_raw");
    }
    let output = command
        .arg(env!("CARGO_BIN_EXE_warmline"))
        .args(["run", "-c", "warmline.toml"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("setpriv can be run");
    assert_says(
        &output,
        &["error: upstream app: mark: ", "SO_MARK needs CAP_NET_ADMIN"],
    );
}

#[test]
fn a_configuration_with_faults_starts_nothing_and_every_fault_is_told() {
    let text = config(
        "127.0.0.1:0",
        local(9),
        "shutdown_timeout = \"soon\"\nworker = 3",
    );
    let output = fails(&text);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("shutdown_timeout") && said.contains("worker"),
        "{said}"
    );
    assert!(!said.contains("listening"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["run"][..], &["run", "-c", "config/warmline.toml"]] {
        let output = warmline(dir.path(), args);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("config/warmline.toml"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn no_file_is_needed_with_the_upstream_on_the_command_line() {
    let (one, other) = (Backend::numbered(), Backend::numbered());
    let (a, b) = (one.addr.to_string(), other.addr.to_string());
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &a,
        "--upstream",
        &b,
        "--workers",
        "1",
    ];
    let program = Program::with_flags(&flags);
    let mut client = program.client();
    for _ in 0..4 {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    assert_eq!(
        (one.connections(), other.connections()),
        (1, 1),
        "both take their turn"
    );
}

#[test]
fn keep_alive_off_on_the_command_line_is_one_connection_a_request() {
    let backend = Backend::start(|mut conn| {
        let request = conn.request().expect("a connection carries a request");
        assert_eq!(request.header("connection"), Some("close"));
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        conn.fin();
    });
    let upstream = backend.addr.to_string();
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &upstream,
        "--keep-alive",
        "off",
    ];
    let program = Program::with_flags(&flags);
    let mut client = program.client();
    for _ in 0..3 {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    assert_eq!(backend.connections(), 3);
}
