//! The choice of an instance: power of two choices by calls in flight over weight.
//!
//! It reads the instances' state and takes a permit, or says why there is none; it never waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::defaults::RECONNECT_GRACE;
use super::health::Phase;
use super::peer::{Admit, Denied, Peer, Permit};
use super::registry::Entry;

/// What came of a choice.
pub(super) enum Pick {
    /// A place at an instance.
    Go(Permit, Arc<Entry>),
    /// None yet: a change may bring one, before the given time or the call's deadline.
    Wait(Option<Instant>),
    /// Every instance runs as many calls as it takes.
    Full,
    /// There is no instance to wait for.
    Nobody,
}

/// What a choice depends on, besides the instances.
pub(super) struct Terms<'a> {
    /// They had this call before.
    pub(super) tried: &'a [Arc<Peer>],
    pub(super) panic_percent: u32,
    /// How long the call may run before it is slow.
    pub(super) patience: Duration,
    pub(super) now: Instant,
}

/// Chooses among `group`. `random` decides which two are compared: a number below the given one.
pub(super) fn pick(group: &[Arc<Entry>], terms: &Terms<'_>, mut random: impl FnMut(usize) -> usize) -> Pick {
    let untried = |entry: &&Arc<Entry>| !terms.tried.iter().any(|peer| Arc::ptr_eq(peer, &entry.peer));
    let candidates: Vec<&Arc<Entry>> = group.iter().filter(untried).collect();
    let in_service = group.iter().filter(|entry| entry.peer.is_usable(Admit::Serving)).count();
    let panic = in_service * 100 <= group.len() * terms.panic_percent as usize;
    let admit = if panic { Admit::Connected } else { Admit::Serving };
    let mut pool: Vec<&Arc<Entry>> =
        candidates.iter().filter(|entry| entry.peer.is_usable(admit)).copied().collect();
    if pool.is_empty() && !panic && !candidates.is_empty() {
        // Those in service were tried: the ejected ones are better than an error.
        pool = candidates.iter().filter(|entry| entry.peer.is_usable(Admit::Connected)).copied().collect();
        if !pool.is_empty() {
            return choose(pool, Admit::Connected, terms, &mut random);
        }
    }
    if pool.is_empty() {
        return wait_for(&candidates, terms.now);
    }
    choose(pool, admit, terms, &mut random)
}

/// Two at random, the less loaded of them, else the other, else whoever has a place.
fn choose(
    mut pool: Vec<&Arc<Entry>>,
    admit: Admit,
    terms: &Terms<'_>,
    random: &mut impl FnMut(usize) -> usize,
) -> Pick {
    let mut full = false;
    while !pool.is_empty() {
        let first = random(pool.len());
        let second = if pool.len() > 1 { (first + 1 + random(pool.len() - 1)) % pool.len() } else { first };
        let best = if load(pool[second]) < load(pool[first]) { second } else { first };
        let entry = pool.swap_remove(best);
        match entry.peer.admit(admit, terms.patience) {
            Ok(permit) => return Pick::Go(permit, entry.clone()),
            Err(Denied::Full) => full = true,
            Err(Denied::Gone) => {}
        }
    }
    // Those that went away between the look and the try are reconnecting, or their trial has begun.
    if full { Pick::Full } else { Pick::Wait(Some(terms.now + RECONNECT_GRACE)) }
}

/// Calls in flight, with this one, for each unit of weight; in 32.32 fixed point, exact enough to compare.
fn load(entry: &Entry) -> u64 {
    ((u64::from(entry.peer.in_flight()) + 1) << 32) / u64::from(entry.registration.weight.max(1))
}

/// No instance can be asked now: is one about to be?
fn wait_for(candidates: &[&Arc<Entry>], now: Instant) -> Pick {
    if candidates.is_empty() {
        return Pick::Nobody;
    }
    if candidates.iter().all(|entry| entry.peer.phase() == Phase::Unprobed) {
        return Pick::Wait(None);
    }
    let until = candidates.iter().filter_map(|entry| match entry.peer.phase() {
        // In service and without a connection: it is being replaced, the keeper says at once when it cannot be.
        Phase::Up | Phase::HalfOpen => Some(now + RECONNECT_GRACE),
        Phase::Down | Phase::Ejected => {
            Some(entry.peer.since() + RECONNECT_GRACE).filter(|until| *until > now)
        }
        Phase::Unprobed => None,
    });
    until.max().map_or(Pick::Nobody, |until| Pick::Wait(Some(until)))
}
