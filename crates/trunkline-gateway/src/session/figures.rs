//! What operators see of one session. GateSvr's fields keep their names; ours stand beside them.

use serde::Serialize;
use trunkline_session::Protocol;

use super::Session;
use crate::defaults;
use crate::gateway::Node;

/// Some of a node's sessions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SessionPage {
    /// How many sessions the node has.
    pub total: usize,
    /// These, by their ids.
    pub sessions: Vec<SessionFigures>,
    /// After which id the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// One session.
#[derive(Debug, Clone, Serialize)]
pub struct SessionFigures {
    /// Its id.
    pub session_id: String,
    /// When it began, in Unix seconds, as GateSvr has it.
    pub create_time: u64,
    /// When its client was last heard of, in Unix seconds.
    pub last_activity: u64,
    /// Frames that its client has not acked (protocol 0), or that wait to be written (protocol 1).
    pub pending_count: u64,
    /// What waits for its client.
    pub ordered_queue: QueueFigures,
    /// Its client's address, empty without a connection.
    pub remote_addr: String,
    /// Its user.
    pub user: String,
    /// Its device, empty where the client named none.
    pub device: String,
    /// Its platform, empty where the client named none.
    pub platform: String,
    /// `tcp`, `quic`, …; empty without a connection.
    pub transport: String,
    /// 0 for clients of GateSvr, 1 for ours.
    pub protocol: u32,
    /// Whether a connection holds it.
    pub connected: bool,
    /// Its calls that run.
    pub calls_running: u64,
    /// Channels that it is on.
    pub channels: u64,
}

/// What waits for a session's client. Only protocol 0 numbers frames: in protocol 1 the three numbers are 0.
#[derive(Debug, Clone, Serialize)]
pub struct QueueFigures {
    /// The session's id once more, as GateSvr has it.
    pub session_id: String,
    /// Frames that wait to be written.
    pub queue_size: u64,
    /// As the session's `pending_count`.
    pub pending_count: u64,
    /// From so many frames on the node reads nothing more from the client.
    pub max_queue_size: u64,
    /// The number that the next frame will have.
    pub next_expected_seq: u64,
    /// The highest number given out.
    pub last_sent_seq: u64,
    /// The highest number that the client has acked.
    pub last_acked_seq: u64,
    /// Whether nothing is written now, since no connection is there.
    pub stopped: bool,
}

impl Session {
    /// Takes the session's lock, then its connection's and its ledger's, one after the other.
    pub(crate) fn figures(&self, node: &Node) -> SessionFigures {
        let inner = self.inner.lock();
        let (protocol, heard_at) = (inner.engine.protocol(), inner.engine.heard_at());
        let channels = inner.engine.channels().count() as u64;
        let ledger = inner.ledger.clone();
        let handle = inner.link.as_ref().map(|link| std::sync::Arc::clone(&link.handle));
        drop(inner);
        let numbers = ledger.map(|ledger| {
            let ledger = ledger.lock();
            (ledger.highest().0, ledger.acked().0)
        });
        let queue_size = handle.as_ref().map_or(0, |handle| handle.queued().0);
        let pending_count = numbers.map_or(queue_size, |(sent, acked)| sent.saturating_sub(acked));
        let now = node.now();
        let silent = u64::try_from(now.at.saturating_sub(heard_at).as_millis()).unwrap_or(u64::MAX);
        let session_id = self.id.to_string();
        SessionFigures {
            create_time: self.created_ms / 1_000,
            last_activity: now.unix_ms.saturating_sub(silent) / 1_000,
            pending_count,
            ordered_queue: QueueFigures {
                session_id: session_id.clone(),
                queue_size,
                pending_count,
                max_queue_size: defaults::OUTBOX_FRAMES as u64,
                next_expected_seq: numbers.map_or(0, |(sent, _)| sent + 1),
                last_sent_seq: numbers.map_or(0, |(sent, _)| sent),
                last_acked_seq: numbers.map_or(0, |(_, acked)| acked),
                stopped: handle.is_none(),
            },
            remote_addr: handle.as_ref().map(|handle| handle.remote()).unwrap_or_default(),
            user: self.user.to_string(),
            device: self.device.to_string(),
            platform: self.platform.to_string(),
            transport: handle
                .as_ref()
                .map_or_else(String::new, |handle| handle.protocol().as_str().to_owned()),
            protocol: match protocol {
                Protocol::Seed => 0,
                Protocol::Trunkline => 1,
            },
            connected: handle.is_some(),
            calls_running: self.calling.load(std::sync::atomic::Ordering::Relaxed).into(),
            channels,
            session_id,
        }
    }
}
