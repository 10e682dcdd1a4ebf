//! What leaves by lanes' own streams: each its own batches, as its stream takes them. None waits for another.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, Waker},
};

use tokio::{io::AsyncWrite, time::Instant};

use super::Lanes;
use crate::{
    BoxFuture, StreamError,
    session::{
        driver::Driver,
        outbox::{Part, advance, gathered},
    },
    streams::SendStream,
};

/// A stream of ours, until the peer has all of it.
pub(super) type Finishing = BoxFuture<'static, ()>;

/// A stream of ours, and what is being written to it.
pub(in crate::session::driver) struct LaneWriter {
    stream: SendStream,
    batch: VecDeque<Part>,
    offset: usize,
    /// Written and not yet told to the outbox.
    unaccounted: usize,
    /// Since when it has taken nothing although there is something.
    stalled: Option<Instant>,
}

impl LaneWriter {
    fn new(stream: SendStream) -> Self {
        Self { stream, batch: VecDeque::new(), offset: 0, unaccounted: 0, stalled: None }
    }
}

impl Lanes {
    /// Whether they write before the connection's own frames this time.
    pub(in crate::session::driver) fn go_first(&mut self) -> bool {
        self.turn = self.turn.wrapping_add(1);
        self.turn.is_multiple_of(2)
    }

    /// Since when lanes are held up, each with its place in the outbox.
    pub(in crate::session::driver) fn stalled(&self) -> impl Iterator<Item = (usize, Instant)> {
        let stalled = self.outgoing.iter().enumerate();
        // One that waits for its stream is held up too.
        let unopened = self.opening.iter().map(|(since, _)| (self.outgoing.len(), *since));
        stalled.filter_map(|(at, lane)| Some((at, lane.stalled?))).chain(unopened)
    }

    /// What is left of the batches, and how much of their first parts is gone.
    pub(in crate::session::driver) fn batches(&mut self) -> Vec<(VecDeque<Part>, usize)> {
        self.outgoing.iter_mut().map(|lane| (std::mem::take(&mut lane.batch), lane.offset)).collect()
    }
}

impl Driver {
    /// Writes until no lane takes more or has more: whether that lets the handler go on.
    pub(in crate::session::driver) fn write_lanes(&mut self, driver: &Waker) -> io::Result<bool> {
        let Some(mut lanes) = self.lanes.take() else { return Ok(false) };
        lanes.belong_to(driver);
        let is_woken = lanes.output.take();
        let has_news = std::mem::take(&mut lanes.has_news);
        let written = if is_woken || has_news { self.write_to(&mut lanes, driver) } else { Ok(false) };
        self.lanes = Some(lanes);
        written
    }

    fn write_to(&mut self, lanes: &mut Lanes, driver: &Waker) -> io::Result<bool> {
        if lanes.finishing.is_some() {
            return Ok(false);
        }
        self.open_lanes(lanes)?;
        let mut lets_go_on = false;
        let count = lanes.outgoing.len();
        for nth in 0..count {
            lets_go_on |= self.write_lane(lanes, (nth + lanes.turn) % count, driver)?;
        }
        Ok(lets_go_on)
    }

    /// Opens the streams of lanes that have begun, one after the other, as far as the peer allows.
    fn open_lanes(&mut self, lanes: &mut Lanes) -> io::Result<()> {
        let waker = Waker::from(lanes.output.clone());
        let mut cx = Context::from_waker(&waker);
        let wanted = self.core.out.lock().lane_count();
        while lanes.outgoing.len() < wanted {
            let streams = &lanes.streams;
            let (_, opening) = lanes.opening.get_or_insert_with(|| {
                let streams = streams.clone();
                (Instant::now(), Box::pin(async move { streams.open_lane().await }))
            });
            let Poll::Ready(opened) = opening.as_mut().poll(&mut cx) else { return Ok(()) };
            lanes.opening = None;
            match opened {
                Ok(stream) => lanes.outgoing.push(LaneWriter::new(stream)),
                Err(error) => return Err(lost(&error)),
            }
            self.core.stats.lane_streams.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn write_lane(&mut self, lanes: &mut Lanes, at: usize, driver: &Waker) -> io::Result<bool> {
        let waker = Waker::from(lanes.output.clone());
        let mut cx = Context::from_waker(&waker);
        let mut lets_go_on = false;
        let lane = &mut lanes.outgoing[at];
        loop {
            if lane.batch.is_empty() {
                lets_go_on |= self.settle_lane(lane, at, driver);
                if !self.core.out.lock().take_lane_batch(at, &mut lane.batch) {
                    return Ok(lets_go_on);
                }
            }
            let stream = Pin::new(&mut lane.stream);
            match gathered(&lane.batch, lane.offset, |slices| stream.poll_write_vectored(&mut cx, slices)) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    lane.stalled = None;
                    lane.unaccounted += n;
                    lane.offset = advance(&mut lane.batch, lane.offset, n);
                }
                // A lane that the peer refuses cannot be kept in order: the connection ends.
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    lane.stalled.get_or_insert_with(Instant::now);
                    lets_go_on |= self.settle_lane(lane, at, driver);
                    return Ok(lets_go_on);
                }
            }
        }
    }

    /// As [`Driver::settle`], for one lane.
    fn settle_lane(&mut self, lane: &mut LaneWriter, at: usize, driver: &Waker) -> bool {
        let written = std::mem::take(&mut lane.unaccounted);
        if written == 0 {
            return false;
        }
        let mut wake = Vec::new();
        self.core.out.lock().lane_written(at, written, &mut wake);
        self.give_back(written, wake, driver)
    }

    /// Tells the outbox what lanes have written, at the end.
    pub(in crate::session::driver) fn settle_lanes(&mut self) {
        let Some(mut lanes) = self.lanes.take() else { return };
        for (at, lane) in lanes.outgoing.iter_mut().enumerate() {
            self.settle_lane(lane, at, Waker::noop());
        }
        self.lanes = Some(lanes);
    }

    /// Ends the streams of lanes that have sent everything: whether the peer has all of it, so that the last word, which goes
    /// by another stream, does not overtake them.
    pub(in crate::session::driver) fn lanes_are_done(&mut self) -> bool {
        let Some(lanes) = &mut self.lanes else { return true };
        if self.core.out.lock().lanes_queued() > 0 {
            return false;
        }
        let outgoing = &mut lanes.outgoing;
        let finishing = lanes.finishing.get_or_insert_with(|| outgoing.drain(..).map(finish).collect());
        let waker = Waker::from(lanes.output.clone());
        let mut cx = Context::from_waker(&waker);
        finishing.retain_mut(|stream| stream.as_mut().poll(&mut cx).is_pending());
        finishing.is_empty()
    }
}

/// Says that nothing more comes, and waits until the peer has it all, or never will.
fn finish(lane: LaneWriter) -> Finishing {
    let mut stream = lane.stream;
    Box::pin(async move {
        stream.finish();
        drop(stream.stopped().await);
    })
}

fn lost(error: &StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error.to_string())
}
