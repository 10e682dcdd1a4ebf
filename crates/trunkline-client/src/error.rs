//! Why something a client wanted did not happen.

use std::time::Duration;

use trunkline_proto::ErrorCode;
use trunkline_proto::wire::ErrorMessage;

use crate::event::Closed;
use crate::race::Unreachable;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No endpoint could be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The gateway was reached and refused the START, or closed the connection before it answered.
    #[error("the gateway refused: {0}")]
    Refused(Closed),
    /// The gateway was reached and said nothing in time.
    #[error("the gateway does not answer START")]
    Silent,
}

/// Why a call or another request has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The gateway or the service answered with an error; it names a code of `docs/codes.md`.
    #[error("{} {}: {}", .0.error_code, .0.name, .0.error_message)]
    Refused(ErrorMessage),
    /// It may or may not have run, and it will not run again: the session that it belonged to is gone, or its
    /// reply has been forgotten.
    #[error("the result is unknown: {0}")]
    ResultUnknown(String),
    /// No answer in time. It may still run.
    #[error("no answer within {after:?}{}", last_word(.refused.as_ref()))]
    TimedOut {
        /// How long was waited.
        after: Duration,
        /// Why the gateway last refused the call for load; it was sent again, as often as there was time.
        refused: Option<ErrorMessage>,
    },
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Closed(Closed),
    /// The request is larger than the gateway takes.
    #[error("a frame of {size} bytes is over the gateway's limit of {limit}")]
    TooLarge {
        /// What it would be.
        size: usize,
        /// What the gateway said in START_RESP.
        limit: usize,
    },
}

/// What a caller should know of a call that was refused until its time was over.
fn last_word(refused: Option<&ErrorMessage>) -> String {
    refused.map_or_else(String::new, |error| {
        let ErrorMessage { error_code, name, error_message, .. } = error;
        format!("; the gateway last said {error_code} {name}: {error_message}")
    })
}

impl CallError {
    /// The error with the table's own word for it.
    pub(crate) fn from_message(message: ErrorMessage) -> Self {
        if message.name == ErrorCode::ResultUnknown.name() {
            CallError::ResultUnknown(message.error_message)
        } else {
            CallError::Refused(message)
        }
    }

    /// When the gateway wants to see it again, where it was refused for load.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Refused(error) if error.retry_after_ms > 0 => {
                Some(Duration::from_millis(u64::from(error.retry_after_ms)))
            }
            _ => None,
        }
    }
}
