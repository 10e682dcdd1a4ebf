//! How upstreams are reached, judged and limited: plain values, checked by whoever reads the configuration.

use std::time::Duration;

use super::defaults;
use super::registration::Registration;
use crate::zone::ZoneMap;

/// Everything that [`Upstreams`](super::Upstreams) can be told.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Users to zones.
    pub zones: ZoneMap,
    /// Actions that begin with this prefix go to the instances of this `service_name`; the longest prefix wins.
    /// Instances of such a service get no other actions.
    pub routes: Vec<Route>,
    /// Upstreams that need no registration and never go away.
    pub statics: Vec<Registration>,
    /// Actions that may run twice, for upstreams that cannot say so themselves; `name` or `prefix*`.
    pub idempotent_actions: Vec<String>,
    /// A call's deadline; the header `x-timeout-ms` lowers it.
    pub call_timeout: Duration,
    /// How long `Authenticate` may take.
    pub authenticate_timeout: Duration,
    /// How long `Authorize` may take.
    pub authorize_timeout: Duration,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// Calls in flight at one instance that does not say how many it takes.
    pub max_in_flight: u32,
    /// Calls in flight at all instances together; `None` for no limit.
    pub max_in_flight_total: Option<u32>,
    /// HTTP/2 connections to each instance at most. One is made; another when calls find that the instance takes no more
    /// of them on those that are there.
    pub channels: usize,
    /// The largest answer that is read, in bytes.
    pub max_response: usize,
    /// The largest reply without its pushes, in bytes.
    pub max_reply: usize,
    /// How often an idempotent call is tried whose instance broke it.
    pub max_attempts: u32,
    /// A registration whose instance does not answer for this long is forgotten.
    pub lease: Duration,
    /// Registrations at most.
    pub max_registrations: usize,
    /// When an instance is taken out of service and how it returns.
    pub health: HealthOptions,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        UpstreamOptions {
            zones: ZoneMap::default(),
            routes: Vec::new(),
            statics: Vec::new(),
            idempotent_actions: Vec::new(),
            call_timeout: defaults::CALL_TIMEOUT,
            authenticate_timeout: defaults::AUTHENTICATE_TIMEOUT,
            authorize_timeout: defaults::AUTHORIZE_TIMEOUT,
            connect_timeout: defaults::CONNECT_TIMEOUT,
            max_in_flight: defaults::MAX_IN_FLIGHT,
            max_in_flight_total: None,
            channels: defaults::CHANNELS,
            max_response: defaults::MAX_RESPONSE,
            max_reply: defaults::MAX_REPLY,
            max_attempts: defaults::MAX_ATTEMPTS,
            lease: defaults::LEASE,
            max_registrations: defaults::MAX_REGISTRATIONS,
            health: HealthOptions::default(),
        }
    }
}

/// An action prefix and the service that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The beginning of the action.
    pub prefix: String,
    /// The `service_name` that instances register with.
    pub service: String,
}

/// When an instance is taken out of service and how it returns.
#[derive(Debug, Clone)]
pub struct HealthOptions {
    /// How often `GetStatus` is asked.
    pub probe_interval: Duration,
    /// How long it may take.
    pub probe_timeout: Duration,
    /// Failures in a row that eject an instance.
    pub consecutive_failures: u32,
    /// Failures per hundred calls of the window that eject it, once there are [`Self::min_calls`].
    pub error_percent: u32,
    /// Calls in the window below which no rate counts.
    pub min_calls: u32,
    /// How far back rates look.
    pub window: Duration,
    /// A call is slow when it takes longer than this, and than four times what its action usually takes. An
    /// instance in which calls are stuck while those of the others end is ejected. `None`: slowness ejects nobody.
    pub slow_after: Option<Duration>,
    /// Slow calls that must run at once for that.
    pub min_slow: u32,
    /// How long the first ejection lasts; the next ones double it.
    pub ejection_base: Duration,
    /// How long an ejection lasts at most.
    pub ejection_max: Duration,
    /// When at most this many per hundred of a group's instances are in service, all of them are used, because
    /// then the judgement is probably wrong. 0: only when none is.
    pub panic_percent: u32,
}

impl Default for HealthOptions {
    fn default() -> Self {
        HealthOptions {
            probe_interval: defaults::PROBE_INTERVAL,
            probe_timeout: defaults::PROBE_TIMEOUT,
            consecutive_failures: defaults::CONSECUTIVE_FAILURES,
            error_percent: defaults::ERROR_PERCENT,
            min_calls: defaults::MIN_CALLS,
            window: defaults::WINDOW,
            slow_after: Some(defaults::SLOW_AFTER),
            min_slow: defaults::MIN_SLOW,
            ejection_base: defaults::EJECTION_BASE,
            ejection_max: defaults::EJECTION_MAX,
            panic_percent: 0,
        }
    }
}

/// What of the options can change while calls run.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) routes: Vec<Route>,
    pub(super) statics: Vec<Registration>,
    pub(super) idempotent_actions: Vec<String>,
    pub(super) max_in_flight: u32,
    pub(super) max_in_flight_total: Option<u32>,
}

impl Live {
    pub(super) fn of(options: &UpstreamOptions) -> Self {
        Live {
            routes: options.routes.clone(),
            statics: options.statics.clone(),
            idempotent_actions: options.idempotent_actions.clone(),
            max_in_flight: options.max_in_flight,
            max_in_flight_total: options.max_in_flight_total,
        }
    }

    /// The service that an action's longest route names.
    pub(super) fn service_of(&self, action: &str) -> Option<&str> {
        let matching = self.routes.iter().filter(|route| action.starts_with(&route.prefix));
        matching.max_by_key(|route| route.prefix.len()).map(|route| route.service.as_str())
    }
}
