//! Room in an output that was found full, told to those who do not wait: by an event, once each time it is there again.
//!
//! It makes no room and keeps none free. While nobody was refused there is nothing here, and nothing is done for it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};

use super::Core;
use crate::session::{
    inbox::Item,
    outbox::{Outbox, State},
};

/// Waits for room in the place of whoever was refused, where a task that sends would: it is woken as that would be.
#[derive(Debug)]
pub(super) struct RoomWatch {
    core: Weak<Core>,
    /// For how many bytes; 0 while nobody was refused. It changes under the output's lock alone.
    wanted: AtomicUsize,
}

impl Wake for RoomWatch {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.core.upgrade() {
            core.look_for_room(&self, 0);
        }
    }
}

impl Core {
    /// A packet of so many bytes was refused as full. Where somebody reads the events, or may yet, they will say when there is
    /// room for it.
    #[cold]
    pub(crate) fn found_full(self: &Arc<Self>, size: usize) {
        // Nobody has heard of a stranger.
        if !self.is_evented || !self.is_admitted() || self.shared.hub.is_unread() {
            return;
        }
        let watch = self
            .room_watch
            .get_or_init(|| Arc::new(RoomWatch { core: Arc::downgrade(self), wanted: AtomicUsize::new(0) }));
        self.look_for_room(watch, size);
    }

    /// Tells the events that there is room for everybody who was refused, `refused` bytes now, or waits for it.
    fn look_for_room(self: &Arc<Self>, watch: &Arc<RoomWatch>, refused: usize) {
        let (is_told, wake) = {
            let mut out = self.out.lock();
            let wanted = watch.wanted.load(Relaxed).max(refused);
            // The end of a connection is an event of its own.
            if wanted == 0 || out.state != State::Open {
                return;
            }
            let mut wake = None;
            let mut is_told = self.is_writable(&out, wanted);
            if !is_told {
                let waker = Waker::from(Arc::clone(watch));
                if out.wait_for_room(0, &waker) {
                    wake = out.rouse();
                }
                if !self.shared.budget.has_room(wanted) {
                    self.shared.budget.wake_on_room(&waker);
                }
                // It may have been given back between the question and the registration.
                is_told = self.is_writable(&out, wanted);
            }
            watch.wanted.store(if is_told { 0 } else { wanted }, Relaxed);
            (is_told, wake)
        };
        wake.into_iter().for_each(Waker::wake);
        if is_told {
            self.received(Item::Writable);
        }
    }

    /// Whether it is worth trying again: not for the first packet that fits, lest each of them be refused and told anew.
    fn is_writable(&self, out: &Outbox, wanted: usize) -> bool {
        out.is_low() && self.has_room(out, 0, wanted)
    }
}
