//! TLS with clients: who is shown which certificate, what is kept through a change of files, and who has to
//! show one.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use warmline::account::Handshake;
use warmline::net::{CertificateSource, ClientAuth, MinVersion, ServerTlsSettings};

use crate::support::certs::{Authority, Pair};
use crate::support::proxy::{Builder, TestProxy};
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, wait_until};

use super::answer;

fn files(pair: &Pair) -> CertificateSource {
    CertificateSource::Files {
        certificate: pair.certificate.clone(),
        key: pair.key.clone(),
        staple: None,
    }
}

/// A proxy that speaks TLS as `tls` says, and shows these certificates.
fn with_tls(backend: SocketAddr, shown: Vec<CertificateSource>, tls: ServerTlsSettings) -> Builder {
    TestProxy::to(backend).settings(|settings| {
        settings.certificates = shown;
        settings.listeners[0].tls = Some(tls);
    })
}

/// A backend that answers with the head that it was sent.
fn telling() -> Backend {
    Backend::start(|mut conn| conn.serve(|request| answer(&request.head)))
}

fn curl(addr: SocketAddr, name: &str, arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["-sS", "--max-time", "20", "--connect-to"])
        .arg(format!("{name}::{}:{}", addr.ip(), addr.port()))
        .args(arguments)
        .arg(format!("https://{name}/"))
        .output()
        .expect("curl is installed")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What `openssl s_client` says of a connection that is closed at once.
fn openssl(addr: SocketAddr, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &addr.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut stdin = child.stdin.take().unwrap();
    // Who is refused does not listen.
    let _ = stdin.write_all(request);
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    drop(stdin);
    said + &text(&child.wait_with_output().unwrap())
}

#[test]
fn who_asks_for_a_name_is_shown_its_certificate() {
    let authority = Authority::new();
    let names = ["first.example", "shop.example", "*.shop.example"];
    let pairs = names.map(|name| authority.certify(name));
    let backend = telling();
    let shown = pairs.iter().map(files).collect();
    let proxy = with_tls(backend.addr, shown, ServerTlsSettings::default()).start();
    for (asked, subject) in [
        ("shop.example", "shop.example"),
        ("SHOP.example", "shop.example"),
        ("www.shop.example", "*.shop.example"),
        ("a.b.shop.example", "first.example"),
        ("other", "first.example"),
    ] {
        let said = openssl(proxy.addr(), &["-servername", asked]);
        assert!(
            said.contains(&format!("subject=CN = {subject}\n")),
            "{asked}: {said}"
        );
    }
    let said = openssl(proxy.addr(), &["-noservername"]);
    assert!(said.contains("subject=CN = first.example\n"), "{said}");
    let ca = authority.ca();
    let ca = ca.to_str().unwrap();
    for (http, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let told = curl(
            proxy.addr(),
            "www.shop.example",
            &["--cacert", ca, http, "-w", "|%{http_version}"],
        );
        let told = text(&told);
        assert!(told.contains("X-Forwarded-Proto: https"), "{told}");
        assert!(told.contains("Host: www.shop.example"), "{told}");
        assert!(told.ends_with(&format!("|{version}")), "{told}");
    }
}

#[test]
fn a_session_is_resumed_by_ticket_and_without_tickets_too() {
    let authority = Authority::new();
    let backend = telling();
    for (tickets, version) in [(true, "-tls1_3"), (true, "-tls1_2"), (false, "-tls1_2")] {
        let tls = ServerTlsSettings {
            tickets,
            ..ServerTlsSettings::default()
        };
        let shown = vec![files(&authority.certify("localhost"))];
        let proxy = with_tls(backend.addr, shown, tls).start();
        let dir = tempfile::tempdir().unwrap();
        let session = dir.path().join("session");
        let session = session.to_str().unwrap();
        let first = openssl(proxy.addr(), &[version, "-sess_out", session]);
        assert!(first.contains("New, TLS"), "{first}");
        let second = openssl(proxy.addr(), &[version, "-sess_in", session]);
        assert!(
            second.contains("Reused, TLS"),
            "{tickets} {version}: {second}"
        );
        let front = proxy.server().control().front();
        assert_eq!(front.handshakes[Handshake::Full as usize], 1);
        assert_eq!(front.handshakes[Handshake::Resumed as usize], 1);
    }
}

