//! The live split: who goes the short way, what tells so, how it is changed, and what stops it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use warmline::quantity::whole;

use crate::program::{Program, warmline};
use crate::support::client::Client;
use crate::support::network::in_network_of_its_own;
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, curl, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A proxy with an access log and an admin listener.
struct Split {
    program: Program,
    backend: Backend,
    text: String,
    dir: tempfile::TempDir,
}

impl Split {
    fn start(upstream: &str) -> Split {
        // It closes when it is asked to.
        let backend = Backend::start(|mut conn| {
            while let Some(request) = conn.request() {
                if request.header("connection") == Some("close") {
                    conn.send_and_fin(OK);
                    return;
                }
                conn.send(OK);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let text = format!(
            "[server]\nworkers = 2\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"unix:{path}/admin\"\n\
             [access_log]\npath = \"{path}/log\"\nformat = \"json\"\nflush = \"10ms\"\n\
             [upstreams.app]\nservers = [\"{}\"]\n{upstream}",
            backend.addr
        );
        Split {
            program: Program::with_file(&text),
            backend,
            text,
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Asks the admin listener; its status and what it says.
    fn admin(&self, args: &[&str], path: &str) -> (u16, String) {
        let socket = self.path("admin");
        let url = format!("http://localhost{path}");
        let mut all = vec![
            "-s",
            "-w",
            "\n%{http_code}",
            "--unix-socket",
            socket.to_str().unwrap(),
        ];
        all.extend(args);
        all.push(&url);
        let output = curl(all);
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn asks_for(&self, share: &str) -> (u16, String) {
        self.admin(&["-d", share], "/upstreams/app/short_share")
    }

    /// Sends so many requests with this header, and says how many were answered with 200.
    fn send(&self, count: usize, header: &str) -> usize {
        let mut client = Client::connect(self.program.addr);
        let mut good = 0;
        for number in 0..count {
            if number > 0 && number % 90 == 0 {
                client = Client::connect(self.program.addr);
            }
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n"));
            good += usize::from(client.response().status == 200);
        }
        good
    }

    /// The log's lines by upstream, once there are so many; each says its arm.
    fn logged(&self, count: usize) -> [usize; 2] {
        let mut lines = Vec::new();
        wait_until(PATIENCE, "the log's lines", || {
            let text = fs::read_to_string(self.path("log")).unwrap_or_default();
            lines = text.lines().map(str::to_owned).collect();
            // The last one may be on its way.
            lines.len() >= count && text.ends_with('\n')
        });
        let mut both = [0, 0];
        for line in lines {
            let line: Value = serde_json::from_str(&line).unwrap();
            match (line["upstream"].as_str(), line["arm"].as_str()) {
                (Some("app"), Some("pooled")) => both[0] += 1,
                (Some("app@short"), Some("short")) => both[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        both
    }

    fn metric(&self, series: &str) -> f64 {
        let (_, page) = self.admin(&[], "/metrics");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("{series} in\n{page}"))
            .parse()
            .unwrap()
    }
}

#[test]
fn a_share_of_the_requests_is_short_and_everything_says_so() {
    let split = Split::start("short_share = 0.25\n");
    assert_eq!(split.send(400, ""), 400);
    let [pooled, short] = split.logged(400);
    assert!(short.abs_diff(100) <= 4, "{short} of 400");
    assert_eq!(pooled + short, 400);
    // Over a kept connection a quarter of the requests are still connections of their own.
    let connections = split.backend.connections();
    assert!(
        (short..short + 8).contains(&connections),
        "{connections} for {short}"
    );
    let requests = |upstream: &str| {
        let backend = split.backend.addr;
        let labels = format!("upstream=\"{upstream}\",backend=\"{backend}\"");
        whole(split.metric(&format!("warmline_backend_requests_total{{{labels}}}")))
    };
    assert_eq!(
        (requests("app"), requests("app@short")),
        (pooled as u64, short as u64)
    );
    assert!(
        (split.metric("warmline_upstream_short_share_ratio{upstream=\"app\"}") - 0.25).abs() < 1e-6
    );
    let (_, snapshot) = split.admin(&[], "/snapshot");
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    let arms = snapshot["upstreams"].as_array().unwrap();
    let arms: Vec<_> = arms
        .iter()
        .map(|one| (one["name"].as_str(), one["arm"].as_str()))
        .collect();
    assert_eq!(
        arms,
        [
            (Some("app"), Some("pooled")),
            (Some("app@short"), Some("short"))
        ]
    );
    assert_eq!(
        snapshot["upstreams"][0]["short_share"]["stopped"],
        Value::Null
    );
}

#[test]
fn requests_that_belong_together_go_the_same_way() {
    let split = Split::start("short_share = 0.5\nshort_share_by = \"header:X-User\"\n");
    let mut ways = [0, 0];
    for user in 0..20 {
        let before = if user == 0 {
            [0, 0]
        } else {
            split.logged(user * 5)
        };
        split.send(5, &format!("X-User: user-{user}\r\n"));
        let after = split.logged((user + 1) * 5);
        let went = [after[0] - before[0], after[1] - before[1]];
        assert!(went == [5, 0] || went == [0, 5], "user {user}: {went:?}");
        ways[usize::from(went[1] > 0)] += 1;
    }
    assert!(ways[0] > 3 && ways[1] > 3, "{ways:?}");
}

#[test]
fn another_share_is_asked_for_while_it_runs_and_a_reload_has_the_files() {
    let split = Split::start("short_share = 0\n");
    split.send(20, "");
    assert_eq!(split.logged(20), [20, 0]);
    let (status, said) = split.asks_for("100%");
    assert_eq!(
        (status, said.trim()),
        (200, r#"{"asked":1,"in_force":1,"stopped":null}"#)
    );
    split.send(20, "");
    assert_eq!(split.logged(40), [20, 20]);
    split
        .program
        .wait_for_log("the short arm's share is 100% from now on");
    // The same file changes nothing of it; another share does.
    split.program.reload(&split.text);
    split.send(20, "");
    assert_eq!(split.logged(60), [20, 40]);
    split.program.reload(
        &split
            .text
            .replace("short_share = 0\n", "short_share = \"0.0%\"\n"),
    );
    assert_eq!(split.asks_for("0").0, 200);
    split
        .program
        .reload(&split.text.replace("short_share = 0\n", "short_share = 1\n"));
    split.send(20, "");
    assert_eq!(split.logged(80), [20, 60]);
    split
        .program
        .reload(&split.text.replace("short_share = 0\n", ""));
    split.send(20, "");
    assert_eq!(split.logged(100), [40, 60]);
    assert_eq!(split.asks_for("0.1").0, 404);
}

#[test]
fn what_cannot_be_asked_for_is_said() {
    let split = Split::start("short_share = 0.1\n");
    for share in ["1.5", "-1", "many", "", "0.1 0.2"] {
        let (status, said) = split.asks_for(share);
        assert_eq!(status, 400, "{share}: {said}");
        assert!(said.contains("such as 0.05 or 5%"), "{said}");
    }
    let (status, said) = split.admin(&["-d", "0.1"], "/upstreams/nobody/short_share");
    assert_eq!(status, 404);
    assert!(said.contains("there is: app, app@short"), "{said}");
    let origin = ["-H", "Origin: http://evil.example", "-d", "1"];
    assert_eq!(split.admin(&origin, "/upstreams/app/short_share").0, 403);
    assert_eq!(
        split
            .admin(&["-X", "DELETE"], "/upstreams/app/short_share")
            .0,
        405
    );
    assert_eq!(split.admin(&["-d", "1"], "/metrics").0, 405);
    let (_, said) = split.admin(&[], "/upstreams/app/short_share");
    assert!(said.contains("\"asked\":0.1,"), "{said}");
}

#[test]
fn the_command_line_asks_for_a_share_too() {
    let split = Split::start("short_share = 0.1\n");
    let admin = format!("unix:{}", split.path("admin").display());
    let run = |args: &[&str]| warmline(split.dir.path(), &[&["split"], args].concat());
    let output = run(&["app", "20%", "--admin", &admin]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        "20% of the requests to app go over short connections from now on\n"
    );
    let (_, said) = split.admin(&[], "/upstreams/app/short_share");
    assert!(said.contains("\"asked\":0.2,"), "{said}");
    for (args, code, says) in [
        (["app", "1.5", "--admin", &admin], 2, "from 0 to 1"),
        (
            ["nobody", "1", "--admin", &admin],
            1,
            "there is: app, app@short",
        ),
        (["a/b", "1", "--admin", &admin], 1, "cannot be called"),
        (["app", "1", "-c", "none.toml"], 1, "none.toml"),
    ] {
        let output = run(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
}

/// Of 200 ports 40 are what the guard leaves; connections that are closed here first take one each, for a minute.
#[test]
fn when_ports_run_low_the_short_arm_is_stopped() {
    in_network_of_its_own("split::when_ports_run_low_the_short_arm_is_stopped", || {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "30000 30199").unwrap();
        let split = Split::start("short_share = 1\nshort_mode = \"proxy-closes\"\n");
        // The load's own connections do not take ports that matter: they go elsewhere.
        assert_eq!(split.send(165, ""), 165);
        split.program.wait_for_log("the short arm is stopped");
        assert_eq!(split.send(100, ""), 100);
        let [pooled, short] = split.logged(265);
        assert!(short >= 160 && pooled >= 90, "{pooled} and {short}");
        let (_, said) = split.admin(&[], "/upstreams/app/short_share");
        assert!(
            said.contains("\"in_force\":0,\"stopped\":\"ports_low\""),
            "{said}"
        );
        let stops = "warmline_upstream_split_stops_total{upstream=\"app\",reason=\"ports_low\"}";
        assert!((split.metric(stops) - 1.0).abs() < 1e-9);
        // Asked for again, it is stopped again, or finds no port; requests are answered all the same.
        assert_eq!(split.asks_for("1").0, 200);
        assert_eq!(split.send(100, ""), 100);
        let time_wait = Command::new("ss")
            .args(["-HOtan", "state", "time-wait"])
            .output()
            .unwrap();
        let list = String::from_utf8(time_wait.stdout).unwrap();
        let towards = list
            .lines()
            .filter(|line| line.contains(&split.backend.addr.to_string()));
        assert!(towards.count() > 150, "{list}");
    });
}
