//! How many calls the node starts per second, and who gets them when there are not enough for all.
//!
//! One true token bucket for the node: after a burst, calls are let in one by one as time goes by, never in a window
//! that empties at its end (the seed's did: its defect in reference a6). A refused call costs nothing.
//!
//! **Fairness.** Half of the bucket is a reserve. While there are tokens above it, whoever comes takes one. From the
//! reserve a user takes only its share: a bucket of its own, filled at `rate / (n + 1)` and holding
//! `reserve / (n + 1)`, where n users have called in this second or the one before. So the shares of n users fill more
//! slowly than the node's bucket and hold less than the reserve, and in any time t they take at most
//! `n / (n + 1) * (reserve + rate * t)` from it: **a user who stays within its share is never refused**, whatever the
//! others send and in however many sessions, and the `+ 1` keeps a share for the user who comes next. Whatever the
//! others do not use is above the reserve, so **nothing is left unused** either. A share is at least one call: where
//! more users call at once than the reserve has tokens, the rate holds, and chance is fair.
//!
//! **Evenness.** Users whose shares have run out lately take no more than [`SLACK`] from the reserve: a hundred of them
//! whose shares fill in one moment would else be let in together, and then nobody for a while. So under a constant
//! overload every tenth of a second lets in what the rate says.

use std::time::Duration;

use parking_lot::Mutex;
use trunkline_session::RequestRefusal;

use super::tokens::{ONE, Tokens, parts};
use crate::options::CallLimit;

/// How much of the reserve is for users who call more than their share: as many calls as 4 ms bring, which is 4 % of
/// what a tenth of a second does.
const SLACK: Duration = Duration::from_millis(4);

/// Nobody is told to stay away longer, however long the queue of those who were refused would be.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The node's rate of calls.
pub(super) struct Rate {
    pub(super) limit: CallLimit,
    state: Mutex<State>,
}

struct State {
    tokens: Tokens,
    now: Second,
    before: Second,
}

/// What happened in one second.
#[derive(Debug, Default, Clone, Copy)]
struct Second {
    number: u64,
    /// Users that have called.
    active: u32,
    admitted: u32,
    refused: u32,
}

/// What a user has of the rate, kept with the user.
#[derive(Debug, Default)]
pub(super) struct Share(Mutex<Option<Own>>);

#[derive(Debug)]
struct Own {
    tokens: Tokens,
    /// The second in which the user was last counted.
    second: u64,
    /// The second in which its share last ran out.
    spent: Option<u64>,
}

/// No token for this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) why: RequestRefusal,
    /// Until there may be one, for the last of those who were refused lately.
    pub(super) wait: Duration,
}

impl Rate {
    pub(super) fn new(limit: CallLimit, now: Duration) -> Self {
        let state = State {
            tokens: Tokens::full(parts(limit.burst.get()), now),
            now: Second { number: now.as_secs(), ..Second::default() },
            before: Second::default(),
        };
        Rate { limit, state: Mutex::new(state) }
    }

    /// Lets a call of a user in.
    ///
    /// # Errors
    /// Whether it is the user or the node who has had enough, and how long to wait.
    pub(super) fn admit(&self, now: Duration, share: &Share) -> Result<(), Denied> {
        let (rate, cap) = (self.limit.per_second.get(), parts(self.limit.burst.get()));
        let mut state = self.state.lock();
        state.pass(now.as_secs());
        state.tokens.refill(now, rate, 1, cap);
        let mut own = share.0.lock();
        let is_new = own.as_ref().is_none_or(|own| own.second != state.now.number);
        state.now.active += u32::from(is_new);
        let parts_of = state.now.active.max(state.before.active).saturating_add(1);
        let (reserve, slack) = (self.reserve(), self.slack());
        let own_cap = ((reserve - slack) / u64::from(parts_of)).max(ONE);
        let own = own.get_or_insert_with(|| Own {
            tokens: Tokens::full(own_cap, now),
            second: state.now.number,
            spent: None,
        });
        own.second = state.now.number;
        own.tokens.refill(now, rate, parts_of, own_cap);
        let is_spent = own.tokens.level() < ONE;
        if is_spent {
            own.spent = Some(own.second);
        }
        let floor = match own.spent {
            _ if is_spent => reserve,
            Some(spent) if spent + 1 >= own.second => reserve - slack,
            _ => 0,
        };
        if state.tokens.take(floor) {
            // What is above the reserve counts for the share too, as far as that goes: who has just had a burst must
            // not have another.
            own.tokens.take(0);
            state.now.admitted += 1;
            return Ok(());
        }
        state.now.refused = state.now.refused.saturating_add(1);
        let (why, wait) = match state.tokens.level() < ONE {
            true => (RequestRefusal::CallRate, state.tokens.wait(rate, 1)),
            false => (RequestRefusal::UserCallRate, own.tokens.wait(rate, parts_of)),
        };
        // As if those who were refused in the second before stood in a queue: coming back sooner is in vain.
        let queue = Duration::from_secs(1).saturating_mul(state.before.refused) / rate;
        Err(Denied { why, wait: wait.max(queue.min(LONGEST_WAIT)) })
    }

    /// Calls that were let in in the last whole second, and whether any was refused since its beginning.
    pub(super) fn last_second(&self, now: Duration) -> (u64, bool) {
        let mut state = self.state.lock();
        state.pass(now.as_secs());
        (state.before.admitted.into(), state.before.refused + state.now.refused > 0)
    }

    /// What shares are taken from: half of the burst, less where a burst of one could not pass otherwise.
    fn reserve(&self) -> u64 {
        let cap = parts(self.limit.burst.get());
        (cap / 2).min(cap - ONE)
    }

    fn slack(&self) -> u64 {
        let slack = SLACK.as_nanos() * u128::from(self.limit.per_second.get());
        u64::try_from(slack).unwrap_or(u64::MAX).min(self.reserve())
    }
}

impl State {
    /// Seconds go by.
    fn pass(&mut self, second: u64) {
        if second <= self.now.number {
            return;
        }
        let follows = second == self.now.number + 1;
        self.before = if follows { self.now } else { Second::default() };
        self.now = Second { number: second, ..Second::default() };
    }
}

#[cfg(test)]
mod tests;
