//! The router: what the gateway calls, and the tasks behind it.
//!
//! An action goes to the instances of its route's service, else to the user's zone. The router holds no session
//! and remembers no call: that a call runs once is the session engine's business, that it is not repeated where
//! it may have run is [`dispatch`](super::dispatch)'s.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trunkline_broker::Broker;
use trunkline_proto::wire;
use trunkline_service::grpc::convert;
use trunkline_service::{Call, Caller, Code, Reply, SessionEvent, Status};

use super::defaults;
use super::dispatch::{Dispatch, Plan, Traffic, Whom, overloaded};
use super::health::{Outcome, Slowness};
use super::hooks::{self, AuthorizeCache};
use super::link::{Dial, SocketDial};
use super::options::{Live, UpstreamOptions};
use super::pace::Pace;
use super::registration::{RegisterError, Registration, names_action, parse_zone, with_host};
use super::registrations::Registrations;
use super::registry::{Entry, Registry};
use super::snapshot::{InstanceSnapshot, TrafficSnapshot, UpstreamsSnapshot};
use super::unary::PROCESS_REQUEST;
use crate::zone::Zone;

/// The header with which a client lowers its call's deadline.
const TIMEOUT_HEADER: &str = "x-timeout-ms";

/// Upstreams and the way to them. Share it in an `Arc`; dropping the last one ends all connections at once,
/// [`Upstreams::shutdown`] ends them in order.
pub struct Upstreams {
    dispatch: Dispatch,
    registrations: Arc<Registrations>,
    cache: AuthorizeCache,
    pace: Pace,
    tasks: TaskTracker,
    /// Fires first: no new calls.
    closing: CancellationToken,
    /// Fires last: no connections.
    cancel: CancellationToken,
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Upstreams {
    /// Begins to connect, to probe and to follow the broker's registrations. Needs a running tokio runtime.
    pub fn new(options: UpstreamOptions, broker: Arc<dyn Broker>) -> Arc<Self> {
        Upstreams::with_dial(options, broker, Arc::new(SocketDial))
    }

    /// The same with another way to open connections.
    pub fn with_dial(options: UpstreamOptions, broker: Arc<dyn Broker>, dial: Arc<dyn Dial>) -> Arc<Self> {
        let options = Arc::new(options);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let registry = Registry::new(options.clone(), dial, tasks.clone(), cancel.clone());
        let registry = Arc::new(registry);
        let registrations = Arc::new(Registrations::new(broker, registry.clone(), options.clone()));
        let follow = registrations.clone();
        tasks.spawn(cancel.clone().run_until_cancelled_owned(async move { follow.follow().await }));
        let sweep = sweep(registry.clone(), options.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(sweep));
        Arc::new(Upstreams {
            dispatch: Dispatch { registry, options, traffic: Traffic::default() },
            registrations,
            cache: AuthorizeCache::default(),
            pace: Pace::default(),
            tasks,
            closing: CancellationToken::new(),
            cancel,
        })
    }

    /// Changes routes, static instances, idempotent actions and limits of calls, for the calls from now on. Everything
    /// else stays as it was at the start.
    pub fn reconfigure(&self, options: &UpstreamOptions) {
        self.dispatch.registry.reconfigure(Live::of(options));
    }

    /// Runs a call at an instance of the caller's zone or of the action's service. Dropping the future cancels it.
    ///
    /// # Errors
    /// 503 `Overloaded`: it did not run. 504: no answer in time. 502: it broke, and may have run. 413: an answer
    /// that no frame can hold. Else what the upstream itself says.
    pub async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        if self.closing.is_cancelled() {
            return Err(overloaded("the gateway is shutting down"));
        }
        let options = &self.dispatch.options;
        let time = self.time_for(&call)?;
        let live = self.dispatch.registry.live();
        let service = live.service_of(&call.action);
        let zone = options.zones.zone_of(&caller.user);
        let everywhere = names_action(&live.idempotent_actions, &call.action);
        let begun = Instant::now();
        let plan = Plan {
            group: &|registry| registry.table().group(service, &zone),
            whom: service.map_or(Whom::Zone(&zone), Whom::Service),
            deadline: begun + time,
            patience: self.patience(&call.action),
            idempotent: &|entry| everywhere || entry.registration.is_idempotent(&call.action),
        };
        let message = |remaining, again: bool| {
            let mut request = convert::call_to_wire(caller, &call, remaining);
            request.retry |= again;
            request
        };
        let read = |answer: Result<wire::UpstreamResponse, tonic::Status>| {
            answer.map(|response| match response.code {
                500..=599 => (response, Outcome::ServerError),
                _ => (response, Outcome::Good),
            })
        };
        let response = self.dispatch.send(plan, &PROCESS_REQUEST, message, read).await?;
        if (200..300).contains(&response.code) {
            self.pace.saw(&call.action, begun.elapsed());
        }
        self.check_size(&response)?;
        convert::reply_from_wire(response)
    }

