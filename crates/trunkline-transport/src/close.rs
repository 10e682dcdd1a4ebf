//! The graceful end of a connection, so that the last frame arrives.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{ByteWriter, FrameReader};

/// Ends a connection without losing what was written, within `deadline`.
///
/// The write side ends first. Then, on TCP, TLS and WebSocket, the peer is read until it ends too: closing a
/// socket with unread bytes makes the kernel send a reset, which would destroy the last frame on its way. On
/// QUIC and WebTransport the peer has to acknowledge the stream, then the connection is closed with `code`; what its user
/// has not read by then is lost to it.
/// What is not done at the deadline is cut.
pub async fn close(
    mut reader: FrameReader,
    mut writer: ByteWriter,
    code: u32,
    reason: &str,
    deadline: Duration,
) {
    let deadline = Instant::now() + deadline;
    // An error means that the link is gone, and a time-out that the peer does not read: both end in a cut.
    if let Ok(Ok(())) = timeout_at(deadline, writer.finish()).await {
        let ended = async {
            if !writer.acknowledged().await {
                reader.drain().await;
            }
        };
        drop(timeout_at(deadline, ended).await);
    }
    writer.abort(code, reason);
    drop(timeout_at(deadline, writer.gone()).await);
}
