//! The node's lease at the broker: renewed while the node lives, taken anew when it ended all the same.
//!
//! What lives by it is presence. It ends a few seconds after a node that dies, so that nobody is shown on a channel
//! who is not there.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use trunkline_broker::{Broker, BrokerError, Lease, LeaseId};

/// Presence of a node's sessions ends this long after the node does.
const TTL: Duration = Duration::from_secs(3);

/// Two renewals may fail or come late before the lease ends.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The lease in use.
pub(super) struct KeptLease {
    lease: Mutex<Arc<Lease>>,
}

impl KeptLease {
    pub(super) async fn take(broker: &dyn Broker) -> Result<Self, BrokerError> {
        let lease = broker.lease(TTL).await?;
        Ok(KeptLease { lease: Mutex::new(Arc::new(lease)) })
    }

    pub(super) fn id(&self) -> LeaseId {
        self.lease.lock().id()
    }

    /// Renews for as long as it is polled, and resolves when the lease had to be taken anew: what lived by the old one
    /// is gone. Poll it again.
    pub(super) async fn keep(&self, broker: &dyn Broker) {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.renew(broker).await == Renewal::Anew {
                return;
            }
        }
    }

    async fn renew(&self, broker: &dyn Broker) -> Renewal {
        let lease = Arc::clone(&self.lease.lock());
        let renewed = match lease.renew().await {
            // The process stood still for longer than the lease lived.
            Err(BrokerError::LeaseEnded(_)) => match broker.lease(TTL).await {
                Ok(new) => {
                    tracing::warn!("the node's lease had ended: its sessions join their channels anew");
                    *self.lease.lock() = Arc::new(new);
                    return Renewal::Anew;
                }
                Err(error) => Err(error),
            },
            renewed => renewed,
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "the node's lease cannot be renewed; it is tried again");
        }
        Renewal::Tried
    }
}

/// What became of a renewal.
#[derive(Debug, PartialEq, Eq)]
enum Renewal {
    /// The lease goes on, or it is tried again.
    Tried,
    /// It is another lease now.
    Anew,
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_broker::{ChannelName, ManualClock, Member, MemoryBroker, MemoryOptions, NodeId};

    async fn joins(broker: &MemoryBroker, lease: LeaseId) -> Result<(), BrokerError> {
        let member = Member { session: "s".into(), user: "u".into(), info: bytes::Bytes::new() };
        broker.join(&ChannelName::new("room:1").unwrap(), member, lease).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_outlives_its_ttl_while_it_is_kept_and_is_taken_anew_after() {
        let clock = Arc::new(ManualClock::at(1));
        let options =
            MemoryOptions { clock: Arc::<ManualClock>::clone(&clock), ..MemoryOptions::new(NodeId(0)) };
        let broker = MemoryBroker::open(options).unwrap();
        let lease = KeptLease::take(&broker).await.unwrap();
        let first = lease.id();
        let passing = async {
            for _ in 0..50 {
                tokio::time::sleep(RENEW_EVERY / 2).await;
                clock.advance(RENEW_EVERY / 2);
            }
        };
        tokio::select! {
            () = lease.keep(&broker) => unreachable!("it is kept as long as it is polled"),
            () = passing => {}
        }
        joins(&broker, first).await.unwrap();

        // A process that stands still renews nothing.
        clock.advance(TTL * 2);
        assert!(matches!(joins(&broker, first).await, Err(BrokerError::LeaseEnded(_))));
        assert_eq!(lease.renew(&broker).await, Renewal::Anew);
        assert_ne!(lease.id(), first);
        joins(&broker, lease.id()).await.unwrap();
    }
}
