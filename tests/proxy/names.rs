//! Names that are looked up again: servers that come and go with what a name server says.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use warmline::account::Close;
use warmline::backend::ServerSettings;
use warmline::keepalive::CloseReason;
use warmline::server::{Server, StartError, UpstreamChange};

use crate::support::client::{Client, Ended};
use crate::support::dns::{Dns, Record};
use crate::support::proxy::{Builder, TestProxy};
use crate::support::scripted::{Backend, Gate, PeerEnd};
use crate::support::{PATIENCE, local, wait_until};
use crate::{answer, get};

const NAME: &str = "app.test";

const SERVICE: &str = "_http._tcp.app.test";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A backend that answers with the last byte of its address: `/slow` once the gate is open.
fn backend(listener: TcpListener, gate: &Gate) -> Backend {
    let SocketAddr::V4(addr) = listener.local_addr().unwrap() else {
        panic!("it was bound to an IPv4 address");
    };
    let (gate, body) = (gate.clone(), addr.ip().octets()[3].to_string());
    Backend::on(listener, move |mut conn| {
        while let Some(request) = conn.request() {
            if request.line().contains("/slow") {
                conn.pause(&gate);
            }
            conn.send(answer(&body));
        }
    })
}

/// Backends at 127.0.0.1, 127.0.0.2 and so on, all with one port, as those of one name have.
fn with_one_port<const N: usize>(gate: &Gate) -> (u16, [Backend; N]) {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let listeners: Vec<_> = (2..=u8::try_from(N).unwrap())
            .map_while(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).ok())
            .collect();
        if listeners.len() == N - 1 {
            let mut all = std::iter::once(first).chain(listeners);
            return (
                port,
                std::array::from_fn(|_| backend(all.next().unwrap(), gate)),
            );
        }
    }
    panic!("no port is free on {N} addresses");
}

/// A proxy to `server`, which `dns` knows; looked up often.
fn to(server: &str, dns: &Dns) -> Builder {
    TestProxy::to(local(9))
        .unlimited()
        .settings(|settings| settings.resolver = vec![dns.addr])
        .upstream(|upstream| {
            upstream.servers = vec![ServerSettings::new(server)];
            upstream.resolve.least = ms(20);
        })
}

/// The last byte of each IPv4 address that the proxy has, and its weight.
fn known(proxy: &TestProxy) -> Vec<(u8, u32)> {
    let upstreams = proxy.server().upstreams();
    let known = upstreams[0].backends.iter().filter_map(|(target, _)| {
        let addr: SocketAddr = target.backend.to_string().parse().unwrap();
        let SocketAddr::V4(addr) = addr else {
            return None;
        };
        Some((addr.ip().octets()[3], target.weight))
    });
    known.collect()
}

fn wait_known(proxy: &TestProxy, expected: &[u8]) {
    wait_until(PATIENCE, &format!("the addresses {expected:?}"), || {
        known(proxy)
            .iter()
            .map(|(last, _)| *last)
            .eq(expected.iter().copied())
    });
}

/// Which backends answer, in the order of their first answer, over `count` requests.
fn answering(proxy: &TestProxy, count: usize) -> Vec<String> {
    let mut client = Client::connect(proxy.addr());
    let mut seen = Vec::new();
    for _ in 0..count {
        let response = client.get("/");
        assert_eq!(response.status, 200, "{}", response.text());
        if !seen.contains(&response.text()) {
            seen.push(response.text());
        }
    }
    seen.sort();
    seen
}

