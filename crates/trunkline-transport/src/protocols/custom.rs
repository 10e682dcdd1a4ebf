//! A protocol that this library does not ship: one trait, generic for its author, erased in the builders.
//!
//! A custom protocol brings byte streams or message pipes ([`Link`]); everything above (packets, limits, middleware,
//! shutdown) is the same as on any other. It has no close codes, streams or datagrams of its own.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::Sink;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, split},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Acceptor, ClientKind, ClientProtocol, DialOptions, Listen, ListenOptions, ServerProtocol};
use crate::{
    BoxFuture, BuildError, ConnectError, Connection, ConnectionInfo, Framing, MiddlewareStack, Protocol,
    defaults::ACCEPT_BACKOFF,
    packet::{HEADER, Header},
    sink,
    source::Source,
};

/// A protocol of one's own. Give it to `with_protocol` of a server, or of a client, as it stands.
pub trait CustomProtocol: Send + Sync + 'static {
    /// What it listens by.
    type Listener: Send + 'static;

    /// Its name in figures and logs.
    fn name(&self) -> &'static str;

    /// Begins to listen; called once, when the server is built.
    fn bind(&self) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// The next peer. It is dropped when the server shuts down, and must not lose a peer when it is dropped before. Nobody
    /// else comes in before it is ready: a handshake that may take long belongs into the link. After an error it is asked
    /// again a moment later.
    fn accept(listener: &mut Self::Listener) -> impl Future<Output = io::Result<Link>> + Send;

    /// Connects once, within the client's time-out.
    fn connect(&self) -> impl Future<Output = io::Result<Link>> + Send;

    /// Where it listens, if that is an address of the network: for [`crate::TransportServer::local_addrs`].
    fn local_addr(listener: &Self::Listener) -> Option<SocketAddr> {
        let _ = listener;
        None
    }
}

/// Bytes both ways.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ByteStream for T {}

/// What a custom connection reads from and writes to.
pub(crate) type CustomIo = Pin<Box<dyn ByteStream>>;

/// One connection of a custom protocol.
pub struct Link {
    io: CustomIo,
    peer: Option<SocketAddr>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Link {
    /// A reliable stream of bytes in both directions. Packets stand in it back to back. It ends when it is shut down or
    /// dropped.
    pub fn bytes(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self { io: Box::pin(io), peer: None }
    }

    /// A reliable pipe of messages in both directions: each is one packet. A received message that is none ends the
    /// connection.
    pub fn messages(
        messages: impl Stream<Item = io::Result<Bytes>> + Sink<Bytes, Error = io::Error> + Send + 'static,
    ) -> Self {
        Self::bytes(Messages { pipe: Box::pin(messages), read: Bytes::new(), write: BytesMut::new() })
    }

    /// Who is on the other side: for [`crate::Session::connection_info`] and limits by address.
    #[must_use]
    pub fn peer(self, peer: SocketAddr) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// The same connection with faults on its way; see [`crate::chaos`]. Needs a tokio runtime.
    #[cfg(feature = "chaos")]
    #[must_use]
    pub fn through(self, chaos: &crate::chaos::StreamChaos) -> Self {
        Self { io: Box::pin(chaos.link(self.io)), ..self }
    }

    fn into_connection(self, name: &'static str, max_message: usize) -> Connection {
        let mut info = ConnectionInfo::new(Protocol::Custom(name));
        info.peer = self.peer;
        let (read, write) = split(self.io);
        let halves = (Source::Custom(read), sink::Sink::Custom(write));
        Connection::framed(info, halves, Framing::Packet, max_message, &[])
    }
}

/// Messages as the bytes of their packets.
struct Messages<M> {
    pipe: Pin<Box<M>>,
    /// The rest of the last message.
    read: Bytes,
    /// The beginning of the next one, or all of it while the pipe takes none.
    write: BytesMut,
}

/// The length of the packet that begins so, once its header is there. How much it may be was judged elsewhere.
fn packet_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let header = Header::parse(header, usize::MAX);
    header
        .map(|header| Some(header.total()))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl<M: Sink<Bytes, Error = io::Error>> Messages<M> {
    /// Hands over a whole packet, if there is one.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if packet_len(&self.write)? == Some(self.write.len()) {
            ready!(self.pipe.as_mut().poll_ready(cx))?;
            let message = self.write.split().freeze();
            self.pipe.as_mut().start_send(message)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: Stream<Item = io::Result<Bytes>>> AsyncRead for Messages<M> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            let Some(message) = ready!(self.pipe.as_mut().poll_next(cx)).transpose()? else {
                return Poll::Ready(Ok(()));
            };
            if packet_len(&message)? != Some(message.len()) {
                let error = io::Error::new(io::ErrorKind::InvalidData, "a message is exactly one packet");
                return Poll::Ready(Err(error));
            }
            self.read = message;
        }
        let n = buf.remaining().min(self.read.len());
        buf.put_slice(&self.read[..n]);
        self.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<M: Sink<Bytes, Error = io::Error>> AsyncWrite for Messages<M> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let whole = packet_len(&self.write)?.unwrap_or(HEADER);
        let n = buf.len().min(whole - self.write.len());
        self.write.extend_from_slice(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.pipe.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.pipe.as_mut().poll_close(cx)
    }
}

