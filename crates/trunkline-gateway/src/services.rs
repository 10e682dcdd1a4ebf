//! Who answers a call: a service in the process by its action prefix, else the upstreams of the user's zone.

use std::sync::Arc;

use arc_swap::ArcSwap;
use trunkline_service::{Call, Caller, Code, Context, Reply, Service, SessionEvent, Status};

use crate::upstream::Upstreams;

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

    fn local(&self, action: &str) -> Option<Arc<dyn Service>> {
        self.local.load().iter().find(|service| action.starts_with(service.action_prefix())).cloned()
    }

    /// Answers a call, in whatever time the service takes: the caller bounds it.
    pub(crate) async fn call(&self, caller: &Caller, call: Call) -> Result<Reply, Status> {
        if let Some(service) = self.local(&call.action) {
            return service.call(caller, call).await;
        }
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

    /// Tells every service, and the upstreams that asked for it.
    pub(crate) async fn session_event(&self, caller: &Caller, event: SessionEvent) {
        let local = self.local.load_full();
        for service in local.iter() {
            service.session_event(caller, event).await;
        }
        if let Some(upstreams) = &self.upstreams {
            upstreams.session_events(caller, event);
        }
    }

    /// The upstreams, where the node has any way to them.
    pub(crate) fn upstreams(&self) -> Option<&Arc<Upstreams>> {
        self.upstreams.as_ref()
    }
}
