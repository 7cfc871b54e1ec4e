//! TLS to backends: whom the proxy believes, what it shows, and that its connections are kept, moved
//! and closed as those without.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use warmline::keepalive::CloseReason;
use warmline::net::TlsSettings;

use crate::support::certs::{Authority, Pair};
use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::{Builder, TestProxy};
use crate::support::{PATIENCE, free_port, local, wait_until};

/// What the backend says of the connection.
const TELL: &str = "location / { return 200 '$ssl_server_name|$ssl_protocol|$server_protocol|\
                    $ssl_session_reused|$ssl_client_s_dn'; }";

/// nginx with TLS on a port of its own, showing `pair`.
fn nginx(pair: &Pair, settings: &str) -> (Nginx, SocketAddr) {
    let addr = local(free_port());
    let nginx = Nginx::start(&format!(
        "listen {addr} ssl; {} keepalive_requests 1000000; {settings} {TELL}",
        pair.for_nginx()
    ));
    (nginx, addr)
}

fn trusting(ca: &Path) -> TlsSettings {
    TlsSettings {
        ca: Some(ca.to_owned()),
        ..TlsSettings::default()
    }
}

fn to(addr: SocketAddr, tls: TlsSettings) -> Builder {
    TestProxy::to(addr)
        .unlimited()
        .upstream(|upstream| upstream.tls = Some(tls))
}

fn told(client: &mut Client) -> Vec<String> {
    let response = client.get("/");
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().split('|').map(str::to_owned).collect()
}

#[test]
fn a_connection_with_tls_is_kept_like_any_other() {
    let authority = Authority::new();
    let only = "ssl_protocols TLSv1.3;";
    let (nginx, addr) = nginx(&authority.certify("127.0.0.1"), only);
    let before = nginx.connections_accepted();
    let proxy = to(addr, trusting(&authority.ca())).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..50 {
        // For an address no name is asked for: RFC 6066 §3.
        assert_eq!(told(&mut client)[..3], ["", "TLSv1.3", "HTTP/1.1"]);
    }
    assert_eq!(nginx.connections_accepted() - before, 1);
    assert_eq!(proxy.figures().handshakes, [1, 0]);
}

#[test]
fn the_name_asked_for_is_the_one_that_is_verified() {
    let authority = Authority::new();
    let (_nginx, addr) = nginx(&authority.certify("app.example"), "");
    let named = |name: &str| TlsSettings {
        name: Some(name.to_owned()),
        ..trusting(&authority.ca())
    };
    let proxy = to(addr, named("app.example")).start();
    assert_eq!(told(&mut Client::connect(proxy.addr()))[0], "app.example");
    for tls in [named("other.example"), trusting(&authority.ca())] {
        let proxy = to(addr, tls).start();
        let response = Client::connect(proxy.addr()).get("/");
        assert_eq!(response.status, 502);
        assert!(response.text().contains("could not be spoken to"));
    }
}

#[test]
fn a_stranger_is_believed_only_without_verification() {
    let authority = Authority::new();
    let (_nginx, addr) = nginx(&authority.certify("127.0.0.1"), "");
    let stranger = trusting(&Authority::new().ca());
    // The authority's folder is gone with it: read at the start only.
    let another = Authority::new();
    let proxy = to(addr, trusting(&another.ca())).start();
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 502);
    let proxy = to(
        addr,
        TlsSettings {
            verify: false,
            ca: None,
            ..stranger
        },
    )
    .start();
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
}

#[test]
fn a_backend_that_asks_for_a_certificate_is_shown_one() {
    let authority = Authority::new();
    let verify = format!(
        "ssl_verify_client on; ssl_client_certificate {};",
        authority.ca().display()
    );
    let (_nginx, addr) = nginx(&authority.certify("127.0.0.1"), &verify);
    let mine = authority.certify("proxy.example");
    let proxy = to(
        addr,
        TlsSettings {
            certificate: Some((mine.certificate, mine.key)),
            ..trusting(&authority.ca())
        },
    )
    .start();
    assert_eq!(
        told(&mut Client::connect(proxy.addr()))[4],
        "CN=proxy.example"
    );
    let proxy = to(addr, trusting(&authority.ca())).start();
    let refused = Client::connect(proxy.addr()).get("/");
    assert_eq!(refused.status, 400, "nginx: no certificate was sent");
}

/// Sessions are resumed by all workers: a new connection costs no certificate any more.
#[test]
fn a_session_is_resumed_on_a_new_connection() {
    for (protocol, expected) in [("TLSv1.2", "TLSv1.2"), ("TLSv1.2 TLSv1.3", "TLSv1.3")] {
        let authority = Authority::new();
        let settings = format!("ssl_protocols {protocol}; ssl_session_cache shared:s:1m;");
        let (_nginx, addr) = nginx(&authority.certify("127.0.0.1"), &settings);
        let proxy = to(addr, trusting(&authority.ca())).short().start();
        let mut client = Client::connect(proxy.addr());
        let reused: Vec<_> = (0..20)
            .map(|_| {
                let told = told(&mut client);
                assert_eq!(told[1], expected);
                told[3].clone()
            })
            .collect();
        eprintln!("{expected}: {:?}", proxy.figures().handshakes);
        assert_eq!(reused[0], ".");
        assert!(reused[1..].iter().all(|reused| reused == "r"), "{reused:?}");
        assert_eq!(proxy.figures().handshakes, [1, 19], "{expected}");
    }
}

