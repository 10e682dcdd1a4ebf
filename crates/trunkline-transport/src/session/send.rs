//! Sending: the futures behind `send`, `reserve` and `flushed`. Each polls the outbox; none allocates.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::task::JoinHandle;

use super::{
    core::{Core, closed, deflates_elsewhere},
    outbox::Mark,
};
use crate::{CloseReason, Packet, SendError, WireError, packet::HEADER};

/// A packet on its way into the output. Nothing happens before it is polled.
#[derive(Debug)]
#[must_use = "nothing is sent unless it is awaited"]
pub struct Sending {
    /// None: there is no connection to send on.
    core: Option<Arc<Core>>,
    state: Stage,
    /// By which lane; 0 is none.
    lane: u8,
}

#[derive(Debug)]
enum Stage {
    New(Packet),
    Deflating(JoinHandle<Result<Packet, WireError>>),
    Ready(Packet),
    Over,
}

impl Sending {
    pub(crate) fn new(core: Arc<Core>, packet: Packet) -> Self {
        Self::by_lane(core, packet, 0)
    }

    pub(crate) fn by_lane(core: Arc<Core>, packet: Packet, lane: u8) -> Self {
        Self { core: Some(core), state: Stage::New(packet), lane }
    }

    /// A packet that nobody has to judge or to change any more.
    pub(super) fn prepared(core: Arc<Core>, packet: Packet) -> Self {
        Self { core: Some(core), state: Stage::Ready(packet), lane: 0 }
    }

    /// Says that there is no connection.
    pub(crate) fn not_connected() -> Self {
        Self { core: None, state: Stage::Over, lane: 0 }
    }

    /// Waits until the link has taken the packet: for TCP the kernel, for QUIC its send buffer. It says nothing about
    /// the peer's application.
    ///
    /// # Errors
    /// As sending, or the connection was closed before everything was taken.
    pub async fn flushed(mut self) -> Result<(), SendError> {
        let mark = poll_fn(|cx| self.poll_mark(cx)).await?;
        match (self.core, mark) {
            (Some(core), Some(mark)) => Flushed::new(core, mark).await,
            _ => Ok(()),
        }
    }

