//! The living connections of a server, by number and by group. Sharded, so that those who come and go do not wait for
//! each other; nothing is called while a lock is held.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;

use crate::{SessionId, session::core::Core};

/// Enough that a hundred thousand connections which come and go on a few threads hardly ever meet.
const SHARDS: usize = 16;

/// Connections in a row that have one shard.
const ROW: usize = 64;

/// By number, which is by age: so they mostly lie in memory too, and a walk through thousands is less of a jump each.
type Members = BTreeMap<SessionId, Arc<Core>>;

/// One of the places that a server has for connections.
#[derive(Debug)]
pub(crate) struct Place(Arc<Registry>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
    }
}

/// Connections by number, and groups of them.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: [Mutex<Members>; SHARDS],
    count: AtomicUsize,
    next: AtomicU64,
    groups: Mutex<HashMap<String, Members>>,
    /// Which groups a connection is in, so that it leaves them when it ends.
    memberships: Mutex<HashMap<SessionId, Vec<String>>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            groups: Mutex::default(),
            memberships: Mutex::default(),
        }
    }

    pub(crate) fn next_id(&self) -> SessionId {
        SessionId(self.next.fetch_add(1, SeqCst))
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// Takes one of `max` places, until it is dropped.
    pub(crate) fn take_place(self: &Arc<Self>, max: usize) -> Option<Place> {
        let taken = self.count.fetch_update(SeqCst, SeqCst, |count| (count < max).then_some(count + 1));
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// Enters a connection that has its place.
    pub(crate) fn insert(&self, core: Arc<Core>) {
        self.shard(core.id).lock().insert(core.id, core);
    }

    /// Takes a connection out of everything.
    pub(crate) fn remove(&self, id: SessionId) {
        self.shard(id).lock().remove(&id);
        let groups = self.memberships.lock().remove(&id).unwrap_or_default();
        for group in groups {
            self.leave_members(&group, id);
        }
    }

    /// A connection that the server's user may know of.
    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Core>> {
        self.shard(id).lock().get(&id).filter(|core| core.is_admitted()).cloned()
    }

    /// All connections that the server's user may know of.
    pub(crate) fn all(&self) -> Vec<Arc<Core>> {
        let mut all = self.everyone();
        all.retain(|core| core.is_admitted());
        all
    }

    /// All connections, those that have yet to prove themselves too.
    pub(crate) fn everyone(&self) -> Vec<Arc<Core>> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.shards {
            all.extend(shard.lock().values().cloned());
        }
        all
    }

    /// Adds a living connection to a group; false if it is not alive.
    pub(crate) fn join(&self, group: &str, id: SessionId) -> bool {
        let Some(core) = self.find(id) else { return false };
        {
            let mut memberships = self.memberships.lock();
            let own = memberships.entry(id).or_default();
            if own.iter().any(|name| name == group) {
                return true;
            }
            own.push(group.to_owned());
        }
        self.groups.lock().entry(group.to_owned()).or_default().insert(id, core);
        // It may have ended while it joined: then nobody else takes it out again.
        if self.find(id).is_none() {
            self.leave(group, id);
            return false;
        }
        true
    }

    pub(crate) fn leave(&self, group: &str, id: SessionId) {
        {
            let mut memberships = self.memberships.lock();
            if let Some(own) = memberships.get_mut(&id) {
                own.retain(|name| name != group);
                if own.is_empty() {
                    memberships.remove(&id);
                }
            }
        }
        self.leave_members(group, id);
    }

    pub(crate) fn members(&self, group: &str) -> Vec<Arc<Core>> {
        self.groups.lock().get(group).map(|members| members.values().cloned().collect()).unwrap_or_default()
    }

    fn leave_members(&self, group: &str, id: SessionId) {
        let mut groups = self.groups.lock();
        if let Some(members) = groups.get_mut(group) {
            members.remove(&id);
            if members.is_empty() {
                groups.remove(group);
            }
        }
    }

    fn shard(&self, id: SessionId) -> &Mutex<Members> {
        &self.shards[id.0 as usize / ROW % SHARDS]
    }
}
