//! WebSocket (RFC 6455) on a raw stream: upgrade, listener, client handshake.
//!
//! Its frames are a framing (`websocket_framing`): what happens before the first of them is here. It never answers by
//! itself (pings and closes surface to the owner of the write side) and speaks no extension.

mod client;
mod handshake;
mod listener;
#[cfg(feature = "tls")]
mod redirect;
mod upgrade;

pub(crate) use self::client::handshake as client_handshake;
#[cfg(feature = "tls")]
pub use self::redirect::redirect_to_https;
pub use self::{
    client::ClientHandshakeError,
    handshake::{Accept, UpgradeError, accept_request},
    listener::WebSocketListener,
    upgrade::{Upgrade, WebSocketOptions, upgrade},
};
