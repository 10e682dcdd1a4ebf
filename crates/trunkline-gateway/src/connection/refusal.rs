//! Connections that are not served: why, and how they are told.
//!
//! It decides nothing: whoever accepts connections does.

use tokio::time::timeout;
use trunkline_proto::codes::Advice;
use trunkline_proto::{CloseCode, Dialect, DownBody, DownFrame};
use trunkline_transport::{Connection, FrameKind};

use super::CLOSE_DEADLINE;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The node has as many connections as it may.
    Full,
    /// The node stops.
    Stopping,
    /// Its address opens connections too fast.
    RateLimited,
    /// All places of HTTP are taken by requests under way.
    Requests,
    /// It speaks plainly where TLS is required.
    TlsRequired,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 5] =
        [Refusal::Full, Refusal::Stopping, Refusal::RateLimited, Refusal::Requests, Refusal::TlsRequired];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::Stopping => "stopping",
            Refusal::RateLimited => "rate",
            Refusal::Requests => "requests",
            Refusal::TlsRequired => "tls_required",
        }
    }

    fn words(self) -> (CloseCode, &'static str) {
        match self {
            Refusal::Full => (CloseCode::Overloaded, "the node has as many connections as it may"),
            Refusal::Stopping => (CloseCode::GoingAway, "the node stops"),
            Refusal::RateLimited => (CloseCode::RateLimited, "this address opens connections too fast"),
            Refusal::Requests => (CloseCode::Overloaded, "too many requests are under way"),
            Refusal::TlsRequired => {
                (CloseCode::TlsRequired, "connect with TLS: plain connections are not served here")
            }
        }
    }
}

/// Tells a connection why it is not served, and when to come back if that helps, and closes it.
pub(crate) async fn refuse(connection: Connection, why: Refusal) {
    let Connection { reader, mut writer, .. } = connection;
    let (code, reason) = why.words();
    let framing = writer.framing();
    let mut notice = code.notice(reason);
    if code.advice() == Advice::Resume {
        notice.reconnect_after_ms = rand::random_range(1_000..5_000);
    }
    let notice = Dialect::Protobuf.encode_down(&DownFrame::new(0, DownBody::Close(notice)));
    let number = u16::try_from(code.number()).unwrap_or(1013);
    let close = framing.close(number, reason).unwrap_or_default();
    let told = async {
        writer.send(FrameKind::Binary, &notice).await?;
        writer.write_all(&close).await
    };
    // A peer that is not told closes all the same.
    drop(timeout(CLOSE_DEADLINE, told).await);
    trunkline_transport::close(reader, writer, code.number(), reason, CLOSE_DEADLINE).await;
}
