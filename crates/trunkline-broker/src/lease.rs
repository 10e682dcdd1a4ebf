//! A lease: what lives by it ends when its holder does.
//!
//! A lease renews itself by no task of its own: its holder calls [`Lease::renew`], best at a third of the ttl,
//! because only the holder knows whether it is still alive.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::BrokerError;
use crate::names::LeaseId;

/// What an engine does for a lease.
#[async_trait]
pub trait LeaseControl: Send + Sync + 'static {
    /// Lets the lease live for another ttl from now.
    async fn renew(&self) -> Result<(), BrokerError>;
    /// Ends the lease at once, with all that lives by it. Must not wait.
    fn release(&self);
}

/// A node's or an upstream's lease. Dropping it ends it at once; a holder that dies without dropping it loses it
/// after the ttl.
pub struct Lease {
    id: LeaseId,
    ttl: Duration,
    control: Box<dyn LeaseControl>,
    release: bool,
}

impl Lease {
    /// Wraps an engine's lease.
    pub fn new(id: LeaseId, ttl: Duration, control: impl LeaseControl) -> Self {
        Lease { id, ttl, control: Box::new(control), release: true }
    }

    /// Its identity, for keys and presence.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How long it lives without renewal.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Lets it live for another ttl from now, or says that it has ended. Cancel-safe.
    pub async fn renew(&self) -> Result<(), BrokerError> {
        self.control.renew().await
    }

    /// Gives the lease up without ending it: what lives by it stays until the ttl runs out. A process that
    /// restarts uses it, so that what it registered outlives the restart.
    pub fn abandon(mut self) {
        self.release = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.release {
            self.control.release();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
