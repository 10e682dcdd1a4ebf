//! One instance, as its address: its connections, its judgement, and the calls it runs now.
//!
//! It hands out permits, within the instance's limit; it never chooses between instances and never dials (the
//! keeper does). All registrations with the same address share one peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::events::EventQueue;
use super::health::{Health, Outcome, Phase, Slowness};
use super::link::Link;
use super::options::HealthOptions;
use super::registration::Address;
use super::signal::Changes;

/// See the module.
pub(super) struct Peer {
    pub(super) address: Address,
    /// Its connections.
    pub(super) channels: Arc<Channels>,
    /// Events for it that were not taken yet.
    pub(super) events: EventQueue,
    /// Ends the keeper and the event pump.
    pub(super) cancel: CancellationToken,
    /// Mirrors the judgement, so that picking takes no lock.
    phase: AtomicU8,
    in_flight: AtomicU32,
    limit: AtomicU32,
    calls: AtomicU64,
    failures: AtomicU64,
    judge: Mutex<Judge>,
    changes: Changes,
}

/// The judgement and what it looks at. One short lock, taken twice a call.
struct Judge {
    health: Health,
    running: BTreeMap<u64, Running>,
    next_call: u64,
}

struct Running {
    since: Instant,
    /// It is slow from here on.
    slow_at: Instant,
}

/// How a call was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Ordinary,
    Trial,
}

/// Which instances may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    /// Those in service.
    Serving,
    /// All that have a connection: most are out of service, so that the judgement is probably wrong.
    Connected,
}

/// Why an instance gave no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// As many calls run as it takes.
    Full,
    /// It went out of service, or lost its connection, between the choice and now.
    Gone,
}

/// What a page shows of a peer.
pub(super) struct PeerFigures {
    pub(super) phase: Phase,
    pub(super) why: String,
    pub(super) since: Instant,
    pub(super) connections: usize,
    pub(super) in_flight: u32,
    pub(super) limit: u32,
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) ejections: u64,
}

impl Peer {
    pub(super) fn new(
        address: Address,
        channels: Arc<Channels>,
        options: HealthOptions,
        changes: Changes,
        cancel: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Peer {
            address,
            channels,
            events: EventQueue::default(),
            cancel,
            phase: AtomicU8::new(Phase::Unprobed.to_u8()),
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(u32::MAX),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            judge: Mutex::new(Judge {
                health: Health::new(options, now),
                running: BTreeMap::new(),
                next_call: 0,
            }),
            changes,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit.max(1), Ordering::Relaxed);
    }

    /// Could it be asked? A hint: [`Self::admit`] decides.
    pub(super) fn is_usable(&self, admit: Admit) -> bool {
        let phase = match (admit, self.phase()) {
            (_, Phase::Up) => true,
            (Admit::Serving, Phase::HalfOpen) => self.judge.lock().health.trial().is_none(),
            (Admit::Serving, _) => false,
            (Admit::Connected, phase) => phase != Phase::Unprobed,
        };
        phase && self.channels.is_open()
    }

    /// Since when it has been in its phase.
    pub(super) fn since(&self) -> Instant {
        self.judge.lock().health.since()
    }

