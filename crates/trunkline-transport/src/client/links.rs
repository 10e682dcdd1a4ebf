//! The connections of a client, and which of them is used next.
//!
//! Data behind a short lock. It neither connects nor closes: the client and its keeper do.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::keeper::Keeping;
use crate::{CloseReason, Session, SessionId, codes};

/// Connections that may be used, and how many there should be.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: Vec<Session>,
    /// How many are to be kept; 0 before `connect` and after `disconnect`.
    wanted: usize,
    /// What each had moved when it was last looked at, and since when that is so.
    quiet: HashMap<SessionId, (u64, Instant)>,
}

impl Links {
    /// Adds one that is wanted; false if it is not, any more.
    pub(super) fn add(&self, session: &Session) -> bool {
        let mut state = self.0.lock();
        if state.wanted == 0 {
            return false;
        }
        state.sessions.push(session.clone());
        true
    }

    /// Forgets what has ended, where nobody keeps connections.
    pub(super) fn sweep(&self) {
        self.0.lock().sessions.retain(Session::is_open);
    }

    /// Those that packets can be sent on.
    pub(super) fn open(&self) -> Vec<Session> {
        self.0.lock().sessions.iter().filter(|session| session.is_open()).cloned().collect()
    }

    /// How many take new requests.
    pub(super) fn usable(&self) -> usize {
        self.0.lock().sessions.iter().filter(|session| is_usable(session)).count()
    }

    /// The one with the least load that takes new requests; else any that is open.
    pub(super) fn least_loaded(&self) -> Option<Session> {
        let state = self.0.lock();
        let usable = state.sessions.iter().filter(|session| is_usable(session));
        let chosen = usable.min_by_key(|session| load(session));
        chosen.or_else(|| state.sessions.iter().find(|session| session.is_open())).cloned()
    }

    pub(super) fn wanted(&self) -> usize {
        self.0.lock().wanted
    }

    pub(super) fn want(&self, count: usize) {
        self.0.lock().wanted = count;
    }

    /// Wants one more if it is worth having: half of the chosen one's places for requests are taken. Whether it does.
    pub(super) fn grow(&self, chosen: &Session, max: usize) -> bool {
        if load(chosen).0 * 2 < chosen.core.shared.limits.requests {
            return false;
        }
        let mut state = self.0.lock();
        // One at a time: the next is thought of when this one is there.
        let usable = state.sessions.iter().filter(|session| is_usable(session)).count();
        let grows = state.wanted > 0 && state.wanted < max && usable >= state.wanted;
        if grows {
            state.wanted += 1;
        }
        grows
    }

    /// Takes out what has ended and, of a pool, closes those beyond its least on which nothing has moved for too long: how
    /// many are wanted now, and how many there are.
    pub(super) fn reap(&self, now: Instant, keeping: Keeping) -> (usize, usize) {
        let mut state = self.0.lock();
        let State { sessions, wanted, quiet } = &mut *state;
        let is_pool = keeping.idle.is_some();
        let mut idle_ones = Vec::new();
        sessions.retain(|session| {
            let end = session.end();
            if end.as_ref().is_some_and(|reason| !is_worth_replacing(reason, is_pool)) {
                *wanted = wanted.saturating_sub(1);
            }
            end.is_none()
        });
        if let Some(idle) = keeping.idle {
            let mut left = sessions.len();
            sessions.retain(|session| {
                let stats = session.stats();
                let moved = stats.sent_packets + stats.received_packets;
                let (seen, since) = quiet.entry(session.id()).or_insert((moved, now));
                if *seen != moved || load(session) != (0, 0) {
                    (*seen, *since) = (moved, now);
                }
                let goes = left > keeping.min && now.duration_since(*since) >= idle;
                if goes {
                    left -= 1;
                    *wanted = wanted.saturating_sub(1);
                    idle_ones.push(session.clone());
                }
                !goes
            });
            quiet.retain(|id, _| sessions.iter().any(|session| session.id() == *id));
        }
        let found = (*wanted, sessions.iter().filter(|session| is_usable(session)).count());
        drop(state);
        idle_ones.iter().for_each(|session| session.close(codes::NORMAL, "idle"));
        found
    }

    /// Everything that is open, to be closed; none is wanted any more.
    pub(super) fn take_all(&self) -> Vec<Session> {
        let mut state = self.0.lock();
        state.wanted = 0;
        std::mem::take(&mut state.sessions)
    }
}

/// Requests in flight, then bytes that wait.
fn load(session: &Session) -> (usize, usize) {
    let requests = session.core.pending.lock().len();
    (requests, session.queued_bytes())
}

/// Whether the server would have the client back after this. Codes of users' own, and those that say that the client is
/// at fault, do not ask for it. An ordinary end does not either, but a pool is not one conversation that could end.
fn is_worth_replacing(reason: &CloseReason, is_pool: bool) -> bool {
    match reason {
        CloseReason::Peer { code: codes::NORMAL, .. } => is_pool,
        CloseReason::Peer { code, .. } => codes::may_pass(*code),
        CloseReason::Ended | CloseReason::Lost(_) | CloseReason::Silent => true,
        _ => false,
    }
}

fn is_usable(session: &Session) -> bool {
    session.is_open() && !session.core.pending.lock().is_over()
}
