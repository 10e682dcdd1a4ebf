//! One request to one of a group's instances: choice, attempt, and what may be tried again.
//!
//! A request is repeated where nothing of it was sent, or where running twice is allowed; never otherwise, and
//! never beyond its deadline. What is known of each attempt goes into the instance's judgement.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;
use trunkline_service::grpc::convert;
use trunkline_service::{Code, Status};

use super::defaults;
use super::health::Outcome;
use super::keeper::jittered;
use super::options::UpstreamOptions;
use super::peer::{Peer, Permit};
use super::pick::{Pick, Terms, pick};
use super::registry::{Entry, Group, Registry};
use super::unary::{Failure, Method, Request};
use crate::zone::Zone;

/// Attempts that an instance refused or that never left: each is cheap, but an instance that accepts and closes
/// for ever must not keep a call busy.
const MAX_UNSENT: u32 = 8;

/// What a request is, for choosing and repeating.
pub(super) struct Plan<'a> {
    /// The group now; asked again after each change.
    pub(super) group: &'a (dyn Fn(&Registry) -> Group + Send + Sync),
    pub(super) whom: Whom<'a>,
    pub(super) deadline: Instant,
    /// It is slow when it runs longer.
    pub(super) patience: Duration,
    /// May it run twice, at this instance?
    pub(super) idempotent: &'a (dyn Fn(&Entry) -> bool + Send + Sync),
}

/// Where a request goes, for messages.
#[derive(Clone, Copy)]
pub(super) enum Whom<'a> {
    Service(&'a str),
    Zone(&'a Zone),
}

impl fmt::Display for Whom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Service(service) => write!(f, "the service {service}"),
            Whom::Zone(zone) => write!(f, "zone {zone}"),
        }
    }
}

/// What is known of one attempt.
enum Attempt<R> {
    Answered(R),
    /// It did not run: a connection that was gone, or an instance that says so.
    NotRun {
        status: Status,
        /// With another connection the same instance may take it.
        ended: bool,
    },
    /// It may have run.
    Broken(Status),
    /// It ran, or its time is over: this is the answer.
    Final(Status),
}

/// Requests that run, over all instances, and what became of those that ended.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) in_flight: AtomicU32,
    pub(super) calls: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) retries: AtomicU64,
    /// Told when the last running request has ended.
    pub(super) idle: Notify,
}

/// Makes requests.
pub(super) struct Dispatch {
    pub(super) registry: Arc<Registry>,
    pub(super) options: Arc<UpstreamOptions>,
    pub(super) traffic: Traffic,
}

