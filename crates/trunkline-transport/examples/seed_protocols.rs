//! MsgTrans' "多协议支持" (several protocols at once), and its builder's example: the same business code on each.
//!
//! Edits to the seed: the crate's name; QUIC needs a certificate, here one for trying things out; `AuthMiddleware::new`
//! takes the check; the business code is one async function per connection. The builder is a function of the addresses and the
//! certificate, so that the tests run it.
#![allow(clippy::print_stdout, reason = "it is an example")]

use trunkline_transport::{
    AuthMiddleware, Credentials, LoggingMiddleware, QuicServerConfig, RateLimiterConfig, Refusal, Session,
    TcpServerConfig, Tls, TransportError, TransportServer, TransportServerBuilder, WebSocketServerConfig,
};

#[tokio::main]
async fn main() -> Result<(), TransportError> {
    let tls = Tls::self_signed_dev().map_err(TransportError::other)?;
    let server = build(["0.0.0.0:8080", "0.0.0.0:8081", "0.0.0.0:8082"], tls).await?;
    println!("say `secret` first");
    server.serve_with(chat).await?;
    Ok(())
}

pub(crate) async fn build(
    [tcp, websocket, quic]: [&str; 3],
    tls: Tls,
) -> Result<TransportServer, TransportError> {
    let check = |credentials: Credentials| async move {
        if credentials.token == "secret" { Ok(()) } else { Err(Refusal::policy("who are you?")) }
    };
    let server = TransportServerBuilder::new()
        .with_protocol(TcpServerConfig::new(tcp))
        .with_protocol(WebSocketServerConfig::new(websocket))
        .with_protocol(QuicServerConfig::new(quic).tls(tls))
        .max_connections(10_000)
        .with_middleware(LoggingMiddleware::new())
        .with_middleware(AuthMiddleware::new(check))
        .rate_limiter(RateLimiterConfig::new(1000, 100))
        .build()
        .await?;
    Ok(server)
}

/// The business code: it knows nothing of protocols.
pub(crate) async fn chat(mut session: Session) -> Result<(), TransportError> {
    while let Some(packet) = session.recv().await? {
        let text = format!("you said: {}", packet.payload_as_text_lossy());
        session.send(packet.reply(text)).await?;
    }
    Ok(())
}
