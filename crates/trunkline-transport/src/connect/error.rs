//! Why a client has no connection, and whether trying again may help.

use std::{io, time::Duration};

use crate::Protocol;
#[cfg(feature = "websocket")]
use crate::websocket::ClientHandshakeError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not within the time.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    /// The host name is unknown.
    #[error("the host {host:?} cannot be found: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// The link failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's certificate is none of those that `ConnectOptions::tls` trusts.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The protocol needs `ConnectOptions::tls`, or the host is no name for a certificate.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server does not speak WebSocket here.
    #[cfg(feature = "websocket")]
    #[error("WebSocket: {0}")]
    WebSocket(#[source] ClientHandshakeError),
    /// The server takes nobody now: a QUIC server that is full, or refuses this address.
    #[error("the server refuses connections")]
    Refused,
    /// The QUIC handshake failed.
    #[error("QUIC: {0}")]
    Quic(String),
    /// The WebTransport handshake failed.
    #[error("WebTransport: {0}")]
    WebTransport(String),
    /// The address is no `host:port`.
    #[error("{0}")]
    Address(String),
    /// The protocol's feature is off.
    #[error("{0} is not compiled in")]
    NotCompiledIn(Protocol),
    /// `memory` and custom protocols have no address.
    #[error("there is no address to connect to")]
    Memory,
}

impl ConnectError {
    /// Whether a further attempt may succeed where nothing is changed: the server was not there, was busy, or the way to
    /// it was broken. A certificate that is not trusted, an address that is none, a path that is not served stay so.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Resolve { .. } | Self::Refused => true,
            Self::Io(error) => !matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ),
            #[cfg(feature = "websocket")]
            Self::WebSocket(ClientHandshakeError::Status { status, .. }) => {
                matches!(status, 408 | 425 | 429 | 500 | 502..=504)
            }
            #[cfg(feature = "websocket")]
            Self::WebSocket(_) => false,
            Self::Untrusted(_)
            | Self::Tls(_)
            | Self::Quic(_)
            | Self::WebTransport(_)
            | Self::Address(_)
            | Self::NotCompiledIn(_)
            | Self::Memory => false,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn untrusted(why: &str) -> Self {
        let why = why.trim_start_matches("invalid peer certificate: ");
        Self::Untrusted(match why {
            "ApplicationVerificationFailure" => "it is not one of those that are pinned".to_owned(),
            "UnknownIssuer" => "no authority that is trusted here has issued it".to_owned(),
            why => why.to_owned(),
        })
    }
}

#[cfg(feature = "websocket")]
impl From<ClientHandshakeError> for ConnectError {
    fn from(error: ClientHandshakeError) -> Self {
        match error {
            ClientHandshakeError::Io(error) => Self::Io(error),
            error => Self::WebSocket(error),
        }
    }
}

#[cfg(feature = "tls")]
impl From<crate::TlsError> for ConnectError {
    fn from(error: crate::TlsError) -> Self {
        Self::Tls(error.to_string())
    }
}
