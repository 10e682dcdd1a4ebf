//! A raw protocol client for black-box tests: frames by hand over any transport and dialect.
//!
//! It has no opinions: it does not resume, acknowledge, retry or check what it is told. It numbers requests and
//! calls, and sorts what arrives into replies and the rest.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::tungstenite::Message;
use trunkline_proto::wire::{self, ChannelPosition, StartRequest, StartResponse};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};

use crate::DEADLINE;
use crate::link::{Buffers, Link, LinkClosed, Way};
use crate::server::Ready;

/// What can arrive.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a test holds one at a time")]
pub enum Received {
    /// A frame.
    Frame(DownFrame),
    /// The end of the connection.
    Closed(LinkClosed),
}

/// A connection, and the session that START makes of it. Dropping it cuts the connection without a STOP.
pub struct TestClient {
    link: Link,
    dialect: Dialect,
    /// Arrived while something else was waited for.
    waiting: VecDeque<DownFrame>,
    next_msg_id: u32,
    /// The number that the next call takes; a test may set it.
    pub next_client_seq: u64,
    /// What the last START was answered.
    pub started: Option<StartResponse>,
    /// How many bytes of frames have arrived, without framing.
    pub bytes_received: u64,
}

impl TestClient {
    /// Connects and says nothing.
    pub async fn connect(ready: &Ready, way: Way) -> Result<Self> {
        Self::connect_with(ready, way, Buffers::Loopback).await
    }

    /// The same, and little fits between the server and a client that does not read: what a network would take,
    /// not what loopback does.
    pub async fn connect_narrow(ready: &Ready, way: Way) -> Result<Self> {
        Self::connect_with(ready, way, Buffers::Narrow).await
    }

    async fn connect_with(ready: &Ready, way: Way, buffers: Buffers) -> Result<Self> {
        let link = timeout(DEADLINE, Link::connect(ready, way, buffers)).await.context("connecting hangs")?;
        Ok(Self::over(link.with_context(|| format!("{way:?}"))?, way.dialect))
    }

    /// Plain TCP to any address.
    pub async fn connect_tcp(address: SocketAddr, dialect: Dialect) -> Result<Self> {
        let link = timeout(DEADLINE, Link::tcp(address)).await.context("connecting hangs")??;
        Ok(Self::over(link, dialect))
    }

    fn over(link: Link, dialect: Dialect) -> Self {
        TestClient {
            link,
            dialect,
            waiting: VecDeque::new(),
            next_msg_id: 1,
            next_client_seq: 1,
            started: None,
            bytes_received: 0,
        }
    }

    /// A protocol 1 START of a new session.
    pub fn start_request(user: &str, token: &str) -> StartRequest {
        StartRequest {
            openid: user.into(),
            auth_token: token.into(),
            device_id: format!("{user}-device"),
            client: "testkit/0".into(),
            protocol: 1,
            // Random, below 2^53 so that JSON carries it too.
            instance: rand::random::<u64>() >> 11,
            attempt: 1,
            ..StartRequest::default()
        }
    }

    /// START of a new session in protocol 1, answered. It proves the resume token if it succeeded.
    pub async fn start_as(&mut self, user: &str, token: &str) -> Result<StartResponse> {
        let response = self.start(Self::start_request(user, token)).await?;
        if response.success {
            self.prove(response.fence).await?;
        }
        Ok(response)
    }

    /// Sends START and waits for its answer, a refusal too.
    pub async fn start(&mut self, request: StartRequest) -> Result<StartResponse> {
        let reply = self.request(UpBody::Start(request.into())).await?;
        let DownBody::StartResp(response) = reply.body else { bail!("START was answered {reply:?}") };
        let response = *response;
        self.started = Some(response.clone());
        Ok(response)
    }

    /// The ack that proves the resume token of a START_RESP with this fence.
    pub async fn prove(&mut self, fence: u64) -> Result<()> {
        self.ack(wire::ClientAck { start_fence: fence, ..wire::ClientAck::default() }).await
    }

