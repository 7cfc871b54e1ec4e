//! SIGHUP: what changes, what stays, and that nobody loses a request over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use tokio::time::Instant;

use warmline::server::{Server, Settings};

use crate::program::{Program, config};
use crate::proxy::{GET, LATE, ask, ms, said, settings_to};
use crate::support::client::{Client, Ended};
use crate::support::scripted::{Backend, Gate, PeerEnd};
use crate::support::{PATIENCE, free_port, local, wait_until};

/// A file with these tables beside one worker and one listener.
fn file(tables: &str) -> String {
    format!(
        "[server]\nworkers = 1\nshutdown_timeout = \"60s\"\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\n{tables}"
    )
}

/// Routes, each a path and the name of its upstream.
fn routes(routes: &[(&str, &str)]) -> String {
    let route = |(path, upstream): &(&str, &str)| {
        format!("[[routes]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n")
    };
    routes.iter().map(route).collect()
}

fn upstream(name: &str, backends: &[SocketAddr], more: &str) -> String {
    let servers: Vec<_> = backends.iter().map(|addr| format!("\"{addr}\"")).collect();
    format!(
        "[upstreams.{name}]\nservers = [{}]\n{more}\n",
        servers.join(", ")
    )
}

fn named(name: &'static str) -> Backend {
    Backend::answering(answer(name))
}

fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers with the number of the connection: `/slow` once the gate is open, all else at once.
fn numbered_and_gated(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::start(move |mut conn| {
        while let Some(request) = conn.request() {
            if request.line().contains("/slow") {
                conn.pause(&gate);
            }
            conn.send(answer(&conn.number.to_string()));
        }
    })
}

/// A client whose request for `/slow` is with the backend.
fn in_flight(program: &Program, gate: &Gate) -> Client {
    let mut client = program.client();
    client.send("GET /slow HTTP/1.1\r\nHost: test.example\r\n\r\n");
    gate.wait_reached(1);
    client
}

#[test]
fn a_changed_route_takes_effect_for_a_client_that_is_there_already() {
    let (a, b) = (named("a"), named("b"));
    let both = upstream("a", &[a.addr], "") + &upstream("b", &[b.addr], "");
    let program = Program::with_file(&file(&(routes(&[("/", "a")]) + &both)));
    let mut client = program.client();
    assert_eq!(ask(&mut client, GET).text(), "a");
    let log = program.reload(&file(&(routes(&[("/", "b")]) + &both)));
    assert!(log.contains("changed: routes\n"), "{log}");
    assert_eq!(ask(&mut client, GET).text(), "b");
    assert_eq!(client.get("/x").text(), "b");
    // Its idle connection is kept: it may be needed again.
    assert_eq!(a.ends(), []);
}

#[test]
fn an_upstream_that_stays_keeps_its_connections() {
    let app = Backend::numbered();
    let other = Backend::numbered();
    let only_app = |more: &str| file(&upstream("app", &[app.addr], more));
    let program = Program::with_file(&only_app(""));
    let mut client = program.client();
    assert_eq!(ask(&mut client, GET).text(), "1");
    let with_other = routes(&[("/", "app"), ("/other", "other")])
        + &upstream("other", &[other.addr], "")
        + &upstream("app", &[app.addr], "");
    let two_servers = upstream("app", &[other.addr, app.addr], "");
    for (text, says) in [
        (only_app(""), "changed: nothing\n".to_owned()),
        (
            file(&with_other),
            "changed: routes, upstream other is new\n".to_owned(),
        ),
        (
            only_app(""),
            "changed: routes, upstream other has gone\n".to_owned(),
        ),
        (
            only_app("timeout = \"7s\"\npreserve_host = false"),
            "changed: upstream app\n".to_owned(),
        ),
        (
            file(&two_servers),
            format!("changed: upstream app (+{})\n", other.addr),
        ),
        (
            only_app(""),
            format!("changed: upstream app (-{})\n", other.addr),
        ),
    ] {
        let log = program.reload(&text);
        assert!(log.contains(&says), "{says}{log}");
        let numbers: Vec<_> = (0..4).map(|_| ask(&mut client, GET).text()).collect();
        assert_eq!(numbers, ["1"; 4], "{says}");
        assert_eq!(app.ends(), [], "{says}");
    }
    assert_eq!(app.connections(), 1);
}

