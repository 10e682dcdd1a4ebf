//! How many HTTP connections a node has at once. A WebSocket leaves its place when it becomes a client's.
//!
//! When all places are taken, the connection that has been idle for longest gives way: whoever opens connections and
//! asks for nothing keeps nobody out. Where none is idle, a newcomer gets no place.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The places of all HTTP surfaces. Clones are the same ones.
#[derive(Clone)]
pub(in super::super) struct Places {
    most: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Seat>,
}

struct Seat {
    doing: Doing,
    leave: CancellationToken,
}

#[derive(Clone, Copy)]
enum Doing {
    /// Waits for a request since then.
    Idle(Instant),
    /// Works on one.
    Busy,
}

/// One connection's place, until it is dropped.
pub(super) struct Place {
    number: u64,
    leave: CancellationToken,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    pub(in super::super) fn new(most: usize) -> Self {
        Places { most: most.max(1), taken: Arc::default() }
    }

    /// A place for a connection that has just come, whoever has to leave for it; `None` where all are at work.
    pub(super) fn take(&self) -> Option<Place> {
        let leave = CancellationToken::new();
        let mut taken = self.taken.lock();
        if taken.seats.len() >= self.most {
            let longest = taken.seats.iter().filter_map(|(number, seat)| match seat.doing {
                Doing::Idle(since) => Some((since, *number)),
                Doing::Busy => None,
            });
            let (_, number) = longest.min()?;
            if let Some(seat) = taken.seats.remove(&number) {
                seat.leave.cancel();
            }
        }
        let number = taken.next;
        taken.next += 1;
        let seat = Seat { doing: Doing::Idle(Instant::now()), leave: leave.clone() };
        taken.seats.insert(number, seat);
        Some(Place { number, leave, taken: Arc::clone(&self.taken) })
    }
}

impl Place {
    /// Resolves when somebody else needs the place.
    pub(super) async fn needed(&self) {
        self.leave.cancelled().await;
    }

    /// A request has come.
    pub(super) fn busy(&self) {
        self.set(Doing::Busy);
    }

    /// It is answered.
    pub(super) fn idle(&self) {
        self.set(Doing::Idle(Instant::now()));
    }

    fn set(&self, doing: Doing) {
        // One that has to leave has no seat any more.
        if let Some(seat) = self.taken.lock().seats.get_mut(&self.number) {
            seat.doing = doing;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_gives_way_and_who_works_does_not() {
        let places = Places::new(3);
        let mut there = Vec::new();
        for _ in 0..3 {
            there.push(places.take().unwrap());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        there[0].busy();
        let fourth = places.take().unwrap();
        assert!(
            there[1].leave.is_cancelled() && !there[0].leave.is_cancelled() && !there[2].leave.is_cancelled()
        );
        // One that has left frees nothing when it ends.
        drop(there.remove(1));
        there[1].busy();
        fourth.busy();
        assert!(places.take().is_none(), "all are at work");
        there[0].idle();
        assert!(places.take().is_some() && there[0].leave.is_cancelled());
        there.clear();
        drop(fourth);
        assert!(places.taken.lock().seats.is_empty());
    }
}
