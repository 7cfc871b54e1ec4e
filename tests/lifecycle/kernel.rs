//! What the kernel is left with: whose the TIME_WAIT sockets are, and how many.
//!
//! Each test runs in a network namespace of its own, where nobody else's sockets are and no socket in
//! TIME_WAIT is used again: it starts itself once more under `unshare`. That needs root; without
//! it, it says so and does nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use tower::Service;
use warmline::backend::{self, ServerSettings, ShortMode};
use warmline::census::{Census, Sides, StateCounts, TcpState};
use warmline::compare::backend::EmbeddedBackend;
use warmline::net::{self, CloseMode, PortRange, Probes, SocketOptions, TcpConnect};

use crate::proxy::{GET, NEVER, Proxy, ask, kept, ms};
use crate::support::client::{Client, Ended};
use crate::support::network::in_network_of_its_own;
use crate::support::{PATIENCE, local, process, wait_until};

const REQUESTS: u64 = 30;

/// Runs `body` in a network namespace of its own, for a test of this file called `name`.
fn in_own_network(name: &str, body: fn()) {
    in_network_of_its_own(&format!("kernel::{name}"), body);
}

/// The sockets of `address`, by side.
pub fn sides(address: SocketAddr) -> Sides {
    Census::take(&[address]).unwrap().of(address).unwrap()
}

fn time_wait(address: SocketAddr) -> (u64, u64) {
    in_time_wait(sides(address))
}

fn in_time_wait(sides: Sides) -> (u64, u64) {
    let of = |counts: StateCounts| counts.get(TcpState::TimeWait);
    (of(sides.ours), of(sides.theirs))
}

/// Waits until `ours` and `theirs` sockets of `address` are in TIME_WAIT and nothing of it is open on
/// either side; then `ss` says the same.
#[track_caller]
pub fn assert_left(address: SocketAddr, ours: u64, theirs: u64) {
    let mut seen = None;
    let end = tokio::time::Instant::now() + PATIENCE;
    while seen != Some((ours, theirs)) {
        let sides = sides(address);
        let left = in_time_wait(sides);
        if (sides.ours.connections(), sides.theirs.connections()) == left {
            seen = Some(left);
        }
        assert!(
            tokio::time::Instant::now() < end,
            "(ours, theirs) in TIME_WAIT: {seen:?}, not {:?}; {sides:?}",
            (ours, theirs),
        );
        thread::sleep(ms(5));
    }
    for (side, count) in [("dst", ours), ("src", theirs)] {
        assert_eq!(ss(side, address), count, "ss, {side} {address}");
    }
}

/// What `ss -tan state time-wait` lists with this address as its remote or local end.
fn ss(side: &str, address: SocketAddr) -> u64 {
    let output = Command::new(process::find(&["ss"], "iproute2"))
        .args(["-HOtan", "state", "time-wait", side, &address.to_string()])
        .output()
        .expect("ss can be run");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).lines().count() as u64
}

/// A backend that closes as soon as a request says so, and a proxy in front of it.
fn with_keep_alive(enabled: bool) -> (EmbeddedBackend, SocketAddr, Proxy) {
    let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
    let address = backend.addresses()[0];
    let proxy = Proxy::start(address, |settings| {
        settings.upstreams[0].pool.keep_alive.enabled = enabled;
        settings.client.keep_alive = kept(NEVER, 0);
    });
    (backend, address, proxy)
}

#[test]
fn short_mode_leaves_one_time_wait_a_request_and_all_with_the_backend() {
    in_own_network(
        "short_mode_leaves_one_time_wait_a_request_and_all_with_the_backend",
        || {
            let (_backend, address, proxy) = with_keep_alive(false);
            let mut client = proxy.client();
            for _ in 0..REQUESTS {
                assert_eq!(ask(&mut client, GET).status, 200);
            }
            assert_left(address, 0, REQUESTS);
        },
    );
}

