//! Rooms in a process of their own. The gateway's configuration needs `upstreams.routes = { "room." = "rooms" }`.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use custom_service::{Rooms, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use trunkline_service::grpc::{GatewayAddress, RegistrationState};

/// Rooms in which users talk, behind gRPC.
#[derive(Parser)]
#[command(name = "custom-service", version)]
struct Options {
    /// The gateway's gRPC address
    #[arg(long, default_value = "127.0.0.1:8092")]
    gateway: String,
    /// Where to listen for the gateway; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The gateway's data directory, to read the upstream token from where it is not on this machine
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let token = options.data_dir.map(|folder| folder.join("keys").join("upstream.token"));
    let token = token.map(|path| {
        std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the upstream token {}", path.display()))
    });
    let gateway = GatewayAddress::new(&options.gateway, token.transpose()?.as_deref())?;
    let listener = TcpListener::bind(&options.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", options.listen))?;
    say(&format!("rooms: listens on {}", listener.local_addr()?));
    let stop = CancellationToken::new();
    let tell = |state: &RegistrationState| match state {
        RegistrationState::Registered => say(&format!("rooms: registered with {}", options.gateway)),
        RegistrationState::Refused(error) => say(&format!("rooms: refused: {error}")),
        RegistrationState::Away(_) => {
            say(&format!("rooms: {} does not answer; trying again", options.gateway))
        }
    };
    let serving = serve(Arc::new(Rooms::default()), listener, &gateway, tell, stop.clone());
    tokio::pin!(serving);
    // Ctrl-C from a person, SIGTERM from whatever runs services.
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        result = &mut serving => return result,
        result = tokio::signal::ctrl_c() => result?,
        _ = terminated.recv() => {}
    }
    stop.cancel();
    serving.await
}

fn say(line: &str) {
    // Without a reader there is nobody to tell.
    let _unread = writeln!(std::io::stdout(), "{line}");
}
