//! What can go wrong at the packet level, one enum per family of operations, and [`TransportError`] for all of them.

use std::{fmt, io, time::Duration};

use crate::{ConnectError, WireError};

/// The number of a connection of the packet level: MsgTrans' name for it. Unique within its server or client process
/// part, and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(crate) u64);

impl SessionId {
    /// The number itself, for logs.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a connection ended. It is told once, after everything that was received before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by us ({code}): {reason}")]
    Closed {
        /// The code that was given.
        code: u16,
        /// The reason that was given.
        reason: String,
    },
    /// The peer closed it and said why.
    #[error("closed by the peer ({code}): {reason}")]
    Peer {
        /// The peer's code.
        code: u16,
        /// The peer's reason.
        reason: String,
    },
    /// The peer ended it without a word.
    #[error("ended by the peer")]
    Ended,
    /// The link failed.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer broke the wire.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer's queue was full, by the policy [`crate::SlowConsumer`].
    #[error("the peer did not take what was sent to it")]
    Slow,
    /// The peer sent more than was taken, by the policy [`crate::Overflow::Disconnect`].
    #[error("the peer sent more than was taken")]
    Overflow,
    /// The peer sent more than its rate, by the policy [`crate::Excess::Close`].
    #[error("the peer sent faster than it may")]
    TooFast,
    /// Nothing was heard from the peer for two and a half heartbeats, or no first packet in time.
    #[error("the peer is silent")]
    Silent,
    /// The handler returned an error.
    #[error("the handler failed: {0}")]
    HandlerFailed(String),
    /// The handler panicked, or a middleware.
    #[error("the handler panicked")]
    HandlerPanicked,
    /// What was queued could not be sent in time after closing.
    #[error("cut off: the peer did not take the rest in time")]
    CutOff,
}

impl CloseReason {
    /// Whether nothing was lost on the way: both sides ended it in order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Ended => true,
            Self::Peer { code, .. } => matches!(*code, crate::codes::NORMAL | crate::codes::GOING_AWAY),
            _ => false,
        }
    }
}

/// Why a packet was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closed, or closing.
    #[error("not sent: {0}")]
    Closed(CloseReason),
    /// The queue is full. Only who cannot wait is told so, and hears of room by [`crate::TransportEvent::Writable`].
    #[error("not sent: {queued} bytes are queued")]
    Full {
        /// What is queued now.
        queued: usize,
    },
    /// The payload is over the limit.
    #[error("not sent: {size} bytes are over the limit of {limit}")]
    TooLarge {
        /// The payload's size.
        size: usize,
        /// [`crate::Limits::message`].
        limit: usize,
    },
    /// The packet cannot be said on the wire.
    #[error("not sent: {0}")]
    Wire(#[from] WireError),
    /// There is no such connection, any more or at all.
    #[error("not sent: there is no connection {0}")]
    UnknownSession(SessionId),
    /// A middleware refused it.
    #[error("not sent: {0}")]
    Refused(#[from] crate::Refusal),
    /// The client is not connected.
    #[error("not sent: not connected")]
    NotConnected,
    /// This needs version 2 of the wire, and the peer speaks version 1.
    #[error("not sent: the peer speaks version 1 of the wire, which has no {0}")]
    NeedsV2(&'static str),
}

/// Why a request has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No response in time.
    #[error("no response within {0:?}")]
    TimedOut(Duration),
    /// The connection ended first. Whether the peer has handled the request is not known.
    #[error("disconnected before the response: {0}")]
    Disconnected(CloseReason),
    /// The peer refused it.
    #[error("refused by the peer ({code}): {reason}")]
    Refused {
        /// The peer's code.
        code: u16,
        /// The peer's reason.
        reason: String,
    },
    /// The peer takes no new requests on this connection.
    #[error("the peer is going away")]
    GoingAway,
    /// It was not sent.
    #[error(transparent)]
    NotSent(#[from] SendError),
}

/// Why nothing more is received, or something is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// So many packets were dropped here by the policy [`crate::Overflow`]. Receiving goes on behind them.
    #[error("{0} received packets were dropped")]
    Lagged(u64),
    /// The connection did not end cleanly.
    #[error(transparent)]
    Closed(#[from] CloseReason),
}

/// Why a server or a client cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No protocol was given.
    #[error("no protocol: call with_protocol at least once")]
    NoProtocol,
    /// The address is no `host:port`, or its name is unknown.
    #[error("cannot use the address {address:?}: {error}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong.
        error: io::Error,
    },
    /// The socket cannot be bound.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// The protocol is always encrypted, and no certificate was given. For trying things out there is
    /// `Tls::self_signed_dev()`.
    #[error("{0} needs a certificate: give it `.tls(..)`; to try things out, `Tls::self_signed_dev()`")]
    NoCertificate(&'static str),
    /// The TLS value cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::TlsError),
    /// This compression was not compiled in.
    #[error("{0:?} is not compiled in")]
    NotCompiledIn(crate::Compression),
    /// Compression with a dictionary was asked for, and none was given.
    #[error("compression with a dictionary needs one: give it `.dictionary(..)`")]
    NoDictionary,
    /// The URL names no endpoint, or one of a protocol that is not compiled in.
    #[error("{0}")]
    Endpoint(String),
}

/// Why there is no event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// It was taken before: there is one.
    #[error("the events were taken already")]
    Taken,
    /// A handler serves the connections.
    #[error("a handler serves the connections: there are no events")]
    Handler,
}

/// Why serving ended or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// `serve` or `serve_with` was called before: there is one.
    #[error("the server serves already")]
    Serving,
    /// The events were taken, which excludes a handler.
    #[error("the events were taken: use serve()")]
    EventsTaken,
}

/// Any error of the packet level: what a handler may return.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// See [`SendError`].
    #[error(transparent)]
    Send(#[from] SendError),
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
    /// See [`RecvError`].
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// See [`CloseReason`].
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// See [`ConnectError`].
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// See [`BuildError`].
    #[error(transparent)]
    Build(#[from] BuildError),
    /// See [`EventsError`].
    #[error(transparent)]
    Events(#[from] EventsError),
    /// See [`ServeError`].
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The user's own.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The user's own.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl TransportError {
    /// Wraps an error of the user's own, or a text.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }
}
