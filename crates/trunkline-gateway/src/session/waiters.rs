//! Who waits for a client's ack of a position: pushes with `wait_ack_ms`.

use tokio::sync::oneshot;
use trunkline_proto::wire::ChannelPosition;
use trunkline_session::Position;
use trunkline_session::position::is_implicit_name;

/// The most that wait on one session; beyond it a push is answered without waiting.
const MAX_WAITERS: usize = 1_024;

/// Of so many channels it is remembered how far they were acked: those that pushes go to, which are few.
const MAX_REMEMBERED: usize = 64;

/// Boxed, since most sessions have none.
#[derive(Default)]
pub(crate) struct AckWaiters(Option<Box<Waiters>>);

#[derive(Default)]
struct Waiters {
    waiting: Vec<Waiter>,
    /// An ack may be faster than who published, and a push that is repeated was acked the first time.
    acked: Vec<(Box<str>, Position)>,
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
        let waiters = self.0.get_or_insert_default();
        if waiters.acked.iter().any(|(of, acked)| **of == *channel && is_behind(position, *acked)) {
            // The receiver is here, so this cannot fail.
            let _: Result<(), ()> = done.send(());
            return waiting;
        }
        waiters.waiting.retain(|waiter| !waiter.done.is_closed());
        if waiters.waiting.len() < MAX_WAITERS {
            waiters.waiting.push(Waiter { channel: channel.into(), position, done });
        }
        waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|waiters| waiters.waiting.is_empty())
    }

    pub(crate) fn acked(&mut self, positions: &[ChannelPosition]) {
        if self.0.is_some() || positions.iter().any(|acked| is_implicit_name(&acked.channel)) {
            self.0.get_or_insert_default().acked(positions);
        }
    }
}

impl Waiters {
    fn acked(&mut self, positions: &[ChannelPosition]) {
        self.remember(positions);
        if self.waiting.is_empty() {
            return;
        }
        let is_acked = |waiter: &Waiter| {
            positions.iter().any(|acked| {
                acked.channel == *waiter.channel && is_behind(waiter.position, Position::from(acked))
            })
        };
        for waiter in self.waiting.extract_if(.., |waiter| is_acked(waiter)) {
            // Whoever waited may have given up in the meantime.
            let _: Result<(), ()> = waiter.done.send(());
        }
    }

    fn remember(&mut self, positions: &[ChannelPosition]) {
        for acked in positions.iter().filter(|acked| is_implicit_name(&acked.channel)) {
            let position = Position::from(acked);
            let has_room = self.acked.len() < MAX_REMEMBERED;
            match self.acked.iter_mut().find(|(of, _)| **of == *acked.channel) {
                Some((_, known)) => *known = position.max(*known),
                None if has_room => {
                    self.acked.push((acked.channel.as_str().into(), position));
                }
                None => {}
            }
        }
    }
}

/// Says an ack of `acked` that the client has `position`?
fn is_behind(position: Position, acked: Position) -> bool {
    acked.epoch == position.epoch && acked.offset >= position.offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { epoch: 7, offset }
    }

    #[test]
    fn an_ack_that_came_before_the_wait_counts() {
        let mut waiters = AckWaiters::default();
        waiters.acked(&[at(5).to_wire("user:alice")]);
        assert_eq!(waiters.wait("user:alice", at(5)).try_recv(), Ok(()));
        let mut later = waiters.wait("user:alice", at(6));
        assert!(later.try_recv().is_err(), "not acked yet");
        let mut newer = waiters.wait("user:alice", Position { epoch: 8, offset: 1 });
        waiters.acked(&[at(6).to_wire("user:alice")]);
        assert_eq!(later.try_recv(), Ok(()));
        assert!(newer.try_recv().is_err(), "an ack of another epoch says nothing");
    }
}
