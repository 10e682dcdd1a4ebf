//! Frames of every size and shape.

use anyhow::{Result, ensure};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use trunkline_proto::wire::{BusinessRequest, HeartbeatRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_testkit::{TestClient, Transport, Way};

use crate::rig::{Rig, error, reply};

const LIMIT: usize = 1 << 20;

/// One way for each framing and carrier that cuts bytes up in its own manner.
const FRAMINGS: [Way; 5] = [
    protobuf(Transport::Tcp),
    protobuf(Transport::Tls),
    protobuf(Transport::Quic),
    protobuf(Transport::WebTransport),
    protobuf(Transport::WebSocket),
];

const fn protobuf(transport: Transport) -> Way {
    Way { transport, dialect: Dialect::Protobuf }
}

/// Further streams, one after the other.
const STREAMS: usize = 12;

/// Frames in a row that do not decode before the connection is closed.
const TOO_MANY: usize = 10;

/// An empty frame, one of no known type, and ten that do not decode: 400 each, then 4400.
pub(super) async fn nonsense(rig: &Rig, at: usize) -> Result<()> {
    let way = Way::ALL[at % Way::ALL.len()];
    let mut client = rig.session(&format!("nonsense{at}"), way).await?;
    let (unknown, undecodable) = match way.dialect {
        Dialect::Protobuf => (&b"\x08\x63\x18\x63"[..], &b"\xff\xff\xff"[..]),
        Dialect::Json => (&br#"{"msg_id":99,"type":"dance"}"#[..], &b"{\"type\": "[..]),
    };
    if way.dialect == Dialect::Protobuf {
        client.send_payload(b"").await?;
        ensure!(error(client.push().await?)?.error_code == 400, "an empty frame");
    }
    client.send_payload(unknown).await?;
    ensure!(error(client.reply(99).await?)?.error_code == 400, "an unknown type");
    for _ in 0..TOO_MANY {
        client.send_payload(undecodable).await?;
    }
    let code = client.close_code().await?;
    ensure!(code == 4400, "{TOO_MANY} undecodable frames were closed with {code}");
    Ok(())
}

/// A call of exactly the limit is answered; a length beyond it is 4401, on streams before its bytes come.
pub(super) async fn sizes(rig: &Rig, at: usize) -> Result<()> {
    let way = FRAMINGS[at % FRAMINGS.len()];
    let mut client = rig.session(&format!("sizes{at}"), way).await?;
    let call = |data: usize| {
        let data = vec![b'x'; data].into();
        let request = BusinessRequest { action: "big.swallow".into(), data, ..BusinessRequest::default() };
        Dialect::Protobuf.encode_up(&UpFrame::new(9, 1, UpBody::Business(request)))
    };
    let around = call(LIMIT / 2).len() - LIMIT / 2;
    let whole = call(LIMIT - around);
    ensure!(whole.len() == LIMIT, "{} bytes are not the limit", whole.len());
    client.send_payload(&whole).await?;
    ensure!(reply(client.reply(9).await?)?.code == 200, "{way:?}: a frame of the limit");
    for length in [u32::try_from(LIMIT)? + 1, u32::MAX] {
        let mut client = rig.session(&format!("sizes{at}"), way).await?;
        match way.transport {
            // It may be closed before all of it has left.
            Transport::WebSocket => drop(client.send_payload(&vec![0; LIMIT + 1]).await),
            _ => client.send_raw(&length.to_be_bytes()).await?,
        }
        let code = client.close_code().await?;
        ensure!(code == 4401, "{way:?}: a length of {length} was closed with {code}");
    }
    Ok(())
}

/// A frame in two pieces, cut at each byte in turn, and one byte at a time. A WebSocket's pieces are fragments.
pub(super) async fn splits(rig: &Rig, at: usize) -> Result<()> {
    let way = FRAMINGS[at % FRAMINGS.len()];
    let mut client = rig.session(&format!("splits{at}"), way).await?;
    let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 5 });
    let frame = Dialect::Protobuf.encode_up(&UpFrame::new(77, 0, beat));
    let bytes = match way.transport {
        Transport::WebSocket => frame.to_vec(),
        _ => [&u32::try_from(frame.len())?.to_be_bytes(), &frame[..]].concat(),
    };
    for cut in 0..=bytes.len() {
        let (begin, end) = bytes.split_at(cut);
        pieces(&mut client, way, &[begin, end]).await?;
        let answer = client.reply(77).await?;
        ensure!(matches!(answer.body, DownBody::HeartbeatResp(_)), "{way:?}: split at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    pieces(&mut client, way, &single).await?;
    client.reply(77).await?;
    Ok(())
}

async fn pieces(client: &mut TestClient, way: Way, pieces: &[&[u8]]) -> Result<()> {
    for (at, piece) in pieces.iter().enumerate() {
        if way.transport == Transport::WebSocket {
            let kind = OpCode::Data(if at == 0 { Data::Binary } else { Data::Continue });
            let fragment = Frame::message(piece.to_vec(), kind, at + 1 == pieces.len());
            client.send_message(Message::Frame(fragment)).await?;
        } else {
            client.send_raw(piece).await?;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Streams beside the frames, more of them and more on them than a connection may hold: each is refused, before START
/// and after it, and the session works.
pub(super) async fn streams(rig: &Rig, at: usize) -> Result<()> {
    let transport = [Transport::Quic, Transport::WebTransport][at % 2];
    let mut client = rig.connect(Way { transport, dialect: Dialect::Protobuf }).await?;
    // The node has a connection once a frame has begun: two bytes of its length.
    let user = format!("streams{at}");
    let start =
        Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, UpBody::Start(rig.start_request(&user).into())));
    let start = [&u32::try_from(start.len())?.to_be_bytes(), &start[..]].concat();
    client.send_raw(&start[..2]).await?;
    let bytes = vec![b'x'; 100_000];
    for _ in 0..STREAMS {
        let code = client.refused_stream(&bytes).await?;
        ensure!(code == 4402, "{transport:?}: a stream before START was stopped with {code}");
    }
    client.send_raw(&start[2..]).await?;
    let answer = client.reply(1).await?;
    ensure!(matches!(&answer.body, DownBody::StartResp(start) if start.success), "{transport:?}: {answer:?}");
    for _ in 0..STREAMS {
        let code = client.refused_stream(&bytes).await?;
        ensure!(code == 404, "{transport:?}: a stream for nobody was stopped with {code}");
    }
    ensure!(reply(client.call("trunkline.echo", "on").await?)?.data == "on", "{transport:?}: a call");
    Ok(())
}
