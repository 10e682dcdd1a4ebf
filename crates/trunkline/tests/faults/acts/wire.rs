//! Frames of every size and shape.

use anyhow::{Result, ensure};
use trunkline_proto::wire::{BusinessRequest, HeartbeatRequest};
use trunkline_proto::{Dialect, DownBody, UpBody, UpFrame};
use trunkline_testkit::{Transport, Way};

use crate::rig::{Rig, error, reply};

const LIMIT: usize = 1 << 20;

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

/// A call of exactly the limit is answered; a length beyond it is 4401 before its bytes come.
pub(super) async fn sizes(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("sizes{at}"), Way::TCP).await?;
    let call = |data: usize| {
        let data = vec![b'x'; data].into();
        let request = BusinessRequest { action: "big.swallow".into(), data, ..BusinessRequest::default() };
        Dialect::Protobuf.encode_up(&UpFrame::new(9, 1, UpBody::Business(request)))
    };
    let around = call(LIMIT / 2).len() - LIMIT / 2;
    let whole = call(LIMIT - around);
    ensure!(whole.len() == LIMIT, "{} bytes are not the limit", whole.len());
    client.send_payload(&whole).await?;
    ensure!(reply(client.reply(9).await?)?.code == 200, "a frame of the limit");
    for length in [u32::try_from(LIMIT)? + 1, u32::MAX] {
        let mut client = rig.session(&format!("sizes{at}"), Way::TCP).await?;
        client.send_raw(&length.to_be_bytes()).await?;
        let code = client.close_code().await?;
        ensure!(code == 4401, "a length of {length} was closed with {code}");
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
    let start = Dialect::Protobuf.encode_up(&UpFrame::new(1, 0, UpBody::Start(rig.start_request(&user))));
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

/// A frame in two pieces, cut at each byte in turn, and one byte at a time.
pub(super) async fn splits(rig: &Rig, at: usize) -> Result<()> {
    let mut client = rig.session(&format!("splits{at}"), Way::TCP).await?;
    let beat = UpBody::Heartbeat(HeartbeatRequest { client_timestamp: 5 });
    let frame = Dialect::Protobuf.encode_up(&UpFrame::new(77, 0, beat));
    let bytes = [&u32::try_from(frame.len())?.to_be_bytes(), &frame[..]].concat();
    for cut in 0..=bytes.len() {
        client.send_raw(&bytes[..cut]).await?;
        tokio::task::yield_now().await;
        client.send_raw(&bytes[cut..]).await?;
        ensure!(matches!(client.reply(77).await?.body, DownBody::HeartbeatResp(_)), "split at {cut}");
    }
    for byte in &bytes {
        client.send_raw(&[*byte]).await?;
    }
    client.reply(77).await?;
    Ok(())
}
