//! MsgTrans' "服务端使用" (the server), as the seed has it: events, echoed by `send_to`. Talk to it with `seed_client`.
//!
//! Edits to the seed: the crate's name; `Result` names its error; `events()` says by `?` that it was taken before; what is no
//! text is shown as far as it is (`payload_as_text_lossy`), and a failed echo is told, instead of a panic each; the task that
//! handles events is kept. The body is two functions, of the addresses and of the server, so that the tests run them.
#![allow(clippy::print_stdout, reason = "it is an example")]

use tokio::task::JoinSet;
use trunkline_transport::{
    Packet, TcpServerConfig, TransportError, TransportEvent, TransportServer, TransportServerBuilder,
    WebSocketServerConfig,
};

#[tokio::main]
async fn main() -> Result<(), TransportError> {
    run(build("0.0.0.0:8080", "0.0.0.0:8081").await?).await
}

pub(crate) async fn build(tcp: &str, websocket: &str) -> Result<TransportServer, TransportError> {
    // A server of several protocols.
    let server = TransportServerBuilder::new()
        .with_protocol(TcpServerConfig::new(tcp))
        .with_protocol(WebSocketServerConfig::new(websocket))
        .build()
        .await?;
    Ok(server)
}

pub(crate) async fn run(server: TransportServer) -> Result<(), TransportError> {
    // Handle events.
    let mut events = server.events()?;
    let event_server = server.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                TransportEvent::ConnectionEstablished { session_id, .. } => {
                    println!("a new connection: {session_id}");
                }
                TransportEvent::MessageReceived { session_id, packet } => {
                    println!("received: {}", packet.payload_as_text_lossy());
                    // The echo needs the session id.
                    let echo = Packet::echo(packet.message_id, packet.payload);
                    if let Err(error) = event_server.send_to(session_id, echo).await {
                        println!("no echo: {error}");
                    }
                }
                TransportEvent::ConnectionClosed { session_id, .. } => {
                    println!("the connection is closed: {session_id}");
                }
                _ => {}
            }
        }
    });

    // Serve.
    server.serve().await?;
    Ok(())
}
