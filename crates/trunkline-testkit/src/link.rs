//! One connection of a test client over any transport, as frames and as raw bytes.
//!
//! It does the framing of protocol.md section 1 and nothing else: it knows no START, no reply, no retry.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, protocol::WebSocketConfig};
use trunkline_proto::Dialect;

use crate::DEADLINE;
use crate::server::Ready;
use crate::tls;

/// How a client reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
    Quic,
    WebTransport,
}

/// A transport and the dialect spoken on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// How frames travel.
    pub transport: Transport,
    /// How they are written.
    pub dialect: Dialect,
}

impl Way {
    /// Every way that a scenario must pass on.
    pub const ALL: [Way; 9] = [
        Way { transport: Transport::Tcp, dialect: Dialect::Protobuf },
        Way { transport: Transport::Tcp, dialect: Dialect::Json },
        Way { transport: Transport::Tls, dialect: Dialect::Protobuf },
        Way { transport: Transport::WebSocket, dialect: Dialect::Protobuf },
        Way { transport: Transport::WebSocket, dialect: Dialect::Json },
        Way { transport: Transport::SecureWebSocket, dialect: Dialect::Json },
        Way { transport: Transport::Quic, dialect: Dialect::Protobuf },
        Way { transport: Transport::WebTransport, dialect: Dialect::Protobuf },
        Way { transport: Transport::WebTransport, dialect: Dialect::Json },
    ];
    /// The simplest one.
    pub const TCP: Way = Way::ALL[0];
}

/// How the other side ended the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkClosed {
    /// The transport's own code, where it has one: WebSocket close code, QUIC or WebTransport application code.
    pub code: Option<u32>,
    /// What the transport said, for a failing test's message.
    pub text: String,
}

/// A stream that could be anything.
type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// How much the kernel, or QUIC, takes on its way to a client that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// What loopback gives: its segments of 64 KiB make Linux begin with a send buffer of 2.5 MB.
    Loopback,
    /// What a network gives: the segment size of Ethernet, and a QUIC window of 64 KiB.
    Narrow,
}

