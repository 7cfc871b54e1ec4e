//! The command line.

use std::time::Duration;
use warmline::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // warmline LISTEN BACKEND on|off
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let mut up = backend::Settings::new("app", vec![backend::ServerSettings::new(&*args[2])]);
    up.keep_alive.enabled = args.get(3).map_or(true, |a| a == "on");
    up.keep_alive.max_requests = None;
    let s = server::Settings {
        workers: 1, shutdown_timeout: Duration::from_secs(5),
        client: client::Settings{ keep_alive: keepalive::KeepAlive{max_requests: None, timeout: Duration::from_secs(60), enabled: true}, ..Default::default()},
        listeners: vec![server::ListenerSettings{address: args[1].parse().unwrap()}],
        routes: vec![route::RouteSettings{host: None, path: "/".into(), upstream: "app".into()}],
        upstreams: vec![up],
    };
    let s = server::Server::start(&s).unwrap();
    eprintln!("{:?}", s.addresses());
    s.join();
}
