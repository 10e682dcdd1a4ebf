//! Sessions by a name that each of them has itself, mostly one a name: a user, or a device.
//!
//! An entry is 16 bytes, since there is one for every session: the table has no copy of the name. It locks nothing and
//! knows no policy.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use trunkline_session::SessionId;

use crate::session::Session;

/// See the module.
pub(super) struct ByName {
    name: fn(&Session) -> &str,
    hasher: RandomState,
    table: HashTable<Named>,
}

/// The sessions of one name.
enum Named {
    One(Arc<Session>),
    /// In the order in which they came, never empty.
    More(Box<Several>),
}

struct Several(Vec<Arc<Session>>);

impl ByName {
    /// Sessions by this name of theirs, which never changes.
    pub(super) fn new(name: fn(&Session) -> &str) -> Self {
        ByName { name, hasher: RandomState::new(), table: HashTable::new() }
    }

    /// The sessions with this name, in the order in which they came.
    pub(super) fn get(&self, name: &str) -> &[Arc<Session>] {
        let is_it = |named: &Named| named.name(self.name) == name;
        self.table.find(self.hasher.hash_one(name), is_it).map(Named::sessions).unwrap_or_default()
    }

    pub(super) fn insert(&mut self, session: &Arc<Session>) {
        let ByName { name: of, hasher, table } = self;
        let name = of(session);
        let is_it = |named: &Named| named.name(*of) == name;
        match table.entry(hasher.hash_one(name), is_it, |named| hasher.hash_one(named.name(*of))) {
            Entry::Occupied(mut named) => named.get_mut().push(Arc::clone(session)),
            Entry::Vacant(new) => drop(new.insert(Named::One(Arc::clone(session)))),
        }
    }

    /// Takes a session out, and its name with the last session that has it.
    pub(super) fn remove(&mut self, session: &Session) {
        let ByName { name: of, hasher, table } = self;
        let name = of(session);
        if let Ok(mut named) = table.find_entry(hasher.hash_one(name), |named| named.name(*of) == name)
            && named.get_mut().take(session.id)
        {
            named.remove();
        }
    }
}

impl Named {
    fn sessions(&self) -> &[Arc<Session>] {
        match self {
            Named::One(session) => std::slice::from_ref(session),
            Named::More(sessions) => &sessions.0,
        }
    }

    fn name(&self, of: fn(&Session) -> &str) -> &str {
        self.sessions().first().map_or("", |first| of(first))
    }

    fn push(&mut self, session: Arc<Session>) {
        match self {
            Named::One(first) => *self = Named::More(Box::new(Several(vec![Arc::clone(first), session]))),
            Named::More(sessions) => sessions.0.push(session),
        }
    }

    /// Takes a session out. True: none is left.
    fn take(&mut self, id: SessionId) -> bool {
        let rest = match self {
            Named::One(session) => return session.id == id,
            Named::More(sessions) => &mut sessions.0,
        };
        rest.retain(|session| session.id != id);
        match &rest[..] {
            [] => true,
            [last] => {
                *self = Named::One(Arc::clone(last));
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::session;
    use super::*;

    #[test]
    fn a_name_has_its_sessions_in_their_order_and_goes_with_the_last() {
        let mut users = ByName::new(|session| &session.user);
        let all: Vec<Arc<Session>> = (0..4).map(|n| session(n.into(), n + 1)).collect();
        all.iter().for_each(|session| users.insert(session));
        let ids = |users: &ByName| users.get("alice").iter().map(|session| session.id.0).collect::<Vec<_>>();
        assert_eq!(ids(&users), [0, 1, 2, 3]);
        assert!(users.get("bob").is_empty());
        for (gone, left) in [(1, &[0, 2, 3][..]), (0, &[2, 3]), (1, &[2, 3]), (3, &[2]), (2, &[])] {
            users.remove(&all[gone]);
            assert_eq!(ids(&users), left, "without {gone}");
        }
        assert_eq!(users.table.len(), 0);
        users.insert(&all[1]);
        assert_eq!(ids(&users), [1]);
    }
}
