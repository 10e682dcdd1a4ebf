//! Keyed values, leases and presence: one table under one lock, because they end together.
//!
//! Pure: time comes in with each operation, and nothing here waits or writes. Whatever has expired is gone before an
//! operation looks, so that expiry needs no exact timer; the sweeper only makes it visible to watchers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{StoredLife, StoredValue, to_ms};
use super::watchers::Watchers;
use crate::broker::{BrokerError, Condition, Deleted, Life, Member, Members, Versioned, Written};
use crate::names::{ChannelName, Fence, LeaseId, Revision};

/// The table.
pub(super) struct Table {
    values: BTreeMap<String, Value>,
    leases: HashMap<LeaseId, LeaseState>,
    presence: HashMap<ChannelName, HashMap<Arc<str>, Seat>>,
    /// When values with a ttl and leases end.
    ends: BTreeSet<(Duration, Ending)>,
    pub(super) watchers: Watchers,
    /// The key that a write to disk is under way for. Others of the same key must queue behind it.
    pub(super) pending: Option<String>,
    /// What is on disk holds something that is gone.
    pub(super) stale_disk: bool,
    limits: TableLimits,
    bytes: usize,
    durable_bytes: usize,
    last_revision: u64,
    last_lease: u64,
}

/// How much the table takes, and which keys outlive the process.
#[derive(Debug, Clone)]
pub(super) struct TableLimits {
    pub(super) bytes: usize,
    pub(super) durable_bytes: usize,
    pub(super) durable_prefixes: Vec<String>,
}

#[derive(Debug, Clone)]
struct Value {
    value: Bytes,
    revision: Revision,
    fence: Option<Fence>,
    life: Lived,
}

/// A value's life, begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lived {
    Forever,
    Until { end: Duration, ttl: Duration },
    Lease(LeaseId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Value(String),
    Lease(LeaseId),
}

struct LeaseState {
    ttl: Duration,
    end: Duration,
    keys: BTreeSet<String>,
    members: HashSet<(ChannelName, Arc<str>)>,
}

struct Seat {
    member: Member,
    lease: LeaseId,
}

/// One write to the values.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) key: String,
    pub(super) condition: Condition,
    /// `None` removes.
    pub(super) put: Option<(Bytes, Life)>,
}

/// What became of an edit.
#[derive(Debug, Clone)]
pub(super) enum Edited {
    Put(Revision),
    Removed,
    Refused(Option<Versioned>),
}

impl Edited {
    pub(super) fn written(self) -> Written {
        match self {
            Edited::Put(revision) => Written::Done(revision),
            // A put that was done is `Put`; nothing removes in its place.
            Edited::Removed => Written::Refused(None),
            Edited::Refused(current) => Written::Refused(current),
        }
    }

    pub(super) fn deleted(self) -> Deleted {
        match self {
            Edited::Put(_) | Edited::Removed => Deleted::Done,
            Edited::Refused(current) => Deleted::Refused(current),
        }
    }
}

impl Table {
    /// An empty table. Revisions and lease ids begin above `base`, which rises with every incarnation.
    pub(super) fn new(base: u64, limits: TableLimits) -> Self {
        Table {
            values: BTreeMap::new(),
            leases: HashMap::new(),
            presence: HashMap::new(),
            ends: BTreeSet::new(),
            watchers: Watchers::default(),
            pending: None,
            stale_disk: false,
            limits,
            bytes: 0,
            durable_bytes: 0,
            last_revision: base,
            last_lease: base,
        }
    }

    /// Puts back what was on disk. A ttl or a lease begins anew: nobody could renew it meanwhile.
    pub(super) fn restore(&mut self, stored: Vec<StoredValue>, now: Duration) {
        for StoredValue { key, value, fence, life } in stored {
            let life = match life {
                StoredLife::Forever => Lived::Forever,
                StoredLife::TtlMs(ms) => {
                    let ttl = Duration::from_millis(ms);
                    Lived::Until { end: now.saturating_add(ttl), ttl }
                }
                StoredLife::Lease { id, ttl_ms } => {
                    self.begin_lease(id, Duration::from_millis(ttl_ms), now);
                    Lived::Lease(id)
                }
            };
            let revision = self.next_revision();
            self.insert(key, Value { value, revision, fence, life });
        }
    }

    /// Loses everything, as an engine that was wiped.
    pub(super) fn wipe(&mut self, base: u64) {
        let fresh = Table::new(base.max(self.last_revision), self.limits.clone());
        let old = std::mem::replace(self, fresh);
        self.watchers = old.watchers;
        self.pending = old.pending;
        self.stale_disk = true;
        self.watchers.resync_all();
    }