    /// Registers an instance; the same again changes nothing. Failures are in the answer, as in the seed.
    pub async fn register(&self, request: wire::UpstreamRegisterRequest) -> wire::UpstreamRegisterResponse {
        self.register_from(request, None).await
    }

    /// The same for a request that came from `peer`: an address that names no host, as `:9000`, or a wildcard, as
    /// `0.0.0.0:9000`, is on the peer's host. The seed's upstream registers like that.
    pub async fn register_from(
        &self,
        mut request: wire::UpstreamRegisterRequest,
        peer: Option<IpAddr>,
    ) -> wire::UpstreamRegisterResponse {
        request.address = with_host(&request.address, peer);
        let result = match Registration::parse(&request, &self.dispatch.options.zones) {
            Ok(registration) => self.registrations.register(registration).await,
            Err(error) => Err(error),
        };
        let lease_ms = u32::try_from(self.dispatch.options.lease.as_millis()).unwrap_or(u32::MAX);
        answer(result.map(|()| ("registered".to_owned(), lease_ms)))
    }

    /// Takes an instance out of a zone, or out of all when it names none; its running calls end as they would.
    pub async fn deregister(
        &self,
        request: wire::UpstreamDeregisterRequest,
    ) -> wire::UpstreamRegisterResponse {
        self.deregister_from(request, None).await
    }

    /// The same for a request that came from `peer`; see [`Self::register_from`].
    pub async fn deregister_from(
        &self,
        mut request: wire::UpstreamDeregisterRequest,
        peer: Option<IpAddr>,
    ) -> wire::UpstreamRegisterResponse {
        request.address = with_host(&request.address, peer);
        answer(self.try_deregister(&request).await.map(|count| {
            let text = match count {
                0 => "nothing was registered under this name".to_owned(),
                count => format!("{count} registrations removed"),
            };
            (text, 0)
        }))
    }

    async fn try_deregister(
        &self,
        request: &wire::UpstreamDeregisterRequest,
    ) -> Result<usize, RegisterError> {
        let zone = match request.zone_id.as_str() {
            "" => None,
            name => Some(parse_zone(name, &self.dispatch.options.zones)?),
        };
        if request.address.is_empty() && request.instance_id.is_empty() {
            return Err(RegisterError::Failed("name an address or an instance_id".to_owned()));
        }
        self.registrations.deregister(&request.address, &request.instance_id, zone.as_ref()).await
    }

    /// Asks the instances of service `auth` whose START this is.
    ///
    /// # Errors
    /// 503 where none answers; a refusal is an answer.
    pub async fn authenticate(
        &self,
        request: wire::AuthenticateRequest,
    ) -> Result<wire::AuthenticateResponse, Status> {
        hooks::authenticate(&self.dispatch, request).await
    }

    /// Is there an instance that [`Self::authorize`] would ask about this user? As long as the registrations have not
    /// been read, there may be.
    pub(crate) fn has_authorizer(&self, user: &str) -> bool {
        let table = self.dispatch.registry.table();
        !table.loaded || !table.group(None, &self.zone_of(user)).is_empty()
    }

    /// Asks the caller's zone whether it may do `what` (subscribe, publish, history, presence) with a channel.
    ///
    /// # Errors
    /// What keeps the question from being answered; a refusal is an answer.
    pub async fn authorize(
        &self,
        caller: &Caller,
        channel: &str,
        what: &str,
    ) -> Result<wire::AuthorizeResponse, Status> {
        let request = wire::AuthorizeRequest {
            caller: Some(convert::caller_to_wire(caller)),
            channel: channel.to_owned(),
            what: what.to_owned(),
        };
        if let Some(answer) = self.cache.find(&request) {
            return Ok(answer);
        }
        let zone = self.dispatch.options.zones.zone_of(&caller.user);
        let answer = hooks::authorize(&self.dispatch, &zone, &request).await?;
        self.cache.keep(&request, &answer);
        Ok(answer)
    }

    /// Tells every instance that registered for session events and serves the caller's zone. Never waits; call it
    /// in each session's order, which is kept.
    pub fn session_events(&self, caller: &Caller, event: SessionEvent) {
        if matches!(event, SessionEvent::Ended(_)) {
            self.cache.forget_session(&caller.session);
        }
        let table = self.dispatch.registry.table();
        let listening = |entry: &&Arc<Entry>| entry.registration.session_events;
        if !table.entries.iter().any(|entry| listening(&entry)) {
            return;
        }
        let zone = self.dispatch.options.zones.zone_of(&caller.user);
        let event = convert::event_to_wire(caller, event, unix_ms());
        let mut told = HashSet::new();
        for entry in table.entries.iter().filter(listening) {
            if entry.registration.zone.serves(&zone) && told.insert(&entry.peer.address) {
                entry.peer.events.push(event.clone());
            }
        }
    }

