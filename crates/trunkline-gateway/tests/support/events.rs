//! A service that only listens: what became of which session, to wait on instead of sleeping.

use anyhow::Result;
use async_trait::async_trait;
use tokio::sync::watch;
use trunkline_service::{Call, Caller, Code, Reply, Service, SessionEvent, Status};

use super::within;

/// See the module.
pub(crate) struct Events {
    seen: watch::Sender<Vec<(String, SessionEvent)>>,
}

impl Default for Events {
    fn default() -> Self {
        Events { seen: watch::Sender::new(Vec::new()) }
    }
}

impl Events {
    /// Waits until this has happened to the session, ever.
    pub(crate) async fn until(&self, session: &str, event: SessionEvent) -> Result<()> {
        let mut seen = self.seen.subscribe();
        let happened = |seen: &Vec<(String, SessionEvent)>| {
            seen.iter().any(|(of, what)| of == session && *what == event)
        };
        within(&format!("{event:?} of {session}"), seen.wait_for(happened)).await??;
        Ok(())
    }

    /// Whom anything has happened to.
    pub(crate) fn sessions(&self) -> std::collections::BTreeSet<String> {
        self.seen.borrow().iter().map(|(of, _)| of.clone()).collect()
    }

    /// What has happened to the session, in order.
    pub(crate) fn of(&self, session: &str) -> Vec<SessionEvent> {
        let seen = self.seen.borrow();
        seen.iter().filter(|(of, _)| of == session).map(|(_, event)| *event).collect()
    }
}

#[async_trait]
impl Service for Events {
    fn action_prefix(&self) -> &str {
        "no call is ever for the recorder of events"
    }

    async fn call(&self, _caller: &Caller, _call: Call) -> Result<Reply, Status> {
        Err(Status::new(Code::NotFound, "it only listens"))
    }

    async fn session_event(&self, caller: &Caller, event: SessionEvent) {
        self.seen.send_modify(|seen| seen.push((caller.session.clone(), event)));
    }
}
