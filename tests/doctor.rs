//! `warmline doctor`: the program on a machine with odd settings, beside a running proxy, and its exit
//! codes.
//!
//! Each test that sets or counts something of the kernel runs in a network namespace of its own, which
//! needs root.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use support::network::in_network_of_its_own;
use support::proxy::Program;
use support::scripted::Backend;
use support::{PATIENCE, client, free_port, process, wait_until};
use tempfile::TempDir;

/// A file of settings for these servers; the upstream's come last.
fn file(dir: &TempDir, servers: &str, more: &str) -> PathBuf {
    let path = dir.path().join("doctor.toml");
    let text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[routes]]\nupstream = \"app\"\n\
         [upstreams.app]\nservers = [{servers}]\n{more}\n"
    );
    fs::write(&path, text).unwrap();
    path
}

fn doctor(file: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .arg("doctor")
        .arg("-c")
        .arg(file)
        .args(args)
        .output()
        .expect("the program starts")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The level of the worst that a rule says, and all its words.
#[track_caller]
fn said(report: &Value, rule: &str) -> (String, String) {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings
        .iter()
        .find(|finding| finding["rule"] == rule)
        .unwrap_or_else(|| panic!("nothing of {rule} in {report}"));
    let level = finding["level"].as_str().unwrap().to_owned();
    (level, finding.to_string())
}

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

#[test]
fn odd_settings_of_the_kernel_are_found() {
    in_network_of_its_own("odd_settings_of_the_kernel_are_found", || {
        for (name, value) in [
            ("ipv4/ip_local_port_range", "40000 40199"),
            ("ipv4/ip_local_reserved_ports", "40000-40009"),
            ("ipv4/tcp_tw_reuse", "1"),
            ("ipv4/tcp_timestamps", "0"),
            ("ipv4/tcp_max_tw_buckets", "100"),
            ("core/somaxconn", "128"),
        ] {
            set(name, value);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = file(
            &dir,
            "\"10.9.8.7:80\", \"127.0.0.1:40100\"",
            "keep_alive = false\nshort_mode = \"proxy-closes\"\nsource_addresses = [\"10.9.8.6\"]",
        );
        let output = doctor(&path, &["--json", "--rate", "20"]);
        assert_eq!(output.status.code(), Some(1));
        let report = json(&output);
        for (rule, level, words) in [
            ("port-range", "problem", "190 ports"),
            ("port-range", "problem", "less 10 ports reserved"),
            (
                "timestamps",
                "problem",
                "sysctl -w net.ipv4.tcp_timestamps=1",
            ),
            ("backlog", "advice", "4,096"),
            ("tw-buckets", "advice", "these settings make 380 TIME_WAITs"),
            (
                "listen-ports",
                "advice",
                "Port 40100 of backend 127.0.0.1:40100",
            ),
            ("sockets", "problem", "ip address add 10.9.8.6/32"),
            ("short-mode", "problem", "10 connects/s to"),
            ("admin", "advice", "address = \\\"127.0.0.1:9180\\\""),
        ] {
            let (found, all) = said(&report, rule);
            assert_eq!(found, level, "{all}");
            assert!(all.contains(words), "{words:?} is not in {all}");
        }
        assert_eq!(report["kernel"]["tcp_timestamps"], false);
        assert_eq!(report["proxy"], Value::Null);
        assert_eq!(report["time_wait"][0]["predicted_here"], 610);

        // The same as text.
        let output = doctor(&path, &["--rate", "20"]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("PROBLEM  timestamps\n"), "{text}");
        assert!(text.contains(" problems, "), "{text}");
        assert!(!text.contains('\x1b'), "{text}");

        // With the settings that Linux has, and a pool, there is nothing but advice.
        for (name, value) in [
            ("ipv4/ip_local_reserved_ports", ""),
            ("ipv4/ip_local_port_range", "32768 60999"),
            ("ipv4/tcp_timestamps", "1"),
            ("ipv4/tcp_max_tw_buckets", "131072"),
            ("core/somaxconn", "4096"),
        ] {
            set(name, value);
        }
        let output = doctor(&file(&dir, "\"10.9.8.7:80\"", ""), &["--json"]);
        let report = json(&output);
        assert_eq!(report["problems"], 0, "{report}");
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(said(&report, "backlog").0, "fine");
    });
}

#[test]
fn a_running_proxy_tells_its_rate_and_the_kernel_its_time_waits() {
    let name = "a_running_proxy_tells_its_rate_and_the_kernel_its_time_waits";
    in_network_of_its_own(name, || {
        let backend = Backend::numbered();
        let upstream = format!(
            "[[routes]]\nupstream = \"app\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.app]\nservers = [\"{}\"]\nkeep_alive = false\nshort_mode = \"proxy-closes\"\n",
            backend.addr
        );
        let mut proxy = Program::run(&upstream);
        let admin = admin_of(&mut proxy);
        let dir = tempfile::tempdir().unwrap();
        let servers = format!("\"{}\"", backend.addr);
        let path = file(
            &dir,
            &servers,
            "keep_alive = false\nshort_mode = \"proxy-closes\"",
        );
        for _ in 0..120 {
            assert_eq!(client::get(proxy.addr, "/").status, 200);
        }
        let filter = format!("dport = :{}", backend.addr.port());
        wait_until(PATIENCE, "every TIME_WAIT", || ss(&filter) == 120);
        let report = json(&doctor(&path, &["--json", "--admin", &admin.to_string()]));
        assert_eq!(report["proxy"]["address"], admin.to_string());
        assert_eq!(report["proxy"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(report["time_wait"][0]["counted_here"], 120);
        assert_eq!(report["time_wait"][0]["predicted_here"], 0);
        let (level, words) = said(&report, "time-wait");
        assert_eq!(level, "advice", "{words}");
        assert_eq!(said(&report, "reload").0, "fine");

        // Under load the rate is that of the second between two looks.
        let over = AtomicBool::new(false);
        let report = thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(client::get(proxy.addr, "/").status, 200);
                }
            });
            let output = doctor(&path, &["--json", "--admin", &admin.to_string()]);
            over.store(true, Ordering::SeqCst);
            json(&output)
        });
        let rate = &report["time_wait"][0]["requests_per_second"];
        assert!(rate.as_f64().unwrap() > 1.0, "{report}");
        assert!(report["time_wait"][0]["predicted_here"].as_u64() > Some(60));
        assert!(report["time_wait"][0]["counted_here"].as_u64() > Some(120));

        // A file that it has not read.
        let other = file(&dir, "\"127.0.0.1:1\"", "");
        let report = json(&doctor(&other, &["--json", "--admin", &admin.to_string()]));
        let (level, words) = said(&report, "reload");
        assert_eq!(level, "advice");
        assert!(
            words.contains("127.0.0.1:1 of upstream app is not in it"),
            "{words}"
        );
    });
}

