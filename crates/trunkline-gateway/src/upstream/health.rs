//! The judgement over one instance: probes, failures, slowness, ejection and the way back.
//!
//! A pure state machine: the time is given, nothing is measured or sent here. It judges the instance alone;
//! what the others do comes in as figures where slowness is compared, and whether enough are left is the
//! picker's question.
//!
//! ```text
//! Unprobed --probe--> Up --failures, rate, slow--> Ejected --time and probe--> HalfOpen --trial--> Up
//!     \---bad probe--> Down <--probe fails, link lost-- Up, HalfOpen, Ejected
//!                       Down --probe--> HalfOpen, or back to Ejected before its time; HalfOpen --bad trial--> Ejected
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::options::HealthOptions;

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has registered and not answered yet; it may not even listen.
    Unprobed,
    /// In service.
    Up,
    /// Back after a failure: one call at a time tries it.
    HalfOpen,
    /// Out of service for what its calls did, until its time is over and a probe passes.
    Ejected,
    /// Out of service because probes fail or no connection can be made.
    Down,
}

impl Phase {
    const ALL: [Phase; 5] = [Phase::Unprobed, Phase::Up, Phase::HalfOpen, Phase::Ejected, Phase::Down];

    /// The word for pages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Unprobed => "unprobed",
            Phase::Up => "up",
            Phase::HalfOpen => "half-open",
            Phase::Ejected => "ejected",
            Phase::Down => "down",
        }
    }

    pub(super) const fn to_u8(self) -> u8 {
        self as u8
    }

    pub(super) fn from_u8(number: u8) -> Phase {
        Phase::ALL.get(usize::from(number)).copied().unwrap_or(Phase::Down)
    }
}

/// What a call says about its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered.
    Good,
    /// It answered with a code 500 to 599 of its own: counts for the rate, but is not a failure in a row, since
    /// one bad request repeated would look like it.
    ServerError,
    /// It failed.
    Bad,
    /// Nothing can be said: cancelled, or given less time than a slow call has.
    Neutral,
}

/// Calls of the recent past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) calls: u32,
    pub(super) failures: u32,
}

/// How slow an instance is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slowness {
    /// Calls that run for longer than calls of their action should.
    pub(super) running: u32,
    /// Calls ended since the oldest of those began; all of the window if there is none.
    pub(super) ended: u32,
}

impl Slowness {
    pub(super) fn plus(self, other: Slowness) -> Slowness {
        Slowness {
            running: self.running.saturating_add(other.running),
            ended: self.ended.saturating_add(other.ended),
        }
    }
}

impl Counts {
    fn plus(self, other: Counts) -> Counts {
        Counts {
            calls: self.calls.saturating_add(other.calls),
            failures: self.failures.saturating_add(other.failures),
        }
    }
}

/// [`Counts`] over a sliding window, in steps of a tenth of it.
#[derive(Debug)]
struct Window {
    step: Duration,
    buckets: VecDeque<(Instant, Counts)>,
}

impl Window {
    const STEPS: u32 = 10;

    fn add(&mut self, now: Instant, counts: Counts) {
        self.forget(now);
        match self.buckets.back_mut() {
            Some((begun, sum)) if now.duration_since(*begun) < self.step => *sum = sum.plus(counts),
            _ => self.buckets.push_back((now, counts)),
        }
    }

    fn sum(&mut self, now: Instant) -> Counts {
        self.forget(now);
        self.buckets.iter().fold(Counts::default(), |sum, (_, counts)| sum.plus(*counts))
    }

    fn ended_since(&mut self, now: Instant, since: Instant) -> u32 {
        self.forget(now);
        let recent = self.buckets.iter().filter(|(begun, _)| *begun >= since);
        recent.fold(0, |sum, (_, counts)| sum.saturating_add(counts.calls))
    }

