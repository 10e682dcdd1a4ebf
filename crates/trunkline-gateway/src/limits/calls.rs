//! Places for calls: how many are under way on the node, and with how many bytes of requests, large operations on channels
//! included.
//!
//! The counts are exact: no more calls ever hold a place than there are. **Fairness** needs no list of users: a user
//! may hold at most as many places as are free (the dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on
//! Networking 6(2), 1998, with α = 1). So one user alone has at most half of the node, n users who want all have
//! `1 / (n + 1)` each, and as much is always free for the user who comes next. Bytes are shared the same way.
//!
//! Calls that come together are let in by four atomic operations, as is one that comes alone, and leave by as many;
//! a lock is taken only where a rate is configured.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use trunkline_session::{Place, Places, RequestRefusal, TurnedAway};

use super::jittered;
use super::rate::{Rate, Share};
use crate::options::GatewayOptions;

/// What is told to a call that finds no place: the time that a quick call takes is over by then, and the next
/// client's place is as likely to be free as not.
const PLACE_WAIT: Duration = Duration::from_millis(100);

/// The calls of a node.
#[derive(Default)]
pub(crate) struct CallLimits {
    places: Pool,
    bytes: Pool,
    rate: ArcSwapOption<Rate>,
    users: Mutex<HashMap<Arc<str>, Weak<UserShare>>>,
}

/// So much of something, and how much of it is taken.
#[derive(Debug, Default)]
pub(super) struct Pool {
    size: AtomicU64,
    taken: AtomicU64,
}

/// What one user has under way on this node, in all its sessions. It lives while one of them does that has called, or asked
/// for much.
pub(crate) struct UserShare {
    node: Arc<CallLimits>,
    user: Arc<str>,
    places: AtomicU64,
    bytes: AtomicU64,
    rate: Share,
}

impl CallLimits {
    pub(super) fn configure(&self, options: &GatewayOptions) {
        self.places.size.store(options.calls_in_flight.into(), Relaxed);
        self.bytes.size.store(options.call_bytes, Relaxed);
        let running = self.rate.load().as_ref().map(|rate| rate.limit);
        if running != options.calls {
            // A new rate begins with its burst; its first look at the time sets its clock.
            self.rate.store(options.calls.map(|limit| Arc::new(Rate::new(limit, Duration::ZERO))));
        }
    }

    /// The share of a user, the same one for all its sessions.
    pub(crate) fn share(self: &Arc<Self>, user: &Arc<str>) -> Arc<UserShare> {
        let mut users = self.users.lock();
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(UserShare {
            node: Arc::clone(self),
            user: Arc::clone(user),
            places: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rate: Share::default(),
        });
        users.insert(Arc::clone(user), Arc::downgrade(&share));
        share
    }

    /// Calls under way and their places.
    pub(super) fn places(&self) -> &Pool {
        &self.places
    }

    /// Bytes of their requests, and of large ones on channels.
    pub(super) fn bytes(&self) -> &Pool {
        &self.bytes
    }

    /// Calls let in in the last whole second, whether the rate refuses, and the rate; 0 where there is none.
    pub(super) fn rate(&self, now: Duration) -> (u64, bool, u64) {
        let Some(rate) = &*self.rate.load() else { return (0, false, 0) };
        let (admitted, refuses) = rate.last_second(now);
        (admitted, refuses, rate.limit.per_second.get().into())
    }
}

impl Pool {
    pub(super) fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// Takes so much for whoever has `own` of it.
    fn take(&self, amount: u64, own: &AtomicU64) -> Result<(), Lack> {
        let size = self.size();
        let taken = self
            .taken
            .fetch_update(Relaxed, Relaxed, |taken| taken.checked_add(amount).filter(|after| *after <= size));
        let Ok(before) = taken else { return Err(Lack::All) };
        let mine = own.fetch_add(amount, Relaxed);
        // Compared with what was free before: the very first may take the last.
        if mine > 0 && mine + amount > size - before {
            self.give(amount, own);
            return Err(Lack::Share);
        }
        Ok(())
    }

    /// The same for several at once, where so much is free that they would be taken one by one as well.
    fn take_together(&self, amount: u64, own: &AtomicU64) -> bool {
        if self.take(amount, own).is_err() {
            return false;
        }
        // What is free behind the last of them was free before each.
        let enough = own.load(Relaxed) <= self.size().saturating_sub(self.taken());
        if !enough {
            self.give(amount, own);
        }
        enough
    }

    fn give(&self, amount: u64, own: &AtomicU64) {
        own.fetch_sub(amount, Relaxed);
        self.taken.fetch_sub(amount, Relaxed);
    }
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    All,
    Share,
}