#[test]
fn addresses_come_and_go_under_load_and_no_request_fails() {
    let (port, backends) = with_one_port::<3>(&Gate::new());
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns).workers(2).start();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(proxy.addr());
                while !over.load(Ordering::Relaxed) {
                    let response = client.get("/");
                    assert_eq!(response.status, 200, "{}", response.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let asked = |last: u8| backends[usize::from(last) - 1].requests().len();
        for round in [&[1, 2][..], &[2], &[3, 2], &[3], &[1, 2, 3], &[1]].repeat(3) {
            dns.set(NAME, 0, round.iter().map(|last| Record::local(*last)));
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            wait_known(&proxy, &sorted);
            for &last in &sorted {
                let before = asked(last);
                wait_until(PATIENCE, "each of them to be asked", || {
                    asked(last) > before
                });
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let figures = proxy.figures();
    let answered = u64::try_from(answered.into_inner()).unwrap();
    eprintln!(
        "18 changes of addresses, {answered} requests, none failed; {} connections",
        figures.counts.opened
    );
    // Nothing of what has gone is missing from the sums.
    assert_eq!(figures.requests, answered);
    for gone in [&backends[1], &backends[2]] {
        wait_until(PATIENCE, "what has gone to have no connection", || {
            gone.ends().len() == gone.connections()
        });
    }
    wait_until(PATIENCE, "every end to be in the ledger", || {
        let figures = proxy.figures();
        let entered: u64 = figures
            .ends
            .iter()
            .flatten()
            .map(|end| end.connections)
            .sum();
        entered == figures.counts.closed_total()
    });
    let figures = proxy.figures();
    assert_eq!(
        figures.counts.closed_total(),
        figures.closed_for(CloseReason::Drain)
    );
    let ended = u64::try_from(backends.iter().map(|one| one.ends().len()).sum::<usize>()).unwrap();
    wait_until(PATIENCE, "the same count on both sides", || {
        proxy.figures().counts.closed_total() == ended
    });
}

#[test]
fn a_vanished_servers_idle_connection_closes_at_once_and_its_busy_one_after_the_response() {
    let gate = Gate::new();
    let (port, [one, two]) = with_one_port(&gate);
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns).start();
    let mut busy = Client::connect(proxy.addr());
    busy.send(get("/slow"));
    gate.wait_reached(1);
    assert_eq!(answering(&proxy, 3), ["1"]);
    assert_eq!((one.connections(), two.connections()), (2, 0));

    dns.set(NAME, 0, [Record::local(2)]);
    assert_eq!(one.end_of(2), PeerEnd::Fin);
    assert_eq!(proxy.figures().ended_by(Close::ProxyFinRst), 1);
    assert_eq!(answering(&proxy, 3), ["2"]);
    assert_eq!(busy.end_within(ms(50)), Ended::KeptOpen);
    assert_eq!(one.ends().len(), 1);

    gate.open();
    let response = busy.response();
    assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    assert_eq!(one.end_of(1), PeerEnd::Fin);
    assert_eq!(busy.get("/").text(), "2");
    proxy.wait_closed_for(CloseReason::Drain, 2);
    assert_eq!((one.connections(), two.connections()), (2, 1));
}

#[test]
fn who_waits_in_line_for_a_server_that_vanishes_is_served_by_it_and_says_that_it_is_the_last() {
    let gate = Gate::new();
    let (port, [one, two]) = with_one_port(&gate);
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns)
        .upstream(|upstream| upstream.pool.max_connections = NonZeroU32::new(1))
        .start();
    let mut busy = Client::connect(proxy.addr());
    busy.send(get("/slow"));
    gate.wait_reached(1);
    let mut waiting = Client::connect(proxy.addr());
    waiting.send(get("/"));
    let line = || proxy.server().upstreams()[0].lines().next().unwrap().1;
    wait_until(PATIENCE, "the line", || line().waiting == 1);
    dns.set(NAME, 0, [Record::local(2)]);
    wait_known(&proxy, &[2]);
    // Until the worker knows, a request still joins the old server's line, in vain.
    wait_until(PATIENCE, "the worker to know", || {
        let mut client = Client::connect(proxy.addr());
        client.send(get("/"));
        matches!(client.try_response(), Ok(response) if response.text() == "2")
    });

    gate.open();
    assert_eq!(busy.response().text(), "1");
    let response = waiting.response();
    assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    assert_eq!((one.connections(), two.connections()), (2, 1));
    let last = one.requests().pop().unwrap();
    assert_eq!(last.header("connection"), Some("close"));
    proxy.wait_closed_for(CloseReason::Drain, 2);
    one.end_of(1);
    one.end_of(2);
}

#[test]
fn a_server_that_stays_keeps_its_connections_through_every_change() {
    let (port, [one, _two]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns).start();
    assert_eq!(answering(&proxy, 4), ["1"]);
    for _ in 0..5 {
        // In another order it is the same.
        dns.set(NAME, 0, [Record::local(2), Record::local(1)]);
        wait_known(&proxy, &[1, 2]);
        wait_until(PATIENCE, "the worker to know of both", || {
            answering(&proxy, 4) == ["1", "2"]
        });
        dns.set(NAME, 0, [Record::local(1)]);
        wait_known(&proxy, &[1]);
        wait_until(PATIENCE, "the worker to know", || {
            answering(&proxy, 4) == ["1"]
        });
    }
    assert_eq!((one.connections(), one.ends()), (1, Vec::new()));
}

#[test]
fn the_ttl_is_honoured_within_its_bounds() {
    let (port, [_one]) = with_one_port(&Gate::new());
    for (least, most, ttl, gap) in [
        (20, 60_000, 1, 1000),
        (20, 300, 3600, 300),
        (300, 60_000, 0, 300),
    ] {
        let dns = Dns::start();
        dns.set(NAME, ttl, [Record::local(1)]);
        let proxy = to(&format!("{NAME}:{port}"), &dns)
            .upstream(|upstream| {
                upstream.resolve.least = ms(least);
                upstream.resolve.most = ms(most);
            })
            .start();
        wait_until(PATIENCE, "three look-ups", || {
            dns.asked_for(NAME).len() >= 3
        });
        let asked = dns.asked_for(NAME);
        for pair in asked.windows(2) {
            let between = pair[1] - pair[0];
            assert!(
                between >= ms(gap),
                "{between:?} for {ttl} s in {least}-{most} ms"
            );
        }
        let took = asked[2] - asked[0];
        assert!(took < ms(gap) * 2 + Duration::from_secs(10), "{took:?}");
        drop(proxy);
    }
}

#[test]
fn what_is_an_address_or_is_looked_up_once_is_not_asked_for_again() {
    let (port, [_one]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    dns.set("other.test", 0, [Record::local(1)]);
    let proxy = to(&format!("127.0.0.1:{port}"), &dns)
        .settings(|settings| {
            let mut other = settings.upstreams[0].clone();
            other.name = "other".to_owned();
            other.servers = vec![ServerSettings::new("other.test:80")];
            settings.upstreams.push(other);
        })
        .upstream(|upstream| {
            let name = ServerSettings::new(format!("{NAME}:{port}"));
            upstream.servers.push(name);
            upstream.resolve.again = false;
        })
        .start();
    // The same address twice is one server with both weights.
    assert_eq!(known(&proxy), [(1, 2)]);
    assert_eq!(answering(&proxy, 3), ["1"]);
    // Were it looked up again, it would be as often as the other one.
    dns.wait_asked("other.test", 5);
    assert_eq!(dns.asked_for(NAME).len(), 1);
    let names = [NAME, "other.test"];
    let asked = dns.asked();
    assert!(
        asked
            .iter()
            .all(|asked| names.contains(&asked.name.as_str()))
    );
}

#[test]
fn a_name_server_that_dies_changes_nothing_and_is_asked_again_when_it_is_back() {
    let (port, [one, _two]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    dns.set(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns)
        .upstream(|upstream| upstream.resolve.most = ms(100))
        .start();
    assert_eq!(answering(&proxy, 3), ["1"]);
    // Nobody listens there any more.
    let addr = dns.addr;
    drop(dns);
    let end = Instant::now() + ms(500);
    while Instant::now() < end {
        assert_eq!(answering(&proxy, 3), ["1"]);
    }
    // It listens and says nothing; then it says that there is no such name, then no address.
    let dns = Dns::on(addr);
    dns.be_silent(true);
    dns.set(NAME, 0, [Record::local(2)]);
    dns.wait_asked(NAME, 1);
    assert_eq!(answering(&proxy, 3), ["1"]);
    dns.remove(NAME);
    dns.be_silent(false);
    dns.wait_asked(NAME, 3);
    dns.set(NAME, 0, []);
    dns.wait_asked(NAME, 3);
    assert_eq!(answering(&proxy, 3), ["1"]);
    assert_eq!(
        (known(&proxy), one.connections(), one.ends()),
        (vec![(1, 1)], 1, vec![])
    );
    dns.set(NAME, 0, [Record::local(2)]);
    wait_known(&proxy, &[2]);
    assert_eq!(one.end_of(1), PeerEnd::Fin);
    assert_eq!(answering(&proxy, 3), ["2"]);
}

#[test]
fn half_an_answer_takes_no_server_away() {
    let (port, [_one, _two]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    let v6 = Record::Address("::1".parse().unwrap());
    // At the start half is better than nothing.
    dns.set_only_ipv4(NAME, 0, [Record::local(1)]);
    let proxy = to(&format!("{NAME}:{port}"), &dns)
        .upstream(|upstream| upstream.resolve.most = ms(100))
        .start();
    wait_known(&proxy, &[1]);
    let count = |expected| {
        wait_until(PATIENCE, "the addresses", || {
            proxy.server().upstreams()[0].backends.len() == expected
        });
    };
    dns.set(NAME, 0, [Record::local(1), v6.clone()]);
    count(2);
    // Now it is not known whether there still is the one of IPv6.
    dns.set_only_ipv4(NAME, 0, [Record::local(2)]);
    dns.wait_asked(NAME, 4);
    let upstreams = proxy.server().upstreams();
    let backends = upstreams[0].backends.iter();
    let backends: Vec<_> = backends
        .map(|(target, _)| target.backend.to_string())
        .collect();
    assert_eq!(
        backends,
        [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
    );
    dns.set(NAME, 0, [Record::local(2)]);
    wait_known(&proxy, &[2]);
}

/// A record of the service: priority, weight, and the backend with its own name.
fn service(priority: u16, weight: u16, backend: &Backend, target: &str) -> Record {
    Record::Service {
        priority,
        weight,
        port: backend.addr.port(),
        target: target.to_owned(),
    }
}

#[test]
fn a_service_has_its_servers_by_priority_and_weight() {
    let backends: [Backend; 3] = ["a", "b", "c"].map(|name| Backend::answering(answer(name)));
    let [a, b, c] = &backends;
    let dns = Dns::start();
    dns.set("host.test", 0, [Record::local(1)]);
    let mut proxy = None;
    for (records, weights, shares) in [
        (
            vec![
                service(20, 1, c, "host.test"),
                service(10, 30, b, "host.test"),
                service(10, 10, a, "host.test"),
            ],
            vec![1, 3],
            [10, 30, 0],
        ),
        (vec![service(20, 0, c, "host.test")], vec![1], [0, 0, 40]),
        (
            vec![
                service(1, 0, a, "host.test"),
                service(1, 7, b, "host.test"),
                service(2, 7, c, "host.test"),
            ],
            vec![1, 100],
            [0, 40, 0],
        ),
        (
            // RFC 2782: there is no such service at ".", and the host of the other is unknown.
            vec![
                service(1, 1, a, "."),
                service(2, 1, b, "nowhere.test"),
                service(3, 1, c, "host.test"),
            ],
            vec![1],
            [0, 0, 40],
        ),
    ] {
        dns.set(SERVICE, 0, records);
        let proxy = proxy.get_or_insert_with(|| to(&format!("srv+{SERVICE}"), &dns).start());
        wait_until(PATIENCE, "the weights", || {
            let mut known: Vec<_> = known(proxy).into_iter().map(|(_, weight)| weight).collect();
            known.sort_unstable();
            known == weights
        });
        let mut client = Client::connect(proxy.addr());
        let mut count = || {
            let mut counts = [0; 3];
            for _ in 0..40 {
                let text = client.get("/").text();
                let which = ["a", "b", "c"].iter().position(|name| *name == text);
                counts[which.unwrap()] += 1;
            }
            counts
        };
        // Those with turns saved up from before come first.
        let mut last = [0; 3];
        wait_until(PATIENCE, &format!("the shares {shares:?}"), || {
            last = count();
            last.iter()
                .zip(shares)
                .all(|(last, share): (&i32, i32)| (last - share).abs() <= 1)
        });
    }
}

#[test]
fn an_answer_that_is_too_long_for_udp_is_fetched_over_tcp() {
    let dns = Dns::start();
    dns.set(NAME, 3600, (1..=200).map(Record::local));
    let proxy = to(&format!("{NAME}:80"), &dns).start();
    let all: Vec<_> = (1..=200).map(|last| (last, 1)).collect();
    assert_eq!(known(&proxy), all);
    assert!(dns.over_tcp() >= 1);
}

#[test]
fn a_name_without_an_address_stops_the_start() {
    let dns = Dns::start();
    dns.set("empty.test", 0, []);
    dns.set("_empty._tcp.test", 0, []);
    for (server, why) in [
        ("nowhere.test:80", "the name has no address"),
        ("empty.test:80", "the name has no address"),
        ("srv+_empty._tcp.test", "the name has no address"),
        ("nonsense", "neither `host:port` nor a service"),
    ] {
        let mut settings = None;
        let _ = to(server, &dns).settings(|all| settings = Some(all.clone()));
        let error = Server::start(&settings.unwrap()).err().unwrap();
        assert!(matches!(error, StartError::LookUp { .. }));
        let says = format!("upstream test: cannot look up server {server}: {why}");
        assert_eq!(error.to_string(), says);
    }
}

#[test]
fn the_file_of_hosts_comes_before_the_name_servers() {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let name = hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ours = words.next() == Some("127.0.0.1");
        // `localhost` is known to every resolver.
        words.find(|name| ours && !name.contains("localhost"))
    });
    let Some(name) = name else {
        eprintln!("SKIPPED: /etc/hosts has no name for 127.0.0.1 but localhost");
        return;
    };
    let (port, [_one]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    dns.set(name, 0, [Record::local(2)]);
    let proxy = to(&format!("{name}:{port}"), &dns).start();
    assert_eq!(known(&proxy), [(1, 1)]);
    assert_eq!(answering(&proxy, 3), ["1"]);
    assert!(dns.asked_for(name).is_empty());
}

#[test]
fn a_reload_looks_names_up_and_fills_the_stock_of_new_servers() {
    let (port, [one, two]) = with_one_port(&Gate::new());
    let dns = Dns::start();
    dns.set(NAME, 3600, [Record::local(1)]);
    let mut settings = None;
    let proxy = to(&format!("{NAME}:{port}"), &dns)
        .upstream(|upstream| upstream.pool.min_idle = 2)
        .settings(|all| settings = Some(all.clone()))
        .start();
    let settings = settings.unwrap();
    wait_until(PATIENCE, "the stock", || proxy.figures().counts.idle == 2);
    let changes = proxy.server().reload(&settings).unwrap();
    assert!(changes.is_empty(), "{changes}");
    dns.set(NAME, 3600, [Record::local(1), Record::local(2)]);
    let changes = proxy.server().reload(&settings).unwrap();
    let Some((name, UpstreamChange::Changed(moves))) = changes.upstreams.first() else {
        panic!("{changes}");
    };
    assert_eq!(
        (name.as_str(), moves.to_string()),
        ("test", format!("+127.0.0.2:{port}"))
    );
    wait_until(PATIENCE, "the stock of both", || {
        proxy.figures().counts.idle == 4
    });
    wait_until(PATIENCE, "the backends to accept them", || {
        (one.connections(), two.connections()) == (2, 2)
    });
    assert_eq!(proxy.figures().requests, 0);

    // A name that is known may be asked for in vain, a new one may not.
    dns.remove(NAME);
    assert!(proxy.server().reload(&settings).unwrap().is_empty());
    let mut other = settings.clone();
    other.upstreams[0]
        .servers
        .push(ServerSettings::new("nowhere.test:80"));
    let error = proxy.server().reload(&other).unwrap_err();
    assert_eq!(
        error.to_string(),
        "upstream test: cannot look up server nowhere.test:80: the name has no address"
    );
    assert_eq!(known(&proxy), [(1, 1), (2, 1)]);
    assert_eq!((one.ends(), two.ends()), (vec![], vec![]));
}