    /// Sends an ack.
    pub async fn ack(&mut self, ack: wire::ClientAck) -> Result<()> {
        self.send(&UpFrame::new(0, 0, UpBody::Ack(ack))).await
    }

    /// Acknowledges a publication's position.
    pub async fn ack_position(&mut self, position: ChannelPosition) -> Result<()> {
        self.ack(wire::ClientAck { positions: vec![position], ..wire::ClientAck::default() }).await
    }

    /// Calls an action with the next number and waits for what answers it: a reply, an error, or a group.
    pub async fn call(&mut self, action: &str, data: impl Into<Bytes>) -> Result<DownFrame> {
        self.call_with(action, &[], data).await
    }

    /// The same with params.
    pub async fn call_with(
        &mut self,
        action: &str,
        params: &[(&str, &str)],
        data: impl Into<Bytes>,
    ) -> Result<DownFrame> {
        let msg_id = self.send_call(action, params, data).await?;
        self.reply(msg_id).await
    }

    /// Sends a call and does not wait; the message id that its reply will have.
    pub async fn send_call(
        &mut self,
        action: &str,
        params: &[(&str, &str)],
        data: impl Into<Bytes>,
    ) -> Result<u32> {
        let body = call_body(action, params, data);
        let (msg_id, client_seq) = (self.msg_id(), self.next_client_seq);
        self.next_client_seq += 1;
        self.send(&UpFrame::new(msg_id, client_seq, body)).await?;
        Ok(msg_id)
    }

    /// Subscribes, answered.
    pub async fn subscribe(&mut self, channel: &str, since: Option<ChannelPosition>) -> Result<DownFrame> {
        self.request(UpBody::Subscribe(wire::ChannelRequest { channel: channel.into(), since })).await
    }

    /// Publishes, answered.
    pub async fn publish(&mut self, channel: &str, data: impl Into<Bytes>) -> Result<DownFrame> {
        let request = wire::PublishRequest {
            channel: channel.into(),
            data: data.into(),
            idempotency_key: String::new(),
        };
        self.request(UpBody::Publish(request)).await
    }

    /// Sends any request that is no call, and waits for its reply.
    pub async fn request(&mut self, body: UpBody) -> Result<DownFrame> {
        let msg_id = self.msg_id();
        self.send(&UpFrame::new(msg_id, 0, body)).await?;
        self.reply(msg_id).await
    }

    /// A message id that was not used before.
    pub fn msg_id(&mut self) -> u32 {
        self.next_msg_id += 1;
        self.next_msg_id - 1
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &UpFrame) -> Result<()> {
        self.send_payload(&self.dialect.encode_up(frame)).await
    }

    /// Sends bytes as one frame.
    pub async fn send_payload(&mut self, frame: &[u8]) -> Result<()> {
        timeout(DEADLINE, self.link.send(frame)).await.context("sending hangs")?
    }

