//! A small map by channel, for what each of very many sessions holds.
//!
//! It is a sorted vector: most sessions are on two or three channels, where a hash map or a tree has several times
//! their size. At the most a session may be on ([`crate::defaults::CHANNELS`]) an insertion moves some 32 KiB, about
//! a microsecond. It refuses to be a map for a node's channels.

use crate::position::Channel;

/// Values by channel, in the order of the names.
#[derive(Debug)]
pub(crate) struct ByChannel<V> {
    entries: Vec<(Channel, V)>,
}

impl<V> Default for ByChannel<V> {
    fn default() -> Self {
        ByChannel { entries: Vec::new() }
    }
}

impl<V> ByChannel<V> {
    fn find(&self, channel: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(name, _)| (**name).cmp(channel))
    }

    /// How many channels there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A channel's value.
    pub(crate) fn get(&self, channel: &str) -> Option<&V> {
        self.find(channel).ok().map(|at| &self.entries[at].1)
    }

    /// A channel's value, to be changed.
    pub(crate) fn get_mut(&mut self, channel: &str) -> Option<&mut V> {
        self.get_entry_mut(channel).map(|(_, value)| value)
    }

    /// The same, with its shared name.
    pub(crate) fn get_entry_mut(&mut self, channel: &str) -> Option<(&Channel, &mut V)> {
        let at = self.find(channel).ok()?;
        let (name, value) = &mut self.entries[at];
        Some((name, value))
    }

    /// Sets a channel's value, and gives back the one that it had.
    pub(crate) fn insert(&mut self, channel: Channel, value: V) -> Option<V> {
        match self.find(&channel) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.insert(at, (channel, value));
                None
            }
        }
    }

    /// Takes a channel out.
    pub(crate) fn remove(&mut self, channel: &str) -> Option<V> {
        let at = self.find(channel).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// Keeps the channels for which `keep` holds.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Channel, &mut V) -> bool) {
        self.entries.retain_mut(|(channel, value)| keep(channel, value));
    }

    /// Every channel and its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Channel, &V)> {
        self.entries.iter().map(|(channel, value)| (channel, value))
    }

    /// Every value, to be changed.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_the_names(
            steps in prop::collection::vec((0_u8..3, "[a-d]{0,2}", any::<u8>()), 0..60),
        ) {
            let mut map = ByChannel::default();
            let mut model = BTreeMap::<Channel, u8>::new();
            for (what, name, value) in steps {
                match what {
                    0 => prop_assert_eq!(
                        map.insert(name.as_str().into(), value),
                        model.insert(name.as_str().into(), value)
                    ),
                    1 => prop_assert_eq!(map.remove(&name), model.remove(name.as_str())),
                    _ => {
                        map.retain(|_, known| *known >= value);
                        model.retain(|_, known| *known >= value);
                    }
                }
                prop_assert_eq!(map.get(&name), model.get(name.as_str()));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
            }
        }
    }
}