/// Counts a request as running while it lives.
struct InFlight<'a>(&'a Traffic);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Traffic {
    /// Returns when no request runs.
    pub(super) async fn until_idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            // Listens before it looks, so that the last request's end is not missed.
            idle.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Dispatch {
    /// Sends a request until it is answered or may not be repeated. `read` says what an answer means for the instance.
    /// Dropping the future cancels the attempt that runs.
    pub(super) async fn send<M: Message, R: Message + Default>(
        &self,
        plan: Plan<'_>,
        method: &Method<M, R>,
        message: impl Fn(Duration, bool) -> M,
        read: impl Fn(Result<R, tonic::Status>) -> Result<(R, Outcome), tonic::Status>,
    ) -> Result<R, Status> {
        let result = match self.enter() {
            Some(_running) => self.attempts(&plan, method, &message, &read).await,
            None => Err(overloaded("the gateway has as many upstream calls in flight as it may")),
        };
        self.count(&result);
        result
    }

    async fn attempts<M: Message, R: Message + Default>(
        &self,
        plan: &Plan<'_>,
        method: &Method<M, R>,
        message: &impl Fn(Duration, bool) -> M,
        read: &impl Fn(Result<R, tonic::Status>) -> Result<(R, Outcome), tonic::Status>,
    ) -> Result<R, Status> {
        let mut tried: Vec<Arc<Peer>> = Vec::new();
        let (mut broken, mut unsent) = (0, 0);
        let mut last = None;
        loop {
            let (permit, entry) = match self.choose(plan, &tried).await {
                Ok(chosen) => chosen,
                Err(status) => return Err(last.unwrap_or(status)),
            };
            let peer = permit.peer.clone();
            let remaining = plan.deadline.saturating_duration_since(Instant::now());
            let request = method.request(&message(remaining, broken > 0), remaining);
            match self.attempt(permit, plan, request, read).await {
                Attempt::Answered(answer) => return Ok(answer),
                Attempt::Final(status) => return Err(status),
                Attempt::NotRun { status, ended } => {
                    unsent += 1;
                    if unsent >= MAX_UNSENT {
                        return Err(status);
                    }
                    if !ended {
                        tried.push(peer);
                    }
                    // A broken attempt tells more than one that did not happen.
                    last = last.or(Some(status));
                }
                Attempt::Broken(status) => {
                    broken += 1;
                    if broken >= self.options.max_attempts.max(1) || !(plan.idempotent)(&entry) {
                        return Err(status);
                    }
                    tried.push(peer);
                    last = Some(status);
                }
            }
            self.traffic.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Finds a place at an instance.
    async fn choose(&self, plan: &Plan<'_>, tried: &[Arc<Peer>]) -> Result<(Permit, Arc<Entry>), Status> {
        if let Pick::Go(permit, entry) = self.look(plan, tried)? {
            return Ok((permit, entry));
        }
        // Apart: it is larger than all the rest of a request, and most have no need of it.
        Box::pin(self.wait(plan, tried)).await
    }

    /// Waits for a place, as long as one may come.
    async fn wait(&self, plan: &Plan<'_>, tried: &[Arc<Peer>]) -> Result<(Permit, Arc<Entry>), Status> {
        // Before it looks again: what came before it listened, it does not hear.
        let mut changes = self.registry.changes.subscribe();
        let mut give_up = plan.deadline;
        loop {
            match self.look(plan, tried)? {
                Pick::Go(permit, entry) => return Ok((permit, entry)),
                Pick::Wait(Some(until)) => give_up = give_up.min(until),
                Pick::Wait(None) | Pick::Full | Pick::Nobody => {}
            }
            tokio::select! {
                biased;
                () = changes.changed() => {}
                () = tokio::time::sleep_until(give_up) => {
                    return Err(nobody(plan.whom, (plan.group)(&self.registry).is_empty()));
                }
            }
        }
    }

    /// One look at the instances: there is a place, or one may come.
    fn look(&self, plan: &Plan<'_>, tried: &[Arc<Peer>]) -> Result<Pick, Status> {
        let group = (plan.group)(&self.registry);
        let random = |below: usize| rand::random_range(0..below);
        let terms = Terms {
            tried,
            panic_percent: self.options.health.panic_percent,
            patience: plan.patience,
            now: Instant::now(),
        };
        match pick(&group, &terms, random) {
            // What the broker keeps has not been read: whoever is missing may be there.
            Pick::Nobody if !self.registry.table().loaded => Ok(Pick::Wait(None)),
            Pick::Nobody => Err(nobody(plan.whom, group.is_empty())),
            Pick::Full => Err(overloaded(&format!("the upstreams of {} are busy", plan.whom))),
            picked => Ok(picked),
        }
    }

    async fn attempt<R: Message + Default>(
        &self,
        permit: Permit,
        plan: &Plan<'_>,
        request: Request<R>,
        read: &impl Fn(Result<R, tonic::Status>) -> Result<(R, Outcome), tonic::Status>,
    ) -> Attempt<R> {
        let begun = Instant::now();
        let call = permit.link.call(request);
        let Ok(result) = tokio::time::timeout_at(plan.deadline, call).await else {
            permit.end(late(begun, plan.patience));
            return Attempt::Final(timed_out(begun.elapsed()));
        };
        let (outcome, attempt) = match result {
            Err(Failure { status: grpc, unsent: true, ended }) => {
                tracing::debug!(address = %permit.peer.address, %grpc, "call not sent");
                let status = overloaded("the upstream's connection was lost");
                (Outcome::Neutral, Attempt::NotRun { status, ended })
            }
            result => match read(result.map_err(|failure| failure.status)) {
                Ok((answer, outcome)) => (outcome, Attempt::Answered(answer)),
                Err(grpc) => {
                    tracing::debug!(address = %permit.peer.address, %grpc, "call failed");
                    self.read_failure(&grpc, begun, plan.patience)
                }
            },
        };
        permit.end(outcome);
        attempt
    }

    /// What a gRPC status says of the call and of its instance.
    fn read_failure<R>(
        &self,
        grpc: &tonic::Status,
        begun: Instant,
        patience: Duration,
    ) -> (Outcome, Attempt<R>) {
        if let Some(status) = convert::status_from_grpc(grpc) {
            return match status.code {
                // A service refuses for load before it begins.
                Code::Overloaded => (Outcome::Neutral, Attempt::NotRun { status, ended: false }),
                Code::UpstreamTimeout => (late(begun, patience), Attempt::Final(status)),
                Code::Internal | Code::UpstreamFailed => (Outcome::ServerError, Attempt::Final(status)),
                _ => (Outcome::Good, Attempt::Final(status)),
            };
        }
        let say = |code, what: &str| Attempt::Final(Status::new(code, format!("the upstream {what}")));
        match grpc.code() {
            // Ours, and tonic's own word, for an answer over the limit.
            tonic::Code::OutOfRange => {
                let limit = self.options.max_response;
                (Outcome::Good, say(Code::TooLarge, &format!("answered more than {limit} bytes")))
            }
            // A tonic server ends a call whose grpc-timeout has passed with CANCELLED and these words.
            tonic::Code::Cancelled if grpc.message() == "Timeout expired" => {
                (late(begun, patience), Attempt::Final(timed_out(begun.elapsed())))
            }
            tonic::Code::DeadlineExceeded => {
                (late(begun, patience), Attempt::Final(timed_out(begun.elapsed())))
            }
            tonic::Code::InvalidArgument => (Outcome::Good, say(Code::BadRequest, "refuses these arguments")),
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                (Outcome::Good, say(Code::Forbidden, "forbids this"))
            }
            tonic::Code::NotFound => (Outcome::Good, say(Code::NotFound, "knows no such thing")),
            // In our own words it says that the call did not run (above); in gRPC's it may come after it did, as where
            // an answer is too large to send.
            tonic::Code::ResourceExhausted => {
                let text = "the upstream has used up a resource; the call may have run";
                (Outcome::ServerError, Attempt::Broken(Status::new(Code::UpstreamFailed, text)))
            }
            tonic::Code::Unimplemented => {
                (Outcome::Bad, say(Code::UpstreamFailed, "does not implement this; is its address right?"))
            }
            code => {
                let text = format!("the upstream failed ({code:?}); the call may have run");
                (Outcome::Bad, Attempt::Broken(Status::new(Code::UpstreamFailed, text)))
            }
        }
    }

    fn enter(&self) -> Option<InFlight<'_>> {
        let limit = self.registry.live().max_in_flight_total.unwrap_or(u32::MAX);
        let below = |running: u32| (running < limit).then(|| running + 1);
        let traffic = &self.traffic;
        traffic.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, below).ok()?;
        Some(InFlight(traffic))
    }