    /// Sends bytes as they are, on a stream transport.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(DEADLINE, self.link.send_raw(bytes)).await.context("sending hangs")?
    }

    /// Sends a WebSocket message as it is.
    pub async fn send_message(&mut self, message: Message) -> Result<()> {
        timeout(DEADLINE, self.link.send_message(message)).await.context("sending hangs")?
    }

    /// Opens a further stream, sends bytes on it, and waits until the other side stops it: the code it gives.
    pub async fn refused_stream(&self, bytes: &[u8]) -> Result<u32> {
        timeout(DEADLINE, self.link.refused_stream(bytes)).await.context("the stream is not refused")?
    }

    /// What arrives next, earlier frames that nobody waited for first.
    pub async fn recv(&mut self) -> Result<Received> {
        match self.waiting.pop_front() {
            Some(frame) => Ok(Received::Frame(frame)),
            None => self.recv_new().await,
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Result<DownFrame> {
        match self.recv().await? {
            Received::Frame(frame) => Ok(frame),
            Received::Closed(closed) => bail!("the connection ended instead of a frame: {closed:?}"),
        }
    }

    /// The next frame that answers `msg_id`; all others stay for later.
    pub async fn reply(&mut self, msg_id: u32) -> Result<DownFrame> {
        self.frame_where(|frame| frame.msg_id == msg_id).await.with_context(|| format!("reply to {msg_id}"))
    }

    /// The next frame that answers nothing; replies stay for later.
    pub async fn push(&mut self) -> Result<DownFrame> {
        self.frame_where(|frame| frame.msg_id == 0).await.context("a push")
    }

    /// The next frame that `wanted` accepts; all others stay for later.
    pub async fn frame_where(&mut self, wanted: impl Fn(&DownFrame) -> bool) -> Result<DownFrame> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(at).context("a frame that was just seen");
        }
        loop {
            match self.recv_new().await? {
                Received::Frame(frame) if wanted(&frame) => return Ok(frame),
                Received::Frame(frame) => self.waiting.push_back(frame),
                Received::Closed(closed) => {
                    bail!("the connection ended ({closed:?}); unread: {:?}", self.waiting)
                }
            }
        }
    }

    /// Everything that arrives before the reply to a heartbeat sent now: what the server had to say already.
    pub async fn drain(&mut self) -> Result<Vec<DownFrame>> {
        let msg_id = self.msg_id();
        let beat = UpBody::Heartbeat(wire::HeartbeatRequest { client_timestamp: 1 });
        self.send(&UpFrame::new(msg_id, 0, beat)).await?;
        self.reply(msg_id).await?;
        Ok(self.waiting.drain(..).collect())
    }

    /// Reads to the end of the connection: its close notice and the transport's own code, if there are any.
    pub async fn closed(&mut self) -> Result<(Option<wire::CloseNotice>, LinkClosed)> {
        let mut notice = None;
        loop {
            match self.recv().await? {
                Received::Closed(closed) => return Ok((notice, closed)),
                Received::Frame(DownFrame { body: DownBody::Close(close), .. }) => notice = Some(close),
                Received::Frame(_) => {}
            }
        }
    }

    /// Reads to the end and answers the close code, which notice and transport must agree on.
    pub async fn close_code(&mut self) -> Result<u32> {
        let (notice, closed) = self.closed().await?;
        match (notice.map(|notice| notice.code), closed.code) {
            (Some(notice), Some(code)) if notice != code => {
                Err(anyhow!("the notice says {notice}, the transport {code}"))
            }
            (Some(code), _) | (None, Some(code)) => Ok(code),
            (None, None) => Err(anyhow!("closed without a code: {}", closed.text)),
        }
    }

    /// What arrives within `time`, if anything does. Cancel safe, so nothing is lost by asking.
    pub async fn recv_within(&mut self, time: Duration) -> Result<Option<Received>> {
        timeout(time, self.recv()).await.map_or(Ok(None), |received| received.map(Some))
    }

    async fn recv_new(&mut self) -> Result<Received> {
        let bytes = match timeout(DEADLINE, self.link.recv()).await {
            Err(_) => bail!("nothing arrives; unread: {:?}", self.waiting),
            Ok(Err(closed)) => return Ok(Received::Closed(closed)),
            Ok(Ok(bytes)) => bytes,
        };
        self.bytes_received += bytes.len() as u64;
        let frame = self.dialect.decode_down(&bytes);
        Ok(Received::Frame(frame.with_context(|| format!("undecodable: {}", bytes.escape_ascii()))?))
    }
}

/// The body of a call.
fn call_body(action: &str, params: &[(&str, &str)], data: impl Into<Bytes>) -> UpBody {
    let params: HashMap<_, _> =
        params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    UpBody::Business(wire::BusinessRequest { action: action.into(), params, data: data.into() })
}