    /// Ends what has ended by now.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some((end, _)) = self.ends.first()
            && *end <= now
        {
            match self.ends.pop_first() {
                Some((_, Ending::Value(key))) => {
                    self.remove(&key);
                }
                Some((_, Ending::Lease(id))) => self.end_lease(id),
                None => {}
            }
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<Versioned> {
        self.values.get(key).map(Value::versioned)
    }

    /// Everything under a prefix.
    pub(super) fn under(&self, prefix: &str) -> BTreeMap<String, Versioned> {
        let range = self.values.range(prefix.to_owned()..);
        let with_prefix = range.take_while(|(key, _)| key.starts_with(prefix));
        with_prefix.map(|(key, value)| (key.clone(), value.versioned())).collect()
    }

    /// Whether an edit changes what must be on disk, or must wait for one that does. Renewing a value by writing it
    /// again as it is does neither: versions and the moment a ttl ends are not on disk.
    pub(super) fn needs_disk(&self, edit: &Edit) -> bool {
        if self.pending.as_ref() == Some(&edit.key) {
            return true;
        }
        let put = self.stored_put(edit);
        let current = self.values.get(&edit.key).filter(|value| self.is_durable(&edit.key, value));
        let current = current.map(|value| self.stored(&edit.key, value));
        // While the disk is behind it may hold something else than the table does.
        put != current || put.is_some() && self.stale_disk
    }

    /// Checks an edit without doing it: `Ok(Some(..))` is a refusal.
    pub(super) fn check(&self, edit: &Edit) -> Result<Option<Edited>, BrokerError> {
        let current = self.values.get(&edit.key);
        let holds = match edit.condition {
            Condition::Any => true,
            Condition::Absent => current.is_none(),
            Condition::Revision(revision) => current.is_some_and(|value| value.revision == revision),
            Condition::FenceAtLeast(fence) => current.and_then(|value| value.fence) <= Some(fence),
        };
        if !holds {
            return Ok(Some(Edited::Refused(current.map(Value::versioned))));
        }
        let Some((value, life)) = &edit.put else { return Ok(None) };
        if let Life::Lease(id) = life
            && !self.leases.contains_key(id)
        {
            return Err(BrokerError::LeaseEnded(*id));
        }
        let cost = edit.key.len() + value.len();
        let before = current.map_or(0, |value| value.cost(&edit.key));
        if self.bytes - before + cost > self.limits.bytes {
            return Err(BrokerError::Full { what: "bytes of keyed values", limit: self.limits.bytes });
        }
        if *life == Life::Forever || self.is_durable_key(&edit.key) {
            let before = current.filter(|value| self.is_durable(&edit.key, value));
            let before = before.map_or(0, |value| value.cost(&edit.key));
            if self.durable_bytes - before + cost > self.limits.durable_bytes {
                let limit = self.limits.durable_bytes;
                return Err(BrokerError::Full { what: "bytes of durable keyed values", limit });
            }
        }
        Ok(None)
    }

    /// Does an edit that [`Table::check`] found right.
    pub(super) fn apply(&mut self, edit: Edit, now: Duration) -> Result<Edited, BrokerError> {
        let Edit { key, condition, put } = edit;
        let Some((value, life)) = put else {
            self.remove(&key);
            return Ok(Edited::Removed);
        };
        let life = match life {
            Life::Forever => Lived::Forever,
            Life::Ttl(ttl) => Lived::Until { end: now.saturating_add(ttl), ttl },
            Life::Lease(id) if self.leases.contains_key(&id) => Lived::Lease(id),
            Life::Lease(id) => return Err(BrokerError::LeaseEnded(id)),
        };
        let fence = self.fence_after(&key, condition);
        let revision = self.next_revision();
        self.insert(key.clone(), Value { value, revision, fence, life });
        if let Some(versioned) = self.value(&key) {
            self.watchers.put(&key, &versioned);
        }
        Ok(Edited::Put(revision))
    }

    /// What the disk must hold, once this edit is done.
    pub(super) fn durable_values(&self, edit: Option<&Edit>) -> Vec<StoredValue> {
        let others = self
            .values
            .iter()
            .filter(|(key, value)| self.is_durable(key, value) && edit.is_none_or(|edit| edit.key != **key));
        let mut stored: Vec<StoredValue> = others.map(|(key, value)| self.stored(key, value)).collect();
        stored.extend(edit.and_then(|edit| self.stored_put(edit)));
        stored
    }

    fn stored(&self, key: &str, value: &Value) -> StoredValue {
        let life = self.stored_life(value.life);
        StoredValue { key: key.to_owned(), value: value.value.clone(), fence: value.fence, life }
    }

    /// The form on disk of what an edit puts, if that is durable.
    fn stored_put(&self, edit: &Edit) -> Option<StoredValue> {
        let (value, life) = edit.put.as_ref()?;
        let life = match *life {
            Life::Forever => StoredLife::Forever,
            Life::Ttl(ttl) => StoredLife::TtlMs(to_ms(ttl)),
            Life::Lease(id) => self.stored_life(Lived::Lease(id)),
        };
        let durable = life == StoredLife::Forever || self.is_durable_key(&edit.key);
        let fence = self.fence_after(&edit.key, edit.condition);
        durable.then(|| StoredValue { key: edit.key.clone(), value: value.clone(), fence, life })
    }

    /// The fence of a key after a write under this condition: a fence never falls, nor is it lost.
    fn fence_after(&self, key: &str, condition: Condition) -> Option<Fence> {
        let given = match condition {
            Condition::FenceAtLeast(fence) => Some(fence),
            _ => None,
        };
        self.values.get(key).and_then(|value| value.fence).max(given)
    }

    /// A new lease.
    pub(super) fn lease(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.last_lease += 1;
        let id = LeaseId(self.last_lease);
        self.begin_lease(id, ttl, now);
        id
    }

    pub(super) fn renew(&mut self, id: LeaseId, now: Duration) -> Result<(), BrokerError> {
        let lease = self.leases.get_mut(&id).ok_or(BrokerError::LeaseEnded(id))?;
        self.ends.remove(&(lease.end, Ending::Lease(id)));
        lease.end = now.saturating_add(lease.ttl);
        self.ends.insert((lease.end, Ending::Lease(id)));
        Ok(())
    }

    /// Ends a lease, with its values and its presence.
    pub(super) fn end_lease(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        self.ends.remove(&(lease.end, Ending::Lease(id)));
        for key in lease.keys {
            self.remove(&key);
        }
        for (channel, session) in lease.members {
            self.unseat(&channel, &session);
        }
    }

    pub(super) fn join(
        &mut self,
        channel: &ChannelName,
        member: Member,
        id: LeaseId,
    ) -> Result<(), BrokerError> {
        if !self.leases.contains_key(&id) {
            return Err(BrokerError::LeaseEnded(id));
        }
        self.leave(channel, &member.session);
        let session = member.session.clone();
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.members.insert((channel.clone(), session.clone()));
        }
        self.presence.entry(channel.clone()).or_default().insert(session, Seat { member, lease: id });
        Ok(())
    }

