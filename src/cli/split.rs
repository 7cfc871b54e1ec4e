//! `warmline split`: sends another share of an upstream's requests over short connections, in a running proxy.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{DEFAULT_CONFIG, admin_client, check};
use crate::config;
use crate::server::AdminAddress;
use crate::split::{NoShare, Share};

/// The arguments of `split`.
#[derive(Clone, Debug, Args)]
pub struct SplitArgs {
    /// The upstream, as the file calls it
    #[arg(value_name = "UPSTREAM")]
    pub upstream: String,

    /// The share of its requests, such as 5% or 0.05; 0 ends it
    #[arg(value_name = "SHARE", allow_hyphen_values = true, value_parser = Share::read as fn(&str) -> Result<Share, NoShare>)]
    pub share: Share,

    /// The configuration file, for its admin table
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Where the admin listener is, in place of what the file says
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH", value_parser = admin_client::address, conflicts_with = "config")]
    pub admin: Option<AdminAddress>,
}

/// Sets the share. Exit code 1: it was not set.
pub(super) fn split(args: &SplitArgs) -> ExitCode {
    let at = match &args.admin {
        Some(at) => at.clone(),
        None => match config::load(&args.config) {
            Ok(loaded) => match loaded.settings.admin {
                Some(admin) => admin_client::reached_at(&admin.address),
                None => {
                    return failed(
                        "the file has no [admin] table: without it a running proxy \
                                   takes another share by a reload only",
                    );
                }
            },
            Err(report) => {
                check::print_report(&report);
                return ExitCode::FAILURE;
            }
        },
    };
    match set(&at, &args.upstream, args.share) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => failed(&why),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn set(at: &AdminAddress, upstream: &str, share: Share) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if upstream.is_empty() || !upstream.chars().all(is_name) {
        return Err(format!("an upstream cannot be called `{upstream}`"));
    }
    let path = format!("/upstreams/{upstream}/short_share");
    let answered = admin_client::post(at, &path, share.to_string());
    let (status, text) = answered.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(text.trim_end().to_owned());
    }
    Ok(format!(
        "{share} of the requests to {upstream} go over short connections from now on"
    ))
}