    /// May this action run twice wherever it goes? True where the configuration says so, or all instances of its
    /// service do, of whatever zone.
    pub fn is_idempotent(&self, action: &str) -> bool {
        let live = self.dispatch.registry.live();
        if names_action(&live.idempotent_actions, action) {
            return true;
        }
        let table = self.dispatch.registry.table();
        let mut members = table.members(live.service_of(action)).peekable();
        members.peek().is_some() && members.all(|entry| entry.registration.is_idempotent(action))
    }

    /// The zone of a user.
    pub fn zone_of(&self, user: &str) -> Zone {
        self.dispatch.options.zones.zone_of(user)
    }

    /// What pages and metrics show.
    pub fn snapshot(&self) -> UpstreamsSnapshot {
        let table = self.dispatch.registry.table();
        let mut instances: Vec<_> = table.entries.iter().map(|entry| InstanceSnapshot::of(entry)).collect();
        instances.sort_by(|a, b| (&a.zone, &a.service, &a.address).cmp(&(&b.zone, &b.service, &b.address)));
        UpstreamsSnapshot { instances, traffic: TrafficSnapshot::of(&self.dispatch.traffic) }
    }

    /// Waits until the instances are as `wanted` says: for pages that follow, and for tests. Looks again whenever an
    /// instance comes, goes or changes its state. Cancel-safe.
    pub async fn until(&self, mut wanted: impl FnMut(&[InstanceSnapshot]) -> bool) {
        loop {
            let mut changes = self.dispatch.registry.changes.subscribe();
            if wanted(&self.snapshot().instances) {
                return;
            }
            changes.changed().await;
        }
    }

    /// Refuses new calls, lets those that run end until `end`, then closes all connections and waits for the
    /// tasks. Registrations stay. May be called again.
    pub async fn shutdown(&self, end: Instant) {
        self.closing.cancel();
        // What does not end in time is cut off by what follows.
        let _in_time = tokio::time::timeout_at(end, self.dispatch.traffic.until_idle()).await;
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// How long a call may run before its instance seems slow; what is not known is never slow.
    fn patience(&self, action: &str) -> Duration {
        let options = &self.dispatch.options;
        match (options.health.slow_after, self.pace.patience(action)) {
            (Some(least), Some(usual)) => usual.clamp(least, options.call_timeout.max(least)),
            _ => options.call_timeout,
        }
    }

    /// The least of the gateway's time-out, the call's own and its header.
    fn time_for(&self, call: &Call) -> Result<Duration, Status> {
        let mut time = self.dispatch.options.call_timeout;
        if !call.deadline.is_zero() {
            time = time.min(call.deadline);
        }
        if let Some(text) = call.headers.get(TIMEOUT_HEADER) {
            let ms = text.trim().parse::<u64>().ok().filter(|ms| *ms > 0).ok_or_else(|| {
                Status::new(Code::BadRequest, format!("{TIMEOUT_HEADER} is a number of milliseconds above 0"))
            })?;
            time = time.min(Duration::from_millis(ms));
        }
        Ok(time)
    }

    /// A reply must fit a frame; its pushes are frames of their own.
    fn check_size(&self, response: &wire::UpstreamResponse) -> Result<(), Status> {
        let pushes: usize = response.notifies.iter().map(|push| push.encoded_len() + 6).sum();
        let size = response.encoded_len().saturating_sub(pushes);
        let limit = self.dispatch.options.max_reply;
        if size > limit {
            let text = format!("the upstream's reply has {size} bytes; a frame holds {limit}");
            return Err(Status::new(Code::TooLarge, text));
        }
        Ok(())
    }
}

/// Looks at the running calls now and then and compares the members of each group.
async fn sweep(registry: Arc<Registry>, options: Arc<UpstreamOptions>) {
    if options.health.slow_after.is_none() {
        return;
    }
    let mut tick = tokio::time::interval(defaults::SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let table = registry.table();
        for group in table.groups().filter(|group| group.len() > 1) {
            let seen: Vec<Slowness> = group.iter().map(|entry| entry.peer.look_at_running(now)).collect();
            for (at, entry) in group.iter().enumerate() {
                let others = seen.iter().enumerate().filter(|(other, _)| *other != at);
                let others = others.fold(Slowness::default(), |sum, (_, other)| sum.plus(*other));
                entry.peer.judge_slowness(now, seen[at], others);
            }
        }
    }
}

fn answer(result: Result<(String, u32), RegisterError>) -> wire::UpstreamRegisterResponse {
    match result {
        Ok((message, lease_ms)) => {
            wire::UpstreamRegisterResponse { success: true, message, error_code: String::new(), lease_ms }
        }
        Err(error) => wire::UpstreamRegisterResponse {
            success: false,
            message: error.to_string(),
            error_code: error.code().to_owned(),
            lease_ms: 0,
        },
    }
}

/// The wall clock, for people and logs; nothing is ordered by it.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
