//! From a publication to the bytes on a wire: the variants (protocol × dialect × framing) that a channel's log keeps.
//!
//! A variant is made once per publication, whatever the number of its subscribers. Protocol 0 is numbered at the
//! edge, so its variants hold the frame's body only, and the write state puts framing and number before it.

use bytes::{Bytes, BytesMut};
use prost::Message;
use trunkline_broker::{ChannelName, Encode, Entry, ItemKind, Variant};
use trunkline_proto::wire::{BusinessResponse, ChannelPosition, Publication, PushType, ServerPush};
use trunkline_proto::{Dialect, DownBody, DownFrame};
use trunkline_session::{Protocol, Seq};
use trunkline_transport::{FrameKind, Framing};

/// The longest framing header: WebSocket's, with a 64-bit length and a mask.
const MAX_HEAD: usize = 14;

const FIRST_VARIANT: Variant = match Variant::new(0) {
    Some(variant) => variant,
    None => panic!(),
};

/// No number on the wire reaches 2^53 (protocol.md section 1).
const LARGEST: u64 = (1 << 53) - 1;

/// How a connection's frames are written; fixed by its START.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireForm {
    pub(crate) protocol: Protocol,
    pub(crate) dialect: Dialect,
    pub(crate) framing: Framing,
}

impl WireForm {
    /// The slot of this form in a log's entries.
    pub(crate) fn variant(self) -> Variant {
        let framing = match (self.protocol, self.framing) {
            (Protocol::Trunkline, Framing::Length | Framing::Packet) => 0,
            (Protocol::Trunkline, Framing::WebSocket { .. }) => 1,
            (Protocol::Seed, _) => 2,
        };
        const { assert!(Variant::COUNT >= 6, "a log has room for three framings in two dialects") };
        let index = 2 * framing + usize::from(self.dialect == Dialect::Json);
        Variant::new(index).unwrap_or(FIRST_VARIANT)
    }

    /// A whole frame of protocol 1, framing included.
    pub(crate) fn frame(self, frame: &DownFrame) -> Bytes {
        self.framing.frame(self.kind(), &self.dialect.encode_down(frame))
    }

    /// WebSocket says by its message kind which dialect a frame is in.
    pub(crate) fn kind(self) -> FrameKind {
        match self.dialect {
            Dialect::Protobuf => FrameKind::Binary,
            Dialect::Json => FrameKind::Text,
        }
    }

    /// What goes before a protocol 0 body: framing, and the delivery number as the first field of the frame.
    /// The rest of the body follows; for JSON its opening brace is already written here.
    pub(crate) fn numbered(self, seq: Seq, body: &Bytes) -> (Bytes, Bytes) {
        let (number, rest) = match self.dialect {
            Dialect::Protobuf => {
                let mut number = Vec::with_capacity(11);
                if seq.0 > 0 {
                    prost::encoding::uint64::encode(2, &seq.0, &mut number);
                }
                (number, body.clone())
            }
            Dialect::Json if seq.0 == 0 => (Vec::new(), body.clone()),
            Dialect::Json => {
                let comma = if body.get(1) == Some(&b'}') { "" } else { "," };
                (format!("{{\"seq_id\":{}{comma}", seq.0).into_bytes(), body.slice(body.len().min(1)..))
            }
        };
        let mut head = Vec::with_capacity(MAX_HEAD + number.len());
        self.framing.write_header(self.kind(), number.len() + rest.len(), &mut head);
        head.extend_from_slice(&number);
        (head.into(), rest)
    }
}

impl Encode for WireForm {
    fn encode(&self, channel: &ChannelName, entry: &Entry, out: &mut BytesMut) {
        let body = match self.protocol {
            Protocol::Trunkline => self.dialect.encode_down(&publication(channel, entry)),
            Protocol::Seed => self.dialect.encode_down(&seed_publication(channel, entry)),
        };
        if self.protocol == Protocol::Trunkline {
            let mut head = Vec::with_capacity(MAX_HEAD);
            self.framing.write_header(self.kind(), body.len(), &mut head);
            out.extend_from_slice(&head);
        }
        out.extend_from_slice(&body);
    }
}

/// The size as protobuf of the frame that carries a push of `body` bytes on this channel, wherever in its history it
/// will stand: what is accepted must not depend on which offset it gets. Protocol 0's frame is smaller, since its
/// number takes less than a position.
pub(crate) fn push_size(channel: &str, body: usize) -> usize {
    frame_size(channel, PushType::PushBusinessData, body)
}

/// As [`push_size`], for a publication by `sender`.
pub(crate) fn publication_size(channel: &str, sender: &str, data: &Bytes) -> usize {
    let body = Publication {
        offset: 0,
        data: data.clone(),
        timestamp: LARGEST.cast_signed(),
        sender: sender.to_owned(),
    };
    frame_size(channel, PushType::PushPublication, body.encoded_len())
}

/// Would the push's frame as JSON be longer than `limit`? Nearly none can be, which is seen without encoding it.
pub(crate) fn push_exceeds_as_json(channel: &str, response: &BusinessResponse, limit: usize) -> bool {
    let BusinessResponse { message, msg_type, title, content, metadata, data, code: _ } = response;
    let of_metadata: usize = metadata.iter().map(|(key, value)| key.len() + value.len() + 1).sum();
    let text = channel.len() + message.len() + msg_type.len() + title.len() + content.len() + of_metadata;
    json_at_most(text, data.len()) > limit
        && json_size(channel, DownBody::BusinessData(response.clone())) > limit
}