    fn forget(&mut self, now: Instant) {
        let length = self.step * Window::STEPS;
        while self.buckets.front().is_some_and(|(begun, _)| now.duration_since(*begun) >= length) {
            self.buckets.pop_front();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Health {
    options: HealthOptions,
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// When an ejection may end.
    until: Instant,
    /// The call that tries a half-open instance.
    trial: Option<u64>,
    in_a_row: u32,
    window: Window,
    /// Ejections that followed each other soon; each doubles the next.
    streak: u32,
    ejections: u64,
    why: String,
}

impl Health {
    pub(super) fn new(options: HealthOptions, now: Instant) -> Self {
        let step = (options.window / Window::STEPS).max(Duration::from_millis(1));
        Health {
            options,
            phase: Phase::Unprobed,
            since: now,
            until: now,
            trial: None,
            in_a_row: 0,
            window: Window { step, buckets: VecDeque::new() },
            streak: 0,
            ejections: 0,
            why: String::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn ejections(&self) -> u64 {
        self.ejections
    }

    /// Why it is out of service; empty while it is in.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Calls ended within the window, and after `since` if it is given.
    pub(super) fn ended_since(&mut self, now: Instant, since: Option<Instant>) -> u32 {
        match since {
            Some(since) => self.window.ended_since(now, since),
            None => self.window.sum(now).calls,
        }
    }

    /// A probe was answered well.
    pub(super) fn probe_passed(&mut self, now: Instant) {
        match self.phase {
            Phase::Unprobed => self.enter(now, Phase::Up, ""),
            // What it was ejected for is not forgotten because it was away as well.
            Phase::Down if now < self.until => self.enter(now, Phase::Ejected, "its ejection is not over"),
            Phase::Down => self.enter(now, Phase::HalfOpen, ""),
            Phase::Ejected if now >= self.until => self.enter(now, Phase::HalfOpen, ""),
            Phase::Ejected | Phase::Up | Phase::HalfOpen => {}
        }
    }

    /// A probe was answered badly, or not at all although the instance can be connected to. One that is ejected is
    /// down then like any other, or its registration would be renewed for ever.
    pub(super) fn probe_failed(&mut self, now: Instant, why: &str) {
        match self.phase {
            Phase::Unprobed | Phase::Up | Phase::HalfOpen | Phase::Ejected => {
                self.enter(now, Phase::Down, why);
            }
            Phase::Down => why.clone_into(&mut self.why),
        }
    }

    /// There is no connection. An instance that never answered may have registered before it listens: it waits.
    pub(super) fn unreachable(&mut self, now: Instant, why: &str) {
        match self.phase {
            Phase::Unprobed => why.clone_into(&mut self.why),
            _ => self.probe_failed(now, why),
        }
    }

    /// May this be the one call of a half-open instance? Its end is [`Self::trial_ended`].
    pub(super) fn begin_trial(&mut self, call: u64) -> bool {
        let free = self.phase == Phase::HalfOpen && self.trial.is_none();
        if free {
            self.trial = Some(call);
        }
        free
    }

    pub(super) fn trial(&self) -> Option<u64> {
        self.trial
    }

    /// A trial of a half-open instance ended, or has become slow. One whose instance went another way meanwhile
    /// says nothing.
    pub(super) fn trial_ended(&mut self, now: Instant, call: u64, outcome: Outcome) {
        if self.trial != Some(call) {
            return;
        }
        self.trial = None;
        match outcome {
            Outcome::Good => self.enter(now, Phase::Up, ""),
            Outcome::Bad | Outcome::ServerError => self.eject(now, "its first call after a failure failed"),
            Outcome::Neutral => {}
        }
    }

    /// An ordinary call ended.
    pub(super) fn ended(&mut self, now: Instant, outcome: Outcome) {
        let failures = u32::from(matches!(outcome, Outcome::Bad | Outcome::ServerError));
        if outcome != Outcome::Neutral {
            self.window.add(now, Counts { calls: 1, failures });
        }
        match outcome {
            Outcome::Good | Outcome::ServerError => self.in_a_row = 0,
            Outcome::Bad => self.in_a_row = self.in_a_row.saturating_add(1),
            Outcome::Neutral => {}
        }
        if self.phase != Phase::Up || failures == 0 {
            return;
        }
        if self.in_a_row >= self.options.consecutive_failures.max(1) {
            self.eject(now, &format!("{} failures in a row", self.in_a_row));
            return;
        }
        let recent = self.window.sum(now);
        let over = u64::from(recent.failures) * 100
            >= u64::from(recent.calls) * u64::from(self.options.error_percent.max(1));
        if recent.calls >= self.options.min_calls.max(1) && over {
            self.eject(now, &format!("{} of {} calls failed", recent.failures, recent.calls));
        }
    }

    /// Compares with the others of its group: ejected when calls are stuck in it and hardly any has ended since,
    /// while few are stuck in the others.
    pub(super) fn judge_slowness(&mut self, now: Instant, own: Slowness, others: Slowness) {
        let stuck = own.running >= self.options.min_slow.max(1) && own.ended <= own.running;
        let others_flow = u64::from(others.running) * 4 <= u64::from(others.ended);
        if self.phase == Phase::Up && stuck && others_flow {
            self.eject(now, &format!("{} slow calls, {} ended meanwhile", own.running, own.ended));
        }
    }

    fn eject(&mut self, now: Instant, why: &str) {
        // Whoever was well for as long as the longest ejection starts anew.
        if self.phase == Phase::Up && now.duration_since(self.since) > self.options.ejection_max {
            self.streak = 0;
        }
        let length = self.options.ejection_base.saturating_mul(1 << self.streak.min(16));
        self.until = now + length.min(self.options.ejection_max);
        self.streak = self.streak.saturating_add(1);
        self.ejections += 1;
        self.enter(now, Phase::Ejected, why);
    }

    fn enter(&mut self, now: Instant, phase: Phase, why: &str) {
        self.phase = phase;
        self.since = now;
        why.clone_into(&mut self.why);
        self.trial = None;
        self.in_a_row = 0;
        self.window.buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        health: Health,
        now: Instant,
    }

    impl Case {
        fn up() -> Self {
            let now = Instant::now();
            let mut health = Health::new(HealthOptions::default(), now);
            health.probe_passed(now);
            Case { health, now }
        }

        fn after(&mut self, ms: u64) -> &mut Self {
            self.now += Duration::from_millis(ms);
            self
        }

        fn calls(&mut self, outcomes: &[Outcome]) -> Phase {
            for outcome in outcomes {
                self.health.ended(self.now, *outcome);
            }
            self.health.phase()
        }

        fn probe(&mut self) -> Phase {
            self.health.probe_passed(self.now);
            self.health.phase()
        }

        fn trial(&mut self, outcome: Outcome) -> Phase {
            assert!(self.health.begin_trial(1));
            self.health.trial_ended(self.now, 1, outcome);
            self.health.phase()
        }
    }

    use Outcome::{Bad, Good, Neutral, ServerError};

    #[test]
    fn u2_failures_in_a_row_eject_and_a_probe_and_a_trial_bring_it_back() {
        let mut case = Case::up();
        assert_eq!(case.calls(&[Bad, Bad, Bad, Bad, Good, Bad, Bad, Bad, Bad]), Phase::Up);
        assert_eq!(case.calls(&[Bad]), Phase::Ejected);
        assert_eq!(case.after(999).probe(), Phase::Ejected);
        assert_eq!(case.after(1).probe(), Phase::HalfOpen);
        assert!(case.health.begin_trial(1));
        assert!(!case.health.begin_trial(2), "one at a time");
        case.health.trial_ended(case.now, 2, Bad);
        assert_eq!(case.health.phase(), Phase::HalfOpen, "not the trial");
        case.health.trial_ended(case.now, 1, Good);
        assert_eq!(case.health.phase(), Phase::Up);
    }

    #[test]
    fn u2_half_of_the_calls_failing_ejects_within_ten_calls() {
        let mut case = Case::up();
        assert_eq!(case.calls(&[Good, Bad, Good, Bad, Good, Bad, Good, Bad, Good]), Phase::Up);
        assert_eq!(case.calls(&[Bad]), Phase::Ejected);
        assert_eq!(case.health.why(), "5 of 10 calls failed");
    }

    #[test]
    fn an_upstreams_own_500_counts_for_the_rate_and_not_in_a_row() {
        let mut case = Case::up();
        assert_eq!(case.calls(&[ServerError; 9]), Phase::Up);
        assert_eq!(case.calls(&[ServerError]), Phase::Ejected);
    }

    #[test]
    fn old_failures_are_forgotten() {
        let mut case = Case::up();
        case.calls(&[Good, Bad, Good, Bad, Good, Bad, Good, Bad]);
        assert_eq!(case.after(5_500).calls(&[Good, Bad]), Phase::Up);
        assert_eq!(case.health.ended_since(case.now, None), 2);
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let mut case = Case::up();
        assert_eq!(case.calls(&[Neutral; 100]), Phase::Up);
        assert_eq!(case.health.ended_since(case.now, None), 0);
    }

    #[test]
    fn u2_a_slow_one_among_fast_ones_is_ejected_and_a_slow_fleet_is_not() {
        let mut case = Case::up();
        let own = Slowness { running: 3, ended: 1 };
        case.health.judge_slowness(case.now, own, Slowness { running: 5, ended: 10 });
        assert_eq!(case.health.phase(), Phase::Up);
        case.health.judge_slowness(case.now, own, Slowness { running: 2, ended: 10 });
        assert_eq!(case.health.phase(), Phase::Ejected);
    }

    #[test]
    fn a_stuck_call_beside_others_that_end_is_no_outlier() {
        let mut case = Case::up();
        let began = case.now;
        assert_eq!(case.after(600).calls(&[Good, Good]), Phase::Up);
        let ended = case.health.ended_since(case.now, Some(began));
        case.health.judge_slowness(case.now, Slowness { running: 1, ended }, Slowness::default());
        assert_eq!(case.health.phase(), Phase::Up);
        let ended = case.health.ended_since(case.now, Some(case.now + Duration::from_millis(1)));
        case.health.judge_slowness(case.now, Slowness { running: 1, ended }, Slowness::default());
        assert_eq!(case.health.phase(), Phase::Ejected);
    }

    #[test]
    fn an_ejected_one_that_is_away_is_down_and_comes_back_no_sooner() {
        let mut case = Case::up();
        case.calls(&[Bad; 5]);
        case.health.unreachable(case.now, "connection lost");
        assert_eq!((case.health.phase(), case.health.why()), (Phase::Down, "connection lost"));
        assert_eq!(case.after(999).probe(), Phase::Ejected, "its time is not over");
        assert_eq!(case.after(1).probe(), Phase::HalfOpen);
        assert_eq!(case.health.ejections(), 1, "it was ejected once");
    }

    #[test]
    fn ejections_that_follow_each_other_double_up_to_the_cap() {
        let mut case = Case::up();
        case.calls(&[Bad; 5]);
        for expected in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!(case.after(expected - 1).probe(), Phase::Ejected, "{expected}");
            assert_eq!(case.after(1).probe(), Phase::HalfOpen);
            assert_eq!(case.trial(Bad), Phase::Ejected);
        }
        case.after(30_000).probe();
        case.trial(Good);
        case.after(30_001).calls(&[Bad; 5]);
        assert_eq!(case.after(1_000).probe(), Phase::HalfOpen, "well for long: anew from the base");
        assert_eq!(case.health.ejections(), 9);
    }

    #[test]
    fn one_that_registers_before_it_listens_stays_unprobed_until_it_answers() {
        let now = Instant::now();
        let mut health = Health::new(HealthOptions::default(), now);
        health.unreachable(now, "connection refused");
        assert_eq!(health.phase(), Phase::Unprobed);
        health.probe_passed(now);
        assert_eq!(health.phase(), Phase::Up);
        health.unreachable(now, "connection lost");
        assert_eq!((health.phase(), health.why()), (Phase::Down, "connection lost"));
        health.probe_passed(now);
        assert_eq!(health.phase(), Phase::HalfOpen);
    }

    #[test]
    fn a_cancelled_trial_leaves_the_place_to_the_next() {
        let mut case = Case::up();
        case.health.probe_failed(case.now, "draining");
        assert_eq!(case.probe(), Phase::HalfOpen);
        assert_eq!(case.trial(Neutral), Phase::HalfOpen);
        assert_eq!(case.trial(Good), Phase::Up);
    }
}
