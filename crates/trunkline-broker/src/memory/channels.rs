//! Which channels there are: logs by name, found under a shard's lock that is held for the look-up only.
//!
//! A channel exists while it is attached or remembered. One that was never published to is gone with its last
//! attachment; one that was is remembered as its (epoch, offset) pair until nobody can hold a position in it, and
//! then as one number of a small table, which is what tells a late position that something was lost.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;

use super::idempotency::Keys;
use super::time::Time;
use crate::broker::{
    Attached, Attachment, BrokerError, Detach, Direction, Figures, Page, PublishOptions, Published,
};
use crate::defaults::{CHANNEL_MEMORY, IDEMPOTENCY_KEY_BYTES};
use crate::item::Item;
use crate::log::{Addition, LiveWindow, Log, LogsFull, Share, Shared};
use crate::names::{ChannelName, Epoch, Position};

/// Enough that two cores seldom meet on one lock, few enough that sweeping one is short.
const SHARDS: usize = 64;

/// Forgotten channels share this many marks. With 4,096, forgetting one channel spoils the never-used positions
/// of one in 4,096 others, and only of those that are not attached.
const MARKS: usize = 4_096;

/// All channels of the engine.
pub(super) struct Channels {
    time: Arc<Time>,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// By a hash of the name: a position (e, 0) below the mark may lie before a forgotten publication.
    marks: Box<[AtomicU64]>,
    max_per_shard: usize,
    essential: fn(&str) -> bool,
    shared: Arc<Shared>,
}

/// How many channels there may be, and which of them may use all of it.
pub(super) struct Limits {
    pub(super) channels: usize,
    pub(super) essential: fn(&str) -> bool,
}

/// A part of the channels.
#[derive(Default)]
struct Shard {
    /// By their logs' names. An entry is one reference, since there are several for each session, and a table has
    /// empty places beside them: what is noted of each channel lies in its log.
    channels: HashTable<Channel>,
    keys: KeysOf,
}

/// The idempotency keys of those few channels that have any.
type KeysOf = HashMap<ChannelName, Arc<Mutex<Keys>>>;

/// One channel.
struct Channel {
    log: Arc<Log>,
}

impl Channels {
    pub(super) fn new(time: Arc<Time>, shared: Arc<Shared>, limits: Limits) -> Arc<Self> {
        let channels = Arc::new(Channels {
            time,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            marks: (0..MARKS).map(|_| AtomicU64::new(0)).collect(),
            max_per_shard: limits.channels.div_ceil(SHARDS),
            essential: limits.essential,
            shared,
        });
        let engine: Weak<Channels> = Arc::downgrade(&channels);
        channels.shared.belongs_to(engine);
        channels
    }

