//! Handshakes that do not go on, on every transport: each ends at its deadline.

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use trunkline_proto::Dialect;
use trunkline_testkit::{DEADLINE, TestClient, Transport, Way};

use crate::rig::Rig;

/// The beginning of a TLS record with a ClientHello that never comes whole.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];

const HALF_REQUEST: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websock";

/// One of ten kinds, by the lane: it is begun, and the node ends it.
pub(super) async fn half_open(rig: &Rig, at: usize) -> Result<()> {
    let ready = rig.server.ready();
    let of = |transport| Way { transport, dialect: Dialect::Protobuf };
    match at % 10 {
        0 => never_goes_on(ready.tcp()?, b"").await,
        1 => never_goes_on(ready.tcp()?, HALF_HELLO).await,
        2 => never_goes_on(ready.tcp()?, &[0, 0, 1]).await,
        3 => never_goes_on(ready.http()?, b"").await,
        4 => never_goes_on(ready.http()?, HALF_REQUEST).await,
        5 => never_goes_on(ready.http()?, HALF_HELLO).await,
        6 => never_starts(rig, of(Transport::WebSocket)).await,
        7 => initial(rig).await,
        8 => never_starts(rig, of(Transport::Quic)).await,
        _ => never_starts(rig, of(Transport::WebTransport)).await,
    }
}

/// Bytes of a beginning; the node closes the connection.
async fn never_goes_on(address: std::net::SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut said = [0; 512];
    let ended = async { while stream.read(&mut said).await.is_ok_and(|count| count > 0) {} };
    timeout(DEADLINE, ended).await.with_context(|| format!("{bytes:?} stays open"))
}

/// The transport's handshake is done and nothing follows: 4403, where the node has a stream to say it on.
async fn never_starts(rig: &Rig, way: Way) -> Result<()> {
    let mut client = rig.connect(way).await?;
    if way.transport != Transport::WebSocket {
        // QUIC tells nobody of a stream before its first byte.
        client.send_raw(&[0]).await?;
    }
    let code = client.close_code().await?;
    ensure!(code == 4403, "{way:?} was closed with {code}");
    Ok(())
}

/// A first flight of QUIC from an address that is never heard of again. The node answers, and holds it no longer
/// than any other handshake.
async fn initial(rig: &Rig) -> Result<()> {
    let catcher = UdpSocket::bind("127.0.0.1:0").await?;
    let aside = rig.server.ready().with_quic(catcher.local_addr()?);
    let way = Way { transport: Transport::Quic, dialect: Dialect::Protobuf };
    let mut datagram = [0; 2048];
    let length = tokio::select! {
        _ = TestClient::connect(&aside, way) => anyhow::bail!("nobody answers there"),
        received = catcher.recv(&mut datagram) => received?,
    };
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    stranger.send_to(&datagram[..length], rig.server.ready().quic()?).await?;
    let answered = timeout(DEADLINE, stranger.recv(&mut datagram)).await.context("no answer")?;
    answered.map(drop).context("the answer to a first flight")
}
