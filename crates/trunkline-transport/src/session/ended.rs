//! What is left to tell of a connection that has ended, where too many of them are unread: everything but its packets.
//!
//! It is small and holds nothing of the connection itself, so that a reader which is late costs little, and still hears of
//! every end of what it knows.

use super::{events::TransportEvent, inbox::Left};
use crate::{CloseReason, ConnectionInfo, SessionId};

/// The last events of a connection.
#[derive(Debug)]
pub(super) struct Ended {
    session_id: SessionId,
    /// Until the reader has heard that it was there.
    info: Option<Box<ConnectionInfo>>,
    lagged: u64,
    going_away: Option<(u16, String)>,
    end: Option<CloseReason>,
}

impl Ended {
    pub(super) fn new(session_id: SessionId, info: &ConnectionInfo, left: Left) -> Box<Self> {
        Box::new(Self {
            session_id,
            info: left.is_new.then(|| Box::new(info.clone())),
            lagged: left.lagged,
            going_away: left.going_away,
            end: Some(left.end),
        })
    }

    /// Whether the reader has heard that it was there, and waits for its end.
    pub(super) fn is_known(&self) -> bool {
        self.info.is_none()
    }

    /// The next of its events, in their usual order; `None` behind its end.
    pub(super) fn next(&mut self) -> Option<TransportEvent> {
        let session_id = self.session_id;
        if let Some(info) = self.info.take() {
            return Some(TransportEvent::ConnectionEstablished { session_id, info: *info });
        }
        let n = std::mem::take(&mut self.lagged);
        if n > 0 {
            return Some(TransportEvent::Lagged { session_id, n });
        }
        if let Some((code, reason)) = self.going_away.take() {
            return Some(TransportEvent::GoingAway { session_id, code, reason });
        }
        self.end.take().map(|reason| TransportEvent::ConnectionClosed { session_id, reason })
    }

    /// Whether everything is told.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_none()
    }
}
