//! Lanes that have a stream of their own, over QUIC and WebTransport: one unidirectional stream each way for each lane,
//! framed as the connection's own is. All packets of a stream are of one lane.
//!
//! It exists once the peer has said that it takes such streams. They are polled in the connection's one task, and only when
//! one of them has woken it: packets without a lane cost nothing here. Its parts are `read` and `write`.

mod read;
mod write;

use std::{fmt, sync::Arc, task::Waker};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use self::{
    read::LaneReader,
    write::{Finishing, LaneWriter},
};
use super::{Driver, signal::Signal};
use crate::{
    BoxFuture, StreamError, Streams, packet::control::Features, session::outbox::LaneWay, source::Source,
    streams::SendStream,
};

/// The streams of a connection's lanes.
pub(super) struct Lanes {
    streams: Streams,
    /// The connection's task.
    driver: Arc<AtomicWaker>,
    /// Something has come, or a stream.
    input: Arc<Signal>,
    /// A stream takes more, or is there.
    output: Arc<Signal>,
    /// The next stream of the peer; none once the connection is gone.
    accepting: Option<BoxFuture<'static, Result<Source, StreamError>>>,
    incoming: Vec<LaneReader>,
    /// Something was left unread.
    has_more: bool,
    /// The next stream of ours, and since when it is waited for.
    opening: Option<(Instant, BoxFuture<'static, Result<SendStream, StreamError>>)>,
    /// In the order of the outbox's queues.
    outgoing: Vec<LaneWriter>,
    /// The outbox has something new.
    has_news: bool,
    /// Which one writes first: each in its turn, the frames of the connection among them.
    turn: usize,
    /// At the end: streams of which the peer does not have everything yet.
    finishing: Option<Vec<Finishing>>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("incoming", &self.incoming.len())
            .field("outgoing", &self.outgoing.len())
            .finish_non_exhaustive()
    }
}

impl Lanes {
    fn new(streams: Streams) -> Self {
        let driver = Arc::new(AtomicWaker::new());
        let accepting = streams.clone();
        Self {
            input: Signal::new(&driver),
            output: Signal::new(&driver),
            driver,
            accepting: Some(Box::pin(async move { accepting.accept_lane().await })),
            incoming: Vec::new(),
            has_more: true,
            opening: None,
            outgoing: Vec::new(),
            has_news: true,
            turn: 0,
            finishing: None,
            streams,
        }
    }

    /// This task is woken for them: said before they are polled.
    fn belong_to(&self, driver: &Waker) {
        self.driver.register(driver);
    }

    pub(super) fn note_news(&mut self, is_new: bool) {
        self.has_news |= is_new;
    }
}

impl Driver {
    /// The peer has said what it can do, for the first time.
    pub(super) fn learn_lanes(&mut self, features: Features) {
        let streams = self.core.streams.lock().clone();
        let mut out = self.core.out.lock();
        if out.lane_way != LaneWay::Undecided {
            return;
        }
        let Some(streams) = streams.filter(|_| features.takes_lanes()) else {
            out.share_lanes();
            return;
        };
        out.lane_way = LaneWay::Own;
        drop(out);
        streams.allow_lanes();
        self.lanes = Some(Box::new(Lanes::new(streams)));
    }
}
