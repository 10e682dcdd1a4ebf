//! Sessions by a name that each of them has itself, mostly one a name: a user, or a device.
//!
//! An entry is one reference, since there is one for every session: the table has no copy of the name. It locks nothing
//! and knows no policy.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::session::Session;

/// See the module.
pub(super) struct ByName {
    name: fn(&Session) -> &str,
    hasher: RandomState,
    /// Names that one session has.
    one: HashTable<Arc<Session>>,
    /// Names that several have, in the order in which they came. No name is in both.
    more: HashMap<Box<str>, Vec<Arc<Session>>>,
}

impl ByName {
    /// Sessions by this name of theirs, which never changes.
    pub(super) fn new(name: fn(&Session) -> &str) -> Self {
        ByName { name, hasher: RandomState::new(), one: HashTable::new(), more: HashMap::new() }
    }

    /// The sessions with this name, in the order in which they came.
    pub(super) fn get(&self, name: &str) -> &[Arc<Session>] {
        let one = self.one.find(self.hasher.hash_one(name), |session| (self.name)(session) == name);
        match one {
            Some(session) => std::slice::from_ref(session),
            None => self.more.get(name).map(Vec::as_slice).unwrap_or_default(),
        }
    }

    pub(super) fn insert(&mut self, session: &Arc<Session>) {
        let of = self.name;
        let ByName { hasher, one, more, .. } = self;
        let name = of(session);
        if let Some(several) = more.get_mut(name) {
            return several.push(Arc::clone(session));
        }
        let is_it = |known: &Arc<Session>| of(known) == name;
        match one.entry(hasher.hash_one(name), is_it, |known| hasher.hash_one(of(known))) {
            Entry::Occupied(first) => {
                let (first, _) = first.remove();
                more.insert(name.into(), vec![first, Arc::clone(session)]);
            }
            Entry::Vacant(new) => drop(new.insert(Arc::clone(session))),
        }
    }

    /// Takes a session out, and its name with the last session that has it.
    pub(super) fn remove(&mut self, session: &Session) {
        let of = self.name;
        let ByName { hasher, one, more, .. } = self;
        let (name, hash) = (of(session), hasher.hash_one(of(session)));
        if let Ok(known) = one.find_entry(hash, |known| known.id == session.id) {
            known.remove();
            return;
        }
        let Some(several) = more.get_mut(name) else { return };
        several.retain(|known| known.id != session.id);
        if let [last] = &several[..] {
            one.insert_unique(hash, Arc::clone(last), |known| hasher.hash_one(of(known)));
            more.remove(name);
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
        assert_eq!((users.one.len(), users.more.len()), (0, 0));
        users.insert(&all[1]);
        assert_eq!(ids(&users), [1]);
    }
}