    pub(super) fn publish(
        &self,
        name: &ChannelName,
        item: Item,
        options: PublishOptions,
    ) -> Result<Published, BrokerError> {
        let keyed = options.idempotency_key.is_some();
        let key_bytes = options.idempotency_key.as_ref().map_or(1, |key| key.len());
        if !(1..=IDEMPOTENCY_KEY_BYTES).contains(&key_bytes) {
            let reason =
                format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES} bytes, not {key_bytes}");
            return Err(BrokerError::Invalid(reason));
        }
        let (log, keys) = self.with_channel(name, |channel, keys| {
            let new = || Arc::new(Mutex::new(Keys::new(Arc::clone(&self.shared))));
            let keys = keyed.then(|| keys.entry(name.clone()).or_insert_with(new).clone());
            (channel.log.clone(), keys)
        })?;
        let PublishOptions { limits, ttl, idempotency_key } = options;
        let stamp = self.time.stamp();
        let addition = Addition { item, stamp, limits, ttl };
        let mint = || self.time.mint();
        let Some((key, keys)) = idempotency_key.zip(keys) else {
            let appended = log.append_next(addition, mint).map_err(full)?;
            let (position, live) = (appended.position, Some(appended.subscriptions));
            return Ok(Published { position, duplicate: false, live });
        };
        let mut seen = keys.lock();
        if let Some(position) = seen.find(&key, stamp.uptime) {
            return Ok(Published { position, duplicate: true, live: Some(log.subscriptions()) });
        }
        let place = seen.reserve(key, self.share(name)).map_err(full)?;
        let (appended, woken) = log.append_next_quietly(addition, mint).map_err(full)?;
        seen.remember(place, appended.position, stamp.uptime);
        drop(seen);
        woken.unpark();
        Ok(Published { position: appended.position, duplicate: false, live: Some(appended.subscriptions) })
    }

    pub(super) fn attach(&self, name: &ChannelName, from: Option<Position>) -> Result<Attached, BrokerError> {
        let log = self.with_channel(name, |channel, _| {
            channel.log.notes().attached();
            channel.log.keep_live_window(LiveWindow::Kept);
            channel.log.clone()
        })?;
        let attachment = Attachment::new(log.clone());
        log.expire(self.time.uptime());
        let (cursor, verdict) = log.locate(from);
        Ok(Attached { log, cursor, verdict, attachment })
    }

    pub(super) fn position(&self, name: &ChannelName) -> Position {
        match self.log(name) {
            Some(log) => log.head(),
            None => Position { epoch: self.time.mint(), ..Position::default() },
        }
    }

    pub(super) fn history(
        &self,
        name: &ChannelName,
        since: Option<Position>,
        limit: usize,
        direction: Direction,
    ) -> Page {
        let log = self.log(name).unwrap_or_else(|| Arc::new(self.new_log(name)));
        log.expire(self.time.uptime());
        log.page(since, limit, direction)
    }

    /// How many shards [`Channels::sweep`] takes turns on.
    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Drops what one shard's channels no longer keep, and the channels that need not be remembered.
    pub(super) fn sweep(&self, shard: usize) {
        let Some(shard) = self.shards.get(shard) else { return };
        let now = self.time.uptime();
        let mut shard = shard.lock();
        let Shard { channels, keys } = &mut *shard;
        channels.retain(|channel| {
            channel.expire(now, keys);
            let last_used_s = channel.log.notes().last_used_s();
            let idle = seconds(now).saturating_sub(last_used_s) >= seconds(CHANNEL_MEMORY);
            let needless = channel.log.epoch().is_none();
            let gone = (idle || needless) && channel.is_unused(keys);
            if gone {
                self.mark_forgotten(channel);
            }
            !gone
        });
        // A storm's room is given back; a tenth of slack would be given back and taken again for ever.
        if channels.len() < channels.capacity() / 4 {
            channels.shrink_to_fit(|channel| self.hash(channel.name()));
        }
        if keys.len() < keys.capacity() / 4 {
            keys.shrink_to_fit();
        }
    }

    /// The engine has lost everything: all logs begin anew, and all cursors are told.
    pub(super) fn wipe(&self) {
        let since = Epoch(self.time.incarnation().0);
        for shard in &self.shards {
            let shard = shard.lock();
            let logs: Vec<Arc<Log>> = shard.channels.iter().map(|channel| channel.log.clone()).collect();
            for keys in shard.keys.values() {
                *keys.lock() = Keys::new(Arc::clone(&self.shared));
            }
            drop(shard);
            for log in logs {
                log.reset(Position { epoch: self.time.mint(), ..Position::default() }, since);
            }
        }
    }

    pub(super) fn figures(&self) -> Figures {
        let channels = self.shards.iter().map(|shard| shard.lock().channels.len()).sum();
        Figures { channels, log_bytes: self.shared.used() }
    }

    fn share(&self, name: &ChannelName) -> Share {
        if (self.essential)(name.as_str()) { Share::Whole } else { Share::Ordinary }
    }

    /// A table looks at the lowest bits and at the seven highest; those that choose the shard are the same in all of a
    /// shard's names, so they stand between.
    fn hash(&self, name: &ChannelName) -> u64 {
        self.hasher.hash_one(name).rotate_left(u64::BITS / 2)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The remainder is below the number of shards.
        &self.shards[((hash >> (u64::BITS / 2)) % SHARDS as u64) as usize]
    }

    fn mark(&self, name: &ChannelName) -> &AtomicU64 {
        // The shard took the low bits; the remainder is below the number of marks.
        &self.marks[(self.hasher.hash_one(name) / SHARDS as u64 % MARKS as u64) as usize]
    }

    fn log(&self, name: &ChannelName) -> Option<Arc<Log>> {
        let hash = self.hash(name);
        let shard = self.shard(hash).lock();
        shard.channels.find(hash, |channel| channel.name() == name).map(|channel| channel.log.clone())
    }

    fn new_log(&self, name: &ChannelName) -> Log {
        let mark = self.mark(name).load(Ordering::Relaxed);
        let since = Epoch(mark.max(self.time.incarnation().0));
        Log::within(Arc::clone(&self.shared), self.share(name), name.clone(), since, self.time.mint())
    }

    /// Finds a channel or makes it, and uses it.
    fn with_channel<T>(
        &self,
        name: &ChannelName,
        then: impl FnOnce(&Channel, &mut KeysOf) -> T,
    ) -> Result<T, BrokerError> {
        let now_s = seconds(self.time.uptime());
        let hash = self.hash(name);
        let is_it = |channel: &Channel| channel.name() == name;
        let mut shard = self.shard(hash).lock();
        let room = self.share(name).of(self.max_per_shard);
        let is_full = shard.channels.len() >= room && shard.channels.find(hash, is_it).is_none();
        if is_full && !self.make_room(&mut shard) {
            let limit = room * SHARDS;
            return Err(BrokerError::Full { what: "channels", limit });
        }
        let Shard { channels, keys } = &mut *shard;
        let channel = match channels.entry(hash, is_it, |channel| self.hash(channel.name())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let log = Arc::new(self.new_log(name));
                vacant.insert(Channel { log }).into_mut()
            }
        };
        channel.log.notes().used(now_s);
        Ok(then(channel, keys))
    }

    /// Forgets the unused channels of a full shard that were used longest ago, an eighth of it at a time, so that
    /// a flood of new names does not search the shard for each. Where there are none, those go that are remembered
    /// for their keys alone: a publication that is repeated later than all of that is the lesser evil.
    fn make_room(&self, shard: &mut Shard) -> bool {
        let now = self.time.uptime();
        let mut unused: Vec<(bool, u32, ChannelName)> = Vec::new();
        let Shard { channels, keys } = shard;
        for channel in channels.iter() {
            channel.expire(now, keys);
            if channel.is_idle() {
                let name = channel.name();
                unused.push((keys.contains_key(name), channel.log.notes().last_used_s(), name.clone()));
            }
        }
        unused.sort_unstable();
        let first_keyed = unused.partition_point(|(keyed, ..)| !keyed);
        let most = self.max_per_shard.div_ceil(8);
        unused.truncate(if first_keyed > 0 { first_keyed.min(most) } else { most });
        for (_, _, name) in &unused {
            if let Ok(channel) = channels.find_entry(self.hash(name), |channel| channel.name() == name) {
                self.mark_forgotten(&channel.remove().0);
                keys.remove(name);
            }
        }
        !unused.is_empty()
    }

    /// Notes that a channel is forgotten, under its shard's lock, so that the next log of that name knows it.
    fn mark_forgotten(&self, channel: &Channel) {
        if let Some(epoch) = channel.log.epoch() {
            self.mark(channel.name()).fetch_max(epoch.0 + 1, Ordering::Relaxed);
        }
    }
}