impl UserShare {
    /// Lets a call with so many bytes in.
    ///
    /// # Errors
    /// Why not, and when to come again.
    pub(crate) fn enter(self: &Arc<Self>, now: Duration, bytes: usize) -> Result<Place, TurnedAway> {
        let turned = |why, after| TurnedAway { why, retry_after: jittered(after) };
        let node = &self.node;
        node.places.take(1, &self.places).map_err(|lack| match lack {
            Lack::All => turned(RequestRefusal::InFlight, PLACE_WAIT),
            Lack::Share => turned(RequestRefusal::UserInFlight, PLACE_WAIT),
        })?;
        if node.bytes.take(bytes as u64, &self.bytes).is_err() {
            node.places.give(1, &self.places);
            return Err(turned(RequestRefusal::CallBytes, PLACE_WAIT));
        }
        // From here on drop gives both back.
        let place = Place::held(Arc::<Self>::clone(self), bytes);
        if let Some(rate) = node.rate.load().as_ref()
            && let Err(denied) = rate.admit(now, &self.rate)
        {
            return Err(turned(denied.why, denied.wait));
        }
        Ok(place)
    }

    /// The places of calls that come together, with so many bytes. `None`: each is to be let in by itself, since too
    /// little is free to be generous, or since a rate has a word in it.
    pub(crate) fn enter_together(self: &Arc<Self>, calls: usize, bytes: usize) -> Option<Place> {
        let node = &self.node;
        if node.rate.load().is_some() || !node.places.take_together(calls as u64, &self.places) {
            return None;
        }
        if !node.bytes.take_together(bytes as u64, &self.bytes) {
            node.places.give(calls as u64, &self.places);
            return None;
        }
        Some(Place::of_calls(Arc::<Self>::clone(self), calls, bytes))
    }

    /// Lets an operation with so many bytes wait and run.
    ///
    /// # Errors
    /// There is no room, and when to come again.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Result<Place, TurnedAway> {
        match self.node.bytes.take(bytes as u64, &self.bytes) {
            Ok(()) => Ok(Place::held(Arc::new(Bytes(Arc::clone(self))), bytes)),
            Err(_) => Err(TurnedAway { why: RequestRefusal::CallBytes, retry_after: jittered(PLACE_WAIT) }),
        }
    }
}

/// What an operation has of its user's share.
#[derive(Debug)]
struct Bytes(Arc<UserShare>);

impl Places for Bytes {
    fn leave(&self, _calls: usize, bytes: usize) {
        self.0.node.bytes.give(bytes as u64, &self.0.bytes);
    }
}

impl Places for UserShare {
    fn leave(&self, calls: usize, bytes: usize) {
        self.node.places.give(calls as u64, &self.places);
        self.node.bytes.give(bytes as u64, &self.bytes);
    }
}

impl std::fmt::Debug for UserShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (places, bytes) = (self.places.load(Relaxed), self.bytes.load(Relaxed));
        f.debug_struct("UserShare").field("places", &places).field("bytes", &bytes).finish_non_exhaustive()
    }
}

impl Drop for UserShare {
    fn drop(&mut self) {
        let mut users = self.node.users.lock();
        // Another may have taken its place while this one was on its way out.
        if users.get(&self.user).is_some_and(|share| share.strong_count() == 0) {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use trunkline_session::TokenKey;

    use super::*;
    use crate::options::CallLimit;

    fn limits(in_flight: u32, bytes: u64) -> Arc<CallLimits> {
        let limits = Arc::<CallLimits>::default();
        let options = GatewayOptions {
            calls_in_flight: in_flight,
            call_bytes: bytes,
            ..GatewayOptions::new("a", TokenKey::new([0; 32]))
        };
        limits.configure(&options);
        limits
    }

    fn user(limits: &Arc<CallLimits>, name: &str) -> Arc<UserShare> {
        limits.share(&Arc::from(name))
    }

    /// Takes all that a user gets.
    fn fill(share: &Arc<UserShare>, bytes: usize) -> (Vec<Place>, RequestRefusal) {
        let mut places = Vec::new();
        loop {
            match share.enter(Duration::ZERO, bytes) {
                Ok(place) => places.push(place),
                Err(turned) => return (places, turned.why),
            }
        }
    }

    #[test]
    fn one_user_has_half_of_the_node_and_the_next_a_half_of_the_rest() {
        let limits = limits(100, 1 << 20);
        let (first, why) = fill(&user(&limits, "greedy"), 10);
        assert_eq!((first.len(), why), (50, RequestRefusal::UserInFlight));
        let (second, why) = fill(&user(&limits, "next"), 10);
        assert_eq!((second.len(), why), (25, RequestRefusal::UserInFlight));
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (75, 750));
        drop((first, second));
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (0, 0));
    }