impl Buffers {
    async fn connect(self, address: SocketAddr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self == Buffers::Narrow {
            socket2::SockRef::from(&socket).set_tcp_mss(ETHERNET_MSS)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// 1,500 bytes less the headers of IPv4 and TCP.
const ETHERNET_MSS: u32 = 1460;

/// What outlives the streams of a connection and knows why it ended.
enum Owner {
    Socket,
    Quic(quinn::Connection, quinn::Endpoint),
    WebTransport(Box<web_transport_quinn::Session>, quinn::Endpoint),
}

/// A connection.
pub(crate) enum Link {
    Stream(Box<StreamLink>),
    WebSocket(Box<WebSocketStream<Box<dyn Duplex>>>, Dialect),
}

pub(crate) struct StreamLink {
    reader: Reader,
    writer: Writer,
    buffer: BytesMut,
    owner: Owner,
}

impl Link {
    /// Connects to the surface that `way` needs.
    pub(crate) async fn connect(ready: &Ready, way: Way, buffers: Buffers) -> Result<Link> {
        match way.transport {
            Transport::Tcp => Ok(Link::duplex(Box::new(buffers.connect(ready.tcp()?).await?))),
            Transport::Tls => {
                let stream = buffers.connect(ready.tcp()?).await?;
                Ok(Link::duplex(secure(ready, stream, &[]).await?))
            }
            Transport::WebSocket => {
                let stream = buffers.connect(ready.http()?).await?;
                Link::websocket("ws", ready.http()?, Box::new(stream), way.dialect).await
            }
            Transport::SecureWebSocket => {
                let stream = buffers.connect(ready.http()?).await?;
                let stream = secure(ready, stream, &[b"http/1.1"]).await?;
                Link::websocket("wss", ready.http()?, stream, way.dialect).await
            }
            Transport::Quic => Link::quic(ready, buffers).await,
            Transport::WebTransport => Link::webtransport(ready, buffers).await,
        }
    }

    /// Plain TCP to any address, such as a proxy's.
    pub(crate) async fn tcp(address: SocketAddr) -> Result<Link> {
        Ok(Link::duplex(Box::new(Buffers::Loopback.connect(address).await?)))
    }

    fn duplex(stream: Box<dyn Duplex>) -> Link {
        let (reader, writer) = tokio::io::split(stream);
        Link::stream(Box::new(reader), Box::new(writer), Owner::Socket)
    }

    fn stream(reader: Reader, writer: Writer, owner: Owner) -> Link {
        Link::Stream(Box::new(StreamLink { reader, writer, buffer: BytesMut::new(), owner }))
    }

    async fn websocket(
        scheme: &str,
        address: SocketAddr,
        stream: Box<dyn Duplex>,
        dialect: Dialect,
    ) -> Result<Link> {
        let config = WebSocketConfig::default().read_buffer_size(8 << 10);
        let url = format!("{scheme}://{address}/ws");
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
        Ok(Link::WebSocket(Box::new(socket), dialect))
    }

    async fn quic(ready: &Ready, buffers: Buffers) -> Result<Link> {
        let (endpoint, connection) = quic_connection(ready, b"gatesvr", buffers).await?;
        let (writer, reader) = connection.open_bi().await?;
        Ok(Link::stream(Box::new(reader), Box::new(writer), Owner::Quic(connection, endpoint)))
    }

    async fn webtransport(ready: &Ready, buffers: Buffers) -> Result<Link> {
        let alpn = web_transport_quinn::ALPN.as_bytes();
        let (endpoint, connection) = quic_connection(ready, alpn, buffers).await?;
        let url = url::Url::parse(&format!("https://{}/", ready.quic()?))?;
        let session = web_transport_quinn::Session::connect(connection, url).await?;
        let (writer, reader) = session.open_bi().await?;
        Ok(Link::stream(Box::new(reader), Box::new(writer), Owner::WebTransport(Box::new(session), endpoint)))
    }

    /// Sends one frame in the transport's framing.
    pub(crate) async fn send(&mut self, frame: &[u8]) -> Result<()> {
        match self {
            Link::Stream(link) => {
                let length = u32::try_from(frame.len()).context("a frame over 4 GiB")?;
                let mut framed = length.to_be_bytes().to_vec();
                framed.extend_from_slice(frame);
                link.write(&framed).await
            }
            Link::WebSocket(socket, Dialect::Protobuf) => {
                Ok(socket.send(Message::Binary(Bytes::copy_from_slice(frame))).await?)
            }
            Link::WebSocket(socket, Dialect::Json) => {
                Ok(socket.send(Message::Text(std::str::from_utf8(frame)?.into())).await?)
            }
        }
    }

    /// Sends bytes without any framing; on WebSocket there is no such thing.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Link::Stream(link) => link.write(bytes).await,
            Link::WebSocket(..) => Err(anyhow!("raw bytes on a WebSocket")),
        }
    }

    /// Opens a further stream, sends bytes on it, and waits until the other side stops it: the code it gives.
    pub(crate) async fn refused_stream(&self, bytes: &[u8]) -> Result<u32> {
        let Link::Stream(link) = self else { return Err(anyhow!("a WebSocket has no further streams")) };
        match &link.owner {
            Owner::Socket => Err(anyhow!("a socket has no further streams")),
            Owner::Quic(connection, _) => {
                let (mut send, _recv) = connection.open_bi().await?;
                // It may be stopped before everything is written.
                let _stopped = send.write_all(bytes).await;
                let code = send.stopped().await?.context("the stream was taken whole")?;
                Ok(u32::try_from(code.into_inner())?)
            }
            Owner::WebTransport(session, _) => {
                let (mut send, _recv) = session.open_bi().await?;
                let _stopped = send.write_all(bytes).await;
                send.stopped().await?.context("the stream was taken whole")
            }
        }
    }

    /// Sends a WebSocket message of the given kind, whatever the dialect.
    pub(crate) async fn send_message(&mut self, message: Message) -> Result<()> {
        match self {
            Link::WebSocket(socket, _) => Ok(socket.send(message).await?),
            Link::Stream(_) => Err(anyhow!("a WebSocket message on a stream")),
        }
    }

    /// The next frame. Cancel safe: what has arrived of an unfinished frame stays in the link.
    pub(crate) async fn recv(&mut self) -> Result<Bytes, LinkClosed> {
        match self {
            Link::Stream(link) => link.recv().await,
            Link::WebSocket(socket, _) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                    Some(Ok(Message::Text(text))) => return Ok(Bytes::from(text)),
                    Some(Ok(Message::Close(frame))) => {
                        // The answer to the close frame goes out with the next poll.
                        let _ = socket.next().await;
                        let code = frame.as_ref().map(|frame| u32::from(u16::from(frame.code)));
                        return Err(LinkClosed { code, text: format!("{frame:?}") });
                    }
                    Some(Ok(_)) => {}
                    Some(Err(WsError::ConnectionClosed)) | None => {
                        return Err(LinkClosed { code: None, text: "end of stream".into() });
                    }
                    Some(Err(error)) => return Err(LinkClosed { code: None, text: error.to_string() }),
                }
            },
        }
    }
}

