//! How much of each limit is used, and the warning levels: as metrics, and as one line of the log when one changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::gateway::Node;

/// How often levels are looked at. A limit that is reached for less is seen by its refusals.
const LOOK: Duration = Duration::from_secs(1);

/// A level that goes up and down is told at most so often.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How near a limit is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Below the warning.
    #[default]
    Normal,
    /// From `warn_percent` on.
    Warning,
    /// The limit is reached: what comes beyond it is refused.
    Reached,
}

impl Level {
    /// As metrics have it: 0, 1 or 2.
    pub const fn number(self) -> u64 {
        match self {
            Level::Normal => 0,
            Level::Warning => 1,
            Level::Reached => 2,
        }
    }
}

/// A limit and what is used of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LimitFigures {
    /// What is used now; of a rate, in the last second.
    pub used: u64,
    /// The most there may be; 0: there is no such limit.
    pub limit: u64,
    /// How near it is.
    pub level: Level,
}

impl LimitFigures {
    fn new(used: u64, limit: u64, warn_percent: u32) -> Self {
        let is_near = u128::from(used) * 100 >= u128::from(limit) * u128::from(warn_percent);
        let level = match used {
            _ if limit == 0 => Level::Normal,
            _ if used >= limit => Level::Reached,
            _ if is_near => Level::Warning,
            _ => Level::Normal,
        };
        LimitFigures { used, limit, level }
    }

    /// Whether it refuses is known from elsewhere.
    fn correct(&mut self, refuses: bool) {
        if refuses {
            self.level = Level::Reached;
        } else if self.level == Level::Reached {
            self.level = Level::Warning;
        }
    }
}

/// Processes shown as one: together they may have as much as all, and one that has reached its limit refuses.
impl std::ops::AddAssign for LimitFigures {
    fn add_assign(&mut self, other: Self) {
        self.used = self.used.saturating_add(other.used);
        self.limit = self.limit.saturating_add(other.limit);
        self.level = self.level.max(other.level);
    }
}

/// Every limit of the node, by its name.
pub(crate) fn figures(node: &Node) -> BTreeMap<&'static str, LimitFigures> {
    let options = node.options();
    let limits = &node.limits;
    let (places, bytes) = (limits.calls.places(), limits.calls.bytes());
    let mut figures = BTreeMap::new();
    let mut add = |name, used, limit| {
        figures.insert(name, LimitFigures::new(used, limit, options.warn_percent));
    };
    add("connections", node.connections.len() as u64, options.max_connections as u64);
    add("sessions", node.hub.len() as u64, options.max_sessions as u64);
    add("calls_in_flight", places.taken(), places.size());
    add("call_bytes", bytes.taken(), bytes.size());
    add("reply_cache_bytes", node.reply_budget.used(), node.reply_budget.limit());
    add("reply_queue_bytes", limits.reply_queue.bytes(), options.reply_queue_bytes);
    let (last_second, rate_refuses, per_second) = limits.calls.rate(node.uptime());
    add("calls_per_second", last_second, per_second);
    add("memory_bytes", limits.memory.used(), limits.memory.limit());
    // What refuses is reached, also where that takes more than to be at the limit or ends only well below it.
    let mut correct = |name, refuses: bool| {
        if let Some(figures) = figures.get_mut(name) {
            figures.correct(refuses);
        }
    };
    correct("calls_per_second", rate_refuses);
    correct("memory_bytes", limits.memory.is_short());
    figures
}

/// Tells of levels that change, until the node stops.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            () = node.stopping() => return,
            _ = ticks.tick() => {}
        }
        for (limit, now) in figures(&node) {
            tell(&mut told, limit, now);
        }
    }
}

/// One line for each change: at once where it is worse than what was told, else after a while.
fn tell(told: &mut BTreeMap<&'static str, (Level, Instant)>, limit: &'static str, now: LimitFigures) {
    let at = Instant::now();
    let (level, since) = told.get(limit).copied().unwrap_or((Level::Normal, at));
    let is_due = now.level > level || now.level < level && at - since >= TELL_AGAIN;
    if !is_due {
        return;
    }
    told.insert(limit, (now.level, at));
    let LimitFigures { used, limit: most, .. } = now;
    match now.level {
        Level::Normal => tracing::info!(limit, used, most, "a limit is far again"),
        Level::Warning => tracing::warn!(limit, used, most, "a limit is near"),
        Level::Reached => {
            tracing::warn!(limit, used, most, "a limit is reached: what is beyond it is refused")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_normal_warning_and_reached() {
        let level = |used| LimitFigures::new(used, 10, 80).level;
        assert_eq!([0, 7, 8, 9, 10, 11].map(|used| level(used).number()), [0, 0, 1, 1, 2, 2]);
        assert_eq!([9, 10].map(|used| LimitFigures::new(used, 12, 80).level.number()), [0, 1]);
        let mut sum = LimitFigures::new(1, 10, 80);
        sum += LimitFigures::new(10, 10, 80);
        assert_eq!(sum, LimitFigures { used: 11, limit: 20, level: Level::Reached });
    }

    #[test]
    fn what_refuses_is_reached_and_what_does_not_is_not() {
        let level = |used, refuses| {
            let mut figures = LimitFigures::new(used, 10, 80);
            figures.correct(refuses);
            figures.level.number()
        };
        let levels = [(7, false), (8, false), (10, false), (12, false), (7, true), (9, true), (10, true)];
        assert_eq!(levels.map(|(used, refuses)| level(used, refuses)), [0, 1, 1, 1, 2, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn worse_is_told_at_once_and_better_after_a_while() {
        let mut told = BTreeMap::new();
        let mut told_after = |used| {
            tell(&mut told, "calls", LimitFigures::new(used, 10, 80));
            told.get("calls").map(|(level, _)| level.number())
        };
        assert_eq!([1, 8, 10, 1].map(&mut told_after), [None, Some(1), Some(2), Some(2)]);
        tokio::time::advance(TELL_AGAIN).await;
        assert_eq!(told_after(1), Some(0));
    }
}
