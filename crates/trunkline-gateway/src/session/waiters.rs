//! Who waits for a client's ack of a position: pushes with `wait_ack_ms`.

use tokio::sync::oneshot;
use trunkline_proto::wire::ChannelPosition;
use trunkline_session::Position;

/// The most that wait on one session; beyond it a push is answered without waiting.
const MAX_WAITERS: usize = 1_024;

#[derive(Default)]
pub(crate) struct AckWaiters {
    waiting: Vec<Waiter>,
}

struct Waiter {
    channel: Box<str>,
    position: Position,
    done: oneshot::Sender<()>,
}

impl AckWaiters {
    /// Resolves when the position is acked; to an error when it never will be, or too many wait.
    pub(crate) fn wait(&mut self, channel: &str, position: Position) -> oneshot::Receiver<()> {
        let (done, waiting) = oneshot::channel();
        self.waiting.retain(|waiter| !waiter.done.is_closed());
        if self.waiting.len() < MAX_WAITERS {
            self.waiting.push(Waiter { channel: channel.into(), position, done });
        }
        waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn acked(&mut self, positions: &[ChannelPosition]) {
        if self.waiting.is_empty() {
            return;
        }
        let is_acked = |waiter: &Waiter| {
            positions.iter().any(|acked| {
                acked.channel == *waiter.channel
                    && acked.epoch == waiter.position.epoch
                    && acked.offset >= waiter.position.offset
            })
        };
        for waiter in self.waiting.extract_if(.., |waiter| is_acked(waiter)) {
            // Whoever waited may have given up in the meantime.
            let _: Result<(), ()> = waiter.done.send(());
        }
    }
}