    /// Lets a call in that is slow when it takes longer than `patience`.
    pub(super) fn admit(self: &Arc<Self>, admit: Admit, patience: Duration) -> Result<Permit, Denied> {
        let limit = self.limit.load(Ordering::Relaxed);
        let below = |running: u32| (running < limit).then(|| running + 1);
        self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, below).map_err(|_| Denied::Full)?;
        let Some(link) = self.channels.pick() else {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(Denied::Gone);
        };
        let mut judge = self.judge.lock();
        let id = judge.next_call;
        let admission = match (judge.health.phase(), admit) {
            (Phase::HalfOpen, _) if judge.health.begin_trial(id) => Admission::Trial,
            (Phase::Up, _) | (_, Admit::Connected) => Admission::Ordinary,
            (_, Admit::Serving) => {
                drop(judge);
                self.in_flight.fetch_sub(1, Ordering::AcqRel);
                return Err(Denied::Gone);
            }
        };
        judge.next_call += 1;
        let since = Instant::now();
        judge.running.insert(id, Running { since, slow_at: since + patience });
        drop(judge);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Permit { peer: Arc::clone(self), link, id, admission, outcome: Outcome::Neutral })
    }

    /// Looks at the running calls: how slow the instance is. A trial that is slow has failed.
    pub(super) fn look_at_running(&self, now: Instant) -> Slowness {
        let mut judge = self.judge.lock();
        let Judge { health, running, .. } = &mut *judge;
        let slow = |call: &&Running| call.slow_at <= now;
        if let Some(trial) = health.trial()
            && running.get(&trial).is_some_and(|call| slow(&call))
        {
            health.trial_ended(now, trial, Outcome::Bad);
        }
        let oldest = running.values().filter(slow).map(|call| call.since).min();
        let stuck = running.values().filter(slow).count();
        let ended = health.ended_since(now, oldest);
        self.publish(&judge);
        Slowness { running: u32::try_from(stuck).unwrap_or(u32::MAX), ended }
    }

    pub(super) fn judge_slowness(&self, now: Instant, own: Slowness, others: Slowness) {
        self.judged(|health| health.judge_slowness(now, own, others));
    }

    pub(super) fn probe_passed(&self) {
        self.judged(|health| health.probe_passed(Instant::now()));
    }

    pub(super) fn probe_failed(&self, why: &str) {
        self.judged(|health| health.probe_failed(Instant::now(), why));
    }

    pub(super) fn unreachable(&self, why: &str) {
        self.judged(|health| health.unreachable(Instant::now(), why));
    }

    pub(super) fn figures(&self) -> PeerFigures {
        let judge = self.judge.lock();
        PeerFigures {
            phase: judge.health.phase(),
            why: judge.health.why().to_owned(),
            since: judge.health.since(),
            connections: self.channels.count(),
            in_flight: self.in_flight(),
            limit: self.limit.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            ejections: judge.health.ejections(),
        }
    }

    fn judged(&self, change: impl FnOnce(&mut Health)) {
        let mut judge = self.judge.lock();
        change(&mut judge.health);
        self.publish(&judge);
    }

    /// Under the lock, so that mirrors follow each other in the judgement's order.
    fn publish(&self, judge: &Judge) {
        let phase = judge.health.phase();
        let before = Phase::from_u8(self.phase.swap(phase.to_u8(), Ordering::AcqRel));
        if before == phase {
            return;
        }
        let (address, why) = (&self.address, judge.health.why());
        match phase {
            Phase::Ejected => tracing::warn!(%address, why, "upstream ejected"),
            Phase::Down => tracing::warn!(%address, why, "upstream down"),
            Phase::Up => tracing::info!(%address, "upstream in service"),
            Phase::HalfOpen | Phase::Unprobed => {
                tracing::debug!(%address, phase = phase.as_str(), "upstream")
            }
        }
        self.changes.tell();
    }

    fn end(&self, id: u64, admission: Admission, outcome: Outcome) {
        let now = Instant::now();
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if outcome == Outcome::Bad {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let mut judge = self.judge.lock();
        judge.running.remove(&id);
        match admission {
            Admission::Trial => judge.health.trial_ended(now, id, outcome),
            Admission::Ordinary => judge.health.ended(now, outcome),
        }
        self.publish(&judge);
    }
}

/// One call's place at an instance. Dropping it gives the place back and says nothing about the instance;
/// [`Self::end`] says how the call went.
pub(super) struct Permit {
    pub(super) peer: Arc<Peer>,
    pub(super) link: Link,
    id: u64,
    admission: Admission,
    outcome: Outcome,
}

impl Permit {
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.peer.end(self.id, self.admission, self.outcome);
        if self.admission == Admission::Trial {
            // The place of a half-open instance is free again, though its phase may be the same.
            self.peer.changes.tell();
        }
    }
}