#[test]
fn an_idle_connection_with_tls_goes_from_worker_to_worker() {
    let authority = Authority::new();
    let (nginx, addr) = nginx(&authority.certify("127.0.0.1"), "");
    let before = nginx.connections_accepted();
    let proxy = to(addr, trusting(&authority.ca())).workers(4).start();
    for n in 0..300 {
        let response = Client::connect(proxy.addr()).get("/");
        assert_eq!(response.status, 200, "request {n}");
    }
    let accepted = nginx.connections_accepted() - before;
    let counts = proxy.figures().counts;
    // A worker that is late to lend, on a busy machine, costs one more.
    assert!(accepted <= 8, "{accepted} connections");
    assert!(counts.borrowed > 50, "they went to all workers");
}

/// Sends 12 MB to nginx's `/uploads/` and gets them back.
#[track_caller]
pub(super) fn assert_bodies_pass(client: &mut Client, nginx: &Nginx) {
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    client.send(format!(
        "PUT /uploads/f HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    assert_eq!(client.response().status, 201);
    let stored = fs::read(nginx.files().join("uploads/f")).unwrap();
    assert!(stored == body, "{} bytes of {}", stored.len(), body.len());
    let response = client.get("/uploads/f");
    let differs = response.body.iter().zip(&body).position(|(a, b)| a != b);
    assert_eq!((response.body.len(), differs), (body.len(), None));
}

#[test]
fn bodies_pass_whole_both_ways() {
    let authority = Authority::new();
    let (nginx, addr) = nginx(
        &authority.certify("127.0.0.1"),
        crate::support::nginx::UPLOADS,
    );
    let proxy = to(addr, trusting(&authority.ca()))
        .client(|client| client.limits.body = None)
        .start();
    assert_bodies_pass(&mut Client::connect(proxy.addr()), &nginx);
}

/// nginx's `keepalive_timeout` ends in a `close_notify` and a FIN.
#[test]
fn a_connection_with_tls_that_the_backend_closes_is_not_used_again() {
    let authority = Authority::new();
    let (_nginx, addr) = nginx(
        &authority.certify("127.0.0.1"),
        "keepalive_timeout 50ms; ssl_protocols TLSv1.2 TLSv1.3;",
    );
    let proxy = to(addr, trusting(&authority.ca()))
        .upstream(|upstream| upstream.pool.learn_idle_timeout = false)
        .start();
    let mut client = Client::connect(proxy.addr());
    for n in 1..=5 {
        assert_eq!(client.get("/").status, 200);
        proxy.wait_closed_for(CloseReason::PeerClosedIdle, n);
    }
    assert_eq!(proxy.figures().counts.opened, 5);
}

#[test]
fn what_is_wrong_with_a_certificate_file_stops_the_start() {
    use warmline::server::Server;

    let authority = Authority::new();
    let missing = trusting(Path::new("/nowhere/ca.pem"));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let pair = authority.certify("a.example");
    let other = authority.certify("b.example");
    let mixed = TlsSettings {
        certificate: Some((pair.certificate.clone(), other.key)),
        ..trusting(&authority.ca())
    };
    let no_key = TlsSettings {
        certificate: Some((pair.certificate.clone(), pair.certificate)),
        ..trusting(&authority.ca())
    };
    for (tls, said) in [
        (
            missing,
            "upstream test: cannot read /nowhere/ca.pem: No such",
        ),
        (trusting(empty.path()), "holds no certificate"),
        (mixed, "cannot be used"),
        (no_key, "holds no private key"),
    ] {
        let settings = to(local(1), tls).into_settings();
        let error = Server::start(&settings).err().expect("it does not start");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_reload_reads_the_certificates_again_and_keeps_the_connections_if_they_are_the_same() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (nginx, addr) = nginx(&ours.certify("127.0.0.1"), "");
    let before = nginx.connections_accepted();
    let builder = to(addr, trusting(&ours.ca()));
    let mut settings = None;
    let proxy = builder.settings(|all| settings = Some(all.clone())).start();
    let settings = settings.unwrap();
    let mut client = Client::connect(proxy.addr());
    told(&mut client);
    assert!(proxy.server().reload(&settings).unwrap().is_empty());
    told(&mut client);
    assert_eq!(nginx.connections_accepted() - before, 1);

    // Another authority in the same file: nobody is believed any more whom it has not certified.
    let trusted = fs::read(ours.ca()).unwrap();
    fs::copy(other.ca(), ours.ca()).unwrap();
    let changes = proxy.server().reload(&settings).unwrap();
    assert_eq!(changes.to_string(), "upstream test (new connections)");
    proxy.wait_closed_for(CloseReason::Drain, 1);
    wait_until(PATIENCE, "the worker to know", || {
        client.get("/").status == 502
    });
    fs::write(ours.ca(), "nothing").unwrap();
    let error = proxy.server().reload(&settings).unwrap_err().to_string();
    let says = format!(
        "upstream test: {} holds no certificate",
        ours.ca().display()
    );
    assert_eq!(error, says);
    fs::write(ours.ca(), trusted).unwrap();
    proxy.server().reload(&settings).unwrap();
    wait_until(PATIENCE, "the worker to know", || {
        client.get("/").status == 200
    });
}
