//! The ports towards a backend, as the metrics have them, against the kernel: they are left until
//! `connect()` fails, and each TIME_WAIT is told by what left it.
//!
//! Each test runs in a network namespace of its own, which needs root.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use tokio::time::Instant;
use warmline::backend::ShortMode;

use crate::admin::{admin, figure};
use crate::program::{Program, config};
use crate::proxy::{GET, NEVER, Proxy, ask, kept, ms};
use crate::support::client::Client;
use crate::support::network::in_network_of_its_own;
use crate::support::process;
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, local, wait_until};

/// What `ss -tan state time-wait` lists towards this address.
fn ss(backend: SocketAddr) -> usize {
    let output = Command::new(process::find(&["ss"], "iproute2"))
        .args(["-HOtan", "state", "time-wait", "dst", &backend.to_string()])
        .output()
        .expect("ss can be run");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).lines().count()
}

/// An admin listener, asked again and again over one connection: each would take a port.
struct Page {
    admin: SocketAddr,
    client: Client,
    since: Instant,
}

impl Page {
    fn of(admin: SocketAddr) -> Page {
        Page {
            admin,
            client: Client::connect(admin),
            since: Instant::now(),
        }
    }

    fn read(&mut self) -> String {
        // It is closed after a minute.
        if self.since.elapsed().as_secs() > 30 {
            *self = Page::of(self.admin);
        }
        let head = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.admin);
        self.client.send(head);
        let response = self.client.response();
        assert_eq!(response.status, 200);
        response.text()
    }

    fn figure(&mut self, series: &str) -> Option<f64> {
        figure(&self.read(), series)
    }

    /// Waits until it has this figure.
    #[track_caller]
    fn wait_for(&mut self, series: &str, value: f64) {
        let mut page = String::new();
        let mut found = None;
        let end = Instant::now() + PATIENCE;
        while found != Some(value) {
            assert!(
                Instant::now() < end,
                "{series} is {found:?}, not {value}, in\n{page}"
            );
            std::thread::sleep(ms(20));
            page = self.read();
            found = figure(&page, series);
        }
    }

    /// All its lines with this in front.
    fn all(&mut self, start: &str) -> Vec<String> {
        let page = self.read();
        let lines = page.lines().filter(|line| line.starts_with(start));
        lines.map(str::to_owned).collect()
    }
}

/// 200 ports, below what is listened on. Dropped, there are others again: the backend's end takes one.
struct NarrowRange;

impl NarrowRange {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

    fn new() -> NarrowRange {
        fs::write(NarrowRange::FILE, "20000 20199").unwrap();
        NarrowRange
    }
}

impl Drop for NarrowRange {
    fn drop(&mut self) {
        let _ = fs::write(NarrowRange::FILE, "32768 60999");
    }
}