#[test]
fn an_older_version_than_asked_for_is_refused_and_counted() {
    let authority = Authority::new();
    let backend = telling();
    let tls = ServerTlsSettings {
        min_version: MinVersion::Tls13,
        ..ServerTlsSettings::default()
    };
    let proxy = with_tls(backend.addr, vec![files(&authority.certify("a"))], tls).start();
    let said = openssl(proxy.addr(), &["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    let said = openssl(proxy.addr(), &["-tls1_3"]);
    assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
    let front = proxy.server().control().front();
    assert_eq!(front.handshakes[Handshake::Failed as usize], 1);
}

#[test]
fn who_has_to_show_a_certificate_does_and_its_subject_is_told_and_cannot_be_feigned() {
    let authority = Authority::new();
    let client = authority.certify("client.example");
    let stranger = Authority::new().certify("client.example");
    let backend = telling();
    let ca = authority.ca();
    for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let tls = ServerTlsSettings {
            client_auth: Some((auth, ca.clone())),
            ..ServerTlsSettings::default()
        };
        let shown = vec![files(&authority.certify("localhost"))];
        let proxy = with_tls(backend.addr, shown, tls)
            .client(|client| client.subject_header = Some("x-subject".parse().unwrap()))
            .start();
        let ask = |pair: Option<&Pair>| {
            let mut arguments = vec!["--cacert", ca.to_str().unwrap(), "-H", "X-Subject: CN=me"];
            if let Some(pair) = pair {
                let path = |path: &'_ Path| path.to_str().unwrap().to_owned().leak() as &str;
                arguments.extend(["--cert", path(&pair.certificate), "--key", path(&pair.key)]);
            }
            text(&curl(proxy.addr(), "localhost", &arguments))
        };
        let told = ask(Some(&client));
        assert!(told.contains("CN=client.example"), "{told}");
        assert!(!told.contains("CN=me"), "{told}");
        let told = ask(None);
        assert_eq!(
            told.contains("X-Forwarded-For"),
            without,
            "{auth:?}: {told}"
        );
        assert!(!told.to_lowercase().contains("x-subject"), "{told}");
        let told = ask(Some(&stranger));
        assert!(!told.contains("X-Forwarded-For"), "{told}");
    }
}

#[test]
fn a_certificate_that_has_changed_is_read_again_and_no_connection_ends() {
    let authority = Authority::new();
    let pair = authority.certify("shop.example");
    let backend = telling();
    let shown = vec![files(&pair)];
    let proxy = with_tls(backend.addr, shown, ServerTlsSettings::default())
        .client(|client| client.keep_alive.timeout = Duration::from_secs(60))
        .start();
    let serial = || {
        let said = openssl(proxy.addr(), &["-showcerts"]);
        let begin = said.find("-----BEGIN").expect(&said);
        said[begin..said.find("-----END").unwrap()].to_owned()
    };
    let before = serial();
    let mut kept = Kept::open(proxy.addr(), &authority.ca());
    kept.ask();
    let next = authority.certify("shop.example");
    assert_eq!(next.certificate, pair.certificate);
    wait_until(PATIENCE, "the new certificate", || serial() != before);
    kept.ask();
}

/// A connection that stays, with `openssl s_client`.
struct Kept(std::process::Child);

impl Kept {
    fn open(addr: SocketAddr, ca: &Path) -> Kept {
        let child = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-verify_quiet",
                "-connect",
                &addr.to_string(),
                "-CAfile",
            ])
            .arg(ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        Kept(child)
    }

    fn ask(&mut self) {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        self.0.stdin.as_mut().unwrap().write_all(request).unwrap();
        let mut said = Vec::new();
        let stdout = self.0.stdout.as_mut().unwrap();
        while !said.ends_with(b"\r\n\r\n") || !said.windows(4).any(|part| part == b"GET ") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_speaks_plain_http_is_told_and_who_says_nothing_is_let_go() {
    let authority = Authority::new();
    let backend = telling();
    let tls = ServerTlsSettings {
        handshake_timeout: Duration::from_millis(300),
        ..ServerTlsSettings::default()
    };
    let proxy = with_tls(backend.addr, vec![files(&authority.certify("a"))], tls).start();
    let mut plain = TcpStream::connect(proxy.addr()).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    plain.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400 Bad Request"), "{said}");
    assert!(said.contains("TLS is spoken here"), "{said}");
    let mut silent = TcpStream::connect(proxy.addr()).unwrap();
    let mut half = TcpStream::connect(proxy.addr()).unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
    for stream in [&mut silent, &mut half] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    }
    let counted = |what| proxy.server().control().front().handshakes[what as usize];
    assert_eq!(counted(Handshake::PlainHttp), 1);
    // The end is seen before it is counted.
    wait_until(PATIENCE, "both to be counted", || {
        counted(Handshake::Timeout) == 2
    });
    wait_until(PATIENCE, "all to be gone", || {
        proxy.server().control().clients() == 0
    });
}

#[test]
fn a_staple_is_sent_along() {
    let authority = Authority::new();
    let pair = authority.certify("a");
    let dir = tempfile::tempdir().unwrap();
    let staple = dir.path().join("staple");
    // "The request could not be read" (RFC 6960 §4.2.1): the least that is a response.
    fs::write(&staple, [0x30, 3, 0x0a, 1, 1]).unwrap();
    let source = CertificateSource::Files {
        certificate: pair.certificate,
        key: pair.key,
        staple: Some(staple),
    };
    let backend = telling();
    let proxy = with_tls(backend.addr, vec![source], ServerTlsSettings::default()).start();
    let said = openssl(proxy.addr(), &["-status"]);
    assert!(
        said.contains("OCSP Response Status: malformedrequest (0x1)"),
        "{said}"
    );
}

#[test]
fn a_stop_does_not_wait_for_a_handshake() {
    let authority = Authority::new();
    let backend = telling();
    let shown = vec![files(&authority.certify("a"))];
    let proxy = with_tls(backend.addr, shown, ServerTlsSettings::default())
        .settings(|settings| settings.shutdown_timeout = Duration::from_secs(3600))
        .start();
    let mut silent = TcpStream::connect(proxy.addr()).unwrap();
    wait_until(PATIENCE, "the client", || {
        proxy.server().control().clients() == 1
    });
    proxy.server().stop();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
}
