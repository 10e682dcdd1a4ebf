//! What comes by lanes' own streams. It goes the way of everything else: one inbox, one budget, one packet at a time.

use std::task::{Context, Poll, Waker};

use super::Lanes;
use crate::{
    CloseReason, FrameReader, Framing, Incoming, ReadError,
    defaults::LANE_STREAMS,
    packet::{Header, Kind},
    session::driver::{
        Driver, frame_limit,
        intake::{Parted, Raw},
    },
    source::Source,
};

/// Frames that are read from one lane in one turn.
const READS: usize = 16;

/// A stream that the peer has opened.
pub(super) struct LaneReader {
    /// Which lane it carries, as its first packet says.
    lane: Option<u8>,
    reader: FrameReader,
}

/// What a turn has brought of one lane.
enum Turn {
    /// It waits for more.
    Waits,
    /// There is more here, or a packet is held up.
    HasMore,
    Ended,
}

impl Lanes {
    /// Bytes of unfinished frames.
    pub(in crate::session::driver) fn held(&self) -> usize {
        self.incoming.iter().map(|lane| lane.reader.held()).sum()
    }

    /// Changes the limit of packets whose header has not been read yet.
    pub(in crate::session::driver) fn set_limit(&mut self, message: usize) {
        let limit = frame_limit(Framing::Length, message);
        self.incoming.iter_mut().for_each(|lane| lane.reader.set_max_frame(limit));
    }

    /// Nothing is left unread of what has come.
    pub(in crate::session::driver) fn is_drained(&self) -> bool {
        !self.has_more
    }

    /// Everything is looked at once more, woken or not.
    pub(in crate::session::driver) fn look_again(&mut self) {
        self.has_more = true;
    }

    /// Takes the streams that the peer has opened.
    fn accept(&mut self, limit: usize) {
        let waker = Waker::from(self.input.clone());
        let mut cx = Context::from_waker(&waker);
        // Its limit lets the peer have no more open; one that has ended is read to its end first.
        for _ in 0..LANE_STREAMS {
            let Some(accepting) = &mut self.accepting else { return };
            let Poll::Ready(accepted) = accepting.as_mut().poll(&mut cx) else { return };
            // The connection is gone: its frames say why.
            let Ok(source) = accepted else {
                self.accepting = None;
                return;
            };
            // HTTP/3 lets a peer that has no use for all of its own streams open so many more: they are refused.
            if self.incoming.len() < LANE_STREAMS as usize {
                self.incoming.push(LaneReader::new(source, limit));
            }
            let streams = self.streams.clone();
            *accepting = Box::pin(async move { streams.accept_lane().await });
        }
        self.has_more = true;
    }

    /// The lane of which most of a frame is here: it is read in any case, so that the others' turn comes.
    fn fullest(&self) -> Option<usize> {
        let held = self.incoming.iter().enumerate().map(|(at, lane)| (at, lane.reader.held()));
        held.filter(|(_, held)| *held > 0).max_by_key(|(_, held)| *held).map(|(at, _)| at)
    }
}

impl LaneReader {
    fn new(source: Source, limit: usize) -> Self {
        let reader = FrameReader::new(source, Framing::Length, frame_limit(Framing::Length, limit), &[]);
        Self { lane: None, reader }
    }

    /// Whether a packet may be here: it is data, and of the one lane of this stream.
    fn admits(&mut self, header: &Header) -> bool {
        let lane = header.flags.lane();
        matches!(header.kind, Kind::Data(_)) && lane != 0 && *self.lane.get_or_insert(lane) == lane
    }
}

impl Driver {
    /// Reads what is there, unless a packet is held up: whether there is more.
    pub(in crate::session::driver) fn read_lanes(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<bool, CloseReason> {
        let Some(mut lanes) = self.lanes.take() else { return Ok(false) };
        lanes.belong_to(cx.waker());
        let read =
            if lanes.input.take() || lanes.has_more { self.read_from(&mut lanes, cx) } else { Ok(false) };
        self.lanes = Some(lanes);
        read
    }

    fn read_from(&mut self, lanes: &mut Lanes, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        lanes.has_more = false;
        lanes.accept(self.limit);
        // Half frames of all lanes together: what is over it is left to the peer, one lane at a time.
        let most = self.core.shared.limits.received.min(self.limit);
        let mut at = 0;
        let mut passed_over = false;
        while at < lanes.incoming.len() {
            if self.stage.is_some() || self.is_paused {
                lanes.has_more = true;
                break;
            }
            if lanes.held() >= most && lanes.fullest() != Some(at) {
                passed_over = true;
                at += 1;
                continue;
            }
            match self.read_lane(lanes, at, cx)? {
                Turn::Waits => at += 1,
                Turn::HasMore => {
                    lanes.has_more = true;
                    at += 1;
                }
                Turn::Ended => drop(lanes.incoming.swap_remove(at)),
            }
        }
        lanes.has_more |= passed_over && lanes.held() < most;
        // A packet that is held up, and a full inbox, wake the task themselves.
        Ok(lanes.has_more && self.stage.is_none() && !self.is_paused)
    }

    fn read_lane(&mut self, lanes: &mut Lanes, at: usize, cx: &mut Context<'_>) -> Result<Turn, CloseReason> {
        let waker = Waker::from(lanes.input.clone());
        let lane = &mut lanes.incoming[at];
        for _ in 0..READS {
            self.is_paused = self.should_pause(cx.waker());
            if self.is_paused || self.stage.is_some() {
                return Ok(Turn::HasMore);
            }
            match lane.reader.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => return Ok(Turn::Waits),
                Poll::Ready(Ok(Some(Incoming::Frame(frame)))) => {
                    self.heart.was_heard = true;
                    self.lane_frame(frame.bytes, lane, cx)?;
                }
                Poll::Ready(Err(error @ (ReadError::TooLarge { .. } | ReadError::Protocol { .. }))) => {
                    self.broke_protocol(&error);
                    return Ok(Turn::Ended);
                }
                // The peer has ended or given up this lane; if it is the connection, its frames say why.
                Poll::Ready(Ok(_) | Err(_)) => return Ok(Turn::Ended),
            }
        }
        Ok(Turn::HasMore)
    }

    fn lane_frame(
        &mut self,
        bytes: bytes::Bytes,
        lane: &mut LaneReader,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let Some(Parted { header, ext, payload, size }) = self.split(bytes) else { return Ok(()) };
        let Kind::Data(packet_type) = header.kind else { return self.not_of_this_lane() };
        if !lane.admits(&header) {
            return self.not_of_this_lane();
        }
        self.arrived(Raw { header, packet_type, ext, payload, size }, cx)
    }

    fn not_of_this_lane(&mut self) -> Result<(), CloseReason> {
        let reason = "a lane's stream carries packets of that lane";
        self.broke_protocol(&ReadError::Protocol { close_code: 1002, reason });
        Ok(())
    }
}
