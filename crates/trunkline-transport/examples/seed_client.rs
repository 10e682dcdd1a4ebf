//! MsgTrans' "客户端使用" (the client), as the seed has it.
//!
//! Edits to the seed: the crate's name; `Result` names its error; `client` need not be `mut`; `events()` says by `?` that it
//! was taken before; an answer that is no text is shown, not a panic; the loop ends with the connection too
//! (`ConnectionClosed`); `disconnect()` cannot fail and has no `?`. The body is a function of the address that returns the
//! answer, so that the tests run it.
#![allow(clippy::print_stdout, reason = "it is an example")]

use trunkline_transport::{Packet, TcpClientConfig, TransportClientBuilder, TransportError, TransportEvent};

#[tokio::main]
async fn main() -> Result<(), TransportError> {
    run("127.0.0.1:8080").await.map(|_| ())
}

pub(crate) async fn run(address: &str) -> Result<Option<String>, TransportError> {
    // A client over TCP.
    let client = TransportClientBuilder::new().with_protocol(TcpClientConfig::new(address)).build().await?;

    // Connect.
    client.connect().await?;

    // Send: there is no need for a session id.
    let packet = Packet::text("Hello, Server!");
    client.send(packet).await?;

    // Receive.
    let mut answer = None;
    let mut events = client.events()?;
    while let Some(event) = events.next().await {
        match event {
            TransportEvent::MessageReceived { packet, .. } => {
                answer = packet.payload_as_string();
                println!("the answer: {answer:?}");
                break;
            }
            TransportEvent::ConnectionClosed { .. } => break,
            _ => {}
        }
    }

    client.disconnect().await;
    Ok(answer)
}
