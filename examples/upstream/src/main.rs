//! The process: reads flags and variables, serves until it is told to stop.

use std::process::ExitCode;

use clap::Parser;
use tokio_util::sync::CancellationToken;
use upstream_example::{Options, Settings, check_health, run};

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("upstream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> anyhow::Result<()> {
    let health_check = options.health_check;
    let settings = Settings::resolve(options, |name| std::env::var(name).ok())?;
    if health_check {
        return check_health(settings.listen.port()).await;
    }
    let stop = CancellationToken::new();
    let running = run(settings, std::io::stdout(), stop.clone());
    tokio::pin!(running);
    tokio::select! {
        result = &mut running => return result,
        result = told_to_stop() => result?,
    }
    stop.cancel();
    running.await
}

/// Ctrl-C, or what a supervisor sends.
async fn told_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}
