//! Connecting over WebSocket.

use super::{ConnectError, ConnectOptions, tcp};
use crate::{Connection, Endpoint, Framing, Role, websocket::client_handshake};

/// Messages, after an upgrade of a stream that is inside TLS if the protocol says so.
pub(super) async fn connect(
    endpoint: &Endpoint,
    options: &ConnectOptions,
) -> Result<Connection, ConnectError> {
    let opened = tcp::open(endpoint).await?;
    #[cfg(feature = "tls")]
    let opened = super::tls::wrap(opened, endpoint, options, &["http/1.1"]).await?;
    let (mut io, mut info) = opened;
    let (authority, path) = (endpoint.authority(), &endpoint.path_and_query);
    let agreed = client_handshake(&mut io, &authority, path, &options.headers).await?;
    info.path = Some(path.clone());
    info.subprotocol = agreed.subprotocol;
    let framing = Framing::WebSocket { role: Role::Client };
    Ok(io.into_connection(info, framing, options.max_frame, &agreed.read_ahead))
}
