//! The idempotency keys of pushes bound to a session's calls: a service that asks again, because the answer was lost on
//! its way, has its push in the group once.
//!
//! Published pushes are the broker's business; a bound one never comes to it.

use std::collections::VecDeque;

use trunkline_session::ClientSeq;

/// The newest that are remembered: as many as a session remembers calls.
const KEPT: usize = 64;

/// Boxed, since most sessions have none.
#[derive(Default)]
pub(crate) struct BoundKeys(Option<Box<Keys>>);

/// Keys and their calls, the oldest first.
#[derive(Default)]
struct Keys(VecDeque<(ClientSeq, Box<str>)>);

impl BoundKeys {
    /// Is a push with this key bound to the call? The empty key is none.
    pub(crate) fn contains(&self, seq: ClientSeq, key: &str) -> bool {
        let mut known = self.0.iter().flat_map(|keys| keys.0.iter());
        !key.is_empty() && known.any(|(of, known)| *of == seq && **known == *key)
    }

    /// Remembers a key. Overflow policy: forget the oldest.
    pub(crate) fn remember(&mut self, seq: ClientSeq, key: &str) {
        if key.is_empty() {
            return;
        }
        let Keys(keys) = &mut **self.0.get_or_insert_default();
        if keys.len() >= KEPT {
            keys.pop_front();
        }
        keys.push_back((seq, key.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_keys_of_each_call_are_remembered() {
        let mut keys = BoundKeys::default();
        keys.remember(ClientSeq(1), "");
        assert!(!keys.contains(ClientSeq(1), ""));
        keys.remember(ClientSeq(1), "first");
        assert!(keys.contains(ClientSeq(1), "first"));
        assert!(!keys.contains(ClientSeq(2), "first"));
        for at in 1..KEPT {
            keys.remember(ClientSeq(2), &at.to_string());
        }
        assert!(keys.contains(ClientSeq(1), "first"));
        keys.remember(ClientSeq(3), "one more");
        assert!(!keys.contains(ClientSeq(1), "first") && keys.contains(ClientSeq(2), "1"));
    }
}
