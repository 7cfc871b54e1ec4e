//! `warmline backend`: a backend that answers everything, for trying a proxy and for `warmline compare`.

use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Builder;

use super::stop::Stop;
use super::{body, fine_time, run};
use crate::compare::EmbeddedBackend;
use crate::compare::backend::Answers;

/// The arguments of `backend`.
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    /// Where to listen; port 0 becomes a free one. The address is printed
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// How long the body of an answer is
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = body)]
    pub body: u64,

    /// CPU that each answer takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = fine_time)]
    pub work: Duration,

    /// How long each answer then waits
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = fine_time)]
    pub delay: Duration,

    /// Print the number of connections and of requests for each line of input, and end with it
    #[arg(long)]
    pub asked: bool,
}

/// Answers until a signal comes, or until its input ends.
pub(super) fn backend(args: &BackendArgs) -> ExitCode {
    run::start_logging(tracing::level_filters::LevelFilter::WARN);
    run::raise_open_files();
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", args.listen);
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &BackendArgs) -> io::Result<()> {
    let answers = Answers {
        body_bytes: usize::try_from(args.body).expect("it is at most 64M"),
        work: args.work,
        delay: args.delay,
    };
    let backend = EmbeddedBackend::start_with("backend", &[args.listen], answers)?;
    println!("{}", backend.addresses()[0]);
    if args.asked {
        for line in io::stdin().lock().lines() {
            line?;
            let served = backend.served();
            let mut out = io::stdout().lock();
            writeln!(out, "{} {}", served[0].connections, served[0].requests)?;
            out.flush()?;
        }
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        Stop::listen()?.told().await;
        Ok(())
    })
}
