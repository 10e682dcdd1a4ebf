//! A channel as a connection follows it: how far it was written, where a write that ended in the middle has cut it, and
//! the frame that stands in its place for what is lost. It chooses nothing and writes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use trunkline_broker::{ChannelName, Cursor, Encode, Entry, Log, ReadOutcome, Subscription};
use trunkline_proto::wire::ChannelGap;
use trunkline_proto::{DownBody, DownFrame};
use trunkline_session::Channel;

use crate::encode::WireForm;
use crate::session::to_session;

/// A channel of this connection: the place at its log that wakes the connection, and how far it was written.
pub(super) struct Live {
    pub(super) subscription: Subscription,
    pub(super) cursor: Cursor,
}

impl Live {
    pub(super) fn log(&self) -> &Arc<Log> {
        self.subscription.log()
    }

    pub(super) fn name(&self) -> &Channel {
        self.log().channel().as_shared()
    }
}

/// Where a run of publications was cut: what came before is delivered, the tail of the one that was cut is the begun
/// frame, and what follows is read again later.
pub(super) struct Cut {
    pub(super) cursor: Cursor,
    pub(super) entries: u32,
    pub(super) tail: Bytes,
}

/// Finds the publication that a write ended in, by reading the run again. `None`: the log has lost it meanwhile, so
/// the whole run has to stay begun.
pub(super) fn cut(live: &Live, encode: &Counting, mut left: usize) -> Option<Cut> {
    let mut cursor = live.cursor;
    let mut found = Cut { cursor, entries: 0, tail: Bytes::new() };
    let mut pieces = Vec::new();
    while left > 0 {
        let outcome = live.log().read(&mut cursor, encode.form.variant(), encode, left, &mut pieces);
        if matches!(outcome, ReadOutcome::Gap { .. }) || pieces.is_empty() {
            return None;
        }
        for piece in pieces.drain(..) {
            found.entries += piece.entries;
            found.cursor = Cursor::at(piece.last);
            if piece.bytes.len() >= left {
                // More than asked for comes only as a single publication: the one that was cut.
                found.tail = Bytes::copy_from_slice(&piece.bytes[left..]);
                return Some(found);
            }
            left -= piece.bytes.len();
        }
    }
    Some(found)
}

/// A form that counts what is made in it: the first reader of a publication makes its bytes for all.
pub(super) struct Counting {
    form: WireForm,
    made: AtomicU64,
}

impl Counting {
    pub(super) fn new(form: WireForm) -> Self {
        Counting { form, made: AtomicU64::new(0) }
    }

    pub(super) fn take(&self) -> u64 {
        self.made.swap(0, Relaxed)
    }
}

impl Encode for Counting {
    fn encode(&self, channel: &ChannelName, entry: &Entry, out: &mut BytesMut) {
        self.made.fetch_add(1, Relaxed);
        self.form.encode(channel, entry, out);
    }
}

/// The frame that stands in a channel's place for what is lost.
pub(super) fn gap_frame(
    channel: &str,
    from: trunkline_broker::Position,
    next: trunkline_broker::Position,
) -> DownFrame {
    DownFrame::new(
        0,
        DownBody::Gap(ChannelGap {
            channel: channel.to_owned(),
            epoch: from.epoch.0,
            offset: from.offset.0,
            next: Some(to_session(next).to_wire(channel)),
        }),
    )
}
