//! Protocol 0: what a seed client's session needs beside its [`crate::Engine`] (protocol.md section 5).
//!
//! The engine speaks protocol 1's frames; [`down_for_protocol0`] says them in words a seed client knows, and
//! [`Ledger`] numbers them at the connection's edge. Neither knows what a frame means for the session.

mod ledger;
mod translate;

pub use ledger::{Acked, Ledger, LedgerError, Replay};
pub use translate::{answers, down_for_protocol0, is_numbered, lost_publication};
