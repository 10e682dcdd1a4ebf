//! The trace of one message: what became of a call, or of a channel's publication on its way to one session.
//!
//! While it is off it holds no memory, and costs a look at one flag where something happens. While it is on, steps
//! lie in a ring of a fixed size: the oldest go first. A step holds names, numbers and sizes, never what a frame says,
//! and no token. Where a message is now is known without it; how it got there is what the ring adds.

mod answer;
mod ring;
mod state;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;
use trunkline_broker::ChannelName;
use trunkline_proto::{DownBody, DownFrame};
use trunkline_session::SessionId;

pub(crate) use answer::answer;
pub use answer::{TraceAnswer, TraceQuestion, TracedStep};
use ring::Ring;

/// Whether steps are kept, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceOptions {
    /// Whether the node begins with the trace on.
    pub on: bool,
    /// What the steps may take in memory, all of it. The node takes half of it when the trace begins.
    pub bytes: usize,
}

impl Default for TraceOptions {
    fn default() -> Self {
        TraceOptions { on: false, bytes: crate::defaults::TRACE_BYTES as usize }
    }
}

/// Whether the trace is on, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TraceStatus {
    /// Whether steps are kept now.
    pub on: bool,
    /// Steps that are kept.
    pub steps: usize,
    /// What the trace has of memory now.
    pub bytes: usize,
    /// Steps that made room for others since it began.
    pub forgotten: u64,
}

/// The node's trace.
pub(crate) struct Trace {
    on: AtomicBool,
    ring: Mutex<Ring>,
}

/// What happened, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// The call's frame was read.
    Received { call: u64, msg_id: u32, action: Box<str>, bytes: usize },
    /// It did not run, for load.
    Refused { call: u64, why: &'static str },
    /// It was handed to a service, or to the way to an upstream.
    Started { call: u64 },
    /// It has ended: `reply` and its code, or the name of its error.
    Ended { call: u64, outcome: Box<str>, bytes: usize },
    /// A frame that answers waits to be written. `call` is set where `msg_id` is 0.
    Queued {
        msg_id: u32,
        call: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Box<str>>,
    },
    /// The socket has taken it, its beginning at least.
    Written { msg_id: u32 },
    /// The client has the replies up to this call.
    RepliesAcked { up_to: u64 },
    /// A START gave the session this connection.
    Connected { connection: u64 },
    /// The session lost its connection.
    Lost,
    /// The session is over, with this close code; 0: its resume window has passed.
    SessionEnded { code: u32 },
    /// The session's connection follows a channel: what comes behind this offset is delivered.
    Followed { channel: Box<str>, epoch: u64, offset: u64 },
    /// A publication was accepted.
    Published { channel: Box<str>, epoch: u64, offset: u64, bytes: usize },
    /// The socket has taken the publications behind `from`, up to `offset`.
    Delivered { channel: Box<str>, epoch: u64, from: u64, offset: u64 },
    /// The client was told that what lies behind `from`, up to `offset` of `next_epoch`, is lost to it.
    Gap { channel: Box<str>, epoch: u64, from: u64, next_epoch: u64, offset: u64 },
    /// The client has acked a channel up to here.
    Acked { channel: Box<str>, epoch: u64, offset: u64 },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// In Unix milliseconds.
    at: u64,
    /// Whose; `None`: a channel's.
    session: Option<SessionId>,
    step: Step,
}

impl Trace {
    pub(crate) fn new(options: TraceOptions) -> Self {
        let trace = Trace { on: AtomicBool::new(false), ring: Mutex::new(Ring::new(options.bytes)) };
        trace.switch(options.on);
        trace
    }

    /// Whether steps are kept. The one thing that is asked while it is off.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Keeps a step, which is made only while the trace is on.
    #[inline]
    pub(crate) fn record(&self, session: Option<SessionId>, step: impl FnOnce() -> Step) {
        if self.is_on() {
            self.keep(session, step());
        }
    }

    #[cold]
    fn keep(&self, session: Option<SessionId>, step: Step) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let mut ring = self.ring.lock();
        // Switched off meanwhile: nothing may be left that nobody will take away.
        if self.is_on() {
            ring.push(Entry { at, session, step });
        }
    }

    /// On, or off: then everything is forgotten. True: that has changed something.
    pub(crate) fn switch(&self, on: bool) -> bool {
        let mut ring = self.ring.lock();
        let changes = self.on.swap(on, Relaxed) != on;
        match on {
            true if changes => ring.begin(),
            true => {}
            false => ring.end(),
        }
        changes
    }

    /// Takes other options. What somebody has switched meanwhile stays, unless `on` itself has changed.
    pub(crate) fn configure(&self, running: TraceOptions, options: TraceOptions) {
        if options.bytes != running.bytes {
            self.ring.lock().resize(options.bytes);
        }
        if options.on != running.on {
            self.switch(options.on);
        }
    }

    pub(crate) fn status(&self) -> TraceStatus {
        self.ring.lock().status(self.is_on())
    }

    /// What `pick` takes of the steps, oldest first.
    fn pick<T>(&self, pick: impl FnMut(&Entry) -> Option<T>) -> Vec<T> {
        self.ring.lock().pick(pick)
    }
}

/// A name as steps have it. A channel's is whole; an action is the client's own word, and could be a whole frame.
pub(crate) fn name(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(ChannelName::MAX_BYTES)].into()
}

/// The `msg_id` of the call that a frame answers, 0 where it answers none.
pub(crate) fn answers(frame: &DownFrame) -> u32 {
    match &frame.body {
        DownBody::BusinessData(_) | DownBody::Error(_) | DownBody::Group(_) => frame.msg_id,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_it_makes_and_keeps_nothing_and_switching_off_forgets() {
        let trace = Trace::new(TraceOptions::default());
        trace.record(None, || panic!("a step was made while the trace is off"));
        assert_eq!(trace.status(), TraceStatus { on: false, steps: 0, bytes: 0, forgotten: 0 });
        assert!(trace.switch(true) && !trace.switch(true));
        trace.record(None, || Step::Lost);
        assert_eq!(trace.status().steps, 1);
        assert!(trace.status().bytes <= TraceOptions::default().bytes);
        assert!(trace.switch(false));
        assert_eq!(trace.status(), TraceStatus { on: false, steps: 0, bytes: 0, forgotten: 0 });
    }

    #[test]
    fn off_a_step_allocates_nothing_and_on_its_name() {
        let trace = Trace::new(TraceOptions::default());
        let allocations = || {
            let step = || Step::Received { call: 1, msg_id: 1, action: name("echo"), bytes: 9 };
            allocation_counter::measure(|| trace.record(None, step)).count_total
        };
        assert_eq!(allocations(), 0);
        trace.switch(true);
        assert_eq!(allocations(), 1, "the ring has its room already");
        trace.switch(false);
        assert_eq!(allocations(), 0);
    }

    #[test]
    fn a_reload_leaves_what_a_person_has_switched_unless_it_says_otherwise() {
        let (off, on) = (TraceOptions::default(), TraceOptions { on: true, ..TraceOptions::default() });
        let trace = Trace::new(off);
        trace.switch(true);
        trace.configure(off, TraceOptions { bytes: 1 << 20, ..off });
        assert!(trace.is_on());
        trace.configure(on, off);
        assert!(!trace.is_on());
    }

    #[test]
    fn a_name_that_is_a_book_is_cut_at_a_character() {
        assert_eq!(name(&"é".repeat(1_000)).chars().count(), 127);
        let longest = "a".repeat(ChannelName::MAX_BYTES);
        assert_eq!(*name(&longest), *longest);
    }
}