    pub(super) fn leave(&mut self, channel: &ChannelName, session: &str) {
        if let Some(seat) = self.unseat(channel, session)
            && let Some(lease) = self.leases.get_mut(&seat.lease)
        {
            lease.members.remove(&(channel.clone(), seat.member.session));
        }
    }

    pub(super) fn members(&self, channel: &ChannelName, limit: usize) -> Members {
        let Some(seats) = self.presence.get(channel) else { return Members::default() };
        let members = seats.values().take(limit).map(|seat| seat.member.clone()).collect();
        Members { total: seats.len(), members }
    }

    fn unseat(&mut self, channel: &ChannelName, session: &str) -> Option<Seat> {
        let seats = self.presence.get_mut(channel)?;
        let seat = seats.remove(session);
        if seats.is_empty() {
            self.presence.remove(channel);
        }
        seat
    }

    fn begin_lease(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        let end = now.saturating_add(ttl);
        self.leases.entry(id).or_insert_with(|| {
            self.ends.insert((end, Ending::Lease(id)));
            LeaseState { ttl, end, keys: BTreeSet::new(), members: HashSet::new() }
        });
    }

    fn next_revision(&mut self) -> Revision {
        self.last_revision += 1;
        Revision(self.last_revision)
    }

    /// Puts a value in its place, with the books on its life and its size.
    fn insert(&mut self, key: String, value: Value) {
        self.take_out(&key);
        match value.life {
            Lived::Forever => {}
            Lived::Until { end, .. } => {
                self.ends.insert((end, Ending::Value(key.clone())));
            }
            Lived::Lease(id) => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.keys.insert(key.clone());
                }
            }
        }
        self.bytes += value.cost(&key);
        if self.is_durable(&key, &value) {
            self.durable_bytes += value.cost(&key);
        }
        self.values.insert(key, value);
    }

    /// Removes a value and tells the watchers.
    fn remove(&mut self, key: &str) {
        if let Some(value) = self.take_out(key) {
            self.stale_disk |= self.is_durable(key, &value);
            self.watchers.gone(key, value.revision);
        }
    }

    fn take_out(&mut self, key: &str) -> Option<Value> {
        let value = self.values.remove(key)?;
        match value.life {
            Lived::Forever => {}
            Lived::Until { end, .. } => {
                self.ends.remove(&(end, Ending::Value(key.to_owned())));
            }
            Lived::Lease(id) => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.keys.remove(key);
                }
            }
        }
        self.bytes -= value.cost(key);
        if self.is_durable(key, &value) {
            self.durable_bytes -= value.cost(key);
        }
        Some(value)
    }

    fn stored_life(&self, life: Lived) -> StoredLife {
        match life {
            Lived::Forever => StoredLife::Forever,
            Lived::Until { ttl, .. } => StoredLife::TtlMs(to_ms(ttl)),
            Lived::Lease(id) => {
                let ttl = self.leases.get(&id).map_or(Duration::ZERO, |lease| lease.ttl);
                StoredLife::Lease { id, ttl_ms: to_ms(ttl) }
            }
        }
    }

    fn is_durable(&self, key: &str, value: &Value) -> bool {
        value.life == Lived::Forever || self.is_durable_key(key)
    }

    /// Durable whatever its life.
    fn is_durable_key(&self, key: &str) -> bool {
        self.limits.durable_prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }
}

impl Value {
    fn versioned(&self) -> Versioned {
        Versioned { value: self.value.clone(), revision: self.revision, fence: self.fence }
    }

    fn cost(&self, key: &str) -> usize {
        key.len() + self.value.len()
    }
}