    #[test]
    fn users_who_take_turns_end_with_equal_shares_and_as_much_is_free() {
        let limits = limits(100, 1 << 20);
        let users: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| user(&limits, name)).collect();
        let mut places = Vec::new();
        for round in 0..400 {
            places.extend(users[round % 4].enter(Duration::ZERO, 1).ok());
        }
        let held: Vec<u64> = users.iter().map(|user| user.places.load(Relaxed)).collect();
        assert_eq!(held, [20, 20, 20, 20]);
        assert_eq!(places.len(), 80);
    }

    #[test]
    fn a_user_s_sessions_are_one_and_its_share_goes_with_the_last() {
        let limits = limits(10, 100);
        let (one, other) = (user(&limits, "a"), user(&limits, "a"));
        assert!(Arc::ptr_eq(&one, &other));
        let place = one.enter(Duration::ZERO, 1).unwrap();
        drop((one, other));
        assert_eq!(limits.users.lock().len(), 1, "a call still holds it");
        drop(place);
        assert_eq!(limits.users.lock().len(), 0);
        assert_eq!(limits.places().taken(), 0);
    }

    #[test]
    fn requests_are_bounded_in_bytes_and_a_large_one_passes_an_idle_node() {
        let limits = limits(10, 100);
        let user = user(&limits, "a");
        let whole = user.enter(Duration::ZERO, 100).unwrap();
        let turned = user.enter(Duration::ZERO, 1).unwrap_err();
        assert_eq!(turned.why, RequestRefusal::CallBytes);
        assert!((PLACE_WAIT..PLACE_WAIT * 2).contains(&turned.retry_after), "{turned:?}");
        assert_eq!(limits.places().taken(), 1, "who is refused holds nothing");
        drop(whole);
        assert_eq!(user.enter(Duration::ZERO, 101).unwrap_err().why, RequestRefusal::CallBytes);
    }

    #[test]
    fn operations_share_the_bytes_and_take_no_call_s_place() {
        let limits = limits(1, 100);
        let user = user(&limits, "a");
        let call = user.enter(Duration::ZERO, 20).unwrap();
        let held = user.hold(40).unwrap();
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (1, 60));
        assert_eq!(user.hold(41).unwrap_err().why, RequestRefusal::CallBytes);
        drop(call);
        assert_eq!(user.enter(Duration::ZERO, 61).unwrap_err().why, RequestRefusal::CallBytes);
        drop(held);
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (0, 0));
    }

    #[test]
    fn calls_that_come_together_get_no_more_than_one_by_one() {
        for held in 0..60 {
            for calls in 1..60 {
                let (limits, other) = (limits(100, 1 << 20), limits(100, 1 << 20));
                let (together, single) = (user(&limits, "a"), user(&other, "a"));
                let before = |share: &Arc<UserShare>| -> Vec<Place> {
                    (0..held).filter_map(|_| share.enter(Duration::ZERO, 1).ok()).collect()
                };
                let _held = (before(&together), before(&single));
                if let Some(places) = together.enter_together(calls, calls) {
                    let each: Vec<Place> =
                        (0..calls).filter_map(|_| single.enter(Duration::ZERO, 1).ok()).collect();
                    assert_eq!(each.len(), calls, "{held} held");
                    assert_eq!(limits.places().taken(), other.places().taken());
                    assert_eq!(limits.bytes().taken(), other.bytes().taken());
                    drop(places);
                } else {
                    assert!(2 * (held.min(50) + calls) > 100, "{held} held, {calls} more were refused");
                }
                assert_eq!(
                    (limits.places().taken(), limits.bytes().taken()),
                    (held.min(50) as u64, held.min(50) as u64)
                );
            }
        }
    }

    #[test]
    fn calls_that_come_together_are_asked_for_one_by_one_where_a_rate_decides_or_bytes_are_few() {
        let limits = limits(100, 100);
        let share = user(&limits, "a");
        assert!(share.enter_together(4, 60).is_none());
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (0, 0));
        drop(share.enter_together(4, 50).unwrap());
        let mut options = GatewayOptions::new("a", TokenKey::new([0; 32]));
        options.calls = Some(CallLimit { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN });
        limits.configure(&options);
        assert!(share.enter_together(4, 4).is_none());
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (0, 0));
    }

    #[test]
    fn l2_many_threads_never_hold_more_places_than_there_are() {
        let limits = limits(64, 1 << 20);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let user = user(&limits, &format!("user{}", thread % 4));
                let limits = &limits;
                scope.spawn(move || {
                    for round in 0..5_000 {
                        let held: Vec<Place> =
                            (0..round % 20).filter_map(|_| user.enter(Duration::ZERO, 7).ok()).collect();
                        assert!(limits.places().taken() <= 64);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!((limits.places().taken(), limits.bytes().taken()), (0, 0));
    }

    #[test]
    fn a_call_that_the_rate_refuses_gives_its_place_back_and_a_reload_no_second_burst() {
        let limits = limits(10, 100);
        let mut options = GatewayOptions::new("a", TokenKey::new([0; 32]));
        options.calls = Some(CallLimit { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN });
        limits.configure(&options);
        let user = user(&limits, "a");
        drop(user.enter(Duration::from_secs(9), 1).unwrap());
        limits.configure(&options);
        let turned = user.enter(Duration::from_secs(9), 1).unwrap_err();
        assert_eq!(turned.why, RequestRefusal::CallRate);
        assert!((1_000..2_000).contains(&turned.retry_after.as_millis()), "{turned:?}");
        assert_eq!(limits.places().taken(), 0);
        assert_eq!(limits.rate(Duration::from_secs(10)), (1, true, 1));
        options.calls = None;
        limits.configure(&options);
        assert!(user.enter(Duration::from_secs(9), 1).is_ok());
    }
}