#[test]
fn pooled_mode_leaves_no_time_wait() {
    in_own_network("pooled_mode_leaves_no_time_wait", || {
        let (backend, address, proxy) = with_keep_alive(true);
        let mut client = proxy.client();
        for _ in 0..REQUESTS {
            assert_eq!(ask(&mut client, GET).status, 200);
        }
        assert_eq!(backend.served()[0].connections, 1);
        assert_eq!(time_wait(address), (0, 0));
        assert_eq!((ss("dst", address), ss("src", address)), (0, 0));
        let open = sides(address).ours.get(TcpState::Established);
        assert_eq!(open, 1, "the one connection that carried all of it");
    });
}

#[test]
fn the_end_of_the_pool_leaves_no_time_wait() {
    in_own_network("the_end_of_the_pool_leaves_no_time_wait", || {
        let (_backend, address, proxy) = with_keep_alive(true);
        for _ in 0..REQUESTS {
            assert_eq!(ask(&mut proxy.client(), GET).status, 200);
        }
        drop(proxy);
        assert_left(address, 0, 0);
    });
}

/// A counter of the kernel, of this network namespace.
pub fn counter(file: &str, group: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    let (_, value) = names.zip(values).find(|(this, _)| *this == name).unwrap();
    value.parse().unwrap()
}

/// `TIME_WAIT`s born, and resets sent.
fn born_and_reset() -> (u64, u64) {
    (
        counter("/proc/net/netstat", "TcpExt:", "TW"),
        counter("/proc/net/snmp", "Tcp:", "OutRsts"),
    )
}

/// Resets sent.
pub fn resets() -> u64 {
    born_and_reset().1
}

