//! `warmline healthcheck`: whether the proxy of a configuration file is well, for who starts and watches it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{DEFAULT_CONFIG, admin_client, check};
use crate::config;
use crate::server::Settings;

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
    let address = admin_client::near(listener.address);
    admin_client::accepts(address).map_err(|error| format!("nobody accepts at {address}: {error}"))
}
