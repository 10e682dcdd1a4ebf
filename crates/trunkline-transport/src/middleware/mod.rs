//! Middleware: hooks that every connection of a server passes through, in the order in which they were registered, and
//! on close in reverse.
//!
//! A hook may let pass, refuse with a code, or replace the packet. Only the handshake's hook is async by itself; a
//! packet that cannot be judged at once is judged by a future ([`Verdict::Later`]), so that the others cost none.
//! Nothing here limits rates: [`crate::RateLimiterConfig`] does, before any hook sees a packet.

mod auth;
mod logging;
mod stack;

use std::{fmt, future::Future, net::SocketAddr, pin::Pin, time::Duration};

use http::{Extensions, HeaderMap, StatusCode};

pub use self::{
    auth::{AuthMiddleware, CredentialSource, Credentials},
    logging::LoggingMiddleware,
    stack::MiddlewareStack,
};
use crate::{CloseReason, ConnectionInfo, Packet, Session, codes};

/// A boxed future, as object-safe traits return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a server does with every connection and packet. Each hook does nothing unless it is written.
///
/// Hooks run in the connection's own task (`on_send` in the sender's) and must not block. A hook that panics costs its
/// connection and nothing else: who was sending to it is told [`crate::SendError::Closed`].
pub trait Middleware: Send + Sync + 'static {
    /// Somebody is at the door, and nothing has been spent on him: no TLS, no HTTP, no QUIC state. There is no address
    /// within a machine. Refused, a TCP or WebSocket connection is closed and a QUIC one refused.
    ///
    /// # Errors
    /// He is not let in.
    fn on_accept(&self, peer: Option<SocketAddr>) -> Result<(), Refusal> {
        let _ = peer;
        Ok(())
    }

    /// The handshake is done but for its last word, within the time of handshakes. Refused, a WebSocket or WebTransport
    /// request is answered by [`Refusal::http_status`], a QUIC connection closed with the code, and any other closed:
    /// its peer has not said yet which wire it reads.
    fn on_handshake<'a>(&'a self, handshake: &'a mut Handshake) -> BoxFuture<'a, Result<(), Refusal>> {
        let _ = handshake;
        Box::pin(std::future::ready(Ok(())))
    }

    /// A packet has come: one-way, request or response.
    fn on_packet(&self, session: &Session, packet: Packet) -> Verdict {
        let _ = session;
        Verdict::Pass(packet)
    }

    /// A packet is about to be sent to a peer, by whomever, before it is compressed. A broadcast asks once for each peer.
    ///
    /// # Errors
    /// It is not sent: [`crate::SendError::Refused`].
    fn on_send(&self, session: &Session, packet: Packet) -> Result<Packet, Refusal> {
        let _ = session;
        Ok(packet)
    }

    /// The connection is gone.
    fn on_close(&self, session: &Session, reason: &CloseReason) {
        let _ = (session, reason);
    }

    /// Connections have to prove themselves to this middleware, and have this long. Until one has
    /// ([`Session::set_authenticated`], [`Handshake::set_authenticated`]) neither handler nor events know of it, broadcasts pass it by,
    /// and its packets may have [`crate::Limits::before_auth`].
    fn authentication(&self) -> Option<Duration> {
        None
    }
}

/// A handshake that a hook may judge.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handshake {
    /// Who is on the other side, and how.
    pub info: ConnectionInfo,
    /// The headers of a WebSocket or WebTransport request; empty elsewhere.
    pub headers: HeaderMap,
    /// What the session will have: [`Session::extension`]. What must be given back belongs into the value's `Drop`,
    /// since a connection may be lost before it becomes a session.
    pub extensions: Extensions,
}

/// In the extensions of a handshake by which the peer has proved itself.
#[derive(Clone, Copy)]
pub(crate) struct Authenticated;

impl Handshake {
    pub(crate) fn new(info: ConnectionInfo, headers: HeaderMap) -> Self {
        Self { info, headers, extensions: Extensions::new() }
    }

    /// The peer has proved itself already.
    pub fn set_authenticated(&mut self) {
        self.extensions.insert(Authenticated);
    }
}

/// What becomes of a packet.
pub enum Verdict {
    /// It goes on, as it was or changed.
    Pass(Packet),
    /// It goes no further, and this is sent back.
    Answer(Packet),
    /// It goes no further.
    Drop,
    /// It goes no further and is counted as refused; a v2 peer's request is told the code.
    Refuse(Refusal),
    /// As [`Verdict::Refuse`], and the connection is closed with the code.
    Close(Refusal),
    /// The future says. The connection is not read until then; its time is the middleware's own to bound.
    Later(BoxFuture<'static, Self>),
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(packet) => f.debug_tuple("Pass").field(packet).finish(),
            Self::Answer(packet) => f.debug_tuple("Answer").field(packet).finish(),
            Self::Drop => f.write_str("Drop"),
            Self::Refuse(refusal) => f.debug_tuple("Refuse").field(refusal).finish(),
            Self::Close(refusal) => f.debug_tuple("Close").field(refusal).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// A no, with a code that the peer is told where its protocol has a word for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code}): {reason}")]
pub struct Refusal {
    /// See [`crate::codes`]; one's own are 4000 to 4999.
    pub code: u16,
    /// Why, in words for the peer.
    pub reason: String,
}

impl Refusal {
    /// Refuses with a code.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Refuses with [`codes::POLICY`].
    pub fn policy(reason: impl Into<String>) -> Self {
        Self::new(codes::POLICY, reason)
    }

    /// How HTTP says it: 503 for [`codes::OVERLOADED`] and [`codes::GOING_AWAY`], 500 for [`codes::INTERNAL`], else 403. A
    /// client comes back after the first two, and stays away after the last, as it does after the code on other protocols.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        match self.code {
            codes::OVERLOADED | codes::GOING_AWAY => StatusCode::SERVICE_UNAVAILABLE,
            codes::INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::FORBIDDEN,
        }
    }
}
