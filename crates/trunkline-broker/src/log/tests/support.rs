//! A log with hands on it, and an encoding that can be read back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::super::{Addition, Cursor, LiveWindow, Log, Piece, ReadOutcome, Stamp, Subscription, Unpark};
use crate::item::{Encode, Entry, Item, Variant};
use crate::limits::HistoryLimits;
use crate::names::{ChannelName, Epoch, Offset, Position};

pub(super) const EPOCH: u64 = 1_000;

pub(super) fn channel() -> ChannelName {
    ChannelName::new("room:1").unwrap()
}

pub(super) fn log() -> Arc<Log> {
    let log = Log::new(channel(), Epoch(10), Epoch(20));
    log.keep_live_window(LiveWindow::Kept);
    Arc::new(log)
}

pub(super) fn variant(index: usize) -> Variant {
    Variant::new(index).unwrap()
}

pub(super) fn stamp(uptime: Duration) -> Stamp {
    Stamp { timestamp_ms: 0, uptime }
}

/// Publishes at uptime zero without history.
pub(super) fn publish(log: &Log, data: impl Into<Bytes>) -> Position {
    publish_with(log, data, Duration::ZERO, HistoryLimits::NONE)
}

pub(super) fn publish_with(
    log: &Log,
    data: impl Into<Bytes>,
    uptime: Duration,
    limits: HistoryLimits,
) -> Position {
    let item = Item::publication("", data);
    let addition = Addition { item, stamp: stamp(uptime), limits, ttl: None };
    log.append_next(addition, || Epoch(EPOCH)).unwrap().position
}

pub(super) fn at(offset: u64) -> Position {
    Position::new(EPOCH, offset)
}

/// Writes epoch, offset, length and payload, and counts how often it was asked for each entry.
#[derive(Default)]
pub(super) struct Plain {
    pub(super) asked: Mutex<HashMap<Position, u32>>,
}

impl Encode for Plain {
    fn encode(&self, name: &ChannelName, entry: &Entry, out: &mut BytesMut) {
        assert_eq!(*name, channel());
        *self.asked.lock().entry(entry.position).or_default() += 1;
        out.put_u64(entry.position.epoch.0);
        out.put_u64(entry.position.offset.0);
        out.put_u32(entry.item.data.len() as u32);
        out.put_slice(&entry.item.data);
    }
}

impl Plain {
    pub(super) fn most_asked(&self) -> u32 {
        self.asked.lock().values().copied().max().unwrap_or(0)
    }
}

/// Reads back what [`Plain`] wrote.
pub(super) fn decode(mut bytes: Bytes) -> Vec<(Position, Bytes)> {
    let mut found = Vec::new();
    while bytes.has_remaining() {
        let (epoch, offset, length) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u32());
        let position = Position { epoch: Epoch(epoch), offset: Offset(offset) };
        found.push((position, bytes.split_to(length as usize)));
    }
    found
}

/// Counts how often it was unparked.
#[derive(Default)]
pub(super) struct Bell(AtomicUsize);

impl Bell {
    pub(super) fn rung(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Unpark for Bell {
    fn unpark(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A subscription with whom it unparks.
pub(super) struct Parking {
    subscription: Subscription,
    bell: Arc<Bell>,
}

impl Parking {
    pub(super) fn new(log: &Arc<Log>, bell: &Arc<Bell>) -> Self {
        Parking { subscription: log.subscribe(), bell: bell.clone() }
    }

    pub(super) fn park(&self, cursor: &Cursor) -> bool {
        self.subscription.park(cursor, || self.bell.clone())
    }

    pub(super) fn read_or_park(
        &self,
        cursor: &mut Cursor,
        budget: usize,
        out: &mut Vec<Piece>,
    ) -> (ReadOutcome, bool) {
        let plain = Plain::default();
        self.subscription.read_or_park(cursor, variant(0), &plain, budget, out, || self.bell.clone())
    }
}