impl Detach for Channels {
    fn detach(&self, log: &Arc<Log>) {
        let now = self.time.uptime();
        let hash = self.hash(log.channel());
        let mut shard = self.shard(hash).lock();
        let Shard { channels, keys } = &mut *shard;
        let Ok(entry) = channels.find_entry(hash, |channel| Arc::ptr_eq(&channel.log, log)) else { return };
        let channel = entry.get();
        channel.log.notes().used(seconds(now));
        if channel.log.notes().detached() > 0 {
            return;
        }
        channel.log.keep_live_window(LiveWindow::Off);
        channel.log.expire(now);
        let is_keyed = keys.contains_key(channel.name());
        if channel.log.epoch().is_none() && !is_keyed && channel.is_idle_but_for(1) {
            entry.remove();
        }
    }
}

impl Channel {
    fn name(&self) -> &ChannelName {
        self.log.channel()
    }

    /// Drops what is no longer kept.
    fn expire(&self, now: Duration, keys: &mut KeysOf) {
        self.log.expire(now);
        if let Some(own) = keys.get(self.name()) {
            let mut seen = own.lock();
            seen.expire(now);
            let empty = seen.is_empty();
            drop(seen);
            // Whoever else holds the keys is about to remember one.
            if empty && Arc::strong_count(own) == 1 {
                keys.remove(self.name());
            }
        }
    }

    /// Whether nobody would miss it: it is idle, and no key is remembered.
    fn is_unused(&self, keys: &KeysOf) -> bool {
        !keys.contains_key(self.name()) && self.is_idle()
    }

    /// Whether nobody is attached, nothing is kept, and nobody is about to publish. A publisher takes its reference
    /// under the shard's lock, which the caller holds.
    fn is_idle(&self) -> bool {
        self.is_idle_but_for(0)
    }

    /// The same, but so many known ones hold the log.
    fn is_idle_but_for(&self, known: usize) -> bool {
        self.log.notes().attachments() == 0
            && Arc::strong_count(&self.log) == 1 + known
            && self.log.is_empty()
    }
}

fn full(full: LogsFull) -> BrokerError {
    BrokerError::Full { what: "bytes of publications", limit: full.limit }
}

fn seconds(uptime: Duration) -> u32 {
    u32::try_from(uptime.as_secs()).unwrap_or(u32::MAX)
}