/// A protocol whose author is forgotten.
pub(crate) trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn bind(&self) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
    fn connect(&self) -> BoxFuture<'_, io::Result<Link>>;
}

/// Its listener.
pub(crate) trait Listener: Send {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Link>>;
    fn local_addr(&self) -> Option<SocketAddr>;
}

struct Of<P: CustomProtocol>(P::Listener);

impl<P: CustomProtocol> Listener for Of<P> {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(P::accept(&mut self.0))
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        P::local_addr(&self.0)
    }
}

impl<P: CustomProtocol> Erased for P {
    fn name(&self) -> &'static str {
        CustomProtocol::name(self)
    }

    fn bind(&self) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move { Ok(Box::new(Of::<P>(CustomProtocol::bind(self).await?)) as Box<dyn Listener>) })
    }

    fn connect(&self) -> BoxFuture<'_, io::Result<Link>> {
        Box::pin(CustomProtocol::connect(self))
    }
}

/// A custom protocol in a builder. Clones share it.
#[derive(Clone)]
pub(crate) struct Custom(Arc<dyn Erased>);

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.0.name()).finish()
    }
}

impl Custom {
    async fn bound(self, options: &ListenOptions) -> Result<CustomAcceptor, BuildError> {
        let name = self.0.name();
        let listener = self.0.bind().await;
        let listener = listener.map_err(|error| BuildError::Bind { address: name.to_owned(), error })?;
        Ok(CustomAcceptor {
            name,
            listener,
            cancel: options.cancel.clone(),
            middleware: options.middleware.clone(),
            max_message: options.max_message,
        })
    }

    pub(super) async fn connect(&self, options: &DialOptions) -> Result<Connection, ConnectError> {
        let link = timeout(options.timeout, self.0.connect()).await;
        let link = link.map_err(|_| ConnectError::TimedOut(options.timeout))??;
        Ok(link.into_connection(self.0.name(), options.max_message))
    }
}

impl Listen for Custom {
    fn bind<'a>(
        self: Box<Self>,
        options: &'a ListenOptions,
    ) -> BoxFuture<'a, Result<Box<dyn Acceptor>, BuildError>> {
        Box::pin(async move { Ok(Box::new(self.bound(options).await?) as Box<dyn Acceptor>) })
    }
}

/// The listener of a custom protocol.
struct CustomAcceptor {
    name: &'static str,
    listener: Box<dyn Listener>,
    cancel: CancellationToken,
    middleware: MiddlewareStack,
    max_message: usize,
}

impl fmt::Debug for CustomAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomAcceptor").field(&self.name).finish()
    }
}

impl Acceptor for CustomAcceptor {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, Option<Connection>> {
        Box::pin(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => return None,
                    accepted = self.listener.accept() => accepted,
                };
                match accepted {
                    Ok(link) if self.middleware.accepts(link.peer) => {
                        return Some(link.into_connection(self.name, self.max_message));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(protocol = self.name, %error, "accept failed");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        })
    }
}

impl<P: CustomProtocol> From<P> for ServerProtocol {
    fn from(protocol: P) -> Self {
        Self::of(Custom(Arc::new(protocol)))
    }
}

impl<P: CustomProtocol> From<P> for ClientProtocol {
    fn from(protocol: P) -> Self {
        Self(ClientKind::Custom(Custom(Arc::new(protocol))))
    }
}