#[test]
fn the_ports_count_down_to_zero_exactly_when_connect_fails() {
    in_network_of_its_own(
        "ports::the_ports_count_down_to_zero_exactly_when_connect_fails",
        || {
            let backend = Backend::numbered();
            let text = config("127.0.0.1:0", backend.addr, "")
                + "keep_alive = false\nshort_mode = \"proxy-closes\"\n\
                   [client]\nmax_keep_alive_requests = 0\nkeep_alive_timeout = \"60s\"\n\
                   [admin]\naddress = \"127.0.0.1:0\"\n";
            let program = Program::with_file(&text);
            let _narrow = NarrowRange::new();
            let mut admin = Page::of(admin_of(&program));
            let lane = format!("{{source=\"127.0.0.1\",backend=\"{}\"}}", backend.addr);
            let left = format!("warmline_local_ports_left{lane}");
            let mut client = program.client();
            for number in 1..=200_u32 {
                let response = ask(&mut client, GET);
                assert_eq!(response.status, 200, "{number}: {}", response.text());
                if number % 50 == 0 {
                    admin.wait_for(&left, f64::from(200 - number));
                }
            }
            let exhausted = format!("warmline_local_ports_last_seconds{lane}");
            assert_eq!(admin.figure(&exhausted), Some(0.0));
            assert_eq!(admin.figure("warmline_local_ports"), Some(200.0));
            assert_eq!(ss(backend.addr), 200);

            let response = ask(&mut client, GET);
            assert_eq!(response.status, 503);
            assert!(
                response.text().contains("no local port left"),
                "{}",
                response.text()
            );
            let of = format!("upstream=\"app\",backend=\"{}\"", backend.addr);
            let failures =
                format!("warmline_backend_connect_failures_total{{{of},reason=\"no_local_port\"}}");
            wait_until(PATIENCE, "the failure to be counted", || {
                admin.figure(&failures) >= Some(1.0)
            });

            // Each of them is known.
            let short = format!(
                "warmline_time_wait_sockets{{origin=\"warmline\",{of},arm=\"short\",reason=\"keep_alive_off\"}}"
            );
            admin.wait_for(&short, 200.0);
            let sockets = admin.all("warmline_time_wait_sockets{");
            assert_eq!(sockets.len(), 1, "{sockets:?}");
            for side in ["expected", "found"] {
                let series = format!("warmline_time_wait_{side}_sockets{{{of}}}");
                assert_eq!(admin.figure(&series), Some(200.0), "{series}");
            }

            // And the log says what helps: before, twice, and when it failed.
            let log = program.log();
            let warnings: Vec<_> = log
                .lines()
                .filter(|line| line.contains("left of 200 from 127.0.0.1"))
                .collect();
            assert_eq!(warnings.len(), 2, "{log}");
            for line in warnings {
                assert!(line.contains(&backend.addr.to_string()), "{line}");
                for remedy in ["keep_alive = true", "source_addresses", "tcp_tw_reuse"] {
                    assert!(line.contains(remedy), "{line}");
                }
            }
            let failed = log
                .lines()
                .find(|line| line.contains("no local port is left towards"));
            let failed = failed.unwrap_or_else(|| panic!("no such line in {log}"));
            assert!(failed.contains("keep_alive = true saves ports"), "{failed}");
        },
    );
}

#[test]
fn time_waits_that_are_missing_are_told_of_with_the_cause() {
    in_network_of_its_own(
        "ports::time_waits_that_are_missing_are_told_of_with_the_cause",
        || {
            let most = "/proc/sys/net/ipv4/tcp_max_tw_buckets";
            fs::write(most, "100").unwrap();
            let backend = Backend::numbered();
            let text = config("127.0.0.1:0", backend.addr, "")
                + "keep_alive = false\nshort_mode = \"proxy-closes\"\n\
                   [client]\nmax_keep_alive_requests = 0\nkeep_alive_timeout = \"60s\"\n\
                   [admin]\naddress = \"127.0.0.1:0\"\n";
            let program = Program::with_file(&text);
            let mut admin = Page::of(admin_of(&program));
            let mut client = program.client();
            for _ in 0..300 {
                assert_eq!(ask(&mut client, GET).status, 200);
            }
            let of = format!("upstream=\"app\",backend=\"{}\"", backend.addr);
            admin.wait_for(
                &format!("warmline_time_wait_expected_sockets{{{of}}}"),
                300.0,
            );
            let found = format!("warmline_time_wait_found_sockets{{{of}}}");
            assert!(admin.figure(&found) <= Some(100.0));
            assert!(ss(backend.addr) <= 100);
            let overflows = admin.figure("warmline_kernel_time_wait_overflows_total");
            assert!(overflows >= Some(200.0), "{overflows:?}");
            program.wait_for_log("net.ipv4.tcp_max_tw_buckets is reached");
            let log = program.log();
            assert!(log.contains("of 300 connections to backends"), "{log}");
        },
    );
}

