//! The listener for byte streams: raw framing and the HTTP port alike.
//!
//! It neither frames nor speaks HTTP. TLS handshakes are tasks of their own (`tls`).

#[cfg(feature = "tls")]
mod tls;

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, SockRef, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "tls")]
pub use self::tls::TlsPolicy;
use crate::{
    MiddlewareStack, ServerStream,
    accept::sleep_until,
    defaults::{BACKLOG, COMPLAINT_INTERVAL, HANDSHAKE_TIMEOUT, MAX_HANDSHAKES},
    handshakes::{Handshakes, pause_after},
    tcp_io::Io,
};

/// Where a listener listens.
#[derive(Debug)]
pub enum Socket<S> {
    /// An address to bind; port 0 takes any free port.
    Address(SocketAddr),
    /// A socket that is bound (and, for TCP, listening) already.
    Bound(S),
}

/// Options of a [`StreamListener`].
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Whether to speak TLS.
    #[cfg(feature = "tls")]
    pub policy: TlsPolicy,
    /// How to speak TLS; needed unless the policy is [`TlsPolicy::Off`].
    #[cfg(feature = "tls")]
    pub tls: Option<crate::ServerTls>,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// Handshakes (and peers that have not said their first byte) at once.
    pub max_handshakes: usize,
    /// Connections that the kernel keeps while nobody accepts them, at most its own cap; of a socket that is bound already
    /// ([`Socket::Bound`]) it stays what it is.
    pub backlog: u32,
    /// Its `on_accept` judges newcomers before anything is spent on them; the other hooks belong to whoever makes
    /// connections of the streams.
    pub middleware: MiddlewareStack,
    /// Ends [`StreamListener::accept`].
    pub cancel: CancellationToken,
}

impl Default for StreamOptions {
    /// Plain, with the limits of [`crate::defaults`].
    fn default() -> Self {
        Self {
            #[cfg(feature = "tls")]
            policy: TlsPolicy::Off,
            #[cfg(feature = "tls")]
            tls: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
            backlog: BACKLOG,
            middleware: MiddlewareStack::default(),
            cancel: CancellationToken::new(),
        }
    }
}

/// What a listener hands over.
#[derive(Debug)]
pub enum Accepted {
    /// A byte stream, by policy plain or TLS.
    Stream(ServerStream),
    /// TLS is required and this peer speaks plain. Tell it so (4406, or a redirect to https) and close.
    #[cfg(feature = "tls")]
    PlainRefused(ServerStream),
}

/// Accepts byte streams. Dropping it stops listening and drops the handshakes under way.
pub struct StreamListener {
    listener: TcpListener,
    options: StreamOptions,
    handshakes: Handshakes<Accepted>,
    paused_until: Option<Instant>,
    complained_at: Option<Instant>,
}

impl StreamListener {
    /// Binds and listens. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be bound, or the policy needs a TLS configuration and there is none.
    pub fn bind(socket: Socket<std::net::TcpListener>, options: StreamOptions) -> io::Result<Self> {
        #[cfg(feature = "tls")]
        tls::judge(&options)?;
        let socket = match socket {
            Socket::Bound(socket) => socket,
            Socket::Address(address) => listen(address, options.backlog)?,
        };
        socket.set_nonblocking(true)?;
        let handshakes = Handshakes::new(options.max_handshakes);
        Ok(Self {
            listener: TcpListener::from_std(socket)?,
            options,
            handshakes,
            paused_until: None,
            complained_at: None,
        })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// The socket is unusable.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next peer that is ready; `None` once cancelled. Cancel-safe.
    ///
    /// Errors of the socket do not end it: one peer's failure is skipped, and when descriptors or memory have
    /// run out it pauses for a moment and tries again.
    pub async fn accept(&mut self) -> Option<Accepted> {
        loop {
            self.paused_until = self.paused_until.filter(|until| *until > Instant::now());
            let wait_until = self.handshakes.room_at().max(self.paused_until);
            tokio::select! {
                biased;
                () = self.options.cancel.cancelled() => return None,
                // Ended handshakes first: they make room for new ones.
                ended = self.handshakes.ended() => {
                    if ended.is_some() {
                        return ended;
                    }
                }
                () = sleep_until(wait_until), if wait_until.is_some() => {}
                accepted = self.listener.accept(), if wait_until.is_none() => match accepted {
                    Ok((stream, peer)) => {
                        if let Some(ready) = self.admit(stream, peer) {
                            return Some(ready);
                        }
                    }
                    Err(error) => {
                        self.paused_until = pause_after(&error);
                        self.complain(&error);
                    }
                },
            }
        }
    }

    /// Says that accepting fails, but not at each of the many attempts while it does.
    fn complain(&mut self, error: &io::Error) {
        if self.paused_until.is_none() {
            tracing::debug!(%error, "a peer was gone before it was accepted");
        } else if self.complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained_at = Some(Instant::now());
            tracing::warn!(%error, "nobody can be accepted for now: peers wait");
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        if !self.options.middleware.accepts(Some(peer)) {
            return None;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "the peer was gone before it was accepted");
            return None;
        }
        #[cfg(feature = "tls")]
        let stream = match tls::begin(stream, peer, &self.options) {
            Ok(handshake) => {
                self.handshakes.begin(handshake);
                return None;
            }
            Err(plain) => plain,
        };
        Some(Accepted::Stream(ServerStream::new(Io::Plain(stream), peer)))
    }
}

impl std::fmt::Debug for StreamListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamListener")
            .field("listener", &self.listener)
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restarted node must get its port back although old connections linger in TIME_WAIT.
    SockRef::from(&socket).set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}