    fn count<R>(&self, result: &Result<R, Status>) {
        self.traffic.calls.fetch_add(1, Ordering::Relaxed);
        let counter = match result.as_ref().map_err(|status| status.code) {
            Ok(_) | Err(Code::BadRequest | Code::Forbidden | Code::NotFound) => return,
            Err(Code::Overloaded) => &self.traffic.refused,
            Err(Code::UpstreamTimeout) => &self.traffic.timed_out,
            Err(_) => &self.traffic.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client may ask for less time than any instance needs; that must not eject one.
fn late(begun: Instant, patience: Duration) -> Outcome {
    if begun.elapsed() >= patience { Outcome::Bad } else { Outcome::Neutral }
}

/// 503: it did not run, and may be sent again.
pub(super) fn overloaded(message: &str) -> Status {
    let retry_after = Some(jittered(defaults::RETRY_AFTER));
    Status { code: Code::Overloaded, message: message.to_owned(), retry_after }
}

fn nobody(whom: Whom<'_>, none_registered: bool) -> Status {
    if none_registered {
        overloaded(&format!("no upstream is registered for {whom}"))
    } else {
        overloaded(&format!("no upstream of {whom} can be reached"))
    }
}

fn timed_out(after: Duration) -> Status {
    let text = format!("the upstream did not answer within {} ms; the call may have run", after.as_millis());
    Status::new(Code::UpstreamTimeout, text)
}
