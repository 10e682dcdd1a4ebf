//! A channel that a session is attached to: what keeps it attached, and from where a connection will read it.

use std::sync::Arc;

use trunkline_broker::{Attachment, Cursor, Log};

/// One attached channel. Dropping it detaches.
pub(crate) struct Attached {
    pub(crate) log: Arc<Log>,
    /// From where delivery begins once the engine says so; taken by the connection.
    pub(crate) cursor: Cursor,
    /// Whether the session is a member that others can see.
    pub(crate) present: bool,
    pub(crate) _attachment: Attachment,
}