/// Where its admin listener is.
fn admin_of(program: &Program) -> SocketAddr {
    let mut address = None;
    wait_until(PATIENCE, "the log to name the admin listener", || {
        let log = program.log();
        let line = log
            .lines()
            .find_map(|line| line.split_once("admin on http://"));
        address = line.and_then(|(_, rest)| rest.trim().parse().ok());
        address.is_some()
    });
    address.unwrap()
}

#[test]
fn each_time_wait_is_told_by_what_left_it() {
    in_network_of_its_own("ports::each_time_wait_is_told_by_what_left_it", || {
        let backend = Backend::numbered();
        let start = |keep_alive: bool| {
            let proxy = Proxy::start(backend.addr, |settings| {
                settings.admin = Some(local(0).into());
                settings.client.keep_alive = kept(NEVER, 0);
                settings.upstreams[0].pool.keep_alive.enabled = keep_alive;
                settings.upstreams[0].closing.short = ShortMode::ProxyCloses;
            });
            let admin = admin(&proxy);
            let page = Page::of(admin.address());
            (proxy, admin, page)
        };
        let ours = |page: &mut Page, count: f64| {
            let series = format!(
                "warmline_time_wait_sockets{{origin=\"warmline\",upstream=\"app\",backend=\"{}\",arm=\"short\",reason=\"keep_alive_off\"}}",
                backend.addr
            );
            page.wait_for(&series, count);
        };
        let foreign = |page: &mut Page, count: f64| {
            let series = format!(
                "warmline_time_wait_sockets{{origin=\"foreign\",backend=\"{}\"}}",
                backend.addr
            );
            page.wait_for(&series, count);
        };

        // With a pool there is none.
        let (pooled, _pooled_admin, mut pooled_page) = start(true);
        let mut client = pooled.client();
        for _ in 0..20 {
            assert_eq!(ask(&mut client, GET).status, 200);
        }
        let of = format!("upstream=\"app\",backend=\"{}\"", backend.addr);
        pooled_page.wait_for(
            &format!(
                "warmline_local_ports_in_time_wait{{source=\"127.0.0.1\",backend=\"{}\"}}",
                backend.addr
            ),
            0.0,
        );
        let none = pooled_page.all("warmline_time_wait_sockets{");
        assert!(none.is_empty(), "{none:?}");
        let lasts = pooled_page.all("warmline_local_ports_last_seconds{");
        assert!(lasts.is_empty(), "nothing runs out: {lasts:?}");
        assert_eq!(ss(backend.addr), 0);

        // Without one there is one for each request; others' are not ours.
        let (short, _short_admin, mut short_page) = start(false);
        let mut client = short.client();
        for _ in 0..30 {
            assert_eq!(ask(&mut client, GET).status, 200);
        }
        ours(&mut short_page, 30.0);
        let others = short_page.all("warmline_time_wait_sockets{origin=\"foreign");
        assert!(others.is_empty(), "{others:?}");
        for _ in 0..7 {
            let mut other = TcpStream::connect(backend.addr).unwrap();
            other.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = other.read(&mut [0; 16]);
        }
        foreign(&mut short_page, 7.0);
        ours(&mut short_page, 30.0);
        foreign(&mut pooled_page, 37.0);
        assert_eq!(ss(backend.addr), 37);
        let births = format!(
            "warmline_time_wait_births_per_second{{source=\"127.0.0.1\",backend=\"{}\"}}",
            backend.addr
        );
        assert!(short_page.figure(&births) > Some(0.0));
        let expected = format!("warmline_time_wait_expected_sockets{{{of}}}");
        assert_eq!(short_page.figure(&expected), Some(30.0));
        assert_eq!(pooled_page.figure(&expected), Some(0.0));

        // A new process, as after a restart, knows none of them.
        let (_later, _later_admin, mut later_page) = start(false);
        foreign(&mut later_page, 37.0);
    });
}