#[test]
fn what_is_asked_of_connections_holds_for_new_ones_and_the_old_ones_are_closed() {
    let app = Backend::numbered();
    let text = |more: &str| file(&upstream("app", &[app.addr], more));
    let program = Program::with_file(&text(""));
    let mut client = program.client();
    assert_eq!(ask(&mut client, GET).text(), "1");
    let log = program.reload(&text("max_keep_alive_requests = 1"));
    assert!(log.contains("upstream app (new connections)\n"), "{log}");
    assert_eq!(app.end_of(1), PeerEnd::Fin);
    let numbers: Vec<_> = (0..4).map(|_| ask(&mut client, GET).text()).collect();
    assert_eq!(numbers, ["2", "2", "3", "3"]);
}

#[test]
fn what_is_idle_of_a_removed_upstream_is_closed_at_once_and_what_is_busy_after_its_response() {
    let gate = Gate::new();
    let old = numbered_and_gated(&gate);
    let new = named("new");
    let program = Program::with_file(&file(&upstream("old", &[old.addr], "")));
    let mut busy = in_flight(&program, &gate);
    let mut idle = program.client();
    assert_eq!(ask(&mut idle, GET).text(), "2");

    let log = program.reload(&file(&upstream("new", &[new.addr], "")));
    let says = "changed: routes, upstream new is new, upstream old has gone\n";
    assert!(log.contains(says), "{log}");
    assert_eq!(old.end_of(2), PeerEnd::Fin);
    assert_eq!(old.ends().len(), 1, "the other one is in use");
    assert_eq!(busy.end_within(ms(50)), Ended::KeptOpen);
    assert_eq!(ask(&mut idle, GET).text(), "new");

    gate.open();
    let response = busy.response();
    assert_eq!((response.status, response.text()), (200, "1".to_owned()));
    assert_eq!(response.ended, Ended::KeptOpen, "the client stays");
    assert_eq!(old.end_of(1), PeerEnd::Fin);
    assert_eq!(ask(&mut busy, GET).text(), "new");
    assert_eq!(old.connections(), 2);
}

