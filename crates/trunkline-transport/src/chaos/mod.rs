//! A chaos kit for tests (feature `chaos`): faults between a client and a server, on any protocol. Latency, cuts at a
//! byte, resets, half-open connections, slow and stalled readers; for datagrams loss, delay, reordering, slow readers and
//! black holes.
//!
//! | protocol | what stands between |
//! |---|---|
//! | TCP, TLS, WebSocket | [`TcpProxy`]: the client connects to its address |
//! | QUIC, WebTransport | [`UdpProxy`]: the same for datagrams |
//! | Unix sockets | [`UnixProxy`]: the same for a path |
//! | memory | [`crate::MemoryClientConfig::through`] a [`StreamChaos`] |
//! | one's own | [`Disturbed`]: the protocol, through a [`StreamChaos`] |
//!
//! All chance comes from one seed, so that a failing run can be repeated as far as the network allows. They
//! understand nothing of what they carry, and listen on the loopback interface only.
//!
//! ```
//! use std::num::NonZeroU32;
//! use trunkline_transport::{
//!     TcpClientConfig, TcpServerConfig, TransportClientBuilder, TransportError, TransportServerBuilder,
//!     chaos::{Ending, StreamFaults, TcpProxy},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), TransportError> {
//! let server = TransportServerBuilder::new().with_protocol(TcpServerConfig::new("127.0.0.1:0")).build().await?;
//! let faults = StreamFaults { down_bytes_per_second: NonZeroU32::new(10_000), ..StreamFaults::default() };
//! let proxy = TcpProxy::start(server.local_addrs()[0], 7, faults).await?;
//! let client = TransportClientBuilder::new()
//!     .with_protocol(TcpClientConfig::new(proxy.address().to_string()))
//!     .build()
//!     .await?;
//! client.connect().await?;
//! let session = client.session().expect("it is connected");
//! // A cut is for those who have come through.
//! proxy.until_open(1).await;
//! proxy.cut_all(Ending::Reset);
//! assert!(!session.closed().await.is_clean());
//! # Ok(())
//! # }
//! ```

mod custom;
mod stream;
mod tcp;
mod udp;
#[cfg(all(unix, feature = "unix"))]
mod unix;

#[cfg(all(unix, feature = "unix"))]
pub use self::unix::UnixProxy;
pub use self::{
    custom::Disturbed,
    stream::{Ending, StreamChaos, StreamFaults},
    tcp::TcpProxy,
    udp::{UdpFaults, UdpProxy},
};
