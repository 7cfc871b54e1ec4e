//! What a new connection with TLS costs the proxy's side in CPU: without TLS, with a handshake in full,
//! and with one that resumes a session.
//!
//! The server is on a thread of its own; what is counted is the CPU time of the thread that connects.
//! `cargo bench --bench tls`; `docs/pool.md` has the figures.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower::Service;
use warmline::net::{BackendAddr, Call, Dial, Offer, SocketOptions, TcpConnect, Tls, TlsSettings};

fn runtime() -> LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime can be made")
}

/// A server that answers each byte with one, with TLS or without.
fn serve(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let (told, address) = channel();
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            told.send(listener.local_addr().expect("it is bound"))
                .expect("somebody waits");
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let mut byte = [0];
                match &tls {
                    None => {
                        let _ = stream.read(&mut byte).await;
                        let _ = stream.write_all(&byte).await;
                    }
                    Some(config) => {
                        let acceptor = TlsAcceptor::from(Arc::clone(config));
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            let _ = stream.read(&mut byte).await;
                            let _ = stream.write_all(&byte).await;
                            let _ = stream.flush().await;
                        }
                    }
                }
            }
        });
    });
    address.recv().expect("the server is there")
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("it is not negative"),
        u32::try_from(time.tv_nsec).expect("it is below a second"),
    )
}

/// One connection: opened, a byte each way, closed. True if a session was resumed.
async fn connect(dial: &mut Dial, address: SocketAddr) -> bool {
    let call = Call {
        backend: BackendAddr::Ip(address),
        ends: None,
    };
    let mut opened = dial.call(call).await.expect("the server is there");
    opened.wire.write_all(b"x").await.expect("it reads");
    opened.wire.flush().await.expect("it reads");
    let mut byte = [0];
    opened.wire.read_exact(&mut byte).await.expect("it answers");
    opened.tls.is_some_and(|shaken| shaken.resumed)
}

/// The median CPU time of a connection, each dialled by what `dial` gives.
fn median(
    runtime: &LocalRuntime,
    rounds: usize,
    address: SocketAddr,
    resumes: bool,
    mut dial: impl FnMut() -> Dial,
) -> Duration {
    // What is resumed has to be there: the server keeps few sessions.
    runtime.block_on(connect(&mut dial(), address));
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            let mut dial = dial();
            let before = cpu();
            let is_resumed = runtime.block_on(connect(&mut dial, address));
            assert_eq!(is_resumed, resumes);
            cpu().saturating_sub(before)
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    // Run as a test it only has to run.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let rounds = if is_bench { 2000 } else { 3 };
    let dir = tempfile::tempdir().expect("a folder");
    let ca = dir.path().join("ca.pem");
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    fs::write(&ca, pair.cert.pem()).expect("it can be written");
    let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.cert.pem().as_bytes()).expect("it is PEM")],
            key.expect("it is PEM"),
        )
        .expect("they belong together");
    let (plain, secret) = (serve(None), serve(Some(Arc::new(config))));
    let settings = TlsSettings {
        ca: Some(ca),
        ..TlsSettings::default()
    };
    let offer = Offer {
        http2: false,
        http1: true,
    };
    let tls = || Tls::load(&settings, offer).expect("the file is there");
    let dial = |tls: Option<Tls>| Dial {
        tcp: TcpConnect::new(&[], SocketOptions::default()),
        proxy_protocol: None,
        tls: tls.map(|tls| (tls, "127.0.0.1".into())),
    };
    let runtime = runtime();
    let kept = tls();
    println!("CPU of the connecting side, a connection, median of {rounds}:");
    for (what, address, resumes, mut with) in [
        (
            "no TLS",
            plain,
            false,
            Box::new(|| dial(None)) as Box<dyn FnMut() -> Dial>,
        ),
        (
            "handshake in full",
            secret,
            false,
            Box::new(|| dial(Some(tls()))),
        ),
        (
            "resumed",
            secret,
            true,
            Box::new(|| dial(Some(kept.clone()))),
        ),
    ] {
        let time = median(&runtime, rounds, address, resumes, &mut with);
        println!("  {what:18} {:8.1} µs", time.as_secs_f64() * 1e6);
    }
}