#[test]
fn a_file_with_faults_changes_nothing_and_every_fault_is_told() {
    let gate = Gate::new();
    let app = numbered_and_gated(&gate);
    let sound = file(&upstream("app", &[app.addr], ""));
    let program = Program::with_file(&sound);
    let mut busy = in_flight(&program, &gate);
    let mut client = program.client();
    assert_eq!(ask(&mut client, GET).text(), "2");

    let syntax = file(&upstream(
        "app",
        &[app.addr],
        "timeout = \"soon\"\nworker = 3",
    ));
    let log = program.reload(&syntax);
    for words in ["`timeout` takes a duration", "`worker`", "faults=2"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    // RFC 6761 §6.4: no resolver knows a name below `invalid`.
    let names = sound.replace(
        &format!("\"{}\"", app.addr),
        "\"127.0.0.1:9\", \"one.invalid:80\", \"two.invalid:80\"",
    );
    let log = program.reload(&names);
    for words in [
        "upstream app: cannot look up server one.invalid:80: the name has no address",
        "upstream app: cannot look up server two.invalid:80: the name has no address",
        "faults=2",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let gone = program.reload("");
    assert!(gone.contains("not reloaded"), "{gone}");

    assert_eq!(ask(&mut client, GET).text(), "2");
    gate.open();
    assert_eq!(busy.response().text(), "1");
    assert_eq!((app.connections(), app.ends()), (2, Vec::new()));
    let log = program.reload(&sound);
    assert!(log.contains("changed: nothing\n"), "{log}");
}

#[test]
fn new_clients_are_served_as_the_new_file_says() {
    let app = named("ok");
    let text = |more: &str| {
        file(&format!(
            "{}[client]\n{more}\n",
            upstream("app", &[app.addr], "")
        ))
    };
    let program = Program::with_file(&text(""));
    let kept = "GET / HTTP/1.1\r\nHost: test.example\r\nConnection: keep-alive\r\n\r\n";
    let mut old = program.client();
    assert_eq!(said(&ask(&mut old, kept)).1, "timeout=5, max=100");
    let log = program.reload(&text(
        "keep_alive_timeout = \"7s\"\nmax_keep_alive_requests = 3",
    ));
    assert!(log.contains("changed: client\n"), "{log}");
    assert_eq!(said(&ask(&mut old, kept)).1, "timeout=5, max=99");
    assert_eq!(
        said(&ask(&mut program.client(), kept)).1,
        "timeout=7, max=3"
    );
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_takes_effect() {
    let (a, b) = (named("a"), named("b"));
    let program = Program::with_file(&file(&upstream("app", &[a.addr], "")));
    let changed = file(&upstream("app", &[b.addr], "")).replace("workers = 1", "workers = 2");
    for _ in 0..2 {
        program.reload(&changed);
        wait_until(PATIENCE, "the log to say what needs a restart", || {
            let log = program.log();
            let last = log.rsplit("reloaded; changed").next().unwrap();
            last.contains("workers cannot change")
        });
        assert_eq!(ask(&mut program.client(), GET).text(), "b");
    }
}

/// A listener on each of these addresses, at the port of the program's first.
fn listening(addresses: &[SocketAddr], tables: &str) -> String {
    let listener = |addr| format!("[[listeners]]\naddress = \"{addr}\"\n");
    let listeners: String = addresses.iter().map(listener).collect();
    format!("[server]\nworkers = 2\n{listeners}{tables}")
}

#[test]
fn listeners_come_and_go_and_their_clients_stay() {
    let app = named("ok");
    let tables = upstream("app", &[app.addr], "");
    let first: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let program = Program::with_file(&listening(&[first], &tables));
    // Nobody has this port on another address than the first, or the test says so.
    let second = SocketAddr::from(([127, 0, 0, 2], program.addr.port()));
    let mut old = program.client();
    assert_eq!(ask(&mut old, GET).status, 200);
    assert!(Client::try_connect(second).is_none());

    let log = program.reload(&listening(&[first, second], &tables));
    assert!(log.contains("changed: listeners\n"), "{log}");
    for _ in 0..8 {
        assert_eq!(ask(&mut Client::connect(second), GET).status, 200);
        assert_eq!(ask(&mut program.client(), GET).status, 200);
    }
    let log = program.reload(&listening(&[second], &tables));
    assert!(log.contains("changed: listeners\n"), "{log}");
    program.wait_until_refused();
    assert_eq!(ask(&mut Client::connect(second), GET).status, 200);
    assert_eq!(ask(&mut old, GET).status, 200, "who is there stays");

    // One that cannot be had changes nothing.
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = busy.local_addr().unwrap();
    let log = program.reload(&listening(&[taken, second], &tables));
    let says = format!("cannot listen on {taken}");
    assert!(log.contains(&says) && log.contains("not reloaded"), "{log}");
    assert_eq!(ask(&mut Client::connect(second), GET).status, 200);
    assert_eq!(app.ends(), []);
}

#[test]
fn the_shutdown_may_take_as_long_as_the_new_file_says() {
    let gate = Gate::new();
    let app = numbered_and_gated(&gate);
    let text = file(&upstream("app", &[app.addr], ""));
    let mut program = Program::with_file(&text);
    let mut busy = in_flight(&program, &gate);
    let log = program.reload(&text.replace("60s", "700ms"));
    assert!(log.contains("changed: shutdown_timeout\n"), "{log}");
    let from = Instant::now();
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(LATE), 0);
    assert!(from.elapsed() >= ms(700));
    assert!(busy.try_response().is_err());
}

#[test]
fn without_a_file_there_is_nothing_to_read_again() {
    let app = named("ok");
    let upstream = app.addr.to_string();
    let program = Program::with_flags(&["--upstream", &upstream, "--listen", "127.0.0.1:0"]);
    let mut client = program.client();
    assert_eq!(ask(&mut client, GET).status, 200);
    program.signal(Signal::HUP);
    program.wait_for_log("SIGHUP: nothing to read again");
    assert_eq!(ask(&mut client, GET).status, 200);
    assert_eq!(app.connections(), 1);
}

#[test]
fn a_reload_while_the_proxy_stops_is_refused_and_does_not_keep_it() {
    let gate = Gate::new();
    let app = numbered_and_gated(&gate);
    let mut program = Program::with_file(&config("127.0.0.1:0", app.addr, "shutdown_timeout = 60"));
    let mut busy = in_flight(&program, &gate);
    program.signal(Signal::TERM);
    program.wait_for_log("finishing the requests in flight");
    program.signal(Signal::HUP);
    program.wait_for_log("not reloading");
    gate.open();
    assert_eq!(busy.response().status, 200);
    drop(busy);
    assert_eq!(program.exit_code(LATE), 0);
}

#[test]
fn twenty_reloads_under_load_lose_no_request() {
    let (a, b, both) = (named("a"), named("b"), named("c"));
    let endless = "[client]\nmax_keep_alive_requests = 0\n";
    let files = [
        upstream("app", &[a.addr, both.addr], ""),
        upstream("app", &[both.addr, b.addr], "timeout = \"50s\""),
        upstream("app", &[a.addr], "connect_timeout = \"4s\""),
        upstream("other", &[both.addr, b.addr], "keep_alive = false"),
    ]
    .map(|tables| file(&(tables + endless)).replace("workers = 1", "workers = 2"));
    let program = Program::with_file(&files[0]);
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for kept in [true, true, true, true, false, false] {
            let (program, over, answered) = (&program, &over, &answered);
            scope.spawn(move || {
                let mut client = program.client();
                while !over.load(Ordering::Relaxed) {
                    if !kept {
                        client = program.client();
                    }
                    client.send(GET);
                    let response = client.try_response().unwrap_or_else(|stop| {
                        panic!("a request was lost: {stop:?}");
                    });
                    assert_eq!(response.status, 200, "{}", response.text());
                    assert!(["a", "b", "c"].contains(&response.text().as_str()));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=20 {
            let before = answered.load(Ordering::Relaxed);
            wait_until(PATIENCE, "requests between two reloads", || {
                answered.load(Ordering::Relaxed) >= before + 50
            });
            let log = program.reload(&files[round % files.len()]);
            assert!(log.contains("reloaded; changed: "), "{log}");
        }
        over.store(true, Ordering::Relaxed);
    });
    let log = program.log();
    assert!(!log.contains("request failed"), "{log}");
    eprintln!(
        "20 reloads, {} requests, none lost",
        answered.load(Ordering::Relaxed)
    );
    assert!(answered.load(Ordering::Relaxed) >= 1000);
}

fn with_listener(settings: &Settings) -> (Settings, SocketAddr) {
    let address = local(free_port());
    let mut with = settings.clone();
    with.listeners.push(address.into());
    (with, address)
}

#[test]
fn a_stop_right_after_a_reload_loses_no_client_of_a_new_address() {
    let backend = Backend::answering(answer("ok"));
    let mut settings = settings_to(backend.addr);
    settings.workers = 8;
    for _ in 0..5 {
        let server = Server::start(&settings).unwrap();
        let (with, address) = with_listener(&settings);
        server.reload(&with).unwrap();
        let mut clients: Vec<_> = (0..16).map(|_| Client::connect(address)).collect();
        for client in &mut clients {
            client.send(GET);
        }
        server.stop();
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        server.join();
    }
}

/// Two reloads at once: some workers never hear of the address, and their sockets for it are closed.
#[test]
fn an_address_that_comes_and_goes_at_once_is_listened_on_by_nobody_afterwards() {
    let backend = Backend::answering(answer("ok"));
    let mut settings = settings_to(backend.addr);
    settings.workers = 32;
    let server = Server::start(&settings).unwrap();
    let control = server.control();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for round in 0..15 {
        let (with, address) = with_listener(&settings);
        runtime.block_on(async {
            let (came, went) = tokio::join!(control.reload(&with), control.reload(&settings));
            came.unwrap();
            went.unwrap();
        });
        wait_until(
            PATIENCE,
            &format!("round {round}: nobody to listen"),
            || Client::try_connect(address).is_none(),
        );
    }
    server.stop();
    server.join();
}