/// Where the program says that its admin listener is.
fn admin_of(proxy: &mut Program) -> SocketAddr {
    let mut admin = None;
    wait_until(PATIENCE, "the admin listener", || {
        admin = proxy.process().said().lines().find_map(|line| {
            let (_, address) = line.split_once("admin on http://")?;
            address.trim().parse().ok()
        });
        admin.is_some()
    });
    admin.unwrap()
}

/// How many sockets in TIME_WAIT `ss` lists, under this filter.
fn ss(filter: &str) -> usize {
    let output = Command::new(process::find(&["ss"], "iproute2"))
        .args(["-Htan", "state", "time-wait"])
        .args(filter.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().count()
}

#[test]
fn the_exit_code_says_whether_there_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "\"10.9.8.7:80\"", "");
    let nobody = format!("127.0.0.1:{}", free_port());
    let output = doctor(&path, &["--admin", &nobody]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let words = format!("PROBLEM  proxy\n  No proxy answers at {nobody}: connection refused.");
    assert!(text.contains(&words), "{text}");

    // Nobody said that the file's own should run: it is no problem that it does not.
    let unheard = format!("[admin]\naddress = \"{nobody}\"");
    let report = json(&doctor(
        &file(&dir, "\"10.9.8.7:80\"", &unheard),
        &["--json"],
    ));
    assert_eq!(said(&report, "proxy").0, "fine");

    let wrong = file(&dir, "\"10.9.8.7:80\"", "keep_alive = \"maybe\"");
    let output = doctor(&wrong, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("keep_alive"), "{errors}");

    let output = doctor(&path, &["--rate", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn few_open_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "\"10.9.8.7:80\"", "");
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 512 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_warmline"))
        .args(["doctor", "--json", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    let (level, words) = said(&json(&output), "open-files");
    assert_eq!(level, "advice");
    assert!(words.contains("may open 512 files"), "{words}");
}
