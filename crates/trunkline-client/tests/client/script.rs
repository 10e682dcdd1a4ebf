//! A gateway's side, frame by frame, over plain TCP.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use trunkline_client::{Backoff, Client, Event, Options, Pushes};
use trunkline_proto::wire::{self, BusinessRequest, ChannelPosition, StartRequest, StartResponse, Verdict};
use trunkline_proto::{Dialect, DownBody, DownFrame, UpBody, UpFrame};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const EPOCH: u64 = 1_000;

/// Where clients connect.
pub(crate) struct Gateway {
    listener: TcpListener,
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Gateway {
    pub(crate) async fn new() -> Gateway {
        Gateway { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn options(&self) -> Options {
        let url = format!("tcp://{}", self.listener.local_addr().unwrap());
        let mut options = Options::new("alice", "token").endpoint(url.parse().unwrap());
        options.device = "phone".into();
        options.backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(5) };
        options.call_timeout = DEADLINE;
        options
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.expect("nobody connects").unwrap();
        Peer { stream, buffer: BytesMut::new() }
    }

    /// Accepts a connection and its START.
    pub(crate) async fn accept_start(&self) -> (Peer, u32, StartRequest) {
        let mut peer = self.accept().await;
        let frame = peer.recv().await;
        match frame.body {
            UpBody::Start(start) => (peer, frame.msg_id, *start),
            other => panic!("the first frame is no START: {other:?}"),
        }
    }

    /// A client whose first START is answered with success.
    pub(crate) async fn session(&self, options: Options) -> (Client, Pushes, Peer) {
        let (client, peer) = tokio::join!(Client::connect(options), async {
            let (mut peer, msg_id, start) = self.accept_start().await;
            assert_eq!((start.openid.as_str(), start.auth_token.as_str()), ("alice", "token"));
            assert_eq!((start.protocol, start.attempt, start.resume_token.as_str()), (1, 1, ""));
            peer.start_response(msg_id, response(Verdict::Fresh, 1, vec![at("user:alice", 0)])).await;
            peer
        });
        let client = client.unwrap();
        let mut pushes = client.pushes();
        assert!(matches!(next(&mut pushes).await, Event::Started(_)));
        (client, pushes, peer)
    }
}

impl Peer {
    pub(crate) async fn recv(&mut self) -> UpFrame {
        self.try_recv().await.expect("the client has ended the connection")
    }

    /// `None` once the client has ended the connection.
    pub(crate) async fn try_recv(&mut self) -> Option<UpFrame> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let frame = self.buffer.split_to(length).freeze();
                    return Some(Dialect::Protobuf.decode_up(&frame).unwrap());
                }
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
            if !matches!(read.expect("the client says nothing"), Ok(1..)) {
                return None;
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: DownFrame) {
        let payload = Dialect::Protobuf.encode_down(&frame);
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(payload);
        timeout(DEADLINE, self.stream.write_all(&bytes)).await.expect("the client does not read").unwrap();
    }

    /// Answers START and takes the ack that proves its token.
    pub(crate) async fn start_response(&mut self, msg_id: u32, response: StartResponse) {
        let fence = response.fence;
        self.send(DownFrame::new(msg_id, DownBody::StartResp(response.into()))).await;
        match self.recv().await.body {
            UpBody::Ack(ack) => assert_eq!(ack.start_fence, fence),
            other => panic!("not the proof: {other:?}"),
        }
    }

    /// The next call.
    pub(crate) async fn call(&mut self) -> (u32, u64, BusinessRequest) {
        loop {
            let frame = self.recv().await;
            match frame.body {
                UpBody::Business(request) => return (frame.msg_id, frame.seq_id, request),
                UpBody::Ack(_) | UpBody::Heartbeat(_) => {}
                other => panic!("not a call: {other:?}"),
            }
        }
    }

    pub(crate) async fn publish(&mut self, channel: &str, offset: u64, length: usize) {
        let publication = wire::Publication {
            data: Bytes::from(vec![b'x'; length]),
            timestamp: 5,
            sender: "bob".into(),
            ..wire::Publication::default()
        };
        let frame = DownFrame::publication(at(channel, offset), DownBody::Publication(publication));
        self.send(frame).await;
    }

    pub(crate) async fn close(mut self, notice: wire::CloseNotice) {
        self.send(DownFrame::new(0, DownBody::Close(notice))).await;
    }
}

pub(crate) fn at(channel: &str, offset: u64) -> ChannelPosition {
    ChannelPosition { channel: channel.into(), epoch: EPOCH, offset }
}

pub(crate) fn response(verdict: Verdict, fence: u64, positions: Vec<ChannelPosition>) -> StartResponse {
    StartResponse {
        success: true,
        heartbeat_interval: 25,
        session_id: "s1".into(),
        resume_token: format!("t{fence}"),
        verdict: verdict as i32,
        max_frame_size: 1 << 20,
        positions,
        fence,
        ..StartResponse::default()
    }
}

pub(crate) fn reply(msg_id: u32, data: &'static str) -> DownFrame {
    let response = wire::BusinessResponse { code: 200, data: data.into(), ..Default::default() };
    DownFrame::new(msg_id, DownBody::BusinessData(response))
}

pub(crate) async fn next(pushes: &mut Pushes) -> Event {
    timeout(DEADLINE, pushes.next()).await.expect("no event").expect("the events have ended")
}
