//! `warmline healthcheck`: whether the proxy of a configuration file is well, for who starts and watches it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{DEFAULT_CONFIG, admin_client, check};
use crate::config;
use crate::server::Settings;

/// How long a listener may take to accept.
const LONGEST: Duration = Duration::from_secs(2);

/// The arguments of `healthcheck`.
#[derive(Clone, Debug, Args)]
pub struct HealthcheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Ask whether it is to get requests: not while it stops
    #[arg(long)]
    pub ready: bool,
}

/// Asks. Exit code 0: it is well; 1: it is not, or does not answer.
pub(super) fn healthcheck(args: &HealthcheckArgs) -> ExitCode {
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            check::print_report(&report);
            return ExitCode::FAILURE;
        }
    };
    match ask(&loaded.settings, args.ready) {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The admin listener says; without one, whether connections are accepted has to be enough.
fn ask(settings: &Settings, ready: bool) -> Result<(), String> {
    if let Some(admin) = &settings.admin {
        let path = if ready { "/readyz" } else { "/healthz" };
        let at = admin_client::reached_at(&admin.address);
        return admin_client::get(&at, path)
            .map(|_| ())
            .map_err(|error| error.to_string());
    }
    let listener = settings.listeners.first().ok_or("there is no listener")?;
    let address = near(listener.address);
    let connected = TcpStream::connect_timeout(&address, LONGEST);
    connected
        .map(|_| ())
        .map_err(|error: io::Error| format!("nobody accepts at {address}: {error}"))
}

/// Where to reach what listens on every address.
fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