    /// Where the packet ends in the output; `None` if nothing was to be sent.
    fn poll_mark(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Mark>, SendError>> {
        let Self { core, state, lane } = self;
        let Some(core) = core else { return Poll::Ready(Err(SendError::NotConnected)) };
        loop {
            let packet = match std::mem::replace(state, Stage::Over) {
                Stage::New(packet) => {
                    let Some(packet) = core.prepare(packet)? else { return Poll::Ready(Ok(None)) };
                    if deflates_elsewhere(&packet) {
                        *state = Stage::Deflating(core.deflate_elsewhere(packet));
                        continue;
                    }
                    core.deflate_here(packet)?
                }
                Stage::Deflating(mut task) => match Pin::new(&mut task).poll(cx) {
                    Poll::Ready(Ok(packet)) => packet?,
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(WireError::Inflate(error.to_string()).into()));
                    }
                    Poll::Pending => {
                        *state = Stage::Deflating(task);
                        return Poll::Pending;
                    }
                },
                Stage::Ready(packet) => packet,
                // Polled after it was ready: there is nothing to do again.
                Stage::Over => return Poll::Ready(Ok(None)),
            };
            loop {
                match core.append(&packet, *lane, 0) {
                    Err(SendError::Full { .. }) => {}
                    done => return Poll::Ready(done.map(Some)),
                }
                if !core.wait_for_room(*lane, core.packet_len(&packet), cx.waker()) {
                    *state = Stage::Ready(packet);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Future for Sending {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_mark(cx).map_ok(|_| ())
    }
}

/// As [`Sending`], from where the caller is: the future is for what has to wait, for room or for its compression.
pub(super) fn send_or_wait(core: &Arc<Core>, packet: Packet) -> Result<Option<Sending>, SendError> {
    let Some(packet) = core.prepare(packet)? else { return Ok(None) };
    let waiting = |state| Some(Sending { core: Some(Arc::clone(core)), state, lane: 0 });
    if deflates_elsewhere(&packet) {
        return Ok(waiting(Stage::Deflating(core.deflate_elsewhere(packet))));
    }
    let packet = core.deflate_here(packet)?;
    match core.try_append(&packet) {
        Err(SendError::Full { .. }) => Ok(waiting(Stage::Ready(packet))),
        appended => appended.map(|()| None),
    }
}

/// As [`Sending`], without waiting. Whoever is refused as full hears of room by the events.
pub(crate) fn try_send(core: &Arc<Core>, packet: Packet) -> Result<(), SendError> {
    let Some(packet) = prepared_at_once(core, packet)? else { return Ok(()) };
    let sent = core.try_append(&packet);
    if let Err(SendError::Full { .. }) = sent {
        core.found_full(core.packet_len(&packet));
    }
    sent
}

/// Sends what nobody will try to send again, if there is room now.
pub(crate) fn send_if_room(core: &Arc<Core>, packet: Packet) -> Result<(), SendError> {
    let Some(packet) = prepared_at_once(core, packet)? else { return Ok(()) };
    core.try_append(&packet)
}

/// A packet as it is to be appended now: what would be compressed on another thread is left as it is. `None`: nothing is to
/// be sent.
pub(super) fn prepared_at_once(core: &Arc<Core>, packet: Packet) -> Result<Option<Packet>, SendError> {
    let Some(mut packet) = core.prepare(packet)? else { return Ok(None) };
    if deflates_elsewhere(&packet) {
        packet.compression = crate::Compression::None;
    }
    core.deflate_here(packet).map(Some)
}

/// Until the link has taken a part of the output.
#[derive(Debug)]
#[must_use = "it waits only when awaited"]
pub struct Flushed {
    core: Arc<Core>,
    mark: Mark,
    /// Lanes with a stream of their own, where there are any.
    lanes: Vec<Mark>,
}

impl Flushed {
    pub(crate) fn new(core: Arc<Core>, mark: Mark) -> Self {
        Self { core, mark, lanes: Vec::new() }
    }

    /// For everything that was sent until now.
    pub(crate) fn all(core: Arc<Core>) -> Self {
        let (mark, lanes) = {
            let out = core.out.lock();
            (out.mark(0), out.lane_marks())
        };
        Self { core, mark, lanes }
    }
}

impl Future for Flushed {
    type Output = Result<(), SendError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut out = self.core.out.lock();
        let mut marks = std::iter::once(self.mark).chain(self.lanes.iter().copied());
        let Some(mark) = marks.find(|mark| !out.is_flushed(*mark)) else { return Poll::Ready(Ok(())) };
        if let super::outbox::State::Closed(reason) = &out.state {
            return Poll::Ready(Err(SendError::Closed(reason.clone())));
        }
        out.wait_for_flush(mark, cx.waker());
        Poll::Pending
    }
}

/// Room for one packet, kept free until it is used or dropped.
#[derive(Debug)]
pub struct Permit {
    core: Arc<Core>,
    /// What is promised in the outbox and in the budget.
    bytes: usize,
    /// What the packet may have.
    content: usize,
}

impl Permit {
    pub(crate) async fn reserve(core: Arc<Core>, content: usize) -> Result<Self, SendError> {
        let limit = core.shared.limits.message.saturating_add(crate::packet::MAX_EXT_HEADER);
        if content > limit {
            return Err(SendError::TooLarge { size: content, limit });
        }
        let bytes = core.framed_len(HEADER + content);
        poll_fn(|cx| {
            loop {
                match try_reserve(&core, bytes) {
                    Ok(true) => return Poll::Ready(Ok(())),
                    Ok(false) if core.wait_for_room(0, bytes, cx.waker()) => {}
                    Ok(false) => return Poll::Pending,
                    Err(reason) => return Poll::Ready(Err(SendError::Closed(reason))),
                }
            }
        })
        .await?;
        Ok(Self { core, bytes, content })
    }

    /// Sends a packet into the room that was kept. It never waits; what the settings would compress on another thread
    /// is sent as it is.
    ///
    /// # Errors
    /// The packet has more than was reserved, or the connection is closed.
    pub fn send(mut self, packet: impl Into<Packet>) -> Result<(), SendError> {
        let Some(mut packet) = self.core.prepare(packet.into())? else { return Ok(()) };
        let size = packet.ext_header.len() + packet.payload.len();
        if size > self.content {
            return Err(SendError::TooLarge { size, limit: self.content });
        }
        if deflates_elsewhere(&packet) {
            packet.compression = crate::Compression::None;
        }
        // What is not sent has its room given back like that of a permit that is dropped.
        self.core.append(&self.core.deflate_here(packet)?, 0, self.bytes)?;
        self.core.shared.budget.give(std::mem::take(&mut self.bytes));
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut wake: Vec<Waker> = Vec::new();
        {
            let mut out = self.core.out.lock();
            out.release(self.bytes);
            out.wake_ready(&mut wake);
        }
        self.core.shared.budget.give(self.bytes);
        wake.into_iter().for_each(Waker::wake);
    }
}

fn try_reserve(core: &Core, bytes: usize) -> Result<bool, CloseReason> {
    let mut out = core.out.lock();
    if let Some(reason) = closed(&out.state) {
        return Err(reason);
    }
    if !core.has_room(&out, 0, bytes) {
        return Ok(false);
    }
    out.reserve(bytes);
    core.shared.budget.take(bytes);
    Ok(true)
}
