//! What a connection and a server may hold, and what happens at the limit. Plain values.

use std::time::Duration;

use crate::defaults;

/// Limits of the packet level. Sizes are in bytes; every one is per connection unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) message: usize,
    pub(crate) before_auth: usize,
    pub(crate) queued: usize,
    pub(crate) received: usize,
    pub(crate) total: usize,
    pub(crate) requests: usize,
    pub(crate) stream_window: u32,
}

impl Default for Limits {
    /// The numbers of [`crate::defaults`].
    fn default() -> Self {
        Self {
            message: defaults::MAX_FRAME,
            before_auth: defaults::BEFORE_AUTH,
            queued: defaults::QUEUED_BYTES,
            received: defaults::RECEIVED_BYTES,
            total: defaults::TOTAL_BYTES,
            requests: defaults::REQUESTS,
            stream_window: defaults::STREAM_WINDOW,
        }
    }
}

impl Limits {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest payload of a packet, also after inflation. A larger one ends the connection, refused by its header.
    #[must_use]
    pub fn message(self, bytes: usize) -> Self {
        Self { message: bytes, ..self }
    }

    /// The same until the connection is authenticated, on servers that require it
    /// ([`crate::TransportServerBuilder::require_auth`]).
    #[must_use]
    pub fn before_auth(self, bytes: usize) -> Self {
        Self { before_auth: bytes, ..self }
    }

    /// Packets that are queued to be sent and not taken by the link yet. One larger packet may be alone in the queue.
    #[must_use]
    pub fn queued_bytes(self, bytes: usize) -> Self {
        Self { queued: bytes, ..self }
    }

    /// Packets that were received and not taken by the user yet.
    #[must_use]
    pub fn received_bytes(self, bytes: usize) -> Self {
        Self { received: bytes, ..self }
    }

    /// Everything queued, received and half received, over all connections of the server or client.
    #[must_use]
    pub fn total_bytes(self, bytes: usize) -> Self {
        Self { total: bytes, ..self }
    }

    /// Requests in flight: our own (further ones wait for a place), and those of the peer that
    /// [`crate::Session::serve_requests`] runs at once.
    #[must_use]
    pub fn requests(self, count: usize) -> Self {
        Self { requests: count.max(1), ..self }
    }

    /// How much of a streamed reply may be on its way or unread.
    #[must_use]
    pub fn stream_window(self, bytes: u32) -> Self {
        Self { stream_window: bytes.max(1), ..self }
    }
}

/// What happens to packets for a peer whose queue is full, when they come from where nobody can wait for it, and to
/// that peer. Each outcome is counted in its connection's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// `send_to` waits for room, `broadcast` passes the peer by; a peer whose queue has been full and has not moved for
    /// this long is closed as slow.
    Wait(Duration),
    /// The oldest one-way packets of which nothing has been sent make room; if that is not enough, the new one is
    /// dropped. Requests and responses are never dropped.
    DropOldest,
    /// The new packet is dropped.
    DropNewest,
    /// The peer is closed as slow.
    Disconnect,
}

impl SlowConsumer {
    /// The same, with a time that the clock can tell.
    pub(crate) fn within_reach(self) -> Self {
        match self {
            Self::Wait(limit) => Self::Wait(limit.min(defaults::LONGEST)),
            other => other,
        }
    }
}

impl Default for SlowConsumer {
    fn default() -> Self {
        Self::Wait(defaults::SLOW_PEER)
    }
}

/// What happens to one-way packets and requests that arrive while [`Limits::received_bytes`] are unread. Responses
/// always pass: they go to who waits for them. What is dropped is told as `Lagged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The connection is not read until there is room, so that the peer is held up. Where that cannot be (nobody has
    /// taken the events; or a response is awaited, which might be behind what is unread), as
    /// [`Overflow::DropOldest`].
    #[default]
    Wait,
    /// The oldest unread packets are dropped.
    DropOldest,
    /// The new packet is dropped.
    DropNewest,
    /// The connection is closed.
    Disconnect,
}
