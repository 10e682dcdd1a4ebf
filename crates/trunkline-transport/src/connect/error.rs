//! Why a client has no connection, and whether trying again may help.
//!
//! What the libraries below say is translated here and nowhere else, so that one protocol is not given up where another one
//! would be tried again. It decides nothing about pauses and attempts: the client's retry strategy does.

use std::{io, time::Duration};

#[cfg(feature = "websocket")]
use crate::websocket::ClientHandshakeError;
use crate::{Protocol, codes};

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
    /// The server has closed the connection while it was being made, and says why: over QUIC and WebTransport.
    #[error("closed by the server ({code}): {reason}")]
    Closed {
        /// The server's code: one of [`crate::codes`], HTTP/3's own, or its user's.
        code: u64,
        /// The server's reason.
        reason: String,
    },
    /// The QUIC handshake failed.
    #[error("QUIC: {0}")]
    Quic(String),
    /// The WebTransport handshake failed.
    #[error("WebTransport: {0}")]
    WebTransport(String),
    /// The server's answer to a WebTransport request is this HTTP status.
    #[error("WebTransport: the server answered {0}")]
    WebTransportStatus(u16),
    /// The address is no `host:port`.
    #[error("{0}")]
    Address(String),
    /// The events were taken, which excludes a handler ([`crate::TransportClient::connect_with`]).
    #[error("the events were taken: use connect()")]
    EventsTaken,
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
            Self::Closed { code, .. } => {
                HTTP3_PASSING.contains(code) || u16::try_from(*code).is_ok_and(codes::may_pass)
            }
            #[cfg(feature = "websocket")]
            Self::WebSocket(ClientHandshakeError::Status { status, .. }) => status_may_pass(*status),
            #[cfg(feature = "websocket")]
            Self::WebSocket(_) => false,
            Self::WebTransportStatus(status) => status_may_pass(*status),
            Self::Untrusted(_)
            | Self::Tls(_)
            | Self::Quic(_)
            | Self::WebTransport(_)
            | Self::Address(_)
            | Self::EventsTaken
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

/// HTTP/3's codes for what passes (RFC 9114 section 8.1): no error, internal error, excessive load, request rejected.
const HTTP3_PASSING: [u64; 4] = [0x100, 0x102, 0x107, 0x10B];

/// Whether who is answered with this HTTP status may come again: time-outs, too early, too many, and what the server, or one
/// before it, cannot do now.
fn status_may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504)
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

/// A handshake that failed, or a connection that was lost before it was handed over.
#[cfg(feature = "quic")]
impl From<quinn::ConnectionError> for ConnectError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as Lost;
        use quinn_proto::TransportErrorCode as Code;
        /// The alerts of TLS about certificates (RFC 8446 section 6.2), as QUIC has them (RFC 9001 section 4.8).
        const CERTIFICATE_ALERTS: [u64; 7] = [0x12A, 0x12B, 0x12C, 0x12D, 0x12E, 0x130, 0x131];
        /// A server that goes away, or whose own code may not be told before the handshake is complete.
        const PASSING: [Code; 3] = [Code::NO_ERROR, Code::INTERNAL_ERROR, Code::APPLICATION_ERROR];
        let kind = match &error {
            // Ours: what the peer says is another kind.
            Lost::TransportError(error) if CERTIFICATE_ALERTS.contains(&u64::from(error.code)) => {
                return Self::untrusted(&error.reason);
            }
            Lost::ConnectionClosed(close) if close.error_code == Code::CONNECTION_REFUSED => {
                return Self::Refused;
            }
            Lost::ConnectionClosed(close) if PASSING.contains(&close.error_code) => {
                io::ErrorKind::ConnectionAborted
            }
            Lost::ApplicationClosed(close) => match close.error_code.into_inner() {
                // What QUIC says when an end is simply dropped, as by a process that ends.
                0 => io::ErrorKind::ConnectionReset,
                code => {
                    let reason = String::from_utf8_lossy(&close.reason).into_owned();
                    return Self::Closed { code, reason };
                }
            },
            Lost::Reset => io::ErrorKind::ConnectionReset,
            Lost::TimedOut => io::ErrorKind::TimedOut,
            Lost::LocallyClosed => io::ErrorKind::ConnectionAborted,
            _ => return Self::Quic(error.to_string()),
        };
        Self::Io(io::Error::new(kind, error))
    }
}

/// A session that was lost before it was handed over.
#[cfg(feature = "webtransport")]
impl From<web_transport_quinn::SessionError> for ConnectError {
    fn from(error: web_transport_quinn::SessionError) -> Self {
        use web_transport_quinn::{SessionError, WebTransportError};
        match error {
            SessionError::ConnectionError(error) => error.into(),
            SessionError::WebTransportError(WebTransportError::Closed(0, _)) => {
                Self::Io(io::Error::new(io::ErrorKind::ConnectionReset, error))
            }
            SessionError::WebTransportError(WebTransportError::Closed(code, reason)) => {
                Self::Closed { code: code.into(), reason }
            }
            error => Self::WebTransport(error.to_string()),
        }
    }
}

/// A WebTransport handshake that failed on a connection that is still there.
#[cfg(feature = "webtransport")]
impl From<web_transport_quinn::ClientError> for ConnectError {
    fn from(error: web_transport_quinn::ClientError) -> Self {
        use web_transport_quinn::{
            ClientError, ConnectError as Http,
            proto::ConnectError::{ErrorStatus, Io, UnexpectedEnd, WrongStatus},
        };
        match error {
            ClientError::HttpError(
                Http::ErrorStatus(status) | Http::ProtoError(ErrorStatus(status) | WrongStatus(Some(status))),
            ) => Self::WebTransportStatus(status.as_u16()),
            ClientError::Connection(error) | ClientError::HttpError(Http::ConnectionError(error)) => {
                error.into()
            }
            // The request's stream has ended without an answer.
            ClientError::UnexpectedEnd
            | ClientError::ReadError(_)
            | ClientError::WriteError(_)
            | ClientError::HttpError(
                Http::UnexpectedEnd
                | Http::ReadError(_)
                | Http::WriteError(_)
                | Http::ProtoError(UnexpectedEnd | Io(_)),
            ) => Self::Io(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
            error => Self::WebTransport(error.to_string()),
        }
    }
}