/// Sends [`REQUESTS`] under these settings; so many connections end, and each leaves so many
/// `TIME_WAIT`s with us and with the backend, and sends so many resets.
#[track_caller]
fn closes(
    change: impl FnOnce(&mut backend::Settings),
    connections: u64,
    (ours, theirs): (u64, u64),
    resets: u64,
) {
    let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
    let address = backend.addresses()[0];
    let proxy = Proxy::start(address, |settings| {
        change(&mut settings.upstreams[0]);
        settings.client.keep_alive = kept(NEVER, 0);
    });
    let before = born_and_reset();
    let mut client = proxy.client();
    for _ in 0..REQUESTS {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    assert_left(address, ours * connections, theirs * connections);
    wait_until(PATIENCE, "the resets", || {
        born_and_reset().1 - before.1 >= resets * connections
    });
    let (_, reset) = born_and_reset();
    assert_eq!(reset - before.1, resets * connections, "resets");
    assert_eq!(backend.served()[0].connections, connections);
}

#[test]
fn each_short_mode_is_exact() {
    in_own_network("each_short_mode_is_exact", || {
        for (short, left, resets) in [
            (ShortMode::CloseByHeader, (0, 1), 0),
            (ShortMode::ProxyCloses, (1, 0), 0),
            (ShortMode::Rst, (0, 0), 1),
        ] {
            eprintln!("{short:?}");
            let change = |upstream: &mut backend::Settings| {
                upstream.pool.keep_alive.enabled = false;
                upstream.closing.short = short;
            };
            closes(change, REQUESTS, left, resets);
        }
    });
}

#[test]
fn each_close_mode_is_exact_after_the_last_exchange() {
    in_own_network("each_close_mode_is_exact_after_the_last_exchange", || {
        for (last, left, resets) in [
            (CloseMode::Fin, (1, 0), 0),
            (CloseMode::Rst, (0, 0), 1),
            (CloseMode::FinRst, (0, 0), 1),
            (CloseMode::Peer, (0, 1), 0),
            (CloseMode::PeerRst, (0, 0), 1),
        ] {
            eprintln!("{last:?}");
            let change = |upstream: &mut backend::Settings| {
                // The second exchange is the last.
                upstream.pool.keep_alive.max_requests = NonZeroU32::new(1);
                upstream.closing.last = last;
            };
            closes(change, REQUESTS / 2, left, resets);
        }
    });
}

#[test]
fn each_close_mode_is_exact_for_idle_connections() {
    in_own_network("each_close_mode_is_exact_for_idle_connections", || {
        for (idle, left, resets) in [
            (CloseMode::Fin, (1, 0), 0),
            (CloseMode::Rst, (0, 0), 1),
            (CloseMode::FinRst, (0, 0), 1),
        ] {
            eprintln!("{idle:?}");
            let change = |upstream: &mut backend::Settings| {
                upstream.pool.keep_alive.timeout = ms(300);
                upstream.closing.idle = idle;
            };
            closes(change, 1, left, resets);
        }
    });
}

#[test]
fn connects_take_even_and_odd_ports_so_that_half_a_range_is_no_cliff() {
    in_own_network(
        "connects_take_even_and_odd_ports_so_that_half_a_range_is_no_cliff",
        || {
            let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
            let address = backend.addresses()[0];
            let proxy = Proxy::start(address, |settings| {
                settings.upstreams[0].pool.keep_alive.enabled = false;
                settings.upstreams[0].closing.short = ShortMode::ProxyCloses;
            });
            let mut client = proxy.client();
            for _ in 0..REQUESTS {
                assert_eq!(ask(&mut client, GET).status, 200);
            }
            assert_left(address, REQUESTS, 0);
            let output = Command::new(process::find(&["ss"], "iproute2"))
                .args(["-HOtan", "state", "time-wait", "dst", &address.to_string()])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let ports = text.lines().map(|line| {
                let local = line.split_whitespace().nth(2).unwrap();
                local.rsplit(':').next().unwrap().parse::<u16>().unwrap()
            });
            // Without IP_LOCAL_PORT_RANGE all of them are of one kind.
            let odd = ports.filter(|port| port % 2 == 1).count() as u64;
            assert!(odd > 0 && odd < REQUESTS, "{odd} of {REQUESTS} are odd");
        },
    );
}

#[test]
fn clients_that_close_first_keep_the_time_waits() {
    in_own_network("clients_that_close_first_keep_the_time_waits", || {
        let (_backend, _, proxy) = with_keep_alive(true);
        for _ in 0..REQUESTS {
            let mut client = proxy.client();
            assert_eq!(ask(&mut client, GET).ended, Ended::KeptOpen);
        }
        assert_left(proxy.addr, REQUESTS, 0);
    });
}

#[test]
fn idle_clients_that_we_close_leave_the_time_waits_with_us() {
    in_own_network(
        "idle_clients_that_we_close_leave_the_time_waits_with_us",
        || {
            let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
            let proxy = Proxy::start(backend.addresses()[0], |settings| {
                settings.client.keep_alive = kept(ms(300), 0);
            });
            end_clients(&proxy, "keep-alive");
            assert_left(proxy.addr, 0, REQUESTS);
        },
    );
}

#[test]
fn responses_that_say_close_leave_the_time_waits_with_us() {
    in_own_network(
        "responses_that_say_close_leave_the_time_waits_with_us",
        || {
            let (_backend, _, proxy) = with_keep_alive(true);
            end_clients(&proxy, "close");
            assert_left(proxy.addr, 0, REQUESTS);
        },
    );
}

/// So many clients that wait for the proxy to close before they do.
fn end_clients(proxy: &Proxy, connection: &str) {
    let request =
        format!("GET / HTTP/1.1\r\nHost: test.example\r\nConnection: {connection}\r\n\r\n");
    let mut clients: Vec<Client> = (0..REQUESTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(&request);
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    for client in &mut clients {
        assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    }
    drop(clients);
    wait_until(PATIENCE, "the connections to end", || {
        let sides = sides(proxy.addr);
        sides.ours.connections() == sides.ours.get(TcpState::TimeWait)
    });
}

#[test]
fn each_source_address_has_its_own_ports_and_without_one_left_the_cause_is_said() {
    in_own_network(
        "each_source_address_has_its_own_ports_and_without_one_left_the_cause_is_said",
        || {
            for sources in [vec![], vec!["127.0.4.1"], vec!["127.0.4.1", "127.0.4.2"]] {
                // What listens takes no port of the narrow range.
                narrow(32768, 60999);
                let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
                let address = backend.addresses()[0];
                let ports = 50 * sources.len().max(1) as u64;
                let proxy = from_sources(address, &sources);
                let mut client = proxy.client();
                narrow(20000, 20049);
                for n in 0..ports {
                    assert_eq!(
                        ask(&mut client, GET).status,
                        200,
                        "request {n}, {sources:?}"
                    );
                }
                let refused = ask(&mut client, GET);
                assert_eq!(refused.status, 503, "{sources:?}");
                assert_left(address, ports, 0);
            }
        },
    );
}

/// Narrows the range of local ports, of this network namespace.
fn narrow(low: u16, high: u16) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(range, format!("{low} {high}")).unwrap();
}

/// What `ss` says, with these arguments, of the sockets whose remote end is this.
fn ss_of(args: &[&str], address: SocketAddr) -> String {
    let output = Command::new(process::find(&["ss"], "iproute2"))
        .args(args)
        .args(["dst", &address.to_string()])
        .output()
        .expect("ss can be run");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The `TIME_WAIT`s towards `address`, by the source they have.
fn time_wait_by_source(address: SocketAddr) -> BTreeMap<IpAddr, u64> {
    let mut counts = BTreeMap::new();
    for line in ss_of(&["-HOtan", "state", "time-wait"], address).lines() {
        let local = line.split_whitespace().nth(2).unwrap();
        let local: SocketAddr = local.parse().unwrap();
        *counts.entry(local.ip()).or_default() += 1;
    }
    counts
}

/// A proxy in the short mode whose closes leave a `TIME_WAIT` here, that connects from these.
fn from_sources(address: SocketAddr, sources: &[&str]) -> Proxy {
    Proxy::start(address, |settings| {
        let upstream = &mut settings.upstreams[0];
        upstream.pool.keep_alive.enabled = false;
        upstream.pool.acquire_timeout = ms(200);
        upstream.closing.short = ShortMode::ProxyCloses;
        upstream.source_addresses = sources
            .iter()
            .map(|source| source.parse().unwrap())
            .collect();
        settings.client.keep_alive = kept(NEVER, 0);
    })
}

#[track_caller]
fn all_are_served(proxy: &Proxy, requests: u64) {
    let mut client = proxy.client();
    for n in 0..requests {
        assert_eq!(ask(&mut client, GET).status, 200, "request {n}");
    }
}

#[test]
fn the_source_with_the_most_ports_left_is_taken() {
    in_own_network("the_source_with_the_most_ports_left_is_taken", || {
        let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
        let address = backend.addresses()[0];
        let [one, two, three] = ["127.0.4.1", "127.0.4.2", "127.0.4.3"];
        let by_source = |expected: &[(&str, u64)]| {
            let expected = expected.iter();
            let expected: BTreeMap<IpAddr, u64> = expected
                .map(|(source, count)| (source.parse().unwrap(), *count))
                .collect();
            let mut seen = BTreeMap::new();
            wait_until(PATIENCE, &format!("{expected:?} in TIME_WAIT"), || {
                seen = time_wait_by_source(address);
                seen.values().sum::<u64>() == expected.values().sum::<u64>()
            });
            assert_eq!(seen, expected);
        };
        let before = from_sources(address, &[one, two]);
        all_are_served(&before, 20);
        by_source(&[(one, 10), (two, 10)]);

        // One address in place of another, as after a reload. Its ports are all there: in turn, each
        // would get half of the next ten.
        drop(before);
        let after = from_sources(address, &[one, three]);
        all_are_served(&after, 10);
        by_source(&[(one, 10), (two, 10), (three, 10)]);
        all_are_served(&after, 10);
        by_source(&[(one, 15), (two, 10), (three, 15)]);

        // Another program takes all ports of one, which this one cannot know.
        let mut client = after.client();
        narrow(20_000, 20_049);
        let others = open_from(three, address, 50);
        for n in 0..30 {
            assert_eq!(ask(&mut client, GET).status, 200, "request {n}");
        }
        by_source(&[(one, 45), (two, 10), (three, 15)]);
        drop(others);
    });
}

/// So many connections to `address` from a source, in a way that no proxy of this process knows of.
fn open_from(source: &str, address: SocketAddr, count: usize) -> Vec<net::Connected> {
    let source = source.parse().unwrap();
    let mut connect = TcpConnect::new(&[source], SocketOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut open = || runtime.block_on(connect.call(address));
    (0..count).map(|_| open().unwrap()).collect()
}

#[test]
fn a_source_address_has_its_ports_for_each_backend_anew_and_takes_them_from_nobody() {
    in_own_network(
        "a_source_address_has_its_ports_for_each_backend_anew_and_takes_them_from_nobody",
        || {
            let backends = [(); 3].map(|()| EmbeddedBackend::start("app", &[local(0)]).unwrap());
            let [one, two, third] = backends.each_ref().map(|backend| backend.addresses()[0]);
            let proxies = [one, two].map(|address| from_sources(address, &["127.0.4.1"]));
            let mut clients = proxies.each_ref().map(Proxy::client);
            narrow(20_000, 20_019);
            // Bound without IP_BIND_ADDRESS_NO_PORT, they would be 20 in all, and the ports lost to
            // every other program as well.
            for n in 0..20 {
                for client in &mut clients {
                    assert_eq!(ask(client, GET).status, 200, "request {n}");
                }
            }
            assert_left(one, 20, 0);
            assert_left(two, 20, 0);
            TcpStream::connect(third).unwrap();
        },
    );
}

/// The CPU time of this process's workers so far.
fn cpu_of_workers() -> Duration {
    let mut total = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let read = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
        if read("comm").starts_with("worker-") {
            let spent = read("schedstat");
            let nanos = spent.split(' ').next().and_then(|text| text.parse().ok());
            total += Duration::from_nanos(nanos.unwrap_or(0));
        }
    }
    total
}

#[test]
fn without_a_port_many_that_wait_look_for_one_now_and_then_and_the_backend_is_not_blamed() {
    in_own_network(
        "without_a_port_many_that_wait_look_for_one_now_and_then_and_the_backend_is_not_blamed",
        || {
            const CLIENTS: usize = 40;
            let wait = Duration::from_secs(3);
            let full = EmbeddedBackend::start("full", &[local(0)]).unwrap();
            let other = EmbeddedBackend::start("other", &[local(0)]).unwrap();
            let address = full.addresses()[0];
            let proxy = Proxy::start(address, |settings| {
                let upstream = &mut settings.upstreams[0];
                upstream.pool.keep_alive.enabled = false;
                upstream.pool.acquire_timeout = wait;
                settings.client.keep_alive = kept(NEVER, 0);
                upstream
                    .servers
                    .push(ServerSettings::new(other.addresses()[0].to_string()));
            });
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();

            // Others have all ports towards one of the two servers.
            narrow(20_000, 20_099);
            let ports: Vec<_> = std::iter::from_fn(|| TcpStream::connect(address).ok()).collect();
            assert_eq!(ports.len(), 100);
            let (spent, failed) = (cpu_of_workers(), proxy.figures().counts.open_failed);
            for client in &mut clients {
                client.send(GET);
            }
            let statuses: Vec<_> = clients.iter_mut().map(Client::response).collect();
            let spent = cpu_of_workers().saturating_sub(spent);
            let attempts = proxy.figures().counts.open_failed - failed;
            eprintln!("{attempts} attempts in {wait:?}, {spent:?} of CPU for all of it");

            let answered = |status| statuses.iter().filter(move |said| said.status == status);
            let half = CLIENTS / 2;
            assert_eq!((answered(200).count(), answered(503).count()), (half, half));
            for refused in answered(503) {
                let said = refused.text();
                assert!(said.contains("no local port left"), "{said}");
            }
            // At once all of them; then after 50 ms, 100, 200, 400, 800 and 1000 one each.
            let most = half as u64 + 8;
            assert!((5..=most).contains(&attempts), "{attempts} attempts");
            assert!(
                spent < wait / 5,
                "{spent:?} of CPU while nothing could be done"
            );

            // There are ports again: it is not passed over as one that has failed.
            drop(ports);
            narrow(20_000, 21_999);
            let served = || full.served()[0].requests;
            let before = served();
            let mut client = proxy.client();
            for _ in 0..10 {
                assert_eq!(ask(&mut client, GET).status, 200);
            }
            assert_eq!(served() - before, 5);
        },
    );
}

#[test]
fn the_options_of_sockets_are_seen_by_the_kernel() {
    in_own_network("the_options_of_sockets_are_seen_by_the_kernel", || {
        let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
        let address = backend.addresses()[0];
        let with = |sockets: SocketOptions| {
            let proxy = Proxy::start(address, |settings| {
                settings.upstreams[0].sockets = sockets.clone();
            });
            assert_eq!(ask(&mut proxy.client(), GET).status, 200);
            let said = ss_of(
                &[
                    "-HOtnoei",
                    "--tos",
                    "state",
                    "established",
                    "sport",
                    "!=",
                    ":1",
                ],
                address,
            );
            assert_eq!(said.lines().count(), 1, "one connection: {said}");
            said
        };
        let plain = with(SocketOptions::default());
        for mark in ["timer:", "fwmark:", "%lo", "tos:0xb8"] {
            assert!(!plain.contains(mark), "{mark} in {plain}");
        }
        let asked = SocketOptions {
            source_ports: Some(PortRange {
                low: 40_000,
                high: 40_009,
            }),
            keepalive: Some(Probes {
                idle: Duration::from_secs(600),
                interval: Duration::from_secs(5),
                count: 2,
            }),
            user_timeout: None,
            mark: 0x77,
            dscp: 46,
            device: Some("lo".to_owned()),
            fast_open: false,
        };
        let said = with(asked);
        for mark in ["timer:(keepalive,", "fwmark:0x77", "%lo:4000", "tos:0xb8"] {
            assert!(said.contains(mark), "no {mark} in {said}");
        }
    });
}

#[test]
fn upstreams_with_ranges_of_their_own_take_no_ports_from_each_other() {
    in_own_network(
        "upstreams_with_ranges_of_their_own_take_no_ports_from_each_other",
        || {
            let backend = EmbeddedBackend::start("app", &[local(0)]).unwrap();
            let address = backend.addresses()[0];
            let proxy = |low, high| {
                Proxy::start(address, |settings| {
                    let upstream = &mut settings.upstreams[0];
                    upstream.pool.keep_alive.enabled = false;
                    upstream.pool.acquire_timeout = ms(200);
                    upstream.closing.short = ShortMode::ProxyCloses;
                    upstream.sockets.source_ports = Some(PortRange { low, high });
                    settings.client.keep_alive = kept(NEVER, 0);
                })
            };
            let (one, other) = (proxy(40_000, 40_019), proxy(40_020, 40_039));
            all_are_served(&one, 20);
            assert_eq!(ask(&mut one.client(), GET).status, 503);
            all_are_served(&other, 20);
            assert_eq!(ask(&mut other.client(), GET).status, 503);
            assert_left(address, 40, 0);
        },
    );
}
