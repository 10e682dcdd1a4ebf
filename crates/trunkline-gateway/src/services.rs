//! Who answers a call: a service in the process by its action prefix, else the upstreams of the user's zone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::time::timeout;
use trunkline_service::{Call, Caller, Code, Context, Reply, Service, SessionEvent, Status};

use crate::upstream::Upstreams;

/// What a service may take for one session event: all sessions' events wait for it.
const EVENT_DEADLINE: Duration = Duration::from_secs(5);

/// The services of a node.
pub(crate) struct Services {
    local: ArcSwap<Vec<Arc<dyn Service>>>,
    upstreams: Option<Arc<Upstreams>>,
}

impl Services {
    pub(crate) fn new(upstreams: Option<Arc<Upstreams>>) -> Self {
        Services { local: ArcSwap::default(), upstreams }
    }

    /// Mounts a service. The longest prefix wins, whatever the order of mounting.
    pub(crate) fn mount(&self, service: Arc<dyn Service>, context: Arc<dyn Context>) {
        service.mounted(context);
        self.local.rcu(|services| {
            let mut services = services.as_ref().clone();
            services.push(Arc::clone(&service));
            services.sort_by_key(|service| std::cmp::Reverse(service.action_prefix().len()));
            services
        });
    }

    /// The service of the process that answers this action.
    pub(crate) fn local(&self, action: &str) -> Option<Arc<dyn Service>> {
        self.local.load().iter().find(|service| action.starts_with(service.action_prefix())).cloned()
    }

    /// Has a call answered by an upstream, in whatever time that takes: the caller bounds it.
    pub(crate) async fn call_upstream(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        match &self.upstreams {
            Some(upstreams) => upstreams.call(caller, call).await,
            None => {
                Err(Status::new(Code::NotFound, format!("no service answers the action {:?}", call.action)))
            }
        }
    }

    /// May the action run twice for the same call?
    pub(crate) fn is_idempotent(&self, action: &str) -> bool {
        match self.local(action) {
            Some(service) => service.is_idempotent(action),
            None => self.upstreams.as_ref().is_some_and(|upstreams| upstreams.is_idempotent(action)),
        }
    }

    /// Tells the upstreams that asked for it, and every service. One that panics or hangs costs the others nothing
    /// but its deadline.
    pub(crate) async fn session_event(&self, caller: &Caller, event: SessionEvent) {
        if let Some(upstreams) = &self.upstreams {
            upstreams.session_events(caller, event);
        }
        let local = self.local.load_full();
        for service in local.iter() {
            let told = AssertUnwindSafe(service.session_event(caller, event)).catch_unwind();
            let prefix = service.action_prefix();
            match timeout(EVENT_DEADLINE, told).await {
                Ok(Ok(())) => {}
                Ok(Err(_panic)) => tracing::error!(prefix, "a service panicked at a session event"),
                Err(_elapsed) => tracing::warn!(prefix, "a service did not take a session event in time"),
            }
        }
    }

    /// The upstreams, where the node has any way to them.
    pub(crate) fn upstreams(&self) -> Option<&Arc<Upstreams>> {
        self.upstreams.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// What a service does at an event.
    enum Mood {
        Panics,
        Hangs,
        Counts(Arc<AtomicUsize>),
    }

    #[async_trait::async_trait]
    impl Service for Mood {
        fn action_prefix(&self) -> &str {
            "mood."
        }

        async fn call(&self, _: &Caller, _: Call) -> Result<Reply, Status> {
            Err(Status::new(Code::NotFound, "no calls here"))
        }

        async fn session_event(&self, _: &Caller, _: SessionEvent) {
            match self {
                Mood::Panics => panic!("at an event"),
                Mood::Hangs => std::future::pending().await,
                Mood::Counts(told) => drop(told.fetch_add(1, Relaxed)),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_panics_or_hangs_keeps_no_event_from_the_others() {
        let told = Arc::new(AtomicUsize::new(0));
        let moods = [Mood::Panics, Mood::Hangs, Mood::Counts(Arc::clone(&told))];
        let services = Services::new(None);
        let local = moods.into_iter().map(|mood| Arc::new(mood) as Arc<dyn Service>).collect();
        services.local.store(Arc::new(local));
        for event in [SessionEvent::Started, SessionEvent::Lost] {
            services.session_event(&Caller::default(), event).await;
        }
        assert_eq!(told.load(Relaxed), 2);
    }
}