impl StreamLink {
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).await?;
        Ok(self.writer.flush().await?)
    }

    async fn recv(&mut self) -> Result<Bytes, LinkClosed> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    return Ok(self.buffer.split_to(length).freeze());
                }
                self.buffer.reserve(4 + length - self.buffer.len());
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(self.closed("end of stream".into()).await),
                Ok(_) => {}
                Err(error) => return Err(self.closed(error.to_string()).await),
            }
        }
    }

    /// The stream has ended: asks the connection why.
    async fn closed(&self, text: String) -> LinkClosed {
        match &self.owner {
            Owner::Socket => LinkClosed { code: None, text },
            Owner::Quic(connection, _) => {
                let ended = connection.closed().await;
                let code = match &ended {
                    quinn::ConnectionError::ApplicationClosed(close) => {
                        u32::try_from(close.error_code.into_inner()).ok()
                    }
                    _ => None,
                };
                LinkClosed { code, text: format!("{text}: {ended}") }
            }
            Owner::WebTransport(session, _) => {
                let ended = session.closed().await;
                let code = match &ended {
                    web_transport_quinn::SessionError::WebTransportError(
                        web_transport_quinn::WebTransportError::Closed(code, _),
                    ) => Some(*code),
                    _ => None,
                };
                LinkClosed { code, text: format!("{text}: {ended}") }
            }
        }
    }
}

impl Drop for StreamLink {
    /// A dropped client's endpoint would keep the connection until it is idle; a test's cut is at once.
    fn drop(&mut self) {
        match &self.owner {
            Owner::Socket => {}
            Owner::Quic(_, endpoint) | Owner::WebTransport(_, endpoint) => {
                endpoint.close(quinn::VarInt::from_u32(0), b"");
            }
        }
    }
}

/// TLS with the gateway's certificate on a connection to its HTTP surface, for tests that speak HTTP by hand.
pub async fn https(ready: &Ready) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
    secure(ready, TcpStream::connect(ready.http()?).await?, &[b"http/1.1"]).await
}

/// A QUIC handshake with this ALPN and nothing more. Resolves when the gateway has ended the connection.
pub async fn half_open_quic(ready: &Ready, alpn: &str) -> Result<()> {
    let connecting = quic_connection(ready, alpn.as_bytes(), Buffers::Loopback);
    let (_endpoint, connection) = timeout(DEADLINE, connecting).await.context("connecting hangs")??;
    match timeout(DEADLINE, connection.closed()).await.context("the connection is kept")? {
        quinn::ConnectionError::ApplicationClosed(_) | quinn::ConnectionError::ConnectionClosed(_) => Ok(()),
        other => Err(anyhow!("the gateway did not end it: {other}")),
    }
}

async fn secure(ready: &Ready, stream: TcpStream, alpn: &[&[u8]]) -> Result<Box<dyn Duplex>> {
    let config = Arc::new(tls::client_config(ready.certificate()?, alpn)?);
    let name = rustls_pki_types::ServerName::try_from("localhost")?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

async fn quic_connection(
    ready: &Ready,
    alpn: &[u8],
    buffers: Buffers,
) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let crypto = tls::client_config(ready.certificate()?, &[alpn])?;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto)?;
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    if buffers == Buffers::Narrow {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(quinn::VarInt::from_u32(64 << 10));
        config.transport_config(Arc::new(transport));
    }
    let connection = endpoint.connect_with(config, ready.quic()?, "localhost")?.await?;
    Ok((endpoint, connection))
}