/// As [`push_exceeds_as_json`], for a publication by `sender`.
pub(crate) fn publication_exceeds_as_json(channel: &str, sender: &str, data: &Bytes, limit: usize) -> bool {
    let body = || Publication {
        offset: 0,
        data: data.clone(),
        timestamp: LARGEST.cast_signed(),
        sender: sender.to_owned(),
    };
    json_at_most(channel.len() + sender.len(), data.len()) > limit
        && json_size(channel, DownBody::Publication(body())) > limit
}

/// No frame of so much text and data is longer: the worst of texts are control characters, written as six bytes
/// (\u0001), and data that is no JSON is base64.
fn json_at_most(text: usize, data: usize) -> usize {
    const AROUND: usize = 512;
    AROUND + 6 * text + data.div_ceil(3) * 4
}

fn json_size(channel: &str, body: DownBody) -> usize {
    let position = ChannelPosition { channel: channel.to_owned(), epoch: LARGEST, offset: LARGEST };
    Dialect::Json.encode_down(&DownFrame::publication(position, body)).len()
}

fn frame_size(channel: &str, kind: PushType, body: usize) -> usize {
    let around = ServerPush {
        r#type: kind as i32,
        channel: channel.to_owned(),
        epoch: LARGEST,
        offset: LARGEST,
        ..ServerPush::default()
    };
    // The payload is a field of its own: a tag of one byte, its length, its bytes.
    around.encoded_len() + 1 + prost::length_delimiter_len(body) + body
}

/// A publication as protocol 1 has it: outside the payload its channel, epoch and offset, no number.
pub(crate) fn publication(channel: &ChannelName, entry: &Entry) -> DownFrame {
    let position = ChannelPosition {
        channel: channel.as_str().to_owned(),
        epoch: entry.position.epoch.0,
        offset: entry.position.offset.0,
    };
    let body = match entry.item.kind {
        ItemKind::Push => DownBody::BusinessData(push_body(&entry.item.data)),
        ItemKind::Publication => DownBody::Publication(Publication {
            offset: 0,
            data: entry.item.data.clone(),
            timestamp: entry.timestamp_ms,
            sender: entry.item.sender.to_string(),
        }),
    };
    DownFrame::publication(position, body)
}

/// A publication as a seed client has it: a BusinessResponse outside any channel.
fn seed_publication(channel: &ChannelName, entry: &Entry) -> DownFrame {
    let response = match entry.item.kind {
        ItemKind::Push => push_body(&entry.item.data),
        ItemKind::Publication => BusinessResponse {
            code: 200,
            message: format!("[{}]", channel.as_str()),
            data: entry.item.data.clone(),
            ..BusinessResponse::default()
        },
    };
    DownFrame::new(0, DownBody::BusinessData(response))
}

/// The body of an upstream's push. This node or another of the cluster encoded it, so it decodes; if it does not, an
/// empty body is delivered rather than none, so that offsets stay whole.
fn push_body(data: &Bytes) -> BusinessResponse {
    BusinessResponse::decode(data.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trunkline_broker::{Epoch, Item, Offset, Position};

    use super::*;

    fn encoded(protocol: Protocol, entry: &Entry) -> usize {
        let channel = ChannelName::new("room:1").unwrap();
        let frame = match protocol {
            Protocol::Trunkline => publication(&channel, entry),
            Protocol::Seed => DownFrame { seq_id: u64::MAX, ..seed_publication(&channel, entry) },
        };
        Dialect::Protobuf.encode_down(&frame).len()
    }

    #[test]
    fn what_json_makes_of_a_push_is_never_underestimated() {
        let worst = "\u{1}".repeat(2_000);
        let metadata = (0..50).map(|n| (format!("{n}"), String::new())).collect();
        let text = BusinessResponse { code: i32::MIN, content: worst, metadata, ..Default::default() };
        let data = BusinessResponse { data: vec![0xff; 20_000].into(), ..Default::default() };
        for response in [text, data, BusinessResponse::default()] {
            let size = json_size("room:1", DownBody::BusinessData(response.clone()));
            assert!(!push_exceeds_as_json("room:1", &response, size));
            assert!(push_exceeds_as_json("room:1", &response, size - 1));
        }
        let data = Bytes::from(vec![0xff; 20_000]);
        let body = Publication {
            data: data.clone(),
            timestamp: LARGEST.cast_signed(),
            sender: "alice".into(),
            offset: 0,
        };
        let size = json_size("room:1", DownBody::Publication(body));
        assert!(!publication_exceeds_as_json("room:1", "alice", &data, size));
        assert!(publication_exceeds_as_json("room:1", "alice", &data, size - 1));
    }

    #[test]
    fn a_size_told_beforehand_is_the_frames_at_its_largest() {
        for length in [1, 100, 127, 128, 16_000, 1 << 20] {
            let data = Bytes::from(vec![7; length]);
            let response =
                BusinessResponse { title: "title".into(), data: data.clone(), ..Default::default() };
            let body = response.encode_to_vec();
            for (told, item) in [
                (push_size("room:1", body.len()), Item::push("", body)),
                (publication_size("room:1", "alice", &data), Item::publication("alice", data)),
            ] {
                let mut entry = Entry {
                    position: Position { epoch: Epoch(LARGEST), offset: Offset(LARGEST) },
                    prev: Offset(0),
                    timestamp_ms: LARGEST.cast_signed(),
                    item: Arc::new(item),
                };
                assert_eq!(told, encoded(Protocol::Trunkline, &entry), "{length}");
                assert!(told >= encoded(Protocol::Seed, &entry), "{length}");
                entry.position.offset = Offset(1);
                assert!(told > encoded(Protocol::Trunkline, &entry), "{length}");
            }
        }
    }
}
