//! A session on one connection, with as little of a client around it as a load generator can do with: START, the proof
//! of its token, frames in both directions.
//!
//! It does not resume, acknowledge or sort: what a run needs of that, the run does. Nine thousand of these must cost
//! less than the node that they load.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;
use trunkline_client::Options;
use trunkline_proto::wire::{
    ClientAck, HeartbeatRequest, StartRequest, StartResponse, StopRequest, stop_request,
};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};
use trunkline_transport::{ConnectOptions, Protocol, QuicClientSocket};

use super::link::Link;

/// A START that takes longer has failed.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a node may take to close a session that has stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that share a UDP socket: enough to spread them over the cores, few enough to open.
const PER_SOCKET: usize = 500;

/// A started session.
pub(super) struct RawSession {
    pub(super) link: Link,
    pub(super) started: StartResponse,
}

/// What the connections of a generator share.
#[derive(Default)]
pub(super) struct Sockets {
    /// Of QUIC clients.
    udp: Vec<QuicClientSocket>,
    /// The address that plain connections come from, where the kernel does not choose it.
    source: Option<Ipv4Addr>,
}

impl Sockets {
    /// For so many connections this way.
    pub(super) fn open(options: &Options, connections: usize) -> anyhow::Result<Self> {
        let quic = |protocol| matches!(protocol, Protocol::Quic | Protocol::WebTransport);
        if !options.endpoints.iter().any(|endpoint| quic(endpoint.protocol)) {
            return Ok(Sockets::default());
        }
        let address = std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let sockets = (0..connections.div_ceil(PER_SOCKET)).map(|_| QuicClientSocket::bind(address));
        let udp = sockets.collect::<Result<_, _>>().context("no UDP socket can be opened")?;
        Ok(Sockets { udp, source: None })
    }

    /// The same, with plain connections to this machine from another of its addresses.
    pub(super) fn coming_from(mut self, source: Option<Ipv4Addr>) -> Self {
        self.source = source;
        self
    }

    fn of(&self, at: usize) -> Option<QuicClientSocket> {
        self.udp.get(at % self.udp.len().max(1)).cloned()
    }
}

impl RawSession {
    /// Connects and starts a new session, with its token proven; `at` spreads the connections over the sockets.
    pub(super) async fn start(options: &Options, sockets: &Sockets, at: usize) -> anyhow::Result<Self> {
        let endpoint = options.endpoints.first().context("no endpoint is known")?;
        let how = ConnectOptions {
            tls: options.tls.clone(),
            quic_socket: sockets.of(at),
            timeout: START_TIMEOUT,
            ..ConnectOptions::default()
        };
        let link = timeout(START_TIMEOUT, Link::open(endpoint, &how, sockets.source))
            .await
            .context("connecting hangs")??;
        let mut session = RawSession { link, started: StartResponse::default() };
        let start = StartRequest {
            openid: options.user.clone(),
            auth_token: options.token.clone(),
            device_id: options.device.clone(),
            client: concat!("trunkline-bench/", env!("CARGO_PKG_VERSION")).to_owned(),
            protocol: 1,
            // Below 2^53 for JSON, and never 0, which would not be compared.
            instance: (rand::random::<u64>() >> 11) | 1,
            attempt: 1,
            ..StartRequest::default()
        };
        session.send(1, 0, UpBody::Start(start.into())).await?;
        let answer = timeout(START_TIMEOUT, session.frame()).await.context("START is not answered")??;
        session.started = match answer.body {
            DownBody::StartResp(started) if started.success => *started,
            DownBody::StartResp(refused) => {
                let error = refused.error.unwrap_or_default();
                bail!("START is refused: {} {}", error.name, error.error_message)
            }
            other => bail!("START was answered with {other:?}"),
        };
        let proof = ClientAck { start_fence: session.started.fence, ..ClientAck::default() };
        session.send(0, 0, UpBody::Ack(proof)).await?;
        Ok(session)
    }

    /// Sends one frame.
    pub(super) async fn send(&mut self, msg_id: u32, seq: u64, body: UpBody) -> anyhow::Result<()> {
        let payload = Dialect::Protobuf.encode_up(&UpFrame::new(msg_id, seq, body));
        Ok(self.link.writer.send(&payload).await?)
    }

    /// The next frame.
    pub(super) async fn frame(&mut self) -> anyhow::Result<DownFrame> {
        let bytes = self.link.reader.one().await?;
        Ok(Dialect::Protobuf.decode_down(&bytes)?)
    }

    /// How often the node wants a heartbeat.
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.started.heartbeat_interval).unwrap_or_default().max(1))
    }

    /// One heartbeat, answered some time.
    pub(super) async fn beat(&mut self) -> anyhow::Result<()> {
        self.send(1, 0, UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 1 })).await
    }

    /// Ends the session, not only its connection.
    pub(super) async fn stop(mut self) {
        let stop = StopRequest { reason: stop_request::Reason::AppClose.into() };
        // Who cannot be told any more has ended.
        let _ = timeout(START_TIMEOUT, self.send(0, 0, UpBody::Stop(stop))).await;
        let ended = async { while self.link.reader.one().await.is_ok() {} };
        let _ = timeout(STOP_TIMEOUT, ended).await;
    }
}
