//! The node's map of sessions: who is here, by session, user, device and group; and the login policy, which is decided
//! under the map's one lock so that eight STARTs at once leave exactly the sessions that the policy allows.
//!
//! The hub holds sessions with and without a connection. It never locks a session while it holds its own lock.

mod by_name;

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{HashTable, hash_table};
use parking_lot::Mutex;
use trunkline_session::{ConnectionId, SessionId};

use crate::auth::LoginPolicy;
use crate::session::Session;
use by_name::ByName;

/// Sessions of this node.
#[derive(Default)]
pub(crate) struct Hub {
    index: Mutex<Index>,
}

struct Index {
    hasher: RandomState,
    /// By their ids, which they have themselves.
    sessions: HashTable<Arc<Session>>,
    users: ByName,
    /// Without those that named no device.
    devices: ByName,
    groups: HashMap<Arc<str>, Vec<Arc<Session>>>,
    /// The groups of each session that is in any, as its newest token has them.
    groups_of: HashMap<SessionId, Vec<Arc<str>>>,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            hasher: RandomState::new(),
            sessions: HashTable::new(),
            users: ByName::new(|session| &session.user),
            devices: ByName::new(|session| &session.device),
            groups: HashMap::new(),
            groups_of: HashMap::new(),
        }
    }
}

/// What the login policy says to a new session.
pub(crate) enum Admission {
    /// It is in; these have to go (4301).
    Admitted { replaced: Vec<Arc<Session>> },
    /// The policy is `refuse`, or the user has too many (4306).
    DeviceLimit,
    /// A START with a later fence holds the place already (4301).
    Late,
}

impl Hub {
    /// The session with this id.
    pub(crate) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.index.lock().session(id).cloned()
    }

    /// All sessions of a user.
    pub(crate) fn user(&self, user: &str) -> Vec<Arc<Session>> {
        self.index.lock().users.get(user).to_vec()
    }

    /// All sessions of a group.
    pub(crate) fn group(&self, group: &str) -> Vec<Arc<Session>> {
        self.index.lock().groups.get(group).cloned().unwrap_or_default()
    }

    /// All sessions of a device, whoever uses it.
    pub(crate) fn device(&self, device: &str) -> Vec<Arc<Session>> {
        self.index.lock().devices.get(device).to_vec()
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.index.lock().sessions.iter().cloned().collect()
    }

    /// How many sessions there are, and by their ids those after this one, at most so many.
    pub(crate) fn page(&self, after: Option<SessionId>, limit: usize) -> (usize, Vec<Arc<Session>>) {
        let index = self.index.lock();
        let mut ids: Vec<SessionId> =
            index.sessions.iter().map(|session| session.id).filter(|id| Some(*id) > after).collect();
        if limit < ids.len() {
            // Only the page has to be in order.
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        let page = ids.iter().filter_map(|id| index.session(*id).cloned());
        (index.sessions.len(), page.collect())
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.index.lock().sessions.len()
    }

    /// How many of them a connection holds.
    pub(crate) fn live(&self) -> usize {
        self.index.lock().sessions.iter().filter(|session| session.is_live()).count()
    }

    /// The connections whose sessions run a call now.
    pub(crate) fn calling(&self) -> HashSet<ConnectionId> {
        let sessions: Vec<_> =
            self.index.lock().sessions.iter().filter(|session| session.is_calling()).cloned().collect();
        sessions.iter().filter_map(|session| session.connection()).collect()
    }

    /// Lets a new session in, as far as the policy allows.
    pub(crate) fn admit(&self, new: &Arc<Session>, policy: LoginPolicy, max_devices: usize) -> Admission {
        let mut index = self.index.lock();
        let mine = index.users.get(&new.user);
        let same_place = |other: &&Arc<Session>| match policy {
            LoginPolicy::Device => other.device == new.device,
            LoginPolicy::Platform => other.platform == new.platform,
            LoginPolicy::One | LoginPolicy::Refuse => true,
            LoginPolicy::Many => false,
        };
        let replaced: Vec<Arc<Session>> = mine.iter().filter(same_place).cloned().collect();
        if policy == LoginPolicy::Refuse && replaced.iter().any(|session| session.is_taken()) {
            return Admission::DeviceLimit;
        }
        if replaced.iter().any(|session| session.fence() > new.fence()) {
            return Admission::Late;
        }
        if mine.len() - replaced.len() >= max_devices {
            return Admission::DeviceLimit;
        }
        for old in &replaced {
            index.remove(old);
        }
        index.insert(new);
        Admission::Admitted { replaced }
    }

    /// A START brought a token, and its groups count from here on. A session that has ended is in none.
    pub(crate) fn regroup(&self, session: &Arc<Session>, groups: &[Arc<str>]) {
        let mut index = self.index.lock();
        if index.session(session.id).is_some() {
            index.regroup(session, groups);
        }
    }

    /// Forgets a session that has ended.
    pub(crate) fn remove(&self, session: &Session) {
        self.index.lock().remove(session);
    }
}

impl Index {
    fn session(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.find(self.hasher.hash_one(id), |session| session.id == id)
    }

    fn insert(&mut self, session: &Arc<Session>) {
        let Index { hasher, sessions, .. } = self;
        let is_it = |known: &Arc<Session>| known.id == session.id;
        match sessions.entry(hasher.hash_one(session.id), is_it, |known| hasher.hash_one(known.id)) {
            hash_table::Entry::Occupied(mut known) => *known.get_mut() = Arc::clone(session),
            hash_table::Entry::Vacant(new) => drop(new.insert(Arc::clone(session))),
        }
        self.users.insert(session);
        if !session.device.is_empty() {
            self.devices.insert(session);
        }
    }

    fn regroup(&mut self, session: &Arc<Session>, groups: &[Arc<str>]) {
        self.leave_groups(session.id);
        for group in groups {
            self.groups.entry(Arc::clone(group)).or_default().push(Arc::clone(session));
        }
        if !groups.is_empty() {
            self.groups_of.insert(session.id, groups.to_vec());
        }
    }

    fn leave_groups(&mut self, id: SessionId) {
        for group in self.groups_of.remove(&id).unwrap_or_default() {
            take(&mut self.groups, &group, id);
        }
    }

    fn remove(&mut self, session: &Session) {
        let id = self.hasher.hash_one(session.id);
        let Ok(known) = self.sessions.find_entry(id, |known| known.id == session.id) else { return };
        known.remove();
        self.users.remove(session);
        self.devices.remove(session);
        self.leave_groups(session.id);
    }
}

/// Takes a session out of a list, and the list out of the map with its last session: a name that nobody uses any
/// more costs nothing.
fn take(map: &mut HashMap<Arc<str>, Vec<Arc<Session>>>, key: &Arc<str>, id: SessionId) {
    if let Entry::Occupied(mut list) = map.entry(Arc::clone(key)) {
        list.get_mut().retain(|other| other.id != id);
        if list.get().is_empty() {
            list.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use trunkline_session::{Engine, Fence, ReplyBudget};

    use super::*;
    use crate::session::NewSession;

    pub(super) fn session(id: u128, fence: u64) -> Arc<Session> {
        let id = SessionId(id);
        Session::new(NewSession {
            id,
            user: "alice".into(),
            device: format!("device {fence}"),
            platform: String::new(),
            fence: Fence::new(fence, 1).expect("a small number"),
            engine: Engine::new(id, 1, Arc::default(), ReplyBudget::default()),
            ledger: None,
            created_ms: 0,
        })
    }

    #[test]
    fn a_login_that_is_under_way_is_not_replaced_where_the_policy_refuses_the_later() {
        let hub = Hub::default();
        let (first, second) = (session(1, 1), session(2, 2));
        assert!(matches!(hub.admit(&first, LoginPolicy::Refuse, 10), Admission::Admitted { .. }));
        assert!(matches!(hub.admit(&second, LoginPolicy::Refuse, 10), Admission::DeviceLimit));
        assert!(hub.session(first.id).is_some());
        hub.remove(&first);
        assert!(matches!(hub.admit(&second, LoginPolicy::Refuse, 10), Admission::Admitted { .. }));
    }
}
